/*
 * check_net.c -- the ground: lines and buffers, addresses, names, the log,
 * deadlines, and connections from the first accept to the last word.
 *
 * A turn here is net_wait(), at most a few milliseconds long, then what the
 * test does to the connections, then net_settle().  The clock is held.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <sys/resource.h>
#include "testlib.h"

enum { TURNS = 300000 }; /* after so many a test has waited in vain */

static struct conf conf;

static void
begin(void)
{
	test_begin();
	conf = (struct conf){ .max_clients = 100, .refs = 1 };
	srv.conf = &conf;
	net_start();
}

/* ---- RFC 5321 2.3.8: lines ----------------------------------------------- */

static const char stream[] = "HELO a\r\nbare\nMAI\0L\r\n\r\n\n\r\r\n.\r\n"
			     "cut";
static const char stream_lines[] = "OK HELO a|BARE bare|OK MAI\\0L|OK |"
				   "BARE |OK \\r|OK .|";

/* Take all lines that are there; write them down as in stream_lines. */
static void
take_lines(struct buf *b, size_t max, FILE *to)
{
	static const char *const name[] = { "NONE", "OK", "BARE", "LONG" };
	enum line found;
	char *line = NULL;
	size_t len = 0;

	while ((found = buf_line(b, max, &line, &len)) != LINE_NONE) {
		ck_assert_int_eq(line[len], '\0');
		fprintf(to, "%s ", name[found]);
		for (size_t i = 0; found != LINE_TOO_LONG && i < len; i++)
			if (line[i] == '\0' || line[i] == '\r')
				fputs(line[i] == '\0' ? "\\0" : "\\r", to);
			else
				fputc(line[i], to);
		fputc('|', to);
		ck_assert_uint_le(b->start, b->end);
	}
}

/* Only CRLF ends a line, wherever the network has cut the stream. */
START_TEST(lines_cut_anywhere)
{
	size_t len = sizeof(stream) - 1;
	char text[512];

	for (size_t first = 0; first <= len; first++)
		for (size_t second = first; second <= len; second++) {
			struct buf b = { 0 };
			FILE *f = fmemopen(text, sizeof(text), "w");

			ck_assert(buf_size(&b, 64));
			ck_assert(buf_put(&b, stream, first));
			take_lines(&b, 64, f);
			ck_assert(buf_put(&b, stream + first, second - first));
			take_lines(&b, 64, f);
			ck_assert(buf_put(&b, stream + second, len - second));
			take_lines(&b, 64, f);
			fputc('\0', f);
			fclose(f);
			ck_assert_str_eq(text, stream_lines);
			ck_assert_uint_eq(buf_used(&b), 3);
			buf_free(&b);
		}
}
END_TEST

/* Put octets in pieces of a size; take the lines in between. */
static const char *
lines_in_pieces(const char *text, size_t len, size_t piece, size_t max)
{
	static char lines[512];
	FILE *f = fmemopen(lines, sizeof(lines), "w");
	struct buf b = { 0 };

	ck_assert(buf_size(&b, 64));
	for (size_t at = 0; at < len; at += piece) {
		size_t now = len - at < piece ? len - at : piece;

		ck_assert_msg(buf_put(&b, text + at, now), "no room: stuck");
		take_lines(&b, max, f);
	}
	fputc('\0', f);
	fclose(f);
	buf_free(&b);
	return lines;
}

/* RFC 5321 4.5.3.1.4, RFC 2449 4: at the limit, and one past it. */
START_TEST(line_at_the_limit)
{
	static const struct {
		const char *text, *lines;
	} rows[] = {
		{ "12345678\r\nx\r\n", "OK 12345678|OK x|" },
		{ "123456789\r\nx\r\n", "LONG |OK x|" },
		{ "123456789\nx\r\n", "BARE 123456789|OK x|" },
		{ "1234567890\nx\r\n", "LONG |OK x|" },
		{ "1234567890\r\nx\r\n", "LONG |OK x|" },
		{ "123456789012345678901234567890123456789012345\r\nx\r\n",
		    "LONG |OK x|" },
		{ "1234567890123\r\n12345678901234\r\n\r\n",
		    "LONG |LONG |OK |" },
	};

	for (size_t i = 0; i < NELEM(rows); i++)
		for (size_t piece = 1; piece <= 10; piece++)
			ck_assert_str_eq(lines_in_pieces(rows[i].text,
			    strlen(rows[i].text), piece, 10), rows[i].lines);
}
END_TEST

/* A line without end: no memory, one report, and what follows is heard. */
START_TEST(line_without_end)
{
	struct buf b = { 0 };
	char *line;
	size_t len;

	ck_assert(buf_size(&b, SMTP_LINE));
	for (int i = 0; i < 100000; i++) { /* as net_read() would fill it */
		ck_assert(buf_put(&b, "01234567", 8));
		ck_assert_int_eq(buf_line(&b, SMTP_LINE, &line, &len),
		    LINE_NONE);
	}
	ck_assert_uint_eq(b.cap, SMTP_LINE);
	ck_assert(buf_put(&b, "\r\nNOOP\r\n", 8));
	ck_assert_int_eq(buf_line(&b, SMTP_LINE, &line, &len), LINE_TOO_LONG);
	ck_assert_int_eq(buf_line(&b, SMTP_LINE, &line, &len), LINE_OK);
	ck_assert_str_eq(line, "NOOP");
	ck_assert_int_eq(buf_line(&b, SMTP_LINE, &line, &len), LINE_NONE);
	buf_free(&b);
}
END_TEST

/* ---- buffers ------------------------------------------------------------- */

START_TEST(put_all_or_nothing)
{
	struct buf b = { 0 };

	ck_assert(!buf_put(&b, "x", 1));
	ck_assert(buf_put(&b, "", 0));
	ck_assert(buf_size(&b, 8));
	ck_assert(buf_put(&b, "abcde", 5));
	ck_assert(!buf_put(&b, "1234", 4));
	ck_assert_uint_eq(buf_used(&b), 5);
	ck_assert(buf_put(&b, "fgh", 3));
	ck_assert_uint_eq(buf_room(&b), 0);
	ck_assert(!buf_put(&b, "i", 1));
	b.start += 2; /* two were taken: room for two, after sliding */
	ck_assert(!buf_put(&b, "ijk", 3));
	ck_assert(buf_put(&b, "ij", 2));
	ck_assert_int_eq(memcmp(b.data + b.start, "cdefghij", 8), 0);
	buf_free(&b);
	ck_assert_ptr_null(b.data);
	ck_assert_uint_eq(buf_room(&b), 0);
}
END_TEST

START_TEST(size_keeps_what_is_unread)
{
	struct buf b = { 0 };

	ck_assert(buf_size(&b, 8));
	ck_assert(buf_put(&b, "abcdefgh", 8));
	b.start = 3;
	b.skipping = true;
	ck_assert(!buf_size(&b, 4));
	ck_assert_uint_eq(b.cap, 8);
	ck_assert_uint_eq(b.start, 3);
	ck_assert(buf_size(&b, 5));
	ck_assert_uint_eq(buf_used(&b), 5);
	ck_assert_uint_eq(buf_room(&b), 0);
	ck_assert(buf_size(&b, 4096));
	ck_assert_uint_eq(buf_room(&b), 4091);
	ck_assert_int_eq(memcmp(b.data + b.start, "defgh", 5), 0);
	ck_assert(b.skipping);
	b.start = b.end;
	ck_assert(buf_size(&b, 1));
	ck_assert_uint_eq(buf_room(&b), 1);
	buf_free(&b);
}
END_TEST

