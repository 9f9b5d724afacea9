/*
 * check_pop3.c -- tests for pop3.c: its rules alone, then whole dialogues.
 *
 * What this is
 *	pop3.c is included, so that its static functions can be called; the
 *	dialogues go over loopback sockets, in this process, turn by turn.
 * Always true
 *	The clock stands still until a test moves it: nobody sleeps.
 *	Teardown looks for sessions, locks and descriptors left over.
 * Links with: draft net
 * Wraps: read
 */
#include <check.h>
#include <ftw.h>
#include <netinet/tcp.h>
#include "../maildrop.c"
#include "../pop3.c"

struct server srv;
int log_level = -1;

enum { STORY_MAX = 3000, TURNS_MAX = 200000 };

static struct conf conf;
static char dir[64], story[STORY_MAX];
static struct conn *listener;
static int fds_before;

/* ---- the stage ----------------------------------------------------------- */

static struct user users[] = {
	{ "alice", (char *)(uintptr_t) "a b c", true },
	{ "bob", (char *)(uintptr_t) "builder", true },
	{ "carol", NULL, false },
};

static char *
in_dir(const char *fmt, const char *name)
{
	static char paths[4][PATH_MAX];
	static unsigned at;
	char *path = paths[at++ % 4];
	int len = snprintf(path, PATH_MAX, "%s/", dir);

	/* fmt is one of ours: at most one %s */
	const char *mark = strstr(fmt, "%s");
	size_t head = mark != NULL ? (size_t)(mark - fmt) : strlen(fmt);

	snprintf(path + len, PATH_MAX - (size_t)len, "%.*s%s%s", (int)head, fmt,
	    mark != NULL ? name : "", mark != NULL ? mark + 2 : "");
	return path;
}

static int
count_fds(void)
{
	DIR *fds = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(fds) != NULL)
		n++;
	closedir(fds);
	return n;
}

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

/* One turn of the server, without the parts that POP3 does not need. */
static void
turn(void)
{
	net_wait(srv.now);
	pop3_serve();
	net_settle();
	pop3_reap();
	net_check();
}

/* What every client hears when the server stops. */
static void
stop_all(void)
{
	struct conn *c;

	for (size_t at = 0; (c = net_walk(KIND_POP3, &at)) != NULL;)
		if (!c->listening)
			pop3_stop(c);
}

/* Enough of them to read so many octets, one at a time where STRESS. */
static void
turns(size_t octets)
{
	for (size_t i = STRESS ? octets + 5 : 5; i > 0; i--)
		turn();
}

static void
set_up(void)
{
	union address any = { .v4 = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) } };
	socklen_t len = sizeof(any);

	fds_before = count_fds();
	snprintf(dir, sizeof(dir), "%s/check_pop3.XXXXXX",
	    access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	srv = (struct server){ .frozen = 1000 * SECOND, .now = 1000 * SECOND };
	conf = (struct conf){ .hostname = users[0].name,
		.data_dir = dir,
		.users = users,
		.n_users = NELEM(users),
		.max_clients = 100,
		.timeout_pop3 = 600 * SECOND };
	conf.hostname = (char *)(uintptr_t) "mx.example";
	users[2].secret = strdup(crypt("sesame", "$6$rounds=1000$salt$"));
	srv.conf = &conf;
	ck_assert_int_eq(mkdir(in_dir("queue", NULL), 0700), 0);
	srv.drafts.tmp = open(in_dir("queue", NULL), O_RDONLY | O_DIRECTORY);
	srv.drafts.groups = -1;
	net_start();
	listener = net_listen(KIND_POP3, &any, SOCK_STREAM);
	ck_assert_ptr_nonnull(listener);
	ck_assert_int_eq(getsockname(listener->fd, &any.any, &len), 0);
	listener->peer = any;
	story[0] = '\0';
}

static void
tear_down(void)
{
	for (int i = 0; i < 20; i++)
		turn();
	ck_assert_uint_eq(srv.net.n, 1);
	ck_assert_uint_eq(conf.refs, 0);
	ck_assert_ptr_null(srv.pop3_open);
	ck_assert_ptr_null(srv.pop3_checking);
	net_drop(listener);
	net_settle();
	pop3_reap();
	close(srv.drafts.tmp);
	close(srv.net.spare);
	free(srv.net.fds);
	free(srv.net.conns);
	free(srv.net.deadlines);
	free(srv.seen);
	free(users[2].secret);
	nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	ck_assert_int_eq(count_fds(), fds_before);
}

/* Put a file into a mailbox as another program would. */
static void
put_file(const char *name, const char *data, size_t len)
{
	char path[PATH_MAX];
	static const char *const folders[] = { "mail", "mail/alice",
		"mail/alice/new", "mail/alice/cur", "mail/alice/tmp" };

	for (size_t i = 0; i < NELEM(folders); i++)
		mkdir(in_dir(folders[i], NULL), 0700);
	snprintf(path, sizeof(path), "%s/mail/alice/%s", dir, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, data, len), (ssize_t)len);
	close(fd);
}

static void
put(const char *name, const char *text)
{
	put_file(name, text, strlen(text));
}

static size_t
count_files(const char *folder)
{
	DIR *files = opendir(in_dir("mail/alice/%s", folder));
	size_t n = 0;

	for (struct dirent *file; (file = readdir(files)) != NULL;)
		n += file->d_name[0] != '.';
	closedir(files);
	return n;
}

/* Reads of files that succeed before all others fail; -1: none fails. */
static int reads_left = -1;

ssize_t __real_read(int fd, void *to, size_t len);
ssize_t __wrap_read(int fd, void *to, size_t len);
ssize_t
__wrap_read(int fd, void *to, size_t len)
{
	struct stat st = { 0 };

	if (reads_left < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return __real_read(fd, to, len);
	if (reads_left > 0) {
		reads_left--;
		return __real_read(fd, to, len);
	}
	errno = EIO;
	return -1;
}

/* ---- the client ---------------------------------------------------------- */

static int
client(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	ck_assert_int_eq(connect(fd, &listener->peer.any,
			     address_len(&listener->peer)),
	    0);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	return fd;
}

static void
tell(const char *mark, const char *text)
{
	size_t len = strlen(story);

	snprintf(story + len, sizeof(story) - len, "  %s%s\n", mark, text);
}

static void
send_all(int fd, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

		if (n > 0) {
			data += n;
			len -= (size_t)n;
		} else {
			turn();
		}
	}
}

/* One octet, or -1: the server has closed, -2: nothing comes. */
static int
hear_octet(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	unsigned char octet;

	for (int i = 0; i < TURNS_MAX; i++) {
		ssize_t n = recv(fd, &octet, 1, 0);

		if (n == 1)
			return octet;
		if (n == 0 || errno != EAGAIN)
			return -1;
		turn();
		if (srv.pop3_checking != NULL)
			continue;
		if (i > 50)
			return -2;
		if (i > 20) /* the kernel takes its time, too */
			poll(&p, 1, 1);
	}
	return -2;
}

/* The next line without its CRLF; "(closed)", "(silence)". */
static const char *
hear(int fd)
{
	static char line[16384];
	size_t len = 0;
	int octet = 0;

	while (octet != '\n' && len < sizeof(line) - 1) {
		octet = hear_octet(fd);
		if (octet < 0)
			return octet == -1 ? "(closed)" : "(silence)";
		line[len++] = (char)octet;
	}
	line[len] = '\0';
	if (len >= 2 && line[len - 2] == '\r')
		line[len - 2] = '\0';
	return line;
}

/*
 * Play "C: ..." and require that what comes begins with "S: ...": the RFCs'
 * own notation.  "S= ": the whole line; "R: ": sent as it is; "T: n": n
 * milliseconds pass.  A failure tells the whole dialogue.
 */
static void
play(int fd, const char *const *script)
{
	for (; *script != NULL; script++) {
		const char *text = *script + 3;

		tell("", *script);
		if ((*script)[0] == 'C' || (*script)[0] == 'R') {
			send_all(fd, text, strlen(text));
			if ((*script)[0] == 'C')
				send_all(fd, "\r\n", 2);
			turns(strlen(text));
		} else if ((*script)[0] == 'T') {
			srv.frozen += atoi(text);
		} else {
			const char *got = hear(fd);
			bool whole = (*script)[1] == '=';

			ck_assert_msg(strncmp(got, text, strlen(text)) == 0 &&
				(!whole || strlen(got) == strlen(text)),
			    "%s  >>> %s", story, got);
		}
	}
}

#define PLAY(fd, ...) play(fd, (const char *const[]){ __VA_ARGS__, NULL })

/* Alice, logged in. */
static int
alice(void)
{
	int fd = client();

	PLAY(fd, "S: +OK", "C: USER alice", "S: +OK", "C: PASS a b c",
	    "S: +OK");
	return fd;
}

/* The session that was accepted last. */
static struct pop3 *
session(void)
{
	return (struct pop3 *)srv.net.conns[srv.net.n - 1];
}

/* From now on there is a log, and it goes into a file. */
static FILE *log_file;
static int log_before;

