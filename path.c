/*
 * path.c -- the syntax of mail addresses (RFC 5321 4.1.2 and 4.1.3).
 *
 * What this is
 *	A parser in small steps, one function a rule of the grammar.  The
 *	longest walk is that of a forward-path:
 *		<@one,@two:"local part"@[IPv6:2001:db8::1]>
 *		 skip_route skip_local  path_skip_host
 * Call it in this order
 *	path_skip() where a '<' stands; path_skip_host() after EHLO.
 * A typical sequence, with break path_skip in gdb
 *	do_rcpt -> take_path -> path_skip -> skip_local -> skip_quoted
 * Always true
 *	Nothing is read behind the NUL at the line's end, whatever came.
 *	An address is never expanded, and never becomes part of a path on
 *	disk: place_of() looks it up.
 * What it does not do
 *	Comments and folding: those belong to headers (RFC 5322 3.2.2).
 *	Exercise: SMTPUTF8 (RFC 6531 3.3) widens two of these rules; which?
 */
#include <string.h>
#include "mailserv.h"

/* Each skip_X() is given where an X should begin, and returns where it ends,
 * or NULL: there is none.  None of them runs past the end of the line, because
 * the NUL there belongs to no X.  A domain's words have no hyphen at either
 * end (RFC 5321 4.1.2), and the DNS has no room for long ones. */
static const char *
skip_domain(const char *at)
{
	for (;; at++) {
		size_t len = strspn(at, LET_DIG "-");

		if (len == 0 || len > LABEL_MAX || at[0] == '-' ||
		    at[len - 1] == '-')
			return NULL;
		at += len;
		if (*at != '.')
			return at;
	}
}

/* "[" begins no domain, so one look tells which it is.  The literal is not
 * kept: whether it is ours place.c asks, and route.c where it leads. */
const char *
path_skip_host(const char *at)
{
	union address literal;

	return *at == '[' ? address_literal(at, &literal) : skip_domain(at);
}

/* A backslash takes the next octet with it, but never past the end.  Anything
 * else may stand there, even @ and >, which is why nobody looks for those from
 * the front; what is not printable smtp.c has refused, in all of the line. */
static const char *
skip_quoted(const char *at)
{
	for (at++; *at != '"'; at++) {
		if (*at == '\\')
			at++;
		if (*at == '\0')
			return NULL;
	}
	return at + 1;
}

/* A Quoted-string, or a Dot-string of atoms, none of them empty: neither a.@,
 * .a@ nor a..b@ begins with one. */
static const char *
skip_local(const char *at)
{
	if (*at == '"')
		return skip_quoted(at);
	for (;; at++) {
		size_t len = strspn(at, LET_DIG "!#$%&'*+-/=?^_`{|}~");

		if (len == 0)
			return NULL;
		at += len;
		if (*at != '.')
			return at;
	}
}

/* "@one,@two:", which must be accepted, and is to be ignored (RFC 5321 C). */
static const char *
skip_route(const char *at)
{
	for (;; at++) {
		at = *at == '@' ? skip_domain(at + 1) : NULL;
		if (at == NULL)
			return NULL;
		if (*at == ':')
			return at + 1;
		if (*at != ',')
			return NULL;
	}
}

/* Each fault is noted before its test, so that every way out has one; of a path
 * that is good it says nothing.  The sizes of the parts come before that of the
 * whole, because they say which part to shorten.  (mailbox is large enough: it
 * holds at most what stood between < and >, and a NUL.) */
const char *
path_skip(const char *begin, struct path *path)
{
	const char *local = begin + 1;

	path->fault = "its source route is not valid";
	if (*local == '@' && (local = skip_route(local)) == NULL)
		return NULL;
	path->fault = "its local part is not valid";
	const char *at = skip_local(local);

	if (at == NULL)
		return NULL;
	path->fault = "its local part has over 64 octets";
	if (at - local > LOCAL_MAX)
		return NULL;
	path->fault = "no @ and domain after its local part";
	if (*at != '@')
		return NULL;
	path->fault = "its domain or address literal is not valid";
	const char *end = path_skip_host(at + 1);

	if (end == NULL)
		return NULL;
	path->fault = "its domain has over 255 octets";
	if (end - (at + 1) > DOMAIN_MAX)
		return NULL;
	path->fault = "no > after its domain";
	if (*end != '>')
		return NULL;
	path->fault = "it has over 256 octets";
	if (end + 1 - begin > PATH_MAX_SMTP)
		return NULL;
	snprintf(path->mailbox, sizeof(path->mailbox), "%.*s",
	    (int)(end - local), local);
	return end + 1;
}
