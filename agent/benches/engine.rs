//! Measures the engine: samples a second and core, through store, analyzers and incidents, with 500 series.
//!
//! The series are those that the collectors see on this host, some of them more than once; their values are as noisy as a host's.
//! `cargo xtask bench engine` runs it. Besides, what the anomaly score of a single series costs.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use sysops_agent::collectors::{Batch, COLLECTORS};
use sysops_agent::config::Config;
use sysops_agent::engine::Engine;
use sysops_agent::engine::score::Scorer;
use sysops_agent::host::Host;
use sysops_agent::model::{Kind, Observation, Sample, Samples, SeriesKey, Timestamp};

const SERIES: usize = 500;
/// A day at ten seconds.
const ROUNDS: i64 = 8640;
const INTERVAL: i64 = 10;
const START: i64 = 1_767_571_200;

/// One series, and where its value is.
struct Walk {
    series: SeriesKey,
    base: f64,
    value: f64,
}

fn main() {
    let mut walks = series();
    let mut engine = Engine::new(&Config::default(), "bench");
    let mut random = 7_u64;
    let (mut alerts, mut told) = (Vec::new(), 0);
    let mut took = Duration::ZERO;
    for round in 0..ROUNDS {
        let at = Timestamp::from_secs(START + round * INTERVAL);
        let values = walks.iter_mut().map(|walk| walk.next(&mut random)).collect();
        let begun = processor_time();
        engine.observe(at, Observation::Samples(Samples { collector: "bench", values }), &mut alerts);
        for second in 0..INTERVAL {
            engine.observe(Timestamp::from_secs(START + round * INTERVAL + second), Observation::Tick, &mut alerts);
        }
        took += processor_time() - begun;
        told += alerts.len();
        alerts.clear();
    }
    let samples = engine.stats().samples;
    let row = |name: &str, value: String| println!("{name:<44}{value:>14}");
    row("series", format!("{}", engine.stats().series));
    row("samples, with a tick a second between them", format!("{samples}"));
    row("alerts", format!("{told}"));
    row("a sample through the engine", format!("{:.0} ns", took.as_nanos() as f64 / samples as f64));
    row("samples a second and core", format!("{:.0}", samples as f64 / took.as_secs_f64()));

    let mut scorer = Scorer::new();
    let rows = 200_000;
    let begun = processor_time();
    let highest = (0..rows)
        .map(|row| scorer.score(Timestamp::from_secs(START + row * INTERVAL), 50.0 + uniform(&mut random)))
        .fold(0.0, f64::max);
    let took = processor_time() - begun;
    row("an anomaly score", format!("{:.0} ns", took.as_nanos() as f64 / rows as f64));
    assert!(highest < 0.9, "noise alone was scored {highest}");
}

/// 500 series with what this host says of them now.
fn series() -> Vec<Walk> {
    let config = Config::default();
    let host = Host::new(config.host.clone());
    let mut collectors: Vec<_> = COLLECTORS.iter().map(|row| (row.build)(&config, &host)).collect();
    let mut samples = Vec::new();
    // What is computed from two readings is missing in the first.
    for _ in 0..2 {
        samples.clear();
        for collector in &mut collectors {
            let mut batch = Batch::new(Instant::now());
            // A file that this host lacks costs its own samples, as in the agent.
            let _ = collector.collect(&mut batch);
            samples.extend(batch.samples);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    assert!(!samples.is_empty(), "the collectors found nothing");
    let walk = |(number, sample): (usize, &Sample)| {
        let copy = number / samples.len();
        let labels = sample.series.labels().clone();
        let labels = if copy == 0 { labels } else { labels.with("copy", copy.to_string()) };
        Walk { series: SeriesKey::new(sample.series.metric(), labels), base: sample.value, value: sample.value }
    };
    samples.iter().cycle().take(SERIES).enumerate().map(walk).collect()
}

impl Walk {
    fn next(&mut self, random: &mut u64) -> Sample {
        let noise = uniform(random);
        self.value = match self.series.metric().kind {
            Kind::Counter => self.value + (100.0 * noise).round(),
            _ if self.base.fract() == 0.0 => self.base,
            _ => self.base * (0.9 + 0.2 * noise),
        };
        Sample { series: self.series.clone(), value: self.value }
    }
}

/// From 0 to 1.
fn uniform(random: &mut u64) -> f64 {
    *random ^= *random >> 12;
    *random ^= *random << 25;
    *random ^= *random >> 27;
    (random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 12) as f64 / (1_u64 << 52) as f64
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
