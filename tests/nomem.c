/*
 * nomem.c -- malloc(), calloc() and realloc() that say no, once, when asked to.
 *
 * Linked into a server of its own (make torture-memory), these three stand in
 * for libc's, also where libc itself asks: getline(), strdup(), fdopen(),
 * opendir().  free() is libc's, because what these give comes from there.
 *
 * Which allocation fails is told by struct nomem, in the file that NOMEM_FILE
 * names; without one they only pass on.
 */
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include "nomem.h"

enum { FRAMES = 24 };

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t size);

static struct nomem *shared;
static bool inside; /* backtrace() may ask for memory itself */

__attribute__((constructor)) static void
nomem_open(void)
{
	const char *file = getenv(NOMEM_FILE);
	void *frames[FRAMES];
	int fd = file != NULL ? open(file, O_RDWR | O_CLOEXEC) : -1;

	if (fd < 0)
		return;
	void *map = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
	    MAP_SHARED, fd, 0);

	close(fd);
	backtrace(frames, FRAMES); /* loads libgcc, before anything counts */
	if (map != MAP_FAILED)
		shared = map;
}

/* A number for who asks: its backtrace, wherever the kernel has put the
 * program and its libraries. */
static uint64_t
call_site(void)
{
	void *frames[FRAMES];
	Dl_info info;
	uint64_t hash = 14695981039346656037u; /* FNV-1a */
	int n = backtrace(frames, FRAMES);

	for (int i = 2; i < n; i++) {
		uint64_t at = (uint64_t)(uintptr_t)frames[i];

		if (dladdr(frames[i], &info) != 0)
			at -= (uint64_t)(uintptr_t)info.dli_fbase;
		hash = (hash ^ at) * 1099511628211u;
	}
	return hash;
}

/* Is this the allocation that fails? */
static bool
fails(void)
{
	if (shared == NULL || inside || !shared->armed)
		return false;
	inside = true;
	uint64_t site = call_site();

	inside = false;
	uint32_t n = shared->count++;

	if (n < NOMEM_SITES)
		shared->sites[n] = site;
	bool begins = n + 1 == shared->at ||
	    (shared->at == 0 && site == shared->site && shared->fired == 0);

	if (!begins && (shared->fired == 0 || shared->fired >= shared->most))
		return false;
	shared->fired++;
	errno = ENOMEM;
	return true;
}

void *
malloc(size_t size)
{
	return fails() ? NULL : __libc_malloc(size);
}

void *
calloc(size_t n, size_t size)
{
	return fails() ? NULL : __libc_calloc(n, size);
}

void *
realloc(void *old, size_t size)
{
	return fails() ? NULL : __libc_realloc(old, size);
}
