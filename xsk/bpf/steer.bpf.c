// SPDX-License-Identifier: Apache-2.0
// The steering program: which frames of the trunk and of the pods' veths go to which AF_XDP socket.
// Built by build.rs, loaded and fed by src/steering/. Promises: a frame of a branch or of a pod reaches its
// socket or is dropped, never the node's own stack; what user space cannot see in the bytes (which tag was
// removed here, whether a pod sent it) stands in the 4 metadata bytes before the frame, which nobody outside can
// write; every exit is counted. Failing half-way through a change always ends in a drop, so no half-changed frame
// gets out.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/types.h>

// What bpf_helpers.h of libbpf would give, so that building needs no libbpf.
#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name
#define inline_always static inline __attribute__((always_inline))
#define htons(value) __builtin_bswap16(value)
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "htons() above assumes a little-endian target"
#endif

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)BPF_FUNC_redirect_map;
static long (*bpf_xdp_adjust_head)(struct xdp_md *ctx, int delta) = (void *)BPF_FUNC_xdp_adjust_head;
static long (*bpf_xdp_adjust_meta)(struct xdp_md *ctx, int delta) = (void *)BPF_FUNC_xdp_adjust_meta;

#define VLAN_VID_MASK 0x0fff
#define VLAN_IDS 4096
#define TRUNK_QUEUES 256
// While a queue's reader is behind, a branch may have so many frames for each round of the reader (256 frames at most),
// and so many at once when it had fewer before.
#define FRAMES_A_ROUND 64
#define FRAMES_AT_ONCE 256
// Rounds for which a queue counts as shared after a frame of another branch than the one before.
#define SHARED_ROUNDS 65536
// Queues that share allowances only if there are more of them.
#define ALLOWANCE_QUEUES 64
#define NEXT_HEADER_ICMPV6 58
#define ND_FIRST 133 // router solicitation
#define ND_LAST 137  // redirect

// The indices of `counters`; src/steering/counters.rs has the same list in the same order.
enum counter {
	TRUNK_REDIRECTED,
	TRUNK_UNTAGGED_PASS,
	TRUNK_UNKNOWN_VLAN_PASS,
	TRUNK_SERVICE_TAG_PASS,
	TRUNK_MALFORMED_DROP,
	TRUNK_POP_FAILED_DROP,
	TRUNK_METADATA_DROP,
	TRUNK_NO_SOCKET_DROP,
	TRUNK_OVER_SHARE_DROP,
	POD_REDIRECTED_TAGGED,
	POD_REDIRECTED_UNTAGGED,
	POD_UNKNOWN_INTERFACE_DROP,
	POD_OTHER_QUEUE_DROP,
	POD_MALFORMED_DROP,
	POD_PUSH_FAILED_DROP,
	POD_METADATA_DROP,
	POD_NO_SOCKET_DROP,
	COUNTERS,
};

// The metadata, in host byte order; src/meta.rs reads it.
struct steer_meta {
	__u16 tci;
	__u16 flags;
};
#define META_POPPED 1 // trunk: the branch's tag was removed, tci is what it held
#define META_POD 2    // the frame came from a pod; tci is its branch's VLAN, whether the frame has its tag or not

struct pod {
	__u16 slot;
	__u16 vlan;
};

// An IPv6 address, or an IPv4 one as ::ffff:a.b.c.d.
struct address {
	__u32 word[4];
};

struct vlan_tag {
	__be16 tpid;
	__be16 tci;
};

// Two MAC addresses as three words: XDP data may be read unaligned on the targets the build supports.
struct mac_pair {
	__u32 word[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, VLAN_IDS);
} branch_vlans SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct address);
	__type(value, __u32);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} local_addresses SEC(".maps");

// By interface index. The loader sets the size of this one and of pod_sockets.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct pod);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} pods SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, TRUNK_QUEUES);
} trunk_sockets SEC(".maps");

// By queue of the trunk: 0, or the number of the round its reader is in while it is behind (src/steering/throttle.rs).
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, TRUNK_QUEUES);
	__uint(map_flags, BPF_F_MMAPABLE);
} trunk_rounds SEC(".maps");

struct company {
	__u32 vlan;
	__u32 until;
};

