/*
 * net.c -- the ground that the other files stand on.
 *
 * What this is
 *	The poll set and the connections in it, the one buffer type, the
 *	clock, the log, and the few small things that several files need.
 * Call it in this order
 *	net_start(); net_listen() for every port; then, every turn,
 *	net_wait(), the serve functions, net_settle(), the reap functions.
 * A typical sequence, with break net_settle in gdb
 *	net_wait -> smtp_serve -> net_accept -> ... -> net_settle -> net_gone
 * Always true
 *	net_wait() alone waits for a peer, and in a turn it alone reads the
 *	clock: before poll(), and after it.
 *	net_settle() alone writes to a session's socket and closes it.
 *	A connection is on the ready list when it was served or touched, and
 *	only then can it have changed.
 *	srv.net.wake is never later than the earliest deadline.
 * What it does not do
 *	epoll: poll() walks all connections, and so may we.  Exercise: replace
 *	it, and measure with 10 and 10,000 clients.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include "mailserv.h"

enum {
	BACKLOG = 4096,  /* clients that knock while a turn lasts */
	REFUSALS = 64,   /* in one call, so that a flood does not hold us */
	DISCARDS = 1536, /* of 4 KiB: 6 MiB, what Linux holds of one peer */
	LOG_LINE = 4096, /* a longer one is cut here */
	LONG_TURN = 5,   /* seconds: no turn of ours takes so long */
};
_Static_assert(ADDRESS_SLOTS == 1 << 16, "address_counter() takes 16 bits");

static const bool stress = STRESS;

/* ---- the clock ----------------------------------------------------------- */

/* One of the kernel's clocks, in milliseconds. */
static msec
clock_msec(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (msec)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void
clock_read(void)
{
	srv.now = srv.frozen != 0 ? srv.frozen :
				    clock_msec(CLOCK_MONOTONIC) - srv.lost;
	srv.wall = clock_msec(CLOCK_REALTIME);
}

/* A turn of over LONG_TURN was a debugger's, or a stopped machine's: take it
 * out of srv.now, or every client would be late when you press `c`. */
static void
clock_forgive(void)
{
	msec begun = srv.now;

	clock_read();
	if (srv.frozen != 0 || srv.now - begun <= LONG_TURN * SECOND)
		return;
	log_event(PART_MAIN, "-", "the turn took %lld ms: deadlines move",
	    (long long)(srv.now - begun));
	srv.lost += srv.now - begun;
	srv.now = begun;
}

/* ---- log and trace ------------------------------------------------------- */

static const char *const part_name[] = {
	[PART_SMTP] = "smtp",
	[PART_POP3] = "pop3",
	[PART_DNS] = "dns",
	[PART_QUEUE] = "queue",
	[PART_MAIN] = "main",
};
_Static_assert((int)PART_MAIN == (int)N_KINDS, "a part for every kind");

/* Append text to a line of LOG_LINE octets, harmless: a control character
 * could end the line or colour the reader's terminal.  Six octets are kept
 * free: an escape, its NUL, and the blank or LF that comes behind the text. */
static size_t
put_safe(char *line, size_t len, const char *text)
{
	for (; *text != '\0' && len + 6 < LOG_LINE; text++) {
		unsigned char ch = (unsigned char)*text;

		if (ch >= ' ' && ch < 127)
			line[len++] = *text;
		else
			len += (size_t)sprintf(line + len, "\\%03o", ch);
	}
	return len;
}

/* Write one whole line: time, part, id, text. */
__attribute__((format(printf, 3, 0))) static void
log_text(enum part part, const char *id, const char *fmt, va_list ap)
{
	char line[LOG_LINE], text[LOG_LINE];
	time_t secs = (time_t)(srv.wall / 1000);
	struct tm tm;

	if (log_level < 0)
		return;
	vsnprintf(text, sizeof(text), fmt, ap);
	gmtime_r(&secs, &tm);
	size_t len = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &tm);

	len += (size_t)sprintf(line + len, ".%03dZ %s ", (int)(srv.wall % 1000),
	    part_name[part]);
	len = put_safe(line, len, id);
	line[len++] = ' ';
	len = put_safe(line, len, text);
	line[len++] = '\n';
	fwrite(line, 1, len, stderr);
}

