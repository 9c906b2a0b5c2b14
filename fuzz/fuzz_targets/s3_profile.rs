#![no_main]

r3map_fuzz::fuzz!("s3_profile");
