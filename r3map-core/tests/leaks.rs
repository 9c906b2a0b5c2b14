//! Alone in its process, so that descriptors and threads can be counted.

use std::time::{Duration, Instant};

use r3map_core::{Backend, ExportOptions};

#[path = "wire/support/mod.rs"]
#[allow(dead_code)]
mod support;

use support::{memory_server, open, read, server, tempdir};

fn entries(path: &str) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

/// Waits until as few descriptors and threads are left as before: they end soon after, not at once.
fn expect_back_to(descriptors: usize, threads: usize) {
    let until = Instant::now() + support::SOON;
    while entries("/proc/self/fd") > descriptors || entries("/proc/self/task") > threads {
        let (now, threads_now) = (entries("/proc/self/fd"), entries("/proc/self/task"));
        assert!(Instant::now() < until, "{now} descriptors, had {descriptors}; {threads_now} threads, had {threads}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn hundreds_of_connects_and_closes_leave_no_descriptor_and_no_thread_behind() {
    let (outer, url, memory) = memory_server("region", 1 << 20);
    memory.write_at(&[5; 100], 0).unwrap();
    drop(open(&format!("{url}/region")).unwrap());
    let directory = tempdir();
    // A listening server is what stays: its socket and its thread.
    expect_back_to(entries("/proc/self/fd"), 3);
    let (descriptors, threads) = (entries("/proc/self/fd"), entries("/proc/self/task"));
    for round in 0..300 {
        let backend = open(&format!("{url}/region")).unwrap();
        assert_eq!(read(&backend, 100, 0), [5; 100]);
        if round % 2 == 0 {
            backend.close().unwrap();
        }
        assert!(open(&format!("{url}/nothing")).is_err());
    }
    expect_back_to(descriptors, threads);
    for _ in 0..100 {
        let server = server();
        server.export("region", memory.clone(), &ExportOptions::default()).unwrap();
        let url = server.listen(&format!("unix:{}/socket", directory.path().display())).unwrap();
        let backend = open(&format!("{url}?name=region")).unwrap();
        assert_eq!(read(&backend, 100, 0), [5; 100]);
        server.close().unwrap();
    }
    expect_back_to(descriptors, threads);
    outer.close().unwrap();
    expect_back_to(descriptors - 1, threads - 1);
}
