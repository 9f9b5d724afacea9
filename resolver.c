/*
 * resolver.c -- the sockets of the DNS: the server's clients, and look-ups.
 *
 * What this is
 *	UDP and TCP for the server's queries, which dns.c answers; and the
 *	look-ups of route.c, which never wait.
 * Call it in this order
 *	net_listen() twice for every port, where there are any: UDP, TCP.
 *	dns_ask(), then a look at ->state in each turn, then dns_drop().  In
 *	every turn dns_serve(), net_settle(), dns_reap().
 * A typical sequence, with break send_udp, break finish in gdb
 *	dns_serve -> start -> send_question -> send_udp;  turns later
 *	dns_serve -> serve_link -> serve_udp_link -> take_message ->
 *	take_sections -> finish
 * Always true
 *	A turn's sockets are opened in dns_serve() only: dns_ask() opens none,
 *	for `mailserv -r` asks between two turns, when nobody would tell
 *	net_settle() of its deadline.
 *	A look-up that is pending is in dns.pending, once, and nowhere else.
 *	A reply is believed only from the server that was asked, to the port,
 *	the id and the question that were its own (RFC 5452 9.1).
 * What it does not do
 *	Choose the address by which a reply to UDP leaves, for the kernel does:
 *	a host with several addresses lists each in listen_dns.
 *	EDNS in the resolver, merging of equal questions under way, DNSSEC.
 *	Exercise: ask once for what two look-ups want at the same time.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "mailserv.h"

/* ---- the state: links, questions, the cache ------------------------------ */

/*
 * The way of a look-up, from dns_ask() to finish().  It is pending where it
 * waits and where it has a link; with one, it may get another: for the same
 * server, by TCP, after TC, or for the next one (next_server()).
 *
 *	dns_ask()
 *	    |
 *	    v
 *	known() -- our zones or the cache have it ------> ended
 *	    |  ^                                            ^
 *	    |  +-- a CNAME leads elsewhere --+              |
 *	    v                                |              |
 *	waits for one of LINKS_MAX           |              |
 *	    |                                |              |
 *	    v start()                        |              |
 *	has a link -- a good answer --> take_sections() ----+
 *	    |                                               |
 *	    +-- all servers have failed, twice -------------+
 */
enum {
	DATAGRAMS = 32, /* of one socket in one turn: others wait too */
	PART = (MESSAGE_MAX + 1) / DATAGRAMS, /* of dns.in, dns.out: for one */
	TCP_IDLE = 30,       /* seconds, of a client (RFC 7766 6.2.3) */
	SERVER_WAIT = 2,     /* seconds, for one server's answer */
	ROUNDS = 2,          /* through all servers: UDP may lose a packet */
	LINKS_MAX = 64,      /* sockets for look-ups; the rest waits in line */
	LOOKUPS_MAX = 10000, /* 10 MiB; of 1,000 attempts each may have ten */
	ANSWERS_MAX = 256,   /* of one look-up; nobody tries so many */
	FAILURE_TTL = 5,     /* seconds (RFC 2308 7 allows five minutes) */
	TTL_CAP = 86400,     /* a day: then a mistake is forgotten */
};

/* A connection of ours: of a client over TCP, or with a resolver. */
struct link {
	struct conn c;      /* first */
	struct question *q; /* NULL: of a client, or nobody waits any more */
	bool strange;       /* a reply came that was not ours */
};

/* What dns_ask() returns is the lookup in one of these. */
struct question {
	struct lookup l;   /* first */
	struct dname name; /* asked now: how far the CNAMEs have led */
	unsigned hops;     /* ... how many of them */
	unsigned tries;    /* servers that have failed */
	bool stream;       /* ask the next server by TCP, after TC */
	uint16_t id;
	struct link *link;     /* where an answer is awaited; NULL: it waits */
	struct question *next; /* in dns.pending */
};

/* What a type is called, or, made in room, its number. */
static const char *
type_name(unsigned type, char room[16])
{
	const struct rr_kind *kind = zone_kind(type);

	if (kind != NULL)
		return kind->name;
	snprintf(room, 16, type == RR_ANY ? "ANY" : "TYPE%u", type);
	return room;
}

