/* After finalize the region is here, with every byte that the app there wrote before it stopped; again gives it again. */
#include "seeding.h"

static void move(const char *local, const char *when)
{
    struct source source = {0};
    char name[32];
    static int moved;
    snprintf(name, sizeof name, "source%d", moved++);
    source_start(&source, name, 2000001);
    r3map_leecher *leecher = leech(source.url, local);
    r3map_mount *mount = NULL;
    if (when != NULL)
        OK(r3map_leecher_finalize_when(leecher, when, PATIENCE, NULL, &mount));
    else
        OK(r3map_leecher_finalize(leecher, NULL, &mount));
    uint32_t state = 0;
    OK(r3map_leecher_state(leecher, &state));
    CHECK(state == R3MAP_LEECH_OWNER || state == R3MAP_LEECH_COMPLETE);
    /* It is this side's at once; what is not here comes when it is asked for. */
    unsigned char last = 0;
    OK(r3map_mount_read_at(mount, &last, 1, source.size - 1, NULL));
    OK(r3map_mount_write_at(mount, "ours", 4, 1000, NULL));
    source_end(&source);
    CHECK(source.writes > 0 && last == source.model[source.size - 1]);
    memcpy(source.model + 1000, "ours", 4);
    OK(r3map_mount_wait_local(mount, 1.0, PATIENCE, NULL));
    holds(mount, source.model, source.size);
    OK(r3map_leecher_close(leecher, NULL));
    r3map_leecher_free(leecher);
    OK(r3map_mount_sync(mount, NULL));
    close_mount(mount);
    free(source.model);
}

int main(void)
{
    struct file local = new_file("local", 0);
    CHECK(unlink(local.path) == 0);
    move("memory:", NULL);
    move(local.url, "95%");
    move("memory:", "pause<10s");

    struct source source = {0};
    source_start(&source, "refused", 100001);
    r3map_leecher *leecher = leech(source.url, "memory:");
    r3map_mount *mount = NULL;
    FAILS(r3map_leecher_finalize_when(leecher, "soon", PATIENCE, NULL, &mount), R3MAP_INVALID_ARGUMENT, "\"soon\"");
    FAILS(r3map_leecher_finalize_when(leecher, "101%", PATIENCE, NULL, &mount), R3MAP_INVALID_ARGUMENT, "\"101%\"");
    r3map_cancel *cancel = r3map_cancel_new();
    r3map_cancel_trigger(cancel);
    FAILS(r3map_leecher_finalize_when(leecher, "95%", 0, cancel, &mount), R3MAP_CANCELLED, "");
    r3map_cancel_free(cancel);
    CHECK(mount == NULL);
    OK(r3map_leecher_finalize(leecher, NULL, &mount));
    source_end(&source);
    holds(mount, source.model, source.size);
    r3map_leecher_free(leecher);
    close_mount(mount);
    free(source.model);
    return 0;
}
