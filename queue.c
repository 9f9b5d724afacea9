/*
 * queue.c -- the schedule: who is tried next, and what became of it.
 *
 * What this is
 *	The messages that wait in queue/, by destination; the attempts that
 *	are under way; reports of what failed for good.
 * Call it in this order
 *	queue_load(); then in every turn queue_serve() and queue_commit().
 * A typical sequence, with break attempt_start, break job_settle in gdb
 *	queue_serve -> start_due -> attempt_start;  turns later
 *	queue_serve -> attempt_step -> attempt_sent -> job_settle
 * Always true
 *	Time-outs and backoff belong to destinations, not to messages: a dead
 *	host costs one attempt at a time, whatever waits for it.
 *	A job is in one place: in its destination's lists, in an attempt, or
 *	in a report that is being committed.
 *	A report is committed before what it reports leaves the queue.
 * What it does not do
 *	Ask the next host whether it took a message before the connection was
 *	lost: it may come twice, but is never lost (RFC 1047 2).  Exercise:
 *	measure the window.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>
#include "mailserv.h"

enum {
	ATTEMPTS_MAX = 1000, /* so that dead hosts do not delay live ones */
	DEST_RELAYS = 20,    /* at once to one destination that takes mail */
	JOBS_A_RELAY = 25,   /* so many drain in order, over one connection */
	REPORTS_A_TURN = 50, /* of an impossible destination: others wait */
	LATE_A_TURN = 500,   /* reports that mail is late, or too late */
};

/* Where messages for one domain go: it, not they, is due, fails and waits. */
struct dest {
	struct job *first, *last; /* due when it is, by order of arrival */
	struct job *delayed, *delayed_last; /* due on their own, in order */
	size_t backlog;                     /* jobs from first to last */
	size_t jobs;     /* in the lists, in attempts, in reports: it lives */
	msec backoff;    /* not tried before; 0: at once */
	msec etrn;       /* ETRN may ask for it from then on */
	msec resume;     /* backoff, while an attempt of ETRN's fails; or 0 */
	unsigned fails;  /* of the host, in a row */
	time_t retry;    /* the end of backoff by the real clock, for -q */
	size_t attempts; /* under way */
	size_t useful;   /* attempts at once: 1 until one was greeted */
	bool crowded;    /* it has refused one of several: no more, then */
	char *reason;    /* the last failure, or NULL */
	struct dest *next_hash;
	char domain[]; /* in lower case */
};

/* One connection's worth of work for a destination. */
struct attempt {
	struct relay *relay;
	struct dest *dest;
	struct job *job; /* under way, or NULL */
	int fd;          /* its content, or -1 */
	struct attempt *next;
};

/* ---- the schedule: destinations ------------------------------------------ */

/*
 * A message for a and b at lab, and c at edu; another for d at lab, who was
 * told 450:
 *
 *	dest lab   first ---> [1: a b] <--- last
 *	           delayed -> [2: d]   <--- delayed_last
 *	dest edu   first ---> [1: c]   <--- last
 *
 * Each [ ] is a job.  Message 1 leaves queue/ when both of its jobs are over.
 * The two ends of an empty list are left as they were, and not looked at.
 */

/* FNV-1a over a name, whatever its case.  There is no salt as in net.c: who may
 * send through us could choose names that share a chain.  Exercise: do it, with
 * 10,000 names, and measure. */
static uint32_t
hash_name(const char *name)
{
	uint32_t hash = 2166136261u;

	for (; *name != '\0'; name++)
		hash = (hash ^ ((unsigned char)*name | 0x20u)) * 16777619u;
	return hash;
}

/* Where a destination's, or a message's, chain begins. */
static struct dest **
dest_bucket(const char *domain)
{
	return &srv.queue.dests[hash_name(domain) % DESTS];
}

static struct queued **
message_bucket(const char *id)
{
	return &srv.queue.messages[hash_name(id) % MESSAGES];
}

/* When should an attempt begin?  NEVER while one is under way that has not
 * shown that the host is alive, or as many as are useful.  Nor while those
 * under way can drain what waits, JOBS_A_RELAY each: so a few messages stay on
 * one connection, and arrive in order.  `delayed` alone never asks for more. */
static msec
dest_due(const struct dest *d)
{
	if (d->attempts > 0 &&
	    (d->attempts >= d->useful ||
		d->backlog <= d->attempts * JOBS_A_RELAY))
		return NEVER;
	if (d->first != NULL)
		return d->backoff;
	if (d->delayed == NULL)
		return NEVER;
	return d->delayed->due > d->backoff ? d->delayed->due : d->backoff;
}

/* Something has changed: wake in time for it.  Or forget the destination, for
 * it lives while a job or an attempt is its own, and while ETRN may not ask for
 * it: the caller may not look at it again.  When ETRN's minute is over, nobody
 * is woken: it goes when start_due() comes by. */
