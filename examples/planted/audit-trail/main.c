// Writes an audit trail: every field of every record by a write of its own. Fixed: a record is put together first, and
// 64 records are written at once.
#include "meter.h"
#include <fcntl.h>
#include <unistd.h>

static int trail;
static char pending[65536];
static size_t held;

static void write_out(void) {
    if (write(trail, pending, held) < 0) exit(1);
    held = 0;
}
static void put_field(const char *text, size_t length) {
    if (!meter.fixed) {
        if (write(trail, text, length) < 0) exit(1);
        return;
    }
    if (held + length > sizeof pending) write_out();
    memcpy(pending + held, text, length);
    held += length;
}
static void record_access(int user, const char *verb, const char *path) {
    char number[16];
    put_field(number, (size_t)sprintf(number, "%08d", user));
    put_field(" ", 1);
    put_field(verb, strlen(verb));
    put_field(" ", 1);
    put_field(path, strlen(path));
    put_field("\n", 1);
}
int main(int argc, char **argv) {
    meter_parse(argc, argv);
    char name[] = "/tmp/audit-trail-XXXXXX";
    trail = mkstemp(name);
    unlink(name);
    meter_ready();
    double due = meter_now();
    for (int request = 0; meter_goes_on(); request++) {
        double since = meter_next_request(&due, 60000);
        if (request % 100000 == 0 && (ftruncate(trail, 0) || lseek(trail, 0, SEEK_SET))) return 1;
        record_access(request % 977, request % 5 ? "GET" : "POST", "/api/v1/orders");
        meter_did(1, since);
    }
    return meter_report("records");
}
