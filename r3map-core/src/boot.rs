//! Which boot of the kernel this is: what lay in its memory is there until the next.

use once_cell::sync::Lazy;

use crate::wire::Identity;

/// What names this boot, where the kernel says it.
pub static BOOT: Lazy<Option<Identity>> = Lazy::new(|| {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes)
});
