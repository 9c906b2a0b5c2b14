//! A tape drive, as Linux's `st` has it: `/dev/nst0` and its like.

use std::fs::File;
use std::io::{Error, Read, Result, Write};
use std::os::fd::AsRawFd;

use nix::fcntl::Flock;

use super::reel::Deck;

/// `struct mtop`.
#[repr(C)]
struct Operation {
    operation: libc::c_short,
    count: libc::c_int,
}

/// `struct mtget`.
#[repr(C)]
#[derive(Default)]
struct Status {
    kind: libc::c_long,
    residue: libc::c_long,
    density_and_block: libc::c_long,
    general: libc::c_long,
    errors: libc::c_long,
    file: libc::c_int,
    block: libc::c_int,
}

const DO: libc::Ioctl = libc::_IOW::<Operation>(b'm' as u32, 1);
const STATUS: libc::Ioctl = libc::_IOR::<Status>(b'm' as u32, 2);
const POSITION: libc::Ioctl = libc::_IOR::<libc::c_long>(b'm' as u32, 3);

const WRITE_MARK: libc::c_short = 5;
const TO_END: libc::c_short = 12;
const SEEK: libc::c_short = 22;
const SET_OPTIONS: libc::c_short = 24;
/// Addresses are those of SCSI's own counting: each block and each mark is one.
const LOGICAL_ADDRESSES: libc::c_int = 0x3000_0000 | 0x800;
const BLOCK_SIZE: libc::c_long = 0xFF_FFFF;

/// An open drive.
pub(super) struct Drive(Flock<File>);

impl Drive {
    /// The drive of a device file, unless it is something else.
    pub fn new(file: Flock<File>) -> Result<Drive> {
        let drive = Drive(file);
        drive.status()?;
        // Only root may, and most drives count so anyway; the label is where that shows.
        let _ = drive.operate(SET_OPTIONS, LOGICAL_ADDRESSES);
        Ok(drive)
    }

    fn operate(&self, operation: libc::c_short, count: libc::c_int) -> Result<()> {
        let operation = Operation { operation, count };
        // SAFETY: the ioctl reads one Operation, which lives here.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), DO, &raw const operation) } {
            0 => Ok(()),
            _ => Err(Error::last_os_error()),
        }
    }

    fn status(&self) -> Result<Status> {
        let mut status = Status::default();
        // SAFETY: the ioctl fills one Status, which lives here.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), STATUS, &raw mut status) } {
            0 => Ok(status),
            _ => Err(Error::last_os_error()),
        }
    }
}

impl Deck for Drive {
    fn block(&mut self) -> Result<u32> {
        Ok((self.status()?.density_and_block & BLOCK_SIZE) as u32)
    }

    fn tell(&mut self) -> Result<u64> {
        let mut block: libc::c_long = 0;
        // SAFETY: the ioctl fills one long, all that `struct mtpos` is, which lives here.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), POSITION, &raw mut block) } {
            0 => u64::try_from(block).map_err(|_| Error::other("the drive says no position")),
            _ => Err(Error::last_os_error()),
        }
    }

    fn seek(&mut self, address: u64) -> Result<()> {
        let block = libc::c_int::try_from(address).map_err(|_| Error::from_raw_os_error(libc::EOVERFLOW))?;
        self.operate(SEEK, block)
    }

    fn seek_end(&mut self) -> Result<()> {
        self.operate(TO_END, 1)
    }

    fn read(&mut self, block: &mut [u8]) -> Result<usize> {
        self.0.read(block)
    }

    fn write(&mut self, block: &[u8]) -> Result<()> {
        // One call is one block: what was written in part cannot be gone on with.
        match self.0.write(block)? {
            length if length == block.len() => Ok(()),
            length => Err(Error::other(format!("the drive took {length} of {} bytes", block.len()))),
        }
    }

    fn mark(&mut self) -> Result<()> {
        self.operate(WRITE_MARK, 1)
    }
}
