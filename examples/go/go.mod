module examples

go 1.22

require r3map.dev/go/r3map v0.0.0

replace r3map.dev/go/r3map => ../../bindings/go
