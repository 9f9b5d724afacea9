/*
 * check_dialogue.c -- the player of dialogues, against a scripted server.
 *
 * The server is a child: it says its lines at once, whatever it hears, and
 * then either closes, or waits until the player does.  What it heard it
 * leaves in a file.  dialogue.c is included, so that this is one program.
 * Links with: none
 */
int dialogue_main(int argc, char **argv);
#define main dialogue_main
#include "dialogue.c"
#undef main

#include <check.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { WAITS, CLOSES, RESETS };

static char dir[64], text[1 << 17];
static char port[16];
static pid_t server; /* leads a group: those who serve for it are in it */
static int alive[2]; /* a pipe: at its end when all of them have gone */

static const char *
path(const char *name)
{
	static char at[4][256];
	static unsigned turn;

	snprintf(at[++turn % 4], sizeof(at[0]), "%s/%s", dir, name);
	return at[turn % 4];
}

static const char *
put(const char *name, const char *words)
{
	const char *at = path(name);
	FILE *f = fopen(at, "w");

	ck_assert_ptr_nonnull(f);
	fputs(words, f);
	fclose(f);
	return at;
}

/* A file's text; it may hold NULs. */
static size_t
get(const char *name)
{
	FILE *f = fopen(path(name), "r");

	ck_assert_ptr_nonnull(f);
	size_t len = fread(text, 1, sizeof(text) - 1, f);

	text[len] = '\0';
	fclose(f);
	return len;
}

static int
remove_one(const char *at, const struct stat *st, int kind, struct FTW *where)
{
	(void)st;
	(void)kind;
	(void)where;
	return remove(at);
}

