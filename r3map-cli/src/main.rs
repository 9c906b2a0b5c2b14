//! The r3map command.

fn main() {}
