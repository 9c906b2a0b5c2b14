//! Backends offered to others.

use std::sync::{Arc, Mutex};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use r3map_core::Server as Core;

use crate::backend::{Source, descriptor, give_away};
use crate::ending::detached;
use crate::error::while_handling;
use crate::mount::Mount;
use crate::options::{self, check_none_for_backend, raised, word};
use crate::owned::Owned;
use crate::seeder::{Group, Seeder};
use crate::wait::wait_apart;

/// A server of any number of exports on any number of addresses. It serves from threads of the library, so nothing of
/// Python runs but the methods of backends written in Python. Leaving a `with` closes it.
#[pyclass(frozen, module = "r3map")]
pub struct Server {
    server: Owned<Arc<Core>>,
    /// Where it listens, as a client writes it; the first is `url`.
    addresses: Mutex<Vec<String>>,
    closed: Mutex<bool>,
}

impl Server {
    fn core(&self, py: Python<'_>) -> PyResult<Arc<Core>> {
        Ok(raised(py, self.server.get("server"))?.clone())
    }

    fn address(&self) -> Option<String> {
        self.addresses.lock().unwrap_or_else(|e| e.into_inner()).first().cloned()
    }
}

/// serve(listen=None, /, **options)
/// --
///
/// A server that listens at `host:port` (port 0: one is chosen) or `unix:/path`, or nowhere yet. Options: `deadline` in
/// seconds, `max_connections`, what TLS needs (`tls_cert`, `tls_key`, `tls_ca`, `token`, `token_file`, `state`), and
/// `insecure`, which allows plain TCP off loopback.
#[pyfunction]
#[pyo3(signature = (listen=None, /, **options))]
pub fn serve(
    py: Python<'_>,
    listen: Option<&Bound<'_, PyAny>>,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<Server> {
    let server = raised(py, Core::new(options::server(py, options)?))?;
    let server = Server { server: Owned::new(Arc::new(server)), addresses: Mutex::default(), closed: Mutex::default() };
    if let Some(listen) = listen {
        server.listen(py, listen)?;
    }
    Ok(server)
}

#[pymethods]
impl Server {
    /// Where it listens first, as a client writes it before an export's name: `r3map://host:port` or
    /// `r3map+unix:///path`.
    #[getter]
    fn url(&self) -> Option<String> {
        self.address()
    }

    /// Listens at one more address and gives it as a client writes it.
    fn listen(&self, py: Python<'_>, address: &Bound<'_, PyAny>) -> PyResult<String> {
        let (server, address) = (self.core(py)?, word(address, "an address")?);
        let found = wait_apart(py, "listen", move || server.listen(&address))?;
        self.addresses.lock().unwrap_or_else(|e| e.into_inner()).push(found.clone());
        Ok(found)
    }

    /// The command by which a client shows the export at a URL, where the server made a certificate and a token by itself.
    /// It holds the token, a secret.
    fn client_line(&self, py: Python<'_>, url: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
        Ok(self.core(py)?.client_line(&word(url, "a URL")?))
    }

    /// Offers a backend under a name: a URL, a `Backend`, a `Mount` or an object of your own. Gives the URL by which a
    /// client opens it, where the server listens.
    #[pyo3(
        signature = (name, backend, /, *, read_only=false, allow=Vec::new(), **options),
        text_signature = "($self, name, backend, /, *, read_only=False, allow=(), **options)"
    )]
    fn export(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        backend: &Bound<'_, PyAny>,
        read_only: bool,
        allow: Vec<String>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Option<String>> {
        let (server, name) = (self.core(py)?, word(name, "a name")?);
        let source = Source::of(py, backend)?;
        let found = options::backend(py, options)?;
        if matches!(source, Source::Open(_)) {
            check_none_for_backend(py, options.is_some_and(|options| !options.is_empty()))?;
        }
        let url = self.address().map(|address| r3map_core::server::named(&address, &name));
        wait_apart(py, "export", move || {
            server.export(&name, source.open(&found)?, &options::export(read_only, allow))
        })?;
        Ok(url)
    }

    /// Makes a mount, or a `Group` of them as one, a region that a leecher may take under a name of this server. The
    /// options are those of `r3map.SeedOptions`, but for what concerns listening.
    #[pyo3(signature = (name, mount, /, **options))]
    fn seed<'py>(
        &self,
        py: Python<'py>,
        name: &Bound<'py, PyAny>,
        mount: &Bound<'py, PyAny>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, Seeder>> {
        let (server, name) = (self.core(py)?, word(name, "a name")?);
        let (options, callbacks) = options::seed(py, options)?;
        if let Ok(group) = mount.cast::<Group>() {
            let group = raised(py, group.get().core())?;
            return Seeder::start(py, callbacks, move || server.seed_group(&name, &group, &options));
        }
        let mount = raised(py, mount.cast::<Mount>()?.get().core())?.clone();
        Seeder::start(py, callbacks, move || server.seed(&name, &mount, &options))
    }

    /// Serves one connected stream socket: a `socket.socket` or a descriptor, which is the library's, and closed here,
    /// once this has returned.
    fn handle(&self, py: Python<'_>, connection: &Bound<'_, PyAny>) -> PyResult<()> {
        let server = self.core(py)?;
        let own = descriptor(py, connection)?;
        raised(py, detached(py, || server.handle(own)))?;
        give_away(connection)
    }

    /// Takes no more requests, answers those under way, syncs what was acknowledged and ends every connection.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let server = self.core(py)?;
        let outcome = wait_apart(py, "close a server", move || Ok(server.close()))?;
        *self.closed.lock().unwrap_or_else(|e| e.into_inner()) = true;
        raised(py, outcome)
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*raised))]
    fn __exit__(&self, py: Python<'_>, raised: &Bound<'_, PyAny>) -> PyResult<()> {
        let closed = *self.closed.lock().unwrap_or_else(|e| e.into_inner());
        match closed {
            true => Ok(()),
            false => self.close(py).map_err(|failure| while_handling(py, failure, raised)),
        }
    }

    fn __repr__(&self) -> String {
        format!("<r3map.Server {}>", self.address().as_deref().unwrap_or("that listens nowhere"))
    }
}
