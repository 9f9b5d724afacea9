/*
 * master.c -- the reader of master files (RFC 1035 5).
 *
 * What this is
 *	Words, entries, records: text becomes a zone, and every fault in it is
 *	told in words, with its FILE:LINE.
 * Call it in this order
 *	master_load(), once for each zone of a configuration.
 * A typical sequence, with break add_record in gdb
 *	master_load -> load_file -> load_text -> load_entry -> load_record
 *	-> add_record
 * Always true
 *	Each entry of a file has one error at most, whatever the warnings, and
 *	the next entry is read all the same, until there are ERRORS_MAX.
 *	Data that is put into a zone fits the shape of its type.
 * What it does not do
 *	$GENERATE, which no RFC knows.  Exercise: write it, with a bound.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include "mailserv.h"

/* SET_MAX: a set is sent whole or not at all (RFC 2181 9), so it must fit into
 * the largest message, behind the longest question, for it may be a wildcard's,
 * and before an OPT record.  Names in its data count as if not compressed. */
enum {
	STRING_OCTETS = 255, /* RFC 1035 3.3 */
	TTL_MAX = INT32_MAX, /* RFC 2181 8 */
	RECORD_HEAD = 12,    /* RFC 1035 3.2.1; the owner is a pointer */
	SET_MAX = MESSAGE_MAX - HEADER - DOMAIN_MAX - 4 - OPT_SIZE,
	RDATA_MAX = SET_MAX - RECORD_HEAD,
	FILES_MAX = 100,  /* of a zone: all may be open, one in another */
	ERRORS_MAX = 50,  /* more would not be read */
	META_TYPES = 128, /* to 255: questions, not data (RFC 6895 3.1) */
};

/* ---- reading: words ------------------------------------------------------ */

/*
 * A file that is being read.  All of it is in memory, up to a NUL; words are
 * ended in place, and what stood there comes back with the next word, because
 * it may mean something: "a;b" is a word and a comment.
 *
 *	the file	www IN A 192.0.2.1\n
 *	one word later	www0IN A 192.0.2.1\n	0 is a NUL, held a blank
 *		   word ^  ^ at
 */
struct source {
	struct source *outer; /* whose $INCLUDE it is, or NULL */
	struct stat st; /* device and inode: which file, whatever its path */
	char *at, held;
	uint16_t number;     /* in zone.files */
	unsigned line;       /* at hand, from 1 */
	unsigned parens;     /* open ones ... */
	unsigned paren_line; /* ... and where the first was opened */
	bool ended;          /* the entry: next_word() says no more */
};

struct loader {
	struct zone *zone;
	struct diag *diag;
	struct source *src;
	struct spot spot; /* of the word at hand */
	unsigned errors;  /* in this zone */
	bool failed;  /* this entry: it was complained of, and is left out */
	bool doubted; /* this entry: a warning was given */
	bool no_memory;
	bool soa_tried; /* so do not complain that there is none */

	/* What entries leave to the next. */
	struct dname origin, owner;    /* owner.len 0: there was none */
	int64_t default_ttl, last_ttl; /* -1: none was stated */

	/* The entry at hand. */
	bool indented; /* it begins with a blank: the owner is the last one */
	bool quoted;   /* the word was */
	char *word;    /* backslashes unresolved; "" behind the last one */
	int64_t ttl;
	uint16_t type;
	size_t rdata_len;
	unsigned char rdata[RDATA_MAX];
};

/* Complain of the entry, once: the first fault often makes the others.  Always
 * false, for `return wrong(...)`.  The subject is the file's, and may be long.
 */
static bool
wrong(struct loader *ld, const char *subject, const char *what)
{
	if (!ld->failed) {
		complain(ld->diag, ld->spot, "%.80s: %s", subject, what);
		ld->errors++;
	}
	ld->failed = true;
	return false;
}

/* Warn of the word at hand.  Its record will remember: check_set() is not to
 * warn of the same line for what follows from this. */
static void
doubt(struct loader *ld, const char *what)
{
	complain_mildly(ld->diag, ld->spot, "%.80s: %s", ld->word, what);
	ld->doubted = true;
}

/* Go past blanks, comments, parentheses, and line ends within those.  Other
 * line ends stay, and end the entry.  A ) too many is told and passed over: the
 * words behind it are of the entry that has failed. */
