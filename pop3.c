/*
 * pop3.c -- POP3: the server's side of fetching mail.
 *
 * What this is
 *	Sessions (RFC 1939 3, RFC 2449 5), from greeting to removal; what
 *	lies on the disk is maildrop.c's.
 * Call it in this order
 *	In every turn: pop3_serve(), net_settle(), pop3_reap().
 * A typical sequence, with break pop3_enter in gdb
 *	pop3_serve -> pop3_session -> pop3_run -> pop3_line ->
 *	    pop3_obey -> do_pass -> pop3_enter
 * Always true
 *	One reply a command, in pop3_answer(); handlers only decide.
 *	A session sees its snapshot: message n stays that file, or is gone.
 *	Messages are removed in POP3_UPDATE only, and only QUIT leads there.
 * What it does not do
 *	APOP (RFC 1939 7), because it needs passwords that lie here in plain.
 *	AUTH (RFC 5034 4), STLS (RFC 2595 4).  Exercise: AUTH PLAIN needs one
 *	row, one handler, and a state that reads a line that is no command.
 */
#include <assert.h>
#include <crypt.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "mailserv.h"

enum {
	LOGIN_TRIES = 3,    /* so that guessing takes many connections */
	LAST_WORDS = 10,    /* seconds: a long answer may go before them */
	REMOVE_SLICE = 100, /* messages a turn: others must not wait */
	WIRE_END = 8,       /* two line ends and the dot: 7 */
	FEED_ROOM = 1024,   /* less is not worth a read() */
	LISTING_MAX = 128,  /* "100000 ", and a unique-id */
};

/* ---- content on the wire ------------------------------------------------- */

/*
 * A file has LF line ends; the wire has CRLF, a second dot where a line begins
 * with one, and a line of one dot as the end (RFC 1939 3):
 *
 *	file    a LF .b LF c
 *	wire    a CR LF ..b CR LF c CR LF . CR LF
 *
 * A piece of a file may end anywhere, also between CR and LF or before a dot.
 * Therefore what matters of the octets before it is kept here, and no piece
 * is ever looked at twice:
 *
 *	piece 1   a CR     column 2, cr
 *	piece 2   LF .b    the CR is there: LF alone is added; then ..b
 */

/* Where in the content we are, between one piece and the next. */
struct wire {
	size_t column;  /* octets of this line so far */
	bool cr;        /* the last of them was a CR */
	bool top;       /* only the header, and `lines` lines of the body */
	bool body;      /* the empty line has been */
	bool full;      /* TOP has all it asked for */
	uint64_t lines; /* of the body, still to be sent */
};

/* End a line with CRLF, of which the CR may already be there, in a file that
 * another program has made.  The empty line ends the header and is no line of
 * the body: so `lines` is counted down before `body` is set by it, and TOP 1 1
 * sends the header, that line, and one more. */
static char *
wire_newline(struct wire *w, char *to)
{
	bool empty = w->column == (w->cr ? 1 : 0);

	if (!w->cr)
		*to++ = '\r';
	*to++ = '\n';
	if (w->body && w->lines > 0)
		w->lines--;
	w->body |= empty;
	w->full = w->top && w->body && w->lines == 0;
	w->column = 0;
	w->cr = false;
	return to;
}

/* Turn `len` octets of a file into what goes over the wire (RFC 1939 3): at
 * most twice as many, because nothing but a line's first dot and its LF become
 * two, into `to`.  Returns where they end. */
static char *
wire_put(struct wire *w, const char *from, size_t len, char *to)
{
	const char *end = from + len;

	while (from < end && !w->full) {
		const char *newline = memchr(from, '\n', (size_t)(end - from));
		const char *stop = newline != NULL ? newline : end;
		size_t part = (size_t)(stop - from);

		if (w->column == 0 && *from == '.')
			*to++ = '.'; /* or it might end the answer */
		memcpy(to, from, part);
		to += part;
		w->column += part;
		if (part > 0)
			w->cr = stop[-1] == '\r';
		if (newline != NULL)
			to = wire_newline(w, to);
		from = stop + (newline != NULL);
	}
	return to;
}

/* The end: of the last line, where the file lacks it; of a header, for TOP
 * promises an empty line there; of the answer.  At most WIRE_END octets.  With
 * the dots left out, as many have gone as wire_octets() counts: LIST may not
 * promise others. */
static char *
wire_finish(struct wire *w, char *to)
{
	w->cr = false; /* one at the very end was no line's end */
	if (w->column > 0)
		to = wire_newline(w, to);
	if (w->top && !w->body)
		to = wire_newline(w, to);
	memcpy(to, ".\r\n", 3);
	return to + 3;
}

/* ---- the session --------------------------------------------------------- */

/*
 * What a handler wants said.  SAY_WAIT is a verdict like others: the command
 * has no reply yet, and its handler runs again in the next turn; so there are
 * no callbacks, and a wait is visible in the session's fields.  LIST, where
 * another program has put three files of 4 MiB, whose lines must be counted:
 *
 *	turn 1   pop3_line -> do_list -> SAY_WAIT    one is counted
 *	turn 2   pop3_run  -> do_list -> SAY_WAIT    two are
 *	turn 3   pop3_run  -> do_list -> SAY_OK      "+OK 3 messages", the list
 *
 * The line is wiped in turn 1: what the others need of it, that has kept.
 */
