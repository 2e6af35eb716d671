//! What counters grew by between two runs: the one place where rates come from.

use std::time::Instant;

/// Counters that are read together.
#[derive(Debug)]
pub struct Counters<const N: usize> {
    last: Option<([u64; N], Instant)>,
}

/// What they grew by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth<const N: usize> {
    /// Growth of each.
    pub by: [u64; N],
    /// Over how long; more than zero.
    pub seconds: f64,
}

impl<const N: usize> Default for Counters<N> {
    fn default() -> Self {
        Self { last: None }
    }
}

impl<const N: usize> Counters<N> {
    /// Counters that were zero at a time.
    pub fn from_zero(at: Instant) -> Self {
        Self { last: Some(([0; N], at)) }
    }

    /// Takes the present values and gives the growth since the last ones.
    ///
    /// `None` with the first values, if no time has passed, and if any counter went backwards: it was reset, it wrapped, or
    /// the device behind it is another one. Then the growth of the others is not to be trusted either.
    pub fn advance(&mut self, at: Instant, values: [u64; N]) -> Option<Growth<N>> {
        let (last, since) = self.last.replace((values, at))?;
        let seconds = at.checked_duration_since(since)?.as_secs_f64();
        if seconds <= 0.0 {
            return None;
        }
        let mut by = [0; N];
        for ((slot, value), last) in by.iter_mut().zip(values).zip(last) {
            *slot = value.checked_sub(last)?;
        }
        Some(Growth { by, seconds })
    }
}

/// `part` of `whole` in percent, at most 100; `None` of nothing.
pub fn percent(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| (part / whole * 100.0).clamp(0.0, 100.0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn growth_is_what_was_added_since_the_last_run() {
        let start = Instant::now();
        let mut counters = Counters::default();
        assert_eq!(counters.advance(start, [10, 5]), None);
        let growth = counters.advance(start + Duration::from_secs(10), [30, 5]);
        assert_eq!(growth, Some(Growth { by: [20, 0], seconds: 10.0 }));
    }

    #[test]
    fn a_counter_that_goes_backwards_costs_one_interval() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut counters = Counters::default();
        assert_eq!(counters.advance(at(0), [u64::MAX, 5]), None);
        assert_eq!(counters.advance(at(1), [3, 6]), None);
        assert_eq!(counters.advance(at(2), [4, 7]), Some(Growth { by: [1, 1], seconds: 1.0 }));
    }

    #[test]
    fn no_time_no_rate() {
        let start = Instant::now();
        let mut counters = Counters::default();
        assert_eq!(counters.advance(start, [1]), None);
        assert_eq!(counters.advance(start, [2]), None);
    }

    #[test]
    fn percentages_stay_in_their_range() {
        assert_eq!(percent(1.0, 4.0), Some(25.0));
        assert_eq!(percent(5.0, 4.0), Some(100.0));
        assert_eq!(percent(-1.0, 4.0), Some(0.0));
        assert_eq!(percent(0.0, 0.0), None);
    }
}
