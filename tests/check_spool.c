/*
 * check_spool.c -- messages on disk: where an address leads, the way in, the
 * commit with every disk call that may fail, envelopes, and what starts and
 * tools find.
 *
 * fsync(), syncfs(), linkat() and unlinkat() are this file's own: they write
 * down what is done, and the first three fail when a test wants it, before
 * they do what they should.  fstat(), uname(), write() and ioctl() tell of
 * machines that the tests do not have.
 *
 * Wraps: uname write ioctl
 */
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <sysexits.h>
#include "testlib.h"

/* ---- the disk, with a pencil and a hammer -------------------------------- */

/* What has been called, in this order: F fsync, S syncfs, linkat M of content
 * and E of an envelope in the queue, L of mail; and what was removed. */
static char calls[512], removed[512];
static int fail_at; /* the call that fails, from 1; 0: none */
static bool two_disks; /* mailboxes are elsewhere: link(2) says so */
static bool choppy;    /* what is written goes in pieces, and is disturbed */
static const char *kernel; /* its release; NULL: the real one */

/* One letter more at the end of such a list; its new length. */
static size_t
write_down(char *list, char what)
{
	size_t n = strlen(list);

	if (n + 1 < sizeof(calls)) {
		list[n++] = what;
		list[n] = '\0';
	}
	return n;
}

static bool
disk_fails(char what)
{
	size_t n = write_down(calls, what);

	errno = EIO;
	return fail_at > 0 && n == (size_t)fail_at;
}

/* Which of the three a file's name tells. */
static char
letter_of(const char *name)
{
	size_t len = strlen(name);

	if (len > 4 && strcmp(name + len - 4, ".msg") == 0)
		return 'M';
	return len > 4 && strcmp(name + len - 4, ".env") == 0 ? 'E' : 'L';
}

int
fsync(int fd)
{
	return disk_fails('F') ? -1 : (int)syscall(SYS_fsync, fd);
}

int
syncfs(int fd)
{
	return disk_fails('S') ? -1 : (int)syscall(SYS_syncfs, fd);
}

int
linkat(int from, const char *old, int to, const char *new, int flags)
{
	if (disk_fails(letter_of(new)))
		return -1;
	errno = EXDEV;
	if (two_disks && letter_of(new) == 'L')
		return -1;
	return (int)syscall(SYS_linkat, from, old, to, new, flags);
}

static bool no_groups; /* the file system has none */

int __wrap_ioctl(int fd, unsigned long what, void *arg);
int
__wrap_ioctl(int fd, unsigned long what, void *arg)
{
	errno = ENOTTY;
	return no_groups ? -1 : (int)syscall(SYS_ioctl, fd, what, arg);
}

static int unlink_fails; /* with this error, or 0 */

int
unlinkat(int at, const char *name, int flags)
{
	write_down(removed, letter_of(name));
	if (unlink_fails != 0) {
		errno = unlink_fails;
		return -1;
	}
	return (int)syscall(SYS_unlinkat, at, name, flags);
}

/* What leaves the queue goes to the spares, or, where it cannot, for good. */
int
renameat(int from, const char *old, int to, const char *new)
{
	if (to == srv.drafts.spares && unlink_fails != 0) {
		errno = unlink_fails;
		return -1;
	}
	if (to == srv.drafts.spares)
		write_down(removed, letter_of(old));
	return (int)syscall(SYS_renameat, from, old, to, new);
}

static bool for_a_moment; /* a limit on files is lifted by what it stops */

/* In such a moment there is room again before the last line comes. */
int
fprintf(FILE *f, const char *fmt, ...)
{
	struct rlimit limit;
	va_list ap;

	va_start(ap, fmt);
	int n = vfprintf(f, fmt, ap);

	va_end(ap);
	if (for_a_moment && ferror(f) &&
	    getrlimit(RLIMIT_FSIZE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_FSIZE, &limit);
	}
	return n;
}

int __real_uname(struct utsname *system);
int __wrap_uname(struct utsname *system);
int
__wrap_uname(struct utsname *system)
{
	int result = __real_uname(system);

	if (kernel != NULL)
		snprintf(system->release, sizeof(system->release), "%s",
		    kernel);
	return result;
}

ssize_t __real_write(int fd, const void *data, size_t len);
ssize_t __wrap_write(int fd, const void *data, size_t len);
ssize_t
__wrap_write(int fd, const void *data, size_t len)
{
	static unsigned turn;

	if (!choppy)
		return __real_write(fd, data, len);
	errno = EINTR;
	return ++turn % 2 == 0 ? -1 : __real_write(fd, data, len / 2 + 1);
}

/* Forget what was called; let the n-th call from now on fail (0: none). */
static void
disk(int n)
{
	calls[0] = removed[0] = '\0';
	fail_at = n;
}

/* ---- fixtures ------------------------------------------------------------ */

static struct conf *conf;

static const char conf_text[] =
    "hostname here.test\n"
    "listen_smtp 127.0.0.1:2525 [::1]:2525\n"
    "domain here.test\n"
    "users users\n"
    "relay_domain listed.test list\n"
    "relay_domain open.test\n"
    "alias sales bob\n"
    "alias away someone@far.test\n"
    "alias team alice\nalias team bob@HERE.test\nalias team kim@far.test\n"
    "alias chain1 chain2@here.test\nalias chain2 chain3@here.test\n"
    "alias chain3 carol@here.test\n"
    "alias self self@here.test\nalias self alice\n"
    "alias ring1 ring2@here.test\nalias ring2 ring1@here.test\n"
    "alias ring2 bob\n"
    "alias alice bob\n"
    "alias listed ann@listed.test\n";

static void
begin(void)
{
	test_begin();
	test_write("list", "ann\nBert\n");
	conf = test_conf(conf_text);
	clock_read();
	ck_assert_int_eq(spool_start(conf), 0);
	disk(0);
}

static void
end(void)
{
	disk(0);
	two_disks = choppy = false;
	kernel = NULL;
	no_groups = false;
	close(srv.drafts.groups);
	close(srv.spool.dir);
	close(srv.drafts.tmp);
	close(srv.drafts.spares);
	close(srv.spool.failed);
	close(srv.spool.lock);
	conf_free(conf);
	test_end();
}

/* Names in a folder, but for . and .. and those given; the last one found. */
static size_t
count(const char *folder, const char *except, char *last)
{
	DIR *dir = opendir(test_path(folder));
	size_t n = 0;

	for (struct dirent *entry; dir && (entry = readdir(dir)) != NULL;)
		if (strcmp(entry->d_name, ".") != 0 &&
		    strcmp(entry->d_name, "..") != 0 &&
		    strstr(except, entry->d_name) == NULL) {
			if (last != NULL)
				snprintf(last, NAME_MAX + 1, "%s",
				    entry->d_name);
			n++;
		}
	if (dir != NULL)
		closedir(dir);
	return n;
}

static size_t
in_queue(void)
{
	return count("mailserv-data/queue", "tmp failed lock .groups .spares", NULL);
}

/* Drafts: shown, or in a folder of their second. */
static size_t
in_drafts(void)
{
	char folder[64];
	size_t n = count("mailserv-data/queue/tmp", "", NULL);

	for (unsigned i = 0; i < 256; i++) {
		snprintf(folder, sizeof(folder),
		    "mailserv-data/queue/.groups/%02x", i);
		n += count(folder, "", NULL);
	}
	return n;
}

static size_t
in_spares(void)
{
	return count("mailserv-data/queue/.spares", "", NULL);
}

static size_t
in_mailbox(const char *user)
{
	char folder[128];

	snprintf(folder, sizeof(folder), "mailserv-data/mail/%s/new", user);
	return count(folder, "", NULL);
}

/* The only message of a mailbox, as text. */
static const char *
mail_of(const char *user)
{
	char folder[128], name[NAME_MAX + 1];
	char path[sizeof(folder) + NAME_MAX + 2];

	snprintf(folder, sizeof(folder), "mailserv-data/mail/%s/new", user);
	ck_assert_uint_eq(count(folder, "", name), 1);
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return test_read(path);
}

/* queue/ID.END or queue/failed/ID.END, as text; NULL: there is none. */
static const char *
spool_file(const char *folder, const char *id, const char *ending)
{
	char path[128];

	snprintf(path, sizeof(path), "mailserv-data/%s/%s.%s", folder, id,
	    ending);
	return test_read(path);
}

/* A message from a@far.test to these (parted by blanks), ready to be
 * submitted. */
static struct msg *
message(const char *to, const char *content)
{
	struct msg *m = spool_begin("a@far.test");
	char list[1024];

	ck_assert_ptr_nonnull(m);
	snprintf(list, sizeof(list), "%s", to);
	for (char *at = strtok(list, " "); at != NULL; at = strtok(NULL, " "))
		ck_assert(place_add(conf, m, at));
	spool_open(m);
	spool_write(m, content, strlen(content));
	return m;
}

/* Submit and commit one message. */
static enum msg_state
commit(struct msg *m)
{
	spool_submit(m);
	ck_assert_int_eq(m->state, MSG_SUBMITTED);
	spool_commit();
	ck_assert_ptr_null(srv.spool.commit);
	ck_assert_int_eq(m->state == MSG_COMMITTED, m->error == 0);
	return m->state;
}

/* The users and addresses that a message goes to, in text. */
static const char *
leads_to(const char *to)
{
	static char text[1024];
	struct msg *m = message(to, "");
	size_t len = 0;

	text[0] = '\0';
	for (size_t i = 0; i < m->locals.n; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s",
		    len > 0 ? " " : "", m->locals.v[i]);
	for (size_t i = 0; i < m->remotes.n; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s",
		    len > 0 ? " " : "", m->remotes.v[i]);
	spool_drop(m);
	return text;
}

/* ---- where an address leads ---------------------------------------------- */