/* With -v: a message in one line. */
static void
trace_message(const struct conn *c, char way, const unsigned char *data,
    size_t len)
{
	struct dns_packet p = { data, len, 2, false };
	char name[HOST_MAX] = "?", line[HOST_MAX + 64], room[16];
	struct dname n;

	if (log_level < 1 || len < HEADER)
		return;
	unsigned flags = dns_get16(&p), counts[4];

	for (int i = 0; i < 4; i++)
		counts[i] = dns_get16(&p);
	dns_get_name(&p, &n);
	zone_name_text(n.octets, name);
	const char *type = type_name(dns_get16(&p), room);

	if (flags & QR)
		snprintf(line, sizeof(line),
		    "answer %s %s rcode=%u%s%s records=%u,%u,%u", name, type,
		    flags & 15, flags & AA ? " aa" : "",
		    flags & TC ? " tc" : "", counts[1], counts[2], counts[3]);
	else
		snprintf(line, sizeof(line), "query %s %s", name, type);
	const char *rfc = way == '>' ? "RFC 1035 7.2" : "RFC 1035 7.3";

	trace(c, way, line, c->listening || c->client ? "RFC 1034 4.3.2" : rfc);
}

/* ---- the server's sockets ------------------------------------------------ */

/* Answer the datagrams that wait; a reply that cannot be sent is lost, as any
 * datagram may be.  All by two system calls, not two for each: 0.2 us of a
 * query's 4.4, for thirteen lines.  Of a query of over 2 KiB the rest is lost,
 * which makes it a FORMERR: a name and some options are never so long.
 *
 * What deserves no reply is left out: msgs[n] takes the place of those, with
 * the address it came from, and n is never ahead of i.  sendmmsg() stops at one
 * that cannot be sent, and fails when that is the first: it is then passed
 * over.  More than DATAGRAMS wait in the socket, and wake the next turn. */
static void
serve_udp(struct conn *c)
{
	struct mmsghdr msgs[DATAGRAMS];
	struct iovec parts[DATAGRAMS];
	union address peers[DATAGRAMS];
	unsigned n = 0;

	for (size_t i = 0; i < DATAGRAMS; i++) {
		parts[i] = (struct iovec){ srv.dns.in + i * PART, PART };
		msgs[i].msg_hdr = (struct msghdr){ .msg_name = &peers[i],
			.msg_namelen = sizeof(peers[i]),
			.msg_iov = &parts[i],
			.msg_iovlen = 1 };
	}
	int got = recvmmsg(c->fd, msgs, DATAGRAMS, MSG_DONTWAIT, NULL);

	for (int i = 0; i < got; i++) {
		const unsigned char *query = parts[i].iov_base;
		unsigned char *reply = srv.dns.out + i * PART;
		size_t len = dns_answer(query, msgs[i].msg_len, reply, false);

		trace_message(c, '<', query, msgs[i].msg_len);
		if (len == 0)
			continue;
		trace_message(c, '>', reply, len);
		parts[i] = (struct iovec){ reply, len };
		msgs[n++] = msgs[i];
	}
	for (unsigned i = 0; i < n;) {
		int sent = sendmmsg(c->fd, msgs + i, n - i, MSG_DONTWAIT);

		i += sent > 0 ? (unsigned)sent : 1;
	}
}

/* Put a message behind its length (RFC 1035 4.2.2).  A larger buffer is for
 * one message, so that idle clients stay small; false: not now, because others
 * are still in it, or there is no memory. */
static bool
put_stream(struct conn *c, const unsigned char *data, size_t len)
{
	char prefix[] = { (char)(len >> 8), (char)len };

	if (buf_used(&c->out) == 0)
		buf_size(&c->out, len + 2 > SMALL_BUF ? len + 2 : SMALL_BUF);
	if (buf_room(&c->out) < len + 2)
		return false;
	trace_message(c, '>', data, len);
	return buf_put(&c->out, prefix, 2) &&
	    buf_put(&c->out, (const char *)data, len);
}

/* The message at the front of c->in; NULL: not all of it has come. */
static const unsigned char *
stream_message(const struct conn *c, size_t *len)
{
	const struct buf *b = &c->in;
	const unsigned char *data = (const unsigned char *)b->data + b->start;

	if (buf_used(b) < 2)
		return NULL;
	*len = (size_t)data[0] << 8 | data[1];
	return buf_used(b) >= *len + 2 ? data + 2 : NULL;
}

