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

/// A run of samples of one series, in order of arrival.
#[derive(Debug)]
pub struct Block {
    /// Least and greatest time.
    pub earliest: i64,
    pub latest: i64,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Open(Vec<Point>),
    /// Always full.
    Sealed {
        times: Arc<[u8]>,
        values: Values,
    },
}

#[derive(Debug)]
enum Values {
    Constant(f64),
    /// Integers, compressed as `i64`.
    Integers(Box<[u8]>),
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
    recent: VecDeque<(Vec<i64>, Weak<[u8]>)>,
}

impl Block {
    /// A block with its first sample, for a series that has filled blocks before or has not.
    pub fn new(point: Point, filled_before: bool) -> Self {
        let mut points = Vec::with_capacity(if filled_before { BLOCK / 4 } else { FIRST_ROOM });
        points.push(point);
        Self { earliest: point.millis, latest: point.millis, body: Body::Open(points) }
    }

    /// Appends a sample; a block that is full by that is sealed. Whether there was room.
    pub fn push(&mut self, point: Point, sealer: &mut Sealer) -> bool {
        let Body::Open(points) = &mut self.body else { return false };
        if points.len() >= BLOCK {
            return false;
        }
        if points.len() == points.capacity() {
            points.reserve_exact(points.len().min(BLOCK - points.len()));
        }
        points.push(point);
        self.earliest = self.earliest.min(point.millis);
        self.latest = self.latest.max(point.millis);
        // The compressor refuses no numbers of this length; if it ever did, the block would stay plain.
        if points.len() == BLOCK
            && let Some(sealed) = sealer.seal(points)
        {
            self.body = sealed;
        }
        true
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        match &self.body {
            Body::Open(points) => points.len(),
            Body::Sealed { .. } => BLOCK,
        }
    }

    /// Memory that would be free without this block, in bytes. What it shares belongs to the last that shares it.
    pub fn bytes(&self) -> usize {
        let body = match &self.body {
            Body::Open(points) => points.capacity() * size_of::<Point>(),
            Body::Sealed { times, values, .. } => {
                let shared = Arc::strong_count(times) > 1;
                values.bytes() + if shared { 0 } else { times.len() + 2 * size_of::<usize>() }
            }
        };
        size_of::<Self>() + body
    }

    /// The samples, in order of arrival.
    pub fn points(&self) -> Points<'_> {
        match &self.body {
            Body::Open(points) => Points::Open(points.iter()),
            Body::Sealed { times, values } => {
                let mut column = vec![0_i64; BLOCK];
                decompress(times, &mut column);
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
    fn seal(&mut self, points: &[Point]) -> Option<Body> {
        Some(Body::Sealed { times: self.times(points)?, values: self.values(points)? })
    }

    fn times(&mut self, points: &[Point]) -> Option<Arc<[u8]>> {
        self.times.clear();
        self.times.extend(points.iter().map(|point| point.millis));
        self.recent.retain(|(_, sealed)| sealed.strong_count() > 0);
        let known = self.recent.iter().rev().find(|(times, _)| *times == self.times);
        if let Some(shared) = known.and_then(|(_, sealed)| sealed.upgrade()) {
            return Some(shared);
        }
        // An interval with a little jitter: its differences are small, the differences of those are not smaller.
        let sealed: Arc<[u8]> = compress(&self.times, 1, &mut self.compressed)?.into();
        let mut column = match self.recent.len() {
            REMEMBERED => self.recent.pop_front().map_or_else(Vec::new, |(column, _)| column),
            _ => Vec::new(),
        };
        column.clone_from(&self.times);
        self.recent.push_back((column, Arc::downgrade(&sealed)));
        Some(sealed)
    }

    fn values(&mut self, points: &[Point]) -> Option<Values> {
        self.floats.clear();
        self.floats.extend(points.iter().map(|point| point.value));
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
    Open(std::slice::Iter<'a, Point>),
    Sealed(std::vec::IntoIter<Point>),
}

impl Iterator for Points<'_> {
    type Item = Point;

    fn next(&mut self) -> Option<Point> {
        match self {
            Self::Open(points) => points.next().copied(),
            Self::Sealed(points) => points.next(),
        }
    }
}

impl DoubleEndedIterator for Points<'_> {
    fn next_back(&mut self) -> Option<Point> {
        match self {
            Self::Open(points) => points.next_back().copied(),
            Self::Sealed(points) => points.next_back(),
        }
    }
}
