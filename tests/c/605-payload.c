/* What the app hands over when it stops comes out of the mount at the other side, byte by byte; other mounts have none. */
#include "seeding.h"

static void move(const void *payload, size_t length)
{
    struct source source = {.payload = payload, .length = length};
    char name[32];
    snprintf(name, sizeof name, "source%zu", length);
    source_start(&source, name, 100001);
    r3map_leecher *leecher = leech(source.url, "memory:");
    r3map_mount *mount;
    const void *found = NULL;
    size_t found_length = SIZE_MAX;
    OK(r3map_mount_payload(source.mount, &found, &found_length));
    CHECK(found_length == 0);
    OK(r3map_leecher_finalize(leecher, NULL, &mount));
    OK(r3map_mount_payload(mount, &found, &found_length));
    CHECK(found_length == length && (length == 0 || memcmp(found, payload, length) == 0));
    source_end(&source);
    holds(mount, source.model, source.size);
    r3map_leecher_free(leecher);
    close_mount(mount);
    free(source.model);
}

int main(void)
{
    const size_t most = 16 << 20;
    unsigned char *payload = malloc(most + 1);
    fill(payload, most + 1, 5);
    move(NULL, 0);
    move("registers", 9);
    move(payload, most);

    struct file file = new_file("region", 5000);
    r3map_mount *mount = open_mount(file.url, NULL, NULL);
    const char *url;
    r3map_seeder *seeder = seed(mount, &url);
    FAILS(r3map_seeder_suspended(seeder, 1, payload, most + 1), R3MAP_INVALID_ARGUMENT, "16777216");
    r3map_seeder_free(seeder);
    close_mount(mount);
    free(payload);
    return 0;
}
