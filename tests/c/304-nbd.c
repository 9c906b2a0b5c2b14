/* An NBD device gives a path, a file and a slice at once, which agree with each other and with the handle. */
#include <fcntl.h>

#include "test.h"

int main(void)
{
    struct file file = new_file("nbd", 1 << 20);
    r3map_mount *mount = open_mount(file.url, "device", "nbd");
    const char *path = NULL, *device = NULL;
    r3map_error *error = r3map_mount_path(mount, NULL, &path);
    if (error != NULL && getenv("R3MAP_IN_GUEST") == NULL)
        leave(LEFT_TO_GUEST, error);
    OK(error);
    OK(r3map_mount_device(mount, &device));
    CHECK(strcmp(device, "nbd") == 0 && strncmp(path, "/dev/nbd", 8) == 0);
    int descriptor = -1, opened = open(path, O_RDWR | O_CLOEXEC);
    void *bytes = NULL;
    uint64_t size = 0;
    OK(r3map_mount_file(mount, NULL, &descriptor));
    OK(r3map_mount_slice(mount, NULL, &bytes, &size));
    CHECK(opened >= 0 && size == 1 << 20);

    char found[8] = {0};
    CHECK(pwrite(opened, "path", 4, 5000) == 4 && pwrite(descriptor, "file", 4, 70000) == 4);
    memcpy((char *)bytes + 200000, "memory", 6);
    OK(r3map_mount_write_at(mount, "handle", 6, 300000, NULL));
    CHECK(memcmp((char *)bytes + 5000, "path", 4) == 0 && memcmp((char *)bytes + 70000, "file", 4) == 0);
    CHECK(memcmp((char *)bytes + 300000, "handle", 6) == 0);
    OK(r3map_mount_read_at(mount, found, 6, 200000, NULL));
    CHECK(memcmp(found, "memory", 6) == 0);
    CHECK(pread(opened, found, 6, 300000) == 6 && memcmp(found, "handle", 6) == 0);
    OK(r3map_mount_sync(mount, NULL));

    FILE *stored = fopen(file.path, "r");
    CHECK(stored != NULL && fseek(stored, 200000, SEEK_SET) == 0 && fread(found, 1, 6, stored) == 6);
    CHECK(memcmp(found, "memory", 6) == 0 && fclose(stored) == 0);
    CHECK(close(opened) == 0 && close(descriptor) == 0);
    close_mount(mount);
    return 0;
}
