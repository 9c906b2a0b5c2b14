//! A forked process that lives on shares its parent's pages, and every page the parent changes is then kept
//! twice. So the guard gives back all memory but what it runs on.

/// What a line of `/proc/self/maps` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: usize,
    end: usize,
    shared: bool,
    /// A file is mapped.
    file: bool,
    /// A mapping of the kernel's own or the first stack, whose names stand in brackets.
    special: bool,
}

/// Unmaps everything but files mapped privately (the code and its data) with what directly follows them
/// (their zero-initialised data), the kernel's own mappings, this thread's stack and locals, and what lies at
/// the address `kept`.
///
/// # Safety
/// The calling process has one thread, and from now on calls only what a signal handler may and uses only
/// its stack.
pub unsafe fn let_go(kept: usize) {
    // SAFETY: plain system calls on memory of this stack, which is kept, as is the word that holds errno.
    unsafe {
        let maps = libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY);
        if maps < 0 {
            return;
        }
        let errno = libc::__errno_location() as usize;
        let stack = &raw const maps as usize;
        let mut kept_end = 0;
        let mut line = Line::default();
        let mut bytes = [0u8; 1024];
        loop {
            let read = libc::read(maps, bytes.as_mut_ptr().cast(), bytes.len());
            if read <= 0 {
                break;
            }
            for byte in &bytes[..read as usize] {
                let Some(range) = line.push(*byte) else { continue };
                let within = |address: usize| (range.start..range.end).contains(&address);
                if within(errno) || within(stack) || within(kept) || range.special {
                    continue;
                }
                if !range.shared && (range.file || range.start == kept_end) {
                    kept_end = range.end;
                    continue;
                }
                libc::munmap(range.start as *mut libc::c_void, range.end - range.start);
            }
        }
        libc::close(maps);
    }
}

/// Takes a line apart byte by byte: `start-end perms offset device inode path`.
#[derive(Default)]
struct Line {
    field: usize,
    /// Which byte of the field comes next.
    at: usize,
    number: usize,
    range: Option<Range>,
}

impl Line {
    /// Takes the next byte; at the end of a line gives what it says.
    fn push(&mut self, byte: u8) -> Option<Range> {
        let empty = Range { start: 0, end: 0, shared: false, file: false, special: false };
        let range = self.range.get_or_insert(empty);
        match (self.field, byte) {
            (_, b'\n') => return std::mem::take(self).range,
            (0, b'-') => {
                range.start = self.number;
                self.number = 0;
            }
            (0, b' ') => {
                range.end = self.number;
                self.next();
            }
            (0, digit) => {
                let value = (digit as char).to_digit(16).unwrap_or(0) as usize;
                self.number = self.number << 4 | value;
            }
            (1..=4, b' ') => self.next(),
            (1, letter) => {
                range.shared |= self.at == 3 && letter == b's';
                self.at += 1;
            }
            (4, digit) => range.file |= digit != b'0',
            // The path stands behind any number of spaces: `[vdso]`, `[vvar]`, `[stack]`, `[uprobes]`; but
            // `[heap]` and `[anon:…]` are memory like any other.
            (5, b' ') if self.at == 0 => (),
            (5, letter) => {
                let named = match self.at {
                    0 => letter == b'[',
                    1 => self.number == 1 && matches!(letter, b'v' | b's' | b'u'),
                    _ => self.number == 1,
                };
                self.number = usize::from(named);
                if self.at == 1 {
                    range.special = named;
                }
                self.at += 1;
            }
            _ => (),
        }
        None
    }

    fn next(&mut self) {
        self.field += 1;
        self.at = 0;
        self.number = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Vec<Range> {
        let mut line = Line::default();
        text.bytes().filter_map(|byte| line.push(byte)).collect()
    }

    #[test]
    fn lines_of_the_kernels_list_are_understood() {
        let ranges = parse(
            "7f00-7f10 r-xp 00000000 fe:00 12345                      /usr/lib/lib.so\n\
             7f10-7f11 rw-p 00000000 00:00 0 \n\
             a000-ffffa000 rw-s 00000000 00:01 99                     /dev/shm/x y\n\
             b000-c000 rw-p 00000000 00:00 0                          [heap]\n\
             d000-e000 r-xp 00000000 00:00 0                          [vdso]\n\
             e000-f000 rw-p 00000000 00:00 0                          [anon:stack]\n",
        );
        let plain = |start, end| Range { start, end, shared: false, file: false, special: false };
        assert_eq!(
            ranges,
            [
                Range { file: true, ..plain(0x7f00, 0x7f10) },
                plain(0x7f10, 0x7f11),
                Range { file: true, shared: true, ..plain(0xa000, 0xffff_a000) },
                plain(0xb000, 0xc000),
                Range { special: true, ..plain(0xd000, 0xe000) },
                plain(0xe000, 0xf000),
            ]
        );
    }
}
