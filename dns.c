/*
 * dns.c -- DNS messages: one codec, and what a query deserves.
 *
 * What this is
 *	Reading and writing messages (RFC 1035 4.1), and the authoritative
 *	server's answer, from octets to octets: no socket is in this file.
 * Call it in this order
 *	dns_answer() for each query that resolver.c has read; the rest is for
 *	resolver.c's own messages.
 * A typical sequence, with break put_record in gdb
 *	serve_udp -> dns_answer -> answer -> answer_step -> put_answer ->
 *	put_set -> put_record
 * Always true
 *	Reading past the end of a message gives zeros and marks it as bad.
 *	A compression pointer leads strictly backwards, so that no name can
 *	loop (RFC 9267 2).
 *	What does not fit is left out as a whole set, and TC says so, except
 *	of addresses that are no glue: the client asks for those if it must.
 * What it does not do
 *	DNSSEC.  Exercise: the DO bit (RFC 3225 3) must be copied; where?
 */
#include <string.h>
#include "mailserv.h"

/* UDP_MAX: any IPv6 link takes 1280 octets in one piece, of which headers are
 * 48.  More might come in fragments, and of those the second holds neither port
 * nor id: whoever forges one need not guess them. */
enum {
	UDP_MIN = 512, /* RFC 1035 4.2.1 */
	UDP_MAX = 1232,
};

/*
 * A reply, and at which octet its parts begin: lab.test's MX is mail.lab.test.
 *
 *	 0	id, flags, 1 question, 1 answer, 0 authority, 1 additional
 *	12	3 l a b 4 t e s t 0   MX IN
 *	26	C0 0C   MX IN 3600   9 octets:
 *	38		0 10   4 m a i l C0 0C
 *	47	C0 28   A IN 3600   4 octets:
 *	59		192 0 2 1
 *
 * C0 0C is a pointer: go on at 12.  So 40 (28 in hexadecimal), where a whole
 * name begins, is mail.lab.test.
 */

/* ---- reading messages ---------------------------------------------------- */

unsigned
dns_get16(struct dns_packet *p)
{
	const unsigned char *octets = p->data + p->at;

	if (p->len - p->at < 2) {
		p->bad = true;
		return 0;
	}
	p->at += 2;
	return (unsigned)octets[0] << 8 | octets[1];
}

uint32_t
dns_get32(struct dns_packet *p)
{
	uint32_t high = dns_get16(p);

	return high << 16 | dns_get16(p);
}

/* Read a name (RFC 1035 4.1.4).  What is wrong with one is in RFC 9267 2 to 4:
 * a pointer that does not lead backwards, or into the header; a label type
 * other than these two; more than 255 octets; no end.
 *
 * Backwards means: before the run of labels that the pointer ends (start), not
 * only before the pointer, or one could lead into its own run, round and round.
 * Reading goes on behind the first pointer (end).  A bad name is read as the
 * root, so that who looks at p->bad later may use it until then. */
void
dns_get_name(struct dns_packet *p, struct dname *n)
{
	size_t at = p->at, start = at, end = 0;

	for (n->len = 0; at < p->len;) {
		const unsigned char *label = p->data + at;
		size_t size = *label + 1u;

		if (*label >= 0xC0 && at + 1 < p->len) {
			end = end == 0 ? at + 2 : end;
			at = (*label & 0x3Fu) << 8 | label[1];
			if (at >= start || at < HEADER)
				break;
			start = at;
			continue;
		}
		if (*label > 63 || size > p->len - at ||
		    n->len + size > DOMAIN_MAX)
			break;
		memcpy(n->octets + n->len, label, size);
		n->len += size;
		at += size;
		if (size == 1) {
			p->at = end == 0 ? at : end;
			return;
		}
	}
	p->bad = true;
	*n = (struct dname){ .len = 1 };
}

/* Names in the data may point to what stands before it: so rr->data is all of
 * the message up to the data's end, to be read from the data's beginning.  A
 * length that is too large is cut, because at <= len must stay true: what is
 * left is a difference of the two, without a sign. */
void
dns_get_rr(struct dns_packet *p, struct rr *rr)
{
	dns_get_name(p, &rr->name);
	rr->type = dns_get16(p);
	rr->class = dns_get16(p);
	rr->ttl = dns_get32(p);
	size_t len = dns_get16(p);
	size_t left = p->len - p->at;

	p->bad |= len > left;
	rr->data = *p;
	p->at += len < left ? len : left;
	rr->data.len = p->at;
	if (rr->ttl > INT32_MAX && rr->type != RR_OPT)
		rr->ttl = 0; /* RFC 2181 8 */
}

