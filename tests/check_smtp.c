/*
 * check_smtp.c -- reception, against a queue that is only pretended.
 *
 * Links with: path net
 *
 * smtp.c is included, for its table states[].  The spool below keeps
 * messages in memory, and fails when it is told to.  Clients are real sockets
 * on loopback; the server turns in this process whenever a client has sent
 * something, until nothing moves any more; its clock stands still until a test
 * moves it.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include "testlib.h"
#include "../smtp.c"

struct server srv;
int log_level;

enum {
	KEPT = 8,             /* messages that the pretended queue remembers */
	HEARD = 65536,        /* octets that a client hears between two says */
	MAX_MESSAGE = 300000, /* this test's max_message */
	MAX_RCPTS = 5,
};

/* ---- a queue in memory --------------------------------------------------- */

struct kept {
	struct msg m; /* first: see spool_begin() */
	char sender[PATH_MAX_SMTP + 8], rcpts[8 * PATH_MAX_SMTP];
	char *content;
	size_t len, cap;
	bool open, shown;
};

static struct {
	struct kept kept[KEPT]; /* committed, oldest first */
	size_t n, live;         /* how many; begun and not dropped */
	struct kept *submitted[KEPT];
	size_t n_submitted;
	int error;      /* of every commit */
	bool no_memory; /* for the next message, or recipient */
	char etrn[HOST_MAX];
	bool nothing_waits;
	unsigned ids;
} fake;

struct msg *
spool_begin(const char *sender)
{
	struct kept *k = fake.no_memory ? NULL : calloc(1, sizeof(*k));

	if (k == NULL)
		return NULL;
	snprintf(k->m.id, sizeof(k->m.id), "%016x", ++fake.ids);
	snprintf(k->sender, sizeof(k->sender), "%s", sender);
	k->m.sender = k->sender;
	fake.live++;
	return &k->m;
}

bool
place_add(const struct conf *conf, struct msg *m, const char *address)
{
	struct kept *k = (struct kept *)m;
	size_t len = strlen(k->rcpts);

	ck_assert_ptr_eq(conf, srv.conf);
	if (!fake.no_memory)
		snprintf(k->rcpts + len, sizeof(k->rcpts) - len, "%s;",
		    address);
	return !fake.no_memory;
}

void
spool_open(struct msg *m)
{
	struct kept *k = (struct kept *)m;

	ck_assert(!k->open);
	k->open = true;
}

void
spool_write(struct msg *m, const char *data, size_t len)
{
	struct kept *k = (struct kept *)m;

	ck_assert(k->open && m->state == MSG_OPEN);
	if (k->len + len + 1 > k->cap) {
		k->cap = 2 * (k->len + len + 1);
		k->content = realloc(k->content, k->cap);
		ck_assert_ptr_nonnull(k->content);
	}
	memcpy(k->content + k->len, data, len);
	k->len += len;
	k->content[k->len] = '\0';
	m->size += len;
}

void
spool_show(struct msg *m)
{
	struct kept *k = (struct kept *)m;

	ck_assert(k->open);
	k->shown = true;
}

void
spool_submit(struct msg *m)
{
	ck_assert_uint_lt(fake.n_submitted, KEPT);
	m->state = MSG_SUBMITTED;
	fake.submitted[fake.n_submitted++] = (struct kept *)m;
}

void
spool_drop(struct msg *m)
{
	struct kept *k = (struct kept *)m;

	ck_assert_int_ne(m->state, MSG_SUBMITTED);
	fake.live--;
	free(k->content);
	free(k);
}

/* Everything submitted is kept, or refused. */
void
queue_commit(void)
{
	for (size_t i = 0; i < fake.n_submitted; i++) {
		struct kept *k = fake.submitted[i];

		k->m.error = fake.error;
		k->m.state = fake.error != 0 ? MSG_REFUSED : MSG_COMMITTED;
		if (fake.error == 0) {
			struct kept *slot = &fake.kept[fake.n++ % KEPT];

			free(slot->content);
			*slot = *k;
			slot->content = strdup(k->content);
		}
		if (k->m.orphan)
			spool_drop(&k->m);
	}
	fake.n_submitted = 0;
}

/* localhost has alice and postmaster; relay.test has anybody but nobody. */
enum place
place_of(const struct conf *conf, const char *address)
{
	const char *at = strrchr(address, '@');

	ck_assert_ptr_eq(conf, srv.conf);
	if (at == NULL || strcasecmp(at, "@localhost") == 0)
		return strncasecmp(address, "alice@", 6) == 0 ||
			strncasecmp(address, "postmaster", 10) == 0 ?
		    PLACE_LOCAL :
		    PLACE_NOBODY;
	if (strcasecmp(at, "@relay.test") == 0)
		return strncmp(address, "nobody@", 7) == 0 ? PLACE_NOBODY :
							     PLACE_RELAY;
	return PLACE_REMOTE;
}

bool
queue_etrn(const char *domain)
{
	snprintf(fake.etrn, sizeof(fake.etrn), "%s", domain);
	return !fake.nothing_waits;
}

/* The last message that was committed; its content behind our Received:. */
static const char *
last_content(void)
{
	ck_assert_uint_gt(fake.n, 0);
	const char *text = fake.kept[(fake.n - 1) % KEPT].content;

	while ((text = strchr(text, '\n')) != NULL && text[1] == '\t')
		text++;
	ck_assert_ptr_nonnull(text);
	return text + 1;
}

/* ---- the server, in turns ------------------------------------------------ */

static struct conf conf;
static char hostname[] = "mx.test", new_name[] = "new.test";
static char relay_name[] = "relay.test";
static struct relay_domain relay_domain = { .name = relay_name };
static struct cidr loopback = { { [10] = 0xff, 0xff, 127 }, 104 };
static union address port; /* where it listens */
static int descriptors;    /* open before the server was */

static void
turn(void)
{
	net_wait(srv.now);
	smtp_serve();
	queue_commit();
	smtp_answer();
	net_settle();
	smtp_reap();
	net_check();
	smtp_check();
}

/* What every client hears when the server stops. */
static void
stop_all(void)
{
	struct conn *c;

	for (size_t at = 0; (c = net_walk(KIND_SMTP, &at)) != NULL;)
		if (!c->listening)
			smtp_stop(c);
}

/* Can the server still do something without anybody's doing? */
static bool
server_busy(void)
{
	struct conn *c;

	for (size_t at = 0; (c = net_walk(KIND_SMTP, &at)) != NULL;) {
		struct pollfd p = srv.net.fds[c->slot];

		if (srv.net.deadlines[c->slot] <= srv.now || poll(&p, 1, 0) > 0)
			return true;
	}
	return false;
}

static void
turns(void)
{
	do
		turn();
	while (server_busy());
}