static void
skip_space(struct loader *ld)
{
	struct source *src = ld->src;

	for (;; src->at++) {
		src->at += strspn(src->at, " \t\r");
		if (*src->at == ';')
			src->at += strcspn(src->at, "\n");
		ld->spot.line = src->line;
		if (*src->at == '(') {
			if (src->parens++ == 0)
				src->paren_line = src->line;
		} else if (*src->at == ')' && src->parens == 0)
			wrong(ld, ")", "there was no (");
		else if (*src->at == ')')
			src->parens--;
		else if (*src->at == '\n' && src->parens > 0)
			src->line++;
		else
			return;
	}
}

/* The end of the word at `at`.  What follows a backslash is in the word, but
 * for the end of the line: quoted or not, no word goes over it, or one quote
 * that is missing would take the rest of the file with it. */
static char *
word_end(char *at, bool quoted)
{
	const char *ends = quoted ? "\n\"\\" : " \t\r\n;()\"\\";

	for (;;) {
		at += strcspn(at, ends);
		if (*at != '\\')
			return at;
		at++;
		if (*at != '\n' && *at != '\0')
			at++;
	}
}

/* The entry ends here: with the line, unless that is within parentheses, or
 * with the file.  Nothing is held any more: what stands at src->at is put over
 * itself by the next entry's first next_word(). */
static void
entry_ends(struct loader *ld)
{
	struct source *src = ld->src;

	src->ended = true;
	if (*src->at == '\n') {
		src->at++;
		src->line++;
	}
	src->held = *src->at;
	if (src->parens > 0) {
		ld->spot.line = src->paren_line;
		wrong(ld, "(", "there is no ) up to the end of the file");
	}
}

/* Find the next word of this entry; false: there is none, and the word is "".
 * So callers that need one may look at it without asking, for "" is no name, no
 * number and no type.  A quote that ends a word comes back as a blank, or it
 * would begin the next one. */
static bool
next_word(struct loader *ld)
{
	static char none[] = "";
	struct source *src = ld->src;

	ld->word = none;
	if (src->ended)
		return false;
	*src->at = src->held;
	skip_space(ld);
	if (*src->at == '\n' || *src->at == '\0') {
		entry_ends(ld);
		return false;
	}
	ld->quoted = *src->at == '"';
	ld->word = src->at + ld->quoted;
	src->at = word_end(ld->word, ld->quoted);
	src->held = *src->at;
	*src->at = '\0';
	if (ld->quoted && src->held != '"')
		wrong(ld, ld->word, "there is no \" to end it on its line");
	else if (ld->quoted)
		src->held = ' ';
	return true;
}

/* Nothing may follow; true also says that the entry was good so far. */
static bool
end_entry(struct loader *ld)
{
	if (!ld->failed && next_word(ld))
		wrong(ld, ld->word, "nothing may follow here");
	return !ld->failed;
}

/* ---- reading: the fields of a record ------------------------------------- */

/* Digits at *text, which moves behind them; too many are UINT32_MAX + 1: one
 * that no field takes, and of which ttl_parse() can add some without going past
 * 64 bits.  A sign, which strtoull() would take, is none. */
static bool
number_parse(const char **text, uint64_t *number)
{
	char *end;

	if (**text < '0' || **text > '9')
		return false;
	*number = strtoull(*text, &end, 10);
	if (*number > UINT32_MAX)
		*number = UINT32_MAX + UINT64_C(1);
	*text = end;
	return true;
}

/* Seconds, or numbers with units: 1h30m. */
static bool
ttl_parse(const char *text, uint64_t *ttl)
{
	static const char units[] = "smhdwSMHDW"; /* and NUL is like s */
	static const unsigned seconds[] = { 1, 60, 3600, 86400, 604800 };
	uint64_t number;

	*ttl = 0;
	do {
		const char *unit = NULL;

		if (number_parse(&text, &number))
			unit = strchr(units, *text);
		if (unit == NULL)
			return false;
		*ttl += number * seconds[(unit - units) % 5];
		text += *text != '\0';
	} while (*text != '\0' && *ttl <= TTL_MAX);
	return *ttl <= TTL_MAX;
}

static const char bad_ttl[] =
    "a time is a number such as 3600, or 1h30m, up to 2147483647";

