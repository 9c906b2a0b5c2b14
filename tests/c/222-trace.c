/* The order of first accesses is saved and pulled first by a later mount. */
#include "test.h"

int main(void)
{
    char bytes[4096];
    struct file file = new_file("trace", 0);
    const char *path = file.path;
    r3map_mount *mount = open_mount("memory:?size=1MiB", "mode", "managed");
    OK(r3map_mount_read_at(mount, bytes, sizeof bytes, 40960, NULL));
    OK(r3map_mount_trace_save(mount, path, NULL));
    FAILS(r3map_mount_trace_save(mount, "/nowhere/at/all", NULL), R3MAP_NOT_FOUND, "/nowhere/at/all");
    close_mount(mount);

    r3map_backend *backend;
    r3map_mount_options *options = r3map_mount_options_new();
    r3map_mount_options_set_mode(options, R3MAP_MODE_MANAGED);
    r3map_mount_options_set_pull(options, R3MAP_PULL_DEMAND);
    r3map_mount_options_set_trace(options, path);
    OK(r3map_backend_open("memory:?size=1MiB", NULL, NULL, &backend));
    OK(r3map_mount_open(backend, options, NULL, &mount));
    OK(r3map_mount_wait_local(mount, 1.0 / 256, 60000, NULL));
    r3map_range range;
    size_t count;
    OK(r3map_mount_missing(mount, 40960, 4096, 1, &range, &count));
    CHECK(count == 0);
    OK(r3map_mount_missing(mount, 0, 4096, 1, &range, &count));
    CHECK(count == 1);
    close_mount(mount);
    r3map_backend_free(backend);

    OK(r3map_backend_open("memory:?size=2MiB", NULL, NULL, &backend));
    FAILS(r3map_mount_open(backend, options, NULL, &mount), R3MAP_INVALID_ARGUMENT, path);
    r3map_mount_options_free(options);
    r3map_backend_free(backend);
    return 0;
}
