// Finds the country of an address among 20,000 ranges by looking at one after the other. Fixed: binary search.
#include "meter.h"
#include <stdint.h>

enum { RANGES = 20000 };
static struct { uint32_t from; char country[4]; } ranges[RANGES];

static const char *find_country(uint32_t address) {
    if (meter.fixed) {
        int low = 0, high = RANGES;
        while (high - low > 1) {
            int middle = (low + high) / 2;
            if (ranges[middle].from <= address) low = middle;
            else high = middle;
        }
        return ranges[low].country;
    }
    int at = 0;
    while (at + 1 < RANGES && ranges[at + 1].from <= address) at++;
    return ranges[at].country;
}
static size_t annotate(uint32_t address, char *out) {
    return (size_t)sprintf(out, "{\"ip\":%u,\"country\":\"%s\"}", address, find_country(address));
}
int main(int argc, char **argv) {
    meter_parse(argc, argv);
    for (uint32_t i = 0; i < RANGES; i++) {
        ranges[i].from = i * (UINT32_MAX / RANGES);
        snprintf(ranges[i].country, 4, "%c%c", 'A' + i % 26, 'A' + i / 26 % 26);
    }
    char out[128];
    uint32_t state = 1;
    meter_ready();
    double due = meter_now();
    while (meter_goes_on()) {
        double since = meter_next_request(&due, 3000);
        for (int line = 0; line < 40; line++) {
            state = state * 1664525 + 1013904223;
            annotate(state, out);
        }
        meter_did(40, since);
    }
    return meter_report("lookups");
}
