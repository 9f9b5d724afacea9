/*
 * route.c -- who takes mail for a domain, in which order, and why.
 *
 * What this is
 *	RFC 5321 5.1 as data: the mail hosts that the DNS names, by preference,
 *	with every address of each, and the reason for each that is left out.
 * Call it in this order
 *	route_begin(), route_step() until it knows, route_print(),
 *	route_free().
 * A typical sequence, with break dns_ask, break route_end in gdb
 *	relay_open -> route_begin -> dns_ask;  turns later
 *	relay_look -> route_step -> route_judge -> route_end
 * Always true
 *	A route is complete before anything is connected.
 *	Neither we nor a host that is not better than us is ever tried; it is
 *	in the route, with the reason why it is left out.
 *	A failure of the DNS is temporary, whatever it was.
 * What it does not do
 *	Remember routes: the resolver's cache does, and knows for how long.
 */
#include <assert.h>
#include <ifaddrs.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "mailserv.h"

enum {
	HOSTS_MAX = 64,     /* looked up: so much may a stranger's MX ask */
	HOST_ADDRESSES = 8, /* of a host and family; the DNS rotates them */
	HOPS_MAX = 64,      /* tried in a pass: all silent, half an hour */
};

/* ---- routes: who is named ------------------------------------------------ */

/* Why hosts are left out.  cut_ourselves() compares the first by where it lies,
 * not by its words: it may stand here only. */
static const char ourselves[] = "that is ourselves (RFC 5321 5.1)";
static const char no_memory[] = "out of memory";

static void
route_end(struct route *r, enum route_state state, const char *status,
    const char *reason)
{
	r->state = state;
	snprintf(r->status, sizeof(r->status), "%s", status);
	snprintf(r->reason, sizeof(r->reason), "%s", reason);
}

/* One more host; route_name_hosts() has made room.  The name is not copied: it
 * lies in the MX answer, or in the route, which last as long. */
static void
route_add_host(struct route *r, const char *name, unsigned preference)
{
	r->hosts[r->n_hosts++] = (struct mail_host){ .name = name,
		.preference = preference,
		.draw = random_u64() };
}

/* RFC 5321 5.1: by preference, and equal ones in random order.  Each has drawn
 * once, before: did the comparison throw the dice, a < b < c < a could happen,
 * and qsort(3) may then do anything. */
static int
compare_hosts(const void *one, const void *two)
{
	const struct mail_host *a = one, *b = two;

	if (a->preference != b->preference)
		return a->preference < b->preference ? -1 : 1;
	return (a->draw > b->draw) - (a->draw < b->draw);
}

/* Ask for a host's addresses, both kinds at once.  An address is no name: it
 * would make a top-level domain of its last number (RFC 1123 2.1). */
static void
host_ask(struct mail_host *h)
{
	union address literal;

	if (address_parse(h->name, srv.conf->smtp_port, &literal)) {
		h->left_out = "an address where a name must be";
		return;
	}
	h->a = dns_ask(h->name, RR_A);
	h->aaaa = dns_ask(h->name, RR_AAAA);
	if (h->a == NULL || h->aaaa == NULL)
		h->left_out = no_memory;
}

/* Put the hosts in order and ask for their addresses.  Where the limit cuts,
 * the last one stays, because the owner of the domain has meant it for the
 * day on which all others are down. */
static void
route_ask_hosts(struct route *r)
{
	qsort(r->hosts, r->n_hosts, sizeof(*r->hosts), compare_hosts);
	for (size_t i = 0; i < r->n_hosts; i++)
		if (i < HOSTS_MAX - 1 || i == r->n_hosts - 1)
			host_ask(&r->hosts[i]);
		else
			r->hosts[i].left_out = "too many mail hosts";
}

/* Take the hosts from the MX answer.  A null MX alone says that there are
 * none (RFC 7505 3); one beside others is a mistake, and is ignored. */
static void
route_take_mx(struct route *r)
{
	const struct lookup *mx = r->mx;

	for (size_t i = 0; i < mx->n; i++)
		if (mx->answers[i].name[0] != '\0')
			route_add_host(r, mx->answers[i].name,
			    mx->answers[i].preference);
	r->source = r->n_hosts == mx->n ? "mail hosts (MX)" :
	    r->n_hosts > 0 ? "mail hosts (MX), and a null MX, ignored" :
			     "null MX (RFC 7505)";
	if (r->n_hosts == 0)
		route_end(r, ROUTE_IMPOSSIBLE, "5.1.10",
		    "the domain takes no mail (null MX, RFC 7505 3)");
}

/* The MX look-up has ended: find out who is named.  Only an answer without MX
 * means the domain itself.  A failure must not: mail would go to the domain's
 * own address, to its web server perhaps, whenever the DNS is slow. */