/* Ten thousand random steps, beside a queue that is too simple to be wrong. */
START_TEST(buffer_against_a_model)
{
	unsigned char model[512], next = 0;
	size_t used = 0, cap = 0;
	struct buf b = { 0 };

	srand(1);
	for (int step = 0; step < 10000; step++) {
		size_t n = (size_t)(rand() % 200);
		char piece[200];

		for (size_t i = 0; i < n; i++)
			piece[i] = (char)(next + i);
		if (rand() % 3 == 0) {
			bool fits = used <= n + 1;

			ck_assert(buf_size(&b, n + 1) == fits);
			cap = fits ? n + 1 : cap;
		} else if (rand() % 2 == 0) {
			bool fits = n <= cap - used;

			ck_assert(buf_put(&b, piece, n) == fits);
			for (size_t i = 0; fits && i < n; i++)
				model[used++] = next++;
		} else {
			n = n < used ? n : used;
			b.start += n;
			used -= n;
			memmove(model, model + n, used);
		}
		ck_assert_uint_eq(buf_used(&b), used);
		ck_assert_uint_eq(buf_room(&b), cap - used);
		ck_assert(used == 0 ||
		    memcmp(b.data + b.start, model, used) == 0);
		ck_assert(b.start <= b.end && b.end <= b.cap);
	}
	buf_free(&b);
}
END_TEST

/* ---- addresses ----------------------------------------------------------- */

static const struct {
	const char *text;
	unsigned port;      /* where none is given */
	const char *reads;  /* NULL: no address */
} addresses[] = {
	{ "127.0.0.1:25", 0, "[127.0.0.1]:25" },
	{ "127.0.0.1:25", 53, "[127.0.0.1]:25" },
	{ "127.0.0.1", 53, "[127.0.0.1]:53" },
	{ "255.255.255.255:65535", 0, "[255.255.255.255]:65535" },
	{ "[::1]:25", 0, "[::1]:25" },
	{ "[::1]", 53, "[::1]:53" },
	{ "::1", 53, "[::1]:53" },
	{ "2001:DB8::A", 53, "[2001:db8::a]:53" },
	{ "[::ffff:192.0.2.1]:25", 0, "[::ffff:192.0.2.1]:25" },
	{ "127.0.0.1", 0, NULL },
	{ "::1", 0, NULL },
	{ "[::1]", 0, NULL },
	{ "", 53, NULL },
	{ ":25", 0, NULL },
	{ "[]:25", 0, NULL },
	{ "[::1", 53, NULL },
	{ "[::1]25", 53, NULL },
	{ "[::1]:", 53, NULL },
	{ "[127.0.0.1]:25", 0, NULL },
	{ "127.0.0.1:", 53, NULL },
	{ "127.0.0.1:0", 53, NULL },
	{ "127.0.0.1:65536", 53, NULL },
	{ "127.0.0.1:000025", 53, NULL },
	{ "127.0.0.1:4294967321", 53, NULL },
	{ "127.0.0.1:25x", 53, NULL },
	{ "127.0.0.1:+25", 53, NULL },
	{ "127.0.0.1: 25", 53, NULL },
	{ "127.0.0.256:25", 0, NULL },
	{ "127.1:25", 0, NULL },
	{ " 127.0.0.1:25", 0, NULL },
	{ "localhost:25", 0, NULL },
	{ "1:2:3:4:5:6:7:8:9", 53, NULL },
	{ "fe80::1%lo", 53, NULL },
	{ "0000000000000000000000000000000000000000000000000000000001:25", 0,
	    NULL },
};

START_TEST(address_forms)
{
	union address address;
	char text[PEER_TEXT];
	bool ok = address_parse(addresses[_i].text, addresses[_i].port,
	    &address);

	ck_assert_msg(ok == (addresses[_i].reads != NULL), "%s",
	    addresses[_i].text);
	if (!ok)
		return;
	address_format(&address, true, text);
	ck_assert_str_eq(text, addresses[_i].reads);
	address_set_port(&address, 7);
	ck_assert_uint_eq(address_port(&address), 7);
	address_format(&address, false, text);
	ck_assert_int_eq(strncmp(text, addresses[_i].reads, strlen(text)), 0);
	ck_assert_int_eq(text[strlen(text) - 1], ']');
}
END_TEST

/* An address of a test, which must be good. */
static union address
address_of(const char *text)
{
	union address address;

	ck_assert_msg(address_parse(text, 1, &address), "%s", text);
	return address;
}

START_TEST(address_longest)
{
	union address a = address_of("[ffff:ffff:ffff:ffff:ffff:ffff:"
				     "255.255.255.255]:65535");
	char text[PEER_TEXT];

	address_format(&a, true, text);
	ck_assert_str_eq(text,
	    "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535");
	ck_assert_uint_eq(address_len(&a), sizeof(struct sockaddr_in6));
	a = address_of("192.0.2.1:25");
	ck_assert_uint_eq(address_len(&a), sizeof(struct sockaddr_in));
}
END_TEST

/* RFC 4291 2.5.5.2: an IPv4 address, and the same seen through IPv6. */
START_TEST(address_equality)
{
	static const struct {
		const char *one, *two;
		bool equal;
	} rows[] = {
		{ "192.0.2.1:25", "192.0.2.1:25", true },
		{ "192.0.2.1:25", "[::ffff:192.0.2.1]:25", true },
		{ "192.0.2.1:25", "192.0.2.1:26", false },
		{ "192.0.2.1:25", "192.0.2.2:25", false },
		{ "192.0.2.1:25", "[::192.0.2.1]:25", false },
		{ "[2001:db8::1]:25", "[2001:DB8:0::1]:25", true },
		{ "[2001:db8::1]:25", "[2001:db8::2]:25", false },
	};

	for (size_t i = 0; i < NELEM(rows); i++) {
		union address one = address_of(rows[i].one);
		union address two = address_of(rows[i].two);

		ck_assert_msg(address_equal(&one, &two) == rows[i].equal,
		    "%s %s", rows[i].one, rows[i].two);
		ck_assert(address_equal(&two, &one) == rows[i].equal);
	}
}
END_TEST

START_TEST(loopback_addresses)
{
	static const char *const yes[] = { "127.0.0.1", "127.255.255.255",
		"127.0.0.0", "::1", "::ffff:127.0.0.1" };
	static const char *const no[] = { "126.255.255.255", "128.0.0.0",
		"0.0.0.0", "::", "::2", "::127.0.0.1", "192.0.2.1",
		"fe80::1" };

	for (size_t i = 0; i < NELEM(yes); i++) {
		union address a = address_of(yes[i]);

		ck_assert_msg(address_is_loopback(&a), "%s", yes[i]);
	}
	for (size_t i = 0; i < NELEM(no); i++) {
		union address a = address_of(no[i]);

		ck_assert_msg(!address_is_loopback(&a), "%s", no[i]);
	}
}
END_TEST

/* One network, as conf.c makes it. */
static struct cidr
network(const char *address, unsigned bits)
{
	union address a = address_of(address);
	struct cidr cidr = { .net = { [10] = 0xff, 0xff }, .bits = bits };

	if (a.any.sa_family == AF_INET6)
		memcpy(cidr.net, &a.v6.sin6_addr, 16);
	else {
		memcpy(cidr.net + 12, &a.v4.sin_addr, 4);
		cidr.bits += 96;
	}
	return cidr;
}

