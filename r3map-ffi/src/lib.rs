//! The C ABI of r3map.
