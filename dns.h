/*
 * dns.h -- names: the DNS's types, and what dns.c, resolver.c, zone.c and
 * master.c offer.  mailserv.h includes it.
 */
#ifndef DNS_H
#define DNS_H

#include "net.h"

enum {
	HOST_MAX = 256,   /* a domain name as text, no dot at its end, NUL */
	DOMAIN_MAX = 255, /* RFC 5321 4.5.3.1.2, RFC 1035 2.3.4 */
	LABEL_MAX = 63,   /* RFC 1035 2.3.4 */
	REASON_MAX = 200, /* why something failed, one line, NUL included */
};

/* ---- DNS ----------------------------------------------------------------- */

/* RFC 1035 3.2.2 and 3.2.3; RFC 3596, 2782, 6891. */
enum rr_type {
	RR_A = 1,
	RR_NS = 2,
	RR_CNAME = 5,
	RR_SOA = 6,
	RR_PTR = 12,
	RR_HINFO = 13,
	RR_MX = 15,
	RR_TXT = 16,
	RR_AAAA = 28,
	RR_SRV = 33,
	RR_OPT = 41,
	RR_IXFR = 251,
	RR_AXFR = 252,
	RR_ANY = 255,
};

enum lookup_state {
	LOOKUP_PENDING,
	LOOKUP_FOUND,
	LOOKUP_NODATA,   /* the name exists, the type does not */
	LOOKUP_NXDOMAIN, /* no such name (RFC 2308 2.1) */
	LOOKUP_FAILED,   /* time-out, SERVFAIL, nonsense: see why */
};

/* One record of the type that was asked for. */
struct answer {
	unsigned preference;    /* MX */
	char name[HOST_MAX];    /* MX: the host; "" is the root (RFC 7505 3) */
	unsigned char addr[16]; /* A: 4 octets, AAAA: 16 */
};

/* A question on its way, and what came of it.  dns_ask() makes one; whoever
 * asked drops it, pending or not, and its answers with it. */
struct lookup {
	enum lookup_state state;
	enum rr_type type;
	char name[HOST_MAX];      /* as asked */
	char canonical[HOST_MAX]; /* at the end of the CNAME chain */
	char why[REASON_MAX];     /* it failed */
	struct answer *answers;   /* n of them */
	size_t n;
};

/* A domain name as on the wire: labels, each behind its length, up to the
 * root's 0.  Its case is kept, and means nothing (RFC 4343 3).
 *
 *	mail.lab.test	4 m a i l 3 l a b 4 t e s t 0	len 15
 *	the root	0				len 1
 *
 * Each tail that begins at a length is a name, too, of a domain above.  Where a
 * name has gone through checks, it is passed as octets alone: its 0 ends it. */
struct dname {
	unsigned char octets[DOMAIN_MAX];
	size_t len;
};

/* What a type is called, and what its data is made of: n name, u name that is
 * never compressed, 2 4 number of so many octets, t time, a b IPv4, IPv6
 * address, s string, S strings up to the end.  An MX is "2n": a preference,
 * then a name.  Reader, writer and checks go along the shape, so that another
 * type of such fields is a row of a table in zone.c, and no code. */
struct rr_kind {
	const char *name;
	uint16_t type;
	const char *shape;
};

/* The records of one name and type, in the order of the master file: what is
 * asked for and answered as a whole, with one TTL. */
struct rrset {
	struct rrset *next; /* of the same name */
	struct record {
		struct record *next;
		unsigned line; /* where it was read */
		uint16_t file,
		    len;      /* data holds len octets, nothing compressed */
		bool doubted; /* a warning was given already */
		unsigned char data[];
	} * records, **end; /* end: where the next one goes */
	uint16_t type;
	uint16_t n; /* records */
	uint32_t ttl;
	unsigned octets; /* of all records, in a message: see SET_MAX */
	unsigned turn;   /* which comes first in the next answer: round robin */
};

/* A name of a zone. */
struct node {
	struct node *next;        /* in the order of the file; the apex first */
	struct node *chain;       /* in the same slot */
	struct rrset *sets;       /* NULL: only while it is read */
	const unsigned char *key; /* behind the name: see make_key() */
	size_t key_len;
	unsigned char name[]; /* in the case in which it came first */
};

