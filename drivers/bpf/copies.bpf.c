// SPDX-License-Identifier: GPL-2.0-only OR MIT OR Apache-2.0
//
// The copy ledger: how many bytes the CPU copies inside the kernel on behalf of one process.
//
//   read, recv          _copy_to_iter                        kernel memory -> the caller's
//   write, send         _copy_from_iter, .._nocache,         the caller's -> kernel memory
//                       csum_and_copy_from_iter_full         the same, where no device adds the checksum
//   zero-copy undone    skb_copy_ubufs                       borrowed pages -> pages of the packet's own
//   AF_XDP, copy mode   skb_store_bits                       the arena -> a packet
//   packets             skb_copy_bits, .._and_csum_bits      a packet -> a straight piece of memory
//
// Only routines that copy themselves are here, never one that calls another of them: copy_page_to_iter calls
// _copy_to_iter, and __pskb_pull_tail calls skb_copy_bits, so their bytes would be counted twice. The copy primitive itself is no
// place to look: with fast short `rep movsb` it is inlined and never called.
//
// Each routine has two programs, and one of them is attached: by fentry; or, where that is refused, at a breakpoint of the processor's
// on the routine's first instruction (perf_event_open). The iterators are in lib/, which is compiled without the place that fentry and
// kprobes hang on (CC_FLAGS_FTRACE in lib/Makefile): fentry there is EBUSY, and a kprobe EINVAL ("notrace function",
// within_notrace_func in kernel/trace/trace_kprobe.c). All count at the entry, since a breakpoint knows no exit.
//
// Counted are the processes in `watched`; what interrupts do on the server's CPU while it has nothing else to run (process 0); and,
// whoever runs, packets at devices of the server's network namespace: acknowledgements make the client's CPU send them too.

#include <linux/bpf.h>
#include <linux/bpf_perf_event.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

// The order is that of HOOKS in src/observe/copies.rs.
enum hook {
	TO_ITER,
	FROM_ITER,
	FROM_ITER_NOCACHE,
	CSUM_FROM_ITER,
	COPY_UBUFS, // from here on, the first argument is the packet
	STORE_BITS,
	COPY_BITS,
	COPY_CSUM_BITS,
	HOOKS
};

const volatile __u32 idle_cpu = (__u32)-1; // whose idle time belongs to the server; none by default
const volatile __u32 network = 0; // the number of the server's network namespace; none by default
const volatile __u32 far_network = 0; // of the one where its packets arrive

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32); // tgid
	__type(value, __u8);
} watched SEC(".maps");

struct sum {
	__u64 calls;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HOOKS);
	__type(key, __u32);
	__type(value, struct sum);
} sums SEC(".maps");

// The fields that are read, found by name in the running kernel's own description of the type.
struct ns_common {
	unsigned int inum;
} __attribute__((preserve_access_index));

struct net {
	struct ns_common ns;
} __attribute__((preserve_access_index));

typedef struct {
	struct net *net;
} __attribute__((preserve_access_index)) possible_net_t;

struct net_device {
	possible_net_t nd_net;
} __attribute__((preserve_access_index));

struct sk_buff {
	struct net_device *dev;
	unsigned int data_len;
} __attribute__((preserve_access_index));

struct iov_iter {
	unsigned long count;
} __attribute__((preserve_access_index));

static __always_inline int in_network(__u32 hook, __u64 first)
{
	const struct sk_buff *packet = (const void *)first;
	__u32 number;

	if (hook < COPY_UBUFS || !network)
		return 0;
	number = BPF_CORE_READ(packet, dev, nd_net.net, ns.inum);
	// What the server lent is copied where the packet arrives (skb_orphan_frags_rx in net/core/dev.c).
	return number == network || (hook == COPY_UBUFS && number == far_network);
}

static __always_inline int count(__u32 hook, __u64 first, __u64 bytes)
{
	__u32 process = bpf_get_current_pid_tgid() >> 32;
	struct sum *sum;

	if (!bpf_map_lookup_elem(&watched, &process) &&
	    !(process == 0 && bpf_get_smp_processor_id() == idle_cpu) && !in_network(hook, first))
		return 0;
	sum = bpf_map_lookup_elem(&sums, &hook);
	if (sum) {
		// An interrupt on this CPU may count in between.
		__sync_fetch_and_add(&sum->calls, 1);
		__sync_fetch_and_add(&sum->bytes, bytes);
	}
	return 0;
}

// The two programs of a routine: `bytes` says what it is about to copy, by its first four arguments. An argument that `bytes` does not
// look at is not loaded, as the verifier wants it where the routine has fewer.
#define COUNT_AT(routine, name, hook, bytes)                                                                           \
	SEC("fentry/" #routine)                                                                                        \
	int name##_fentry(__u64 *arguments)                                                                            \
	{                                                                                                              \
		return count(hook, arguments[0], bytes(arguments[0], arguments[1], arguments[2], arguments[3]));       \
	}                                                                                                              \
	SEC("breakpoint/" #routine)                                                                                    \
	int name##_breakpoint(struct bpf_perf_event_data *event)                                                       \
	{                                                                                                              \
		return count(hook, PT_REGS_PARM1(&event->regs),                                                        \
			     bytes(PT_REGS_PARM1(&event->regs), PT_REGS_PARM2(&event->regs),                           \
				   PT_REGS_PARM3(&event->regs), PT_REGS_PARM4(&event->regs)));                         \
	}

#define ARGUMENTS                                                                                                      \
	__u64 first __attribute__((unused)), __u64 second __attribute__((unused)),                                     \
		__u64 third __attribute__((unused)), __u64 fourth __attribute__((unused))

// (memory, bytes, iterator): no more than the iterator has room for.
static __always_inline __u64 of_iterator(ARGUMENTS)
{
	__u64 room = BPF_CORE_READ((const struct iov_iter *)third, count);

	return second < room ? second : room;
}

// (to, bytes, ..): all of them, or none when it fails.
static __always_inline __u64 of_second(ARGUMENTS)
{
	return second;
}

// (skb, ..): all that is not in its straight part.
static __always_inline __u64 of_fragments(ARGUMENTS)
{
	return BPF_CORE_READ((const struct sk_buff *)first, data_len);
}

// (skb, offset, memory, length)
static __always_inline __u64 of_fourth(ARGUMENTS)
{
	int length = fourth;

	return length > 0 ? length : 0;
}

COUNT_AT(_copy_to_iter, to_iter, TO_ITER, of_iterator)
COUNT_AT(_copy_from_iter, from_iter, FROM_ITER, of_iterator)
COUNT_AT(_copy_from_iter_nocache, from_iter_nocache, FROM_ITER_NOCACHE, of_iterator)
COUNT_AT(csum_and_copy_from_iter_full, csum_from_iter, CSUM_FROM_ITER, of_second)
COUNT_AT(skb_copy_ubufs, copy_ubufs, COPY_UBUFS, of_fragments)
COUNT_AT(skb_store_bits, store_bits, STORE_BITS, of_fourth)
COUNT_AT(skb_copy_bits, copy_bits, COPY_BITS, of_fourth)
COUNT_AT(skb_copy_and_csum_bits, copy_csum_bits, COPY_CSUM_BITS, of_fourth)

char LICENSE[] SEC("license") = "Dual MIT/GPL";
