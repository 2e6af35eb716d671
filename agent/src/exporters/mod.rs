//! What others read of what the engine holds, one file each. Readers only: nothing here changes what the engine does.

pub mod prometheus;
pub mod sqlite;
