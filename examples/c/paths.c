/* The workloads' named call paths. Compiled with frame pointers, without tail calls and with bare syscalls, so that
 * a stack walk by frame pointers from inside the kernel sees every function named here, in this order. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>

#include "syscall.h"

#define PATH __attribute__((noinline, noclone))

/* Keeps a call from being the last thing its caller does. */
#define STAY __asm__ volatile("")

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static inline __attribute__((always_inline)) uint64_t churn(uint64_t seed, unsigned rounds)
{
	for (unsigned round = 0; round < rounds; round++) {
		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		__asm__ volatile("" : "+r"(seed));
	}
	return seed;
}

/* ---- spinner: user CPU below spinner_enter;spinner_descend...;spinner_burn ---- */

PATH uint64_t spinner_burn(uint64_t until_ns)
{
	uint64_t rounds = 0;
	while (now_ns() < until_ns) {
		churn(until_ns | 1, 8192);
		rounds++;
	}
	return rounds;
}

PATH uint64_t spinner_descend(unsigned depth, uint64_t until_ns)
{
	uint64_t rounds = depth == 0 ? spinner_burn(until_ns) : spinner_descend(depth - 1, until_ns);
	STAY;
	return rounds;
}

PATH uint64_t spinner_enter(unsigned depth, uint64_t until_ns)
{
	uint64_t rounds = spinner_descend(depth, until_ns);
	STAY;
	return rounds;
}

/* Kernel CPU below spinner_kernel_enter;spinner_kernel_read: zeroes copied out of /dev/zero. */
PATH uint64_t spinner_kernel_read(int zero_fd, uint64_t until_ns)
{
	static __thread char sink[65536];
	uint64_t reads = 0;
	while (now_ns() < until_ns) {
		bare_syscall(SYS_read, zero_fd, (long)sink, sizeof(sink), 0);
		reads++;
	}
	return reads;
}

PATH uint64_t spinner_kernel_enter(int zero_fd, uint64_t until_ns)
{
	uint64_t reads = spinner_kernel_read(zero_fd, until_ns);
	STAY;
	return reads;
}

/* ---- throttled: user CPU below throttled_enter;throttled_burn ---- */

PATH uint64_t throttled_burn(uint64_t until_ns)
{
	uint64_t rounds = 0;
	while (now_ns() < until_ns) {
		churn(until_ns | 1, 8192);
		rounds++;
	}
	return rounds;
}

PATH uint64_t throttled_enter(uint64_t until_ns)
{
	uint64_t rounds = throttled_burn(until_ns);
	STAY;
	return rounds;
}

/* ---- off_cpu_mix: two paths that wait, one briefly, one long ---- */

PATH long brief_wait_block(int fd)
{
	char byte;
	long result = bare_syscall(SYS_read, fd, (long)&byte, 1, 0);
	STAY;
	return result;
}

PATH long brief_wait_step(int fd)
{
	long result = brief_wait_block(fd);
	STAY;
	return result;
}

PATH long brief_wait_root(int fd)
{
	long result = brief_wait_step(fd);
	STAY;
	return result;
}

PATH long slow_wait_block(uint64_t ns)
{
	struct timespec duration = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
	long result = bare_syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, (long)&duration, 0);
	STAY;
	return result;
}

PATH long slow_wait_step(uint64_t ns)
{
	long result = slow_wait_block(ns);
	STAY;
	return result;
}

PATH long slow_wait_root(uint64_t ns)
{
	long result = slow_wait_step(ns);
	STAY;
	return result;
}

/* Work of about this many nanoseconds, on no named path. */
PATH uint64_t work_between_waits(uint64_t ns)
{
	uint64_t until_ns = now_ns() + ns;
	uint64_t rounds = 0;
	while (now_ns() < until_ns) {
		churn(until_ns | 1, 64);
		rounds++;
	}
	return rounds;
}

/* ---- hang: one wait that ends late, one that never does ---- */

PATH long hang_wait_for_answer(int fd)
{
	char byte;
	long result = bare_syscall(SYS_read, fd, (long)&byte, 1, 0);
	STAY;
	return result;
}

PATH long hang_query_backend(int fd)
{
	long result = hang_wait_for_answer(fd);
	STAY;
	return result;
}

PATH long hang_handle_request(int fd)
{
	long result = hang_query_backend(fd);
	STAY;
	return result;
}

