/*
 * check_dns.c -- the server's answers, octets in and octets out; the same over
 * real sockets; and the resolver, whose name servers are played here.
 *
 * Messages are read and written by a second codec, below, so that a mistake
 * of dns.c is not repeated by its test.  The clock is held: two seconds pass
 * when a test says so.
 *
 * Wraps: sendmmsg
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/tcp.h>
#include "testlib.h"

enum {
	TURNS = STRESS ? 400000 : 20000, /* then a test has waited in vain */
	LARGE_ANSWERS = STRESS ? 2 : 200,
};

static struct conf conf;
static struct zone *zones[4];

/* ---- a second codec ------------------------------------------------------ */

static unsigned char msg[65536]; /* a message to or from dns.c */
static size_t msg_len;

static void
put(unsigned number, size_t octets)
{
	while (octets-- > 0)
		msg[msg_len++] = (unsigned char)(number >> octets * 8);
}

/* A name without escapes, uncompressed. */
static void
put_text(const char *text)
{
	while (*text != '\0' && strcmp(text, ".") != 0) {
		size_t len = strcspn(text, ".");

		put((unsigned)len, 1);
		memcpy(msg + msg_len, text, len);
		msg_len += len;
		text += len + (text[len] == '.');
	}
	put(0, 1);
}

/* Header with one question; then records, each counted where it belongs. */
static void
begin_message(unsigned id, unsigned flags, const char *name, unsigned type)
{
	msg_len = 0;
	put(id, 2);
	put(flags, 2);
	put(1, 2);
	put(0, 2);
	put(0, 2);
	put(0, 2);
	put_text(name);
	put(type, 2);
	put(1, 2);
}

static void
count(size_t section)
{
	msg[5 + section * 2] = (unsigned char)(msg[5 + section * 2] + 1);
}

static size_t
begin_record(size_t section, const char *owner, unsigned type, unsigned ttl)
{
	count(section);
	put_text(owner);
	put(type, 2);
	put(1, 2);
	put(ttl, 4);
	put(0, 2);
	return msg_len;
}

static void
end_record(size_t start)
{
	msg[start - 2] = (unsigned char)((msg_len - start) >> 8);
	msg[start - 1] = (unsigned char)(msg_len - start);
}

static void
put_a(const char *owner, unsigned ttl, unsigned addr)
{
	size_t start = begin_record(1, owner, RR_A, ttl);

	put(addr, 4);
	end_record(start);
}

static void
put_target(const char *owner, unsigned type, const char *target)
{
	size_t start = begin_record(1, owner, type, 60);

	if (type == RR_MX)
		put(10, 2);
	put_text(target);
	end_record(start);
}

static void
put_soa(const char *owner, unsigned ttl, unsigned minimum)
{
	size_t start = begin_record(2, owner, RR_SOA, ttl);

	put_text("ns");
	put_text("host");
	for (unsigned i = 1; i < 5; i++)
		put(i, 4);
	put(minimum, 4);
	end_record(start);
}

static void
put_opt(unsigned size, unsigned version)
{
	count(3);
	put(0, 1);
	put(RR_OPT, 2);
	put(size, 2);
	put(version << 16, 4);
	put(0, 2);
}

static unsigned
get(size_t *at, size_t octets)
{
	unsigned number = 0;

	ck_assert_uint_le(*at + octets, msg_len);
	while (octets-- > 0)
		number = number << 8 | msg[(*at)++];
	return number;
}

static void
print_name(FILE *f, size_t *at)
{
	size_t pos = *at, end = 0;
	unsigned len, jumps = 0;
	const char *dot = "";

	while ((len = get(&pos, 1)) != 0) {
		if (len >= 0xC0) {
			size_t target = (len & 63) << 8 | get(&pos, 1);

			end = end != 0 ? end : pos;
			ck_assert_uint_lt(target, pos - 2);
			ck_assert_uint_lt(jumps++, 100);
			pos = target;
			continue;
		}
		ck_assert_uint_lt(len, 64);
		fprintf(f, "%s%.*s", dot, (int)len, (const char *)msg + pos);
		pos += len;
		dot = ".";
	}
	fputc('.', f);
	*at = end != 0 ? end : pos;
}

/* Data of a few types in words, of the others as octets. */
static void
print_rdata(FILE *f, unsigned type, size_t *at, size_t end)
{
	if (type == RR_A) {
		for (int i = 0; i < 4; i++)
			fprintf(f, "%s%u", i > 0 ? "." : " ", get(at, 1));
	} else if (type == RR_NS || type == RR_CNAME || type == RR_SOA ||
	    type == RR_MX) {
		if (type == RR_MX)
			fprintf(f, " %u", get(at, 2));
		for (int i = type == RR_SOA ? 2 : 1; i > 0; i--) {
			fputc(' ', f);
			print_name(f, at);
		}
		while (*at < end)
			fprintf(f, " %u", get(at, 4));
	} else {
		for (fputc(' ', f); *at < end; (*at)++)
			fprintf(f, isprint(msg[*at]) ? "%c" : "\\%u", msg[*at]);
	}
}

static const char *
type_text(unsigned type)
{
	static char text[16];

	snprintf(text, sizeof(text), "TYPE%u", type);
	return zone_kind(type) != NULL ? zone_kind(type)->name : text;
}

static void
print_record(FILE *f, const char *mark, size_t *at)
{
	fprintf(f, "%s ", mark);
	print_name(f, at);
	unsigned type = get(at, 2), class = get(at, 2);
	unsigned ttl = get(at, 4);
	size_t len = get(at, 2), end = *at + len;

	if (type == RR_OPT) {
		fprintf(f, " OPT %u %x\n", class, ttl);
		*at = end;
		return;
	}
	ck_assert_uint_eq(class, 1);
	fprintf(f, " %u %s", ttl, type_text(type));
	print_rdata(f, type, at, end);
	ck_assert_uint_eq(*at, end);
	fputc('\n', f);
}

/* The whole message in msg as text: flags, then a line for each record. */
static const char *
print_message(void)
{
	static char text[131072];
	static const char *const marks[] = { "Q", "A", "N", "+" };
	static const char *const rcodes[] = { "NOERROR", "FORMERR", "SERVFAIL",
		"NXDOMAIN", "NOTIMP", "REFUSED" };
	FILE *f = fmemopen(text, sizeof(text), "w");
	size_t at = 2;
	unsigned flags = get(&at, 2), counts[4];

	for (int i = 0; i < 4; i++)
		counts[i] = get(&at, 2);
	fprintf(f, "%s%s%s%s%s%s\n", flags & 0x8000 ? "qr " : "",
	    flags & 0x400 ? "aa " : "", flags & 0x200 ? "tc " : "",
	    flags & 0x100 ? "rd " : "", flags & 0xF0 ? "?? " : "",
	    rcodes[flags & 15]);
	for (; counts[0] > 0; counts[0]--) {
		fputs("Q ", f);
		print_name(f, &at);
		unsigned type = get(&at, 2), class = get(&at, 2);

		fprintf(f, class == 1 ? " %s\n" : " %s class %u\n",
		    type == RR_ANY ? "ANY" : type_text(type), class);
	}
	for (size_t i = 1; i < 4; i++)
		for (; counts[i] > 0; counts[i]--)
			print_record(f, marks[i], &at);
	ck_assert_uint_eq(at, msg_len);
	fputc('\0', f);
	fclose(f);
	return text;
}

/* ---- the zones ----------------------------------------------------------- */

static void
load(size_t i, const char *origin, const char *name)
{
	struct diag diag = { .errors = 0 };
	char path[256];

	snprintf(path, sizeof(path), "tests/zones/%s", name);
	zones[i] = master_load(origin, path, &diag);
	ck_assert_uint_eq(diag.errors, 0);
	conf.n_zones = i + 1;
}

static void
begin(void)
{
	test_begin();
	conf = (struct conf){ .max_clients = 100, .refs = 1, .zones = zones };
	srv.conf = &conf;
	net_start();
}

static void
begin_rfc1034(void)
{
	begin();
	load(0, ".", "root.zone");
	load(1, "EDU", "edu.zone");
}

static void
begin_wild(void)
{
	begin();
	load(0, "example", "wild.zone");
}

static void
end(void)
{
	for (size_t i = 0; i < conf.n_zones; i++)
		zone_free(zones[i]);
	test_end();
}

/* Let dns_answer() answer what is in msg. */
static const char *
reply(bool tcp)
{
	static unsigned char out[65536];

	msg_len = dns_answer(msg, msg_len, out, tcp);
	if (msg_len == 0)
		return "";
	memcpy(msg, out, msg_len);
	return print_message();
}

/* ---- RFC 1034 6.2: a scenario -------------------------------------------- */

struct scene {
	const char *name;
	unsigned type;
	const char *reply;
};

/* RFC 1035 4.1.2: above each answer stands the question, as it came. */
static const struct scene rfc1034_6_2[] = {
	/* 6.2.1 */
	{ "SRI-NIC.ARPA", RR_A,
	    "qr aa NOERROR\n"
	    "Q SRI-NIC.ARPA. A\n"
	    "A SRI-NIC.ARPA. 86400 A 26.0.0.73\n"
	    "A SRI-NIC.ARPA. 86400 A 10.0.0.51\n" },
	/* 6.2.2 */
	{ "SRI-NIC.ARPA", RR_ANY,
	    "qr aa NOERROR\n"
	    "Q SRI-NIC.ARPA. ANY\n"
	    "A SRI-NIC.ARPA. 86400 A 26.0.0.73\n"
	    "A SRI-NIC.ARPA. 86400 A 10.0.0.51\n"
	    "A SRI-NIC.ARPA. 86400 MX 0 SRI-NIC.ARPA.\n"
	    "A SRI-NIC.ARPA. 86400 HINFO \\8DEC-2060"
	    "\\6TOPS20\n" },
	/* RFC 1034 6.2.3 */
	{ "SRI-NIC.ARPA", RR_MX,
	    "qr aa NOERROR\n"
	    "Q SRI-NIC.ARPA. MX\n"
	    "A SRI-NIC.ARPA. 86400 MX 0 SRI-NIC.ARPA.\n"
	    "+ SRI-NIC.ARPA. 86400 A 26.0.0.73\n"
	    "+ SRI-NIC.ARPA. 86400 A 10.0.0.51\n" },
	/* 6.2.4, with the SOA that RFC 2308 2.2 has added */
	{ "SRI-NIC.ARPA", RR_NS,
	    "qr aa NOERROR\n"
	    "Q SRI-NIC.ARPA. NS\n"
	    "N . 86400 SOA SRI-NIC.ARPA. HOSTMASTER."
	    "SRI-NIC.ARPA. 870611 1800 300 604800 86400\n" },
	/* 6.2.5 */
	{ "SIR-NIC.ARPA", RR_A,
	    "qr aa NXDOMAIN\n"
	    "Q SIR-NIC.ARPA. A\n"
	    "N . 86400 SOA SRI-NIC.ARPA. HOSTMASTER."
	    "SRI-NIC.ARPA. 870611 1800 300 604800 86400\n" },
	/* 6.2.6 */
	{ "BRL.MIL", RR_A,
	    "qr NOERROR\n"
	    "Q BRL.MIL. A\n"
	    "N MIL. 86400 NS SRI-NIC.ARPA.\n"
	    "N MIL. 86400 NS A.ISI.EDU.\n"
	    "+ SRI-NIC.ARPA. 86400 A 26.0.0.73\n"
	    "+ SRI-NIC.ARPA. 86400 A 10.0.0.51\n"
	    "+ A.ISI.EDU. 86400 A 26.3.0.103\n" },
	/* 6.2.7, C.ISI.EDU's answer */
	{ "USC-ISIC.ARPA", RR_A,
	    "qr aa NOERROR\n"
	    "Q USC-ISIC.ARPA. A\n"
	    "A USC-ISIC.ARPA. 86400 CNAME C.ISI.EDU.\n"
	    "N ISI.EDU. 172800 NS VAXA.ISI.EDU.\n"
	    "N ISI.EDU. 172800 NS A.ISI.EDU.\n"
	    "N ISI.EDU. 172800 NS VENERA.ISI.EDU.\n"
	    "+ VAXA.ISI.EDU. 172800 A 10.2.0.27\n"
	    "+ VAXA.ISI.EDU. 172800 A 128.9.0.33\n"
	    "+ A.ISI.EDU. 172800 A 26.3.0.103\n"
	    "+ VENERA.ISI.EDU. 172800 A 10.1.0.52\n"
	    "+ VENERA.ISI.EDU. 172800 A 128.9.0.32\n" },
	/* 6.2.8 */
	{ "USC-ISIC.ARPA", RR_CNAME,
	    "qr aa NOERROR\n"
	    "Q USC-ISIC.ARPA. CNAME\n"
	    "A USC-ISIC.ARPA. 86400 CNAME C.ISI.EDU."
	    "\n" },
	/* The question's case comes back. */
	{ "sri-nic.Arpa", RR_PTR,
	    "qr aa NOERROR\n"
	    "Q sri-nic.Arpa. PTR\n"
	    "N . 86400 SOA SRI-NIC.ARPA. HOSTMASTER."
	    "SRI-NIC.ARPA. 870611 1800 300 604800 86400"
	    "\n" },
};

