/*
 * r3map, "remote mmap": bytes that live elsewhere as a memory region of this process.
 *
 * A backend is where bytes live: a file, memory, an export of another r3map, functions of your own. A mount makes
 * it a region of this host, to be read and written at once, or seen as a path, a file or a slice of memory. A
 * server offers backends to others. A seeder and a leecher move a region in use from one host to another. In short:
 *
 *     r3map_backend *backend; r3map_mount *mount; r3map_error *error; void *bytes; uint64_t size;
 *     if ((error = r3map_backend_open("r3map://127.0.0.1:7070/model", NULL, NULL, &backend))) die(error);
 *     if ((error = r3map_mount_open(backend, NULL, NULL, &mount))) die(error);
 *     r3map_backend_free(backend);
 *     if ((error = r3map_mount_slice(mount, NULL, &bytes, &size))) die(error);
 *     ...
 *     if ((error = r3map_mount_close(mount, NULL))) die(error);
 *     r3map_mount_free(mount);
 *
 * Compile with: cc app.c $(pkg-config --cflags --libs r3map)
 *
 * Calls
 *   A function is r3map_<noun>_<verb>. What can fail returns `r3map_error *`, NULL for success. Inputs come first,
 *   then a `r3map_cancel *` where the call may block, then outputs, which are written only on success. Enumerations
 *   are passed as uint32_t. No argument may be NULL but where it is said; options and cancels always may.
 *
 * Ownership
 *   What a function gives as a handle is freed by r3map_<noun>_free, in any order; handles keep what they need
 *   alive. Freeing NULL does nothing. Arguments stay yours, and strings and structures are copied, but for what says
 *   that it passes to the library. Strings that the library gives belong to a handle and live as long as it.
 *
 * Wrong handles
 *   A NULL, freed or wrong handle gives R3MAP_INVALID_ARGUMENT, where it can be known: the last 1024 freed handles
 *   are. A defect of the library that would end a Rust program gives R3MAP_INTERNAL; nothing is thrown or unwound
 *   into your code.
 *
 * Thread safety
 *   Every function may be called from any thread, and one handle used by many at once. Only a handle's _free must
 *   be the last call with it: no other may be under way. Errors and stats never change and may be shared. The
 *   library's own threads block every signal, and it installs no handler and changes no disposition.
 *
 * Signals
 *   No function may be called from a signal handler. Calls go on after a signal, none ends with EINTR: trigger a
 *   cancel from another thread instead. What a slice does with SIGBUS and SIGSEGV stands at r3map_mount_slice.
 *
 * Fork
 *   In a child of fork, calls with the parent's backends, mounts, servers, seeders and leechers fail R3MAP_CLOSED,
 *   freeing them does nothing, and slices are not mapped. The child may open its own; after exec there is nothing left.
 *
 * Units
 *   Sizes, offsets and lengths are in bytes, times in milliseconds, text is UTF-8. URLs and options mean the same as
 *   in the command and in every language.
 *
 * Versions
 *   All of this is as of version 0.1. Numbers of enumerations never change, and new ones may come.
 */

#ifndef R3MAP_H
#define R3MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * ---- Version ----------------------------------------------------------------------------------------------
 */

// The version of the library that is loaded, such as "0.1.0"; never freed.
const char *r3map_version(void);

/*
 * ---- Error ------------------------------------------------------------------------------------------------
 *
 * A function that can fail returns `r3map_error *`: NULL for success, else an error that the caller owns and
 * frees. An error never changes, so threads may share it; its message lives as long as it does. Nothing is
 * kept per thread, and errno is neither read nor promised to be kept.
 */

// What went wrong, as a program tells it apart. The numbers never change; new ones may come.
//
// What takes or gives a code has the type `uint32_t`.
typedef enum {
  // A value that could never be right: an unknown option, a malformed URL, a NULL or freed handle. EINVAL
  R3MAP_INVALID_ARGUMENT = 1,
  // The file, export, key or host is confirmed not to be there. ENOENT
  R3MAP_NOT_FOUND = 2,
  // This process or client may not do it. EACCES
  R3MAP_PERMISSION_DENIED = 3,
  // Not offered by this device, backend, kernel or build. EOPNOTSUPP
  R3MAP_UNSUPPORTED = 4,
  // No device of the kind asked for can be attached here; the message says what each would need. ENODEV
  R3MAP_NO_DEVICE = 5,
  // Somebody else holds it. EBUSY, retryable
  R3MAP_BUSY = 6,
  // A write to something opened or exported read-only. EROFS
  R3MAP_READ_ONLY = 7,
  // Offset and length reach outside the region. ERANGE
  R3MAP_OUT_OF_RANGE = 8,
  // The deadline passed first. ETIMEDOUT, retryable
  R3MAP_TIMEOUT = 9,
  // The caller's cancel was triggered. ECANCELED
  R3MAP_CANCELLED = 10,
  // The peer is away and did not come back in time. ENOTCONN, retryable
  R3MAP_DISCONNECTED = 11,
  // The storage under a backend failed. EIO
  R3MAP_IO = 12,
  // Bytes, a record or a frame failed their check. EBADMSG
  R3MAP_CORRUPT = 13,
  // The region is owned by another side now. EBADE
  R3MAP_FENCED = 14,
  // An answer to something that is over. ESTALE
  R3MAP_STALE_EPOCH = 15,
  // The region is suspended for a hand-over. EAGAIN, retryable
  R3MAP_SUSPENDED = 16,
  // The peer asks for credentials that were missing or wrong. EKEYREJECTED
  R3MAP_NOT_AUTHENTICATED = 17,
  // The handle was closed, or belongs to the parent of this forked process. EBADF
  R3MAP_CLOSED = 18,
  // A defect of the library itself. ENOTRECOVERABLE
  R3MAP_INTERNAL = 19,
} r3map_code;

// Why a call failed.
typedef struct r3map_error r3map_error;

// Makes an error, for a backend's own functions to return: a code and a message, which is copied. Whether it
// is retryable follows from the code. An unknown code or a message that is not UTF-8 makes an error
// R3MAP_INVALID_ARGUMENT that says so. The library frees an error that a backend's function returned.
r3map_error *r3map_error_new(uint32_t code, const char *message);

