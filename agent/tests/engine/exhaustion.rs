//! Trends and leaks: what is foretold, how well, when it is over, and what is not foretold.

use sysops_agent::model::{Alert, Metric, Observation, Sample, Samples, SeriesKey, Severity, Status, Timestamp, Unit};

use super::{Host, Random, series};

static SPACE: Metric = Metric::gauge("disk_available_bytes", Unit::Bytes, "Space left.");
static MEMORY: Metric = Metric::gauge("memory_available_bytes", Unit::Bytes, "Memory left.");
static INODES: Metric = Metric::gauge("disk_inode_usage_percent", Unit::Percent, "Inodes in use.");
static FDS: Metric = Metric::gauge("process_open_fds", Unit::Count, "Open descriptors.");
static FD_USAGE: Metric = Metric::gauge("process_fd_usage_percent", Unit::Percent, "Open descriptors by limit.");
static RSS: Metric = Metric::gauge("process_rss_bytes", Unit::Bytes, "Resident memory.");
static START: Metric = Metric::gauge("process_start_time_seconds", Unit::Seconds, "Start after boot.");
static FD_KIND: Metric = Metric::gauge("process_open_fds_by_kind", Unit::Count, "Descriptors by kind.");
static FD_PREFIX: Metric = Metric::gauge("process_open_fds_by_prefix", Unit::Count, "Descriptors by what they lead to.");
static MEMORY_KIND: Metric = Metric::gauge("process_rss_kind_bytes", Unit::Bytes, "Memory by kind.");
static CGROUP_LIMIT: Metric = Metric::gauge("cgroup_memory_limit_bytes", Unit::Bytes, "Limit of the cgroup.");
static CGROUP_USED: Metric = Metric::gauge("cgroup_memory_used_bytes", Unit::Bytes, "Memory of the cgroup.");

const GIB: f64 = 1_073_741_824.0;
const HOUR: i64 = 3600;

/// A value by time.
type Shape = Box<dyn Fn(f64) -> f64>;

/// A host whose ticks are ten seconds apart: days are to pass.
struct Slow {
    host: Host,
    random: Random,
}

impl Slow {
    fn new() -> Self {
        Self { host: Host::new(), random: Random(7) }
    }

    /// Samples of what `values` gives for each time from now until `secs`, every `interval` seconds.
    fn run(&mut self, secs: i64, interval: i64, mut values: impl FnMut(f64, &mut Random) -> Vec<(SeriesKey, f64)>) {
        while self.host.now < secs {
            if self.host.now % interval == 0 {
                let values = values(self.host.now as f64, &mut self.random);
                let values = values.into_iter().map(|(series, value)| Sample { series, value }).collect();
                self.host.observe(Observation::Samples(Samples { collector: "test", values }));
            }
            self.host.now += 10;
            self.host.observe(Observation::Tick);
        }
    }

    fn of(&self, metric: &Metric) -> Vec<&Alert> {
        self.host.alerts.iter().filter(|alert| alert.metric == metric.name && alert.labels.get("analyzer").is_some()).collect()
    }

    fn secs_of(alert: &Alert) -> f64 {
        alert.at.since(Host::time(0)).as_secs_f64()
    }
}

fn space() -> SeriesKey {
    series(&SPACE, &[("mount", "/var")])
}

fn of_process(metric: &'static Metric) -> SeriesKey {
    series(metric, &[("comm", "server"), ("pid", "4711")])
}

fn number(alert: &Alert, name: &str) -> f64 {
    alert.evidence[name].as_f64().unwrap_or(f64::NAN)
}

#[test]
fn a_disk_that_fills_up_is_foretold_days_ahead() {
    let mut slow = Slow::new();
    let full = 96.0 * HOUR as f64;
    let left = |secs: f64| 300.0 * GIB * (1.0 - secs / full).max(0.0);
    slow.run(94 * HOUR, 60, |secs, random| vec![(space(), left(secs) + random.below(1000) as f64 * 1e5)]);
    slow.run(97 * HOUR, 60, |_, _| vec![(space(), 290.0 * GIB)]);
    let told = slow.of(&SPACE);
    let kinds: Vec<_> = told.iter().map(|alert| (alert.status, alert.severity)).collect();
    assert_eq!(
        kinds,
        [(Status::Firing, Severity::Warn), (Status::Updated, Severity::Critical), (Status::Resolved, Severity::Critical)]
    );
    for alert in &told[..2] {
        let truth = full - Slow::secs_of(alert);
        let [low, guess, high] =
            ["time_left_low_seconds", "time_left_seconds", "time_left_high_seconds"].map(|name| number(alert, name));
        assert!((guess / truth - 1.0).abs() < 0.2 && low <= guess && guess <= high, "{truth} {alert:#?}");
        assert!(number(alert, "r_squared") > 0.9 && number(alert, "backtest_error") < 0.1, "{alert:#?}");
        assert_eq!((number(alert, "window_seconds"), alert.evidence["limit"].as_f64()), (6.0 * 3600.0, Some(0.0)));
        assert!((number(alert, "slope") / (-300.0 * GIB / 96.0) - 1.0).abs() < 0.1, "{alert:#?}");
    }
    assert!(full - Slow::secs_of(told[0]) > 40.0 * 3600.0, "{:#?}", told[0]);
    assert!(told[0].message.starts_with("Space on /var will be used up in 1 d "), "{}", told[0].message);
    assert!(told[2].message.starts_with("Space on /var no longer runs out: 290.0 GiB left"), "{}", told[2].message);
    assert!(Slow::secs_of(told[2]) <= 94.4 * HOUR as f64, "{:#?}", told[2]);
}

