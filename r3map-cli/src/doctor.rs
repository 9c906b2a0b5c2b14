//! `r3map doctor`: what this kernel and user can do, and what would enable the rest.

use clap::Args;
use r3map_core::device::Kind;
use r3map_core::{Code, Error, Result};
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
                    if let Some(command) = remedy(*kind, error.code(), user.is_root()) {
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
        device["command"] = remedy(kind, error.code(), nix::unistd::geteuid().is_root()).into();
    }
    device
}

fn views(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Nbd => &["path", "file", "slice"],
        Kind::Userfaultfd => &["slice"],
        Kind::Fuse => &["path", "file"],
    }
}

/// The one command that would enable a device; `None` where only another kernel would.
fn remedy(kind: Kind, code: Code, root: bool) -> Option<String> {
    let command = match (kind, code) {
        (_, Code::Unsupported) => return None,
        (Kind::Nbd, Code::PermissionDenied) if !root => "r3map mount …",
        (Kind::Nbd, _) => "modprobe nbd nbds_max=64",
        (Kind::Userfaultfd, Code::PermissionDenied) => "sysctl -w vm.unprivileged_userfaultfd=1",
        (Kind::Userfaultfd, _) => return None,
        (Kind::Fuse, Code::PermissionDenied) => "apt-get install fuse3",
        (Kind::Fuse, _) => "modprobe fuse",
    };
    Some(if root { command.to_owned() } else { format!("sudo {command}") })
}
