/* A write changes the bytes of its range and no others, and a read by any handle sees them. */
#include "test.h"

int main(void)
{
    const size_t length = 200001;
    struct file file = new_file("write", (long)length);
    unsigned char *expected = calloc(1, length), *found = malloc(length);
    static const char *modes[] = {"direct", "managed"};
    for (int i = 0; i < 2; i++) {
        r3map_mount *mount = open_mount(file.url, "mode", modes[i]);
        static const size_t ranges[][2] = {{0, 1}, {4095, 2}, {8192, 4096}, {65536, 70000}, {200000, 1}};
        for (size_t j = 0; j < sizeof ranges / sizeof *ranges; j++) {
            fill(expected + ranges[j][0], ranges[j][1], (unsigned)(i * 10 + (int)j));
            OK(r3map_mount_write_at(mount, expected + ranges[j][0], ranges[j][1], ranges[j][0], NULL));
        }
        OK(r3map_mount_write_at(mount, NULL, 0, length, NULL));
        OK(r3map_mount_read_at(mount, found, length, 0, NULL));
        CHECK(memcmp(found, expected, length) == 0);
        FAILS(r3map_mount_write_at(mount, "xy", 2, length - 1, NULL), R3MAP_OUT_OF_RANGE, "2 bytes at 200000");
        close_mount(mount);

        FILE *stored = fopen(file.path, "r");
        CHECK(stored != NULL && fread(found, 1, length, stored) == length && fgetc(stored) == EOF);
        CHECK(fclose(stored) == 0 && memcmp(found, expected, length) == 0);
    }
    free(expected);
    free(found);
    return 0;
}
