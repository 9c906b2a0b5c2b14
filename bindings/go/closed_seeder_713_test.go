package r3map_test

import (
	"context"
	"testing"

	"r3map.dev/go/r3map"
)

// Every call of a seeder, but URL.
func callsOfSeeder(s *r3map.Seeder, ctx context.Context) map[string]error {
	calls := map[string]error{}
	_, calls["Next"] = s.Next(ctx)
	calls["Suspended"] = s.Suspended(r3map.SeedEvent{Sequence: 1}, nil)
	calls["Refuse"] = s.Refuse(r3map.SeedEvent{Sequence: 1}, "no")
	calls["WaitDrained"] = s.WaitDrained(ctx)
	calls["Abandon"] = s.Abandon()
	calls["Reclaim"] = s.Reclaim()
	_, calls["Stats"] = s.Stats()
	calls["CloseContext"] = s.CloseContext(ctx)
	return calls
}

// Every call of a leecher.
func callsOfLeecher(l *r3map.Leecher, ctx context.Context) map[string]error {
	calls := map[string]error{}
	calls["WaitLocal"] = l.WaitLocal(ctx, 1)
	_, calls["Finalize"] = l.Finalize(ctx)
	_, calls["FinalizeWhen"] = l.FinalizeWhen(ctx, "95%")
	_, calls["FinalizeGroup"] = l.FinalizeGroup(ctx)
	_, calls["State"] = l.State()
	_, calls["Stats"] = l.Stats()
	calls["CloseContext"] = l.CloseContext(ctx)
	return calls
}

func TestANilSeederOrLeecherOrOneNeverOpenedIsAnErrorAndNotACrash(t *testing.T) {
	allFail(t, callsOfSeeder(nil, background), r3map.ErrInvalidArgument, "the seeder is nil")
	allFail(t, callsOfLeecher(nil, background), r3map.ErrInvalidArgument, "the leecher is nil")
	allFail(t, callsOfSeeder(&r3map.Seeder{}, background), r3map.ErrInvalidArgument, "this seeder was never opened")
	allFail(t, callsOfLeecher(&r3map.Leecher{}, background), r3map.ErrInvalidArgument, "this leecher was never opened")
	check(t, (*r3map.Seeder)(nil).URL() == "", "nil has a URL")
	_, err := (*r3map.Mount)(nil).Seed(background, "127.0.0.1:0")
	fails(t, err, r3map.ErrInvalidArgument, "the mount is nil")
	_, err = (*r3map.Mount)(nil).Payload()
	fails(t, err, r3map.ErrInvalidArgument, "the mount is nil")
	server := serve(t, "")
	_, err = server.Seed("x", nil)
	fails(t, err, r3map.ErrInvalidArgument, "the mount is nil")
	_, err = server.SeedGroup("x", r3map.Group{nil})
	fails(t, err, r3map.ErrInvalidArgument, "the mount is nil")
	_, err = (*r3map.Server)(nil).Seed("x", nil)
	fails(t, err, r3map.ErrInvalidArgument, "the server is nil")
	_, err = (*r3map.Server)(nil).SeedGroup("x", nil)
	fails(t, err, r3map.ErrInvalidArgument, "the server is nil")
	_, err = r3map.LeechGroup(background, "r3map://127.0.0.1:1/x", nil)
	fails(t, err, r3map.ErrInvalidArgument, "")
	_, err = r3map.LeechGroup(background, "r3map://127.0.0.1:1/x", []string{"memory:", "\x00"})
	fails(t, err, r3map.ErrInvalidArgument, "NUL")
	_, err = r3map.Leech(background, "r3map://127.0.0.1:1/x", "memory:", nil)
	fails(t, err, r3map.ErrInvalidArgument, "an option is nil")
}

func TestAClosedSeederOrLeecherAnswersClosedAndEndsThoseWhoWait(t *testing.T) {
	_, url := newFile(t, 10000)
	m := open(t, url)
	s := seed(t, m)
	expect(t, s, r3map.SeedWaiting)
	l := leech(t, s.URL(), "memory:")
	expect(t, s, r3map.SeedTracking)
	ended := make(chan error)
	go func() { ended <- s.WaitDrained(background) }()
	go func() {
		for {
			if _, err := s.Next(background); err != nil {
				ended <- err
				return
			}
		}
	}()
	ok(t, l.Close())
	allFail(t, callsOfLeecher(l, background), r3map.ErrClosed, "the leecher is closed")
	ok(t, s.Close())
	allFail(t, callsOfSeeder(s, background), r3map.ErrClosed, "the seeder is closed")
	for i := 0; i < 2; i++ {
		fails(t, <-ended, r3map.ErrClosed, "")
	}
	ok(t, m.Close())
}