static void
dest_update(struct dest *d)
{
	msec due = dest_due(d);

	if (due < srv.queue.wake)
		srv.queue.wake = due;
	if (d->jobs > 0 || d->attempts > 0 || d->etrn > srv.now)
		return;
	struct dest **at = dest_bucket(d->domain);

	while (*at != d)
		at = &(*at)->next_hash;
	*at = d->next_hash;
	srv.queue.n_dests--;
	srv.queue.hosts_changed |= d->fails > 0;
	free(d->reason);
	free(d);
}

static struct dest *
dest_find(const char *domain)
{
	struct dest *d = *dest_bucket(domain);

	while (d != NULL && strcasecmp(d->domain, domain) != 0)
		d = d->next_hash;
	return d;
}

/* The destination of a domain, made where there is none; NULL: no memory. */
static struct dest *
dest_get(const char *domain)
{
	struct dest *d = dest_find(domain);

	if (d != NULL)
		return d;
	struct dest **bucket = dest_bucket(domain);
	size_t len = strlen(domain);

	d = calloc(1, sizeof(*d) + len + 1);
	if (d == NULL)
		return NULL;
	d->useful = 1;
	for (size_t i = 0; i < len; i++)
		d->domain[i] = (char)tolower((unsigned char)domain[i]);
	d->next_hash = *bucket;
	*bucket = d;
	srv.queue.n_dests++;
	return d;
}

/* Back to the front of the line, where it came from, or to its end. */
static void
job_enqueue(struct job *j, bool front)
{
	struct dest *d = j->dest;
	bool first = front || d->first == NULL;
	struct job **at = first ? &d->first : &d->last->next;

	j->due = 0;
	j->next = *at;
	*at = j;
	if (j->next == NULL)
		d->last = j;
	d->backlog++;
}

/* Into the list of those that wait for a time of their own.  Waits are equal
 * for most, so that a new one nearly always belongs at the end. */
static void
job_delay(struct job *j, msec due)
{
	struct dest *d = j->dest;
	struct job **at = &d->delayed;

	j->due = due;
	if (*at != NULL && d->delayed_last->due <= due)
		at = &d->delayed_last->next;
	while (*at != NULL && (*at)->due <= due)
		at = &(*at)->next;
	j->next = *at;
	*at = j;
	if (j->next == NULL)
		d->delayed_last = j;
}

/* The next job of a destination: one whose own wait is over, or the oldest.  In
 * this order, or a line that grows as fast as it is drained would hold up for
 * ever who was told to come again.  next = 0: its next 4yz counts as a try. */
static struct job *
job_take(struct dest *d)
{
	struct job *j = d->delayed;

	if (j != NULL && j->due <= srv.now) {
		d->delayed = j->next;
		for (size_t i = 0; i < j->n; i++)
			if (j->rcpts[i].state == RCPT_DELAYED) {
				j->rcpts[i].state = RCPT_WAITING;
				j->rcpts[i].next = 0;
			}
		return j;
	}
	j = d->first;
	if (j == NULL)
		return NULL;
	d->first = j->next;
	d->backlog--;
	return j;
}

/* A duration of the queue: in a laboratory a second counts as many.  Rounded
 * up, because after a wait of nothing a job is due again in the same turn. */
static msec
scaled(msec duration)
{
	return (duration + srv.conf->time_scale - 1) / srv.conf->time_scale;
}

/* How long to wait after this many failures in a row (RFC 5321 4.5.4.1). */
static msec
retry_wait(unsigned fails)
{
	size_t step = fails > 0 ? fails - 1 : 0;

	if (step >= srv.conf->n_retry)
		step = srv.conf->n_retry - 1;
	return scaled(srv.conf->retry[step]);
}

/* ---- messages in the queue ----------------------------------------------- */

/* The caller owes its destination a dest_update(): this may be its last. */
static void
job_free(struct job *j)
{
	for (size_t i = 0; i < j->n; i++) {
		free(j->rcpts[i].address);
		free(j->rcpts[i].reply);
		free(j->rcpts[i].host);
	}
	free(j->rcpts);
	j->dest->jobs--;
	free(j);
}

/* The inverse of queued_from(): with the jobs that are still its own. */
static void
queued_free(struct queued *q)
{
	while (q->unscheduled != NULL) {
		struct job *j = q->unscheduled;

		struct dest *d = j->dest;

		q->unscheduled = j->next;
		job_free(j);
		dest_update(d);
	}
	free(q->env.sender);
	free(q);
}

/* Give a message one more recipient, in the job of its destination.  False: no
 * memory; queued_free() the rest.  A wait does not outlive a restart: its end
 * was told by the real clock, which may be wrong at a start. */