static void
route_name_hosts(struct route *r)
{
	const struct lookup *mx = r->mx;

	if (mx->state == LOOKUP_NXDOMAIN)
		route_end(r, ROUTE_IMPOSSIBLE, "5.1.2", "no such domain");
	else if (mx->state == LOOKUP_FAILED)
		route_end(r, ROUTE_UNKNOWN, "4.4.3", mx->why);
	else if ((r->hosts = calloc(mx->n + 1, sizeof(*r->hosts))) == NULL)
		route_end(r, ROUTE_UNKNOWN, "4.3.0", no_memory);
	else if (mx->n > 0)
		route_take_mx(r);
	else {
		r->source = "no MX, so the domain itself (implicit MX)";
		route_add_host(r, r->domain, 0);
	}
	if (r->state == ROUTE_ASKING)
		route_ask_hosts(r);
}

/* ---- routes: addresses, and what is left out ----------------------------- */

static bool
is_in(const struct lookup *l, enum lookup_state state)
{
	return l != NULL && l->state == state;
}

/* How many of a look-up's addresses count. */
static size_t
usable(const struct lookup *l)
{
	if (!is_in(l, LOOKUP_FOUND))
		return 0;
	return l->n < HOST_ADDRESSES ? l->n : HOST_ADDRESSES;
}

/* One more hop; route_build() has made room.  An address that is there
 * already is tried once, at its better preference: were it silent, the second
 * time would cost timeout_connect for nothing. */
static void
route_add_hop(struct route *r, const struct mail_host *h,
    const union address *a)
{
	struct hop *hop = &r->hops[r->n];

	*hop = (struct hop){ .host = h, .addr = *a, .left_out = h->left_out };
	for (size_t i = 0; i < r->n; i++)
		if (r->hops[i].addr.any.sa_family != 0 &&
		    address_equal(&r->hops[i].addr, a))
			hop->left_out = "its address is above";
	r->n++;
}

/* A hop for every address that a look-up has found, in its order. */
static void
add_addresses(struct route *r, const struct mail_host *h,
    const struct lookup *l)
{
	for (size_t i = 0; i < usable(l); i++) {
		const unsigned char *octets = l->answers[i].addr;
		union address a = { 0 };

		a.any.sa_family = l->type == RR_AAAA ? AF_INET6 : AF_INET;
		if (l->type == RR_AAAA)
			memcpy(&a.v6.sin6_addr, octets, 16);
		else
			memcpy(&a.v4.sin_addr, octets, 4);
		address_set_port(&a, srv.conf->smtp_port);
		route_add_hop(r, h, &a);
	}
}

/* Why does this host have no address?  NULL: it has.  Of its two look-ups the
 * one that failed is told of, because it is the one that time may mend. */
static const char *
why_no_address(const struct mail_host *h)
{
	if (h->left_out != NULL || h->literal.any.sa_family != 0)
		return h->left_out;
	if (usable(h->a) + usable(h->aaaa) > 0)
		return NULL;
	if (is_in(h->a, LOOKUP_FAILED))
		return h->a->why;
	if (is_in(h->aaaa, LOOKUP_FAILED))
		return h->aaaa->why;
	if (is_in(h->a, LOOKUP_NXDOMAIN))
		return "there is no such host";
	return "it has no address";
}

/* Make the hops: all addresses of all hosts.  False: no memory.  A host without
 * any gets a hop, too, so that -r shows it with its reason.  IPv4 goes first,
 * because an IPv6 that is set up, and leads nowhere, would cost each pass its
 * timeout_connect.  Exercise: try both at once. */
static bool
route_build(struct route *r)
{
	size_t room = r->n_hosts * 2 * HOST_ADDRESSES + 1; /* never 0 */

	r->hops = calloc(room, sizeof(*r->hops));
	for (size_t i = 0; i < r->n_hosts && r->hops != NULL; i++) {
		struct mail_host *h = &r->hosts[i];

		h->left_out = why_no_address(h);
		if (h->left_out != NULL || h->literal.any.sa_family != 0)
			route_add_hop(r, h, &h->literal);
		else {
			add_addresses(r, h, h->a);
			add_addresses(r, h, h->aaaa);
		}
	}
	return r->hops != NULL;
}

/* Does an address mean any? */
static bool
is_wildcard(const union address *a)
{
	if (a->any.sa_family == AF_INET6)
		return IN6_IS_ADDR_UNSPECIFIED(&a->v6.sin6_addr);
	return a->v4.sin_addr.s_addr == 0;
}