/* Answer what has come whole, as long as the answers fit; then wait until the
 * client has read them all.  A query stays in the buffer until its answer is in
 * the other: where that does not fit it is answered anew, later, which is
 * plainer than to keep it.  A client may end its side and still listen: he is
 * closed when he has his answers.  A query that no buffer of ours holds is
 * nonsense. */
static void
serve_client(struct conn *c)
{
	const unsigned char *query;
	size_t len = 0;
	enum io got = c->late ? IO_ERROR : net_read(c);

	if (got == IO_OK)
		c->deadline = srv.now + TCP_IDLE * SECOND;
	c->deaf |= got == IO_EOF; /* the client will say no more */
	c->more &= buf_used(&c->out) > 0;
	while (!c->more && (query = stream_message(c, &len)) != NULL) {
		size_t size = dns_answer(query, len, srv.dns.out, true);

		c->more = size > 0 && !put_stream(c, srv.dns.out, size);
		if (!c->more)
			c->in.start += len + 2;
	}
	if (got == IO_ERROR || len + 2 > SMALL_BUF)
		net_drop(c);
	else if (c->deaf && !c->more)
		c->doomed = true;
}

/* The ready list does not tell UDP's socket from TCP's: the kernel does.  Who
 * is refused hears nothing, because words are no message of the DNS. */
static void
serve_listener(struct conn *c)
{
	int type = 0;
	socklen_t size = sizeof(type);
	struct conn *client;

	getsockopt(c->fd, SOL_SOCKET, SO_TYPE, &type, &size);
	if (type == SOCK_DGRAM) {
		serve_udp(c);
		return;
	}
	while ((client = net_accept(c, sizeof(struct link), NULL)) != NULL)
		client->deadline = srv.now + TCP_IDLE * SECOND;
}

/* ---- the resolver: how a look-up ends ------------------------------------ */

/* The question gives its socket up: by link->q NULL that is nobody's, what
 * still comes is not looked at, and dns_reap() frees it. */
static void
link_drop(struct question *q)
{
	if (q->link == NULL)
		return;
	q->link->q = NULL;
	net_drop(&q->link->c);
	q->link = NULL;
	srv.dns.n_links--;
	srv.net.wake = 0; /* another look-up may wait for its place */
}

/* The look-up is no longer pending, if it was.  Links are given in the order of
 * the list, so that those that end stand near its front: the walk is short. */
static void
unlist(struct question *q)
{
	struct question **at = &srv.dns.pending;

	link_drop(q);
	while (*at != NULL && *at != q)
		at = &(*at)->next;
	if (*at == NULL)
		return;
	*at = q->next;
	if (srv.dns.end == &q->next)
		srv.dns.end = at;
	srv.dns.n_pending--;
}

/* How it fails, if it does; why may be what it has said already, which is not
 * to be printed into itself. */
static void
say_why(struct question *q, const char *why)
{
	if (why != q->l.why)
		snprintf(q->l.why, sizeof(q->l.why), "%s", why);
}

/* The same for an errno: whose it is must be said, or it would be taken for
 * the mail host's. */
static const char *
say_errno(struct question *q, int error)
{
	snprintf(q->l.why, sizeof(q->l.why), "the name server: %s",
	    strerror(error));
	return q->l.why;
}

static const char endless[] = "the chain of CNAMEs has no end";

/* The one place where a look-up ends.  Nobody is called: who asked looks at the
 * state in his own part of the turn, and finds it there until he drops it. */
static void
finish(struct question *q, enum lookup_state how, const char *why)
{
	static const char *const words[] = {
		[LOOKUP_FOUND] = "found",
		[LOOKUP_NODATA] = "no such data",
		[LOOKUP_NXDOMAIN] = "no such name",
		[LOOKUP_FAILED] = "failed",
	};
	char room[16];

	unlist(q);
	q->l.state = how;
	say_why(q, why);
	if (q->l.canonical[0] == '\0')
		zone_name_text(q->name.octets, q->l.canonical);
	if (log_level >= 1)
		log_event(PART_DNS, "-", "look-up %s %s: %s answers=%zu %s",
		    q->l.name, type_name(q->l.type, room), words[how], q->l.n,
		    q->l.why);
}

