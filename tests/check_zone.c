/*
 * check_zone.c -- master files: what they mean, what is wrong with them, and
 * what a zone then answers.
 *
 * A zone of these tests is "example" unless it says otherwise.  The zones of
 * RFC 1034 6.1 and RFC 1035 5.3 lie in tests/zones, word for word.
 */
#include <sys/resource.h>
#include "testlib.h"

static struct diag diag;

static struct zone *
load(const char *text)
{
	diag = (struct diag){ .errors = 0 };
	struct zone *z = master_load("example", test_write("z", text), &diag);

	ck_assert_ptr_nonnull(z);
	return z;
}

static struct zone *
load_file(const char *origin, const char *name)
{
	char path[256];

	diag = (struct diag){ .errors = 0 };
	snprintf(path, sizeof(path), "tests/zones/%s", name);
	struct zone *z = master_load(origin, path, &diag);

	ck_assert_ptr_nonnull(z);
	ck_assert_uint_eq(diag.errors, 0);
	/* three aliases that lead to each other */
	ck_assert_uint_eq(diag.warnings, strcmp(name, "wild.zone") ? 0 : 3);
	return z;
}

static struct dname
name(const char *text)
{
	struct dname n;

	ck_assert_ptr_null(zone_name(text, NULL, &n));
	return n;
}

/* ---- one record as text -------------------------------------------------- */

static void
print_field(FILE *f, char field, const unsigned char *data)
{
	char text[HOST_MAX];

	if (field == 'n' || field == 'u') {
		ck_assert(zone_name_text(data, text));
		fprintf(f, " %s.", text);
	} else if (field == '2') {
		fprintf(f, " %u", (unsigned)data[0] << 8 | data[1]);
	} else if (field == '4' || field == 't') {
		fprintf(f, " %u",
		    (unsigned)data[0] << 24 | data[1] << 16 | data[2] << 8 |
			data[3]);
	} else if (field == 'a') {
		fprintf(f, " %u.%u.%u.%u", data[0], data[1], data[2], data[3]);
	} else if (field == 's') {
		fprintf(f, " \"%.*s\"", data[0], (const char *)data + 1);
	}
}

static void
print_record(FILE *f, unsigned type, const struct record *r)
{
	const struct rr_kind *kind = zone_kind(type);
	size_t at = 0;

	if (kind != NULL)
		fprintf(f, "%s", kind->name);
	else
		fprintf(f, "TYPE%u", type);
	for (const char *s = kind != NULL ? kind->shape : ""; *s != '\0'; s++) {
		char field = *s == 'S' ? 's' : *s;

		do {
			size_t len = zone_field(field, r->data + at,
			    r->len - at);

			ck_assert_uint_gt(len, 0);
			if (field != 'b')
				print_field(f, field, r->data + at);
			at += field != 'b' ? len : 0;
		} while (*s == 'S' && at < r->len);
	}
	if (at < r->len)
		fputc(' ', f);
	for (; at < r->len; at++)
		fprintf(f, "%02x", r->data[at]);
}

/* "TTL TYPE DATA; ..." of all records of a name, in order of the file. */
static const char *
records(const struct zone *z, const char *owner)
{
	static char text[2][4096];
	static unsigned turn;
	char *to = text[turn++ % 2];
	FILE *f = fmemopen(to, sizeof(text[0]), "w");
	struct dname n = name(owner);
	struct zone_hit hit;
	const char *comma = "";

	if (zone_find((struct zone *)(uintptr_t)z, &n, RR_ANY, &hit) !=
	    ZONE_ANSWER)
		hit.set = NULL;
	for (struct rrset *set = hit.set; set != NULL; set = set->next)
		for (struct record *r = set->records; r != NULL; r = r->next) {
			fprintf(f, "%s%u ", comma, set->ttl);
			print_record(f, set->type, r);
			comma = "; ";
		}
	fputc('\0', f);
	fclose(f);
	return to;
}

/* ---- RFC 1035 5: what a file means --------------------------------------- */

#define SOA "@ 60 IN SOA ns host 1 2 3 4 5\n"
#define TOP SOA " NS ns\nns A 192.0.2.1\n"

