/* One arena's frames as DPDK knows them: see herd.h.
 *
 * Slot i has the mbuf frames[i] for ever, and its buffer is the slot. So a frame becomes an mbuf, and an mbuf a frame, by
 * a subtraction and a shift, and neither is copied. The pool is a mempool of ours (rte_mempool_register_ops): devices
 * allocate what they fill there, and free there what they have sent.
 */
#include "herd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_malloc.h>
#include <rte_memory.h>

__thread char rwd_thread __attribute__((tls_model("initial-exec")));

/* Herds of this thread. While it has any, DPDK knows it as one of its own, so that mempools have a cache for it. */
static __thread uint32_t herds;
static __thread bool joined;

static void thread_joins(void)
{
	if (herds++ == 0 && rte_lcore_id() == LCORE_ID_ANY && rte_thread_register() == 0)
		joined = true;
}

static void thread_leaves(void)
{
	if (--herds == 0 && joined) {
		joined = false;
		rte_thread_unregister();
	}
}

/* Mbufs that the cache holds at most half as many again of: a driver frees bursts into it, and takes bursts from it. It is a
 * little cheaper than our stack without it, which a driver reaches by a call (docs/measuring.md). */
#define CACHE 128

/* Slots are a power of two apart, so that what is read of each frame, its first line, would lie in few sets of a cache. So a
 * buffer begins up to three lines behind its slot: less than the headroom of a fresh frame of Ringway's. */
#define COLOURS 4

static int stack_alloc(struct rte_mempool *mp)
{
	mp->pool_data = mp->pool_config;
	return 0;
}

static void stack_free(struct rte_mempool *mp)
{
	mp->pool_data = NULL;
}

static int side_put(struct rwd_stack *stack, void *const *objects, unsigned int count)
{
	int done = -ENOBUFS;

	rte_spinlock_lock(&stack->lock);
	if (stack->side_count + count <= stack->capacity) {
		memcpy(&stack->side[stack->side_count], objects, count * sizeof(*objects));
		__atomic_store_n(&stack->side_count, stack->side_count + count, __ATOMIC_RELAXED);
		done = 0;
	}
	rte_spinlock_unlock(&stack->lock);
	return done;
}

static int side_take(struct rwd_stack *stack, void **objects, unsigned int count)
{
	int done = -ENOBUFS;

	rte_spinlock_lock(&stack->lock);
	if (stack->side_count >= count) {
		__atomic_store_n(&stack->side_count, stack->side_count - count, __ATOMIC_RELAXED);
		memcpy(objects, &stack->side[stack->side_count], count * sizeof(*objects));
		done = 0;
	}
	rte_spinlock_unlock(&stack->lock);
	return done;
}

static __rte_noinline int stack_put_many(struct rwd_stack *stack, void *const *objects, unsigned int count)
{
	if (unlikely(stack->owner != rwd_self()))
		return side_put(stack, objects, count);
	if (unlikely(stack->count + count > stack->capacity))
		return -ENOBUFS;
	memcpy(&stack->own[stack->count], objects, count * sizeof(*objects));
	stack->count += count;
	return 0;
}

/* Most drivers free what they have sent one by one (rte_pktmbuf_free): that is a dozen instructions without a frame of
 * their own, and everything else a call. */
static int stack_put(struct rte_mempool *mp, void *const *objects, unsigned int count)
{
	struct rwd_stack *stack = mp->pool_data;
	const uint32_t at = stack->count;

	if (unlikely(count != 1 || stack->owner != rwd_self() || at >= stack->capacity))
		return stack_put_many(stack, objects, count);
	stack->own[at] = objects[0];
	stack->count = at + 1;
	return 0;
}

static int stack_take(struct rte_mempool *mp, void **objects, unsigned int count)
{
	struct rwd_stack *stack = mp->pool_data;

	if (unlikely(stack->owner != rwd_self() || stack->count < count))
		return side_take(stack, objects, count);
	stack->count -= count;
	memcpy(objects, &stack->own[stack->count], count * sizeof(*objects));
	return 0;
}

static unsigned int stack_count(const struct rte_mempool *mp)
{
	const struct rwd_stack *stack = mp->pool_data;

	return stack->count + __atomic_load_n(&stack->side_count, __ATOMIC_RELAXED);
}

/* The memory is the arena, named so that a device can register it; the mbufs lie elsewhere, and come by rwd_herd_offer. */
static int stack_populate(struct rte_mempool *mp, unsigned int most, void *vaddr, rte_iova_t iova, size_t len,
			  rte_mempool_populate_obj_cb_t *put, void *argument)
{
	(void)mp, (void)vaddr, (void)iova, (void)len, (void)put, (void)argument;
	return most;
}

