package r3map

// #include <stdlib.h>
// #include <r3map.h>
import "C"

import (
	"context"
	"unsafe"
)

// Mount is a backend as a region of this host. It is read and written at once; asked for a path, a file or a slice it
// attaches a device and keeps it, and all ways to the region agree. It is an [io.ReaderAt], [io.WriterAt] and [io.Closer].
type Mount struct {
	handle handle
	c      *C.r3map_mount
	size   int64
	life   life
	events events
}

// Range is a part of a region, in bytes.
type Range struct {
	// Offset is that of the first byte.
	Offset int64
	// Length is how many bytes.
	Length int64
}

// Open mounts what a URL names, for which see [BackendFromURL]. No device exists until a path, file or slice is asked for.
func Open(ctx context.Context, url string, options ...MountOption) (*Mount, error) {
	settings := newMountSettings(options)
	defer settings.free()
	if settings.err != nil {
		return nil, settings.err
	}
	// What is pulled first depends on the size then, so that the backend must be there.
	if settings.priority == nil {
		return settings.openURL(ctx, url)
	}
	backend, err := settings.backend.open(ctx, url)
	if err != nil {
		return nil, err
	}
	defer C.r3map_backend_free(backend)
	return settings.openMount(ctx, backend)
}

func (s *mountSettings) openURL(ctx context.Context, url string) (*Mount, error) {
	var c *C.r3map_mount
	s.backend.text("the URL", url, func(url *C.char) {
		if s.backend.err == nil {
			s.backend.err = wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
				return C.r3map_mount_open_url(url, s.backend.c, s.c, cancel, &c)
			})
		}
	})
	if s.backend.err != nil {
		return nil, s.backend.err
	}
	return newMount(c)
}

// OpenBackend mounts a backend: one of your own, or a [*NativeBackend], of which the mount keeps a reference. A mount of
// your own is direct unless told otherwise, and gives no slice.
func OpenBackend(ctx context.Context, backend Backend, options ...MountOption) (*Mount, error) {
	settings := newMountSettings(options)
	defer settings.free()
	if settings.err != nil {
		return nil, settings.err
	}
	c, done, err := nativeOf(backend)
	if err != nil {
		return nil, err
	}
	defer done()
	return settings.openMount(ctx, c)
}

func (s *mountSettings) openMount(ctx context.Context, backend *C.r3map_backend) (*Mount, error) {
	size, err := sizeOf(backend)
	if err != nil {
		return nil, err
	}
	s.prioritize(size)
	var c *C.r3map_mount
	err = wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
		return C.r3map_mount_open(backend, s.c, cancel, &c)
	})
	if err != nil {
		return nil, err
	}
	return newMount(c)
}

// Takes over a mount of C.
func newMount(c *C.r3map_mount) (*Mount, error) {
	var size C.uint64_t
	if err := take(C.r3map_mount_size(c, &size)); err != nil {
		C.r3map_mount_free(c)
		return nil, err
	}
	m := &Mount{c: c, size: int64(size), life: newLife(), events: newEvents()}
	m.handle.free = func() { C.r3map_mount_free(c) }
	return m, nil
}

func (m *Mount) enter() error {
	if m == nil {
		return invalid("the mount is nil")
	}
	if !m.handle.enter() {
		return m.handle.refused("mount")
	}
	return nil
}

// Makes a call of the mount that waits.
func (m *Mount) wait(ctx context.Context, call func(cancel *C.r3map_cancel) *C.r3map_error) error {
	if err := m.enter(); err != nil {
		return err
	}
	defer m.handle.leave()
	return wait(ctx, call)
}

// Size gives the size in bytes; of a closed mount too.
func (m *Mount) Size() int64 {
	if m == nil {
		return 0
	}
	return m.size
}

// ReadOnly says whether the mount refuses writes, because it was told to or its backend does.
func (m *Mount) ReadOnly() (bool, error) {
	if err := m.enter(); err != nil {
		return false, err
	}
	defer m.handle.leave()
	var readOnly C.bool
	err := take(C.r3map_mount_read_only(m.c, &readOnly))
	return bool(readOnly), err
}