static const struct meaning {
	const char *text, *owner, *records;
} meanings[] = {
	/* RFC 1035 5.1: the forms of an entry; an address (RFC 1035 3.4.1). */
	{ TOP "a 5 IN A 1.2.3.4", "a.example", "5 A 1.2.3.4" },
	{ TOP "a IN 5 A 1.2.3.4", "a.example", "5 A 1.2.3.4" },
	{ TOP "a\tA\t1.2.3.4\t\r\n", "a.example", "60 A 1.2.3.4" },
	{ TOP "a 7 A 1.2.3.4\n\tA 1.2.3.5\r\n  \t A 1.2.3.6", "a.example",
	    "7 A 1.2.3.4; 7 A 1.2.3.5; 7 A 1.2.3.6" },
	{ TOP "A A 1.2.3.4\nIn in a 1.2.3.5", "in.example", "60 A 1.2.3.5" },
	{ TOP "a A 1.2.3.4 ; no dot ; \" (", "a.example", "60 A 1.2.3.4" },
	{ TOP "a (\n A ; (\n\n 1.2.3.4 )\n A ( 1.2.3.5 )", "a.example",
	    "60 A 1.2.3.4; 60 A 1.2.3.5" },
	{ TOP "a ((A) (1.2.3.4))", "a.example", "60 A 1.2.3.4" },
	{ TOP "$ORIGIN sub\na MX 1 @\nb.example. MX 2 b", "b.example",
	    "60 MX 2 b.sub.example." },
	{ TOP "$ORIGIN sub\n$ORIGIN more\na MX 1 @", "a.more.sub.example",
	    "60 MX 1 more.sub.example." },
	{ TOP "$origin .\na.example TXT x", "a.example", "60 TXT \"x\"" },
	/* Which TTL: RFC 2308 4, RFC 1035 5.1, RFC 1034 6.1. */
	{ TOP "$TTL 1h30m\na A 1.2.3.4", "a.example", "5400 A 1.2.3.4" },
	{ TOP "$TTL 9\na 8 A 1.2.3.4\na TXT x", "a.example",
	    "8 A 1.2.3.4; 9 TXT \"x\"" },
	/* RFC 1035 3.3.13 and 3.3.11: SOA, NS. */
	{ "@ SOA ns host 1 2 3 4 77\n NS ns\nns 9 A 192.0.2.1", "example",
	    "77 SOA ns.example. host.example. 1 2 3 4 77; 77 NS ns.example." },
	{ TOP "a 1W2D3H4M5s A 1.2.3.4", "a.example", "788645 A 1.2.3.4" },
	{ TOP "a 2147483647 A 1.2.3.4", "a.example", "2147483647 A 1.2.3.4" },
	/* RFC 1035 5.1: escapes, strings. */
	{ TOP "a TXT \"a;b\" \"c\\\"d\" e\\;f \"\" (\"(\")", "a.example",
	    "60 TXT \"a;b\" \"c\"d\" \"e;f\" \"\" \"(\"" },
	{ TOP "a TXT \\065\\066c \"\\068\"", "a.example",
	    "60 TXT \"ABc\" \"D\"" },
	/* RFC 1035 3.3.14 and 3.3.2: TXT, HINFO. */
	{ TOP "a TXT \"x\"\"y\"z", "a.example", "60 TXT \"x\" \"y\" \"z\"" },
	{ TOP "a HINFO \"PDP-11/70\" UNIX", "a.example",
	    "60 HINFO \"PDP-11/70\" \"UNIX\"" },
	{ TOP "a MX 1 x\\.y\\046z.\\w.", "a.example",
	    "60 MX 1 x\\046y\\046z.w." },
	{ TOP "\\097 TXT x", "a.example", "60 TXT \"x\"" },
	{ TOP "a\xc3\xa4 TXT \xc3\xa4", "a\\195\\164.example",
	    "60 TXT \"\xc3\xa4\"" },
	/* The other types (RFC 1035 3.2.2). */
	{ TOP "a AAAA 2001:db8::1", "a.example",
	    "60 AAAA 20010db8000000000000000000000001" },
	{ TOP "_x._tcp SRV 1 2 65535 ns", "_x._tcp.example",
	    "60 SRV 1 2 65535 ns.example." },
	{ TOP "a PTR b.c.", "a.example", "60 PTR b.c." }, /* RFC 1035 3.3.12 */
	{ TOP "a MB b", "a.example", "60 MB b.example." }, /* RFC 1035 3.3.3 */
	{ TOP "a MG b", "a.example", "60 MG b.example." }, /* RFC 1035 3.3.6 */
	{ TOP "a MX 0 .", "a.example", "60 MX 0 ." },      /* RFC 1035 3.3.9 */
	/* RFC 1035 3.3.1 */
	{ TOP "a CNAME b", "a.example", "60 CNAME b.example." },
	/* RFC 3597 5. */
	{ TOP "a TYPE731 \\# 6 abcd ( ef 01 23 45 )", "a.example",
	    "60 TYPE731 abcdef012345" },
	{ TOP "a TYPE62347 \\# 0", "a.example", "60 TYPE62347" },
	{ TOP "a IN TYPE1 \\# 4 0A000001", "a.example", "60 A 10.0.0.1" },
	{ TOP "a A \\# 4 0A 00 00 02", "a.example", "60 A 10.0.0.2" },
	{ TOP "a type15 1 ns", "a.example", "60 MX 1 ns.example." },
};

START_TEST(rfc1035_5_1_meaning)
{
	const struct meaning *m = &meanings[_i];
	struct zone *z = load(m->text);

	ck_assert_uint_eq(diag.errors, 0);
	ck_assert_str_eq(records(z, m->owner), m->records);
	zone_free(z);
}
END_TEST

/* ---- what is wrong ------------------------------------------------------- */

#define L63 "123456789012345678901234567890123456789012345678901234567890123"
#define S250 \
	"1234567890123456789012345678901234567890123456789012345678901234567" \
	"8901234567890123456789012345678901234567890123456789012345678901234" \
	"5678901234567890123456789012345678901234567890123456789012345678901" \
	"2345678901234567890123456789012345678901234567890"

