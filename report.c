/*
 * report.c -- what a report says of a message that failed, or is late.
 *
 * What this is
 *	The text of a bounce or a delay warning (RFC 3464 2): for a person, for
 *	a program, and the original's header, as the three parts of a
 *	multipart/report (RFC 3462 1).
 * Call it in this order
 *	report_write() into a message that spool_open() has opened.
 * A typical sequence, with break put_status in gdb
 *	attempt_sent -> job_settle -> job_report -> report_submit ->
 *	report_write -> put_status
 * Always true
 *	Everything in it is 7-bit, and a line that came from outside stays one
 *	line: whoever wrote it cannot add fields of his own.
 * What it does not do
 *	Ask whether the sender wants it: NOTIFY=NEVER, or no DELAY (RFC 3461
 *	4.1).  Exercise: take the parameter in smtp.c, keep it in the envelope.
 *	Name in a warning the host whose words it cites (RFC 3464 2.3.5): it is
 *	read from the envelope, which has only the words.  Exercise: keep both.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "mailserv.h"

enum { HEADER_MAX = 65536 }; /* of an original: more tells nobody more */

/*
 * What is made here, in short:
 *
 *	Content-Type: multipart/report; ... boundary="6445941624000e5f"
 *
 *	--6445941624000e5f                        put_explanation()
 *	Content-Type: text/plain; ...
 *
 *	Your message could not be delivered to:
 *	  <bob@lab.test>
 *	    550 5.1.1 no such user
 *	--6445941624000e5f
 *	Content-Type: message/delivery-status
 *
 *	Reporting-MTA: dns; mail.test
 *	                                          put_status(), for each
 *	Final-Recipient: rfc822; bob@lab.test
 *	Action: failed
 *	Status: 5.1.1
 *	--6445941624000e5f                        put_original()
 *	Content-Type: text/rfc822-headers
 *
 *	Subject: hello
 *	--6445941624000e5f--
 *
 * The boundary is the report's own id, so that no line of the original can be
 * one: that was written before there was such an id.
 */

/* Write formatted text into a report, which must be 7-bit (RFC 3464 2.1.1).
 * What came from outside is one line already: relay.c keeps a reply so, in
 * half of the room that is here, and put_original() goes line by line. */
__attribute__((format(printf, 2, 3))) static void
put(struct msg *m, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	for (char *at = text; *at != '\0'; at++)
		if ((unsigned char)*at > 126 ||
		    ((unsigned char)*at < ' ' && strchr("\n\t", *at) == NULL))
			*at = '?';
	spool_write(m, text, strlen(text));
}

/* A date for a header (RFC 5322 3.3). */
static void
put_date(struct msg *m, const char *field, time_t when)
{
	char text[64];
	struct tm tm;

	gmtime_r(&when, &tm);
	strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S +0000", &tm);
	put(m, "%s: %s\n", field, text);
}

/* The recipients that a report tells of. */
static bool
tells_of(const struct msg *m, const struct rcpt *r)
{
	return r->state == (m->warning ? RCPT_WAITING : RCPT_FAILED);
}

/* What a person reads.  A host's words stand there as they came, because they
 * may say what to do ("550 ask to be listed at ..."), which we cannot know. */
static void
put_explanation(struct msg *m, const struct job *j)
{
	put(m, "--%s\nContent-Type: text/plain; charset=us-ascii\n\n", m->id);
	put(m, "This is the mail server at %s.\n\n", srv.conf->hostname);
	put(m, "Your message could not be delivered%s to:\n\n",
	    m->warning ? " yet" : "");
	for (size_t i = 0; i < j->n; i++) {
		const struct rcpt *r = &j->rcpts[i];

		if (tells_of(m, r))
			put(m, "  <%s>\n    %s\n", r->address,
			    r->reply != NULL ? r->reply : "unknown reason");
	}
	put(m, "\nIt will %s.  A copy of its header is attached.\n\n",
	    m->warning ? "be tried again: there is nothing that you must do" :
			 "not be tried again");
}

/*
 * The enhanced status code in a reply, its numbers of three digits at most
 * (RFC 3463 2); where it has none, or one that its own first digit contradicts,
 * that digit's class alone; without a digit the report's.  A 4.y.z stays also
 * in a failure: expiry is one.
 *
 *	550 5.1.1 no such user     5.1.1
 *	450 later                  4.0.0
 *	550 4.2.1 confused         5.0.0
 *	4.4.7 expired; last: ...   4.4.7: a reason of our own
 *	nothing                    5.0.0; in a warning 4.0.0
 */