static int
count_descriptors(void)
{
	int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void
server_open(const char *address)
{
	ck_assert(address_parse(address, 1, &port));
	address_set_port(&port, 0);
	struct conn *c = net_listen(KIND_SMTP, &port, SOCK_STREAM);
	socklen_t len = address_len(&port);

	ck_assert_ptr_nonnull(c);
	ck_assert_int_eq(getsockname(c->fd, &port.any, &len), 0);
}

static void
setup(void)
{
	test_begin();
	memset(&fake, 0, sizeof(fake));
	conf = (struct conf){ .hostname = hostname,
		.relay_domains = &relay_domain,
		.n_relay_domains = 1,
		.relay_from = &loopback,
		.n_relay_from = 1,
		.max_message = MAX_MESSAGE,
		.max_recipients = MAX_RCPTS,
		.max_clients = 100,
		.timeout_smtp = 300 * SECOND };
	srv.conf = &conf;
	descriptors = count_descriptors();
	net_start();
	server_open("127.0.0.1");
}

/* Everybody is gone, and so is everything they brought. */
static void
teardown(void)
{
	struct conn *c;

	for (size_t at = 0; (c = net_walk(KIND_SMTP, &at)) != NULL;)
		net_drop(c);
	net_settle();
	smtp_reap();
	ck_assert_uint_eq(srv.net.n, 0);
	ck_assert_uint_eq(srv.net.n_clients, 0);
	ck_assert_uint_eq(fake.live, 0);
	ck_assert_uint_eq(conf.refs, 0);
	close(srv.net.spare);
	ck_assert_int_eq(count_descriptors(), descriptors);
	free(srv.net.fds);
	free(srv.net.conns);
	free(srv.net.deadlines);
	for (size_t i = 0; i < KEPT; i++)
		free(fake.kept[i].content);
	test_end();
}

/* ---- clients ------------------------------------------------------------- */

/* A client that has connected, and was seen by the server. */
static int
client(void)
{
	int fd = socket(port.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	int one = 1;

	ck_assert_int_eq(connect(fd, &port.any, address_len(&port)), 0);
	/* Or a second octet would wait for an answer to the first. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	turns();
	return fd;
}

static void
client_send(int fd, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0)
			ck_assert_int_eq(errno, EAGAIN);
		if (n > 0) {
			data += n;
			len -= (size_t)n;
		}
		turns();
	}
}

/* All that the server has said since; "" nothing; *closed: and hung up. */
static const char *
hear(int fd, bool *closed)
{
	static char text[HEARD];
	size_t len = 0;
	ssize_t n;

	turns();
	while ((n = recv(fd, text + len, sizeof(text) - 1 - len,
		    MSG_DONTWAIT)) > 0) {
		len += (size_t)n;
		turns();
	}
	text[len] = '\0';
	if (closed != NULL)
		*closed = n == 0 || errno != EAGAIN;
	return text;
}

/* Is a reply's code one of RFC 5321 4.2.3, or ETRN's own 459? */
static bool
code_is_known(const char *line)
{
	static const char codes[] = "211 214 220 221 250 251 252 354 421 450 "
				    "451 452 455 459 500 501 502 503 504 550 "
				    "551 552 553 554 555 ";
	char code[] = "??? ";

	memcpy(code, line, 3);
	return strstr(codes, code) != NULL;
}

/* Does it consist of replies that begin so?  "250 2.1.0|354": two replies;
 * of several lines the last counts.  "" none. */
static bool
replies_fit(const char *heard, const char *want)
{
	while (*heard != '\0') {
		const char *end = strstr(heard, "\r\n");
		size_t len = strcspn(want, "|");

		if (end == NULL || end - heard < 4 || end - heard > 510 ||
		    !code_is_known(heard))
			return false;
		if (heard[3] == ' ') {
			if (len == 0 || strncmp(heard, want, len) != 0)
				return false;
			want += len + (want[len] == '|');
		}
		heard = end + 2;
	}
	return *want == '\0';
}

/* Send these octets, and hear exactly these replies. */
static void
say_octets(int fd, const char *data, size_t len, const char *want)
{
	client_send(fd, data, len);
	const char *heard = hear(fd, NULL);

	ck_assert_msg(replies_fit(heard, want), "C: %.300s\nwanted: %s\nS: %s",
	    data, want, heard);
}

/* The same for text, to which CR LF is added. */
static void
say(int fd, const char *text, const char *want)
{
	char line[HEARD];
	int len = snprintf(line, sizeof(line), "%s\r\n", text);

	say_octets(fd, line, (size_t)len, want);
}

/* A client that was greeted, and has said EHLO. */
static int
greeted(void)
{
	int fd = client();

	ck_assert_str_eq(hear(fd, NULL), "220 mx.test ESMTP mailserv\r\n");
	say(fd, "EHLO client.test", "250 ");
	return fd;
}

/* A client to whom 354 was said. */
static int
in_data(void)
{
	int fd = greeted();

	say(fd,
	    "MAIL FROM:<bob@client.test>\r\nRCPT TO:<alice@localhost>\r\n"
	    "DATA",
	    "250 2.1.0|250 2.1.5|354 ");
	return fd;
}

static void
expect_closed(int fd, const char *want)
{
	bool closed;
	const char *heard = hear(fd, &closed);

	ck_assert_msg(replies_fit(heard, want), "wanted: %s\nS: %s", want,
	    heard);
	ck_assert(closed);
	close(fd);
	turns();
	ck_assert_uint_eq(srv.net.n_clients, 0);
}

/* ---- commands ------------------------------------------------------------ */

/* RFC 5321 2.2.2, 3.2 and 4.2.4: what is registered and done, and for EHLO
 * alone; RFC 1870 3: with the limit of SIZE. */
START_TEST(rfc5321_4_1_1_1_ehlo_lists_extensions)
{
	int fd = client();
	char want[2100];
	struct sockaddr_in me;
	socklen_t len = sizeof(me);

	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&me, &len), 0);
	snprintf(want, sizeof(want),
	    "250-mx.test greets [127.0.0.1]:%u\r\n"
	    "250-SIZE 300000\r\n250-PIPELINING\r\n250-8BITMIME\r\n"
	    "250-ENHANCEDSTATUSCODES\r\n250-HELP\r\n250 ETRN\r\n",
	    ntohs(me.sin_port));
	hear(fd, NULL);
	client_send(fd, "ehlo client.test\r\n", 18);
	ck_assert_str_eq(hear(fd, NULL), want);
	snprintf(want, sizeof(want), "250 mx.test greets [127.0.0.1]:%u\r\n",
	    ntohs(me.sin_port));
	client_send(fd, "helo client.test\r\n", 18);
	ck_assert_str_eq(hear(fd, NULL), want);
	close(fd);
}
END_TEST

/* RFC 5321 4.2.1: each line of a reply has its code, all but the last a '-'. */
START_TEST(rfc5321_4_2_1_many_lines)
{
	static const char *const says[][2] = {
		{ "HELO client.test\r\n", "250" },
		{ "EHLO client.test\r\n", "250" },
		{ "HELP\r\n", "214" },
	};
	int fd = client();

	hear(fd, NULL);
	for (size_t i = 0; i < NELEM(says); i++) {
		client_send(fd, says[i][0], strlen(says[i][0]));
		const char *line = hear(fd, NULL), *end;

		ck_assert_str_ne(line, "");
		for (; (end = strstr(line, "\r\n")) != NULL; line = end + 2) {
			ck_assert_int_eq(strncmp(line, says[i][1], 3), 0);
			ck_assert_int_eq(line[3], end[2] == '\0' ? ' ' : '-');
		}
		ck_assert_str_eq(line, "");
	}
	close(fd);
}
END_TEST

/* What any test here hears has a code of that list: replies_fit() looks. */
START_TEST(rfc5321_4_2_3_codes)
{
	static const char *const all[] = { "NOOP", "VRFY alice", "HELP", "EXPN",
		"XYZZY", "DATA", "EHLO", "MAIL FROM:<a>", "MAIL FROM:<> X=Y",
		"MAIL FROM:<> SIZE=300001", "MAIL FROM:<@a>", "MAIL FROM:<a@[b]>",
		"MAIL FROM:<> =", "MAIL FROM:<>x", "ETRN far.test", "RSET", "QUIT" };
	int fd = greeted();

	ck_assert(code_is_known("250 OK") && !code_is_known("259 OK"));
	ck_assert(!code_is_known("25 0K") && !code_is_known("154 no"));
	for (size_t i = 0; i < NELEM(all); i++) {
		char line[64];
		int len = snprintf(line, sizeof(line), "%s\r\n", all[i]);

		client_send(fd, line, (size_t)len);
		const char *heard = hear(fd, NULL);

		ck_assert_msg(code_is_known(heard), "%s", line);
		/* RFC 2034 4: with a class like the code's (RFC 3463 3). */
		ck_assert_msg(all[i][0] == 'E' && all[i][1] == 'H' ?
			heard[5] != '.' :
			heard[4] == heard[0] && heard[5] == '.',
		    "%s%s", line, heard);
		/* A refusal teaches: it names its section, once. */
		const char *rfc = strstr(heard, "(RFC ");

		ck_assert_msg((rfc != NULL) == (heard[0] >= '4'), "%s%s", line,
		    heard);
		ck_assert_msg(rfc == NULL || strstr(rfc + 1, "(RFC ") == NULL,
		    "%s%s", line, heard);
	}
	close(fd);
}
END_TEST

/* 512 octets with CRLF, whatever a reply has to repeat. */
START_TEST(rfc5321_4_5_3_1_5_reply_line)
{
	static const char *const words[] = { "MAIL FROM:<> ", "VRFY ", "EHLO ",
		"ETRN ", "MAIL FROM:", "RCPT TO:", "NOOP ", "DATA ", "X" };
	int fd = greeted();
	char line[SMTP_LINE];

	for (size_t i = 0; i < NELEM(words); i++)
		for (size_t len = 200; len < sizeof(line) - 2; len += 7) {
			memset(line, 'a', len);
			memcpy(line, words[i], strlen(words[i]));
			memcpy(line + len, "\r\n", 2);
			client_send(fd, line, len + 2);
			const char *at = hear(fd, NULL), *end;

			for (; *at != '\0'; at = end + 2) {
				end = strstr(at, "\r\n");
				ck_assert_ptr_nonnull(end);
				ck_assert_int_le(end - at, 510);
			}
		}
	close(fd);
}
END_TEST

/* A client that makes nothing but faults is answered, and stays. */
START_TEST(rfc5321_3_8_errors_do_not_close)
{
	int fd = greeted();

	for (int i = 0; i < 300; i++)
		say(fd, "XYZZY\r\nDATA\r\nMAIL\r\nRCPT TO:<a@b>\r\nTURN",
		    "500|503|501|503|502");
	say(fd, "NOOP", "250");
	close(fd);
}
END_TEST

/* RFC 2034 4: no enhanced code where the client does not know of them. */
START_TEST(rfc2034_4_enhanced_codes)
{
	int fd = client();

	ck_assert(strncmp(hear(fd, NULL), "220 mx", 6) == 0);
	say(fd, "EHLO", "501 w");
	say(fd, "EHLO -", "501 wanted: EHLO ");
	say(fd, "HELO a b", "501 wanted: HELO ");
	say(fd, "NOOP", "250 2.0.0 OK");
	say(fd, "EHLO client.test", "250 ETRN");
	say(fd, "MAIL FROM:<>", "250 2.1.0 ");
	say(fd, "RCPT TO:<alice@localhost>", "250 2.1.5 ");
	say(fd, "DATA", "354 g");
	say(fd, ".", "250 2.0.0 0000000000000001 is");
	say(fd, "QUIT", "221 2.0.0 ");
	close(fd);
}
END_TEST

/* Where a command may come, and what is said where it may not (RFC 5321 3.3),
 * for all that RFC 5321 4.5.1 asks for; RSET (RFC 5321 4.1.1.5) comes anywhere.
 * Each reply leaves, though nothing follows (RFC 2920 3.2). */
START_TEST(rfc5321_4_1_4_order)
{
	static const char *const script[][2] = {
		{ "MAIL FROM:<a@b>", "503 5.5.1 EHLO first: MAIL" },
		{ "RCPT TO:<alice@localhost>", "503 5.5.1 EHLO first" },
		{ "DATA", "503 5.5.1 EHLO first" },
		{ "ETRN relay.test", "503 5.5.1 EHLO first" },
		{ "RSET", "250" },
		{ "NOOP", "250" },
		{ "HELP", "214" },
		{ "VRFY alice", "252" },
		{ "EXPN list", "502" },
		{ "RSET", "250" },
		{ "HELO client.test", "250" },
		{ "RCPT TO:<alice@localhost>", "503 5.5.1 MAIL first" },
		{ "DATA", "503 5.5.1 MAIL first: DATA needs a sender" },
		{ "MAIL FROM:<a@b>", "250" },
		{ "MAIL FROM:<a@b>", "503 5.5.1 RSET first: a transaction is open" },
		{ "ETRN relay.test", "503 5.5.1 RSET first: a transaction is open" },
		{ "DATA",
		    "503 5.5.1 RCPT first: DATA needs a recipient "
		    "(RFC 5321 4.1.4)" },
		{ "RCPT TO:<nobody@localhost>", "550 5.1.1" },
		{ "DATA", "503 5.5.1 RCPT first" },
		{ "RCPT TO:<alice@localhost>", "250" },
		{ "MAIL FROM:<a@b>", "503" },
		{ "EHLO client.test", "250" }, /* forgets the transaction */
		{ "RCPT TO:<alice@localhost>", "503 5.5.1 MAIL first" },
		{ "MAIL FROM:<a@b>", "250" },
		{ "RCPT TO:<alice@localhost>", "250" },
		{ "EHLO", "501" }, /* and this does not */
		{ "NOOP", "250" },
		{ "VRFY alice", "252" },
		{ "RSET", "250" },
		{ "DATA", "503" },
		{ "MAIL FROM:<a@b>", "250" },
		{ "RCPT TO:<alice@localhost>", "250" },
		{ "DATA", "354" },
		{ "RSET", "" },
		{ ".", "250" },
		{ "RCPT TO:<alice@localhost>", "503" },
		{ "MAIL FROM:<a@b>", "250" },
	};
	int fd = client();

	hear(fd, NULL);
	for (size_t i = 0; i < NELEM(script); i++)
		say(fd, script[i][0], script[i][1]);
	ck_assert_str_eq(last_content(), "RSET\n");
	ck_assert_uint_eq(fake.n, 1);
	say(fd, "QUIT", "221");
	close(fd);
}
END_TEST

/* RFC 5321 2.4 and 4.1.1: verbs in any case, blanks at the end tolerated. */
START_TEST(rfc5321_4_2_4_verbs_and_arguments)
{
	static const char *const script[][2] = {
		{ "", "500 5.5.2" },
		{ " NOOP", "500" },
		{ "XYZZY", "500" },
		{ "NOO", "500" },
		{ "NOOPS", "500" },
		{ "BDAT 10", "500" },
		{ "BDAT 0 LAST", "500" },
		{ "AUTH PLAIN =", "500" },
		{ "STARTTLS", "500" },
		/* RFC 5321 4.1.1.9: what follows NOOP is ignored. */
		{ "noop", "250 2.0.0" },
		{ "NoOp anything at all", "250" },
		{ "NOOP  \t ", "250" },
		/* RFC 5321 4.1.1.8 */
		{ "HELP MAIL", "214 2.0.0" },
		/* RFC 5321 F.1, RFC 5321 4.1.1.7: known, and not done. */
		{ "TURN", "502 5.5.1" },
		{ "EXPN", "502 5.5.1" },
		/* RFC 5321 4.1.1.6, 3.5.3 and 7.3: what is not verified. */
		{ "VRFY", "501 5.5.4" },
		{ "VRFY \"a b\"", "252 2.5.0" },
		{ "VRFY alice", "252 2.5.0" },
		{ "VRFY nobody", "252 2.5.0" },
		{ "RSET now", "501 5.5.4" },
		{ "DATA now", "503" },
		{ "QUIT now", "501 5.5.4" },
		{ "RSET   ", "250" },
		{ "EHLO", "501" },
		{ "HELO", "501" },
		{ "EHLO a_b", "501" },
		{ "EHLO a..b", "501" },
		{ "EHLO .a", "501" },
		{ "EHLO a.", "501" },
		{ "EHLO -a", "501" },
		{ "EHLO a-", "501" },
		{ "EHLO a-b.c-d.9", "250" },
		{ "EHLO a  ", "250" },
		{ "EHLO [127.0.0.1]", "250" },
		{ "HELO [127.0.0.1]", "250" },
		{ "EHLO [127.0.0.1] the laptop", "250" },
		{ "EHLO a the laptop", "501" },
		{ "EHLO [IPv6:2001:db8::1]", "250" },
		{ "EHLO [ipv6:::1]", "250" },
		{ "EHLO [::1]", "501" },
		{ "EHLO [127.0.0.1", "501" },
		{ "EHLO [127.0.0.256]", "501" },
		{ "EHLO [127.0.1]", "501" },
		{ "EHLO [127.000.000.001]", "501" }, /* octal, to some */
		{ "EHLO []", "501" },
		{ "EHLO [IPv6:]", "501" },
		{ "EHLO [x:y]", "501" },
		{ "EHLO [127.0.0.1]x", "501" },
		{ "DATA now", "503" },
		{ "MAIL", "501 5.5.4 wanted: MAIL FROM:<address>" },
	};
	int fd = client();

	hear(fd, NULL);
	for (size_t i = 0; i < NELEM(script); i++)
		say(fd, script[i][0], script[i][1]);
	client_send(fd, "HELP\r\n", 6);
	const char *help = hear(fd, NULL);

	ck_assert_ptr_nonnull(strstr(help, "214-2.0.0 MAIL FROM:<address>"));
	ck_assert_ptr_nonnull(strstr(help, "\r\n214 2.0.0 TURN "));
	ck_assert_uint_lt(strlen(help), REPLY_ROOM);
	close(fd);
}
END_TEST

/* ---- addresses and parameters -------------------------------------------- */

/* What MAIL says to a path, and what the queue hears; NULL: nothing.  Local
 * parts (RFC 5321 4.1.1), source routes (RFC 5321 4.1.1.3), literals (RFC 5321
 * 4.1.3), and <>, which MAIL must take (RFC 5321 4.5.5).  What is refused
 * changes nothing (RFC 5321 4.1.4): the next command is obeyed. */
static const struct path_case {
	const char *path, *mail, *rcpt; /* codes; "" where it is the same */
	const char *mailbox;
} path_cases[] = {
	{ "<a@b>", "250 2.1.0", "250 2.1.5", "a@b" },
	{ "<>", "250 2.1.0", "501 5.1.3", "" },
	{ "<a.b+c@d.e>", "250", "250", "a.b+c@d.e" },
	{ "<!#$%&'*+-/=?^_`{|}~@d>", "250", "250", "!#$%&'*+-/=?^_`{|}~@d" },
	{ "<\"a b\"@c>", "250", "250", "\"a b\"@c" },
	{ "<\"a\\\"b\"@c>", "250", "250", "\"a\\\"b\"@c" },
	{ "<\"<>\"@c>", "250", "250", "\"<>\"@c" },
	{ "<\"a@b\"@c>", "250", "250", "\"a@b\"@c" },
	{ "<\"\"@c>", "250", "250", "\"\"@c" },
	{ "<\"\\\\\"@c>", "250", "250", "\"\\\\\"@c" },
	{ "<u@[127.0.0.1]>", "250", "250", "u@[127.0.0.1]" },
	{ "<u@[IPv6:::1]>", "250", "250", "u@[IPv6:::1]" },
	{ "<u@[IPv6:1:2:3:4:5:6:7.8.9.10]>", "250", "250", NULL },
	{ "<u@[IPv6:1:2:3:4:5:6:7:8]>", "250", "250", NULL },
	{ "<u@[IPv6:1:2:3:4:5:6::]>", "250", "250", NULL },
	{ "<u@[IPv6:::3:4:5:6:7:8]>", "250", "250", NULL },
	{ "<u@[IPv6:1:2:3:4::1.2.3.4]>", "250", "250", NULL },
	/* RFC 5321 C: a source route is taken, and ignored. */
	{ "<@a:u@c>", "250", "250", "u@c" },
	{ "<@a,@b.d:u@c>", "250", "250", "u@c" },
	{ "<user%evil@c>", "250", "250", "user%evil@c" },
	{ "<${run{x}}@c>", "250", "250", "${run{x}}@c" },
	{ "</etc/passwd@c>", "250", "250", "/etc/passwd@c" },
	{ "<-a@c>", "250", "250", "-a@c" },
	{ "", "501 5.5.4 wanted", "501 5.5.4 wanted", NULL },
	{ " <a@b>", "501 5.5.4", "501 5.5.4", NULL },
	{ "a@b", "501 5.5.4", "501 5.5.4", NULL },
	{ "bart <b@c>", "501 5.5.4", "501 5.5.4", NULL },
	{ "<", "501 5.1.7", "501 5.1.3", NULL },
	{ "< >", "501 5.1.7", "501 5.1.3", NULL },
	{ "<<a@b>>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<a@b", "501 5.1.7", "501 5.1.3", NULL },
	{ "<a@b> x>", "501 5.5.4 no param", "501 5.5.4 no param", NULL },
	{ "<a@b>x", "501 5.5.4 a blank parts", "501 5.5.4 a blank parts", NULL },
	{ "<a@b>>", "501 5.5.4 a blank parts", "501 5.5.4 a blank parts", NULL },
	{ "<a>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<a@>", "501 5.1.7 no address: its domain or address literal is not v",
	    "501 5.1.3", NULL },
	{ "<@b>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<@example.com>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<johnathon@>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<a..b@c>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<.@c>", "501 5.1.7 no address: its local part is not valid",
	    "501 5.1.3 no address: its local part is not valid", NULL },
	{ "<..@c>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<../../etc/x@c>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<.a@c>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<a.@c>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<a b@c>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<a@b c>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<a@b@c>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<a@b_c>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<a@b.>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<a@.b>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<a@-b>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<a@b->", "501 5.1.7", "501 5.1.3", NULL },
	{ "<a@b-.c>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<\"a@b>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<\"a\\", "501 5.1.7", "501 5.1.3", NULL },
	{ "<\"a\\\"@b>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<\"a\"b@c>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<a\"b\"@c>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<a\\b@c>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<u@[IPv6:zz]>", "501 5.1.7", "501 5.1.3", NULL },
	/* "::" stands for two groups at least. */
	{ "<u@[IPv6:1:2:3:4:5:6:7::]>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<u@[IPv6:1:2:3:4:5:6::7]>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<u@[IPv6:1:2:3:4:5::1.2.3.4]>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<u@[::1]>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<u@[127.0.0.1>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<u@127.0.0.1]>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<u@[127.0.0.01]>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<u@[1.2.3.4.5]>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<@a,b:u@c>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<@a;u@c>", "501 5.1.7 no address: its source route is not valid",
	    "501 5.1.3", NULL },
	{ "<@a,:u@c>", "501 5.1.7", "501 5.1.3", NULL },
	{ "<;for i in 0 1 2;do read r;done;sh;exit 0;>", "501 5.1.7",
	    "501 5.1.3", NULL },
};

START_TEST(rfc5321_4_1_2_paths)
{
	int fd = greeted();
	char line[512];

	for (size_t i = 0; i < NELEM(path_cases); i++) {
		const struct path_case *pc = &path_cases[i];
		bool taken = pc->mail[0] == '2';

		snprintf(line, sizeof(line), "MAIL FROM:%s", pc->path);
		say(fd, line, pc->mail);
		if (!taken)
			say(fd, "MAIL FROM:<>", "250");
		snprintf(line, sizeof(line), "RCPT TO:%s", pc->path);
		say(fd, line, pc->rcpt);
		if (pc->rcpt[0] != '2')
			say(fd, "RCPT TO:<alice@localhost>", "250");
		say(fd, "DATA", "354");
		say(fd, ".", "250");
		const struct kept *k = &fake.kept[(fake.n - 1) % KEPT];

		if (pc->mailbox == NULL)
			continue;
		ck_assert_str_eq(k->sender, pc->mailbox);
		snprintf(line, sizeof(line), "%s;",
		    pc->rcpt[0] == '2' ? pc->mailbox : "alice@localhost");
		ck_assert_str_eq(k->rcpts, line);
	}
	close(fd);
}
END_TEST

/* RFC 5321 4.5.1: it has no domain, and any case. */
START_TEST(rfc5321_4_1_1_3_postmaster)
{
	int fd = greeted();

	say(fd, "MAIL FROM:<postmaster>", "501 5.1.7");
	say(fd, "MAIL FROM:<>", "250");
	say(fd, "RCPT TO:<postmaster>", "250 2.1.5");
	say(fd, "RCPT TO:<PostMaster>", "250 2.1.5");
	say(fd, "RCPT TO:<POSTMASTER@LOCALHOST>", "250 2.1.5");
	say(fd, "RCPT TO:<postmasters>", "501 5.1.3");
	say(fd, "RCPT TO:<postmaster>x", "501 5.5.4 a blank parts");
	say(fd, "RCPT TO:<alice>", "501 5.1.3");
	say(fd, "DATA", "354");
	say(fd, ".", "250");
	ck_assert_str_eq(fake.kept[0].rcpts,
	    "postmaster;postmaster;POSTMASTER@LOCALHOST;");
	close(fd);
}
END_TEST

#define NO_PARAM                                         \
	"501 5.5.4 no parameter: it is one blank, NAME," \
	" and perhaps =value (RFC 5321 4.1.2)"

/* RFC 5321 4.1.1.2: the path, and then parameters; RFC 1870 6.1: SIZE. */
START_TEST(rfc5321_4_1_1_11_parameters)
{
	static const char *const cases[][2] = {
		{ "", "250" },
		{ "  ", "250" },
		{ " SIZE=0", "250" },
		{ " size=300000", "250" },
		{ " SIZE=300001", "552 5.3.4" },
		{ " SIZE=4294967297", "552 5.3.4" },
		{ " SIZE=18446744073709551616", "552 5.3.4" },
		{ " SIZE=99999999999999999999", "552 5.3.4" },
		{ " SIZE=00000000000000000009", "250" },
		{ " SIZE=000000000000000000009", "501 5.5.4" },
		{ " SIZE=", "501 5.5.4 SIZE= needs 1 to 20" },
		{ " SIZE", "501 5.5.4 SIZE= needs 1 to 20" },
		{ " SIZE BODY=7BIT", "501 5.5.4 SIZE= needs 1 to 20" },
		{ " SIZE==9", "501 5.5.4 SIZE= needs 1 to 20" },
		{ " SIZE=-1", "501 5.5.4" },
		{ " SIZE=1x", "501 5.5.4" },
		{ " SIZE=+1", "501 5.5.4" },
		{ " SIZE=9 SIZE=9", "501 5.5.4 SIZE= or BODY= comes twice" },
		{ " BODY=7BIT", "250" },
		{ " body=8bitmime", "250" },
		{ " BODY=9BIT", "501 5.5.4" },
		{ " BODY=", "501 5.5.4 BODY= is 7BIT" },
		{ " BODY", "501 5.5.4 BODY= is 7BIT" },
		{ " BODY SIZE=9", "501 5.5.4 BODY= is 7BIT" },
		{ " BODY7BIT", "555 5.5.4 unknown: BODY7BIT (" },
		{ " BODY=7BITS", "501 5.5.4" },
		{ " BODY=7BIT BODY=8BITMIME", "501 5.5.4" },
		{ " SIZE=9 BODY=8BITMIME", "250" },
		{ " BODY=8BITMIME SIZE=9  ", "250" },
		{ "  SIZE=9", NO_PARAM },
		{ " SIZE=9  BODY=7BIT", NO_PARAM },
		{ " =3", NO_PARAM },
		{ " -X=3", NO_PARAM },
		{ " X", "555 5.5.4 unknown: X (RFC 5321 4.1.1.11)" },
		{ " X=", NO_PARAM },
		{ " X-9-", "555 5.5.4 unknown: X-9- (" },
		{ " X_Y=3", NO_PARAM },
		{ " SIZES=9", "555 5.5.4 unknown: SIZES=9 (" },
		{ " SIZ=9", "555 5.5.4 unknown: SIZ=9 (" },
		{ " FOO=BAR", "555 5.5.4 unknown: FOO=BAR (" },
		{ " FOO=BAR SIZE=9", "555 5.5.4 unknown: FOO=BAR (" },
		{ " BODY=7BIT RET=HDRS", "555 5.5.4" },
		{ " SMTPUTF8", "555 5.5.4" },
		{ " AUTH=<>", "555 5.5.4" },
		{ " AUTH=<x+0Aevil>", "555 5.5.4" },
		{ " RET=HDRS ENVID=QQ+0A", "555 5.5.4" },
		{ " a=\"=", "555 5.5.4" },
		{ "SIZE=5", "501 5.5.4" },
		{ " SIZE=5>", "501 5.5.4" },
	};
	int fd = greeted();
	char line[256];

	for (size_t i = 0; i < NELEM(cases); i++) {
		snprintf(line, sizeof(line), "MAIL FROM:<a@b>%s", cases[i][0]);
		say(fd, line, cases[i][1]);
		say(fd, "RSET", "250");
	}
	say(fd, "mail from : <a@b>", "501 5.5.4");
	say(fd, "mail from:<a@b>", "250");
	say(fd, "rcpt to:<alice@localhost> SIZE=1", "555 5.5.4");
	say(fd, "rcpt to:<alice@localhost> x y",
	    "555 5.5.4 unknown: x (RFC 5321 4.1.1.11)");
	say(fd, "rcpt to:<alice@localhost>  x", NO_PARAM);
	say(fd, "rcpt to:<alice@localhost> =x", NO_PARAM);
	say(fd, "rcpt to:<alice@localhost> NOTIFY=NEVER", "555 5.5.4");
	say(fd, "rcpt to:<alice@localhost> ORCPT=rfc822;a+0A-evil", "555");
	say(fd, "rcpt to:<alice@localhost>  ", "250");
	say(fd, "rcpt from:<alice@localhost>", "501 5.5.4 wanted: RCPT TO");
	close(fd);
}
END_TEST

/* "WORD<aaa@bbb.bbb>" with these lengths. */
static void
make_path(char *line, const char *word, size_t local, size_t domain)
{
	line += sprintf(line, "%s<", word);
	memset(line, 'a', local);
	line += local;
	*line++ = '@';
	for (size_t i = 0; i < domain; i++)
		*line++ = i % 50 == 49 && i + 1 < domain ? '.' : 'b';
	sprintf(line, ">");
}

/* RFC 5321 4.5.3.1.1, 4.5.3.1.2 and 4.5.3.1.3: at each limit, and past it. */
START_TEST(rfc5321_4_5_3_1_address_limits)
{
	static const struct {
		size_t local, domain;
		const char *want;
	} cases[] = {
		{ 64, 1, "250" },
		{ 65, 1,
		    "501 5.1.7 no address: its local part has over 64 octets "
		    "(RFC 5321 4.1.2, 4.5.3.1)" },
		{ 1, 252, "250" }, /* a path of 256 octets */
		{ 1, 253, "501 5.1.7 no address: it has over 256 octets (RFC" },
		{ 64, 189, "250" },
		{ 64, 190, "501 5.1.7" },
		{ 1, 255, "501 5.1.7 no address: it has over 256" },
		{ 1, 256,
		    "501 5.1.7 no address: its domain has over 255 octets (" },
		{ 1000, 500, "501 5.1.7" },
	};
	int fd = greeted();
	char line[2048];

	for (size_t i = 0; i < NELEM(cases); i++) {
		make_path(line, "MAIL FROM:", cases[i].local, cases[i].domain);
		say(fd, line, cases[i].want);
		say(fd, "RSET", "250");
	}
	char want[2100];

	make_path(line, "MAIL FROM:", 64, 189);
	snprintf(want, sizeof(want), "250 2.1.0 sender OK: %s\r\n", line + 10);
	say(fd, line, want);
	make_path(line, "RCPT TO:", 64, 189);
	snprintf(want, sizeof(want), "250 2.1.5 recipient OK: %s\r\n",
	    line + 8);
	say(fd, line, want);
	say(fd, "DATA", "354");
	say(fd, ".", "250");
	ck_assert_uint_eq(strlen(fake.kept[0].sender), 254);
	for (size_t len = 255; len <= 256; len++) {
		strcpy(line, "EHLO ");
		for (size_t at = 0; at < len; at++)
			strcat(line, at % 50 == 49 ? "." : "c");
		say(fd, line, len == 255 ? "250" : "501");
	}
	for (int label = 63; label <= 64; label++) { /* RFC 1035 2.3.4 */
		snprintf(line, sizeof(line), "EHLO %0*d.test", label, 0);
		say(fd, line, label == 63 ? "250" : "501");
	}
	close(fd);
}
END_TEST

/* ---- lines --------------------------------------------------------------- */

/* A command line of len octets, CRLF included. */
static void
say_line_of(int fd, size_t len, const char *want)
{
	char *line = malloc(len);

	memset(line, 'x', len);
	memcpy(line, "NOOP ", 5);
	memcpy(line + len - 2, "\r\n", 2);
	say_octets(fd, line, len, want);
	free(line);
}

START_TEST(rfc5321_4_5_3_1_4_command_line)
{
	int fd = greeted();

	say_line_of(fd, 512, "250");
	say_line_of(fd, SMTP_LINE, "250");
	say_line_of(fd, SMTP_LINE + 1, "500 5.5.2 too long");
	say_line_of(fd, SMTP_LINE + 2, "500 5.5.2");
	say_line_of(fd, 20000, "500 5.5.2");
	say(fd, "NOOP", "250");
	close(fd);
}
END_TEST

/* One line of 4 MB: one reply, and memory stays what it was. */
START_TEST(rfc5321_4_5_3_1_9_line_without_end)
{
	int fd = greeted();
	size_t at = 0;
	char piece[4096];

	memset(piece, 'x', sizeof(piece));
	for (int i = 0; i < (STRESS ? 4 : 1000); i++)
		client_send(fd, piece, sizeof(piece));
	ck_assert_str_eq(hear(fd, NULL), "");
	for (struct conn *c; (c = net_walk(KIND_SMTP, &at)) != NULL;)
		ck_assert(c->listening || c->in.cap == SMALL_BUF);
	say(fd, "", "500 5.5.2 too long (RFC 5321 4.5.3.1.4)");
	say(fd, "NOOP", "250");
	close(fd);
}
END_TEST

/* Only CRLF ends a line; another is answered, never obeyed. */
START_TEST(rfc5321_2_3_8_bare_lf)
{
	int fd = greeted();

	say_octets(fd, "QUIT\n", 5,
	    "500 5.5.2 a line ends in CR LF, not LF (nc -C)");
	say_octets(fd, "\n", 1, "500 5.5.2");
	say_octets(fd, "NOOP\nNOOP\r\n", 11, "500|250");
	say_octets(fd, "NOOP\rNOOP\r\n", 11, "501 5.5.2");
	say_octets(fd, "NOOP\r\r\n", 7, "501");
	say_octets(fd, "MAIL FROM:<a@b>\n", 16, "500");
	say(fd, "RCPT TO:<alice@localhost>", "503");
	close(fd);
}
END_TEST

/* Nothing but printable ASCII in a command (RFC 5321 4.1.2). */
START_TEST(rfc5321_4_1_2_octets)
{
	static const struct {
		const char *line;
		size_t len;
	} cases[] = {
#define LINE(text) { text, sizeof(text) - 1 }
		LINE("MAIL FROM:<a\0b@c>\r\n"),
		LINE("NOOP\0\r\n"),
		LINE("\0NOOP\r\n"),
		LINE("MAIL FROM:<a\rX: 1@b>\r\n"),
		LINE("EHLO a\vb\r\n"),
		LINE("EHLO a\fb\r\n"),
		LINE("EHLO a\tb\r\n"),
		LINE("NOOP \177\r\n"),
		LINE("NOOP \x1b[31m\r\n"),
		LINE("RCPT TO:<a\xc3>\r\n"),
		LINE("MAIL FROM:<j\xc3\xb6rg@c>\r\n"),
		LINE("MAIL FROM:<a@b>\0 SIZE=9\r\n"),
	};
	int fd = greeted();

	for (size_t i = 0; i < NELEM(cases); i++)
		say_octets(fd, cases[i].line, cases[i].len, "501 ");
	say_octets(fd, "NOOP \xff\r\n", 8,
	    "501 5.5.2 not printable: "
	    "octet 6 is \\377; SMTPUTF8 is not offered");
	say(fd, "RCPT TO:<alice@localhost>", "503");
	close(fd);
}
END_TEST

/* A browser that was told to speak SMTP. */
START_TEST(rfc5321_7_8_other_protocols)
{
	static const char *const first[] = { "GET / HTTP/1.1",
		"POST / HTTP/1.0", "CONNECT a:25 HTTP/1.1", "get /",
		"Host: localhost:2525", "POST \xff" };

	for (size_t i = 0; i < NELEM(first); i++) {
		int fd = client();
		char line[128];

		hear(fd, NULL);
		snprintf(line, sizeof(line), "%s\r\nHELO a\r\nMAIL FROM:<>\r\n",
		    first[i]);
		client_send(fd, line, strlen(line));
		expect_closed(fd, "421 4.7.0");
	}
}
END_TEST

/* ---- policy -------------------------------------------------------------- */

/* RFC 5321 7.9: for strangers, nothing goes elsewhere; 550, for good (RFC 5321
 * 3.3). */
START_TEST(rfc5321_3_6_2_relaying)
{
	int fd = greeted();

	say(fd, "MAIL FROM:<a@b>", "250");
	say(fd, "RCPT TO:<x@far.test>", "250 2.1.5");
	loopback.net[12] = 10; /* we are strangers now */
	say(fd, "RCPT TO:<x@far.test>", "550 5.7.1 relaying denied");
	say(fd, "RCPT TO:<x@[192.0.2.1]>", "550 5.7.1");
	say(fd, "RCPT TO:<@relay.test:x@far.test>", "550 5.7.1");
	say(fd, "RCPT TO:<x%far.test@localhost>", "550 5.1.1");
	say(fd, "RCPT TO:<x@relay.test>", "250");
	say(fd, "RCPT TO:<alice@localhost>", "250");
	loopback.net[12] = 127;
	say(fd, "RCPT TO:<nobody@localhost>", "550 5.1.1");
	say(fd, "RCPT TO:<nobody@relay.test>", "550 5.1.1");
	say(fd, "DATA", "354");
	say(fd, ".", "250");
	ck_assert_str_eq(fake.kept[0].rcpts,
	    "x@far.test;x@relay.test;alice@localhost;");
	close(fd);
}
END_TEST

START_TEST(rfc5321_4_5_3_1_10_too_many_recipients)
{
	int fd = greeted();

	for (int again = 0; again < 2; again++) {
		say(fd, "MAIL FROM:<a@b>", "250");
		for (int i = 0; i < MAX_RCPTS; i++)
			say(fd, "RCPT TO:<alice@localhost>", "250");
		say(fd, "RCPT TO:<alice@localhost>", "452 4.5.3");
		say(fd, "RCPT TO:<nobody@localhost>", "550");
		say(fd, "DATA", "354");
		say(fd, ".", "250");
	}
	close(fd);
}
END_TEST

/* For now, that is (RFC 5321 3.3): the same command is taken later. */
START_TEST(rfc5321_4_2_5_no_memory)
{
	int fd = greeted();

	fake.no_memory = true;
	say(fd, "MAIL FROM:<a@b>", "452 4.3.0");
	fake.no_memory = false;
	say(fd, "MAIL FROM:<a@b>", "250");
	fake.no_memory = true;
	say(fd, "RCPT TO:<alice@localhost>", "452 4.3.0");
	say(fd, "DATA", "503");
	fake.no_memory = false;
	say(fd, "RCPT TO:<alice@localhost>", "250");
	close(fd);
}
END_TEST

START_TEST(rfc1985_5_etrn)
{
	int fd = greeted();

	say(fd, "ETRN", "501 5.5.4");
	say(fd, "ETRN a b", "501 5.5.4");
	say(fd, "ETRN #queue", "501 5.5.4");
	say(fd, "ETRN far.test", "459 4.7.1");
	say(fd, "ETRN localhost", "459 4.7.1");
	ck_assert_str_eq(fake.etrn, "");
	loopback.net[12] = 10; /* from strangers, too */
	say(fd, "ETRN Relay.Test", "250 2.0.0");
	loopback.net[12] = 127;
	ck_assert_str_eq(fake.etrn, "Relay.Test");
	say(fd, "ETRN @relay.test", "250 2.0.0");
	ck_assert_str_eq(fake.etrn, "relay.test");
	fake.nothing_waits = true;
	say(fd, "ETRN relay.test", "251 2.0.0");
	close(fd);
}
END_TEST

/* ---- content ------------------------------------------------------------- */

/* What the queue makes of content, however it is cut: at one place, and into
 * single octets.  The final dot is in it; want: what is said then. */
static void
feed_all_ways(const char *data, size_t len, const char *want, const char *kept)
{
	int fd = greeted();

	for (size_t cut = 0; cut <= len; cut++) {
		size_t before = fake.n;

		say(fd, "MAIL FROM:<a@b>\r\nRCPT TO:<alice@localhost>\r\nDATA",
		    "250|250|354");
		if (cut < len) {
			client_send(fd, data, cut);
			ck_assert_str_eq(hear(fd, NULL), "");
			say_octets(fd, data + cut, len - cut, want);
		} else {
			for (size_t i = 0; i + 1 < len; i++)
				client_send(fd, data + i, 1);
			ck_assert_str_eq(hear(fd, NULL), "");
			say_octets(fd, data + len - 1, 1, want);
		}
		ck_assert_uint_eq(fake.n, before + (kept != NULL));
		if (kept != NULL)
			ck_assert_str_eq(last_content(), kept);
	}
	close(fd);
	turns();
}

/* RFC 6152 3: all eight bits. */
START_TEST(rfc5321_4_5_2_transparency)
{
	static const char *const cases[][2] = {
		{ ".\r\n", "" },
		{ "\r\n.\r\n", "\n" },
		{ "a\r\n.\r\n", "a\n" },
		{ "a\r\n\r\nb\r\n.\r\n", "a\n\nb\n" },
		{ "..\r\n.\r\n", ".\n" },
		{ "...\r\n..a\r\n.\r\n", "..\n.a\n" },
		{ ".a\r\n.\r\n", "a\n" },
		{ "a.\r\n.\r\n", "a.\n" },
		{ "a\r\n..\r\n.\r\n", "a\n.\n" },
		{ ". \r\n.\r\n", " \n" },
		{ "QUIT\r\n.QUIT\r\n.\r\n", "QUIT\nQUIT\n" },
		{ "\xff\x80 8 bits\r\n.\r\n", "\xff\x80 8 bits\n" },
	};

	for (size_t i = 0; i < NELEM(cases); i++)
		feed_all_ways(cases[i][0], strlen(cases[i][0]), "250 2.0.0",
		    cases[i][1]);
}
END_TEST

/* Nor is it ours to judge: headers that are none, MIME that is broken, trace
 * fields of other forms (RFC 5321 3.3 and 3.7.2). */
START_TEST(rfc5321_3_3_content_is_not_judged)
{
	static const char *const cases[] = {
		"no header, and no empty line\n",
		"\nno header\n",
		"Subject: a header, and no more\n",
		": no name\nno colon\n\n",
		"From: one\nFrom: two\nDate: yesterday\n\n",
		"Received: by magic\nReturn-Path: <not@ours>\n\n",
		"Content-Type: multipart/mixed\n\nno boundary\n",
		"Content-Transfer-Encoding: base64\n\n!!!\n",
		"MIME-Version: 2.0\nContent-Type: ///\n\n--\n",
		"Subject: \xff\xfe\n\n\xff\n",
		" folded from the start\n\n",
	};
	int fd = greeted();

	for (size_t i = 0; i < NELEM(cases); i++) {
		say(fd, "MAIL FROM:<>\r\nRCPT TO:<alice@localhost>\r\nDATA",
		    "250|250|354");
		for (const char *at = cases[i]; *at != '\0'; at++)
			client_send(fd, *at == '\n' ? "\r\n" : at,
			    *at == '\n' ? 2 : 1);
		say(fd, ".", "250 2.0.0");
		ck_assert_str_eq(last_content(), cases[i]);
	}
	close(fd);
}
END_TEST

/* Ends that are none: each is content, and the message is refused, once, at
 * its true end (RFC 5321 4.1.1.4; CVE-2023-51764, -51765, -51766). */
START_TEST(rfc5321_2_3_8_smuggling)
{
	static const char *const ends[] = { "\n.\n", "\n.\r\n", "\r\n.\n",
		"\r.\r\n", "\r.\r", "\r.\n", "\n.\r", "\r\n.\r", "\r\r\n.\n",
		"\r\n.\r\r\n", "\r\n\r.\r\n", "\r\r\n", "\n\r\n", "\n\n.\r\n",
		"\r\n.\r.\r\n", "\n", "\r" };
	char data[256];

	for (size_t i = 0; i < NELEM(ends); i++) {
		int len = snprintf(data, sizeof(data),
		    "a%sMAIL FROM:<e@v>"
		    "\r\nx\r\n.\r\n",
		    ends[i]);

		feed_all_ways(data, (size_t)len, "554 5.6.0", NULL);
	}
	feed_all_ways("\n.\r\n\r\n.\r\n", 9, "554 5.6.0", NULL);
	feed_all_ways("\r.\r\n.\r\n", 7, "554 5.6.0", NULL);
}
END_TEST

/* NUL is text like any other (RFC 5321 4.1.1.4), and no line's end. */
START_TEST(rfc5321_4_1_1_4_nul_is_content)
{
	static const char data[] = "a\r\n\0.\r\n.\0\r\n.\0x\r\n\0\r\n.\r\n";
	static const char kept[] = "a\n\0.\n\0\n\0x\n\0\n";
	int fd = in_data();

	say_octets(fd, data, sizeof(data) - 1, "250 2.0.0");
	const struct kept *k = &fake.kept[0];

	ck_assert_uint_ge(k->m.size, sizeof(kept) - 1);
	say(fd, "NOOP", "250");
	close(fd);
}
END_TEST

/* What is refused late is refused once, and then commands go on. */
START_TEST(rfc5321_4_1_1_4_after_a_refusal)
{
	int fd = in_data();

	say(fd, "a\nb\r\n.\r\nNOOP\r\nMAIL FROM:<c@d>",
	    "554 5.6.0|250 2.0.0|250 2.1.0");
	say(fd, "RCPT TO:<alice@localhost>", "250");
	say(fd, "DATA", "354");
	say(fd, "b\r\n.", "250");
	ck_assert_str_eq(last_content(), "b\n");
	ck_assert_str_eq(fake.kept[0].sender, "c@d");
	close(fd);
}
END_TEST

/* Content of n octets as RFC 1870 6 counts them: lines, then the dot. */
static void
say_content_of(int fd, size_t octets, bool dots, const char *want)
{
	char *data = malloc(2 * octets + 8), *to = data;

	while (octets > 0) {
		size_t line = octets > 1002 ? 1000 : octets;

		if (dots)
			*to++ = '.'; /* doubled: not counted */
		memset(to, dots ? '.' : 'x', line - 2);
		to += line - 2;
		*to++ = '\r';
		*to++ = '\n';
		octets -= line;
	}
	memcpy(to, ".\r\n", 3);
	say_octets(fd, data, (size_t)(to + 3 - data), want);
	free(data);
}

START_TEST(rfc1870_6_size)
{
	int fd = greeted();

	for (int dots = 0; dots < 2; dots++) {
		say(fd, "MAIL FROM:<>\r\nRCPT TO:<alice@localhost>\r\nDATA",
		    "250|250|354");
		say_content_of(fd, MAX_MESSAGE, dots, "250 2.0.0");
		say(fd, "MAIL FROM:<>\r\nRCPT TO:<alice@localhost>\r\nDATA",
		    "250|250|354");
		say_content_of(fd, MAX_MESSAGE + 1, dots, "552 5.3.4");
	}
	say(fd, "NOOP", "250");
	ck_assert_uint_eq(fake.n, 2);
	close(fd);
}
END_TEST

/* What SIZE= has promised decides nothing about the end. */
START_TEST(rfc1870_6_size_is_no_end)
{
	static const char *const sizes[] = { "0", "1", "300000" };
	int fd = greeted();
	char line[64];

	for (size_t i = 0; i < NELEM(sizes); i++) {
		snprintf(line, sizeof(line), "MAIL FROM:<> SIZE=%s", sizes[i]);
		say(fd, line, "250");
		say(fd, "RCPT TO:<alice@localhost>\r\nDATA", "250|354");
		say_content_of(fd, 5000, false, "250 2.0.0");
	}
	say(fd, "NOOP", "250");
	close(fd);
}
END_TEST

/* A text line longer than any buffer counts, and its end is seen. */
START_TEST(rfc5321_4_5_3_1_6_text_line)
{
	static char line[LARGE_BUF + 100];
	size_t at = 0;
	int fd = in_data();

	memset(line, 'y', sizeof(line));
	client_send(fd, line, sizeof(line));
	for (struct conn *c; (c = net_walk(KIND_SMTP, &at)) != NULL;)
		ck_assert(c->listening || STRESS || c->in.cap == LARGE_BUF);
	say_octets(fd, "\r\n.\r\nNOOP\r\n", 11, "250|250");
	ck_assert_uint_eq(strlen(last_content()), sizeof(line) + 1);
	at = 0;
	for (struct conn *c; (c = net_walk(KIND_SMTP, &at)) != NULL;)
		ck_assert(c->listening || c->in.cap == SMALL_BUF);
	close(fd);
}
END_TEST

/* n header lines, and then the end of the message. */
static void
say_header(int fd, const char *line, int n, const char *rest, const char *want)
{
	static char data[65536];
	char *to = data;

	for (int i = 0; i < n; i++)
		to += sprintf(to, "%s\r\n", line);
	to += sprintf(to, "%s\r\n.\r\n", rest);
	say(fd, "MAIL FROM:<>\r\nRCPT TO:<alice@localhost>\r\nDATA",
	    "250|250|354");
	say_octets(fd, data, (size_t)(to - data), want);
}

#define EIGHT "12345678"

/* RFC 5322 4.5: a blank may stand before the colon.  What is neither a field
 * nor the rest of one is the body's first line, though no empty one came. */
START_TEST(rfc5321_6_3_loops)
{
	static const struct {
		const char *text; /* after 99 Received: lines */
		bool in_header;   /* and so the hundredth is counted */
	} lines[] = {
		{ "Received: x", true },
		{ "Received :x", true },
		{ "received \t : x", true },
		{ "Received", false },
		{ "Received by a: x", false },
		{ "Receive: x", false },
		{ "Receivedd: x", false },
		{ "Subject:\r\nReceived: x", true },
		{ "Subject \t: x\r\nReceived: x", true },
		{ " folded\r\n\tagain\r\nReceived: x", true },
		{ "a\r\nReceived: x", false },
		{ "a b\r\nReceived: x", false },
		{ "a b: c\r\nReceived: x", false },
		{ "a \r\nReceived: x", false },
		{ ":\r\nReceived: x", false },
		{ "\r\nReceived: x", false },
		{ "a\r\nb: c\r\nReceived: x", false },
		/* 78 octets of a name, and their colon, are looked at. */
		{ EIGHT EIGHT EIGHT EIGHT EIGHT EIGHT EIGHT EIGHT EIGHT
		    "123456:\r\nReceived: x",
		    true },
		{ EIGHT EIGHT EIGHT EIGHT EIGHT EIGHT EIGHT EIGHT EIGHT
		    "1234567:\r\nReceived: x",
		    false },
	};
	int fd = greeted();

	say_header(fd, "Received: from a", 99, "", "250");
	say_header(fd, "Received: from a", 100, "",
	    "554 5.4.6 a loop; Received: 100 times (RFC 5321 6.3)");
	say_header(fd, "rEcEiVeD:x", 100, "", "554 5.4.6");
	say_header(fd, "Received:\r\n\tfrom a", 99, "Received", "250");
	say_header(fd, " Received: from a", 100, "", "250");
	say_header(fd, "X-Received: from a", 100, "", "250");
	say_header(fd, "Received", 100, "", "250");
	say_header(fd, "Receiver: b", 100, "", "250");
	say_header(fd, "Received: from a", 99, "\r\nReceived: in the body",
	    "250");
	say_header(fd, "a\r\n\r\nReceived: in the body", 100, "", "250");
	say_header(fd, "Received: from a", 99, "..Received: x\r\nb", "250");
	for (size_t i = 0; i < NELEM(lines); i++)
		say_header(fd, "Received: from a", 99, lines[i].text,
		    lines[i].in_header ? "554 5.4.6" : "250");
	close(fd);
}
END_TEST

/* The name is believed, whatever the client's address (RFC 5321 4.1.4). */
START_TEST(rfc5321_4_4_received)
{
	int fd = in_data();
	msec before = srv.wall;

	say(fd, "Subject: x\r\n.", "250");
	const char *got = fake.kept[0].content;

	ck_assert_msg(strncmp(got,
			  "Received: from client.test ([127.0.0.1])\n"
			  "\tby mx.test with ESMTP id 0000000000000001\n"
			  "\tfor <alice@localhost>; ",
			  106) == 0,
	    "%s", got);
	got = strstr(got, "; ") + 2;
	struct tm tm;
	const char *end = strptime(got, "%a, %d %b %Y %H:%M:%S +0000\n", &tm);

	ck_assert_ptr_nonnull(end);
	ck_assert_str_eq(end, "Subject: x\n");
	ck_assert_int_ge(timegm(&tm), before / 1000);
	ck_assert_int_le(timegm(&tm), srv.wall / 1000);
	say(fd, "HELO [192.0.2.7]", "250");
	say(fd,
	    "MAIL FROM:<>\r\nRCPT TO:<alice@localhost>\r\n"
	    "RCPT TO:<x@relay.test>\r\nDATA\r\n.",
	    "250|250|250|354|250");
	got = fake.kept[1].content; /* RFC 5321 7.2: of two, none */
	ck_assert_msg(strncmp(got,
			  "Received: from [192.0.2.7] ([127.0.0.1])\n"
			  "\tby mx.test with SMTP id 0000000000000002; ",
			  84) == 0,
	    "%s", got);
	say(fd, "MAIL FROM:<>\r\nRCPT TO:<postmaster>\r\nDATA\r\n.",
	    "250|250|354|250");
	ck_assert_ptr_null(strstr(fake.kept[2].content, "for <"));
	close(fd);
}
END_TEST

/* Ours is on top; those of others are neither changed nor moved. */
START_TEST(rfc5321_4_4_lines_of_others)
{
	static const char theirs[] = "Received: from b by c; Mon, 1 Jan 90\n"
				     "Received: from a\n\tby b\n"
				     "Return-Path: <x@y>\n\n";
	int fd = in_data();

	say(fd,
	    "Received: from b by c; Mon, 1 Jan 90\r\n"
	    "Received: from a\r\n\tby b\r\n"
	    "Return-Path: <x@y>\r\n\r\n.",
	    "250");
	ck_assert_int_eq(strncmp(fake.kept[0].content,
			     "Received: from client.test ", 27),
	    0);
	ck_assert_str_eq(last_content(), theirs);
	close(fd);
}
END_TEST

/* RFC 5321 4.1.3: an IPv6 address has its tag. */
START_TEST(rfc5321_4_4_received_ipv6)
{
	server_open("[::1]");
	int fd = in_data();

	say(fd, ".", "250");
	ck_assert_ptr_nonnull(
	    strstr(fake.kept[0].content, "from client.test ([IPv6:::1])\n"));
	close(fd);
}
END_TEST

/* ---- the commit ---------------------------------------------------------- */

/* For whom may a commit wait?  For who has come, or has said something that is
 * not the end of a message. */
START_TEST(who_is_heard)
{
	srv.smtp_heard = false;
	int fd = client();

	hear(fd, NULL);
	ck_assert(srv.smtp_heard);
	srv.smtp_heard = false;
	hear(fd, NULL);
	ck_assert(!srv.smtp_heard);
	say(fd, "EHLO client.test", "250 ");
	ck_assert(srv.smtp_heard);
	say(fd, "MAIL FROM:<>\r\nRCPT TO:<alice@localhost>\r\nDATA",
	    "250|250|354");
	srv.smtp_heard = false;
	say(fd, "a\r\n.", "250");
	ck_assert_int_eq(srv.smtp_heard, STRESS); /* octet by octet: before */
	close(fd);
}
END_TEST

/* A message that does not come at once is shown. */
START_TEST(shown_while_it_comes)
{
	int fd = greeted();

	for (size_t i = 0; i < 2; i++) {
		say(fd, "MAIL FROM:<>\r\nRCPT TO:<alice@localhost>\r\nDATA",
		    "250|250|354");
		if (i == 1)
			say(fd, "a", "");
		say(fd, "b\r\n.", "250");
		ck_assert_int_eq(fake.kept[i].shown, i == 1 || STRESS);
	}
	close(fd);
}
END_TEST

/* One reply after the end of content (RFC 5321 4.1.1.4), for good or ill. */
START_TEST(rfc5321_4_2_5_the_disk_refuses)
{
	static const struct {
		int error;
		const char *want;
	} cases[] = {
		{ ENOSPC, "452 4.3.1 try later: No space left" },
		{ EDQUOT, "452 4.3.1" },
		{ EFBIG, "452 4.3.1" },
		{ EIO, "451 4.3.0" },
		{ ENOMEM, "451 4.3.0" },
		{ EROFS, "451 4.3.0" },
		{ 0, "250 2.0.0" },
	};
	int fd = greeted();

	for (size_t i = 0; i < NELEM(cases); i++) {
		say(fd, "MAIL FROM:<>\r\nRCPT TO:<alice@localhost>\r\nDATA",
		    "250|250|354");
		fake.error = cases[i].error;
		say(fd, "a\r\n.", cases[i].want);
	}
	ck_assert_uint_eq(fake.n, 1);
	ck_assert_uint_eq(fake.live, 0);
	close(fd);
}
END_TEST

/* Two clients' dots in one turn, and no 250 before the commit. */
START_TEST(rfc5321_4_1_1_4_many_in_one_commit)
{
	int one = in_data(), two = in_data();

	ck_assert_int_eq(send(one, "1\r\n.\r\n", 6, 0), 6);
	ck_assert_int_eq(send(two, "2\r\n.\r\n", 6, 0), 6);
	for (int i = 0; i < (STRESS ? 6 : 1); i++) {
		net_wait(srv.now);
		smtp_serve();
		if (fake.n_submitted > 0)
			break;
		smtp_answer();
		net_settle();
		smtp_reap();
	}
	net_settle();
	char octet;

	ck_assert_uint_eq(fake.n_submitted, 2);
	ck_assert_int_lt(recv(one, &octet, 1, MSG_DONTWAIT), 0);
	queue_commit();
	smtp_answer();
	net_settle();
	smtp_reap();
	ck_assert(replies_fit(hear(one, NULL), "250 2.0.0"));
	ck_assert(replies_fit(hear(two, NULL), "250 2.0.0"));
	close(one);
	close(two);
}
END_TEST

/* The commit waits for others, and meanwhile its client, first or last of
 * those that wait, is gone: the message stays, and the other one's 250. */
START_TEST(client_leaves_in_the_commit)
{
	int fds[2] = { in_data(), in_data() }, leaves = fds[_i];
	struct sockaddr_in6 peer;
	socklen_t len = sizeof(peer);
	struct conn *c;

	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(send(fds[i], "1\r\n.\r\n", 6, 0), 6);
	while (fake.n_submitted < 2) {
		net_wait(srv.now);
		smtp_serve();
		net_settle();
		smtp_reap();
		smtp_check();
	}
	ck_assert_int_eq(getsockname(leaves, (struct sockaddr *)&peer, &len),
	    0);
	for (size_t at = 0; (c = net_walk(KIND_SMTP, &at)) != NULL;)
		if (!c->listening &&
		    memcmp(&c->peer, &peer, len) == 0)
			net_drop(c); /* as when a reply cannot be sent */
	net_settle();
	smtp_reap();
	smtp_check();
	ck_assert_uint_eq(srv.net.n_clients, 1);
	turns();
	ck_assert_uint_eq(fake.n, 2);
	ck_assert_uint_eq(fake.live, 0);
	ck_assert(replies_fit(hear(fds[1 - _i], NULL), "250 2.0.0"));
	close(fds[0]);
	close(fds[1]);
}
END_TEST

/* ---- pipelining (RFC 2920) ----------------------------------------------- */

/* A session as one octet string, and what is said to it. */
static const char whole[] =
    "EHLO client.test\r\n"
    "MAIL FROM:<a@b>\r\nRCPT TO:<alice@localhost>\r\nDATA\r\n"
    "one\r\n..\r\n.\r\n"
    "RSET\r\nMAIL FROM:<c@d>\r\nRCPT TO:<nobody@localhost>\r\nDATA\r\n"
    "NOOP\r\n" /* no 354: a command */
    "RCPT TO:<alice@localhost>\r\nDATA\r\ntwo\r\n.\r\n"
    "MAIL FROM:<e@f>\r\nRCPT TO:<alice@localhost>\r\nDATA\r\nx\ny\r\n.\r\n"
    "QUIT\r\nNOOP\r\n";
static const char whole_replies[] =
    "220|250 ETRN|250 2.1.0|250 2.1.5|354|250 2.0.0 0|"
    "250 2.0.0 OK|250 2.1.0|550 5.1.1|503 5.5.1|250 2.0.0 OK|"
    "250 2.1.5|354|250 2.0.0 0|250 2.1.0|250 2.1.5|354|554 5.6.0|221";

/* RFC 5321 4.2: one reply to every command. */
START_TEST(rfc2920_3_2_any_grouping)
{
	size_t len = sizeof(whole) - 1;

	/* What is sent after the server has closed resets the connection. */
	for (size_t cut = 0; cut < len - 6; cut += STRESS ? 50 : 1) {
		int fd = client();

		fake.n = 0;
		client_send(fd, whole, cut);
		client_send(fd, whole + cut, len - cut);
		expect_closed(fd, whole_replies);
		ck_assert_uint_eq(fake.n, 2);
		ck_assert_str_eq(last_content(), "two\n");
	}
}
END_TEST

START_TEST(rfc2920_3_2_octet_by_octet)
{
	int fd = client();

	for (size_t i = 0; i < sizeof(whole) - 1 - 6; i++)
		client_send(fd, whole + i, 1);
	expect_closed(fd, whole_replies);
	ck_assert_uint_eq(fake.n, 2);
}
END_TEST

/* More commands than answers have room for: all are answered, in order. */
START_TEST(rfc2920_3_2_a_long_group)
{
	static char group[120000], heard[400000];
	char *to = group;
	size_t n = STRESS ? 300 : 8000, len = 0;
	int fd = greeted(), idle = 0;

	for (size_t i = 0; i < n; i++)
		to += sprintf(to, i % 2 ? "NOOP\r\n" : "VRFY a\r\n");
	const char *from = group, *at = heard;

	/* Nobody is idle for a thousand turns unless something is wrong. */
	for (size_t lines = 0; lines < n && idle < 1000;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		ssize_t moved = send(fd, from, (size_t)(to - from),
		    MSG_DONTWAIT | MSG_NOSIGNAL);

		from += moved > 0 ? moved : 0;
		turn();
		idle = poll(&p, 1, from < to ? 0 : 1) > 0 ? 0 : idle + 1;
		moved = recv(fd, heard + len, sizeof(heard) - 1 - len,
		    MSG_DONTWAIT);
		for (; moved > 0; moved--)
			lines += heard[len++] == '\n';
	}

	for (size_t i = 0; i < n; i++) {
		ck_assert_msg(strncmp(at, i % 2 ? "250 " : "252 ", 4) == 0,
		    "reply %zu of %zu: %.60s", i, n, at);
		at = strstr(at, "\r\n") + 2;
	}
	ck_assert_str_eq(at, "");
	close(fd);
}
END_TEST

/* Who does not read is not read either, and is late in the end. */
START_TEST(rfc5321_7_8_a_client_that_never_reads)
{
	int small = 2048, fd = greeted(), other = greeted();
	size_t sent = 0;

	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	for (int idle = 0; idle < 3;) {
		char group[6000];

		for (size_t i = 0; i < sizeof(group); i += 6)
			memcpy(group + i, "NOOP\r\n", 6);
		ssize_t n = send(fd, group, sizeof(group), MSG_DONTWAIT);

		idle = n > 0 ? 0 : idle + 1;
		sent += n > 0 ? (size_t)n : 0;
		ck_assert_uint_lt(sent, 64 << 20);
		turns();
	}
	say(other, "NOOP", "250");
	srv.frozen += 300 * SECOND - 1;
	turns();
	ck_assert_uint_eq(srv.net.n_clients, 2);
	say(other, "NOOP", "250");
	srv.frozen += 1;
	turns();
	srv.frozen += 5 * SECOND; /* its last words wait no longer */
	turns();
	ck_assert_uint_eq(srv.net.n_clients, 1);
	say(other, "NOOP", "250");
	close(fd);
	close(other);
}
END_TEST

/* ---- ends ---------------------------------------------------------------- */

/* A client, greeted as if it came from elsewhere: loopback is never counted. */
static int
stranger(void)
{
	int fd = greeted();
	struct conn *conn;

	for (size_t at = 0; (conn = net_walk(KIND_SMTP, &at)) != NULL;)
		conn->counted = !conn->listening;
	return fd;
}

/* A stranger's hundredth error is answered, the next one ends it all; what is
 * right in between does not help.  Others may err as they like. */
START_TEST(rfc5321_7_8_too_many_errors)
{
	int fd = greeted();

	for (int i = 0; i < 200; i++)
		say(fd, "X", "500 5.5.2");
	say(fd, "QUIT", "221");
	close(fd);
	turns();
	loopback.net[12] = 10;
	fd = stranger();
	say(fd, "MAIL FROM:<a@b>", "250");
	for (int i = 0; i < 50; i++) {
		say(fd, "RCPT TO:<nobody@localhost>", "550 5.1.1");
		say(fd, "RCPT TO:<alice@localhost>", i < MAX_RCPTS ? "250" :
								     "452");
		say(fd, "RCPT TO:<x@far.test>", "550 5.7.1");
	}
	say(fd, "RCPT TO:<nobody@localhost>",
	    "421 4.7.0 too many errors (RFC 5321 7.8)");
	expect_closed(fd, "");
	loopback.net[12] = 127;
}
END_TEST

/* A message that is refused after the dot is an error like any other, and so
 * is one that is refused at MAIL. */
START_TEST(rfc5321_7_8_too_many_refused_messages)
{
	int fd = stranger();

	for (int i = 0; i < 50; i++) {
		say(fd, "MAIL FROM:<> SIZE=300001", "552 5.3.4");
		say(fd, "MAIL FROM:<>", "250");
		say(fd, "RCPT TO:<alice@localhost>", "250");
		say(fd, "DATA", "354");
		say(fd, "a bare \n LF\r\n.", "554 5.6.0");
	}
	say(fd, "MAIL FROM:<>", "250");
	say(fd, "RCPT TO:<alice@localhost>", "250");
	say(fd, "DATA", "354");
	say(fd, "one more \n\r\n.", "421 4.7.0 too many errors (RFC 5321 7.8)");
	expect_closed(fd, "");
	ck_assert_uint_eq(fake.n, 0);
}
END_TEST

START_TEST(rfc5321_4_5_3_2_7_timeout)
{
#define TO_ALICE "EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<alice@localhost>\r\n"
	static const char *const before[] = { "", "EHLO a\r\n", TO_ALICE,
		(TO_ALICE "DATA\r\nhalf a line") };

	for (size_t i = 0; i < NELEM(before); i++) {
		int fd = client();

		srv.frozen += 200 * SECOND;
		client_send(fd, before[i], strlen(before[i]));
		hear(fd, NULL);
		srv.frozen += (i == 0 ? 100 : 300) * SECOND - 1;
		turns();
		ck_assert_str_eq(hear(fd, NULL), "");
		ck_assert_uint_eq(srv.net.n_clients, 1);
		srv.frozen += 1;
		expect_closed(fd, "421 4.4.2");
	}
}
END_TEST

/* The wait is for a whole command: an octet now and then does not prolong it.
 * Content does, for it may be long. */
START_TEST(rfc5321_4_5_3_2_7_slow)
{
	int fd = greeted();

	for (const char *at = "NOOP\r"; *at != '\0'; at++) {
		srv.frozen += 59 * SECOND;
		client_send(fd, at, 1);
	}
	say_octets(fd, "\n", 1, "250"); /* after 295 seconds */
	srv.frozen += 299 * SECOND;
	client_send(fd, "NO", 2);
	srv.frozen += SECOND;
	turns();
	expect_closed(fd, "421 4.4.2");
	fd = in_data();
	for (int i = 0; i < 5; i++) {
		srv.frozen += 299 * SECOND;
		client_send(fd, "x", 1);
	}
	say_octets(fd, "\r\n.\r\n", 5, "250");
	close(fd);
}
END_TEST

START_TEST(rfc5321_4_1_1_10_quit)
{
	int fd = in_data();

	say(fd, "QUIT\r\n.", "250"); /* inside of content it is text */
	ck_assert_str_eq(last_content(), "QUIT\n");
	say(fd, "MAIL FROM:<a@b>", "250");
	client_send(fd, "QUIT\r\n", 6);
	shutdown(fd, SHUT_WR);
	expect_closed(fd, "221 2.0.0");
}
END_TEST

/* All that came before the end of file is answered. */
START_TEST(rfc5321_3_8_half_close)
{
	int fd = client();

	ck_assert_int_gt(send(fd, whole, sizeof(whole) - 13, 0), 0);
	shutdown(fd, SHUT_WR);
	char want[sizeof(whole_replies)];

	snprintf(want, sizeof(want), "%s", whole_replies);
	want[strlen(want) - 4] = '\0'; /* but no 221 without QUIT */
	expect_closed(fd, want);
	ck_assert_uint_eq(fake.n, 2);
}
END_TEST

/* A connection that ends before the final dot leaves nothing; one that ends
 * right after it leaves the message (RFC 5321 4.1.1.10). */
START_TEST(rfc5321_4_1_1_10_lost_connections)
{
	struct linger reset = { 1, 0 };

	for (int hard = 0; hard < 2; hard++)
		for (int dot = 0; dot < 2; dot++) {
			int fd = in_data();

			fake.n = 0;
			client_send(fd, "a\r\n", 3);
			if (dot)
				ck_assert_int_eq(send(fd, ".\r\n", 3, 0), 3);
			if (hard && dot) /* or the reset takes the dot away */
				turns();
			if (hard)
				setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset,
				    sizeof(reset));
			close(fd);
			turns();
			ck_assert_uint_eq(fake.n, (size_t)dot);
			ck_assert_uint_eq(fake.live, 0);
			ck_assert_uint_eq(srv.net.n_clients, 0);
		}
}
END_TEST

