/*
 * power.c -- the promise, when the power fails: a message answered 250 is
 * never lost, and nothing that is not whole has ever a name.
 *
 *	power SERVER [STATES] [SEED]
 *
 * A scene is recorded: every call with which the server changes what lies
 * below data_dir, every sync, and every 250 after a dot.  Then it is replayed.
 * After each call the power fails, and a disk may have kept any of many
 * states: what a sync has covered is there; of what came later, any part:
 *
 *	data	of a file: none of what was written since its last sync, its
 *		beginning, all; or its size, and zeros or garbage in it
 *	names	in a folder: each one made, removed or replaced since the
 *		folder's last sync, or not; only on one name they keep their
 *		order, and what rename() moved is never in neither place
 *
 * A sync of a file covers its data and not its name; that of a folder its
 * names and neither its own name nor the data of what they name; syncfs()
 * covers all of its file system.  That is what POSIX allows, and less than
 * any file system of today does: what holds here needs no knowledge of them.
 *
 * All states of a point are tried where there are no more than STATES; else
 * so many are drawn, and always: nothing kept, everything, only the names,
 * only the data.  Each becomes a data_dir; a server is started on it, and what
 * comes of it is held against what had been promised by then.
 *
 * At last the syncs fail, one in each recording: what they should have covered
 * of files' data is gone for good, though the server can still read it, and
 * later syncs tell nothing (Linux does so).  What is promised must hold.
 */
#include "scene.h"
#include <sys/random.h>

#ifndef SYS_mkdir /* where these are made of others */
#define SYS_mkdir (-2)
#define SYS_unlink (-3)
#define SYS_rename (-4)
#endif

enum {
	WORKERS = 2,
	NODES = 4096, /* files and folders of one recording */
	FDS = 256,    /* descriptors of the server */
	PIECES = 512, /* that may be kept or not, at one point */
	FILE_MAX = 1 << 20,
	STATES = 24,  /* of a point, where the user does not say */
	SEEN = 1 << 20,
	ENOUGH = 10, /* failures: a worker goes no further */
	DRAIN = 5,   /* seconds, for a queue of a few messages */
};

/* ---- what is recorded ---------------------------------------------------- */

/* A file or folder; its number is for life, its names may change. */
struct node {
	bool folder;
	bool other_fs; /* syncfs() of the queue's does not reach it */
	int in;	       /* the folder that it was made in */
	char *base, *now; /* content before the scene, and as it is read now */
	size_t base_len, now_len;
};

/* A name in a folder. */
struct entry {
	int folder, node;
	const char *name;
};

struct tree {
	struct entry *v;
	size_t n;
};

enum kind { /* up to UNNAME, something that a sync may cover */
	WRITE,	/* data, at, len: into node */
	CUT,	/* node is len long */
	NAME,	/* in folder stands for node; old too: it no longer does */
	UNNAME, /* no longer in folder; after: only if that NAME was kept */
	SYNC,	/* node */
	SYNC_FS,
	PROMISE, /* 250 for this mail */
};

struct op {
	enum kind kind;
	int node, folder;
	const char *name, *old;
	char *data;
	size_t at, len;
	size_t after;	/* UNNAME: 1 + the op that is the other half, or 0 */
	int mail;	/* PROMISE */
	bool failed;	/* SYNC, SYNC_FS */
	size_t durable; /* the sync that covers it, or 0 */
	size_t lost;	/* the sync that should have, and failed; or 0 */
	/* What else was known at this moment. */
	unsigned came; /* mails in carol's mailbox; then seeds */
	int n_uids, deleted;
	bool quit_said;
};

/* What the server's descriptors stand for. */
struct file {
	int node; /* -1: none of ours */
	size_t at;
	bool append;
};

struct recording {
	const struct scene *scene;
	struct op *ops; /* ops[0] is nothing: the moment before */
	size_t n, room;
	struct node nodes[NODES];
	int n_nodes;
	struct tree base, now;
	struct file fds[FDS];
	char uids[UIDS][UID_LEN];
	long syncs, fail; /* how many there were; which one is to fail, or 0 */
	size_t fired;	  /* the op that it became */
};

/*
 * What the power of one moment leaves: something pending that a disk has kept
 * or not.  choice is one of radix ways.  A name: 0 lost, 1 kept.  A file's data,
 * of so many writes: 0 to `writes`, so many of them from the first on are kept;
 * then three more in which all were begun: writes + 1, the lengths came and
 * zeros for the data; + 2, and garbage; + 3, of the last only the first half.
 */
struct piece {
	size_t op; /* a name */
	int node;  /* or a file's data: -1 for a name */
	int radix, choice, writes;
};

struct point {
	size_t at; /* ops up to this one have been called */
	struct piece pieces[PIECES];
	int n;
};

static long points, states;
static int worker;
static uint64_t seed, draw_state;

/* ---- small things -------------------------------------------------------- */

/* Chance of our own (Steele, Lea, Flood: splitmix64), because a SEED must draw
 * the same states on every machine, whatever its libc. */
