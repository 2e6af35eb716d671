//! The real agent beside file systems that do not answer and a process that is stuck on one: they cost what is asked of them,
//! and nothing else.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tempfile::NamedTempFile;
use xtask::agent_process::AgentProcess;
use xtask::faults::{DeadMounts, needs_root, poll};

const AGENT: &str = env!("CARGO_BIN_EXE_sysops-agent");
/// A bound against hanging.
const SOON: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(2);

/// Everything once a second. The pattern is in the command line of this program and of what it forks, and in no command name.
const CONFIG: &str = "[agent]\ncollect_interval_secs = 1\n[ebpf]\nenabled = false\n[collector]\ncpu_interval_secs = 1\n\
    memory_interval_secs = 1\ndisk_interval_secs = 1\nnetwork_interval_secs = 1\nprocess_interval_secs = 1\nfd_interval_secs = 1\n\
    [collector.process]\ntrack_top_n = 0\ntrack_patterns = ['deps/real_dead_mount-']\n\
    [prometheus]\nenabled = true\nbind = '127.0.0.1:0'\n";

/// An agent that runs where the mounts are.
struct Beside {
    agent: AgentProcess,
    address: String,
}

impl Beside {
    fn start(mounts: &DeadMounts) -> Self {
        let agent = AgentProcess::run(mounts.inside(Path::new(AGENT)), CONFIG).unwrap();
        let said = "metrics are at http://";
        agent.wait_for_log(said, SOON).unwrap();
        let log = agent.stderr();
        let address = log.split_once(said).unwrap().1.split_once('/').unwrap().0.to_owned();
        Self { agent, address }
    }

    /// Series and values of the page of metrics.
    fn page(&self) -> Vec<(String, f64)> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", self.address).unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        let series = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        series.filter_map(|(series, value)| Some((series.to_owned(), value.parse().ok()?))).collect()
    }

    /// Waits until the one series of `metric` that has `label` has a value that `enough` likes.
    fn wait_for(&self, metric: &str, label: &str, enough: impl Fn(f64) -> bool) -> f64 {
        let value = poll(&format!("a value of {metric} with {label}"), SOON, || {
            std::thread::sleep(Duration::from_millis(50));
            let is = |series: &str| series.split('{').next() == Some(&format!("sysops_{metric}")) && series.contains(label);
            Ok(self.page().into_iter().find(|(series, value)| is(series) && enough(*value)))
        });
        value.unwrap_or_else(|error| panic!("{error:#}\n{}", self.agent.stderr())).1
    }

    /// Waits until every series that is older than three seconds has left the page.
    fn let_the_stale_go(&self) {
        let uptime = self.wait_for("kernel_uptime_seconds", "", |_| true);
        self.wait_for("kernel_uptime_seconds", "", |now| now > uptime + 6.0);
    }
}

fn label(point: &Path) -> String {
    format!("mount=\"{}\"", point.display())
}

#[test]
fn a_dead_mount_and_a_stuck_process_cost_only_themselves() {
    if needs_root() {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mounts = DeadMounts::mount(1).unwrap();
    let (dead, pid) = (label(&mounts.mount_points[0]), format!("pid=\"{}\"", mounts.pid()));
    let mut beside = Beside::start(&mounts);
    beside.wait_for("disk_stuck", &dead, |stuck| stuck == 0.0);
    assert_eq!(beside.wait_for("disk_size_bytes", &dead, |_| true), 4_096_000.0);
    beside.wait_for("process_rss_bytes", &pid, |_| true);
    beside.let_the_stale_go();
    let before = beside.page();

    mounts.fall_silent().unwrap();
    beside.wait_for("disk_stuck", &dead, |stuck| stuck == 1.0);
    beside.let_the_stale_go();
    let after: BTreeSet<String> = beside.page().into_iter().map(|(series, _)| series).collect();
    let gone: Vec<&String> = before.iter().map(|(series, _)| series).filter(|series| !after.contains(*series)).collect();
    // Processes come and go by themselves, and means are of what was done.
    let means = ["sysops_disk_await_seconds", "sysops_network_error_ratio", "sysops_network_tcp_retransmit_ratio"];
    let by_itself = |series: &str| series.contains("pid=") || means.iter().any(|mean| series.starts_with(mean));
    let gone: Vec<_> = gone.into_iter().filter(|series| !by_itself(series)).collect();
    assert!(!gone.is_empty() && gone.iter().all(|series| series.contains(&dead)), "{gone:#?}");
    beside.wait_for("process_uninterruptible", "", |blocked| blocked >= 1.0);
    beside.wait_for("process_rss_bytes", &pid, |_| true);
    let said = format!("the file system at {} does not answer", mounts.mount_points[0].display());
    assert_eq!(beside.agent.stderr().matches(&said).count(), 1, "{}", beside.agent.stderr());
    beside.agent.stop(STOP).unwrap();

    // One that starts beside them can ask for less.
    let mut beside = Beside::start(&mounts);
    beside.wait_for("disk_stuck", &dead, |stuck| stuck == 1.0);
    beside.wait_for("disk_stuck", "mount=\"/\"", |stuck| stuck == 0.0);
    beside.agent.wait_for_log(&format!("the command line of process {} does not answer", mounts.pid()), SOON).unwrap();
    beside.let_the_stale_go();
    assert!(!beside.page().iter().any(|(series, _)| series.contains(&pid)));
    let config = NamedTempFile::new().unwrap();
    std::fs::write(config.path(), CONFIG).unwrap();
    let doctor = mounts.inside(Path::new(AGENT)).arg("doctor").arg("--config").arg(config.path()).output().unwrap();
    let page = String::from_utf8(doctor.stdout).unwrap();
    assert_eq!(page.matches(&said).count(), 1, "{page}");

    mounts.answer();
    beside.wait_for("disk_stuck", &dead, |stuck| stuck == 0.0);
    beside.wait_for("disk_size_bytes", &dead, |_| true);
    beside.wait_for("process_rss_bytes", &pid, |_| true);
    beside.agent.stop(STOP).unwrap();
}

/// They would see each other's processes.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn many_dead_mounts_cost_only_themselves() {
    if needs_root() {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mounts = DeadMounts::mount(24).unwrap();
    mounts.fall_silent().unwrap();
    let mut beside = Beside::start(&mounts);
    for point in &mounts.mount_points {
        beside.wait_for("disk_stuck", &label(point), |stuck| stuck == 1.0);
    }
    for metric in ["disk_stuck", "disk_usage_percent"] {
        beside.wait_for(metric, "mount=\"/\"", |_| true);
    }
    // Those that ask by the same means.
    for metric in ["network_tcp_connections", "process_pids"] {
        beside.wait_for(metric, "", |_| true);
    }
    let log = beside.agent.stderr();
    assert!(!log.contains("was not asked"), "{log}");
    beside.agent.stop(STOP).unwrap();
}
