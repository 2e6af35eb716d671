//! The SQLite database of rollups: its schema, writing, retention.
//!
//! Two tables (<https://sqlite.org/withoutrowid.html>): `series`, one row a series, and `rollup`, one row a series and minute.
//! WAL with `synchronous = NORMAL`: a kill at any moment leaves the database whole, a loss of power may cost the last writes.
//! Nothing here is done in the engine's thread: every call may take as long as the disk does.

mod reader;
mod rollup;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, params};

pub use reader::{Found, Reader};
pub use rollup::{Batch, Feed, METRICS, Progress, Rollup, Row, begin, minute, rollups};
pub use writer::{History, Writer};

pub use crate::database::Failure;

use crate::config::Config;
use crate::database::{self, Schema};
use crate::model::{Labels, SeriesKey};

/// The version of the schema, in `user_version`.
const SCHEMA: i64 = 1;
/// Series from which old rows are removed in one transaction.
const SERIES_AT_A_TIME: usize = 64;
/// Most minutes of a series that one removal takes: a day.
const MINUTES_AT_A_TIME: i64 = 1440;
/// Pages given back to the file system in one transaction.
const PAGES_AT_A_TIME: u32 = 256;

const TABLES: &str = "
    CREATE TABLE series (
        id INTEGER PRIMARY KEY,
        metric TEXT NOT NULL,
        labels TEXT NOT NULL, -- a JSON object, sorted by name
        seen INTEGER NOT NULL, -- the last minute with a sample
        UNIQUE (metric, labels)
    );
    CREATE TABLE rollup (
        series INTEGER NOT NULL REFERENCES series (id),
        minute INTEGER NOT NULL, -- since the Unix epoch
        min REAL NOT NULL,
        mean REAL NOT NULL,
        max REAL NOT NULL,
        last REAL NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (series, minute)
    ) WITHOUT ROWID;
";

/// A minute that is there already was begun by an earlier process, or the clock was set back: both parts belong to it.
const INSERT: &str = "
    INSERT INTO rollup (series, minute, min, mean, max, last, count) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
    ON CONFLICT (series, minute) DO UPDATE SET
        min = min(min, excluded.min),
        mean = mean + (excluded.mean - mean) * excluded.count / (count + excluded.count),
        max = max(max, excluded.max),
        last = excluded.last,
        count = count + excluded.count";

const FILE: Schema = Schema { version: SCHEMA, tables: TABLES, survives_power_loss: false, key: "[storage] sqlite_path" };

/// The database of a configuration.
pub fn path(config: &Config) -> PathBuf {
    config.storage.sqlite_path.clone().unwrap_or_else(|| config.agent.data_dir.join("metrics.db"))
}

/// An open database.
pub struct Database {
    path: PathBuf,
    connection: Connection,
    /// Ids of series that were written before.
    ids: HashMap<SeriesKey, i64>,
}

impl Database {
    /// Opens the database, and makes it where it is not there. Its directory is made where it lies in `data_dir`.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn open(path: &Path, data_dir: &Path) -> Result<Self, Failure> {
        let connection = database::open(path, data_dir, &FILE)?;
        Ok(Self { path: path.to_owned(), connection, ids: HashMap::new() })
    }

    /// Writes rows, all or none.
    ///
    /// # Errors
    /// [`Failure`]; the database is as it was.
    pub fn write(&mut self, rows: &[Row]) -> Result<(), Failure> {
        let result = write(&mut self.connection, &mut self.ids, rows);
        if result.is_err() {
            // Some may be of a transaction that is undone.
            self.ids.clear();
        }
        result.map_err(|error| Failure::sqlite(&self.path, error))
    }

    /// Removes what is older than `minute`, in many small transactions, and gives the room back to the file system. Ends early
    /// when `stop` says so. The rows that went.
    ///
    /// # Errors
    /// [`Failure`]; what was removed before stays removed.
    pub fn remove_before(&mut self, minute: i64, stop: &dyn Fn() -> bool) -> Result<usize, Failure> {
        self.ids.clear();
        remove_before(&mut self.connection, minute, stop).map_err(|error| Failure::sqlite(&self.path, error))
    }

    /// What is in it.
    pub fn reader(&self) -> Reader<'_> {
        Reader::new(&self.connection, &self.path)
    }
}

fn write(connection: &mut Connection, ids: &mut HashMap<SeriesKey, i64>, rows: &[Row]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction.prepare(INSERT)?;
        let mut seen = transaction.prepare("UPDATE series SET seen = max(seen, ?2) WHERE id = ?1")?;
        let mut add = transaction.prepare(
            "INSERT INTO series (metric, labels, seen) VALUES (?1, ?2, ?3)
             ON CONFLICT (metric, labels) DO UPDATE SET seen = max(seen, excluded.seen) RETURNING id",
        )?;
        let mut before = None;
        for Row { series, minute, rollup } in rows {
            let id = match ids.get(series) {
                Some(id) => *id,
                None => {
                    let labels = json(series.labels());
                    let id = add.query_row(params![series.metric().name, labels, minute], |row| row.get(0))?;
                    ids.insert(series.clone(), id);
                    id
                }
            };
            let Rollup { min, mean, max, last, count } = rollup;
            insert.execute(params![id, minute, min, mean, max, last, count])?;
            // Rows of one series stand together: once for all of them is enough.
            if let Some((other, minute)) = before.replace((id, *minute)).filter(|(other, _)| *other != id) {
                seen.execute(params![other, minute])?;
            }
        }
        if let Some((id, minute)) = before {
            seen.execute(params![id, minute])?;
        }
    }
    transaction.commit()
}

fn remove_before(connection: &mut Connection, minute: i64, stop: &dyn Fn() -> bool) -> rusqlite::Result<usize> {
    let ids: Vec<i64> =
        connection.prepare("SELECT id FROM series")?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut removed = 0;
    for ids in ids.chunks(SERIES_AT_A_TIME) {
        loop {
            if stop() {
                return Ok(removed);
            }
            let transaction = connection.transaction()?;
            let mut now = 0;
            for id in ids {
                let first: Option<i64> = transaction
                    .prepare("SELECT minute FROM rollup WHERE series = ?1 AND minute < ?2 ORDER BY minute LIMIT 1")?
                    .query_row(params![id, minute], |row| row.get(0))
                    .optional()?;
                let Some(first) = first else { continue };
                let until = minute.min(first.saturating_add(MINUTES_AT_A_TIME));
                now += transaction.execute("DELETE FROM rollup WHERE series = ?1 AND minute < ?2", params![id, until])?;
            }
            transaction.commit()?;
            removed += now;
            if now == 0 {
                break;
            }
        }
    }
    connection.execute(
        "DELETE FROM series WHERE seen < ?1 AND NOT EXISTS (SELECT 1 FROM rollup WHERE series = series.id)",
        params![minute],
    )?;
    while !stop() && connection.query_row("PRAGMA freelist_count", [], |row| row.get::<_, i64>(0))? > 0 {
        // One page is freed by step of the statement.
        let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({PAGES_AT_A_TIME})"))?;
        let mut steps = vacuum.query([])?;
        while steps.next()?.is_some() {}
    }
    Ok(removed)
}

/// Labels as a JSON object, by name.
fn json(labels: &Labels) -> String {
    let object: serde_json::Map<_, _> = labels.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    serde_json::Value::Object(object).to_string()
}

/// Labels of a JSON object; none where it is something else.
fn labels(json: &str) -> Labels {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json).unwrap_or_default();
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    object.into_iter().fold(Labels::new(), |labels, (name, value)| labels.with(name, text(value)))
}

#[cfg(test)]
mod tests;