START_TEST(networks)
{
	static const struct {
		const char *net;
		unsigned bits;
		const char *address;
		bool within;
	} rows[] = {
		{ "192.0.2.0", 24, "192.0.2.0", true },
		{ "192.0.2.0", 24, "192.0.2.255", true },
		{ "192.0.2.0", 24, "192.0.3.0", false },
		{ "192.0.2.0", 24, "192.0.1.255", false },
		{ "192.0.2.77", 24, "192.0.2.1", true },
		{ "192.0.2.0", 24, "::ffff:192.0.2.9", true },
		{ "192.0.2.0", 24, "::192.0.2.9", false },
		{ "192.0.2.128", 25, "192.0.2.128", true },
		{ "192.0.2.128", 25, "192.0.2.127", false },
		{ "192.0.2.4", 30, "192.0.2.7", true },
		{ "192.0.2.4", 30, "192.0.2.8", false },
		{ "192.0.2.4", 31, "192.0.2.5", true },
		{ "192.0.2.4", 31, "192.0.2.6", false },
		{ "192.0.2.4", 32, "192.0.2.4", true },
		{ "192.0.2.4", 32, "192.0.2.5", false },
		{ "0.0.0.0", 0, "255.255.255.255", true },
		{ "0.0.0.0", 0, "2001:db8::1", false },
		{ "128.0.0.0", 1, "128.0.0.0", true },
		{ "128.0.0.0", 1, "127.255.255.255", false },
		{ "2001:db8::", 32, "2001:db8:ffff::1", true },
		{ "2001:db8::", 32, "2001:db9::", false },
		{ "2001:db8:8000::", 33, "2001:db8:8000::1", true },
		{ "2001:db8:8000::", 33, "2001:db8:7fff::1", false },
		{ "::1", 128, "::1", true },
		{ "::1", 128, "::", false },
		{ "::", 0, "2001:db8::1", true },
	};

	for (size_t i = 0; i < NELEM(rows); i++) {
		struct cidr list[2] = { network("203.0.113.9", 32),
			network(rows[i].net, rows[i].bits) };
		union address a = address_of(rows[i].address);

		ck_assert_msg(cidr_match(list, 2, &a) == rows[i].within,
		    "%s in %s/%u", rows[i].address, rows[i].net,
		    rows[i].bits);
		ck_assert(!cidr_match(list, 1, &a));
		ck_assert(!cidr_match(list, 0, &a));
	}
}
END_TEST

/* ---- names, and other small things --------------------------------------- */

START_TEST(names_without_case)
{
	struct names set = { 0 };

	ck_assert(!names_has(&set, ""));
	ck_assert(names_add(&set, "bob"));
	ck_assert(names_add(&set, "Carol"));
	ck_assert(names_add(&set, "alice"));
	ck_assert(names_add(&set, "CAROL"));
	ck_assert_uint_eq(set.n, 3);
	ck_assert_str_eq(set.v[0], "alice");
	ck_assert_str_eq(set.v[2], "Carol");
	ck_assert(names_has(&set, "BOB"));
	ck_assert(!names_has(&set, "bo"));
	ck_assert(!names_has(&set, "bobb"));
	names_free(&set);
	ck_assert_uint_eq(set.n, 0);
	ck_assert(names_add(&set, "again"));
	names_free(&set);
}
END_TEST

/* RFC 5321 2.4: the local parts of others keep their case. */
START_TEST(names_with_case)
{
	struct names set = { .exact = true };

	ck_assert(names_add(&set, "bob"));
	ck_assert(names_add(&set, "Bob"));
	ck_assert(names_add(&set, "bob"));
	ck_assert_uint_eq(set.n, 2);
	ck_assert(names_has(&set, "Bob"));
	ck_assert(!names_has(&set, "BOB"));
	names_free(&set);
}
END_TEST

/* Added one by one or pushed and sorted: the same order, all found. */
START_TEST(names_many)
{
	struct names added = { 0 }, pushed = { 0 };
	char name[32];

	names_sort(&pushed);
	for (unsigned i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "%c%u", i % 2 ? 'n' : 'N',
		    i * 7919 % 1000);
		ck_assert(names_add(&added, name));
		ck_assert(names_push(&pushed, name));
	}
	names_sort(&pushed);
	ck_assert_uint_eq(added.n, 1000);
	for (unsigned i = 0; i < 1000; i++) {
		ck_assert_str_eq(added.v[i], pushed.v[i]);
		snprintf(name, sizeof(name), "n%u", i);
		ck_assert(names_has(&pushed, name));
	}
	ck_assert(!names_has(&pushed, "n1000"));
	names_free(&added);
	names_free(&pushed);
}
END_TEST

/* Numbers of strangers: never a remainder, a sign or an octal. */
START_TEST(digits)
{
	static const struct {
		const char *text;
		bool ok;
		uint64_t number;
		const char *rest;
	} rows[] = {
		{ "0", true, 0, "" },
		{ "7 8", true, 7, " 8" },
		{ "4294967297", true, 4294967297, "" },
		{ "9999999999999999999", true, 9999999999999999999u, "" },
		{ "18446744073709551615", true, UINT64_MAX, "" },
		{ "18446744073709551617", true, UINT64_MAX, "" },
		{ "99999999999999999999999999x", true, UINT64_MAX, "x" },
		{ "", false, 0, "" },
		{ "01", false, 0, "01" },
		{ "00", false, 0, "00" },
		{ "-1", false, 0, "-1" },
		{ "+1", false, 0, "+1" },
		{ " 1", false, 0, " 1" },
		{ "x", false, 0, "x" },
	};

	for (size_t i = 0; i < NELEM(rows); i++) {
		const char *text = rows[i].text;
		uint64_t number = 0;

		ck_assert_msg(digits_parse(&text, &number) == rows[i].ok,
		    "%s", rows[i].text);
		ck_assert_str_eq(text, rows[i].rest);
		if (rows[i].ok)
			ck_assert_uint_eq(number, rows[i].number);
	}
}
END_TEST

START_TEST(faults_are_drawn)
{
	struct fault faults[] = {
		{ KIND_SMTP, "MAIL", FAULT_CODE, 450, 0 },
		{ KIND_SMTP, "RCPT", FAULT_DROP, 0, 100 },
		{ KIND_POP3, "MAIL", FAULT_ERR, 0, 100 },
		{ KIND_SMTP, "half", FAULT_STALL, 0, 50 },
	};
	unsigned hits = 0;

	conf.faults = faults;
	conf.n_faults = NELEM(faults);
	for (int i = 0; i < 1000; i++) {
		ck_assert_ptr_null(net_fault(&conf, KIND_SMTP, "MAIL"));
		ck_assert_ptr_eq(net_fault(&conf, KIND_SMTP, "rcpt"),
		    &faults[1]);
		ck_assert_ptr_eq(net_fault(&conf, KIND_POP3, "mail"),
		    &faults[2]);
		ck_assert_ptr_null(net_fault(&conf, KIND_POP3, "RCPT"));
		ck_assert_ptr_null(net_fault(&conf, KIND_SMTP, "RCP"));
		hits += net_fault(&conf, KIND_SMTP, "half") != NULL;
	}
	/* 500, and 16 each way is one sigma: this fails once in 10^9 runs. */
	ck_assert_uint_gt(hits, 400);
	ck_assert_uint_lt(hits, 600);
}
END_TEST

START_TEST(chance)
{
	uint64_t seen = 0;

	for (int i = 0; i < 64; i++)
		seen |= random_u64();
	ck_assert_uint_eq(seen, UINT64_MAX);
}
END_TEST

/* ---- the log ------------------------------------------------------------- */

/* 2026-11-24T08:24:05.123Z */
#define SOME_TIME ((msec)1795508645123)

START_TEST(log_line)
{
	struct conn c = { .kind = KIND_RELAY, .id = 17 };

	log_level = 0;
	srv.wall = SOME_TIME;
	test_capture(STDERR_FILENO);
	log_event(PART_MAIN, "-", "ready as %s", "lab");
	log_conn(&c, "connect peer=%s", "[127.0.0.1]:40312");
	srv.wall = 7;
	log_event(PART_POP3, "x", "%s", "");
	trace(&c, '<', "HELO a", "RFC 5321 4.1.1.1");
	log_level = 1;
	c.kind = KIND_SMTP;
	trace(&c, '>', "250 b", "RFC 5321 4.1.1.1");
	ck_assert_str_eq(test_captured(),
	    "2026-11-24T08:24:05.123Z main - ready as lab\n"
	    "2026-11-24T08:24:05.123Z queue 17 connect peer=[127.0.0.1]:40312"
	    "\n"
	    "1970-01-01T00:00:00.007Z pop3 x \n"
	    "1970-01-01T00:00:00.007Z smtp 17 > 250 b    (RFC 5321 4.1.1.1)\n");
}
END_TEST

