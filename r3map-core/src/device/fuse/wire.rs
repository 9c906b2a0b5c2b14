//! The part of the FUSE kernel protocol (7.31 and later, `linux/fuse.h`) that one regular file needs.

/// The oldest minor version that has everything used here.
pub const OLDEST_MINOR: u32 = 31;
/// The newest one written for.
pub const NEWEST_MINOR: u32 = 41;
pub const MAJOR: u32 = 7;
/// The one inode there is: the file that is the root of the mount.
pub const ROOT: u64 = 1;
/// Bytes before the data of a WRITE; every fixed part that is read here lies inside.
pub const HEAD: usize = 80;

pub const GETATTR: u32 = 3;
pub const SETATTR: u32 = 4;
pub const FORGET: u32 = 2;
pub const OPEN: u32 = 14;
pub const READ: u32 = 15;
pub const WRITE: u32 = 16;
pub const STATFS: u32 = 17;
pub const RELEASE: u32 = 18;
pub const FSYNC: u32 = 20;
pub const INIT: u32 = 26;
pub const DESTROY: u32 = 38;
pub const BATCH_FORGET: u32 = 42;
pub const FALLOCATE: u32 = 43;

pub const ASYNC_READ: u32 = 1 << 0;
pub const BIG_WRITES: u32 = 1 << 5;
pub const ASYNC_DIO: u32 = 1 << 15;
pub const WRITEBACK_CACHE: u32 = 1 << 16;
pub const MAX_PAGES: u32 = 1 << 22;
pub const EXPLICIT_INVAL_DATA: u32 = 1 << 25;

/// The file's pages stay cached from one open to the next.
pub const FOPEN_KEEP_CACHE: u32 = 1 << 1;

/// What a SETATTR would change, of which only times can be.
pub const SET_MODE: u32 = 1 << 0;
pub const SET_UID: u32 = 1 << 1;
pub const SET_GID: u32 = 1 << 2;
pub const SET_SIZE: u32 = 1 << 3;

/// A request's header and the fixed part behind it.
pub struct Head<'a>(pub &'a [u8; HEAD]);

impl Head<'_> {
    pub fn length(&self) -> u32 {
        self.u32(0)
    }
    pub fn opcode(&self) -> u32 {
        self.u32(4)
    }
    /// What a reply names it by.
    pub fn unique(&self) -> u64 {
        self.u64(8)
    }
    /// The thread that made the request.
    pub fn pid(&self) -> u32 {
        self.u32(32)
    }

    /// A word of the part behind the header; `at` counts from its start.
    pub fn word(&self, at: usize) -> u32 {
        self.u32(40 + at)
    }
    /// A double word of the part behind the header.
    pub fn long(&self, at: usize) -> u64 {
        self.u64(40 + at)
    }

    /// READ, WRITE and FALLOCATE have the offset at the same place, as FSYNC the handle.
    pub fn handle(&self) -> u64 {
        self.long(0)
    }
    pub fn offset(&self) -> u64 {
        self.long(8)
    }
    /// Bytes of a READ or WRITE.
    pub fn size(&self) -> usize {
        self.word(16) as usize
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }
    fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
    }
}

/// The body of a small reply, written field by field in the order of the kernel's structure.
#[derive(Default)]
pub struct Body {
    bytes: Fields,
    length: usize,
}

struct Fields([u8; 128]);

impl Default for Fields {
    fn default() -> Fields {
        Fields([0; 128])
    }
}

impl Body {
    pub fn u16(self, value: u16) -> Body {
        self.put(&value.to_ne_bytes())
    }
    pub fn u32(self, value: u32) -> Body {
        self.put(&value.to_ne_bytes())
    }
    pub fn u64(self, value: u64) -> Body {
        self.put(&value.to_ne_bytes())
    }
    /// Zeros up to that length in all.
    pub fn padded_to(mut self, length: usize) -> Body {
        self.length = length;
        self
    }
    pub fn bytes(&self) -> &[u8] {
        &self.bytes.0[..self.length]
    }

    fn put(mut self, field: &[u8]) -> Body {
        self.bytes.0[self.length..self.length + field.len()].copy_from_slice(field);
        self.length += field.len();
        self
    }
}

/// What `stat` shows.
#[derive(Clone, Copy)]
pub struct Attributes {
    pub size: u64,
    /// Type and permissions.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970 when it was attached.
    pub time: u64,
}

impl Attributes {
    /// The reply to GETATTR and SETATTR. The kernel may keep it: nobody else changes the file.
    pub fn reply(&self) -> Body {
        let body = Body::default().u64(u64::from(u32::MAX)).u32(0).u32(0);
        let body = body.u64(ROOT).u64(self.size).u64(self.size.div_ceil(512));
        let body = body.u64(self.time).u64(self.time).u64(self.time).u32(0).u32(0).u32(0);
        body.u32(self.mode).u32(1).u32(self.uid).u32(self.gid).u32(0).u32(4096).u32(0)
    }

    /// The reply to STATFS: a filesystem that this one file fills.
    pub fn filesystem(&self) -> Body {
        let body = Body::default().u64(self.size.div_ceil(4096)).u64(0).u64(0).u64(1).u64(0);
        body.u32(4096).u32(255).u32(4096).padded_to(80)
    }
}

/// The header of a reply with `length` bytes behind it.
pub fn reply_header(unique: u64, errno: i32, length: usize) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&(16 + length as u32).to_ne_bytes());
    header[4..8].copy_from_slice(&(-errno).to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_have_the_lengths_of_the_kernels_structures() {
        let attributes = Attributes { size: 5, mode: 0, uid: 0, gid: 0, time: 0 };
        assert_eq!(attributes.reply().bytes().len(), 104);
        assert_eq!(attributes.filesystem().bytes().len(), 80);
    }
}
