//! A process of the real kernel leaks connections: the collector sees it, and the engine names their kind before the limit is
//! reached. Only the clock is simulated, since a leak takes an hour to be called one.

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sysops_agent::collectors::{Batch, COLLECTORS};
use sysops_agent::config::Config;
use sysops_agent::engine::Engine;
use sysops_agent::host::Host;
use sysops_agent::model::{Observation, Samples, Timestamp};

/// Seconds between two runs of the collector.
const INTERVAL: u32 = 30;
const LIMIT: u64 = 1024;

#[test]
fn leaked_connections_are_named_before_the_limit() {
    let limits = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(LIMIT), maximum: limits.maximum }).unwrap();
    let config = Config::default();
    let host = Host::new(config.host.clone());
    let row = COLLECTORS.iter().find(|row| row.name == "process").unwrap();
    let mut collector = (row.build)(&config, &host);
    let mut engine = Engine::new(&config, "host");
    let own = std::process::id().to_string();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = listener.local_addr().unwrap();
    let (begun, mut leaked, mut alerts) = (Instant::now(), Vec::new(), Vec::new());
    // Two sockets in each run: the connection, and its other end.
    for run in 0..3 * 3600 / INTERVAL {
        leaked.push((TcpStream::connect(peer).unwrap(), listener.accept().unwrap()));
        let elapsed = Duration::from_secs((run * INTERVAL).into());
        let mut batch = Batch::new(begun + elapsed);
        collector.collect(&mut batch).unwrap();
        let at = Timestamp::from_secs(1_700_000_000).plus(elapsed);
        engine.observe(at, Observation::Samples(Samples { collector: "process", values: batch.samples }), &mut alerts);
        engine.observe(at, Observation::Tick, &mut alerts);
        let is_mine = |alert: &&sysops_agent::model::Alert| {
            alert.metric == "process_open_fds" && alert.labels.get("pid") == Some(own.as_str())
        };
        if let Some(alert) = alerts.iter().find(is_mine) {
            assert!(run * INTERVAL >= 3600 && (leaked.len() as u64 * 2) < LIMIT, "{alert:#?}");
            assert_eq!((alert.labels.get("analyzer"), alert.labels.get("kind")), (Some("leak"), Some("socket")), "{alert:#?}");
            assert!((alert.threshold.unwrap() - LIMIT as f64).abs() < 5.0, "{alert:#?}");
            let by_hour = alert.evidence["rate_per_hour"].as_f64().unwrap();
            assert!((by_hour - 240.0).abs() < 24.0, "{alert:#?}");
            let prefix = alert.evidence["commonest_prefix"].as_str().unwrap();
            assert!(prefix.starts_with(&format!("{peer} (")), "{alert:#?}");
            return;
        }
    }
    panic!("no leak was told of: {alerts:#?}");
}
