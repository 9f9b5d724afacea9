/*
 * load.c -- the server under load: who waits, how long, and in how much memory.
 *
 *	load [-s] SERVER [WORDS]
 *
 * What this is
 *	A program that starts the real server once for every row of a table,
 *	presses it in one way, and meanwhile watches, from a second process, an
 *	honest client who delivers a message by SMTP and fetches it by POP3,
 *	again and again; or one who says NOOP.  It prints what it measured
 *	and the limits, and exits 1 where one is passed.  -s: in a minute.
 *	WORDS: only the rows whose names hold them.
 * A typical sequence
 *	run_row -> start_server -> hold_many -> watch_begin ... watch_end ->
 *	server_memory, server_cpu -> stop_server -> print_row
 * Always true
 *	All ports are free ones of loopback, all files lie in a new folder
 *	below TMPDIR, and who dies takes the processes that it has
 *	started with it.
 *	Peers block for PATIENCE seconds at most: silence is a failure.
 * What limits are for
 *	They are four times and more what a machine of two cores needs, so
 *	that a busy one passes.  What they must catch is a mistake that grows
 *	with the number of connections: that costs ten times, not twice.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <ifaddrs.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	SECONDS = 10,      /* for a row, */
	BRIEF = 1,         /* or, in the short form, this */
	PATIENCE = 30,     /* seconds, for one answer */
	PEERS_MAX = 10000, /* connections that we hold */
	SLOW = 2000,       /* of them, an octet a second */
	DEAF = 200,        /* who never read */
	RESETS = 200,      /* at once, in the middle of DATA */
	KNOCKS = 5000,     /* connections a second that say nothing */
	ENDLESS = 10,      /* lines without an end, of each kind */
	RECIPIENTS = 1000, /* of one message */
	BIG_PEERS = 100,   /* each with a big message */
	GUESSERS = 500,    /* of a password, at once */
	FEW_FILES = 200,   /* descriptors, where they run out */
	SAMPLES = 200000,  /* that one row may take */
	BLOCK = 64 * 1024, /* of content */
	TICK = 10,         /* milliseconds */
};

#define MIB (1024.0 * 1024.0)

/* What the watching process shares with us. */
struct watch {
	atomic_bool go, stop;
	atomic_uint n, failed;
	char why[256]; /* the last failure */
	float ms[SAMPLES];
};

/* One row of the table.  A limit of 0: none. */
struct row {
	const char *name;
	void (*press)(void);
	const char *conf;    /* lines of configuration of its own */
	rlim_t descriptors;  /* the server's limit; 0: ours */
	bool noop;           /* watch NOOP, not whole deliveries */
	double memory;       /* MiB at most, at any time */
	double p99, longest; /* milliseconds at most */
	double cpu;          /* per cent at most, once all are silent */
};

/* One who speaks and waits for the answer. */
struct talk {
	int fd;
	size_t start, end;
	char in[BLOCK];
};

static const char *server; /* the binary */
static char top[PATH_MAX]; /* our folder */
static char dir[PATH_MAX]; /* a row's */
static bool brief;
static unsigned smtp, pop3;            /* ports */
static char stranger[INET_ADDRSTRLEN]; /* an address of ours, no loopback */
static pid_t server_pid, watch_pid;
static struct watch *watch;
static int peers[PEERS_MAX];
static size_t n_peers, max_peers;
static char block[BLOCK]; /* content: lines of 64 octets */
static char note[512];    /* what the row wants to tell */
static bool row_failed, failed;

/* ---- small things -------------------------------------------------------- */

static double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static void
nap(long ms)
{
	nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000 }, NULL);
}

/* The first number, or, in the short form, the second. */
static size_t
either(size_t full, size_t less)
{
	return brief ? less : full;
}

/* Add words to the row. */
__attribute__((format(printf, 1, 2))) static void
tell(const char *fmt, ...)
{
	size_t len = strlen(note);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(note + len, sizeof(note) - len, fmt, ap);
	va_end(ap);
}

/* The row fails, for this reason. */
__attribute__((format(printf, 1, 2))) static void
wrong(const char *fmt, ...)
{
	va_list ap;

	if (!row_failed) {
		printf("  WRONG: ");
		va_start(ap, fmt);
		vprintf(fmt, ap);
		va_end(ap);
		printf("\n");
	}
	row_failed = failed = true;
}

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

static void
remove_folder(const char *path)
{
	nftw(path, remove_one, 20, FTW_DEPTH | FTW_PHYS);
}

/* Nothing can be measured any more. */
static void
die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	if (server_pid > 0)
		kill(server_pid, SIGKILL);
	if (watch_pid > 0)
		kill(watch_pid, SIGKILL);
	if (top[0] != '\0')
		remove_folder(top);
	exit(1);
}

/* Gigabytes may lie in our folder: they go.  Little of this is safe in a
 * handler; but nothing else will run. */
static void
on_signal(int number)
{
	(void)number;
	errno = EINTR;
	die("stopped");
}

/* A file of the row's folder, opened. */
static FILE *
create(const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%.3000s/%.1000s", dir, name);
	FILE *f = fopen(path, "w");

	if (f == NULL)
		die(path);
	return f;
}

/* How many entries has a folder, hidden ones left out? */
static unsigned
count_files(const char *path)
{
	DIR *d = opendir(path);
	unsigned n = 0;

	for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;)
		n += e->d_name[0] != '.';
	if (d != NULL)
		closedir(d);
	return n;
}

/* A child of ours does not outlive us. */
static pid_t
fork_bound(void)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (pid == 0) {
		signal(SIGINT, SIG_DFL);
		signal(SIGTERM, SIG_DFL);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	}
	return pid;
}

/* ---- one who speaks and listens ------------------------------------------ */

