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
 *
 * Each scene is played once in peace, and its calls are counted.  So it is
 * known which runs there are, and two workers share them.  A fault that no run
 * has met tells nothing of the server: that is wrong, too.
 */
#include "scene.h"
#include <stdatomic.h>
#include <sys/random.h>

enum {
	WORKERS = 2,
	ANY = -1,
	NUMBERS = 1024, /* of system calls */
	AGAIN = 3,	/* runs, where the call that is meant is not made */
};

/* What -q, -d and a second server may come beside. */
static const struct scene drain = { "drain", seed_waiting, play_recovery, 3,
	NULL };

/* One run: what is done to the server, and what has become of it. */
struct run {
	const struct scene *scene;
	long at;	    /* which call is meant: counted from 1 */
	long fail;	    /* only calls of this number count, or ANY */
	int error;	    /* what it answers, or 0: the server is killed */
	void (*beside)(void); /* or this is done while it stands there */
	long *calls;	    /* or all are counted, by their numbers */
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
		world.told->killed = true;
		kill(pid, SIGKILL);
	}
}

/* The server stands before or after a call. */
static void
watch(void *run, pid_t pid, const struct call *call)
{
	struct run *r = run;

	if (call->entry) {
		r->counting |= call->number == SYS_mkdirat;
		if (r->counting && r->calls != NULL && call->number >= 0 &&
		    call->number < NUMBERS)
			r->calls[call->number]++;
		if (r->counting &&
		    (r->fail == ANY || r->fail == call->number) &&
		    ++r->count == r->at)
			strike(r, pid, call);
	} else if (r->answer) {
		traced_answer(pid, -r->error);
		r->answer = false;
	}
}

/* Play a scene.  False: the call that was meant was never made. */
static bool
run_scene(struct run *r)
{
	const char *argv[5];

	scene_begin();
	if (r->scene->seed != NULL)
		r->scene->seed();
	a_conf(argv, NULL);
	r->status = watch_all(r->scene->play,
	    traced_start(argv, path_of("a.log"), world.dir), watch, r);
	if (!r->met && !world.told->asked)
		complain("the server ended by itself");
	return r->met;
}

/* ---- crash, fault -------------------------------------------------------- */

/* What the kernel may answer when a disk, or a table, is at its end. */
static const struct fault {
	long call;
	int error;
} faults[] = {
	{ SYS_openat, EIO }, { SYS_openat, ENOSPC }, { SYS_openat, EMFILE },
	{ SYS_openat, ENOMEM }, { SYS_write, EIO }, { SYS_write, ENOSPC },
	{ SYS_write, EDQUOT }, { SYS_sendfile, EIO }, { SYS_sendfile, ENOSPC },
	{ SYS_fsync, EIO }, { SYS_fsync, ENOSPC }, { SYS_syncfs, EIO },
	{ SYS_syncfs, ENOSPC }, { SYS_linkat, EIO }, { SYS_linkat, ENOSPC },
	{ SYS_linkat, EDQUOT }, { SYS_unlinkat, EIO },
	{ SYS_getdents64, EIO }, { SYS_getdents64, ENOMEM },
	{ SYS_mkdirat, EIO }, { SYS_mkdirat, ENOSPC }, { SYS_lseek, EIO },
	{ SYS_read, EIO }, { SYS_pread64, EIO }, { SYS_renameat, EIO },
	{ SYS_renameat, ENOSPC },
	{ SYS_newfstatat, EIO }, { SYS_newfstatat, ENOMEM },
	{ SYS_ftruncate, EIO }, { SYS_flock, ENOLCK }, { SYS_ppoll, ENOMEM },
	{ SYS_accept4, EMFILE }, { SYS_accept4, ENFILE },
	{ SYS_socket, EMFILE }, { SYS_sendto, ENOBUFS },
	{ SYS_recvfrom, ENOMEM }, { SYS_connect, EADDRNOTAVAIL },
#ifdef SYS_mkdir
	{ SYS_mkdir, EIO }, { SYS_mkdir, ENOSPC }, { SYS_mkdir, EDQUOT },
	{ SYS_unlink, EIO }, { SYS_rename, EIO }, { SYS_rename, ENOSPC },
#endif
#ifdef SYS_faccessat2
	{ SYS_faccessat2, EIO },
#endif
}, killed = { ANY, 0 };

