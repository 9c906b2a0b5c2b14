/* A file is a new descriptor each time, the caller's to close, and agrees with the handle. */
#include "test.h"

int main(void)
{
    r3map_mount *mount = open_mount("memory:?size=65536", "device", "fuse");
    int first = -1, second = -1;
    OK_OR_SKIP(r3map_mount_file(mount, NULL, &first));
    OK(r3map_mount_file(mount, NULL, &second));
    CHECK(first >= 0 && second >= 0 && first != second);
    CHECK(pwrite(first, "here", 4, 1000) == 4);
    char found[4];
    CHECK(pread(second, found, 4, 1000) == 4 && memcmp(found, "here", 4) == 0);
    OK(r3map_mount_read_at(mount, found, 4, 1000, NULL));
    CHECK(memcmp(found, "here", 4) == 0);
    CHECK(close(first) == 0 && close(second) == 0);
    close_mount(mount);
    return 0;
}
