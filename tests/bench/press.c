/*
 * press.c -- clients in one process, who cost less than the server they press.
 *
 *	press smtp  ADDRESS -s SESSIONS -m MESSAGES [-l OCTETS] [-r RECIPIENTS]
 *	            [-1] -t RECIPIENT     -1: a connection for each message
 *	press pop3  ADDRESS -s SESSIONS -m LOGINS -u USER     login, STAT, QUIT
 *	press ehlo  ADDRESS -m TIMES      connect, greeting, EHLO, QUIT
 *	press noop  ADDRESS -m TIMES      NOOP, on one connection
 *	press hold  ADDRESS -s SESSIONS   EHLO, then silence until our input ends
 *	press fetch ADDRESS -u USER -m MESSAGES    login, LIST, UIDL, and RETR of
 *	            all of them, pipelined
 *	press disk  FOLDER -s BATCH -m FILES [-l OCTETS]      no server at all
 *
 * What this is
 *	The client's side of a measurement.  All but fetch and disk play a
 *	script, a list of steps, in many sessions at once: send the step's
 *	text, wait for one reply.  One thread, one epoll(7): a system call to
 *	send, one to read, and a share of one to wait.
 *	%d in RECIPIENT or USER is a number from 1: of the recipient within a
 *	message, of the session.  A password is its user's name.
 *	The output is one line of NAME=NUMBER; times are milliseconds.
 * Always true
 *	A reply that is not the one hoped for, or none for PATIENCE seconds,
 *	ends everything with status 1: who measures must not count failures.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
	PATIENCE = 60, /* seconds, for anything at all to happen */
	STEPS_MAX = 64,
	TEXT_MAX = 128,
	REPLY_MAX = 2048,
	BLOCK = 256 * 1024, /* read at once by fetch */
	LINE = 78,          /* octets of a content line, with CRLF */
};

/* What to say, and how the reply must begin.  No text: say nothing. */
struct step {
	const char *text;
	size_t len;
	char want;
};

/* One client.  It plays the steps from 0; before the step `again` it goes back
 * to `from` while there is work, which is how connections are reused. */
struct session {
	int fd;
	unsigned number; /* from 1 */
	unsigned at;     /* in steps[] */
	size_t sent;     /* of its text */
	size_t have;     /* of in[] */
	double begun;    /* the connection or the step: see `timed` */
	char in[REPLY_MAX];
	struct step steps[STEPS_MAX];
};

static struct sockaddr_in address;
static unsigned sessions = 1, recipients = 1;
static size_t work = 1, length = 1024;
static bool one_each; /* a connection for each message */
static const char *recipient = "u1@here.test", *user = "u%d";

/* The script's shape, the same for all sessions. */
static unsigned n_steps;
static unsigned from, again; /* a loop: see struct session; 0, 0: none */
static unsigned timed;       /* the step whose reply ends a piece of work, */
static bool whole;           /* which began with connect(), not this step */

static bool keep; /* stay connected when it has been played */

static size_t taken, done; /* pieces of work */
static double *took;       /* milliseconds of each that is done */
static unsigned started, at_rest;
static int ep;

__attribute__((noreturn, format(printf, 1, 2))) static void
die(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "press: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, " (%s)\n", strerror(errno));
	exit(1);
}

static double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static void *
need(size_t count, size_t size)
{
	void *memory = calloc(count, size);

	if (memory == NULL)
		die("memory");
	return memory;
}

