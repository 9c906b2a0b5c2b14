/* An error has a code, an errno that is never 0, a message and a word on trying again; threads may share it. */
#include <errno.h>

#include "test.h"

static void *reader(void *argument)
{
    r3map_error *error = argument;
    for (int i = 0; i < 10000; i++)
        CHECK(r3map_error_code(error) == R3MAP_BUSY && strcmp(r3map_error_message(error), "held by another") == 0);
    return NULL;
}

int main(void)
{
    for (uint32_t code = R3MAP_INVALID_ARGUMENT; code <= R3MAP_INTERNAL; code++) {
        r3map_error *error = r3map_error_new(code, "why");
        CHECK(r3map_error_code(error) == code && r3map_error_errno(error) != 0);
        CHECK(strcmp(r3map_error_message(error), "why") == 0);
        bool retryable = code == R3MAP_BUSY || code == R3MAP_TIMEOUT || code == R3MAP_DISCONNECTED
                         || code == R3MAP_SUSPENDED;
        CHECK(r3map_error_retryable(error) == retryable);
        r3map_error_free(error);
    }
    FAILS(r3map_error_new(0, "x"), R3MAP_INVALID_ARGUMENT, "0 is no code");
    FAILS(r3map_error_new(20, "x"), R3MAP_INVALID_ARGUMENT, "20 is no code");
    FAILS(r3map_error_new(R3MAP_IO, NULL), R3MAP_INVALID_ARGUMENT, "the message is NULL");
    CHECK(r3map_error_code(NULL) == 0 && r3map_error_errno(NULL) == 0 && !r3map_error_retryable(NULL));
    CHECK(strcmp(r3map_error_message(NULL), "") == 0);

    r3map_error *shared = r3map_error_new(R3MAP_BUSY, "held by another");
    CHECK(r3map_error_errno(shared) == EBUSY);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, reader, shared) == 0);
    for (int i = 0; i < 4; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    r3map_error_free(shared);
    return 0;
}
