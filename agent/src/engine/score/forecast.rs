//! The next value from the last ones, the time of day and the level: recursive least squares with forgetting.
//!
//! Everything is told as a difference from the last value, in units of the usual error, so that nothing depends on the size of the values.
//! (Haykin, Adaptive Filter Theory, chapter on recursive least squares.)

/// Features: two steps before, for two rhythms the step and the distance to where it should be, the distance to the level, a
/// constant.
pub(super) const FEATURES: usize = 8;
/// What a row weighs beside the next one.
const KEEP: f64 = 0.998;
/// Uncertainty of a weight at the begin, and the most that forgetting may make of it.
const UNCERTAIN: f64 = 0.05;
const MOST_UNCERTAIN: f64 = 10.0;

/// What there is to predict from.
pub(super) type Features = [f64; FEATURES];

/// The last three values, the newest first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct History([f64; 3]);

impl History {
    pub(super) fn new(values: [f64; 3]) -> Self {
        Self(values)
    }

    pub(super) fn of(value: f64) -> Self {
        Self([value; 3])
    }

    pub(super) fn values(&self) -> [f64; 3] {
        self.0
    }

    pub(super) fn last(&self) -> f64 {
        self.0[0]
    }

    /// The last step and the one before.
    pub(super) fn steps(&self) -> (f64, f64) {
        let [a, b, c] = self.0;
        (a - b, b - c)
    }

    pub(super) fn push(&mut self, value: f64) {
        let [a, b, _] = self.0;
        self.0 = [value, a, b];
    }
}

/// The regression.
pub(super) struct Forecast {
    weights: Features,
    /// Inverse of the weighted correlation of the features.
    inverse: [Features; FEATURES],
}

impl Forecast {
    pub(super) fn new() -> Self {
        let mut inverse = [[0.0; FEATURES]; FEATURES];
        for (index, row) in inverse.iter_mut().enumerate() {
            row[index] = UNCERTAIN;
        }
        Self { weights: [0.0; FEATURES], inverse }
    }

    pub(super) fn predict(&self, last: f64, features: &Features, unit: f64) -> f64 {
        let step: f64 = self.weights.iter().zip(features).map(|(weight, feature)| weight * feature).sum();
        last + step * unit
    }

    /// Learns from how far the prediction from `features` was off, in units.
    pub(super) fn learn(&mut self, features: &Features, error: f64) {
        let projected = self.inverse.map(|row| row.iter().zip(features).map(|(a, b)| a * b).sum::<f64>());
        let denominator = KEEP + projected.iter().zip(features).map(|(a, b)| a * b).sum::<f64>();
        let trace: f64 = self.inverse.iter().enumerate().map(|(index, row)| row[index]).sum();
        let keep = if trace > MOST_UNCERTAIN { 1.0 } else { KEEP };
        for ((weight, row), gain) in self.weights.iter_mut().zip(&mut self.inverse).zip(projected) {
            *weight += gain / denominator * error;
            for (entry, other) in row.iter_mut().zip(projected) {
                *entry = (*entry - gain * other / denominator) / keep;
            }
        }
        if !denominator.is_finite() || denominator <= 0.0 || !self.weights.iter().all(|weight| weight.is_finite()) {
            *self = Self::new();
        }
    }
}