static const struct {
	const char *address;
	enum place place;
	const char *to;
} places[] = {
	/* Users: without regard to case, of our domains, and before an
	 * alias of that name (alias alice bob). */
	{ "alice@here.test", PLACE_LOCAL, "alice" },
	{ "ALICE@Here.Test", PLACE_LOCAL, "alice" },
	{ "alice", PLACE_LOCAL, "alice" },
	{ "nobody@here.test", PLACE_NOBODY, "" },
	{ "alic@here.test", PLACE_NOBODY, "" },
	{ "alice@sub.here.test", PLACE_REMOTE, "alice@sub.here.test" },
	{ "alice@ere.test", PLACE_REMOTE, "alice@ere.test" },
	/* RFC 5321 4.5.1: postmaster, with and without a domain. */
	{ "postmaster", PLACE_LOCAL, "alice" },
	{ "PostMaster@here.test", PLACE_LOCAL, "alice" },
	/* RFC 5321 4.1.2: quoting is not part of the name. */
	{ "\"alice\"@here.test", PLACE_LOCAL, "alice" },
	{ "\"a\\lice\"@here.test", PLACE_LOCAL, "alice" },
	{ "\"ali ce\"@here.test", PLACE_NOBODY, "" },
	{ "\"\"@here.test", PLACE_NOBODY, "" },
	{ "\"x@y\"@here.test", PLACE_NOBODY, "" },
	{ "\"x@here.test\"@far.test", PLACE_REMOTE,
	    "\"x@here.test\"@far.test" },
	{ "\"alice\\", PLACE_NOBODY, "" },
	{ "\"alice", PLACE_LOCAL, "alice" },
	/* RFC 5321 4.1.3: address literals of ours, and of others. */
	{ "alice@[127.0.0.1]", PLACE_LOCAL, "alice" },
	{ "alice@[IPv6:::1]", PLACE_LOCAL, "alice" },
	{ "nobody@[127.0.0.1]", PLACE_NOBODY, "" },
	{ "alice@[192.0.2.1]", PLACE_REMOTE, "alice@[192.0.2.1]" },
	{ "alice@[IPv6:2001:db8::1]", PLACE_REMOTE,
	    "alice@[IPv6:2001:db8::1]" },
	{ "alice@[127.0.0.x]", PLACE_REMOTE, "alice@[127.0.0.x]" },
	/* No path, no expansion: a name is looked up. */
	{ "../bob@here.test", PLACE_NOBODY, "" },
	{ ".@here.test", PLACE_NOBODY, "" },
	{ "new@here.test", PLACE_NOBODY, "" },
	{ "${run{x}}@here.test", PLACE_NOBODY, "" },
	{ "alice%far.test@here.test", PLACE_NOBODY, "" },
	/* Aliases: to users, to addresses, to both, chains, rings. */
	{ "sales@here.test", PLACE_LOCAL, "bob" },
	{ "SALES@here.test", PLACE_LOCAL, "bob" },
	{ "away@here.test", PLACE_LOCAL, "someone@far.test" },
	{ "team@here.test", PLACE_LOCAL, "alice bob kim@far.test" },
	{ "chain1@here.test", PLACE_LOCAL, "carol" },
	{ "self@here.test", PLACE_LOCAL, "alice" },
	{ "ring1@here.test", PLACE_LOCAL, "bob" },
	{ "ring2@here.test", PLACE_LOCAL, "bob" },
	{ "listed@here.test", PLACE_LOCAL, "ann@listed.test" },
	/* relay_domain, with and without a list. */
	{ "ann@listed.test", PLACE_RELAY, "ann@listed.test" },
	{ "BERT@Listed.Test", PLACE_RELAY, "BERT@Listed.Test" },
	{ "\"ann\"@listed.test", PLACE_RELAY, "\"ann\"@listed.test" },
	{ "alice@listed.test", PLACE_NOBODY, "" },
	{ "postmaster@listed.test", PLACE_RELAY, "postmaster@listed.test" },
	{ "any@open.test", PLACE_RELAY, "any@open.test" },
	{ "any@sub.open.test", PLACE_REMOTE, "any@sub.open.test" },
	{ "any@far.test", PLACE_REMOTE, "any@far.test" },
};

START_TEST(place_of_an_address)
{
	const char *address = places[_i].address;

	ck_assert_msg(place_of(conf, address) == places[_i].place, "%s: %d",
	    address, place_of(conf, address));
	if (strchr(address, ' ') == NULL) /* leads_to() parts them there */
		ck_assert_str_eq(leads_to(address), places[_i].to);
}
END_TEST

/* Everybody once, however they are named; others keep their case, for only
 * the host that has the mailbox may judge (RFC 5321 2.4). */
START_TEST(nobody_twice)
{
	ck_assert_str_eq(leads_to("bob@here.test sales@here.test"
				  " team@here.test BOB@[127.0.0.1]"
				  " kim@far.test Kim@far.test kim@far.test"),
	    "alice bob Kim@far.test kim@far.test");
}
END_TEST

/* catch_all takes what nobody else does; users and aliases come first. */
START_TEST(catch_all)
{
	static const char *const rows[][2] = {
		{ "nobody@here.test", "carol" },
		{ "\"any thing\"@here.test", "carol" },
		{ "nobody@[127.0.0.1]", "carol" },
		{ "alice@here.test", "alice" },
		{ "sales@here.test", "bob" },
		{ "void@here.test", "carol" },
		{ "a@far.test", "a@far.test" },
	};
	struct conf *standard = conf;

	conf = test_conf("domain here.test\nusers users\ncatch_all carol\n"
			 "alias sales bob\nalias void void@here.test\n");
	for (size_t i = 0; i < NELEM(rows); i++) {
		struct msg *m = spool_begin("");

		ck_assert(place_add(conf, m, rows[i][0]));
		ck_assert_uint_eq(m->locals.n + m->remotes.n, 1);
		ck_assert_str_eq(m->locals.n > 0 ? m->locals.v[0] :
						   m->remotes.v[0],
		    rows[i][1]);
		spool_drop(m);
	}
	conf_free(conf);
	srv.conf = conf = standard;
}
END_TEST

/* The longest local part and domain (RFC 5321 4.5.3.1), and past them. */
START_TEST(longest_addresses)
{
	char address[2048];

	for (int local = 60; local < 1000; local += 61)
		for (int domain = 200; domain < 1000; domain += 55) {
			memset(address, 'a', (size_t)(local + domain));
			address[local] = '@';
			address[local + domain] = '\0';
			ck_assert_int_eq(place_of(conf, address),
			    PLACE_REMOTE);
			snprintf(address + local, sizeof(address) - 1000,
			    "@here.test");
			ck_assert_int_eq(place_of(conf, address),
			    PLACE_NOBODY);
		}
}
END_TEST

/* ---- the way in ---------------------------------------------------------- */

/* Ids: 16 digits that grow, also when the administrator sets the clock back
 * or it stands still. */
START_TEST(ids_only_grow)
{
	static const msec wall[] = { 1795508645123, 1795508645123,
		1795508645124, 1000, 0, 1795508645124, 1795508999999 };
	char last[ID_LEN + 1] = "";

	for (size_t i = 0; i < NELEM(wall); i++)
		for (int again = 0; again < 500; again++) {
			srv.wall = wall[i];
			struct msg *m = spool_begin("");

			if (strlen(m->id) != ID_LEN ||
			    strspn(m->id, "0123456789abcdef") != ID_LEN ||
			    strcmp(m->id, last) <= 0)
				ck_abort_msg("%s after %s", m->id, last);
			memcpy(last, m->id, sizeof(last));
			spool_drop(m);
		}
}
END_TEST

/* RFC 5321 4.4: Return-Path: is the first line; the counts are right. */
START_TEST(content_is_counted)
{
	struct msg *m = spool_begin("a@far.test");
	char big[20000];

	ck_assert_int_eq(m->content.fd, -1);
	spool_open(m);
	ck_assert_uint_eq(in_drafts(), 1);
	ck_assert_uint_eq(m->head, strlen("Return-Path: <a@far.test>\n"));
	spool_write(m, "", 0);
	spool_write(m, "Subject: x\n\nend", 15);
	ck_assert_uint_eq(m->size, m->head + 15);
	ck_assert(m->unfinished);
	spool_write(m, "\n", 1);
	ck_assert(!m->unfinished);
	memset(big, '\n', sizeof(big)); /* more than its buffer */
	spool_write(m, big, sizeof(big));
	ck_assert_uint_eq(m->size, m->head + 16 + sizeof(big));
	spool_write(m, "\x80", 1);
	ck_assert(place_add(conf, m, "alice@here.test"));
	ck_assert_int_eq(commit(m), MSG_COMMITTED);
	ck_assert_uint_eq(m->lines, 4 + sizeof(big));
	const char *mail = mail_of("alice");

	ck_assert_uint_eq(strlen(mail), m->size);
	ck_assert_int_eq(strncmp(mail, "Return-Path: <a@far.test>\nSubject: "
				       "x\n\nend\n\n\n", 44), 0);
	spool_drop(m);
}
END_TEST

/* An octet over 127 is seen, wherever it stands (RFC 6152 2). */
START_TEST(rfc6152_2_eightbit)
{
	char content[32] = "thirty-one octets, or the line.";

	for (size_t i = 0; i <= strlen(content); i++) {
		char octet = content[i];

		if (octet != '\0')
			content[i] = (char)(octet | 0x80);
		struct msg *m = message("alice@here.test", content);

		ck_assert_int_eq(commit(m), MSG_COMMITTED);
		ck_assert_uint_eq(m->lines, 1);
		ck_assert(m->eightbit == (octet != '\0'));
		spool_drop(m);
		content[i] = octet;
	}
}
END_TEST

/* Written in pieces of every size, it is the same content. */
START_TEST(content_in_pieces)
{
	static char text[30001];
	static const size_t piece[] = { 1, 2, 997, 8191, 8192, 8193, 30000 };

	for (size_t i = 0; i < sizeof(text) - 1; i++)
		text[i] = (char)(i % 61 == 60 ? '\n' : 'a' + (int)(i % 26));
	for (size_t k = 0; k < NELEM(piece); k++) {
		struct msg *m = spool_begin("");

		ck_assert(place_add(conf, m, "x@far.test"));
		spool_open(m);
		for (size_t at = 0; at < 30000; at += piece[k])
			spool_write(m, text + at,
			    30000 - at < piece[k] ? 30000 - at : piece[k]);
		ck_assert_int_eq(commit(m), MSG_COMMITTED);
		const char *got = spool_file("queue", m->id, "msg");

		ck_assert_int_eq(strncmp(got, "Return-Path: <>\n", 16), 0);
		ck_assert_str_eq(got + 16, text);
		spool_drop(m);
	}
}
END_TEST

/* A signal, and a disk that takes half: the rest is written again. */
START_TEST(writes_in_pieces)
{
	static char content[200000];

	for (size_t i = 0; i + 1 < sizeof(content); i++)
		content[i] = i % 70 == 69 ? '\n' : (char)('a' + i % 26);
	choppy = true;
	struct msg *m = message("alice@here.test", content);

	ck_assert_int_eq(commit(m), MSG_COMMITTED);
	choppy = false;
	ck_assert_uint_eq(m->size, m->head + strlen(content));
	spool_drop(m);
	const char *mail = mail_of("alice");

	ck_assert_ptr_nonnull(strchr(mail, '\n'));
	ck_assert_int_eq(strncmp(strchr(mail, '\n') + 1, content, 60000), 0);
}
END_TEST

/* spool_start() of another data_dir: its status; what it logs is captured,
 * and what it opened is closed. */
static int other_groups; /* what it made of them */

static int
other_start(const char *data_dir, const char **said)
{
	char *mine = conf->data_dir, *theirs = strdup(data_dir);
	struct spool spool = srv.spool;
	struct drafts drafts = srv.drafts;

	srv.spool = (struct spool){ .dir = -1 };
	srv.drafts = (struct drafts){ .spares = -1 };
	conf->data_dir = theirs;
	log_level = 0;
	test_capture(STDERR_FILENO);
	int status = spool_start(conf);

	*said = test_captured();
	log_level = -1;
	other_groups = srv.drafts.groups;
	close(srv.drafts.groups);
	close(srv.spool.dir);
	close(srv.drafts.tmp);
	close(srv.drafts.spares);
	close(srv.spool.failed);
	close(srv.spool.lock);
	srv.spool = spool;
	srv.drafts = drafts;
	conf->data_dir = mine;
	free(theirs);
	return status;
}

/* A new file is made in a folder of this second; who is received for longer is
 * shown in queue/tmp.  Nothing is written over: it may have another name. */
