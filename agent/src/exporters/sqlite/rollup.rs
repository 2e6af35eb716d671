//! Minutes of samples, and their way from the engine's thread to the one that writes.
//!
//! Nothing is copied aside while samples arrive: what is written is read from the store when its time has come. So what the
//! database could not take for a while is not lost; it is read again.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use crate::engine::Store;
use crate::model::{Labels, Metric, Sample, SeriesKey, Timestamp, Unit};

/// Milliseconds in a minute.
const MINUTE_MILLIS: i64 = 60_000;
/// Minutes that are written at a time. Each write touches a page of every series, so that fewer writes wear the disk less.
const AT_A_TIME: i64 = 5;
/// How long after its end a minute is read, in nanoseconds: samples that were made in it may still wait for the engine.
const GRACE: i64 = 5_000_000_000;
/// Rows in one batch, except where a single minute has more.
const MAX_ROWS: usize = 20_000;
/// Batches that wait for the writer: one that is worked on, and the last one when the agent stops.
const QUEUE: usize = 2;

/// The minute of a time: minutes since the Unix epoch.
pub fn minute(at: Timestamp) -> i64 {
    at.as_nanos().div_euclid(MINUTE_MILLIS * 1_000_000)
}

/// When a minute begins.
pub fn begin(minute: i64) -> Timestamp {
    Timestamp::from_secs(minute.saturating_mul(60))
}

/// One minute of one series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rollup {
    /// Least value.
    pub min: f64,
    /// Arithmetic mean of the samples.
    pub mean: f64,
    /// Greatest value.
    pub max: f64,
    /// The sample that came last.
    pub last: f64,
    /// Number of samples.
    pub count: u32,
}

impl Rollup {
    fn of(value: f64) -> Self {
        Self { min: value, mean: value, max: value, last: value, count: 1 }
    }

    fn add(&mut self, value: f64) {
        self.count = self.count.saturating_add(1);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        // Bounded by the values, which a sum is not.
        self.mean += value / f64::from(self.count) - self.mean / f64::from(self.count);
        self.last = value;
    }
}

/// One row for the database.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which series.
    pub series: SeriesKey,
    /// Which minute, counted from the Unix epoch.
    pub minute: i64,
    /// Its values.
    pub rollup: Rollup,
}

/// Rows that are written together.
#[derive(Debug)]
pub struct Batch {
    /// The minutes they cover.
    pub minutes: Range<i64>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// Each minute within `minutes` of each series in the store.
pub fn rollups(store: &Store, minutes: &Range<i64>) -> Vec<Row> {
    let mut rows = Vec::new();
    let last = Timestamp::from_nanos(begin(minutes.end).as_nanos().saturating_sub(1));
    for (id, series) in store.series() {
        let start = rows.len();
        for (at, value) in store.window(id, begin(minutes.start), last) {
            let minute = minute(at);
            // Where the clock was set back, a minute comes twice; both are in it.
            let rows_of_series = rows.get_mut(start..).unwrap_or_default();
            match rows_of_series.iter_mut().rev().find(|row: &&mut Row| row.minute == minute) {
                Some(row) => row.rollup.add(value),
                None => rows.push(Row { series: series.clone(), minute, rollup: Rollup::of(value) }),
            }
        }
    }
    rows
}

/// What the metrics of [`Feed::samples`] are, in its order.
pub static METRICS: [Metric; 4] = [
    Metric::counter("agent_storage_rows_total", Unit::Count, "Rollups of a minute that were written to the database."),
    Metric::counter("agent_storage_errors_total", Unit::Count, "Attempts to write to the database that failed."),
    Metric::counter(
        "agent_storage_dropped_seconds_total",
        Unit::Seconds,
        "Time that never came into the database: it took nothing for longer than the memory reaches back.",
    ),
    Metric::gauge(
        "agent_storage_backlog_seconds",
        Unit::Seconds,
        "Complete minutes that are not in the database yet, in seconds.",
    ),
];

/// What both sides know.
#[derive(Debug)]
pub struct Progress {
    /// All minutes before this one are in the database, or given up.
    pub written_until: AtomicI64,
    /// A batch is on its way or waits for another attempt.
    pub busy: AtomicBool,
    /// The agent stops.
    pub closing: AtomicBool,
    /// Nothing will ever be written by this process.
    pub off: AtomicBool,
    /// Rows that were written.
    pub rows: AtomicU64,
    /// Attempts that failed.
    pub errors: AtomicU64,
}

/// The engine's side: reads the store once in a while and hands over what is complete. Never waits.
pub struct Feed {
    queue: Option<SyncSender<Batch>>,
    progress: Arc<Progress>,
    /// The end of the batch that was handed over last.
    handed_until: i64,
    /// Minutes that the memory reaches back.
    reach: i64,
    /// Minutes given up.
    dropped: u64,
    /// Complete minutes that are not written.
    waiting: i64,
    series: Vec<SeriesKey>,
}

impl Feed {
    /// A feed that begins at `now`, for a store that reaches `reach` back; what the writer takes; what both know.
    pub fn new(now: Timestamp, reach: Duration) -> (Self, Receiver<Batch>, Arc<Progress>) {
        let progress = Arc::new(Progress {
            written_until: AtomicI64::new(minute(now)),
            busy: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            off: AtomicBool::new(false),
            rows: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        });
        let (queue, batches) = sync_channel(QUEUE);
        let feed = Self {
            queue: Some(queue),
            progress: Arc::clone(&progress),
            handed_until: minute(now),
            reach: i64::try_from(reach.as_secs() / 60).unwrap_or(i64::MAX).max(AT_A_TIME),
            dropped: 0,
            waiting: 0,
            series: METRICS.iter().map(|metric| SeriesKey::new(metric, Labels::new())).collect(),
        };
        (feed, batches, progress)
    }