void
log_event(enum part part, const char *id, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_text(part, id, fmt, ap);
	va_end(ap);
}

void
log_conn(const struct conn *c, const char *fmt, ...)
{
	char id[24];
	va_list ap;

	snprintf(id, sizeof(id), "%lu", c->id);
	va_start(ap, fmt);
	log_text((enum part)c->kind, id, fmt, ap);
	va_end(ap);
}

void
trace(const struct conn *c, char way, const char *line, const char *rfc)
{
	if (log_level >= 1)
		log_conn(c, "%c %s    (%s)", way, line, rfc);
}

/* A fault in a file: to the user who starts us, or into the log. */
__attribute__((format(printf, 3, 0))) static void
tell_fault(struct spot at, const char *mark, const char *fmt, va_list ap)
{
	char text[LOG_LINE];

	vsnprintf(text, sizeof(text), fmt, ap);
	if (srv.serving)
		log_event(PART_MAIN, "-", "%s:%u: %s%s", at.file, at.line, mark,
		    text);
	else if (log_level >= 0)
		fprintf(stderr, "%s:%u: %s%s\n", at.file, at.line, mark, text);
}

void
complain(struct diag *d, struct spot at, const char *fmt, ...)
{
	va_list ap;

	d->errors++;
	va_start(ap, fmt);
	tell_fault(at, "", fmt, ap);
	va_end(ap);
}

void
complain_mildly(struct diag *d, struct spot at, const char *fmt, ...)
{
	va_list ap;

	d->warnings++;
	va_start(ap, fmt);
	if (!d->quiet)
		tell_fault(at, "warning: ", fmt, ap);
	va_end(ap);
}

/* ---- buffers ------------------------------------------------------------- */

size_t
buf_used(const struct buf *b)
{
	return b->end - b->start;
}

size_t
buf_room(const struct buf *b)
{
	return b->cap - buf_used(b);
}

bool
buf_size(struct buf *b, size_t cap)
{
	size_t used = buf_used(b);

	if (cap == b->cap)
		return true;
	if (used > cap)
		return false;
	char *data = malloc(cap);

	if (data == NULL)
		return false;
	if (used > 0)
		memcpy(data, b->data + b->start, used);
	free(b->data);
	b->data = data;
	b->cap = cap;
	b->start = 0;
	b->end = used;
	return true;
}

void
buf_free(struct buf *b)
{
	free(b->data);
	*b = (struct buf){ 0 };
}

/* Slide the unread octets to the front, to make room at the end. */
static void
buf_compact(struct buf *b)
{
	if (b->start == 0)
		return;
	memmove(b->data, b->data + b->start, buf_used(b));
	b->end -= b->start;
	b->start = 0;
}

bool
buf_put(struct buf *b, const char *data, size_t len)
{
	if (len > buf_room(b))
		return false;
	if (len == 0)
		return true; /* there may be no memory yet */
	if (len > b->cap - b->end)
		buf_compact(b);
	memcpy(b->data + b->end, data, len);
	b->end += len;
	return true;
}

/* What cannot become a line of max octets any more is thrown away as it comes,
 * so that a small buffer survives a line without an end. */
enum line
buf_line(struct buf *b, size_t max, char **line, size_t *len)
{
	char *text = b->data + b->start;
	size_t used = buf_used(b);
	char *newline = used > 0 ? memchr(text, '\n', used) : NULL;

	if (newline == NULL) {
		b->skipping |= used >= max;
		if (b->skipping)
			b->start = b->end = 0;
		return LINE_NONE;
	}
	size_t whole = (size_t)(newline + 1 - text);
	bool too_long = b->skipping || whole > max;
	bool bare = whole == 1 || newline[-1] != '\r';

	b->start += whole;
	b->skipping = false;
	*line = text;
	*len = bare ? whole - 1 : whole - 2;
	text[*len] = '\0';
	if (too_long)
		return LINE_TOO_LONG;
	return bare ? LINE_BARE_LF : LINE_OK;
}

/* Turn the result of read() or write() into one of four words. */
static enum io
io_result(ssize_t n)
{
	if (n > 0)
		return IO_OK;
	if (n == 0)
		return IO_EOF;
	return errno == EAGAIN || errno == EINTR ? IO_AGAIN : IO_ERROR;
}