static const struct fault_row {
	const char *text, *says;
} faults[] = {
	{ TOP "a A 1.2.3", "4: 1.2.3: not an IPv4 address\n" },
	{ TOP "a A 01.2.3.4", "4: 01.2.3.4: not an IPv4 address\n" },
	{ TOP "a AAAA 1:2", "4: 1:2: not an IPv6 address\n" },
	{ TOP "a A", "4: A: its data is not complete\n" },
	{ TOP "a MX 10", "4: MX: its data is not complete\n" },
	{ TOP "a TXT\nb A x",
	    "4: TXT: its data is not complete\n"
	    "5: x: not an IPv4 address\n" },
	{ TOP "a HINFO x", "4: HINFO: its data is not complete\n" },
	{ TOP "a A 1.2.3.4 5", "4: 5: nothing may follow here\n" },
	{ TOP "a", "4: the record: its type is missing\n" },
	{ TOP "a 5 IN", "4: the record: its type is missing\n" },
	{ TOP "a FOO x",
	    "4: FOO: neither a type known here nor the class"
	    " IN\n" },
	{ TOP "a CH TXT x",
	    "4: CH: neither a type known here nor the class"
	    " IN\n" },
	{ TOP "a IN IN TXT x",
	    "4: IN: neither a type known here nor the"
	    " class IN\n" },
	{ TOP "a TYPE65536 \\# 0",
	    "4: TYPE65536: neither a type known here"
	    " nor the class IN\n" },
	{ TOP "a TYPE255 \\# 0",
	    "4: TYPE255: neither a type known here"
	    " nor the class IN\n" },
	{ TOP "a TYPE41 \\# 0",
	    "4: TYPE41: neither a type known here"
	    " nor the class IN\n" },
	{ TOP "a 2147483648 A 1.2.3.4",
	    "4: 2147483648: a time is a number such"
	    " as 3600, or 1h30m, up to 2147483647\n" },
	{ TOP "a 99999999999999999999w A 1.2.3.4",
	    "4: 99999999999999999999w: a"
	    " time is a number such as 3600, or 1h30m, up to 2147483647\n" },
	{ TOP "$TTL x",
	    "4: x: a time is a number such as 3600, or 1h30m, up"
	    " to 2147483647\n" },
	{ TOP "a 1y A 1.2.3.4",
	    "4: 1y: a time is a number such as 3600, or"
	    " 1h30m, up to 2147483647\n" },
	{ TOP "a MX 65536 ns", "4: 65536: not a number up to 65535\n" },
	{ TOP "a MX -1 ns", "4: -1: not a number up to 65535\n" },
	{ "@ 60 SOA ns host 4294967296 2 3 4 5\n NS ns.x.",
	    "1: 4294967296: not a number up to 4294967295\n" },
	/* RFC 1035 2.3.4. */
	{ TOP L63 "4 A 1.2.3.4", "4: " L63 "4: a label of over 63 octets\n" },
	{ TOP "a MX 1 b..c", "4: b..c: an empty label\n" },
	{ TOP ".a A 1.2.3.4", "4: .a: an empty label\n" },
	{ TOP "a MX 1 \"\"", "4: : an empty name\n" },
	{ TOP "a MX 1 " L63 "." L63 "." L63 "." L63 ".",
	    "4: " L63 "."
	    "1234567890123456: a name of over 255 octets\n" },
	{ TOP "a TXT \"" S250 "123456\"",
	    "4: 12345678901234567890123456789012"
	    "345678901234567890123456789012345678901234567890: a string of"
	    " over 255 octets: part it in several\n" },
	{ TOP "a TXT \\256",
	    "4: \\256: after \\ comes one character, or three"
	    " digits up to 255\n" },
	{ TOP "a\\25 TXT a",
	    "4: a\\25: after \\ comes one character, or"
	    " three digits up to 255\n" },
	{ TOP "a TXT a\\",
	    "4: a\\: after \\ comes one character, or three"
	    " digits up to 255\n" },
	{ TOP "a TXT a\\\nb A x",
	    "4: a\\: after \\ comes one character, or"
	    " three digits up to 255\n5: x: not an IPv4 address\n" },
	{ TOP "a TXT \"a\nb A x",
	    "4: a: there is no \" to end it on its"
	    " line\n5: x: not an IPv4 address\n" },
	{ TOP "a TXT \"a", "4: a: there is no \" to end it on its line\n" },
	{ TOP "\na ( A 1.2.3.4\n\n",
	    "5: (: there is no ) up to the end of the"
	    " file\n" },
	{ TOP "a A ) 1.2.3.4", "4: ): there was no (\n" },
	{ TOP "a TYPE9 \\# 2 abc",
	    "4: abc: not pairs of hexadecimal digits\n" },
	{ TOP "a TYPE99 \\# 3 abcd",
	    "4: \\#: the data is not as long as it"
	    " says\n" },
	{ TOP "a TYPE99 \\# x",
	    "4: x: after \\# comes a length up to"
	    " 65535\n" },
	{ TOP "a TYPE99 abcd",
	    "4: abcd: data of an unknown type begins with"
	    " \\# (RFC 3597 5)\n" },
	{ TOP "a A \\# 3 abcdef", "4: A: such data this type cannot have\n" },
	{ TOP "a MX \\# 4 0001c00c",
	    "4: MX: such data this type cannot"
	    " have\n" },
	{ TOP "a NS \\# 3 026100", "4: NS: such data this type cannot have\n" },
	/* The zone as a whole: RFC 1035 5.2. */
	{ "a A 1.2.3.4\n" TOP,
	    "1: a.example: the first record must be the"
	    " SOA\n" },
	{ TOP SOA, "4: example: a second SOA\n" },
	{ TOP "a SOA ns host (\n1 2 3\n4 5 )",
	    "4: a.example: an SOA stands at"
	    " the origin only\n" },
	{ "\n" SOA, "2: example: there is no NS record (RFC 1035 5.2)\n" },
	{ "", "1: example: there is no SOA record (RFC 1035 5.2)\n" },
	{ "@ SOA ns\n NS a.b.", "1: SOA: its data is not complete\n" },
	{ TOP "a CNAME b\na A 1.2.3.4",
	    "5: a.example: a CNAME stands alone"
	    " at its name (RFC 1034 3.6.2)\n" },
	{ TOP "a A 1.2.3.4\na CNAME b",
	    "5: a.example: a CNAME stands alone"
	    " at its name (RFC 1034 3.6.2)\n" },
	{ TOP "@ CNAME b",
	    "4: example: a CNAME stands alone at its"
	    " name (RFC 1034 3.6.2)\n" },
	{ TOP "a CNAME b\nA CNAME c",
	    "5: A.example: a CNAME stands alone"
	    " at its name (RFC 1034 3.6.2)\n" },
	{ TOP "a.com. A 1.2.3.4", "4: a.com: is not in the zone\n" },
	{ TOP "xexample. A 1.2.3.4", "4: xexample: is not in the zone\n" },
	{ " A 1.2.3.4", "1: A: there is no owner before this line\n" },
	/* what is half made owns nothing */
	{ TOP L63 " A 1.1.1.1\nxxxx." L63 "\\400 A 1.2.3.4\n A 1.2.3.5",
	    "5: xxxx." L63 "\\400: after \\ comes one character, or three"
	    " digits up to 255\n" },
	{ TOP "$FOO", "4: $FOO: no such directive\n" },
	{ TOP "$ORIGIN a b", "4: b: nothing may follow here\n" },
	{ TOP "$ORIGIN", "4: : an empty name\n" },
	{ TOP "$INCLUDE", "4: $INCLUDE: the name of a file is missing\n" },
	{ TOP "$INCLUDE nowhere", "4: ~/nowhere: No such file or directory\n" },
	{ TOP "$INCLUDE nowhere a..b", "4: a..b: an empty label\n" },
	/* Warnings. */
	{ TOP "a A 1.2.3.4\na A 1.2.3.4",
	    "5: warning: a.example: this record"
	    " was there already\n" },
	{ TOP "a 5 A 1.2.3.4\na 6 A 1.2.3.5",
	    "5: warning: this TTL is not that"
	    " of its set (RFC 2181 5.2): the smaller one counts\n" },
	{ TOP "a CNAME ns\n@ MX 1 a",
	    "5: warning: a.example is an alias; a"
	    " host's own name must be here (RFC 2181 10.3)\n" },
	{ TOP "a CNAME ns\n_x._tcp SRV 1 2 3 a",
	    "5: warning: a.example is an alias; a"
	    " host's own name must be here (RFC 2181 10.3)\n" },
	{ TOP "_x._tcp SRV 256 2 3 mail",
	    "4: warning: mail.example has no address in this zone\n" },
	{ TOP "@ MX 1 192.0.2.1",
	    "4: warning: 192.0.2.1: an address, where"
	    " the name of a host must be (RFC 1035 3.3)\n" },
	{ TOP "@ MX 1 192.0.2.1.",
	    "4: warning: 192.0.2.1: an address, where"
	    " the name of a host must be (RFC 1035 3.3)\n" },
	{ TOP "@ MX 1 ns.example",
	    "4: warning: ns.example: the origin is"
	    " appended once more: is a dot missing at the end?\n" },
	{ TOP "a.Example A 1.2.3.4",
	    "4: warning: a.Example: the origin is"
	    " appended once more: is a dot missing at the end?\n" },
	{ TOP "\n@ MX 1 mail",
	    "5: warning: mail.example has no address in"
	    " this zone\n" },
	{ TOP "a TXT x\n@ MX 1 a",
	    "5: warning: a.example has no address in"
	    " this zone\n" },
	{ TOP "@ NS other",
	    "4: warning: other.example has no address in this"
	    " zone\n" },
	{ TOP "sub NS ns.sub",
	    "4: warning: ns.sub.example can only be asked"
	    " for its address itself: glue is missing (RFC 1034 4.2.1)\n" },
	/* RFC 7505 3: a null MX is alone, and has the preference 0. */
	{ TOP "a MX 0 .\nb MX 1 ns\nb MX 0 .",
	    "6: warning: the root makes it a null MX, which must be the"
	    " only MX, and of preference 0 (RFC 7505 3)\n" },
	{ TOP "a MX 256 .",
	    "4: warning: the root makes it a null MX, which must be the"
	    " only MX, and of preference 0 (RFC 7505 3)\n" },
	{ TOP "a MX 1 .",
	    "4: warning: the root makes it a null MX, which must be the"
	    " only MX, and of preference 0 (RFC 7505 3)\n" },
	/* RFC 1034 3.6.2: where an alias leads. */
	{ TOP "a CNAME b\nb CNAME none",
	    "5: warning: none.example does not exist in this zone\n" },
	{ TOP "*.a CNAME x.a",
	    "4: warning: x.a.example leads from alias to alias too"
	    " often: a loop? (RFC 1034 3.6.2)\n" },
	{ TOP "a CNAME a",
	    "4: warning: a.example leads from alias to alias too"
	    " often: a loop? (RFC 1034 3.6.2)\n" },
	/* Nothing to say. */
	{ TOP "a CNAME b\nb CNAME c\nc CNAME d.c\ne.d.c TXT x", "" },
	{ TOP "a CNAME b.sub\nsub NS ns\nb CNAME b.\n* CNAME b", "" },
	{ TOP "a CNAME .\n@ NS .\nb MX 0 .", "" },
	{ TOP "_x._tcp SRV 1 2 3 ns\n SRV 1 2 3 other.\n SRV 1 2 3 .", "" },
	{ TOP "sub NS ns\n@ MX 1 mail.sub", "" },
	{ TOP "* A 1.2.3.4\n@ MX 1 a", "" },
	{ TOP "a AAAA ::1\n@ MX 1 a\n@ MX 2 example.org.", "" },
	{ TOP "* MX 1 ns\n\n;\n   ; x\n \t\n", "" },
};

