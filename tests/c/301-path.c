/* A fuse path is a regular file of the exact size, and agrees with read_at and write_at. */
#include <sys/stat.h>

#include "test.h"

int main(void)
{
    r3map_mount *mount = open_mount("memory:?size=100001", "device", "fuse");
    const char *path = NULL, *again = NULL;
    OK(r3map_mount_write_at(mount, "head", 4, 0, NULL));
    OK_OR_SKIP(r3map_mount_path(mount, NULL, &path));
    OK(r3map_mount_path(mount, NULL, &again));
    CHECK(strcmp(path, again) == 0);
    struct stat status;
    CHECK(stat(path, &status) == 0 && S_ISREG(status.st_mode) && status.st_size == 100001);
    FILE *file = fopen(path, "r+");
    char found[4];
    CHECK(file != NULL && fread(found, 1, 4, file) == 4 && memcmp(found, "head", 4) == 0);
    CHECK(fseek(file, 99997, SEEK_SET) == 0 && fwrite("tail", 1, 4, file) == 4 && fclose(file) == 0);
    OK(r3map_mount_read_at(mount, found, 4, 99997, NULL));
    CHECK(memcmp(found, "tail", 4) == 0);
    close_mount(mount);
    return 0;
}
