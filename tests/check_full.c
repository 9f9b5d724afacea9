/*
 * check_full.c -- the real binary on a disk that is full: nothing that was
 * answered 250 is lost, nothing else leaves a trace, and when there is room
 * again all goes on, without a restart.
 *
 * The disk is a small tmpfs in a mount namespace of the test's own, where the
 * kernel lets an ordinary user have one; and, always, a limit on the size of
 * files (RLIMIT_FSIZE).
 *
 * Links with: none
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include "program.h"

static char server_log[PATH_MAX];

/* ---- the disk ------------------------------------------------------------ */

/* Write one of the kernel's files about ourselves. */
static bool
tell_kernel(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) > 0;

	if (fd >= 0)
		close(fd);
	return ok;
}

/* Mount a tmpfs of this size on world.dir/data, for us alone: as root, or as
 * the root of a user namespace.  False: the kernel does not let us. */
static bool
mount_small(const char *options)
{
	char path[PATH_MAX], map[64];
	unsigned uid = geteuid(), gid = getegid();

	snprintf(path, sizeof(path), "%.4000s/data", world.dir);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	if (unshare(CLONE_NEWNS | (uid != 0 ? CLONE_NEWUSER : 0)) < 0)
		return false;
	snprintf(map, sizeof(map), "0 %u 1", uid);
	if (uid != 0 && !tell_kernel("/proc/self/uid_map", map))
		return false;
	snprintf(map, sizeof(map), "0 %u 1", gid);
	if (uid != 0 &&
	    (!tell_kernel("/proc/self/setgroups", "deny") ||
		!tell_kernel("/proc/self/gid_map", map)))
		return false;
	return mount("", "/", "", MS_REC | MS_PRIVATE, NULL) == 0 &&
	    mount("tmpfs", path, "tmpfs", 0, options) == 0;
}

/* A file that takes what room there is, but for so many octets. */
static void
fill(size_t leave)
{
	static const char octets[4096];
	char path[PATH_MAX];
	struct statvfs st;

	snprintf(path, sizeof(path), "%.4000s/data/filler", world.dir);
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);

	ck_assert_int_ge(fd, 0);
	do
		ck_assert_int_eq(fstatvfs(fd, &st), 0);
	while (st.f_bfree * st.f_bsize > leave &&
	    write(fd, octets, sizeof(octets)) > 0);
	close(fd);
}

static void
make_room(void)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%.4000s/data/filler", world.dir);
	ck_assert_int_eq(unlink(path), 0);
}

/* How many files lie in a folder of data/ whose names hold this text, and end
 * as every content here does, and every envelope? */
static int
count_whole(const char *folder, const char *name, bool *whole)
{
	char path[PATH_MAX], file[2 * PATH_MAX];
	int found = 0;

	snprintf(path, sizeof(path), "%.4000s/data/%s", world.dir, folder);
	DIR *dir = opendir(path);

	for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
		if (e->d_name[0] == '.' || strstr(e->d_name, name) == NULL)
			continue;
		snprintf(file, sizeof(file), "%s/%s", path, e->d_name);
		const char *text = read_file(file);
		size_t len = strlen(text);

		found++;
		if (strstr(e->d_name, ".env") == NULL)
			*whole &= len > 8 &&
			    strcmp(text + len - 8, "the end\n") == 0;
		else
			*whole &= strstr(text, "\nto ") != NULL;
	}
	if (dir != NULL)
		closedir(dir);
	return found;
}

/* ---- a client ------------------------------------------------------------ */

/* Say something, if it is anything; the last line of the reply.  (Check writes
 * every assertion into a file, which a limit on files holds for, too: so they
 * are few.) */
static const char *
say(int fd, const char *text)
{
	static char reply[2048];
	size_t len = 0;

	ck_assert_int_eq(send(fd, text, strlen(text), MSG_NOSIGNAL),
	    (ssize_t)strlen(text));
	for (const char *line = reply; len + 1 < sizeof(reply);) {
		if (recv(fd, reply + len, 1, 0) != 1)
			break;
		if (reply[len++] != '\n')
			continue;
		reply[len] = '\0';
		if (line[3] == ' ')
			return line;
		line = reply + len;
	}
	ck_abort_msg("no end: %s", reply);
	return NULL;
}

