//! The rhythm of a series, whatever its period: found by autocorrelation, told from the values one, two, three and four periods ago.

use super::forecast::{FEATURES, Features, History};

/// Values kept, disturbances taken out: four periods of the longest rhythm.
const KEPT: usize = 8192;
/// Nanoseconds.
const DAY: f64 = 86_400e9;
/// Longest period in rows: a week of five minutes is 2,016 of them.
const LONGEST: usize = 2048;
/// Periods that an expectation is taken from.
const PERIODS: usize = 4;
/// Weight that a product of the autocorrelation keeps with each row.
const KEEP: f32 = 1.0 - 1.0 / 8192.0;
/// Rows from one look for rhythms to the next.
const LOOK_EVERY: u64 = 32;
/// Least correlation of a rhythm, and how far it must stand out from what is before it.
const LEAST: f32 = 0.25;
const STANDS_OUT: f32 = 0.2;
/// By how much the correlation of a longer rhythm must be greater to take the place of a shorter one, and to stand beside it.
const BETTER: f32 = 0.12;
const LONGER: f32 = 0.03;

/// What the rhythm says of the row to come and of the one before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) now: f64,
    before: f64,
}

/// Past values and the rhythms in them.
pub(super) struct Season {
    values: Vec<f64>,
    /// Where the next value goes.
    next: usize,
    rows: u64,
    /// Standardised values, the newest first from `newest`; twice, so that they are always in one piece.
    recent: Vec<f32>,
    newest: usize,
    /// By lag, the decayed sum of products, and of squares.
    products: Vec<f32>,
    square: f32,
    /// What is left of the weight of the first row.
    forgotten: f32,
    periods: [usize; 2],
    expected: [Option<Expected>; 2],
    /// Rows of a day; 0 where that is unknown.
    day: f64,
}

impl Season {
    pub(super) fn new() -> Self {
        Self {
            values: Vec::new(),
            next: 0,
            rows: 0,
            recent: vec![0.0; 2 * LONGEST],
            newest: 0,
            products: vec![0.0; LONGEST],
            square: 0.0,
            forgotten: 1.0,
            periods: [0; 2],
            expected: [None; 2],
            day: 0.0,
        }
    }

    /// Takes a value, and how it stands to the level in standard deviations.
    pub(super) fn push(&mut self, value: f64, standing: f64) {
        match self.values.get_mut(self.next) {
            Some(slot) => *slot = value,
            None => self.values.push(value),
        }
        self.next = (self.next + 1) % KEPT;
        self.rows += 1;
        self.correlate(standing as f32);
        if self.rows.is_multiple_of(LOOK_EVERY) {
            self.look();
        }
        self.expected = self.periods.map(|period| self.expect(period));
    }

    /// The value that many rows ago, 1 being the last; the oldest there is, or 0, where there are fewer.
    pub(super) fn back(&self, rows: usize) -> f64 {
        let rows = rows.clamp(1, self.values.len().max(1));
        self.values.get((self.next + KEPT - rows) % KEPT).copied().unwrap_or(0.0)
    }

    /// Puts other values in the place of the last ones.
    pub(super) fn correct(&mut self, history: &History) {
        for (back, value) in (1..).zip(history.values()) {
            let index = (self.next + KEPT - back) % KEPT;
            if let Some(slot) = self.values.get_mut(index) {
                *slot = value;
            }
        }
    }

    pub(super) fn history(&self) -> History {
        History::new([self.back(1), self.back(2), self.back(3)])
    }

    /// What the best rhythm says of the row to come; `None` where there is no rhythm.
    pub(super) fn expected(&self) -> Option<Expected> {
        let [short, long] = self.expected;
        long.or(short)
    }

