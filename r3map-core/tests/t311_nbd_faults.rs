//! The kernel NBD device when processes die or fight over it.

mod nbd;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nbd::{attached, machine, memory, mount, wait_until};
use r3map_core::device::Kind;
use r3map_core::{Code, DeviceChoice, Mount};

const ROLE: &str = "R3MAP_TEST_ROLE";

/// This test again, in a process of its own that plays a role.
fn spawn(test: &str, role: &str) -> Child {
    command(test, role).spawn().unwrap()
}

fn command(test: &str, role: &str) -> Command {
    command_of(&std::env::current_exe().unwrap(), test, role)
}

fn command_of(program: &Path, test: &str, role: &str) -> Command {
    let mut command = Command::new(program);
    command.args([test, "--exact", "--nocapture"]).env(ROLE, role);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Tells the parent a word, on a line of its own.
fn tell(word: &str) {
    println!("\n=> {word}");
    std::io::stdout().flush().unwrap();
}

/// The next word that a child tells.
fn hear(child: &mut Child) -> String {
    let output = child.stdout.take().unwrap();
    let mut reader = BufReader::new(output);
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 0 {
        if let Some(word) = line.strip_prefix("=> ") {
            let word = word.trim().to_owned();
            child.stdout = Some(reader.into_inner());
            return word;
        }
        line.clear();
    }
    panic!("the child ended without a word");
}

#[test]
fn a_killed_process_with_dirty_pages_is_gone_in_seconds_and_its_device_free() {
    if role().is_some() {
        let mount = mount(memory(64 << 20));
        let slice = mount.slice().unwrap();
        // SAFETY: nobody else touches the region.
        let bytes = unsafe { slice.as_mut_slice() };
        for page in 0..1000 {
            bytes[page * 4096] = 1;
        }
        tell(mount.path().unwrap().to_str().unwrap());
        // Still writing when it is killed.
        loop {
            for page in 1000..16_000 {
                bytes[page * 4096] = bytes[page * 4096].wrapping_add(1);
            }
        }
    }
    let Some(_machine) = machine() else { return };
    for _ in 0..3 {
        let mut child = spawn("a_killed_process_with_dirty_pages_is_gone_in_seconds_and_its_device_free", "victim");
        let path = hear(&mut child);
        assert_eq!(attached().len(), 1);
        let begun = Instant::now();
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until("the device is free", || attached().is_empty());
        // Its request deadline, at most, and some; not a hang that something ended.
        assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());

        let next = Mount::options().device(DeviceChoice::Nbd(Some(path.into()))).open(memory(1 << 20)).unwrap();
        let mut bytes = [1; 4096];
        next.path().unwrap();
        next.read_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [0; 4096], "nothing of the dead one's is left in the cache");
        next.close().unwrap();
    }
}

#[test]
fn a_process_killed_while_its_backend_is_stuck_is_gone_too() {
    if role().is_some() {
        let silent = nbd::Silent::new(1 << 20);
        let mount = nbd::options().open(silent.clone()).unwrap();
        let slice = mount.slice().unwrap();
        thread::spawn(move || {
            wait_until("the fault is at the backend", || silent.asked() > 0);
            tell("stuck");
        });
        // SAFETY: nobody else touches the region.
        let byte = unsafe { std::ptr::read_volatile(slice.as_ptr()) };
        panic!("a backend that never answers gave {byte}");
    }
    let Some(_machine) = machine() else { return };
    let mut child = spawn("a_process_killed_while_its_backend_is_stuck_is_gone_too", "victim");
    assert_eq!(hear(&mut child), "stuck");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the device is free", || attached().is_empty());
}

#[test]
fn a_process_that_ends_without_closing_leaves_its_device_free() {
    if role().is_some() {
        let mount = mount(memory(1 << 20));
        mount.write_at(b"dirty", 0).unwrap();
        mount.path().unwrap();
        mount.write_at(b"dirty", 8192).unwrap();
        tell("attached");
        std::process::exit(0);
    }
    let Some(_machine) = machine() else { return };
    let mut child = spawn("a_process_that_ends_without_closing_leaves_its_device_free", "victim");
    hear(&mut child);
    assert!(child.wait().unwrap().success());
    wait_until("the device is free", || attached().is_empty());
}

