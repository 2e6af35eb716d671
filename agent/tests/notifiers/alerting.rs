//! The router and its couriers: order, attempts and ends, over scripted notifiers on simulated time, and once over the real webhook.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysops_agent::alerting::{Outbox, Restored, Router};
use sysops_agent::config::{Alerting, Grouping};
use sysops_agent::model::{Alert, Message, Severities, Severity, Status};
use sysops_agent::notifiers::{Accepted, Channel, Notifier, Rendered, Retry, SendError, Sender, Sending, Updates};
use tokio::time::Instant;

use super::receiver::{Answer, Receiver};
use super::{AT, alert, sender, webhook};

/// What a scripted notifier does with one attempt; once the script is done, it accepts.
#[derive(Clone, Copy)]
pub enum Step {
    Accept,
    Retry(Option<u64>),
    Refuse,
    Hang,
    Panic,
}

/// Deliveries in the order of their attempts, with the seconds since the start.
pub type Attempts = Arc<Mutex<Vec<(String, u64)>>>;

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

pub fn scripted(name: &'static str, script: &[Step], then: Step) -> (Channel, Attempts) {
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

/// An incident of its own.
pub fn numbered(delivery: &str) -> Alert {
    Alert { id: format!("i-{delivery}"), delivery: delivery.into(), ..alert(Severity::Critical) }
}

/// Each alert by itself, as many as come.
pub fn unlimited() -> Alerting {
    Alerting {
        grouping: Grouping { enabled: false, ..Grouping::default() },
        max_alerts_per_minute: 10_000,
        max_alerts_per_hour: 100_000,
        max_alerts_per_hour_overall: 100_000,
        ..Alerting::default()
    }
}

/// A router that keeps nothing.
pub fn router(channels: Vec<Channel>, config: &Alerting) -> Router {
    Router::new(channels, sender(), config, Outbox::in_memory(), Restored::default())
}

pub fn run(router: &Router) -> Vec<tokio::task::JoinHandle<()>> {
    router.couriers().map(|courier| tokio::spawn(async move { courier.run().await })).collect()
}

/// Sent, retried, failed, dropped, queued.
pub fn counts(router: &Router, channel: &str) -> [f64; 5] {
    let mut samples = Vec::new();
    router.samples(&mut samples);
    samples.retain(|sample| sample.series.labels().get("channel") == Some(channel));
    let names = ["sent_total", "retried_total", "failed_total", "dropped_total", "queued"];
    names.map(|name| samples.iter().find(|sample| sample.series.metric().name == format!("agent_alerts_{name}")).unwrap().value)
}

pub async fn until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(3600);
    while !done() {
        assert!(Instant::now() < deadline, "not within the deadline");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn attempts(attempts: &Attempts) -> Vec<(String, u64)> {
    attempts.lock().unwrap().clone()
}

pub fn expected(attempts: &[(&str, u64)]) -> Vec<(String, u64)> {
    attempts.iter().map(|(delivery, at)| ((*delivery).to_owned(), *at)).collect()
}

#[tokio::test]
async fn severity_decides_who_gets_an_alert() {
    let listed = |severities: &[Severity]| severities.iter().copied().collect();
    let channels = [
        ("all", Severities::from(Severity::Info)),
        ("warn", Severities::from(Severity::Warn)),
        ("worst", Severities::from(Severity::Emergency)),
        ("some", listed(&[Severity::Info, Severity::Critical])),
    ]
    .map(|(name, severities)| Channel { severities, ..scripted(name, &[], Step::Accept).0 });
    let mut router = router(channels.into(), &unlimited());
    let wanted = Severity::ALL.map(|severity| router.route(&alert(severity)).collect::<Vec<_>>());
    assert_eq!(wanted, [vec!["all", "some"], vec!["all", "warn"], vec!["all", "warn", "some"], vec!["all", "warn", "worst"]]);
    for (severity, id) in Severity::ALL.into_iter().zip(["a", "b", "c", "d"]) {
        router.dispatch(AT, Alert { severity, ..numbered(id) });
    }
    assert_eq!(["all", "warn", "worst", "some"].map(|channel| counts(&router, channel)[4]), [4.0, 3.0, 1.0, 2.0]);
}

#[tokio::test(start_paused = true)]
async fn an_end_goes_where_the_beginning_went_and_nowhere_else() {
    let (told, told_seen) = scripted("told", &[], Step::Accept);
    let (mild, mild_seen) = scripted("mild", &[], Step::Accept);
    let told = Channel { severities: Severities::from(Severity::Critical), ..told };
    let mild = Channel { severities: [Severity::Warn].into_iter().collect(), ..mild };
    let mut router = router(vec![told, mild], &unlimited());
    run(&router);
    let of =
        |id: &str, number: u32, status, severity| Alert { status, severity, delivery: format!("{id}-{number}"), ..numbered(id) };
    for alert in [
        of("a", 1, Status::Firing, Severity::Warn),
        of("a", 2, Status::Updated, Severity::Critical),
        of("b", 1, Status::Firing, Severity::Info),
    ] {
        router.dispatch(AT, alert);
    }
    until(|| attempts(&told_seen).len() == 1 && attempts(&mild_seen).len() == 1).await;
    // The end of what began mildly, and of what nobody was told.
    router.dispatch(AT, of("a", 3, Status::Resolved, Severity::Critical));
    router.dispatch(AT, of("b", 2, Status::Resolved, Severity::Critical));
    assert!(router.flush(Duration::from_secs(1)).await);
    assert_eq!(attempts(&told_seen), expected(&[("a-2", 0), ("a-3", 0)]));
    assert_eq!(attempts(&mild_seen), expected(&[("a-1", 0), ("a-3", 0)]));
}

/// The seconds between attempts at one message.
fn waits(attempts: &Attempts) -> Vec<u64> {
    let seen = attempts.lock().unwrap();
    seen.windows(2).map(|pair| pair[1].1 - pair[0].1).collect()
}

#[tokio::test(start_paused = true)]
async fn order_is_kept_while_messages_are_sent_again() {
    let script = [Step::Retry(None), Step::Retry(Some(60)), Step::Accept, Step::Refuse, Step::Retry(None)];
    let (channel, seen) = scripted("c", &script, Step::Accept);
    let mut router = router(vec![channel], &unlimited());
    let couriers = run(&router);
    for delivery in ["a", "b", "c"] {
        router.dispatch(AT, numbered(delivery));
    }
    until(|| attempts(&seen).len() == 6).await;
    let order: Vec<_> = attempts(&seen).into_iter().map(|(delivery, _)| delivery).collect();
    assert_eq!(order, ["a", "a", "a", "b", "c", "c"]);
    let waits = waits(&seen);
    // Five seconds and up to a quarter more; what the receiver asked for; at once after a verdict; five seconds again.
    assert!((5..=6).contains(&waits[0]) && waits[1] == 60 && waits[2..4] == [0, 0] && (5..=6).contains(&waits[4]), "{waits:?}");
    assert!(router.flush(Duration::from_secs(1)).await);
    assert_eq!(counts(&router, "c"), [2.0, 3.0, 1.0, 0.0, 0.0]);
    for courier in couriers {
        courier.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_accepted_is_tried_on_ever_more_seldom() {
    let (channel, seen) = scripted("c", &[Step::Retry(None); 12], Step::Accept);
    let mut router = router(vec![channel], &unlimited());
    run(&router);
    router.dispatch(AT, numbered("a"));
    router.dispatch(AT, numbered("b"));
    until(|| attempts(&seen).len() == 14).await;
    let order: Vec<_> = attempts(&seen).into_iter().map(|(delivery, _)| delivery).collect();
    assert!(order[..13].iter().all(|delivery| delivery == "a") && order[13] == "b", "{order:?}");
    for (wait, least) in waits(&seen).into_iter().zip([5, 10, 20, 40, 80, 160, 300, 300, 300, 300, 300, 300]) {
        assert!((least..=least * 5 / 4 + 1).contains(&wait), "{wait} after {least}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_is_given_up() {
    let (channel, seen) = scripted("c", &[], Step::Hang);
    let mut router = router(vec![channel], &unlimited());
    run(&router);
    for delivery in ["a", "b", "c"] {
        router.dispatch(AT, numbered(delivery));
    }
    until(|| attempts(&seen).len() == 1).await;
    router.tick(AT.plus(Duration::from_secs(86_399)));
    assert_eq!(counts(&router, "c")[3..], [0.0, 2.0]);
    router.tick(AT.plus(Duration::from_secs(86_400)));
    assert_eq!(counts(&router, "c")[3..], [2.0, 0.0]);
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_is_given_up_when_it_is_too_old_and_holds_up_nothing() {
    let (channel, seen) = scripted("c", &[Step::Retry(None)], Step::Retry(None));
    let mut router = router(vec![channel], &unlimited());
    run(&router);
    router.dispatch(AT, numbered("a"));
    until(|| attempts(&seen).len() == 3).await;
    let day = Duration::from_secs(86_400);
    router.tick(AT.plus(day));
    router.dispatch(AT.plus(day), numbered("b"));
    until(|| attempts(&seen).last().is_some_and(|(delivery, _)| delivery == "b")).await;
    assert_eq!(counts(&router, "c")[2], 1.0, "it is counted as refused");
}

#[tokio::test(start_paused = true)]
async fn a_dead_channel_delays_no_other_and_keeps_its_own() {
    let (dead, dead_seen) = scripted("dead", &[], Step::Hang);
    let (alive, alive_seen) = scripted("alive", &[], Step::Accept);
    let mut router = router(vec![dead, alive], &unlimited());
    run(&router);
    for index in 0..400 {
        router.dispatch(AT, numbered(&index.to_string()));
        until(|| attempts(&alive_seen).len() == index + 1).await;
    }
    assert_eq!(attempts(&dead_seen).len(), 1);
    assert_eq!(counts(&router, "alive"), [400.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(counts(&router, "dead"), [0.0, 0.0, 0.0, 0.0, 399.0]);
}

#[tokio::test(start_paused = true)]
async fn a_flush_tries_everything_once_and_cuts_the_wait_short() {
    let (channel, seen) = scripted("c", &[Step::Retry(None)], Step::Retry(None));
    let mut router = router(vec![channel], &unlimited());
    let couriers = run(&router);
    for delivery in ["a", "b", "c"] {
        router.dispatch(AT, numbered(delivery));
    }
    until(|| attempts(&seen).len() == 1).await;
    let start = Instant::now();
    assert!(!router.flush(Duration::from_secs(2)).await);
    assert!(start.elapsed() < Duration::from_secs(1), "a flush ends when nothing is left to be tried");
    assert_eq!(attempts(&seen), expected(&[("a", 0), ("a", 0), ("b", 0), ("c", 0)]));
    assert_eq!(counts(&router, "c")[..3], [0.0, 1.0, 3.0]);
    for courier in couriers {
        courier.await.unwrap();
    }
    router.dispatch(AT, numbered("late"));
    assert_eq!(counts(&router, "c")[4], 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_flush_ends_at_its_limit_and_counts_what_is_left() {
    let (dead, dead_seen) = scripted("dead", &[], Step::Hang);
    let (alive, _) = scripted("alive", &[], Step::Accept);
    let mut router = router(vec![dead, alive], &unlimited());
    let couriers = run(&router);
    for delivery in ["a", "b", "c"] {
        router.dispatch(AT, numbered(delivery));
    }
    until(|| attempts(&dead_seen).len() == 1).await;
    let start = Instant::now();
    assert!(!router.flush(Duration::from_secs(2)).await);
    assert!(start.elapsed() < Duration::from_secs(3));
    for courier in couriers {
        courier.abort();
        let _ = courier.await;
    }
    assert_eq!(counts(&router, "dead")[..4], [0.0, 0.0, 0.0, 3.0]);
    assert_eq!(counts(&router, "alive"), [3.0, 0.0, 0.0, 0.0, 0.0]);
}

#[tokio::test(start_paused = true)]
async fn another_configuration_takes_what_waits_along() {
    let (old, old_seen) = scripted("c", &[], Step::Retry(None));
    let (gone, gone_seen) = scripted("gone", &[], Step::Retry(None));
    let mut router = router(vec![old, gone], &unlimited());
    run(&router);
    for delivery in ["a", "b"] {
        router.dispatch(AT, numbered(delivery));
    }
    until(|| attempts(&old_seen).len() == 1 && attempts(&gone_seen).len() == 1).await;
    let (new, new_seen) = scripted("c", &[], Step::Accept);
    let (added, added_seen) = scripted("added", &[], Step::Accept);
    let couriers = router.reconfigure(vec![new, added], &unlimited());
    assert_eq!(couriers.iter().map(|courier| courier.name()).collect::<Vec<_>>(), ["added"]);
    couriers.into_iter().for_each(|courier| drop(tokio::spawn(async move { courier.run().await })));
    router.dispatch(AT, numbered("c"));
    until(|| attempts(&new_seen).len() == 3 && attempts(&added_seen).len() == 1 && attempts(&gone_seen).len() == 3).await;
    assert_eq!(attempts(&new_seen), expected(&[("a", 0), ("b", 0), ("c", 0)]));
    assert_eq!(attempts(&gone_seen), expected(&[("a", 0), ("a", 0), ("b", 0)]));
}

#[tokio::test]
async fn a_courier_that_panicked_goes_on_with_the_next_message() {
    let (channel, _) = scripted("c", &[Step::Panic], Step::Accept);
    let mut router = router(vec![channel], &unlimited());
    router.dispatch(AT, numbered("a"));
    router.dispatch(AT, numbered("b"));
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
    let mut router = router(vec![channel], &unlimited());
    router.dispatch(AT, numbered("a"));
    assert!(run(&router).remove(0).await.is_err_and(|error| error.is_panic()));
    assert!(router.flush(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn a_real_receiver_that_fails_gets_the_same_message_again_before_the_next() {
    let mut receiver = Receiver::start([Answer::status(500), Answer::Close, Answer::status(200)], None).await;
    let retry = Retry { count: 3, delay: Duration::from_millis(1) };
    let channel = Channel { retry, ..webhook::to(&format!("http://{}/", receiver.address)) };
    let mut router = router(vec![channel], &unlimited());
    run(&router);
    for delivery in ["a", "b", "c"] {
        router.dispatch(AT, numbered(delivery));
    }
    for expected in ["a", "a", "a", "b", "c"] {
        assert_eq!(receiver.next().await.headers["idempotency-key"], expected);
    }
    assert!(router.flush(Duration::from_secs(10)).await);
    assert_eq!(counts(&router, "webhook"), [3.0, 2.0, 0.0, 0.0, 0.0]);
}
