/* Writes a remote file to standard output: read r3map://host:7070/name
 * Nothing but the library is needed for it: no device, no privilege. */
#include <r3map.h>
#include <stdio.h>
#include <stdlib.h>

static void check(r3map_error *error)
{
    if (error == NULL)
        return;
    fprintf(stderr, "read: %s\n", r3map_error_message(error));
    exit(1);
}

int main(int count, char **arguments)
{
    if (count != 2) {
        fprintf(stderr, "usage: read URL\n");
        return 2;
    }
    r3map_backend *backend;
    r3map_mount *mount;
    uint64_t size;
    check(r3map_backend_open(arguments[1], NULL, NULL, &backend));
    check(r3map_mount_open(backend, NULL, NULL, &mount));
    r3map_backend_free(backend); /* the mount keeps what it needs of it */
    check(r3map_mount_size(mount, &size));

    static char buffer[1 << 20];
    for (uint64_t offset = 0; offset < size; offset += sizeof buffer) {
        size_t length = size - offset < sizeof buffer ? (size_t)(size - offset) : sizeof buffer;
        check(r3map_mount_read_at(mount, buffer, length, offset, NULL));
        if (fwrite(buffer, 1, length, stdout) != length) {
            perror("read: standard output");
            return 1;
        }
    }
    check(r3map_mount_close(mount, NULL));
    r3map_mount_free(mount);
    return 0;
}
