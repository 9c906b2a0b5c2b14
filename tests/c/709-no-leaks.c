/* A thousand opened and closed backends, mounts and servers leave no descriptor and no thread behind. */
#include "leaks.h"

static void once(void)
{
    r3map_backend *backend = open_backend("memory:?size=1MiB"), *remote;
    r3map_mount *mount;
    r3map_server *server;
    const char *url;
    char full[200], byte;
    OK(r3map_server_new(NULL, &server));
    OK(r3map_server_export(server, "m", backend, NULL));
    OK(r3map_server_listen(server, "127.0.0.1:0", NULL, &url));
    snprintf(full, sizeof full, "%s/m", url);
    OK(r3map_backend_open(full, NULL, NULL, &remote));
    OK(r3map_mount_open(remote, NULL, NULL, &mount));
    OK(r3map_mount_read_at(mount, &byte, 1, 1000, NULL));
    close_mount(mount);
    r3map_backend_free(remote);
    OK(r3map_server_close(server, NULL));
    r3map_server_free(server);
    r3map_backend_free(backend);
}

int main(void)
{
    return leaves_nothing(once, 1000);
}
