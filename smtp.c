/*
 * smtp.c -- reception: the server's side of SMTP.
 *
 * What this is
 *	The dialogue of RFC 5321 4 with whoever brings mail, from the greeting
 *	to the 250 after the final dot; pipelined (RFC 2920 3.2) or not.
 * Call it in this order
 *	In every turn: smtp_serve(), queue_commit(), smtp_answer(),
 *	net_settle(), smtp_reap().  At the end: smtp_stop().
 * A typical sequence, with break smtp_enter in gdb
 *	smtp_serve -> smtp_session -> smtp_run -> smtp_take ->
 *	    smtp_line -> smtp_obey -> do_data -> smtp_enter
 *	... smtp_take -> content_end -> content_verdict -> smtp_enter
 *	then queue_commit, and smtp_answer -> smtp_forget -> smtp_enter
 * Always true
 *	One reply a command, in smtp_reply(); handlers only decide.
 *	A 250 after the dot is said for a message on stable storage alone.
 *	Nothing inside of content is ever taken for a command.
 *	Memory grows with recipients, which are counted, and nothing else.
 * What it does not do
 *	AUTH (RFC 4954 4), STARTTLS (RFC 3207 4), SMTPUTF8 (RFC 6531 3),
 *	CHUNKING (RFC 3030 2), DSN parameters (RFC 3461 4).  Exercise: take
 *	NOTIFY= of RCPT; where must it go, so that a report can obey it?
 */
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "mailserv.h"

enum {
	REPLY_LINE = 511,  /* RFC 5321 4.5.3.1.5: 512 with CRLF; NUL */
	LAST_WORDS = 5,    /* seconds, for who does not read the last reply */
	TRACE_LINE = 1280, /* Received:, with three names of any length */
	LINE_KEPT = 80,    /* of a header's line: see header_line() */
	ERRORS_MAX = 100,  /* of a stranger: who tries names needs more */
};

/* ---- states, verdicts, verbs --------------------------------------------- */

/* Where a client stands in the dialogue (RFC 5321 4.1.4). */
enum smtp_state {
	SMTP_NEW,    /* was greeted with 220, has not said its name */
	SMTP_DENIED, /* was greeted with a refusal: may only say QUIT */
	SMTP_READY,  /* has said its name: a transaction may begin */
	SMTP_MAIL,   /* has given the reverse-path */
	SMTP_RCPT,   /* has given a forward-path that we took */
	SMTP_DATA,   /* sends content, after 354 */
	SMTP_COMMIT, /* waits for the disk, after the final dot */
	SMTP_BYE,    /* hears its last reply */
	N_SMTP_STATES
};

/*
 * Where in a line of content the next octet falls.  Only the five octets
 * CR LF . CR LF end it (RFC 5321 4.1.1.4).
 *
 *	DOT_START --.--> DOT_DOT --CR--> DOT_DOT_CR --LF--> DOT_END
 *	DOT_TEXT --CR--> DOT_CR --LF--> DOT_START
 *	any other octet: DOT_TEXT
 */
enum dot_state { DOT_START, DOT_TEXT, DOT_CR, DOT_DOT, DOT_DOT_CR, DOT_END };

/* What is known of a message's content while it comes. */
struct content {
	enum dot_state dot;
	bool in_header;       /* the body has not begun */
	bool bare;            /* a CR or LF came without the other */
	unsigned received;    /* Received: lines in the header */
	char line[LINE_KEPT]; /* what a line of the header begins with */
	size_t kept;          /* octets of it so far */
	size_t size;          /* octets, without dots that were doubled */
};

struct smtp_verb;

struct smtp {
	struct conn c; /* first: see struct conn */
	struct conf *conf;
	/* How far along? */
	enum smtp_state state; /* changed by smtp_enter() only */
	bool esmtp;            /* said EHLO, not HELO */
	bool ended;            /* will say no more, but may still listen */
	bool stalled;          /* fault: never answer */
	char helo[HOST_MAX];   /* what it calls itself */
	/* What has it said?  From SMTP_MAIL on. */
	struct msg *msg;          /* the message it gives us, or NULL */
	size_t n_rcpts;           /* forward-paths accepted */
	char rcpt[PATH_MAX_SMTP]; /* the last of them, for Received: */
	/* What has come of the content?  In SMTP_DATA. */
	struct content content;
	/* What is being answered? */
	const struct smtp_verb *verb; /* NULL: not known, or no command */
	char note[PATH_MAX_SMTP + 1]; /* the %s of the reply's text */
	unsigned fault_code;
	unsigned errors;           /* 5yz so far */
	struct smtp *next_waiting; /* for the commit */
	/* These two are equal, but while the disk is waited for. */
	unsigned long commands, replies;
};

/* States in which a command may come, and in which there is a message. */
enum {
	TALK = IN(SMTP_NEW) | IN(SMTP_READY) | IN(SMTP_MAIL) | IN(SMTP_RCPT),
	TRANSACTION = IN(SMTP_MAIL) | IN(SMTP_RCPT) | IN(SMTP_DATA) |
	    IN(SMTP_COMMIT),
};

/* RFC 5321 4.1.4, executable: which state may follow which. */
static const struct {
	const char *name;
	unsigned may_follow;
} states[] = {
	[SMTP_NEW] = { "NEW", IN(SMTP_DENIED) | IN(SMTP_READY) | IN(SMTP_BYE) },
	[SMTP_DENIED] = { "DENIED", IN(SMTP_BYE) },
	[SMTP_READY] = { "READY",
	    IN(SMTP_READY) | IN(SMTP_MAIL) | IN(SMTP_BYE) },
	[SMTP_MAIL] = { "MAIL", IN(SMTP_READY) | IN(SMTP_RCPT) | IN(SMTP_BYE) },
	[SMTP_RCPT] = { "RCPT",
	    IN(SMTP_READY) | IN(SMTP_RCPT) | IN(SMTP_DATA) | IN(SMTP_BYE) },
	[SMTP_DATA] = { "DATA",
	    IN(SMTP_READY) | IN(SMTP_COMMIT) | IN(SMTP_BYE) },
	[SMTP_COMMIT] = { "COMMIT", IN(SMTP_READY) },
	[SMTP_BYE] = { "BYE", 0 },
};
_Static_assert(NELEM(states) == N_SMTP_STATES, "a row for every state");

