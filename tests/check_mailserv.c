/*
 * check_mailserv.c -- the program from inside: whom it becomes, what it may
 * open, what SIGHUP changes, and how it ends.
 *
 * mailserv.c is included, so that its static functions can be called.  The
 * calls about users and limits are this file's own: they write down what was
 * asked, change nothing, and fail when a test wants it.  So no test needs root.
 *
 * Links with: conf smtp path place queue report spool draft route relay maildrop
 * Links with: pop3 dns resolver zone master net
 * Wraps: geteuid seteuid setegid setresuid setresgid setgroups prctl lchown
 * Wraps: fstat getpwnam getrlimit setrlimit isatty ppoll
 */
#define main mailserv_main
int mailserv_main(int argc, char **argv);
#include "../mailserv.c"
#undef main
#include <stdarg.h>
#include "testlib.h"

/* ---- a kernel that keeps a record ---------------------------------------- */

static struct {
	uid_t euid;          /* who we are said to be */
	char calls[1024];    /* what was asked, one call a line */
	const char *failing; /* the line of the call that fails, or NULL */
	struct rlimit limit; /* of descriptors */
	bool no_limit;       /* nobody may ask for it */
	bool terminal;       /* stderr is one */
	bool hurry;          /* nobody waits: the clock goes on instead */
} fake;

/* Write one call down; what it returns. */
__attribute__((format(printf, 1, 2))) static int
called(const char *fmt, ...)
{
	char line[128];
	size_t len = strlen(fake.calls);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	snprintf(fake.calls + len, sizeof(fake.calls) - len, "%s\n", line);
	errno = EPERM;
	return fake.failing != NULL && strcmp(line, fake.failing) == 0 ? -1 : 0;
}

uid_t __wrap_geteuid(void);
int __wrap_seteuid(uid_t uid);
int __wrap_setegid(gid_t gid);
int __wrap_setresuid(uid_t real, uid_t effective, uid_t saved);
int __wrap_setresgid(gid_t real, gid_t effective, gid_t saved);
int __wrap_setgroups(size_t n, const gid_t *list);
int __wrap_prctl(int option, ...);
int __wrap_lchown(const char *path, uid_t uid, gid_t gid);
int __real_fstat(int fd, struct stat *st);
int __wrap_fstat(int fd, struct stat *st);
struct passwd *__wrap_getpwnam(const char *name);
int __wrap_getrlimit(int which, struct rlimit *limit);
int __wrap_setrlimit(int which, const struct rlimit *limit);
int __wrap_isatty(int fd);
int __real_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *patience,
    const sigset_t *mask);
int __wrap_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *patience,
    const sigset_t *mask);

uid_t
__wrap_geteuid(void)
{
	return fake.euid;
}

int
__wrap_seteuid(uid_t uid)
{
	int result = called("seteuid %u", uid);

	if (result == 0)
		fake.euid = uid;
	return result;
}

int
__wrap_setegid(gid_t gid)
{
	return called("setegid %u", gid);
}

int
__wrap_setresuid(uid_t real, uid_t effective, uid_t saved)
{
	return called("setresuid %u %u %u", real, effective, saved);
}

int
__wrap_setresgid(gid_t real, gid_t effective, gid_t saved)
{
	return called("setresgid %u %u %u", real, effective, saved);
}

int
__wrap_setgroups(size_t n, const gid_t *list)
{
	(void)list;
	return called("setgroups %zu", n);
}

int
__wrap_prctl(int option, ...)
{
	return called("prctl %s",
	    option == PR_SET_NO_NEW_PRIVS ? "no_new_privs" : "dumpable");
}

int
__wrap_lchown(const char *path, uid_t uid, gid_t gid)
{
	const char *slash = strrchr(path, '/');

	return called("chown %s %u %u", slash + 1, uid, gid);
}

/* Every file belongs to whom we are said to be. */
int
__wrap_fstat(int fd, struct stat *st)
{
	int result = __real_fstat(fd, st);

	st->st_uid = fake.euid;
	return result;
}

struct passwd *
__wrap_getpwnam(const char *name)
{
	static char user[] = "mail";
	static struct passwd mail = { .pw_name = user,
		.pw_uid = 8,
		.pw_gid = 12 };

	return strcmp(name, "mail") == 0 ? &mail : NULL;
}

