package r3map

// #include "own.h"
// #include <stdlib.h>
import "C"

import (
	"fmt"
	"io"
	"math"
	"runtime/cgo"
	"runtime/debug"
	"unsafe"
)

// The library's backend for one of any kind, to be freed, unless it belongs to the caller.
func nativeOf(backend Backend) (c *C.r3map_backend, done func(), err error) {
	if backend == nil {
		return nil, nil, invalid("the backend is nil")
	}
	if native, is := backend.(*NativeBackend); is {
		if err := native.enter(); err != nil {
			return nil, nil, err
		}
		return native.c, native.handle.leave, nil
	}
	c, err = newOwn(backend)
	return c, func() { C.r3map_backend_free(c) }, err
}

// Makes a backend of the library whose calls are made in Go.
func newOwn(backend Backend) (*C.r3map_backend, error) {
	said := Description{Name: fmt.Sprintf("%T", backend)}
	if describer, is := backend.(Describer); is {
		name := said.Name
		if said = describer.Describe(); said.Name == "" {
			said.Name = name
		}
	}
	var err error
	number := func(name string, value int) C.uint32_t {
		if value < 0 || value > math.MaxUint32 {
			err = invalid("%s: %s: %d is out of range", said.Name, name, value)
		}
		return C.uint32_t(value)
	}
	description := C.r3map_go_description{
		flags:       C.R3MAP_BACKEND_MANAGED_RUNTIME,
		chunk_size:  number("chunk_size", said.ChunkSize),
		max_request: number("max_request", said.MaxRequest),
		concurrency: number("concurrency", said.Concurrency),
	}
	if said.ReadOnly {
		description.flags |= C.R3MAP_BACKEND_READ_ONLY
	}
	var s settings
	s.fail(err)
	var c *C.r3map_backend
	s.text("the backend's name", said.Name, func(name *C.char) {
		if s.err != nil {
			return
		}
		description.name = name
		value := cgo.NewHandle(backend)
		if s.err = take(C.r3map_go_backend_new(C.uintptr_t(value), description, &c)); s.err != nil {
			value.Delete()
		}
	})
	return c, s.err
}

// Makes a call of a backend written in Go; its panic is an error there as anywhere, since it cannot pass through C.
func inGo(value C.uintptr_t, call func(Backend) error) (failed *C.r3map_error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			failed = give(newError(ErrInternal, "the backend panicked: %v: %s", panicked, debug.Stack()))
		}
	}()
	if err := call(cgo.Handle(value).Value().(Backend)); err != nil {
		return give(err)
	}
	return nil
}

//export r3mapGoSize
func r3mapGoSize(value C.uintptr_t, size *C.uint64_t) *C.r3map_error {
	return inGo(value, func(backend Backend) error {
		found, err := backend.Size()
		if err == nil && found < 0 {
			err = invalid("%d is no size", found)
		}
		if err == nil {
			*size = C.uint64_t(found)
		}
		return err
	})
}

//export r3mapGoReadAt
func r3mapGoReadAt(value C.uintptr_t, buffer unsafe.Pointer, length C.size_t, offset C.uint64_t) *C.r3map_error {
	return inGo(value, func(backend Backend) error {
		n, err := backend.ReadAt(unsafe.Slice((*byte)(buffer), int(length)), int64(offset))
		if n == int(length) && err == io.EOF {
			return nil
		}
		return whole("ReadAt", n, int(length), err)
	})
}

//export r3mapGoWriteAt
func r3mapGoWriteAt(value C.uintptr_t, data unsafe.Pointer, length C.size_t, offset C.uint64_t) *C.r3map_error {
	return inGo(value, func(backend Backend) error {
		n, err := backend.WriteAt(unsafe.Slice((*byte)(data), int(length)), int64(offset))
		return whole("WriteAt", n, int(length), err)
	})
}

// An error for less than all bytes, though the backend gave none.
func whole(call string, n, length int, err error) error {
	if err == nil && n != length {
		return newError(ErrIO, "%s did %d of %d bytes and gave no error", call, n, length)
	}
	return err
}

//export r3mapGoSync
func r3mapGoSync(value C.uintptr_t) *C.r3map_error { return inGo(value, Backend.Sync) }

//export r3mapGoFree
func r3mapGoFree(value C.uintptr_t) { cgo.Handle(value).Delete() }
