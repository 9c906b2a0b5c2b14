//! 223: a mount on demand moves little more than it was asked for.

#[path = "../../tests/skip.rs"]
mod skip;

mod pulling;

use std::os::unix::fs::FileExt;

use pulling::{PAGE, Told};
use r3map_core::device::Kind;
use r3map_core::{DeviceChoice, Mode, Mount, MountOptions, Pull};

const SIZE: u64 = 64 << 20;
const PAGES: u64 = SIZE / PAGE;

/// One page in a hundred, at random.
fn pages() -> impl Iterator<Item = u64> {
    let mut seed = 0x9E37_79B9_7F4A_7C15u64;
    let random = std::iter::from_fn(move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        Some(seed % PAGES)
    });
    random.take(PAGES as usize / 100)
}

/// Reads those pages of a mount on demand by `read`, and looks at what was moved.
fn check(device: DeviceChoice, read: impl Fn(&Mount) -> Box<dyn Fn(u64) -> u8>) {
    let options = MountOptions { pull: Pull::Demand, ..Mount::options().mode(Mode::Managed).device(device) };
    let mount = options.open(Told::new(SIZE, 256 << 10)).unwrap();
    let byte = read(&mount);
    pages().for_each(|page| assert_eq!(byte(page), page as u8 | 1));
    let stats = mount.stats().unwrap();
    let pulled = stats.get("pulled_bytes").unwrap();
    assert!(pulled * 1000 <= SIZE * 15, "{pulled} bytes of {SIZE}");
    assert!(stats.get("read_ahead_bytes").unwrap() <= pulled / 3);
    drop(byte);
    mount.discard().unwrap();
}

fn by_path(mount: &Mount) -> Box<dyn Fn(u64) -> u8> {
    let file = std::fs::File::open(mount.path().unwrap()).unwrap();
    Box::new(move |page| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, page * PAGE + 100).unwrap();
        byte[0]
    })
}

#[test]
fn a_mount_on_demand_moves_little_more_than_the_handle_reads() {
    check(DeviceChoice::Auto, |mount| {
        let mount = mount.clone();
        Box::new(move |page| {
            let mut byte = [0];
            mount.read_at(&mut byte, page * PAGE + 100).unwrap();
            byte[0]
        })
    });
}

#[test]
fn a_mount_on_demand_moves_little_more_than_is_touched_of_a_slice() {
    if let Err(error) = Kind::Userfaultfd.probe() {
        return skip::skip(error);
    }
    check(DeviceChoice::Userfaultfd, |mount| {
        let slice = mount.slice().unwrap();
        // SAFETY: inside the slice of an open mount.
        Box::new(move |page| unsafe { slice.as_ptr().add((page * PAGE) as usize).read_volatile() })
    });
}

#[test]
fn a_mount_on_demand_moves_little_more_than_is_read_of_a_fuse_file() {
    if let Err(error) = Kind::Fuse.probe() {
        return skip::skip(error);
    }
    check(DeviceChoice::Fuse, by_path);
}

#[test]
fn a_mount_on_demand_moves_little_more_than_is_read_of_a_block_device() {
    if let Err(error) = Kind::Nbd.probe() {
        return skip::leave_to_guest(error);
    }
    check(DeviceChoice::Nbd(None), by_path);
}