START_TEST(rfc5321_3_8_the_server_stops)
{
	int new = client(), data = in_data();

	hear(new, NULL);
	client_send(data, "half\r\n", 6);
	stop_all();
	net_settle();
	smtp_reap();
	ck_assert(replies_fit(hear(new, NULL), "421 4.3.2"));
	expect_closed(data, "421 4.3.2");
	ck_assert_uint_eq(fake.live, 0);
	close(new);
}
END_TEST

/* RFC 2034 4: a greeting has no enhanced code, not even one that refuses. */
START_TEST(too_many_clients)
{
	conf.max_clients = 1;
	int fd = greeted(), other = client();
	bool closed;

	ck_assert(replies_fit(hear(other, &closed), "421 too many"));
	ck_assert(closed);
	close(other);
	close(fd);
}
END_TEST

/* Everything is logged, but nothing that may be a password. */
START_TEST(log_and_trace)
{
	static const char *const there[] = { "connect peer=[127.0.0.1]:",
		"< EHLO client.test    (RFC 5321 4.1.1.1)", "NEW -> READY",
		"< (not shown)", "> 500 5.5.2 no such command",
		"< RCPT TO:<nobody@localhost>",
		"refused id=0000000000000002 peer=", "< (3 octets)",
		"smtp 0000000000000001 accepted conn=",
		"from=<bob@client.test> to=1 size=", "disconnect" };

	test_capture(2);
	log_level = 1;
	int fd = in_data();

	say(fd, "a\r\n.", "250");
	say(fd, "MAIL FROM:<>\r\nRCPT TO:<nobody@localhost>", "250|550");
	say(fd, "AUTH PLAIN c2VjcmV0", "500");
	say_octets(fd, "AUTH PLAIN c2VjcmV0\n", 20, "500");
	close(fd);
	turns();
	log_level = -1;
	const char *log = test_captured();

	for (size_t i = 0; i < NELEM(there); i++)
		ck_assert_msg(strstr(log, there[i]) != NULL, "no %s in:\n%s",
		    there[i], log);
	ck_assert_ptr_null(strstr(log, "c2VjcmV0"));
}
END_TEST

