/* A cancel ends a call that waits for a backend, from another thread, and every later call it is given to. */
#include "own.h"

static void *trigger(void *argument)
{
    void **both = argument;
    struct own *own = both[1];
    for (;;) {
        pthread_mutex_lock(&own->lock);
        int inside = own->inside;
        pthread_mutex_unlock(&own->lock);
        if (inside > 0)
            break;
        usleep(1000);
    }
    r3map_cancel_trigger(both[0]);
    return NULL;
}

int main(void)
{
    struct own own;
    own_init(&own, 4096);
    CHECK(pthread_mutex_lock(&own.gate) == 0);
    r3map_backend_functions functions = own_functions();
    r3map_backend *backend, *none = NULL;
    r3map_mount *mount, *no_mount = NULL;
    r3map_cancel *cancel = r3map_cancel_new();
    OK(r3map_backend_new(&functions, &own, &backend));
    OK(r3map_mount_open(backend, NULL, cancel, &mount));
    pthread_t thread;
    void *both[2] = {cancel, &own};
    CHECK(pthread_create(&thread, NULL, trigger, both) == 0);
    char byte = 0;
    FAILS(r3map_mount_read_at(mount, &byte, 1, 0, cancel), R3MAP_CANCELLED, "cancelled");
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(pthread_mutex_unlock(&own.gate) == 0);
    FAILS(r3map_mount_sync(mount, cancel), R3MAP_CANCELLED, "cancelled");
    FAILS(r3map_backend_read_at(backend, &byte, 1, 0, cancel), R3MAP_CANCELLED, "cancelled");
    FAILS(r3map_backend_open("memory:?size=1", NULL, cancel, &none), R3MAP_CANCELLED, "cancelled");
    FAILS(r3map_mount_open(backend, NULL, cancel, &no_mount), R3MAP_CANCELLED, "cancelled");
    CHECK(none == NULL && no_mount == NULL);
    r3map_cancel_free(cancel);
    OK(r3map_mount_read_at(mount, &byte, 1, 0, NULL));
    close_mount(mount);
    r3map_backend_free(backend);
    return 0;
}