enum verdict {
	SAY_OK,
	SAY_WAIT,
	SAY_NOTHING, /* a laboratory's fault: see play_fault() */
	SAY_UNKNOWN,
	SAY_STATE,
	SAY_USAGE,
	SAY_BARE_LF,
	SAY_TOO_LONG,
	SAY_NUL,
	SAY_NO_SUCH,
	SAY_DELETED,
	SAY_NO_NAME,
	SAY_WRONG,
	SAY_IN_USE,
	SAY_DISK,
	SAY_BROKEN,
	SAY_KEPT,
	SAY_FAULT,
	SAY_STOP,
	N_VERDICTS
};

/* Which answer of many lines follows. */
enum feed { FEED_NONE, FEED_CAPA, FEED_LIST, FEED_UIDL, FEED_CONTENT };

/* What is known of a password. */
enum login { LOGIN_ASKED, LOGIN_RIGHT, LOGIN_WRONG };

struct pop3 {
	struct conn c; /* first: see struct conn */
	struct conf *conf;
	/* How far along? */
	enum pop3_state state; /* changed by pop3_enter() only */
	bool stalled;          /* fault: never answer */
	bool ended;            /* the client has sent all it will */
	/* Who is it? */
	bool named;              /* USER has been, and no PASS after it */
	const struct user *user; /* of conf; NULL: none has that name */
	unsigned failures;
	/* In POP3_CHECKING. */
	enum login login;
	char secret[POP3_LINE];     /* as PASS gave it; then wiped */
	struct pop3 *next_checking; /* in srv.pop3_checking */
	/* What is in the maildrop?  From POP3_TRANSACTION on. */
	struct maildrop drop;
	struct pop3 *next_open;          /* in srv.pop3_open */
	size_t retrieved, removed, kept; /* kept: marked, but not removed */
	/* What is being answered? */
	const struct verb *verb; /* NULL: not known */
	const char *arg;         /* of the line, while it is obeyed */
	bool waiting;  /* verb said SAY_WAIT: it runs again, next turn */
	bool numbered; /* it came with a message number */
	uint64_t number, lines;
	char note[REASON_MAX]; /* the reply's own words */
	/* What goes out, line by line or piece by piece? */
	enum feed feed;
	size_t at;    /* next message to list; in POP3_UPDATE, to remove */
	int file;     /* FEED_CONTENT: the open file, or -1 */
	off_t unread; /* of it */
	struct wire wire;
	/* These two stay equal, but while a command waits. */
	unsigned long commands, replies;
};

/* How a verb may be followed. */
enum args { NOTHING, TEXT, NUMBER, MAYBE_NUMBER, TWO_NUMBERS };

struct verb {
	const char *name;
	unsigned legal; /* IN() bits of the states that accept it */
	enum args args;
	enum verdict (*run)(struct pop3 *s);
	enum feed feed; /* what follows +OK, unless it came with a number */
	const char *rfc;
};

/* The diagram of RFC 1939 3, executable: which state may follow which; NOTES.md
 * draws it.  There is no way into UPDATE but the one from TRANSACTION, so that
 * nothing but QUIT after a login can remove mail. */
static const struct {
	const char *name;
	unsigned may_follow;
} states[] = {
	[POP3_AUTHORIZATION] = { "AUTHORIZATION",
	    IN(POP3_CHECKING) | IN(POP3_BYE) },
	[POP3_CHECKING] = { "CHECKING",
	    IN(POP3_AUTHORIZATION) | IN(POP3_TRANSACTION) | IN(POP3_BYE) },
	[POP3_TRANSACTION] = { "TRANSACTION", IN(POP3_UPDATE) | IN(POP3_BYE) },
	[POP3_UPDATE] = { "UPDATE", IN(POP3_BYE) },
	[POP3_BYE] = { "BYE", 0 },
};
_Static_assert(NELEM(states) == N_POP3_STATES, "a row for every state");

/* The autologout counts from what we last said, or could last send (RFC 1939
 * 3); our last word does not wait for who does not read.  `late` tells of the
 * deadline before: net_settle() would write once and close, and the third
 * "wrong password", whose second has just ended, be cut where the socket is
 * full. */
static void
pop3_alive(struct pop3 *s)
{
	s->c.deadline = srv.now +
	    (s->state == POP3_BYE ? LAST_WORDS * SECOND :
				    s->conf->timeout_pop3);
	s->c.late = false;
}

/* The only place a state changes: break here to watch a dialogue move.  After
 * our last word net.c closes the connection, once that is sent. */
static void
pop3_enter(struct pop3 *s, enum pop3_state next)
{
	assert(states[s->state].may_follow & IN(next));
	if (log_level >= 1)
		log_conn(&s->c, "%s -> %s", states[s->state].name,
		    states[next].name);
	s->state = next;
	if (next == POP3_BYE) {
		s->c.doomed = true;
		pop3_alive(s);
	}
}

/* Note what a verdict's reply is to say of its own; returns the verdict, for
 * the handler to return. */
__attribute__((format(printf, 3, 4))) static enum verdict
pop3_note(struct pop3 *s, enum verdict v, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s->note, sizeof(s->note), fmt, ap);
	va_end(ap);
	return v;
}

/* ---- replies ------------------------------------------------------------- */

/*
 * The note comes behind the text, then the section; NULL: the verb's own.  None
 * behind +OK, because clients read what stands there: "+OK 2 320".  They read
 * what is in brackets, too, to know whom to trouble:
 *
 *	[AUTH]                the user, for another password
 *	[IN-USE] [SYS/TEMP]   nobody: they come again
 *	[SYS/PERM]            who keeps the server: it will be the same tomorrow
 */
