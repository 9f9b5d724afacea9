/*
 * draft.h -- what draft.c offers: files before they are messages, and after.
 * mailserv.h includes it.
 */
#ifndef DRAFT_H
#define DRAFT_H

#include <stdbool.h>
#include <sys/types.h>

/* A file that is written, and not yet in the queue, nor in a mailbox. */
struct draft {
	int fd;        /* -1: there is none */
	int at;        /* the folder below queue/ where it has its name */
	char name[32]; /* a number, or the message's own */
	off_t held;    /* octets of another message that it held, or 0 */
};

/* Where drafts lie; draft.c owns it. */
struct drafts {
	int tmp;    /* those that are shown: queue/tmp */
	int groups; /* the others: queue/.groups, or -1; see draft_new() */
	int spares; /* queue/.spares; see draft_reuse() */
	unsigned first, safe, end; /* numbers of spares: see take_spare() */
};

/* Begin without spares, once srv.drafts.groups is open or -1; it is closed, and
 * -1, where the file system has no block groups. */
void draft_start(void);

/* Make a draft, whose name begins with an id; draft_reuse(): or take one that
 * has left the queue, to be written from its beginning.  False: errno. */
bool draft_new(struct draft *d, const char *name);
bool draft_reuse(struct draft *d, const char *name);

/* It takes its time: who looks into queue/tmp shall find it under this name. */
void draft_show(struct draft *d, const char *name);

/* All `len` octets of it have been written.  False: errno. */
bool draft_end(const struct draft *d, size_t len);

/* Give it another name, somewhere.  False: errno. */
bool draft_link(const struct draft *d, int at, const char *name);

/* Close it; its own name goes, and those of draft_link() stay. */
void draft_drop(struct draft *d);

/* Take a name out of queue/; its file may become a spare.  False: errno. */
bool draft_leave(const char *name);

/* Of the spares.  draft_synced(): all of the file system has been synced, and
 * they may be written over; it is time for that when draft_unsynced().
 * draft_forget(): a sync has failed, so that they never may, or the disk is
 * full: they go. */
bool draft_unsynced(void);
void draft_synced(void);
void draft_forget(void);

#endif
