/*
 * dialogue.c -- play dialogues in the RFCs' own notation against a server.
 *
 * What this is
 *	The client of the tests, the labs and the demonstration: a script says
 *	what the client sends, and what the server has to answer.
 *		connect 127.0.0.1 ${SMTP}
 *		S: 220 localhost...
 *		C: HELO client.example
 *		S: 250 ...
 * Call it in this order
 *	dialogue [-v] [-D NAME=VALUE]... FILE...
 *	-v prints the dialogue as it goes.  A mismatch prints it in any case,
 *	and then FILE:LINE: with what was expected and what came.  Exit status
 *	0: all went as written; 1: a mismatch; 2: a fault in a script, or in
 *	the call.
 * What the server has to say
 *	S: text		this line exactly.  "..." at its end: and any rest.
 *			${NAME=}: a word, up to a blank or to the character
 *			that follows here; it is kept.  ${=}: any word
 *	S: <EOF>	the server closes, or resets, the connection
 *	...		any lines, up to the one that the next S: asks for
 *	silence N	nothing comes for N seconds
 * What the client says
 *	C: text		this line, and CR LF.  Lines of C in a row leave in
 *			one write: a group, as in RFC 2920 3.1
 *	C< text		without CR LF; \r \n \t \0 \\ \xNN are octets
 *	C*1000 text	the same, 1000 times
 *	bytewise on	from here on one octet a write (off: no longer)
 * Connections
 *	connect [NAME] ADDRESS PORT	close, half-close, reset (RST) [NAME]
 *			C(NAME): S(NAME): C(NAME)< say which one is meant;
 *			without it, the one that was opened last.  connect
 *			closes the open one of the same name, or without any
 *	timeout N	seconds that every S: is waited for, from here on (10)
 *	retry N		seconds that every connect is tried again for (0)
 * And
 *	# text		a comment; blank lines say nothing either
 *	set NAME VALUE	from here on ${NAME} is VALUE, in any line
 *	say text	narrate: "# text" in the dialogue
 *	wait N		sleep; N may be 0.5
 *	include FILE	play that one here; from the folder of this file
 *	repeat N ... end    while a line in between does not go as written,
 *			hang up what was opened there and play it again, for
 *			N seconds
 * A typical sequence, with break do_server in gdb
 *	main -> play_file -> play_line -> do_server -> next_line, fits
 * Always true
 *	What is printed is in the notation itself: a dialogue that went well
 *	is a script.  Every wait has a time-out.  A name of a variable that
 *	no script has set is looked for in the environment.
 *	A script of tests/dialogues finds the server as it is when it has
 *	just been started on an empty data_dir, such as mailserv-data.
 * What it does not do
 *	TLS; arithmetic; expect octets that end no line.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NELEM(a) (sizeof(a) / sizeof((a)[0]))

enum {
	CONNS_MAX = 16,    /* open at once */
	NAME_CAP = 32,     /* of a connection, of a variable; with its NUL */
	BUF_CAP = 1 << 16, /* a group; also the longest line to be heard */
	SHOWN_MAX = 200,   /* octets of a line that are printed */
	DEPTH_MAX = 8,     /* a file that includes itself must end */
	PAUSE = 100,       /* milliseconds between two tries */
	TIMEOUT = 10000,   /* milliseconds: see timeout above */
};

struct conn {
	unsigned long number; /* in order of opening; 0: the slot is free */
	char name[NAME_CAP];  /* "" without one */
	int fd;
	char in[BUF_CAP]; /* heard, from start to end not yet asked for */
	size_t start, end;
	char out[BUF_CAP]; /* the group that waits for its last line */
	size_t n_out;
};

/* What next_line() heard: a line without its CR LF, or how it ended. */
enum end { LINE, END, NOTHING, TOO_LONG };
struct heard {
	enum end what;
	const char *data; /* until the next call */
	size_t len;
};

