/*
 * check_relay.c -- routes, and the client's side of SMTP, alone.
 *
 * What this is
 *	relay.c (included, so that its static functions can be tested) on a
 *	real net.c, with two stubs: a DNS that is the table below, and SMTP
 *	servers that play a script in this process.
 * A script's lines
 *	"S: text"  send the text and CR LF      "B: text"  without CR LF
 *	"C: text"  a line that begins so comes  "D:"       content comes
 *	"X:"       close                        "R:"       reset
 *	A script that is at its end says nothing more, and keeps the line.
 * Links with: net
 */
#include <check.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include "../route.c"
#include "../relay.c"

struct server srv;
int log_level = -1;

/* make stress: an octet a turn, so more turns and less content. */
enum {
	ALL_TURNS = STRESS ? 40000 : 3000,
	SOME_TURNS = STRESS ? 600 : 60,
	LARGE_LINES = STRESS ? 40 : 6000,
	FAKE_IN = 400000,
};

/* ---- a DNS --------------------------------------------------------------- */

static const struct told {
	const char *name;
	enum rr_type type;
	unsigned preference;
	const char *value; /* "!": the look-up fails; "": no such data */
} records[] = {
	{ "self.test", RR_A, 0, "127.0.0.9" },
	{ "alias.test", RR_CNAME, 0, "self.test" },
	{ "byaddr.test", RR_A, 0, "127.0.0.9" },
	{ "any.test", RR_A, 0, "0.0.0.0" },
	{ "ten1", RR_A, 0, "10.0.0.1" },
	{ "ten2", RR_A, 0, "10.0.0.2" },
	{ "ten3", RR_A, 0, "10.0.0.3" },
	{ "ten4", RR_A, 0, "10.0.0.4" },
	{ "ten56", RR_A, 0, "10.0.0.5" },
	{ "ten56", RR_A, 0, "10.0.0.6" },
	{ "ten5", RR_A, 0, "10.0.0.5" },
	{ "ten6", RR_A, 0, "10.0.0.6" },
	{ "six", RR_AAAA, 0, "2001:db8::6" },
	{ "both", RR_A, 0, "10.0.1.1" },
	{ "both", RR_AAAA, 0, "2001:db8::1" },
	{ "empty", RR_TXT, 0, "" },
	{ "down", RR_A, 0, "!" },
	{ "mxt1", RR_MX, 5, "self.test" },
	{ "mxt2", RR_MX, 5, "not-exist" },
	{ "mxt3", RR_MX, 5, "not-exist" },
	{ "mxt3", RR_MX, 6, "self.test" },
	{ "mxt3r", RR_MX, 5, "not-exist" },
	{ "mxt3r", RR_MX, 6, "ten1" },
	{ "mxt4", RR_MX, 5, "alias.test" },
	{ "mxt5", RR_MX, 5, "SELF.test" },
	{ "mxt5", RR_MX, 5, "ten1" },
	{ "mxt6", RR_MX, 6, "self.test" },
	{ "mxt6", RR_MX, 5, "ten1" },
	{ "mxt6", RR_MX, 6, "ten2" },
	{ "mxt7", RR_MX, 8, "ten1" },
	{ "mxt7", RR_MX, 7, "self.test" },
	{ "mxt7", RR_MX, 6, "ten3" },
	{ "mxt7", RR_MX, 5, "ten2" },
	{ "mxt8", RR_MX, 5, "ten2" },
	{ "mxt8", RR_MX, 6, "ten3" },
	{ "mxt8", RR_MX, 7, "byaddr.test" },
	{ "mxt8", RR_MX, 7, "ten4" },
	{ "mxt8", RR_MX, 8, "ten1" },
	{ "mxt9", RR_MX, 8, "ten1" },
	{ "mxt9", RR_MX, 5, "ten1" },
	{ "mxt9", RR_MX, 7, "ten2" },
	{ "mxt10", RR_MX, 5, "10.0.0.1" },
	{ "mxt10r", RR_MX, 5, "10.0.0.9" },
	{ "mxt10r", RR_MX, 6, "ten1" },
	{ "mxt11", RR_MX, 5, "byaddr.test" },
	{ "mxt14", RR_MX, 4, "ten56" },
	{ "mxt14", RR_MX, 5, "ten5" },
	{ "mxt14", RR_MX, 6, "ten6" },
	{ "mxt15", RR_MX, 20, "ten2" },
	{ "mxt15", RR_MX, 10, "ten1" },
	{ "mxt97", RR_MX, 5, "ten1" },
	{ "mxt97", RR_MX, 5, "ten2" },
	{ "mxt97", RR_MX, 5, "ten3" },
	{ "mxt97", RR_MX, 5, "ten4" },
	{ "mxt98", RR_MX, 1, "ten56" },
	{ "mxt98", RR_MX, 2, "ten1" },
	{ "mxt98", RR_MX, 2, "self.test" },
	{ "null", RR_MX, 0, "" },
	{ "nullplus", RR_MX, 0, "" },
	{ "nullplus", RR_MX, 9, "ten1" },
	{ "mxany", RR_MX, 5, "any.test" },
	{ "mxsix", RR_MX, 5, "six" },
	{ "mxboth", RR_MX, 5, "both" },
	{ "mxempty", RR_MX, 5, "empty" },
	{ "mxdown", RR_MX, 5, "down" },
	{ "mxdownself", RR_MX, 5, "down" },
	{ "mxdownself", RR_MX, 6, "self.test" },
	{ "mxdownup", RR_MX, 5, "down" },
	{ "mxdownup", RR_MX, 6, "ten1" },
	{ "mxfail", RR_MX, 0, "!" },
	{ "mxself", RR_MX, 5, "mxself" },
	{ "mxself", RR_A, 0, "10.0.0.7" },
	{ "fake", RR_MX, 1, "one" },
	{ "fake", RR_MX, 2, "two" },
	{ "one", RR_A, 0, "127.0.0.1" },
	{ "two", RR_A, 0, "127.0.0.2" },
	{ "solo", RR_MX, 1, "one" },
	{ "fall", RR_MX, 1, "nobody" },
	{ "fall", RR_MX, 2, "multicast" },
	{ "fall", RR_MX, 3, "one" },
	{ "fall", RR_MX, 4, "two" },
	{ "nobody", RR_A, 0, "127.0.0.3" },
	{ "multicast", RR_A, 0, "224.0.0.1" }, /* TCP: unreachable */
	{ "onlysix", RR_MX, 1, "sixes" },
	{ "sixes", RR_AAAA, 0, "::1" },
};

static size_t lookups; /* alive */
static bool dns_slow;  /* answer PENDING, until dns_release() */
static bool dns_dead;  /* no memory */
static unsigned many, many_last; /* MX hosts of "many", and its last pref. */

struct stub {
	struct lookup l; /* first */
	enum lookup_state then;
	struct stub *next;
};
static struct stub *pending;

static void
put_answer(struct lookup *l, const char *value, unsigned preference)
{
	l->answers = realloc(l->answers, (l->n + 1) * sizeof(*l->answers));
	struct answer *a = &l->answers[l->n++];

	*a = (struct answer){ .preference = preference };
	if (l->type == RR_MX)
		snprintf(a->name, sizeof(a->name), "%s", value);
	else
		inet_pton(l->type == RR_A ? AF_INET : AF_INET6, value, a->addr);
	l->state = LOOKUP_FOUND;
}

/* "many": as many MX hosts as the test wants, with an address each. */
static void
answer_many(struct lookup *l, const char *name)
{
	char text[40];
	unsigned i;

	if (strcmp(name, "many") == 0 && l->type == RR_MX)
		for (i = 1; i <= many; i++) {
			snprintf(text, sizeof(text), "m%u.many", i);
			put_answer(l, text, i == many ? many_last : 1);
		}
	else if (sscanf(name, "m%u.many", &i) == 1 && l->type == RR_A)
		for (unsigned host = 1; host <= 10; host++) {
			snprintf(text, sizeof(text), "10.%u.%u.%u",
			    i >> 8, i & 255, host);
			put_answer(l, text, 0);
		}
}