/* A session keeps the configuration that it began with. */
START_TEST(configuration_of_the_beginning)
{
	struct conf newer = conf;
	int fd = greeted();

	newer.refs = 0;
	newer.hostname = new_name;
	srv.conf = &newer;
	int other = client();

	ck_assert(replies_fit(hear(other, NULL), "220 new.test"));
	say(fd, "QUIT", "221 2.0.0 goodbye from mx.test");
	ck_assert_uint_eq(conf.refs, 0);
	ck_assert_uint_eq(newer.refs, 1);
	close(fd);
	close(other);
	turns();
	ck_assert_uint_eq(newer.refs, 0);
	srv.conf = &conf;
}
END_TEST

/* ---- laboratory ---------------------------------------------------------- */

static struct fault fault;

static void
set_fault(const char *verb, enum fault_action action, unsigned code)
{
	fault = (struct fault){ .kind = KIND_SMTP,
		.action = action,
		.code = code,
		.percent = 100 };
	snprintf(fault.verb, sizeof(fault.verb), "%s", verb);
	conf.faults = &fault;
	conf.n_faults = 1;
}

START_TEST(fault_code)
{
	set_fault("connect", FAULT_CODE, 554);
	int fd = client();

	ck_assert_str_eq(hear(fd, NULL),
	    "554 a laboratory's fault (RFC 5321 4.2)\r\n");
	say(fd, "EHLO a", "503 Q"); /* RFC 5321 3.1 */
	say(fd, "NOOP", "503 5.5.1");
	say(fd, "XYZZY now", "503 5.5.1 QUIT is all that may follow");
	say(fd, "QUIT", "221");
	close(fd);
	set_fault("connect", FAULT_CODE, 421);
	expect_closed(client(),
	    "421 a laboratory's fault (RFC 5321 4.2)\r\n");
	set_fault("rcpt", FAULT_CODE, 450);
	fd = greeted();
	say(fd, "MAIL FROM:<>", "250");
	say(fd, "RCPT TO:<alice@localhost>", "450 4.3.0");
	set_fault("EHLO", FAULT_CODE, 550);
	say(fd, "EHLO a", "550 a");
	set_fault("DOT", FAULT_CODE, 554);
	say(fd, "RCPT TO:<alice@localhost>\r\nDATA\r\na\r\n.",
	    "250|354|554 5.3.0");
	ck_assert_uint_eq(fake.n, 0);
	say(fd, "MAIL FROM:<>\r\nRCPT TO:<alice@localhost>\r\nDATA",
	    "250|250|354");
	set_fault("dot", FAULT_CODE, 421);
	client_send(fd, ".\r\n", 3);
	expect_closed(fd, "421 4.3.0");
	ck_assert_uint_eq(fake.n, 0);
}
END_TEST

