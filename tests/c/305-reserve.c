/* The addresses of a reserved slice are used for nothing else once its mount is freed; a touch of them is a SIGSEGV. */
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include "test.h"

#define SIZE (16 << 20)

static sigjmp_buf faulted;

static void on_fault(int signal)
{
    (void)signal;
    siglongjmp(faulted, 1);
}

int main(void)
{
    r3map_mount *mount = open_mount("memory:?size=16MiB", NULL, NULL);
    void *bytes = NULL;
    uint64_t size = 0;
    OK(r3map_mount_reserve(mount));
    OK_OR_SKIP(r3map_mount_slice(mount, NULL, &bytes, &size));
    OK(r3map_mount_reserve(mount));
    CHECK(size == SIZE);
    ((char *)bytes)[5] = 1;
    close_mount(mount);
    for (int i = 0; i < 100; i++) {
        char *other = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        CHECK(other != MAP_FAILED && (other + SIZE <= (char *)bytes || other >= (char *)bytes + SIZE));
    }
    struct sigaction action = {.sa_handler = on_fault};
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
    if (sigsetjmp(faulted, 1) == 0) {
        *(volatile char *)bytes = 1;
        CHECK(!"a touch went through");
    }
    return 0;
}
