//! What the router makes of many alerts: groups, limits, silences, and messages that change. Time is what it is handed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysops_agent::alerting::Router;
use sysops_agent::config::Alerting;
use sysops_agent::model::{Alert, Labels, Message, Place, Severities, Severity, Silence, Status, Timestamp, Window};
use sysops_agent::notifiers::{Accepted, Channel, Notifier, Rendered, Retry, Sender, Sending, Updates};

use super::AT;
use super::alerting::{numbered, router, run, unlimited};

/// What a channel was sent.
type Seen = Arc<Mutex<Vec<Message>>>;

/// Accepts everything; calls its messages by number.
struct Recorder {
    rendered: Seen,
}

impl Notifier for Recorder {
    fn render(&self, message: &Message, _: &Sender) -> Rendered {
        self.rendered.lock().unwrap().push(message.clone());
        Rendered::of(message, "")
    }

    fn send<'a>(&'a self, message: &'a Rendered) -> Sending<'a> {
        let number = self.rendered.lock().unwrap().len();
        let reference = (!matches!(message.place, Place::Replace(_))).then(|| format!("m{number}"));
        Box::pin(async move { Ok(Accepted { reference, answer: String::new() }) })
    }
}

fn recorder(name: &'static str, updates: Updates) -> (Channel, Seen) {
    let rendered = Seen::default();
    let channel = Channel {
        name,
        notifier: Box::new(Recorder { rendered: Arc::clone(&rendered) }),
        severities: Severities::from(Severity::Info),
        retry: Retry { count: 3, delay: Duration::from_secs(5) },
        updates,
        refresh: None,
        is_screen: false,
    };
    (channel, rendered)
}

/// A router with one channel, and its clock.
struct Bench {
    router: Router,
    now: Timestamp,
    seen: Seen,
}

impl Bench {
    fn new(updates: Updates, config: &Alerting) -> Self {
        let (channel, seen) = recorder("c", updates);
        let router = router(vec![channel], config);
        run(&router);
        Self { router, now: AT, seen }
    }

    async fn tell(&mut self, alert: Alert) {
        self.router.dispatch(self.now, Alert { at: self.now, ..alert });
        settle().await;
    }

    /// Lets seconds pass, one by one.
    async fn pass(&mut self, secs: u64) {
        for _ in 0..secs {
            self.now = self.now.plus(Duration::from_secs(1));
            self.router.tick(self.now);
            settle().await;
        }
    }

    fn sent(&self) -> Vec<Message> {
        self.seen.lock().unwrap().clone()
    }

    /// The incidents of each message.
    fn incidents(&self) -> Vec<String> {
        let ids = |message: &Message| message.news.iter().map(|news| news.alert.id.as_str()).collect::<Vec<_>>().join(" ");
        self.sent().iter().map(ids).collect()
    }
}

/// Lets the couriers do what there is to do.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn of(id: &str, metric: &'static str, severity: Severity) -> Alert {
    Alert { metric: metric.into(), severity, labels: Labels::new().with("n", id), ..numbered(id) }
}

fn again(number: u32, status: Status, alert: Alert) -> Alert {
    Alert { delivery: format!("{}.{number}", alert.delivery), status, ..alert }
}

#[tokio::test]
async fn the_first_of_a_group_leaves_at_once_and_what_follows_is_gathered() {
    let mut bench = Bench::new(Updates::Separate, &Alerting::default());
    bench.tell(of("a", "disk_usage_percent", Severity::Warn)).await;
    bench.tell(of("b", "disk_inode_usage_percent", Severity::Warn)).await;
    bench.tell(of("c", "disk_usage_percent", Severity::Critical)).await;
    bench.tell(of("d", "cpu_usage_percent", Severity::Warn)).await;
    assert_eq!(bench.incidents(), ["i-a", "i-c", "i-d"], "a group is a severity and a metric family");
    bench.pass(15).await;
    bench.tell(of("e", "disk_usage_percent", Severity::Warn)).await;
    bench.tell(again(2, Status::Updated, of("b", "disk_inode_usage_percent", Severity::Warn))).await;
    bench.pass(14).await;
    assert_eq!(bench.sent().len(), 3);
    bench.pass(1).await;
    assert_eq!(bench.incidents()[3..], ["i-e i-b"], "each incident once, with its latest alert");
    let group = &bench.sent()[3];
    assert_eq!((group.news[1].superseded, group.count(), group.delivery.as_str()), (1, 3, "e+2"));
    assert_eq!(group.news[1].alert.status, Status::Firing, "nobody was told of it before");
    // The window opened again with the group; when it closes empty, the next leaves at once.
    bench.tell(of("f", "disk_usage_percent", Severity::Warn)).await;
    assert_eq!(bench.sent().len(), 4);
    bench.pass(60).await;
    assert_eq!(bench.incidents()[4..], ["i-f"]);
    bench.tell(of("g", "disk_usage_percent", Severity::Warn)).await;
    assert_eq!(bench.incidents()[5..], ["i-g"]);
}