static bool
queued_add(struct queued *q, const struct rcpt *from)
{
	const char *at = strrchr(from->address, '@');
	struct dest *d = dest_get(at != NULL ? at + 1 : "");
	struct job *j = q->unscheduled;

	while (j != NULL && j->dest != d)
		j = j->next;
	if (j == NULL) {
		j = d != NULL ? calloc(1, sizeof(*j)) : NULL;
		if (j == NULL)
			return false;
		*j = (struct job){ .q = q, .dest = d, .next = q->unscheduled };
		q->unscheduled = j;
		d->jobs++;
	}
	struct rcpt *rcpts = realloc(j->rcpts, (j->n + 1) * sizeof(*rcpts));

	if (rcpts == NULL)
		return false;
	j->rcpts = rcpts;
	rcpts[j->n] = *from;
	rcpts[j->n].reply = NULL;
	rcpts[j->n].next = 0;
	rcpts[j->n].address = strdup(from->address);
	return rcpts[j->n++].address != NULL;
}

/* From now on it is tried.  Cannot fail: all memory has been taken. */
static void
schedule(struct queued *q)
{
	struct queued **bucket = message_bucket(q->env.id);

	q->next_hash = *bucket;
	*bucket = q;
	srv.queue.n_messages++;
	for (struct job *j; (j = q->unscheduled) != NULL;) {
		q->unscheduled = j->next;
		q->jobs++;
		job_enqueue(j, false);
		dest_update(j->dest);
	}
}

/* The queue's own record of an envelope, born now; NULL: no memory.  Recipients
 * that are done are left out: nobody may be left. */
static struct queued *
queued_from(const struct envelope *e)
{
	struct queued *q = calloc(1, sizeof(*q));

	if (q == NULL)
		return NULL;
	*q = (struct queued){ .env = *e, .born = srv.now };
	q->env.rcpts = NULL;
	q->env.n = 0;
	q->env.sender = strdup(e->sender);
	bool ok = q->env.sender != NULL;

	for (size_t i = 0; i < e->n && ok; i++)
		if (e->rcpts[i].state != RCPT_DONE)
			ok = queued_add(q, &e->rcpts[i]);
	if (ok)
		return q;
	queued_free(q);
	return NULL;
}

/* The same for a message that is about to be committed: afterwards there is
 * no place for "no memory". */
static struct queued *
queued_from_msg(const struct msg *m)
{
	struct envelope e = { .sender = m->sender,
		.arrived = m->arrived,
		.size = m->size + m->lines, /* with CRLF (RFC 1870 6) */
		.head = m->head,
		.octets = m->size,
		.eightbit = m->eightbit,
		.n = m->remotes.n };

	snprintf(e.id, sizeof(e.id), "%s", m->id);
	e.rcpts = calloc(e.n, sizeof(*e.rcpts));
	if (e.rcpts == NULL)
		return NULL;
	for (size_t i = 0; i < e.n; i++)
		e.rcpts[i] = (struct rcpt){ .address = m->remotes.v[i],
			.number = (unsigned)i + 1 };
	struct queued *q = queued_from(&e);

	free(e.rcpts);
	return q;
}

static bool
is_loaded(const char *id)
{
	const struct queued *q = *message_bucket(id);

	while (q != NULL && strcmp(q->env.id, id) != 0)
		q = q->next_hash;
	return q != NULL;
}

/* How old is a message that lies in queue/?  Of its age by the real clock only
 * so much is believed that the last wait of `retry` is left, the one that
 * repeats: a clock that is wrong at start, or a network that is not there yet,
 * must not bounce the whole queue at once. */
static msec
believed_age(time_t arrived)
{
	const struct conf *conf = srv.conf;
	msec age = srv.wall - (msec)arrived * 1000;
	msec most = scaled(conf->expire - conf->retry[conf->n_retry - 1]);

	age = age < most ? age : most;
	return age > 0 ? age : 0;
}

/* Schedule one message that lies in queue/. */
static bool
load_one(const char *id)
{
	struct envelope e;

	if (strtoull(id, NULL, 16) > srv.spool.last_id)
		srv.spool.last_id = strtoull(id, NULL, 16);
	if (is_loaded(id))
		return true;
	errno = 0;
	if (!spool_read(srv.spool.dir, id, &e)) {
		if (errno == ENOMEM)
			return false; /* it may be good: nobody knows */
		log_event(PART_QUEUE, id,
		    "left alone until SIGHUP or SIGUSR1: %s",
		    errno != 0 ? strerror(errno) : "no good envelope");
		return true;
	}
	struct queued *q = queued_from(&e);

	spool_forget(&e);
	if (q == NULL)
		return false;
	q->born -= believed_age(q->env.arrived);
	/* A warning says until when we try (put_status()): that is over. */
	q->env.warned |= srv.wall - (msec)q->env.arrived * 1000 >=
	    scaled(srv.conf->expire);
	if (q->unscheduled == NULL) { /* the crash came right before M5 */
		spool_remove(id);
		queued_free(q);
	} else
		schedule(q);
	return true;
}

