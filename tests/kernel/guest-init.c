/* The first process of the guest: prepares it, runs one command, reports how that ended, powers off.
 *
 * `run` leaves its wishes in a directory named by the kernel argument r3map_run, one NUL-terminated string an entry:
 *   command      the program and its arguments      directory   where it starts
 *   environment  NAME=VALUE                         share       directories under /tmp or /run to keep visible
 *   modules      "FILE OPTIONS" in loading order    timeout     seconds the command may take
 * Here it finds afterwards:
 *   status       "exit N", "signal N", "timeout", or "failed TEXT" where the command never ran
 * The command's output goes to /dev/tty1 and /dev/tty2, or what the kernel arguments r3map_out and r3map_err name; those
 * are descriptors of `run` outside. Only the command's
 * own end decides: a process it left behind, even an unkillable one, neither delays nor changes the report. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static int run_directory = -1;

/* Writes the report and ends the guest. Syncs the host's file system alone: a dead device must not hold this up. */
static void finish(const char *format, ...)
{
    char text[512];
    va_list arguments;
    int file, root;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root >= 0)
        syncfs(root);
    file = openat(run_directory, "status", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file < 0 || write(file, text, strlen(text)) < 0 || fsync(file) < 0)
        dprintf(2, "r3map guest: cannot report \"%s\": %s\n", text, strerror(errno));
    reboot(RB_POWER_OFF);
    _exit(1); /* Ends the guest by a panic, should powering off be refused. */
}

/* The strings of one file in the run directory, NULL at the end. */
static char **strings(const char *name)
{
    struct stat information;
    char **list, *text;
    size_t size, count = 0, filled = 0;
    int file = openat(run_directory, name, O_RDONLY | O_CLOEXEC);

    if (file < 0 || fstat(file, &information) < 0)
        finish("failed cannot read the request's %s: %s", name, strerror(errno));
    size = (size_t)information.st_size;
    text = calloc(size + 1, 1);
    if (!text)
        finish("failed out of memory at the request's %s", name);
    while (filled < size) {
        ssize_t got = read(file, text + filled, size - filled);
        if (got <= 0)
            finish("failed the request's %s ends early", name);
        filled += (size_t)got;
    }
    close(file);
    for (size_t i = 0; i < size; i++)
        count += text[i] == 0;
    list = calloc(count + 1, sizeof *list);
    if (!list)
        finish("failed out of memory at the request's %s", name);
    for (size_t i = 0; i < count; i++, text += strlen(text) + 1)
        list[i] = text;
    return list;
}

static void mount_at(const char *what, const char *where, const char *kind, unsigned long flags, const char *options)
{
    if (mount(what, where, kind, flags, options) < 0 && errno != EBUSY)
        finish("failed mounting %s on %s: %s", kind ? kind : what, where, strerror(errno));
}

