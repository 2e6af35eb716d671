//! The thread that keeps `alerts.db`, and may wait for the disk.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use super::{Change, Command, Restored, Stats, file};
use crate::database::{self, Failure};
use crate::model::Timestamp;

/// Commands that are taken into one transaction, at most.
const BATCH: usize = 4096;
/// How often other processes' changes are looked for.
const LOOK: Duration = Duration::from_secs(2);
/// Changes after which the file's size is looked at.
const PRUNE_EVERY: usize = 1024;

/// Keeps the outbox, until every [`Outbox`](super::Outbox) is gone. May be run again after a panic.
pub struct Keeper {
    path: PathBuf,
    data_dir: PathBuf,
    max_size: u64,
    commands: Receiver<Command>,
    stats: Arc<Stats>,
    connection: Option<Connection>,
    /// `PRAGMA data_version` as it was last seen: it changes when another process writes.
    version: Option<i64>,
    /// Time of the newest alert that was written.
    now: Timestamp,
    unpruned: usize,
    is_failing: bool,
    is_off: bool,
    was_moved: bool,
}

impl Keeper {
    pub(super) fn new(data_dir: &Path, max_size: u64, commands: Receiver<Command>, stats: Arc<Stats>) -> Self {
        Self {
            path: super::path(data_dir),
            data_dir: data_dir.to_owned(),
            max_size,
            commands,
            stats,
            connection: None,
            version: None,
            now: Timestamp::default(),
            unpruned: PRUNE_EVERY,
            is_failing: false,
            is_off: false,
            was_moved: false,
        }
    }

    /// Writes what is handed over until nobody is left to hand anything over.
    pub fn run(&mut self) {
        loop {
            match self.commands.recv_timeout(LOOK) {
                Ok(first) => {
                    let mut batch = vec![first];
                    while batch.len() < BATCH {
                        let Ok(next) = self.commands.try_recv() else { break };
                        batch.push(next);
                    }
                    self.take(batch);
                    self.look();
                }
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, batch: Vec<Command>) {
        let (mut changes, mut waiting) = (Vec::new(), Vec::new());
        for command in batch {
            match command {
                Command::Change(change) => changes.push(change),
                Command::Sync(reply) => waiting.push(reply),
                Command::Restore(at, reply) => {
                    let restored = self.restore(at);
                    // Whoever asked may have lost patience.
                    let _ = reply.send(restored);
                }
                Command::Load(seqs, reply) => {
                    // They may be among the changes that came before.
                    self.write(&std::mem::take(&mut changes));
                    let _ = reply.send(self.load(&seqs));
                }
            }
        }
        let saved = self.write(&changes);
        self.stats.is_late.store(false, Relaxed);
        for reply in waiting {
            let _ = reply.send(saved);
        }
        self.prune();
    }

    /// Writes all changes or none; whether it could.
    fn write(&mut self, changes: &[Change]) -> bool {
        if changes.is_empty() {
            return !self.is_failing && !self.is_off;
        }
        for change in changes {
            if let Change::Alert { alert, .. } = change {
                self.now = self.now.max(alert.at);
            }
        }
        let path = self.path.clone();
        let written = self.with(|connection| {
            let mut all = || {
                let transaction = connection.transaction()?;
                changes.iter().try_for_each(|change| file::apply(&transaction, change))?;
                transaction.commit()
            };
            all().map_err(|error| Failure::sqlite(&path, error))
        });
        if written.is_none() {
            self.stats.unsaved.fetch_add(changes.len() as u64, Relaxed);
        }
        self.unpruned += changes.len();
        written.is_some()
    }

    fn restore(&mut self, at: Timestamp) -> Restored {
        self.now = at;
        let path = self.path.clone();
        let mut damaged = 0;
        let restored =
            self.with(|connection| file::restore(connection, at, &mut damaged).map_err(|error| Failure::sqlite(&path, error)));
        self.damaged(damaged);
        restored.unwrap_or_default()
    }

    fn load(&mut self, seqs: &[u64]) -> Vec<(u64, Arc<crate::model::Alert>)> {
        let path = self.path.clone();
        let mut damaged = 0;
        let found =
            self.with(|connection| file::load(connection, seqs, &mut damaged).map_err(|error| Failure::sqlite(&path, error)));
        self.damaged(damaged);
        found.unwrap_or_default()
    }

    fn damaged(&self, count: u64) {
        if count > 0 {
            self.stats.damaged.fetch_add(count, Relaxed);
            tracing::error!("outbox: {count} alerts in {} do not match their checksums and are left out", self.path.display());
        }
    }

    /// Looks whether another process has changed something, which can only be a silence.
    fn look(&mut self) {
        let Some(connection) = &self.connection else { return };
        let version = connection.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0)).ok();
        if std::mem::replace(&mut self.version, version) == version {
            return;
        }
        let path = self.path.clone();
        let found = self.with(|connection| file::silences_in(connection).map_err(|error| Failure::sqlite(&path, error)));
        if found.is_some() {
            *self.stats.silences.lock().unwrap_or_else(PoisonError::into_inner) = found;
        }
    }

    fn prune(&mut self) {
        if self.unpruned < PRUNE_EVERY {
            return;
        }
        self.unpruned = 0;
        let (path, now, max_size) = (self.path.clone(), self.now, self.max_size);
        let pruned = self.with(|connection| {
            let given_up = file::prune(connection, now, max_size);
            given_up.and_then(|given_up| Ok((given_up, file::size(connection)?))).map_err(|error| Failure::sqlite(&path, error))
        });
        let Some((given_up, bytes)) = pruned else { return };
        self.stats.bytes.store(bytes, Relaxed);
        if given_up > 0 {
            tracing::warn!(
                "outbox: {} is full ([alerting.outbox] max_size_mb); the oldest {given_up} of the mildest alerts that wait are not kept",
                self.path.display()
            );
        }
    }

    /// Does something with the database, which is opened where it is not. A failure is said once, and leaves the next one a new
    /// connection.
    fn with<T>(&mut self, act: impl FnOnce(&mut Connection) -> Result<T, Failure>) -> Option<T> {
        if self.is_off {
            return None;
        }
        let opened = match self.connection.take() {
            Some(connection) => Ok(connection),
            None => database::open(&self.path, &self.data_dir, &file::SCHEMA),
        };
        let done = opened.and_then(|mut connection| act(&mut connection).map(|done| (done, connection)));
        match done {
            Ok((done, connection)) => {
                self.connection = Some(connection);
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("outbox: {} takes alerts again", self.path.display());
                }
                Some(done)
            }
            Err(failure) => {
                self.failed(&failure);
                None
            }
        }
    }

    fn failed(&mut self, failure: &Failure) {
        if failure.is_final() {
            tracing::error!("outbox: {failure}; alerts stay in memory only until the next start");
            self.is_off = true;
        } else if failure.is_damage() && !self.was_moved {
            self.was_moved = true;
            match database::move_aside(&self.path) {
                Ok(aside) => {
                    tracing::error!("outbox: {failure}; moved to {} as it is, and a new one is begun", aside.display());
                }
                Err(error) => tracing::error!("outbox: {failure}; it cannot be moved aside either: {error}"),
            }
        } else if !std::mem::replace(&mut self.is_failing, true) {
            tracing::error!("outbox: {failure}; alerts are sent from memory meanwhile, and kept again when that works");
        }
    }
}
