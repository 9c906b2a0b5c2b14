/* Where the region starts: opens URL, writes to it, and gives it away while it goes on writing. What it writes is in the
 * test that starts it.
 *
 *     first STRIDE URL */
#include <inttypes.h>
#include <r3map.h>
#include <stdio.h>
#include <stdlib.h>

static void check(r3map_error *error)
{
    if (error == NULL)
        return;
    fprintf(stderr, "first: %s\n", r3map_error_message(error));
    exit(1);
}

static void write_step(r3map_mount *mount, uint64_t stride, uint64_t step)
{
    char record[38];
    uint64_t size;
    int length = snprintf(record, sizeof record, "%-6s %030" PRIu64, "C", step);
    check(r3map_mount_size(mount, &size));
    check(r3map_mount_write_at(mount, record, (size_t)length, step * stride % (size - (size_t)length), NULL));
}

int main(int count, char **arguments)
{
    if (count != 3)
        return 2;
    uint64_t stride = strtoull(arguments[1], NULL, 10), step = 0, sequence = 0;
    uint32_t state = R3MAP_SEED_WAITING;
    r3map_backend *backend;
    r3map_mount *mount;
    r3map_seeder *seeder;
    const char *url;
    check(r3map_backend_open(arguments[2], NULL, NULL, &backend));
    check(r3map_mount_open(backend, NULL, NULL, &mount));
    r3map_backend_free(backend);
    while (step < 500)
        write_step(mount, stride, step++);
    check(r3map_mount_seed(mount, "127.0.0.1:0", NULL, NULL, &seeder));
    check(r3map_seeder_url(seeder, &url));
    puts(url);
    fflush(stdout);

    while (state != R3MAP_SEED_DRAINED) {
        /* While the region is ours it is written, each time that nothing happened for a millisecond. */
        int is_ours = state == R3MAP_SEED_WAITING || state == R3MAP_SEED_TRACKING;
        r3map_error *cause = NULL;
        r3map_error *error = r3map_seeder_next(seeder, sequence, is_ours ? 1 : 60000, NULL, &sequence, &state, &cause);
        r3map_error_free(cause);
        if (is_ours && error != NULL && r3map_error_code(error) == R3MAP_TIMEOUT) {
            r3map_error_free(error);
            write_step(mount, stride, step++);
            continue;
        }
        check(error);
        if (state == R3MAP_SEED_SUSPENDING) {
            char payload[64];
            int length = snprintf(payload, sizeof payload, "C %" PRIu64 "\n", step);
            check(r3map_seeder_suspended(seeder, sequence, payload, (size_t)length));
        }
    }
    check(r3map_seeder_close(seeder, NULL));
    r3map_seeder_free(seeder);
    check(r3map_mount_close(mount, NULL));
    r3map_mount_free(mount);
    return 0;
}