START_TEST(fault_drop)
{
	set_fault("connect", FAULT_DROP, 0);
	expect_closed(client(), "");
	set_fault("MAIL", FAULT_DROP, 0);
	int fd = greeted();

	client_send(fd, "MAIL FROM:<>\r\nNOOP\r\n", 20);
	expect_closed(fd, "");
	fd = greeted(); /* but what came before is answered */
	client_send(fd, "NOOP\r\nVRFY a\r\nMAIL FROM:<>\r\nNOOP\r\n", 34);
	expect_closed(fd, "250|252");
	set_fault("dot", FAULT_DROP, 0);
	fd = in_data();
	client_send(fd, "a\r\n.\r\nNOOP\r\n", 12);
	expect_closed(fd, "");
	ck_assert_uint_eq(fake.n, 0);
}
END_TEST

START_TEST(fault_stall)
{
	static const char *const verb[] = { "connect", "EHLO", "dot" };

	for (size_t i = 0; i < NELEM(verb); i++) {
		set_fault(verb[i], FAULT_STALL, 0);
		int fd = client();

		client_send(fd, whole, sizeof(whole) - 1);
		hear(fd, NULL);
		client_send(fd, whole, sizeof(whole) - 1);
		ck_assert_str_eq(hear(fd, NULL), "");
		if (i == 0)
			shutdown(fd, SHUT_WR);
		else
			srv.frozen += 300 * SECOND;
		expect_closed(fd, "");
	}
	ck_assert_uint_eq(fake.n, 0);
}
END_TEST

