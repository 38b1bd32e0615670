/* Syscalls as bare instructions: the kernel sees the caller's own frame, so a walk by frame pointers misses nobody.
 * (A C library's wrapper keeps no frame, and its caller would vanish from the stack.) */
#ifndef SYSCALL_H
#define SYSCALL_H

static inline __attribute__((always_inline)) long bare_syscall(long number, long a, long b, long c, long d)
{
	long result;
	register long fourth __asm__("r10") = d;
	/* A leaf that never looks at its frame gets none, whatever the flags say. */
	__asm__ volatile("" : : "r"(__builtin_frame_address(0)));
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
			 : "rcx", "r11", "memory");
	return result;
}

#endif
