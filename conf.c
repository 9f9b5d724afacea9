/*
 * conf.c -- the configuration file, read once into struct conf.
 *
 * What this is
 *	One table of directives, the functions that read their values, the
 *	defaults, and what must fit together.  What users may rely on.
 * Call it in this order
 *	conf_load(), conf_free(); on SIGHUP conf_load() again.
 * A typical sequence, with break read_directive in gdb
 *	conf_load -> read_directive -> read_values -> read_users ->
 *	read_user ... -> conf_defaults -> check_domains -> check_aliases ...
 * Always true
 *	Every fault is told with FILE:LINE, and reading goes on: a user mends
 *	all of them at once.
 *	What a file said never changes once it is read: SIGHUP reads anew.
 * What it does not do
 *	Include other files, or know conditions.  Exercise: include FILE, with
 *	the right FILE:LINE in every error.
 */
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include "mailserv.h"

/* ---- words of the configuration ------------------------------------------ */

/* Where the reader is, and what it fills. */
struct reader {
	struct conf *conf;
	struct diag *diag;
	struct spot at;
	FILE *f; /* NULL: not open, or read to its end */
	char *line;
	size_t cap;
	unsigned seen[64]; /* the last line of each directive, 0: none */
};

/*
 * One row of the table of directives below, and what becomes of a line:
 *
 *	timeout_smtp  90s    # a comment
 *	     |         |
 *	     |         read_time(): 90000, if it is low to high
 *	     the row: AT(timeout_smtp) is its field in struct conf
 *
 * Nobody but a test sees whether a row's function fits its field: read_size()
 * writes a size_t, read_number() an unsigned.  The price of a table.
 */
struct directive {
	const char *name, *standard; /* the values that it has if not given */
	void (*read)(struct reader *rd, const struct directive *dir,
	    char **value);
	int least, most; /* values on a line; see LIST */
	size_t offset;  /* of its field in struct conf; 0: it may be repeated */
	msec low, high; /* what a number, size or time may be */
};

/* So many values make a list: read() is called for each, or not at all where
 * "none" stands alone.  Such a directive may be repeated, too: so that of more
 * values than these the rest goes on another line. */
enum { LIST = 64 };

/* "FILE:LINE: ...", for the line that is being read.  No configuration with an
 * error is ever used: so reading may go on with a field that is not set, or an
 * element of zeros, which as a relay_from would be everybody. */
#define WRONG(rd, ...) complain((rd)->diag, (rd)->at, __VA_ARGS__)

/* The field that a directive fills. */
static void *
field(const struct reader *rd, const struct directive *dir)
{
	return (char *)rd->conf + dir->offset;
}

/* Nothing more is read: after SIGHUP a half-read configuration would be worse
 * than the old one.  Returns NULL. */
static void *
no_memory(struct reader *rd)
{
	WRONG(rd, "out of memory");
	rd->diag->no_memory = true;
	return NULL;
}

/* Make an array of *n elements one longer; list is the address of the pointer
 * to it.  The new element, zeroed; NULL: no memory, and nothing has changed.
 * The array may move: who points into it must wait until all is read.  (For
 * seven types of pointer: memcpy() may read any of them, an assignment may
 * not.) */
static void *
append(struct reader *rd, void *list, size_t *n, size_t size)
{
	char *array;

	memcpy(&array, list, sizeof(array));
	char *longer = realloc(array, (*n + 1) * size);

	if (longer == NULL)
		return no_memory(rd);
	memcpy(list, &longer, sizeof(longer));
	return memset(longer + (*n)++ * size, 0, size);
}

static char *
copy_text(struct reader *rd, const char *text)
{
	char *copy = strdup(text);

	if (copy == NULL)
		return no_memory(rd);
	return copy;
}

/* A path of the configuration file, relative to it. */
static char *
copy_path(struct reader *rd, const char *path)
{
	const char *file = rd->conf->file;
	char *whole = net_path_beside(file != NULL ? file : "", path);

	return whole != NULL ? whole : no_memory(rd);
}

/* A number with one of these letters behind it, times the letter's worth.
 * Without one the first counts.  '1' is nothing that one can type behind a
 * number: it would be a digit of it.  Fifteen digits fit into msec; whether
 * their product does is asked, or "9999999999999G" might come out small. */
static bool
parse_value(const char *text, const char *letters, msec *out)
{
	static const char units[] = "1KMGsmhd";
	static const msec worth[] = { 1, 1 << 10, 1 << 20, 1 << 30, SECOND,
		MINUTE, 60 * MINUTE, 24 * 60 * MINUTE };
	char *end;

	if (*text < '0' || *text > '9' || strlen(text) > 15)
		return false;
	msec number = strtoll(text, &end, 10);
	char letter = *end != '\0' ? *end++ : letters[0];

	if (*end != '\0' || strchr(letters, letter) == NULL)
		return false;
	msec unit = worth[strchr(units, letter) - units];

	if (number > INT64_MAX / unit)
		return false;
	*out = number * unit;
	return true;
}

static bool
parse_number(const char *text, msec low, msec high, msec *out)
{
	return parse_value(text, "1", out) && *out >= low && *out <= high;
}

/* The number, size or time that a directive takes; letters tell which.  What is
 * wrong with one is told, and then the value does not matter. */