/* Connect; -1, errno.  Also the greeting of who refuses us comes later. */
static int
dial(const char *host, unsigned port)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
		.sin_port = htons((uint16_t)port) };
	struct timeval patience = { .tv_sec = PATIENCE };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET, host, &to.sin_addr);
	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
		return fd;
	close(fd);
	return -1;
}

static bool
send_all(int fd, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		data += n;
		len -= (size_t)n;
	}
	return true;
}

/* The next line, its CRLF cut off; NULL: none came. */
static char *
hear_line(struct talk *t)
{
	for (;;) {
		char *line = t->in + t->start;
		char *end = memchr(line, '\n', t->end - t->start);

		if (end != NULL) {
			t->start = (size_t)(end + 1 - t->in);
			end[end > line && end[-1] == '\r' ? -1 : 0] = '\0';
			return line;
		}
		memmove(t->in, line, t->end - t->start);
		t->end -= t->start;
		t->start = 0;
		ssize_t n = recv(t->fd, t->in + t->end, BLOCK - t->end, 0);

		if (n <= 0)
			return NULL;
		t->end += (size_t)n;
	}
}

/* Hear one answer, of many lines perhaps, that begins so. */
static bool
hear(struct talk *t, const char *want)
{
	char *line;

	do
		line = hear_line(t);
	while (
	    line != NULL && line[0] >= '2' && line[0] <= '5' && line[3] == '-');
	bool good = line != NULL && strncmp(line, want, strlen(want)) == 0;

	if (!good)
		snprintf(watch->why, sizeof(watch->why),
		    "wanted %.20s, heard %.180s", want,
		    line != NULL ? line : strerror(errno));
	return good;
}

/* Say something, and hear the answer. */
__attribute__((format(printf, 3, 4))) static bool
ask(struct talk *t, const char *want, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	int len = vsnprintf(text, sizeof(text), fmt, ap);

	va_end(ap);
	return send_all(t->fd, text, (size_t)len) && hear(t, want);
}

/* Connect, and hear the greeting. */
static bool
meet(struct talk *t, unsigned port)
{
	t->start = t->end = 0;
	t->fd = dial("127.0.0.1", port);
	return t->fd >= 0 && hear(t, port == smtp ? "220" : "+OK");
}

/* Up to DATA. */
static bool
begin_message(struct talk *t, const char *to)
{
	return meet(t, smtp) && ask(t, "250", "EHLO load.test\r\n") &&
	    ask(t, "250", "MAIL FROM:<load@load.test>\r\n") &&
	    ask(t, "250", "RCPT TO:<%s@localhost>\r\n", to) &&
	    ask(t, "354", "DATA\r\n");
}

/* A whole delivery. */
static bool
deliver(struct talk *t, const char *to)
{
	bool good = begin_message(t, to) &&
	    ask(t, "250", "Subject: load\r\n\r\nhello\r\n.\r\n") &&
	    ask(t, "221", "QUIT\r\n");

	if (t->fd >= 0)
		close(t->fd);
	return good;
}

static bool
login(struct talk *t, const char *user)
{
	return meet(t, pop3) && ask(t, "+OK", "USER %s\r\n", user) &&
	    ask(t, "+OK", "PASS secret\r\n");
}

/* A whole fetch. */
static bool
fetch(struct talk *t)
{
	bool good = login(t, "honest") && ask(t, "+OK 1 ", "STAT\r\n") &&
	    ask(t, "+OK", "RETR 1\r\n");
	const char *line;

	while (good && (line = hear_line(t)) != NULL && strcmp(line, ".") != 0)
		continue;
	good = good && ask(t, "+OK", "DELE 1\r\n") && ask(t, "+OK", "QUIT\r\n");
	if (t->fd >= 0)
		close(t->fd);
	return good;
}

/* ---- the one who watches ------------------------------------------------- */

static void
sample(double begun, bool good)
{
	watch->failed += !good;
	if (watch->n < SAMPLES)
		watch->ms[watch->n++] = (float)(now() - begun);
}

/* In a process of its own, so that it waits for nobody but the server. */
static void
watch_run(bool noop)
{
	static struct talk t;

	while (!watch->go)
		nap(1);
	bool met = noop && meet(&t, smtp);

	while (!watch->stop) {
		double begun = now();

		if (noop) {
			sample(begun, met && ask(&t, "250", "NOOP\r\n"));
			nap(1);
			continue;
		}
		bool came = deliver(&t, "honest");

		sample(begun, came);
		begun = now();
		if (came)
			sample(begun, fetch(&t));
		nap(2);
	}
	_exit(0);
}

static void
watch_start(bool noop)
{
	memset(watch, 0, sizeof(*watch));
	watch_pid = fork_bound();
	if (watch_pid == 0)
		watch_run(noop);
}

static double watch_until;

/* From here on it is watched, for as long as a row takes. */
static void
watch_begin(void)
{
	watch->go = true;
	watch_until = now() + (double)either(SECONDS, BRIEF) * 1000;
}

static bool
watching(void)
{
	return now() < watch_until;
}

static void
watch_end(void)
{
	watch->stop = true;
	if (watch_pid > 0)
		waitpid(watch_pid, NULL, 0);
	watch_pid = 0;
}

static int
by_size(const void *one, const void *two)
{
	float a = *(const float *)one, b = *(const float *)two;

	return (a > b) - (a < b);
}

/* Of a sorted row of figures. */
static double
percentile(const float *ms, size_t n, size_t percent)
{
	return n > 0 ? (double)ms[(n - 1) * percent / 100] : 0;
}

/* ---- the server ---------------------------------------------------------- */

