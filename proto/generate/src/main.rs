//! Makes the Rust code of the published protocol; it is committed, so that a build needs neither this nor protoc.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (protos, into) = (here.join(".."), here.join("../../r3map-core/src/wire/grpc"));
    for (file, package) in [("backend", "mount"), ("seeder", "migration")] {
        let files = protox::compile([protos.join(file).with_extension("proto")], [&protos])?;
        tonic_prost_build::configure().bytes(".").build_transport(false).out_dir(&into).compile_fds(files)?;
        let made = into.join(format!("com.pojtinger.felicitas.r3map.{package}.v1.rs"));
        std::fs::rename(made, into.join(file).with_extension("rs"))?;
    }
    Ok(())
}
