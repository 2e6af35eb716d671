//! What others read of the engine's store. Readers only: nothing here changes what the engine does.

pub mod sqlite;
