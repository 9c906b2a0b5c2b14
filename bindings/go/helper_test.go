package r3map_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"r3map.dev/go/r3map"
)

var background = context.Background()

// Children of tests are this very program, told by the environment what to do.
var children = map[string]func(){}

func TestMain(m *testing.M) {
	if child, is := children[os.Getenv("R3MAP_TEST_CHILD")]; is {
		child()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The call succeeds.
func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The call fails with that code, and part of the message is that text.
func fails(t *testing.T, err error, code r3map.Code, text string) {
	t.Helper()
	var found *r3map.Error
	if !errors.As(err, &found) || !errors.Is(err, code) || !strings.Contains(found.Message, text) {
		t.Fatalf("expected %v and %q, got %v", code, text, err)
	}
}

func check(t *testing.T, condition bool, format string, arguments ...any) {
	t.Helper()
	if !condition {
		t.Fatalf(format, arguments...)
	}
}

// Skips the test if the call fails for want of a device, with what the library says of it.
func okOrSkip(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, r3map.ErrNoDevice) || errors.Is(err, r3map.ErrUnsupported) || errors.Is(err, r3map.ErrPermissionDenied) {
		t.Skipf("SKIPPED: %v", err)
	}
	ok(t, err)
}

// A mount of what a URL names, closed at the end of the test unless that closes it.
func open(t *testing.T, url string, options ...r3map.MountOption) *r3map.Mount {
	t.Helper()
	m, err := r3map.Open(background, url, options...)
	ok(t, err)
	t.Cleanup(func() { m.Discard(background) })
	return m
}

func openBackend(t *testing.T, url string) *r3map.NativeBackend {
	t.Helper()
	b, err := r3map.BackendFromURL(background, url)
	ok(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

func serve(t *testing.T, listen string, options ...r3map.ServeOption) *r3map.Server {
	t.Helper()
	server, err := r3map.Serve(listen, options...)
	ok(t, err)
	t.Cleanup(func() { server.Close() })
	return server
}

// A file of some zero bytes, as a path and as a URL.
func newFile(t *testing.T, size int64) (path, url string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "file")
	ok(t, os.WriteFile(path, nil, 0o600))
	ok(t, os.Truncate(path, size))
	return path, "file://" + path
}

// A path for a UNIX socket, short enough to be one.
func socketPath(t *testing.T) string {
	t.Helper()
	directory, err := os.MkdirTemp("", "r3map")
	ok(t, err)
	t.Cleanup(func() { os.RemoveAll(directory) })
	return filepath.Join(directory, "socket")
}

// Bytes that differ from place to place.
func fill(bytes []byte, seed int) []byte {
	for i := range bytes {
		bytes[i] = byte(i*31 + i/4096 + seed)
	}
	return bytes
}

func read(t *testing.T, from interface {
	ReadAt([]byte, int64) (int, error)
}, length int, offset int64) []byte {
	t.Helper()
	found := make([]byte, length)
	n, err := from.ReadAt(found, offset)
	ok(t, err)
	check(t, n == length, "read %d of %d bytes", n, length)
	return found
}

func write(t *testing.T, to interface {
	WriteAt([]byte, int64) (int, error)
}, data []byte, offset int64) {
	t.Helper()
	n, err := to.WriteAt(data, offset)
	ok(t, err)
	check(t, n == len(data), "wrote %d of %d bytes", n, len(data))
}

func same(t *testing.T, found, expected []byte) {
	t.Helper()
	if !bytes.Equal(found, expected) {
		for i := range found {
			if i < len(expected) && found[i] != expected[i] {
				t.Fatalf("of %d and %d bytes those at %d are first to differ", len(found), len(expected), i)
			}
		}
		t.Fatalf("%d bytes where %d were expected", len(found), len(expected))
	}
}

// A backend in Go over memory, which counts its calls and fails when told to.
type store struct {
	mutex sync.Mutex
	bytes []byte
	said  r3map.Description
	// With what calls fail, and how many still do; below 0 all of them.
	failure  error
	failures int
	// Calls so far, those under way, and how many there ever were at once.
	reads, writes, syncs, inside, most int
	// How long a read takes.
	delay time.Duration
	// Calls wait for whoever holds it.
	gate sync.RWMutex
}

func newStore(size int) *store {
	return &store{bytes: make([]byte, size), said: r3map.Description{Name: "ours"}}
}

func (s *store) call(counter *int, body func() int) (int, error) {
	s.mutex.Lock()
	*counter++
	s.inside++
	s.most = max(s.most, s.inside)
	failure := error(nil)
	if s.failure != nil && s.failures != 0 {
		failure = s.failure
		s.failures--
	}
	delay := s.delay
	s.mutex.Unlock()
	s.gate.RLock()
	s.gate.RUnlock()
	time.Sleep(delay)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.inside--
	if failure != nil {
		return 0, failure
	}
	return body(), nil
}

// Fails so many of the next calls; below 0 all of them.
func (s *store) fail(failure error, failures int) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.failure, s.failures = failure, failures
}

func (s *store) Describe() r3map.Description { return s.said }
func (s *store) Size() (int64, error)        { return int64(len(s.bytes)), nil }

func (s *store) ReadAt(p []byte, offset int64) (int, error) {
	return s.call(&s.reads, func() int { return copy(p, s.bytes[offset:]) })
}

func (s *store) WriteAt(p []byte, offset int64) (int, error) {
	return s.call(&s.writes, func() int { return copy(s.bytes[offset:], p) })
}

func (s *store) Sync() error {
	_, err := s.call(&s.syncs, func() int { return 0 })
	return err
}

func mountStore(t *testing.T, s *store, options ...r3map.MountOption) *r3map.Mount {
	t.Helper()
	m, err := r3map.OpenBackend(background, s, options...)
	ok(t, err)
	t.Cleanup(func() { m.Discard(background) })
	return m
}

func mountNative(t *testing.T, b *r3map.NativeBackend) *r3map.Mount {
	t.Helper()
	m, err := r3map.OpenBackend(background, b)
	ok(t, err)
	t.Cleanup(func() { m.Discard(background) })
	return m
}

var errOutOfOrder = &r3map.Error{Code: r3map.ErrIO, Message: "out of order"}
