//! A week on a host on which nothing is wrong: nothing is foretold, and nothing leaks.

use sysops_agent::model::{Metric, Observation, Sample, Samples, SeriesKey, Unit};

use super::{Host, Random, series};

static SPACE: Metric = Metric::gauge("disk_available_bytes", Unit::Bytes, "Space left.");
static INODES: Metric = Metric::gauge("disk_inode_usage_percent", Unit::Percent, "Inodes in use.");
static MEMORY: Metric = Metric::gauge("memory_available_bytes", Unit::Bytes, "Memory left.");
static SYSTEM_FDS: Metric = Metric::gauge("fd_usage_percent", Unit::Percent, "Open file handles by limit.");
static FDS: Metric = Metric::gauge("process_open_fds", Unit::Count, "Open descriptors.");
static FD_USAGE: Metric = Metric::gauge("process_fd_usage_percent", Unit::Percent, "Open descriptors by limit.");
static RSS: Metric = Metric::gauge("process_rss_bytes", Unit::Bytes, "Resident memory.");
static START: Metric = Metric::gauge("process_start_time_seconds", Unit::Seconds, "Start after boot.");

const GIB: f64 = 1_073_741_824.0;
const MIB: f64 = 1_048_576.0;
const HOUR: f64 = 3600.0;
const DAY: f64 = 24.0 * HOUR;

/// The first version is replaced by the second in the afternoon of the third day.
const DEPLOYMENT: f64 = 2.0 * DAY + 15.0 * HOUR;

/// From 0 to 1 within a time, once a day.
fn daily(secs: f64, from: f64, to: f64) -> f64 {
    ((secs.rem_euclid(DAY) / HOUR - from) / (to - from)).clamp(0.0, 1.0)
}

/// How busy the host is: least in the night, most in the afternoon.
fn load(secs: f64) -> f64 {
    0.5 - 0.5 * (std::f64::consts::TAU * (secs / DAY - 0.125)).cos()
}

fn levels_off(secs: f64, constant: f64) -> f64 {
    1.0 - (-secs.max(0.0) / constant).exp()
}

/// Nearly normal, with this standard deviation.
fn noise(random: &mut Random, deviation: f64) -> f64 {
    ((0..12).map(|_| random.below(1000) as f64 / 1000.0).sum::<f64>() - 6.0) * deviation
}

/// Every ten seconds.
fn memory(secs: f64, random: &mut Random) -> f64 {
    let cron = if secs.rem_euclid(HOUR) < 300.0 { 3.0 } else { 0.0 };
    let version = if secs >= DEPLOYMENT { 2.5 } else { 0.0 };
    let backup = if (2.0..3.5).contains(&(secs.rem_euclid(DAY) / HOUR)) { 1.5 } else { 0.0 };
    20.0 - 4.0 * load(secs) - cron - version - backup - 3.0 * levels_off(secs - DEPLOYMENT, 1.5 * HOUR) + noise(random, 0.15)
}

/// Space of a disk with logs that are rotated at midnight, and with a backup that is written each night and fetched in the morning.
fn logs(secs: f64, random: &mut Random) -> f64 {
    let written = 50.0 * secs.rem_euclid(DAY) / DAY;
    let backup = if daily(secs, 6.0, 6.1) >= 1.0 { 0.0 } else { 40.0 * daily(secs, 2.0, 3.5) };
    let temporary = if secs.rem_euclid(HOUR) < 600.0 { 5.0 } else { 0.0 };
    180.0 - written - backup - temporary + noise(random, 0.05)
}

/// Space of the root, which grows slowly and takes a new version at once.
fn root(secs: f64, random: &mut Random) -> f64 {
    let version = if secs >= DEPLOYMENT { 3.0 } else { 0.0 };
    18.0 - 0.3 * secs / DAY - version - 1.5 * (secs.rem_euclid(6.0 * HOUR) / (6.0 * HOUR)) + noise(random, 0.01)
}

/// What one process shows: start, descriptors, resident memory in MiB.
fn processes(secs: f64, random: &mut Random) -> Vec<(&'static str, f64, f64, f64)> {
    let since = if secs >= DEPLOYMENT { DEPLOYMENT } else { 0.0 };
    let life = secs - since;
    vec![
        // Connections follow the day, a cache warms up and levels off.
        (
            "web",
            since,
            120.0 + 300.0 * load(secs) + noise(random, 8.0),
            400.0 + 1800.0 * levels_off(life, HOUR) + noise(random, 5.0),
        ),
        // A collected heap, and a pool that fills within half an hour.
        (
            "java",
            since,
            90.0 + 200.0 * (life / 1800.0).min(1.0) + noise(random, 2.0),
            1500.0 + 900.0 * (secs.rem_euclid(1400.0) / 1400.0) + 400.0 * levels_off(life, 0.6 * HOUR) + noise(random, 8.0),
        ),
        // A database whose cache is full.
        ("postgres", 0.0, 60.0 + noise(random, 3.0), 8000.0 + 300.0 * load(secs) + noise(random, 20.0)),
        // A job that is started each hour.
        ("cron-job", (secs / HOUR).floor(), 10.0 + secs.rem_euclid(HOUR) / 40.0, 50.0 + secs.rem_euclid(HOUR) / 3.0),
    ]
}

#[test]
fn nothing_is_foretold_in_a_quiet_week() {
    let mut host = Host::new();
    let mut random = Random(2026);
    let of_mount = |metric, mount| series(metric, &[("device", "vda"), ("fstype", "ext4"), ("mount", mount)]);
    let fixed = [
        of_mount(&SPACE, "/var"),
        of_mount(&SPACE, "/"),
        of_mount(&INODES, "/var"),
        series(&MEMORY, &[]),
        series(&SYSTEM_FDS, &[]),
    ];
    let [var, slash, inodes, available, system] = &fixed;
    let mut told: Vec<SeriesKey> = Vec::new();
    for step in 0..7 * 8640_i64 {
        host.now = step * 10;
        let secs = host.now as f64;
        let mut values = vec![(available.clone(), memory(secs, &mut random) * GIB)];
        if step % 6 == 0 {
            values.push((var.clone(), logs(secs, &mut random) * GIB));
            values.push((slash.clone(), root(secs, &mut random) * GIB));
            values.push((inodes.clone(), 30.0 + 6.0 * secs.rem_euclid(DAY) / DAY + 0.5 * secs / DAY));
        }
        if step % 3 == 0 {
            values.push((system.clone(), 1.0 + 0.4 * load(secs) + noise(&mut random, 0.01)));
            for (comm, start, fds, rss) in processes(secs, &mut random) {
                let key = |metric| series(metric, &[("comm", comm), ("pid", &comm.len().to_string())]);
                let fds = fds.round();
                let of_process = [(&START, start), (&FDS, fds), (&FD_USAGE, fds / 1024.0 * 100.0), (&RSS, (rss * MIB).round())];
                values.extend(of_process.map(|(metric, value)| (key(metric), value)));
            }
        }
        told.extend(values.iter().map(|(series, _)| series.clone()).filter(|_| step == 0));
        let values = values.into_iter().map(|(series, value)| Sample { series, value }).collect();
        host.observe(Observation::Samples(Samples { collector: "test", values }));
        host.observe(Observation::Tick);
    }
    assert_eq!(told.len(), 5 + 16);
    assert!(host.alerts.is_empty(), "{:#?}", host.alerts);
    assert_eq!(host.engine.stats().samples_unusable, 0);
}
