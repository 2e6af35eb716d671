//! The router and its couriers: over scripted notifiers on simulated time, and once over the real webhook.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysops_agent::alerting::Router;
use sysops_agent::model::{Alert, Message, Severities, Severity};
use sysops_agent::notifiers::{Accepted, Channel, Notifier, Rendered, Retry, SendError, Sender, Sending, Updates};
use tokio::time::Instant;

use super::receiver::{Answer, Receiver};
use super::{alert, sender, webhook};

/// What a scripted notifier does with one attempt; once the script is done, it accepts.
#[derive(Clone, Copy)]
enum Step {
    Accept,
    Retry(Option<u64>),
    Refuse,
    Hang,
    Panic,
}

/// Deliveries in the order of their attempts, with the seconds since the start.
type Attempts = Arc<Mutex<Vec<(String, u64)>>>;

struct Scripted {
    script: Mutex<VecDeque<Step>>,
    /// What it does once the script is done.
    then: Step,
    attempts: Attempts,
    start: Instant,
}

impl Notifier for Scripted {
    fn render(&self, message: &Message, _: &Sender) -> Rendered {
        Rendered::of(message, "")
    }

    fn send<'a>(&'a self, message: &'a Rendered) -> Sending<'a> {
        Box::pin(async move {
            self.attempts.lock().unwrap().push((message.delivery.clone(), self.start.elapsed().as_secs()));
            let step = self.script.lock().unwrap().pop_front().unwrap_or(self.then);
            let reason = || "by script".to_owned();
            match step {
                Step::Accept => Ok(Accepted::default()),
                Step::Retry(after) => Err(SendError::Retry { reason: reason(), after: after.map(Duration::from_secs) }),
                Step::Refuse => Err(SendError::Permanent { reason: reason() }),
                Step::Hang => std::future::pending().await,
                Step::Panic => panic!("by script"),
            }
        })
    }
}

fn scripted(name: &'static str, script: &[Step], then: Step) -> (Channel, Attempts) {
    let attempts = Attempts::default();
    let script = Mutex::new(script.iter().copied().collect());
    let notifier = Scripted { script, then, attempts: Arc::clone(&attempts), start: Instant::now() };
    let retry = Retry { count: 3, delay: Duration::from_secs(5) };
    let channel = Channel {
        name,
        notifier: Box::new(notifier),
        severities: Severities::from(Severity::Info),
        retry,
        updates: Updates::Separate,
        refresh: None,
        is_screen: false,
    };
    (channel, attempts)
}

fn numbered(delivery: &str) -> Alert {
    Alert { delivery: delivery.into(), ..alert(Severity::Critical) }
}

fn run(router: &Router) -> Vec<tokio::task::JoinHandle<()>> {
    router.couriers().map(|courier| tokio::spawn(async move { courier.run().await })).collect()
}

/// Sent, retried, failed, dropped, queued.
fn counts(router: &Router, channel: &str) -> [f64; 5] {
    let mut samples = Vec::new();
    router.samples(&mut samples);
    samples.retain(|sample| sample.series.labels().get("channel") == Some(channel));
    let names = ["sent_total", "retried_total", "failed_total", "dropped_total", "queued"];
    names.map(|name| samples.iter().find(|sample| sample.series.metric().name == format!("agent_alerts_{name}")).unwrap().value)
}

