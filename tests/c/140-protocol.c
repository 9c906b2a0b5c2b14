/* A server may speak NBD or gRPC, and then says URLs by which their clients, r3map's own among them, open what it
 * exports. */
#include "test.h"

static void serves(const char *protocol, const char *rest)
{
    r3map_backend *backend = open_backend("memory:?size=4096"), *remote;
    r3map_server_options *options = r3map_server_options_new();
    r3map_server *server = NULL;
    r3map_server_options_set_protocol(options, protocol);
    OK(r3map_server_new(options, &server));
    r3map_server_options_free(options);
    OK(r3map_server_export(server, "region", backend, NULL));
    const char *url;
    OK(r3map_server_listen(server, "127.0.0.1:0", NULL, &url));
    CHECK(strncmp(url, protocol, strlen(protocol)) == 0 && strstr(url, "://127.0.0.1:"));

    char full[200], bytes[5] = "";
    snprintf(full, sizeof full, "%s%s", url, rest);
    remote = open_backend(full);
    OK(r3map_backend_write_at(remote, "hello", 5, 4000, NULL));
    OK(r3map_backend_sync(remote, NULL));
    OK(r3map_backend_read_at(backend, bytes, 5, 4000, NULL));
    CHECK(memcmp(bytes, "hello", 5) == 0);
    r3map_backend_free(remote);
    OK(r3map_server_close(server, NULL));
    r3map_server_free(server);
    r3map_backend_free(backend);
}

int main(void)
{
    r3map_server_options *options = r3map_server_options_new();
    r3map_server *server = NULL;
    r3map_server_options_set_protocol(options, "ndb");
    FAILS(r3map_server_new(options, &server), R3MAP_INVALID_ARGUMENT, "protocol: ");
    CHECK(server == NULL);
    r3map_server_options_free(options);
    serves("nbd", "/region");
    serves("grpc", "?size=4096");
    return 0;
}