bool
queue_load(bool first)
{
	struct names ids = { .exact = true };
	bool ok = spool_scan(srv.spool.dir, &ids, first);

	for (size_t i = 0; i < ids.n && ok; i++)
		ok = load_one(ids.v[i]);
	names_free(&ids);
	log_event(PART_QUEUE, "-", "loaded messages=%zu destinations=%zu",
	    srv.queue.n_messages, srv.queue.n_dests);
	return ok;
}

/* ---- reports, and the operator ------------------------------------------- */

/*
 * A job with failures is in none of its destination's lists until it has gone
 * one of these ways; the destination lives, because it still counts the job.
 *
 *	job_settle --> job_report --> report_submit
 *	    ^              |                :  at the end of the turn
 *	    |  nobody to   |          queue_commit --> committed
 *	    |  tell, or no |                               |
 *	    |  memory      v                               |
 *	    +-------- report_done <------------------------+
 *
 * report_done() leaves nobody failed: they are done, or else delayed.
 */
static void job_settle(struct job *j);

/* Neither delivered nor reported: the operator's (RFC 5321 6.1: no report of
 * a report).  True when it lies in queue/failed; the log says as what. */
static bool
to_operator(struct job *j)
{
	struct names to = { .exact = true };
	char id[ID_LEN + 1];
	bool ok = true;

	for (size_t i = 0; i < j->n && ok; i++)
		if (j->rcpts[i].state == RCPT_FAILED)
			ok = names_push(&to, j->rcpts[i].address);
	ok = ok && spool_fail(&j->q->env, &to, id);
	log_event(PART_QUEUE, j->q->env.id,
	    "%s queue/failed recipients=%zu failed=%s",
	    ok ? "moved to" : "could not be moved to", to.n, ok ? id : "-");
	names_free(&to);
	return ok;
}

static bool
is_expired(const struct queued *q)
{
	return srv.now - q->born >= scaled(srv.conf->expire);
}

/* The failure has been told.  Or it could not be, for the disk refused the
 * report: then it has not happened yet, and the recipients are tried again
 * when their time comes; if that was too often, they are the operator's. */
static void
report_done(struct job *j, bool told)
{
	if (!told && is_expired(j->q))
		told = to_operator(j);
	for (size_t i = 0; i < j->n; i++) {
		struct rcpt *r = &j->rcpts[i];

		if (r->state != RCPT_FAILED)
			continue;
		r->state = told ? RCPT_DONE : RCPT_DELAYED;
		r->tries += !told;
	}
	job_settle(j);
}

/* Begin a report to the sender, mail like any other; queue_commit() will end
 * it.  False, errno: ENOENT where there is nobody to tell, else ENOMEM.  The
 * message keeps no warning's job, which is on warn_if_late()'s stack. */
static bool
report_submit(struct job *j, bool warning)
{
	const char *sender = j->q->env.sender;
	struct msg *m = sender[0] != '\0' ? spool_begin("") : NULL;

	if (m == NULL || !place_add(srv.conf, m, sender) ||
	    m->locals.n + m->remotes.n == 0) {
		bool lost = m != NULL ? m->error != 0 : sender[0] != '\0';

		if (m != NULL)
			spool_drop(m);
		errno = lost ? ENOMEM : ENOENT;
		return false;
	}
	m->warning = warning;
	m->report_of = warning ? NULL : j;
	spool_open(m);
	report_write(m, j, !warning && !is_expired(j->q));
	log_event(PART_QUEUE, j->q->env.id, "%s=%s to=<%s>",
	    warning ? "warning" : "report", m->id, sender);
	spool_submit(m);
	return true;
}

/* Report the recipients of a job that have failed; nobody is told of what the
 * operator has deleted (-d). */
static void
job_report(struct job *j)
{
	int fd = spool_content(j->q->env.id);

	if (fd < 0 && errno == ENOENT)
		report_done(j, true);
	else if (!report_submit(j, false))
		report_done(j, errno == ENOENT && to_operator(j));
	if (fd >= 0)
		close(fd);
}

/* Tell the sender, once, that a message has become late: of all who still
 * wait for it, wherever; they are in several jobs, and in one place only in the
 * envelope.  Noted first: of two warnings and none, none is the
 * lesser evil.  When too many are late at once, some wait for their next try,
 * because a day's backlog must not keep the turn. */
