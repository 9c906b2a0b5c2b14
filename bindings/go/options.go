package r3map

// #include <r3map.h>
// #include <stdlib.h>
import "C"

import (
	"math"
	"strings"
	"time"
	"unsafe"
)

// MountOption is an option of [Open], [OpenBackend] and leechers. Options have the same names and meanings in every
// language and as flags of the command; a value that one cannot take is reported by what opens with it.
type MountOption interface{ applyMount(*mountSettings) }

// BackendOption is an option of [BackendFromURL] and [BackendFromConn], and of whatever opens a backend for a mount.
type BackendOption interface {
	MountOption
	applyBackend(*backendSettings)
}

// CredentialOption proves to the other side of a connection who this one is: of whatever opens a backend, and of what
// listens.
type CredentialOption interface {
	BackendOption
	ServeOption
	SeedOption
}

// ServeOption is an option of [Serve].
type ServeOption interface{ applyServe(*serveSettings) }

// ExportOption is an option of [Server.Export].
type ExportOption interface{ applyExport(*exportSettings) }

// SeedOption is an option of [Mount.Seed], [Server.Seed] and those of a [Group].
type SeedOption interface{ applySeed(*seedSettings) }

// Mode says where accesses go.
type Mode uint32

// The modes.
const (
	// ModeAuto is by the backend: memory:, file:, dir: and your own direct, the others managed. The default.
	ModeAuto Mode = C.R3MAP_MODE_AUTO
	// ModeDirect has every access go to the backend.
	ModeDirect Mode = C.R3MAP_MODE_DIRECT
	// ModeManaged keeps pages here, pulled and pushed in the background.
	ModeManaged Mode = C.R3MAP_MODE_MANAGED
)

// Pull says when pages of a managed mount are pulled.
type Pull uint32

// When to pull.
const (
	// PullBackground pulls all of them, in the background. The default.
	PullBackground Pull = C.R3MAP_PULL_BACKGROUND
	// PullDemand pulls only those that are asked for.
	PullDemand Pull = C.R3MAP_PULL_DEMAND
)

// View is a way to see a region.
type View uint32

// The views, for [WithPrepare].
const (
	// ViewPath is a path for other programs.
	ViewPath View = C.R3MAP_VIEW_PATH
	// ViewFile is a file.
	ViewFile View = C.R3MAP_VIEW_FILE
	// ViewSlice is memory of this process.
	ViewSlice View = C.R3MAP_VIEW_SLICE
)

// WithMode says where accesses go.
func WithMode(mode Mode) MountOption {
	return mountOption(func(s *mountSettings) { C.r3map_mount_options_set_mode(s.c, C.uint32_t(mode)) })
}

// WithDevice says how the kernel shows the region: "auto" (the default), "nbd", "nbd:/dev/nbd3" (that one), "userfaultfd",
// "userfaultfd:user-mode" (any user may have it, but read(2) into the slice fails with EFAULT) or "fuse".
func WithDevice(device string) MountOption {
	return mountText("device", device, func(s *mountSettings, text *C.char) { C.r3map_mount_options_set_device(s.c, text) })
}

// WithAt says where a fuse path appears: over this file, which is created if it is missing.
func WithAt(path string) MountOption {
	return mountText("at", path, func(s *mountSettings, text *C.char) { C.r3map_mount_options_set_at(s.c, text) })
}

// WithCache names the local store that keeps pulled pages by its URL. By default they are kept in memory. A file keeps what
// was written through a kill, and the next mount of the same region goes on with it.
func WithCache(url string) MountOption {
	return mountText("cache", url, func(s *mountSettings, text *C.char) { C.r3map_mount_options_set_cache(s.c, text) })
}

// WithTrace names a file that TraceSave wrote: what it names is pulled in its order, after the ranges to pull first and
// before all else.
func WithTrace(path string) MountOption {
	return mountText("trace", path, func(s *mountSettings, text *C.char) { C.r3map_mount_options_set_trace(s.c, text) })
}

// WithCacheTrust resumes a cache though its backend has no identity to compare; of a seeder or leecher, the record of who
// has the region is kept in this process where it cannot be written beside the region.
func WithCacheTrust() interface {
	MountOption
	SeedOption
} {
	return cacheTrust{}
}

