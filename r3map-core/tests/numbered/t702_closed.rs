use super::*;

#[test]
fn after_close_every_call_fails_closed() {
    let mount = mount("memory:?size=4096");
    mount.close().unwrap();
    assert_eq!(mount.size(), 4096);
    let calls: [(&str, Result<()>); 9] = [
        ("read_at", mount.read_at(&mut [0], 0)),
        ("write_at", mount.write_at(&[0], 0)),
        ("sync", mount.sync()),
        ("pull", mount.pull(0, 1)),
        ("missing", mount.missing(0, 1).map(drop)),
        ("path", mount.path().map(drop)),
        ("file", mount.file().map(drop)),
        ("slice", mount.slice().map(drop)),
        ("next", mount.next(0, SOON).map(drop)),
    ];
    for (call, outcome) in calls {
        assert_eq!(outcome.map_err(|error| error.code()), Err(Code::Closed), "{call}");
    }
}
