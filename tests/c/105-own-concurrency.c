/* No more calls of an own function are under way at once than it allows. */
#include "own.h"

#define THREADS 8

static void *reader(void *backend)
{
    char bytes[64];
    for (int i = 0; i < 20; i++)
        OK(r3map_backend_read_at(backend, bytes, sizeof bytes, (uint64_t)i * 64, NULL));
    return NULL;
}

int main(void)
{
    for (uint32_t allowed = 1; allowed <= 3; allowed += 2) {
        struct own own;
        own_init(&own, 1 << 20);
        own.delay = 1;
        r3map_backend_functions functions = own_functions();
        functions.concurrency = allowed;
        r3map_backend *backend;
        OK(r3map_backend_new(&functions, &own, &backend));
        pthread_t threads[THREADS];
        for (int i = 0; i < THREADS; i++)
            CHECK(pthread_create(&threads[i], NULL, reader, backend) == 0);
        for (int i = 0; i < THREADS; i++)
            CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(own.reads == THREADS * 20);
        CHECK(own.most <= (int)allowed);
        r3map_backend_free(backend);
    }
    return 0;
}