/* Does c read what comes? */
static bool
hears(const struct conn *c)
{
	return !c->deaf && !c->doomed && (c->listening || buf_room(&c->in) > 0);
}

/* A hang-up is something to read as well: read() tells which one. */
enum io
net_read(struct conn *c)
{
	struct buf *b = &c->in;

	if (!(c->revents & ~POLLOUT) || !hears(c))
		return IO_AGAIN;
	buf_compact(b);
	size_t room = b->cap - b->end;
	ssize_t n = read(c->fd, b->data + b->end, stress ? 1 : room);

	if (n > 0)
		b->end += (size_t)n;
	return io_result(n);
}

/* Send what waits, once.  What does not fit in the socket stays. */
static enum io
net_write(struct conn *c)
{
	struct buf *b = &c->out;
	size_t len = stress ? 1 : buf_used(b);
	ssize_t n = send(c->fd, b->data + b->start, len, MSG_NOSIGNAL);

	if (n > 0)
		b->start += (size_t)n;
	if (b->start == b->end)
		b->start = b->end = 0;
	return io_result(n);
}

bool
net_say(struct conn *c, const char *line, const char *rfc)
{
	trace(c, '>', line, rfc);
	return buf_put(&c->out, line, strlen(line)) &&
	    buf_put(&c->out, "\r\n", 2);
}

/* ---- addresses ----------------------------------------------------------- */

socklen_t
address_len(const union address *a)
{
	return a->any.sa_family == AF_INET6 ? sizeof(a->v6) : sizeof(a->v4);
}

unsigned
address_port(const union address *a)
{
	return ntohs(
	    a->any.sa_family == AF_INET6 ? a->v6.sin6_port : a->v4.sin_port);
}

void
address_set_port(union address *a, unsigned port)
{
	if (a->any.sa_family == AF_INET6)
		a->v6.sin6_port = htons((uint16_t)port);
	else
		a->v4.sin_port = htons((uint16_t)port);
}

/* Digits only, 1 to 65535; 0 for anything else. */
static unsigned
port_parse(const char *text)
{
	size_t digits = strspn(text, "0123456789");
	unsigned long port = strtoul(text, NULL, 10);

	if (digits == 0 || digits > 5 || text[digits] != '\0' || port > 65535)
		return 0;
	return (unsigned)port;
}

bool
address_host(const char *text, size_t len, union address *addr)
{
	char host[PEER_TEXT];

	*addr = (union address){ 0 };
	if (len >= sizeof(host))
		return false;
	memcpy(host, text, len);
	host[len] = '\0';
	if (inet_pton(AF_INET, host, &addr->v4.sin_addr) == 1)
		addr->any.sa_family = AF_INET;
	else if (inet_pton(AF_INET6, host, &addr->v6.sin6_addr) == 1)
		addr->any.sa_family = AF_INET6;
	return addr->any.sa_family != 0;
}

bool
address_parse(const char *text, unsigned port, union address *addr)
{
	bool brackets = text[0] == '[';
	const char *host = text + brackets;
	size_t len = strcspn(host, brackets ? "]" : ":");
	const char *end = host + len; /* of the host: ":port" may follow */

	if (brackets && *end++ != ']')
		return false;
	if (!brackets && strchr(end, ':') != strrchr(end, ':')) {
		len = strlen(host); /* IPv6, and no port */
		end = host + len;
	}
	if (*end != '\0')
		port = *end == ':' ? port_parse(end + 1) : 0;
	if (port == 0 || !address_host(host, len, addr))
		return false;
	address_set_port(addr, port);
	return !brackets || addr->any.sa_family == AF_INET6;
}

const char *
address_literal(const char *text, union address *a)
{
	bool v6 = strncasecmp(text, "[IPv6:", 6) == 0;
	const char *host = text + (v6 ? 6 : 1);
	size_t len = strcspn(host, "]");
	size_t groups = memchr(host, '.', len) != NULL; /* IPv4's are two */

	for (size_t i = 0; i < len; i++)
		groups += host[i - 1] == ':' && host[i] != ':';
	/* Seven of eight are never written, since "::" is two or more: RFC 5321
	 * 4.1.3.  (The first one follows the tag's colon, at host[-1].) */
	if (host[len] == '\0' || groups == 7 || !address_host(host, len, a) ||
	    (a->any.sa_family == AF_INET6) != v6)
		return NULL;
	return host + len + 1;
}

