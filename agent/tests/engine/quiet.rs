//! A host on which nothing is wrong, for days: noise, daily rhythm, cron jobs, backups, log rotation, deployments. Nobody must hear of it.
//! And the same host when something is.

use std::f64::consts::TAU;

use sysops_agent::config::Config;
use sysops_agent::engine::Engine;
use sysops_agent::model::{
    Alert, Kind, Labels, Metric, Observation, Sample, Samples, SeriesKey, Severity, Status, Timestamp, Unit,
};

use super::labelled::Random;

/// A Monday, 00:00 UTC.
const MONDAY: i64 = 1_767_571_200;
const INTERVAL: i64 = 10;
const DAY: i64 = 86_400;

static METRICS: [(Metric, &[(&str, &str)]); 22] = [
    (Metric::gauge("cpu_usage_percent", Unit::Percent, ""), &[("core", "all")]),
    (Metric::gauge("cpu_iowait_percent", Unit::Percent, ""), &[("core", "all")]),
    (Metric::gauge("cpu_load_per_core", Unit::Ratio, ""), &[]),
    (Metric::counter("cpu_context_switches_total", Unit::Count, ""), &[]),
    (Metric::counter("cpu_forks_total", Unit::Count, ""), &[]),
    (Metric::gauge("memory_usage_percent", Unit::Percent, ""), &[]),
    (Metric::counter("memory_major_faults_total", Unit::Count, ""), &[]),
    (Metric::gauge("pressure_stalled_percent", Unit::Percent, ""), &[("resource", "cpu"), ("share", "some"), ("window", "60s")]),
    (Metric::gauge("pressure_stalled_percent", Unit::Percent, ""), &[("resource", "io"), ("share", "some"), ("window", "60s")]),
    (Metric::gauge("disk_utilization_percent", Unit::Percent, ""), &[("device", "sda")]),
    (Metric::gauge("disk_await_seconds", Unit::Seconds, ""), &[("device", "sda")]),
    (Metric::gauge("disk_usage_percent", Unit::Percent, ""), &[("mount", "/")]),
    (Metric::counter("network_receive_bytes_total", Unit::Bytes, ""), &[("interface", "eth0")]),
    (Metric::counter("network_transmit_bytes_total", Unit::Bytes, ""), &[("interface", "eth0")]),
    (Metric::counter("network_tcp_retransmits_total", Unit::Count, ""), &[]),
    (Metric::gauge("network_tcp_established", Unit::Count, ""), &[]),
    (Metric::gauge("network_tcp_time_wait", Unit::Count, ""), &[]),
    (Metric::gauge("process_pids", Unit::Count, ""), &[]),
    (Metric::gauge("process_all_threads", Unit::Count, ""), &[]),
    (Metric::gauge("process_zombies", Unit::Count, ""), &[]),
    (Metric::gauge("fd_used", Unit::Count, ""), &[]),
    (Metric::gauge("kernel_temperature_celsius", Unit::Celsius, ""), &[("sensor", "Package id 0")]),
];

/// The host.
struct Host {
    engine: Engine,
    random: Random,
    series: Vec<SeriesKey>,
    totals: Vec<f64>,
    load: f64,
    cache: f64,
    leaked: f64,
    deployments: Vec<(i64, i64)>,
    backup: i64,
    alerts: Vec<Alert>,
}