static const struct {
	const char *text, *rfc;
} reply[] = {
	[SAY_OK] = { "+OK ", NULL },
	[SAY_UNKNOWN] = { "-ERR no such command here", "RFC 1939 3" },
	[SAY_STATE] = { "-ERR not now: this is the state ", "RFC 1939 3" },
	[SAY_USAGE] = { "-ERR wanted: ", NULL },
	[SAY_BARE_LF] = { "-ERR a line ends in CR LF, this one in LF alone "
			  "(nc needs -C)",
	    "RFC 1939 3" },
	[SAY_TOO_LONG] = { "-ERR over 255 octets with CR LF", "RFC 2449 4" },
	[SAY_NUL] = { "-ERR a NUL is not printable", "RFC 1939 3" },
	[SAY_NO_SUCH] = { "-ERR no such message: there are ", "RFC 1939 5" },
	[SAY_DELETED] = { "-ERR it is marked as deleted", "RFC 1939 5" },
	[SAY_NO_NAME] = { "-ERR USER comes before PASS", "RFC 1939 7" },
	[SAY_WRONG] = { "-ERR [AUTH] wrong name or password", "RFC 3206 5" },
	[SAY_IN_USE] = { "-ERR [IN-USE] another session has this maildrop",
	    "RFC 2449 8.1.2" },
	[SAY_DISK] = { "-ERR [SYS/TEMP] cannot be read: ", "RFC 3206 4" },
	[SAY_BROKEN] = { "-ERR [SYS/PERM] cannot be read: ", "RFC 3206 4" },
	[SAY_KEPT] = { "-ERR [SYS/TEMP] not all is removed: ", "RFC 1939 6" },
	[SAY_FAULT] = { "-ERR [SYS/TEMP] a laboratory's fault", "RFC 3206 4" },
	[SAY_STOP] = { "-ERR [SYS/TEMP] the server stops", "RFC 3206 4" },
};
_Static_assert(NELEM(reply) == N_VERDICTS, "words for every verdict");

/* Put a verdict into words.  `line` holds them all: a note is shorter than
 * REASON_MAX, and RFC 1939 3 allows no more than 512 octets.  The last ones may
 * come while much waits: if they do not fit, they are not heard. */
static void
pop3_say(struct pop3 *s, enum verdict v)
{
	const char *rfc = reply[v].rfc;
	char line[REPLY_ROOM / 2];

	if (rfc == NULL)
		rfc = s->verb != NULL ? s->verb->rfc : "RFC 1939 4";
	if (v == SAY_OK)
		snprintf(line, sizeof(line), "+OK %s", s->note);
	else
		snprintf(line, sizeof(line), "%s%s (%s)", reply[v].text,
		    s->note, rfc);
	(void)net_say(&s->c, line, rfc);
	pop3_alive(s);
}

/* The outcome of a command: its one reply, and what follows; or it waits.  RETR
 * 3 is followed by content, LIST by a list, LIST 3 by nothing. */
static void
pop3_answer(struct pop3 *s, enum verdict v)
{
	s->waiting = v == SAY_WAIT;
	if (s->waiting)
		return;
	if (v != SAY_NOTHING)
		pop3_say(s, v);
	s->replies++;
	assert(s->replies == s->commands);
	if (v != SAY_OK || s->verb->feed == FEED_NONE ||
	    (s->numbered && s->verb->feed != FEED_CONTENT))
		return;
	s->feed = s->verb->feed;
	s->at = 0;
	/* Without the memory it goes in small pieces, but it goes. */
	(void)buf_size(&s->c.out, LARGE_BUF);
}

/* ---- answers of many lines ----------------------------------------------- */

/*
 * A message of 50 MB, or a list of 50,000, is never whole in memory.  While
 * s->feed is set, each turn that finds room in c->out fills it, poll() tells
 * when the client has made room again, and no other command is read, because
 * its answer must come after this one:
 *
 *	file --read()--> piece --wire_put()--> c->out --net_settle()--> client
 *	                 16 KiB                64 KiB
 */

/* RFC 2449 6, RFC 3206 6.  The same before a login and after it.  (Parentheses
 * tell the compiler that between those two strings no comma is missing.) */
static const char *const capabilities[] = {
	"TOP",
	"UIDL",
	"USER",
	"PIPELINING",
	"RESP-CODES",
	"AUTH-RESP-CODE",
	"EXPIRE NEVER",
	("IMPLEMENTATION mailserv-" VERSION),
};

/* The answer is whole: the next command may be read. */
static void
feed_end(struct pop3 *s)
{
	if (s->file >= 0)
		close(s->file);
	s->file = -1;
	s->feed = FEED_NONE;
}

/* What is listed of message i, into text[LISTING_MAX]. */
static const char *
listing(const struct pop3 *s, size_t i, char *text)
{
	char uid[UID_MAX + 1];

	if (s->verb->feed == FEED_CAPA)
		return capabilities[i];
	if (s->verb->feed == FEED_LIST)
		snprintf(text, LISTING_MAX, "%zu %" PRIu64, i + 1,
		    s->drop.v[i].octets);
	else
		snprintf(text, LISTING_MAX, "%zu %s", i + 1,
		    maildrop_uid(s->drop.files.v[i] + FOLDER_LEN, uid));
	return text;
}

