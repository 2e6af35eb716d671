//! Limits on polled values: a limit passed for a hold time begins an incident, a lower limit held for as long ends it.
//!
//! One row in [`RULES`] is one limit. The lower limit and the hold time keep a value that swings around the limit quiet; a value
//! that swings so widely that it begins and ends again and again must stay down for longer and longer until it counts as
//! over. Severity follows the value: Critical where it is past the critical limit for the hold time. A series that stops
//! arriving (its process ended, its mount is gone) ends its incident, in words that say so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;

use super::{Analyzer, Finding, Phase, Row, Silence};
use crate::config::{Config, Thresholds};
use crate::engine::store::{SeriesId, Store};
use crate::engine::text;
use crate::model::{Evidence, Labels, SeriesKey, Severity, Timestamp};

pub(super) const ROW: Row = Row {
    name: "threshold",
    summary: "a limit is passed for a hold time; a lower limit clears it",
    build: |config| Box::new(Threshold::new(config)),
};

/// Series silent for less than this are never called gone.
const LEAST_SILENCE: Duration = Duration::from_secs(120);
/// Intervals without a sample after which a series is called gone.
const MISSED_INTERVALS: u32 = 3;
/// How long a value that began again shortly after it was over must stay down; doubles with each time.
const FLAP_HOLD: Duration = Duration::from_secs(60);
/// Samples shown as evidence.
const SHOWN_SAMPLES: usize = 10;

/// How the critical and the clearing limit follow from the limit.
#[derive(Clone, Copy, Debug)]
enum Scale {
    /// Critical half way from the limit to 100, clear 5 points below the limit (but never below half of it).
    Percent,
    /// Critical at twice the limit, clear a tenth below it.
    Open,
}

/// One limit.
struct Rule {
    metric: &'static str,
    /// Labels that a series must have to be meant.
    only: &'static [(&'static str, &'static str)],
    /// What a human calls it.
    name: &'static str,
    /// Labels that name the subject to a human.
    subject: &'static [&'static str],
    limit: fn(&Thresholds) -> f64,
    scale: Scale,
    hold: Duration,
}

const RULES: &[Rule] = &[
    Rule {
        metric: "cpu_usage_percent",
        only: &[("core", "all")],
        name: "CPU usage",
        subject: &[],
        limit: |thresholds| thresholds.cpu_percent,
        scale: Scale::Percent,
        hold: Duration::from_secs(60),
    },
    Rule {
        metric: "memory_usage_percent",
        only: &[],
        name: "Memory usage",
        subject: &[],
        limit: |thresholds| thresholds.memory_percent,
        scale: Scale::Percent,
        hold: Duration::from_secs(30),
    },
    Rule {
        metric: "disk_usage_percent",
        only: &[],
        name: "Disk usage",
        subject: &["mount"],
        limit: |thresholds| thresholds.disk_percent,
        scale: Scale::Percent,
        hold: Duration::ZERO,
    },
    Rule {
        metric: "disk_inode_usage_percent",
        only: &[],
        name: "Inode usage",
        subject: &["mount"],
        limit: |thresholds| thresholds.disk_inode_percent,
        scale: Scale::Percent,
        hold: Duration::ZERO,
    },
    Rule {
        metric: "fd_usage_percent",
        only: &[],
        name: "File descriptor usage of the system",
        subject: &[],
        limit: |thresholds| thresholds.fd_percent,
        scale: Scale::Percent,
        hold: Duration::ZERO,
    },
    Rule {
        metric: "process_fd_usage_percent",
        only: &[],
        name: "File descriptor usage",
        subject: &["comm", "pid"],
        limit: |thresholds| thresholds.fd_percent,
        scale: Scale::Percent,
        hold: Duration::ZERO,
    },
    Rule {
        metric: "cpu_load_per_core",
        only: &[],
        name: "Load per core",
        subject: &[],
        limit: |thresholds| thresholds.load_avg_multiplier,
        scale: Scale::Open,
        hold: Duration::from_secs(300),
    },
    Rule {
        metric: "network_error_ratio",
        only: &[],
        name: "Packet error ratio",
        subject: &["interface"],
        limit: |thresholds| thresholds.network_error_rate,
        scale: Scale::Open,
        hold: Duration::from_secs(60),
    },
];

