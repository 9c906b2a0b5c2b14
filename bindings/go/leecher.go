package r3map

// #include <r3map.h>
// #include <stdlib.h>
import "C"

import (
	"context"
	"fmt"
	"net"
	"unsafe"
)

// Leecher is the side that a region moves to. It pulls while the app at the other side still writes; [Leecher.Finalize] then
// makes the region this side's, after a pause of about one round trip, and gives a mount, which may be seeded again. Bytes
// that are still there are pulled behind it, those that are touched first.
type Leecher struct {
	handle handle
	c      *C.r3map_leecher
	life   life
	// How many mounts it gives.
	count int
}

// LeechState is how far a leecher is.
type LeechState uint32

// The states.
const (
	// LeechConnecting says that there is no answer from the seeder yet, or none any more.
	LeechConnecting LeechState = C.R3MAP_LEECH_CONNECTING
	// LeechPulling says that it pulls.
	LeechPulling LeechState = C.R3MAP_LEECH_PULLING
	// LeechOutpaced says that the app at the other side writes faster than this side pulls: wait, finalize all the same, or
	// close.
	LeechOutpaced LeechState = C.R3MAP_LEECH_OUTPACED
	// LeechFinalizing says that the region is asked for; the other side's word decides.
	LeechFinalizing LeechState = C.R3MAP_LEECH_FINALIZING
	// LeechOwner says that the region is this side's; some of its bytes are still there.
	LeechOwner LeechState = C.R3MAP_LEECH_OWNER
	// LeechComplete says that every byte is here: the other side is not needed any more.
	LeechComplete LeechState = C.R3MAP_LEECH_COMPLETE
	// LeechEnded says that it was closed, or the seeder ended, before the region moved.
	LeechEnded LeechState = C.R3MAP_LEECH_ENDED
	// LeechFenced says that the other side took the region back by force.
	LeechFenced LeechState = C.R3MAP_LEECH_FENCED
)

var leechStates = [...]string{LeechConnecting: "connecting", LeechPulling: "pulling", LeechOutpaced: "outpaced",
	LeechFinalizing: "finalizing", LeechOwner: "owner", LeechComplete: "complete", LeechEnded: "ended", LeechFenced: "fenced"}

// String gives the name, the same in every language.
func (s LeechState) String() string {
	if s == 0 || int(s) >= len(leechStates) {
		return fmt.Sprintf("state %d", uint32(s))
	}
	return leechStates[s]
}

// Leech begins to pull the region that a seeder's URL names into local: memory: or file:///path, created at the seeder's
// size. A local that exists and is no earlier state of this region is [ErrBusy] without [WithOverwrite].
func Leech(ctx context.Context, url, local string, options ...MountOption) (*Leecher, error) {
	return leech(options, 1, func(s *mountSettings, leecher **C.r3map_leecher) {
		s.text("the URL", url, func(url *C.char) {
			s.text("the local URL", local, func(local *C.char) {
				s.fail(wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
					return C.r3map_leecher_open(url, local, s.c, s.backend.c, cancel, leecher)
				}))
			})
		})
	})
}

// LeechConn is [Leech] from the seeder of that name at the other end of a connected stream socket, TCP or UNIX. The
// connection is the library's from success on. Such a leecher cannot connect again.
func LeechConn(ctx context.Context, conn net.Conn, name, local string, options ...MountOption) (*Leecher, error) {
	return leech(options, 1, func(s *mountSettings, leecher **C.r3map_leecher) {
		s.text("the name", name, func(name *C.char) {
			s.text("the local URL", local, func(local *C.char) {
				s.fail(withDescriptor(conn, func(descriptor C.int) error {
					return wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
						return C.r3map_leecher_connect(descriptor, name, local, s.c, s.backend.c, cancel, leecher)
					})
				}))
			})
		})
	})
}

// LeechGroup begins to pull a group of regions, the first into the first of the locals, and so on.
// [Leecher.FinalizeGroup] makes them this side's, all at once.
func LeechGroup(ctx context.Context, url string, locals []string, options ...MountOption) (*Leecher, error) {
	return leech(options, len(locals), func(s *mountSettings, leecher **C.r3map_leecher) {
		// In C's memory: Go's may not hold pointers that C reads through.
		room := C.calloc(C.size_t(len(locals)+1), C.size_t(unsafe.Sizeof((*C.char)(nil))))
		defer C.free(room)
		texts := unsafe.Slice((**C.char)(room), len(locals)+1)
		for i, local := range locals {
			s.text("a local URL", local, func(*C.char) { texts[i] = C.CString(local) })
			defer C.free(unsafe.Pointer(texts[i]))
		}
		s.text("the URL", url, func(url *C.char) {
			if s.err == nil {
				s.err = wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
					return C.r3map_leecher_open_group(url, &texts[0], C.size_t(len(locals)), s.c, s.backend.c, cancel, leecher)
				})
			}
		})
	})
}