// The error's code, one of r3map_code; 0 for NULL, which is no error.
uint32_t r3map_error_code(const r3map_error *error);

// What was tried on what, what went wrong and what to do: UTF-8 without a line break or a secret. Lives as long
// as the error. "" for NULL.
const char *r3map_error_message(const r3map_error *error);

// The errno that stands for the code; never 0, but for NULL.
int r3map_error_errno(const r3map_error *error);

// Whether the same call may succeed later without any change by the caller.
bool r3map_error_retryable(const r3map_error *error);

// Frees an error and its message.
void r3map_error_free(r3map_error *error);

/*
 * ---- Cancel -----------------------------------------------------------------------------------------------
 *
 * A switch that ends blocking calls from another thread. Every call that may block takes one, after its inputs
 * and before its outputs; NULL is none. A call that was cancelled, like one that timed out, may or may not have
 * taken effect.
 */

// A switch that another thread triggers. One may be given to any number of calls.
typedef struct r3map_cancel r3map_cancel;

// A switch not yet triggered.
r3map_cancel *r3map_cancel_new(void);

// Ends every call that was given this switch with R3MAP_CANCELLED, now and from now on. May be called from any
// thread, but not from a signal handler.
void r3map_cancel_trigger(r3map_cancel *cancel);

// Frees a switch. Calls that were given it must have returned.
void r3map_cancel_free(r3map_cancel *cancel);

/*
 * ---- Backend ----------------------------------------------------------------------------------------------
 *
 * Where bytes live: a URL, a connected socket, or functions of your own. Offsets, lengths and sizes are in bytes;
 * a size need be no multiple of anything. Reads and writes are whole or an error, may be called from many
 * threads at once, and end with R3MAP_TIMEOUT after the backend's deadline (30 seconds).
 *
 * URLs: `memory:?size=1GiB`, `file:///path[?size=1GiB]` (a size creates what is missing),
 * `dir:///path?chunk=64KiB&size=1GiB` (a file a chunk), `tape:///path`, `r3map://host:7070/name`,
 * `r3map+unix:///path/of/socket?name=name`. Sizes take KiB MiB GiB TiB.
 */

// Where bytes live. A mount or export keeps a reference of its own, so the handle may be freed once it is opened.
typedef struct r3map_backend r3map_backend;

// Options with which a backend is opened. Setters return nothing; opening checks them. Options may be used for
// any number of backends, and freed after.
typedef struct r3map_backend_options r3map_backend_options;

// Options that are all at their defaults.
r3map_backend_options *r3map_backend_options_new(void);

// Path of this client's certificate, a PEM file.
void r3map_backend_options_set_tls_cert(r3map_backend_options *options, const char *path);

// Path of this client's private key, a PEM file.
void r3map_backend_options_set_tls_key(r3map_backend_options *options, const char *path);

// Path of the authorities that may vouch for the server, a PEM file.
void r3map_backend_options_set_tls_ca(r3map_backend_options *options, const char *path);

// SHA-256 of the server's public key, in hexadecimal.
void r3map_backend_options_set_tls_pin(r3map_backend_options *options, const char *pin);

// The secret by which the server knows this client. It stands in no error, log or figure.
void r3map_backend_options_set_token(r3map_backend_options *options, const char *token);

// Allows plain TCP to a host that is not this one. False by default.
void r3map_backend_options_set_insecure(r3map_backend_options *options, bool insecure);

// Whether what is read and written travels packed, over r3map's own protocol: "auto" (the default), where both sides can,
// the peer is on another host, and the network is slower than packing; "off"; or "lz4" or "zstd", however fast the network
// is.
void r3map_backend_options_set_compression(r3map_backend_options *options,
                                           const char *name);

// Frees options; what was opened with them is not touched.
void r3map_backend_options_free(r3map_backend_options *options);

// Opens the backend that a URL names. Options may be NULL. Creates nothing but the region of `memory:` and, where
// the URL gives a size, a file or directory that is missing. An unknown scheme, parameter or option is an error that names
// the nearest known one.
r3map_error *r3map_backend_open(const char *url,
                                const r3map_backend_options *options,
                                r3map_cancel *cancel,
                                r3map_backend **backend);

// Opens the export of that name at the other end of a connected stream socket, TCP or UNIX, that nobody else
// reads or writes. The descriptor is the library's from success on, and stays the caller's on failure,
// who then has no use for it but to close it. Such a backend cannot connect again: once the connection is lost its
// calls fail R3MAP_DISCONNECTED.
r3map_error *r3map_backend_connect(int descriptor,
                                   const char *name,
                                   const r3map_backend_options *options,
                                   r3map_cancel *cancel,
                                   r3map_backend **backend);

// The size in bytes.
r3map_error *r3map_backend_size(const r3map_backend *backend, uint64_t *size);

// Whether the backend refuses writes.
r3map_error *r3map_backend_read_only(const r3map_backend *backend, bool *read_only);

// Fills `buffer` with the `length` bytes at `offset`: all of them, or an error.
r3map_error *r3map_backend_read_at(r3map_backend *backend,
                                   void *buffer,
                                   size_t length,
                                   uint64_t offset,
                                   r3map_cancel *cancel);

// Stores the `length` bytes of `data` at `offset`: all of them, or an error, after which some may be stored. Later
// reads see them; r3map_backend_sync makes them durable.
r3map_error *r3map_backend_write_at(r3map_backend *backend,
                                    const void *data,
                                    size_t length,
                                    uint64_t offset,
                                    r3map_cancel *cancel);

// Makes every write acknowledged before this call durable.
r3map_error *r3map_backend_sync(r3map_backend *backend, r3map_cancel *cancel);

// Closes the backend, without a sync: later calls with this handle fail R3MAP_CLOSED. A connection ends, and mounts
// that still use it fail too. The handle remains to be freed.
r3map_error *r3map_backend_close(r3map_backend *backend,
                                 r3map_cancel *cancel);

// Frees the handle. The backend itself goes when no mount and no export uses it either.
void r3map_backend_free(r3map_backend *backend);

/*
 * ---- A backend of your own --------------------------------------------------------------------------------
 *
 * A store that your program implements by functions. It stands wherever a backend may: under a mount, or exported
 * by a server.
 */