// By queue: whose frame came last while the reader was behind, and to which round the queue counts as shared.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct company);
	__uint(max_entries, TRUNK_QUEUES);
} companies SEC(".maps");

struct allowance {
	__u32 round;
	__u32 frames;
};

// By queue and VLAN. Not shared between processors: a queue is received on one at a time.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct allowance);
	__uint(max_entries, ALLOWANCE_QUEUES * VLAN_IDS);
} allowances SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1024);
} pod_sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, COUNTERS);
} counters SEC(".maps");

inline_always int leave(enum counter reason, int verdict)
{
	__u32 index = reason;
	__u64 *count = bpf_map_lookup_elem(&counters, &index);
	if (count)
		*count += 1;
	return verdict;
}

// Writes the metadata right before the frame. In-tree ENA drivers refuse: they leave no room for it.
inline_always int write_meta(struct xdp_md *ctx, __u16 tci, __u16 flags)
{
	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(struct steer_meta)))
		return -1;
	struct steer_meta *meta = (void *)(long)ctx->data_meta;
	if ((void *)(meta + 1) > (void *)(long)ctx->data)
		return -1;
	meta->tci = tci;
	meta->flags = flags;
	return 0;
}

// Removes the tag behind the MAC addresses by moving them up over it.
inline_always int pop_tag(struct xdp_md *ctx, const struct mac_pair *macs)
{
	if (bpf_xdp_adjust_head(ctx, sizeof(struct vlan_tag)))
		return -1;
	struct mac_pair *start = (void *)(long)ctx->data;
	if ((void *)(start + 1) > (void *)(long)ctx->data_end)
		return -1;
	*start = *macs;
	return 0;
}

// Puts a tag with priority 0 behind the MAC addresses.
inline_always int push_tag(struct xdp_md *ctx, const struct mac_pair *macs, __u16 vlan)
{
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(struct vlan_tag)))
		return -1;
	struct mac_pair *start = (void *)(long)ctx->data;
	struct vlan_tag *tag = (void *)(start + 1);
	if ((void *)(tag + 1) > (void *)(long)ctx->data_end)
		return -1;
	*start = *macs;
	tag->tpid = htons(ETH_P_8021Q);
	tag->tci = htons(vlan);
	return 0;
}

// Whether the branch has had its share of a queue whose reader is behind: without one, whoever sends the most would
// fill the ring, and the others would lose as large a part of what is theirs. A branch that is alone has all of it.
inline_always int is_over_share(__u32 queue, __u32 vlan)
{
	__u32 *round = bpf_map_lookup_elem(&trunk_rounds, &queue);
	if (!round || !*round)
		return 0;
	struct company *company = bpf_map_lookup_elem(&companies, &queue);
	if (!company)
		return 0;
	if (company->vlan != vlan) {
		if (company->vlan)
			company->until = *round + SHARED_ROUNDS;
		company->vlan = vlan;
	}
	if ((__s32)(company->until - *round) <= 0)
		return 0;
	__u32 index = queue % ALLOWANCE_QUEUES * VLAN_IDS + vlan;
	struct allowance *allowance = bpf_map_lookup_elem(&allowances, &index);
	if (!allowance)
		return 0;
	__u32 since = *round - allowance->round;
	if (since) {
		__u32 frames = FRAMES_AT_ONCE;
		if (since < FRAMES_AT_ONCE / FRAMES_A_ROUND)
			frames = allowance->frames + since * FRAMES_A_ROUND;
		allowance->frames = frames < FRAMES_AT_ONCE ? frames : FRAMES_AT_ONCE;
		allowance->round = *round;
	}
	if (!allowance->frames)
		return 1;
	allowance->frames--;
	return 0;
}

inline_always int is_local(const struct address *address)
{
	return bpf_map_lookup_elem(&local_addresses, address) != 0;
}

