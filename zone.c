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
 *	dns_answer -> answer_step -> zone_find -> node_find
 * Always true
 *	Data in a zone fits the shape of its type: it was checked on its way
 *	in, so that nobody has to check it on its way out.
 *	Every name between the origin and a name with records has a node: an
 *	empty one exists too (RFC 4592 2.2.2).
 * What it does not do
 *	Classes other than IN, DNAME, DNSSEC.  Exercise: CAA (RFC 8659 4.1)
 *	needs one more letter for a shape; nothing else changes.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "mailserv.h"

enum {
	LABELS_MAX = 128, /* of a name of 255 octets, the root among them */
};

/* ---- types --------------------------------------------------------------- */

/* RFC 1035 3.3: in the types of that document names may be compressed. */
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

/* Is this data just what the shape says?  Data that was
 * written as \# HEX (RFC 3597 5) may break it, so that somebody must look. */
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

/* One octet of a word, \X and \DDD resolved (RFC 1035 5.1); -1: wrong. */
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

/* One label, up to its dot, is appended to n; NULL, or what is wrong. */
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

/* Lengths of labels are below 'A', so a whole name can be folded alike. */
static unsigned char
lower(unsigned char ch)
{
	return ch >= 'A' && ch <= 'Z' ? (unsigned char)(ch - 'A' + 'a') : ch;
}

static bool
same(const unsigned char *one, const unsigned char *two, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (lower(one[i]) != lower(two[i]))
			return false;
	return true;
}

bool
zone_within(const struct dname *name, const struct dname *origin)
{
	size_t at = 0;

	while (name->len - at > origin->len)
		at += name->octets[at] + 1u;
	return name->len - at == origin->len &&
	    same(name->octets + at, origin->octets, origin->len);
}

static size_t
name_len(const unsigned char *name)
{
	return name_field(name, DOMAIN_MAX);
}

/* ---- the nodes of a zone ------------------------------------------------- */

static struct node **
bucket_of(const struct zone *z, const unsigned char *name)
{
	uint32_t hash = 2166136261u; /* FNV-1a */

	for (size_t i = name_len(name); i-- > 0; name++)
		hash = (hash ^ lower(*name)) * 16777619u;
	return &z->buckets[hash & (z->n_buckets - 1)];
}

static struct node *
node_find(const struct zone *z, const unsigned char *name)
{
	struct node *node = *bucket_of(z, name);
	size_t len = name_len(name);

	while (node != NULL &&
	    (name_len(node->name) != len || !same(node->name, name, len)))
		node = node->next_hash;
	return node;
}

static void
bucket_add(struct zone *z, struct node *node)
{
	struct node **at = bucket_of(z, node->name);

	node->next_hash = *at;
	*at = node;
}

/* Twice the buckets.  Without memory the old ones stay, only slower. */
static void
buckets_grow(struct zone *z)
{
	size_t n = z->n_buckets * 2;
	struct node **buckets = calloc(n, sizeof(*buckets));

	if (buckets == NULL)
		return;
	free(z->buckets);
	z->buckets = buckets;
	z->n_buckets = n;
	for (struct node *node = z->apex; node != NULL; node = node->next)
		bucket_add(z, node);
}

/* Add a node, known not to be there; NULL: no memory. */
static struct node *
node_add(struct zone *z, const unsigned char *name)
{
	size_t len = name_len(name);
	struct node *node = malloc(sizeof(*node) + len);

	if (node == NULL)
		return NULL;
	if (z->n_nodes >= z->n_buckets)
		buckets_grow(z);
	*node = (struct node){ .sets = NULL };
	memcpy(node->name, name, len);
	bucket_add(z, node);
	if (z->last != NULL)
		z->last->next = node;
	z->last = node;
	z->n_nodes++;
	return node;
}

/* The node of a name in the zone; with it come the empty ones above, up to
 * the origin, which was the first of all.  NULL: no memory. */
