/* A server off loopback is reached by TLS and a token, and in no other way. */
#include "test.h"

int main(void)
{
    char state[] = "/tmp/r3map-state-XXXXXX";
    CHECK(mkdtemp(state) != NULL);
    r3map_server_options *settings = r3map_server_options_new();
    r3map_server_options_set(settings, "state", state);
    r3map_server *server;
    OK(r3map_server_new(settings, &server));
    r3map_server_options_free(settings);
    r3map_export_options *allowed = r3map_export_options_new(), *others = r3map_export_options_new();
    r3map_export_options_add_allow(allowed, "client");
    r3map_export_options_add_allow(others, "somebody");
    r3map_backend *memory = open_backend("memory:?size=100000"), *remote = NULL;
    OK(r3map_server_export(server, "region", memory, allowed));
    OK(r3map_server_export(server, "other", memory, others));
    r3map_export_options_free(allowed);
    r3map_export_options_free(others);
    r3map_backend_free(memory);

    const char *address, *line;
    char url[200], token[100] = "", pin[100] = "", there[200] = "";
    OK(r3map_server_listen(server, "0.0.0.0:0", NULL, &address));
    CHECK(strncmp(address, "r3maps://0.0.0.0:", 17) == 0);
    snprintf(url, sizeof url, "r3maps://127.0.0.1:%s/region", address + 17);
    OK(r3map_server_client_line(server, url, &line));
    CHECK(sscanf(line, "R3MAP_TOKEN=%99s r3map mount --tls-pin %99s %199s", token, pin, there) == 3);
    CHECK(strcmp(there, url) == 0);

    r3map_backend_options *options = r3map_backend_options_new();
    r3map_backend_options_set_tls_pin(options, pin);
    FAILS(r3map_backend_open(url, options, NULL, &remote), R3MAP_NOT_AUTHENTICATED, "the server wants a token");
    r3map_backend_options_set_token(options, "0123456789abcdef");
    FAILS(r3map_backend_open(url, options, NULL, &remote), R3MAP_NOT_AUTHENTICATED, "does not know this token");
    r3map_backend_options_set_token(options, token);
    OK(r3map_backend_open(url, options, NULL, &remote));
    char found[6] = "";
    OK(r3map_backend_write_at(remote, "by tls", 6, 99000, NULL));
    OK(r3map_backend_read_at(remote, found, 6, 99000, NULL));
    CHECK(memcmp(found, "by tls", 6) == 0);
    r3map_backend_free(remote);
    remote = NULL;
    snprintf(there, sizeof there, "r3maps://127.0.0.1:%s/other", address + 17);
    FAILS(r3map_backend_open(there, options, NULL, &remote), R3MAP_PERMISSION_DENIED, "\"other\"");
    r3map_backend_options_set_tls_pin(options, "0000000000000000000000000000000000000000000000000000000000000000");
    FAILS(r3map_backend_open(url, options, NULL, &remote), R3MAP_NOT_AUTHENTICATED, "another key than tls_pin says");
    r3map_backend_options_free(options);
    snprintf(there, sizeof there, "r3map://127.0.0.1:%s/region", address + 17);
    FAILS(r3map_backend_open(there, NULL, NULL, &remote), R3MAP_NOT_AUTHENTICATED, "this server speaks TLS only");
    CHECK(remote == NULL);

    settings = r3map_server_options_new();
    r3map_server_options_set(settings, "tokn", "0123456789abcdef");
    r3map_server *none = NULL;
    FAILS(r3map_server_new(settings, &none), R3MAP_INVALID_ARGUMENT, "tokn: unknown option; did you mean \"token\"?");
    CHECK(none == NULL);
    r3map_server_options_free(settings);

    /* A seeder that listens by itself says how its leecher does. */
    r3map_mount *mount = open_mount("memory:?size=100000", NULL, NULL);
    r3map_seed_options *seeding = r3map_seed_options_new();
    r3map_seed_options_set(seeding, "state", state);
    r3map_seeder *seeder;
    OK(r3map_mount_seed(mount, "0.0.0.0:0", seeding, NULL, &seeder));
    r3map_seed_options_free(seeding);
    OK(r3map_seeder_client_line(seeder, &line));
    char begin[400];
    snprintf(begin, sizeof begin, "R3MAP_TOKEN=%s r3map leech --tls-pin %s r3maps://", token, pin);
    CHECK(strncmp(line, begin, strlen(begin)) == 0 && strstr(line, "/region LOCAL") != NULL);
    OK(r3map_seeder_close(seeder, NULL));
    r3map_seeder_free(seeder);
    OK(r3map_mount_seed(mount, "127.0.0.1:0", NULL, NULL, &seeder));
    OK(r3map_seeder_client_line(seeder, &line));
    CHECK(strcmp(line, "") == 0);
    FAILS(r3map_seeder_client_line(seeder, NULL), R3MAP_INVALID_ARGUMENT, "line");
    OK(r3map_seeder_close(seeder, NULL));
    r3map_seeder_free(seeder);
    close_mount(mount);

    OK(r3map_server_close(server, NULL));
    r3map_server_free(server);
    for (const char *const *name = (const char *const[]){"server-cert.pem", "server-key.pem", "token", NULL}; *name; name++) {
        snprintf(there, sizeof there, "%s/%s", state, *name);
        CHECK(unlink(there) == 0);
    }
    CHECK(rmdir(state) == 0);
    return 0;
}
