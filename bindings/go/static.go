//go:build r3map_static

package r3map

// The archive comes first and has everything, so that of the shared library, which pkg-config adds, nothing is needed.
//
// #cgo pkg-config: r3map
// #cgo LDFLAGS: -Wl,--as-needed -l:libr3map.a -lgcc_s -lutil -lrt -lpthread -lm -ldl
import "C"
