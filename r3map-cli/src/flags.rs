//! The options of mounts and backends as flags, made from their names so that none is listed twice.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use r3map_core::{BackendOptions, MountOptions, Result};

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
    /// Allow plain TCP to a host that is not this one
    #[arg(long)]
    pub insecure: bool,
}

impl BackendFlags {
    /// The options that were given.
    pub fn options(&self) -> BackendOptions {
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
