package r3map_test

import (
	"context"
	"testing"
	"time"

	"r3map.dev/go/r3map"
)

// Every call of a mount, by its name, but Size.
func callsOf(m *r3map.Mount, ctx context.Context) map[string]error {
	calls := map[string]error{}
	_, calls["ReadOnly"] = m.ReadOnly()
	_, calls["Device"] = m.Device()
	_, calls["ReadAt"] = m.ReadAt(make([]byte, 1), 0)
	_, calls["WriteAt"] = m.WriteAt(make([]byte, 1), 0)
	_, calls["ReadAtContext"] = m.ReadAtContext(ctx, make([]byte, 1), 0)
	_, calls["WriteAtContext"] = m.WriteAtContext(ctx, make([]byte, 1), 0)
	_, calls["Path"] = m.Path(ctx)
	_, calls["File"] = m.File(ctx)
	_, calls["Slice"] = m.Slice(ctx)
	calls["Pull"] = m.Pull(ctx, 0, 1)
	calls["Prefetch"] = m.Prefetch(0, 1)
	_, calls["Missing"] = m.Missing(0, 1)
	calls["WaitLocal"] = m.WaitLocal(ctx, 1)
	_, calls["Next"] = m.Next(ctx)
	calls["Sync"] = m.Sync(ctx)
	_, calls["Stats"] = m.Stats()
	_, calls["Backend"] = m.Backend()
	calls["CloseContext"] = m.CloseContext(ctx)
	calls["Discard"] = m.Discard(ctx)
	return calls
}

// Every call of a backend of the library's.
func callsOfBackend(b *r3map.NativeBackend, ctx context.Context) map[string]error {
	calls := map[string]error{}
	_, calls["Size"] = b.Size()
	_, calls["ReadOnly"] = b.ReadOnly()
	_, calls["ReadAt"] = b.ReadAt(make([]byte, 1), 0)
	_, calls["WriteAt"] = b.WriteAt(make([]byte, 1), 0)
	_, calls["ReadAtContext"] = b.ReadAtContext(ctx, make([]byte, 1), 0)
	_, calls["WriteAtContext"] = b.WriteAtContext(ctx, make([]byte, 1), 0)
	calls["Sync"] = b.Sync()
	calls["SyncContext"] = b.SyncContext(ctx)
	calls["Close"] = b.Close()
	return calls
}

// Every call of a server, but URL.
func callsOfServer(s *r3map.Server, ctx context.Context) map[string]error {
	calls := map[string]error{}
	_, calls["Listen"] = s.Listen(ctx, "127.0.0.1:0")
	calls["Export"] = s.Export("x", newStore(1))
	calls["Handle"] = s.Handle(nil)
	calls["CloseContext"] = s.CloseContext(ctx)
	return calls
}

func allFail(t *testing.T, calls map[string]error, code r3map.Code, text string) {
	t.Helper()
	for name, err := range calls {
		t.Run(name, func(t *testing.T) { fails(t, err, code, text) })
	}
}

func TestANilHandleIsAnErrorAndNotACrash(t *testing.T) {
	allFail(t, callsOf(nil, background), r3map.ErrInvalidArgument, "the mount is nil")
	allFail(t, callsOfBackend(nil, background), r3map.ErrInvalidArgument, "the backend is nil")
	allFail(t, callsOfServer(nil, background), r3map.ErrInvalidArgument, "the server is nil")
	check(t, (*r3map.Mount)(nil).Size() == 0 && (*r3map.Server)(nil).URL() == "", "nil has a size or a URL")
}

func TestANilContextIsAnErrorAndNotACrash(t *testing.T) {
	m := open(t, "memory:?size=4096")
	for name, err := range callsOf(m, nil) {
		switch name {
		case "ReadOnly", "Device", "ReadAt", "WriteAt", "Prefetch", "Missing", "Stats", "Backend":
			ok(t, err)
		default:
			t.Run(name, func(t *testing.T) { fails(t, err, r3map.ErrInvalidArgument, "the context is nil") })
		}
	}
	var none context.Context
	_, err := r3map.Open(none, "memory:?size=1")
	fails(t, err, r3map.ErrInvalidArgument, "the context is nil")
	_, err = r3map.OpenBackend(none, newStore(1))
	fails(t, err, r3map.ErrInvalidArgument, "the context is nil")
	_, err = serve(t, "").Listen(none, "127.0.0.1:0")
	fails(t, err, r3map.ErrInvalidArgument, "the context is nil")
	short, cancel := context.WithTimeout(background, time.Hour)
	cancel()
	_, err = r3map.Open(short, "memory:?size=1")
	fails(t, err, r3map.ErrCancelled, "before it began")
}
