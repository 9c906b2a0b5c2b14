/* Offers a file to others until standard input ends, and prints its URL: serve /absolute/path name */
#include <r3map.h>
#include <stdio.h>
#include <stdlib.h>

static void check(r3map_error *error)
{
    if (error == NULL)
        return;
    fprintf(stderr, "serve: %s\n", r3map_error_message(error));
    exit(1);
}

int main(int count, char **arguments)
{
    if (count != 3) {
        fprintf(stderr, "usage: serve /absolute/path name\n");
        return 2;
    }
    char file[4096];
    r3map_backend *backend;
    r3map_server *server;
    const char *url;
    snprintf(file, sizeof file, "file://%s", arguments[1]);
    check(r3map_backend_open(file, NULL, NULL, &backend));
    check(r3map_server_new(NULL, &server));
    check(r3map_server_export(server, arguments[2], backend, NULL));
    check(r3map_server_listen(server, "127.0.0.1:0", NULL, &url));
    r3map_backend_free(backend); /* the server keeps what it needs of it */
    printf("%s/%s\n", url, arguments[2]);
    fflush(stdout);
    while (getchar() != EOF) {
    }
    check(r3map_server_close(server, NULL));
    r3map_server_free(server);
    return 0;
}