/* A peer's octets can neither end a line nor colour a terminal. */
START_TEST(log_escapes)
{
	log_level = 0;
	srv.wall = SOME_TIME;
	test_capture(STDERR_FILENO);
	log_event(PART_SMTP, "1\n2",
	    "a\r\n2026-11-24T08:24:05.123Z main - forged\t\x1b[31m\x01\x7f"
	    "\xc3\xa4\xff ~\\%%");
	ck_assert_str_eq(test_captured(),
	    "2026-11-24T08:24:05.123Z smtp 1\\0122 "
	    "a\\015\\0122026-11-24T08:24:05.123Z main - forged\\011\\033[31m"
	    "\\001\\177\\303\\244\\377 ~\\%\n");
}
END_TEST

/* However much it is, it is one line, and not much longer than 4,000. */
START_TEST(log_is_bounded)
{
	static char flood[70000];

	log_level = 0;
	for (int i = 0; i < 2; i++) {
		memset(flood, i == 0 ? '\n' : 'x', sizeof(flood) - 1);
		test_capture(STDERR_FILENO);
		log_event(PART_DNS, "1", "%s", flood);
		const char *said = test_captured();

		ck_assert_uint_le(strlen(said), 4096);
		ck_assert_uint_gt(strlen(said), 4000);
		ck_assert_ptr_eq(strchr(said, '\n'), said + strlen(said) - 1);
		test_capture(STDERR_FILENO);
		log_event(PART_DNS, flood, "%s", flood);
		said = test_captured();
		ck_assert_uint_le(strlen(said), 4096);
		ck_assert_ptr_eq(strchr(said, '\n'), said + strlen(said) - 1);
	}
}
END_TEST

START_TEST(log_can_be_silent)
{
	struct diag diag = { .errors = 0 };
	struct conn c = { .kind = KIND_SMTP };

	log_level = -1;
	test_capture(STDERR_FILENO);
	log_event(PART_MAIN, "-", "x");
	log_conn(&c, "x");
	trace(&c, '<', "x", "x");
	complain(&diag, (struct spot){ "f", 1 }, "x");
	complain_mildly(&diag, (struct spot){ "f", 1 }, "x");
	ck_assert_str_eq(test_captured(), "");
	ck_assert_uint_eq(diag.errors, 1);
	ck_assert_uint_eq(diag.warnings, 1);
}
END_TEST

/* FILE:LINE: what is wrong; bare before the server runs, then in the log. */
START_TEST(complaints)
{
	struct diag diag = { .errors = 0 };
	struct spot at = { "mail.conf", 7 };

	log_level = 0;
	srv.conf = NULL;
	test_capture(STDERR_FILENO);
	complain(&diag, at, "no such %s", "thing");
	complain_mildly(&diag, at, "odd");
	ck_assert_str_eq(test_captured(), "mail.conf:7: no such thing\n"
					  "mail.conf:7: warning: odd\n");
	srv.serving = true;
	srv.wall = SOME_TIME;
	test_capture(STDERR_FILENO);
	complain(&diag, at, "no such %s", "thi\nng");
	complain_mildly(&diag, at, "odd");
	ck_assert_str_eq(test_captured(),
	    "2026-11-24T08:24:05.123Z main - mail.conf:7: no such thi\\012ng\n"
	    "2026-11-24T08:24:05.123Z main - mail.conf:7: warning: odd\n");
	ck_assert_uint_eq(diag.errors, 2);
	ck_assert_uint_eq(diag.warnings, 2);
}
END_TEST

/* ---- connections: what the tests stand on -------------------------------- */

/* Half a turn: wait, and not longer than a few milliseconds. */
static void
wait_a_little(void)
{
	net_wait(srv.now + 5);
}

/* The other half: settle, then free what was closed. */
static void
settle_all(void)
{
	struct conn *c;

	net_settle();
	for (int kind = 0; kind < N_KINDS; kind++)
		while ((c = net_gone((enum kind)kind)) != NULL) {
			net_free(c);
			free(c);
		}
	net_check();
}

/* Turns in which nobody does anything, until nobody is ready. */
static void
calm_down(void)
{
	for (int turn = 0; turn < TURNS; turn++) {
		bool ready = false;

		net_wait(srv.now);
		for (int kind = 0; kind < N_KINDS; kind++)
			ready |= srv.net.ready[kind] != NULL;
		settle_all();
		if (!ready)
			return;
	}
	ck_abort_msg("somebody is ready for ever");
}

/* Listen on a free port of an address of this machine. */
static struct conn *
listen_on(const char *host)
{
	union address a = address_of(host);

	address_set_port(&a, 0);
	struct conn *c = net_listen(KIND_SMTP, &a, SOCK_STREAM);
	socklen_t len = sizeof(c->peer);

	ck_assert_msg(c != NULL, "%s: %s", host, strerror(errno));
	ck_assert_int_eq(getsockname(c->fd, &c->peer.any, &len), 0);
	return c;
}

