use super::*;

#[test]
fn stats_are_figures_by_name() {
    let mount = mount("memory:?size=8192");
    mount.write_at(&[0; 100], 0).unwrap();
    mount.read_at(&mut [0; 60], 0).unwrap();
    mount.read_at(&mut [0; 40], 0).unwrap();
    let stats = mount.stats().unwrap();
    let figures = ["size", "reads", "bytes_read", "writes", "bytes_written"].map(|name| stats.get(name).unwrap());
    assert_eq!(figures, [8192, 2, 100, 1, 100]);
    assert_eq!(stats.get("rads"), None);
    assert!(stats.iter().all(|(name, value)| stats.get(name) == Some(value)));
    mount.close().unwrap();
}
