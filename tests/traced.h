/*
 * traced.h -- a process whose system calls are seen, one by one: counted,
 * read, refused, or the last thing it ever did.
 *
 *	traced_start(argv, log);
 *	while (traced_wait(pid, &call))	   it stands before or after a call
 *		traced_go(pid);
 *
 * A stop comes before a call (call.entry) and after it.  Between the two the
 * kernel does the work: who is killed before a call has not done it.
 */
#ifndef TRACED_H
#define TRACED_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/ptrace.h>

/* Where a traced process stands. */
struct call {
	bool entry;	  /* before the call; else after it */
	long number;	  /* SYS_..., also after it */
	uint64_t args[6]; /* also after it */
	int64_t result;	  /* after it */
};

/* Run a program, traced from its first instruction; its output goes to log.
 * It dies with us. */
static inline pid_t
traced_start(const char *const argv[], const char *log, const char *folder)
{
	pid_t pid = fork();

	if (pid == 0) {
		int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);

		if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0 ||
		    chdir(folder) < 0 || ptrace(PTRACE_TRACEME, 0, 0, 0) < 0)
			_exit(126);
		execv(argv[0], (char *const *)argv);
		_exit(127);
	}
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid ||
	    !WIFSTOPPED(status) ||
	    ptrace(PTRACE_SETOPTIONS, pid, 0,
		PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) < 0 ||
	    ptrace(PTRACE_SYSCALL, pid, 0, 0) < 0) {
		perror("ptrace");
		exit(2);
	}
	return pid;
}

/* What a stop that waitpid() told of is.  False: it was a signal, which is
 * handed on, and the process runs again. */
static inline bool
traced_stop(pid_t pid, int status, struct call *call)
{
	struct __ptrace_syscall_info info;
	int number = WSTOPSIG(status);

	if (number != (SIGTRAP | 0x80)) {
		ptrace(PTRACE_SYSCALL, pid, 0, number == SIGTRAP ? 0 : number);
		return false;
	}
	if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info) <= 0) {
		perror("PTRACE_GET_SYSCALL_INFO");
		exit(2);
	}
	call->entry = info.op == PTRACE_SYSCALL_INFO_ENTRY;
	if (call->entry) {
		call->number = (long)info.entry.nr;
		for (int i = 0; i < 6; i++)
			call->args[i] = info.entry.args[i];
	} else {
		call->result = info.exit.rval;
	}
	return true;
}

static inline void
traced_go(pid_t pid)
{
	ptrace(PTRACE_SYSCALL, pid, 0, 0);
}

/* Before a call: let the kernel do nothing. */
static inline void
traced_skip(pid_t pid)
{
#if defined(__x86_64__)
	ptrace(PTRACE_POKEUSER, pid,
	    offsetof(struct user_regs_struct, orig_rax), -1L);
#elif defined(__aarch64__)
	int none = -1;
	struct iovec one = { &none, sizeof(none) };

	ptrace(PTRACE_SETREGSET, pid, 0x404 /* NT_ARM_SYSTEM_CALL */, &one);
#else
#error "which register holds the number of a system call here?"
#endif
}

/* After one: let it have had this result. */
static inline void
traced_answer(pid_t pid, long result)
{
#if defined(__x86_64__)
	ptrace(PTRACE_POKEUSER, pid, offsetof(struct user_regs_struct, rax),
	    result);
#elif defined(__aarch64__)
	struct user_regs_struct regs;
	struct iovec all = { &regs, sizeof(regs) };

	ptrace(PTRACE_GETREGSET, pid, 1 /* NT_PRSTATUS */, &all);
	regs.regs[0] = (unsigned long)result;
	ptrace(PTRACE_SETREGSET, pid, 1, &all);
#endif
}

/* Copy from its memory; how much there was. */
static inline size_t
traced_read(pid_t pid, uint64_t from, void *to, size_t len)
{
	struct iovec here = { to, len };
	struct iovec there = { (void *)(uintptr_t)from, len };
	ssize_t got = process_vm_readv(pid, &here, 1, &there, 1, 0);

	return got > 0 ? (size_t)got : 0;
}

/* A string in its memory, a page at a time so as not to step over its end. */
static inline const char *
traced_string(pid_t pid, uint64_t from, char text[PATH_MAX])
{
	size_t len = 0;

	while (len < PATH_MAX - 1) {
		size_t page = 4096 - ((from + len) & 4095);
		size_t room = PATH_MAX - 1 - len;
		size_t got = traced_read(pid, from + len, text + len,
		    page < room ? page : room);

		if (got == 0 || memchr(text + len, '\0', got) != NULL)
			break;
		len += got;
	}
	text[PATH_MAX - 1] = '\0';
	return text;
}

static const char another_call[] = "another call";

/* The names of the calls that a disk answers, and a few more. */
static inline const char *
call_name(long number)
{
	static const struct {
		long number;
		const char *name;
	} known[] = { { SYS_openat, "openat" }, { SYS_write, "write" },
		{ SYS_pwrite64, "pwrite" }, { SYS_writev, "writev" },
		{ SYS_fsync, "fsync" }, { SYS_fdatasync, "fdatasync" },
		{ SYS_syncfs, "syncfs" }, { SYS_linkat, "linkat" },
		{ SYS_unlinkat, "unlinkat" }, { SYS_renameat, "renameat" },
		{ SYS_mkdirat, "mkdirat" }, { SYS_getdents64, "getdents" },
		{ SYS_ftruncate, "ftruncate" }, { SYS_sendfile, "sendfile" },
		{ SYS_read, "read" }, { SYS_lseek, "lseek" },
		{ SYS_close, "close" }, { SYS_sendto, "sendto" },
		{ SYS_recvfrom, "recvfrom" }, { SYS_newfstatat, "fstatat" },
		{ SYS_flock, "flock" }, { SYS_socket, "socket" },
		{ SYS_ppoll, "ppoll" }, { SYS_pread64, "pread" },
		{ SYS_connect, "connect" },
#ifdef SYS_open
		{ SYS_open, "open" }, { SYS_link, "link" },
		{ SYS_unlink, "unlink" }, { SYS_rename, "rename" },
		{ SYS_mkdir, "mkdir" }, { SYS_poll, "poll" },
		{ SYS_access, "access" },
#endif
#ifdef SYS_renameat2
		{ SYS_renameat2, "renameat2" },
#endif
#ifdef SYS_faccessat2
		{ SYS_faccessat2, "faccessat2" },
#endif
#ifdef SYS_accept4
		{ SYS_accept4, "accept4" },
#endif
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (known[i].number == number)
			return known[i].name;
	return another_call;
}

#endif
