/* One handle is used by many threads at once, each on a part of its own. */
#include "test.h"

#define THREADS 8
#define PART 100003

static r3map_mount *mount;

static void *worker(void *argument)
{
    unsigned seed = (unsigned)(uintptr_t)argument;
    uint64_t offset = (uint64_t)seed * PART;
    unsigned char *written = malloc(PART), *found = malloc(PART);
    for (unsigned round = 0; round < 20; round++) {
        fill(written, PART, seed + round);
        OK(r3map_mount_write_at(mount, written, PART, offset, NULL));
        OK(r3map_mount_read_at(mount, found, PART, offset, NULL));
        CHECK(memcmp(written, found, PART) == 0);
    }
    free(written);
    free(found);
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    mount = open_mount("memory:?size=1MiB", NULL, NULL);
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, worker, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    close_mount(mount);
    return 0;
}
