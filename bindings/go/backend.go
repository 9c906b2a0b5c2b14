package r3map

// #include <r3map.h>
import "C"

import (
	"context"
	"io"
	"math"
	"net"
	"syscall"
	"unsafe"
)

// Backend is where bytes live. Implement it for a store of your own; those of the library are [*NativeBackend].
//
// Methods are called by many goroutines at once (at most 16, or as [Describer] says) and must not keep the slices they are
// given. ReadAt and WriteAt are asked for ranges inside the size only, and do all of it or return an error. An [*Error]
// arrives with its code, what the standard library has a name for with the code of that name, anything else as
// [ErrIO]; what is retryable is tried again until the deadline. A method must not use a mount of this very backend.
type Backend interface {
	io.ReaderAt
	io.WriterAt
	// Size gives the size in bytes. Called once.
	Size() (int64, error)
	// Sync makes every write acknowledged before durable.
	Sync() error
}

// Describer is what a [Backend] of your own may implement besides.
type Describer interface{ Describe() Description }

// Description is what a backend of your own says of itself. Zeros are the defaults.
type Description struct {
	// Name is what messages call it.
	Name string
	// ChunkSize is the unit of transfer in bytes, a power of two from 4 KiB to 32 MiB. By default 64 KiB.
	ChunkSize int
	// MaxRequest is the longest call in bytes, up to 32 MiB, which is the default.
	MaxRequest int
	// Concurrency is how many calls there may be at once. By default 16.
	Concurrency int
	// ReadOnly refuses writes.
	ReadOnly bool
}

// NativeBackend is a backend of the library's own: what a URL names, what is at the other end of a connection, or a mount.
// Bytes pass from it to mounts and servers without passing through Go. It is a [Backend].
type NativeBackend struct {
	handle handle
	c      *C.r3map_backend
	size   int64
}

// BackendFromURL opens what a URL names, to be mounted by [OpenBackend] or exported by a [Server]; a mount of it alone
// is opened by [Open].
//
// URLs are memory:?size=1GiB, file:///path[?size=1GiB] (a size creates what is missing), dir:///path?chunk=64KiB&size=1GiB,
// tape:///path, r3map://host:7070/name and r3map+unix:///path/of/socket?name=name.
func BackendFromURL(ctx context.Context, url string, options ...BackendOption) (*NativeBackend, error) {
	settings := newBackendSettings(options)
	defer settings.free()
	backend, err := settings.open(ctx, url)
	return newNativeBackend(backend, err)
}

// BackendFromConn opens the export of that name at the other end of a connected stream socket, TCP or UNIX. The connection
// is the library's from success on. Such a backend cannot connect again: once the connection is lost its calls fail
// [ErrDisconnected].
func BackendFromConn(ctx context.Context, conn net.Conn, name string, options ...BackendOption) (*NativeBackend, error) {
	settings := newBackendSettings(options)
	defer settings.free()
	var backend *C.r3map_backend
	settings.text("the name", name, func(name *C.char) {
		settings.fail(withDescriptor(conn, func(descriptor C.int) error {
			return wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
				return C.r3map_backend_connect(descriptor, name, settings.c, cancel, &backend)
			})
		}))
	})
	return newNativeBackend(backend, settings.err)
}

// Opens the backend of a URL.
func (s *backendSettings) open(ctx context.Context, url string) (backend *C.r3map_backend, err error) {
	s.text("the URL", url, func(url *C.char) {
		if s.err == nil {
			s.err = wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
				return C.r3map_backend_open(url, s.c, cancel, &backend)
			})
		}
	})
	return backend, s.err
}

// Takes over a backend of C.
func newNativeBackend(c *C.r3map_backend, err error) (*NativeBackend, error) {
	if err != nil {
		return nil, err
	}
	size, err := sizeOf(c)
	if err != nil {
		C.r3map_backend_free(c)
		return nil, err
	}
	b := &NativeBackend{c: c, size: size}
	b.handle.free = func() { C.r3map_backend_free(c) }
	return b, nil
}

func sizeOf(c *C.r3map_backend) (int64, error) {
	var size C.uint64_t
	err := take(C.r3map_backend_size(c, &size))
	return int64(min(size, math.MaxInt64)), err
}

func (b *NativeBackend) enter() error {
	if b == nil {
		return invalid("the backend is nil")
	}
	if !b.handle.enter() {
		return b.handle.refused("backend")
	}
	return nil
}

// Size gives the size in bytes.
func (b *NativeBackend) Size() (int64, error) {
	if err := b.enter(); err != nil {
		return 0, err
	}
	defer b.handle.leave()
	return b.size, nil
}

