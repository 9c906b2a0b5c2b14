//! A page fault served in this process.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use r3map_core::backend::memory::Memory;
use r3map_core::{Backend, DeviceChoice, Mode, Mount};

use crate::{Measured, percentile, ratio};

const SIZE: u64 = 64 << 20;
const TOUCHES: u64 = 4000;

/// Pages in an order that no read-ahead guesses.
fn pages() -> impl Iterator<Item = u64> {
    (0..TOUCHES).map(|index| index * 7919 % (SIZE / 4096))
}

fn touch(start: *const u8) -> f64 {
    let samples: Vec<Duration> = pages()
        .map(|page| {
            let begin = Instant::now();
            // SAFETY: the page lies inside the mapping, which lives until the samples are taken.
            unsafe { start.add(page as usize * 4096).read_volatile() };
            begin.elapsed()
        })
        .collect();
    percentile(samples, 0.5)
}

/// The median first access to a 4 KiB page of a slice over a memory backend, against the least a process can do:
/// a thread that takes one message and copies one page.
pub fn first_access() -> Measured {
    let memory = Arc::new(Memory::new(SIZE).unwrap());
    for offset in (0..SIZE).step_by(1 << 20) {
        memory.write_at(&vec![3; 1 << 20], offset).unwrap();
    }
    let ours = || {
        let options = Mount::options().device(DeviceChoice::Userfaultfd).mode(Mode::Direct);
        let mount = options.open(memory.clone()).unwrap();
        let slice = mount.slice().unwrap();
        let time = touch(slice.as_ptr());
        mount.discard().unwrap();
        time
    };
    ratio(ours, bare, "us", 1e6)
}

#[repr(C)]
struct Api([u64; 3]);
#[repr(C)]
struct Register([u64; 4]);
#[repr(C)]
struct Copy([u64; 5]);

/// The same with the system calls alone.
fn bare() -> f64 {
    // SAFETY: the floor of the measurement: one mapping, one descriptor, one thread that ends before they do.
    unsafe {
        let store = nix::sys::memfd::memfd_create(c"floor", nix::sys::memfd::MFdFlags::empty()).unwrap();
        nix::unistd::ftruncate(&store, SIZE as i64).unwrap();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let start = libc::mmap(std::ptr::null_mut(), SIZE as usize, protection, libc::MAP_SHARED, store.as_raw_fd(), 0);
        let descriptor = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK);
        assert!(descriptor >= 0, "userfaultfd");
        let descriptor = OwnedFd::from_raw_fd(descriptor as i32);
        let raw = descriptor.as_raw_fd();
        assert_eq!(libc::ioctl(raw, 0xC018AA3F, &mut Api([0xAA, 1 << 5, 0])), 0);
        assert_eq!(libc::ioctl(raw, 0xC020AA00, &mut Register([start as u64, SIZE, 1, 0])), 0);
        let base = start as u64;
        let server = std::thread::spawn(move || {
            let source = vec![3u8; 4096];
            for _ in 0..TOUCHES {
                let mut poll = libc::pollfd { fd: raw, events: libc::POLLIN, revents: 0 };
                libc::poll(&mut poll, 1, -1);
                let mut message = [0u64; 4];
                assert_eq!(libc::read(raw, message.as_mut_ptr().cast(), 32), 32);
                let to = base + (message[2] - base) / 4096 * 4096;
                assert_eq!(libc::ioctl(raw, 0xC028AA03, &mut Copy([to, source.as_ptr() as u64, 4096, 0, 0])), 0);
            }
        });
        let time = touch(start.cast());
        server.join().unwrap();
        libc::munmap(start, SIZE as usize);
        time
    }
}
