//! The series of the corpus: what each looks like, and who should say something about it.
//!
//! Shapes are composed from few parts: a level, noise, rhythms, teeth, ramps, steps. Times are seconds after the first sample.
//! `optional` marks times in which a finding is as good as none: nobody can tell yet whether what begins there will go on.

use std::f64::consts::TAU;

/// xorshift64*: the same numbers on each run and machine.
pub struct Random(u64);

impl Random {
    /// Numbers that depend on a name.
    pub fn seeded(name: &str) -> Self {
        // 64-bit FNV-1a.
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self(hash | 1)
    }

    /// From 0 to 1, without 1.
    pub fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f64 / f64::from(1_u32 << 24)
    }

    /// Mean 0, standard deviation 1, nearly normal: the sum of twelve uniform numbers.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// Who should say something, and when.
pub struct Expected {
    /// Names of analyzers.
    pub analyzers: &'static [&'static str],
    /// Begin and end.
    pub from: u32,
    pub to: u32,
    /// Whether silence is right as well.
    pub optional: bool,
}

/// The value at a time; `None` where no sample is taken.
type Value = Box<dyn FnMut(&mut Random, f64) -> Option<f64>>;

/// One series.
pub struct Series {
    /// The stem of its file.
    pub name: &'static str,
    /// Flat, noise, rhythm, burst, step, ramp, leak, teeth, rotation, outage, reset, spike, shift, variance.
    pub kind: &'static str,
    /// What it is a series of.
    pub metric: &'static str,
    /// Its labels.
    pub labels: &'static [(&'static str, &'static str)],
    /// Seconds between two samples, and number of them.
    pub interval: u32,
    pub count: u32,
    /// Digits behind the point in the file.
    pub decimals: usize,
    /// Times at which the process was started again.
    pub restarts: Vec<u32>,
    pub expect: Vec<Expected>,
    pub value: Value,
}

impl Series {
    fn expect(mut self, analyzers: &'static [&'static str], from: u32, to: u32) -> Self {
        self.expect.push(Expected { analyzers, from, to, optional: false });
        self
    }

    fn allow(mut self, analyzers: &'static [&'static str], from: u32, to: u32) -> Self {
        self.expect.push(Expected { analyzers, from, to, optional: true });
        self
    }

    fn restarted(mut self, restarts: &[u32]) -> Self {
        self.restarts = restarts.to_vec();
        self
    }
}

const HOUR: u32 = 3600;
const DAY: u32 = 24 * HOUR;
const H: f64 = 3600.0;
const GIB: f64 = 1_073_741_824.0;
const MIB: f64 = 1_048_576.0;

const OUTLIERS: &[&str] = &["zscore", "ema"];
const TREND: &[&str] = &["trend"];
const LEAK: &[&str] = &["leak"];

type Shape = (&'static str, &'static str);

fn series(
    (name, kind): Shape,
    metric: &'static str,
    labels: &'static [(&'static str, &'static str)],
    (interval, length): (u32, u32),
    decimals: usize,
    value: impl FnMut(&mut Random, f64) -> Option<f64> + 'static,
) -> Series {
    let count = length / interval;
    let (restarts, expect, value) = (Vec::new(), Vec::new(), Box::new(value));
    Series { name, kind, metric, labels, interval, count, decimals, restarts, expect, value }
}

/// Free space of a disk of 500 GiB every five minutes, in GiB.
fn disk(shape: Shape, length: u32, mut left: impl FnMut(&mut Random, f64) -> Option<f64> + 'static) -> Series {
    let labels = &[("device", "/dev/vda1"), ("fstype", "ext4"), ("mount", "/var")];
    // Whole blocks of the file system.
    let blocks = move |random: &mut Random, secs: f64| Some((left(random, secs)?.max(0.0) * GIB / 4096.0).round() * 4096.0);
    series(shape, "disk_available_bytes", labels, (300, length), 0, blocks)
}

/// Available memory of a host with 32 GiB every minute, in GiB.
fn memory(shape: Shape, length: u32, mut left: impl FnMut(&mut Random, f64) -> Option<f64> + 'static) -> Series {
    let pages = move |random: &mut Random, secs: f64| Some((left(random, secs)?.max(0.0) * GIB / 4096.0).round() * 4096.0);
    series(shape, "memory_available_bytes", &[], (60, length), 0, pages)
}

