/* Times lpm.bpf.c with the kernel's program test-run on the input of `compare rules`.
 * Reads lines ("lpm") and answers "<nanoseconds per lookup> <lookups that found something>", the loop without lookups
 * subtracted. Needs root. Started by bench/src/peer.rs in the folder of lpm.bpf.o. */
#include <arpa/inet.h>
#include <linux/types.h>
#include <string.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "input.h"
#include "lpm.h"

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static double run(int program, int states, struct state *state)
{
	__u32 zero = 0;
	char frame[64] = { 0 };
	state->at = 0;
	state->found = 0;
	if (bpf_map_update_elem(states, &zero, state, BPF_ANY))
		fail("state");
	LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame, .data_size_in = sizeof frame,
		    .repeat = REMOTES / LOOKUPS);
	if (bpf_prog_test_run_opts(program, &options))
		fail("test run");
	if (bpf_map_lookup_elem(states, &zero, state))
		fail("state");
	return (double)options.duration / LOOKUPS;
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	struct input input = read_input(argv[1]);
	struct bpf_object *object = bpf_object__open_file("lpm.bpf.o", NULL);
	if (!object || bpf_object__load(object))
		fail("lpm.bpf.o");
	int trie = bpf_object__find_map_fd_by_name(object, "trie");
	int states = bpf_object__find_map_fd_by_name(object, "states");
	int lookup = bpf_program__fd(bpf_object__find_program_by_name(object, "lookup"));
	int idle = bpf_program__fd(bpf_object__find_program_by_name(object, "idle"));
	for (__u32 i = 0; i < input.prefix_count; i++) {
		struct { __u32 len, address; } key = { input.prefixes[i].len, htonl(input.prefixes[i].address) };
		if (bpf_map_update_elem(trie, &key, &input.prefixes[i].value, BPF_ANY))
			fail("prefix");
	}
	struct state *state = calloc(1, sizeof *state);
	if (!state || input.packet_count != REMOTES)
		fail("packets");
	for (__u32 i = 0; i < REMOTES; i++)
		state->remotes[i] = htonl(input.packets[i].remote);
	printf("ready\n");
	fflush(stdout);
	char line[32];
	while (fgets(line, sizeof line, stdin)) {
		double without = run(idle, states, state);
		double with = run(lookup, states, state);
		printf("%.4f %llu\n", with - without, (unsigned long long)state->found);
		fflush(stdout);
	}
	return 0;
}