#[test]
fn memory_is_foretold_within_hours() {
    let mut slow = Slow::new();
    let full = 10.0 * HOUR as f64;
    let left = |secs: f64| 16.0 * GIB * (1.0 - ((secs - 4.0 * HOUR as f64) / (full - 4.0 * HOUR as f64)).clamp(0.0, 1.0));
    slow.run(11 * HOUR, 10, |secs, random| vec![(series(&MEMORY, &[]), left(secs) + random.below(1000) as f64 * 2e5)]);
    let told = slow.of(&MEMORY);
    let (first, truth) = (told[0], full - Slow::secs_of(told[0]));
    assert!((2.0..3.0).contains(&(truth / 3600.0)), "{truth} {first:#?}");
    assert!((number(first, "time_left_seconds") / truth - 1.0).abs() < 0.2, "{truth} {first:#?}");
    // An empty one is not over because it no longer shrinks.
    assert!(told.iter().all(|alert| alert.status != Status::Resolved), "{told:#?}");
}

#[test]
fn the_past_in_the_store_counts() {
    let mut slow = Slow::new();
    let full = 30.0 * HOUR as f64;
    let left = |secs: f64| 200.0 * GIB * (1.0 - secs / full);
    for minute in 0..20 * 60 {
        slow.host.engine.recall(Host::time(minute * 60), &space(), left(minute as f64 * 60.0));
    }
    slow.host.now = 20 * HOUR;
    slow.run(20 * HOUR + 900, 60, |secs, _| vec![(space(), left(secs))]);
    assert_eq!(slow.of(&SPACE).len(), 1, "{:#?}", slow.host.alerts);
}

#[test]
fn what_comes_and_goes_is_not_foretold() {
    let hour = HOUR as f64;
    let tooth = move |secs: f64, hours: f64| secs.rem_euclid(hours * hour) / (hours * hour);
    let shapes: [(&str, Shape); 6] = [
        ("rotated each night", Box::new(move |secs| 150.0 - 80.0 * tooth(secs + 5.0 * hour, 24.0))),
        ("rotated each hour", Box::new(move |secs| 40.0 - 25.0 * tooth(secs, 1.0))),
        ("a burst each hour", Box::new(move |secs| 60.0 - if tooth(secs, 1.0) < 0.15 { 50.0 } else { 0.0 })),
        (
            "a backup of three hours",
            Box::new(move |secs| 200.0 - 90.0 * ((secs.rem_euclid(24.0 * hour) - 2.0 * hour) / (3.0 * hour)).clamp(0.0, 1.0)),
        ),
        ("a big copy", Box::new(move |secs| 200.0 - 90.0 * ((secs - 20.0 * hour) / hour).clamp(0.0, 1.0))),
        ("what levels off", Box::new(move |secs| 200.0 - 150.0 * (1.0 - (-secs / (9.0 * hour)).exp()))),
    ];
    for (name, shape) in shapes {
        let mut slow = Slow::new();
        slow.run(72 * HOUR, 60, |secs, random| vec![(space(), shape(secs) * GIB + random.below(1000) as f64 * 1e5)]);
        assert!(slow.of(&SPACE).is_empty(), "{name}: {:#?}", slow.host.alerts);
    }
}

/// What the collector tells of a process whose descriptors are `sockets` connections and 20 files.
fn descriptors(sockets: f64, start: f64) -> Vec<(SeriesKey, f64)> {
    let of_kind = |metric, label, value| series(metric, &[("comm", "server"), ("pid", "4711"), (label, value)]);
    let open = (sockets + 20.0).floor();
    vec![
        (of_process(&START), start),
        (of_process(&FDS), open),
        (of_process(&FD_USAGE), open / 1024.0 * 100.0),
        (of_kind(&FD_KIND, "kind", "file"), 20.0),
        (of_kind(&FD_KIND, "kind", "socket"), sockets.floor()),
        (of_kind(&FD_PREFIX, "prefix", "10.0.0.9:5432"), (sockets * 0.9).floor()),
        (of_kind(&FD_PREFIX, "prefix", "/var/lib"), 12.0),
    ]
}