static void
warn_if_late(struct queued *q)
{
	struct envelope e;
	msec after = scaled(srv.conf->warn_after);

	if (after == 0 || srv.now - q->born < after || q->env.warned ||
	    q->env.sender[0] == '\0' || srv.queue.late >= LATE_A_TURN ||
	    !spool_read(srv.spool.dir, q->env.id, &e))
		return;
	q->env.warned = true;
	spool_append(q->env.id, "warned");
	srv.queue.late++;
	for (size_t i = 0; i < e.n; i++) {
		const char *at = strrchr(e.rcpts[i].address, '@');
		const struct dest *d = dest_find(at != NULL ? at + 1 : "");

		if (e.rcpts[i].reply == NULL && d != NULL && d->reason != NULL)
			e.rcpts[i].reply = strdup(d->reason);
	}
	report_submit(&(struct job){ .q = q, .rcpts = e.rcpts, .n = e.n },
	    true);
	spool_forget(&e);
}

/* ---- outcomes ------------------------------------------------------------ */

/* Write down who is done, so that a restart does not begin again with them;
 * not where all are, for then the envelope goes. */
static void
note_done(struct job *j)
{
	for (size_t i = 0; i < j->n; i++) {
		struct rcpt *r = &j->rcpts[i];

		if (r->state != RCPT_DONE || r->noted)
			continue;
		spool_append(j->q->env.id, "done %u", r->number);
		r->noted = true;
	}
}

/* Nothing waits in this job any more.  The last job of a message ends it:
 * M5. */
static void
job_over(struct job *j)
{
	struct queued *q = j->q;

	job_free(j);
	if (--q->jobs > 0)
		return;
	spool_remove(q->env.id);
	log_event(PART_QUEUE, q->env.id, "done");
	struct queued **at = message_bucket(q->env.id);

	while (*at != q)
		at = &(*at)->next_hash;
	*at = q->next_hash;
	srv.queue.n_messages--;
	queued_free(q);
}

/* Where does a job go that no attempt holds any more?  Failed recipients are
 * reported first, together; then it waits, with its destination or, where
 * the host delayed them one by one, for their own time: the longest, because a
 * job is in one list.  While others of it wait in the line, relay.c passes over
 * the delayed. */
static void
job_settle(struct job *j)
{
	struct dest *d = j->dest;
	unsigned tries = 0;
	size_t in[RCPT_FAILED + 1] = { 0 };

	for (size_t i = 0; i < j->n; i++) {
		in[j->rcpts[i].state]++;
		if (j->rcpts[i].tries > tries)
			tries = j->rcpts[i].tries;
	}
	if (in[RCPT_DONE] < j->n || j->q->jobs > 1)
		note_done(j);
	if (in[RCPT_FAILED] > 0) {
		job_report(j);
		return;
	}
	if (in[RCPT_DELAYED] > 0)
		warn_if_late(j->q);
	if (in[RCPT_WAITING] > 0)
		job_enqueue(j, true);
	else if (in[RCPT_DELAYED] > 0)
		job_delay(j, srv.now + retry_wait(tries));
	else
		job_over(j);
	dest_update(d);
}

/* Replace what was last said of somebody; without memory the old stays. */
static void
set_text(char **text, const char *said)
{
	char *copy = strdup(said);

	if (copy == NULL)
		return;
	free(*text);
	*text = copy;
}

/* Give up on all recipients of a job that are not done. */
static void
job_give_up(struct job *j, const char *reason)
{
	for (size_t i = 0; i < j->n; i++) {
		struct rcpt *r = &j->rcpts[i];

		if (r->state == RCPT_DONE)
			continue;
		r->state = RCPT_FAILED;
		set_text(&r->reply, reason);
		log_event(PART_QUEUE, j->q->env.id, "failed to=<%s>: %s",
		    r->address, reason);
	}
	job_settle(j);
}

/* The host said 4yz to these recipients: note it, and when they are next. */
static void
note_delays(struct job *j)
{
	bool expired = is_expired(j->q);

	for (size_t i = 0; i < j->n; i++) {
		struct rcpt *r = &j->rcpts[i];

		if (r->state != RCPT_DELAYED || r->next != 0)
			continue; /* or it was counted: a job of many parts */
		r->tries++;
		r->next = (time_t)((srv.wall + retry_wait(r->tries)) / 1000);
		if (expired)
			r->state = RCPT_FAILED;
		else
			spool_append(j->q->env.id, "try %u %u %lld %s",
			    r->number, r->tries, (long long)r->next,
			    r->reply != NULL ? r->reply : "");
	}
}

/* Move the jobs that have waited too long from a list to the end of another,
 * and return the new end; warn of those that will have.  A day's backlog for a
 * dead host must not keep the turn, nor want more descriptors than there are:
 * the rest waits until the host fails again, and may even be delivered.
 * (Exercise: a turn later would do.) */