/// A value every minute for some days.
fn days(
    shape: Shape,
    metric: &'static str,
    labels: &'static [(&'static str, &'static str)],
    length: u32,
    decimals: usize,
    value: impl FnMut(&mut Random, f64) -> Option<f64> + 'static,
) -> Series {
    series(shape, metric, labels, (60, length), decimals, value)
}

/// CPU usage of a host that people work with: most of it after noon.
fn work_day(secs: f64) -> f64 {
    22.0 - 10.0 * (TAU * (secs / (24.0 * H) - 0.08)).cos()
}

/// Descriptors of a process every minute.
fn fds(shape: Shape, length: u32, mut open: impl FnMut(&mut Random, f64) -> Option<f64> + 'static) -> Series {
    let whole = move |random: &mut Random, secs: f64| Some(open(random, secs)?.max(0.0).round());
    series(shape, "process_open_fds", &[("comm", "server"), ("pid", "4711")], (60, length), 0, whole)
}

/// Resident memory of a process every minute, in MiB.
fn rss(shape: Shape, length: u32, mut resident: impl FnMut(&mut Random, f64) -> Option<f64> + 'static) -> Series {
    let pages = move |random: &mut Random, secs: f64| Some((resident(random, secs)?.max(0.0) * MIB / 4096.0).round() * 4096.0);
    series(shape, "process_rss_bytes", &[("comm", "server"), ("pid", "4711")], (60, length), 0, pages)
}

/// A value every ten seconds.
fn quick(
    shape: Shape,
    metric: &'static str,
    labels: &'static [(&'static str, &'static str)],
    length: u32,
    decimals: usize,
    value: impl FnMut(&mut Random, f64) -> Option<f64> + 'static,
) -> Series {
    series(shape, metric, labels, (10, length), decimals, value)
}

/// From 0 to 1 and back to 0 at once, once a period.
fn tooth(secs: f64, period: f64) -> f64 {
    secs.rem_euclid(period) / period
}

/// From 0 at the start to 1, with a time constant.
fn levels_off(secs: f64, constant: f64) -> f64 {
    1.0 - (-secs.max(0.0) / constant).exp()
}

/// 1 within a time of each period, else 0.
fn within(secs: f64, period: f64, from: f64, to: f64) -> f64 {
    f64::from(u8::from((from..to).contains(&secs.rem_euclid(period))))
}

/// Part of a ramp from 0 to 1 that is done.
fn ramp(secs: f64, from: f64, to: f64) -> f64 {
    ((secs - from) / (to - from)).clamp(0.0, 1.0)
}

fn outside(secs: f64, from: f64, to: f64) -> Option<()> {
    (!(from..to).contains(&secs)).then_some(())
}

/// All of them.
pub fn all() -> Vec<Series> {
    [disks(), memories(), descriptors(), residents(), outliers()].into_iter().flatten().collect()
}

