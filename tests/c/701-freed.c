/* A freed handle, one of another noun and a second free are found out. */
#include "test.h"

int main(void)
{
    r3map_backend *backend = open_backend("memory:?size=4096");
    r3map_mount *mount, *none = NULL;
    uint64_t size = 0;
    OK(r3map_mount_open(backend, NULL, NULL, &mount));
    FAILS(r3map_mount_size((r3map_mount *)backend, &size), R3MAP_INVALID_ARGUMENT, "this is no r3map_mount");
    r3map_mount_free(mount);
    r3map_mount_free(mount);
    FAILS(r3map_mount_size(mount, &size), R3MAP_INVALID_ARGUMENT, "or one that was freed");
    FAILS(r3map_mount_sync(mount, NULL), R3MAP_INVALID_ARGUMENT, "or one that was freed");
    r3map_mount_options *options = r3map_mount_options_new();
    r3map_mount_options_free(options);
    r3map_mount_options_set_mode(options, R3MAP_MODE_DIRECT);
    FAILS(r3map_mount_open(backend, options, NULL, &none), R3MAP_INVALID_ARGUMENT, "r3map_mount_options");
    r3map_cancel *cancel = r3map_cancel_new();
    r3map_cancel_free(cancel);
    FAILS(r3map_mount_open(backend, NULL, cancel, &none), R3MAP_INVALID_ARGUMENT, "r3map_cancel");
    r3map_backend_free(backend);
    FAILS(r3map_mount_open(backend, NULL, NULL, &none), R3MAP_INVALID_ARGUMENT, "r3map_backend");
    CHECK(none == NULL);

    r3map_error *error = r3map_error_new(R3MAP_IO, "x");
    r3map_error_free(error);
    r3map_error_free(error);
    CHECK(r3map_error_code(error) == R3MAP_INVALID_ARGUMENT && r3map_error_errno(error) != 0);
    CHECK(strcmp(r3map_error_message(error), "this is no r3map_error, or one that was freed") == 0);
    return 0;
}