static struct job **
take_expired(struct job **at, struct job **end)
{
	while (*at != NULL) {
		struct job *j = *at;

		if (!is_expired(j->q) || srv.queue.late >= LATE_A_TURN) {
			warn_if_late(j->q);
			at = &j->next;
			continue;
		}
		srv.queue.late++;
		*at = j->next;
		j->next = NULL;
		*end = j;
		end = &j->next;
	}
	return end;
}

/* Give up on what has waited too long, whatever it waited for.  Only when a try
 * has just failed: nothing is returned that the host would take by now. */
static void
dest_expire(struct dest *d)
{
	char text[REASON_MAX + 64];
	struct job *expired = NULL;

	take_expired(&d->delayed, take_expired(&d->first, &expired));
	d->backlog = 0;
	for (struct job *j = d->first; j != NULL; j = j->next, d->backlog++)
		d->last = j;
	for (struct job *j = d->delayed; j != NULL; j = j->next)
		d->delayed_last = j;
	snprintf(text, sizeof(text), "4.4.7 expired; last: %s",
	    d->reason != NULL ? d->reason : "unknown");
	d->jobs++; /* keeps d while its last job may go */
	for (struct job *j = expired, *next; j != NULL; j = next) {
		next = j->next;
		job_give_up(j, text);
	}
	d->jobs--;
}

/* The host, or the way to it, has failed: everything for it waits. */
static void
dest_failed(struct dest *d, const char *reason)
{
	set_text(&d->reason, reason);
	for (char *at = d->reason; at != NULL && *at != '\0'; at++)
		if (*at < ' ' || *at > '~')
			*at = '?'; /* queue/.hosts is lines of text */
	d->fails++;
	d->backoff = srv.now + retry_wait(d->fails);
	d->retry = (time_t)((srv.wall + retry_wait(d->fails)) / 1000);
	srv.queue.hosts_changed = true;
	log_event(PART_QUEUE, "-",
	    "deferred domain=%s tries=%u waiting=%zu next=%llds: %s", d->domain,
	    d->fails, d->backlog, (long long)(retry_wait(d->fails) / SECOND),
	    reason);
	dest_expire(d);
}

/* The host takes mail: nothing for it needs to wait.  A greeting alone shows
 * less: who then hangs up would be tried every minute, for five days. */
static void
dest_worked(struct dest *d)
{
	if (d->fails == 0)
		return;
	log_event(PART_QUEUE, "-",
	    "reached domain=%s after tries=%u waiting=%zu", d->domain, d->fails,
	    d->backlog);
	d->fails = 0;
	d->backoff = 0;
	free(d->reason);
	d->reason = NULL;
	srv.queue.hosts_changed = true;
}

/* ---- attempts ------------------------------------------------------------ */

/* Begin an attempt for a destination that is due.  Without memory it waits, as
 * if the host had failed, or it would be due again in every turn. */
static void
attempt_start(struct dest *d)
{
	struct attempt *a = calloc(1, sizeof(*a));
	struct relay *relay = a != NULL ? relay_open(d->domain) : NULL;

	if (relay == NULL) {
		free(a);
		dest_failed(d, "out of memory");
		dest_update(d);
		return;
	}
	*a = (struct attempt){ .relay = relay,
		.dest = d,
		.fd = -1,
		.next = srv.queue.attempts };
	srv.queue.attempts = a;
	srv.queue.n_attempts++;
	d->attempts++;
	dest_update(d);
}

/* Take the job out of an attempt's hands. */
static struct job *
attempt_job(struct attempt *a)
{
	struct job *j = a->job;

	a->job = NULL;
	if (a->fd >= 0)
		close(a->fd);
	a->fd = -1;
	return j;
}

/* The attempt is finished.  It is freed, and perhaps its destination, too.  Was
 * it the last, then the next one probes again. */
static void
attempt_end(struct attempt *a)
{
	struct dest *d = a->dest;
	struct attempt **at = &srv.queue.attempts;

	while (*at != a)
		at = &(*at)->next;
	*at = a->next;
	srv.queue.n_attempts--;
	relay_close(a->relay);
	free(a);
	d->resume = 0;
	if (--d->attempts == 0) {
		d->useful = 1;
		d->crowded = false;
	}
	dest_update(d);
}

/* The content of a job, whole; -1: errno.  One that a repair of the disk has
 * cut short would be sent as if it ended there. */
static int
open_content(const struct job *j)
{
	struct stat st;
	int fd = spool_content(j->q->env.id);

	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
	    (j->q->env.octets == 0 || (size_t)st.st_size == j->q->env.octets))
		return fd;
	if (fd >= 0) {
		close(fd);
		errno = EBADMSG;
	}
	return -1;
}

/* The content cannot be read.  That is no fault of the host, and must not stop
 * others: this message waits for a time of its own. */
