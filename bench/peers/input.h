/* The input file of `compare rules`: counts, then prefixes, rules and packets, little-endian words.
 * Written by bench/src/peer.rs; read by the peers in this folder. */
#ifndef INPUT_H
#define INPUT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <signal.h>
#include <sys/prctl.h>

struct prefix { uint32_t address, len, value; };
struct rule { uint32_t address, len, protocol, first, last; };
struct packet { uint32_t remote, protocol, port; };

struct input {
	uint32_t prefix_count, rule_count, packet_count;
	struct prefix *prefixes;
	struct rule *rules;
	struct packet *packets;
};

static void *read_list(FILE *file, size_t size, uint32_t count)
{
	void *list = calloc(count ? count : 1, size);
	if (!list || fread(list, size, count, file) != count) {
		fprintf(stderr, "the input file is too short\n");
		exit(1);
	}
	return list;
}

static struct input read_input(const char *path)
{
	struct input input;

	/* A peer in the middle of a long fill reads no end of input: it goes with whoever started it, however that ends. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	uint32_t counts[3];
	FILE *file = fopen(path, "rb");
	if (!file || fread(counts, sizeof counts, 1, file) != 1) {
		fprintf(stderr, "%s cannot be read\n", path);
		exit(1);
	}
	input.prefix_count = counts[0];
	input.rule_count = counts[1];
	input.packet_count = counts[2];
	input.prefixes = read_list(file, sizeof *input.prefixes, input.prefix_count);
	input.rules = read_list(file, sizeof *input.rules, input.rule_count);
	input.packets = read_list(file, sizeof *input.packets, input.packet_count);
	fclose(file);
	return input;
}

#endif