// What a backend of your own says of itself, added up in r3map_backend_functions.flags.
typedef enum {
  // Calls return at once, as from memory or a local file: they are made in place, on the thread that needs the
  // bytes. Without it calls are made on threads of the library, and tried again until the deadline where their
  // error is retryable.
  R3MAP_BACKEND_LOCAL = 1,
  // Writes are refused; write_at may be NULL.
  R3MAP_BACKEND_READ_ONLY = 2,
  // The functions run code of a language with a garbage collector or an interpreter lock (Go, Python, Java): a
  // page fault that waited for them could wait for itself, so a mount of it gives no slice.
  R3MAP_BACKEND_MANAGED_RUNTIME = 4,
} r3map_backend_flag;

// The functions of a backend of your own. They are the only code of yours that the library calls. Each returns
// NULL, or an error from r3map_error_new, which the library frees. None may throw, longjmp or end the thread.
//
// They are called from any thread, most often one of the library's, which blocks all signals; and from several
// at once, `concurrency` of them at most. They may call the library, but not use a mount of this backend. A
// function that serves a slice must not touch that slice.
typedef struct {
  // sizeof(r3map_backend_functions), by which the library knows the version you compiled with.
  size_t struct_size;
  // A sum of r3map_backend_flag.
  uint32_t flags;
  // The default unit of transfer in bytes: a power of two, 4 KiB to 32 MiB. 0 is 64 KiB.
  uint32_t chunk_size;
  // The longest call in bytes, up to 32 MiB. 0 is 32 MiB.
  uint32_t max_request;
  // How many calls there may be at once. 0 is 16; with 1 no two are ever under way together.
  uint32_t concurrency;
  // What messages call it, copied; NULL is "a backend of the program's own".
  const char *name;
  // Gives the size in bytes. Called once, by r3map_backend_new.
  r3map_error *(*size)(void *user_data, uint64_t *size);
  // Fills `buffer` with all `length` bytes at `offset`, or fails. The range lies inside the size.
  r3map_error *(*read_at)(void *user_data, void *buffer, size_t length, uint64_t offset);
  // Stores all `length` bytes of `data` at `offset`, or fails. Later reads see them.
  r3map_error *(*write_at)(void *user_data, const void *data, size_t length, uint64_t offset);
  // Makes every write acknowledged before durable. NULL where there is nothing to do.
  r3map_error *(*sync)(void *user_data);
  // Called once, when no handle, mount or export uses the backend any more. NULL where there is nothing to do.
  void (*free)(void *user_data);
} r3map_backend_functions;

// Makes a backend of functions of your own; the structure is copied. `user_data` is handed to each of them, and is
// the library's, to be freed by functions->free, from success on. A mount of it is direct unless told otherwise.
r3map_error *r3map_backend_new(const r3map_backend_functions *functions,
                               void *user_data,
                               r3map_backend **backend);

/*
 * ---- Mount options ----------------------------------------------------------------------------------------
 *
 * They have the same names and meanings in every language and on the command line.
 */

// What r3map_mount_options_set_read_ahead takes for the device's own choice.
#define R3MAP_READ_AHEAD_AUTO 18446744073709551615ull

// Where accesses go. What takes a mode has the type `uint32_t`.
typedef enum {
  // By the backend: `memory`, `file` and your own direct, the others managed. The default.
  R3MAP_MODE_AUTO = 0,
  // Every access goes to the backend.
  R3MAP_MODE_DIRECT = 1,
  // Pages are kept here, pulled and pushed in the background.
  R3MAP_MODE_MANAGED = 2,
} r3map_mode;

// When pages of a managed mount are pulled. What takes one has the type `uint32_t`.
typedef enum {
  // All of them, in the background. The default.
  R3MAP_PULL_BACKGROUND = 0,
  // Only those that are asked for.
  R3MAP_PULL_DEMAND = 1,
} r3map_pull;

// A way to see a region. What takes a view has the type `uint32_t`.
typedef enum {
  // None: the default of r3map_mount_options_set_prepare.
  R3MAP_VIEW_NONE = 0,
  // A path for other programs.
  R3MAP_VIEW_PATH = 1,
  // A descriptor.
  R3MAP_VIEW_FILE = 2,
  // Memory of this process.
  R3MAP_VIEW_SLICE = 3,
} r3map_view;

// Options with which a mount is opened. Setters return nothing: the first value that cannot be taken is kept, and
// r3map_mount_open reports it. Options may be used for any number of mounts, and freed after.
typedef struct r3map_mount_options r3map_mount_options;

// Options that are all at their defaults.
r3map_mount_options *r3map_mount_options_new(void);

// Sets the option of that name from text, as the command does: ("chunk_size", "64KiB"), ("deadline", "1.5"),
// ("pull_range", "1MiB,4KiB,3"). An unknown name is reported with the nearest known one.
void r3map_mount_options_set(r3map_mount_options *options, const char *name, const char *value);

// Where accesses go, one of r3map_mode.
void r3map_mount_options_set_mode(r3map_mount_options *options, uint32_t mode);

// How the kernel shows the region: "auto" (the default), "nbd", "nbd:/dev/nbd3" (that one), "userfaultfd",
// "userfaultfd:user-mode" (any user may have it, but read(2) into the slice fails with EFAULT) or "fuse".
void r3map_mount_options_set_device(r3map_mount_options *options, const char *device);

// Where a fuse path appears: mounted over this file, which is created if it is missing. By default in a place of the
// library's own. Other devices do not look at it.
void r3map_mount_options_set_at(r3map_mount_options *options,
                                const char *path);

// Whether writes are refused; a store to a slice is a SIGSEGV then. False by default.
void r3map_mount_options_set_read_only(r3map_mount_options *options, bool read_only);

// URL of a local store that keeps pulled pages. By default they are kept in memory. A file keeps what was written through
// a kill, and the next mount of the same region goes on with it; only discard takes it away.
void r3map_mount_options_set_cache(r3map_mount_options *options,
                                   const char *url);

// Whether a cache is resumed though its backend has no identity to compare. False by default.
void r3map_mount_options_set_cache_trust(r3map_mount_options *options, bool trust);

// Of a leecher: the view that is attached before the region is here, one of r3map_view, so that attaching is no part of
// the pause.
void r3map_mount_options_set_prepare(r3map_mount_options *options,
                                     uint32_t view);