static msec
take_value(struct reader *rd, const struct directive *dir, const char *text,
    const char *letters)
{
	msec value;

	if (parse_value(text, letters, &value) && value >= dir->low &&
	    value <= dir->high)
		return value;
	if (strcmp(letters, "1") == 0)
		WRONG(rd, "%s: a number from %lld to %lld, not %s", dir->name,
		    (long long)dir->low, (long long)dir->high, text);
	else
		WRONG(rd, "%s: no such %s: %s", dir->name,
		    letters[0] == 's' ? "time" : "size", text);
	return dir->low;
}

/* "90", "90s", "5m", "1h", "5d" */
static void
read_time(struct reader *rd, const struct directive *dir, char **value)
{
	msec *time = field(rd, dir);

	*time = take_value(rd, dir, value[0], "smhd");
}

/* "50", "50K", "50M", "2G" */
static void
read_size(struct reader *rd, const struct directive *dir, char **value)
{
	size_t *size = field(rd, dir);

	*size = (size_t)take_value(rd, dir, value[0], "1KMG");
}

static void
read_number(struct reader *rd, const struct directive *dir, char **value)
{
	unsigned *number = field(rd, dir);

	*number = (unsigned)take_value(rd, dir, value[0], "1");
}

static void
read_yes_no(struct reader *rd, const struct directive *dir, char **value)
{
	bool *answer = field(rd, dir);

	*answer = strcmp(value[0], "yes") == 0;
	if (!*answer && strcmp(value[0], "no") != 0)
		WRONG(rd, "%s: yes or no, not %s", dir->name, value[0]);
}

static void
read_text(struct reader *rd, const struct directive *dir, char **value)
{
	char **text = field(rd, dir);

	*text = copy_text(rd, value[0]);
}

static void
read_path(struct reader *rd, const struct directive *dir, char **value)
{
	char **path = field(rd, dir);

	*path = copy_path(rd, value[0]);
}

/* Letters, digits, hyphens, dots (RFC 5321 4.1.2: sub-domain), and the
 * underscore that many real names hold; no label is empty.  No dot at the end,
 * as master files have it: mail addresses have none, and would not match. */
static bool
is_domain(const char *name)
{
	size_t len = strspn(name, LET_DIG "-_.");

	if (len == 0 || len > DOMAIN_MAX || name[len] != '\0')
		return false;
	return name[0] != '.' && name[0] != '-' && name[len - 1] != '.' &&
	    strstr(name, "..") == NULL;
}

static void
read_domain_name(struct reader *rd, const struct directive *dir, char **value)
{
	if (is_domain(value[0]))
		read_text(rd, dir, value);
	else
		WRONG(rd, "%s: no domain name: %s", dir->name, value[0]);
}

/* ---- directives with a form of their own --------------------------------- */

/* The directives whose addresses we open ourselves. */
static const char *const listeners[] = {
	[KIND_SMTP] = "listen_smtp",
	[KIND_POP3] = "listen_pop3",
	[KIND_DNS] = "listen_dns",
};

/* Do we listen there already?  Asked here, because bind() would tell it without
 * FILE:LINE, and after `mailserv -n` had found nothing wrong. */
static bool
is_taken(const struct conf *conf, const union address *address)
{
	for (size_t kind = 0; kind < NELEM(listeners); kind++)
		for (size_t i = 0; i < conf->listen[kind].n; i++)
			if (address_equal(&conf->listen[kind].v[i], address))
				return true;
	return false;
}

/* One of listen_... or resolver.  A name server's port is 53 where none is
 * said; ours have no such default, because those of the world are root's. */
static void
read_address(struct reader *rd, const struct directive *dir, char **value)
{
	struct addresses *list = field(rd, dir);
	bool ours = list != &rd->conf->resolvers;
	union address address, *added = NULL;

	if (!address_parse(value[0], ours ? 0 : 53, &address))
		WRONG(rd,
		    "%s: no address: %s (127.0.0.1:2525 or"
		    " [::1]:2525 would be)",
		    dir->name, value[0]);
	else if (ours && is_taken(rd->conf, &address))
		WRONG(rd, "%s: %s is there twice", dir->name, value[0]);
	else
		added = append(rd, &list->v, &list->n, sizeof(address));
	if (added != NULL)
		*added = address;
}

static void
read_domain(struct reader *rd, const struct directive *dir, char **value)
{
	if (!is_domain(value[0]))
		WRONG(rd, "%s: no domain name: %s", dir->name, value[0]);
	else if (!names_add(&rd->conf->domains, value[0]))
		no_memory(rd);
}

/* No list, but all waits in one call: the array has RETRY_STEPS, the row's
 * `most`, and a second line would go on behind them. */
static void
read_retry(struct reader *rd, const struct directive *dir, char **value)
{
	struct conf *conf = rd->conf;

	for (; *value != NULL; value++)
		conf->retry[conf->n_retry++] = take_value(rd, dir, *value,
		    "smhd");
}

/* "192.0.2.0/24", "2001:db8::/32", or one address: in the form that both
 * families share, ::ffff:192.0.2.0 and 120 bits for the first.  Bits of the
 * host may be set: cidr_match() does not look at them. */
static bool
parse_cidr(const char *text, struct cidr *cidr)
{
	size_t len = strcspn(text, "/");
	union address host;

	if (!address_host(text, len, &host))
		return false;
	msec most = host.any.sa_family == AF_INET6 ? 128 : 32, bits = most;

	if (text[len] == '/' && !parse_number(text + len + 1, 0, most, &bits))
		return false;
	address_octets(&host, cidr->net);
	cidr->bits = (unsigned)(128 - most + bits);
	return true;
}