static void
capture(int level)
{
	log_level = level;
	log_file = tmpfile();
	log_before = dup(STDERR_FILENO);
	dup2(fileno(log_file), STDERR_FILENO);
}

/* And now no more: what it said. */
static const char *
captured(void)
{
	static char said[32768];

	dup2(log_before, STDERR_FILENO);
	close(log_before);
	rewind(log_file);
	said[fread(said, 1, sizeof(said) - 1, log_file)] = '\0';
	fclose(log_file);
	log_level = -1;
	return said;
}

/* ---- the rules alone ----------------------------------------------------- */

START_TEST(numbers_rfc1939_5)
{
	static const struct {
		const char *text;
		bool good;
		uint64_t number;
	} rows[] = {
		{ "0", true, 0 },
		{ "1", true, 1 },
		{ "10", true, 10 },
		{ "4294967297", true, 4294967297u },
		{ "9999999999999999999", true, 9999999999999999999u },
		{ "18446744073709551617", true, UINT64_MAX },
		{ "", false, 0 },
		{ "01", false, 0 },
		{ "00", false, 0 },
		{ "-1", false, 0 },
		{ "+1", false, 0 },
		{ " 1", false, 0 },
		{ "x", false, 0 },
	};

	for (size_t i = 0; i < NELEM(rows); i++) {
		const char *text = rows[i].text;
		uint64_t number = 0;

		ck_assert_msg(digits_parse(&text, &number) == rows[i].good,
		    "%s", rows[i].text);
		if (rows[i].good)
			ck_assert_uint_eq(number, rows[i].number);
	}
}
END_TEST

START_TEST(users_without_regard_to_case)
{
	ck_assert_ptr_eq(user_find(&conf, "alice"), &users[0]);
	ck_assert_ptr_eq(user_find(&conf, "ALICE"), &users[0]);
	ck_assert_ptr_eq(user_find(&conf, "Carol"), &users[2]);
	ck_assert_ptr_null(user_find(&conf, "alic"));
	ck_assert_ptr_null(user_find(&conf, "alice@mx"));
	ck_assert_ptr_null(user_find(&conf, ""));
	conf.n_users = 0;
	ck_assert_ptr_null(user_find(&conf, "alice"));
}
END_TEST

START_TEST(unique_ids_rfc1939_7)
{
	char one[UID_MAX + 1], two[UID_MAX + 1], name[UID_MAX + 8];

	ck_assert_str_eq(maildrop_uid("1.x.h,S=5,W=6:2,S", one), "1.x.h");
	ck_assert_str_eq(maildrop_uid("1.x.h:2,S", one), "1.x.h");
	ck_assert_str_eq(maildrop_uid("1.x.h", one), "1.x.h");
	memset(name, 'a', sizeof(name));
	name[UID_MAX] = '\0';
	ck_assert_str_eq(maildrop_uid(name, one), name);
	name[UID_MAX] = 'a';
	name[UID_MAX + 1] = '\0';
	ck_assert_uint_eq(strlen(maildrop_uid(name, one)), 32);
	ck_assert_uint_eq(strspn(one, "0123456789abcdef"), 32);
	memcpy(name + UID_MAX + 1, ":2,S", 5);
	ck_assert_str_eq(maildrop_uid(name, two), one); /* flags do not count */
	name[0] = 'b';
	ck_assert_str_ne(maildrop_uid(name, two), one);
	ck_assert_uint_eq(strlen(maildrop_uid("1 2", one)), 32);
	ck_assert_uint_eq(strlen(maildrop_uid("1\x7f", one)), 32);
	ck_assert_uint_eq(strlen(maildrop_uid("\xc3\xa4", one)), 32);
	ck_assert_uint_eq(strlen(maildrop_uid(",S=1", one)), 32);
	/* for ever: this very id, in every version */
	ck_assert_str_eq(maildrop_uid("a b", one),
	    "e63f99190483389208ff7f5c0b43fee2");
}
END_TEST

START_TEST(order_is_time_then_name)
{
	static const char *const sorted[] = { "cur/-7.z", "new/-5.z", "new/a",
		"new/9.z", "cur/10.a:2,S", "new/10.b,S=3", "cur/10.b,S=4:2,",
		"new/1000000000.a", "new/99999999999.a" };

	for (size_t i = 0; i < NELEM(sorted); i++)
		for (size_t j = 0; j < NELEM(sorted); j++) {
			int order = by_age(&sorted[i], &sorted[j]);

			ck_assert_int_eq((order > 0) - (order < 0),
			    (i > j) - (i < j));
		}
	ck_assert_int_eq(by_age(&(const char *){ "new/1.x" },
			     &(const char *){ "cur/1.x:2,RS" }),
	    0);
}
END_TEST

START_TEST(sizes_from_names)
{
	ck_assert_uint_eq(name_octets("new/1.x,S=5,W=7"), 7);
	ck_assert_uint_eq(name_octets("cur/1.x,S=5,W=7:2,S"), 7);
	ck_assert_uint_eq(name_octets("new/1.x,W=7,S=5"), 7);
	ck_assert_uint_eq(name_octets("cur/1.x,S=5:2,W=7"), UNKNOWN);
	ck_assert_uint_eq(name_octets("cur/1.x:2,S=5,W=7"), UNKNOWN);
	ck_assert_uint_eq(name_octets("new/1.x,S=0,W=0"), 0);
	ck_assert_uint_eq(name_octets("new/1.x,S=5,W=5"), 5);
	ck_assert_uint_eq(name_octets("new/1.x,S=5,W=12"), 12);
	ck_assert_uint_eq(name_octets("new/1.x,S=5,W=13"), UNKNOWN);
	ck_assert_uint_eq(name_octets("new/1.x,S=5,W=4"), UNKNOWN);
	ck_assert_uint_eq(name_octets("new/1.x,W=7"), UNKNOWN);
	ck_assert_uint_eq(name_octets("new/1.x,S=5"), UNKNOWN);
	ck_assert_uint_eq(name_octets("new/1.x,S=5,W="), UNKNOWN);
	ck_assert_uint_eq(name_octets("new/1.x,S=5,W=7x"), UNKNOWN);
	ck_assert_uint_eq(name_octets("new/1.x,S=5,W=-7"), UNKNOWN);
	ck_assert_uint_eq(name_octets("new/1.x,S=5,W=9999999999999999"),
	    UNKNOWN);
}
END_TEST

/* What a file holds, which piece of it TOP asks for (-1: RETR), and what must
 * then be on the wire. */
static const struct {
	const char *file;
	int top;
	const char *wire;
} wires[] = {
	{ "", -1, ".\r\n" },
	{ "a\n", -1, "a\r\n.\r\n" },
	{ "a", -1, "a\r\n.\r\n" },
	{ ".\n", -1, "..\r\n.\r\n" },
	{ ".", -1, "..\r\n.\r\n" },
	{ ".a\n..b\nc.\n", -1, "..a\r\n...b\r\nc.\r\n.\r\n" },
	{ "a\r\nb\r\n", -1, "a\r\nb\r\n.\r\n" },
	{ "a\rb\n\r\n\r\r\n", -1, "a\rb\r\n\r\n\r\r\n.\r\n" },
	{ "a\r", -1, "a\r\r\n.\r\n" },
	{ "\n\n", -1, "\r\n\r\n.\r\n" },
	{ "\xff\n", -1, "\xff\r\n.\r\n" },
	{ "h: 1\n\nb1\nb2\n", 0, "h: 1\r\n\r\n.\r\n" },
	{ "h: 1\n\nb1\nb2\n", 1, "h: 1\r\n\r\nb1\r\n.\r\n" },
	{ "h: 1\n\nb1\nb2\n", 2, "h: 1\r\n\r\nb1\r\nb2\r\n.\r\n" },
	{ "h: 1\n\nb1\nb2", 9, "h: 1\r\n\r\nb1\r\nb2\r\n.\r\n" },
	{ "h: 1\r\n\r\nb1\r\nb2", 1, "h: 1\r\n\r\nb1\r\n.\r\n" },
	{ "h: 1\n", 0, "h: 1\r\n\r\n.\r\n" },
	{ "h: 1", 5, "h: 1\r\n\r\n.\r\n" },
	{ "\n.x\ny", 1, "\r\n..x\r\n.\r\n" },
};

/* Whatever the pieces: all at once down to one octet at a time. */
START_TEST(dot_stuffing_rfc1939_3)
{
	for (size_t i = 0; i < NELEM(wires); i++)
		for (size_t piece = strlen(wires[i].file) + 1; piece > 0;
		     piece--) {
			struct wire w = { .top = wires[i].top >= 0,
				.lines = (uint64_t)wires[i].top };
			size_t len = strlen(wires[i].file);
			char out[100], *to = out;

			for (size_t at = 0; at < len; at += piece) {
				size_t n = len - at < piece ? len - at : piece;
				char *next = wire_put(&w, wires[i].file + at, n,
				    to);

				ck_assert_int_le(next - to, (int)(2 * n));
				to = next;
			}
			char *end = wire_finish(&w, to);

			ck_assert_int_le(end - to, WIRE_END);
			*end = '\0';
			ck_assert_str_eq(out, wires[i].wire);
		}
}
END_TEST

