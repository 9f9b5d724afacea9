/*
 * mailserv.h -- everything that has a name in more than one file.
 *
 * What this is
 *	The map of the house, in reading order: limits with their reason,
 *	types, the one state, and, with net.h and dns.h, every public
 *	function under the name of its file, with its contract.
 * Always true
 *	Time is in milliseconds (msec).  Sizes are in octets.  A name that
 *	came from the network is never a path, a format or a log control.
 *	Functions that return bool return true for success.
 *	Who allocates says so, and names the function that frees.
 */
#ifndef MAILSERV_H
#define MAILSERV_H

#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include "dns.h"
#include "draft.h"
#include "net.h"

#define VERSION "0.1"

/* ---- limits -------------------------------------------------------------- */

/* Every limit has a test that goes to it and one past it.  Others stand with
 * POP3 below, in net.h, in dns.h, and at the top of the file that keeps them.
 */
enum {
	SMTP_LINE = 2048,    /* RFC 5321 4.5.3.1.4 asks for 512 and more */
	POP3_LINE = 255,     /* RFC 2449 4, with CRLF */
	LOCAL_MAX = 64,      /* RFC 5321 4.5.3.1.1: local part */
	PATH_MAX_SMTP = 256, /* RFC 5321 4.5.3.1.3, with < and > */
	REPLY_ROOM = 1024,   /* no command is read with less room to answer */
	RECEIVED_MAX = 100,  /* RFC 5321 6.3: Received: lines before it loops */
	ID_LEN = 16,         /* of a queue id: 13 digits of time, 3 of chance */
	USER_NAME_MAX = 64,  /* a local part is no longer */
	RETRY_STEPS = 16,    /* waits in the retry directive */
	ALIAS_DEPTH = 8,     /* an alias of an alias of an alias ... */
	MESSAGES = 16384,    /* chains: 100,000 messages make them six long */
	DESTS = 1024, /* chains: few, for all are walked when one is due */
};

/* ---- configuration ------------------------------------------------------- */

struct user {
	char name[USER_NAME_MAX + 1]; /* lower case; safe as a folder's name */
	char *secret; /* what crypt(3) made, or the password itself */
	bool plain;
};

struct alias {
	char *name, *target; /* a local part; a user or an address */
	unsigned line;       /* of the configuration file */
};

/* relay_domain NAME [FILE] */
struct relay_domain {
	char *name;
	bool listed; /* there is a FILE: local_parts are all there are */
	struct names local_parts;
};

enum fault_action { FAULT_CODE, FAULT_ERR, FAULT_DROP, FAULT_STALL };

/* fault smtp|pop3 VERB ACTION [PERCENT] */
struct fault {
	enum kind kind;
	char verb[16];
	enum fault_action action;
	unsigned code, percent;
};

struct zone; /* see dns.h */

/* What the configuration says; constant once read, but for rrset.turn in its
 * zones.  A session keeps the one it began with: it counts itself in refs, and
 * mailserv.c frees an old configuration when nobody is left. */
struct conf {
	unsigned refs;
	struct conf *older; /* replaced by SIGHUP, perhaps still in use */
	char *file;         /* NULL: the built-in default */
	char *hostname, *data_dir;
	struct addresses {
		union address *v;
		size_t n;
	} listen[N_KINDS], resolvers; /* KIND_RELAY has none */
	struct zone **zones;
	size_t n_zones;
	struct names domains;
	struct relay_domain *relay_domains;
	size_t n_relay_domains;
	struct cidr *relay_from;
	size_t n_relay_from;
	struct user *users; /* sorted by name */
	size_t n_users;
	char *first_user; /* of the file: the default postmaster */
	struct alias *aliases;
	size_t n_aliases;
	char *catch_all_name;
	const struct user *catch_all;
	unsigned smtp_port;
	msec retry[RETRY_STEPS];
	size_t n_retry;
	msec warn_after, expire;
	size_t max_message;
	unsigned max_recipients, max_clients, max_per_client;
	msec timeout_smtp, timeout_pop3, timeout_connect, timeout_relay;
	char *run_as;
	bool plain_ok;
	unsigned time_scale;
	struct fault *faults;
	size_t n_faults;
};

