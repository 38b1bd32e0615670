// Renders map tiles with twelve threads on one CPU; the work is spread over many passes. Fixed: one thread.
#include "meter.h"

static volatile unsigned sink;
static unsigned roads(unsigned s) { for (int i = 0; i < 90000; i++) s = s * 1664525 + 1013904223; return s; }
static unsigned rivers(unsigned s) { for (int i = 0; i < 90000; i++) s = (s ^ (s >> 7)) * 2654435761u; return s; }
static unsigned labels(unsigned s) { for (int i = 0; i < 90000; i++) s += (s << 5) ^ (unsigned)i; return s; }
static unsigned shading(unsigned s) { for (int i = 0; i < 90000; i++) s = s * 22695477 + (s >> 3); return s; }
static unsigned borders(unsigned s) { for (int i = 0; i < 90000; i++) s ^= (s << 13) + (unsigned)i; return s; }
static unsigned compress(unsigned s) { for (int i = 0; i < 90000; i++) s = (s >> 1) ^ (-(s & 1u) & 0xedb88320u); return s; }

static void *render(void *unused) {
    for (unsigned tile = 1; meter_goes_on(); tile++) {
        double since = meter_now();
        sink += compress(labels(borders(shading(rivers(roads(tile))))));
        meter_did(1, since);
    }
    return unused;
}
int main(int argc, char **argv) {
    meter_parse(argc, argv);
    int threads = meter.fixed ? 1 : 12;
    meter_ready();
    meter_crew(threads, render);
    return meter_report("tiles");
}
