// Mails order confirmations. Each looks its template up along a search path of twelve folders, of which only the last
// has it: eleven failing opens a mail. Fixed: the path found once is remembered.
#include "meter.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FOLDERS = 12 };
static char root[64], found[256], body[8192];

static int open_template(const char *name) {
    char path[256];
    if (meter.fixed && found[0]) return open(found, O_RDONLY);
    for (int folder = 0; folder < FOLDERS; folder++) {
        snprintf(path, sizeof path, "%s/theme-%d/overrides/mail/%s.html", root, folder, name);
        int file = open(path, O_RDONLY);
        if (file >= 0) {
            strcpy(found, path);
            return file;
        }
    }
    return -1;
}
static size_t read_template(const char *name, char *text, size_t room) {
    int file = open_template(name);
    if (file < 0) exit(1);
    ssize_t got = read(file, text, room);
    close(file);
    return got < 0 ? 0 : (size_t)got;
}
static int fill_in(const char *text, size_t length, int order, char *mail) {
    int out = 0;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '%') out += sprintf(mail + out, "%d", order);
        else mail[out++] = text[i];
    }
    return out;
}
int main(int argc, char **argv) {
    meter_parse(argc, argv);
    snprintf(root, sizeof root, "/tmp/mail-templates-%d", getpid());
    char command[512], text[2048], mail[8192];
    snprintf(command, sizeof command,
             "mkdir -p %s/theme-%d/overrides/mail && head -c 600 /dev/zero | tr '\\0' a > %s/theme-%d/overrides/mail/order.html",
             root, FOLDERS - 1, root, FOLDERS - 1);
    if (system(command) != 0) return 1;
    meter_ready();
    double due = meter_now();
    long sent = 0;
    for (int order = 0; meter_goes_on(); order++) {
        double since = meter_next_request(&due, 15000);
        sent += fill_in(text, read_template("order", text, sizeof text), order, mail);
        meter_did(1, since);
    }
    snprintf(command, sizeof command, "rm -r %s", root);
    body[0] = (char)sent;
    return system(command) | meter_report("mails");
}
