/* A backend written in Go, as C sees it. */
#include <r3map.h>

/* What a Description says; `name` may be NULL. */
typedef struct {
    const char *name;
    uint32_t flags, chunk_size, max_request, concurrency;
} r3map_go_description;

/* Makes a backend of the Go value that the handle stands for. On failure the handle stays the caller's. */
r3map_error *r3map_go_backend_new(uintptr_t value, r3map_go_description description, r3map_backend **backend);
