//! The program: parses its arguments, sets up logging, calls a command.

fn main() {}
