//! The outbox on disk: what waits outlives the process, damage costs only what is damaged, and other processes can read along.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sysops_agent::alerting::outbox::{self, Listing, Outcome};
use sysops_agent::alerting::{Outbox, Restored, Router};
use sysops_agent::config::{self, Alerting, Grouping};
use sysops_agent::model::{Alert, Severity, Silence, Status, Window};
use sysops_agent::notifiers::{Channel, Updates};

use super::alerting::{Attempts, Step, attempts, counts, numbered, run, scripted, unlimited, until};
use super::{AT, sender};

const PATIENCE: Duration = Duration::from_secs(10);

/// An agent's way out, as one run of it has it.
struct Run {
    router: Router,
    keeper: std::thread::JoinHandle<()>,
    couriers: Vec<tokio::task::JoinHandle<()>>,
}

impl Run {
    async fn start(directory: &Path, channels: Vec<Channel>) -> (Self, Vec<Arc<Alert>>) {
        Self::start_with(directory, channels, &unlimited()).await
    }

    async fn start_with(directory: &Path, channels: Vec<Channel>, config: &Alerting) -> (Self, Vec<Arc<Alert>>) {
        let (outbox, mut keeper) = Outbox::in_directory(directory, config.outbox.max_size);
        let keeper = std::thread::spawn(move || keeper.run());
        let mut restored: Restored = outbox.restore(AT, PATIENCE).await.unwrap();
        let open = std::mem::take(&mut restored.open);
        let router = Router::new(channels, sender(), config, outbox, restored);
        let couriers = run(&router);
        (Self { router, keeper, couriers }, open)
    }

    /// Ends it as a kill does: nothing is sent any more; but what was handed to the disk gets there.
    async fn kill(self) {
        for courier in &self.couriers {
            courier.abort();
        }
        for courier in self.couriers {
            let _ = courier.await;
        }
        drop(self.router);
        self.keeper.join().unwrap();
    }
}

fn names(seen: &Attempts) -> Vec<String> {
    attempts(seen).into_iter().map(|(delivery, _)| delivery).collect()
}

#[tokio::test]
async fn what_waits_is_sent_by_the_next_run_in_its_order_and_under_its_key() {
    let home = tempfile::tempdir().unwrap();
    let (dead, dead_seen) = scripted("c", &[Step::Accept], Step::Hang);
    let (mut first, open) = Run::start(home.path(), vec![dead]).await;
    assert!(open.is_empty());
    for delivery in ["a", "b", "c", "d"] {
        first.router.dispatch(AT, numbered(delivery));
    }
    until(|| attempts(&dead_seen).len() == 2).await;
    first.kill().await;

    let (alive, alive_seen) = scripted("c", &[], Step::Accept);
    let (second, open) = Run::start(home.path(), vec![alive]).await;
    until(|| attempts(&alive_seen).len() == 3).await;
    assert_eq!(names(&alive_seen), ["b", "c", "d"]);
    assert_eq!(open.len(), 4, "none of them is over");
    assert_eq!(*open[0], numbered("a"), "an alert reads back as it was");
    until(|| counts(&second.router, "c")[0] == 3.0).await;
    second.kill().await;

    let (idle, idle_seen) = scripted("c", &[], Step::Accept);
    let (mut third, _) = Run::start(home.path(), vec![idle]).await;
    third.router.dispatch(AT, Alert { status: Status::Resolved, delivery: "a.2".into(), ..numbered("a") });
    until(|| !attempts(&idle_seen).is_empty()).await;
    assert_eq!(names(&idle_seen), ["a.2"], "what was accepted is not sent again, and its end is told");
    third.kill().await;
    let kept = outbox::list(&outbox::path(home.path()), Listing { open: true, since: None }).unwrap();
    let open: Vec<_> = kept.iter().map(|kept| kept.alert.as_ref().unwrap().delivery.as_str()).collect();
    assert_eq!(open, ["b", "c", "d"]);
}

