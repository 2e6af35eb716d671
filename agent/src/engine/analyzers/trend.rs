//! Exhaustion: what grows or shrinks in a straight line, and when it will be used up at that rate.
//!
//! A line is fitted to what is left of a resource, and is believed only after it has proved itself: its older part must have
//! predicted its newer part, it must hold in each part of the window, and it is believed no farther ahead than it reaches back.
//! A level that the series has had before, and came back from by itself, is no news either: log files that are rotated each
//! night, temporary files, a backup. So a step, a saw-tooth, a burst and growth that levels off are silent.
//!
//! Nothing is kept aside: every few minutes the samples are read from the store, which also holds those of before a restart.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::{Analyzer, Finding, Phase, Row, Silence};
use crate::config::Config;
use crate::engine::line::{Line, Of, Point, blocks, cover, mean, median};
use crate::engine::store::{SeriesId, Store};
use crate::engine::text;
use crate::model::{Evidence, Labels, SeriesKey, Severity, Timestamp};

pub(super) const ROW: Row = Row {
    name: "trend",
    summary: "a steady trend will use up space, inodes, memory or descriptors soon",
    build: |config| Box::new(Trend::new(config)),
};

/// Eighths of the window that a trend may have lasted for, tried from the longest.
const SPANS: [u32; 6] = [8, 6, 4, 3, 2, 1];
/// Points that a line is fitted to, at most and at least.
const POINTS: usize = 24;
const LEAST_POINTS: usize = 9;
/// Part of the variance that the line must explain.
const LEAST_R_SQUARED: f64 = 0.85;
/// Parts of a span in each of which the trend must show, and how much of the mean change each must have.
const PARTS: usize = 6;
const LEAST_OF_PART: f64 = 0.2;
/// Most by which the line through the older two thirds may miss the newer third on average, by the change over the whole span.
const MOST_ERROR: f64 = 0.1;
/// How steep the newer third must be, by the whole.
const LEAST_STEEPNESS: f64 = 0.75;
/// Part of the change that must be beyond every level that the series has come back from.
const LEAST_NEWS: f64 = 0.5;
/// Less than this part of the most that was ever left is no level to come back from unharmed.
const HARMED: f64 = 0.1;
/// How far back a level counts.
const REMEMBERED: Duration = Duration::from_secs(8 * 86_400);
const HOUR: Duration = Duration::from_secs(3600);
/// Times that a trend must be seen in a row until it is told, and must be gone until it is over.
const CONFIRMED: u32 = 2;
/// Predictions within this factor of the limit of time keep an incident open.
const STAY: f64 = 1.5;
/// Longest and shortest time between two looks at a series; in between a 72nd of the window.
const LOOKS: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(300)];
/// Looks at different series are spread over this many minutes.
const SPREAD: u64 = 5;
/// Silence after which a series that is told of is called gone.
const PATIENCE: Duration = Duration::from_secs(900);

/// One resource.
#[derive(Debug)]
struct Rule {
    metric: &'static str,
    /// What a human calls it.
    name: &'static str,
    /// The label that says of what.
    subject: &'static str,
    /// The value at which nothing is left: 0 where the metric says what is left, 100 where it says what is used.
    limit: f64,
    /// Time left at which it is told.
    warn: Duration,
    /// Time left at which it is critical.
    critical: Duration,
}

const RULES: &[Rule] = &[
    Rule {
        metric: "disk_available_bytes",
        name: "Space",
        subject: "mount",
        limit: 0.0,
        warn: Duration::from_secs(72 * 3600),
        critical: Duration::from_secs(24 * 3600),
    },
    Rule {
        metric: "disk_inode_usage_percent",
        name: "Inodes",
        subject: "mount",
        limit: 100.0,
        warn: Duration::from_secs(72 * 3600),
        critical: Duration::from_secs(24 * 3600),
    },
    Rule {
        metric: "memory_available_bytes",
        name: "Memory",
        subject: "",
        limit: 0.0,
        warn: Duration::from_secs(6 * 3600),
        critical: HOUR,
    },
    Rule {
        metric: "fd_usage_percent",
        name: "File descriptors of the system",
        subject: "",
        limit: 100.0,
        warn: Duration::from_secs(6 * 3600),
        critical: HOUR,
    },
];

impl Rule {
    /// What is left at `value`.
    fn left(&self, value: f64) -> f64 {
        (value - self.limit).abs()
    }

    fn title(&self, labels: &Labels) -> String {
        labels.get(self.subject).map_or_else(|| self.name.to_owned(), |subject| format!("{} on {subject}", self.name))
    }

