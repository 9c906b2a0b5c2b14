/* NULL where something is needed is invalid_argument; freeing NULL does nothing; no output is touched. */
#include "test.h"

#define REFUSED(call) FAILS(call, R3MAP_INVALID_ARGUMENT, "NULL")

int main(void)
{
    r3map_backend *backend = open_backend("memory:?size=4096"), *none = NULL;
    r3map_mount *mount, *no_mount = NULL;
    r3map_server *server;
    r3map_stats *stats;
    OK(r3map_mount_open(backend, NULL, NULL, &mount));
    OK(r3map_mount_stats(mount, &stats));
    OK(r3map_server_new(NULL, &server));
    uint64_t number = 0;
    uint32_t event = 0;
    size_t count = 0;
    bool flag = false;
    int descriptor = -1;
    const char *text = NULL;
    void *bytes = NULL;
    char byte = 0;
    r3map_range range = {0, 0};
    r3map_error *cause = NULL;
    r3map_stats *no_stats = NULL;

    REFUSED(r3map_backend_open(NULL, NULL, NULL, &none));
    REFUSED(r3map_backend_open("memory:?size=1", NULL, NULL, NULL));
    REFUSED(r3map_backend_connect(0, NULL, NULL, NULL, &none));
    REFUSED(r3map_backend_connect(0, "x", NULL, NULL, NULL));
    REFUSED(r3map_backend_new(NULL, NULL, &none));
    REFUSED(r3map_backend_size(NULL, &number));
    REFUSED(r3map_backend_size(backend, NULL));
    REFUSED(r3map_backend_read_only(NULL, &flag));
    REFUSED(r3map_backend_read_only(backend, NULL));
    REFUSED(r3map_backend_read_at(NULL, &byte, 1, 0, NULL));
    REFUSED(r3map_backend_read_at(backend, NULL, 1, 0, NULL));
    REFUSED(r3map_backend_write_at(NULL, &byte, 1, 0, NULL));
    REFUSED(r3map_backend_write_at(backend, NULL, 1, 0, NULL));
    REFUSED(r3map_backend_sync(NULL, NULL));
    REFUSED(r3map_backend_close(NULL, NULL));
    REFUSED(r3map_mount_open(NULL, NULL, NULL, &no_mount));
    REFUSED(r3map_mount_open(backend, NULL, NULL, NULL));
    REFUSED(r3map_mount_size(NULL, &number));
    REFUSED(r3map_mount_size(mount, NULL));
    REFUSED(r3map_mount_read_only(NULL, &flag));
    REFUSED(r3map_mount_read_only(mount, NULL));
    REFUSED(r3map_mount_device(NULL, &text));
    REFUSED(r3map_mount_device(mount, NULL));
    REFUSED(r3map_mount_read_at(NULL, &byte, 1, 0, NULL));
    REFUSED(r3map_mount_read_at(mount, NULL, 1, 0, NULL));
    REFUSED(r3map_mount_write_at(NULL, &byte, 1, 0, NULL));
    REFUSED(r3map_mount_write_at(mount, NULL, 1, 0, NULL));
    REFUSED(r3map_mount_path(NULL, NULL, &text));
    REFUSED(r3map_mount_path(mount, NULL, NULL));
    REFUSED(r3map_mount_file(NULL, NULL, &descriptor));
    REFUSED(r3map_mount_file(mount, NULL, NULL));
    REFUSED(r3map_mount_slice(NULL, NULL, &bytes, &number));
    REFUSED(r3map_mount_slice(mount, NULL, NULL, &number));
    REFUSED(r3map_mount_slice(mount, NULL, &bytes, NULL));
    REFUSED(r3map_mount_pull(NULL, 0, 1, NULL));
    REFUSED(r3map_mount_prefetch(NULL, 0, 1));
    REFUSED(r3map_mount_missing(NULL, 0, 1, 1, &range, &count));
    REFUSED(r3map_mount_missing(mount, 0, 1, 1, NULL, &count));
    REFUSED(r3map_mount_missing(mount, 0, 1, 1, &range, NULL));
    REFUSED(r3map_mount_wait_local(NULL, 1, 1, NULL));
    REFUSED(r3map_mount_next(NULL, 0, 1, NULL, &number, &event, &cause));
    REFUSED(r3map_mount_next(mount, 0, 1, NULL, NULL, &event, &cause));
    REFUSED(r3map_mount_next(mount, 0, 1, NULL, &number, NULL, &cause));
    REFUSED(r3map_mount_next(mount, 0, 1, NULL, &number, &event, NULL));
    REFUSED(r3map_mount_sync(NULL, NULL));
    REFUSED(r3map_mount_stats(NULL, &no_stats));
    REFUSED(r3map_mount_stats(mount, NULL));
    REFUSED(r3map_mount_backend(NULL, &none));
    REFUSED(r3map_mount_backend(mount, NULL));
    REFUSED(r3map_mount_close(NULL, NULL));
    REFUSED(r3map_mount_discard(NULL, NULL));
    REFUSED(r3map_stats_get(NULL, "size", &number));
    REFUSED(r3map_stats_get(stats, NULL, &number));
    REFUSED(r3map_stats_get(stats, "size", NULL));
    REFUSED(r3map_stats_count(NULL, &count));
    REFUSED(r3map_stats_count(stats, NULL));
    REFUSED(r3map_stats_at(NULL, 0, &text, &number));
    REFUSED(r3map_stats_at(stats, 0, NULL, &number));
    REFUSED(r3map_stats_at(stats, 0, &text, NULL));
    REFUSED(r3map_server_new(NULL, NULL));
    REFUSED(r3map_server_listen(NULL, "127.0.0.1:0", NULL, &text));
    REFUSED(r3map_server_listen(server, NULL, NULL, &text));
    REFUSED(r3map_server_export(NULL, "x", backend, NULL));
    REFUSED(r3map_server_export(server, NULL, backend, NULL));
    REFUSED(r3map_server_export(server, "x", NULL, NULL));
    REFUSED(r3map_server_handle(NULL, 0));
    REFUSED(r3map_server_close(NULL, NULL));
    CHECK(none == NULL && no_mount == NULL && no_stats == NULL && text == NULL && bytes == NULL && cause == NULL);
    CHECK(number == 0 && event == 0 && count == 0 && !flag && descriptor == -1);

    /* Setters have nobody to tell. */
    r3map_mount_options_set(NULL, "mode", "auto");
    r3map_mount_options_set_read_only(NULL, true);
    r3map_backend_options_set_token(NULL, "x");
    r3map_server_options_set_insecure(NULL, true);
    r3map_export_options_set_read_only(NULL, true);
    r3map_cancel_trigger(NULL);
    r3map_error_free(NULL);
    r3map_cancel_free(NULL);
    r3map_backend_options_free(NULL);
    r3map_backend_free(NULL);
    r3map_mount_options_free(NULL);
    r3map_mount_free(NULL);
    r3map_stats_free(NULL);
    r3map_server_options_free(NULL);
    r3map_export_options_free(NULL);
    r3map_server_free(NULL);

    r3map_stats_free(stats);
    r3map_server_free(server);
    close_mount(mount);
    r3map_backend_free(backend);
    return 0;
}