/* One file, and how far it is played. */
struct script {
	const char *name;
	FILE *file;
	size_t line;
	struct script *outer; /* which includes this one */
	/* In a repeat block: where it begins, and what was there before. */
	bool repeating;
	long block_at;
	size_t block_line;
	int64_t block_ends;
	unsigned long conns_before;
	long log_before;
};

/* Variables are in the environment: see getenv(). */
struct player {
	struct script *script; /* the innermost */
	struct conn conns[CONNS_MAX];
	unsigned long n_conns; /* opened so far */
	bool skip;             /* "..." came: before the next S: */
	bool verbose, bytewise;
	int64_t timeout, retry;
	FILE *log; /* the dialogue so far: log_len octets at log_text */
	char *log_text;
	size_t log_len, log_shown;
};

/* ---- time, and what the user is told ------------------------------------- */

static int64_t
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void
pause_for(int64_t msec)
{
	struct timespec ts = { .tv_sec = msec / 1000,
		.tv_nsec = msec % 1000 * 1000000 };

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
		continue;
}

/* A fault in the script ends everything: its author has to look first. */
__attribute__((format(printf, 2, 3), noreturn)) static void
bad(const struct player *p, const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fprintf(stderr, "%s:%zu: ", p->script->name, p->script->line);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(2);
}

static void
log_show(struct player *p)
{
	fflush(p->log);
	fwrite(p->log_text + p->log_shown, 1, p->log_len - p->log_shown,
	    stdout);
	fflush(stdout);
	p->log_shown = p->log_len;
}

/* In a repeat block nothing is shown yet, because a mismatch may still take
 * it back. */
static void
log_end(struct player *p)
{
	bool repeating = false;

	fputc('\n', p->log);
	for (const struct script *s = p->script; s != NULL; s = s->outer)
		repeating = repeating || s->repeating;
	if (p->verbose && !repeating)
		log_show(p);
}

/* Log octets as a terminal can take them, in the escapes of C<. */
static void
log_octets(struct player *p, const char *data, size_t len)
{
	for (size_t i = 0; i < len && i < SHOWN_MAX; i++) {
		unsigned char octet = (unsigned char)data[i];

		fprintf(p->log, octet != '\t' && (octet < 32 || octet > 126) ?
			"\\x%02x" : "%c",
		    octet);
	}
	if (len > SHOWN_MAX)
		fprintf(p->log, "... (%zu octets)", len);
}

static void
log_at(struct player *p, const char *words)
{
	fprintf(p->log, "%s:%zu: %s", p->script->name, p->script->line, words);
}

/* ---- variables ----------------------------------------------------------- */

static void
var_name(const struct player *p, char *name, const char *text, size_t len)
{
	if (len >= NAME_CAP)
		bad(p, "a name has at most %d characters", NAME_CAP - 1);
	memcpy(name, text, len);
	name[len] = '\0';
}

/* Fill the variables in a line of the script, into memory that the caller
 * frees; ${NAME=} stays, for fits(). */
static char *
expand(const struct player *p, const char *line)
{
	char *filled = NULL, name[NAME_CAP];
	size_t filled_len;
	FILE *to = open_memstream(&filled, &filled_len);
	const char *dollar;

	if (to == NULL)
		bad(p, "%s", strerror(errno));
	while ((dollar = strstr(line, "${")) != NULL) {
		size_t len = strcspn(dollar, "}");

		if (dollar[len] == '\0')
			bad(p, "${ without }");
		fwrite(line, 1, (size_t)(dollar - line), to);
		line = dollar + len + 1;
		if (dollar[len - 1] == '=') {
			fwrite(dollar, 1, len + 1, to);
			continue;
		}
		var_name(p, name, dollar + 2, len - 2);
		if (getenv(name) == NULL)
			bad(p, "${%s} has no value", name);
		fputs(getenv(name), to);
	}
	fputs(line, to);
	if (fclose(to) != 0)
		bad(p, "%s", strerror(errno));
	return filled;
}

/* ---- connections --------------------------------------------------------- */