func leech(options []MountOption, count int, call func(s *mountSettings, leecher **C.r3map_leecher)) (*Leecher, error) {
	settings := newMountSettings(options)
	defer settings.free()
	if settings.priority != nil {
		settings.fail(newError(ErrUnsupported, "pull_priority: a leecher takes ranges, by WithPullRange"))
	}
	if settings.err != nil {
		return nil, settings.err
	}
	var c *C.r3map_leecher
	if call(settings, &c); settings.err != nil {
		return nil, settings.err
	}
	l := &Leecher{c: c, count: count, life: newLife()}
	l.handle.free = func() { C.r3map_leecher_free(c) }
	return l, nil
}

func (l *Leecher) enter() error {
	if l == nil {
		return invalid("the leecher is nil")
	}
	if !l.handle.enter() {
		return l.handle.refused("leecher")
	}
	return nil
}

// Makes a call that waits, at most until the leecher is closed.
func (l *Leecher) wait(ctx context.Context, call func(cancel *C.r3map_cancel) *C.r3map_error) error {
	if err := l.enter(); err != nil {
		return err
	}
	defer l.handle.leave()
	return l.life.during(ctx, "leecher", func(ctx context.Context) error { return wait(ctx, call) })
}

// WaitLocal waits until a share of the region, from 0 to 1, is here. What the app at the other side writes meanwhile is not
// here again.
func (l *Leecher) WaitLocal(ctx context.Context, share float64) error {
	return l.wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
		return C.r3map_leecher_wait_local(l.c, C.double(share), 0, cancel)
	})
}

// Finalize asks for the region and gives its mount once it is this side's. It may be called again after a timeout or when
// its context ended: [Leecher.State] says what came of it. A refusal of the app at the other side is [ErrBusy] with its
// reason, and the pull goes on.
func (l *Leecher) Finalize(ctx context.Context) (*Mount, error) {
	var mount *C.r3map_mount
	err := l.wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error { return C.r3map_leecher_finalize(l.c, cancel, &mount) })
	if err != nil {
		return nil, err
	}
	return newMount(mount)
}

// FinalizeWhen waits for a share of the region to be here ("95%"), or for the pause to be expected short enough
// ("pause<20ms"), then finalizes.
func (l *Leecher) FinalizeWhen(ctx context.Context, when string) (*Mount, error) {
	var mount *C.r3map_mount
	var texts settings
	texts.text("the condition", when, func(when *C.char) {
		texts.err = l.wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
			return C.r3map_leecher_finalize_when(l.c, when, 0, cancel, &mount)
		})
	})
	if texts.err != nil {
		return nil, texts.err
	}
	return newMount(mount)
}

// FinalizeGroup finalizes a group; the mounts are in the order of the locals.
func (l *Leecher) FinalizeGroup(ctx context.Context) ([]*Mount, error) {
	if l == nil {
		return nil, l.enter()
	}
	found := make([]*C.r3map_mount, l.count+1)
	err := l.wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
		return C.r3map_leecher_finalize_group(l.c, C.size_t(l.count), cancel, &found[0])
	})
	if err != nil {
		return nil, err
	}
	mounts := make([]*Mount, l.count)
	for i := range mounts {
		if mounts[i], err = newMount(found[i]); err != nil {
			return nil, err
		}
	}
	return mounts, nil
}

// State says how far it is.
func (l *Leecher) State() (LeechState, error) {
	if err := l.enter(); err != nil {
		return 0, err
	}
	defer l.handle.leave()
	var state C.uint32_t
	err := take(C.r3map_leecher_state(l.c, &state))
	return LeechState(state), err
}

// Stats gives the leecher's figures at this moment.
func (l *Leecher) Stats() (Stats, error) {
	if err := l.enter(); err != nil {
		return nil, err
	}
	defer l.handle.leave()
	var stats *C.r3map_stats
	return takeStats(C.r3map_leecher_stats(l.c, &stats), &stats)
}

// Close ends the pull of a region that did not move; what a file has of it stays for the next attempt. After Finalize it
// does nothing to the mount.
func (l *Leecher) Close() error { return l.CloseContext(context.Background()) }

// CloseContext is Close which ends when the context does.
func (l *Leecher) CloseContext(ctx context.Context) error {
	if err := l.enter(); err != nil {
		return err
	}
	defer l.handle.leave()
	err := wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error { return C.r3map_leecher_close(l.c, cancel) })
	if err == nil {
		l.handle.close()
		l.life.end()
	}
	return err
}
