//! All collectors on all fixture hosts, compared with what each host's `expected.txt` says (`UPDATE_EXPECT=1` writes it anew),
//! and on the same hosts with one file after the other damaged.
//!
//! A host is a directory `tests/hosts/NAME` with the files of its `/proc` and `/sys` that collectors read; what lies in `later`
//! replaces them for the second run, ten seconds after the first.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sysops_agent::collectors::{Batch, COLLECTORS, Collector, Row, running};
use sysops_agent::config::{Config, HostRoots};
use sysops_agent::host::Host;
use sysops_agent::model::{Kind, Unit};

/// The fixture hosts.
const HOSTS: [&str; 4] = ["modern", "centos7", "server64", "container"];

/// Mount points of all fixture hosts, which the file system of this machine stands in for.
const MOUNT_POINTS: [&str; 5] = ["boot", "dev/shm", "run", "srv/my data", "srv/odd\nname"];

/// A copy of a fixture host that may be damaged; removed when dropped.
struct Tree(PathBuf);

impl Tree {
    fn new(host: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("hosts-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let tree = Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique));
        let source = source(host);
        for file in files(&source) {
            let to = tree.0.join(file.strip_prefix(&source).unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(file, to).unwrap();
        }
        for point in MOUNT_POINTS {
            fs::create_dir_all(tree.0.join("root").join(point)).unwrap();
        }
        tree
    }

    fn host(&self) -> Host {
        Host::new(HostRoots { procfs: self.0.join("proc"), sysfs: self.0.join("sys"), rootfs: self.0.join("root") })
    }

    /// Lets ten seconds pass on the host.
    fn become_later(&self) {
        let later = self.0.join("later");
        for file in files(&later) {
            fs::copy(&file, self.0.join(file.strip_prefix(&later).unwrap())).unwrap();
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn source(host: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts").join(host)
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

type Collectors = Vec<(&'static Row, Box<dyn Collector>)>;

fn build(host: &Host) -> Collectors {
    let config = Config::default();
    COLLECTORS.iter().map(|row| (row, (row.build)(&config, host))).collect()
}

/// What one run of all collectors gave.
#[derive(Default)]
struct Outcome {
    /// Values by series, in words; `*` where they are this machine's.
    values: BTreeMap<String, String>,
    /// What could not be read.
    complaints: Vec<String>,
}

fn run(collectors: &mut Collectors, at: Instant) -> Outcome {
    let mut outcome = Outcome::default();
    for (row, collector) in collectors {
        let mut batch = Batch::new(at);
        if let Err(error) = collector.collect(&mut batch) {
            outcome.complaints.push(error.to_string());
        }
        outcome.complaints.extend(batch.first_skip);
        for sample in batch.samples {
            let metric = sample.series.metric();
            assert!(
                row.metrics.iter().any(|known| std::ptr::eq(*known, metric)),
                "{} is not in the row of {}",
                metric.name,
                row.name
            );
            let is_of_mount = sample.series.labels().get("mount").is_some() && metric.unit != Unit::Boolean;
            // Not every file system of a developer's machine has a fixed number of inodes.
            if metric.name.starts_with("disk_inode") {
                continue;
            }
            let is_of_this_machine =
                is_of_mount || ["agent_cpu_", "kernel_clock_"].iter().any(|prefix| metric.name.starts_with(prefix));
            let value = if is_of_this_machine { "*".to_owned() } else { format!("{}", sample.value) };
            let previous = outcome.values.insert(sample.series.to_string(), value);
            assert_eq!(previous, None, "{} was emitted twice", sample.series);
        }
    }
    outcome
}

/// What `run` gives, once without a call that missed its deadline: a busy machine may leave a helper thread waiting for seconds.
fn undisturbed(mut run: impl FnMut() -> Outcome) -> Outcome {
    for _ in 0..20 {
        let outcome = run();
        if !outcome.complaints.iter().any(|complaint| complaint.contains("does not answer")) {
            return outcome;
        }
    }
    panic!("the file systems of this machine do not answer");
}

/// The time of the second run.
fn later(start: Instant) -> Instant {
    start + Duration::from_secs(10)
}

#[test]
fn each_host_gives_its_expected_metrics() {
    for host in HOSTS {
        let tree = Tree::new(host);
        let mut collectors = build(&tree.host());
        let start = Instant::now();
        let first = run(&mut collectors, start);
        for rate in ["cpu_usage_percent", "process_cpu_percent", "network_error_ratio", "disk_await", "agent_cpu_percent"] {
            assert!(!first.values.keys().any(|series| series.starts_with(rate)), "{rate} has nothing to compare with yet");
        }
        tree.become_later();
        let second = run(&mut collectors, later(start));
        assert_eq!([first.complaints, second.complaints].concat(), [""; 0], "host {host}");

        let text: String = second.values.iter().map(|(series, value)| format!("{series} {value}\n")).collect();
        let path = source(host).join("expected.txt");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap();
        assert_eq!(text, expected, "host {host}: if this is right, run the test again with UPDATE_EXPECT=1");
    }
}

/// Whether a file has a say in a series.
fn has_a_say(file: &str, series: &str) -> bool {
    let name = series.split('{').next().unwrap();
    let is = |prefix: &str| name.starts_with(prefix);
    match file {
        "proc/stat" => is("cpu_") || is("process_start_time"),
        "proc/loadavg" => is("cpu_load_"),
        "proc/meminfo" | "proc/sys/vm/min_free_kbytes" => is("memory_"),
        "proc/vmstat" => is("memory_") || is("kernel_oom_kills"),
        "proc/uptime" => is("kernel_uptime"),
        "proc/sys/kernel/random/entropy_avail" => is("kernel_entropy"),
        "proc/sys/kernel/hung_task_detect_count" => is("kernel_hung_tasks"),
        "proc/sys/kernel/hung_task_warnings" => is("kernel_hung_task_warnings"),
        "proc/sys/fs/file-nr" => is("fd_"),
        "proc/1/mountinfo" => series.contains("mount="),
        "proc/diskstats" => is("disk_") && !series.contains("mount="),
        "proc/1/net/dev" => series.contains("interface="),
        "proc/1/net/softnet_stat" => is("network_softnet_"),
        "proc/1/net/stat/nf_conntrack" => is("network_conntrack_"),
        "proc/1/net/tcp" | "proc/1/net/tcp6" => is("network_tcp_connections"),
        "proc/1/net/snmp" | "proc/1/net/netstat" | "proc/1/net/sockstat" => is("network_") && !series.contains("interface="),
        _ => match file.split('/').collect::<Vec<_>>().as_slice() {
            ["sys", "block", device, ..] => {
                ["device", "array"].iter().any(|label| series.contains(&format!("{label}=\"{device}\"")))
            }
            ["sys", "fs", "cgroup", ..] => is("cgroup_"),
            ["sys", "fs", "ext4", ..] => is("kernel_filesystem_"),
            ["sys", "devices", "system", "edac", ..] => is("kernel_edac_"),
            ["sys", "devices", "system", "cpu", ..] => is("kernel_thermal_"),
            ["sys", "class", "hwmon" | "thermal", ..] => is("kernel_temperature_"),
            ["proc", "pressure", resource] => is("pressure_") && series.contains(&format!("resource=\"{resource}\"")),
            ["proc", "sys", "net", "netfilter", ..] => is("network_conntrack_"),
            ["sys", "class", "net", interface, ..] => series.contains(&format!("interface=\"{interface}\"")),
            ["proc", "self", ..] => is("agent_"),
            ["proc", pid, ..] => is("process_") && (!series.contains("pid=") || series.contains(&format!("pid=\"{pid}\""))),
            _ => panic!("nobody reads {file}"),
        },
    }
}

/// Damaged versions of a text; `None` for a file that is gone.
fn damage(text: &[u8], random: &mut impl FnMut() -> usize) -> Vec<Option<Vec<u8>>> {
    let mut versions = vec![None, Some(Vec::new())];
    for part in 1..3 {
        versions.push(Some(text[..text.len() * part / 3].to_vec()));
    }
    for _ in 0..3 {
        let mut garbled = text.to_vec();
        for _ in 0..1 + text.len() / 20 {
            if let Some(byte) = garbled.get_mut(random() % text.len().max(1)) {
                *byte = u8::try_from(random() % 256).unwrap();
            }
        }
        versions.push(Some(garbled));
    }
    versions.push(Some((0..512).map(|_| u8::try_from(random() % 256).unwrap()).collect()));
    versions
}

fn assert_neighbours_are_unharmed(file: &str, before: &Outcome, after: &Outcome) {
    let unharmed = |outcome: &Outcome| -> Vec<(String, String)> {
        let of_others = outcome.values.iter().filter(|(series, _)| !has_a_say(file, series));
        of_others.map(|(series, value)| (series.clone(), value.clone())).collect()
    };
    assert_eq!(unharmed(after), unharmed(before), "{file} was damaged, and others changed");
}

#[test]
fn a_damaged_file_costs_only_what_it_says() {
    // xorshift64: the same damage in each run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 2).unwrap()
    };
    let mut kinds = BTreeSet::new();
    for host in HOSTS {
        let tree = Tree::new(host);
        let start = Instant::now();
        let sound = {
            let twice = || {
                let mut collectors = build(&tree.host());
                run(&mut collectors, start);
                run(&mut collectors, later(start))
            };
            (undisturbed(|| run(&mut build(&tree.host()), start)), undisturbed(twice))
        };
        for path in [files(&tree.0.join("proc")), files(&tree.0.join("sys"))].concat() {
            let file = path.strip_prefix(&tree.0).unwrap().to_str().unwrap();
            // One of the processes, devices and processors stands for all; sysfs says the same on every host.
            let kind = file.replace(|character: char| character.is_ascii_digit(), "");
            if !kinds.insert((kind, file.starts_with("proc").then_some(host))) {
                continue;
            }
            let text = fs::read(&path).unwrap();
            let mut versions = damage(&text, &mut random);
            if file.contains("/fd/") {
                // Descriptors are counted, not read: one can only be gone.
                versions.truncate(1);
            }
            for version in versions {
                let inflict = || match &version {
                    Some(version) => fs::write(&path, version).unwrap(),
                    None => fs::remove_file(&path).unwrap(),
                };
                // Damaged from the start.
                inflict();
                let first = undisturbed(|| run(&mut build(&tree.host()), start));
                assert_neighbours_are_unharmed(file, &sound.0, &first);
                fs::write(&path, &text).unwrap();
                // Damaged between two runs, with the file open.
                let second = undisturbed(|| {
                    let mut collectors = build(&tree.host());
                    run(&mut collectors, start);
                    inflict();
                    let second = run(&mut collectors, later(start));
                    fs::write(&path, &text).unwrap();
                    second
                });
                assert_neighbours_are_unharmed(file, &sound.1, &second);
            }
        }
    }
}

#[test]
fn what_is_damaged_is_said_with_file_and_line() {
    let tree = Tree::new("modern");
    let complaints = |file: &str, text: &str| {
        let path = tree.0.join("proc").join(file);
        let sound = fs::read(&path).unwrap();
        fs::write(&path, text).unwrap();
        let complaints = run(&mut build(&tree.host()), Instant::now()).complaints;
        fs::write(&path, sound).unwrap();
        complaints.join("\n").replace(&*tree.0.join("proc").to_string_lossy(), "/proc")
    };
    assert_eq!(complaints("meminfo", "MemTotal: 1 kB\nMemFree: many kB\n"), "/proc/meminfo line 2: expected a number");
    assert_eq!(complaints("stat", "cpu 1 2 3 4\ncpu0 1 2"), "/proc/stat line 2: expected a line end");
    assert_eq!(complaints("sys/fs/file-nr", ""), "/proc/sys/fs/file-nr is empty");
    assert_eq!(complaints("402/stat", "402 (a"), "/proc/402/stat: expected a line end");
}

#[test]
fn this_machine_is_read_without_complaint() {
    let mut collectors = build(&Host::new(HostRoots::default()));
    let start = Instant::now();
    let mut outcome = run(&mut collectors, start);
    // The kernel books processor time by the tick, of which there may have been none yet.
    while !outcome.values.contains_key("cpu_usage_percent{core=\"all\"}") {
        assert!(start.elapsed() < Duration::from_secs(20), "no processor time was booked in 20 seconds");
        std::thread::yield_now();
        outcome = run(&mut collectors, Instant::now());
        assert_eq!(outcome.complaints, [""; 0]);
    }
    for metric in [
        "cpu_usage_percent{core=\"all\"}",
        "cpu_load_per_core",
        "memory_usage_percent",
        "fd_usage_percent",
        "kernel_uptime_seconds",
        "network_tcp_retransmits_total",
        "agent_rss_bytes",
    ] {
        assert!(outcome.values.contains_key(metric), "{metric} is missing");
    }
    assert!(outcome.values.keys().any(|series| series.starts_with("process_rss_bytes{")));
}

#[test]
fn the_table_is_consistent() {
    let mut names = BTreeSet::new();
    for row in COLLECTORS {
        assert!(names.insert(row.name), "the row {} is there twice", row.name);
        assert!(!(row.interval)(&Config::default()).is_zero());
        let family = row.name.split('_').next().unwrap();
        for metric in row.metrics {
            assert!(metric.name.starts_with(&format!("{family}_")), "{} is not of the family {family}", metric.name);
        }
    }
    for metric in COLLECTORS.iter().flat_map(|row| row.metrics).chain(running::METRICS) {
        let name = metric.name;
        assert!(names.insert(name), "the metric {name} is there twice");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'), "{name}");
        assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
        assert!(metric.help.ends_with('.'), "{name} has no sentence of help");
    }
}
