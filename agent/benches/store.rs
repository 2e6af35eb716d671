//! Measures the store on real series: bytes and processor time by sample, and the memory of a day.
//!
//! Records what the collectors see on this host, then replays it end to end until 500 series have 8,640 samples each.
//! `cargo xtask bench store` runs it; `--hour` records an hour at ten seconds in place of six minutes at one second.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use sysops_agent::collectors::{Batch, COLLECTORS};
use sysops_agent::config::Config;
use sysops_agent::engine::Engine;
use sysops_agent::host::{self, Host};
use sysops_agent::model::{Kind, Observation, Sample, Samples, SeriesKey, Timestamp};

/// Rounds of all collectors in a recording: an hour at ten seconds.
const ROUNDS: usize = 360;
const SERIES: usize = 500;
/// A day at ten seconds.
const DAY: usize = 8640;

/// The samples of one series, one a round.
struct Recorded {
    key: SeriesKey,
    values: Vec<f64>,
}

/// What one collector gave: the time of each round, and the series that were there in all of them.
struct Recording {
    times: Vec<Timestamp>,
    series: Vec<Recorded>,
}

fn main() {
    let interval = Duration::from_secs(if std::env::args().any(|argument| argument == "--hour") { 10 } else { 1 });
    println!("recording {ROUNDS} rounds of all collectors at {} s", interval.as_secs());
    let recordings = record(interval);
    let all: Vec<&Recorded> = recordings.iter().flat_map(|recording| &recording.series).collect();
    let constant = all.iter().filter(|series| series.values.iter().all(|value| Some(value) == series.values.first())).count();
    let integers = all.iter().filter(|series| series.values.iter().all(|value| value.fract() == 0.0)).count();
    println!(
        "{} series were there all the time; {constant} of them never changed, {integers} hold integers\n\n{:<44}{:>12}",
        all.len(),
        "500 series of 8,640 samples",
        "",
    );
    drop(all);
    let copies = copies(&recordings);
    let before = resident();
    let mut engine = Engine::new(&Config::default(), "bench");
    let took = replay(&recordings, &copies, &mut engine);
    let grown = resident().saturating_sub(before);
    let stats = engine.stats();
    let row = |name: &str, value: String| println!("{name:<44}{value:>12}");
    row("samples kept", format!("{}", SERIES * DAY));
    row("blocks given up", format!("{}", stats.chunks_evicted));
    row("bytes by sample, times and all included", format!("{:.2}", stats.store_bytes as f64 / (SERIES * DAY) as f64));
    row("memory of the samples", format!("{:.2} MB", stats.store_bytes as f64 / 1e6));
    row("resident memory grew by", format!("{:.2} MB", grown as f64 / 1e6));
    row("a sample through the engine", format!("{:.0} ns", took.as_nanos() as f64 / stats.samples as f64));
    let store = engine.store();
    let begun = processor_time();
    let mut read = 0_usize;
    for (id, _) in store.series() {
        read += store
            .window(id, Timestamp::from_nanos(i64::MIN), Timestamp::from_nanos(i64::MAX))
            .map(black_box)
            .filter(|(_, value)| value.is_finite())
            .count();
    }
    row("a sample read", format!("{:.1} ns", (processor_time() - begun).as_nanos() as f64 / read as f64));
    assert_eq!(read, SERIES * DAY, "samples are missing");
}

fn record(interval: Duration) -> Vec<Recording> {
    let config = Config::default();
    let host = Host::new(config.host.clone());
    let mut collectors: Vec<_> = COLLECTORS.iter().map(|row| (row.build)(&config, &host)).collect();
    let mut times = vec![Vec::new(); collectors.len()];
    let mut series: Vec<HashMap<SeriesKey, Vec<f64>>> = vec![HashMap::new(); collectors.len()];
    let begun = Instant::now();
    // What is computed from two readings is missing in the first.
    for round in 0..=ROUNDS {
        for ((collector, times), series) in collectors.iter_mut().zip(&mut times).zip(&mut series) {
            let mut batch = Batch::new(Instant::now());
            // A file that this host lacks costs its own samples, as in the agent.
            let _ = collector.collect(&mut batch);
            if round > 0 {
                times.push(host::now());
                batch.samples.into_iter().for_each(|sample| series.entry(sample.series).or_default().push(sample.value));
            }
        }
        let next = begun + interval * u32::try_from(round + 1).unwrap_or(u32::MAX);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let complete = |series: HashMap<SeriesKey, Vec<f64>>| {
        let mut series: Vec<Recorded> =
            series.into_iter().map(|(key, values)| Recorded { key, values }).filter(|s| s.values.len() == ROUNDS).collect();
        series.sort_by_key(|series| series.key.to_string());
        series
    };
    times.into_iter().zip(series).map(|(times, series)| Recording { times, series: complete(series) }).collect()
}

/// Names for 500 series: by recording and series, one or more. All series get a first one, then all a second.
fn copies(recordings: &[Recording]) -> Vec<Vec<Vec<SeriesKey>>> {
    let mut copies: Vec<Vec<Vec<SeriesKey>>> =
        recordings.iter().map(|recording| vec![Vec::new(); recording.series.len()]).collect();
    let recorded: usize = copies.iter().map(Vec::len).sum();
    assert!(recorded > 0, "the collectors found nothing to record");
    for number in 0..SERIES {
        let (copy, mut index) = (number / recorded, number % recorded);
        for (recording, copies) in recordings.iter().zip(&mut copies) {
            if let (Some(recorded), Some(copies)) = (recording.series.get(index), copies.get_mut(index)) {
                let labels = recorded.key.labels().clone().with("copy", copy.to_string());
                copies.push(SeriesKey::new(recorded.key.metric(), labels));
                break;
            }
            index -= recording.series.len();
        }
    }
    copies
}

/// Gives the engine the recording again and again, for a day; the processor time that the engine took. Counters go on growing.
fn replay(recordings: &[Recording], copies: &[Vec<Vec<SeriesKey>>], engine: &mut Engine) -> Duration {
    let mut alerts = Vec::new();
    let mut took = Duration::ZERO;
    for round in 0..DAY {
        let (pass, step) = (round / ROUNDS, round % ROUNDS);
        for (recording, copies) in recordings.iter().zip(copies) {
            let (Some(first), Some(last), Some(time)) =
                (recording.times.first(), recording.times.last(), recording.times.get(step))
            else {
                continue;
            };
            let span = last.since(*first) / u32::try_from(ROUNDS - 1).unwrap_or(1) * u32::try_from(ROUNDS * pass).unwrap_or(0);
            let mut values = Vec::new();
            for (recorded, copies) in recording.series.iter().zip(copies) {
                let at = |index: usize| recorded.values.get(index).copied().unwrap_or_default();
                let grown = if recorded.key.metric().kind == Kind::Counter { at(ROUNDS - 1) - at(0) } else { 0.0 };
                let value = at(step) + grown * pass as f64;
                values.extend(copies.iter().map(|series| Sample { series: series.clone(), value }));
            }
            let begun = processor_time();
            engine.observe(time.plus(span), Observation::Samples(Samples { collector: "bench", values }), &mut alerts);
            took += processor_time() - begun;
            alerts.clear();
        }
    }
    took
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Resident memory of this process, in bytes (proc_pid_status(5)).
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok()).unwrap_or(0) * 1024
}