START_TEST(new_file)
{
	char folder[64], left[100];
	struct msg *m = spool_begin("a@far.test");

	if (srv.drafts.groups < 0) {
		printf("new_file: skipped: not on ext4\n");
		spool_drop(m);
		return;
	}
	snprintf(folder, sizeof(folder), "mailserv-data/queue/.groups/%.2s",
	    m->id + 6);
	snprintf(left, sizeof(left), "%s/%s.msg", folder, m->id);
	ck_assert(place_add(conf, m, "alice@here.test"));
	spool_open(m);
	ck_assert_uint_eq(count(folder, "", NULL), 1);
	spool_show(m);
	spool_show(m);
	ck_assert_uint_eq(count(folder, "", NULL), 0);
	ck_assert_uint_eq(count("mailserv-data/queue/tmp", "", NULL), 1);
	ck_assert_int_eq(commit(m), MSG_COMMITTED);
	ck_assert_str_eq(mail_of("alice"), "Return-Path: <a@far.test>\n");
	spool_drop(m);
	ck_assert_uint_eq(in_drafts(), 0);

	m = spool_begin("a@far.test");
	snprintf(left, sizeof(left), "%s/%s.msg", folder, m->id);
	test_write("mail", "of somebody\n");
	ck_assert_int_eq(link(test_path("mail"), test_path(left)), 0);
	spool_open(m);
	ck_assert_int_eq(m->error, 0);
	ck_assert_uint_eq(count("mailserv-data/queue/tmp", "", NULL), 1);
	spool_drop(m);
	ck_assert_str_eq(test_read(left), "of somebody\n");

	srv.wall += 1049; /* 2^20 microseconds, and a bit */
	m = spool_begin("a@far.test");
	spool_open(m);
	ck_assert_int_ne(strncmp(folder + strlen(folder) - 2, m->id + 6, 2),
	    0);
	ck_assert_uint_eq(count("mailserv-data/queue/.groups", "", NULL), 2);
	spool_drop(m);
	/* Gone while we run: then without. */
	ck_assert_int_eq(rename(test_path("mailserv-data/queue/.groups"),
	    test_path("away")), 0);
	int groups = srv.drafts.groups;

	srv.drafts.groups = open(test_path("users"), O_RDONLY | O_CLOEXEC);
	m = message("bob@here.test", "x\n");
	ck_assert_int_eq(commit(m), MSG_COMMITTED);
	spool_drop(m);
	close(srv.drafts.groups);
	srv.drafts.groups = groups;
}
END_TEST

/* Where a file system has no block groups, it is made in queue/tmp. */
START_TEST(new_file_without_groups)
{
	const char *said;

	no_groups = true;
	ck_assert_int_eq(other_start(test_path("flat"), &said), 0);
	ck_assert_int_eq(other_groups, -1);
	close(srv.drafts.groups);
	srv.drafts.groups = -1;
	struct msg *m = message("alice@here.test x@far.test", "x\n");

	ck_assert_uint_eq(in_drafts(), 1);
	ck_assert_int_eq(commit(m), MSG_COMMITTED);
	spool_drop(m);
	ck_assert_uint_eq(count("mailserv-data/queue/.groups", "", NULL), 0);
}
END_TEST

/* So many large buffers, and no more; who has one gives it back. */
START_TEST(large_content)
{
	enum { PIECES = 32, PIECE_SIZE = 262144, LARGE = 600000 };
	struct msg *m[PIECES + 1];
	char *text = calloc(1, LARGE + 1), *mail = calloc(1, LARGE + 2);
	size_t head = strlen("Return-Path: <a@far.test>\n");

	for (size_t i = 0; i < LARGE; i++)
		text[i] = i % 77 == 76 ? '\n' : (char)('a' + i / 77 % 26);
	for (size_t i = 0; i < NELEM(m); i++) {
		m[i] = message("alice@here.test", "");
		ck_assert_uint_lt(m[i]->out.cap, LARGE_BUF);
		spool_write(m[i], text, 9000);
		ck_assert_uint_eq(m[i]->out.cap,
		    i < PIECES ? PIECE_SIZE : LARGE_BUF);
	}
	for (size_t i = 9000; i < LARGE; i += 500)
		for (size_t k = 0; k < NELEM(m); k += PIECES)
			spool_write(m[k], text + i, 500);
	spool_drop(m[1]);
	m[1] = message("alice@here.test", "");
	spool_write(m[1], text, 9000);
	ck_assert_uint_eq(m[1]->out.cap, PIECE_SIZE);
	for (size_t k = 0; k < NELEM(m); k++) {
		if (k % PIECES == 0) {
			ck_assert_int_eq(commit(m[k]), MSG_COMMITTED);
			ck_assert_int_eq(pread(m[k]->content.fd, mail, LARGE + 1,
			    (off_t)head), LARGE);
			ck_assert_str_eq(mail, text);
		}
		spool_drop(m[k]);
	}
	ck_assert_uint_eq(srv.spool.pieces, 0);
	free(mail);
	free(text);
}
END_TEST

/* Where it cannot be shown, it is not: the message is as good. */
START_TEST(not_shown)
{
	struct msg *m = message("alice@here.test", "x\n");

	if (m->content.at == srv.drafts.tmp) { /* no block groups */
		spool_drop(m);
		return;
	}
	ck_assert_int_eq(rmdir(test_path("mailserv-data/queue/tmp")), 0);
	spool_show(m);
	ck_assert_int_eq(commit(m), MSG_COMMITTED);
	ck_assert_str_eq(mail_of("alice"), "Return-Path: <a@far.test>\nx\n");
	spool_drop(m);
	ck_assert_uint_eq(in_drafts(), 0);
}
END_TEST

/* ---- spares -------------------------------------------------------------- */

/* The number of a file of the queue. */
static ino_t
inode_of(const char *id, const char *ending)
{
	struct stat st;
	char name[ID_LEN + 5];

	snprintf(name, sizeof(name), "%s.%s", id, ending);
	ck_assert_int_eq(fstatat(srv.spool.dir, name, &st, 0), 0);
	ck_assert_uint_eq(st.st_nlink, 1);
	return st.st_ino;
}

/* A message to be passed on is committed, and one for carol: three files, so
 * that everything is synced at once.  Its id. */
static void
pass_on(const char *content, char id[ID_LEN + 1])
{
	struct msg *other = message("carol@here.test", "x\n");
	struct msg *m = message("x@far.test", content);

	snprintf(id, ID_LEN + 1, "%s", m->id);
	spool_submit(other);
	ck_assert_int_eq(commit(m), MSG_COMMITTED);
	spool_drop(m);
	spool_drop(other);
	ck_assert_uint_eq(in_drafts(), 0);
}

/* What has left is written over: only after a sync that saw it leave, and so
 * that nothing of it is left. */
START_TEST(spares_are_written_over)
{
	char id[4][ID_LEN + 1], want[64];
	struct envelope e;

	pass_on("a long message\n", id[0]);
	ino_t content = inode_of(id[0], "msg"), envelope = inode_of(id[0], "env");

	spool_append(id[0], "try 1 1 1700000000 a long line");
	spool_remove(id[0]);
	ck_assert_uint_eq(in_queue(), 0);
	ck_assert_uint_eq(in_spares(), 2);
	pass_on("new files\n", id[1]); /* no sync had seen it */
	ck_assert_uint_eq(in_spares(), 2);
	ck_assert_uint_ne(inode_of(id[1], "msg"), content);
	ck_assert_uint_ne(inode_of(id[1], "env"), envelope);
	pass_on("short\n", id[2]);
	ck_assert_uint_eq(in_spares(), 0);
	/* The envelope left first, and so it is taken first. */
	ck_assert_uint_eq(inode_of(id[2], "msg"), envelope);
	ck_assert_uint_eq(inode_of(id[2], "env"), content);
	snprintf(want, sizeof(want), "Return-Path: <a@far.test>\nshort\n");
	ck_assert_str_eq(spool_file("queue", id[2], "msg"), want);
	ck_assert(spool_read(srv.spool.dir, id[2], &e));
	ck_assert_uint_eq(e.n, 1);
	ck_assert_uint_eq(e.octets, strlen(want));
	ck_assert_int_eq(e.rcpts[0].state, RCPT_WAITING);
	ck_assert_uint_eq(e.rcpts[0].tries, 0);
	spool_forget(&e);
	spool_remove(id[1]);
	pass_on("x\n", id[3]);
	/* Mail for a mailbox stays there: it is a new file. */
	struct msg *m = message("alice@here.test", "y\n");

	ck_assert_int_ne(m->content.at, srv.drafts.spares);
	ck_assert_uint_eq(in_spares(), 2);
	spool_drop(m);
	/* A client who leaves takes it along. */
	m = message("x@far.test", "lost");
	ck_assert_int_eq(m->content.at, srv.drafts.spares);
	spool_show(m);
	ck_assert_uint_eq(count("mailserv-data/queue/tmp", "", NULL), 1);
	spool_drop(m);
	ck_assert_uint_eq(in_spares(), 1);
	ck_assert_uint_eq(in_drafts(), 0);
}
END_TEST

/* Only the sync of everything sees them leave: a name in a mailbox may have
 * gone, too.  Where a commit has few files, there is one for every hundred. */
START_TEST(spares_and_few_files)
{
	char id[ID_LEN + 1];

	for (int left = 0; left <= 102; left += 2) {
		struct msg *m = message("x@far.test", "alone\n");

		snprintf(id, sizeof(id), "%s", m->id);
		ck_assert_int_eq(m->content.at == srv.drafts.spares,
		    left == 102);
		disk(0);
		ck_assert_int_eq(commit(m), MSG_COMMITTED);
		ck_assert_str_eq(calls, left == 100 ? "SMEF" : "FFMEF");
		spool_drop(m);
		spool_remove(id);
	}
	ck_assert_uint_eq(in_spares(), 102);
}
END_TEST

/* Where no sync of everything would tell of errors, there are none. */
START_TEST(no_spares)
{
	char id[ID_LEN + 1];

	srv.spool.use_syncfs = false;
	pass_on("x\n", id);
	spool_remove(id);
	ck_assert_uint_eq(in_spares() + in_queue(), 0);
	srv.spool.use_syncfs = true;
}
END_TEST

/* A full disk needs their room: who tries again finds it. */
START_TEST(spares_on_a_full_disk)
{
	static const int errors[] = { ENOSPC, EDQUOT, EIO };
	char id[ID_LEN + 1];

	for (size_t i = 0; i < NELEM(errors); i++) {
		pass_on("x\n", id);
		spool_remove(id);
		ck_assert_uint_ge(in_spares(), 2);
		struct msg *m = message("alice@here.test", "x\n");

		m->error = errors[i];
		ck_assert_int_eq(commit(m), MSG_REFUSED);
		spool_drop(m);
		ck_assert_uint_eq(in_spares(), errors[i] == EIO ? 2 : 0);
		ck_assert_uint_eq(srv.drafts.end - srv.drafts.first,
		    errors[i] == EIO ? 2 : 0);
	}
}
END_TEST

/* Where any sync has failed, none may ever see what left before it. */
START_TEST(spares_after_a_sync_that_failed)
{
	static const struct {
		size_t messages;
		int fails;
	} cases[] = {
		{ 1, 1 }, { 1, 5 }, /* FFMEF */
		{ 3, 1 }, { 3, 8 }, /* SMEMEMES */
	};
	char id[ID_LEN + 1];
	struct msg *m[3];

	for (size_t k = 0; k < NELEM(cases); k++) {
		size_t n = cases[k].messages;

		pass_on("x\n", id);
		spool_remove(id);
		for (size_t i = 0; i < n; i++) {
			m[i] = message("x@far.test", "refused\n");
			spool_submit(m[i]);
		}
		disk(cases[k].fails);
		spool_commit();
		disk(0);
		for (size_t i = 0; i < n; i++) {
			ck_assert_int_eq(m[i]->state, MSG_REFUSED);
			spool_drop(m[i]);
		}
		ck_assert_uint_eq(srv.drafts.first, srv.drafts.end);
		ck_assert_uint_eq(in_drafts() + in_queue() + in_spares(), 0);
	}
}
END_TEST

