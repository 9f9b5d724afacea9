/*
 * check_queue.c -- the schedule under a clock that the tests set.
 *
 * What this is
 *	queue.c on the real spool, with a stub for relay.c: the tests decide
 *	what every host says, and when.  Five days take no time.
 * Always true
 *	Nobody sleeps.  A turn is queue_serve() and queue_commit(); time goes
 *	on from one due time to the next.
 * Links with: queue report place spool draft maildrop conf net
 */
#include "testlib.h"
#include <dirent.h>
#include <errno.h>

struct server srv;
int log_level = -1;

enum { RELAYS = 1200, DAY = 24 * 60 };

/* ---- stubs --------------------------------------------------------------- */

struct relay {
	char domain[HOST_MAX];
	enum relay_state state;
	struct relay_news news;
	struct job *job;
	bool quit;
};

static struct relay *relays[RELAYS];
static size_t n_relays, n_opened;

struct relay *
relay_open(const char *domain)
{
	struct relay *r = calloc(1, sizeof(*r));

	ck_assert_ptr_nonnull(r);
	ck_assert_uint_lt(n_relays, RELAYS);
	snprintf(r->domain, sizeof(r->domain), "%s", domain);
	snprintf(r->news.host, sizeof(r->news.host), "mx.%.200s", domain);
	relays[n_relays++] = r;
	n_opened++;
	return r;
}

enum relay_state
relay_step(struct relay *r)
{
	enum relay_state state = r->state;

	if (state == RELAY_SENT) /* told once; then the test says more */
		r->state = RELAY_BUSY;
	return state;
}

void
relay_send(struct relay *r, struct job *j, int fd)
{
	ck_assert_int_eq(r->state, RELAY_READY);
	ck_assert_int_ge(fd, 0);
	r->job = j;
	r->state = RELAY_BUSY;
}

void
relay_quit(struct relay *r)
{
	r->quit = true;
	r->state = RELAY_OVER;
}

void
relay_close(struct relay *r)
{
	size_t i = 0;

	while (relays[i] != r)
		i++;
	relays[i] = relays[--n_relays];
	free(r);
}

const struct relay_news *
relay_news(const struct relay *r)
{
	return &r->news;
}

bool
route_listens(const union address *listener, const union address *a)
{
	return address_equal(listener, a);
}

struct zone *
master_load(const char *origin, const char *file, struct diag *d)
{
	(void)origin;
	(void)file;
	(void)d;
	return NULL;
}

void
zone_free(struct zone *z)
{
	(void)z;
}

bool
dns_same_name(const struct dname *one, const struct dname *two)
{
	(void)one;
	(void)two;
	return false;
}

/* ---- a world of one server ----------------------------------------------- */

static char home[512];

static void
setup(void)
{
	test_begin();
	ck_assert_ptr_nonnull(getcwd(home, sizeof(home)));
	ck_assert_int_eq(chdir(test_dir), 0);
	n_relays = n_opened = 0;
	net_start();
	test_conf("hostname mail.test\nusers users\nrelay_domain far.test\n"
		  "relay_domain near.test\n");
	ck_assert_int_eq(spool_start(srv.conf), 0);
	ck_assert(queue_load(true));
}

static void
teardown(void)
{
	ck_assert_int_eq(chdir(home), 0);
	test_end();
}

static void
turn(void)
{
	queue_serve();
	queue_commit();
}

/* Receive one message, as smtp.c would; its id. */
static const char *
receive(const char *from, const char *to)
{
	static char id[ID_LEN + 1];
	struct msg *m = spool_begin(from);
	char list[4096], *rest = list, *at;

	ck_assert_ptr_nonnull(m);
	snprintf(list, sizeof(list), "%s", to);
	while ((at = strsep(&rest, " ")) != NULL)
		ck_assert(place_add(srv.conf, m, at));
	spool_open(m);
	spool_write(m, "Subject: hello\nX-Id: 1\n\ntext\n", 29);
	snprintf(id, sizeof(id), "%s", m->id);
	spool_submit(m);
	queue_commit();
	ck_assert_int_eq(m->state, MSG_COMMITTED);
	spool_drop(m);
	return id;
}

/* The only attempt under way. */
static struct relay *
only(void)
{
	ck_assert_uint_eq(n_relays, 1);
	return relays[0];
}

/* This host cannot be reached. */
static void
lose(struct relay *r)
{
	r->state = RELAY_LOST;
	snprintf(r->news.reason, sizeof(r->news.reason), "connection refused");
	snprintf(r->news.status, sizeof(r->news.status), "4.4.1");
	turn();
}

/* The host takes what waits next: the job it is given, or NULL. */
static struct job *
ready(struct relay *r)
{
	r->job = NULL;
	r->state = RELAY_READY;
	queue_serve();
	return r->quit ? NULL : r->job;
}

/* What the host says of every recipient still waiting. */
static void
say(struct job *j, enum rcpt_state state, const char *reply)
{
	for (size_t i = 0; i < j->n; i++) {
		if (j->rcpts[i].state != RCPT_WAITING)
			continue;
		j->rcpts[i].state = state;
		free(j->rcpts[i].reply);
		j->rcpts[i].reply = strdup(reply);
		free(j->rcpts[i].host);
		j->rcpts[i].host = strdup("mx.far.test");
	}
}

static void
sent(struct relay *r)
{
	r->state = RELAY_SENT;
	r->news.delivered++;
	turn();
}

/* The attempt under way has no more to send: it quits, and is gone. */
static void
nothing_left(void)
{
	ck_assert_ptr_null(ready(only()));
	turn();
	ck_assert_uint_eq(n_relays, 0);
}

/* Names in a folder of the state that end so. */
static int
count_files(const char *folder, const char *end)
{
	char path[256];
	int n = 0;

	snprintf(path, sizeof(path), "mailserv-data/%s", folder);
	DIR *dir = opendir(path);

	for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;)
		n += e->d_name[0] != '.' && strstr(e->d_name, end) != NULL;
	if (dir != NULL)
		closedir(dir);
	return n;
}

/* Let time pass, to the next due time. */
static void
pass(void)
{
	ck_assert_int_lt(queue_due(), NEVER);
	if (queue_due() > srv.now) {
		srv.wall += queue_due() - srv.now;
		srv.now = srv.frozen = queue_due();
	}
	turn();
}

/* ---- tests --------------------------------------------------------------- */

/* However many messages wait, one attempt, and one at a time; then a wait (RFC
 * 5321 4.5.4.1). */
START_TEST(dead_host_costs_one_attempt)
{
	for (int i = 0; i < 100; i++)
		receive("bob@sender.test", "alice@far.test");
	turn();
	lose(only());
	ck_assert_uint_eq(n_opened, 1);
	ck_assert_uint_eq(n_relays, 0);
	ck_assert_int_eq(queue_due(), srv.now + MINUTE);
	receive("bob@sender.test", "alice@far.test"); /* waits as well */
	turn();
	ck_assert_uint_eq(n_relays, 0);
	ck_assert_ptr_nonnull(strstr(test_read("mailserv-data/queue/.hosts"),
	    "far.test 1 "));
}
END_TEST

/* retry: each wait in turn, the last one again and again; past warn_after one
 * warning; past expire the report (RFC 5321 4.5.4.1). */
START_TEST(five_days_of_retries)
{
	static const msec wait[] = { 1, 5, 15, 30, 60, 60, 60 };
	msec begun = srv.now;

	receive("alice@mail.test", "carol@far.test");
	turn();
	for (size_t i = 0; i < NELEM(wait); i++) {
		lose(only());
		ck_assert_int_eq(queue_due() - srv.now, wait[i] * MINUTE);
		pass();
	}
	while (srv.now - begun < 5 * DAY * MINUTE) {
		msec age = srv.now - begun;

		lose(only());
		ck_assert_int_eq(count_files("mail/alice/new", ""),
		    age >= 4 * 60 * MINUTE);
		if (n_relays == 0 && srv.queue.n_messages > 0)
			pass();
	}
	lose(only());
	ck_assert_uint_eq(srv.queue.n_messages, 0);
	ck_assert_int_eq(count_files("mail/alice/new", ""), 2);
	ck_assert_int_eq(count_files("queue", "msg"), 0);
	ck_assert_int_eq(queue_due(), NEVER);
}
END_TEST

