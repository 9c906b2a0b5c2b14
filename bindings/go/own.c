/* The library hands `user_data` back as it was given: the number of a cgo.Handle, never a pointer into Go's memory. */
#include "own.h"

extern r3map_error *r3mapGoSize(uintptr_t value, uint64_t *size);
extern r3map_error *r3mapGoReadAt(uintptr_t value, void *buffer, size_t length, uint64_t offset);
extern r3map_error *r3mapGoWriteAt(uintptr_t value, void *data, size_t length, uint64_t offset);
extern r3map_error *r3mapGoSync(uintptr_t value);
extern void r3mapGoFree(uintptr_t value);

static r3map_error *size(void *value, uint64_t *size)
{
    return r3mapGoSize((uintptr_t)value, size);
}

static r3map_error *read_at(void *value, void *buffer, size_t length, uint64_t offset)
{
    return r3mapGoReadAt((uintptr_t)value, buffer, length, offset);
}

static r3map_error *write_at(void *value, const void *data, size_t length, uint64_t offset)
{
    return r3mapGoWriteAt((uintptr_t)value, (void *)data, length, offset);
}

static r3map_error *sync_all(void *value)
{
    return r3mapGoSync((uintptr_t)value);
}

static void free_value(void *value)
{
    r3mapGoFree((uintptr_t)value);
}

r3map_error *r3map_go_backend_new(uintptr_t value, r3map_go_description description, r3map_backend **backend)
{
    r3map_backend_functions functions = {
        .struct_size = sizeof functions,
        .flags = description.flags,
        .chunk_size = description.chunk_size,
        .max_request = description.max_request,
        .concurrency = description.concurrency,
        .name = description.name,
        .size = size,
        .read_at = read_at,
        .write_at = write_at,
        .sync = sync_all,
        .free = free_value,
    };
    return r3map_backend_new(&functions, (void *)value, backend);
}
