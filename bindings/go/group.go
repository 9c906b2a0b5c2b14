package r3map

// #include <r3map.h>
import "C"

import "context"

// Group is mounts that move as one: all of them, or none. At the other side [LeechGroup] names a place for each, in the
// same order.
type Group []*Mount

// Seed seeds the group as [Mount.Seed] does one mount.
func (g Group) Seed(ctx context.Context, listen string, options ...SeedOption) (*Seeder, error) {
	group, err := g.open()
	defer C.r3map_group_free(group)
	if err != nil {
		return nil, err
	}
	return seed(ctx, listen, options, func(listen *C.char, options *C.r3map_seed_options, cancel *C.r3map_cancel,
		seeder **C.r3map_seeder) *C.r3map_error {
		return C.r3map_group_seed(group, listen, options, cancel, seeder)
	})
}

// SeedGroup seeds a group as [Server.Seed] does one mount.
func (s *Server) SeedGroup(name string, group Group, options ...SeedOption) (*Seeder, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.handle.leave()
	c, err := group.open()
	defer C.r3map_group_free(c)
	if err != nil {
		return nil, err
	}
	return seed(context.Background(), name, options, func(name *C.char, options *C.r3map_seed_options, _ *C.r3map_cancel,
		seeder **C.r3map_seeder) *C.r3map_error {
		return C.r3map_server_seed_group(s.c, name, c, options, seeder)
	})
}

// The group as C has it, with references of its own to the mounts, to be freed.
func (g Group) open() (*C.r3map_group, error) {
	c := C.r3map_group_new()
	for _, mount := range g {
		if err := mount.enter(); err != nil {
			return c, err
		}
		err := take(C.r3map_group_add(c, mount.c))
		mount.handle.leave()
		if err != nil {
			return c, err
		}
	}
	return c, nil
}
