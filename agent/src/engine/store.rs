//! The recent past of every series, in bounded memory.
//!
//! A series is a ring of blocks, of which all but the last are compressed. All blocks share one budget: when it is used up, the
//! oldest block of all goes, whosever it is, so that many short-lived series cannot push the agent past its promised memory. The
//! latest value of a series outlives its blocks. The store takes samples as they come: it neither sorts nor merges times that
//! run backward or repeat. Values stay as they are; times are kept to the millisecond.

mod block;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use block::{Block, Point, Sealer};

use crate::model::{SeriesKey, Timestamp};

/// Bytes of samples kept over all series, with what their blocks take beside.
pub const MEMORY_BUDGET: usize = 8 << 20;
/// Series kept; a new one beyond that is refused.
pub const MAX_SERIES: usize = 20_000;

/// Chunks by which the room of a series grows.
const ROOM: usize = 4;
/// Entries of the queue of all chunks that may outlive their chunk, beyond as many as there are chunks.
const SLACK: usize = 64;
/// Sweeps without a sample after which a series is removed. The engine sweeps once a minute, so this is a day.
const PATIENCE: u32 = 24 * 60;
/// The same when three quarters of the series are in use: an hour.
const PATIENCE_WHEN_CROWDED: u32 = 60;

/// Names a series within one store, for as long as the series is there. Ids of removed series are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesId(u32);

impl SeriesId {
    /// The id as an index into a table by series.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug)]
struct Chunk {
    /// Ties the block to its entry in the queue of all blocks.
    serial: u64,
    block: Block,
}

impl Chunk {
    fn bytes(&self) -> usize {
        self.block.bytes() + size_of::<u64>()
    }
}

#[derive(Debug)]
struct Series {
    key: SeriesKey,
    latest: (Timestamp, f64),
    chunks: VecDeque<Chunk>,
    /// Samples at the front of the first chunk that the ring has already given up.
    skipped: usize,
    /// Samples in the ring.
    len: usize,
    /// The sweep during which the last sample came.
    touched: u32,
}

impl Series {
    fn drop_oldest_chunk(&mut self) -> usize {
        let Some(chunk) = self.chunks.pop_front() else { return 0 };
        self.len -= chunk.block.len() - self.skipped;
        self.skipped = 0;
        chunk.bytes()
    }

    /// Gives up samples from the front until at most `capacity` are left; returns the bytes that became free.
    fn trim(&mut self, capacity: usize) -> usize {
        let mut freed = 0;
        while self.len > capacity {
            let Some(front) = self.chunks.front() else { break };
            let excess = self.len - capacity;
            if front.block.len() - self.skipped <= excess {
                freed += self.drop_oldest_chunk();
            } else {
                self.skipped += excess;
                self.len -= excess;
            }
        }
        freed
    }
}

/// Hands on the hash that a [`SeriesKey`] computed once, when it was made.
#[derive(Default)]
struct Precomputed(u64);

impl Hasher for Precomputed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

/// What the store did with a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// Into a series that was there.
    Known(SeriesId),
    /// Into a new series.
    New(SeriesId),
    /// There is no room for another series.
    Refused,
}

/// All series.
#[derive(Debug)]
pub struct Store {
    capacity: usize,
    ids: HashMap<SeriesKey, SeriesId, BuildHasherDefault<Precomputed>>,
    slots: Vec<Option<Series>>,
    free: Vec<SeriesId>,
    /// All chunks by age. Chunks that left through their own ring leave their entry behind until it is compacted away.
    by_age: VecDeque<(u64, SeriesId)>,
    next_serial: u64,
    live_chunks: usize,
    bytes: usize,
    /// [`MEMORY_BUDGET`], less in tests.
    budget: usize,
    sealer: Sealer,
    sweeps: u32,
    chunks_evicted: u64,
    samples_refused: u64,
}