struct lookup *
dns_ask(const char *name, enum rr_type type)
{
	struct stub *stub = dns_dead ? NULL : calloc(1, sizeof(*stub));

	if (stub == NULL)
		return NULL;
	struct lookup *l = &stub->l;

	lookups++;
	*l = (struct lookup){ .state = LOOKUP_NXDOMAIN, .type = type };
	snprintf(l->name, sizeof(l->name), "%s", name);
	answer_many(l, name);
	for (size_t i = 0; i < NELEM(records); i++) {
		const struct told *rr = &records[i];

		if (strcasecmp(rr->name, name) != 0)
			continue;
		if (rr->type == RR_CNAME) {
			name = rr->value;
			i = (size_t)-1;
			continue;
		}
		if (l->state == LOOKUP_NXDOMAIN)
			l->state = LOOKUP_NODATA;
		if (strcmp(rr->value, "!") == 0)
			l->state = LOOKUP_FAILED;
		else if (rr->type == type)
			put_answer(l, rr->value, rr->preference);
	}
	snprintf(l->canonical, sizeof(l->canonical), "%s", name);
	if (l->state == LOOKUP_FAILED)
		snprintf(l->why, sizeof(l->why), "SERVFAIL");
	stub->then = l->state;
	if (dns_slow) {
		l->state = LOOKUP_PENDING;
		stub->next = pending;
		pending = stub;
	}
	return l;
}

static void
dns_release(void)
{
	for (; pending != NULL; pending = pending->next)
		pending->l.state = pending->then;
}

void
dns_drop(struct lookup *l)
{
	if (l == NULL)
		return;
	for (struct stub **at = &pending; *at != NULL; at = &(*at)->next)
		if (&(*at)->l == l) {
			*at = (*at)->next;
			break;
		}
	lookups--;
	free(l->answers);
	free(l);
}

/* ---- SMTP servers -------------------------------------------------------- */

static struct fake {
	int listener, fd;
	const char *const *script;
	bool deaf;        /* reads nothing */
	bool wrong;       /* the client did not say what it should */
	unsigned clients; /* so far */
	char in[FAKE_IN];
	size_t len;
	char content[FAKE_IN];
	size_t content_len;
} fakes[2];

static struct conf conf;
static union address listens[1];
static struct rcpt rcpts[300];
static struct queued queued;
static struct job job;
static int content = -1;
static struct relay *relay;