    /// What there is to predict from, in units.
    pub(super) fn features(&self, history: &History, level: f64, unit: f64) -> Features {
        let (last, (step, before)) = (history.last(), history.steps());
        let mut features = [0.0; FEATURES];
        let of_rhythm = |expected: Option<Expected>| expected.map_or((0.0, 0.0), |e| (e.now - e.before, e.before - last));
        let [(a, b), (c, d)] = self.expected.map(of_rhythm);
        let all = [step / unit, before / unit, a / unit, b / unit, c / unit, d / unit, (level - last) / unit, 0.1];
        // A feature of extreme size would teach nothing but itself.
        features.iter_mut().zip(all).for_each(|(feature, value)| *feature = value.clamp(-1e4, 1e4));
        features
    }

    /// How far `value` is from what was there one period ago, or a row before or after.
    pub(super) fn nearest(&self, value: f64) -> f64 {
        let [short, long] = self.periods;
        let period = if long > 0 { long } else { short };
        if period == 0 || period >= self.values.len() {
            return f64::INFINITY;
        }
        (period - 1..=period + 1).map(|rows| (value - self.back(rows)).abs()).fold(f64::INFINITY, f64::min)
    }

    /// Learns the distance of rows, in nanoseconds: rhythms of about a day or a week are of a day or a week.
    pub(super) fn calendar(&mut self, interval: i64) {
        self.day = if interval > 0 { DAY / interval as f64 } else { 0.0 };
    }

    fn snapped(&self, lag: usize) -> usize {
        let snap = |period: f64| {
            let near = (period - lag as f64).abs() <= (period * 0.02).max(1.0) && period >= 8.0;
            (near && (period - period.round()).abs() < 1e-3).then_some(period.round() as usize)
        };
        snap(self.day).or_else(|| snap(self.day * 7.0)).unwrap_or(lag)
    }

    fn expect(&self, period: usize) -> Option<Expected> {
        if period == 0 {
            return None;
        }
        // The row to come is `period` rows after the one that is `period` rows back.
        let whole = (self.values.len().saturating_sub(1) / period).min(PERIODS);
        let mean = |offset: usize| (1..=whole).map(|times| self.back(times * period + offset)).sum::<f64>() / whole as f64;
        (whole > 0).then(|| Expected { now: mean(0), before: mean(1) })
    }

    fn correlate(&mut self, standing: f32) {
        let past = self.recent.get(self.newest..self.newest + LONGEST).unwrap_or_default();
        self.products.iter_mut().zip(past).for_each(|(sum, past)| *sum = *sum * KEEP + standing * past);
        self.forgotten *= KEEP;
        self.square = self.square * KEEP + standing * standing;
        self.newest = if self.newest == 0 { LONGEST - 1 } else { self.newest - 1 };
        for index in [self.newest, self.newest + LONGEST] {
            if let Some(slot) = self.recent.get_mut(index) {
                *slot = standing;
            }
        }
    }

    /// Looks for the lags at which the series is like itself again, after having been unlike itself.
    fn look(&mut self) {
        // Sums of fewer products are smaller.
        let mut forgotten = self.forgotten;
        let variance = self.square / (1.0 - forgotten);
        let seen = usize::try_from(self.rows).unwrap_or(usize::MAX);
        let lags = (seen / 2).min(LONGEST);
        if !variance.is_normal() || lags < 4 {
            return;
        }
        let mut correlations = self.products.iter().take(lags).map(|sum| {
            forgotten /= KEEP;
            sum / (1.0 - forgotten) / variance
        });
        let (mut before, mut here) = (correlations.next().unwrap_or(0.0), correlations.next().unwrap_or(0.0));
        let mut low = before;
        let mut best: [Option<(usize, f32)>; 2] = [None; 2];
        for (lag, after) in (2..).zip(correlations) {
            low = low.min(here);
            if here > before && here >= after && here > LEAST && here - low > STANDS_OUT {
                let better = |found: Option<(usize, f32)>, by: f32| found.is_none_or(|(_, correlation)| here > correlation + by);
                if better(best[0], BETTER) {
                    best[0] = Some((lag, here));
                    best[1] = None;
                } else if better(best[1].or(best[0]), LONGER) {
                    best[1] = Some((lag, here));
                }
            }
            (before, here) = (here, after);
        }
        self.periods = best.map(|found| found.map_or(0, |(lag, _)| self.snapped(lag)));
    }
}
