//! 720: what goes wrong is said in the same words each time: what was tried on what, what went wrong, what to do.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use r3map_core::backend::memory::Memory;
use r3map_core::device::Kind;
use r3map_core::{
    Backend, BackendOptions, Code, DeviceChoice, ExportOptions, Info, Mode, Mount, MountOptions, Pull, Result, Server,
    ServerOptions, backend,
};

mod faults;

use faults::{Directory, SOON};

/// What was tried, how it ended, and how it has to end.
struct Table(Vec<String>);

impl Table {
    fn new() -> Table {
        Table(Vec::new())
    }

    /// Notes an outcome that is not this very error.
    fn row<T>(&mut self, tried: &str, outcome: Result<T>, code: Code, message: &str) {
        match outcome {
            Ok(_) => self.0.push(format!("{tried}: no error, but {message:?}")),
            Err(error) if error.code() == code && error.message() == message => {}
            Err(error) => self.0.push(format!("{tried}:\n      {error:?}, not\n      {message} ({})", code.name())),
        }
    }

    #[track_caller]
    fn check(self) {
        assert!(self.0.is_empty(), "{} rows differ:\n  {}", self.0.len(), self.0.join("\n  "));
    }
}

fn open(url: &str) -> Result<Arc<dyn Backend>> {
    backend::open(url, &BackendOptions::default())
}

fn memory() -> Arc<Memory> {
    Arc::new(Memory::new(1 << 20).unwrap())
}

fn mount(options: MountOptions) -> Result<Mount> {
    options.open(memory())
}

fn options() -> MountOptions {
    Mount::options()
}

#[test]
fn a_wrong_url_says_what_is_wrong_with_it() {
    let mut table = Table::new();
    for (url, message) in [
        ("", "\"\" is not a URL: it has no scheme; one of SCHEMES"),
        ("model", "\"model\" is not a URL: it has no scheme; one of SCHEMES"),
        ("/srv/model", "\"/srv/model\" is not a URL: it has no scheme; one of SCHEMES"),
        ("fiel:///x", "unknown scheme \"fiel\"; did you mean \"file\"?"),
        ("r3mpa://h/x", "unknown scheme \"r3mpa\"; did you mean \"r3map\"?"),
        ("zzz://x", "unknown scheme \"zzz\"; known: SCHEMES"),
        ("memory:", "memory: needs a size, such as memory:?size=1GiB"),
        ("memory:?sice=1", "memory:?sice=1: unknown parameter \"sice\"; did you mean \"size\"?"),
        ("memory:?size=1&size=2", "memory:?size=1&size=2: parameter \"size\" is given twice"),
        ("memory:?size=1MB", "memory:?size=1MB: size: \"1MB\" is not a size: bytes, or a number with KiB MiB GiB TiB"),
        ("memory:?size=-1", "memory:?size=-1: size: \"-1\" is not a size: bytes, or a number with KiB MiB GiB TiB"),
        (
            "memory:?size=8388608TiB",
            "memory:?size=8388608TiB: size: \"8388608TiB\" is too large: the most is 8 EiB less one byte",
        ),
        ("file://srv/x", "file://srv/x: \"srv\" stands where a host would; an absolute path needs three slashes"),
        ("file:///", "file:///: no path; write file:///PATH"),
        ("file:///a%00b", "\"file:///a%00b\": a path holds no NUL byte"),
        ("file:///a#b", "\"file:///a#b\": a URL of a backend has no #fragment; write %23 for a #"),
        ("dir:///a?chunk=7", "dir:///a?chunk=7: a chunk is 512 bytes to 1 GiB long, not 7 bytes"),
        ("r3map://:7070/x", "\"r3map://:7070/x\" is not a URL: empty host"),
        ("r3map:///x", "r3map:///x: no host; write r3map://HOST:PORT/NAME"),
        ("r3map:x", "r3map:x: no host; write r3map://HOST:PORT/NAME"),
        ("r3map://h:99999/x", "\"r3map://h:99999/x\" is not a URL: invalid port number"),
        ("r3map://h/x?name=y", "r3map://h/x?name=y: unknown parameter \"name\": it takes no parameters"),
        ("r3map://u:secret@h/x", "a r3map URL takes no password: secrets come from options or files"),
        ("r3map://127.0.0.1/", "r3map://127.0.0.1/: the name \"\" of an export is empty"),
        ("r3map+unix:///s", "r3map+unix:///s: the name \"\" of an export is empty"),
    ] {
        table.row(url, open(url), Code::InvalidArgument, &with_schemes(message));
    }
    table.check();
}