/* What is to be said; the table reply[] has the words. */
/* clang-format off */
enum verdict {
	SAY_NOTHING, /* not now, or never */
	SAY_GREETING, SAY_HELLO, SAY_EHLO, SAY_OK, SAY_SENDER, SAY_RCPT,
	SAY_DATA, SAY_ACCEPTED, SAY_PERHAPS, SAY_HELP, SAY_BYE, SAY_STARTED,
	SAY_NO_MAIL, SAY_NOT_YOURS, SAY_UNKNOWN, SAY_TOO_LONG, SAY_BARE_LF,
	SAY_OCTETS, SAY_SYNTAX, SAY_NOT_HERE, SAY_SEQUENCE, SAY_BAD_SENDER,
	SAY_BAD_RCPT, SAY_BAD_PARAM, SAY_PARAM, SAY_TOO_BIG, SAY_NOBODY,
	SAY_RELAYING, SAY_TOO_MANY, SAY_MEMORY, SAY_BARE, SAY_LOOP, SAY_FULL,
	SAY_DISK, SAY_FAULT, SAY_FOREIGN, SAY_ERRORS, SAY_LATE, SAY_STOP,
	SAY_DENIED, N_VERDICTS
};
/* clang-format on */

/* How a verb may be followed. */
enum args { NO_ARG, ARG, MAYBE_ARG };

/* A row of the table verbs[]. */
struct smtp_verb {
	const char *name;
	unsigned legal; /* IN() bits of the states that accept it */
	enum args args;
	enum verdict (*run)(struct smtp *s, const char *arg);
	enum verdict say; /* where there is nothing to run: always this */
	const char *rfc;
	const char *help; /* one line: how it is said */
};

/* The only place a state changes: break here to watch a dialogue move. */
static void
smtp_enter(struct smtp *s, enum smtp_state next)
{
	assert(states[s->state].may_follow & IN(next));
	if (log_level >= 1)
		log_conn(&s->c, "%s -> %s", states[s->state].name,
		    states[next].name);
	s->state = next;
}

/* The words of the reply that the handler is about to ask for.  Handlers note,
 * before each test, what is to be said should it fail; the next note takes the
 * place of one that was not needed. */
__attribute__((format(printf, 2, 3))) static void
smtp_note(struct smtp *s, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s->note, sizeof(s->note), fmt, ap);
	va_end(ap);
}

/* End the transaction, if there is one.  What was committed stays.  Of a client
 * that is gone the trace then tells READY, and no more. */
static void
smtp_forget(struct smtp *s)
{
	if (s->msg != NULL)
		spool_drop(s->msg);
	s->msg = NULL;
	s->n_rcpts = 0;
	if (IN(s->state) & TRANSACTION)
		smtp_enter(s, SMTP_READY);
}

/* The laboratory's fault, if one is to happen now: what to say instead.
 * SAY_OK: none. */
static enum verdict
play_fault(struct smtp *s, const char *verb)
{
	const struct fault *fault = net_fault(s->conf, KIND_SMTP, verb);

	if (fault == NULL)
		return SAY_OK;
	log_conn(&s->c, "fault at %s", verb);
	s->fault_code = fault->code; /* or 0 */
	if (fault->code == 421)      /* RFC 5321 3.8: it means goodbye */
		smtp_enter(s, SMTP_BYE);
	s->c.doomed |= fault->action == FAULT_DROP; /* after what is owed */
	s->stalled = fault->action == FAULT_STALL;
	return fault->code != 0 ? SAY_FAULT : SAY_NOTHING;
}

/* ---- commands: the transaction ------------------------------------------- */

/* RFC 5321 4.1.1.1: HELO and EHLO.  Words that follow an address literal are
 * tolerated, as it advises.  HELO's syntax has no literals, but some clients
 * have no name. */
static enum verdict
do_hello(struct smtp *s, const char *arg)
{
	const char *end = path_skip_host(arg);
	bool words = arg[0] == '[' && end != NULL && *end == ' ';

	smtp_note(s, "wanted: %s", s->verb->help);
	if (end == NULL || (*end != '\0' && !words) || end - arg > DOMAIN_MAX)
		return SAY_SYNTAX;
	smtp_forget(s);
	snprintf(s->helo, sizeof(s->helo), "%.*s", (int)(end - arg), arg);
	s->esmtp = s->verb->name[0] == 'E';
	smtp_enter(s, SMTP_READY);
	smtp_note(s, "%s greets %s", s->conf->hostname, s->c.peer_text);
	return s->esmtp ? SAY_EHLO : SAY_HELLO;
}

/* How the path of MAIL and that of RCPT differ. */
static const struct path_kind {
	const char *word;
	const char *special; /* a path that has no domain */
	enum verdict fault;
} from_path = { "FROM:", "<>", SAY_BAD_SENDER },
  to_path = { "TO:", "<postmaster>", SAY_BAD_RCPT };

/*
 * Take "FROM:<path>" or "TO:<path>": SAY_OK, or what is wrong.  A blank
 * after the colon is common, and a fault all the same (RFC 5321 4.1.1.2),
 * because a server that takes it teaches its clients to rely on that.
 */
static enum verdict
take_path(struct smtp *s, const struct path_kind *kind, const char *arg,
    struct path *path)
{
	size_t len = strlen(kind->word), special = strlen(kind->special);
	const char *begin = arg + len;

	smtp_note(s, "wanted: %s", s->verb->help);
	if (strncasecmp(arg, kind->word, len) != 0 || *begin == '\0')
		return SAY_SYNTAX;
	smtp_note(s, "right after %s stands an address in < and >", kind->word);
	if (*begin != '<')
		return SAY_SYNTAX;
	path->fault = "";
	if (strncasecmp(begin, kind->special, special) == 0)
		path->end = begin + special; /* path has its mailbox */
	else
		path->end = path_skip(begin, path);
	smtp_note(s, "%s", path->fault);
	if (path->end == NULL)
		return kind->fault;
	smtp_note(s, "a blank parts the path from parameters");
	return *path->end == '\0' || *path->end == ' ' ? SAY_OK : SAY_SYNTAX;
}

/* A parameter of len octets that no extension of ours knows: of the right form
 * (esmtp-param in RFC 5321 4.1.2), or not even that? */
