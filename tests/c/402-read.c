/* A read fills the buffer with the bytes of the store, all of them, or fails and says why. */
#include "test.h"

int main(void)
{
    const size_t length = 200001;
    struct file file = new_file("read", (long)length);
    unsigned char *stored = malloc(length), *found = malloc(length);
    fill(stored, length, 7);
    FILE *opened = fopen(file.path, "w");
    CHECK(opened != NULL && fwrite(stored, 1, length, opened) == length && fclose(opened) == 0);

    static const char *modes[] = {"direct", "managed"};
    for (int i = 0; i < 2; i++) {
        r3map_mount *mount = open_mount(file.url, "mode", modes[i]);
        memset(found, 0, length);
        OK(r3map_mount_read_at(mount, found, length, 0, NULL));
        CHECK(memcmp(found, stored, length) == 0);
        OK(r3map_mount_read_at(mount, found, 5, 4094, NULL));
        CHECK(memcmp(found, stored + 4094, 5) == 0);
        OK(r3map_mount_read_at(mount, found, 1, length - 1, NULL));
        CHECK(found[0] == stored[length - 1]);
        OK(r3map_mount_read_at(mount, NULL, 0, length, NULL));

        found[0] = (unsigned char)~stored[length - 1];
        FAILS(r3map_mount_read_at(mount, found, 2, length - 1, NULL), R3MAP_OUT_OF_RANGE, "2 bytes at 200000");
        CHECK(found[0] == (unsigned char)~stored[length - 1]);
        close_mount(mount);
    }
    free(stored);
    free(found);
    return 0;
}
