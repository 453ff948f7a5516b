/* DPDK's rte_acl, rte_lpm and rte_fib on the input of `compare rules`, in batches of 32.
 * Reads the name of a subject (acl, lpm, fib) from each line of its input and answers
 * "<nanoseconds per lookup> <lookups that found something>". Started by bench/src/peer.rs. */
#include <string.h>
#include <time.h>

#include <rte_acl.h>
#include <rte_byteorder.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_fib.h>
#include <rte_lpm.h>

#include "input.h"

#define BATCH 32
/* rte_lpm compares a new rule with all of its length: a million would take hours. */
#define LPM_MAX 200000
#define TBL8S 65536
#define NOT_FOUND 0xffffff

/* What rte_acl looks at: one byte first, then groups of four. */
struct key {
	uint8_t protocol;
	uint8_t pad[3];
	uint32_t remote;
	uint16_t source;
	uint16_t destination;
};

enum { PROTOCOL, REMOTE, SOURCE, DESTINATION, FIELDS };

RTE_ACL_RULE_DEF(acl_rule, FIELDS);

static const struct rte_acl_field_def fields[FIELDS] = {
	{ RTE_ACL_FIELD_TYPE_BITMASK, 1, PROTOCOL, 0, offsetof(struct key, protocol) },
	{ RTE_ACL_FIELD_TYPE_MASK, 4, REMOTE, 1, offsetof(struct key, remote) },
	{ RTE_ACL_FIELD_TYPE_RANGE, 2, SOURCE, 2, offsetof(struct key, source) },
	{ RTE_ACL_FIELD_TYPE_RANGE, 2, DESTINATION, 2, offsetof(struct key, destination) },
};

static uint64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, rte_strerror(rte_errno));
	exit(1);
}

static struct rte_acl_ctx *make_acl(const struct input *input)
{
	struct rte_acl_param param = {
		.name = "acl", .socket_id = SOCKET_ID_ANY, .rule_size = RTE_ACL_RULE_SZ(FIELDS),
		.max_rule_num = input->rule_count,
	};
	struct rte_acl_config config = { .num_categories = 1, .num_fields = FIELDS };
	struct rte_acl_ctx *acl = rte_acl_create(&param);
	if (!acl)
		fail("rte_acl_create");
	for (uint32_t i = 0; i < input->rule_count; i++) {
		const struct rule *from = &input->rules[i];
		struct acl_rule rule;
		memset(&rule, 0, sizeof rule);
		rule.data.category_mask = 1;
		rule.data.priority = 1 + i;
		rule.data.userdata = 1 + i;
		rule.field[PROTOCOL].value.u8 = from->protocol;
		rule.field[PROTOCOL].mask_range.u8 = from->protocol ? 0xff : 0;
		rule.field[REMOTE].value.u32 = from->address;
		rule.field[REMOTE].mask_range.u32 = from->len;
		rule.field[SOURCE].mask_range.u16 = 0xffff;
		rule.field[DESTINATION].value.u16 = from->first;
		rule.field[DESTINATION].mask_range.u16 = from->last;
		if (rte_acl_add_rules(acl, (struct rte_acl_rule *)&rule, 1))
			fail("rte_acl_add_rules");
	}
	memcpy(config.defs, fields, sizeof fields);
	if (rte_acl_build(acl, &config))
		fail("rte_acl_build");
	return acl;
}

static struct rte_lpm *make_lpm(const struct input *input)
{
	struct rte_lpm_config config = { .max_rules = input->prefix_count + 1, .number_tbl8s = TBL8S };
	struct rte_lpm *lpm = rte_lpm_create("lpm", SOCKET_ID_ANY, &config);
	if (!lpm)
		fail("rte_lpm_create");
	for (uint32_t i = 0; i < input->prefix_count; i++) {
		const struct prefix *prefix = &input->prefixes[i];
		if (rte_lpm_add(lpm, prefix->address, prefix->len, prefix->value))
			fail("rte_lpm_add");
	}
	return lpm;
}

