// Journals orders, each with an fdatasync of its own. Fixed: one for 32 orders.
#include "meter.h"
#include <unistd.h>

static int journal, waiting;

static void make_durable(void) {
    if (fdatasync(journal) != 0) exit(1);
    waiting = 0;
}
static void append(int order) {
    char line[128];
    int length = sprintf(line, "order %d accepted, 3 articles, 47.11 euro, standard delivery\n", order);
    if (write(journal, line, (size_t)length) != length) exit(1);
    if (++waiting >= (meter.fixed ? 32 : 1)) make_durable();
}
int main(int argc, char **argv) {
    meter_parse(argc, argv);
    char name[] = "/var/tmp/order-journal-XXXXXX";
    journal = mkstemp(name);
    unlink(name);
    meter_ready();
    for (int order = 0; meter_goes_on(); order++) {
        double since = meter_now();
        append(order);
        meter_did(1, since);
    }
    return meter_report("orders");
}