// Of a leecher: whether a local file is taken though something else is in it, which is lost then. False by default.
void r3map_mount_options_set_overwrite(r3map_mount_options *options,
                                       bool overwrite);

// Of a leecher: whether the region is taken also from a seeder of the Go library r3map, by a grpc:// URL, whose protocol
// knows neither sessions nor votes nor fencing, as docs/interop.md says. False by default.
void r3map_mount_options_set_allow_legacy(r3map_mount_options *options,
                                          bool allow);

// Unit of transfer in bytes: a power of two, 4 KiB to 32 MiB. The backend's by default.
void r3map_mount_options_set_chunk_size(r3map_mount_options *options, uint64_t bytes);

// When pages of a managed mount are pulled, one of r3map_pull.
void r3map_mount_options_set_pull(r3map_mount_options *options, uint32_t pull);

// A file that r3map_mount_trace_save wrote: what it names is pulled in its order, after the ranges to pull first and before
// all else; where `pull` is demand nothing else is pulled by itself.
void r3map_mount_options_set_trace(r3map_mount_options *options,
                                   const char *path);

// Adds a range to pull first: of several, that of the highest priority.
void r3map_mount_options_add_pull_range(r3map_mount_options *options,
                                        uint64_t offset,
                                        uint64_t length,
                                        int32_t priority);

// Milliseconds between pushes in the background; 0 pushes only at sync and close. 1000 by default.
void r3map_mount_options_set_push_interval(r3map_mount_options *options, uint64_t interval);

// Whether the mount opens from its cache though the remote is away. False by default.
void r3map_mount_options_set_offline(r3map_mount_options *options, bool offline);

// How many bytes the kernel reads ahead on a block device or fuse; R3MAP_READ_AHEAD_AUTO, the default, leaves it to
// the device.
void r3map_mount_options_set_read_ahead(r3map_mount_options *options,
                                        uint64_t bytes);

// How many bytes may be under way at once, instead of a window that adapts itself; for studies.
void r3map_mount_options_set_max_in_flight(r3map_mount_options *options, uint64_t bytes);

// Milliseconds that each blocking call may take; 0 waits for ever. 30000 by default.
void r3map_mount_options_set_deadline(r3map_mount_options *options, uint64_t deadline);

// Frees options; mounts that were opened with them are not touched.
void r3map_mount_options_free(r3map_mount_options *options);

/*
 * ---- Stats ------------------------------------------------------------------------------------------------
 *
 * Named figures of a mount at one moment. Names are stable, new ones may appear; those of bytes begin with
 * `bytes_`.
 */

// Figures as they stood when they were taken; they do not change.
typedef struct r3map_stats r3map_stats;

// The figure of that name; R3MAP_NOT_FOUND if there is none.
r3map_error *r3map_stats_get(const r3map_stats *stats, const char *name, uint64_t *value);

// How many figures there are.
r3map_error *r3map_stats_count(const r3map_stats *stats, size_t *count);

// The figure of that index, from 0 to the count less one, with its name, which lives as long as the stats.
r3map_error *r3map_stats_at(const r3map_stats *stats, size_t index, const char **name, uint64_t *value);

// Frees the figures and their names.
void r3map_stats_free(r3map_stats *stats);

/*
 * ---- Mount ------------------------------------------------------------------------------------------------
 *
 * A backend as a region of this host. It is read and written with r3map_mount_read_at and r3map_mount_write_at at
 * once, which needs no privilege and no kernel module. Asked for a path, a file or a slice it attaches a device
 * and keeps it; from then on all ways to the region agree, and a view which that device cannot give fails
 * R3MAP_UNSUPPORTED with the name of one that could.
 *
 * Writes are durable after r3map_mount_sync or r3map_mount_close returned NULL. Each call ends with
 * R3MAP_TIMEOUT after the option `deadline`. On a closed mount every call but r3map_mount_size fails
 * R3MAP_CLOSED.
 */

// What happened to a mount in the background. What gives an event has the type `uint32_t`.
typedef enum {
  // Every byte is here.
  R3MAP_MOUNT_LOCAL = 1,
  // The remote is away.
  R3MAP_MOUNT_DISCONNECTED = 2,
  // The remote is back, or pushes get through again.
  R3MAP_MOUNT_RECOVERED = 3,
  // A push failed; what it carried is kept and pushed again.
  R3MAP_MOUNT_PUSH_FAILED = 4,
  // The local cache has no room.
  R3MAP_MOUNT_CACHE_FULL = 5,
  // Of a mount that was leeched: its source knows that every byte is here.
  R3MAP_MOUNT_DRAINED = 6,
  // Of a mount that was leeched: its source took the region back by force.
  R3MAP_MOUNT_FENCED = 7,
  // Of a mount that was leeched: its source gave up what is not here yet.
  R3MAP_MOUNT_ABANDONED = 8,
} r3map_mount_event;

// A mounted region.
typedef struct r3map_mount r3map_mount;

// A part of a region, in bytes.
typedef struct {
  // The first byte.
  uint64_t offset;
  // How many bytes.
  uint64_t length;
} r3map_range;

// Mounts a backend. Options may be NULL. The mount keeps a reference of its own to the backend. No device exists
// until a path, file or slice is asked for.
r3map_error *r3map_mount_open(r3map_backend *backend,
                              const r3map_mount_options *options,
                              r3map_cancel *cancel,
                              r3map_mount **mount);

// Opens the backend that a URL names and mounts it: closing the mount closes the backend. Either options may be NULL. With
// the mount's option `offline` the remote may be away.
r3map_error *r3map_mount_open_url(const char *url,
                                  const r3map_backend_options *backend_options,
                                  const r3map_mount_options *options,
                                  r3map_cancel *cancel,
                                  r3map_mount **mount);

// The size in bytes; of a closed mount too.
r3map_error *r3map_mount_size(const r3map_mount *mount, uint64_t *size);

// Whether the mount refuses writes, because it was told to or its backend does.
r3map_error *r3map_mount_read_only(const r3map_mount *mount, bool *read_only);

// The kind of the device that is attached, "nbd", "userfaultfd" or "fuse", and "" while none is. The name is never
// freed.
r3map_error *r3map_mount_device(const r3map_mount *mount,
                                const char **name);