/* One line more of a listing, of which line n is the dot.  A marked message has
 * none, and the others keep their numbers (RFC 1939 5). */
static void
feed_line(struct pop3 *s)
{
	bool capa = s->feed == FEED_CAPA;
	size_t n = capa ? NELEM(capabilities) : s->drop.files.n;
	char text[LISTING_MAX];

	while (!capa && s->at < n && s->drop.v[s->at].deleted)
		s->at++;
	const char *line = s->at < n ? listing(s, s->at, text) : ".";

	(void)net_say(&s->c, line, s->verb->rfc); /* pop3_feed(): it fits */
	if (s->at++ == n)
		feed_end(s);
}

/* One piece more of a message: half of what there is room for, since it may
 * become twice as long.  If the disk fails here, the dot must never come: the
 * client would keep a torn message and delete the whole one. */
static void
feed_content(struct pop3 *s)
{
	char piece[PIECE], out[2 * PIECE + WIRE_END];
	size_t want = buf_room(&s->c.out) / 2 - WIRE_END;
	ssize_t got = 0;

	if (want > sizeof(piece))
		want = sizeof(piece);
	if ((off_t)want > s->unread)
		want = (size_t)s->unread;
	if (want > 0 && (got = read(s->file, piece, want)) <= 0) {
		log_conn(&s->c, "message cut off: %s",
		    got < 0 ? strerror(errno) : "the file has shrunk");
		feed_end(s);
		pop3_enter(s, POP3_BYE); /* after what is owed */
		return;
	}
	s->unread -= got;
	char *to = wire_put(&s->wire, piece, (size_t)got, out);
	bool last = s->unread == 0 || s->wire.full;

	if (last)
		to = wire_finish(&s->wire, to);
	(void)buf_put(&s->c.out, out, (size_t)(to - out));
	if (last)
		feed_end(s);
}

/* As much as there is room for; the rest when the client has read on. */
static void
pop3_feed(struct pop3 *s)
{
	while (s->feed != FEED_NONE && buf_room(&s->c.out) >= FEED_ROOM) {
		if (s->feed == FEED_CONTENT)
			feed_content(s);
		else
			feed_line(s);
	}
}

/* ---- commands: who is it? ------------------------------------------------ */

/*
 * PASS takes its time, and nobody else's:
 *
 *	turn 1       PASS comes: CHECKING, at the end of srv.pop3_checking
 *	turn 1 + n   n others were before it: crypt(3), the only one this turn
 *	             right: the snapshot, +OK
 *	             wrong: nothing yet, so that guessing is slow
 *	a second     after PASS: -ERR [AUTH]
 *
 * A hash of mailserv -H takes a millisecond or more.  The price: where a
 * hundred clients of one stranger send PASS at once, the next user waits for
 * them all.  Exercise: let addresses take turns.
 */

/* Equal, in a time that does not tell how much of it is: it grows with `given`
 * alone, whose length the client knows.  Behind its end `right` counts as NUL,
 * and `given` has none, so that no octet outside is read. */
static bool
secret_equal(const char *given, const char *right)
{
	size_t len = strlen(given), other = strlen(right);
	unsigned differ = len != other;

	for (size_t i = 0; i < len; i++)
		differ |= (unsigned)(given[i] ^ right[i < other ? i : other]);
	return differ == 0;
}

/* Is it the password?  For a name that does not exist crypt(3) works as long,
 * or the time would tell who has a mailbox.  Exercise: it still tells where
 * the users' hashes are of another kind; mend that.  What is no hash, "!" or
 * "*0", lets nobody in: crypt(3) then fails, with "*0", or "*1" where it was
 * given "*0", or NULL. */
static bool
secret_check(const struct user *user, const char *given)
{
	const char *right = user != NULL ? user->secret : "$6$mailserv$";
	bool plain = user != NULL && user->plain;
	const char *hash = plain ? given : crypt(given, right);

	return hash != NULL && secret_equal(hash, right) && user != NULL;
}

/* Out of the list of those that wait for crypt(3), if it is there: a client may
 * hang up while others are before it. */
static void
checking_remove(struct pop3 *s)
{
	struct pop3 **at = &srv.pop3_checking;

	while (*at != NULL && *at != s)
		at = &(*at)->next_checking;
	if (*at != NULL)
		*at = s->next_checking;
	explicit_bzero(s->secret, sizeof(s->secret));
}

/* Compare, and forget what was given. */
static void
checking_decide(struct pop3 *s)
{
	s->login = secret_check(s->user, s->secret) ? LOGIN_RIGHT : LOGIN_WRONG;
	checking_remove(s);
}

/* A password has come.  A plain one is compared at once; the others queue,
 * because crypt(3) takes milliseconds in which nobody else is served.  It is
 * copied, for the line is wiped; and USER is used up: PASS may only follow it
 * immediately (RFC 1939 7). */
static void
checking_begin(struct pop3 *s)
{
	struct pop3 **at = &srv.pop3_checking;

	s->named = false;
	s->login = LOGIN_ASKED;
	s->c.deadline = srv.now + SECOND; /* for "no", however soon we know */
	snprintf(s->secret, sizeof(s->secret), "%s", s->arg);
	if (s->user != NULL && s->user->plain) {
		checking_decide(s);
		return;
	}
	while (*at != NULL)
		at = &(*at)->next_checking;
	s->next_checking = NULL;
	*at = s;
}

/* Has another session the lock?  It is this list; so a crash frees it.  Names
 * are compared, because after SIGHUP one user is two structs.  Who has said BYE
 * has let go: a last word that nobody reads takes ten seconds to go. */
