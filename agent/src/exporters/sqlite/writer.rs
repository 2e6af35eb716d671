//! The writer's side: a thread that may wait for the disk.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::{Batch, Database, Failure, Progress, Reader, begin};
use crate::config::Config;
use crate::database::move_aside;
use crate::model::{Labels, Timestamp};

/// How often old rows are looked for.
const RETENTION_EVERY: Duration = Duration::from_secs(3600);
/// The wait after a failure; it doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// A series that fell silent this many minutes before the newest one is not loaded: its process or device is gone.
const LIVELY_MINUTES: i64 = 60;

/// What one series had in the past: name, labels, one value a minute.
#[derive(Debug)]
pub struct History {
    /// Name of the metric.
    pub metric: String,
    /// Its labels.
    pub labels: Labels,
    /// The last value of each minute, at the end of that minute.
    pub samples: Vec<(Timestamp, f64)>,
}

/// Writes what the feed hands over, until the feed has finished. May be run again after a panic.
pub struct Writer {
    path: PathBuf,
    data_dir: PathBuf,
    retention_minutes: i64,
    batches: Receiver<Batch>,
    progress: Arc<Progress>,
    database: Option<Database>,
    next_retention: Instant,
    wait: Duration,
    failing: bool,
    under_way: bool,
    moved_aside: bool,
}

impl Writer {
    /// A writer for the feed's batches.
    pub fn new(config: &Config, batches: Receiver<Batch>, progress: Arc<Progress>) -> Self {
        Self {
            path: super::path(config),
            data_dir: config.agent.data_dir.clone(),
            retention_minutes: i64::try_from(config.storage.sqlite_retention.as_secs() / 60).unwrap_or(i64::MAX),
            batches,
            progress,
            database: None,
            next_retention: Instant::now(),
            wait: FIRST,
            failing: false,
            under_way: false,
            moved_aside: false,
        }
    }

    /// Hands what the database has of these minutes to `take`, series by series, until that says `false`. A database that does
    /// not open is reported, and tried again when there is something to write.
    pub fn load(&mut self, minutes: &Range<i64>, take: &mut dyn FnMut(History) -> bool) {
        let loaded = match self.open() {
            Ok(database) => load(&database.reader(), minutes, take),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = loaded {
            self.failed(&failure);
        }
    }

    /// Writes until the feed has finished.
    pub fn run(&mut self) {
        if std::mem::take(&mut self.under_way) {
            // It was, in a panic; it is read again from the store.
            self.database = None;
            self.progress.busy.store(false, Ordering::Release);
        }
        while !self.progress.off.load(Ordering::Acquire) {
            let Ok(batch) = self.batches.recv() else { return };
            self.under_way = true;
            match self.write(&batch) {
                Ok(()) => self.progress.written_until.store(batch.minutes.end, Ordering::Release),
                Err(failure) => {
                    self.progress.errors.fetch_add(1, Ordering::Relaxed);
                    self.failed(&failure);
                    if !self.rest() {
                        return;
                    }
                }
            }
            self.under_way = false;
            self.progress.busy.store(false, Ordering::Release);
        }
    }

    fn write(&mut self, batch: &Batch) -> Result<(), Failure> {
        self.open()?.write(&batch.rows)?;
        if std::mem::take(&mut self.failing) {
            tracing::info!("storage: {} takes rollups again", self.path.display());
        }
        self.wait = FIRST;
        self.progress.rows.fetch_add(batch.rows.len() as u64, Ordering::Relaxed);
        self.progress.written_until.store(batch.minutes.end, Ordering::Release);
        if Instant::now() >= self.next_retention {
            self.next_retention = Instant::now() + RETENTION_EVERY;
            let progress = Arc::clone(&self.progress);
            let before = batch.minutes.end.saturating_sub(self.retention_minutes);
            self.open()?.remove_before(before, &|| progress.closing.load(Ordering::Acquire))?;
        }
        Ok(())
    }

    /// Waits before another attempt; whether there is to be one. A stop ends the wait: what it has is the last chance of a batch.
    fn rest(&mut self) -> bool {
        let wait = self.wait;
        self.wait = (wait * 2).min(LONGEST);
        match self.batches.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => false,
            Ok(last) => {
                if let Err(failure) = self.write(&last) {
                    self.progress.errors.fetch_add(1, Ordering::Relaxed);
                    let waiting = last.minutes.end - self.progress.written_until.load(Ordering::Acquire);
                    tracing::warn!("storage: the last {waiting} minutes of history are lost: {failure}");
                }
                false
            }
        }
    }

    fn open(&mut self) -> Result<&mut Database, Failure> {
        let database = match self.database.take() {
            Some(database) => database,
            None => Database::open(&self.path, &self.data_dir)?,
        };
        Ok(self.database.insert(database))
    }

    /// Says what is wrong, once, and does about it what can be done.
    fn failed(&mut self, failure: &Failure) {
        // A new connection sees what was repaired meanwhile.
        self.database = None;
        if failure.is_final() {
            tracing::error!("storage: {failure}; history stays in memory only until the next start");
            self.progress.off.store(true, Ordering::Release);
        } else if failure.is_damage() && !self.moved_aside {
            self.moved_aside = true;
            match move_aside(&self.path) {
                Ok(aside) => {
                    tracing::error!("storage: {failure}; moved to {} as it is, and a new one is begun", aside.display());
                    self.wait = FIRST;
                }
                Err(error) => tracing::error!("storage: {failure}; it cannot be moved aside either: {error}"),
            }
        } else if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!("storage: {failure}; history stays in memory meanwhile, and is written when that works again");
        }
    }
}

fn load(reader: &Reader<'_>, minutes: &Range<i64>, take: &mut dyn FnMut(History) -> bool) -> Result<(), Failure> {
    let mut found = reader.series(None, minutes.start)?;
    let newest = found.iter().map(|series| series.seen).max().unwrap_or(0);
    found.retain(|series| series.seen >= newest - LIVELY_MINUTES);
    for series in found {
        let rows = reader.minutes(&series, minutes)?;
        let end = |minute: i64| Timestamp::from_nanos(begin(minute.saturating_add(1)).as_nanos().saturating_sub(1_000_000));
        let samples = rows.into_iter().map(|(minute, rollup)| (end(minute), rollup.last)).collect();
        if !take(History { metric: series.metric, labels: series.labels, samples }) {
            break;
        }
    }
    Ok(())
}
