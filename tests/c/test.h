/* What every C test uses: a check that says where it failed, and how to skip aloud. */
#ifndef TEST_H
#define TEST_H

#include <dirent.h>
#include <inttypes.h>
#include <pthread.h>
#include <r3map.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SKIPPED 77
#define LEFT_TO_GUEST 78

#define CHECK(condition)                                                                \
    do {                                                                                \
        if (!(condition)) {                                                             \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);     \
            exit(1);                                                                    \
        }                                                                               \
    } while (0)

static char test_directory[64];

static inline void remove_directory(void)
{
    DIR *directory = test_directory[0] == 0 ? NULL : opendir(test_directory);
    struct dirent *entry;
    while (directory != NULL && (entry = readdir(directory)) != NULL)
        unlinkat(dirfd(directory), entry->d_name, 0);
    if (directory != NULL) {
        closedir(directory);
        rmdir(test_directory);
    }
}

/* Ends a test that cannot run here, with the error as the reason. What it still holds is no leak. */
static inline void leave(int status, r3map_error *reason)
{
    fprintf(stderr, "%s\n", r3map_error_message(reason));
    remove_directory();
    _exit(status);
}

/* The call succeeds. */
#define OK(call) check_ok((call), #call, __FILE__, __LINE__)
/* The call fails with that code, and part of the message is that text. */
#define FAILS(call, code, text) check_fails((call), (code), (text), #call, __FILE__, __LINE__)
/* Skips the whole test if the call fails for want of a device, with what the library says of it. */
#define OK_OR_SKIP(call) check_ok_or_skip((call), #call, __FILE__, __LINE__)

static inline void check_ok(r3map_error *error, const char *call, const char *file, int line)
{
    if (error == NULL)
        return;
    fprintf(stderr, "%s:%d: %s: %s\n", file, line, call, r3map_error_message(error));
    exit(1);
}

static inline void check_fails(r3map_error *error, uint32_t code, const char *text, const char *call,
                               const char *file, int line)
{
    if (r3map_error_code(error) != code || strstr(r3map_error_message(error), text) == NULL) {
        fprintf(stderr, "%s:%d: %s: expected code %" PRIu32 " and \"%s\", got %" PRIu32 ": %s\n", file, line, call,
                code, text, r3map_error_code(error), r3map_error_message(error));
        exit(1);
    }
    r3map_error_free(error);
}

static inline void check_ok_or_skip(r3map_error *error, const char *call, const char *file, int line)
{
    uint32_t code = r3map_error_code(error);
    if (code == R3MAP_NO_DEVICE || code == R3MAP_UNSUPPORTED || code == R3MAP_PERMISSION_DENIED)
        leave(SKIPPED, error);
    check_ok(error, call, file, line);
}

static inline r3map_backend *open_backend(const char *url)
{
    r3map_backend *backend;
    OK(r3map_backend_open(url, NULL, NULL, &backend));
    return backend;
}

/* A mount of what a URL names, with at most one option. */
static inline r3map_mount *open_mount(const char *url, const char *option, const char *value)
{
    r3map_backend *backend = open_backend(url);
    r3map_mount_options *options = r3map_mount_options_new();
    r3map_mount *mount;
    if (option != NULL)
        r3map_mount_options_set(options, option, value);
    OK(r3map_mount_open(backend, options, NULL, &mount));
    r3map_mount_options_free(options);
    r3map_backend_free(backend);
    return mount;
}

static inline void close_mount(r3map_mount *mount)
{
    OK(r3map_mount_close(mount, NULL));
    r3map_mount_free(mount);
}

/* A file of some zero bytes in a directory of this test, as a path and as a URL. */
struct file {
    char path[256];
    char url[300];
};

static inline struct file new_file(const char *name, long size)
{
    struct file file;
    if (test_directory[0] == 0) {
        strcpy(test_directory, "/tmp/r3map-test-XXXXXX");
        CHECK(mkdtemp(test_directory) != NULL && atexit(remove_directory) == 0);
    }
    snprintf(file.path, sizeof file.path, "%s/%s", test_directory, name);
    snprintf(file.url, sizeof file.url, "file://%s", file.path);
    FILE *opened = fopen(file.path, "w");
    CHECK(opened != NULL && ftruncate(fileno(opened), size) == 0 && fclose(opened) == 0);
    return file;
}

/* Bytes that differ from place to place. */
static inline void fill(unsigned char *bytes, size_t length, unsigned seed)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (unsigned char)((i * 31 + i / 4096 + seed) & 0xff);
}

#endif