// Device gives the kind of the device that is attached, "nbd", "userfaultfd" or "fuse", and "" while none is.
func (m *Mount) Device() (string, error) {
	if err := m.enter(); err != nil {
		return "", err
	}
	defer m.handle.leave()
	var name *C.char
	if err := take(C.r3map_mount_device(m.c, &name)); err != nil {
		return "", err
	}
	return C.GoString(name), nil
}

// ReadAt fills p from that offset: all of it, what there is before the end with [io.EOF], or nothing with an error.
func (m *Mount) ReadAt(p []byte, offset int64) (int, error) {
	if err := m.enter(); err != nil {
		return 0, err
	}
	length, end := inside(len(p), offset, m.size)
	if length == 0 {
		m.handle.leave()
		return 0, end
	}
	failed := C.r3map_mount_read_at(m.c, unsafe.Pointer(&p[0]), C.size_t(length), C.uint64_t(offset), nil)
	m.handle.leave()
	if failed != nil {
		return 0, take(failed)
	}
	return length, end
}

// ReadAtContext is ReadAt which ends when the context does.
func (m *Mount) ReadAtContext(ctx context.Context, p []byte, offset int64) (int, error) {
	length, end := inside(len(p), offset, m.Size())
	if length == 0 {
		p = noBytes[:]
	}
	err := m.wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
		if length == 0 {
			return nil
		}
		return C.r3map_mount_read_at(m.c, unsafe.Pointer(&p[0]), C.size_t(length), C.uint64_t(offset), cancel)
	})
	if err != nil {
		return 0, err
	}
	return length, end
}

// WriteAt writes p at that offset: all of it or an error, after which some may be written. A write that reaches past the
// end is [ErrOutOfRange] and does nothing.
func (m *Mount) WriteAt(p []byte, offset int64) (int, error) {
	if err := m.enter(); err != nil {
		return 0, err
	}
	defer m.handle.leave()
	if offset < 0 {
		return 0, negative(offset)
	}
	length := len(p)
	if length == 0 {
		p = noBytes[:]
	}
	failed := C.r3map_mount_write_at(m.c, unsafe.Pointer(&p[0]), C.size_t(length), C.uint64_t(offset), nil)
	if failed != nil {
		return 0, take(failed)
	}
	return length, nil
}

// WriteAtContext is WriteAt which ends when the context does.
func (m *Mount) WriteAtContext(ctx context.Context, p []byte, offset int64) (int, error) {
	if offset < 0 {
		return 0, negative(offset)
	}
	length := len(p)
	if length == 0 {
		p = noBytes[:]
	}
	err := m.wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
		return C.r3map_mount_write_at(m.c, unsafe.Pointer(&p[0]), C.size_t(length), C.uint64_t(offset), cancel)
	})
	if err != nil {
		return 0, err
	}
	return length, nil
}

// Pull makes a range resident, or fails with what prevents it.
func (m *Mount) Pull(ctx context.Context, offset, length int64) error {
	if err := checkRange(offset, length); err != nil {
		return err
	}
	return m.wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
		return C.r3map_mount_pull(m.c, C.uint64_t(offset), C.uint64_t(length), cancel)
	})
}

// Prefetch asks for a range and returns at once.
func (m *Mount) Prefetch(offset, length int64) error {
	if err := checkRange(offset, length); err != nil {
		return err
	}
	if err := m.enter(); err != nil {
		return err
	}
	defer m.handle.leave()
	return take(C.r3map_mount_prefetch(m.c, C.uint64_t(offset), C.uint64_t(length)))
}

// TraceSave keeps the order in which pages were accessed for the first time in a file, for WithTrace of a later mount.
func (m *Mount) TraceSave(ctx context.Context, path string) error {
	text := C.CString(path)
	defer C.free(unsafe.Pointer(text))
	return m.wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error { return C.r3map_mount_trace_save(m.c, text, cancel) })
}