static bool
in_use(const struct user *user)
{
	for (const struct pop3 *s = srv.pop3_open; s != NULL; s = s->next_open)
		if (s->state != POP3_BYE &&
		    strcmp(s->user->name, user->name) == 0)
			return true;
	return false;
}

/* The right password: take lock and snapshot.  Not sooner: [IN-USE] would tell
 * a stranger that the name is right, and who reads mail now.  A failure here is
 * none of the guesses.  What waiting does not mend is [SYS/PERM]: a mailbox
 * that is another user's, or no folder. */
static enum verdict
pop3_login(struct pop3 *s)
{
	assert(s->user != NULL); /* secret_check() never says yes to nobody */
	bool taken = in_use(s->user);

	if (!taken && maildrop_load(&s->drop, s->user->name)) {
		pop3_enter(s, POP3_TRANSACTION);
		s->next_open = srv.pop3_open;
		srv.pop3_open = s;
		log_conn(&s->c, "login user=%s messages=%zu", s->user->name,
		    s->drop.left);
		return pop3_note(s, SAY_OK, "%zu messages", s->drop.left);
	}
	int why = errno;

	maildrop_free(&s->drop);
	pop3_enter(s, POP3_AUTHORIZATION);
	if (taken)
		return SAY_IN_USE;
	pop3_note(s, SAY_DISK, "%s", strerror(why));
	log_conn(&s->c, "maildrop user=%s: %s", s->user->name, s->note);
	return why == EACCES || why == ENOTDIR ? SAY_BROKEN : SAY_DISK;
}

/* Neither blanks nor control characters: else it can be nobody's name. */
static bool
is_name(const char *arg)
{
	while ((unsigned char)*arg > ' ' && *arg != 127)
		arg++;
	return *arg == '\0';
}

/* RFC 1939 7.  Never "no such user": that would tell who is one.  Not so what
 * can be nobody's name, for PASS could only say "wrong". */
static enum verdict
do_user(struct pop3 *s)
{
	s->user = user_find(s->conf, s->arg);
	s->named = is_name(s->arg);
	if (s->named)
		return pop3_note(s, SAY_OK, "now PASS");
	return pop3_note(s, SAY_USAGE, "a name without a blank");
}

/* RFC 1939 7.  Runs again until the answer is known, and, for a wrong one,
 * until its second is over: that is dear only to who guesses.  The state tells
 * the first run from the others. */
static enum verdict
do_pass(struct pop3 *s)
{
	if (s->state == POP3_AUTHORIZATION) {
		if (!s->named)
			return SAY_NO_NAME;
		pop3_enter(s, POP3_CHECKING);
		checking_begin(s);
	}
	if (s->login == LOGIN_RIGHT)
		return pop3_login(s);
	if (s->login == LOGIN_ASKED || srv.now < s->c.deadline)
		return SAY_WAIT;
	log_conn(&s->c, "login failed user=%s peer=%s",
	    s->user != NULL ? s->user->name : "(unknown)", s->c.peer_text);
	pop3_enter(s,
	    ++s->failures < LOGIN_TRIES ? POP3_AUTHORIZATION : POP3_BYE);
	return SAY_WRONG;
}

/* ---- commands: the maildrop ---------------------------------------------- */

/* RFC 1939 5.  Marked messages are not counted.  Runs again while files whose
 * names tell no size are read. */
static enum verdict
do_stat(struct pop3 *s)
{
	if (!maildrop_count(&s->drop))
		return SAY_WAIT;
	return pop3_note(s, SAY_OK, "%zu %" PRIu64, s->drop.left,
	    s->drop.octets);
}

/* RFC 1939 5; and CAPA, of which all is in the verb's row. */
static enum verdict
do_noop(struct pop3 *s)
{
	return pop3_note(s, SAY_OK, "%s", s->verb->name);
}

/* LIST and UIDL (RFC 1939 5 and 7): of one message here, of all of them later,
 * in feed_line(). */
static enum verdict
do_list(struct pop3 *s)
{
	char text[LISTING_MAX];

	if (s->verb->feed == FEED_LIST && !maildrop_count(&s->drop))
		return SAY_WAIT;
	if (!s->numbered)
		return pop3_note(s, SAY_OK, "%zu messages", s->drop.left);
	return pop3_note(s, SAY_OK, "%s", listing(s, s->number - 1, text));
}

/* RETR and TOP (RFC 1939 5 and 7).  Its octets are told only where that needs
 * no counting.  One is read here, because a disk that fails after +OK could
 * only be told of by cutting the line; nothing follows the -ERR.  From here on
 * the file is open, and another program may move or remove it.  What it has
 * moved before is found by a look, and opened in the next turn. */
static enum verdict
do_retr(struct pop3 *s)
{
	uint64_t octets = s->drop.v[s->number - 1].octets;
	char first;

	s->file = maildrop_open(&s->drop, s->number - 1, &s->unread);
	if (s->file < 0 && errno == ENOENT && maildrop_look(&s->drop))
		return SAY_WAIT;
	if (s->file < 0 || read(s->file, &first, 1) < 0 ||
	    lseek(s->file, 0, SEEK_SET) < 0) {
		pop3_note(s, SAY_DISK, "%s", strerror(errno));
		feed_end(s);
		return SAY_DISK;
	}
	s->wire = (struct wire){ .top = s->verb->args == TWO_NUMBERS,
		.lines = s->lines };
	s->retrieved += !s->wire.top;
	if (octets == UNKNOWN || s->wire.top)
		return pop3_note(s, SAY_OK, "it follows");
	return pop3_note(s, SAY_OK, "%" PRIu64 " octets", octets);
}