/* The first success drains all, oldest first, and ends the backoff. */
START_TEST(drains_in_order)
{
	char ids[8][ID_LEN + 1]; /* so few that one connection does */

	for (int i = 0; i < 8; i++)
		snprintf(ids[i], sizeof(ids[i]), "%s",
		    receive("bob@sender.test", "alice@far.test"));
	turn();
	lose(only());
	pass();
	struct relay *r = only();

	for (int i = 0; i < 8; i++) {
		struct job *j = ready(r);

		ck_assert_ptr_nonnull(j);
		ck_assert_str_eq(j->q->env.id, ids[i]);
		say(j, RCPT_DONE, "250 ok");
		sent(r);
		ck_assert_int_eq(count_files("queue", ".env"), 7 - i);
	}
	ck_assert_ptr_null(ready(r));
	turn();
	ck_assert_uint_eq(srv.queue.n_dests, 0);
	ck_assert_int_eq(count_files("queue", ".msg"), 0);
}
END_TEST

/* A host that takes mail gets more connections, but no more than four. */
START_TEST(several_connections_to_a_fast_host)
{
	for (int i = 0; i < 100; i++)
		receive("bob@sender.test", "alice@far.test");
	turn();
	for (int i = 0; i < 10; i++) {
		struct relay *fresh = NULL;

		for (size_t k = 0; k < n_relays; k++)
			if (relays[k]->job == NULL)
				fresh = relays[k];
		if (fresh != NULL)
			ready(fresh);
		turn();
	}
	ck_assert_uint_eq(n_relays, 4);
}
END_TEST

/* One of several is refused: the others go on, and nothing waits. */
START_TEST(one_of_several_is_lost)
{
	for (int i = 0; i < 100; i++)
		receive("bob@sender.test", "alice@far.test");
	turn();
	ready(only());
	turn();
	ck_assert_uint_eq(n_relays, 2);
	lose(relays[1]); /* in this turn a third has begun */
	ck_assert_uint_eq(n_relays, 2);
	lose(relays[1]);
	ck_assert_uint_eq(n_relays, 1);
	turn();
	ck_assert_uint_eq(n_relays, 1);
	struct job *j = relays[0]->job;

	say(j, RCPT_DONE, "250 ok");
	sent(relays[0]);
	ck_assert_ptr_nonnull(ready(relays[0]));
	turn();
	ck_assert_uint_eq(n_relays, 1); /* it will not be pressed again */
}
END_TEST

/* Greylisting: a 4yz delays its recipient, not its destination. */
START_TEST(delay_of_one_recipient)
{
	receive("bob@sender.test", "alice@far.test carol@far.test");
	receive("bob@sender.test", "dave@far.test");
	turn();
	struct relay *r = only();
	struct job *j = ready(r);

	ck_assert_uint_eq(j->n, 2);
	j->rcpts[0].state = RCPT_DELAYED;
	j->rcpts[0].reply = strdup("450 4.2.0 later");
	j->rcpts[1].state = RCPT_DONE;
	sent(r);
	j = ready(r);
	ck_assert_str_eq(j->rcpts[0].address, "dave@far.test");
	say(j, RCPT_DONE, "250 ok");
	sent(r);
	ck_assert_ptr_null(ready(r));
	turn();
	ck_assert_int_eq(queue_due(), srv.now + MINUTE);
	pass();
	j = ready(only());
	ck_assert_uint_eq(j->n, 2);
	ck_assert_int_eq(j->rcpts[0].state, RCPT_WAITING);
	ck_assert_int_eq(j->rcpts[1].state, RCPT_DONE);
	j->rcpts[0].state = RCPT_DELAYED; /* again: the next wait */
	sent(relays[0]);
	ck_assert_ptr_null(ready(only()));
	turn();
	ck_assert_int_eq(queue_due(), srv.now + 5 * MINUTE);
}
END_TEST

/* The text of the only report in alice's mailbox. */
static const char *
report(void)
{
	char path[300];
	DIR *dir = opendir("mailserv-data/mail/alice/new");
	struct dirent *e;

	ck_assert_ptr_nonnull(dir);
	while ((e = readdir(dir)) != NULL && e->d_name[0] == '.')
		continue;
	ck_assert_ptr_nonnull(e);
	snprintf(path, sizeof(path), "mailserv-data/mail/alice/new/%s",
	    e->d_name);
	closedir(dir);
	return test_read(path);
}

/* RFC 5321 6.1: what was accepted and fails is reported.
 * RFC 3464 2, RFC 5321 4.5.5: recipients that fail together share a report,
 * with a null reverse-path, and 7-bit (RFC 3464 2.1.1).  What a program reads
 * is there for each of them (RFC 3464 2.3). */
START_TEST(report_of_two)
{
	receive("alice@mail.test", "x@far.test y@far.test z@far.test");
	turn();
	struct relay *r = only();
	struct job *j = ready(r);

	j->rcpts[0].state = j->rcpts[1].state = RCPT_FAILED;
	j->rcpts[0].reply = strdup("550 5.1.1 no such user");
	j->rcpts[0].host = strdup("mx.far.test");
	j->rcpts[1].reply = strdup("552 too much \xc3\xa4\r\033");
	j->rcpts[2].state = RCPT_DONE;
	sent(r);
	const char *text = report();

	ck_assert_int_eq(strncmp(text, "Return-Path: <>\n", 16), 0);
	ck_assert_ptr_nonnull(strstr(text, "To: <alice@mail.test>\n"));
	ck_assert_ptr_nonnull(strstr(text, "Auto-Submitted: auto-replied\n"));
	ck_assert_ptr_nonnull(strstr(text, "report-type=delivery-status;\n"
	    "\tboundary=\""));
	/* RFC 3464 2.2.2, RFC 3464 2.3.2, 2.3.3 and 2.3.4. */
	ck_assert_ptr_nonnull(strstr(text, "Reporting-MTA: dns; mail.test\n"));
	ck_assert_ptr_nonnull(strstr(text, "Final-Recipient: rfc822; "
	    "x@far.test\nAction: failed\nStatus: 5.1.1\nRemote-MTA: dns; "
	    "mx.far.test\nDiagnostic-Code: smtp; 550 5.1.1 no such user\n"));
	ck_assert_ptr_nonnull(strstr(text, "Status: 5.0.0\n"));
	ck_assert_ptr_nonnull(strstr(text, "smtp; 552 too much ????\n"));
	ck_assert_ptr_null(strstr(text, "z@far.test"));
	ck_assert_ptr_nonnull(strstr(text, "\nX-Id: 1\n"));
	ck_assert_ptr_null(strstr(text, "\ntext\n"));
	for (const char *at = text; *at != '\0'; at++)
		ck_assert_int_gt(*at, 0);
	ck_assert_uint_eq(srv.queue.n_messages, 0);
	ck_assert_int_eq(count_files("queue", ".env"), 0);
}
END_TEST

static const struct {
	const char *reply, *status;
} statuses[] = {
	{ "550 4.7.1 no", "5.0.0" },
	{ "450 5.7.1 no", "4.0.0" },
	{ "550-5.7.1 no", "5.7.1" },
	{ "450 4.7.1 no", "4.7.1" },
	{ "550 no", "5.0.0" },
	{ "450 no", "4.0.0" },
	{ "550 5.123.123 no", "5.123.123" },
	{ "550 5.1234.1 no", "5.0.0" },
	{ "550 5.1.1234 no", "5.0.0" },
	{ "550 5.1.1.1 no", "5.0.0" },
	{ "550 5..11 no", "5.0.0" },
	{ "550 5.1 no", "5.0.0" },
	{ "4.4.7 expired", "4.4.7" },
	{ "5.1.2 no such domain", "5.1.2" },
	{ "somebody fell over it", "5.0.0" },
};