/* Who has it open, our own POP3 or cat(1), reads to the end what it was. */
START_TEST(spares_that_are_read)
{
	char id[2][ID_LEN + 1], text[64] = "";

	pass_on("of alice\n", id[0]);
	int msg = spool_content(id[0]);
	int env = openat(srv.spool.dir, strcat(strcpy(text, id[0]), ".env"),
	    O_RDONLY);

	spool_remove(id[0]);
	pass_on("x\n", id[1]); /* its syncs see it leave */
	ck_assert_uint_eq(in_spares(), 2);
	pass_on("of bob, longer\n", id[1]);
	ck_assert_uint_eq(in_spares(), 0);
	ck_assert_int_ge(pread(msg, text, sizeof(text) - 1, 0), 0);
	ck_assert_str_eq(text, "Return-Path: <a@far.test>\nof alice\n");
	ck_assert_int_ge(pread(env, text, 8, 0), 8);
	ck_assert_int_eq(strncmp(text, "arrived ", 8), 0);
	close(msg);
	close(env);
}
END_TEST

/* What is shown holds nothing of another's. */
START_TEST(spares_that_are_shown)
{
	char id[ID_LEN + 1], path[96];
	struct msg *m;

	pass_on("of alice, and long\n", id);
	spool_remove(id);
	pass_on("x\n", id);
	m = message("x@far.test", "of bob\n");
	ck_assert_int_eq(m->content.at, srv.drafts.spares);
	spool_show(m);
	snprintf(path, sizeof(path), "mailserv-data/queue/tmp/%s.msg", m->id);
	ck_assert_str_eq(test_read(path), "");
	ck_assert_int_eq(commit(m), MSG_COMMITTED);
	ck_assert_str_eq(spool_file("queue", m->id, "msg"),
	    "Return-Path: <a@far.test>\nof bob\n");
	spool_drop(m);
}
END_TEST

/* A spare that got another name, or is none any more, is left alone. */
START_TEST(spares_of_others)
{
	char id[4][ID_LEN + 1], path[96];

	for (size_t i = 0; i < 2; i++)
		pass_on("of somebody\n", id[i]);
	for (size_t i = 0; i < 2; i++)
		spool_remove(id[i]); /* 0, 1; 2, 3 */
	snprintf(path, sizeof(path), "mailserv-data/queue/.spares/1");
	ck_assert_int_eq(link(test_path(path), test_path("backup")), 0);
	path[strlen(path) - 1] = '0';
	ck_assert_int_eq(unlink(test_path(path)), 0);
	path[strlen(path) - 1] = '2';
	ck_assert_int_eq(unlink(test_path(path)), 0);
	ck_assert_int_eq(mkfifo(test_path(path), 0600), 0);
	pass_on("x\n", id[2]);
	pass_on("y\n", id[0]);
	pass_on("y\n", id[3]);
	ck_assert_uint_eq(in_spares(), 0);
	ck_assert_str_eq(test_read("backup"),
	    "Return-Path: <a@far.test>\nof somebody\n");
	ck_assert_str_eq(spool_file("queue", id[3], "msg"),
	    "Return-Path: <a@far.test>\ny\n");
	/* Nor is content kept that lies in a mailbox, too. */
	struct msg *m = message("alice@here.test x@far.test", "both\n");

	snprintf(id[0], sizeof(id[0]), "%s", m->id);
	ck_assert_int_eq(commit(m), MSG_COMMITTED);
	spool_drop(m);
	spool_remove(id[0]);
	ck_assert_uint_eq(in_spares(), 1); /* the envelope */
}
END_TEST

/* So many, and none larger than that. */
START_TEST(limits_of_spares)
{
	enum { MANY = 1000, LARGE = 65536 };
	char id[ID_LEN + 1], name[ID_LEN + 5], *text = calloc(1, LARGE + 2);
	size_t head = strlen("Return-Path: <a@far.test>\n");

	memset(text, 'x', LARGE + 1);
	text[LARGE - head] = '\0';
	pass_on(text, id);
	spool_remove(id);
	ck_assert_uint_eq(in_spares(), 2);
	text[LARGE - head] = 'x';
	text[LARGE - head + 1] = '\0';
	pass_on(text, id);
	spool_remove(id);
	ck_assert_uint_eq(in_spares(), 1 + 2); /* one was taken */
	free(text);
	for (int i = 3; i < MANY + 2; i++) {
		snprintf(name, sizeof(name), "%016x.msg", i);
		close(openat(srv.spool.dir, name, O_CREAT | O_WRONLY, 0600));
		name[ID_LEN] = '\0';
		spool_remove(name);
		ck_assert_uint_eq(in_spares(),
		    (size_t)(i < MANY ? i + 1 : MANY));
	}
	ck_assert_uint_eq(in_queue(), 0);
}
END_TEST

/* At a start nobody knows which are safe; nor is a draft a message. */
START_TEST(start_without_spares)
{
	struct names ids = { .exact = true };

	test_write("mailserv-data/queue/.spares/7", "x");
	test_write("mailserv-data/queue/tmp/0123456789abcdef.msg", "x");
	mkdir(test_path("mailserv-data/queue/.groups/00"), 0700);
	mkdir(test_path("mailserv-data/queue/.groups/ff"), 0700);
	test_write("mailserv-data/queue/.groups/00/0123456789abcdef.msg", "x");
	test_write("mailserv-data/queue/.groups/ff/0123456789abcdef.env", "x");
	ck_assert(spool_scan(srv.spool.dir, &ids, false));
	ck_assert_uint_eq(in_drafts(), 3);
	ck_assert(spool_scan(srv.spool.dir, &ids, true));
	ck_assert_uint_eq(ids.n, 0);
	ck_assert_uint_eq(in_drafts() + in_spares(), 0);
	names_free(&ids);
}
END_TEST

/* ---- the way in: dropped ------------------------------------------------- */

/* A message that is dropped before its commit leaves nothing. */
START_TEST(dropped_before_the_commit)
{
	struct msg *m = message("alice@here.test x@far.test", "x\n");

	spool_drop(m);
	m = spool_begin("x"); /* nor one that never got a file */
	spool_drop(m);
	ck_assert_uint_eq(in_drafts() + in_queue() + in_mailbox("alice"), 0);
}
END_TEST

/* ---- the commit ---------------------------------------------------------- */

/* How many files a message of this kind has in the end. */
static const struct {
	const char *to;
	size_t alice, bob, queue;
} kinds[] = {
	{ "alice@here.test", 1, 0, 0 },
	{ "alice@here.test bob@here.test", 1, 1, 0 },
	{ "x@far.test", 0, 0, 2 },
	{ "alice@here.test bob@here.test x@far.test y@far.test", 1, 1, 2 },
};

START_TEST(commit_of_each_kind)
{
	struct msg *m = message(kinds[_i].to, "Subject: x\n\nx\n");
	static const char whole[] = "Return-Path: <a@far.test>\n"
				    "Subject: x\n\nx\n";

	ck_assert_int_eq(commit(m), MSG_COMMITTED);
	ck_assert_uint_eq(in_mailbox("alice"), kinds[_i].alice);
	ck_assert_uint_eq(in_mailbox("bob"), kinds[_i].bob);
	ck_assert_uint_eq(in_queue(), kinds[_i].queue);
	if (kinds[_i].alice)
		ck_assert_str_eq(mail_of("alice"), whole);
	if (kinds[_i].queue)
		ck_assert_str_eq(spool_file("queue", m->id, "msg"), whole);
	spool_drop(m);
	ck_assert_uint_eq(in_drafts(), 0);
	ck_assert_uint_eq(in_mailbox("alice"), kinds[_i].alice);
	ck_assert_uint_eq(in_queue(), kinds[_i].queue);
}
END_TEST

START_TEST(envelope_text)
{
	srv.wall = 1795508645123;
	struct msg *m = message("x@far.test", "caf\xc3\xa9\n");

	ck_assert(place_add(conf, m, "\"q p\"@far.test"));
	ck_assert_int_eq(commit(m), MSG_COMMITTED);
	ck_assert_str_eq(spool_file("queue", m->id, "env"),
	    "arrived 1795508645\nsize 34\nhead 26\noctets 32\neightbit\n"
	    "from a@far.test\nto \"q p\"@far.test\nto x@far.test\n");
	spool_drop(m);
	m = spool_begin("");
	ck_assert(place_add(conf, m, "x@far.test"));
	spool_open(m);
	ck_assert_int_eq(commit(m), MSG_COMMITTED);
	ck_assert_str_eq(spool_file("queue", m->id, "env"),
	    "arrived 1795508645\nsize 17\nhead 16\noctets 16\nfrom \nto x@far.test\n");
	spool_drop(m);
}
END_TEST

/* Write, sync, name, sync: in this order, with either kind of sync. */
START_TEST(order_of_the_steps)
{
	static const char *const singly[] = { "FLF", "FLLFF", "FFMEF",
		"FFLLMEFFF" };
	static const char *const at_once[] = { "FLF", "FLLFF", "FFMEF",
		"FFLLMES" };
	struct msg *m = message("alice@here.test bob@here.test", "x\n");

	ck_assert_int_eq(commit(m), MSG_COMMITTED); /* makes the folders */
	spool_drop(m);
	for (int syncfs_too = 0; syncfs_too < 2; syncfs_too++)
		for (size_t i = 0; i < NELEM(kinds); i++) {
			srv.spool.use_syncfs = syncfs_too;
			srv.spool.one_fs = true;
			m = message(kinds[i].to, "x\n");
			disk(0);
			ck_assert_int_eq(commit(m), MSG_COMMITTED);
			ck_assert_str_eq(calls,
			    syncfs_too ? at_once[i] : singly[i]);
			spool_drop(m);
		}
}
END_TEST

/* Many messages of one turn share two syncs. */
START_TEST(group_commit)
{
	struct msg *m[20];

	srv.spool.use_syncfs = srv.spool.one_fs = true;
	m[0] = message("alice@here.test", "x\n");
	ck_assert_int_eq(commit(m[0]), MSG_COMMITTED);
	spool_drop(m[0]);
	for (size_t i = 0; i < NELEM(m); i++) {
		m[i] = message("alice@here.test", "x\n");
		spool_submit(m[i]);
	}
	disk(0);
	spool_commit();
	ck_assert_str_eq(calls, "SLLLLLLLLLLLLLLLLLLLLS");
	for (size_t i = 0; i < NELEM(m); i++) {
		ck_assert_int_eq(m[i]->state, MSG_COMMITTED);
		spool_drop(m[i]);
	}
	ck_assert_uint_eq(in_mailbox("alice"), 21);
	disk(0);
	spool_commit(); /* nothing is due: nothing is called */
	ck_assert_str_eq(calls, "");
}
END_TEST

/* Let every disk call of every kind of message fail, one after the other, and
 * again with a disk for the mailboxes: all recipients or none (RFC 5321 4.2.5),
 * and nothing is left behind. */
START_TEST(each_call_fails_once)
{
	int failures = 0;
	const char *to = kinds[_i % (int)NELEM(kinds)].to;

	two_disks = _i >= (int)NELEM(kinds);
	for (int n = 1;; n++) {
		size_t queue = in_queue(), alice = in_mailbox("alice");
		size_t bob = in_mailbox("bob");

		srv.spool.use_syncfs = n % 2 == 0;
		struct msg *m = message(to, "x\n");

		spool_submit(m);
		disk(n);
		spool_commit();
		bool failed = strlen(calls) >= (size_t)n;

		disk(0);
		ck_assert_int_eq(m->state,
		    failed ? MSG_REFUSED : MSG_COMMITTED);
		spool_drop(m);
		ck_assert_uint_eq(in_drafts(), 0);
		ck_assert_uint_eq(count("mailserv-data/mail/alice/tmp", "",
				      NULL), 0);
		if (!failed && n % 2 == 1)
			break;
		if (!failed)
			continue;
		failures++;
		ck_assert_uint_eq(in_queue(), queue);
		ck_assert_uint_eq(in_mailbox("alice"), alice);
		ck_assert_uint_eq(in_mailbox("bob"), bob);
	}
	ck_assert_int_ge(failures, 3);
}
END_TEST

