/*
 * check_security.c -- what strangers may not: relay, read, write, gain.
 *
 * Against the real binary, which sees its clients come from several addresses
 * of loopback.  What needs root is told as skipped where there is none.
 * NOTES.md has the table of what is promised.
 *
 * Links with: none
 */
#include "program.h"
#include <arpa/inet.h>
#include <ftw.h>
#include <grp.h>
#include <pwd.h>
#include <sys/resource.h>

/* Addresses of clients: relay_from holds the first, and not the others. */
#define INSIDE	"127.0.0.2"
#define OUTSIDE "127.0.0.3"

/* Clients without names, hosts that nobody has: nothing is looked up. */
static void
setup_alone(void)
{
	setup();
	ck_assert_int_eq(chmod(world.dir, 0755), 0);
	write_file("users", "alice:{PLAIN}alice\nbob:{PLAIN}bob\n");
}

/* The configuration of MAIL1, and what a test adds to it. */
static void
configure(const char *more)
{
	write_file("mail1.conf", "hostname here.test\ndata_dir data\n"
	    "listen_smtp 127.0.0.1:%u\nlisten_pop3 127.0.0.1:%u\n"
	    "users users\nresolver 127.0.0.1:%u\nsmtp_port %u\n%s",
	    world.smtp, world.pop3, world.dns, free_port(), more);
}

/* A path in the world's folder, in one of four buffers in turn. */
static const char *
in_world(const char *name)
{
	static char path[4][PATH_MAX];
	static unsigned turn;
	char *at = path[turn++ % 4];

	snprintf(at, PATH_MAX, "%.2000s/%.2000s", world.dir, name);
	return at;
}

/* Does this test have to be left out? */
static bool
skipped(void)
{
	if (geteuid() != 0)
		printf("skipped: needs root\n");
	return geteuid() != 0;
}

/* Run mailserv with these arguments (parted by blanks); its exit status.  124:
 * it should have ended, and runs. */
static int
run(const char *arguments)
{
	char binary[PATH_MAX], command[3 * PATH_MAX];

	built("mailserv", binary);
	snprintf(command, sizeof(command),
	    "cd '%s' && timeout %d '%s' %s >out 2>&1 </dev/null", world.dir,
	    PATIENCE, binary, arguments);
	int status = system(command);

	ck_assert(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* What the last run printed. */
static const char *
printed(void)
{
	return read_file(in_world("out"));
}

/* ---- clients ------------------------------------------------------------- */

/* A connection from one address of loopback to a port of another; 20 seconds
 * of silence end it. */
static int
dial(const char *from, const char *to, unsigned port)
{
	struct sockaddr_in us = { .sin_family = AF_INET }, them = us;
	struct timeval patience = { .tv_sec = PATIENCE };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	them.sin_port = htons((uint16_t)port);
	ck_assert_int_eq(inet_pton(AF_INET, from, &us.sin_addr), 1);
	ck_assert_int_eq(inet_pton(AF_INET, to, &them.sin_addr), 1);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&us, sizeof(us)), 0);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&them, sizeof(them)),
	    0);
	return fd;
}

/* The last line of a reply, without CRLF; "" when the server has gone. */
static const char *
hear(int fd)
{
	static char line[1024];

	do {
		size_t len = 0;

		while (len < sizeof(line) - 1 && recv(fd, line + len, 1, 0) == 1 &&
		    line[len] != '\n')
			len++;
		line[len - (len > 0)] = '\0';
	} while (strlen(line) > 3 && line[3] == '-');
	return line;
}

/* Say these octets; the reply. */
static const char *
say_octets(int fd, const char *data, size_t len)
{
	ck_assert_int_eq(send(fd, data, len, MSG_NOSIGNAL), (ssize_t)len);
	return hear(fd);
}

/* Say a line; the reply. */
__attribute__((format(printf, 2, 3))) static const char *
say(int fd, const char *fmt, ...)
{
	char line[1024];
	va_list ap;

	va_start(ap, fmt);
	int len = vsnprintf(line, sizeof(line) - 2, fmt, ap);

	va_end(ap);
	memcpy(line + len, "\r\n", 3);
	return say_octets(fd, line, (size_t)len + 2);
}

/* The server must answer so. */
#define EXPECT(want, heard)                                                  \
	do {                                                                 \
		const char *got_ = (heard);                                  \
		ck_assert_msg(strncmp(got_, want, strlen(want)) == 0,        \
		    "wanted %s, heard %s", want, got_);                      \
	} while (0)

/* An SMTP client that was greeted. */
static int
smtp_from(const char *address)
{
	int fd = dial(address, "127.0.0.1", world.smtp);

	EXPECT("220", hear(fd));
	EXPECT("250", say(fd, "EHLO client.test"));
	return fd;
}

/* Send one message; what is said after the dot. */
static const char *
send_message(int fd, const char *to)
{
	EXPECT("250", say(fd, "MAIL FROM:<eve@sender.test>"));
	EXPECT("250", say(fd, "RCPT TO:<%s>", to));
	EXPECT("354", say(fd, "DATA"));
	return say(fd, "Subject: x\r\n\r\ntext\r\n.");
}

/* ---- what lies on disk --------------------------------------------------- */

/* What the tree below data_dir must be like; see tree_is(). */
static struct {
	uid_t owner;
	size_t files;
	char wrong[PATH_MAX + 64];
} tree;

