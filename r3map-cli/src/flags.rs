//! The options of mounts and backends as flags, made from their names so that none is listed twice.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use r3map_core::{BackendOptions, Compression, Credentials, Error, MountOptions, Result};

/// An option that [`MountOptions::set`] takes by name.
struct Flag {
    name: &'static str,
    /// What stands for its value in the help; empty for a yes or no.
    value: &'static str,
    help: &'static str,
}

const fn flag(name: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag { name, value, help }
}

const FLAGS: &[Flag] = &[
    flag("mode", "MODE", "auto, direct (every access goes to the backend) or managed (a local cache)"),
    flag("device", "DEVICE", "auto, nbd, nbd:/dev/nbdN, userfaultfd or fuse: how the kernel shows it"),
    flag("read_only", "", "Refuse writes"),
    flag("cache", "URL", "Local backend that keeps pulled chunks [default: memory]"),
    flag("cache_trust", "", "Resume a cache that has no identity to compare"),
    flag("chunk_size", "SIZE", "Unit of transfer, 4KiB to 32MiB [default: the backend's]"),
    flag("pull", "WHEN", "background or demand"),
    flag("pull_range", "OFFSET,LENGTH[,PRIORITY]", "What to pull first; may be repeated"),
    flag("trace", "FILE", "Pull in the order that --trace-save kept in this file"),
    flag("push_interval", "TIME", "Between background pushes; 0 pushes only at sync and close [default: 1s]"),
    flag("offline", "", "Open from the cache though the remote is away"),
    flag("read_ahead", "SIZE", "Read-ahead of the kernel, or auto [default: auto]"),
    flag("max_in_flight", "SIZE", "Bytes under way at once [default: adaptive]"),
    flag("deadline", "TIME", "Bound of each operation; 0 waits for ever [default: 30s]"),
];

/// Every option of a mount.
pub struct MountFlags(Vec<(&'static str, String)>);

impl MountFlags {
    /// The options that were given; a value that is wrong is an error that says so.
    pub fn options(&self) -> Result<MountOptions> {
        let mut options = MountOptions::default();
        for (name, value) in &self.0 {
            options.set(name, value)?;
        }
        Ok(options)
    }
}

impl Args for MountFlags {
    fn augment_args(command: Command) -> Command {
        command.args(FLAGS.iter().map(|flag| {
            let arg = Arg::new(flag.name)
                .long(flag.name.replace('_', "-"))
                .help(flag.help)
                .help_heading("Options of the mount");
            match flag.value {
                "" => arg.value_name("BOOL").num_args(0..=1).require_equals(true).default_missing_value("true"),
                value if flag.name == "pull_range" => arg.value_name(value).action(ArgAction::Append),
                value => arg.value_name(value),
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for MountFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = FLAGS.iter().flat_map(|flag| {
            let values = matches.get_many::<String>(flag.name).unwrap_or_default();
            values.map(|value| (flag.name, value.clone()))
        });
        Ok(MountFlags(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Every option of a backend.
#[derive(Args)]
pub struct BackendFlags {
    /// Certificate of this client, a PEM file
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its private key, a PEM file
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Authorities that may vouch for the server, a PEM file
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// SHA-256 of the server's public key, as it printed it
    #[arg(long, value_name = "HEX")]
    tls_pin: Option<String>,
    /// File of the token by which the server knows this client [default: the environment's R3MAP_TOKEN]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Allow plain TCP to a host that is not this one
    #[arg(long)]
    insecure: bool,
    /// auto, off, lz4 or zstd: whether bytes travel packed over r3map's own protocol [default: auto]
    #[arg(long, value_name = "HOW")]
    compression: Option<String>,
}

impl BackendFlags {
    /// The options that were given, for these URLs. A token that just lies in the environment is for those that can
    /// take one.
    pub fn options(&self, urls: &[&str]) -> Result<BackendOptions> {
        let takes_tokens = urls.iter().any(|url| url.starts_with("r3maps:") || url.starts_with("grpcs:"));
        let token = match &self.token_file {
            Some(path) => Some(token_in(path)?),
            None if takes_tokens => std::env::var("R3MAP_TOKEN").ok().filter(|token| !token.is_empty()),
            None => None,
        };
        Ok(BackendOptions {
            tls_cert: self.tls_cert.clone(),
            tls_key: self.tls_key.clone(),
            tls_ca: self.tls_ca.clone(),
            tls_pin: self.tls_pin.clone(),
            token: token.map(Into::into),
            insecure: self.insecure,
            compression: parse_compression(self.compression.as_deref())?,
        })
    }
}

/// What `--compression` says, if anything.
pub fn parse_compression(word: Option<&str>) -> Result<Compression> {
    word.map_or(Ok(Compression::default()), |word| word.parse().map_err(|error: Error| error.context("compression")))
}

/// The first line of a file, without the name that it has in the file of a server.
fn token_in(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| Error::io(format!("token_file: read {}", path.display()), error))?;
    let line = text.lines().next().unwrap_or_default().trim();
    Ok(line.split_once(':').map_or(line, |(_, token)| token).to_owned())
}

/// Every option by which a server proves who it is and knows its clients.
#[derive(Args)]
pub struct ServerFlags {
    /// Certificate of this server, a PEM file: what it serves by TCP is TLS then
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its private key, a PEM file
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Authorities that may vouch for clients, a PEM file
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// File of tokens by which clients are known, lines of NAME:TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Directory of what is made where none of these is given [default: r3map in the user's state directory]
    #[arg(long, value_name = "DIRECTORY")]
    state: Option<PathBuf>,
    /// For whom it is: the name of a certificate or token; may be repeated [default: all who are known]
    #[arg(long, value_name = "NAME")]
    pub allow: Vec<String>,
    /// Allow plain TCP on and to a host that is not this one
    #[arg(long)]
    pub insecure: bool,
}

impl ServerFlags {
    /// What was given.
    pub fn credentials(&self) -> Credentials {
        Credentials {
            tls_cert: self.tls_cert.clone(),
            tls_key: self.tls_key.clone(),
            tls_ca: self.tls_ca.clone(),
            token: None,
            token_file: self.token_file.clone(),
            state: self.state.clone(),
        }
    }

    /// Options of the backend that is served.
    pub fn backend(&self) -> BackendOptions {
        BackendOptions { insecure: self.insecure, ..BackendOptions::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_of_a_mount_is_a_flag_of_the_same_name() {
        let flags: Vec<_> = FLAGS.iter().map(|flag| flag.name).collect();
        assert_eq!(flags, MountOptions::NAMES);
    }

    #[test]
    fn flags_reach_the_options() {
        let command = MountFlags::augment_args(Command::new("mount"));
        let given = ["mount", "--read-only", "--device=fuse", "--pull-range", "0,1", "--pull-range=4KiB,2,3"];
        let matches = command.clone().try_get_matches_from(given).unwrap();
        let options = MountFlags::from_arg_matches(&matches).unwrap().options().unwrap();
        assert!(options.read_only);
        assert_eq!(options.device, "fuse".parse().unwrap());
        assert_eq!(options.pull_ranges.len(), 2);
        let matches = command.try_get_matches_from(["mount", "--deadline", "soon"]).unwrap();
        let error = MountFlags::from_arg_matches(&matches).unwrap().options().unwrap_err();
        assert!(error.message().starts_with("deadline: \"soon\" is not a time"), "{error}");
    }
}
