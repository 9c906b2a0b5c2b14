/* A value that an option cannot take is kept and reported by open, the first one, with the option's name. */
#include "test.h"

static r3map_backend *backend;

static void refused(r3map_mount_options *options, const char *text)
{
    r3map_mount *mount = NULL;
    FAILS(r3map_mount_open(backend, options, NULL, &mount), R3MAP_INVALID_ARGUMENT, text);
    CHECK(mount == NULL);
    r3map_mount_options_free(options);
}

static void refused_text(const char *name, const char *value, const char *text)
{
    r3map_mount_options *options = r3map_mount_options_new();
    r3map_mount_options_set(options, name, value);
    refused(options, text);
}

int main(void)
{
    backend = open_backend("memory:?size=65536");
    refused_text("chunksize", "1", "chunksize: unknown option; did you mean \"chunk_size\"?");
    refused_text("chunk_size", "5000", "chunk_size: 5000 is not a power of two");
    refused_text("device", "fuze", "device: unknown value \"fuze\"; did you mean \"fuse\"?");
    refused_text("deadline", "soon", "deadline: \"soon\" is not a time");
    refused_text("max_in_flight", "0", "max_in_flight: 0 bytes");
    refused_text(NULL, "1", "the name of an option is NULL");
    refused_text("mode", NULL, "the value is NULL");

    r3map_mount_options *options = r3map_mount_options_new();
    r3map_mount_options_set_mode(options, 99);
    r3map_mount_options_set_pull(options, 99);
    refused(options, "mode: 99 is no mode");
    options = r3map_mount_options_new();
    r3map_mount_options_set_pull(options, 99);
    refused(options, "pull: 99 is no way to pull");
    options = r3map_mount_options_new();
    r3map_mount_options_set_device(options, "nbd:");
    refused(options, "device: nbd: names no device");
    options = r3map_mount_options_new();
    r3map_mount_options_set_chunk_size(options, UINT64_MAX);
    refused(options, "chunk_size: 18446744073709551615 is more than 32 MiB");
    options = r3map_mount_options_new();
    r3map_mount_options_set_cache(options, NULL);
    refused(options, "cache: the URL is NULL");

    /* All at once, each with a value it takes. */
    options = r3map_mount_options_new();
    r3map_mount_options_set_mode(options, R3MAP_MODE_DIRECT);
    r3map_mount_options_set_device(options, "auto");
    r3map_mount_options_set_read_only(options, false);
    r3map_mount_options_set_cache_trust(options, false);
    r3map_mount_options_set_chunk_size(options, 65536);
    r3map_mount_options_set_pull(options, R3MAP_PULL_DEMAND);
    r3map_mount_options_add_pull_range(options, 0, 4096, 1);
    r3map_mount_options_set_push_interval(options, 250);
    r3map_mount_options_set_offline(options, false);
    r3map_mount_options_set_read_ahead(options, R3MAP_READ_AHEAD_AUTO);
    r3map_mount_options_set_max_in_flight(options, 1 << 20);
    r3map_mount_options_set_deadline(options, 5000);
    r3map_mount *mount;
    OK(r3map_mount_open(backend, options, NULL, &mount));
    close_mount(mount);
    OK(r3map_mount_open(backend, options, NULL, &mount));
    close_mount(mount);
    r3map_mount_options_free(options);
    r3map_backend_free(backend);
    return 0;
}
