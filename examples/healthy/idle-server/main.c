// A server that waits in epoll for connections that hardly come: one a second, from a client thread of its own.
#include "meter.h"
#include <arpa/inet.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static struct sockaddr_in at = {.sin_family = AF_INET};

static void *visit(void *unused) {
    char answer[16];
    while (meter_goes_on()) {
        int door = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(door, (struct sockaddr *)&at, sizeof at) == 0 && write(door, "hello\n", 6) == 6)
            while (read(door, answer, sizeof answer) > 0) {}
        close(door);
        sleep(1);
    }
    return unused;
}
int main(int argc, char **argv) {
    meter_parse(argc, argv);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    int door = socket(AF_INET, SOCK_STREAM, 0), set = epoll_create1(0);
    if (bind(door, (struct sockaddr *)&at, sizeof at) || listen(door, 16) || getsockname(door, (struct sockaddr *)&at, &size))
        return 1;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = door};
    epoll_ctl(set, EPOLL_CTL_ADD, door, &event);
    pthread_t client;
    meter_ready();
    pthread_create(&client, NULL, visit, NULL);
    while (meter_goes_on()) {
        if (epoll_wait(set, &event, 1, 1000) != 1) continue;
        double since = meter_now();
        char text[64];
        int guest = accept(door, NULL, NULL);
        ssize_t got = read(guest, text, sizeof text);
        if (got > 0 && write(guest, text, (size_t)got) == got) meter_did(1, since);
        close(guest);
    }
    pthread_join(client, NULL);
    return meter_report("visits");
}
