//! r3map, "remote mmap": bytes that live elsewhere as a memory region of this process.
//!
//! A backend is where bytes live: a file, memory, an export of another r3map, functions of your own. A mount makes
//! it a region of this host, to be read and written at once, or seen as a path, a file or a slice of memory. A
//! server offers backends to others. A seeder and a leecher move a region in use from one host to another. In short:
//!
//!     r3map_backend *backend; r3map_mount *mount; r3map_error *error; void *bytes; uint64_t size;
//!     if ((error = r3map_backend_open("r3map://127.0.0.1:7070/model", NULL, NULL, &backend))) die(error);
//!     if ((error = r3map_mount_open(backend, NULL, NULL, &mount))) die(error);
//!     r3map_backend_free(backend);
//!     if ((error = r3map_mount_slice(mount, NULL, &bytes, &size))) die(error);
//!     ...
//!     if ((error = r3map_mount_close(mount, NULL))) die(error);
//!     r3map_mount_free(mount);
//!
//! Compile with: cc app.c $(pkg-config --cflags --libs r3map)
//!
//! Calls
//!   A function is r3map_<noun>_<verb>. What can fail returns `r3map_error *`, NULL for success. Inputs come first,
//!   then a `r3map_cancel *` where the call may block, then outputs, which are written only on success. Enumerations
//!   are passed as uint32_t. No argument may be NULL but where it is said; options and cancels always may.
//!
//! Ownership
//!   What a function gives as a handle is freed by r3map_<noun>_free, in any order; handles keep what they need
//!   alive. Freeing NULL does nothing. Arguments stay yours, and strings and structures are copied, but for what says
//!   that it passes to the library. Strings that the library gives belong to a handle and live as long as it.
//!
//! Wrong handles
//!   A NULL, freed or wrong handle gives R3MAP_INVALID_ARGUMENT, where it can be known: the last 1024 freed handles
//!   are. A defect of the library that would end a Rust program gives R3MAP_INTERNAL; nothing is thrown or unwound
//!   into your code.
//!
//! Thread safety
//!   Every function may be called from any thread, and one handle used by many at once. Only a handle's _free must
//!   be the last call with it: no other may be under way. Errors and stats never change and may be shared. The
//!   library's own threads block every signal, and it installs no handler and changes no disposition.
//!
//! Signals
//!   No function may be called from a signal handler. Calls go on after a signal, none ends with EINTR: trigger a
//!   cancel from another thread instead. What a slice does with SIGBUS and SIGSEGV stands at r3map_mount_slice.
//!
//! Fork
//!   In a child of fork, calls with the parent's backends, mounts, servers, seeders and leechers fail R3MAP_CLOSED,
//!   freeing them does nothing, and slices are not mapped. The child may open its own; after exec there is nothing left.
//!
//! Units
//!   Sizes, offsets and lengths are in bytes, times in milliseconds, text is UTF-8. URLs and options mean the same as
//!   in the command and in every language.
//!
//! Versions
//!   All of this is as of version 0.1. Numbers of enumerations never change, and new ones may come.

#![allow(non_camel_case_types)]
// What the caller of an export promises stands in the header, for all of them at once.
#![allow(clippy::missing_safety_doc)]

pub mod backend;
pub mod cancel;
pub mod error;
pub mod group;
mod handle;
pub mod leecher;
pub mod log;
pub mod mount;
mod options;
pub mod seeder;
pub mod server;
pub mod stats;
pub mod version;
