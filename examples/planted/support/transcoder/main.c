// The neighbour: a batch job that transcodes with `--threads N` threads and takes whatever CPU there is.
#include "../meter.h"

static volatile unsigned sink;

static void *transcode(void *unused) {
    unsigned state = 1;
    while (meter_goes_on()) {
        double since = meter_now();
        for (int sample = 0; sample < 300000; sample++) state = (state ^ (state >> 9)) * 2654435761u;
        sink += state;
        meter_did(1, since);
    }
    return unused;
}
int main(int argc, char **argv) {
    meter_parse(argc, argv);
    int threads = atoi(meter_option(argc, argv, "--threads", "4"));
    if (threads > 64) threads = 64;
    meter_ready();
    meter_crew(threads, transcode);
    return meter_report("frames");
}
