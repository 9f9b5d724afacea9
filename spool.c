/*
 * spool.c -- messages on disk: the way in, the commit, envelopes.
 *
 * What this is
 *	All messages below queue/: from the first octet to the 250, what an
 *	envelope says, and how both leave again, also by hand (-q and -d).
 * Call it in this order
 *	spool_start(); for each message spool_begin(), place_add(),
 *	spool_open(), spool_write(), spool_submit(); at the end of the turn
 *	spool_commit(); when its outcome has been told, spool_drop().
 * A typical sequence, with break name_message in gdb
 *	spool_submit ... queue_commit -> spool_commit -> prepare ->
 *	sync_contents -> name_message -> sync_names -> smtp_answer
 * Always true
 *	A name in queue/ or in a mailbox is given only to content that is whole
 *	and durable: write, sync, name, sync, answer.
 *	A message is in the queue while its envelope has its name there.
 *	After a sync that failed nothing that was open is taken for written.
 * What it does not do
 *	Checksums: the order of the steps makes them needless.
 */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sysexits.h>
#include <unistd.h>
#include "mailserv.h"

enum {
	WRITE_BUF = 8192,     /* of content, before it is written */
	LARGE_PIECE = 262144, /* the same of large content: see spool_write() */
	PIECES_MAX = 32,      /* such buffers: 8 MiB; others have LARGE_BUF */
	SYNCFS_FROM = 3,      /* files: see sync_all_at_once() */
};

/* ---- the way in: M0, M1 -------------------------------------------------- */

/*
 * The next queue id, by whose digits a folder sorts in order of arrival:
 *
 *	6445941624000 e5f	hexadecimal
 *	microseconds  chance
 *
 * One that was used must never come again, or a POP3 client would take the
 * second message for one it has.  last_id sees to that in a run, and for all
 * that load_one() finds; for what has left, should the clock have been set back
 * before a start, chance does.
 */
static void
next_id(char *id)
{
	uint64_t draw = random_u64() & 0xfff;
	uint64_t next = ((uint64_t)srv.wall * 1000) << 12 | draw;

	if (next <= srv.spool.last_id)
		next = srv.spool.last_id + 1;
	srv.spool.last_id = next;
	snprintf(id, ID_LEN + 1, "%016" PRIx64, next);
}

/* "ID.msg" or "ID.env" in name[ID_LEN + 5].  Instead of an id it takes the name
 * of either file, too, which begins with it. */
static const char *
file_name(char *name, const char *id, const char *end)
{
	snprintf(name, ID_LEN + 5, "%.16s%s", id, end);
	return name;
}

struct msg *
spool_begin(const char *sender)
{
	struct msg *m = calloc(1, sizeof(*m));

	if (m == NULL)
		return NULL;
	m->sender = strdup(sender);
	if (m->sender == NULL) {
		free(m);
		return NULL;
	}
	next_id(m->id);
	m->content.fd = m->envelope.fd = -1;
	m->remotes.exact = true;
	m->arrived = (time_t)(srv.wall / 1000);
	return m;
}

/* Keep count of what POP3 and the next host want to know of the content.  Once
 * a buffer and eight octets at a time, for at 1 MiB a message it shows. */
static void
count_content(struct msg *m, const char *data, size_t len)
{
	const char *end = data + len;
	uint64_t seen = 0, eight;

	for (const char *nl = data;
	     (nl = memchr(nl, '\n', (size_t)(end - nl))) != NULL; nl++)
		m->lines++;
	for (; end - data >= 8; data += 8) {
		memcpy(&eight, data, 8);
		seen |= eight;
	}
	for (; data < end; data++)
		seen |= (unsigned char)*data;
	m->eightbit |= (seen & 0x8080808080808080) != 0;
}

/* Write all of it, or note why not.  A disk that fills up takes a part, and
 * only the next call is told ENOSPC. */
static void
write_all(struct msg *m, int fd, const char *data, size_t len)
{
	while (len > 0 && m->error == 0) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno != EINTR)
			m->error = errno;
		if (n > 0) {
			data += n;
			len -= (size_t)n;
		}
	}
}

/* A piece of the content goes to its file. */
static void
write_content(struct msg *m, const char *data, size_t len)
{
	count_content(m, data, len);
	write_all(m, m->content.fd, data, len);
	/* A full piece, or one that had no room for what came next, LARGE_BUF
	 * at most: the disk may begin with it while more comes.  730 messages
	 * of 1 MiB a second, where it was 510.  What fails here, the sync will
	 * tell. */
	if (len >= LARGE_PIECE - LARGE_BUF)
		(void)sync_file_range(m->content.fd, 0, 0,
		    SYNC_FILE_RANGE_WRITE);
}

/* What the buffer has gathered goes there. */
static void
write_gathered(struct msg *m)
{
	write_content(m, m->out.data + m->out.start, buf_used(&m->out));
	m->out.start = m->out.end = 0;
}