fn disks() -> Vec<Series> {
    let inodes = &[("device", "/dev/vda1"), ("fstype", "ext4"), ("mount", "/var")];
    vec![
        disk(("disk_flat", "flat"), 3 * DAY, |_, _| Some(210.0)),
        disk(("disk_noise", "noise"), 3 * DAY, |r, _| Some(210.0 + 4.0 * r.normal())),
        disk(("disk_almost_full_noise", "noise"), 3 * DAY, |r, _| Some(6.0 + 0.8 * r.normal())),
        disk(("disk_daily_rhythm", "rhythm"), 4 * DAY, |r, t| {
            Some(120.0 + 60.0 * (TAU * t / (24.0 * H)).sin() + 0.5 * r.normal())
        }),
        disk(("disk_hourly_bursts", "burst"), 3 * DAY, |r, t| Some(60.0 - 30.0 * within(t, H, 900.0, 1500.0) + 0.2 * r.normal())),
        disk(("disk_nightly_backup", "burst"), 4 * DAY, |r, t| {
            let (day, into) = (24.0 * H, (t + 4.0 * H).rem_euclid(24.0 * H));
            let written = if into > day - 2.0 * H { (into - day + 2.0 * H) / (2.0 * H) } else { 0.0 };
            Some(150.0 - 70.0 * written + 0.1 * r.normal())
        }),
        disk(("disk_daily_rotation", "rotation"), 5 * DAY, |r, t| {
            Some(150.0 - 60.0 * tooth(t + 3.0 * H, 24.0 * H) + 0.1 * r.normal())
        }),
        disk(("disk_hourly_rotation", "rotation"), 2 * DAY, |r, t| Some(40.0 - 25.0 * tooth(t, H) + 0.1 * r.normal())),
        disk(("disk_eight_hour_rotation", "rotation"), 4 * DAY, |r, t| {
            Some(90.0 - 40.0 * tooth(t + H, 8.0 * H) + 0.1 * r.normal())
        }),
        disk(("disk_big_copy", "step"), 2 * DAY, |r, t| Some(200.0 - 80.0 * ramp(t, 20.0 * H, 21.0 * H) + 0.1 * r.normal())),
        disk(("disk_deployment", "step"), 2 * DAY, |r, t| Some(80.0 - 12.0 * ramp(t, 20.0 * H, 20.1 * H) + 0.1 * r.normal())),
        disk(("disk_cleanup", "step"), 2 * DAY, |r, t| Some(40.0 + 100.0 * ramp(t, 20.0 * H, 20.2 * H) + 0.1 * r.normal())),
        disk(("disk_slow_growth", "ramp"), 4 * DAY, |r, t| Some(300.0 - 4.0 * t / (24.0 * H) + 0.1 * r.normal())),
        disk(("disk_ramp_day", "ramp"), 34 * HOUR, |r, t| Some(240.0 - 240.0 * ramp(t, 6.0 * H, 32.0 * H) + 0.1 * r.normal()))
            .expect(TREND, 6 * HOUR, 34 * HOUR),
        disk(("disk_ramp_hours", "ramp"), 20 * HOUR, |r, t| Some(120.0 - 120.0 * ramp(t, 10.0 * H, 18.0 * H) + 0.1 * r.normal()))
            .expect(TREND, 10 * HOUR, 20 * HOUR),
        disk(("disk_ramp_days", "ramp"), 5 * DAY, |r, t| Some(300.0 - 300.0 * ramp(t, 0.0, 120.0 * H) + 0.3 * r.normal()))
            .expect(TREND, 0, 5 * DAY),
        disk(("disk_ramp_noise", "ramp"), 40 * HOUR, |r, t| {
            let bursts = 4.0 * within(t, H, 300.0, 900.0);
            Some(200.0 - 200.0 * ramp(t, 4.0 * H, 38.0 * H) - bursts + r.normal())
        })
        .expect(TREND, 4 * HOUR, 40 * HOUR),
        disk(("disk_ramp_rotation", "rotation"), 40 * HOUR, |r, t| {
            Some(200.0 - 195.0 * ramp(t, 4.0 * H, 38.0 * H) - 4.0 * tooth(t, H) + 0.1 * r.normal())
        })
        .expect(TREND, 4 * HOUR, 40 * HOUR),
        disk(("disk_ramp_stopped", "ramp"), 30 * HOUR, |r, t| {
            let left = 160.0 - 160.0 * ramp(t, 2.0 * H, 22.0 * H);
            Some(if t < 18.0 * H { left } else { 140.0 } + 0.1 * r.normal())
        })
        .expect(TREND, 2 * HOUR, 18 * HOUR),
        disk(("disk_ramp_outage", "outage"), 34 * HOUR, |r, t| {
            outside(t, 14.0 * H, 15.5 * H)?;
            Some(240.0 - 240.0 * ramp(t, 0.0, 32.0 * H) + 0.1 * r.normal())
        })
        .expect(TREND, 0, 34 * HOUR),
        disk(("disk_ramp_steps", "ramp"), 26 * HOUR, |r, t| {
            // A job each half hour writes a file.
            let done = (ramp(t, 2.0 * H, 26.0 * H) * 48.0).floor() / 48.0;
            Some(180.0 - 180.0 * done + 0.1 * r.normal())
        })
        .expect(TREND, 2 * HOUR, 26 * HOUR),
        series(("inodes_noise", "noise"), "disk_inode_usage_percent", inodes, (300, 2 * DAY), 3, |r, _| {
            Some(71.0 + 0.4 * r.normal())
        }),
        series(("inodes_ramp", "ramp"), "disk_inode_usage_percent", inodes, (300, 30 * HOUR), 3, |r, t| {
            Some(40.0 + 60.0 * ramp(t, 4.0 * H, 28.0 * H) + 0.05 * r.normal())
        })
        .expect(TREND, 4 * HOUR, 30 * HOUR),
    ]
}

