/*
 * relay.c -- the client's side of SMTP: mail on its way to the next host.
 *
 * What this is
 *	One pass over a route (route.c): hosts in turn, until one takes mail.
 * Call it in this order
 *	relay_open(); relay_step() once a turn; relay_send() or relay_quit()
 *	when it says RELAY_READY; relay_close().
 * A typical sequence, with break relay_enter in gdb
 *	relay_step -> relay_serve -> relay_read -> relay_line -> relay_hear
 *	-> hear_greeting -> relay_enter
 * Always true
 *	A host's failure moves on to the next host, unless it may have taken
 *	the message, for it has had the final dot, or it had none in hand.
 *	A recipient is RCPT_DONE only after a 250 to a dot that had left.
 *	What is sent holds no CR but before LF, and no LF but after CR.
 * What it does not do
 *	Keep an idle connection, or remember what a host could do.  Exercise:
 *	measure what a cache of connections would save.
 */
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "mailserv.h"

enum {
	TRANSACTION_RCPTS = 100, /* RFC 5321 4.5.3.1.8: all hosts take them */
	COMMAND_LINE = 512,      /* RFC 5321 4.5.3.1.4 */
	REPLY_LINE = 1024,       /* RFC 5321 4.5.3.1.5: 512; some say more */
	REPLY_LINES = 100,       /* of one reply: EHLO's are some twenty */
	REPLY_TEXT = 512,        /* of a reply, kept for reports */
	CHUNK = 8192,            /* content read at once */
	QUIT_WAIT = 5,           /* seconds: for a 221 that nobody needs */
};

/* ---- content on the wire ------------------------------------------------- */

/*
 * Turn a slice of content into what SMTP carries: LF, CR LF and a CR alone
 * all become one CR LF, because a bare CR or LF may end a line, or the whole
 * message, for the next server and not for us; and a dot at the start of a
 * line is doubled (RFC 5321 4.5.2).  *last: the octet before the slice, '\n'
 * at first.  to: room for 2 * len octets.
 *
 *	in the file   . h i LF         a CR    b LF
 *	on the wire   . . h i CR LF    a CR LF b CR LF
 *
 * smtp.c takes no CR but in CR LF; yet files may be edited, and moved back
 * from failed/.  That a CR was a line's end is known before its LF comes, which
 * is then passed over: so a slice may end between the two.
 */
static size_t
dots_put(char *last, const char *from, size_t len, char *to)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		bool at_start = *last == '\n' || *last == '\r';
		bool ends = from[i] == '\r' ||
		    (from[i] == '\n' && *last != '\r');

		if (ends) {
			to[n++] = '\r';
			to[n++] = '\n';
		} else if (from[i] != '\n') {
			if (at_start && from[i] == '.')
				to[n++] = '.';
			to[n++] = from[i];
		}
		*last = from[i];
	}
	return n;
}

/* After the last slice: its line gets an end, and then comes the dot. */
static const char *
dots_end(char last)
{
	return last == '\n' || last == '\r' ? ".\r\n" : "\r\n.\r\n";
}

/* ---- the dialogue: where it stands --------------------------------------- */

/* Whose reply is expected next, or what else is.  The order counts: before
 * AT_GREETING no host has been reached, and from AT_LOST on none will be. */
enum stage {
	AT_LOOKUP,
	AT_CONNECT,
	AT_GREETING,
	AT_EHLO,
	AT_HELO,
	AT_READY,
	AT_MAIL,
	AT_RCPT,
	AT_DATA,
	AT_CONTENT,
	AT_DOT,
	AT_RSET,
	AT_QUIT,
	AT_LOST,
	AT_IMPOSSIBLE,
	AT_OVER,
	N_STAGES
};

enum patience { FOR_REPLY, FOR_CONNECT, FOR_DOT, FOR_BYE };

/* A connection.  It leaves its relay when it is given up, and lives until it
 * is closed, because a QUIT may have to leave first; then relay_reap() frees
 * it.  Meanwhile its relay may have another, to the next host. */
struct link {
	struct conn c;       /* first: see struct conn */
	struct relay *owner; /* NULL: given up */
};

