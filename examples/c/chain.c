/* Plants: a recursion of known depth that ends in a blocking read, everything below main with frame pointers.
 * The profiler must say: one off-CPU stack with main;chain_enter;(chain_descend x DEPTH + 1);chain_block and the
 * kernel's frames below it, for as long as the window lasts.
 *
 *     cc -O1 -g -fno-omit-frame-pointer -mno-omit-leaf-frame-pointer -fno-optimize-sibling-calls -o chain chain.c
 *     ./chain DEPTH
 *
 * Prints "ready", blocks until a byte or the end of standard input arrives, prints its truth as one JSON line. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "syscall.h"

#define PATH __attribute__((noinline, noclone))
#define STAY __asm__ volatile("")

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

PATH long chain_block(void)
{
	char byte;
	long result = bare_syscall(SYS_read, 0, (long)&byte, 1, 0);
	STAY;
	return result;
}

PATH long chain_descend(unsigned depth)
{
	long result = depth == 0 ? chain_block() : chain_descend(depth - 1);
	STAY;
	return result;
}

PATH long chain_enter(unsigned depth)
{
	long result = chain_descend(depth);
	STAY;
	return result;
}

int main(int argc, char **argv)
{
	char *rest = NULL;
	unsigned long depth = argc == 2 ? strtoul(argv[1], &rest, 10) : 0;
	if (argc != 2 || *rest != '\0' || depth > 100000) {
		fprintf(stderr, "usage: chain DEPTH (0 to 100000)\n");
		return 2;
	}
	printf("ready\n");
	fflush(stdout);
	uint64_t begin_ns = now_ns();
	long result = chain_enter((unsigned)depth);
	uint64_t end_ns = now_ns();
	printf("{\"workload\":\"chain\",\"pid\":%d,\"depth\":%lu,\"result\":%ld,\"blocked_ns\":%llu}\n", getpid(), depth, result,
	       (unsigned long long)(end_ns - begin_ns));
	return 0;
}