#[tokio::test]
async fn a_group_that_was_tried_stays_that_message_whatever_came_between_its_alerts() {
    let home = tempfile::tempdir().unwrap();
    let (channel, seen) = scripted("c", &[Step::Accept, Step::Accept], Step::Hang);
    let config = Alerting { grouping: Grouping::default(), ..unlimited() };
    let (mut first, _) = Run::start_with(home.path(), vec![channel], &config).await;
    let disk = |delivery: &str| Alert { metric: "disk_usage_percent".into(), ..numbered(delivery) };
    let second = AT.plus(Duration::from_secs(1));
    first.router.dispatch(AT, disk("a"));
    first.router.dispatch(second, numbered("c0"));
    until(|| counts(&first.router, "c")[0] == 2.0).await;
    first.router.dispatch(second, disk("b"));
    first.router.dispatch(second, numbered("c"));
    first.router.dispatch(second, disk("d"));
    first.router.tick(AT.plus(Duration::from_secs(30)));
    until(|| attempts(&seen).len() == 3).await;
    first.kill().await;

    let (alive, alive_seen) = scripted("c", &[], Step::Accept);
    let (second, _) = Run::start(home.path(), vec![alive]).await;
    until(|| counts(&second.router, "c")[0] >= 2.0 && counts(&second.router, "c")[4] == 0.0).await;
    assert_eq!(names(&alive_seen), ["b+1", "c"], "one message under its key, with both of its alerts");
    second.kill().await;
}

#[tokio::test]
async fn messages_that_change_are_known_to_the_next_run() {
    let home = tempfile::tempdir().unwrap();
    let in_place = |channel| Channel { updates: Updates::InPlace, ..channel };
    let (channel, seen) = scripted("c", &[], Step::Accept);
    let (mut first, _) = Run::start(home.path(), vec![in_place(channel)]).await;
    first.router.dispatch(AT, numbered("a"));
    until(|| counts(&first.router, "c")[0] == 1.0 && attempts(&seen).len() == 1).await;
    first.kill().await;
    let (channel, seen) = scripted("c", &[], Step::Accept);
    let (mut second, _) = Run::start(home.path(), vec![in_place(channel)]).await;
    second.router.dispatch(AT, Alert { status: Status::Resolved, delivery: "a.2".into(), ..numbered("a") });
    until(|| attempts(&seen).len() == 1).await;
    assert_eq!(names(&seen), ["a.2"]);
    second.kill().await;
}

#[tokio::test]
async fn the_list_tells_what_came_of_each_alert() {
    let home = tempfile::tempdir().unwrap();
    let (accepts, _) = scripted("accepts", &[], Step::Accept);
    let (refuses, _) = scripted("refuses", &[], Step::Refuse);
    let (hangs, _) = scripted("hangs", &[], Step::Hang);
    let (mut agent, _) = Run::start(home.path(), vec![accepts, refuses, hangs]).await;
    agent.router.dispatch(AT, numbered("a"));
    let file = outbox::path(home.path());
    // While the agent runs.
    until(|| {
        let kept = outbox::list(&file, Listing::default()).unwrap_or_default();
        let of = |name: &str| kept.first().and_then(|kept| kept.outcomes.iter().find(|(channel, _)| channel == name));
        matches!(of("accepts"), Some((_, Outcome::Accepted(_))))
            && matches!(of("refuses"), Some((_, Outcome::Refused(why))) if why == "by script")
            && matches!(of("hangs"), Some((_, Outcome::Waiting)))
    })
    .await;
    agent.kill().await;
    let since = |secs| Listing { open: false, since: Some(AT.plus(Duration::from_secs(secs))) };
    assert_eq!(outbox::list(&file, since(0)).unwrap().len(), 1);
    assert_eq!(outbox::list(&file, since(1)).unwrap().len(), 0);
}

#[tokio::test]
async fn an_alert_whose_checksum_does_not_match_costs_only_itself() {
    let home = tempfile::tempdir().unwrap();
    let (dead, _) = scripted("c", &[], Step::Hang);
    let (mut first, _) = Run::start(home.path(), vec![dead]).await;
    for delivery in ["a", "b", "c"] {
        first.router.dispatch(AT, numbered(delivery));
    }
    first.kill().await;
    let file = rusqlite::Connection::open(outbox::path(home.path())).unwrap();
    let changed = file.execute("UPDATE alert SET body = replace(body, 'CPU usage', 'CPU usagf') WHERE incident = 'i-b'", []);
    assert_eq!(changed.unwrap(), 1);
    drop(file);
    let (alive, seen) = scripted("c", &[], Step::Accept);
    let (second, _) = Run::start(home.path(), vec![alive]).await;
    until(|| attempts(&seen).len() == 2).await;
    assert_eq!(names(&seen), ["a", "c"]);
    let mut samples = Vec::new();
    second.router.samples(&mut samples);
    let damaged = samples.iter().find(|sample| sample.series.metric().name == "agent_outbox_damaged_total").unwrap();
    assert_eq!(damaged.value, 1.0);
    second.kill().await;
}

