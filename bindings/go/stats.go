package r3map

// #include <r3map.h>
import "C"

// Stats are named figures at one moment. Names are stable, new ones may appear; those of bytes begin with bytes_.
type Stats map[string]uint64

// Takes over figures of C.
func takeStats(failed *C.r3map_error, place **C.r3map_stats) (Stats, error) {
	if failed != nil {
		return nil, take(failed)
	}
	defer C.r3map_stats_free(*place)
	var count C.size_t
	if err := take(C.r3map_stats_count(*place, &count)); err != nil {
		return nil, err
	}
	stats := make(Stats, count)
	for index := C.size_t(0); index < count; index++ {
		var name *C.char
		var value C.uint64_t
		if err := take(C.r3map_stats_at(*place, index, &name, &value)); err != nil {
			return nil, err
		}
		stats[C.GoString(name)] = uint64(value)
	}
	return stats, nil
}
