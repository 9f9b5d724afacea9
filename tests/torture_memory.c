/*
 * torture_memory.c -- a server that is refused memory, at each place once.
 *
 * usage: torture_memory [-l] [-j WORKERS] [-n NUMBER] [-k]
 *
 * Before it lies BUILD/mailserv-nomem (see nomem.c), whose allocations are
 * counted from its start to the end of one scenario: messages for one mailbox,
 * for several, for the next host, for nobody; one too big; POP3; ETRN; the
 * DNS; a new configuration.  The next host is a BUILD/mailserv that lacks
 * nothing.  Then the scenario is played again and again, and each time another
 * allocation fails: once for every backtrace that was seen, alone and with the
 * four after it; with -l every single one.
 *
 * Expected: before "ready" an exit that says why, later none.  A client hears
 * 4yz, or -ERR; what was answered 250 is in exactly one place; what was
 * refused, in none.  After the shortage the server is whole again, without a
 * restart; no descriptor and no file in queue/tmp is left over.
 *
 * -n plays only the run with this number, and -k keeps its folder.
 */
#include <arpa/inet.h>
#include <crypt.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
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
#include "nomem.h"

enum {
	PATIENCE = 10, /* seconds, for what the server does */
	BURST = 5,     /* allocations that fail in a row, in half of the runs */
	LINE = 4096,
	WORKERS_MAX = 16,
};

/* Where a recipient's mail is found in the end. */
enum box { ALICE, BOB, CAROL, FRANK, N_BOXES };
static const char *const box_name[] = { "alice", "bob", "carol", "frank" };

/* The scenario's messages.  Where an address lacks its local part, the tag is
 * put there: it will be nobody's, and the report is Alice's. */
enum { RCPTS = 3 };
static const struct {
	const char *what;
	size_t size;
	struct {
		const char *address;
		enum box box;
	} to[RCPTS];
} mail[] = {
	{ "one mailbox", 100, { { "alice@a.test", ALICE } } },
	{ "three mailboxes", 9000,
	    { { "alice@a.test", ALICE }, { "bob@a.test", BOB },
		{ "sales@a.test", CAROL } } },
	{ "next host", 300, { { "frank@far.test", FRANK } } },
	{ "unknown there", 300, { { "@far.test", ALICE } } },
	{ "no such domain", 300, { { "@none.far.test", ALICE } } },
	{ "answer by TCP, and a mailbox", 70000,
	    { { "frank@big.far.test", FRANK }, { "bob@a.test", BOB } } },
	{ "listed", 300, { { "frank@listed.test", FRANK } } },
	{ "too big", 300000, { { "alice@a.test", ALICE } } },
	/* These two lie in the queue when the server starts. */
	{ "queued", 0, { { "frank@far.test", FRANK } } },
	{ "queued, half done", 0, { { "frank@far.test", FRANK } } },
	/* And this one comes when there is memory again. */
	{ "last", 100,
	    { { "alice@a.test", ALICE }, { "frank@far.test", FRANK } } },
};
enum { N_MAIL = sizeof(mail) / sizeof(*mail), SPOKEN = N_MAIL - 3 };

/* What became of one of them. */
struct sent {
	char tag[32];
	int code; /* the reply that ended it; 0: none came */
	bool taken[RCPTS];
};

/* One worker's world. */
static struct {
	char dir[128], top[PATH_MAX], build[PATH_MAX];
	struct nomem *memory;
	unsigned smtp, pop3, dns, next, far_dns;
	pid_t server, host; /* the one that lacks memory, and the next host */
	bool reread;        /* it took the new configuration */
	char fetched[32]; /* the tag that POP3 removed */
	struct sent sent[N_MAIL];
} world;

/* What all workers have found. */
static struct tally {
	unsigned runs, fired, exits, refused, losses, faults;
} *tally;

static char run_name[64];
static bool failed; /* this run */
static unsigned descriptors; /* that a server without work has open; 0: ? */

/* Something is not as it must be. */
__attribute__((format(printf, 1, 2))) static void
fault(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	printf("%s: ", run_name);
	vprintf(fmt, ap);
	printf("\n");
	va_end(ap);
	failed = true;
}

/* ---- small things -------------------------------------------------------- */

static void
die(const char *what)
{
	perror(what);
	exit(2);
}

static void
nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
}

