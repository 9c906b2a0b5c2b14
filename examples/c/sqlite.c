/* Runs stock SQLite on a database that lives elsewhere: sqlite r3map://host:7070/name "SELECT …"
 * By fuse the region is a regular file of the exact size, which is what SQLite asks for, and its journal lies beside it.
 * The region keeps its size: the database has the room that it was made with. */
#include <r3map.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

extern char **environ;

static void check(r3map_error *error)
{
    if (error == NULL)
        return;
    fprintf(stderr, "sqlite: %s\n", r3map_error_message(error));
    exit(1);
}

int main(int count, char **arguments)
{
    if (count != 3) {
        fprintf(stderr, "usage: sqlite URL SQL\n");
        return 2;
    }
    r3map_backend *backend;
    r3map_mount *mount;
    const char *path;
    check(r3map_backend_open(arguments[1], NULL, NULL, &backend));
    r3map_mount_options *options = r3map_mount_options_new();
    r3map_mount_options_set_device(options, "fuse");
    check(r3map_mount_open(backend, options, NULL, &mount));
    r3map_mount_options_free(options);
    r3map_backend_free(backend); /* the mount keeps what it needs of it */
    check(r3map_mount_path(mount, NULL, &path));

    char *command[] = {"sqlite3", (char *)path, arguments[2], NULL};
    pid_t sqlite;
    int status;
    if (posix_spawnp(&sqlite, "sqlite3", NULL, NULL, command, environ) != 0) {
        perror("sqlite: run sqlite3");
        return 1;
    }
    waitpid(sqlite, &status, 0);
    check(r3map_mount_close(mount, NULL)); /* what it committed is durable where it lives */
    r3map_mount_free(mount);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