static unsigned
free_port(void)
{
	struct sockaddr_in any = { .sin_family = AF_INET };
	socklen_t len = sizeof(any);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(fd, (struct sockaddr *)&any, len) < 0 ||
	    getsockname(fd, (struct sockaddr *)&any, &len) < 0)
		die("no free port");
	close(fd);
	return ntohs(any.sin_port);
}

/* What crypt(3) makes of "secret", from the server's own -H. */
static void
hash_secret(FILE *users)
{
	char command[PATH_MAX + 64], hash[256];

	snprintf(command, sizeof(command), "echo secret | '%.4000s' -H",
	    server);
	FILE *f = popen(command, "r");

	if (f == NULL || fgets(hash, sizeof(hash), f) == NULL)
		die("mailserv -H");
	pclose(f);
	fprintf(users, "hashed:%s", hash);
}

static void
write_conf(const struct row *row)
{
	FILE *f = create("users");

	fprintf(f, "honest:{PLAIN}secret\nother:{PLAIN}secret\n");
	hash_secret(f);
	for (unsigned i = 0; i < RECIPIENTS; i++)
		fprintf(f, "u%u:{PLAIN}secret\n", i);
	fclose(f);
	f = create("conf");
	fprintf(f,
	    "hostname localhost\nusers users\ndata_dir data\n"
	    "listen_smtp 127.0.0.1:%u\nlisten_pop3 127.0.0.1:%u\n",
	    smtp, pop3);
	if (stranger[0] != '\0')
		fprintf(f, "listen_smtp %s:%u\nrelay_from none\n", stranger,
		    smtp);
	fputs(row->conf != NULL ? row->conf : "max_clients 10100\n", f);
	fclose(f);
}

/* Has it said "ready"? */
static bool
is_ready(const char *log)
{
	char line[1024];
	FILE *f = fopen(log, "r");
	bool ready = false;

	while (f != NULL && fgets(line, sizeof(line), f) != NULL)
		ready |= strstr(line, " ready ") != NULL;
	if (f != NULL)
		fclose(f);
	return ready;
}

static void
start_server(const struct row *row)
{
	char conf[PATH_MAX], log[PATH_MAX];
	struct rlimit limit = { row->descriptors, row->descriptors };

	snprintf(conf, sizeof(conf), "%.4000s/conf", dir);
	snprintf(log, sizeof(log), "%.4000s/log", dir);
	server_pid = fork_bound();
	if (server_pid == 0) {
		int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);

		if (fd < 0 || dup2(fd, 2) < 0 ||
		    (row->descriptors != 0 &&
			setrlimit(RLIMIT_NOFILE, &limit) < 0))
			_exit(126);
		close_range(3, ~0U, 0); /* what whoever ran us left open */
		execl(server, server, "-c", conf, (char *)NULL);
		_exit(127);
	}
	for (int i = 0; !is_ready(log); i++) {
		if (i == 1000 || waitpid(server_pid, NULL, WNOHANG) != 0)
			die("the server does not start");
		nap(5);
	}
}

/* It must end well. */
static void
stop_server(void)
{
	int status = 0;

	kill(server_pid, SIGTERM);
	waitpid(server_pid, &status, 0);
	server_pid = 0;
	if (status != 0)
		wrong("the server ended with status %#x", (unsigned)status);
}

/* A figure of /proc/PID/status, in MiB. */
static double
server_memory(const char *field)
{
	char path[64], line[256];
	double kib = 0;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)server_pid);
	FILE *f = fopen(path, "r");

	while (f != NULL && fgets(line, sizeof(line), f) != NULL)
		if (strncmp(line, field, strlen(field)) == 0)
			kib = strtod(line + strlen(field) + 1, NULL);
	if (f != NULL)
		fclose(f);
	return kib / 1024;
}

/* Milliseconds of processor that it has used. */
static double
server_cpu(void)
{
	char path[64], text[1024] = "";
	unsigned long user = 0, sys = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)server_pid);
	FILE *f = fopen(path, "r");

	if (f == NULL || fgets(text, sizeof(text), f) == NULL)
		die(path);
	fclose(f);
	const char *at = strrchr(text, ')');

	if (at == NULL ||
	    sscanf(at, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
		&user, &sys) != 2)
		die(path);
	return (double)(user + sys) * 1000 / (double)sysconf(_SC_CLK_TCK);
}

static unsigned
server_files(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)server_pid);
	return count_files(path);
}

/* Of its processor, in per cent, what it takes while nobody says anything;
 * up to ten seconds later, for it may have to digest what was said. */
static void
expect_quiet(double limit)
{
	double percent = 100;

	for (int i = 0; i < 20 && percent > limit; i++) {
		double begun = now(), used = server_cpu();

		nap(500);
		percent = (server_cpu() - used) * 100 / (now() - begun);
	}
	tell("%s%.0f %% of a processor in silence", note[0] != '\0' ? "; " : "",
	    percent);
	if (percent > limit)
		wrong("over %.0f %% of a processor in silence", limit);
}

/* How many files lie in a folder of its data_dir? */
static unsigned
count_data(const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%.3000s/data/%.1000s", dir, name);
	return count_files(path);
}

/* How many are being written: in queue/tmp, and in a folder for each second. */
static unsigned
count_drafts(void)
{
	char folder[32];
	unsigned n = count_data("queue/tmp");

	for (unsigned second = 0; second < 256; second++) {
		snprintf(folder, sizeof(folder), "queue/.groups/%02x", second);
		n += count_data(folder);
	}
	return n;
}

/* ---- the ways to press it ------------------------------------------------ */

