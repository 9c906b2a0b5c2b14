/* Nanoseconds of one r3map_mount_read_at of 4 KiB that are here, the least of several runs. */
#include <r3map.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CALLS 200000

static void check(r3map_error *error)
{
    if (error != NULL) {
        fprintf(stderr, "%s\n", r3map_error_message(error));
        exit(1);
    }
}

int main(void)
{
    r3map_backend *backend;
    r3map_mount *mount;
    static char buffer[4096];
    double least = 1e9;
    check(r3map_backend_open("memory:?size=64MiB", NULL, NULL, &backend));
    check(r3map_mount_open(backend, NULL, NULL, &mount));
    for (int run = 0; run < 7; run++) {
        struct timespec begun, ended;
        clock_gettime(CLOCK_MONOTONIC, &begun);
        for (int i = 0; i < CALLS; i++)
            check(r3map_mount_read_at(mount, buffer, sizeof buffer, (uint64_t)(i % 1000) * 4096, NULL));
        clock_gettime(CLOCK_MONOTONIC, &ended);
        double each = ((ended.tv_sec - begun.tv_sec) * 1e9 + (ended.tv_nsec - begun.tv_nsec)) / CALLS;
        least = each < least ? each : least;
    }
    printf("%.1f\n", least);
    check(r3map_mount_close(mount, NULL));
    r3map_mount_free(mount);
    r3map_backend_free(backend);
    return 0;
}