/* What load() said on stderr, its FILE: left out, the test's folder as ~. */
static const char *
complaints(const char *text)
{
	static char said[65536];
	char *to = said;

	log_level = 0;
	test_capture(STDERR_FILENO);
	zone_free(load(text));
	const char *from = test_captured();

	log_level = -1;
	while (*from != '\0') {
		size_t len = strlen(test_dir);

		if (strncmp(from, test_dir, len) == 0) {
			bool first = to == said || to[-1] == '\n';
			bool own = first && strncmp(from + len, "/z:", 3) == 0;

			from += own ? len + 3 : len;
			if (!own)
				*to++ = '~';
		}
		*to++ = *from++;
	}
	*to = '\0';
	return said;
}

START_TEST(every_fault_with_its_line)
{
	const struct fault_row *f = &faults[_i];
	bool is_warning = strstr(f->says, "warning: ") != NULL;

	ck_assert_str_eq(complaints(f->text), f->says);
	ck_assert_uint_eq(diag.errors > 0, !is_warning && *f->says != '\0');
	ck_assert_uint_eq(diag.warnings, is_warning);
}
END_TEST

/* Each CNAME of a loop is told of, and a chain that is longer than what is
 * followed; one of sixteen is not. */
START_TEST(cname_loops_are_told)
{
	ck_assert_str_eq(complaints(TOP "a CNAME b\nb CNAME c\nc CNAME b"),
	    "4: warning: b.example leads from alias to alias too"
	    " often: a loop? (RFC 1034 3.6.2)\n"
	    "5: warning: c.example leads from alias to alias too"
	    " often: a loop? (RFC 1034 3.6.2)\n"
	    "6: warning: b.example leads from alias to alias too"
	    " often: a loop? (RFC 1034 3.6.2)\n");
	for (unsigned n = CHAIN_MAX; n <= CHAIN_MAX + 1; n++) {
		char text[1024] = TOP;
		size_t len = strlen(text);

		for (unsigned i = 0; i < n; i++)
			len += (size_t)sprintf(text + len, "a%u CNAME a%u\n", i,
			    i + 1);
		sprintf(text + len, "a%u A 1.2.3.4\n", n);
		complaints(text);
		ck_assert_uint_eq(diag.warnings, n - CHAIN_MAX);
	}
}
END_TEST

START_TEST(fault_with_nul)
{
	static const char text[] = TOP "a A 1.2.3.4\0\nb A x\n";
	FILE *f = fopen(test_path("z"), "w");

	diag = (struct diag){ .errors = 0 };
	fwrite(text, 1, sizeof(text) - 1, f);
	fclose(f);
	zone_free(master_load("example", test_path("z"), &diag));
	ck_assert_uint_eq(diag.errors, 1);
}
END_TEST