fn memories() -> Vec<Series> {
    vec![
        memory(("memory_noise", "noise"), 18 * HOUR, |r, _| Some(9.0 + 0.4 * r.normal())),
        memory(("memory_daily_rhythm", "rhythm"), 26 * HOUR, |r, t| {
            Some(14.0 + 6.0 * (TAU * t / (24.0 * H)).cos() + 0.1 * r.normal())
        }),
        memory(("memory_deployment", "step"), 12 * HOUR, |r, t| Some(16.0 - 5.0 * ramp(t, 6.0 * H, 6.05 * H) + 0.1 * r.normal())),
        memory(("memory_cache_warm_up", "ramp"), 12 * HOUR, |r, t| {
            Some(20.0 - 12.0 * levels_off(t - 2.0 * H, 1.5 * H) + 0.05 * r.normal())
        }),
        memory(("memory_teeth", "teeth"), 12 * HOUR, |r, t| Some(12.0 - 6.0 * tooth(t, 40.0 * 60.0) + 0.1 * r.normal())),
        memory(("memory_hourly_jobs", "burst"), 18 * HOUR, |r, t| Some(10.0 - 7.0 * within(t, H, 0.0, 600.0) + 0.2 * r.normal())),
        memory(("memory_leak", "leak"), 14 * HOUR, |r, t| Some(20.0 - 20.0 * ramp(t, 4.0 * H, 13.0 * H) + 0.05 * r.normal()))
            .expect(TREND, 4 * HOUR, 14 * HOUR),
        memory(("memory_leak_quick", "leak"), 10 * HOUR, |r, t| {
            Some(12.0 - 12.0 * ramp(t, 6.0 * H, 9.0 * H) + 0.05 * r.normal())
        })
        .expect(TREND, 6 * HOUR, 10 * HOUR),
        memory(("memory_leak_noise", "leak"), 14 * HOUR, |r, t| {
            Some(22.0 - 20.0 * ramp(t, 2.0 * H, 12.0 * H) - 1.5 * tooth(t, 1200.0) + 0.2 * r.normal())
        })
        .expect(TREND, 2 * HOUR, 14 * HOUR),
        series(("system_fds_ramp", "ramp"), "fd_usage_percent", &[], (60, 12 * HOUR), 2, |r, t| {
            Some(12.0 + 88.0 * ramp(t, 3.0 * H, 11.0 * H) + 0.1 * r.normal())
        })
        .expect(TREND, 3 * HOUR, 12 * HOUR),
        series(("system_fds_noise", "noise"), "fd_usage_percent", &[], (60, 12 * HOUR), 2, |r, _| Some(30.0 + 1.5 * r.normal())),
    ]
}

fn descriptors() -> Vec<Series> {
    vec![
        fds(("fds_noise", "noise"), 12 * HOUR, |r, _| Some(300.0 + 20.0 * r.normal())),
        fds(("fds_pool", "ramp"), 12 * HOUR, |r, t| Some(40.0 + 160.0 * ramp(t, H, 1.7 * H) + 2.0 * r.normal())),
        fds(("fds_pool_levels_off", "ramp"), 12 * HOUR, |r, t| {
            Some(60.0 + 400.0 * levels_off(t - H, 0.8 * H) + 3.0 * r.normal())
        }),
        fds(("fds_teeth", "teeth"), 10 * HOUR, |r, t| Some(80.0 + 150.0 * tooth(t, 1200.0) + 3.0 * r.normal())),
        fds(("fds_deployment", "step"), 8 * HOUR, |r, t| Some(90.0 + 120.0 * ramp(t, 3.0 * H, 3.02 * H) + 3.0 * r.normal())),
        fds(("fds_leak_slow", "leak"), 10 * HOUR, |r, t| {
            Some(64.0 + 60.0 * ramp(t, 2.0 * H, 3.0 * H).max((t - 2.0 * H) / H).max(0.0) + r.normal())
        })
        .expect(LEAK, 2 * HOUR, 10 * HOUR),
        fds(("fds_leak_bursts", "leak"), 8 * HOUR, |r, t| {
            let clients = 150.0 * within(t, 420.0, 0.0, 120.0) + 5.0 * r.normal();
            Some(120.0 + 400.0 * ((t - H) / H).max(0.0) + clients)
        })
        .expect(LEAK, HOUR, 8 * HOUR),
        fds(("fds_leak_restarts", "leak"), 9 * HOUR, |r, t| Some(50.0 + 300.0 * tooth(t, 3.0 * H) * 3.0 + 2.0 * r.normal()))
            .restarted(&[3 * HOUR, 6 * HOUR])
            .expect(LEAK, 0, 3 * HOUR)
            .expect(LEAK, 3 * HOUR, 6 * HOUR)
            .expect(LEAK, 6 * HOUR, 9 * HOUR),
        fds(("fds_short_lives", "leak"), 8 * HOUR, |r, t| Some(50.0 + 300.0 * tooth(t, 2400.0) + 2.0 * r.normal()))
            .restarted(&[2400, 4800, 7200, 9600, 12_000, 14_400, 16_800, 19_200, 21_600, 24_000, 26_400]),
        fds(("fds_leak_outage", "outage"), 8 * HOUR, |r, t| {
            outside(t, 3.0 * H, 3.5 * H)?;
            Some(64.0 + 120.0 * ((t - H) / H).max(0.0) + r.normal())
        })
        .expect(LEAK, HOUR, 8 * HOUR),
        fds(("fds_leak_stopped", "leak"), 9 * HOUR, |r, t| Some(64.0 + 600.0 * ramp(t, H, 4.0 * H) + r.normal())).expect(
            LEAK,
            HOUR,
            4 * HOUR,
        ),
    ]
}

