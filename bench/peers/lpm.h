/* What lpm.bpf.c and lpm.c share. */
#ifndef LPM_H
#define LPM_H

#define LOOKUPS 64
#define REMOTES 65536
#define TRIE_MAX 2000000

/* remotes are in network order. */
struct state {
	__u32 at;
	__u32 pad;
	__u64 found;
	__u32 remotes[REMOTES];
};

#endif
