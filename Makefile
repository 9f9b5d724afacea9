# mailserv
#
#	make             ./mailserv, for the debugger
#	make fast        the same, optimized: for a server under load
#	make demo        the story of MX 10 and MX 20, played on this machine
#	make test        all tests (needs Check)
#	make torture     the promise, tried: crashes, power cuts, faults, load
#	make numbers     the figures of readability, and their limits
#	make interop     beside other servers: root, Debian packages, the network
#	make bench       as fast as others?  likewise (make bench-quick: 3 minutes)
#	make full        all of these and more, one after the other, at length
#
# Your CC, CPPFLAGS, CFLAGS, LDFLAGS and LDLIBS are added to ours.  BUILD is
# the folder for objects: give another one for other flags.
WARN := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion \
	-Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wcast-align \
	-Wwrite-strings -Wformat=2 -Wundef -Wvla -Wold-style-definition \
	-Wredundant-decls -Wnull-dereference
OPT := -Og
OURS = -std=c11 -D_GNU_SOURCE $(OPT) -g3 -fno-omit-frame-pointer $(WARN)
BUILD := build
SERVER := mailserv
FAST := build-fast/mailserv-fast

SRC := mailserv.c conf.c smtp.c path.c place.c queue.c report.c spool.c draft.c \
	route.c relay.c maildrop.c pop3.c dns.c resolver.c zone.c master.c net.c
OBJ := $(SRC:%.c=$(BUILD)/%.o)

$(SERVER): $(OBJ)
	$(CC) $(OURS) $(CFLAGS) $(LDFLAGS) -o $@ $(OBJ) -lcrypt $(LDLIBS)

$(BUILD)/%.o: %.c mailserv.h dns.h draft.h net.h | $(BUILD)
	$(CC) $(OURS) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

$(BUILD):
	mkdir -p $@

fast:
	$(MAKE) OPT=-O2 BUILD=build-fast SERVER=$(FAST)
	cp $(FAST) mailserv

demo: $(SERVER) $(BUILD)/dialogue $(BUILD)/freeport
	BUILD=$(BUILD) SERVER=$(SERVER) lab/story/demo

# ---- tests ------------------------------------------------------------------
#
# A suite names the objects it is linked with in a comment, "Links with: ...";
# without one it gets all of them.  "Wraps: ..." names functions of libc that
# it has its own version of, __wrap_NAME() for NAME(), so that they can fail.
# check_program and check_story play with the real binary.  The longest first.
SUITES := check_story $(filter-out check_story,\
	$(patsubst tests/%.c,%,$(wildcard tests/check_*.c)))
TEST_SERVER := $(BUILD)/mailserv
TEST_OBJ := $(OBJ:$(BUILD)/mailserv.o=$(BUILD)/mailserv_main.o)
CHECK_LIBS = $(shell pkg-config --libs check)

$(BUILD)/mailserv_main.o: mailserv.c mailserv.h dns.h draft.h net.h | $(BUILD)
	$(CC) $(OURS) -Dmain=mailserv_main -Wno-missing-prototypes \
	    $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

$(BUILD)/dialogue $(BUILD)/freeport $(BUILD)/torture $(BUILD)/power \
    $(BUILD)/load: $(BUILD)/%: tests/%.c tests/scene.h tests/traced.h | $(BUILD)
	$(CC) $(OURS) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $<

$(BUILD)/press: tests/bench/press.c | $(BUILD)
	$(CC) $(OURS) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $<