// Fills `buffer` with the `length` bytes at `offset`: all of them, or an error.
r3map_error *r3map_mount_read_at(r3map_mount *mount,
                                 void *buffer,
                                 size_t length,
                                 uint64_t offset,
                                 r3map_cancel *cancel);

// Writes the `length` bytes of `data` at `offset`: all of them, or an error, after which some may be written.
r3map_error *r3map_mount_write_at(r3map_mount *mount,
                                  const void *data,
                                  size_t length,
                                  uint64_t offset,
                                  r3map_cancel *cancel);

// A path of the region for other programs: a block device with nbd, of the size rounded up to 4096, or a regular
// file of the exact size with fuse. The string lives until the mount is freed; the path, until it is closed.
r3map_error *r3map_mount_path(r3map_mount *mount,
                              r3map_cancel *cancel,
                              const char **path);

// A new descriptor of the region, close-on-exec and yours to close.
r3map_error *r3map_mount_file(r3map_mount *mount, r3map_cancel *cancel, int *descriptor);

// The region as memory of this process: where it begins, and its size. Valid until the mount is closed or freed;
// every call gives the same memory.
//
// The first touch of a page that is not here waits for it. A page that cannot be had is a SIGBUS, after a line in
// the log that says why; r3map_mount_pull gives an error instead. A store to a read-only slice, and any touch
// after r3map_mount_close, is a SIGSEGV. msync does not make a slice durable: r3map_mount_sync does.
r3map_error *r3map_mount_slice(r3map_mount *mount,
                               r3map_cancel *cancel,
                               void **bytes,
                               uint64_t *size);

// Keeps the addresses of a slice that was handed out from being used for anything else, for as long as the process lives:
// also after r3map_mount_free a touch of them is a SIGSEGV. For languages in which memory may outlive its mount.
r3map_error *r3map_mount_reserve(r3map_mount *mount);

// Makes a range resident, or fails with what prevents it.
r3map_error *r3map_mount_pull(r3map_mount *mount, uint64_t offset, uint64_t length, r3map_cancel *cancel);

// Asks for a range and returns at once.
r3map_error *r3map_mount_prefetch(r3map_mount *mount, uint64_t offset, uint64_t length);

// Keeps the order in which pages were accessed for the first time in a file, which is replaced whole, for
// r3map_mount_options_set_trace of a later mount. Of a slice by userfaultfd only what was not here when it was touched counts.
r3map_error *r3map_mount_trace_save(r3map_mount *mount,
                                    const char *path,
                                    r3map_cancel *cancel);

// The parts of a range that are not here, in order. `count` is how many there are; as many as `capacity` allows are
// written to `ranges`, which may be NULL where `capacity` is 0. With more than that, ask again with a larger array,
// or from the end of the last one.
r3map_error *r3map_mount_missing(r3map_mount *mount,
                                 uint64_t offset,
                                 uint64_t length,
                                 size_t capacity,
                                 r3map_range *ranges,
                                 size_t *count);

// Waits until a share of the region, from 0 to 1, is here, for at most `timeout` milliseconds; 0 waits for ever. Asks
// for nothing by itself: with the option `pull` at R3MAP_PULL_DEMAND it may never come.
r3map_error *r3map_mount_wait_local(r3map_mount *mount,
                                    double share,
                                    uint64_t timeout,
                                    r3map_cancel *cancel);

// The first event after the one whose sequence number is `after`, 0 for the first of all, waiting for it at most
// `timeout` milliseconds; 0 waits for ever. `event` is one of r3map_mount_event. `cause` is an error that is yours
// to free, or NULL where nothing caused it. A close elsewhere does not end the wait: trigger a cancel.
r3map_error *r3map_mount_next(r3map_mount *mount,
                              uint64_t after,
                              uint64_t timeout,
                              r3map_cancel *cancel,
                              uint64_t *sequence,
                              uint32_t *event,
                              r3map_error **cause);

// Makes everything written before this call, through any view, durable at the backend. Once a write was lost,
// every sync fails.
r3map_error *r3map_mount_sync(r3map_mount *mount, r3map_cancel *cancel);

// Figures of this mount at this moment, to be freed.
r3map_error *r3map_mount_stats(r3map_mount *mount, r3map_stats **stats);

// What the app at the other side handed over with the region: of a mount that a leecher gave, else of no length. It
// lives until the mount is freed.
r3map_error *r3map_mount_payload(const r3map_mount *mount,
                                 const void **payload,
                                 size_t *length);

// The mount as a backend, to be exported by a server or mounted once more.
r3map_error *r3map_mount_backend(r3map_mount *mount, r3map_backend **backend);

// Syncs, detaches the device and closes. If that fails the mount stays open, to be closed again or discarded. The
// handle remains to be freed.
r3map_error *r3map_mount_close(r3map_mount *mount,
                               r3map_cancel *cancel);

// Detaches and closes without a sync: what was not synced may be lost.
r3map_error *r3map_mount_discard(r3map_mount *mount, r3map_cancel *cancel);

// Frees the handle. A mount that was not closed is detached without a sync, unless an export still uses it.
void r3map_mount_free(r3map_mount *mount);

/*
 * ---- Server -----------------------------------------------------------------------------------------------
 *
 * Backends offered to others by name, over r3map's own protocol, NBD or gRPC. Any number of exports, addresses and clients.
 */

// Options of one export.
typedef struct r3map_export_options r3map_export_options;

// A server. It serves from threads of its own until it is closed or freed.
typedef struct r3map_server r3map_server;

// Options of a server. Setters return nothing; r3map_server_new checks them.
typedef struct r3map_server_options r3map_server_options;

// Options that are all at their defaults.
r3map_server_options *r3map_server_options_new(void);

// Allows plain TCP on an address that is not loopback. False by default.
void r3map_server_options_set_insecure(r3map_server_options *options, bool insecure);

// Milliseconds that each operation, and a client's silence inside a message, may take; 0 is for ever. 30000 by
// default.
void r3map_server_options_set_deadline(r3map_server_options *options,
                                       uint64_t deadline);

// How many connections there may be at once; more are refused R3MAP_BUSY. 1024 by default.
void r3map_server_options_set_max_connections(r3map_server_options *options, uint32_t most);

