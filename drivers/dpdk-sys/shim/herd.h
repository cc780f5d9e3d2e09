/* One arena's frames as DPDK knows them. */
#ifndef RINGWAY_HERD_H
#define RINGWAY_HERD_H

#include "ringway_dpdk.h"
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_spinlock.h>

/* Where mbufs rest while neither a device nor Ringway has them, on top of what lies in the mempool's cache: that is DPDK's
 * own, one a thread, and is reached without a call from a driver.
 *
 * The thread that owns the herd uses `own` without a lock. Others (the one that starts a device, and whoever takes a
 * frame out of an in-memory ring) use `side` under the lock; the owner moves that over now and then.
 */
struct rwd_stack {
	const void *owner;
	uint32_t count;
	uint32_t capacity;
	void **own;
	rte_spinlock_t lock;
	uint32_t side_count;
	void **side;
};

struct rwd_herd {
	char *base;
	struct rte_mbuf *frames;	/* one for each slot, in their order */
	struct rte_mbuf *pages;
	struct rte_mempool *pool;
	struct rte_mempool *page_pool;
	struct rte_mempool *copies;	/* a device that wants mbufs of its own kind fills these */
	uint32_t shift;
	bool physical;
	struct rwd_stack rest;
	struct rwd_stack page_rest;	/* pages that were sent */
	struct rte_mbuf **page_free;	/* and mbufs for further ones */
	uint32_t page_free_count;
};

/* No two threads have the same. Its place is known when the program starts (initial-exec): otherwise position-independent code
 * asks a function for it, which costs each frame that is freed as much again. */
static inline const void *rwd_self(void)
{
	extern __thread char rwd_thread __attribute__((tls_model("initial-exec")));

	return &rwd_thread;
}

#endif
