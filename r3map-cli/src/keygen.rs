//! `r3map keygen`: an authority, and certificates of a server and of a client.

use std::path::PathBuf;

use clap::Args;
use r3map_core::{Result, tls};
use serde_json::json;

use crate::progress::Progress;

/// Make certificates for a server and a client, and the authority that vouches for both
///
/// Writes {ca,server,client}-{cert,key}.pem into DIR, where nbdkit and libnbd look for the same names. No file is
/// overwritten; an authority that is there already is used again, so that a certificate is renewed by moving the old
/// one away. The server needs ca-cert.pem, server-cert.pem and server-key.pem, a client ca-cert.pem, client-cert.pem
/// and client-key.pem; nobody needs ca-key.pem but the next keygen: keep it elsewhere.
#[derive(Args)]
pub struct Keygen {
    /// Directory, made where it is missing
    directory: PathBuf,
    /// Host name or address by which clients reach the server; may be repeated [default: this host's, and loopback]
    #[arg(long, value_name = "HOST")]
    name: Vec<String>,
    /// Name of the client, as an export's --allow has it
    #[arg(long, value_name = "NAME", default_value = "client")]
    client: String,
}

impl Keygen {
    /// Makes them.
    pub fn run(self, progress: &Progress) -> Result<()> {
        let names = if self.name.is_empty() { this_host() } else { self.name };
        tls::make::keygen(&self.directory, &names, &self.client)?;
        let text = format!(
            "certificates for the server {} and the client {} are in {}",
            names.join(", "),
            self.client,
            self.directory.display()
        );
        progress.note("made", json!({"directory": self.directory, "names": names, "client": self.client}), &text);
        Ok(())
    }
}

fn this_host() -> Vec<String> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let own = Some(host).filter(|host| !host.is_empty() && host != "(none)" && host != "localhost");
    own.into_iter().chain(["localhost", "127.0.0.1", "::1"].map(str::to_owned)).collect()
}