impl Store {
    /// An empty store whose series keep up to `capacity` samples each.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            ids: HashMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            by_age: VecDeque::new(),
            next_serial: 0,
            live_chunks: 0,
            bytes: 0,
            budget: MEMORY_BUDGET,
            sealer: Sealer::default(),
            sweeps: 0,
            chunks_evicted: 0,
            samples_refused: 0,
        }
    }

    /// Changes how many samples a series keeps. A smaller number takes effect with the next sample of each series.
    pub(super) fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity.max(1);
    }

    /// All series, in the order of their ids.
    pub fn series(&self) -> impl Iterator<Item = (SeriesId, &SeriesKey)> {
        (0u32..).zip(&self.slots).filter_map(|(id, slot)| Some((SeriesId(id), &slot.as_ref()?.key)))
    }

    /// The id of a series, if it has one.
    pub fn id(&self, key: &SeriesKey) -> Option<SeriesId> {
        self.ids.get(key).copied()
    }

    /// Which series an id names.
    pub fn key(&self, id: SeriesId) -> Option<&SeriesKey> {
        Some(&self.get(id)?.key)
    }

    /// The sample that came last.
    pub fn latest(&self, id: SeriesId) -> Option<(Timestamp, f64)> {
        Some(self.get(id)?.latest)
    }

    /// The samples whose time lies within `from..=to`, in order of arrival. Blocks are decompressed one by one as the iterator
    /// reaches them; those outside are not.
    pub fn window(&self, id: SeriesId, from: Timestamp, to: Timestamp) -> impl Iterator<Item = (Timestamp, f64)> {
        let series = self.get(id);
        let skipped = series.map_or(0, |series| series.skipped);
        let (from, to) = (millis(from), millis(to));
        series
            .into_iter()
            .flat_map(|series| series.chunks.iter().enumerate())
            .filter(move |(_, chunk)| {
                let (earliest, latest) = chunk.block.span();
                earliest <= to && latest >= from
            })
            .flat_map(move |(index, chunk)| chunk.block.points().skip(if index == 0 { skipped } else { 0 }))
            .filter(move |point| (from..=to).contains(&point.millis))
            .map(|point| (time(point.millis), point.value))
    }

    /// The samples that came last, the newest first. Blocks are decompressed as in [`window`](Self::window).
    pub fn newest(&self, id: SeriesId) -> impl Iterator<Item = (Timestamp, f64)> {
        let series = self.get(id);
        let len = series.map_or(0, |series| series.len);
        series
            .into_iter()
            .flat_map(|series| series.chunks.iter().rev())
            .flat_map(|chunk| chunk.block.points().rev())
            .take(len)
            .map(|point| (time(point.millis), point.value))
    }

    /// Number of series.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no series.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Memory that samples occupy, in bytes; at most [`MEMORY_BUDGET`].
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Chunks that were given up because the budget was used up, ever.
    pub fn chunks_evicted(&self) -> u64 {
        self.chunks_evicted
    }

    /// Samples that were refused because there was no room for another series, ever.
    pub fn samples_refused(&self) -> u64 {
        self.samples_refused
    }

    /// Takes a sample.
    pub(super) fn insert(&mut self, at: Timestamp, key: &SeriesKey, value: f64) -> Inserted {
        if let Some(id) = self.id(key) {
            self.append(id, at, value);
            return Inserted::Known(id);
        }
        if self.ids.len() >= MAX_SERIES {
            self.samples_refused += 1;
            return Inserted::Refused;
        }
        let id = match self.free.pop() {
            Some(id) => id,
            None => SeriesId(u32::try_from(self.slots.len()).unwrap_or(u32::MAX)),
        };
        let series =
            Series { key: key.clone(), latest: (at, value), chunks: VecDeque::new(), skipped: 0, len: 0, touched: self.sweeps };
        match self.slots.get_mut(id.index()) {
            Some(slot) => *slot = Some(series),
            None => self.slots.push(Some(series)),
        }
        self.ids.insert(key.clone(), id);
        self.append(id, at, value);
        Inserted::New(id)
    }

    fn append(&mut self, id: SeriesId, at: Timestamp, value: f64) {
        let capacity = self.capacity;
        let Some(series) = self.slots.get_mut(id.index()).and_then(Option::as_mut) else { return };
        series.latest = (at, value);
        series.touched = self.sweeps;
        let point = Point { millis: millis(at), value };
        let filled_before = series.chunks.back().is_some();
        let appended = series.chunks.back_mut().is_some_and(|chunk| {
            let before = chunk.bytes();
            let appended = chunk.block.push(point, &mut self.sealer);
            self.bytes = self.bytes + chunk.bytes() - before;
            appended
        });
        if !appended {
            let chunk = Chunk { serial: self.next_serial, block: Block::new(point, filled_before) };
            self.next_serial += 1;
            self.bytes += chunk.bytes();
            self.by_age.push_back((chunk.serial, id));
            self.live_chunks += 1;
            if series.chunks.len() == series.chunks.capacity() {
                // A day is 34 of them: doubling would leave half of the room unused.
                series.chunks.reserve_exact(ROOM);
            }
            series.chunks.push_back(chunk);
        }
        series.len += 1;
        let chunks = series.chunks.len();
        self.bytes -= series.trim(capacity);
        self.live_chunks -= chunks - series.chunks.len();
        while self.bytes > self.budget && self.evict_oldest_chunk() {}
        if self.by_age.len() > 2 * self.live_chunks + SLACK {
            self.compact();
        }
    }

    /// Gives up the oldest chunk of all; whether there was one.
    fn evict_oldest_chunk(&mut self) -> bool {
        while let Some((serial, id)) = self.by_age.pop_front() {
            let Some(series) = self.slots.get_mut(id.index()).and_then(Option::as_mut) else { continue };
            if series.chunks.front().is_some_and(|chunk| chunk.serial == serial) {
                self.bytes -= series.drop_oldest_chunk();
                self.live_chunks -= 1;
                self.chunks_evicted += 1;
                return true;
            }
        }
        false
    }

    fn compact(&mut self) {
        let slots = &self.slots;
        self.by_age.retain(|(serial, id)| {
            let series = slots.get(id.index()).and_then(Option::as_ref);
            series.and_then(|series| series.chunks.front()).is_some_and(|oldest| *serial >= oldest.serial)
        });
    }

    /// Removes series that have been silent for a day, or for an hour when it gets crowded. Silence is measured in sweeps, not
    /// by the clock: a clock that is set forward must not empty the store.
    pub(super) fn sweep(&mut self, removed: &mut Vec<(SeriesId, SeriesKey)>) {
        self.sweeps = self.sweeps.saturating_add(1);
        let patience = if self.ids.len() > MAX_SERIES / 4 * 3 { PATIENCE_WHEN_CROWDED } else { PATIENCE };
        for (id, slot) in (0u32..).map(SeriesId).zip(&mut self.slots) {
            let Some(mut series) = slot.take_if(|series| self.sweeps - series.touched >= patience) else { continue };
            self.ids.remove(&series.key);
            self.live_chunks -= series.chunks.len();
            while !series.chunks.is_empty() {
                self.bytes -= series.drop_oldest_chunk();
            }
            self.free.push(id);
            removed.push((id, series.key));
        }
    }

    fn get(&self, id: SeriesId) -> Option<&Series> {
        self.slots.get(id.index())?.as_ref()
    }
}

fn millis(at: Timestamp) -> i64 {
    at.as_nanos().div_euclid(1_000_000)
}

fn time(millis: i64) -> Timestamp {
    Timestamp::from_nanos(millis.saturating_mul(1_000_000))
}

#[cfg(test)]
mod tests;