/* A host on this port, or, where it is 0, on any; false: another has it. */
static bool
fake_listen(struct fake *f, const char *host, unsigned *port)
{
	union address a;
	socklen_t len = sizeof(a);
	int one = 1;

	ck_assert(address_parse(host, 1, &a));
	address_set_port(&a, *port);
	*f = (struct fake){ .fd = -1 };
	f->listener = socket(a.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
	setsockopt(f->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(f->listener, &a.any, address_len(&a)) < 0) {
		close(f->listener);
		f->listener = -1;
		return false;
	}
	ck_assert_int_eq(listen(f->listener, 5), 0);
	getsockname(f->listener, &a.any, &len);
	*port = address_port(&a);
	return true;
}

static void
fake_close(struct fake *f, bool reset)
{
	struct linger now = { 1, 0 };

	if (f->fd < 0)
		return;
	if (reset)
		setsockopt(f->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(f->fd);
	f->fd = -1;
	f->len = 0;
}

static void
fake_eat(struct fake *f, size_t n)
{
	memmove(f->in, f->in + n, f->len - n);
	f->len -= n;
	f->in[f->len] = '\0';
}

/* A line has come that begins with this? */
static bool
fake_hears(struct fake *f, const char *text)
{
	char *end = memmem(f->in, f->len, "\r\n", 2);

	if (end == NULL)
		return false;
	if (strncmp(f->in, text, strlen(text)) != 0) {
		fprintf(stderr, "  expected: %s\n  got: %.*s\n", text,
		    (int)(end - f->in), f->in);
		f->wrong = true;
	}
	fake_eat(f, (size_t)(end + 2 - f->in));
	return true;
}

/* All content has come, to the dot? */
static bool
fake_takes(struct fake *f)
{
	char *end = memmem(f->in, f->len, "\r\n.\r\n", 5);
	size_t len = end != NULL ? (size_t)(end + 2 - f->in) : 0;

	if (end == NULL && (f->len < 3 || memcmp(f->in, ".\r\n", 3) != 0))
		return false;
	memcpy(f->content, f->in, len);
	f->content_len = len;
	fake_eat(f, len + 3);
	return true;
}

/* Play one line of the script.  False: it has to wait. */
static bool
fake_play(struct fake *f)
{
	const char *line = *f->script, *text = line + 3;

	switch (line[0]) {
	case 'S':
		return dprintf(f->fd, "%s\r\n", text) > 0;
	case 'B':
		return send(f->fd, text, strlen(text),
		    MSG_NOSIGNAL | MSG_DONTWAIT) > 0;
	case 'C':
		return fake_hears(f, text);
	case 'D':
		return fake_takes(f);
	default:
		fake_close(f, line[0] == 'R');
		return true;
	}
}

static void
fake_turn(struct fake *f)
{
	ssize_t n = 1;
	int one = 1; /* else a second line waits for the first one's ACK */

	if (f->fd < 0 && f->script != NULL && *f->script != NULL) {
		f->fd = accept4(f->listener, NULL, NULL, SOCK_NONBLOCK);
		f->clients += f->fd >= 0;
		setsockopt(f->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	}
	while (f->fd >= 0 && !f->deaf && n > 0 && f->len < FAKE_IN - 1) {
		n = read(f->fd, f->in + f->len, FAKE_IN - 1 - f->len);
		f->len += n > 0 ? (size_t)n : 0;
	}
	while (f->fd >= 0 && *f->script != NULL && fake_play(f))
		f->script++;
}

/* ---- the stage ----------------------------------------------------------- */

static void
setup(void)
{
	static char hostname[] = "self.test", sender[] = "s@self.test";
	unsigned port = 0;

	srv = (struct server){ .frozen = 1000 * SECOND };
	conf = (struct conf){ .hostname = hostname,
		.listen[KIND_SMTP] = { .v = listens, .n = 1 },
		.timeout_connect = 30 * SECOND, .timeout_relay = 300 * SECOND,
		.max_clients = 10 };
	srv.conf = &conf;
	net_start();
	ck_assert(fake_listen(&fakes[0], "127.0.0.1", &port));
	while (!fake_listen(&fakes[1], "127.0.0.2", &port)) {
		close(fakes[0].listener);
		port = 0;
		ck_assert(fake_listen(&fakes[0], "127.0.0.1", &port));
	}
	conf.smtp_port = port;
	ck_assert(address_parse("127.0.0.9", port, &listens[0]));
	queued = (struct queued){ .env = { .id = "0123456789abcdef",
		.sender = sender } };
	dns_slow = dns_dead = false;
	content = memfd_create("content", MFD_CLOEXEC);
}

static void
turn(void)
{
	net_wait(srv.now + 1);
	fake_turn(&fakes[0]);
	fake_turn(&fakes[1]);
}

static enum relay_state
step(void)
{
	turn();
	return relay_step(relay);
}

static void
end_turn(void)
{
	net_settle();
	relay_reap();
	net_check();
}

static void
teardown(void)
{
	static const char *const silence[] = { NULL };

	fakes[0].script = fakes[1].script = silence;
	if (relay != NULL)
		relay_close(relay);
	relay = NULL;
	end_turn();
	srv.frozen += 10 * SECOND;
	for (int i = 0; i < 3; i++) {
		turn();
		end_turn();
	}
	ck_assert_uint_eq(srv.net.n, 0);
	ck_assert_uint_eq(lookups, 0);
	for (size_t i = 0; i < NELEM(rcpts); i++) {
		free(rcpts[i].reply);
		free(rcpts[i].host);
		free(rcpts[i].address);
		rcpts[i] = (struct rcpt){ 0 };
	}
	for (size_t i = 0; i < NELEM(fakes); i++) {
		fake_close(&fakes[i], false);
		close(fakes[i].listener);
		ck_assert(!fakes[i].wrong);
	}
	close(content);
	close(srv.net.spare);
	free(srv.net.fds);
	free(srv.net.conns);
	free(srv.net.deadlines);
}

/* A job of n recipients r1@x, r2@x ... with this content, its sizes as an
 * envelope has them: `size` with the CR of every line. */
static void
give(size_t n, const char *text)
{
	for (size_t i = 0; i < n; i++) {
		char address[40];

		snprintf(address, sizeof(address), "r%zu@x", i + 1);
		rcpts[i].address = strdup(address);
	}
	job = (struct job){ .q = &queued, .rcpts = rcpts, .n = n };
	queued.env.head = (size_t)dprintf(content, "Return-Path: <s>\n");
	queued.env.size = queued.env.head + 1 +
	    (size_t)dprintf(content, "%s", text);
	for (const char *at = text; *at != '\0'; at++)
		queued.env.size += *at == '\n';
}

/* Turn until something is to be told; give the job when it is ready. */
static enum relay_state
run(bool has_job)
{
	enum relay_state state = RELAY_BUSY;

	for (int i = 0; i < ALL_TURNS && state == RELAY_BUSY; i++) {
		state = step();
		if (state == RELAY_READY && has_job) {
			relay_send(relay, &job, content);
			has_job = false;
			state = RELAY_BUSY;
		}
		end_turn();
	}
	return state;
}

/* Turn a while; it must stay busy. */
static void
idle_turns(void)
{
	for (int i = 0; i < 20; i++) {
		ck_assert_int_eq(step(), RELAY_BUSY);
		end_turn();
	}
}

static enum relay_state
deliver(const char *domain, size_t n)
{
	give(n, "Subject: x\n\n.dot\nend");
	relay = relay_open(domain);
	ck_assert_ptr_nonnull(relay);
	return run(true);
}

/* The recipients' states as letters. */
static const char *
fates(void)
{
	static char text[NELEM(rcpts) + 1];

	for (size_t i = 0; i < job.n; i++)
		text[i] = "WDLF"[rcpts[i].state];
	text[job.n] = '\0';
	return text;
}

/* ---- routes -------------------------------------------------------------- */

/* What of a route matters: "10.0.0.1 10.0.0.2 found" or "5.1.2". */
static const char *
outline(const struct route *r)
{
	static char text[4096];
	size_t len = 0;

	text[0] = '\0';
	for (size_t i = 0; i < r->n; i++) {
		char one[PEER_TEXT];

		if (r->hops[i].left_out != NULL)
			continue;
		address_format(&r->hops[i].addr, false, one);
		ck_assert_uint_eq(address_port(&r->hops[i].addr),
		    conf.smtp_port);
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%u%s ",
		    r->hops[i].host->preference, one);
	}
	snprintf(text + len, sizeof(text) - len, "%s",
	    r->state == ROUTE_FOUND          ? "found" :
		r->state == ROUTE_ASKING     ? "asking" :
		r->state == ROUTE_IMPOSSIBLE ? r->status :
					       "later");
	return text;
}

static const struct route_case {
	const char *domain, *want, *left_out; /* the text of one reason */
} route_cases[] = {
	{ "mxt1", "5.4.6", "ourselves" },
	{ "mxt2", "later", "no such host" },
	{ "mxt3", "later", "ourselves" },
	{ "mxt3r", "6[10.0.0.1] found", "no such host" },
	{ "mxt4", "5.4.6", "ourselves" },
	{ "mxt5", "5.4.6", "not better" },
	{ "mxt6", "5[10.0.0.1] found", "not better" },
	{ "mxt7", "5[10.0.0.2] 6[10.0.0.3] found", "not better" },
	{ "mxt8", "5[10.0.0.2] 6[10.0.0.3] found", "ourselves" },
	{ "mxt9", "5[10.0.0.1] 7[10.0.0.2] found", "is above" },
	{ "mxt10", "later", "address where" },
	{ "mxt10r", "6[10.0.0.1] found", "address where" },
	{ "mxt11", "5.4.6", "ourselves" },
	{ "mxt14", "4[10.0.0.5] 4[10.0.0.6] found", "is above" },
	{ "mxt15", "10[10.0.0.1] 20[10.0.0.2] found", NULL },
	{ "mxt98", "1[10.0.0.5] 1[10.0.0.6] found", "not better" },
	/* RFC 7505 3: a null MX; none where others stand beside it. */
	{ "null", "5.1.10", NULL },
	{ "nullplus", "9[10.0.0.1] found", NULL },
	{ "ten1", "0[10.0.0.1] found", NULL },
	{ "six", "0[2001:db8::6] found", NULL },
	{ "mxsix", "5[2001:db8::6] found", NULL },
	{ "mxboth", "5[10.0.1.1] 5[2001:db8::1] found", NULL },
	{ "mxempty", "later", "has no address" },
	{ "empty", "5.1.2", "has no address" },
	{ "mxdown", "later", "SERVFAIL" },
	{ "mxdownself", "later", "SERVFAIL" },
	{ "mxdownup", "6[10.0.0.1] found", "SERVFAIL" },
	{ "down", "later", NULL },
	{ "mxfail", "later", NULL },
	{ "self.test", "5.4.6", "ourselves" },
	{ "alias.test", "5.4.6", "ourselves" },
	{ "byaddr.test", "5.4.6", "ourselves" },
	{ "mxany", "5.4.6", "ourselves" },
	{ "mxself", "5[10.0.0.7] found", NULL },
	{ "gone", "5.1.2", NULL },
	{ "[192.0.2.1]", "0[192.0.2.1] found", NULL },
	{ "[IPv6:2001:db8::1]", "0[2001:db8::1] found", NULL },
	{ "[127.0.0.9]", "5.4.6", "ourselves" },
	{ "[IPv6:zz]", "5.1.3", NULL },
	{ "[300.1.1.1]", "5.1.3", NULL },
	{ "[", "5.1.3", NULL },
};

static bool
has_reason(const struct route *r, const char *text)
{
	for (size_t i = 0; i < r->n; i++)
		if (r->hops[i].left_out != NULL &&
		    strstr(r->hops[i].left_out, text) != NULL)
			return true;
	return text == NULL;
}

START_TEST(rfc5321_5_1_table)
{
	const struct route_case *want = &route_cases[_i];
	struct route *r;

	for (int slow = 0; slow <= 1; slow++) {
		dns_slow = slow;
		r = route_begin(want->domain);
		ck_assert_ptr_nonnull(r);
		for (int i = 0; i < 4; i++) {
			if (pending != NULL)
				ck_assert_int_eq(route_step(r), ROUTE_ASKING);
			dns_release();
			route_step(r);
		}
		ck_assert_str_eq(outline(r), want->want);
		if (want->left_out != NULL)
			ck_assert(has_reason(r, want->left_out));
		route_free(r);
	}
}
END_TEST

START_TEST(rfc5321_5_1_equal_preferences_at_random)
{
	unsigned first[5] = { 0 };

	for (int i = 0; i < 2000; i++) {
		struct route *r = route_begin("mxt97");

		ck_assert_int_eq(route_step(r), ROUTE_FOUND);
		ck_assert_uint_eq(r->n, 4);
		first[ntohl(r->hops[0].addr.v4.sin_addr.s_addr) & 7]++;
		route_free(r);
	}
	for (int i = 1; i <= 4; i++) /* 500, and six sigma of 19.4 each way */
		ck_assert(first[i] > 384 && first[i] < 616);
}
END_TEST

/* RFC 5321 5.1: the caps, at and past their limits, reach the last one. */
START_TEST(rfc5321_5_1_many_hosts)
{
	static const unsigned sizes[] = { 8, 9, 64, 65, 300 };

	many = sizes[_i];
	many_last = 3;
	struct route *r = route_begin("many");

	ck_assert_int_eq(route_step(r), ROUTE_FOUND);
	size_t tried = 0, last = 0;

	for (size_t i = 0; i < r->n; i++)
		if (r->hops[i].left_out == NULL) {
			tried++;
			last = i;
		}
	ck_assert_uint_eq(tried, 64);
	ck_assert_uint_eq(r->hops[last].host->preference, 3);
	ck_assert(has_reason(r, "too many addresses") == (many > 8));
	ck_assert(has_reason(r, "too many mail hosts") == (many > 64));
	ck_assert_uint_le(lookups, 1 + 2 * 64);
	route_free(r);
}
END_TEST

START_TEST(rfc5321_5_1_wildcard_listener_is_any_address_of_ours)
{
	static const char *const wild[] = { "0.0.0.0", "[::]" };
	struct route *r;

	ck_assert(address_parse(wild[_i], conf.smtp_port, &listens[0]));
	r = route_begin("one");
	route_step(r);
	ck_assert_str_eq(outline(r), "5.4.6");
	route_free(r);
	r = route_begin("[127.77.1.1]");
	route_step(r);
	ck_assert_str_eq(outline(r), "5.4.6");
	route_free(r);
	r = route_begin("ten1");
	route_step(r);
	ck_assert_str_eq(outline(r), "0[10.0.0.1] found");
	route_free(r);
	address_set_port(&listens[0], conf.smtp_port + 1);
	r = route_begin("one");
	route_step(r);
	ck_assert_str_eq(outline(r), "0[127.0.0.1] found");
	route_free(r);
}
END_TEST

START_TEST(route_out_of_memory_and_too_long)
{
	char name[HOST_MAX + 2];

	dns_dead = true;
	ck_assert_ptr_null(route_begin("ten1"));
	ck_assert_ptr_null(relay_open("ten1"));
	dns_dead = false;
	memset(name, 'a', sizeof(name));
	name[HOST_MAX] = '\0';
	struct route *r = route_begin(name);

	ck_assert_int_eq(route_step(r), ROUTE_IMPOSSIBLE);
	route_free(r);
	r = route_begin("mxt15");
	dns_dead = true;
	ck_assert_int_eq(route_step(r), ROUTE_UNKNOWN);
	route_free(r);
}
END_TEST

/* What -r prints of a domain. */
static const char *
printed(const char *domain)
{
	static char text[1000];
	struct route *r = route_begin(domain);
	FILE *old = stdout;

	route_step(r);
	stdout = fmemopen(text, sizeof(text), "w");
	route_print(r);
	fclose(stdout);
	stdout = old;
	route_free(r);
	return text;
}

/* -r: a line a hop, those left out with the reason behind them. */
START_TEST(route_print_is_for_students)
{
	static const char want[] =
	    "mxt6: mail hosts (MX)\n"
	    "5 ten1 [10.0.0.1]:%u\n"
	    "6 %s left out: %s\n"
	    "6 %s left out: %s\n";
	char expected[2][1000], self[40], other[40];
	const char *us = "that is ourselves (RFC 5321 5.1)";
	const char *worse = "not better than ourselves";
	const char *text = printed("mxt6");

	snprintf(self, sizeof(self), "self.test [127.0.0.9]:%u", conf.smtp_port);
	snprintf(other, sizeof(other), "ten2 [10.0.0.2]:%u", conf.smtp_port);
	snprintf(expected[0], 1000, want, conf.smtp_port, self, us, other,
	    worse);
	snprintf(expected[1], 1000, want, conf.smtp_port, other, worse, self,
	    us);
	ck_assert(strcmp(text, expected[0]) == 0 ||
	    strcmp(text, expected[1]) == 0);
}
END_TEST

/* "m1.many" has ten addresses, of which eight are tried. */
START_TEST(route_print_counts_the_addresses_left_out)
{
	many = 1;
	many_last = 3;
	const char *text = printed("many");

	ck_assert_ptr_nonnull(strstr(text, "\n3 m1.many [10.0.1.8]:"));
	ck_assert_ptr_null(strstr(text, "[10.0.1.9]"));
	ck_assert_ptr_nonnull(strstr(text, "\n3 m1.many (2 more addresses)"
	    " left out: 8 of a host are enough\n"));
	ck_assert_ptr_null(strstr(printed("mxt6"), "more addresses"));
}
END_TEST

/* ---- content ------------------------------------------------------------- */

static const struct {
	const char *from, *to;
} dots[] = {
	{ "", ".\r\n" },
	{ "a\n", "a\r\n.\r\n" },
	{ "a", "a\r\n.\r\n" },
	{ ".", "..\r\n.\r\n" },
	{ ".\n", "..\r\n.\r\n" },
	{ "a\n.\nb\n", "a\r\n..\r\nb\r\n.\r\n" },
	{ "a\r\nb\r\n", "a\r\nb\r\n.\r\n" },
	{ "a\rb\n", "a\r\nb\r\n.\r\n" },
	{ "a\r.\rb", "a\r\n..\r\nb\r\n.\r\n" },
	{ "a\r\n.\r\r\nb", "a\r\n..\r\n\r\nb\r\n.\r\n" },
	{ "\r\r\n.\r\r\n", "\r\n\r\n..\r\n\r\n.\r\n" },
	{ "a\n\r.\n", "a\r\n\r\n..\r\n.\r\n" },
	{ "a\r", "a\r\n.\r\n" },
	{ "\n\n", "\r\n\r\n.\r\n" },
	{ "..a\nb.c\n", "...a\r\nb.c\r\n.\r\n" },
};

/* RFC 5321 4.5.2 and 2.3.8, cut in three at every pair of places. */
START_TEST(rfc5321_4_5_2_every_split)
{
	const char *from = dots[_i].from;
	size_t len = strlen(from);

	for (size_t a = 0; a <= len; a++)
		for (size_t b = a; b <= len; b++) {
			char out[100], last = '\n';
			size_t n = dots_put(&last, from, a, out);

			n += dots_put(&last, from + a, b - a, out + n);
			n += dots_put(&last, from + b, len - b, out + n);
			ck_assert_uint_le(n, 2 * len);
			strcpy(out + n, dots_end(last));
			ck_assert_str_eq(out, dots[_i].to);
		}
}
END_TEST

/* ---- dialogues ----------------------------------------------------------- */

#define HELLO    "S: 220 one", "C: EHLO self.test"
#define PLAIN    HELLO, "S: 250 one"
#define PIPED    HELLO, "S: 250-one\r\n250-PIPELINING\r\n250 8BITMIME"
#define MAIL     "C: MAIL FROM:<s@self.test>"
#define RCPT(n)  "C: RCPT TO:<r" #n "@x>"
#define BYE      "C: QUIT", "S: 221 bye", "X:"
#define GROUP(n) MAIL, RCPT(1), RCPT(2), "C: DATA"
#define TAKES \
	PLAIN, MAIL, "S: 250 ok", RCPT(1), "S: 250 ok", "C: DATA", "S: 354 go", \
	    "D:", "S: 250 taken", BYE

#define SCRIPT(...) ((const char *const[]){ __VA_ARGS__, NULL })

static const struct dialogue {
	const char *name;
	const char *const *one, *const *two; /* NULL: does not listen */
	size_t n;
	enum relay_state want;
	const char *fates, *text; /* in a reply of r1, or in the reason */
} dialogues[] = {
	/* verdicts, step by step (RFC 5321 4.3.2), by the first digit
	 * (RFC 5321 4.2.1) */
	{ "taken", SCRIPT(TAKES), NULL, 1, RELAY_SENT, "D", "250 taken" },
	/* RFC 5321 3.2: who does not know EHLO */
	{ "HELO", SCRIPT(HELLO, "S: 502 what", "C: HELO self.test", "S: 250",
		MAIL, "S: 250", RCPT(1), "S: 251 will forward", "C: DATA",
		"S: 354", "D:", "S: 250 taken"),
	    NULL, 1, RELAY_SENT, "D", "250 taken" },
	{ "EHLO 5yz in lines", SCRIPT(HELLO, "S: 500-what", "S: 500-SIZE 1",
		"S: 500 PIPELINING", "C: HELO self.test", "S: 250", MAIL,
		"S: 250", RCPT(1), "S: 250", "C: DATA", "S: 354", "D:",
		"S: 250 taken"),
	    NULL, 1, RELAY_SENT, "D", "250 taken" },
	{ "MAIL 4yz", SCRIPT(PLAIN, MAIL, "S: 451 not now", "C: RSET",
		"S: 250", BYE),
	    NULL, 2, RELAY_SENT, "LL", "451 not now" },
	{ "MAIL 5yz", SCRIPT(PLAIN, MAIL, "S: 550 never", "C: RSET"), NULL, 2,
	    RELAY_SENT, "FF", "550 never" },
	{ "RCPT mix", SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 550 no r1",
		RCPT(2), "S: 250", RCPT(3), "S: 450 later", "C: DATA",
		"S: 354", "D:", "S: 250 taken"),
	    NULL, 3, RELAY_SENT, "FDL", "550 no r1" },
	{ "RCPT none", SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 550 no",
		RCPT(2), "S: 452 full", "C: RSET"),
	    NULL, 2, RELAY_SENT, "FL", "550 no" },
	{ "452 after some", SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 250",
		RCPT(2), "S: 452 too many", RCPT(3), "S: 552 too many",
		"C: DATA", "S: 354", "D:", "S: 250 taken"),
	    NULL, 3, RELAY_SENT, "DWW", "250 taken" },
	{ "DATA 4yz", SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 250",
		"C: DATA", "S: 451 no", "C: RSET"),
	    NULL, 1, RELAY_SENT, "L", "451 no" },
	{ "DATA 5yz", SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 250",
		"C: DATA", "S: 554 no", "C: RSET"),
	    NULL, 1, RELAY_SENT, "F", "554 no" },
	{ "dot 4yz", SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 250",
		"C: DATA", "S: 354", "D:", "S: 452 disk"),
	    NULL, 1, RELAY_SENT, "L", "452 disk" },
	{ "dot 5yz", SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 250",
		"C: DATA", "S: 354", "D:", "S: 554-spam\r\n554 it is"),
	    NULL, 1, RELAY_SENT, "F", "554-spam 554 it is" },
	/* PIPELINING (RFC 2920 3.1) */
	{ "group", SCRIPT(PIPED, GROUP(2), "S: 250\r\n250\r\n250\r\n354",
		"D:", "S: 250 taken"),
	    NULL, 2, RELAY_SENT, "DD", "250 taken" },
	{ "group, 250 after 452", SCRIPT(PIPED, MAIL, RCPT(1), RCPT(2), RCPT(3),
		"C: DATA", "S: 250\r\n250\r\n452 full\r\n250\r\n354", "D:",
		"S: 250 taken"),
	    NULL, 3, RELAY_SENT, "DWD", "250 taken" },
	{ "group, none", SCRIPT(PIPED, GROUP(2),
		"S: 250\r\n550 r1\r\n450 r2\r\n503 none", "C: RSET"),
	    NULL, 2, RELAY_SENT, "FL", "550 r1" },
	{ "group, none but 354", SCRIPT(PIPED, GROUP(2),
		"S: 250\r\n550 r1\r\n450 r2\r\n354 go", "C: .", "S: 250 empty"),
	    NULL, 2, RELAY_SENT, "FL", "550 r1" },
	{ "group, MAIL refused", SCRIPT(PIPED, GROUP(2),
		"S: 550 you\r\n503 r1\r\n503 r2\r\n503 data", "C: RSET"),
	    NULL, 2, RELAY_SENT, "FF", "550 you" },
	{ "group, MAIL refused, RCPT taken", SCRIPT(PIPED, GROUP(2),
		"S: 450 you\r\n250\r\n250\r\n354", "C: ."),
	    SCRIPT("X:"), 2, RELAY_BUSY, "LL", "450 you" },
	/* hosts that fail before the dot: the next one takes it */
	{ "refused", NULL, SCRIPT(TAKES), 1, RELAY_SENT, "D", "250 taken" },
	{ "no greeting", SCRIPT("X:"), SCRIPT(TAKES), 1, RELAY_SENT, "D", "" },
	{ "554 no", SCRIPT("S: 554 no", "C: QUIT"), SCRIPT(TAKES), 1,
	    RELAY_SENT, "D", "" },
	{ "421 greeting", SCRIPT("S: 421 no"), SCRIPT(TAKES), 1, RELAY_SENT,
	    "D", "" },
	{ "SSH", SCRIPT("S: SSH-2.0-x"), SCRIPT(TAKES), 1, RELAY_SENT, "D",
	    "" },
	{ "354 greeting", SCRIPT("S: 354 go"), SCRIPT(TAKES), 1, RELAY_SENT,
	    "D", "" },
	{ "EHLO 4yz", SCRIPT(HELLO, "S: 451 no"), SCRIPT(TAKES), 1, RELAY_SENT,
	    "D", "" },
	{ "HELO 5yz", SCRIPT(HELLO, "S: 500 no", "C: HELO", "S: 550 no"),
	    SCRIPT(TAKES), 1, RELAY_SENT, "D", "" },
	{ "421 MAIL", SCRIPT(PLAIN, MAIL, "S: 421 bye"), SCRIPT(TAKES), 1,
	    RELAY_SENT, "D", "" },
	{ "reset at RCPT", SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "R:"),
	    SCRIPT(TAKES), 1, RELAY_SENT, "D", "" },
	{ "close at DATA", SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 250",
		"C: DATA", "X:"),
	    SCRIPT(TAKES), 1, RELAY_SENT, "D", "" },
	{ "close in content", SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 250",
		"C: DATA", "S: 354", "X:"),
	    SCRIPT(TAKES), 1, RELAY_BUSY, "", "" },
	{ "421 dot", SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 250", "C: DATA",
		"S: 354", "D:", "S: 421 bye"),
	    SCRIPT(TAKES), 1, RELAY_SENT, "D", "" },
	/* nonsense (RFC 5321 4.2) */
	{ "850 MAIL", SCRIPT(PLAIN, MAIL, "S: 850 x"), SCRIPT(TAKES), 1,
	    RELAY_SENT, "D", "" },
	{ "850 RCPT", SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 850 x"), NULL,
	    1, RELAY_LOST, "W", "refused" },
	{ "252 RCPT", SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 252 x"),
	    SCRIPT(TAKES), 1, RELAY_SENT, "D", "" },
	{ "354 RCPT", SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 354 x"),
	    SCRIPT(TAKES), 1, RELAY_SENT, "D", "" },
	{ "251 MAIL", SCRIPT(PLAIN, MAIL, "S: 251 x"), SCRIPT(TAKES), 1,
	    RELAY_SENT, "D", "" },
	{ "250 DATA", SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 250",
		"C: DATA", "S: 250 x"),
	    SCRIPT(TAKES), 1, RELAY_SENT, "D", "" },
	{ "250 before its dot", SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 250",
		"C: DATA", "S: 354 go\r\n250 taken"),
	    SCRIPT(TAKES), 1, RELAY_SENT, "D", "" },
	{ "short line", SCRIPT("S: 553-\r\n55"), SCRIPT(TAKES), 1, RELAY_SENT,
	    "D", "" },
	{ "553- and 553", SCRIPT("S: 553-\r\n553", "C: QUIT"), SCRIPT(TAKES),
	    1, RELAY_SENT, "D", "" },
	{ "codes differ", SCRIPT("S: 220-a\r\n221 b"), SCRIPT(TAKES), 1,
	    RELAY_SENT, "D", "" },
	{ "bare LF", SCRIPT("B: 220 a\n"), SCRIPT(TAKES), 1, RELAY_SENT, "D",
	    "" },
	{ "220x", SCRIPT("S: 220x"), SCRIPT(TAKES), 1, RELAY_SENT, "D", "" },
	{ "empty line", SCRIPT("S: "), SCRIPT(TAKES), 1, RELAY_SENT, "D", "" },
	{ "half a reply", SCRIPT("S: 220-a", "X:"), SCRIPT(TAKES), 1,
	    RELAY_SENT, "D", "" },
	/* after the dot: it may have been taken */
	{ "close after dot", SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 250",
		"C: DATA", "S: 354", "D:", "X:"),
	    SCRIPT(TAKES), 1, RELAY_LOST, "W", "closed" },
	{ "reset after dot", SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 250",
		"C: DATA", "S: 354", "D:", "R:"),
	    SCRIPT(TAKES), 1, RELAY_LOST, "W", "closed" },
	{ "850 after dot", SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 250",
		"C: DATA", "S: 354", "D:", "S: 850 x"),
	    SCRIPT(TAKES), 1, RELAY_LOST, "W", "850 x" },
	{ "252 after dot", SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 250",
		"C: DATA", "S: 354", "D:", "S: 252 x"),
	    SCRIPT(TAKES), 1, RELAY_LOST, "W", "252 x" },
	{ "nobody at all", NULL, NULL, 1, RELAY_LOST, "W", "refused" },
};

