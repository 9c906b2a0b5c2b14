/* A second mount goes on with the cache of the first: what it has is not pulled again, what was not pushed is pushed. */
#include "cache.h"

int main(void)
{
    r3map_server *server = begin("resume");
    r3map_mount_options *options = cached();
    r3map_mount *mount = NULL;
    char bytes[4];
    OK(r3map_mount_open_url(url, NULL, options, NULL, &mount));
    OK(r3map_mount_pull(mount, 0, 100000, NULL));
    OK(r3map_mount_write_at(mount, "kept", 4, 5000, NULL));
    r3map_mount_free(mount);
    OK(r3map_mount_open_url(url, NULL, options, NULL, &mount));
    CHECK(figure(mount, "local_bytes") == 100000 && figure(mount, "pulled_bytes") == 0);
    CHECK(figure(mount, "dirty_bytes") == 4096);
    OK(r3map_mount_read_at(mount, bytes, 4, 5000, NULL));
    CHECK(memcmp(bytes, "kept", 4) == 0);
    OK(r3map_mount_sync(mount, NULL));
    CHECK(figure(mount, "dirty_bytes") == 0);
    close_mount(mount);
    FAILS(r3map_mount_open_url(NULL, NULL, options, NULL, &mount), R3MAP_INVALID_ARGUMENT, "URL");
    r3map_mount_options_free(options);
    close_server(server);
    return 0;
}