/* The open one of that name, or NULL; name NULL: the one opened last. */
static struct conn *
conn_find(struct player *p, const char *name)
{
	struct conn *found = NULL;

	for (size_t i = 0; i < CONNS_MAX; i++) {
		struct conn *c = &p->conns[i];

		if (c->number == 0 ||
		    (name != NULL && strcmp(c->name, name) != 0))
			continue;
		if (found == NULL || c->number > found->number)
			found = c;
	}
	return found;
}

/* Log what begins a line, such as "S: " or "C(mail2)*5 ". */
static void
log_who(struct player *p, char who, const struct conn *c, const char *how)
{
	bool plain = c->name[0] == '\0' && c == conn_find(p, NULL);

	fprintf(p->log, plain ? "%c%s%s " : "%c(%s)%s ", who, c->name, how);
}

static void
conn_close(struct conn *c)
{
	close(c->fd);
	c->number = 0;
}

/* Hang up whatever was opened after the first n. */
static void
hang_up(struct player *p, unsigned long n)
{
	for (size_t i = 0; i < CONNS_MAX; i++)
		if (p->conns[i].number > n)
			conn_close(&p->conns[i]);
}

static void
conn_open(struct player *p, int fd, const char *name)
{
	size_t i = 0;

	while (i < CONNS_MAX && p->conns[i].number != 0)
		i++;
	if (i == CONNS_MAX)
		bad(p, "at most %d connections at once", CONNS_MAX);
	struct conn *c = &p->conns[i];

	var_name(p, c->name, name, strlen(name));
	c->number = ++p->n_conns;
	c->fd = fd;
	c->start = c->end = c->n_out = 0;
}

/* Let a group leave.  That the server has closed is not ours to judge: it may
 * well do so after its last word, and the next S: is going to tell. */
static bool
push(struct player *p, struct conn *c)
{
	for (size_t sent = 0; sent < c->n_out;) {
		size_t len = p->bytewise ? 1 : c->n_out - sent;
		ssize_t n = send(c->fd, c->out + sent, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EAGAIN) {
			log_at(p, "the server does not read, in time\n");
			return false;
		}
		if (n < 0 && errno != EINTR)
			break;
		sent += n > 0 ? (size_t)n : 0;
	}
	c->n_out = 0;
	return true;
}

static bool
push_all(struct player *p)
{
	bool ok = true;

	for (size_t i = 0; ok && i < CONNS_MAX; i++)
		if (p->conns[i].number != 0)
			ok = push(p, &p->conns[i]);
	return ok;
}

/* Add octets to a group; what is too much for one leaves in pieces. */
static bool
group_add(struct player *p, struct conn *c, const char *data, size_t len)
{
	while (len > 0) {
		size_t room = BUF_CAP - c->n_out;
		size_t n = len < room ? len : room;

		memcpy(c->out + c->n_out, data, n);
		c->n_out += n;
		data += n;
		len -= n;
		if (c->n_out == BUF_CAP && !push(p, c))
			return false;
	}
	return true;
}

/* Read once; LINE: something came, in time. */
static enum end
take_in(struct conn *c, int64_t msec)
{
	struct pollfd pfd = { .fd = c->fd, .events = POLLIN };

	memmove(c->in, c->in + c->start, c->end - c->start);
	c->end -= c->start;
	c->start = 0;
	if (c->end == BUF_CAP)
		return TOO_LONG;
	if (poll(&pfd, 1, msec > 0 ? (int)msec : 0) <= 0)
		return NOTHING;
	ssize_t n = read(c->fd, c->in + c->end, BUF_CAP - c->end);

	if (n <= 0)
		return END;
	c->end += (size_t)n;
	return LINE;
}

/* Wait for a line, so long.  Without its CR the LF stays in it, to be seen,
 * because only CR LF ends a line (RFC 5321 2.3.8). */