static enum verdict
judge_param(struct smtp *s, const char *text, size_t len)
{
	size_t name = strspn(text, LET_DIG "-");
	bool value = text[name] == '=' && name + 1 < len;

	smtp_note(s, "it is one blank, NAME, and perhaps =value");
	if (name == 0 || *text == '-' || (name < len && !value))
		return SAY_BAD_PARAM;
	smtp_note(s, "%.*s", (int)len, text);
	return SAY_PARAM;
}

/* RFC 1870 6; value is "=9", or nothing.  A number that 64 bits have no room
 * for is too large, too. */
static enum verdict
take_size(struct smtp *s, const char *value, size_t len)
{
	size_t digits = *value == '=' ? strspn(value + 1, "0123456789") : 0;

	smtp_note(s, "SIZE= needs 1 to 20 digits");
	if (digits == 0 || digits > 20 || 1 + digits != len)
		return SAY_SYNTAX;
	smtp_note(s, "%zu", s->conf->max_message);
	bool fits = strtoull(value + 1, NULL, 10) <= s->conf->max_message;

	return fits ? SAY_OK : SAY_TOO_BIG;
}

/* One parameter of MAIL; seen has a bit for each that came.  BODY= (RFC 6152
 * 3) only promises: the spool looks itself for octets over 127, because
 * clients lie. */
static enum verdict
take_param(struct smtp *s, const char *text, size_t len, unsigned *seen)
{
	enum { SIZE = 1, BODY = 2 };
	size_t name = strcspn(text, "= ");
	bool size = net_is_word(text, name, "SIZE");
	bool body = net_is_word(text, name, "BODY");
	unsigned which = size ? SIZE : BODY;

	if (!size && !body)
		return judge_param(s, text, len);
	smtp_note(s, "SIZE= or BODY= comes twice");
	if (*seen & which)
		return SAY_SYNTAX;
	*seen |= which;
	if (size)
		return take_size(s, text + name, len - name);
	smtp_note(s, "BODY= is 7BIT or 8BITMIME");
	bool known = net_is_word(text, len, "BODY=7BIT") ||
	    net_is_word(text, len, "BODY=8BITMIME");

	return known ? SAY_OK : SAY_SYNTAX;
}

/* RFC 5321 4.1.1.2.  The null reverse-path is a report's (RFC 5321 4.5.5).  The
 * message is made last, so that a fault leaves nothing to undo. */
static enum verdict
do_mail(struct smtp *s, const char *arg)
{
	struct path path = { .end = NULL };
	enum verdict verdict = take_path(s, &from_path, arg, &path);
	const char *at = path.end;
	unsigned seen = 0;

	while (verdict == SAY_OK && *at == ' ') {
		size_t len = strcspn(at + 1, " ");

		verdict = take_param(s, at + 1, len, &seen);
		at += 1 + len;
	}
	if (verdict != SAY_OK)
		return verdict;
	smtp_note(s, "<%s>", path.mailbox);
	s->msg = spool_begin(path.mailbox);
	if (s->msg == NULL)
		return SAY_MEMORY;
	smtp_enter(s, SMTP_MAIL);
	return SAY_SENDER;
}

/* Is this mailbox one that the client may send to?  What is for ever is asked
 * first: told 452, the client would come again (RFC 5321 4.5.3.1.10) with a
 * recipient that no transaction has room for. */
static enum verdict
judge_rcpt(struct smtp *s, const char *mailbox)
{
	const struct conf *conf = s->conf;
	enum place place = place_of(conf, mailbox);

	smtp_note(s, "<%s>", mailbox);
	if (place == PLACE_NOBODY)
		return SAY_NOBODY;
	if (place == PLACE_REMOTE &&
	    !cidr_match(conf->relay_from, conf->n_relay_from, &s->c.peer))
		return SAY_RELAYING;
	if (s->n_rcpts >= conf->max_recipients)
		return SAY_TOO_MANY;
	return place_add(conf, s->msg, mailbox) ? SAY_RCPT : SAY_MEMORY;
}

/* RFC 5321 4.1.1.3.  Only <postmaster> may come without a domain. */
static enum verdict
do_rcpt(struct smtp *s, const char *arg)
{
	struct path path = { .mailbox = "postmaster" };
	enum verdict verdict = take_path(s, &to_path, arg, &path);

	if (verdict != SAY_OK)
		return verdict;
	if (*path.end == ' ') /* none of our extensions has one here */
		return judge_param(s, path.end + 1, strcspn(path.end + 1, " "));
	verdict = judge_rcpt(s, path.mailbox);
	if (verdict != SAY_RCPT)
		return verdict;
	snprintf(s->rcpt, sizeof(s->rcpt), "%s", path.mailbox);
	s->n_rcpts++;
	smtp_enter(s, SMTP_RCPT);
	return verdict;
}

/* Our own trace field (RFC 5321 4.4), above the content.  It names a
 * recipient only where there is but one: the others must not see who else
 * got a copy (RFC 5321 7.2).  It says UT, because the server's zone helps
 * nobody. */
static void
write_received(struct smtp *s)
{
	const char *tag = s->c.peer.any.sa_family == AF_INET6 ? "IPv6:" : "";
	char line[TRACE_LINE], peer[PEER_TEXT], date[40];
	bool one = s->n_rcpts == 1 && strchr(s->rcpt, '@') != NULL;
	time_t secs = (time_t)(srv.wall / 1000);
	struct tm tm;

	gmtime_r(&secs, &tm);
	strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S +0000", &tm);
	address_format(&s->c.peer, false, peer);
	int len = snprintf(line, sizeof(line),
	    "Received: from %s ([%s%s)\n"
	    "\tby %s with %s id %s%s%s%s; %s\n",
	    s->helo, tag, peer + 1, s->conf->hostname,
	    s->esmtp ? "ESMTP" : "SMTP", s->msg->id, one ? "\n\tfor <" : "",
	    one ? s->rcpt : "", one ? ">" : "", date);

	spool_write(s->msg, line, (size_t)len);
}

/* RFC 5321 4.1.1.4.  Of a disk that refuses see spool_open(). */
static enum verdict
do_data(struct smtp *s, const char *arg)
{
	(void)arg;
	spool_open(s->msg);
	write_received(s);
	s->content = (struct content){ .dot = DOT_START, .in_header = true };
	smtp_enter(s, SMTP_DATA);
	return SAY_DATA;
}

/* ---- commands: the rest -------------------------------------------------- */

