/* After sync the bytes are in the file, before the mount is closed; close syncs too, discard does not fail. */
#include "test.h"

static void stored(struct file *file, long offset, const char *expected)
{
    char found[16] = {0};
    FILE *opened = fopen(file->path, "r");
    CHECK(opened != NULL && fseek(opened, offset, SEEK_SET) == 0);
    CHECK(fread(found, 1, strlen(expected), opened) == strlen(expected) && fclose(opened) == 0);
    CHECK(strcmp(found, expected) == 0);
}

int main(void)
{
    struct file file = new_file("sync", 9999);
    r3map_mount *mount = open_mount(file.url, NULL, NULL);
    OK(r3map_mount_write_at(mount, "synced", 6, 100, NULL));
    OK(r3map_mount_sync(mount, NULL));
    stored(&file, 100, "synced");
    OK(r3map_mount_write_at(mount, "closed", 6, 9993, NULL));
    close_mount(mount);
    stored(&file, 9993, "closed");
    mount = open_mount(file.url, NULL, NULL);
    OK(r3map_mount_discard(mount, NULL));
    FAILS(r3map_mount_discard(mount, NULL), R3MAP_CLOSED, "the mount is closed");
    r3map_mount_free(mount);
    return 0;
}