#[tokio::test]
async fn what_the_limit_holds_up_is_told_in_the_next_message() {
    let config = Alerting { max_alerts_per_minute: 3, ..unlimited() };
    let mut bench = Bench::new(Updates::Separate, &config);
    for id in ["a", "b", "c", "d", "e"] {
        bench.tell(of(id, "cpu_usage_percent", Severity::Critical)).await;
    }
    assert_eq!(bench.incidents(), ["i-a", "i-b", "i-c"]);
    bench.tell(of("urgent", "cpu_usage_percent", Severity::Emergency)).await;
    assert_eq!(bench.incidents()[3..], ["i-urgent"], "an emergency passes the limit");
    bench.pass(59).await;
    assert_eq!(bench.sent().len(), 4);
    bench.pass(1).await;
    assert_eq!(bench.incidents()[4..], ["i-d i-e"]);
    assert_eq!(bench.sent()[4].held, 2);
    bench.tell(of("f", "cpu_usage_percent", Severity::Critical)).await;
    bench.tell(of("g", "cpu_usage_percent", Severity::Critical)).await;
    assert_eq!(bench.incidents()[5..], ["i-f", "i-g"]);
    assert!(bench.sent()[5..].iter().all(|message| message.held == 0));
}

#[tokio::test]
async fn an_emergency_waits_where_that_is_configured() {
    let config = Alerting { max_alerts_per_minute: 1, emergency_bypass_rate_limit: false, ..unlimited() };
    let mut bench = Bench::new(Updates::Separate, &config);
    bench.tell(of("a", "cpu_usage_percent", Severity::Info)).await;
    bench.tell(of("b", "cpu_usage_percent", Severity::Emergency)).await;
    assert_eq!(bench.incidents(), ["i-a"]);
    bench.pass(60).await;
    assert_eq!(bench.incidents(), ["i-a", "i-b"]);
}

#[tokio::test]
async fn the_limit_of_all_channels_is_shared() {
    let config = Alerting { max_alerts_per_hour_overall: 3, ..unlimited() };
    let (one, one_seen) = recorder("one", Updates::Separate);
    let (two, two_seen) = recorder("two", Updates::Separate);
    let mut router = router(vec![one, two], &config);
    run(&router);
    for id in ["a", "b", "c"] {
        router.dispatch(AT, of(id, "cpu_usage_percent", Severity::Warn));
        settle().await;
    }
    let sent = || one_seen.lock().unwrap().len() + two_seen.lock().unwrap().len();
    assert_eq!(sent(), 3);
    router.tick(AT.plus(Duration::from_secs(3599)));
    settle().await;
    assert_eq!(sent(), 3);
    router.tick(AT.plus(Duration::from_secs(3600)));
    settle().await;
    assert!(sent() > 3);
}

#[tokio::test]
async fn a_storm_is_few_messages_that_are_complete_in_their_counts() {
    let mut bench = Bench::new(Updates::Separate, &Alerting::default());
    let metrics = ["disk_usage_percent", "kernel_tcp_retransmit", "process_open_fds", "log_match"];
    for second in 0..60_usize {
        for number in 0..167 {
            let id = format!("{second}-{number}");
            let severity = if number % 10 == 0 { Severity::Critical } else { Severity::Warn };
            bench.router.dispatch(bench.now, Alert { at: bench.now, ..of(&id, metrics[number % 4], severity) });
        }
        bench.pass(1).await;
    }
    let within = bench.sent();
    assert!(within.len() <= 10, "{} messages in a minute", within.len());
    let mut samples = Vec::new();
    bench.router.samples(&mut samples);
    bench.pass(120).await;
    let all = bench.sent();
    assert_eq!(all.iter().map(Message::count).sum::<u64>(), 60 * 167, "nothing is lost");
    let kinds = |severity: Severity| {
        let shown = all.iter().flat_map(|message| &message.news).filter(|news| news.alert.severity == severity).count() as u64;
        let counted = all.iter().flat_map(|message| &message.tallies).filter(|tally| tally.severity == severity);
        shown + counted.map(|tally| tally.count).sum::<u64>()
    };
    assert_eq!(kinds(Severity::Critical), 60 * 17, "each group is complete");
    let largest = all.iter().map(|message| message.news.len()).max().unwrap();
    assert!(largest <= 2048, "memory is bounded: {largest}");
}