static void
job_unreadable(struct job *j, const char *why)
{
	char text[REASON_MAX];

	snprintf(text, sizeof(text), "4.3.0 content: %s", why);
	log_event(PART_QUEUE, j->q->env.id, "deferred: %s", text);
	for (size_t i = 0; i < j->n; i++)
		if (j->rcpts[i].state == RCPT_WAITING) {
			j->rcpts[i].state = RCPT_DELAYED;
			set_text(&j->rcpts[i].reply, text);
		}
	note_delays(j);
	job_settle(j);
}

/* The host waits: give it the next message, or let it go.  One that is deleted,
 * or cannot be read, makes way for the next; but where there is no descriptor
 * for this one, there is none for the next, either. */
static void
attempt_send(struct attempt *a)
{
	struct job *j = NULL;

	if (!a->dest->crowded)
		a->dest->useful = DEST_RELAYS;
	while (!srv.queue.stopping && (j = job_take(a->dest)) != NULL) {
		a->fd = open_content(j);
		if (a->fd >= 0 || errno == EMFILE || errno == ENFILE)
			break;
		if (errno == ENOENT)
			job_give_up(j, "the operator has deleted it");
		else
			job_unreadable(j, strerror(errno));
	}
	if (j != NULL && a->fd < 0) {
		const char *why = strerror(errno);

		job_enqueue(j, true); /* before all that wait are looked at */
		dest_failed(a->dest, why);
		j = NULL;
	}
	a->job = j;
	if (j != NULL)
		relay_send(a->relay, j, a->fd);
	else
		relay_quit(a->relay);
	dest_update(a->dest);
}

/* The host has said of every recipient what becomes of it. */
static void
attempt_sent(struct attempt *a)
{
	struct job *j = attempt_job(a);

	dest_worked(a->dest);
	note_delays(j);
	job_settle(j);
}

/*
 * No host, or it was lost.  What that tells of the destination:
 *
 *	our content failed         nothing
 *	others are connected       so many are welcome: no wait
 *	it took a message before   it had enough of this connection: no wait
 *	ETRN asked for this        nothing: no stranger may lengthen the wait
 *	else                       it is dead, or wants nothing: dest_failed()
 *
 * The job goes back first, so that dest_failed() may find it expired.
 */
static void
attempt_lost(struct attempt *a)
{
	struct dest *d = a->dest;
	struct job *j = attempt_job(a);
	const struct relay_news *news = relay_news(a->relay);
	char reason[REASON_MAX + 16]; /* for a report: its code in front */

	snprintf(reason, sizeof(reason), "%s %s", news->status, news->reason);
	for (size_t i = 0; j != NULL && i < j->n; i++)
		if (j->rcpts[i].state != RCPT_DONE) {
			j->rcpts[i].state = RCPT_WAITING;
			j->rcpts[i].next = 0; /* else its next 4yz is no try */
		}
	if (j != NULL && news->unreadable)
		job_unreadable(j, news->reason);
	else if (j != NULL)
		job_enqueue(j, true);
	if (news->unreadable) {
		/* the host is as it was */
	} else if (d->attempts > 1) {
		d->useful = d->attempts - 1;
		d->crowded = true;
	} else if (news->delivered == 0 && d->resume != 0)
		d->backoff = d->resume;
	else if (news->delivered == 0)
		dest_failed(d, reason);
	attempt_end(a);
}

/* No host ever will: every message for it fails, some in each turn. */
static void
attempt_impossible(struct attempt *a)
{
	struct dest *d = a->dest;
	const struct relay_news *news = relay_news(a->relay);
	char reason[REASON_MAX + 16];

	snprintf(reason, sizeof(reason), "%s %s", news->status, news->reason);
	for (int i = 0; i < REPORTS_A_TURN; i++) {
		struct job *j = job_take(d);

		if (j == NULL) {
			attempt_end(a);
			return;
		}
		job_give_up(j, reason);
	}
}

/* See how one attempt stands, and do what is next. */
static void
attempt_step(struct attempt *a)
{
	static void (*const next[])(struct attempt *) = {
		[RELAY_READY] = attempt_send,
		[RELAY_SENT] = attempt_sent,
		[RELAY_LOST] = attempt_lost,
		[RELAY_IMPOSSIBLE] = attempt_impossible,
		[RELAY_OVER] = attempt_end,
	};
	enum relay_state state = relay_step(a->relay);

	if (state != RELAY_BUSY)
		next[state](a);
}

/* ---- the turn ------------------------------------------------------------ */

msec
queue_due(void)
{
	/* With no attempt to spare, the end of one is what wakes us. */
	if (srv.queue.stopping || srv.queue.n_attempts >= ATTEMPTS_MAX)
		return NEVER;
	return srv.queue.wake;
}

