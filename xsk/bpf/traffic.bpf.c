// SPDX-License-Identifier: Apache-2.0
// The two programs of the load generator, neither of which the switch uses. `intake` hands every frame of an
// interface to the AF_XDP socket of its queue. `emit` makes frames out of templates when the kernel runs it on live
// frames (BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES) and sends them out of the interface it is run for.
// Built by build.rs; loaded by src/intake.rs and src/live_frames.rs, whose layouts must agree with these structures.
#include <linux/bpf.h>
#include <linux/types.h>

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name
#define inline_always static inline __attribute__((always_inline))
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the byte swaps below assume a little-endian target"
#endif

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)BPF_FUNC_redirect_map;
static long (*bpf_xdp_adjust_tail)(struct xdp_md *ctx, int delta) = (void *)BPF_FUNC_xdp_adjust_tail;
static __u64 (*bpf_ktime_get_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;

#define TEMPLATE_WORDS 12
#define TEMPLATE_BYTES (TEMPLATE_WORDS * 8)
#define STAMP_BYTES 18
#define MAX_FRAME 3840
#define INTERVAL_SHIFT 16

// One kind of frame: `length` bytes of which the first TEMPLATE_BYTES are `words`, with the stamp at `stamp`.
struct frame_template {
	__u16 length;
	__u16 stamp;
	__u32 flow;
	__u64 words[TEMPLATE_WORDS];
};

// What is to be sent and how far it got. Times are CLOCK_MONOTONIC in ns; `due` and `interval` count
// 2^-INTERVAL_SHIFT ns, `due` from `start` on, which is the first turn: the kernel takes 10 ms and more to come to it. An
// interval of 0 is no limit. Nothing leaves once `length` ns are over; `last` is when the last frame was made.
struct control {
	__u64 start;
	__u64 due;
	__u64 interval;
	__u64 slack;
	__u64 next;
	__u64 end;
	__u64 mark;
	__u64 templates;
	__u64 bytes;
	__u64 failed;
	__u64 length;
	__u64 last;
};

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 256);
} sockets SEC(".maps");

// The loader sets the size.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct frame_template);
	__uint(max_entries, 1);
} templates SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct control);
	__uint(max_entries, 1);
} control SEC(".maps");

SEC("xdp.frags")
int intake(struct xdp_md *ctx)
{
	// A queue without a socket drops: what comes in is the load's, nothing for this host's stack.
	return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP);
}

inline_always __u32 word_sum(__u64 value)
{
	return (__u32)(value >> 48) + ((__u32)(value >> 32) & 0xffff) + ((__u32)(value >> 16) & 0xffff) +
	       ((__u32)value & 0xffff);
}

// The stamp: mark (24 bits), flow (24), sequence number (40), time (40), and 16 bits that make the one's complement
// sum of it all zero, so that the checksums of the template hold for every sequence number and time.
inline_always void write_stamp(__u8 *at, __u64 mark, __u32 flow, __u64 sequence, __u64 time)
{
	__u64 first = mark << 40 | (__u64)(flow & 0xffffff) << 16 | (sequence >> 24 & 0xffff);
	__u64 second = sequence << 40 | (time & 0xffffffffff);
	__u32 sum = word_sum(first) + word_sum(second);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*(__u64 *)at = __builtin_bswap64(first);
	*(__u64 *)(at + 8) = __builtin_bswap64(second);
	*(__u16 *)(at + 16) = __builtin_bswap16(~sum & 0xffff);
}

// True when the next frame's time has come. A sender that fell behind catches up on `slack` at most.
inline_always int is_due(struct control *c, __u64 now)
{
	__u64 elapsed = (now - c->start) << INTERVAL_SHIFT;

	if (elapsed < c->due)
		return 0;
	if (elapsed - c->due > c->slack)
		c->due = elapsed - c->slack;
	c->due += c->interval;
	return 1;
}

// Every header is written anew each time: the kernel uses a page again as the last hop left it.
SEC("xdp")
int emit(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end, *at;
	struct frame_template *template;
	struct control *c;
	__u32 key = 0, stamp, flow, length;
	__u64 now;

	c = bpf_map_lookup_elem(&control, &key);
	if (!c || c->next >= c->end || !c->templates)
		return XDP_DROP;
	now = bpf_ktime_get_ns();
	if (!c->start)
		c->start = now;
	if (now - c->start >= c->length)
		return XDP_DROP;
	if (c->interval && !is_due(c, now))
		return XDP_DROP;
	key = c->next % c->templates;
	template = bpf_map_lookup_elem(&templates, &key);
	if (!template || data + TEMPLATE_BYTES > end)
		goto fail;
	stamp = template->stamp;
	flow = template->flow;
	length = template->length;
	if (stamp > TEMPLATE_BYTES - STAMP_BYTES || length > MAX_FRAME)
		goto fail;
#pragma unroll
	for (int i = 0; i < TEMPLATE_WORDS; i++)
		((__u64 *)data)[i] = template->words[i];
	// The verifier wants the end compared once more: it does not add the two bounds up.
	at = data + stamp;
	if (at + STAMP_BYTES > end)
		goto fail;
	write_stamp(at, c->mark, flow, c->next, now);
	if (bpf_xdp_adjust_tail(ctx, (int)length - (int)(end - data)))
		goto fail;
	c->next++;
	c->bytes += length;
	c->last = now;
	// Live frames have no device to bounce off: the kernel sends them out of the interface of the context.
	return XDP_TX;
fail:
	c->failed++;
	c->end = c->next;
	return XDP_DROP;
}

char _license[] SEC("license") = "Apache-2.0";
