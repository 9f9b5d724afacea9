/*
 * mailserv.c -- the program: options, configuration, signals, the turn.
 *
 * What this is
 *	main(), and server_turn(), which is the server: read it first.
 * Call it in this order
 *	Nobody calls this file.  main() reads the configuration, opens the
 *	spool and the ports, gives up its privileges, and turns.
 * A typical sequence, with break server_turn in gdb
 *	main -> conf_load -> spool_start -> open_ports -> become -> queue_load
 *	-> server_turn, server_turn, server_turn ...
 * Always true
 *	SIGHUP reads a new configuration; sessions keep the one that they
 *	began with.
 *	Handlers of signals only set a flag.
 * What it does not do
 *	Turn itself into a daemon: run it under systemd or in a terminal.
 */
#include "mailserv.h"
#include <crypt.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

/* CHECKS=1, the tests' server: the invariants of net.c and smtp.c are looked
 * at after every turn.  For others two walks over all connections would be
 * too dear.  A constant: so the compiler sees the checks in every build. */
#ifndef CHECKS
#define CHECKS 0
#endif
static const bool checks = CHECKS;

enum {
	SPARE_FILES = 256, /* descriptors for files, relays, look-ups */
	LAST_WORDS = 5,    /* seconds, for clients who do not read their 421 */
	HOLD = 5, /* ms that a 250 may wait for others to share a sync */
};

struct server srv;
int log_level;

/* ---- start --------------------------------------------------------------- */

static const char *const kind_name[] = {
	[KIND_SMTP] = "SMTP",
	[KIND_POP3] = "POP3",
	[KIND_DNS] = "DNS",
};

/* Open all addresses that we listen on.  An exit status, its reason logged.
 * One that fails ends the start: to hear on the others would seem to work. */
static int
open_ports(void)
{
	char text[PEER_TEXT];

	for (enum kind kind = 0; kind < NELEM(kind_name); kind++)
		for (size_t i = 0; i < srv.conf->listen[kind].n; i++) {
			const union address *a = &srv.conf->listen[kind].v[i];
			bool ok = kind != KIND_DNS || /* asked by UDP, too */
			    net_listen(kind, a, SOCK_DGRAM) != NULL;

			ok = ok && net_listen(kind, a, SOCK_STREAM) != NULL;
			address_format(a, true, text);
			if (!ok) {
				log_event(PART_MAIN, "-",
				    "cannot listen on %s: %s", text,
				    strerror(errno));
				return EX_UNAVAILABLE;
			}
			log_event(PART_MAIN, "-", "%s on %s", kind_name[kind],
			    text);
		}
	return 0;
}

/* For good: no way back, no groups, no new privileges by execve().  First all
 * of root's ids, so that nothing hangs on which of them open_spool_as(), or a
 * set-user-ID bit, has left.  The user comes after the groups, which only root
 * may give up.  At last not dumpable, whatever fs.suid_dumpable says: else
 * another process of this user could read passwords in our memory, by ptrace(2)
 * or /proc. */
static int
become(const struct passwd *pw)
{
	if (setresuid(0, 0, 0) < 0 || setgroups(0, NULL) < 0 ||
	    setresgid(pw->pw_gid, pw->pw_gid, pw->pw_gid) < 0 ||
	    setresuid(pw->pw_uid, pw->pw_uid, pw->pw_uid) < 0 ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) {
		log_event(PART_MAIN, "-", "run_as %s: %s", pw->pw_name,
		    strerror(errno));
		return EX_OSERR;
	}
	return 0;
}

/* Open the spool by the rights of the user whom we will become, and who is
 * given its folder where that is made here.  lchown(), because somebody may
 * have put a symbolic link in its place since: then the link is given away, not
 * what it leads to.  Only the effective ids change, for root must come back to
 * open the ports; the group stays, and become() sets all of it. */
static int
open_spool_as(const struct passwd *pw)
{
	const char *path = srv.conf->data_dir;

	if (mkdir(path, 0700) == 0 && lchown(path, pw->pw_uid, pw->pw_gid) < 0)
		log_event(PART_MAIN, "-", "%s: %s", path, strerror(errno));
	if (setegid(pw->pw_gid) < 0 || seteuid(pw->pw_uid) < 0)
		return EX_OSERR;
	int status = spool_start(srv.conf);

	return seteuid(0) < 0 ? EX_OSERR : status;
}