/* RFC 1939 5: a mark, and nothing else, since the client may yet say RSET or
 * be cut off. */
static enum verdict
do_dele(struct pop3 *s)
{
	maildrop_mark(&s->drop, &s->drop.v[s->number - 1], true);
	return pop3_note(s, SAY_OK, "marked, until QUIT");
}

/* RFC 1939 5. */
static enum verdict
do_rset(struct pop3 *s)
{
	for (size_t i = 0; i < s->drop.files.n; i++)
		maildrop_mark(&s->drop, &s->drop.v[i], false);
	return pop3_note(s, SAY_OK, "%zu messages", s->drop.left);
}

/* Some of the marked messages go; true: all have, but those kept.  Whatever
 * kept some, they get a second try after a look, since who is only not there
 * may have been moved; who is not there then has been removed by somebody else,
 * which is as good.  A mark goes with its message, so that the second try meets
 * only those kept.  Nothing is synced, because after a power cut they may come
 * again: no mail is lost by that. */
static bool
remove_some(struct pop3 *s)
{
	char path[PATH_SIZE];

	for (size_t work = 0; s->at < s->drop.files.n; s->at++) {
		if (!s->drop.v[s->at].deleted)
			continue;
		if (work++ == REMOVE_SLICE)
			return false;
		maildrop_where(&s->drop, s->at, path);
		if (unlink(path) == 0 || (errno == ENOENT && s->drop.looked)) {
			s->drop.v[s->at].deleted = false;
			s->removed++;
			continue;
		}
		s->kept++;
		pop3_note(s, SAY_KEPT, "%s", strerror(errno));
		if (s->drop.looked)
			log_conn(&s->c, "not removed: %s: %s", path, s->note);
	}
	if (s->kept == 0 || !maildrop_look(&s->drop))
		return true;
	s->at = s->kept = 0;
	return false;
}

/* RFC 1939 4 and 6.  Runs again until all that was marked is gone, also when
 * the client is: it has said QUIT, and `busy` keeps the session. */
static enum verdict
do_quit(struct pop3 *s)
{
	if (s->state == POP3_TRANSACTION) {
		pop3_enter(s, POP3_UPDATE);
		s->at = 0;
	}
	if (s->state == POP3_UPDATE) {
		if (!remove_some(s))
			return SAY_WAIT;
		log_conn(&s->c,
		    "logout user=%s retrieved=%zu removed=%zu left=%zu",
		    s->user->name, s->retrieved, s->removed,
		    s->drop.files.n - s->removed);
	}
	pop3_enter(s, POP3_BYE);
	if (s->kept > 0)
		return SAY_KEPT; /* remove_some() has noted why */
	return pop3_note(s, SAY_OK, "%s says goodbye", s->conf->hostname);
}

/* ---- commands: the dispatcher -------------------------------------------- */

enum { OUT = IN(POP3_AUTHORIZATION), INSIDE = IN(POP3_TRANSACTION) };

/* POP3 on one screen: who may speak, when, how, by which rule. */
static const struct verb verbs[] = {
	{ "USER", OUT, TEXT, do_user, FEED_NONE, "RFC 1939 7" },
	{ "PASS", OUT, TEXT, do_pass, FEED_NONE, "RFC 1939 7" },
	{ "STAT", INSIDE, NOTHING, do_stat, FEED_NONE, "RFC 1939 5" },
	{ "LIST", INSIDE, MAYBE_NUMBER, do_list, FEED_LIST, "RFC 1939 5" },
	{ "RETR", INSIDE, NUMBER, do_retr, FEED_CONTENT, "RFC 1939 5" },
	{ "DELE", INSIDE, NUMBER, do_dele, FEED_NONE, "RFC 1939 5" },
	{ "NOOP", INSIDE, NOTHING, do_noop, FEED_NONE, "RFC 1939 5" },
	{ "RSET", INSIDE, NOTHING, do_rset, FEED_NONE, "RFC 1939 5" },
	{ "QUIT", OUT | INSIDE, NOTHING, do_quit, FEED_NONE, "RFC 1939 6" },
	{ "TOP", INSIDE, TWO_NUMBERS, do_retr, FEED_CONTENT, "RFC 1939 7" },
	{ "UIDL", INSIDE, MAYBE_NUMBER, do_list, FEED_UIDL, "RFC 1939 7" },
	{ "CAPA", OUT | INSIDE, NOTHING, do_noop, FEED_CAPA, "RFC 2449 5" },
};

/* What -ERR says that a verb wanted instead of what came. */
static const char *const usage[] = {
	[NOTHING] = "the verb alone",
	[TEXT] = "one argument",
	[NUMBER] = "the number of a message",
	[MAYBE_NUMBER] = "the number of a message, or nothing",
	[TWO_NUMBERS] = "the numbers of a message and of lines",
};

/* Find the row for a line's first word, or NULL. */
static const struct verb *
verb_find(const char *line, size_t len)
{
	for (size_t i = 0; i < NELEM(verbs); i++)
		if (net_is_word(line, len, verbs[i].name))
			return &verbs[i];
	return NULL;
}