// Whether the switch wants the pod's frame without a tag: what it answers itself, what stays on the node, and
// what it will refuse. A tag of the pod's own gets ours before it, so that the first tag of a pod's frame is
// always ours: the switch tells by the frame, and refuses the second.
inline_always int stays_untagged(void *data, void *end)
{
	struct ethhdr *eth = data;
	struct address destination = {};

	if (eth->h_proto == htons(ETH_P_8021Q))
		return 0;
	if (eth->h_dest[0] & 1)
		return 1;
	if (eth->h_proto == htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);
		if ((void *)(ip + 1) > end)
			return 1;
		destination.word[2] = (__u32)htons(0xffff) << 16;
		destination.word[3] = ip->daddr;
		return is_local(&destination);
	}
	if (eth->h_proto == htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(eth + 1);
		if ((void *)(ip + 1) > end)
			return 1;
		if (ip->nexthdr == NEXT_HEADER_ICMPV6) {
			__u8 *type = (void *)(ip + 1);
			if ((void *)(type + 1) > end)
				return 1;
			if (*type >= ND_FIRST && *type <= ND_LAST)
				return 1;
		}
		__builtin_memcpy(&destination, &ip->daddr, sizeof(destination));
		return is_local(&destination);
	}
	return 1;
}

SEC("xdp.frags")
int steer_trunk(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return leave(TRUNK_MALFORMED_DROP, XDP_DROP);
	if (eth->h_proto == htons(ETH_P_8021AD))
		return leave(TRUNK_SERVICE_TAG_PASS, XDP_PASS);
	if (eth->h_proto != htons(ETH_P_8021Q))
		return leave(TRUNK_UNTAGGED_PASS, XDP_PASS);

	// The tag sits over the EtherType: TPID, TCI, then the EtherType of what is inside.
	struct vlan_tag *tag = (void *)&eth->h_proto;
	__be16 *inner = (void *)(tag + 1);
	if ((void *)(inner + 1) > end)
		return leave(TRUNK_MALFORMED_DROP, XDP_DROP);
	__u16 tci = htons(tag->tci);
	__u32 vlan = tci & VLAN_VID_MASK;
	if (vlan == 0)
		return leave(TRUNK_UNTAGGED_PASS, XDP_PASS);
	__u32 *branch = bpf_map_lookup_elem(&branch_vlans, &vlan);
	if (!branch || !*branch)
		return leave(TRUNK_UNKNOWN_VLAN_PASS, XDP_PASS);
	if (is_over_share(ctx->rx_queue_index, vlan))
		return leave(TRUNK_OVER_SHARE_DROP, XDP_DROP);

	struct mac_pair macs = *(struct mac_pair *)data;
	if (pop_tag(ctx, &macs))
		return leave(TRUNK_POP_FAILED_DROP, XDP_DROP);
	if (write_meta(ctx, tci, META_POPPED))
		return leave(TRUNK_METADATA_DROP, XDP_DROP);
	if (bpf_redirect_map(&trunk_sockets, ctx->rx_queue_index, XDP_DROP) != XDP_REDIRECT)
		return leave(TRUNK_NO_SOCKET_DROP, XDP_DROP);
	return leave(TRUNK_REDIRECTED, XDP_REDIRECT);
}

SEC("xdp.frags")
int steer_pod(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u32 interface = ctx->ingress_ifindex;

	struct pod *pod = bpf_map_lookup_elem(&pods, &interface);
	if (!pod)
		return leave(POD_UNKNOWN_INTERFACE_DROP, XDP_DROP);
	// A pod has one socket, on queue 0; the kernel would drop a redirect from another queue uncounted.
	if (ctx->rx_queue_index != 0)
		return leave(POD_OTHER_QUEUE_DROP, XDP_DROP);
	if (data + sizeof(struct ethhdr) > end)
		return leave(POD_MALFORMED_DROP, XDP_DROP);

	int untagged = stays_untagged(data, end);
	if (!untagged) {
		struct mac_pair macs = *(struct mac_pair *)data;
		if (push_tag(ctx, &macs, pod->vlan))
			return leave(POD_PUSH_FAILED_DROP, XDP_DROP);
	}
	if (write_meta(ctx, pod->vlan, META_POD))
		return leave(POD_METADATA_DROP, XDP_DROP);
	if (bpf_redirect_map(&pod_sockets, pod->slot, XDP_DROP) != XDP_REDIRECT)
		return leave(POD_NO_SOCKET_DROP, XDP_DROP);
	return leave(untagged ? POD_REDIRECTED_UNTAGGED : POD_REDIRECTED_TAGGED, XDP_REDIRECT);
}

char license_name[] SEC("license") = "Apache-2.0";