static void
set_scripts(const struct dialogue *d)
{
	fakes[0].script = d->one;
	fakes[1].script = d->two;
	for (size_t i = 0; i < NELEM(fakes); i++)
		if (fakes[i].script == NULL) {
			close(fakes[i].listener);
			fakes[i].listener = -1;
		}
}

START_TEST(rfc5321_4_2_dialogues)
{
	const struct dialogue *d = &dialogues[_i];

	set_scripts(d);
	enum relay_state state = deliver("fake", d->n);

	if (d->want != RELAY_BUSY) /* else: no end that is sure */
		ck_assert_msg(state == d->want, "%s: state %d", d->name, state);
	if (d->fates[0] != '\0')
		ck_assert_msg(strcmp(fates(), d->fates) == 0, "%s: %s", d->name,
		    fates());
	const char *text = rcpts[0].reply != NULL ? rcpts[0].reply :
						    relay_news(relay)->reason;

	ck_assert_msg(strstr(text, d->text) != NULL, "%s: %s", d->name, text);
	ck_assert_uint_eq(relay_news(relay)->delivered, state == RELAY_SENT);
}
END_TEST

/* RFC 3464 2.3.5: whose words they are, where two hosts had a say. */
START_TEST(rfc3464_2_3_5_which_host_spoke)
{
	fakes[0].script = SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 550 no",
	    RCPT(2), "S: 250", "C: DATA", "X:");
	fakes[1].script = SCRIPT(HELLO, "S: 250 two", MAIL, "S: 250", RCPT(2),
	    "S: 250", "C: DATA", "S: 354", "D:", "S: 250 taken");
	ck_assert_int_eq(deliver("fake", 2), RELAY_SENT);
	ck_assert_str_eq(fates(), "FD");
	ck_assert_str_eq(rcpts[0].host, "one");
	ck_assert_str_eq(rcpts[1].host, "two");
}
END_TEST