START_TEST(rfc1034_6_2_scenario)
{
	const struct scene *s = &rfc1034_6_2[_i];

	begin_message(7, 0, s->name, s->type);
	ck_assert_str_eq(reply(true), s->reply);
	ck_assert_uint_eq(msg[1], 7);
}
END_TEST

#define EXAMPLE_SOA \
	"SOA ns.example.com. postmaster.example. 1 7200 900 1209600 300\n"

static const struct scene chains[] = {
	/* RFC 1034 3.6.2, RFC 1034 4.3.2 step 3a, RFC 6604 2.1: a CNAME is
	 * followed, and the last name decides. */
	{ "one.example", RR_A,
	    "qr aa NOERROR\n"
	    "Q one.example. A\n"
	    "A one.example. 3600 CNAME two.example.\n"
	    "A two.example. 3600 CNAME three.example.\n"
	    "A three.example. 3600 A 192.0.2.3\n" },
	{ "one.example", RR_MX,
	    "qr aa NOERROR\n"
	    "Q one.example. MX\n"
	    "A one.example. 3600 CNAME two.example.\n"
	    "A two.example. 3600 CNAME three.example.\n"
	    "N example. 300 " EXAMPLE_SOA },
	{ "lost.example", RR_A,
	    "qr aa NXDOMAIN\n"
	    "Q lost.example. A\n"
	    "A lost.example. 3600 CNAME"
	    " nothing.host1.example.\n"
	    "N example. 300 " EXAMPLE_SOA },
	{ "away.example", RR_A,
	    "qr aa NOERROR\n"
	    "Q away.example. A\n"
	    "A away.example. 3600 CNAME www.example.org."
	    "\n" },
	{ "ring1.example", RR_A,
	    "qr aa NOERROR\n"
	    "Q ring1.example. A\n"
	    "A ring1.example. 3600 CNAME ring2.example.\n"
	    "A ring2.example. 3600 CNAME ring1.example."
	    "\n" },
	/* RFC 4592 2.2.1: what a wildcard makes bears the name asked for. */
	{ "x.Y.example", RR_MX,
	    "qr aa NOERROR\n"
	    "Q x.Y.example. MX\n"
	    "A x.Y.example. 3600 MX 10 host1.example.\n"
	    "+ host1.example. 3600 A 192.0.2.1\n" },
	{ "z.alias.example", RR_A,
	    "qr aa NOERROR\n"
	    "Q z.alias.example. A\n"
	    "A z.alias.example. 3600 CNAME"
	    " host1.example.\n"
	    "A host1.example. 3600 A 192.0.2.1\n" },
	/* RFC 2782: names in SRV are not compressed. */
	{ "_ssh._tcp.host1.example", RR_SRV,
	    "qr aa NOERROR\n"
	    "Q _ssh._tcp.host1.example. SRV\n"
	    "A _ssh._tcp.host1.example. 3600 SRV"
	    " \\0\\0\\0\\0\\0\\22\\5host1\\7example\\0\n"
	    "+ host1.example. 3600 A 192.0.2.1\n" },
	/* RFC 1034 4.2.1: delegation, with glue of both kinds. */
	{ "glued.example", RR_A,
	    "qr NOERROR\n"
	    "Q glued.example. A\n"
	    "N glued.example. 3600 NS ns.glued.example.\n"
	    "+ ns.glued.example. 3600 A 192.0.2.53\n"
	    "+ ns.glued.example. 3600 AAAA  \\1\\13\\184"
	    "\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0S\n" },
	/* Not ours. */
	{ "example.org", RR_A, "qr REFUSED\nQ example.org. A\n" },
	{ "example", RR_AXFR, "qr REFUSED\nQ example. TYPE252\n" },
	{ "example", RR_IXFR, "qr REFUSED\nQ example. TYPE251\n" },
};

START_TEST(rfc1034_4_3_2_chains)
{
	const struct scene *s = &chains[_i];

	begin_message(7, 0, s->name, s->type);
	ck_assert_str_eq(reply(true), s->reply);
}
END_TEST

/* RFC 8482 4.1: little over UDP, everything over TCP. */
START_TEST(rfc8482_4_1_any)
{
	begin_message(7, 0, "example", RR_ANY);
	ck_assert_str_eq(reply(false),
	    "qr aa NOERROR\nQ example. ANY\n"
	    "A example. 3600 " EXAMPLE_SOA);
	begin_message(7, 0, "example", RR_ANY);
	ck_assert_str_eq(reply(true),
	    "qr aa NOERROR\nQ example. ANY\n"
	    "A example. 3600 " EXAMPLE_SOA
	    "A example. 3600 NS ns.example.com.\n"
	    "A example. 3600 NS ns.example.net.\n");
}
END_TEST

/* Round robin: every address comes first in its turn. */
START_TEST(records_rotate)
{
	for (int i = 0; i < 5; i++) {
		begin_message(7, 0, "sri-nic.arpa", RR_A);
		const char *text = reply(false);
		const char *at = strstr(text, " A 26.0.0.73");
		const char *other = strstr(text, " A 10.0.0.51");

		ck_assert_ptr_nonnull(at);
		ck_assert_ptr_nonnull(other);
		ck_assert_int_eq(at < other, i % 2 == 0);
	}
}
END_TEST

/* ---- RFC 1035 4.1.1 and 3.2.3, RFC 6891: headers and OPT ----------------- */

static const struct odd {
	unsigned flags, class, opts, size, version;
	const char *says;
} odds[] = {
	{ 0x0100, 1, 0, 0, 0,
	    "qr aa rd NOERROR\nQ three.example. A\n"
	    "A three.example. 3600 A 192.0.2.3\n" },
	{ 0x07F0, 1, 0, 0, 0,
	    "qr aa rd NOERROR\nQ three.example. A\n"
	    "A three.example. 3600 A 192.0.2.3\n" },
	{ 0x8000, 1, 0, 0, 0, "" },
	{ 0x8400, 1, 1, 512, 0, "" },
	{ 0x0000, 3, 0, 0, 0, "qr REFUSED\nQ three.example. A class 3\n" },
	{ 0x0000, 255, 0, 0, 0, "qr REFUSED\nQ three.example. A class 255\n" },
	{ 0x0000, 1, 1, 4096, 0,
	    "qr aa NOERROR\nQ three.example. A\n"
	    "A three.example. 3600 A 192.0.2.3\n+ . OPT 1232 0\n" },
	{ 0x0100, 1, 1, 0, 1,
	    "qr rd NOERROR\nQ three.example. A\n"
	    "+ . OPT 1232 1000000\n" }, /* BADVERS */
	{ 0x0100, 1, 1, 0, 0x8001, /* the client's rcode is no TTL */
	    "qr rd NOERROR\nQ three.example. A\n"
	    "+ . OPT 1232 1000000\n" },
	{ 0x0000, 1, 2, 512, 0, "qr FORMERR\n" },
	{ 0x0000, 1, 2, 512, 1, "qr FORMERR\n" },
	{ 0x0000, 4, 1, 512, 0,
	    "qr REFUSED\nQ three.example. A class 4\n"
	    "+ . OPT 1232 0\n" },
};

START_TEST(rfc6891_6_1_headers)
{
	const struct odd *o = &odds[_i];

	begin_message(7, o->flags, "three.example", RR_A);
	msg[msg_len - 1] = (unsigned char)o->class;
	for (unsigned i = 0; i < o->opts; i++)
		put_opt(o->size, o->version);
	ck_assert_str_eq(reply(false), o->says);
}
END_TEST

/* NSD's classic: text where a query should be.  Its octets are a header with
 * opcode 12 and nonsense; of them the id, RD and the opcode come back. */
START_TEST(rfc1035_4_1_1_text)
{
	static const char text[] = "default send str";

	memcpy(msg, text, 16);
	msg_len = 16;
	reply(false);
	ck_assert_uint_eq(msg_len, 12);
	ck_assert_mem_eq(msg, "de\xe0\x04\0\0\0\0\0\0\0\0", 12);
}
END_TEST

/* RFC 1035 4.1.1: other opcodes, echoed. */
START_TEST(rfc1035_4_1_1_opcodes)
{
	for (unsigned opcode = 1; opcode < 16; opcode++) {
		begin_message(0x1234, opcode << 11 | 0x100, "example", RR_A);
		ck_assert_str_eq(reply(false), "qr rd NOTIMP\n");
		ck_assert_uint_eq(msg_len, 12);
		ck_assert_uint_eq(msg[0], 0x12);
		ck_assert_uint_eq(msg[1], 0x34);
		ck_assert_uint_eq(msg[2] >> 3 & 15, opcode);
	}
	/* What somebody who tries the port with a keyboard sends. */
	memcpy(msg, "default send str", 16);
	msg_len = 16;
	reply(false);
	ck_assert_mem_eq(msg, "de\xe0\x04\0\0\0\0\0\0\0\0", 12);
}
END_TEST

/* ---- RFC 9267: what an attacker sends ------------------------------------ */

/* RFC 1035 4.1.4.  A query for "a.example A" begins so; then, in hexadecimal, its question and
 * what else there is. */
