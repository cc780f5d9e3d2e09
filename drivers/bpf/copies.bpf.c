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
// Each program may be left out by the loader, where the kernel has no such function. Counted are the processes in `watched`, and
// what interrupts do on the server's CPU while it has nothing else to run (process 0).

#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

// The order is that of HOOKS in src/observe/copies.rs.
enum hook {
	TO_ITER,
	FROM_ITER,
	FROM_ITER_NOCACHE,
	CSUM_FROM_ITER,
	COPY_UBUFS,
	STORE_BITS,
	COPY_BITS,
	COPY_CSUM_BITS,
	HOOKS
};

const volatile __u32 idle_cpu = (__u32)-1; // whose idle time belongs to the server; none by default

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

// The two fields that are read, found by name in the running kernel's own description of the type.
struct sk_buff {
	unsigned int len;
	unsigned int data_len;
} __attribute__((preserve_access_index));

static __always_inline int count(__u32 hook, __u64 bytes)
{
	__u32 process = bpf_get_current_pid_tgid() >> 32;
	struct sum *sum;

	if (!bpf_map_lookup_elem(&watched, &process) &&
	    !(process == 0 && bpf_get_smp_processor_id() == idle_cpu))
		return 0;
	sum = bpf_map_lookup_elem(&sums, &hook);
	if (sum) {
		// An interrupt on this CPU may count in between.
		__sync_fetch_and_add(&sum->calls, 1);
		__sync_fetch_and_add(&sum->bytes, bytes);
	}
	return 0;
}

// A program is given the routine's arguments one after another, and at the exit its result behind them.

// At the exit, since what was copied may be less than what was asked for.
SEC("fexit/_copy_to_iter")
int to_iter(__u64 *arguments)
{
	return count(TO_ITER, arguments[3]);
}

SEC("fexit/_copy_from_iter")
int from_iter(__u64 *arguments)
{
	return count(FROM_ITER, arguments[3]);
}

SEC("fexit/_copy_from_iter_nocache")
int from_iter_nocache(__u64 *arguments)
{
	return count(FROM_ITER_NOCACHE, arguments[3]);
}

// (to, bytes, ..): all of them, or none when it fails.
SEC("fentry/csum_and_copy_from_iter_full")
int csum_from_iter(__u64 *arguments)
{
	return count(CSUM_FROM_ITER, arguments[1]);
}

// (skb, ..): all that is not in its straight part.
SEC("fentry/skb_copy_ubufs")
int copy_ubufs(__u64 *arguments)
{
	const struct sk_buff *skb = (const void *)arguments[0];

	return count(COPY_UBUFS, skb->data_len);
}

static __always_inline __u64 length(__u64 argument)
{
	int length = argument;

	return length > 0 ? length : 0;
}

// (skb, offset, from, len)
SEC("fentry/skb_store_bits")
int store_bits(__u64 *arguments)
{
	return count(STORE_BITS, length(arguments[3]));
}

SEC("fentry/skb_copy_bits")
int copy_bits(__u64 *arguments)
{
	return count(COPY_BITS, length(arguments[3]));
}

SEC("fentry/skb_copy_and_csum_bits")
int copy_csum_bits(__u64 *arguments)
{
	return count(COPY_CSUM_BITS, length(arguments[3]));
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
