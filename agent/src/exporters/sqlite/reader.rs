//! Reading the database, for `history` and for a start.

use std::ops::Range;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::{FILE, Failure, Rollup, labels};
use crate::database;
use crate::model::Labels;

/// A series in the database.
#[derive(Clone, Debug)]
pub struct Found {
    id: i64,
    /// Name of the metric.
    pub metric: String,
    /// Its labels.
    pub labels: Labels,
    /// The last minute with a sample.
    pub seen: i64,
}

/// What is in a database.
pub struct Reader<'a> {
    connection: &'a Connection,
    path: PathBuf,
}

impl<'a> Reader<'a> {
    /// Reads through a connection to the database at `path`.
    pub(super) fn new(connection: &'a Connection, path: &Path) -> Self {
        Self { connection, path: path.to_owned() }
    }

    /// Opens the database at `path` for reading alone and hands its reader to `read`.
    ///
    /// # Errors
    /// [`Failure`], or what `read` returns.
    pub fn with<T, E: From<Failure>>(path: &Path, read: impl FnOnce(&Reader<'_>) -> Result<T, E>) -> Result<T, E> {
        let connection = database::open_to_read(path, &FILE)?;
        read(&Reader::new(&connection, path))
    }

    /// The names of all metrics.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn metrics(&self) -> Result<Vec<String>, Failure> {
        let names = || {
            self.connection
                .prepare("SELECT DISTINCT metric FROM series ORDER BY metric")?
                .query_map([], |row| row.get(0))?
                .collect()
        };
        self.failed(names())
    }

    /// The series that had a sample at `seen` or later, of one metric or of all, by name and labels.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn series(&self, metric: Option<&str>, seen: i64) -> Result<Vec<Found>, Failure> {
        let found = || {
            let mut select = self.connection.prepare(
                "SELECT id, metric, labels, seen FROM series WHERE (?1 IS NULL OR metric = ?1) AND seen >= ?2 ORDER BY metric, labels",
            )?;
            let found = |row: &rusqlite::Row<'_>| {
                let json: String = row.get(2)?;
                Ok(Found { id: row.get(0)?, metric: row.get(1)?, labels: labels(&json), seen: row.get(3)? })
            };
            select.query_map(params![metric, seen], found)?.collect()
        };
        self.failed(found())
    }

    /// The minutes of one series within a range, the oldest first.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn minutes(&self, series: &Found, minutes: &Range<i64>) -> Result<Vec<(i64, Rollup)>, Failure> {
        let rows = || {
            let mut select = self.connection.prepare(
                "SELECT minute, min, mean, max, last, count FROM rollup WHERE series = ?1 AND minute >= ?2 AND minute < ?3 ORDER BY minute",
            )?;
            let rollup = |row: &rusqlite::Row<'_>| {
                let (min, mean, max, last) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
                Ok((row.get(0)?, Rollup { min, mean, max, last, count: row.get(5)? }))
            };
            select.query_map(params![series.id, minutes.start, minutes.end], rollup)?.collect()
        };
        self.failed(rows())
    }

    fn failed<T>(&self, result: rusqlite::Result<T>) -> Result<T, Failure> {
        result.map_err(|error| Failure::sqlite(&self.path, error))
    }
}