/* A client's blocking socket, connected to a listener of ours. */
static int
client_of(const struct conn *listener)
{
	int fd = socket(listener->peer.any.sa_family, SOCK_STREAM, 0);
	struct timeval patience = { .tv_sec = 10 };

	ck_assert_int_ge(fd, 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	ck_assert_int_eq(connect(fd, &listener->peer.any,
	    address_len(&listener->peer)), 0);
	return fd;
}

/* Let the listener accept in this turn: the session, or NULL. */
static struct conn *
accept_one(struct conn *listener)
{
	wait_a_little();
	struct conn *c = net_accept(listener, sizeof(*c), "421 4.3.2 ");

	settle_all();
	return c;
}

/* All that the client hears until we hang up. */
static const char *
hear(int fd)
{
	static char text[4096];
	size_t len = 0;
	ssize_t n;

	while ((n = read(fd, text + len, sizeof(text) - 1 - len)) > 0)
		len += (size_t)n;
	ck_assert_msg(n == 0, "no end of file: %s", strerror(errno));
	text[len] = '\0';
	close(fd);
	return text;
}

/* A client and its session, and what listens: freed by end_pair(). */
struct pair {
	struct conn *listener, *c;
	int client;
};

static struct pair
begin_pair(void)
{
	struct pair p = { .listener = listen_on("127.0.0.1") };

	p.client = client_of(p.listener);
	p.c = accept_one(p.listener);
	ck_assert_ptr_nonnull(p.c);
	calm_down();
	return p;
}

/* Close everything that is still open. */
static void
end(void)
{
	struct conn *c;
	size_t counted = 0;

	for (int kind = 0; kind < N_KINDS; kind++)
		for (size_t at = 0; (c = net_walk((enum kind)kind, &at));)
			net_drop(c);
	settle_all();
	ck_assert_uint_eq(srv.net.n, 0);
	ck_assert_uint_eq(srv.net.n_clients, 0);
	for (size_t i = 0; i < ADDRESS_SLOTS; i++)
		counted += srv.net.per_address[i];
	ck_assert_uint_eq(counted, 0);
	free(srv.net.fds);
	free(srv.net.conns);
	free(srv.net.deadlines);
	close(srv.net.spare);
	test_end();
}

/* Is c served in this turn? */
static bool
is_ready(const struct conn *c)
{
	const struct conn *at = net_next(c->kind, NULL);

	while (at != NULL && at != c)
		at = net_next(c->kind, at);
	return at != NULL;
}

static short
events_of(const struct conn *c)
{
	return srv.net.fds[c->slot].events;
}

/* Descriptors that this process has open. */
static int
open_files(void)
{
	int n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* ---- reading and writing ------------------------------------------------- */

START_TEST(read_tells_four_things)
{
	struct pair p = begin_pair();
	struct linger reset = { .l_onoff = 1 };

	ck_assert_int_eq(net_read(p.c), IO_AGAIN);
	ck_assert_int_eq(write(p.client, "abc", 3), 3);
	wait_a_little();
	ck_assert(is_ready(p.c));
	ck_assert(p.c->revents & POLLIN);
	while (buf_used(&p.c->in) < 3)
		ck_assert_int_eq(net_read(p.c), IO_OK);
	ck_assert_int_eq(net_read(p.c), IO_AGAIN);
	ck_assert_int_eq(memcmp(p.c->in.data, "abc", 3), 0);
	settle_all();
	close(p.client);
	wait_a_little();
	ck_assert(is_ready(p.c));
	ck_assert_int_eq(net_read(p.c), IO_EOF);
	ck_assert_int_eq(net_read(p.c), IO_EOF);
	net_drop(p.c);
	settle_all();

	int other = client_of(p.listener);
	struct conn *c = accept_one(p.listener);

	setsockopt(other, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(other);
	wait_a_little();
	ck_assert(is_ready(c));
	ck_assert_int_eq(net_read(c), IO_ERROR);
	settle_all();
}
END_TEST

/* A full buffer: no reading, no POLLIN, no growth, and no spinning. */
START_TEST(input_that_nobody_takes)
{
	struct pair p = begin_pair();
	static char flood[3 * SMALL_BUF];
	unsigned served = 0;

	ck_assert_int_eq(write(p.client, flood, sizeof(flood)),
	    (int)sizeof(flood));
	for (int turn = 0; turn < 2 * SMALL_BUF; turn++) {
		net_wait(srv.now);
		served += is_ready(p.c);
		if (is_ready(p.c))
			net_read(p.c);
		settle_all();
	}
	ck_assert_uint_eq(buf_used(&p.c->in), SMALL_BUF);
	ck_assert_uint_eq(p.c->in.cap, SMALL_BUF);
	ck_assert_uint_le(served, STRESS ? SMALL_BUF : 10);
	ck_assert_int_eq(net_read(p.c), IO_AGAIN);
	ck_assert_int_eq(events_of(p.c) & POLLIN, 0);
	p.c->in.start = 1; /* one was taken: there is room for one */
	net_touch(p.c);
	settle_all();
	ck_assert(events_of(p.c) & POLLIN);
	wait_a_little();
	ck_assert_int_eq(net_read(p.c), IO_OK);
	ck_assert_uint_eq(buf_used(&p.c->in), SMALL_BUF);
	settle_all();
	close(p.client);
}
END_TEST

START_TEST(deaf_hears_nothing)
{
	struct pair p = begin_pair();

	p.c->deaf = true;
	net_touch(p.c);
	settle_all();
	ck_assert_int_eq(write(p.client, "abc", 3), 3);
	for (int turn = 0; turn < 10; turn++) {
		net_wait(srv.now);
		ck_assert(!is_ready(p.c));
		settle_all();
	}
	p.c->deaf = false;
	net_touch(p.c);
	settle_all();
	wait_a_little();
	ck_assert(is_ready(p.c));
	settle_all();
	close(p.client);
}
END_TEST

/* Fill c's output as a handler does that has much to say. */
static void
say_much(struct conn *c)
{
	static const char piece[256] = { 'x' };

	while (buf_room(&c->out) >= sizeof(piece))
		ck_assert(buf_put(&c->out, piece, sizeof(piece)));
	c->more = true;
}

/* A client that never reads costs one buffer, and no turns. */
START_TEST(client_that_never_reads)
{
	struct pair p = begin_pair();
	int small = 1, quiet = 0;
	char piece[65536];

	setsockopt(p.c->fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	say_much(p.c);
	net_touch(p.c);
	settle_all();
	for (int turn = 0; quiet < 100 && turn < TURNS; turn++) {
		ck_assert(events_of(p.c) & POLLOUT);
		net_wait(srv.now);
		quiet = is_ready(p.c) ? 0 : quiet + 1;
		if (is_ready(p.c))
			say_much(p.c);
		settle_all();
		ck_assert_uint_eq(p.c->out.cap, SMALL_BUF);
	}
	ck_assert_int_eq(quiet, 100);
	/* It reads after all: there is room again, and we are told. */
	bool served = false;

	for (int turn = 0; !served && turn < 1000; turn++) {
		ck_assert_int_gt(recv(p.client, piece, sizeof(piece), 0), 0);
		wait_a_little();
		served = is_ready(p.c);
		settle_all();
	}
	ck_assert(served);
	close(p.client);
}
END_TEST

/* POLLOUT is asked for exactly while output waits or is to be made. */
START_TEST(pollout_only_for_output)
{
	struct pair p = begin_pair();

	ck_assert_int_eq(events_of(p.c), POLLIN);
	ck_assert(buf_put(&p.c->out, "x", 1));
	net_touch(p.c);
	settle_all();
	calm_down();
	ck_assert_int_eq(events_of(p.c), POLLIN);
	p.c->more = true;
	net_touch(p.c);
	settle_all();
	ck_assert_int_eq(events_of(p.c), POLLIN | POLLOUT);
	wait_a_little();
	ck_assert(is_ready(p.c));
	p.c->more = false;
	settle_all();
	calm_down();
	close(p.client);
}
END_TEST

/* ---- the end of connections ---------------------------------------------- */

/* End this turn, and turn until c is closed; how many it was served in. */
static unsigned
turns_to_close(const struct conn *c, int at_most)
{
	size_t before = srv.net.n;
	unsigned served = 0;

	settle_all();
	for (int turn = 0; turn < at_most && srv.net.n == before; turn++) {
		net_wait(srv.now);
		served += is_ready(c);
		settle_all();
	}
	ck_assert_msg(srv.net.n < before, "never closed");
	return served;
}

START_TEST(doomed_says_its_last_word)
{
	struct pair p = begin_pair();

	ck_assert(buf_put(&p.c->out, "221 bye\r\n", 9));
	p.c->doomed = true;
	net_touch(p.c);
	turns_to_close(p.c, 20);
	ck_assert_str_eq(hear(p.client), "221 bye\r\n");
	ck_assert_uint_eq(srv.net.n_clients, 0);
}
END_TEST

/* What the client still sends must not turn into a reset, which may overtake
 * our last word. */
START_TEST(doomed_is_not_interrupted)
{
	struct pair p = begin_pair();
	static char flood[50000];

	ck_assert_int_eq(write(p.client, flood, sizeof(flood)),
	    (int)sizeof(flood));
	wait_a_little();
	ck_assert(buf_put(&p.c->out, "521 go away\r\n", 13));
	p.c->doomed = true;
	settle_all();
	for (int turn = 0; srv.net.n_clients > 0 && turn < 20; turn++) {
		net_wait(srv.now);
		settle_all();
	}
	ck_assert_str_eq(hear(p.client), "521 go away\r\n");
}
END_TEST

/* Who does not read its last word is closed at the deadline, not before. */
START_TEST(doomed_until_its_deadline)
{
	struct pair p = begin_pair();
	int small = 1;

	setsockopt(p.c->fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	for (int turn = 0, quiet = 0; quiet < 100 && turn < TURNS; turn++) {
		say_much(p.c);
		net_touch(p.c);
		settle_all();
		net_wait(srv.now);
		quiet = is_ready(p.c) ? 0 : quiet + 1;
	}
	p.c->more = false;
	p.c->doomed = true;
	p.c->deadline = srv.now + 5 * SECOND;
	net_touch(p.c);
	settle_all();
	srv.frozen += 5 * SECOND - 1;
	for (int turn = 0; turn < 10; turn++) {
		net_wait(srv.now);
		ck_assert(!is_ready(p.c));
		settle_all();
	}
	srv.frozen += 1;
	ck_assert_uint_eq(turns_to_close(p.c, 1), 1);
	close(p.client);
}
END_TEST

/* Dropped is dropped: whatever waits is not said. */
START_TEST(drop_says_nothing)
{
	struct pair p = begin_pair();

	ck_assert(buf_put(&p.c->out, "250 never\r\n", 11));
	net_drop(p.c);
	ck_assert(!buf_put(&p.c->out, "x", 1));
	ck_assert_uint_eq(turns_to_close(p.c, 0), 0);
	ck_assert_str_eq(hear(p.client), "");
}
END_TEST

/* Reaped in the order in which they were ready, each once, others not. */
START_TEST(gone_in_order)
{
	struct conn *listener = listen_on("127.0.0.1"), *c[5];
	int client[5];

	for (int i = 0; i < 5; i++) {
		client[i] = client_of(listener);
		c[i] = accept_one(listener);
		ck_assert_ptr_nonnull(c[i]);
	}
	calm_down();
	ck_assert_uint_eq(srv.net.n_clients, 5);
	net_wait(srv.now);
	static const int order[] = { 3, 0, 4, 2 };

	for (size_t i = 0; i < NELEM(order); i++) {
		c[order[i]]->doomed = order[i] != 4;
		net_touch(c[order[i]]);
		net_touch(c[order[i]]); /* twice is once */
	}
	net_settle();
	ck_assert_ptr_null(net_gone(KIND_POP3));
	for (size_t i = 0; i < NELEM(order); i++)
		if (order[i] != 4) {
			struct conn *gone = net_gone(KIND_SMTP);

			ck_assert_ptr_eq(gone, c[order[i]]);
			ck_assert_int_eq(gone->fd, -1);
			net_free(gone);
			free(gone);
		}
	ck_assert_ptr_null(net_gone(KIND_SMTP));
	net_check();
	ck_assert_uint_eq(srv.net.n_clients, 2);
	net_touch(c[1]); /* the list is whole: one can still be appended */
	ck_assert(is_ready(c[1]) && is_ready(c[4]));
	settle_all();
	for (int i = 0; i < 5; i++)
		close(client[i]);
}
END_TEST

/* A peer that has hung up wakes nobody who does not listen to it. */
START_TEST(hang_up_of_the_deaf)
{
	struct linger reset = { .l_onoff = 1 };

	for (int with_reset = 0; with_reset < 2; with_reset++) {
		struct pair p = begin_pair();
		unsigned served = 0;

		p.c->deaf = true;
		net_touch(p.c);
		settle_all();
		if (with_reset) {
			setsockopt(p.client, SOL_SOCKET, SO_LINGER, &reset,
			    sizeof(reset));
			close(p.client);
			ck_assert_uint_le(turns_to_close(p.c, 100), 1);
			continue;
		}
		close(p.client);
		for (int turn = 0; turn < 100; turn++) {
			net_wait(srv.now);
			served += is_ready(p.c);
			settle_all();
		}
		ck_assert_uint_le(served, 1);
	}
}
END_TEST

/* Nor one whose buffer is full, so that it cannot listen. */
START_TEST(hang_up_of_the_full)
{
	struct linger reset = { .l_onoff = 1 };
	struct pair p = begin_pair();
	static char flood[SMALL_BUF];

	ck_assert_int_eq(write(p.client, flood, sizeof(flood)), SMALL_BUF);
	for (int turn = 0; buf_room(&p.c->in) > 0 && turn < TURNS; turn++) {
		net_wait(srv.now);
		net_read(p.c);
		settle_all();
	}
	setsockopt(p.client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(p.client);
	ck_assert_uint_le(turns_to_close(p.c, 100), 1);
}
END_TEST

/* A peer that is gone while we speak: closed, and no SIGPIPE. */
START_TEST(hang_up_while_we_speak)
{
	struct linger reset = { .l_onoff = 1 };

	signal(SIGPIPE, SIG_DFL);
	for (int with_reset = 0; with_reset < 2; with_reset++) {
		struct pair p = begin_pair();
		size_t before = srv.net.n;

		if (with_reset)
			setsockopt(p.client, SOL_SOCKET, SO_LINGER, &reset,
			    sizeof(reset));
		close(p.client);
		for (int turn = 0; srv.net.n == before; turn++) {
			ck_assert_int_lt(turn, 10);
			wait_a_little();
			say_much(p.c);
			net_touch(p.c);
			settle_all();
		}
	}
}
END_TEST

/* ---- deadlines ----------------------------------------------------------- */

START_TEST(deadline)
{
	struct pair p = begin_pair();

	p.c->deadline = srv.now + 1000;
	net_touch(p.c);
	settle_all();
	ck_assert_int_le(srv.net.wake, srv.now + 1000);
	srv.frozen += 999;
	net_wait(srv.now);
	ck_assert(!is_ready(p.c));
	settle_all();
	srv.frozen += 1;
	net_wait(NEVER); /* must not sleep: something is late */
	ck_assert(is_ready(p.c));
	ck_assert(p.c->late);
	ck_assert_int_eq(p.c->revents, 0);
	p.c->deadline = NEVER;
	settle_all();
	net_wait(srv.now);
	ck_assert(!is_ready(p.c));
	ck_assert(!p.c->late);
	settle_all();
	ck_assert_int_eq(srv.net.wake, NEVER);
	close(p.client);
}
END_TEST

/* Earlier, later, none: what counts is the deadline at the end of a turn. */
START_TEST(deadline_that_moves)
{
	struct pair p = begin_pair();
	static const msec moves[] = { 9000, 100, 5000, NEVER, 1000 };

	for (size_t i = 0; i < NELEM(moves); i++) {
		p.c->deadline = moves[i] == NEVER ? NEVER :
						    srv.now + moves[i];
		net_touch(p.c);
		settle_all();
	}
	srv.frozen += 999;
	net_wait(srv.now);
	ck_assert(!is_ready(p.c));
	settle_all();
	srv.frozen += 1;
	net_wait(srv.now);
	ck_assert(is_ready(p.c) && p.c->late);
	p.c->deadline = NEVER;
	settle_all();
	close(p.client);
}
END_TEST

/* Of many, exactly those are late whose time has come. */
START_TEST(deadlines_of_many)
{
	struct conn *listener = listen_on("127.0.0.1"), *c[70];
	int client[70];

	for (int i = 0; i < 70; i++) {
		client[i] = client_of(listener);
		c[i] = accept_one(listener);
		c[i]->deadline = 2000 * SECOND + i * 37 % 70 * SECOND;
		net_touch(c[i]);
		settle_all();
	}
	for (msec turn = 0; turn < 70; turn++) {
		srv.frozen = 2000 * SECOND + turn * SECOND;
		net_wait(srv.now);
		for (int i = 0; i < 70; i++) {
			bool due = i * 37 % 70 == turn;

			ck_assert(c[i]->late == due);
			if (due)
				c[i]->deadline = NEVER;
		}
		settle_all();
	}
	for (int i = 0; i < 70; i++)
		close(client[i]);
}
END_TEST

/* `again`: in the next turn, whatever happens; once, and not late. */
START_TEST(again_is_the_next_turn)
{
	struct pair p = begin_pair();

	p.c->again = true;
	net_touch(p.c);
	settle_all();
	net_wait(NEVER);
	ck_assert(is_ready(p.c));
	ck_assert(!p.c->late);
	settle_all();
	net_wait(srv.now);
	ck_assert(!is_ready(p.c));
	settle_all();
	close(p.client);
}
END_TEST

/* A turn of six seconds was a debugger's: deadlines move.  One of four was
 * ours: they do not. */
START_TEST(long_turns_are_forgiven)
{
	struct pair p = begin_pair();

	srv.frozen = 0;
	clock_read();
	p.c->deadline = srv.now + 3 * SECOND;
	net_touch(p.c);
	settle_all();
	srv.lost -= 6 * SECOND; /* as if so much time had passed */
	net_wait(srv.now);
	ck_assert(!p.c->late);
	ck_assert_int_lt(srv.lost, SECOND);
	settle_all();
	srv.lost -= 4 * SECOND;
	net_wait(srv.now);
	ck_assert(p.c->late);
	p.c->deadline = NEVER;
	settle_all();
	close(p.client);
}
END_TEST

static void
on_signal(int number)
{
	(void)number;
	srv.flush = 1;
}

/* A signal that came while it was blocked ends the next wait at once. */
START_TEST(signal_ends_the_wait)
{
	struct sigaction action = { .sa_handler = on_signal };
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	sigaction(SIGUSR1, &action, NULL);
	raise(SIGUSR1);
	ck_assert(!srv.flush);
	net_wait(NEVER);
	ck_assert(srv.flush);
}
END_TEST

/* ---- accepting ----------------------------------------------------------- */

START_TEST(accept_makes_a_session)
{
	struct conn *listener = listen_on("127.0.0.1");
	struct session {
		struct conn c;
		char rest[100];
	};
	int client = client_of(listener);

	wait_a_little();
	ck_assert(is_ready(listener));
	struct session *s = (struct session *)net_accept(listener, sizeof(*s),
	    "421 ");

	ck_assert_ptr_nonnull(s);
	ck_assert_ptr_null(net_accept(listener, sizeof(*s), "421 "));
	for (size_t i = 0; i < sizeof(s->rest); i++)
		ck_assert_int_eq(s->rest[i], 0);
	ck_assert_int_eq(s->c.kind, KIND_SMTP);
	ck_assert(s->c.client && !s->c.listening && !s->c.counted);
	ck_assert_int_eq(s->c.deadline, NEVER);
	ck_assert_uint_eq(s->c.in.cap, SMALL_BUF);
	ck_assert_uint_eq(s->c.out.cap, SMALL_BUF);
	ck_assert_int_eq(strncmp(s->c.peer_text, "[127.0.0.1]:", 12), 0);
	ck_assert(fcntl(s->c.fd, F_GETFL) & O_NONBLOCK);
	ck_assert(fcntl(s->c.fd, F_GETFD) & FD_CLOEXEC);
	ck_assert_msg(is_ready(&s->c), "served in the turn that brought it");
	ck_assert_uint_ne(s->c.id, listener->id);
	settle_all();
	close(client);
}
END_TEST

/* max_clients: exactly so many, over all, and a place that is free again.  Who
 * is refused and has spoken already gets no reset behind the reason. */
START_TEST(max_clients)
{
	struct conn *listener = listen_on("127.0.0.1");
	int client[2], late;

	conf.max_clients = 2;
	for (int i = 0; i < 2; i++) {
		client[i] = client_of(listener);
		ck_assert_ptr_nonnull(accept_one(listener));
	}
	late = client_of(listener);
	ck_assert_int_eq(write(late, "EHLO a\r\n", 8), 8);
	ck_assert_ptr_null(accept_one(listener));
	ck_assert_str_eq(hear(late),
	    "421 4.3.2 too many connections, try later\r\n");
	ck_assert_uint_eq(srv.net.n_clients, 2);
	for (size_t at = 0;;) {
		struct conn *c = net_walk(KIND_SMTP, &at);

		if (c->client) {
			net_drop(c);
			break;
		}
	}
	settle_all();
	late = client_of(listener);
	ck_assert_ptr_nonnull(accept_one(listener));
	close(late);
	close(client[0]);
	close(client[1]);
}
END_TEST

/* A flood of those who may not come in holds a turn up only so long; the one
 * behind them is heard. */
START_TEST(refused_in_bounded_numbers)
{
	struct conn *listener = listen_on("127.0.0.1");
	int client[70], turns = 0;

	conf.max_clients = 0;
	for (int i = 0; i < 70; i++)
		client[i] = client_of(listener);
	wait_a_little();
	ck_assert_ptr_null(net_accept(listener, sizeof(struct conn), "421 "));
	conf.max_clients = 1;
	struct conn *c = net_accept(listener, sizeof(*c), "421 ");

	ck_assert_msg(c != NULL, "a single call refused all of seventy");
	conf.max_clients = 0;
	settle_all();
	for (; turns < 10; turns++)
		ck_assert_ptr_null(accept_one(listener));
	for (int i = 0; i < 70; i++)
		close(client[i]);
}
END_TEST

/* An address of this machine that is not loopback: in text, or false. */
static bool
own_address(char text[INET_ADDRSTRLEN])
{
	struct ifaddrs *list, *at;
	bool found = false;

	if (getifaddrs(&list) < 0)
		return false;
	for (at = list; at != NULL && !found; at = at->ifa_next) {
		union address a;

		if (at->ifa_addr == NULL || !(at->ifa_flags & IFF_UP) ||
		    at->ifa_addr->sa_family != AF_INET)
			continue;
		memcpy(&a.v4, at->ifa_addr, sizeof(a.v4));
		found = !address_is_loopback(&a);
		inet_ntop(AF_INET, &a.v4.sin_addr, text, INET_ADDRSTRLEN);
	}
	freeifaddrs(list);
	return found;
}

/* max_per_client: strangers only, and a place that is free again.  Where the
 * machine has no address but loopback there can be no stranger. */
START_TEST(max_per_client)
{
	char host[INET_ADDRSTRLEN];

	if (!own_address(host)) {
		fprintf(stderr, "max_per_client: not tested, no address\n");
		return;
	}
	struct conn *listener = listen_on(host), *c;
	struct conn *local = listen_on("127.0.0.1");
	struct cidr friends = network(host, 32);
	int client[8];

	conf.max_per_client = 2;
	for (int i = 0; i < 2; i++) {
		client[i] = client_of(listener);
		c = accept_one(listener);
		ck_assert_ptr_nonnull(c);
		ck_assert(c->counted);
	}
	int late = client_of(listener);

	ck_assert_ptr_null(accept_one(listener));
	ck_assert_str_eq(hear(late),
	    "421 4.3.2 too many connections from your address\r\n");
	for (int i = 2; i < 5; i++) { /* loopback is not counted */
		client[i] = client_of(local);
		ck_assert_ptr_nonnull(accept_one(local));
	}
	net_drop(c);
	settle_all();
	client[5] = client_of(listener);
	ck_assert_ptr_nonnull(accept_one(listener));
	/* Who may relay may come as often as it likes. */
	conf.relay_from = &friends;
	conf.n_relay_from = 1;
	client[6] = client_of(listener);
	ck_assert_ptr_nonnull(accept_one(listener));
	/* And 0 is no limit. */
	conf.n_relay_from = 0;
	conf.max_per_client = 0;
	client[7] = client_of(listener);
	ck_assert_ptr_nonnull(accept_one(listener));
	for (int i = 0; i < 8; i++)
		close(client[i]);
}
END_TEST

/* No descriptor is left: the client hears why, again and again, and nothing
 * spins or leaks. */
START_TEST(no_descriptor)
{
	struct conn *listener = listen_on("127.0.0.1");
	struct rlimit before, tight;
	int client[3], held[64], n = 0;

	if (test_under_valgrind()) /* it keeps the limit itself, and hangs up */
		return;
	for (int i = 0; i < 3; i++)
		client[i] = client_of(listener);
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
	tight = before;
	tight.rlim_cur = (rlim_t)client[2] + 10;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &tight), 0);
	while (n < 64 && (held[n] = dup(client[0])) >= 0)
		n++;
	ck_assert_int_lt(n, 64);
	ck_assert_int_eq(errno, EMFILE);
	for (int i = 0; i < 2; i++) {
		ck_assert_ptr_null(accept_one(listener));
		ck_assert_str_eq(hear(client[i]),
		    "421 4.3.2 no descriptor is free, try later\r\n");
		/* hear() has closed one: take it, so that none is free */
		held[n++] = dup(client[2]);
	}
	/* Another process has taken the spare one: nobody can be told, until
	 * one is free again. */
	close(srv.net.spare);
	srv.net.spare = -1;
	held[n++] = dup(client[2]);
	ck_assert_ptr_null(accept_one(listener));
	ck_assert_int_lt(srv.net.spare, 0);
	close(held[--n]);
	ck_assert_ptr_null(accept_one(listener));
	ck_assert_int_ge(srv.net.spare, 0);
	ck_assert_str_eq(hear(client[2]),
	    "421 4.3.2 no descriptor is free, try later\r\n");
	ck_assert_uint_eq(srv.net.n_clients, 0);
	for (int i = 0; i < n; i++)
		close(held[i]);
	setrlimit(RLIMIT_NOFILE, &before);
}
END_TEST

/* ---- listening and connecting -------------------------------------------- */

START_TEST(listen_fails_cleanly)
{
	struct conn *listener = listen_on("127.0.0.1");
	int before = open_files();
	union address a = listener->peer;

	ck_assert_ptr_null(net_listen(KIND_POP3, &a, SOCK_STREAM));
	ck_assert_int_eq(errno, EADDRINUSE);
	a = address_of("203.0.113.77:2525");
	ck_assert_ptr_null(net_listen(KIND_POP3, &a, SOCK_STREAM));
	ck_assert_int_eq(errno, EADDRNOTAVAIL);
	ck_assert_int_eq(open_files(), before);
	/* No descriptor, for listening or for connecting. */
	struct rlimit limit, tight = { 0 };
	struct conn c = { 0 };

	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	tight.rlim_max = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &tight);
	struct conn *none = net_listen(KIND_POP3, &a, SOCK_STREAM);
	int why = errno;
	bool begun = net_connect(&c, KIND_RELAY, &a, SOCK_STREAM);
	int why_not = errno;

	setrlimit(RLIMIT_NOFILE, &limit);
	ck_assert(none == NULL && why == EMFILE);
	ck_assert(!begun && why_not == EMFILE);
	ck_assert_uint_eq(srv.net.n, 1);
}
END_TEST

/* 0.0.0.0 and [::] each have a line of the configuration, and one port. */
START_TEST(listen_on_both_families)
{
	struct conn *four = listen_on("0.0.0.0");
	union address six = address_of("::");

	address_set_port(&six, address_port(&four->peer));
	if (net_listen(KIND_SMTP, &six, SOCK_STREAM) == NULL)
		ck_assert_int_eq(errno, EAFNOSUPPORT);
}
END_TEST

/* Turn until c's connection has been decided. */
static int
outcome(struct conn *c)
{
	settle_all();
	for (int turn = 0; turn < 1000; turn++) {
		wait_a_little();
		if (is_ready(c) && c->revents != 0)
			return net_connected(c);
		settle_all();
	}
	return -1;
}

START_TEST(connect_and_be_told)
{
	struct conn *listener = listen_on("127.0.0.1");
	struct conn *c = calloc(1, sizeof(*c));
	union address to = listener->peer;

	ck_assert(net_connect(c, KIND_RELAY, &to, SOCK_STREAM));
	ck_assert_int_eq(outcome(c), 0);
	ck_assert(!c->client);
	c->deaf = c->more = false;
	settle_all();
	ck_assert_int_eq(events_of(c), POLLIN);

	struct conn *server = accept_one(listener);

	ck_assert_ptr_nonnull(server);
	ck_assert(buf_put(&server->out, "220 x\r\n", 7));
	net_touch(server);
	settle_all();
	for (int turn = 0; buf_used(&c->in) < 7 && turn < 100; turn++) {
		wait_a_little();
		net_read(c);
		settle_all();
	}
	ck_assert_uint_eq(buf_used(&c->in), 7);
	ck_assert_int_eq(memcmp(c->in.data, "220 x\r\n", 7), 0);
}
END_TEST

START_TEST(connect_refused)
{
	struct conn *listener = listen_on("127.0.0.1");
	struct conn *c = calloc(1, sizeof(*c));
	union address nobody = listener->peer;

	net_drop(listener);
	settle_all();
	int before = open_files();

	if (net_connect(c, KIND_RELAY, &nobody, SOCK_STREAM)) {
		ck_assert_int_eq(outcome(c), ECONNREFUSED);
		c->doomed = true;
		settle_all();
	} else {
		ck_assert_int_eq(errno, ECONNREFUSED);
		free(c);
	}
	ck_assert_int_eq(open_files(), before);
	ck_assert_uint_eq(srv.net.n, 0);
}
END_TEST

/* Not even begun: a broadcast address is refused at once. */
START_TEST(connect_impossible)
{
	union address to = address_of("255.255.255.255:25");
	int before = open_files();
	struct conn c = { 0 };

	ck_assert(!net_connect(&c, KIND_RELAY, &to, SOCK_STREAM));
	ck_assert_int_ne(errno, 0);
	ck_assert_int_eq(open_files(), before);
	ck_assert_uint_eq(srv.net.n, 0);
}
END_TEST

START_TEST(walk_finds_all_of_a_kind)
{
	struct pair p = begin_pair();
	union address a = address_of("127.0.0.1");
	size_t at = 0, n = 0;

	address_set_port(&a, 0);
	ck_assert_ptr_nonnull(net_listen(KIND_DNS, &a, SOCK_DGRAM));
	while (net_walk(KIND_SMTP, &at) != NULL)
		n++;
	ck_assert_uint_eq(n, 2);
	at = 0;
	ck_assert_ptr_nonnull(net_walk(KIND_DNS, &at));
	ck_assert_ptr_null(net_walk(KIND_DNS, &at));
	close(p.client);
}
END_TEST

/* ---- main ---------------------------------------------------------------- */

static const struct {
	const char *group;
	const TTest **test;
} tests[] = {
	{ "lines", &lines_cut_anywhere },
	{ "lines", &line_at_the_limit },
	{ "lines", &line_without_end },
	{ "buffers", &put_all_or_nothing },
	{ "buffers", &size_keeps_what_is_unread },
	{ "buffers", &buffer_against_a_model },
	{ "addresses", &address_longest },
	{ "addresses", &address_equality },
	{ "addresses", &loopback_addresses },
	{ "addresses", &networks },
	{ "small", &names_without_case },
	{ "small", &names_with_case },
	{ "small", &names_many },
	{ "small", &digits },
	{ "small", &faults_are_drawn },
	{ "small", &chance },
	{ "log", &log_line },
	{ "log", &log_escapes },
	{ "log", &log_is_bounded },
	{ "log", &log_can_be_silent },
	{ "log", &complaints },
	{ "io", &read_tells_four_things },
	{ "io", &input_that_nobody_takes },
	{ "io", &deaf_hears_nothing },
	{ "io", &client_that_never_reads },
	{ "io", &pollout_only_for_output },
	{ "close", &doomed_says_its_last_word },
	{ "close", &doomed_is_not_interrupted },
	{ "close", &doomed_until_its_deadline },
	{ "close", &drop_says_nothing },
	{ "close", &gone_in_order },
	{ "close", &hang_up_of_the_deaf },
	{ "close", &hang_up_of_the_full },
	{ "close", &hang_up_while_we_speak },
	{ "time", &deadline },
	{ "time", &deadline_that_moves },
	{ "time", &deadlines_of_many },
	{ "time", &again_is_the_next_turn },
	{ "time", &long_turns_are_forgiven },
	{ "time", &signal_ends_the_wait },
	{ "accept", &accept_makes_a_session },
	{ "accept", &max_clients },
	{ "accept", &refused_in_bounded_numbers },
	{ "accept", &max_per_client },
	{ "accept", &no_descriptor },
	{ "sockets", &listen_fails_cleanly },
	{ "sockets", &listen_on_both_families },
	{ "sockets", &connect_and_be_told },
	{ "sockets", &connect_refused },
	{ "sockets", &connect_impossible },
	{ "sockets", &walk_finds_all_of_a_kind },
};

int
main(void)
{
	Suite *suite = suite_create("net");
	TCase *tcase = NULL;

	for (size_t i = 0; i < NELEM(tests); i++) {
		if (i == 0 || strcmp(tests[i].group, tests[i - 1].group) != 0) {
			tcase = tcase_create(tests[i].group);
			tcase_add_checked_fixture(tcase, begin, end);
			tcase_set_timeout(tcase, 60);
			suite_add_tcase(suite, tcase);
		}
		tcase_add_test(tcase, *tests[i].test);
	}
	tcase_add_loop_test(tcase, address_forms, 0, (int)NELEM(addresses));
	SRunner *runner = srunner_create(suite);

	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);

	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
