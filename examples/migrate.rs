//! A region that is in use moves to another process: an app writes pages of it all the time, stops when it is asked
//! to, and goes on at the other side where it stopped.
//!
//! `migrate start URL LISTEN` is the app at the source; it prints the URL to leech. `migrate continue URL LOCAL STEPS
//! ORIGINAL` is the app at the destination: it goes on, writes STEPS times more, and checks every byte at the end: of
//! what was written by what it should be, of all else by the file ORIGINAL, which is as the region was at first.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use r3map_core::device::View;
use r3map_core::{BackendOptions, Code, Error, Leecher, Mount, MountOptions, Result, SeedOptions, SeedState, Slice};

const PAGE: u64 = 4096;
/// How long anybody here waits for anything.
const PATIENCE: Duration = Duration::from_secs(120);
/// A share of the writes goes all over the region; the others stay within a small part of it.
const HOT: u64 = 2048;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["start", url, listen] => start(url, listen),
        ["continue", url, local, steps, original] => match steps.parse() {
            Ok(steps) => go_on(url, local, steps, original),
            Err(_) => Err(Error::new(Code::InvalidArgument, format!("{steps} is no number of steps"))),
        },
        _ => {
            eprintln!("usage: migrate start URL LISTEN | migrate continue URL LOCAL STEPS ORIGINAL");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("migrate: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The page that a step writes.
fn page_of(step: u64, pages: u64) -> u64 {
    let mixed = (step + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_right(29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    if step % 8 == 0 { mixed % pages } else { mixed % pages.min(HOT) }
}

/// What a step writes: its number in every eight bytes of the page, so that a page of two steps is found.
fn write(slice: &Slice, step: u64) {
    let pages = slice.len() as u64 / PAGE;
    let page = page_of(step, pages);
    for at in (0..PAGE).step_by(8) {
        // SAFETY: inside the slice of an open mount; this thread alone touches it.
        unsafe { slice.as_ptr().add((page * PAGE + at) as usize).cast::<u64>().write_volatile(step + 1) };
    }
}

/// Milliseconds of a clock that all processes of this host share.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

/// The app: it writes until it is told to stop, then says when it wrote last.
fn app(slice: Slice, step: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> JoinHandle<f64> {
    std::thread::spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            (0..16).for_each(|_| write(&slice, step.fetch_add(1, Ordering::SeqCst)));
            std::thread::sleep(Duration::from_micros(300));
        }
        now()
    })
}

fn start(url: &str, listen: &str) -> Result<()> {
    let mount = Mount::options().open_url(url, &BackendOptions::default())?;
    let slice = mount.slice()?;
    let seeder = mount.seed(listen, &SeedOptions::default())?;
    println!("{}", seeder.url().unwrap_or_default());
    let (stop, step) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut running = Some(app(slice.clone(), step.clone(), stop.clone()));
    let mut after = 0;
    loop {
        let event = seeder.next(after, PATIENCE)?;
        after = event.sequence;
        match event.state {
            SeedState::Suspending => {
                stop.store(true, Ordering::SeqCst);
                let last = running.take().and_then(|app| app.join().ok()).unwrap_or_default();
                let payload = [step.load(Ordering::SeqCst).to_le_bytes(), last.to_le_bytes()].concat();
                match seeder.suspended(event.sequence, &payload) {
                    // It has come to nothing meanwhile: the next event says so.
                    Err(error) if error.code() == Code::StaleEpoch => {}
                    suspended => suspended?,
                }
            }
            SeedState::Resumed => {
                stop.store(false, Ordering::SeqCst);
                running = Some(app(slice.clone(), step.clone(), stop.clone()));
            }
            SeedState::Committed => {
                seeder.wait_drained(PATIENCE)?;
                seeder.close()?;
                return mount.discard();
            }
            _ => {}
        }
    }
}

fn go_on(url: &str, local: &str, steps: u64, original: &str) -> Result<()> {
    let options = MountOptions { prepare: Some(View::Slice), ..MountOptions::default() };
    let leecher = Leecher::open(url, local, options, &BackendOptions::default())?;
    let begun = Instant::now();
    loop {
        let stats = leecher.stats()?;
        let figure = |name| stats.get(name).unwrap_or(0);
        let (size, here) = (figure("size").max(1), figure("local_bytes"));
        bar(here, size, figure("dirty_rate"));
        if here * 100 >= size * 95 || begun.elapsed() > PATIENCE {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mount = leecher.finalize()?;
    let slice = mount.slice()?;
    let (step, last) = mount.payload().split_at(8);
    let first = u64::from_le_bytes(step.try_into().unwrap_or_default());
    let last = f64::from_le_bytes(last.try_into().unwrap_or_default());
    write(&slice, first);
    let pause = now() - last;
    println!("pause {pause:.1} ms, after {first} steps at the source");
    (first + 1..first + steps).for_each(|step| write(&slice, step));
    mount.wait_local(1.0, PATIENCE)?;
    check(&slice, first + steps, original)?;
    mount.close()?;
    println!("every byte is as {} steps left it", first + steps);
    Ok(())
}

/// Compares every byte with what the last step that wrote its page left there, or with the original.
fn check(slice: &Slice, steps: u64, original: &str) -> Result<()> {
    let pages = slice.len() as u64 / PAGE;
    let mut last = vec![0; pages as usize];
    (0..steps).for_each(|step| last[page_of(step, pages) as usize] = step + 1);
    // SAFETY: nobody writes any more, and the mount is open.
    let bytes = unsafe { slice.as_slice() };
    let mut before = std::fs::read(original).map_err(|error| Error::io(format!("read {original}"), error))?;
    for (page, step) in before.chunks_exact_mut(PAGE as usize).zip(last).filter(|(_, step)| *step != 0) {
        page.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&step.to_le_bytes()));
    }
    match bytes.iter().zip(&before).position(|(here, expected)| here != expected) {
        None if bytes.len() == before.len() => Ok(()),
        at => Err(Error::new(Code::Corrupt, format!("the bytes differ at {at:?} after {steps} steps"))),
    }
}

fn bar(here: u64, size: u64, rate: u64) {
    if std::io::stderr().is_terminal() {
        let (full, share) = ("█".repeat((here * 40 / size) as usize), here * 100 / size);
        eprint!("\r  leech [{full:<40}] {share:3} %, {} KiB/s rewritten at the source ", rate >> 10);
        let _ = std::io::stderr().flush();
    }
}