static int
tree_look(const char *path, const struct stat *st, int kind, struct FTW *where)
{
	mode_t want = S_ISDIR(st->st_mode) ? 0700 : 0600;

	(void)kind;
	(void)where;
	tree.files += S_ISREG(st->st_mode);
	if (st->st_uid != tree.owner || (st->st_mode & 07777) != want)
		snprintf(tree.wrong, sizeof(tree.wrong), "%.4000s: %o, %u",
		    path, st->st_mode & 07777, st->st_uid);
	return 0;
}

/* Everything in data_dir belongs to owner, and nobody else may look; how many
 * files there are. */
static size_t
tree_is(uid_t owner)
{
	memset(&tree, 0, sizeof(tree));
	tree.owner = owner;
	ck_assert_int_eq(nftw(in_world("data"), tree_look, 16, FTW_PHYS), 0);
	ck_assert_msg(tree.wrong[0] == '\0', "%s", tree.wrong);
	return tree.files;
}

/* Is there a file in this folder whose name holds this text? */
static bool
holds(const char *folder, const char *text)
{
	DIR *dir = opendir(in_world(folder));
	bool found = false;

	for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;)
		found |= strstr(e->d_name, text) != NULL;
	if (dir != NULL)
		closedir(dir);
	return found;
}

/* ---- the state: whose, and who may look ---------------------------------- */

/* Whatever the caller's umask: one message is delivered, one waits. */
START_TEST(state_is_ours_alone)
{
	configure("relay_from 127.0.0.2\n");
	umask(0);
	start(MAIL1);
	umask(022);
	int fd = smtp_from(INSIDE);

	EXPECT("250", send_message(fd, "alice@here.test"));
	EXPECT("250", send_message(fd, "x@far.test"));
	wait_for(in_world("data/queue/.hosts"), "far.test", 1);
	/* lock, .hosts, envelope, content; in the mailbox */
	ck_assert_uint_eq(tree_is(geteuid()), 5);
	close(fd);
}
END_TEST

/* Folders of the state. */
static const char *const folders[] = { "data", "data/mail", "data/queue",
	"data/queue/tmp", "data/queue/failed" };
enum { N_FOLDERS = sizeof(folders) / sizeof(*folders) };

static void
make_state(void)
{
	for (size_t i = 0; i < N_FOLDERS; i++)
		ck_assert_int_eq(mkdir(in_world(folders[i]), 0700), 0);
}

/* Of a folder that others may write into the operator hears. */
START_TEST(state_that_others_may_write)
{
	static const mode_t modes[] = { 0702, 01777, 0755 };
	char log[PATH_MAX];

	configure("");
	make_state();
	log_path(MAIL1, log);
	for (size_t i = 0; i < 3; i++) {
		ck_assert_int_eq(chmod(in_world(folders[_i]), modes[i]), 0);
		unlink(log);
		start(MAIL1);
		ck_assert_int_eq(count_in(log, "others may write into"), i < 2);
		stop(MAIL1, SIGTERM);
	}
}
END_TEST

/* Nor is one of another user. */
START_TEST(state_of_another_user)
{
	if (skipped())
		return;
	configure("");
	make_state();
	ck_assert_int_eq(chown(in_world(folders[_i]), 65534, 65534), 0);
	ck_assert_int_eq(run("-c mail1.conf"), 73);
	ck_assert_ptr_nonnull(strstr(printed(), "belongs to another user"));
}
END_TEST

/* data_dir may be a link of the operator's; the lock may not. */
START_TEST(links_in_the_state)
{
	configure("");
	ck_assert_int_eq(mkdir(in_world("elsewhere"), 0700), 0);
	ck_assert_int_eq(symlink("elsewhere", in_world("data")), 0);
	start(MAIL1);
	stop(MAIL1, SIGTERM);
	ck_assert(holds("elsewhere/queue", "lock"));
	write_file("precious", "text");
	ck_assert_int_eq(unlink(in_world("data/queue/lock")), 0);
	ck_assert_int_eq(symlink("../../precious", in_world("data/queue/lock")),
	    0);
	ck_assert_int_eq(run("-c mail1.conf"), 73);
	ck_assert_str_eq(read_file(in_world("precious")), "text");
}
END_TEST

/* ---- privileges ---------------------------------------------------------- */

/* The value of a line of /proc/PID/FILE that begins with key, its blanks
 * made one. */
static const char *
proc_line(const char *file, const char *key)
{
	static char value[256];
	char path[64];
	size_t len = 0;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)world.pid[MAIL1],
	    file);
	const char *at = strstr(read_file(path), key);

	ck_assert_msg(at != NULL, "no %s in %s", key, path);
	for (at += strlen(key); *at != '\n' && len + 1 < sizeof(value); at++)
		if (strchr(" \t", *at) == NULL)
			value[len++] = *at;
		else if (len > 0 && value[len - 1] != ' ')
			value[len++] = ' ';
	while (len > 0 && value[len - 1] == ' ')
		len--;
	value[len] = '\0';
	return value;
}

/* No core, for it would hold the passwords; gdb may attach all the same,
 * which needs that /proc/PID is ours. */
START_TEST(no_core_is_written)
{
	struct rlimit limit;
	char want[64];

	ck_assert_int_eq(getrlimit(RLIMIT_CORE, &limit), 0);
	limit.rlim_cur = limit.rlim_max;
	ck_assert_int_eq(setrlimit(RLIMIT_CORE, &limit), 0);
	configure("");
	start(MAIL1);
	int len = snprintf(want, sizeof(want), "%d ", limit.rlim_max > 0);

	const char *now = proc_line("limits", "Max core file size");

	ck_assert_int_eq(strncmp(now, want, (size_t)len), 0);
	ck_assert_int_eq(kill(world.pid[MAIL1], SIGQUIT), 0);
	int status = 0;

	ck_assert_int_eq(waitpid(world.pid[MAIL1], &status, 0),
	    world.pid[MAIL1]);
	world.pid[MAIL1] = 0;
	ck_assert(WIFSIGNALED(status) && !WCOREDUMP(status));
}
END_TEST