/* A new connection to the server; on loopback it takes no time to speak of. */
static int
connected(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	if (fd < 0 ||
	    connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
		die("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static int
compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* What all modes tell; `begun` is when the first began. */
static void
tell(double begun)
{
	double elapsed = now() - begun;
	struct rusage self;

	getrusage(RUSAGE_SELF, &self);
	qsort(took, done, sizeof(*took), compare);
	printf("done=%zu ms=%.3f p50=%.4f p99=%.4f longest=%.4f cpu=%.3f\n",
	    done, elapsed, took[done / 2], took[done * 99 / 100],
	    took[done - 1],
	    (double)(self.ru_utime.tv_sec + self.ru_stime.tv_sec) * 1e3 +
		(double)(self.ru_utime.tv_usec + self.ru_stime.tv_usec) / 1e3);
}

/* ---- scripts ------------------------------------------------------------- */

/* The next step; `text` may hold one %d, for `number`. */
static void
step(struct session *s, char want, const char *text, unsigned number)
{
	const char *digits = strstr(text, "%d");
	char *copy = need(TEXT_MAX, 1);

	if (n_steps == STEPS_MAX)
		die("too many steps");
	if (digits == NULL)
		snprintf(copy, TEXT_MAX, "%s", text);
	else
		snprintf(copy, TEXT_MAX, "%.*s%u%s", (int)(digits - text), text,
		    number, digits + 2);
	s->steps[n_steps++] = (struct step){ copy, strlen(copy), want };
}

/* The content of all messages, its dot included; made once. */
static const char *
content(size_t *len)
{
	static const char header[] = "From: <press@client.test>\r\n"
				     "To: <u1@here.test>\r\n"
				     "Subject: press\r\n\r\n";
	static char *text;
	static size_t made;

	if (text == NULL) {
		text = need(sizeof(header) + length + LINE + 8, 1);
		made = (size_t)sprintf(text, "%s", header);
		while (made < length) {
			memset(text + made, 'x', LINE - 2);
			memcpy(text + made + LINE - 2, "\r\n", 2);
			made += LINE;
		}
		memcpy(text + made, ".\r\n", 4);
		made += 3;
	}
	*len = made;
	return text;
}

static void
script_ehlo(struct session *s)
{
	step(s, '2', "", 0);
	timed = n_steps;
	whole = true;
	step(s, '2', "EHLO client.test\r\n", 0);
	step(s, '2', "QUIT\r\n", 0);
}

static void
script_hold(struct session *s)
{
	script_ehlo(s);
	n_steps--;
}

static void
script_noop(struct session *s)
{
	script_hold(s);
	from = timed = n_steps;
	whole = false;
	step(s, '2', "NOOP\r\n", 0);
	again = n_steps;
	step(s, '2', "QUIT\r\n", 0);
}

static void
script_smtp(struct session *s)
{
	char rcpt[TEXT_MAX];

	script_hold(s);
	from = n_steps;
	step(s, '2', "MAIL FROM:<press@client.test>\r\n", 0);
	snprintf(rcpt, sizeof(rcpt), "RCPT TO:<%s>\r\n", recipient);
	for (unsigned i = 1; i <= recipients; i++)
		step(s, '2', rcpt, i);
	step(s, '3', "DATA\r\n", 0);
	timed = n_steps;
	whole = false;
	step(s, '2', "", 0);
	s->steps[timed].text = content(&s->steps[timed].len);
	again = one_each ? 0 : n_steps;
	step(s, '2', "QUIT\r\n", 0);
}

static void
script_pop3(struct session *s)
{
	char text[TEXT_MAX];

	step(s, '+', "", 0);
	snprintf(text, sizeof(text), "USER %s\r\n", user);
	step(s, '+', text, s->number);
	snprintf(text, sizeof(text), "PASS %s\r\n", user);
	step(s, '+', text, s->number);
	step(s, '+', "STAT\r\n", 0);
	timed = n_steps;
	whole = true;
	step(s, '+', "QUIT\r\n", 0);
}

/* ---- sessions ------------------------------------------------------------ */

static void
wait_for(struct session *s, int op, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = s };

	if (epoll_ctl(ep, op, s->fd, &ev) != 0)
		die("epoll_ctl");
}

static void
session_connect(struct session *s)
{
	s->begun = now();
	s->at = 0;
	s->sent = s->have = 0;
	s->fd = connected();
	if (fcntl(s->fd, F_SETFL, O_NONBLOCK) != 0)
		die("fcntl");
	wait_for(s, EPOLL_CTL_ADD, EPOLLIN);
	taken++;
}

/* Send what is left of the step's text. */
static void
session_say(struct session *s)
{
	const struct step *p = &s->steps[s->at];
	bool waited = s->sent > 0;

	while (s->sent < p->len) {
		ssize_t n = send(s->fd, p->text + s->sent, p->len - s->sent,
		    MSG_NOSIGNAL);

		if (n < 0 && errno == EAGAIN) {
			wait_for(s, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
			return;
		}
		if (n < 0)
			die("send");
		s->sent += (size_t)n;
	}
	if (waited)
		wait_for(s, EPOLL_CTL_MOD, EPOLLIN);
}

/* The script is at its end: another connection, or rest. */
static void
session_over(struct session *s)
{
	if (!keep) {
		close(s->fd);
		if (again == 0 && taken < work) {
			session_connect(s);
			return;
		}
	}
	at_rest++;
}

/* The reply to the step is here: what is next? */
static void
session_next(struct session *s)
{
	if (s->at == timed)
		took[done++] = now() - s->begun;
	s->at++;
	if (s->at == again && taken < work) {
		taken++;
		s->at = from;
	}
	if (s->at == n_steps) {
		session_over(s);
		return;
	}
	if (s->at == timed && !whole)
		s->begun = now();
	s->sent = 0;
	session_say(s);
}

/* The end of a whole reply at the start of in[], or NULL: its last line is the
 * one without a hyphen behind the code (RFC 5321 4.2). */
static char *
reply_end(struct session *s)
{
	char *line = s->in, *lf;

	while ((lf = memchr(line, '\n', s->have - (size_t)(line - s->in))) !=
	    NULL) {
		if (lf - line < 4 || line[0] == '+' || line[3] != '-')
			return lf + 1;
		line = lf + 1;
	}
	return NULL;
}

static void
session_hear(struct session *s)
{
	const struct step *p = &s->steps[s->at];
	ssize_t n = recv(s->fd, s->in + s->have, sizeof(s->in) - s->have, 0);
	char *end;

	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0)
		die("session %u, step %u: connection lost", s->number, s->at);
	s->have += (size_t)n;
	if ((end = reply_end(s)) == NULL)
		return;
	if (s->in[0] != p->want || s->sent < p->len || end != s->in + s->have)
		die("session %u, step %u, %zu done: %.*s", s->number, s->at,
		    done, (int)s->have, s->in);
	s->have = 0;
	session_next(s);
}

/* Play the script in all sessions, to its end. */
static void
play(void (*script)(struct session *))
{
	struct session *all = need(sessions, sizeof(*all));
	struct epoll_event ready[64];
	double begun = now();
	int n;

	took = need(work + sessions, sizeof(*took));
	if ((ep = epoll_create1(EPOLL_CLOEXEC)) < 0)
		die("epoll_create1");
	for (unsigned i = 0; i < sessions; i++) {
		n_steps = 0;
		all[i].number = i + 1;
		script(&all[i]);
	}
	for (unsigned i = 0; i < sessions && taken < work; i++) {
		session_connect(&all[i]);
		started++;
	}
	while (at_rest < started) {
		if ((n = epoll_wait(ep, ready, 64, PATIENCE * 1000)) <= 0)
			die("silence, %zu done", done);
		for (int i = 0; i < n; i++) {
			struct session *s = ready[i].data.ptr;

			if (ready[i].events & EPOLLOUT)
				session_say(s);
			if (ready[i].events & ~(uint32_t)EPOLLOUT)
				session_hear(s);
		}
	}
	tell(begun);
}

/* ---- one client of POP3 who fetches everything --------------------------- */

/* Take the complete lines of in[0..have): count the replies that end there
 * down, by a line of a dot or, without `dots`, by any.  How much was taken. */
static size_t
take_lines(const char *in, size_t have, bool dots, size_t *replies)
{
	const char *line = in, *lf;

	while (*replies > 0 &&
	    (lf = memchr(line, '\n', have - (size_t)(line - in))) != NULL) {
		if (line[0] == '-')
			die("%.*s", (int)(lf - line), line);
		if (!dots || (line[0] == '.' && lf - line == 2))
			--*replies;
		line = lf + 1;
	}
	return (size_t)(line - in);
}

/* Send `text`, and read so many replies; returns their octets.  Both at once,
 * or both sides would end up waiting for each other. */
static size_t
ask(int fd, const char *text, size_t replies, bool dots)
{
	static char in[BLOCK];
	size_t len = strlen(text), have = 0, total = 0;

	while (replies > 0) {
		struct pollfd p = { fd, POLLIN, 0 };
		ssize_t n;

		p.events = (short)(len > 0 ? POLLIN | POLLOUT : POLLIN);
		if (poll(&p, 1, PATIENCE * 1000) <= 0)
			die("silence, %zu replies missing", replies);
		if (p.revents & POLLOUT) {
			n = send(fd, text, len, MSG_NOSIGNAL);
			text += n > 0 ? n : 0;
			len -= n > 0 ? (size_t)n : 0;
		}
		if ((p.revents & ~POLLOUT) == 0)
			continue;
		if ((n = recv(fd, in + have, sizeof(in) - have, 0)) <= 0)
			die("connection lost, %zu replies missing", replies);
		have += (size_t)n;
		total += (size_t)n;
		n = (ssize_t)take_lines(in, have, dots, &replies);
		have -= (size_t)n;
		memmove(in, in + n, have);
	}
	return total;
}

static void
fetch(void)
{
	double t[6] = { now() };
	char text[TEXT_MAX * 2], *all, *end;
	int fd = connected();
	size_t octets, count = work;

	ask(fd, "", 1, false);
	snprintf(text, sizeof(text), "USER %s\r\n", user);
	ask(fd, text, 1, false);
	snprintf(text, sizeof(text), "PASS %s\r\n", user);
	ask(fd, text, 1, false);
	ask(fd, "STAT\r\n", 1, false);
	t[1] = now();
	ask(fd, "LIST\r\n", 1, true);
	t[2] = now();
	ask(fd, "UIDL\r\n", 1, true);
	t[3] = now();
	end = all = need(count, 24);
	for (size_t i = 1; i <= count; i++)
		end += sprintf(end, "RETR %zu\r\n", i);
	octets = ask(fd, all, count, true);
	t[4] = now();
	ask(fd, "QUIT\r\n", 1, false);
	t[5] = now();
	printf("login=%.3f list=%.3f uidl=%.3f retr=%.3f quit=%.3f "
	       "octets=%zu\n",
	    t[1] - t[0], t[2] - t[1], t[3] - t[2], t[4] - t[3], t[5] - t[4],
	    octets);
}

/* ---- the disk's own limit ------------------------------------------------ */

static void
put_file(int tmp, size_t number, const char *data)
{
	char name[32];
	int fd;

	snprintf(name, sizeof(name), "%zu", number);
	fd = openat(tmp, name, O_WRONLY | O_CREAT | O_EXCL, 0600);
	if (fd < 0 || write(fd, data, length) != (ssize_t)length ||
	    close(fd) != 0)
		die("%s", name);
}

/* What a server must do with files, and nothing else: write, sync, name, sync,
 * for `sessions` messages at once. */
static void
disk(const char *path)
{
	char *data = need(length, 1), name[32];
	int top, tmp, new;
	double begun;

	memset(data, 'x', length);
	took = need(work, sizeof(*took));
	if (mkdir(path, 0700) != 0 || (top = open(path, O_RDONLY)) < 0 ||
	    mkdirat(top, "tmp", 0700) != 0 || mkdirat(top, "new", 0700) != 0)
		die("%s", path);
	tmp = openat(top, "tmp", O_RDONLY);
	new = openat(top, "new", O_RDONLY);
	if (syncfs(top) != 0)
		die("syncfs");
	begun = now();
	while (done < work) {
		double start = now();
		size_t last = done + sessions < work ? done + sessions : work;

		for (size_t i = done; i < last; i++)
			put_file(tmp, i, data);
		if (syncfs(top) != 0)
			die("syncfs");
		for (size_t i = done; i < last; i++) {
			snprintf(name, sizeof(name), "%zu", i);
			if (renameat(tmp, name, new, name) != 0)
				die("rename");
		}
		if (fsync(new) != 0)
			die("fsync");
		while (done < last)
			took[done++] = now() - start;
	}
	tell(begun);
}

/* ---- the program --------------------------------------------------------- */

/* All held: say so, and let them be until our input ends. */
static void
hold(void)
{
	char end;

	keep = true;
	work = sessions;
	play(script_hold);
	fflush(stdout);
	while (read(STDIN_FILENO, &end, 1) > 0)
		continue;
}

static void
options(int argc, char **argv)
{
	int option;

	while ((option = getopt(argc, argv, "s:m:l:r:t:u:1")) != -1)
		switch (option) {
		case 's':
			sessions = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'm':
			work = strtoul(optarg, NULL, 10);
			break;
		case 'l':
			length = strtoul(optarg, NULL, 10);
			break;
		case 'r':
			recipients = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 't':
			recipient = optarg;
			break;
		case 'u':
			user = optarg;
			break;
		case '1':
			one_each = true;
			break;
		default:
			exit(64);
		}
}

int
main(int argc, char **argv)
{
	static const struct {
		const char *name;
		unsigned port;
		void (*script)(struct session *);
	} modes[] = {
		{ "smtp", 25, script_smtp },
		{ "pop3", 110, script_pop3 },
		{ "ehlo", 25, script_ehlo },
		{ "noop", 25, script_noop },
	};
	struct rlimit files;
	const char *mode = argc > 2 ? argv[1] : "";

	optind = 3;
	options(argc, argv);
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	address.sin_family = AF_INET;
	address.sin_port = htons(25);
	if (strcmp(mode, "disk") == 0) {
		disk(argv[2]);
		return 0;
	}
	if (argc < 3 || inet_pton(AF_INET, argv[2], &address.sin_addr) != 1) {
		fprintf(stderr, "usage: see the top of press.c\n");
		return 64;
	}
	if (strcmp(mode, "hold") == 0)
		hold();
	if (strcmp(mode, "fetch") == 0) {
		address.sin_port = htons(110);
		fetch();
	}
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		if (strcmp(mode, modes[i].name) == 0) {
			address.sin_port = htons((uint16_t)modes[i].port);
			play(modes[i].script);
		}
	return 0;
}
