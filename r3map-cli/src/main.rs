//! The r3map command: one file a verb.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use r3map_core::{Error, Result};

use crate::progress::Output;

mod copy;
mod doctor;
mod flags;
mod info;
mod interrupts;
#[cfg(feature = "tls")]
mod keygen;
mod leech;
mod log;
mod mount;
mod place;
mod progress;
mod seed;
mod serve;
mod watch;

/// Remote mmap: bytes that live elsewhere as a path, a file or memory of this host
#[derive(Parser)]
#[command(name = "r3map", version, max_term_width = 100, after_help = URLS)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    output: Output,
}

const URLS: &str = "\
URLs:
  memory:?size=1GiB              memory of this process, gone when it ends
  file:///PATH[?size=1GiB]       a file or block device of this host
  dir:///PATH[?chunk=64KiB&size=1GiB]
                                 a directory of chunks, one file each
  tape:///PATH[?chunk=64KiB&size=1GiB&index=/PATH]
                                 a tape drive, or a file that is written at its end alone
  r3map://HOST:PORT/NAME         an export of `r3map serve`, or what `r3map seed` printed
  r3map+unix:///SOCKET?name=NAME the same over a UNIX socket
  r3maps://HOST:PORT/NAME        the same by TLS: --tls-ca or --tls-pin says by what to know the server
  nbd://HOST:PORT/NAME           an export of any NBD server; nbds:// by TLS
  nbd+unix:///NAME?socket=SOCKET the same over a UNIX socket; nbds+unix:/// by TLS

Sizes are bytes or a number with KiB MiB GiB TiB, times seconds or a number with ms s m h.
R3MAP_LOG=info (or debug, trace, off) says more or less of what the library does.

Exit status: 0 done, 1 failed or a value refused, 2 an unknown command or flag.";

#[derive(Subcommand)]
enum Verb {
    Serve(serve::Serve),
    Mount(mount::Mount),
    Seed(seed::Seed),
    Leech(leech::Leech),
    Copy(copy::Copy),
    Info(info::Info),
    Doctor(doctor::Doctor),
    #[cfg(feature = "tls")]
    Keygen(keygen::Keygen),
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Man {
        /// An existing directory
        directory: PathBuf,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let progress = cli.output.progress();
    let outcome = log::reported(&progress, || match cli.verb {
        Verb::Serve(verb) => verb.run(&progress).map(|()| ExitCode::SUCCESS),
        Verb::Mount(verb) => verb.run(&progress),
        Verb::Seed(verb) => verb.run(&progress).map(|()| ExitCode::SUCCESS),
        Verb::Leech(verb) => verb.run(&progress),
        Verb::Copy(verb) => verb.run(&progress).map(|()| ExitCode::SUCCESS),
        Verb::Info(verb) => verb.run(&progress).map(|()| ExitCode::SUCCESS),
        Verb::Doctor(verb) => verb.run(&progress).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "tls")]
        Verb::Keygen(verb) => verb.run(&progress).map(|()| ExitCode::SUCCESS),
        Verb::Man { directory } => manual(directory).map(|()| ExitCode::SUCCESS),
    });
    outcome.unwrap_or_else(|error| {
        progress.fail(&error);
        ExitCode::FAILURE
    })
}

/// Writes a line on standard output at once, so that a program that reads it can go on.
fn print(line: impl std::fmt::Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| Error::io("write to standard output", error))
}

fn manual(directory: PathBuf) -> Result<()> {
    let what = format!("write manual pages into {}", directory.display());
    clap_mangen::generate_to(Cli::command(), directory).map_err(|error| Error::io(what, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }
}