/* The spool is opened first: the lock tells that another server runs, before
 * a port that is in use could.  Files that root makes would be root's, and
 * ports below 1024 want root, hence the to and fro:
 *
 *	root     data_dir, if there is none
 *	run_as       the folders in it, the lock
 *	root     the ports
 *	run_as       the queue, and the first octet from a stranger
 */
static int
open_everything(void)
{
	const char *user = geteuid() == 0 ? srv.conf->run_as : NULL;
	const struct passwd *pw = user != NULL ? getpwnam(user) : NULL;

	if (user != NULL && pw == NULL) { /* checked, but it may fail now */
		log_event(PART_MAIN, "-", "run_as %s: %s", user,
		    strerror(errno));
		return EX_OSERR;
	}
	if (geteuid() == 0 && user == NULL)
		log_event(PART_MAIN, "-",
		    "warning: running as root: see run_as");
	int status = pw != NULL ? open_spool_as(pw) : spool_start(srv.conf);

	if (status == 0)
		status = open_ports();
	if (status == 0 && pw != NULL)
		status = become(pw);
	return status;
}

/* As many descriptors as we may have; fewer clients where they are few, because
 * a client that is let in needs files: DATA opens one.  Not to be let in is
 * better than a 451 after all of the content.  Relays may want more than
 * SPARE_FILES: one that finds none is tried again later. */
static void
raise_limit(void)
{
	struct rlimit limit;
	struct conf *conf = srv.conf;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		log_event(PART_MAIN, "-", "RLIMIT_NOFILE: %s", strerror(errno));
	unsigned few = limit.rlim_cur > 2 * SPARE_FILES ?
	    (unsigned)limit.rlim_cur - SPARE_FILES :
	    (unsigned)limit.rlim_cur / 2 + 1;

	if (conf->max_clients <= few)
		return;
	conf->max_clients = few;
	log_event(PART_MAIN, "-",
	    "warning: max_clients is %u, for there are no more descriptors",
	    conf->max_clients);
}

static void
on_signal(int number)
{
	if (number == SIGHUP)
		srv.reload = 1;
	else if (number == SIGUSR1)
		srv.flush = 1;
	else
		srv.stop = 1;
}

/* Signals are blocked except while net_wait() sleeps: so they cut no other
 * system call short, and no turn sees a flag change.  One that comes while the
 * queue is read waits for the first turn. */
static void
catch_signals(void)
{
	static const int caught[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1 };
	struct sigaction action = { .sa_handler = on_signal };
	sigset_t mask;

	sigemptyset(&mask);
	for (size_t i = 0; i < NELEM(caught); i++) {
		sigaddset(&mask, caught[i]);
		sigaction(caught[i], &action, NULL);
	}
	sigprocmask(SIG_BLOCK, &mask, NULL);
	signal(SIGIO, SIG_IGN);   /* of a lease: see take_spare() */
	signal(SIGPIPE, SIG_IGN); /* a lost log must not end the server, */
	signal(SIGXFSZ, SIG_IGN); /* nor a limit on files: EFBIG tells */
}

/*
 * Free the configurations that SIGHUP replaced and no session uses now:
 *
 *	srv.conf -> now        refs 7
 *	older    -> replaced   refs 1     a client is still in its session
 *	older    -> replaced   refs 0     goes
 */
static void
conf_sweep(void)
{
	for (struct conf **at = &srv.conf->older; *at != NULL;) {
		struct conf *old = *at;

		if (old->refs > 0) {
			at = &old->older;
			continue;
		}
		*at = old->older;
		conf_free(old);
	}
}

/* ---- the turn ------------------------------------------------------------ */

/* A turn's end: replies leave, and who is finished is closed and forgotten.
 * net_settle() closes, the others free what it has closed, and with the last
 * session of a configuration that goes, too: in this order all of it happens in
 * one turn. */
static void
end_turn(void)
{
	net_settle();
	dns_reap();
	smtp_reap();
	pop3_reap();
	relay_reap();
	conf_sweep();
	if (checks) {
		net_check();
		smtp_check();
	}
}