int rwd_register_ops(void)
{
	static const struct rte_mempool_ops ops = {
		.name = "ringway",
		.alloc = stack_alloc,
		.free = stack_free,
		.enqueue = stack_put,
		.dequeue = stack_take,
		.get_count = stack_count,
		.populate = stack_populate,
	};
	int index = rte_mempool_register_ops(&ops);

	return index < 0 ? index : 0;
}

static int stack_init(struct rwd_stack *stack, uint32_t capacity)
{
	stack->owner = rwd_self();
	stack->capacity = capacity;
	rte_spinlock_init(&stack->lock);
	stack->own = calloc(capacity, sizeof(void *));
	stack->side = calloc(capacity, sizeof(void *));
	return stack->own && stack->side ? 0 : -ENOMEM;
}

static struct rte_mempool *pool_over(struct rwd_stack *stack, char *base, size_t bytes, uint16_t room, uint32_t cache)
{
	static uint32_t number;
	char name[RTE_MEMPOOL_NAMESIZE];
	struct rte_pktmbuf_pool_private private = { .mbuf_data_room_size = room };
	struct rte_mempool *pool;

	snprintf(name, sizeof(name), "ringway%u", __atomic_fetch_add(&number, 1, __ATOMIC_RELAXED));
	pool = rte_mempool_create_empty(name, stack->capacity, sizeof(struct rte_mbuf),
					stack->capacity >= 8 * cache ? cache : 0, sizeof(private),
					SOCKET_ID_ANY, RTE_MEMPOOL_F_NO_IOVA_CONTIG);
	if (!pool)
		return NULL;
	if (rte_mempool_set_ops_byname(pool, "ringway", stack) == 0) {
		rte_pktmbuf_pool_init(pool, &private);
		if (rte_mempool_populate_iova(pool, base, rte_mem_virt2iova(base), bytes, NULL, NULL) > 0)
			return pool;
	}
	rte_mempool_free(pool);
	return NULL;
}

static void mbufs_init(struct rte_mbuf *mbufs, uint32_t count, struct rte_mempool *pool)
{
	for (uint32_t i = 0; i < count; i++) {
		mbufs[i].pool = pool;
		mbufs[i].nb_segs = 1;
		mbufs[i].port = RTE_MBUF_PORT_INVALID;
		rte_mbuf_refcnt_set(&mbufs[i], 1);
	}
}

struct rwd_herd *rwd_herd_new(void *base, size_t bytes, uint32_t frames, uint32_t shift, uint32_t pages)
{
	struct rwd_herd *herd = calloc(1, sizeof(*herd));
	const uint16_t room = (1u << shift) - (COLOURS - 1) * RTE_CACHE_LINE_SIZE;

	if (!herd)
		return NULL;
	thread_joins();
	herd->base = base;
	herd->shift = shift;
	herd->physical = rte_eal_iova_mode() == RTE_IOVA_PA;
	herd->frames = rte_zmalloc(NULL, (size_t)frames * sizeof(struct rte_mbuf), RTE_CACHE_LINE_SIZE);
	herd->pages = rte_zmalloc(NULL, ((size_t)pages + 1) * sizeof(struct rte_mbuf), RTE_CACHE_LINE_SIZE);
	herd->page_free = calloc((size_t)pages + 1, sizeof(*herd->page_free));
	if (!herd->frames || !herd->pages || !herd->page_free || stack_init(&herd->rest, frames) || stack_init(&herd->page_rest, pages + 1))
		goto failed;
	herd->pool = pool_over(&herd->rest, base, bytes, room, CACHE);
	herd->page_pool = pool_over(&herd->page_rest, base, bytes, room, 0);
	if (!herd->pool || !herd->page_pool)
		goto failed;
	mbufs_init(herd->frames, frames, herd->pool);
	for (uint32_t i = 0; i < frames; i++) {
		struct rte_mbuf *mbuf = &herd->frames[i];

		mbuf->buf_addr = herd->base + ((size_t)i << shift) + i % COLOURS * RTE_CACHE_LINE_SIZE;
		mbuf->buf_len = room;
		rte_mbuf_iova_set(mbuf, rte_mem_virt2iova(mbuf->buf_addr));
	}
	mbufs_init(herd->pages, pages, herd->page_pool);
	for (uint32_t i = 0; i < pages; i++)
		herd->page_free[i] = &herd->pages[i];
	herd->page_free_count = pages;
	return herd;

failed:
	rwd_herd_leave(herd);
	rwd_herd_free(herd);
	return NULL;
}

void rwd_herd_free(struct rwd_herd *herd)
{
	rte_mempool_free(herd->pool);
	rte_mempool_free(herd->page_pool);
	rte_mempool_free(herd->copies);
	rte_free(herd->frames);
	rte_free(herd->pages);
	free(herd->rest.own);
	free(herd->rest.side);
	free(herd->page_rest.own);
	free(herd->page_rest.side);
	free(herd->page_free);
	free(herd);
}

