//! Ten thousand findings within a minute, one channel dead: few messages, complete counts, bounded memory.
//!
//! In a process of its own, so that its peak is that of the storm.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysops_agent::alerting::{Outbox, Router};
use sysops_agent::config::Config;
use sysops_agent::model::{Alert, Evidence, Labels, Message, Severities, Severity, Status, Timestamp};
use sysops_agent::notifiers::{Accepted, Channel, Notifier, Rendered, Retry, Sender, Sending, Updates};

/// 2026-02-22 07:30:00 UTC.
const AT: Timestamp = Timestamp::from_secs(1_771_745_400);
/// Findings a second, for a minute.
const EACH_SECOND: usize = 167;
/// What a storm may take: it is 45 MB of evidence, twice.
const MOST_MEMORY: u64 = 24 << 20;

/// What a channel was sent: how many alerts each message stands for.
type Counts = Arc<Mutex<Vec<u64>>>;

/// Counts and accepts, or takes what it is sent and never answers.
struct Counting {
    counts: Counts,
    is_dead: bool,
}

impl Notifier for Counting {
    fn render(&self, message: &Message, _: &Sender) -> Rendered {
        self.counts.lock().unwrap().push(message.count());
        Rendered::of(message, "")
    }

    fn send<'a>(&'a self, _: &'a Rendered) -> Sending<'a> {
        let is_dead = self.is_dead;
        Box::pin(async move { if is_dead { std::future::pending().await } else { Ok(Accepted::default()) } })
    }
}

fn channel(name: &'static str, is_dead: bool) -> (Channel, Counts) {
    let counts = Counts::default();
    let channel = Channel {
        name,
        notifier: Box::new(Counting { counts: Arc::clone(&counts), is_dead }),
        severities: Severities::from(Severity::Info),
        retry: Retry { count: 3, delay: Duration::from_secs(5) },
        updates: Updates::Separate,
        refresh: None,
        is_screen: false,
    };
    (channel, counts)
}

fn finding(second: u64, number: usize, at: Timestamp) -> Alert {
    let families = ["disk_usage_percent", "kernel_tcp_retransmit", "process_open_fds", "log_match"];
    let mut evidence = Evidence::new();
    evidence.insert("stack".into(), "some_function+0x1c4/0x230\n".repeat(170).into());
    Alert {
        id: format!("{second}-{number}"),
        delivery: format!("{second}-{number}-1"),
        at,
        status: Status::Firing,
        severity: if number.is_multiple_of(10) { Severity::Critical } else { Severity::Warn },
        metric: families[number % families.len()].into(),
        value: 1.0,
        threshold: None,
        message: "something of which there is much went wrong".into(),
        labels: Labels::new().with("second", second.to_string()).with("number", number.to_string()),
        duration: Duration::ZERO,
        count: 1,
        evidence,
    }
}

/// The most memory that this process has had resident so far, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn a_storm_is_few_messages_with_complete_counts_and_bounded_memory() {
    let home = tempfile::tempdir().unwrap();
    let config = Config::default();
    let (outbox, mut keeper) = Outbox::in_directory(home.path(), config.alerting.outbox.max_size);
    let keeper = std::thread::spawn(move || keeper.run());
    let restored = outbox.restore(AT, Duration::from_secs(10)).await.unwrap();
    let ((alive, counts), (dead, _)) = (channel("alive", false), channel("dead", true));
    let time_zone = jiff::tz::TimeZone::UTC;
    let sender = Sender { hostname: "web-01".into(), address: String::new(), time_zone, pid: 1 };
    let mut router = Router::new(vec![alive, dead], sender, &config.alerting, outbox.clone(), restored);
    let couriers: Vec<_> = router.couriers().map(|courier| tokio::spawn(async move { courier.run().await })).collect();
    let before = peak();
    let mut at = AT;
    for second in 0..60 {
        for number in 0..EACH_SECOND {
            router.dispatch(at, finding(second, number, at));
        }
        at = at.plus(Duration::from_secs(1));
        router.tick(at);
        // A second is long enough for any disk.
        outbox.synced().await;
    }
    let within = counts.lock().unwrap().len();
    assert!(within <= 10, "{within} messages in a minute, and {} are configured", config.alerting.max_alerts_per_minute);
    let storm = peak() - before;
    for _ in 0..180 {
        at = at.plus(Duration::from_secs(1));
        router.tick(at);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let all = counts.lock().unwrap().iter().sum::<u64>();
    assert_eq!(all, 60 * EACH_SECOND as u64, "each group is complete in its counts");
    println!(
        "{within} messages within the minute, {} in all; {:.1} MiB more at the peak",
        counts.lock().unwrap().len(),
        storm as f64 / 1_048_576.0
    );
    assert!(storm < MOST_MEMORY, "{} MiB more at the peak", storm >> 20);
    couriers.iter().for_each(tokio::task::JoinHandle::abort);
    for courier in couriers {
        let _ = courier.await;
    }
    drop((router, outbox));
    keeper.join().unwrap();
}