/* One sync failed: whatever was open at that moment is refused, also what is
 * committed later; what was begun afterwards is not. */
START_TEST(sync_that_failed_is_not_believed)
{
	struct msg *first = message("x@far.test", "x\n");
	struct msg *other = message("y@far.test", "x\n");
	struct msg *later = message("z@far.test", "x\n");

	spool_submit(first);
	spool_submit(other);
	disk(1);
	spool_commit();
	disk(0);
	ck_assert_int_eq(first->state, MSG_REFUSED);
	ck_assert_int_eq(first->error, EIO);
	ck_assert_int_eq(other->state, MSG_REFUSED);
	ck_assert_int_eq(commit(later), MSG_REFUSED);
	ck_assert_int_eq(later->error, EIO);
	spool_drop(first);
	spool_drop(other);
	spool_drop(later);
	ck_assert_uint_eq(in_queue() + in_drafts(), 0);
	later = message("z@far.test", "x\n");
	ck_assert_int_eq(commit(later), MSG_COMMITTED);
	spool_drop(later);
}
END_TEST

/* Each message hears of its own trouble: one that the disk refused before is
 * not told of a sync that failed later, whichever that was. */
START_TEST(refused_before_the_sync_fails)
{
	for (int n = 1; n <= 7; n++) {
		struct msg *full = message("alice@here.test x@far.test", "x\n");
		struct msg *good = message("alice@here.test x@far.test", "x\n");

		full->error = ENOSPC;
		spool_submit(full);
		spool_submit(good);
		srv.spool.use_syncfs = false;
		disk(n);
		spool_commit();
		disk(0);
		ck_assert_int_eq(full->error, ENOSPC);
		ck_assert_int_eq(good->error, EIO);
		spool_drop(full);
		spool_drop(good);
		ck_assert_uint_eq(in_drafts() + in_queue(), 0);
		ck_assert_uint_eq(in_mailbox("alice"), 0);
	}
}
END_TEST

/* Where a mailbox is on another file system, it gets a copy, and the folder's
 * own sync: syncfs() of queue/ would not reach it. */
START_TEST(mailboxes_on_another_disk)
{
	struct msg *m = message("alice@here.test bob@here.test carol@here.test",
	    "Subject: x\n\ntext\n");

	two_disks = srv.spool.use_syncfs = true;
	spool_submit(m);
	disk(0);
	spool_commit();
	ck_assert_int_eq(m->state, MSG_COMMITTED);
	ck_assert(!srv.spool.one_fs);
	ck_assert_ptr_null(strchr(calls, 'S'));
	spool_drop(m);
	ck_assert_ptr_nonnull(strstr(mail_of("carol"), "\n\ntext\n"));
	ck_assert_uint_eq(count("mailserv-data/mail/carol/tmp", "", NULL), 0);
}
END_TEST

/* A message that is refused takes nobody with it. */
START_TEST(refused_alone)
{
	struct msg *good = message("alice@here.test", "x\n");
	struct msg *bad = message("bob@here.test x@far.test", "x\n");
	struct msg *last = message("carol@here.test x@far.test", "x\n");

	close(open(test_path("mailserv-data/mail/bob"), O_CREAT | O_WRONLY,
	    0600)); /* a file where a folder should be */
	spool_submit(good);
	spool_submit(bad);
	spool_submit(last);
	spool_commit();
	ck_assert_int_eq(good->state, MSG_COMMITTED);
	ck_assert_int_eq(bad->state, MSG_REFUSED);
	ck_assert_int_eq(bad->error, ENOTDIR);
	ck_assert_int_eq(last->state, MSG_COMMITTED);
	ck_assert_uint_eq(in_mailbox("alice"), 1);
	ck_assert_uint_eq(in_queue(), 2);
	spool_drop(good);
	spool_drop(bad);
	spool_drop(last);
	ck_assert_uint_eq(in_drafts(), 0);
}
END_TEST

/* Refused by the disk itself: too large, no folder, a name too long. */
START_TEST(refused_by_the_disk)
{
	struct rlimit before, small;
	static char big[20000];

	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
	small = before;
	small.rlim_cur = 9000;
	memset(big, 'x', sizeof(big) - 1);
	setrlimit(RLIMIT_FSIZE, &small);
	struct msg *m = message("alice@here.test x@far.test", big);
	enum msg_state state = commit(m);
	int why = m->error;

	spool_drop(m);
	/* Small content, and an envelope that is too large. */
	m = spool_begin("a@far.test");
	for (int i = 0; i < 1000; i++) {
		snprintf(big, sizeof(big), "user%d@far.test", i);
		place_add(conf, m, big);
	}
	spool_open(m);
	enum msg_state second = commit(m);

	setrlimit(RLIMIT_FSIZE, &before);
	ck_assert_int_eq(state, MSG_REFUSED);
	ck_assert_int_eq(why, EFBIG);
	ck_assert_int_eq(second, MSG_REFUSED);
	ck_assert_int_eq(m->error, EFBIG);
	spool_drop(m);
	ck_assert_uint_eq(in_drafts() + in_queue() + in_mailbox("alice"), 0);
}
END_TEST