// Sets by name how the server proves who it is and knows its clients by TLS: "tls_cert" and "tls_key", its certificate
// and private key, and "tls_ca", authorities that vouch for clients: paths of PEM files, read anew when they change;
// "token", a secret by which a client is known as "client"; "token_file", a path of lines NAME:TOKEN. With any of them
// all TCP connections are TLS. With none, a server that listens beyond this host makes a certificate and a token, which it
// keeps in the directory "state".
void r3map_server_options_set(r3map_server_options *options,
                              const char *name,
                              const char *value);

// What the server speaks with its clients: "r3map" (the default), "nbd" for NBD clients of all kinds, or "grpc" as the
// Go library r3map does, which names no exports: such a server has one.
void r3map_server_options_set_protocol(r3map_server_options *options,
                                       const char *name);

// Whether what is read and written travels packed, as of a backend: "auto" (the default), "off", "lz4" or "zstd". A client
// that wants more of it is given more, unless it is off here.
void r3map_server_options_set_compression(r3map_server_options *options,
                                          const char *name);

// Frees options; servers made with them are not touched.
void r3map_server_options_free(r3map_server_options *options);

// Options that are all at their defaults.
r3map_export_options *r3map_export_options_new(void);

// Whether writes of clients are refused. False by default.
void r3map_export_options_set_read_only(r3map_export_options *options, bool read_only);

// Lets clients of this name use the export, the name being that of a token or a DNS name in a certificate, and nobody
// who is not named so. May be called again. Everybody whom the server lets in by default.
void r3map_export_options_add_allow(r3map_export_options *options,
                                    const char *name);

// Frees options; exports made with them are not touched.
void r3map_export_options_free(r3map_export_options *options);

// A server that offers nothing yet and listens nowhere. Options may be NULL.
r3map_error *r3map_server_new(const r3map_server_options *options, r3map_server **server);

// Listens at `host:port` (port 0: one is chosen) or `unix:/path`, and gives the address as a client writes it in a
// URL, but for the export's name: `r3map://host:port` or `r3map+unix:///path`, over NBD `nbd://host:port` or
// `nbd+unix:///?socket=/path`, over gRPC `grpc://host:port` or `grpc+unix:///path`; `r3maps`, `nbds` and `nbds+unix` by
// TLS. The string lives until the server is freed; `url` may be NULL.
r3map_error *r3map_server_listen(r3map_server *server,
                                 const char *address,
                                 r3map_cancel *cancel,
                                 const char **url);

// The command by which a client shows the export at a URL, where the server made a certificate and a token by itself; ""
// where it did not. It holds the token, a secret. The string lives until the server is freed.
r3map_error *r3map_server_client_line(r3map_server *server,
                                      const char *url,
                                      const char **line);

// Offers a backend under a name: 1 to 255 bytes of UTF-8, a key and never a path. Options may be NULL. The server
// keeps a reference of its own to the backend.
r3map_error *r3map_server_export(r3map_server *server,
                                 const char *name,
                                 r3map_backend *backend,
                                 const r3map_export_options *options);

// Serves one connected stream socket, TCP or UNIX. The descriptor is the library's from success on, and stays the
// caller's on failure.
r3map_error *r3map_server_handle(r3map_server *server,
                                 int descriptor);

// Takes no more requests, answers those under way, syncs what was acknowledged, and ends every connection. Later
// calls fail R3MAP_CLOSED. A close that was cancelled goes on by itself. The handle remains to be freed.
r3map_error *r3map_server_close(r3map_server *server,
                                r3map_cancel *cancel);

// Frees the handle; a server that was not closed stops at once.
void r3map_server_free(r3map_server *server);

/*
 * ---- Seed options -----------------------------------------------------------------------------------------
 *
 * They have the same names and meanings in every language and on the command line.
 */

// Options with which a region is seeded. Setters return nothing: the first value that cannot be taken is kept, and
// what seeds reports it. Options may be used for any number of seeders, and freed after.
typedef struct r3map_seed_options r3map_seed_options;

// Options that are all at their defaults.
r3map_seed_options *r3map_seed_options_new(void);

// The name in the URL of a seeder that listens by itself: 1 to 255 bytes. "region" by default. Under a server the name
// is given there.
void r3map_seed_options_set_name(r3map_seed_options *options,
                                 const char *name);

// Milliseconds that the app may take to stop writing when it is asked to, before the leecher is refused; 0 is for
// ever. 30000 by default.
void r3map_seed_options_set_suspend_deadline(r3map_seed_options *options,
                                             uint64_t deadline);

// Whether the record of who has the region is kept in this process where it cannot be written beside the region.
// False by default.
void r3map_seed_options_set_cache_trust(r3map_seed_options *options,
                                        bool trust);

// Gives the region also to leechers of the Go library r3map, over gRPC at the same address: their protocol knows neither
// sessions nor votes nor fencing, as docs/interop.md says. False by default.
void r3map_seed_options_set_allow_legacy(r3map_seed_options *options,
                                         bool allow);

// Allows plain TCP on an address that is not loopback. False by default.
void r3map_seed_options_set_insecure(r3map_seed_options *options, bool insecure);

// Sets by name how a seeder that listens by itself proves who it is and knows its leechers by TLS, as
// r3map_server_options_set does.
void r3map_seed_options_set(r3map_seed_options *options, const char *name, const char *value);

// Lets leechers of this name take the region, and nobody who is not named so; as r3map_export_options_add_allow.
void r3map_seed_options_add_allow(r3map_seed_options *options,
                                  const char *name);

// Milliseconds that each operation, and a leecher's absence before the commit, may take; 0 is for ever. 30000 by
// default.
void r3map_seed_options_set_deadline(r3map_seed_options *options,
                                     uint64_t deadline);

// Frees options; seeders made with them are not touched.
void r3map_seed_options_free(r3map_seed_options *options);

/*
 * ---- Seeder -----------------------------------------------------------------------------------------------
 *
 * The side that a region moves away from while it is in use. The app takes its events with r3map_seeder_next:
 *
 *     R3MAP_SEED_WAITING      nobody leeches
 *     R3MAP_SEED_TRACKING     a leecher pulls; the app goes on writing
 *     R3MAP_SEED_SUSPENDING   stop writing, then r3map_seeder_suspended, or r3map_seeder_refuse: the pause begins
 *     R3MAP_SEED_RESUMED      nothing came of it: go on writing
 *     R3MAP_SEED_COMMITTED    the other side has the region; here every access fails R3MAP_FENCED from now on
 *     R3MAP_SEED_DRAINED      every byte is there: close
 *
 * Events are numbered and none is lost. The mount stays open beside its seeder, and is closed after it.
 */