bool
dns_same_name(const struct dname *one, const struct dname *two)
{
	return one->len == two->len && zone_within(one, two);
}

/* ---- writing messages ---------------------------------------------------- */

/* Once something did not fit nothing more is written, however short, until
 * put_set() has taken the half of its set back.  The question always fits: with
 * the header it has 271 octets at most, and there is room for 501 or more. */
static void
put_data(struct dns_reply *o, const void *octets, size_t len)
{
	o->full |= len > o->cap - o->len;
	if (o->full)
		return;
	memcpy(o->data + o->len, octets, len);
	o->len += len;
}

static void
put16(struct dns_reply *o, unsigned number)
{
	unsigned char octets[] = { (unsigned char)(number >> 8),
		(unsigned char)number };

	put_data(o, octets, 2);
}

static void
put32(struct dns_reply *o, uint32_t number)
{
	put16(o, number >> 16);
	put16(o, number & 0xFFFF);
}

/* Is this name at that place?  Case counts, so that a pointer never changes
 * the case in which the zone or the question has a name. */
static bool
is_at(const struct dns_reply *o, size_t at, const unsigned char *name)
{
	for (;; name += *name + 1) {
		while (o->data[at] >= 0xC0)
			at = (o->data[at] & 0x3Fu) << 8 | o->data[at + 1];
		if (o->data[at] != *name ||
		    memcmp(o->data + at, name, *name + 1u) != 0)
			return false;
		if (*name == 0)
			return true;
		at += *name + 1u;
	}
}

/* Write a name; its end may be a pointer to where it was written before: not
 * to this name itself, of which only the beginning is there.  Each of its
 * labels is remembered for later names, also where this one is not to be
 * compressed; but not past 16 KiB, for a pointer has fourteen bits, nor past
 * NAMES_MAX, for each label is compared with all.  The price of either is a
 * few octets. */
static void
put_name(struct dns_reply *o, const unsigned char *name, bool compress)
{
	/* Once it is full, a place may be one where nothing was written. */
	size_t known = compress && !o->full ? o->n_names : 0;

	for (; *name != 0; name += *name + 1) {
		size_t i = 0;

		while (i < known && !is_at(o, o->names[i], name))
			i++;
		if (i < known) {
			put16(o, 0xC000u | o->names[i]);
			return;
		}
		size_t at = o->len;

		put_data(o, name, *name + 1u);
		if (at < 0x4000 && o->n_names < NAMES_MAX)
			o->names[o->n_names++] = (uint16_t)at;
	}
	put_data(o, "", 1);
}

/* Names are compressed in the types of RFC 1035 3.3 only, for any server must
 * know those; others it may have to pass on unread (RFC 3597 4). */
static void
put_rdata(struct dns_reply *o, unsigned type, const struct record *r)
{
	const struct rr_kind *kind = zone_kind(type);
	const unsigned char *data = r->data, *end = data + r->len;

	for (const char *field = kind != NULL ? kind->shape : "";
	     *field != '\0'; field++) {
		size_t len = zone_field(*field, data, (size_t)(end - data));

		if (*field == 'n')
			put_name(o, data, true);
		else
			put_data(o, data, len);
		data += len;
	}
	put_data(o, data, (size_t)(end - data));
}

/* How long the data is depends on how its names were compressed: its length is
 * filled in afterwards. */
static void
put_record(struct dns_reply *o, const struct zone_hit *hit,
    const struct record *r)
{
	put_name(o, hit->owner, true);
	put16(o, hit->set->type);
	put16(o, CLASS_IN);
	put32(o, hit->ttl);
	size_t at = o->len;

	put16(o, 0);
	put_rdata(o, hit->set->type, r);
	size_t len = o->len - at - 2;

	if (!o->full) {
		o->data[at] = (unsigned char)(len >> 8);
		o->data[at + 1] = (unsigned char)len;
	}
}

/* Put a whole set, or nothing of it (RFC 2181 9); false: it does not fit, and
 * all is as before, for a smaller one may.  Each time another of its records
 * comes first, because many clients use no other: of two web servers one would
 * have all the work.  Of a wildcard the owner is the name that was asked for,
 * in the case of the question. */
static bool
put_set(struct dns_reply *o, unsigned section, struct zone *z,
    struct zone_hit hit)
{
	size_t len = o->len, n_names = o->n_names;
	struct record *r = hit.set->records;

