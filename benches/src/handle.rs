//! `read_at` of a mount without a device.

use std::ffi::{CStr, CString, c_char, c_void};
use std::hint::black_box;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::Arc;

use r3map_core::Mount;
use r3map_core::backend::memory::Memory;

use crate::{Measured, ratio, time};

/// 4 KiB of one hot page, against copying it.
pub fn read_at() -> Measured {
    const CALLS: usize = 2_000_000;
    let mount = Mount::options().open(Arc::new(Memory::new(1 << 20).unwrap())).unwrap();
    mount.write_at(&[1; 4096], 0).unwrap();
    let hot = vec![1u8; 4096];
    let mut buffer = vec![0u8; 4096];
    let mut copy = vec![0u8; 4096];
    let ours = || {
        time(|| {
            for _ in 0..CALLS {
                mount.read_at(black_box(&mut buffer), black_box(0)).unwrap();
            }
        })
    };
    let floor = || {
        time(|| {
            for _ in 0..CALLS {
                black_box(&mut copy).copy_from_slice(black_box(&hot));
            }
        })
    };
    ratio(ours, floor, "ns", 1e9 / CALLS as f64)
}

/// The same page by the library of C against Rust's own call, which it makes.
pub fn read_at_from_c() -> Measured {
    const CALLS: usize = 1_000_000;
    let library = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("libr3map.so")));
    let library = match library.map(|path| Library::open(&path)) {
        Some(Ok(library)) => library,
        Some(Err(why)) => return Measured::skipped(why),
        None => return Measured::skipped("this program does not know where it is"),
    };
    let there = library.mount(c"memory:?size=1MiB");
    let here = Mount::options().open(Arc::new(Memory::new(1 << 20).unwrap())).unwrap();
    here.write_at(&[1; 4096], 0).unwrap();
    let (mut ours, mut floor) = (vec![0u8; 4096], vec![0u8; 4096]);
    let from_c = || {
        time(|| {
            for _ in 0..CALLS {
                // SAFETY: the mount is open and the buffer has 4096 bytes.
                let error = unsafe { (library.read_at)(there, black_box(&mut ours).as_mut_ptr(), 4096, 0, null_mut()) };
                assert!(error.is_null());
            }
        })
    };
    let from_rust = || {
        time(|| {
            for _ in 0..CALLS {
                here.read_at(black_box(&mut floor), black_box(0)).unwrap();
            }
        })
    };
    ratio(from_c, from_rust, "ns", 1e9 / CALLS as f64)
}

type BackendOpen = unsafe extern "C" fn(*const c_char, *mut c_void, *mut c_void, *mut *mut c_void) -> *mut c_void;
type MountOpen = unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_void, *mut *mut c_void) -> *mut c_void;
type ReadAt = unsafe extern "C" fn(*mut c_void, *mut u8, u64, u64, *mut c_void) -> *mut c_void;

/// What a program in C calls, found as the loader finds it.
struct Library {
    backend_open: BackendOpen,
    mount_open: MountOpen,
    read_at: ReadAt,
}

impl Library {
    fn open(path: &Path) -> Result<Library, String> {
        let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|error| error.to_string())?;
        // SAFETY: a plain call with a string that ends; the library stays loaded.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        if handle.is_null() {
            return Err(format!("{} cannot be loaded: build r3map-ffi --release", path.display()));
        }
        let find = |name: &CStr| {
            // SAFETY: the handle is open and the string ends.
            let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
            (!found.is_null()).then_some(found).ok_or_else(|| format!("{name:?} is not in {}", path.display()))
        };
        // SAFETY: the functions of these names have these types in include/r3map.h.
        unsafe {
            Ok(Library {
                backend_open: std::mem::transmute::<*mut c_void, BackendOpen>(find(c"r3map_backend_open")?),
                mount_open: std::mem::transmute::<*mut c_void, MountOpen>(find(c"r3map_mount_open")?),
                read_at: std::mem::transmute::<*mut c_void, ReadAt>(find(c"r3map_mount_read_at")?),
            })
        }
    }

    fn mount(&self, url: &CStr) -> *mut c_void {
        let (mut backend, mut mount) = (null_mut(), null_mut());
        // SAFETY: no options and no cancel, and places for what comes out.
        unsafe {
            assert!((self.backend_open)(url.as_ptr(), null_mut(), null_mut(), &mut backend).is_null());
            assert!((self.mount_open)(backend, null_mut(), null_mut(), &mut mount).is_null());
        }
        mount
    }
}