static const struct hostile {
	const char *what, *counts, *rest;
	int rcode; /* -1: no answer at all */
} hostiles[] = {
	{ "good", "0001000000000000", "0161076578616d706c650000010001", 0 },
	{ "pointer to itself", "0001000000000000", "c00c00010001", 1 },
	{ "pointer forward", "0001000000000000", "c00e00010001", 1 },
	{ "loop of two", "0001000000000000", "0161c00c00010001", 1 },
	{ "loop of two pointers", "0002000000000000",
	    "c00e00010001c00c00010001", 1 },
	{ "pointer past the end", "0001000000000000", "cfff00010001", 1 },
	{ "pointer into the header", "0001000000000000", "c00000010001", 1 },
	{ "pointer to octet 11", "0001000000000000", "0161c00b00010001", 1 },
	{ "half a pointer", "0001000000000000", "0161c0", 1 },
	{ "label type 01", "0001000000000000", "406100000100010000", 1 },
	{ "label type 10", "0001000000000000", "806100000100010000", 1 },
	{ "label past the end", "0001000000000000", "3f6161", 1 },
	{ "no root", "0001000000000000", "0161076578616d706c65", 1 },
	{ "no type", "0001000000000000", "0161076578616d706c6500", 1 },
	{ "half a class", "0001000000000000", "0161076578616d706c6500000100",
	    1 },
	{ "NUL in a label", "0001000000000000",
	    "0100076578616d706c650000010001", 0 },
	{ "no question", "0000000000000000", "", 1 },
	{ "two questions", "0002000000000000",
	    "0161076578616d706c65000001000100000010001", 1 },
	{ "65535 questions", "ffff000000000000", "", 1 },
	{ "65535 answers", "0001ffff00000000", "0161076578616d706c650000010001",
	    1 },
	{ "65535 of all", "ffffffffffffffff", "", 1 },
	{ "RDLENGTH past the end", "0001000000000001",
	    "0161076578616d706c650000010001"
	    "000029100000000000ffff",
	    1 },
	{ "RDLENGTH cut off", "0001000000000001",
	    "0161076578616d706c650000010001"
	    "00002910000000000000",
	    1 },
	{ "OPT of no root", "0001000000000001",
	    "0161076578616d706c650000010001"
	    "01610000291000000000000000",
	    1 },
	{ "EDNS option", "0001000000000001",
	    "0161076578616d706c650000010001"
	    "00002910000000000000040003000",
	    1 },
	{ "cut header", "00010000000000", "", -1 },
	{ "nothing", "", "", -1 },
};

static void
put_hex(const char *hex)
{
	unsigned octet;

	for (; hex[0] != '\0' && hex[1] != '\0'; hex += 2) {
		ck_assert_int_eq(sscanf(hex, "%2x", &octet), 1);
		put(octet, 1);
	}
}

START_TEST(rfc9267_hostile_packets)
{
	const struct hostile *h = &hostiles[_i];

	msg_len = 0;
	put(0xABCD, 2);
	put(0, 2);
	put_hex(h->counts);
	put_hex(h->rest);
	const char *text = reply(false);

	ck_assert_msg((h->rcode < 0) == (msg_len == 0), "%s: %s", h->what,
	    text);
	if (msg_len == 0)
		return;
	ck_assert_msg((msg[3] & 15) == h->rcode ||
		(h->rcode == 0 && (msg[3] & 15) == 3),
	    "%s: %s", h->what, text);
	if (h->rcode == 1)
		ck_assert_uint_eq(msg_len, 12);
}
END_TEST

/* RFC 1035 2.3.4: 255 octets and 127 labels are a name, 256 are none. */
START_TEST(rfc1035_2_3_4_longest_question)
{
	for (int extra = 0; extra < 2; extra++) {
		begin_message(7, 0, ".", RR_A);
		msg_len = 12;
		for (int i = 0; i < 127 + extra; i++)
			put_hex("0178");
		put_hex("0000010001");
		reply(true);
		ck_assert_uint_eq(msg[3] & 15, extra == 0 ? 5 : 1);
	}
}
END_TEST

/* Whatever comes, an answer is a message that the codec above can read. */
START_TEST(fuzz_answers)
{
	static const char *const names[] = { "one.example", "example",
		"x.glued.example", "a.example.org", "ring1.example" };
	static unsigned char out[65536];

	srand(20261124);
	for (int i = 0; i < 200000; i++) {
		begin_message(7, 0, names[i % 5], (unsigned)(rand() % 50));
		if (i % 3 == 0)
			put_opt((unsigned)rand() & 0xFFFF, 0);
		for (int j = rand() % 4; j >= 0; j--)
			msg[(size_t)rand() % msg_len] = (unsigned char)rand();
		size_t cut = (size_t)rand() % (4 * msg_len);
		size_t len = dns_answer(msg, cut < msg_len ? cut : msg_len, out,
		    i % 2 == 0);

		ck_assert(len == 0 || len >= 12);
		ck_assert_uint_le(len, i % 2 == 0 ? 65535 : 1232);
		msg_len = len;
		memcpy(msg, out, len);
		if (len > 0 && i % 8 == 0)
			print_message();
	}
}
END_TEST

/* ---- sizes --------------------------------------------------------------- */

/* A zone with so many addresses, and, up to 100, MX and NS with addresses. */
static void
load_large(unsigned n)
{
	FILE *f = fopen(test_path("large"), "w");
	struct diag diag = { .errors = 0 };

	fputs("@ 60 SOA ns.x. host 1 2 3 4 5\n NS ns.x.\n", f);
	for (unsigned i = 0; i < n; i++) {
		fprintf(f, "a A 10.0.%u.%u\n", i >> 8, i & 255);
		if (i < 100)
			fprintf(f,
			    "@ MX %u mx%u\nmx%u A 10.1.0.%u\n"
			    "sub NS ns%u.sub\nns%u.sub A 10.2.0.%u\n",
			    i, i, i, i, i, i, i);
	}
	fclose(f);
	zones[0] = master_load("large", test_path("large"), &diag);
	conf.n_zones = 1;
	ck_assert_uint_eq(diag.errors, 0);
}

/* RFC 2181 9: TC where a whole set does not fit, and nothing of it.  Without
 * EDNS that is 512 octets over UDP (RFC 1035 4.2.1). */
START_TEST(rfc2181_9_truncation)
{
	static const struct {
		unsigned edns;
		bool tcp;
		size_t fits; /* 29 octets of header and question, 16 each */
	} row[] = { { 0, false, 30 }, { 100, false, 29 }, { 512, false, 29 },
		{ 800, false, 47 }, { 1232, false, 74 }, { 4096, false, 74 },
		{ 0, true, 4000 } };

	for (size_t i = 0; i < NELEM(row); i++)
		for (unsigned more = 0; more < 2; more++) {
			load_large((unsigned)row[i].fits + more);
			begin_message(7, 0, "a.large", RR_A);
			if (row[i].edns > 0)
				put_opt(row[i].edns, 0);
			reply(row[i].tcp);
			bool whole = more == 0 || row[i].tcp;

			ck_assert_int_eq((msg[2] & 2) == 0, whole);
			ck_assert_int_eq(msg[6] << 8 | msg[7],
			    whole ? (int)(row[i].fits + more) : 0);
			zone_free(zones[0]);
		}
	conf.n_zones = 0;
}
END_TEST

/* A name that does not fit is no place to point to: there lies what an earlier
 * reply left, even a pointer to itself. */
START_TEST(names_that_do_not_fit)
{
	static unsigned char out[65536];
	struct diag diag = { .errors = 0 };
	char label[61], name[256];

	memset(label, 'a', 60);
	label[60] = '\0';
	snprintf(name, sizeof(name), "%s.%s.%s.%s", label, label, label, label);
	FILE *f = fopen(test_path("z"), "w");

	fprintf(f, "@ 60 SOA %s.x. %s.y. 1 2 3 4 5\n NS ns.x.\n", name, name);
	fclose(f);
	zones[0] = master_load("long", test_path("z"), &diag);
	ck_assert_uint_eq(diag.errors, 0);
	conf.n_zones = 1;
	snprintf(name, sizeof(name), "%s.%s.%s.%.54s.long", label, label, label,
	    label);
	for (size_t begin = 0; begin < 2; begin++) {
		begin_message(7, 0, name, RR_A);
		for (size_t at = begin; at + 1 < 0x4000; at += 2) {
			out[at] = (unsigned char)(0xC0 | at >> 8);
			out[at + 1] = (unsigned char)at;
		}
		ck_assert_uint_gt(dns_answer(msg, msg_len, out, false), 0);
		ck_assert(out[2] & 2); /* TC */
	}
	zone_free(zones[0]);
	conf.n_zones = 0;
}
END_TEST

/* The largest set that a zone may have is answered whole, at the end of the
 * longest question, with an OPT record: then not an octet is left. */
START_TEST(rfc1035_4_2_2_largest_set)
{
	static const size_t strings = 65241 / 256; /* and one of 217 octets */
	FILE *f = fopen(test_path("z"), "w");
	struct diag diag = { .errors = 0 };

	fputs("@ 60 SOA ns.x. host 1 2 3 4 5\n NS ns.x.\n* TXT (", f);
	for (size_t i = 0; i < strings; i++)
		fprintf(f, " %0255zu\n", i);
	fprintf(f, " %0216u )\n", 0);
	fclose(f);
	zones[0] = master_load("x", test_path("z"), &diag);
	conf.n_zones = 1;
	ck_assert_uint_eq(diag.errors, 0);
	begin_message(7, 0, ".", RR_TXT);
	msg_len = 12;
	for (int i = 0; i < 127; i++)
		put_hex("0178");
	put_hex("0000100001");
	put_opt(512, 0);
	reply(true);
	ck_assert_int_eq(msg[2] & 2, 0);
	ck_assert_uint_eq(msg[7], 1);
	ck_assert_uint_eq(msg[11], 1);
	ck_assert_uint_eq(msg_len, 65535);
}
END_TEST

/* Additional addresses may be missing; glue of a referral (RFC 1034 4.2.1) may
 * not. */
START_TEST(additional_that_does_not_fit)
{
	load_large(20);
	begin_message(7, 0, "large", RR_MX);
	reply(false);
	ck_assert_int_eq(msg[2] & 2, 0);
	ck_assert_uint_eq(msg[7], 20);
	ck_assert_uint_lt(msg[11], 20);
	ck_assert_uint_gt(msg[11], 0);
	begin_message(7, 0, "x.sub.large", RR_MX);
	reply(false);
	ck_assert_int_eq(msg[2] & 2, 2);
	begin_message(7, 0, "x.sub.large", RR_MX);
	put_opt(1232, 0);
	reply(false);
	ck_assert_int_eq(msg[2] & 2, 0);
	ck_assert_uint_eq(msg[9], 20);
	ck_assert_uint_eq(msg[11], 20 + 1);
}
END_TEST

/* RFC 1035 4.1.4: a pointer leads to a prior name.  One that is only being
 * written is none, although what an earlier message left behind it in the
 * buffer may make it look like one. */
START_TEST(rfc1035_4_1_4_unfinished_name)
{
	static unsigned char out[65536];
	struct diag diag = { .errors = 0 };
	const size_t data = 12 + 11 + 4 + 12; /* where the CNAME's data is */

	zones[0] = master_load("example",
	    test_write("twice", "@ 60 SOA ns.x. host 1 2 3 4 5\n NS ns.x.\n"
				"c CNAME b.a.b.a\n"), &diag);
	conf.n_zones = 1;
	ck_assert_uint_eq(diag.errors, 0);
	memcpy(out + data + 4, "\7example", 9);
	begin_message(7, 0, "c.example", RR_CNAME);
	msg_len = dns_answer(msg, msg_len, out, false);
	memcpy(msg, out, msg_len);
	ck_assert_str_eq(print_message(), "qr aa NOERROR\n"
	    "Q c.example. CNAME\n"
	    "A c.example. 60 CNAME b.a.b.a.example.\n");
}
END_TEST

