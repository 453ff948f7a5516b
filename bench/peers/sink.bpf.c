/* The ends of `compare datapath`: `sink` counts and drops the load generator's frames of one run, with their age;
 * `hairpin` is the VPC's router for one pod's frames, which come back as another pod's. Everything else passes to the
 * kernel, so that ARP works. Loaded by compare/datapath/sink.rs, whose layouts must agree with these structures. */
#include <linux/pkt_cls.h>

#include "bpf.h"

#define VLAN_TPID HTONS(0x8100)
#define IPV4 HTONS(0x0800)
/* Ethernet, IPv4 without options, UDP: the stamp is behind them (pktgen/src/stamp.rs). */
#define STAMP 42
#define STAMP_BYTES 18
#define STAMP_MAGIC HTONS(0xe59a)
#define FORTY_BITS 0xffffffffffull
#define PER_OCTAVE_BITS 5
/* Frames between two looks at the clock, which costs as much as all the rest of this. */
#define STRIDE 64
#define BUCKETS 1024

/* Which run counts, and whether ages do. For `hairpin`: what frames become, in network order. */
struct order {
	__u32 run;
	__u32 ages;
	__be32 address;
	__be16 vlan;
	__u8 destination[6];
	__u8 source[6];
	__u16 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct order);
} orders SEC(".maps");

/* Of a run: frames; bytes; CLOCK_MONOTONIC when the first frame arrived; when the latest arrived that the clock was read for,
 * and how many had by then, without it; and one count for each age. */
enum { FRAMES, BYTES, FIRST, LATEST, BEFORE_LATEST, AGES };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, AGES + BUCKETS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

inline_always void add(__u32 index, __u64 number)
{
	__u64 *count = bpf_map_lookup_elem(&counts, &index);
	if (count)
		*count += number;
}

inline_always void set(__u32 index, __u64 number)
{
	__u64 *count = bpf_map_lookup_elem(&counts, &index);
	if (count)
		*count = number;
}

inline_always void count_frame(void)
{
	__u32 index = FRAMES;
	__u64 *frames = bpf_map_lookup_elem(&counts, &index);
	if (!frames)
		return;
	if (*frames % STRIDE == 0) {
		__u64 now = bpf_ktime_get_ns();
		if (*frames == 0)
			set(FIRST, now);
		set(LATEST, now);
		set(BEFORE_LATEST, *frames);
	}
	*frames += 1;
}

/* 2^PER_OCTAVE_BITS buckets to an octave, and one for each nanosecond below that number. */
inline_always __u32 bucket(__u64 age)
{
	__u32 shift = 0;
#pragma unroll
	for (int bit = 16; bit; bit >>= 1)
		if (age >> (shift + bit) >= 1 << PER_OCTAVE_BITS)
			shift += bit;
	__u64 index = (shift << PER_OCTAVE_BITS) + (age >> shift);
	return index < BUCKETS ? index : BUCKETS - 1;
}

/* At the traffic control ingress and not XDP: a veth copies a socket buffer before XDP may see it. The kernel has taken a
 * tag out of the frame by now. */
SEC("classifier")
int sink(struct __sk_buff *context)
{
	__u8 *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	__u32 zero = 0;
	struct order *order = bpf_map_lookup_elem(&orders, &zero);
	if (!order || data + STAMP + STAMP_BYTES > end)
		return TC_ACT_OK;
	if (*(__be16 *)(data + 12) != IPV4 || *(__be16 *)(data + STAMP) != STAMP_MAGIC)
		return TC_ACT_OK;
	if (data[STAMP + 2] != order->run)
		return TC_ACT_SHOT;
	count_frame();
	add(BYTES, context->len);
	if (order->ages) {
		__u64 sent = __builtin_bswap64(*(__u64 *)(data + STAMP + 8)) & FORTY_BITS;
		add(AGES + bucket((bpf_ktime_get_ns() - sent) & FORTY_BITS), 1);
	}
	return TC_ACT_SHOT;
}

inline_always void replace_sum(__be16 *sum, __u32 before, __u32 after)
{
	__u32 total = (__u16)~*sum;
	total += (__u16)~(before >> 16) + (__u16)~before + (after >> 16) + (after & 0xffff);
	total = (total & 0xffff) + (total >> 16);
	total = (total & 0xffff) + (total >> 16);
	*sum = ~total;
}

SEC("xdp")
int hairpin(struct xdp_md *context)
{
	__u8 *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	__u32 zero = 0;
	struct order *order = bpf_map_lookup_elem(&orders, &zero);
	if (!order || data + 4 + STAMP + STAMP_BYTES > end)
		return XDP_PASS;
	if (*(__be16 *)(data + 12) != VLAN_TPID || *(__be16 *)(data + 16) != IPV4 ||
	    *(__be16 *)(data + 4 + STAMP) != STAMP_MAGIC)
		return XDP_PASS;
	__builtin_memcpy(data, order->destination, 6);
	__builtin_memcpy(data + 6, order->source, 6);
	*(__be16 *)(data + 14) = order->vlan;
	__u32 before = *(__be32 *)(data + 34), after = order->address;
	*(__be32 *)(data + 34) = after;
	replace_sum((__be16 *)(data + 28), before, after);
	if (*(__be16 *)(data + 44))
		replace_sum((__be16 *)(data + 44), before, after);
	return XDP_TX;
}

char LICENSE[] SEC("license") = "GPL";
