/* Plants: a chain of known depth without frame pointers, entered through a callback of the C library, and at its end either
 * CPU or blocking.
 * The profiler must say: main;enter_chain;qsort's frames;compare;(descend_odd, descend_even alternately x DEPTH);burn, or
 * wait_here with the kernel's frames below it; complete in at least 98 % of samples.
 *
 *     cc -O2 -fomit-frame-pointer -fno-optimize-sibling-calls -o deep deep.c
 *     ./deep burn|block DEPTH SECONDS
 *
 * Prints "ready", then its truth as one JSON line. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PATH __attribute__((noinline, noclone))
#define STAY __asm__ volatile("")

static int blocks;
static unsigned depth;
static uint64_t until_ns;
static volatile uint64_t sink;

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

PATH long burn(void)
{
	uint64_t rounds = 0;
	do
		for (int i = 0; i < 20000; i++)
			sink = sink * 6364136223846793005u + ++rounds;
	while (now_ns() < until_ns);
	return (long)rounds;
}

PATH long wait_here(void)
{
	long rounds = 0;
	do {
		usleep(20000);
		rounds++;
	} while (now_ns() < until_ns);
	return rounds;
}

PATH long descend_even(unsigned left);

/* Keeps an array on the stack, so that frames differ in size. */
PATH long descend_odd(unsigned left)
{
	volatile char room[152];
	room[left % sizeof room] = 1;
	long result = left == 0 ? (blocks ? wait_here() : burn()) : descend_even(left - 1);
	STAY;
	return result + room[left % sizeof room];
}

PATH long descend_even(unsigned left)
{
	long result = left == 0 ? (blocks ? wait_here() : burn()) : descend_odd(left - 1);
	STAY;
	return result;
}

static int compare(const void *a, const void *b)
{
	if (now_ns() < until_ns)
		sink += (uint64_t)descend_odd(depth - 1);
	STAY;
	return memcmp(a, b, sizeof(int));
}

PATH int enter_chain(void)
{
	int two[2] = { 2, 1 };
	qsort(two, 2, sizeof *two, compare);
	STAY;
	return two[0];
}

int main(int argc, char **argv)
{
	unsigned long wanted = argc == 4 ? strtoul(argv[2], NULL, 10) : 0;
	double seconds = argc == 4 ? strtod(argv[3], NULL) : 0;
	if (argc != 4 || wanted == 0 || wanted > 10000 || (strcmp(argv[1], "burn") && strcmp(argv[1], "block"))) {
		fprintf(stderr, "usage: deep burn|block DEPTH (1 to 10000) SECONDS\n");
		return 2;
	}
	blocks = !strcmp(argv[1], "block");
	depth = (unsigned)wanted;
	printf("ready\n");
	fflush(stdout);
	until_ns = now_ns() + (uint64_t)(seconds * 1e9);
	int first = enter_chain();
	printf("{\"workload\":\"deep\",\"pid\":%d,\"depth\":%u,\"result\":%d}\n", getpid(), depth, first);
	return 0;
}