/* A reply's first digit counts, whatever its enhanced code says; our own
 * reasons may have one. */
START_TEST(rfc3463_2_class_of_a_status)
{
	char want[40];

	receive("alice@mail.test", "x@far.test");
	turn();
	struct relay *r = only();
	struct job *j = ready(r);

	j->rcpts[0].state = RCPT_FAILED;
	j->rcpts[0].reply = strdup(statuses[_i].reply);
	sent(r);
	snprintf(want, sizeof(want), "\nStatus: %s\n", statuses[_i].status);
	ck_assert_ptr_nonnull(strstr(report(), want));
}
END_TEST

/* All that a crash would take is gone; what lies on the disk is read again. */
static void
restart_queue(void)
{
	static struct queue before; /* still reachable, for the leak checkers */

	before = srv.queue;
	ck_assert_uint_eq(before.n_messages, 1);
	srv.queue = (struct queue){ 0 };
	n_relays = 0;
	ck_assert(queue_load(true));
	turn();
}

/* Let hours pass without a try. */
static void
later(int hours)
{
	srv.wall += hours * 60 * MINUTE;
	srv.now = srv.frozen += hours * 60 * MINUTE;
}

/* RFC 3464 2.3.3, 2.3.9: the warning names all who wait, each with its own
 * reason, and until when they are tried; a restart does not repeat it. */
START_TEST(warning_of_a_delay)
{
	char name[128], until[128];
	struct tm tm;
	time_t end = (time_t)(srv.wall / 1000) + 5 * 24 * 3600;

	snprintf(name, sizeof(name), "mailserv-data/queue/%s.env",
	    receive("alice@mail.test", "x@far.test y@far.test z@near.test"));
	turn();
	struct relay *near = relays[strcmp(relays[0]->domain, "far.test") == 0];
	struct relay *far = relays[near == relays[0]];

	lose(near);
	later(4);
	struct job *j = ready(far);

	j->rcpts[0].state = RCPT_DONE;
	j->rcpts[1].state = RCPT_DELAYED;
	j->rcpts[1].reply = strdup("450 4.2.0 later");
	sent(far);
	ck_assert_int_eq(count_files("mail/alice/new", ""), 1);
	const char *text = report();

	strftime(until, sizeof(until),
	    "\nWill-Retry-Until: %a, %d %b %Y %H:%M:%S +0000\n\n",
	    gmtime_r(&end, &tm));
	ck_assert_int_eq(strncmp(text, "Return-Path: <>\n", 16), 0);
	ck_assert_ptr_nonnull(strstr(text, "\nSubject: Delayed mail "));
	ck_assert_ptr_nonnull(strstr(text, "Final-Recipient: rfc822; "
	    "y@far.test\nAction: delayed\nStatus: 4.2.0\n"
	    "Diagnostic-Code: smtp; 450 4.2.0 later\nWill-Retry-Until: "));
	ck_assert_ptr_nonnull(strstr(text, "Final-Recipient: rfc822; "
	    "z@near.test\nAction: delayed\nStatus: 4.4.1\nWill-Retry"));
	ck_assert_ptr_nonnull(strstr(text, "<z@near.test>\n    4.4.1 connection"));
	ck_assert_ptr_nonnull(strstr(text, until));
	ck_assert_ptr_null(strstr(text, "x@far.test"));
	ck_assert_ptr_null(strstr(text, "not be tried"));
	ck_assert_ptr_nonnull(strstr(text, "\nX-Id: 1\n"));
	ck_assert_ptr_nonnull(strstr(test_read(name), "\nwarned\n"));
	restart_queue();
	lose(relays[0]);
	lose(relays[0]);
	ck_assert_int_eq(count_files("mail/alice/new", ""), 1);
}
END_TEST

/* Not a second before its time, nor ever where nobody is to be told: a null
 * reverse-path, warn_after 0. */
START_TEST(no_warning)
{
	char name[128];

	snprintf(name, sizeof(name), "mailserv-data/queue/%s.env",
	    receive("", "x@far.test"));
	receive("alice@mail.test", "x@far.test");
	turn();
	later(4);
	srv.now = srv.frozen -= SECOND;
	lose(only());
	ck_assert_int_eq(count_files("mail/alice/new", ""), 0);
	srv.conf->warn_after = 0;
	later(1);
	turn();
	lose(only());
	ck_assert_int_eq(count_files("mail/alice/new", ""), 0);
	srv.conf->warn_after = 4 * 60 * MINUTE;
	later(1);
	turn();
	lose(only());
	ck_assert_int_eq(count_files("mail/alice/new", ""), 1);
	ck_assert_ptr_null(strstr(test_read(name), "warned"));
	ck_assert_int_eq(count_files("queue/failed", ""), 0);
	ck_assert_uint_eq(srv.queue.n_messages, 2);
}
END_TEST

/* Nor after a restart that comes too late: "it is still being tried, until
 * yesterday" is no news.  The first failure is spared all the same. */
START_TEST(no_warning_past_expire)
{
	static const struct {
		msec age;
		int warnings;
	} row[] = { { 5 * DAY * MINUTE - 1000, 1 }, { 5 * DAY * MINUTE, 0 } };
	int warnings = row[_i].warnings;

	receive("alice@mail.test", "x@far.test");
	turn();
	lose(only());
	srv.wall += row[_i].age;
	restart_queue();
	lose(only());
	ck_assert_int_eq(count_files("mail/alice/new", ""), warnings);
	ck_assert_uint_eq(srv.queue.n_messages, 1);
	later(1);
	turn();
	lose(only());
	ck_assert_uint_eq(srv.queue.n_messages, 0);
	ck_assert_int_eq(count_files("mail/alice/new", ""), warnings + 1);
}
END_TEST

/* A report that the disk refuses makes its message wait: should it be late, the
 * warning is made when the commit is over, and the next turn must not be long
 * in coming. */
START_TEST(warning_made_in_a_commit)
{
	receive("alice@mail.test", "x@far.test");
	turn();
	struct job *j = ready(only());

	later(4);
	say(j, RCPT_FAILED, "550 no");
	only()->state = RELAY_SENT;
	queue_serve();
	ck_assert_ptr_nonnull(srv.spool.commit);
	srv.spool.commit->error = ENOSPC;
	srv.net.wake = NEVER;
	queue_commit();
	ck_assert_ptr_nonnull(srv.spool.commit);
	ck_assert_int_eq(srv.net.wake, 0);
	queue_commit();
	ck_assert_ptr_nonnull(strstr(report(), "\nSubject: Delayed mail "));
}
END_TEST

/* A warning that the disk refuses is not tried again, and harms nobody. */
START_TEST(warning_that_cannot_be_stored)
{
	struct drafts drafts = srv.drafts;

	receive("alice@mail.test", "x@far.test");
	turn();
	later(4);
	srv.drafts = (struct drafts){ .tmp = -1, .groups = -1 }; /* EBADF */
	lose(only());
	srv.drafts = drafts;
	later(1);
	turn();
	lose(only());
	ck_assert_int_eq(count_files("mail/alice/new", ""), 0);
	ck_assert_uint_eq(srv.queue.n_messages, 1);
	later(5 * 24);
	turn();
	lose(only());
	ck_assert_int_eq(count_files("mail/alice/new", ""), 1);
}
END_TEST

/* So many in a turn: the others wait for the next try. */
START_TEST(warnings_have_a_limit)
{
	for (int i = 0; i < 501; i++)
		receive("alice@mail.test", "x@far.test");
	turn();
	later(4);
	lose(only());
	ck_assert_int_eq(count_files("mail/alice/new", ""), 500);
	pass();
	lose(only());
	ck_assert_int_eq(count_files("mail/alice/new", ""), 501);
}
END_TEST