/* A recipient in the transaction. */
struct offer {
	struct rcpt *rcpt;
	bool taken; /* 250 to RCPT; its fate hangs on DATA and the dot */
};

struct relay {
	/* What does queue.c hear? */
	struct relay_news news;
	bool settled; /* RELAY_SENT is to be told */

	/* Where is it? */
	enum stage stage; /* changed by relay_enter() only */
	struct route *route;
	size_t next_hop;   /* of the route, to be tried next */
	struct link *link; /* NULL: not connected */
	char peer[HOST_MAX + PEER_TEXT];

	/* What can the host do?  From AT_READY on. */
	bool pipelining, eightbit, sized;
	unsigned long long size_max; /* 0: it does not tell */

	/* What is it saying? */
	unsigned code;
	size_t lines; /* of this reply, so far */
	char reply[REPLY_TEXT];

	/* What is in hand?  From AT_MAIL to AT_DOT: `asked` commands and
	 * `answered` of them; 0 is MAIL, then every RCPT, then DATA. */
	struct job *job;
	int fd;
	struct offer offers[TRANSACTION_RCPTS];
	size_t n_offers, n_taken, asked, answered;
	off_t offset; /* of the content, to be read next */
	char last;    /* octet of it that was sent */
};

typedef void hear_fn(struct relay *r);
static hear_fn hear_greeting, hear_ehlo, relay_ready, hear_mail, hear_rcpt,
    hear_data, hear_content, hear_dot;

/* Any host may fail at any time: then the next one is tried, or none is. */
#define FAILS (IN(AT_CONNECT) | IN(AT_LOST))

/* The client's side of SMTP on one screen (RFC 5321 4.3.2).  good: the reply
 * that is hoped for, 0 none.  vital: without it the host is no use. */
static const struct stage_row {
	const char *name, *rfc;
	unsigned good;
	bool vital;
	hear_fn *hear; /* a good reply, and 4yz and 5yz where not vital */
	enum patience patience; /* RFC 5321 4.5.3.2 */
	unsigned may_follow;
	enum relay_state tells; /* queue.c */
} stages[] = {
	[AT_LOOKUP] = { "look-up", "RFC 5321 5.1", 0, true, NULL, FOR_REPLY,
	    FAILS | IN(AT_IMPOSSIBLE), RELAY_BUSY },
	[AT_CONNECT] = { "connect", "RFC 5321 3.1", 0, true, NULL, FOR_CONNECT,
	    FAILS | IN(AT_GREETING), RELAY_BUSY },
	[AT_GREETING] = { "greeting", "RFC 5321 3.1", 220, true, hear_greeting,
	    FOR_REPLY, FAILS | IN(AT_EHLO), RELAY_BUSY },
	[AT_EHLO] = { "EHLO", "RFC 5321 4.1.1.1", 250, false, hear_ehlo,
	    FOR_REPLY, FAILS | IN(AT_HELO) | IN(AT_READY), RELAY_BUSY },
	[AT_HELO] = { "HELO", "RFC 5321 4.1.1.1", 250, true, relay_ready,
	    FOR_REPLY, FAILS | IN(AT_READY), RELAY_BUSY },
	[AT_READY] = { "ready", "RFC 5321 4.1.4", 0, true, NULL, FOR_REPLY,
	    FAILS | IN(AT_MAIL) | IN(AT_QUIT), RELAY_READY },
	[AT_MAIL] = { "MAIL", "RFC 5321 4.1.1.2", 250, false, hear_mail,
	    FOR_REPLY, FAILS | IN(AT_RCPT) | IN(AT_RSET), RELAY_BUSY },
	[AT_RCPT] = { "RCPT", "RFC 5321 4.1.1.3", 250, false, hear_rcpt,
	    FOR_REPLY, FAILS | IN(AT_RCPT) | IN(AT_DATA) | IN(AT_RSET),
	    RELAY_BUSY },
	[AT_DATA] = { "DATA", "RFC 5321 4.1.1.4", 354, false, hear_data,
	    FOR_REPLY, FAILS | IN(AT_CONTENT) | IN(AT_DOT) | IN(AT_RSET),
	    RELAY_BUSY },
	[AT_CONTENT] = { "content", "RFC 5321 4.5.2", 0, false, hear_content,
	    FOR_REPLY, FAILS | IN(AT_DOT), RELAY_BUSY },
	[AT_DOT] = { "final dot", "RFC 5321 4.1.1.4", 250, false, hear_dot,
	    FOR_DOT, FAILS | IN(AT_READY), RELAY_BUSY },
	[AT_RSET] = { "RSET", "RFC 5321 4.1.1.5", 250, true, relay_ready,
	    FOR_REPLY, FAILS | IN(AT_READY), RELAY_BUSY },
	[AT_QUIT] = { "QUIT", "RFC 5321 4.1.1.10", 0, true, NULL, FOR_BYE,
	    IN(AT_OVER), RELAY_BUSY },
	[AT_LOST] = { .name = "lost", .tells = RELAY_LOST },
	[AT_IMPOSSIBLE] = { .name = "impossible", .tells = RELAY_IMPOSSIBLE },
	[AT_OVER] = { .name = "over", .tells = RELAY_OVER },
};
_Static_assert(NELEM(stages) == N_STAGES, "a row for every stage");
_Static_assert((TRANSACTION_RCPTS + 2) * COMMAND_LINE <= LARGE_BUF,
    "a whole pipelined group fits in the buffer");

