/* Whatever lengths and offsets a mount is read and written with, the bytes are those of a plain array. */
#include "test.h"

#define SIZE 70001

int main(void)
{
    static unsigned char model[SIZE], data[SIZE];
    r3map_mount *mount = open_mount("memory:?size=70001", NULL, NULL);
    unsigned random = 12345;
    for (int round = 0; round < 2000; round++) {
        random = random * 1103515245 + 12345;
        size_t offset = (random >> 3) % SIZE;
        random = random * 1103515245 + 12345;
        size_t length = (random >> 3) % (SIZE - offset + 1);
        if (round % 2 == 0) {
            fill(data, length, random);
            memcpy(model + offset, data, length);
            OK(r3map_mount_write_at(mount, data, length, offset, NULL));
        } else {
            OK(r3map_mount_read_at(mount, data, length, offset, NULL));
            CHECK(memcmp(data, model + offset, length) == 0);
        }
    }
    FAILS(r3map_mount_read_at(mount, data, 2, SIZE - 1, NULL), R3MAP_OUT_OF_RANGE, "2 bytes at 70000");
    FAILS(r3map_mount_write_at(mount, data, 1, SIZE, NULL), R3MAP_OUT_OF_RANGE, "1 bytes at 70001");
    close_mount(mount);
    return 0;
}
