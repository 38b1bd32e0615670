// Handles 10,000 events a second and tells a collector on this machine of each, over a connection of its own. Fixed: one
// connection for all.
#include "../support/meter.h"
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

static unsigned short port;

static int open_trail(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    int trail = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(trail, (struct sockaddr *)&at, sizeof at)) {
        perror("connect");
        exit(1);
    }
    return trail;
}

static void tell(const char *event) {
    static int kept = -1;
    int trail = kept >= 0 ? kept : open_trail();
    if (write(trail, event, strlen(event)) < 0) exit(1);
    if (meter.fixed)
        kept = trail;
    else
        close(trail);
}

static unsigned price(unsigned item) {
    unsigned sum = item;
    for (int part = 0; part < 300; part++) sum = sum * 31 + (sum >> 7);
    return sum;
}

int main(int argc, char **argv) {
    meter_parse(argc, argv);
    port = (unsigned short)atoi(meter_option(argc, argv, "--port", "47316"));
    meter_ready();
    double due = 0;
    char event[64];
    for (unsigned item = 0; meter_goes_on(); item++) {
        double since = meter_next_request(&due, 10000);
        snprintf(event, sizeof event, "sold %u for %u\n", item, price(item) % 1000);
        tell(event);
        meter_did(1, since);
    }
    return meter_report("events");
}