static double
seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* A path in the world's folder, in one of eight buffers in turn. */
__attribute__((format(printf, 1, 2))) static char *
in_world(const char *fmt, ...)
{
	static char path[8][PATH_MAX];
	static unsigned turn;
	char *at = path[turn++ % 8];
	int len = snprintf(at, PATH_MAX, "%s/", world.dir);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(at + len, PATH_MAX - (size_t)len, fmt, ap);
	va_end(ap);
	return at;
}

__attribute__((format(printf, 2, 3))) static void
write_file(const char *path, const char *fmt, ...)
{
	FILE *f = fopen(path, "w");
	va_list ap;

	if (f == NULL)
		die(path);
	va_start(ap, fmt);
	vfprintf(f, fmt, ap);
	va_end(ap);
	if (fclose(f) != 0)
		die(path);
}

/* The whole of a file, or "". */
static const char *
read_file(const char *path)
{
	static char text[1 << 20];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t len = fd >= 0 ? read(fd, text, sizeof(text) - 1) : 0;

	if (fd >= 0)
		close(fd);
	text[len > 0 ? len : 0] = '\0';
	return text;
}

static unsigned
count_in(const char *path, const char *what)
{
	unsigned found = 0;

	for (const char *at = read_file(path);
	     (at = strstr(at, what)) != NULL; at++)
		found++;
	return found;
}

/* How many files of a folder hold this text (NULL: how many are there)? */
static unsigned
count_files(const char *folder, const char *text)
{
	DIR *dir = opendir(folder);
	unsigned found = 0;

	for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
		char path[2 * PATH_MAX];

		snprintf(path, sizeof(path), "%s/%s", folder, e->d_name);
		if (e->d_name[0] != '.')
			found += text == NULL || count_in(path, text) > 0;
	}
	if (dir != NULL)
		closedir(dir);
	return found;
}

/* How many are being written: in queue/tmp, and in a folder for each second. */
static unsigned
count_drafts(void)
{
	char folder[32];
	unsigned n = count_files(in_world("a/queue/tmp"), NULL);

	for (unsigned second = 0; second < 256; second++) {
		snprintf(folder, sizeof(folder), "a/queue/.groups/%02x",
		    second);
		n += count_files(in_world("%s", folder), NULL);
	}
	return n;
}

static int
remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
	(void)st;
	(void)kind;
	(void)where;
	return remove(path);
}

static void
remove_all(const char *path)
{
	nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* A port of 127.0.0.1 and 127.0.0.2 that is free for TCP and UDP. */
static unsigned
free_port(void)
{
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
		if (ok)
			return ntohs(any.sin_port);
	}
}

/* ---- the two servers ----------------------------------------------------- */

/* Long enough that getline() must ask for memory again. */
static const char comment[] = "# ----------------------------------------------"
    "----------------------------------------------------------------------\n"
    "# ---------------------------------------------------------------------"
    "----------------------------------------------------------------------"
    "-----------------------------------------------------------------------"
    "------------------------------------------------------------\n";

/* The configuration of the server that will lack memory, with one user more
 * in its second version. */
static void
write_conf(bool second)
{
	write_file(in_world("users"), "alice:{PLAIN}alice\n%sbob:%s%s\n"
	    "carol:{PLAIN}carol\n%s", comment, "{CRYPT}",
	    crypt("bob", "$6$rounds=1000$saltsalt"),
	    second ? "Dave:{PLAIN}dave\n" : "");
	write_file(in_world("list"), "ann\n%sbert\nfrank\n", comment);
	write_file(in_world("a.zone"), "$TTL 60\n@ SOA ns root 1 2 3 4 60\n"
	    "@ NS ns\n@ MX 10 mx\nns A 127.0.0.1\nmx A 127.0.0.1\n"
	    "txt TXT \"one\" \"two\"\n$INCLUDE more.zone\n");
	FILE *f = fopen(in_world("more.zone"), "w");

	if (f == NULL)
		die("more.zone");
	for (int i = 0; i < 3; i++)
		fprintf(f, "host%d A 127.0.1.%d\n", i, i);
	fprintf(f, "*.w A 127.0.0.7\nalias CNAME www\nwww A 127.0.0.9\n");
	if (fclose(f) != 0)
		die("more.zone");
	write_file(in_world("a.conf"), "hostname a.test\ndata_dir a\n"
	    "listen_smtp 127.0.0.1:%u\nlisten_pop3 127.0.0.1:%u\n"
	    "listen_dns 127.0.0.1:%u\nresolver 127.0.0.2:%u\nsmtp_port %u\n"
	    "zone a.test a.zone\n%sretry 1s\ntime_scale 20\n"
	    "max_message 200K\nfault smtp VRFY 450 0\n"
	    "relay_domain far.test\nrelay_domain listed.test list\n"
	    "alias sales carol\ndomain a.test\nusers users\n", world.smtp,
	    world.pop3, world.dns, world.far_dns, world.next, comment);
}