/* Take the data of one record as an answer; false: it is none.  An MX whose
 * host is longer than HOST_MAX as text (only \DDD can make it so) counts as
 * none: cut, it might be somebody else.  Of other types only the number of
 * records is told. */
static bool
take_rdata(struct question *q, struct dns_packet p)
{
	struct lookup *l = &q->l;
	struct answer *a = &l->answers[l->n];
	struct dname name;
	bool good = true;

	*a = (struct answer){ .preference = 0 };
	if (l->type == RR_MX) {
		a->preference = dns_get16(&p);
		dns_get_name(&p, &name);
		good = !p.bad && p.at == p.len &&
		    zone_name_text(name.octets, a->name);
	} else if (l->type == RR_A || l->type == RR_AAAA) {
		good = p.len - p.at == (l->type == RR_A ? 4 : 16);
		if (good)
			memcpy(a->addr, p.data + p.at, p.len - p.at);
	}
	l->n += good;
	return good;
}

/* Room for so many answers, within reason, for a header may claim 65,535. */
static bool
make_room(struct question *q, size_t n)
{
	free(q->l.answers);
	q->l.n = 0;
	q->l.answers = calloc(n < ANSWERS_MAX ? n : ANSWERS_MAX,
	    sizeof(*q->l.answers));
	return q->l.answers != NULL;
}

/* ---- the resolver: what we know already ---------------------------------- */

/* The only place that a name may have: a newer one that falls into it takes it.
 * So there is nothing to search, to grow or to clean up, and who chooses names
 * that meet here has made us ask again, no more.  Exercise: two places for
 * each, and count how many questions that saves. */
static struct cached *
cache_slot(const struct dname *name, unsigned type)
{
	size_t hash = type;

	for (size_t i = 0; i < name->len; i++)
		hash = hash * 31 + (name->octets[i] | 0x20u); /* case */
	return &srv.dns.cache[hash % CACHE_SLOTS];
}

/* Copy the outcome of one look-up to another, with answers of its own, for
 * either may be freed first; but not its name, because that is what was asked:
 * an alias of ours may have led both to one name.  False: no memory. */
static bool
copy_outcome(struct lookup *to, const struct lookup *from)
{
	struct lookup copy = *from;
	size_t size = from->n * sizeof(*from->answers);

	copy.answers = malloc(size + 1); /* none is no lack of memory */
	if (copy.answers == NULL)
		return false;
	if (size > 0)
		memcpy(copy.answers, from->answers, size);
	memcpy(copy.name, to->name, sizeof(copy.name));
	free(to->answers);
	*to = copy;
	return true;
}

/* Remember how the question for this name has ended.  Without memory, or for
 * no seconds: do not.  Failures come here, too: where no server answers, who
 * asks next for the same mail host need not wait for each of them again. */
static void
cache_put(const struct question *q, const struct dname *name, uint32_t ttl)
{
	struct cached *slot = cache_slot(name, q->l.type);

	if (ttl == 0 || !copy_outcome(&slot->l, &q->l))
		return;
	slot->name = *name;
	slot->until = srv.now + SECOND * (ttl < TTL_CAP ? ttl : TTL_CAP);
}

static bool
cache_get(struct question *q)
{
	const struct cached *e = cache_slot(&q->name, q->l.type);

	if (e->l.type != q->l.type || e->until <= srv.now ||
	    !dns_same_name(&e->name, &q->name) || !copy_outcome(&q->l, &e->l))
		return false;
	finish(q, e->l.state, q->l.why);
	return true;
}

/* Take a set of our own zone as the answer, in the order whose turn it is, as
 * put_set() sends it. */
static void
take_set(struct question *q, struct rrset *set)
{
	const struct record *r = set->records;

	if (!make_room(q, set->n)) {
		finish(q, LOOKUP_FAILED, "out of memory");
		return;
	}
	for (unsigned i = set->turn++ % set->n; i > 0; i--)
		r = r->next;
	for (unsigned i = 0; i < set->n && q->l.n < ANSWERS_MAX; i++) {
		take_rdata(q, (struct dns_packet){ r->data, r->len, 0, false });
		r = r->next != NULL ? r->next : set->records;
	}
	finish(q, LOOKUP_FOUND, "");
}

