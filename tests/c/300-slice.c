/* A slice shows what read_at reads, and its stores are read by read_at and synced to the store. */
#include "test.h"

int main(void)
{
    const long length = 1000001;
    struct file file = new_file("slice", length);
    unsigned char *expected = malloc((size_t)length), *found = malloc((size_t)length);
    fill(expected, (size_t)length, 5);
    r3map_mount *mount = open_mount(file.url, NULL, NULL);
    OK(r3map_mount_write_at(mount, expected, (size_t)length, 0, NULL));

    void *bytes = NULL, *again = NULL;
    uint64_t size = 0;
    OK_OR_SKIP(r3map_mount_slice(mount, NULL, &bytes, &size));
    CHECK(size == (uint64_t)length && memcmp(bytes, expected, (size_t)length) == 0);
    OK(r3map_mount_slice(mount, NULL, &again, &size));
    CHECK(again == bytes);
    const char *device = "";
    OK(r3map_mount_device(mount, &device));
    CHECK(strcmp(device, "userfaultfd") == 0 || strcmp(device, "nbd") == 0);

    for (long at = 17; at < length; at += 50000)
        ((unsigned char *)bytes)[at] = expected[at] = (unsigned char)~expected[at];
    ((unsigned char *)bytes)[length - 1] = expected[length - 1] = 'e';
    OK(r3map_mount_read_at(mount, found, (size_t)length, 0, NULL));
    CHECK(memcmp(found, expected, (size_t)length) == 0);
    OK(r3map_mount_write_at(mount, "written", 7, 4093, NULL));
    CHECK(memcmp((char *)bytes + 4093, "written", 7) == 0);
    memcpy(expected + 4093, "written", 7);
    OK(r3map_mount_sync(mount, NULL));

    FILE *stored = fopen(file.path, "r");
    CHECK(stored != NULL && fread(found, 1, (size_t)length, stored) == (size_t)length && fclose(stored) == 0);
    CHECK(memcmp(found, expected, (size_t)length) == 0);
    close_mount(mount);
    free(expected);
    free(found);
    return 0;
}