/* RFC 1939 11: counted as on the wire, but for the stuffing. */
START_TEST(octets_rfc1939_11)
{
	for (size_t i = 0; i < NELEM(wires) && wires[i].top < 0; i++) {
		struct maildrop d = { 0 };
		size_t want = strlen(wires[i].wire) - 3;

		for (const char *at = wires[i].wire; *at != '\0'; at++)
			want -= *at == '.' && at[1] == '.' &&
			    (at == wires[i].wire || at[-1] == '\n');
		put("new/1.x", wires[i].file);
		ck_assert(maildrop_load(&d, "alice"));
		ck_assert_uint_eq(d.octets, 0);
		ck_assert(maildrop_count(&d));
		ck_assert_uint_eq(d.octets, want);
		maildrop_free(&d);
	}
}
END_TEST

/* What STAT would say of alice's files. */
static uint64_t
count(void)
{
	struct maildrop d = { 0 };

	ck_assert(maildrop_load(&d, "alice"));
	ck_assert(maildrop_count(&d));
	uint64_t octets = d.octets;

	maildrop_free(&d);
	return octets;
}

/* The place where a count is remembered; NULL: it is not. */
static struct seen *
remembered(uint64_t octets)
{
	for (size_t i = 0; srv.seen != NULL && i < SEEN_MAX; i++)
		if (srv.seen[i].file != 0 && srv.seen[i].octets == octets)
			return &srv.seen[i];
	return NULL;
}

/* A count is remembered: no later session reads the file, until it is written
 * to or moved.  An error is not, nor what may change within a tick. */
START_TEST(counts_are_remembered)
{
	put("new/1.x", "a\n");
	srv.wall = (msec)time(NULL) * 1000;
	ck_assert_uint_eq(count(), 3);
	ck_assert_ptr_null(remembered(3));
	srv.wall += 9 * SECOND;
	ck_assert_uint_eq(count(), 3);
	remembered(3)->octets = 77;
	reads_left = 0;
	ck_assert_uint_eq(count(), 77);
	put("new/2.x", "b\nc");
	srv.wall += SECOND;
	ck_assert_uint_eq(count(), 77); /* it cannot be read now ... */
	reads_left = -1;
	ck_assert_uint_eq(count(), 77 + 6);
	remembered(6)->octets = 66;
	ck_assert_uint_eq(count(), 77 + 66);
	put("new/2.x", "b\nc\n");
	ck_assert_uint_eq(count(), 77 + 6);
	ck_assert_int_eq(rename(in_dir("mail/alice/new/1.x", NULL),
			     in_dir("mail/alice/cur/1.x:2,S", NULL)),
	    0);
	ck_assert_uint_eq(count(), 3 + 6);
}
END_TEST

/* A row holds SEEN_ROW files; one more takes a place, and all are counted. */
START_TEST(counts_are_forgotten)
{
	srv.wall = (msec)time(NULL) * 1000 + 10 * SECOND;
	put("new/1.x", "a\n");
	ck_assert_uint_eq(count(), 3);
	struct seen *row = srv.seen +
	    (remembered(3) - srv.seen) / SEEN_ROW * SEEN_ROW;
	uint64_t sum = remembered(3)->file;

	for (size_t i = 0; i < SEEN_ROW; i++)
		row[i] = (struct seen){ ~sum - i, 77 };
	row[SEEN_ROW - 1].file = sum;
	ck_assert_uint_eq(count(), 77);
	row[SEEN_ROW - 1].file = ~sum;
	ck_assert_uint_eq(count(), 3);
	ck_assert_ptr_nonnull(remembered(3));
	ck_assert_int_eq((remembered(3) - srv.seen) / SEEN_ROW,
	    (row - srv.seen) / SEEN_ROW);
}
END_TEST

/* ---- delivery ------------------------------------------------------------ */

/* A message as spool.c hands it over, its content under queue/tmp. */
static struct msg
message(const char *content)
{
	struct msg m = { .id = "0123456789abcdef",
		.arrived = 1700000000,
		.size = strlen(content),
		.envelope.fd = -1 };
	const char *last = strrchr(content, '\n');

	m.unfinished = m.size > 0 && (last == NULL || last[1] != '\0');
	for (const char *at = content; *at != '\0'; at++)
		m.lines += *at == '\n';
	ck_assert(draft_new(&m.content, "0123456789abcdef.msg"));
	ck_assert_int_eq(write(m.content.fd, content, m.size), (ssize_t)m.size);
	return m;
}

#define NAME "1700000000.0123456789abcdef.mx-1.example-x"

START_TEST(delivery_is_one_file_with_many_names)
{
	struct stat one, two, folder;
	struct msg m = message("a\nb\n");

	conf.hostname = (char *)(uintptr_t) "mx:1.example-x";
	ck_assert(maildrop_prepare("alice"));
	ck_assert(maildrop_prepare("bob"));
	ck_assert(maildrop_prepare("bob"));
	ck_assert_int_lt(stat(in_dir("mail/alice/new/" NAME ",S=4,W=6", NULL),
			     &one),
	    0);
	ck_assert(maildrop_link(&m, "alice"));
	ck_assert(maildrop_link(&m, "bob"));
	ck_assert(maildrop_sync("alice"));
	ck_assert_int_eq(stat(in_dir("mail/alice/new/" NAME ",S=4,W=6", NULL),
			     &one),
	    0);
	ck_assert_int_eq(stat(in_dir("mail/bob/new/" NAME ",S=4,W=6", NULL),
			     &two),
	    0);
	ck_assert_uint_eq(one.st_ino, two.st_ino);
	ck_assert_uint_eq(one.st_nlink, 3);
	static const char *const folders[] = { "mail", "mail/alice",
		"mail/alice/tmp", "mail/alice/new", "mail/alice/cur" };

	for (size_t i = 0; i < NELEM(folders); i++) {
		ck_assert_int_eq(stat(in_dir(folders[i], NULL), &folder), 0);
		ck_assert_uint_eq(folder.st_mode & 07777, 0700);
	}
	maildrop_unlink(&m, "alice");
	ck_assert_uint_eq(count_files("new"), 0);
	ck_assert(!maildrop_link(&m, "nobody"));
	ck_assert_int_eq(errno, ENOENT);
	ck_assert(!maildrop_link(&m, "bob"));
	ck_assert_int_eq(errno, EEXIST);
	close(m.content.fd);
}
END_TEST

START_TEST(delivery_counts_the_missing_line_end)
{
	struct stat st;
	struct msg m = message("a\n.b");

	ck_assert(maildrop_prepare("alice") && maildrop_link(&m, "alice"));
	ck_assert_int_eq(stat(in_dir("mail/alice/new/1700000000."
				     "0123456789abcdef.mx.example,S=4,W=7",
				  NULL),
			     &st),
	    0);
	close(m.content.fd);
	int fd = alice();

	PLAY(fd, "C: STAT", "S= +OK 1 7", "C: RETR 1", "S= +OK 7 octets",
	    "S= a", "S= ..b", "S= .");
	close(fd);
}
END_TEST

START_TEST(delivery_tells_why_not)
{
	struct msg m = message("a\n");
	char deep[PATH_MAX + 10];

	close(open(in_dir("mail", NULL), O_WRONLY | O_CREAT, 0600));
	ck_assert(!maildrop_prepare("alice"));
	ck_assert_int_eq(errno, ENOTDIR);
	for (size_t i = 0; i < sizeof(deep); i++)
		deep[i] = i % 2 == 0 ? '/' : 'd';
	deep[sizeof(deep) - 1] = '\0';
	conf.data_dir = deep;
	ck_assert(!maildrop_prepare("alice"));
	ck_assert_int_eq(errno, ENAMETOOLONG);
	conf.data_dir = dir;
	close(m.content.fd);
}
END_TEST

/* The spool on another file system: the content is copied, then named. */
START_TEST(delivery_across_file_systems)
{
	struct stat here, there;
	int other = open("/tmp", O_RDONLY | O_DIRECTORY);
	int tmp = srv.drafts.tmp;

	if (other < 0 || fstat(other, &there) < 0 || fstat(tmp, &here) < 0 ||
	    here.st_dev == there.st_dev) {
		if (other >= 0)
			close(other);
		return;
	}
	srv.drafts.tmp = other;
	srv.spool.one_fs = true;
	struct msg m = message("across\n");

	ck_assert(maildrop_prepare("alice"));
	m.size++; /* as if the disk had lost an octet */
	ck_assert(!maildrop_link(&m, "alice"));
	ck_assert_int_eq(errno, EIO);
	ck_assert_uint_eq(count_files("new"), 0);
	m.size--;
	put("tmp/1700000000.0123456789abcdef.mx.example,S=7,W=8", "");
	ck_assert(!maildrop_link(&m, "alice")); /* never over another */
	ck_assert_int_eq(errno, EEXIST);
	unlink(in_dir("mail/alice/tmp/1700000000.0123456789abcdef.mx.example"
		      ",S=7,W=8",
	    NULL));
	ck_assert(maildrop_link(&m, "alice"));
	maildrop_unlink(&m, "alice");
	ck_assert_uint_eq(count_files("new"), 0);
	ck_assert(maildrop_link(&m, "alice"));
	ck_assert(!srv.spool.one_fs);
	ck_assert_uint_eq(count_files("tmp"), 0);
	unlinkat(other, "0123456789abcdef.msg", 0);
	srv.drafts.tmp = tmp;
	close(other);
	close(m.content.fd);
	int fd = alice();

	PLAY(fd, "C: RETR 1", "S= +OK 8 octets", "S= across", "S= .");
	close(fd);
}
END_TEST

