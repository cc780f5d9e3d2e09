/* One queue pair: bursts of mbufs on one side, of descriptors on the other. */
#include "herd.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <rte_ethdev.h>

/* So many flushes in a row that move nothing, some milliseconds of polling at least: the packet in front is given up, since
 * a device that refuses it for ever looks just the same as a ring that is full. */
#define PATIENCE (1u << 16)

/* What src/shim.rs says of an mbuf (Mbuf): the hot halves read and write these fields of its first line, as vector drivers of
 * DPDK's do. */
#define AT(field, offset, bytes)                                                                            \
	_Static_assert(offsetof(struct rte_mbuf, field) == (offset) &&                                      \
		       sizeof(((struct rte_mbuf *)0)->field) == (bytes), "rte_mbuf." #field " lies elsewhere in this DPDK")
AT(buf_addr, 0, 8);
AT(data_off, 16, 2);
AT(refcnt, 18, 2);
AT(nb_segs, 20, 2);
AT(ol_flags, 24, 8);
AT(pkt_len, 36, 4);
AT(data_len, 40, 2);
AT(rearm_data, 16, 0);
_Static_assert(sizeof(struct rte_mbuf) == 128, "rte_mbuf has another size in this DPDK");
_Static_assert(RWD_NOT_PLAIN == (RTE_MBUF_F_INDIRECT | RTE_MBUF_F_EXTERNAL | RTE_MBUF_F_RX_LRO | RTE_MBUF_F_RX_L4_CKSUM_BAD),
	       "flags of rte_mbuf have other numbers in this DPDK");

struct rwd_queue {
	struct rwd_herd *herd;
	uint16_t port;
	uint16_t queue;
	uint16_t rx_at;		/* received, and not handed on yet: from here .. */
	uint16_t rx_count;	/* .. to here */
	uint16_t tx_count;	/* packets that the device has not taken yet */
	bool tx_undone;		/* something is left to the device in one of them */
	uint32_t patience;	/* flushes in a row that moved nothing */
	uint64_t malformed;
	uint64_t refused;
	struct rte_mbuf *rx[RWD_BURST];
	struct rte_mbuf *tx[RWD_BURST];
};

struct rwd_queue *rwd_queue_new(struct rwd_herd *herd, uint16_t port, uint16_t queue)
{
	struct rwd_queue *q = calloc(1, sizeof(*q));

	if (q) {
		q->herd = herd;
		q->port = port;
		q->queue = queue;
	}
	return q;
}

/* While its device is open: what it has received may be of a herd that goes with the last device. */
void rwd_queue_free(struct rwd_queue *q)
{
	rte_pktmbuf_free_bulk(&q->rx[q->rx_at], q->rx_count - q->rx_at);
	rte_pktmbuf_free_bulk(q->tx, q->tx_count);
	free(q);
}

uint64_t rwd_malformed(const struct rwd_queue *q)
{
	return q->malformed;
}

uint64_t rwd_refused(const struct rwd_queue *q)
{
	return q->refused;
}

static inline void describe(const struct rwd_herd *herd, const struct rte_mbuf *mbuf, struct rwd_descriptor *out,
			    uint32_t options)
{
	out->offset = (uint64_t)((char *)mbuf->buf_addr - herd->base) + mbuf->data_off;
	out->len = mbuf->data_len;
	out->options = options;
}

static inline uint32_t options_of(const struct rte_mbuf *mbuf)
{
	const uint64_t undone = RTE_MBUF_F_RX_LRO | RTE_MBUF_F_RX_L4_CKSUM_MASK;
	uint32_t options = 0;

	if (likely((mbuf->ol_flags & undone) == 0))
		return 0;
	if (mbuf->ol_flags & RTE_MBUF_F_RX_LRO)
		options = RWD_UNCUT | (uint32_t)mbuf->tso_segsz << RWD_SEGMENT_SHIFT;
	/* Both bits: nobody has looked at a sum that is not there yet (virtio's NEEDS_CSUM). */
	if ((mbuf->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) == RTE_MBUF_F_RX_L4_CKSUM_NONE)
		options |= RWD_UNCHECKED;
	return options;
}

/* A packet in several mbufs, or none: where it goes on; or NULL when it does not fit. */
static struct rwd_descriptor *describe_chain(struct rwd_queue *q, struct rte_mbuf *mbuf, struct rwd_descriptor *out,
					     const struct rwd_descriptor *end)
{
	uint32_t options = options_of(mbuf);

	if (mbuf->nb_segs > end - out)
		return NULL;
	for (struct rte_mbuf *next; mbuf; mbuf = next) {
		next = mbuf->next;
		describe(q->herd, mbuf, out++, options | (next ? RWD_CONTINUES : 0));
		options = 0;
		mbuf->next = NULL;
		mbuf->nb_segs = 1;
	}
	return out;
}

/* Whether Ringway's own frames make up the packet: each whole, held by nobody else, and not empty. */
static bool is_ours(const struct rwd_queue *q, const struct rte_mbuf *mbuf)
{
	uint32_t seen = 0;

	for (; mbuf; mbuf = mbuf->next, seen++) {
		if (mbuf->pool != q->herd->pool || mbuf->data_len == 0 || rte_mbuf_refcnt_read(mbuf) != 1 ||
		    !RTE_MBUF_DIRECT(mbuf))
			return false;
	}
	return seen <= RWD_BURST;
}

/* Asks the device for packets, unless there are some left: how many of them can be had now, at most so many, and where. The
 * hot half of receiving is in Rust (drivers/src/dpdk/mbuf.rs): what is plain it takes off the front (rwd_took), and rwd_receive
 * has the rest. */
uint32_t rwd_poll(struct rwd_queue *q, uint32_t room, struct rte_mbuf *const **first)
{
	if (q->rx_at == q->rx_count) {
		q->rx_at = 0;
		q->rx_count = rte_eth_rx_burst(q->port, q->queue, q->rx, RTE_MIN(room, (uint32_t)RWD_BURST));
	}
	*first = &q->rx[q->rx_at];
	return RTE_MIN((uint32_t)(q->rx_count - q->rx_at), room);
}

void rwd_took(struct rwd_queue *q, uint32_t count)
{
	q->rx_at += count;
}

/* Fills `out` with whole packets in Ringway's own frames of those that were polled, up to the first that is not in them
 * (rwd_foreign). */
uint32_t rwd_receive(struct rwd_queue *q, struct rwd_descriptor *out, uint32_t room)
{
	struct rwd_descriptor *const begin = out, *const end = out + room;

	while (q->rx_at < q->rx_count && out < end) {
		struct rte_mbuf *mbuf = q->rx[q->rx_at];

		if (is_ours(q, mbuf)) {
			struct rwd_descriptor *next = describe_chain(q, mbuf, out, end);

			if (!next)
				break;
			out = next;
		} else if (mbuf->pkt_len == 0) {
			q->malformed++;
			rte_pktmbuf_free(mbuf);
		} else {
			break;
		}
		q->rx_at++;
	}
	return out - begin;
}

/* The packet in front, if it is not in Ringway's frames: how many bytes it has, and what is undone in it. */
uint32_t rwd_foreign(const struct rwd_queue *q, uint32_t *options)
{
	const struct rte_mbuf *mbuf;

	if (q->rx_at == q->rx_count)
		return 0;
	mbuf = q->rx[q->rx_at];
	if (is_ours(q, mbuf))
		return 0;
	*options = options_of(mbuf);
	return mbuf->pkt_len;
}

/* Copies from it: the only place where the shim copies content. */
void rwd_foreign_read(const struct rwd_queue *q, uint32_t from, void *to, uint32_t bytes)
{
	const void *found = rte_pktmbuf_read(q->rx[q->rx_at], from, bytes, to);

	if (found && found != to)
		memcpy(to, found, bytes);
}

void rwd_foreign_drop(struct rwd_queue *q)
{
	rte_pktmbuf_free(q->rx[q->rx_at++]);
}

/* What vector drivers write in one piece (rearm_data): where the bytes begin, one holder, one segment, which port. */
static inline uint64_t rearm_of(const struct rte_mbuf *mbuf)
{
	uint64_t rearm;

	memcpy(&rearm, (const char *)mbuf + offsetof(struct rte_mbuf, rearm_data), sizeof(rearm));
	return rearm;
}

/* As a device fills a frame of ours, with nothing undone; of the fields that it leaves alike in all of them one comparison is
 * made. */
static inline bool is_plain(const struct rte_mbuf *mbuf, const struct rte_mempool *pool, uint64_t rearm)
{
	return rearm_of(mbuf) == rearm && !(mbuf->ol_flags & RWD_NOT_PLAIN) && mbuf->pool == pool;
}

/* How many at the front are so, and of so many bytes at least and at most; and their bytes. */
static uint32_t alike(struct rte_mbuf *const *rx, uint32_t count, const struct rte_mempool *pool, uint32_t shortest,
		      uint32_t longest, uint64_t *bytes)
{
	struct rte_mbuf *const *at = rx, *const *const end = rx + count;
	const uint32_t span = longest - shortest;
	uint64_t rearm, sum = 0;

	if (rx[0]->data_off != RTE_PKTMBUF_HEADROOM || rte_mbuf_refcnt_read(rx[0]) != 1 || rx[0]->nb_segs != 1)
		return 0;
	rearm = rearm_of(rx[0]);
	/* By fours, so that the loop's own steps are shared. */
#pragma GCC unroll 4
	for (; at != end; at++) {
		const uint64_t len = (*at)->data_len;

		if (unlikely(!is_plain(*at, pool, rearm)) || unlikely((uint32_t)len - shortest > span))
			break;
		sum += len;
	}
	*bytes = sum;
	return at - rx;
}

/* Hands packets that one device has received straight to another, which sends the very mbufs: up to the first that is not plain,
 * or not of so many bytes. What it has no room for waits there, as after rwd_flush; the caller has seen that nothing waits, and
 * that both queues are of one herd. Returns how many went, and their bytes. */
uint32_t rwd_pass(struct rwd_queue *from, struct rwd_queue *to, uint32_t shortest, uint32_t longest, uint64_t *bytes)
{
	struct rte_mbuf **rx;
	uint32_t count;
	uint16_t sent;

	*bytes = 0;
	if (from->rx_at == from->rx_count) {
		from->rx_at = 0;
		from->rx_count = rte_eth_rx_burst(from->port, from->queue, from->rx, RWD_BURST);
		if (from->rx_count == 0)
			return 0;
	}
	/* A buffer ends with its slot, and begins where rwd_herd_new lets it. */
	longest = RTE_MIN(longest, (uint32_t)(rte_pktmbuf_data_room_size(from->herd->pool) - RTE_PKTMBUF_HEADROOM));
	if (longest < shortest)
		return 0;
	rx = &from->rx[from->rx_at];
	count = alike(rx, from->rx_count - from->rx_at, from->herd->pool, shortest, longest, bytes);
	if (count == 0)
		return 0;
	from->rx_at += count;
	sent = rte_eth_tx_burst(to->port, to->queue, rx, count);
	if (likely(sent == count))
		return count;
	to->patience = 0;
	to->tx_count = count - sent;
	memcpy(to->tx, &rx[sent], to->tx_count * sizeof(rx[0]));
	return count;
}

/* Received, and not handed on. */
uint32_t rwd_left(const struct rwd_queue *q)
{
	return q->rx_count - q->rx_at;
}

/* Packets that the device has not taken yet. */
uint32_t rwd_waiting(const struct rwd_queue *q)
{
	return q->tx_count;
}

/* Where packets are laid down for the device: so many pointers from here on, and rwd_flush is told of how many there are
 * more. Called while none waits. */
struct rte_mbuf **rwd_places(struct rwd_queue *q)
{
	return q->tx;
}

/* Lets the buffer of a frame's mbuf begin where its slot does, for data in front of the buffer's first byte. */
void rwd_widen(const struct rwd_herd *herd, struct rte_mbuf *mbuf, uint64_t offset)
{
	mbuf->buf_addr = herd->base + (offset >> herd->shift << herd->shift);
	mbuf->buf_len = 1u << herd->shift;
	rte_mbuf_iova_set(mbuf, herd->physical ? rte_mem_virt2iova(mbuf->buf_addr) : (rte_iova_t)(uintptr_t)mbuf->buf_addr);
}

/* A frame's mbuf, as Rust's hot half does it too (Mbuf::carry). */
static inline struct rte_mbuf *ready(const struct rwd_herd *herd, const struct rwd_descriptor *frame)
{
	struct rte_mbuf *mbuf = &herd->frames[frame->offset >> herd->shift];
	const char *data = herd->base + frame->offset;

	if (unlikely(data < (const char *)mbuf->buf_addr))
		rwd_widen(herd, mbuf, frame->offset);
	mbuf->data_off = data - (const char *)mbuf->buf_addr;
	mbuf->ol_flags = 0;
	mbuf->pkt_len = frame->len;
	mbuf->data_len = frame->len;
	return mbuf;
}

static struct rte_mbuf *ready_page(struct rwd_herd *herd, const struct rwd_descriptor *page)
{
	struct rte_mbuf *mbuf = herd->page_free[--herd->page_free_count];

	mbuf->buf_addr = herd->base + page->offset;
	mbuf->buf_len = page->len;
	rte_mbuf_iova_set(mbuf, herd->physical ? rte_mem_virt2iova(mbuf->buf_addr) : (rte_iova_t)(uintptr_t)mbuf->buf_addr);
	mbuf->data_off = 0;
	mbuf->ol_flags = 0;
	mbuf->data_len = page->len;
	return mbuf;
}

/* Lays one packet down: frames and pages in their order, and what is left to the device. As above for the room, and for
 * that of pages (rwd_herd_page_room). */
void rwd_push(struct rwd_queue *q, const struct rwd_descriptor *parts, uint32_t count, const struct rwd_offload *offload)
{
	struct rwd_herd *herd = q->herd;
	struct rte_mbuf *head = ready(herd, &parts[0]), *last = head;
	const size_t frames_end = (size_t)herd->rest.capacity << herd->shift;

	for (uint32_t i = 1; i < count; i++) {
		const bool page = parts[i].offset >= frames_end;
		struct rte_mbuf *mbuf = page ? ready_page(herd, &parts[i]) : ready(herd, &parts[i]);

		head->pkt_len += parts[i].len;
		last->next = mbuf;
		last = mbuf;
	}
	head->nb_segs = count;
	if (offload) {
		q->tx_undone = true;
		head->ol_flags |= offload->flags & RWD_TX_IPV4 ? RTE_MBUF_F_TX_IPV4 : RTE_MBUF_F_TX_IPV6;
		head->ol_flags |= offload->flags & RWD_TX_TCP ? RTE_MBUF_F_TX_TCP_CKSUM : RTE_MBUF_F_TX_UDP_CKSUM;
		if (offload->flags & RWD_TX_IP_CHECKSUM)
			head->ol_flags |= RTE_MBUF_F_TX_IP_CKSUM;
		if (offload->flags & RWD_TX_CUT)
			head->ol_flags |= RTE_MBUF_F_TX_TCP_SEG;
		head->tx_offload = 0;
		head->l2_len = offload->l2;
		head->l3_len = offload->l3;
		head->l4_len = offload->l4;
		head->tso_segsz = offload->segment;
	}
	q->tx[q->tx_count++] = head;
}

/* Hands what waits to the device, and so many more that lie behind (rwd_places); returns how many packets still wait. */
uint32_t rwd_flush(struct rwd_queue *q, uint32_t more)
{
	uint16_t fit, sent;

	q->tx_count += more;
	if (q->tx_count == 0)
		return 0;
	fit = q->tx_count;
	if (unlikely(q->tx_undone))
		fit = rte_eth_tx_prepare(q->port, q->queue, q->tx, q->tx_count);
	sent = rte_eth_tx_burst(q->port, q->queue, q->tx, fit);
	if (likely(sent == q->tx_count)) {
		q->tx_count = 0;
		q->tx_undone = false;
		return 0;
	}
	q->patience = sent ? 0 : q->patience + 1;
	/* It says of the next that it can never be sent; or says nothing, for too long. */
	if ((sent == fit && fit < q->tx_count) || q->patience == PATIENCE) {
		rte_pktmbuf_free(q->tx[sent++]);
		q->refused++;
		q->patience = 0;
	}
	q->tx_count -= sent;
	memmove(q->tx, &q->tx[sent], q->tx_count * sizeof(q->tx[0]));
	return q->tx_count;
}

/* Asks the device to free what it has sent, where it knows how: for quiet times. */
void rwd_tidy(struct rwd_queue *q)
{
	(void)rte_eth_tx_done_cleanup(q->port, q->queue, 0);
}

/* Whether the device still has the packet that was handed to it last. In a ring of so many descriptors its last one is just
 * behind the next to be filled, all the way round. For drivers that must not be asked to free (DpdkPort::tidies). */
bool rwd_sends(const struct rwd_queue *q, uint16_t ring)
{
	return rte_eth_tx_descriptor_status(q->port, q->queue, ring - 1) == RTE_ETH_TX_DESC_FULL;
}