static void
read_relay_from(struct reader *rd, const struct directive *dir, char **value)
{
	struct cidr *added = append(rd, &rd->conf->relay_from,
	    &rd->conf->n_relay_from, sizeof(*added));

	if (added != NULL && !parse_cidr(value[0], added))
		WRONG(rd, "%s: no network: %s (192.0.2.0/24 would be)",
		    dir->name, value[0]);
}

/* Open a file that the configuration names, or say why not: then it has no
 * lines.  next_line() closes it.  No path: no memory, and that was said.  The
 * path stays the caller's, until the last line has been complained of. */
static struct reader
open_named(const struct reader *rd, const char *path)
{
	struct reader inner = { .conf = rd->conf,
		.diag = rd->diag,
		.at = { path, 0 },
		.f = path != NULL ? net_open_regular(path) : NULL };

	if (path != NULL && inner.f == NULL)
		WRONG(rd, "cannot read %s: %s", path, strerror(errno));
	return inner;
}

/* Nothing more is read.  A line may have held a password. */
static bool
close_named(struct reader *rd)
{
	if (rd->line != NULL)
		explicit_bzero(rd->line, rd->cap);
	free(rd->line);
	if (rd->f != NULL)
		fclose(rd->f);
	return false;
}

/* The next line without its end, into rd->line; false: there is none, or, told,
 * it cannot be read, and what follows would be missing.  The file is closed.  A
 * line may end in CRLF, because editors of other systems write it: a CR that
 * nobody sees would belong to the last word. */
static bool
next_line(struct reader *rd)
{
	if (rd->f == NULL || rd->diag->no_memory)
		return close_named(rd);
	ssize_t len = getline(&rd->line, &rd->cap, rd->f);

	if (len < 0 && !feof(rd->f))
		WRONG(rd, "cannot read on: %s", strerror(errno));
	if (len < 0)
		return close_named(rd);
	rd->at.line++;
	if (len > 0 && rd->line[len - 1] == '\n')
		rd->line[--len] = '\0';
	if (len > 0 && rd->line[len - 1] == '\r')
		rd->line[--len] = '\0';
	/* A NUL would hide the rest of its line: let it be found wanting. */
	for (char *nul; (nul = memchr(rd->line, '\0', (size_t)len)) != NULL;)
		*nul = '\001';
	return true;
}

/* relay_domain's FILE: one local part a line; what stands behind a blank is
 * ignored.  They may be 100,000, in any order: names_add() would move half of
 * them to make room for each, so all are put at the end, and sorted once. */
static void
read_local_parts(struct reader *rd, struct relay_domain *domain,
    const char *name)
{
	char *path = copy_path(rd, name);
	struct reader inner = open_named(rd, path);

	domain->listed = true;
	while (next_line(&inner)) {
		inner.line[strcspn(inner.line, " \t")] = '\0';
		if (inner.line[0] != '\0' && inner.line[0] != '#' &&
		    !names_push(&domain->local_parts, inner.line))
			no_memory(&inner);
	}
	names_sort(&domain->local_parts);
	free(path);
}

/* Twice is wrong, because nobody could say which FILE counts. */
static void
read_relay_domain(struct reader *rd, const struct directive *dir, char **value)
{
	struct conf *conf = rd->conf;

	if (!is_domain(value[0])) {
		WRONG(rd, "%s: no domain name: %s", dir->name, value[0]);
		return;
	}
	for (size_t i = 0; i < conf->n_relay_domains; i++)
		if (strcasecmp(conf->relay_domains[i].name, value[0]) == 0)
			WRONG(rd, "%s %s is there twice", dir->name, value[0]);
	struct relay_domain *added = append(rd, &conf->relay_domains,
	    &conf->n_relay_domains, sizeof(*added));

	if (added == NULL)
		return;
	added->name = copy_text(rd, value[0]);
	if (value[1] != NULL)
		read_local_parts(rd, added, value[1]);
}

/* What is wrong in the zone's file master_load() tells, with FILE:LINE there.
 * It returns NULL only where memory ends, and then no other zone is read. */
static void
read_zone(struct reader *rd, const struct directive *dir, char **value)
{
	struct conf *conf = rd->conf;
	char *path = copy_path(rd, value[1]);
	struct zone **added = append(rd, &conf->zones, &conf->n_zones,
	    sizeof(*added));

	if (added != NULL && path != NULL)
		*added = master_load(value[0], path, rd->diag);
	free(path);
	if (added == NULL || *added == NULL) {
		no_memory(rd);
		return;
	}
	for (size_t i = 0; i < conf->n_zones - 1; i++)
		if (dns_same_name(&conf->zones[i]->origin, &(*added)->origin))
			WRONG(rd, "%s %s is there twice", dir->name, value[0]);
}

/* Where it leads may stand on a later line: see check_aliases(). */
static void
read_alias(struct reader *rd, const struct directive *dir, char **value)
{
	struct alias *added = append(rd, &rd->conf->aliases,
	    &rd->conf->n_aliases, sizeof(*added));

	(void)dir;
	if (added == NULL)
		return;
	added->line = rd->at.line;
	added->name = copy_text(rd, value[0]);
	added->target = copy_text(rd, value[1]);
}