/* RFC 5321 4.1.1.5. */
static enum verdict
do_rset(struct smtp *s, const char *arg)
{
	(void)arg;
	smtp_forget(s);
	return SAY_OK;
}

/* RFC 5321 4.1.1.10. */
static enum verdict
do_quit(struct smtp *s, const char *arg)
{
	(void)arg;
	smtp_note(s, "%s", s->conf->hostname);
	smtp_enter(s, SMTP_BYE);
	return SAY_BYE;
}

/* RFC 1985 5.  Anybody may ask, because the mail goes where the DNS says and
 * to nobody else.  Left out: queues that have a name ("#name"). */
static enum verdict
do_etrn(struct smtp *s, const char *arg)
{
	const struct conf *conf = s->conf;
	const char *domain = arg + (*arg == '@');
	const char *end = path_skip_host(domain);
	bool ours = false;

	smtp_note(s, "wanted: %s", s->verb->help);
	if (end == NULL || *end != '\0')
		return SAY_SYNTAX;
	for (size_t i = 0; i < conf->n_relay_domains; i++)
		ours |= strcasecmp(conf->relay_domains[i].name, domain) == 0;
	smtp_note(s, "%s", domain);
	if (!ours)
		return SAY_NOT_YOURS;
	return queue_etrn(domain) ? SAY_STARTED : SAY_NO_MAIL;
}

/*
 * SMTP on one screen: who may speak, when, how, by which rule.  VRFY tells
 * nothing, for the harvesters of addresses (RFC 5321 7.3), nor does it say 250
 * of what it has not looked up (RFC 5321 3.5.3).  EXPN and TURN have rows,
 * because a verb that is known but not done gets 502, not 500 (RFC 5321 4.2.4).
 */
static const struct smtp_verb verbs[] = {
	{ "HELO", TALK, ARG, do_hello, SAY_OK, "RFC 5321 4.1.1.1",
	    "HELO your.name, or HELO [192.0.2.1]" },
	{ "EHLO", TALK, ARG, do_hello, SAY_OK, "RFC 5321 4.1.1.1",
	    "EHLO your.name, or EHLO [192.0.2.1]" },
	{ "MAIL", IN(SMTP_READY), ARG, do_mail, SAY_OK, "RFC 5321 4.1.1.2",
	    "MAIL FROM:<address> [SIZE=octets] [BODY=8BITMIME]" },
	{ "RCPT", IN(SMTP_MAIL) | IN(SMTP_RCPT), ARG, do_rcpt, SAY_OK,
	    "RFC 5321 4.1.1.3", "RCPT TO:<address>" },
	{ "DATA", IN(SMTP_RCPT), NO_ARG, do_data, SAY_OK, "RFC 5321 4.1.1.4",
	    "DATA, then the message, then a dot alone on a line" },
	{ "RSET", TALK, NO_ARG, do_rset, SAY_OK, "RFC 5321 4.1.1.5",
	    "RSET forgets sender and recipients" },
	{ "NOOP", TALK, MAYBE_ARG, NULL, SAY_OK, "RFC 5321 4.1.1.9",
	    "NOOP does nothing" },
	{ "QUIT", TALK | IN(SMTP_DENIED), NO_ARG, do_quit, SAY_OK,
	    "RFC 5321 4.1.1.10", "QUIT" },
	{ "VRFY", TALK, ARG, NULL, SAY_PERHAPS, "RFC 5321 4.1.1.6",
	    "VRFY name tells nothing here" },
	{ "EXPN", TALK, MAYBE_ARG, NULL, SAY_NOT_HERE, "RFC 5321 4.1.1.7",
	    "EXPN is not done here" },
	{ "HELP", TALK, MAYBE_ARG, NULL, SAY_HELP, "RFC 5321 4.1.1.8",
	    "HELP lists this" },
	{ "ETRN", IN(SMTP_READY), ARG, do_etrn, SAY_OK, "RFC 1985 5",
	    "ETRN domain tries to send what waits for it" },
	{ "TURN", TALK, MAYBE_ARG, NULL, SAY_NOT_HERE, "RFC 5321 F.1",
	    "TURN is not done here" },
};

/* Find the row for a word of len octets, or NULL. */
static const struct smtp_verb *
verb_find(const char *word, size_t len)
{
	for (size_t i = 0; i < NELEM(verbs); i++)
		if (net_is_word(word, len, verbs[i].name))
			return &verbs[i];
	return NULL;
}

/* ---- replies ------------------------------------------------------------- */

/*
 * What is said: code (RFC 5321 4.2.3), enhanced code (RFC 3463 3) if it has
 * one, words, behind which the note comes, and where a fault is explained, so
 * that a reply teaches; NULL: where its verb is.
 */
