/*
 * zone.c -- a zone in memory, and what it answers.
 *
 * What this is
 *	The table of record types, names as text and on the wire, the nodes of
 *	a zone, and the look-up of RFC 1034 4.3.2.
 * Call it in this order
 *	zone_new(), which master.c fills; zone_nearest() and zone_find() for
 *	each question; zone_free().
 * A typical sequence, with break zone_find in gdb
 *	dns_answer -> answer -> answer_step -> zone_find -> exists -> find
 * Always true
 *	Data in a zone fits the shape of its type: it was checked on its way
 *	in, so that nobody has to check it on its way out.
 *	Names with records have a node.  Names between them and the origin
 *	exist too (RFC 4592 2.2.2), but have none: 100,000 records of 52 labels
 *	would need five million.
 * What it does not do
 *	Classes other than IN, DNAME, DNSSEC.  Exercise: CAA (RFC 8659 4.1)
 *	needs two more letters for shapes: a number of one octet, and text
 *	without a length in front.  See zone_field(), and in master.c
 *	take_field() and take_number().
 */
#include <ctype.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "mailserv.h"

/* ---- types --------------------------------------------------------------- */

/* RFC 1035 3.3: in the types of that document names may be compressed.  Of its
 * types for mailboxes, MB and MG are here for the example in RFC 1035 5.3. */
static const struct rr_kind kinds[] = {
	{ "A", RR_A, "a" },           /* RFC 1035 3.4.1 */
	{ "NS", RR_NS, "n" },         /* RFC 1035 3.3.11 */
	{ "CNAME", RR_CNAME, "n" },   /* RFC 1035 3.3.1 */
	{ "SOA", RR_SOA, "nn4tttt" }, /* RFC 1035 3.3.13 */
	{ "MB", 7, "n" },             /* RFC 1035 3.3.3 */
	{ "MG", 8, "n" },             /* RFC 1035 3.3.6 */
	{ "PTR", RR_PTR, "n" },       /* RFC 1035 3.3.12 */
	{ "HINFO", RR_HINFO, "ss" },  /* RFC 1035 3.3.2 */
	{ "MX", RR_MX, "2n" },        /* RFC 1035 3.3.9 */
	{ "TXT", RR_TXT, "S" },       /* RFC 1035 3.3.14 */
	{ "AAAA", RR_AAAA, "b" },     /* RFC 3596 2.2 */
	{ "SRV", RR_SRV, "222u" },    /* never compressed: RFC 3597 4 */
};

const struct rr_kind *
zone_kind(unsigned type)
{
	for (size_t i = 0; i < NELEM(kinds); i++)
		if (kinds[i].type == type)
			return &kinds[i];
	return NULL;
}

const struct rr_kind *
zone_kind_named(const char *name)
{
	for (size_t i = 0; i < NELEM(kinds); i++)
		if (strcasecmp(kinds[i].name, name) == 0)
			return &kinds[i];
	return NULL;
}

/* The octets of the name at data, of which len are left; 0: it is none. */
static size_t
name_field(const unsigned char *data, size_t len)
{
	size_t at = 0;

	while (at < len && at < DOMAIN_MAX && data[at] <= LABEL_MAX) {
		if (data[at] == 0)
			return at + 1;
		at += data[at] + 1u;
	}
	return 0;
}

/* What stands at data was perhaps given as \# HEX, so that even a length may
 * lie behind its end: need is then more than len, too.  Of strings there is one
 * at least, which may be empty: RFC 1035 3.3.14 has no TXT without any. */
size_t
zone_field(char field, const unsigned char *data, size_t len)
{
	size_t need = 4; /* t, 4, a */

	if (field == 'n' || field == 'u')
		return name_field(data, len);
	if (field == '2')
		need = 2;
	else if (field == 'b')
		need = 16;
	else if (field == 's' || field == 'S')
		need = len > 0 ? data[0] + 1u : 1;
	while (field == 'S' && need < len)
		need += data[need] + 1u;
	return need <= len ? need : 0;
}

bool
zone_fits(const char *shape, const unsigned char *data, size_t len)
{
	for (; *shape != '\0'; shape++) {
		size_t part = zone_field(*shape, data, len);

		if (part == 0)
			return false;
		data += part;
		len -= part;
	}
	return len == 0;
}

/* ---- names --------------------------------------------------------------- */

/* \046 is a dot within a label, as \. is; \4 or \46 are neither, and are
 * refused, for whoever wrote them meant three digits.  The NUL that ends the
 * word is never passed, not even behind a backslash. */