/* ---- dialogues ----------------------------------------------------------- */

/* All that RFC 1939 5 asks for, and what RFC 1939 7 leaves open. */
START_TEST(dialogue_rfc1939_10)
{
	put("new/2.b,S=3,W=4", "b:\n");
	put("cur/1.a,S=4,W=6:2,S", "a\nb\n");
	int fd = client();

	PLAY(fd, "S= +OK mx.example POP3 is ready", "C: user Alice", "S: +OK",
	    "C: PASS a b c", "S= +OK 2 messages", "C: STAT", "S= +OK 2 10",
	    "C: LIST", "S= +OK 2 messages", "S= 1 6", "S= 2 4", "S= .",
	    "C: LIST 2", "S= +OK 2 4", "C: UIDL", "S= +OK 2 messages",
	    "S= 1 1.a", "S= 2 2.b", "S= .", "C: UIDL 1", "S= +OK 1 1.a",
	    "C: RETR 1", "S= +OK 6 octets", "S= a", "S= b", "S= .", "C: RSET",
	    "S: +OK", "C: DELE 1", "S: +OK", "C: RETR 2", "S: +OK",
	    "S= b:", "S= .", "C: TOP 2 0", "S= +OK it follows",
	    "S= b:", "S= ", "S= .", "C: NOOP", "S: +OK", "C: QUIT", "S: +OK",
	    "S: (closed)");
	ck_assert_uint_eq(count_files("cur"), 0);
	ck_assert_uint_eq(count_files("new"), 1);
	close(fd);
}
END_TEST

/* RFC 2449 6 and RFC 3206 6: the same before a login and after. */
START_TEST(capa_rfc2449_5)
{
	int fd = client();

	PLAY(fd, "S: +OK", "C: CAPA", "S: +OK", "S= TOP", "S= UIDL", "S= USER",
	    "S= PIPELINING", "S= RESP-CODES", "S= AUTH-RESP-CODE",
	    "S= EXPIRE NEVER", "S: IMPLEMENTATION mailserv-", "S= .", "C: QUIT",
	    "S: +OK", "S: (closed)");
	close(fd);
	put("new/1.a,S=2,W=3", "a\n");
	fd = alice();
	PLAY(fd, "C: CAPA", "S: +OK", "S= TOP");
	close(fd);
}
END_TEST

/* What is no argument is an -ERR (RFC 1939 3). */
START_TEST(strict_numbers_rfc1939_5)
{
	static const char *const bad[] = { "LIST 4294967297", "LIST 0",
		"RETR 18446744073709551617", "RETR 0", "RETR -1", "RETR 01",
		"RETR 1x", "RETR  1", "RETR 1 ", "RETR", "RETR 1 1", "RETR +1",
		"TOP 1", "TOP 1 -1", "TOP 1 x", "TOP 1  1", "TOP  1 1", "TOP",
		"TOP 1 1 1", "TOP 1,1", "DELE", "DELE 2", "DELE 0x1", "UIDL 2",
		"UIDL 1 1", "UIDL x", "STAT 1", "NOOP x", "RSET 1", "CAPA x",
		"QUIT x", "LIST 2", "LIST ", "UIDL ", "STAT ", "QUIT ", "CAPA ",
		"RETR ", "TOP " };

	put("new/1.a,S=7,W=10", "a\n\nb\nc\n");
	int fd = alice();

	for (size_t i = 0; i < NELEM(bad); i++) {
		send_all(fd, bad[i], strlen(bad[i]));
		send_all(fd, "\r\n", 2);
		turns(strlen(bad[i]));
		const char *got = hear(fd);

		ck_assert_msg(strncmp(got, "-ERR ", 5) == 0 &&
			strstr(got, "(RFC ") != NULL,
		    "%s: %s", bad[i], got);
	}
	PLAY(fd, "C: RETR 2",
	    "S= -ERR no such message: there are 1 (RFC 1939 5)",
	    "C: TOP 1 99999999999", "S: +OK", "S= a", "S= ", "S= b", "S= c",
	    "S= .", "C: TOP 1 18446744073709551617", "S: +OK", "S= a",
	    "S= ", "S= b", "S= c", "S= .", "C: TOP 1 1", "S: +OK", "S= a",
	    "S= ", "S= b", "S= .");
	close(fd);
}
END_TEST

/* 255 octets (RFC 2449 4), and lines that are none. */
START_TEST(lines_rfc1939_3)
{
	static char longest[POP3_LINE + 4], longer[POP3_LINE + 5];
	static char endless[10000];

	snprintf(longest, sizeof(longest), "R: %0253d\r\n", 0);
	snprintf(longer, sizeof(longer), "R: %0254d\r\n", 0);
	snprintf(endless, sizeof(endless), "R: %09990d\r\n", 0);
	int fd = client();

	PLAY(fd, "S: +OK", longest, "S: -ERR no such command", longer,
	    "S: -ERR over 255 octets", endless, "S: -ERR over 255 octets",
	    "C: ", "S: -ERR", "C: :", "S: -ERR", "R: QUIT\n", "S: -ERR a line",
	    "R: \n", "S: -ERR a line", "R: CA", "R: PA\r",
	    "R: \nCAPA\r\nUSER a\r\n", "S: +OK", "S= TOP",
	    "S: ", "S: ", "S: ", "S: ", "S: ", "S: ", "S: ", "S= .", "S: +OK",
	    "S= TOP", "S: ", "S: ", "S: ", "S: ", "S: ", "S: ", "S: ", "S= .",
	    "S: +OK now PASS", "C: GET / HTTP/1.1", "S: -ERR");
	send_all(fd, "QUIT\0\r\nUS\0ER a\r\n", 16);
	PLAY(fd, "S: -ERR a NUL", "S: -ERR a NUL", "C: USER b",
	    "S: +OK now PASS");
	close(fd);
}
END_TEST

/* Say this, and hear one answer: the first line is all there is to it. */
static void
expect_answer(int fd, const char *line)
{
	send_all(fd, line, strlen(line));
	turns(strlen(line));
	const char *got = hear(fd);

	ck_assert_msg(strncmp(got, "+OK ", 4) == 0 ||
		strncmp(got, "-ERR ", 5) == 0,
	    "%s: %s", line, got);
	ck_assert_uint_le(strlen(got), 510);
}

/* +OK or -ERR in capitals, a blank, and no more than 512 octets (RFC 2449 4),
 * whatever was said, and however long the host's name. */
START_TEST(every_answer_rfc1939_3)
{
	static const char *const words[] = { "", "x", "USER ", "user a",
		"PASS ", "STAT", "LIST 1", "RETR ", "DELE 1", "TOP 1 ", "UIDL ",
		"NOOP", "RSET", "CAPA ", "APOP ", "AUTH ", "STLS", "QUIT" };
	char line[POP3_LINE + 1], name[HOST_MAX];

	snprintf(name, sizeof(name), "%0*d", HOST_MAX - 1, 0);
	conf.hostname = name;
	for (size_t i = 0; i < NELEM(words); i++)
		for (int in = 0; in < 2; in++) {
			int fd = in ? alice() : client();

			if (!in)
				expect_answer(fd, "");
			snprintf(line, sizeof(line), "%s%0*d\r\n", words[i],
			    253 - (int)strlen(words[i]), 0);
			expect_answer(fd, line);
			snprintf(line, sizeof(line), "%s\r\n", words[i]);
			expect_answer(fd, line);
			close(fd);
			turns(1);
		}
}
END_TEST

/* RFC 1939 4, what is marked (RFC 1939 5), and the optional commands of RFC
 * 1939 7. */