void
address_format(const union address *a, bool with_port, char *text)
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (a->any.sa_family == AF_INET6)
		inet_ntop(AF_INET6, &a->v6.sin6_addr, host, sizeof(host));
	else
		inet_ntop(AF_INET, &a->v4.sin_addr, host, sizeof(host));
	if (with_port)
		snprintf(text, PEER_TEXT, "[%s]:%u", host, address_port(a));
	else
		snprintf(text, PEER_TEXT, "[%s]", host);
}

void
address_octets(const union address *a, unsigned char octets[16])
{
	memset(octets, 0, 16);
	if (a->any.sa_family == AF_INET6) {
		memcpy(octets, &a->v6.sin6_addr, 16);
		return;
	}
	octets[10] = octets[11] = 0xff;
	memcpy(octets + 12, &a->v4.sin_addr, 4);
}

bool
address_equal(const union address *a, const union address *b)
{
	unsigned char one[16], two[16];

	address_octets(a, one);
	address_octets(b, two);
	return memcmp(one, two, 16) == 0 && address_port(a) == address_port(b);
}

/* Whole octets, then the first bits of the next one; of a /128 there is none,
 * and it is not looked at. */
bool
cidr_match(const struct cidr *list, size_t n, const union address *a)
{
	unsigned char octets[16];

	address_octets(a, octets);
	for (size_t i = 0; i < n; i++) {
		unsigned whole = list[i].bits / 8, rest = list[i].bits % 8;
		unsigned mask = 0xffu & ~(0xffu >> rest);

		if (memcmp(octets, list[i].net, whole) == 0 &&
		    (rest == 0 ||
			((octets[whole] ^ list[i].net[whole]) & mask) == 0))
			return true;
	}
	return false;
}

bool
address_is_loopback(const union address *a)
{
	static const struct cidr loopback[] = {
		{ { [10] = 0xff, 0xff, 127 }, 104 }, /* 127.0.0.0/8 */
		{ { [15] = 1 }, 128 },               /* ::1 */
	};

	return cidr_match(loopback, NELEM(loopback), a);
}

/* ---- connections --------------------------------------------------------- */

void
net_start(void)
{
	srv.net.wake = NEVER;
	srv.net.salt = random_u64();
	srv.net.spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
	clock_read();
}

/* Make room for one more in the poll set, in all three arrays.  Where memory
 * ends between two of them the first is larger than cap says: no harm. */
static bool
pollset_grow(struct net *net)
{
	size_t cap = net->cap > 0 ? net->cap * 2 : 64;
	struct pollfd *fds = realloc(net->fds, cap * sizeof(*fds));

	if (fds == NULL)
		return false;
	net->fds = fds;
	struct conn **conns = realloc(net->conns, cap * sizeof(*conns));

	if (conns == NULL)
		return false;
	net->conns = conns;
	msec *deadlines = realloc(net->deadlines, cap * sizeof(*deadlines));

	if (deadlines == NULL)
		return false;
	net->deadlines = deadlines;
	net->cap = cap;
	return true;
}

/* Put fd, which is non-blocking, under c's name into the poll set; c, zeroed
 * by the caller but for its peer, gets its kind, id, deadline NEVER and two
 * buffers of buf_size_each octets (0: none).  False: no memory (ENOMEM); fd is
 * still open, c not in the set. */
static bool
net_add(struct conn *c, int fd, enum kind kind, size_t buf_size_each)
{
	struct net *net = &srv.net;

	if (net->n == net->cap && !pollset_grow(net))
		return false;
	if (buf_size_each > 0 &&
	    (!buf_size(&c->in, buf_size_each) ||
		!buf_size(&c->out, buf_size_each))) {
		net_free(c);
		return false;
	}
	c->fd = fd;
	c->kind = kind;
	c->id = ++net->last_id;
	c->deadline = NEVER;
	address_format(&c->peer, true, c->peer_text);
	c->slot = net->n++;
	net->fds[c->slot] = (struct pollfd){ .fd = fd, .events = POLLIN };
	net->conns[c->slot] = c;
	net->deadlines[c->slot] = NEVER;
	net_touch(c);
	return true;
}