/* Connect many, SMTP and POP3 in turn, and hear every greeting. */
static void
hold_many(size_t n)
{
	char text[512];

	for (; n_peers < n; n_peers++) {
		peers[n_peers] = dial("127.0.0.1", n_peers % 2 ? pop3 : smtp);
		if (peers[n_peers] < 0)
			die("a connection");
	}
	for (size_t i = 0; i < n; i++)
		if (recv(peers[i], text, sizeof(text), 0) <= 0 ||
		    (text[0] != '2' && text[0] != '+')) {
			wrong("peer %zu was not greeted", i);
			return;
		}
}

static void
release_all(void)
{
	while (n_peers > 0)
		close(peers[--n_peers]);
}

/* So many more who are in the middle of DATA. */
static void
hold_data(size_t n)
{
	static struct talk t;

	for (; n > 0; n--) {
		if (!begin_message(&t, "other")) {
			wrong("no DATA: %s", watch->why);
			return;
		}
		peers[n_peers++] = t.fd;
	}
}

/* Send what can be sent now; -1: the peer has gone. */
static ssize_t
push(int fd, const char *data, size_t len)
{
	ssize_t n = send(fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);

	return n < 0 && errno == EAGAIN ? 0 : n;
}

/* Nobody else. */
static void
press_nothing(void)
{
	watch_begin();
	while (watching())
		nap(TICK);
	watch_end();
}

/* They came, heard the greeting, and say nothing. */
static void
press_held(void)
{
	double before = server_memory("VmRSS:");

	hold_many(max_peers);
	tell("%zu held, %.1f KiB each", n_peers,
	    (server_memory("VmRSS:") - before) * 1024 / (double)n_peers);
	press_nothing();
}

/* Of the held, some send an octet a second; the last octets at once, so that
 * each of them must have its answer at the end. */
static void
press_slow(void)
{
	static const char line[] = "NOOP and many more words\r\n";
	_Static_assert(SECONDS + 4 < sizeof(line), "an octet a second");
	static size_t sent[SLOW];
	size_t slow = max_peers < SLOW ? max_peers : SLOW;
	char text[512];

	hold_many(max_peers);
	memset(sent, 0, sizeof(sent));
	tell("%zu held, %zu of them slow", n_peers, slow);
	watch_begin();
	for (size_t tick = 0; watching(); tick++) {
		for (size_t i = tick % 100; i < slow; i += 100)
			if (push(peers[i], line + sent[i]++, 1) != 1)
				wrong("slow peer %zu was cut off", i);
		nap(TICK);
	}
	watch_end();
	for (size_t i = 0; i < slow; i++)
		if (!send_all(peers[i], line + sent[i],
			strlen(line + sent[i])) ||
		    recv(peers[i], text, sizeof(text), 0) <= 0)
			wrong("slow peer %zu has no answer", i);
}

/* SIGTERM: each of them hears why it must go. */
static void
press_stop(void)
{
	static struct talk t;

	hold_many(max_peers);
	press_nothing();
	double begun = now();

	kill(server_pid, SIGTERM);
	for (size_t i = 0; i < n_peers && !row_failed; i++) {
		t = (struct talk){ .fd = peers[i] };
		if (!hear(&t, i % 2 ? "-ERR" : "421"))
			wrong("at the end: %s", watch->why);
	}
	tell("%zu held, told of the end in %.0f ms", n_peers, now() - begun);
}

/* A big message for each of the first users, under many names. */
static void
plant_messages(size_t n)
{
	char path[PATH_MAX], old[PATH_MAX] = "";

	for (size_t i = 0; i < n; i++) {
		static const char *const folders[] = { "", "/tmp", "/cur",
			"/new" };

		for (size_t k = 0; k < 4; k++) {
			snprintf(path, sizeof(path), "%.3000s/data/mail/u%zu%s",
			    dir, i, folders[k]);
			if (mkdir(path, 0700) < 0)
				die(path);
		}
		snprintf(path, sizeof(path), "%.3000s/data/mail/u%zu/new/1.1.x",
		    dir, i);
		if (old[0] != '\0' && link(old, path) == 0)
			continue;
		FILE *f = fopen(path, "w");

		for (size_t k = 0; f != NULL && k < 32; k++)
			fwrite(block, 1, BLOCK, f);
		if (f == NULL || fclose(f) != 0)
			die(path);
		snprintf(old, sizeof(old), "%s", path);
	}
}

/* Half ask for a big message, again and again, half for HELP; none reads. */
static void
press_deaf(void)
{
	static struct talk t;
	static char help[BLOCK];

	for (size_t i = 0; i + 6 < sizeof(help); i += 6)
		memcpy(help + i, "HELP\r\n", 7);
	plant_messages(DEAF / 2);
	for (size_t i = 0; i < DEAF; i++) {
		char user[16];

		snprintf(user, sizeof(user), "u%zu", i / 2);
		if (i % 2 ? !login(&t, user) : !meet(&t, smtp))
			wrong("deaf peer: %s", watch->why);
		peers[n_peers++] = t.fd;
		for (size_t k = 0; i % 2 && k < 100; k++)
			push(t.fd, "RETR 1\r\n", 8);
	}
	size_t pushed = 0;

	watch_begin();
	while (watching()) {
		for (size_t i = 0; i < DEAF; i += 2) {
			ssize_t n = push(peers[i], help, strlen(help));

			pushed += n > 0 ? (size_t)n : 0;
		}
		nap(TICK);
	}
	watch_end();
	tell("%d never read; took %.0f MiB of HELP", DEAF,
	    (double)pushed / MIB);
}

/* Many come to DATA together, say a little, and are reset. */
static void
press_resets(void)
{
	struct linger hard = { .l_onoff = 1 };
	size_t resets = 0;

	watch_begin();
	while (watching()) {
		hold_data(RESETS);
		for (size_t i = 0; i < n_peers; i++) {
			push(peers[i], block, BLOCK / 2);
			setsockopt(peers[i], SOL_SOCKET, SO_LINGER, &hard,
			    sizeof(hard));
		}
		resets += n_peers;
		release_all();
	}
	watch_end();
	nap(200);
	tell("%zu resets in DATA", resets);
	if (count_drafts() != 0)
		wrong("%u drafts are left", count_drafts());
}

