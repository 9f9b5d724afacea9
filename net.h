/*
 * net.h -- the ground: what net.c offers, and every other file stands on.
 *
 * What this is
 *	Time, buffers, connections, the poll set, log and trace, and small
 *	things that several files need.  mailserv.h includes it: read it first.
 * Always true
 *	Time is in milliseconds (msec).  Sizes are in octets.
 *	Functions that return bool return true for success.
 */
#ifndef NET_H
#define NET_H

#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>

/* Octets of text, their NUL included. */
enum {
	SMALL_BUF = 2048,  /* an idle session's: 10,000 of them fit in 64 MiB */
	LARGE_BUF = 65536, /* while content streams: few system calls */
	PEER_TEXT = 56,    /* "[" an IPv6 address "]:65535" */
	ADDRESS_SLOTS = 65536, /* counters for max_per_client */
};

#define NELEM(a) (sizeof(a) / sizeof((a)[0]))

/* A bit for a state of a dialogue, for sets of them: so that a row of a table
 * says in one word in which states a verb is legal. */
#define IN(state) (1u << (state))

/* RFC 5321 4.1.2: Let-dig, for strspn(). */
#define LET_DIG "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

/* ---- the ground: time, buffers, connections ------------------------------ */

/* A duration, or a moment: of srv.now (monotonic) or srv.wall (since 1970). */
typedef int64_t msec;

#define SECOND ((msec)1000)
#define MINUTE (60 * SECOND)
#define NEVER  INT64_MAX

/* Everything a descriptor can tell us.  End of file is an answer like any
 * other: a loop that forgets it spins at full speed. */
enum io { IO_OK, IO_AGAIN, IO_EOF, IO_ERROR };

/* What buf_line() found. */
enum line { LINE_NONE, LINE_OK, LINE_BARE_LF, LINE_TOO_LONG };

/*
 * Octets between a socket and us.
 *
 *	0            start          end             cap
 *	|  used up   |   unread     |    free       |
 *
 * Always 0 <= start <= end <= cap; start == end means empty.
 */
struct buf {
	char *data; /* cap octets, from malloc() */
	size_t cap, start, end;
	bool skipping; /* in a line that was too long: up to its end */
};

/* An IPv4 or IPv6 address and port; sa_family 0: none.  28 octets, where the
 * sockaddr_storage that could hold any family has 128. */
union address {
	struct sockaddr_in6 v6; /* the largest first: { 0 } clears all of it */
	struct sockaddr_in v4;
	struct sockaddr any;
};

/* Whose ready list a connection joins: which file serves it. */
enum kind { KIND_SMTP, KIND_POP3, KIND_DNS, KIND_RELAY, N_KINDS };

/* The parts that log lines name: one for each kind, by its number; and main. */
enum part { PART_SMTP, PART_POP3, PART_DNS, PART_QUEUE, PART_MAIN };

/*
 * One descriptor in the poll set.  It is the first member of every session,
 * so that a struct conn * may be cast to its session.  Only net_settle()
 * closes one; only its file's reap function then frees it.
 *
 * What it wants, in the moments that every session knows:
 *
 *	it waits for a command              (nothing: who is not deaf hears)
 *	much was asked, little is read      deaf, more
 *	content is on its way out           deaf, more
 *	the last dot waits for the disk     deaf; smtp_answer() ends that
 *	a command goes on in the next turn  deaf, again
 *	QUIT removes what was marked        deaf, again, busy
 *	the last word is said               doomed, and a deadline
 *	we begin to connect                 deaf, more: POLLOUT tells
 */
struct conn {
	/* Who is this? */
	int fd; /* -1 once closed: to be reaped */
	enum kind kind;
	bool listening;   /* accepts, or is a UDP socket: net reads nothing */
	bool client;      /* was accepted: counts against max_clients */
	bool counted;     /* and against max_per_client */
	unsigned long id; /* its number in the log */
	union address peer;
	char peer_text[PEER_TEXT]; /* "[192.0.2.1]:25" */

	/* What does it want?  Looked at in net_settle(). */
	msec deadline; /* be served at this time, ready or not; or NEVER */
	bool deaf;     /* read nothing now: an answer or output must go first */
	bool more;     /* has output to make as soon as there is room */
	bool doomed;   /* close as soon as out is empty, or at the deadline */
	bool again;    /* be served in the next turn whatever happens */
	bool busy;     /* keep me, though the peer may be gone */

	/* What has this turn brought? */
	short revents; /* of poll(); 0 where only the deadline or again did */
	bool late;     /* the deadline has passed */
	bool listed;   /* is on the ready list */
	struct conn *next_ready;

	struct buf in, out;
	size_t slot; /* where in the poll set */
};