/* A path: its mailbox, or what is wrong with it. */
struct path {
	char mailbox[PATH_MAX_SMTP]; /* without <, > and a source route */
	const char *fault;
	const char *end; /* what follows it in the line; NULL: see fault */
};

/* ---- messages: the spool and the queue ----------------------------------- */

/* The life of a message that is being written; NOTES.md has the table. */
enum msg_state {
	MSG_OPEN,      /* M0, M1: recipients come, content comes */
	MSG_SUBMITTED, /* M2: to be committed, in this turn or soon */
	MSG_COMMITTED, /* M3: on stable storage: may be answered 250 */
	MSG_REFUSED,   /* the disk said no; msg.error is its errno */
};

/* One message on its way in: received by SMTP, or a report of our own. */
struct msg {
	char id[ID_LEN + 1];
	enum msg_state state;
	struct draft content;  /* from spool_open() on */
	struct draft envelope; /* from step 1 of the commit on, or never */
	int error;             /* errno of the first thing that failed, or 0 */
	unsigned epoch;        /* srv.spool.epoch when the file was opened */
	struct buf out;        /* content not yet written */
	bool eightbit;         /* an octet over 127 came (RFC 6152 2) */
	bool unfinished;       /* the last octet so far is not a line's end */
	size_t size, lines;    /* of the content, with LF line ends */
	size_t head;           /* octets of our Return-Path: line, at the top */
	time_t arrived;
	char *sender;          /* reverse-path without < and >; "" is null */
	struct names locals;   /* users whose mailbox gets it */
	struct names remotes;  /* addresses it is to be passed on to */
	struct queued *queued; /* what will be scheduled; queue.c's */
	struct job *report_of; /* it reports these failures; queue.c's */
	bool warning;          /* it reports a delay; queue.c's */
	bool orphan;           /* its client has left in the commit */
	struct msg *next;      /* in the commit */
};

enum rcpt_state {
	RCPT_WAITING, /* still to be passed on */
	RCPT_DONE,    /* the next host took it */
	RCPT_DELAYED, /* the next host said 4yz: to this one, not to us all */
	RCPT_FAILED,  /* it never will: to be reported */
};

/* One recipient of a queued message. */
struct rcpt {
	char *address;
	unsigned number; /* its place in the envelope, from 1 */
	enum rcpt_state state;
	bool noted;     /* the envelope says that it is done */
	unsigned tries; /* that ended in a 4yz of its own */
	time_t next;    /* when it is tried again, for -q; 0: with the rest */
	char *reply;    /* what was said last, from malloc(), or NULL */
	char *host;     /* the last that spoke, from malloc(), or NULL */
};

/* What an envelope file says. */
struct envelope {
	char id[ID_LEN + 1];
	char *sender;
	time_t arrived;
	size_t size, head;
	size_t octets; /* of the content on disk; 0: not told */
	bool eightbit;
	bool warned; /* the sender knows that it is late */
	struct rcpt *rcpts;
	size_t n;
};

/* Recipients of one message that go to one destination: what the schedule
 * moves, what one transaction carries. */
struct job {
	struct queued *q;
	struct dest *dest;
	struct rcpt *rcpts; /* relay.c sends to those RCPT_WAITING */
	size_t n;
	msec due;         /* of its own, after a 4yz; 0: with its destination */
	struct job *next; /* in its destination, by order of arrival */
};

/* One message in queue/: M3 and M4. */
struct queued {
	struct envelope env; /* but for its recipients: they are in jobs */
	msec born;   /* srv.now of its arrival: no clock step changes it */
	size_t jobs; /* that still wait or are under way */
	struct job *unscheduled; /* before schedule() */
	struct queued *next_hash;
};

