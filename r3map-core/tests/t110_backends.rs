//! 110: what every backend keeps to, whatever its kind (tests/backends says which there are without a server).

mod backends;
mod conformance;

use backends::local;

#[test]
fn a_fresh_region_is_zeros_of_exactly_the_size_asked_for() {
    conformance::a_fresh_region_is_zeros_of_exactly_the_size_asked_for(&local());
}

#[test]
fn what_a_backend_says_of_itself_is_within_bounds_and_names_no_secret() {
    conformance::what_a_backend_says_of_itself_is_within_bounds_and_names_no_secret(&local());
}

#[test]
fn random_writes_zeroes_and_reads_agree_with_a_plain_array_at_every_offset_and_length() {
    conformance::random_writes_zeroes_and_reads_agree_with_a_plain_array_at_every_offset_and_length(&local());
}

#[test]
fn what_was_synced_is_there_when_it_is_opened_again() {
    conformance::what_was_synced_is_there_when_it_is_opened_again(&local());
}

#[test]
fn an_access_outside_the_region_is_refused_and_changes_nothing() {
    conformance::an_access_outside_the_region_is_refused_and_changes_nothing(&local());
}

#[test]
fn threads_that_write_disjoint_ranges_of_the_same_pages_and_chunks_lose_nothing() {
    conformance::threads_that_write_disjoint_ranges_of_the_same_pages_and_chunks_lose_nothing(&local());
}

#[test]
fn each_byte_of_overlapping_writes_zeroes_and_reads_is_one_that_somebody_wrote() {
    conformance::each_byte_of_overlapping_writes_zeroes_and_reads_is_one_that_somebody_wrote(&local());
}

#[test]
fn requests_and_calls_do_the_same() {
    conformance::requests_and_calls_do_the_same(&local());
}
