// SPDX-License-Identifier: Apache-2.0
// The VPC side of the trunk: takes the 802.1Q tag off a branch's frames and puts it back on, in the kernel.
// Loaded by `tc` onto the interfaces of the lab's VPC namespace (lab/src/fabric.rs). Interface indices carry the
// VLAN: the trunk's far end has TRUNK_INDEX, the device of branch v has TRUNK_INDEX + v.
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#define SEC(name) __attribute__((section(name), used))
#define TRUNK_INDEX 10000
#define VLAN_ID_MASK 0xfff
#define QUEUE_MASK 0xff

static long (*const skb_vlan_push)(struct __sk_buff *skb, __u16 protocol, __u16 tci) =
	(void *)BPF_FUNC_skb_vlan_push;
static long (*const skb_vlan_pop)(struct __sk_buff *skb) = (void *)BPF_FUNC_skb_vlan_pop;
static __u32 (*const hash_of)(struct __sk_buff *skb) = (void *)BPF_FUNC_get_hash_recalc;
static long (*const redirect)(__u32 index, __u64 flags) = (void *)BPF_FUNC_redirect;

// On the trunk's far end. The kernel has moved the tag into vlan_tci before tc runs. Untagged frames belong to the
// trunk ENI itself; a VLAN without a device is dropped by the failing redirect.
SEC("tc/from_trunk")
int from_trunk(struct __sk_buff *skb)
{
	__u32 vlan = skb->vlan_tci & VLAN_ID_MASK;

	if (!skb->vlan_present)
		return TC_ACT_OK;
	if (skb_vlan_pop(skb))
		return TC_ACT_SHOT;
	return redirect(TRUNK_INDEX + vlan, 0);
}

// On each branch's device: what the router sent to the branch leaves on the trunk with the branch's tag.
SEC("tc/to_trunk")
int to_trunk(struct __sk_buff *skb)
{
	// As RSS does: each flow on one queue. The kernel takes what is recorded here modulo the trunk's queues (skb_tx_hash),
	// and each transmit queue of a veth is the receive queue of that number at its other end. 0 would mean none.
	__u32 flow = hash_of(skb);

	if (skb_vlan_push(skb, __builtin_bswap16(0x8100), skb->ifindex - TRUNK_INDEX))
		return TC_ACT_SHOT;
	skb->queue_mapping = (flow & QUEUE_MASK) + 1;
	return redirect(TRUNK_INDEX, 0);
}

char _license[] SEC("license") = "Apache-2.0";
