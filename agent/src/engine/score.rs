//! How unusual a value is for its series, from 0 to 1: what a threshold on anomalies would use.
//!
//! Streaming and causal: the score of a value depends on that value and those before it, and each costs the same. Nothing is assumed of
//! the series. Its rhythm is found by autocorrelation ([`season`]), its next value predicted by a regression that goes on learning
//! ([`forecast`]), and each way to be unusual is measured against how often the series itself was so before ([`tail`]):
//!
//! - a value that neither the recent values nor those before a disturbance predict (spikes, breaks of the rhythm);
//! - a deviation from the level of this time that lasts (shifts);
//! - noise that grew or shrank;
//! - a value that is repeated where it never was (a sensor that hangs).
//!
//! The most unusual of them is the score. Ordinary noise stays below 0.1, heavy tails included, as the tails are learnt; at 0.5 a value
//! is about twice as far out as one in 125 is.

mod forecast;
mod season;
mod tail;

use std::f64::consts::{LN_2, LOG10_2};

use forecast::{Forecast, History};
use season::Season;
use tail::{Tail, log2};

use super::robust::Robust;
use crate::model::Timestamp;

/// Rows without a score at the begin, and rows until scores are whole.
const WARM_UP: (f64, f64) = (24.0, 120.0);
/// Rows over which noise is learnt.
const NOISE_WINDOW: f64 = 300.0;
/// Rows over which levels are learnt.
const LEVEL_WINDOW: f64 = 1000.0;
/// Standard deviations from the prediction that the clean history takes as they are, by how much more with each row beyond in a row,
/// and the rows after which it takes everything.
const ACCEPTED: f64 = 4.0;
const WIDENING: f64 = 1.2;
const PATIENCE: i32 = 8;
/// Rows that are filled in where some are missing, at most, and by row that came: gaps again and again must not cost more than rows.
const MOST_MISSING: i64 = 4096;
const ROOM_BY_ROW: i64 = 4;
/// Values beyond are taken as this: squares of it are still numbers.
const LARGEST: f64 = 1e100;
/// Deviations below are taken as this.
const SMALLEST: f64 = 1e-100;
/// Standard deviations that the first change of a series counts as that was constant until then: enough for 0.5, whatever its size.
const FIRST_CHANGE: f64 = 6.0;

/// The score of one series.
pub struct Scorer {
    clock: Clock,
    /// Missing rows that may still be filled in.
    room: i64,
    rows: u32,
    season: Season,
    forecast: Forecast,
    raw: History,
    /// Rows in a row that the clean history did not take as they were.
    disturbed: i32,
    noise: Robust,
    /// Mean error without any bound, over a long time.
    errors: f64,
    level: Robust,
    surprise: Tail,
    stubborn: Tail,
    outside: Tail,
    shift: Shift,
    volatility: Volatility,
    repetition: Repetition,
}

impl Default for Scorer {
    fn default() -> Self {
        Self::new()
    }
}

impl Scorer {
    /// A score of a series of which nothing is known.
    pub fn new() -> Self {
        Self {
            clock: Clock::default(),
            room: 512,
            rows: 0,
            season: Season::new(),
            forecast: Forecast::new(),
            raw: History::default(),
            disturbed: 0,
            noise: Robust::default(),
            errors: 0.0,
            level: Robust::default(),
            surprise: Tail::new(),
            stubborn: Tail::new(),
            outside: Tail::new(),
            shift: Shift::default(),
            volatility: Volatility::default(),
            repetition: Repetition::default(),
        }
    }

