// The peer: takes lines on a TCP port of loopback, over as many connections as come, and answers nothing. Prints `ready`.
#include "../meter.h"
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST 64

int main(int argc, char **argv) {
    meter_parse(argc, argv);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons((unsigned short)atoi(meter_option(argc, argv, "--port", "0")))};
    struct pollfd open[MOST] = {{.fd = socket(AF_INET, SOCK_STREAM, 0), .events = POLLIN}};
    int yes = 1;
    setsockopt(open[0].fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(open[0].fd, (struct sockaddr *)&at, sizeof at) || listen(open[0].fd, 1024)) return 1;
    meter_ready();
    char lines[4096];
    for (nfds_t count = 1; poll(open, count, -1) >= 0 || errno == EINTR;) {
        for (nfds_t i = count; i-- > 1;)
            if (open[i].revents && read(open[i].fd, lines, sizeof lines) <= 0) {
                close(open[i].fd);
                open[i] = open[--count];
            }
        if (open[0].revents && count < MOST) open[count++] = (struct pollfd){accept(open[0].fd, NULL, NULL), POLLIN, 0};
    }
    return 1;
}
