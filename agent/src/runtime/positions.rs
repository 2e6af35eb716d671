//! How far each log was read: kept over reloads in memory, over restarts in a small file of the data directory, where there is one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::config::Config;
use crate::logs::{Position, SOURCES};

/// How often the file is written, where something was read.
const EVERY: Duration = Duration::from_secs(10);
/// Far more than it ever takes.
const MAX_BYTES: u64 = 64 << 10;

/// Positions by log; clones are the same.
#[derive(Clone, Default)]
pub struct Positions(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    by_log: BTreeMap<&'static str, Position>,
    /// Where they are kept.
    file: Option<PathBuf>,
    is_changed: bool,
    is_writing: bool,
    written: Option<Instant>,
    said: Option<String>,
}

impl Positions {
    /// Reads those that an agent before this one has left. They are kept only where the data directory exists: nobody asked for it
    /// to be made.
    pub fn load(config: &Config) -> Self {
        let directory = &config.agent.data_dir;
        if !config.log_analyzer.enabled || !directory.is_dir() {
            return Self::default();
        }
        let file = directory.join("log-positions.json");
        let by_log = read(&file).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!("cannot read {}: {error}; logs are read from now on", file.display());
            }
            BTreeMap::new()
        });
        Self(Arc::new(Mutex::new(State { by_log, file: Some(file), ..State::default() })))
    }

    /// Where a log is read on.
    pub fn get(&self, log: &str) -> Option<Position> {
        self.locked().by_log.get(log).cloned()
    }

    /// Whether they outlive the process.
    pub fn are_kept(&self) -> bool {
        self.locked().file.is_some()
    }

    /// A log was read up to here.
    pub fn set(&self, log: &'static str, position: Position) {
        let mut state = self.locked();
        state.by_log.insert(log, position);
        state.is_changed = true;
    }

    /// Writes the file where that is due, in a thread of the runtime's pool.
    pub fn save_sometimes(&self) {
        let state = self.locked();
        if state.file.is_some() && state.is_changed && state.written.is_none_or(|written| written.elapsed() >= EVERY) {
            drop(state);
            let positions = self.clone();
            tokio::task::spawn_blocking(move || positions.save());
        }
    }

    /// Writes the file where something was read since, and says so where that fails; waits no longer than `limit`.
    pub async fn finish(&self, limit: Duration) {
        let positions = self.clone();
        let _ = tokio::time::timeout(limit, tokio::task::spawn_blocking(move || positions.save())).await;
    }

    fn save(&self) {
        let mut state = self.locked();
        let Some(file) = state.file.clone().filter(|_| state.is_changed && !state.is_writing) else { return };
        let text: Map<String, Value> =
            state.by_log.iter().map(|(log, position)| ((*log).to_owned(), position.to_string().into())).collect();
        (state.is_writing, state.is_changed, state.written) = (true, false, Some(Instant::now()));
        drop(state);
        let failed = write(&file, &format!("{:#}\n", Value::Object(text))).err().map(|error| error.to_string());
        let mut state = self.locked();
        state.is_writing = false;
        if let Some(error) = failed.as_ref().filter(|_| state.said != failed) {
            tracing::warn!("cannot write {}: {error}; after a restart logs are read from an earlier place", file.display());
        }
        state.is_changed |= failed.is_some();
        state.said = failed;
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(file: &Path) -> io::Result<BTreeMap<&'static str, Position>> {
    use io::Read as _;
    let mut text = String::new();
    fs::File::open(file)?.take(MAX_BYTES).read_to_string(&mut text)?;
    let positions: Map<String, Value> = serde_json::from_str(&text)?;
    let of = |name: &'static str| Some((name, positions.get(name)?.as_str()?.parse().ok()?));
    Ok(SOURCES.iter().filter_map(|row| of(row.name)).collect())
}

/// The file is whole at any time: another one takes its name.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let new = file.with_extension("json.new");
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?.write_all(text.as_bytes())?;
    fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(directory: &Path) -> Config {
        let mut config = Config::default();
        config.agent.data_dir = directory.to_owned();
        config
    }

    #[test]
    fn what_was_read_is_known_to_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        let positions = Positions::load(&config);
        assert!(positions.are_kept());
        let position = Position::Byte { device: 1, inode: 2, offset: 3 };
        positions.set("syslog", position.clone());
        positions.save();
        assert_eq!(Positions::load(&config).get("syslog"), Some(position));
        // What is not to be understood costs no more than itself.
        fs::write(directory.path().join("log-positions.json"), r#"{"kmsg": "x", "journal": "cursor s=1", "other": 1}"#).unwrap();
        let positions = Positions::load(&config);
        assert_eq!((positions.get("kmsg"), positions.get("journal")), (None, Some(Position::Cursor("s=1".into()))));
        fs::write(directory.path().join("log-positions.json"), "{").unwrap();
        assert_eq!(Positions::load(&config).get("journal"), None);
    }

    #[test]
    fn no_directory_is_made_for_them() {
        let directory = tempfile::tempdir().unwrap();
        let positions = Positions::load(&config(&directory.path().join("none")));
        assert!(!positions.are_kept());
        positions.set("syslog", Position::Cursor("x".into()));
        positions.save();
        assert!(!directory.path().join("none").exists());
    }
}
