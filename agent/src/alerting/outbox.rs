//! The durable outbox: alerts are on disk before they are sent, and leave when they were accepted.
//!
//! [`Outbox`] is what the router and its couriers hold: it hands changes to the [`Keeper`], which writes them in a thread of its own, all
//! that wait in one transaction. `alerts.db` in the data directory is SQLite in WAL mode with `synchronous = FULL`: a transaction that
//! has ended survives a kill and a loss of power; each alert carries a checksum of its own beside it. A courier waits for its
//! transaction before it sends, but no longer than [`PATIENCE`]: an alert about a dying disk must not wait for that disk. Where there is
//! no data directory, nothing is written, and what waits is lost with the process.
//!
//! Bounds: beyond `max_size` the oldest alerts that nobody waits for go first, then the oldest of the mildest that wait; what waits for
//! longer than `max_age` is given up. Alerts that nobody waits for are kept for 30 days.

mod file;
mod keeper;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

pub use file::{Backlog, Kept, Listing, Outcome, backlog, list, silence_add, silence_remove, silences};
pub use keeper::Keeper;

use super::threads::Told;
use crate::model::{Alert, Metric, Silence, Timestamp, Unit};

/// How long a message waits to be on disk before it is sent all the same.
const PATIENCE: Duration = Duration::from_millis(500);
/// Changes that wait for the disk; beyond, they stay in memory alone and are counted.
const QUEUE: usize = 16_384;

/// What [`Outbox::samples`] may emit.
pub(super) const BYTES: Metric =
    Metric::gauge("agent_outbox_size_bytes", Unit::Bytes, "Size of alerts.db without its unused pages.");
pub(super) const UNSAVED: Metric = Metric::counter(
    "agent_outbox_unsaved_total",
    Unit::Count,
    "Changes of the outbox that are not on disk, because it failed or was too slow; what they are about was sent from memory.",
);
pub(super) const DAMAGED: Metric = Metric::counter(
    "agent_outbox_damaged_total",
    Unit::Count,
    "Alerts on disk whose checksum did not match, and which were left out.",
);

/// Where alerts are kept.
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("alerts.db")
}