/// The limit on a metric, where there is one: what must be passed for the hold time.
pub fn limit(metric: &str, thresholds: &Thresholds) -> Option<f64> {
    RULES.iter().find(|rule| rule.metric == metric).map(|rule| (rule.limit)(thresholds))
}

/// The limits of one rule, computed once a configuration.
#[derive(Clone, Copy, Debug)]
struct Limits {
    warn: f64,
    critical: f64,
    clear: f64,
}

impl Limits {
    fn new(rule: &Rule, thresholds: &Thresholds) -> Self {
        let warn = (rule.limit)(thresholds);
        match rule.scale {
            Scale::Percent => Self { warn, critical: f64::midpoint(warn, 100.0), clear: (warn - 5.0).max(warn / 2.0) },
            Scale::Open => Self { warn, critical: warn * 2.0, clear: warn * 0.9 },
        }
    }
}

/// A run of samples that pass the limit.
#[derive(Clone, Copy, Debug)]
struct Run {
    since: Timestamp,
    /// Passing samples that no finding has told of yet.
    count: u64,
    critical_since: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Quiet,
    Pending(Run),
    Firing { run: Run, severity: Severity, below_since: Option<Timestamp> },
}

/// What is remembered of one series.
#[derive(Debug)]
struct Watch {
    rule: &'static Rule,
    limits: Limits,
    state: State,
    last: Option<(Timestamp, f64)>,
    /// The usual time between two samples.
    interval: Duration,
    /// How often it began again within the deduplication window of its last end, in a row.
    flaps: u32,
    cleared_at: Option<Timestamp>,
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.metric)
    }
}

impl Watch {
    /// Silence after which the series is called gone.
    fn patience(&self) -> Duration {
        self.interval.saturating_mul(MISSED_INTERVALS).max(LEAST_SILENCE)
    }

    /// Takes the time of a sample: learns the usual interval, forgets a run that was interrupted, follows a clock set back.
    fn pass_time(&mut self, at: Timestamp) {
        let Some((last, _)) = self.last else { return };
        let gap = at.since(last);
        if gap > self.patience() && matches!(self.state, State::Pending(_)) {
            self.state = State::Quiet;
        }
        if !gap.is_zero() {
            // One late sample must not make the series look slow.
            self.interval = if self.interval.is_zero() { gap } else { gap.min(self.interval.saturating_mul(2)) };
        }
        if at < last {
            let earlier = |time: &mut Option<Timestamp>| *time = time.map(|time| time.min(at));
            earlier(&mut self.cleared_at);
            if let State::Firing { below_since, .. } = &mut self.state {
                earlier(below_since);
            }
            if let State::Pending(run) | State::Firing { run, .. } = &mut self.state {
                run.since = run.since.min(at);
                earlier(&mut run.critical_since);
            }
        }
    }

