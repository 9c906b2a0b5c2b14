//! 932: what takes bytes from outside takes the corpus of its fuzzer, and what is like it, without harm.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use r3map_core::fuzzing::{Run, TARGETS};

/// Whether a thread panicked, whichever.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// Changed inputs for each function of bytes alone, and for each that begins a conversation.
const CHANGED: (usize, usize) = (2000, 20);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

/// The inputs of a target, in the order of their names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let place = folder().join("corpus").join(name);
    let entries = std::fs::read_dir(&place).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
    let paths: BTreeSet<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(!paths.is_empty(), "{name} has no corpus");
    paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Numbers that follow from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end.max(1)
    }

    /// An input like those of the corpus.
    fn changed(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.below(256) as u8),
                2 => {
                    let other = &corpus[self.below(corpus.len())];
                    let from = self.below(other.len() + 1);
                    bytes.splice(at.., other[from..].iter().copied());
                }
                kind => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte =
                            if kind == 3 { *byte ^ (1 << self.below(8)) } else { [0, 1, 0x7f, 0xff][self.below(4)] };
                    }
                }
            }
        }
        bytes
    }
}

fn take(name: &str, run: Run, bytes: &[u8]) {
    let taken = std::panic::catch_unwind(|| run(bytes));
    let panicked = PANICKED.swap(false, Ordering::SeqCst);
    assert!(taken.is_ok() && !panicked, "{name} does not take {:?}", bytes.escape_ascii().to_string());
}

#[test]
fn every_parser_has_a_fuzzer_and_takes_its_corpus_and_whatever_is_like_it() {
    every_parser_has_a_fuzzer_of_its_name();
    let seed = match std::env::var("R3MAP_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64 | 1,
    };
    eprintln!("again by R3MAP_SEED={seed}");
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |about| {
        PANICKED.store(true, Ordering::SeqCst);
        told(about);
    }));
    for (name, run) in TARGETS {
        let began = std::time::Instant::now();
        let corpus = corpus(name);
        corpus.iter().for_each(|bytes| take(name, *run, bytes));
        let mut random = Random(seed);
        let talks = ["server", "client", "seeder"].iter().any(|end| name.ends_with(end));
        for _ in 0..if talks { CHANGED.1 } else { CHANGED.0 } {
            take(name, *run, &random.changed(&corpus));
        }
        eprintln!("{name}: {} inputs in {:?}", corpus.len(), began.elapsed());
    }
}

fn every_parser_has_a_fuzzer_of_its_name() {
    let names = |folder: PathBuf| -> BTreeSet<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let fuzzers = names(folder().join("fuzz_targets"));
    let manifest = std::fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(fuzzers.contains(*name), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name}");
    }
    assert_eq!(names(folder().join("corpus")), fuzzers);
}