/* After the ports are open root is given up, wholly and for good. */
START_TEST(root_is_given_up)
{
	struct passwd *pw = getpwnam("nobody");
	gid_t groups[] = { 1, 2, 3 };
	char want[128], path[64];
	struct stat st;

	if (skipped())
		return;
	ck_assert_ptr_nonnull(pw);
	configure("run_as nobody\n");
	ck_assert_int_eq(setgroups(3, groups), 0);
	start(MAIL1);
	snprintf(want, sizeof(want), "%u %u %u %u", pw->pw_uid, pw->pw_uid,
	    pw->pw_uid, pw->pw_uid);
	ck_assert_str_eq(proc_line("status", "\nUid:"), want);
	snprintf(want, sizeof(want), "%u %u %u %u", pw->pw_gid, pw->pw_gid,
	    pw->pw_gid, pw->pw_gid);
	ck_assert_str_eq(proc_line("status", "\nGid:"), want);
	ck_assert_str_eq(proc_line("status", "\nGroups:"), "");
	ck_assert_str_eq(proc_line("status", "\nCapEff:"), "0000000000000000");
	ck_assert_str_eq(proc_line("status", "\nCapPrm:"), "0000000000000000");
	ck_assert_str_eq(proc_line("status", "\nNoNewPrivs:"), "1");
	/* Not dumpable: so /proc gives its files to root (proc(5)). */
	snprintf(path, sizeof(path), "/proc/%d/status", (int)world.pid[MAIL1]);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_uid, 0);
	EXPECT("250", send_message(smtp_from(INSIDE), "alice@here.test"));
	ck_assert_uint_eq(tree_is(pw->pw_uid), 2);
}
END_TEST

/* SIGHUP reads with that user's rights: what only root may read is an error,
 * and the old configuration stays. */
START_TEST(reload_without_root)
{
	char log[PATH_MAX];

	if (skipped())
		return;
	configure("run_as nobody\n");
	start(MAIL1);
	log_path(MAIL1, log);
	write_file("users", "carol:{PLAIN}carol\n");
	ck_assert_int_eq(chmod(in_world("users"), 0600), 0);
	kill(world.pid[MAIL1], SIGHUP);
	wait_for(log, "configuration kept", 1);
	ck_assert_ptr_nonnull(strstr(read_file(log),
	    "users: Permission denied"));
	int fd = smtp_from(INSIDE);

	EXPECT("250", say(fd, "MAIL FROM:<>"));
	EXPECT("550 5.1.1", say(fd, "RCPT TO:<carol@here.test>"));
	EXPECT("250", say(fd, "RCPT TO:<alice@here.test>"));
	close(fd);
}
END_TEST

/* A mailbox that another user has is not written into: 451. */
START_TEST(mailbox_of_another_user)
{
	if (skipped())
		return;
	configure("run_as nobody\n");
	start(MAIL1);
	ck_assert_int_eq(mkdir(in_world("data/mail/alice"), 0700), 0);
	int fd = smtp_from(INSIDE);

	EXPECT("451", send_message(fd, "alice@here.test"));
	EXPECT("250", send_message(fd, "bob@here.test"));
	close(fd);
}
END_TEST

/* Root keeps no port below 1024 for itself. */
START_TEST(root_needs_run_as)
{
	if (skipped())
		return;
	write_file("mail1.conf", "domain none\nlisten_smtp 127.0.0.1:999\n");
	ck_assert_int_eq(run("-c mail1.conf"), 78);
	ck_assert_ptr_nonnull(strstr(printed(), "mail1.conf:2: root on a port"
	    " below 1024: run_as must say"));
	ck_assert_int_eq(access(in_world("mailserv-data"), F_OK), -1);
}
END_TEST

/* ---- who may send where -------------------------------------------------- */

/* Where a message has gone: the mailboxes, then "> " the addresses that wait
 * in the queue; "" nowhere. */
static const char *
went_to(const char *id)
{
	static char text[1024];
	char name[128];

	snprintf(text, sizeof(text), "%s%s",
	    holds("data/mail/alice/new", id) ? "alice " : "",
	    holds("data/mail/bob/new", id) ? "bob " : "");
	snprintf(name, sizeof(name), "data/queue/%.16s.env", id);
	for (char *at = read_file(in_world(name));
	     (at = strstr(at, "\nto ")) != NULL; at++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text),
		    "> %.*s ", (int)strcspn(at + 4, "\n"), at + 4);
	text[strlen(text) - (text[0] != '\0')] = '\0';
	return text;
}

/* The client says RCPT; a reply that begins so, and where mail then goes. */
struct right {
	const char *rcpt, *reply, *where;
};

#define NOT_HERE "550 5.1.1", ""
#define NOT_YOU	 "550 5.7.1", ""

