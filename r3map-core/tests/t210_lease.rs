//! 210: one writer an export, many readers.

use std::sync::Arc;
use std::time::Instant;

use r3map_chaos::{Conditions, Direction, Network};
use r3map_core::backend::memory::Memory;
use r3map_core::{
    BackendOptions, Code, ExportOptions, Mode, Mount, MountOptions, Pull, Server, ServerOptions, backend,
};

struct Place {
    server: Server,
    directory: std::path::PathBuf,
}

impl Place {
    fn new(name: &str) -> Place {
        let directory = std::env::temp_dir().join(format!("r3map-lease-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let server = Server::new(ServerOptions::default()).unwrap();
        server.export("region", Arc::new(Memory::new(1 << 20).unwrap()), &ExportOptions::default()).unwrap();
        server.listen(&format!("unix:{}", directory.join("socket").display())).unwrap();
        Place { server, directory }
    }

    fn url(&self) -> String {
        format!("r3map+unix://{}?name=region", self.directory.join("socket").display())
    }

    fn mount(&self, read_only: bool) -> r3map_core::Result<Mount> {
        let options = Mount::options().read_only(read_only).mode(Mode::Managed);
        options.open_url(&self.url(), &BackendOptions::default())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.server.close();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn a_second_writer_is_busy_with_the_name_of_the_first_until_that_closes() {
    let place = Place::new("second");
    let first = place.mount(false).unwrap();
    let error = place.mount(false).err().unwrap();
    assert_eq!(error.code(), Code::Busy);
    let name = format!("[{}]@", std::process::id());
    assert!(error.message().contains(&name) && error.message().contains("writes to this export"), "{error}");
    let reader = place.mount(true).unwrap();
    first.write_at(b"from the writer", 0).unwrap();
    first.close().unwrap();
    let mut seen = [0; 15];
    reader.read_at(&mut seen, 0).unwrap();
    let second = place.mount(false).unwrap();
    second.write_at(b"x", 0).unwrap();
    second.close().unwrap();
    reader.close().unwrap();
}

#[test]
fn a_mount_that_may_write_has_the_lease_with_its_greeting_and_says_no_more_than_one_that_only_reads() {
    let place = Place::new("greeting");
    let socket = format!("unix:{}", place.directory.join("socket").display());
    let mount = |read_only: bool| {
        let network = Network::to(&socket, Conditions::default()).unwrap();
        let options = Mount::options().read_only(read_only).mode(Mode::Managed);
        let options = MountOptions { pull: Pull::Demand, ..options };
        let mount = options.open_url(&network.url("region"), &BackendOptions::default()).unwrap();
        (network.passed(Direction::Up), mount, network)
    };
    let (reading, reader, _near) = mount(true);
    let (writing, writer, _far) = mount(false);
    assert_eq!(writing, reading);
    assert_eq!(place.mount(false).err().unwrap().code(), Code::Busy);
    writer.write_at(b"x", 0).unwrap();
    writer.close().unwrap();
    place.mount(false).unwrap().close().unwrap();
    reader.close().unwrap();
}

#[test]
fn a_first_write_without_a_mount_takes_the_lease_too() {
    let place = Place::new("write");
    let writer = backend::open(&place.url(), &BackendOptions::default()).unwrap();
    let reader = backend::open(&place.url(), &BackendOptions::default()).unwrap();
    writer.write_at(b"mine", 0).unwrap();
    assert_eq!(reader.write_at(b"yours", 0).unwrap_err().code(), Code::Busy);
    let mut seen = [0; 4];
    reader.read_at(&mut seen, 0).unwrap();
    assert_eq!(&seen, b"mine");
    writer.close().unwrap();
    reader.write_at(b"ours", 0).unwrap();
}

#[test]
fn a_writer_that_is_killed_keeps_the_lease_for_five_seconds_and_no_longer() {
    let place = Place::new("killed");
    if let Some(url) = std::env::var_os("R3MAP_TEST_WRITER") {
        let writer = backend::open(url.to_str().unwrap(), &BackendOptions::default()).unwrap();
        writer.write_at(b"then it was killed", 0).unwrap();
        println!("written");
        std::thread::sleep(std::time::Duration::from_secs(60));
        return;
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_writer_that_is_killed_keeps_the_lease_for_five_seconds_and_no_longer", "--nocapture"])
        .env("R3MAP_TEST_WRITER", place.url())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.map_while(Result::ok).any(|line| line.contains("written")));
    assert_eq!(place.mount(false).err().unwrap().code(), Code::Busy, "while it lives");
    child.kill().unwrap();
    child.wait().unwrap();
    let begin = Instant::now();
    let next = place.mount(false).unwrap();
    assert!(begin.elapsed().as_secs_f64() > 3.0, "it might have come back");
    let mut seen = [0; 18];
    next.read_at(&mut seen, 0).unwrap();
    assert_eq!(&seen, b"then it was killed");
    next.close().unwrap();
}