// What a seeder's events say. What gives a state has the type `uint32_t`.
typedef enum {
  // No leecher is here.
  R3MAP_SEED_WAITING = 1,
  // A leecher pulls, and writes are tracked.
  R3MAP_SEED_TRACKING = 2,
  // The leecher asks for the region: stop writing and say so, or refuse.
  R3MAP_SEED_SUSPENDING = 3,
  // The hand-over was refused or cut before the commit: go on writing.
  R3MAP_SEED_RESUMED = 4,
  // The leecher has the region; this side is fenced, and still serves what the leecher lacks.
  R3MAP_SEED_COMMITTED = 5,
  // The leecher has every byte.
  R3MAP_SEED_DRAINED = 6,
  // Something failed that the seeder goes on from; the cause says what.
  R3MAP_SEED_TROUBLE = 7,
} r3map_seed_state;

// A region that can be leeched. Freed without a close it ends at once: a leecher that still lacks bytes loses them.
typedef struct r3map_seeder r3map_seeder;

// Seeds a mount, listening at `host:port` (port 0: one is chosen) or `unix:/path`. The mount stays in use. Options may
// be NULL.
r3map_error *r3map_mount_seed(r3map_mount *mount,
                              const char *listen,
                              const r3map_seed_options *options,
                              r3map_cancel *cancel,
                              r3map_seeder **seeder);

// Seeds a mount as one name of a server, wherever that listens and whatever sockets it is given. Options may be NULL;
// their name is not looked at.
r3map_error *r3map_server_seed(r3map_server *server,
                               const char *name,
                               r3map_mount *mount,
                               const r3map_seed_options *options,
                               r3map_seeder **seeder);

// The URL by which a leecher finds it, `r3map://host:port/name`; "" of one under a server, whose address and name make
// it. The string lives as long as the seeder.
r3map_error *r3map_seeder_url(const r3map_seeder *seeder,
                              const char **url);

// The command by which a leecher takes the region, where a seeder that listens by itself made a certificate and a token;
// "" where it did not. It holds the token, a secret. The string lives as long as the seeder.
r3map_error *r3map_seeder_client_line(const r3map_seeder *seeder,
                                      const char **line);

// The first event after the one whose sequence number is `after`, 0 for the first of all, waiting for it at most
// `timeout` milliseconds; 0 waits for ever. `state` is one of r3map_seed_state. `cause` is an error that is yours to
// free, or NULL where nothing caused it. After the last event of a closed seeder: R3MAP_CLOSED.
r3map_error *r3map_seeder_next(r3map_seeder *seeder,
                               uint64_t after,
                               uint64_t timeout,
                               r3map_cancel *cancel,
                               uint64_t *sequence,
                               uint32_t *state,
                               r3map_error **cause);

// The app has stopped writing, as the event of that sequence number asked. The `length` bytes of `payload`, at most
// 16 MiB and NULL where there are none, go with the region. From now on calls on the mount fail R3MAP_SUSPENDED; what
// comes of it is told by an event. An answer to an older event is R3MAP_STALE_EPOCH.
r3map_error *r3map_seeder_suspended(r3map_seeder *seeder,
                                    uint64_t sequence,
                                    const void *payload,
                                    size_t length);

// The app does not stop now, though the event of that sequence number asked it to. The leecher is told `reason` and
// goes on pulling. An answer to an older event is R3MAP_STALE_EPOCH.
r3map_error *r3map_seeder_refuse(r3map_seeder *seeder,
                                 uint64_t sequence,
                                 const char *reason);

// Waits until the leecher has every byte, for at most `timeout` milliseconds; 0 waits for ever.
r3map_error *r3map_seeder_wait_drained(r3map_seeder *seeder, uint64_t timeout, r3map_cancel *cancel);

// Gives up what the leecher still lacks after the commit: those bytes are lost.
r3map_error *r3map_seeder_abandon(r3map_seeder *seeder);

// Takes the region back by force from a leecher that is lost for good: what was written there is lost, and should it
// come back it is fenced.
r3map_error *r3map_seeder_reclaim(r3map_seeder *seeder);

// Figures of this seeder at this moment, to be freed.
r3map_error *r3map_seeder_stats(r3map_seeder *seeder, r3map_stats **stats);

// Ends it; a leecher that pulls hears so. R3MAP_BUSY between the commit and R3MAP_SEED_DRAINED, when the leecher still
// lacks bytes: wait, or give them up by r3map_seeder_abandon. The mount stays open, and the handle remains to be freed.
r3map_error *r3map_seeder_close(r3map_seeder *seeder,
                                r3map_cancel *cancel);

// Frees the handle. One that was not closed ends at once.
void r3map_seeder_free(r3map_seeder *seeder);

/*
 * ---- Group ------------------------------------------------------------------------------------------------
 *
 * Several mounts that move as one: all of them, or none. At the other side r3map_leecher_open_group names a place for
 * each, in the order in which they were added.
 */

// Mounts that move as one.
typedef struct r3map_group r3map_group;

// A group without mounts.
r3map_group *r3map_group_new(void);

// Adds a mount, at most 256. The group keeps a reference of its own to it.
r3map_error *r3map_group_add(r3map_group *group, r3map_mount *mount);

// Seeds the group as r3map_mount_seed seeds one mount.
r3map_error *r3map_group_seed(r3map_group *group,
                              const char *listen,
                              const r3map_seed_options *options,
                              r3map_cancel *cancel,
                              r3map_seeder **seeder);

// Seeds the group as r3map_server_seed seeds one mount.
r3map_error *r3map_server_seed_group(r3map_server *server,
                                     const char *name,
                                     r3map_group *group,
                                     const r3map_seed_options *options,
                                     r3map_seeder **seeder);

// Frees the handle; what is seeded is not touched.
void r3map_group_free(r3map_group *group);

