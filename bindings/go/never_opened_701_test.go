package r3map_test

import (
	"testing"

	"r3map.dev/go/r3map"
)

func TestAHandleThatWasNeverOpenedIsFoundOut(t *testing.T) {
	allFail(t, callsOf(&r3map.Mount{}, background), r3map.ErrInvalidArgument, "this mount was never opened")
	allFail(t, callsOfBackend(&r3map.NativeBackend{}, background), r3map.ErrInvalidArgument, "this backend was never opened")
	allFail(t, callsOfServer(&r3map.Server{}, background), r3map.ErrInvalidArgument, "this server was never opened")
}
