/*
 * check_story.c -- the real binaries, over sockets.
 *
 * Every dialogue of tests/dialogues against the built-in configuration; and
 * the story of MX 10 and MX 20 with the configurations of lab/story, as often
 * as there are steps between which a server may be stopped or killed.
 *
 * Links with: none
 */
#include "program.h"

enum { MESSAGES = 3 };

/* ---- the dialogues ------------------------------------------------------- */

enum { DIALOGUES = 100, DIALOGUE_NAME = NAME_MAX + 40 };

/* Add the scripts of a folder to n names; how many there are then. */
static int
list_dialogues(const char *folder, char names[][DIALOGUE_NAME], int n)
{
	DIR *dir = opendir(folder);

	ck_assert_ptr_nonnull(dir);
	for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
		if (strstr(entry->d_name, ".txt") != NULL && n < DIALOGUES)
			snprintf(names[n++], DIALOGUE_NAME, "%s/%s", folder,
			    entry->d_name);
	closedir(dir);
	return n;
}

/* Each dialogue meets a fresh server with the built-in users. */
START_TEST(every_dialogue)
{
	static char names[DIALOGUES][DIALOGUE_NAME];
	const char *build = getenv("BUILD");
	int n = list_dialogues("tests/dialogues", names, 0);

	ck_assert_int_ge(n, 10);
	/* Fifty megabytes, an octet at a time, would take the stress build
	 * minutes, and show nothing that the others do not. */
	if (build == NULL || strstr(build, "stress") == NULL)
		n = list_dialogues("tests/dialogues/slow", names, n);
	write_file("users", "alice:{PLAIN}alice\nbob:{PLAIN}bob\n");
	for (int i = 0; i < n; i++) {
		write_file("mail1.conf", "hostname localhost\n"
		    "data_dir data.%d\nlisten_smtp 127.0.0.1:%u\n"
		    "listen_pop3 127.0.0.1:%u\nusers users\n", i, world.smtp,
		    world.pop3);
		start(MAIL1);
		ck_assert_msg(play(names[i], "HOST=localhost") == 0,
		    "%s failed", names[i]);
		stop(MAIL1, SIGTERM);
	}
}
END_TEST

/* ---- the story ----------------------------------------------------------- */

/* Stop a host and start it again, where the story says so. */
static void
again(enum host host, int how)
{
	stop(host, how);
	start(host);
}

/* Wait until MAIL2 (or another) has nothing left to do, as -q tells. */
static void
wait_drained(enum host host)
{
	char binary[PATH_MAX], conf[PATH_MAX], list[PATH_MAX];
	char *argv[] = { binary, (char[]){ "-c" }, conf, (char[]){ "-q" },
		NULL };

	built("mailserv", binary);
	snprintf(conf, sizeof(conf), "%.4000s/%s.conf", world.dir,
	    host_name[host]);
	snprintf(list, sizeof(list), "%.4000s/list", world.dir);
	for (time_t end = time(NULL) + PATIENCE; time(NULL) < end; nap()) {
		unlink(list);
		ck_assert_int_eq(finish(spawn(list, argv)), 0);
		if (count_in(list, "0 waiting, 0 in failed") == 1)
			return;
	}
	ck_abort_msg("%s still holds:\n%s", host_name[host], read_file(list));
}

/* How often is message n in Alice's mailbox? */
static int
count_delivered(int n)
{
	char folder[PATH_MAX], path[PATH_MAX], subject[40];
	int found = 0;

	snprintf(folder, sizeof(folder), "%.4000s/mail1-data/mail/alice/new",
	    world.dir);
	snprintf(subject, sizeof(subject), "\nSubject: message %d\n", n);
	DIR *dir = opendir(folder);

	ck_assert_ptr_nonnull(dir);
	for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%.3800s/%.255s", folder,
		    entry->d_name);
		found += count_in(path, subject);
	}
	closedir(dir);
	return found;
}

/*
 * The steps, and between any two of them, at `where`, hosts that stop (or are
 * killed) and start again: nothing may be lost, and without a kill nothing
 * may come twice, nor in another order.
 */
static void
tell_story(int where, int how)
{
	int step = 0;

	start(NS);
	start(MAIL2);
	start(SENDER);
	for (int i = 1; i <= MESSAGES; i++) {
		char number[32];

		snprintf(number, sizeof(number), "N=%d", i);
		ck_assert_int_eq(play("lab/story/send-one.txt", number), 0);
		if (step++ == where)
			again(SENDER, how);
	}
	wait_drained(SENDER); /* MAIL1 is down: MAIL2 took them */
	if (step++ == where)
		again(MAIL2, how);
	if (step++ == where)
		again(NS, how);
	start(MAIL1);
	if (step++ == where)
		again(MAIL1, how);
	if (step++ == where)
		again(MAIL2, how);
	wait_drained(MAIL2);
	if (step++ == where)
		again(MAIL1, how);
	for (int i = 1; i <= MESSAGES; i++)
		ck_assert_int_ge(count_delivered(i), 1);
	if (how == SIGTERM) /* else one may have come twice (RFC 1047 2) */
		ck_assert_int_eq(play("tests/story-fetch.txt", "N=3"), 0);
}

START_TEST(story)
{
	tell_story(-1, SIGTERM);
}
END_TEST

START_TEST(story_restarted)
{
	tell_story(_i, SIGTERM);
}
END_TEST

START_TEST(story_killed)
{
	tell_story(_i, SIGKILL);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("story");
	TCase *dialogues = tcase_create("dialogues");
	TCase *whole = tcase_create("story");

	tcase_add_checked_fixture(dialogues, setup, teardown);
	tcase_set_timeout(dialogues, 60);
	tcase_add_test(dialogues, every_dialogue);
	suite_add_tcase(suite, dialogues);
	tcase_add_checked_fixture(whole, setup, teardown);
	tcase_set_timeout(whole, 60);
	tcase_add_test(whole, story);
	tcase_add_loop_test(whole, story_restarted, 0, 8);
	tcase_add_loop_test(whole, story_killed, 0, 8);
	suite_add_tcase(suite, whole);
	SRunner *runner = srunner_create(suite);

	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);

	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
