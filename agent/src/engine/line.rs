//! Straight lines through samples, for analyzers that look ahead.
//!
//! Samples are first gathered into blocks of time, each of which becomes one point: what happens within a block, as a burst of a
//! cron job, then weighs no more than one point. The slope is the median of the slopes between all pairs of points (Theil and
//! Sen, <https://en.wikipedia.org/wiki/Theil%E2%80%93Sen_estimator>), which a quarter of wrong points does not move. Nothing here
//! decides anything.

use std::time::Duration;

use crate::model::Timestamp;

/// One point: seconds relative to the end of the time looked at, which are not positive, and a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub secs: f64,
    pub value: f64,
}

/// What stands for the values of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// Their median.
    Median,
    /// The least of them.
    Least,
}

/// The samples of the time `span` until `end` as at most `count` points, the oldest first; blocks without a sample are left out.
/// Samples may come in any order; those outside are left out.
pub(super) fn blocks(
    samples: impl Iterator<Item = (Timestamp, f64)>,
    end: Timestamp,
    span: Duration,
    count: usize,
    of: Of,
) -> Vec<Point> {
    let length = span.as_secs_f64() / count as f64;
    let mut blocks: Vec<Vec<Point>> = vec![Vec::new(); count];
    for (at, value) in samples {
        let ago = end.since(at);
        if at > end || ago > span || !value.is_finite() {
            continue;
        }
        let secs = -ago.as_secs_f64();
        // From 0 for the newest; at the border between two blocks the older one takes the oldest sample of all.
        let index = ((-secs / length) as usize).min(count.saturating_sub(1));
        if let Some(block) = blocks.get_mut(index) {
            block.push(Point { secs, value });
        }
    }
    blocks.iter_mut().rev().filter_map(|block| point(block, of)).collect()
}

fn point(block: &[Point], of: Of) -> Option<Point> {
    if block.is_empty() {
        return None;
    }
    let secs = mean(block.iter().map(|point| point.secs))?;
    let mut values: Vec<f64> = block.iter().map(|point| point.value).collect();
    let value = match of {
        Of::Median => median(&mut values)?,
        Of::Least => values.into_iter().fold(f64::INFINITY, f64::min),
    };
    Some(Point { secs, value })
}

/// Whether points cover the time `span` until its end, with no gap longer than `gap`.
pub(super) fn cover(points: &[Point], span: Duration, gap: Duration) -> bool {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return false };
    let gap = gap.as_secs_f64();
    let inner = points.windows(2).all(|pair| matches!(pair, [a, b] if b.secs - a.secs <= gap));
    inner && span.as_secs_f64() + first.secs <= gap && -last.secs <= gap
}

/// The arithmetic mean; `None` of nothing.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then_some(sum / count)
}

/// The median; `None` of nothing. Changes the order of the values.
pub(super) fn median(values: &mut [f64]) -> Option<f64> {
    let middle = values.len() / 2;
    let even = values.len().is_multiple_of(2);
    if values.is_empty() {
        return None;
    }
    let (below, &mut upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    if !even {
        return Some(upper);
    }
    let lower = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Some(f64::midpoint(lower, upper))
}

/// A straight line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Line {
    /// Per second.
    pub slope: f64,
    /// At the end of the time looked at.
    pub now: f64,
    /// The slope lies between these with a confidence of 95 %, as far as the points' deviations do not depend on each other.
    pub slope_low: f64,
    pub slope_high: f64,
    /// The part of the variance that the line explains, from 0 to 1.
    pub r_squared: f64,
}

