/*
 * check_conf.c -- the configuration file: every directive with good values
 * and with bad ones, the defaults, and what must fit together.
 *
 * A good row says how a field reads afterwards, a bad row what is told on
 * stderr, to the letter; ~ stands for the test's own folder.
 */
#include "testlib.h"

#define AT(member) offsetof(struct conf, member)
#define CONF       "~/mailserv.conf:"
#define USERS      "domain here.test\nusers users\n"

/* ---- a configuration as text --------------------------------------------- */

/* How a field of struct conf reads: see fields[]. */
struct field {
	const char *name;
	void (*show)(FILE *f, const struct conf *conf,
	    const struct field *field);
	size_t at;            /* its place */
	const char *standard; /* its default; NULL: see the test */
};

static const void *
place(const struct conf *conf, size_t at)
{
	return (const char *)conf + at;
}

static void
show_text(FILE *f, const struct conf *conf, const struct field *field)
{
	const char *const *text = place(conf, field->at);

	fputs(*text != NULL ? *text : "", f);
}

static void
show_addresses(FILE *f, const struct conf *conf, const struct field *field)
{
	const struct addresses *list = place(conf, field->at);
	char text[PEER_TEXT];

	for (size_t i = 0; i < list->n; i++) {
		address_format(&list->v[i], true, text);
		fprintf(f, "%s%s", i > 0 ? " " : "", text);
	}
}

static void
show_number(FILE *f, const struct conf *conf, const struct field *field)
{
	const unsigned *number = place(conf, field->at);

	fprintf(f, "%u", *number);
}

static void
show_size(FILE *f, const struct conf *conf, const struct field *field)
{
	const size_t *size = place(conf, field->at);

	fprintf(f, "%zu", *size);
}

/* In seconds. */
static void
show_time(FILE *f, const struct conf *conf, const struct field *field)
{
	const msec *time = place(conf, field->at);

	fprintf(f, "%lld", (long long)(*time / SECOND));
}

static void
show_retry(FILE *f, const struct conf *conf, const struct field *field)
{
	(void)field;
	for (size_t i = 0; i < conf->n_retry; i++)
		fprintf(f, "%s%lld", i > 0 ? " " : "",
		    (long long)(conf->retry[i] / SECOND));
}

static void
show_names(FILE *f, const struct conf *conf, const struct field *field)
{
	const struct names *names = place(conf, field->at);

	for (size_t i = 0; i < names->n; i++)
		fprintf(f, "%s%s", i > 0 ? " " : "", names->v[i]);
}

static void
show_yes_no(FILE *f, const struct conf *conf, const struct field *field)
{
	const bool *answer = place(conf, field->at);

	fputs(*answer ? "yes" : "no", f);
}

static void
show_relay_domains(FILE *f, const struct conf *conf,
    const struct field *field)
{
	(void)field;
	for (size_t i = 0; i < conf->n_relay_domains; i++) {
		const struct relay_domain *rd = &conf->relay_domains[i];

		fprintf(f, "%s%s%s", i > 0 ? "; " : "", rd->name,
		    rd->listed ? ":" : "");
		for (size_t k = 0; k < rd->local_parts.n; k++)
			fprintf(f, " %s", rd->local_parts.v[k]);
	}
}

static void
show_networks(FILE *f, const struct conf *conf, const struct field *field)
{
	(void)field;
	for (size_t i = 0; i < conf->n_relay_from; i++) {
		const struct cidr *cidr = &conf->relay_from[i];

		fputs(i > 0 ? " " : "", f);
		for (size_t k = 0; k < 16; k++)
			fprintf(f, "%02x", cidr->net[k]);
		fprintf(f, "/%u", cidr->bits);
	}
}

static void
show_users(FILE *f, const struct conf *conf, const struct field *field)
{
	(void)field;
	for (size_t i = 0; i < conf->n_users; i++)
		fprintf(f, "%s%s=%s%s", i > 0 ? "; " : "",
		    conf->users[i].name, conf->users[i].plain ? "" : "crypt:",
		    conf->users[i].secret);
}

static void
show_aliases(FILE *f, const struct conf *conf, const struct field *field)
{
	(void)field;
	for (size_t i = 0; i < conf->n_aliases; i++)
		fprintf(f, "%s%s=%s", i > 0 ? " " : "",
		    conf->aliases[i].name, conf->aliases[i].target);
}

static void
show_catch_all(FILE *f, const struct conf *conf, const struct field *field)
{
	(void)field;
	fputs(conf->catch_all != NULL ? conf->catch_all->name : "", f);
}

static void
show_faults(FILE *f, const struct conf *conf, const struct field *field)
{
	static const char *const action[] = { "code", "err", "drop",
		"stall" };

	(void)field;
	for (size_t i = 0; i < conf->n_faults; i++) {
		const struct fault *fault = &conf->faults[i];

		fprintf(f, "%s%s %s %s %u %u%%", i > 0 ? "; " : "",
		    fault->kind == KIND_SMTP ? "smtp" : "pop3", fault->verb,
		    action[fault->action], fault->code, fault->percent);
	}
}

#define LOOPBACK                                                       \
	"00000000000000000000ffff7f000000/104 "                        \
	"00000000000000000000000000000001/128"

