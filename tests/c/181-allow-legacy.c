/* A region goes by the Go library's protocol only where both sides are told allow_legacy. */
#include "seeding.h"

int main(void)
{
    struct file file = new_file("region", 500001);
    r3map_mount *mount = open_mount(file.url, NULL, NULL), *moved = NULL;
    OK(r3map_mount_write_at(mount, "legacy", 6, 400000, NULL));
    r3map_seed_options *seeding = r3map_seed_options_new();
    r3map_seed_options_set_allow_legacy(seeding, true);
    struct source source = {.mount = mount, .size = 500001};
    OK(r3map_mount_seed(mount, "127.0.0.1:0", seeding, NULL, &source.seeder));
    r3map_seed_options_free(seeding);
    OK(r3map_seeder_url(source.seeder, &source.url));
    source.model = calloc(1, source.size);
    CHECK(source.model != NULL);
    memcpy(source.model + 400000, "legacy", 6);
    CHECK(pthread_create(&source.thread, NULL, source_app, &source) == 0);

    char url[200];
    snprintf(url, sizeof url, "grpc%.*s?size=500001&chunk=4KiB", (int)(strrchr(source.url, '/') - source.url - 5),
             source.url + 5);
    r3map_leecher *leecher = NULL;
    FAILS(r3map_leecher_open(url, "memory:", NULL, NULL, NULL, &leecher), R3MAP_UNSUPPORTED, "allow_legacy");
    r3map_mount_options *options = r3map_mount_options_new();
    r3map_mount_options_set_allow_legacy(options, true);
    OK(r3map_leecher_open(url, "memory:", options, NULL, NULL, &leecher));
    r3map_mount_options_free(options);
    OK(r3map_leecher_finalize(leecher, NULL, &moved));
    source_end(&source);
    holds(moved, source.model, source.size);
    r3map_leecher_free(leecher);
    close_mount(moved);
    free(source.model);
    return 0;
}
