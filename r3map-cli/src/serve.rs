//! `r3map serve`: backends offered to others by name.

use std::sync::Arc;

use clap::Args;
use r3map_core::options::parse_time;
use r3map_core::server::located;
use r3map_core::url::Location;
use r3map_core::{Backend, Code, Error, ExportOptions, Protocol, Result, Server, ServerOptions, backend};
use serde_json::json;

use crate::flags::{ServerFlags, parse_compression};
use crate::interrupts::Interrupts;
use crate::print;
use crate::progress::Progress;

/// Offer backends to others until Ctrl-C
///
/// Prints the URL of each export, as a client gives it, on standard output once it can be used. On Ctrl-C or
/// SIGTERM it answers what is under way, syncs and leaves.
///
/// Beyond this host it speaks TLS. Without certificates (`r3map keygen` makes them) or tokens it makes a certificate and
/// a token, keeps them for the next time, and prints the one line by which a client connects on standard error.
#[derive(Args)]
pub struct Serve {
    /// URL of the backend
    #[arg(required_unless_present = "export")]
    url: Option<String>,
    /// Name of the export [default: the end of the URL's path, or its scheme]
    #[arg(long, requires = "url")]
    name: Option<String>,
    /// Another export; may be repeated
    #[arg(long, value_name = "NAME=URL")]
    export: Vec<String>,
    /// HOST:PORT (port 0: one is chosen) or unix:/PATH; may be repeated
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7070")]
    listen: Vec<String>,
    /// What to speak: r3map, nbd for clients of all kinds, or grpc, frpc, panrpc as the Go library [default: r3map]
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<String>,
    /// Refuse writes
    #[arg(long)]
    read_only: bool,
    /// Connections at once; more are refused
    #[arg(long, value_name = "N")]
    max_connections: Option<usize>,
    /// Bound of each operation; 0 waits for ever [default: 30s]
    #[arg(long, value_name = "TIME")]
    deadline: Option<String>,
    /// auto, off, lz4 or zstd: whether bytes travel packed over r3map's own protocol [default: auto]
    #[arg(long, value_name = "HOW")]
    compression: Option<String>,
    #[command(flatten)]
    server: ServerFlags,
}

impl Serve {
    /// Serves until a signal comes.
    pub fn run(self, progress: &Progress) -> Result<()> {
        let mut options = ServerOptions {
            credentials: self.server.credentials(),
            insecure: self.server.insecure,
            compression: parse_compression(self.compression.as_deref())?,
            ..ServerOptions::default()
        };
        if let Some(protocol) = &self.protocol {
            options.protocol = protocol.parse::<Protocol>().map_err(|error| error.context("protocol"))?;
        }
        if let Some(most) = self.max_connections {
            options.max_connections = most;
        }
        if let Some(time) = &self.deadline {
            options.deadline = parse_time(time).map_err(|error| error.context("deadline"))?;
        }
        let exports = self.exports()?;
        let server = Server::new(options)?;
        for (name, backend) in &exports {
            let export = ExportOptions { read_only: self.read_only, allow: self.server.allow.clone() };
            server.export(name, backend.clone(), &export)?;
        }
        // From here on a signal must find the server closed: what was acknowledged is synced first.
        let interrupts = Interrupts::catch()?;
        for address in &self.listen {
            let address = server.listen(address)?;
            for (name, backend) in &exports {
                print(located(&address, name, backend.info().size))?;
            }
            let tells_all = |address: &str| address.starts_with("r3maps:") || address.starts_with("grpcs:");
            for (name, backend) in exports.iter().filter(|_| tells_all(&address)) {
                if let Some(line) = server.client_line(&located(&address, name, backend.info().size)) {
                    progress.note("client", json!({"line": line}), &format!("a client connects by: {line}"));
                }
            }
            progress.note("listening", json!({"address": address}), &format!("serving at {address}; Ctrl-C ends it"));
        }
        interrupts.wait();
        progress.note("closing", json!({}), "closing");
        server.close()?;
        exports.iter().try_for_each(|(_, backend)| backend.close())
    }

    /// Opens what is to be exported.
    fn exports(&self) -> Result<Vec<(String, Arc<dyn Backend>)>> {
        let mut exports = Vec::new();
        if let Some(url) = &self.url {
            let name = self.name.clone().map_or_else(|| default_name(url), Ok)?;
            exports.push((name, backend::open(url, &self.server.backend())?));
        }
        for export in &self.export {
            let Some((name, url)) = export.split_once('=') else {
                let message = format!("export: {export:?} is not NAME=URL");
                return Err(Error::new(Code::InvalidArgument, message));
            };
            exports.push((name.to_owned(), backend::open(url, &self.server.backend())?));
        }
        Ok(exports)
    }
}

fn default_name(url: &str) -> Result<String> {
    let location = Location::parse(url)?;
    let path = location.name()?;
    Ok(match path.trim_end_matches('/').rsplit('/').next() {
        Some(last) if !last.is_empty() => last.to_owned(),
        _ => location.scheme().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use r3map_core::server::named;

    #[test]
    fn an_export_is_named_after_the_end_of_its_path_or_its_scheme() {
        assert_eq!(default_name("file:///srv/my%20model.bin").unwrap(), "my model.bin");
        assert_eq!(default_name("memory:?size=1").unwrap(), "memory");
    }

    #[test]
    fn a_name_stands_encoded_in_the_url_that_a_client_gives() {
        assert_eq!(named("r3map://127.0.0.1:7070", "a/b c?ü"), "r3map://127.0.0.1:7070/a/b%20c%3F%C3%BC");
        assert_eq!(named("nbd+unix:///?socket=/x", "a b"), "nbd+unix:///a%20b?socket=/x");
        assert_eq!(located("grpc://127.0.0.1:1337", "a", 4096), "grpc://127.0.0.1:1337?size=4096");
        let url = named("r3map+unix:///run/x.sock", "a&b");
        assert_eq!(url, "r3map+unix:///run/x.sock?name=a%26b");
        assert_eq!(Location::parse(&url).unwrap().parameters(&["name"]).unwrap().get("name"), Some("a&b"));
    }
}
