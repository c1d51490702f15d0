// SPDX-License-Identifier: GPL-3.0-or-later
//
// sleep NUMBER[smhd]... | infinity
//
// Meant to be process 1 of a container. The kernel drops signals that process 1 has no handler for, so a plain `sleep`
// there ignores SIGTERM until the kubelet kills it; this one ends at once.

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void stop(int signal_number) {
    (void)signal_number;
    _exit(0);
}

static int refuse(const char *text) {
    static const char hint[] = ": not a time; write 30, 1.5m, 720h, 30d or infinity\n";
    if (write(2, text, strlen(text)) < 0 || write(2, hint, sizeof hint - 1) < 0) return 2;
    return 1;
}

static double seconds(const char *text) {
    char *unit;
    double number = strtod(text, &unit);
    if (unit == text || !(number >= 0)) return -1;
    if (*unit && unit[1]) return -1;
    switch (*unit) {
    case 'd': return number * 86400;
    case 'h': return number * 3600;
    case 'm': return number * 60;
    case 's':
    case 0: return number;
    default: return -1;
    }
}

int main(int count, char **arguments) {
    double total = 0;
    if (count < 2) return refuse("sleep");
    for (int i = 1; i < count; i++) {
        double part = seconds(arguments[i]);
        if (part < 0) return refuse(arguments[i]);
        total += part;
    }
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    // Longer than any node lives, and `infinity`, which no timespec can hold.
    if (total > 1e9)
        for (;;) pause();
    struct timespec rest = {(time_t)total, (long)((total - (double)(time_t)total) * 1e9)};
    while (nanosleep(&rest, &rest)) {}
    return 0;
}
