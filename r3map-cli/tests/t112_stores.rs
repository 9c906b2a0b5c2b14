//! `copy` and `info` on a real network store.
#![cfg(feature = "redis")]
#![allow(missing_docs)]

#[path = "../../r3map-core/tests/backends/mod.rs"]
mod backends;
#[path = "../../r3map-core/tests/servers/mod.rs"]
mod servers;
#[path = "../../tests/skip.rs"]
mod skip;
mod support;

use support::{Directory, r3map, same, succeeds};

#[test]
fn copy_fills_a_redis_and_takes_it_back_and_its_password_is_shown_nowhere() {
    if !servers::is_here("redis-server") {
        return skip::skip("redis-server is not installed: scripts/setup test");
    }
    let redis = servers::Redis::start(&["--requirepass", "not-to-be-seen"]);
    let directory = Directory::new();
    let (from, bytes) = directory.file("from", 3_000_001);
    let url = |rest: &str| redis.url(rest).replace("redis://", "redis://:not-to-be-seen@");
    let mut shown = vec![r3map(&["copy", &from, &url("key=region&chunk=100000")])];
    shown.push(r3map(&["info", &url("key=region&chunk=100000&size=3000001")]));
    shown.push(r3map(&["info", "--json", &url("key=region&chunk=100000&size=3000001")]));
    assert!(shown[1].out.contains("size        3000001"), "{}", shown[1].out);
    assert!(shown.iter().all(|outcome| outcome.status == 0), "{}", shown[0].err);
    shown.push(r3map(&["info", &url("key=region")]));
    shown.push(r3map(&["info", &url("key=region&size=x")]));
    shown.push(r3map(&["info", &url("what=region&size=1")]));
    assert!(shown[3..].iter().all(|outcome| outcome.status == 1));
    for outcome in &shown {
        assert!(!format!("{}{}", outcome.out, outcome.err).contains("not-to-be-seen"), "{}", outcome.err);
    }
    succeeds(&["copy", &url("key=region&chunk=100000&size=3000001"), &directory.url("back")]);
    assert!(same(&directory.path("back"), &bytes));
}
