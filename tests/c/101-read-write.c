/* What is written to a backend is read back; a range outside it is refused, whole. */
#include "test.h"

int main(void)
{
    r3map_backend *backend = open_backend("memory:?size=100001");
    static unsigned char written[100001], found[100001];
    fill(written, sizeof written, 1);
    OK(r3map_backend_write_at(backend, written, sizeof written, 0, NULL));
    OK(r3map_backend_read_at(backend, found, sizeof found, 0, NULL));
    CHECK(memcmp(written, found, sizeof found) == 0);
    OK(r3map_backend_read_at(backend, found, 1, 100000, NULL));
    CHECK(found[0] == written[100000]);
    OK(r3map_backend_read_at(backend, NULL, 0, 100001, NULL));
    OK(r3map_backend_sync(backend, NULL));

    FAILS(r3map_backend_read_at(backend, found, 2, 100000, NULL), R3MAP_OUT_OF_RANGE, "2 bytes at 100000");
    FAILS(r3map_backend_write_at(backend, found, 1, UINT64_MAX, NULL), R3MAP_OUT_OF_RANGE, "outside");
    FAILS(r3map_backend_read_at(backend, found, SIZE_MAX, 0, NULL), R3MAP_INVALID_ARGUMENT, "more than memory");
    r3map_backend_free(backend);
    return 0;
}