/* The same for what has waited too long; its line keeps its order. */
START_TEST(expiry_has_a_limit)
{
	srv.conf->warn_after = 0; /* only reports are counted */
	for (int i = 0; i < 501; i++)
		receive("alice@mail.test", "x@far.test");
	turn();
	later(5 * 24);
	receive("alice@mail.test", "young@far.test");
	lose(only());
	ck_assert_int_eq(count_files("mail/alice/new", ""), 500);
	ck_assert_uint_eq(srv.queue.n_messages, 2);
	pass();
	lose(only());
	ck_assert_int_eq(count_files("mail/alice/new", ""), 501);
	ck_assert_int_eq(count_files("queue/failed", ""), 0);
	pass();
	ck_assert_str_eq(ready(only())->rcpts[0].address, "young@far.test");
}
END_TEST

/* The only pair in queue/failed: its id. */
static const char *
failed_id(void)
{
	static char id[ID_LEN + 1];
	DIR *dir = opendir("mailserv-data/queue/failed");

	ck_assert_ptr_nonnull(dir);
	ck_assert_int_eq(count_files("queue/failed", ""), 2);
	for (struct dirent *e; (e = readdir(dir)) != NULL;)
		if (e->d_name[0] != '.')
			snprintf(id, sizeof(id), "%.16s", e->d_name);
	closedir(dir);
	return id;
}

/* The operator moves that pair back, this half first, and is not quick. */
static void
move_back(const char *half)
{
	const char *const end[] = { half,
		strcmp(half, "msg") == 0 ? "env" : "msg" };
	const char *id = failed_id();
	char from[300], to[300];

	for (size_t i = 0; i < 2; i++) {
		snprintf(from, sizeof(from), "mailserv-data/queue/failed/%s.%s",
		    id, end[i]);
		snprintf(to, sizeof(to), "mailserv-data/queue/%s.%s", id,
		    end[i]);
		ck_assert_int_eq(access(to, F_OK), -1);
		ck_assert_int_eq(rename(from, to), 0);
		ck_assert(queue_load(false)); /* half of it: left alone */
	}
}

/* RFC 5321 6.1: no report of a report; the operator gets it, and may move it
 * back. */
START_TEST(null_sender_goes_to_failed)
{
	receive("", "x@far.test y@far.test");
	turn();
	struct job *j = ready(only());

	say(j, RCPT_FAILED, "550 no");
	sent(only());
	ck_assert_int_eq(count_files("queue", ".env"), 0);
	move_back("msg");
	j = ready(only());
	ck_assert_ptr_nonnull(j);
	ck_assert_uint_eq(j->n, 2);
	say(j, RCPT_DONE, "250 ok");
	sent(only());
	ck_assert_int_eq(count_files("queue", ".msg"), 0);
}
END_TEST

/* Also while others of the same message wait: none is lost.  The log says
 * what it is called now. */
START_TEST(failed_comes_back_beside_others)
{
	static const char *const half[] = { "msg", "env" };
	char text[100];

	log_level = 0;
	test_capture(STDERR_FILENO);
	snprintf(text, sizeof(text), " %s moved to queue/failed recipients=1 "
	    "failed=", receive("", "x@far.test y@near.test"));
	turn();
	ck_assert_uint_eq(n_relays, 2);
	bool swapped = strcmp(relays[0]->domain, "far.test") != 0;
	struct relay *far = relays[swapped], *near = relays[!swapped];

	lose(near);
	say(ready(far), RCPT_FAILED, "550 no");
	sent(far);
	const char *said = strstr(test_captured(), text);

	log_level = -1;
	ck_assert_ptr_nonnull(said);
	ck_assert_int_eq(strncmp(said + strlen(text), failed_id(), ID_LEN), 0);
	move_back(half[_i]);
	ck_assert_uint_eq(srv.queue.n_messages, 2);
	struct job *j = ready(only());

	ck_assert_ptr_nonnull(j);
	ck_assert_str_eq(j->rcpts[0].address, "x@far.test");
	say(j, RCPT_DONE, "250 ok");
	sent(only());
	nothing_left();
	pass();
	j = ready(only());
	ck_assert_ptr_nonnull(j);
	ck_assert_str_eq(j->rcpts[0].address, "y@near.test");
	say(j, RCPT_DONE, "250 ok");
	sent(only());
	ck_assert_uint_eq(srv.queue.n_messages, 0);
	ck_assert_int_eq(count_files("queue", ".msg"), 0);
}
END_TEST

/* A sender whom we do not know cannot be told either. */
START_TEST(unknown_sender_goes_to_failed)
{
	receive("nobody@mail.test", "x@far.test");
	turn();
	say(ready(only()), RCPT_FAILED, "550 no");
	sent(only());
	ck_assert_int_eq(count_files("queue/failed", ".env"), 1);
	ck_assert_uint_eq(srv.queue.n_messages, 0);
}
END_TEST

/* A report that the disk refuses has not happened: they are tried again. */
START_TEST(report_that_cannot_be_stored)
{
	receive("alice@mail.test", "x@far.test");
	turn();
	struct job *j = ready(only());
	struct drafts drafts = srv.drafts;

	say(j, RCPT_FAILED, "550 no");
	srv.drafts = (struct drafts){ .tmp = -1, .groups = -1 }; /* EBADF */
	sent(only());
	srv.drafts = drafts;
	ck_assert_uint_eq(srv.queue.n_messages, 1);
	ck_assert_int_eq(count_files("queue", ".env"), 1);
	ck_assert_ptr_null(ready(only())); /* it waits for its time */
	turn();
	ck_assert_int_eq(queue_due(), srv.now + MINUTE);
	pass();
	ck_assert_ptr_nonnull(ready(only()));
	say(only()->job, RCPT_FAILED, "550 no");
	sent(only());
	ck_assert_int_eq(count_files("mail/alice/new", ""), 1);
	ck_assert_uint_eq(srv.queue.n_messages, 0);
}
END_TEST

/* And if the disk never takes it, in five days, it is the operator's. */
START_TEST(report_that_can_never_be_stored)
{
	FILE *f;

	receive("alice@mail.test", "x@far.test");
	ck_assert_int_eq(mkdir("mailserv-data/mail", 0700) == 0 ||
		errno == EEXIST, 1);
	f = fopen("mailserv-data/mail/alice", "w"); /* no folder */
	ck_assert_ptr_nonnull(f);
	fclose(f);
	turn();
	say(ready(only()), RCPT_FAILED, "550 no");
	sent(only());
	ck_assert_uint_eq(srv.queue.n_messages, 1);
	ck_assert_ptr_null(ready(only()));
	turn();
	srv.now = srv.frozen += 5 * DAY * MINUTE;
	turn();
	say(ready(only()), RCPT_FAILED, "550 no");
	sent(only());
	ck_assert_uint_eq(srv.queue.n_messages, 0);
	ck_assert_int_eq(count_files("queue/failed", ".env"), 1);
}
END_TEST

/* No host will ever: all of it fails, fifty a turn. */
START_TEST(impossible_destination)
{
	for (int i = 0; i < 51; i++)
		receive("alice@mail.test", "x@far.test");
	turn();
	only()->state = RELAY_IMPOSSIBLE;
	snprintf(only()->news.status, 8, "5.1.2");
	snprintf(only()->news.reason, REASON_MAX, "no such domain");
	turn();
	ck_assert_int_eq(count_files("mail/alice/new", ""), 50);
	turn();
	ck_assert_int_eq(count_files("mail/alice/new", ""), 51);
	turn();
	ck_assert_uint_eq(n_relays, 0);
	ck_assert_uint_eq(srv.queue.n_dests, 0);
	const char *text = report();

	ck_assert_ptr_nonnull(strstr(text, "Status: 5.1.2\n"));
	/* RFC 3464 2.3.5: no host has said it. */
	ck_assert_ptr_null(strstr(text, "Remote-MTA:"));
	ck_assert_ptr_null(strstr(text, "Diagnostic-Code:"));
}
END_TEST