static struct heard
next_line(struct conn *c, int64_t msec)
{
	int64_t until = now() + msec;
	struct heard h = { .what = LINE };

	for (;;) {
		h.data = c->in + c->start;
		h.len = c->end - c->start;
		const char *lf = memchr(h.data, '\n', h.len);

		if (lf != NULL) {
			h.len = (size_t)(lf + 1 - h.data);
			c->start += h.len;
			if (h.len > 1 && lf[-1] == '\r')
				h.len -= 2;
			return h;
		}
		if (h.what != LINE)
			return h;
		h.what = take_in(c, until - now());
	}
}

/* ---- C and S ------------------------------------------------------------- */

/* After C or S: whom "(NAME)" means; *rest is what follows it. */
static struct conn *
whom(struct player *p, char *words, char **rest)
{
	const char *name = NULL;

	*rest = words;
	if (*words == '(') {
		char *end = words + strcspn(words, ")");

		*rest = *end != '\0' ? end + 1 : end;
		*end = '\0';
		name = words + 1;
	}
	struct conn *c = conn_find(p, name);

	if (c == NULL)
		bad(p, "no connection %s is open", name != NULL ? name : "");
	return c;
}

/* Turn the escapes of a text into octets, in place; how many. */
static size_t
unescape(const struct player *p, char *text)
{
	static const char names[] = "rnt0\\", octets[] = "\r\n\t\0\\";
	char *to = text, hex[3];

	for (const char *from = text; *from != '\0'; to++) {
		*to = *from++;
		if (*to != '\\')
			continue;
		const char *name = strchr(names, *from);

		if (*from != '\0' && name != NULL) {
			*to = octets[name - names];
			from++;
		} else if (sscanf(from, "x%2[0-9a-fA-F]", hex) == 1 &&
		    strlen(hex) == 2) {
			*to = (char)strtol(hex, NULL, 16);
			from += 3;
		} else
			bad(p, "after \\ comes r, n, t, 0, \\ or xNN");
	}
	return (size_t)(to - text);
}

/* C: text   C< text   C*N text */
static bool
do_client(struct player *p, char *words)
{
	unsigned long times = 1;
	char *text;
	struct conn *c = whom(p, words, &text);
	char how = *text;

	if (how == '\0' || strchr(":<*", how) == NULL)
		bad(p, "wanted: C:, C< or C*N");
	const char *mark = text++;

	if (how == '*')
		times = strtoul(text, &text, 10);
	if (*text != ' ' && *text != '\0')
		bad(p, "wanted: a blank before the text");
	if (*text == ' ')
		*text++ = '\0'; /* and the mark's end: ":", "<", "*1000" */
	log_who(p, 'C', c, mark);
	log_octets(p, text, strlen(text));
	log_end(p);

	size_t len = how == ':' ? strlen(text) : unescape(p, text);
	bool ok = true;

	for (; ok && times > 0; times--)
		ok = group_add(p, c, text, len);
	return ok && (how != ':' || group_add(p, c, "\r\n", 2));
}

/* Take the word that ${NAME=} stands for, up to a blank or to `stop`, and
 * keep it; *at moves behind it. */
static bool
keep_word(const struct player *p, const char *want, char stop,
    struct heard *rest)
{
	char name[NAME_CAP], word[BUF_CAP];
	size_t n = 0;

	while (n < rest->len && rest->data[n] != ' ' && rest->data[n] != stop)
		n++;
	memcpy(word, rest->data, n);
	word[n] = '\0';
	rest->data += n;
	rest->len -= n;
	var_name(p, name, want + 2, strcspn(want, "=") - 2);
	return n > 0 && (name[0] == '\0' || setenv(name, word, 1) == 0);
}

/* Does a line go as written? */
static bool
fits(const struct player *p, const char *want, struct heard h)
{
	while (*want != '\0' && strcmp(want, "...") != 0) {
		if (strncmp(want, "${", 2) == 0) {
			const char *next = want + strcspn(want, "}") + 1;
			bool last = *next == '\0' || strcmp(next, "...") == 0;

			if (!keep_word(p, want, last ? ' ' : *next, &h))
				return false;
			want = next;
		} else if (h.len == 0 || *want++ != *h.data++)
			return false;
		else
			h.len--;
	}
	return h.len == 0 || *want != '\0';
}