/* Append to the record's data. */
static bool
rdata_put(struct loader *ld, const void *octets, size_t len)
{
	if (len > RDATA_MAX - ld->rdata_len)
		return wrong(ld, ld->word, "more data than any message holds");
	memcpy(ld->rdata + ld->rdata_len, octets, len);
	ld->rdata_len += len;
	return true;
}

/* The word as a number: of two octets, of four, or a time of four.  In network
 * order the last octets of four are the number of two. */
static bool
take_number(struct loader *ld, char field)
{
	const char *text = ld->word;
	size_t octets = field == '2' ? 2 : 4;
	uint64_t number;

	if (field == 't') {
		if (!ttl_parse(text, &number))
			return wrong(ld, ld->word, bad_ttl);
	} else if (!number_parse(&text, &number) || *text != '\0' ||
	    number >> (octets * 8) != 0)
		return wrong(ld, ld->word,
		    octets == 2 ? "not a number up to 65535" :
				  "not a number up to 4294967295");
	uint32_t wire = htonl((uint32_t)number);

	return rdata_put(ld, (unsigned char *)&wire + 4 - octets, octets);
}

/* The word as <character-string> (RFC 1035 3.3). */
static bool
take_string(struct loader *ld)
{
	unsigned char octets[1 + STRING_OCTETS];
	unsigned len = 0;

	for (const char *text = ld->word; *text != '\0';) {
		int octet = zone_octet(&text);

		if (octet < 0)
			return wrong(ld, ld->word, zone_bad_escape);
		if (len == STRING_OCTETS)
			return wrong(ld, ld->word,
			    "a string of over 255 octets: part it in several");
		octets[++len] = (unsigned char)octet;
	}
	octets[0] = (unsigned char)len;
	return rdata_put(ld, octets, len + 1);
}

/* Would somebody who wrote this have meant something else?
 *
 *	in lab.test	www CNAME 192.0.2.1		that is a name, too
 *	in lab.test	@ MX 10 mail.lab.test		mail.lab.test.lab.test
 *
 * The second is found by what stands before the origin that was appended: it is
 * within the origin itself.  Either may be meant, so that it is no error. */
static void
doubt_name(struct loader *ld, const struct dname *n)
{
	struct dname head = *n;
	struct in_addr addr;
	char *last = ld->word + strlen(ld->word) - 1;
	bool relative = *last != '.';

	if (!relative)
		*last = '\0';
	if (inet_pton(AF_INET, ld->word, &addr) == 1) {
		doubt(ld,
		    "an address, where the name of a host must be"
		    " (RFC 1035 3.3)");
		return;
	}
	if (!relative || n->len <= ld->origin.len || ld->origin.len == 1)
		return;
	head.len -= ld->origin.len - 1;
	head.octets[head.len - 1] = 0;
	if (zone_within(&head, &ld->origin))
		doubt(ld,
		    "the origin is appended once more: is a dot missing"
		    " at the end?");
}

/* The word as a name. */
static bool
take_name(struct loader *ld, struct dname *n)
{
	const char *what = *ld->word == '\0' ?
	    "an empty name" :
	    zone_name(ld->word, &ld->origin, n);

	return what == NULL || wrong(ld, ld->word, what);
}

/* The word as a name in the data.  One whose quote has no end has failed: there
 * is nothing to be doubted in it as well. */
static bool
take_target(struct loader *ld)
{
	struct dname n;

	if (ld->failed || !take_name(ld, &n))
		return false;
	doubt_name(ld, &n);
	return rdata_put(ld, n.octets, n.len);
}

static bool
take_address(struct loader *ld, int family, size_t len)
{
	unsigned char octets[16];

	if (inet_pton(family, ld->word, octets) != 1)
		return wrong(ld, ld->word,
		    family == AF_INET ? "not an IPv4 address" :
					"not an IPv6 address");
	return rdata_put(ld, octets, len);
}

/* One field of a shape, from the word at hand.  S takes all words there are, so
 * that it can only be a shape's last letter. */
static bool
take_field(struct loader *ld, char field)
{
	switch (field) {
	case 'n':
	case 'u':
		return take_target(ld);
	case '2':
	case '4':
	case 't':
		return take_number(ld, field);
	case 'a':
		return take_address(ld, AF_INET, 4);
	case 'b':
		return take_address(ld, AF_INET6, 16);
	case 's':
		return take_string(ld);
	default: /* S */
		while (take_string(ld))
			if (!next_word(ld))
				return !ld->failed;
		return false;
	}
}