// Missing gives the parts of a range that are not here, in order.
func (m *Mount) Missing(offset, length int64) ([]Range, error) {
	if err := checkRange(offset, length); err != nil {
		return nil, err
	}
	if err := m.enter(); err != nil {
		return nil, err
	}
	defer m.handle.leave()
	for room := 64; ; {
		found, count := make([]C.r3map_range, room), C.size_t(0)
		err := take(C.r3map_mount_missing(m.c, C.uint64_t(offset), C.uint64_t(length), C.size_t(room), &found[0], &count))
		if err != nil {
			return nil, err
		}
		// Between two looks there may come to be more.
		if int(count) > room {
			room = int(count) + 64
			continue
		}
		ranges := make([]Range, count)
		for i := range ranges {
			ranges[i] = Range{Offset: int64(found[i].offset), Length: int64(found[i].length)}
		}
		return ranges, nil
	}
}

// WaitLocal waits until a share of the region, from 0 to 1, is here. It asks for nothing by itself: with [PullDemand] it
// may never come.
func (m *Mount) WaitLocal(ctx context.Context, share float64) error {
	if err := m.enter(); err != nil {
		return err
	}
	defer m.handle.leave()
	return m.life.during(ctx, "mount", func(ctx context.Context) error {
		return wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
			return C.r3map_mount_wait_local(m.c, C.double(share), 0, cancel)
		})
	})
}

// Sync makes everything written before this call, through any view, durable at the backend. Once a write was lost, every
// sync fails.
func (m *Mount) Sync(ctx context.Context) error {
	return m.wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error { return C.r3map_mount_sync(m.c, cancel) })
}

// Stats gives the mount's figures at this moment.
func (m *Mount) Stats() (Stats, error) {
	if err := m.enter(); err != nil {
		return nil, err
	}
	defer m.handle.leave()
	var stats *C.r3map_stats
	return takeStats(C.r3map_mount_stats(m.c, &stats), &stats)
}

// Payload gives what the app at the other side handed over with the region: of a mount that a leecher gave, else nothing.
func (m *Mount) Payload() ([]byte, error) {
	if err := m.enter(); err != nil {
		return nil, err
	}
	defer m.handle.leave()
	var payload unsafe.Pointer
	var length C.size_t
	if err := take(C.r3map_mount_payload(m.c, &payload, &length)); err != nil {
		return nil, err
	}
	// At most 16 MiB, which an int holds.
	return C.GoBytes(payload, C.int(length)), nil
}

// Backend gives the mount as a backend, to be exported by a server or mounted once more.
func (m *Mount) Backend() (*NativeBackend, error) {
	if err := m.enter(); err != nil {
		return nil, err
	}
	defer m.handle.leave()
	var backend *C.r3map_backend
	return newNativeBackend(takeBackend(C.r3map_mount_backend(m.c, &backend), &backend))
}

func takeBackend(failed *C.r3map_error, backend **C.r3map_backend) (*C.r3map_backend, error) {
	return *backend, take(failed)
}

// Close syncs, detaches the device and closes. If that fails the mount stays open, to be closed again or discarded.
func (m *Mount) Close() error { return m.CloseContext(context.Background()) }

// CloseContext is Close which ends when the context does; the mount stays open then.
func (m *Mount) CloseContext(ctx context.Context) error {
	return m.end(ctx, func(cancel *C.r3map_cancel) *C.r3map_error { return C.r3map_mount_close(m.c, cancel) })
}

// Discard detaches and closes without a sync: what was not synced may be lost.
func (m *Mount) Discard(ctx context.Context) error {
	return m.end(ctx, func(cancel *C.r3map_cancel) *C.r3map_error { return C.r3map_mount_discard(m.c, cancel) })
}

func (m *Mount) end(ctx context.Context, call func(cancel *C.r3map_cancel) *C.r3map_error) error {
	if err := m.enter(); err != nil {
		return err
	}
	defer m.handle.leave()
	if err := wait(ctx, call); err != nil {
		return err
	}
	m.handle.close()
	m.life.end()
	return nil
}

func checkRange(offset, length int64) error {
	if offset < 0 || length < 0 {
		return invalid("%d bytes at %d: neither may be negative", length, offset)
	}
	return nil
}
