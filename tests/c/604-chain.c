/* A region goes from A to B to C and back to A, written at each, and every byte is the last one written. */
#include "seeding.h"

#define HOPS 4
#define SIZE 1000001

struct hop {
    r3map_leecher *leecher;
    r3map_mount *mount;
};

static void *take(void *argument)
{
    struct hop *hop = argument;
    OK(r3map_leecher_finalize(hop->leecher, NULL, &hop->mount));
    return NULL;
}

int main(void)
{
    static unsigned char model[SIZE];
    struct file places[3] = {new_file("a", SIZE), new_file("b", 0), new_file("c", 0)};
    CHECK(unlink(places[1].path) == 0 && unlink(places[2].path) == 0);
    r3map_mount *mount = open_mount(places[0].url, NULL, NULL);
    for (unsigned number = 0; number < HOPS; number++) {
        /* The app writes at this side, moves, and goes on at the other. */
        for (unsigned i = 0; i < 20; i++) {
            uint64_t offset = (uint64_t)((number * 20 + i) * 7919 * 13) % (SIZE - 5000);
            fill(model + offset, 5000, number * 100 + i);
            OK(r3map_mount_write_at(mount, model + offset, 5000, offset, NULL));
        }
        const char *url;
        r3map_seeder *seeder = seed(mount, &url);
        struct hop hop = {leech(url, places[(number + 1) % 3].url), NULL};
        uint64_t sequence = expect_event(seeder, 0, R3MAP_SEED_WAITING);
        sequence = expect_event(seeder, sequence, R3MAP_SEED_TRACKING);
        OK(r3map_leecher_wait_local(hop.leecher, 1.0, PATIENCE, NULL));
        fill(model, 100, number);
        OK(r3map_mount_write_at(mount, model, 100, 0, NULL));
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, take, &hop) == 0);
        sequence = expect_event(seeder, sequence, R3MAP_SEED_SUSPENDING);
        OK(r3map_seeder_suspended(seeder, sequence, NULL, 0));
        sequence = expect_event(seeder, sequence, R3MAP_SEED_COMMITTED);
        expect_event(seeder, sequence, R3MAP_SEED_DRAINED);
        CHECK(pthread_join(thread, NULL) == 0);
        OK(r3map_seeder_close(seeder, NULL));
        r3map_seeder_free(seeder);
        close_mount(mount);
        r3map_leecher_free(hop.leecher);
        mount = hop.mount;
        holds(mount, model, SIZE);
    }
    OK(r3map_mount_wait_local(mount, 1.0, PATIENCE, NULL));
    close_mount(mount);
    /* What came to rest is an ordinary file again. */
    mount = open_mount(places[HOPS % 3].url, NULL, NULL);
    holds(mount, model, SIZE);
    close_mount(mount);
    return 0;
}
