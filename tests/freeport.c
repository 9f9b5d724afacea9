/*
 * freeport.c -- print N ports that are free, TCP and UDP, on all addresses.
 *
 * All N are held until the last is found, so that they differ.  Another
 * program may take one before the caller does: the window is short, and the
 * kernel hands out ports in an order of its own.
 */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

/* Bind a socket of this type to a port (0: any); return the port, or 0. */
static unsigned
hold(int type, unsigned port)
{
	struct sockaddr_in any = { .sin_family = AF_INET,
		.sin_port = htons((unsigned short)port) };
	socklen_t len = sizeof(any);
	int fd = socket(AF_INET, type, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&any, len) < 0 ||
	    getsockname(fd, (struct sockaddr *)&any, &len) < 0)
		return 0;
	return ntohs(any.sin_port);
}

int
main(int argc, char **argv)
{
	int wanted = argc > 1 ? atoi(argv[1]) : 1;

	for (int tries = 0; wanted > 0 && tries < 1000; tries++) {
		unsigned port = hold(SOCK_STREAM, 0);

		if (port == 0 || hold(SOCK_DGRAM, port) == 0)
			continue;
		printf("%u\n", port);
		wanted--;
	}
	return wanted > 0;
}