    /// How long the value must stay at or below the clearing limit.
    fn clear_hold(&self, most: Duration) -> Duration {
        let damped = match self.flaps.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => FLAP_HOLD.saturating_mul(1 << doublings.min(16)).min(most),
        };
        self.rule.hold.max(damped)
    }

    /// Moves the state by one sample; `Some` where there is something to say.
    fn step(&mut self, at: Timestamp, value: f64, dedup_window: Duration) -> Option<Phase> {
        self.pass_time(at);
        self.last = Some((at, value));
        let (hold, clear_hold) = (self.rule.hold, self.clear_hold(dedup_window));
        let passes = value >= self.limits.warn;
        match &mut self.state {
            State::Quiet | State::Pending(_) if !passes => {
                self.state = State::Quiet;
                None
            }
            State::Quiet | State::Pending(_) => {
                let mut run = match self.state {
                    State::Pending(run) => run,
                    _ => Run { since: at, count: 0, critical_since: None },
                };
                run.take(at, value, &self.limits);
                if at.since(run.since) < hold {
                    self.state = State::Pending(run);
                    return None;
                }
                let again = self.cleared_at.is_some_and(|cleared| at.since(cleared) <= dedup_window);
                self.flaps = if again { self.flaps.saturating_add(1) } else { 0 };
                self.state = State::Firing { run, severity: run.severity(at, hold), below_since: None };
                Some(Phase::Holds)
            }
            State::Firing { run, severity, below_since } => {
                if passes {
                    run.take(at, value, &self.limits);
                    *below_since = None;
                    let now = run.severity(at, hold);
                    if now > *severity {
                        *severity = now;
                        return Some(Phase::Holds);
                    }
                    return None;
                }
                run.critical_since = None;
                if value > self.limits.clear {
                    *below_since = None;
                    return None;
                }
                let since = *below_since.get_or_insert(at);
                (at.since(since) >= clear_hold).then_some(Phase::Cleared)
            }
        }
    }

    /// The finding about a firing series; ends the incident where `phase` says so.
    fn finding(&mut self, phase: Phase, at: Timestamp, key: &SeriesKey, message: String, evidence: Evidence) -> Option<Finding> {
        let State::Firing { run, severity, .. } = &mut self.state else { return None };
        let finding = Finding {
            metric: self.rule.metric,
            labels: key.labels().clone(),
            phase,
            severity: *severity,
            value: self.last.map_or(0.0, |(_, value)| value),
            threshold: Some(self.limits.warn),
            message,
            since: run.since,
            count: run.count,
            source: "samples",
            evidence,
        };
        run.count = 0;
        if phase == Phase::Cleared {
            self.state = State::Quiet;
            self.cleared_at = Some(at);
        }
        Some(finding)
    }

    fn gone(&mut self, at: Timestamp, key: &SeriesKey) -> Option<Finding> {
        let (unit, limit) = (key.metric().unit, self.limits.warn);
        let last = self.last.map_or(0.0, |(_, value)| value);
        let message = format!(
            "{} is no longer reported (last {}, threshold {})",
            self.rule.title(key.labels()),
            text::value(last, unit),
            text::limit(limit, unit)
        );
        self.finding(Phase::Cleared, at, key, message, Evidence::new())
    }
}

impl Run {
    fn take(&mut self, at: Timestamp, value: f64, limits: &Limits) {
        self.count += 1;
        self.critical_since = (value >= limits.critical).then(|| self.critical_since.unwrap_or(at));
    }

    fn severity(&self, at: Timestamp, hold: Duration) -> Severity {
        if self.critical_since.is_some_and(|since| at.since(since) >= hold) { Severity::Critical } else { Severity::Warn }
    }
}

impl Rule {
    /// `Disk usage of /var`, `File descriptor usage of nginx (pid 7)`.
    fn title(&self, labels: &Labels) -> String {
        let mut subject = self.subject.iter().filter_map(|name| Some((*name, labels.get(name)?)));
        match (subject.next(), subject.next()) {
            (Some((_, first)), Some((name, second))) => format!("{} of {first} ({name} {second})", self.name),
            (Some((_, only)), None) => format!("{} of {only}", self.name),
            (None, _) if self.subject.is_empty() || labels.is_empty() => self.name.to_owned(),
            (None, _) => format!("{} of {labels}", self.name),
        }
    }

    fn message(&self, phase: Phase, key: &SeriesKey, value: f64, limit: f64, duration: Duration) -> String {
        let (title, unit) = (self.title(key.labels()), key.metric().unit);
        let (value_text, limit_text) = (text::value(value, unit), text::limit(limit, unit));
        if phase == Phase::Cleared {
            return format!("{title} back to {value_text} (threshold {limit_text})");
        }
        let verb = if value > limit { "exceeds" } else { "reaches" };
        let held = if duration.as_secs() == 0 { String::new() } else { format!(" for {}", text::duration(duration)) };
        format!("{title} {value_text} {verb} threshold {limit_text}{held}")
    }
}

struct Threshold {
    limits: Vec<(&'static Rule, Limits)>,
    dedup_window: Duration,
    watches: BTreeMap<SeriesId, Watch>,
    firing: BTreeSet<SeriesId>,
    silence: Silence,
}

impl Threshold {
    fn new(config: &Config) -> Self {
        Self {
            limits: limits(config),
            dedup_window: config.alerting.dedup_window,
            watches: BTreeMap::new(),
            firing: BTreeSet::new(),
            silence: Silence::default(),
        }
    }
}

fn limits(config: &Config) -> Vec<(&'static Rule, Limits)> {
    RULES.iter().map(|rule| (rule, Limits::new(rule, &config.thresholds))).collect()
}

impl Analyzer for Threshold {
    fn reconfigure(&mut self, config: &Config) {
        self.limits = limits(config);
        self.dedup_window = config.alerting.dedup_window;
        for watch in self.watches.values_mut() {
            watch.limits = Limits::new(watch.rule, &config.thresholds);
        }
    }