/* What is to happen: "drop", "stall", "-ERR" for POP3, a code for SMTP (then
 * the action stays FAULT_CODE, which is 0). */
static bool
parse_action(const char *text, struct fault *fault)
{
	bool smtp = fault->kind == KIND_SMTP;
	msec code;

	if (strcmp(text, "drop") == 0)
		fault->action = FAULT_DROP;
	else if (strcmp(text, "stall") == 0)
		fault->action = FAULT_STALL;
	else if (!smtp && strcmp(text, "-ERR") == 0)
		fault->action = FAULT_ERR;
	else if (smtp && parse_number(text, 400, 599, &code))
		fault->code = (unsigned)code;
	else
		return false;
	return true;
}

/* What a client may be failed at: see the verbs of smtp.c and pop3.c, whose
 * tables are their own.  The blanks keep EL from being found in HELO; what is
 * too long for `word` loses its last one, and is not found. */
static bool
is_fault_verb(enum kind kind, const char *verb)
{
	static const char *const verbs[] = {
		[KIND_SMTP] = " connect dot HELO EHLO MAIL RCPT DATA RSET NOOP"
			      " QUIT VRFY EXPN HELP ETRN TURN ",
		[KIND_POP3] = " connect USER PASS STAT LIST RETR DELE NOOP RSET"
			      " QUIT TOP UIDL CAPA ",
	};
	char word[16];

	snprintf(word, sizeof(word), " %s ", verb);
	return strcasestr(verbs[kind], word) != NULL;
}

/* fault smtp|pop3 VERB ACTION [PERCENT] */
static void
read_fault(struct reader *rd, const struct directive *dir, char **value)
{
	struct fault *fault = append(rd, &rd->conf->faults, &rd->conf->n_faults,
	    sizeof(*fault));
	msec percent = 100;

	if (fault == NULL)
		return;
	fault->kind = strcmp(value[0], "pop3") == 0 ? KIND_POP3 : KIND_SMTP;
	if (fault->kind == KIND_SMTP && strcmp(value[0], "smtp") != 0)
		WRONG(rd, "%s: smtp or pop3, not %s", dir->name, value[0]);
	else if (!is_fault_verb(fault->kind, value[1]))
		WRONG(rd, "%s: no such verb: %s", dir->name, value[1]);
	snprintf(fault->verb, sizeof(fault->verb), "%s", value[1]);
	if (!parse_action(value[2], fault))
		WRONG(rd, "%s: no action: %s", dir->name, value[2]);
	if (value[3] != NULL && !parse_number(value[3], 0, 100, &percent))
		WRONG(rd, "%s: no percentage: %s", dir->name, value[3]);
	fault->percent = (unsigned)percent;
}

/* ---- users --------------------------------------------------------------- */

/* Letters, digits, "._+-", no leading dot: safe as a folder's name, since the
 * mailbox of a user called `..` would be data_dir itself. */
static bool
is_user_name(const char *name)
{
	size_t len = strspn(name, LET_DIG "._+-");

	return len > 0 && len <= USER_NAME_MAX && name[len] == '\0' &&
	    name[0] != '.';
}

/* One more user, in the order of names in lower case: see user_find(), which is
 * asked for each before all are there.  10,000 users in any order take 0.1 s.
 * The first of the file is noted, for the order forgets it. */
static void
add_user(struct reader *rd, const char *name, const char *secret)
{
	struct conf *conf = rd->conf;
	struct user user = { .plain = strncmp(secret, "{PLAIN}", 7) == 0 };

	user.secret = copy_text(rd, secret + 7);
	if (user.secret == NULL ||
	    append(rd, &conf->users, &conf->n_users, sizeof(user)) == NULL) {
		free(user.secret);
		return;
	}
	for (size_t i = 0; name[i] != '\0'; i++)
		user.name[i] = (char)tolower((unsigned char)name[i]);
	struct user *users = conf->users;
	size_t place = conf->n_users - 1;

	for (; place > 0 && strcmp(users[place - 1].name, user.name) > 0;
	     place--)
		users[place] = users[place - 1];
	users[place] = user;
	if (conf->first_user == NULL)
		conf->first_user = copy_text(rd, user.name);
}

/* "NAME:{CRYPT}hash" or "NAME:{PLAIN}password"; the line is cut up.  All colons
 * but the first belong to the password.  Both marks have seven octets. */
static void
read_user(struct reader *rd, char *line)
{
	char *secret = line;
	const char *name = strsep(&secret, ":"); /* secret NULL: no colon */
	bool plain = secret != NULL && strncmp(secret, "{PLAIN}", 7) == 0;
	bool crypt = secret != NULL && strncmp(secret, "{CRYPT}", 7) == 0;

	if (!is_user_name(name) || (!plain && !crypt)) {
		/* Any part of it may be a password: none is told. */
		WRONG(rd,
		    "no user: NAME:{CRYPT}hash (see mailserv -H) or"
		    " NAME:{PLAIN}password would be");
	} else if (user_find(rd->conf, name) != NULL) {
		WRONG(rd, "user %s is there twice", name);
	} else {
		add_user(rd, name, secret);
		/* "!" or "*" says on purpose that no password fits. */
		if (crypt && strspn(secret + 7, "!*$") == 0)
			complain_mildly(rd->diag, rd->at,
			    "user %s: no hash such as mailserv -H makes", name);
		/* "{PLAIN}" is as long as "PASS " and CR LF. */
		if (plain && strlen(secret) > POP3_LINE)
			complain_mildly(rd->diag, rd->at,
			    "user %s: POP3 has no line so long", name);
	}
}