/* Anybody, and so those of whom relay_from knows nothing. */
static const struct right for_all[] = {
	{ "<alice@here.test>", "250", "alice" },
	{ "<ALICE@Here.Test>", "250", "alice" },
	{ "<\"alice\"@here.test>", "250", "alice" },
	{ "<friend@here.test>", "250", "bob" },
	{ "<both@here.test>", "250", "alice bob" },
	/* The operator's own wish, and nobody else's. */
	{ "<away@here.test>", "250", "> away@far.test" },
	{ "<postmaster>", "250", "alice" },
	{ "<postmaster@here.test>", "250", "alice" },
	{ "<nobody@here.test>", NOT_HERE },
	{ "<any@open.test>", "250", "> any@open.test" },
	{ "<postmaster@open.test>", "250", "> postmaster@open.test" },
	{ "<known@listed.test>", "250", "> known@listed.test" },
	{ "<other@listed.test>", NOT_HERE },
	{ "<postmaster@listed.test>", "250", "> postmaster@listed.test" },
	/* An address literal of ours, in both its forms. */
	{ "<alice@[127.0.0.1]>", "250", "alice" },
	{ "<nobody@[127.0.0.1]>", NOT_HERE },
	{ "<alice@[IPv6:::ffff:127.0.0.1]>", "250", "alice" },
	{ "<nobody@[IPv6:::ffff:127.0.0.1]>", NOT_HERE },
	/* A source route is not followed (RFC 5321 C). */
	{ "<@far.test:alice@here.test>", "250", "alice" },
	{ "<@far.test,@open.test:any@open.test>", "250", "> any@open.test" },
	{ "<@far.test:nobody@here.test>", NOT_HERE },
	/* Nor is what used to be one: it is a local part like others. */
	{ "<user%far.test@here.test>", NOT_HERE },
	{ "<\"user@far.test\"@here.test>", NOT_HERE },
	{ "<far.test!user@here.test>", NOT_HERE },
	{ "<\"@far.test:user\"@here.test>", NOT_HERE },
	{ "<user%far.test@[127.0.0.1]>", NOT_HERE },
	{ "<user%far.test@listed.test>", NOT_HERE },
	{ "<user@far.test@here.test>", "501 5.1.3", "" },
	{ "<user@far.test>@here.test", "501", "" },
	{ "<@here.test@far.test:user@here.test>", "501 5.1.3", "" },
};

/* What differs: for clients that relay_from holds, and for others. */
static const struct {
	const char *rcpt, *where;
} foreign[] = {
	{ "<x@far.test>", "> x@far.test" },
	{ "<alice@far.test>", "> alice@far.test" },
	{ "<x@sub.open.test>", "> x@sub.open.test" },
	{ "<x@notopen.test>", "> x@notopen.test" },
	{ "<x@sub.here.test>", "> x@sub.here.test" },
	{ "<x@[192.0.2.1]>", "> x@[192.0.2.1]" },
	{ "<x@[IPv6:2001:db8::1]>", "> x@[IPv6:2001:db8::1]" },
	{ "<@here.test:x@far.test>", "> x@far.test" },
	{ "<@open.test:x@far.test>", "> x@far.test" },
	{ "<\"x@here.test\"@far.test>", "> \"x@here.test\"@far.test" },
	{ "<here.test!x@far.test>", "> here.test!x@far.test" },
	{ "<postmaster@far.test>", "> postmaster@far.test" },
};

/* One recipient of one client, to the end: the reply, and the way. */
static void
try_right(int fd, struct right right)
{
	char id[17] = "none";

	EXPECT("250", say(fd, "MAIL FROM:<eve@sender.test>"));
	const char *reply = say(fd, "RCPT TO:%s", right.rcpt);

	ck_assert_msg(strncmp(reply, right.reply, strlen(right.reply)) == 0,
	    "%s: wanted %s, heard %s", right.rcpt, right.reply, reply);
	if (reply[0] == '2') {
		EXPECT("354", say(fd, "DATA"));
		reply = say(fd, "Subject: x\r\n\r\ntext\r\n.");
		ck_assert_int_eq(sscanf(reply, "250 2.0.0 %16s is", id), 1);
	} else {
		EXPECT("250", say(fd, "RSET"));
	}
	ck_assert_msg(strcmp(went_to(id), right.where) == 0,
	    "%s: wanted %s, went to %s", right.rcpt, right.where, went_to(id));
}

/* All of the table, for one client. */
static void
try_rights(const char *client, bool may_relay)
{
	int fd = smtp_from(client);

	for (size_t i = 0; i < sizeof(for_all) / sizeof(*for_all); i++)
		try_right(fd, for_all[i]);
	for (size_t i = 0; i < sizeof(foreign) / sizeof(*foreign); i++) {
		struct right right = { foreign[i].rcpt, "250",
			foreign[i].where };

		if (!may_relay)
			right = (struct right){ foreign[i].rcpt, NOT_YOU };
		try_right(fd, right);
	}
	/* A reverse-path of ours opens no door. */
	EXPECT("250", say(fd, "MAIL FROM:<alice@here.test>"));
	EXPECT(may_relay ? "250" : "550 5.7.1", say(fd,
	    "RCPT TO:<x@far.test>"));
	close(fd);
}

#define DOMAINS                                                        \
	"domain here.test\nrelay_domain open.test\n"                   \
	"relay_domain listed.test list\nalias friend bob\n"            \
	"alias both alice\nalias both bob\nalias away away@far.test\n"

static const struct {
	const char *relay_from, *client;
	bool may_relay;
} clients[] = {
	{ "relay_from 127.0.0.2", INSIDE, true },
	{ "relay_from 127.0.0.2", OUTSIDE, false },
	{ "relay_from none", INSIDE, false },
	{ "relay_from none", "127.0.0.1", false },
	{ "", OUTSIDE, true }, /* the default is all of loopback */
	{ "relay_from 192.0.2.0/24 2001:db8::/32 ::1", "127.0.0.1", false },
	{ "relay_from ::ffff:127.0.0.2", INSIDE, true },
	{ "relay_from ::ffff:127.0.0.2", OUTSIDE, false },
	{ "relay_from ::/0", INSIDE, true },
};

