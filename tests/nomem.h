/*
 * nomem.h -- what the server that runs out of memory (nomem.c) and the one
 * who watches it (torture_memory.c) both see: a file, mapped by both, so that
 * nothing in it is lost when the server dies.
 */
#ifndef NOMEM_H
#define NOMEM_H

#include <stdint.h>

enum { NOMEM_SITES = 65536 }; /* allocations that are remembered, at most */

/* The environment variable that names the file. */
#define NOMEM_FILE "NOMEM_FILE"

struct nomem {
	volatile uint32_t armed; /* allocations are counted, and may fail */
	volatile uint32_t at;    /* this one fails, from 1; 0: by site only */
	volatile uint32_t most;  /* and so many in all, in a row */
	volatile uint64_t site;  /* the first one with this backtrace fails */
	volatile uint32_t count; /* so many were asked for while armed */
	volatile uint32_t fired; /* so many have failed */
	volatile uint64_t sites[NOMEM_SITES]; /* the backtrace of each */
};

#endif
