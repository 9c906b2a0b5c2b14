/* A closed mount or backend answers every call with closed, the size of a mount excepted. */
#include "test.h"

#define REFUSED(call) FAILS(call, R3MAP_CLOSED, "closed")

int main(void)
{
    r3map_backend *backend = open_backend("memory:?size=4096"), *none = NULL;
    r3map_mount *mount;
    OK(r3map_mount_open(backend, NULL, NULL, &mount));
    OK(r3map_mount_close(mount, NULL));
    uint64_t size = 0;
    size_t count;
    const char *text;
    int descriptor;
    void *bytes;
    bool flag;
    char byte = 0;
    r3map_range range;
    uint32_t event;
    r3map_error *cause;
    r3map_stats *stats;
    OK(r3map_mount_size(mount, &size));
    CHECK(size == 4096);
    REFUSED(r3map_mount_read_only(mount, &flag));
    REFUSED(r3map_mount_device(mount, &text));
    REFUSED(r3map_mount_read_at(mount, &byte, 1, 0, NULL));
    REFUSED(r3map_mount_write_at(mount, &byte, 1, 0, NULL));
    REFUSED(r3map_mount_path(mount, NULL, &text));
    REFUSED(r3map_mount_file(mount, NULL, &descriptor));
    REFUSED(r3map_mount_slice(mount, NULL, &bytes, &size));
    REFUSED(r3map_mount_pull(mount, 0, 1, NULL));
    REFUSED(r3map_mount_prefetch(mount, 0, 1));
    REFUSED(r3map_mount_missing(mount, 0, 1, 1, &range, &count));
    REFUSED(r3map_mount_wait_local(mount, 1, 1000, NULL));
    REFUSED(r3map_mount_next(mount, 0, 1000, NULL, &size, &event, &cause));
    REFUSED(r3map_mount_sync(mount, NULL));
    REFUSED(r3map_mount_stats(mount, &stats));
    REFUSED(r3map_mount_backend(mount, &none));
    REFUSED(r3map_mount_close(mount, NULL));
    REFUSED(r3map_mount_discard(mount, NULL));
    r3map_mount_free(mount);

    OK(r3map_backend_close(backend, NULL));
    REFUSED(r3map_backend_size(backend, &size));
    REFUSED(r3map_backend_read_at(backend, &byte, 1, 0, NULL));
    REFUSED(r3map_backend_sync(backend, NULL));
    REFUSED(r3map_backend_close(backend, NULL));
    REFUSED(r3map_mount_open(backend, NULL, NULL, &mount));
    r3map_backend_free(backend);
    return 0;
}
