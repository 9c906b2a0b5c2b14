/* A thousand opened and closed backends, mounts and servers leave no descriptor and no thread behind. */

#include "test.h"

static int entries(const char *path)
{
    DIR *directory = opendir(path);
    int count = 0;
    CHECK(directory != NULL);
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count;
}

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
    once();
    int descriptors = entries("/proc/self/fd"), threads = entries("/proc/self/task");
    for (int i = 0; i < 1000; i++)
        once();
    /* Threads that end are told to before they are gone. */
    for (int i = 0; i < 500 && (entries("/proc/self/fd") > descriptors || entries("/proc/self/task") > threads); i++)
        usleep(20000);
    printf("descriptors %d, then %d; threads %d, then %d\n", descriptors, entries("/proc/self/fd"), threads,
           entries("/proc/self/task"));
    CHECK(entries("/proc/self/fd") <= descriptors);
    CHECK(entries("/proc/self/task") <= threads);
    return 0;
}