/* ---- sockets ------------------------------------------------------------- */

/* Let what was sent arrive: no more than a millisecond. */
static void
await(int fd)
{
	struct pollfd one = { .fd = fd, .events = POLLIN };

	poll(&one, 1, 1);
}

/* One turn, without waiting. */
static void
turn(void)
{
	net_wait(srv.now);
	dns_serve();
	net_settle();
	dns_reap();
	net_check();
}

static int
open_socket(int type, union address *a)
{
	socklen_t len = sizeof(*a);
	int fd = socket(AF_INET, type | SOCK_NONBLOCK, 0);
	int one = 1;

	ck_assert_int_ge(fd, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, &a->any, sizeof(a->v4)) < 0) {
		close(fd);
		return -1;
	}
	getsockname(fd, &a->any, &len);
	return fd;
}

/* An address of this machine, whose port is free for UDP and TCP. */
static union address
free_address(const char *host)
{
	for (;;) {
		union address a = { .v4 = { .sin_family = AF_INET } };

		inet_pton(AF_INET, host, &a.v4.sin_addr);
		int udp = open_socket(SOCK_DGRAM, &a);
		int tcp = open_socket(SOCK_STREAM, &a);

		close(udp);
		if (tcp < 0)
			continue;
		close(tcp);
		return a;
	}
}

static int
client(int type, const union address *to)
{
	int fd = socket(AF_INET, type | SOCK_NONBLOCK, 0), one = 1;

	if (type == SOCK_STREAM)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, &to->any, sizeof(to->v4)) < 0)
		ck_assert_int_eq(errno, EINPROGRESS);
	return fd;
}

/* Turn until this many octets have come, into msg; false: the end came. */
static bool
receive(int fd, size_t want)
{
	msg_len = 0;
	for (int i = 0; i < TURNS && msg_len < want; i++) {
		ssize_t got = recv(fd, msg + msg_len, want - msg_len, 0);

		if (got == 0)
			return false;
		if (got < 0 && errno != EAGAIN)
			return false;
		if (got > 0)
			msg_len += (size_t)got;
		turn();
		if (msg_len < want)
			await(fd);
	}
	ck_assert_uint_eq(msg_len, want);
	return true;
}

/* A message by TCP: its length, then itself, as text. */
static const char *
receive_stream(int fd)
{
	if (!receive(fd, 2) || !receive(fd, (size_t)msg[0] << 8 | msg[1]))
		return "closed";
	return print_message();
}

static void
turns(int n)
{
	while (n-- > 0)
		turn();
}

static const char three[] = "qr aa NOERROR\nQ three.example. A\n"
			    "A three.example. 3600 A 192.0.2.3\n";

/* As mailserv.c does: UDP and TCP. */
static bool
listen_both(const union address *a)
{
	return net_listen(KIND_DNS, a, SOCK_DGRAM) != NULL &&
	    net_listen(KIND_DNS, a, SOCK_STREAM) != NULL;
}

START_TEST(server_over_udp)
{
	union address a = free_address("127.0.0.1");

	ck_assert(listen_both(&a));
	turn();
	int fd = client(SOCK_DGRAM, &a);

	for (int i = 0; i < 200; i++) {
		begin_message(7, 0x8000, "three.example", RR_A);
		send(fd, msg, msg_len, 0); /* no answer */
		begin_message(7, 0, "three.example", RR_A);
		ck_assert_int_eq(send(fd, msg, msg_len, 0), (int)msg_len);
		ck_assert(receive(fd, msg_len + 16));
		ck_assert_str_eq(print_message(), three);
	}
	send(fd, "", 0, 0);
	turns(3);
	close(fd);
}
END_TEST

/* More queries than one turn takes, from several clients, and some that deserve
 * no answer: each has its own, and nobody another's. */
START_TEST(server_over_udp_many_at_once)
{
	enum { CLIENTS = 7, EACH = 11 };
	union address a = free_address("127.0.0.1");
	int fds[CLIENTS];

	ck_assert(listen_both(&a));
	turn();
	for (int i = 0; i < CLIENTS; i++)
		fds[i] = client(SOCK_DGRAM, &a);
	for (unsigned id = 0; id < CLIENTS * EACH; id++) {
		begin_message(id, id % 3 == 0 ? 0x8000 : 0, "three.example",
		    id % 2 == 0 ? RR_A : RR_MX);
		send(fds[id % CLIENTS], msg, msg_len, 0);
	}
	turns(CLIENTS * EACH);
	for (unsigned id = 0; id < CLIENTS * EACH; id++) {
		if (id % 3 == 0)
			continue;
		ssize_t got = recv(fds[id % CLIENTS], msg, sizeof(msg), 0);

		ck_assert_int_gt(got, 12);
		ck_assert_uint_eq((unsigned)msg[0] << 8 | msg[1], id);
		msg_len = (size_t)got;
		ck_assert(strstr(print_message(),
			      id % 2 == 0 ? "example. A\n" : "example. MX\n"));
	}
	for (int i = 0; i < CLIENTS; i++) {
		ck_assert_int_lt(recv(fds[i], msg, sizeof(msg), 0), 0);
		close(fds[i]);
	}
}
END_TEST

/* A kernel that sends three at a time, and refuses each reply to this id. */
static int refused_id;

int __real_sendmmsg(int fd, struct mmsghdr *msgs, unsigned n, int flags);
int __wrap_sendmmsg(int fd, struct mmsghdr *msgs, unsigned n, int flags);
int
__wrap_sendmmsg(int fd, struct mmsghdr *msgs, unsigned n, int flags)
{
	unsigned few = 0;

	if (refused_id == 0)
		return __real_sendmmsg(fd, msgs, n, flags);
	while (few < n && few < 3 && ((const unsigned char *)
	    msgs[few].msg_hdr.msg_iov->iov_base)[1] != refused_id)
		few++;
	errno = EPERM;
	return few > 0 ? __real_sendmmsg(fd, msgs, few, flags) : -1;
}

/* A reply that cannot be sent is lost, and no other one. */
START_TEST(server_over_udp_refused)
{
	union address a = free_address("127.0.0.1");

	ck_assert(listen_both(&a));
	turn();
	int fd = client(SOCK_DGRAM, &a);

	for (refused_id = 1; refused_id <= 8; refused_id++) {
		for (unsigned id = 1; id <= 8; id++) {
			begin_message(id, 0, "three.example", RR_A);
			send(fd, msg, msg_len, 0);
		}
		turns(8);
		for (int id = 1; id <= 8; id++) {
			if (id == refused_id)
				continue;
			ck_assert_int_gt(recv(fd, msg, sizeof(msg), 0), 12);
			ck_assert_int_eq(msg[1], id);
		}
		ck_assert_int_lt(recv(fd, msg, sizeof(msg), 0), 0);
	}
	refused_id = 0;
	close(fd);
}
END_TEST

/* A query with an option of so many octets: what does not fit is lost. */
START_TEST(server_over_udp_long_query)
{
	static const struct {
		unsigned octets;
		const char *says;
	} row[] = {
		{ 1900, "NOERROR" }, { 3000, "FORMERR" }, { 60000, "FORMERR" },
	};
	union address a = free_address("127.0.0.1");

	ck_assert(listen_both(&a));
	turn();
	int fd = client(SOCK_DGRAM, &a);

	for (size_t i = 0; i < NELEM(row); i++) {
		unsigned octets = row[i].octets;
		unsigned char opt[] = { 0, 0, 41, 4, 208, 0, 0, 0, 0,
			(unsigned char)((octets + 4) >> 8),
			(unsigned char)(octets + 4), 0, 12,
			(unsigned char)(octets >> 8), (unsigned char)octets };
		static unsigned char query[65000];

		begin_message(7, 0, "three.example", RR_A);
		msg[11] = 1;
		memcpy(query, msg, msg_len);
		memcpy(query + msg_len, opt, sizeof(opt));
		send(fd, query, msg_len + sizeof(opt) + octets, 0);
		turns(3);
		ssize_t got = recv(fd, msg, sizeof(msg), 0);

		ck_assert_int_ge(got, 12);
		msg_len = (size_t)got;
		ck_assert(strstr(print_message(), row[i].says) != NULL);
	}
	close(fd);
}
END_TEST

/* RFC 1035 4.2.2: several queries on one connection, all in one piece, and
 * octet by octet. */
START_TEST(server_over_tcp)
{
	union address a = free_address("127.0.0.1");
	unsigned char queries[256];

	ck_assert(listen_both(&a));
	begin_message(7, 0, "three.example", RR_A);
	queries[0] = 0;
	queries[1] = (unsigned char)msg_len;
	memcpy(queries + 2, msg, msg_len);
	size_t len = msg_len + 2;

	memcpy(queries + len, queries, len);
	memcpy(queries + 2 * len, queries, len);
	int fd = client(SOCK_STREAM, &a);

	turn();
	ck_assert_int_eq(send(fd, queries, 3 * len, 0), (int)(3 * len));
	for (int i = 0; i < 3; i++)
		ck_assert_str_eq(receive_stream(fd), three);
	for (size_t i = 0; i < len; i++) {
		send(fd, queries + i, 1, 0);
		turns(2);
	}
	ck_assert_str_eq(receive_stream(fd), three);
	/* It says no more; the answer still comes, and then the end. */
	send(fd, queries, len, 0);
	shutdown(fd, SHUT_WR);
	ck_assert_str_eq(receive_stream(fd), three);
	ck_assert_str_eq(receive_stream(fd), "closed");
	ck_assert_uint_eq(srv.net.n_clients, 0);
	close(fd);
}
END_TEST

/* Who may not come in hears nothing: words would be no message of the DNS. */
START_TEST(server_over_tcp_refused)
{
	union address a = free_address("127.0.0.1");
	char octet;

	ck_assert(listen_both(&a));
	conf.max_clients = 0;
	int fd = client(SOCK_STREAM, &a);

	turns(3);
	ssize_t got = recv(fd, &octet, 1, 0);

	ck_assert(got == 0 || (got < 0 && errno == ECONNRESET));
	conf.max_clients = 100;
	close(fd);
}
END_TEST

/* Idle, too short, cut off, nonsense: none of it keeps the server. */
START_TEST(server_over_tcp_underrun)
{
	static const struct {
		const char *data;
		size_t len;
	} row[] = { { "", 0 }, { "\0\2AB", 4 }, { "\177\177AB", 4 },
		{ "\0\0", 2 }, { "\0", 1 }, { "\0\1A\0\0\0\0", 7 } };
	union address a = free_address("127.0.0.1");

	ck_assert(listen_both(&a));
	for (size_t i = 0; i < NELEM(row); i++) {
		int fd = client(SOCK_STREAM, &a);
		char octet;

		turns(3);
		send(fd, row[i].data, row[i].len, 0);
		turns(5);
		srv.frozen += 31 * SECOND;
		turns(5);
		ssize_t got = recv(fd, &octet, 1, 0);

		ck_assert(got == 0 || (got < 0 && errno == ECONNRESET));
		ck_assert_uint_eq(srv.net.n_clients, 0);
		close(fd);
	}
}
END_TEST

/* A client that asks for much and reads nothing waits for itself: memory is
 * bounded, others are served, and all its answers come once it reads. */
