//! The native protocol between a real client and a real server, and what happens when either misbehaves.

mod round_trips;
mod support;