/* Append c to its kind's ready list, once. */
void
net_touch(struct conn *c)
{
	struct net *net = &srv.net;

	if (c->listed || c->fd < 0) /* closed: it is being reaped */
		return;
	c->listed = true;
	c->next_ready = NULL;
	if (net->ready[c->kind] == NULL)
		net->ready[c->kind] = c;
	else
		net->ready_tail[c->kind]->next_ready = c;
	net->ready_tail[c->kind] = c;
}

void
net_drop(struct conn *c)
{
	buf_free(&c->out);
	c->doomed = true;
	net_touch(c);
}

void
net_free(struct conn *c)
{
	buf_free(&c->in);
	buf_free(&c->out);
}

struct conn *
net_listen(enum kind kind, const union address *a, int type)
{
	int one = 1;
	int fd = socket(a->any.sa_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC,
	    0);
	struct conn *c = calloc(1, sizeof(*c));

	if (fd < 0 || c == NULL)
		goto fail;
	/* Else no restart, while a connection of before is in TIME_WAIT. */
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (a->any.sa_family == AF_INET6) /* 0.0.0.0 has its own line */
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	c->listening = true;
	c->peer = *a; /* its own address: it has no peer */
	if (bind(fd, &a->any, address_len(a)) == 0 &&
	    (type == SOCK_DGRAM || listen(fd, BACKLOG) == 0) &&
	    net_add(c, fd, kind, 0))
		return c;
fail:;
	int why = errno;

	if (fd >= 0)
		close(fd);
	free(c);
	errno = why;
	return NULL;
}

/* The counter for an address (IPv6: for its /64, which one host may own).
 * Two addresses that meet in one counter share their max_per_client: the salt
 * makes that chance, not choice, and 128 KiB need no hash table's upkeep.  The
 * highest bits are taken, because a product mixes those best. */
static uint16_t *
address_counter(const union address *a)
{
	unsigned char octets[16];
	uint64_t hash = srv.net.salt;
	size_t from = a->any.sa_family == AF_INET6 ? 0 : 8;

	address_octets(a, octets);
	for (size_t i = from; i < from + 8; i++)
		hash = (hash ^ octets[i]) * 0x9E3779B97F4A7C15u;
	return &srv.net.per_address[hash >> 48];
}

/* Is this one's number of connections limited? */
static bool
is_stranger(const union address *a)
{
	return !address_is_loopback(a) &&
	    !cidr_match(srv.conf->relay_from, srv.conf->n_relay_from, a);
}

/* Throw away what the peer has sent and nobody will read, or the kernel would
 * answer it with a reset, which may overtake our last reply. */
static void
discard_input(int fd)
{
	char waste[4096];

	for (int i = 0; i < DISCARDS; i++)
		if (recv(fd, waste, sizeof(waste), MSG_DONTWAIT) <= 0)
			return;
}