/* Have the next turn at once: nothing in the poll set would bring it. */
static void
turn_soon(void)
{
	srv.net.wake = 0;
}

/* Wait for what the stage waits for, from now on.  The whole reply has this
 * time: a host that says a line of it every four minutes gains nothing. */
static void
relay_arm(struct relay *r)
{
	const msec wait[] = {
		[FOR_REPLY] = srv.conf->timeout_relay,
		[FOR_CONNECT] = srv.conf->timeout_connect,
		[FOR_DOT] = 2 * srv.conf->timeout_relay,
		[FOR_BYE] = QUIT_WAIT * SECOND,
	};

	r->link->c.deadline = srv.now + wait[stages[r->stage].patience];
	net_touch(&r->link->c);
}

/* The only place where the stage changes. */
static void
relay_enter(struct relay *r, enum stage next)
{
	assert(stages[r->stage].may_follow & IN(next));
	if (log_level >= 1 && r->link != NULL)
		log_conn(&r->link->c, "%s -> %s", stages[r->stage].name,
		    stages[next].name);
	r->stage = next;
	if (r->link != NULL)
		relay_arm(r);
	else
		turn_soon();
}

/* Say one line; `of` is the stage that waits for its reply.  A line that is
 * cut loses its ">": no host takes it for a shorter address.  There is room,
 * because no more is unanswered than one group of commands, and a QUIT. */
__attribute__((format(printf, 3, 4))) static void
relay_say(struct relay *r, enum stage of, const char *fmt, ...)
{
	char line[COMMAND_LINE];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line) - 2, fmt, ap);
	va_end(ap);
	bool fits = net_say(&r->link->c, line, stages[of].rfc);

	assert(fits);
	(void)fits;
	net_touch(&r->link->c);
}

/* ---- the dialogue: hosts that fail --------------------------------------- */

/* Let the connection go.  It closes once a QUIT has left, but at once where
 * content is under way: only the dot that belongs there may end that.  A dot
 * that still waits in `out` would follow, and the host deliver a message that
 * the next one is about to get, too. */
static void
relay_release(struct relay *r)
{
	struct conn *c = &r->link->c;

	r->link->owner = NULL;
	r->link = NULL;
	c->doomed = true;
	c->deadline = srv.now + QUIT_WAIT * SECOND;
	net_touch(c);
	if (r->stage == AT_CONTENT || r->stage == AT_DOT)
		net_drop(c);
}

/* Note why a host is given up. */
static void
relay_note(struct relay *r, const char *what, const char *detail)
{
	snprintf(r->news.reason, sizeof(r->news.reason), "%.120s %s%s", r->peer,
	    what, detail);
	snprintf(r->news.status, sizeof(r->news.status), "%s",
	    r->stage <= AT_CONNECT ? "4.4.1" : "4.4.2");
	log_event(PART_QUEUE, r->job != NULL ? r->job->q->env.id : "-",
	    "host failed: %s", r->news.reason);
}