/* RFC 5321 5.2: a host that has nothing but an IPv6 address.  An address literal
 * leads to the same one. */
START_TEST(rfc5321_5_2_host_of_ipv6_alone)
{
	static const char *const domains[] = { "onlysix", "[IPv6:::1]" };

	close(fakes[1].listener);
	conf.smtp_port = 0;
	if (!fake_listen(&fakes[1], "[::1]", &conf.smtp_port)) {
		printf("skipped: no ::1 here\n");
		return;
	}
	for (size_t i = 0; i < NELEM(domains); i++) {
		fakes[1].script = SCRIPT(TAKES);
		ck_assert_int_eq(deliver(domains[i], 1), RELAY_SENT);
		ck_assert_str_eq(fates(), "D");
		ck_assert_ptr_nonnull(strstr(rcpts[0].reply, "250 taken"));
		ck_assert_str_eq(relay_news(relay)->host,
		    i == 0 ? "sixes" : domains[i]);
		ck_assert_uint_eq(fakes[1].clients, i + 1);
		ck_assert_uint_gt(fakes[1].content_len, 0);
		relay_quit(relay);
		end_turn();
		ck_assert_int_eq(run(false), RELAY_OVER);
		relay_close(relay);
		relay = NULL;
		free(rcpts[0].reply);
		free(rcpts[0].host);
		free(rcpts[0].address);
		rcpts[0] = (struct rcpt){ 0 };
		ck_assert_int_eq(ftruncate(content, 0), 0);
		lseek(content, 0, SEEK_SET);
	}
}
END_TEST