// ReadOnly says whether the backend refuses writes.
func (b *NativeBackend) ReadOnly() (bool, error) {
	if err := b.enter(); err != nil {
		return false, err
	}
	defer b.handle.leave()
	var readOnly C.bool
	err := take(C.r3map_backend_read_only(b.c, &readOnly))
	return bool(readOnly), err
}

// ReadAt fills p from that offset: all of it, what there is before the end with [io.EOF], or nothing with an error.
func (b *NativeBackend) ReadAt(p []byte, offset int64) (int, error) {
	return b.ReadAtContext(context.Background(), p, offset)
}

// ReadAtContext is ReadAt which ends when the context does.
func (b *NativeBackend) ReadAtContext(ctx context.Context, p []byte, offset int64) (int, error) {
	if err := b.enter(); err != nil {
		return 0, err
	}
	defer b.handle.leave()
	length, end := inside(len(p), offset, b.size)
	if length == 0 {
		return 0, end
	}
	err := wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
		return C.r3map_backend_read_at(b.c, unsafe.Pointer(&p[0]), C.size_t(length), C.uint64_t(offset), cancel)
	})
	if err != nil {
		return 0, err
	}
	return length, end
}

// WriteAt stores p at that offset, all of it or an error, after which some may be stored.
func (b *NativeBackend) WriteAt(p []byte, offset int64) (int, error) {
	return b.WriteAtContext(context.Background(), p, offset)
}

// WriteAtContext is WriteAt which ends when the context does.
func (b *NativeBackend) WriteAtContext(ctx context.Context, p []byte, offset int64) (int, error) {
	if err := b.enter(); err != nil {
		return 0, err
	}
	defer b.handle.leave()
	if offset < 0 {
		return 0, negative(offset)
	}
	length := len(p)
	if length == 0 {
		p = noBytes[:]
	}
	err := wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
		return C.r3map_backend_write_at(b.c, unsafe.Pointer(&p[0]), C.size_t(length), C.uint64_t(offset), cancel)
	})
	if err != nil {
		return 0, err
	}
	return length, nil
}

// Sync makes every write acknowledged before durable.
func (b *NativeBackend) Sync() error { return b.SyncContext(context.Background()) }

// SyncContext is Sync which ends when the context does.
func (b *NativeBackend) SyncContext(ctx context.Context) error {
	if err := b.enter(); err != nil {
		return err
	}
	defer b.handle.leave()
	return wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error { return C.r3map_backend_sync(b.c, cancel) })
}

// Close lets go of the backend. It goes on under mounts and exports that use it, and ends with the last of them.
func (b *NativeBackend) Close() error {
	if err := b.enter(); err != nil {
		return err
	}
	defer b.handle.leave()
	if !b.handle.close() {
		return newError(ErrClosed, "the backend is closed")
	}
	return nil
}

// What stands for a slice of no bytes, whose address C is given.
var noBytes [1]byte

// How many of these bytes lie inside a region, and io.EOF where that is not all of them.
func inside(length int, offset, size int64) (int, error) {
	switch {
	case offset < 0:
		return 0, negative(offset)
	case length == 0:
		return 0, nil
	case offset >= size:
		return 0, io.EOF
	case int64(length) > size-offset:
		return int(size - offset), io.EOF
	}
	return length, nil
}

func negative(offset int64) error { return invalid("offset %d is negative", offset) }

// Hands the descriptor of a connection to C. On success the connection is closed on this side; the library has its own.
func withDescriptor(conn net.Conn, use func(descriptor C.int) error) error {
	socket, is := conn.(syscall.Conn)
	if !is {
		return newError(ErrUnsupported, "a %T has no descriptor: the library takes TCP and UNIX sockets", conn)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return newError(ErrClosed, "the connection: %v", err)
	}
	copied, errno := -1, syscall.Errno(0)
	err = raw.Control(func(descriptor uintptr) { copied, errno = duplicate(descriptor) })
	if err != nil {
		return newError(ErrClosed, "the connection: %v", err)
	}
	if errno != 0 {
		return newError(ErrIO, "take the connection's descriptor: %v", errno)
	}
	if err := use(C.int(copied)); err != nil {
		syscall.Close(copied)
		return err
	}
	conn.Close()
	return nil
}

func duplicate(descriptor uintptr) (int, syscall.Errno) {
	copied, _, errno := syscall.Syscall(syscall.SYS_FCNTL, descriptor, syscall.F_DUPFD_CLOEXEC, 0)
	return int(copied), errno
}