/*
 * Is it worth to let the commit wait for one more turn?  While clients come, or
 * are heard that have not sent their last dot, the next turn may bring that
 * too, for the same two syncs; server_turn() gives them a millisecond.  15,000
 * messages of 20 sessions, a connection for each: 2,000 to 2,300 syncs, where
 * it was 3,900 to 6,500.  A client alone does not wait.
 *
 *	turn 1   A's dot; B is heard, in RCPT   wait: at most HOLD from now
 *	turn 2   B is heard, in DATA            wait
 *	turn 3   B's dot, and nobody else       two syncs, and a 250 for both
 */
static bool
commit_waits(void)
{
	msec until = srv.held != 0 ? srv.held : srv.now + HOLD;
	bool more = srv.spool.commit != NULL && srv.smtp_heard &&
	    srv.now < until;

	srv.held = more ? until : 0;
	srv.smtp_heard = false;
	return more;
}

/*
 * One turn of the server's life, which begins at `until` at the latest.  Read
 * this first.  The order is that in which things need each other:
 *
 *	dns     an answer comes before queue_serve() looks for it, or each
 *		look-up would take a turn more
 *	smtp    ETRN and the last dots come before the queue and the commit
 *	queue   its reports are synced with what has just come in
 *	commit  and only then 250, which leaves in end_turn(), in this turn
 */
static void
server_turn(msec until)
{
	/* The only call that waits for a peer. */
	net_wait(srv.held != 0 ? srv.now + 1 : until);

	dns_serve();
	smtp_serve();
	pop3_serve();
	queue_serve();

	if (!commit_waits()) {
		queue_commit(); /* all that has come is made durable at once */
		smtp_answer();  /* the 250s that waited for it */
	}

	end_turn();
}

/* SIGHUP: take a new configuration, if all of it is right.  Half of it would be
 * worse than the old one: without its users a domain refuses all mail.  The
 * queue is read again, for the operator may have put messages back.
 *
 * data_dir is not taken: queue/ is open and locked below the old one, and mail/
 * is found by that path.  They change places, so that each is freed once. */
static void
conf_reload(void)
{
	struct diag diag = { .errors = 0 };
	struct conf *now = srv.conf;
	struct conf *new = conf_load(now->file, &diag);

	if (diag.errors > 0) {
		log_event(PART_MAIN, "-",
		    "configuration kept: errors=%u in the new one",
		    diag.errors);
		conf_free(new);
		return;
	}
	if (!conf_same_outside(now, new))
		log_event(PART_MAIN, "-",
		    "listeners, data_dir and run_as do"
		    " not change before the next start");
	char *data_dir = new->data_dir;

	new->data_dir = now->data_dir;
	now->data_dir = data_dir;
	new->older = now;
	srv.conf = new;
	raise_limit();
	log_event(PART_MAIN, "-", "configuration read again");
	if (!queue_load(false))
		log_event(PART_MAIN, "-", "the queue could not be read: %s",
		    strerror(errno));
}

/* SIGHUP and SIGUSR1, between two turns: in the middle of one, a session might
 * have looked at the old configuration, and go on with the new one.  SIGHUP is
 * first, so that everything is tried by what has just been read. */
static void
obey_signals(void)
{
	bool reload = srv.reload, flush = srv.flush;

	srv.reload = srv.flush = 0;
	if (reload)
		conf_reload();
	if (flush)
		queue_flush();
}

/* First the commit, which may be held: who waits for its 250 can be told
 * nothing else before it.  Nobody new comes in; everybody hears 421 or -ERR,
 * but for clients of the DNS, which has no such word; a message that is on its
 * way to a host may arrive; then, or in five seconds, the end.  A host that has
 * not answered by then may have taken it, and gets it twice. */
static void
server_stop(void)
{
	log_event(PART_MAIN, "-", "stopping");
	queue_commit();
	smtp_answer();
	for (int kind = 0; kind < N_KINDS; kind++) {
		struct conn *c;

		for (size_t at = 0; (c = net_walk((enum kind)kind, &at));)
			if (c->listening || kind == KIND_DNS)
				net_drop(c);
			else if (kind == KIND_SMTP)
				smtp_stop(c);
			else if (kind == KIND_POP3)
				pop3_stop(c);
	}
	queue_stop();
	end_turn();
	msec end = srv.now + LAST_WORDS * SECOND;

	while ((srv.net.n_clients > 0 || srv.queue.n_attempts > 0) &&
	    srv.now < end)
		server_turn(end);
	log_event(PART_MAIN, "-", "stopped");
	fflush(stderr);
}