/* ---- states -------------------------------------------------------------- */

/* What clients say, each before it hangs up. */
static const char *const walks[] = { "", "EHLO a\r\nEHLO a\r\n",
	"EHLO a\r\nMAIL FROM:<>\r\n", TO_ALICE,
	TO_ALICE "RCPT TO:<alice@localhost>\r\nRSET\r\n",
	"EHLO a\r\nMAIL FROM:<>\r\nRSET\r\n", (TO_ALICE "DATA\r\n"),
	(TO_ALICE "DATA\r\n.\r\n"), (TO_ALICE "DATA\r\n\n\r\n.\r\n") };

/* Every edge of states[] is gone, and no other. */
START_TEST(rfc5321_4_1_4_every_edge)
{
	char edge[64];

	test_capture(2);
	log_level = 1;
	for (size_t i = 0; i <= NELEM(walks); i++) {
		if (i == NELEM(walks)) /* the last one is refused */
			set_fault("connect", FAULT_CODE, 554);
		int fd = client();

		if (i < NELEM(walks))
			client_send(fd, walks[i], strlen(walks[i]));
		shutdown(fd, SHUT_WR);
		hear(fd, NULL);
		close(fd);
	}
	turns();
	log_level = -1;
	const char *log = test_captured();

	for (unsigned from = 0; from < N_SMTP_STATES; from++)
		for (unsigned to = 0; to < N_SMTP_STATES; to++) {
			snprintf(edge, sizeof(edge), " %s -> %s\n",
			    states[from].name, states[to].name);
			ck_assert_msg((strstr(log, edge) != NULL) ==
				((states[from].may_follow & IN(to)) != 0),
			    "%s", edge);
		}
}
END_TEST