/* The table of directives and their defaults, written again by hand. */
static const struct field fields[] = {
	{ "hostname", show_text, AT(hostname), NULL },
	{ "data_dir", show_text, AT(data_dir), "~/mailserv-data" },
	{ "listen_smtp", show_addresses, AT(listen[KIND_SMTP]),
	    "[127.0.0.1]:2525" },
	{ "listen_pop3", show_addresses, AT(listen[KIND_POP3]),
	    "[127.0.0.1]:1110" },
	{ "listen_dns", show_addresses, AT(listen[KIND_DNS]), "" },
	{ "zone", show_size, AT(n_zones), "0" },
	{ "resolver", show_addresses, AT(resolvers), NULL },
	{ "domain", show_names, AT(domains), "" },
	{ "relay_domain", show_relay_domains, 0, "" },
	{ "relay_from", show_networks, 0, LOOPBACK },
	{ "users", show_users, 0, "" },
	{ "alias", show_aliases, 0, "" },
	{ "catch_all", show_catch_all, 0, "" },
	{ "smtp_port", show_number, AT(smtp_port), "25" },
	{ "retry", show_retry, 0, "60 300 900 1800 3600" },
	{ "warn_after", show_time, AT(warn_after), "14400" },
	{ "expire", show_time, AT(expire), "432000" },
	{ "max_message", show_size, AT(max_message), "52428800" },
	{ "max_recipients", show_number, AT(max_recipients), "1000" },
	{ "max_clients", show_number, AT(max_clients), "10000" },
	{ "max_per_client", show_number, AT(max_per_client), "100" },
	{ "timeout_smtp", show_time, AT(timeout_smtp), "300" },
	{ "timeout_pop3", show_time, AT(timeout_pop3), "600" },
	{ "timeout_connect", show_time, AT(timeout_connect), "30" },
	{ "timeout_relay", show_time, AT(timeout_relay), "300" },
	{ "run_as", show_text, AT(run_as), "" },
	{ "plain_ok", show_yes_no, AT(plain_ok), "no" },
	{ "time_scale", show_number, AT(time_scale), "1" },
	{ "fault", show_faults, 0, "" },
};

/* The field of this name, as text, in text[]. */
static const char *
show(const struct conf *conf, const char *name)
{
	static char text[4096];
	FILE *f = fmemopen(text, sizeof(text), "w");
	size_t i = 0;

	while (strcmp(fields[i].name, name) != 0)
		ck_assert_uint_lt(++i, NELEM(fields));
	ck_assert_ptr_nonnull(f);
	fields[i].show(f, conf, &fields[i]);
	fputc('\0', f);
	fclose(f);
	return text;
}

/* Put the test's folder where ~ stands. */
static const char *
expand(const char *text)
{
	static char whole[8192];
	size_t len = 0;

	for (; *text != '\0'; text++)
		len += (size_t)snprintf(whole + len, sizeof(whole) - len,
		    "%.*s", *text == '~' ? (int)sizeof(test_dir) : 1,
		    *text == '~' ? test_dir : text);
	whole[len] = '\0';
	return whole;
}

/* ---- the files that a configuration names -------------------------------- */

static const char zone_text[] =
    "$TTL 3600\n"
    "@ IN SOA ns.lab. root.lab. ( 1 3600 600 86400 300 )\n"
    "@ IN NS ns.lab.\n"
    "ns IN A 127.0.0.1\n";

static void
begin(void)
{
	test_begin();
	test_write("users", "# three of them\n\n"
			    "bob:{PLAIN}b#o:b {PLAIN}\n"
			    "Alice:{CRYPT}$6$salt$hash\n"
			    "carol:{PLAIN}\n");
	test_write("list", "# who is there\nann\nbert here is a word\n\n"
			   "Zoe\r\n");
	test_write("lab.zone", zone_text);
	ck_assert_int_eq(mkdir(test_path("folder"), 0700), 0);
}

/* Read a configuration; what it said must be this, line for line. */
static struct conf *
load(const char *text, const char *said, struct diag *diag)
{
	const char *file = test_write("mailserv.conf", text);

	log_level = 0;
	test_capture(STDERR_FILENO);
	struct conf *conf = conf_load(file, diag);

	ck_assert_str_eq(test_captured(), expand(said));
	return conf;
}

/* ---- good values --------------------------------------------------------- */