/* RFC 5321 2.3.8, 4.5.2: what arrives, and two messages on a connection. */
START_TEST(rfc5321_3_3_two_messages_and_quit)
{
	static const char want[] = "Subject: x\r\n\r\n..dot\r\nend\r\n";

	fakes[0].script = SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 250",
	    "C: DATA", "S: 354", "D:", "S: 250 one", MAIL, "S: 250", RCPT(1),
	    "S: 250", "C: DATA", "S: 354", "D:", "S: 250 two", BYE);
	ck_assert_int_eq(deliver("fake", 1), RELAY_SENT);
	ck_assert_uint_eq(fakes[0].content_len, strlen(want));
	ck_assert_mem_eq(fakes[0].content, want, strlen(want));
	rcpts[0].state = RCPT_WAITING;
	ck_assert_int_eq(run(true), RELAY_SENT);
	ck_assert_str_eq(rcpts[0].reply, "250 two");
	ck_assert_int_eq(run(false), RELAY_READY);
	relay_quit(relay);
	end_turn();
	ck_assert_int_eq(run(false), RELAY_OVER);
	ck_assert_uint_eq(relay_news(relay)->delivered, 2);
	ck_assert_str_eq(relay_news(relay)->host, "one");
	ck_assert_uint_eq(fakes[0].clients, 1);
}
END_TEST

/* A message refused, RSET, and the next one goes through. */
START_TEST(rfc5321_4_1_1_5_next_message_after_rset)
{
	fakes[0].script = SCRIPT(PLAIN, MAIL, "S: 550 no", "C: RSET", "S: 250",
	    MAIL, "S: 250", RCPT(1), "S: 250", "C: DATA", "S: 354", "D:",
	    "S: 250 two", MAIL, "S: 550 no");
	ck_assert_int_eq(deliver("fake", 1), RELAY_SENT);
	ck_assert_str_eq(fates(), "F");
	rcpts[0].state = RCPT_WAITING;
	ck_assert_int_eq(run(true), RELAY_SENT);
	ck_assert_str_eq(fates(), "D");
	rcpts[0].state = RCPT_WAITING;
	ck_assert_int_eq(run(true), RELAY_SENT);
	ck_assert_str_eq(fates(), "F");
}
END_TEST

/* RFC 1870 3 and 6.1: the size that is told is that of what is sent, its dots
 * not doubled; what the host just takes, and one octet more. */
START_TEST(rfc1870_size_and_rfc6152_eightbit)
{
	fakes[0].script = SCRIPT(HELLO,
	    "S: 250-one\r\n250-8bitmime\r\n250 size 25",
	    "C: MAIL FROM:<s@self.test> SIZE=25 BODY=8BITMIME\r\n", "S: 250",
	    RCPT(1), "S: 250", "C: DATA", "S: 354", "D:", "S: 250 ok");
	give(1, "Subject: x\n\n.dot\nend\n");
	queued.env.eightbit = true;
	relay = relay_open("fake");
	ck_assert_int_eq(run(true), RELAY_SENT);
	ck_assert_str_eq(fates(), "D");
	ck_assert_uint_eq(fakes[0].content_len, 25 + 1);
	rcpts[0].state = RCPT_WAITING;
	queued.env.size++; /* one past it */
	ck_assert_int_eq(run(true), RELAY_SENT);
	ck_assert_str_eq(fates(), "F");
	ck_assert(strncmp(rcpts[0].reply, "5.3.4", 5) == 0);
	ck_assert_int_eq(run(false), RELAY_READY);
}
END_TEST

START_TEST(rfc6152_3_eightbit_without_8bitmime)
{
	fakes[0].script = SCRIPT(PLAIN, BYE);
	queued.env.eightbit = true;
	ck_assert_int_eq(deliver("fake", 200), RELAY_SENT);
	ck_assert_uint_eq(strspn(fates(), "F"), 200);
	ck_assert(strncmp(rcpts[199].reply, "5.6.3", 5) == 0);
	queued.env.eightbit = false;
}
END_TEST

/* RFC 5321 4.5.3.1.8: a hundred in one transaction, and one more waits. */
START_TEST(rfc5321_4_5_3_1_8_recipients)
{
	static char commands[102][40];
	char replies[700] = "S: 250";
	const char *script[110] = { PIPED };
	size_t at = 3, n = 100 + (size_t)_i;

	script[at++] = MAIL;
	for (int i = 1; i <= 100; i++) {
		snprintf(commands[i], sizeof(commands[i]), "C: RCPT TO:<r%d@x>",
		    i);
		script[at++] = commands[i];
		strcat(replies, "\r\n250");
	}
	strcat(replies, "\r\n354");
	script[at++] = "C: DATA";
	script[at++] = replies;
	script[at++] = "D:";
	script[at++] = "S: 250 taken";
	fakes[0].script = script;
	ck_assert_int_eq(deliver("fake", n), RELAY_SENT);
	ck_assert_uint_eq(strspn(fates(), "D"), 100);
	ck_assert_uint_eq(strspn(fates() + 100, "W"), n - 100);
}
END_TEST

/* RFC 5321 4.5.3.1.5: lines and replies without end. */
START_TEST(rfc5321_4_5_3_1_5_floods)
{
	static char text[300000];
	char *at = text + sprintf(text, "B: ");
	const char *const script[] = { text, NULL };

	if (_i <= 1) /* 600 lines; 100 and the last, which are one too many */
		for (int i = 0; i < (_i == 0 ? 600 : 100); i++)
			at += sprintf(at, "220-x\r\n");
	if (_i == 1)
		strcpy(at, "220 x\r\n");
	if (_i == 2) /* a line that never ends */
		memset(at, '2', 200000);
	if (_i == 3) /* one octet past REPLY_LINE */
		sprintf(at, "220 %01019d\r\n", 7);
	fakes[0].script = script;
	fakes[1].script = SCRIPT(TAKES);
	ck_assert_int_eq(deliver("fake", 1), RELAY_SENT);
	ck_assert_str_eq(relay_news(relay)->host, "two");
}
END_TEST