// WithPrepare attaches a view of a leecher before the region is here, so that attaching is no part of the pause.
func WithPrepare(view View) MountOption {
	return mountOption(func(s *mountSettings) { C.r3map_mount_options_set_prepare(s.c, C.uint32_t(view)) })
}

// WithOverwrite lets a leecher take a local file though something else is in it, which is lost then.
func WithOverwrite() MountOption {
	return mountOption(func(s *mountSettings) { C.r3map_mount_options_set_overwrite(s.c, true) })
}

// WithAllowLegacy gives a region also to leechers of the Go library r3map (github.com/pojntfx/r3map), over gRPC at the same
// address, and lets a leecher take one from a seeder of it, by a grpc:// URL. That protocol knows neither sessions nor votes
// nor fencing, as docs/interop.md says.
func WithAllowLegacy() interface {
	MountOption
	SeedOption
} {
	return allowLegacy{}
}

// WithName is the name in the URL of a seeder that listens by itself: 1 to 255 bytes. "region" by default.
func WithName(name string) SeedOption {
	return seedOption(func(s *seedSettings) {
		s.text("name", name, func(name *C.char) { C.r3map_seed_options_set_name(s.c, name) })
	})
}

// WithSuspendDeadline sets how long the app may take to stop writing when it is asked to, before the leecher is refused;
// 0 is for ever. 30 s by default.
func WithSuspendDeadline(deadline time.Duration) SeedOption {
	return seedOption(func(s *seedSettings) {
		s.milliseconds("suspend_deadline", deadline, func(value C.uint64_t) {
			C.r3map_seed_options_set_suspend_deadline(s.c, value)
		})
	})
}

// WithChunkSize sets the unit of transfer in bytes: a power of two, 4 KiB to 32 MiB. The backend's by default.
func WithChunkSize(bytes int64) MountOption {
	return mountNumber("chunk_size", bytes, func(s *mountSettings, bytes C.uint64_t) {
		C.r3map_mount_options_set_chunk_size(s.c, bytes)
	})
}

// WithPull says when pages of a managed mount are pulled.
func WithPull(pull Pull) MountOption {
	return mountOption(func(s *mountSettings) { C.r3map_mount_options_set_pull(s.c, C.uint32_t(pull)) })
}

// WithPullRange adds a range to pull first: of several, that of the highest priority.
func WithPullRange(offset, length int64, priority int32) MountOption {
	return mountOption(func(s *mountSettings) {
		if offset < 0 || length < 0 {
			s.fail(invalid("pull_range: %d bytes at %d: neither may be negative", length, offset))
			return
		}
		s.pullRange(offset, length, priority)
	})
}

// WithPullPriority pulls first what the function gives the highest priority. It is called while the mount opens, with
// the offset of each MiB, or of each of 4096 parts where the region is larger than 4 GiB; 0 is no priority.
func WithPullPriority(priority func(offset int64) int32) MountOption {
	return mountOption(func(s *mountSettings) {
		if priority == nil {
			s.fail(invalid("pull_priority: the function is nil"))
		}
		s.priority = priority
	})
}

// WithPushInterval sets the time between pushes in the background; 0 pushes only at sync and close. 1 s by default.
func WithPushInterval(interval time.Duration) MountOption {
	return mountTime("push_interval", interval, func(s *mountSettings, interval C.uint64_t) {
		C.r3map_mount_options_set_push_interval(s.c, interval)
	})
}

// WithOffline opens the mount from its cache though the remote is away.
func WithOffline() MountOption {
	return mountOption(func(s *mountSettings) { C.r3map_mount_options_set_offline(s.c, true) })
}

// WithReadAhead sets how many bytes the kernel reads ahead on a block device or fuse, instead of the device's own choice.
func WithReadAhead(bytes int64) MountOption {
	return mountNumber("read_ahead", bytes, func(s *mountSettings, bytes C.uint64_t) {
		C.r3map_mount_options_set_read_ahead(s.c, bytes)
	})
}

// WithMaxInFlight sets how many bytes may be under way at once, instead of a window that adapts itself; for studies.
func WithMaxInFlight(bytes int64) MountOption {
	return mountNumber("max_in_flight", bytes, func(s *mountSettings, bytes C.uint64_t) {
		C.r3map_mount_options_set_max_in_flight(s.c, bytes)
	})
}

