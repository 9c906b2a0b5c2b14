//! Makes the Rust code of the published protocol; it is committed, so that a build needs neither this nor protoc.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (protos, into) = (here.join(".."), here.join("../../r3map-core/src/wire/grpc"));
    let files = protox::compile([protos.join("backend.proto")], [&protos])?;
    tonic_prost_build::configure().bytes(".").build_transport(false).out_dir(&into).compile_fds(files)?;
    std::fs::rename(into.join("com.pojtinger.felicitas.r3map.mount.v1.rs"), into.join("backend.rs"))?;
    Ok(())
}