/* One number, or two with one blank between them, and nothing else. */
static bool
parse_numbers(struct pop3 *s)
{
	const char *arg = s->arg;

	if (!digits_parse(&arg, &s->number))
		return false;
	if (s->verb->args == TWO_NUMBERS &&
	    (*arg++ != ' ' || !digits_parse(&arg, &s->lines)))
		return false;
	return *arg == '\0';
}

/* Take the argument as the verb's row says, so that no handler needs to look
 * whether its message exists: SAY_OK, or what is wrong.  A blank with nothing
 * behind it is wrong, too (RFC 1939 3).  TEXT is the rest of the line, because
 * a password may hold blanks (RFC 1939 7).  arg[-1] is there: no verb is
 * empty. */
static enum verdict
parse_arg(struct pop3 *s)
{
	enum args args = s->verb->args;
	bool alone = s->arg[-1] != ' '; /* not even a blank behind the verb */

	pop3_note(s, SAY_USAGE, "%s", usage[args]);
	s->numbered = args >= NUMBER && (args != MAYBE_NUMBER || !alone);
	if (args == TEXT)
		return s->arg[0] != '\0' ? SAY_OK : SAY_USAGE;
	if (!s->numbered)
		return alone ? SAY_OK : SAY_USAGE;
	if (!parse_numbers(s))
		return SAY_USAGE;
	if (s->number < 1 || s->number > s->drop.files.n)
		return pop3_note(s, SAY_NO_SUCH, "%zu", s->drop.files.n);
	s->note[0] = '\0';
	return s->drop.v[s->number - 1].deleted ? SAY_DELETED : SAY_OK;
}

/* The laboratory's fault, if one is to happen now: what to say instead.
 * SAY_OK: none.  It comes before every other check, so that any verb can be
 * made to fail in any state. */
static enum verdict
play_fault(struct pop3 *s, const char *verb)
{
	const struct fault *f = net_fault(s->conf, KIND_POP3, verb);

	if (f == NULL)
		return SAY_OK;
	log_conn(&s->c, "fault at %s", verb);
	s->c.doomed |= f->action == FAULT_DROP; /* after what is owed */
	s->stalled = f->action == FAULT_STALL;
	return f->action == FAULT_DROP || s->stalled ? SAY_NOTHING : SAY_FAULT;
}

/* What one whole line deserves to hear.  The trace shows no password: neither
 * PASS's, nor what no verb of ours begins, for that may be AUTH or APOP, nor
 * what is no name behind USER, for a PASS may have slipped into it. */
static enum verdict
pop3_obey(struct pop3 *s, const char *line)
{
	size_t len = strcspn(line, " ");

	s->arg = line + len + (line[len] == ' ');
	s->verb = verb_find(line, len);
	if (s->verb == NULL) {
		trace(&s->c, '<', "(not shown)", "RFC 1939 3");
		return SAY_UNKNOWN;
	}
	const char *shown = s->verb->run == do_pass ? "PASS ..." : line;

	if (s->verb->run == do_user && !is_name(s->arg))
		shown = "USER ...";
	trace(&s->c, '<', shown, s->verb->rfc);
	enum verdict v = play_fault(s, s->verb->name);

	if (v != SAY_OK)
		return v;
	if (!(s->verb->legal & IN(s->state)))
		return pop3_note(s, SAY_STATE, "%s", states[s->state].name);
	v = parse_arg(s);
	if (v != SAY_OK)
		return v;
	s->note[0] = '\0';
	return s->verb->run(s);
}

/* Answer one line: exactly one reply, now or when it no longer waits. */
static void
pop3_line(struct pop3 *s, enum line got, const char *line, size_t len)
{
	struct buf *in = &s->c.in;
	enum verdict v;

	s->commands++;
	s->verb = NULL;
	s->note[0] = '\0';
	s->drop.looked = false;
	if (got == LINE_TOO_LONG)
		v = SAY_TOO_LONG;
	else if (got == LINE_BARE_LF)
		v = SAY_BARE_LF;
	else
		v = strlen(line) != len ? SAY_NUL : pop3_obey(s, line);
	/* It may have been a password.  Between start and end are the commands
	 * that came with it; behind them may lie what buf_compact() has moved
	 * from there. */
	explicit_bzero(in->data, in->start);
	explicit_bzero(in->data + in->end, in->cap - in->end);
	pop3_answer(s, v);
}

/* ---- a session's turn ---------------------------------------------------- */

/* May the next command be obeyed?  Not before the last one's answer is
 * wholly in the buffer, and not without room for its own. */
static bool
pop3_ready(const struct pop3 *s)
{
	return (IN(s->state) & (OUT | INSIDE)) != 0 && !s->waiting &&
	    !s->stalled && !s->c.doomed && s->feed == FEED_NONE &&
	    buf_room(&s->c.out) >= REPLY_ROOM;
}

/* Tell net.c what to wake us for.  The large buffer goes as soon as what it
 * holds fits in a small one: 10,000 sessions must not keep 64 KiB each.  A
 * command that waits has work to do in the next turn, whether or not the client
 * stirs; but in CHECKING check_one() or the deadline wakes us. */
static void
pop3_want(struct pop3 *s)
{
	struct conn *c = &s->c;
	bool large = c->out.cap > SMALL_BUF;

	if (large && s->feed == FEED_NONE)
		large = !buf_size(&c->out, SMALL_BUF);
	c->more = large || buf_room(&c->out) < REPLY_ROOM ||
	    s->feed != FEED_NONE;
	c->again = s->waiting && s->state != POP3_CHECKING;
	c->busy = s->state == POP3_UPDATE; /* QUIT holds without an answer */
	c->deaf = s->ended || !pop3_ready(s);
}

