// Prices orders at a fixed rate; each order costs the same. `--extra N`: goes on pricing until it has cost N per cent more CPU
// time, as after a careless change. By the clock: of more lines or more orders, caches would make less or more than that.
// `cargo xtask verdicts` records it and asks `profiler diff` whether it became worse.
#include "meter.h"
#include <stdint.h>

enum { LINES = 20000, PIECE = 200, RATE = 400 };
static uint32_t prices[LINES];

static uint64_t price_order(uint64_t order, int lines) {
    uint64_t total = order;
    for (int line = 0; line < lines; line++) {
        total += prices[(total ^ (uint64_t)line) % LINES];
        total = total << 7 | total >> 57;
    }
    return total;
}
int main(int argc, char **argv) {
    meter_parse(argc, argv);
    double extra = atoi(meter_option(argc, argv, "--extra", "0")) / 100.0;
    for (uint32_t i = 0; i < LINES; i++) prices[i] = i * 2654435761u;
    volatile uint64_t total = 0;
    meter_ready();
    double due = meter_now();
    while (meter_goes_on()) {
        double since = meter_next_request(&due, RATE);
        double begun = meter_clock(CLOCK_THREAD_CPUTIME_ID);
        for (int part = 0; part < 4; part++) total += price_order(total, LINES);
        double priced = meter_clock(CLOCK_THREAD_CPUTIME_ID);
        while (meter_clock(CLOCK_THREAD_CPUTIME_ID) - priced < extra * (priced - begun)) total += price_order(total, PIECE);
        meter_did(1, since);
    }
    return meter_report("orders");
}