/* Open and closed again, so many a second. */
static void
press_knocks(void)
{
	size_t knocks = 0, lost = 0;
	double begun = now();

	watch_begin();
	while (watching()) {
		size_t due = (size_t)((now() - begun) * KNOCKS / 1000);

		for (; knocks < due; knocks++) {
			int fd = dial("127.0.0.1", knocks % 2 ? pop3 : smtp);

			if (fd >= 0)
				close(fd);
			else
				lost++;
		}
		nap(1);
	}
	watch_end();
	tell("%.0f connections a second",
	    (double)knocks * 1000 / (now() - begun));
	if (lost > 0)
		wrong("%zu of %zu found no way in", lost, knocks);
}

/* Lines that do not end: as commands of both kinds, and as content. */
static void
press_endless(void)
{
	static char line[BLOCK];
	struct pollfd fds[3 * ENDLESS];
	size_t pushed = 0;

	memset(line, 'x', sizeof(line));
	hold_many(2 * (size_t)ENDLESS);
	hold_data(ENDLESS);
	for (size_t i = 0; i < n_peers; i++)
		fds[i] = (struct pollfd){ .fd = peers[i], .events = POLLOUT };
	watch_begin();
	while (watching()) {
		poll(fds, n_peers, TICK);
		for (size_t i = 0; i < n_peers; i++) {
			ssize_t n = fds[i].revents == 0 ?
			    0 :
			    push(peers[i], line, sizeof(line));

			if (n < 0)
				wrong("endless peer %zu was cut off", i);
			pushed += n > 0 ? (size_t)n : 0;
		}
	}
	watch_end();
	tell("%zu lines without end, %.0f MiB", n_peers, (double)pushed / MIB);
}

/* One message to very many mailboxes; and one recipient too many. */
static bool
send_to_all(struct talk *t)
{
	bool good = meet(t, smtp) && ask(t, "250", "EHLO load.test\r\n") &&
	    ask(t, "250", "MAIL FROM:<load@load.test>\r\n");

	for (unsigned i = 0; i < RECIPIENTS && good; i++)
		good = ask(t, "250", "RCPT TO:<u%u@localhost>\r\n", i);
	good = good && ask(t, "452", "RCPT TO:<other@localhost>\r\n") &&
	    ask(t, "354", "DATA\r\n") &&
	    ask(t, "250", "Subject: all\r\n\r\nhello\r\n.\r\n") &&
	    ask(t, "221", "QUIT\r\n");
	if (t->fd >= 0)
		close(t->fd);
	return good;
}

static void
press_recipients(void)
{
	static struct talk t;
	unsigned messages = 0;
	double begun = now();

	watch_begin();
	for (; watching() && !row_failed; messages++)
		if (!send_to_all(&t))
			wrong("%s", watch->why);
	watch_end();
	tell("%u messages to %d each, %.0f ms each", messages, RECIPIENTS,
	    (now() - begun) / messages);
	if (count_data("mail/u0/new") != messages ||
	    count_data("mail/u999/new") != messages)
		wrong("a mailbox lacks one of %u", messages);
}

/* How much each of the big messages has, with room for all on the disk. */
static size_t
big_size(void)
{
	size_t size = either(50000000, 5000000);
	struct statvfs fs;

	if (statvfs(dir, &fs) < 0)
		die(dir);
	double room = (double)fs.f_bavail * (double)fs.f_frsize / 2;

	if (room < (double)size * BIG_PEERS) {
		size = (size_t)(room / BIG_PEERS);
		tell("(the disk has little room) ");
	}
	return size;
}

/* Send one peer's next octets, and at the end the dot; true: it has got its
 * answer. */
static bool
big_step(const struct pollfd *fd, size_t *sent, size_t size)
{
	char text[256];
	size_t at = *sent % BLOCK;

	if (fd->revents & (POLLIN | POLLERR | POLLHUP)) {
		ssize_t n = recv(fd->fd, text, sizeof(text) - 1, 0);

		text[n > 0 ? n : 0] = '\0';
		if (strncmp(text, "250 ", 4) != 0)
			wrong("a big message was answered: %s", text);
		return true;
	}
	ssize_t n = push(fd->fd, block + at, BLOCK - at);

	*sent += n > 0 ? (size_t)n : 0;
	if (*sent >= size && *sent % BLOCK == 0)
		send_all(fd->fd, ".\r\n", 3);
	return false;
}

/* Big messages, all at once. */
static void
press_big(void)
{
	struct pollfd fds[BIG_PEERS];
	size_t sent[BIG_PEERS] = { 0 }, size = big_size(), over = 0;
	double begun;

	size -= size % BLOCK;
	hold_data(BIG_PEERS);
	for (size_t i = 0; i < n_peers; i++)
		fds[i] = (struct pollfd){ .fd = peers[i],
			.events = POLLIN | POLLOUT };
	begun = now();
	watch_begin();
	while (over < n_peers && !row_failed) {
		poll(fds, n_peers, PATIENCE * 1000);
		for (size_t i = 0; i < n_peers; i++) {
			if (fds[i].revents == 0)
				continue;
			if (big_step(&fds[i], &sent[i], size)) {
				fds[i].fd = -1;
				over++;
			} else if (sent[i] >= size && sent[i] % BLOCK == 0) {
				fds[i].events = POLLIN;
			}
		}
	}
	double took = now() - begun;

	while (watching())
		nap(TICK);
	watch_end();
	tell("%zu of %.0f MB in %.1f s, %.0f MB/s", over, (double)size / 1e6,
	    took / 1e3, (double)size * (double)over / took / 1e3);
	if (count_data("mail/other/new") != over)
		wrong("%u of them came", count_data("mail/other/new"));
}