// WithOption sets the mount's option of that name from text, as the command does: ("chunk_size", "64KiB").
func WithOption(name, value string) MountOption {
	return mountText("name", name, func(s *mountSettings, name *C.char) {
		s.text("value", value, func(value *C.char) { C.r3map_mount_options_set(s.c, name, value) })
	})
}

// WithReadOnly refuses writes: of a mount, where a store to a slice is a fault then, or of an export's clients.
func WithReadOnly() interface {
	MountOption
	ExportOption
} {
	return readOnly{}
}

// WithDeadline sets how long each call that waits may take, or an operation of a server or seeder; 0 is for ever. 30 s by
// default.
func WithDeadline(deadline time.Duration) interface {
	MountOption
	ServeOption
	SeedOption
} {
	return deadlineOption(deadline)
}

// WithInsecure allows plain TCP to or from hosts that are not this one.
func WithInsecure() interface {
	BackendOption
	ServeOption
	SeedOption
} {
	return insecure{}
}

// WithTLSCert names the certificate of this client or server, a PEM file.
func WithTLSCert(path string) CredentialOption {
	return credential{"tls_cert", path, func(s *backendSettings, text *C.char) { C.r3map_backend_options_set_tls_cert(s.c, text) }}
}

// WithTLSKey names the private key of this client or server, a PEM file.
func WithTLSKey(path string) CredentialOption {
	return credential{"tls_key", path, func(s *backendSettings, text *C.char) { C.r3map_backend_options_set_tls_key(s.c, text) }}
}

// WithTLSCA names the authorities that may vouch for the other side, a PEM file.
func WithTLSCA(path string) CredentialOption {
	return credential{"tls_ca", path, func(s *backendSettings, text *C.char) { C.r3map_backend_options_set_tls_ca(s.c, text) }}
}

// WithTokenFile names a file of tokens by which a server or seeder knows clients: lines of name:token.
func WithTokenFile(path string) interface {
	ServeOption
	SeedOption
} {
	return credential{name: "token_file", value: path}
}

// WithState names the directory in which a server or seeder keeps the certificate and token that it makes where it listens
// beyond this host and was given neither.
func WithState(directory string) interface {
	ServeOption
	SeedOption
} {
	return credential{name: "state", value: directory}
}

// WithAllow lets clients of these names use an export or take a region, and nobody else: names of tokens, or DNS names in
// certificates.
func WithAllow(names ...string) interface {
	ExportOption
	SeedOption
} {
	return allow(names)
}

// WithTLSPin gives the SHA-256 of the server's public key, in hexadecimal.
func WithTLSPin(pin string) BackendOption {
	return backendText("tls_pin", pin, func(s *backendSettings, text *C.char) { C.r3map_backend_options_set_tls_pin(s.c, text) })
}

// WithToken gives the secret by which the server knows this client, or this server its client. It stands in no error, log
// or figure.
func WithToken(token string) CredentialOption {
	return credential{"token", token, func(s *backendSettings, text *C.char) { C.r3map_backend_options_set_token(s.c, text) }}
}

// WithMaxConnections sets how many connections a server has at most; more are refused [ErrBusy]. 1024 by default.
func WithMaxConnections(most int) ServeOption {
	return serveOption(func(s *serveSettings) {
		if most < 0 || most > math.MaxUint32 {
			s.fail(invalid("max_connections: %d is no number of connections", most))
			return
		}
		C.r3map_server_options_set_max_connections(s.c, C.uint32_t(most))
	})
}

// WithProtocol says what a server speaks: "r3map" (the default), "nbd" for clients of all kinds, or "grpc" as the Go
// library github.com/pojntfx/r3map does.
func WithProtocol(name string) ServeOption {
	return serveOption(func(s *serveSettings) {
		s.text("protocol", name, func(text *C.char) { C.r3map_server_options_set_protocol(s.c, text) })
	})
}

// WithCompression says whether what is read and written travels packed over r3map's own protocol: "auto" (the default), where
// both sides can, the peer is on another host, and the network is slower than packing; "off"; or "lz4" or "zstd", however
// fast the network is. A client that wants more of it than its server is given more, unless it is off there.
func WithCompression(how string) interface {
	BackendOption
	ServeOption
} {
	return compression(how)
}

// What options of one noun are collected in, with the first that could not be taken.
type settings struct{ err error }