/* A failure is noted, and the client told after the dot, where it must be told
 * of writes that fail later anyway.  The epoch is that of now, because from now
 * on the file is open: see sync_failed(). */
void
spool_open(struct msg *m)
{
	char name[ID_LEN + 5], line[PATH_MAX_SMTP + 32];

	m->epoch = srv.spool.epoch;
	file_name(name, m->id, ".msg");
	/* In a mailbox it stays: a spare is better used for what leaves. */
	if (!(m->locals.n > 0 ? draft_new : draft_reuse)(&m->content, name)) {
		m->error = errno; /* ENOENT: tmp was removed: restart us */
		log_event(PART_QUEUE, m->id, "queue/tmp: %s", strerror(errno));
	} else if (!buf_size(&m->out, WRITE_BUF))
		m->error = ENOMEM;
	int len = snprintf(line, sizeof(line), "Return-Path: <%s>\n",
	    m->sender);

	m->head = (size_t)len;
	spool_write(m, line, (size_t)len);
}

void
spool_write(struct msg *m, const char *data, size_t len)
{
	if (m->error != 0 || len == 0)
		return;
	m->size += len;
	m->unfinished = data[len - 1] != '\n';
	if (buf_put(&m->out, data, len))
		return;
	write_gathered(m);
	/* More comes: fewer and larger pieces, if there is memory for them. */
	if (m->out.cap < LARGE_PIECE && srv.spool.pieces < PIECES_MAX &&
	    buf_size(&m->out, LARGE_PIECE))
		srv.spool.pieces++;
	else if (m->out.cap < LARGE_BUF)
		(void)buf_size(&m->out, LARGE_BUF);
	if (!buf_put(&m->out, data, len))
		write_content(m, data, len); /* more than the buffer holds */
}

void
spool_show(struct msg *m)
{
	char name[ID_LEN + 5];

	draft_show(&m->content, file_name(name, m->id, ".msg"));
}

/* What has failed is submitted, too, so that all hear in one place, after the
 * commit, what the disk has made of their message. */
void
spool_submit(struct msg *m)
{
	struct spool *spool = &srv.spool;

	if (m->error == 0)
		write_gathered(m);
	if (m->error == 0 && !draft_end(&m->content, m->size))
		m->error = errno;
	m->state = MSG_SUBMITTED;
	m->next = NULL;
	if (spool->commit == NULL)
		spool->commit = m;
	else
		spool->commit_tail->next = m;
	spool->commit_tail = m;
}

void
spool_drop(struct msg *m)
{
	assert(m->state != MSG_SUBMITTED);
	draft_drop(&m->content);
	draft_drop(&m->envelope);
	srv.spool.pieces -= m->out.cap == LARGE_PIECE;
	buf_free(&m->out);
	names_free(&m->locals);
	names_free(&m->remotes);
	free(m->sender);
	free(m);
}

/* ---- envelopes ----------------------------------------------------------- */

/* The lines that an envelope begins with; NOTES.md shows one. */
static void
put_envelope(FILE *f, const struct envelope *e, const struct names *to)
{
	fprintf(f, "arrived %lld\nsize %zu\nhead %zu\n", (long long)e->arrived,
	    e->size, e->head);
	if (e->octets > 0)
		fprintf(f, "octets %zu\n", e->octets);
	if (e->eightbit)
		fputs("eightbit\n", f);
	fprintf(f, "from %s\n", e->sender);
	for (size_t i = 0; i < to->n; i++)
		fprintf(f, "to %s\n", to->v[i]);
}

FILE *
spool_create(int at, const char *name)
{
	int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC;
	int fd = openat(at, name, flags, 0600);
	FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;

	if (f == NULL && fd >= 0) {
		close(fd);
		unlinkat(at, name, 0);
	}
	return f;
}

/* The envelope, from what the message knows.  It is made in memory, because
 * draft_end() must know where it ends: behind that may stand what a spare held.
 * stdio may tell of a lack of memory as late as in fclose(). */
static void
write_envelope(struct msg *m)
{
	char name[ID_LEN + 5], *text = NULL;
	size_t len = 0;
	struct envelope e = { .sender = m->sender,
		.arrived = m->arrived,
		.size = m->size + m->lines, /* with CRLF (RFC 1870 6) */
		.head = m->head,
		.octets = m->size,
		.eightbit = m->eightbit };
	FILE *f = open_memstream(&text, &len);
	bool ok = f != NULL;

	if (ok)
		put_envelope(f, &e, &m->remotes);
	ok = ok && !ferror(f);
	ok = f != NULL && fclose(f) == 0 && ok &&
	    draft_reuse(&m->envelope, file_name(name, m->id, ".env"));
	if (ok)
		write_all(m, m->envelope.fd, text, len);
	if (m->error == 0 && (!ok || !draft_end(&m->envelope, len)))
		m->error = errno;
	free(text);
}