/* The row has a field only so that `users` cannot be repeated: add_user() fills
 * that. */
static void
read_users(struct reader *rd, const struct directive *dir, char **value)
{
	char *path = copy_path(rd, value[0]);
	struct reader inner = open_named(rd, path);

	(void)dir;
	while (next_line(&inner))
		if (inner.line[0] != '\0' && inner.line[0] != '#')
			read_user(&inner, inner.line);
	free(path);
}

/* ---- the configuration file ---------------------------------------------- */

#define AT(member) offsetof(struct conf, member)
#define DAYS(n)    ((n)*24 * 60 * MINUTE)

/*
 * The directives.  The comment above a row says what it does: users look it up
 * here.  A row's columns are those of struct directive; the second one is the
 * default, NULL where there is none or where a comment says what it is.
 *
 * A relative path begins at the configuration file.  A size may end in K, M or
 * G, a time in s, m, h or d.  Where LIST stands, "none" alone is an empty one.
 * A word too many is an error, like a value that does not fit.
 */
static const struct directive directives[] = {
	/* Our name, in greetings and headers; not given: the machine's. */
	{ "hostname", NULL, read_domain_name, 1, 1, AT(hostname), 0, 0 },
	/* Everything that must last: queue/ and mail/. */
	{ "data_dir", "mailserv-data", read_path, 1, 1, AT(data_dir), 0, 0 },
	/* 127.0.0.1:2525 or [::1]:2525, as many as you like. */
	{ "listen_smtp", "127.0.0.1:2525", read_address, 1, LIST,
	    AT(listen[KIND_SMTP]), 0, 0 },
	{ "listen_pop3", "127.0.0.1:1110", read_address, 1, LIST,
	    AT(listen[KIND_POP3]), 0, 0 },
	{ "listen_dns", NULL, read_address, 1, LIST, AT(listen[KIND_DNS]), 0,
	    0 },
	/* Whom we ask, on port 53 where none is said; not given: those of
	 * /etc/resolv.conf. */
	{ "resolver", NULL, read_address, 1, LIST, AT(resolvers), 0, 0 },
	/* zone ORIGIN FILE: a master file (RFC 1035 5), which we answer from,
	 * and believe ourselves. */
	{ "zone", NULL, read_zone, 2, 2, 0, 0, 0 },
	/* Mail for these is for mailboxes here; not given: for hostname. */
	{ "domain", NULL, read_domain, 1, LIST, 0, 0, 0 },
	/* relay_domain NAME [FILE]: mail for it is taken from anyone, and
	 * passed on.  FILE: the local parts that exist there, one a line; with
	 * it all others are refused. */
	{ "relay_domain", NULL, read_relay_domain, 1, 2, 0, 0, 0 },
	/* Clients who may send to anywhere: a.b.c.d/bits, x::y/bits. */
	{ "relay_from", "127.0.0.0/8 ::1/128", read_relay_from, 1, LIST, 0, 0,
	    0 },
	/* Lines NAME:{CRYPT}hash (see -H) or NAME:{PLAIN}password: each has a
	 * mailbox.  Without it there are none, and domain is none, too. */
	{ "users", NULL, read_users, 1, 1, AT(users), 0, 0 },
	/* alias NAME TARGET: a user, or any address; NAME twice: both.
	 * postmaster is one for the first user, where none is given. */
	{ "alias", NULL, read_alias, 2, 2, 0, 0, 0 },
	/* The user who gets mail for all local parts that nobody has. */
	{ "catch_all", NULL, read_text, 1, 1, AT(catch_all_name), 0, 0 },
	/* Where next hosts listen: in the world at 25. */
	{ "smtp_port", "25", read_number, 1, 1, AT(smtp_port), 1, 65535 },
	/* The wait after each failure; the last one again and again. */
	{ "retry", "1m 5m 15m 30m 1h", read_retry, 1, RETRY_STEPS, AT(retry),
	    SECOND, DAYS(365) },
	/* So old, a message's sender is told that it is late; 0: never.  That
	 * is seen when the message is tried: a `retry` whose last wait is
	 * longer puts this off, and expire. */
	{ "warn_after", "4h", read_time, 1, 1, AT(warn_after), 0, DAYS(365) },
	/* So old, it is returned. */
	{ "expire", "5d", read_time, 1, 1, AT(expire), SECOND, DAYS(365) },
	/* The longest content, and the most recipients that a message has:
	 * at least 64K, and 100 (RFC 5321 4.5.3.1.7 and .8). */
	{ "max_message", "50M", read_size, 1, 1, AT(max_message), 1024,
	    (msec)1 << 40 },
	{ "max_recipients", "1000", read_number, 1, 1, AT(max_recipients), 1,
	    3000 },
	/* Connections at once, of SMTP, POP3 and DNS together. */
	{ "max_clients", "10000", read_number, 1, 1, AT(max_clients), 1,
	    1000000 },
	/* From one address, unless it is loopback or in relay_from; 0: no
	 * limit. */
	{ "max_per_client", "100", read_number, 1, 1, AT(max_per_client), 0,
	    65535 },
	/* How long we wait for a client, who must send a whole command. */
	{ "timeout_smtp", "5m", read_time, 1, 1, AT(timeout_smtp), SECOND,
	    DAYS(1) },
	{ "timeout_pop3", "10m", read_time, 1, 1, AT(timeout_pop3), SECOND,
	    DAYS(1) },
	/* For a next host: each of its addresses; each reply, and twice as
	 * long for that to the dot. */
	{ "timeout_connect", "30s", read_time, 1, 1, AT(timeout_connect),
	    SECOND, DAYS(1) },
	{ "timeout_relay", "5m", read_time, 1, 1, AT(timeout_relay), SECOND,
	    DAYS(1) },
	/* The user whom root becomes once the ports are open. */
	{ "run_as", NULL, read_text, 1, 1, AT(run_as), 0, 0 },
	/* yes: {PLAIN} passwords although POP3 listens beyond loopback. */
	{ "plain_ok", "no", read_yes_no, 1, 1, AT(plain_ok), 0, 0 },
	/* Laboratories, on loopback alone: retry, warn_after and expire pass
	 * so many times as fast; clocks and time-outs do not. */
	{ "time_scale", "1", read_number, 1, 1, AT(time_scale), 1, 1000000 },
	/* Laboratories, too: fault smtp|pop3 VERB ACTION [PERCENT].  When a
	 * client says VERB (or at "connect", or at the "dot" that ends
	 * content), so many times in a hundred it is not obeyed.  ACTION: a
	 * code from 400 to 599 (POP3: -ERR) is the reply; drop: we hang up;
	 * stall: we never answer. */
	{ "fault", NULL, read_fault, 3, 4, 0, 0, 0 },
};