impl Line {
    /// The line through points; `None` of fewer than three, and where the numbers are too large to compute with.
    pub fn through(points: &[Point]) -> Option<Self> {
        if points.len() < 3 {
            return None;
        }
        let mut slopes = Vec::with_capacity(points.len() * (points.len() - 1) / 2);
        for (index, a) in points.iter().enumerate() {
            let later = points.get(index + 1..).unwrap_or_default();
            slopes.extend(later.iter().filter(|b| b.secs > a.secs).map(|b| (b.value - a.value) / (b.secs - a.secs)));
        }
        slopes.sort_unstable_by(f64::total_cmp);
        let slope = median(&mut slopes.clone())?;
        let now = median(&mut points.iter().map(|point| point.value - slope * point.secs).collect::<Vec<_>>())?;
        // Kendall's statistic has this variance where the points have no trend.
        let count = points.len() as f64;
        let spread = 1.96 * (count * (count - 1.0) * (2.0 * count + 5.0) / 18.0).sqrt();
        let rank = ((slopes.len() as f64 - spread) / 2.0).max(0.0) as usize;
        let slope_low = *slopes.get(rank)?;
        let slope_high = *slopes.get(slopes.len().checked_sub(rank + 1)?)?;
        let middle = mean(points.iter().map(|point| point.value))?;
        let total: f64 = points.iter().map(|point| (point.value - middle).powi(2)).sum();
        let left: f64 = points.iter().map(|point| (point.value - now - slope * point.secs).powi(2)).sum();
        // A constant series has no variance that a line could explain.
        let r_squared = if total > 0.0 { (1.0 - left / total).max(0.0) } else { 0.0 };
        let line = Self { slope, now, slope_low, slope_high, r_squared };
        [slope, now, slope_low, slope_high, r_squared].iter().all(|number| number.is_finite()).then_some(line)
    }

    /// The value at a time relative to the end.
    pub fn at(&self, secs: f64) -> f64 {
        self.now + self.slope * secs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(values: impl IntoIterator<Item = f64>) -> Vec<Point> {
        let values: Vec<f64> = values.into_iter().collect();
        let first = 1.0 - values.len() as f64;
        values.iter().zip(0..).map(|(value, index)| Point { secs: first + f64::from(index), value: *value }).collect()
    }

    #[test]
    fn a_line_is_found_also_among_bursts() {
        let line = Line::through(&points((0..24).map(|n| 5.0 + 2.0 * f64::from(n)))).unwrap();
        assert_eq!(line, Line { slope: 2.0, now: 51.0, slope_low: 2.0, slope_high: 2.0, r_squared: 1.0 });
        let bursts = (0..24).map(|n| 5.0 + 2.0 * f64::from(n) + if n % 6 == 3 { 500.0 } else { 0.0 });
        let line = Line::through(&points(bursts)).unwrap();
        assert!((line.slope - 2.0).abs() < 0.5 && (line.now - 51.0).abs() < 1.0, "{line:?}");
        assert!(line.r_squared < 0.5, "bursts are not explained: {line:?}");
    }

    #[test]
    fn what_is_no_line_is_none() {
        assert_eq!(Line::through(&points([1.0, 2.0])), None);
        assert_eq!(Line::through(&points([0.0, f64::MAX, -f64::MAX, f64::MAX])), None);
        assert_eq!(Line::through(&points([7.0; 9])).map(|line| (line.slope, line.r_squared)), Some((0.0, 0.0)));
    }

    #[test]
    fn samples_become_points_in_any_order() {
        let at = Timestamp::from_secs;
        let samples =
            [(at(100), 4.0), (at(40), 1.0), (at(35), 9.0), (at(30), 2.0), (at(101), 7.0), (at(0), 7.0), (at(90), f64::NAN)];
        let span = Duration::from_secs(80);
        let found = blocks(samples.into_iter(), at(100), span, 8, Of::Median);
        assert_eq!(found, [(-70.0, 2.0), (-62.5, 5.0), (0.0, 4.0)].map(|(secs, value)| Point { secs, value }));
        assert_eq!(blocks(samples.into_iter(), at(100), span, 8, Of::Least)[1].value, 1.0);
        assert!(cover(&found, span, Duration::from_secs(63)) && !cover(&found, span, Duration::from_secs(62)));
        assert!(!cover(&found, Duration::from_secs(200), Duration::from_secs(60)) && !cover(&[], span, span));
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
