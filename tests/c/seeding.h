/* An app at the source of a migration: a region that is written while it is seeded, and stops when it is asked to. */
#ifndef SEEDING_H
#define SEEDING_H

#include "test.h"

/* As long as anything here may take; a test that works never waits for it. */
#define PATIENCE 60000

struct source {
    r3map_mount *mount;
    r3map_seeder *seeder;
    const char *url;
    unsigned char *model; /* what the region has to hold */
    uint64_t size;
    /* Given with the region. */
    const void *payload;
    size_t length;
    /* Refusals before it stops. */
    int refusals;
    /* How many writes were done, and what was told last. */
    _Atomic unsigned writes;
    uint32_t state;
    uint64_t sequence;
    pthread_t thread;
};

/* The next event of a seeder has to be this one; gives its sequence number. */
static inline uint64_t expect_event(r3map_seeder *seeder, uint64_t after, uint32_t expected)
{
    uint64_t sequence;
    uint32_t state;
    r3map_error *cause;
    OK(r3map_seeder_next(seeder, after, PATIENCE, NULL, &sequence, &state, &cause));
    if (state != expected) {
        fprintf(stderr, "event %" PRIu64 " is %u and not %u: %s\n", sequence, state, expected,
                r3map_error_message(cause));
        exit(1);
    }
    r3map_error_free(cause);
    return sequence;
}

/* The next event, which may be any. */
static inline uint32_t next_event(r3map_seeder *seeder, uint64_t *sequence)
{
    uint32_t state;
    r3map_error *cause;
    OK(r3map_seeder_next(seeder, *sequence, PATIENCE, NULL, sequence, &state, &cause));
    r3map_error_free(cause);
    return state;
}

static inline r3map_seeder *seed(r3map_mount *mount, const char **url)
{
    r3map_seeder *seeder;
    OK(r3map_mount_seed(mount, "127.0.0.1:0", NULL, NULL, &seeder));
    OK(r3map_seeder_url(seeder, url));
    return seeder;
}

static inline r3map_leecher *leech(const char *url, const char *local)
{
    r3map_leecher *leecher;
    OK(r3map_leecher_open(url, local, NULL, NULL, NULL, &leecher));
    return leecher;
}

/* Writes here and there until it is asked to stop, and takes events until the region moved. */
static inline void *source_app(void *argument)
{
    struct source *source = argument;
    unsigned random = 4711;
    for (;;) {
        uint32_t state;
        r3map_error *cause = NULL;
        r3map_error *error =
            r3map_seeder_next(source->seeder, source->sequence, 1, NULL, &source->sequence, &state, &cause);
        r3map_error_free(cause);
        if (error == NULL) {
            source->state = state;
            if (state == R3MAP_SEED_SUSPENDING && source->refusals-- > 0)
                OK(r3map_seeder_refuse(source->seeder, source->sequence, "not now"));
            else if (state == R3MAP_SEED_SUSPENDING)
                OK(r3map_seeder_suspended(source->seeder, source->sequence, source->payload, source->length));
            if (state == R3MAP_SEED_SUSPENDING || state == R3MAP_SEED_COMMITTED) {
                /* Neither asks for writes; wait for what comes of it. */
                do
                    source->state = next_event(source->seeder, &source->sequence);
                while (source->state != R3MAP_SEED_RESUMED && source->state != R3MAP_SEED_DRAINED);
                if (source->state == R3MAP_SEED_DRAINED)
                    return NULL;
            }
            continue;
        }
        CHECK(r3map_error_code(error) == R3MAP_TIMEOUT);
        r3map_error_free(error);
        for (int i = 0; i < 8; i++) {
            unsigned char bytes[700];
            random = random * 1103515245 + 12345;
            uint64_t offset = (random >> 4) % (source->size - sizeof bytes);
            fill(bytes, sizeof bytes, random);
            memcpy(source->model + offset, bytes, sizeof bytes);
            OK(r3map_mount_write_at(source->mount, bytes, sizeof bytes, offset, NULL));
            source->writes++;
        }
    }
}

/* Seeds a new file of that size with random bytes in it, and starts the app. */
static inline void source_start(struct source *source, const char *name, uint64_t size)
{
    struct file file = new_file(name, (long)size);
    source->size = size;
    source->model = malloc(size);
    CHECK(source->model != NULL);
    fill(source->model, size, 99);
    source->mount = open_mount(file.url, NULL, NULL);
    OK(r3map_mount_write_at(source->mount, source->model, size, 0, NULL));
    source->seeder = seed(source->mount, &source->url);
    CHECK(pthread_create(&source->thread, NULL, source_app, source) == 0);
    /* A region may be gone sooner than a thread begins. */
    while (source->writes == 0)
        usleep(1000);
}

/* Waits for the app's end, which is when every byte is at the other side, and closes. */
static inline void source_end(struct source *source)
{
    CHECK(pthread_join(source->thread, NULL) == 0 && source->state == R3MAP_SEED_DRAINED);
    OK(r3map_seeder_wait_drained(source->seeder, PATIENCE, NULL));
    OK(r3map_seeder_close(source->seeder, NULL));
    r3map_seeder_free(source->seeder);
    close_mount(source->mount);
}

/* The mount holds just these bytes. */
static inline void holds(r3map_mount *mount, const unsigned char *model, uint64_t size)
{
    uint64_t found_size;
    unsigned char *found = malloc(size);
    OK(r3map_mount_size(mount, &found_size));
    CHECK(found != NULL && found_size == size);
    OK(r3map_mount_read_at(mount, found, size, 0, NULL));
    for (uint64_t i = 0; i < size; i++) {
        if (found[i] != model[i]) {
            fprintf(stderr, "byte %" PRIu64 " of %" PRIu64 " is %u, not %u\n", i, size, found[i], model[i]);
            exit(1);
        }
    }
    free(found);
}

#endif
