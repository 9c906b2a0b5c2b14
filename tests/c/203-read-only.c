/* A read-only mount reads, refuses writes with read_only, and says that it is one. */
#include "test.h"

int main(void)
{
    r3map_mount *mount = open_mount("memory:?size=8192", "read_only", "true");
    bool read_only = false;
    OK(r3map_mount_read_only(mount, &read_only));
    CHECK(read_only);
    char byte = 1;
    OK(r3map_mount_read_at(mount, &byte, 1, 0, NULL));
    CHECK(byte == 0);
    FAILS(r3map_mount_write_at(mount, &byte, 1, 0, NULL), R3MAP_READ_ONLY, "read-only");
    close_mount(mount);
    return 0;
}