/* Is it, but for the port, an address of this machine? */
static bool
is_this_machine(const union address *a, const struct ifaddrs *own)
{
	for (; own != NULL; own = own->ifa_next) {
		union address one = { 0 };

		if (own->ifa_addr == NULL ||
		    own->ifa_addr->sa_family != a->any.sa_family)
			continue;
		memcpy(&one, own->ifa_addr, address_len(a));
		address_set_port(&one, address_port(a));
		if (address_equal(&one, a))
			return true;
	}
	return address_is_loopback(a) || is_wildcard(a);
}

/* Our addresses are asked for each time, because they come and go.  It takes
 * 40 us: for the 1,024 hops of 64 hosts with 16 addresses each, 40 ms in which
 * everybody waits.  Exercise: ask once a route. */
bool
route_listens(const union address *listener, const union address *a)
{
	struct ifaddrs *own = NULL;

	if (!is_wildcard(listener))
		return address_equal(listener, a);
	if (getifaddrs(&own) < 0)
		return address_is_loopback(a);
	bool found = is_this_machine(a, own);

	freeifaddrs(own);
	return found;
}

/* Would a connection to this address reach a listener of ours?  It would go to
 * smtp_port, so that a listener elsewhere does not count: two servers on one
 * machine may pass mail to each other.  0.0.0.0 leads to this machine, so that
 * it counts as us, whichever of its addresses we listen on. */
static bool
is_our_address(const union address *a)
{
	const struct conf *conf = srv.conf;

	for (size_t i = 0; i < conf->listen[KIND_SMTP].n; i++) {
		const union address *listener = &conf->listen[KIND_SMTP].v[i];

		if (address_port(listener) == conf->smtp_port &&
		    (is_wildcard(a) || route_listens(listener, a)))
			return true;
	}
	return false;
}

/* By name, also at the end of a CNAME chain, or by address? */
static bool
is_ourselves(const struct hop *hop)
{
	const struct mail_host *h = hop->host;

	assert(h != NULL);
	const char *name = h->a != NULL ? h->a->canonical : h->name;

	return strcasecmp(h->name, srv.conf->hostname) == 0 ||
	    strcasecmp(name, srv.conf->hostname) == 0 ||
	    (hop->addr.any.sa_family != 0 && is_our_address(&hop->addr));
}

/*
 * RFC 5321 5.1: leave out ourselves, and all who are not better than we are,
 * because they know no other way than we do, or send the message back to us.
 * Returns our own preference; UINT_MAX: we are not named.
 *
 *	10 mail1   tried
 *	20 mail2   that is ourselves: 20 is ours
 *	20 mail3   left out: by this same rule it can only send to mail1
 *	30 mail4   left out: while mail1 is down, it sends to us
 *
 * In two passes, because mail3 may come before mail2.
 */
static unsigned
cut_ourselves(struct route *r)
{
	unsigned ours = UINT_MAX;

	for (size_t i = 0; i < r->n; i++) {
		struct hop *hop = &r->hops[i];

		if (is_ourselves(hop))
			hop->left_out = ourselves;
		if (hop->left_out == ourselves && hop->host->preference < ours)
			ours = hop->host->preference;
	}
	for (size_t i = 0; i < r->n; i++)
		if (r->hops[i].host->preference >= ours &&
		    r->hops[i].left_out != ourselves)
			r->hops[i].left_out = "not better than ourselves";
	return ours;
}

/* Leave no more than HOPS_MAX, the last one among them, for the day on which
 * the others are down.  How many were there to try? */
static size_t
cut_many(struct route *r)
{
	size_t tried = 0, last = 0;

	for (size_t i = 0; i < r->n; i++)
		if (r->hops[i].left_out == NULL)
			last = i;
	for (size_t i = 0; i < r->n; i++)
		if (r->hops[i].left_out == NULL && ++tried >= HOPS_MAX &&
		    i != last)
			r->hops[i].left_out = "too many addresses";
	return tried;
}

/* Is it certain that there are no such records? */
static bool
has_none(const struct lookup *l)
{
	return l != NULL && l->state != LOOKUP_FAILED && l->n == 0;
}

/*
 * All answers are here: is there anybody to try, now or ever?
 *
 *	a hop that is not left out               found
 *	none, and nobody better than us          impossible: a loop
 *	no MX, and the domain has no address     impossible: nobody is meant
 *	else                                     unknown
 *
 * The last are, say, an MX whose hosts have no address: a mistake in a zone,
 * which somebody mends before the mail of five days is returned.
 */
