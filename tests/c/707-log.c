/* The log is off until a descriptor is given, then writes lines of the level asked for, and ends when told. */
#include "own.h"

/* A write that fails is an error in the log. */
static void lose_a_write(void)
{
    struct own own;
    own_init(&own, 4096);
    own.failing = R3MAP_IO;
    own.failures = -1;
    r3map_backend_functions functions = own_functions();
    r3map_backend *backend;
    r3map_mount *mount;
    OK(r3map_backend_new(&functions, &own, &backend));
    OK(r3map_mount_open(backend, NULL, NULL, &mount));
    r3map_backend_free(backend);
    FAILS(r3map_mount_write_at(mount, "x", 1, 0, NULL), R3MAP_IO, "");
    OK(r3map_mount_discard(mount, NULL));
    r3map_mount_free(mount);
}

int main(void)
{
    int ends[2];
    char line[4097] = {0};
    CHECK(pipe(ends) == 0);
    FAILS(r3map_log_to(ends[1], 6), R3MAP_INVALID_ARGUMENT, "6 is no level");
    FAILS(r3map_log_to(-1, R3MAP_LOG_INFO), R3MAP_INVALID_ARGUMENT, "not open");
    lose_a_write();
    OK(r3map_log_to(ends[1], R3MAP_LOG_ERROR));
    lose_a_write();
    OK(r3map_log_to(-1, R3MAP_LOG_OFF));
    lose_a_write();
    CHECK(close(ends[1]) == 0);
    ssize_t length = read(ends[0], line, sizeof line - 1);
    CHECK(length > 0 && strncmp(line, "ERROR r3map::", 13) == 0);
    CHECK(strstr(line, "a write did not reach the backend error=\"ours: write: out of order\"") != NULL);
    CHECK(strchr(line, '\n') == line + length - 1);
    CHECK(read(ends[0], line, sizeof line) == 0);
    return 0;
}