START_TEST(files_that_cannot_be_read)
{
	static const char *const path[] = { "/nowhere", "/", "/dev/null" };

	for (size_t i = 0; i < NELEM(path); i++) {
		diag = (struct diag){ .errors = 0 };
		zone_free(master_load("example", path[i], &diag));
		ck_assert_uint_gt(diag.errors, 0);
	}
	diag = (struct diag){ .errors = 0 };
	zone_free(master_load("a..b", test_write("z", TOP), &diag));
	ck_assert_uint_gt(diag.errors, 0);
}
END_TEST

START_TEST(rfc1035_5_1_include)
{
	test_write("sub.inc", "a TXT a\n$ORIGIN deep\nb TXT b\n");
	struct zone *z = load(TOP "x TXT x\n$INCLUDE sub.inc sub\n  TXT y\n"
				  "c TXT c\n$INCLUDE sub.inc");

	ck_assert_uint_eq(diag.errors, 0);
	ck_assert_str_eq(records(z, "a.sub.example"), "60 TXT \"a\"");
	ck_assert_str_eq(records(z, "b.deep.sub.example"), "60 TXT \"b\"");
	ck_assert_str_eq(records(z, "x.example"), "60 TXT \"x\"; 60 TXT \"y\"");
	ck_assert_str_eq(records(z, "c.example"), "60 TXT \"c\"");
	ck_assert_str_eq(records(z, "b.deep.example"), "60 TXT \"b\"");
	zone_free(z);
}
END_TEST

/* A TTL comes out of an included file, as it does in BIND: RFC 1035 5.1 knows
 * the last one stated, RFC 2308 4 the last $TTL. */
START_TEST(rfc2308_4_ttl_of_an_include)
{
	test_write("default.inc", "$TTL 200\nb TXT b\n");
	test_write("last.inc", "b 300 TXT b\n");
	struct zone *z = load("$TTL 100\n" TOP "a TXT a\n"
			      "$INCLUDE default.inc\nc TXT c\n");

	ck_assert_uint_eq(diag.errors, 0);
	ck_assert_str_eq(records(z, "a.example"), "100 TXT \"a\"");
	ck_assert_str_eq(records(z, "b.example"), "200 TXT \"b\"");
	ck_assert_str_eq(records(z, "c.example"), "200 TXT \"c\"");
	zone_free(z);
	z = load(TOP "a TXT a\n$INCLUDE last.inc\nc TXT c\n");
	ck_assert_str_eq(records(z, "a.example"), "60 TXT \"a\"");
	ck_assert_str_eq(records(z, "c.example"), "300 TXT \"c\"");
	zone_free(z);
}
END_TEST

START_TEST(a_hundred_files)
{
	char text[8192] = TOP;

	test_write("once", "$TTL 1\n");
	for (int i = 0; i < 99; i++)
		strcat(text, "$INCLUDE once\n");
	zone_free(load(text));
	ck_assert_uint_eq(diag.errors, 0);
	strcat(text, "$INCLUDE once\n");
	ck_assert_str_eq(complaints(text),
	    "103: ~/once: one file too many for a zone\n");
}
END_TEST

/* One error, where the loop is closed, by whatever path; nothing of the file
 * is read again, and what follows the $INCLUDE is. */
START_TEST(include_loop_is_told_once)
{
	static const struct {
		const char *text, *says;
	} row[] = {
		{ TOP "a TXT x\n$INCLUDE z\nb A x",
		    "5: ~/z: is being read already: a loop of $INCLUDE\n"
		    "6: x: not an IPv4 address\n" },
		{ TOP "$INCLUDE ./z\n$INCLUDE linked",
		    "4: ~/./z: is being read already: a loop of $INCLUDE\n"
		    "5: ~/linked: is being read already: a loop of"
		    " $INCLUDE\n" },
		{ TOP "$INCLUDE one\na A 1.2.3.4",
		    "~/three:2: ~/one: is being read already: a loop of"
		    " $INCLUDE\n" },
	};

	test_write("one", "one TXT x\n$INCLUDE two");
	test_write("two", "\n\n$INCLUDE three\n");
	test_write("three", "three TXT x\n$INCLUDE one\n");
	ck_assert_int_eq(symlink("z", test_path("linked")), 0);
	for (size_t i = 0; i < NELEM(row); i++)
		ck_assert_str_eq(complaints(row[i].text), row[i].says);
}
END_TEST

/* ---- RFC 1034 4.3.2, RFC 4592: what a zone answers ----------------------- */

static const char *const found_name[] = {
	[ZONE_ANSWER] = "answer",
	[ZONE_CNAME] = "cname",
	[ZONE_DELEGATION] = "delegation",
	[ZONE_NODATA] = "nodata",
	[ZONE_NXDOMAIN] = "nxdomain",
};

/* "found TYPE owner", owner only where it is not the name asked for. */
static const char *
ask(struct zone *z, const char *owner, unsigned type)
{
	static char text[512];
	struct dname n = name(owner);
	struct zone_hit hit = { 0 };
	enum zone_found found = zone_find(z, &n, type, &hit);
	char at[HOST_MAX] = "";

	if (hit.owner != NULL)
		ck_assert(zone_name_text(hit.owner, at));
	snprintf(text, sizeof(text), "%s %s%s%s", found_name[found],
	    zone_kind(hit.set->type)->name, *at != '\0' ? " " : "", at);
	return text;
}

