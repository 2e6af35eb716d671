//! `docs/metrics.md` says what the tables in the code say. `UPDATE_EXPECT=1 cargo test -p sysops-agent --test metrics` writes it
//! anew.
//!
//! Labels of collected metrics are those that they have on the fixture hosts, whose `expected.txt` the test `collectors` keeps
//! right; so every metric must appear on one of them. Which analyzers listen to a metric is asked of the analyzers.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use sysops_agent::collectors::{COLLECTORS, running};
use sysops_agent::config::Config;
use sysops_agent::engine::analyzers::{self, ANALYZERS, event};
use sysops_agent::engine::patterns;
use sysops_agent::engine::{self, Engine};
use sysops_agent::exporters::{prometheus, sqlite};
use sysops_agent::model::{Kind, Labels, Metric, Observation, Sample, Samples, SeriesKey, Severity, Timestamp, Unit};
use sysops_agent::probes::{self, PROBES};
use sysops_agent::{alerting, runtime};
use xtask::faults::needs_program;

const INTRODUCTION: &str = "# Metrics

All that the agent measures. This page is written by a test from the tables in the code (`agent/tests/metrics.rs`).

Names are `family_what_unit`, in base units where the field uses them; counters end in `_total`. A series whose file, device or
kernel feature is not there is absent, and nothing is made up in its place. A gauge that is a rate or a share of the last
interval is absent until there are two readings, and for one interval after a counter below it went backwards.

A threshold is the default of the limit that begins an incident; *analyzers* are those that look at every value.
";

/// A series as the goldens write it: `name{a=\"1\",b=\"2\"} value`.
fn parse_series(line: &str) -> (String, Labels) {
    let name: String = line.chars().take_while(|character| !" {".contains(*character)).collect();
    let mut labels = Labels::new();
    let mut rest = line[name.len()..].chars().peekable();
    while matches!(rest.next(), Some('{' | ',')) {
        let label: String = rest.by_ref().take_while(|character| *character != '=').collect();
        assert_eq!(rest.next(), Some('"'), "{line}");
        let mut value = String::new();
        loop {
            match rest.next().unwrap() {
                '"' => break,
                '\\' => value.extend(rest.next()),
                character => value.push(character),
            }
        }
        labels.set(label, value);
    }
    (name, labels)
}

/// All series of the fixture hosts, by metric.
fn fixture_series() -> BTreeMap<String, Vec<Labels>> {
    let mut series = BTreeMap::<String, Vec<Labels>>::new();
    for host in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts")).unwrap() {
        for line in fs::read_to_string(host.unwrap().path().join("expected.txt")).unwrap().lines() {
            let (name, labels) = parse_series(line);
            series.entry(name).or_default().push(labels);
        }
    }
    // The goldens leave inodes out: not every file system of a developer's machine has a fixed number of them.
    let of_mounts = series["disk_usage_percent"].clone();
    for name in ["disk_inodes", "disk_inode_usage_percent"] {
        series.insert(name.to_owned(), of_mounts.clone());
    }
    // What descriptors lead to is known on a real /proc alone.
    for (name, label) in [("process_open_fds_by_kind", "kind"), ("process_open_fds_by_prefix", "prefix")] {
        let of_processes = series["process_open_fds"].iter().map(|labels| labels.clone().with(label, ""));
        let of_processes = of_processes.collect();
        series.insert(name.to_owned(), of_processes);
    }
    series
}

/// The names of the analyzers that want one of these series.
fn listeners(keys: &[SeriesKey]) -> Vec<&'static str> {
    let config = Config::default();
    let mut engine = Engine::new(&config, "host");
    let values = keys.iter().map(|series| Sample { series: series.clone(), value: 0.0 }).collect();
    let samples = Samples { collector: "test", values };
    engine.observe(Timestamp::from_secs(0), Observation::Samples(samples), &mut Vec::new());
    let wants = |row: &&analyzers::Row| {
        let mut analyzer = (row.build)(&config);
        engine.store().series().any(|(id, key)| analyzer.watch(id, key))
    };
    ANALYZERS.iter().filter(wants).map(|row| row.name).collect()
}

fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Count => "",
        Unit::Percent => "%",
        Unit::Ratio => "ratio",
        Unit::Bytes => "bytes",
        Unit::Seconds => "seconds",
        Unit::Milliseconds => "milliseconds",
        Unit::PerSecond => "by second",
        Unit::Celsius => "°C",
        Unit::Boolean => "0 or 1",
    }
}

/// A table of metrics.
struct Table<'a>(&'a mut String);

impl<'a> Table<'a> {
    fn new(page: &'a mut String) -> Self {
        page.push_str("\n| metric | type | unit | labels | threshold | analyzers | meaning |\n|---|---|---|---|---|---|---|\n");
        Self(page)
    }

    fn row(&mut self, metric: &'static Metric, series: &[Labels]) {
        let names: BTreeSet<&str> = series.iter().flat_map(Labels::iter).map(|(name, _)| name).collect();
        let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
        let keys: Vec<SeriesKey> = series.iter().map(|labels| SeriesKey::new(metric, labels.clone())).collect();
        let kind = match metric.kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        };
        let limit = analyzers::limit(metric.name, &Config::default().thresholds).map(|limit| limit.to_string());
        let Metric { name, help, .. } = metric;
        let (unit, names, limit, listeners) =
            (unit(metric.unit), names.join(", "), limit.unwrap_or_default(), listeners(&keys).join(", "));
        let help = help.trim_end_matches('.').replace('|', "\\|").replace('*', "\\*");
        writeln!(self.0, "| `{name}` | {kind} | {unit} | {names} | {limit} | {listeners} | {help} |").unwrap();
    }
}