/* Tell a client why it cannot come in, without a session, and hang up. */
static void
refuse(int fd, const char *busy, const char *reason)
{
	char line[REASON_MAX];
	int len = busy == NULL ?
	    0 :
	    snprintf(line, sizeof(line), "%s%s\r\n", busy, reason);

	if (len > 0 &&
	    send(fd, line, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_event(PART_MAIN, "-", "refused unheard: %s", reason);
	discard_input(fd);
	close(fd);
}

/* Nobody can come in while every descriptor is taken, and the knocking would
 * wake poll() for ever: give up the spare one to answer. */
static void
refuse_without_descriptor(struct conn *listener, const char *busy)
{
	close(srv.net.spare);
	int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK);

	if (fd >= 0)
		refuse(fd, busy, "no descriptor is free, try later");
	srv.net.spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
	log_event(PART_MAIN, "-", "refused: no descriptor is free");
}

/* Why this client may not come in, or NULL. */
static const char *
why_not(const union address *peer)
{
	const struct conf *conf = srv.conf;

	if (srv.net.n_clients >= conf->max_clients)
		return "too many connections, try later";
	if (conf->max_per_client > 0 && is_stranger(peer) &&
	    *address_counter(peer) >= conf->max_per_client)
		return "too many connections from your address";
	return NULL;
}

/* Make a session of an accepted descriptor; NULL: no memory. */
static struct conn *
admit(int fd, const union address *peer, enum kind kind, size_t size)
{
	struct conn *c = calloc(1, size);
	int one = 1;

	if (c != NULL)
		c->peer = *peer;
	if (c == NULL || !net_add(c, fd, kind, SMALL_BUF)) {
		free(c);
		return NULL;
	}
	/* A turn's replies leave in one write: Nagle would only delay. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	c->client = true;
	c->counted = is_stranger(peer);
	srv.net.n_clients++;
	if (c->counted)
		++*address_counter(peer);
	return c;
}

/* Who still waits after so many refusals is found in the next turn, because the
 * listener stays ready. */
struct conn *
net_accept(struct conn *listener, size_t size, const char *busy)
{
	if (srv.net.spare < 0) /* another process was quicker to take it */
		srv.net.spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
	for (int i = 0; i < REFUSALS; i++) {
		union address peer = { 0 };
		socklen_t len = sizeof(peer);
		int fd = accept4(listener->fd, &peer.any, &len,
		    SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0) {
			if ((errno == EMFILE || errno == ENFILE) &&
			    srv.net.spare >= 0)
				refuse_without_descriptor(listener, busy);
			return NULL;
		}
		const char *reason = why_not(&peer);

		if (reason == NULL) {
			struct conn *c = admit(fd, &peer, listener->kind, size);

			if (c != NULL)
				return c;
			reason = "out of memory, try later";
		}
		log_conn(listener, "refused: %s", reason);
		refuse(fd, busy, reason);
	}
	return NULL;
}

bool
net_connect(struct conn *c, enum kind kind, const union address *to, int type)
{
	int one = 1;
	int fd = socket(to->any.sa_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC,
	    0);

	if (fd < 0)
		return false;
	c->peer = *to;
	if ((connect(fd, &to->any, address_len(to)) < 0 &&
		errno != EINPROGRESS) ||
	    !net_add(c, fd, kind, SMALL_BUF)) {
		int why = errno;

		close(fd);
		errno = why;
		return false;
	}
	if (type == SOCK_DGRAM)
		return true;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	c->deaf = c->more = true; /* POLLOUT will tell that it is connected */
	return true;
}

int
net_connected(struct conn *c)
{
	int why = 0;
	socklen_t len = sizeof(why);
	int failed = getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &why, &len);

	c->deaf = c->more = false;
	return failed < 0 ? errno : why;
}

/* ---- the turn's two ends ------------------------------------------------- */

/* Put what poll() found on the ready lists. */
static void
collect_ready(int found)
{
	struct net *net = &srv.net;

	for (size_t i = 0; i < net->n && found > 0; i++) {
		struct conn *c = net->conns[i];

		if (net->fds[i].revents == 0)
			continue;
		c->revents = net->fds[i].revents;
		net_touch(c);
		found--;
	}
}

/* Put those whose deadline has come on the ready lists, and find the next
 * deadline.  Only when one may have come: see net.wake.  What `again` has
 * put into the array makes nobody late: c's own deadline tells. */
static void
collect_late(void)
{
	struct net *net = &srv.net;

	if (srv.now < net->wake)
		return;
	net->wake = NEVER;
	for (size_t i = 0; i < net->n; i++) {
		if (net->deadlines[i] > srv.now) {
			if (net->deadlines[i] < net->wake)
				net->wake = net->deadlines[i];
			continue;
		}
		net->conns[i]->late = net->conns[i]->deadline <= srv.now;
		net_touch(net->conns[i]);
	}
}

/* How long poll() may sleep; half a minute at most, so that a clock that a
 * test or an administrator moves is noticed. */
static struct timespec
sleep_until(msec when)
{
	msec left = when > srv.now ? when - srv.now : 0;

	if (left > 30 * SECOND)
		left = 30 * SECOND;
	return (struct timespec){ .tv_sec = left / 1000,
		.tv_nsec = left % 1000 * 1000000 };
}

/* The ready lists are emptied here and not in net_settle(), because the reap
 * functions look in them for what that has closed. */
void
net_wait(msec until)
{
	struct net *net = &srv.net;
	sigset_t none;

	for (int kind = 0; kind < N_KINDS; kind++)
		for (struct conn *c = net->ready[kind]; c != NULL;
		     c = c->next_ready) {
			assert(c->fd >= 0); /* else: not reaped */
			c->listed = c->late = false;
			c->revents = 0;
		}
	memset(net->ready, 0, sizeof(net->ready));
	clock_forgive();
	struct timespec patience = sleep_until(
	    until < net->wake ? until : net->wake);

	/* Signals are blocked but here, so that none comes between a look at
	 * srv.stop and the wait. */
	sigemptyset(&none);
	fflush(stderr);
	int found = ppoll(net->fds, net->n, &patience, &none);

	clock_read();
	collect_ready(found);
	collect_late();
}

struct conn *
net_next(enum kind kind, const struct conn *after)
{
	return after == NULL ? srv.net.ready[kind] : after->next_ready;
}

/* Close c's descriptor and take it out of the poll set: the last one moves into
 * its slot.  Only a client is owed a last word that a reset could overtake. */
static void
net_close(struct conn *c)
{
	struct net *net = &srv.net;
	size_t last = --net->n;

	if (c->client) {
		discard_input(c->fd);
		net->n_clients--;
		if (c->counted)
			--*address_counter(&c->peer);
	}
	close(c->fd);
	c->fd = -1;
	net->fds[c->slot] = net->fds[last];
	net->conns[c->slot] = net->conns[last];
	net->deadlines[c->slot] = net->deadlines[last];
	net->conns[c->slot]->slot = c->slot;
}

/* Tell poll() what c wants from now on.  `again` is a deadline that has passed,
 * so that the next net_wait() does not sleep.  A new deadline can only bring
 * net.wake forward; that it was put off is found when net.wake has come. */
static void
net_ask(struct conn *c)
{
	struct net *net = &srv.net;
	bool speaks = c->more || buf_used(&c->out) > 0;
	msec when = c->again ? 0 : c->deadline;

	net->fds[c->slot].events = (short)((hears(c) ? POLLIN : 0) |
	    (speaks ? POLLOUT : 0));
	net->fds[c->slot].revents = 0;
	net->deadlines[c->slot] = when;
	if (when < net->wake)
		net->wake = when;
	c->again = false;
}

/* One connection at the end of a turn. */
static void
settle(struct conn *c)
{
	bool lost = buf_used(&c->out) > 0 && net_write(c) == IO_ERROR;
	bool over = c->doomed && (buf_used(&c->out) == 0 || c->late);

	/* poll() reports a hang-up even to those who ask for nothing: one who
	 * does not read it now would wake us for ever. */
	lost |= (c->revents & (POLLERR | POLLHUP)) && !hears(c);
	if (over || (lost && !c->busy))
		net_close(c);
	else
		net_ask(c);
}

void
net_settle(void)
{
	for (int kind = 0; kind < N_KINDS; kind++)
		for (struct conn *c = srv.net.ready[kind]; c != NULL;
		     c = c->next_ready)
			settle(c);
}

/* Each call begins at the head.  The price: where every other one of 10,000 is
 * closed in a turn, that is 12 million steps.  Exercise: save them. */
struct conn *
net_gone(enum kind kind)
{
	struct conn **at = &srv.net.ready[kind], *last = NULL;

	while (*at != NULL && (*at)->fd >= 0) {
		last = *at;
		at = &(*at)->next_ready;
	}
	struct conn *c = *at;

	if (c == NULL)
		return NULL;
	*at = c->next_ready;
	if (srv.net.ready_tail[kind] == c)
		srv.net.ready_tail[kind] = last;
	c->listed = false;
	return c;
}

struct conn *
net_walk(enum kind kind, size_t *at)
{
	while (*at < srv.net.n) {
		struct conn *c = srv.net.conns[(*at)++];

		if (c->kind == kind)
			return c;
	}
	return NULL;
}

void
net_check(void)
{
	const struct net *net = &srv.net;

	for (size_t i = 0; i < net->n; i++) {
		const struct conn *c = net->conns[i];

		assert(c->slot == i && c->fd == net->fds[i].fd);
		assert(net->deadlines[i] >= net->wake);
		assert(c->in.start <= c->in.end && c->in.end <= c->in.cap);
		assert(c->out.start <= c->out.end && c->out.end <= c->out.cap);
	}
}

/* ---- small things -------------------------------------------------------- */

uint64_t
random_u64(void)
{
	uint64_t draw = 0;

	/* Up to 256 octets come whole, once the pool is ready (getrandom(2)) */
	while (getrandom(&draw, sizeof(draw), 0) != sizeof(draw))
		continue;
	return draw;
}

const struct fault *
net_fault(const struct conf *conf, enum kind kind, const char *verb)
{
	for (size_t i = 0; i < conf->n_faults; i++) {
		const struct fault *f = &conf->faults[i];

		if (f->kind == kind && strcasecmp(f->verb, verb) == 0 &&
		    random_u64() % 100 < f->percent)
			return f;
	}
	return NULL;
}

/* O_NONBLOCK, or a FIFO would hold us until somebody writes into it. */
FILE *
net_open_regular(const char *path)
{
	struct stat st = { 0 };
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return NULL;
	bool regular = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
	FILE *f = regular ? fdopen(fd, "r") : NULL;

	if (f == NULL)
		close(fd);
	if (!regular)
		errno = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
	return f;
}

char *
net_path_beside(const char *file, const char *path)
{
	const char *slash = path[0] == '/' ? NULL : strrchr(file, '/');
	int folder = slash != NULL ? (int)(slash + 1 - file) : 0;
	char *whole;

	if (asprintf(&whole, "%.*s%s", folder, file, path) < 0)
		return NULL;
	return whole;
}

/* Nineteen digits always fit; all that are more count as too large. */
bool
digits_parse(const char **text, uint64_t *number)
{
	size_t digits = strspn(*text, "0123456789");

	if (digits == 0 || (digits > 1 && **text == '0'))
		return false;
	*number = digits < 20 ? strtoull(*text, NULL, 10) : UINT64_MAX;
	*text += digits;
	return true;
}

bool
net_is_word(const char *text, size_t len, const char *word)
{
	return strlen(word) == len && strncasecmp(text, word, len) == 0;
}

/* The order of two names, each in an array of them, in this set. */
static int
names_compare(const void *one, const void *two, void *set)
{
	const char *const *a = one, *const *b = two;
	bool exact = ((const struct names *)set)->exact;

	return exact ? strcmp(*a, *b) : strcasecmp(*a, *b);
}

/* Where a name is in the set, or would be.  (Both are given by their address,
 * because qsort_r() calls names_compare(), too.) */
static size_t
names_place(const struct names *set, const char *name, bool *there)
{
	size_t low = 0, high = set->n;

	*there = false;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = names_compare(&name, &set->v[middle], (void *)set);

		*there |= order == 0;
		if (order <= 0)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

bool
names_has(const struct names *set, const char *name)
{
	bool there;

	names_place(set, name, &there);
	return there;
}

bool
names_push(struct names *set, const char *name)
{
	if (set->n == set->cap) {
		size_t cap = set->cap > 0 ? set->cap * 2 : 2;
		char **v = realloc(set->v, cap * sizeof(*v));

		if (v == NULL)
			return false;
		set->v = v;
		set->cap = cap;
	}
	char *copy = strdup(name);

	if (copy != NULL)
		set->v[set->n++] = copy;
	return copy != NULL;
}

bool
names_add(struct names *set, const char *name)
{
	bool there;
	size_t place = names_place(set, name, &there);

	if (there)
		return true;
	if (!names_push(set, name))
		return false;
	char *copy = set->v[set->n - 1];

	memmove(set->v + place + 1, set->v + place,
	    (set->n - 1 - place) * sizeof(*set->v));
	set->v[place] = copy;
	return true;
}

void
names_sort(struct names *set)
{
	if (set->n > 0)
		qsort_r(set->v, set->n, sizeof(*set->v), names_compare, set);
}

void
names_free(struct names *set)
{
	for (size_t i = 0; i < set->n; i++)
		free(set->v[i]);
	free(set->v);
	*set = (struct names){ .exact = set->exact };
}