/* ---- who may not come in ------------------------------------------------- */

/* Knock for the ith time, at both doors in turn: the answer must be a refusal
 * that holds these words, and then the end.  Half of those who knock do not
 * wait for a greeting before they speak: they must hear it as well. */
static void
knock(const char *host, size_t i, const char *words)
{
	static struct talk t;
	bool mail = host == stranger || i % 2 == 0, early = i % 4 > 1;
	const char *want = mail ? "421" : "-ERR";

	t = (struct talk){ .fd = dial(host, mail ? smtp : pop3) };
	if (t.fd < 0) {
		wrong("no connection: %s", strerror(errno));
		return;
	}
	if (early)
		send_all(t.fd, "QUIT\r\n", 6);
	const char *line = hear_line(&t);

	if (line == NULL || strncmp(line, want, strlen(want)) != 0 ||
	    strstr(line, words) == NULL)
		wrong("knock %zu was refused by \"%s\", not by %s %s", i,
		    line != NULL ? line : "silence", want, words);
	else if (hear_line(&t) != NULL)
		wrong("%s was not the last word", want);
	close(t.fd);
}

static void
knock_often(const char *host, const char *words)
{
	size_t knocks = either(2000, 400);
	double begun = now();

	for (size_t i = 0; i < knocks && !row_failed; i++)
		knock(host, i, words);
	tell("%zu refused beside %zu held, %.1f ms each", knocks, n_peers,
	    (now() - begun) / (double)knocks);
}

/* Everybody inside is still heard: an SMTP command has its answer. */
static void
all_inside(const char *say, const char *want)
{
	for (size_t i = 0; i < n_peers && !row_failed; i++) {
		static struct talk t;

		t = (struct talk){ .fd = peers[i] };
		if (!ask(&t, want, "%s", say))
			wrong("peer %zu, who was in: %s", i, watch->why);
	}
}

/* Hold as many SMTP clients as come in; who does not, must hear why. */
static void
fill(size_t n)
{
	static struct talk t;

	while (n_peers < n && meet(&t, smtp))
		peers[n_peers++] = t.fd;
	if (n_peers < n)
		wrong("%zu came in: %s", n_peers, watch->why);
}

/* max_clients 50. */
static void
press_max_clients(void)
{
	fill(50);
	knock_often("127.0.0.1", "too many connections, try later");
	all_inside("NOOP\r\n", "250");
	release_all();
	nap(100);
	press_nothing();
}

/* max_per_client 5, from an address that is no loopback. */
static void
press_per_client(void)
{
	if (stranger[0] == '\0') {
		tell("left out: no address but loopback");
		press_nothing();
		return;
	}
	for (; n_peers < 5; n_peers++) {
		static struct talk t;

		t = (struct talk){ .fd = dial(stranger, smtp) };
		if (!hear(&t, "220"))
			wrong("stranger %zu: %s", n_peers, watch->why);
		peers[n_peers] = t.fd;
	}
	knock_often(stranger, "from your address");
	all_inside("NOOP\r\n", "250");
	press_nothing();
}

/* So few descriptors that max_clients is half of them. */
static void
press_few_clients(void)
{
	fill(FEW_FILES / 2 + 1);
	knock_often("127.0.0.1", "try later");
	all_inside("NOOP\r\n", "250");
	release_all();
	nap(100);
	press_nothing();
}

/* Each client in DATA has a file, too: so many that nobody else comes in, and
 * that no folder can be opened to sync it.  Who ends a message then is told
 * 451; the others, once there is room again, 250. */
static void
press_no_descriptor(void)
{
	static const char message[] = "Subject: x\r\n\r\nhello\r\n.\r\n";
	static struct talk t;
	size_t n = (FEW_FILES - server_files()) / 2;

	hold_data(n);
	if (server_files() < FEW_FILES)
		fill(n + 1);
	knock_often("127.0.0.1", "no descriptor is free");
	t = (struct talk){ .fd = peers[n - 1] };
	if (!ask(&t, "451", "%s", message))
		wrong("no descriptor for the commit: %s", watch->why);
	while (n_peers > n - 1)
		close(peers[--n_peers]);
	nap(100);
	all_inside(message, "250");
	release_all();
	nap(100);
	press_nothing();
}

/* ---- who waits ----------------------------------------------------------- */

/* Milliseconds of a write and an fsync of our own, beside the server's. */
static double
sync_once(int fd)
{
	double begun = now();

	if (write(fd, block, 4096) != 4096 || fsync(fd) < 0)
		die("fsync");
	return now() - begun;
}

/* Deliver, one message after the other; what the disk itself takes is told
 * beside it. */
static void
press_deliveries(void)
{
	static float took[SAMPLES];
	static struct talk t;
	FILE *f = create("sync");
	size_t n = 0;

	watch_begin();
	while (watching() && n < SAMPLES) {
		if (!deliver(&t, "other"))
			wrong("%s", watch->why);
		took[n++] = (float)sync_once(fileno(f));
	}
	watch_end();
	fclose(f);
	qsort(took, n, sizeof(*took), by_size);
	tell("%zu deliveries; an fsync here: p50 %.1f, max %.1f ms", n,
	    percentile(took, n, 50), percentile(took, n, 100));
}