PATH long never_answered_block(int fd)
{
	char byte;
	long result = bare_syscall(SYS_read, fd, (long)&byte, 1, 0);
	STAY;
	return result;
}

PATH long never_answered_step(int fd)
{
	long result = never_answered_block(fd);
	STAY;
	return result;
}

PATH long never_answered_root(int fd)
{
	long result = never_answered_step(fd);
	STAY;
	return result;
}

PATH long never_woken_block(const uint32_t *word)
{
	long result = bare_syscall(SYS_futex, (long)word, FUTEX_WAIT_PRIVATE, 0, 0);
	STAY;
	return result;
}

PATH long never_woken_root(const uint32_t *word)
{
	long result = never_woken_block(word);
	STAY;
	return result;
}

/* ---- lock_fighter: a futex mutex (0 free, 1 held, 2 held and waited for) ---- */

PATH long lock_fight_wait(uint32_t *word)
{
	long result = bare_syscall(SYS_futex, (long)word, FUTEX_WAIT_PRIVATE, 2, 0);
	STAY;
	return result;
}

/* Returns how long it waited in the kernel, by the clock; adds the number of waits to *waits. */
PATH uint64_t lock_fight_acquire(uint32_t *word, uint64_t *waits)
{
	uint32_t free_word = 0;
	uint64_t waited_ns = 0;
	if (__atomic_compare_exchange_n(word, &free_word, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
		return 0;
	while (__atomic_exchange_n(word, 2, __ATOMIC_ACQUIRE) != 0) {
		uint64_t begin_ns = now_ns();
		long result = lock_fight_wait(word);
		waited_ns += now_ns() - begin_ns;
		*waits += result == 0;
	}
	return waited_ns;
}

PATH void lock_fight_release(uint32_t *word)
{
	if (__atomic_exchange_n(word, 0, __ATOMIC_RELEASE) == 2)
		bare_syscall(SYS_futex, (long)word, FUTEX_WAKE_PRIVATE, 1, 0);
	STAY;
}

PATH uint64_t lock_fight_hold_spinning(uint64_t ns)
{
	uint64_t rounds = work_between_waits(ns);
	STAY;
	return rounds;
}

/* ---- mixed: a small shop, as a flamegraph would show it ---- */

PATH uint64_t shop_apply_discounts(uint64_t seed)
{
	uint64_t price = churn(seed, 6000);
	STAY;
	return price;
}

PATH uint64_t shop_compute_tax(uint64_t seed)
{
	uint64_t price = churn(seed, 2000);
	STAY;
	return price;
}

PATH uint64_t shop_price_order(uint64_t seed)
{
	uint64_t price = shop_compute_tax(shop_apply_discounts(seed));
	STAY;
	return price;
}

PATH uint64_t shop_serve_orders(uint64_t orders)
{
	uint64_t sum = 1;
	for (uint64_t order = 0; order < orders; order++)
		sum += shop_price_order(sum | 1);
	return sum;
}

PATH long shop_read_cart_entry(int fd)
{
	char entry[8];
	long result = bare_syscall(SYS_read, fd, (long)entry, sizeof(entry), 0);
	STAY;
	return result;
}

PATH long shop_load_cart(int fd, unsigned entries)
{
	long bytes = 0;
	for (unsigned entry = 0; entry < entries; entry++)
		bytes += shop_read_cart_entry(fd);
	return bytes;
}

PATH long shop_find_template(void)
{
	static const char name[] = "/nonexistent/shop/template.html";
	long result = bare_syscall(SYS_openat, -100, (long)name, 0, 0);
	STAY;
	return result;
}

PATH long shop_render_page(unsigned lookups)
{
	long missing = 0;
	for (unsigned lookup = 0; lookup < lookups; lookup++)
		missing += shop_find_template() == -2;
	return missing;
}

PATH uint64_t shop_update_stock(uint32_t *lock_word, uint64_t hold_ns, uint64_t *waits)
{
	uint64_t waited_ns = lock_fight_acquire(lock_word, waits);
	work_between_waits(hold_ns);
	lock_fight_release(lock_word);
	return waited_ns;
}

PATH long shop_wait_for_next_tick(uint64_t ns)
{
	struct timespec duration = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
	long result = bare_syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, (long)&duration, 0);
	STAY;
	return result;
}
