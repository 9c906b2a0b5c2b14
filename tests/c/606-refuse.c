/* An app that refuses goes on writing, the leecher hears why and goes on pulling, and the next time it moves. */
#include "seeding.h"

int main(void)
{
    struct source source = {.refusals = 2};
    source_start(&source, "source", 500001);
    r3map_leecher *leecher = leech(source.url, "memory:");
    r3map_mount *mount = NULL;
    FAILS(r3map_leecher_finalize(leecher, NULL, &mount), R3MAP_BUSY, "not now");
    uint32_t state = 0;
    OK(r3map_leecher_state(leecher, &state));
    CHECK(mount == NULL && (state == R3MAP_LEECH_PULLING || state == R3MAP_LEECH_OUTPACED));
    FAILS(r3map_leecher_finalize(leecher, NULL, &mount), R3MAP_BUSY, "not now");
    OK(r3map_leecher_finalize(leecher, NULL, &mount));
    source_end(&source);
    holds(mount, source.model, source.size);
    r3map_leecher_free(leecher);
    close_mount(mount);
    free(source.model);

    /* One that does not answer is taken for a refusal after its deadline. */
    struct file file = new_file("slow", 5000);
    mount = open_mount(file.url, NULL, NULL);
    r3map_seed_options *options = r3map_seed_options_new();
    r3map_seed_options_set_suspend_deadline(options, 50);
    r3map_seeder *seeder;
    const char *url;
    OK(r3map_mount_seed(mount, "127.0.0.1:0", options, NULL, &seeder));
    r3map_seed_options_free(options);
    OK(r3map_seeder_url(seeder, &url));
    leecher = leech(url, "memory:");
    r3map_mount *none = NULL;
    FAILS(r3map_leecher_finalize(leecher, NULL, &none), R3MAP_BUSY, "");
    uint64_t sequence = expect_event(seeder, 0, R3MAP_SEED_WAITING);
    sequence = expect_event(seeder, sequence, R3MAP_SEED_TRACKING);
    uint64_t asked = expect_event(seeder, sequence, R3MAP_SEED_SUSPENDING);
    expect_event(seeder, asked, R3MAP_SEED_RESUMED);
    FAILS(r3map_seeder_suspended(seeder, asked, NULL, 0), R3MAP_STALE_EPOCH, "");
    OK(r3map_mount_write_at(mount, "on", 2, 0, NULL));
    r3map_leecher_free(leecher);
    r3map_seeder_free(seeder);
    close_mount(mount);
    return 0;
}
