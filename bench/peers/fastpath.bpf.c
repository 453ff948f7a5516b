/* A prototype of a short cut in XDP: frames of known flows go from the trunk straight to their pod's veth, without a
 * socket buffer and without the switch. It looks a flow up by addresses, ports, protocol and VLAN, counts it, takes the
 * tag off and writes the MACs. In place of the switch, which would judge them, new flows are let in here. It exists to be
 * measured (docs/decisions); loaded by compare/datapath/fastpath.rs, whose layouts must agree with these structures. */
#include "bpf.h"

#define MACS 12
/* Ethernet with a tag, IPv4 without options, ports. */
#define HEADERS (18 + 20 + 4)

struct key {
	__be32 source;
	__be32 destination;
	__be32 ports;
	__be16 vlan;
	__u16 protocol;
};

struct flow {
	__u64 packets;
	__u64 bytes;
	__u64 seen;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__type(key, struct key);
	__type(value, struct flow);
} flows SEC(".maps");

/* The MACs that a frame to the pod begins with. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32[3]);
} macs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} devices SEC(".maps");

SEC("xdp")
int shorten(struct xdp_md *context)
{
	__u8 *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	__u32 zero = 0;
	if (data + HEADERS > end || *(__be16 *)(data + 12) != HTONS(0x8100) || *(__be16 *)(data + 16) != HTONS(0x0800) ||
	    data[18] != 0x45)
		return XDP_PASS;
	struct key key = {
		.source = *(__be32 *)(data + 30),
		.destination = *(__be32 *)(data + 34),
		.ports = *(__be32 *)(data + 38),
		.vlan = *(__be16 *)(data + 14),
		.protocol = data[27],
	};
	struct flow *flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow) {
		struct flow fresh = {};
		bpf_map_update_elem(&flows, &key, &fresh, BPF_NOEXIST);
		flow = bpf_map_lookup_elem(&flows, &key);
		if (!flow)
			return XDP_DROP;
	}
	flow->packets += 1;
	flow->bytes += end - data;
	flow->seen = bpf_ktime_get_ns();
	__u32 *mac = bpf_map_lookup_elem(&macs, &zero);
	if (!mac || bpf_xdp_adjust_head(context, 4))
		return XDP_DROP;
	__u32 *head = (void *)(long)context->data;
	if ((void *)head + MACS > (void *)(long)context->data_end)
		return XDP_DROP;
	head[0] = mac[0];
	head[1] = mac[1];
	head[2] = mac[2];
	return bpf_redirect_map(&devices, 0, XDP_DROP);
}

char LICENSE[] SEC("license") = "GPL";