/// The message with the schemes of this build where it says so.
fn with_schemes(message: &str) -> String {
    message.replace("SCHEMES", &r3map_core::url::SCHEMES.join(" "))
}

#[test]
fn a_file_that_cannot_be_had_is_named_with_the_reason() {
    let directory = Directory::new();
    let url = |name: &str| format!("file://{}", directory.file(name).display());
    std::fs::write(directory.file("short"), [1; 100]).unwrap();
    let mut table = Table::new();
    let missing = format!("open {}: No such file or directory (os error 2)", url("missing"));
    table.row("a missing file", open(&url("missing")), Code::NotFound, &missing);
    let below = url("short/below");
    table.row("below a file", open(&below), Code::NotFound, &format!("open {below}: Not a directory (os error 20)"));
    let itself = format!("file://{}", directory.path().display());
    let message = format!("{itself} is a directory, not a file");
    table.row("a directory", open(&itself), Code::InvalidArgument, &message);
    let other = format!("{}?size=200", url("short"));
    let message = format!("{other}: the file has 100 bytes");
    table.row("another size", open(&other), Code::InvalidArgument, &message);
    let message = "file:///dev/null is neither a regular file nor a block device";
    table.row("a character device", open("file:///dev/null"), Code::InvalidArgument, message);
    let no_size = format!("dir://{}", directory.path().display());
    let message = format!("{no_size}: the directory does not say its size: add size=… to the URL");
    table.row("a directory without a record", open(&no_size), Code::InvalidArgument, &message);
    table.check();
}