/* After a crash: everything is due at once, nobody who is done again. */
START_TEST(restart)
{
	receive("bob@sender.test", "a@far.test b@far.test c@near.test");
	turn();
	ck_assert_uint_eq(n_relays, 2);
	struct relay *far = strcmp(relays[0]->domain, "far.test") == 0 ?
	    relays[0] :
	    relays[1];
	struct job *j = ready(far);

	j->rcpts[0].state = RCPT_DONE;
	j->rcpts[1].state = RCPT_DELAYED;
	j->rcpts[1].reply = strdup("450 4.2.0 later");
	sent(far);
	/* near.test is done: the envelope says so. */
	struct relay *near = strcmp(relays[0]->domain, "near.test") == 0 ?
	    relays[0] :
	    relays[1];

	say(ready(near), RCPT_DONE, "250 ok");
	sent(near);
	restart_queue();
	ck_assert_str_eq(only()->domain, "far.test");
	j = ready(only());
	ck_assert_uint_eq(j->rcpts[j->n - 1].number, 2);
	ck_assert_uint_eq(j->rcpts[j->n - 1].tries, 1);
}
END_TEST

/* Who is done is written down at once: a restart does not begin again with
 * alice because carol still waits, nor is carol lost (RFC 5321 6.1). */
START_TEST(done_survives_a_restart)
{
	char name[128];

	snprintf(name, sizeof(name), "mailserv-data/queue/%s.env",
	    receive("bob@sender.test", "alice@far.test carol@far.test"));
	turn();
	struct job *j = ready(only());

	j->rcpts[0].state = RCPT_DONE;
	j->rcpts[1].state = RCPT_DELAYED;
	j->rcpts[1].reply = strdup("450 4.2.0 later");
	sent(only());
	ck_assert_ptr_nonnull(strstr(test_read(name), "\ndone 1\n"));
	ck_assert_ptr_null(strstr(test_read(name), "\ndone 2\n"));
	restart_queue();
	j = ready(only());
	ck_assert_uint_eq(j->n, 1);
	ck_assert_str_eq(j->rcpts[0].address, "carol@far.test");
}
END_TEST

/* A recipient that was delayed expires although its host has died since. */
START_TEST(delayed_expires_with_its_host)
{
	receive("alice@mail.test", "x@far.test");
	turn();
	struct job *j = ready(only());

	say(j, RCPT_DELAYED, "450 4.2.0 later");
	sent(only());
	ck_assert_ptr_null(ready(only()));
	turn();
	srv.now = srv.frozen += 5 * DAY * MINUTE;
	turn();
	lose(only());
	ck_assert_uint_eq(srv.queue.n_messages, 0);
	ck_assert_int_eq(count_files("mail/alice/new", ""), 1);
	/* RFC 3464 2.3.5: that is our word, not the host's of five days ago. */
	ck_assert_ptr_nonnull(strstr(report(), "\nStatus: 4.4.7\n\n"));
}
END_TEST

/* Reports to each other's destinations, in one commit: a destination lives
 * while a job is its own, also one that is not scheduled yet. */
START_TEST(reports_cross)
{
	receive("a@far.test", "b@near.test");
	receive("c@near.test", "d@far.test");
	turn();
	ck_assert_uint_eq(n_relays, 2);
	for (size_t i = 0; i < 2; i++) {
		relays[i]->state = RELAY_IMPOSSIBLE;
		snprintf(relays[i]->news.status, 8, "5.1.2");
		snprintf(relays[i]->news.reason, REASON_MAX, "no such domain");
	}
	for (int i = 0; i < 6; i++) {
		turn();
		for (size_t k = 0; k < n_relays; k++)
			relays[k]->state = RELAY_IMPOSSIBLE;
	}
	ck_assert_uint_eq(srv.queue.n_messages, 0);
	ck_assert_uint_eq(srv.queue.n_dests, 0);
	ck_assert_int_eq(count_files("queue/failed", ".env"), 2);
}
END_TEST

/* SIGUSR1 tries everything now; ETRN (RFC 1985 5) one destination, once a
 * minute. */
START_TEST(flush_and_etrn)
{
	receive("bob@sender.test", "a@Far.TEST");
	turn();
	lose(only());
	queue_flush();
	turn();
	lose(only());
	ck_assert_int_eq(queue_due(), srv.now + 5 * MINUTE);
	ck_assert(!queue_etrn("near.test"));
	msec due = queue_due();

	ck_assert(queue_etrn("FAR.test"));
	turn();
	lose(only());
	ck_assert_int_eq(queue_due(), due); /* as if it had not been */
	ck_assert_ptr_nonnull(strstr(test_read("mailserv-data/queue/.hosts"),
	    "far.test 2 "));
	ck_assert(!queue_etrn("far.test"));
	srv.now = srv.frozen += MINUTE - 1;
	ck_assert(!queue_etrn("far.test"));
	srv.now = srv.frozen += 1;
	ck_assert(queue_etrn("far.test"));
}
END_TEST

/* A 4yz of a recipient's own is waited for whatever ETRN says, or a stranger
 * could make that wait longer.  SIGUSR1 ends it, and is a try. */
START_TEST(etrn_after_a_4yz)
{
	receive("bob@sender.test", "a@far.test");
	turn();
	struct job *a = ready(only());

	say(a, RCPT_DELAYED, "450 later");
	sent(only());
	nothing_left();
	ck_assert(!queue_etrn("far.test"));
	turn();
	ck_assert_uint_eq(n_relays, 0);
	receive("bob@sender.test", "b@far.test");
	turn();
	lose(only());
	ck_assert(queue_etrn("far.test")); /* for b alone */
	turn();
	ck_assert_str_eq(ready(only())->rcpts[0].address, "b@far.test");
	say(only()->job, RCPT_DONE, "250 ok");
	sent(only());
	nothing_left();
	ck_assert_uint_eq(a->rcpts[0].tries, 1);
	ck_assert_int_eq(queue_due(), srv.now + MINUTE);
	queue_flush();
	turn();
	ck_assert_ptr_eq(ready(only()), a);
	say(a, RCPT_DELAYED, "450 later");
	sent(only());
	ck_assert_uint_eq(a->rcpts[0].tries, 2);
	ck_assert_int_eq(a->due, srv.now + 5 * MINUTE);
}
END_TEST

/* An attempt that was under way when ETRN came is a try like any other; one
 * that ETRN began, and that works, ends the wait. */
START_TEST(etrn_while_it_is_tried)
{
	receive("bob@sender.test", "a@far.test");
	turn();
	ck_assert(queue_etrn("far.test"));
	lose(only());
	ck_assert_int_eq(queue_due(), srv.now + MINUTE);
	srv.now = srv.frozen += MINUTE;
	turn();
	ck_assert(queue_etrn("far.test"));
	lose(only());
	ck_assert_int_eq(queue_due(), srv.now + 5 * MINUTE);
	srv.now = srv.frozen += MINUTE;
	ck_assert(queue_etrn("far.test"));
	turn();
	say(ready(only()), RCPT_DELAYED, "450 later");
	sent(only());
	receive("bob@sender.test", "b@far.test");
	ck_assert_ptr_nonnull(ready(only())); /* nothing else waits */
	lose(only());
	turn();
	lose(only());
	ck_assert_int_eq(queue_due(), srv.now + MINUTE); /* the first again */
}
END_TEST

/* One message comes, cannot go, and goes when ETRN asks, if it may. */
static void
one_by_etrn(bool may)
{
	receive("bob@sender.test", "a@far.test");
	turn();
	lose(only());
	ck_assert_int_eq(queue_due(), srv.now + MINUTE);
	ck_assert(queue_etrn("far.test") == may);
	pass();
	say(ready(only()), RCPT_DONE, "250 ok");
	sent(only());
	ck_assert_ptr_null(ready(only()));
	turn();
}

/* All that waited is gone: ETRN's minute is kept, the destination no longer. */
START_TEST(etrn_after_all_has_gone)
{
	one_by_etrn(true);
	ck_assert(!queue_etrn("far.test"));
	one_by_etrn(false); /* which waits for that minute */
	ck_assert_uint_eq(srv.queue.n_dests, 0);
	one_by_etrn(true);
	srv.now = srv.frozen += MINUTE;
	ck_assert(!queue_etrn("far.test")); /* it may, but nothing waits */
	receive("bob@sender.test", "b@near.test");
	turn();
	ck_assert_uint_eq(srv.queue.n_dests, 1);
}
END_TEST

