/* A view that the chosen device does not give is unsupported and names the devices that could. */
#include "own.h"

int main(void)
{
    void *bytes = NULL;
    uint64_t size = 0;
    const char *path = NULL;
    r3map_mount *mount = open_mount("memory:?size=65536", "device", "fuse");
    FAILS(r3map_mount_slice(mount, NULL, &bytes, &size), R3MAP_UNSUPPORTED, "device=nbd or userfaultfd");
    close_mount(mount);
    mount = open_mount("memory:?size=65536", "device", "userfaultfd");
    FAILS(r3map_mount_path(mount, NULL, &path), R3MAP_UNSUPPORTED, "device=nbd or fuse");
    close_mount(mount);

    /* A page fault must not wait for a language that may wait for the page. */
    struct own own;
    own_init(&own, 65536);
    r3map_backend_functions functions = own_functions();
    functions.flags = R3MAP_BACKEND_MANAGED_RUNTIME;
    r3map_backend *backend;
    OK(r3map_backend_new(&functions, &own, &backend));
    OK(r3map_mount_open(backend, NULL, NULL, &mount));
    r3map_backend_free(backend);
    FAILS(r3map_mount_slice(mount, NULL, &bytes, &size), R3MAP_UNSUPPORTED, "use read_at and write_at");
    CHECK(bytes == NULL && size == 0 && path == NULL);
    close_mount(mount);
    return 0;
}