    /// An amount of the resource for a human.
    fn amount(&self, amount: f64) -> String {
        if self.limit == 0.0 { text::size(amount) } else { format!("{amount:.1}%") }
    }
}

/// A line that has proved itself.
#[derive(Clone, Copy, Debug)]
struct Forecast {
    span: Duration,
    line: Line,
    /// See [`MOST_ERROR`].
    error: f64,
    /// Change by second that what is left is losing, positive; the least and the most that parts of the past suggest.
    rate: f64,
    least_rate: f64,
    most_rate: f64,
    /// How long the trend has lasted, which may be longer than the window.
    lasted: Duration,
}

impl Forecast {
    fn secs_left(&self) -> f64 {
        self.line.now.max(0.0) / self.rate
    }

    /// The same at the slowest rate that a part of the past suggests.
    fn most_secs_left(&self) -> f64 {
        self.line.now.max(0.0) / self.least_rate
    }

    fn severity(&self, rule: &Rule) -> Severity {
        if self.secs_left() <= rule.critical.as_secs_f64() { Severity::Critical } else { Severity::Warn }
    }

    /// What was lost within the span.
    fn lost(&self) -> f64 {
        self.rate * self.span.as_secs_f64()
    }
}

/// The line through points of what is left, if it has proved itself.
fn prove(points: &[Point], span: Duration) -> Option<Forecast> {
    if points.len() < LEAST_POINTS || !cover(points, span, span / 4) {
        return None;
    }
    let line = Line::through(points)?;
    let secs = span.as_secs_f64();
    let lost = -line.slope * secs;
    if !(lost > 0.0 && line.r_squared >= LEAST_R_SQUARED) {
        return None;
    }
    let part = |index: usize| {
        let border = |index: usize| -secs * (PARTS - index) as f64 / PARTS as f64;
        let inside = |point: &&Point| point.secs >= border(index) && (index + 1 == PARTS || point.secs < border(index + 1));
        mean(points.iter().filter(inside).map(|point| point.value))
    };
    let parts: Vec<f64> = (0..PARTS).filter_map(part).collect();
    let steady = |pair: &[f64]| matches!(pair, [a, b] if a - b >= LEAST_OF_PART * lost / PARTS as f64);
    if parts.len() + 1 < PARTS || !parts.windows(2).all(steady) {
        return None;
    }
    let (older, newer) = points.split_at(points.len() * 2 / 3);
    let (from_older, from_newer) = (Line::through(older)?, Line::through(newer)?);
    let error = mean(newer.iter().map(|point| (point.value - from_older.at(point.secs)).abs()))? / lost;
    if !(error <= MOST_ERROR && from_newer.slope <= LEAST_STEEPNESS * line.slope) {
        return None;
    }
    let rates = [line.slope, line.slope_low, line.slope_high, from_older.slope, from_newer.slope].map(|slope| -slope);
    let least_rate = rates.iter().copied().filter(|rate| *rate > 0.0).fold(f64::INFINITY, f64::min);
    let most_rate = rates.iter().copied().fold(0.0, f64::max);
    Some(Forecast { span, line, error, rate: -line.slope, least_rate, most_rate, lasted: span })
}

/// An hour before the window.
struct Hour {
    ago: f64,
    /// Mean of what was left.
    left: f64,
}

#[derive(Debug)]
struct Firing {
    severity: Severity,
    since: Timestamp,
    forecast: Forecast,
}

/// What is remembered of one series.
#[derive(Debug)]
struct Watch {
    rule: &'static Rule,
    due: Option<Timestamp>,
    /// Looks in a row that saw the opposite of what was told.
    contrary: u32,
    firing: Option<Firing>,
}

struct Trend {
    window: Duration,
    watches: BTreeMap<SeriesId, Watch>,
    silence: Silence,
}

impl Trend {
    fn new(config: &Config) -> Self {
        Self { window: config.analyzer.trend_window, watches: BTreeMap::new(), silence: Silence::default() }
    }

    fn looks_every(&self) -> Duration {
        let [shortest, longest] = LOOKS;
        (self.window / 72).clamp(shortest, longest)
    }
}

/// What was left during the latest `span`, from the store.
fn left(at: Timestamp, id: SeriesId, store: &Store, rule: &Rule, span: Duration) -> Vec<(Timestamp, f64)> {
    store.window(id, at.minus(span), at).map(|(time, value)| (time, rule.left(value))).collect()
}

