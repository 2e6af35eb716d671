//! Runs of samples in little memory: plain while they grow, compressed once they are full.
//!
//! Times and values are compressed apart, by pco. Values come back bit for bit. All series of one collector have the same
//! times, so that a full block looks first whether another one has just sealed them: then both share one copy.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use pco::data_types::Number;
use pco::standalone::{simple_compress_into, simple_decompress_into};
use pco::{ChunkConfig, DeltaSpec};

/// Samples in a full block. More compress better, and lie about uncompressed for longer.
pub const BLOCK: usize = 256;
/// Samples that a block has room for when a series begins; many series of short-lived processes never need more.
const FIRST_ROOM: usize = 8;
/// Effort of the compressor, of 12. Beyond this the blocks get one per cent smaller and take twice as long.
const LEVEL: usize = 4;
/// Columns of times that are remembered to be shared: of more sources than are ever in step with each other.
const REMEMBERED: usize = 16;
/// Integers that an `f64` holds exactly go up to this.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// One sample in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Milliseconds since the Unix epoch, rounded down.
    pub millis: i64,
    pub value: f64,
}

/// A run of samples of one series, in order of arrival. Small, as there are many of them.
#[derive(Debug)]
pub enum Block {
    /// It grows, or the clock made a leap that ended it early.
    Open(Box<Open>),
    /// Always full.
    Sealed {
        /// Shared with blocks that have the same times.
        times: Arc<Times>,
        /// Its own.
        values: Values,
    },
}

/// Plain samples.
#[derive(Debug)]
pub struct Open {
    begin: i64,
    earliest: i64,
    latest: i64,
    points: Vec<Packed>,
}

/// A sample in twelve bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed(4))]
pub struct Packed {
    /// Milliseconds since the begin of the block.
    offset: i32,
    value: f64,
}

/// A column of times, compressed.
#[derive(Debug)]
pub struct Times {
    earliest: i64,
    latest: i64,
    bytes: Box<[u8]>,
}

/// A column of values.
#[derive(Debug)]
pub enum Values {
    /// The same all the time.
    Constant(f64),
    /// Integers, compressed as `i64`.
    Integers(Box<[u8]>),
    /// Anything else.
    Floats(Box<[u8]>),
}

/// What sealing needs and keeps between two blocks.
#[derive(Debug, Default)]
pub struct Sealer {
    times: Vec<i64>,
    integers: Vec<i64>,
    floats: Vec<f64>,
    compressed: Vec<u8>,
    /// Columns of times that were sealed last, the newest at the end.
    recent: VecDeque<(Vec<i64>, Weak<Times>)>,
}

impl Block {
    /// A block with its first sample, for a series that has filled blocks before or has not.
    pub fn new(point: Point, filled_before: bool) -> Self {
        let mut points = Vec::with_capacity(if filled_before { BLOCK / 4 } else { FIRST_ROOM });
        points.push(Packed { offset: 0, value: point.value });
        let Point { millis, .. } = point;
        Self::Open(Box::new(Open { begin: millis, earliest: millis, latest: millis, points }))
    }

    /// Appends a sample; a block that is full by that is sealed. Whether there was room.
    pub fn push(&mut self, point: Point, sealer: &mut Sealer) -> bool {
        let Self::Open(open) = self else { return false };
        let Some(offset) = point.millis.checked_sub(open.begin).and_then(|offset| i32::try_from(offset).ok()) else {
            return false;
        };
        let points = &mut open.points;
        if points.len() >= BLOCK {
            return false;
        }
        if points.len() == points.capacity() {
            points.reserve_exact(points.len().min(BLOCK - points.len()));
        }
        points.push(Packed { offset, value: point.value });
        open.earliest = open.earliest.min(point.millis);
        open.latest = open.latest.max(point.millis);
        // The compressor refuses no numbers of this length; if it ever did, the block would stay plain.
        if open.points.len() == BLOCK
            && let Some(sealed) = sealer.seal(open)
        {
            *self = sealed;
        }
        true
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        match self {
            Self::Open(open) => open.points.len(),
            Self::Sealed { .. } => BLOCK,
        }
    }

    /// Least and greatest time.
    pub fn span(&self) -> (i64, i64) {
        match self {
            Self::Open(open) => (open.earliest, open.latest),
            Self::Sealed { times, .. } => (times.earliest, times.latest),
        }
    }

    /// Memory that would be free without this block, in bytes. What it shares belongs to the last that shares it.
    pub fn bytes(&self) -> usize {
        let body = match self {
            Self::Open(open) => size_of::<Open>() + open.points.capacity() * size_of::<Packed>(),
            Self::Sealed { times, values } => {
                let shared = Arc::strong_count(times) > 1;
                // The Arc has two counters.
                values.bytes() + if shared { 0 } else { times.bytes.len() + size_of::<Times>() + 2 * size_of::<usize>() }
            }
        };
        size_of::<Self>() + body
    }