START_TEST(rfc5321_4_5_3_1_5_at_the_limits)
{
	static char text[3000];
	char *at = text + sprintf(text, "B: ");

	for (int i = 0; i < 99; i++)
		at += sprintf(at, "220-x\r\n");
	sprintf(at, "220 %01018d\r\n", 7);
	fakes[0].script = SCRIPT(text, "C: EHLO", "S: 250", "C: QUIT");
	relay = relay_open("fake");
	ck_assert_int_eq(run(false), RELAY_READY);
}
END_TEST

/* A NUL, and control characters, which must not reach a report. */
START_TEST(reply_with_nul_and_controls)
{
	fakes[0].script = SCRIPT("X:");
	fakes[1].script = SCRIPT(PLAIN, MAIL, "S: 550 a\rb\tc\x1b[m \xff",
	    "C: RSET");
	ck_assert_int_eq(deliver("fake", 1), RELAY_SENT);
	ck_assert_str_eq(rcpts[0].reply, "550 a?b?c?[m ?");
	char line[] = "220 a\0b";

	ck_assert(!is_reply(line, 7));
	ck_assert(is_reply("220", 3) && is_reply("599-", 4));
	ck_assert(!is_reply("22", 2) && !is_reply("120 a", 5));
	ck_assert(!is_reply("600 a", 5) && !is_reply("2200", 4));
}
END_TEST

/* RFC 5321 4.5.3.2: not a millisecond before, and then for good. */
static const struct {
	const char *const *script;
	msec wait;
	enum relay_state then;
} patience[] = {
	{ SCRIPT("B: 2"), 300 * SECOND, RELAY_BUSY },
	{ SCRIPT(HELLO), 300 * SECOND, RELAY_BUSY },
	{ SCRIPT(PLAIN, MAIL), 300 * SECOND, RELAY_BUSY },
	{ SCRIPT(PIPED, GROUP(2), "S: 250\r\n250"), 300 * SECOND, RELAY_BUSY },
	{ SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 250", RCPT(2), "S: 250",
	      "C: DATA", "S: 354", "D:"),
	    600 * SECOND, RELAY_LOST },
};

START_TEST(rfc5321_4_5_3_2_time_outs)
{
	give(2, "x\n");
	fakes[0].script = patience[_i].script;
	relay = relay_open("fake");
	for (int i = 0; i < SOME_TURNS; i++) {
		enum relay_state state = step();

		if (state == RELAY_READY)
			relay_send(relay, &job, content);
		else
			ck_assert_int_eq(state, RELAY_BUSY);
		end_turn();
	}
	ck_assert_ptr_null(*fakes[0].script);
	srv.frozen += patience[_i].wait - 1;
	idle_turns();
	ck_assert_str_eq(relay_news(relay)->host, "one");
	srv.frozen++;
	enum relay_state state = step();

	end_turn();
	ck_assert_int_eq(state, patience[_i].then);
	ck_assert(strstr(relay_news(relay)->reason, "silent") != NULL);
	if (state == RELAY_BUSY)
		ck_assert_str_eq(relay_news(relay)->host, "two");
}
END_TEST

/* The connection itself: refused, unreachable, silent for 30 s: on to the next
 * in the same pass. */
START_TEST(rfc5321_4_5_3_2_connect)
{
	union address a;
	int probe[4], n = 0, one = 1;

	/* A listener whose backlog is full answers no SYN. */
	close(fakes[0].listener);
	fakes[0].listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	address_parse("127.0.0.1", conf.smtp_port, &a);
	setsockopt(fakes[0].listener, SOL_SOCKET, SO_REUSEADDR, &one,
	    sizeof(one));
	ck_assert_int_eq(bind(fakes[0].listener, &a.any, address_len(&a)), 0);
	ck_assert_int_eq(listen(fakes[0].listener, 0), 0);
	for (; n < 4; n++) {
		probe[n] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		connect(probe[n], &a.any, address_len(&a));
	}
	fakes[1].script = SCRIPT(TAKES);
	relay = relay_open("fall");
	idle_turns();
	srv.frozen += 30 * SECOND - 1;
	idle_turns();
	ck_assert_str_eq(relay_news(relay)->host, "one");
	srv.frozen++;
	give(1, "x\n");
	ck_assert_int_eq(run(true), RELAY_SENT);
	ck_assert_str_eq(relay_news(relay)->host, "two");
	while (n > 0)
		close(probe[--n]);
}
END_TEST

/* RFC 5321 4.1.1.10: who does not answer QUIT is not waited for long. */
START_TEST(rfc5321_4_1_1_10_quit_unanswered)
{
	fakes[0].script = SCRIPT(PLAIN, "C: QUIT");
	relay = relay_open("fake");
	ck_assert_int_eq(run(false), RELAY_READY);
	relay_quit(relay);
	end_turn();
	idle_turns();
	srv.frozen += QUIT_WAIT * SECOND;
	ck_assert_int_eq(step(), RELAY_OVER);
	end_turn();
}
END_TEST

/* Idle, and the host leaves, or talks without being asked. */
START_TEST(idle_host_leaves)
{
	static const char *const ends[] = { "X:", "S: 421 idle", "S: 250 hm",
		"R:" };
	enum relay_state state = RELAY_READY;

	fakes[0].script = SCRIPT(PLAIN);
	relay = relay_open("fake");
	ck_assert_int_eq(run(false), RELAY_READY);
	fakes[0].script = SCRIPT(ends[_i]);
	for (int i = 0; i < 20 && state == RELAY_READY; i++) {
		state = step();
		end_turn();
	}
	ck_assert_int_eq(state, RELAY_LOST);
	ck_assert_uint_eq(fakes[1].clients, 0);
}
END_TEST

/* Large content: constant memory, back-pressure, and every line whole. */
static void
give_large(size_t lines)
{
	give(1, "");
	for (size_t i = 0; i < lines; i++)
		queued.env.size += 1 + (size_t)dprintf(content,
		    ".%05zu %s\n", i,
		    "and some more text to fill the line with");
}

START_TEST(rfc5321_4_5_3_2_5_large_content)
{
	size_t lines = LARGE_LINES;

	fakes[0].script = SCRIPT(TAKES);
	give_large(lines);
	relay = relay_open("fake");
	ck_assert_int_eq(run(true), RELAY_SENT);
	ck_assert_uint_eq(fakes[0].content_len,
	    queued.env.size - queued.env.head - 1 + lines); /* two dots each */
	ck_assert_uint_eq(relay->link->c.out.cap, LARGE_BUF);
	for (size_t i = 0, at = 0; i < lines; i++, at += 50) {
		unsigned number;

		ck_assert_int_eq(sscanf(fakes[0].content + at, "..%u", &number),
		    1);
		ck_assert_uint_eq(number, i);
	}
}
END_TEST

/* A host that does not read: progress counts, silence ends it. */
START_TEST(rfc5321_4_5_3_2_5_host_that_does_not_read)
{
	if (STRESS) /* no socket's buffer will ever be full */
		return;
	fakes[0].script = SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 250",
	    "C: DATA", "S: 354", "D:");
	fakes[1].script = SCRIPT(TAKES);
	give_large(300000);
	relay = relay_open("fake");
	for (int i = 0; i < ALL_TURNS; i++) {
		fakes[0].deaf = relay->stage == AT_CONTENT;
		if (step() == RELAY_READY)
			relay_send(relay, &job, content);
		end_turn();
		if (fakes[0].deaf && i > 300)
			break;
	}
	ck_assert_int_eq(relay->stage, AT_CONTENT);
	ck_assert_uint_le(buf_used(&relay->link->c.out), LARGE_BUF);
	srv.frozen += 300 * SECOND - 1;
	idle_turns();
	ck_assert_str_eq(relay_news(relay)->host, "one");
	for (int i = 0; i < 5; i++) { /* it reads a little */
		fakes[0].deaf = false;
		fakes[0].len = 0;
		step();
		end_turn();
	}
	fakes[0].deaf = true;
	for (int i = 0; i < 20; i++)
		idle_turns();
	ck_assert_int_eq(relay->link->c.deadline, srv.frozen + 300 * SECOND);
	/* A busy kernel may make room late: that is progress as well. */
	for (msec due = 0; due != relay->link->c.deadline; idle_turns()) {
		due = relay->link->c.deadline;
		srv.frozen = due - 1;
	}
	ck_assert_str_eq(relay_news(relay)->host, "one");
	/* A busy kernel may take some more only now: that is progress. */
	for (int i = 0;
	     i < 3 && strcmp(relay_news(relay)->host, "one") == 0; i++) {
		srv.frozen += i == 0 ? 1 : 300 * SECOND;
		step();
		end_turn();
	}
	ck_assert_str_eq(relay_news(relay)->host, "two");
}
END_TEST

