package r3map

// #include <r3map.h>
import "C"

import (
	"context"
	"math"
	"os"
	"unsafe"
)

// Path gives a path of the region for other programs: a block device with nbd, of the size rounded up to 4096, or a
// regular file of the exact size with fuse. It is there until the mount is closed.
func (m *Mount) Path(ctx context.Context) (string, error) {
	var path *C.char
	err := m.wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error { return C.r3map_mount_path(m.c, cancel, &path) })
	if err != nil {
		return "", err
	}
	return C.GoString(path), nil
}

// File opens the region as a file, a new one each time, which is the caller's to close.
func (m *Mount) File(ctx context.Context) (*os.File, error) {
	var descriptor C.int
	err := m.wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error { return C.r3map_mount_file(m.c, cancel, &descriptor) })
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(descriptor), "r3map"), nil
}

// Slice gives the region as memory of this process; every call gives the same. What touching it means stands at the top of
// this package. A store to a read-only slice, and any touch after Close, is a fault; its addresses are never used again.
func (m *Mount) Slice(ctx context.Context) ([]byte, error) {
	var bytes unsafe.Pointer
	var size C.uint64_t
	err := m.wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
		if failed := C.r3map_mount_slice(m.c, cancel, &bytes, &size); failed != nil {
			return failed
		}
		return C.r3map_mount_reserve(m.c)
	})
	if err != nil {
		return nil, err
	}
	if size > math.MaxInt {
		return nil, newError(ErrOutOfRange, "a slice of %d bytes is more than Go can address", uint64(size))
	}
	return unsafe.Slice((*byte)(bytes), int(size)), nil
}
