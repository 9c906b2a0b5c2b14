/* A call ends with timeout at the deadline of its mount, though the backend has not answered. */
#include "own.h"

int main(void)
{
    struct own own;
    own_init(&own, 4096);
    CHECK(pthread_mutex_lock(&own.gate) == 0);
    r3map_backend_functions functions = own_functions();
    r3map_backend *backend;
    r3map_mount *mount;
    OK(r3map_backend_new(&functions, &own, &backend));
    r3map_mount_options *options = r3map_mount_options_new();
    r3map_mount_options_set_deadline(options, 20);
    OK(r3map_mount_open(backend, options, NULL, &mount));
    r3map_mount_options_free(options);
    char byte = 0;
    FAILS(r3map_mount_read_at(mount, &byte, 1, 0, NULL), R3MAP_TIMEOUT, "deadline");
    CHECK(pthread_mutex_unlock(&own.gate) == 0);
    OK(r3map_mount_discard(mount, NULL));
    r3map_mount_free(mount);
    OK(r3map_backend_read_at(backend, &byte, 1, 0, NULL));
    r3map_backend_free(backend);
    /* The read that was given up still uses our functions until it returns. */
    for (int i = 0; i < 1000 && own.frees == 0; i++)
        usleep(10000);
    CHECK(own.frees == 1);
    return 0;
}
