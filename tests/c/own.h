/* A backend of functions of our own over memory, which counts its calls and fails when told to. */
#ifndef OWN_H
#define OWN_H

#include "test.h"

struct own {
    unsigned char *bytes;
    uint64_t size;
    int reads, writes, syncs, frees;
    /* How many calls are under way, and how many there ever were at once. */
    int inside, most;
    /* The code with which calls fail from now on; 0 is none. */
    uint32_t failing;
    /* How many calls still fail with it; below 0 all of them. */
    int failures;
    /* How long a read takes, in milliseconds. */
    int delay;
    /* Calls wait for whoever holds it. */
    pthread_mutex_t gate;
    pthread_mutex_t lock;
};

static r3map_error *own_enter(struct own *own, int *counter)
{
    r3map_error *error = NULL;
    pthread_mutex_lock(&own->lock);
    *counter += 1;
    own->inside += 1;
    if (own->inside > own->most)
        own->most = own->inside;
    if (own->failing != 0 && own->failures != 0) {
        error = r3map_error_new(own->failing, "out of order");
        own->failures -= 1;
    }
    pthread_mutex_unlock(&own->lock);
    pthread_mutex_lock(&own->gate);
    pthread_mutex_unlock(&own->gate);
    if (own->delay > 0)
        usleep((useconds_t)own->delay * 1000);
    return error;
}

static void own_leave(struct own *own)
{
    pthread_mutex_lock(&own->lock);
    own->inside -= 1;
    pthread_mutex_unlock(&own->lock);
}

static r3map_error *own_size(void *user_data, uint64_t *size)
{
    *size = ((struct own *)user_data)->size;
    return NULL;
}

static r3map_error *own_read(void *user_data, void *buffer, size_t length, uint64_t offset)
{
    struct own *own = user_data;
    r3map_error *error = own_enter(own, &own->reads);
    if (error == NULL)
        memcpy(buffer, own->bytes + offset, length);
    own_leave(own);
    return error;
}

static r3map_error *own_write(void *user_data, const void *data, size_t length, uint64_t offset)
{
    struct own *own = user_data;
    r3map_error *error = own_enter(own, &own->writes);
    if (error == NULL)
        memcpy(own->bytes + offset, data, length);
    own_leave(own);
    return error;
}

static r3map_error *own_sync(void *user_data)
{
    struct own *own = user_data;
    r3map_error *error = own_enter(own, &own->syncs);
    own_leave(own);
    return error;
}

static void own_free(void *user_data)
{
    struct own *own = user_data;
    own->frees += 1;
    free(own->bytes);
}

static inline r3map_backend_functions own_functions(void)
{
    r3map_backend_functions functions;
    memset(&functions, 0, sizeof functions);
    functions.struct_size = sizeof functions;
    functions.name = "ours";
    functions.size = own_size;
    functions.read_at = own_read;
    functions.write_at = own_write;
    functions.sync = own_sync;
    functions.free = own_free;
    return functions;
}

static inline void own_init(struct own *own, uint64_t size)
{
    memset(own, 0, sizeof *own);
    own->bytes = calloc(1, size);
    own->size = size;
    CHECK(own->bytes != NULL && pthread_mutex_init(&own->lock, NULL) == 0);
    CHECK(pthread_mutex_init(&own->gate, NULL) == 0);
}

#endif
