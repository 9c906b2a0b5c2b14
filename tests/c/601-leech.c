/* A leecher pulls a region while it is written there; one that is closed leaves it there, in use. */
#include "seeding.h"

int main(void)
{
    struct source source = {0};
    source_start(&source, "source", 3000001);
    struct file local = new_file("local", 0);
    CHECK(unlink(local.path) == 0);

    r3map_leecher *leecher = leech(source.url, local.url), *none = NULL;
    uint32_t state = 0;
    OK(r3map_leecher_state(leecher, &state));
    CHECK(state == R3MAP_LEECH_PULLING || state == R3MAP_LEECH_OUTPACED);
    FAILS(r3map_leecher_open(source.url, "memory:", NULL, NULL, NULL, &none), R3MAP_BUSY, "");
    OK(r3map_leecher_wait_local(leecher, 0.5, PATIENCE, NULL));
    r3map_stats *stats;
    OK(r3map_leecher_stats(leecher, &stats));
    uint64_t size = 0, here = 0, rate = 0;
    OK(r3map_stats_get(stats, "size", &size));
    OK(r3map_stats_get(stats, "local_bytes", &here));
    OK(r3map_stats_get(stats, "dirty_rate", &rate));
    CHECK(size == 3000001 && here > 0 && here <= size);
    r3map_stats_free(stats);
    OK(r3map_leecher_close(leecher, NULL));
    r3map_leecher_free(leecher);

    /* Nothing moved: it is leeched anew, from the start or from what is here of it. */
    leecher = leech(source.url, local.url);
    r3map_mount *mount;
    OK(r3map_leecher_finalize(leecher, NULL, &mount));
    OK(r3map_mount_wait_local(mount, 1.0, PATIENCE, NULL));
    source_end(&source);
    CHECK(source.writes > 0);
    holds(mount, source.model, source.size);
    r3map_leecher_free(leecher);
    close_mount(mount);
    free(source.model);
    return 0;
}