/* What the server said instead of what it should. */
static bool
surprise(struct player *p, struct conn *c, const char *want,
    const struct heard *h)
{
	static const char *const end[] = {
		[LINE] = "",
		[END] = "<EOF>",
		[NOTHING] = "(and then nothing, in time)",
		[TOO_LONG] = "(a line without end)",
	};

	log_at(p, "expected  ");
	log_who(p, 'S', c, ":");
	fprintf(p->log, "%s\n", want);
	log_at(p, "came      ");
	log_who(p, 'S', c, ":");
	log_octets(p, h->data, h->len);
	fprintf(p->log, "%s\n", end[h->what]);
	return false;
}

/* S: text */
static bool
do_server(struct player *p, char *words)
{
	char *want;
	struct conn *c = whom(p, words, &want);
	bool fit = false, skip = p->skip;

	if (*want++ != ':')
		bad(p, "wanted: S: or S(NAME):");
	want += *want == ' ';
	bool to_end = strcmp(want, "<EOF>") == 0;

	p->skip = false;
	while (!fit) {
		struct heard h = next_line(c, p->timeout);

		if (h.what == LINE)
			fit = !to_end && fits(p, want, h);
		else
			fit = to_end && h.what == END && h.len == 0;
		if (!fit && (!skip || h.what != LINE))
			return surprise(p, c, want, &h);
		log_who(p, 'S', c, ":");
		if (h.what == LINE)
			log_octets(p, h.data, h.len);
		else
			fputs("<EOF>", p->log);
		log_end(p);
	}
	if (to_end)
		conn_close(c);
	return true;
}

/* ---- directives ---------------------------------------------------------- */

/* A number of seconds, in milliseconds. */
static int64_t
seconds(const struct player *p, const char *word)
{
	char *end;
	double value = strtod(word, &end);

	if (end == word || *end != '\0' || !(value >= 0 && value <= 86400))
		bad(p, "wanted: seconds, at most 86400, not \"%s\"", word);
	return (int64_t)(value * 1000);
}

/* Every address that a name has, in turn, until one answers; -1: errno. */
static int
dial(const struct player *p, const struct addrinfo *ai)
{
	struct timeval limit = { .tv_sec = (time_t)(p->timeout / 1000),
		.tv_usec = (suseconds_t)(p->timeout % 1000 * 1000) };
	int one = 1;

	for (; ai != NULL; ai = ai->ai_next) {
		int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (fd < 0)
			continue;
		/* It limits connect() too. */
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		if (connect(fd, ai->ai_addr, ai->ai_addrlen) == 0)
			return fd;
		int error = errno;

		close(fd);
		errno = error;
	}
	return -1;
}

static bool
do_connect(struct player *p, char *arg)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list;
	char *words[3], *rest = NULL;
	size_t n = 0;
	int64_t until = now() + p->retry;

	for (char *word = strtok_r(arg, " \t", &rest);
	     word != NULL && n < NELEM(words);
	     word = strtok_r(NULL, " \t", &rest))
		words[n++] = word;
	if (n < 2)
		bad(p, "wanted: connect [NAME] ADDRESS PORT");
	const char *name = n == 3 ? words[0] : "";
	struct conn *old = conn_find(p, name);

	if (old != NULL)
		conn_close(old);
	int fd, error = getaddrinfo(words[n - 2], words[n - 1], &hints, &list);

	if (error != 0)
		bad(p, "%s: %s", words[n - 2], gai_strerror(error));
	while ((fd = dial(p, list)) < 0 && now() < until)
		pause_for(PAUSE);
	if (fd < 0) {
		log_at(p, strerror(errno));
		fputc('\n', p->log);
	} else
		conn_open(p, fd, name);
	freeaddrinfo(list);
	return fd >= 0;
}

/* Which connection does "close [NAME]" mean? */
static struct conn *
named(struct player *p, const char *name)
{
	struct conn *c = conn_find(p, *name != '\0' ? name : NULL);

	if (c == NULL)
		bad(p, "no connection %s is open", name);
	return c;
}