/* Start an attempt for every destination that is due, and find the next due
 * time.  A walk over all of them, but only when one is due: a heap would save
 * it, and cost sixty lines.  It begins where the last one had to stop, or the
 * dead ones in the first chains would take every place that is free again. */
static void
start_due(void)
{
	struct queue *queue = &srv.queue;
	struct dest *next;

	queue->wake = NEVER;
	for (size_t i = 0; i < DESTS; i++) {
		struct dest *d = queue->dests[(queue->first + i) % DESTS];

		for (; d != NULL; d = next) {
			next = d->next_hash;
			if (dest_due(d) > srv.now)
				dest_update(d);
			else if (queue->n_attempts < ATTEMPTS_MAX)
				attempt_start(d);
		}
		if (queue->n_attempts >= ATTEMPTS_MAX) {
			queue->first = (queue->first + i) % DESTS;
			queue->wake = srv.now;
			return;
		}
	}
}

/* queue/.hosts, for -q: who fails, how often, until when and why.  Replaced by
 * rename and not synced, for nothing is lost with it.  Where the disk is full,
 * the old one stays until something changes: it is not asked every turn. */
static void
write_hosts(void)
{
	FILE *f = spool_create(srv.spool.dir, ".hosts.new");

	srv.queue.hosts_changed = false;
	if (f == NULL)
		return;
	for (size_t i = 0; i < DESTS; i++)
		for (const struct dest *d = srv.queue.dests[i]; d != NULL;
		     d = d->next_hash)
			if (d->fails > 0)
				fprintf(f, "%s %u %lld %s\n", d->domain,
				    d->fails, (long long)d->retry,
				    d->reason != NULL ? d->reason : "");
	bool ok = fflush(f) == 0 && !ferror(f);

	if (fclose(f) == 0 && ok)
		renameat(srv.spool.dir, ".hosts.new", srv.spool.dir, ".hosts");
}

void
queue_serve(void)
{
	struct queue *queue = &srv.queue;

	if (queue_due() <= srv.now)
		start_due();
	for (struct attempt *a = queue->attempts, *next; a != NULL; a = next) {
		next = a->next;
		attempt_step(a); /* may end it */
	}
	if (queue->hosts_changed)
		write_hosts();
}

/* What became of one message of the commit; reports and orphans are dropped. */
static void
committed(struct msg *m)
{
	bool ok = m->state == MSG_COMMITTED;
	struct job *j = m->report_of;

	if (ok && m->queued != NULL)
		schedule(m->queued);
	else if (m->queued != NULL)
		queued_free(m->queued);
	m->queued = NULL;
	if (j == NULL && !m->warning && !m->orphan)
		return; /* smtp_answer() tells the client, and drops it */
	spool_drop(m);
	if (j != NULL)
		report_done(j, ok);
}

void
queue_commit(void)
{
	struct msg *list = srv.spool.commit, *next;

	srv.queue.late = 0;
	for (struct msg *m = list; m != NULL; m = m->next) {
		if (m->error != 0 || m->remotes.n == 0)
			continue;
		m->queued = queued_from_msg(m);
		if (m->queued == NULL)
			m->error = ENOMEM;
	}
	if (list != NULL)
		spool_commit();
	for (struct msg *m = list; m != NULL; m = next) {
		next = m->next;
		committed(m);
	}
	if (srv.spool.commit != NULL)
		srv.net.wake = 0; /* for a warning that was made just now */
}

void
queue_stop(void)
{
	struct attempt *next;

	srv.queue.stopping = true;
	for (struct attempt *a = srv.queue.attempts; a != NULL; a = next) {
		next = a->next;
		if (a->job == NULL)
			attempt_end(a);
	}
}

/* `fails` stays: a host that is still dead gets the wait that was next. */
void
queue_flush(void)
{
	struct dest *next;

	log_event(PART_QUEUE, "-", "trying everything now");
	queue_load(false); /* also what the disk would not show at the start */
	for (size_t i = 0; i < DESTS; i++)
		for (struct dest *d = srv.queue.dests[i]; d != NULL; d = next) {
			next = d->next_hash;
			d->backoff = 0;
			for (struct job *j = d->delayed; j != NULL; j = j->next)
				j->due = 0;
			dest_update(d);
		}
}

/* Who was told 4yz waits all the same: a stranger may ask us to try the host,
 * but each try that ends in a 4yz makes that wait longer. */
bool
queue_etrn(const char *domain)
{
	struct dest *d = dest_find(domain);

	if (d == NULL || d->first == NULL || d->etrn > srv.now)
		return false;
	d->etrn = srv.now + MINUTE;
	d->resume = d->attempts == 0 ? d->backoff : 0;
	d->backoff = 0;
	dest_update(d);
	return true;
}
