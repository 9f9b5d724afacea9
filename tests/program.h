/*
 * program.h -- run the real binary: a world of its own, hosts that start and
 * stop, dialogues played against them.
 *
 * Use it where ./lab and the folder BUILD are: the server is BUILD/mailserv,
 * which looks at its invariants after every turn.
 */
#ifndef PROGRAM_H
#define PROGRAM_H

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE = 20 }; /* seconds, for what another process does */

/* The hosts of the story. */
enum host { NS, MAIL1, MAIL2, SENDER, N_HOSTS };
static const char *const host_name[] = { "ns", "mail1", "mail2", "sender" };

/* One test's world: a folder, ports, processes. */
static struct {
	char dir[PATH_MAX], top[PATH_MAX];
	unsigned smtp, pop3, dns;
	pid_t pid[N_HOSTS];
} world;

/* ---- processes ----------------------------------------------------------- */

/* Five milliseconds, while another process does something. */
static inline void
nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
}

/* A port that is free for TCP and UDP on every address. */
static inline unsigned
free_port(void)
{
	static bool given[65536]; /* or one might come twice */

	for (;;) {
		struct sockaddr_in any = { .sin_family = AF_INET };
		socklen_t len = sizeof(any);
		int tcp = socket(AF_INET, SOCK_STREAM, 0);
		int udp = socket(AF_INET, SOCK_DGRAM, 0);
		bool ok = bind(tcp, (struct sockaddr *)&any, len) == 0 &&
		    getsockname(tcp, (struct sockaddr *)&any, &len) == 0 &&
		    bind(udp, (struct sockaddr *)&any, len) == 0;

		close(tcp);
		close(udp);
		if (!ok || given[ntohs(any.sin_port)])
			continue;
		given[ntohs(any.sin_port)] = true;
		return ntohs(any.sin_port);
	}
}

/* Run a program; its output goes to world.dir/log, or to pipe. */
static inline pid_t
spawn(const char *log, char *const argv[])
{
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid > 0)
		return pid;
	int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);

	if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0 ||
	    chdir(world.dir) < 0)
		_exit(126);
	execv(argv[0], argv);
	_exit(127);
}

