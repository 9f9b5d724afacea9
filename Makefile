# mailserv, being built: so far the parts are compiled, and nothing is linked.
WARN := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion \
	-Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wcast-align \
	-Wwrite-strings -Wformat=2 -Wundef -Wvla -Wold-style-definition \
	-Wredundant-decls -Wnull-dereference
OURS := -std=c11 -D_GNU_SOURCE -Og -g3 -fno-omit-frame-pointer $(WARN)
SRC := $(wildcard *.c)

objects: $(SRC:%.c=build/%.o)

build/%.o: %.c mailserv.h net.h
	@mkdir -p build
	$(CC) $(OURS) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

clean:
	rm -rf build

.PHONY: objects clean
