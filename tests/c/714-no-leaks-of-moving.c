/* Hundreds of regions that moved, were refused or given up leave no descriptor and no thread behind. */
#include "leaks.h"
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

static void once(void)
{
    r3map_mount *mount = open_mount("memory:?size=64KiB", NULL, NULL);
    const char *url;
    r3map_seeder *seeder = seed(mount, &url);
    r3map_leecher *given_up = leech(url, "memory:");
    r3map_leecher_free(given_up);
    uint64_t sequence = expect_event(seeder, 0, R3MAP_SEED_WAITING);

    struct taking taking = {0};
    r3map_error *error;
    /* The source hears of the end of the first by and by. */
    while ((error = r3map_leecher_open(url, "memory:", NULL, NULL, NULL, &taking.leecher)) != NULL) {
        CHECK(r3map_error_code(error) == R3MAP_BUSY);
        r3map_error_free(error);
        usleep(1000);
    }
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, take, &taking) == 0);
    while (next_event(seeder, &sequence) != R3MAP_SEED_SUSPENDING) {
    }
    OK(r3map_seeder_suspended(seeder, sequence, "x", 1));
    CHECK(pthread_join(thread, NULL) == 0);
    OK(r3map_seeder_wait_drained(seeder, PATIENCE, NULL));
    OK(r3map_seeder_close(seeder, NULL));
    r3map_seeder_free(seeder);
    close_mount(mount);
    r3map_leecher_free(taking.leecher);
    close_mount(taking.mount);
}

int main(void)
{
    return leaves_nothing(once, 300);
}
