// Makes thumbnails; each request gets a canvas of its own, which malloc maps and free gives back to the kernel. Fixed:
// one canvas is kept.
#include "meter.h"

enum { WIDTH = 4000, HEIGHT = 3000 };
static unsigned char *kept, thumbnail[100 * 75];

static unsigned char *get_canvas(void) {
    if (meter.fixed && kept) return kept;
    return kept = malloc(WIDTH * HEIGHT * 4);
}
static void drop_canvas(unsigned char *canvas) {
    if (!meter.fixed) free(canvas);
}
static void decode(unsigned char *canvas, int image) {
    for (int row = 0; row < HEIGHT; row++)
        memset(canvas + (size_t)row * WIDTH * 4, image + row, WIDTH / 2);
}
static void shrink(const unsigned char *canvas) {
    for (int y = 0; y < 75; y++)
        for (int x = 0; x < 100; x++) thumbnail[y * 100 + x] = canvas[(size_t)y * 40 * WIDTH * 4 + x * 8];
}
static void resize(int image) {
    unsigned char *canvas = get_canvas();
    if (!canvas) exit(1);
    decode(canvas, image);
    shrink(canvas);
    drop_canvas(canvas);
}
int main(int argc, char **argv) {
    meter_parse(argc, argv);
    meter_ready();
    double due = meter_now();
    for (int image = 0; meter_goes_on(); image++) {
        double since = meter_next_request(&due, 80);
        resize(image);
        meter_did(1, since);
    }
    return meter_report("images");
}