START_TEST(server_back_pressure)
{
	union address a = free_address("127.0.0.1");
	unsigned char query[64];
	int sent = 0, got = 0;

	load_large(2000); /* 32 KiB an answer */
	ck_assert(listen_both(&a));
	begin_message(7, 0, "a.large", RR_A);
	query[0] = 0;
	query[1] = (unsigned char)msg_len;
	memcpy(query + 2, msg, msg_len);
	size_t len = msg_len + 2;
	int fd = client(SOCK_STREAM, &a);

	turns(2);
	for (int i = 0; i < 3000; i++) {
		ssize_t n = send(fd, query, len, 0);

		if (n < (ssize_t)len)
			break;
		sent++;
		turn();
	}
	size_t at = 0;

	for (const struct conn *c; (c = net_walk(KIND_DNS, &at)) != NULL;)
		ck_assert_uint_le(c->in.cap + c->out.cap, 65536 + 4096);
	for (; got < sent && got < LARGE_ANSWERS; got++) {
		ck_assert(receive(fd, 2));
		ck_assert(receive(fd, (size_t)msg[0] << 8 | msg[1]));
		ck_assert_mem_eq(msg, "\0\7\204\0\0\1\7\320\0\0\0\0", 12);
	}
	ck_assert_int_eq(got, LARGE_ANSWERS);
	close(fd);
}
END_TEST

/* ---- the resolver, against servers that are played here ------------------ */

static struct {
	int udp, tcp; /* bound to its address */
	union address address, from;
} servers[2];
static unsigned char query[512]; /* the last one that a server got */
static size_t query_len;

/* Two name servers, and no zones of our own. */
static void
begin_resolver(void)
{
	static union address list[2];

	begin();
	for (int i = 0; i < 2; i++) {
		servers[i].address = free_address(
		    i == 0 ? "127.0.0.1" : "127.0.0.2");
		servers[i].udp = open_socket(SOCK_DGRAM, &servers[i].address);
		servers[i].tcp = open_socket(SOCK_STREAM, &servers[i].address);
		ck_assert_int_eq(listen(servers[i].tcp, 4), 0);
		list[i] = servers[i].address;
	}
	conf.resolvers.v = list;
	conf.resolvers.n = 2;
}

/* Turn until server i gets a query by UDP. */
static void
expect_query(int i)
{
	socklen_t len = sizeof(servers[i].from);
	ssize_t got = -1;

	for (int n = 0; n < TURNS && got < 0; n++) {
		turn();
		if (n > 2)
			await(servers[i].udp);
		got = recvfrom(servers[i].udp, query, sizeof(query), 0,
		    &servers[i].from.any, &len);
	}
	ck_assert_int_gt(got, 12);
	query_len = (size_t)got;
	ck_assert_uint_eq(query[2], 1); /* RD, and nothing else */
	ck_assert_uint_eq(query[3], 0);
	ck_assert_mem_eq(query + 4, "\0\1\0\0\0\0\0\0", 8);
}

static void
no_query(int i)
{
	turns(5);
	ck_assert_int_lt(recv(servers[i].udp, query, sizeof(query), 0), 0);
}

/* Begin, in msg, the reply to the last query, with its question. */
static void
begin_reply(unsigned flags)
{
	memcpy(msg, query, query_len);
	msg_len = query_len;
	msg[2] = (unsigned char)(flags >> 8);
	msg[3] = (unsigned char)flags;
}

static void
send_reply(int i)
{
	ck_assert_int_eq(sendto(servers[i].udp, msg, msg_len, 0,
			     &servers[i].from.any, sizeof(servers[i].from.v4)),
	    (int)msg_len);
	turns(3);
}

/* Take the connection of the resolver, and read its query. */
static int
expect_stream(int i)
{
	int fd = -1;

	for (int n = 0; n < TURNS && fd < 0; n++) {
		turn();
		fd = accept4(servers[i].tcp, NULL, NULL, SOCK_NONBLOCK);
	}
	ck_assert_int_ge(fd, 0);
	ck_assert(receive(fd, 2));
	ck_assert(receive(fd, (size_t)msg[0] << 8 | msg[1]));
	memcpy(query, msg, msg_len);
	query_len = msg_len;
	return fd;
}

#define OK_FLAGS 0x8180 /* QR, RD, RA */

static void
check_addr(const struct lookup *l, size_t i, unsigned addr)
{
	unsigned char octets[] = { (unsigned char)(addr >> 24),
		(unsigned char)(addr >> 16), (unsigned char)(addr >> 8),
		(unsigned char)addr };

	ck_assert_int_eq(l->state, LOOKUP_FOUND);
	ck_assert_uint_lt(i, l->n);
	ck_assert_mem_eq(l->answers[i].addr, octets, 4);
}

START_TEST(resolver_finds_and_caches)
{
	struct lookup *l = dns_ask("Mail.test", RR_A);

	ck_assert_int_eq(l->state, LOOKUP_PENDING);
	expect_query(0);
	ck_assert_mem_eq(query + 12, "\4Mail\4test\0\0\1\0\1", 15);
	begin_reply(OK_FLAGS);
	put_a("mAIL.test", 60, 0x0A000001);
	put_a("mail.test", 30, 0x0A000002);
	put_a("other.test", 60, 0x0A000003); /* nobody asked */
	send_reply(0);
	check_addr(l, 0, 0x0A000001);
	check_addr(l, 1, 0x0A000002);
	ck_assert_uint_eq(l->n, 2);
	ck_assert_str_eq(l->canonical, "Mail.test");
	dns_drop(l);
	/* For the smaller of the two TTLs it is known. */
	srv.frozen += 30 * SECOND - 1;
	turn();
	l = dns_ask("MAIL.TEST", RR_A);
	check_addr(l, 1, 0x0A000002);
	dns_drop(l);
	srv.frozen += 1;
	turn();
	l = dns_ask("mail.test", RR_A);
	ck_assert_int_eq(l->state, LOOKUP_PENDING);
	dns_drop(l);
	/* Another type, or another's name, was never known. */
	l = dns_ask("other.test", RR_A);
	ck_assert_int_eq(l->state, LOOKUP_PENDING);
	dns_drop(l);
	turns(2);
}
END_TEST

/* RFC 5452 9.1, RFC 1035 7.3: what a reply must match. */
START_TEST(rfc5452_9_1_replies_that_are_not_ours)
{
	struct lookup *l = dns_ask("mail.test", RR_A);

	expect_query(0);
	for (int wrong = 0; wrong < 9; wrong++) {
		begin_reply(OK_FLAGS);
		put_a("mail.test", 60, 0x0A0000FF);
		msg[0] ^= wrong == 0;
		msg[1] ^= wrong == 1;
		msg[13] ^= wrong == 2 ? 1 : 0;    /* the name */
		msg[query_len - 3] ^= wrong == 3; /* its type */
		msg[query_len - 1] ^= wrong == 4; /* its class */
		msg[2] ^= wrong == 5 ? 0x80 : 0;  /* QR */
		msg[2] ^= wrong == 6 ? 0x08 : 0;  /* opcode */
		msg[5] = wrong == 7 ? 2 : wrong == 8 ? 0 : 1;
		send_reply(0);
		ck_assert_int_eq(l->state, LOOKUP_PENDING);
	}
	/* From another port, from another address. */
	begin_reply(OK_FLAGS);
	put_a("mail.test", 60, 0x0A0000FF);
	union address elsewhere = free_address("127.0.0.1");
	int fd = open_socket(SOCK_DGRAM, &elsewhere);

	sendto(fd, msg, msg_len, 0, &servers[0].from.any, sizeof(elsewhere.v4));
	sendto(servers[1].udp, msg, msg_len, 0, &servers[0].from.any,
	    sizeof(elsewhere.v4));
	turns(3);
	close(fd);
	ck_assert_int_eq(l->state, LOOKUP_PENDING);
	begin_reply(OK_FLAGS);
	put_a("mail.test", 60, 0x0A000001);
	send_reply(0);
	check_addr(l, 0, 0x0A000001);
	send_reply(0); /* once more, late */
	ck_assert_uint_eq(l->n, 1);
	dns_drop(l);
}
END_TEST

/* RFC 5452 6, RFC 2181 5.4.1: whatever else a reply brings, in whichever
 * section, nobody asked for it, and it is not believed. */
START_TEST(rfc5452_6_only_what_was_asked)
{
	static const char *const others[] = { "bank.test", "www.mail.test",
		"test", "ns.bank.test" };
	struct lookup *l = dns_ask("mail.test", RR_A);

	expect_query(0);
	begin_reply(OK_FLAGS);
	put_a("mail.test", 60, 7);
	put_a("bank.test", 60, 0x0A0000FF);
	put_a("www.mail.test", 60, 0x0A0000FF);
	put_target("www.mail.test", RR_CNAME, "bank.test");
	size_t start = begin_record(2, "test", RR_NS, 60);

	put_text("ns.bank.test");
	end_record(start);
	start = begin_record(3, "ns.bank.test", RR_A, 60);
	put(0x0A0000FF, 4);
	end_record(start);
	send_reply(0);
	check_addr(l, 0, 7);
	ck_assert_uint_eq(l->n, 1);
	dns_drop(l);
	for (size_t i = 0; i < NELEM(others); i++) {
		l = dns_ask(others[i], RR_A);
		ck_assert_int_eq(l->state, LOOKUP_PENDING);
		dns_drop(l);
	}
	turns(2);
}
END_TEST

/* RFC 1035 2.3.3: case does not make it another question. */
START_TEST(reply_in_another_case)
{
	struct lookup *l = dns_ask("mail.test", RR_A);

	expect_query(0);
	begin_reply(OK_FLAGS);
	memcpy(msg + 12, "\4mAiL\4TEST", 10);
	put_a("MAIL.test", 60, 7);
	send_reply(0);
	check_addr(l, 0, 7);
	dns_drop(l);
}
END_TEST

/* More octets than a query offers room for, more records than are kept. */
START_TEST(reply_of_64_kib)
{
	struct lookup *l = dns_ask("mail.test", RR_A);

	expect_query(0);
	begin_reply(OK_FLAGS);
	unsigned n = 0;

	while (msg_len < 65000)
		put_a("mail.test", 60, n++);
	msg[6] = (unsigned char)(n >> 8);
	send_reply(0);
	ck_assert_uint_gt(n, 256);
	ck_assert_uint_eq(l->n, 256);
	check_addr(l, 255, 255);
	dns_drop(l);
}
END_TEST

/* The laboratory of the moved host: its address has changed, and mail goes on
 * to whoever has the old one now, until the TTL is over. */
START_TEST(stale_address_lives_for_its_ttl)
{
	static const struct {
		msec later;
		bool asked;
		unsigned addr;
	} row[] = { { 0, true, 1 }, { 300 * SECOND - 1, false, 1 },
		{ 1, true, 2 }, { 299 * SECOND, false, 2 } };

	for (size_t i = 0; i < NELEM(row); i++) {
		srv.frozen += row[i].later;
		turn();
		struct lookup *l = dns_ask("mail.test", RR_A);

		ck_assert_int_eq(l->state == LOOKUP_PENDING, row[i].asked);
		if (row[i].asked) {
			expect_query(0);
			begin_reply(OK_FLAGS);
			put_a("mail.test", 300, row[i].addr);
			send_reply(0);
		}
		check_addr(l, 0, row[i].addr);
		dns_drop(l);
	}
}
END_TEST

