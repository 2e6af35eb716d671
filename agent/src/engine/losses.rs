//! What was lost on its way here, and when: an alert whose time overlaps that says so.
//!
//! Losses are told by counters, read every few seconds, and by the events of a probe themselves (`events_lost`), which are
//! earlier. What an event told of is not counted again when the counter is read. A span reaches from the reading before a rise
//! to the one that shows it; so losses that came shortly before an alert overlap it as well.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};

use super::analyzers::event;
use super::store::SeriesId;
use super::text::time;
use crate::model::{Alert, KernelEvent, SeriesKey, Timestamp};

/// Spans that are remembered; beyond that the oldest is forgotten.
const MAX_SPANS: usize = 256;
/// Spans in one alert, the latest.
const MAX_TOLD: usize = 8;
/// How long before its begin what was lost concerns an alert: about as long as a counter's reading takes to show it.
const LEAD: Duration = Duration::from_secs(10);

/// A counter of losses.
struct Counter {
    metric: &'static str,
    /// The label that names where.
    label: &'static str,
    /// What the number is called in an alert.
    name: &'static str,
}

const COUNTERS: [Counter; 3] = [
    Counter { metric: "agent_probe_events_lost_total", label: "probe", name: "lost" },
    Counter { metric: "agent_probe_recursion_misses_total", label: "probe", name: "missed" },
    Counter { metric: "agent_log_records_lost_total", label: "source", name: "lost" },
];

/// What is known of one counter's series.
struct Series {
    source: String,
    name: &'static str,
    last: Option<f64>,
    read: Timestamp,
    /// What events have told of since then.
    told: u64,
}

struct Span {
    source: String,
    name: &'static str,
    count: u64,
    from: Timestamp,
    to: Timestamp,
}

/// All losses.
#[derive(Default)]
pub struct Losses {
    series: BTreeMap<SeriesId, Series>,
    /// By the time at which they were noticed.
    spans: VecDeque<Span>,
}

impl Losses {
    /// Whether the series counts losses.
    pub fn watch(&mut self, id: SeriesId, key: &SeriesKey) -> bool {
        let Some(counter) = COUNTERS.iter().find(|counter| counter.metric == key.metric().name) else { return false };
        let source = key.labels().get(counter.label).unwrap_or_default().to_owned();
        let series = Series { source, name: counter.name, last: None, read: Timestamp::default(), told: 0 };
        self.series.insert(id, series);
        true
    }

    /// Ends following a series.
    pub fn forget(&mut self, id: SeriesId) {
        self.series.remove(&id);
    }

    /// A counter was read.
    pub fn sample(&mut self, at: Timestamp, id: SeriesId, value: f64) {
        let Some(series) = self.series.get_mut(&id) else { return };
        let from = series.read;
        // A counter that falls was reset, with its probe or log.
        let rise = series.last.map_or(0.0, |last| value - last);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates; a fall is a reset and counts as none"
        )]
        let lost = (rise as u64).saturating_sub(series.told);
        (series.last, series.read, series.told) = (Some(value), at, 0);
        if lost > 0 {
            let (source, name) = (series.source.clone(), series.name);
            self.add(Span { source, name, count: lost, from, to: at });
        }
    }

    /// A probe's event that may tell of losses before it.
    pub fn event(&mut self, at: Timestamp, event: &KernelEvent) {
        let Some(lost) = event.evidence.get("events_lost").and_then(Value::as_u64).filter(|lost| *lost > 0) else { return };
        let Some(row) = event::row(event.metric) else { return };
        let series = self.series.values_mut().find(|series| series.source == row.signal && series.name == "lost");
        let from = series.map_or(at, |series| {
            series.told = series.told.saturating_add(lost);
            series.read
        });
        self.add(Span { source: row.signal.to_owned(), name: "lost", count: lost, from, to: at });
    }

    fn add(&mut self, span: Span) {
        // A flood is one span, however often it is looked at.
        let same = |last: &&mut Span| last.source == span.source && last.name == span.name;
        if let Some(last) = self.spans.iter_mut().rev().find(same)
            && span.from <= last.to
        {
            last.count = last.count.saturating_add(span.count);
            (last.from, last.to) = (last.from.min(span.from), last.to.max(span.to));
            return;
        }
        if self.spans.len() >= MAX_SPANS {
            self.spans.pop_front();
        }
        self.spans.push_back(span);
    }

    /// Puts into the alert what was lost during its time.
    pub fn tell(&self, alert: &mut Alert) {
        if self.spans.is_empty() {
            return;
        }
        let from = alert.at.minus(alert.duration).minus(LEAD);
        let overlapping = self.spans.iter().rev().filter(|span| span.to >= from && span.from <= alert.at);
        let mut told: Vec<Value> = overlapping.take(MAX_TOLD).map(Span::value).collect();
        if !told.is_empty() {
            told.reverse();
            alert.evidence.insert("losses".into(), told.into());
        }
    }
}

impl Span {
    fn value(&self) -> Value {
        json!({ "source": self.source, self.name: self.count, "from": time(self.from), "to": time(self.to) })
    }
}
