//! What the program can be told to do: one file a command.

pub mod doctor;
pub mod run;
pub mod validate;
