// Hands out session tokens; for each it draws 256 KiB of randomness and keeps 16 bytes. Fixed: draws 16.
#include "meter.h"
#include <sys/random.h>

static unsigned char pool[256 << 10];
static char token[33];

static void draw_randomness(size_t wanted) {
    for (size_t have = 0; have < wanted;) {
        ssize_t got = getrandom(pool + have, wanted - have, 0);
        if (got < 0) exit(1);
        have += (size_t)got;
    }
}
static void make_token(void) {
    draw_randomness(meter.fixed ? 16 : sizeof pool);
    for (int i = 0; i < 16; i++) sprintf(token + 2 * i, "%02x", pool[i]);
}
int main(int argc, char **argv) {
    meter_parse(argc, argv);
    meter_ready();
    double due = meter_now();
    while (meter_goes_on()) {
        double since = meter_next_request(&due, 900);
        make_token();
        meter_did(1, since);
    }
    return meter_report("tokens");
}
