/*
 * torture.c -- the promise, tried: a message answered 250 is never lost.
 *
 *	torture SERVER crash	killed before each of its system calls, in turn
 *	torture SERVER fault	each call that a disk answers fails once, with
 *				each error that it can
 *	torture SERVER beside	-q, -d and a second server at each system call
 *				of a server; a server at each of -q and of -d
 *
 * A third argument N takes every Nth call only, from a random one on, for
 * those who have less time.  It says how much it has tried, and what was wrong.
 */
#include "scene.h"
#include "traced.h"
#include <sys/random.h>

enum { WORKERS = 2, ANY = -1 };

/* A way to spend a run. */
static const struct scene {
	const char *name;
	void (*seed)(void); /* what is there before, NULL: one mailbox */
	void (*play)(void); /* what the clients do */
	int queued;	    /* messages that wait for carol from the start */
} everything = { "everything", NULL, play_everything, 0 },
  recovery = { "recovery", seed_crash, play_recovery, 2 },
  drain = { "drain", seed_waiting, play_recovery, 3 };

/* One run: what is done to the server, and what has become of it. */
struct run {
	const struct scene *scene;
	long at;	    /* which call is meant: counted from 1 */
	long fail;	    /* only calls of this number count, or ANY */
	int error;	    /* what it answers, or 0: the server is killed */
	void (*beside)(void); /* or this is done while it stands there */
	long count;	    /* calls so far */
	bool counting;	    /* since the first that could touch the state */
	bool answer;	    /* this call's result is to be changed */
	bool met;	    /* the call that was meant was made: */
	long number;	    /* this one */
	int status;	    /* how the server ended */
};

static void
a_conf(const char *argv[], const char *mode)
{
	argv[0] = world.binary;
	argv[1] = "-c";
	argv[2] = "a.conf";
	argv[3] = mode;
	argv[4] = NULL;
}

/* The call that was meant is about to be made. */
static void
strike(struct run *r, pid_t pid, const struct call *call)
{
	r->met = true;
	r->number = call->number;
	world.told->fired = r->error != 0;
	if (r->beside != NULL) {
		r->beside();
	} else if (r->error != 0) {
		traced_skip(pid);
		r->answer = true;
	} else {
		kill(pid, SIGKILL);
	}
}

/* The server stands before or after a call. */
static void
watch(struct run *r, pid_t pid, const struct call *call)
{
	if (call->entry) {
		r->counting |= call->number == SYS_mkdirat;
		if (r->counting &&
		    (r->fail == ANY || r->fail == call->number) &&
		    ++r->count == r->at)
			strike(r, pid, call);
	} else if (r->answer) {
		traced_answer(pid, -r->error);
		r->answer = false;
	}
}

static pid_t
start_player(void (*play)(void))
{
	fflush(stdout);
	pid_t pid = fork();

	if (pid == 0) {
		play();
		_exit(0);
	}
	return pid;
}

/* Watch the server until it ends; when the player is through it is asked to. */
static void
watch_all(struct run *r, pid_t server)
{
	pid_t player = start_player(r->scene->play), pid;
	bool served = false;
	struct call call = { 0 };
	int status;

	while (player != 0 || !world.told->dead) {
		pid = waitpid(-1, &status, 0);
		if (pid == player) {
			player = 0;
			served = true;
			if (!world.told->dead)
				kill(server, SIGTERM);
		} else if (pid == world.b) {
			complain("B has died");
			exit(1);
		} else if (pid == server && !WIFSTOPPED(status)) {
			r->status = status;
			world.told->dead = true;
		} else if (pid == server && traced_stop(pid, status, &call)) {
			watch(r, pid, &call);
			traced_go(pid);
		}
	}
	if (!r->met && !served)
		complain("the server ended by itself");
}

/* Play a scene; survey what has come of it.  False: the call that was meant
 * was never made. */
static bool
run_scene(struct run *r)
{
	const char *argv[5];

	scene_begin();
	if (r->scene->seed != NULL)
		r->scene->seed();
	a_conf(argv, NULL);
	watch_all(r, traced_start(argv, path_of("a.log"), world.dir));
	return r->met;
}

/* ---- crash --------------------------------------------------------------- */

/* How many calls the server makes varies from run to run by a few; so it is
 * over only when several runs have met no such call. */
enum { SILENT_RUNS = 3 };

static long
crash(const struct scene *scene, long first, long step)
{
	long runs = 0;

	for (long at = first, silent = 0; silent < SILENT_RUNS; at += step) {
		struct run r = { .scene = scene, .at = at, .fail = ANY };

		snprintf(world.what, sizeof(world.what), "%s, killed at %ld",
		    scene->name, at);
		silent = run_scene(&r) ? 0 : silent + 1;
		snprintf(world.what, sizeof(world.what),
		    "%s, killed at %ld, before %s", scene->name, at,
		    call_name(r.number));
		scene_survey();
		for (int i = 0; i < scene->queued; i++)
			survey_seed(i, false);
		runs++;
	}
	return runs;
}

static long
crash_all(long first, long step)
{
	return crash(&everything, first, step) + crash(&recovery, first, step);
}