/* And that of the next host, whose zones are asked for. */
static void
write_next_host(void)
{
	FILE *f = fopen(in_world("far.zone"), "w");

	if (f == NULL)
		die("far.zone");
	fprintf(f, "$TTL 0\n@ SOA ns root 1 2 3 4 0\n@ NS ns\n@ MX 10 mx\n"
	    "ns A 127.0.0.2\nmx A 127.0.0.2\nbig MX 1 mx\n");
	for (int i = 2; i < 10; i++) /* over 512 octets */
		fprintf(f, "big MX %d mx.%050d.%050d\n", i, i, i);
	if (fclose(f) != 0)
		die("far.zone");
	write_file(in_world("listed.zone"), "$TTL 0\n@ SOA ns root 1 2 3 4 0\n"
	    "@ NS ns.far.test.\n@ MX 10 mx.far.test.\n");
	write_file(in_world("b.users"), "frank:{PLAIN}frank\n");
	write_file(in_world("b.conf"), "hostname b.test\ndata_dir b\n"
	    "listen_smtp 127.0.0.2:%u\nlisten_pop3 none\n"
	    "listen_dns 127.0.0.2:%u\nzone far.test far.zone\n"
	    "zone listed.test listed.zone\n"
	    "domain far.test listed.test big.far.test\nusers b.users\n",
	    world.next, world.far_dns);
}

static pid_t
spawn(const char *binary, const char *conf, const char *log, bool nomem)
{
	char path[PATH_MAX + 32];

	snprintf(path, sizeof(path), "%s/%s", world.build, binary);
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	int fd = open(in_world("%s", log), O_WRONLY | O_CREAT | O_APPEND, 0600);

	if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0 ||
	    chdir(world.dir) < 0)
		_exit(126);
	if (nomem)
		setenv(NOMEM_FILE, in_world("memory"), 1);
	execl(path, binary, "-c", conf, (char *)NULL);
	_exit(127);
}

