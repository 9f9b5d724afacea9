/*
 * draft.c -- files before they are messages, and after.
 *
 * What this is
 *	Where a message's two files are while they are written, and what
 *	becomes of them when it has left the queue.  Two tricks live here, so
 *	that spool.c need not know of them.
 * Call it in this order
 *	draft_start(); for each file draft_new() or draft_reuse(), perhaps
 *	draft_show(), draft_end(), draft_link(), draft_drop(); when its message
 *	is done draft_leave(); after syncs draft_synced() or draft_forget().
 * A typical sequence, with break draft_reuse in gdb
 *	do_data -> spool_open -> draft_reuse ... spool_commit -> write_envelope
 *	-> draft_reuse;  turns later job_over -> spool_remove -> draft_leave
 * Always true
 *	Until it is linked, a draft has one name, in a folder of queue/.
 *	No octet of a file changes while somebody has it open, or it has any
 *	other name, or a power loss could bring one back that it had.
 * What it does not do
 *	Take files that POP3 has removed.  Exercise: what would they need?
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include "mailserv.h"

enum {
	ID_SECONDS = 6,     /* in an id: see draft_new() */
	SPARES_MAX = 1000,  /* files: so many 20 busy sessions come to use */
	SPARE_SIZE = 65536, /* octets: of all spares no more than 64 MiB */
};

void
draft_start(void)
{
	int flags = 0;
	struct drafts *drafts = &srv.drafts;

	drafts->first = drafts->safe = drafts->end = 0;
	/* Ext4 shall put each folder in it into a block group of its own
	 * choice, far from the others.  Other file systems cannot. */
	if (ioctl(drafts->groups, FS_IOC_GETFLAGS, &flags) == 0) {
		flags |= FS_TOPDIR_FL;
		if (ioctl(drafts->groups, FS_IOC_SETFLAGS, &flags) == 0)
			return;
	}
	if (drafts->groups >= 0)
		close(drafts->groups);
	drafts->groups = -1;
}

/* ---- new files ----------------------------------------------------------- */

/* Make a draft in this folder, "" or "16/".  O_EXCL, because what has the name
 * already is somebody's; O_RDWR, because maildrop_copy() reads it. */
static bool
make_in(struct draft *d, int at, const char *folder, const char *name)
{
	d->at = at;
	d->held = 0;
	snprintf(d->name, sizeof(d->name), "%s%s", folder, name);
	d->fd = openat(at, d->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC,
	    0600);
	return d->fd >= 0;
}

/*
 * Ext4 without a journal gives the number of a removed file to no other for a
 * minute, and until then looks at it again for every new file of that block
 * group: after some thousand messages removed, this takes longer than all the
 * rest.  The group is that of the folder in which a file is made.  So it is
 * made in one that is another every second, and the same again after four
 * minutes.  To receive 4,000 messages and pass them on took 0.2 ms of processor
 * each, where it was 1.4.  The price: 35 lines.
 *
 *	6445941624000e5f	an id, which is also a clock:
 *	      ^^		these digits count 1.05 s (2^20 us) each,
 *	queue/.groups/16/	and so name its folder
 *
 * That folder is there, but for the first time, so that openat() goes before
 * mkdir().  Where neither works, tmp/ takes the draft, which is only slower.
 */
bool
draft_new(struct draft *d, const char *name)
{
	char folder[4];
	int groups = srv.drafts.groups;

	snprintf(folder, sizeof(folder), "%.2s/", name + ID_SECONDS);
	if (groups >= 0 &&
	    (make_in(d, groups, folder, name) ||
		(mkdirat(groups, folder, 0700) == 0 &&
		    make_in(d, groups, folder, name))))
		return true;
	return make_in(d, srv.drafts.tmp, "", name);
}

/* Only what takes more than one turn to come is shown, because the move costs a
 * message some 7 microseconds, and nobody sees what is there for one turn. */
void
draft_show(struct draft *d, const char *name)
{
	int tmp = srv.drafts.tmp;

	/* Where it cannot be shown, nothing is lost. */
	if (d->fd < 0 || d->at == tmp ||
	    renameat(d->at, d->name, tmp, name) < 0)
		return;
	/* Nor shall what a spare held be shown behind what was written. */
	(void)draft_end(d, (size_t)lseek(d->fd, 0, SEEK_CUR));
	d->at = tmp;
	snprintf(d->name, sizeof(d->name), "%s", name);
}

