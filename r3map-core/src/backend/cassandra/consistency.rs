//! How many replicas answer before a read or write counts, and whether the two then always meet.

use scylla::cluster::metadata::Strategy;
use scylla::statement::{Consistency, SerialConsistency};

use crate::error::{Code, Error, Result};
use crate::url::nearest;

/// A level of consistency, the same for reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    name: &'static str,
    pub consistency: Consistency,
}

const LEVELS: &[(&str, Consistency)] = &[
    ("quorum", Consistency::Quorum),
    ("local_quorum", Consistency::LocalQuorum),
    ("each_quorum", Consistency::EachQuorum),
    ("all", Consistency::All),
    ("one", Consistency::One),
    ("local_one", Consistency::LocalOne),
    ("two", Consistency::Two),
    ("three", Consistency::Three),
];

impl Level {
    /// The level of that name; the Go library's where none is given.
    pub fn named(name: Option<&str>) -> Result<Level> {
        let name = name.unwrap_or("quorum");
        let found = LEVELS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|&(name, consistency)| Level { name, consistency }).ok_or_else(|| {
            let known: Vec<&str> = LEVELS.iter().map(|(known, _)| *known).collect();
            let nearest = nearest(&name.to_ascii_lowercase(), &known, "");
            Error::new(Code::InvalidArgument, format!("consistency={name} is none of this store's{nearest}"))
        })
    }

    /// Whether only the replicas of one datacenter count.
    pub fn is_local(self) -> bool {
        matches!(self.consistency, Consistency::LocalQuorum | Consistency::LocalOne)
    }

    /// What decides between claims that compare.
    pub fn serial(self) -> SerialConsistency {
        if self.is_local() { SerialConsistency::LocalSerial } else { SerialConsistency::Serial }
    }

    /// How what they decided is read.
    pub fn looking(self) -> Consistency {
        if self.is_local() { Consistency::LocalSerial } else { Consistency::Serial }
    }

    /// How many replicas acknowledge a write under this replication. An error where a read may then miss a write that
    /// was acknowledged: it would show older bytes, or zeros.
    pub fn acknowledgements(self, strategy: &Strategy, datacenter: Option<&str>) -> Result<usize> {
        let (all, local, quorums) = match strategy {
            Strategy::SimpleStrategy { replication_factor: all } => (*all, *all, all / 2 + 1),
            Strategy::NetworkTopologyStrategy { datacenter_repfactors: factors } => {
                let local = match datacenter {
                    Some(name) => factors.get(name).copied(),
                    None if factors.len() == 1 => factors.values().next().copied(),
                    None => None,
                };
                if local.is_none() && (self.is_local() || datacenter.is_some()) {
                    let mut known: Vec<&str> = factors.keys().map(String::as_str).collect();
                    known.sort_unstable();
                    let message = format!(
                        "consistency={} needs the datacenter whose replicas count: datacenter= one of {}",
                        self.name,
                        known.join(" ")
                    );
                    return Err(Error::new(Code::InvalidArgument, message));
                }
                let quorums = factors.values().map(|factor| factor / 2 + 1).sum();
                (factors.values().sum(), local.unwrap_or(0), quorums)
            }
            // Of one node, or of a kind that says nothing of itself.
            _ => return Ok(1),
        };
        let (answering, of) = match self.consistency {
            Consistency::One => (1, all),
            Consistency::Two => (2, all),
            Consistency::Three => (3, all),
            Consistency::LocalOne => (1, local),
            Consistency::LocalQuorum => (local / 2 + 1, local),
            Consistency::All => (all, all),
            Consistency::EachQuorum => (quorums, all),
            _ => (all / 2 + 1, all),
        };
        if answering * 2 <= of {
            let message = format!(
                "with consistency={} a read may miss what was written, since {answering} of {of} replicas answer: \
                 quorum is the least that never does",
                self.name
            );
            return Err(Error::new(Code::Unsupported, message));
        }
        Ok(answering)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledgements(level: &str, factors: &[usize], datacenter: Option<&str>) -> std::result::Result<usize, Code> {
        let strategy = match factors {
            [factor] => Strategy::SimpleStrategy { replication_factor: *factor },
            _ => Strategy::NetworkTopologyStrategy {
                datacenter_repfactors: ["east", "west"].map(str::to_owned).into_iter().zip(factors.to_vec()).collect(),
            },
        };
        Level::named(Some(level)).unwrap().acknowledgements(&strategy, datacenter).map_err(|error| error.code())
    }

    #[test]
    fn a_level_at_which_reads_may_miss_writes_is_refused() {
        assert_eq!(acknowledgements("quorum", &[3], None), Ok(2));
        assert_eq!(acknowledgements("ALL", &[3], None), Ok(3));
        assert_eq!(acknowledgements("one", &[1], None), Ok(1));
        assert_eq!(acknowledgements("two", &[3], None), Ok(2));
        for (level, factor) in [("one", 2), ("one", 3), ("two", 4), ("local_one", 3)] {
            assert_eq!(acknowledgements(level, &[factor], None), Err(Code::Unsupported), "{level} of {factor}");
        }
    }

    #[test]
    fn levels_of_a_datacenter_want_to_know_which() {
        assert_eq!(acknowledgements("quorum", &[3, 3], None), Ok(4));
        assert_eq!(acknowledgements("each_quorum", &[3, 5], None), Ok(5));
        assert_eq!(acknowledgements("local_quorum", &[3, 5], Some("west")), Ok(3));
        assert_eq!(acknowledgements("local_quorum", &[3, 5], None), Err(Code::InvalidArgument));
        assert_eq!(acknowledgements("local_quorum", &[3, 5], Some("north")), Err(Code::InvalidArgument));
        assert_eq!(acknowledgements("local_one", &[1, 5], Some("east")), Ok(1));
    }
}
