/* What Ringway calls of DPDK: opaque handles and bursts. The Rust side is src/lib.rs, declaration by declaration.
 *
 *   herd    one arena's frames as DPDK knows them: an rte_mbuf for each slot, and the pool that they rest in
 *   queue   one queue pair of a started device, over one herd
 *
 * Functions return 0 or a count, or a negative errno.
 */
#ifndef RINGWAY_DPDK_H
#define RINGWAY_DPDK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A burst, as ringbuf::BURST. */
#define RWD_BURST 64

/* As struct xdp_desc: where the first byte is in the arena, how many there are, and what else. */
struct rwd_descriptor {
	uint64_t offset;
	uint32_t len;
	uint32_t options;
};

/* Options of a descriptor. */
#define RWD_CONTINUES 1u	/* the packet goes on in the next one */
#define RWD_UNCHECKED 2u	/* the transport checksum is still to be completed */
#define RWD_UNCUT 4u		/* and the packet to be cut into segments of so many bytes: */
#define RWD_SEGMENT_SHIFT 16

/* What is left to the device in a packet that is sent. */
struct rwd_offload {
	uint32_t flags;		/* RWD_TX_* */
	uint16_t l2;		/* bytes of each header */
	uint16_t l3;
	uint16_t l4;
	uint16_t segment;	/* payload bytes of each segment */
};

#define RWD_TX_IPV4 1u
#define RWD_TX_IPV6 2u
#define RWD_TX_TCP 4u		/* the checksum is TCP's, else UDP's */
#define RWD_TX_CUT 8u
#define RWD_TX_IP_CHECKSUM 16u

/* What a device can do. */
#define RWD_CAN_CHAIN 1u
#define RWD_CAN_CHECKSUM 2u
#define RWD_CAN_IP_CHECKSUM 4u
#define RWD_CAN_CUT 8u
#define RWD_CAN_SCATTER 16u

struct rwd_facts {
	uint64_t rss;		/* flow types that it can spread over queues */
	uint32_t can;		/* RWD_CAN_* */
	uint32_t max_packet;	/* bytes of the longest frame that it receives; 0: it does not say */
	uint16_t port;
	uint16_t max_queues;	/* queue pairs */
	uint16_t mtu;
	uint16_t max_mtu;
	uint16_t rx_ring;	/* what the device would like, or 0 */
	uint16_t tx_ring;
	uint16_t max_segments;	/* of a packet that is sent; 0: it does not say */
	uint8_t mac[6];
	char driver[32];
};

struct rwd_statistics {
	uint64_t missed;	/* no room in the receive ring, or no empty buffer */
	uint64_t malformed;
	uint64_t dropped;	/* taken by the device and not sent */
};

/* Flags of a received mbuf that is more than a frame: another's buffer, not cut yet, or a checksum that is bad or not there (of the two bits, both mean the
 * latter, and the other alone good). */
#define RWD_NOT_PLAIN (1ull << 62 | 1ull << 61 | 1ull << 16 | 1ull << 3)

struct rte_mbuf;
struct rwd_herd;
struct rwd_queue;

/* device.c */
int rwd_init(int argc, char **argv, void (*log)(uint32_t level, const char *text, size_t bytes));
const char *rwd_version(void);
void *rwd_memory(size_t bytes);
void rwd_memory_free(void *memory);
int rwd_device_open(const char *device, struct rwd_facts *facts);
int rwd_device_configure(uint16_t port, uint16_t queues, uint32_t use, uint64_t rss, uint16_t mtu);
int rwd_device_mtu(uint16_t port, uint16_t mtu);
int rwd_device_rings(uint16_t port, uint16_t *rx, uint16_t *tx);
int rwd_device_queue(uint16_t port, uint16_t queue, uint16_t rx, uint16_t tx, struct rwd_herd *herd, bool copies);
int rwd_device_start(uint16_t port, bool promiscuous);
bool rwd_device_name(uint32_t n, char name[64]);
void rwd_device_close(uint16_t port);
bool rwd_device_up(uint16_t port);
bool rwd_device_removed(uint16_t port);
int rwd_device_statistics(uint16_t port, struct rwd_statistics *statistics);

/* herd.c */
int rwd_register_ops(void);
struct rwd_herd *rwd_herd_new(void *base, size_t bytes, uint32_t frames, uint32_t shift, uint32_t pages);
void rwd_herd_free(struct rwd_herd *herd);
int rwd_herd_copies(struct rwd_herd *herd, uint32_t mbufs, uint16_t room);
struct rte_mbuf *rwd_herd_frames(const struct rwd_herd *herd);
uint32_t rwd_herd_resting(const struct rwd_herd *herd);
void rwd_herd_leave(struct rwd_herd *herd);
void rwd_herd_flush(struct rwd_herd *herd);
uint32_t rwd_herd_gather(struct rwd_herd *herd);
void rwd_herd_offer(struct rwd_herd *herd, const uint64_t *offsets, uint32_t count);
void rwd_herd_reserve(struct rwd_herd *herd, const uint64_t *offsets, uint32_t count);
uint32_t rwd_herd_take(struct rwd_herd *herd, uint64_t *offsets, uint32_t count);
uint32_t rwd_herd_pages(struct rwd_herd *herd, uint64_t *offsets, uint32_t count);
uint32_t rwd_herd_page_room(const struct rwd_herd *herd);

/* queue.c */
struct rwd_queue *rwd_queue_new(struct rwd_herd *herd, uint16_t port, uint16_t queue);
void rwd_queue_free(struct rwd_queue *queue);
uint32_t rwd_poll(struct rwd_queue *queue, uint32_t room, struct rte_mbuf *const **first);
void rwd_took(struct rwd_queue *queue, uint32_t count);
uint32_t rwd_receive(struct rwd_queue *queue, struct rwd_descriptor *out, uint32_t room);
uint32_t rwd_foreign(const struct rwd_queue *queue, uint32_t *options);
void rwd_foreign_read(const struct rwd_queue *queue, uint32_t from, void *to, uint32_t bytes);
void rwd_foreign_drop(struct rwd_queue *queue);
uint64_t rwd_malformed(const struct rwd_queue *queue);
uint64_t rwd_refused(const struct rwd_queue *queue);
uint32_t rwd_pass(struct rwd_queue *from, struct rwd_queue *to, uint32_t shortest, uint32_t longest, uint64_t *bytes);
uint32_t rwd_left(const struct rwd_queue *queue);
uint32_t rwd_waiting(const struct rwd_queue *queue);
struct rte_mbuf **rwd_places(struct rwd_queue *queue);
void rwd_widen(const struct rwd_herd *herd, struct rte_mbuf *mbuf, uint64_t offset);
void rwd_push(struct rwd_queue *queue, const struct rwd_descriptor *parts, uint32_t count, const struct rwd_offload *offload);
uint32_t rwd_flush(struct rwd_queue *queue, uint32_t more);
void rwd_tidy(struct rwd_queue *queue);
bool rwd_sends(const struct rwd_queue *queue, uint16_t ring);

#endif