int
__wrap_getrlimit(int which, struct rlimit *limit)
{
	(void)which;
	*limit = fake.limit;
	return fake.no_limit ? -1 : 0;
}

int
__wrap_setrlimit(int which, const struct rlimit *limit)
{
	return called("setrlimit %s %llu", which == RLIMIT_CORE ? "core" :
	    "nofile", (unsigned long long)limit->rlim_cur);
}

int
__wrap_isatty(int fd)
{
	return fd == STDERR_FILENO && fake.terminal;
}

int
__wrap_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *patience,
    const sigset_t *mask)
{
	static const struct timespec none = { .tv_sec = 0 };

	if (!fake.hurry)
		return __real_ppoll(fds, n, patience, mask);
	srv.frozen += patience->tv_sec * SECOND + patience->tv_nsec / 1000000;
	return __real_ppoll(fds, n, &none, mask);
}

/* ---- fixtures ------------------------------------------------------------ */

static void
begin(void)
{
	test_begin();
	fake.euid = 1000;
	fake.failing = NULL;
	fake.calls[0] = '\0';
	fake.no_limit = fake.terminal = fake.hurry = false;
	fake.limit = (struct rlimit){ 1024, 100000 };
	net_start();
}

/* A configuration that listens nowhere, and one line more. */
static struct conf *
quiet_conf(const char *line)
{
	char text[512];

	snprintf(text, sizeof(text),
	    "hostname here.test\nlisten_smtp none\nlisten_pop3 none\n"
	    "users users\n%s\n",
	    line);
	return test_conf(text);
}

/* Start, turn not once, and stop: the exit status.  *said: the log. */
static int
run_once(const char **said)
{
	log_level = 0;
	test_capture(STDERR_FILENO);
	srv.stop = 1;
	int status = run_server();

	*said = test_captured();
	log_level = -1;
	return status;
}

/* ---- run_as -------------------------------------------------------------- */

/* What root does, in this order: the folders are made by the user's rights, so
 * that they are the user's; and nothing leads back.  setgroups() comes before
 * setresuid(), for afterwards it is not allowed. */
static const char *const steps[] = {
	"setrlimit core 1",
	"setrlimit nofile 100000",
	"chown mailserv-data 8 12",
	"setegid 12",
	"seteuid 8",
	"seteuid 0",
	"setresuid 0 0 0",
	"setgroups 0",
	"setresgid 12 12 12",
	"setresuid 8 8 8",
	"prctl no_new_privs",
	"prctl dumpable",
};

START_TEST(run_as)
{
	char all[sizeof(fake.calls)] = "";
	const char *said;

	fake.euid = 0;
	quiet_conf("run_as mail");
	ck_assert_int_eq(run_once(&said), 0);
	for (size_t i = 0; i < NELEM(steps); i++) {
		strcat(all, steps[i]);
		strcat(all, "\n");
	}
	ck_assert_str_eq(fake.calls, all);
	ck_assert_ptr_nonnull(strstr(said, "ready as here.test"));
	ck_assert_ptr_null(strstr(said, "warning"));
}
END_TEST

/* A step that fails ends the start: no mail is ever touched with rights that
 * should have gone.  The first three are not so grave. */
START_TEST(run_as_fails)
{
	const char *said;
	bool mild = _i < 3;

	fake.euid = 0;
	fake.failing = steps[_i];
	quiet_conf("run_as mail");
	ck_assert_int_eq(run_once(&said), mild ? 0 : EX_OSERR);
	ck_assert(mild == (strstr(said, "ready as") != NULL));
	ck_assert(mild == (strstr(said, "loaded messages=") != NULL));
	if (_i == 1 || _i == 2 || _i > 5)
		ck_assert_ptr_nonnull(strstr(said, strerror(EPERM)));
}
END_TEST

/* Nobody but root can become another user, or is warned of being root. */
START_TEST(run_as_without_root)
{
	const char *said;

	quiet_conf("run_as mail");
	ck_assert_int_eq(run_once(&said), 0);
	ck_assert_str_eq(fake.calls, "setrlimit core 1\nsetrlimit nofile 100000\n");
	ck_assert_ptr_null(strstr(said, "warning"));
}
END_TEST