/* Look in our zones, along their CNAMEs, and in the cache.  True: the look-up
 * has ended; else somebody must be asked for q->name.  Nobody else is asked for
 * what our zones hold, so that the cache has nothing of it: a zone that SIGHUP
 * reads again counts at once.  What they delegate is others'. */
static bool
known(struct question *q)
{
	struct zone_hit hit;

	for (; q->hops <= CHAIN_MAX; q->hops++) {
		struct zone *z = zone_nearest(srv.conf, &q->name);

		if (z == NULL)
			return cache_get(q);
		switch (zone_find(z, &q->name, q->l.type, &hit)) {
		case ZONE_DELEGATION:
			return cache_get(q);
		case ZONE_ANSWER:
			take_set(q, hit.set);
			return true;
		case ZONE_NODATA:
			finish(q, LOOKUP_NODATA, "");
			return true;
		case ZONE_NXDOMAIN:
			finish(q, LOOKUP_NXDOMAIN, "");
			return true;
		case ZONE_CNAME:
			q->name.len = hit.set->records->len;
			memcpy(q->name.octets, hit.set->records->data,
			    q->name.len);
		}
	}
	finish(q, LOOKUP_FAILED, endless);
	return true;
}

/* ---- the resolver: asking ------------------------------------------------ */

/* Write the question into dns.out, under a new number; returns its length.  A
 * second try has another number, so that a forger has to begin again.  RD: the
 * resolver is to follow delegations, because we do not.  There is no OPT: what
 * is over 512 octets comes by TCP. */
static size_t
make_query(struct question *q)
{
	struct dns_reply o = { .data = srv.dns.out,
		.cap = MESSAGE_MAX,
		.len = HEADER,
		.flags = RD };
	struct dns_query query = { .name = q->name,
		.type = q->l.type,
		.class = CLASS_IN };

	q->id = (uint16_t)random_u64();
	dns_put_question(&o, &query);
	dns_put_header(&o, q->id, 1);
	return o.len;
}

/* From a fresh socket, whose port the kernel draws at random.  Connected, so
 * that the kernel drops what comes from another address or port. */
static bool
send_udp(struct link *link, const union address *to)
{
	struct conn *c = &link->c;

	/* Its buffers stay empty, but are needed: net_settle() asks poll() for
	 * what comes only where c->in has room. */
	if (!net_connect(c, KIND_DNS, to, SOCK_DGRAM))
		return false;
	size_t len = make_query(link->q);

	trace_message(c, '>', srv.dns.out, len);
	if (send(c->fd, srv.dns.out, len, MSG_NOSIGNAL) < 0)
		c->deadline = srv.now; /* as if it had not answered */
	return true;
}

/* Ask the server whose turn it is; false: not even that. */
static bool
send_question(struct question *q, const union address *to)
{
	struct link *link = calloc(1, sizeof(*link));

	if (link == NULL)
		return false;
	link->q = q;
	if (!(q->stream ? net_connect(&link->c, KIND_DNS, to, SOCK_STREAM) :
			  send_udp(link, to))) {
		free(link);
		return false;
	}
	if (link->c.deadline == NEVER)
		link->c.deadline = srv.now + SERVER_WAIT * SECOND;
	q->link = link;
	srv.dns.n_links++;
	return true;
}

/* Ask: the servers in their order, then all once more.  One that cannot even be
 * sent to, such as one of IPv6 where there is none, costs no time.  So a lack
 * of our own, of descriptors, say, uses up all tries at once; it is forgotten
 * after FAILURE_TTL. */
static void
start(struct question *q)
{
	const struct conf *conf = srv.conf;

	while (q->tries < ROUNDS * conf->resolvers.n) {
		const union address *to =
		    &conf->resolvers.v[q->tries % conf->resolvers.n];

		if (send_question(q, to))
			return;
		say_errno(q, errno);
		q->tries++;
		q->stream = false;
	}
	finish(q, LOOKUP_FAILED,
	    q->l.why[0] != '\0' ? q->l.why :
				  "no name server is known: see resolver");
	cache_put(q, &q->name, FAILURE_TTL);
}

/* This server has failed us, and why: the next one. */
static void
next_server(struct question *q, const char *why)
{
	say_why(q, why);
	log_event(PART_DNS, "-", "look-up %s: %s %s", q->l.name,
	    q->link->c.peer_text, q->l.why);
	link_drop(q);
	q->tries++;
	q->stream = false;
	start(q);
}