/* Let files grow to this size only. */
static void
limit_files(rlim_t size)
{
	struct rlimit limit;

	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
	limit.rlim_cur = size;
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* The disk is full for a moment, in the midst of an envelope: what was lost
 * then is missing, although the last write succeeds. */
START_TEST(full_for_a_moment)
{
	struct msg *m = spool_begin("a@far.test");
	char address[40];

	for (int i = 0; i < 1000; i++) {
		snprintf(address, sizeof(address), "user%d@far.test", i);
		place_add(conf, m, address);
	}
	spool_open(m);
	limit_files(6000);
	for_a_moment = true;
	enum msg_state state = commit(m);

	for_a_moment = false;
	ck_assert_int_eq(state, MSG_REFUSED);
	ck_assert_int_eq(m->error, EFBIG);
	spool_drop(m);
	ck_assert_uint_eq(in_drafts() + in_queue(), 0);
}
END_TEST

START_TEST(refused_without_folders)
{
	struct msg *m = message("alice@here.test x@far.test", "x\n");
	char deep[5000], *data_dir = conf->data_dir;

	memset(deep, '/', sizeof(deep) - 1);
	deep[sizeof(deep) - 1] = '\0';
	conf->data_dir = deep;
	ck_assert_int_eq(commit(m), MSG_REFUSED);
	ck_assert_int_eq(m->error, ENAMETOOLONG);
	conf->data_dir = data_dir;
	spool_drop(m);
	ck_assert_uint_eq(in_drafts() + in_queue(), 0);
	/* A name that is taken: what has it stays. */
	m = message("alice@here.test x@far.test", "x\n");
	char path[128];

	snprintf(path, sizeof(path), "mailserv-data/queue/%s.env", m->id);
	ck_assert_int_eq(mkdir(test_path(path), 0700), 0);
	ck_assert_int_eq(commit(m), MSG_REFUSED);
	ck_assert_int_eq(m->error, EEXIST);
	spool_drop(m);
	ck_assert_uint_eq(in_drafts() + in_mailbox("alice"), 0);
	ck_assert_uint_eq(in_queue(), 1);
	m = message("alice@here.test x@far.test", "x\n");
	int groups = srv.drafts.groups;

	srv.drafts.groups = -1;
	snprintf(path, sizeof(path), "mailserv-data/queue/tmp/%s.env", m->id);
	ck_assert_int_eq(mkdir(test_path(path), 0700), 0);
	ck_assert_int_eq(commit(m), MSG_REFUSED);
	ck_assert_int_eq(m->error, EEXIST);
	spool_drop(m);
	ck_assert_uint_eq(in_mailbox("alice"), 0);
	ck_assert_int_eq(rmdir(test_path(path)), 0);
	ck_assert_int_eq(rmdir(test_path("mailserv-data/queue/tmp")), 0);
	test_capture(2);
	log_level = 0;
	m = message("alice@here.test", "x\n");
	log_level = -1;
	ck_assert_int_eq(m->error, ENOENT);
	ck_assert_ptr_nonnull(strstr(test_captured(),
	    " queue/tmp: No such file or directory\n"));
	ck_assert_int_eq(commit(m), MSG_REFUSED);
	spool_drop(m);
	srv.drafts.groups = groups;
}
END_TEST

/* ---- envelopes ----------------------------------------------------------- */

#define ID "00063ab5c7a0f123"

/* Write queue/ID.env and read it. */
static bool
read_envelope(const char *text, struct envelope *e)
{
	test_write("mailserv-data/queue/" ID ".env", text);
	return spool_read(srv.spool.dir, ID, e);
}

START_TEST(envelope_read)
{
	struct envelope e;

	ck_assert(read_envelope("arrived 1795508645\nsize 5000000000\nhead 26\n"
				"eightbit\nfrom a@far.test\nto x@far.test\n"
				"to \"q p\"@far.test\nto z@far.test\n"
				"done 1\ntry 2 3 1795508999 450 4.2.0 full\n"
				"try 2 4 1795509999 450 4.2.0 still full\n",
	    &e));
	ck_assert_str_eq(e.id, ID);
	ck_assert_str_eq(e.sender, "a@far.test");
	ck_assert_int_eq(e.arrived, 1795508645);
	ck_assert_uint_eq(e.size, 5000000000);
	ck_assert_uint_eq(e.head, 26);
	ck_assert(e.eightbit);
	ck_assert_uint_eq(e.n, 3);
	ck_assert_str_eq(e.rcpts[1].address, "\"q p\"@far.test");
	ck_assert_uint_eq(e.rcpts[1].number, 2);
	ck_assert_int_eq(e.rcpts[0].state, RCPT_DONE);
	ck_assert_int_eq(e.rcpts[1].state, RCPT_WAITING);
	ck_assert_uint_eq(e.rcpts[1].tries, 4);
	ck_assert_int_eq(e.rcpts[1].next, 1795509999);
	ck_assert_str_eq(e.rcpts[1].reply, "450 4.2.0 still full");
	ck_assert_ptr_null(e.rcpts[2].reply);
	ck_assert_uint_eq(e.rcpts[2].tries, 0);
	spool_forget(&e);
	ck_assert_ptr_null(e.sender);
	ck_assert_uint_eq(e.n, 0);
	spool_forget(&e); /* an empty one may be forgotten too */
}
END_TEST

/* What nobody can have written, or should be sent to a host. */
START_TEST(envelope_bad)
{
	static const char *const bad[] = { "size 2\nhead 3\nfrom a\nto x@y\n",
		"size 4\nhead 3\nfrom a\nto x@y>\rRCPT TO:<evil@y\n",
		"size 4\nhead 3\nfrom a\x1b[2J\nto x@y\n", "from a\n", "to x@y\n" };
	struct envelope e;

	for (size_t i = 0; i < NELEM(bad); i++)
		ck_assert_msg(!read_envelope(bad[i], &e), "%s", bad[i]);
}
END_TEST

/* A message that is over, though its envelope could not go, is no message at
 * the next start; and its content stays until then. */
START_TEST(over_but_not_removed)
{
	struct msg *m = message("x@far.test y@far.test", "x\n");
	char id[ID_LEN + 1], path[128], there[128];
	struct envelope e;

	ck_assert_int_eq(commit(m), MSG_COMMITTED);
	memcpy(id, m->id, sizeof(id));
	spool_drop(m);
	unlink_fails = EIO;
	spool_remove(id);
	unlink_fails = 0;
	ck_assert(spool_read(srv.spool.dir, id, &e));
	ck_assert_uint_eq(e.n, 2);
	for (size_t i = 0; i < e.n; i++)
		ck_assert_int_eq(e.rcpts[i].state, RCPT_DONE);
	ck_assert_uint_eq(e.octets, 28);
	spool_forget(&e);
	/* Content that has gone is not what -d does. */
	snprintf(path, sizeof(path), "mailserv-data/queue/%s.msg", id);
	snprintf(there, sizeof(there), "mailserv-data/queue/%s.env", id);
	ck_assert_int_eq(unlink(test_path(path)), 0);
	ck_assert_int_eq(spool_content(id), -1);
	ck_assert_int_eq(errno, ENODATA);
	ck_assert_int_eq(unlink(test_path(there)), 0);
	ck_assert_int_eq(spool_content(id), -1);
	ck_assert_int_eq(errno, ENOENT);
}
END_TEST

/* What a crash or a stranger leaves: never a recipient done who is not. */
static const struct {
	const char *tail;
	const char *done; /* the numbers of those that are */
} torn[] = {
	{ "done 1\ndone 12", "1" },
	{ "done 12", "" },
	{ "done 1", "" },
	{ "done 1done 2\n", "" },
	{ "done 12\n", "12" },
	{ "done 0\ndone 13\ndone -1\ndone 4294967297\n", "" },
	{ "done 18446744073709551617\ndone x\ndone \ndone\n", "" },
	{ "done 1\ndone 1\n", "1" },
	{ "DONE 1\n done 1\ndone1\n", "" },
	{ "warned\nsomething new 1\n\n\ndone 2\n", "2" },
	{ "try\ntry \ntry 1\ntry 2 x\ntry 99 1 1 x\n", "" },
	{ "to x", "" },
};

START_TEST(envelope_torn)
{
	char text[2048] = "arrived 1\nsize 4\nhead 3\nfrom a\n", done[64] = "";
	struct envelope e;

	for (int i = 1; i <= 12; i++)
		sprintf(text + strlen(text), "to u%d@far.test\n", i);
	strcat(text, torn[_i].tail);
	ck_assert(read_envelope(text, &e));
	ck_assert_uint_eq(e.n, 12);
	for (size_t i = 0; i < e.n; i++)
		if (e.rcpts[i].state == RCPT_DONE)
			sprintf(done + strlen(done), "%s%zu",
			    done[0] != '\0' ? " " : "", i + 1);
	ck_assert_str_eq(done, torn[_i].done);
	spool_forget(&e);
}
END_TEST

START_TEST(envelope_that_is_none)
{
	static const char *const bad[] = { "", "\n\n\n", "from a\n", "to x\n",
		"from a\nto x", "from a to x\n", "garbage\x01\xff\n",
		"from\nto\n" };
	struct envelope e;

	for (size_t i = 0; i < NELEM(bad); i++) {
		ck_assert_msg(!read_envelope(bad[i], &e), "%zu", i);
		ck_assert_ptr_null(e.sender);
		ck_assert_ptr_null(e.rcpts);
		ck_assert_uint_eq(e.n, 0);
	}
	ck_assert(!spool_read(srv.spool.dir, "0000000000000000", &e));
	unlink(test_path("mailserv-data/queue/" ID ".env"));
	ck_assert_int_eq(mkdir(test_path("mailserv-data/queue/" ID ".env"),
	    0700), 0);
	ck_assert(!spool_read(srv.spool.dir, ID, &e));
	rmdir(test_path("mailserv-data/queue/" ID ".env"));
	/* Nor do we follow where somebody else points. */
	ck_assert_int_eq(symlink(test_write("elsewhere", "from a\nto x\n"),
	    test_path("mailserv-data/queue/" ID ".env")), 0);
	ck_assert(!spool_read(srv.spool.dir, ID, &e));
}
END_TEST

/* Random octets are read without harm. */
START_TEST(envelope_of_noise)
{
	static const char letters[] = "todnetryfrm 0123\n\n\n \xff\t-";
	char text[400];
	struct envelope e;

	srand(1);
	for (int run = 0; run < 2000; run++) {
		size_t len = (size_t)(rand() % 390);

		for (size_t i = 0; i < len; i++)
			text[i] = letters[(size_t)rand() %
			    (sizeof(letters) - 1)];
		text[len] = '\0';
		if (read_envelope(text, &e))
			spool_forget(&e);
	}
}
END_TEST

/* Days of tries make an envelope long: it is still read. */
START_TEST(envelope_that_grew)
{
	FILE *f = fopen(test_path("mailserv-data/queue/" ID ".env"), "w");
	struct envelope e;

	fputs("from a\nto x@far.test\nto y@far.test\n", f);
	for (int i = 0; i < 20000; i++)
		fprintf(f, "try 2 %d 1 450 4.2.0 a reply of the usual length,"
			   " with some words and a mailbox that is full\n", i);
	fputs("done 1\n", f);
	fclose(f);
	ck_assert(spool_read(srv.spool.dir, ID, &e));
	ck_assert_int_eq(e.rcpts[0].state, RCPT_DONE);
	ck_assert_uint_eq(e.rcpts[1].tries, 19999);
	spool_forget(&e);
}
END_TEST

/* A line is added whole, and one line only; what reads it finds it. */
START_TEST(envelope_append)
{
	struct envelope e;

	ck_assert(read_envelope("from a\nto x@far.test\nto y@far.test\n",
	    &e));
	spool_forget(&e);
	spool_append(ID, "done %u", 2);
	spool_append(ID, "try %u %u %lld %s", 1, 7, 99ll,
	    "450 no\ndone 1\nfrom evil");
	ck_assert_str_eq(spool_file("queue", ID, "env"),
	    "from a\nto x@far.test\nto y@far.test\ndone 2\n"
	    "try 1 7 99 450 no?done 1?from evil\n");
	ck_assert(spool_read(srv.spool.dir, ID, &e));
	ck_assert_int_eq(e.rcpts[1].state, RCPT_DONE);
	ck_assert_int_eq(e.rcpts[0].state, RCPT_WAITING);
	ck_assert_uint_eq(e.rcpts[0].tries, 7);
	ck_assert_str_eq(e.rcpts[0].reply, "450 no?done 1?from evil");
	spool_forget(&e);
	/* To an envelope that -d has taken away: nothing comes back. */
	spool_remove(ID);
	log_level = 0;
	test_capture(STDERR_FILENO);
	spool_append(ID, "done 1");
	ck_assert_ptr_nonnull(strstr(test_captured(), " queue " ID
	    " envelope not updated: No such file or directory\n"));
	ck_assert_uint_eq(in_queue(), 0);
}
END_TEST

/* A line that the disk takes only half of is taken back. */
START_TEST(envelope_append_fails)
{
	static const char text[] = "from a\nto x@far.test\n";
	struct rlimit before, small;
	struct envelope e;

	ck_assert(read_envelope(text, &e));
	spool_forget(&e);
	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
	small = before;
	small.rlim_cur = sizeof(text) - 1 + 4;
	setrlimit(RLIMIT_FSIZE, &small);
	spool_append(ID, "done 1");
	setrlimit(RLIMIT_FSIZE, &before);
	ck_assert_str_eq(spool_file("queue", ID, "env"), text);
}
END_TEST

/* Content is there while the envelope is; both go, the envelope first. */
START_TEST(content_and_removal)
{
	struct msg *m = message("x@far.test", "x\n");
	char id[ID_LEN + 1], octets[64] = "", path[128];

	ck_assert_int_eq(commit(m), MSG_COMMITTED);
	memcpy(id, m->id, sizeof(id));
	spool_drop(m);
	int fd = spool_content(id);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(read(fd, octets, sizeof(octets)), 28);
	ck_assert_str_eq(octets, "Return-Path: <a@far.test>\nx\n");
	close(fd);
	snprintf(path, sizeof(path), "mailserv-data/queue/%s.env", id);
	ck_assert_int_eq(rename(test_path(path), test_path("kept")), 0);
	ck_assert_int_eq(spool_content(id), -1);
	ck_assert_int_eq(rename(test_path("kept"), test_path(path)), 0);
	disk(0);
	spool_remove(id);
	ck_assert_str_eq(removed, "EM");
	ck_assert_uint_eq(in_queue(), 0);
	spool_remove(id);
}
END_TEST

/* ---- queue/failed -------------------------------------------------------- */

/* A message to x, y and z, committed: its envelope. */
static struct envelope
queued(void)
{
	struct msg *m = message("x@far.test y@far.test z@far.test", "x\n");
	struct envelope e;

	ck_assert_int_eq(commit(m), MSG_COMMITTED);
	ck_assert(spool_read(srv.spool.dir, m->id, &e));
	spool_drop(m);
	return e;
}

/* Call spool_fail() for recipients parted by blanks. */
static bool
set_aside(const struct envelope *e, const char *to, char id[ID_LEN + 1])
{
	struct names names = { .exact = true };
	char list[256], *rest = list, *at;

	snprintf(list, sizeof(list), "%s", to);
	while ((at = strsep(&rest, " ")) != NULL)
		ck_assert(names_push(&names, at));
	bool ok = spool_fail(e, &names, id);

	names_free(&names);
	return ok;
}

static size_t
in_failed(void)
{
	return count("mailserv-data/queue/failed", "", NULL);
}

/* A whole pair lies there: for so many, the first is this one. */
static void
lies_in_failed(const char *id, size_t n, const char *first)
{
	struct envelope e;

	ck_assert_str_eq(spool_file("queue/failed", id, "msg"),
	    "Return-Path: <a@far.test>\nx\n");
	ck_assert(spool_read(srv.spool.failed, id, &e));
	ck_assert_uint_eq(e.n, n);
	ck_assert_str_eq(e.sender, "a@far.test");
	ck_assert_str_eq(e.rcpts[0].address, first);
	ck_assert_uint_eq(e.head, 26);
	ck_assert_uint_eq(e.size, 30);
	spool_forget(&e);
}

/* Recipients of one message, one after the other, and once more: a pair each
 * time, on stable storage, whole, under ids that nothing else has. */
START_TEST(fail_twice)
{
	struct envelope e = queued();
	char x[ID_LEN + 1], yz[ID_LEN + 1], again[ID_LEN + 1];

	disk(0);
	ck_assert(set_aside(&e, "x@far.test", x));
	ck_assert_str_eq(calls, "MFF");
	ck_assert(set_aside(&e, "y@far.test z@far.test", yz));
	ck_assert(set_aside(&e, "y@far.test z@far.test", again));
	ck_assert_uint_eq(in_failed(), 6);
	ck_assert_str_lt(e.id, x);
	ck_assert_str_lt(x, yz);
	ck_assert_str_lt(yz, again);
	spool_remove(e.id);
	lies_in_failed(x, 1, "x@far.test");
	lies_in_failed(yz, 2, "y@far.test");
	lies_in_failed(again, 2, "y@far.test");
	spool_forget(&e);
}
END_TEST

/* Moved back while others of the same message wait: both are messages, and
 * when one leaves, the other has its content. */
START_TEST(fail_and_back)
{
	static const char *const end[] = { "msg", "env" };
	struct envelope e = queued();
	struct names ids = { .exact = true };
	char id[ID_LEN + 1], name[ID_LEN + 5];
	int at = srv.spool.dir;

	ck_assert(set_aside(&e, "x@far.test", id));
	for (size_t i = 0; i < NELEM(end); i++) {
		snprintf(name, sizeof(name), "%s.%s", id, end[i]);
		ck_assert_int_eq(faccessat(at, name, F_OK, 0), -1);
		ck_assert_int_eq(renameat(srv.spool.failed, name, at, name), 0);
	}
	ck_assert(spool_scan(at, &ids, true));
	ck_assert_uint_eq(ids.n, 2);
	ck_assert_str_eq(ids.v[0], e.id);
	ck_assert_str_eq(ids.v[1], id);
	names_free(&ids);
	spool_remove(id);
	ck_assert_str_eq(spool_file("queue", e.id, "msg"),
	    "Return-Path: <a@far.test>\nx\n");
	ck_assert_ptr_nonnull(strstr(spool_file("queue", e.id, "env"),
	    "\nto x@far.test\nto y@far.test\nto z@far.test\n"));
	spool_forget(&e);
}
END_TEST

/* No room for all of the envelope: none of it stays. */
START_TEST(fail_torn)
{
	struct envelope e = queued();
	char id[ID_LEN + 1];

	limit_files(50);
	bool moved = set_aside(&e, "x@far.test y@far.test", id);

	limit_files(RLIM_INFINITY);
	ck_assert(!moved);
	ck_assert_uint_eq(in_failed(), 0);
	ck_assert(set_aside(&e, "x@far.test y@far.test", id));
	lies_in_failed(id, 2, "x@far.test");
	spool_forget(&e);
}
END_TEST

/* While any step of it fails the queue must keep the message; who lies there
 * already stays, and of the step nothing does. */
START_TEST(fail_fails)
{
	struct envelope e = queued();
	struct drafts drafts = srv.drafts;
	char first[ID_LEN + 1], id[ID_LEN + 1];

	ck_assert(set_aside(&e, "x@far.test", first));
	for (int n = 1; n <= 3; n++) {
		disk(n);
		ck_assert(!set_aside(&e, "y@far.test", id));
		ck_assert_uint_eq(strlen(calls), (size_t)n);
		ck_assert_uint_eq(in_failed(), 2);
	}
	disk(0);
	srv.drafts.tmp = -1; /* EBADF */
	ck_assert(!set_aside(&e, "y@far.test", id));
	srv.drafts = drafts;
	ck_assert_uint_eq(in_failed(), 2);
	ck_assert_uint_eq(in_drafts(), 0);
	ck_assert_uint_eq(in_queue(), 2);
	lies_in_failed(first, 1, "x@far.test");
	ck_assert(set_aside(&e, "y@far.test", id));
	spool_remove(e.id);
	ck_assert_int_eq(spool_content(e.id), -1);
	lies_in_failed(id, 1, "y@far.test");
	spool_forget(&e);
}
END_TEST

/* An id that is there already, for the clock was set back: nobody's. */
START_TEST(fail_on_another)
{
	struct envelope e = queued();
	char first[ID_LEN + 1], id[ID_LEN + 1];

	ck_assert(set_aside(&e, "x@far.test", first));
	srv.wall -= 24 * 60 * MINUTE;
	srv.spool.last_id = strtoull(first, NULL, 16) - 1;
	ck_assert(!set_aside(&e, "y@far.test", id));
	ck_assert_str_eq(id, first);
	lies_in_failed(first, 1, "x@far.test");
	ck_assert(set_aside(&e, "y@far.test", id));
	lies_in_failed(id, 1, "y@far.test");
	spool_forget(&e);
}
END_TEST

/* ---- start --------------------------------------------------------------- */

static unsigned
mode_of(const char *name)
{
	struct stat st;

	ck_assert_msg(stat(test_path(name), &st) == 0, "%s", name);
	return st.st_mode & 07777;
}

/* Folders 0700, files 0600, whatever the umask. */
START_TEST(modes)
{
	static const char *const folders[] = { "mailserv-data",
		"mailserv-data/queue", "mailserv-data/queue/tmp",
		"mailserv-data/queue/failed", "mailserv-data/mail",
		"mailserv-data/mail/alice", "mailserv-data/mail/alice/new",
		"mailserv-data/mail/alice/cur",
		"mailserv-data/mail/alice/tmp" };
	char path[128], name[NAME_MAX + 1];

	umask(0);
	struct msg *m = message("alice@here.test x@far.test", "x\n");

	ck_assert_int_eq(commit(m), MSG_COMMITTED);
	for (size_t i = 0; i < NELEM(folders); i++)
		ck_assert_msg(mode_of(folders[i]) == 0700, "%s", folders[i]);
	snprintf(path, sizeof(path), "mailserv-data/queue/%s.env", m->id);
	ck_assert_uint_eq(mode_of(path), 0600);
	snprintf(path, sizeof(path), "mailserv-data/queue/%s.msg", m->id);
	ck_assert_uint_eq(mode_of(path), 0600);
	ck_assert_uint_eq(mode_of("mailserv-data/queue/lock"), 0600);
	ck_assert_uint_eq(count("mailserv-data/mail/alice/new", "", name), 1);
	spool_drop(m);
}
END_TEST

/* syncfs(2) tells of errors since Linux 5.8; what cannot be read is older. */
static const struct {
	const char *release;
	bool tells;
} kernels[] = {
	{ "5.8.0-1-amd64", true },
	{ "5.7.19", false },
	{ "5.10.16.3-microsoft-standard-WSL2", true },
	{ "4.19.0-27", false },
	{ "6.1.0", true },
	{ "10.0", true },
	{ "5", false },
	{ "unknown", false },
};

START_TEST(syncfs_of_a_kernel)
{
	kernel = kernels[_i].release;
	close(srv.spool.lock);
	srv.spool.use_syncfs = !kernels[_i].tells;
	ck_assert_int_eq(spool_start(conf), 0);
	ck_assert(srv.spool.use_syncfs == kernels[_i].tells);
}
END_TEST

/* A process that has the lock of a data_dir until the pipe is closed. */
static pid_t
lock_holder(const char *data_dir, int *leash)
{
	int down[2], up[2];
	char octet;

	ck_assert_int_eq(pipe(down) + pipe(up), 0);
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		char *mine = conf->data_dir, *theirs = strdup(data_dir);

		conf->data_dir = theirs;
		octet = (char)spool_start(conf);
		conf->data_dir = mine;
		free(theirs);
		close(down[1]);
		if (write(up[1], &octet, 1) == 1 &&
		    read(down[0], &octet, 1) == 0)
			_exit(0);
		_exit(1);
	}
	close(down[0]);
	ck_assert_int_eq(read(up[0], &octet, 1), 1);
	ck_assert_int_eq(octet, 0);
	close(up[0]);
	close(up[1]);
	*leash = down[1];
	return pid;
}