/* A message with some 100 octets a line to one recipient; the reply to its
 * dot, or to what was refused before. */
static const char *
send_mail(const char *to, int lines)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
		.sin_port = htons((uint16_t)world.smtp),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	char text[256];
	const char *reply;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	say(fd, "");
	say(fd, "EHLO client.test\r\n");
	say(fd, "MAIL FROM:<alice@localhost>\r\n");
	snprintf(text, sizeof(text), "RCPT TO:<%s>\r\n", to);
	say(fd, text);
	reply = say(fd, "DATA\r\n");
	if (reply[0] == '3') {
		snprintf(text, sizeof(text), "%0100d\r\n", 0);
		for (int i = 0; i < lines; i++)
			if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
				break;
		reply = say(fd, "the end\r\n.\r\n");
	}
	close(fd);
	return reply;
}

/* ---- tests --------------------------------------------------------------- */

static void
setup_full(void)
{
	setup();
	log_path(MAIL1, server_log);
	write_file("users", "alice:{PLAIN}alice\nbob:{PLAIN}bob\n");
	write_file("mail1.conf", "hostname localhost\ndata_dir data\n"
	    "listen_smtp 127.0.0.1:%u\nlisten_pop3 127.0.0.1:%u\n"
	    "users users\nresolver 127.0.0.1:%u\nretry 1s\nexpire 30s\n"
	    "time_scale 10\n", world.smtp, world.pop3, world.dns);
}

static void
teardown_full(void)
{
	char path[PATH_MAX];

	stop(MAIL1, SIGTERM);
	snprintf(path, sizeof(path), "%.4000s/data", world.dir);
	umount2(path, MNT_DETACH); /* or there was no mount */
	teardown();
}

/* Nothing waits in queue/tmp. */
static void
check_tmp(void)
{
	bool whole = true;

	ck_assert_int_eq(count_whole("queue/tmp", "", &whole), 0);
}

/* Content of every size, to a mailbox and to the queue, until nothing fits. */
START_TEST(received_until_full)
{
	bool whole = true;
	int mailed = 0, queued = 0;

	if (!mount_small("size=400k,nr_inodes=200")) {
		printf("received_until_full: skipped, no mount here: %s\n",
		    strerror(errno));
		return;
	}
	start(MAIL1);
	fill(200 << 10);
	const char *reply = "";

	for (int i = 0; i < 1000 && (i < 10 || reply[0] == '2'); i++) {
		reply = send_mail("bob@localhost", i * 17 % 300);
		mailed += reply[0] == '2';
		if (reply[0] != '2')
			ck_assert_msg(strncmp(reply, "452 4.3.1", 9) == 0,
			    "%s", reply);
		check_tmp();
		reply = send_mail("kim@far.test", i * 23 % 300);
		queued += reply[0] == '2';
	}
	ck_assert_msg(strncmp(reply, "452 4.3.1", 9) == 0, "%s", reply);
	fill(0);
	ck_assert_str_eq(send_mail("kim@far.test", 1) + 3,
	    send_mail("bob@localhost", 1) + 3);
	ck_assert_int_eq(count_whole("mail/bob/new", "", &whole), mailed);
	ck_assert_int_eq(count_whole("queue", ".msg", &whole), queued);
	ck_assert_int_eq(count_whole("queue", ".env", &whole), queued);
	ck_assert(whole);
	check_tmp();
	make_room();
	ck_assert_int_eq(send_mail("bob@localhost", 100)[0], '2');
	ck_assert_int_eq(count_whole("mail/bob/new", "", &whole), mailed + 1);
}
END_TEST

/* What the queue writes has no room: lines of envelopes, .hosts, a report,
 * queue/failed.  The message stays, and is reported when there is room. */