/* Begin to connect to one address.  False: not even that; the reason is noted.
 * What the last host could do is forgotten: this one may not know SIZE. */
static bool
relay_connect(struct relay *r, const struct hop *hop)
{
	struct link *link = calloc(1, sizeof(*link));
	char text[PEER_TEXT];

	address_format(&hop->addr, true, text);
	snprintf(r->peer, sizeof(r->peer), "%s %s", hop->host->name, text);
	snprintf(r->news.host, sizeof(r->news.host), "%s", hop->host->name);
	if (link == NULL ||
	    !net_connect(&link->c, KIND_RELAY, &hop->addr, SOCK_STREAM)) {
		relay_note(r, "cannot be tried: ", strerror(errno));
		free(link);
		return false;
	}
	link->owner = r;
	r->link = link;
	r->lines = r->code = 0;
	r->pipelining = r->eightbit = r->sized = false;
	r->size_max = 0;
	log_conn(&link->c, "connecting to %s", r->peer);
	relay_enter(r, AT_CONNECT);
	return true;
}

/* Try what is left of the route.  A job in hand stays there: relay_ready() will
 * offer the next host those whose fate this one has not told. */
static void
relay_next_hop(struct relay *r)
{
	while (r->next_hop < r->route->n) {
		const struct hop *hop = &r->route->hops[r->next_hop++];

		if (hop->left_out == NULL && relay_connect(r, hop))
			return;
	}
	relay_enter(r, AT_LOST);
}

/* Has all of a message left?  The dot is the last of it.  It may be no further
 * than in our kernel, and nobody tells; but it may be there, too.  A link that
 * is gone had something that could not be written: see relay_reap(). */
static bool
dot_has_left(const struct relay *r)
{
	return r->stage == AT_DOT && r->link != NULL &&
	    buf_used(&r->link->c.out) == 0;
}

/*
 * The host has failed.
 *
 *	no answer, no welcome, or a     the next host is tried, with the
 *	message that is not all there   same message
 *	the dot has left, no reply      it may have taken it: were the next one
 *	                                tried, every host of the domain could
 *	                                deliver it once: later (RFC 1047 2)
 *	421 to the dot                  it has not: the next host
 *	nothing in hand                 it is alive, and has had enough: later
 *	QUIT was said                   a 221 or silence, all is the end
 *
 * settled: what was in hand has its answer, which the queue has not heard yet.
 */
static void
relay_failed(struct relay *r, const char *what, const char *detail)
{
	bool idle = r->stage == AT_READY || r->stage == AT_RSET || r->settled;
	bool may_have_it = r->n_taken > 0 && r->code != 421 && dot_has_left(r);

	if (r->stage != AT_QUIT)
		relay_note(r, what, detail);
	if (r->link != NULL)
		relay_release(r);
	if (r->stage == AT_QUIT)
		relay_enter(r, AT_OVER);
	else if (idle || may_have_it)
		relay_enter(r, AT_LOST);
	else
		relay_next_hop(r);
}

/* The host does not want us, or not now: leave as RFC 5321 4.1.1.10 says. */
static void
relay_refused(struct relay *r)
{
	if (r->stage != AT_CONTENT && r->stage != AT_DOT)
		relay_say(r, AT_QUIT, "QUIT");
	relay_failed(r, "said: ", r->reply);
}

/* ---- the dialogue: a transaction ----------------------------------------- */

/* A recipient's fate is known: a reply's first digit tells it, and so does
 * that of a status code of our own (RFC 5321 4.2.1, RFC 3463 2). */
static void
rcpt_judge(struct relay *r, struct rcpt *rcpt, const char *reply)
{
	free(rcpt->reply);
	free(rcpt->host);
	rcpt->reply = strdup(reply); /* NULL: a report without the reason */
	rcpt->host = strdup(r->news.host);
	rcpt->state = reply[0] == '5' ? RCPT_FAILED :
	    reply[0] == '4'           ? RCPT_DELAYED :
					RCPT_DONE;
	log_event(PART_QUEUE, r->job->q->env.id, "to=<%s> host=%s reply=\"%s\"",
	    rcpt->address, r->peer, reply);
}