/* Hexadecimal digits, in as many words as one likes (RFC 3597 5). */
static bool
take_hex(struct loader *ld)
{
	for (const char *text = ld->word; *text != '\0'; text += 2) {
		char pair[] = { text[0], text[1], '\0' };
		unsigned char octet = (unsigned char)strtoul(pair, NULL, 16);

		if (strspn(pair, "0123456789abcdefABCDEF") != 2)
			return wrong(ld, ld->word,
			    "not pairs of hexadecimal digits");
		if (!rdata_put(ld, &octet, 1))
			return false;
	}
	return true;
}

/* \# LENGTH HEX: any type, known or not (RFC 3597 5).  Of a known one the data
 * must have its shape: dns.c and the resolver read names from it unchecked. */
static bool
take_generic(struct loader *ld, const struct rr_kind *kind)
{
	uint64_t len;

	next_word(ld);
	const char *text = ld->word;

	if (!number_parse(&text, &len) || *text != '\0' || len > UINT16_MAX)
		return wrong(ld, ld->word,
		    "after \\# comes a length up to 65535");
	while (next_word(ld))
		if (!take_hex(ld))
			return false;
	if (ld->rdata_len != len)
		return wrong(ld, "\\#", "the data is not as long as it says");
	if (kind != NULL && !zone_fits(kind->shape, ld->rdata, ld->rdata_len))
		return wrong(ld, kind->name, "such data this type cannot have");
	return true;
}

/* The data: as \#, or a word for each letter of the shape.  The first word is
 * found before it is known which; behind the last field none is looked for,
 * because end_entry() does that. */
static bool
take_rdata(struct loader *ld)
{
	const struct rr_kind *kind = zone_kind(ld->type);

	ld->rdata_len = 0;
	if (next_word(ld) && !ld->quoted && strcmp(ld->word, "\\#") == 0)
		return take_generic(ld, kind);
	if (kind == NULL)
		return wrong(ld, ld->word,
		    "data of an unknown type begins with \\# (RFC 3597 5)");
	for (const char *field = kind->shape; *field != '\0'; field++) {
		if (ld->src->ended)
			return wrong(ld, kind->name,
			    "its data is not complete");
		if (!take_field(ld, *field))
			return false;
		if (field[1] != '\0')
			next_word(ld);
	}
	return true;
}

/* A type by its name, or as TYPEnnn; 0: neither, or no type of data. */
static uint16_t
type_parse(const char *word)
{
	uint64_t number;

	const struct rr_kind *kind = zone_kind_named(word);

	if (kind != NULL)
		return kind->type;
	if (strncasecmp(word, "TYPE", 4) != 0)
		return 0;
	word += 4;
	if (!number_parse(&word, &number) || *word != '\0' ||
	    number > UINT16_MAX || number == RR_OPT ||
	    (number >= META_TYPES && number <= RR_ANY))
		return 0;
	return (uint16_t)number;
}

/* [TTL] [class] type, or [class] [TTL] type (RFC 1035 5.1).  A time begins with
 * a digit, and no type does: so they are told apart in either order. */
static bool
take_type(struct loader *ld)
{
	bool class_given = false;
	uint64_t ttl;

	ld->ttl = -1;
	for (; !ld->src->ended; next_word(ld)) {
		bool digit = ld->word[0] >= '0' && ld->word[0] <= '9';

		if (digit && ld->ttl < 0) {
			if (!ttl_parse(ld->word, &ttl))
				return wrong(ld, ld->word, bad_ttl);
			ld->ttl = (int64_t)ttl;
		} else if (!class_given && strcasecmp(ld->word, "IN") == 0) {
			class_given = true;
		} else {
			ld->type = type_parse(ld->word);
			return ld->type != 0 ||
			    wrong(ld, ld->word,
				"neither a type known here nor the class IN");
		}
	}
	return wrong(ld, "the record", "its type is missing");
}

/* The name at the start of the line, or the one before (RFC 1035 5.1).  It is
 * the owner of the lines below also where the rest of its own is faulty: else
 * each of them would be one more error. */
