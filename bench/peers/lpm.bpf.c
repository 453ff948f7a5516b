/* The kernel's LPM trie as a BPF program meets it: LOOKUPS lookups a run, over the addresses of the input.
 * `idle` does all but the lookups; the difference is what a lookup costs. Loaded by lpm.c. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "lpm.h"

struct key {
	__u32 len;
	__u32 address;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, TRIE_MAX);
	__type(key, struct key);
	__type(value, __u32);
} trie SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct state);
} states SEC(".maps");

SEC("xdp")
int lookup(struct xdp_md *context)
{
	__u32 zero = 0;
	struct state *state = bpf_map_lookup_elem(&states, &zero);
	if (!state)
		return XDP_ABORTED;
	__u32 at = state->at;
	__u64 found = 0;
	for (int i = 0; i < LOOKUPS; i++) {
		struct key key = { 32, state->remotes[(at + i) & (REMOTES - 1)] };
		found += bpf_map_lookup_elem(&trie, &key) != 0;
	}
	state->at = at + LOOKUPS;
	state->found += found;
	return XDP_PASS;
}

SEC("xdp")
int idle(struct xdp_md *context)
{
	__u32 zero = 0;
	struct state *state = bpf_map_lookup_elem(&states, &zero);
	if (!state)
		return XDP_ABORTED;
	__u32 at = state->at;
	__u64 found = 0;
	for (int i = 0; i < LOOKUPS; i++) {
		struct key key = { 32, state->remotes[(at + i) & (REMOTES - 1)] };
		asm volatile("" : : "r"(&key) : "memory");
		found += key.address != 0;
	}
	state->at = at + LOOKUPS;
	state->found += found;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