    fn watch(&mut self, id: SeriesId, key: &SeriesKey) -> bool {
        let meant = |rule: &Rule| {
            rule.metric == key.metric().name && rule.only.iter().all(|(name, value)| key.labels().get(name) == Some(value))
        };
        let Some(&(rule, limits)) = self.limits.iter().find(|(rule, _)| meant(rule)) else { return false };
        let watch = Watch { rule, limits, state: State::Quiet, last: None, interval: Duration::ZERO, flaps: 0, cleared_at: None };
        self.watches.insert(id, watch);
        true
    }

    fn forget(&mut self, at: Timestamp, id: SeriesId, key: &SeriesKey, findings: &mut Vec<Finding>) {
        self.firing.remove(&id);
        if let Some(mut watch) = self.watches.remove(&id) {
            findings.extend(watch.gone(at, key));
        }
    }

    fn sample(&mut self, at: Timestamp, id: SeriesId, value: f64, store: &Store, findings: &mut Vec<Finding>) {
        let Some(watch) = self.watches.get_mut(&id) else { return };
        let Some(phase) = watch.step(at, value, self.dedup_window) else { return };
        let (State::Firing { run, .. }, Some(key)) = (&watch.state, store.key(id)) else { return };
        let message = watch.rule.message(phase, key, value, watch.limits.warn, at.since(run.since));
        let evidence = evidence(at, id, store, watch);
        findings.extend(watch.finding(phase, at, key, message, evidence));
        if phase == Phase::Cleared {
            self.firing.remove(&id);
        } else {
            self.firing.insert(id);
        }
    }

    fn tick(&mut self, at: Timestamp, store: &Store, findings: &mut Vec<Finding>) {
        self.silence.tick(at);
        let (watches, silence) = (&mut self.watches, &self.silence);
        self.firing.retain(|id| {
            let (Some(watch), Some(key)) = (watches.get_mut(id), store.key(*id)) else { return false };
            let silent = watch.last.is_some_and(|(last, _)| silence.since(last, at) > watch.patience());
            if silent {
                findings.extend(watch.gone(at, key));
            }
            !silent
        });
    }
}

/// The last values and where they are heading.
fn evidence(at: Timestamp, id: SeriesId, store: &Store, watch: &Watch) -> Evidence {
    let mut recent: Vec<(f64, f64)> =
        store.newest(id).take(SHOWN_SAMPLES).map(|(time, value)| (at.since(time).as_millis() as f64 / 1e3, value)).collect();
    recent.reverse();
    let mut evidence = Evidence::new();
    evidence.insert("trend".into(), json!(trend(&recent, watch.limits.warn)));
    evidence.insert("recent".into(), json!(recent));
    evidence.insert("critical_threshold".into(), json!(watch.limits.critical));
    if watch.flaps > 0 {
        evidence.insert("began_again".into(), json!(watch.flaps));
    }
    evidence
}

/// The slope of the least-squares line through (seconds ago, value), in words. Less than a hundredth of the limit over the whole
/// time shown is steady.
fn trend(recent: &[(f64, f64)], limit: f64) -> String {
    let count = recent.iter().map(|_| 1.0).sum::<f64>();
    let (ago_mean, value_mean) =
        (recent.iter().map(|(ago, _)| ago / count).sum::<f64>(), recent.iter().map(|(_, value)| value / count).sum::<f64>());
    let covariance = recent.iter().map(|(ago, value)| (ago_mean - ago) * (value - value_mean)).sum::<f64>();
    let variance = recent.iter().map(|(ago, _)| (ago_mean - ago).powi(2)).sum::<f64>();
    let per_minute = covariance / variance * 60.0;
    let span = recent.iter().map(|(ago, _)| *ago).fold(0.0, f64::max);
    if !per_minute.is_finite() || (per_minute * span / 60.0).abs() < limit.abs() / 100.0 {
        return "steady".to_owned();
    }
    let digits = if per_minute.abs() < 0.1 { 4 } else { 1 };
    let direction = if per_minute > 0.0 { "rising" } else { "falling" };
    format!("{direction} {:.digits$} per minute", per_minute.abs())
}
