//! Limits: hold, hysteresis, severity, words, silence.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use sysops_agent::config::{Config, parse};
use sysops_agent::model::Status::{Firing, Resolved, Updated};
use sysops_agent::model::{Metric, Unit};

use super::{CPU, DISK, Host, LOAD, NETWORK, PROCESS_FD, is, series};

/// What happens to one series, and every alert that it makes: (series, interval, values, alerts).
#[test]
fn series_in_alerts_out() {
    let (cpu, core) = (series(&CPU, &[("core", "all")]), series(&CPU, &[("core", "3")]));
    let (disk, load) = (series(&DISK, &[("mount", "/var")]), series(&LOAD, &[]));
    let (net, fd) = (series(&NETWORK, &[("interface", "eth0")]), series(&PROCESS_FD, &[("comm", "nginx"), ("pid", "7")]));
    let cases: &[(&str, _, i64, &[f64], &[_])] = &[
        ("quiet", &cpu, 10, &[50.0; 30], &[]),
        ("a peak shorter than the hold time", &cpu, 10, &[99.0, 99.0, 99.0, 99.0, 99.0, 99.0, 50.0], &[]),
        (
            "held for the hold time",
            &cpu,
            10,
            &[91.0, 91.0, 91.0, 91.0, 91.0, 91.0, 91.2],
            &[is(Firing, "warn CPU usage 91.2% exceeds threshold 90% for 1 min")],
        ),
        ("a dip starts the hold time again", &cpu, 10, &[91.0, 91.0, 91.0, 91.0, 91.0, 89.0, 91.0, 91.0, 91.0, 91.0], &[]),
        (
            "critical from the start",
            &cpu,
            10,
            &[96.0, 96.0, 96.0, 96.0, 96.0, 96.0, 96.0],
            &[is(Firing, "critical CPU usage 96.0% exceeds threshold 90% for 1 min")],
        ),
        ("a single core has no limit", &core, 10, &[100.0; 20], &[]),
        (
            "no hold: one sample is enough, at the limit too",
            &disk,
            60,
            &[89.9, 90.0, 90.0],
            &[is(Firing, "warn Disk usage of /var 90.0% reaches threshold 90%")],
        ),
        (
            "it gets worse, and is told once",
            &disk,
            60,
            &[92.0, 93.0, 95.0, 99.0, 93.0, 99.0],
            &[
                is(Firing, "warn Disk usage of /var 92.0% exceeds threshold 90%"),
                is(Updated, "critical Disk usage of /var 95.0% exceeds threshold 90% for 2 min"),
            ],
        ),
        (
            "between clearing limit and limit it goes on",
            &disk,
            60,
            &[91.0, 89.0, 85.1, 91.0, 85.0],
            &[
                is(Firing, "warn Disk usage of /var 91.0% exceeds threshold 90%"),
                is(Resolved, "warn Disk usage of /var back to 85.0% (threshold 90%)"),
            ],
        ),
        (
            "load counts for five minutes",
            &load,
            100,
            &[3.0, 3.0, 3.0, 3.126],
            &[is(Firing, "warn Load per core 3.126 exceeds threshold 2 for 5 min")],
        ),
        (
            "ratios",
            &net,
            30,
            &[0.015, 0.015, 0.0151],
            &[is(Firing, "warn Packet error ratio of eth0 0.015 exceeds threshold 0.01 for 1 min")],
        ),
        (
            "a process is named",
            &fd,
            30,
            &[85.0, 10.0],
            &[
                is(Firing, "warn File descriptor usage of nginx (pid 7) 85.0% exceeds threshold 80%"),
                is(Resolved, "warn File descriptor usage of nginx (pid 7) back to 10.0% (threshold 80%)"),
            ],
        ),
    ];
    for (name, key, interval, values, expected) in cases {
        let mut host = Host::new();
        host.samples(key, *interval, values);
        assert_eq!(host.told(), *expected, "{name}");
    }
}

#[test]
fn the_value_must_stay_down_for_the_hold_time() {
    let (mut host, cpu) = (Host::new(), series(&CPU, &[("core", "all")]));
    host.samples(&cpu, 10, &[92.0; 7]);
    assert_eq!(host.told().len(), 1);
    host.samples(&cpu, 10, &[50.0, 50.0, 50.0, 50.0, 50.0, 88.0, 50.0, 50.0, 50.0, 50.0, 50.0, 50.0]);
    assert_eq!(host.told(), []);
    assert_eq!(host.engine.open_incidents().count(), 1);
    host.samples(&cpu, 10, &[62.0]);
    assert_eq!(host.told(), [is(Resolved, "warn CPU usage back to 62.0% (threshold 90%)")]);
    assert_eq!(host.engine.open_incidents().count(), 0);
}