#[tokio::test]
async fn what_waited_too_long_is_one_digest_and_what_is_fresh_is_not() {
    let config = Alerting { max_alerts_per_minute: 1, ..unlimited() };
    let (channel, seen) = recorder("c", Updates::Separate);
    let mut router = router(vec![channel], &config);
    for (id, age) in [("a", 7200), ("b", 3600), ("c", 1000), ("d", 10)] {
        let at = AT.minus(Duration::from_secs(age));
        router.dispatch(at, Alert { at, ..of(id, "cpu_usage_percent", Severity::Warn) });
    }
    router.tick(AT);
    run(&router);
    settle().await;
    let first = seen.lock().unwrap()[0].clone();
    let ids: Vec<_> = first.news.iter().map(|news| news.alert.id.as_str()).collect();
    assert_eq!((ids.as_slice(), first.late), (&["i-a", "i-b", "i-c"][..], Some(Duration::from_secs(7200))));
}

fn silence(matchers: &[&str], secs: u64) -> Silence {
    Silence {
        id: "s1".into(),
        matchers: Silence::parse_matchers(matchers).unwrap(),
        window: Window::once(AT, AT.plus(Duration::from_secs(secs))).unwrap(),
        comment: "maintenance".into(),
        created_by: "test".into(),
    }
}

#[tokio::test]
async fn what_is_silenced_is_told_when_the_silence_ends_and_it_goes_on() {
    let config = Alerting { silences: vec![silence(&["metric=cpu_usage_percent"], 60)], ..unlimited() };
    let mut bench = Bench::new(Updates::Separate, &config);
    bench.tell(of("goes-on", "cpu_usage_percent", Severity::Critical)).await;
    bench.tell(of("ends", "cpu_usage_percent", Severity::Critical)).await;
    bench.tell(of("other", "disk_usage_percent", Severity::Critical)).await;
    bench.pass(30).await;
    bench.tell(again(2, Status::Updated, of("goes-on", "cpu_usage_percent", Severity::Emergency))).await;
    bench.tell(again(2, Status::Resolved, of("ends", "cpu_usage_percent", Severity::Critical))).await;
    assert_eq!(bench.incidents(), ["i-other"]);
    bench.pass(40).await;
    assert_eq!(bench.incidents(), ["i-other", "i-goes-on"]);
    let told = &bench.sent()[1].news[0];
    assert_eq!((told.alert.severity, told.alert.status), (Severity::Emergency, Status::Firing));
}

#[tokio::test]
async fn the_end_of_what_was_told_passes_a_silence() {
    let mut bench = Bench::new(Updates::Separate, &unlimited());
    bench.tell(of("a", "cpu_usage_percent", Severity::Critical)).await;
    let config = Alerting { silences: vec![silence(&["metric=cpu_usage_percent"], 3600)], ..unlimited() };
    let (channel, _) = recorder("unused", Updates::Separate);
    drop(channel);
    let (channel, seen) = recorder("c", Updates::Separate);
    bench.router.reconfigure(vec![channel], &config);
    bench.tell(again(2, Status::Updated, of("a", "cpu_usage_percent", Severity::Critical))).await;
    bench.tell(again(3, Status::Resolved, of("a", "cpu_usage_percent", Severity::Critical))).await;
    let sent = seen.lock().unwrap();
    assert_eq!(sent.iter().map(|message| message.news[0].alert.status).collect::<Vec<_>>(), [Status::Resolved]);
}

/// Place and incidents with severity and status.
fn shape(message: &Message) -> String {
    let place = match &message.place {
        Place::New => "new".to_owned(),
        Place::Replace(name) => format!("replace {name}"),
        Place::Answer(name) => format!("answer {name}"),
    };
    let alerts = message.alerts().map(|alert| format!("{} {} {}", alert.id, alert.severity, alert.status.as_str()));
    format!("{place}: {}", alerts.collect::<Vec<_>>().join(", "))
}