/* A host that answers nothing delays nobody else, however much waits for it;
 * and one for which a thousand messages wait leaves room for others. */
START_TEST(slow_host_delays_nobody)
{
	size_t far = 0;

	for (int i = 0; i < 1000; i++)
		receive("bob@sender.test", "a@far.test");
	turn();
	ck_assert_uint_eq(n_relays, 1); /* and there it hangs */
	receive("bob@sender.test", "b@near.test");
	turn();
	ck_assert_uint_eq(n_relays, 2);
	ck_assert_str_eq(relays[1]->domain, "near.test");
	say(ready(relays[1]), RCPT_DONE, "250 ok");
	sent(relays[1]);
	ck_assert_ptr_null(ready(relays[1]));
	turn();
	ready(only()); /* now the large one is fast */
	for (int i = 0; i < 10; i++) {
		turn();
		for (size_t k = 0; k < n_relays; k++)
			if (relays[k]->job == NULL)
				ready(relays[k]);
	}
	receive("bob@sender.test", "b@near.test");
	turn();
	for (size_t k = 0; k < n_relays; k++)
		far += strcmp(relays[k]->domain, "far.test") == 0;
	ck_assert_uint_eq(far, 20);
	ck_assert_uint_eq(n_relays, 21);
}
END_TEST

/* The operator's -d: a message without its envelope is none. */
START_TEST(deleted_while_it_waits)
{
	char name[128];

	snprintf(name, sizeof(name), "mailserv-data/queue/%s.env",
	    receive("bob@sender.test", "a@far.test"));
	ck_assert_int_eq(unlink(name), 0);
	turn();
	ck_assert_ptr_null(ready(only()));
	turn();
	ck_assert_uint_eq(srv.queue.n_messages, 0);
	ck_assert_int_eq(count_files("queue", ".msg"), 0);
}
END_TEST

/* Nor is it reported, whatever becomes of its destination, or of it. */
START_TEST(deleted_is_not_reported)
{
	char name[128];

	for (int way = 0; way < 3; way++) {
		snprintf(name, sizeof(name), "mailserv-data/queue/%s.env",
		    receive("alice@mail.test", "a@far.test"));
		turn();
		struct job *j = way == 2 ? ready(only()) : NULL;

		ck_assert_int_eq(unlink(name), 0);
		if (way == 0)
			later(5 * 24);
		if (j != NULL)
			say(j, RCPT_FAILED, "550 no");
		only()->state = way == 0 ? RELAY_LOST :
		    way == 1             ? RELAY_IMPOSSIBLE :
					   RELAY_SENT;
		turn();
		while (n_relays > 0) {
			only()->state = RELAY_OVER;
			turn();
		}
		ck_assert_uint_eq(srv.queue.n_messages, 0);
		ck_assert_int_eq(count_files("queue", ".msg"), 0);
		ck_assert_int_eq(count_files("mail/alice/new", ""), 0);
		ck_assert_int_eq(count_files("queue/failed", ""), 0);
	}
}
END_TEST

/* A host that took messages has had enough of a connection: no backoff. */
START_TEST(lost_after_success)
{
	receive("bob@sender.test", "a@far.test");
	receive("bob@sender.test", "b@far.test");
	turn();
	say(ready(only()), RCPT_DONE, "250 ok");
	sent(only());
	ck_assert_ptr_nonnull(ready(only()));
	lose(only());
	turn();
	ck_assert_uint_eq(n_relays, 1);
	ck_assert_uint_eq(n_opened, 2);
}
END_TEST

/* A thousand attempts at once, and not one more; the others get theirs. */
START_TEST(attempts_have_a_limit)
{
	char to[64];

	for (int i = 0; i < 1001; i++) {
		snprintf(to, sizeof(to), "a@d%d.test", i);
		receive("bob@sender.test", to);
	}
	turn();
	ck_assert_uint_eq(n_relays, 1000);
	ck_assert_int_eq(queue_due(), NEVER);
	turn();
	ck_assert_uint_eq(n_relays, 1000);
	lose(relays[0]);
	turn();
	ck_assert_uint_eq(n_relays, 1000);
	ck_assert_uint_eq(n_opened, 1001);
}
END_TEST

/* time_scale: a minute of waiting is a second, and nothing else changes. */
START_TEST(time_scale)
{
	srv.conf->time_scale = 60;
	receive("bob@sender.test", "a@far.test");
	turn();
	lose(only());
	ck_assert_int_eq(queue_due() - srv.now, SECOND);
}
END_TEST

/* No wait becomes none, or what cannot be sent would be due for ever. */
START_TEST(time_scale_of_less_than_nothing)
{
	char name[128];

	srv.conf->time_scale = 1000000;
	srv.conf->n_retry = 1;
	snprintf(name, sizeof(name), "mailserv-data/queue/%s.msg",
	    receive("alice@mail.test", "a@far.test"));
	ck_assert_int_eq(unlink(name), 0);
	turn();
	nothing_left();
	ck_assert_int_eq(queue_due(), srv.now + 1);
}
END_TEST

/* An hour back, a year ahead: neither early, nor late, nor lost. */
START_TEST(clock_steps)
{
	receive("alice@mail.test", "a@far.test");
	turn();
	lose(only());
	srv.wall -= 60 * MINUTE;
	pass();
	lose(only());
	srv.wall += 365 * (msec)DAY * MINUTE;
	pass();
	lose(only());
	ck_assert_int_eq(queue_due() - srv.now, 15 * MINUTE);
	ck_assert_uint_eq(srv.queue.n_messages, 1);
	ck_assert_int_eq(count_files("mail/alice/new", ""), 0);
}
END_TEST

/* Content that cannot be read, or is not what was received, is no fault of
 * the host: others go out; it waits for its own time, and then its sender
 * hears of it, with the header where there is one. */
START_TEST(unreadable_stops_nobody)
{
	char name[128];

	snprintf(name, sizeof(name), "mailserv-data/queue/%s.msg",
	    receive("alice@mail.test", "a@far.test"));
	receive("bob@sender.test", "b@far.test");
	if (_i == 0)
		ck_assert_int_eq(truncate(name, 50), 0);
	if (_i > 0)
		ck_assert_int_eq(unlink(name), 0);
	if (_i == 2)
		ck_assert_int_eq(mkdir(name, 0700), 0);
	turn();
	struct job *j = ready(only());

	ck_assert_str_eq(j->rcpts[0].address, "b@far.test");
	say(j, RCPT_DONE, "250 ok");
	sent(only());
	nothing_left();
	ck_assert_uint_eq(srv.queue.n_messages, 1);
	ck_assert_int_eq(queue_due(), srv.now + MINUTE);
	srv.now = srv.frozen += 5 * DAY * MINUTE;
	turn();
	nothing_left();
	ck_assert_uint_eq(srv.queue.n_messages, 0);
	ck_assert_ptr_nonnull(strstr(report(), "4.3.0 content: "));
	ck_assert_int_eq(strstr(report(), "\nSubject: hello\n") != NULL,
	    _i == 0);
	rmdir(name);
}
END_TEST

/* The same when the disk fails only in the middle of it. */
START_TEST(unreadable_on_the_way)
{
	receive("alice@mail.test", "a@far.test");
	receive("bob@sender.test", "b@far.test");
	turn();
	ck_assert_str_eq(ready(only())->rcpts[0].address, "a@far.test");
	only()->news.unreadable = true;
	lose(only());
	turn();
	only()->news.unreadable = false;
	ck_assert_str_eq(ready(only())->rcpts[0].address, "b@far.test");
	say(only()->job, RCPT_DONE, "250 ok");
	sent(only());
	nothing_left();
	ck_assert_uint_eq(srv.queue.n_messages, 1);
	ck_assert_int_eq(queue_due(), srv.now + MINUTE);
}
END_TEST

/* Each recipient's own wait is kept, whatever the order in which they began:
 * a second one of five minutes is no obstacle to a first one of one. */
