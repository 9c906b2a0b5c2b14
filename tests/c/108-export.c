/* An export is read-only if told so, takes a name once, and off loopback plain TCP has to be asked for. */
#include "test.h"

int main(void)
{
    r3map_backend *backend = open_backend("memory:?size=4096"), *remote;
    r3map_export_options *options = r3map_export_options_new();
    r3map_export_options_set_read_only(options, true);
    r3map_server *server;
    const char *url;
    OK(r3map_server_new(NULL, &server));
    OK(r3map_server_export(server, "fixed", backend, options));
    r3map_export_options_free(options);
    FAILS(r3map_server_export(server, "fixed", backend, NULL), R3MAP_BUSY, "\"fixed\"");
    FAILS(r3map_server_export(server, "", backend, NULL), R3MAP_INVALID_ARGUMENT, "name");
    FAILS(r3map_backend_open("r3map://192.0.2.1/x", NULL, NULL, &remote), R3MAP_PERMISSION_DENIED, "insecure");
    OK(r3map_server_listen(server, "127.0.0.1:0", NULL, &url));

    char full[200];
    bool read_only = false;
    snprintf(full, sizeof full, "%s/fixed", url);
    remote = open_backend(full);
    OK(r3map_backend_read_only(remote, &read_only));
    CHECK(read_only);
    FAILS(r3map_backend_write_at(remote, "x", 1, 0, NULL), R3MAP_READ_ONLY, "read-only");
    r3map_backend_free(remote);

    r3map_server_options *limits = r3map_server_options_new();
    r3map_server_options_set_max_connections(limits, 0);
    r3map_server *none = NULL;
    FAILS(r3map_server_new(limits, &none), R3MAP_INVALID_ARGUMENT, "max_connections: 0");
    CHECK(none == NULL);
    r3map_server_options_free(limits);
    OK(r3map_server_close(server, NULL));
    r3map_server_free(server);
    r3map_backend_free(backend);
    return 0;
}
