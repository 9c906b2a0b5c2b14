/* After the commit every way to the region at its source fails fenced, and so does opening it there again. */
#include "seeding.h"

#define REFUSED(call) FAILS(call, R3MAP_FENCED, "")

struct taking {
    r3map_leecher *leecher;
    r3map_mount *mount;
};

static void *take(void *argument)
{
    struct taking *taking = argument;
    OK(r3map_leecher_finalize(taking->leecher, NULL, &taking->mount));
    return NULL;
}

int main(void)
{
    struct file file = new_file("region", 200001);
    r3map_mount *mount = open_mount(file.url, NULL, NULL);
    OK(r3map_mount_write_at(mount, "before", 6, 0, NULL));
    const char *url;
    r3map_seeder *seeder = seed(mount, &url);
    uint64_t sequence = expect_event(seeder, 0, R3MAP_SEED_WAITING);
    r3map_leecher *leecher = leech(url, "memory:");
    sequence = expect_event(seeder, sequence, R3MAP_SEED_TRACKING);

    /* What asks for the region and what gives it wait for each other. */
    pthread_t thread;
    struct taking taking = {leecher, NULL};
    CHECK(pthread_create(&thread, NULL, take, &taking) == 0);
    sequence = expect_event(seeder, sequence, R3MAP_SEED_SUSPENDING);
    OK(r3map_seeder_suspended(seeder, sequence, NULL, 0));
    FAILS(r3map_seeder_suspended(seeder, sequence - 1, NULL, 0), R3MAP_STALE_EPOCH, "");
    sequence = expect_event(seeder, sequence, R3MAP_SEED_COMMITTED);
    CHECK(pthread_join(thread, NULL) == 0);

    char byte = 0;
    const char *path = NULL;
    int descriptor = -1;
    REFUSED(r3map_mount_read_at(mount, &byte, 1, 0, NULL));
    REFUSED(r3map_mount_write_at(mount, &byte, 1, 0, NULL));
    REFUSED(r3map_mount_sync(mount, NULL));
    REFUSED(r3map_mount_path(mount, NULL, &path));
    REFUSED(r3map_mount_file(mount, NULL, &descriptor));
    sequence = expect_event(seeder, sequence, R3MAP_SEED_DRAINED);
    OK(r3map_seeder_close(seeder, NULL));
    r3map_seeder_free(seeder);
    REFUSED(r3map_mount_read_at(mount, &byte, 1, 0, NULL));
    close_mount(mount);

    /* Here it stays the other side's, whoever opens it. */
    mount = open_mount(file.url, NULL, NULL);
    REFUSED(r3map_mount_read_at(mount, &byte, 1, 0, NULL));
    REFUSED(r3map_mount_write_at(mount, &byte, 1, 0, NULL));
    close_mount(mount);
    CHECK(path == NULL && descriptor == -1);

    char found[6];
    OK(r3map_mount_read_at(taking.mount, found, 6, 0, NULL));
    CHECK(memcmp(found, "before", 6) == 0);
    r3map_leecher_free(leecher);
    close_mount(taking.mount);
    return 0;
}
