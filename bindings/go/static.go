//go:build r3map_static

package r3map

// #cgo pkg-config: r3map
// #cgo LDFLAGS: -Wl,--as-needed -l:libr3map.a -lutil -lrt -lpthread -lm -ldl
import "C"

// The archive stands before the shared library that pkg-config adds, and has everything, so that of this nothing is needed.
