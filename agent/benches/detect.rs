//! Measures what the analyzers find in the labelled series of `tests/corpus`: precision, recall and delay, at default settings.
//!
//! Each series goes through an engine of its own, as its only metric, and through each analyzer that a label names. A finding that
//! begins an incident within a labelled time, or up to ten minutes after it, is right; one outside is false; a labelled time
//! without a finding is a miss. `cargo xtask bench detect` runs it; the series are made by `cargo xtask corpus`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use sysops_agent::collectors::COLLECTORS;
use sysops_agent::config::Config;
use sysops_agent::engine::Engine;
use sysops_agent::engine::analyzers::{ANALYZERS, Analyzer, Finding, Phase, Row};
use sysops_agent::model::{Labels, Metric, Observation, Sample, Samples, SeriesKey, Timestamp};

/// How long after its end a labelled time may still be found.
const GRACE: i64 = 600;
/// Seconds between two ticks.
const TICK: i64 = 10;

/// A row of `labels.json`.
#[derive(Deserialize)]
struct Labelled {
    file: String,
    kind: String,
    metric: String,
    labels: BTreeMap<String, String>,
    restarts: Vec<i64>,
    expect: Vec<Expected>,
}

#[derive(Deserialize)]
struct Expected {
    analyzers: Vec<String>,
    from: i64,
    to: i64,
    optional: bool,
}

/// What an analyzer did.
#[derive(Default)]
struct Score {
    series: usize,
    found: usize,
    missed: Vec<String>,
    findings: usize,
    wrong: Vec<String>,
    delays: Vec<i64>,
}

fn main() -> Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let read = |name: &str| {
        std::fs::read_to_string(directory.join(name))
            .with_context(|| format!("cannot read {name} of the corpus: `cargo xtask corpus` writes it"))
    };
    let all: Vec<Labelled> = serde_json::from_str(&read("labels.json")?).context("labels.json is not what this reads")?;
    let is_labelled = |row: &&Row| {
        all.iter().flat_map(|series| &series.expect).any(|label| label.analyzers.iter().any(|name| name == row.name))
    };
    let mut scores: BTreeMap<&str, Score> = BTreeMap::new();
    for labelled in &all {
        let samples = parse(&read(&labelled.file)?).with_context(|| format!("{} is not what this reads", labelled.file))?;
        for row in ANALYZERS.iter().filter(is_labelled) {
            if let Some(begun) = replay(row, labelled, &samples)? {
                scores.entry(row.name).or_default().take(row.name, labelled, &begun);
            }
        }
    }
    println!(
        "{} labelled series\n\n{:<10}{:>8}{:>10}{:>8}{:>10}{:>10}{:>14}",
        all.len(),
        "analyzer",
        "series",
        "labelled",
        "found",
        "recall",
        "precision",
        "median delay"
    );
    for (name, score) in &mut scores {
        let labelled = score.found + score.missed.len();
        let right = score.findings - score.wrong.len();
        score.delays.sort_unstable();
        let delay = score.delays.get(score.delays.len() / 2).map_or("-".to_owned(), |secs| format!("{} min", secs / 60));
        println!(
            "{name:<10}{:>8}{labelled:>10}{:>8}{:>10}{:>10}{delay:>14}",
            score.series,
            score.found,
            part(score.found, labelled),
            part(right, score.findings)
        );
    }
    for (name, score) in &scores {
        score.missed.iter().for_each(|line| println!("\n{name} missed {line}"));
        score.wrong.iter().for_each(|line| println!("\n{name} was wrong about {line}"));
    }
    Ok(())
}

fn part(part: usize, whole: usize) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.0} %", part as f64 / whole as f64 * 100.0) }
}

fn parse(text: &str) -> Result<Vec<(i64, f64)>> {
    let line = |line: &str| -> Result<(i64, f64)> {
        let (time, value) = line.split_once(',').context("a line has no comma")?;
        Ok((time.parse()?, value.parse()?))
    };
    text.lines().skip(1).map(line).collect()
}

fn metric(name: &str) -> Result<&'static Metric> {
    let mut all = COLLECTORS.iter().flat_map(|row| row.metrics);
    all.find(|metric| metric.name == name).copied().with_context(|| format!("no collector has the metric {name}"))
}

/// The findings that begin incidents; `None` where the analyzer does not look at such a series.
fn replay(row: &Row, labelled: &Labelled, samples: &[(i64, f64)]) -> Result<Option<Vec<(i64, Finding)>>> {
    let config = Config::default();
    let labels = labelled.labels.iter().fold(Labels::new(), |labels, (name, value)| labels.with(name.clone(), value.clone()));
    let series = SeriesKey::new(metric(&labelled.metric)?, labels.clone());
    let start = SeriesKey::new(metric("process_start_time_seconds")?, labels);
    // The engine keeps the store; what its own analyzers say is not asked for.
    let mut engine = Engine::new(&config, "bench");
    let mut analyzer: Box<dyn Analyzer> = (row.build)(&config);
    let (mut watched, mut findings, mut begun, mut is_open) = (BTreeMap::new(), Vec::new(), Vec::new(), false);
    let mut now = samples.first().map_or(0, |(time, _)| *time);
    for (time, value) in samples {
        while now + TICK < *time {
            now += TICK;
            analyzer.tick(Timestamp::from_secs(now), engine.store(), &mut findings);
        }
        now = *time;
        let at = Timestamp::from_secs(now);
        let mut values = vec![Sample { series: series.clone(), value: *value }];
        if labelled.metric.starts_with("process_") {
            let number = labelled.restarts.iter().filter(|restart| **restart <= now).count();
            values.insert(0, Sample { series: start.clone(), value: number as f64 });
        }
        engine.observe(at, Observation::Samples(Samples { collector: "bench", values: values.clone() }), &mut Vec::new());
        for sample in values {
            let Some(id) = engine.store().id(&sample.series) else { continue };
            if *watched.entry(id).or_insert_with(|| analyzer.watch(id, &sample.series)) {
                analyzer.sample(at, id, sample.value, engine.store(), &mut findings);
            }
        }
        analyzer.tick(at, engine.store(), &mut findings);
        for finding in findings.drain(..) {
            match finding.phase {
                Phase::Holds | Phase::Occurred | Phase::Changed if !is_open => {
                    is_open = true;
                    begun.push((now, finding));
                }
                Phase::Cleared => is_open = false,
                _ => {}
            }
        }
    }
    Ok(watched.values().any(|wanted| *wanted).then_some(begun))
}

impl Score {
    fn take(&mut self, name: &str, labelled: &Labelled, begun: &[(i64, Finding)]) {
        self.series += 1;
        self.findings += begun.len();
        let mine: Vec<&Expected> =
            labelled.expect.iter().filter(|label| label.analyzers.iter().any(|other| other == name)).collect();
        let is_in = |label: &Expected, time: i64| (label.from..=label.to + GRACE).contains(&time);
        let what = format!("{} ({})", labelled.file, labelled.kind);
        for label in mine.iter().filter(|label| !label.optional) {
            match begun.iter().find(|(time, _)| is_in(label, *time)) {
                Some((time, _)) => {
                    self.found += 1;
                    self.delays.push(time - label.from);
                }
                None => self.missed.push(format!("{what}, {} labelled", span(label.to - label.from))),
            }
        }
        for (time, finding) in begun.iter().filter(|(time, _)| !mine.iter().any(|label| is_in(label, *time))) {
            self.wrong.push(format!("{what} at {time}: {}", finding.message));
        }
    }
}

fn span(secs: i64) -> String {
    format!("{:?}", Duration::from_secs(secs.unsigned_abs()))
}