	if (hit.owner == NULL)
		hit.owner = o->name.octets;
	for (unsigned i = hit.set->turn++ % hit.set->n; i > 0; i--)
		r = r->next;
	for (unsigned i = 0; i < hit.set->n && !o->full; i++) {
		put_record(o, &hit, r);
		r = r->next != NULL ? r->next : hit.set->records;
	}
	if (o->full || o->n_sets == SETS_MAX) {
		o->len = len;
		o->n_names = n_names;
		o->full = false;
		return false;
	}
	o->counts[section] += hit.set->n;
	o->sets[o->n_sets].zone = z;
	o->sets[o->n_sets++].set = hit.set;
	return true;
}

/* ---- the server: one query, one answer ----------------------------------- */

static bool
has_set(const struct dns_reply *o, const struct rrset *set)
{
	for (size_t i = 0; i < o->n_sets; i++)
		if (o->sets[i].set == set)
			return true;
	return false;
}

/* The addresses of one target, if it has a node in the same zone: they only
 * spare a question, so that neither wildcards nor our other zones are asked.
 * Where they are glue nobody gets on without them, so the client must hear that
 * they did not fit: the name server of sub.lab.test, ns.sub.lab.test, can tell
 * its address only to those who have it. */
static void
put_addresses(struct dns_reply *o, struct zone *z, const unsigned char *name)
{
	static const unsigned types[] = { RR_A, RR_AAAA };
	const struct node *node = zone_node(z, name);

	for (size_t i = 0; i < NELEM(types); i++) {
		struct rrset *set = zone_set_of(node, types[i]);

		if (set == NULL || has_set(o, set))
			continue;
		struct zone_hit hit = { set, name, set->ttl };

		if (!put_set(o, ADDITIONAL, z, hit) && o->referral)
			o->flags |= TC;
	}
}

/* What those who asked for names will ask for next (RFC 1034 6.2.3).  The name
 * stands behind the numbers: one of two octets in an MX, three in an SRV.  The
 * sets of addresses that come in meanwhile name nobody: n is that of before. */
static void
put_additional(struct dns_reply *o)
{
	for (size_t i = 0, n = o->n_sets; i < n; i++) {
		const struct rrset *set = o->sets[i].set;
		size_t skip = set->type == RR_MX ? 2 : 0;

		if (set->type == RR_SRV)
			skip = 6;
		else if (set->type != RR_MX && set->type != RR_NS)
			continue;
		for (const struct record *r = set->records; r != NULL;
		     r = r->next)
			put_addresses(o, o->sets[i].zone, r->data + skip);
	}
}

/* The answer section: one set, or, for ANY over TCP, all there are.  Over UDP
 * one must do: a forged sender would get them all (RFC 8482 4.1). */
static void
put_answer(struct dns_reply *o, unsigned type, struct zone *z,
    struct zone_hit hit)
{
	do {
		hit.ttl = hit.set->ttl;
		if (!put_set(o, ANSWER, z, hit))
			o->flags |= TC;
		hit.set = hit.set->next;
	} while (type == RR_ANY && o->tcp && hit.set != NULL);
}

/* One step of RFC 1034 4.3.2: what the nearest zone says of o->name.  It was a
 * CNAME: o->name is its target now, whose zone is returned.  Else NULL: the
 * last step was done, or the target is not ours to follow.  A CNAME that is in
 * the message already closes a ring of aliases: the answer ends with what is
 * there. */
static struct zone *
answer_step(struct dns_reply *o, unsigned type, struct zone *z)
{
	struct zone_hit hit;
	enum zone_found found = zone_find(z, &o->name, type, &hit);

	if (o->n_sets == 0 && found != ZONE_DELEGATION)
		o->flags |= AA; /* of the first name (RFC 1035 4.1.1) */
	if (found == ZONE_NXDOMAIN)
		o->flags |= NXDOMAIN; /* of the last one (RFC 6604 3) */
	if (found == ZONE_CNAME && !has_set(o, hit.set)) {
		struct dns_packet p = { hit.set->records->data,
			hit.set->records->len, 0, false };

		put_answer(o, type, z, hit);
		dns_get_name(&p, &o->name);
		return zone_nearest(srv.conf, &o->name);
	}
	o->referral = found == ZONE_DELEGATION;
	if (found == ZONE_ANSWER)
		put_answer(o, type, z, hit);
	else if (found != ZONE_CNAME && !put_set(o, AUTHORITY, z, hit))
		o->flags |= TC;
	return NULL;
}

/* Follow the name through our zones: REFUSED if it begins in none.  TC ends it:
 * the client will ask again over TCP, and throw away what it has. */
static void
answer(struct dns_reply *o, unsigned type)
{
	struct zone *z = zone_nearest(srv.conf, &o->name);

	if (z == NULL)
		o->flags |= REFUSED;
	for (int i = 0; i < CHAIN_MAX && z != NULL && !(o->flags & TC); i++)
		z = answer_step(o, type, z);
	if (!(o->flags & TC))
		put_additional(o);
}