START_TEST(root_without_run_as)
{
	const char *said;

	fake.euid = 0;
	quiet_conf("");
	ck_assert_int_eq(run_once(&said), 0);
	ck_assert_str_eq(fake.calls, "setrlimit core 1\nsetrlimit nofile 100000\n");
	ck_assert_ptr_nonnull(strstr(said, "warning: running as root"));
}
END_TEST

/* ---- the start ----------------------------------------------------------- */

static const struct {
	unsigned long long hard;
	size_t max_clients, left;
} limits[] = {
	{ 1000000, 10000, 10000 }, /* enough for all */
	{ 10256, 10000, 10000 },   /* just */
	{ 10255, 10000, 9999 },    /* one too few */
	{ 1024, 10000, 768 },
	{ 513, 10000, 257 }, /* less than files may take: half of it */
	{ 512, 10000, 257 },
	{ 64, 10000, 33 },
	{ 64, 20, 20 }, /* no more were asked for */
};

START_TEST(descriptors)
{
	struct conf *conf = quiet_conf("");

	fake.limit.rlim_max = limits[_i].hard;
	conf->max_clients = (unsigned)limits[_i].max_clients;
	raise_limit();
	ck_assert_uint_eq(conf->max_clients, limits[_i].left);
	fake.no_limit = true; /* then it is left alone */
	fake.calls[0] = '\0';
	raise_limit();
	ck_assert_uint_eq(conf->max_clients, limits[_i].left);
	ck_assert_str_eq(fake.calls, "");
}
END_TEST

/* Two lines to type, for a newcomer: on a terminal, without a file. */
START_TEST(hint_for_a_newcomer)
{
	struct conf *conf = quiet_conf("");
	char *file = conf->file;

	for (int i = 0; i < 4; i++) {
		fake.terminal = i & 1;
		conf->file = i & 2 ? file : NULL;
		test_capture(STDERR_FILENO);
		hint();
		ck_assert(
		    (i == 1) == (strstr(test_captured(), "curl") != NULL));
	}
}
END_TEST

/* A start says that it is a laboratory's. */
static const struct {
	const char *lines, *said;
} laboratories[] = {
	{ "time_scale 60", "laboratory: time_scale=60 faults=0" },
	{ "fault smtp rcpt 450\nfault pop3 pass -ERR",
	    "laboratory: time_scale=1 faults=2" },
};

START_TEST(laboratory)
{
	const char *said;

	quiet_conf(laboratories[_i].lines);
	ck_assert_int_eq(run_once(&said), 0);
	ck_assert_ptr_nonnull(strstr(said, laboratories[_i].said));
}
END_TEST

/* ---- SIGHUP -------------------------------------------------------------- */

/* The new one is taken, but for what cannot change; the old one lives for as
 * long as a session uses it. */
START_TEST(reload)
{
	const char *said;
	struct conf *old = quiet_conf("max_message 1M");
	char *data_dir = old->data_dir;

	ck_assert_int_eq(run_once(&said), 0);
	old->refs = 1;
	test_write("mailserv.conf", "hostname new.test\nlisten_smtp none\n"
	    "listen_pop3 none\ndata_dir elsewhere\nusers users\n"
	    "max_message 2M\n");
	log_level = 0;
	test_capture(STDERR_FILENO);
	srv.reload = srv.flush = 1;
	obey_signals();
	said = test_captured();
	ck_assert_ptr_nonnull(strstr(said, "do not change before the next"));
	ck_assert_ptr_nonnull(strstr(said, "configuration read again"));
	ck_assert_ptr_nonnull(strstr(said, "trying everything now"));
	ck_assert_ptr_ne(srv.conf, old);
	ck_assert_str_eq(srv.conf->hostname, "new.test");
	ck_assert_uint_eq(srv.conf->max_message, 2 << 20);
	ck_assert_ptr_eq(srv.conf->data_dir, data_dir);
	conf_sweep();
	ck_assert_ptr_eq(srv.conf->older, old);
	ck_assert_str_eq(old->hostname, "here.test");
	old->refs = 0;
	conf_sweep();
	ck_assert_ptr_null(srv.conf->older);
	ck_assert(!srv.reload && !srv.flush);
}
END_TEST

