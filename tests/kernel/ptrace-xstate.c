/* Lets User-Mode Linux start on processors with AMX.
 *
 * The 6.1 build restores a guest process's floating-point state with PTRACE_SETREGSET(NT_X86_XSTATE) and a buffer of
 * a fixed 2,696 bytes. Where the host's XSAVE area is larger (AMX tiles take 8 KiB more) the host answers EFAULT and
 * the guest panics at its first process. This wrapper, loaded with LD_PRELOAD, pads that one request to the size that
 * PTRACE_GETREGSET reports. Zeros in the padding stand for the initial state, which is what a guest that knows nothing
 * of these registers has. Every other request goes through unchanged. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef long (*ptrace_function)(int request, pid_t pid, void *address, void *data);

/* Far above the largest area any processor has today (about 11 KiB). */
enum { XSAVE_MAX = 64 * 1024 };

long ptrace(enum __ptrace_request request, ...)
{
    static ptrace_function next;
    static char padded[XSAVE_MAX] __attribute__((aligned(64)));
    va_list arguments;
    pid_t pid;
    void *address, *data;

    va_start(arguments, request);
    pid = va_arg(arguments, pid_t);
    address = va_arg(arguments, void *);
    data = va_arg(arguments, void *);
    va_end(arguments);
    if (!next)
        next = (ptrace_function)dlsym(RTLD_NEXT, "ptrace");

    if (request == PTRACE_SETREGSET && address == (void *)NT_X86_XSTATE) {
        const struct iovec *given = data;
        struct iovec whole = { padded, sizeof padded };
        if (next(PTRACE_GETREGSET, pid, address, &whole) == 0 && given->iov_len < whole.iov_len) {
            memcpy(padded, given->iov_base, given->iov_len);
            memset(padded + given->iov_len, 0, whole.iov_len - given->iov_len);
            return next(request, pid, address, &whole);
        }
    }
    return next(request, pid, address, data);
}