enum { WORDS = LIST + 3 }; /* keyword, values, one too many, NULL */

/* Cut a line into words; a word that begins with # ends it, but a path may hold
 * one.  Returns how many, and of those that are too many one, so that
 * read_directive() sees it. */
static int
split_words(char *line, char *word[WORDS])
{
	int n = 0;

	for (char *at; (at = strsep(&line, " \t")) != NULL;) {
		if (*at == '#' || n == WORDS - 1)
			break;
		if (*at != '\0')
			word[n++] = at;
	}
	word[n] = NULL;
	return n;
}

static const struct directive *
find_directive(const char *name)
{
	for (size_t i = 0; i < NELEM(directives); i++)
		if (strcmp(directives[i].name, name) == 0)
			return &directives[i];
	return NULL;
}

static void
read_values(struct reader *rd, const struct directive *dir, char **value)
{
	assert(value[0] != NULL); /* no directive needs less than one */
	if (dir->most < LIST)
		dir->read(rd, dir, value);
	else if (value[1] != NULL || strcmp(value[0], "none") != 0)
		for (; *value != NULL; value++)
			dir->read(rd, dir, value);
}

/* One line of the configuration file.  It is seen even where it is wrong, or
 * check_domains() would complain, too, that no users are given.
 *
 * Somebody types `-c users`: then the first word is alice:{PLAIN}secret, and
 * only what stands before the colon may be told. */
static void
read_directive(struct reader *rd)
{
	char *word[WORDS];
	int values = split_words(rd->line, word) - 1;

	if (values < 0)
		return;
	const struct directive *dir = find_directive(word[0]);

	if (dir == NULL) {
		WRONG(rd, "no such directive: %.*s",
		    (int)strcspn(word[0], ":{"), word[0]);
		return;
	}
	unsigned *seen = &rd->seen[dir - directives];
	bool twice = *seen > 0 && dir->offset != 0 && dir->most < LIST;

	*seen = rd->at.line;
	if (twice)
		WRONG(rd, "%s is given twice", dir->name);
	else if (values < dir->least)
		WRONG(rd, "%s needs %s", dir->name,
		    dir->least > 1 ? "more values" : "a value");
	else if (values > dir->most)
		WRONG(rd, "%s takes no more than %d value%s", dir->name,
		    dir->most, dir->most > 1 ? "s" : "");
	else
		read_values(rd, dir, word + 1);
}

/* The line on which a directive was given last, where a fault is told that
 * shows only when all is read; 0: it was not given.  Asked only for names that
 * have a row, or the NULL of find_directive() would make a wild index. */
static unsigned
line_of(const struct reader *rd, const char *name)
{
	return rd->seen[find_directive(name) - directives];
}

/* ---- defaults, and what must fit together -------------------------------- */

/* Directives that are not given are read from the table, as if the user had
 * typed them: so that the table is the whole truth of the defaults. */
static void
read_standards(struct reader *rd)
{
	for (size_t i = 0; i < NELEM(directives); i++) {
		const struct directive *dir = &directives[i];
		char line[64], *word[WORDS];

		if (rd->seen[i] > 0 || dir->standard == NULL)
			continue;
		snprintf(line, sizeof(line), "%s", dir->standard);
		split_words(line, word);
		read_values(rd, dir, word);
	}
}

/* The name servers of /etc/resolv.conf.  No such file, or an address that is of
 * no use to us, such as fe80::1%eth0, is no fault: a laboratory may live from
 * its own zones, and a look-up that finds no name server says so. */