#[tokio::test]
async fn a_damaged_file_is_moved_aside_and_alerts_go_on() {
    let home = tempfile::tempdir().unwrap();
    let file = outbox::path(home.path());
    std::fs::write(&file, [0xa5; 8192]).unwrap();
    let (channel, seen) = scripted("c", &[], Step::Accept);
    let (mut agent, _) = Run::start(home.path(), vec![channel]).await;
    agent.router.dispatch(AT, numbered("a"));
    until(|| attempts(&seen).len() == 1).await;
    agent.kill().await;
    assert!(home.path().join("alerts.db.damaged-1").exists());
    assert_eq!(outbox::list(&file, Listing::default()).unwrap().len(), 1);
}

#[tokio::test]
async fn a_full_outbox_gives_up_the_mildest_first() {
    let home = tempfile::tempdir().unwrap();
    let (dead, _) = scripted("c", &[], Step::Hang);
    let small = Alerting { outbox: config::Outbox { max_size: 2 << 20, ..config::Outbox::default() }, ..unlimited() };
    let (mut agent, _) = Run::start_with(home.path(), vec![dead], &small).await;
    for number in 0..3000 {
        let severity = if number % 3 == 0 { Severity::Critical } else { Severity::Info };
        let mut alert = Alert { severity, ..numbered(&format!("{number}")) };
        alert.evidence.insert("text".into(), "x".repeat(2000).into());
        agent.router.dispatch(AT, alert);
    }
    agent.kill().await;
    let kept = outbox::list(&outbox::path(home.path()), Listing::default()).unwrap();
    let critical = kept.iter().filter(|kept| kept.alert.as_ref().unwrap().severity == Severity::Critical).count();
    assert!(
        kept.len() < 2000 && critical * 2 > kept.len(),
        "of those that came a third were critical, of these {critical} of {}",
        kept.len()
    );
}

#[tokio::test]
async fn a_silence_from_the_command_line_reaches_an_agent_that_runs() {
    let home = tempfile::tempdir().unwrap();
    let (channel, seen) = scripted("c", &[], Step::Accept);
    let (mut agent, _) = Run::start(home.path(), vec![channel]).await;
    let silence = Silence {
        id: "s1".into(),
        matchers: Silence::parse_matchers(&["metric=cpu_usage_percent"]).unwrap(),
        window: Window::once(AT, AT.plus(Duration::from_secs(3600))).unwrap(),
        comment: "maintenance".into(),
        created_by: "root".into(),
    };
    outbox::silence_add(home.path(), &silence).unwrap();
    let mut number = 0;
    until(|| {
        number += 1;
        agent.router.tick(AT);
        agent.router.dispatch(AT, numbered(&number.to_string()));
        let mut samples = Vec::new();
        agent.router.samples(&mut samples);
        samples.iter().any(|sample| sample.series.metric().name == "agent_alerts_silenced_total" && sample.value > 0.0)
    })
    .await;
    assert_eq!(outbox::silences(&outbox::path(home.path())).unwrap(), [silence]);
    assert!(outbox::silence_remove(home.path(), "s1").unwrap());
    assert!(!outbox::silence_remove(home.path(), "s1").unwrap());
    let before = attempts(&seen).len();
    let mut passed = 0;
    until(|| {
        passed += 1;
        agent.router.tick(AT.plus(Duration::from_secs(passed)));
        attempts(&seen).len() > before
    })
    .await;
    agent.kill().await;
}

#[tokio::test]
async fn what_waited_for_a_channel_that_is_gone_is_given_up() {
    let home = tempfile::tempdir().unwrap();
    let (dead, _) = scripted("old", &[], Step::Hang);
    let (mut first, _) = Run::start(home.path(), vec![dead]).await;
    first.router.dispatch(AT, numbered("a"));
    first.kill().await;
    let (other, seen) = scripted("new", &[], Step::Accept);
    let (second, _) = Run::start(home.path(), vec![other]).await;
    second.kill().await;
    assert!(attempts(&seen).is_empty());
    let kept = outbox::list(&outbox::path(home.path()), Listing::default()).unwrap();
    assert_eq!(kept[0].outcomes, []);
}