static struct rte_fib *make_fib(const struct input *input)
{
	struct rte_fib_conf config = {
		.type = RTE_FIB_DIR24_8, .default_nh = NOT_FOUND, .max_routes = input->prefix_count + 1,
		.dir24_8 = { .nh_sz = RTE_FIB_DIR24_8_4B, .num_tbl8 = TBL8S },
	};
	struct rte_fib *fib = rte_fib_create("fib", SOCKET_ID_ANY, &config);
	if (!fib)
		fail("rte_fib_create");
	for (uint32_t i = 0; i < input->prefix_count; i++) {
		const struct prefix *prefix = &input->prefixes[i];
		if (rte_fib_add(fib, prefix->address, prefix->len, prefix->value))
			fail("rte_fib_add");
	}
	return fib;
}

static uint64_t run_acl(const struct input *input, struct rte_acl_ctx *acl, struct key *keys)
{
	uint64_t found = 0;
	for (uint32_t at = 0; at < input->packet_count; at += BATCH) {
		const uint8_t *batch[BATCH];
		uint32_t results[BATCH];
		for (int i = 0; i < BATCH; i++)
			batch[i] = (const uint8_t *)&keys[at + i];
		rte_acl_classify(acl, batch, results, BATCH, 1);
		for (int i = 0; i < BATCH; i++)
			found += results[i] != 0;
	}
	return found;
}

static uint64_t run_lpm(const struct input *input, struct rte_lpm *lpm, const uint32_t *remotes)
{
	uint64_t found = 0;
	for (uint32_t at = 0; at < input->packet_count; at += BATCH) {
		uint32_t hops[BATCH];
		rte_lpm_lookup_bulk(lpm, &remotes[at], hops, BATCH);
		for (int i = 0; i < BATCH; i++)
			found += (hops[i] & RTE_LPM_LOOKUP_SUCCESS) != 0;
	}
	return found;
}

static uint64_t run_fib(const struct input *input, struct rte_fib *fib, uint32_t *remotes)
{
	uint64_t found = 0;
	for (uint32_t at = 0; at < input->packet_count; at += BATCH) {
		uint64_t hops[BATCH];
		rte_fib_lookup_bulk(fib, &remotes[at], hops, BATCH);
		for (int i = 0; i < BATCH; i++)
			found += hops[i] != NOT_FOUND;
	}
	return found;
}

int main(int argc, char **argv)
{
	char *eal[] = { argv[0], "--no-huge", "--no-pci", "--no-telemetry", "--no-shconf",
		"-m", "1536", "-l", "0", "--log-level", "lib.*:error", NULL };
	if (argc != 2 || rte_eal_init(11, eal) < 0)
		fail("usage: dpdk INPUT; rte_eal_init");
	struct input input = read_input(argv[1]);
	struct key *keys = calloc(input.packet_count, sizeof *keys);
	uint32_t *remotes = calloc(input.packet_count, sizeof *remotes);
	for (uint32_t i = 0; i < input.packet_count; i++) {
		remotes[i] = input.packets[i].remote;
		keys[i].protocol = input.packets[i].protocol;
		keys[i].remote = rte_cpu_to_be_32(input.packets[i].remote);
		keys[i].destination = rte_cpu_to_be_16(input.packets[i].port);
	}
	struct rte_acl_ctx *acl = input.rule_count ? make_acl(&input) : NULL;
	struct rte_fib *fib = input.prefix_count ? make_fib(&input) : NULL;
	struct rte_lpm *lpm = fib && input.prefix_count <= LPM_MAX ? make_lpm(&input) : NULL;
	printf("ready\n");
	fflush(stdout);
	char line[32];
	while (fgets(line, sizeof line, stdin)) {
		uint64_t found = 0, start = now();
		if (acl && !strcmp(line, "acl\n"))
			found = run_acl(&input, acl, keys);
		else if (lpm && !strcmp(line, "lpm\n"))
			found = run_lpm(&input, lpm, remotes);
		else if (fib && !strcmp(line, "fib\n"))
			found = run_fib(&input, fib, remotes);
		else
			return 1;
		double each = (double)(now() - start) / input.packet_count;
		printf("%.4f %llu\n", each, (unsigned long long)found);
		fflush(stdout);
	}
	return 0;
}
