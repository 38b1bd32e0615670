// A quote service of two threads that shares its CPU with a batch job in another container. Fixed: the batch job weighs
// next to nothing.
#include "meter.h"

enum { THREADS = 2 };
static volatile double sink;

static double load_curve(int n) {
    double sum = 0;
    for (int i = 1; i < 60000; i++) sum += 1.0 / (i + n % 7);
    return sum;
}
static double interpolate(double x) {
    for (int i = 0; i < 60000; i++) x = x * 0.999 + 0.01 * i;
    return x;
}
static double add_margin(double x) {
    for (int i = 1; i < 60000; i++) x += (x > i ? 0.5 : 0.25) / i;
    return x;
}
static void *quote(void *unused) {
    double due = meter_now();
    for (int n = 0; meter_goes_on(); n++) {
        double since = meter_next_request(&due, 400);
        sink += add_margin(interpolate(load_curve(n)));
        meter_did(1, since);
    }
    return unused;
}
int main(int argc, char **argv) {
    meter_parse(argc, argv);
    meter_ready();
    meter_crew(THREADS, quote);
    return meter_report("quotes");
}
