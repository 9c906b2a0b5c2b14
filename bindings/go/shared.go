//go:build !r3map_static

package r3map

// #cgo pkg-config: r3map
import "C"
