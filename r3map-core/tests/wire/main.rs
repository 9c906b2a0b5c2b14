//! The native protocol between a real client and a real server, and what happens when either misbehaves.

mod faults;
mod frames;
mod migration;
mod restarts;
mod round_trips;
mod server;
mod sessions;
mod support;