impl Host {
    fn new(seed: u64) -> Self {
        let labels =
            |all: &[(&'static str, &str)]| all.iter().fold(Labels::new(), |labels, (name, value)| labels.with(*name, *value));
        Self {
            engine: Engine::new(&Config::default(), "web-01"),
            random: Random::new(seed),
            series: METRICS.iter().map(|(metric, all)| SeriesKey::new(metric, labels(all))).collect(),
            totals: vec![0.0; METRICS.len()],
            load: 0.2,
            cache: 0.0,
            leaked: 0.0,
            deployments: Vec::new(),
            backup: 0,
            alerts: Vec::new(),
        }
    }

    /// Lives from one second since Monday to another one; `fault` changes what is measured.
    fn live(&mut self, from: i64, to: i64, mut fault: impl FnMut(i64, &mut [f64])) {
        for secs in (from..to).step_by(INTERVAL as usize) {
            if secs % DAY == 0 {
                self.plan(secs);
            }
            let mut values = self.values(secs);
            fault(secs, &mut values);
            let at = Timestamp::from_secs(MONDAY + secs);
            let mut samples = Vec::new();
            for (((series, value), total), (metric, _)) in self.series.iter().zip(&values).zip(&mut self.totals).zip(&METRICS) {
                let value = if metric.kind == Kind::Counter {
                    *total = (*total + value * INTERVAL as f64).round();
                    *total
                } else {
                    *value
                };
                samples.push(Sample { series: series.clone(), value });
            }
            self.engine.observe(at, Observation::Samples(Samples { collector: "test", values: samples }), &mut self.alerts);
            self.engine.observe(at, Observation::Tick, &mut self.alerts);
        }
    }

    /// What happens on one day: a backup at about two, on working days up to two deployments.
    fn plan(&mut self, midnight: i64) {
        self.backup = midnight + 2 * 3600 + self.random.below(600) as i64;
        self.deployments.clear();
        if (midnight / DAY) % 7 < 5 {
            for _ in 0..self.random.below(3) {
                let begin = midnight + 9 * 3600 + self.random.below(8 * 3600) as i64;
                self.deployments.push((begin, begin + 120 + self.random.below(180) as i64));
            }
        }
    }

    fn values(&mut self, secs: i64) -> Vec<f64> {
        let random = &mut self.random;
        let of_day = secs % DAY;
        let weekend = (secs / DAY) % 7 >= 5;
        // Most traffic at 14:00.
        let sun = 0.5 + 0.5 * (TAU * (of_day - 8 * 3600) as f64 / DAY as f64).sin();
        let traffic = (0.15 + 0.85 * sun) * if weekend { 0.5 } else { 1.0 } * (1.0 + 0.1 * random.normal()).max(0.2);
        let cron = of_day % 3600 < 60 + (of_day / 3600 * 7 % 90);
        let often = of_day % 300 < 10;
        let backup = (self.backup..self.backup + 2400).contains(&secs);
        let rotation = (0..40).contains(&of_day);
        let deployment = self.deployments.iter().any(|(begin, end)| (*begin..*end).contains(&secs));
        if self.deployments.iter().any(|(begin, _)| (*begin..*begin + INTERVAL).contains(&secs)) {
            self.leaked = 0.0;
        }
        self.leaked += 4.0 / DAY as f64 * INTERVAL as f64;
        self.cache += 0.02 * ((if backup { 4.0 } else { 0.0 }) - self.cache);
        let on = |condition: bool, value: f64| if condition { value } else { 0.0 };
        let cpu =
            4.0 + 25.0 * traffic + on(cron, 18.0) + on(often, 6.0) + on(backup, 20.0) + on(rotation, 15.0) + on(deployment, 35.0);
        let cpu = (cpu + 1.2 * random.heavy()).clamp(0.3, 100.0);
        let io = 3.0 + 6.0 * traffic + on(cron, 12.0) + on(backup, 70.0) + on(rotation, 40.0) + on(deployment, 25.0);
        let io = (io * (1.0 + 0.2 * random.normal()).max(0.1)).clamp(0.0, 100.0);
        self.load += (cpu / 100.0 * 1.3 - self.load) * 0.03;
        let connections = (180.0 + 260.0 * traffic + 10.0 * random.normal()).round();
        let pressure = |busy: f64| (busy / 100.0).powi(2) * 20.0;
        vec![
            cpu,
            io * 0.1,
            self.load,
            3000.0 + 9000.0 * traffic + on(cron, 3000.0) + 200.0 * random.heavy().abs(),
            3.0 + on(cron, 40.0) + on(often, 10.0) + on(deployment, 60.0) + random.unit(),
            48.0 + 5.0 * traffic + self.cache + self.leaked + 0.2 * random.normal(),
            on(deployment, 60.0) + on(cron, 10.0) + random.unit(),
            pressure(cpu),
            pressure(io),
            io,
            0.002 + on(backup, 0.02) + 0.001 * random.heavy().abs(),
            41.0 + secs as f64 / DAY as f64 * 0.05,
            4e5 + 3e6 * traffic + on(backup, 4e5),
            9e5 + 8e6 * traffic + on(backup, 3e7),
            0.3 + 2.0 * traffic + on(random.unit() < 0.01, 15.0),
            connections,
            connections * 2.0 + 50.0 * random.normal(),
            210.0 + on(cron, 12.0) + on(backup, 6.0) + on(deployment, 15.0) + (3.0 * random.normal()).round(),
            640.0 + on(backup, 20.0) + on(deployment, 60.0) + (4.0 * random.normal()).round(),
            on(random.unit() < 0.02, 1.0),
            2200.0 + connections + (20.0 * random.normal()).round(),
            44.0 + cpu * 0.15 + 0.4 * random.normal(),
        ]
    }

    /// Alerts that began since the last call.
    fn begun(&mut self) -> Vec<Alert> {
        self.alerts.drain(..).filter(|alert| alert.status == Status::Firing).collect()
    }
}

fn index(metric: &str) -> usize {
    METRICS.iter().position(|(row, _)| row.name == metric).unwrap_or_else(|| panic!("the host has no {metric}"))
}

/// Adds to a metric within a time.
fn add(metric: &'static str, from: i64, to: i64, by: f64) -> impl FnMut(i64, &mut [f64]) {
    let index = index(metric);
    move |secs, values| {
        if (from..to).contains(&secs) {
            values[index] += by;
        }
    }
}

#[test]
fn a_quiet_week_is_quiet() {
    let mut host = Host::new(1);
    let mut all = Vec::new();
    for day in 0..7 {
        host.live(day * DAY, (day + 1) * DAY, |_, _| {});
        let begun = host.begun();
        all.extend(begun.iter().map(|alert| format!("day {day} {:?} {} {}", alert.at, alert.labels, alert.message)));
    }
    // One a day in all would be the most that can be borne.
    assert!(all.is_empty(), "{all:#?}");
}

#[test]
fn what_is_far_from_usual_is_told_once_with_its_numbers() {
    let mut host = Host::new(3);
    host.live(0, 2 * DAY, |_, _| {});
    host.begun();
    let begin = 2 * DAY + 5 * 3600;
    host.live(2 * DAY, begin + 3600, add("cpu_usage_percent", begin, begin + 1500, 75.0));
    let begun = host.begun();
    let of = |analyzer: &str| {
        let found: Vec<&Alert> = begun
            .iter()
            .filter(|alert| alert.metric == "cpu_usage_percent" && alert.labels.get("analyzer") == Some(analyzer))
            .collect();
        assert_eq!(found.len(), 1, "{analyzer}: {begun:?}");
        found[0].clone()
    };
    let zscore = of("zscore");
    assert_eq!(zscore.severity, Severity::Info);
    assert!(zscore.message.contains("far above its usual"), "{}", zscore.message);
    let late = zscore.at.since(Timestamp::from_secs(MONDAY + begin)).as_secs();
    assert!((560..=660).contains(&late), "{late}");
    for name in ["mean", "standard_deviation", "zscore", "least_deviation", "samples", "held_secs"] {
        assert!(zscore.evidence[name].as_f64().is_some_and(|number| number > 0.0), "{name}: {:?}", zscore.evidence);
    }
    assert!(zscore.evidence["usual_at_this_hour"].is_array(), "{:?}", zscore.evidence);
    let ema = of("ema");
    assert_eq!(ema.severity, Severity::Info);
    assert!(ema.message.contains("rose suddenly from"), "{}", ema.message);
    let late = ema.at.since(Timestamp::from_secs(MONDAY + begin)).as_secs();
    assert!((40..=70).contains(&late), "{late}");
}

#[test]
fn an_outlier_is_over_when_it_is_back_or_has_become_usual() {
    let mut host = Host::new(4);
    host.live(0, DAY, |_, _| {});
    host.alerts.clear();
    let begin = DAY + 4 * 3600;
    host.live(DAY, begin + 4 * 3600, |secs, values| {
        add("memory_usage_percent", begin, begin + 1200, 30.0)(secs, values);
        add("process_pids", begin, 9 * DAY, 800.0)(secs, values);
    });
    let told = |metric: &str| -> Vec<(Status, String)> {
        let alerts = host.alerts.iter().filter(|alert| alert.metric == metric && alert.labels.get("analyzer") == Some("zscore"));
        alerts.map(|alert| (alert.status, alert.message.clone())).collect()
    };
    for (metric, words) in [("memory_usage_percent", "back to"), ("process_pids", "usual by now")] {
        let told = told(metric);
        assert_eq!(told.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [Status::Firing, Status::Resolved], "{told:?}");
        assert!(told[1].1.contains(words), "{told:?}");
    }
}

#[test]
fn a_rate_that_collapses_is_told_and_a_counter_that_is_reset_is_not() {
    let mut host = Host::new(5);
    host.live(0, DAY + 12 * 3600, |_, _| {});
    host.begun();
    host.totals.iter_mut().for_each(|total| *total = 0.0);
    host.live(DAY + 12 * 3600, DAY + 13 * 3600, |_, _| {});
    assert_eq!(host.begun(), []);
    let (begin, sent) = (DAY + 13 * 3600, index("network_transmit_bytes_total"));
    host.live(begin, begin + 1200, |_, values| values[sent] = 0.0);
    let begun = host.begun();
    assert!(begun.iter().any(|alert| alert.message.contains("far below its usual")), "{begun:#?}");
    assert!(begun.iter().all(|alert| alert.metric == "network_transmit_bytes_total"), "{begun:#?}");
}

#[test]
fn short_and_small_deviations_and_the_first_hour_are_not_told() {
    let mut host = Host::new(6);
    // The first hour knows nothing.
    host.live(0, 3000, add("cpu_usage_percent", 1000, 3000, 60.0));
    host.live(3000, DAY, |_, _| {});
    host.begun();
    let begin = DAY + 3600;
    // Nine minutes; eight points; a swing.
    host.live(DAY, begin, |_, _| {});
    host.live(begin, begin + 7200, |secs, values| {
        add("memory_usage_percent", begin + 600, begin + 1140, 17.0)(secs, values);
        add("kernel_temperature_celsius", begin, begin + 3600, 8.0)(secs, values);
        if secs % 60 < 30 {
            values[index("process_pids")] += 90.0;
        }
    });
    assert_eq!(host.begun(), []);
}

#[test]
fn times_that_jump_and_wild_values_break_nothing() {
    let mut host = Host::new(7);
    host.live(0, 7200, |_, _| {});
    let jumps = [0, 0, 1, 10, 10, 10, 600, 90_000, -1, -4000, -90_000];
    let numbers = [0.0, -1.0, 1e300, -1e300, f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, 50.0, 1e-300];
    let mut secs: i64 = 7200;
    for step in 0..20_000 {
        secs += jumps[host.random.below(jumps.len())];
        let wild = step % 3000 > 2000;
        let values = host.values(secs.rem_euclid(DAY));
        let draw = |random: &mut Random, value: f64| if wild { numbers[random.below(numbers.len())] } else { value };
        let samples: Vec<Sample> = host
            .series
            .iter()
            .zip(values)
            .map(|(series, value)| Sample { series: series.clone(), value: draw(&mut host.random, value) })
            .collect();
        let at = Timestamp::from_secs(MONDAY + secs);
        host.engine.observe(at, Observation::Samples(Samples { collector: "test", values: samples }), &mut host.alerts);
        host.engine.observe(at, Observation::Tick, &mut host.alerts);
    }
    for alert in host.alerts.iter().filter(|alert| alert.labels.get("analyzer").is_some()) {
        assert!(alert.value.is_finite() && alert.threshold.is_none_or(f64::is_finite), "{alert:#?}");
        assert_eq!(alert.severity, Severity::Info);
        assert!(!alert.message.contains("NaN") && !alert.message.contains("inf"), "{}", alert.message);
    }
}
