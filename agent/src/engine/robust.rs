//! What is usual of a stream of numbers, when some of them are not: a level and a deviation that bursts hardly move.
//!
//! One update a number, of constant cost, and a few words of memory; no window of past values is kept.

/// From the mean absolute deviation to the standard deviation, for normally distributed values: sqrt(pi / 2).
const TO_SIGMA: f64 = 1.253_314_137_315_5;
/// Values at the begin that are taken as they are.
const FIRST: u32 = 8;

/// Exponentially weighted mean and deviation, in which no value counts as further away than a few deviations (winsorised).
///
/// A burst moves the level by a fraction of a deviation a value. What lasts is followed all the same: values at the bound widen the
/// deviation, and so the bound, by a constant factor each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Robust {
    mean: f64,
    deviation: f64,
    count: u32,
}

impl Robust {
    /// Takes a value into a window of about `window` values; it counts as at most `bound` standard deviations away, of which each
    /// is at least `least`.
    pub fn take(&mut self, value: f64, window: f64, bound: f64, least: f64) {
        let weight = (2.0 / (window + 1.0)).max(1.0 / (f64::from(self.count) + 1.0));
        let mut off = value - self.mean;
        if self.count >= FIRST {
            let most = bound * self.sigma().max(least);
            off = off.clamp(-most, most);
        }
        self.mean += weight * off;
        if self.count > 0 {
            self.deviation += weight * (off.abs() - self.deviation);
        }
        self.count = self.count.saturating_add(1);
    }

    /// The level.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The standard deviation, were the values normally distributed.
    pub fn sigma(&self) -> f64 {
        self.deviation * TO_SIGMA
    }

    /// Values taken so far.
    pub fn count(&self) -> u32 {
        self.count
    }
}
