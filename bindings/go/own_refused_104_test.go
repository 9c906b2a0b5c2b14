package r3map_test

import (
	"errors"
	"testing"

	"r3map.dev/go/r3map"
)

type sized struct {
	*store
	size int64
	err  error
}

func (s sized) Size() (int64, error) { return s.size, s.err }

func TestABackendThatCannotBeRightIsRefusedWithWhatIsWrong(t *testing.T) {
	refused := func(b r3map.Backend, text string) {
		t.Helper()
		m, err := r3map.OpenBackend(background, b)
		fails(t, err, r3map.ErrInvalidArgument, text)
		check(t, m == nil, "a mount beside an error")
		server := serve(t, "")
		fails(t, server.Export("x", b), r3map.ErrInvalidArgument, text)
	}
	describe := func(said r3map.Description) *store {
		s := newStore(4096)
		s.said = said
		return s
	}
	refused(nil, "the backend is nil")
	refused((*r3map.NativeBackend)(nil), "the backend is nil")
	refused(&r3map.NativeBackend{}, "never opened")
	refused(describe(r3map.Description{ChunkSize: 5000}), "chunk_size: 5000")
	refused(describe(r3map.Description{ChunkSize: -1}), "chunk_size: -1")
	refused(describe(r3map.Description{Concurrency: -1}), "concurrency: -1")
	refused(describe(r3map.Description{MaxRequest: 1 << 40}), "max_request: 1099511627776")
	refused(describe(r3map.Description{Name: "a\x00b"}), "NUL")
	refused(sized{store: newStore(1), size: -5}, "-5 is no size")
	_, err := r3map.OpenBackend(background, sized{store: newStore(1), err: errors.New("nobody knows")})
	fails(t, err, r3map.ErrIO, "ours: size: nobody knows")
}