/// Something that has to be remembered.
#[derive(Debug)]
pub(super) enum Change {
    /// An alert came up, and these channels have to be told; or it was silenced.
    Alert { seq: u64, alert: Arc<Alert>, channels: Vec<&'static str>, silenced: Option<String> },
    /// An alert that was silenced or given up before has to be told after all.
    Want { seq: u64, channels: Vec<&'static str> },
    /// These alerts are about to be sent as one message with this key.
    Composed { channel: &'static str, key: String, seqs: Vec<u64> },
    /// The channel's service accepted these alerts, or they were given up for a reason.
    Settled { channel: &'static str, key: String, seqs: Vec<u64>, at: Timestamp, refused: Option<String> },
    /// What the channel knows now.
    Told { channel: &'static str, told: Vec<Told>, over: Vec<String>, references: Option<(u64, Vec<String>)> },
    /// The channel is not configured any more.
    Gone { channel: String },
}

/// What an earlier run of the agent has left behind.
#[derive(Debug, Default)]
pub struct Restored {
    /// The next number of an alert.
    pub(super) next_seq: u64,
    /// By channel what waits.
    pub(super) waiting: BTreeMap<String, Vec<Waiting>>,
    /// By channel what was told and is not over.
    pub(super) told: BTreeMap<String, Vec<Told>>,
    /// By channel and thread what the service calls its messages.
    pub(super) references: BTreeMap<String, BTreeMap<u64, Vec<String>>>,
    /// By channel when messages were accepted within the last hour.
    pub(super) sent: BTreeMap<String, Vec<Timestamp>>,
    /// Open incidents that were silenced, with the number of their latest alert.
    pub(super) silenced: Vec<(u64, Arc<Alert>)>,
    /// The latest alert of each incident that was not over.
    pub open: Vec<Arc<Alert>>,
    /// Silences that were made on the command line.
    pub silences: Vec<Silence>,
}

/// An alert that waited when the agent stopped.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) seq: u64,
    pub(super) alert: Arc<Alert>,
    /// The key of the message that it was part of, where an attempt may have been made.
    pub(super) key: Option<String>,
}

enum Command {
    Change(Change),
    /// Tells when all that came before is on disk, and whether it is.
    Sync(oneshot::Sender<bool>),
    Restore(Timestamp, oneshot::Sender<Restored>),
    Load(Vec<u64>, oneshot::Sender<Vec<(u64, Arc<Alert>)>>),
}

#[derive(Default)]
struct Stats {
    bytes: AtomicU64,
    unsaved: AtomicU64,
    damaged: AtomicU64,
    /// The disk was too slow, and nothing has been heard of it since.
    is_late: AtomicBool,
    /// The silences on disk, where they have changed.
    silences: Mutex<Option<Vec<Silence>>>,
}

/// The way to the disk; clones are the same.
#[derive(Clone)]
pub struct Outbox {
    feed: Option<SyncSender<Command>>,
    stats: Arc<Stats>,
}

impl Outbox {
    /// An outbox that keeps nothing.
    pub fn in_memory() -> Self {
        Self { feed: None, stats: Arc::default() }
    }

    /// An outbox in that directory, and who keeps it. Nothing is opened before [`Keeper::run`].
    pub fn in_directory(data_dir: &Path, max_size: u64) -> (Self, Keeper) {
        let (feed, commands): (_, Receiver<Command>) = sync_channel(QUEUE);
        let stats = Arc::<Stats>::default();
        let keeper = Keeper::new(data_dir, max_size, commands, Arc::clone(&stats));
        (Self { feed: Some(feed), stats }, keeper)
    }

    /// Whether what waits outlives the process.
    pub fn is_durable(&self) -> bool {
        self.feed.is_some()
    }

    /// What an earlier run has left; nothing where the disk does not answer within `limit`.
    pub async fn restore(&self, at: Timestamp, limit: Duration) -> Option<Restored> {
        self.ask(|reply| Command::Restore(at, reply), limit).await
    }

    /// The silences on disk, where they have changed since the last call.
    pub(super) fn changed_silences(&self) -> Option<Vec<Silence>> {
        self.stats.silences.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The alerts of these numbers, as far as they are there.
    pub(super) async fn load(&self, seqs: Vec<u64>) -> Vec<(u64, Arc<Alert>)> {
        self.ask(|reply| Command::Load(seqs, reply), PATIENCE).await.unwrap_or_default()
    }

    pub(super) fn change(&self, change: Change) {
        self.hand(Command::Change(change));
    }

    /// Waits until all changes so far are on disk, or patience has run out. A disk that was too slow is not waited for again before it
    /// has answered.
    pub async fn synced(&self) {
        if self.feed.is_none() || self.stats.is_late.load(Relaxed) {
            return;
        }
        let saved = self.ask(Command::Sync, PATIENCE).await;
        if saved.is_none() && !self.stats.is_late.swap(true, Relaxed) {
            self.stats.unsaved.fetch_add(1, Relaxed);
            tracing::warn!("outbox: the disk did not answer within {PATIENCE:?}; alerts are sent from memory until it does");
        }
    }

    pub(super) fn samples(&self, add: &mut dyn FnMut(&'static Metric, f64)) {
        #[expect(clippy::cast_precision_loss, reason = "below 2^53 for any file that fits a disk")]
        let value = |counter: &AtomicU64| counter.load(Relaxed) as f64;
        add(&BYTES, value(&self.stats.bytes));
        add(&UNSAVED, value(&self.stats.unsaved));
        add(&DAMAGED, value(&self.stats.damaged));
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Command, limit: Duration) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        if !self.hand(question(reply)) {
            return None;
        }
        tokio::time::timeout(limit, answer).await.ok()?.ok()
    }

    fn hand(&self, command: Command) -> bool {
        let Some(feed) = &self.feed else { return false };
        match feed.try_send(command) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.stats.unsaved.fetch_add(1, Relaxed);
                false
            }
        }
    }
}
