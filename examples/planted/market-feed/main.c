// Follows a market feed on a UDP socket that brings a few hundred quotes a second, by asking a non-blocking socket again
// and again. Fixed: poll waits for the next.
#include "meter.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct quote { int instrument; double price; };
static double book[64];

static void publish_quotes(struct sockaddr_in to) {
    int out = socket(AF_INET, SOCK_DGRAM, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    for (int n = 0;; n++) {
        struct quote quote = {n % 64, 100 + n % 7};
        if (sendto(out, &quote, sizeof quote, 0, (struct sockaddr *)&to, sizeof to) < 0) _exit(1);
        usleep(3000);
    }
}
static bool next_quote(int feed, struct quote *quote) {
    return recv(feed, quote, sizeof *quote, 0) == (ssize_t)sizeof *quote;
}
static void follow_feed(int feed) {
    struct quote quote;
    while (meter_goes_on()) {
        if (meter.fixed) {
            struct pollfd wait = {.fd = feed, .events = POLLIN};
            poll(&wait, 1, 100);
        }
        if (next_quote(feed, &quote)) {
            double since = meter_now();
            book[quote.instrument & 63] = quote.price;
            meter_did(1, since);
        }
    }
}
int main(int argc, char **argv) {
    meter_parse(argc, argv);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int feed = socket(AF_INET, SOCK_DGRAM, 0);
    if (bind(feed, (struct sockaddr *)&at, sizeof at) || getsockname(feed, (struct sockaddr *)&at, &size)) return 1;
    fcntl(feed, F_SETFL, O_NONBLOCK);
    pid_t publisher = fork();
    if (publisher == 0) publish_quotes(at);
    meter_ready();
    follow_feed(feed);
    kill(publisher, SIGTERM);
    waitpid(publisher, NULL, 0);
    return meter_report("quotes");
}