/* On a terminal, without a configuration: what a newcomer may type. */
static void
hint(void)
{
	if (srv.conf->file != NULL || !isatty(STDERR_FILENO))
		return;
	fprintf(stderr,
	    "\nTry, in another terminal (or by hand: nc -C 127.0.0.1 2525):\n"
	    "  echo 'Subject: hello' | curl --crlf smtp://127.0.0.1:2525"
	    " --mail-from bob@localhost --mail-rcpt alice@localhost -T -\n"
	    "  curl pop3://alice:alice@127.0.0.1:1110/1\n\n");
}

/* What others must not read comes first: the mask, before a file is made.
 * Signals are caught before the lock is taken and ports are open, so that a
 * SIGTERM to a server that starts ends it like any other. */
static int
run_server(void)
{
	/* No core is written, for it would hold passwords; gdb needs none.  At
	 * a limit of 0 Linux still feeds a program that core_pattern names, at
	 * 1 nobody.  It fails only where the limit is 0 already. */
	(void)setrlimit(RLIMIT_CORE, &(struct rlimit){ 1, 1 });
	umask(077);
	raise_limit();
	catch_signals();
	int status = open_everything();

	if (status != 0)
		return status;
	if (!queue_load(true)) {
		log_event(PART_MAIN, "-", "the queue: %s", strerror(errno));
		return EX_OSERR;
	}
	if (srv.conf->time_scale != 1 || srv.conf->n_faults > 0)
		log_event(PART_MAIN, "-",
		    "laboratory: time_scale=%u faults=%zu",
		    srv.conf->time_scale, srv.conf->n_faults);
	log_event(PART_MAIN, "-", "ready as %s", srv.conf->hostname);
	hint();
	while (!srv.stop) {
		server_turn(queue_due());
		obey_signals();
	}
	server_stop();
	return 0;
}

/* ---- the other things that mailserv does --------------------------------- */

/* -H: a password from standard input, as crypt(3) keeps it.  By SHA-512, which
 * takes a millisecond, because the server does nothing else meanwhile: yescrypt
 * takes 16.  The price is that who steals the users file guesses faster. */
static int
hash_password(void)
{
	char *line = NULL;
	size_t cap = 0;

	if (getline(&line, &cap, stdin) < 0 || line[0] == '\n') {
		fprintf(stderr, "mailserv: no password\n");
		free(line);
		return EX_USAGE;
	}
	line[strcspn(line, "\r\n")] = '\0';
	const char *salt = crypt_gensalt("$6$", 0, NULL, 0);
	const char *hash = salt != NULL ? crypt(line, salt) : NULL;
	bool good = hash != NULL && hash[0] == '$';

	if (good)
		printf("{CRYPT}%s\n", hash);
	else
		fprintf(stderr,
		    "mailserv: crypt(3) does not take it: is it too long?\n");
	explicit_bzero(line, cap);
	free(line);
	return good ? 0 : EX_DATAERR;
}

/* The route to one domain, waited for in turns of its own: there is no server,
 * so nothing else can be ready.  How long a look-up waits is in the deadline of
 * its connection. */
static int
explain_domain(const char *domain)
{
	struct route *route = route_begin(domain);
	enum route_state state;

	if (route == NULL)
		return EX_OSERR;
	while ((state = route_step(route)) == ROUTE_ASKING) {
		net_wait(NEVER);
		dns_serve();
		net_settle();
		dns_reap();
	}
	route_print(route);
	route_free(route);
	if (state == ROUTE_IMPOSSIBLE)
		return EX_NOHOST;
	return state == ROUTE_UNKNOWN ? EX_TEMPFAIL : 0;
}

/* Is it an address, in < and > or not, or a user's name?  It is cut out.  What
 * is so long that its '>' is lost was too long for a path without it. */
static bool
address_cut(const char *text, struct path *path)
{
	char whole[PATH_MAX_SMTP + 3];
	bool bracket = text[0] == '<';

	snprintf(whole, sizeof(whole), bracket ? "%s" : "<%s>", text);
	path->end = path_skip(whole, path);
	if (path->end != NULL)
		return *path->end == '\0';
	snprintf(path->mailbox, sizeof(path->mailbox), "%s", text);
	return user_find(srv.conf, text) != NULL ||
	    strcasecmp(text, "postmaster") == 0;
}

/* -r ADDRESS: by what RCPT would do, so that it cannot tell anything else.  The
 * message is only in memory: it is never opened. */
