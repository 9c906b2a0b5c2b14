//! `r3map doctor`: what this kernel and user can do, and what would enable the rest.

use clap::Args;
use r3map_core::device::{Kind, View};
use r3map_core::{Error, Result};
use serde_json::{Value, json};

use crate::print;
use crate::progress::Progress;

/// Say for each device whether it works here, and the command that would enable it
#[derive(Args)]
pub struct Doctor {}

impl Doctor {
    /// Probes every device and prints what was found.
    pub fn run(self, progress: &Progress) -> Result<()> {
        let release = "/proc/sys/kernel/osrelease";
        let kernel = std::fs::read_to_string(release).map_err(|error| Error::io(format!("read {release}"), error))?;
        let (kernel, user) = (kernel.trim(), nix::unistd::geteuid());
        let findings: Vec<_> = Kind::ALL.into_iter().map(|kind| (kind, kind.probe())).collect();
        if progress.json {
            let devices: Vec<_> = findings.iter().map(|(kind, outcome)| as_json(*kind, outcome)).collect();
            let version = r3map_core::VERSION;
            return print(json!({"version": version, "kernel": kernel, "uid": user.as_raw(), "devices": devices}));
        }
        print(format_args!("r3map {} on Linux {kernel}, user id {user}", r3map_core::VERSION))?;
        for (kind, outcome) in &findings {
            match outcome {
                Ok(()) => print(format_args!("{:12} yes: gives a {}", kind.name(), views(*kind).join(", ")))?,
                Err(error) => {
                    print(format_args!("{:12} no:  {error}", kind.name()))?;
                    if let Some(command) = remedy(error) {
                        print(format_args!("{:12} to enable it: {command}", ""))?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn as_json(kind: Kind, outcome: &Result<()>) -> Value {
    let mut device = json!({"device": kind.name(), "usable": outcome.is_ok(), "views": views(kind)});
    if let Err(error) = outcome {
        device["code"] = error.code().name().into();
        device["reason"] = error.message().into();
        device["command"] = remedy(error).into();
    }
    device
}

fn views(kind: Kind) -> Vec<String> {
    View::ALL.into_iter().filter(|view| kind.gives(*view)).map(|view| view.to_string()).collect()
}

/// The one command that would enable a device: a probe's error quotes it, if there is one.
fn remedy(error: &Error) -> Option<&str> {
    error.message().split('`').skip(1).step_by(2).find(|quoted| quoted.contains(' '))
}

#[cfg(test)]
mod tests {
    use super::*;
    use r3map_core::Code;

    #[test]
    fn the_command_that_an_error_quotes_is_the_remedy() {
        let quoting = |message| remedy(&Error::new(Code::NoDevice, message)).map(str::to_owned);
        assert_eq!(quoting("no devices: `modprobe nbd` loads them").as_deref(), Some("modprobe nbd"));
        assert_eq!(quoting("all are in use: load more (`nbds_max=` of nbd)"), None);
        assert_eq!(quoting("this kernel is too old"), None);
    }
}