/// The hours before the latest `span`, the newest first; hours without samples are left out.
fn past(at: Timestamp, id: SeriesId, store: &Store, rule: &Rule, span: Duration) -> Vec<Hour> {
    let end = at.minus(span);
    let mut hours = BTreeMap::<u64, (f64, f64)>::new();
    for (time, value) in store.window(id, at.minus(REMEMBERED), end) {
        let (sum, count) = hours.entry(end.since(time).as_secs() / HOUR.as_secs()).or_default();
        *sum += rule.left(value);
        *count += 1.0;
    }
    let hour = |(index, (sum, count)): (u64, (f64, f64))| Hour {
        ago: span.as_secs_f64() + (index as f64 + 0.5) * HOUR.as_secs_f64(),
        left: sum / count,
    };
    hours.into_iter().map(hour).collect()
}

/// What can be foretold; `None` where nothing can, or nothing that matters.
fn forecast(at: Timestamp, id: SeriesId, store: &Store, rule: &Rule, window: Duration) -> Option<Forecast> {
    // Read once: reading decompresses.
    let samples = left(at, id, store, rule, window);
    let mut forecast = SPANS.into_iter().find_map(|eighths| {
        let span = window / 8 * eighths;
        prove(&blocks(samples.iter().copied(), at, span, POINTS, Of::Median), span)
    })?;
    let left = forecast.most_secs_left();
    let is_whole = forecast.span == window;
    if left > rule.warn.as_secs_f64() || (!is_whole && left > forecast.span.as_secs_f64()) {
        return None;
    }
    let past = past(at, id, store, rule, forecast.span);
    let now = forecast.line.now;
    let mut first = forecast.line.at(-forecast.span.as_secs_f64());
    let mut hours = past.iter().peekable();
    // Back through the hours for as long as the trend has been what it is now.
    while let Some(hour) = hours.next_if(|hour| {
        let mean_rate = (hour.left - now) / hour.ago;
        let follows = hour.ago - forecast.lasted.as_secs_f64() <= 2.0 * HOUR.as_secs_f64();
        is_whole && follows && mean_rate >= forecast.rate / 2.0 && mean_rate <= forecast.rate * 2.0
    }) {
        forecast.lasted = Duration::from_secs_f64(hour.ago);
        first = hour.left;
    }
    if left > forecast.lasted.as_secs_f64() {
        return None;
    }
    let most = past.iter().map(|hour| hour.left).fold(first, f64::max);
    let harmless = hours.map(|hour| hour.left).filter(|left| *left >= HARMED * most).fold(f64::INFINITY, f64::min);
    let news = harmless.min(first) - now;
    (news >= LEAST_NEWS * (first - now)).then_some(forecast)
}

/// Whether what was told is over: what is left grew again, or no longer shrinks at a rate that matters.
fn is_over(at: Timestamp, id: SeriesId, store: &Store, rule: &Rule, window: Duration, told: &Forecast) -> bool {
    let span = window / 4;
    let points = blocks(left(at, id, store, rule, span).into_iter(), at, span, POINTS, Of::Median);
    let newest = points.len().saturating_sub(3);
    let Some(left) = median(&mut points.get(newest..).unwrap_or_default().iter().map(|point| point.value).collect::<Vec<_>>())
    else {
        return false;
    };
    if left <= HARMED * told.line.at(-told.span.as_secs_f64()) {
        return false;
    }
    if left >= told.line.now + told.lost() / 2.0 {
        return true;
    }
    if points.len() < LEAST_POINTS || !cover(&points, span, span / 4) {
        return false;
    }
    Line::through(&points)
        .is_some_and(|line| line.slope > -told.rate / 4.0 || line.now > -line.slope * rule.warn.as_secs_f64() * STAY)
}

impl Watch {
    /// Whether it is time to look, which then is not the case until `every` later.
    fn is_due(&mut self, at: Timestamp, id: SeriesId, every: Duration) -> bool {
        let due = *self.due.get_or_insert_with(|| at.plus(Duration::from_secs(id.index() as u64 % SPREAD * 60)));
        // A clock that was set back must not stop the looks.
        let is_due = at >= due || due.since(at) > every.max(Duration::from_secs(SPREAD * 60));
        if is_due {
            self.due = Some(at.plus(every));
        }
        is_due
    }

