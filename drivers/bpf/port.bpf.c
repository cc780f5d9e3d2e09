// SPDX-License-Identifier: GPL-2.0-only OR MIT OR Apache-2.0
//
// The XDP programs: `port` hands frames to AF_XDP sockets, `pass` and `drop` stand at the far end of a lab
// cable.
//
//   frame -> port -> ours?  -> socket of its receive queue     XDP_REDIRECT   redirected
//                          \-> no socket on that queue         XDP_PASS       no_socket
//                  not ours -> the kernel                      XDP_PASS       not_ours, malformed
//
// The loader writes the filter into read-only data before the verifier runs, so the verifier knows it as a
// constant and removes what is never reached: a port that is taken whole parses nothing.
//
// Headers are read from the first buffer only. That is enough for multi-buffer frames too: a driver fills
// whole buffers, and all that is read here ends within the first 102 bytes.

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define MAX_ENDPOINTS 8
#define MAX_VLAN_TAGS 2 // IEEE 802.1ad: a service tag and a customer tag
#define SOLICIT 135     // neighbour solicitation, RFC 4861 section 4.3
#define ADVERTISE 136   // neighbour advertisement, RFC 4861 section 4.4

// What became of a frame, and the index of its counter.
enum verdict {
	REDIRECTED,
	NO_SOCKET,
	NOT_OURS,
	MALFORMED,
	VERDICTS,
	OURS = REDIRECTED, // what a filter answers: redirected, if its queue has a socket
};

// An address and TCP port that are ours. IPv4 is kept as an IPv4-mapped IPv6 address (RFC 4291 section
// 2.5.5.2), which no packet on a wire carries, so one comparison serves both.
struct address {
	__be32 word[4];
};

struct endpoint {
	struct address address;
	__be16 port; // 0: every port
	__u16 own;   // the kernel does not have this address: neighbour discovery, ICMP and all ports are ours
};

const volatile __u32 endpoint_count = 0; // 0: the whole port is ours
const volatile struct endpoint endpoints[MAX_ENDPOINTS] = {};

// Receive queue -> AF_XDP socket. The loader sets the size to the number of queues.
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VERDICTS);
	__type(key, __u32);
	__type(value, __u64);
} verdicts SEC(".maps");

struct traffic {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct traffic);
} sunk SEC(".maps");

// The part of a frame that is still to be read.
struct cursor {
	void *at;
	void *end;
};

static __always_inline void *take(struct cursor *rest, __u32 size)
{
	void *header = rest->at;

	if (header + size > rest->end)
		return NULL;
	rest->at = header + size;
	return header;
}

static __always_inline bool same(const struct address *a, const volatile struct address *b)
{
	return a->word[3] == b->word[3] && a->word[2] == b->word[2] && a->word[1] == b->word[1] &&
	       a->word[0] == b->word[0];
}

static __always_inline struct address mapped(__be32 ipv4)
{
	return (struct address){ .word = { 0, 0, bpf_htonl(0xffff), ipv4 } };
}

static __always_inline struct address unmapped(const struct in6_addr *ipv6)
{
	const __be32 *word = ipv6->in6_u.u6_addr32;

	return (struct address){ .word = { word[0], word[1], word[2], word[3] } };
}

// Is this an address that only we have?
static __always_inline bool own(const struct address *address)
{
#pragma unroll
	for (__u32 i = 0; i < MAX_ENDPOINTS; i++)
		if (i < endpoint_count && endpoints[i].own && same(address, &endpoints[i].address))
			return true;
	return false;
}

static __always_inline enum verdict tcp(struct cursor *rest, const struct address *to)
{
	struct tcphdr *tcp = take(rest, sizeof(*tcp));

	if (!tcp)
		return MALFORMED;
#pragma unroll
	for (__u32 i = 0; i < MAX_ENDPOINTS; i++)
		if (i < endpoint_count && same(to, &endpoints[i].address) &&
		    (endpoints[i].own || !endpoints[i].port || tcp->dest == endpoints[i].port))
			return OURS;
	return NOT_OURS;
}

static __always_inline enum verdict ipv4(struct cursor *rest)
{
	struct iphdr *ip = take(rest, sizeof(*ip));

	if (!ip || ip->version != 4 || ip->ihl < 5 || !take(rest, ip->ihl * 4 - sizeof(*ip)))
		return MALFORMED;
	// A fragment other than the first has no ports. The first one is still ours: a kernel that saw all of
	// them would put the segment together, find nobody listening, and reset the connection.
	if (ip->frag_off & bpf_htons(0x1fff))
		return NOT_OURS;

	struct address to = mapped(ip->daddr);

	if (ip->protocol == IPPROTO_TCP)
		return tcp(rest, &to);
	if (ip->protocol == IPPROTO_ICMP && own(&to))
		return OURS;
	return NOT_OURS;
}

