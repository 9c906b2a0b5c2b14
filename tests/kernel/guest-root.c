/* The first process of the Debian guest's initial file system: makes this machine's file system its root.
 *
 * Loads the modules that the file /modules names, in that order, mounts the host's file system read-only with a
 * layer in memory over it, and the run directory and that for large files, to which writes reach the host; then becomes
 * guest-init there. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* To the kernel's console; ends the guest by a panic, which `run` sees. */
static void fail(const char *what, const char *which)
{
    printf("r3map guest: %s %s: %s\n", what, which, strerror(errno));
    fflush(stdout);
    _exit(1);
}

static void mount_at(const char *what, const char *where, const char *kind, unsigned long flags, const char *options)
{
    mkdir(where, 0755);
    if (mount(what, where, kind, flags, options) < 0)
        fail("mounting", where);
}

/* A directory of the host to which writes go through. */
static void mount_through(const char *tag, const char *path)
{
    char directory[4096];

    snprintf(directory, sizeof directory, "/root%s", path);
    mount_at(tag, directory, "9p", 0, "trans=virtio,version=9p2000.L,cache=mmap,msize=262144");
}

static void load_modules(void)
{
    char name[256];
    FILE *list = fopen("/modules", "r");

    if (!list)
        fail("opening", "/modules");
    while (fgets(name, sizeof name, list)) {
        name[strcspn(name, "\n")] = 0;
        int file = open(name, O_RDONLY | O_CLOEXEC);
        if (file < 0 || (syscall(SYS_finit_module, file, "", 0) < 0 && errno != EEXIST))
            fail("loading", name);
        close(file);
    }
    fclose(list);
}

int main(void)
{
    const char *run = getenv("r3map_run"), *init = getenv("r3map_init"), *large = getenv("r3map_large");

    if (!run || !init || !large)
        fail("reading", "the kernel's arguments");
    load_modules();
    mount_at("host", "/host", "9p", MS_RDONLY, "trans=virtio,version=9p2000.L,cache=loose,msize=262144");
    mount_at("tmpfs", "/layer", "tmpfs", 0, "mode=755,size=90%");
    mkdir("/layer/upper", 0755);
    mkdir("/layer/work", 0755);
    mount_at("overlay", "/root", "overlay", 0, "lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work");
    mount_through("run", run);
    mount_through("large", large);
    if (chdir("/root") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0)
        fail("entering", "/root");
    execl(init, init, (char *)NULL);
    fail("starting", init);
}