static int
explain(const char *text)
{
	struct path path = { .fault = "" };
	const char *address = path.mailbox;
	int status = 0;

	if (!address_cut(text, &path)) {
		fprintf(stderr, "mailserv: %s: no address: %s\n", text,
		    path.fault);
		return EX_USAGE;
	}
	struct msg *m = spool_begin("");

	if (m == NULL || !place_add(srv.conf, m, address))
		return EX_OSERR;
	for (size_t i = 0; i < m->locals.n; i++)
		printf("%s: mailbox of %s, here\n", address, m->locals.v[i]);
	for (size_t i = 0; i < m->remotes.n; i++) {
		/* What has no @ is one of ours: see place.c. */
		int one = explain_domain(strrchr(m->remotes.v[i], '@') + 1);

		status = one != 0 ? one : status;
	}
	if (m->locals.n + m->remotes.n == 0) {
		printf("%s: no such user here\n", address);
		status = EX_NOUSER;
	}
	spool_drop(m);
	return status;
}

static const char usage[] =
    "usage: mailserv [-c FILE] [-v]       run; -v traces every line\n"
    "       mailserv [-c FILE] -n         check the configuration\n"
    "       mailserv [-c FILE] -q         list the queue\n"
    "       mailserv [-c FILE] -r ADDRESS explain the route to an address\n"
    "       mailserv [-c FILE] -d ID...   delete messages from the queue\n"
    "       mailserv -H                   hash a password\n"
    "       mailserv -h | -V              help, version\n";

/* What was asked for, once the configuration is good. */
static int
do_mode(int mode, char **words)
{
	net_start();
	if (mode == 'q')
		return spool_list(srv.conf);
	if (mode == 'r')
		return explain(words[0]);
	if (mode == 'd')
		return spool_delete(srv.conf, words);
	return mode == 'n' ? 0 : run_server();
}

/* Read the configuration, and do with it what was asked. */
static int
with_conf(const char *file, int mode, char **words)
{
	struct diag diag = { .quiet = mode != 0 && mode != 'n' };

	srv.serving = mode == 0;
	clock_read(); /* for the log: no turn has begun */
	if (file == NULL && access("mailserv.conf", F_OK) == 0)
		file = "mailserv.conf";
	struct conf *conf = conf_load(file, &diag);

	if (diag.errors > 0) {
		conf_free(conf);
		return diag.no_memory ? EX_OSERR : EX_CONFIG;
	}
	srv.conf = conf;
	int status = do_mode(mode, words);

	conf_sweep();
	conf_free(srv.conf); /* SIGHUP may have brought another one */
	return status;
}

/* Which mode do the options ask for?  '?': none that there is, or two.  0: to
 * run. */
static int
parse_options(int argc, char **argv, const char **file)
{
	int mode = 0, option;

	opterr = 0; /* the usage says it all */
	while ((option = getopt(argc, argv, "c:vnqrdHhV")) != -1) {
		if (option == 'c')
			*file = optarg;
		else if (option == 'v')
			log_level = 1;
		else if (option == '?' || mode != 0)
			mode = '?';
		else
			mode = option;
	}
	int words = argc - optind;
	bool fit = mode == 'r' ? words == 1 :
	    mode == 'd'        ? words >= 1 :
				 words == 0;

	return fit ? mode : '?';
}

/* The log leaves once a turn, by one write, before net_wait() sleeps; on a
 * terminal each line at once.  A server that is killed loses the last turn's.
 * What a mode prints may be lost on a full disk: the exit status says so. */
int
main(int argc, char **argv)
{
	const char *file = NULL;
	int mode = parse_options(argc, argv, &file);

	if (mode == 'h' || mode == 'V') {
		printf("%s", mode == 'h' ? usage : "mailserv " VERSION "\n");
		return 0;
	}
	if (mode == '?') {
		fputs(usage, stderr);
		return EX_USAGE;
	}
	if (isatty(STDERR_FILENO))
		setvbuf(stderr, NULL, _IOLBF, BUFSIZ);
	else
		setvbuf(stderr, NULL, _IOFBF, LARGE_BUF);
	int status = mode == 'H' ? hash_password() :
				   with_conf(file, mode, argv + optind);

	return fflush(stdout) == 0 && !ferror(stdout) ? status : EX_IOERR;
}
