//! Exit status, messages, `doctor` and the manual.
#![allow(missing_docs)]

mod support;
use support::{Directory, r3map, r3map_with_log, succeeds};

#[test]
fn an_unknown_command_or_flag_or_a_missing_argument_leaves_with_2() {
    for wrong in [
        &["moutn"][..],
        &[],
        &["info"],
        &["copy", "memory:"],
        &["info", "memory:?size=1", "--no-such-flag"],
        &["serve"],
        &["serve", "--name", "x", "--export", "y=memory:?size=1"],
        &["mount", "memory:?size=1", "--read-only", "yes"],
    ] {
        let outcome = r3map(wrong);
        assert_eq!((outcome.status, outcome.out.as_str()), (2, ""), "{wrong:?}: {}", outcome.err);
    }
}

#[test]
fn a_refused_value_leaves_with_1_and_one_line_that_says_what_and_why() {
    let schemes = r3map_core::url::SCHEMES.join(" ");
    for (arguments, message) in [
        (&["info", "fiel:///x"][..], "unknown scheme \"fiel\"; did you mean \"file\"?"),
        (&["info", "model.bin"], &format!("\"model.bin\" is not a URL: it has no scheme; one of {schemes}")),
        (&["info", "memory:"], "memory: needs a size, such as memory:?size=1GiB"),
        (&["info", "memory:?sice=1"], "memory:?sice=1: unknown parameter \"sice\"; did you mean \"size\"?"),
        (&["info", "r3map://u:secret@h/x"], "a r3map URL takes no password: secrets come from options or files"),
        (&["mount", "memory:?size=1", "--device=fuze"], "device: unknown value \"fuze\"; did you mean \"fuse\"?"),
        (&["mount", "memory:?size=1", "--pull", "demnd"], "pull: unknown value \"demnd\"; did you mean \"demand\"?"),
        (
            &["mount", "memory:?size=1", "--chunk-size", "5000"],
            "chunk_size: 5000 is not a power of two from 4 KiB to 32 MiB",
        ),
        (
            &["copy", "memory:?size=1", "memory:", "--deadline", "soon"],
            "deadline: \"soon\" is not a time: seconds, or a number with ms s m h",
        ),
        (
            &["copy", "memory:?size=1", "memory:", "--max-in-flight", "0"],
            "max_in_flight: 0 bytes would never move anything",
        ),
        (&["serve", "--export", "x=fiel:///y"], "unknown scheme \"fiel\"; did you mean \"file\"?"),
        (&["serve", "--export", "x"], "export: \"x\" is not NAME=URL"),
    ] {
        let outcome = r3map(arguments);
        assert_eq!((outcome.status, outcome.out.as_str()), (1, ""), "{arguments:?}");
        assert_eq!(outcome.err, format!("r3map: {message}\n"), "{arguments:?}");
    }
}

#[test]
fn a_failure_is_json_where_json_was_asked_for() {
    let outcome = r3map(&["info", "--json", "file:///no/such/file"]);
    assert_eq!((outcome.status, outcome.out.as_str()), (1, ""));
    let error: serde_json::Value = serde_json::from_str(&outcome.err).unwrap();
    assert_eq!((&error["event"], &error["code"]), (&"error".into(), &"not_found".into()));
    assert_eq!(error["message"], "open file:///no/such/file: No such file or directory (os error 2)");
}

#[test]
fn the_log_of_the_library_is_as_long_as_the_environment_says() {
    let mount = ["mount", "memory:?size=4096", "--device=fuse", "--", "true"];
    let outcome = r3map_with_log("debug", &mount);
    assert_eq!(outcome.status, 0, "{}", outcome.err);
    assert!(outcome.err.contains("r3map: DEBUG r3map::device::fuse: fuse: attached"), "{}", outcome.err);
    assert!(!r3map_with_log("off", &mount).err.contains("r3map::device"));
    let outcome = r3map_with_log("lots", &mount);
    let message = "r3map: R3MAP_LOG: unknown log level \"lots\"; known: off error warn info debug trace\n";
    assert_eq!((outcome.status, outcome.err.as_str()), (1, message));
}

#[test]
fn doctor_says_of_every_device_whether_it_works() {
    let report: serde_json::Value = serde_json::from_str(&succeeds(&["doctor", "--json"])).unwrap();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(report["kernel"], kernel.trim());
    let devices = report["devices"].as_array().unwrap();
    let names: Vec<_> = devices.iter().map(|device| device["device"].as_str().unwrap()).collect();
    assert_eq!(names, ["userfaultfd", "nbd", "fuse"]);
    let text = succeeds(&["doctor"]);
    assert!(text.contains(kernel.trim()));
    for device in devices {
        let (name, usable) = (device["device"].as_str().unwrap(), device["usable"].as_bool().unwrap());
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        assert_eq!(line.contains(" yes"), usable, "{line}");
        assert_eq!(device["reason"].is_string(), !usable, "{device}");
    }
}

#[test]
fn the_manual_has_a_page_for_each_verb() {
    let directory = Directory::new();
    std::fs::create_dir(directory.path("man")).unwrap();
    succeeds(&["man", directory.path("man").to_str().unwrap()]);
    for page in ["r3map", "r3map-serve", "r3map-mount", "r3map-copy", "r3map-info", "r3map-doctor"] {
        let text = std::fs::read_to_string(directory.path("man").join(format!("{page}.1"))).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
    assert!(!directory.path("man/r3map-man.1").exists());
}
