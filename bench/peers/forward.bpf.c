/* Frames that arrive at an interface without anything having sent them: the kernel runs this on live frames
 * (BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES) and receives what it passes. Every frame is written anew, because
 * the kernel uses a frame again in the state its forwarding left it. Loaded by compare/flows/kernel.rs. */
#include "bpf.h"

#define WORDS 8

/* `port` is the offset of the 16-bit field, a port in network order, that tells the flows apart. */
struct order {
	__u64 frame[WORDS];
	__u32 flows;
	__u32 first;
	__u32 next;
	__u32 port;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct order);
} orders SEC(".maps");

SEC("xdp")
int arrive(struct xdp_md *context)
{
	__u32 zero = 0;
	struct order *order = bpf_map_lookup_elem(&orders, &zero);
	__u64 *frame = (void *)(long)context->data;
	if (!order || (void *)(frame + WORDS) > (void *)(long)context->data_end)
		return XDP_ABORTED;
	for (int i = 0; i < WORDS; i++)
		frame[i] = order->frame[i];
	__u32 next = order->next + 1 < order->flows ? order->next + 1 : 0;
	order->next = next;
	__u16 port = __builtin_bswap16(order->first + next);
	if (order->port == 36)
		*(__u16 *)((char *)frame + 36) = port;
	else
		*(__u16 *)((char *)frame + 34) = port;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