/* Another server has the lock: 75, its pid is named, nothing is touched.
 * When it is gone nobody has, whatever stands in the file. */
START_TEST(lock_is_taken)
{
	const char *said;
	char theirs[128], words[128], pid_text[32];
	int leash, status;

	snprintf(theirs, sizeof(theirs), "%s", test_path("theirs"));
	pid_t pid = lock_holder(theirs, &leash);

	snprintf(pid_text, sizeof(pid_text), "%ld\n", (long)pid);
	ck_assert_str_eq(test_read("theirs/queue/lock"), pid_text);
	test_write("theirs/queue/tmp/" ID ".msg", "being received");
	ck_assert_int_eq(other_start(theirs, &said), EX_TEMPFAIL);
	snprintf(words, sizeof(words), "/theirs is in use by process %s",
	    pid_text);
	ck_assert_msg(strstr(said, words) != NULL, "said: %s", said);
	ck_assert_uint_eq(count("theirs/queue/tmp", "", NULL), 1);
	ck_assert_str_eq(test_read("theirs/queue/lock"), pid_text);
	close(leash);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	ck_assert_int_eq(other_start(theirs, &said), 0);
	ck_assert_str_eq(said, "");
	snprintf(pid_text, sizeof(pid_text), "%ld\n", (long)getpid());
	ck_assert_str_eq(test_read("theirs/queue/lock"), pid_text);
}
END_TEST

/* State that cannot be made, or is another user's: 73, and why. */
START_TEST(state_cannot_be_had)
{
	const char *said, *path;

	ck_assert_int_eq(other_start(test_path("nowhere/data"), &said),
	    EX_CANTCREAT);
	ck_assert_ptr_nonnull(strstr(said,
	    "/nowhere/data: No such file or directory\n"));
	path = test_write("file", "");
	ck_assert_int_eq(other_start(path, &said), EX_CANTCREAT);
	ck_assert_ptr_nonnull(strstr(said, "/file: Not a directory\n"));
	/* Below / when not root, else a folder given away. */
	path = geteuid() == 0 ? test_path("foreign") : "/";
	if (geteuid() == 0) {
		ck_assert_int_eq(mkdir(path, 0777), 0);
		ck_assert_int_eq(chown(path, 65534, 65534), 0);
	}
	ck_assert_int_eq(other_start(path, &said), EX_CANTCREAT);
	ck_assert_ptr_nonnull(strstr(said, ": belongs to another user\n"));
	/* Something else lies where a folder or the lock should. */
	ck_assert_int_eq(mkdir(test_path("odd"), 0700), 0);
	ck_assert_int_eq(mkdir(test_path("odd/queue"), 0700), 0);
	ck_assert_int_eq(mkdir(test_path("odd/queue/lock"), 0700), 0);
	ck_assert_int_eq(other_start(test_path("odd"), &said), EX_CANTCREAT);
	ck_assert_ptr_nonnull(strstr(said, "/odd: Is a directory\n"));
	ck_assert_int_eq(rmdir(test_path("odd/queue/lock")), 0);
	ck_assert_int_eq(symlink(test_path("file"),
	    test_path("odd/queue/lock")), 0);
	ck_assert_int_eq(other_start(test_path("odd"), &said), EX_CANTCREAT);
	ck_assert_str_eq(test_read("file"), "");
	ck_assert_int_eq(unlink(test_path("odd/queue/lock")), 0);
	test_write("odd/queue/tmp", "");
	ck_assert_int_eq(other_start(test_path("odd"), &said), EX_CANTCREAT);
	ck_assert_ptr_nonnull(strstr(said, "/odd: Not a directory\n"));
}
END_TEST

/* The folders are made to last, before anything can lie in them. */
START_TEST(folders_last)
{
	const char *said;

	disk(0);
	ck_assert_int_eq(other_start(test_path("fresh"), &said), 0);
	ck_assert_str_eq(calls, "S");
	disk(1);
	ck_assert_int_eq(other_start(test_path("other"), &said), EX_CANTCREAT);
	ck_assert_ptr_nonnull(strstr(said, "/other: Input/output error\n"));
}
END_TEST

/* The ids that a scan finds, in text. */
static const char *
scanned(int at, bool repair)
{
	static char text[512];
	struct names ids = { .exact = true };

	text[0] = '\0';
	ck_assert(spool_scan(at, &ids, repair));
	for (size_t i = 0; i < ids.n; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text),
		    "%s%s", i > 0 ? " " : "", ids.v[i] + 12);
	names_free(&ids);
	return text;
}

/* Pairs are messages, in order; a half is what a crash left, removed at start
 * and left alone later, when it may be half way in or out. */