static bool
do_close(struct player *p, char *arg)
{
	conn_close(named(p, arg));
	return true;
}

static bool
do_half_close(struct player *p, char *arg)
{
	shutdown(named(p, arg)->fd, SHUT_WR);
	return true;
}

static bool
do_reset(struct player *p, char *arg)
{
	struct linger at_once = { .l_onoff = 1, .l_linger = 0 };

	setsockopt(named(p, arg)->fd, SOL_SOCKET, SO_LINGER, &at_once,
	    sizeof(at_once));
	return do_close(p, arg);
}

static bool
do_silence(struct player *p, char *arg)
{
	struct conn *c = named(p, "");
	struct heard h = next_line(c, seconds(p, arg));

	return (h.what == NOTHING && h.len == 0) ||
	    surprise(p, c, "(silence)", &h);
}

static bool
do_skip(struct player *p, char *arg)
{
	if (*arg != '\0')
		bad(p, "\"...\" stands alone");
	p->skip = true;
	return true;
}

static bool
do_bytewise(struct player *p, char *arg)
{
	p->bytewise = strcmp(arg, "on") == 0;
	if (!p->bytewise && strcmp(arg, "off") != 0)
		bad(p, "wanted: bytewise on, or off");
	return true;
}

static bool
do_timeout(struct player *p, char *arg)
{
	p->timeout = seconds(p, arg);
	return true;
}

static bool
do_retry(struct player *p, char *arg)
{
	p->retry = seconds(p, arg);
	return true;
}

static bool
do_wait(struct player *p, char *arg)
{
	pause_for(seconds(p, arg));
	return true;
}

static bool
do_set(struct player *p, char *arg)
{
	size_t len = strcspn(arg, " \t");
	char name[NAME_CAP];
	const char *value = arg + len;

	var_name(p, name, arg, len);
	if (setenv(name, value + strspn(value, " \t"), 1) < 0)
		bad(p, "wanted: set NAME VALUE");
	return true;
}

static bool
do_say(struct player *p, char *arg)
{
	fprintf(p->log, "# %s", arg);
	log_end(p);
	return true;
}

static bool
do_repeat(struct player *p, char *arg)
{
	struct script *s = p->script;

	if (s->repeating)
		bad(p, "a repeat within a repeat");
	s->block_at = ftell(s->file);
	s->block_line = s->line;
	s->block_ends = now() + seconds(p, arg);
	s->conns_before = p->n_conns;
	s->log_before = ftell(p->log);
	s->repeating = true;
	return true;
}

static bool
do_end(struct player *p, char *arg)
{
	if (!p->script->repeating || *arg != '\0')
		bad(p, "an end without a repeat");
	p->script->repeating = false;
	if (p->verbose)
		log_show(p); /* nothing takes it back now */
	return true;
}

/* After a mismatch: back to the start of the block, while its time lasts. */
static bool
again(struct player *p, struct script *s)
{
	if (!s->repeating || now() >= s->block_ends)
		return false;
	pause_for(PAUSE);
	hang_up(p, s->conns_before);
	p->skip = false;
	s->line = s->block_line;
	return fseek(p->log, s->log_before, SEEK_SET) == 0 &&
	    fseek(s->file, s->block_at, SEEK_SET) == 0;
}

/* ---- scripts ------------------------------------------------------------- */

static bool play_file(struct player *p, const char *name);

static bool
do_include(struct player *p, char *arg)
{
	const char *outer = p->script->name, *slash = strrchr(outer, '/');
	char path[4096];
	int depth = 0;

	for (const struct script *s = p->script; s != NULL; s = s->outer)
		depth++;
	if (depth > DEPTH_MAX)
		bad(p, "includes are nested too deep");
	if (slash == NULL || *arg == '/')
		return play_file(p, arg);
	snprintf(path, sizeof(path), "%.*s/%s", (int)(slash - outer), outer,
	    arg);
	return play_file(p, path);
}