/* A host that takes a domain's mail, or is said to. */
struct mail_host {
	const char *name; /* in the MX answer, or the domain itself */
	unsigned preference;
	uint64_t draw;           /* equal preferences go in this order */
	struct lookup *a, *aaaa; /* its addresses, where they are asked for */
	union address literal;   /* or the only one */
	const char *left_out;    /* NULL: it is not, so far */
};

/* What a route is made of: one address to try, or why it is not tried. */
struct hop {
	const struct mail_host *host; /* name and preference */
	union address addr;           /* sa_family 0: none is known */
	const char *left_out;         /* NULL: it is tried */
};

enum route_state {
	ROUTE_ASKING,     /* the DNS has not answered yet */
	ROUTE_FOUND,      /* hops holds somebody to try */
	ROUTE_UNKNOWN,    /* temporary: DNS failed, no address yet */
	ROUTE_IMPOSSIBLE, /* permanent: no such domain, null MX, a loop */
};

/* Who takes mail for a domain, in which order (RFC 5321 5.1). */
struct route {
	enum route_state state;
	char domain[HOST_MAX];
	const char *source;      /* what the DNS said, for a student */
	char status[8];          /* enhanced code (RFC 3463 2) when not found */
	char reason[REASON_MAX]; /* and in words */
	struct hop *hops;        /* by preference; those left out among them */
	size_t n;
	struct lookup *mx;       /* NULL for an address literal */
	struct mail_host *hosts; /* by preference, equal ones at random */
	size_t n_hosts;
};

/* How a connection to a destination stands, as queue.c sees it. */
enum relay_state {
	RELAY_BUSY,       /* a look-up or a dialogue is under way */
	RELAY_READY,      /* greeted: relay_send() a message, or relay_quit() */
	RELAY_SENT,       /* every recipient of the job has its state */
	RELAY_LOST,       /* no host, or it was lost: temporary; see reason */
	RELAY_IMPOSSIBLE, /* no host will ever: permanent; see reason */
	RELAY_OVER,       /* said QUIT, or nothing is left of it */
};

struct relay; /* see relay.c */

/* What a relay tells of itself, at any time. */
struct relay_news {
	char status[8]; /* enhanced code (RFC 3463 2), when it failed */
	char reason[REASON_MAX]; /* and in words */
	char host[HOST_MAX];     /* where it is, or was last; "" nowhere */
	unsigned delivered;      /* jobs that it answered RELAY_SENT for */
	bool unreadable;         /* not the host has failed: the content has */
};

/* ---- POP3 ---------------------------------------------------------------- */

/* RFC 1939 3. */
enum pop3_state {
	POP3_AUTHORIZATION, /* USER or PASS is expected */
	POP3_CHECKING,      /* PASS waits for crypt(3), or for its second */
	POP3_TRANSACTION,
	POP3_UPDATE, /* after QUIT: messages are being removed */
	POP3_BYE,
	N_POP3_STATES
};

enum {
	PATH_SIZE = PATH_MAX + 1, /* one more than the kernel takes */
	MESSAGES_MAX = 100000,    /* in one snapshot: some 12 MiB */
	UID_MAX = 70,             /* RFC 1939 7 */
	PIECE = 16384,            /* of content: little for a stack */
	FOLDER_LEN = 4, /* of "new/" or "cur/", before a name in a snapshot */
};

#define UNKNOWN UINT64_MAX /* a size that has not been counted yet */

/* What a session found in its user's folders at login. */
struct maildrop {
	const char *user;
	struct names files; /* oldest first: message 1 is files.v[0] */
	struct mail {
		uint64_t octets; /* on the wire, or UNKNOWN */
		bool deleted;    /* marked by DELE */
	} * v;                   /* beside files */
	size_t left;             /* not marked */
	uint64_t octets;         /* of those, as far as it is known */
	size_t counted;          /* so many from the first are known */
	bool recall; /* the last that was opened had been counted before */
	bool looked; /* for the moved; the session clears it, each command */
};

/* ---- the state ----------------------------------------------------------- */