START_TEST(states_rfc1939_3)
{
	static const char *const inside[] = { "STAT", "LIST", "RETR 1",
		"DELE 1", "NOOP", "RSET", "TOP 1 1", "UIDL" };

	put("new/1.a,S=2,W=3", "a\n");
	put("new/2.b,S=2,W=3", "b\n");
	int fd = client();

	PLAY(fd, "S: +OK");
	for (size_t i = 0; i < NELEM(inside); i++) {
		send_all(fd, inside[i], strlen(inside[i]));
		PLAY(fd, "R: \r\n",
		    "S: -ERR not now: this is the state AUTHORIZATION (RFC 1939 3)");
	}
	PLAY(fd, "C: PASS x", "S: -ERR USER comes", "C: USER", "S: -ERR wanted",
	    "C: USER ", "S: -ERR wanted", "C: PASS ", "S: -ERR wanted",
	    "C: USER bob", "S: +OK", "C: USER alice b",
	    "S: -ERR wanted: a name without a blank (RFC 1939 7)",
	    "C: PASS builder", "S: -ERR USER comes", "C: USER bob ", "S: -ERR",
	    "C: APOP a b", "S: -ERR no such", "C: AUTH PLAIN", "S: -ERR no",
	    "C: USER bob", "S: +OK", "C: USER alice", "S: +OK", "C: PASS a b c",
	    "S: +OK", "C: USER bob", "S: -ERR not now", "C: PASS a b c",
	    "S: -ERR not now", "C: DELE 1", "S: +OK", "C: DELE 1",
	    "S: -ERR it is marked", "C: RETR 1", "S: -ERR", "C: TOP 1 1",
	    "S: -ERR", "C: LIST 1", "S: -ERR", "C: UIDL 1", "S: -ERR",
	    "C: STAT", "S= +OK 1 3", "C: LIST", "S: +OK", "S= 2 3", "S= .",
	    "C: UIDL", "S: +OK", "S= 2 2.b", "S= .", "C: RSET",
	    "S= +OK 2 messages", "C: STAT", "S= +OK 2 6", "C: QUIT", "S: +OK");
	ck_assert_uint_eq(count_files("new"), 2);
	close(fd);
}
END_TEST

/* Nor after ten minutes of silence (RFC 1939 3). */
START_TEST(nothing_removed_without_quit_rfc1939_6)
{
	put("new/1.a,S=2,W=3", "a\n");
	int fd = alice();

	PLAY(fd, "C: DELE 1", "S: +OK");
	close(fd);
	turn();
	turn();
	ck_assert_uint_eq(count_files("new"), 1);
	fd = client();
	PLAY(fd, "S: +OK", "C: USER alice", "S: +OK", "C: QUIT", "S: +OK");
	close(fd);
	ck_assert_uint_eq(count_files("new"), 1);
	fd = alice();
	PLAY(fd, "C: DELE 1", "S: +OK", "T: 599999", "S: (silence)", "C: NOOP",
	    "S: +OK", "T: 599999", "S: (silence)", "T: 1", "S: (closed)");
	ck_assert_uint_eq(count_files("new"), 1);
	close(fd);
}
END_TEST

/* Alice, with so many empty messages, all of them marked. */
static int
alice_deletes(int messages)
{
	char name[40], dele[24];

	for (int i = 1; i <= messages; i++) {
		snprintf(name, sizeof(name), "new/%d.a,S=0,W=0", i);
		put(name, "");
	}
	int fd = alice();

	for (int i = 1; i <= messages; i++) {
		snprintf(dele, sizeof(dele), "DELE %d\r\n", i);
		send_all(fd, dele, strlen(dele));
		PLAY(fd, "S: +OK");
		story[0] = '\0';
	}
	return fd;
}

/* The next turn that removes something leaves so many. */
static void
expect_left(size_t left)
{
	size_t before = count_files("new");

	for (int i = 0; i < 20 && count_files("new") == before; i++)
		turn();
	ck_assert_uint_eq(count_files("new"), left);
}

/* Fill the socket, until an answer can leave it no more. */
static void
block(int fd)
{
	static const char junk[65536];
	struct conn *c = &session()->c;

	for (int i = 0; i < 100 && buf_used(&c->out) == 0; i++) {
		while (send(c->fd, junk, sizeof(junk), MSG_DONTWAIT) > 0)
			continue;
		send_all(fd, "NOOP\r\n", 6);
		turns(6);
	}
	ck_assert_uint_gt(buf_used(&c->out), 0);
}

/* QUIT is a promise: also where its client ends the connection, or breaks it,
 * even with answers that it has not read, all goes; and some a turn. */
START_TEST(quit_removes_in_slices_rfc1939_6)
{
	enum { HEARS, LEAVES, RESETS, RESETS_BLOCKED, WAYS };
	struct linger reset = { 1, 0 };

	for (int way = 0; way < WAYS; way++) {
		int fd = alice_deletes(2 * REMOVE_SLICE + 1);

		if (way == RESETS_BLOCKED)
			block(fd);
		send_all(fd, "QUIT\r\n", 6);
		expect_left(REMOVE_SLICE + 1);
		if (way >= RESETS)
			setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset,
			    sizeof(reset));
		if (way != HEARS)
			close(fd);
		expect_left(1);
		expect_left(0); /* one past the slice */
		if (way == HEARS) {
			PLAY(fd, "S: +OK", "S: (closed)");
			close(fd);
		}
		turns(30);
		ck_assert_ptr_null(srv.pop3_open);
	}
}
END_TEST

/* RFC 3206 5, and nobody else waits. */
START_TEST(wrong_password_takes_a_second)
{
	int fd = client(), other = client();

	PLAY(other, "S: +OK");
	PLAY(fd, "S: +OK", "C: USER alice", "S: +OK", "C: PASS wrong",
	    "S: (silence)", "T: 999", "S: (silence)");
	PLAY(other, "C: USER bob", "S: +OK", "C: PASS builder", "S: +OK");
	PLAY(fd, "T: 1", "S: -ERR [AUTH] wrong", "C: PASS a b c",
	    "S: -ERR USER comes", "R: USER nobody\r\nPASS x\r\nUSER alice\r\n",
	    "S: +OK", "S: (silence)", "T: 1000", "S: -ERR [AUTH] wrong",
	    "S: +OK", "C: PASS a b cc", "S: (silence)", "T: 1000",
	    "S: -ERR [AUTH] wrong", "S: (closed)");
	close(fd);
	close(other);
}
END_TEST

START_TEST(one_crypt_a_turn)
{
	int fds[3];

	for (int i = 0; i < 3; i++) {
		fds[i] = client();
		PLAY(fds[i], "S: +OK", "C: USER carol", "S: +OK");
	}
	for (int i = 0; i < 3; i++)
		send_all(fds[i], "PASS sesamE\r\n", 13);
	for (size_t i = STRESS ? 13 : 1; i > 0; i--)
		turn();
	ck_assert_ptr_nonnull(srv.pop3_checking);
	ck_assert_ptr_nonnull(srv.pop3_checking->next_checking);
	close(fds[2]); /* gone while it waits */
	turn();
	turn();
	turn();
	ck_assert_ptr_null(srv.pop3_checking);
	PLAY(fds[0], "S: (silence)", "T: 1000", "S: -ERR [AUTH]",
	    "C: USER carol", "S: +OK", "C: PASS sesame", "S: +OK 0 messages");
	close(fds[0]);
	close(fds[1]);
}
END_TEST

/* The lock is exclusive (RFC 1939 4). */
START_TEST(in_use_rfc2449_8_1_2)
{
	put("new/1.a,S=2,W=3", "a\n");
	int fd = alice(), other = client();

	PLAY(other, "S: +OK", "C: USER alice", "S: +OK", "C: PASS a b c",
	    "S: -ERR [IN-USE]", "C: USER bob", "S: +OK", "C: PASS builder",
	    "S: +OK 0 messages");
	put("new/2.b,S=2,W=3", "b\n");
	PLAY(fd, "C: STAT", "S= +OK 1 3", "C: QUIT", "S: +OK");
	int third = alice();

	PLAY(third, "C: STAT", "S= +OK 2 6");
	close(fd);
	close(other);
	close(third);
}
END_TEST

/* One too many is told so, and why; a place that is free again is taken. */
START_TEST(too_many_clients)
{
	conf.max_clients = 1;
	int fd = client(), other = client();

	PLAY(fd, "S: +OK");
	PLAY(other, "S= -ERR [SYS/TEMP] too many connections, try later",
	    "S: (closed)");
	close(other);
	PLAY(fd, "C: QUIT", "S: +OK", "S: (closed)");
	close(fd);
	fd = client();
	PLAY(fd, "S: +OK");
	close(fd);
}
END_TEST

/* Another program's doings: moved, flagged, removed, unreadable. */
START_TEST(files_that_move_are_found)
{
	put("new/1.a,S=2,W=3", "a\n");
	put("new/2.b,S=2,W=3", "b\n");
	put("new/3.c,S=2,W=3", "c\n");
	put("cur/4.d,S=2,W=3:2,", "d\n");
	int fd = alice();

	rename(in_dir("mail/alice/new/1.a,S=2,W=3", NULL),
	    in_dir("mail/alice/cur/1.a,S=2,W=3:2,S", NULL));
	rename(in_dir("mail/alice/cur/4.d,S=2,W=3:2,", NULL),
	    in_dir("mail/alice/cur/4.d,S=2,W=3:2,FS", NULL));
	unlink(in_dir("mail/alice/new/2.b,S=2,W=3", NULL));
	PLAY(fd, "C: RETR 1", "S: +OK", "S= a", "S= .", "C: RETR 4", "S: +OK",
	    "S= d", "S= .", "C: RETR 2", "S: -ERR [SYS/TEMP] cannot be read",
	    "C: UIDL 1", "S= +OK 1 1.a", "C: DELE 1", "S: +OK", "C: DELE 2",
	    "S: +OK", "C: DELE 4", "S: +OK");
	rename(in_dir("mail/alice/cur/1.a,S=2,W=3:2,S", NULL),
	    in_dir("mail/alice/cur/1.a,S=2,W=3:2,RS", NULL));
	PLAY(fd, "T: 1", "C: QUIT", "S: +OK", "S: (closed)");
	ck_assert_uint_eq(count_files("cur"), 0);
	ck_assert_uint_eq(count_files("new"), 1);
	close(fd);
}
END_TEST

