/*
 * check_failing.c -- one day of a server, again and again, and each time one
 * more call fails: no memory, or a disk that refuses.
 *
 * What this is
 *	The whole server in this process, a client, the next host and a name
 *	server, which are a few lines each.  The day: a start, a message to a
 *	user here and to one elsewhere, a next host that is busy, -q, a restart,
 *	a recipient whom the next host does not know, POP3.
 * Always true
 *	One call fails, the n-th of those wrapped that the server makes; in the
 *	next run it is the one after.  Each run is a process of its own.
 *	The test knows only the promise: what was answered 250 arrives or is
 *	reported, what was refused does not, and the server goes on.
 *
 * Links with: conf smtp path place queue report spool draft route relay maildrop
 * Links with: pop3 dns resolver zone master net
 * Wraps: malloc calloc realloc strdup open openat fdopen fopen fdopendir
 * Wraps: opendir write pread lseek fsync syncfs linkat mkdir mkdirat fstat
 * Wraps: fflush fclose ftruncate renameat socket accept4 flock uname sendfile
 * Wraps: getifaddrs bind listen getsockopt
 */
#define main mailserv_main
int mailserv_main(int argc, char **argv);
#include "../mailserv.c"
#undef main
#include <dirent.h>
#include <ifaddrs.h>
#include <stdio_ext.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include "testlib.h"

/* ---- the n-th call ------------------------------------------------------- */

/* What the process of a run tells ours. */
static struct {
	unsigned calls; /* that the server made in all */
	char name[16];  /* of the call that has failed */
} * told;

static struct {
	bool armed;       /* the server is at work, not the test */
	unsigned calls;   /* that it has made */
	unsigned fails;   /* which of them fails */
	const char *name; /* of the one that has failed */
} nth;

/* Is this the call that fails? */
static bool
fails(const char *name, int error)
{
	if (!nth.armed || ++nth.calls != nth.fails)
		return false;
	nth.name = name;
	snprintf(told->name, sizeof(told->name), "%s", name);
	if (log_level >= 0)
		log_event(PART_MAIN, "-", "%s() number %u fails", name,
		    nth.calls);
	errno = error;
	return true;
}

