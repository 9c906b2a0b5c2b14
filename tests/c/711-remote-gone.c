/* Once the server is gone calls end with disconnected by their deadline, as often as they are made. */
#include <signal.h>
#include <sys/wait.h>

#include "test.h"

/* A server in a process of its own; its URL comes through the pipe. It serves until it is killed. */
static void serve(int answer)
{
    r3map_backend *backend = open_backend("memory:?size=1MiB");
    r3map_server *server;
    const char *url;
    OK(r3map_server_new(NULL, &server));
    OK(r3map_server_export(server, "m", backend, NULL));
    OK(r3map_server_listen(server, "127.0.0.1:0", NULL, &url));
    CHECK(write(answer, url, strlen(url)) == (ssize_t)strlen(url) && close(answer) == 0);
    for (;;)
        pause();
}

int main(void)
{
    int ends[2];
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        serve(ends[1]);
    close(ends[1]);
    char url[200] = {0}, full[210];
    CHECK(read(ends[0], url, sizeof url - 1) > 0);
    snprintf(full, sizeof full, "%s/m", url);

    r3map_mount *mount = open_mount(full, "deadline", "300ms");
    OK(r3map_mount_write_at(mount, "here", 4, 4096, NULL));
    OK(r3map_mount_sync(mount, NULL));
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);

    FAILS(r3map_mount_write_at(mount, "lost", 4, 4096, NULL) ?: r3map_mount_sync(mount, NULL), R3MAP_DISCONNECTED,
          "127.0.0.1");
    FAILS(r3map_mount_sync(mount, NULL), R3MAP_DISCONNECTED, "127.0.0.1");
    FAILS(r3map_mount_close(mount, NULL), R3MAP_DISCONNECTED, "the mount stays open");
    OK(r3map_mount_discard(mount, NULL));
    r3map_mount_free(mount);
    r3map_backend *none = NULL;
    FAILS(r3map_backend_open(full, NULL, NULL, &none), R3MAP_DISCONNECTED, "127.0.0.1");
    return 0;
}