static void make_directories(const char *path)
{
    char partial[4096];

    snprintf(partial, sizeof partial, "%s", path);
    for (char *slash = strchr(partial + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(partial, 0755);
        *slash = '/';
    }
    mkdir(partial, 0755);
}

/* Puts fresh file systems over /tmp and /run, through which the shared directories below them stay visible. */
static void cover_temporary_directories(char **shares)
{
    static const char *const covered[] = { "/tmp", "/run" };
    char kept[4096];

    mount_at("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
    mount_at("tmpfs", "/mnt", "tmpfs", 0, NULL);
    for (int i = 0; i < 2; i++) {
        snprintf(kept, sizeof kept, "/mnt%s", covered[i]);
        mkdir(kept, 0755);
        mount_at(covered[i], kept, NULL, MS_BIND, NULL);
        mount_at("tmpfs", covered[i], "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
    }
    for (; *shares; shares++) {
        snprintf(kept, sizeof kept, "/mnt%s", *shares);
        make_directories(*shares);
        mount_at(kept, *shares, NULL, MS_BIND, NULL);
    }
    if (umount2("/mnt", MNT_DETACH) < 0)
        finish("failed unmounting /mnt: %s", strerror(errno));
}

static void load_module(const char *line)
{
    char path[4096];
    const char *options = strchr(line, ' ');
    int file;

    snprintf(path, sizeof path, "%.*s", (int)(options ? (size_t)(options - line) : strlen(line)), line);
    file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || (syscall(SYS_finit_module, file, options ? options + 1 : "", 0) < 0 && errno != EEXIST))
        finish("failed loading the module %s: %s", path, strerror(errno));
    close(file);
}

static void raise_loopback(void)
{
    struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
    int any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (any < 0 || ioctl(any, SIOCSIFFLAGS, &request) < 0)
        finish("failed bringing up lo: %s", strerror(errno));
    close(any);
}

/* A console outside, as it is: no translation of line ends. */
static int open_console(const char *path)
{
    struct termios mode;
    int console = open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC);

    if (console < 0 || tcgetattr(console, &mode) < 0)
        finish("failed opening %s: %s", path, strerror(errno));
    cfmakeraw(&mode);
    tcsetattr(console, TCSANOW, &mode);
    return console;
}

/* Moves what is there. False at the end of the stream. */
static int forward(int from, int to)
{
    char buffer[4096];
    ssize_t got;

    while ((got = read(from, buffer, sizeof buffer)) > 0)
        for (ssize_t written = 0; written < got;) {
            ssize_t now = write(to, buffer + written, (size_t)(got - written));
            if (now < 0 && errno != EINTR && errno != EAGAIN)
                return 0;
            if (now > 0)
                written += now;
        }
    return got < 0 && (errno == EAGAIN || errno == EINTR);
}

static void write_text(const char *path, const char *text)
{
    int file = open(path, O_WRONLY | O_CLOEXEC);

    if (file < 0 || write(file, text, strlen(text)) < 0)
        dprintf(2, "r3map guest: %s: %s\n", path, strerror(errno));
    if (file >= 0)
        close(file);
}

static void start(char **command, const char *directory, int out, int err, int failure)
{
    int none = open("/dev/null", O_RDONLY);

    setsid();
    dup2(none, 0);
    dup2(out, 1);
    dup2(err, 2);
    if (chdir(directory) < 0)
        dprintf(failure, "entering %s: %s", directory, strerror(errno));
    else {
        execvp(command[0], command);
        dprintf(failure, "starting %s: %s", command[0], strerror(errno));
    }
    _exit(127);
}

int main(void)
{
    struct rlimit no_core = { 0, 0 };
    const char *wanted = getenv("r3map_run"), *out_path = getenv("r3map_out"), *err_path = getenv("r3map_err");
    char **command, **directory, **share, **module, **timeout, *kernel_side, reason[400];
    int out[2], err[2], failure[2], status = 0, failed = 0, ended = 0;
    time_t limit;
    pid_t child;

    run_directory = open(wanted ? wanted : "", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (run_directory < 0)
        dprintf(2, "r3map guest: no run directory %s: %s\n", wanted ? wanted : "", strerror(errno));
    setrlimit(RLIMIT_CORE, &no_core);
    umask(022);

    if (openat(run_directory, "began", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644) < 0)
        finish("failed the guest was restarted before the command ended");

    command = strings("command");
    directory = strings("directory");
    share = strings("share");
    module = strings("modules");
    timeout = strings("timeout");
    environ = strings("environment");
    if (!command[0] || !directory[0] || !timeout[0])
        finish("failed the request is incomplete");

    mount_at("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount_at("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount_at("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    mkdir("/dev/shm", 01777);
    mkdir("/dev/pts", 0755);
    mount_at("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
    mount_at("devpts", "/dev/pts", "devpts", 0, NULL);
    symlink("/proc/self/fd", "/dev/fd"); /* Missing or there already: both are fine. */
    cover_temporary_directories(share);
    for (; *module; module++)
        load_module(*module);
    raise_loopback();
    sethostname("r3map-guest", 11);

    if (pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0 || pipe2(failure, O_CLOEXEC) < 0)
        finish("failed making pipes: %s", strerror(errno));
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    fcntl(err[0], F_SETFL, O_NONBLOCK);
    int console_out = open_console(out_path ? out_path : "/dev/tty1");
    int console_err = open_console(err_path ? err_path : "/dev/tty2");

    child = fork();
    if (child < 0)
        finish("failed forking: %s", strerror(errno));
    if (child == 0)
        start(command, directory[0], out[1], err[1], failure[1]);
    close(out[1]);
    close(err[1]);
    close(failure[1]);
    ssize_t length = read(failure[0], reason, sizeof reason - 1); /* Nothing once exec has succeeded. */
    if (length > 0) {
        reason[length] = 0;
        finish("failed %s", reason);
    }

    limit = time(NULL) + atol(timeout[0]);
    struct pollfd streams[2] = { { out[0], POLLIN, 0 }, { err[0], POLLIN, 0 } };
    while (!ended && !failed) {
        pid_t gone;
        int this_status;

        poll(streams, 2, 10);
        if (streams[0].revents && !forward(out[0], console_out))
            streams[0].fd = -1;
        if (streams[1].revents && !forward(err[0], console_err))
            streams[1].fd = -1;
        while ((gone = waitpid(-1, &this_status, WNOHANG)) > 0)
            if (gone == child) {
                status = this_status;
                ended = 1;
            }
        failed = !ended && time(NULL) >= limit;
    }
    if (failed) {
        write_text("/proc/sysrq-trigger", "w"); /* Says in the kernel's log where each blocked task waits. */
        kill(-1, SIGKILL);
    }
    forward(out[0], console_out);
    forward(err[0], console_err);
    tcdrain(console_out);
    tcdrain(console_err);

    kernel_side = WIFSIGNALED(status) ? "signal" : "exit";
    if (failed)
        finish("timeout");
    finish("%s %d", kernel_side, WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}