/* ---- fault --------------------------------------------------------------- */

/* What the kernel may answer when a disk, or a table, is at its end. */
static const struct fault {
	long call;
	int error;
} faults[] = {
	{ SYS_openat, EIO }, { SYS_openat, ENOSPC }, { SYS_openat, EMFILE },
	{ SYS_openat, ENOMEM }, { SYS_write, EIO }, { SYS_write, ENOSPC },
	{ SYS_write, EDQUOT }, { SYS_fsync, EIO }, { SYS_fsync, ENOSPC },
	{ SYS_syncfs, EIO }, { SYS_syncfs, ENOSPC }, { SYS_linkat, EIO },
	{ SYS_linkat, ENOSPC }, { SYS_linkat, EDQUOT }, { SYS_unlinkat, EIO },
	{ SYS_getdents64, EIO }, { SYS_getdents64, ENOMEM },
	{ SYS_mkdirat, EIO }, { SYS_mkdirat, ENOSPC }, { SYS_lseek, EIO },
	{ SYS_read, EIO }, { SYS_renameat, EIO }, { SYS_renameat, ENOSPC },
	{ SYS_newfstatat, EIO }, { SYS_newfstatat, ENOMEM },
	{ SYS_ftruncate, EIO }, { SYS_flock, ENOLCK },
	{ SYS_accept4, EMFILE }, { SYS_accept4, ENFILE },
	{ SYS_socket, EMFILE }, { SYS_sendto, ENOBUFS },
	{ SYS_recvfrom, ENOMEM },
#ifdef SYS_mkdir
	{ SYS_mkdir, EIO }, { SYS_mkdir, ENOSPC }, { SYS_mkdir, EDQUOT },
	{ SYS_unlink, EIO }, { SYS_rename, EIO }, { SYS_rename, ENOSPC },
	{ SYS_poll, ENOMEM },
#endif
#ifdef SYS_faccessat2
	{ SYS_faccessat2, EIO },
#endif
};

/* A fault may end the server only before it was ready, and with a status that
 * says why. */
static void
check_end(const struct run *r)
{
	bool ready = world.told->served;

	if (ready && r->status != 0)
		complain("the server ended with status %x: %s",
		    (unsigned)r->status, get_file(path_of("a.log"), NULL));
	if (ready && r->fail == SYS_getdents64 && r->scene == &recovery &&
	    !world.told->drained)
		complain("a list that was cut off has been believed");
	if (!ready && (!WIFEXITED(r->status) || WEXITSTATUS(r->status) < 69 ||
	    WEXITSTATUS(r->status) > 78))
		complain("start ended with status %x: %s",
		    (unsigned)r->status, get_file(path_of("a.log"), NULL));
}

static long
fault(const struct scene *scene, const struct fault *f, long first, long step)
{
	long runs = 0;

	for (long at = first;; at += step) {
		struct run r = { .scene = scene, .at = at, .fail = f->call,
			.error = f->error };

		snprintf(world.what, sizeof(world.what),
		    "%s, %s number %ld answers %s", scene->name,
		    call_name(f->call), at, strerrorname_np(f->error));
		if (!run_scene(&r))
			return runs;
		check_end(&r);
		scene_survey();
		for (int i = 0; i < scene->queued; i++)
			survey_seed(i, false);
		runs++;
	}
}

static long
fault_all(long first, long step)
{
	long runs = 0;

	for (size_t i = 0; i < sizeof(faults) / sizeof(*faults); i++) {
		runs += fault(&everything, &faults[i], first, step);
		runs += fault(&recovery, &faults[i], first, step);
	}
	return runs;
}

/* ---- beside -------------------------------------------------------------- */

/* Run mailserv with one option, and perhaps a word; its status.  What it
 * prints is in the file out. */