START_TEST(queue_on_a_full_disk)
{
	bool whole = true;

	if (!mount_small("size=400k,nr_inodes=200")) {
		printf("queue_on_a_full_disk: skipped, no mount here: %s\n",
		    strerror(errno));
		return;
	}
	start(MAIL1);
	ck_assert_int_eq(send_mail("kim@far.test", 10)[0], '2');
	fill(0);
	wait_for(server_log, "could not be moved to queue/failed", 2);
	ck_assert_int_eq(count_whole("queue", ".msg", &whole), 1);
	ck_assert_int_eq(count_whole("queue", ".env", &whole), 1);
	ck_assert(whole);
	check_tmp();
	stop(MAIL1, SIGTERM);
	start(MAIL1); /* its pid goes where the last one was */
	wait_for(server_log, "could not be moved to queue/failed", 4);
	make_room();
	wait_for(server_log, " delivered user=alice", 1);
	wait_for(server_log, " done", 1);
	ck_assert_int_eq(count_whole("queue", ".env", &whole), 0);
	ck_assert_int_eq(count_whole("mail/alice/new", "", &whole), 1);
}
END_TEST

/* A file may not grow: a large message is refused, a small one taken. */
START_TEST(limit_on_files)
{
	struct rlimit limit;
	bool whole = true;

	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
	limit.rlim_cur = 60000; /* the log is shorter */
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	signal(SIGXFSZ, SIG_IGN);
	start(MAIL1);
	const char *reply = send_mail("bob@localhost", 1000);

	ck_assert_msg(strncmp(reply, "452 4.3.1", 9) == 0, "%s", reply);
	reply = send_mail("kim@far.test", 1000);
	ck_assert_msg(strncmp(reply, "452 4.3.1", 9) == 0, "%s", reply);
	check_tmp();
	ck_assert_int_eq(count_whole("mail/bob/new", "", &whole), 0);
	ck_assert_int_eq(count_whole("queue", ".env", &whole), 0);
	ck_assert_int_eq(send_mail("bob@localhost", 100)[0], '2');
	ck_assert_int_eq(count_whole("mail/bob/new", "", &whole), 1);
	ck_assert(whole);
}
END_TEST

/* An operator removes the folders of drafts: mail is refused for now, and the
 * log says why; the next start makes them again. */
START_TEST(folders_are_removed)
{
	char command[PATH_MAX];

	start(MAIL1);
	ck_assert_int_eq(send_mail("bob@localhost", 1)[0], '2');
	snprintf(command, sizeof(command),
	    "cd '%.4000s/data/queue' && rm -r tmp .groups", world.dir);
	ck_assert_int_eq(system(command), 0);
	const char *reply = send_mail("bob@localhost", 1);

	ck_assert_msg(strncmp(reply, "451 4.3.0", 9) == 0, "%s", reply);
	wait_for(server_log, " queue/tmp: No such file or directory", 1);
	stop(MAIL1, SIGTERM);
	start(MAIL1);
	ck_assert_int_eq(send_mail("bob@localhost", 1)[0], '2');
}
END_TEST

/* -q says that its list could not be written; -d needs no room. */
START_TEST(tools)
{
	char binary[PATH_MAX], command[3 * PATH_MAX], id[64];
	bool whole = true;

	start(MAIL1);
	const char *reply = send_mail("kim@far.test", 1);

	ck_assert_int_eq(sscanf(reply, "250 2.0.0 %63s", id), 1);
	built("mailserv", binary);
	snprintf(command, sizeof(command),
	    "cd '%s' && '%s' -c mail1.conf -q >/dev/full", world.dir, binary);
	int status = system(command);

	ck_assert_int_eq(WEXITSTATUS(status), 74);
	/* Valgrind cannot live under such a limit: it writes files itself. */
	snprintf(command, sizeof(command),
	    "cd '%s' && %s '%s' -c mail1.conf -d %s", world.dir,
	    getenv("LD_PRELOAD") == NULL ? "ulimit -f 0 &&" : "", binary, id);
	status = system(command);
	ck_assert_int_eq(WEXITSTATUS(status), 0);
	ck_assert_int_eq(count_whole("queue", ".env", &whole), 0);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("full");
	TCase *tc = tcase_create("full");

	tcase_add_checked_fixture(tc, setup_full, teardown_full);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, received_until_full);
	tcase_add_test(tc, queue_on_a_full_disk);
	tcase_add_test(tc, limit_on_files);
	tcase_add_test(tc, folders_are_removed);
	tcase_add_test(tc, tools);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);

	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);

	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