static const struct reply {
	unsigned code;
	const char *status, *text, *rfc;
} reply[] = {
	[SAY_GREETING] = { 220, "", "", "RFC 5321 3.1" },
	[SAY_HELLO] = { 250, "", "", NULL },
	[SAY_EHLO] = { 250, "", "", NULL },
	[SAY_OK] = { 250, "2.0.0 ", "OK", NULL },
	[SAY_SENDER] = { 250, "2.1.0 ", "sender OK: ", NULL },
	[SAY_RCPT] = { 250, "2.1.5 ", "recipient OK: ", NULL },
	[SAY_DATA] = { 354, "", "go on; a dot alone on a line ends it", NULL },
	[SAY_ACCEPTED] = { 250, "2.0.0 ", "", "RFC 5321 4.2.5" },
	[SAY_PERHAPS] = { 252, "2.5.0 ", "RCPT it, and see", NULL },
	[SAY_HELP] = { 214, "2.0.0 ", "this may be said:", NULL },
	[SAY_BYE] = { 221, "2.0.0 ", "goodbye from ", NULL },
	[SAY_STARTED] = { 250, "2.0.0 ", "trying to reach ", NULL },
	[SAY_NO_MAIL] = { 251, "2.0.0 ", "no mail, or tried just now: ", NULL },
	[SAY_NOT_YOURS] = { 459, "4.7.1 ", "no relay_domain here: ", NULL },
	[SAY_UNKNOWN] = { 500, "5.5.2 ", "no such command", "RFC 5321 4.2.4" },
	[SAY_TOO_LONG] = { 500, "5.5.2 ", "too long", "RFC 5321 4.5.3.1.4" },
	[SAY_BARE_LF] = { 500, "5.5.2 ", "a line ends in CR LF, not LF (nc -C)",
	    "RFC 5321 2.3.8" },
	[SAY_OCTETS] = { 501, "5.5.2 ", "not printable: ", "RFC 5321 4.1.2" },
	[SAY_SYNTAX] = { 501, "5.5.4 ", "", NULL },
	[SAY_NOT_HERE] = { 502, "5.5.1 ", "not done here", "RFC 5321 4.2.4" },
	[SAY_SEQUENCE] = { 503, "5.5.1 ", "", "RFC 5321 4.1.4" },
	[SAY_DENIED] = { 503, "5.5.1 ", "QUIT is all that may follow",
	    "RFC 5321 3.1" },
	[SAY_BAD_SENDER] = { 501, "5.1.7 ",
	    "no address: ", "RFC 5321 4.1.2, 4.5.3.1" },
	[SAY_BAD_RCPT] = { 501, "5.1.3 ",
	    "no address: ", "RFC 5321 4.1.2, 4.5.3.1" },
	[SAY_BAD_PARAM] = { 501, "5.5.4 ", "no parameter: ", "RFC 5321 4.1.2" },
	[SAY_PARAM] = { 555, "5.5.4 ", "unknown: ", "RFC 5321 4.1.1.11" },
	[SAY_TOO_BIG] = { 552, "5.3.4 ", "octets at most: ", "RFC 1870 6" },
	[SAY_NOBODY] = { 550, "5.1.1 ", "no such user here: ", "RFC 5321 3.3" },
	[SAY_RELAYING] = { 550, "5.7.1 ", "relaying denied: ", "RFC 5321 7.9" },
	[SAY_TOO_MANY] = { 452, "4.5.3 ", "too many recipients, send again to ",
	    "RFC 5321 4.5.3.1.10" },
	[SAY_MEMORY] = { 452, "4.3.0 ", "out of memory, try later: ", NULL },
	[SAY_BARE] = { 554, "5.6.0 ", "a bare CR or LF in it",
	    "RFC 5321 2.3.8" },
	[SAY_LOOP] = { 554, "5.4.6 ", "a loop; Received: ", "RFC 5321 6.3" },
	[SAY_FULL] = { 452, "4.3.1 ", "try later: ", "RFC 5321 4.2.5" },
	[SAY_DISK] = { 451, "4.3.0 ", "try later: ", "RFC 5321 4.2.5" },
	[SAY_FAULT] = { 0, "", "a laboratory's fault", NULL },
	[SAY_FOREIGN] = { 421, "4.7.0 ", "SMTP is not HTTP", "RFC 5321 7.8" },
	[SAY_ERRORS] = { 421, "4.7.0 ", "too many errors", "RFC 5321 7.8" },
	[SAY_LATE] = { 421, "4.4.2 ", "silent too long", "RFC 5321 4.5.3.2.7" },
	[SAY_STOP] = { 421, "4.3.2 ", "the server stops", "RFC 5321 3.8" },
};
_Static_assert(NELEM(reply) == N_VERDICTS, "words for every verdict");

/* All of them registered (RFC 5321 2.2.2). */
static const char *const extensions[] = { "PIPELINING", "8BITMIME",
	"ENHANCEDSTATUSCODES", "HELP", "ETRN" };

/*
 * Line i of those that follow a reply's first one, perhaps made in
 * text[REPLY_LINE]; NULL: there is none.
 *
 *	250-mx.example greets [192.0.2.1]:50000
 *	250-SIZE 52428800	line 0
 *	...
 *	250 ETRN		line 5: a blank, for none follows
 */
static const char *
list_line(const struct smtp *s, enum verdict verdict, size_t i, char *text)
{
	if (verdict == SAY_HELP)
		return i < NELEM(verbs) ? verbs[i].help : NULL;
	if (verdict != SAY_EHLO || i > NELEM(extensions))
		return NULL;
	if (i > 0)
		return extensions[i - 1];
	snprintf(text, REPLY_LINE, "SIZE %zu", s->conf->max_message);
	return text;
}

/* The enhanced code.  Neither the greeting nor any answer to HELO and EHLO has
 * one, because the client cannot know yet that they come (RFC 2034 4). */
static const char *
reply_status(const struct smtp *s, enum verdict verdict)
{
	bool basic = s->verb == NULL ? s->replies == 1 :
				       s->verb->run == do_hello;

	if (basic)
		return "";
	if (verdict == SAY_FAULT)
		return s->fault_code < 500 ? "4.3.0 " : "5.3.0 ";
	return reply[verdict].status;
}

/* Append one line of a reply: CODE, mark, enhanced code, text.  An address may
 * make the text as long as the line: it is cut, so that the section fits. */
static void
put_line(struct smtp *s, enum verdict verdict, char mark, const char *text)
{
	const struct reply *row = &reply[verdict];
	unsigned code = row->code != 0 ? row->code : s->fault_code;
	const char *status = reply_status(s, verdict), *rfc = row->rfc;
	char line[REPLY_LINE];

	if (rfc == NULL)
		rfc = s->verb != NULL ? s->verb->rfc : "RFC 5321 4.2";
	bool why = code >= 400;

	snprintf(line, sizeof(line), "%u%c%s%.400s%s%s%s", code, mark, status,
	    text, why ? " (" : "", why ? rfc : "", why ? ")" : "");
	/* A last word may come while much waits: if it does not fit, it is
	 * not heard. */
	(void)net_say(&s->c, line, rfc);
	if (why)
		log_conn(&s->c, "refused id=%s peer=%s: %s",
		    s->msg != NULL ? s->msg->id : "-", s->c.peer_text, line);
}

/* Something has come that wants an answer: a command, but also the connection
 * itself, the final dot, or a reason for 421. */
static void
smtp_asked(struct smtp *s)
{
	s->commands++;
	s->verb = NULL;
	s->note[0] = '\0';
}

/* And this is its one reply, unless a stranger has erred too often.  (A commit
 * ends in no 5yz, so that this BYE never follows COMMIT.)  The mark of a line
 * tells whether another follows: so that one is made before this one is put,
 * and two buffers take turns. */