START_TEST(own_waits_in_order)
{
	receive("alice@mail.test", "slow@far.test");
	turn();
	say(ready(only()), RCPT_DELAYED, "450 4.2.0 later");
	sent(only());
	nothing_left();
	pass();
	say(ready(only()), RCPT_DELAYED, "450 4.2.0 later");
	sent(only());
	nothing_left();
	receive("alice@mail.test", "quick@far.test");
	turn();
	say(ready(only()), RCPT_DELAYED, "450 4.2.0 later");
	sent(only());
	nothing_left();
	ck_assert_int_eq(queue_due(), srv.now + MINUTE);
	pass();
	struct job *j = ready(only());

	ck_assert_str_eq(j->rcpts[0].address, "quick@far.test");
	say(j, RCPT_DELAYED, "450 4.2.0 later");
	sent(only());
	nothing_left();
	ck_assert_int_eq(queue_due(), srv.now + 4 * MINUTE);
	queue_flush(); /* now both are due */
	turn();
	for (int i = 0; i < 2; i++) {
		say(ready(only()), RCPT_DELAYED, "450 4.2.0 later");
		sent(only());
	}
	nothing_left();
	srv.now = srv.frozen += 5 * DAY * MINUTE;
	turn();
	lose(only()); /* and both expire with their host */
	ck_assert_int_eq(count_files("mail/alice/new", ""), 2);
	ck_assert_uint_eq(srv.queue.n_messages, 0);
}
END_TEST

/* A 4yz after five days is the last one, also where no word came with it. */
START_TEST(delayed_for_the_last_time)
{
	receive("alice@mail.test", "x@far.test y@far.test");
	turn();
	struct job *j = ready(only());

	j->rcpts[0].state = j->rcpts[1].state = RCPT_DELAYED;
	sent(only());
	nothing_left();
	srv.now = srv.frozen += 5 * DAY * MINUTE;
	turn();
	j = ready(only());
	ck_assert_uint_eq(j->rcpts[0].tries, 1);
	j->rcpts[0].state = RCPT_DONE;
	j->rcpts[1].state = RCPT_DELAYED;
	sent(only());
	ck_assert_uint_eq(srv.queue.n_messages, 0);
	ck_assert_ptr_nonnull(strstr(report(), "rfc822; y@far.test\n"));
	ck_assert_ptr_null(strstr(report(), "x@far.test"));
}
END_TEST

/* RFC 5321 4.5.3.1.10: whom the host did not want in this transaction gets the
 * next one; and whatever becomes of it, who is done is done. */
START_TEST(the_rest_in_the_next_transaction)
{
	receive("alice@mail.test", "x@far.test y@far.test");
	receive("alice@mail.test", "z@far.test");
	turn();
	struct job *j = ready(only());

	j->rcpts[0].state = RCPT_DONE;
	sent(only());
	ck_assert_ptr_eq(ready(only()), j); /* before z */
	ck_assert_int_eq(j->rcpts[1].state, RCPT_WAITING);
	lose(only());
	turn();
	ck_assert_ptr_eq(ready(only()), j);
	ck_assert_int_eq(j->rcpts[0].state, RCPT_DONE);
	lose(only());
	pass();
	only()->state = RELAY_IMPOSSIBLE;
	snprintf(only()->news.status, 8, "5.1.2");
	snprintf(only()->news.reason, REASON_MAX, "no such domain");
	turn();
	ck_assert_uint_eq(srv.queue.n_messages, 0);
	ck_assert_int_eq(count_files("mail/alice/new", ""), 2);
}
END_TEST

/* RFC 5321 4.5.3.1.8: of 101 recipients a hundred were told 4yz, and then the
 * host was lost.  All are tried again, and the next 4yz is one more try. */
START_TEST(lost_between_two_transactions)
{
	char to[4096] = "", name[128];

	for (size_t i = 1; i <= 101; i++)
		snprintf(to + strlen(to), sizeof(to) - strlen(to),
		    "%sr%zu@far.test", i > 1 ? " " : "", i);
	snprintf(name, sizeof(name), "mailserv-data/queue/%s.env",
	    receive("bob@sender.test", to));
	turn();
	struct job *j = ready(only());

	ck_assert_uint_eq(j->n, 101);
	for (size_t i = 0; i < 100; i++)
		j->rcpts[i].state = RCPT_DELAYED;
	sent(only());
	ck_assert_ptr_eq(ready(only()), j);
	lose(only());
	turn();
	ck_assert_ptr_eq(ready(only()), j);
	say(j, RCPT_DELAYED, "450 4.2.0 later");
	sent(only());
	ck_assert_uint_eq(j->rcpts[0].tries, 2);
	ck_assert_uint_eq(j->rcpts[100].tries, 1);
	ck_assert_int_eq(j->rcpts[0].next, (srv.wall + 5 * MINUTE) / 1000);
	ck_assert_ptr_nonnull(strstr(test_read(name), "\ntry 1 2 "));
}
END_TEST

/* SIGHUP reads queue/ again: nothing is tried twice. */
START_TEST(loaded_once)
{
	char first[ID_LEN + 1];

	snprintf(first, sizeof(first), "%s",
	    receive("bob@sender.test", "x@far.test"));
	receive("bob@sender.test", "y@far.test");
	ck_assert(queue_load(false));
	ck_assert_uint_eq(srv.queue.n_messages, 2);
	turn();
	ck_assert(queue_load(false)); /* one is under way */
	struct job *j = ready(only());

	ck_assert_str_eq(j->q->env.id, first);
	ck_assert(queue_load(false));
	say(j, RCPT_DONE, "250 ok");
	sent(only());
	say(ready(only()), RCPT_DONE, "250 ok");
	sent(only());
	nothing_left();
	ck_assert_uint_eq(srv.queue.n_messages, 0);
}
END_TEST

/* The machine died after the last recipient was done, before the message was
 * removed (M5): nobody gets it again. */
START_TEST(all_done_before_the_crash)
{
	const char *id = receive("bob@sender.test", "x@far.test y@far.test");

	spool_append(id, "done 2");
	spool_append(id, "done 1");
	static struct queue before; /* all that a crash would take */

	before = srv.queue;
	ck_assert_uint_eq(before.n_messages, 1);
	srv.queue = (struct queue){ 0 };
	ck_assert(queue_load(true));
	ck_assert_uint_eq(srv.queue.n_messages, 0);
	ck_assert_int_eq(count_files("queue", "."), 0);
	turn();
	ck_assert_uint_eq(n_relays, 0);
}
END_TEST

/* What nobody can be told of waits until queue/failed takes it: those who
 * failed, and only they. */
START_TEST(failed_refuses)
{
	char name[128];
	int failed = srv.spool.failed;

	receive("", "x@far.test y@far.test");
	turn();
	struct job *j = ready(only());

	j->rcpts[0].state = RCPT_FAILED;
	j->rcpts[0].reply = strdup("550 no");
	j->rcpts[1].state = RCPT_DONE;
	srv.spool.failed = -1; /* EBADF */
	sent(only());
	srv.spool.failed = failed;
	nothing_left();
	ck_assert_uint_eq(srv.queue.n_messages, 1);
	ck_assert_int_eq(queue_due(), srv.now + MINUTE);
	pass();
	say(ready(only()), RCPT_FAILED, "550 no");
	sent(only());
	ck_assert_uint_eq(srv.queue.n_messages, 0);
	snprintf(name, sizeof(name), "mailserv-data/queue/failed/%s.env",
	    failed_id());
	ck_assert_ptr_nonnull(strstr(test_read(name), "\nto x@far.test\n"));
	ck_assert_ptr_null(strstr(test_read(name), "y@far.test"));
}
END_TEST

/* What a host says of itself is one line of text in queue/.hosts. */
START_TEST(reason_in_plain_text)
{
	receive("bob@sender.test", "x@far.test");
	turn();
	only()->state = RELAY_LOST;
	snprintf(only()->news.reason, REASON_MAX, "421 a\nb\tc\x7f\xc3\xa4~");
	turn();
	ck_assert_ptr_nonnull(strstr(test_read("mailserv-data/queue/.hosts"),
	    " 421 a?b?c???~\n"));
}
END_TEST