    /// Takes the next value; 0 where it is as usual, 1 where it is as unusual as can be.
    pub fn score(&mut self, at: Timestamp, value: f64) -> f64 {
        if !value.is_finite() {
            return 0.0;
        }
        let value = value.clamp(-LARGEST, LARGEST);
        let missed = self.clock.missed(at);
        self.season.calendar(self.clock.interval);
        self.room = (self.room + ROOM_BY_ROW).min(MOST_MISSING);
        let filled = missed.min(self.room);
        self.room -= filled;
        for _ in 0..filled {
            let expected = self.season.expected().map_or_else(|| self.season.back(1), |expected| expected.now);
            self.season.push(expected, 0.0);
        }
        if self.rows == 0 {
            self.begin(value);
            return 0.0;
        }
        self.rows = self.rows.saturating_add(1);

        // What is too small to matter beside the values themselves.
        let never = if self.errors > 0.0 { 0.0 } else { (value - self.raw.last()).abs() / FIRST_CHANGE };
        let least = (self.level.mean().abs() * 2e-3).max(self.errors * 0.2).max(never).max(SMALLEST);
        let sigma = (self.noise.mean() * 1.25).max(least);
        let clean = self.season.history();
        let features = |history: &History| self.season.features(history, self.level.mean(), sigma);
        let of_clean = features(&clean);
        let from_clean = value - self.forecast.predict(clean.last(), &of_clean, sigma);
        let from_raw = value - self.forecast.predict(self.raw.last(), &features(&self.raw), sigma);
        let error = [from_raw, from_clean, self.season.nearest(value)]
            .into_iter()
            .fold(f64::INFINITY, |least: f64, error: f64| least.min(error.abs()));

        let surprise = self.surprise.unusual(error / sigma);
        let stubborn = self.stubborn.unusual(from_clean.abs() / sigma);
        let expected = self.season.expected();
        let shift = self.shift.unusual(value, expected.map_or(self.level.mean(), |expected| expected.now), least);
        let deviation = self.level.sigma().max(least);
        let outside = self.outside.unusual((value - self.level.mean()).abs() / deviation);
        let volatility = self.volatility.unusual(from_clean.abs().min(from_raw.abs()).min(6.0 * sigma), self.noise.mean(), least);
        let repetition = self.repetition.unusual(value);

        self.noise.take(from_clean.abs(), NOISE_WINDOW, 4.0, least);
        self.errors += (from_clean.abs().min(from_raw.abs()) - self.errors) * (1e-3_f64).max(1.0 / f64::from(self.rows));
        self.forecast.learn(&of_clean, from_clean.clamp(-3.0 * sigma, 3.0 * sigma) / sigma);
        let out = from_clean.abs() > ACCEPTED * sigma;
        self.disturbed = if out { self.disturbed.saturating_add(1) } else { 0 };
        let widened = (1..self.disturbed.min(PATIENCE)).fold(1.0, |width, _| width * WIDENING);
        let most = ACCEPTED * sigma * widened;
        let mut accepted = value - from_clean + from_clean.clamp(-most, most);
        if self.disturbed >= PATIENCE {
            // No disturbance any more: that is how it is now.
            self.season.correct(&self.raw);
            self.disturbed = 0;
            accepted = value;
        }
        self.season.push(accepted, ((accepted - self.level.mean()) / deviation).clamp(-4.0, 4.0));
        self.level.take(accepted, LEVEL_WINDOW, 4.0, least);
        self.raw.push(value);

        // What tells of one row alone, or of a state that is only unlikely, counts for less.
        let score = [(surprise, 1.0), (stubborn, 0.5), (shift, 0.9), (volatility, 0.7), (outside, 0.7), (repetition, 1.0)]
            .into_iter()
            .map(|(times, weight)| weight * mapped(times))
            .fold(0.0, f64::max);
        let known = ((f64::from(self.rows) - WARM_UP.0) / (WARM_UP.1 - WARM_UP.0)).clamp(0.0, 1.0);
        let score = score * known;
        if score.is_finite() { score.clamp(0.0, 1.0) } else { 0.0 }
    }

    fn begin(&mut self, value: f64) {
        self.rows = 1;
        self.season.push(value, 0.0);
        self.level.take(value, LEVEL_WINDOW, 4.0, 0.0);
        self.raw = History::of(value);
        self.repetition.unusual(value);
    }
}

/// From how many times further out than one in 125 to the score.
fn mapped(times: f64) -> f64 {
    let cube = times * times * times;
    if cube.is_finite() { cube / (cube + 8.0) } else { 1.0 }
}

/// A deviation from what is expected at this time that lasts.
#[derive(Default)]
struct Shift {
    /// What the expectation is off by for long.
    offset: Robust,
    lately: f64,
    size: Robust,
    tail: Tail,
}