static const struct question_row {
	const char *name;
	unsigned type;
	const char *answer;
} questions[] = {
	/* RFC 4592 2.2.1: those that are answered by the wildcard. */
	{ "host3.example", RR_MX, "answer MX" },
	{ "host3.example", RR_A, "nodata SOA example" },
	{ "foo.bar.example", RR_TXT, "answer TXT" },
	/* And those that are not. */
	{ "host1.example", RR_MX, "nodata SOA example" },
	{ "sub.*.example", RR_MX, "nodata SOA example" },
	{ "_telnet._tcp.host1.example", RR_SRV, "nxdomain SOA example" },
	{ "host.subdel.example", RR_A, "delegation NS subdel.example" },
	{ "ghost.*.example", RR_MX, "nxdomain SOA example" },
	/* RFC 4592 2.2.2: empty non-terminals. */
	{ "_tcp.host1.example", RR_A, "nodata SOA example" },
	{ "_tcp.host2.example", RR_TXT, "nodata SOA example" },
	{ "host2.example", RR_TXT, "nodata SOA example" },
	/* RFC 4592 2.1.1: a * in the question is a label like others. */
	{ "*.example", RR_TXT, "answer TXT" },
	{ "*.alias.example", RR_A, "cname CNAME" },
	/* RFC 4592 3.3.3: a CNAME at a wildcard. */
	{ "x.alias.example", RR_A, "cname CNAME" },
	{ "x.alias.example", RR_CNAME, "answer CNAME" },
	{ "alias.example", RR_A, "nodata SOA example" },
	/* RFC 1034 4.3.2. */
	{ "EXAMPLE", RR_SOA, "answer SOA" },
	{ "example", RR_NS, "answer NS" },
	{ "example", RR_MX, "nodata SOA example" },
	{ "Host1.eXample", RR_A, "answer A" },
	{ "one.example", RR_A, "cname CNAME" },
	{ "one.example", RR_ANY, "answer CNAME" },
	{ "subdel.example", RR_NS, "delegation NS subdel.example" },
	{ "subdel.example", RR_ANY, "delegation NS subdel.example" },
	{ "ns.glued.example", RR_A, "delegation NS glued.example" },
};

START_TEST(rfc4592_2_2_1_answers)
{
	struct zone *z = load_file("example", "wild.zone");
	const struct question_row *q = &questions[_i];

	ck_assert_str_eq(ask(z, q->name, q->type), q->answer);
	zone_free(z);
}
END_TEST

/* RFC 4592 2.2.2: a wildcard may be an empty non-terminal, too, and then it
 * stands for a name, and has nothing; what only ends in the octets of a name is
 * not below it. */
START_TEST(rfc4592_2_2_2_what_exists)
{
	struct zone *z = load(TOP "a.*.w TXT x\nx\003foo TXT x\n"
				  "b.c.A.b.C TXT x");

	ck_assert_str_eq(ask(z, "*.w.example", RR_TXT), "nodata SOA example");
	ck_assert_str_eq(ask(z, "x.w.example", RR_TXT), "nodata SOA example");
	ck_assert_str_eq(ask(z, "w.example", RR_TXT), "nodata SOA example");
	ck_assert_str_eq(ask(z, "foo.example", RR_TXT), "nxdomain SOA example");
	ck_assert_str_eq(ask(z, "a.B.c.example", RR_TXT), "nodata SOA example");
	ck_assert_str_eq(ask(z, "B.c.a.b.c.example", RR_TXT), "answer TXT");
	ck_assert_str_eq(ask(z, "b.a.example", RR_TXT), "nxdomain SOA example");
	zone_free(z);
}
END_TEST

/* The same of random names of up to five labels, "a" or "b", in random order:
 * what exists is what is there, or has something below it. */
START_TEST(what_exists_in_any_order)
{
	char text[1024], names[20][16], asked[32];

	srand((unsigned)_i);
	int len = sprintf(text, TOP), n = 1 + rand() % 20;

	for (int i = 0; i < n; i++) {
		char *at = names[i];

		for (int label = rand() % 5; label >= 0; label--)
			at += sprintf(at, "%c.", 'a' + rand() % 2);
		len += sprintf(text + len, "%sexample. TXT %d\n", names[i], i);
	}
	struct zone *z = load(text);

	for (unsigned bits = 2; bits < 64; bits++) { /* a 1, then labels */
		bool there = false, below = false;
		char *at = asked;

		for (unsigned rest = bits; rest > 1; rest /= 2)
			at += sprintf(at, "%c.", 'a' + rest % 2);
		for (int i = 0; i < n; i++) {
			size_t more = strlen(names[i]) - strlen(asked);

			if (strlen(names[i]) >= strlen(asked) &&
			    strcmp(names[i] + more, asked) == 0)
				*(more == 0 ? &there : &below) = true;
		}
		strcpy(at, "example");
		ck_assert_str_eq(ask(z, asked, RR_TXT),
		    there       ? "answer TXT" :
			below ? "nodata SOA example" :
				"nxdomain SOA example");
	}
	zone_free(z);
}
END_TEST

/* RFC 2308 3: the smaller of the SOA's TTL and its MINIMUM. */
START_TEST(rfc2308_3_negative_ttl)
{
	static const struct {
		const char *soa;
		uint32_t ttl;
	} row[] = {
		{ "@ 60 SOA ns.a. b.c. 1 2 3 4 5\n NS ns.a.", 5 },
		{ "@ 4 SOA ns.a. b.c. 1 2 3 4 5\n NS ns.a.", 4 },
		{ "@ SOA ns.a. b.c. 1 2 3 4 7\n NS ns.a.", 7 },
	};
	struct dname n = name("nobody.example");
	struct zone_hit hit;

	for (size_t i = 0; i < NELEM(row); i++) {
		struct zone *z = load(row[i].soa);

		ck_assert_int_eq(zone_find(z, &n, RR_A, &hit), ZONE_NXDOMAIN);
		ck_assert_uint_eq(hit.ttl, row[i].ttl);
		zone_free(z);
	}
}
END_TEST

START_TEST(nearest_zone)
{
	struct zone *zones[] = { load_file(".", "root.zone"),
		load_file("EDU", "edu.zone"),
		load_file("ISI.EDU", "isi.zone") };
	struct conf conf = { .zones = zones, .n_zones = 3 };
	static const struct {
		const char *name;
		size_t zone;
	} row[] = { { ".", 0 }, { "ARPA", 0 }, { "XEDU", 0 }, { "edu", 1 },
		{ "MIT.EDU", 1 }, { "XISI.EDU", 1 }, { "Isi.Edu", 2 },
		{ "a.b.isi.edu", 2 } };

	for (size_t i = 0; i < NELEM(row); i++) {
		struct dname n = name(row[i].name);

		ck_assert_ptr_eq(zone_nearest(&conf, &n), zones[row[i].zone]);
	}
	conf.zones++;
	conf.n_zones--;
	struct dname n = name("ARPA");

	ck_assert_ptr_null(zone_nearest(&conf, &n));
	for (size_t i = 0; i < 3; i++)
		zone_free(zones[i]);
}
END_TEST

