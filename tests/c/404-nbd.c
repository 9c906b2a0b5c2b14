/* By path, slice and handle of a real /dev/nbdX, odd offsets and lengths read and write what an array would. */
#include <fcntl.h>

#include "test.h"

#define SIZE 70001

int main(void)
{
    static unsigned char model[SIZE], data[SIZE];
    struct file file = new_file("nbd", SIZE);
    r3map_mount *mount = open_mount(file.url, "device", "nbd");
    const char *path;
    void *bytes;
    uint64_t size;
    r3map_error *error = r3map_mount_path(mount, NULL, &path);
    if (error != NULL && getenv("R3MAP_IN_GUEST") == NULL)
        leave(LEFT_TO_GUEST, error);
    OK(error);
    OK(r3map_mount_slice(mount, NULL, &bytes, &size));
    int device = open(path, O_RDWR | O_CLOEXEC);
    CHECK(device >= 0 && size == SIZE);
    OK(r3map_mount_read_at(mount, model, SIZE, 0, NULL));
    unsigned random = 12345;
    for (int round = 0; round < 300; round++) {
        random = random * 1103515245 + 12345;
        size_t offset = (random >> 3) % SIZE;
        random = random * 1103515245 + 12345;
        size_t length = (random >> 3) % (SIZE - offset + 1);
        int reads = round % 2, way = round / 2 % 3;
        fill(data, length, random);
        if (!reads)
            memcpy(model + offset, data, length);
        if (way == 0 && reads)
            OK(r3map_mount_read_at(mount, data, length, offset, NULL));
        else if (way == 0)
            OK(r3map_mount_write_at(mount, data, length, offset, NULL));
        else if (way == 1 && reads)
            CHECK(pread(device, data, length, (off_t)offset) == (ssize_t)length);
        else if (way == 1)
            CHECK(pwrite(device, data, length, (off_t)offset) == (ssize_t)length);
        else if (reads)
            memcpy(data, (char *)bytes + offset, length);
        else
            memcpy((char *)bytes + offset, data, length);
        CHECK(memcmp(data, model + offset, length) == 0);
    }
    OK(r3map_mount_sync(mount, NULL));
    FILE *stored = fopen(file.path, "r");
    CHECK(stored != NULL && fread(data, 1, SIZE, stored) == SIZE && fgetc(stored) == EOF && fclose(stored) == 0);
    CHECK(memcmp(data, model, SIZE) == 0);
    CHECK(close(device) == 0);
    close_mount(mount);
    return 0;
}
