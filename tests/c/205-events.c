/* Waiting for an event ends with timeout where there is none, and writes no output. */
#include "test.h"

int main(void)
{
    r3map_mount *mount = open_mount("memory:?size=8192", NULL, NULL);
    uint64_t sequence = 7;
    uint32_t event = 7;
    r3map_error *cause = NULL;
    FAILS(r3map_mount_next(mount, 0, 20, NULL, &sequence, &event, &cause), R3MAP_TIMEOUT, "");
    CHECK(sequence == 7 && event == 7 && cause == NULL);
    OK(r3map_mount_wait_local(mount, 1.0, 1000, NULL));
    FAILS(r3map_mount_wait_local(mount, 1.5, 1000, NULL), R3MAP_INVALID_ARGUMENT, "between 0 and 1");
    close_mount(mount);
    return 0;
}
