package r3map

// #include <r3map.h>
import "C"

import (
	"context"
	"errors"
)

// Makes a call that waits, and ends it when the context does. A context that cannot end costs nothing.
func wait(ctx context.Context, call func(cancel *C.r3map_cancel) *C.r3map_error) error {
	if ctx == nil {
		return invalid("the context is nil")
	}
	if ctx.Done() == nil {
		return take(call(nil))
	}
	if ctx.Err() != nil {
		return ended(ctx, "ended before it began")
	}
	cancel := C.r3map_cancel_new()
	defer C.r3map_cancel_free(cancel)
	triggered := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		C.r3map_cancel_trigger(cancel)
		close(triggered)
	})
	err := take(call(cancel))
	if !stop() {
		<-triggered
	}
	var found *Error
	if errors.As(err, &found) && found.Code == ErrCancelled && ctx.Err() != nil {
		return ended(ctx, found.Message)
	}
	return err
}

// The error of a call that the context ended: a timeout if its deadline passed.
func ended(ctx context.Context, message string) error {
	code := ErrCancelled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		code, message = ErrTimeout, "the context's deadline passed: "+message
	}
	err := newError(code, "%s", message)
	if found, is := err.(*Error); is {
		found.cause = context.Cause(ctx)
	}
	return err
}