static void
default_resolvers(struct reader *rd)
{
	const char *path = "/etc/resolv.conf";
	struct reader inner = { .conf = rd->conf,
		.diag = rd->diag,
		.at = { path, 0 },
		.f = fopen(path, "re") };
	const struct directive *dir = find_directive("resolver");
	union address address;
	char *word[WORDS];

	if (inner.f == NULL && errno == ENOMEM)
		no_memory(&inner);
	while (next_line(&inner))
		if (split_words(inner.line, word) >= 2 &&
		    strcmp(word[0], "nameserver") == 0 &&
		    address_parse(word[1], 53, &address))
			read_address(&inner, dir, word + 1);
}

/* Directives that are not given: the table's defaults, then what this machine
 * tells.  The built-in configuration is localhost everywhere, or the first mail
 * to alice@localhost would be for somebody else. */
static void
conf_defaults(struct reader *rd)
{
	struct conf *conf = rd->conf;
	char name[HOST_MAX] = "localhost";

	read_standards(rd);
	if (conf->hostname == NULL) {
		if (conf->file != NULL && gethostname(name, sizeof(name)) < 0)
			snprintf(name, sizeof(name), "localhost");
		conf->hostname = copy_text(rd, name);
	}
	if (line_of(rd, "resolver") == 0)
		default_resolvers(rd);
}

/* Final destination: what was given, else hostname where there are users.  In
 * both lists a domain would be ours and another's: place_of() asks one first,
 * and the other line would do nothing, without a word. */
static void
check_domains(struct reader *rd)
{
	struct conf *conf = rd->conf;
	bool users = conf->file == NULL || line_of(rd, "users") > 0;

	if (line_of(rd, "domain") == 0 && users &&
	    !names_add(&conf->domains, conf->hostname))
		no_memory(rd);
	rd->at.line = line_of(rd, "domain");
	if (conf->domains.n > 0 && !users)
		WRONG(rd,
		    "domain %s has no mailboxes: give users, or domain none",
		    conf->domains.v[0]);
	rd->at.line = line_of(rd, "relay_domain");
	for (size_t i = 0; i < conf->n_relay_domains; i++)
		if (names_has(&conf->domains, conf->relay_domains[i].name))
			WRONG(rd, "%s is a domain and a relay_domain",
			    conf->relay_domains[i].name);
}

/* One alias leads to a user, or to an address that somebody has.  To another
 * alias as NAME@DOMAIN, with a domain of ours.  Aliases that lead in a circle
 * lead nowhere, because place_of() follows ALIAS_DEPTH of them and no more.
 * The last @ counts: a quoted local part may hold others. */
static void
check_alias(struct reader *rd, const struct alias *alias)
{
	const char *name = alias->name, *target = alias->target;
	const char *at = strrchr(target, '@');

	rd->at.line = alias->line;
	if (user_find(rd->conf, name) != NULL)
		complain_mildly(rd->diag, rd->at,
		    "alias %s is never used: the user of that name comes first",
		    name);
	if (strchr(name, '@') != NULL)
		WRONG(rd, "alias %s: a local part of ours, without @", name);
	if (at == NULL && user_find(rd->conf, target) == NULL)
		WRONG(rd, "alias %s: no such user: %s", name, target);
	else if (at != NULL && !is_domain(at + 1))
		WRONG(rd, "alias %s: no address: %s", name, target);
	else if (at != NULL && place_of(rd->conf, target) == PLACE_NOBODY)
		WRONG(rd, "alias %s: %s leads nowhere", name, target);
}

/* postmaster leads to the first user unless an alias names it, because it must
 * exist (RFC 5321 4.5.1).  Then the aliases are looked at, all of them there,
 * for one may lead to another.  Before them catch_all, which place_of() asks;
 * it may point into conf->users, for no more are added.  Of a missing
 * postmaster nobody is told where errors may be why there are no users. */
static void
check_aliases(struct reader *rd)
{
	struct conf *conf = rd->conf;
	bool postmaster = user_find(conf, "postmaster") != NULL;

	for (size_t i = 0; i < conf->n_aliases; i++)
		postmaster |= strcasecmp(conf->aliases[i].name, "postmaster") ==
		    0;
	if (!postmaster && conf->first_user != NULL) {
		char name[] = "postmaster";
		char *value[] = { name, conf->first_user, NULL };

		read_alias(rd, find_directive("alias"), value);
	}
	rd->at.line = line_of(rd, "catch_all");
	if (conf->catch_all_name != NULL)
		conf->catch_all = user_find(conf, conf->catch_all_name);
	if (conf->catch_all_name != NULL && conf->catch_all == NULL)
		WRONG(rd, "catch_all: no such user: %s", conf->catch_all_name);
	for (size_t i = 0; i < conf->n_aliases && !rd->diag->no_memory; i++)
		check_alias(rd, &conf->aliases[i]);
	if (conf->domains.n > 0 && conf->n_users == 0 && rd->diag->errors == 0)
		complain_mildly(rd->diag, rd->at,
		    "nobody is postmaster, for there are no users"
		    " (RFC 5321 4.5.1)");
}

/* Passwords in the clear may not leave loopback: there is no TLS, and who reads
 * the users file has them, too.  One user is told of, not all thousand. */
static void
check_plain(struct reader *rd)
{
	const struct conf *conf = rd->conf;
	bool exposed = false;

	rd->at.line = line_of(rd, "users");
	for (size_t i = 0; i < conf->listen[KIND_POP3].n; i++)
		exposed |= !address_is_loopback(&conf->listen[KIND_POP3].v[i]);
	for (size_t i = 0; i < conf->n_users; i++)
		if (exposed && !conf->plain_ok && conf->users[i].plain) {
			WRONG(rd,
			    "user %s has a {PLAIN} password, and POP3"
			    " listens beyond loopback: use mailserv -H, or"
			    " plain_ok yes",
			    conf->users[i].name);
			return;
		}
}