$(BUILD)/check_%: tests/check_%.c $(TEST_OBJ) $(wildcard tests/*.h) \
    tests/dialogue.c
	with=$$(sed -n 's/^ \* Links with:\(.*\)/\1/p' $<); \
	if [ -n "$$with" ]; \
	then set -- $$(printf ' $(BUILD)/%s.o' $$with); \
	else set -- $(TEST_OBJ); fi; \
	[ "$$with" != " none" ] || set --; \
	for name in $$(sed -n 's/^ \* Wraps:\(.*\)/\1/p' $<); \
	do set -- "$$@" "-Wl,--wrap=$$name"; done; \
	$(CC) $(OURS) -I. $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< "$$@" \
	    -lcrypt $(CHECK_LIBS) $(LDLIBS)

# CHECKS=1: the invariants of net.c and smtp.c are looked at after every turn.
$(TEST_SERVER): $(TEST_OBJ:$(BUILD)/mailserv_main.o=$(BUILD)/mailserv_checks.o)
	$(CC) $(OURS) $(CFLAGS) $(LDFLAGS) -o $@ $^ -lcrypt $(LDLIBS)

$(BUILD)/mailserv_checks.o: mailserv.c mailserv.h dns.h draft.h net.h | $(BUILD)
	$(CC) $(OURS) -DCHECKS=1 $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

# A server that is refused memory: see tests/nomem.c.
$(BUILD)/mailserv-nomem: tests/nomem.c tests/nomem.h \
    $(TEST_OBJ:$(BUILD)/mailserv_main.o=$(BUILD)/mailserv_checks.o)
	$(CC) $(OURS) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -rdynamic -o $@ \
	    $(filter %.c %.o,$^) -lcrypt $(LDLIBS)

$(BUILD)/torture_memory: tests/torture_memory.c tests/nomem.h | $(BUILD)
	$(CC) $(OURS) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< -lcrypt

# Two suites at a time; each one's output comes whole.
test: $(SUITES:%=$(BUILD)/%) $(TEST_SERVER) $(BUILD)/dialogue
	@$(MAKE) --no-print-directory -k -j2 -Otarget $(SUITES:%=run-%)

run-check_%:
	@BUILD=$(BUILD) $(UNDER) $(BUILD)/check_$*

test-sanitized:
	$(MAKE) BUILD=build-asan OPT=-O1 CFLAGS="-Wno-null-dereference \
	    -fsanitize=address,undefined -fno-sanitize-recover=all" test

# Errors and leaks, also of servers that the suites start; Check multiplies its
# time-outs.  What Valgrind says of a process is found in valgrind.PID, and
# printed at the end; of a server that a test kills it writes a core of its own.
# It takes four minutes: SUITES="check_spool" makes it less.
test-valgrind:
	rm -f build-valgrind/valgrind.*
	CK_TIMEOUT_MULTIPLIER=20 $(MAKE) BUILD=build-valgrind \
	    UNDER="valgrind -q --vgdb=no --error-exitcode=99 --leak-check=full \
	    --errors-for-leak-kinds=definite --show-leak-kinds=definite \
	    --trace-children=yes --trace-children-skip=*/rm,*/dialogue \
	    --log-file=$(CURDIR)/build-valgrind/valgrind.%p" test; \
	    status=$$?; rm -f build-valgrind/*.core.*; \
	    ! cat build-valgrind/valgrind.* | grep . && exit $$status

# The -O0 keeps what the source says apart.  A server that is killed writes no
# counts; one that is stopped does.  LIMIT is a percentage of the branches.
coverage:
	rm -f build-coverage/*.gcda
	$(MAKE) BUILD=build-coverage OPT=-O0 CFLAGS=--coverage test
	tests/coverage build-coverage

test-stress:
	$(MAKE) BUILD=build-stress CPPFLAGS=-DSTRESS=1 test

# The promise, tried: killed at each system call, the power cut at each, failed
# at each that a disk answers, looked at from beside, refused memory at each
# allocation, pressed by 10,000 clients.  EVERY=N takes every Nth call only,
# STATES so many of a disk, MEMORY= each place only once, LOAD=-s less time.
EVERY := 1
STATES := 100
MEMORY := -l
LOAD :=

torture: $(TEST_SERVER) $(BUILD)/torture $(BUILD)/power $(BUILD)/torture_memory \
    $(BUILD)/mailserv-nomem
	$(BUILD)/torture $(TEST_SERVER) crash $(EVERY)
	$(BUILD)/power $(TEST_SERVER) $(STATES)
	$(BUILD)/torture $(TEST_SERVER) fault $(EVERY)
	$(BUILD)/torture $(TEST_SERVER) beside $(EVERY)
	BUILD=$(BUILD) $(BUILD)/torture_memory $(MEMORY)
	$(MAKE) LOAD=$(LOAD) load

torture-short:
	$(MAKE) EVERY=6 STATES=8 MEMORY= LOAD=-s torture

# Figures of the optimized server, and limits for them.
load: fast-load
	build-fast/load $(LOAD) $(FAST)

fast-load:
	$(MAKE) OPT=-O2 BUILD=build-fast SERVER=$(FAST) $(FAST) build-fast/load

# QUICK=--quick: a sample, in less than three minutes.
interop:
	BUILD=$(BUILD) tests/interop/run $(QUICK)

# Measured beside other servers.  PARTS="smtp dns": only these; "growth": plots.
bench:
	tests/bench/run $(PARTS)

bench-quick:
	tests/bench/run --quick $(PARTS)

fast-bench:
	$(MAKE) OPT=-O2 BUILD=build-fast SERVER=$(FAST) $(FAST) build-fast/press

# Everything, in its long form.
full:
	@for what in test test-sanitized test-stress coverage rfc numbers tidy \
	    cppcheck format-check demo clients test-valgrind torture interop \
	    bench; do \
	    echo "--- $$what"; $(MAKE) --no-print-directory $$what || exit; \
	done

# ---- other checks -----------------------------------------------------------

numbers:
	tests/numbers

# Real clients, those that are installed.
clients: $(TEST_SERVER) $(BUILD)/freeport
	BUILD=$(BUILD) tests/clients

# Clause, code, test: a table.
rfc:
	tests/rfc

format-check:
	clang-format --dry-run -Werror $(SRC) *.h

# One file at a time: clang-tidy 14 confuses the va_lists of several.
tidy:
	@for file in $(SRC); do \
	    clang-tidy --quiet $$file -- -std=c11 -D_GNU_SOURCE || exit 1; \
	done

cppcheck:
	cppcheck --quiet --error-exitcode=1 --std=c11 -D_GNU_SOURCE \
	    --enable=warning,portability,performance --inline-suppr $(SRC)

clean:
	rm -rf build build-* mailserv

.PHONY: fast demo test test-sanitized test-stress torture torture-short load \
	bench bench-quick fast-bench fast-load full numbers tidy cppcheck \
	format-check clean \
	coverage test-valgrind rfc clients interop
