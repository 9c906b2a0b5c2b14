/* Stores to a slice at the source are in the slice at the destination, which was prepared before the pause. */
#include "seeding.h"

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
    const uint64_t length = 3000001;
    struct file file = new_file("region", (long)length);
    r3map_mount *mount = open_mount(file.url, NULL, NULL);
    void *bytes, *moved;
    uint64_t size;
    OK_OR_SKIP(r3map_mount_slice(mount, NULL, &bytes, &size));
    fill(bytes, length, 1);
    const char *url;
    r3map_seeder *seeder = seed(mount, &url);
    r3map_mount_options *options = r3map_mount_options_new();
    r3map_mount_options_set_prepare(options, R3MAP_VIEW_SLICE);
    struct taking taking = {0};
    OK(r3map_leecher_open(url, "memory:", options, NULL, NULL, &taking.leecher));
    r3map_mount_options_free(options);
    uint64_t sequence = expect_event(seeder, 0, R3MAP_SEED_WAITING);
    sequence = expect_event(seeder, sequence, R3MAP_SEED_TRACKING);
    OK(r3map_leecher_wait_local(taking.leecher, 0.9, PATIENCE, NULL));
    /* What is stored now is sent again. */
    for (uint64_t at = 0; at < length; at += 10007)
        ((unsigned char *)bytes)[at] = 'n';
    unsigned char *model = malloc(length);
    memcpy(model, bytes, length);

    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, take, &taking) == 0);
    sequence = expect_event(seeder, sequence, R3MAP_SEED_SUSPENDING);
    OK(r3map_seeder_suspended(seeder, sequence, NULL, 0));
    sequence = expect_event(seeder, sequence, R3MAP_SEED_COMMITTED);
    CHECK(pthread_join(thread, NULL) == 0);
    OK(r3map_mount_slice(taking.mount, NULL, &moved, &size));
    CHECK(size == length && memcmp(moved, model, length) == 0);
    ((unsigned char *)moved)[length - 1] = model[length - 1] = 'e';
    holds(taking.mount, model, length);
    expect_event(seeder, sequence, R3MAP_SEED_DRAINED);
    OK(r3map_seeder_close(seeder, NULL));
    r3map_seeder_free(seeder);
    close_mount(mount);
    r3map_leecher_free(taking.leecher);
    close_mount(taking.mount);
    free(model);
    return 0;
}
