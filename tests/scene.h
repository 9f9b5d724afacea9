/*
 * scene.h -- what torture.c and power.c play: a server A with mailboxes and a
 * next host B, clients who remember what they were told, and a survey that
 * holds what they were told against what lies on the disk.
 *
 *	A	local.test: alice, bob.  Passes far.test on, by its own zone.
 *	B	far.test: carol; nobody else, so that mail to nobody@far.test
 *		comes back as a report.
 *
 * A run: scene_begin(), A under somebody's eyes, the player beside it in a
 * process of its own, an end that A did not choose, scene_survey().
 */
#ifndef SCENE_H
#define SCENE_H

#include "traced.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	PATIENCE = 20,	/* seconds, for what another process does */
	UIDS = 64,	/* unique-ids that a session remembers */
	UID_LEN = 80,
	TOO_BIG = 70000, /* octets, where max_message is 64 KiB */
	SEEDS = 5,	 /* messages that the queue may hold from the start */
};

/* Who a message is for: a set. */
enum { ALICE = 1, BOB = 2, CAROL = 4, NOBODY = 8 };

/* How a client behaves. */
enum how { ALONE, TOGETHER, LEAVES, LAST };

/* The mail of the scene.  Those TOGETHER are sent by clients who say their
 * dots at the same moment, so that one commit takes them all. */
static const struct mail {
	unsigned to;
	enum how how;
	int octets; /* of content, about */
} mails[] = {
	{ ALICE, ALONE, 300 },
	{ ALICE | BOB, ALONE, 300 },
	{ ALICE, TOGETHER, 200 },
	{ BOB, TOGETHER, 20000 },
	{ CAROL, TOGETHER, 200 },
	{ ALICE, ALONE, TOO_BIG },
	{ ALICE | CAROL, LEAVES, 30000 },
	{ ALICE | BOB | CAROL, ALONE, 40000 },
	{ NOBODY, ALONE, 300 },
	{ CAROL | NOBODY, ALONE, 300 },
	{ ALICE, LAST, 300 },
};
enum { MAILS = sizeof(mails) / sizeof(*mails) };

/* What the clients were told, in memory that the player shares with us. */
struct told {
	int code[MAILS];     /* the reply after the dot; 0: none came */
	bool dead;	     /* A is no more: do not wait for it */
	bool served;	     /* it was ready: a client was greeted */
	bool killed;	     /* A was, by us */
	bool fired;	     /* what was to fail has failed, and A lives */
	bool sound;	     /* that was before the LAST message began */
	bool drained;	     /* what waited has left */
	bool asked;	     /* the player was through: it is to end */
	int n_uids;
	char uids[UIDS][UID_LEN]; /* alice's, as a POP3 session saw them */
	int deleted;	     /* how many of them, from the first, got DELE */
	bool quit_said, quit_ok;
};

/* The world of one worker. */
static struct world {
	char dir[PATH_MAX / 2], binary[PATH_MAX / 2];
	unsigned smtp, pop3, far;
	pid_t a, b;
	struct told *told;
	long failures;
	char what[128]; /* the run, for a complaint */
} world;

/* A way to spend a run. */
struct scene {
	const char *name;
	void (*seed)(void); /* what is there before, NULL: one mailbox */
	void (*play)(void); /* what the clients do */
	int queued;	    /* messages that wait for carol from the start */
	void (*look)(void); /* into queue/failed, after all */
};

/* ---- small things -------------------------------------------------------- */

static inline void
nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

/* Something is wrong with the server: say it, and count it. */
__attribute__((format(printf, 1, 2))) static inline void
complain(const char *fmt, ...)
{
	va_list ap;

	printf("%s: ", world.what);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
	world.failures++;
}

/* Something is wrong with the test. */
static inline void
give_up(const char *why)
{
	printf("%s: cannot go on: %s: %s\n", world.what, why, strerror(errno));
	fflush(stdout);
	exit(2);
}

static inline void *
must(void *memory)
{
	if (memory == NULL)
		give_up("memory");
	return memory;
}

/* A path in the world, in one of eight buffers in turn. */
__attribute__((format(printf, 1, 2))) static inline const char *
path_of(const char *fmt, ...)
{
	static char path[8][PATH_MAX];
	static unsigned turn;
	char *to = path[turn++ % 8];
	int len = snprintf(to, PATH_MAX, "%s/", world.dir);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(to + len, PATH_MAX - (size_t)len, fmt, ap);
	va_end(ap);
	return to;
}