/* The reply is meant for all that were taken by RCPT (to DATA or the dot),
 * or for the others that still wait (to MAIL: nobody is taken yet). */
static void
judge_offers(struct relay *r, bool taken)
{
	for (size_t i = 0; i < r->n_offers; i++)
		if (r->offers[i].taken == taken &&
		    r->offers[i].rcpt->state == RCPT_WAITING)
			rcpt_judge(r, r->offers[i].rcpt, r->reply);
}

/* The job in hand is done, as far as one transaction goes: relay_step() tells
 * the queue, which sends it again if some of its recipients still wait. */
static void
relay_settle(struct relay *r)
{
	r->job = NULL;
	r->settled = true;
	r->news.delivered++;
}

/* Nobody is left in this transaction: end it.  The queue need not wait for the
 * reply to write down what became of them. */
static void
relay_reset(struct relay *r)
{
	relay_settle(r);
	relay_say(r, AT_RSET, "RSET");
	relay_enter(r, AT_RSET);
}

/* The size of what the host gets (RFC 1870 6): without our Return-Path: line,
 * whose CR is in `size`, and not in `head`. */
static size_t
sent_size(const struct envelope *e)
{
	return e->head > 0 ? e->size - e->head - 1 : e->size;
}

/* Why the host cannot even be offered this message; NULL: it can.  For all of
 * its recipients that is the end.  Exercise: ask the other hosts of the domain
 * first, of which one may take more; what if it is down today? */
static const char *
obstacle(const struct relay *r)
{
	const struct envelope *e = &r->job->q->env;

	if (r->size_max > 0 && sent_size(e) > r->size_max)
		return "5.3.4 larger than the host takes (RFC 1870 6.1)";
	if (e->eightbit && !r->eightbit)
		return "5.6.3 8-bit, and the host is not (RFC 6152 3)";
	return NULL;
}

/* RFC 5321 4.1.1.2, with what RFC 1870 3 and RFC 6152 2 add. */
static void
say_mail(struct relay *r)
{
	const struct envelope *e = &r->job->q->env;
	char size[40] = "";

	if (r->sized)
		snprintf(size, sizeof(size), " SIZE=%zu", sent_size(e));
	relay_say(r, AT_MAIL, "MAIL FROM:<%s>%s%s", e->sender, size,
	    e->eightbit ? " BODY=8BITMIME" : "");
}

/*
 * Say as much as may be said now: all of it where the host does PIPELINING,
 * DATA last (RFC 2920 3.1); else a command for a reply.
 *
 *	> MAIL, RCPT, RCPT, DATA        > MAIL
 *	< 250, 550, 550, 354            < 250
 *	> .                             > RCPT
 *	< 554                           < 550 ...
 *	                                > RSET
 *
 * On the left DATA is said before anybody was taken, and cannot be unsaid: see
 * hear_data().
 */
static void
relay_ask(struct relay *r)
{
	while (r->asked < r->n_offers + 2 &&
	    (r->pipelining || r->asked == r->answered)) {
		if (r->asked == 0)
			say_mail(r);
		else if (r->asked <= r->n_offers)
			relay_say(r, AT_RCPT, "RCPT TO:<%s>",
			    r->offers[r->asked - 1].rcpt->address);
		else
			relay_say(r, AT_DATA, "DATA");
		r->asked++;
	}
}

/* Begin the transaction for the job in hand, with as many as still wait and one
 * transaction takes.  Nobody: then no reply will come to move us on. */
static void
relay_begin(struct relay *r)
{
	struct job *j = r->job;
	const char *why = obstacle(r);

	r->n_offers = r->n_taken = r->asked = r->answered = 0;
	for (size_t i = 0; i < j->n && r->n_offers < TRANSACTION_RCPTS; i++)
		if (j->rcpts[i].state == RCPT_WAITING && why != NULL)
			rcpt_judge(r, &j->rcpts[i], why);
		else if (j->rcpts[i].state == RCPT_WAITING)
			r->offers[r->n_offers++] =
			    (struct offer){ .rcpt = &j->rcpts[i] };
	if (r->n_offers == 0) {
		relay_settle(r);
		turn_soon();
	} else if (!buf_size(&r->link->c.out, LARGE_BUF)) {
		relay_failed(r, "cannot be tried: ", "out of memory");
	} else {
		relay_enter(r, AT_MAIL);
		relay_ask(r);
	}
}