/* ---- the resolver: what servers reply ------------------------------------ */

/* A reply whose question was ours, at its answer section. */
struct good_reply {
	struct dns_packet p;
	unsigned flags, counts[4]; /* as in the header */
	uint32_t ttl;              /* the smallest of what was used */
	bool soa, referral;        /* see negative() */
	bool home;                 /* its CNAMEs lead into a zone of ours */
};

/*
 * In the answer section, go along the CNAMEs from q->name, up to a zone of
 * ours: of that nobody else knows more, and whom it has delegated is asked
 * himself.  Other names are none of our business: anybody may say anything of
 * them.  Asked for www.a.test:
 *
 *	www.a.test	CNAME	x.b.test
 *	mail.c.test	A	192.0.2.66	who asked for that?
 *	x.b.test	A	192.0.2.1
 *
 * q->name ends as x.b.test.  Records may come in any order, so each CNAME that
 * is found begins a new walk: g->p stays at the first record, for collect().
 */
static void
follow(struct question *q, struct good_reply *g)
{
	struct dns_packet p = g->p;
	struct rr rr;

	for (unsigned i = 0; i < g->counts[1] && !p.bad; i++) {
		dns_get_rr(&p, &rr);
		if (rr.type != RR_CNAME || rr.class != CLASS_IN ||
		    !dns_same_name(&rr.name, &q->name))
			continue;
		dns_get_name(&rr.data, &q->name);
		g->p.bad |= rr.data.bad;
		g->ttl = rr.ttl < g->ttl ? rr.ttl : g->ttl;
		g->home = zone_nearest(srv.conf, &q->name) != NULL;
		if (++q->hops > CHAIN_MAX || g->home)
			return;
		p = g->p; /* from the first record again */
		i = UINT_MAX;
	}
}

/* Collect the records of the name at the end of the chain, if it is theirs.
 * All are read, also those that are not taken: a message that breaks off behind
 * a good record is no good message, and what follows must be found. */
static void
collect(struct question *q, struct good_reply *g)
{
	struct rr rr;

	for (unsigned i = 0; i < g->counts[1] && !g->p.bad; i++) {
		dns_get_rr(&g->p, &rr);
		g->p.bad |= rr.class != CLASS_IN; /* nobody asked for that */
		if (g->p.bad || g->home || rr.type != q->l.type ||
		    q->l.n == ANSWERS_MAX || !dns_same_name(&rr.name, &q->name))
			continue;
		g->p.bad |= !take_rdata(q, rr.data);
		g->ttl = rr.ttl < g->ttl ? rr.ttl : g->ttl;
	}
}

/* Behind the answers: how long "there is none" is true (RFC 2308 5), which
 * only an SOA says, in the last four of its octets (two names and five numbers
 * are 22 at least); and is it a referral?  A server that looks nothing up for
 * others answers with NS records alone, which is no "there is none": taken for
 * that, a domain would seem to have no MX, and its mail go to its address. */
static void
negative(struct good_reply *g)
{
	struct rr rr;

	for (unsigned i = 0; i < g->counts[2] && !g->p.bad; i++) {
		dns_get_rr(&g->p, &rr);
		g->referral |= rr.type == RR_NS;
		if (g->p.bad || rr.type != RR_SOA ||
		    rr.data.len - rr.data.at < 22)
			continue;
		rr.data.at = rr.data.len - 4;
		uint32_t minimum = dns_get32(&rr.data);

		g->soa = true;
		rr.ttl = rr.ttl < minimum ? rr.ttl : minimum;
		g->ttl = rr.ttl < g->ttl ? rr.ttl : g->ttl;
	}
	g->referral &= !g->soa && !(g->flags & AA);
}

/* No such data, no such name, or a chain that goes on elsewhere or at home.
 * Then the look-up begins anew with the name at its end, and each server has
 * all its tries again; dns_serve() starts it in this turn, unless known() ends
 * it.  NXDOMAIN is of the last name of a chain: that one goes nowhere. */
