// Package r3map turns bytes that live elsewhere (a file on another host, another process's memory, a store of your own)
// into a region of this process: read and written at once, or seen as a path, a file or a []byte.
//
//	m, err := r3map.Open(ctx, "r3map://127.0.0.1:7070/model", r3map.WithCache("file:///var/cache/model"))
//	if err != nil {
//		return err
//	}
//	defer m.Close()
//	m.ReadAt(p, 0)           // needs no device and no privilege
//	m.Pull(ctx, 0, 1<<20)    // an error here instead of a fault there
//	b, err := m.Slice(ctx)   // memory: the first touch of a page brings it
//	m.Sync(ctx)              // durable where the bytes live
//
// # Building
//
// The package binds the C library libr3map, which pkg-config has to find:
//
//	make install PREFIX=/usr/local
//	PKG_CONFIG_PATH=/usr/local/lib/pkgconfig go build
//
// With -tags r3map_static the library becomes part of the program (libr3map.a) and need not be there when it runs.
//
// # Calls that wait
//
// Every call that waits takes a context. When that ends, so does the call, with an error for which errors.Is says
// [context.Canceled] or [context.DeadlineExceeded]. Besides, each call ends at the mount's deadline (30 s, see
// [WithDeadline]) with [os.ErrDeadlineExceeded]. A context that cannot end, such as [context.Background], costs nothing.
//
// # Errors
//
// Errors are [*Error] and compare with the Err… constants of this package, and with those of the standard library where
// they fit: errors.Is(err, r3map.ErrFenced), errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.EIO).
//
// # Closing
//
// Nothing is closed by the garbage collector: whoever opens closes. Close of a mount syncs first; if that fails the mount
// stays open, to be closed again or discarded. Calls on what is closed fail with [ErrClosed]. Everything may be used by
// many goroutines at once; a close lets reads and writes under way end first, and ends those who wait for bytes or events.
//
// # Memory and the garbage collector
//
// The []byte of [Mount.Slice] lies outside of Go's memory: the collector does not look at it and must not, so nothing
// that holds Go pointers may be stored in it. It is served by threads that run no Go code, so no fault can wait for the
// collector, however busy that is. A touch of a page that is not here stops only its goroutine, but copy (and whatever else
// the runtime cannot interrupt) from such a page stops the whole process until the page has come: [Mount.Pull] first, or
// use ReadAt. A page that cannot be had is a fault like that of a bad address: it ends the program, or is a panic in a
// goroutine that asked for it by [runtime/debug.SetPanicOnFault].
//
// A [Backend] written in Go runs on the collector's own ground, so a page fault must never wait for it: a slice over one
// is refused. For the same reason do not map the path of such a mount into the process that serves it.
//
// After fork and exec a child has nothing of its parent's mounts. Descriptors are close-on-exec.
package r3map
