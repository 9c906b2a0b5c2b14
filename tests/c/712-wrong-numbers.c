/* Negative offsets, huge lengths, unknown enumerators and shares that are no number are errors, never a crash. */
#include <math.h>

#include "test.h"

int main(void)
{
    r3map_backend *backend = open_backend("memory:?size=8192");
    r3map_mount *mount, *none = NULL;
    char bytes[16] = {0};
    size_t count;
    OK(r3map_mount_open(backend, NULL, NULL, &mount));
    static const uint64_t outside[] = {8192, (uint64_t)-1, (uint64_t)-16, INT64_MAX, (uint64_t)INT64_MAX + 1};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        uint64_t offset = outside[i];
        FAILS(r3map_mount_read_at(mount, bytes, 16, offset, NULL), R3MAP_OUT_OF_RANGE, "16 bytes at");
        FAILS(r3map_mount_write_at(mount, bytes, 16, offset, NULL), R3MAP_OUT_OF_RANGE, "16 bytes at");
        FAILS(r3map_backend_read_at(backend, bytes, 16, offset, NULL), R3MAP_OUT_OF_RANGE, "16 bytes at");
        FAILS(r3map_backend_write_at(backend, bytes, 16, offset, NULL), R3MAP_OUT_OF_RANGE, "16 bytes at");
        FAILS(r3map_mount_pull(mount, offset, 16, NULL), R3MAP_OUT_OF_RANGE, "");
        FAILS(r3map_mount_prefetch(mount, offset, 16), R3MAP_OUT_OF_RANGE, "");
        FAILS(r3map_mount_missing(mount, offset, 16, 0, NULL, &count), R3MAP_OUT_OF_RANGE, "");
    }
    FAILS(r3map_mount_pull(mount, 1, UINT64_MAX, NULL), R3MAP_OUT_OF_RANGE, "");
    FAILS(r3map_mount_read_at(mount, bytes, SIZE_MAX, 0, NULL), R3MAP_INVALID_ARGUMENT, "more than memory can be");
    FAILS(r3map_mount_write_at(mount, bytes, SIZE_MAX, 0, NULL), R3MAP_INVALID_ARGUMENT, "more than memory can be");
    static const double shares[] = {-0.1, 1.1, (double)NAN, (double)INFINITY};
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++)
        FAILS(r3map_mount_wait_local(mount, shares[i], 1, NULL), R3MAP_INVALID_ARGUMENT, "between 0 and 1");

    static void (*const wrong[])(r3map_mount_options *, uint32_t) = {r3map_mount_options_set_mode,
                                                                     r3map_mount_options_set_pull,
                                                                     r3map_mount_options_set_prepare};
    for (int i = 0; i < 3; i++) {
        r3map_mount_options *options = r3map_mount_options_new();
        wrong[i](options, UINT32_MAX);
        FAILS(r3map_mount_open(backend, options, NULL, &none), R3MAP_INVALID_ARGUMENT, "4294967295");
        r3map_mount_options_free(options);
    }
    static const uint64_t chunks[] = {0, 1, 4095, 5000, 64 << 20, UINT64_MAX};
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        r3map_mount_options *options = r3map_mount_options_new();
        r3map_mount_options_set_chunk_size(options, chunks[i]);
        FAILS(r3map_mount_open(backend, options, NULL, &none), R3MAP_INVALID_ARGUMENT, "chunk_size");
        r3map_mount_options_free(options);
    }
    FAILS(r3map_log_to(-1, R3MAP_LOG_INFO), R3MAP_INVALID_ARGUMENT, "-1");
    FAILS(r3map_log_to(2, UINT32_MAX), R3MAP_INVALID_ARGUMENT, "4294967295");
    CHECK(none == NULL);
    close_mount(mount);
    r3map_backend_free(backend);
    return 0;
}