static void
status_of(const char *reply, bool warning, char status[12])
{
	const char *code = reply;
	char class = *reply == '4' || (warning && *reply != '5') ? '4' : '5';

	if (strspn(reply, "0123456789") == 3)
		code += 3 + strspn(reply + 3, " -");
	int len = 0;

	if (*code == class)
		sscanf(code, "%*c.%*3[0-9].%*3[0-9]%n", &len);
	if (len == 0 || strspn(code + len, "0123456789.") > 0)
		snprintf(status, 12, "%c.0.0", class);
	else
		snprintf(status, 12, "%.*s", len, code);
}

/* What a program reads (RFC 3464 2.3), for one recipient: as the envelope had
 * it (RFC 3464 2.3.2), what became of it (RFC 3464 2.3.3), and why (RFC 3464
 * 2.3.4).  Where the last word is not a host's, none is named (RFC 3464
 * 2.3.5). */
static void
put_status(struct msg *m, const struct job *j, const struct rcpt *r)
{
	const char *reply = r->reply != NULL ? r->reply : "";
	msec term = srv.conf->expire / srv.conf->time_scale / SECOND;
	char status[12];

	status_of(reply, m->warning, status);
	put(m, "Final-Recipient: rfc822; %s\nAction: %s\nStatus: %s\n",
	    r->address, m->warning ? "delayed" : "failed", status);
	bool is_hosts = strspn(reply, "0123456789") == 3; /* not ours */

	if (is_hosts && r->host != NULL)
		put(m, "Remote-MTA: dns; %s\n", r->host);
	if (is_hosts)
		put(m, "Diagnostic-Code: smtp; %s\n", reply);
	if (m->warning)
		put_date(m, "Will-Retry-Until",
		    j->q->env.arrived + (time_t)term);
	put(m, "\n");
}

/* The original's header, without our own Return-Path: line; not its content,
 * because the sender has that, and who was only named as the sender is spared
 * 50 MB.  A line is cut at 900 octets, which is less than put() holds and than
 * the 998 that a line of a message may have (RFC 5322 2.1.1). */
static void
put_original(struct msg *m, const struct envelope *e, bool patient)
{
	int fd = spool_content(e->id);
	char *text = malloc(HEADER_MAX + 1);
	ssize_t len = fd >= 0 && text != NULL ?
	    pread(fd, text, HEADER_MAX, (off_t)e->head) :
	    -1;

	/* What cannot be read now may be later; and who is not patient gets a
	 * report without it, rather than none. */
	if (len < 0 && patient)
		m->error = errno;
	put(m, "--%s\nContent-Type: text/rfc822-headers\n\n", m->id);
	if (len > 0) {
		text[len] = '\0';
		char *end = strstr(text, "\n\n");

		if (end != NULL)
			*end = '\0';
		for (char *line, *rest = text;
		     (line = strsep(&rest, "\n")) != NULL;)
			put(m, "%.900s\n", line);
	}
	put(m, "\n--%s--\n", m->id);
	free(text);
	if (fd >= 0)
		close(fd);
}

/* Three parts (RFC 3464 2): for a person; for a program, who is told first who
 * reports (RFC 3464 2.2.2); and the original's header.  For Auto-Submitted's
 * sake the sender's holiday program does not answer. */
void
report_write(struct msg *m, const struct job *j, bool patient)
{
	const char *host = srv.conf->hostname;

	put_date(m, "Date", m->arrived);
	put(m, "From: Mail Delivery System <MAILER-DAEMON@%s>\nTo: <%s>\n",
	    host, j->q->env.sender);
	put(m,
	    "Subject: %s\n"
	    "Message-ID: <%s@%s>\nAuto-Submitted: auto-replied\n"
	    "MIME-Version: 1.0\nContent-Type: multipart/report;"
	    " report-type=delivery-status;\n\tboundary=\"%s\"\n\n",
	    m->warning ? "Delayed mail (it is still being tried)" :
			 "Undelivered mail returned to sender",
	    m->id, host, m->id);
	put_explanation(m, j);
	put(m,
	    "--%s\nContent-Type: message/delivery-status\n\n"
	    "Reporting-MTA: dns; %s\n",
	    m->id, host);
	put_date(m, "Arrival-Date", j->q->env.arrived);
	put(m, "\n");
	for (size_t i = 0; i < j->n; i++)
		if (tells_of(m, &j->rcpts[i]))
			put_status(m, j, &j->rcpts[i]);
	put_original(m, &j->q->env, patient);
}
