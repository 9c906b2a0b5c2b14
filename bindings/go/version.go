package r3map

// #include <r3map.h>
import "C"

// Version gives the version of the library that is loaded, such as "0.1.0".
func Version() string { return C.GoString(C.r3map_version()) }
