/* What is read travels as fewer bytes where compression is asked for, and as it is where it is off. */
#include "test.h"

enum { SIZE = 1 << 20 };

/* How many bytes came when all of the region was read. */
static uint64_t received(const char *url, const char *compression)
{
    r3map_backend_options *how = r3map_backend_options_new();
    r3map_backend_options_set_compression(how, compression);
    r3map_mount *mount;
    OK(r3map_mount_open_url(url, how, NULL, NULL, &mount));
    r3map_backend_options_free(how);
    char *bytes = malloc(SIZE);
    OK(r3map_mount_read_at(mount, bytes, SIZE, 0, NULL));
    for (int i = 0; i < SIZE; i++)
        CHECK(bytes[i] == (char)(i % 251));
    free(bytes);
    r3map_stats *stats;
    uint64_t count = 0;
    OK(r3map_mount_stats(mount, &stats));
    OK(r3map_stats_get(stats, "received_bytes", &count));
    r3map_stats_free(stats);
    close_mount(mount);
    return count;
}

int main(void)
{
    r3map_backend *memory = open_backend("memory:?size=1MiB");
    char *bytes = malloc(SIZE);
    for (int i = 0; i < SIZE; i++)
        bytes[i] = (char)(i % 251);
    OK(r3map_backend_write_at(memory, bytes, SIZE, 0, NULL));
    free(bytes);
    r3map_server_options *settings = r3map_server_options_new();
    r3map_server_options_set_compression(settings, "auto");
    r3map_server *server = NULL;
    OK(r3map_server_new(settings, &server));
    OK(r3map_server_export(server, "region", memory, NULL));
    r3map_backend_free(memory);
    const char *address;
    char url[200];
    OK(r3map_server_listen(server, "127.0.0.1:0", NULL, &address));
    snprintf(url, sizeof url, "%s/region", address);

    CHECK(received(url, "lz4") < SIZE / 2);
    CHECK(received(url, "zstd") < SIZE / 2);
    CHECK(received(url, "off") >= SIZE);
    CHECK(received(url, "auto") >= SIZE);

    r3map_backend_options *wrong = r3map_backend_options_new();
    r3map_backend_options_set_compression(wrong, "lz5");
    FAILS(r3map_backend_open(url, wrong, NULL, &memory), R3MAP_INVALID_ARGUMENT, "compression: unknown value \"lz5\"");
    r3map_backend_options_free(wrong);
    r3map_server_options_set_compression(settings, "fast");
    r3map_server *none = NULL;
    FAILS(r3map_server_new(settings, &none), R3MAP_INVALID_ARGUMENT, "compression: unknown value \"fast\"");
    CHECK(none == NULL);
    r3map_server_options_free(settings);
    OK(r3map_server_close(server, NULL));
    r3map_server_free(server);
    return 0;
}
