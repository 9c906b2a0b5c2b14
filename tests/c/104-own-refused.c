/* Functions that cannot be right are refused with what is wrong, and user_data stays the caller's. */
#include "own.h"

static struct own own;

static void refused(r3map_backend_functions functions, const char *text)
{
    r3map_backend *backend = NULL;
    FAILS(r3map_backend_new(&functions, &own, &backend), R3MAP_INVALID_ARGUMENT, text);
    CHECK(backend == NULL && own.frees == 0);
}

int main(void)
{
    own_init(&own, 4096);
    r3map_backend_functions functions = own_functions();
    functions.struct_size = 8;
    refused(functions, "struct_size is 8");
    functions = own_functions();
    functions.read_at = NULL;
    refused(functions, "the function read_at is NULL");
    functions = own_functions();
    functions.write_at = NULL;
    refused(functions, "the function write_at is NULL");
    functions = own_functions();
    functions.flags = 1u << 31;
    refused(functions, "flags: 0x80000000 is unknown");
    functions = own_functions();
    functions.chunk_size = 5000;
    refused(functions, "chunk_size: 5000");
    FAILS(r3map_backend_new(NULL, &own, NULL), R3MAP_INVALID_ARGUMENT, "the place for the backend is NULL");

    /* A structure that a newer header made longer is taken while what is new in it is unused. */
    struct {
        r3map_backend_functions known;
        void *newer;
    } longer = {own_functions(), NULL};
    longer.known.struct_size = sizeof longer;
    r3map_backend *backend;
    OK(r3map_backend_new(&longer.known, &own, &backend));
    r3map_backend_free(backend);
    CHECK(own.frees == 1);
    own_init(&own, 4096);
    longer.newer = &own;
    backend = NULL;
    FAILS(r3map_backend_new(&longer.known, &own, &backend), R3MAP_INVALID_ARGUMENT, "only a newer library knows");
    CHECK(backend == NULL && own.frees == 0);
    free(own.bytes);
    return 0;
}
