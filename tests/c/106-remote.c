/* What one program exports another opens by its URL, over TCP and over a UNIX socket. */
#include "test.h"

int main(void)
{
    struct file file = new_file("export", 200001);
    struct file socket = new_file("socket", 0);
    unlink(socket.path);
    char address[300];
    snprintf(address, sizeof address, "unix:%s", socket.path);
    r3map_backend *exported = open_backend(file.url);
    r3map_server *server;
    const char *tcp, *local;
    OK(r3map_server_new(NULL, &server));
    OK(r3map_server_export(server, "state", exported, NULL));
    OK(r3map_server_listen(server, "127.0.0.1:0", NULL, &tcp));
    OK(r3map_server_listen(server, address, NULL, &local));
    r3map_backend_free(exported);

    char url[400];
    static unsigned char written[200001], found[200001];
    fill(written, sizeof written, 3);
    snprintf(url, sizeof url, "%s/state", tcp);
    r3map_backend *remote = open_backend(url);
    OK(r3map_backend_write_at(remote, written, sizeof written, 0, NULL));
    OK(r3map_backend_sync(remote, NULL));
    r3map_backend_free(remote);

    FILE *stored = fopen(file.path, "r");
    CHECK(stored != NULL && fread(found, 1, sizeof found, stored) == sizeof found && fclose(stored) == 0);
    CHECK(memcmp(written, found, sizeof found) == 0);

    snprintf(url, sizeof url, "%s?name=state", local);
    remote = open_backend(url);
    memset(found, 0, sizeof found);
    OK(r3map_backend_read_at(remote, found, sizeof found, 0, NULL));
    CHECK(memcmp(written, found, sizeof found) == 0);
    r3map_backend_free(remote);

    r3map_backend *none = NULL;
    snprintf(url, sizeof url, "%s/stat", tcp);
    FAILS(r3map_backend_open(url, NULL, NULL, &none), R3MAP_NOT_FOUND, "stat");
    CHECK(none == NULL);
    OK(r3map_server_close(server, NULL));
    FAILS(r3map_server_listen(server, "127.0.0.1:0", NULL, &tcp), R3MAP_CLOSED, "the server is closed");
    r3map_server_free(server);
    return 0;
}