int
zone_octet(const char **text)
{
	const char *at = *text;
	int octet = (unsigned char)*at++;

	if (octet == '\\' && strspn(at, "0123456789") >= 3) {
		octet = (at[0] - '0') * 100 + (at[1] - '0') * 10 + at[2] - '0';
		at += 3;
	} else if (octet == '\\') {
		bool digit = *at >= '0' && *at <= '9';

		octet = digit || *at == '\0' ? -1 : (unsigned char)*at++;
	}
	*text = at;
	return octet <= 255 ? octet : -1;
}

const char zone_bad_escape[] =
    "after \\ comes one character, or three digits up to 255";
static const char long_name[] = "a name of over 255 octets";

/* One label, up to its dot, is appended to n; NULL, or what is wrong.  Its
 * length is known when it ends, and goes to the octet that was left free. */
static const char *
label_parse(const char **text, struct dname *n)
{
	size_t start = n->len++, len = 0;

	if (start >= DOMAIN_MAX - 1)
		return long_name;
	while (**text != '\0' && **text != '.') {
		int octet = zone_octet(text);

		if (octet < 0)
			return zone_bad_escape;
		if (++len > LABEL_MAX)
			return "a label of over 63 octets";
		if (n->len >= DOMAIN_MAX - 1)
			return long_name; /* the root is still to come */
		n->octets[n->len++] = (unsigned char)octet;
	}
	if (len == 0)
		return "an empty label";
	n->octets[start] = (unsigned char)len;
	return NULL;
}

/* A dot at the end means that nothing is to be appended: "a.test." is a.test,
 * but "a.test", with the origin lab.test, is a.test.lab.test.  So the last dot
 * puts the root in the origin's place.  A dot alone is the one name that has no
 * label, and @ is the origin (RFC 1035 5.1). */
const char *
zone_name(const char *text, const struct dname *origin, struct dname *n)
{
	static const struct dname root = { .octets = { 0 }, .len = 1 };
	const char *what = NULL;

	n->len = 0;
	if (strcmp(text, ".") == 0) {
		text = "";
		origin = NULL;
	} else if (origin != NULL && strcmp(text, "@") == 0) {
		text = "";
	}
	while (*text != '\0' && what == NULL) {
		what = label_parse(&text, n);
		if (*text == '.' && *++text == '\0')
			origin = NULL;
	}
	if (what != NULL)
		return what;
	if (origin == NULL)
		origin = &root;
	if (n->len + origin->len > DOMAIN_MAX)
		return long_name;
	memcpy(n->octets + n->len, origin->octets, origin->len);
	n->len += origin->len;
	return NULL;
}

/* What is no printable octet, or would be a dot, becomes \DDD: four octets of
 * text for one, so that only such names can be longer than text is, and nothing
 * of them reaches the log, or a reply, as it came. */
bool
zone_name_text(const unsigned char *name, char *text)
{
	char all[DOMAIN_MAX * 4] = "";
	size_t len = 0;

	for (; *name != 0; name += *name + 1) {
		for (unsigned i = 1; i <= *name; i++) {
			unsigned char ch = name[i];
			bool plain = ch > ' ' && ch < 127 && ch != '.' &&
			    ch != '\\';

			len += (size_t)sprintf(all + len,
			    plain ? "%c" : "\\%03u", ch);
		}
		all[len++] = '.';
	}
	all[len - (len > 0)] = '\0';
	return snprintf(text, HOST_MAX, "%s", all) < HOST_MAX;
}

/* Leave out labels until no more is left than the origin has: what the labels
 * below hold does not count, and badlab.test, which ends like lab.test, has no
 * label that ends where lab.test begins. */
bool
zone_within(const struct dname *name, const struct dname *origin)
{
	size_t at = 0;

	while (name->len - at > origin->len)
		at += name->octets[at] + 1u;
	if (name->len - at != origin->len)
		return false;
	/* Lengths of labels are below 'A': they are folded like letters. */
	for (size_t i = 0; i < origin->len; i++)
		if (tolower(name->octets[at + i]) != tolower(origin->octets[i]))
			return false;
	return true;
}

/* ---- the nodes of a zone ------------------------------------------------- */

/* What nodes are found by, and how long it is: the labels of a name, the last
 * one first, in lower case, so that the key of a name begins with those of all
 * above it, and a walk down from the origin only makes it longer.
 *
 *	name	4 M a i l 3 l a b 4 t e s t 0
 *	key	4 t e s t 3 l a b 4 m a i l
 *
 * No label is the beginning of another, because their lengths differ. */
static size_t
make_key(const unsigned char *name, unsigned char key[DOMAIN_MAX])
{
	size_t len = name_field(name, DOMAIN_MAX) - 1, at = len;

	for (; *name != 0; name += *name + 1) {
		at -= *name + 1u;
		for (size_t i = 0; i <= *name; i++)
			key[at + i] = (unsigned char)tolower(name[i]);
	}
	return len;
}