/* The folders and the commit; spool.c keeps it. */
struct spool {
	int dir, failed, lock; /* descriptors below queue/ */
	bool use_syncfs;       /* it tells of errors here */
	bool one_fs;           /* queue/ and all mailboxes are on one, so far */
	unsigned epoch;        /* grows with every sync that failed */
	uint64_t last_id;      /* ids only grow */
	size_t pieces;         /* messages that have a large buffer */
	struct msg *commit, *commit_tail; /* submitted, oldest first */
};

/* The schedule; queue.c owns it. */
struct queue {
	struct dest *dests[DESTS]; /* hash by domain */
	msec wake;    /* no destination is due earlier; may be too early */
	size_t first; /* bucket at which the next walk over dests begins */
	struct queued *messages[MESSAGES]; /* hash by id */
	struct attempt *attempts;          /* under way */
	size_t n_messages, n_dests, n_attempts;
	size_t late;        /* reports of it begun in this turn */
	bool hosts_changed; /* queue/.hosts is behind */
	bool stopping;      /* no message is given to a host any more */
};

/* All the mutable state there is hangs here: begin with p srv. */
struct server {
	msec now;     /* monotonic; in a turn only net_wait() reads it */
	msec wall;    /* real, since 1970, read at the same time */
	msec lost;    /* not ours: see clock_forgive() */
	msec frozen;  /* not 0: a test holds srv.now at this */
	bool serving; /* not one of the modes that print and go */
	struct conf *conf;
	struct net net;
	struct drafts drafts;
	struct spool spool;
	struct queue queue;
	struct smtp *smtp_waiting;  /* for the commit */
	bool smtp_heard;            /* this turn: who has not submitted */
	msec held;                  /* until when the commit waits; or 0 */
	struct pop3 *pop3_checking; /* for crypt(3), oldest first */
	struct pop3 *pop3_open;     /* who holds a maildrop */
	struct dns dns;             /* see dns.h */
	struct seen *seen;          /* see maildrop.c */
	volatile sig_atomic_t stop, reload, flush; /* signals have come */
};

extern struct server srv;

/* 0: events; 1: and every protocol line (-v).  Tests: -1 for silence. */
extern int log_level;

/* make test-stress sets it: one octet a read and a write.  A constant, not an
 * #ifdef, so that the code is compiled and checked in every build. */
#ifndef STRESS
#define STRESS 0
#endif

/* ---- conf.c: the configuration ------------------------------------------- */

/* Read a configuration file; NULL: the built-in one.  What is wrong goes to
 * complain() with FILE:LINE.  conf_free() it; NULL: no memory, an error. */
struct conf *conf_load(const char *file, struct diag *d);
void conf_free(struct conf *conf);

/* Do two configurations listen on the same addresses, keep their state in the
 * same place, and run as the same user?  Else a restart is needed. */
bool conf_same_outside(struct conf *one, struct conf *two);

/* ---- smtp.c: reception --------------------------------------------------- */

/* Accept clients, obey complete commands, take content in. */
void smtp_serve(void);

/* After queue_commit(): the replies to the final dots that waited for it. */
void smtp_answer(void);

/* Free the sessions that net_settle() closed; their messages go with them. */
void smtp_reap(void);

/* Say 421 to a client: the server stops. */
void smtp_stop(struct conn *client);

/* Invariants of all sessions, between two turns (CHECKS=1, and the suites). */
void smtp_check(void);

/* ---- path.c: the syntax of addresses ------------------------------------- */

/* Read a path from its '<' on (RFC 5321 4.1.2).  Returns what follows its '>',
 * or NULL: see path->fault. */
const char *path_skip(const char *begin, struct path *path);

/* Where a domain or an address literal that begins here ends (RFC 5321
 * 4.1.3); NULL: there is none. */
const char *path_skip_host(const char *at);

/* ---- queue.c: the schedule, attempts, reports ---------------------------- */

/* Read what lies in queue/: every message is due.  After SIGHUP or USR1 (first
 * false): also what has come back from failed/.  False: no memory, or errno. */