/* A folder that cannot be read any more is said, and the server goes on. */
START_TEST(reload_without_a_queue)
{
	const char *said;
	struct conf *old = quiet_conf("");

	ck_assert_int_eq(run_once(&said), 0);
	close(srv.spool.dir);
	srv.spool.dir = -1;
	log_level = 0;
	test_capture(STDERR_FILENO);
	conf_reload();
	said = test_captured();
	ck_assert_ptr_nonnull(strstr(said, "queue could not be read: Bad"));
	ck_assert_ptr_ne(srv.conf, old);
}
END_TEST

/* ---- the turn ------------------------------------------------------------ */

/* A commit waits as long as others are heard, and HOLD at most. */
START_TEST(commit_waits_for_others)
{
	struct msg m = { .content.fd = -1, .envelope.fd = -1 };

	srv.now = 1000;
	srv.smtp_heard = true;
	ck_assert(!commit_waits()); /* there is none */
	srv.spool.commit = &m;
	ck_assert(!commit_waits()); /* nobody was heard */
	for (srv.now = 2000; srv.now < 2000 + HOLD; srv.now++) {
		srv.smtp_heard = true;
		ck_assert(commit_waits());
		ck_assert_int_ne(srv.held, 0);
	}
	srv.smtp_heard = true;
	ck_assert(!commit_waits()); /* it was long enough */
	ck_assert_int_eq(srv.held, 0);
	srv.smtp_heard = true;
	ck_assert(commit_waits());
	ck_assert(!commit_waits()); /* they have fallen silent */
	srv.spool.commit = NULL;
}
END_TEST

/* ---- the end ------------------------------------------------------------- */

/* A client that does not read its 421 cannot hold the server: five seconds. */
START_TEST(last_words)
{
	const char *said;

	quiet_conf("");
	ck_assert_int_eq(run_once(&said), 0);
	srv.net.n_clients = 1; /* who will never go */
	fake.hurry = true;
	msec begun = srv.now;

	server_stop();
	ck_assert_int_eq(srv.now - begun, 5 * SECOND);
}
END_TEST

/* A client of the DNS who is connected and idle (RFC 7766 6.2.1) is not waited
 * for: there is nothing to be said to it. */
START_TEST(no_last_words)
{
	union address a = { .v4 = { .sin_family = AF_INET,
				.sin_addr = { htonl(INADDR_LOOPBACK) } } };
	socklen_t len = sizeof(a);
	const char *said;
	char octet;

	quiet_conf("");
	ck_assert_int_eq(run_once(&said), 0);
	struct conn *c = net_listen(KIND_DNS, &a, SOCK_STREAM);
	int client = socket(AF_INET, SOCK_STREAM, 0);

	ck_assert_ptr_nonnull(c);
	getsockname(c->fd, &a.any, &len);
	ck_assert_int_eq(connect(client, &a.any, len), 0);
	server_turn(NEVER);
	ck_assert_uint_eq(srv.net.n_clients, 1);
	fake.hurry = true;
	msec begun = srv.now;

	server_stop();
	ck_assert_int_lt(srv.now - begun, SECOND);
	ck_assert_uint_eq(srv.net.n_clients, 0);
	ck_assert_int_eq(recv(client, &octet, 1, 0), 0);
	close(client);
}
END_TEST

/* ---- the program --------------------------------------------------------- */

int
main(void)
{
	Suite *suite = suite_create("mailserv");
	TCase *tc = tcase_create("mailserv");

	tcase_add_checked_fixture(tc, begin, test_end);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, run_as);
	tcase_add_loop_test(tc, run_as_fails, 0, (int)NELEM(steps));
	tcase_add_test(tc, run_as_without_root);
	tcase_add_test(tc, root_without_run_as);
	tcase_add_loop_test(tc, descriptors, 0, (int)NELEM(limits));
	tcase_add_test(tc, hint_for_a_newcomer);
	tcase_add_loop_test(tc, laboratory, 0, (int)NELEM(laboratories));
	tcase_add_test(tc, reload);
	tcase_add_test(tc, reload_without_a_queue);
	tcase_add_test(tc, commit_waits_for_others);
	tcase_add_test(tc, last_words);
	tcase_add_test(tc, no_last_words);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);

	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);

	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