/* RFC 1035 5.3, its file and the one that it includes. */
START_TEST(rfc1035_5_3_example)
{
	struct zone *z = load_file("ISI.EDU", "isi.zone");

	ck_assert_str_eq(records(z, "isi.edu"),
	    "60 SOA VENERA.ISI.EDU."
	    " Action\\046domains.ISI.EDU. 20 7200 600 3600000 60;"
	    " 60 NS A.ISI.EDU.; 60 NS VENERA.ISI.EDU.; 60 NS VAXA.ISI.EDU.;"
	    " 60 MX 10 VENERA.ISI.EDU.; 60 MX 20 VAXA.ISI.EDU.");
	ck_assert_str_eq(records(z, "vaxa.isi.edu"),
	    "60 A 10.2.0.27; 60 A 128.9.0.33");
	ck_assert_str_eq(records(z, "stooges.isi.edu"),
	    "60 MG MOE.ISI.EDU.;"
	    " 60 MG LARRY.ISI.EDU.; 60 MG CURLEY.ISI.EDU.");
	zone_free(z);
}
END_TEST

START_TEST(rfc1034_6_1_examples)
{
	struct zone *root = load_file(".", "root.zone");
	struct zone *edu = load_file("EDU", "edu.zone");

	ck_assert_str_eq(records(root, "sri-nic.arpa"),
	    "86400 A 26.0.0.73;"
	    " 86400 A 10.0.0.51; 86400 MX 0 SRI-NIC.ARPA.;"
	    " 86400 HINFO \"DEC-2060\" \"TOPS20\"");
	ck_assert_str_eq(ask(root, "a.isi.edu", RR_A), "delegation NS EDU");
	ck_assert_str_eq(ask(edu, "a.isi.edu", RR_A), "delegation NS ISI.EDU");
	ck_assert_ptr_nonnull(zone_set_of(
	    zone_node(edu, name("rome.uci.edu").octets), RR_A));
	zone_free(root);
	zone_free(edu);
}
END_TEST

/* ---- limits, load, nonsense ---------------------------------------------- */

/* RFC 1035 2.3.4: 63 and 255 octets, and one more. */
START_TEST(rfc1035_2_3_4_names)
{
	char text[1024] = L63 "." L63 "." L63 "." L63 ".";
	struct dname n;
	char back[HOST_MAX];

	ck_assert_str_eq(zone_name(text, NULL, &n),
	    "a name of over 255 octets");
	ck_assert_ptr_null(zone_name(text + 2, NULL, &n));
	ck_assert_uint_eq(n.len, 255);
	ck_assert(zone_name_text(n.octets, back));
	ck_assert_uint_eq(strlen(back), 253);
	ck_assert_int_eq(strncmp(back, text + 2, 253), 0);
	struct dname origin = name("a");

	ck_assert_ptr_null(zone_name(text + 2, &origin, &n));
	text[strlen(text) - 1] = '\0'; /* relative: now it is too long */
	ck_assert_ptr_nonnull(zone_name(text + 2, &origin, &n));
	ck_assert_ptr_null(zone_name(text + 4, &origin, &n));
	ck_assert_uint_eq(n.len, 255);
	ck_assert_ptr_null(zone_name(".", &origin, &n));
	ck_assert_uint_eq(n.len, 1);
}
END_TEST

/* 127 labels of one octet each; as text an octet may need four. */
START_TEST(names_of_many_labels)
{
	struct dname n = { .len = 0 };
	char text[HOST_MAX];

	while (n.len < 254) {
		n.octets[n.len++] = 1;
		n.octets[n.len++] = 'x';
	}
	n.octets[n.len++] = 0;
	ck_assert(zone_name_text(n.octets, text));
	ck_assert_uint_eq(strlen(text), 253);
	n.octets[1] = '\0';
	ck_assert(!zone_name_text(n.octets, text));
	struct zone *z = load(TOP);
	struct zone_hit hit;
	struct zone *root = load_file(".", "root.zone");

	ck_assert_int_eq(zone_find(root, &n, RR_A, &hit), ZONE_NXDOMAIN);
	zone_free(root);
	zone_free(z);
}
END_TEST

/* Text that does not fit ends all the same: here a dot would be the last. */
START_TEST(text_of_a_name_ends)
{
	struct dname n = { .octets = { 63 }, .len = 64 }; /* 252 as text */
	char text[HOST_MAX];

	memset(text, 'x', sizeof(text));
	memset(n.octets + 1, 1, 63);
	memcpy(n.octets + n.len, "\2ab\1c", 6);
	ck_assert(!zone_name_text(n.octets, text));
	ck_assert_ptr_nonnull(memchr(text, '\0', sizeof(text)));
	n.octets[n.len + 3] = 0; /* without the last label it fits */
	ck_assert(zone_name_text(n.octets, text));
	ck_assert_uint_eq(strlen(text), HOST_MAX - 1);
}
END_TEST

/* A set is as large as fits into a message, 65,253 octets, and no larger:
 * addresses of 4 or 16 octets behind 12. */
START_TEST(set_that_fills_a_message)
{
	static const struct {
		const char *head, *dot;
		int fit;
	} row[] = { { "a A 10.0.", ".", 4078 }, { "a AAAA ::", ":", 2330 } };
	static char text[100000], says[200];

	for (size_t i = 0; i < NELEM(row); i++) {
		int len = sprintf(text, TOP);

		for (int n = 0; n < row[i].fit; n++)
			len += sprintf(text + len, "%s%d%s%d\n", row[i].head,
			    n / 256, row[i].dot, n % 256);
		ck_assert_str_eq(complaints(text), "");
		sprintf(text + len, "%s255%s255\nb A 1.2.3.4\na TXT x\n",
		    row[i].head, row[i].dot);
		sprintf(says,
		    "%d: a.example: more records of one type than any message"
		    " holds\n",
		    row[i].fit + 4);
		ck_assert_str_eq(complaints(text), says);
	}
}
END_TEST

