/* A connected socket serves at one end and is a backend at the other; the library owns it from success on. */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

#include "test.h"

int main(void)
{
    r3map_backend *exported = open_backend("memory:?size=8193"), *backend = NULL;
    r3map_server *server;
    OK(r3map_server_new(NULL, &server));
    OK(r3map_server_export(server, "m", exported, NULL));
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    OK(r3map_server_handle(server, ends[0]));
    CHECK(fcntl(ends[0], F_GETFD) == -1 && errno == EBADF);
    OK(r3map_backend_connect(ends[1], "m", NULL, NULL, &backend));
    CHECK(fcntl(ends[1], F_GETFD) == -1 && errno == EBADF);
    char found[5] = {0};
    OK(r3map_backend_write_at(backend, "bytes", 5, 8188, NULL));
    OK(r3map_backend_read_at(exported, found, 5, 8188, NULL));
    CHECK(memcmp(found, "bytes", 5) == 0);
    r3map_backend_free(backend);

    /* On failure the descriptor stays the caller's. */
    backend = NULL;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    OK(r3map_server_handle(server, ends[0]));
    FAILS(r3map_backend_connect(ends[1], "other", NULL, NULL, &backend), R3MAP_NOT_FOUND, "other");
    CHECK(backend == NULL && close(ends[1]) == 0);
    FAILS(r3map_backend_connect(-1, "m", NULL, NULL, &backend), R3MAP_INVALID_ARGUMENT, "descriptor -1 is not open");
    FAILS(r3map_server_handle(server, -1), R3MAP_INVALID_ARGUMENT, "descriptor -1 is not open");
    OK(r3map_server_close(server, NULL));
    r3map_server_free(server);
    r3map_backend_free(exported);
    return 0;
}
