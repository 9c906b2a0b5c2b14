/* With `offline` a mount begins with its cache while the remote is away, keeps writes, and pushes them when it is back. */
#include "cache.h"

int main(void)
{
    r3map_server *server = begin("offline");
    r3map_mount_options *options = cached();
    r3map_mount *mount = NULL;
    r3map_error *cause = NULL, *error;
    uint64_t sequence = 0;
    uint32_t event = 0;
    char bytes[4];
    OK(r3map_mount_open_url(url, NULL, options, NULL, &mount));
    OK(r3map_mount_write_at(mount, "here", 4, 4096, NULL));
    close_mount(mount);
    close_server(server);

    r3map_mount_options_set_deadline(options, 20000);
    r3map_mount_options_set_offline(options, true);
    OK(r3map_mount_open_url(url, NULL, options, NULL, &mount));
    OK(r3map_mount_next(mount, 0, 20000, NULL, &sequence, &event, &cause));
    CHECK(sequence == 1 && event == R3MAP_MOUNT_DISCONNECTED && cause != NULL);
    r3map_error_free(cause);
    OK(r3map_mount_read_at(mount, bytes, 4, 4096, NULL));
    CHECK(memcmp(bytes, "here", 4) == 0);
    OK(r3map_mount_write_at(mount, "kept", 4, 5000, NULL));
    server = serve_file();
    OK(r3map_mount_next(mount, 1, 20000, NULL, &sequence, &event, &cause));
    CHECK(event == R3MAP_MOUNT_RECOVERED && cause == NULL);
    OK(r3map_mount_sync(mount, NULL));
    close_mount(mount);
    close_server(server);

    FILE *opened = fopen(file.path, "r");
    CHECK(opened != NULL && fseek(opened, 5000, SEEK_SET) == 0 && fread(bytes, 1, 4, opened) == 4);
    CHECK(fclose(opened) == 0 && memcmp(bytes, "kept", 4) == 0);
    r3map_mount_options_set_cache(options, "memory:");
    error = r3map_mount_open_url(url, NULL, options, NULL, &mount);
    FAILS(error, R3MAP_INVALID_ARGUMENT, "offline: needs a cache in a file");
    r3map_mount_options_free(options);
    return 0;
}