/* ---- all of them --------------------------------------------------------- */

static TCase *
new_case(Suite *suite, const char *name)
{
	TCase *tc = tcase_create(name);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 120);
	suite_add_tcase(suite, tc);
	return tc;
}

static void
add_commands(Suite *suite)
{
	TCase *tc = new_case(suite, "commands");

	tcase_add_test(tc, rfc5321_4_1_1_1_ehlo_lists_extensions);
	tcase_add_test(tc, rfc5321_4_2_1_many_lines);
	tcase_add_test(tc, rfc5321_4_2_3_codes);
	tcase_add_test(tc, rfc5321_4_5_3_1_5_reply_line);
	tcase_add_test(tc, rfc5321_3_8_errors_do_not_close);
	tcase_add_test(tc, rfc2034_4_enhanced_codes);
	tcase_add_test(tc, rfc5321_4_1_4_order);
	tcase_add_test(tc, rfc5321_4_2_4_verbs_and_arguments);
	tcase_add_test(tc, rfc5321_4_1_2_paths);
	tcase_add_test(tc, rfc5321_4_1_1_3_postmaster);
	tcase_add_test(tc, rfc5321_4_1_1_11_parameters);
	tcase_add_test(tc, rfc5321_4_5_3_1_address_limits);
	tcase_add_test(tc, rfc5321_4_5_3_1_4_command_line);
	tcase_add_test(tc, rfc5321_4_5_3_1_9_line_without_end);
	tcase_add_test(tc, rfc5321_2_3_8_bare_lf);
	tcase_add_test(tc, rfc5321_4_1_2_octets);
	tcase_add_test(tc, rfc5321_7_8_other_protocols);
	tcase_add_test(tc, rfc5321_3_6_2_relaying);
	tcase_add_test(tc, rfc5321_4_5_3_1_10_too_many_recipients);
	tcase_add_test(tc, rfc5321_4_2_5_no_memory);
	tcase_add_test(tc, rfc1985_5_etrn);
}

