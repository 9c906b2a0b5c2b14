/* The library says its version. */
#include "test.h"

int main(void)
{
    int major, minor, patch;
    CHECK(sscanf(r3map_version(), "%d.%d.%d", &major, &minor, &patch) == 3);
    return 0;
}