/* Each query has a port and a number of its own. */
START_TEST(rfc5452_9_2_ports_and_ids)
{
	unsigned ports[16], ids[16], same_ports = 0, same_ids = 0;

	for (unsigned i = 0; i < 16; i++) {
		struct lookup *l = dns_ask("a.test", RR_A);

		expect_query(0);
		ports[i] = servers[0].from.v4.sin_port;
		ids[i] = (unsigned)query[0] << 8 | query[1];
		for (unsigned j = 0; j < i; j++) {
			same_ports += ports[i] == ports[j];
			same_ids += ids[i] == ids[j];
		}
		dns_drop(l);
	}
	ck_assert_uint_lt(same_ports, 10);
	ck_assert_uint_lt(same_ids, 5);
}
END_TEST

/* SERVFAIL and its like: the next server; time-outs: two rounds.  A failure is
 * kept for less than the five minutes of RFC 2308 7. */
START_TEST(next_server_then_failure)
{
	static const unsigned rcodes[] = { 1, 2, 4, 5, 9 };

	for (size_t i = 0; i < NELEM(rcodes); i++) {
		char name[16];

		snprintf(name, sizeof(name), "a%zu.test", i);
		struct lookup *l = dns_ask(name, RR_A);

		expect_query(0);
		begin_reply(OK_FLAGS | rcodes[i]);
		send_reply(0);
		expect_query(1);
		begin_reply(OK_FLAGS);
		put_a(name, 60, 7);
		send_reply(1);
		check_addr(l, 0, 7);
		dns_drop(l);
	}
	struct lookup *l = dns_ask("b.test", RR_A);

	for (int i = 0; i < 4; i++) {
		ck_assert_int_eq(l->state, LOOKUP_PENDING);
		expect_query(i % 2);
		srv.frozen += 2 * SECOND - 1;
		no_query((i + 1) % 2);
		srv.frozen += 1;
	}
	turns(3);
	ck_assert_int_eq(l->state, LOOKUP_FAILED);
	ck_assert_str_eq(l->why, "the name server does not answer");
	dns_drop(l);
	/* The failure is known for five seconds, no longer. */
	srv.frozen += 5 * SECOND - 1;
	turn();
	l = dns_ask("b.test", RR_A);
	ck_assert_int_eq(l->state, LOOKUP_FAILED);
	dns_drop(l);
	srv.frozen += 1;
	turn();
	l = dns_ask("b.test", RR_A);
	ck_assert_int_eq(l->state, LOOKUP_PENDING);
	dns_drop(l);
}
END_TEST

/* What one server has said is not said of the next, which says nothing. */
START_TEST(time_out_after_an_error)
{
	struct lookup *l = dns_ask("a.test", RR_A);

	expect_query(0);
	begin_reply(OK_FLAGS | 2);
	send_reply(0);
	expect_query(1);
	for (int i = 0; i < 2; i++) {
		srv.frozen += 2 * SECOND;
		expect_query(i);
	}
	srv.frozen += 2 * SECOND;
	turns(3);
	ck_assert_int_eq(l->state, LOOKUP_FAILED);
	ck_assert_str_eq(l->why, "the name server does not answer");
	dns_drop(l);
}
END_TEST

/* Nobody listens: the kernel says so, and no time is lost. */
START_TEST(refused_port_is_not_waited_for)
{
	close(servers[0].udp);
	struct lookup *l = dns_ask("a.test", RR_A);

	expect_query(1);
	begin_reply(OK_FLAGS);
	put_a("a.test", 60, 7);
	send_reply(1);
	check_addr(l, 0, 7);
	dns_drop(l);
	conf.resolvers.n = 0;
	l = dns_ask("b.test", RR_A);
	turns(2);
	ck_assert_int_eq(l->state, LOOKUP_FAILED);
	ck_assert_str_eq(l->why, "no name server is known: see resolver");
	dns_drop(l);
}
END_TEST

/* RFC 7766 5: after TC the same server is asked by TCP.  Its answer comes
 * octet by octet. */
START_TEST(rfc7766_5_truncated_then_tcp)
{
	struct lookup *l = dns_ask("many.test", RR_MX);
	char host[32];

	expect_query(0);
	begin_reply(OK_FLAGS | 0x200);
	send_reply(0);
	int fd = expect_stream(0);

	begin_reply(OK_FLAGS);
	for (unsigned i = 0; i < 60; i++) {
		snprintf(host, sizeof(host), "mx-number-%u.test", i);
		put_target("many.test", RR_MX, host);
	}
	unsigned char prefix[] = { (unsigned char)(msg_len >> 8),
		(unsigned char)msg_len };

	send(fd, prefix, 1, 0);
	turns(2);
	send(fd, prefix + 1, 1, 0);
	for (size_t i = 0; i < msg_len; i++) {
		ck_assert_int_eq(l->state, LOOKUP_PENDING);
		send(fd, msg + i, 1, 0);
		turns(i < 50 ? 2 : 1);
	}
	turns(10);
	ck_assert_int_eq(l->state, LOOKUP_FOUND);
	ck_assert_uint_eq(l->n, 60);
	ck_assert_str_eq(l->answers[0].name, "mx-number-0.test");
	ck_assert_str_eq(l->answers[59].name, "mx-number-59.test");
	ck_assert_uint_eq(l->answers[59].preference, 10);
	dns_drop(l);
	close(fd);
}
END_TEST

/* A message that ends before the data of its last record: nobody looks for
 * that data behind the message, which lies there in a buffer of its size. */
START_TEST(tcp_record_without_its_data)
{
	struct lookup *l = dns_ask("cut.test", RR_A);

	expect_query(0);
	begin_reply(OK_FLAGS | 0x200);
	send_reply(0);
	int fd = expect_stream(0);

	begin_reply(OK_FLAGS);
	for (unsigned i = 0; i < 200; i++)
		put_a("other.test", 60, i);
	put_target("cut.test", RR_CNAME, "elsewhere.test");
	msg_len -= sizeof("\11elsewhere\4test");
	ck_assert_uint_gt(msg_len + 2, SMALL_BUF);
	unsigned char prefix[] = { (unsigned char)(msg_len >> 8),
		(unsigned char)msg_len };

	send(fd, prefix, 2, 0);
	turns(2);
	ck_assert_int_eq(send(fd, msg, msg_len, 0), (int)msg_len);
	for (int i = 0; i < TURNS && l->why[0] == '\0'; i++)
		turns(1);
	ck_assert_int_eq(l->state, LOOKUP_PENDING);
	ck_assert_str_eq(l->why, "the name server replies nonsense");
	expect_query(1);
	dns_drop(l);
	close(fd);
}
END_TEST

/* TCP that breaks off, in every way: the next server, by UDP. */
START_TEST(tcp_that_breaks_off)
{
	static const struct {
		const char *data;
		size_t len;
	} row[] = { { "", 0 }, { "\0\5", 2 }, { "\0\0", 2 }, { "\0\1A", 3 },
		{ "\377\377AB", 4 } };

	for (size_t i = 0; i < NELEM(row); i++) {
		char name[16];

		snprintf(name, sizeof(name), "t%zu.test", i);
		struct lookup *l = dns_ask(name, RR_A);

		expect_query(0);
		begin_reply(OK_FLAGS | 0x200);
		send_reply(0);
		int fd = expect_stream(0);

		send(fd, row[i].data, row[i].len, 0);
		turns(3);
		if (row[i].len < 4)
			close(fd);
		else
			srv.frozen += 2 * SECOND;
		expect_query(1);
		begin_reply(OK_FLAGS);
		put_a(name, 60, 7);
		send_reply(1);
		check_addr(l, 0, 7);
		dns_drop(l);
		if (row[i].len == 4)
			close(fd);
	}
	close(servers[0].tcp); /* refused */
	struct lookup *l = dns_ask("r.test", RR_A);

	expect_query(0);
	begin_reply(OK_FLAGS | 0x200);
	send_reply(0);
	expect_query(1);
	dns_drop(l);
}
END_TEST

/* RFC 2308 5: negative answers are kept for min(SOA TTL, MINIMUM), and without
 * an SOA not at all.  No name is not no data (RFC 2308 2.1 and 2.2). */
START_TEST(rfc2308_5_negative_cache)
{
	static const struct {
		unsigned flags, ttl, minimum;
		enum lookup_state state;
		int seconds; /* kept */
	} row[] = {
		{ OK_FLAGS | 3, 60, 20, LOOKUP_NXDOMAIN, 20 },
		{ OK_FLAGS | 3, 10, 20, LOOKUP_NXDOMAIN, 10 },
		{ OK_FLAGS, 60, 20, LOOKUP_NODATA, 20 },
		{ OK_FLAGS, 0xFFFFFFFF, 20, LOOKUP_NODATA, 0 },
		{ OK_FLAGS | 3, 0, 0, LOOKUP_NXDOMAIN, -1 }, /* no SOA */
		{ OK_FLAGS, 0, 0, LOOKUP_NODATA, -1 },
	};

	for (size_t i = 0; i < NELEM(row); i++) {
		char name[16];

		snprintf(name, sizeof(name), "n%zu.test", i);
		struct lookup *l = dns_ask(name, RR_MX);

		expect_query(0);
		begin_reply(row[i].flags);
		if (row[i].seconds >= 0)
			put_soa("test", row[i].ttl, row[i].minimum);
		send_reply(0);
		ck_assert_int_eq(l->state, row[i].state);
		ck_assert_uint_eq(l->n, 0);
		dns_drop(l);
		if (row[i].seconds > 0) {
			srv.frozen += row[i].seconds * SECOND - 1;
			turn();
			l = dns_ask(name, RR_MX);
			ck_assert_int_eq(l->state, row[i].state);
			dns_drop(l);
			srv.frozen += 1;
			turn();
		}
		l = dns_ask(name, RR_MX);
		ck_assert_int_eq(l->state, LOOKUP_PENDING);
		dns_drop(l);
		turns(2);
		while (recv(servers[0].udp, query, sizeof(query), 0) > 0)
			continue;
	}
}
END_TEST

/* RFC 2181 8: a TTL over 2^31 - 1 is 0; and none lasts longer than a day. */
START_TEST(rfc2181_8_ttl_limits)
{
	static const struct {
		unsigned ttl;
		msec kept;
	} row[] = { { 0, 0 }, { 0x80000000, 0 }, { 0xFFFFFFFF, 0 },
		{ 0x7FFFFFFF, 86400 * SECOND }, { 1, SECOND } };

	for (size_t i = 0; i < NELEM(row); i++) {
		struct lookup *l = dns_ask("ttl.test", RR_A);

		expect_query(0);
		begin_reply(OK_FLAGS);
		put_a("ttl.test", row[i].ttl, 7);
		send_reply(0);
		check_addr(l, 0, 7);
		dns_drop(l);
		if (row[i].kept > 0) {
			srv.frozen += row[i].kept - 1;
			turn();
			l = dns_ask("ttl.test", RR_A);
			check_addr(l, 0, 7);
			dns_drop(l);
		}
		srv.frozen += 1;
		turn();
	}
}
END_TEST

/* RFC 1034 5.3.3 step 4c: CNAMEs within the answer, in any order, and beyond
 * it. */