static bool
take_owner(struct loader *ld)
{
	if (ld->indented)
		return ld->owner.len > 0 ||
		    wrong(ld, ld->word, "there is no owner before this line");
	struct dname owner; /* of its own, because a faulty one is half made */

	if (!take_name(ld, &owner))
		return false;
	ld->owner = owner;
	doubt_name(ld, &ld->owner);
	next_word(ld);
	return true;
}

/* ---- reading: records into the zone -------------------------------------- */

/* The last four octets of an SOA: its MINIMUM. */
static uint32_t
soa_minimum(const unsigned char *rdata, size_t len)
{
	struct dns_packet p = { rdata, len, len - 4, false };
	uint32_t minimum = dns_get32(&p);

	return minimum <= TTL_MAX ? minimum : 0; /* RFC 2181 8 */
}

/* As stated; else $TTL (RFC 2308 4); else the last one stated (RFC 1035 5.1);
 * else the SOA's MINIMUM, as RFC 1034 6.1 has it. */
static uint32_t
ttl_of(struct loader *ld)
{
	const struct rrset *soa = ld->zone->soa;

	if (ld->ttl >= 0)
		ld->last_ttl = ld->ttl;
	else if (ld->default_ttl >= 0)
		return (uint32_t)ld->default_ttl;
	if (ld->last_ttl >= 0)
		return (uint32_t)ld->last_ttl;
	if (ld->type == RR_SOA)
		return soa_minimum(ld->rdata, ld->rdata_len);
	return soa != NULL ?
	    soa_minimum(soa->records->data, soa->records->len) :
	    0;
}

/* May this record stand at this place in a zone?  Where not, the node may stay
 * behind without records, in a zone that nobody will be answered from.  That
 * the SOA is missing is said once, or each record of the file would say it.  A
 * CNAME stands alone, so that the first set tells of it. */
static bool
may_stand(struct loader *ld, const struct node *node, const char *owner)
{
	const struct zone *z = ld->zone;
	bool is_soa = ld->type == RR_SOA;
	bool is_alias = ld->type == RR_CNAME;

	if (is_soa && node != z->apex)
		return wrong(ld, owner, "an SOA stands at the origin only");
	if (is_soa && z->soa != NULL)
		return wrong(ld, owner, "a second SOA");
	if (!is_soa && z->soa == NULL && !ld->soa_tried) {
		ld->soa_tried = true;
		return wrong(ld, owner, "the first record must be the SOA");
	}
	if (node->sets != NULL && (is_alias || node->sets->type == RR_CNAME))
		return wrong(ld, owner,
		    "a CNAME stands alone at its name (RFC 1034 3.6.2)");
	return true;
}

/* The set for the record at hand, at the end of its node's; NULL: no memory.
 * Records of one set with several TTLs would leave a cache one by one, and half
 * a set be answered as the whole (RFC 2181 5.2): it has one. */
static struct rrset *
set_make(struct loader *ld, struct node *node)
{
	uint32_t ttl = ttl_of(ld);
	struct rrset **at = &node->sets;

	while (*at != NULL && (*at)->type != ld->type)
		at = &(*at)->next;
	if (*at == NULL) {
		*at = calloc(1, sizeof(**at));
		if (*at == NULL)
			return NULL;
		**at = (struct rrset){ .type = ld->type, .ttl = ttl };
		(*at)->end = &(*at)->records;
	}
	if ((*at)->ttl != ttl) {
		complain_mildly(ld->diag, ld->spot,
		    "this TTL is not that"
		    " of its set (RFC 2181 5.2): the smaller one counts");
		if (ttl < (*at)->ttl)
			(*at)->ttl = ttl;
	}
	return *at;
}

/* Names in the data are compared octet by octet: MX 10 A.test beside MX 10
 * a.test is two records here, and one to a resolver.  Exercise: compare along
 * the shape. */
static bool
has_record(const struct loader *ld, const struct rrset *set)
{
	for (const struct record *r = set->records; r != NULL; r = r->next)
		if (r->len == ld->rdata_len &&
		    memcmp(r->data, ld->rdata, r->len) == 0)
			return true;
	return false;
}

