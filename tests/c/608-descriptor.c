/* A region moves over one connected socket that the app brings, from a name among a server's exports. */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

#include "seeding.h"

int main(void)
{
    const uint64_t size = 700001;
    struct file file = new_file("region", (long)size);
    unsigned char *model = malloc(size);
    fill(model, size, 3);
    struct source source = {.model = model, .size = size};
    source.mount = open_mount(file.url, NULL, NULL);
    OK(r3map_mount_write_at(source.mount, model, size, 0, NULL));
    r3map_server *server;
    OK(r3map_server_new(NULL, &server));
    OK(r3map_server_seed(server, "state", source.mount, NULL, &source.seeder));
    OK(r3map_seeder_url(source.seeder, &source.url));
    CHECK(strcmp(source.url, "") == 0);
    CHECK(pthread_create(&source.thread, NULL, source_app, &source) == 0);

    int ends[2];
    r3map_leecher *leecher = NULL;
    FAILS(r3map_leecher_connect(-1, "state", "memory:", NULL, NULL, NULL, &leecher), R3MAP_INVALID_ARGUMENT, "-1");
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    OK(r3map_server_handle(server, ends[0]));
    FAILS(r3map_leecher_connect(ends[1], "other", "memory:", NULL, NULL, NULL, &leecher), R3MAP_NOT_FOUND, "other");
    CHECK(leecher == NULL && close(ends[1]) == 0);

    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    OK(r3map_server_handle(server, ends[0]));
    OK(r3map_leecher_connect(ends[1], "state", "memory:", NULL, NULL, NULL, &leecher));
    CHECK(fcntl(ends[1], F_GETFD) == -1 && errno == EBADF);
    r3map_mount *mount;
    OK(r3map_leecher_finalize_when(leecher, "95%", PATIENCE, NULL, &mount));
    source_end(&source);
    holds(mount, model, size);
    r3map_leecher_free(leecher);
    close_mount(mount);
    OK(r3map_server_close(server, NULL));
    r3map_server_free(server);
    free(model);
    return 0;
}