struct node *
zone_make_node(struct zone *z, const unsigned char *name)
{
	struct node *node = node_find(z, name);

	if (node != NULL)
		return node;
	node = node_add(z, name);
	for (struct node *up = node; up != NULL; up = node_add(z, name)) {
		name += *name + 1;
		if (node_find(z, name) != NULL)
			return node;
	}
	return NULL;
}

struct rrset *
zone_set_of(const struct node *node, unsigned type)
{
	struct rrset *set = node->sets;

	while (set != NULL && set->type != type)
		set = set->next;
	return set;
}

/* ---- what a zone answers ------------------------------------------------- */

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

struct rrset *
zone_set(const struct zone *z, const unsigned char *name, unsigned type)
{
	const struct node *node = node_find(z, name);

	return node != NULL ? zone_set_of(node, type) : NULL;
}

/* There are no such data: the SOA says for how long (RFC 2308 3). */
static enum zone_found
nothing(const struct zone *z, enum zone_found what, struct zone_hit *hit)
{
	*hit = (struct zone_hit){ z->soa, z->origin.octets, z->negative_ttl };
	return what;
}

/* The name exists, or a wildcard stands for it: has it the type? */
static enum zone_found
at_node(const struct zone *z, const struct node *node, unsigned type,
    struct zone_hit *hit)
{
	struct rrset *set = type == RR_ANY ? node->sets :
					     zone_set_of(node, type);
	struct rrset *alias = zone_set_of(node, RR_CNAME);

	if (set == NULL && alias == NULL)
		return nothing(z, ZONE_NODATA, hit);
	*hit = (struct zone_hit){ set != NULL ? set : alias, NULL, 0 };
	hit->ttl = hit->set->ttl;
	return set != NULL ? ZONE_ANSWER : ZONE_CNAME;
}

/* The wildcard below the closest encloser, the longest part of the name that
 * exists.  Any existing name in between blocks it (RFC 4592 3.3.1), and has
 * done so, for then it would be the closest encloser. */
static struct node *
wildcard_of(const struct zone *z, const struct node *encloser)
{
	unsigned char name[DOMAIN_MAX + 2] = { 1, '*' };

	memcpy(name + 2, encloser->name, name_len(encloser->name));
	return node_find(z, name);
}

/* RFC 1034 4.3.2 step 3: match down, label by label, from the origin. */
enum zone_found
zone_find(struct zone *z, const struct dname *name, unsigned type,
    struct zone_hit *hit)
{
	const unsigned char *labels[LABELS_MAX];
	const unsigned char *label = name->octets;
	const unsigned char *end = label + name->len - z->origin.len;
	size_t n = 0;

	for (; label < end; label += *label + 1)
		labels[n++] = label;
	const struct node *node = z->apex;

	while (n > 0) {
		const struct node *below = node_find(z, labels[--n]);

		if (below == NULL) {
			node = wildcard_of(z, node);
			break;
		}
		node = below;
		struct rrset *cut = zone_set_of(node, RR_NS);

		if (cut != NULL) {
			*hit = (struct zone_hit){ cut, node->name, cut->ttl };
			return ZONE_DELEGATION;
		}
	}
	if (node == NULL)
		return nothing(z, ZONE_NXDOMAIN, hit);
	return at_node(z, node, type, hit);
}

/* ---- a zone's beginning and end ------------------------------------------ */

static void
node_free(struct node *node)
{
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

void
zone_free(struct zone *z)
{
	if (z == NULL)
		return;
	while (z->apex != NULL) {
		struct node *node = z->apex;

		z->apex = node->next;
		node_free(node);
	}
	names_free(&z->files);
	free(z->buckets);
	free(z);
}

struct zone *
zone_new(const struct dname *origin)
{
	struct zone *z = calloc(1, sizeof(*z));

	if (z == NULL)
		return NULL;
	z->origin = *origin;
	z->n_buckets = 64;
	z->buckets = calloc(z->n_buckets, sizeof(struct node *));
	if (z->buckets != NULL)
		z->apex = node_add(z, origin->octets);
	if (z->apex != NULL)
		return z;
	zone_free(z);
	return NULL;
}