/* False: no memory. */
static bool
set_append(struct loader *ld, struct rrset *set)
{
	struct record *r = malloc(sizeof(*r) + ld->rdata_len);

	if (r == NULL)
		return false;
	*r = (struct record){ .line = ld->spot.line,
		.file = ld->src->number,
		.len = (uint16_t)ld->rdata_len,
		.doubted = ld->doubted };
	memcpy(r->data, ld->rdata, ld->rdata_len);
	*set->end = r;
	set->end = &r->next;
	set->n++;
	set->octets += RECORD_HEAD + r->len;
	return true;
}

/* The record at hand is complete: put it where it belongs.  What is not in the
 * zone has no place even as glue: its own zone tells its address. */
static void
add_record(struct loader *ld)
{
	struct zone *z = ld->zone;
	char owner[HOST_MAX];

	zone_name_text(ld->owner.octets, owner);
	if (!zone_within(&ld->owner, &z->origin)) {
		wrong(ld, owner, "is not in the zone");
		return;
	}
	struct node *node = zone_make_node(z, ld->owner.octets);

	if (node != NULL && !may_stand(ld, node, owner))
		return;
	struct rrset *set = node != NULL ? set_make(ld, node) : NULL;

	if (set != NULL && has_record(ld, set)) {
		complain_mildly(ld->diag, ld->spot,
		    "%s: this record was there already", owner);
		return;
	}
	if (set != NULL && set->octets + RECORD_HEAD + ld->rdata_len > SET_MAX)
		wrong(ld, owner,
		    "more records of one type than any message holds");
	else if (set == NULL || !set_append(ld, set))
		ld->no_memory = true;
	else if (ld->type == RR_SOA)
		z->soa = set;
}

/* ---- reading: entries and files ------------------------------------------ */

static void load_file(struct loader *ld, const char *path);

static void
load_origin(struct loader *ld)
{
	struct dname origin;

	next_word(ld);
	if (take_name(ld, &origin) && end_entry(ld))
		ld->origin = origin;
}

static void
load_ttl(struct loader *ld)
{
	uint64_t ttl;

	next_word(ld);
	if (!ttl_parse(ld->word, &ttl))
		wrong(ld, ld->word, bad_ttl);
	else if (end_entry(ld))
		ld->default_ttl = (int64_t)ttl;
}

/* A path is relative to the file that names it.  Origin and owner are then what
 * they were before; a TTL that the other file states stays in force, with $TTL
 * or as the last one, because it does in BIND, and with $TTL in NSD, too.
 * This entry is read to its end before the other file's, which use the same
 * loader. */
static void
load_include(struct loader *ld)
{
	struct dname origin = ld->origin, owner = ld->owner, inner = origin;

	if (!next_word(ld)) {
		wrong(ld, "$INCLUDE", "the name of a file is missing");
		return;
	}
	char *path = net_path_beside(ld->spot.file, ld->word);

	if (path == NULL)
		ld->no_memory = true;
	else if (!next_word(ld) || take_name(ld, &inner))
		if (end_entry(ld)) {
			ld->origin = inner;
			load_file(ld, path);
		}
	free(path);
	ld->origin = origin;
	ld->owner = owner;
}

static void
load_directive(struct loader *ld)
{
	if (strcasecmp(ld->word, "$ORIGIN") == 0)
		load_origin(ld);
	else if (strcasecmp(ld->word, "$INCLUDE") == 0)
		load_include(ld);
	else if (strcasecmp(ld->word, "$TTL") == 0) /* RFC 2308 4 */
		load_ttl(ld);
	else
		wrong(ld, ld->word, "no such directive");
}

static void
load_record(struct loader *ld)
{
	unsigned line = ld->spot.line; /* parentheses may lead far from it */
	bool good = take_owner(ld) && take_type(ld);

	if (good && take_rdata(ld) && end_entry(ld)) {
		ld->spot.line = line;
		add_record(ld);
	}
	/* A record that was meant for the SOA is complained of already. */
	ld->soa_tried |= good && ld->type == RR_SOA;
}

/* One entry: a line, or what parentheses make of several. */
static void
load_entry(struct loader *ld)
{
	struct source *src = ld->src;

	src->parens = 0;
	src->ended = ld->failed = ld->doubted = false;
	ld->indented = strspn(src->at, " \t\r") > 0;
	if (next_word(ld)) {
		if (ld->word[0] == '$' && !ld->indented && !ld->quoted)
			load_directive(ld);
		else
			load_record(ld);
		while (next_word(ld))
			continue; /* what an error has left */
	}
}