/* What one host can do, the next one perhaps cannot. */
START_TEST(rfc5321_4_1_1_1_extensions_are_a_hosts_own)
{
	fakes[0].script = SCRIPT(HELLO,
	    "S: 250-one\r\n250-PIPELINING\r\n250 SIZE 5", "X:");
	fakes[1].script = SCRIPT(HELLO, "S: 250 two", "C: MAIL");
	relay = relay_open("fake");
	ck_assert_int_eq(run(false), RELAY_READY);
	ck_assert(relay->pipelining && relay->sized && relay->size_max == 5);
	for (int i = 0; i < 20 && relay->link != NULL; i++) {
		step();
		end_turn();
	}
	relay_close(relay);
	fakes[0].script = SCRIPT(HELLO,
	    "S: 250-one\r\n250-PIPELINING\r\n250 SIZE 50", "C: MAIL", "R:");
	ck_assert_int_eq(deliver("fake", 1), RELAY_BUSY);
	ck_assert_str_eq(relay_news(relay)->host, "two");
	ck_assert(!relay->pipelining && !relay->sized && relay->size_max == 0);
}
END_TEST

/* A 250 while the dot is still here was not meant for it: no message is lost
 * to a host that says so and has not read it all. */
START_TEST(rfc5321_4_1_1_4_reply_before_the_dot_has_left)
{
	int small = 4096;

	if (STRESS)
		return;
	setsockopt(fakes[0].listener, SOL_SOCKET, SO_RCVBUF, &small,
	    sizeof(small));
	fakes[0].script = SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 250",
	    "C: DATA", "S: 354");
	fakes[1].script = SCRIPT(TAKES);
	give_large(1000);
	relay = relay_open("fake");
	for (int i = 0; i < 200 && relay->stage != AT_DOT; i++) {
		fakes[0].deaf = relay->stage == AT_CONTENT;
		if (step() == RELAY_READY) {
			setsockopt(relay->link->c.fd, SOL_SOCKET, SO_SNDBUF,
			    &small, sizeof(small));
			relay_send(relay, &job, content);
		}
		fakes[0].deaf |= relay->stage == AT_CONTENT;
		end_turn();
	}
	ck_assert_int_eq(relay->stage, AT_DOT);
	fakes[0].deaf = true;
	ck_assert_uint_gt(buf_used(&relay->link->c.out), 0);
	fakes[0].script = SCRIPT("S: 250 taken early");
	ck_assert_int_eq(run(false), RELAY_SENT);
	ck_assert_str_eq(relay_news(relay)->host, "two");
	ck_assert_str_eq(rcpts[0].reply, "250 taken");
}
END_TEST

/* A refusal in the middle of content: believed, then the line is cut. */
START_TEST(early_refusal)
{
	fakes[0].script = SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 250",
	    "C: DATA", "S: 354 go\r\n552 too much");
	ck_assert_int_eq(deliver("fake", 1), RELAY_SENT);
	ck_assert_str_eq(fates(), "F");
	if (STRESS) /* it comes as slowly as the content goes */
		return;
	ck_assert_int_eq(run(false), RELAY_LOST);
	ck_assert_uint_eq(relay_news(relay)->delivered, 1);
}
END_TEST

/* Content that cannot be read is not the end of a message. */
START_TEST(content_unreadable)
{
	fakes[0].script = SCRIPT(PLAIN, MAIL, "S: 250", RCPT(1), "S: 250",
	    "C: DATA", "S: 354");
	fakes[1].script = SCRIPT("X:");
	give(1, "x");
	int keep = content;

	content = open("/tmp", O_RDONLY | O_DIRECTORY);
	relay = relay_open("fake");
	ck_assert_int_eq(run(true), RELAY_LOST);
	ck_assert_str_eq(fates(), "W");
	ck_assert_uint_eq(fakes[0].content_len, 0);
	close(content);
	content = keep;
}
END_TEST

/* RFC 7505 3: who says that there is no host is not tried. */
START_TEST(rfc7505_impossible_and_unknown)
{
	relay = relay_open("null");
	ck_assert_int_eq(run(false), RELAY_IMPOSSIBLE);
	ck_assert_int_eq(run(false), RELAY_IMPOSSIBLE);
	ck_assert_str_eq(relay_news(relay)->status, "5.1.10");
	relay_close(relay);
	relay = relay_open("mxfail");
	ck_assert_int_eq(run(false), RELAY_LOST);
	ck_assert_str_eq(relay_news(relay)->status, "4.4.3");
	relay_close(relay);
	dns_slow = true;
	relay = relay_open("fake");
	idle_turns();
}
END_TEST

/* relay_close() at every moment of a dialogue leaves nothing behind. */
START_TEST(close_at_any_time)
{
	fakes[0].script = SCRIPT(PIPED, GROUP(2), "S: 250\r\n250\r\n250\r\n354",
	    "D:", "S: 250 taken");
	give(2, "x\n");
	relay = relay_open("fake");
	for (int i = 0; i < _i; i++) {
		if (step() == RELAY_READY && job.n == 2) {
			relay_send(relay, &job, content);
			job.n = 3;
		}
		end_turn();
	}
	job.n = 2;
}
END_TEST

int
main(void)
{
	log_level = getenv("CK_TRACE") != NULL ? 1 : -1;
	Suite *suite = suite_create("relay");
	TCase *tc = tcase_create("relay");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, rfc5321_5_1_table, 0,
	    (int)NELEM(route_cases));
	tcase_add_test(tc, rfc5321_5_1_equal_preferences_at_random);
	tcase_add_loop_test(tc, rfc5321_5_1_many_hosts, 0, 5);
	tcase_add_loop_test(tc,
	    rfc5321_5_1_wildcard_listener_is_any_address_of_ours, 0, 2);
	tcase_add_test(tc, route_out_of_memory_and_too_long);
	tcase_add_test(tc, route_print_is_for_students);
	tcase_add_test(tc, route_print_counts_the_addresses_left_out);
	tcase_add_loop_test(tc, rfc5321_4_5_2_every_split, 0,
	    (int)NELEM(dots));
	tcase_add_loop_test(tc, rfc5321_4_2_dialogues, 0,
	    (int)NELEM(dialogues));
	tcase_add_test(tc, rfc3464_2_3_5_which_host_spoke);
	tcase_add_test(tc, rfc5321_5_2_host_of_ipv6_alone);
	tcase_add_test(tc, rfc5321_3_3_two_messages_and_quit);
	tcase_add_test(tc, rfc5321_4_1_1_5_next_message_after_rset);
	tcase_add_test(tc, rfc1870_size_and_rfc6152_eightbit);
	tcase_add_test(tc, rfc6152_3_eightbit_without_8bitmime);
	tcase_add_loop_test(tc, rfc5321_4_5_3_1_8_recipients, 0, 2);
	tcase_add_loop_test(tc, rfc5321_4_5_3_1_5_floods, 0, 4);
	tcase_add_test(tc, rfc5321_4_5_3_1_5_at_the_limits);
	tcase_add_test(tc, reply_with_nul_and_controls);
	tcase_add_loop_test(tc, rfc5321_4_5_3_2_time_outs, 0,
	    (int)NELEM(patience));
	tcase_add_test(tc, rfc5321_4_5_3_2_connect);
	tcase_add_test(tc, rfc5321_4_1_1_10_quit_unanswered);
	tcase_add_loop_test(tc, idle_host_leaves, 0, 4);
	tcase_add_test(tc, rfc5321_4_5_3_2_5_large_content);
	tcase_add_test(tc, rfc5321_4_5_3_2_5_host_that_does_not_read);
	tcase_add_test(tc, rfc5321_4_1_1_4_reply_before_the_dot_has_left);
	tcase_add_test(tc, rfc5321_4_1_1_1_extensions_are_a_hosts_own);
	tcase_add_test(tc, early_refusal);
	tcase_add_test(tc, content_unreadable);
	tcase_add_test(tc, rfc7505_impossible_and_unknown);
	tcase_add_loop_test(tc, close_at_any_time, 0, 16);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);

	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);

	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