/* RFC 1035 3.2.1: data has a length of 16 bits, and must fit into a message.
 * Strings of 255 octets, each with its length, and a last one. */
START_TEST(rfc1035_3_2_1_longest_data)
{
	static char text[70000], too_long[200];

	sprintf(too_long, "258: %080d: more data than any message holds\n", 0);
	for (int last = 216; last <= 217; last++) {
		int len = sprintf(text, TOP "a TXT (");

		for (int i = 0; i < 254; i++)
			len += sprintf(text + len, " %0255d\n", i);
		sprintf(text + len, " %0*d )\n", last, 0);
		ck_assert_str_eq(complaints(text), last == 216 ? "" : too_long);
	}
}
END_TEST

/* Load a zone of this text; it takes no longer, and no more memory. */
static struct zone *
load_large(const char *path, long msecs, long kilobytes)
{
	struct rusage before, after;

	diag = (struct diag){ .errors = 0 };
	getrusage(RUSAGE_SELF, &before);
	struct zone *z = master_load("example", path, &diag);

	getrusage(RUSAGE_SELF, &after);
	long took = (after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1000 +
	    (after.ru_utime.tv_usec - before.ru_utime.tv_usec) / 1000;

	ck_assert_uint_eq(diag.errors + diag.warnings, 0);
	if (!test_under_valgrind()) {
		ck_assert_int_lt(took, msecs);
		ck_assert_int_lt(after.ru_maxrss - before.ru_maxrss, kilobytes);
	}
	return z;
}

/* 0.1 s and 17 MiB without sanitizers. */
START_TEST(load_100000_records)
{
	FILE *f = fopen(test_path("z"), "w");

	fputs(TOP, f);
	for (int i = 0; i < 50000; i++)
		fprintf(f, "host%d A 10.%d.%d.%d\n\tMX 10 ns\n", i, i >> 16,
		    i >> 8 & 255, i & 255);
	fclose(f);
	struct zone *z = load_large(test_path("z"), 3000, 100000);

	ck_assert_str_eq(records(z, "host49999.example"),
	    "60 A 10.0.195.79; 60 MX 10 ns.example.");
	zone_free(z);
}
END_TEST

/* Names of 52 labels, which hardly share one: what lies between them and the
 * origin costs nothing.  0.3 s and 54 MiB without sanitizers. */
START_TEST(load_100000_deep_names)
{
	FILE *f = fopen(test_path("z"), "w");

	fputs(TOP, f);
	for (unsigned i = 0; i < 100000; i++) {
		for (unsigned label = 0, bits = i * 2654435761u; label < 52;
		     label++)
			fprintf(f, "%c.", 'a' + (bits >> label % 32 & 15));
		fprintf(f, "%u A 10.0.0.1\n", i % 10);
	}
	fclose(f);
	zone_free(load_large(test_path("z"), 10000, 200000));
}
END_TEST

/* Good zones with some octets changed, and random octets: nothing but
 * complaints may come of it. */
START_TEST(nonsense_does_no_harm)
{
	static const char good[] = TOP
	    "$TTL 1h\n$ORIGIN a\nb ( MX 1 c\n) ;x\n"
	    " TXT \"x\\\"y\" \\065\n$INCLUDE z\n* TYPE9 \\# 2 ab cd\n"
	    "c HINFO a b\nd CNAME e\ne SRV 1 2 3 f\ng AAAA ::1\n";
	char text[sizeof(good)];
	unsigned seed = 1;

	srand(seed);
	for (int i = 0; i < 3000; i++) {
		memcpy(text, good, sizeof(good));
		for (int j = rand() % 8; j >= 0; j--)
			text[rand() % (int)sizeof(good)] = (char)(rand() % 4 ?
				"()\";\\\n $@0"[rand() % 10] :
				rand());
		FILE *f = fopen(test_path("z"), "w");

		fwrite(text, 1, (size_t)rand() % sizeof(good), f);
		for (int j = i % 10 == 0 ? 1000 : 0; j > 0; j--)
			fputc(rand(), f);
		fclose(f);
		zone_free(master_load("example", test_path("z"), &diag));
	}
	ck_assert_uint_gt(diag.errors, 1000);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("zone");
	TCase *tcase = tcase_create("zone");

	tcase_add_checked_fixture(tcase, test_begin, test_end);
	tcase_set_timeout(tcase, 120);
	tcase_add_loop_test(tcase, rfc1035_5_1_meaning, 0, NELEM(meanings));
	tcase_add_loop_test(tcase, every_fault_with_its_line, 0, NELEM(faults));
	tcase_add_test(tcase, cname_loops_are_told);
	tcase_add_test(tcase, fault_with_nul);
	tcase_add_test(tcase, files_that_cannot_be_read);
	tcase_add_test(tcase, rfc1035_5_1_include);
	tcase_add_test(tcase, rfc2308_4_ttl_of_an_include);
	tcase_add_test(tcase, a_hundred_files);
	tcase_add_test(tcase, include_loop_is_told_once);
	tcase_add_loop_test(tcase, rfc4592_2_2_1_answers, 0, NELEM(questions));
	tcase_add_test(tcase, rfc4592_2_2_2_what_exists);
	tcase_add_loop_test(tcase, what_exists_in_any_order, 0, 50);
	tcase_add_test(tcase, rfc2308_3_negative_ttl);
	tcase_add_test(tcase, nearest_zone);
	tcase_add_test(tcase, rfc1035_5_3_example);
	tcase_add_test(tcase, rfc1034_6_1_examples);
	tcase_add_test(tcase, rfc1035_2_3_4_names);
	tcase_add_test(tcase, names_of_many_labels);
	tcase_add_test(tcase, text_of_a_name_ends);
	tcase_add_test(tcase, set_that_fills_a_message);
	tcase_add_test(tcase, rfc1035_3_2_1_longest_data);
	tcase_add_test(tcase, load_100000_records);
	tcase_add_test(tcase, load_100000_deep_names);
	tcase_add_test(tcase, nonsense_does_no_harm);
	suite_add_tcase(suite, tcase);
	SRunner *runner = srunner_create(suite);

	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);

	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