fn residents() -> Vec<Series> {
    vec![
        rss(("rss_noise", "noise"), 12 * HOUR, |r, _| Some(900.0 + 25.0 * r.normal())),
        rss(("rss_cache_warm_up", "ramp"), 14 * HOUR, |r, t| Some(300.0 + 2500.0 * levels_off(t, 1.0 * H) + 5.0 * r.normal())),
        rss(("rss_heap_teeth", "teeth"), 12 * HOUR, |r, t| Some(400.0 + 600.0 * tooth(t, 900.0) + 10.0 * r.normal())),
        rss(("rss_heap_long_teeth", "teeth"), 12 * HOUR, |r, t| Some(400.0 + 600.0 * tooth(t, 2700.0) + 10.0 * r.normal())),
        rss(("rss_compaction", "teeth"), 16 * HOUR, |r, t| Some(400.0 + 900.0 * tooth(t, 3.0 * H) + 5.0 * r.normal()))
            // The first tooth looks like any other leak.
            .allow(LEAK, 0, 3 * HOUR),
        rss(("rss_batch", "burst"), 12 * HOUR, |r, t| {
            let work = if within(t, H, 0.0, 1800.0) > 0.0 { tooth(t, 1800.0) } else { 0.0 };
            Some(200.0 + 1200.0 * work + 5.0 * r.normal())
        }),
        rss(("rss_reload", "step"), 10 * HOUR, |r, t| Some(500.0 + 300.0 * ramp(t, 4.0 * H, 4.02 * H) + 5.0 * r.normal())),
        rss(("rss_leak", "leak"), 8 * HOUR, |r, t| Some(400.0 + 120.0 * ((t - H) / H).max(0.0) + 3.0 * r.normal())).expect(
            LEAK,
            HOUR,
            8 * HOUR,
        ),
        rss(("rss_leak_heap", "leak"), 10 * HOUR, |r, t| {
            Some(400.0 + 100.0 * t / H + 150.0 * tooth(t, 240.0) + 5.0 * r.normal())
        })
        .expect(LEAK, 0, 10 * HOUR),
        rss(("rss_leak_restart", "leak"), 8 * HOUR, |r, t| Some(300.0 + 800.0 * tooth(t, 4.0 * H) + 3.0 * r.normal()))
            .restarted(&[4 * HOUR])
            .expect(LEAK, 0, 4 * HOUR)
            .expect(LEAK, 4 * HOUR, 8 * HOUR),
    ]
}