/* It opens the file for each line, so that the queue holds no descriptors; and
 * never makes one: where -d took the envelope, a line would come back alone. */
void
spool_append(const char *id, const char *fmt, ...)
{
	char name[ID_LEN + 5], line[PATH_MAX_SMTP + REASON_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line) - 1, fmt, ap);
	va_end(ap);
	size_t len = strlen(line);

	/* What a host said may hold anything, and -q and cat will show it. */
	for (size_t i = 0; i < len; i++)
		if (line[i] < ' ' || line[i] > '~')
			line[i] = '?';
	line[len++] = '\n';
	int fd = openat(srv.spool.dir, file_name(name, id, ".env"),
	    O_WRONLY | O_APPEND | O_CLOEXEC);
	off_t end = fd >= 0 ? lseek(fd, 0, SEEK_END) : -1;

	if (end < 0 || write(fd, line, len) != (ssize_t)len) {
		log_event(PART_QUEUE, id, "envelope not updated: %s",
		    strerror(errno));
		/* Or the next line would hang on to the torn one. */
		if (end >= 0 && ftruncate(fd, end) < 0)
			log_event(PART_QUEUE, id, "a line is torn: %s",
			    strerror(errno));
	}
	if (fd >= 0)
		close(fd);
}

/* A line's value, if the line begins with this key; else NULL. */
static char *
value_of(char *line, const char *key)
{
	size_t len = strlen(key);

	if (strncmp(line, key, len) != 0 || line[len] != ' ')
		return NULL;
	return line + len + 1;
}

/* "to ADDRESS" */
static bool
read_to(struct envelope *e, const char *address)
{
	struct rcpt *rcpts = realloc(e->rcpts, (e->n + 1) * sizeof(*rcpts));

	if (rcpts == NULL)
		return false;
	e->rcpts = rcpts;
	rcpts[e->n] = (struct rcpt){ .address = strdup(address),
		.number = (unsigned)e->n + 1 };
	return rcpts[e->n++].address != NULL;
}

/* "done N", or "try N TRIES NEXT REPLY" */
static bool
read_outcome(struct envelope *e, const char *value, bool done)
{
	char *end;
	unsigned long number = strtoul(value, &end, 10);

	if (number < 1 || number > e->n)
		return true; /* of nobody here; who it meant is tried again */
	struct rcpt *r = &e->rcpts[number - 1];

	/* A torn "done 12" that another line hangs on to is not "done 1". */
	if (done) {
		r->state = *end == '\0' ? RCPT_DONE : r->state;
		return true;
	}
	r->tries = (unsigned)strtoul(end, &end, 10);
	r->next = (time_t)strtoll(end, &end, 10);
	free(r->reply);
	r->reply = strdup(*end == ' ' ? end + 1 : end);
	return r->reply != NULL;
}

/* A line that is a word; for "over" see spool_remove().  One that is not known
 * is a later version's, and skipped, so that one may go back to this one. */
static void
read_word(struct envelope *e, const char *line)
{
	if (strcmp(line, "eightbit") == 0)
		e->eightbit = true;
	else if (strcmp(line, "warned") == 0)
		e->warned = true;
	else if (strcmp(line, "over") == 0)
		for (size_t i = 0; i < e->n; i++)
			e->rcpts[i].state = RCPT_DONE;
}

/* One whole line of an envelope; false: no memory. */
static bool
read_line(struct envelope *e, char *line)
{
	char *value;

	if ((value = value_of(line, "to")) != NULL)
		return read_to(e, value);
	if ((value = value_of(line, "done")) != NULL)
		return read_outcome(e, value, true);
	if ((value = value_of(line, "try")) != NULL)
		return read_outcome(e, value, false);
	if ((value = value_of(line, "from")) != NULL) {
		free(e->sender);
		return (e->sender = strdup(value)) != NULL;
	}
	if ((value = value_of(line, "arrived")) != NULL)
		e->arrived = (time_t)strtoll(value, NULL, 10);
	else if ((value = value_of(line, "size")) != NULL)
		e->size = strtoul(value, NULL, 10);
	else if ((value = value_of(line, "head")) != NULL)
		e->head = strtoul(value, NULL, 10);
	else if ((value = value_of(line, "octets")) != NULL)
		e->octets = strtoul(value, NULL, 10);
	else
		read_word(e, line);
	return true;
}

/* No control characters?  A NUL is one, and would hide the rest of its line. */
static bool
is_printable(const char *line, size_t len)
{
	while (len > 0 && (unsigned char)line[len - 1] >= ' ')
		len--;
	return len == 0;
}

/* Can it be worked with?  sent_size() takes head from size; and what has no
 * recipients would be removed, as a message that everybody has. */
