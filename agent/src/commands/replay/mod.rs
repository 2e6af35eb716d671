//! `replay`: recorded observations, or one series of comma-separated values, through the engine in simulated time.
//!
//! Prints what the engine finds and tells, one JSON object a line, and on request how unusual each value is. The same input and
//! configuration give the same bytes on any machine: no clock is read, the host has a fixed name, nothing is sent.

mod columns;
mod names;
mod record;
mod time;
mod write;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::Replay;
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::score::Scorer;
use crate::model::{Kind, Labels, Observation, Sample, Samples, SeriesKey, Status, Timestamp};
use columns::Columns;
use names::Names;
use time::Ticks;
use write::Writer;

/// What the host is called where the configuration does not say: replays on two machines must not differ.
const HOSTNAME: &str = "replay";
/// Bytes of a line; a longer one is bad.
const LONGEST_LINE: u64 = 1 << 20;
/// Bad lines that are told of one by one.
const TOLD: u64 = 10;
/// The exit status where lines were left out.
const LEFT_OUT: u8 = 3;

/// Replays.
///
/// # Errors
/// The configuration is bad, or the input cannot be read.
pub fn run(options: &Replay) -> anyhow::Result<ExitCode> {
    let config = options.config.as_deref().map_or_else(|| Ok(Config::default()), super::config)?;
    let input: Box<dyn BufRead> = if options.file == Path::new("-") {
        Box::new(BufReader::new(io::stdin()))
    } else {
        let open = || {
            let file = File::open(&options.file)?;
            if file.metadata()?.is_dir() { Err(io::Error::from(io::ErrorKind::IsADirectory)) } else { Ok(file) }
        };
        let file = open().with_context(|| {
            format!("cannot open {} to replay it; name a recording, a CSV file, or - for standard input", options.file.display())
        })?;
        Box::new(BufReader::with_capacity(1 << 16, file))
    };
    let hostname = config.agent.hostname.as_deref().unwrap_or(HOSTNAME);
    let mut replay = Replaying {
        engine: Engine::new(&config, hostname),
        ticks: Ticks::default(),
        recovery_enabled: config.alerting.recovery_enabled,
        writer: Writer::new(io::BufWriter::with_capacity(1 << 16, io::stdout().lock()), hostname),
        names: Names::new(),
        scores: options.scores.then(HashMap::new),
        buffers: Buffers::default(),
    };
    match replay.all(input, options) {
        Ok(0) => Ok(ExitCode::SUCCESS),
        Ok(bad) => {
            super::complain(&format_args!("sysops-agent: {bad} bad lines were left out"));
            Ok(ExitCode::from(LEFT_OUT))
        }
        // Whoever reads, as `head` does, has read enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(Failure::Output(error)) => Err(error).context("cannot write to standard output"),
        Err(Failure::Input(error)) => Err(error).with_context(|| format!("cannot read {}", options.file.display())),
    }
}

/// Why a replay ends early.
enum Failure {
    Input(io::Error),
    Output(io::Error),
}

/// What the engine said and is not written yet.
#[derive(Default)]
struct Buffers {
    findings: Vec<crate::engine::analyzers::Finding>,
    alerts: Vec<crate::model::Alert>,
}

struct Replaying<W: Write> {
    engine: Engine,
    ticks: Ticks,
    writer: Writer<W>,
    /// Whether ends are told.
    recovery_enabled: bool,
    names: Names,
    /// By series; `None` where nobody asked.
    scores: Option<HashMap<SeriesKey, Scored>>,
    buffers: Buffers,
}

/// The score of one series, and of a counter its last value.
#[derive(Default)]
struct Scored {
    scorer: Scorer,
    last: Option<(Timestamp, f64)>,
}

/// What the lines are.
enum Form {
    /// Not known before the first line that is not empty.
    Unknown,
    Recording,
    /// Comma-separated values of one series.
    Values(Columns, SeriesKey),
}

impl<W: Write> Replaying<W> {
    /// Takes all lines; how many were bad.
    fn all(&mut self, mut input: Box<dyn BufRead>, options: &Replay) -> Result<u64, Failure> {
        let (mut line, mut number, mut bad) = (Vec::new(), 0_u64, 0_u64);
        let mut form = Form::Unknown;
        loop {
            let whole = next_line(input.as_mut(), &mut line).map_err(Failure::Input)?;
            let Some(whole) = whole else { break };
            number += 1;
            let text = String::from_utf8_lossy(&line);
            // A byte order mark stands before the first line of some files.
            let text = if number == 1 { text.trim_start_matches('\u{feff}') } else { &text };
            let text = text.trim();
            if text.is_empty() && whole {
                continue;
            }
            if matches!(form, Form::Unknown) && whole {
                form = if text.starts_with('{') {
                    Form::Recording
                } else {
                    let key = self.names.series(&options.metric, options.label.iter().cloned());
                    let header = Columns::of_header(text);
                    let columns = header.unwrap_or_default();
                    form = Form::Values(columns, key.map_err(|reason| Failure::Input(io::Error::other(reason)))?);
                    if header.is_some() {
                        continue;
                    }
                    form
                };
            }
            let taken = match &form {
                _ if !whole => Ok(Err(format!("it is longer than {LONGEST_LINE} bytes"))),
                Form::Recording | Form::Unknown => self.record(text),
                Form::Values(columns, key) => self.row(columns, key, text),
            };
            if let Err(reason) = taken.map_err(Failure::Output)? {
                bad += 1;
                if bad <= TOLD {
                    super::complain(&format_args!("sysops-agent: line {number} is left out: {reason}"));
                }
            }
        }
        self.pass(Ticks::after_the_end).map_err(Failure::Output)?;
        self.writer.flush().map_err(Failure::Output)?;
        Ok(bad)
    }

