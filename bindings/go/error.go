package r3map

// #include <r3map.h>
// #include <stdlib.h>
import "C"

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"unsafe"
)

// Code says what went wrong, as a program tells it apart. Codes are errors themselves, to be compared with:
// errors.Is(err, r3map.ErrBusy). New ones may come.
type Code uint32

// The codes. Numbers are those of the C library and never change.
const (
	// ErrInvalidArgument is a value that could never be right: an unknown option, a malformed URL, a nil handle.
	ErrInvalidArgument Code = C.R3MAP_INVALID_ARGUMENT
	// ErrNotFound is a file, export, key or host confirmed not to be there.
	ErrNotFound Code = C.R3MAP_NOT_FOUND
	// ErrPermissionDenied is what this process or client may not do.
	ErrPermissionDenied Code = C.R3MAP_PERMISSION_DENIED
	// ErrUnsupported is what this device, backend, kernel or build does not offer.
	ErrUnsupported Code = C.R3MAP_UNSUPPORTED
	// ErrNoDevice says that no device of the kind asked for can be attached here, and what each would need.
	ErrNoDevice Code = C.R3MAP_NO_DEVICE
	// ErrBusy says that somebody else holds it. Retryable.
	ErrBusy Code = C.R3MAP_BUSY
	// ErrReadOnly is a write to something opened or exported read-only.
	ErrReadOnly Code = C.R3MAP_READ_ONLY
	// ErrOutOfRange is an offset and length that reach outside the region.
	ErrOutOfRange Code = C.R3MAP_OUT_OF_RANGE
	// ErrTimeout says that a deadline passed first. Retryable.
	ErrTimeout Code = C.R3MAP_TIMEOUT
	// ErrCancelled says that the caller's context was cancelled.
	ErrCancelled Code = C.R3MAP_CANCELLED
	// ErrDisconnected says that the peer is away and did not come back in time. Retryable.
	ErrDisconnected Code = C.R3MAP_DISCONNECTED
	// ErrIO says that the storage under a backend failed.
	ErrIO Code = C.R3MAP_IO
	// ErrCorrupt says that bytes, a record or a frame failed their check.
	ErrCorrupt Code = C.R3MAP_CORRUPT
	// ErrFenced says that the region is owned by another side now.
	ErrFenced Code = C.R3MAP_FENCED
	// ErrStaleEpoch is an answer to something that is over.
	ErrStaleEpoch Code = C.R3MAP_STALE_EPOCH
	// ErrSuspended says that the region is suspended for a hand-over. Retryable.
	ErrSuspended Code = C.R3MAP_SUSPENDED
	// ErrNotAuthenticated says that the peer asks for credentials that were missing or wrong.
	ErrNotAuthenticated Code = C.R3MAP_NOT_AUTHENTICATED
	// ErrClosed is a use of something that was closed.
	ErrClosed Code = C.R3MAP_CLOSED
	// ErrInternal is a defect of the library itself.
	ErrInternal Code = C.R3MAP_INTERNAL
)

var codeNames = map[Code]string{
	ErrInvalidArgument: "invalid_argument", ErrNotFound: "not_found", ErrPermissionDenied: "permission_denied",
	ErrUnsupported: "unsupported", ErrNoDevice: "no_device", ErrBusy: "busy", ErrReadOnly: "read_only",
	ErrOutOfRange: "out_of_range", ErrTimeout: "timeout", ErrCancelled: "cancelled", ErrDisconnected: "disconnected",
	ErrIO: "io", ErrCorrupt: "corrupt", ErrFenced: "fenced", ErrStaleEpoch: "stale_epoch", ErrSuspended: "suspended",
	ErrNotAuthenticated: "not_authenticated", ErrClosed: "closed", ErrInternal: "internal",
}

// Error gives the code's name, the same in every language.
func (c Code) Error() string {
	if name, known := codeNames[c]; known {
		return name
	}
	return fmt.Sprintf("code %d", uint32(c))
}

// Error is how every call of this package fails.
type Error struct {
	// Code is what went wrong.
	Code Code
	// Message says what was tried on what, what went wrong and what to do, in one line without a secret.
	Message string
	// Errno stands for the code; never 0.
	Errno syscall.Errno
	// Retryable says whether the same call may succeed later without any change by the caller.
	Retryable bool
	// Of the context that ended the call.
	cause error
}

// Error gives the message.
func (e *Error) Error() string { return "r3map: " + e.Message }

// Unwrap gives the cause of the context that ended the call, nil if none did.
func (e *Error) Unwrap() error { return e.cause }

// Is says whether the target is this error's code or errno, or what the standard library calls the same.
func (e *Error) Is(target error) bool {
	switch target {
	case os.ErrDeadlineExceeded:
		return e.Code == ErrTimeout
	case context.Canceled:
		return e.Code == ErrCancelled
	case fs.ErrNotExist:
		return e.Code == ErrNotFound
	case fs.ErrPermission:
		return e.Code == ErrPermissionDenied
	case fs.ErrClosed:
		return e.Code == ErrClosed
	case fs.ErrInvalid:
		return e.Code == ErrInvalidArgument
	case errors.ErrUnsupported:
		return e.Code == ErrUnsupported
	}
	switch target := target.(type) {
	case Code:
		return e.Code == target
	case syscall.Errno:
		return e.Errno == target
	}
	return false
}

// Makes an error as the library would.
func newError(code Code, format string, arguments ...any) error {
	message := strings.ToValidUTF8(strings.ReplaceAll(fmt.Sprintf(format, arguments...), "\x00", " "), "\uFFFD")
	text := C.CString(message)
	defer C.free(unsafe.Pointer(text))
	return take(C.r3map_error_new(C.uint32_t(code), text))
}

func invalid(format string, arguments ...any) error {
	return newError(ErrInvalidArgument, format, arguments...)
}

// Takes over an error of the library; NULL is none.
func take(found *C.r3map_error) error {
	if found == nil {
		return nil
	}
	defer C.r3map_error_free(found)
	return &Error{
		Code:      Code(C.r3map_error_code(found)),
		Message:   C.GoString(C.r3map_error_message(found)),
		Errno:     syscall.Errno(C.r3map_error_errno(found)),
		Retryable: bool(C.r3map_error_retryable(found)),
	}
}

// The error of a backend written in Go, as the library takes it.
func give(err error) *C.r3map_error {
	text := C.CString(strings.ToValidUTF8(strings.ReplaceAll(told(err), "\x00", " "), "\uFFFD"))
	defer C.free(unsafe.Pointer(text))
	return C.r3map_error_new(C.uint32_t(codeOf(err)), text)
}

// An error's text, without our name where it is our own.
func told(err error) string {
	if ours, is := err.(*Error); is {
		return ours.Message
	}
	return err.Error()
}

// The code nearest to an error of any origin.
func codeOf(err error) Code {
	var ours *Error
	var code Code
	switch {
	case errors.As(err, &ours):
		return ours.Code
	case errors.As(err, &code):
		return code
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return ErrTimeout
	case errors.Is(err, context.Canceled):
		return ErrCancelled
	case errors.Is(err, fs.ErrNotExist):
		return ErrNotFound
	case errors.Is(err, fs.ErrPermission):
		return ErrPermissionDenied
	case errors.Is(err, fs.ErrClosed):
		return ErrClosed
	case errors.Is(err, errors.ErrUnsupported):
		return ErrUnsupported
	}
	return ErrIO
}
