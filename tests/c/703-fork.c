/* In a forked child the parent's handles are closed and freeing them does nothing; the parent goes on. */
#include <sys/wait.h>

#include "test.h"

int main(void)
{
    r3map_backend *backend = open_backend("memory:?size=4096");
    r3map_mount *mount;
    r3map_server *server;
    const char *url;
    OK(r3map_mount_open(backend, NULL, NULL, &mount));
    OK(r3map_server_new(NULL, &server));
    OK(r3map_server_export(server, "m", backend, NULL));
    OK(r3map_server_listen(server, "127.0.0.1:0", NULL, &url));

    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char byte;
        uint64_t size;
        const char *text;
        FAILS(r3map_mount_read_at(mount, &byte, 1, 0, NULL), R3MAP_CLOSED, "forked");
        FAILS(r3map_mount_size(mount, &size), R3MAP_CLOSED, "forked");
        FAILS(r3map_backend_read_at(backend, &byte, 1, 0, NULL), R3MAP_CLOSED, "forked");
        FAILS(r3map_server_listen(server, "127.0.0.1:0", NULL, &text), R3MAP_CLOSED, "forked");
        r3map_mount_free(mount);
        r3map_backend_free(backend);
        r3map_server_free(server);
        r3map_backend *own = open_backend("memory:?size=10");
        OK(r3map_backend_read_at(own, &byte, 1, 0, NULL));
        r3map_backend_free(own);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    char full[200], byte = 'p';
    snprintf(full, sizeof full, "%s/m", url);
    r3map_backend *remote = open_backend(full);
    OK(r3map_mount_write_at(mount, &byte, 1, 0, NULL));
    OK(r3map_backend_read_at(remote, &byte, 1, 0, NULL));
    CHECK(byte == 'p');
    r3map_backend_free(remote);
    OK(r3map_server_close(server, NULL));
    r3map_server_free(server);
    close_mount(mount);
    r3map_backend_free(backend);
    return 0;
}