static void
smtp_reply(struct smtp *s, enum verdict verdict)
{
	char text[REPLY_LINE], item[2][REPLY_LINE];

	if (verdict == SAY_NOTHING)
		return;
	s->replies++;
	assert(s->replies == s->commands);
	s->errors += reply[verdict].code >= 500;
	if (s->errors > ERRORS_MAX && s->c.counted) {
		smtp_enter(s, SMTP_BYE);
		s->note[0] = '\0'; /* it is the lost verdict's */
		verdict = SAY_ERRORS;
	}
	snprintf(text, sizeof(text), "%.200s%s", reply[verdict].text, s->note);
	const char *line = text, *next;

	for (size_t i = 0; line != NULL; i++, line = next) {
		next = list_line(s, verdict, i, item[i % 2]);
		put_line(s, verdict, next != NULL ? '-' : ' ', line);
	}
	if (s->state != SMTP_BYE)
		return;
	s->c.doomed = true;
	s->c.deadline = srv.now + LAST_WORDS * SECOND;
	s->c.late = false; /* or net_settle() would not let it be sent */
}

/* ---- commands: the dispatcher -------------------------------------------- */

/* Is this another protocol's first word?  A web page can make a browser send
 * us commands of its choice, but not without these before them. */
static bool
is_foreign(const char *line, size_t len)
{
	static const char *const words[] = { "GET", "POST", "PUT", "HEAD",
		"OPTIONS", "CONNECT", "Host:" };

	for (size_t i = 0; i < NELEM(words); i++)
		if (net_is_word(line, len, words[i]))
			return true;
	return false;
}

/* A control character could forge lines in headers, envelopes and logs, and
 * a NUL would hide the rest of its line from us.  The note says which. */
static bool
is_printable(struct smtp *s, const char *line, size_t len)
{
	size_t i = 0;

	while (i < len && line[i] >= ' ' && line[i] < 127)
		i++;
	if (i < len)
		smtp_note(s, "octet %zu is \\%03o; SMTPUTF8 is not offered",
		    i + 1, (unsigned char)line[i]);
	return i == len;
}

/* Why the verb may not come now, and what may. */
static enum verdict
out_of_sequence(struct smtp *s)
{
	const char *name = s->verb->name;

	if (s->state == SMTP_DENIED)
		return SAY_DENIED;
	if (s->state == SMTP_NEW)
		smtp_note(s, "EHLO first: %s needs to know who you are", name);
	else if (s->verb->legal & IN(SMTP_READY))
		smtp_note(s, "RSET first: a transaction is open");
	else if (s->state == SMTP_READY)
		smtp_note(s, "MAIL first: %s needs a sender", name);
	else
		smtp_note(s, "RCPT first: %s needs a recipient", name);
	return SAY_SEQUENCE;
}

/* What one whole line, NULs and all, deserves to hear. */
static enum verdict
smtp_obey(struct smtp *s, const char *line, size_t len)
{
	size_t word = strcspn(line, " ");

	s->verb = verb_find(line, word);
	/* What is no verb of ours may be AUTH, and tell a password. */
	if (s->verb != NULL)
		trace(&s->c, '<', line, s->verb->rfc);
	else
		trace(&s->c, '<', "(not shown)", "RFC 5321 4.1.1");
	if (is_foreign(line, word)) {
		smtp_enter(s, SMTP_BYE);
		return SAY_FOREIGN;
	}
	if (!is_printable(s, line, len))
		return SAY_OCTETS;
	if (s->verb == NULL)
		return s->state == SMTP_DENIED ? SAY_DENIED : SAY_UNKNOWN;
	enum verdict verdict = play_fault(s, s->verb->name);

	if (verdict != SAY_OK)
		return verdict;
	if (!(s->verb->legal & IN(s->state)))
		return out_of_sequence(s);
	const char *arg = line + word + (line[word] == ' ');
	/* What must not be there, or must; MAYBE_ARG is neither. */
	enum args wrong = *arg == '\0' ? ARG : NO_ARG;

	if (s->verb->args == wrong) {
		smtp_note(s, "wanted: %s", s->verb->help);
		return SAY_SYNTAX;
	}
	return s->verb->run != NULL ? s->verb->run(s, arg) : s->verb->say;
}

/* Answer one line.  Blanks at its end are tolerated (RFC 5321 4.1.1). */
static void
smtp_line(struct smtp *s, enum line got, char *line, size_t len)
{
	smtp_asked(s);
	while (len > 0 && (line[len - 1] == ' ' || line[len - 1] == '\t'))
		line[--len] = '\0';
	if (got == LINE_OK)
		smtp_reply(s, smtp_obey(s, line, len));
	else
		smtp_reply(s, got == LINE_BARE_LF ? SAY_BARE_LF : SAY_TOO_LONG);
}

/* ---- content (RFC 5321 4.1.1.4, 4.5.2) ----------------------------------- */

/* A line of the header has ended.  It was a field, with its colon right behind
 * its name or after blanks (RFC 5322 4.5), or the folded rest of one, which
 * begins with a blank; else the body has begun, empty line or not.  Received:
 * is counted.  A field whose name does not fit into what is kept ends the
 * counting, too, but hides no loop: each host puts its Received: on top. */
static void
header_line(struct content *content)
{
	char *line = content->line;

	line[content->kept] = '\0';
	content->kept = 0;
	size_t name = strcspn(line, ": \t");
	const char *colon = line + name + strspn(line + name, " \t");

	content->in_header = name > 0 ? *colon == ':' : colon > line;
	content->received += *colon == ':' &&
	    net_is_word(line, name, "Received");
}

/* Octets of the message.  Once it is sure to be refused, its disk space is
 * better spent on others. */
static void
content_put(struct smtp *s, const char *data, size_t len)
{
	if (!s->content.bare && s->content.size <= s->conf->max_message)
		spool_write(s->msg, data, len);
}

/* A piece of a line, up to the next CR: a line may have any length, and not
 * only the 1000 octets of RFC 5321 4.5.3.1.6.  An LF in it stands alone.  Two
 * memchr() over what is then used up: linear, whatever comes.  Its beginning is
 * kept for header_line(). */
static size_t
content_run(struct smtp *s, const char *data, size_t len)
{
	struct content *content = &s->content;
	const char *cr = memchr(data, '\r', len);
	size_t run = cr != NULL ? (size_t)(cr - data) : len;

	if (memchr(data, '\n', run) != NULL)
		content->bare = true;
	content->size += run;
	for (size_t i = 0; i < run && content->kept < LINE_KEPT - 1; i++)
		content->line[content->kept++] = data[i];
	content_put(s, data, run);
	return run;
}