/* Where a key's chain begins.  The origin, with which all keys begin, tells
 * nothing.  There is no salt, as there is for addresses: who owns the zone has
 * chosen its names, and a stranger who asks adds none. */
static struct node **
slot_of(const struct zone *z, const unsigned char *key, size_t len)
{
	size_t hash = 0;

	for (size_t i = z->origin.len - 1; i < len; i++)
		hash = hash * 31 + key[i];
	return &z->slots[hash & (z->n_slots - 1)];
}

/* The node of a key, or NULL.  A tree in its place took 0.5 us of a query's 5.0
 * in a zone of 20,000 names, for it missed the cache at each step; a hash table
 * costs the lines of slot_of() and grow(). */
static struct node *
find(const struct zone *z, const unsigned char *key, size_t len)
{
	struct node *node = *slot_of(z, key, len);

	while (node != NULL &&
	    (node->key_len != len || memcmp(node->key, key, len) != 0))
		node = node->chain;
	return node;
}

struct node *
zone_node(const struct zone *z, const unsigned char *name)
{
	unsigned char key[DOMAIN_MAX];

	return find(z, key, make_key(name, key));
}

/* For tsearch(3): the order of keys, but a key that is looked for is equal to
 * all that begin with it, the names below it.  Those stand side by side in that
 * order, so that a search finds one of them, if there is any.  It matters which
 * of the two is looked for: glibc and musl pass that one first. */
static int
order(const void *name, const void *node)
{
	const struct node *a = name, *b = node;
	size_t len = a->key_len < b->key_len ? a->key_len : b->key_len;
	int differs = memcmp(a->key, b->key, len);

	return differs != 0 ? differs : a->key_len > len;
}

/* A name exists where one below it does, too (RFC 4592 2.2.2), and has no node
 * then.  Of those below it the nearest is among the far ones: right above that
 * one is the name itself, or one that has no node, either.
 *
 *	host1.example			a node
 *	_tcp.host1.example		no node, yet it exists: far shows it
 *	_ssh._tcp.host1.example		a far node
 */
static bool
exists(const struct zone *z, const unsigned char *key, size_t len,
    const struct node **node)
{
	struct node like = { .key = key, .key_len = len };

	*node = find(z, key, len);
	return *node != NULL || tfind(&like, &z->far, order) != NULL;
}

/* Twice as many slots, so that there are two for each node: with one a query
 * looks at more of them, which is 0.02 us.  Chains are made anew, along the
 * list of all nodes, so that nothing but the slots needs memory.  False: none.
 */
static bool
grow(struct zone *z)
{
	size_t n = z->n_slots > 0 ? z->n_slots * 2 : 16;
	struct node **slots = calloc(n, sizeof(*slots));

	if (slots == NULL)
		return false;
	free(z->slots);
	z->slots = slots;
	z->n_slots = n;
	for (struct node *node = z->apex; node != NULL; node = node->next) {
		struct node **slot = slot_of(z, node->key, node->key_len);

		node->chain = *slot;
		*slot = node;
	}
	return true;
}

/*
 * A node is one piece of memory, which is never moved, so that chains, the tree
 * and the owners in answers may point into it:
 *
 *	| struct node | 4 M a i l ... 0 | ... 4 m a i l |
 *	              name              key
 *
 * It is far where its name less the first label has no node.  (If that gets one
 * later, it stays far, and shows what exists anyway.)  Where tsearch() finds a
 * far one below it, it need not be in the tree itself: that one shows all the
 * names that it would.
 */
struct node *
zone_make_node(struct zone *z, const unsigned char *name)
{
	unsigned char key[DOMAIN_MAX];
	size_t key_len = make_key(name, key), len = key_len + 1;

	if (z->n_nodes * 2 >= z->n_slots && !grow(z))
		return NULL;
	struct node **slot = slot_of(z, key, key_len);
	struct node *node = find(z, key, key_len);

	if (node != NULL)
		return node;
	node = malloc(sizeof(*node) + len + key_len);
	if (node == NULL)
		return NULL;
	*node = (struct node){ .chain = *slot,
		.key = node->name + len,
		.key_len = key_len };
	memcpy(node->name, name, len);
	memcpy(node->name + len, key, key_len);
	if (z->apex != NULL && find(z, key, key_len - *name - 1) == NULL &&
	    tsearch(node, &z->far, order) == NULL) {
		free(node);
		return NULL;
	}
	*z->end = *slot = node;
	z->end = &node->next;
	z->n_nodes++;
	return node;
}