/* The clock stands still: it is no matter how soon one move follows another. */
START_TEST(files_that_move_again_are_found)
{
	put("new/1.a,S=2,W=3", "a\n");
	put("new/2.b", "b\n");
	put("new/3.c,S=2,W=3", "c\n");
	int fd = alice();

	rename(in_dir("mail/alice/new/1.a,S=2,W=3", NULL),
	    in_dir("mail/alice/cur/1.a,S=2,W=3:2,", NULL));
	PLAY(fd, "C: RETR 1", "S: +OK", "S= a", "S= .");
	rename(in_dir("mail/alice/cur/1.a,S=2,W=3:2,", NULL),
	    in_dir("mail/alice/cur/1.a,S=2,W=3:2,S", NULL));
	PLAY(fd, "C: RETR 1", "S: +OK", "S= a", "S= .");
	rename(in_dir("mail/alice/new/2.b", NULL),
	    in_dir("mail/alice/cur/2.b:2,", NULL));
	PLAY(fd, "C: LIST 2", "S= +OK 2 3", "C: DELE 1", "S: +OK", "C: DELE 2",
	    "S: +OK", "C: DELE 3", "S: +OK");
	rename(in_dir("mail/alice/cur/1.a,S=2,W=3:2,S", NULL),
	    in_dir("mail/alice/cur/1.a,S=2,W=3:2,FS", NULL));
	rename(in_dir("mail/alice/new/3.c,S=2,W=3", NULL),
	    in_dir("mail/alice/cur/3.c,S=2,W=3:2,", NULL));
	PLAY(fd, "C: QUIT", "S: +OK", "S: (closed)");
	ck_assert_uint_eq(count_files("cur") + count_files("new"), 0);
	close(fd);
}
END_TEST

/* What cannot be looked for is not said to be removed. */
START_TEST(a_look_that_fails_removes_nothing)
{
	put("new/1.a,S=2,W=3", "a\n");
	int fd = alice();

	PLAY(fd, "C: DELE 1", "S: +OK");
	rename(in_dir("mail/alice/new/1.a,S=2,W=3", NULL),
	    in_dir("mail/alice/cur/1.a,S=2,W=3:2,S", NULL));
	rename(in_dir("mail/alice/cur", NULL), in_dir("mail/alice/x", NULL));
	ck_assert_int_eq(symlink("cur", in_dir("mail/alice/cur", NULL)), 0);
	PLAY(fd, "C: QUIT", "S: -ERR [SYS/TEMP] not all is removed",
	    "S: (closed)");
	ck_assert_uint_eq(count_files("x"), 1);
	close(fd);
}
END_TEST

START_TEST(foreign_files_are_counted_once)
{
	static char large[COUNT_SLICE / 4];

	memset(large, 'x', sizeof(large));
	for (char name[] = "new/0"; name[4] < '8'; name[4]++)
		put_file(name, large, sizeof(large));
	put("new/9.nl,S=4", "a\nb\n");
	mkfifo(in_dir("mail/alice/new/5.fifo", NULL), 0600);
	mkdir(in_dir("mail/alice/new/5.dir", NULL), 0700);
	put("new/.hidden", "x");
	ck_assert_int_eq(symlink("/etc/passwd",
			     in_dir("mail/alice/cur/7.link", NULL)),
	    0);
	int fd = alice();

	send_all(fd, "STAT\r\n", 6);
	for (size_t i = STRESS ? 6 : 1; i > 0; i--)
		turn();
	ck_assert(session()->waiting);
	PLAY(fd, "S= +OK 9 8388630", "C: LIST 9", "S= +OK 9 6", "C: DELE 9",
	    "S: +OK", "C: STAT", "S= +OK 8 8388624", "C: RSET", "S: +OK",
	    "C: STAT", "S= +OK 9 8388630");
	close(fd);
}
END_TEST

START_TEST(two_names_while_we_read_are_one_message)
{
	put("new/1.a,S=2,W=3", "a\n");
	put("cur/1.a,S=2,W=3:2,S", "a\n");
	int fd = alice();

	PLAY(fd, "C: STAT", "S= +OK 1 3");
	close(fd);
}
END_TEST

START_TEST(pipelining_rfc2449_6_6)
{
	put("new/1.a,S=2,W=3", "a\n");
	int fd = client();

	PLAY(fd,
	    "R: USER alice\r\nPASS a b c\r\nSTAT\r\nRETR 1\r\nRETR 1\r\n"
	    "LIST\r\nNOOP\r\nDELE 1\r\nQUIT\r\n",
	    "S: +OK", "S: +OK", "S: +OK 1 messages", "S= +OK 1 3", "S: +OK",
	    "S= a", "S= .", "S: +OK", "S= a", "S= .", "S: +OK", "S= 1 3",
	    "S= .", "S: +OK", "S: +OK", "S: +OK", "S: (closed)");
	close(fd);
	fd = client(); /* half closed: all of it is answered still */
	send_all(fd, "USER bob\r\nPASS builder\r\nSTAT\r\nNO", 32);
	shutdown(fd, SHUT_WR);
	PLAY(fd, "S: +OK", "S: +OK", "S: +OK", "S= +OK 0 0", "S: (closed)");
	close(fd);
}
END_TEST

/* Hundreds of commands before one answer is read: nothing is lost. */
START_TEST(many_commands_at_once)
{
	enum { N = 5000 };
	int fd = alice();

	for (int i = 0; i < N; i++)
		send_all(fd, "NOOP\r\n", 6);
	for (int i = 0; i < N; i++)
		ck_assert_str_eq(hear(fd), "+OK NOOP");
	close(fd);
}
END_TEST

START_TEST(a_thousand_messages_stream)
{
	char name[60], line[60];

	for (int i = 1; i <= 1000; i++) {
		snprintf(name, sizeof(name), "new/%d.a,S=%d,W=%d", i, i, i);
		put(name, "");
	}
	int fd = alice();

	PLAY(fd, "R: LIST\r\nUIDL\r\nRETR 1000\r\n", "S: +OK");
	for (int i = 1; i <= 1000; i++) {
		snprintf(line, sizeof(line), "%d %d", i, i);
		ck_assert_str_eq(hear(fd), line);
	}
	PLAY(fd, "S= .", "S: +OK");
	for (int i = 1; i <= 1000; i++) {
		snprintf(line, sizeof(line), "%d %d.a", i, i);
		ck_assert_str_eq(hear(fd), line);
	}
	PLAY(fd, "S= .", "S: +OK", "S= .", "C: NOOP", "S: +OK");
	ck_assert_uint_eq(session()->c.out.cap, SMALL_BUF);
	close(fd);
}
END_TEST

/* A client that asks for much and does not read: constant memory, others are
 * served, and then every octet is right. */
START_TEST(slow_reader)
{
	enum { LINES = 100000 };
	char *large = malloc(LINES * 80), *end = large;

	for (int i = 0; i < LINES; i++)
		end += sprintf(end, ".%d%.*s\n", i, i % 60,
		    "................."
		    "...........................................");
	put_file("new/1.a", large, (size_t)(end - large));
	free(large);
	int fd = alice();

	send_all(fd, "RETR 1\r\nNOOP\r\n", 14);
	for (int i = 0; i < 2000; i++)
		turn();
	ck_assert_uint_eq(session()->c.out.cap, LARGE_BUF);
	ck_assert_int_eq(session()->feed, FEED_CONTENT);
	struct pop3 *slow = session();
	int other = client();

	PLAY(other, "S: +OK", "C: CAPA", "S: +OK");
	/* it reads nothing for long, then a little: that counts (RFC 1939 3) */
	srv.frozen += 599 * SECOND;
	for (int i = 0; i < 1000000; i++)
		ck_assert_int_ge(hear_octet(fd), 0);
	srv.frozen += 599 * SECOND;
	while (hear_octet(fd) != '\n')
		continue;
	char want[128];
	int line = -1;

	for (const char *got = hear(fd); strcmp(got, ".") != 0;
	     got = hear(fd)) {
		if (line < 0)
			line = atoi(got + 2);
		snprintf(want, sizeof(want), "..%d%.*s", line, line % 60,
		    "...................................................."
		    "........");
		ck_assert_str_eq(got, want);
		line++;
	}
	ck_assert_int_eq(line, LINES);
	PLAY(fd, "S: +OK");
	turn();
	turn();
	ck_assert_uint_eq(slow->c.out.cap, SMALL_BUF);
	close(other);
	close(fd);
}
END_TEST