START_TEST(rfc1034_5_3_3_cname_chains)
{
	struct lookup *l = dns_ask("a.test", RR_A);

	expect_query(0);
	begin_reply(OK_FLAGS);
	put_a("c.test", 60, 7);
	put_target("b.test", RR_CNAME, "C.test");
	put_target("a.test", RR_CNAME, "b.test");
	send_reply(0);
	check_addr(l, 0, 7);
	ck_assert_uint_eq(l->n, 1);
	ck_assert_str_eq(l->canonical, "C.test");
	dns_drop(l);
	l = dns_ask("A.test", RR_A); /* from the cache, with its last name */
	check_addr(l, 0, 7);
	ck_assert_str_eq(l->canonical, "C.test");
	dns_drop(l);
	/* It leads out of the answer: the first server is asked on. */
	l = dns_ask("d.test", RR_A);
	expect_query(0);
	begin_reply(OK_FLAGS);
	put_target("d.test", RR_CNAME, "e.elsewhere");
	send_reply(0);
	ck_assert_int_eq(l->state, LOOKUP_PENDING);
	expect_query(0);
	ck_assert_mem_eq(query + 12, "\1e\11elsewhere\0\0\1\0\1", 17);
	begin_reply(OK_FLAGS | 3);
	put_soa("elsewhere", 60, 60);
	send_reply(0);
	ck_assert_int_eq(l->state, LOOKUP_NXDOMAIN);
	ck_assert_str_eq(l->canonical, "e.elsewhere");
	dns_drop(l);
	/* NODATA at its end: the SOA says so, nobody need be asked. */
	l = dns_ask("f.test", RR_A);
	expect_query(0);
	begin_reply(OK_FLAGS);
	put_target("f.test", RR_CNAME, "g.test");
	put_soa("test", 60, 60);
	send_reply(0);
	ck_assert_int_eq(l->state, LOOKUP_NODATA);
	dns_drop(l);
	/* The CNAME itself is asked for. */
	l = dns_ask("h.test", RR_CNAME);
	expect_query(0);
	begin_reply(OK_FLAGS);
	put_target("h.test", RR_CNAME, "i.test");
	send_reply(0);
	ck_assert_int_eq(l->state, LOOKUP_FOUND);
	dns_drop(l);
}
END_TEST

START_TEST(cname_loops_end)
{
	struct lookup *l = dns_ask("a.test", RR_A);

	expect_query(0);
	begin_reply(OK_FLAGS);
	put_target("a.test", RR_CNAME, "b.test");
	put_target("b.test", RR_CNAME, "a.test");
	send_reply(0);
	ck_assert_int_eq(l->state, LOOKUP_FAILED);
	ck_assert_str_eq(l->why, "the chain of CNAMEs has no end");
	dns_drop(l);
	l = dns_ask("x.test", RR_A);
	for (int i = 0; i < 100 && l->state == LOOKUP_PENDING; i++) {
		expect_query(0);
		char owner[32] = "x.test", target[32];

		if (i > 0)
			snprintf(owner, sizeof(owner), "x%d.test", i);
		snprintf(target, sizeof(target), "x%d.test", i + 1);
		begin_reply(OK_FLAGS);
		put_target(owner, RR_CNAME, target);
		send_reply(0);
		ck_assert_int_lt(i, 20);
	}
	ck_assert_int_eq(l->state, LOOKUP_FAILED);
	dns_drop(l);
}
END_TEST

/* Records that are not what they say, referrals, unprintable hosts: the next
 * server, never an answer. */
START_TEST(replies_of_nonsense)
{
	static const char *const rdata[] = { "", "0A", "000A", "000A01",
		"000A016100FF", "000AC00C00", "000ACFFF", "000A4061",
		"000AC02B" };

	for (size_t i = 0; i < NELEM(rdata) + 3; i++) {
		char name[16];

		snprintf(name, sizeof(name), "z%02zu.test", i);
		struct lookup *l = dns_ask(name,
		    i == NELEM(rdata) ? RR_A : RR_MX);

		expect_query(0);
		begin_reply(OK_FLAGS);
		if (i < NELEM(rdata)) {
			size_t start = begin_record(1, name, RR_MX, 60);

			put_hex(rdata[i]);
			end_record(start);
		} else if (i == NELEM(rdata)) {
			size_t start = begin_record(1, name, RR_A, 60);

			put(1, 3);
			end_record(start);
		} else if (i == NELEM(rdata) + 1) {
			msg[7] = 200; /* answers that are not there */
		} else {
			size_t start = begin_record(2, "test", RR_NS, 60);

			put_text("ns.test");
			end_record(start);
		}
		send_reply(0);
		ck_assert_int_eq(l->state, LOOKUP_PENDING);
		expect_query(1);
		begin_reply(OK_FLAGS | 3);
		send_reply(1);
		ck_assert_int_eq(l->state, LOOKUP_NXDOMAIN);
		ck_assert_uint_eq(l->n, 0);
		dns_drop(l);
	}
}
END_TEST

/* An alias in a reply that turns out to be nonsense counts for nothing: the
 * next server is asked for the name that the caller wants to know of. */
START_TEST(nonsense_behind_an_alias)
{
	struct lookup *l = dns_ask("alias.test", RR_A);

	expect_query(0);
	begin_reply(OK_FLAGS);
	put_target("alias.test", RR_CNAME, "elsewhere.test");
	msg[9] = 1; /* a record of the authority section that is not there */
	send_reply(0);
	ck_assert_str_eq(l->why, "the name server replies nonsense");
	expect_query(1);
	ck_assert_mem_eq(query + 12, "\5alias\4test", 12);
	dns_drop(l);
}
END_TEST

/* Nor do its aliases count among those that the next reply may have. */
START_TEST(nonsense_behind_many_aliases)
{
	struct lookup *l = dns_ask("n0.test", RR_A);
	char from[16], to[16];

	expect_query(0);
	begin_reply(OK_FLAGS);
	for (int i = 0; i < CHAIN_MAX; i++) {
		snprintf(from, sizeof(from), "n%d.test", i);
		snprintf(to, sizeof(to), "n%d.test", i + 1);
		put_target(from, RR_CNAME, to);
	}
	msg[9] = 1;
	send_reply(0);
	ck_assert_str_eq(l->why, "the name server replies nonsense");
	expect_query(1);
	begin_reply(OK_FLAGS);
	put_target("n0.test", RR_CNAME, "n1.test");
	put_a("n1.test", 60, 0x7f000001);
	send_reply(1);
	ck_assert_int_eq(l->state, LOOKUP_FOUND);
	dns_drop(l);
}
END_TEST

START_TEST(rfc7505_3_null_mx)
{
	struct lookup *l = dns_ask("null.test", RR_MX);

	expect_query(0);
	begin_reply(OK_FLAGS);
	put_target("null.test", RR_MX, ".");
	send_reply(0);
	ck_assert_int_eq(l->state, LOOKUP_FOUND);
	ck_assert_uint_eq(l->n, 1);
	ck_assert_str_eq(l->answers[0].name, "");
	dns_drop(l);
}
END_TEST

/* Our own zones need no server; what leaves them is asked (RFC 1034 4.3.2). */
START_TEST(own_zones_answer)
{
	load(0, "example", "wild.zone");
	struct lookup *l = dns_ask("ONE.example", RR_A);

	check_addr(l, 0, 0xC0000203);
	ck_assert_str_eq(l->canonical, "three.example");
	dns_drop(l);
	l = dns_ask("x.example", RR_MX);
	ck_assert_int_eq(l->state, LOOKUP_FOUND);
	ck_assert_str_eq(l->answers[0].name, "host1.example");
	ck_assert_uint_eq(l->answers[0].preference, 10);
	dns_drop(l);
	l = dns_ask("three.example", RR_MX);
	ck_assert_int_eq(l->state, LOOKUP_NODATA);
	dns_drop(l);
	l = dns_ask("lost.example", RR_A);
	ck_assert_int_eq(l->state, LOOKUP_NXDOMAIN);
	dns_drop(l);
	l = dns_ask("ring1.example", RR_A);
	ck_assert_int_eq(l->state, LOOKUP_FAILED);
	dns_drop(l);
	no_query(0);
	l = dns_ask("away.example", RR_A);
	expect_query(0);
	begin_reply(OK_FLAGS);
	put_a("www.example.org", 60, 7);
	ck_assert_mem_eq(query + 12, "\3www\7example\3org\0", 17);
	send_reply(0);
	check_addr(l, 0, 7);
	dns_drop(l);
	l = dns_ask("ns.glued.example", RR_A); /* delegated: not ours */
	expect_query(0);
	/* And from outside back to us. */
	begin_reply(OK_FLAGS);
	put_target("ns.glued.example", RR_CNAME, "three.example");
	send_reply(0);
	check_addr(l, 0, 0xC0000203);
	dns_drop(l);
}
END_TEST

/* RFC 5452 6: what the servers of others say of a name of ours is not believed,
 * not even behind an alias of theirs.  Where we have delegated it, it is asked for. */
START_TEST(rfc5452_6_aliases_into_our_zones)
{
	load(0, "example", "wild.zone");
	struct lookup *l = dns_ask("a.test", RR_A);

	expect_query(0);
	begin_reply(OK_FLAGS);
	put_target("a.test", RR_CNAME, "one.example"); /* of three.example */
	put_target("one.example", RR_CNAME, "evil.test");
	put_a("one.example", 60, 666);
	put_a("three.example", 60, 666);
	put_a("evil.test", 60, 666);
	send_reply(0);
	check_addr(l, 0, 0xC0000203);
	ck_assert_uint_eq(l->n, 1);
	ck_assert_str_eq(l->canonical, "three.example");
	dns_drop(l);
	l = dns_ask("b.test", RR_MX);
	expect_query(0);
	begin_reply(OK_FLAGS);
	put_target("b.test", RR_CNAME, "x.example");
	put_target("x.example", RR_MX, "evil.test");
	send_reply(0);
	ck_assert_int_eq(l->state, LOOKUP_FOUND);
	ck_assert_uint_eq(l->n, 1);
	ck_assert_str_eq(l->answers[0].name, "host1.example");
	dns_drop(l);
	/* Nor that there is no such name. */
	l = dns_ask("c.test", RR_A);
	expect_query(0);
	begin_reply(OK_FLAGS | 3);
	put_target("c.test", RR_CNAME, "three.example");
	put_soa("test", 60, 60);
	send_reply(0);
	check_addr(l, 0, 0xC0000203);
	dns_drop(l);
	/* Our zone leads on, elsewhere than they say. */
	l = dns_ask("d.test", RR_A);
	expect_query(0);
	begin_reply(OK_FLAGS);
	put_target("d.test", RR_CNAME, "away.example");
	put_a("away.example", 60, 666);
	send_reply(0);
	expect_query(0);
	ck_assert_mem_eq(query + 12, "\3www\7example\3org\0", 17);
	dns_drop(l);
	l = dns_ask("e.test", RR_A);
	expect_query(0);
	begin_reply(OK_FLAGS);
	put_target("e.test", RR_CNAME, "ns.glued.example");
	put_a("ns.glued.example", 60, 666);
	send_reply(0);
	expect_query(0);
	begin_reply(OK_FLAGS);
	put_a("ns.glued.example", 60, 7);
	send_reply(0);
	check_addr(l, 0, 7);
	dns_drop(l);
}
END_TEST

START_TEST(names_that_nobody_can_have)
{
	static const char *const bad[] = { "a..b", ".a",
		"1234567890123456789012345678901234567890123456789012345678901234"
		".test" };

	for (size_t i = 0; i < NELEM(bad); i++) {
		struct lookup *l = dns_ask(bad[i], RR_MX);

		ck_assert_int_eq(l->state, LOOKUP_NXDOMAIN);
		dns_drop(l);
	}
}
END_TEST

