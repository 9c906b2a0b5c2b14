package r3map

// #include <r3map.h>
import "C"

import (
	"context"
	"net"
	"sync"
)

// Server offers backends to others by name. It serves from threads of its own until it is closed.
type Server struct {
	handle handle
	c      *C.r3map_server
	mutex  sync.Mutex
	url    string
}

// Serve makes a server that listens at host:port (port 0: one is chosen) or unix:/path; "" listens nowhere, for
// [Server.Handle] alone. It offers nothing before [Server.Export].
func Serve(listen string, options ...ServeOption) (*Server, error) {
	settings := serveSettings{c: C.r3map_server_options_new()}
	defer C.r3map_server_options_free(settings.c)
	for _, option := range options {
		if option == nil {
			settings.fail(invalid("an option is nil"))
			continue
		}
		option.applyServe(&settings)
	}
	if settings.err != nil {
		return nil, settings.err
	}
	var c *C.r3map_server
	if err := take(C.r3map_server_new(settings.c, &c)); err != nil {
		return nil, err
	}
	s := &Server{c: c}
	s.handle.free = func() { C.r3map_server_free(c) }
	if listen != "" {
		if _, err := s.Listen(context.Background(), listen); err != nil {
			C.r3map_server_free(c)
			return nil, err
		}
	}
	return s, nil
}

func (s *Server) enter() error {
	if s == nil {
		return invalid("the server is nil")
	}
	if !s.handle.enter() {
		return s.handle.refused("server")
	}
	return nil
}

// Listen listens at one more address, and gives it as a client writes it in a URL: r3map://host:port or
// r3map+unix:///path.
func (s *Server) Listen(ctx context.Context, address string) (string, error) {
	if err := s.enter(); err != nil {
		return "", err
	}
	defer s.handle.leave()
	var url *C.char
	var texts settings
	texts.text("the address", address, func(address *C.char) {
		texts.err = wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
			return C.r3map_server_listen(s.c, address, cancel, &url)
		})
	})
	if texts.err != nil {
		return "", texts.err
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.url == "" {
		s.url = C.GoString(url)
	}
	return C.GoString(url), nil
}

// URL gives the address at which the server listened first, "" while it listens nowhere. A client adds /name to
// r3map://host:port and ?name=name to r3map+unix:///path.
func (s *Server) URL() string {
	if s == nil {
		return ""
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.url
}

// ClientLine gives the command by which a client shows the export at a URL, where the server made a certificate and a token
// by itself; "" where it did not. It holds the token, a secret.
func (s *Server) ClientLine(url string) (string, error) {
	if err := s.enter(); err != nil {
		return "", err
	}
	defer s.handle.leave()
	var line *C.char
	var texts settings
	texts.text("the URL", url, func(url *C.char) { texts.fail(take(C.r3map_server_client_line(s.c, url, &line))) })
	if texts.err != nil {
		return "", texts.err
	}
	return C.GoString(line), nil
}

// Export offers a backend under a name: 1 to 255 bytes of UTF-8, a key and never a path. The server keeps a reference of
// its own to the backend. A mount is exported by its [Mount.Backend].
func (s *Server) Export(name string, backend Backend, options ...ExportOption) error {
	settings := exportSettings{c: C.r3map_export_options_new()}
	defer C.r3map_export_options_free(settings.c)
	for _, option := range options {
		if option == nil {
			settings.fail(invalid("an option is nil"))
			continue
		}
		option.applyExport(&settings)
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer s.handle.leave()
	if settings.err != nil {
		return settings.err
	}
	c, done, err := nativeOf(backend)
	if err != nil {
		return err
	}
	defer done()
	settings.text("the name", name, func(name *C.char) {
		settings.fail(take(C.r3map_server_export(s.c, name, c, settings.c)))
	})
	return settings.err
}

// Handle serves one connected stream socket, TCP or UNIX, which is the server's from success on.
func (s *Server) Handle(conn net.Conn) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.handle.leave()
	return withDescriptor(conn, func(descriptor C.int) error { return take(C.r3map_server_handle(s.c, descriptor)) })
}

// Close takes no more requests, answers those under way, syncs what was acknowledged, and ends every connection.
func (s *Server) Close() error { return s.CloseContext(context.Background()) }

// CloseContext is Close which ends when the context does; the close goes on by itself then.
func (s *Server) CloseContext(ctx context.Context) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.handle.leave()
	err := wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error { return C.r3map_server_close(s.c, cancel) })
	if err == nil {
		s.handle.close()
	}
	return err
}
