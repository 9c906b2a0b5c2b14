//! What the fuzzers have in common: each gives what libFuzzer makes up to the function of its name in
//! `r3map-core/src/fuzzing.rs`.

#[doc(hidden)]
pub use {libfuzzer_sys, r3map_core};

/// The fuzzer of the function of that name.
#[macro_export]
macro_rules! fuzz {
    ($name:literal) => {
        use $crate::{libfuzzer_sys, r3map_core};

        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
            static RUN: std::sync::LazyLock<r3map_core::fuzzing::Run> =
                std::sync::LazyLock::new(|| r3map_core::fuzzing::target($name).unwrap());
            RUN(bytes);
        });
    };
}