/* A function of libc that fails in its turn. */
#define WRAP(type, name, error, failed, parameters, ...) \
	type __real_##name parameters;                   \
	type __wrap_##name parameters;                   \
	type __wrap_##name parameters                    \
	{                                                \
		if (fails(#name, error))                 \
			return failed;                   \
		return __real_##name(__VA_ARGS__);       \
	}

WRAP(void *, malloc, ENOMEM, NULL, (size_t size), size)
WRAP(void *, calloc, ENOMEM, NULL, (size_t n, size_t size), n, size)
WRAP(void *, realloc, ENOMEM, NULL, (void *old, size_t size), old, size)
WRAP(char *, strdup, ENOMEM, NULL, (const char *text), text)
WRAP(int, open, EIO, -1, (const char *path, int flags, mode_t mode), path,
    flags, mode)
WRAP(int, openat, EIO, -1, (int at, const char *path, int flags, mode_t mode),
    at, path, flags, mode)
WRAP(FILE *, fdopen, ENOMEM, NULL, (int fd, const char *mode), fd, mode)
WRAP(FILE *, fopen, EIO, NULL, (const char *path, const char *mode), path, mode)
WRAP(DIR *, fdopendir, ENOMEM, NULL, (int fd), fd)
WRAP(DIR *, opendir, EIO, NULL, (const char *path), path)
WRAP(ssize_t, pread, EIO, -1, (int fd, void *to, size_t len, off_t at), fd, to,
    len, at)
WRAP(off_t, lseek, EIO, -1, (int fd, off_t at, int whence), fd, at, whence)
WRAP(int, linkat, ENOSPC, -1,
    (int from, const char *old, int to, const char *new, int flags), from, old,
    to, new, flags)
WRAP(int, mkdir, ENOSPC, -1, (const char *path, mode_t mode), path, mode)
WRAP(int, mkdirat, ENOSPC, -1, (int at, const char *path, mode_t mode), at,
    path, mode)
WRAP(int, fstat, EIO, -1, (int fd, struct stat *st), fd, st)
WRAP(int, ftruncate, EIO, -1, (int fd, off_t len), fd, len)
WRAP(int, renameat, EIO, -1,
    (int from, const char *old, int to, const char *new), from, old, to, new)
WRAP(int, socket, ENFILE, -1, (int family, int type, int protocol), family,
    type, protocol)
WRAP(int, accept4, ENFILE, -1,
    (int fd, struct sockaddr *peer, socklen_t *len, int flags), fd, peer, len,
    flags)
WRAP(int, flock, EIO, -1, (int fd, int how), fd, how)
WRAP(int, uname, EIO, -1, (struct utsname *system), system)
WRAP(ssize_t, sendfile, EIO, -1, (int to, int from, off_t *at, size_t n), to,
    from, at, n)
WRAP(int, getifaddrs, ENOMEM, -1, (struct ifaddrs **list), list)
WRAP(int, bind, EADDRINUSE, -1,
    (int fd, const struct sockaddr *a, socklen_t len), fd, a, len)
WRAP(int, listen, EADDRINUSE, -1, (int fd, int backlog), fd, backlog)
WRAP(int, getsockopt, EIO, -1,
    (int fd, int level, int what, void *to, socklen_t *len), fd, level, what,
    to, len)

/* No machine loses its power here: nothing needs to reach the disk. */
int __wrap_fsync(int fd);
int
__wrap_fsync(int fd)
{
	(void)fd;
	return fails("fsync", EIO) ? -1 : 0;
}

int __wrap_syncfs(int fd);
int
__wrap_syncfs(int fd)
{
	(void)fd;
	return fails("syncfs", EIO) ? -1 : 0;
}

/* A file's: what was to be written is lost. */
int __real_fflush(FILE *f);
int __wrap_fflush(FILE *f);
int
__wrap_fflush(FILE *f)
{
	if (f == NULL || f == stdout || f == stderr ||
	    !fails("fflush", ENOSPC))
		return __real_fflush(f);
	__fpurge(f);
	return EOF;
}

/* The stream is closed all the same. */
int __real_fclose(FILE *f);
int __wrap_fclose(FILE *f);
int
__wrap_fclose(FILE *f)
{
	int result = __real_fclose(f);

	return fails("fclose", EIO) ? EOF : result;
}

/* A file's, not a connection's. */
ssize_t __real_write(int fd, const void *data, size_t len);
ssize_t __wrap_write(int fd, const void *data, size_t len);
ssize_t
__wrap_write(int fd, const void *data, size_t len)
{
	struct stat st;

	if (__real_fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
	    fails("write", ENOSPC))
		return -1;
	return __real_write(fd, data, len);
}

/* ---- the world ----------------------------------------------------------- */

enum { FDS = 256 };

static struct {
	unsigned smtp, pop3, names, hop, dns; /* ports */
	int listener, hop_fd, dns_fd;  /* the next host's, the name server's */
	char line[65536];              /* what the next host has got */
	size_t len;
	bool busy, content;
	bool ours[FDS]; /* descriptors that were open before the server was */
	int taken;      /* messages that the next host has taken */
} world;

/* A socket of the test's own on 127.0.0.1; its port. */
static int
own_socket(int type, unsigned *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, len), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	*port = ntohs(a.sin_port);
	return fd;
}

/* Three ports for the server; all are held until the last is known. */
static void
choose_ports(void)
{
	int fds[] = { own_socket(SOCK_STREAM, &world.smtp),
		own_socket(SOCK_STREAM, &world.pop3),
		own_socket(SOCK_STREAM, &world.names) };

	for (size_t i = 0; i < NELEM(fds); i++)
		close(fds[i]);
}

/* The next host's answer to one line; NULL: none. */
static const char *
hop_answer(const char *line)
{
	static const char *const answers[][2] = {
		{ "EHLO", "250 hop.test\r\n" }, { "MAIL", "250 ok\r\n" },
		{ "RCPT TO:<nobody@", "550 5.1.1 nobody\r\n" },
		{ "RCPT", "250 ok\r\n" }, { "DATA", "354 go on\r\n" },
		{ "RSET", "250 ok\r\n" }, { "QUIT", "221 bye\r\n" },
	};

	if (world.content) {
		world.content = strncmp(line, ".\r\n", 3) != 0;
		world.taken += !world.content;
		return world.content ? NULL : "250 taken\r\n";
	}
	world.content = strncmp(line, "DATA", 4) == 0;
	for (size_t i = 0; i < NELEM(answers); i++)
		if (strncmp(line, answers[i][0], strlen(answers[i][0])) == 0)
			return answers[i][1];
	return "500 what?\r\n";
}

static void
hop_say(const char *text)
{
	if (text != NULL)
		send(world.hop_fd, text, strlen(text), MSG_NOSIGNAL);
}

/* The next host takes one client at a time. */
static void
hop_turn(void)
{
	char *end;

	if (world.hop_fd < 0) {
		world.hop_fd = accept4(world.listener, NULL, NULL,
		    SOCK_NONBLOCK);
		world.len = 0;
		world.content = false;
		if (world.hop_fd >= 0)
			hop_say(world.busy ? "421 busy\r\n" : "220 hop\r\n");
	}
	ssize_t n = recv(world.hop_fd, world.line + world.len,
	    sizeof(world.line) - 1 - world.len, 0);

	if (n == 0) {
		close(world.hop_fd);
		world.hop_fd = -1;
	}
	if (n <= 0)
		return;
	world.len += (size_t)n;
	world.line[world.len] = '\0';
	while ((end = strstr(world.line, "\r\n")) != NULL) {
		hop_say(hop_answer(world.line));
		world.len -= (size_t)(end + 2 - world.line);
		memmove(world.line, end + 2, world.len + 1);
	}
}

/* The name server: hop.test is the mail host of all, and 127.0.0.1. */
static void
dns_turn(void)
{
	unsigned char m[1024];
	struct sockaddr_in peer;
	socklen_t peer_len = sizeof(peer);
	ssize_t got = recvfrom(world.dns_fd, m, 512, 0,
	    (struct sockaddr *)&peer, &peer_len);
	static const unsigned char mx[] = { 0xc0, 12, 0, 15, 0, 1, 0, 0, 0, 60,
		0, 12, 0, 10, 3, 'h', 'o', 'p', 4, 't', 'e', 's', 't', 0 };
	static const unsigned char a[] = { 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0,
		4, 127, 0, 0, 1 };

	if (got < 17)
		return;
	size_t len = (size_t)got;
	unsigned type = m[len - 3];

	m[2] |= 0x84; /* a response, with authority */
	m[7] = type == 15 || type == 1;
	if (type == 15)
		memcpy(m + len, mx, sizeof(mx));
	else if (type == 1)
		memcpy(m + len, a, sizeof(a));
	len += type == 15 ? sizeof(mx) : type == 1 ? sizeof(a) : 0;
	sendto(world.dns_fd, m, len, 0, (struct sockaddr *)&peer, peer_len);
}

/* One turn of everybody. */
static void
turn(void)
{
	nth.armed = true;
	server_turn(srv.now + 1);
	nth.armed = false;
	net_check();
	hop_turn();
	dns_turn();
}

/* ---- the server's life --------------------------------------------------- */

/* The configuration, with ports that nobody else has now. */
static void
write_conf(void)
{
	char text[1024];

	choose_ports();
	snprintf(text, sizeof(text),
	    "hostname here.test\nlisten_smtp 127.0.0.1:%u 127.0.0.2:%u\n"
	    "listen_pop3 127.0.0.1:%u\nlisten_dns 127.0.0.1:%u\nusers users\n"
	    "relay_domain far.test\nrelay_domain listed.test list\n"
	    "alias sales alice\ncatch_all bob\nzone near.test near.zone\n"
	    "resolver 127.0.0.1:%u\nsmtp_port %u\nretry 1m 2m\n"
	    "domain here.test\nfault pop3 noop drop 0\n",
	    world.smtp, world.smtp, world.pop3, world.names, world.dns,
	    world.hop);
	test_write("mailserv.conf", text);
}

static void
world_begin(void)
{
	memset(&world, 0, sizeof(world));
	world.listener = own_socket(SOCK_STREAM, &world.hop);
	ck_assert_int_eq(listen(world.listener, 8), 0);
	world.dns_fd = own_socket(SOCK_DGRAM, &world.dns);
	world.hop_fd = -1;
	test_write("users",
	    "alice:{PLAIN}alice\nbob:{PLAIN}bob\n# nobody else\n");
	test_write("list", "one\ntwo\n");
	test_write("near.zone", "$TTL 60\n@ SOA ns root 1 2 3 4 60\n@ NS ns\n"
	    "ns A 127.0.0.9\n@ MX 10 mx\nmx A 127.0.0.8\n");
	write_conf();
	for (int fd = 0; fd < FDS; fd++)
		world.ours[fd] = fcntl(fd, F_GETFD) >= 0;
}

/* As with_conf() and run_server() begin; an exit status. */
static int
server_begin(void)
{
	struct diag diag = { .quiet = true };

	if (getenv("CK_TRACE") != NULL)
		log_level = 1;

	srv = (struct server){ .frozen = srv.frozen, .serving = true };
	nth.armed = true;
	struct conf *conf = conf_load(test_path("mailserv.conf"), &diag);
	int status = diag.errors > 0 ? EX_CONFIG : 0;

	srv.conf = conf;
	net_start();
	if (status == 0)
		status = open_everything();
	if (status == 0 && !queue_load(true))
		status = EX_OSERR;
	nth.armed = false;
	return status;
}

/* Servers that have ended: what exit() would free is kept within the sight of
 * those who look for leaks. */
struct server past[8];
unsigned n_past;

/* As run_server() ends; and exit() would close its files. */
static void
server_end(bool running)
{
	if (running) {
		nth.armed = true;
		server_stop();
		nth.armed = false;
	}
	for (int fd = 0; fd < FDS; fd++)
		if (!world.ours[fd] && fd != world.hop_fd)
			close(fd);
	if (srv.conf != NULL)
		conf_sweep();
	conf_free(srv.conf);
	past[n_past++] = srv;
}

/* Start; who sees it fail starts it again, elsewhere if a port is in use. */
static void
server_start(void)
{
	int status = server_begin();

	for (int tries = 0; status != 0; tries++) {
		ck_assert_int_lt(tries, 5);
		ck_assert(status == EX_UNAVAILABLE || nth.name != NULL);
		server_end(false);
		if (status == EX_UNAVAILABLE)
			write_conf();
		status = server_begin();
	}
}

/* ---- its clients --------------------------------------------------------- */

static char reply[65536];

/* The rest of a reply, until it ends so; false: the connection has ended. */
static bool
reply_ends(int fd, const char *end)
{
	size_t len = 0;

	for (int i = 0; i < 1000; i++) {
		turn();
		ssize_t n = recv(fd, reply + len, sizeof(reply) - 1 - len, 0);

		if (n == 0 || (n < 0 && errno != EAGAIN))
			return false;
		len += n > 0 ? (size_t)n : 0;
		reply[len] = '\0';
		if (len >= strlen(end) &&
		    strcmp(reply + len - strlen(end), end) == 0)
			return true;
	}
	ck_abort_msg("no answer, nor an end; so far: %s", reply);
	return false;
}

/* Say a line; the reply's first digit or sign, or 0: the connection ended. */
static char
say(int fd, const char *line)
{
	reply[0] = '\0';
	send(fd, line, strlen(line), MSG_NOSIGNAL);
	return reply_ends(fd, "\r\n") ? reply[0] : '\0';
}

/* A connection to the server that has been greeted; -1: it was not. */
static int
call(unsigned port)
{
	struct sockaddr_in a = { .sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	char greeting = say(fd, "");

	if (greeting == '2' || greeting == '+')
		return fd;
	close(fd);
	return -1;
}

/* One transaction, to be ended by the dot: its reply's first digit; 0: none
 * was heard; '4' where it was refused before. */
static char
transaction(int fd, const char *to)
{
	static const char content[] = "Subject: one\r\nX-More: 2\r\n\r\n"
				      "..text\r\n.\r\n";
	char line[128];

	snprintf(line, sizeof(line), "RCPT TO:<%s>\r\n", to);
	if (say(fd, "HELO client\r\n") != '2' ||
	    say(fd, "MAIL FROM:<bob@here.test>\r\n") != '2' ||
	    say(fd, "RCPT TO:<sales@here.test>\r\n") != '2' ||
	    say(fd, line) != '2' || say(fd, "DATA\r\n") != '3')
		return '4';
	return say(fd, content);
}

/* Names in a user's new/. */
static int
in_mailbox(const char *user)
{
	char path[64];
	int n = 0;

	snprintf(path, sizeof(path), "mailserv-data/mail/%s/new", user);
	DIR *dir = opendir(test_path(path));

	for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;)
		n += e->d_name[0] != '.';
	if (dir != NULL)
		closedir(dir);
	return n;
}

/* Give the server a message for Alice and another, as a real client does:
 * again, after a 4yz.  A refused one must not have come. */
static void
deliver(const char *to)
{
	int before = in_mailbox("alice");

	for (int i = 0; i < 3; i++) {
		int fd = call(world.smtp);
		char verdict = fd < 0 ? '4' : transaction(fd, to);

		close(fd);
		turn(); /* it sees that the client has gone */
		ck_assert_int_eq(in_mailbox("alice") - before, verdict == '2');
		if (verdict == '2')
			return;
		ck_assert_int_eq(verdict, '4');
	}
	ck_abort_msg("refused three times: %s", reply);
}

/* Turn until nothing waits, as long as the clock needs. */
static void
drain(void)
{
	for (int i = 0; i < 2000 && srv.queue.n_messages > 0; i++) {
		if (srv.queue.n_attempts == 0) {
			ck_assert_msg(queue_due() != NEVER,
			    "it waits for ever");
			srv.frozen = queue_due() > srv.frozen ? queue_due() :
								srv.frozen;
		} else if (i % 100 == 99)
			srv.frozen += 2 * SECOND; /* a time-out, perhaps */
		turn();
	}
	ck_assert_uint_eq(srv.queue.n_messages, 0);
}

/* Alice takes her first message and deletes it. */
static bool
fetch(int before)
{
	int fd = call(world.pop3);
	bool ok = fd >= 0 && say(fd, "USER alice\r\n") == '+' &&
	    say(fd, "PASS alice\r\n") == '+' &&
	    say(fd, "RETR 1\r\n") == '+';

	if (ok && strstr(reply, "\r\n.\r\n") == NULL)
		ok = reply_ends(fd, "\r\n.\r\n");
	ok = ok && strstr(reply, "\r\n..text\r\n") != NULL;
	ok = ok && say(fd, "DELE 1\r\n") == '+';
	ck_assert_int_eq(in_mailbox("alice"), before); /* not before QUIT */
	ok = ok && say(fd, "QUIT\r\n") == '+';
	close(fd);
	turn();
	ck_assert_int_eq(in_mailbox("alice"), before - ok);
	return ok;
}

/* What mailserv -q prints, from inside: it never fails for the server. */
static void
list_queue(void)
{
	test_capture(STDOUT_FILENO);
	nth.armed = true;
	int status = spool_list(srv.conf);

	nth.armed = false;
	const char *list = test_captured();

	ck_assert_int_eq(status, 0);
	ck_assert_ptr_nonnull(strstr(list, " in failed\n"));
	if (nth.name == NULL)
		ck_assert_ptr_nonnull(strstr(list, "421 busy"));
}

/* ---- the day ------------------------------------------------------------- */

/* In failed/: what could neither be delivered nor reported. */
static bool
is_in_failed(void)
{
	DIR *dir = opendir(test_path("mailserv-data/queue/failed"));
	bool found = false;

	for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;)
		found |= strstr(e->d_name, ".env") != NULL;
	if (dir != NULL)
		closedir(dir);
	return found;
}

