//! How long to wait before a message is sent again. No jitter: one agent has one message on its way to a channel, and its wait
//! should be what the configuration says.

use std::time::Duration;

use crate::notifiers::Retry;

/// No wait is longer, whatever the receiver asks for: meanwhile the queue behind it fills.
pub(super) const LONGEST: Duration = Duration::from_secs(300);

/// The wait after `failed` attempts (at least one) of which the receiver answered the last with "not before `after`"; `None`
/// where no attempt is left.
pub(super) fn wait(policy: Retry, failed: u32, after: Option<Duration>) -> Option<Duration> {
    if failed > policy.count {
        return None;
    }
    let doubled = policy.delay.saturating_mul(2_u32.saturating_pow(failed.saturating_sub(1)));
    Some(doubled.max(after.unwrap_or_default()).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn the_wait_doubles_up_to_its_limit_and_the_attempts_end() {
        let policy = Retry { count: 9, delay: secs(5) };
        let waits: Vec<_> = (1..=10).map(|failed| wait(policy, failed, None)).collect();
        let expected: Vec<_> =
            [5, 10, 20, 40, 80, 160, 300, 300, 300].into_iter().map(|wait| Some(secs(wait))).chain([None]).collect();
        assert_eq!(waits, expected);
        assert_eq!(wait(Retry { count: 0, delay: secs(5) }, 1, Some(secs(1))), None);
        assert_eq!(wait(Retry { count: u32::MAX, delay: Duration::MAX }, u32::MAX, None), Some(LONGEST));
    }

    #[test]
    fn the_receiver_may_lengthen_the_wait_but_not_without_limit() {
        let policy = Retry { count: 3, delay: secs(5) };
        assert_eq!(wait(policy, 1, Some(secs(60))), Some(secs(60)));
        assert_eq!(wait(policy, 2, Some(secs(1))), Some(secs(10)));
        assert_eq!(wait(policy, 1, Some(secs(86_400))), Some(LONGEST));
    }
}
