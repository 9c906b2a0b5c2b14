/* Mounts of a group move as one: in their order, with one commit, and none by itself. */
#include "seeding.h"

struct taking {
    r3map_leecher *leecher;
    r3map_mount *mounts[3];
};

static void *take(void *argument)
{
    struct taking *taking = argument;
    OK(r3map_leecher_finalize_group(taking->leecher, 3, NULL, taking->mounts));
    return NULL;
}

int main(void)
{
    static const uint64_t sizes[3] = {100001, 4096, 1000000};
    static const char *names[3] = {"one", "two", "three"}, *locals[3] = {"memory:", "memory:", NULL};
    struct file local = new_file("local", 0);
    CHECK(unlink(local.path) == 0);
    locals[2] = local.url;
    unsigned char *models[3];
    r3map_mount *mounts[3];
    r3map_group *group = r3map_group_new();
    r3map_seeder *seeder, *none = NULL;
    FAILS(r3map_group_seed(group, "127.0.0.1:0", NULL, NULL, &none), R3MAP_INVALID_ARGUMENT, "without mounts");
    for (int i = 0; i < 3; i++) {
        struct file file = new_file(names[i], (long)sizes[i]);
        mounts[i] = open_mount(file.url, NULL, NULL);
        models[i] = malloc(sizes[i]);
        fill(models[i], sizes[i], (unsigned)i * 50);
        OK(r3map_mount_write_at(mounts[i], models[i], sizes[i], 0, NULL));
        OK(r3map_group_add(group, mounts[i]));
    }
    const char *url;
    OK(r3map_group_seed(group, "127.0.0.1:0", NULL, NULL, &seeder));
    r3map_group_free(group);
    OK(r3map_seeder_url(seeder, &url));

    r3map_leecher *refused = NULL;
    FAILS(r3map_leecher_open_group(url, locals, 2, NULL, NULL, NULL, &refused), R3MAP_INVALID_ARGUMENT, "3 regions");
    struct taking taking = {0};
    OK(r3map_leecher_open_group(url, locals, 3, NULL, NULL, NULL, &taking.leecher));
    uint64_t sequence = expect_event(seeder, 0, R3MAP_SEED_WAITING);
    sequence = expect_event(seeder, sequence, R3MAP_SEED_TRACKING);
    OK(r3map_leecher_wait_local(taking.leecher, 1.0, PATIENCE, NULL));
    for (int i = 0; i < 3; i++) {
        memcpy(models[i] + 4000, "late", 4);
        OK(r3map_mount_write_at(mounts[i], "late", 4, 4000, NULL));
    }
    r3map_mount *alone = NULL;
    FAILS(r3map_leecher_finalize(taking.leecher, NULL, &alone), R3MAP_INVALID_ARGUMENT, "finalize_group");
    FAILS(r3map_leecher_finalize_group(taking.leecher, 2, NULL, taking.mounts), R3MAP_INVALID_ARGUMENT, "2 mounts");
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, take, &taking) == 0);
    sequence = expect_event(seeder, sequence, R3MAP_SEED_SUSPENDING);
    OK(r3map_seeder_suspended(seeder, sequence, "all", 3));
    sequence = expect_event(seeder, sequence, R3MAP_SEED_COMMITTED);
    expect_event(seeder, sequence, R3MAP_SEED_DRAINED);
    CHECK(pthread_join(thread, NULL) == 0);
    char byte;
    for (int i = 0; i < 3; i++)
        FAILS(r3map_mount_read_at(mounts[i], &byte, 1, 0, NULL), R3MAP_FENCED, "");
    OK(r3map_seeder_close(seeder, NULL));
    r3map_seeder_free(seeder);
    r3map_leecher_free(taking.leecher);
    const void *payload;
    size_t length;
    OK(r3map_mount_payload(taking.mounts[0], &payload, &length));
    CHECK(length == 3 && memcmp(payload, "all", 3) == 0);
    for (int i = 0; i < 3; i++) {
        close_mount(mounts[i]);
        holds(taking.mounts[i], models[i], sizes[i]);
        close_mount(taking.mounts[i]);
        free(models[i]);
    }
    CHECK(none == NULL && refused == NULL && alone == NULL);
    return 0;
}
