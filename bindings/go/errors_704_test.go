package r3map_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"r3map.dev/go/r3map"
)

func TestAnErrorHasACodeAnErrnoAMessageAndAWordOnTryingAgain(t *testing.T) {
	s := newStore(4096)
	m := mountStore(t, s, r3map.WithDeadline(1))
	seen := map[syscall.Errno]bool{}
	for code := r3map.ErrInvalidArgument; code <= r3map.ErrInternal; code++ {
		s.fail(code, -1)
		_, err := m.ReadAtContext(background, make([]byte, 1), 0)
		var found *r3map.Error
		check(t, errors.As(err, &found) && found.Errno != 0, "%v gave %v", code, err)
		retryable := code == r3map.ErrBusy || code == r3map.ErrTimeout || code == r3map.ErrDisconnected || code == r3map.ErrSuspended
		check(t, found.Retryable == retryable, "%v: retryable is %v", code, found.Retryable)
		// What is retryable is tried again until the deadline, which may speak first.
		if retryable && found.Code == r3map.ErrTimeout {
			continue
		}
		check(t, found.Code == code && errors.Is(err, code), "%v gave %v", code, err)
		check(t, errors.Is(err, found.Errno) && !seen[found.Errno], "%v has %v", code, found.Errno)
		check(t, found.Message == "ours: read: "+code.Error() && err.Error() == "r3map: "+found.Message, "%v gave %q", code, err)
		seen[found.Errno] = true
	}
	check(t, r3map.ErrNotAuthenticated.Error() == "not_authenticated" && r3map.Code(99).Error() == "code 99", "names of codes")
}

func TestAnErrorIsWhatTheStandardLibraryCallsIt(t *testing.T) {
	for code, standard := range map[r3map.Code]error{
		r3map.ErrTimeout: os.ErrDeadlineExceeded, r3map.ErrCancelled: context.Canceled, r3map.ErrNotFound: fs.ErrNotExist,
		r3map.ErrPermissionDenied: fs.ErrPermission, r3map.ErrClosed: fs.ErrClosed, r3map.ErrInvalidArgument: fs.ErrInvalid,
		r3map.ErrUnsupported: errors.ErrUnsupported,
	} {
		for other := r3map.ErrInvalidArgument; other <= r3map.ErrInternal; other++ {
			err := error(&r3map.Error{Code: other})
			check(t, errors.Is(err, standard) == (other == code), "%v and %v", other, standard)
		}
	}
	_, err := openBackend(t, "memory:?size=1").WriteAt(make([]byte, 2), 0)
	check(t, errors.Is(err, syscall.ERANGE) && !errors.Is(err, syscall.EIO), "%v is not ERANGE", err)
}