#[test]
fn an_alert_holds_the_facts() {
    let (mut host, cpu) = (Host::new(), series(&CPU, &[("core", "all")]));
    host.samples(&cpu, 10, &[40.0, 50.0, 90.5, 91.0, 91.5, 92.0, 92.5, 93.0, 93.5]);
    let fired = host.only();
    assert_eq!((fired.value, fired.threshold, fired.count), (93.5, Some(90.0), 7));
    assert_eq!((&*fired.metric, fired.duration), ("cpu_usage_percent", Duration::from_secs(60)));
    assert_eq!(fired.labels.to_string(), r#"{core="all"}"#);
    assert_eq!((fired.id.len(), fired.delivery), (16, format!("{}-1", fired.id)));
    assert_eq!(fired.evidence["trend"], json!("rising 34.8 per minute"));
    assert_eq!(fired.evidence["recent"][0], json!([80.0, 40.0]));
    assert_eq!(fired.evidence["recent"][8], json!([0.0, 93.5]));
    assert_eq!((&fired.evidence["critical_threshold"], &fired.evidence["source"]), (&json!(95.0), &json!("samples")));
    host.samples(&cpu, 10, &[10.0; 7]);
    let resolved = host.only();
    assert_eq!((&resolved.id, resolved.delivery), (&fired.id, format!("{}-2", fired.id)));
    assert_eq!(resolved.duration, Duration::from_secs(190 - 60));
    // The same trouble later is another incident.
    host.wait(3600);
    host.samples(&cpu, 10, &[91.0; 7]);
    assert_ne!(host.only().id, fired.id);
}

#[test]
fn a_series_that_stops_arriving_ends_its_incident() {
    let (mut host, disk) = (Host::new(), series(&DISK, &[("mount", "/mnt/usb")]));
    host.samples(&disk, 60, &[95.0, 96.0]);
    assert_eq!(host.told().len(), 1);
    // 60 s have passed since the last sample; three intervals are the limit.
    host.wait(120);
    assert_eq!(host.told(), []);
    host.wait(1);
    assert_eq!(host.told(), [is(Resolved, "critical Disk usage of /mnt/usb is no longer reported (last 96.0%, threshold 90%)")]);
}

#[test]
fn a_machine_that_slept_has_not_lost_its_series() {
    let (mut host, disk) = (Host::new(), series(&DISK, &[("mount", "/")]));
    host.samples(&disk, 60, &[92.0]);
    host.told();
    host.now += 8 * 3600;
    host.wait(60);
    host.samples(&disk, 60, &[92.0, 92.0]);
    assert_eq!(host.told(), []);
}

#[test]
fn wide_swings_are_damped() {
    let (mut host, disk) = (Host::new(), series(&DISK, &[("mount", "/")]));
    for _ in 0..240 {
        host.samples(&disk, 30, &[95.0, 95.0, 40.0, 40.0]);
    }
    // Eight hours of a swing of two minutes: a few pairs at the start, then one incident that stays open.
    let told = host.told();
    assert!(told.len() <= 5, "{told:#?}");
    assert_eq!(host.engine.open_incidents().count(), 1);
    host.samples(&disk, 30, &[40.0; 40]);
    assert_eq!(host.told().len(), 1);
}

#[test]
fn a_new_configuration_keeps_what_is_open() {
    let (mut host, disk) = (Host::new(), series(&DISK, &[("mount", "/")]));
    host.samples(&disk, 60, &[92.0]);
    let fired = host.only();
    let mut config = Config::default();
    config.thresholds.disk_percent = 98.0;
    host.engine.reconfigure(&config);
    host.samples(&disk, 60, &[92.0]);
    let resolved = host.only();
    assert_eq!((resolved.id, resolved.status), (fired.id, Resolved));
    assert_eq!(resolved.message, "Disk usage of / back to 92.0% (threshold 98%)");
    config.thresholds.disk_percent = 3.0;
    host.engine.reconfigure(&config);
    host.samples(&disk, 60, &[4.0]);
    assert_eq!(host.told(), [is(Firing, "warn Disk usage of / 4.0% exceeds threshold 3%")]);
    host.samples(&disk, 60, &[0.0, 0.0, 0.0]);
    assert_eq!(host.engine.open_incidents().count(), 0);
}

/// An engine whose configuration has these overrides.
fn overriding(overrides: &str) -> Host {
    Host::with(&configured(overrides))
}

fn configured(overrides: &str) -> Config {
    let text = format!("[thresholds]\noverrides = [{overrides}]");
    parse(&text, Path::new("t.toml"), &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn a_mount_may_have_limits_of_its_own() {
    let [backup, other] = ["/backup/2", "/var"].map(|mount| series(&DISK, &[("mount", mount)]));
    let mut host = overriding(
        "{ metric = 'disk_usage_percent', labels = { mount = '/backup(/.*)?' }, warn = 97, critical = 99, clear = 96 }",
    );
    host.samples(&backup, 60, &[96.9, 97.0, 99.0, 96.5, 96.0]);
    let expected = [
        is(Firing, "warn Disk usage of /backup/2 97.0% reaches threshold 97%"),
        is(Updated, "critical Disk usage of /backup/2 99.0% exceeds threshold 97% for 1 min"),
        is(Resolved, "critical Disk usage of /backup/2 back to 96.0% (threshold 97%)"),
    ];
    assert_eq!(host.told(), expected);
    host.samples(&other, 60, &[90.0]);
    assert_eq!(host.told().len(), 1, "the others keep theirs");
}

#[test]
fn what_an_override_does_not_say_follows_from_the_rule() {
    let disk = series(&DISK, &[("mount", "/")]);
    let mut host = overriding("{ metric = 'disk_usage_percent', warn = 50 }");
    host.samples(&disk, 60, &[50.0, 75.0, 46.0, 45.0]);
    assert_eq!(host.told().len(), 3, "critical half way to 100, clear 5 below");
    let mut host = overriding("{ metric = 'disk_usage_percent', critical = 80 }");
    host.samples(&disk, 60, &[79.0, 80.0]);
    assert_eq!(host.told(), [is(Firing, "critical Disk usage of / 80.0% reaches threshold 80%")]);
}

#[test]
fn a_metric_without_a_limit_can_be_given_one_on_either_side() {
    static FREE: Metric = Metric::gauge("memory_available_bytes", Unit::Bytes, "Memory for new programs.");
    let free = series(&FREE, &[]);
    let mut host = overriding("{ metric = 'memory_available_bytes', below = true, warn = 2e9, critical = 1e9, hold_secs = 0 }");
    host.samples(&free, 10, &[2.1e9, 1.9e9, 1e9, 2.1e9, 2.2e9]);
    let expected = [
        is(Firing, "warn memory_available_bytes 1.8 GiB is below threshold 1.9 GiB"),
        is(Updated, "critical memory_available_bytes 953.7 MiB is below threshold 1.9 GiB for 10 s"),
        is(Resolved, "critical memory_available_bytes back to 2.0 GiB (threshold 1.9 GiB)"),
    ];
    assert_eq!(host.told(), expected);
}

#[test]
fn a_limit_can_be_lifted_while_it_is_passed() {
    let (mut host, disk) = (Host::new(), series(&DISK, &[("mount", "/")]));
    host.samples(&disk, 60, &[92.0]);
    assert_eq!(host.told().len(), 1);
    host.engine.reconfigure(&configured("{ metric = 'disk_usage_percent', enabled = false }"));
    host.samples(&disk, 60, &[99.0]);
    let said = is(Resolved, "warn Disk usage of / has no limit any more (last 92.0%, threshold 90%)");
    assert_eq!(host.told(), [said]);
    host.engine.reconfigure(&Config::default());
    host.samples(&disk, 60, &[91.0]);
    assert_eq!(host.told(), [is(Firing, "warn Disk usage of / 91.0% exceeds threshold 90%")], "it is watched again");
}

#[test]
fn a_clock_set_back_neither_blocks_nor_doubles() {
    let (mut host, cpu) = (Host::new(), series(&CPU, &[("core", "all")]));
    host.now = 7200;
    host.samples(&cpu, 10, &[92.0; 4]);
    host.now = 0;
    host.samples(&cpu, 10, &[92.0; 7]);
    assert_eq!(host.told(), [is(Firing, "warn CPU usage 92.0% exceeds threshold 90% for 1 min")]);
    host.now = -7200;
    host.samples(&cpu, 10, &[10.0; 7]);
    assert_eq!(host.told().len(), 1);
}