    /// Hands over what is complete, where there is enough of it and the writer has nothing to do.
    pub fn tick(&mut self, now: Timestamp, store: &Store) {
        let complete = minute(Timestamp::from_nanos(now.as_nanos().saturating_sub(GRACE)));
        // Asked first: when the writer is through, it says how far before it says so.
        let busy = self.progress.busy.load(Ordering::Acquire);
        let mut from = self.progress.written_until.load(Ordering::Acquire);
        if !busy {
            if complete < from - 1 {
                // The clock was set back: these minutes come again.
                from = complete;
            } else if complete - from > self.reach {
                self.dropped = self.dropped.saturating_add(u64::try_from(complete - self.reach - from).unwrap_or(0));
                from = complete - self.reach;
            }
            self.progress.written_until.store(from, Ordering::Release);
        }
        self.waiting = (complete - from).max(0);
        if self.waiting < AT_A_TIME || busy || self.progress.off.load(Ordering::Acquire) {
            return;
        }
        let most = i64::try_from(MAX_ROWS / store.len().max(1)).unwrap_or(1).max(1);
        // What it does not take stays in the store.
        self.hand_over(from..complete.min(from.saturating_add(most)), store);
    }

    /// Hands over all that is left, with the minute that is not complete, and ends the writer once it has written that.
    pub fn finish(&mut self, now: Timestamp, store: &Store) {
        self.progress.closing.store(true, Ordering::Release);
        let busy = self.progress.busy.load(Ordering::Acquire);
        let from = if busy { self.handed_until } else { self.progress.written_until.load(Ordering::Acquire) };
        let due = !self.progress.off.load(Ordering::Acquire) && from <= minute(now);
        if due && !self.hand_over(from..minute(now).saturating_add(1), store) {
            tracing::warn!("storage: the history since {from} (minutes since the Unix epoch) is lost: nobody writes it any more");
        }
        self.queue = None;
    }

    /// Whether the writer will see it.
    fn hand_over(&mut self, minutes: Range<i64>, store: &Store) -> bool {
        let rows = rollups(store, &minutes);
        self.handed_until = minutes.end;
        let Some(queue) = self.queue.as_ref().filter(|_| !rows.is_empty()) else {
            self.progress.written_until.store(minutes.end, Ordering::Release);
            return true;
        };
        self.progress.busy.store(true, Ordering::Release);
        let sent = queue.try_send(Batch { minutes, rows }).is_ok();
        if !sent {
            self.progress.busy.store(false, Ordering::Release);
        }
        sent
    }

    /// Appends what there is to count.
    #[expect(clippy::cast_precision_loss, reason = "counts; beyond 2^53 the last digits don't matter")]
    pub fn samples(&self, into: &mut Vec<Sample>) {
        let progress = &self.progress;
        let values = [
            progress.rows.load(Ordering::Relaxed) as f64,
            progress.errors.load(Ordering::Relaxed) as f64,
            self.dropped as f64 * 60.0,
            self.waiting as f64 * 60.0,
        ];
        into.extend(self.series.iter().zip(values).map(|(series, value)| Sample { series: series.clone(), value }));
    }
}