static const struct good {
	const char *text, *field, *shown;
} good[] = {
	{ "hostname mail.example.test", "hostname", "mail.example.test" },
	{ "hostname a_b-c.9", "hostname", "a_b-c.9" },
	{ "data_dir state", "data_dir", "~/state" },
	{ "data_dir ../state", "data_dir", "~/../state" },
	{ "data_dir /var/mailserv", "data_dir", "/var/mailserv" },
	{ "listen_smtp 127.0.0.1:2526", "listen_smtp", "[127.0.0.1]:2526" },
	{ "listen_smtp 127.0.0.1:2526 [::1]:2527", "listen_smtp",
	    "[127.0.0.1]:2526 [::1]:2527" },
	{ "listen_smtp 127.0.0.2:2526\nlisten_smtp [::1]:65535",
	    "listen_smtp", "[127.0.0.2]:2526 [::1]:65535" },
	{ "listen_smtp 0.0.0.0:2526", "listen_smtp", "[0.0.0.0]:2526" },
	{ "listen_smtp none", "listen_smtp", "" },
	{ "listen_pop3 [::]:1111", "listen_pop3", "[::]:1111" },
	{ "listen_pop3 none", "listen_pop3", "" },
	{ "listen_dns 127.0.0.1:5353", "listen_dns", "[127.0.0.1]:5353" },
	{ "listen_dns none", "listen_dns", "" },
	{ "zone lab lab.zone", "zone", "1" },
	{ "zone lab ~/lab.zone\nzone lab2 lab.zone", "zone", "2" },
	{ "resolver 192.0.2.1", "resolver", "[192.0.2.1]:53" },
	{ "resolver 192.0.2.1:5353 2001:db8::1 [2001:db8::2]:54", "resolver",
	    "[192.0.2.1]:5353 [2001:db8::1]:53 [2001:db8::2]:54" },
	{ "resolver none", "resolver", "" },
	{ USERS "domain b.test a.test HERE.test", "domain",
	    "a.test b.test here.test" },
	{ "users users\ndomain none", "domain", "" },
	{ "users users\nhostname me.test", "domain", "me.test" },
	{ "domain none", "domain", "" },
	{ "relay_domain far.test", "relay_domain", "far.test" },
	{ "relay_domain far.test list\nrelay_domain b.test", "relay_domain",
	    "far.test: ann bert Zoe; b.test" },
	{ "relay_from 192.0.2.0/24 2001:db8::/32", "relay_from",
	    "00000000000000000000ffffc0000200/120 "
	    "20010db8000000000000000000000000/32" },
	{ "relay_from 192.0.2.1\nrelay_from ::1", "relay_from",
	    "00000000000000000000ffffc0000201/128 "
	    "00000000000000000000000000000001/128" },
	{ "relay_from 0.0.0.0/0", "relay_from",
	    "00000000000000000000ffff00000000/96" },
	{ "relay_from none", "relay_from", "" },
	{ USERS, "users",
	    "alice=crypt:$6$salt$hash; bob=b#o:b {PLAIN}; carol=" },
	{ USERS, "alias", "postmaster=bob" },
	{ USERS "alias Sales bob\nalias sales x@far.test", "alias",
	    "Sales=bob sales=x@far.test postmaster=bob" },
	{ USERS "alias PostMaster carol", "alias", "PostMaster=carol" },
	{ USERS "alias a b@here.test\nalias b BOB@here.test", "alias",
	    "a=b@here.test b=BOB@here.test postmaster=bob" },
	{ USERS "alias any x@here.test\ncatch_all bob", "alias",
	    "any=x@here.test postmaster=bob" },
	{ USERS "catch_all CAROL", "catch_all", "carol" },
	{ "smtp_port 1", "smtp_port", "1" },
	{ "smtp_port 65535", "smtp_port", "65535" },
	{ "retry 1", "retry", "1" },
	{ "retry 1 2s 3m 4h 5d", "retry", "1 2 180 14400 432000" },
	{ "retry 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16", "retry",
	    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16" },
	{ "warn_after 0", "warn_after", "0" },
	{ "warn_after 365d", "warn_after", "31536000" },
	{ "expire 1s", "expire", "1" },
	{ "max_message 1024", "max_message", "1024" },
	{ "max_message 64K", "max_message", "65536" },
	{ "max_message 2G", "max_message", "2147483648" },
	{ "max_recipients 1", "max_recipients", "1" },
	{ "max_clients 1000000", "max_clients", "1000000" },
	{ "max_per_client 0", "max_per_client", "0" },
	{ "timeout_smtp 90", "timeout_smtp", "90" },
	{ "timeout_pop3 1d", "timeout_pop3", "86400" },
	{ "timeout_connect 1s", "timeout_connect", "1" },
	{ "timeout_relay 2h", "timeout_relay", "7200" },
	{ "run_as nobody", "run_as", "nobody" },
	{ "plain_ok yes", "plain_ok", "yes" },
	{ "plain_ok no", "plain_ok", "no" },
	{ USERS "plain_ok yes\nlisten_pop3 0.0.0.0:1110", "plain_ok", "yes" },
	{ "time_scale 3600", "time_scale", "3600" },
	{ "time_scale 1\nlisten_smtp 0.0.0.0:2525", "time_scale", "1" },
	{ "fault smtp MAIL 450", "fault", "smtp MAIL code 450 100%" },
	{ "fault smtp dot 599 0\nfault pop3 RETR -ERR 100\n"
	  "fault pop3 connect drop 7\nfault smtp ehlo stall 1",
	    "fault",
	    "smtp dot code 599 0%; pop3 RETR err 0 100%; "
	    "pop3 connect drop 0 7%; smtp ehlo stall 0 1%" },
	/* How a line is read. */
	{ "# smtp_port 1\n\n   \t\n#", "smtp_port", "25" },
	{ "\t smtp_port \t 2525 \t# 25\n", "smtp_port", "2525" },
	{ "smtp_port 2525 #", "smtp_port", "2525" },
	{ "hostname a.test\r\n# x\r\n\r\nsmtp_port 2525\r\n", "smtp_port",
	    "2525" },
	{ "hostname a.test\r\nsmtp_port 2525", "hostname", "a.test" },
};

/* A directive with a good value says nothing, and is taken. */
START_TEST(good_value)
{
	const struct good *row = &good[_i];
	struct diag diag = { .errors = 0 };
	char text[1024];

	snprintf(text, sizeof(text), "%s", expand(row->text));
	struct conf *conf = load(text, "", &diag);

	ck_assert_uint_eq(diag.errors + diag.warnings, 0);
	ck_assert_str_eq(show(conf, row->field), expand(row->shown));
	conf_free(conf);
}
END_TEST

/* ---- bad values ---------------------------------------------------------- */

static const struct bad {
	const char *text, *said;
} bad[] = {
	/* Lines. */
	{ "hostnam x", CONF "1: no such directive: hostnam\n" },
	{ "\n# x\n\nHOSTNAME x", CONF "4: no such directive: HOSTNAME\n" },
	{ "hostname", CONF "1: hostname needs a value\n" },
	{ "hostname # none", CONF "1: hostname needs a value\n" },
	{ "hostname a b", CONF "1: hostname takes no more than 1 value\n" },
	{ "hostname a\nhostname b", CONF "2: hostname is given twice\n" },
	{ "zone lab", CONF "1: zone needs more values\n" },
	{ "zone lab lab.zone x",
	    CONF "1: zone takes no more than 2 values\n" },
	{ "alias x", CONF "1: alias needs more values\n" },
	{ "fault smtp MAIL", CONF "1: fault needs more values\n" },
	{ "ann:{PLAIN}secret", CONF "1: no such directive: ann\n" },
	{ "x\ny\n\nz", CONF "1: no such directive: x\n" CONF
		"2: no such directive: y\n" CONF "4: no such directive: z\n" },
	/* Names. */
	{ "hostname a..b", CONF "1: hostname: no domain name: a..b\n" },
	{ "hostname .a", CONF "1: hostname: no domain name: .a\n" },
	{ "hostname a.", CONF "1: hostname: no domain name: a.\n" },
	{ "hostname -a", CONF "1: hostname: no domain name: -a\n" },
	{ "hostname a/b", CONF "1: hostname: no domain name: a/b\n" },
	{ "hostname [127.0.0.1]",
	    CONF "1: hostname: no domain name: [127.0.0.1]\n" },
	{ "users users\ndomain a!b ok.test c@d",
	    CONF "2: domain: no domain name: a!b\n" CONF
		 "2: domain: no domain name: c@d\n" },
	{ "relay_domain a@b", CONF "1: relay_domain: no domain name: a@b\n" },
	/* Addresses. */
	{ "listen_smtp 127.0.0.1",
	    CONF "1: listen_smtp: no address: 127.0.0.1 (127.0.0.1:2525 or"
		 " [::1]:2525 would be)\n" },
	{ "listen_pop3 localhost:110",
	    CONF "1: listen_pop3: no address: localhost:110 (127.0.0.1:2525"
		 " or [::1]:2525 would be)\n" },
	{ "listen_dns 127.0.0.1:0 127.0.0.1:65536 ::1:5353",
	    CONF "1: listen_dns: no address: 127.0.0.1:0 (127.0.0.1:2525 or"
		 " [::1]:2525 would be)\n" CONF
		 "1: listen_dns: no address: 127.0.0.1:65536 (127.0.0.1:2525"
		 " or [::1]:2525 would be)\n" CONF
		 "1: listen_dns: no address: ::1:5353 (127.0.0.1:2525 or"
		 " [::1]:2525 would be)\n" },
	{ "listen_smtp none 127.0.0.1:2525",
	    CONF "1: listen_smtp: no address: none (127.0.0.1:2525 or"
		 " [::1]:2525 would be)\n" },
	{ "resolver ns.test",
	    CONF "1: resolver: no address: ns.test (127.0.0.1:2525 or"
		 " [::1]:2525 would be)\n" },
	{ "listen_pop3 127.0.0.1:2526\nlisten_smtp [::]:2526 127.0.0.1:2526",
	    CONF "2: listen_smtp: 127.0.0.1:2526 is there twice\n" },
	{ "listen_dns 127.0.0.1:2053\nlisten_dns 127.0.0.1:2053",
	    CONF "2: listen_dns: 127.0.0.1:2053 is there twice\n" },
	/* Networks. */
	{ "relay_from 192.0.2.0/33",
	    CONF "1: relay_from: no network: 192.0.2.0/33 (192.0.2.0/24"
		 " would be)\n" },
	{ "relay_from ::/129 192.0.2/24 here",
	    CONF "1: relay_from: no network: ::/129 (192.0.2.0/24 would"
		 " be)\n" CONF
		 "1: relay_from: no network: 192.0.2/24 (192.0.2.0/24 would"
		 " be)\n" CONF
		 "1: relay_from: no network: here (192.0.2.0/24 would be)\n" },
	{ "relay_from 192.0.2.1:25",
	    CONF "1: relay_from: no network: 192.0.2.1:25 (192.0.2.0/24"
		 " would be)\n" },
	{ "relay_from 192.0.2.1/",
	    CONF "1: relay_from: no network: 192.0.2.1/ (192.0.2.0/24 would"
		 " be)\n" },
	/* Numbers, times, sizes; some would be right modulo 2^64. */
	{ "smtp_port 0", CONF "1: smtp_port: a number from 1 to 65535,"
			      " not 0\n" },
	{ "smtp_port 65536", CONF "1: smtp_port: a number from 1 to 65535,"
				  " not 65536\n" },
	{ "smtp_port 25x", CONF "1: smtp_port: a number from 1 to 65535,"
				" not 25x\n" },
	{ "smtp_port -1", CONF "1: smtp_port: a number from 1 to 65535,"
			       " not -1\n" },
	{ "max_recipients 0", CONF "1: max_recipients: a number from 1 to"
				   " 3000, not 0\n" },
	{ "max_recipients 3001", CONF "1: max_recipients: a number from 1 to"
				      " 3000, not 3001\n" },
	{ "max_clients 1000001", CONF "1: max_clients: a number from 1 to"
				      " 1000000, not 1000001\n" },
	{ "max_per_client 65536", CONF "1: max_per_client: a number from 0"
				       " to 65535, not 65536\n" },
	{ "time_scale 0", CONF "1: time_scale: a number from 1 to 1000000,"
			       " not 0\n" },
	{ "retry 0", CONF "1: retry: no such time: 0\n" },
	{ "retry 1m 1w 99065847803255d",
	    CONF "1: retry: no such time: 1w\n" CONF
		 "1: retry: no such time: 99065847803255d\n" },
	{ "retry 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17",
	    CONF "1: retry takes no more than 16 values\n" },
	{ "warn_after 366d", CONF "1: warn_after: no such time: 366d\n" },
	{ "expire 0", CONF "1: expire: no such time: 0\n" },
	{ "expire 5 d", CONF "1: expire takes no more than 1 value\n" },
	{ "expire 99065847803255d",
	    CONF "1: expire: no such time: 99065847803255d\n" },
	{ "expire 1000000000000000000000s",
	    CONF "1: expire: no such time: 1000000000000000000000s\n" },
	{ "timeout_smtp 0", CONF "1: timeout_smtp: no such time: 0\n" },
	{ "timeout_pop3 5mm", CONF "1: timeout_pop3: no such time: 5mm\n" },
	{ "timeout_connect 25h",
	    CONF "1: timeout_connect: no such time: 25h\n" },
	{ "timeout_relay m", CONF "1: timeout_relay: no such time: m\n" },
	{ "max_message 1023", CONF "1: max_message: no such size: 1023\n" },
	{ "max_message 1025G", CONF "1: max_message: no such size: 1025G\n" },
	{ "max_message 17179869185G",
	    CONF "1: max_message: no such size: 17179869185G\n" },
	{ "max_message 5MB", CONF "1: max_message: no such size: 5MB\n" },
	{ "plain_ok maybe", CONF "1: plain_ok: yes or no, not maybe\n" },
	/* Faults. */
	{ "fault imap X drop", CONF "1: fault: smtp or pop3, not imap\n" },
	{ "fault imap X y 101", CONF "1: fault: smtp or pop3, not imap\n" CONF
		"1: fault: no action: y\n" CONF
		"1: fault: no percentage: 101\n" },
	{ "fault smtp MALI drop", CONF "1: fault: no such verb: MALI\n" },
	{ "fault smtp RETR drop", CONF "1: fault: no such verb: RETR\n" },
	{ "fault pop3 dot drop", CONF "1: fault: no such verb: dot\n" },
	{ "fault smtp RCPTRCPTRCPTRCPTRCPT drop",
	    CONF "1: fault: no such verb: RCPTRCPTRCPTRCPTRCPT\n" },
	{ "fault smtp MAIL 399", CONF "1: fault: no action: 399\n" },
	{ "fault smtp MAIL 600", CONF "1: fault: no action: 600\n" },
	{ "fault smtp MAIL -ERR", CONF "1: fault: no action: -ERR\n" },
	{ "fault pop3 RETR 450", CONF "1: fault: no action: 450\n" },
	{ "fault smtp MAIL 450 101", CONF "1: fault: no percentage: 101\n" },
	{ "fault smtp MAIL 450 5%", CONF "1: fault: no percentage: 5%\n" },
	/* Files. */
	{ "users nowhere", CONF "1: cannot read ~/nowhere: No such file or"
				" directory\n" },
	{ "users folder", CONF "1: cannot read ~/folder: Is a directory\n" },
	{ "relay_domain a.test nowhere",
	    CONF "1: cannot read ~/nowhere: No such file or directory\n" },
	/* What must fit together. */
	{ "domain a.test", CONF "1: domain a.test has no mailboxes: give"
				" users, or domain none\n" },
	{ USERS "relay_domain HERE.test",
	    CONF "3: HERE.test is a domain and a relay_domain\n" },
	{ "relay_domain a.test\nrelay_domain A.Test",
	    CONF "2: relay_domain A.Test is there twice\n" },
	{ "zone lab lab.zone\nzone LAB. lab.zone",
	    CONF "2: zone LAB. is there twice\n" },
	{ USERS "alias x nobody",
	    CONF "3: alias x: no such user: nobody\n" },
	{ USERS "alias x nobody@here.test",
	    CONF "3: alias x: nobody@here.test leads nowhere\n" },
	{ USERS "alias x y@here.test\nalias y x@here.test",
	    CONF "3: alias x: y@here.test leads nowhere\n" CONF
		 "4: alias y: x@here.test leads nowhere\n" },
	{ USERS "relay_domain far.test list\nalias x nobody@far.test",
	    CONF "4: alias x: nobody@far.test leads nowhere\n" },
	{ USERS "catch_all nobody",
	    CONF "3: catch_all: no such user: nobody\n" },
	{ "catch_all bob", CONF "1: catch_all: no such user: bob\n" },
	{ USERS "listen_pop3 127.0.0.1:1110 0.0.0.0:1110",
	    CONF "2: user bob has a {PLAIN} password, and POP3 listens"
		 " beyond loopback: use mailserv -H, or plain_ok yes\n" },
	{ "time_scale 2\nlisten_dns 192.0.2.1:5353",
	    CONF "1: fault and time_scale are for laboratories: every"
		 " listener must be on loopback\n" },
	{ "fault smtp MAIL 450\nlisten_smtp 0.0.0.0:2525",
	    CONF "1: fault and time_scale are for laboratories: every"
		 " listener must be on loopback\n" },
	{ "fault smtp MAIL 450\nlisten_pop3 [::]:1110",
	    CONF "1: fault and time_scale are for laboratories: every"
		 " listener must be on loopback\n" },
	{ "run_as nobody-such", CONF "1: run_as: no such user:"
				     " nobody-such\n" },
};

/* Every fault of a line is told, with its file and line, to the letter. */
START_TEST(bad_value)
{
	struct diag diag = { .errors = 0 };
	unsigned lines = 0;

	conf_free(load(bad[_i].text, bad[_i].said, &diag));
	for (const char *at = bad[_i].said; (at = strchr(at, '\n')); at++)
		lines++;
	ck_assert_uint_eq(diag.errors, lines);
	ck_assert_uint_eq(diag.warnings, 0);
}
END_TEST

/* 64 values fit on a line; one more is told, not dropped. */
START_TEST(values_on_a_line)
{
	char text[2048] = "relay_from", *end = text + strlen(text);
	struct diag diag = { .errors = 0 };

	for (int i = 0; i < 64; i++)
		end += sprintf(end, " 192.0.2.%d", i);
	struct conf *conf = load(text, "", &diag);

	ck_assert_uint_eq(conf->n_relay_from, 64);
	conf_free(conf);
	strcat(end, " 192.0.2.64");
	conf_free(load(text, CONF "1: relay_from takes no more than 64"
				  " values\n", &diag));
	ck_assert_uint_eq(diag.errors, 1);
}
END_TEST

/* A zone is read by zone.c; its faults are faults of the configuration. */
START_TEST(zone_that_is_not_there)
{
	struct diag diag = { .errors = 0 };

	conf_free(conf_load(test_write("mailserv.conf", "zone lab nowhere"),
	    &diag));
	ck_assert_uint_gt(diag.errors, 0);
}
END_TEST

/* ---- users --------------------------------------------------------------- */

#define NO_USER                                                        \
	"1: no user: NAME:{CRYPT}hash (see mailserv -H) or"            \
	" NAME:{PLAIN}password would be\n"

/* No part of a line that is wrong is told: it may be the password.
 * Names that need no quotes in an address are good (RFC 5321 4.1.2). */
static const struct bad bad_users[] = {
	{ "bob", "~/u:" NO_USER },
	{ "bob:secret", "~/u:" NO_USER },
	{ "bob:{plain}secret", "~/u:" NO_USER },
	{ "#x\nann:{PLAIN}a\nbob:{PLAIN}b\nANN:{PLAIN}c",
	    "~/u:4: user ANN is there twice\n" },
	{ ".bob:{PLAIN}b", "~/u:" NO_USER },
	{ "a/b:{PLAIN}b", "~/u:" NO_USER },
	{ ":{PLAIN}b", "~/u:" NO_USER },
	{ "bob {PLAIN}secret", "~/u:" NO_USER },
	{ "bob{PLAIN}sec:ret", "~/u:" NO_USER },
	{ "bob;sec:ret", "~/u:" NO_USER },
	{ "secret", "~/u:" NO_USER },
	{ "a b:{PLAIN}b", "~/u:" NO_USER },
	{ "a\"b:{PLAIN}b", "~/u:" NO_USER },
	{ "a@b:{PLAIN}b", "~/u:" NO_USER },
	{ "b\303\266b:{PLAIN}b", "~/u:" NO_USER },
	/* As long as a local part may be, and one more: RFC 5321 4.5.3.1.1 */
	{ "a123456789b123456789c123456789d123456789e123456789f123456789"
	  "12345:{PLAIN}b",
	    "~/u:" NO_USER },
};

START_TEST(bad_user)
{
	struct diag diag = { .errors = 0 };

	test_write("u", bad_users[_i].text);
	conf_free(load("domain none\nusers u", bad_users[_i].said, &diag));
	ck_assert_uint_eq(diag.errors, 1);
}
END_TEST

/* What works, but hardly as it was meant, is a warning. */
START_TEST(doubtful)
{
	struct diag diag = { .errors = 0 };
	char users[1024];

	/* PASS, a blank and CRLF leave 248 octets of 255 (RFC 2449 4). */
	snprintf(users, sizeof(users),
	    "ann:{CRYPT}secret\nbob:{CRYPT}\nzoe:{CRYPT}!\n"
	    "amy:{CRYPT}*\nkim:{CRYPT}$6$salt$hash\n"
	    "ben:{PLAIN}%0248d\nmax:{PLAIN}%0249d\n", 0, 0);
	test_write("u", users);
	conf_free(load("domain here.test\nusers u\nalias Bob ann\n"
		       "alias x y@far.test", "~/u:1: warning: user ann:"
	    " no hash such as mailserv -H makes\n~/u:2: warning: user bob:"
	    " no hash such as mailserv -H makes\n~/u:7: warning: user max:"
	    " POP3 has no line so long\n" CONF "3: warning: alias Bob is"
	    " never used: the user of that name comes first\n", &diag));
	ck_assert_uint_eq(diag.errors, 0);
	ck_assert_uint_eq(diag.warnings, 4);
}
END_TEST

/* Names keep their order, passwords all that stands after }: blanks, colons,
 * # and all.  A file with CRLF is read like one without. */
START_TEST(good_users)
{
	struct diag diag = { .errors = 0 };

	test_write("u", "zoe:{PLAIN} #a b# \r\n"
			"A._+-9:{CRYPT}$6$x$y\r\n"
			"a123456789b123456789c123456789d123456789e123456789"
			"f1234567891234:{PLAIN}p\n"
			"#x:{PLAIN}y\n"
			"mid:{PLAIN}last: line without an end");
	struct conf *conf = load("domain none\nusers u", "", &diag);

	ck_assert_str_eq(show(conf, "users"),
	    "a._+-9=crypt:$6$x$y; "
	    "a123456789b123456789c123456789d123456789e123456789"
	    "f1234567891234=p; "
	    "mid=last: line without an end; zoe= #a b# ");
	/* The first of the file, not of the alphabet, is the postmaster. */
	ck_assert_str_eq(show(conf, "alias"), "postmaster=zoe");
	ck_assert_ptr_nonnull(user_find(conf, "ZOE"));
	ck_assert_ptr_null(user_find(conf, "zo"));
	conf_free(conf);
}
END_TEST

/* A user called postmaster needs no alias. */
START_TEST(postmaster_user)
{
	struct diag diag = { .errors = 0 };

	test_write("u", "ann:{PLAIN}a\nPostmaster:{PLAIN}b\n");
	struct conf *conf = load("domain none\nusers u", "", &diag);

	ck_assert_str_eq(show(conf, "alias"), "");
	conf_free(conf);
}
END_TEST

/* ---- defaults ------------------------------------------------------------ */

/* What /etc/resolv.conf names, read by other means than the server's. */
static const char *
system_resolvers(void)
{
	static char text[1024];
	FILE *f = popen("sed -n 's/^nameserver[ \t]*\\([^ \t%]*\\).*/\\1/p'"
			" /etc/resolv.conf 2>/dev/null", "r");
	union address address;
	char host[128], *end = text;

	text[0] = '\0';
	while (f != NULL && fscanf(f, "%127s", host) == 1)
		if (address_parse(host, 53, &address)) {
			end += sprintf(end, "%s", end > text ? " " : "");
			address_format(&address, true, end);
			end += strlen(end);
		}
	if (f != NULL)
		pclose(f);
	return text;
}

/* An empty file: the table's column of defaults.  RFC 5321 4.5.3.1.7 and
 * 4.5.3.1.8 ask for 64K of content and a hundred recipients. */
START_TEST(defaults)
{
	struct diag diag = { .errors = 0 };
	struct conf *conf = load("", "", &diag);
	char host[HOST_MAX];

	for (size_t i = 0; i < NELEM(fields); i++)
		if (fields[i].standard != NULL)
			ck_assert_msg(strcmp(show(conf, fields[i].name),
			    expand(fields[i].standard)) == 0,
			    "%s is %s", fields[i].name,
			    show(conf, fields[i].name));
	ck_assert_int_eq(gethostname(host, sizeof(host)), 0);
	ck_assert_str_eq(show(conf, "hostname"), host);
	ck_assert_str_eq(show(conf, "resolver"), system_resolvers());
	ck_assert_uint_eq(diag.errors + diag.warnings, 0);
	conf_free(conf);
}
END_TEST

/* No file: alice and bob at localhost, each with its name as password. */
START_TEST(built_in)
{
	struct diag diag = { .errors = 0 };

	log_level = 0;
	test_capture(STDERR_FILENO);
	struct conf *conf = conf_load(NULL, &diag);

	ck_assert_str_eq(test_captured(), "");
	ck_assert_ptr_null(conf->file);
	ck_assert_str_eq(show(conf, "hostname"), "localhost");
	ck_assert_str_eq(show(conf, "domain"), "localhost");
	ck_assert_str_eq(show(conf, "data_dir"), "mailserv-data");
	ck_assert_str_eq(show(conf, "listen_smtp"), "[127.0.0.1]:2525");
	ck_assert_str_eq(show(conf, "listen_pop3"), "[127.0.0.1]:1110");
	ck_assert_str_eq(show(conf, "users"), "alice=alice; bob=bob");
	ck_assert_str_eq(show(conf, "alias"), "postmaster=alice");
	conf_free(conf);
}
END_TEST

/* With a file, alice and bob are not there. */
START_TEST(no_users)
{
	struct diag diag = { .errors = 0 };
	struct conf *conf = load("hostname a.test", "", &diag);

	ck_assert_str_eq(show(conf, "users"), "");
	ck_assert_str_eq(show(conf, "domain"), "");
	conf_free(conf);
}
END_TEST

/* A configuration that cannot be read is one error, and only that. */
START_TEST(no_file)
{
	struct diag diag = { .errors = 0 };

	log_level = 0;
	test_capture(STDERR_FILENO);
	conf_free(conf_load(test_path("nowhere"), &diag));
	conf_free(conf_load(test_path("folder"), &diag));
	ck_assert_str_eq(test_captured(), expand("~/nowhere:0: cannot read"
	    " ~/nowhere: No such file or directory\n~/folder:0: cannot read"
	    " ~/folder: Is a directory\n"));
	ck_assert_uint_eq(diag.errors, 2);
}
END_TEST

/* Paths begin at the configuration file, wherever it was named from. */
START_TEST(relative_paths)
{
	struct diag diag = { .errors = 0 };

	test_write("folder/u", "ann:{PLAIN}a\n");
	test_write("folder/list", "kim\n");
	test_write("folder/conf", "data_dir state\nusers u\n"
				  "relay_domain a.test list\n");
	ck_assert_int_eq(chdir(test_dir), 0);
	struct conf *conf = conf_load("folder/conf", &diag);

	ck_assert_uint_eq(diag.errors, 0);
	ck_assert_str_eq(show(conf, "data_dir"), "folder/state");
	ck_assert_str_eq(show(conf, "relay_domain"), "a.test: kim");
	conf_free(conf);
	ck_assert_int_eq(chdir("folder"), 0);
	conf = conf_load("conf", &diag);
	ck_assert_uint_eq(diag.errors, 0);
	ck_assert_str_eq(show(conf, "data_dir"), "state");
	ck_assert_str_eq(show(conf, "users"), "ann=a");
	conf_free(conf);
	ck_assert_int_eq(chdir("/"), 0);
}
END_TEST

/* Root may not keep a port below 1024; anybody else never had it. */
START_TEST(root_on_a_low_port)
{
	struct diag diag = { .errors = 0 };
	bool root = geteuid() == 0;

	conf_free(load("listen_smtp 127.0.0.1:1023",
	    root ? CONF "1: root on a port below 1024: run_as must say who"
			" to become\n" :
		   "", &diag));
	ck_assert_uint_eq(diag.errors, root);
	conf_free(load("listen_smtp 127.0.0.1:1023\nrun_as nobody", "",
	    &diag));
	conf_free(load("listen_smtp 127.0.0.1:1024", "", &diag));
	ck_assert_uint_eq(diag.errors, root);
}
END_TEST

/* While a server runs (SIGHUP), faults go to its log. */
START_TEST(faults_into_the_log)
{
	struct diag diag = { .errors = 0 };
	const char *file = test_write("mailserv.conf", "x");
	struct conf running = { .refs = 1 };

	srv.conf = &running;
	srv.serving = true;
	log_level = 0;
	test_capture(STDERR_FILENO);
	conf_free(conf_load(file, &diag));
	ck_assert_str_eq(test_captured(), expand(
	    "1970-01-01T00:00:00.000Z main - ~/mailserv.conf:1: no such"
	    " directive: x\n"));
	ck_assert_uint_eq(diag.errors, 1);
}
END_TEST

/* Listeners, data_dir and run_as need a restart; the rest does not. */
START_TEST(same_outside)
{
	static const char base[] = "smtp_port 2525\n";
	static const char *const inside[] = { "hostname a.test",
		"max_clients 7", "relay_from none", "resolver none",
		"listen_smtp 127.0.0.1:2525" };
	static const char *const outside[] = { "listen_smtp none",
		"listen_smtp 127.0.0.1:2526",
		"listen_smtp 127.0.0.1:2525 127.0.0.1:2526",
		"listen_pop3 127.0.0.1:2527", "listen_dns 127.0.0.1:5353",
		"data_dir elsewhere", "run_as nobody" };
	struct diag diag = { .errors = 0 };
	struct conf *one = load(base, "", &diag);

	for (size_t i = 0; i < NELEM(inside) + NELEM(outside); i++) {
		bool same = i < NELEM(inside);
		struct conf *two = load(same ? inside[i] :
					       outside[i - NELEM(inside)],
		    "", &diag);

		ck_assert_msg(conf_same_outside(one, two) == same, "%zu", i);
		ck_assert(conf_same_outside(two, one) == same);
		conf_free(two);
	}
	conf_free(one);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("conf");
	TCase *tcase = tcase_create("configuration");

	tcase_add_checked_fixture(tcase, begin, test_end);
	tcase_add_loop_test(tcase, good_value, 0, (int)NELEM(good));
	tcase_add_loop_test(tcase, bad_value, 0, (int)NELEM(bad));
	tcase_add_loop_test(tcase, bad_user, 0, (int)NELEM(bad_users));
	tcase_add_test(tcase, values_on_a_line);
	tcase_add_test(tcase, zone_that_is_not_there);
	tcase_add_test(tcase, good_users);
	tcase_add_test(tcase, doubtful);
	tcase_add_test(tcase, postmaster_user);
	tcase_add_test(tcase, defaults);
	tcase_add_test(tcase, built_in);
	tcase_add_test(tcase, no_users);
	tcase_add_test(tcase, no_file);
	tcase_add_test(tcase, relative_paths);
	tcase_add_test(tcase, root_on_a_low_port);
	tcase_add_test(tcase, faults_into_the_log);
	tcase_add_test(tcase, same_outside);
	suite_add_tcase(suite, tcase);
	SRunner *runner = srunner_create(suite);

	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);

	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