/* Gives the herd an ordinary pool too, once: for a device that looks for the data behind the mbuf, and not where the
 * mbuf says. */
int rwd_herd_copies(struct rwd_herd *herd, uint32_t mbufs, uint16_t room)
{
	static uint32_t number;
	char name[RTE_MEMPOOL_NAMESIZE];

	if (herd->copies)
		return 0;
	snprintf(name, sizeof(name), "ringway-copies%u", __atomic_fetch_add(&number, 1, __ATOMIC_RELAXED));
	herd->copies = rte_pktmbuf_pool_create(name, mbufs, 0, 0, room, SOCKET_ID_ANY);
	return herd->copies ? 0 : -rte_errno;
}

/* The mbufs of the slots, in their order. */
struct rte_mbuf *rwd_herd_frames(const struct rwd_herd *herd)
{
	return herd->frames;
}

/* The owner lets go: it has no cache any more. */
void rwd_herd_leave(struct rwd_herd *herd)
{
	rwd_herd_flush(herd);
	thread_leaves();
}

static struct rte_mempool_cache *cache_of(struct rte_mempool *pool)
{
	return pool ? rte_mempool_default_cache(pool, rte_lcore_id()) : NULL;
}

/* What lies in this thread's cache goes to rest with the others. */
void rwd_herd_flush(struct rwd_herd *herd)
{
	struct rte_mempool_cache *cache = cache_of(herd->pool);

	if (cache)
		rte_mempool_cache_flush(cache, herd->pool);
}

/* Frames that rest here. */
uint32_t rwd_herd_resting(const struct rwd_herd *herd)
{
	const struct rte_mempool_cache *cache = cache_of(herd->pool);

	return herd->rest.count + (cache ? cache->len : 0) + __atomic_load_n(&herd->rest.side_count, __ATOMIC_RELAXED);
}

static void gather_side(struct rwd_stack *stack)
{
	uint32_t moved;

	if (likely(__atomic_load_n(&stack->side_count, __ATOMIC_RELAXED) == 0))
		return;
	rte_spinlock_lock(&stack->lock);
	moved = RTE_MIN(stack->side_count, stack->capacity - stack->count);
	__atomic_store_n(&stack->side_count, stack->side_count - moved, __ATOMIC_RELAXED);
	memcpy(&stack->own[stack->count], &stack->side[stack->side_count], moved * sizeof(void *));
	stack->count += moved;
	rte_spinlock_unlock(&stack->lock);
}

/* Takes over what other threads have freed; returns how many frames rest here then. */
uint32_t rwd_herd_gather(struct rwd_herd *herd)
{
	gather_side(&herd->rest);
	gather_side(&herd->page_rest);
	return rwd_herd_resting(herd);
}

static struct rte_mbuf *frame_at(const struct rwd_herd *herd, uint64_t offset)
{
	return &herd->frames[offset >> herd->shift];
}

/* Lays empty frames down for devices. */
void rwd_herd_offer(struct rwd_herd *herd, const uint64_t *offsets, uint32_t count)
{
	struct rwd_stack *stack = &herd->rest;

	count = RTE_MIN(count, stack->capacity - stack->count);
	for (uint32_t i = 0; i < count; i++)
		stack->own[stack->count + i] = frame_at(herd, offsets[i]);
	stack->count += count;
}

/* The same, where another thread finds them too: the one that starts the device. */
void rwd_herd_reserve(struct rwd_herd *herd, const uint64_t *offsets, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		void *mbuf = frame_at(herd, offsets[i]);

		side_put(&herd->rest, &mbuf, 1);
	}
}

/* Takes frames back that no device has. */
uint32_t rwd_herd_take(struct rwd_herd *herd, uint64_t *offsets, uint32_t count)
{
	struct rwd_stack *stack = &herd->rest;

	if (stack->count < count)
		rwd_herd_flush(herd);
	count = RTE_MIN(count, stack->count);
	stack->count -= count;
	for (uint32_t i = 0; i < count; i++) {
		const struct rte_mbuf *mbuf = stack->own[stack->count + i];

		offsets[i] = (uint64_t)(mbuf - herd->frames) << herd->shift;
	}
	return count;
}

/* Pages that devices have sent and freed. */
uint32_t rwd_herd_pages(struct rwd_herd *herd, uint64_t *offsets, uint32_t count)
{
	struct rwd_stack *stack = &herd->page_rest;

	count = RTE_MIN(count, stack->count);
	stack->count -= count;
	for (uint32_t i = 0; i < count; i++) {
		struct rte_mbuf *mbuf = stack->own[stack->count + i];

		offsets[i] = (char *)mbuf->buf_addr - herd->base;
		herd->page_free[herd->page_free_count++] = mbuf;
	}
	return count;
}

/* Pages that can be sent now. */
uint32_t rwd_herd_page_room(const struct rwd_herd *herd)
{
	return herd->page_free_count;
}