START_TEST(scan_and_repair)
{
	static const char *const names[] = { "000000000000000b.env",
		"000000000000000b.msg", "000000000000000a.env",
		"000000000000000a.msg", "000000000000000c.env",
		"000000000000000d.msg", "000000000000000e.msg",
		"000000000000000f.env", "000000000000000f.msg", "notes",
		".hosts", ".hosts.new", "000000000000000g.msg",
		"00000000000000001.msg", "000000000000000A.msg",
		"000000000000001.env", "0000000000000010.env.bak",
		"000000000000002b.env", /* being moved back from failed/, */
		"000000000000002c.msg", /* one half or the other first */
		"tmp/000000000000001a.msg", "tmp/000000000000001a.env",
		"tmp/anything", "failed/000000000000002a.env",
		"failed/000000000000002a.msg", "failed/000000000000002b.msg",
		"failed/000000000000002c.env" };
	char path[128];
	const char *said;

	for (size_t i = 0; i < NELEM(names); i++) {
		snprintf(path, sizeof(path), "mailserv-data/queue/%s",
		    names[i]);
		test_write(path, "x");
	}
	ck_assert_str_eq(scanned(srv.spool.dir, false), "000a 000b 000f");
	ck_assert_uint_eq(in_queue(), 19);
	ck_assert_uint_eq(in_drafts(), 3);
	ck_assert_str_eq(scanned(srv.spool.failed, false), "002a");
	log_level = 0;
	test_capture(STDERR_FILENO);
	ck_assert_str_eq(scanned(srv.spool.dir, true), "000a 000b 000f");
	said = test_captured();
	log_level = -1;
	for (const char *half = "cde"; *half != '\0'; half++) {
		snprintf(path, sizeof(path), "removed 000000000000000%c.%s: its"
					     " other half is not there\n",
		    *half, *half == 'c' ? "env" : "msg");
		ck_assert_msg(strstr(said, path) != NULL, "%s", said);
	}
	ck_assert_uint_eq(in_queue(), 16);
	ck_assert_uint_eq(in_drafts(), 0);
	ck_assert_uint_eq(count("mailserv-data/queue/failed", "", NULL), 4);
	ck_assert_str_eq(scanned(srv.spool.dir, true), "000a 000b 000f");
}
END_TEST

/* An envelope whose content is gone: the log keeps who should know. */
START_TEST(half_that_names_somebody)
{
	test_write("mailserv-data/queue/000000000000000c.env",
	    "arrived 1795508645\nsize 34\nfrom a@far.test\nto x@far.test\n"
	    "to y@far.test\ndone 1\n");
	log_level = 0;
	test_capture(STDERR_FILENO);
	ck_assert_str_eq(scanned(srv.spool.dir, true), "");
	const char *said = test_captured();

	log_level = -1;
	ck_assert_ptr_nonnull(strstr(said,
	    " 000000000000000c it was from=<a@far.test> to=<x@far.test>\n"));
	ck_assert_ptr_nonnull(strstr(said,
	    " 000000000000000c it was from=<a@far.test> to=<y@far.test>\n"));
	ck_assert_uint_eq(in_queue(), 0);
}
END_TEST

/* ---- mailserv -q and -d -------------------------------------------------- */

static const char listed[] =
    "0000000000000001  5000 octets  3m  from <a@far.test>\n"
    "    to <y@far.test>  tries 4  next 2026-11-24T08:33:19Z"
    "  450 4.2.0 full\n"
    "    to <z@other.test>  tries 2  next 2026-11-24T09:00:00Z"
    "  connection refused\n"
    "0000000000000002  1 octets  2d  from <>\n"
    "    to <x@far.test>  tries 0  next now  not tried yet\n"
    "0000000000000006  1 octets  59s  from <>\n"
    "    to <x>  tries 0  next now  not tried yet\n"
    "0000000000000007  1 octets  1h  from <>\n"
    "    to <x>  tries 0  next now  not tried yet\n"
    "0000000000000008  1 octets  0s  from <>\n"
    "    to <x>  tries 0  next now  not tried yet\n"
    "5 waiting, 1 in failed\n";

START_TEST(list)
{
	srv.wall = 1795508645123; /* 2026-11-24T08:24:05 */
	test_write("mailserv-data/queue/0000000000000002.env",
	    "arrived 1795335845\nsize 1\nhead 1\nfrom \nto x@far.test\n");
	test_write("mailserv-data/queue/0000000000000002.msg", "x");
	test_write("mailserv-data/queue/0000000000000001.env",
	    "arrived 1795508465\nsize 5000\nhead 1\nfrom a@far.test\n"
	    "to x@far.test\nto y@far.test\nto z@other.test\n"
	    "done 1\ntry 2 4 1795509199 450 4.2.0 full\n");
	test_write("mailserv-data/queue/0000000000000001.msg", "x");
	test_write("mailserv-data/queue/0000000000000003.msg", "a half");
	test_write("mailserv-data/queue/0000000000000005.env", "nonsense");
	test_write("mailserv-data/queue/0000000000000005.msg", "x");
	for (int i = 0; i < 3; i++) {
		static const int arrived[] = { 1795508586, 1795505045,
			1795509999 }; /* the last: before a clock was set */
		char name[64], text[64];

		snprintf(text, sizeof(text), "arrived %d\nsize 1\nhead 1\n"
					     "from \nto x\n", arrived[i]);
		snprintf(name, sizeof(name),
		    "mailserv-data/queue/000000000000000%d.env", i + 6);
		test_write(name, text);
		strcpy(strrchr(name, '.'), ".msg");
		test_write(name, "x");
	}
	test_write("mailserv-data/queue/failed/0000000000000004.env", "x");
	test_write("mailserv-data/queue/failed/0000000000000004.msg", "x");
	test_write("mailserv-data/queue/.hosts",
	    "OTHER.test 2 1795510800 connection refused\n"
	    "other.testing 9 1 no\n");
	test_capture(STDOUT_FILENO);
	ck_assert_int_eq(spool_list(conf), 0);
	ck_assert_str_eq(test_captured(), listed);
	ck_assert_uint_eq(in_queue() - 1, 13); /* .hosts lies here too */
}
END_TEST

START_TEST(list_of_nothing)
{
	char *mine = conf->data_dir;
	char nowhere[] = "/nowhere/at/all";

	test_capture(STDOUT_FILENO);
	ck_assert_int_eq(spool_list(conf), 0);
	conf->data_dir = nowhere;
	ck_assert_int_eq(spool_list(conf), 0);
	ck_assert_str_eq(test_captured(),
	    "0 waiting, 0 in failed\n0 waiting, 0 in failed\n");
	conf->data_dir = mine;
}
END_TEST

/* An id that is not there: 66; the others are deleted all the same. */
START_TEST(delete)
{
	char *none[] = { NULL }, one[] = "0000000000000001",
	     two[] = "0000000000000002", three[] = "0000000000000003",
	     path[] = "../../users", upper[] = "000000000000000A",
	     empty[] = "", lock[] = "lock";
	char *ids[] = { one, path, empty, lock, upper, three, two, two, NULL };
	char *good[] = { three, NULL };

	for (char at = '1'; at <= '3'; at++) {
		char name[64];

		for (int end = 0; end < 2; end++) {
			snprintf(name, sizeof(name),
			    "mailserv-data/queue/000000000000000%c.%s", at,
			    end ? "env" : "msg");
			if (at < '3')
				test_write(name, "x");
		}
	}
	ck_assert_int_eq(spool_delete(conf, none), 0);
	test_capture(STDERR_FILENO);
	ck_assert_int_eq(spool_delete(conf, ids), EX_NOINPUT);
	ck_assert_str_eq(test_captured(),
	    "mailserv: no message ../../users in the queue\n"
	    "mailserv: no message  in the queue\n"
	    "mailserv: no message lock in the queue\n"
	    "mailserv: no message 000000000000000A in the queue\n"
	    "mailserv: no message 0000000000000003 in the queue\n"
	    "mailserv: no message 0000000000000002 in the queue\n");
	ck_assert_uint_eq(in_queue(), 0);
	ck_assert_ptr_nonnull(test_read("users"));
	ck_assert_ptr_nonnull(test_read("mailserv-data/queue/lock"));
	test_write("mailserv-data/queue/0000000000000003.msg", "x");
	test_write("mailserv-data/queue/0000000000000003.env", "x");
	disk(0);
	ck_assert_int_eq(spool_delete(conf, good), 0);
	ck_assert_str_eq(removed, "EM");
	ck_assert_uint_eq(in_queue(), 0);
}
END_TEST

/* ---- main ---------------------------------------------------------------- */

static const struct {
	const char *group;
	const TTest **test;
	int rows; /* of its table; 0: it has none */
} tests[] = {
	{ "addresses", &place_of_an_address, (int)NELEM(places) },
	{ "addresses", &nobody_twice, 0 },
	{ "addresses", &catch_all, 0 },
	{ "addresses", &longest_addresses, 0 },
	{ "way in", &ids_only_grow, 0 },
	{ "way in", &content_is_counted, 0 },
	{ "way in", &rfc6152_2_eightbit, 0 },
	{ "way in", &content_in_pieces, 0 },
	{ "way in", &writes_in_pieces, 0 },
	{ "way in", &new_file, 0 },
	{ "way in", &new_file_without_groups, 0 },
	{ "way in", &not_shown, 0 },
	{ "way in", &large_content, 0 },
	{ "spares", &spares_are_written_over, 0 },
	{ "spares", &spares_and_few_files, 0 },
	{ "spares", &spares_after_a_sync_that_failed, 0 },
	{ "spares", &no_spares, 0 },
	{ "spares", &spares_on_a_full_disk, 0 },
	{ "spares", &spares_that_are_read, 0 },
	{ "spares", &spares_that_are_shown, 0 },
	{ "spares", &spares_of_others, 0 },
	{ "spares", &limits_of_spares, 0 },
	{ "spares", &start_without_spares, 0 },
	{ "way in", &dropped_before_the_commit, 0 },
	{ "commit", &commit_of_each_kind, (int)NELEM(kinds) },
	{ "commit", &envelope_text, 0 },
	{ "commit", &order_of_the_steps, 0 },
	{ "commit", &group_commit, 0 },
	{ "commit", &each_call_fails_once, 2 * (int)NELEM(kinds) },
	{ "commit", &refused_before_the_sync_fails, 0 },
	{ "commit", &mailboxes_on_another_disk, 0 },
	{ "commit", &sync_that_failed_is_not_believed, 0 },
	{ "commit", &refused_alone, 0 },
	{ "commit", &refused_by_the_disk, 0 },
	{ "commit", &full_for_a_moment, 0 },
	{ "commit", &refused_without_folders, 0 },
	{ "envelopes", &envelope_read, 0 },
	{ "envelopes", &envelope_torn, (int)NELEM(torn) },
	{ "envelopes", &envelope_that_is_none, 0 },
	{ "envelopes", &envelope_of_noise, 0 },
	{ "envelopes", &envelope_that_grew, 0 },
	{ "envelopes", &envelope_append, 0 },
	{ "envelopes", &envelope_bad, 0 },
	{ "envelopes", &over_but_not_removed, 0 },
	{ "envelopes", &envelope_append_fails, 0 },
	{ "envelopes", &content_and_removal, 0 },
	{ "failed", &fail_twice, 0 },
	{ "failed", &fail_torn, 0 },
	{ "failed", &fail_and_back, 0 },
	{ "failed", &fail_fails, 0 },
	{ "failed", &fail_on_another, 0 },
	{ "start", &modes, 0 },
	{ "start", &syncfs_of_a_kernel, (int)NELEM(kernels) },
	{ "start", &lock_is_taken, 0 },
	{ "start", &state_cannot_be_had, 0 },
	{ "start", &folders_last, 0 },
	{ "start", &scan_and_repair, 0 },
	{ "start", &half_that_names_somebody, 0 },
	{ "tools", &list, 0 },
	{ "tools", &list_of_nothing, 0 },
	{ "tools", &delete, 0 },
};

int
main(void)
{
	Suite *suite = suite_create("spool");
	TCase *tcase = NULL;

	for (size_t i = 0; i < NELEM(tests); i++) {
		if (i == 0 || strcmp(tests[i].group, tests[i - 1].group) != 0) {
			tcase = tcase_create(tests[i].group);
			tcase_add_checked_fixture(tcase, begin, end);
			tcase_set_timeout(tcase, 60);
			suite_add_tcase(suite, tcase);
		}
		tcase_add_loop_test(tcase, *tests[i].test, 0,
		    tests[i].rows > 0 ? tests[i].rows : 1);
	}
	SRunner *runner = srunner_create(suite);

	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);

	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