/* Move content into the buffer while there is room: some 50 KiB a turn, so that
 * one large message does not hold up everybody.  n: 1 no room, 0 the end.  The
 * place in the file is ours, because the next host would begin at its top. */
static void
relay_pour(struct relay *r)
{
	char chunk[CHUNK], wire[2 * CHUNK];
	struct conn *c = &r->link->c;
	ssize_t n = 1;

	c->more = true;
	while (buf_room(&c->out) >= sizeof(wire) &&
	    (n = pread(r->fd, chunk, CHUNK, r->offset)) > 0) {
		r->offset += n;
		size_t len = dots_put(&r->last, chunk, (size_t)n, wire);

		buf_put(&c->out, wire, len);
	}
	if (n < 0) {
		r->news.unreadable = true;
		relay_failed(r, "was left: content: ", strerror(errno));
	}
	if (n != 0)
		return;
	snprintf(chunk, sizeof(chunk), "(%lld octets of content)",
	    (long long)r->offset - (long long)r->job->q->env.head);
	trace(c, '>', chunk, stages[AT_CONTENT].rfc);
	buf_put(&c->out, dots_end(r->last), strlen(dots_end(r->last)));
	c->more = false;
	relay_enter(r, AT_DOT);
}

/* ---- the dialogue: what a reply means ------------------------------------ */

static void
hear_greeting(struct relay *r)
{
	relay_say(r, AT_EHLO, "EHLO %s", srv.conf->hostname);
	relay_enter(r, AT_EHLO);
}

/* RFC 5321 3.2: who does not know EHLO is greeted with HELO. */
static void
hear_ehlo(struct relay *r)
{
	if (r->code < 400) {
		relay_ready(r);
	} else if (r->code < 500) {
		relay_refused(r);
	} else {
		relay_say(r, AT_HELO, "HELO %s", srv.conf->hostname);
		relay_enter(r, AT_HELO);
	}
}

/* The host waits for a transaction; one in hand was lost by another host. */
static void
relay_ready(struct relay *r)
{
	relay_enter(r, AT_READY);
	if (r->job != NULL)
		relay_begin(r);
}

/* A reply to MAIL or RCPT was understood: go on to the next, if there is any
 * hope.  With PIPELINING all has been said, and all replies must come: were one
 * left, it would be taken for that of the next command. */
static void
relay_onward(struct relay *r)
{
	bool refused = r->stage == AT_MAIL && r->code >= 400;
	bool all = ++r->answered > r->n_offers;

	if (!r->pipelining && (refused || (all && r->n_taken == 0))) {
		relay_reset(r);
		return;
	}
	relay_enter(r, all ? AT_DATA : AT_RCPT);
	relay_ask(r);
}

static void
hear_mail(struct relay *r)
{
	if (r->code >= 400)
		judge_offers(r, false);
	relay_onward(r);
}

/* Some were taken and this one is too many: RFC 5321 4.5.3.1.10 knows two
 * codes for that.  It waits for the next transaction, which gets further.  But
 * where nobody was taken, it would be the same again, at once and for ever. */
static void
hear_rcpt(struct relay *r)
{
	struct offer *offer = &r->offers[r->answered - 1];
	bool full = r->n_taken > 0 && (r->code == 452 || r->code == 552);

	if (offer->rcpt->state == RCPT_WAITING) { /* else MAIL was refused */
		offer->taken = r->code < 400;
		r->n_taken += offer->taken;
		if (r->code >= 400 && !full)
			rcpt_judge(r, offer->rcpt, r->reply);
	}
	relay_onward(r);
}

/* Nobody was taken, and the host wants content all the same: RFC 2920 3.1
 * gives it an empty message. */
