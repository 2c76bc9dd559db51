/* What the loads have in common. */

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static const uint64_t SECOND = 1000000000;

static void fail(const char *form, ...) {
    va_list words;
    va_start(words, form);
    vfprintf(stderr, form, words);
    va_end(words);
    fputc('\n', stderr);
    exit(1);
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}
