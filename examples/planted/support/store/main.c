// The peer: a key-value store on a TCP port of loopback that takes `--delay-us N` for every request line, and answers
// `get a b c` with a line of as many values. Prints `ready PORT`.
#include "../meter.h"
#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

static int delay_us;

static void *serve(void *argument) {
    int client = (int)(long)argument;
    char line[8192], answer[8192];
    size_t held = 0;
    for (ssize_t got; (got = read(client, line + held, sizeof line - held - 1)) > 0;) {
        held += (size_t)got;
        line[held] = 0;
        for (char *end; (end = strchr(line, '\n')) != NULL;) {
            usleep((useconds_t)delay_us);
            size_t out = 0;
            for (char *at = line; at < end; at++)
                if (*at == ' ' && out + 16 < sizeof answer) out += (size_t)sprintf(answer + out, "value%ld ", (long)(end - at));
            answer[out++] = '\n';
            if (write(client, answer, out) < 0) break;
            held -= (size_t)(end + 1 - line);
            memmove(line, end + 1, held + 1);
        }
    }
    close(client);
    return NULL;
}
int main(int argc, char **argv) {
    meter_parse(argc, argv);
    delay_us = atoi(meter_option(argc, argv, "--delay-us", "2000"));
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons((unsigned short)atoi(meter_option(argc, argv, "--port", "0")))};
    int door = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(door, (struct sockaddr *)&at, sizeof at) || listen(door, 64)) return 1;
    meter_ready();
    for (;;) {
        int client = accept(door, NULL, NULL);
        pthread_t thread;
        if (client >= 0 && pthread_create(&thread, NULL, serve, (void *)(long)client) == 0) pthread_detach(thread);
    }
}
