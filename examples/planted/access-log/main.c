// Stamps access log lines with the local time. Without TZ in its environment libc looks at /etc/localtime for every
// stamp. Fixed: TZ names the zone, as an image's ENV would.
#include "meter.h"
#include <unistd.h>

static char lines[1 << 20];
static size_t used;

static void stamp(char *text, size_t room) {
    time_t now = time(NULL);
    strftime(text, room, "[%d/%b/%Y:%H:%M:%S %z]", localtime(&now));
}
static void log_request(int number) {
    char when[64];
    stamp(when, sizeof when);
    if (used + 256 > sizeof lines) used = 0;
    used += (size_t)sprintf(lines + used, "10.0.0.%d - - %s \"GET /item/%d HTTP/1.1\" 200 512\n", number % 250, when, number);
}
int main(int argc, char **argv) {
    meter_parse(argc, argv);
    if (meter.fixed) setenv("TZ", ":/etc/localtime", 1);
    else unsetenv("TZ");
    meter_ready();
    double due = meter_now();
    for (int number = 0; meter_goes_on(); number += 50) {
        double since = meter_next_request(&due, 7000);
        for (int line = 0; line < 50; line++) log_request(number + line);
        meter_did(50, since);
    }
    return meter_report("lines");
}
