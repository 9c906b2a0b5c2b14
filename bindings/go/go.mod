module r3map.dev/go/r3map

go 1.22