static void
hear_data(struct relay *r)
{
	if (r->code >= 400) {
		judge_offers(r, true);
		relay_reset(r);
	} else if (r->n_taken == 0) {
		relay_say(r, AT_DOT, ".");
		relay_enter(r, AT_DOT);
	} else {
		r->offset = (off_t)r->job->q->env.head;
		r->last = '\n';
		relay_enter(r, AT_CONTENT);
	}
}

/* A refusal in the middle of content is believed, and ends the connection,
 * because nobody knows where in the content the host thinks it is. */
static void
hear_content(struct relay *r)
{
	judge_offers(r, true);
	relay_settle(r);
	relay_refused(r);
}

/* A 250 to a dot that has not left yet was meant for something else; a refusal
 * then came in the middle of content, though we have none left to put. */
static void
hear_dot(struct relay *r)
{
	if (dot_has_left(r)) {
		judge_offers(r, true);
		relay_settle(r);
		relay_enter(r, AT_READY);
	} else if (r->code == 250)
		relay_failed(r, "makes no sense: ", r->reply);
	else
		hear_content(r);
}

/* A whole reply is here.  421 may answer anything (RFC 5321 3.8), and 251 is
 * a 250 to RCPT; but a code out of its place answers something else. */
static void
relay_hear(struct relay *r)
{
	const struct stage_row *row = &stages[r->stage];
	bool good = r->code == row->good ||
	    (r->code == 251 && r->stage == AT_RCPT);

	r->lines = 0;
	if (r->code < 400 && !good)
		relay_failed(r, "makes no sense: ", r->reply);
	else if (!good && (row->vital || r->code == 421))
		relay_refused(r);
	else
		row->hear(r);
}

/* ---- the dialogue: lines ------------------------------------------------- */

/* One line of the answer to EHLO, a keyword with or without a parameter (RFC
 * 5321 4.1.1.1). */
static void
note_extension(struct relay *r, const char *text)
{
	size_t len = strcspn(text, " ");

	r->pipelining |= net_is_word(text, len, "PIPELINING");
	r->eightbit |= net_is_word(text, len, "8BITMIME");
	if (!net_is_word(text, len, "SIZE"))
		return;
	r->sized = true;
	r->size_max = strtoull(text + len, NULL, 10);
}

/* Is this a line of a reply (RFC 5321 4.2)?  No octet of it may be a NUL, for
 * that would hide what stands behind it. */
static bool
is_reply(const char *line, size_t len)
{
	return strlen(line) == len && strspn(line, "0123456789") == 3 &&
	    line[0] >= '2' && line[0] <= '5' &&
	    (len == 3 || line[3] == ' ' || line[3] == '-');
}

/* Keep text for reports, as one line of printable characters, so that no host
 * can add lines to an envelope or a report. */
static void
keep_text(struct relay *r, const char *text)
{
	size_t used = r->lines > 1 ? strlen(r->reply) : 0;

	snprintf(r->reply + used, sizeof(r->reply) - used, "%s%s",
	    used > 0 ? " " : "", text);
	for (char *at = r->reply + used; *at != '\0'; at++)
		if (*at < ' ' || *at > 126)
			*at = '?';
}

/* Take one line in.  One that is no line of a reply, or not of this one, is
 * nonsense: after it nobody knows what the next reply would answer. */
static void
relay_line(struct relay *r, enum line found, const char *line, size_t len)
{
	bool good = found == LINE_OK && is_reply(line, len);
	unsigned code = good ? (unsigned)strtoul(line, NULL, 10) : 0;

	trace(&r->link->c, '<', line, stages[r->stage].rfc);
	r->lines++;
	keep_text(r, line);
	if (r->lines == 1)
		r->code = code;
	if (!good || code != r->code || r->lines > REPLY_LINES) {
		relay_failed(r, "makes no sense: ", r->reply);
		return;
	}
	if (r->stage == AT_EHLO && code == 250 && r->lines > 1 && len > 3)
		note_extension(r, line + 4);
	if (line[3] != '-')
		relay_hear(r);
}

/* Take in what has arrived, up to where the connection is given up.  The end
 * comes last: "421 too busy" and a close may arrive together, and the words say
 * more.  A line that is too long has said enough: its end may never come. */