/* Obey and answer as far as it goes without waiting for anybody.  Of fifty
 * RETRs in one segment the second is not looked at before the last piece of the
 * first is in the buffer.  A client that ends its side may still listen: what
 * came whole is answered first, half a line never is. */
static void
pop3_run(struct pop3 *s)
{
	struct conn *c = &s->c;
	enum line got;
	char *line;
	size_t len;

	if (s->waiting)
		pop3_answer(s, s->verb->run(s));
	pop3_feed(s);
	while (pop3_ready(s) &&
	    (got = buf_line(&c->in, POP3_LINE, &line, &len)) != LINE_NONE) {
		pop3_line(s, got, line, len);
		pop3_feed(s);
	}
	if (s->ended && pop3_ready(s)) /* and all is answered */
		pop3_enter(s, POP3_BYE);
	pop3_want(s);
}

/* Serve one session that is ready, late, or to be served again.  Half a command
 * is no sign of life: an octet a minute does not keep a maildrop locked. */
static void
pop3_session(struct pop3 *s)
{
	struct conn *c = &s->c;
	enum io got = net_read(c);

	if ((c->revents & POLLOUT) && s->state != POP3_CHECKING)
		pop3_alive(s); /* it reads; PASS's second may not move */
	if (got == IO_ERROR) {
		net_drop(c);
		return;
	}
	s->ended |= got == IO_EOF;
	pop3_run(s);
	/* The autologout (RFC 1939 3), unless it is we who are slow.  Without a
	 * word, which would be taken for the next command's answer. */
	if (c->deadline <= srv.now && !s->waiting && s->state != POP3_BYE) {
		log_conn(c, "autologout");
		pop3_enter(s, POP3_BYE);
		net_drop(c);
	}
}

/* Greet.  No timestamp in angle brackets: that would offer APOP.  The session
 * holds this configuration to its end: after SIGHUP s->user is still there. */
static void
pop3_greet(struct pop3 *s)
{
	s->conf = srv.conf;
	s->conf->refs++;
	s->file = -1;
	log_conn(&s->c, "connect peer=%s", s->c.peer_text);
	enum verdict v = play_fault(s, "connect");

	if (v == SAY_FAULT)
		pop3_enter(s, POP3_BYE);
	if (v == SAY_OK)
		pop3_note(s, SAY_OK, "%s POP3 is ready", s->conf->hostname);
	if (v != SAY_NOTHING)
		pop3_say(s, v);
	pop3_alive(s);
}

/* The one crypt(3) of this turn, for who has waited longest.  The next one asks
 * for a turn, because nothing else would wake poll() before its second is over:
 * its PASS has been read. */
static void
check_one(void)
{
	struct pop3 *s = srv.pop3_checking;

	if (s == NULL)
		return;
	checking_decide(s);
	pop3_run(s);
	net_touch(&s->c);
	if (srv.pop3_checking != NULL) { /* whose turn is the next */
		srv.pop3_checking->c.again = true;
		net_touch(&srv.pop3_checking->c);
	}
}

/* New sessions join the end of the list that is being walked: no harm, since
 * they have been greeted and poll() has said nothing of them yet. */
void
pop3_serve(void)
{
	struct conn *client;

	for (struct conn *c = net_next(KIND_POP3, NULL); c != NULL;
	     c = net_next(KIND_POP3, c)) {
		if (!c->listening)
			pop3_session((struct pop3 *)c);
		while (c->listening &&
		    (client = net_accept(c, sizeof(struct pop3),
			 "-ERR [SYS/TEMP] ")) != NULL)
			pop3_greet((struct pop3 *)client);
	}
	check_one();
}

/* The inverse of pop3_greet() and pop3_login().  Of a client that has gone in
 * the middle of PASS, half a password is in the buffer. */
static void
pop3_end(struct pop3 *s)
{
	struct pop3 **at = &srv.pop3_open;

	if (s->state == POP3_TRANSACTION)
		log_conn(&s->c, "lost user=%s: nothing is removed",
		    s->user->name);
	while (*at != NULL && *at != s)
		at = &(*at)->next_open;
	if (*at != NULL)
		*at = s->next_open;
	checking_remove(s);
	maildrop_free(&s->drop);
	feed_end(s);
	explicit_bzero(s->c.in.data, s->c.in.cap);
	s->conf->refs--;
}

void
pop3_reap(void)
{
	struct conn *c;

	while ((c = net_gone(KIND_POP3)) != NULL) {
		if (!c->listening)
			pop3_end((struct pop3 *)c);
		net_free(c);
		free(c);
	}
}

/* Nothing is removed, but what QUIT has begun to.  No -ERR goes inside of an
 * answer: there the line is only cut. */
void
pop3_stop(struct conn *client)
{
	struct pop3 *s = (struct pop3 *)client;

	net_touch(client); /* net_settle() looks at no others */
	while (s->state == POP3_UPDATE)
		pop3_answer(s, do_quit(s));
	if (s->state == POP3_BYE)
		return;
	if (s->stalled || s->feed != FEED_NONE) {
		net_drop(client);
		return;
	}
	checking_remove(s);
	s->waiting = false;
	pop3_enter(s, POP3_BYE);
	s->note[0] = '\0';
	pop3_say(s, SAY_STOP);
}