#[test]
fn of_processes_that_claim_one_device_exactly_one_wins() {
    if role().is_some() {
        // Everybody waits for the starting shot.
        tell("ready");
        std::io::stdin().read_exact(&mut [0]).unwrap();
        let device = DeviceChoice::Nbd(Some("/dev/nbd3".into()));
        let mount = Mount::options().device(device).open(memory(1 << 20)).unwrap();
        match mount.path() {
            Ok(_) => tell("won"),
            Err(error) if error.code() == Code::Busy => tell("busy"),
            Err(error) => tell(&format!("failed: {error}")),
        }
        std::io::stdin().read_exact(&mut [0]).unwrap();
        if mount.device().is_some() {
            // It is really the winner's.
            let file = mount.file().unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, b"mine", 4096).unwrap();
            file.sync_all().unwrap();
        }
        mount.close().unwrap();
        tell("served");
        return;
    }
    let Some(_machine) = machine() else { return };
    for round in 0..10 {
        let mut racers: Vec<Child> =
            (0..4).map(|_| spawn("of_processes_that_claim_one_device_exactly_one_wins", "racer")).collect();
        for racer in &mut racers {
            assert_eq!(hear(racer), "ready");
        }
        let go = |racers: &mut Vec<Child>| {
            for racer in racers {
                racer.stdin.as_mut().unwrap().write_all(b"!").unwrap();
            }
        };
        go(&mut racers);
        let mut told: Vec<String> = racers.iter_mut().map(hear).collect();
        told.sort();
        assert_eq!(told, ["busy", "busy", "busy", "won"], "round {round}");
        go(&mut racers);
        for racer in &mut racers {
            assert_eq!(hear(racer), "served", "round {round}");
            assert!(racer.wait().unwrap().success());
        }
        wait_until("the device is free", || attached().is_empty());
    }
}

#[test]
fn threads_of_one_process_that_attach_at_once_each_get_a_device_of_their_own() {
    let Some(_machine) = machine() else { return };
    for _ in 0..5 {
        let mounts: Vec<Mount> = (0..6).map(|_| mount(memory(1 << 20))).collect();
        let mut paths: Vec<_> = thread::scope(|scope| {
            let tasks: Vec<_> = mounts.iter().map(|mount| scope.spawn(|| mount.path().unwrap())).collect();
            tasks.into_iter().map(|task| task.join().unwrap()).collect()
        });
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), mounts.len());
        for mount in mounts {
            mount.close().unwrap();
        }
    }
    assert_eq!(attached(), Vec::<String>::new());
}

#[test]
fn a_device_that_somebody_kept_open_is_passed_over_until_he_lets_go() {
    let Some(_machine) = machine() else { return };
    let first = mount(memory(1 << 20));
    let path = first.path().unwrap();
    let kept = std::fs::File::open(&path).unwrap();
    first.close().unwrap();
    let second = mount(memory(1 << 20));
    assert_ne!(second.path().unwrap(), path);
    second.close().unwrap();
    drop(kept);
    wait_until("the device is free", || attached().is_empty());
    let third = mount(memory(1 << 20));
    assert_eq!(third.path().unwrap(), path);
    third.close().unwrap();
}

#[test]
fn without_the_privilege_the_error_says_what_is_needed() {
    const NAME: &str = "without_the_privilege_the_error_says_what_is_needed";
    if role().is_some() {
        let error = Kind::Nbd.probe().unwrap_err();
        return tell(&format!("{}: {error}", error.code().name()));
    }
    let Some(_machine) = machine() else { return };
    // Where another user may run it: the build's own folder may be closed to others.
    let program = std::env::temp_dir().join(format!("r3map-t311-{}", std::process::id()));
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut child = command_of(&program, NAME, "nobody").uid(65534).gid(65534).spawn().unwrap();
    assert_eq!(
        hear(&mut child),
        "permission_denied: attaching an NBD device needs root, or the capability CAP_SYS_ADMIN"
    );
    assert!(child.wait().unwrap().success());
    std::fs::remove_file(program).unwrap();
}

#[test]
fn without_the_module_the_error_says_how_to_get_it() {
    let probed = Kind::Nbd.probe();
    if std::fs::exists("/sys/module/nbd").unwrap() {
        assert_ne!(probed.err().map(|error| error.code()), Some(Code::NoDevice));
        return;
    }
    let error = probed.unwrap_err();
    assert_eq!(error.code(), Code::NoDevice);
    assert_eq!(error.message(), "this kernel has no NBD devices: `modprobe nbd` loads them");
    assert_eq!(mount(memory(4096)).path().unwrap_err().code(), Code::NoDevice);
    let device = DeviceChoice::Nbd(Some("/dev/nbd0".into()));
    let error = Mount::options().device(device).open(memory(4096)).unwrap().path().unwrap_err();
    assert_eq!(error.message(), "this kernel has no NBD devices: `modprobe nbd` loads them");
}
