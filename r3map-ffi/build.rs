//! Gives the shared library its soname, so that programs ask the loader for this ABI and not for any libr3map.so.

fn main() {
    // What other crates would export is no part of the library.
    println!("cargo:rustc-cdylib-link-arg=-Wl,--exclude-libs,ALL");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libr3map.so.0");
}
