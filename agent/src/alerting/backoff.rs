//! How long to wait before a message is sent again.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use crate::notifiers::Retry;

/// No wait is longer, whatever the receiver asks for: meanwhile the queue behind it fills.
pub(super) const LONGEST: Duration = Duration::from_secs(300);

/// The wait after `failed` attempts (at least one) of which the receiver answered the last with "not before `after`": the policy's
/// delay, doubled with each attempt, and up to a quarter more, so that the hosts that one outage hit do not come back at one moment. How
/// much more follows from the message.
pub(super) fn wait(policy: Retry, failed: u32, after: Option<Duration>, delivery: &str) -> Duration {
    let doubled = policy.delay.saturating_mul(2_u32.saturating_pow(failed.saturating_sub(1))).min(LONGEST);
    let mut hasher = DefaultHasher::new();
    (delivery, failed).hash(&mut hasher);
    let share = u32::try_from(hasher.finish() % 256).unwrap_or(0);
    let jitter = doubled / 1024 * share;
    (doubled + jitter).max(after.unwrap_or_default()).min(LONGEST + LONGEST / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn the_wait_doubles_up_to_its_limit_with_up_to_a_quarter_more() {
        let policy = Retry { count: 9, delay: secs(5) };
        for (failed, least) in (1..=10).zip([5, 10, 20, 40, 80, 160, 300, 300, 300, 300]) {
            let wait = wait(policy, failed, None, "d-1");
            assert!((secs(least)..secs(least) * 5 / 4).contains(&wait), "{failed}: {wait:?}");
        }
        assert!(wait(Retry { count: u32::MAX, delay: Duration::MAX }, u32::MAX, None, "") <= LONGEST * 5 / 4);
    }

    #[test]
    fn messages_do_not_wait_in_step() {
        let policy = Retry { count: 3, delay: secs(100) };
        let waits: std::collections::BTreeSet<_> = (0..100).map(|n| wait(policy, 1, None, &format!("d-{n}"))).collect();
        assert!(waits.len() > 50, "{}", waits.len());
        assert_eq!(wait(policy, 1, None, "d-1"), wait(policy, 1, None, "d-1"));
    }

    #[test]
    fn the_receiver_may_lengthen_the_wait_but_not_without_limit() {
        let policy = Retry { count: 3, delay: secs(5) };
        assert_eq!(wait(policy, 1, Some(secs(60)), "d"), secs(60));
        assert!(wait(policy, 2, Some(secs(1)), "d") >= secs(10));
        assert_eq!(wait(policy, 1, Some(secs(86_400)), "d"), secs(375));
    }
}