START_TEST(who_may_send_where)
{
	char more[512];

	write_file("list", "known\n");
	snprintf(more, sizeof(more), "%s\n" DOMAINS, clients[_i].relay_from);
	configure(more);
	start(MAIL1);
	try_rights(clients[_i].client, clients[_i].may_relay);
}
END_TEST

/* catch_all takes what nobody has, but passes nothing on. */
START_TEST(catch_all_is_no_relay)
{
	static const char *const all[] = { "<nobody@here.test>",
		"<user%far.test@here.test>", "<\"user@far.test\"@here.test>",
		"<far.test!user@here.test>", "<\"../../x\"@here.test>",
		"<nobody@[127.0.0.1]>" };

	configure("relay_from none\ncatch_all bob\n");
	start(MAIL1);
	int fd = smtp_from(INSIDE);

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		try_right(fd, (struct right){ all[i], "250", "bob" });
	try_right(fd, (struct right){ "<alice@here.test>", "250", "alice" });
	try_right(fd, (struct right){ "<x@far.test>", NOT_YOU });
	close(fd);
}
END_TEST

/* A socket for IPv6 hears no IPv4: a client cannot come as ::ffff:a.b.c.d;
 * as ::1 it is what relay_from says of ::1. */
START_TEST(clients_of_ipv6)
{
	struct sockaddr_in6 to = { .sin6_family = AF_INET6,
		.sin6_port = htons((uint16_t)world.smtp) };

	write_file("mail1.conf", "hostname here.test\ndata_dir data\n"
	    "listen_smtp [::]:%u\nlisten_pop3 none\nusers users\n"
	    "relay_from 127.0.0.0/8\nresolver 127.0.0.1:%u\n", world.smtp,
	    world.dns);
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

	to.sin6_addr = in6addr_loopback;
	if (fd < 0 || (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0 &&
		errno != ECONNREFUSED)) {
		printf("skipped: no IPv6 here\n");
		return;
	}
	start(MAIL1);
	close(fd);
	fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	EXPECT("220", hear(fd));
	EXPECT("250", say(fd, "HELO x"));
	try_right(fd, (struct right){ "<x@far.test>", NOT_YOU });
	try_right(fd, (struct right){ "<alice@[IPv6:::1]>", "250", "alice" });
	close(fd);
	inet_pton(AF_INET6, "::ffff:127.0.0.1", &to.sin6_addr);
	fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&to, sizeof(to)), -1);
	ck_assert_int_eq(errno, ECONNREFUSED);
	close(fd);
}
END_TEST

/* VRFY and EXPN tell nobody anything; ETRN is for relay_domains, from anyone,
 * and sends where the DNS says. */
START_TEST(who_may_ask_what)
{
	static const char *const from[] = { INSIDE, OUTSIDE };

	write_file("list", "known\n");
	configure("relay_from 127.0.0.2\n" DOMAINS);
	start(MAIL1);
	for (size_t i = 0; i < 2; i++) {
		int fd = smtp_from(from[i]);

		EXPECT("252", say(fd, "VRFY alice"));
		EXPECT("252", say(fd, "VRFY nobody"));
		EXPECT("252", say(fd, "VRFY nobody@listed.test"));
		EXPECT("502", say(fd, "EXPN both"));
		EXPECT("502", say(fd, "TURN"));
		EXPECT("251", say(fd, "ETRN open.test"));
		EXPECT("251", say(fd, "ETRN listed.test"));
		EXPECT("459 4.7.1", say(fd, "ETRN far.test"));
		EXPECT("459 4.7.1", say(fd, "ETRN here.test"));
		EXPECT("459 4.7.1", say(fd, "ETRN sub.open.test"));
		EXPECT("501", say(fd, "ETRN ../x"));
		close(fd);
	}
}
END_TEST

/* ---- names from the network ---------------------------------------------- */

/* Everything in the world's folder, with time and size; see the_tree(). */
static FILE *listing;

static int
list_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
	(void)kind;
	(void)where;
	fprintf(listing, "%s %o %lld %lld.%09ld\n", path, st->st_mode,
	    (long long)st->st_size, (long long)st->st_mtim.tv_sec,
	    st->st_mtim.tv_nsec);
	return 0;
}

/* All below a folder of the world as text, from malloc(). */
static char *
the_tree(const char *folder)
{
	char *text = NULL;
	size_t len;

	listing = open_memstream(&text, &len);
	ck_assert_ptr_nonnull(listing);
	ck_assert_int_eq(nftw(in_world(folder), list_one, 16, FTW_PHYS), 0);
	ck_assert_int_eq(fclose(listing), 0);
	return text;
}

/* Does text hold nothing but printable ASCII and lines? */
static void
expect_printable(const char *what, const char *text)
{
	ck_assert_msg(text[0] != '\0', "%s is empty", what);
	for (; *text != '\0'; text++)
		ck_assert_msg(*text == '\n' || *text == '\t' ||
			(*text >= ' ' && *text <= '~'),
		    "%s holds \\%03o: %.60s", what, (unsigned char)*text, text);
}