async fn until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(3600);
    while !done() {
        assert!(Instant::now() < deadline, "not within the deadline");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn attempts(attempts: &Attempts) -> Vec<(String, u64)> {
    attempts.lock().unwrap().clone()
}

fn expected(attempts: &[(&str, u64)]) -> Vec<(String, u64)> {
    attempts.iter().map(|(delivery, at)| ((*delivery).to_owned(), *at)).collect()
}

#[tokio::test]
async fn severity_decides_who_gets_an_alert() {
    let channels = [("all", Severity::Info), ("warn", Severity::Warn), ("worst", Severity::Emergency)]
        .map(|(name, mildest)| Channel { severities: Severities::from(mildest), ..scripted(name, &[], Step::Accept).0 });
    let router = Router::new(channels.into(), sender());
    let wanted = Severity::ALL.map(|severity| router.route(&alert(severity)).collect::<Vec<_>>());
    assert_eq!(wanted, [vec!["all"], vec!["all", "warn"], vec!["all", "warn"], vec!["all", "warn", "worst"]]);
    for severity in Severity::ALL {
        router.dispatch(alert(severity));
    }
    assert_eq!(["all", "warn", "worst"].map(|channel| counts(&router, channel)[4]), [4.0, 3.0, 1.0]);
}

#[tokio::test(start_paused = true)]
async fn order_is_kept_while_messages_are_sent_again() {
    let script = [Step::Retry(None), Step::Retry(Some(60)), Step::Accept, Step::Refuse, Step::Retry(None)];
    let (channel, seen) = scripted("c", &script, Step::Accept);
    let router = Router::new(vec![channel], sender());
    let couriers = run(&router);
    for delivery in ["a", "b", "c"] {
        router.dispatch(numbered(delivery));
    }
    until(|| attempts(&seen).len() == 6).await;
    assert_eq!(attempts(&seen), expected(&[("a", 0), ("a", 5), ("a", 65), ("b", 65), ("c", 65), ("c", 70)]));
    assert!(router.flush(Duration::from_secs(1)).await);
    assert_eq!(counts(&router, "c"), [2.0, 3.0, 1.0, 0.0, 0.0]);
    for courier in couriers {
        courier.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_end() {
    let (channel, seen) = scripted("c", &[Step::Retry(None); 4], Step::Accept);
    let router = Router::new(vec![channel], sender());
    run(&router);
    router.dispatch(numbered("a"));
    router.dispatch(numbered("b"));
    until(|| attempts(&seen).len() == 5).await;
    assert_eq!(attempts(&seen), expected(&[("a", 0), ("a", 5), ("a", 15), ("a", 35), ("b", 35)]));
    assert_eq!(counts(&router, "c"), [1.0, 3.0, 1.0, 0.0, 0.0]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_channel_delays_no_other_and_its_losses_are_counted() {
    let (dead, dead_seen) = scripted("dead", &[], Step::Hang);
    let (alive, alive_seen) = scripted("alive", &[], Step::Accept);
    let router = Router::new(vec![dead, alive], sender());
    run(&router);
    for index in 0..400 {
        router.dispatch(numbered(&index.to_string()));
        until(|| attempts(&alive_seen).len() == index + 1).await;
    }
    assert_eq!(attempts(&dead_seen).len(), 1);
    assert_eq!(counts(&router, "alive"), [400.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(counts(&router, "dead"), [0.0, 0.0, 0.0, 143.0, 256.0]);
}

#[tokio::test(start_paused = true)]
async fn a_flush_tries_everything_once_and_cuts_the_wait_short() {
    let (channel, seen) = scripted("c", &[Step::Retry(None)], Step::Retry(None));
    let router = Router::new(vec![channel], sender());
    let couriers = run(&router);
    for delivery in ["a", "b", "c"] {
        router.dispatch(numbered(delivery));
    }
    until(|| attempts(&seen).len() == 1).await;
    let start = Instant::now();
    assert!(router.flush(Duration::from_secs(2)).await);
    assert!(start.elapsed() < Duration::from_secs(1), "a flush ends when nothing is left");
    assert_eq!(attempts(&seen), expected(&[("a", 0), ("a", 0), ("b", 0), ("c", 0)]));
    assert_eq!(counts(&router, "c"), [0.0, 1.0, 3.0, 0.0, 0.0]);
    for courier in couriers {
        courier.await.unwrap();
    }
    router.dispatch(numbered("late"));
    assert_eq!(counts(&router, "c"), [0.0, 1.0, 3.0, 1.0, 0.0]);
}

#[tokio::test(start_paused = true)]
async fn a_flush_ends_at_its_limit_and_counts_what_is_left() {
    let (dead, dead_seen) = scripted("dead", &[], Step::Hang);
    let (alive, _) = scripted("alive", &[], Step::Accept);
    let router = Router::new(vec![dead, alive], sender());
    let couriers = run(&router);
    for delivery in ["a", "b", "c"] {
        router.dispatch(numbered(delivery));
    }
    until(|| attempts(&dead_seen).len() == 1).await;
    let start = Instant::now();
    assert!(!router.flush(Duration::from_secs(2)).await);
    assert!(start.elapsed() < Duration::from_secs(3));
    for courier in couriers {
        courier.abort();
        let _ = courier.await;
    }
    assert_eq!(counts(&router, "dead"), [0.0, 0.0, 1.0, 2.0, 0.0]);
    assert_eq!(counts(&router, "alive"), [3.0, 0.0, 0.0, 0.0, 0.0]);
}

#[tokio::test(start_paused = true)]
async fn couriers_of_a_dropped_router_finish_and_end() {
    let (channel, seen) = scripted("c", &[Step::Retry(None)], Step::Accept);
    let router = Router::new(vec![channel], sender());
    let couriers = run(&router);
    router.dispatch(numbered("a"));
    router.dispatch(numbered("b"));
    until(|| attempts(&seen).len() == 1).await;
    drop(router);
    for courier in couriers {
        tokio::time::timeout(Duration::from_secs(1), courier).await.unwrap().unwrap();
    }
    assert_eq!(attempts(&seen), expected(&[("a", 0), ("a", 0), ("b", 0)]));
}

#[tokio::test]
async fn a_courier_that_panicked_goes_on_with_the_next_message() {
    let (channel, _) = scripted("c", &[Step::Panic], Step::Accept);
    let router = Router::new(vec![channel], sender());
    router.dispatch(numbered("a"));
    router.dispatch(numbered("b"));
    let mut couriers = run(&router);
    assert!(couriers.remove(0).await.is_err_and(|error| error.is_panic()));
    assert_eq!(counts(&router, "c"), [0.0, 0.0, 1.0, 0.0, 1.0]);
    run(&router);
    assert!(router.flush(Duration::from_secs(10)).await);
    assert_eq!(counts(&router, "c"), [1.0, 0.0, 1.0, 0.0, 0.0]);
}

#[tokio::test(start_paused = true)]
async fn what_a_panic_took_is_not_waited_for() {
    let (channel, _) = scripted("c", &[Step::Panic], Step::Accept);
    let router = Router::new(vec![channel], sender());
    router.dispatch(numbered("a"));
    assert!(run(&router).remove(0).await.is_err_and(|error| error.is_panic()));
    assert!(router.flush(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn a_real_receiver_that_fails_gets_the_same_message_again_before_the_next() {
    let mut receiver = Receiver::start([Answer::status(500), Answer::Close, Answer::status(200)], None).await;
    let retry = Retry { count: 3, delay: Duration::from_millis(1) };
    let channel = Channel { retry, ..webhook::to(&format!("http://{}/", receiver.address)) };
    let router = Router::new(vec![channel], sender());
    run(&router);
    for delivery in ["a", "b", "c"] {
        router.dispatch(numbered(delivery));
    }
    for expected in ["a", "a", "a", "b", "c"] {
        assert_eq!(receiver.next().await.headers["idempotency-key"], expected);
    }
    assert!(router.flush(Duration::from_secs(10)).await);
    assert_eq!(counts(&router, "webhook"), [3.0, 2.0, 0.0, 0.0, 0.0]);
}