bool
draft_link(const struct draft *d, int at, const char *name)
{
	return linkat(d->at, d->name, at, name, 0) == 0;
}

void
draft_drop(struct draft *d)
{
	if (d->fd < 0)
		return;
	close(d->fd);
	unlinkat(d->at, d->name, 0);
	d->fd = -1;
}

/* ---- spares: files that are written over --------------------------------- */

/*
 * A file that leaves the queue becomes a spare, and a later draft is written
 * over what it holds, because making, filling and removing two files for each
 * message is most of what passing it on costs a disk: 6,000 messages are
 * received and passed on at 5,400 a second, and at 3,100 without spares.  The
 * price: 100 lines, and a rule.  As long as no sync has seen its old names go,
 * a power loss may bring them back, and another's message would be found under
 * them: in queue/, or in the mailbox of a user who was quick to delete it.
 *
 *	queue/.spares/	0 ... first ...... safe ......... end
 *			taken       may be       left since
 *			            taken        the last sync
 *
 * A draft made of one keeps its name there until it is linked: a crash in the
 * middle of writing leaves what a start removes.  Where the next one is no
 * good, a new file is made instead of looking on.
 */
static bool
take_spare(struct draft *d)
{
	struct drafts *drafts = &srv.drafts;
	struct stat st;

	if (drafts->first == drafts->safe)
		return false;
	d->at = drafts->spares;
	snprintf(d->name, sizeof(d->name), "%u", drafts->first++);
	d->fd = openat(d->at, d->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	/* A backup may have given it a name again.  And who has it open, an
	 * owner who retrieves it, or cat(1), would read on in what we write:
	 * a lease is granted only where nobody has.  It was only to tell, and
	 * is given back at once: the owner has no name left to open. */
	if (d->fd >= 0 && fstat(d->fd, &st) == 0 && S_ISREG(st.st_mode) &&
	    st.st_nlink == 1 && fcntl(d->fd, F_SETLEASE, F_WRLCK) == 0 &&
	    fcntl(d->fd, F_SETLEASE, F_UNLCK) == 0) {
		d->held = st.st_size;
		return true;
	}
	if (d->fd >= 0)
		close(d->fd);
	unlinkat(d->at, d->name, 0);
	return false;
}

bool
draft_reuse(struct draft *d, const char *name)
{
	return take_spare(d) || draft_new(d, name);
}

/* Without it the rest of a longer file that this one was would stand behind: in
 * an envelope, the `to` lines of another message. */
bool
draft_end(const struct draft *d, size_t len)
{
	return d->held <= (off_t)len || ftruncate(d->fd, (off_t)len) == 0;
}

/* No spare becomes what a mailbox has, too, nor what is large: its octets would
 * use up the disk.  And none where syncfs() is not to be trusted, because only
 * draft_synced() moves `safe` on: they would be gathered for nothing. */
bool
draft_leave(const char *name)
{
	char spare[16];
	struct stat st;
	int queue = srv.spool.dir;
	struct drafts *drafts = &srv.drafts;

	snprintf(spare, sizeof(spare), "%u", drafts->end);
	if (!srv.spool.use_syncfs ||
	    drafts->end - drafts->first == SPARES_MAX ||
	    fstatat(queue, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    st.st_nlink > 1 || st.st_size > SPARE_SIZE ||
	    renameat(queue, name, drafts->spares, spare) < 0)
		return unlinkat(queue, name, 0) == 0;
	drafts->end++;
	return true;
}

/* Small commits are synced file by file, which makes no spare safe: of one
 * client alone, all would wait for ever.  A hundred of them are worth a
 * syncfs(). */
bool
draft_unsynced(void)
{
	return srv.drafts.end - srv.drafts.safe >= SPARES_MAX / 10;
}

void
draft_synced(void)
{
	srv.drafts.safe = srv.drafts.end;
}

/* Also those that are safe, because a disk that is full needs their room: 136
 * spares filled one of 4 MB, and all mail was refused until the next start. */
void
draft_forget(void)
{
	char spare[16];
	struct drafts *drafts = &srv.drafts;

	for (; drafts->first != drafts->end; drafts->first++) {
		snprintf(spare, sizeof(spare), "%u", drafts->first);
		unlinkat(drafts->spares, spare, 0);
	}
	drafts->safe = drafts->end;
}