fn outliers() -> Vec<Series> {
    const ALL: &[(&str, &str)] = &[("core", "all")];
    const SDA: &[(&str, &str)] = &[("device", "sda")];
    const ETH0: &[(&str, &str)] = &[("interface", "eth0")];
    const CPU: &str = "cpu_usage_percent";
    const AWAIT: &str = "disk_await_seconds";
    vec![
        quick(("cpu_noise", "noise"), CPU, ALL, 4 * HOUR, 2, |r, _| Some(22.0 + 3.0 * r.normal())),
        quick(("cpu_flat", "flat"), CPU, ALL, 3 * HOUR, 2, |_, _| Some(2.0)),
        quick(("cpu_spikes", "spike"), CPU, ALL, 4 * HOUR, 2, |r, t| {
            Some(20.0 + 2.0 * r.normal() + 65.0 * within(t, 5000.0, 4000.0, 4010.0))
        }),
        quick(("cpu_regular_bursts", "burst"), CPU, ALL, 5 * HOUR, 2, |r, t| {
            Some(15.0 + 2.0 * r.normal() + 45.0 * within(t, 600.0, 0.0, 60.0))
        }),
        quick(("cpu_level_shift", "shift"), CPU, ALL, 4 * HOUR, 2, |r, t| {
            Some(18.0 + 2.0 * r.normal() + 55.0 * within(t, 1e9, 2.5 * H, 3.0 * H))
        })
        .expect(OUTLIERS, 9000, 10_800),
        quick(("cpu_variance", "variance"), CPU, ALL, 4 * HOUR, 2, |r, t| {
            Some((30.0 + if t < 2.5 * H { 1.0 } else { 8.0 } * r.normal()).clamp(0.0, 100.0))
        })
        .allow(OUTLIERS, 9000, 4 * HOUR),
        quick(("cpu_slow_ramp", "ramp"), CPU, ALL, 4 * HOUR, 2, |r, t| {
            Some(15.0 + 35.0 * ramp(t, 0.0, 4.0 * H) + 2.0 * r.normal())
        }),
        quick(("cpu_outage", "outage"), CPU, ALL, 4 * HOUR, 2, |r, t| {
            outside(t, 2.0 * H, 2.5 * H)?;
            Some(22.0 + 3.0 * r.normal())
        }),
        quick(("await_noise", "noise"), AWAIT, SDA, 4 * HOUR, 6, |r, _| Some(0.002 * (0.5 * r.normal()).exp())),
        quick(("await_level_shift", "shift"), AWAIT, SDA, 4 * HOUR, 6, |r, t| {
            let slow = 1.0 + 40.0 * within(t, 1e9, 2.5 * H, 2.8 * H);
            Some(0.002 * slow * (0.3 * r.normal()).exp())
        })
        .expect(OUTLIERS, 9000, 10_080),
        quick(("pressure_stall", "shift"), "memory_usage_percent", &[], 4 * HOUR, 2, |r, t| {
            Some(40.0 + 0.3 * r.normal() + 25.0 * ramp(t, 2.5 * H, 2.51 * H))
        })
        .expect(OUTLIERS, 9000, 4 * HOUR),
        quick(("network_reset", "reset"), "network_receive_bytes_total", ETH0, 3 * HOUR, 0, {
            let mut total = 0.0;
            move |r, t| {
                total = if t.rem_euclid(5000.0) == 4000.0 { 0.0 } else { total + 1e6 + 1e4 * r.normal() };
                Some(total)
            }
        }),
        days(("cpu_days_rhythm", "rhythm"), CPU, ALL, 3 * DAY, 1, |r, t| Some(work_day(t) + 2.0 * r.normal())),
        days(("cpu_days_surge", "shift"), CPU, ALL, 3 * DAY, 1, |r, t| {
            Some(work_day(t) + 2.0 * r.normal() + 65.0 * within(t, 1e9, 62.0 * H, 63.5 * H))
        })
        .expect(OUTLIERS, 62 * HOUR, 64 * HOUR),
        days(("cpu_days_backup", "burst"), CPU, ALL, 5 * DAY, 1, |r, t| {
            Some(work_day(t) + 2.0 * r.normal() + 50.0 * within(t, 24.0 * H, 2.0 * H, 3.0 * H))
        })
        // Until the night is known.
        .allow(OUTLIERS, 2 * HOUR, 52 * HOUR),
        days(("memory_days_jump", "shift"), "memory_usage_percent", &[], 3 * DAY, 2, |r, t| {
            Some(42.0 + 0.5 * r.normal() + 40.0 * within(t, 1e9, 55.0 * H, 59.0 * H))
        })
        .expect(OUTLIERS, 55 * HOUR, 60 * HOUR),
        days(("await_days_slow", "shift"), AWAIT, SDA, 3 * DAY, 5, |r, t| {
            let slow = 1.0 + 300.0 * within(t, 1e9, 50.0 * H, 51.0 * H);
            Some(0.002 * slow * (0.3 * r.normal()).exp())
        })
        .expect(OUTLIERS, 50 * HOUR, 52 * HOUR),
    ]
}
