//! What the outbox promises, with real processes: an outage, kills at random points, and every alert at the receiver once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot set itself up shall fail")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use sysops_agent::alerting::outbox::{self, Listing, Outcome};
use sysops_agent::alerting::{Outbox, Router};
use sysops_agent::config;
use sysops_agent::model::{Alert, Evidence, Labels, Severity, Status, Timestamp};
use sysops_agent::notifiers::{self, Sender};
use xtask::faults::KillOnDrop;

/// Alerts that have to arrive.
const ALERTS: u64 = 1000;
/// A bound against hanging.
const LIMIT: Duration = Duration::from_secs(120);

/// Names the directory and the receiver to the process that sends.
const DIRECTORY: &str = "SYSOPS_AGENT_TEST_OUTBOX";

/// 2026-02-22 07:30:00 UTC.
const AT: Timestamp = Timestamp::from_secs(1_771_745_400);

/// How the receiver answers, in the order in which it is made to.
const BLACK_HOLE: usize = 0;
const FAILING: usize = 1;
const SLOW: usize = 2;
const WELL: usize = 3;

/// A receiver that behaves as it is told, and keeps what it accepted: key and body, in order.
struct Receiver {
    address: SocketAddr,
    mood: Arc<AtomicUsize>,
    accepted: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = Self { address: listener.local_addr().unwrap(), mood: Arc::default(), accepted: Arc::default() };
        let (mood, accepted) = (Arc::clone(&receiver.mood), Arc::clone(&receiver.accepted));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (mood, accepted) = (Arc::clone(&mood), Arc::clone(&accepted));
                thread::spawn(move || serve(stream, &mood, &accepted));
            }
        });
        receiver
    }

    fn accepted(&self) -> usize {
        self.accepted.lock().unwrap().len()
    }
}

/// Serves one connection until it ends.
fn serve(mut stream: TcpStream, mood: &AtomicUsize, accepted: &Mutex<Vec<(String, Value)>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let (mut key, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("idempotency-key: ") {
                value.clone_into(&mut key);
            } else if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let answer = match mood.load(Ordering::SeqCst) {
            // Nobody ever answers; the peer gives up.
            BLACK_HOLE => {
                let _ = reader.read(&mut [0; 1]);
                return;
            }
            FAILING => "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
            kind => {
                if kind == SLOW {
                    thread::sleep(Duration::from_millis(5));
                }
                accepted.lock().unwrap().push((key, serde_json::from_slice(&body).unwrap()));
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
            }
        };
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn alert(number: u64) -> Alert {
    Alert {
        id: format!("incident-{number}"),
        delivery: format!("delivery-{number}"),
        at: AT,
        status: Status::Firing,
        severity: Severity::Critical,
        metric: "kernel_oom_kill".into(),
        value: 1.0,
        threshold: None,
        message: format!("number {number}"),
        labels: Labels::new().with("n", number.to_string()),
        duration: Duration::ZERO,
        count: 1,
        evidence: Evidence::new(),
    }
}

/// The process that is killed: goes on with what is not in the outbox yet, until all was accepted.
fn send(directory: &Path, url: &str) {
    let text = format!(
        "[alerting]\nmax_alerts_per_minute = 10000\nmax_alerts_per_hour = 100000\nmax_alerts_per_hour_overall = 100000\n\
         [alerting.grouping]\nenabled = false\n\
         [alerting.webhook]\nenabled = true\nurl = {url:?}\ntimeout_secs = 1\nretry_delay_secs = 1\n"
    );
    let config = config::parse(&text, Path::new("test.toml"), &|_| None).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (outbox, mut keeper) = Outbox::in_directory(directory, 64 << 20);
        thread::spawn(move || keeper.run());
        let restored = outbox.restore(AT, LIMIT).await.unwrap();
        let mut next = restored.open.len() as u64;
        let (mut channels, errors) = notifiers::build(&config);
        assert!(errors.is_empty());
        channels.retain(|channel| !channel.is_screen);
        let time_zone = jiff::tz::TimeZone::UTC;
        let sender = Sender { hostname: "web-01".into(), address: String::new(), time_zone, pid: 1 };
        let mut router = Router::new(channels, sender, &config.alerting, outbox, restored);
        for courier in router.couriers().collect::<Vec<_>>() {
            tokio::spawn(async move { courier.run().await });
        }
        loop {
            if next < ALERTS {
                router.dispatch(AT, alert(next));
                next += 1;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

fn start(directory: &Path, receiver: &Receiver) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_process_that_sends", "--nocapture"])
        .env(DIRECTORY, format!("{}|http://{}/", directory.display(), receiver.address))
        .env("NO_PROXY", "127.0.0.1")
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// No test by itself.
#[test]
fn the_process_that_sends() {
    if let Some(where_to) = std::env::var_os(DIRECTORY) {
        let where_to = where_to.into_string().unwrap();
        let (directory, url) = where_to.split_once('|').unwrap();
        send(Path::new(directory), url);
    }
}

/// Numbers that are the same in each run, and look like none.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn every_alert_arrives_once_and_in_order_over_an_outage_and_kills() {
    let home = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let mut random = Random(42);
    let deadline = Instant::now() + LIMIT;
    let mut kills = 0;
    while receiver.accepted() < 1 || !is_done(home.path()) {
        assert!(Instant::now() < deadline, "{} accepted after {kills} kills", receiver.accepted());
        let mut sender = KillOnDrop::new(start(home.path(), &receiver));
        // Long enough to get somewhere, at a point that nobody chose; the last one is let be.
        let life = Duration::from_millis(150 + random.below(700));
        let until = Instant::now() + if kills < 25 { life } else { LIMIT };
        while Instant::now() < until && !is_done(home.path()) {
            thread::sleep(Duration::from_millis(10));
        }
        sender.child().kill().unwrap();
        assert_eq!(sender.child().wait().unwrap().signal(), Some(9), "it was killed and did not fail");
        kills += 1;
        receiver.mood.store(
            match kills {
                0..5 => BLACK_HOLE,
                5..8 => FAILING,
                8..20 => SLOW,
                _ => WELL,
            },
            Ordering::SeqCst,
        );
    }
    assert!(kills >= 8, "it was killed {kills} times");

    let accepted = receiver.accepted.lock().unwrap();
    let mut by_key: BTreeMap<&str, &Value> = BTreeMap::new();
    let mut order = Vec::new();
    for (key, body) in accepted.iter() {
        assert_eq!(body["delivery"], key.as_str());
        match by_key.insert(key, body) {
            // A kill between acceptance and its record: the same again, which a receiver knows by the key.
            Some(before) => assert_eq!(before, body, "one key names one message"),
            None => order.push(body["message"].as_str().unwrap()["number ".len()..].parse::<u64>().unwrap()),
        }
    }
    assert_eq!(order, (0..ALERTS).collect::<Vec<_>>(), "none is lost, none is twice, all are in order");
    println!("{kills} kills; {} of {ALERTS} messages were sent again after a kill", accepted.len() - order.len());
    let kept = outbox::list(&outbox::path(home.path()), Listing::default()).unwrap();
    assert!(kept.iter().all(|kept| matches!(kept.outcomes.as_slice(), [(_, Outcome::Accepted(_))])));
}

/// Whether all alerts are in the outbox and accepted.
fn is_done(directory: &Path) -> bool {
    let path = outbox::path(directory);
    let Ok(kept) = outbox::list(&path, Listing::default()) else { return false };
    kept.len() as u64 == ALERTS && kept.iter().all(|kept| matches!(kept.outcomes.as_slice(), [(_, Outcome::Accepted(_))]))
}
