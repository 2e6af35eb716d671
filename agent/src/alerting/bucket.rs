//! Token buckets: how many messages may leave in any minute or hour.

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::Timestamp;

/// A number of tokens, each of which comes back a period after it was taken: so there are never more in any such period, at whatever
/// moment it begins.
#[derive(Debug)]
pub(super) struct Bucket {
    count: usize,
    period: Duration,
    /// When those that are out were taken, oldest first.
    taken: VecDeque<Timestamp>,
}

impl Bucket {
    pub(super) fn new(count: u32, period: Duration) -> Self {
        Self { count: usize::try_from(count).unwrap_or(usize::MAX), period, taken: VecDeque::new() }
    }

    /// Another number of tokens; those that are out stay so.
    pub(super) fn resize(&mut self, count: u32) {
        self.count = usize::try_from(count).unwrap_or(usize::MAX);
    }

    /// Whether a token is there.
    pub(super) fn has_token(&mut self, at: Timestamp) -> bool {
        // A clock that was set back must not lock anybody out until it is as late again.
        if self.taken.back().is_some_and(|taken| *taken > at) {
            let half_a_period_ago = at.minus(self.period / 2);
            self.taken.iter_mut().filter(|taken| **taken > at).for_each(|taken| *taken = half_a_period_ago);
            self.taken.make_contiguous().sort_unstable();
        }
        while self.taken.front().is_some_and(|taken| at.since(*taken) >= self.period) {
            self.taken.pop_front();
        }
        self.taken.len() < self.count
    }

    /// Takes a token, also where none is there: what must not wait counts all the same.
    pub(super) fn take(&mut self, at: Timestamp) {
        if self.taken.len() >= self.count {
            self.taken.pop_front();
        }
        self.taken.push_back(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    #[test]
    fn no_period_holds_more_than_the_bucket() {
        let mut bucket = Bucket::new(3, Duration::from_secs(60));
        let taken: Vec<i64> = (0..200)
            .filter(|second| {
                let has = bucket.has_token(at(*second));
                if has {
                    bucket.take(at(*second));
                }
                has
            })
            .collect();
        assert_eq!(taken, [0, 1, 2, 60, 61, 62, 120, 121, 122, 180, 181, 182]);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_close_the_bucket_for_long() {
        let mut bucket = Bucket::new(1, Duration::from_secs(60));
        bucket.take(at(100_000));
        assert!(!bucket.has_token(at(1000)));
        assert!(bucket.has_token(at(1030)));
    }

    #[test]
    fn what_must_not_wait_counts_all_the_same() {
        let mut bucket = Bucket::new(2, Duration::from_secs(60));
        (0..5).for_each(|second| bucket.take(at(second)));
        assert!(!bucket.has_token(at(62)));
        assert!(bucket.has_token(at(63)));
        bucket.resize(1);
        assert!(!bucket.has_token(at(63)));
    }
}
