/* The error of an own function arrives with its code and message; a retryable one is tried again. */
#include "own.h"

int main(void)
{
    struct own own;
    own_init(&own, 4096);
    r3map_backend_functions functions = own_functions();
    r3map_backend *backend;
    OK(r3map_backend_new(&functions, &own, &backend));
    char byte = 0;

    own.failing = R3MAP_CORRUPT;
    own.failures = -1;
    FAILS(r3map_backend_read_at(backend, &byte, 1, 0, NULL), R3MAP_CORRUPT, "ours: read: out of order");
    FAILS(r3map_backend_write_at(backend, &byte, 1, 0, NULL), R3MAP_CORRUPT, "ours: write: out of order");
    FAILS(r3map_backend_sync(backend, NULL), R3MAP_CORRUPT, "ours: sync: out of order");

    own.failing = R3MAP_DISCONNECTED;
    own.failures = 2;
    own.reads = 0;
    OK(r3map_backend_read_at(backend, &byte, 1, 0, NULL));
    CHECK(own.reads == 3);
    r3map_backend_free(backend);
    CHECK(own.frees == 1);
    return 0;
}