/*
 * The poll set: three arrays that run in step, and what is ready.  A slot is a
 * connection's place in all of them, as long as it is open; when one is closed,
 * the last one takes its slot.
 *
 *	slot         0          1          2          n       cap
 *	fds          | listener | client   | client   |  free  |
 *	conns        |    |     |    |     |    |     |        |
 *	deadlines    | NEVER    | 300,000  | 120,000  |        |
 *
 *	wake         120,000, or less
 *	ready        [KIND_SMTP] -> slot 2 -> slot 0
 *
 * One turn of a ready list: net_wait() empties it, and puts on it who is ready
 * or late; net_accept() and net_touch() append; net_settle() looks at all of
 * them, and closes some (fd is -1 from now on, and no slot is theirs);
 * net_gone() takes those off, to be freed.
 */
struct net {
	struct pollfd *fds;
	struct conn **conns;
	msec *deadlines; /* beside the fds, so that a walk stays in cache */
	size_t n, cap;
	msec wake; /* no deadline is earlier; only this may be too early */
	struct conn *ready[N_KINDS]; /* served this turn, oldest first */
	struct conn *ready_tail[N_KINDS];
	size_t n_clients; /* accepted and still open */
	unsigned long last_id;
	int spare; /* of /dev/null; given up to accept one more, and say 421 */
	uint64_t salt; /* so that strangers cannot choose the hash ... */
	uint16_t per_address[ADDRESS_SLOTS]; /* ... by which those open count */
};

struct conf; /* see mailserv.h */

/* Who found fault with a file, and how often: see complain(). */
struct diag {
	bool quiet;     /* say no warnings: only -n and a start do */
	bool no_memory; /* one of the errors was this */
	unsigned errors, warnings;
};

/* A sorted set of names. */
struct names {
	char **v;
	size_t n, cap;
	bool exact; /* case matters: local parts of others (RFC 5321 2.4) */
};

struct cidr {
	unsigned char net[16]; /* IPv4 as ::ffff:a.b.c.d (RFC 4291 2.5.5.2) */
	unsigned bits;         /* of 128 */
};

/* ---- net.c: the ground --------------------------------------------------- */

/* Read both clocks into srv.now and srv.wall: at start; in a turn only
 * net_wait() does. */
void clock_read(void);

/* One line on stderr: time, part, id, then the text.  Control characters and
 * octets over 126 in the text are written as \ooo. */