/* A zone: nodes in a hash table, and in the order of the master file.  A node
 * is far whose name has no node right above it: "_ssh._tcp.host1" where there
 * is no "_tcp.host1".  Those show which names exist and have no records. */
struct zone {
	struct dname origin;
	struct rrset *soa;     /* NULL: not read yet */
	uint32_t negative_ttl; /* RFC 2308 3 */
	struct node *apex, **end;
	struct node **slots; /* by key; twice as many as nodes */
	size_t n_slots, n_nodes;
	void *far;          /* tsearch(3)'s; owns no node */
	struct names files; /* what was read: record.file */
};

/* How RFC 1034 4.3.2 ends in one zone, and what it has found.  All of it
 * belongs to the zone, which is the configuration's: it is good for this turn,
 * for a SIGHUP may come in the next. */
enum zone_found {
	ZONE_ANSWER,     /* set; for ANY also those behind set->next */
	ZONE_CNAME,      /* set: go on at its target */
	ZONE_DELEGATION, /* set: the NS records of owner */
	ZONE_NODATA,     /* set: the SOA of owner, with its negative TTL */
	ZONE_NXDOMAIN,   /* the same */
};
struct zone_hit {
	struct rrset *set;
	const unsigned char *owner; /* NULL: the name that was asked for */
	uint32_t ttl;
};

/* ---- dns.c: messages ----------------------------------------------------- */

enum {
	HEADER = 12, /* RFC 1035 4.1.1 */
	MESSAGE_MAX = 65535,
	OPT_SIZE = 11,      /* RFC 6891 6.1.2: an OPT record without options */
	NAMES_MAX = 64,     /* places in a message that pointers lead to */
	SETS_MAX = 64,      /* in one answer */
	CHAIN_MAX = 16,     /* CNAMEs to follow: a loop must end */
	CACHE_SLOTS = 1024, /* one place for each name: see cache_slot() */
	CLASS_IN = 1,
};

enum { QR = 0x8000, OPCODE = 0x7800, AA = 0x0400, TC = 0x0200, RD = 0x0100 };
enum { NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 16 };
enum { ANSWER, AUTHORITY, ADDITIONAL, N_SECTIONS };

/* A message that is being read.  Nobody tests each field: bad stays once it is
 * set, and is looked at when all has been read. */
struct dns_packet {
	const unsigned char *data;
	size_t len, at;
	bool bad; /* something was cut off, or cannot be */
};

/* One record of it. */
struct rr {
	struct dname name;
	unsigned type, class;
	uint32_t ttl;
	struct dns_packet data; /* the same message, cut off behind its data */
};

/* A message that is being written. */
struct dns_reply {
	unsigned char *data;
	size_t len, cap;
	bool full;                          /* something did not fit */
	unsigned flags, counts[N_SECTIONS]; /* the header's, written last */
	uint16_t names[NAMES_MAX];          /* where labels begin */
	size_t n_names;
	struct dname name; /* the owner of what is put next */
	struct {
		struct zone *zone;
		const struct rrset *set;
	} sets[SETS_MAX]; /* what is in it: nothing is put twice */
	size_t n_sets;
	/* referral: the addresses put next are glue.  tcp: it may be long, and
	 * goes to who has asked: no forged address has shaken hands. */
	bool referral, tcp;
};

/* What a query asks for, beside its name. */
struct dns_query {
	struct dname name;
	unsigned type, class;
	unsigned opts, version; /* OPT records, and what the last one says */
	size_t size;            /* of the largest reply by UDP */
};

/* Read on; what is cut off reads as zeros, and marks the message as bad. */
unsigned dns_get16(struct dns_packet *p);
uint32_t dns_get32(struct dns_packet *p);
void dns_get_name(struct dns_packet *p, struct dname *n);
void dns_get_rr(struct dns_packet *p, struct rr *rr);
/* Without regard to case (RFC 4343 3). */
bool dns_same_name(const struct dname *one, const struct dname *two);

/* Write the question, and, when all else is written, the header. */
void dns_put_question(struct dns_reply *o, const struct dns_query *q);
void dns_put_header(struct dns_reply *o, unsigned id, unsigned questions);