static void
route_judge(struct route *r)
{
	const struct mail_host *best = &r->hosts[0];
	char reason[REASON_MAX];

	if (!route_build(r)) {
		route_end(r, ROUTE_UNKNOWN, "4.3.0", no_memory);
		return;
	}
	unsigned ours = cut_ourselves(r);

	snprintf(reason, sizeof(reason), "no mail host to try; %.60s: %.99s",
	    best->name, r->hops[0].left_out != NULL ? r->hops[0].left_out : "");
	if (cut_many(r) > 0)
		route_end(r, ROUTE_FOUND, "", "");
	else if (ours <= best->preference)
		route_end(r, ROUTE_IMPOSSIBLE, "5.4.6",
		    "mail for this domain would come back to us (a loop)");
	else if (has_none(r->mx) && has_none(best->a) && has_none(best->aaaa))
		route_end(r, ROUTE_IMPOSSIBLE, "5.1.2",
		    "the domain has neither mail host nor address");
	else
		route_end(r, ROUTE_UNKNOWN, "4.4.4", reason);
}

/* ---- routes: from beginning to end --------------------------------------- */

/* RFC 5321 4.1.3: an address literal names its only host.  The DNS is not
 * asked, so that route_step() has nothing to wait for, and judges at once. */
static void
route_literal(struct route *r)
{
	r->source = "an address literal";
	r->hosts = calloc(1, sizeof(*r->hosts));
	if (r->hosts == NULL) {
		route_end(r, ROUTE_UNKNOWN, "4.3.0", no_memory);
		return;
	}
	route_add_host(r, r->domain, 0);
	if (address_literal(r->domain, &r->hosts[0].literal) == NULL)
		route_end(r, ROUTE_IMPOSSIBLE, "5.1.3", "no such address");
	address_set_port(&r->hosts[0].literal, srv.conf->smtp_port);
}

struct route *
route_begin(const char *domain)
{
	struct route *r = calloc(1, sizeof(*r));

	if (r == NULL)
		return NULL;
	r->source = "the DNS was asked";
	snprintf(r->domain, sizeof(r->domain), "%s", domain);
	if (strlen(domain) >= sizeof(r->domain)) {
		route_end(r, ROUTE_IMPOSSIBLE, "5.1.2",
		    "no name is so long (RFC 1035 2.3.4)");
	} else if (domain[0] == '[') {
		route_literal(r);
	} else if ((r->mx = dns_ask(r->domain, RR_MX)) == NULL) {
		free(r);
		return NULL;
	}
	return r;
}

/* relay.c asks in every turn, so that the resolver need not know who waits:
 * what ends a look-up, a reply or its deadline, brings a turn. */
enum route_state
route_step(struct route *r)
{
	if (r->state != ROUTE_ASKING || is_in(r->mx, LOOKUP_PENDING))
		return r->state;
	if (r->hosts == NULL)
		route_name_hosts(r);
	for (size_t i = 0; i < r->n_hosts; i++)
		if (is_in(r->hosts[i].a, LOOKUP_PENDING) ||
		    is_in(r->hosts[i].aaaa, LOOKUP_PENDING))
			return r->state;
	if (r->state == ROUTE_ASKING)
		route_judge(r);
	return r->state;
}

void
route_free(struct route *r)
{
	for (size_t i = 0; i < r->n_hosts; i++) {
		dns_drop(r->hosts[i].a);
		dns_drop(r->hosts[i].aaaa);
	}
	dns_drop(r->mx);
	free(r->hosts);
	free(r->hops);
	free(r);
}

/* "10 mail.lab.test [192.0.2.1]:25", and why it is left out. */
static void
print_hop(const struct hop *hop)
{
	char text[PEER_TEXT] = "(no address)";

	if (hop->addr.any.sa_family != 0)
		address_format(&hop->addr, true, text);
	printf("%u %s %s%s%s\n", hop->host->preference, hop->host->name, text,
	    hop->left_out != NULL ? " left out: " : "",
	    hop->left_out != NULL ? hop->left_out : "");
}

/* "10 mail.lab.test (2 more addresses) left out: ...": they have no hops. */
static void
print_unused(const struct mail_host *h, const struct lookup *l)
{
	if (usable(l) == HOST_ADDRESSES && l->n > HOST_ADDRESSES)
		printf("%u %s (%zu more addresses) left out:"
		       " %d of a host are enough\n",
		    h->preference, h->name, l->n - HOST_ADDRESSES,
		    HOST_ADDRESSES);
}

void
route_print(const struct route *r)
{
	printf("%s: %s\n", r->domain, r->source);
	for (int left_out = 0; left_out <= 1; left_out++)
		for (size_t i = 0; i < r->n; i++)
			if ((r->hops[i].left_out != NULL) == left_out)
				print_hop(&r->hops[i]);
	for (size_t i = 0; i < r->n_hosts; i++) {
		print_unused(&r->hosts[i], r->hosts[i].a);
		print_unused(&r->hosts[i], r->hosts[i].aaaa);
	}
	if (r->state == ROUTE_IMPOSSIBLE)
		printf("undeliverable: %s %s\n", r->status, r->reason);
	else if (r->state == ROUTE_UNKNOWN)
		printf("to be tried later: %s %s\n", r->status, r->reason);
}