__attribute__((format(printf, 2, 3))) static inline void
put_file(const char *path, const char *fmt, ...)
{
	FILE *f = fopen(path, "w");
	va_list ap;

	if (f == NULL)
		give_up(path);
	va_start(ap, fmt);
	vfprintf(f, fmt, ap);
	va_end(ap);
	fclose(f);
}

/* The whole of a file, or ""; its length in *len, where that is asked for. */
static inline const char *
get_file(const char *path, size_t *len)
{
	static char text[1 << 20];
	int fd = open(path, O_RDONLY);
	ssize_t got = fd >= 0 ? read(fd, text, sizeof(text) - 1) : 0;

	if (fd >= 0)
		close(fd);
	got = got > 0 ? got : 0;
	text[got] = '\0';
	if (len != NULL)
		*len = (size_t)got;
	return text;
}

static inline int
remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
	(void)st;
	(void)kind;
	(void)at;
	return remove(path);
}

static inline void
remove_tree(const char *path)
{
	nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Call a function with the name of each file in a folder; how many. */
static inline int
each_file(const char *folder, void (*visit)(const char *folder, const char *))
{
	DIR *dir = opendir(folder);
	int n = 0;

	for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
		if (strcmp(e->d_name, ".") == 0 ||
		    strcmp(e->d_name, "..") == 0)
			continue;
		n++;
		if (visit != NULL)
			visit(folder, e->d_name);
	}
	if (dir != NULL)
		closedir(dir);
	return n;
}

/* ---- the world ----------------------------------------------------------- */

/* Below what the kernel gives to clients: or, while A is not there, one of the
 * many clients on this machine gets its port. */
static inline unsigned
free_port(void)
{
	static unsigned tried;
	struct sockaddr_in at = { .sin_family = AF_INET };
	int bound = -1;

	while (bound < 0 && tried < 1000) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		at.sin_port = htons((uint16_t)(10000 +
		    ((unsigned)getpid() * 37 + tried++) % 20000));
		bound = bind(fd, (struct sockaddr *)&at, sizeof(at));
		close(fd);
	}
	if (bound < 0)
		give_up("a free port");
	return ntohs(at.sin_port);
}

/* Start a server that nobody watches, and wait until it is ready. */
static inline pid_t
start_plain(const char *name)
{
	char log[PATH_MAX];

	snprintf(log, sizeof(log), "%s", path_of("%s.log", name));
	unlink(log);
	pid_t pid = fork();

	if (pid == 0) {
		int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
		char conf[16];

		snprintf(conf, sizeof(conf), "%s.conf", name);
		dup2(fd, 1);
		dup2(fd, 2);
		if (chdir(world.dir) == 0)
			execl(world.binary, world.binary, "-c", conf, NULL);
		_exit(127);
	}
	for (time_t end = time(NULL) + PATIENCE; time(NULL) < end; nap()) {
		int status;

		if (strstr(get_file(log, NULL), " ready ") != NULL)
			return pid;
		if (waitpid(pid, &status, WNOHANG) == pid)
			break;
	}
	complain("%s does not start: %s", name, get_file(log, NULL));
	kill(pid, SIGKILL);
	return -1;
}

/* The end of a server that nobody watches: it must go as it should. */
static inline void
stop_plain(pid_t pid, const char *name)
{
	int status = 0;

	if (pid <= 0)
		return;
	kill(pid, SIGTERM);
	waitpid(pid, &status, 0);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		complain("%s ended with status %x: %s", name, (unsigned)status,
		    get_file(path_of("%s.log", name), NULL));
}

