// Prices carts of twelve articles and asks the price store for every article by itself. Fixed: for all twelve at once.
#include "meter.h"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ARTICLES = 12 };
static int store;

static size_t ask_store(const char *question, size_t length, char *answer, size_t room) {
    size_t got = 0;
    if (write(store, question, length) != (ssize_t)length) exit(1);
    do {
        ssize_t part = recv(store, answer + got, room - got, 0);
        if (part <= 0) exit(1);
        got += (size_t)part;
    } while (answer[got - 1] != '\n');
    return got;
}
static size_t price_cart(int cart) {
    char question[512], answer[4096];
    size_t length = (size_t)sprintf(question, "get"), total = 0;
    for (int article = 0; article < ARTICLES; article++) {
        length += (size_t)sprintf(question + length, " price:%d", cart * 7 + article);
        if (meter.fixed && article + 1 < ARTICLES) continue;
        question[length++] = '\n';
        total += ask_store(question, length, answer, sizeof answer);
        length = 3;
    }
    return total;
}
int main(int argc, char **argv) {
    meter_parse(argc, argv);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons((unsigned short)atoi(meter_option(argc, argv, "--port", "0")))};
    int yes = 1;
    store = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(store, (struct sockaddr *)&at, sizeof at)) return 1;
    setsockopt(store, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    meter_ready();
    for (int cart = 0; meter_goes_on(); cart++) {
        double since = meter_now();
        price_cart(cart);
        meter_did(1, since);
    }
    return meter_report("carts");
}