/// Runs as a user who may nothing: on a thread of its own, whose rights to files alone are that user's.
fn as_nobody<T: Send>(job: impl FnOnce() -> T + Send) -> T {
    let run = || {
        // SAFETY: a plain call that concerns this thread alone; one that may not do it has no more rights either.
        unsafe { libc::setfsuid(65534) };
        job()
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

#[test]
fn a_file_without_permission_is_denied_and_one_that_may_only_be_read_refuses_writes() {
    let directory = Directory::new();
    let create = |name: &str, mode: u32| {
        std::fs::write(directory.file(name), [5; 8192]).unwrap();
        std::fs::set_permissions(directory.file(name), std::fs::Permissions::from_mode(mode)).unwrap();
        format!("file://{}", directory.file(name).display())
    };
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (secret, public) = (create("secret", 0), create("public", 0o444));
    let mut table = Table::new();
    let denied = as_nobody(|| open(&secret));
    table.row(
        "no permission",
        denied,
        Code::PermissionDenied,
        &format!("open {secret}: Permission denied (os error 13)"),
    );
    let region = as_nobody(|| open(&public)).unwrap();
    assert!(region.info().read_only);
    for mode in [Mode::Direct, Mode::Managed] {
        let mount = options().mode(mode).open(region.clone()).unwrap();
        let message = format!("{public} is mounted read-only");
        table.row("a write", mount.write_at(b"x", 0), Code::ReadOnly, &message);
        mount.close().unwrap();
    }
    table.check();
}

#[test]
fn an_option_with_a_wrong_value_is_named() {
    let mut table = Table::new();
    for (name, value, message) in [
        ("mod", "direct", "mod: unknown option; did you mean \"mode\"?"),
        (
            "colour",
            "red",
            "colour: unknown option; known: mode device read_only cache cache_trust chunk_size pull pull_range trace push_interval offline read_ahead max_in_flight deadline",
        ),
        ("mode", "manged", "mode: unknown value \"manged\"; did you mean \"managed\"?"),
        ("pull", "never", "pull: unknown value \"never\"; known: background demand"),
        ("device", "fuze", "device: unknown value \"fuze\"; did you mean \"fuse\"?"),
        ("device", "nbd:", "device: nbd: names no device; write nbd or nbd:/dev/nbd3"),
        ("read_only", "maybe", "read_only: unknown value \"maybe\"; known: true false 1 0 yes no"),
        ("deadline", "soon", "deadline: \"soon\" is not a time: seconds, or a number with ms s m h"),
        ("deadline", "-1", "deadline: \"-1\" is not a time: seconds, or a number with ms s m h"),
        ("chunk_size", "64kb", "chunk_size: \"64kb\" is not a size: bytes, or a number with KiB MiB GiB TiB"),
        ("chunk_size", "4GiB", "chunk_size: 4294967296 is more than the largest chunk, 32 MiB"),
        ("pull_range", "4KiB", "pull_range: \"4KiB\" is not a range: OFFSET,LENGTH[,PRIORITY]"),
        ("pull_range", "1,2,3,4", "pull_range: \"1,2,3,4\" is not a range: OFFSET,LENGTH[,PRIORITY]"),
    ] {
        let tried = format!("{name}={value}");
        table.row(&tried, options().set(name, value), Code::InvalidArgument, message);
    }
    for size in [0, 1, 4095, 5000, 64 << 20] {
        let message = format!("chunk_size: {size} is not a power of two from 4 KiB to 32 MiB");
        let outcome = mount(MountOptions { chunk_size: Some(size), ..options() });
        table.row("chunk_size", outcome, Code::InvalidArgument, &message);
    }
    let outcome = mount(MountOptions { max_in_flight: Some(0), ..options() });
    let message = "max_in_flight: 0 bytes would never move anything";
    table.row("max_in_flight", outcome, Code::InvalidArgument, message);
    table.check();
}

#[test]
fn options_that_do_not_fit_together_are_refused_at_open() {
    let directory = Directory::new();
    let managed = || options().mode(Mode::Managed);
    let mut table = Table::new();
    let outcome = mount(MountOptions { offline: true, ..managed() });
    let message = "offline: needs a cache in a file: say cache=file:///…";
    table.row("offline", outcome, Code::InvalidArgument, message);
    let message = "cache: a direct mount keeps nothing: use mode=managed";
    table.row("direct", mount(options().mode(Mode::Direct).cache("memory:")), Code::InvalidArgument, message);
    for (cache, message) in [
        ("plain", "cache: \"plain\" is not a URL: it has no scheme; one of SCHEMES"),
        ("r3map://h/x", "cache: r3map is no local store that keeps pages: use memory: or file:"),
        ("dir:///x", "cache: dir is no local store that keeps pages: use memory: or file:"),
        ("file:///x?size=1", "cache: file:///x?size=1: unknown parameter \"size\": it takes no parameters"),
        ("file:///", "cache: file:///: no path; write file:///PATH"),
    ] {
        table.row(cache, mount(managed().cache(cache)), Code::InvalidArgument, &with_schemes(message));
    }
    let cache = format!("file://{}", directory.file("none/cache").display());
    let journal = directory.file("none/cache.r3map-cache");
    let message = format!("cache: {cache}: create {}: No such file or directory (os error 2)", journal.display());
    table.row("no directory", mount(managed().cache(cache)), Code::NotFound, &message);
    let coarse = Arc::new(faults::Aligned::new(Memory::new(1 << 20).unwrap(), 8192));
    let message = "memory:: requests must be multiples of 8192 bytes, and pages of 4096 are kept here: use mode=direct";
    table.row("alignment", managed().open(coarse), Code::Unsupported, message);
    table.check();
}

#[test]
fn a_view_that_a_device_does_not_give_names_those_that_do() {
    let mut table = Table::new();
    let message =
        "a fuse device gives no slice, and a mount keeps the device it has: open it with device=nbd or userfaultfd";
    let fuse = mount(options().device(DeviceChoice::Fuse)).unwrap();
    table.row("slice of fuse", fuse.slice(), Code::Unsupported, message);
    for choice in [DeviceChoice::Userfaultfd, DeviceChoice::UserfaultfdUserMode] {
        let slice = mount(options().device(choice)).unwrap();
        let message =
            "a userfaultfd device gives no path, and a mount keeps the device it has: open it with device=nbd or fuse";
        table.row("path of userfaultfd", slice.path(), Code::Unsupported, message);
        let message =
            "a userfaultfd device gives no file, and a mount keeps the device it has: open it with device=nbd or fuse";
        table.row("file of userfaultfd", slice.file(), Code::Unsupported, message);
    }
    if Kind::Fuse.probe().is_ok() {
        fuse.path().unwrap();
        let message =
            "a fuse device gives no slice, and a mount keeps the device it has: open it with device=nbd or userfaultfd";
        table.row("slice once fuse is attached", fuse.slice(), Code::Unsupported, message);
    }
    let interpreted = Arc::new(Interpreted(Info { managed_runtime: true, ..Info::local("theirs", 4096) }));
    for choice in [DeviceChoice::Auto, DeviceChoice::Userfaultfd] {
        let theirs = options().device(choice).open(interpreted.clone()).unwrap();
        let message = "a slice over a backend written in Go or Python could wait for itself: use read_at and write_at, or serve the backend from another process and mount that";
        table.row("slice over Python", theirs.slice(), Code::Unsupported, message);
    }
    table.check();
}

/// A backend in a language with a lock of its own.
struct Interpreted(Info);

impl Backend for Interpreted {
    fn info(&self) -> &Info {
        &self.0
    }
    fn read_at(&self, _: &mut [u8], _: u64) -> Result<()> {
        Ok(())
    }
    fn write_at(&self, _: &[u8], _: u64) -> Result<()> {
        Ok(())
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_closed_mount_refuses_every_call() {
    for mode in [Mode::Direct, Mode::Managed] {
        let mount = mount(options().mode(mode)).unwrap();
        mount.close().unwrap();
        let mut table = Table::new();
        let mut row = |tried, outcome: Result<()>| table.row(tried, outcome, Code::Closed, "the mount is closed");
        row("read_at", mount.read_at(&mut [0], 0));
        row("write_at", mount.write_at(&[0], 0));
        row("sync", mount.sync());
        row("pull", mount.pull(0, 1));
        row("prefetch", mount.prefetch(0, 1));
        row("missing", mount.missing(0, 1).map(drop));
        row("wait_local", mount.wait_local(1.0, SOON));
        row("next", mount.next(0, SOON).map(drop));
        row("path", mount.path().map(drop));
        row("file", mount.file().map(drop));
        row("slice", mount.slice().map(drop));
        row("stats", mount.stats().map(drop));
        row("close", mount.close());
        row("discard", mount.discard());
        table.check();
    }
}

#[test]
fn a_range_outside_the_region_is_refused_also_where_its_end_overflows() {
    for mode in [Mode::Direct, Mode::Managed] {
        let mount = mount(options().mode(mode)).unwrap();
        let mut table = Table::new();
        for (offset, length) in [(1 << 20, 1), ((1 << 20) - 1, 2), (u64::MAX, 1), (u64::MAX - 3, 4), (1 << 63, 8)] {
            let message = format!("memory:: {length} bytes at {offset} are outside its 1048576 bytes");
            let mut row = |tried, outcome: Result<()>| table.row(tried, outcome, Code::OutOfRange, &message);
            row("read_at", mount.read_at(&mut vec![0; length as usize], offset));
            row("write_at", mount.write_at(&vec![0; length as usize], offset));
            row("pull", mount.pull(offset, length));
            row("prefetch", mount.prefetch(offset, length));
            row("missing", mount.missing(offset, length).map(drop));
        }
        let message = "memory:: 18446744073709551615 bytes at 18446744073709551615 are outside its 1048576 bytes";
        table.row("pull", mount.pull(u64::MAX, u64::MAX), Code::OutOfRange, message);
        table.row("missing", mount.missing(u64::MAX, u64::MAX), Code::OutOfRange, message);
        mount.read_at(&mut [], 1 << 20).unwrap();
        table.check();
        mount.close().unwrap();
    }
}

#[test]
fn a_mount_or_an_export_that_is_read_only_refuses_writes() {
    let mut table = Table::new();
    for mode in [Mode::Direct, Mode::Managed] {
        let mount = mount(options().mode(mode).read_only(true)).unwrap();
        table.row("a mount", mount.write_at(b"x", 0), Code::ReadOnly, "memory: is mounted read-only");
        mount.close().unwrap();
    }
    let directory = Directory::new();
    let server = Server::new(ServerOptions::default()).unwrap();
    server.export("fixed", memory(), &ExportOptions { read_only: true, ..ExportOptions::default() }).unwrap();
    let address = server.listen(&format!("unix:{}", directory.file("socket").display())).unwrap();
    let url = format!("{address}?name=fixed");
    let region = open(&url).unwrap();
    let message = format!("{url} is exported read-only");
    table.row("a backend", region.write_at(b"x", 0), Code::ReadOnly, &message);
    let mount = options().open(region).unwrap();
    table.row("its mount", mount.write_at(b"x", 0), Code::ReadOnly, &format!("{url} is mounted read-only"));
    mount.close().unwrap();
    table.check();
}

#[test]
fn an_export_or_an_address_that_cannot_be_is_refused() {
    let directory = Directory::new();
    let socket = directory.file("socket");
    let server = Server::new(ServerOptions::default()).unwrap();
    server.export("region", memory(), &ExportOptions::default()).unwrap();
    let unix = server.listen(&format!("unix:{}", socket.display())).unwrap();
    let tcp = server.listen("127.0.0.1:0").unwrap();
    let mut table = Table::new();
    let again = server.export("region", memory(), &ExportOptions::default());
    table.row("twice", again, Code::Busy, "something is exported as \"region\" already");
    for (name, wrong) in [("", "is empty"), ("a\0b", "holds a NUL"), (&"x".repeat(256), "has more than 255 bytes")] {
        let start: String = name.chars().take(64).collect();
        let message = format!("the name {start:?} of an export {wrong}");
        let outcome = server.export(name, memory(), &ExportOptions::default());
        table.row("a name", outcome, Code::InvalidArgument, &message);
    }
    for (address, code, message) in [
        ("here", Code::InvalidArgument, "\"here\" is no address to listen at: write HOST:PORT or unix:/PATH".to_owned()),
        ("unix:socket", Code::InvalidArgument, "unix:socket: the path of a socket begins with a slash".to_owned()),
        ("127.0.0.1:70000", Code::InvalidArgument, "\"127.0.0.1:70000\" is no address to listen at: write HOST:PORT or unix:/PATH".to_owned()),
        (&format!("unix:{}", socket.display()), Code::Busy, format!("listen at unix:{}: another server listens there", socket.display())),
        ("0.0.0.0:0", Code::PermissionDenied, "listen at 0.0.0.0:0: 0.0.0.0 is not loopback, and plain TCP would show every byte to the network between: say insecure if that network is trusted, or use TLS or a UNIX socket".to_owned()),
    ] {
        // With TLS a server makes what it needs for it: t191.
        if cfg!(feature = "tls") && address.starts_with("0.") {
            continue;
        }
        table.row(address, server.listen(address), code, &message);
    }
    for url in [format!("{unix}?name=other"), format!("{tcp}/other")] {
        let message = format!("{url}: nothing is exported as \"other\"");
        table.row("an export that is not there", open(&url), Code::NotFound, &message);
    }
    let url = format!("{tcp}/region");
    let token = BackendOptions { token: Some("secret".into()), ..BackendOptions::default() };
    let message = format!("{url}: token needs TLS, which this scheme does not speak");
    table.row("a token", backend::open(&url, &token), Code::InvalidArgument, &message);
    server.close().unwrap();
    table.row("listen after close", server.listen("127.0.0.1:0"), Code::Closed, "the server is closed");
    table.row("close after close", server.close(), Code::Closed, "the server is closed");
    let message = format!("{url}: connect to {}: Connection refused (os error 111)", &tcp["r3map://".len()..]);
    table.row("nobody listens", open(&url), Code::Disconnected, &message);
    let url = format!("{unix}?name=region");
    let message = format!("{url}: connect to {}: No such file or directory (os error 2)", socket.display());
    table.row("no socket", open(&url), Code::NotFound, &message);
    let nobody = Server::new(ServerOptions { max_connections: 0, ..ServerOptions::default() });
    let message = "a server with max_connections=0 would serve nobody";
    table.row("no connections", nobody, Code::InvalidArgument, message);
    table.check();
}

#[test]
fn a_server_that_went_away_is_named_with_the_call_and_the_cause_once_the_deadline_passed() {
    let directory = Directory::new();
    let socket = directory.file("socket");
    let server = Server::new(ServerOptions::default()).unwrap();
    server.export("region", memory(), &ExportOptions::default()).unwrap();
    let address = server.listen(&format!("unix:{}", socket.display())).unwrap();
    let url = format!("{address}?name=region");
    let direct = options().mode(Mode::Direct).deadline(Duration::from_millis(300));
    let mount = direct.open_url(&url, &BackendOptions::default()).unwrap();
    server.close().unwrap();
    let mut table = Table::new();
    let cause = format!("connect to {}: No such file or directory (os error 2)", socket.display());
    let away = format!("there was no connection before the deadline: {cause}");
    let read = || settled(|| mount.read_at(&mut [0; 512], 4096));
    table.row("read", read(), Code::Disconnected, &format!("{url}: read 512 bytes at 4096: {away}"));
    assert!(read().unwrap_err().is_retryable());
    let outcome = settled(|| mount.write_at(&[1; 512], 0));
    table.row("write", outcome, Code::Disconnected, &format!("{url}: write 512 bytes at 0: {away}"));
    mount.discard().unwrap();
    table.check();
}

#[test]
fn a_sync_without_a_server_says_which_bytes_could_not_be_pushed_and_why() {
    let directory = Directory::new();
    let socket = directory.file("socket");
    let server = Server::new(ServerOptions::default()).unwrap();
    server.export("region", memory(), &ExportOptions::default()).unwrap();
    let address = server.listen(&format!("unix:{}", socket.display())).unwrap();
    let url = format!("{address}?name=region");
    let managed = options().mode(Mode::Managed).deadline(Duration::from_millis(300));
    let managed = MountOptions { push_interval: Duration::ZERO, pull: Pull::Demand, ..managed };
    let mount = managed.open_url(&url, &BackendOptions::default()).unwrap();
    server.close().unwrap();
    let mut table = Table::new();
    let cause = format!("connect to {}: No such file or directory (os error 2)", socket.display());
    let away = format!("there was no connection before the deadline: {cause}");
    let outcome = settled(|| mount.pull(8192, 100));
    table.row("pull", outcome, Code::Disconnected, &format!("{url}: read 4096 bytes at 8192: {away}"));
    mount.write_at(&[1; 4096], 4096).unwrap();
    let sync = settled(|| mount.sync());
    table.row("sync", sync, Code::Disconnected, &format!("{url}: write 4096 bytes at 4096: {away}"));
    let message = format!("the mount stays open: {url}: write 4096 bytes at 4096: {away}");
    table.row("close", settled(|| mount.close()), Code::Disconnected, &message);
    mount.discard().unwrap();
    table.check();
}

/// The outcome of a call that fails at its deadline, where the machine gave the one who knows why a moment to say it.
fn settled(call: impl Fn() -> Result<()>) -> Result<()> {
    let is_late = |outcome: &Result<()>| outcome.as_ref().is_err_and(|error| error.code() == Code::Timeout);
    let mut outcome = call();
    for _ in 0..20 {
        if !is_late(&outcome) {
            break;
        }
        outcome = call();
    }
    outcome
}
