/* A closed seeder or leecher answers closed, in a forked child too; a mount is no leecher, and a freed one is none. */
#include <sys/wait.h>

#include "seeding.h"

int main(void)
{
    struct file file = new_file("region", 10000);
    r3map_mount *mount = open_mount(file.url, NULL, NULL), *none = NULL;
    const char *url;
    r3map_seeder *seeder = seed(mount, &url);
    r3map_leecher *leecher = leech(url, "memory:");
    uint32_t state;
    uint64_t sequence;
    r3map_error *cause;
    r3map_stats *stats;

    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        FAILS(r3map_seeder_next(seeder, 0, 1, NULL, &sequence, &state, &cause), R3MAP_CLOSED, "forked");
        FAILS(r3map_seeder_close(seeder, NULL), R3MAP_CLOSED, "forked");
        FAILS(r3map_leecher_state(leecher, &state), R3MAP_CLOSED, "forked");
        FAILS(r3map_leecher_finalize(leecher, NULL, &none), R3MAP_CLOSED, "forked");
        r3map_leecher_free(leecher);
        r3map_seeder_free(seeder);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);

    FAILS(r3map_leecher_stats((r3map_leecher *)mount, &stats), R3MAP_INVALID_ARGUMENT, "this is no r3map_leecher");
    FAILS(r3map_seeder_stats((r3map_seeder *)leecher, &stats), R3MAP_INVALID_ARGUMENT, "this is no r3map_seeder");
    OK(r3map_leecher_close(leecher, NULL));
    FAILS(r3map_leecher_finalize(leecher, NULL, &none), R3MAP_CLOSED, "");
    FAILS(r3map_leecher_wait_local(leecher, 1.0, 1000, NULL), R3MAP_CLOSED, "");
    r3map_leecher_free(leecher);
    FAILS(r3map_leecher_state(leecher, &state), R3MAP_INVALID_ARGUMENT, "or one that was freed");

    OK(r3map_seeder_close(seeder, NULL));
    FAILS(r3map_seeder_next(seeder, 1000, 1000, NULL, &sequence, &state, &cause), R3MAP_CLOSED, "");
    FAILS(r3map_seeder_suspended(seeder, 1, NULL, 0), R3MAP_CLOSED, "");
    FAILS(r3map_seeder_wait_drained(seeder, 1000, NULL), R3MAP_CLOSED, "");
    r3map_seeder_free(seeder);
    FAILS(r3map_seeder_close(seeder, NULL), R3MAP_INVALID_ARGUMENT, "or one that was freed");
    CHECK(none == NULL);
    close_mount(mount);
    return 0;
}