void log_event(enum part part, const char *id, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The same, for a connection: its number is the id. */
void log_conn(const struct conn *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* With -v: one protocol line, '<' from the peer or '>' to it, and the
 * section it follows ("RFC 5321 4.1.1.2"). */
void trace(const struct conn *c, char way, const char *line, const char *rfc);

/* "FILE:LINE: what is wrong": on stderr before the server runs, in the log
 * once it does.  complain() counts an error, complain_mildly() a warning, and
 * says so. */
struct spot {
	const char *file;
	unsigned line;
};
void complain(struct diag *d, struct spot at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void complain_mildly(struct diag *d, struct spot at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Buffers.  buf_size(): the memory is cap octets from now on; what is unread
 * stays, so false when it does not fit (or no memory is left): then nothing
 * has changed.  buf_free() returns the memory. */
bool buf_size(struct buf *b, size_t cap);
void buf_free(struct buf *b);
size_t buf_used(const struct buf *b);
size_t buf_room(const struct buf *b);

/* Append, if all of it fits: else false, and nothing was appended. */
bool buf_put(struct buf *b, const char *data, size_t len);

/*
 * Take the next line.  Only CRLF ends one (RFC 5321 2.3.8): a bare LF is
 * reported, never obeyed.  *line: its octets, line end replaced by NUL; *len:
 * how many, for a line may hold NULs.  max counts the line end; a longer line
 * is skipped to its end and reported once, there.  max is no more than cap, or
 * a full buffer would wait for the rest of its line for ever.  The line is good
 * until the next net_read(), which moves what is in the buffer.
 */
enum line buf_line(struct buf *b, size_t max, char **line, size_t *len);

/* "a.b.c.d:port" or "[x::y]:port"; without a port, `port` if not 0. */
bool address_parse(const char *text, unsigned port, union address *addr);
/* The host alone, len octets of text; its port is 0. */
bool address_host(const char *text, size_t len, union address *addr);
/* "[192.0.2.1]" or "[IPv6:2001:db8::1]" (RFC 5321 4.1.3; no other tag is
 * registered).  Returns what follows, or NULL: it is none.  Its port is 0. */
const char *address_literal(const char *text, union address *a);
/* Into text[PEER_TEXT]: "[192.0.2.1]:25"; without the port where asked. */
void address_format(const union address *a, bool with_port, char *text);
unsigned address_port(const union address *a);
void address_set_port(union address *a, unsigned port);
/* Its 16 octets, IPv4 as ::ffff:a.b.c.d (RFC 4291 2.5.5.2), so that the two
 * families compare by one rule. */
void address_octets(const union address *a, unsigned char octets[16]);
socklen_t address_len(const union address *a);
bool address_equal(const union address *a, const union address *b);
bool address_is_loopback(const union address *a);
/* IPv4 or IPv6 within one of n networks? */
bool cidr_match(const struct cidr *list, size_t n, const union address *a);

/* What every connection needs: before the first one. */
void net_start(void);

/* Open a socket of our own: bound and listening (SOCK_STREAM), or bound
 * (SOCK_DGRAM).  NULL, errno: it could not be; nothing is left open. */
struct conn *net_listen(enum kind kind, const union address *a, int type);

/*
 * Accept one client of a listener: a zeroed session of `size` octets that
 * begins with its struct conn, in the poll set, with SMALL_BUF both ways;
 * NULL when nobody waits.  A client that may not come in (max_clients,
 * max_per_client, no descriptor, no memory) is told `busy` and the reason in
 * words, or nothing (busy NULL), and closed.
 */
struct conn *net_accept(struct conn *listener, size_t size, const char *busy);

/* Begin to connect c (zeroed) to an address, with a socket of this type; it
 * is deaf until POLLOUT comes and net_connected() tells how that ended: 0 or an
 * errno.  False, errno: not even begun.  By UDP (SOCK_DGRAM) it is connected at
 * once. */
bool
net_connect(struct conn *c, enum kind kind, const union address *to, int type);
int net_connected(struct conn *c);

/* The only call that waits for a peer: until a descriptor is ready, a
 * deadline or `until` has come, or a signal.  Reads the clock before poll(),
 * for how long to sleep, and after it, for all of the turn. */
void net_wait(msec until);

/* Walk those that are ready: net_next(kind, NULL) is the first of a kind.  Who
 * is touched or accepted meanwhile joins at the end, and is met, too. */
struct conn *net_next(enum kind kind, const struct conn *after);

/* Read once into c->in, if poll() has found something, and c hears.  IO_AGAIN
 * also where not, or where the buffer is full.  After IO_EOF be deaf or doomed:
 * poll() finds the end of a file in every turn. */
enum io net_read(struct conn *c);

/* Append one line to c->out, with CRLF, and trace it.  False: no room. */
bool net_say(struct conn *c, const char *line, const char *rfc);

/* c has changed although it was not ready (someone else's doing): look at it
 * in net_settle().  Forgotten, its answer would stay in c->out until the client
 * stirs. */
void net_touch(struct conn *c);

/* End of the turn, for all that were ready or touched: send what waits, ask
 * poll() for what they now want, close the doomed. */
void net_settle(void);

/* The next closed connection of a kind, no longer on any list, or NULL.  The
 * caller frees its own things, then calls net_free(c) and free()s it. */
struct conn *net_gone(enum kind kind);
void net_free(struct conn *c);

/* Close c at the end of this turn, ready or not, whatever out still holds.  (A
 * session that has a last word sets c->doomed instead.) */
void net_drop(struct conn *c);

/* Walk all connections of a kind, ready or not, listeners included: *at is 0
 * before the first call.  NULL: no more.  Costs a walk of the poll set: for
 * the end of the server, not for a turn. */
struct conn *net_walk(enum kind kind, size_t *at);

/* Invariants of buffers and poll set (CHECKS=1, and the suites). */
void net_check(void);

/* The laboratory's fault for this verb, if there is one and its percentage
 * hits now; else NULL. */
const struct fault *
net_fault(const struct conf *conf, enum kind kind, const char *verb);

/* Small things that several files need. */
uint64_t random_u64(void);
/* Open a regular file for reading; NULL: errno.  Nothing else, because a
 * device has no end and a FIFO no beginning. */
FILE *net_open_regular(const char *path);
/* A path that a file names, relative to that file's folder; from malloc(),
 * NULL: no memory. */
char *net_path_beside(const char *file, const char *path);
/* Decimal digits at *text, which moves behind them; false: none, or a leading
 * zero, or a sign.  What is too large becomes UINT64_MAX, not the remainder:
 * RETR 4294967297 must never mean message 1. */
bool digits_parse(const char **text, uint64_t *number);
/* Are len octets of text this word, without regard to case? */
bool net_is_word(const char *text, size_t len, const char *word);
/* names_add() copies, keeps order, and ignores what is there already; false:
 * no memory.  For many: names_push() at the end, then names_sort() once.
 * names_free() leaves an empty set. */
bool names_add(struct names *set, const char *name);
bool names_push(struct names *set, const char *name);
void names_sort(struct names *set);
bool names_has(const struct names *set, const char *name);
void names_free(struct names *set);

#endif