    /// The samples, in order of arrival.
    pub fn points(&self) -> Points<'_> {
        match self {
            Self::Open(open) => Points::Open(open.begin, open.points.iter()),
            Self::Sealed { times, values } => {
                let mut column = vec![0_i64; BLOCK];
                decompress(&times.bytes, &mut column);
                let points: Vec<Point> = match values {
                    Values::Constant(value) => column.iter().map(|&millis| Point { millis, value: *value }).collect(),
                    Values::Integers(bytes) => {
                        let mut values = vec![0_i64; BLOCK];
                        decompress(bytes, &mut values);
                        column.iter().zip(values).map(|(&millis, value)| Point { millis, value: value as f64 }).collect()
                    }
                    Values::Floats(bytes) => {
                        let mut values = vec![0.0; BLOCK];
                        decompress(bytes, &mut values);
                        column.iter().zip(values).map(|(&millis, value)| Point { millis, value }).collect()
                    }
                };
                Points::Sealed(points.into_iter())
            }
        }
    }
}

impl Values {
    fn bytes(&self) -> usize {
        match self {
            Self::Constant(_) => 0,
            Self::Integers(bytes) | Self::Floats(bytes) => bytes.len(),
        }
    }
}

impl Sealer {
    fn seal(&mut self, open: &Open) -> Option<Block> {
        Some(Block::Sealed { times: self.times(open)?, values: self.values(open)? })
    }

    fn times(&mut self, open: &Open) -> Option<Arc<Times>> {
        self.times.clear();
        self.times.extend(open.points.iter().map(|point| open.begin + i64::from(point.offset)));
        self.recent.retain(|(_, sealed)| sealed.strong_count() > 0);
        let known = self.recent.iter().rev().find(|(times, _)| *times == self.times);
        if let Some(shared) = known.and_then(|(_, sealed)| sealed.upgrade()) {
            return Some(shared);
        }
        // An interval with a little jitter: its differences are small, the differences of those are not smaller.
        let bytes = compress(&self.times, 1, &mut self.compressed)?.into();
        let sealed = Arc::new(Times { earliest: open.earliest, latest: open.latest, bytes });
        let mut column = match self.recent.len() {
            REMEMBERED => self.recent.pop_front().map_or_else(Vec::new, |(column, _)| column),
            _ => Vec::new(),
        };
        column.clone_from(&self.times);
        self.recent.push_back((column, Arc::downgrade(&sealed)));
        Some(sealed)
    }

    fn values(&mut self, open: &Open) -> Option<Values> {
        self.floats.clear();
        self.floats.extend(open.points.iter().map(|point| point.value));
        let first = self.floats.first().copied().unwrap_or_default();
        if self.floats.iter().all(|value| value.to_bits() == first.to_bits()) {
            return Some(Values::Constant(first));
        }
        let order = order(&self.floats);
        self.integers.clear();
        // Negative zero is no integer.
        let integer = |value: &&f64| value.abs() < EXACT && value.to_bits() == (**value as i64 as f64).to_bits();
        self.integers.extend(self.floats.iter().take_while(integer).map(|value| *value as i64));
        Some(if self.integers.len() == self.floats.len() {
            Values::Integers(compress(&self.integers, order, &mut self.compressed)?.into())
        } else {
            Values::Floats(compress(&self.floats, order, &mut self.compressed)?.into())
        })
    }
}

/// Which differences to compress: 1 where a value is nearer to the one before than to the first, as in counters; 0, the values
/// themselves, elsewhere. pco can find out by trying, which takes four times as long and gains one per cent.
fn order(values: &[f64]) -> usize {
    let first = values.first().copied().unwrap_or_default();
    let far: f64 = values.iter().map(|value| (value - first).abs()).sum();
    let near: f64 = values.iter().zip(values.iter().skip(1)).map(|(before, value)| (value - before).abs()).sum();
    usize::from(near * 2.0 < far)
}

fn compress<'a, T: Number>(values: &[T], order: usize, into: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    let delta = if order == 0 { DeltaSpec::NoOp } else { DeltaSpec::TryConsecutive(order) };
    let config = ChunkConfig::default().with_compression_level(LEVEL).with_delta_spec(delta);
    into.clear();
    simple_compress_into(values, &config, &mut *into).ok()?;
    Some(into)
}

fn decompress<T: Number>(bytes: &[u8], into: &mut [T]) {
    // These are our own bytes, straight from the compressor: they are whole.
    let _ = simple_decompress_into(bytes, into);
}

/// The samples of one block.
pub enum Points<'a> {
    /// With the begin of the block.
    Open(i64, std::slice::Iter<'a, Packed>),
    /// Decompressed.
    Sealed(std::vec::IntoIter<Point>),
}

impl Packed {
    fn after(self, begin: i64) -> Point {
        Point { millis: begin + i64::from(self.offset), value: self.value }
    }
}

impl Iterator for Points<'_> {
    type Item = Point;

    fn next(&mut self) -> Option<Point> {
        match self {
            Self::Open(begin, points) => points.next().map(|point| point.after(*begin)),
            Self::Sealed(points) => points.next(),
        }
    }
}

impl DoubleEndedIterator for Points<'_> {
    fn next_back(&mut self) -> Option<Point> {
        match self {
            Self::Open(begin, points) => points.next_back().map(|point| point.after(*begin)),
            Self::Sealed(points) => points.next_back(),
        }
    }
}
