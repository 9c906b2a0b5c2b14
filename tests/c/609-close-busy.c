/* Closing a seeder between the commit and the last byte is busy; abandon gives the rest up. */
#include <signal.h>
#include <sys/wait.h>

#include "seeding.h"

/* A leecher in a process of its own that takes the region and then stops where it stands. */
static void take(int urls, int answers)
{
    char url[200] = {0};
    r3map_mount *mount;
    CHECK(read(urls, url, sizeof url - 1) > 0);
    r3map_mount_options *options = r3map_mount_options_new();
    r3map_mount_options_set_pull(options, R3MAP_PULL_DEMAND);
    r3map_leecher *leecher;
    OK(r3map_leecher_open(url, "memory:", options, NULL, NULL, &leecher));
    OK(r3map_leecher_finalize(leecher, NULL, &mount));
    CHECK(write(answers, "x", 1) == 1);
    for (;;)
        pause();
}

int main(void)
{
    int urls[2], answers[2];
    CHECK(pipe(urls) == 0 && pipe(answers) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        take(urls[0], answers[1]);

    struct file file = new_file("region", 64 << 20);
    r3map_mount *mount = open_mount(file.url, NULL, NULL);
    const char *url;
    r3map_seeder *seeder = seed(mount, &url);
    CHECK(write(urls[1], url, strlen(url)) == (ssize_t)strlen(url));
    uint64_t sequence = expect_event(seeder, 0, R3MAP_SEED_WAITING);
    sequence = expect_event(seeder, sequence, R3MAP_SEED_TRACKING);
    sequence = expect_event(seeder, sequence, R3MAP_SEED_SUSPENDING);
    OK(r3map_seeder_suspended(seeder, sequence, NULL, 0));
    sequence = expect_event(seeder, sequence, R3MAP_SEED_COMMITTED);
    char byte;
    CHECK(read(answers[0], &byte, 1) == 1);
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);

    FAILS(r3map_seeder_close(seeder, NULL), R3MAP_BUSY, "");
    FAILS(r3map_seeder_close(seeder, NULL), R3MAP_BUSY, "");
    FAILS(r3map_mount_close(mount, NULL), R3MAP_BUSY, "close its seeder first");
    OK(r3map_seeder_abandon(seeder));
    OK(r3map_seeder_wait_drained(seeder, PATIENCE, NULL));
    OK(r3map_seeder_close(seeder, NULL));
    r3map_seeder_free(seeder);
    FAILS(r3map_mount_read_at(mount, &byte, 1, 0, NULL), R3MAP_FENCED, "");
    close_mount(mount);
    return 0;
}