    /// One line of a recording; the inner error is what is wrong with it.
    fn record(&mut self, line: &str) -> io::Result<Result<(), String>> {
        let (at, observation) = match record::parse(line, &mut self.names) {
            Ok(parsed) => parsed,
            Err(reason) => return Ok(Err(reason)),
        };
        let samples = match &observation {
            Observation::Samples(samples) if self.scores.is_some() => samples.values.clone(),
            _ => Vec::new(),
        };
        self.observe(at, observation)?;
        for sample in samples {
            let score = self.score(at, &sample.series, sample.value);
            self.writer.scored(&time::rfc3339(at), Some(&sample.series), sample.value, score)?;
        }
        Ok(Ok(()))
    }

    /// One row of values; each gives one line where scores are asked for, also a bad one.
    fn row(&mut self, columns: &Columns, key: &SeriesKey, line: &str) -> io::Result<Result<(), String>> {
        let row = columns.row(line);
        let (value, wrong) = match row.value {
            Ok(value) => (value, None),
            Err(reason) => (f64::NAN, Some(reason)),
        };
        let (score, wrong) = match time::parse(row.time) {
            None => (
                0.0,
                Some(format!("{:?} is no time: write RFC 3339, YYYY-MM-DD HH:MM:SS, or Unix seconds or milliseconds", row.time)),
            ),
            Some(at) if wrong.is_none() && value.is_finite() => {
                let values = vec![Sample { series: key.clone(), value }];
                self.observe(at, Observation::Samples(Samples { collector: HOSTNAME, values }))?;
                (self.score(at, key, value), None)
            }
            Some(_) => (0.0, wrong),
        };
        if self.scores.is_some() {
            self.writer.scored(row.time, None, value, score)?;
        }
        Ok(wrong.map_or(Ok(()), Err))
    }

    fn observe(&mut self, at: Timestamp, observation: Observation) -> io::Result<()> {
        self.pass(|ticks, engine| ticks.next(at, engine))?;
        self.ticks.seen(at, &observation);
        self.give(at, observation)
    }

    /// Lets time pass, in the ticks that are due.
    fn pass(&mut self, due: impl Fn(&mut Ticks, &Engine) -> Option<Timestamp>) -> io::Result<()> {
        while let Some(tick) = due(&mut self.ticks, &self.engine) {
            self.give(tick, Observation::Tick)?;
        }
        Ok(())
    }

    fn give(&mut self, at: Timestamp, observation: Observation) -> io::Result<()> {
        let Buffers { findings, alerts } = &mut self.buffers;
        self.engine.observe_with(at, observation, Some(findings), alerts);
        for finding in findings.drain(..) {
            self.writer.finding(at, &finding)?;
        }
        let recovery = self.recovery_enabled;
        for alert in alerts.drain(..).filter(|alert| recovery || alert.status != Status::Resolved) {
            self.writer.alert(&alert)?;
        }
        Ok(())
    }

    /// How unusual a value is, of a counter its rate.
    fn score(&mut self, at: Timestamp, series: &SeriesKey, value: f64) -> f64 {
        let Some(scores) = &mut self.scores else { return 0.0 };
        let scored = match scores.get_mut(series) {
            Some(scored) => scored,
            None => scores.entry(series.clone()).or_default(),
        };
        if series.metric().kind != Kind::Counter {
            return scored.scorer.score(at, value);
        }
        let Some((last, before)) = scored.last.replace((at, value)) else { return 0.0 };
        let gap = at.since(last).as_secs_f64();
        // A counter that was reset has no rate.
        if gap > 0.0 && value >= before { scored.scorer.score(at, (value - before) / gap) } else { 0.0 }
    }
}

/// Reads a line into `line`, without its terminator; whether it is whole, and `None` at the end. Of one that is too long the rest is
/// skipped.
fn next_line(mut input: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    line.clear();
    if (&mut input).take(LONGEST_LINE + 1).read_until(b'\n', line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') || (line.len() as u64) <= LONGEST_LINE {
        return Ok(Some(true));
    }
    line.truncate(80);
    loop {
        let buffer = input.fill_buf()?;
        let (skipped, ended) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        input.consume(skipped);
        if ended {
            return Ok(Some(false));
        }
    }
}

/// The labels in a map.
fn labels(all: impl IntoIterator<Item = (String, String)>) -> Labels {
    all.into_iter().fold(Labels::new(), |labels, (name, value)| labels.with(name, value))
}