/* What a stranger may call somebody or something. */
static const struct {
	const char *text;
	size_t len;
} names[] = {
#define NAME(text) { text, sizeof(text) - 1 }
	NAME("../../x"),
	NAME("/etc/passwd"),
	NAME("."),
	NAME(".."),
	NAME("tmp"),
	NAME("new"),
	NAME("cur"),
	NAME("alice/new"),
	NAME("alice/../bob"),
	NAME("alice\0.txt"),
	NAME("alice%00"),
	NAME("\0"),
	NAME("%n%n%n%n%s%s%s%s%x%p%1000000d"),
	NAME("\033[2J\033]0;title\007"),
	NAME("a\rb"),
	NAME("a\nb"),
	NAME("\x80\x85\x9b" "31m\x9f\xff"),
	NAME("\x7f\b\b\b"),
#undef NAME
};
enum { N_NAMES = sizeof(names) / sizeof(*names) };

/* How a name may be said; %% is where it stands. */
static const char *const smtp_ways[] = { "EHLO %%", "MAIL FROM:<%%@x.test>",
	"MAIL FROM:<a@%%>", "MAIL FROM:<\"%%\"@x.test>",
	"MAIL FROM:<a@b> SIZE=%%", "MAIL FROM:<a@b> %%=%%",
	"RCPT TO:<%%@here.test>", "RCPT TO:<\"%%\"@here.test>",
	"RCPT TO:<%%>", "RCPT TO:<a@%%>", "RCPT TO:<alice@here.test> %%",
	"VRFY %%", "ETRN %%", "NOOP %%", "HELP %%", "%%", "%% alice" };
static const char *const pop3_ways[] = { "USER %%", "PASS %%", "%%",
	"RETR %%", "USER alice %%", "TOP %% %%" };

/* Say a name in one way, with CRLF; every line of it is answered. */
static void
say_name(int fd, const char *way, size_t name)
{
	char line[512];
	size_t len = 0;

	for (; *way != '\0'; way++)
		if (strncmp(way, "%%", 2) == 0) {
			memcpy(line + len, names[name].text, names[name].len);
			len += names[name].len;
			way++;
		} else {
			line[len++] = *way;
		}
	memcpy(line + len, "\r\n", 2);
	len += 2;
	const char *reply = say_octets(fd, line, len);

	ck_assert_str_ne(reply, "");
	expect_printable("a reply", reply);
	for (char *lf = line; (lf = memchr(lf, '\n', len - (size_t)(lf - line)))
	     != NULL && lf + 1 < line + len; lf++)
		expect_printable("a reply", hear(fd));
}

/* No name becomes a path, a format or a control of the log (-v). */
START_TEST(names_stay_names)
{
	configure("relay_from 127.0.0.2\n");
	start(MAIL1);
	char *before = the_tree("data");

	for (size_t i = 0; i < N_NAMES; i++) {
		int fd = smtp_from(INSIDE);

		for (size_t k = 0; k < sizeof(smtp_ways) / sizeof(*smtp_ways);
		     k++) {
			say_name(fd, smtp_ways[k], i);
			if (k == 5) {
				say(fd, "RSET");
				say(fd, "MAIL FROM:<a@b>");
			}
		}
		close(fd);
		fd = dial(INSIDE, "127.0.0.1", world.pop3);
		EXPECT("+OK", hear(fd));
		for (size_t k = 0; k < sizeof(pop3_ways) / sizeof(*pop3_ways);
		     k++)
			if (k != 1) /* a second each: one name is enough */
				say_name(fd, pop3_ways[k], i);
		close(fd);
	}
	char *after = the_tree("data");
	char log[PATH_MAX];

	ck_assert_str_eq(after, before);
	free(before);
	free(after);
	stop(MAIL1, SIGTERM);
	log_path(MAIL1, log);
	expect_printable("the log", read_file(log));
	ck_assert_ptr_nonnull(strstr(read_file(log), "%n%n%n%n%s%s%s%s%x"));
	ck_assert_ptr_nonnull(strstr(read_file(log), "\\033"));
	ck_assert_ptr_nonnull(strstr(read_file(log), "\\233"));
}
END_TEST

/* A host that takes mail on an address, and answers RCPT with this line; it
 * lives until it is killed. */
static pid_t
hostile_host(const char *address, unsigned port, const char *answer)
{
	struct sockaddr_in us = { .sin_family = AF_INET,
		.sin_port = htons((uint16_t)port) };
	int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
	char line[1024];

	inet_pton(AF_INET, address, &us.sin_addr);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&us, sizeof(us)), 0);
	ck_assert_int_eq(listen(listener, 16), 0);
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid > 0) {
		close(listener);
		return pid;
	}
	for (int fd; (fd = accept(listener, NULL, NULL)) >= 0; close(fd)) {
		FILE *f = fdopen(dup(fd), "r");

		dprintf(fd, "220 x\r\n");
		while (fgets(line, sizeof(line), f) != NULL)
			dprintf(fd, "%s\r\n", strncmp(line, "RCPT", 4) == 0 ?
				answer : "250 x");
		fclose(f);
	}
	_exit(0);
}

/* What a host says may hold anything; what we keep of it is text. */
#define NASTY	"%n%s%x \033[2J\a\x85\x9b" "31m \t To: <x@y>"
#define CLEANED "%n%s%x ?[2J???31m ? To: <x@y>"

