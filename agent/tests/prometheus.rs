//! The Prometheus endpoint of the real binary: both formats, a real Prometheus, and clients that ask badly.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use xtask::agent_process::AgentProcess;
use xtask::faults::trace::mount_tracefs;
use xtask::faults::{KillOnDrop, RamDisk, needs_program, needs_root, poll};

const AGENT: &str = env!("CARGO_BIN_EXE_sysops-agent");
/// A bound against hanging.
const SOON: Duration = Duration::from_secs(30);
/// What Prometheus sends.
const OPENMETRICS: &str = "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n";

/// An agent without BPF that collects every second, with its endpoint there.
fn config(bind: SocketAddr, path: &str) -> String {
    format!(
        "[agent]\ncollect_interval_secs = 1\n[collector]\ndisk_interval_secs = 1\n[ebpf]\nenabled = false\n\
         [prometheus]\nenabled = true\nbind = '{bind}'\npath = '{path}'\n"
    )
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Where the agent says that its metrics are.
fn address(agent: &AgentProcess) -> SocketAddr {
    let said = "metrics are at http://";
    agent.wait_for_log(said, SOON).unwrap();
    let log = agent.stderr();
    let (address, _) = log.rsplit_once(said).unwrap().1.split_once('/').unwrap();
    address.parse().unwrap()
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

fn ask(address: SocketAddr, line: &str, headers: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "{line} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no answer: {answer}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// The value of a series on the page.
fn value(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// Waits until a series on the agent's page has a value that `enough` likes.
fn wait_for(address: SocketAddr, series: &str, enough: impl Fn(f64) -> bool) -> f64 {
    poll(&format!("a value of {series}"), SOON, || {
        std::thread::sleep(Duration::from_millis(50));
        Ok(value(&ask(address, "GET /metrics", "")?.body, series).filter(|value| enough(*value)))
    })
    .unwrap()
}

/// `MemTotal` of the host in bytes.
fn memory_total() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0
}

#[test]
fn both_formats_are_right() {
    if needs_program("promtool", "prometheus") {
        return;
    }
    let agent = AgentProcess::start(Path::new(AGENT), &config(loopback(0), "/metrics"), &[]).unwrap();
    let address = address(&agent);
    wait_for(address, "sysops_memory_total_bytes", |value| value == memory_total());
    wait_for(address, "sysops_agent_prometheus_scrapes_total", |value| value > 0.0);

    let plain = ask(address, "GET /metrics", "Accept: text/plain\r\n").unwrap();
    assert_eq!(plain.status, 200);
    assert!(plain.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{}", plain.head);
    assert!(!plain.body.contains("# EOF") && !plain.body.contains("# UNIT"));
    let open = ask(address, "GET /metrics", OPENMETRICS).unwrap();
    assert!(open.head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{}", open.head);
    assert!(open.body.ends_with("\n# EOF\n"));
    assert!(open.body.contains("\n# UNIT sysops_memory_total_bytes bytes\n"));
    for page in [&plain.body, &open.body] {
        let mut families = BTreeSet::new();
        let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        assert!(types.map(|line| line.split(' ').next().unwrap()).all(|family| families.insert(family)), "{page}");
        assert!(families.len() > 50, "{page}");
        let series: Vec<_> =
            page.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap().0).collect();
        assert_eq!(series.iter().collect::<BTreeSet<_>>().len(), series.len(), "{page}");
    }

    let head = ask(address, "HEAD /metrics", "").unwrap();
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(ask(address, "GET /", "").unwrap().status, 404);
    assert_eq!(ask(address, "POST /metrics", "Content-Length: 0\r\n").unwrap().status, 405);
    lint(&plain.body);
}

/// Has promtool look at the page, names and all.
fn lint(page: &str) {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.status.success() && text.is_empty(), "{}: {text}", said.status);
}

/// A Prometheus that scrapes the agent every second; ends with this.
struct Prometheus {
    address: SocketAddr,
    _process: KillOnDrop,
    directory: tempfile::TempDir,
}

impl Prometheus {
    fn start(target: SocketAddr) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let (config, data, log) = (directory.path().join("p.yml"), directory.path().join("data"), directory.path().join("log"));
        let job = format!("[{{job_name: sysops, static_configs: [{{targets: ['{target}']}}]}}]");
        fs::write(&config, format!("global: {{scrape_interval: 1s}}\nscrape_configs: {job}\n"))?;
        let address = TcpListener::bind(loopback(0))?.local_addr()?;
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()?;
        Ok(Self { address, _process: KillOnDrop::new(process), directory })
    }

    /// What its HTTP API says.
    fn api(&self, path: &str) -> Result<Value> {
        // HTTP/1.0 has no chunks.
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(SOON))?;
        write!(stream, "GET /api/v1/{path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        serde_json::from_str(body).with_context(|| format!("no JSON: {answer}"))
    }

    /// The value of an expression that yields one series.
    fn query(&self, expression: &str) -> Result<Option<f64>> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = self.api(&format!("query?query={encoded}"))?;
        Ok(answer["data"]["result"][0]["value"][1].as_str().and_then(|value| value.parse().ok()))
    }

    /// Waits until an expression has a value that `enough` likes; calls `meanwhile` between two looks.
    fn wait_for(&self, expression: &str, enough: impl Fn(f64) -> bool, mut meanwhile: impl FnMut()) -> f64 {
        let mut last = None;
        let found = poll(expression, SOON, || {
            std::thread::sleep(Duration::from_millis(100));
            meanwhile();
            // Until it listens, it is not there.
            last = self.query(expression).unwrap_or(None);
            Ok(last.filter(|value| enough(*value)))
        });
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        found.with_context(|| format!("the last value was {last:?}; the log of Prometheus:\n{log}")).unwrap()
    }
}

#[test]
fn a_real_prometheus_scrapes_it() {
    if needs_root() || needs_program("prometheus", "prometheus") {
        return;
    }
    mount_tracefs().unwrap();
    let disk = RamDisk::attach(16 << 20).unwrap();
    let device = disk.path().file_name().unwrap().to_str().unwrap().to_owned();
    let config = config(loopback(0), "/metrics").replace("enabled = false", "enabled = true\nprobes = ['block_io']");
    let agent = AgentProcess::start(Path::new(AGENT), &config, &[]).unwrap();
    let prometheus = Prometheus::start(address(&agent)).unwrap();
    prometheus.wait_for("up{job='sysops'}", |up| up == 1.0, || {});
    prometheus.wait_for("sysops_memory_total_bytes", |bytes| bytes == memory_total(), || {});

    let read = || {
        let of = format!("if={}", disk.path().display());
        let done = Command::new("dd").args([&of, "of=/dev/null", "bs=4096", "iflag=direct", "count=64"]).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    let labels = format!("device='{device}',operation='read'");
    let p99 = format!("histogram_quantile(0.99, sum by (le) (rate(sysops_block_io_latency_seconds_bucket{{{labels}}}[20s])))");
    let p99 = prometheus.wait_for(&p99, |seconds| seconds > 0.0 && seconds.is_finite(), read);
    assert!((1e-6..10.0).contains(&p99), "{p99}");
    // All of it is from one page: no request is in the one and not in the other.
    let same = format!("sysops_block_io_latency_seconds_count{{{labels}}} == sysops_disk_io_requests_total{{{labels}}}");
    let count = prometheus.wait_for(&same, |count| count >= 64.0, || {});
    let bucket = format!("sysops_block_io_latency_seconds_bucket{{{labels},le='+Inf'}}");
    prometheus.wait_for(&bucket, |infinite| infinite >= count, || {});
    let mean = format!("sysops_block_io_latency_seconds_sum{{{labels}}} / sysops_block_io_latency_seconds_count{{{labels}}}");
    let mean = prometheus.wait_for(&mean, |_| true, || {});
    assert!((1e-6..10.0).contains(&mean), "{mean}");

    let metadata = prometheus.api("targets/metadata").unwrap();
    let of = |metric: &str| {
        let all = metadata["data"].as_array().unwrap();
        all.iter().find(|one| one["metric"] == metric).unwrap_or_else(|| panic!("no {metric} in {metadata:#}")).clone()
    };
    assert_eq!(of("sysops_block_io_latency_seconds")["type"], "histogram");
    assert_eq!(of("sysops_memory_total_bytes")["type"], "gauge");
    // Told in OpenMetrics alone.
    assert_eq!(of("sysops_memory_total_bytes")["unit"], "bytes");
}

#[test]
fn clients_that_ask_badly_are_refused_and_collection_goes_on() {
    let agent = AgentProcess::start(Path::new(AGENT), &config(loopback(0), "/metrics"), &[]).unwrap();
    let address = address(&agent);
    let refused = |reason: &str| format!("sysops_agent_prometheus_refused_total{{reason=\"{reason}\"}}");
    let slow = || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    };
    let mut few: Vec<_> = (0..8).map(|_| slow()).collect();
    // Beside them the page is there, and its values go on.
    let samples = wait_for(address, "sysops_agent_engine_samples_total", |_| true);
    wait_for(address, "sysops_agent_engine_samples_total", |now| now > samples);
    for stream in &mut few {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(!answer.contains("200"), "{answer}");
    }
    wait_for(address, &refused("timeout"), |count| count >= 8.0);

    // More than may be connected: they are thrown out, and who asks properly has a turn.
    let many: Vec<_> = (0..32).map(|_| slow()).collect();
    let samples = wait_for(address, "sysops_agent_engine_samples_total", |_| true);
    wait_for(address, "sysops_agent_engine_samples_total", |now| now > samples);
    drop(many);

    for large in [format!("X: {}\r\n", "a".repeat(100_000)), "X: y\r\n".repeat(1000), "X".repeat(50_000)] {
        // The connection may be reset before the answer is read, or the request is written.
        if let Ok(answer) = ask(address, "GET /metrics", &large) {
            assert!([400, 431].contains(&answer.status), "{}", answer.head);
        }
    }
    wait_for(address, &refused("malformed"), |count| count >= 3.0);
}

#[test]
fn an_address_that_is_taken_is_tried_again_and_a_reload_moves_it() {
    let taken = TcpListener::bind(loopback(0)).unwrap();
    let bind = taken.local_addr().unwrap();
    let mut agent = AgentProcess::start(Path::new(AGENT), &config(bind, "/metrics"), &[]).unwrap();
    let refusal = format!("cannot listen on {bind}");
    agent.wait_for_log(&refusal, SOON).unwrap();
    drop(taken);
    agent.wait_for_log("metrics are at", SOON).unwrap();
    assert_eq!(ask(bind, "GET /metrics", "").unwrap().status, 200);

    // The same address again, which the old listener must have left.
    agent.reload(&config(bind, "/other")).unwrap();
    agent.wait_for_log(&format!("metrics are at http://{bind}/other"), SOON).unwrap();
    assert_eq!(ask(bind, "GET /other", "").unwrap().status, 200);
    assert_eq!(ask(bind, "GET /metrics", "").unwrap().status, 404);
    assert_eq!(agent.stderr().matches(&refusal).count(), 1, "{}", agent.stderr());

    let next = TcpListener::bind(loopback(0)).unwrap().local_addr().unwrap();
    agent.reload(&config(next, "/metrics")).unwrap();
    agent.wait_for_log(&format!("metrics are at http://{next}/metrics"), SOON).unwrap();
    assert_eq!(ask(next, "GET /metrics", "").unwrap().status, 200);
    assert!(TcpStream::connect(bind).is_err(), "{}", agent.stderr());

    let off = config(next, "/metrics").replace("[prometheus]\nenabled = true", "[prometheus]\nenabled = false");
    agent.reload(&off).unwrap();
    poll("the end of the endpoint", SOON, || Ok(TcpStream::connect(next).is_err().then_some(()))).unwrap();
    agent.stop(Duration::from_secs(2)).unwrap();
}