#[test]
fn leaked_descriptors_are_named_by_kind_before_the_limit() {
    let mut slow = Slow::new();
    slow.run(3 * HOUR, 30, |secs, random| descriptors(200.0 * secs / 3600.0 + random.below(3) as f64, 12.5));
    let told = slow.of(&FDS);
    assert_eq!(told.len(), 1, "{told:#?}");
    let alert = told[0];
    assert_eq!(alert.labels.to_string(), r#"{analyzer="leak",comm="server",kind="socket",pid="4711"}"#);
    assert_eq!((alert.severity, alert.threshold), (Severity::Warn, Some(1024.0)));
    let at = Slow::secs_of(alert);
    assert!((3600.0..7200.0).contains(&at), "{at}");
    let truth = (1024.0 - 20.0) / 200.0 * 3600.0 - at;
    assert!((number(alert, "time_left_seconds") / truth - 1.0).abs() < 0.2, "{truth} {alert:#?}");
    assert!((number(alert, "rate_per_hour") - 200.0).abs() < 20.0 && number(alert, "r_squared") > 0.9, "{alert:#?}");
    assert!(number(alert, "now") > number(alert, "start") + 150.0 && number(alert, "window_seconds") >= 3600.0);
    assert!(alert.evidence["grows"].as_str().unwrap().starts_with("socket (+3"), "{alert:#?}");
    assert_eq!(alert.evidence["growth_by_kind"]["file"].as_f64(), Some(0.0));
    assert!(alert.evidence["commonest_prefix"].as_str().unwrap().starts_with("10.0.0.9:5432 ("), "{alert:#?}");
    assert!(alert.message.contains("mostly socket; its limit of 1024 is reached in 3 h"), "{}", alert.message);
}

#[test]
fn a_process_that_is_started_again_is_another_one() {
    let mut slow = Slow::new();
    let life = 3.0 * HOUR as f64;
    slow.run(6 * HOUR, 30, |secs, _| descriptors(200.0 * (secs % life) / 3600.0, (secs / life).floor()));
    let told: Vec<_> = slow.of(&FDS).iter().map(|alert| (alert.status, (Slow::secs_of(alert) / 3600.0).floor())).collect();
    assert_eq!(told, [(Status::Firing, 1.0), (Status::Resolved, 3.0), (Status::Firing, 4.0)], "{:#?}", slow.host.alerts);
    assert!(slow.of(&FDS)[1].message.ends_with("was started again"));

    // One that never lives for an hour has no line that an hour could be seen of.
    let mut slow = Slow::new();
    let life = 0.9 * HOUR as f64;
    slow.run(9 * HOUR, 30, |secs, _| descriptors(200.0 * (secs % life) / 3600.0, (secs / life).floor()));
    assert!(slow.of(&FDS).is_empty(), "{:#?}", slow.host.alerts);
}

#[test]
fn a_leak_ends_with_its_growth_or_its_process() {
    let mut slow = Slow::new();
    slow.run(6 * HOUR, 30, |secs, _| descriptors(200.0 * (secs / 3600.0).min(3.0), 1.0));
    let told = slow.of(&FDS);
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[1].message.ends_with("File descriptors of server (pid 4711) no longer grows"), "{}", told[1].message);

    let mut slow = Slow::new();
    slow.run(2 * HOUR, 30, |secs, _| descriptors(200.0 * secs / 3600.0, 1.0));
    slow.run(3 * HOUR, 30, |_, _| Vec::new());
    let told = slow.of(&FDS);
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[1].message.ends_with("is no longer reported"), "{}", told[1].message);
}

