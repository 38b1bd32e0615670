// Reserves stock; one lock over the whole stock is held while the reservation goes to the store, a millisecond. Fixed: a
// lock for each article.
#include "meter.h"
#include <pthread.h>
#include <unistd.h>

enum { THREADS = 8, ARTICLES = 1024 };
static pthread_mutex_t all = PTHREAD_MUTEX_INITIALIZER, each[ARTICLES];
static long stock[ARTICLES];

static void store_reservation(int article) {
    usleep(1000);
    stock[article]--;
}
static void reserve(int article) {
    pthread_mutex_t *lock = meter.fixed ? &each[article] : &all;
    pthread_mutex_lock(lock);
    store_reservation(article);
    pthread_mutex_unlock(lock);
}
static void *serve(void *seed) {
    unsigned state = (unsigned)(size_t)seed;
    while (meter_goes_on()) {
        state = state * 1664525 + 1013904223;
        double since = meter_now();
        reserve((int)(state >> 16) % ARTICLES);
        meter_did(1, since);
    }
    return NULL;
}
int main(int argc, char **argv) {
    meter_parse(argc, argv);
    for (int i = 0; i < ARTICLES; i++) pthread_mutex_init(&each[i], NULL);
    meter_ready();
    meter_crew(THREADS, serve);
    return meter_report("reservations");
}
