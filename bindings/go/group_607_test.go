package r3map_test

import (
	"testing"

	"r3map.dev/go/r3map"
)

func TestMountsOfAGroupMoveAsOneInTheirOrder(t *testing.T) {
	var group r3map.Group
	_, err := group.Seed(background, "127.0.0.1:0")
	fails(t, err, r3map.ErrInvalidArgument, "without mounts")
	_, err = r3map.Group{nil}.Seed(background, "127.0.0.1:0")
	fails(t, err, r3map.ErrInvalidArgument, "the mount is nil")
	var models [][]byte
	for i, size := range []int64{100001, 4096, 1000000} {
		_, url := newFile(t, size)
		m := open(t, url)
		models = append(models, fill(make([]byte, size), i*50))
		write(t, m, models[i], 0)
		group = append(group, m)
	}
	s, err := group.Seed(background, "127.0.0.1:0")
	ok(t, err)
	_, err = r3map.LeechGroup(background, s.URL(), []string{"memory:", "memory:"})
	fails(t, err, r3map.ErrInvalidArgument, "3 regions")
	l, err := r3map.LeechGroup(patience(t), s.URL(), []string{"memory:", "memory:", newPlace(t)})
	ok(t, err)
	expect(t, s, r3map.SeedWaiting)
	expect(t, s, r3map.SeedTracking)
	ok(t, l.WaitLocal(patience(t), 1))
	for i, m := range group {
		copy(models[i][4000:], "late")
		write(t, m, []byte("late"), 4000)
	}
	_, err = l.Finalize(patience(t))
	fails(t, err, r3map.ErrInvalidArgument, "finalize_group")

	var moved []*r3map.Mount
	failed := make(chan error, 1)
	ctx := patience(t)
	go func() {
		var err error
		moved, err = l.FinalizeGroup(ctx)
		failed <- err
	}()
	ok(t, s.Suspended(expect(t, s, r3map.SeedSuspending), []byte("all")))
	expect(t, s, r3map.SeedCommitted)
	expect(t, s, r3map.SeedDrained)
	ok(t, <-failed)
	for _, m := range group {
		_, err := m.ReadAt(make([]byte, 1), 0)
		fails(t, err, r3map.ErrFenced, "")
	}
	ok(t, s.Close())
	ok(t, l.Close())
	check(t, len(moved) == 3, "%d mounts", len(moved))
	payload, err := moved[0].Payload()
	ok(t, err)
	same(t, payload, []byte("all"))
	for i, m := range moved {
		ok(t, group[i].Close())
		holds(t, m, models[i])
		ok(t, m.Close())
	}
}
