/*
 * check_program.c -- the command line, and signals: what a user types and
 * what an administrator sends, against the real binary.
 *
 * Links with: none
 */
#include "program.h"

/* Run mailserv with these arguments (parted by blanks) in the world's folder;
 * its exit status.  What it prints is in world.dir/out. */
static int
run(const char *arguments, const char *input)
{
	char binary[PATH_MAX], out[PATH_MAX], command[3 * PATH_MAX];

	built("mailserv", binary);
	snprintf(out, sizeof(out), "%.4000s/out", world.dir);
	snprintf(command, sizeof(command),
	    "cd '%s' && printf '%s' | '%s' %s >out 2>&1", world.dir, input,
	    binary, arguments);
	int status = system(command);

	ck_assert(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* What the last run printed. */
static const char *
printed(void)
{
	char out[PATH_MAX];

	snprintf(out, sizeof(out), "%.4000s/out", world.dir);
	return read_file(out);
}

static void
setup_alone(void)
{
	setup();
	write_file("users", "alice:{PLAIN}alice\nbob:{PLAIN}bob\n");
	write_file("mail1.conf", "hostname localhost\ndata_dir data\n"
	    "listen_smtp 127.0.0.1:%u\nlisten_pop3 127.0.0.1:%u\n"
	    "users users\nrelay_domain far.test\nresolver 127.0.0.1:%u\n"
	    "zone near.test near.zone\nsmtp_port %u\n", world.smtp, world.pop3,
	    world.dns, world.smtp);
	write_file("away.conf", "hostname localhost\nlisten_smtp none\n"
	    "listen_pop3 none\nusers users\nzone near.test near.zone\n"
	    "alias both alice\nalias both x@near.test\n"
	    "alias both x@null.near.test\n");
	write_file("near.zone", "$TTL 60\n@ SOA ns root 1 2 3 4 60\n@ NS ns\n"
	    "ns A 127.0.0.9\n@ MX 10 mx\nmx A 127.0.0.8\n"
	    "null MX 0 .\nloop MX 10 localhost.\n");
}

/* Exit statuses: those of sysexits.h. */
static const struct {
	const char *arguments;
	int status;
	const char *says; /* among what it prints */
} runs[] = {
	{ "-h", 0, "usage:" },
	{ "-V", 0, "mailserv 0.1" },
	{ "-x", 64, "usage:" },
	{ "-n extra", 64, "usage:" },
	{ "-r", 64, "usage:" },
	{ "-c mail1.conf -n", 0, "" },
	{ "-c nothing.conf -n", 78, "nothing.conf" },
	{ "-c mail1.conf -q", 0, "0 waiting, 0 in failed" },
	{ "-c mail1.conf -r alice@localhost", 0, "alice" },
	{ "-c mail1.conf -r nobody@localhost", 67, "no such user" },
	{ "-c mail1.conf -r '<alice@localhost>'", 0, "mailbox of alice" },
	{ "-c mail1.conf -r alice", 0, "mailbox of alice" },
	{ "-c mail1.conf -r a@", 64, "no address" },
	{ "-c mail1.conf -r a@b..c", 64, "no address" },
	{ "-c mail1.conf -r ''", 64, "no address" },
	{ "-c /dev/zero -n", 78, "cannot read" },
	{ "-c mail1.conf -r x@near.test", 0, "10 mx.near.test [127.0.0.8]" },
	{ "-c mail1.conf -r x@null.near.test", 68, "5.1.10" },
	{ "-c mail1.conf -r x@none.near.test", 68, "5.1.2" },
	{ "-c mail1.conf -r x@loop.near.test", 68, "5.4.6" },
	{ "-c mail1.conf -r x@elsewhere.test", 75, "to be tried later" },
	{ "-c mail1.conf -d 0123456789abcdef", 66, "no message" },
	{ "-c mail1.conf -d 0123456789abcde fedcba9876543210z", 66, "cde in" },
	{ "-n -q", 64, "usage:" }, /* one thing at a time */
	{ "-d", 64, "usage:" },
	{ "-H word", 64, "usage:" },
	{ "-c", 64, "usage:" },
	{ "-c mail1.conf -r PostMaster", 0, "mailbox of alice" },
	{ "-c mail1.conf -r nobody", 64, "no address" },
	{ "-c mail1.conf -r x@far.test", 75, "4.4.3" }, /* no resolver */
	{ "-c away.conf -r both@localhost", 68, "mailbox of alice" },
	{ "-n", 0, "" }, /* the built-in configuration ... */
};

START_TEST(exit_status)
{
	int status = run(runs[_i].arguments, "");

	ck_assert_msg(status == runs[_i].status, "mailserv %s: %d, not %d\n%s",
	    runs[_i].arguments, status, runs[_i].status, printed());
	ck_assert_msg(strstr(printed(), runs[_i].says) != NULL,
	    "mailserv %s: said %s", runs[_i].arguments, printed());
}
END_TEST

/* ... which gives way to a file of that name in the working directory. */
START_TEST(configuration_of_the_folder)
{
	write_file("mailserv.conf", "nonsense 1\n");
	ck_assert_int_eq(run("-n", ""), 78);
	ck_assert_ptr_nonnull(strstr(printed(), "mailserv.conf:1: no such"));
	ck_assert_int_eq(run("-c mail1.conf -n", ""), 0);
}
END_TEST

/* -n says nothing where nothing is wrong, and every fault where some are. */
START_TEST(check_of_a_configuration)
{
	ck_assert_int_eq(run("-c mail1.conf -n", ""), 0);
	ck_assert_str_eq(printed(), "");
	write_file("bad.conf", "hostname -\nnonsense 1\nmax_message 1T\n");
	ck_assert_int_eq(run("-c bad.conf -n", ""), 78);
	ck_assert_ptr_nonnull(strstr(printed(), "bad.conf:1: hostname"));
	ck_assert_ptr_nonnull(strstr(printed(), "bad.conf:2: no such"));
	ck_assert_ptr_nonnull(strstr(printed(), "bad.conf:3: max_message"));
}
END_TEST

/* -H: what it prints is taken by the users file, and by POP3. */
START_TEST(hash_round_trip)
{
	ck_assert_int_eq(run("-H", "a b c\\n"), 0);
	char hash[256];

	snprintf(hash, sizeof(hash), "%s", printed());
	ck_assert_int_eq(strncmp(hash, "{CRYPT}$6$", 10), 0);
	write_file("users", "alice:%s", hash);
	start(MAIL1);
	write_file("login.txt", "connect 127.0.0.1 %u\nS: +OK...\n"
	    "C: USER alice\nS: +OK...\nC: PASS a b c\nS: +OK...\n"
	    "C: QUIT\nS: +OK...\n", world.pop3);
	char script[PATH_MAX];

	snprintf(script, sizeof(script), "%.4000s/login.txt", world.dir);
	ck_assert_int_eq(play_at(script, "X=1"), 0);
	ck_assert_int_eq(run("-H", ""), 64);
	ck_assert_int_eq(run("-H", "\\n"), 64);
	char word[601];

	memset(word, 'x', sizeof(word) - 1);
	word[sizeof(word) - 1] = '\0';
	ck_assert_int_eq(run("-H", word), 65); /* crypt(3) takes 511 */
	ck_assert_ptr_nonnull(strstr(printed(), "too long"));
}
END_TEST

/* Two servers on one data_dir: the second names the first, and goes. */
START_TEST(second_server)
{
	char pid[32];

	start(MAIL1);
	ck_assert_int_eq(run("-c mail1.conf", ""), 75);
	snprintf(pid, sizeof(pid), "process %d", (int)world.pid[MAIL1]);
	ck_assert_msg(strstr(printed(), pid) != NULL, "%s", printed());
	write_file("other.conf", "hostname localhost\ndata_dir other\n"
	    "listen_smtp 127.0.0.1:%u\nlisten_pop3 none\ndomain none\n",
	    world.smtp);
	ck_assert_int_eq(run("-c other.conf", ""), 69);
}
END_TEST

/* SIGHUP: a good configuration is taken, a bad one changes nothing. */
START_TEST(reload)
{
	char log[PATH_MAX];

	start(MAIL1);
	log_path(MAIL1, log);
	write_file("users", "alice:{PLAIN}alice\ncarol:{PLAIN}carol\n");
	kill(world.pid[MAIL1], SIGHUP);
	wait_for(log, "configuration read again", 1);
	char script[PATH_MAX];

	write_file("carol.txt", "connect 127.0.0.1 %u\nS: 220 ...\n"
	    "C: HELO x\nS: 250 ...\nC: MAIL FROM:<>\nS: 250 ...\n"
	    "C: RCPT TO:<carol@localhost>\nS: 250 ...\n"
	    "C: RCPT TO:<bob@localhost>\nS: 550 ...\nC: QUIT\nS: 221 ...\n",
	    world.smtp);
	snprintf(script, sizeof(script), "%.4000s/carol.txt", world.dir);
	ck_assert_int_eq(play_at(script, "X=1"), 0);
	write_file("users", "alice\n");
	kill(world.pid[MAIL1], SIGHUP);
	wait_for(log, "configuration kept", 1);
	ck_assert_int_eq(play_at(script, "X=1"), 0);
}
END_TEST

/* SIGUSR1 tries the queue now; SIGTERM says 421 and -ERR, and exits 0. */
START_TEST(signals)
{
	char log[PATH_MAX], script[PATH_MAX];

	start(MAIL1);
	log_path(MAIL1, log);
	kill(world.pid[MAIL1], SIGUSR1);
	wait_for(log, "trying everything now", 1);
	write_file("wait.txt", "connect A 127.0.0.1 %u\nS(A): 220 ...\n"
	    "connect B 127.0.0.1 %u\nS(B): +OK...\nS(A): 421 ...\n"
	    "S(A): <EOF>\nS(B): -ERR...\nS(B): <EOF>\n", world.smtp,
	    world.pop3);
	snprintf(script, sizeof(script), "%.4000s/wait.txt", world.dir);
	pid_t player = begin_play(script, "X=1");

	wait_for(log, "pop3 4 connect", 1);
	stop(MAIL1, SIGTERM);
	ck_assert_int_eq(finish(player), 0);
}
END_TEST

/* -q and -d, beside a running server and without one. */
START_TEST(queue_from_outside)
{
	char log[PATH_MAX], script[PATH_MAX], arguments[128], id[2][17];

	start(MAIL1);
	log_path(MAIL1, log);
	write_file("two.txt", "connect 127.0.0.1 %u\nS: 220 ...\n"
	    "C: HELO x\nS: 250 ...\nC: MAIL FROM:<alice@localhost>\n"
	    "S: 250 ...\nC: RCPT TO:<x@near.test>\nS: 250 ...\n"
	    "C: RCPT TO:<y@near.test>\nS: 250 ...\nC: DATA\nS: 354 ...\n"
	    "C: one\nC: .\nS: 250 ...\nC: MAIL FROM:<>\nS: 250 ...\n"
	    "C: RCPT TO:<z@near.test>\nS: 250 ...\nC: DATA\nS: 354 ...\n"
	    "C: two\nC: .\nS: 250 ...\nC: QUIT\nS: 221 ...\n", world.smtp);
	snprintf(script, sizeof(script), "%.4000s/two.txt", world.dir);
	ck_assert_int_eq(play_at(script, "X=1"), 0);
	wait_for(log, "deferred domain=near.test", 1);
	ck_assert_int_eq(run("-c mail1.conf -q", ""), 0);
	const char *first = printed(), *second = strstr(first, "from <>\n");

	ck_assert_ptr_nonnull(second);
	while (second > first && second[-1] != '\n')
		second--;
	snprintf(id[0], sizeof(id[0]), "%s", first);
	snprintf(id[1], sizeof(id[1]), "%s", second);
	ck_assert_ptr_nonnull(strstr(first, "from <alice@localhost>\n    to "
	    "<x@near.test>  tries 1  next 20"));
	ck_assert_ptr_nonnull(strstr(first, "Connection refused\n    to "
	    "<y@near.test>  tries 1  next 20"));
	ck_assert_ptr_nonnull(strstr(first, "\n2 waiting, 0 in failed\n"));
	snprintf(arguments, sizeof(arguments), "-c mail1.conf -d %s", id[0]);
	ck_assert_int_eq(run(arguments, ""), 0);
	run("-c mail1.conf -q", "");
	ck_assert_ptr_nonnull(strstr(printed(), "\n1 waiting, 0 in failed\n"));
	stop(MAIL1, SIGTERM);
	run("-c mail1.conf -q", "");
	ck_assert_ptr_nonnull(strstr(printed(), "\n1 waiting, 0 in failed\n"));
	snprintf(arguments, sizeof(arguments), "-c mail1.conf -d %s %s", id[0],
	    id[1]);
	ck_assert_int_eq(run(arguments, ""), 66);
	run("-c mail1.conf -q", "");
	ck_assert_str_eq(printed(), "0 waiting, 0 in failed\n");
}
END_TEST

/* Three hosts and a dialogue: the first relays to the others, each of which has
 * one user; that of one.test is to be this. */
static void
write_hosts(const char *user)
{
	write_file("mail2.conf", "hostname one.test\ndata_dir data2\n"
	    "listen_smtp 127.0.0.8:%u\nlisten_pop3 none\nusers %s\n",
	    world.smtp, user);
	write_file("sender.conf", "hostname two.test\ndata_dir data3\n"
	    "listen_smtp 127.0.0.9:%u\nlisten_pop3 none\nusers y\n",
	    world.smtp);
	write_file("x", "x:{PLAIN}x\n");
	write_file("y", "y:{PLAIN}y\n");
	write_file("mail1.conf", "hostname localhost\ndata_dir data\n"
	    "listen_smtp 127.0.0.1:%u\nlisten_pop3 none\nusers users\n"
	    "zone one.test one.zone\nzone two.test two.zone\nsmtp_port %u\n",
	    world.smtp, world.smtp);
	write_file("one.zone", "$TTL 60\n@ SOA ns root 1 2 3 4 60\n@ NS ns\n"
	    "ns A 127.0.0.1\n@ MX 10 mx\nmx A 127.0.0.8\n");
	write_file("two.zone", "$TTL 60\n@ SOA ns root 1 2 3 4 60\n@ NS ns\n"
	    "ns A 127.0.0.1\n@ MX 10 mx\nmx A 127.0.0.9\n");
	write_file("two.txt", "connect 127.0.0.1 %u\nS: 220 ...\n"
	    "C: HELO x\nS: 250 ...\nC: MAIL FROM:<>\nS: 250 ...\n"
	    "C: RCPT TO:<x@one.test>\nS: 250 ...\n"
	    "C: RCPT TO:<y@two.test>\nS: 250 ...\nC: DATA\nS: 354 ...\n"
	    "C: for two\nC: .\nS: 250 ...\nC: QUIT\nS: 221 ...\n",
	    world.smtp);
}

/* What -q says last, sooner or later. */
static void
wait_for_queue(const char *says)
{
	for (time_t end = time(NULL) + PATIENCE; time(NULL) < end; nap()) {
		ck_assert_int_eq(run("-c mail1.conf -q", ""), 0);
		if (strstr(printed(), says) != NULL)
			return;
	}
	ck_abort_msg("never %s: %s", says, printed());
}

/* A message for two, of whom one is refused, the other waits.  The operator
 * moves back what lies in failed/, as the log calls it, and sends HUP: now, or
 * when the server has been killed after it, both get theirs. */
START_TEST(back_from_failed)
{
	char log[PATH_MAX], one[PATH_MAX], two[PATH_MAX], text[PATH_MAX];

	log_path(MAIL1, log);
	log_path(MAIL2, one);
	log_path(SENDER, two);
	write_hosts("y");
	start(MAIL1);
	start(MAIL2);
	snprintf(text, sizeof(text), "%.4000s/two.txt", world.dir);
	ck_assert_int_eq(play_at(text, "X=1"), 0);
	wait_for(log, "moved to queue/failed recipients=1 failed=", 1);
	wait_for(log, "deferred domain=two.test", 1);
	wait_for_queue("1 waiting, 1 in failed\n");
	stop(MAIL2, SIGTERM);
	write_hosts("x");
	const char *id = strstr(read_file(log), " failed=");

	ck_assert_ptr_nonnull(id);
	snprintf(text, sizeof(text), "cd '%.4000s/data/queue/failed' && "
	    "mv %.16s.env %.16s.msg ..", world.dir, id + 8, id + 8);
	ck_assert_int_eq(system(text), 0);
	kill(world.pid[MAIL1], SIGHUP);
	wait_for(log, "loaded messages=2 ", 1);
	wait_for_queue("2 waiting, 0 in failed\n");
	if (_i == 1)
		stop(MAIL1, SIGKILL);
	start(MAIL2);
	start(SENDER);
	if (_i == 1)
		start(MAIL1);
	else
		kill(world.pid[MAIL1], SIGUSR1);
	wait_for(one, " delivered user=x", 1);
	wait_for(two, " delivered user=y", 1);
	wait_for_queue("0 waiting, 0 in failed\n");
	ck_assert_int_eq(count_in(one, " delivered user=") +
	    count_in(two, " delivered user="), 2);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("program");
	TCase *tc = tcase_create("program");

	tcase_add_checked_fixture(tc, setup_alone, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, exit_status, 0,
	    (int)(sizeof(runs) / sizeof(*runs)));
	tcase_add_test(tc, configuration_of_the_folder);
	tcase_add_test(tc, check_of_a_configuration);
	tcase_add_test(tc, hash_round_trip);
	tcase_add_test(tc, second_server);
	tcase_add_test(tc, reload);
	tcase_add_test(tc, signals);
	tcase_add_test(tc, queue_from_outside);
	tcase_add_loop_test(tc, back_from_failed, 0, 2);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);

	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);

	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