static inline void
world_begin(const char *binary)
{
	const char *tmp = getenv("TMPDIR");

	if (realpath(binary, world.binary) == NULL)
		give_up(binary);
	snprintf(world.dir, sizeof(world.dir), "%s/mailserv-torture.XXXXXX",
	    tmp != NULL ? tmp : "/tmp");
	if (mkdtemp(world.dir) == NULL)
		give_up("mkdtemp");
	world.told = mmap(NULL, sizeof(*world.told), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	world.smtp = free_port();
	world.pop3 = free_port();
	world.far = free_port();
	put_file(path_of("users"), "alice:{PLAIN}alice\nbob:{PLAIN}bob\n");
	put_file(path_of("far-users"), "carol:{PLAIN}carol\n");
	put_file(path_of("far.zone"), "$TTL 60\n@ SOA ns root 1 2 3 4 60\n"
	    "@ NS ns\nns A 127.0.0.9\n@ MX 10 b\nb A 127.0.0.1\n"
	    "deaf MX 10 c.deaf\nc.deaf A 127.0.0.2\n");
	put_file(path_of("a.conf"), "hostname a.test\ndata_dir a-data\n"
	    "listen_smtp 127.0.0.1:%u\nlisten_pop3 127.0.0.1:%u\n"
	    "domain local.test\nusers users\nzone far.test far.zone\n"
	    "smtp_port %u\nmax_message 64K\nretry 1s\ntime_scale 20\n",
	    world.smtp, world.pop3, world.far);
	put_file(path_of("b.conf"), "hostname b.test\ndata_dir b-data\n"
	    "listen_smtp 127.0.0.1:%u\nlisten_pop3 none\n"
	    "domain far.test\nusers far-users\n", world.far);
	snprintf(world.what, sizeof(world.what), "start");
	world.b = start_plain("b");
}

static inline void
world_end(void)
{
	stop_plain(world.b, "b");
	remove_tree(world.dir);
}

/* One more folder, on another file system, where there is one.  All else is in
 * memory if it can: there is no disk to wait for. */
static const char memory[] = "/dev/shm";
static const char elsewhere_name[] = "/tmp/mailserv-elsewhere.XXXXXX";
static char elsewhere[sizeof(elsewhere_name)];

static inline void
worlds_begin(const char *binary)
{
	if (access(memory, W_OK) == 0)
		setenv("TMPDIR", memory, 0);
	world_begin(binary);
	memcpy(elsewhere, elsewhere_name, sizeof(elsewhere));
	if (mkdtemp(elsewhere) == NULL)
		give_up(elsewhere);
}

static inline void
worlds_end(void)
{
	snprintf(world.what, sizeof(world.what), "the end");
	world_end();
	remove_tree(elsewhere);
}

/* ---- the state before a run ---------------------------------------------- */

/* A message that has been in alice's mailbox since before the scene. */
static inline void
seed_mailbox(void)
{
	mkdir(path_of("a-data"), 0700);
	mkdir(path_of("a-data/mail"), 0700);
	mkdir(path_of("a-data/mail/alice"), 0700);
	mkdir(path_of("a-data/mail/alice/cur"), 0700);
	mkdir(path_of("a-data/mail/alice/new"), 0700);
	mkdir(path_of("a-data/mail/alice/tmp"), 0700);
	for (int i = 0; i < 3; i++)
		put_file(path_of("a-data/mail/alice/new/100000000%d.seed%d.x",
			     i, i), "Subject: seed-%d.\n\nEND\n", i);
}

/* A message in queue/, whole or half of one. */
static inline void
seed_queue(int n, bool env, bool msg)
{
	const char *end = n % 2 == 0 ? "" : "try 1 1 1 450 4.2.0 torn off he";

	if (msg)
		put_file(path_of("a-data/queue/%016x.msg", 0xabc0 + n),
		    "Return-Path: <alice@local.test>\nSubject: queued-%d.\n\n"
		    "END\n", n);
	if (env)
		put_file(path_of("a-data/queue/%016x.env", 0xabc0 + n),
		    "arrived %lld\nsize 60\nhead 32\nfrom alice@local.test\n"
		    "to carol@far.test\n%s", (long long)time(NULL), end);
}

static inline void
seed_folders(void)
{
	mkdir(path_of("a-data/queue"), 0700);
	mkdir(path_of("a-data/queue/tmp"), 0700);
	mkdir(path_of("a-data/queue/failed"), 0700);
}

/* Three messages that wait. */
static inline void
seed_waiting(void)
{
	seed_folders();
	for (int i = 0; i < 3; i++)
		seed_queue(i, true, true);
}

/* What a crash may have left: two messages, two halves, one that was done,
 * and one that was being received. */
static inline void
seed_crash(void)
{
	seed_folders();
	seed_queue(0, true, true);
	seed_queue(1, true, true);
	seed_queue(2, true, false);
	seed_queue(3, false, true);
	seed_queue(4, true, true);
	FILE *done = fopen(path_of("a-data/queue/%016x.env", 0xabc4), "a");

	fprintf(done, "done 1\n");
	fclose(done);
	put_file(path_of("a-data/queue/tmp/000000000000abc9.msg"), "half");
}

/* Nothing has been said; A's folder is new, B's mailbox empty. */
static inline void
scene_begin(void)
{
	memset(world.told, 0, sizeof(*world.told));
	remove_tree(path_of("a-data"));
	remove_tree(path_of("b-data/mail/carol/new"));
	mkdir(path_of("b-data/mail/carol/new"), 0700);
	unlink(path_of("a.log"));
	seed_mailbox();
}

/* ---- clients ------------------------------------------------------------- */

/* A connection to A; -1: it is dead.  Until it listens, try again. */
static inline int
dial(unsigned port)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct timeval patience = { .tv_sec = PATIENCE };

	for (time_t end = time(NULL) + PATIENCE; time(NULL) < end; nap()) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience,
		    sizeof(patience));
		if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
			return fd;
		close(fd);
		if (world.told->dead)
			return -1;
	}
	return -1;
}

