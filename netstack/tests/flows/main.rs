//! Two stacks back to back on a virtual link with a clock of its own: what one end sends, the other must get, whatever
//! the link does. Nothing here sleeps or opens a socket.
#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "the whole crate is tests; lints make exceptions only for the functions marked as such"
)]

mod cut;
mod datagrams;
mod link;
mod openings;
mod pair;
mod paths;
mod robustness;
mod throughput;
mod transfers;