static void
day(void)
{
	world_begin();
	server_start();
	world.busy = true;
	deliver("one@far.test");
	for (int i = 0; i < 300 && srv.queue.n_attempts > 0; i++)
		turn(); /* deferred */
	list_queue();
	server_end(true);
	world.busy = false;
	server_start();
	drain();
	if (world.taken == 0 && strcmp(nth.name, "openat") == 0) {
		server_end(true); /* an envelope that the disk did not give */
		server_start();   /* was left alone, until the next start */
		drain();
	}
	ck_assert_int_ge(world.taken, 1);
	deliver("nobody@far.test");
	drain();
	ck_assert_int_eq(in_mailbox("bob") + is_in_failed(), 1);
	ck_assert(fetch(2) || fetch(2));
	server_end(true);
}

/* One day in a process of its own, in which call n fails (0: none). */
static void
day_with(unsigned n)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		if (getenv("CK_TRACE") == NULL) /* it says a lot */
			ck_assert_ptr_nonnull(
			    freopen("/dev/null", "w", stderr));
		nth.fails = n;
		day();
		told->calls = nth.calls;
		exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	nftw(test_path("mailserv-data"), test_remove_one, 16,
	    FTW_DEPTH | FTW_PHYS);
	if (status == 0)
		return;
	fprintf(stderr, "%s() fails, call %u: status %x\n", told->name, n,
	    (unsigned)status);
	exit(EXIT_FAILURE); /* Check prints the assertion of the other process */
}

/* The loop makes parts of it: every eighth call is a part's. */
enum { PARTS = 8 };

START_TEST(every_call_fails_once)
{
	told = mmap(NULL, sizeof(*told), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(told, MAP_FAILED);
	day_with(0);
	unsigned calls = told->calls;

	ck_assert_uint_ge(calls, 100); /* or it was no day's work */
	unsigned step = test_under_valgrind() ? PARTS * 5 : PARTS;

	for (unsigned n = 1 + (unsigned)_i; n <= calls; n += step)
		day_with(n);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("failing");
	TCase *tc = tcase_create("failing");

	tcase_add_checked_fixture(tc, test_begin, test_end);
	tcase_set_timeout(tc, 120);
	tcase_add_loop_test(tc, every_call_fails_once, 0, PARTS);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);

	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);

	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
