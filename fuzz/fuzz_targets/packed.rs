#![no_main]

r3map_fuzz::fuzz!("packed");