static void
begin(void)
{
	snprintf(dir, sizeof(dir), "/tmp/mailserv-check-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(pipe(alive), 0);
	server = 0;
}

static void
end(void)
{
	char none;

	if (server > 0) {
		kill(-server, SIGKILL);
		waitpid(server, NULL, 0);
	}
	close(alive[1]);
	ck_assert_int_eq(read(alive[0], &none, 1), 0);
	close(alive[0]);
	nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- the server ---------------------------------------------------------- */

/* One connection: say the words, then do as told; note each read(). */
static void
serve(int fd, const char *words, size_t len, int then)
{
	struct linger at_once = { .l_onoff = 1, .l_linger = 0 };
	FILE *heard = fopen(path("heard"), "a");
	FILE *reads = fopen(path("reads"), "a");
	char part[4096];
	ssize_t n;

	if (write(fd, words, len) < 0 || heard == NULL || reads == NULL)
		_exit(1);
	while (then == WAITS && (n = read(fd, part, sizeof(part))) > 0) {
		fwrite(part, 1, (size_t)n, heard);
		fprintf(reads, "%zd\n", n);
	}
	if (then == RESETS)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once,
		    sizeof(at_once));
	close(fd);
	fclose(heard);
	fclose(reads);
}

/* Start it: say words[0] to the first client, words[1] to the next ...  The
 * clients are served in turn, but all can connect at once. */
static void
start_n(const char *const *words, size_t n, int then)
{
	struct sockaddr_in any = { .sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(any);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	ck_assert_int_eq(bind(fd, (struct sockaddr *)&any, len), 0);
	ck_assert_int_eq(listen(fd, 8), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&any, &len), 0);
	snprintf(port, sizeof(port), "PORT=%u", ntohs(any.sin_port));
	server = fork();
	setpgid(server, server); /* in both: whoever comes first */
	if (server != 0) {
		close(fd);
		return;
	}
	for (size_t i = 0; i < n; i++) {
		int client = accept(fd, NULL, NULL);

		if (n == 1 || fork() == 0) {
			serve(client, words[i], strlen(words[i]), then);
			if (n > 1)
				_exit(0);
		}
		close(client);
	}
	while (n > 1 && wait(NULL) > 0)
		continue;
	_exit(0);
}

static void
start(const char *words)
{
	start_n(&words, 1, WAITS);
}

/* Wait for the server's end, then read what it heard. */
static size_t
heard(void)
{
	waitpid(server, NULL, 0);
	server = 0;
	return get("heard");
}

/* ---- the player ---------------------------------------------------------- */

/* Play a script that begins with a connection; its exit status.  What it
 * said is in text. */
static int
play_with(const char *flag, const char *script)
{
	char whole[8192],
	    *argv[] = { (char *)"dialogue", (char *)flag, (char *)"-D", port,
		    NULL, NULL };
	int status;

	snprintf(whole, sizeof(whole), "connect 127.0.0.1 ${PORT}\n%s", script);
	argv[4] = (char *)(uintptr_t)put("script.txt", whole);
	fflush(NULL);
	pid_t pid = fork();

	if (pid == 0) {
		int fd = open(path("said"), O_WRONLY | O_CREAT | O_TRUNC, 0600);

		dup2(fd, STDOUT_FILENO);
		dup2(fd, STDERR_FILENO);
		close(fd);
		optind = 1;
		exit(dialogue_main(5, argv));
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	get("said");
	ck_assert_msg(WIFEXITED(status), "killed: %d", status);
	return WEXITSTATUS(status);
}

static int
play_script(const char *script)
{
	return play_with("-DX=1", script);
}

#define ck_says(part) \
	ck_assert_msg(strstr(text, part) != NULL, "no \"%s\" in:\n%s", part, \
	    text)

/* ---- tests --------------------------------------------------------------- */

/* What the server says, a line of a script, and how it ends. */
static const struct matching {
	const char *said, *script;
	int status;
} matching[] = {
	{ "250 OK\r\n", "S: 250 OK", 0 },
	{ "250 OK\r\n", "  S: 250 OK", 0 },
	{ "250 OK\r\n", "S: 250 O", 1 },
	{ "250 OK\r\n", "S: 250 OK ", 1 },
	{ "250 OK\r\n", "S: 250...", 0 },
	{ "250 OK\r\n", "S: ...", 0 },
	{ "250\r\n", "S: 250 ...", 1 },
	{ "250-a\r\n", "S: 250 ...", 1 },
	{ "250\r\n", "S: 250...", 0 },
	{ "\r\n", "S:", 0 },
	{ "\r\n", "S: x", 1 },
	{ "250 OK\n", "S: 250 OK", 1 },
	{ "\n", "S:", 1 },
	{ "250 OK\r\r\n", "S: 250 OK", 1 },
	{ "+OK 2 320\r\n", "S: +OK ${n=} ${o=}\nset a ${n}${o}\nC: ${a}", 0 },
	{ "(320 octets)\r\n", "S: (${n=} octets)", 0 },
	{ "() x\r\n", "S: (${n=}) x", 1 },
	{ "as ABC.\r\n", "S: as ${id=}...", 0 },
	{ "<al@lab> x\r\n", "S: <${=}@${=}> x", 0 },
	{ "\x1b\r\n", "S: ${=}", 0 },
	{ "one two\r\n", "S: ${a=}", 1 },
	{ "a\r\nb\r\n.\r\n", "...\nS: .", 0 },
	{ ".\r\n", "...\nS: .", 0 },
	{ "a\r\n.\r\nz\r\n", "...\nS: .\nS: .", 1 },
	{ "1 7\r\n1 7\r\n", "S: 1 ${n=}\nS: 1 ${n}", 0 },
	{ "1 7\r\n1 8\r\n", "S: 1 ${n=}\nS: 1 ${n}", 1 },
};

START_TEST(lines_match)
{
	const struct matching *m = &matching[_i];

	start(m->said);
	ck_assert_msg(play_script(m->script) == m->status, "%s\n%s", m->script,
	    text);
	if (m->status == 0)
		ck_assert_str_eq(text, "");
}
END_TEST

/* Lines of scripts that are faults, and what is said of them. */
static const char *const faults[][2] = {
	{ "C: ${nobody}", "script.txt:2: ${nobody} has no value" },
	{ "\n\n# x\nC: ${x", "script.txt:5: ${ without }" },
	{ "greet", "\"greet\" is neither" },
	{ "C< a\\q", "after \\ comes" },
	{ "C< \\x4", "after \\ comes" },
	{ "C< \\", "after \\ comes" },
	{ "C= a", "wanted: C:" },
	{ "C:a", "wanted: a blank" },
	{ "C*x a", "wanted: a blank" },
	{ "C(two): a", "no connection two is open" },
	{ "S(two): a", "no connection two is open" },
	{ "close\nS: a", "script.txt:3: no connection" },
	{ "wait soon", "wanted: seconds" },
	{ "wait -1", "wanted: seconds" },
	{ "timeout nan", "wanted: seconds" },
	{ "end", "an end without a repeat" },
	{ "repeat 1", "a repeat without its end" },
	{ "repeat 1\nrepeat 1\nend", "script.txt:3: a repeat within" },
	{ "connect here", "wanted: connect" },
	{ "connect 127.0.0.1 nowhere", "127.0.0.1: " },
	{ "bytewise maybe", "wanted: bytewise" },
	{ "set", "wanted: set" },
	{ "include gone.txt", "gone.txt:0: No such file" },
	{ "include script.txt", "nested too deep" },
	{ "include /", "/:0: " },
	{ "close two", "no connection two is open" },
	{ "... x", "stands alone" },
	{ "set aaaaaaaabbbbbbbbccccccccdddddddd 1", "at most 31" },
};

START_TEST(faults_are_named)
{
	static const char *const nothing[10] = { "", "", "", "", "", "", "", "",
		"", "" };

	start_n(nothing, NELEM(nothing), WAITS);
	ck_assert_int_eq(play_script(faults[_i][0]), 2);
	ck_says(faults[_i][1]);
}
END_TEST

START_TEST(failure_tells_the_story)
{
	start("220 hello\r\n500 what?\x1b[2J\r\n");
	ck_assert_int_eq(play_script("S: 220 ...\nC: HELO x\n\nS: 250 ...\n"
				     "C: QUIT"),
	    1);
	char want[1024];

	snprintf(want, sizeof(want),
	    "connect 127.0.0.1 %s\nS: 220 hello\n"
	    "C: HELO x\n%s:5: expected  S: 250 ...\n"
	    "%s:5: came      S: 500 what?\\x1b[2J\n",
	    port + 5, path("script.txt"), path("script.txt"));
	ck_assert_str_eq(text, want);
	heard();
	ck_assert_str_eq(text, "HELO x\r\n");
}
END_TEST

/* With -v all is said as it goes, and nothing twice. */
START_TEST(verbose_tells_it_once)
{
	start("220 hello\r\n250 x\r\n");
	ck_assert_int_eq(play_with("-v",
			     "say Hello.\nS: 220 ...\nC: HELO x\n"
			     "S: 550 ..."),
	    1);
	ck_says("# Hello.\nS: 220 hello\nC: HELO x\n");
	ck_says(":5: came      S: 250 x\n");
	ck_assert_ptr_null(strstr(strstr(text, "Hello") + 1, "Hello"));
}
END_TEST

/* RFC 2920 3.1: a group is one write; bytewise, as many as octets. */
START_TEST(groups_and_octets)
{
	start("250 a\r\n");
	ck_assert_int_eq(play_script("C: ONE\nC: TWO\nC< x\\r\\n\\0\\x41\\\\\n"
				     "C*3 ab\nS: 250 a\nwait 0.05\n"
				     "bytewise on\nC: XYZ\nbytewise off"),
	    0);
	ck_assert_uint_eq(heard(),
	    strlen("ONE\r\nTWO\r\nx\r\n0A\\abababXYZ\r\n"));
	ck_assert_int_eq(memcmp(text, "ONE\r\nTWO\r\nx\r\n\0A\\abababXYZ\r\n",
			     27),
	    0);
	get("reads");
	ck_assert_int_eq(strncmp(text, "22\n", 3), 0);
}
END_TEST

/* A text as long as a group, and longer, leaves whole. */
START_TEST(long_lines_leave_whole)
{
	start("ok\r\n");
	ck_assert_int_eq(play_script("C*40000 ab\nC: end\nS: ok"), 0);
	size_t len = heard();

	ck_assert_uint_eq(len, 80005);
	ck_assert_str_eq(text + 80000, "end\r\n");
	ck_assert_uint_eq(strspn(text, "ab"), 80000);
}
END_TEST

START_TEST(end_of_file)
{
	static const char *const words[] = { "a\r\n", "a\r\nhalf" };

	start_n(words, 2, CLOSES);
	ck_assert_int_eq(play_script("S: a\nS: <EOF>"), 0);
	ck_assert_int_eq(play_script("S: a\nS: <EOF>"), 1);
	ck_says("came      S: half<EOF>");
}
END_TEST

START_TEST(end_of_file_comes_too_soon)
{
	static const char *const words[] = { "a\r\n" };

	start_n(words, 1, CLOSES);
	ck_assert_int_eq(play_script("S: a\nC: b\n...\nS: c"), 1);
	ck_says("came      S: <EOF>");
}
END_TEST

START_TEST(reset_is_an_end)
{
	static const char *const words[] = { "" };

	start_n(words, 1, RESETS);
	ck_assert_int_eq(play_script("C: a\nC: b\nS: <EOF>"), 0);
}
END_TEST

START_TEST(silence_and_timeouts)
{
	int64_t begun = now();

	start("a\r\nhalf");
	ck_assert_int_eq(play_script("S: a\ntimeout 0.2\nS: half..."), 1);
	ck_says("came      S: half(and then nothing, in time)");
	ck_assert_int_lt(now() - begun, 5000);
	ck_assert_int_ge(now() - begun, 200);
}
END_TEST

START_TEST(silence_holds)
{
	start("a\r\n");
	ck_assert_int_eq(play_script("S: a\nsilence 0.1"), 0);
}
END_TEST

START_TEST(silence_is_broken)
{
	start("a\r\nb\r\n");
	ck_assert_int_eq(play_script("S: a\nsilence 0.1"), 1);
	ck_says("expected  S: (silence)");
	ck_says("came      S: b");
}
END_TEST

/* A line as long as the buffer, and one past it. */
START_TEST(longest_line)
{
	static char line[BUF_CAP + 8];

	memset(line, 'x', sizeof(line));
	snprintf(line + BUF_CAP - 2 + _i, 4, "\r\n");
	start(line);
	ck_assert_int_eq(play_script("timeout 3\nS: xx..."), _i);
	if (_i == 1)
		ck_says("(65536 octets)(a line without end)");
}
END_TEST

START_TEST(several_connections)
{
	static const char *const words[] = { "a\r\n", "b\r\n", "c\r\n" };

	start_n(words, 3, WAITS);
	ck_assert_int_eq(play_script("S: a\nconnect two 127.0.0.1 ${PORT}\n"
				     "S: b\nC(): to one\nC(two): to two\n"
				     "C: and\nhalf-close\nS(two): <EOF>\n"
				     "timeout 0.2\n"
				     "S(): a"),
	    1);
	ck_says("S(two): b\nC(): to one\nC(two): to two\nC(two): and\n");
	ck_says("half-close\nS(two): <EOF>\n");
}
END_TEST

/* A second connect without a name takes the first one's place. */
START_TEST(next_connection)
{
	static const char *const words[] = { "a\r\n", "b\r\n" };

	start_n(words, 2, WAITS);
	ck_assert_int_eq(play_script("S: a\nconnect 127.0.0.1 ${PORT}\nS: b\n"
				     "C: x\nreset"),
	    0);
}
END_TEST

/* The block is played until the third client hears what is wanted; the
 * first two attempts are not shown. */
START_TEST(repeat_until_it_fits)
{
	static const char *const words[] = { "", "no\r\n", "no\r\n",
		"yes\r\n" };

	start_n(words, 4, WAITS);
	ck_assert_int_eq(play_with("-v",
			     "repeat 5\n"
			     "connect two 127.0.0.1 ${PORT}\n"
			     "S: yes\nend\nC: thanks\nC(): bye"),
	    0);
	ck_assert_ptr_null(strstr(text, "no\n"));
	ck_says("S(two): yes\nC(two): thanks\nC(): bye\n");
}
END_TEST

START_TEST(repeat_ends)
{
	start("a\r\n");
	ck_assert_int_eq(play_script("S: a\nrepeat 0.3\ntimeout 0.05\n"
				     "say again\nS: b\nend"),
	    1);
	ck_says("S: a\n# again\n");
	ck_says(":6: expected  S: b");
	ck_assert_ptr_null(strstr(strstr(text, "again") + 1, "again"));
}
END_TEST

START_TEST(include_from_the_same_folder)
{
	start("a\r\nb\r\n");
	put("part.txt", "S: a\nS: c\n");
	ck_assert_int_eq(play_script("include part.txt"), 1);
	ck_says("part.txt:2: expected  S: c");
}
END_TEST

/* Nobody listens, and then somebody does. */
START_TEST(connect_again)
{
	char gone[16];

	start("");
	snprintf(gone, sizeof(gone), "%s", port);
	ck_assert_int_eq(play_script("close"), 0);
	waitpid(server, NULL, 0);
	server = 0;
	ck_assert_int_eq(play_script("S: x"), 1);
	ck_says("script.txt:1: Connection refused");
}
END_TEST

/* The peer never reads: what does not fit in the sockets is too late. */
START_TEST(peer_does_not_read)
{
	struct sockaddr_in any = { .sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(any);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	ck_assert_int_eq(bind(fd, (struct sockaddr *)&any, len), 0);
	ck_assert_int_eq(listen(fd, 8), 0);
	getsockname(fd, (struct sockaddr *)&any, &len);
	snprintf(port, sizeof(port), "PORT=%u", ntohs(any.sin_port));
	ck_assert_int_eq(play_script("close\ntimeout 0.2\n"
				     "connect 127.0.0.1 ${PORT}\n"
				     "C*100000000 x"),
	    1);
	ck_says("script.txt:5: the server does not read, in time");
	close(fd);
}
END_TEST

START_TEST(wrong_calls)
{
	char *none[] = { (char *)"dialogue", NULL };
	char *define[] = { (char *)"dialogue", (char *)"-D", (char *)"X",
		(char *)"file", NULL };

	freopen("/dev/null", "w", stderr);
	optind = 1;
	ck_assert_int_eq(dialogue_main(1, none), 2);
	optind = 1;
	ck_assert_int_eq(dialogue_main(4, define), 2);
}
END_TEST

int
main(void)
{
	TCase *tc = tcase_create("dialogue");
	Suite *suite = suite_create("dialogue");
	SRunner *runner;

	tcase_add_checked_fixture(tc, begin, end);
	tcase_set_timeout(tc, 30);
	tcase_add_loop_test(tc, lines_match, 0, NELEM(matching));
	tcase_add_loop_test(tc, faults_are_named, 0, NELEM(faults));
	tcase_add_test(tc, failure_tells_the_story);
	tcase_add_test(tc, verbose_tells_it_once);
	tcase_add_test(tc, groups_and_octets);
	tcase_add_test(tc, long_lines_leave_whole);
	tcase_add_test(tc, end_of_file);
	tcase_add_test(tc, end_of_file_comes_too_soon);
	tcase_add_test(tc, reset_is_an_end);
	tcase_add_test(tc, silence_and_timeouts);
	tcase_add_test(tc, silence_holds);
	tcase_add_test(tc, silence_is_broken);
	tcase_add_loop_test(tc, longest_line, 0, 2);
	tcase_add_test(tc, several_connections);
	tcase_add_test(tc, next_connection);
	tcase_add_test(tc, repeat_until_it_fits);
	tcase_add_test(tc, repeat_ends);
	tcase_add_test(tc, include_from_the_same_folder);
	tcase_add_test(tc, connect_again);
	tcase_add_test(tc, peer_does_not_read);
	tcase_add_test(tc, wrong_calls);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);

	srunner_free(runner);
	return failed > 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
