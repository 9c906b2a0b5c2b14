/* A mount that is seeded stays in use; it has one seeder at a time and is closed after it. */
#include "seeding.h"

int main(void)
{
    struct file file = new_file("region", 300001);
    r3map_mount *mount = open_mount(file.url, NULL, NULL);
    r3map_seed_options *options = r3map_seed_options_new();
    r3map_seed_options_set_name(options, "state");
    r3map_seeder *seeder, *none = NULL;
    const char *url;
    OK(r3map_mount_seed(mount, "127.0.0.1:0", options, NULL, &seeder));
    r3map_seed_options_free(options);
    OK(r3map_seeder_url(seeder, &url));
    CHECK(strncmp(url, "r3map://127.0.0.1:", 18) == 0 && strstr(url, "/state") != NULL);
    uint64_t sequence = expect_event(seeder, 0, R3MAP_SEED_WAITING);
    CHECK(sequence == 1);

    FAILS(r3map_mount_seed(mount, "127.0.0.1:0", NULL, NULL, &none), R3MAP_BUSY, "being seeded");
    FAILS(r3map_mount_close(mount, NULL), R3MAP_BUSY, "close its seeder first");
    FAILS(r3map_mount_discard(mount, NULL), R3MAP_BUSY, "close its seeder first");
    CHECK(none == NULL);
    char found[4];
    OK(r3map_mount_write_at(mount, "used", 4, 4094, NULL));
    OK(r3map_mount_read_at(mount, found, 4, 4094, NULL));
    CHECK(memcmp(found, "used", 4) == 0);

    uint64_t value = 0;
    r3map_stats *stats;
    OK(r3map_seeder_stats(seeder, &stats));
    OK(r3map_stats_get(stats, "size", &value));
    CHECK(value == 300001);
    r3map_stats_free(stats);

    /* To who does not leech it is no export. */
    r3map_backend *backend = NULL;
    FAILS(r3map_backend_open(url, NULL, NULL, &backend), R3MAP_UNSUPPORTED, "being seeded");
    uint32_t state = 0;
    r3map_error *cause;
    FAILS(r3map_seeder_next(seeder, sequence, 1, NULL, &sequence, &state, &cause), R3MAP_TIMEOUT, "");
    FAILS(r3map_seeder_wait_drained(seeder, 1, NULL), R3MAP_TIMEOUT, "");
    r3map_cancel *cancel = r3map_cancel_new();
    r3map_cancel_trigger(cancel);
    FAILS(r3map_seeder_next(seeder, sequence, 0, cancel, &sequence, &state, &cause), R3MAP_CANCELLED, "");
    FAILS(r3map_seeder_wait_drained(seeder, 0, cancel), R3MAP_CANCELLED, "");
    r3map_cancel_free(cancel);
    CHECK(state == 0 && backend == NULL);

    OK(r3map_seeder_close(seeder, NULL));
    r3map_seeder_free(seeder);
    seeder = seed(mount, &url);
    r3map_seeder_free(seeder);
    close_mount(mount);
    return 0;
}
