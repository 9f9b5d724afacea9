/*
 * draft.h -- what draft.c offers: files before they are messages, and the
 * folders of the state.  mailserv.h includes it.
 */
#ifndef DRAFT_H
#define DRAFT_H

#include <stdbool.h>

/* A file that is written, and not yet in the queue, nor in a mailbox. */
struct draft {
	int fd;        /* -1: there is none */
	int at;        /* the folder below queue/ where it has its name */
	char name[32]; /* the message's */
};

/* Where drafts lie; draft.c owns it. */
struct drafts {
	int tmp;    /* those that are shown: queue/tmp */
	int groups; /* the others: queue/.groups, or -1; see draft_new() */
};

/* The folders in srv.drafts are open. */
void draft_start(void);

/* Make a draft, whose name begins with an id.  False: errno. */
bool draft_new(struct draft *d, const char *name);

/* It takes its time: who looks into queue/tmp shall find it under this name. */
void draft_show(struct draft *d, const char *name);

/* Give it another name, somewhere.  False: errno. */
bool draft_link(const struct draft *d, int at, const char *name);

/* Close it; its own name goes, and those of draft_link() stay. */
void draft_drop(struct draft *d);

#endif