/* The next host's words in envelope, .hosts, -q, a report, the log. */
START_TEST(words_of_a_next_host)
{
	unsigned port = free_port();
	pid_t later, never, rude;

	write_file("mail1.conf", "hostname here.test\ndata_dir data\n"
	    "listen_smtp 127.0.0.1:%u\nlisten_pop3 none\nusers users\n"
	    "smtp_port %u\n", world.smtp, port);
	later = hostile_host("127.0.0.4", port, "450 4.2.0 " NASTY);
	never = hostile_host("127.0.0.5", port, "550 5.1.1 " NASTY);
	rude = hostile_host("127.0.0.6", port, NASTY);
	start(MAIL1);
	char log[PATH_MAX], id[17], name[128];
	int fd = smtp_from(INSIDE);

	log_path(MAIL1, log);
	ck_assert_int_eq(sscanf(send_message(fd, "x@[127.0.0.4]"),
	    "250 2.0.0 %16s", id), 1);
	snprintf(name, sizeof(name), "data/queue/%s.env", id);
	wait_for(in_world(name), "450 4.2.0 " CLEANED, 1);
	expect_printable("the envelope", read_file(in_world(name)));
	EXPECT("250", send_message(fd, "x@[127.0.0.6]"));
	wait_for(in_world("data/queue/.hosts"), "makes no sense: " CLEANED, 1);
	expect_printable(".hosts", read_file(in_world("data/queue/.hosts")));
	/* The report of a report is the operator's: so it goes to alice. */
	EXPECT("250", say(fd, "MAIL FROM:<alice@here.test>"));
	EXPECT("250", say(fd, "RCPT TO:<x@[127.0.0.5]>"));
	EXPECT("354", say(fd, "DATA"));
	EXPECT("250", say(fd, "Subject: x\r\n\r\ntext\r\n."));
	wait_for(log, "delivered user=alice", 1);
	DIR *dir = opendir(in_world("data/mail/alice/new"));

	for (struct dirent *e; (e = readdir(dir)) != NULL;) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "data/mail/alice/new/%.90s",
		    e->d_name);
		expect_printable("the report", read_file(in_world(name)));
		ck_assert_ptr_nonnull(strstr(read_file(in_world(name)),
		    "\n    550 5.1.1 " CLEANED "\n"));
	}
	closedir(dir);
	ck_assert_int_eq(run("-c mail1.conf -q"), 0);
	expect_printable("-q", printed());
	ck_assert_ptr_nonnull(strstr(printed(), CLEANED));
	close(fd);
	stop(MAIL1, SIGTERM);
	expect_printable("the log", read_file(log));
	for (int i = 0; i < 3; i++) {
		pid_t pid = i == 0 ? later : i == 1 ? never : rude;

		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
}
END_TEST

/* What the DNS says may hold any octet (RFC 2181 11): -r shows them. */
START_TEST(names_from_the_dns)
{
	configure("zone near.test near.zone\n");
	write_file("near.zone", "$TTL 60\n@ SOA ns root 1 2 3 4 60\n@ NS ns\n"
	    "ns A 127.0.0.9\n@ MX 10 a\\027[2J\\155b\n"
	    "a\\027[2J\\155b A 127.0.0.8\n");
	int status = run("-c mail1.conf -r x@near.test");

	ck_assert_msg(status == 0, "%d: %s", status, printed());
	expect_printable("-r", printed());
	ck_assert_ptr_nonnull(strstr(printed(), "a\\027[2J\\155b.near.test"));
}
END_TEST

/* ---- passwords ----------------------------------------------------------- */

/* Begin to log in; the reply to PASS. */
static const char *
log_in(int fd, const char *name, const char *password)
{
	EXPECT("+OK", say(fd, "USER %s", name));
	return say(fd, "PASS %s", password);
}

/* A POP3 client that was greeted. */
static int
pop3_from(const char *address)
{
	int fd = dial(address, "127.0.0.1", world.pop3);

	EXPECT("+OK", hear(fd));
	return fd;
}

/* What is no hash lets nobody in, whatever is said; an empty password cannot
 * be said.  crypt(3) fails with "*0", or "*1" where that would be equal. */
START_TEST(hashes_that_are_none)
{
	static const char *const secrets[] = { "{CRYPT}", "{CRYPT}*0",
		"{CRYPT}*1", "{CRYPT}*", "{CRYPT}!", "{CRYPT}x",
		"{CRYPT}$6$", "{CRYPT}$0$x", "{CRYPT}plain", "{PLAIN}" };
	static const char *const said[] = { "*0", "*1", "*", "!", "x", "$6$",
		"plain" };
	enum { N = sizeof(secrets) / sizeof(*secrets),
		M = sizeof(said) / sizeof(*said) };
	char users[1024] = "";
	int fds[N * M];

	for (size_t i = 0; i < N; i++)
		snprintf(users + strlen(users), sizeof(users) - strlen(users),
		    "u%zu:%s\n", i, secrets[i]);
	write_file("users", "%sgood:{PLAIN}good\n", users);
	configure("");
	start(MAIL1);
	for (size_t i = 0; i < N * M; i++) { /* all of them wait together */
		char line[128];

		fds[i] = pop3_from(INSIDE);
		int len = snprintf(line, sizeof(line),
		    "USER u%zu\r\nPASS %s\r\n", i / M, said[i % M]);

		EXPECT("+OK", say_octets(fds[i], line, (size_t)len));
	}
	for (size_t i = 0; i < N * M; i++) {
		EXPECT("-ERR [AUTH]", hear(fds[i]));
		close(fds[i]);
	}
	int fd = pop3_from(INSIDE);

	EXPECT("+OK", log_in(fd, "good", "good"));
	close(fd);
	fd = pop3_from(INSIDE);
	EXPECT("+OK", say(fd, "USER u9"));
	EXPECT("-ERR wanted", say(fd, "PASS "));
	EXPECT("-ERR wanted", say(fd, "PASS"));
	close(fd);
}
END_TEST

