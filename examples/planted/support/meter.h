// What every program of this folder measures of itself. In: `--seconds N`, `--fixed` and the program's own options. Out:
// `ready` when the set-up is over, and at the end one JSON line: work done, seconds, CPU seconds, and seconds that
// threads were busy with work (from taking a piece of work to having done it, waits included).
#ifndef METER_H
#define METER_H
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct {
    double seconds;
    bool fixed;
    double begun, cpu_begun;
    atomic_llong work, busy_ns;
} meter = {.seconds = 10};

static inline double meter_clock(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}
static inline double meter_now(void) { return meter_clock(CLOCK_MONOTONIC); }

static inline const char *meter_option(int argc, char **argv, const char *name, const char *otherwise) {
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0) return argv[i + 1];
    return otherwise;
}
static inline void meter_parse(int argc, char **argv) {
    meter.seconds = atof(meter_option(argc, argv, "--seconds", "10"));
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--fixed") == 0) meter.fixed = true;
}
static inline void meter_ready(void) {
    puts("ready");
    fflush(stdout);
    meter.cpu_begun = meter_clock(CLOCK_PROCESS_CPUTIME_ID);
    meter.begun = meter_now();
}
static inline bool meter_goes_on(void) { return meter_now() - meter.begun < meter.seconds; }
static inline void meter_did(int work, double since) {
    atomic_fetch_add(&meter.work, work);
    atomic_fetch_add(&meter.busy_ns, (long long)((meter_now() - since) * 1e9));
}
// Waits for the next of `rate` requests a second, in bursts of two milliseconds, so that waiting costs little beside the
// work; returns at once while behind, and forgets what it cannot catch up with.
static inline double meter_next_request(double *due, double rate) {
    double now = meter_now();
    if (*due < now - 0.5) *due = now;
    if (*due > now + 0.002) {
        struct timespec until = {(time_t)*due, (long)((*due - (time_t)*due) * 1e9)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
        now = meter_now();
    }
    *due += 1 / rate;
    return now;
}
// So many threads that do the same until the time is over. Each gets its number, from 1.
static inline void meter_crew(size_t threads, void *(*work)(void *)) {
    pthread_t crew[threads];
    for (size_t i = 0; i < threads; i++) pthread_create(&crew[i], NULL, work, (void *)(i + 1));
    for (size_t i = 0; i < threads; i++) pthread_join(crew[i], NULL);
}
static inline int meter_report(const char *unit) {
    double seconds = meter_now() - meter.begun, cpu = meter_clock(CLOCK_PROCESS_CPUTIME_ID) - meter.cpu_begun;
    printf("{\"unit\":\"%s\",\"work\":%lld,\"seconds\":%.3f,\"cpu_s\":%.4f,\"busy_s\":%.4f}\n", unit,
           (long long)meter.work, seconds, cpu, meter.busy_ns / 1e9);
    return 0;
}
#endif
