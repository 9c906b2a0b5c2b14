//! A region as memory of this process: every byte is read through it, some are changed there, and `sync`
//! brings them to the backend. `slice URL FROM TO [DEVICE]` replaces each FROM by a TO of the same length.

use std::io::IsTerminal;
use std::process::ExitCode;

use r3map_core::{BackendOptions, Code, DeviceChoice, Error, Mount, Result};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, from, to, device @ ..] = &arguments[..] else {
        eprintln!("usage: slice URL FROM TO [DEVICE]");
        return ExitCode::from(2);
    };
    match replace(url, from.as_bytes(), to.as_bytes(), device.first().map_or("auto", String::as_str)) {
        Ok(summary) => println!("{summary}"),
        Err(error) => {
            eprintln!("slice: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn replace(url: &str, from: &[u8], to: &[u8], device: &str) -> Result<String> {
    if from.is_empty() || from.len() != to.len() {
        return Err(Error::new(Code::InvalidArgument, "FROM and TO need the same length, not 0"));
    }
    let device: DeviceChoice = device.parse()?;
    let mount = Mount::options().device(device).open_url(url, &BackendOptions::default())?;
    let slice = mount.slice()?;
    let device = mount.device().map_or("no device", |kind| kind.name());
    // SAFETY: nobody else has this mount, and it is closed after the last use of the bytes.
    let bytes = unsafe { slice.as_mut_slice() };

    let (mut at, mut found, mut sum) = (0, 0_u64, 0_u64);
    while at < bytes.len() {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
            found += 1;
        }
        sum = sum.wrapping_add(bytes[at].into());
        at += 1;
        if at % (8 << 20) == 0 || at == bytes.len() {
            bar(at, bytes.len());
        }
    }
    mount.sync()?;
    mount.close()?;
    Ok(format!("{at} bytes read through {device}, their sum is {sum}; {found} places changed and synced"))
}

fn bar(done: usize, total: usize) {
    if std::io::stderr().is_terminal() {
        let end = if done == total { "\n" } else { "" };
        eprint!("\r  slice [{:<40}] {:3} %{end}", "█".repeat(done * 40 / total), done * 100 / total);
    }
}