bool queue_load(bool first);

/* When the next attempt is due, as srv.now; NEVER. */
msec queue_due(void);

/* Start the attempts that are due, and move on those under way. */
void queue_serve(void);

/* Everything submitted becomes durable, or is refused; what is to be passed on
 * is scheduled. */
void queue_commit(void);

/* The server stops: attempts end, those under way with the message that they
 * are sending, or it would come twice.  srv.queue.n_attempts tells how many. */
void queue_stop(void);

/* Try all destinations now: SIGUSR1. */
void queue_flush(void);

/* Try a destination now, for ETRN (RFC 1985 5); false: not again within a
 * minute, or nobody waits but those with a 4yz of their own. */
bool queue_etrn(const char *domain);

/* ---- report.c: what a report says ---------------------------------------- */

/* Write a report into an open message: on the failed recipients of a job, or,
 * when it is a warning, on those that still wait.  Patient: where the original
 * cannot be read now, the message gets the error, to be written later. */
void report_write(struct msg *m, const struct job *j, bool patient);

/* ---- place.c: where addresses lead --------------------------------------- */

/* Where mail for an address goes. */
enum place {
	PLACE_LOCAL,  /* a mailbox, or an alias of ours */
	PLACE_RELAY,  /* a relay_domain, and a local part that exists there */
	PLACE_REMOTE, /* anywhere else */
	PLACE_NOBODY, /* our domain or a relay_domain, but no such user */
};
enum place place_of(const struct conf *conf, const char *address);

/* The message gets it as well: aliases resolved, nobody twice.  False: no
 * memory. */
bool place_add(const struct conf *conf, struct msg *m, const char *address);

/* ---- spool.c: messages on disk ------------------------------------------- */

/* The folders below data_dir, made 0700; queue/lock taken.  0, or an exit
 * status, its reason logged: 73; 75 another server is named. */
int spool_start(const struct conf *conf);

/*
 * The way in.  spool_begin(): a message from this reverse-path; NULL: no
 * memory.  spool_open(): its file, with Return-Path: at the top; then
 * spool_write(), as LF lines.  Both note the first error in the message, and
 * then do nothing more.  spool_show(): more comes in later turns; who looks
 * into queue/tmp sees it.  spool_submit(): to be committed soon; afterwards
 * msg->state tells.  spool_drop(): the inverse of spool_begin(); what was
 * committed stays, everything else goes.
 */
struct msg *spool_begin(const char *sender);
void spool_open(struct msg *m);
void spool_write(struct msg *m, const char *data, size_t len);
void spool_show(struct msg *m);
void spool_submit(struct msg *m);
void spool_drop(struct msg *m);

/* The commit of everything submitted: write, sync, name, sync. */
void spool_commit(void);

/* The ids of the messages in a folder of the spool, pushed in order.  repair,
 * only at start: remove halves, drafts and spares.  False: memory, errno. */
bool spool_scan(int at, struct names *ids, bool repair);

/* Open a file of the spool, made where there is none or else empty, to write it
 * through a buffer.  NULL: errno. */
FILE *spool_create(int at, const char *name);

/* Read an envelope; spool_forget() it.  False: there is none, or no good
 * one, or no memory (errno); *e is empty. */
bool spool_read(int at, const char *id, struct envelope *e);
void spool_forget(struct envelope *e);

/* Add a line to an envelope ("done 2").  Not synced: what a crash undoes is
 * done again, which RFC 5321 4.1.1.4 allows. */