/*
 * Between runs every state waits for one octet, and goes on when it comes;
 * otherwise the line is text, and that octet belongs to it.  A dot that the
 * line began with is then dropped: the client has doubled it, or should have
 * (RFC 5321 4.5.2).  The lines "hi" and ".a", the dot, a command:
 *
 *	comes     h  i  CR LF .  .  a  CR LF .  CR LF  Q U I T
 *	state     T  T  C  S  D  T  T  C  S  D  DC END
 *	written   h  i     \n    .  a     \n
 *
 * (S: DOT_START, T: DOT_TEXT, C: DOT_CR, D: DOT_DOT, DC: DOT_DOT_CR.)
 */
static const struct {
	char octet;
	enum dot_state next;
} await[] = {
	[DOT_START] = { '.', DOT_DOT },
	[DOT_TEXT] = { '\r', DOT_CR },
	[DOT_CR] = { '\n', DOT_START },
	[DOT_DOT] = { '\r', DOT_DOT_CR },
	[DOT_DOT_CR] = { '\n', DOT_END },
};

/* Look at one octet; returns how many of it were used: 1, or 0 where it is the
 * first of a run.  A CR without its LF is not written: once there is one, the
 * message is refused. */
static size_t
content_step(struct smtp *s, char octet)
{
	struct content *content = &s->content;
	bool came = octet == await[content->dot].octet;

	if (content->dot == DOT_CR && came) { /* a line's end */
		content->size += 2;
		if (content->in_header)
			header_line(content);
		content_put(s, "\n", 1); /* so the spool writes it */
	}
	if ((content->dot == DOT_CR || content->dot == DOT_DOT_CR) && !came)
		content->bare = true;
	content->dot = came ? await[content->dot].next : DOT_TEXT;
	return came;
}

/* Take in content, cut anywhere.  Returns how many octets belonged to it: the
 * rest, once content->dot is DOT_END, are commands. */
static size_t
content_feed(struct smtp *s, const char *data, size_t len)
{
	struct content *content = &s->content;
	size_t done = 0;

	while (done < len && content->dot != DOT_END) {
		if (content->dot == DOT_TEXT)
			done += content_run(s, data + done, len - done);
		if (done < len)
			done += content_step(s, data[done]);
	}
	return done;
}

/* Hand a whole message over for the commit, or say why not. */
static enum verdict
content_verdict(struct smtp *s)
{
	const struct content *content = &s->content;
	enum verdict verdict = play_fault(s, "dot");

	if (verdict != SAY_OK)
		return verdict;
	if (content->bare)
		return SAY_BARE;
	smtp_note(s, "%u times", content->received);
	if (content->received >= RECEIVED_MAX)
		return SAY_LOOP;
	smtp_note(s, "%zu", s->conf->max_message);
	if (content->size > s->conf->max_message)
		return SAY_TOO_BIG;
	spool_submit(s->msg);
	smtp_enter(s, SMTP_COMMIT);
	s->next_waiting = srv.smtp_waiting;
	srv.smtp_waiting = s;
	return SAY_NOTHING;
}

/* The final dot has come.  A message that is refused is refused here, once,
 * and what follows are commands again. */
static void
content_end(struct smtp *s)
{
	char line[48];

	snprintf(line, sizeof(line), "(%zu octets)", s->content.size);
	trace(&s->c, '<', line, "RFC 5321 4.1.1.4");
	smtp_asked(s);
	smtp_reply(s, content_verdict(s));
	if (s->state != SMTP_COMMIT)
		smtp_forget(s);
}

/* ---- a session's turn ---------------------------------------------------- */

/* May the next command be obeyed, or content be taken?  Not while the last
 * one waits, and not without room for the answer. */
static bool
smtp_ready(const struct smtp *s)
{
	return !s->stalled && !s->c.doomed && s->state != SMTP_COMMIT &&
	    buf_room(&s->c.out) >= REPLY_ROOM;
}

/* Take one line or some content from what was read; false: no more. */
static bool
smtp_take(struct smtp *s)
{
	struct buf *in = &s->c.in;
	char *line;
	size_t len;

	if (s->state != SMTP_DATA) {
		enum line got = buf_line(in, SMTP_LINE, &line, &len);

		if (got != LINE_NONE)
			smtp_line(s, got, line, len);
		return got != LINE_NONE;
	}
	if (buf_used(in) == 0)
		return false;
	in->start += content_feed(s, in->data + in->start, buf_used(in));
	if (s->content.dot == DOT_END)
		content_end(s);
	else
		spool_show(s->msg);
	return true;
}

/* Tell net.c what to wake us for.  Who does not read answers is not read: of
 * fifty HELPs in one segment two are answered, and the others wait in our own
 * buffer, of which poll() knows nothing.  So `more` asks to be served when
 * those two have left. */
static void
smtp_ask(struct smtp *s)
{
	struct conn *conn = &s->c;

	conn->more = !conn->doomed && buf_room(&conn->out) < REPLY_ROOM;
	conn->deaf = s->ended || (!s->stalled && !smtp_ready(s));
	if (s->state != SMTP_DATA && conn->in.cap > SMALL_BUF)
		(void)buf_size(&conn->in, SMALL_BUF); /* or when it fits */
}

/* Obey and answer as far as it goes without waiting.  Groups of commands
 * (RFC 2920 3.2) need nothing else: answers gather in the buffer.  A client may
 * end its side and still listen, as nc -N does: what came whole is answered
 * first; half a line, or content without its dot, never is. */
static void
smtp_run(struct smtp *s)
{
	struct conn *conn = &s->c;

	while (smtp_ready(s) && smtp_take(s))
		continue;
	if (s->stalled)
		conn->in.start = conn->in.end = 0; /* unheard */
	if (s->ended && !conn->doomed && (smtp_ready(s) || s->stalled)) {
		smtp_enter(s, SMTP_BYE); /* all that came is answered */
		conn->doomed = true;
	}
	smtp_ask(s);
}

/* End a session from our side.  Not in the middle of a commit: its answer
 * would be lost, and the message come twice.  A stalled one hears nothing: it
 * is owed an answer already, and would take this for that. */