func (s *settings) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// Hands a text to C, which copies it.
func (s *settings) text(name, value string, use func(*C.char)) {
	if strings.IndexByte(value, 0) >= 0 {
		s.fail(invalid("%s: it holds a NUL byte", name))
		return
	}
	text := C.CString(value)
	defer C.free(unsafe.Pointer(text))
	use(text)
}

func (s *settings) milliseconds(name string, value time.Duration, use func(C.uint64_t)) {
	if value < 0 {
		s.fail(invalid("%s: %v is negative", name, value))
		return
	}
	// Rounded up: a short time must not become none, which is for ever.
	whole := value / time.Millisecond
	if value%time.Millisecond > 0 {
		whole++
	}
	use(C.uint64_t(whole))
}

type backendSettings struct {
	settings
	c *C.r3map_backend_options
}

// The options of a backend, to be freed.
func newBackendSettings(options []BackendOption) *backendSettings {
	s := &backendSettings{c: C.r3map_backend_options_new()}
	for _, option := range options {
		if option == nil {
			s.fail(invalid("an option is nil"))
			continue
		}
		option.applyBackend(s)
	}
	return s
}

func (s *backendSettings) free() { C.r3map_backend_options_free(s.c) }

type mountSettings struct {
	settings
	c        *C.r3map_mount_options
	backend  *backendSettings
	priority func(offset int64) int32
}

// The options of a mount and of the backend opened for it, to be freed.
func newMountSettings(options []MountOption) *mountSettings {
	s := &mountSettings{c: C.r3map_mount_options_new(), backend: newBackendSettings(nil)}
	for _, option := range options {
		if option == nil {
			s.fail(invalid("an option is nil"))
			continue
		}
		option.applyMount(s)
	}
	s.fail(s.backend.err)
	return s
}

func (s *mountSettings) free() {
	C.r3map_mount_options_free(s.c)
	s.backend.free()
}

func (s *mountSettings) pullRange(offset, length int64, priority int32) {
	C.r3map_mount_options_add_pull_range(s.c, C.uint64_t(offset), C.uint64_t(length), C.int32_t(priority))
}

// Asks the priority function for the parts of a region of that size; equal neighbours are one range.
func (s *mountSettings) prioritize(size int64) {
	if s.priority == nil || size <= 0 {
		return
	}
	part := max(int64(1)<<20, (size-1)/4096+1)
	start, current := int64(0), s.priority(0)
	for offset := int64(0); offset < size; {
		// Counted by what is left, which cannot overflow.
		next := size
		if size-offset > part {
			next = offset + part
		}
		priority := int32(0)
		if next < size {
			priority = s.priority(next)
		}
		if next == size || priority != current {
			if current != 0 {
				s.pullRange(start, next-start, current)
			}
			start, current = next, priority
		}
		offset = next
	}
}

type serveSettings struct {
	settings
	c *C.r3map_server_options
}

type exportSettings struct {
	settings
	c *C.r3map_export_options
}

type seedSettings struct {
	settings
	c *C.r3map_seed_options
}

// The options of a seeder, to be freed.
func newSeedSettings(options []SeedOption) *seedSettings {
	s := &seedSettings{c: C.r3map_seed_options_new()}
	for _, option := range options {
		if option == nil {
			s.fail(invalid("an option is nil"))
			continue
		}
		option.applySeed(s)
	}
	return s
}

func (s *seedSettings) free() { C.r3map_seed_options_free(s.c) }

type mountOption func(*mountSettings)

func (o mountOption) applyMount(s *mountSettings) { o(s) }

func mountText(name, value string, use func(*mountSettings, *C.char)) MountOption {
	return mountOption(func(s *mountSettings) { s.text(name, value, func(text *C.char) { use(s, text) }) })
}

func mountNumber(name string, value int64, use func(*mountSettings, C.uint64_t)) MountOption {
	return mountOption(func(s *mountSettings) {
		if value < 0 {
			s.fail(invalid("%s: %d is negative", name, value))
			return
		}
		use(s, C.uint64_t(value))
	})
}

func mountTime(name string, value time.Duration, use func(*mountSettings, C.uint64_t)) MountOption {
	return mountOption(func(s *mountSettings) {
		s.milliseconds(name, value, func(value C.uint64_t) { use(s, value) })
	})
}

type backendOption func(*backendSettings)

