/*
 * testlib.h -- what several check files need: a folder to work in, files in
 * it, what a stream said, a configuration.
 *
 * Call test_begin() and test_end() as a checked fixture: every test then
 * starts with an empty srv, a silent log and a folder of its own.
 */
#ifndef TESTLIB_H
#define TESTLIB_H

#include <check.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "mailserv.h"

/* The test's own folder; and where a captured stream goes meanwhile. */
static char test_dir[64];
static int test_saved = -1, test_stream = -1;

static inline void
test_begin(void)
{
	snprintf(test_dir, sizeof(test_dir), "/tmp/mailserv-check-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(test_dir));
	srv = (struct server){ .frozen = 1000 * SECOND };
	log_level = -1;
	umask(077);
	signal(SIGPIPE, SIG_IGN);
}

static inline int
test_remove_one(const char *path, const struct stat *st, int kind,
    struct FTW *where)
{
	(void)st;
	(void)kind;
	(void)where;
	return remove(path);
}

static inline void
test_end(void)
{
	nftw(test_dir, test_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Under Valgrind all takes thirty times as long. */
static inline bool
test_under_valgrind(void)
{
	const char *preload = getenv("LD_PRELOAD");

	return preload != NULL && strstr(preload, "vgpreload") != NULL;
}

/* A path in the test's folder, in one of four buffers in turn. */
static inline const char *
test_path(const char *name)
{
	static char path[4][512];
	static unsigned turn;
	char *at = path[turn++ % NELEM(path)];

	snprintf(at, sizeof(path[0]), "%s/%s", test_dir, name);
	return at;
}

/* A file in the test's folder with this text. */
static inline const char *
test_write(const char *name, const char *text)
{
	const char *path = test_path(name);
	FILE *f = fopen(path, "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(fputs(text, f), 0);
	ck_assert_int_eq(fclose(f), 0);
	return path;
}

/* The text of a file in the test's folder, in one of two buffers in turn;
 * NULL: there is none. */
static inline const char *
test_read(const char *name)
{
	static char text[2][65536];
	static unsigned turn;
	char *at = text[turn++ % NELEM(text)];
	int fd = open(test_path(name), O_RDONLY);
	ssize_t got = fd >= 0 ? read(fd, at, sizeof(text[0]) - 1) : -1;

	if (fd >= 0)
		close(fd);
	if (got < 0)
		return NULL;
	at[got] = '\0';
	return at;
}

/* From now on stdout (1) or stderr (2) goes to a file. */
static inline void
test_capture(int stream)
{
	int fd = open(test_path("captured"),
	    O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);

	ck_assert_int_ge(fd, 0);
	fflush(NULL);
	test_stream = stream;
	test_saved = dup(stream);
	dup2(fd, stream);
	close(fd);
}

/* And now no more: what it said. */
static inline const char *
test_captured(void)
{
	fflush(NULL);
	dup2(test_saved, test_stream);
	close(test_saved);
	return test_read("captured");
}

/* Make this the configuration, read from a file in the test's folder; it must
 * be right.  `users` may be used: alice, bob, carol. */
static inline struct conf *
test_conf(const char *text)
{
	struct diag diag = { .errors = 0 };

	test_write("users", "alice:{PLAIN}alice\nbob:{PLAIN}bob\n"
			    "carol:{PLAIN}carol\n");
	struct conf *conf = conf_load(test_write("mailserv.conf", text),
	    &diag);

	ck_assert_msg(diag.errors == 0, "not a good configuration:\n%s", text);
	srv.conf = conf;
	return conf;
}

#endif