static void
smtp_dismiss(struct smtp *s, enum verdict verdict)
{
	if (s->stalled)
		net_drop(&s->c);
	if (s->state == SMTP_COMMIT || s->c.doomed)
		return;
	smtp_asked(s);
	smtp_enter(s, SMTP_BYE);
	smtp_reply(s, verdict);
	smtp_ask(s);
}

/* Serve one session that is ready, late, or to be served again.  In content any
 * octet is a sign of life, because 50 MB take their time on a slow line.  The
 * price: one octet every four minutes keeps a connection, of which a stranger
 * has max_per_client.  Exercise: ask for so many octets a minute. */
static void
smtp_session(struct smtp *s)
{
	struct conn *conn = &s->c;
	enum io got = net_read(conn);
	unsigned long commands = s->commands;
	msec deadline = srv.now + s->conf->timeout_smtp;

	if (got == IO_ERROR) {
		net_drop(conn);
		return;
	}
	if (got == IO_OK && s->state == SMTP_DATA)
		conn->deadline = deadline;
	/* Content that fills the buffer streams: it gets a larger one, or, if
	 * there is no memory, takes more turns. */
	if (s->state == SMTP_DATA && buf_room(&conn->in) == 0)
		(void)buf_size(&conn->in, LARGE_BUF);
	s->ended |= got == IO_EOF;
	smtp_run(s);
	srv.smtp_heard |= got == IO_OK && s->state != SMTP_COMMIT;
	/* The wait is for a whole command (RFC 5321 4.5.3.2): one octet now and
	 * then must not hold a connection for days. */
	if (s->commands != commands && s->state != SMTP_BYE)
		conn->deadline = deadline;
	if (conn->deadline <= srv.now)
		smtp_dismiss(s, SAY_LATE);
}

/* Greet.  A refusal closes nothing: the client says QUIT (RFC 5321 3.1).  The
 * configuration of now is the session's to its end, or a SIGHUP between MAIL
 * and RCPT would have one message judged by two. */
static void
smtp_greet(struct smtp *s)
{
	s->conf = srv.conf;
	s->conf->refs++;
	s->c.deadline = srv.now + s->conf->timeout_smtp;
	log_conn(&s->c, "connect peer=%s", s->c.peer_text);
	srv.smtp_heard = true;
	smtp_asked(s);
	enum verdict verdict = play_fault(s, "connect");

	if (verdict == SAY_FAULT && s->state == SMTP_NEW)
		smtp_enter(s, SMTP_DENIED);
	if (verdict == SAY_OK)
		smtp_note(s, "%s ESMTP mailserv", s->conf->hostname);
	smtp_reply(s, verdict == SAY_OK ? SAY_GREETING : verdict);
}

void
smtp_serve(void)
{
	struct conn *client;

	for (struct conn *conn = net_next(KIND_SMTP, NULL); conn != NULL;
	     conn = net_next(KIND_SMTP, conn)) {
		if (!conn->listening)
			smtp_session((struct smtp *)conn);
		while (conn->listening &&
		    (client = net_accept(conn, sizeof(struct smtp), "421 ")) !=
			NULL)
			smtp_greet((struct smtp *)client);
	}
}

/* What the commit made of a message. */
static enum verdict
commit_verdict(struct smtp *s)
{
	const struct msg *msg = s->msg;

	bool full = msg->error == ENOSPC || msg->error == EDQUOT ||
	    msg->error == EFBIG;

	assert(msg->state == MSG_COMMITTED || msg->state == MSG_REFUSED);
	smtp_note(s, "%s", strerror(msg->error));
	if (msg->state == MSG_REFUSED)
		return full ? SAY_FULL : SAY_DISK;
	log_event(PART_SMTP, msg->id,
	    "accepted conn=%lu peer=%s from=<%s> to=%zu size=%zu", s->c.id,
	    s->c.peer_text, msg->sender, s->n_rcpts, msg->size);
	smtp_note(s, "%s is on stable storage", msg->id);
	return SAY_ACCEPTED;
}

/* The last that has come is answered first; on connections of their own, nobody
 * sees it.  They may have been idle in this turn, when the commit was held:
 * net_touch(), or nothing would be sent. */
void
smtp_answer(void)
{
	struct smtp *s;

	while ((s = srv.smtp_waiting) != NULL) {
		srv.smtp_waiting = s->next_waiting;
		smtp_reply(s, commit_verdict(s));
		smtp_forget(s);
		net_touch(&s->c);
		/* What came behind the dot waits already in the buffer. */
		s->c.again = buf_used(&s->c.in) > 0 || s->ended;
		smtp_ask(s);
	}
}

/* A client is gone while its message waits for the commit.  It is kept, as it
 * would be if its 250 had been lost on the way (RFC 1047 2). */
static void
smtp_leave(struct smtp *s)
{
	struct smtp **at = &srv.smtp_waiting;

	while (*at != s)
		at = &(*at)->next_waiting;
	*at = s->next_waiting;
	s->msg->orphan = true; /* queue_commit() drops it */
	s->msg = NULL;
}

/* smtp_leave() comes first: the message is on the list of the commit, and
 * smtp_forget() would drop it there. */
void
smtp_reap(void)
{
	struct conn *conn;

	while ((conn = net_gone(KIND_SMTP)) != NULL) {
		struct smtp *s = (struct smtp *)conn;

		if (!conn->listening) {
			log_conn(conn, "disconnect in %s",
			    states[s->state].name);
			if (s->state == SMTP_COMMIT)
				smtp_leave(s);
			smtp_forget(s);
			s->conf->refs--;
		}
		net_free(conn);
		free(conn);
	}
}

void
smtp_stop(struct conn *client)
{
	smtp_dismiss((struct smtp *)client, SAY_STOP);
	net_touch(client); /* net_settle() looks at no others */
}

/* A handler that forgot its reply, or made two, would set all later answers off
 * by one: the client would take the 250 of NOOP for that of its dot. */
void
smtp_check(void)
{
	struct conn *conn;

	for (size_t at = 0; (conn = net_walk(KIND_SMTP, &at)) != NULL;) {
		const struct smtp *s = (const struct smtp *)conn;

		if (conn->listening || conn->doomed || s->stalled)
			continue;
		assert(s->commands == s->replies + (s->state == SMTP_COMMIT));
		assert((s->msg != NULL) == ((IN(s->state) & TRANSACTION) != 0));
	}
}