static const struct directive {
	const char *name;
	bool logged; /* it is a part of the dialogue */
	bool (*run)(struct player *p, char *arg);
} directives[] = {
	{ "...", false, do_skip },
	{ "bytewise", false, do_bytewise },
	{ "close", true, do_close },
	{ "connect", true, do_connect },
	{ "end", false, do_end },
	{ "half-close", true, do_half_close },
	{ "include", false, do_include },
	{ "repeat", false, do_repeat },
	{ "reset", true, do_reset },
	{ "retry", false, do_retry },
	{ "say", false, do_say },
	{ "set", false, do_set },
	{ "silence", true, do_silence },
	{ "timeout", false, do_timeout },
	{ "wait", true, do_wait },
};

static bool
do_directive(struct player *p, char *line)
{
	char *arg = line + strcspn(line, " \t");

	if (*arg != '\0')
		*arg++ = '\0';
	arg += strspn(arg, " \t");
	for (size_t i = 0; i < NELEM(directives); i++) {
		if (strcmp(line, directives[i].name) != 0)
			continue;
		if (directives[i].logged) {
			fprintf(p->log, *arg ? "%s %s" : "%s%s", line, arg);
			log_end(p);
		}
		return directives[i].run(p, arg);
	}
	bad(p, "\"%s\" is neither C:, S: nor a directive", line);
}

/* One line.  A group leaves with the first line that is not the client's. */
static bool
play_line(struct player *p, const char *raw)
{
	raw += strspn(raw, " \t");
	if (*raw == '\0' || *raw == '#')
		return true;
	char *line = expand(p, raw);
	bool ok = *line == 'C' || push_all(p);

	if (ok && *line == 'C')
		ok = do_client(p, line + 1);
	else if (ok && *line == 'S')
		ok = do_server(p, line + 1);
	else if (ok)
		ok = do_directive(p, line);
	free(line);
	return ok;
}

/* Play a file to its end, or to its first mismatch: then false. */
static bool
play_file(struct player *p, const char *name)
{
	struct script s = { .name = name, .outer = p->script };
	char *line = NULL;
	size_t cap = 0;
	bool ok = true;

	p->script = &s;
	s.file = fopen(name, "r");
	if (s.file == NULL)
		bad(p, "%s", strerror(errno));
	while (ok && getline(&line, &cap, s.file) >= 0) {
		s.line++;
		line[strcspn(line, "\r\n")] = '\0';
		ok = play_line(p, line) || again(p, &s);
	}
	if (ferror(s.file))
		bad(p, "cannot be read");
	if (ok && s.repeating)
		bad(p, "a repeat without its end");
	ok = ok && push_all(p);
	free(line);
	fclose(s.file);
	p->script = s.outer;
	return ok;
}

/* Play a file of the command line from a fresh start; the variables stay. */
static bool
play(struct player *p, const char *name)
{
	p->timeout = TIMEOUT;
	p->retry = 0;
	p->bytewise = p->skip = false;
	p->log_shown = 0;
	p->log = open_memstream(&p->log_text, &p->log_len);
	bool ok = p->log != NULL && play_file(p, name);

	if (!ok)
		log_show(p);
	hang_up(p, 0);
	fclose(p->log);
	free(p->log_text);
	return ok;
}

/* Take the options; false: they are wrong. */
static bool
options(struct player *p, int argc, char **argv)
{
	int option;

	while ((option = getopt(argc, argv, "vD:")) != -1) {
		if (option == 'v')
			p->verbose = true;
		else if (option != 'D' || strchr(optarg, '=') == NULL ||
		    putenv(optarg) != 0)
			return false;
	}
	return optind < argc;
}

int
main(int argc, char **argv)
{
	static struct player player; /* too large for some stacks */
	bool ok = true;

	if (!options(&player, argc, argv)) {
		fputs("usage: dialogue [-v] [-D NAME=VALUE]... FILE...\n",
		    stderr);
		return 2;
	}
	for (; ok && optind < argc; optind++)
		ok = play(&player, argv[optind]);
	return !ok;
}
