/* Adds one to a counter that lives elsewhere and is used here as memory: counter r3map://host:7070/name
 * One after another, any number of hosts may do so. */
#include <r3map.h>
#include <stdio.h>
#include <stdlib.h>

static void check(r3map_error *error)
{
    if (error == NULL)
        return;
    fprintf(stderr, "counter: %s\n", r3map_error_message(error));
    exit(1);
}

int main(int count, char **arguments)
{
    if (count != 2) {
        fprintf(stderr, "usage: counter URL\n");
        return 2;
    }
    r3map_backend *backend;
    r3map_mount *mount;
    void *bytes;
    uint64_t size;
    check(r3map_backend_open(arguments[1], NULL, NULL, &backend));
    check(r3map_mount_open(backend, NULL, NULL, &mount));
    r3map_backend_free(backend);
    check(r3map_mount_slice(mount, NULL, &bytes, &size));
    if (size < sizeof(uint64_t)) {
        fprintf(stderr, "counter: %llu bytes are too few\n", (unsigned long long)size);
        return 1;
    }
    uint64_t *counter = bytes;
    *counter += 1; /* the first touch brings the page here */
    printf("%llu\n", (unsigned long long)*counter);
    check(r3map_mount_close(mount, NULL)); /* the new value is durable where it lives */
    r3map_mount_free(mount);
    return 0;
}