/* Read the entries of an open file into the zone.  Behind a NUL nothing is
 * read: were that not an error, a zone that lacks its half would be served. */
static void
load_text(struct loader *ld, struct source *src, char *text, size_t len)
{
	size_t whole = strlen(text);

	src->at = text;
	src->held = *text;
	ld->src = src;
	while (*src->at != '\0' && !ld->no_memory && ld->errors < ERRORS_MAX)
		load_entry(ld);
	ld->failed = false;
	if (whole < len && *src->at == '\0')
		wrong(ld, "NUL", "an octet that no master file has");
}

/* Is this file being read already?  It would include itself for ever.  Paths do
 * not tell: zone, ./zone and a link may be one file. */
static bool
is_loop(const struct source *src)
{
	for (const struct source *s = src->outer; s != NULL; s = s->outer)
		if (s->st.st_dev == src->st.st_dev &&
		    s->st.st_ino == src->st.st_ino)
			return true;
	return false;
}

/* Read a whole file.  The loader is then back where it was.  The text lives as
 * long as its entries are read, its path, in zone.files, as long as the zone,
 * for what check_zone() finds.  Until it is open, the spot is that of its
 * $INCLUDE: that line is what has to be changed.  getdelim() says -1 of an
 * empty file, too: hence feof(). */
static void
load_file(struct loader *ld, const char *path)
{
	struct names *files = &ld->zone->files;
	struct source src = { .line = 1, .number = (uint16_t)files->n };
	struct spot spot = ld->spot;
	char *text = NULL;
	size_t cap = 0;
	FILE *f = net_open_regular(path);
	bool good = f != NULL && fstat(fileno(f), &src.st) == 0;
	ssize_t len = good ? getdelim(&text, &cap, '\0', f) : -1;

	src.outer = ld->src;
	if (files->n >= FILES_MAX)
		wrong(ld, path, "one file too many for a zone");
	else if (!good || (len < 0 && !feof(f)))
		wrong(ld, path, strerror(errno));
	else if (is_loop(&src))
		wrong(ld, path, "is being read already: a loop of $INCLUDE");
	else if (!names_push(files, path))
		ld->no_memory = true;
	else if (len > 0) {
		ld->spot.file = files->v[src.number];
		load_text(ld, &src, text, (size_t)len);
	}
	if (f != NULL)
		fclose(f);
	free(text);
	ld->src = src.outer;
	ld->spot = spot;
}

/* ---- the zone as a whole ------------------------------------------------- */

/* What a teacher would say of this target of an MX, NS or SRV record of a node;
 * NULL: nothing, for it has an address, or is no name of this zone.
 *
 * It is looked for in two ways.  zone_find() answers as for a client, and knows
 * wildcards, but stops where another zone begins; the node is there also below
 * that: it is glue. */
static const char *
doubt_target(struct zone *z, const struct node *node, unsigned type,
    const struct dname *target)
{
	struct zone_hit hit;
	const struct node *host = zone_node(z, target->octets);

	if (!zone_within(target, &z->origin))
		return NULL;
	if (zone_set_of(host, RR_CNAME) != NULL)
		return "is an alias; a host's own name must be here"
		       " (RFC 2181 10.3)";
	enum zone_found found = zone_find(z, target, RR_A, &hit);

	if (found == ZONE_ANSWER || zone_set_of(host, RR_A) != NULL ||
	    zone_set_of(host, RR_AAAA) != NULL ||
	    zone_find(z, target, RR_AAAA, &hit) == ZONE_ANSWER)
		return NULL;
	if (found != ZONE_DELEGATION)
		return "has no address in this zone";
	if (type == RR_NS && hit.owner == node->name)
		return "can only be asked for its address itself: glue is"
		       " missing (RFC 1034 4.2.1)";
	return NULL;
}

/* The same of an alias: a chain of them has an end, and a CNAME loop is an
 * error (RFC 1034 3.6.2).  Where the chain ends in nothing, its last alias is
 * told of, which will be looked at as well; of those before it (i > 0) nothing.
 */
