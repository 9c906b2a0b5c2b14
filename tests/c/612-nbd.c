/* What is written to a real /dev/nbdX at the source is on the /dev/nbdX of the destination; the source's fails. */
#include <fcntl.h>

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
    const size_t length = 1 << 20;
    struct file file = new_file("region", (long)length);
    r3map_mount *mount = open_mount(file.url, "device", "nbd");
    const char *path, *moved;
    r3map_error *error = r3map_mount_path(mount, NULL, &path);
    if (r3map_error_code(error) == R3MAP_NO_DEVICE)
        leave(LEFT_TO_GUEST, error);
    OK(error);
    unsigned char *model = malloc(length), *found = malloc(length);
    fill(model, length, 8);
    int device = open(path, O_RDWR | O_CLOEXEC);
    CHECK(device >= 0 && pwrite(device, model, length, 0) == (ssize_t)length);

    const char *url;
    r3map_seeder *seeder = seed(mount, &url);
    r3map_mount_options *options = r3map_mount_options_new();
    r3map_mount_options_set_device(options, "nbd");
    r3map_mount_options_set_prepare(options, R3MAP_VIEW_PATH);
    struct taking taking = {0};
    OK(r3map_leecher_open(url, "memory:", options, NULL, NULL, &taking.leecher));
    r3map_mount_options_free(options);
    uint64_t sequence = expect_event(seeder, 0, R3MAP_SEED_WAITING);
    sequence = expect_event(seeder, sequence, R3MAP_SEED_TRACKING);
    OK(r3map_leecher_wait_local(taking.leecher, 0.5, PATIENCE, NULL));
    /* No fsync: the seeder flushes the device itself. */
    fill(model + 100000, 50000, 77);
    CHECK(pwrite(device, model + 100000, 50000, 100000) == 50000 && close(device) == 0);

    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, take, &taking) == 0);
    sequence = expect_event(seeder, sequence, R3MAP_SEED_SUSPENDING);
    OK(r3map_seeder_suspended(seeder, sequence, NULL, 0));
    sequence = expect_event(seeder, sequence, R3MAP_SEED_COMMITTED);
    CHECK(pthread_join(thread, NULL) == 0);
    OK(r3map_mount_path(taking.mount, NULL, &moved));
    CHECK(strncmp(moved, "/dev/nbd", 8) == 0 && strcmp(moved, path) != 0);
    device = open(moved, O_RDONLY | O_CLOEXEC);
    CHECK(device >= 0 && pread(device, found, length, 0) == (ssize_t)length && close(device) == 0);
    CHECK(memcmp(found, model, length) == 0);
    expect_event(seeder, sequence, R3MAP_SEED_DRAINED);
    OK(r3map_seeder_close(seeder, NULL));
    r3map_seeder_free(seeder);
    close_mount(mount);
    r3map_leecher_free(taking.leecher);
    close_mount(taking.mount);
    free(model);
    free(found);
    return 0;
}