#[tokio::test]
async fn an_incident_is_one_message_that_changes_and_calls_again_when_it_gets_worse() {
    let mut bench = Bench::new(Updates::InPlace, &unlimited());
    let incident = |severity| of("a", "cpu_usage_percent", severity);
    bench.tell(incident(Severity::Warn)).await;
    bench.tell(again(2, Status::Updated, incident(Severity::Warn))).await;
    bench.tell(again(3, Status::Updated, incident(Severity::Critical))).await;
    bench.tell(again(4, Status::Resolved, incident(Severity::Critical))).await;
    bench.tell(of("b", "cpu_usage_percent", Severity::Warn)).await;
    let shapes: Vec<_> = bench.sent().iter().map(shape).collect();
    let expected = [
        "new: i-a warn firing",
        "replace m1: i-a warn updated",
        "answer m1: i-a critical updated",
        "replace m1: i-a critical updated",
        "replace m1: i-a critical resolved",
        "replace m3: i-a critical resolved",
        "new: i-b warn firing",
    ];
    assert_eq!(shapes, expected);
}

#[tokio::test]
async fn a_group_in_one_message_stays_one_until_all_of_it_is_over() {
    let mut bench = Bench::new(Updates::InPlace, &Alerting::default());
    let incident = |id: &str| of(id, "disk_usage_percent", Severity::Warn);
    for id in ["first", "a", "b"] {
        bench.tell(incident(id)).await;
    }
    bench.pass(30).await;
    bench.tell(again(2, Status::Resolved, incident("a"))).await;
    bench.pass(60).await;
    bench.tell(again(2, Status::Resolved, incident("b"))).await;
    let shapes: Vec<_> = bench.sent().iter().map(shape).collect();
    let expected = [
        "new: i-first warn firing",
        "new: i-a warn firing, i-b warn firing",
        "replace m2: i-a warn resolved, i-b warn firing",
        "replace m2: i-b warn resolved",
    ];
    assert_eq!(shapes, expected);
}

#[tokio::test]
async fn changes_cost_no_token() {
    let config = Alerting { max_alerts_per_minute: 1, ..unlimited() };
    let mut bench = Bench::new(Updates::InPlace, &config);
    bench.tell(of("a", "cpu_usage_percent", Severity::Critical)).await;
    bench.tell(of("b", "cpu_usage_percent", Severity::Critical)).await;
    bench.tell(again(2, Status::Resolved, of("a", "cpu_usage_percent", Severity::Critical))).await;
    let shapes: Vec<_> = bench.sent().iter().map(shape).collect();
    assert_eq!(shapes, ["new: i-a critical firing", "replace m1: i-a critical resolved"]);
}

#[tokio::test]
async fn answers_go_below_the_first_message() {
    let mut bench = Bench::new(Updates::Answer, &unlimited());
    let incident = |severity| of("a", "cpu_usage_percent", severity);
    bench.tell(incident(Severity::Warn)).await;
    bench.tell(again(2, Status::Updated, incident(Severity::Critical))).await;
    bench.tell(again(3, Status::Resolved, incident(Severity::Critical))).await;
    let shapes: Vec<_> = bench.sent().iter().map(shape).collect();
    let expected = ["new: i-a warn firing", "answer m1: i-a critical updated", "answer m1: i-a critical resolved"];
    assert_eq!(shapes, expected);
}

#[tokio::test]
async fn a_service_that_forgets_is_told_again_of_what_is_not_over() {
    let (channel, seen) = recorder("c", Updates::Separate);
    let mut router = router(vec![Channel { refresh: Some(Duration::from_secs(60)), ..channel }], &unlimited());
    run(&router);
    router.dispatch(AT, numbered("a"));
    router.dispatch(AT, numbered("b"));
    settle().await;
    router.dispatch(AT, again(2, Status::Resolved, numbered("b")));
    for second in 0..=180 {
        router.tick(AT.plus(Duration::from_secs(second)));
        settle().await;
    }
    let sent = seen.lock().unwrap();
    let shapes: Vec<_> = sent.iter().map(shape).collect();
    assert_eq!(shapes[..3], ["new: i-a critical firing", "new: i-b critical firing", "new: i-b critical resolved"]);
    assert_eq!(shapes[3..], ["new: i-a critical firing"; 3], "three times in three minutes");
}

#[tokio::test]
async fn recovery_can_be_switched_off() {
    let mut bench = Bench::new(Updates::Separate, &Alerting { recovery_enabled: false, ..unlimited() });
    bench.tell(numbered("a")).await;
    bench.tell(again(2, Status::Resolved, numbered("a"))).await;
    bench.tell(numbered("a")).await;
    let statuses: Vec<_> = bench.sent().iter().map(|message| message.news[0].alert.status).collect();
    assert_eq!(statuses, [Status::Firing; 2]);
}