static bool
is_sound(const struct envelope *e)
{
	return e->sender != NULL && e->n > 0 && e->head <= e->size;
}

bool
spool_read(int dir, const char *id, struct envelope *e)
{
	char name[ID_LEN + 5], *line = NULL;
	size_t cap = 0;
	ssize_t len;
	int fd = openat(dir, file_name(name, id, ".env"),
	    O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	FILE *f = fd >= 0 ? fdopen(fd, "r") : NULL;
	bool ok = f != NULL;

	*e = (struct envelope){ 0 };
	snprintf(e->id, sizeof(e->id), "%s", id);
	/* Line by line: tries make it grow for days, to no size known before.
	 * A last line without its end is one that a crash cut off; but a read
	 * that fails is no end (feof()), or who stands behind it would be
	 * forgotten.  We write no control characters, and must not send a host
	 * those of others. */
	while (ok && (len = getline(&line, &cap, f)) > 0 &&
	    line[len - 1] == '\n') {
		line[len - 1] = '\0';
		ok = is_printable(line, (size_t)len - 1) && read_line(e, line);
	}
	free(line);
	ok = ok && feof(f) && is_sound(e);
	if (f != NULL)
		fclose(f);
	else if (fd >= 0)
		close(fd);
	if (!ok)
		spool_forget(e);
	return ok;
}

void
spool_forget(struct envelope *e)
{
	for (size_t i = 0; i < e->n; i++) {
		free(e->rcpts[i].address);
		free(e->rcpts[i].reply);
	}
	free(e->rcpts);
	free(e->sender);
	*e = (struct envelope){ 0 };
}

int
spool_content(const char *id)
{
	char name[ID_LEN + 5];

	/* -d takes the envelope first.  Without it there is no message: ENOENT,
	 * and its job ends.  Content that is missing beside its envelope is
	 * lost: ENODATA, and the job waits for it. */
	if (faccessat(srv.spool.dir, file_name(name, id, ".env"), F_OK, 0) < 0)
		return -1;
	int fd = openat(srv.spool.dir, file_name(name, id, ".msg"),
	    O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	if (fd < 0 && errno == ENOENT)
		errno = ENODATA;
	return fd;
}

void
spool_remove(const char *id)
{
	char name[ID_LEN + 5];

	/* The envelope first: without it the content is an orphan that
	 * recovery removes, and never a message.  Where it cannot go, it says
	 * that it is over, so that nobody gets the message once more. */
	if (!draft_leave(file_name(name, id, ".env")) && errno != ENOENT) {
		log_event(PART_QUEUE, id,
		    "not removed before the next start:"
		    " %s",
		    strerror(errno));
		spool_append(id, "over");
		return;
	}
	(void)draft_leave(file_name(name, id, ".msg"));
}

/* The pair there has an id of its own: while others still wait for the message,
 * it can be moved back beside them.  The link makes the id ours, and the
 * envelope comes last, whole.  What a crash cuts short is done again, and
 * leaves there the content alone, or a second pair: harmless, but the operator
 * who moves both back sends it twice. */
bool
spool_fail(const struct envelope *e, const struct names *to, char *id)
{
	char env[ID_LEN + 5], msg[ID_LEN + 5], queued[ID_LEN + 5];
	int tmp = srv.drafts.tmp, failed = srv.spool.failed;

	next_id(id);
	file_name(env, id, ".env");
	file_name(msg, id, ".msg");
	file_name(queued, e->id, ".msg");
	if (linkat(srv.spool.dir, queued, failed, msg, 0) < 0)
		return false;
	FILE *f = spool_create(tmp, env);
	bool ok = f != NULL;

	if (ok) {
		put_envelope(f, e, to);
		ok = fflush(f) == 0 && !ferror(f) && fsync(fileno(f)) == 0;
		ok = fclose(f) == 0 && ok;
	}
	ok = ok && renameat(tmp, env, failed, env) == 0 && fsync(failed) == 0;
	if (!ok) {
		unlinkat(tmp, env, 0);
		unlinkat(failed, env, 0);
		unlinkat(failed, msg, 0);
	}
	return ok;
}

/* ---- the commit: M2, M3 -------------------------------------------------- */

/* One sync has failed: what was being written may be lost, and the kernel
 * tells only once.  Nobody's 250 may stand on it.  Who is in the middle of DATA
 * now hears 451 after its dot, though the next sync succeeds: the page that was
 * lost may have been one of its own. */
static void
sync_failed(void)
{
	int why = errno;

	srv.spool.epoch++;
	draft_forget();
	log_event(PART_QUEUE, "-", "sync failed: %s", strerror(why));
	for (struct msg *m = srv.spool.commit; m != NULL; m = m->next)
		if (m->error == 0)
			m->error = why;
}

/* Step 1, first half: all that is needed lies in drafts. */
static void
prepare(struct msg *m)
{
	if (m->error == 0 && m->epoch != srv.spool.epoch)
		m->error = EIO;
	for (size_t i = 0; i < m->locals.n && m->error == 0; i++)
		if (!maildrop_prepare(m->locals.v[i]))
			m->error = errno;
	if (m->error == 0 && m->remotes.n > 0)
		write_envelope(m);
}

/* Is one syncfs() better than this many fsync()s?  Below three it costs more,
 * because it also writes other programs' data; but where a hundred spares wait
 * for one (draft_unsynced()), they shall have it.  It has told of errors only
 * since Linux 5.8, and no call tells whether it does: see spool_start(). */
static bool
sync_all_at_once(size_t files)
{
	return srv.spool.use_syncfs &&
	    (files >= SYNCFS_FROM || (files > 0 && draft_unsynced()));
}

/* Sync all that there is on the file system of queue/.  False: errno. */
static bool
sync_everything(void)
{
	if (syncfs(srv.spool.dir) < 0)
		return false;
	draft_synced();
	return true;
}

/* Step 1, second half: those files are durable. */
static void
sync_contents(void)
{
	size_t files = 0;
	bool ok = true;

	for (struct msg *m = srv.spool.commit; m != NULL; m = m->next)
		files += m->error != 0 ? 0 : 1u + (m->envelope.fd >= 0);
	bool at_once = sync_all_at_once(files);

	if (at_once)
		ok = sync_everything();
	for (struct msg *m = srv.spool.commit; m != NULL && ok; m = m->next) {
		if (m->error != 0 || at_once)
			continue;
		ok = fsync(m->content.fd) == 0;
		if (ok && m->envelope.fd >= 0)
			ok = fsync(m->envelope.fd) == 0;
	}
	if (!ok)
		sync_failed();
}

/* Take back the names of a message that is refused after all.  Who takes back
 * has an error to report: errno must survive it. */
static void
unname_message(const struct msg *m)
{
	int why = errno;

	for (size_t i = 0; i < m->locals.n; i++)
		maildrop_unlink(m, m->locals.v[i]);
	if (m->remotes.n > 0)
		spool_remove(m->id);
	errno = why;
}

/* Give a draft a name under queue/. */
static bool
link_queue(const struct draft *d, const char *id, const char *end)
{
	char name[ID_LEN + 5];

	file_name(name, id, end);
	return draft_link(d, srv.spool.dir, name);
}

/* Step 2, first half: every recipient's name, or none, because the dot has one
 * reply for all of them: with a 451 the client sends to all again, and who had
 * it would have it twice.  (Killed in here, some have it: RFC 1047 2.) */
static void
name_message(struct msg *m)
{
	char name[ID_LEN + 5];
	size_t made = 0;
	bool content = false;

	while (made < m->locals.n && maildrop_link(m, m->locals.v[made]))
		made++;
	bool ok = made == m->locals.n;

	if (ok && m->remotes.n > 0) { /* the envelope last: it is the message */
		content = link_queue(&m->content, m->id, ".msg");
		ok = content && link_queue(&m->envelope, m->id, ".env");
	}
	if (ok)
		return;
	m->error = errno;
	if (content)
		unlinkat(srv.spool.dir, file_name(name, m->id, ".msg"), 0);
	while (made > 0) /* only what we made: another's name may be there */
		maildrop_unlink(m, m->locals.v[--made]);
}

/* The folders that a message has got names in, one by one. */
static bool
sync_folders(const struct msg *m)
{
	bool ok = m->remotes.n == 0 || fsync(srv.spool.dir) == 0;

	for (size_t i = 0; i < m->locals.n && ok; i++)
		ok = maildrop_sync(m->locals.v[i]);
	return ok;
}

/* Step 2, second half: the names are durable.  Where they cannot be made so,
 * they are taken back, but that is not synced either: should the power fail
 * then, a message that was refused may be found, and comes twice.  They go
 * before sync_failed() sets the errors that tell whose names there are. */
static void
sync_names(void)
{
	size_t folders = 0;
	bool ok = true;

	for (struct msg *m = srv.spool.commit; m != NULL; m = m->next)
		if (m->error == 0)
			folders += m->locals.n + (m->remotes.n > 0);
	bool at_once = sync_all_at_once(folders) && srv.spool.one_fs;

	if (at_once)
		ok = sync_everything();
	for (struct msg *m = srv.spool.commit; m != NULL && !at_once;
	     m = m->next)
		if (m->error == 0 && ok)
			ok = sync_folders(m);
	if (ok)
		return;
	for (struct msg *m = srv.spool.commit; m != NULL; m = m->next)
		if (m->error == 0)
			unname_message(m);
	sync_failed();
}

/* Nobody gets it.  Who tries again shall find room, if there is some. */
static void
refused(const struct msg *m)
{
	if (m->error == ENOSPC || m->error == EDQUOT)
		draft_forget();
	log_event(PART_QUEUE, m->id, "refused: %s", strerror(m->error));
}

/*
 * Step by step for all, not message by message, so that all share two syncs:
 *
 *	A  write |        | link, link |        |
 *	         | syncfs |            | syncfs | 250 to A, 250 to B
 *	B  write |        | link       |        |
 *
 * Killed between two links, it leaves some names of a message that was answered
 * nothing: the client sends it again.  Were a name made before the first sync,
 * a power loss could leave it, and an empty file; were the 250 said before the
 * second, it could take the name.
 */
void
spool_commit(void)
{
	struct msg *list = srv.spool.commit;

	for (struct msg *m = list; m != NULL; m = m->next)
		prepare(m);
	sync_contents();
	for (struct msg *m = list; m != NULL; m = m->next)
		if (m->error == 0)
			name_message(m);
	sync_names();
	for (struct msg *m = list; m != NULL; m = m->next) {
		m->state = m->error == 0 ? MSG_COMMITTED : MSG_REFUSED;
		for (size_t i = 0; i < m->locals.n && m->error == 0; i++)
			log_event(PART_QUEUE, m->id, "delivered user=%s",
			    m->locals.v[i]);
		if (m->error != 0)
			refused(m);
	}
	srv.spool.commit = srv.spool.commit_tail = NULL;
}

/* ---- the folders, and what a crash left in them -------------------------- */

/* A folder of the state, made where there is none; ours alone.  -1: errno.
 * Who may write into it could put a folder of theirs in the place of one of
 * ours, and read the mail.  That is said, not refused: on some file systems
 * (of Windows, under WSL2) everybody may write everywhere. */
static int
open_folder(int at, const char *name)
{
	struct stat st;

	if (mkdirat(at, name, 0700) < 0 && errno != EEXIST)
		return -1;
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	bool known = fd >= 0 && fstat(fd, &st) == 0;

	if (!known || st.st_uid != geteuid()) {
		int why = known ? EPERM : errno;

		if (fd >= 0)
			close(fd);
		errno = why;
		return -1;
	}
	if (st.st_mode & S_IWOTH)
		log_event(PART_MAIN, "-",
		    "warning: others may write into the folder %s", name);
	return fd;
}

/* Why a folder or file of the state could not be had, as an exit status. */
static int
no_state(const struct conf *conf)
{
	log_event(PART_MAIN, "-", "%s: %s", conf->data_dir,
	    errno == EPERM ? "belongs to another user" : strerror(errno));
	return EX_CANTCREAT;
}

/* Take queue/lock, or name who has it.  An exit status.  The lock goes when its
 * process ends, however it does; the number in the file is only for the log. */
static int
take_lock(const struct conf *conf)
{
	char pid[24] = "";
	struct spool *spool = &srv.spool;

	spool->lock = openat(spool->dir, "lock",
	    O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (spool->lock < 0)
		return no_state(conf);
	if (flock(spool->lock, LOCK_EX | LOCK_NB) < 0) {
		if (read(spool->lock, pid, sizeof(pid) - 1) < 0)
			pid[0] = '\0';
		log_event(PART_MAIN, "-", "%s is in use by process %.*s",
		    conf->data_dir, (int)strcspn(pid, "\n"), pid);
		return EX_TEMPFAIL;
	}
	int len = snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());

	if (ftruncate(spool->lock, 0) < 0 ||
	    write(spool->lock, pid, (size_t)len) != len)
		return no_state(conf);
	return 0;
}

/* The state folders, one inside the other; false: errno. */
static bool
open_folders(const struct conf *conf)
{
	struct spool *spool = &srv.spool;
	int data = open_folder(AT_FDCWD, conf->data_dir);
	int mail_fd = data >= 0 ? open_folder(data, "mail") : -1;

	spool->dir = mail_fd >= 0 ? open_folder(data, "queue") : -1;
	int why = errno;

	spool->one_fs = true; /* until maildrop_link() finds another */
	if (mail_fd >= 0)
		close(mail_fd);
	if (data >= 0)
		close(data);
	errno = why;
	return spool->dir >= 0;
}

int
spool_start(const struct conf *conf)
{
	struct spool *spool = &srv.spool;
	struct drafts *drafts = &srv.drafts;
	struct utsname system;

	spool->failed = spool->lock = drafts->tmp = -1;
	if (!open_folders(conf))
		return no_state(conf);
	int status = take_lock(conf);

	if (status != 0)
		return status;
	drafts->groups = open_folder(spool->dir, ".groups");
	draft_start();
	drafts->spares = open_folder(spool->dir, ".spares");
	if (drafts->spares >= 0)
		drafts->tmp = open_folder(spool->dir, "tmp");
	if (drafts->tmp >= 0)
		spool->failed = open_folder(spool->dir, "failed");
	/* Power loss must not take a folder away with what lies in it: they
	 * have been made just now, perhaps.  For mailboxes maildrop_make() sees
	 * to it, for mail/ may be another file system. */
	if (spool->failed < 0 || syncfs(spool->dir) < 0)
		return no_state(conf);
	if (uname(&system) == 0) {
		char *dot;
		long major = strtol(system.release, &dot, 10);
		long minor = *dot == '.' ? strtol(dot + 1, NULL, 10) : 0;

		spool->use_syncfs = major > 5 || (major == 5 && minor >= 8);
	}
	return 0;
}

/* Open a folder for readdir(); NULL: errno. */
static DIR *
read_folder(int at, const char *name)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;

	if (dir == NULL && fd >= 0)
		close(fd);
	return dir;
}

/* Remove the files of a folder; what an operator has hidden there stays. */
static void
empty_folder(int at, const char *name)
{
	DIR *dir = read_folder(at, name);

	for (struct dirent *entry; dir != NULL && (entry = readdir(dir));)
		if (entry->d_name[0] != '.')
			unlinkat(dirfd(dir), entry->d_name, 0);
	if (dir != NULL)
		closedir(dir);
}

/* Drafts were never answered 250, and nobody knows any more which spares are
 * safe. */
static void
empty_drafts(void)
{
	char folder[16];
	int dir = srv.spool.dir;

	empty_folder(dir, "tmp");
	empty_folder(dir, ".spares");
	for (unsigned i = 0; i < 256; i++) {
		snprintf(folder, sizeof(folder), ".groups/%02x", i);
		empty_folder(dir, folder);
	}
}

/* Is this "ID.env" or "ID.msg", and which?  0: neither. */
static char
half_of(const char *name)
{
	if (strspn(name, "0123456789abcdef") != ID_LEN ||
	    strlen(name) != ID_LEN + 4)
		return 0;
	if (strcmp(name + ID_LEN, ".env") == 0)
		return 'e';
	return strcmp(name + ID_LEN, ".msg") == 0 ? 'm' : 0;
}

/* One name less in a pair: what a crash left of M3 or M5; or the operator is
 * about to move the other one back from failed/.  No crash leaves an envelope
 * alone, but a disk may: whose mail was it? */
static void
remove_half(const char *name)
{
	struct envelope e;
	char other[ID_LEN + 5];

	file_name(other, name, half_of(name) == 'e' ? ".msg" : ".env");
	bool kept = faccessat(srv.spool.failed, other, F_OK, 0) == 0;

	log_event(PART_QUEUE, "-", "%s %s: its other half is not there",
	    kept ? "left alone" : "removed", name);
	spool_read(srv.spool.dir, name, &e);
	for (size_t i = 0; i < e.n; i++)
		log_event(PART_QUEUE, e.id, "it was from=<%s> to=<%s>",
		    e.sender, e.rcpts[i].address);
	spool_forget(&e);
	if (!kept)
		unlinkat(srv.spool.dir, name, 0);
}

/* The names of all halves in a folder, sorted: ID.env right before ID.msg. */
static bool
read_halves(int at, struct names *halves)
{
	DIR *dir = read_folder(at, ".");
	bool ok = dir != NULL;

	/* readdir() tells the end from an error by errno alone; half a list
	 * would make good messages look like halves. */
	for (struct dirent *entry;
	     ok && (errno = 0, entry = readdir(dir)) != NULL;)
		if (half_of(entry->d_name) != 0)
			ok = names_push(halves, entry->d_name);
	ok = ok && errno == 0;
	if (dir != NULL)
		closedir(dir);
	names_sort(halves);
	return ok;
}

/* Without repair a half is only left out: -q may look while the server has
 * linked a content, and not yet its envelope. */
bool
spool_scan(int at, struct names *ids, bool repair)
{
	struct names halves = { .exact = true };

	if (repair)
		empty_drafts();
	bool ok = read_halves(at, &halves);

	for (size_t i = 0; i < halves.n && ok; i++) {
		char *name = halves.v[i];
		const char *after = i + 1 < halves.n ? halves.v[i + 1] : "";

		if (half_of(name) == 'e' && half_of(after) == 'm' &&
		    strncmp(name, after, ID_LEN) == 0) {
			name[ID_LEN] = '\0';
			ok = names_push(ids, name);
			i++;
		} else if (repair)
			remove_half(name);
	}
	names_free(&halves);
	return ok;
}

/* ---- mailserv -q and -d -------------------------------------------------- */

/* "3m", "2h", "5d" */
static void
put_age(msec age, char text[24])
{
	long long secs = age > 0 ? age / SECOND : 0;

	if (secs < 60)
		snprintf(text, 24, "%llds", secs);
	else if (secs < 3600)
		snprintf(text, 24, "%lldm", secs / 60);
	else if (secs < 86400)
		snprintf(text, 24, "%lldh", secs / 3600);
	else
		snprintf(text, 24, "%lldd", secs / 86400);
}

/* What queue/.hosts says of a domain, if anything, goes into `shown`: tries are
 * added, next and reply replaced, this by a piece of `hosts`.  Exercise: 10,000
 * dead hosts with a recipient each are 50 million comparisons; sort first. */
static void
host_line(const struct names *hosts, const char *domain, struct rcpt *shown)
{
	size_t len = strlen(domain);

	for (size_t i = 0; i < hosts->n; i++) {
		char *at = hosts->v[i];

		if (strncasecmp(at, domain, len) != 0 || at[len] != ' ')
			continue;
		shown->tries += (unsigned)strtoul(at + len, &at, 10);
		shown->next = (time_t)strtoll(at, &at, 10);
		shown->reply = *at == ' ' ? at + 1 : at;
		return;
	}
}

/* One recipient that still waits: a copy, for host_line() to change. */
static void
list_rcpt(struct rcpt shown, const struct names *hosts)
{
	const char *at = strrchr(shown.address, '@');
	char next[32];
	struct tm tm;

	if (at != NULL)
		host_line(hosts, at + 1, &shown);
	gmtime_r(&shown.next, &tm);
	strftime(next, sizeof(next), "%Y-%m-%dT%H:%M:%SZ", &tm);
	printf("    to <%s>  tries %u  next %s  %s\n", shown.address,
	    shown.tries, shown.next > 0 ? next : "now",
	    shown.reply != NULL ? shown.reply : "not tried yet");
}

/* One message of the list. */
static void
list_message(const struct envelope *e, const struct names *hosts)
{
	char age[24];

	put_age(srv.wall - (msec)e->arrived * 1000, age);
	printf("%s  %zu octets  %s  from <%s>\n", e->id, e->size, age,
	    e->sender);
	/* The analyser loses sight of e->sender, which the caller frees. */
	/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
	for (size_t i = 0; i < e->n; i++)
		if (e->rcpts[i].state != RCPT_DONE)
			list_rcpt(e->rcpts[i], hosts);
}

/* Read queue/.hosts, where there is one, line by line. */
static void
read_hosts(int dir, struct names *hosts)
{
	int fd = openat(dir, ".hosts", O_RDONLY | O_CLOEXEC);
	FILE *f = fd >= 0 ? fdopen(fd, "r") : NULL;
	char *line = NULL;
	size_t cap = 0;

	while (f != NULL && getline(&line, &cap, f) > 0) {
		line[strcspn(line, "\n")] = '\0';
		if (!names_push(hosts, line))
			break;
	}
	free(line);
	if (f != NULL)
		fclose(f);
}

/* A folder of the state, to be read; -1: there is none. */
static int
open_state(const struct conf *conf, const char *folder)
{
	int data = open(conf->data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int fd = data >= 0 ?
	    openat(data, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) :
	    -1;

	if (data >= 0)
		close(data);
	return fd;
}

int
spool_list(const struct conf *conf)
{
	struct names ids = { .exact = true }, failed = { .exact = true };
	struct names hosts = { .exact = true };
	int dir = open_state(conf, "queue");
	int failed_dir = open_state(conf, "queue/failed");
	size_t waiting = 0;

	if (dir >= 0) {
		read_hosts(dir, &hosts);
		spool_scan(dir, &ids, false);
	}
	if (failed_dir >= 0)
		spool_scan(failed_dir, &failed, false);
	for (size_t i = 0; i < ids.n; i++) {
		struct envelope e;

		if (spool_read(dir, ids.v[i], &e)) { /* else it left */
			list_message(&e, &hosts);
			waiting++;
		}
		spool_forget(&e);
	}
	printf("%zu waiting, %zu in failed\n", waiting, failed.n);
	names_free(&ids);
	names_free(&failed);
	names_free(&hosts);
	if (dir >= 0)
		close(dir);
	if (failed_dir >= 0)
		close(failed_dir);
	return 0;
}

/* Ids are checked, because they become names: "../../x" must be none.  The
 * server hears of it when it opens the content; what it is sending then still
 * arrives. */
int
spool_delete(const struct conf *conf, char *const *ids)
{
	int dir = open_state(conf, "queue");
	int status = 0;

	for (; *ids != NULL; ids++) {
		char name[ID_LEN + 5];
		bool good = strlen(*ids) == ID_LEN &&
		    strspn(*ids, "0123456789abcdef") == ID_LEN;

		/* The envelope first: without it the server sees none. */
		if (good &&
		    unlinkat(dir, file_name(name, *ids, ".env"), 0) == 0)
			unlinkat(dir, file_name(name, *ids, ".msg"), 0);
		else {
			fprintf(stderr,
			    "mailserv: no message %s in the queue\n", *ids);
			status = EX_NOINPUT;
		}
	}
	if (dir >= 0)
		close(dir);
	return status;
}