struct rrset *
zone_set_of(const struct node *node, unsigned type)
{
	struct rrset *set = node != NULL ? node->sets : NULL;

	while (set != NULL && set->type != type)
		set = set->next;
	return set;
}

/* ---- what a zone answers ------------------------------------------------- */

/* The longest origin: sub.lab.test, if we have that zone, knows more of its
 * names than lab.test, which only delegates them.  Exercise: this walks all
 * zones, for each query; who has a thousand wants a table here, too. */
struct zone *
zone_nearest(const struct conf *conf, const struct dname *name)
{
	struct zone *best = NULL;

	for (size_t i = 0; i < conf->n_zones; i++) {
		struct zone *z = conf->zones[i];

		if (zone_within(name, &z->origin) &&
		    (best == NULL || z->origin.len > best->origin.len))
			best = z;
	}
	return best;
}

/* There are no such data: the SOA says for how long (RFC 2308 3). */
static enum zone_found
nothing(const struct zone *z, enum zone_found what, struct zone_hit *hit)
{
	*hit = (struct zone_hit){ z->soa, z->origin.octets, z->negative_ttl };
	return what;
}

/* The name exists, or a wildcard stands for it: has it the type?  No node:
 * there are but names below it.  An alias answers for all types but its own,
 * and ANY: who asks for the CNAME wants to see it, not to follow it. */
static enum zone_found
at_node(const struct zone *z, const struct node *node, unsigned type,
    struct zone_hit *hit)
{
	struct rrset *set = type == RR_ANY && node != NULL ?
	    node->sets :
	    zone_set_of(node, type);
	struct rrset *alias = zone_set_of(node, RR_CNAME);

	if (set == NULL && alias == NULL)
		return nothing(z, ZONE_NODATA, hit);
	*hit = (struct zone_hit){ set != NULL ? set : alias, NULL, 0 };
	hit->ttl = hit->set->ttl;
	return set != NULL ? ZONE_ANSWER : ZONE_CNAME;
}

/*
 * RFC 1034 4.3.2 step 3: match down, label by label, from the origin.  Where
 * that ends is the closest encloser, and only the wildcard right below it
 * counts: a name in between would be the closest encloser (RFC 4592 3.3.1).
 * In the zone of RFC 4592 2.2.1 (tests/zones/wild.zone):
 *
 *	name, .example		match ends at	so the answer is
 *	foo.bar			the origin	that of *
 *	_telnet._tcp.host1	_tcp.host1	NXDOMAIN: no *._tcp.host1
 *	_tcp.host1		itself		NODATA: it has no records
 *	host.subdel		subdel		its NS: another zone begins
 *
 * It goes down, not up, because a delegation hides what is below it, glue, too:
 * the uppermost counts.  At the origin NS records are the zone's own.
 */
enum zone_found
zone_find(struct zone *z, const struct dname *name, unsigned type,
    struct zone_hit *hit)
{
	unsigned char key[DOMAIN_MAX];
	const struct node *node = z->apex, *next;
	size_t len = make_key(name->octets, key), at = node->key_len;

	while (at < len && exists(z, key, at + key[at] + 1, &next)) {
		at += key[at] + 1u;
		node = next;
		struct rrset *cut = zone_set_of(node, RR_NS);

		if (cut != NULL) {
			*hit = (struct zone_hit){ cut, node->name, cut->ttl };
			return ZONE_DELEGATION;
		}
	}
	if (at < len) { /* by a label, so that "*" has its room */
		memcpy(key + at, "\1*", 2);
		if (!exists(z, key, at + 2, &node))
			return nothing(z, ZONE_NXDOMAIN, hit);
	}
	return at_node(z, node, type, hit);
}

/* ---- a zone's beginning and end ------------------------------------------ */

/* The tree goes first, because its order looks into nodes.  z->far points to
 * its root, and the root is found at once, whatever is below it. */
void
zone_free(struct zone *z)
{
	if (z == NULL)
		return;
	while (z->far != NULL)
		tdelete(*(struct node **)z->far, &z->far, order);
	for (struct node *node = z->apex, *next; node != NULL; node = next) {
		next = node->next;
		while (node->sets != NULL) {
			struct rrset *set = node->sets;

			node->sets = set->next;
			while (set->records != NULL) {
				struct record *r = set->records;

				set->records = r->next;
				free(r);
			}
			free(set);
		}
		free(node);
	}
	free(z->slots);
	names_free(&z->files);
	free(z);
}

struct zone *
zone_new(const struct dname *origin)
{
	struct zone *z = calloc(1, sizeof(*z));

	if (z == NULL)
		return NULL;
	z->origin = *origin;
	z->end = &z->apex;
	if (zone_make_node(z, origin->octets) != NULL)
		return z;
	zone_free(z);
	return NULL;
}