/* In the middle of an answer no -ERR may come, and no dot. */
START_TEST(torn_answers_are_cut)
{
	static char large[16 << 20];

	memset(large, 'x', sizeof(large));
	put_file("new/1.a,S=1,W=1", large, sizeof(large));
	for (int late = 0; late < 2; late++) {
		int fd = alice(), octet, last = 0;

		send_all(fd, "RETR 1\r\n", 8);
		for (int i = 0; i < 1000; i++)
			turn();
		if (late)
			srv.frozen += 600 * SECOND;
		else
			ck_assert_int_eq(truncate(in_dir("mail/alice/new/"
							 "1.a,S=1,W=1",
						      NULL),
					     100),
			    0);
		if (late)
			turn();
		while ((octet = hear_octet(fd)) >= 0)
			last = octet;
		ck_assert_int_eq(octet, -1);
		ck_assert_int_eq(last, 'x');
		close(fd);
		put_file("new/1.a,S=1,W=1", large, sizeof(large));
	}
}
END_TEST

/* A disk that fails before the message has begun is told of like a file that
 * is gone; and behind any failure stands what was earned before. */
START_TEST(disk_that_fails_rfc3206_4)
{
	char large[20000];

	memset(large, 'x', sizeof(large));
	put("new/1.a,S=2,W=3", "a\n");
	put_file("new/2.b,S=20000,W=20002", large, sizeof(large));
	int fd = alice();

	reads_left = 0;
	PLAY(fd, "R: NOOP\r\nSTAT\r\nRETR 1\r\nTOP 2 0\r\nNOOP\r\n",
	    "S= +OK NOOP", "S= +OK 2 20005",
	    "S: -ERR [SYS/TEMP] cannot be read",
	    "S: -ERR [SYS/TEMP] cannot be read", "S= +OK NOOP");
	reads_left = -1;
	PLAY(fd, "C: RETR 1", "S= +OK 3 octets", "S= a", "S= .");
	const char *ask = "NOOP\r\nRETR 2\r\nNOOP\r\n";
	bool torn = false;

	reads_left = 2; /* the first octet, the first piece */
	send_all(fd, ask, strlen(ask));
	for (int i = 0; i < 1000 && !torn; i++) {
		net_wait(srv.now);
		pop3_serve();
		torn = session()->c.doomed;
		if (torn)
			stop_all(); /* no -ERR comes into what is torn */
		net_settle();
		pop3_reap();
	}
	ck_assert(torn);
	PLAY(fd, "S= +OK NOOP", "S= +OK 20002 octets");
	size_t came = 0;

	for (int octet; (octet = hear_octet(fd)) != -1; came++)
		ck_assert_int_eq(octet, 'x');
	ck_assert_uint_eq(came, PIECE);
	reads_left = -1;
	close(fd);
}
END_TEST

/* After the -ERR there is no lock (RFC 1939 4). */
START_TEST(maildrop_that_cannot_be_read_rfc3206_4)
{
	put("new/1.a,S=2,W=3", "a\n");
	rename(in_dir("mail/alice/cur", NULL), in_dir("mail/alice/x", NULL));
	close(open(in_dir("mail/alice/cur", NULL), O_WRONLY | O_CREAT, 0600));
	int fd = client();

	PLAY(fd, "S: +OK", "C: USER alice", "S: +OK", "C: PASS a b c",
	    "S: -ERR [SYS/PERM]", "C: USER bob", "S: +OK", "C: PASS builder",
	    "S: +OK");
	close(fd);
	unlink(in_dir("mail/alice/cur", NULL));
	fd = alice();
	PLAY(fd, "C: DELE 1", "S: +OK");
	unlink(in_dir("mail/alice/new/1.a,S=2,W=3", NULL));
	mkdir(in_dir("mail/alice/new/1.a,S=2,W=3", NULL), 0700);
	PLAY(fd, "C: RSET", "S: +OK", "C: RETR 1", "S: -ERR [SYS/TEMP]",
	    "C: DELE 1", "S: +OK", "C: QUIT", "S: -ERR [SYS/TEMP] not all",
	    "S: (closed)");
	close(fd);
}
END_TEST

/* One past the limit is left for the next session. */
START_TEST(messages_max)
{
	struct maildrop d = { 0 };
	char name[PATH_MAX];

	put("new/0", "");
	for (int i = 1; i <= MESSAGES_MAX; i++) {
		snprintf(name, sizeof(name), "%s/mail/alice/new/%d", dir, i);
		close(open(name, O_WRONLY | O_CREAT, 0600));
	}
	capture(0);
	ck_assert(maildrop_load(&d, "alice"));
	ck_assert_ptr_nonnull(strstr(captured(),
	    "maildrop user=alice: no more than 100000 messages are seen\n"));
	ck_assert_uint_eq(d.left, MESSAGES_MAX);
	maildrop_free(&d);
	unlink(in_dir("mail/alice/new/7", NULL));
	ck_assert(maildrop_load(&d, "alice"));
	ck_assert_uint_eq(d.left, MESSAGES_MAX);
	maildrop_free(&d);
	unlink(in_dir("mail/alice/new/8", NULL));
	capture(0);
	ck_assert(maildrop_load(&d, "alice"));
	ck_assert_str_eq(captured(), "");
	ck_assert_uint_eq(d.left, MESSAGES_MAX - 1);
	maildrop_free(&d);
}
END_TEST

START_TEST(faults_of_the_laboratory)
{
	struct fault faults[] = {
		{ KIND_POP3, "stat", FAULT_ERR, 0, 100 },
		{ KIND_POP3, "LIST", FAULT_DROP, 0, 100 },
		{ KIND_POP3, "UIDL", FAULT_STALL, 0, 100 },
		{ KIND_POP3, "connect", FAULT_ERR, 0, 0 },
	};

	conf.faults = faults;
	conf.n_faults = NELEM(faults);
	int fd = alice();

	PLAY(fd, "C: STAT", "S: -ERR [SYS/TEMP] a laboratory", "C: NOOP",
	    "S: +OK", "C: LIST", "S: (closed)");
	close(fd);
	fd = alice(); /* what came before is answered */
	PLAY(fd, "R: NOOP\r\nSTAT\r\nLIST\r\nNOOP\r\n", "S: +OK",
	    "S: -ERR [SYS/TEMP] a laboratory", "S: (closed)");
	close(fd);
	fd = alice();
	PLAY(fd, "C: UIDL", "S: (silence)", "C: NOOP", "S: (silence)",
	    "T: 600000", "S: (closed)");
	close(fd);
	faults[3].percent = 100;
	fd = client();
	PLAY(fd, "S: -ERR [SYS/TEMP] a laboratory", "S: (closed)");
	close(fd);
}
END_TEST

START_TEST(stop_tells_everybody)
{
	static char large[16 << 20];

	memset(large, 'x', sizeof(large));
	put_file("new/1.a,S=1,W=1", large, sizeof(large));
	int fd = client(), other = client(), busy = alice();

	PLAY(fd, "S: +OK");
	PLAY(other, "S: +OK", "C: USER carol", "S: +OK");
	send_all(other, "PASS x\r\n", 8);
	send_all(busy, "RETR 1\r\n", 8);
	for (int i = 0; i < 10; i++)
		turn();
	net_wait(srv.now);
	stop_all();
	net_settle();
	pop3_reap();
	PLAY(fd, "S: -ERR [SYS/TEMP] the server stops", "S: (closed)");
	PLAY(other, "S: -ERR [SYS/TEMP] the server stops", "S: (closed)");
	int octet, last = 0;

	while ((octet = hear_octet(busy)) >= 0)
		last = octet;
	ck_assert_int_eq(last, 'x');
	close(fd);
	close(other);
	close(busy);
}
END_TEST

/* What n checks of a password cost this process, in microseconds. */
static double
cost_of(const struct user *user, const char *given, int n)
{
	struct timespec begun, now;
	int right = 0; /* ck_assert() would cost more than the check */

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begun);
	for (int i = 0; i < n; i++)
		right += secret_check(user, given);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	ck_assert_int_eq(right, 0);
	return (double)(now.tv_sec - begun.tv_sec) * 1e6 +
	    (double)(now.tv_nsec - begun.tv_nsec) / 1e3;
}

/* A name that does not exist costs as much as a wrong password, within a
 * factor of three.  (The answer of both comes a second after PASS, anyway.) */
START_TEST(unknown_names_cost_as_much)
{
	struct user carol = users[2];

	carol.secret = strdup(crypt("sesame", "$6$abcdefghijklmnop$"));
	double known = cost_of(&carol, "wrong", 20);
	double unknown = cost_of(NULL, "wrong", 20);

	ck_assert_msg(known < 3 * unknown && unknown < 3 * known,
	    "known %.0f us, unknown %.0f us", known, unknown);
	free(carol.secret);
}
END_TEST

/* Equal is equal only as a whole; and what a password has in common with the
 * right one does not show: the first octet, or all but the last. */
