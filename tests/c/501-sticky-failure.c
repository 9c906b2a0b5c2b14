/* Once a write was lost every sync and close says so, though the backend works again; discard ends the mount. */
#include "own.h"

int main(void)
{
    struct own own;
    own_init(&own, 65536);
    r3map_backend_functions functions = own_functions();
    r3map_backend *backend;
    r3map_mount *mount;
    OK(r3map_backend_new(&functions, &own, &backend));
    OK(r3map_mount_open(backend, NULL, NULL, &mount));
    r3map_backend_free(backend);
    own.failing = R3MAP_IO;
    own.failures = 1;
    FAILS(r3map_mount_write_at(mount, "lost", 4, 0, NULL), R3MAP_IO, "out of order");
    OK(r3map_mount_write_at(mount, "kept", 4, 0, NULL));
    for (int i = 0; i < 3; i++)
        FAILS(r3map_mount_sync(mount, NULL), R3MAP_IO, "an earlier write did not reach the backend");
    FAILS(r3map_mount_close(mount, NULL), R3MAP_IO, "the mount stays open");
    char found[4];
    OK(r3map_mount_read_at(mount, found, 4, 0, NULL));
    OK(r3map_mount_discard(mount, NULL));
    r3map_mount_free(mount);
    CHECK(own.frees == 1);
    return 0;
}