#[test]
fn leaked_memory_says_what_grows_and_against_which_limit() {
    let mut slow = Slow::new();
    slow.run(5 * HOUR, 30, |secs, random| {
        let of_kind = |kind| series(&MEMORY_KIND, &[("comm", "server"), ("pid", "4711"), ("kind", kind)]);
        let leaked = secs / 3600.0 * 0.25 * GIB + random.below(1000) as f64 * 1e4;
        vec![
            (series(&START, &[("comm", "server"), ("pid", "4711"), ("cgroup", "/app")]), 3.0),
            (of_process(&RSS), 0.5 * GIB + leaked),
            (of_kind("anon"), 0.4 * GIB + leaked),
            (of_kind("file"), 0.1 * GIB),
            (series(&CGROUP_LIMIT, &[("cgroup", "/app")]), 2.0 * GIB),
            (series(&CGROUP_USED, &[("cgroup", "/app")]), 0.6 * GIB + leaked),
            (series(&MEMORY, &[]), 20.0 * GIB - leaked),
        ]
    });
    let told = slow.of(&RSS);
    assert_eq!(told.len(), 1, "{told:#?}");
    let (alert, at) = (told[0], Slow::secs_of(told[0]));
    assert_eq!(alert.labels.get("kind"), Some("anon"));
    assert!((number(alert, "limit") / (1.9 * GIB) - 1.0).abs() < 0.01, "{alert:#?}");
    let truth = 5.6 * 3600.0 - at;
    assert!((number(alert, "time_left_seconds") / truth - 1.0).abs() < 0.2, "{truth} {alert:#?}");
    assert!(alert.message.contains("mostly anon; its limit of 1.9 GiB is reached in "), "{}", alert.message);
}

#[test]
fn caches_pools_and_collected_heaps_do_not_leak() {
    let hour = HOUR as f64;
    let shapes: [(&str, Shape); 5] = [
        ("a cache that fills", Box::new(move |secs| 300.0 + 3000.0 * (1.0 - (-secs / hour).exp()))),
        ("a pool that fills", Box::new(move |secs| 300.0 + 400.0 * (secs / hour * 1.5).min(1.0))),
        ("a heap", Box::new(|secs| 400.0 + 800.0 * (secs % 1500.0) / 1500.0)),
        ("a new version", Box::new(move |secs| if secs < 4.0 * hour { 400.0 } else { 900.0 })),
        ("a batch each hour", Box::new(move |secs| 400.0 + if secs % hour < 1200.0 { secs % hour } else { 0.0 })),
    ];
    for (name, shape) in shapes {
        let mut slow = Slow::new();
        slow.run(12 * HOUR, 30, |secs, random| {
            let size = shape(secs) + random.below(100) as f64 / 10.0;
            let mut values = descriptors(size, 1.0);
            values.push((of_process(&RSS), size * 1_048_576.0));
            values
        });
        assert!(slow.of(&RSS).is_empty() && slow.of(&FDS).is_empty(), "{name}: {:#?}", slow.host.alerts);
    }
}

/// Trends and leaks among values that are no numbers, gaps, repeated and backward times.
#[test]
fn any_input_gives_sound_findings() {
    let keys: Vec<SeriesKey> = [&SPACE, &MEMORY, &INODES, &FDS, &FD_USAGE, &RSS, &START, &FD_KIND, &MEMORY_KIND, &CGROUP_LIMIT]
        .into_iter()
        .map(|metric| series(metric, &[("mount", "/"), ("comm", "a"), ("pid", "1"), ("kind", "x")]))
        .collect();
    let mut told = 0;
    for seed in 1..=12 {
        let mut random = Random(seed);
        let mut host = Host::new();
        let mut secs = 1_700_000_000_i64;
        let slopes: Vec<f64> = keys.iter().map(|_| *random.pick(&[-1e3, -300.0, 0.0, 300.0, 1e5, 1e9])).collect();
        for step in 0..4000_u32 {
            secs += match random.below(900) {
                0 => *random.pick(&[0, -60, -7200, 5000, 100_000]),
                _ => 30,
            };
            let at = match random.below(1000) {
                0 => *random.pick(&[Timestamp::from_nanos(i64::MIN), Timestamp::from_nanos(i64::MAX), Timestamp::default()]),
                _ => Timestamp::from_secs(secs),
            };
            let value = |slope: f64, random: &mut Random| match random.below(400) {
                0 => *random.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, 1e300, f64::MIN_POSITIVE]),
                _ => 1e6 + slope * f64::from(step) + random.below(10) as f64 * slope,
            };
            let values =
                keys.iter().zip(&slopes).map(|(key, slope)| Sample { series: key.clone(), value: value(*slope, &mut random) });
            let values = values.collect();
            host.engine.observe(at, Observation::Samples(Samples { collector: "test", values }), &mut host.alerts);
            host.engine.observe(at, Observation::Tick, &mut host.alerts);
        }
        for alert in &host.alerts {
            assert!(alert.value.is_finite() && alert.threshold.is_none_or(f64::is_finite), "{alert:?}");
            let text = format!("{}{:?}", alert.message, alert.evidence);
            assert!(!text.contains("NaN") && !text.contains("inf") && !text.contains("Null"), "{alert:?}");
        }
        told += host.alerts.iter().filter(|alert| alert.labels.get("analyzer").is_some()).count();
    }
    assert!(told > 10, "the mixture is too tame: {told} alerts");
}
