/*
 * place.c -- where an address leads: a mailbox, the next host, or nowhere.
 *
 * What this is
 *	Domains, users, aliases and catch_all of the configuration, in the order
 *	in which they are asked.  path.c has judged the address already.
 * Call it in this order
 *	place_of() to know; place_add() to put where it leads into a message.
 * Always true
 *	place_add() puts nobody on a list twice, over however many aliases.
 * What it does not do
 *	Ask DNS: whether the next host can be found is route.c's, later.
 */
#include <errno.h>
#include <string.h>
#include <strings.h>
#include "mailserv.h"

/* Is a domain, or an address literal such as [127.0.0.1], ours?  A literal is
 * where one of our listeners hears it, on whatever port: an address of mail has
 * none, so each listener's is put in for the comparison. */
static bool
is_ours(const struct conf *conf, const char *domain)
{
	union address literal;

	if (domain[0] != '[')
		return names_has(&conf->domains, domain);
	if (address_literal(domain, &literal) == NULL)
		return false;
	for (size_t i = 0; i < conf->listen[KIND_SMTP].n; i++) {
		const union address *listener = &conf->listen[KIND_SMTP].v[i];

		address_set_port(&literal, address_port(listener));
		if (route_listens(listener, &literal))
			return true;
	}
	return false;
}

/* A local part without the quoting of RFC 5321 4.1.2: "a\"b" is a"b.  So
 * "alice"@localhost is alice's: quotes are no part of a name. */
static void
unquote(char *local)
{
	char *to = local;

	if (*local != '"')
		return;
	for (const char *from = local + 1; *from != '\0'; from++) {
		if (*from == '\\' && from[1] != '\0')
			from++;
		else if (*from == '"')
			break;
		*to++ = *from;
	}
	*to = '\0';
}

static enum place resolve(const struct conf *conf, const char *address,
    struct msg *m, unsigned depth);

/*
 * A local part of ours: user, then alias, then catch_all.  m NULL: it is only
 * asked.  Of an alias all lines count, each with what it leads to:
 *
 *	alias team alice		place_add(team@localhost): locals
 *	alias team carol@else.test	alice, remotes carol@else.test
 *
 * One that leads to itself, over others perhaps, ends at ALIAS_DEPTH; where it
 * leads nowhere else, conf_load() has refused it.  Exercise: how often is alice
 * added, where three lines say "alias a a@localhost" and one "alias a alice"?
 * Mark the aliases that were seen.
 */
static enum place
resolve_local(const struct conf *conf, const char *local, struct msg *m,
    unsigned depth)
{
	const struct user *user = user_find(conf, local);
	bool ask = user == NULL && depth < ALIAS_DEPTH, found = false;

	for (size_t i = 0; i < conf->n_aliases && ask; i++)
		if (strcasecmp(conf->aliases[i].name, local) == 0 &&
		    resolve(conf, conf->aliases[i].target, m, depth + 1) !=
			PLACE_NOBODY)
			found = true;
	if (user == NULL && !found)
		user = conf->catch_all;
	if (user != NULL && m != NULL && !names_add(&m->locals, user->name))
		m->error = ENOMEM;
	found |= user != NULL;
	return found ? PLACE_LOCAL : PLACE_NOBODY;
}

/* Is the domain one that we relay for, and the local part known there?  Who is
 * not is refused here, at RCPT: accepted, it would come back as a report to a
 * sender who may be forged.  A postmaster is everywhere (RFC 5321 4.5.1). */
static enum place
place_remote(const struct conf *conf, const char *local, const char *domain)
{
	for (size_t i = 0; i < conf->n_relay_domains; i++) {
		const struct relay_domain *rd = &conf->relay_domains[i];

		if (strcasecmp(rd->name, domain) != 0)
			continue;
		if (rd->listed && !names_has(&rd->local_parts, local) &&
		    strcasecmp(local, "postmaster") != 0)
			return PLACE_NOBODY;
		return PLACE_RELAY;
	}
	return PLACE_REMOTE;
}

/* Find out where an address leads, and, with a message, send it there.  The
 * last @ parts it: a quoted local part may hold others.  Without one it is
 * ours, as "postmaster" is, or an alias's user.  On the way out the address
 * stays as it came, quotes and case: only the next host knows what they mean
 * there.  A lack of memory is noted in the message, for the other aliases go
 * on. */
static enum place
resolve(const struct conf *conf, const char *address, struct msg *m,
    unsigned depth)
{
	char local[PATH_MAX_SMTP + 1];
	const char *at = strrchr(address, '@');
	size_t len = at != NULL ? (size_t)(at - address) : strlen(address);

	snprintf(local, sizeof(local), "%.*s", (int)len, address);
	unquote(local);
	if (at == NULL || is_ours(conf, at + 1))
		return resolve_local(conf, local, m, depth);
	enum place place = place_remote(conf, local, at + 1);

	if (m != NULL && place != PLACE_NOBODY &&
	    !names_add(&m->remotes, address))
		m->error = ENOMEM;
	return place;
}

enum place
place_of(const struct conf *conf, const char *address)
{
	return resolve(conf, address, NULL, 0);
}

bool
place_add(const struct conf *conf, struct msg *m, const char *address)
{
	resolve(conf, address, m, 0);
	return m->error == 0;
}