static const char *
doubt_alias(struct zone *z, struct dname target)
{
	for (int i = 0; i < CHAIN_MAX; i++) {
		struct zone_hit hit;

		if (!zone_within(&target, &z->origin))
			return NULL;
		enum zone_found found = zone_find(z, &target, RR_A, &hit);

		if (found == ZONE_NXDOMAIN && i == 0)
			return "does not exist in this zone";
		if (found != ZONE_CNAME)
			return NULL;
		target.len = hit.set->records->len;
		memcpy(target.octets, hit.set->records->data, target.len);
	}
	return "leads from alias to alias too often: a loop?"
	       " (RFC 1034 3.6.2)";
}

static const char bad_null_mx[] = "makes it a null MX, which must be the only"
				  " MX, and of preference 0 (RFC 7505 3)";

/* Warn of the targets in one set of MX, NS, SRV or CNAME records, which stand
 * behind some numbers of two octets, or none.  A target of one octet is the
 * root: nobody's name, but a word of its own, "no mail" of an MX, "no such
 * service" of an SRV. */
static void
check_set(struct loader *ld, const struct node *node, const struct rrset *set)
{
	struct zone *z = ld->zone;

	for (const struct record *r = set->records; r != NULL; r = r->next) {
		size_t skip = 2 * strspn(zone_kind(set->type)->shape, "2");
		struct dname target = { .len = r->len - skip };
		char text[HOST_MAX];
		const char *what = NULL;

		memcpy(target.octets, r->data + skip, target.len);
		if (target.len > 1)
			what = set->type == RR_CNAME ?
			    doubt_alias(z, target) :
			    doubt_target(z, node, set->type, &target);
		else if (set->type == RR_MX &&
		    (set->n > 1 || r->data[0] + r->data[1]))
			what = bad_null_mx;
		if (what == NULL || r->doubted)
			continue;
		zone_name_text(target.octets, text);
		complain_mildly(ld->diag,
		    (struct spot){ z->files.v[r->file], r->line }, "%s %s",
		    *text != '\0' ? text : "the root", what);
	}
}

/* Look at the whole, once all of it has been read.  Targets are looked at only
 * where there was no error: the line that failed may be the one that is missed.
 */
static void
check_zone(struct loader *ld)
{
	struct zone *z = ld->zone;
	char origin[HOST_MAX];

	zone_name_text(z->origin.octets, origin);
	ld->failed = false;
	if (z->soa != NULL) {
		const struct record *soa = z->soa->records;

		z->negative_ttl = soa_minimum(soa->data, soa->len);
		if (z->soa->ttl < z->negative_ttl)
			z->negative_ttl = z->soa->ttl;
		ld->spot = (struct spot){ z->files.v[soa->file], soa->line };
		if (zone_set_of(z->apex, RR_NS) == NULL)
			wrong(ld, origin,
			    "there is no NS record (RFC 1035 5.2)");
	} else if (ld->errors == 0) {
		wrong(ld, origin, "there is no SOA record (RFC 1035 5.2)");
	}
	for (struct node *node = z->apex; node != NULL && ld->errors == 0;
	     node = node->next)
		for (struct rrset *set = node->sets; set != NULL;
		     set = set->next)
			if (set->type == RR_MX || set->type == RR_NS ||
			    set->type == RR_CNAME || set->type == RR_SRV)
				check_set(ld, node, set);
}

/* The loader holds the longest data there is, 64 KiB: too much for the stack.
 * Where the origin is no name the root takes its place, and the file is read
 * all the same: there may be more to be told.  An error in d keeps such a zone
 * from being served. */
struct zone *
master_load(const char *origin, const char *file, struct diag *d)
{
	struct dname name;
	struct loader *ld = calloc(1, sizeof(*ld));

	if (ld == NULL)
		return NULL;
	ld->diag = d;
	ld->default_ttl = ld->last_ttl = -1;
	ld->spot = (struct spot){ file, 0 }; /* until it is open */
	const char *what = zone_name(origin, NULL, &name);

	if (what != NULL) {
		wrong(ld, origin, what);
		name = (struct dname){ .len = 1 };
	}
	struct zone *z = ld->zone = zone_new(&name);

	if (z != NULL) {
		ld->origin = name;
		load_file(ld, file);
		ld->spot.line = 1; /* of what is nowhere in it */
		check_zone(ld);
	}
	if (ld->no_memory) {
		zone_free(z);
		z = NULL;
	}
	free(ld);
	return z;
}