/* Three wrong passwords end a connection; each took a second. */
START_TEST(three_wrong_passwords)
{
	configure("");
	start(MAIL1);
	int fd = pop3_from(INSIDE);
	struct timespec begun, now;

	clock_gettime(CLOCK_MONOTONIC, &begun);
	EXPECT("-ERR [AUTH]", log_in(fd, "alice", "wrong"));
	EXPECT("-ERR [AUTH]", log_in(fd, "nobody", "alice"));
	EXPECT("-ERR [AUTH]", log_in(fd, "bob", "alice"));
	ck_assert_str_eq(hear(fd), "");
	clock_gettime(CLOCK_MONOTONIC, &now);
	ck_assert_int_ge(now.tv_sec - begun.tv_sec, 2);
	close(fd);
}
END_TEST

/* Never in the log, in no mode, however PASS is said; nor by -n. */
START_TEST(passwords_are_not_told)
{
	static const char *const ways[] = { "PASS hunter2", "pass hunter2",
		"PASS\thunter2", "PASS  hunter2", " PASS hunter2", "PASShunter2",
		"AUTH PLAIN hunter2", "APOP alice hunter2", "hunter2",
		"PASS hunter2 \033hunter2" };
	char log[PATH_MAX];

	configure("");
	start(MAIL1);
	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
		int fd = pop3_from(INSIDE);

		EXPECT("+OK", say(fd, "USER alice"));
		EXPECT("-ERR", say(fd, "%s", ways[i]));
		close(fd);
		fd = smtp_from(INSIDE);
		EXPECT("50", say(fd, "%s", ways[i]));
		close(fd);
	}
	stop(MAIL1, SIGTERM);
	log_path(MAIL1, log);
	ck_assert_ptr_nonnull(strstr(read_file(log), "PASS ..."));
	ck_assert_ptr_null(strstr(read_file(log), "hunter2"));
	write_file("users", "hunter2\nalice hunter2\nalice;hunter2\n"
	    "alice:hunter2\nalice:{plain}hunter2\n{PLAIN}hunter2:alice\n"
	    "alice{PLAIN}:hunter2\n");
	ck_assert_int_eq(run("-c mail1.conf -n"), 78);
	ck_assert_ptr_nonnull(strstr(printed(), "users:7: "));
	ck_assert_ptr_null(strstr(printed(), "hunter2"));
}
END_TEST

/* ---- two servers --------------------------------------------------------- */

/* The second names the first and goes: neither the state nor a port is
 * touched, whichever way it would listen. */
START_TEST(second_server_touches_nothing)
{
	unsigned ports[3] = { free_port(), free_port(), free_port() };
	char pid[64];

	configure("relay_from 127.0.0.2\n");
	start(MAIL1);
	int fd = smtp_from(INSIDE), open = smtp_from(INSIDE);

	EXPECT("250", send_message(fd, "alice@here.test"));
	EXPECT("250", send_message(fd, "x@far.test"));
	EXPECT("250", say(open, "MAIL FROM:<a@b>"));
	EXPECT("250", say(open, "RCPT TO:<alice@here.test>"));
	EXPECT("354", say(open, "DATA"));
	ck_assert_int_eq(send(open, "x\r\n", 3, MSG_NOSIGNAL), 3);
	EXPECT("250", say(fd, "NOOP"));
	EXPECT("250", say(fd, "NOOP")); /* and that is in queue/tmp by now */
	wait_for(in_world("data/queue/.hosts"), "far.test", 1);
	write_file("second.conf", "data_dir data\nlisten_smtp 127.0.0.1:%u\n"
	    "listen_pop3 127.0.0.1:%u\nlisten_dns 127.0.0.1:%u\n"
	    "users users\n", ports[0], ports[1], ports[2]);
	char *before = the_tree("data");

	ck_assert_ptr_nonnull(strstr(before, "queue/tmp/"));
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(run(i == 0 ? "-c second.conf" :
					      "-c mail1.conf"), 75);
		snprintf(pid, sizeof(pid), "is in use by process %d\n",
		    (int)world.pid[MAIL1]);
		ck_assert_ptr_nonnull(strstr(printed(), pid));
		ck_assert_ptr_null(strstr(printed(), " on [127.0.0.1]"));
	}
	char *after = the_tree("data");

	ck_assert_str_eq(after, before);
	free(before);
	free(after);
	EXPECT("250", say(open, "text\r\n."));
	close(open);
	close(fd);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("security");
	TCase *tc = tcase_create("security");

	tcase_add_checked_fixture(tc, setup_alone, teardown);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, state_is_ours_alone);
	tcase_add_loop_test(tc, state_that_others_may_write, 0, N_FOLDERS);
	tcase_add_loop_test(tc, state_of_another_user, 0, N_FOLDERS);
	tcase_add_test(tc, links_in_the_state);
	tcase_add_test(tc, no_core_is_written);
	tcase_add_test(tc, root_is_given_up);
	tcase_add_test(tc, reload_without_root);
	tcase_add_test(tc, mailbox_of_another_user);
	tcase_add_test(tc, root_needs_run_as);
	tcase_add_loop_test(tc, who_may_send_where, 0,
	    (int)(sizeof(clients) / sizeof(*clients)));
	tcase_add_test(tc, catch_all_is_no_relay);
	tcase_add_test(tc, clients_of_ipv6);
	tcase_add_test(tc, who_may_ask_what);
	tcase_add_test(tc, names_stay_names);
	tcase_add_test(tc, words_of_a_next_host);
	tcase_add_test(tc, names_from_the_dns);
	tcase_add_test(tc, hashes_that_are_none);
	tcase_add_test(tc, three_wrong_passwords);
	tcase_add_test(tc, passwords_are_not_told);
	tcase_add_test(tc, second_server_touches_nothing);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);

	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);

	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