/* The same while another process writes to this disk as fast as it takes. */
static void
press_busy_disk(void)
{
	FILE *f = create("busy");
	pid_t pid = fork_bound();

	while (pid == 0) {
		rewind(f);
		for (size_t i = 0; i < 256; i++)
			fwrite(block, 1, BLOCK, f);
		if (fflush(f) != 0 || fdatasync(fileno(f)) < 0)
			_exit(1);
	}
	press_deliveries();
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	fclose(f);
}

/* Many who guess a password that is kept hashed, all at the same time: there
 * is a crypt(3) for each, but only one between two turns. */
static void
press_crypt(void)
{
	static struct talk t;
	size_t guesses = 0;
	double begun;
	bool good = meet(&t, pop3) && ask(&t, "+OK", "USER hashed\r\n");

	begun = now();
	if (!good || !ask(&t, "+OK", "PASS secret\r\n"))
		wrong("%s", watch->why);
	tell("a login with {CRYPT} takes %.1f ms", now() - begun);
	close(t.fd);
	watch_begin();
	while (watching() && !row_failed) {
		for (; n_peers < GUESSERS; peers[n_peers++] = t.fd)
			if (!meet(&t, pop3))
				wrong("%s", watch->why);
		for (size_t i = 0; i < n_peers; i++)
			push(peers[i], "USER hashed\r\nPASS x\r\n", 21);
		for (size_t i = 0; i < n_peers; i++) {
			t = (struct talk){ .fd = peers[i] };
			if (!hear(&t, "+OK") || !hear(&t, "-ERR [AUTH]"))
				wrong("%s", watch->why);
		}
		guesses += n_peers;
		release_all();
	}
	watch_end();
	tell("; %zu guesses, %d at once", guesses, GUESSERS);
}

/* A maildrop of very many messages whose names do not tell their sizes. */
static size_t
plant_many(void)
{
	char path[PATH_MAX], first[PATH_MAX];
	size_t n = either(50000, 10000);

	plant_messages(1);
	snprintf(first, sizeof(first), "%.3000s/data/mail/u0/new/1.1.x", dir);
	if (truncate(first, 2000) < 0)
		die(first);
	for (size_t i = 1; i < n; i++) {
		snprintf(path, sizeof(path), "%.3000s/data/mail/u0/cur/%zu.1.x",
		    dir, i + 1);
		if (link(first, path) < 0)
			die(path);
	}
	return n;
}

/* Say a command for each message, a hundred at a time. */
static bool
ask_each(struct talk *t, const char *verb, size_t n)
{
	char text[100 * 16];
	bool good = true;

	for (size_t i = 0; i < n && good;) {
		size_t len = 0, some = 0;

		for (; some < 100 && i < n; some++)
			len += (size_t)sprintf(text + len, "%s %zu\r\n", verb,
			    ++i);
		good = send_all(t->fd, text, len);
		while (some-- > 0 && good)
			good = hear(t, "+OK");
	}
	return good;
}

/* Log in to very many messages, list them, and at last remove them all. */
static void
press_maildrop(void)
{
	static struct talk t;
	size_t n = plant_many(), logins = 0;
	const char *line;
	double begun;

	watch_begin();
	for (; watching() && !row_failed; logins++) {
		bool good = login(&t, "u0") && ask(&t, "+OK", "STAT\r\n") &&
		    ask(&t, "+OK", "LIST\r\n");

		while (good && (line = hear_line(&t)) != NULL && *line != '.')
			continue;
		if (!good || !ask(&t, "+OK", "QUIT\r\n"))
			wrong("%s", watch->why);
		close(t.fd);
	}
	begun = now();
	if (!login(&t, "u0") || !ask_each(&t, "DELE", n) ||
	    !ask(&t, "+OK", "QUIT\r\n"))
		wrong("%s", watch->why);
	close(t.fd);
	watch_end();
	tell("%zu logins to %zu messages; %.0f ms to remove them", logins, n,
	    now() - begun);
	if (count_data("mail/u0/cur") + count_data("mail/u0/new") != 0)
		wrong("not all are removed");
}

/* ---- the table ----------------------------------------------------------- */

static const struct row rows[] = {
	{ "nobody else", press_nothing, .memory = 8, .p99 = 100, .cpu = 5 },
	{ "held", press_held, .memory = 64, .p99 = 400, .cpu = 5 },
	{ "held and slow", press_slow, .memory = 64, .p99 = 400 },
	{ "never read", press_deaf, .memory = 32, .p99 = 600, .cpu = 5 },
	{ "reset in DATA", press_resets, .memory = 32, .p99 = 200 },
	{ "silent knocks", press_knocks, .memory = 8, .p99 = 100 },
	{ "endless lines", press_endless, .memory = 12, .p99 = 500 },
	{ "1,000 recipients", press_recipients, .memory = 8, .p99 = 500 },
	{ "100 big messages", press_big, .memory = 32, .p99 = 3000 },
	{ "max_clients", press_max_clients, .memory = 8, .p99 = 100,
	    .conf = "max_clients 50\n" },
	{ "max_per_client", press_per_client, .memory = 8, .p99 = 100,
	    .conf = "max_clients 10100\nmax_per_client 5\n" },
	{ "200 descriptors", press_few_clients, .memory = 8, .p99 = 100,
	    .descriptors = FEW_FILES },
	{ "no descriptor left", press_no_descriptor, .memory = 8, .p99 = 100,
	    .descriptors = FEW_FILES },
	{ "SIGTERM", press_stop, .memory = 64, .p99 = 400 },
	{ "NOOP, nobody else", press_nothing, .noop = true, .memory = 8,
	    .p99 = 20, .longest = 100 },
	{ "NOOP, held and slow", press_slow, .noop = true, .memory = 64,
	    .p99 = 100, .longest = 300 },
	{ "NOOP, deliveries", press_deliveries, .noop = true, .memory = 8,
	    .p99 = 100, .longest = 1000 },
	{ "NOOP, a busy disk", press_busy_disk, .noop = true, .memory = 8,
	    .p99 = 500, .longest = 3000 },
	{ "NOOP, a full maildrop", press_maildrop, .noop = true, .memory = 24,
	    .p99 = 100, .longest = 600 },
	{ "NOOP, passwords", press_crypt, .noop = true, .memory = 16, .p99 = 50,
	    .longest = 200 },
};

