// A thumbnail service of six threads in a container with three tenths of a core: they use the quota up together and
// then all wait for the next period. Fixed: the limit fits the load.
#include "meter.h"

enum { THREADS = 6 };
static volatile unsigned sink;

static unsigned blur(unsigned seed) {
    for (int i = 0; i < 400000; i++) seed = seed * 1664525 + 1013904223;
    return seed;
}
static unsigned sharpen(unsigned seed) {
    for (int i = 0; i < 400000; i++) seed = (seed ^ (seed >> 7)) * 2654435761u;
    return seed;
}
static unsigned encode(unsigned seed) {
    for (int i = 0; i < 400000; i++) seed += (seed << 5) ^ (unsigned)i;
    return seed;
}
static void *serve(void *unused) {
    double due = meter_now();
    for (unsigned image = 0; meter_goes_on(); image++) {
        double since = meter_next_request(&due, 50);
        sink += encode(sharpen(blur(image)));
        meter_did(1, since);
    }
    return unused;
}
int main(int argc, char **argv) {
    meter_parse(argc, argv);
    meter_ready();
    meter_crew(THREADS, serve);
    return meter_report("images");
}
