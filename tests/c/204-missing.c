/* Of a local backend nothing is ever missing; of a remote one, mounted direct, everything is. */
#include "test.h"

int main(void)
{
    r3map_range range = {1, 1};
    size_t count = 9;
    r3map_mount *mount = open_mount("memory:?size=100000", NULL, NULL);
    OK(r3map_mount_missing(mount, 0, 100000, 1, &range, &count));
    CHECK(count == 0 && range.offset == 1);
    OK(r3map_mount_pull(mount, 0, 100000, NULL));
    OK(r3map_mount_prefetch(mount, 0, 100000));
    FAILS(r3map_mount_missing(mount, 1, 100000, 1, &range, &count), R3MAP_OUT_OF_RANGE, "outside");

    r3map_backend *backend;
    r3map_server *server;
    const char *url;
    char full[200];
    OK(r3map_mount_backend(mount, &backend));
    OK(r3map_server_new(NULL, &server));
    OK(r3map_server_export(server, "m", backend, NULL));
    OK(r3map_server_listen(server, "127.0.0.1:0", NULL, &url));
    snprintf(full, sizeof full, "%s/m", url);
    r3map_mount *remote = open_mount(full, "mode", "direct");
    OK(r3map_mount_missing(remote, 10, 50000, 0, NULL, &count));
    CHECK(count == 1);
    OK(r3map_mount_missing(remote, 10, 50000, 1, &range, &count));
    CHECK(count == 1 && range.offset == 10 && range.length == 50000);
    FAILS(r3map_mount_missing(remote, 10, 50000, 1, NULL, &count), R3MAP_INVALID_ARGUMENT, "ranges");
    FAILS(r3map_mount_pull(remote, 0, 1, NULL), R3MAP_UNSUPPORTED, "mode=managed");
    close_mount(remote);
    OK(r3map_server_close(server, NULL));
    r3map_server_free(server);
    r3map_backend_free(backend);
    r3map_mount_free(mount);
    return 0;
}