static void
add_content(Suite *suite)
{
	TCase *tc = new_case(suite, "content");

	tcase_add_test(tc, rfc5321_4_5_2_transparency);
	tcase_add_test(tc, rfc5321_3_3_content_is_not_judged);
	tcase_add_test(tc, rfc5321_2_3_8_smuggling);
	tcase_add_test(tc, rfc5321_4_1_1_4_nul_is_content);
	tcase_add_test(tc, rfc5321_4_1_1_4_after_a_refusal);
	tcase_add_test(tc, rfc1870_6_size);
	tcase_add_test(tc, rfc1870_6_size_is_no_end);
	tcase_add_test(tc, rfc5321_4_5_3_1_6_text_line);
	tcase_add_test(tc, rfc5321_6_3_loops);
	tcase_add_test(tc, rfc5321_4_4_received);
	tcase_add_test(tc, rfc5321_4_4_lines_of_others);
	tcase_add_test(tc, rfc5321_4_4_received_ipv6);
	tcase_add_test(tc, who_is_heard);
	tcase_add_test(tc, shown_while_it_comes);
	tcase_add_test(tc, rfc5321_4_2_5_the_disk_refuses);
	tcase_add_test(tc, rfc5321_4_1_1_4_many_in_one_commit);
	tcase_add_loop_test(tc, client_leaves_in_the_commit, 0, 2);
}

static void
add_sessions(Suite *suite)
{
	TCase *tc = new_case(suite, "sessions");

	tcase_add_test(tc, rfc2920_3_2_any_grouping);
	tcase_add_test(tc, rfc2920_3_2_octet_by_octet);
	tcase_add_test(tc, rfc2920_3_2_a_long_group);
	tcase_add_test(tc, rfc5321_7_8_a_client_that_never_reads);
	tcase_add_test(tc, rfc5321_7_8_too_many_errors);
	tcase_add_test(tc, rfc5321_7_8_too_many_refused_messages);
	tcase_add_test(tc, rfc5321_4_5_3_2_7_timeout);
	tcase_add_test(tc, rfc5321_4_5_3_2_7_slow);
	tcase_add_test(tc, rfc5321_4_1_1_10_quit);
	tcase_add_test(tc, rfc5321_3_8_half_close);
	tcase_add_test(tc, rfc5321_4_1_1_10_lost_connections);
	tcase_add_test(tc, rfc5321_3_8_the_server_stops);
	tcase_add_test(tc, too_many_clients);
	tcase_add_test(tc, log_and_trace);
	tcase_add_test(tc, configuration_of_the_beginning);
	tcase_add_test(tc, fault_code);
	tcase_add_test(tc, fault_drop);
	tcase_add_test(tc, fault_stall);
	tcase_add_test(tc, rfc5321_4_1_4_every_edge);
}

int
main(void)
{
	Suite *suite = suite_create("smtp");

	add_commands(suite);
	add_content(suite);
	add_sessions(suite);
	SRunner *runner = srunner_create(suite);

	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);

	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