fn collected(page: &mut String) {
    let fixtures = fixture_series();
    for row in COLLECTORS {
        let interval = (row.interval)(&Config::default()).as_secs();
        let summary = row.summary;
        writeln!(
            page,
            "\n## {}\n\n{}{}. Every {interval} s, from {}.",
            row.name,
            summary[..1].to_uppercase(),
            &summary[1..],
            row.source
        )
        .unwrap();
        let mut table = Table::new(page);
        for metric in row.metrics {
            let series = fixtures.get(metric.name).map_or(&[][..], Vec::as_slice);
            assert!(!series.is_empty(), "{} is on no fixture host: put what it is read from into agent/tests/hosts", metric.name);
            table.row(metric, series);
        }
    }
}

fn of_the_agent(page: &mut String) {
    let with = |names: &[&'static str]| vec![names.iter().fold(Labels::new(), |labels, name| labels.with(*name, ""))];
    page.push_str("\n## The agent's parts\n\nWhat collectors, probes, logs, engine and channels tell of themselves.\n");
    let mut table = Table::new(page);
    let parts: [(&'static [&'static Metric], &[&'static str]); 1] = [(running::METRICS, &["collector"])];
    for (metrics, labels) in parts {
        metrics.iter().for_each(|metric| table.row(metric, &with(labels)));
    }
    let parts: [(&'static [Metric], &[&'static str]); 8] = [
        (probes::METRICS, &["probe"]),
        (&engine::METRICS, &[]),
        (alerting::METRICS, &["channel"]),
        (&runtime::OVERHEAD_METRICS[..1], &["resource"]),
        (&runtime::OVERHEAD_METRICS[1..], &[]),
        (&sqlite::METRICS, &[]),
        (prometheus::METRICS, &[]),
        (runtime::LOG_METRICS, &["source"]),
    ];
    for (metrics, labels) in parts {
        metrics.iter().for_each(|metric| table.row(metric, &with(labels)));
    }
    table.row(&runtime::QUEUED, &with(&[]));

    page.push_str("\n## Histograms of probes\n\nWhat probes count in the kernel while they are attached.\n");
    let mut table = Table::new(page);
    for metric in PROBES.iter().flat_map(|row| row.metrics) {
        table.row(metric, &with(&["device", "operation"]));
    }
}

fn events(page: &mut String) {
    page.push_str("\n## Kernel events\n\nWhat alerts about single events are about; they have no series.\n");
    page.push_str("\n| metric | unit | severity | seen by | meaning |\n|---|---|---|---|---|\n");
    let mut rows = BTreeMap::<&str, (&Metric, Severity, BTreeSet<&str>)>::new();
    for row in event::EVENTS {
        rows.insert(row.metric.name, (row.metric, row.severity, BTreeSet::from(["probe"])));
    }
    for pattern in patterns::all() {
        let row = rows.entry(pattern.metric.name).or_insert((pattern.metric, pattern.severity, BTreeSet::new()));
        row.2.insert("kernel log");
    }
    let metric = &analyzers::log_match::LOG_MATCH;
    writeln!(page, "| `{}` | | as configured | logs | {} |", metric.name, metric.help.trim_end_matches('.')).unwrap();
    for (name, (metric, severity, seen_by)) in rows {
        let seen_by: Vec<&str> = seen_by.into_iter().collect();
        let help = metric.help.trim_end_matches('.');
        writeln!(page, "| `{name}` | {} | {severity} | {} | {help} |", unit(metric.unit), seen_by.join(", ")).unwrap();
    }
}

#[test]
fn the_page_says_what_the_tables_say() {
    let mut page = INTRODUCTION.to_owned();
    collected(&mut page);
    of_the_agent(&mut page);
    events(&mut page);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap();
    assert!(
        page == expected,
        "docs/metrics.md is not what the tables say; UPDATE_EXPECT=1 cargo test -p sysops-agent --test metrics writes it anew"
    );
}

#[test]
fn there_are_more_than_a_hundred_metrics() {
    assert!(COLLECTORS.iter().map(|row| row.metrics.len()).sum::<usize>() > 100);
}

#[test]
fn promtool_has_nothing_to_say_about_a_name() {
    if needs_program("promtool", "prometheus") {
        return;
    }
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md")).unwrap();
    let mut text = String::new();
    for row in page.lines().filter(|row| row.starts_with("| `")) {
        let mut cells = row.split(" | ");
        let name = cells.next().unwrap().trim_matches(['|', ' ', '`']);
        if let kind @ ("gauge" | "counter") = cells.next().unwrap() {
            write!(text, "# HELP sysops_{name} x\n# TYPE sysops_{name} {kind}\nsysops_{name} 1\n").unwrap();
        }
    }
    assert!(text.lines().count() > 3 * 150);
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    let complaints = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.status.success() && complaints.is_empty(), "{complaints}");
}