START_TEST(secrets_are_compared_in_equal_time)
{
	static const struct {
		const char *given, *right;
		bool equal;
	} pairs[] = { { "", "", true }, { "a", "a", true }, { "a", "", false },
		{ "", "a", false }, { "ab", "a", false }, { "a", "ab", false },
		{ "abc", "abd", false }, { "abc", "xbc", false },
		{ "a\200", "a\200", true }, { "aa", "a", false } };
	enum { LEN = 200, N = 200000 };
	char right[LEN + 1], first[LEN + 1], last[LEN + 1];
	struct user bob = { "bob", right, true };

	for (size_t i = 0; i < NELEM(pairs); i++)
		ck_assert_msg(secret_equal(pairs[i].given, pairs[i].right) ==
			pairs[i].equal,
		    "%s %s", pairs[i].given, pairs[i].right);
	for (int i = 0; i < LEN; i++)
		right[i] = first[i] = last[i] = 'x';
	right[LEN] = first[LEN] = last[LEN] = '\0';
	first[0] = last[LEN - 1] = 'y';
	double early = cost_of(&bob, first, N), late = cost_of(&bob, last, N);

	ck_assert_msg(late < 3 * early && early < 3 * late,
	    "early %.0f us, late %.0f us", early, late);
}
END_TEST

/* RFC 1939 7: another session, a flag, a twin: the unique-ids stay. */
START_TEST(unique_ids_last_rfc1939_7)
{
	put("new/1.a,S=2,W=3", "a\n");
	put("new/2.b,S=2,W=3", "a\n");
	int fd = alice();

	PLAY(fd, "C: UIDL", "S: +OK", "S= 1 1.a", "S= 2 2.b", "S= .", "C: QUIT",
	    "S: +OK");
	close(fd);
	rename(in_dir("mail/alice/new/1.a,S=2,W=3", NULL),
	    in_dir("mail/alice/cur/1.a,S=2,W=3:2,RS", NULL));
	rename(in_dir("mail/alice/new/2.b,S=2,W=3", NULL),
	    in_dir("mail/alice/cur/2.b:2,", NULL));
	put("new/0.c,S=2,W=3", "a\n"); /* comes first */
	fd = alice();
	PLAY(fd, "C: UIDL", "S: +OK", "S= 1 0.c", "S= 2 1.a", "S= 3 2.b",
	    "S= .", "C: DELE 2", "S: +OK", "C: QUIT", "S: +OK");
	close(fd);
	fd = alice();
	PLAY(fd, "C: UIDL 2", "S= +OK 2 2.b");
	close(fd);
}
END_TEST

/* Neither in the trace nor in the session's memory. */
START_TEST(passwords_are_not_kept)
{
	char said[8192];
	FILE *log = tmpfile();
	int old = dup(STDERR_FILENO);

	log_level = 1;
	dup2(fileno(log), STDERR_FILENO);
	int fd = client();

	PLAY(fd, "S: +OK", "C: USER alice", "S: +OK", "R: PASS swordf",
	    "R: ish\r\n", "T: 1000", "S: -ERR", "C: AUTH PLAIN swordfish",
	    "S: -ERR", "C: PASS\tswordfish", "S: -ERR", "C: pass swordfish",
	    "S: -ERR", "C: USER alice\rPASS swordfish", "S: -ERR wanted",
	    "C: USER alice\tswordfish", "S: -ERR wanted",
	    "C: user alice PASS swordfish", "S: -ERR wanted",
	    "C: USER alice\177swordfish", "S: -ERR wanted",
	    "R: PASS swordfish\n", "S: -ERR", "C: USER alice", "S: +OK",
	    "C: PASS a b c", "S: +OK"); /* right, and at once */
	fflush(stderr);
	dup2(old, STDERR_FILENO);
	close(old);
	log_level = -1;
	rewind(log);
	size_t len = fread(said, 1, sizeof(said) - 1, log);

	said[len] = '\0';
	fclose(log);
	ck_assert_ptr_nonnull(strstr(said, "< PASS ..."));
	ck_assert_ptr_nonnull(strstr(said, "< USER alice  "));
	ck_assert_ptr_null(strstr(said, "swordf"));
	const struct pop3 *s = session();

	ck_assert_ptr_null(memmem(s, sizeof(*s), "sword", 5));
	ck_assert_ptr_null(memmem(s->c.in.data, s->c.in.cap, "sword", 5));
	ck_assert_ptr_null(memmem(s, sizeof(*s), "a b c", 5));
	ck_assert_ptr_null(memmem(s->c.in.data, s->c.in.cap, "a b c", 5));
	close(fd);
}
END_TEST

/* Every edge of states[] is gone, and no other. */
START_TEST(every_edge_rfc1939_3)
{
	int fd = client();
	char edge[64];

	capture(1);
	PLAY(fd, "S: +OK", "C: QUIT", "S: +OK", "S: (closed)");
	close(fd);
	fd = client();
	PLAY(fd, "S: +OK", "R: USER bob\r\nPASS x\r\nUSER bob\r\nPASS x\r\n",
	    "S: +OK", "T: 1000", "S: -ERR", "S: +OK", "T: 1000", "S: -ERR",
	    "R: USER bob\r\nPASS x\r\n", "S: +OK", "T: 1000", "S: -ERR",
	    "S: (closed)");
	close(fd);
	close(alice());
	turns(1);
	fd = alice();
	PLAY(fd, "C: QUIT", "S: +OK", "S: (closed)");
	close(fd);
	const char *said = captured();

	for (unsigned from = 0; from < N_POP3_STATES; from++)
		for (unsigned to = 0; to < N_POP3_STATES; to++) {
			snprintf(edge, sizeof(edge), " %s -> %s\n",
			    states[from].name, states[to].name);
			ck_assert_msg((strstr(said, edge) != NULL) ==
				((states[from].may_follow & IN(to)) != 0),
			    "%s", edge);
		}
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("pop3");
	TCase *rules = tcase_create("rules"), *talk = tcase_create("dialogues");

	tcase_add_checked_fixture(rules, set_up, tear_down);
	tcase_add_checked_fixture(talk, set_up, tear_down);
	tcase_set_timeout(rules, 120);
	tcase_set_timeout(talk, 120);
	tcase_add_test(rules, numbers_rfc1939_5);
	tcase_add_test(rules, users_without_regard_to_case);
	tcase_add_test(rules, unique_ids_rfc1939_7);
	tcase_add_test(rules, order_is_time_then_name);
	tcase_add_test(rules, sizes_from_names);
	tcase_add_test(rules, dot_stuffing_rfc1939_3);
	tcase_add_test(rules, octets_rfc1939_11);
	tcase_add_test(rules, counts_are_remembered);
	tcase_add_test(rules, counts_are_forgotten);
	tcase_add_test(rules, delivery_is_one_file_with_many_names);
	tcase_add_test(rules, delivery_counts_the_missing_line_end);
	tcase_add_test(rules, delivery_tells_why_not);
	tcase_add_test(rules, delivery_across_file_systems);
	tcase_add_test(rules, messages_max);
	tcase_add_test(talk, dialogue_rfc1939_10);
	tcase_add_test(talk, capa_rfc2449_5);
	tcase_add_test(talk, strict_numbers_rfc1939_5);
	tcase_add_test(talk, lines_rfc1939_3);
	tcase_add_test(talk, every_answer_rfc1939_3);
	tcase_add_test(talk, states_rfc1939_3);
	tcase_add_test(talk, nothing_removed_without_quit_rfc1939_6);
	tcase_add_test(talk, files_that_move_again_are_found);
	tcase_add_test(talk, a_look_that_fails_removes_nothing);
	tcase_add_test(talk, quit_removes_in_slices_rfc1939_6);
	tcase_add_test(talk, wrong_password_takes_a_second);
	tcase_add_test(talk, one_crypt_a_turn);
	tcase_add_test(talk, in_use_rfc2449_8_1_2);
	tcase_add_test(talk, too_many_clients);
	tcase_add_test(talk, files_that_move_are_found);
	tcase_add_test(talk, foreign_files_are_counted_once);
	tcase_add_test(talk, two_names_while_we_read_are_one_message);
	tcase_add_test(talk, pipelining_rfc2449_6_6);
	tcase_add_test(talk, many_commands_at_once);
	tcase_add_test(talk, a_thousand_messages_stream);
	if (!STRESS) { /* megabytes, one octet at a time */
		tcase_add_test(talk, slow_reader);
		tcase_add_test(talk, torn_answers_are_cut);
		tcase_add_test(talk, stop_tells_everybody);
	}
	tcase_add_test(talk, disk_that_fails_rfc3206_4);
	tcase_add_test(talk, maildrop_that_cannot_be_read_rfc3206_4);
	tcase_add_test(talk, faults_of_the_laboratory);
	tcase_add_test(talk, unknown_names_cost_as_much);
	tcase_add_test(talk, secrets_are_compared_in_equal_time);
	tcase_add_test(talk, passwords_are_not_kept);
	tcase_add_test(talk, unique_ids_last_rfc1939_7);
	tcase_add_test(talk, every_edge_rfc1939_3);
	suite_add_tcase(suite, rules);
	suite_add_tcase(suite, talk);
	SRunner *runner = srunner_create(suite);

	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);

	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