static int
run_beside(const char *mode, const char *word)
{
	pid_t pid = fork();
	int status = 0;

	if (pid == 0) {
		int fd = open(path_of("out"), O_WRONLY | O_CREAT | O_TRUNC,
		    0600);

		dup2(fd, 1);
		dup2(fd, 2);
		if (chdir(world.dir) == 0)
			execl(world.binary, world.binary, "-c", "a.conf", mode,
			    word, NULL);
		_exit(127);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* -q is a list, whatever moment it looks at. */
static void
check_list(int status)
{
	const char *text = get_file(path_of("out"), NULL);

	if (status != 0 || strstr(text, " waiting, 0 in failed\n") == NULL)
		complain("-q ended with status %d: %s", status, text);
}

static const char doomed[] = "000000000000abc1";

/* The names, sizes and times below data_dir, as one number. */
static uint64_t tree_sum;

static int
sum_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
	(void)kind;
	(void)at;
	for (; *path != '\0'; path++)
		tree_sum = (tree_sum ^ (unsigned char)*path) * 1099511628211u;
	tree_sum = (tree_sum ^ (uint64_t)st->st_size) * 1099511628211u;
	tree_sum = (tree_sum ^ (uint64_t)st->st_mtim.tv_nsec) * 1099511628211u;
	return 0;
}

static uint64_t
sum_tree(void)
{
	tree_sum = 14695981039346656037u;
	nftw(path_of("a-data"), sum_one, 16, FTW_PHYS);
	return tree_sum;
}

/* The server stands still: list, start another one, delete a message. */
static void
look_and_delete(void)
{
	bool locked = strstr(get_file(path_of("a-data/queue/lock"), NULL),
	    "\n") != NULL;
	uint64_t before = sum_tree();

	check_list(run_beside("-q", NULL));
	if (locked && run_beside(NULL, NULL) != 75)
		complain("a second server: %s", get_file(path_of("out"), NULL));
	if (sum_tree() != before)
		complain("-q or a second server has touched the state");
	int status = run_beside("-d", doomed);

	if (status != 0 && status != 66)
		complain("-d ended with status %d", status);
}

static long
beside_server(long first, long step)
{
	long runs = 0;

	for (long at = first, silent = 0; silent < SILENT_RUNS; at += step) {
		struct run r = { .scene = &drain, .at = at, .fail = ANY,
			.beside = look_and_delete };

		snprintf(world.what, sizeof(world.what),
		    "-q, -d and a second server at call %ld", at);
		silent = run_scene(&r) ? 0 : silent + 1;
		check_end(&r);
		scene_survey();
		for (int i = 0; i < drain.queued; i++)
			survey_seed(i, i == 1);
		runs++;
	}
	return runs;
}

/* A whole life of a server. */
static void
live(void)
{
	world.a = start_plain("a");
	if (!wait_drained(PATIENCE))
		complain("the queue does not drain");
	stop_plain(world.a, "a");
}

/* -q or -d, which at one of its calls stands still while a server runs. */
static long
beside_option(const char *mode, const char *word, long first, long step)
{
	const char *argv[6];
	long runs = 0;

	a_conf(argv, mode);
	argv[4] = word;
	argv[5] = NULL;
	for (long at = first;; at += step) {
		struct run r = { .scene = &drain, .at = at, .fail = ANY,
			.beside = live };
		struct call call = { 0 };
		int status = 0;

		snprintf(world.what, sizeof(world.what),
		    "a server at call %ld of %s", at, mode);
		scene_begin();
		seed_waiting();
		unlink(path_of("out"));
		pid_t pid = traced_start(argv, path_of("out"), world.dir);

		for (r.counting = true; waitpid(pid, &status, 0) == pid &&
		     WIFSTOPPED(status);)
			if (traced_stop(pid, status, &call)) {
				watch(&r, pid, &call);
				traced_go(pid);
			}
		if (!r.met)
			return runs;
		if (word == NULL)
			check_list(WEXITSTATUS(status));
		else if (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != 66)
			complain("status %x", (unsigned)status);
		scene_survey();
		for (int i = 0; i < drain.queued; i++)
			survey_seed(i, word != NULL && i == 1);
		runs++;
	}
}

static long
beside_all(long first, long step)
{
	return beside_server(first, step) +
	    beside_option("-q", NULL, first, step) +
	    beside_option("-d", doomed, first, step);
}

/* ---- main ---------------------------------------------------------------- */

static const struct mode {
	const char *name, *says;
	long (*all)(long first, long step);
} modes[] = {
	{ "crash", "killed before a system call", crash_all },
	{ "fault", "a call that failed once", fault_all },
	{ "beside", "-q, -d and a second server", beside_all },
};

/* One worker's part of the runs; what it did goes to the pipe. */
static void
work(const struct mode *mode, const char *binary, long first, long step,
    int out)
{
	world_begin(binary);
	long did[2] = { mode->all(first, step), 0 };

	snprintf(world.what, sizeof(world.what), "the end");
	world_end();
	did[1] = world.failures;
	if (write(out, did, sizeof(did)) != sizeof(did))
		exit(2);
	exit(world.failures > 0);
}

int
main(int argc, char **argv)
{
	long step = argc > 3 ? atol(argv[3]) : 1, runs = 0, failures = 0;
	const struct mode *mode = modes, *end = modes + 3; /* all of them */
	unsigned char first = 0;
	int ends[2], status, bad = 0;
	long did[2];

	while (mode < end && (argc < 3 || strcmp(mode->name, argv[2]) != 0))
		mode++;
	if (mode == end || step < 1 || pipe(ends) < 0) {
		fprintf(stderr, "usage: torture SERVER crash|fault|beside"
		    " [N]\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	if (step > 1 && getrandom(&first, 1, 0) != 1)
		first = 0;
	for (long w = 0; w < WORKERS; w++)
		if (fork() == 0)
			work(mode, argv[1], 1 + first % step + w * step,
			    WORKERS * step, ends[1]);
	while (wait(&status) > 0)
		bad |= status;
	close(ends[1]);
	while (read(ends[0], did, sizeof(did)) == sizeof(did)) {
		runs += did[0];
		failures += did[1];
	}
	printf("%s: %ld runs, every %ld from %ld, %ld failures\n", mode->says,
	    runs, step, 1 + first % step, failures);
	return bad != 0 || runs == 0;
}