enum { FAULTS = sizeof(faults) / sizeof(*faults) };

/* How often each scene makes each call, where nothing is done to it. */
static long calls[SCENES][NUMBERS];

/* What the workers share: which run is next, and what has happened so far. */
static struct shared {
	atomic_long next, fired[FAULTS];
} *shared;

/* Where the stride of each row begins. */
static unsigned char starts[FAULTS];

/* There is no second file system: nothing is copied. */
static bool one_fs;

/* A fault may end the server only before it was ready, and with a status that
 * says why.  (The line of the log, or the greeting, may be what failed.) */
static void
check_end(const struct run *r)
{
	bool ready = world.told->served ||
	    strstr(get_file(path_of("a.log"), NULL), " ready ") != NULL;

	if (ready && r->status != 0)
		complain("the server ended with status %x: %s",
		    (unsigned)r->status, get_file(path_of("a.log"), NULL));
	if (ready && r->fail == SYS_getdents64 && r->scene->queued > 0 &&
	    !world.told->drained)
		complain("a list that was cut off has been believed");
	if (!ready && (!WIFEXITED(r->status) || WEXITSTATUS(r->status) < 69 ||
	    WEXITSTATUS(r->status) > 78))
		complain("start ended with status %x: %s",
		    (unsigned)r->status, get_file(path_of("a.log"), NULL));
}

/* Every scene in peace, with all its calls. */
static void
rehearse(void)
{
	struct stat here, there;

	one_fs = stat(world.dir, &here) == 0 && stat(elsewhere, &there) == 0 &&
	    here.st_dev == there.st_dev;
	for (int i = 0; i < SCENES; i++) {
		struct run r = { .scene = &scenes[i], .calls = calls[i] };

		snprintf(world.what, sizeof(world.what), "%s, in peace",
		    scenes[i].name);
		run_scene(&r);
		scene_survey(r.scene);
	}
}

static long
calls_of(int scene, long number)
{
	long n = 0;

	for (long i = 0; i < NUMBERS; i++)
		n += number == ANY || number == i ? calls[scene][i] : 0;
	return n;
}

static void
say_what(const struct scene *scene, const struct fault *f, long at, long number)
{
	if (f->error == 0)
		snprintf(world.what, sizeof(world.what),
		    "%s, killed at %ld, before %s", scene->name, at,
		    call_name(number));
	else
		snprintf(world.what, sizeof(world.what),
		    "%s, %s number %ld answers %s", scene->name,
		    call_name(f->call), at, strerrorname_np(f->error));
}

/* Let one call fail, or be the last; survey what has come of it.  How many
 * calls there are varies from run to run, for some commits take two messages at
 * once: where this one is not made, try the last that was.  False: in vain. */
static bool
strike_one(const struct scene *scene, const struct fault *f, long at)
{
	struct run r = { 0 };

	for (int i = 0; i < AGAIN && !r.met; i++) {
		r = (struct run){ .scene = scene, .at = at, .fail = f->call,
			.error = f->error };
		say_what(scene, f, at, ANY);
		run_scene(&r);
		say_what(scene, f, at, r.number);
		if (f->error != 0)
			check_end(&r);
		scene_survey(scene);
		for (int n = 0; n < scene->queued; n++)
			survey_seed(n, false);
		if (!r.met && r.count > 0)
			at = r.count;
	}
	return r.met;
}

/* A row's so manyth call, counted from 0 through all scenes. */
static bool
strike_nth(const struct fault *f, long n)
{
	int scene = 0;

	while (n >= calls_of(scene, f->call))
		n -= calls_of(scene++, f->call);
	return strike_one(&scenes[scene], f, n + 1);
}

/* A worker's part of all runs of these rows: each takes the next one. */
static long
strike_all(const struct fault *rows, int n_rows, long step)
{
	long runs = 0, turn = 0, mine = atomic_fetch_add(&shared->next, 1);

	for (int i = 0; i < n_rows; i++) {
		long total = 0;

		for (int s = 0; s < SCENES; s++)
			total += calls_of(s, rows[i].call);
		long least = step < total ? step : total;

		for (long n = least > 0 ? starts[i] % least : 0; n < total;
		     n += step) {
			if (turn++ != mine)
				continue;
			bool fired = strike_nth(&rows[i], n);

			atomic_fetch_add(&shared->fired[i], fired);
			runs += fired;
			mine = atomic_fetch_add(&shared->next, 1);
		}
	}
	return runs;
}

