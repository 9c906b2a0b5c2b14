/* What the tests of a cache share: a server of one file at a UNIX socket, and a mount of it with a cache. */
#include "test.h"

static struct file file, at_socket;
static char url[400], cache[400];

static inline uint64_t figure(r3map_mount *mount, const char *name)
{
    uint64_t value = UINT64_MAX;
    r3map_stats *stats;
    OK(r3map_mount_stats(mount, &stats));
    OK(r3map_stats_get(stats, name, &value));
    r3map_stats_free(stats);
    return value;
}

/* Serves the file, always at the same address. */
static inline r3map_server *serve_file(void)
{
    char address[300];
    const char *said;
    r3map_server *server;
    r3map_backend *backend = open_backend(file.url);
    snprintf(address, sizeof address, "unix:%s", at_socket.path);
    OK(r3map_server_new(NULL, &server));
    OK(r3map_server_export(server, "m", backend, NULL));
    OK(r3map_server_listen(server, address, NULL, &said));
    snprintf(url, sizeof url, "%s?name=m", said);
    r3map_backend_free(backend);
    return server;
}

static inline void close_server(r3map_server *server)
{
    OK(r3map_server_close(server, NULL));
    r3map_server_free(server);
}

/* Options with a cache that pushes only at sync and close. */
static inline r3map_mount_options *cached(void)
{
    r3map_mount_options *options = r3map_mount_options_new();
    snprintf(cache, sizeof cache, "%s.cache", file.url);
    r3map_mount_options_set_cache(options, cache);
    r3map_mount_options_set_push_interval(options, 0);
    r3map_mount_options_set_pull(options, R3MAP_PULL_DEMAND);
    return options;
}

static inline r3map_server *begin(const char *name)
{
    file = new_file(name, 100000);
    at_socket = new_file("socket", 0);
    unlink(at_socket.path);
    return serve_file();
}
