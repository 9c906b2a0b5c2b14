/* A mount counts what its handle reads and writes; figures are found by name and listed by index. */
#include "test.h"

static uint64_t figure(r3map_stats *stats, const char *name)
{
    uint64_t value = UINT64_MAX;
    OK(r3map_stats_get(stats, name, &value));
    return value;
}

int main(void)
{
    r3map_mount *mount = open_mount("memory:?size=8192", NULL, NULL);
    char bytes[100] = {0};
    OK(r3map_mount_write_at(mount, bytes, 100, 0, NULL));
    OK(r3map_mount_read_at(mount, bytes, 60, 0, NULL));
    OK(r3map_mount_read_at(mount, bytes, 40, 0, NULL));
    r3map_stats *stats;
    OK(r3map_mount_stats(mount, &stats));
    close_mount(mount);

    CHECK(figure(stats, "size") == 8192);
    CHECK(figure(stats, "reads") == 2 && figure(stats, "bytes_read") == 100);
    CHECK(figure(stats, "writes") == 1 && figure(stats, "bytes_written") == 100);
    uint64_t value = 7;
    const char *name = NULL;
    FAILS(r3map_stats_get(stats, "rads", &value), R3MAP_NOT_FOUND, "\"rads\"");
    CHECK(value == 7);
    size_t count = 0;
    OK(r3map_stats_count(stats, &count));
    CHECK(count >= 5);
    for (size_t i = 0; i < count; i++) {
        OK(r3map_stats_at(stats, i, &name, &value));
        CHECK(figure(stats, name) == value);
    }
    FAILS(r3map_stats_at(stats, count, &name, &value), R3MAP_INVALID_ARGUMENT, "there is none");
    r3map_stats_free(stats);
    return 0;
}