static void
take_negative(struct question *q, struct good_reply *g,
    const struct dname *asked)
{
	bool nxdomain = (g->flags & 15) == NXDOMAIN;

	if (g->home ||
	    (!nxdomain && !g->soa && !dns_same_name(asked, &q->name))) {
		link_drop(q);
		q->tries = 0;
		known(q);
	} else if (!nxdomain && g->referral) {
		next_server(q, "the name server only refers to others");
	} else {
		finish(q, nxdomain ? LOOKUP_NXDOMAIN : LOOKUP_NODATA, "");
		cache_put(q, asked, g->soa ? g->ttl : 0);
	}
}

/* All answers of a reply are taken or none: when a later one is bad, what the
 * first ones said is thrown away.  What stands behind them is not even read,
 * unless there were none: nobody asked for it.  The cache has the outcome under
 * the name that the servers were asked for: they said all of it. */
static void
take_sections(struct question *q, struct good_reply *g)
{
	struct dname asked = q->name;
	unsigned hops = q->hops;

	if (!make_room(q, g->counts[1] + 1)) {
		next_server(q, "out of memory");
		return;
	}
	if (q->l.type != RR_CNAME)
		follow(q, g);
	if (q->hops > CHAIN_MAX) {
		finish(q, LOOKUP_FAILED, endless);
		return;
	}
	collect(q, g);
	if (q->l.n == 0)
		negative(g);
	if (g->p.bad) { /* whatever it seemed to say first */
		q->l.n = 0;
		q->name = asked;
		q->hops = hops;
		next_server(q, "the name server replies nonsense");
	} else if (q->l.n == 0) {
		take_negative(q, g, &asked);
	} else {
		finish(q, LOOKUP_FOUND, "");
		cache_put(q, &asked, g->ttl);
	}
}

/* Is this the reply to our question (RFC 5452 9.1)?  Read it up to there. */
static bool
is_reply_to(const struct question *q, struct good_reply *g)
{
	struct dname name;
	unsigned id = dns_get16(&g->p);

	g->flags = dns_get16(&g->p);
	for (int i = 0; i < 4; i++)
		g->counts[i] = dns_get16(&g->p);
	if (g->p.bad || id != q->id || (g->flags & (QR | OPCODE)) != QR ||
	    g->counts[0] != 1)
		return false;
	dns_get_name(&g->p, &name);
	unsigned type = dns_get16(&g->p), class = dns_get16(&g->p);

	return !g->p.bad && type == q->l.type && class == CLASS_IN &&
	    dns_same_name(&name, &q->name);
}

/* A message on a link: is it our reply, and what does it mean?  One that is not
 * ours ends nothing: if it did, a forger who has found the port could end any
 * look-up without its id.  We wait on for the true one, and only the log is
 * told.  Of a reply that was cut off nothing is used: by TCP it comes whole. */
static void
take_message(struct link *link, const unsigned char *data, size_t len)
{
	struct question *q = link->q;
	struct good_reply g = { .p = { data, len, 0, false }, .ttl = TTL_CAP };

	trace_message(&link->c, '<', data, len);
	bool ours = is_reply_to(q, &g);
	unsigned rcode = g.flags & 15;

	if (!ours) {
		srv.dns.ignored++;
		log_conn(&link->c,
		    "a reply from %s to no question of ours"
		    " is ignored: ignored=%lu",
		    link->c.peer_text, srv.dns.ignored);
		link->strange = true;
	} else if ((g.flags & TC) && q->stream) {
		next_server(q, "the name server cuts off its answer by TCP");
	} else if (g.flags & TC) {
		link_drop(q);
		q->stream = true;
		start(q);
	} else if (rcode == NOERROR || rcode == NXDOMAIN) {
		take_sections(q, &g);
	} else {
		next_server(q,
		    rcode == SERVFAIL    ? "the name server says SERVFAIL" :
			rcode == REFUSED ? "the name server says REFUSED" :
					   "the name server cannot answer");
	}
}

/* Strangers may have sent a flood before the answer: DATAGRAMS a turn are read,
 * until one has ended the question here.  An error is what the kernel was told
 * of our datagram: nobody listens there (ECONNREFUSED), which spares two
 * seconds. */
static void
serve_udp_link(struct link *link)
{
	unsigned char *in = srv.dns.in;
	ssize_t got = 0;

	for (int i = 0; i < DATAGRAMS && link->q != NULL && got >= 0; i++) {
		got = recv(link->c.fd, in, MESSAGE_MAX, MSG_DONTWAIT);
		if (got >= 0)
			take_message(link, in, (size_t)got);
		else if (errno != EAGAIN && errno != EINTR)
			next_server(link->q, say_errno(link->q, errno));
	}
}