/* The server stops: a message in a host's hands may arrive, no other begins. */
START_TEST(stop_with_a_message_under_way)
{
	receive("bob@sender.test", "x@far.test");
	receive("bob@sender.test", "y@far.test");
	turn();
	struct relay *far = only();
	struct job *j = ready(far);

	receive("bob@sender.test", "z@near.test");
	turn();
	ck_assert_uint_eq(n_relays, 2);
	queue_stop();
	ck_assert_uint_eq(srv.queue.n_attempts, 1);
	ck_assert_ptr_eq(only(), far);
	ck_assert_int_eq(queue_due(), NEVER);
	say(j, RCPT_DONE, "250 ok");
	sent(far);
	nothing_left();
	ck_assert_uint_eq(srv.queue.n_attempts, 0);
	ck_assert_int_eq(count_files("queue", ".env"), 2);
}
END_TEST

/* A message whose client left in the commit: committed, and nobody else drops
 * it. */
START_TEST(orphan)
{
	struct msg *m = spool_begin("alice@mail.test");

	ck_assert(place_add(srv.conf, m, "x@far.test"));
	spool_open(m);
	int fd = m->content.fd;

	spool_write(m, "x\n", 2);
	m->orphan = true;
	spool_submit(m);
	queue_commit();
	ck_assert_int_lt(fcntl(fd, F_GETFD), 0);
	ck_assert_int_eq(count_files("queue/tmp", ""), 0);
	ck_assert_uint_eq(srv.queue.n_messages, 1);
}
END_TEST

/* A year passes on the real clock while a message comes in: it is new. */
START_TEST(clock_steps_while_a_message_comes)
{
	struct msg *m = spool_begin("alice@mail.test");

	ck_assert(place_add(srv.conf, m, "x@far.test"));
	spool_open(m);
	spool_write(m, "x\n", 2);
	srv.wall += 365 * DAY * MINUTE;
	spool_submit(m);
	queue_commit();
	ck_assert_int_eq(m->state, MSG_COMMITTED);
	spool_drop(m);
	turn();
	lose(only());
	ck_assert_uint_eq(srv.queue.n_messages, 1);
}
END_TEST

/* The real clock at a start, after messages came by a right one, and how long
 * they then wait for a host that is dead: minutes, as retries end. */
static const struct {
	msec step;
	int least;
} wrong_clocks[] = {
	{ 0, 5 * DAY },
	{ -60 * MINUTE, 5 * DAY },
	{ -365 * DAY * MINUTE, 5 * DAY },
	{ -20000 * DAY * MINUTE, 5 * DAY }, /* 1970, or near it */
	{ DAY * MINUTE, 4 * DAY },
	{ 5 * DAY * MINUTE, 60 }, /* or the machine was off: tried again */
	{ 365 * DAY * MINUTE, 60 },
	{ 20000 * DAY * MINUTE, 60 },
};

/* Whatever it says, nothing is lost, ids grow, every message is tried at once,
 * and for as long as the longest wait of `retry` none is bounced. */
START_TEST(clock_is_wrong_at_start)
{
	static struct queue before;
	char ids[3][ID_LEN + 1];

	srv.wall = 20500 * DAY * MINUTE;
	srv.conf->warn_after = 0; /* only reports are counted */
	for (int i = 0; i < 3; i++)
		snprintf(ids[i], sizeof(ids[i]), "%s",
		    receive("alice@mail.test", "x@far.test"));
	before = srv.queue;
	ck_assert_uint_eq(before.n_messages, 3);
	srv.queue = (struct queue){ 0 };
	srv.spool.last_id = 0; /* nothing is known but what lies there */
	srv.wall += wrong_clocks[_i].step;
	ck_assert(queue_load(true));
	ck_assert_uint_eq(srv.queue.n_messages, 3);
	ck_assert_str_gt(receive("", "y@near.test"), ids[2]);
	ck_assert_int_le(queue_due(), srv.now);
	msec begun = srv.now;

	turn();
	/* In the end only the one of the null sender waits. */
	while (srv.queue.n_messages > 1 && srv.now - begun < 6 * DAY * MINUTE) {
		for (size_t i = n_relays; i-- > 0;)
			if (strcmp(relays[i]->domain, "far.test") == 0)
				lose(relays[i]);
		if (srv.queue.n_messages == 4)
			pass();
	}
	ck_assert_int_ge((srv.now - begun) / MINUTE, wrong_clocks[_i].least);
	ck_assert_int_le((srv.now - begun) / MINUTE,
	    wrong_clocks[_i].least + 60);
	ck_assert_int_eq(count_files("mail/alice/new", ""), 3);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("queue");
	TCase *tc = tcase_create("queue");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, dead_host_costs_one_attempt);
	tcase_add_test(tc, five_days_of_retries);
	tcase_add_test(tc, drains_in_order);
	tcase_add_test(tc, several_connections_to_a_fast_host);
	tcase_add_test(tc, one_of_several_is_lost);
	tcase_add_test(tc, delay_of_one_recipient);
	tcase_add_test(tc, report_of_two);
	tcase_add_loop_test(tc, rfc3463_2_class_of_a_status, 0,
	    NELEM(statuses));
	tcase_add_test(tc, warning_of_a_delay);
	tcase_add_test(tc, no_warning);
	tcase_add_loop_test(tc, no_warning_past_expire, 0, 2);
	tcase_add_test(tc, warning_made_in_a_commit);
	tcase_add_test(tc, warning_that_cannot_be_stored);
	tcase_add_test(tc, warnings_have_a_limit);
	tcase_add_test(tc, expiry_has_a_limit);
	tcase_add_test(tc, null_sender_goes_to_failed);
	tcase_add_loop_test(tc, failed_comes_back_beside_others, 0, 2);
	tcase_add_test(tc, unknown_sender_goes_to_failed);
	tcase_add_test(tc, report_that_cannot_be_stored);
	tcase_add_test(tc, report_that_can_never_be_stored);
	tcase_add_test(tc, impossible_destination);
	tcase_add_test(tc, restart);
	tcase_add_test(tc, done_survives_a_restart);
	tcase_add_test(tc, delayed_expires_with_its_host);
	tcase_add_test(tc, reports_cross);
	tcase_add_test(tc, etrn_after_all_has_gone);
	tcase_add_test(tc, flush_and_etrn);
	tcase_add_test(tc, etrn_while_it_is_tried);
	tcase_add_test(tc, etrn_after_a_4yz);
	tcase_add_test(tc, slow_host_delays_nobody);
	tcase_add_test(tc, deleted_while_it_waits);
	tcase_add_loop_test(tc, unreadable_stops_nobody, 0, 3);
	tcase_add_test(tc, unreadable_on_the_way);
	tcase_add_test(tc, deleted_is_not_reported);
	tcase_add_test(tc, lost_after_success);
	tcase_add_test(tc, attempts_have_a_limit);
	tcase_add_test(tc, time_scale);
	tcase_add_test(tc, time_scale_of_less_than_nothing);
	tcase_add_test(tc, clock_steps);
	tcase_add_test(tc, own_waits_in_order);
	tcase_add_test(tc, delayed_for_the_last_time);
	tcase_add_test(tc, the_rest_in_the_next_transaction);
	tcase_add_test(tc, lost_between_two_transactions);
	tcase_add_test(tc, loaded_once);
	tcase_add_test(tc, all_done_before_the_crash);
	tcase_add_test(tc, failed_refuses);
	tcase_add_test(tc, reason_in_plain_text);
	tcase_add_test(tc, stop_with_a_message_under_way);
	tcase_add_test(tc, orphan);
	tcase_add_test(tc, clock_steps_while_a_message_comes);
	tcase_add_loop_test(tc, clock_is_wrong_at_start, 0,
	    (int)NELEM(wrong_clocks));
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);

	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);

	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