static void
relay_read(struct relay *r)
{
	struct link *link = r->link;
	enum io got = net_read(&link->c);
	enum line found;
	char *line;
	size_t len;

	while (r->link == link &&
	    (found = buf_line(&link->c.in, REPLY_LINE, &line, &len)) !=
		LINE_NONE)
		relay_line(r, found, line, len);
	if (r->link == link && link->c.in.skipping)
		relay_failed(r, "makes no sense: ", "a line without end");
	if (r->link == link && (got == IO_EOF || got == IO_ERROR))
		relay_failed(r, "has closed the connection", "");
}

/* ---- relays: from beginning to end --------------------------------------- */

/* Serve the connection, if this turn has brought it something.  It is read
 * before content is put, which a refusal makes needless, and late comes last: a
 * reply of this turn has moved the deadline. */
static void
relay_serve(struct relay *r)
{
	struct link *link = r->link;
	short revents = link->c.revents;

	if (r->stage == AT_CONNECT && revents != 0) {
		int why = net_connected(&link->c);

		if (why != 0)
			relay_failed(r, "cannot be reached: ", strerror(why));
		else
			relay_enter(r, AT_GREETING);
		return;
	}
	if (revents & POLLOUT)
		relay_arm(r); /* the host reads: that is progress */
	relay_read(r);
	if (r->link == link && r->stage == AT_CONTENT)
		relay_pour(r);
	if (r->link == link && link->c.late && link->c.deadline <= srv.now)
		relay_failed(r, "was silent too long: ", stages[r->stage].name);
}

/* The route may have become known. */
static void
relay_look(struct relay *r)
{
	const struct route *route = r->route;
	enum route_state state = route_step(r->route);

	if (state == ROUTE_FOUND)
		relay_next_hop(r);
	if (state != ROUTE_UNKNOWN && state != ROUTE_IMPOSSIBLE)
		return;
	memcpy(r->news.status, route->status, sizeof(r->news.status));
	memcpy(r->news.reason, route->reason, sizeof(r->news.reason));
	relay_enter(r, state == ROUTE_UNKNOWN ? AT_LOST : AT_IMPOSSIBLE);
}

struct relay *
relay_open(const char *domain)
{
	struct relay *r = calloc(1, sizeof(*r));

	if (r == NULL || (r->route = route_begin(domain)) == NULL) {
		free(r);
		return NULL;
	}
	return r;
}

/* `settled` is told before the stage, which may be READY already: hearing that
 * first, the queue would put the next job in the place of this one. */
enum relay_state
relay_step(struct relay *r)
{
	if (r->stage == AT_LOOKUP)
		relay_look(r);
	else if (r->link != NULL)
		relay_serve(r);
	else if (r->stage < AT_LOST)
		relay_failed(r, "has closed the connection", "");
	enum relay_state state = r->settled ? RELAY_SENT :
					      stages[r->stage].tells;

	r->settled = false;
	if (state == RELAY_SENT || state == RELAY_IMPOSSIBLE)
		turn_soon(); /* for the next message */
	return state;
}

void
relay_send(struct relay *r, struct job *j, int fd)
{
	assert(r->stage == AT_READY && r->job == NULL);
	r->news.unreadable = false;
	r->job = j;
	r->fd = fd;
	relay_begin(r);
}

void
relay_quit(struct relay *r)
{
	relay_say(r, AT_QUIT, "QUIT");
	relay_enter(r, AT_QUIT);
}

void
relay_close(struct relay *r)
{
	if (r->link != NULL)
		relay_release(r);
	route_free(r->route);
	free(r);
}

const struct relay_news *
relay_news(const struct relay *r)
{
	return &r->news;
}

/* A link that net_settle() closed of its own accord, because nothing could be
 * written to it, is missed by its relay in the next turn. */
void
relay_reap(void)
{
	struct conn *c;

	while ((c = net_gone(KIND_RELAY)) != NULL) {
		struct link *link = (struct link *)c;

		if (link->owner != NULL) {
			link->owner->link = NULL;
			turn_soon();
		}
		net_free(c);
		free(link);
	}
}