/* The server lets go of everything: its descriptors are as before. */
static void
expect_files(unsigned before)
{
	for (int i = 0; i < 500 && server_files() > before; i++)
		nap(TICK);
	if (server_files() > before)
		wrong("%u descriptors before, %u after", before,
		    server_files());
}

static void
check_limits(const struct row *row, double memory, double p99, double longest)
{
	if (watch->failed > 0)
		wrong("%u of %u failed: %s", watch->failed, watch->n,
		    watch->why);
	if (watch->n == 0)
		wrong("nobody was watched");
	if (memory > row->memory)
		wrong("memory is over %.0f MiB", row->memory);
	if (p99 > row->p99)
		wrong("p99 is over %.0f ms", row->p99);
	if (row->longest > 0 && longest > row->longest)
		wrong("the longest is over %.0f ms", row->longest);
}

/* Behind each figure stands its limit. */
static void
print_head(void)
{
	printf("%s form: %d s a row, %d processors, %zu connections at most.\n"
	       "How long an honest client waits for a whole delivery, or a\n"
	       "whole fetch, or for NOOP; in parentheses stand the limits.\n\n"
	       "%-22s %-11s %5s %6s %-14s %-14s while\n",
	    brief ? "Short" : "Long", brief ? BRIEF : SECONDS,
	    (int)sysconf(_SC_NPROCESSORS_ONLN), max_peers, "", "MiB", "asked",
	    "p50 ms", "   p99", "longest");
}

static void
print_row(const struct row *row, double memory)
{
	unsigned n = watch->n;
	char limit[16] = "";

	qsort(watch->ms, n, sizeof(*watch->ms), by_size);
	double p99 = percentile(watch->ms, n, 99);
	double longest = percentile(watch->ms, n, 100);

	check_limits(row, memory, p99, longest);
	if (row->longest > 0)
		snprintf(limit, sizeof(limit), "(%.0f)", row->longest);
	printf("%-22s %5.1f (%3.0f) %5u %6.1f %6.1f (%4.0f) %6.1f %-6s %s\n",
	    row->name, memory, row->memory, n, percentile(watch->ms, n, 50),
	    p99, row->p99, longest, limit, note);
}

static void
run_row(const struct row *row)
{
	note[0] = '\0';
	row_failed = false;
	snprintf(dir, sizeof(dir), "%.4000s/row", top);
	if (mkdir(dir, 0700) < 0)
		die(dir);
	smtp = free_port();
	pop3 = free_port();
	write_conf(row);
	start_server(row);
	unsigned before = server_files();

	watch_start(row->noop);
	row->press();
	watch_end();
	if (row->cpu > 0)
		expect_quiet(row->cpu);
	double memory = server_memory("VmHWM:");

	release_all();
	expect_files(before);
	stop_server();
	remove_folder(dir);
	print_row(row, memory);
}

/* An address of this machine that is no loopback, if it has one. */
static void
find_stranger(void)
{
	struct ifaddrs *list;

	if (getifaddrs(&list) < 0)
		return;
	for (struct ifaddrs *at = list; at != NULL; at = at->ifa_next) {
		struct sockaddr_in a;

		if (at->ifa_addr == NULL || !(at->ifa_flags & IFF_UP) ||
		    (at->ifa_flags & IFF_LOOPBACK) ||
		    at->ifa_addr->sa_family != AF_INET)
			continue;
		memcpy(&a, at->ifa_addr, sizeof(a));
		inet_ntop(AF_INET, &a.sin_addr, stranger, sizeof(stranger));
	}
	freeifaddrs(list);
}

/* As many descriptors as we may have, and as many peers as they allow: the
 * server has the same limit, and keeps some for files. */
static void
raise_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		die("RLIMIT_NOFILE");
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	max_peers = PEERS_MAX;
	if (limit.rlim_max >= PEERS_MAX + 400)
		return;
	max_peers = limit.rlim_max > 800 ? limit.rlim_max - 400 : 400;
	printf("Only %lu descriptors: %zu connections, not %d.\n",
	    (unsigned long)limit.rlim_max, max_peers, PEERS_MAX);
}

int
main(int argc, char **argv)
{
	const char *tmp = getenv("TMPDIR");

	brief = argc > 1 && strcmp(argv[1], "-s") == 0;
	if (argc - brief < 2) {
		fprintf(stderr, "usage: load [-s] SERVER [WORDS-OF-A-ROW]\n");
		return 2;
	}
	server = realpath(argv[1 + brief], NULL);
	const char *only = argc - brief > 2 ? argv[2 + brief] : "";
	if (server == NULL)
		die(argv[1 + brief]);
	setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
	snprintf(top, sizeof(top), "%.3000s/mailserv-load.XXXXXX",
	    tmp != NULL ? tmp : "/tmp");
	if (mkdtemp(top) == NULL)
		die(top);
	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	watch = mmap(NULL, sizeof(*watch), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (watch == MAP_FAILED)
		die("mmap");
	for (size_t i = 0; i < BLOCK; i++)
		block[i] = i % 64 < 62 ? 'x' : i % 64 == 62 ? '\r' : '\n';
	raise_limit();
	find_stranger();
	print_head();
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		if (strstr(rows[i].name, only) != NULL)
			run_row(&rows[i]);
	remove_folder(top);
	return failed;
}
