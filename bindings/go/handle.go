package r3map

import (
	"context"
	"math"
	"sync/atomic"
)

// What a handle of the C library has besides: whether it is open, and how many calls are inside, since it may be freed only
// when none is.
type handle struct {
	// Calls inside; less by closedMark once it is closed.
	inside atomic.Int64
	// Frees the handle of C; nil before it was opened.
	free          func()
	closed, freed atomic.Bool
}

// Far below what callers could count up.
const closedMark = math.MinInt64 / 2

// Begins a call: false where there is nothing to call, because it was closed or never opened.
func (h *handle) enter() bool {
	if h.inside.Add(1) > 0 && h.free != nil {
		return true
	}
	h.leave()
	return false
}

// Ends a call; the last one after a close frees.
func (h *handle) leave() {
	if h.inside.Add(-1) == closedMark && h.freed.CompareAndSwap(false, true) {
		h.free()
	}
}

// Lets no more calls begin; false if another close did. Called inside a call.
func (h *handle) close() bool {
	if !h.closed.CompareAndSwap(false, true) {
		return false
	}
	h.inside.Add(closedMark)
	return true
}

// The error of a call that could not enter.
func (h *handle) refused(noun string) error {
	if h.closed.Load() {
		return newError(ErrClosed, "the %s is closed", noun)
	}
	return invalid("this %s was never opened", noun)
}

// Ends those who wait for what may never come when their noun is closed; the library itself leaves them waiting.
type life struct {
	context context.Context
	end     context.CancelFunc
}

func newLife() life {
	ctx, end := context.WithCancel(context.Background())
	return life{ctx, end}
}

// Makes a call whose context ends when the noun's life does.
func (l *life) during(ctx context.Context, noun string, call func(ctx context.Context) error) error {
	if ctx == nil {
		return invalid("the context is nil")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(l.context, func() { cancel(ErrClosed) })()
	err := call(ctx)
	if err != nil && l.context.Err() != nil {
		return newError(ErrClosed, "the %s was closed meanwhile", noun)
	}
	return err
}
