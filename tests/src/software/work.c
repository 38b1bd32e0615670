/* musl's library at work, with callbacks into the program. */
#include <pthread.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void *work(void *unused) {
    enum { COUNT = 2000 };
    char **words = malloc(COUNT * sizeof *words);
    char line[200];
    regex_t pattern;
    if (regcomp(&pattern, "w[a-z]*d ([0-9]+)", REG_EXTENDED)) exit(1);
    for (;;) {
        for (int i = 0; i < COUNT; i++) {
            snprintf(line, sizeof line, "word %d of %s %.3f", i * 7919 % 2003, "many", i / 7.0);
            words[i] = strdup(line);
        }
        qsort(words, COUNT, sizeof *words, compare);
        for (int i = 0; i < COUNT; i++) {
            if (i % 20 == 0) regexec(&pattern, words[i], 0, NULL, 0);
            free(words[i]);
        }
    }
    return unused;
}

int main(void) {
    pthread_t other;
    if (pthread_create(&other, NULL, work, NULL)) return 1;
    work(NULL);
    return 0;
}
