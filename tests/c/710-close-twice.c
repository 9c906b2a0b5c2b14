/* The second close of a mount, backend or server fails closed and harms nothing; freeing follows as ever. */
#include "test.h"

int main(void)
{
    struct file file = new_file("twice", 5000);
    r3map_backend *backend = open_backend(file.url);
    r3map_mount *mount;
    OK(r3map_mount_open(backend, NULL, NULL, &mount));
    OK(r3map_mount_write_at(mount, "kept", 4, 4996, NULL));
    OK(r3map_mount_close(mount, NULL));
    FAILS(r3map_mount_close(mount, NULL), R3MAP_CLOSED, "closed");
    FAILS(r3map_mount_discard(mount, NULL), R3MAP_CLOSED, "closed");
    r3map_mount_free(mount);

    char found[4];
    OK(r3map_backend_read_at(backend, found, 4, 4996, NULL));
    CHECK(memcmp(found, "kept", 4) == 0);
    OK(r3map_backend_close(backend, NULL));
    FAILS(r3map_backend_close(backend, NULL), R3MAP_CLOSED, "closed");
    r3map_backend_free(backend);

    r3map_server *server;
    OK(r3map_server_new(NULL, &server));
    OK(r3map_server_close(server, NULL));
    r3map_error *error = r3map_server_close(server, NULL);
    CHECK(error == NULL || r3map_error_code(error) == R3MAP_CLOSED);
    r3map_error_free(error);
    r3map_server_free(server);
    return 0;
}