static inline int
finish(pid_t pid)
{
	int status = 0;

	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* The whole of a file, or "". */
static inline char *
read_file(const char *path)
{
	static char text[1 << 20];
	int fd = open(path, O_RDONLY);
	ssize_t len = fd >= 0 ? read(fd, text, sizeof(text) - 1) : 0;

	if (fd >= 0)
		close(fd);
	text[len > 0 ? len : 0] = '\0';
	return text;
}

/* Wait until a file holds a text for the nth time. */
static inline void
wait_for(const char *path, const char *text, int times)
{
	for (time_t end = time(NULL) + PATIENCE; time(NULL) < end; nap()) {
		int found = 0;

		for (char *at = read_file(path);
		    (at = strstr(at, text)) != NULL; at++)
			found++;
		if (found >= times)
			return;
	}
	ck_abort_msg("%s never said %s:\n%s", path, text, read_file(path));
}

/* How often does a file hold a text? */
static inline int
count_in(const char *path, const char *text)
{
	int found = 0;

	for (char *at = read_file(path); (at = strstr(at, text)) != NULL; at++)
		found++;
	return found;
}

static inline void
log_path(enum host host, char path[PATH_MAX])
{
	snprintf(path, PATH_MAX, "%.4000s/%s.log", world.dir, host_name[host]);
}

/* The path of a program in the folder BUILD. */
static inline void
built(const char *program, char path[PATH_MAX])
{
	const char *build = getenv("BUILD");

	snprintf(path, PATH_MAX, "%.2000s/%.2000s/%s", world.top,
	    build != NULL ? build : "build", program);
}

/* Start a host of the story, and wait until it is ready. */
static inline void
start(enum host host)
{
	char binary[PATH_MAX], conf[PATH_MAX], log[PATH_MAX];
	char *argv[] = { binary, (char[]){ "-v" }, (char[]){ "-c" }, conf,
		NULL };

	built("mailserv", binary);
	snprintf(conf, sizeof(conf), "%.4000s/%s.conf", world.dir,
	    host_name[host]);
	log_path(host, log);
	int before = count_in(log, " ready ");

	world.pid[host] = spawn(log, argv);
	wait_for(log, " ready ", before + 1);
}

/* Stop a host: politely, or not. */
static inline void
stop(enum host host, int how)
{
	if (world.pid[host] == 0)
		return;
	ck_assert_int_eq(kill(world.pid[host], how), 0);
	int status = finish(world.pid[host]);

	world.pid[host] = 0;
	ck_assert_int_eq(status, how == SIGTERM ? 0 : 128 + how);
}

/* Begin to play a script, with the world's ports and one more variable; what
 * the player prints goes to dialogue.log. */
static inline pid_t
begin_play(const char *script, const char *define)
{
	char player[PATH_MAX], smtp[32], pop3[32], log[PATH_MAX];
	char file[PATH_MAX], extra[128];
	char *argv[] = { player, (char[]){ "-D" }, smtp, (char[]){ "-D" }, pop3,
		(char[]){ "-D" }, extra, file, NULL };

	built("dialogue", player);
	snprintf(smtp, sizeof(smtp), "SMTP=%u", world.smtp);
	snprintf(pop3, sizeof(pop3), "POP3=%u", world.pop3);
	snprintf(extra, sizeof(extra), "%s", define);
	snprintf(file, sizeof(file), "%s", script);
	snprintf(log, sizeof(log), "%.4000s/dialogue.log", world.dir);
	return spawn(log, argv);
}

/* Play a script; its exit status. */
static inline int
play_at(const char *script, const char *define)
{
	char log[PATH_MAX];
	int status = finish(begin_play(script, define));

	snprintf(log, sizeof(log), "%.4000s/dialogue.log", world.dir);
	if (status != 0)
		fprintf(stderr, "%s", read_file(log));
	unlink(log);
	return status;
}

/* The same, for a script of the project. */
static inline int
play(const char *script, const char *define)
{
	char file[PATH_MAX];

	snprintf(file, sizeof(file), "%.3000s/%.1000s", world.top, script);
	return play_at(file, define);
}

/* Write a file of the world. */
__attribute__((format(printf, 2, 3))) static inline void
write_file(const char *name, const char *fmt, ...)
{
	char path[PATH_MAX];
	va_list ap;

	snprintf(path, sizeof(path), "%.4000s/%s", world.dir, name);
	FILE *f = fopen(path, "w");

	ck_assert_ptr_nonnull(f);
	va_start(ap, fmt);
	vfprintf(f, fmt, ap);
	va_end(ap);
	ck_assert_int_eq(fclose(f), 0);
}

/* ---- fixtures ------------------------------------------------------------- */

/* Copy a file of lab/story into the world, with the world's ports. */
static inline void
copy_with_ports(const char *name)
{
	char from[PATH_MAX], to[PATH_MAX];

	snprintf(from, sizeof(from), "%.3000s/lab/story/%s", world.top, name);
	snprintf(to, sizeof(to), "%.3000s/%s", world.dir, name);
	const char *text = read_file(from);
	FILE *f = fopen(to, "w");

	ck_assert_ptr_nonnull(f);
	while (*text != '\0') {
		static const char *const port[] = { "2525", "1110", "5300" };
		unsigned ours[] = { world.smtp, world.pop3, world.dns };
		size_t i = 0;

		while (i < 3 && strncmp(text, port[i], 4) != 0)
			i++;
		if (i < 3)
			fprintf(f, "%u", ours[i]);
		else
			fputc(*text, f);
		text += i < 3 ? 4 : 1;
	}
	ck_assert_int_eq(fclose(f), 0);
}

static inline void
setup(void)
{
	static const char *const files[] = { "lab.test.zone", "ns.conf",
		"mail1.conf", "mail2.conf", "sender.conf", "users" };
	const char *tmp = getenv("TMPDIR");

	memset(&world, 0, sizeof(world));
	ck_assert_ptr_nonnull(getcwd(world.top, sizeof(world.top)));
	snprintf(world.dir, sizeof(world.dir), "%.4000s/mailserv.XXXXXX",
	    tmp != NULL ? tmp : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(world.dir));
	world.smtp = free_port();
	world.pop3 = free_port();
	world.dns = free_port();
	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++)
		copy_with_ports(files[i]);
}

static inline void
teardown(void)
{
	char command[PATH_MAX + 16];

	for (int host = 0; host < N_HOSTS; host++)
		stop((enum host)host, SIGTERM);
	snprintf(command, sizeof(command), "rm -rf '%s'", world.dir);
	ck_assert_int_eq(system(command), 0);
}

#endif
