/* A backend of the program's own functions is read, written and synced by them, and freed once, at its last use. */
#include "own.h"

static void use(uint32_t flags)
{
    struct own own;
    own_init(&own, 300001);
    r3map_backend_functions functions = own_functions();
    functions.flags = flags;
    functions.max_request = 100000;
    r3map_backend *backend;
    OK(r3map_backend_new(&functions, &own, &backend));

    static unsigned char written[300001], found[300001];
    fill(written, sizeof written, 2);
    OK(r3map_backend_write_at(backend, written, sizeof written, 0, NULL));
    OK(r3map_backend_read_at(backend, found, sizeof found, 0, NULL));
    OK(r3map_backend_sync(backend, NULL));
    CHECK(memcmp(written, found, sizeof found) == 0);
    CHECK(memcmp(written, own.bytes, sizeof written) == 0);
    CHECK(own.reads >= 4 && own.writes >= 4 && own.syncs == 1);

    r3map_mount *mount;
    OK(r3map_mount_open(backend, NULL, NULL, &mount));
    r3map_backend_free(backend);
    CHECK(own.frees == 0);
    OK(r3map_mount_read_at(mount, found, 1, 300000, NULL));
    close_mount(mount);
    CHECK(own.frees == 1);
}

int main(void)
{
    use(0);
    use(R3MAP_BACKEND_LOCAL);
    return 0;
}
