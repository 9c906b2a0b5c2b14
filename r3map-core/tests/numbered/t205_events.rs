use super::*;

#[test]
fn waiting_for_an_event_ends_with_timeout_where_there_is_none() {
    let mount = mount("memory:?size=4096");
    fails(mount.next(0, Duration::from_millis(1)), Code::Timeout, "");
    mount.close().unwrap();
}
