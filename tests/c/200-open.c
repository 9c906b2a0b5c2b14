/* A mount opens without a device, keeps its backend, and stands where a backend may. */
#include "test.h"

int main(void)
{
    r3map_backend *backend = open_backend("memory:?size=10000");
    r3map_mount *mount, *second;
    OK(r3map_mount_open(backend, NULL, NULL, &mount));
    r3map_backend_free(backend);
    uint64_t size = 0;
    bool read_only = true;
    const char *device = NULL;
    OK(r3map_mount_size(mount, &size));
    OK(r3map_mount_read_only(mount, &read_only));
    OK(r3map_mount_device(mount, &device));
    CHECK(size == 10000 && !read_only && strcmp(device, "") == 0);

    OK(r3map_mount_backend(mount, &backend));
    OK(r3map_mount_open(backend, NULL, NULL, &second));
    r3map_backend_free(backend);
    char found[3] = {0};
    OK(r3map_mount_write_at(second, "abc", 3, 9997, NULL));
    OK(r3map_mount_read_at(mount, found, 3, 9997, NULL));
    CHECK(memcmp(found, "abc", 3) == 0);
    close_mount(second);
    r3map_mount_free(mount);
    return 0;
}