func (o backendOption) applyBackend(s *backendSettings) { o(s) }
func (o backendOption) applyMount(s *mountSettings)     { o(s.backend) }

func backendText(name, value string, use func(*backendSettings, *C.char)) BackendOption {
	return backendOption(func(s *backendSettings) { s.text(name, value, func(text *C.char) { use(s, text) }) })
}

// An option by which one side proves to the other who it is, and how it is set for a backend, where it can be.
type credential struct {
	name, value string
	use         func(*backendSettings, *C.char)
}

func (o credential) applyBackend(s *backendSettings) {
	s.text(o.name, o.value, func(text *C.char) { o.use(s, text) })
}

func (o credential) applyMount(s *mountSettings) { o.applyBackend(s.backend) }

func (o credential) named(s *settings, set func(name, value *C.char)) {
	s.text("the name", o.name, func(name *C.char) {
		s.text(o.name, o.value, func(value *C.char) { set(name, value) })
	})
}

func (o credential) applyServe(s *serveSettings) {
	o.named(&s.settings, func(name, value *C.char) { C.r3map_server_options_set(s.c, name, value) })
}

func (o credential) applySeed(s *seedSettings) {
	o.named(&s.settings, func(name, value *C.char) { C.r3map_seed_options_set(s.c, name, value) })
}

type allow []string

func (o allow) applyExport(s *exportSettings) {
	for _, name := range o {
		s.text("allow", name, func(name *C.char) { C.r3map_export_options_add_allow(s.c, name) })
	}
}

func (o allow) applySeed(s *seedSettings) {
	for _, name := range o {
		s.text("allow", name, func(name *C.char) { C.r3map_seed_options_add_allow(s.c, name) })
	}
}

type serveOption func(*serveSettings)

func (o serveOption) applyServe(s *serveSettings) { o(s) }

type seedOption func(*seedSettings)

func (o seedOption) applySeed(s *seedSettings) { o(s) }

type cacheTrust struct{}

func (cacheTrust) applyMount(s *mountSettings) { C.r3map_mount_options_set_cache_trust(s.c, true) }
func (cacheTrust) applySeed(s *seedSettings)   { C.r3map_seed_options_set_cache_trust(s.c, true) }

type allowLegacy struct{}

func (allowLegacy) applyMount(s *mountSettings) { C.r3map_mount_options_set_allow_legacy(s.c, true) }
func (allowLegacy) applySeed(s *seedSettings)   { C.r3map_seed_options_set_allow_legacy(s.c, true) }

type readOnly struct{}

func (readOnly) applyMount(s *mountSettings)   { C.r3map_mount_options_set_read_only(s.c, true) }
func (readOnly) applyExport(s *exportSettings) { C.r3map_export_options_set_read_only(s.c, true) }

type deadlineOption time.Duration

func (o deadlineOption) applyMount(s *mountSettings) {
	s.milliseconds("deadline", time.Duration(o), func(value C.uint64_t) { C.r3map_mount_options_set_deadline(s.c, value) })
}

func (o deadlineOption) applyServe(s *serveSettings) {
	s.milliseconds("deadline", time.Duration(o), func(value C.uint64_t) { C.r3map_server_options_set_deadline(s.c, value) })
}

func (o deadlineOption) applySeed(s *seedSettings) {
	s.milliseconds("deadline", time.Duration(o), func(value C.uint64_t) { C.r3map_seed_options_set_deadline(s.c, value) })
}

type compression string

func (o compression) applyBackend(s *backendSettings) {
	s.text("compression", string(o), func(text *C.char) { C.r3map_backend_options_set_compression(s.c, text) })
}

func (o compression) applyMount(s *mountSettings) { o.applyBackend(s.backend) }

func (o compression) applyServe(s *serveSettings) {
	s.text("compression", string(o), func(text *C.char) { C.r3map_server_options_set_compression(s.c, text) })
}

type insecure struct{}

func (insecure) applyBackend(s *backendSettings) { C.r3map_backend_options_set_insecure(s.c, true) }
func (o insecure) applyMount(s *mountSettings)   { o.applyBackend(s.backend) }
func (insecure) applyServe(s *serveSettings)     { C.r3map_server_options_set_insecure(s.c, true) }
func (insecure) applySeed(s *seedSettings)       { C.r3map_seed_options_set_insecure(s.c, true) }