/* After TC: connect, ask, and take the one reply (RFC 7766 5).  deaf says that
 * the connection is still being made.  The buffer grows to the length that the
 * reply begins with.  A message in it stays there when take_message() has ended
 * the question: dns_reap() frees it, at the end of the turn.  What is not our
 * reply breaks it off: here nobody has forged it, and no other will come. */
static void
serve_tcp_link(struct link *link)
{
	struct conn *c = &link->c;
	size_t len = 0;

	if (c->deaf) {
		int why = net_connected(c);

		if (why != 0)
			next_server(link->q, say_errno(link->q, why));
		else /* c->out is empty, and has room for any */
			put_stream(c, srv.dns.out, make_query(link->q));
		return;
	}
	enum io got = net_read(c);
	const unsigned char *message = stream_message(c, &len);

	if (len + 2 > c->in.cap && !buf_size(&c->in, len + 2))
		got = IO_ERROR;
	if (message != NULL)
		take_message(link, message, len);
	if (link->q != NULL &&
	    (message != NULL || got == IO_EOF || got == IO_ERROR))
		next_server(link->q, "the name server breaks off");
}

static void
serve_link(struct link *link)
{
	if (link->q == NULL)
		return;
	if (link->c.late) {
		next_server(link->q,
		    link->strange ? "the name server answers something else" :
				    "the name server does not answer");
	} else if (link->c.revents != 0 && link->q->stream) {
		serve_tcp_link(link);
	} else if (link->c.revents != 0) {
		serve_udp_link(link);
	}
}

/* ---- the outside --------------------------------------------------------- */

/* What fails at once looks like what fails later, so that callers have one way
 * to hear of it: NULL is for a lack of memory alone. */
struct lookup *
dns_ask(const char *name, enum rr_type type)
{
	struct dns *dns = &srv.dns;
	struct question *q = calloc(1, sizeof(*q));

	if (q == NULL)
		return NULL;
	q->l.type = type;
	snprintf(q->l.name, sizeof(q->l.name), "%s", name);
	const char *what = zone_name(name, NULL, &q->name);

	if (what != NULL) {
		finish(q, LOOKUP_NXDOMAIN, what); /* nobody can have it */
	} else if (known(q)) {
		return &q->l;
	} else if (dns->n_pending >= LOOKUPS_MAX) {
		finish(q, LOOKUP_FAILED, "too many look-ups at once");
	} else {
		if (dns->pending == NULL)
			dns->end = &dns->pending;
		*dns->end = q;
		dns->end = &q->next;
		dns->n_pending++;
		srv.net.wake = 0; /* dns_serve() opens its socket: soon */
	}
	return &q->l;
}

void
dns_drop(struct lookup *l)
{
	struct question *q = (struct question *)l;

	if (l == NULL)
		return;
	unlist(q);
	free(l->answers);
	free(q);
}

/* Those who wait for a link come last: then they get those that this turn has
 * given up, and a name to which a CNAME has just led is asked for at once. */
void
dns_serve(void)
{
	struct dns *dns = &srv.dns;
	struct question *next;

	for (struct conn *c = net_next(KIND_DNS, NULL); c != NULL;
	     c = net_next(KIND_DNS, c)) {
		if (c->listening)
			serve_listener(c);
		else if (c->client)
			serve_client(c);
		else
			serve_link((struct link *)c);
	}
	for (struct question *q = dns->pending; q != NULL; q = next) {
		next = q->next; /* start() may end it */
		if (q->link == NULL && dns->n_links < LINKS_MAX)
			start(q);
	}
}

/* A link that net_settle() closed by itself, because the question could not be
 * written, say, has not ended its look-up.  (A listener is no link, but a
 * struct conn alone: net_listen().) */
void
dns_reap(void)
{
	struct conn *c;

	while ((c = net_gone(KIND_DNS)) != NULL) {
		struct link *link = (struct link *)c;

		if (!c->listening && link->q != NULL)
			link_drop(link->q); /* it asks again, next turn */
		net_free(c);
		free(c);
	}
}
