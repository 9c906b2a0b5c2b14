/* A to-do list that moves to another process, or another host, while it is being edited.
 *
 *     todo seed FILE [TASKS]       starts a list in FILE and edits it; prints the URL that another may take it by
 *     todo leech URL FILE TASKS    takes the list over into FILE, edits it on to TASKS tasks, and prints it
 *
 * The list is plain memory: a slice of the region. Whoever owns it edits it there, and nothing is sent by hand. What is
 * no part of the region, here who edits, goes with it as the payload. */
#include <r3map.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE (1 << 20)

struct list {
    uint64_t count;
    struct task {
        char what[56];
        uint64_t done;
    } tasks[(SIZE - sizeof(uint64_t)) / 64];
};

static void check(r3map_error *error)
{
    if (error == NULL)
        return;
    fprintf(stderr, "todo: %s\n", r3map_error_message(error));
    exit(1);
}

static struct list *list_of(r3map_mount *mount)
{
    void *bytes;
    uint64_t size;
    check(r3map_mount_slice(mount, NULL, &bytes, &size));
    return bytes;
}

/* One edit: a new task, and an old one is done. */
static void edit(struct list *list, const char *editor)
{
    struct task *task = &list->tasks[list->count];
    snprintf(task->what, sizeof task->what, "task %llu of %s", (unsigned long long)list->count, editor);
    task->done = 0;
    list->tasks[list->count / 2].done = 1;
    list->count += 1;
}

/* Edits until the leecher asks for the region, and leaves once every byte is there. */
static int seed(const char *path, uint64_t most)
{
    char url[4096];
    r3map_backend *backend;
    r3map_mount *mount;
    r3map_seeder *seeder;
    const char *at;
    snprintf(url, sizeof url, "file://%s?size=%d", path, SIZE);
    check(r3map_backend_open(url, NULL, NULL, &backend));
    check(r3map_mount_open(backend, NULL, NULL, &mount));
    r3map_backend_free(backend);
    struct list *list = list_of(mount);
    check(r3map_mount_seed(mount, "127.0.0.1:0", NULL, NULL, &seeder));
    check(r3map_seeder_url(seeder, &at));
    printf("%s\n", at);
    fflush(stdout);

    uint64_t sequence = 0, edited = 0;
    uint32_t state = R3MAP_SEED_WAITING;
    while (state != R3MAP_SEED_DRAINED) {
        /* While the list is ours it is edited, each time that nothing happened for a millisecond. */
        int is_ours = state != R3MAP_SEED_SUSPENDING && state != R3MAP_SEED_COMMITTED;
        r3map_error *cause = NULL;
        r3map_error *error = r3map_seeder_next(seeder, sequence, is_ours ? 1 : 0, NULL, &sequence, &state, &cause);
        r3map_error_free(cause);
        if (error != NULL && r3map_error_code(error) == R3MAP_TIMEOUT) {
            r3map_error_free(error);
            if (list->count < most) {
                edit(list, "the seeder");
                edited += 1;
            }
            continue;
        }
        check(error);
        if (state == R3MAP_SEED_SUSPENDING) { /* from here on the list is not touched */
            char payload[64];
            int length = snprintf(payload, sizeof payload, "edited %llu times", (unsigned long long)edited);
            check(r3map_seeder_suspended(seeder, sequence, payload, (size_t)length));
        }
    }
    check(r3map_seeder_close(seeder, NULL));
    r3map_seeder_free(seeder);
    check(r3map_mount_close(mount, NULL));
    r3map_mount_free(mount);
    return 0;
}

/* Takes the list while it is being edited there, and goes on editing it here. */
static int leech(const char *url, const char *path, uint64_t wanted)
{
    char local[4096];
    r3map_leecher *leecher;
    r3map_mount *mount;
    const void *payload;
    size_t length;
    snprintf(local, sizeof local, "file://%s", path);
    r3map_mount_options *options = r3map_mount_options_new();
    r3map_mount_options_set_prepare(options, R3MAP_VIEW_SLICE); /* the slice is made before the pause, not in it */
    check(r3map_leecher_open(url, local, options, NULL, NULL, &leecher));
    r3map_mount_options_free(options);
    check(r3map_leecher_wait_local(leecher, 0.9, 60000, NULL)); /* the app there goes on */
    check(r3map_leecher_finalize(leecher, NULL, &mount));       /* the pause */
    check(r3map_mount_payload(mount, &payload, &length));
    struct list *list = list_of(mount);
    fprintf(stderr, "todo: took %llu tasks, %.*s there\n", (unsigned long long)list->count, (int)length,
            (const char *)payload);
    while (list->count < wanted)
        edit(list, "the leecher");
    for (uint64_t i = 0; i < list->count; i++)
        printf("[%c] %s\n", list->tasks[i].done ? 'x' : ' ', list->tasks[i].what);
    check(r3map_mount_wait_local(mount, 1.0, 60000, NULL)); /* from now on the other side is not needed */
    r3map_leecher_free(leecher);
    check(r3map_mount_close(mount, NULL));
    r3map_mount_free(mount);
    return 0;
}

int main(int count, char **arguments)
{
    const uint64_t most = sizeof((struct list *)NULL)->tasks / sizeof(struct task);
    uint64_t tasks = count > 3 ? strtoull(arguments[count - 1], NULL, 10) : most;
    tasks = tasks < most ? tasks : most;
    if (count >= 3 && count <= 4 && strcmp(arguments[1], "seed") == 0)
        return seed(arguments[2], tasks);
    if (count == 5 && strcmp(arguments[1], "leech") == 0)
        return leech(arguments[2], arguments[3], tasks);
    fprintf(stderr, "usage: todo seed FILE [TASKS] | todo leech URL FILE TASKS\n");
    return 2;
}