/* Read the records behind the question: of those a query may have, only OPT
 * means something to us, and its class is a size, its TTL a version and flags.
 * count is what the header claims, 196,605 perhaps: the first record that is
 * not there ends the walk. */
static void
read_records(struct dns_packet *p, unsigned count, struct dns_query *q)
{
	struct rr rr;

	for (; count > 0 && !p->bad; count--) {
		dns_get_rr(p, &rr);
		if (rr.type != RR_OPT)
			continue;
		p->bad |= rr.name.len != 1; /* RFC 6891 6.1.2: the root's */
		q->opts++;
		q->version = rr.ttl >> 16 & 0xFF;
		if (rr.class > UDP_MIN)
			q->size = rr.class < UDP_MAX ? rr.class : UDP_MAX;
	}
}

/* Read what is behind the flags.  Returns the rcode that it deserves; NOERROR:
 * go on, and answer.  The opcode comes first: an update, say, has other things
 * in the sections that follow.  Transfers are refused because a whole zone is
 * not for everybody, and no directive says for whom. */
static unsigned
read_query(struct dns_packet *p, unsigned flags, struct dns_query *q)
{
	unsigned questions = dns_get16(p);
	unsigned rest = dns_get16(p);

	rest += dns_get16(p);
	rest += dns_get16(p);
	if (flags & OPCODE)
		return NOTIMP;
	if (questions != 1)
		return FORMERR;
	dns_get_name(p, &q->name);
	q->type = dns_get16(p);
	q->class = dns_get16(p);
	read_records(p, rest, q);
	if (p->bad || q->opts > 1)
		return FORMERR;
	if (q->version > 0)
		return BADVERS;
	if (q->class != CLASS_IN || (q->type >= RR_IXFR && q->type < RR_ANY))
		return REFUSED; /* transfers, MAILB, MAILA (RFC 1035 3.2.3) */
	return NOERROR;
}

/* The OPT record that an OPT is answered with (RFC 6891 6.1.1), however full
 * the message is: dns_answer() has kept its room.  An rcode has twelve bits
 * with it, whose first eight stand here; of ours only BADVERS has any. */
static void
put_opt(struct dns_reply *o, unsigned rcode)
{
	o->cap += OPT_SIZE;
	put_data(o, "", 1);
	put16(o, RR_OPT);
	put16(o, UDP_MAX);
	put32(o, (uint32_t)(rcode >> 4) << 24);
	put16(o, 0);
	o->counts[ADDITIONAL]++;
}

/* Write the header, now that everything in it is known. */
void
dns_put_header(struct dns_reply *o, unsigned id, unsigned questions)
{
	size_t len = o->len;

	o->len = 0;
	put16(o, id);
	put16(o, o->flags);
	put16(o, questions);
	for (int i = 0; i < N_SECTIONS; i++)
		put16(o, o->counts[i]);
	o->len = len;
}

/* RFC 1035 4.1.2, as it came. */
void
dns_put_question(struct dns_reply *o, const struct dns_query *q)
{
	put_name(o, q->name.octets, false);
	put16(o, q->type);
	put16(o, q->class);
}

/* The question is repeated as it came, upper and lower case: a client may have
 * drawn the case at random, to know our reply from a forged one.  Behind a
 * FORMERR or NOTIMP there is none: it was not read, or may be no question.  RA
 * stays 0, because nobody else is asked for a client. */
size_t
dns_answer(const unsigned char *query, size_t len, unsigned char *reply,
    bool tcp)
{
	struct dns_packet p = { query, len, 0, false };
	struct dns_query q = { .size = UDP_MIN };
	unsigned id = dns_get16(&p), flags = dns_get16(&p);

	if (len < HEADER || (flags & QR))
		return 0; /* two servers would answer each other for ever */
	unsigned rcode = read_query(&p, flags, &q);
	bool echo = rcode != FORMERR && rcode != NOTIMP;
	struct dns_reply o = { .data = reply, .len = HEADER, .name = q.name };

	o.tcp = tcp;
	o.cap = (tcp ? MESSAGE_MAX : q.size) - (q.opts > 0 ? OPT_SIZE : 0);
	o.flags = QR | (flags & (OPCODE | RD)) | (rcode & 15);

	if (echo)
		dns_put_question(&o, &q);
	if (rcode == NOERROR)
		answer(&o, q.type);
	if (echo && q.opts > 0)
		put_opt(&o, rcode);
	dns_put_header(&o, id, echo);
	return o.len;
}