static long
crash_all(long worker, long step)
{
	(void)worker;
	return strike_all(&killed, 1, step);
}

static long
fault_all(long worker, long step)
{
	(void)worker;
	return strike_all(faults, FAULTS, step);
}

/* Can no scene come to this? */
static bool
is_beyond(long call)
{
	bool copies = call == SYS_sendfile;

#ifdef SYS_rename
	copies |= call == SYS_rename;
#endif
	return copies && one_fs;
}

/* How many rows never fired, or have a call without a name. */
static int
count_idle(void)
{
	int idle = 0;

	for (int i = 0; i < FAULTS; i++) {
		const struct fault *f = &faults[i];
		bool fired = atomic_load(&shared->fired[i]) > 0;
		bool named = strcmp(call_name(f->call), another_call) != 0;

		if (!fired)
			printf("%s has never answered %s%s\n",
			    call_name(f->call), strerrorname_np(f->error),
			    is_beyond(f->call) ? ": one file system" : "");
		if (!named)
			printf("call %ld has no name\n", f->call);
		idle += !named || (!fired && !is_beyond(f->call));
	}
	return idle;
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

	for (long at = first, silent = 0; silent < AGAIN; at += step) {
		struct run r = { .scene = &drain, .at = at, .fail = ANY,
			.beside = look_and_delete };

		snprintf(world.what, sizeof(world.what),
		    "-q, -d and a second server at call %ld", at);
		silent = run_scene(&r) ? 0 : silent + 1;
		check_end(&r);
		scene_survey(&drain);
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
		scene_survey(&drain);
		for (int i = 0; i < drain.queued; i++)
			survey_seed(i, word != NULL && i == 1);
		runs++;
	}
}

static long
beside_all(long worker, long step)
{
	long first = 1 + starts[0] % step + worker * step;

	step *= WORKERS;
	return beside_server(first, step) +
	    beside_option("-q", NULL, first, step) +
	    beside_option("-d", doomed, first, step);
}

/* ---- main ---------------------------------------------------------------- */

static const struct mode {
	const char *name, *says;
	long (*all)(long worker, long step);
} modes[] = {
	{ "crash", "killed before a system call", crash_all },
	{ "fault", "a call that failed once", fault_all },
	{ "beside", "-q, -d and a second server", beside_all },
};

/* What a worker did goes to the pipe. */
static void
work(const struct mode *mode, const char *binary, long worker, long step,
    int out)
{
	worlds_begin(binary);
	long did[2] = { mode->all(worker, step), 0 };

	worlds_end();
	did[1] = world.failures;
	if (write(out, did, sizeof(did)) != sizeof(did))
		exit(2);
	exit(world.failures > 0);
}

int
main(int argc, char **argv)
{
	long step = argc > 3 ? atol(argv[3]) : 1, runs = 0, failures;
	const struct mode *mode = modes, *end = modes + 3;
	int ends[2], status, bad = 0;
	long did[2];

	while (mode < end && (argc < 3 || strcmp(mode->name, argv[2]) != 0))
		mode++;
	if (mode == end || step < 1 || pipe(ends) < 0 ||
	    getrandom(starts, sizeof(starts), 0) != sizeof(starts)) {
		fprintf(stderr, "usage: torture SERVER crash|fault|beside"
		    " [N]\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (mode->all != beside_all) {
		worlds_begin(argv[1]);
		rehearse();
		worlds_end();
	}
	failures = world.failures;
	for (long worker = 0; worker < WORKERS; worker++)
		if (fork() == 0)
			work(mode, argv[1], worker, step, ends[1]);
	while (wait(&status) > 0)
		bad |= status;
	close(ends[1]);
	while (read(ends[0], did, sizeof(did)) == sizeof(did)) {
		runs += did[0];
		failures += did[1];
	}
	if (mode->all == fault_all)
		failures += count_idle();
	printf("%s: %ld runs, every %ld, %ld failures\n", mode->says, runs,
	    step, failures);
	return bad != 0 || failures > 0 || runs == 0;
}