void spool_append(const char *id, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Open a queued message's content to read it; -1: it is gone. */
int spool_content(const char *id);

/* Nothing is left to do for this message: M5. */
void spool_remove(const char *id);

/* -q: print the queue of a data_dir.  -d: delete these messages from it.  An
 * exit status; both take no lock, and work while a server runs. */
int spool_list(const struct conf *conf);
int spool_delete(const struct conf *conf, char *const *ids);

/* Keep a message for the operator in queue/failed, on stable storage, for
 * these recipients, under a new id[ID_LEN + 1].  False: it could not be. */
bool spool_fail(const struct envelope *e, const struct names *to, char *id);

/* ---- route.c: who takes mail for a domain -------------------------------- */

/* Begin to look for the hosts of a domain, or of an address literal such as
 * "[192.0.2.1]"; NULL: no memory.  route_step(), once a turn, until the state
 * is no longer ROUTE_ASKING.  route_free() at any time. */
struct route *route_begin(const char *domain);
enum route_state route_step(struct route *r);
void route_free(struct route *r);
/* Does a listener hear what is sent to this address and port?  A wildcard
 * hears all of this machine's. */
bool route_listens(const union address *listener, const union address *a);
/* On stdout, every hop and every reason (-r). */
void route_print(const struct route *r);

/* ---- relay.c: the client's side of SMTP ---------------------------------- */

/*
 * One pass over the hosts of a destination.  relay_open(): begin; NULL: no
 * memory.  relay_step(), once a turn, tells how it stands.  On RELAY_READY
 * queue.c gives it a job and the open content with relay_send(), and the job
 * and fd stay the queue's, untouched by it, until RELAY_SENT (or LOST); or it
 * calls relay_quit().  A recipient that is still RCPT_WAITING after RELAY_SENT
 * belongs in the next transaction.  relay_close(): whatever it does, it ends.
 */
struct relay *relay_open(const char *domain);
enum relay_state relay_step(struct relay *r);
void relay_send(struct relay *r, struct job *j, int fd);
void relay_quit(struct relay *r);
void relay_close(struct relay *r);
const struct relay_news *relay_news(const struct relay *r);
/* Free what net_settle() closed. */
void relay_reap(void);

/* ---- maildrop.c: mailboxes on disk --------------------------------------- */

/* Whose mailbox is this local part, without regard to case?  NULL: nobody's. */
const struct user *user_find(const struct conf *conf, const char *name);

/*
 * Delivery, in the steps of the commit.  maildrop_prepare(): the user's
 * folders exist and last; step 1.  maildrop_link(): content that is on stable
 * storage gets its name in new/, or a copy that is as durable does; step 2.
 * maildrop_sync(): so is that name.  maildrop_unlink(): it is taken back.
 * False: errno.
 */
bool maildrop_prepare(const char *user);
bool maildrop_link(const struct msg *m, const char *user);
bool maildrop_sync(const char *user);
void maildrop_unlink(const struct msg *m, const char *user);

/* Open a user's snapshot, every message in new/ and cur/, oldest first; false:
 * errno.  maildrop_free() it. */
bool maildrop_load(struct maildrop *d, const char *user);
void maildrop_free(struct maildrop *d);

/* Of message i, from 0: its path when we last looked, into path[PATH_SIZE]; it
 * open for reading (-1: errno), and its size; its unique-id, from its name,
 * into uid[UID_MAX + 1] (RFC 1939 7). */
const char *maildrop_where(const struct maildrop *d, size_t i, char *path);
int maildrop_open(struct maildrop *d, size_t i, off_t *size);
const char *maildrop_uid(const char *name, char *uid);

/* ENOENT: look where other programs have moved what was there; true: try again
 * in the next turn.  False: this command has looked before, or cannot. */
bool maildrop_look(struct maildrop *d);

/* Count the octets of messages whose names do not tell them, for a while;
 * true: all are known.  Call it again in the next turn. */
bool maildrop_count(struct maildrop *d);

/* Mark a message as deleted, or take the mark back. */
void maildrop_mark(struct maildrop *d, struct mail *e, bool deleted);

/* ---- pop3.c: POP3 -------------------------------------------------------- */

/* Accept clients, obey complete commands, send what there is room for. */
void pop3_serve(void);

/* Free the sessions that net_settle() closed. */
void pop3_reap(void);

/* Say -ERR to a client: the server stops. */
void pop3_stop(struct conn *client);

#endif