static __always_inline enum verdict icmpv6(struct cursor *rest, const struct address *to)
{
	struct {
		struct icmp6hdr icmp;
		struct in6_addr target;
	} *about;
	__u8 type;

	if (own(to))
		return OURS;
	// A solicitation goes to the multicast group of its target, ff02::1:ff00:0/104 (RFC 4291 section 2.7.1),
	// which the kernel's addresses may share; who has an address that we ask for tells all nodes, ff02::1
	// (RFC 4862 section 5.4.4). The target decides.
	if (to->word[0] != bpf_htonl(0xff020000) || to->word[1])
		return NOT_OURS;
	if (to->word[2] == bpf_htonl(1) && (to->word[3] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000))
		type = SOLICIT;
	else if (!to->word[2] && to->word[3] == bpf_htonl(1))
		type = ADVERTISE;
	else
		return NOT_OURS;
	about = take(rest, sizeof(*about));
	if (!about)
		return MALFORMED;

	struct address target = unmapped(&about->target);

	return about->icmp.icmp6_type == type && own(&target) ? OURS : NOT_OURS;
}

// Extension headers are left to the kernel: no host puts them before a TCP segment.
static __always_inline enum verdict ipv6(struct cursor *rest)
{
	struct ipv6hdr *ip = take(rest, sizeof(*ip));

	if (!ip || ip->version != 6)
		return MALFORMED;

	struct address to = unmapped(&ip->daddr);

	if (ip->nexthdr == IPPROTO_TCP)
		return tcp(rest, &to);
	if (ip->nexthdr == IPPROTO_ICMPV6)
		return icmpv6(rest, &to);
	return NOT_OURS;
}

// ARP for IPv4 over Ethernet (RFC 826). Replies name us as target too, except that to a probe, whose sender has no
// address yet; who uses an address of ours names it as the sender's (RFC 5227 section 2.4).
static __always_inline enum verdict arp(struct cursor *rest)
{
	struct {
		__be16 hardware, protocol;
		__u8 hardware_size, protocol_size;
		__be16 operation;
		__u8 sender_mac[ETH_ALEN];
		__be32 sender;
		__u8 target_mac[ETH_ALEN];
		__be32 target;
	} __attribute__((packed)) *arp = take(rest, sizeof(*arp));

	if (!arp)
		return MALFORMED;
	if (arp->protocol != bpf_htons(ETH_P_IP) || arp->hardware_size != ETH_ALEN || arp->protocol_size != 4)
		return NOT_OURS;

	struct address target = mapped(arp->target), sender = mapped(arp->sender);

	return own(&target) || own(&sender) ? OURS : NOT_OURS;
}

static __always_inline enum verdict classify(struct cursor rest)
{
	struct ethhdr *ethernet = take(&rest, sizeof(*ethernet));

	if (!ethernet)
		return MALFORMED;

	__u16 type = bpf_ntohs(ethernet->h_proto);

#pragma unroll
	for (int i = 0; i < MAX_VLAN_TAGS; i++) {
		struct {
			__be16 control, type;
		} *tag;

		if (type != ETH_P_8021Q && type != ETH_P_8021AD)
			break;
		tag = take(&rest, sizeof(*tag));
		if (!tag)
			return MALFORMED;
		type = bpf_ntohs(tag->type);
	}
	switch (type) {
	case ETH_P_IP:
		return ipv4(&rest);
	case ETH_P_IPV6:
		return ipv6(&rest);
	case ETH_P_ARP:
		return arp(&rest);
	default:
		return NOT_OURS;
	}
}

SEC("xdp.frags")
int port(struct xdp_md *frame)
{
	struct cursor all = { (void *)(long)frame->data, (void *)(long)frame->data_end };
	__u32 verdict = endpoint_count ? classify(all) : OURS;
	long action = XDP_PASS;

	if (verdict == OURS) {
		// The answer is XDP_PASS where the queue has no socket, so nothing is lost while queues come and go.
		action = bpf_redirect_map(&sockets, frame->rx_queue_index, XDP_PASS);
		verdict = action == XDP_REDIRECT ? REDIRECTED : NO_SOCKET;
	}

	__u64 *counter = bpf_map_lookup_elem(&verdicts, &verdict);

	if (counter)
		*counter += 1; // one per CPU, and XDP is not interrupted by XDP
	return action;
}

static __always_inline int sink(struct xdp_md *frame, int action)
{
	__u32 only = 0;
	struct traffic *traffic = bpf_map_lookup_elem(&sunk, &only);

	if (traffic) {
		traffic->packets += 1;
		traffic->bytes += bpf_xdp_get_buff_len(frame); // all buffers, not the first alone
	}
	return action;
}

SEC("xdp.frags")
int pass(struct xdp_md *frame)
{
	return sink(frame, XDP_PASS);
}

SEC("xdp.frags")
int drop(struct xdp_md *frame)
{
	return sink(frame, XDP_DROP);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