static uint64_t
draw(void)
{
	uint64_t z = draw_state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static uint64_t
sum(uint64_t h, const void *data, size_t len)
{
	const unsigned char *at = data;
	uint64_t eight;

	for (; len >= 8; len -= 8, at += 8) {
		memcpy(&eight, at, 8);
		h = (h ^ eight) * 0x9e3779b97f4a7c15u;
		h ^= h >> 29;
	}
	for (; len > 0; len--)
		h = (h ^ *at++) * 0x100000001b3u;
	return h;
}

static int
tree_find(const struct tree *t, int folder, const char *name)
{
	for (size_t i = 0; i < t->n; i++)
		if (t->v[i].folder == folder && strcmp(t->v[i].name, name) == 0)
			return (int)i;
	return -1;
}

/* Let a name stand for a node, or, -1, for none. */
static void
tree_set(struct tree *t, int folder, const char *name, int node)
{
	int at = tree_find(t, folder, name);

	if (at < 0 && node >= 0) {
		t->v = must(realloc(t->v, (t->n + 1) * sizeof(*t->v)));
		at = (int)t->n++;
		t->v[at] = (struct entry){ folder, node, name };
	} else if (at >= 0 && node >= 0) {
		t->v[at].node = node;
	} else if (at >= 0) {
		t->v[at] = t->v[--t->n];
	}
}

static void
tree_apply(struct tree *t, const struct op *op)
{
	if (op->kind == NAME && op->old != NULL)
		tree_set(t, op->folder, op->old, -1);
	tree_set(t, op->folder, op->name, op->kind == NAME ? op->node : -1);
}

/* A file or folder, on the file system of the folder that it is made in. */
static int
new_node(struct recording *r, bool folder, int in)
{
	if (r->n_nodes == NODES)
		give_up("too many files");
	r->nodes[r->n_nodes] = (struct node){ .folder = folder, .in = in,
		.other_fs = r->nodes[in].other_fs };
	return r->n_nodes++;
}

/* Data into a buffer that grows: what is skipped is zeros. */
static void
put_data(char **to, size_t *len, const struct op *op, size_t part)
{
	size_t end = op->at + part;

	if (end > FILE_MAX)
		give_up("too large a file");
	if (end > *len) {
		*to = must(realloc(*to, end));
		memset(*to + *len, 0, end - *len);
		*len = end;
	}
	if (part > 0)
		memcpy(*to + op->at, op->data, part);
}

/* ---- recording ----------------------------------------------------------- */

/* Everything below a folder, as it is before the scene; of the world's own
 * folder, only a-data. */
static void
load_folder(struct recording *r, int folder, const char *path)
{
	DIR *dir = must(opendir(path));
	struct stat st, top;
	char below[PATH_MAX];

	for (struct dirent *e; (e = readdir(dir)) != NULL;) {
		if (strcmp(e->d_name, ".") == 0 ||
		    strcmp(e->d_name, "..") == 0 ||
		    (folder == 0 && strcmp(e->d_name, "a-data") != 0))
			continue;
		snprintf(below, sizeof(below), "%s/%s", path, e->d_name);
		if (stat(below, &st) < 0 || stat(world.dir, &top) < 0)
			give_up(below);
		int node = new_node(r, S_ISDIR(st.st_mode), folder);
		struct node *n = &r->nodes[node];

		n->other_fs = st.st_dev != top.st_dev;
		tree_set(&r->base, folder, must(strdup(e->d_name)), node);
		if (n->folder) {
			load_folder(r, node, below);
			continue;
		}
		struct op all = { .data = (char *)get_file(below, &all.len) };

		put_data(&n->base, &n->base_len, &all, all.len);
		put_data(&n->now, &n->now_len, &all, all.len);
	}
	closedir(dir);
}

/* Which mail is it? */
static bool came_text[MAILS + SEEDS];

static void
note_mail(const char *folder, const char *name)
{
	char path[PATH_MAX];
	int n;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	const char *subject = strstr(get_file(path, NULL), "Subject: ");

	if (subject != NULL && sscanf(subject, "Subject: mail-%d.", &n) == 1)
		came_text[n] = true;
	if (subject != NULL && sscanf(subject, "Subject: queued-%d.", &n) == 1)
		came_text[MAILS + n] = true;
}

/* What has come to carol, as a set.  B is another machine: its power stays. */
static unsigned
what_came(void)
{
	unsigned came = 0;

	memset(came_text, 0, sizeof(came_text));
	each_file(path_of("b-data/mail/carol/new"), note_mail);
	for (unsigned i = 0; i < MAILS + SEEDS; i++)
		came |= came_text[i] ? 1u << i : 0;
	return came;
}

/* One more op; it happens now. */
static struct op *
add_op(struct recording *r, enum kind kind)
{
	if (r->n == r->room) {
		r->room = r->room * 2 + 64;
		r->ops = must(realloc(r->ops, r->room * sizeof(*r->ops)));
	}
	r->ops[r->n] = (struct op){ .kind = kind, .mail = -1,
		.came = what_came(), .n_uids = world.told->n_uids,
		.deleted = world.told->deleted,
		.quit_said = world.told->quit_said };
	return &r->ops[r->n++];
}

/* A name, or one less; the server sees it at once. */
static struct op *
add_name(struct recording *r, int folder, const char *name, int node)
{
	struct op *op = add_op(r, node >= 0 ? NAME : UNNAME);

	op->folder = folder;
	op->name = must(strdup(name));
	op->node = node;
	return op;
}

/* A path of the server's: the folder of its last name, that name in leaf, and
 * its node.  folder -1: it leads out of a-data. */
struct place {
	int folder, node;
	char leaf[NAME_MAX + 1];
};

static struct place
find_place(struct recording *r, pid_t pid, uint64_t dirfd, uint64_t path)
{
	char text[PATH_MAX], *save = NULL;
	struct place p = { .folder = -1, .node = 0 };

	traced_string(pid, path, text);
	size_t home = strlen(world.dir);
	char *from = text;

	if (strncmp(text, world.dir, home) == 0 && text[home] == '/')
		from += home;
	else if (text[0] == '/')
		return (struct place){ .folder = -1, .node = -1 };
	else if ((int)dirfd != AT_FDCWD)
		p.node = (int)dirfd < FDS ? r->fds[(int)dirfd].node : -1;
	for (char *name = strtok_r(from, "/", &save); name != NULL;
	     name = strtok_r(NULL, "/", &save)) {
		if (strcmp(name, ".") == 0)
			continue;
		if (strcmp(name, "..") == 0 && p.node > 0) {
			p.node = r->nodes[p.node].in;
			continue;
		}
		if (p.node < 0 || (p.node == 0 && strcmp(name, "a-data") != 0))
			return (struct place){ .folder = -1, .node = -1 };
		int at = tree_find(&r->now, p.node, name);

		p.folder = p.node;
		p.node = at >= 0 ? r->now.v[at].node : -1;
		snprintf(p.leaf, sizeof(p.leaf), "%s", name);
	}
	return p;
}

static void
did_open(struct recording *r, struct place p, int flags, int fd)
{
	if (p.folder >= 0 && p.node < 0) {
		p.node = new_node(r, false, p.folder);
		tree_apply(&r->now, add_name(r, p.folder, p.leaf, p.node));
	} else if (p.node > 0 && flags & O_TRUNC) {
		add_op(r, CUT)->node = p.node;
		r->nodes[p.node].now_len = 0;
	}
	if (fd >= FDS)
		give_up("too many descriptors");
	r->fds[fd] = (struct file){ p.node, 0, (flags & O_APPEND) != 0 };
}

static void
did_write(struct recording *r, struct file *f, char *data, size_t len)
{
	struct node *n = &r->nodes[f->node];
	struct op *op = add_op(r, WRITE);

	op->node = f->node;
	op->data = data;
	op->len = len;
	op->at = f->append ? n->now_len : f->at;
	f->at = op->at + len;
	put_data(&n->now, &n->now_len, op, len);
}

/* Is what was said to a client a promise?  Several may be in it. */
static void
did_say(struct recording *r, const char *text)
{
	static const char words[] = " is on stable storage";
	char name[24];
	int mail;

	for (const char *at = text; (at = strstr(at, words)) != NULL; at++) {
		snprintf(name, sizeof(name), "%.16s.msg", at - 16);
		for (size_t i = 1; i < r->n; i++) {
			const struct op *op = &r->ops[i];

			if (op->kind != NAME || strcmp(op->name, name) != 0)
				continue;
			const struct node *n = &r->nodes[op->node];
			const char *subject = memmem(n->now, n->now_len,
			    "Subject: mail-", 14);

			if (subject == NULL ||
			    sscanf(subject, "Subject: mail-%d.", &mail) != 1)
				give_up("a promise of something unknown");
			add_op(r, PROMISE)->mail = mail;
			break;
		}
	}
}

/* write(), pwrite(), sendto(): to a file of ours, or to a client. */
static void
did_put(struct recording *r, pid_t pid, const struct call *call)
{
	size_t len = (size_t)call->result;
	struct file *f = &r->fds[call->args[0]];
	char *data = must(calloc(1, len + 1));

	if (traced_read(pid, call->args[1], data, len) != len)
		give_up("cannot read what was written");
	if (f->node > 0 && call->number == SYS_pwrite64) {
		struct file there = { f->node, call->args[3], false };

		did_write(r, &there, data, len);
	} else if (f->node > 0) {
		did_write(r, f, data, len);
	} else {
		did_say(r, data);
		free(data);
	}
}

/* The next piece of a file into another one: its offset is said. */
static void
did_sendfile(struct recording *r, pid_t pid, const struct call *call)
{
	size_t len = (size_t)call->result;
	struct node *from = &r->nodes[r->fds[call->args[1]].node];
	off_t end;
	char *data = must(malloc(len + 1));

	if (traced_read(pid, call->args[2], &end, sizeof(end)) != sizeof(end) ||
	    (size_t)end > from->now_len || (size_t)end < len)
		give_up("sendfile");
	memcpy(data, from->now + (size_t)end - len, len);
	did_write(r, &r->fds[call->args[0]], data, len);
}

/* Does a sync cover this op? */
static bool
covers(const struct recording *r, const struct op *sync, const struct op *op)
{
	bool name = op->kind == NAME || op->kind == UNNAME;
	int node = name ? op->folder : op->node;

	if (op->kind >= SYNC || op->durable != 0 || op->lost != 0)
		return false;
	if (sync->kind == SYNC_FS)
		return r->nodes[node].other_fs == r->nodes[sync->node].other_fs;
	return node == sync->node;
}

/* A sync that fails loses data; the names of a folder wait on, in memory. */
static void
did_sync(struct recording *r, const struct call *call, bool failed)
{
	struct op *sync = add_op(r, call->number == SYS_syncfs ? SYNC_FS : SYNC);
	size_t at = r->n - 1;

	sync->node = r->fds[call->args[0]].node;
	sync->failed = failed;
	if (failed)
		r->fired = at;
	for (size_t i = 1; i < at; i++) {
		struct op *op = &r->ops[i];

		if (!covers(r, sync, op))
			continue;
		if (!failed)
			op->durable = at;
		else if (op->kind == WRITE || op->kind == CUT)
			op->lost = at;
	}
}

static void
did_rename(struct recording *r, struct place from, struct place to)
{
	if (from.folder == to.folder) {
		struct op *op = add_name(r, to.folder, to.leaf, from.node);

		op->old = must(strdup(from.leaf));
		tree_apply(&r->now, op);
		return;
	}
	tree_apply(&r->now, add_name(r, to.folder, to.leaf, from.node));
	struct op *op = add_name(r, from.folder, from.leaf, -1);

	op->after = r->n - 1;
	tree_apply(&r->now, op);
}

/* A call that takes a path, or two, has been made.  The places were looked up
 * before it, when the names were there still. */
static void
did_names(struct recording *r, const struct call *call, struct place p,
    struct place q)
{
	switch (call->number) {
	case SYS_openat:
		did_open(r, p, (int)call->args[2], (int)call->result);
		return;
	case SYS_mkdirat:
	case SYS_mkdir:
		p.node = new_node(r, true, p.folder);
		break;
	case SYS_linkat:
		tree_apply(&r->now, add_name(r, q.folder, q.leaf, p.node));
		return;
	case SYS_renameat:
	case SYS_rename:
		did_rename(r, p, q);
		return;
	default: /* unlink */
		p.node = -1;
	}
	tree_apply(&r->now, add_name(r, p.folder, p.leaf, p.node));
}

/* Calls with paths: whether they say from which folder, and how many. */
static bool
takes_paths(long number, bool *at, bool *two)
{
	*at = number != SYS_mkdir && number != SYS_unlink &&
	    number != SYS_rename;
	*two = number == SYS_linkat || number == SYS_renameat ||
	    number == SYS_rename;
	return !*at || *two || number == SYS_openat || number == SYS_mkdirat ||
	    number == SYS_unlinkat;
}

/* Before a call that takes paths: where do they lead? */
static void
look_up(struct recording *r, pid_t pid, const struct call *call,
    struct place place[2])
{
	const uint64_t *a = call->args;
	bool at, two;

	place[0] = place[1] = (struct place){ .folder = -1, .node = -1 };
	if (!takes_paths(call->number, &at, &two))
		return;
	place[0] = at ? find_place(r, pid, a[0], a[1]) :
			find_place(r, pid, (uint64_t)AT_FDCWD, a[0]);
	if (two)
		place[1] = at ? find_place(r, pid, a[2], a[3]) :
				find_place(r, pid, (uint64_t)AT_FDCWD, a[1]);
}

static bool
is_sync(long number)
{
	return number == SYS_fsync || number == SYS_fdatasync ||
	    number == SYS_syncfs;
}

/* A call on a descriptor has been made. */
static void
did_descriptor(struct recording *r, pid_t pid, const struct call *call)
{
	struct file *f = &r->fds[call->args[0] % FDS];

	switch (call->number) {
	case SYS_write:
	case SYS_pwrite64:
	case SYS_sendto:
		did_put(r, pid, call);
		break;
	case SYS_sendfile:
		if (f->node > 0)
			did_sendfile(r, pid, call);
		break;
	case SYS_lseek:
		f->at = (size_t)call->result;
		break;
	case SYS_read:
		f->at += (size_t)call->result;
		break;
	case SYS_ftruncate:
		if (f->node > 0) {
			struct op *op = add_op(r, CUT);

			op->node = f->node;
			op->len = (size_t)call->args[1];
			r->nodes[f->node].now_len = op->len;
		}
		break;
	case SYS_close:
		f->node = -1;
		break;
	case SYS_dup:
		r->fds[call->result] = *f;
		break;
	case SYS_fcntl:
		if (call->args[1] == F_DUPFD_CLOEXEC)
			r->fds[call->result] = *f;
		break;
	case SYS_writev:
	case SYS_pwritev:
	case SYS_copy_file_range:
	case SYS_fallocate:
		if (f->node > 0)
			give_up("a call that is not followed");
	}
}

/* The server stands before or after a call. */
static void
watch(void *recording, pid_t pid, const struct call *call)
{
	struct recording *r = recording;
	static struct place place[2];
	static bool failing;
	bool at, two;

	if (call->entry) {
		look_up(r, pid, call, place);
		failing = is_sync(call->number) &&
		    r->fds[call->args[0]].node >= 0 && ++r->syncs == r->fail;
		if (failing) {
			traced_skip(pid);
			world.told->fired = true;
		}
	} else if (failing) {
		traced_answer(pid, -EIO);
		did_sync(r, call, true);
		failing = false;
	} else if (call->result >= 0) {
		if (takes_paths(call->number, &at, &two)) {
			if (place[0].folder >= 0 ||
			    call->number == SYS_openat)
				did_names(r, call, place[0], place[1]);
		} else if (is_sync(call->number)) {
			did_sync(r, call, false);
		} else {
			did_descriptor(r, pid, call);
		}
	}
}

static uint64_t hash_now(const struct recording *r);

/* Play a scene, and keep all that the server does; fail: let its so manyth
 * sync fail.  What we have followed must be what is there in the end. */
static struct recording *
record(const struct scene *scene, long fail)
{
	struct recording *r = must(calloc(1, sizeof(*r)));
	struct recording *is = must(calloc(1, sizeof(*is)));
	const char *argv[] = { world.binary, "-c", "a.conf", NULL };

	snprintf(world.what, sizeof(world.what), "recording %s, sync %ld fails",
	    scene->name, fail);
	*r = (struct recording){ .scene = scene, .fail = fail };
	for (int i = 0; i < FDS; i++)
		r->fds[i].node = -1;
	scene_begin();
	if (scene->seed != NULL)
		scene->seed();
	new_node(r, true, 0);
	load_folder(r, 0, world.dir);
	r->now.v = must(malloc(r->base.n * sizeof(*r->base.v) + 1));
	r->now.n = r->base.n;
	memcpy(r->now.v, r->base.v, r->base.n * sizeof(*r->base.v));
	add_op(r, SYNC);
	int status = watch_all(scene->play,
	    traced_start(argv, path_of("a.log"), world.dir), watch, r);

	if (fail == 0 && status != 0)
		complain("the server ended with status %x", (unsigned)status);
	memcpy(r->uids, world.told->uids, sizeof(r->uids));

	new_node(is, true, 0);
	load_folder(is, 0, world.dir);
	is->now = is->base;
	if (hash_now(is) != hash_now(r))
		give_up("the recording is not what happened");
	free(is);
	return r;
}

/* ---- what a disk may have kept ------------------------------------------- */

/* Has a sync that came by then covered it?  Or failed to? */
static bool
is_durable(const struct op *op, size_t at)
{
	return op->durable != 0 && op->durable <= at;
}

static bool
is_lost(const struct op *op, size_t at)
{
	return op->lost != 0 && op->lost <= at;
}

static bool
is_name(const struct op *op)
{
	return op->kind == NAME || op->kind == UNNAME;
}

/* What is pending at this point: names one by one, data by file. */
static void
find_pieces(const struct recording *r, struct point *p)
{
	p->n = 0;
	for (size_t i = 1; i <= p->at; i++) {
		const struct op *op = &r->ops[i];
		int k = 0;

		if (op->kind >= SYNC || is_durable(op, p->at) ||
		    is_lost(op, p->at))
			continue;
		if (p->n == PIECES)
			give_up("too much is pending");
		if (is_name(op)) {
			p->pieces[p->n++] = (struct piece){ .op = i,
				.node = -1, .radix = 2 };
			continue;
		}
		while (k < p->n && p->pieces[k].node != op->node)
			k++;
		if (k == p->n)
			p->pieces[p->n++] = (struct piece){ .node = op->node };
		p->pieces[k].writes++;
		p->pieces[k].radix = p->pieces[k].writes + 4;
	}
}

static int
choice_of(const struct point *p, size_t op, int node)
{
	for (int k = 0; k < p->n; k++)
		if (node >= 0 ? p->pieces[k].node == node :
				p->pieces[k].op == op)
			return p->pieces[k].choice;
	return 0;
}

/* Has an earlier op on the same name been left out? */
static bool
is_blocked(const struct recording *r, const struct op *op, const bool *out)
{
	for (const struct op *o = r->ops + 1; o < op; o++)
		if (out[o - r->ops] && o->folder == op->folder &&
		    (strcmp(o->name, op->name) == 0 ||
		    (o->old != NULL && strcmp(o->old, op->name) == 0) ||
		    (op->old != NULL && strcmp(o->name, op->old) == 0)))
			return true;
	return false;
}

/* The names that were kept. */
static void
keep_names(const struct recording *r, const struct point *p, struct tree *t)
{
	bool *out = must(calloc(r->n, sizeof(*out)));

	t->n = r->base.n;
	t->v = must(realloc(t->v, (t->n + r->n) * sizeof(*t->v)));
	memcpy(t->v, r->base.v, t->n * sizeof(*t->v));
	for (size_t i = 1; i <= p->at; i++) {
		const struct op *op = &r->ops[i];

		if (!is_name(op))
			continue;
		if (is_durable(op, p->at)) {
			/* Gone from there for ever: so it has come here. */
			if (op->after != 0 && out[op->after - 1])
				tree_apply(t, &r->ops[op->after - 1]);
			tree_apply(t, op);
			continue;
		}
		out[i] = choice_of(p, i, -1) == 0 ||
		    is_blocked(r, op, out) ||
		    (op->after != 0 && out[op->after - 1]);
		if (!out[i])
			tree_apply(t, op);
	}
	free(out);
}

/* A pending write or cut, the nth of its file: what of it does piece keep?
 * `extra` is one of the last three ways, 1 to 3, or not above 0. */
static void
keep_some(const struct op *op, int nth, const struct piece *piece, char **data,
    size_t *len)
{
	int extra = piece->choice - piece->writes;
	struct op other = *op;

	if (extra <= 0) {
		if (nth >= piece->choice)
			return;
	} else if (op->kind == WRITE && extra < 3) { /* the size came first */
		other.data = must(malloc(op->len + 1));
		memset(other.data, extra == 1 ? '\0' : '?', op->len);
	} else if (op->kind == WRITE && nth == piece->writes - 1) {
		other.len /= 2;
	}
	if (op->kind == CUT)
		*len = op->len < *len ? op->len : *len;
	else
		put_data(data, len, &other, other.len);
	if (other.data != op->data)
		free(other.data);
}

/* The content that a file was left with; until the next call. */
static const char *
keep_data(const struct recording *r, const struct point *p, int node,
    size_t *len)
{
	static char *data;
	const struct node *n = &r->nodes[node];
	struct op base = { .data = n->base };
	struct piece none = { 0 }, *piece = &none;
	int nth = 0;

	for (int k = 0; k < p->n; k++)
		if (p->pieces[k].node == node)
			piece = (struct piece *)&p->pieces[k];
	*len = 0;
	data = must(realloc(data, 1));
	put_data(&data, len, &base, n->base_len);
	for (size_t i = 1; i <= p->at; i++) {
		const struct op *op = &r->ops[i];

		if ((op->kind != WRITE && op->kind != CUT) ||
		    op->node != node || is_lost(op, p->at))
			continue;
		if (!is_durable(op, p->at))
			keep_some(op, nth++, piece, &data, len);
		else if (op->kind == WRITE)
			put_data(&data, len, op, op->len);
		else
			*len = op->len < *len ? op->len : *len;
	}
	return data;
}

/* The sum of all that is reached from a folder, in whatever order. */
static uint64_t
hash_folder(const struct recording *r, const struct point *p,
    const struct tree *t, int folder)
{
	uint64_t all = 1;

	for (size_t i = 0; i < t->n; i++) {
		const struct entry *e = &t->v[i];
		uint64_t one = sum(3, e->name, strlen(e->name)), below;
		size_t len;

		if (e->folder != folder)
			continue;
		if (r->nodes[e->node].folder) {
			below = hash_folder(r, p, t, e->node);
		} else if (p != NULL) {
			const char *data = keep_data(r, p, e->node, &len);

			below = sum(len, data, len);
		} else {
			const struct node *n = &r->nodes[e->node];

			below = sum(n->now_len, n->now, n->now_len);
		}
		all += sum(one, &below, sizeof(below));
	}
	return all;
}

static uint64_t
hash_now(const struct recording *r)
{
	return hash_folder(r, NULL, &r->now, 0);
}

/* A state becomes a data_dir. */
static void
write_folder(const struct recording *r, const struct point *p,
    const struct tree *t, int folder, const char *path)
{
	char below[PATH_MAX];
	size_t len;

	for (size_t i = 0; i < t->n; i++) {
		const struct entry *e = &t->v[i];

		if (e->folder != folder)
			continue;
		snprintf(below, sizeof(below), "%s/%s", path, e->name);
		if (r->nodes[e->node].folder) {
			mkdir(below, 0700);
			write_folder(r, p, t, e->node, below);
			continue;
		}
		const char *data = keep_data(r, p, e->node, &len);
		int fd = open(below, O_WRONLY | O_CREAT | O_TRUNC, 0600);

		if (fd < 0 || write(fd, data, len) != (ssize_t)len)
			give_up(below);
		close(fd);
	}
}

/* ---- what had been promised ---------------------------------------------- */

/* What must be true at a point. */
struct promise {
	unsigned kept; /* mails that were answered 250 */
	unsigned came; /* mails and seeds that carol had by then */
	int n_uids, deleted, quit_said;
	int copies; /* at most, of what is sent or reported once more */
};

static struct promise
promised(const struct recording *r, size_t at)
{
	const struct op *now = &r->ops[at];
	struct promise p = { .came = now->came, .n_uids = now->n_uids,
		.deleted = now->deleted, .quit_said = now->quit_said,
		.copies = 2 };

	/* Each failure may cost a copy: a report is taken back when its sync
	 * fails, and then the power takes that back. */
	if (r->fired != 0 && r->fired <= at)
		p.copies++;
	for (size_t i = 1; i <= at; i++)
		if (r->ops[i].kind == PROMISE)
			p.kept |= 1u << r->ops[i].mail;
	return p;
}

/* One mail, after the power came back. */
static void
look_for_mail(int m, const struct promise *p)
{
	unsigned to = mails[m].to;
	bool never = mails[m].octets == TOO_BIG || mails[m].how == LEAVES;
	bool kept = p->kept >> m & 1;
	int once[2] = { kept, !never }, none[2] = { 0, 0 };
	int twice[2] = { kept, never ? 0 : p->copies };
	int again[2] = { kept && (p->came >> m & 1) == 0, twice[1] };
	char text[40];

	world.told->code[m] = kept ? 250 : 0;
	snprintf(text, sizeof(text), "Subject: mail-%d.\n", m);
	expect(m, "alice's", count_mail("a-data/mail/alice", text, false),
	    to & ALICE ? once : none);
	expect(m, "bob's", count_mail("a-data/mail/bob", text, false),
	    to & BOB ? once : none);
	expect(m, "carol's", count_mail("b-data/mail/carol", text, false),
	    to & CAROL ? again : none);
	expect(m, "reported", count_mail("a-data/mail/alice", text, true),
	    to & NOBODY ? twice : none);
}

/* Start a server on what was left; hold what comes of it against what was
 * promised.  What POP3 deleted after QUIT may be back: nobody promised. */
static void
survey(const struct recording *r, const struct promise *p)
{
	struct told *told = world.told;

	memset(told, 0, sizeof(*told));
	memcpy(told->uids, r->uids, sizeof(told->uids));
	told->n_uids = p->n_uids;
	told->deleted = p->deleted;
	told->quit_said = p->quit_said;
	if (!survey_restart(DRAIN))
		return;
	for (int m = 0; m < MAILS; m++)
		look_for_mail(m, p);
	for (int i = 0; i < r->scene->queued; i++)
		survey_seed(i, p->came >> (MAILS + i) & 1);
	each_file(path_of("a-data/queue"), is_left);
	in_drafts(is_left);
	look_into_failed(r->scene);
}

/* ---- replaying ----------------------------------------------------------- */

static const char *
op_text(const struct recording *r, const struct op *op)
{
	static const char *const kinds[] = { "write", "cut", "name", "unname",
		"sync", "sync all", "250" };
	static char text[8][200];
	static unsigned turn;
	char *to = text[turn++ % 8];
	const char *name = is_name(op) ? op->name : "";

	/* A file goes by the last name that it had by then. */
	for (const struct op *o = r->ops + 1; !is_name(op) && o < op; o++)
		if (o->kind == NAME && o->node == op->node)
			name = o->name;
	snprintf(to, 200, "%s %s (file %d, folder %d, %zu at %zu)%s",
	    kinds[op->kind], name, op->node, is_name(op) ? op->folder : 0,
	    op->len, op->at, op->failed ? " failed" : "");
	return to;
}

/* Which state was it that did not hold? */
static void
describe(const struct recording *r, const struct point *p)
{
	printf("  the power failed after: %s\n", op_text(r, &r->ops[p->at]));
	for (size_t i = 1; i <= p->at; i++) {
		const struct op *op = &r->ops[i];

		if (is_durable(op, p->at) || op->kind >= SYNC)
			continue;
		printf("  %s: %s", op_text(r, op),
		    is_lost(op, p->at) ? "lost for good" : "");
		if (is_lost(op, p->at))
			printf("\n");
		else if (is_name(op))
			printf("%s\n", choice_of(p, i, -1) ? "kept" : "not");
		else
			printf("state %d of its file\n",
			    choice_of(p, 0, op->node));
	}
	fflush(stdout);
}

/* Has this state been tried, or is it the other worker's?  The recordings with
 * a failure are nobody else's. */
static bool
is_mine(uint64_t hash, bool alone)
{
	static uint64_t *seen;
	size_t at = hash % SEEN;

	if (seen == NULL)
		seen = must(calloc(SEEN, sizeof(*seen)));
	if (!alone && (hash >> 40) % WORKERS != (uint64_t)worker)
		return false;
	while (seen[at] != 0 && seen[at] != hash)
		at = (at + 1) % SEEN;
	bool fresh = seen[at] == 0;

	seen[at] = hash;
	return fresh;
}

/* One state of a point: try it, unless it has been. */
static void
try_state(const struct recording *r, const struct point *p)
{
	static struct tree kept;
	struct promise promise = promised(r, p->at);
	long before = world.failures;

	keep_names(r, p, &kept);
	uint64_t hash = hash_folder(r, p, &kept, 0);

	hash = sum(hash, &promise, sizeof(promise));
	hash = sum(hash, r->scene->name, strlen(r->scene->name));
	if (world.failures >= ENOUGH || !is_mine(hash, r->fail != 0))
		return;
	states++;
	scene_begin();
	remove_tree(path_of("a-data"));
	write_folder(r, p, &kept, 0, world.dir);
	snprintf(world.what, sizeof(world.what), "%s, after %zu of %zu%s",
	    r->scene->name, p->at, r->n - 1, r->fail != 0 ?
	    ", where a sync had failed" : "");
	survey(r, &promise);
	if (world.failures > before)
		describe(r, p);
}

/* Every piece as a whole, or not at all. */
static void
keep(struct point *p, bool names, bool data)
{
	for (int k = 0; k < p->n; k++)
		if (p->pieces[k].node < 0)
			p->pieces[k].choice = names;
		else
			p->pieces[k].choice = data ? p->pieces[k].writes : 0;
}

/* Like the hand of a clock; false: it is where it began. */
static bool
next_choice(struct point *p)
{
	for (int k = 0; k < p->n; k++) {
		if (++p->pieces[k].choice < p->pieces[k].radix)
			return true;
		p->pieces[k].choice = 0;
	}
	return false;
}

/* Much of it was kept, or little, as chance wants. */
static void
draw_choice(struct point *p)
{
	uint64_t likely = 1 + draw() % 7;

	for (int k = 0; k < p->n; k++) {
		struct piece *piece = &p->pieces[k];

		if (piece->node < 0)
			piece->choice = draw() % 8 < likely;
		else if (draw() % 2)
			piece->choice = draw() % 8 < likely ? piece->writes : 0;
		else
			piece->choice = (int)(draw() % (uint64_t)piece->radix);
	}
}

/* The power fails after so many calls. */
static void
try_point(const struct recording *r, size_t at, long most)
{
	static struct point p;
	long all = 1;

	p.at = at;
	find_pieces(r, &p);
	for (int k = 0; k < p.n && all <= most; k++)
		all *= p.pieces[k].radix;
	points++;
	if (all <= most) {
		keep(&p, false, false);
		do
			try_state(r, &p);
		while (next_choice(&p));
		return;
	}
	for (int special = 0; special < 4; special++) {
		keep(&p, special & 1, special & 2);
		try_state(r, &p);
	}
	/* Anew for each point: what is drawn for it must not hang on which
	 * points this worker has had before. */
	draw_state = seed * 1000003 + at;
	for (long i = 4; i < most; i++) {
		draw_choice(&p);
		try_state(r, &p);
	}
}

/* ---- main ---------------------------------------------------------------- */

/* Every point of a recording. */
static void
replay(const struct recording *r, long most)
{
	for (size_t at = 0; at < r->n; at++)
		try_point(r, at, most);
}

/* Each sync that failed: the end, and two moments before. */
static void
replay_failures(const struct scene *scene, long syncs, long most)
{
	for (long fail = 1 + worker; fail <= syncs && world.failures < ENOUGH;
	     fail += WORKERS) {
		struct recording *r = record(scene, fail);

		if (r->fired == 0)
			continue;
		draw_state = seed + (uint64_t)fail;
		for (int i = 0; i < 2; i++)
			try_point(r, r->fired + draw() % (r->n - r->fired),
			    most);
		try_point(r, r->n - 1, most);
	}
}

/* One worker's part of the states; what it did goes to the pipe. */
static void
work(const char *binary, struct recording *const *r, long most, int out)
{
	worlds_begin(binary);
	for (int i = 0; i < SCENES; i++)
		replay(r[i], most);
	long did[3], shared = points;

	for (int i = 0; i < SCENES; i++)
		replay_failures(&scenes[i], r[i]->syncs, most);
	worlds_end();
	did[0] = worker == 0 ? points : points - shared;
	did[1] = states;
	did[2] = world.failures;
	if (write(out, did, sizeof(did)) != sizeof(did))
		exit(2);
	exit(world.failures > 0);
}

int
main(int argc, char **argv)
{
	static struct recording *r[SCENES];
	long most = argc > 2 ? atol(argv[2]) : STATES, did[3], all[3] = { 0 };
	int ends[2], status, bad;

	if (argc < 2 || most < 1 || pipe(ends) < 0 ||
	    getrandom(&seed, 4, 0) != 4) {
		fprintf(stderr, "usage: power SERVER [STATES] [SEED]\n");
		return 2;
	}
	seed = argc > 3 ? strtoull(argv[3], NULL, 10) : seed;
	signal(SIGPIPE, SIG_IGN);
	worlds_begin(argv[1]);
	for (int i = 0; i < SCENES; i++)
		r[i] = record(&scenes[i], 0);
	worlds_end();
	for (worker = 0; worker < WORKERS; worker++)
		if (fork() == 0)
			work(argv[1], r, most, ends[1]);
	bad = world.failures > 0;
	while (wait(&status) > 0)
		bad |= status;
	close(ends[1]);
	while (read(ends[0], did, sizeof(did)) == sizeof(did))
		for (int i = 0; i < 3; i++)
			all[i] += did[i];
	printf("power loss: %ld points, %ld states (seed %llu), %ld lost\n",
	    all[0], all[1], (unsigned long long)seed, all[2]);
	return bad != 0 || all[1] == 0;
}