/*
 * ---- Leecher ----------------------------------------------------------------------------------------------
 *
 * The side that a region moves to. It pulls while the app at the other side still writes; r3map_leecher_finalize then
 * makes the region this side's, after a pause of about one round trip, and gives a mount, which may be seeded again.
 * Bytes that are still there are pulled behind it, those that are touched first.
 *
 * The place for the region is `memory:` or `file:///path`, created at the seeder's size. Options are those of a mount,
 * with r3map_mount_options_set_prepare, r3map_mount_options_set_overwrite and r3map_mount_options_set_allow_legacy besides.
 */

// How far a leecher is. What gives a state has the type `uint32_t`.
typedef enum {
  // No answer from the seeder yet, or none any more.
  R3MAP_LEECH_CONNECTING = 1,
  // It pulls.
  R3MAP_LEECH_PULLING = 2,
  // The app at the other side writes faster than this side pulls: wait, finalize all the same, or close.
  R3MAP_LEECH_OUTPACED = 3,
  // The region is asked for; the other side's word decides.
  R3MAP_LEECH_FINALIZING = 4,
  // The region is this side's; some of its bytes are still there.
  R3MAP_LEECH_OWNER = 5,
  // Every byte is here: the other side is not needed any more.
  R3MAP_LEECH_COMPLETE = 6,
  // It was closed, or the seeder ended, before the region moved.
  R3MAP_LEECH_ENDED = 7,
  // The other side took the region back by force.
  R3MAP_LEECH_FENCED = 8,
} r3map_leech_state;

// A region, or a group of them, on its way here. Freed without a close it stops pulling; what it has of a file stays
// for the next attempt.
typedef struct r3map_leecher r3map_leecher;

// Begins to pull the region that a seeder's URL names into `local`. A `local` that exists and is no earlier state of
// this region is R3MAP_BUSY without the option `overwrite`. Options may be NULL.
r3map_error *r3map_leecher_open(const char *url,
                                const char *local,
                                const r3map_mount_options *options,
                                const r3map_backend_options *backend_options,
                                r3map_cancel *cancel,
                                r3map_leecher **leecher);

// The same from the seeder of that name at the other end of a connected stream socket, TCP or UNIX, that nobody else
// reads or writes. The descriptor is the library's from success on, and stays the caller's on failure. Such a leecher
// cannot connect again.
r3map_error *r3map_leecher_connect(int descriptor,
                                   const char *name,
                                   const char *local,
                                   const r3map_mount_options *options,
                                   const r3map_backend_options *backend_options,
                                   r3map_cancel *cancel,
                                   r3map_leecher **leecher);

// Begins to pull a group of regions, the first into the first of `locals`, and so on; `count` of them, as many as the
// group has. r3map_leecher_finalize_group makes them this side's, all at once.
r3map_error *r3map_leecher_open_group(const char *url,
                                      const char *const *locals,
                                      size_t count,
                                      const r3map_mount_options *options,
                                      const r3map_backend_options *backend_options,
                                      r3map_cancel *cancel,
                                      r3map_leecher **leecher);

// Waits until a share of the region, from 0 to 1, is here, for at most `timeout` milliseconds; 0 waits for ever. What
// the app at the other side writes meanwhile is not here again.
r3map_error *r3map_leecher_wait_local(r3map_leecher *leecher,
                                      double share,
                                      uint64_t timeout,
                                      r3map_cancel *cancel);

// Asks for the region and gives its mount once it is this side's. It may be called again after a timeout or a cancel:
// r3map_leecher_state says what came of it. A refusal of the app at the other side is R3MAP_BUSY with its reason, and
// the pull goes on.
r3map_error *r3map_leecher_finalize(r3map_leecher *leecher,
                                    r3map_cancel *cancel,
                                    r3map_mount **mount);

// Waits for a share of the region to be here ("95%"), or for the pause to be expected short enough ("pause<20ms"), for
// at most `timeout` milliseconds (0: for ever), then finalizes.
r3map_error *r3map_leecher_finalize_when(r3map_leecher *leecher,
                                         const char *when,
                                         uint64_t timeout,
                                         r3map_cancel *cancel,
                                         r3map_mount **mount);

// Finalizes a group. `mounts` has room for `count` of them, which is as many as places were named when it was opened,
// in the same order.
r3map_error *r3map_leecher_finalize_group(r3map_leecher *leecher,
                                          size_t count,
                                          r3map_cancel *cancel,
                                          r3map_mount **mounts);

// How far it is, one of r3map_leech_state.
r3map_error *r3map_leecher_state(const r3map_leecher *leecher, uint32_t *state);

// Figures of this leecher at this moment, to be freed.
r3map_error *r3map_leecher_stats(r3map_leecher *leecher, r3map_stats **stats);

// Ends the pull of a region that did not move; what a file has of it stays for the next attempt. After finalize it does
// nothing to the mount. The handle remains to be freed.
r3map_error *r3map_leecher_close(r3map_leecher *leecher,
                                 r3map_cancel *cancel);

// Frees the handle. Mounts that it gave are not touched.
void r3map_leecher_free(r3map_leecher *leecher);

/*
 * ---- Log --------------------------------------------------------------------------------------------------
 *
 * The library says nothing by itself. Given a descriptor it writes lines to it,
 * `LEVEL target: message key=value`, each in one write of at most 4096 bytes.
 */

// What a log holds: lines of this level and of all before it. What takes a level has the type `uint32_t`.
typedef enum {
  // Nothing.
  R3MAP_LOG_OFF = 0,
  // What was lost, or will not work again by itself.
  R3MAP_LOG_ERROR = 1,
  // What went wrong and was or may be repaired.
  R3MAP_LOG_WARN = 2,
  // What was opened, attached, connected and closed.
  R3MAP_LOG_INFO = 3,
  // How that was decided.
  R3MAP_LOG_DEBUG = 4,
  // Every step.
  R3MAP_LOG_TRACE = 5,
} r3map_log_level;

// Writes the log of the whole process to a descriptor from now on, instead of where it went before: a file,
// pipe, socket or terminal, such as 2. The descriptor stays the caller's, who may close it. R3MAP_LOG_OFF ends
// the log, and `descriptor` is not looked at.
//
// A line never waits for its reader: a pipe or socket that is full loses lines, and a later line counts them. A
// pipe without a reader raises no SIGPIPE.
r3map_error *r3map_log_to(int descriptor,
                          uint32_t level);

#ifdef __cplusplus
}
#endif

#endif
