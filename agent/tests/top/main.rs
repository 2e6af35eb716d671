//! `top`: what a composed state looks like at several sizes, and the real binary in a pipe and in a terminal.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

mod binary;
mod golden;
mod state;
mod terminal;
