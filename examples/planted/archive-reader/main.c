// Looks documents up in an archive of 192 MiB that does not stay in the page cache: every look-up waits for the disk.
// Fixed: the hot part, which most look-ups want, is kept in memory.
#include "meter.h"
#include <fcntl.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 48 << 10, HOT = 4096 };
static int archive;
static unsigned char *hot, page[PAGE];

static void read_page(long at) {
    if (pread(archive, page, PAGE, at * PAGE) != PAGE) exit(1);
    // What else runs on the host wants the page cache.
    posix_fadvise(archive, 0, 0, POSIX_FADV_DONTNEED);
}
static unsigned look_up(unsigned key) {
    long at = key % HOT;
    if (meter.fixed) return hot[at * PAGE];
    read_page(at * (PAGES / HOT));
    return page[0];
}
int main(int argc, char **argv) {
    meter_parse(argc, argv);
    char name[] = "/var/tmp/archive-reader-XXXXXX";
    archive = mkstemp(name);
    unlink(name);
    hot = calloc(HOT, PAGE);
    char *block = malloc(1 << 20);
    memset(block, 7, 1 << 20);
    for (int i = 0; i < PAGES / 256; i++)
        if (write(archive, block, 1 << 20) != 1 << 20) return 1;
    fsync(archive);
    posix_fadvise(archive, 0, 0, POSIX_FADV_DONTNEED);
    posix_fadvise(archive, 0, 0, POSIX_FADV_RANDOM);
    unsigned state = 1, sum = 0;
    meter_ready();
    double due = meter_now();
    while (meter_goes_on()) {
        double since = meter_next_request(&due, 2000);
        state = state * 1664525 + 1013904223;
        sum += look_up(state >> 8);
        meter_did(1, since);
    }
    return meter_report(sum ? "look-ups" : "look-ups of nothing");
}