/* The status of a process that has ended, or -1: it runs. */
static int
ended(pid_t *pid)
{
	int status;

	if (*pid == 0 || waitpid(*pid, &status, WNOHANG) == 0)
		return -1;
	*pid = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Wait until a log says so, so many times; false: it ends, or does not. */
static bool
wait_log(pid_t *pid, const char *log, const char *what, unsigned times)
{
	for (double end = seconds() + PATIENCE; seconds() < end; nap()) {
		if (count_in(log, what) >= times)
			return true;
		if (kill(*pid, 0) < 0)
			return false;
		siginfo_t info = { .si_pid = 0 };

		if (waitid(P_PID, (id_t)*pid, &info,
			WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0)
			return count_in(log, what) >= times;
	}
	return false;
}

/* Start the server, and wait until its log says this for the nth time.  A port
 * of ours may be some client's for a moment, while nobody listens there. */
static bool
start_server(const char *binary, const char *log, const char *what, unsigned n)
{
	bool nomem = strcmp(binary, "mailserv-nomem") == 0;
	unsigned in_use = count_in(in_world("%s", log), "already in use");

	for (int i = 0; i < 50; i++) {
		world.server = spawn(binary, "a.conf", log, nomem);
		if (wait_log(&world.server, in_world("%s", log), what, n))
			return true;
		unsigned now = count_in(in_world("%s", log), "already in use");

		if (now == in_use)
			return false;
		in_use = now;
		waitpid(world.server, NULL, 0);
		nap();
	}
	return false;
}

/* SIGTERM, and the exit status; what does not go is killed: 137. */
static int
stop(pid_t *pid)
{
	int status = -1;

	if (*pid == 0)
		return 0;
	kill(*pid, SIGTERM);
	for (double end = seconds() + PATIENCE;
	     status < 0 && seconds() < end; nap())
		status = ended(pid);
	if (status >= 0)
		return status;
	kill(*pid, SIGKILL);
	waitpid(*pid, &status, 0);
	*pid = 0;
	return 137;
}

static unsigned
count_descriptors(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	return count_files(path, NULL);
}

/* ---- clients ------------------------------------------------------------- */

/* One connection, and what it has brought. */
struct client {
	int fd;
	FILE *in;
	char line[LINE];
};

static bool
dial(struct client *c, unsigned port)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct timeval wait = { .tv_sec = PATIENCE };
	int one = 1;

	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	if (connect(c->fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
		close(c->fd);
		return false;
	}
	c->in = fdopen(dup(c->fd), "r");
	return true;
}

static void
hang_up(struct client *c)
{
	close(c->fd);
	fclose(c->in);
}

__attribute__((format(printf, 2, 3))) static void
say(struct client *c, const char *fmt, ...)
{
	char text[LINE];
	va_list ap;

	va_start(ap, fmt);
	int len = vsnprintf(text, sizeof(text), fmt, ap);

	va_end(ap);
	if (send(c->fd, text, (size_t)len, MSG_NOSIGNAL) != len)
		return; /* the reply, which does not come, will tell */
}

/* The next line; false: the connection has ended. */
static bool
hear(struct client *c)
{
	errno = 0;
	if (fgets(c->line, sizeof(c->line), c->in) != NULL)
		return true;
	if (errno == EAGAIN)
		fault("no answer in %d s", PATIENCE);
	c->line[0] = '\0';
	return false;
}

/* An SMTP reply's code; 0: the connection has ended. */
static int
reply(struct client *c)
{
	while (hear(c))
		if (strlen(c->line) >= 4 && c->line[3] == ' ')
			return atoi(c->line);
	return 0;
}

/* Say a command whose reply should be `good`, and may be 4yz; true: good. */
static bool
smtp(struct client *c, int good, const char *command)
{
	say(c, "%s\r\n", command);
	int code = reply(c);

	if (code != good && (code < 400 || code > 499))
		fault("%s: %d %s", command, code, c->line);
	tally->refused += code != good;
	return code == good;
}

/* The content of a message, and its dot; the code that ends it. */
static int
send_content(struct client *c, const struct sent *m, size_t size)
{
	static const char line[] = "0123456789abcdefghijklmnopqrstuvwxyz\r\n";

	say(c, "From: <alice@a.test>\r\nSubject: %s\r\nX-Tag: %s\r\n\r\n",
	    m->tag, m->tag);
	for (size_t done = 0; done < size; done += sizeof(line) - 1)
		say(c, "%s", line);
	say(c, ".\r\n");
	return reply(c);
}

/* Give the server a message, as far as it takes it. */
static void
send_message(size_t i, bool must)
{
	struct sent *m = &world.sent[i];
	struct client c;
	char address[256];
	bool any = false;

	if (!dial(&c, world.smtp)) {
		fault("cannot connect");
		return;
	}
	int code = reply(&c);

	if (code != 220 && code != 421)
		fault("greeting %d %s", code, c.line);
	if (code == 220 && smtp(&c, 250, "EHLO client.test") &&
	    smtp(&c, 250, "MAIL FROM:<alice@a.test>")) {
		for (size_t k = 0; k < RCPTS && mail[i].to[k].address; k++) {
			const char *to = mail[i].to[k].address;

			snprintf(address, sizeof(address), "RCPT TO:<%s%s>",
			    to[0] == '@' ? m->tag : "", to);
			m->taken[k] = smtp(&c, 250, address);
			any |= m->taken[k];
		}
		if (any && smtp(&c, 354, "DATA"))
			m->code = send_content(&c, m, mail[i].size);
		if (m->code != 0 && m->code != 250 && m->code / 100 != 4 &&
		    m->code != 552)
			fault("%s: dot: %d %s", mail[i].what, m->code, c.line);
		smtp(&c, 221, "QUIT");
	}
	hang_up(&c);
	if (must && m->code != 250)
		fault("not whole: %s: %d", mail[i].what, m->code);
}

/* A POP3 command; more: +OK is followed by lines up to a dot.  The tag that
 * was in them goes to *tag. */
static bool
pop3(struct client *c, const char *command, bool more, char tag[32])
{
	say(c, "%s\r\n", command);
	if (!hear(c) ||
	    (strncmp(c->line, "+OK", 3) != 0 &&
		strncmp(c->line, "-ERR", 4) != 0))
		fault("%s: %s", command, c->line);
	if (c->line[0] != '+') {
		tally->refused++;
		return false;
	}
	while (more && hear(c) && strcmp(c->line, ".\r\n") != 0)
		if (tag != NULL)
			sscanf(c->line, "X-Tag: %31s", tag);
	if (more && c->line[0] == '\0')
		fault("%s: broken off", command);
	return true;
}

static bool
pop3_login(struct client *c, const char *user)
{
	char text[LINE];

	if (!dial(c, world.pop3)) {
		fault("cannot connect");
		return false;
	}
	if (!hear(c) || strncmp(c->line, "+OK", 3) != 0) {
		if (strncmp(c->line, "-ERR", 4) != 0)
			fault("POP3 greeting: %s", c->line);
		hang_up(c);
		return false;
	}
	snprintf(text, sizeof(text), "USER %s", user);
	pop3(c, text, false, NULL);
	snprintf(text, sizeof(text), "PASS %s", user);
	if (pop3(c, text, false, NULL))
		return true;
	hang_up(c);
	return false;
}

/* Bob reads two messages, one of which another program moves meanwhile, and
 * removes the first. */
static void
play_pop3(void)
{
	struct client c;
	char tag[32] = "";

	if (!pop3_login(&c, "bob"))
		return;
	pop3(&c, "STAT", false, NULL);
	pop3(&c, "LIST", true, NULL);
	pop3(&c, "UIDL", true, NULL);
	mkdir(in_world("a/mail/bob/cur"), 0700);
	rename(in_world("a/mail/bob/new/2.foreign"),
	    in_world("a/mail/bob/cur/2.foreign:2,S"));
	bool read = pop3(&c, "RETR 1", true, tag);

	pop3(&c, "RETR 2", true, NULL);
	bool marked = read && pop3(&c, "DELE 1", false, NULL);

	if (pop3(&c, "QUIT", false, NULL) && marked && read)
		snprintf(world.fetched, sizeof(world.fetched), "%s", tag);
	hang_up(&c);
}

/* Is the tag of the last message in Alice's mailbox, by POP3? */
static void
fetch_last(void)
{
	struct client c;
	char tag[32] = "", command[32];
	unsigned n = 0;

	if (!pop3_login(&c, "alice")) {
		fault("not whole: alice cannot log in: %s", c.line);
		return;
	}
	if (pop3(&c, "STAT", false, NULL))
		sscanf(c.line, "+OK %u", &n);
	for (unsigned i = n; i > 0; i--) {
		snprintf(command, sizeof(command), "RETR %u", i);
		pop3(&c, command, true, tag);
		if (strcmp(tag, world.sent[N_MAIL - 1].tag) == 0)
			break;
	}
	if (strcmp(tag, world.sent[N_MAIL - 1].tag) != 0)
		fault("not whole: the last message is not fetched");
	pop3(&c, "QUIT", false, NULL);
	hang_up(&c);
}

/* Ask for a name's A over UDP or TCP; the number of answers, -1: none. */
static int
ask_dns(const char *labels, size_t len, bool tcp)
{
	unsigned char query[300] = { 0, 0, 0x47, 0x11, 1, 0, 0, 1 }, in[1500];
	struct sockaddr_in to = { .sin_family = AF_INET,
		.sin_port = htons((uint16_t)world.dns),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct timeval wait = { .tv_usec = 300000 };
	int fd = socket(AF_INET, tcp ? SOCK_STREAM : SOCK_DGRAM, 0);

	memcpy(query + 14, labels, len);
	memcpy(query + 14 + len, "\0\1\0\1", 4); /* A, IN */
	query[1] = (unsigned char)(12 + len + 4);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	ssize_t got = -1;
	size_t skip = tcp ? 0 : 2;

	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0 &&
	    send(fd, query + skip, 14 + len + 4 - skip, MSG_NOSIGNAL) > 0)
		got = recv(fd, in, sizeof(in), 0);
	close(fd);
	if (got < 12)
		return -1;
	return in[7 + 2 - skip];
}

static const char www[] = "\3www\1a\4test", deep[] = "\1x\1w\1a\4test",
		  alias[] = "\5alias\1a\4test";

/* ---- one run ------------------------------------------------------------- */

/* Two messages in the queue, and two in Bob's mailbox, before the start.  Who
 * reads an envelope only as far as its long line takes the message for done. */
static void
seed(void)
{
	static const char *const folders[] = { "a", "a/queue", "a/mail",
		"a/mail/bob", "a/mail/bob/new" };
	char long_name[200] = "";

	memset(long_name, 'l', sizeof(long_name) - 1);
	for (size_t i = 0; i < sizeof(folders) / sizeof(*folders); i++)
		if (mkdir(in_world("%s", folders[i]), 0700) < 0)
			die(folders[i]);
	for (size_t i = N_MAIL - 3; i < N_MAIL - 1; i++) {
		struct sent *m = &world.sent[i];

		m->code = 250;
		m->taken[0] = true;
		write_file(in_world("a/queue/%016zx.msg", i),
		    "Return-Path: <>\nX-Tag: %s\n\nqueued\n", m->tag);
		write_file(in_world("a/queue/%016zx.env", i),
		    "arrived %lld\nsize 60\nhead 16\nfrom alice@a.test\n"
		    "to bert@gone.test\ndone 1\ntry 1 1 17 450 %s\n"
		    "to frank@far.test\n", (long long)time(NULL), long_name);
	}
	write_file(in_world("a/mail/bob/new/1.seed,S=18,W=20"),
	    "X-Tag: pop3\n\nText\n");
	write_file(in_world("a/mail/bob/new/2.foreign"),
	    "X-Tag: pop3\n\nNo sizes\n");
}

/* A new configuration, whole or not at all. */
static void
play_reload(void)
{
	const char *log = in_world("a.log");

	write_conf(true);
	unsigned before = count_in(log, "configuration ");

	kill(world.server, SIGHUP);
	if (!wait_log(&world.server, log, "configuration ", before + 1))
		fault("no word of the new configuration");
	world.reread = count_in(log, "configuration read again") > 0;
}

/* Wait until nothing waits in the queue. */
static bool
drained(double patience)
{
	for (double end = seconds() + patience; seconds() < end; nap())
		if (count_files(in_world("a/queue"), NULL) == 3)
			return true; /* tmp, failed, lock */
	return false;
}

static void
play_scenario(void)
{
	struct client c;

	for (size_t i = 0; i < SPOKEN / 2; i++)
		send_message(i, false);
	play_reload();
	for (size_t i = SPOKEN / 2; i < SPOKEN; i++)
		send_message(i, false);
	ask_dns(www, sizeof(www), false);
	ask_dns(deep, sizeof(deep), true);
	play_pop3();
	if (dial(&c, world.smtp)) {
		if (reply(&c) == 220 && smtp(&c, 250, "EHLO x")) {
			say(&c, "ETRN far.test\r\n");
			reply(&c);
			smtp(&c, 221, "QUIT");
		}
		hang_up(&c);
	}
	kill(world.server, SIGUSR1);
	wait_log(&world.server, in_world("a.log"), "trying everything", 1);
	drained(1);
}

/* There is memory again: nothing may be missing. */
static void
check_whole(void)
{
	struct client c;

	send_message(N_MAIL - 1, true);
	fetch_last();
	if (ask_dns(www, sizeof(www), false) != 1 ||
	    ask_dns(deep, sizeof(deep), true) != 1 ||
	    ask_dns(alias, sizeof(alias), false) != 2)
		fault("not whole: the DNS");
	if (!dial(&c, world.smtp)) {
		fault("not whole: cannot connect");
		return;
	}
	if (reply(&c) != 220)
		fault("not whole: %s", c.line);
	smtp(&c, 250, "EHLO x");
	say(&c, "MAIL FROM:<>\r\n");
	reply(&c);
	static const char *const known[] = { "carol@a.test", "sales@a.test",
		"frank@listed.test", "dave@a.test" };

	for (size_t i = 0; i < (world.reread ? 4 : 3); i++) {
		say(&c, "RCPT TO:<%s>\r\n", known[i]);
		if (reply(&c) != 250)
			fault("not whole: %s: %s", known[i], c.line);
	}
	say(&c, "QUIT\r\n");
	reply(&c);
	hang_up(&c);
	if (world.reread && !pop3_login(&c, "dave"))
		fault("not whole: dave cannot log in: %s", c.line);
	else if (world.reread)
		hang_up(&c);
}

/* In how many places is a message, for one of its recipients? */
static unsigned
places(const struct sent *m, enum box box)
{
	unsigned found = 0;

	if (box == FRANK)
		found = count_files(in_world("b/mail/frank/new"), m->tag);
	else
		found =
		    count_files(in_world("a/mail/%s/new", box_name[box]),
			m->tag) +
		    count_files(in_world("a/mail/%s/cur", box_name[box]),
			m->tag);
	if (strcmp(m->tag, world.fetched) == 0 && box == BOB)
		found++;
	return found;
}

/* The promise: all that was answered 250 is in one place, the rest in none. */
static void
check_promise(void)
{
	for (size_t i = 0; i < N_MAIL; i++) {
		const struct sent *m = &world.sent[i];

		for (size_t k = 0; k < RCPTS && mail[i].to[k].address; k++) {
			unsigned n = places(m, mail[i].to[k].box);
			bool due = m->code == 250 && m->taken[k];

			n += count_files(in_world("a/queue/failed"), m->tag);
			if (due && n == 0) {
				fault("LOST: %s, %s", mail[i].what,
				    mail[i].to[k].address);
				tally->losses++;
			} else if (n != due)
				fault("%u times: %s, %s: %d", n, mail[i].what,
				    mail[i].to[k].address, m->code);
		}
	}
	if (count_drafts() > 0)
		fault("a draft is left");
	if (strcmp(world.fetched, "") != 0 &&
	    count_files(in_world("a/mail/bob/new"), "X-Tag: pop3") +
		count_files(in_world("a/mail/bob/cur"), "X-Tag: pop3") != 1)
		fault("what Bob removed is there, or more is gone");
}

/* The server has ended before it was ready: did it say why? */
static void
check_exit(int status)
{
	const char *log = read_file(in_world("a.log"));

	if (status < 64 || status > 78)
		fault("ended before ready: %d", status);
	if (strlen(log) == 0 || log[strlen(log) - 1] != '\n')
		fault("exit %d without a word", status);
	tally->exits++;
}

/* Start the server; once more where it has refused to, for want of memory. */
static bool
start(void)
{
	if (start_server("mailserv-nomem", "a.log", " ready ", 1))
		return true;
	int status = ended(&world.server);

	check_exit(status);
	if (world.memory->fired == 0)
		fault("did not start: %d", status);
	world.memory->armed = 0;
	stop(&world.server);
	if (start_server("mailserv-nomem", "a.log", " ready ", 1))
		return true;
	fault("does not start with memory either");
	return false;
}

/* When all is quiet, as many are open as in the run in which nothing failed. */
static void
check_descriptors(void)
{
	unsigned n = UINT_MAX;

	for (double end = seconds() + 0.5; seconds() < end; nap()) {
		unsigned now = count_descriptors(world.server);

		n = now < n ? now : n;
		if (n == descriptors)
			return;
	}
	if (descriptors != 0 && n != descriptors)
		fault("descriptors: %u, not %u", n, descriptors);
	descriptors = n;
}

static void
play(void)
{
	if (!start())
		return;
	play_scenario();
	world.memory->armed = 0;
	int status = ended(&world.server);

	if (status >= 0) {
		fault("ended: %d", status);
		start_server("mailserv-nomem", "a.log", " ready ", 2);
	}
	check_whole();
	if (!drained(PATIENCE))
		fault("the queue is not empty");
	check_descriptors();
	status = stop(&world.server);
	if (status != 0)
		fault("exit status %d", status);
	check_promise();
	if (!start_server("mailserv", "again.log", "loaded messages=0 ", 1))
		fault("a restart finds something in the queue:\n%s",
		    read_file(in_world("again.log")));
	stop(&world.server);
	check_promise();
}

/* One run: everything fresh but the next host. */
static void
run(unsigned number, uint32_t at, uint64_t site, uint32_t most)
{
	struct nomem *memory = world.memory;

	snprintf(run_name, sizeof(run_name), "run %u, %u", number, most);
	failed = false;
	memset(world.sent, 0, sizeof(world.sent));
	for (size_t i = 0; i < N_MAIL; i++)
		snprintf(world.sent[i].tag, sizeof(world.sent[i].tag),
		    "t%um%zux", number, i);
	world.fetched[0] = '\0';
	world.reread = false;
	remove_all(in_world("a"));
	unlink(in_world("a.log"));
	unlink(in_world("again.log"));
	remove_all(in_world("b/mail/frank/new"));
	mkdir(in_world("b/mail"), 0700);
	mkdir(in_world("b/mail/frank"), 0700);
	mkdir(in_world("b/mail/frank/new"), 0700);
	write_conf(false);
	seed();
	*memory = (struct nomem){ .at = at, .site = site, .most = most };
	memory->armed = 1;
	play();
	tally->runs++;
	tally->fired += memory->fired > 0;
	if (!failed)
		return;
	tally->faults++;
	printf("---- the log of %s ----\n%s----\n", run_name,
	    read_file(in_world("a.log")));
}

/* ---- all of them --------------------------------------------------------- */

static void
open_world(unsigned worker)
{
	const char *tmp = getenv("TMPDIR"), *build = getenv("BUILD");

	if (getcwd(world.top, sizeof(world.top)) == NULL)
		die("getcwd");
	snprintf(world.build, sizeof(world.build), "%.2000s/%.1000s", world.top,
	    build != NULL ? build : "build");
	if (access("/dev/shm", W_OK) == 0 && tmp == NULL)
		tmp = "/dev/shm"; /* many syncs, and no power to fail */
	snprintf(world.dir, sizeof(world.dir), "%.60s/mailserv-%u.XXXXXX",
	    tmp != NULL ? tmp : "/tmp", worker);
	if (mkdtemp(world.dir) == NULL)
		die(world.dir);
	world.smtp = free_port();
	world.pop3 = free_port();
	world.dns = free_port();
	world.next = free_port();
	world.far_dns = free_port();
	int fd = open(in_world("memory"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0 || ftruncate(fd, sizeof(struct nomem)) < 0)
		die("memory");
	world.memory = mmap(NULL, sizeof(struct nomem), PROT_READ | PROT_WRITE,
	    MAP_SHARED, fd, 0);
	close(fd);
	write_next_host();
	world.host = spawn("mailserv", "b.conf", "b.log", false);
	if (world.memory == MAP_FAILED ||
	    !wait_log(&world.host, in_world("b.log"), " ready ", 1))
		die("the next host");
}

static void
close_world(bool keep)
{
	stop(&world.server);
	stop(&world.host);
	if (keep)
		printf("kept: %s\n", world.dir);
	else
		remove_all(world.dir);
}

/* What was asked for in the run in which nothing failed. */
static uint64_t sites[NOMEM_SITES];
static uint32_t n_sites, n_allocations;

/* Learn it; false: that run was not as it must be. */
static bool
learn(void)
{
	open_world(0);
	run(0, 0, 0, 0);
	n_allocations = world.memory->count;
	if (n_allocations > NOMEM_SITES)
		n_allocations = NOMEM_SITES;
	for (uint32_t i = 0; i < n_allocations; i++) {
		uint32_t k = 0;

		while (k < n_sites && sites[k] != world.memory->sites[i])
			k++;
		if (k == n_sites)
			sites[n_sites++] = world.memory->sites[i];
	}
	close_world(false);
	return !failed && n_allocations > 0;
}

/* A worker's share.  Number 2k is the k-th alone, 2k + 1 with those after. */
static void
work(unsigned worker, unsigned workers, bool every, unsigned only)
{
	uint32_t n = every ? n_allocations : n_sites;

	open_world(worker);
	for (uint32_t i = worker; i < 2 * n; i += workers) {
		uint32_t most = i % 2 == 0 ? 1 : BURST;

		if (only != 0 && i != only)
			continue;
		if (every)
			run(i, i / 2 + 1, 0, most);
		else
			run(i, 0, sites[i / 2], most);
		fflush(stdout);
	}
}

int
main(int argc, char **argv)
{
	bool every = false, keep = false;
	unsigned workers = 4, only = 0;
	pid_t pids[WORKERS_MAX];

	for (int option; (option = getopt(argc, argv, "lkj:n:")) != -1;) {
		every |= option == 'l';
		keep |= option == 'k';
		if (option == 'j')
			workers = (unsigned)atoi(optarg);
		if (option == 'n')
			only = (unsigned)atoi(optarg);
	}
	if (workers < 1 || workers > WORKERS_MAX)
		workers = 4;
	signal(SIGPIPE, SIG_IGN);
	tally = mmap(NULL, sizeof(*tally), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (tally == MAP_FAILED)
		die("mmap");
	if (!learn())
		return 1;
	printf("memory: %u allocations, %u backtraces\n", n_allocations,
	    n_sites);
	fflush(stdout);
	for (unsigned i = 0; i < workers; i++) {
		pids[i] = fork();
		if (pids[i] != 0)
			continue;
		work(i, workers, every, only);
		close_world(keep);
		exit(0);
	}
	bool ok = true;

	for (unsigned i = 0; i < workers; i++) {
		int status = 1;

		waitpid(pids[i], &status, 0);
		ok &= status == 0;
	}
	printf("memory: %u runs, %u losses, %u faults; %u were refused memory,"
	    " %u did not start, clients heard no %u times\n", tally->runs,
	    tally->losses, tally->faults, tally->fired, tally->exits,
	    tally->refused);
	return ok && tally->faults == 0 ? 0 : 1;
}