/* One line of the server, without its end; false: there is none. */
static inline bool
hear_line(int fd, char line[1100])
{
	size_t len = 0;

	while (len < 1099 && recv(fd, line + len, 1, 0) == 1)
		if (line[len++] == '\n') {
			line[len - 1] = '\0';
			line[strcspn(line, "\r")] = '\0';
			return true;
		}
	return false;
}

/* An SMTP reply: its code; 0: none came. */
static inline int
hear(int fd)
{
	char line[1100];

	do
		if (!hear_line(fd, line))
			return 0;
	while (line[0] != '\0' && line[3] == '-');
	world.told->served = true;
	return atoi(line);
}

__attribute__((format(printf, 2, 3))) static inline void
say(int fd, const char *fmt, ...)
{
	char line[1100];
	va_list ap;

	va_start(ap, fmt);
	int len = vsnprintf(line, sizeof(line), fmt, ap);

	va_end(ap);
	if (send(fd, line, (size_t)len, MSG_NOSIGNAL) != len)
		return; /* the reply that does not come tells it */
}

/* From the greeting to the content; not yet the dot.  -1: refused, or dead. */
static inline int
send_content(int m)
{
	static const char *const to[] = { "alice@local.test", "bob@local.test",
		"carol@far.test", "nobody@far.test" };
	int fd = dial(world.smtp);
	bool ok = fd >= 0 && hear(fd) == 220;

	if (ok) {
		say(fd, "EHLO player.test\r\n");
		ok = hear(fd) == 250;
	}
	if (ok) {
		say(fd, "MAIL FROM:<alice@local.test>\r\n");
		ok = hear(fd) == 250;
	}
	for (int i = 0; i < 4 && ok; i++) {
		if ((mails[m].to & 1u << i) == 0)
			continue;
		say(fd, "RCPT TO:<%s>\r\n", to[i]);
		ok = hear(fd) == 250;
	}
	if (ok) {
		say(fd, "DATA\r\n");
		ok = hear(fd) == 354;
	}
	if (!ok) {
		if (fd >= 0)
			close(fd);
		return -1;
	}
	say(fd, "Subject: mail-%d.\r\n\r\n", m);
	for (int sent = 0; sent < mails[m].octets; sent += 100)
		say(fd, "%098d\r\n", sent);
	say(fd, "END\r\n");
	/* The dot need not wait for the acknowledgement of all this. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
	return fd;
}

/* The dot's reply, and goodbye. */
static inline void
hear_verdict(int fd, int m)
{
	if (fd < 0)
		return;
	world.told->code[m] = hear(fd);
	say(fd, "QUIT\r\n");
	hear(fd);
	close(fd);
}

/* One message, from the first octet to the last. */
static inline void
send_mail(int m)
{
	int fd = send_content(m);

	if (mails[m].how == LEAVES && fd >= 0) {
		close(fd);
		return;
	}
	if (fd >= 0)
		say(fd, ".\r\n");
	hear_verdict(fd, m);
}

/* All that go together: the dots are said one right after the other. */
static inline void
send_together(void)
{
	int fd[MAILS];

	for (int m = 0; m < MAILS; m++)
		fd[m] = mails[m].how == TOGETHER ? send_content(m) : -1;
	for (int m = 0; m < MAILS; m++)
		if (fd[m] >= 0)
			say(fd[m], ".\r\n");
	for (int m = 0; m < MAILS; m++)
		hear_verdict(fd[m], m);
}

/* A POP3 session's beginning; -1: it did not come to that. */
static inline int
login(const char *user)
{
	int fd = dial(world.pop3);
	char line[1100];

	if (fd < 0)
		return -1;
	bool ok = hear_line(fd, line) && line[0] == '+';

	say(fd, "USER %s\r\nPASS %s\r\n", user, user);
	ok = ok && hear_line(fd, line) && line[0] == '+' &&
	    hear_line(fd, line) && line[0] == '+';
	if (!ok) {
		close(fd);
		return -1;
	}
	return fd;
}

/* UIDL's answer, into uids; how many, or -1. */
static inline int
ask_uids(int fd, char uids[UIDS][UID_LEN])
{
	char line[1100];
	int n = 0;

	say(fd, "UIDL\r\n");
	if (!hear_line(fd, line) || line[0] != '+')
		return -1;
	while (hear_line(fd, line)) {
		if (strcmp(line, ".") == 0)
			return n;
		if (n < UIDS)
			snprintf(uids[n++], UID_LEN, "%.*s", UID_LEN - 1,
			    line + strcspn(line, " ") + 1);
	}
	return -1;
}

/* Alice reads, deletes her first two, and says QUIT. */
static inline void
fetch_and_delete(void)
{
	struct told *told = world.told;
	int fd = login("alice");
	char line[1100];

	if (fd < 0)
		return;
	int n = ask_uids(fd, told->uids);

	told->n_uids = n > 0 ? n : 0;
	say(fd, "RETR 1\r\n");
	while (hear_line(fd, line) && strcmp(line, ".") != 0 &&
	    strncmp(line, "-ERR", 4) != 0)
		;
	for (int i = 0; i < 2 && n > 2; i++) {
		say(fd, "DELE %d\r\n", i + 1);
		told->deleted += hear_line(fd, line) && line[0] == '+';
	}
	told->quit_said = told->deleted > 0;
	say(fd, "QUIT\r\n");
	told->quit_ok = hear_line(fd, line) && line[0] == '+';
	close(fd);
}

/* Bob deletes, and is gone without QUIT: nothing is deleted. */
static inline void
delete_and_leave(void)
{
	int fd = login("bob");
	char line[1100];

	if (fd < 0)
		return;
	say(fd, "DELE 1\r\n");
	hear_line(fd, line);
	close(fd);
}

/* How many envelopes are in A's queue? */
static int waiting_count;

static inline void
count_envelope(const char *folder, const char *name)
{
	(void)folder;
	waiting_count += strstr(name, ".env") != NULL;
}

static inline int
waiting(void)
{
	waiting_count = 0;
	each_file(path_of("a-data/queue"), count_envelope);
	return waiting_count;
}

/* Until nothing waits in A's queue; false: too long, or A is dead. */
static inline bool
wait_drained(time_t seconds)
{
	for (time_t end = time(NULL) + seconds; time(NULL) < end; nap()) {
		if (waiting() == 0)
			return true;
		if (world.told->dead)
			return false;
	}
	return false;
}

/* The whole scene.  A removal that has failed leaves the queue full: then
 * the player goes on after a while. */
static inline void
play_everything(void)
{
	send_together();
	for (int m = 0; m < MAILS; m++)
		if (mails[m].how == ALONE || mails[m].how == LEAVES)
			send_mail(m);
	wait_drained(2);
	fetch_and_delete();
	delete_and_leave();
	world.told->sound = world.told->fired && !world.told->dead;
	send_mail(MAILS - 1);
}

/* What waits from the start goes out; then one that comes in. */
static inline void
play_recovery(void)
{
	int fd = dial(world.smtp);

	hear(fd);
	close(fd);
	world.told->drained = wait_drained(2);
	world.told->sound = world.told->fired && !world.told->dead;
	send_mail(MAILS - 1);
}

/* ---- the scenes ---------------------------------------------------------- */

/* There is nothing at all, as on the first day. */
static inline void
seed_nothing(void)
{
	remove_tree(path_of("a-data"));
}

/* mail/ is on another file system, where there is one. */
static inline void
seed_elsewhere(void)
{
	remove_tree(path_of("a-data"));
	mkdir(path_of("a-data"), 0700);
	remove_tree(elsewhere);
	if (mkdir(elsewhere, 0700) < 0 ||
	    symlink(elsewhere, path_of("a-data/mail")) < 0)
		give_up(elsewhere);
}

/* Has some of a message been written? */
static bool begun;

static inline void
look_whether_begun(const char *folder, const char *name)
{
	char path[PATH_MAX];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	begun |= stat(path, &st) == 0 && st.st_size > 0;
}

/* One for three folders, which a single syncfs() does for all, while another
 * one has been written to its file, and waits for its dot. */
static inline void
play_beside(void)
{
	int m = 3, fd = send_content(m);

	begun = false;
	for (int i = 0; i < 2000 && fd >= 0 && !begun && !world.told->dead;
	     i++, nap())
		each_file(path_of("a-data/queue/tmp"), look_whether_begun);
	send_mail(7);
	if (fd >= 0)
		say(fd, ".\r\n");
	hear_verdict(fd, m);
	wait_drained(2);
}

/* The same after some that come alone, as on most days. */
static inline void
play_first(void)
{
	send_mail(1);
	send_mail(4);
	play_beside();
}

/* A message that nobody can be told of.  It is nobody's, for three reasons:
 * no such user, no such domain, and a host that has not listened for days. */
static const char nobodys[] = "000000000000abcd";

static inline void
seed_nobodys(void)
{
	seed_folders();
	put_file(path_of("a-data/queue/%s.msg", nobodys),
	    "Return-Path: <>\nSubject: nobody's.\n\nEND\n");
	put_file(path_of("a-data/queue/%s.env", nobodys),
	    "arrived %lld\nsize 60\nhead 16\nfrom \n"
	    "to nobody@far.test\nto x@gone.far.test\nto y@deaf.far.test\n",
	    (long long)time(NULL) - 10 * 86400L);
}

/* Whom it is kept for, a bit each. */
static unsigned nobodys_to;

/* An envelope in queue/failed is whole, and, with the content, counts. */
static inline void
look_at_envelope(const char *text, bool pair)
{
	char *copy = must(strdup(text)), *save = NULL;
	unsigned to = 0;

	for (char *line = strtok_r(copy, "\n", &save); line != NULL;
	     line = strtok_r(NULL, "\n", &save))
		if (strcmp(line, "to nobody@far.test") == 0)
			to |= 1;
		else if (strcmp(line, "to x@gone.far.test") == 0)
			to |= 2;
		else if (strcmp(line, "to y@deaf.far.test") == 0)
			to |= 4;
		else if (strncmp(line, "arrived ", 8) != 0 &&
		    strcmp(line, "size 60") != 0 &&
		    strcmp(line, "head 16") != 0 && strcmp(line, "from ") != 0)
			complain("in queue/failed: %s", line);
	free(copy);
	if (to == 0)
		complain("for nobody in queue/failed");
	nobodys_to |= pair ? to : 0;
}

static inline void
look_at_half(const char *folder, const char *name)
{
	char env[PATH_MAX], msg[PATH_MAX];

	snprintf(env, sizeof(env), "%s/%.16s.env", folder, name);
	snprintf(msg, sizeof(msg), "%s/%.16s.msg", folder, name);
	bool content = access(msg, F_OK) == 0;

	if (strncmp(name, nobodys, 16) == 0)
		complain("in queue/failed under its old id");
	if (content && strstr(get_file(msg, NULL), "END\n") == NULL)
		complain("no content in queue/failed");
	if (strstr(name, ".env") != NULL)
		look_at_envelope(get_file(env, NULL), content);
}

/* So it lies in queue/failed, whole, and for all: in more than one pair, and
 * with a half that a crash left, perhaps. */
static inline void
look_for_nobodys(void)
{
	nobodys_to = 0;
	each_file(path_of("a-data/queue/failed"), look_at_half);
	if (nobodys_to != 7)
		complain("not for all in queue/failed");
}

static inline void
play_nobodys(void)
{
	int fd = dial(world.smtp);

	hear(fd);
	close(fd);
	wait_drained(2);
}

/* ---- under somebody's eyes ----------------------------------------------- */

static inline pid_t
start_player(void (*play)(void))
{
	fflush(stdout);
	pid_t pid = fork();

	if (pid == 0) {
		play();
		_exit(0);
	}
	return pid;
}

/* Show each stop of the server to watch(), until it ends: its status.  When
 * the player is through it is asked to. */
static inline int
watch_all(void (*play)(void), pid_t server,
    void (*watch)(void *run, pid_t pid, const struct call *call), void *run)
{
	pid_t player = start_player(play), pid;
	struct call call = { 0 };
	int status, end = 0;

	while (player != 0 || !world.told->dead) {
		pid = waitpid(-1, &status, 0);
		if (pid == player) {
			player = 0;
			world.told->asked = !world.told->dead;
			if (world.told->asked)
				kill(server, SIGTERM);
		} else if (pid == world.b) {
			give_up("B has died");
		} else if (pid == server && !WIFSTOPPED(status)) {
			end = status;
			world.told->dead = true;
		} else if (pid == server && traced_stop(pid, status, &call)) {
			watch(run, pid, &call);
			traced_go(pid);
		}
	}
	return end;
}

/* ---- the survey ---------------------------------------------------------- */

/* How often a message is in a mailbox, or a report of it. */
static struct found {
	const char *text;
	bool report;
	int times;
} found;

static inline void
look_into(const char *folder, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	const char *text = get_file(path, NULL);
	bool report = strstr(text, "multipart/report") != NULL;

	found.times += report == found.report &&
	    strstr(text, found.text) != NULL;
}

static inline int
count_mail(const char *mailbox, const char *text, bool report)
{
	found = (struct found){ text, report, 0 };
	each_file(path_of("%s/new", mailbox), look_into);
	each_file(path_of("%s/cur", mailbox), look_into);
	return found.times;
}

/* A file in a mailbox is whole: it has the size that its name tells, and the
 * end that every content of ours has. */
static inline void
is_whole(const char *folder, const char *name)
{
	char path[PATH_MAX];
	size_t len, size;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	const char *text = get_file(path, &len);
	const char *says = strstr(name, ",S=");

	if (says != NULL && (sscanf(says, ",S=%zu", &size) != 1 || size != len))
		complain("%s has %zu octets", path, len);
	if (len < 4 || (strcmp(text + len - 4, "END\n") != 0 &&
	    strcmp(text + len - 3, "--\n") != 0))
		complain("%s is not whole", path);
}

/* Names in queue/ that are explained: NOTES.md, "What lies on disk". */
static inline void
is_explained(const char *folder, const char *name)
{
	static const char hex[] = "0123456789abcdef";
	bool pair = strspn(name, hex) == 16 &&
	    (strcmp(name + 16, ".env") == 0 || strcmp(name + 16, ".msg") == 0);

	if (!pair && strcmp(name, "tmp") != 0 && strcmp(name, "failed") != 0 &&
	    strcmp(name, "lock") != 0 && name[0] != '.')
		complain("%s/%s is not explained", folder, name);
}

/* What is left in a folder that should be empty. */
static inline void
is_left(const char *folder, const char *name)
{
	if (strcmp(name, "tmp") != 0 && strcmp(name, "failed") != 0 &&
	    strcmp(name, "lock") != 0 && name[0] != '.')
		complain("%s/%s is left", folder, name);
}

/* What was being written: in queue/tmp, and in one folder for each second. */
static inline void
in_drafts(void (*visit)(const char *folder, const char *))
{
	each_file(path_of("a-data/queue/tmp"), visit);
	for (unsigned second = 0; second < 256; second++)
		each_file(path_of("a-data/queue/.groups/%02x", second), visit);
}

/* Is the mailbox's number of a message one of these? */
static inline void
expect(int m, const char *where, int times, const int range[2])
{
	if (times < range[0] || times > range[1])
		complain("mail-%d (answered %d) is %d times %s", m,
		    world.told->code[m], times, where);
}

/* Each message against what its client was told. */
static inline void
survey_mail(int m)
{
	char text[40];
	unsigned to = mails[m].to;
	bool kept = world.told->code[m] == 250;
	bool never = mails[m].octets == TOO_BIG || mails[m].how == LEAVES;
	int once[2] = { kept, !never };	/* local: never twice */
	int twice[2] = { kept, never ? 0 : 2 };
	int none[2] = { 0, 0 };

	if (world.told->sound && mails[m].how == LAST && !kept)
		complain("not whole again: mail-%d was answered %d", m,
		    world.told->code[m]);
	snprintf(text, sizeof(text), "Subject: mail-%d.\n", m);
	expect(m, "alice's", count_mail("a-data/mail/alice", text, false),
	    to & ALICE ? once : none);
	expect(m, "bob's", count_mail("a-data/mail/bob", text, false),
	    to & BOB ? once : none);
	expect(m, "carol's", count_mail("b-data/mail/carol", text, false),
	    to & CAROL ? twice : none);
	expect(m, "reported", count_mail("a-data/mail/alice", text, true),
	    to & NOBODY ? twice : none);
}

/* What POP3 shows of alice is what lies there, and the unique-ids are what
 * they were. */
static inline void
survey_pop3(void)
{
	static char uids[UIDS][UID_LEN];
	struct told *told = world.told;
	int fd = login("alice");
	int n = fd >= 0 ? ask_uids(fd, uids) : -1;
	int files = each_file(path_of("a-data/mail/alice/new"), NULL) +
	    each_file(path_of("a-data/mail/alice/cur"), NULL);

	if (fd >= 0)
		close(fd);
	if (n != files)
		complain("POP3 shows %d messages of %d", n, files);
	for (int i = 0; i < told->n_uids; i++) {
		int at = 0;

		while (at < n && strcmp(uids[at], told->uids[i]) != 0)
			at++;
		if (i >= told->deleted && at == n)
			complain("unique-id %s has gone", told->uids[i]);
		if (i < told->deleted && !told->quit_said && at == n)
			complain("%s was deleted before QUIT", told->uids[i]);
		if (i < told->deleted && told->quit_ok && at < n)
			complain("%s was deleted, and is back", told->uids[i]);
	}
}

/* All of alice's and bob's, before and after the restart. */
static inline void
survey_mailboxes(void)
{
	each_file(path_of("a-data/mail/alice/new"), is_whole);
	each_file(path_of("a-data/mail/alice/cur"), is_whole);
	each_file(path_of("a-data/mail/bob/new"), is_whole);
	each_file(path_of("b-data/mail/carol/new"), is_whole);
}

/* A message that waited for carol from the start, or, after -d, might. */
static inline void
survey_seed(int n, bool deleted)
{
	char text[40];

	snprintf(text, sizeof(text), "Subject: queued-%d.\n", n);
	int times = count_mail("b-data/mail/carol", text, false);

	if ((times == 0 && !deleted) || times > 2)
		complain("queued-%d has come %d times", n, times);
}

/* What nobody takes is there in the end, where there was such. */
static inline void
look_into_failed(const struct scene *scene)
{
	if (scene->look != NULL)
		scene->look();
	else
		each_file(path_of("a-data/queue/failed"), is_left);
}

/* Look at what lies there; let A, started again, empty its queue within these
 * seconds; look again.  False: it does not start. */
static inline bool
survey_restart(time_t seconds)
{
	each_file(path_of("a-data/queue"), is_explained);
	survey_mailboxes();
	world.a = start_plain("a");
	if (world.a < 0)
		return false;
	if (!wait_drained(seconds))
		complain("the queue does not drain: %s",
		    get_file(path_of("a.log"), NULL));
	survey_pop3();
	stop_plain(world.a, "a");
	survey_mailboxes();
	return true;
}

/* A has ended somehow: what has come of all that was promised? */
static inline void
scene_survey(const struct scene *scene)
{
	world.told->dead = false;
	if (!survey_restart(PATIENCE))
		return;
	for (int m = 0; m < MAILS; m++)
		survey_mail(m);
	each_file(path_of("a-data/queue"), is_left);
	in_drafts(is_left);
	look_into_failed(scene);
	if (world.told->killed && scene->seed == seed_elsewhere)
		return; /* a copy may be left, in a folder that readers clean */
	each_file(path_of("a-data/mail/alice/tmp"), is_left);
	each_file(path_of("a-data/mail/bob/tmp"), is_left);
}

/* ---- the table ----------------------------------------------------------- */

static const struct scene scenes[] = {
	{ "everything", NULL, play_everything, 0, NULL },
	{ "recovery", seed_crash, play_recovery, 2, NULL },
	{ "first day", seed_nothing, play_first, 0, NULL },
	{ "nobody's", seed_nobodys, play_nobodys, 0, look_for_nobodys },
	{ "two file systems", seed_elsewhere, play_beside, 0, NULL },
};
enum { SCENES = sizeof(scenes) / sizeof(*scenes) };

#endif