/* The first directive with a listener beyond loopback, or below port 1024. */
static const char *
find_listener(const struct conf *conf, bool below_1024)
{
	for (size_t kind = 0; kind < NELEM(listeners); kind++)
		for (size_t i = 0; i < conf->listen[kind].n; i++) {
			const union address *a = &conf->listen[kind].v[i];

			if (below_1024 ? address_port(a) < 1024 :
					 !address_is_loopback(a))
				return listeners[kind];
		}
	return NULL;
}

/* Laboratories may not leave loopback either: a time_scale of 1000 would return
 * real mail after seven minutes.  Root may not keep a port: a stranger who
 * finds a hole in us would be root.  run_as is looked up here for -n, and once
 * more, for its ids, at the start. */
static void
check_listeners(struct reader *rd)
{
	const struct conf *conf = rd->conf;
	const char *low = find_listener(conf, true);

	rd->at.line = line_of(rd, conf->n_faults > 0 ? "fault" : "time_scale");
	if ((conf->n_faults > 0 || conf->time_scale > 1) &&
	    find_listener(conf, false) != NULL)
		WRONG(rd,
		    "fault and time_scale are for laboratories: every"
		    " listener must be on loopback");
	if (low != NULL)
		rd->at.line = line_of(rd, low);
	if (low != NULL && conf->run_as == NULL && geteuid() == 0)
		WRONG(rd,
		    "root on a port below 1024: run_as must say who to become");
	rd->at.line = line_of(rd, "run_as");
	if (conf->run_as != NULL && getpwnam(conf->run_as) == NULL)
		WRONG(rd, "run_as: no such user: %s", conf->run_as);
}

/* ---- reading and freeing it ---------------------------------------------- */

/*
 * Each step needs those before it: check_domains() the hostname, and
 * check_aliases(), by place_of(), the domains; and all of them memory: where
 * that has ended, a name may be NULL.  A file that cannot be opened is the only
 * fault that is told: of what it may hold nothing is known.
 */
struct conf *
conf_load(const char *file, struct diag *diag)
{
	static void (*const steps[])(struct reader *) = { conf_defaults,
		check_domains, check_aliases, check_plain, check_listeners };
	struct reader rd = { .conf = calloc(1, sizeof(struct conf)),
		.diag = diag,
		.at = { file != NULL ? file : "built-in", 0 } };

	if (rd.conf == NULL)
		return no_memory(&rd);
	if (file == NULL) { /* so that the first try needs no reading */
		char alice[] = "alice:{PLAIN}alice", bob[] = "bob:{PLAIN}bob";

		read_user(&rd, alice);
		read_user(&rd, bob);
	} else {
		rd.conf->file = copy_text(&rd, file);
		rd = open_named(&rd, file);
		if (rd.f == NULL)
			return rd.conf;
	}
	while (next_line(&rd))
		read_directive(&rd);
	for (size_t i = 0; i < NELEM(steps) && !diag->no_memory; i++)
		steps[i](&rd);
	return rd.conf;
}

/* The inverse of conf_load(), in the order of struct conf; also of one that is
 * half read, in which NULL or a count of 0 stands for what is not there. */
void
conf_free(struct conf *conf)
{
	if (conf == NULL)
		return;
	free(conf->file);
	free(conf->hostname);
	free(conf->data_dir);
	for (size_t kind = 0; kind < NELEM(conf->listen); kind++)
		free(conf->listen[kind].v);
	free(conf->resolvers.v);
	for (size_t i = 0; i < conf->n_zones; i++)
		zone_free(conf->zones[i]);
	free(conf->zones);
	names_free(&conf->domains);
	for (size_t i = 0; i < conf->n_relay_domains; i++) {
		free(conf->relay_domains[i].name);
		names_free(&conf->relay_domains[i].local_parts);
	}
	free(conf->relay_domains);
	free(conf->relay_from);
	for (size_t i = 0; i < conf->n_users; i++) {
		explicit_bzero(conf->users[i].secret,
		    strlen(conf->users[i].secret));
		free(conf->users[i].secret);
	}
	free(conf->users);
	free(conf->first_user);
	for (size_t i = 0; i < conf->n_aliases; i++) {
		free(conf->aliases[i].name);
		free(conf->aliases[i].target);
	}
	free(conf->aliases);
	free(conf->catch_all_name);
	free(conf->run_as);
	free(conf->faults);
	free(conf);
}

/* memcmp() may compare addresses: address_host() has set all of each to zero,
 * first. */
bool
conf_same_outside(struct conf *one, struct conf *two)
{
	for (size_t kind = 0; kind < NELEM(one->listen); kind++) {
		struct addresses a = one->listen[kind], b = two->listen[kind];

		if (a.n != b.n ||
		    (a.n > 0 && memcmp(a.v, b.v, a.n * sizeof(*a.v)) != 0))
			return false;
	}
	if ((one->run_as == NULL) != (two->run_as == NULL) ||
	    (one->run_as != NULL && strcmp(one->run_as, two->run_as) != 0))
		return false;
	return strcmp(one->data_dir, two->data_dir) == 0;
}