    fn look(&mut self, at: Timestamp, id: SeriesId, value: f64, store: &Store, window: Duration) -> Option<Finding> {
        let key = store.key(id)?;
        let found = forecast(at, id, store, self.rule, window);
        match (&mut self.firing, found) {
            (None, None) => {
                self.contrary = 0;
                None
            }
            (None, Some(forecast)) => {
                self.contrary += 1;
                if self.contrary < CONFIRMED {
                    return None;
                }
                self.contrary = 0;
                self.firing = Some(Firing { severity: forecast.severity(self.rule), since: at.minus(forecast.lasted), forecast });
                self.finding(Phase::Holds, key, value)
            }
            (Some(firing), Some(forecast)) => {
                self.contrary = 0;
                firing.forecast = forecast;
                let severity = forecast.severity(self.rule);
                let is_worse = severity > firing.severity;
                firing.severity = firing.severity.max(severity);
                if is_worse { self.finding(Phase::Holds, key, value) } else { None }
            }
            (Some(firing), None) => {
                let is_over = is_over(at, id, store, self.rule, window, &firing.forecast);
                self.contrary = if is_over { self.contrary + 1 } else { 0 };
                if self.contrary < CONFIRMED {
                    return None;
                }
                self.contrary = 0;
                let finding = self.finding(Phase::Cleared, key, value);
                self.firing = None;
                finding
            }
        }
    }

    fn finding(&self, phase: Phase, key: &SeriesKey, value: f64) -> Option<Finding> {
        let Firing { severity, since, forecast } = self.firing.as_ref()?;
        let (title, left) = (self.rule.title(key.labels()), self.rule.amount(self.rule.left(value)));
        let by_hour = forecast.rate * HOUR.as_secs_f64();
        let (secs_left, soonest) = (forecast.secs_left(), forecast.line.now.max(0.0) / forecast.most_rate);
        let latest = forecast.most_secs_left();
        let span = |secs: f64| text::duration(Duration::try_from_secs_f64(secs).unwrap_or(Duration::MAX));
        let message = if phase == Phase::Cleared {
            format!("{title} no longer runs out: {left} left")
        } else {
            format!(
                "{title} will be used up in {} ({} to {}): {left} left, and {} less each hour for {}",
                span(secs_left),
                span(soonest),
                span(latest),
                self.rule.amount(by_hour),
                text::duration(forecast.lasted),
            )
        };
        let facts = [
            ("time_left_seconds", json!(secs_left.round())),
            ("time_left_low_seconds", json!(soonest.round())),
            ("time_left_high_seconds", json!(latest.round())),
            ("slope", json!(if self.rule.limit == 0.0 { -by_hour } else { by_hour })),
            ("r_squared", json!(forecast.line.r_squared)),
            ("window_seconds", json!(forecast.span.as_secs())),
            ("trend_seconds", json!(forecast.lasted.as_secs())),
            ("backtest_error", json!(forecast.error)),
            ("current", json!(value)),
            ("limit", json!(self.rule.limit)),
        ];
        Some(Finding {
            metric: self.rule.metric,
            labels: key.labels().clone().with("analyzer", ROW.name),
            phase,
            severity: *severity,
            value,
            threshold: Some(self.rule.limit),
            message,
            since: *since,
            count: 1,
            source: "samples",
            evidence: facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)).collect::<Evidence>(),
        })
    }

    fn gone(&mut self, key: &SeriesKey, value: f64) -> Option<Finding> {
        let mut finding = self.finding(Phase::Cleared, key, value)?;
        self.firing = None;
        finding.message = format!("{} is no longer reported", self.rule.title(key.labels()));
        Some(finding)
    }
}

impl Analyzer for Trend {
    fn reconfigure(&mut self, config: &Config) {
        self.window = config.analyzer.trend_window;
    }

    fn watch(&mut self, id: SeriesId, key: &SeriesKey) -> bool {
        let Some(rule) = RULES.iter().find(|rule| rule.metric == key.metric().name) else { return false };
        self.watches.insert(id, Watch { rule, due: None, contrary: 0, firing: None });
        true
    }

    fn forget(&mut self, _: Timestamp, id: SeriesId, key: &SeriesKey, findings: &mut Vec<Finding>) {
        if let Some(mut watch) = self.watches.remove(&id) {
            findings.extend(watch.gone(key, 0.0));
        }
    }

    fn sample(&mut self, at: Timestamp, id: SeriesId, value: f64, store: &Store, findings: &mut Vec<Finding>) {
        let every = self.looks_every();
        let Some(watch) = self.watches.get_mut(&id) else { return };
        if watch.is_due(at, id, every) {
            findings.extend(watch.look(at, id, value, store, self.window));
        }
    }

    fn tick(&mut self, at: Timestamp, store: &Store, findings: &mut Vec<Finding>) {
        self.silence.tick(at);
        for (id, watch) in self.watches.iter_mut().filter(|(_, watch)| watch.firing.is_some()) {
            let (Some(key), Some((last, value))) = (store.key(*id), store.latest(*id)) else { continue };
            if self.silence.since(last, at) > PATIENCE {
                findings.extend(watch.gone(key, value));
            }
        }
    }
}