/* Truncated over TCP as well is nonsense: the next server is asked, because a
 * part of a set is none (RFC 2181 9). */
START_TEST(rfc2181_9_truncated_over_tcp)
{
	struct lookup *l = dns_ask("many.test", RR_A);

	expect_query(0);
	begin_reply(OK_FLAGS | 0x200);
	send_reply(0);
	int fd = expect_stream(0);

	begin_reply(OK_FLAGS | 0x200);
	put_a("many.test", 60, 1);
	unsigned char prefix[] = { (unsigned char)(msg_len >> 8),
		(unsigned char)msg_len };

	send(fd, prefix, 2, 0);
	ck_assert_int_eq(send(fd, msg, msg_len, 0), (int)msg_len);
	expect_query(1);
	begin_reply(OK_FLAGS);
	for (unsigned i = 0; i < 30; i++)
		put_a("many.test", 60, i);
	send_reply(1);
	check_addr(l, 29, 29);
	ck_assert_uint_eq(l->n, 30);
	dns_drop(l);
	close(fd);
	no_query(0);
}
END_TEST

/* Ten thousand look-ups at once, and not one more: it fails at once. */
START_TEST(lookups_have_a_limit)
{
	static struct lookup *l[10001];
	char name[32];

	for (int i = 0; i < 10001; i++) {
		snprintf(name, sizeof(name), "m%d.test", i);
		l[i] = dns_ask(name, RR_A);
		ck_assert_ptr_nonnull(l[i]);
	}
	ck_assert_int_eq(l[9999]->state, LOOKUP_PENDING);
	ck_assert_int_eq(l[10000]->state, LOOKUP_FAILED);
	ck_assert_str_eq(l[10000]->why, "too many look-ups at once");
	dns_drop(l[10000]);
	dns_drop(l[9999]);
	l[9999] = dns_ask("again.test", RR_A);
	ck_assert_int_eq(l[9999]->state, LOOKUP_PENDING);
	for (int i = 0; i < 10000; i++) /* the other way would be slow */
		dns_drop(l[i]);
	net_settle();
	dns_reap();
	ck_assert_uint_eq(srv.net.n, 0);
}
END_TEST

/* More look-ups than sockets: the rest waits, and is asked in order, so that
 * none waits for ever; dropping them is always right. */
START_TEST(many_lookups_wait_for_a_place)
{
	struct lookup *l[200];
	char name[32];

	for (int i = 0; i < 200; i++) {
		snprintf(name, sizeof(name), "m%d.test", i);
		l[i] = dns_ask(name, RR_A);
	}
	turn();
	ck_assert_uint_le(srv.net.n, 64);
	for (int i = 0; i < 200; i++) {
		expect_query(0);
		begin_reply(OK_FLAGS);
		size_t len = query[12];

		snprintf(name, sizeof(name), "%.*s.test", (int)len,
		    (const char *)query + 13);
		ck_assert_int_eq(atoi(name + 1), i);
		put_a(name, 60, 7);
		send_reply(0);
	}
	for (int i = 0; i < 200; i++) {
		check_addr(l[i], 0, 7);
		dns_drop(l[i]);
	}
	for (int i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "w%d.test", i);
		l[i] = dns_ask(name, RR_A);
	}
	turn();
	for (int i = 0; i < 100; i++)
		dns_drop(l[i * 37 % 100]);
	net_settle();
	dns_reap();
	ck_assert_uint_eq(srv.net.n, 0);
}
END_TEST

/* A resolver's replies, changed at random: no harm, and the look-up ends. */
START_TEST(fuzz_replies)
{
	srand(20261124);
	for (int i = 0; i < 3000; i++) {
		struct lookup *l = dns_ask("mail.test", i % 2 ? RR_A : RR_MX);

		if (l->state != LOOKUP_PENDING) {
			dns_drop(l);
			srv.frozen += 86401 * SECOND;
			turn();
			continue;
		}
		expect_query(0);
		begin_reply(OK_FLAGS);
		put_target("mail.test", RR_CNAME, "a.test");
		put_target("a.test", RR_MX, "b.test");
		put_a("a.test", 60, 7);
		put_soa("test", 60, 60);
		for (int j = rand() % 4; j >= 0; j--)
			msg[12 + (size_t)rand() % (msg_len - 12)] =
			    (unsigned char)rand();
		if (i % 5 == 0)
			msg_len = query_len +
			    (size_t)rand() % (msg_len - query_len);
		send_reply(0);
		dns_drop(l);
		turn();
		while (recv(servers[1].udp, query, sizeof(query), 0) > 0 ||
		    recv(servers[0].udp, query, sizeof(query), 0) > 0)
			continue;
	}
}
END_TEST

/* `mailserv -r` turns in an order of its own, and asks between two turns. */
START_TEST(asked_between_turns)
{
	struct lookup *l = dns_ask("late.test", RR_A);

	for (int i = 0; i < 4; i++) {
		expect_query(i % 2);
		srv.frozen += 2 * SECOND;
	}
	turns(2);
	ck_assert_int_eq(l->state, LOOKUP_FAILED);
	dns_drop(l);
	/* A configuration that was read again may have fewer servers. */
	l = dns_ask("fewer.test", RR_A);
	expect_query(0);
	conf.resolvers.n = 1;
	srv.frozen += 2 * SECOND;
	expect_query(0);
	conf.resolvers.n = 0;
	srv.frozen += 2 * SECOND;
	turns(2);
	ck_assert_int_eq(l->state, LOOKUP_FAILED);
	dns_drop(l);
}
END_TEST

/* -v: one line a message, with its section: RFC 1035 7.2 and 7.3. */
START_TEST(trace_cites_the_rfc)
{
	load(0, "example", "wild.zone");
	union address a = free_address("127.0.0.1");

	log_level = 1;
	test_capture(STDERR_FILENO);
	ck_assert(listen_both(&a));
	int fd = client(SOCK_DGRAM, &a);

	begin_message(7, 0, "three.example", RR_A);
	send(fd, msg, msg_len, 0);
	ck_assert(receive(fd, msg_len + 16));
	struct lookup *l = dns_ask("x.test", RR_MX);

	expect_query(0);
	begin_reply(OK_FLAGS | 3);
	send_reply(0);
	dns_drop(l);
	const char *said = test_captured();

	log_level = -1;
	ck_assert_ptr_nonnull(strstr(said,
	    "< query three.example A    (RFC"
	    " 1034 4.3.2)\n"));
	ck_assert_ptr_nonnull(strstr(said,
	    "> answer three.example A rcode=0 aa"
	    " records=1,0,0    (RFC 1034"
	    " 4.3.2)\n"));
	ck_assert_ptr_nonnull(strstr(said,
	    "> query x.test MX    (RFC 1035"
	    " 7.2)\n"));
	ck_assert_ptr_nonnull(strstr(said,
	    "< answer x.test MX rcode=3"
	    " records=0,0,0    (RFC 1035"
	    " 7.3)\n"));
	close(fd);
}
END_TEST

/* ---- all of them --------------------------------------------------------- */

static TCase *
add_case(Suite *suite, const char *name, SFun setup)
{
	TCase *tcase = tcase_create(name);

	tcase_add_checked_fixture(tcase, setup, end);
	tcase_set_timeout(tcase, 120);
	suite_add_tcase(suite, tcase);
	return tcase;
}

static void
add_server_tests(Suite *suite)
{
	TCase *tcase = add_case(suite, "rfc1034", begin_rfc1034);

	tcase_add_loop_test(tcase, rfc1034_6_2_scenario, 0, NELEM(rfc1034_6_2));
	tcase_add_test(tcase, records_rotate);
	tcase = add_case(suite, "wild", begin_wild);
	tcase_add_loop_test(tcase, rfc1034_4_3_2_chains, 0, NELEM(chains));
	tcase_add_loop_test(tcase, rfc6891_6_1_headers, 0, NELEM(odds));
	tcase_add_loop_test(tcase, rfc9267_hostile_packets, 0, NELEM(hostiles));
	tcase_add_test(tcase, rfc8482_4_1_any);
	tcase_add_test(tcase, rfc1035_4_1_1_opcodes);
	tcase_add_test(tcase, rfc1035_4_1_1_text);
	tcase_add_test(tcase, rfc1035_2_3_4_longest_question);
	tcase_add_test(tcase, fuzz_answers);
	tcase_add_test(tcase, server_over_udp);
	tcase_add_test(tcase, server_over_udp_many_at_once);
	tcase_add_test(tcase, server_over_udp_refused);
	tcase_add_test(tcase, server_over_udp_long_query);
	tcase_add_test(tcase, server_over_tcp);
	tcase_add_test(tcase, server_over_tcp_refused);
	tcase_add_test(tcase, server_over_tcp_underrun);
	tcase = add_case(suite, "large", begin);
	tcase_add_test(tcase, rfc2181_9_truncation);
	tcase_add_test(tcase, names_that_do_not_fit);
	tcase_add_test(tcase, rfc1035_4_2_2_largest_set);
	tcase_add_test(tcase, additional_that_does_not_fit);
	tcase_add_test(tcase, rfc1035_4_1_4_unfinished_name);
	tcase_add_test(tcase, server_back_pressure);
}

static void
add_resolver_tests(Suite *suite)
{
	TCase *tcase = add_case(suite, "resolver", begin_resolver);

	tcase_add_test(tcase, resolver_finds_and_caches);
	tcase_add_test(tcase, rfc5452_9_1_replies_that_are_not_ours);
	tcase_add_test(tcase, rfc5452_6_only_what_was_asked);
	tcase_add_test(tcase, rfc5452_9_2_ports_and_ids);
	tcase_add_test(tcase, reply_in_another_case);
	tcase_add_test(tcase, reply_of_64_kib);
	tcase_add_test(tcase, stale_address_lives_for_its_ttl);
	tcase_add_test(tcase, next_server_then_failure);
	tcase_add_test(tcase, time_out_after_an_error);
	tcase_add_test(tcase, refused_port_is_not_waited_for);
	tcase_add_test(tcase, rfc7766_5_truncated_then_tcp);
	tcase_add_test(tcase, tcp_record_without_its_data);
	tcase_add_test(tcase, tcp_that_breaks_off);
	tcase_add_test(tcase, rfc2308_5_negative_cache);
	tcase_add_test(tcase, rfc2181_8_ttl_limits);
	tcase_add_test(tcase, rfc1034_5_3_3_cname_chains);
	tcase_add_test(tcase, cname_loops_end);
	tcase_add_test(tcase, replies_of_nonsense);
	tcase_add_test(tcase, nonsense_behind_an_alias);
	tcase_add_test(tcase, nonsense_behind_many_aliases);
	tcase_add_test(tcase, rfc7505_3_null_mx);
	tcase_add_test(tcase, own_zones_answer);
	tcase_add_test(tcase, rfc5452_6_aliases_into_our_zones);
	tcase_add_test(tcase, names_that_nobody_can_have);
	tcase_add_test(tcase, rfc2181_9_truncated_over_tcp);
	tcase_add_test(tcase, lookups_have_a_limit);
	tcase_add_test(tcase, many_lookups_wait_for_a_place);
	tcase_add_test(tcase, fuzz_replies);
	tcase_add_test(tcase, asked_between_turns);
	tcase_add_test(tcase, trace_cites_the_rfc);
}

int
main(void)
{
	Suite *suite = suite_create("dns");

	add_server_tests(suite);
	add_resolver_tests(suite);
	SRunner *runner = srunner_create(suite);

	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);

	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