/* Answer one query in 65,535 octets of reply, or, by UDP, 1,232; returns the
 * reply's length, 0: it deserves none.  tcp: it came so, and may be answered at
 * length. */
size_t dns_answer(const unsigned char *query, size_t len, unsigned char *reply,
    bool tcp);

/* ---- resolver.c: sockets and look-ups ------------------------------------ */

/* The outcome of a look-up, for a while.  It is found by the name that a server
 * was asked for, to which CNAMEs of our own zones may have led. */
struct cached {
	struct dname name;
	msec until;      /* 0: none yet */
	struct lookup l; /* with its own copy of the answers */
};

/* The look-ups under way, and what is known; resolver.c keeps it. */
struct dns {
	struct question *pending, **end; /* in the order of asking */
	size_t n_pending, n_links;
	unsigned long ignored;            /* replies that were none of ours */
	struct cached cache[CACHE_SLOTS]; /* 1 MiB, when all are in use */
	/* The message at hand, or, of the server's UDP, 32 of 2 KiB. */
	unsigned char in[MESSAGE_MAX + 1], out[MESSAGE_MAX + 1];
};

/* Ask for a name's records.  Our own zones answer at once; else the resolvers
 * of srv.conf, in the turns to come.  NULL: no memory.  The caller looks at
 * ->state in its own turn, and drops the lookup, or NULL, at any time. */
struct lookup *dns_ask(const char *name, enum rr_type type);
void dns_drop(struct lookup *l);

/* Answer queries, take in answers, give up on late ones; free what is
 * closed. */
void dns_serve(void);
void dns_reap(void);

/* ---- master.c: master files ---------------------------------------------- */

/* Read a master file (RFC 1035 5); what is wrong with it goes to complain().
 * Returns the zone, even a faulty one; NULL: no memory.  zone_free(). */
struct zone *master_load(const char *origin, const char *file, struct diag *d);

/* ---- zone.c: a zone, and what it answers --------------------------------- */

/* An empty zone: its origin exists.  NULL: no memory. */
struct zone *zone_new(const struct dname *origin);
void zone_free(struct zone *z);

/* Find or make a node.  NULL: no memory. */
struct node *zone_make_node(struct zone *z, const unsigned char *name);
/* The node of just this name, glue's too; or NULL. */
struct node *zone_node(const struct zone *z, const unsigned char *name);
/* The records of a type at a node, or at none; NULL: there are none. */
struct rrset *zone_set_of(const struct node *node, unsigned type);

/* Is this data just what the shape says?  Data that was written as \# HEX
 * (RFC 3597 5) may break it, so that somebody must look. */
bool zone_fits(const char *shape, const unsigned char *data, size_t len);
/* One octet of a word, which moves on, \X and \DDD resolved (RFC 1035 5.1);
 * -1: wrong, and zone_bad_escape says why. */
int zone_octet(const char **text);
extern const char zone_bad_escape[];

/* The zone of a configuration that is nearest to a name; NULL: none holds it.
 * zone_find(): what that zone says (RFC 1034 4.3.2), wildcards included. */
struct zone *zone_nearest(const struct conf *conf, const struct dname *name);
enum zone_found zone_find(struct zone *z, const struct dname *name,
    unsigned type, struct zone_hit *hit);

/* Text such as "a.example" to a name, relative to an origin (NULL: the root).
 * NULL: it is one; else what is wrong with it.  And back, without the last
 * dot, into text[HOST_MAX]; false: only its beginning fits, so it is no
 * host's. */
const char *
zone_name(const char *text, const struct dname *origin, struct dname *n);
bool zone_name_text(const unsigned char *name, char *text);
/* Is a name the origin, or below it? */
bool zone_within(const struct dname *name, const struct dname *origin);

/* The row of a type; NULL: it is not known.  zone_field(): how long the field
 * of a shape at data is, of which len octets are left; 0: it is cut off. */
const struct rr_kind *zone_kind(unsigned type);
const struct rr_kind *zone_kind_named(const char *name);
size_t zone_field(char field, const unsigned char *data, size_t len);

#endif
