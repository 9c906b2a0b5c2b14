//! 670: a region goes on and on, from process memory to files it was in before, and its app never stops writing but in
//! the pauses. `R3MAP_HOPS=n` makes n of them.

use r3map_core::Code;

mod leeching;
mod seeding;

use leeching::{App, SIZE, Writer, code, leech, read_all, same};
use seeding::{Directory, SOON, mount, pattern, seed};

const HOPS: u64 = 20;

#[test]
fn twenty_hops_in_a_row_under_a_running_writer_lose_no_byte() {
    let hops = std::env::var("R3MAP_HOPS").map_or(HOPS, |hops| hops.parse().expect("R3MAP_HOPS is a number"));
    let directory = Directory::new();
    let files = ["b", "c", "d"].map(|name| directory.url(name));
    let bytes = pattern(SIZE as usize, 21);
    let mut here = mount(&format!("memory:?size={SIZE}"));
    here.write_at(&bytes, 0).unwrap();
    let mut writer = Writer::start(here.clone(), bytes, 1);
    for hop in 1..=hops {
        let seeder = seed(&here);
        let app = App::start(&seeder, writer, &hop.to_le_bytes());
        let place = files.get(hop as usize % 4).map_or("memory:", |file| file);
        let leecher = leech(&seeder, place);
        leecher.wait_local(0.5, SOON).unwrap();
        let next = leecher.finalize().unwrap();
        assert_eq!(next.payload(), hop.to_le_bytes(), "hop {hop}");
        assert_eq!(leecher.stats().unwrap().get("epoch"), Some(hop + 1));
        let bytes = app.bytes();
        // Every second time all of it is looked at before anybody writes, much of which is still under way then.
        if hop % 2 == 0 {
            same(&read_all(&next), &bytes);
        }
        writer = Writer::start(next.clone(), bytes, hop + 1);
        next.wait_local(1.0, SOON).unwrap();
        seeder.wait_drained(SOON).unwrap();
        assert_eq!(code(here.write_at(&[0], 0)), Code::Fenced, "hop {hop}");
        app.join();
        seeder.close().unwrap();
        here.close().unwrap();
        here = next;
    }
    let bytes = writer.stop();
    same(&read_all(&here), &bytes);
    here.close().unwrap();
}
