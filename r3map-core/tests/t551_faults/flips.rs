//! Row 28: bits that flip on the way are found by checksums, and what they belong to is sent again.

use r3map_chaos::Fault;
use r3map_core::device::Kind;

use crate::by_every_way;
use crate::cuts::{at_chosen_bytes, at_every_byte};

#[test]
fn row_28_a_bit_that_flips_in_any_byte_of_a_conversation_does_not_show() {
    at_every_byte(Fault::Corrupt);
}

by_every_way!(row_28_bits_that_flip_amid_reads_writes_and_syncs_do_not_show, |way| {
    at_chosen_bytes(way, &[Fault::Corrupt]);
});