impl Shift {
    fn unusual(&mut self, value: f64, expected: f64, least: f64) -> f64 {
        let off = value - expected - self.offset.mean();
        let deviation = self.offset.sigma().max(least);
        self.lately += 0.25 * (off.clamp(-8.0 * deviation, 8.0 * deviation) - self.lately);
        self.offset.take(value - expected, LEVEL_WINDOW, 3.0, least);
        // Both now and for a while, on the same side.
        let held = if off * self.lately > 0.0 { off.abs().min(self.lately.abs()) } else { 0.0 };
        let sigma = (self.size.mean() * 1.25).max(least * 0.5);
        self.size.take(held, LEVEL_WINDOW, 4.0, least * 0.5);
        self.tail.unusual(held / sigma)
    }
}

/// Noise that is not what it was.
#[derive(Default)]
struct Volatility {
    lately: f64,
    size: Robust,
    tail: Tail,
}

impl Volatility {
    fn unusual(&mut self, error: f64, usual: f64, least: f64) -> f64 {
        if self.size.count() == 0 {
            self.lately = usual;
        }
        self.lately += 0.12 * (error - self.lately);
        // What is too small to matter is as good as none.
        let (lately, usual) = (self.lately.max(least), usual.max(least));
        let change = log2((lately + usual * 0.05) / (usual * 1.05)).abs() * LN_2;
        let sigma = (self.size.mean() * 1.25).max(0.15);
        self.size.take(change, LEVEL_WINDOW, 4.0, 0.1);
        self.tail.unusual(change / sigma)
    }
}

/// A value that comes again and again.
#[derive(Default)]
struct Repetition {
    last: f64,
    run: f64,
    longest: f64,
    /// Rows, and those that were as the row before, in runs that are over; forgotten slowly.
    rows: f64,
    repeated: f64,
}

impl Repetition {
    const KEEP: f64 = 0.999;
    /// Rows in runs that are over, from which on something can be said.
    const KNOWN: f64 = 40.0;

    #[expect(clippy::float_cmp, reason = "a value that hangs is the same to the last bit")]
    fn unusual(&mut self, value: f64) -> f64 {
        if self.rows > 0.0 && value == self.last {
            self.run += 1.0;
            // One in ten to the power of this, were repetitions independent of each other.
            let often = (self.repeated + 1.0 + self.run.min(3.0)) / (self.rows + 2.0 + self.run.min(3.0));
            let rare = -self.run * log2(often.min(1.0)) * LOG10_2;
            return if self.rows >= Self::KNOWN && self.run > 1.3 * self.longest + 2.0 { (rare / 4.0).min(4.0) } else { 0.0 };
        }
        // A run counts when it is over: what hangs now says nothing of what is usual.
        self.repeated = self.repeated * Self::KEEP + self.run;
        self.rows = self.rows * Self::KEEP + self.run + 1.0;
        self.longest = (self.longest * Self::KEEP).max(self.run);
        self.last = value;
        self.run = 0.0;
        0.0
    }
}

/// The distance of rows in time.
#[derive(Default)]
struct Clock {
    last: Option<Timestamp>,
    /// Nanoseconds between two rows, as most of the recent ones were.
    interval: i64,
    /// Rows in a row whose distance was another one.
    others: u32,
}

impl Clock {
    /// Rows that are missing before this one; none where time ran back, or is not regular.
    fn missed(&mut self, at: Timestamp) -> i64 {
        let Some(last) = self.last.replace(at) else { return 0 };
        let gap = at.as_nanos().saturating_sub(last.as_nanos());
        if gap <= 0 {
            return 0;
        }
        if self.interval == 0 {
            self.interval = gap;
        }
        let rows = gap.saturating_add(self.interval / 2) / self.interval;
        if rows == 1 {
            self.others = 0;
            return 0;
        }
        self.others += 1;
        if self.others >= 3 {
            // The rows come at another pace now.
            self.interval = gap;
            self.others = 0;
            return 0;
        }
        (rows - 1).clamp(0, MOST_MISSING)
    }
}
