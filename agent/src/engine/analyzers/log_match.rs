//! Lines of any log that match a pattern of the configuration.
//!
//! Groups of a pattern may match something else in each line. So a pattern has up to [`MAX_SUBJECTS`] sets of labels at a time;
//! lines with others are told together, without those labels. A line that comes through two logs is one, with two witnesses.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::json;

use super::{Analyzer, Finding, Phase, Row};
use crate::config::Config;
use crate::engine::patterns::CustomPatterns;
use crate::engine::store::Store;
use crate::engine::text;
use crate::model::{Evidence, Labels, LogRecord, Metric, Timestamp, Unit};

pub(super) const ROW: Row = Row {
    name: "log_match",
    summary: "log lines that match a pattern of the configuration",
    build: |config| Box::new(LogMatch::new(config)),
};

/// `log_match`
pub static LOG_MATCH: Metric = Metric::gauge(
    "log_match",
    Unit::Count,
    "Log lines that match one of [log_analyzer] custom_patterns; label pattern, and one for each named group.",
);

/// Sets of labels of one pattern at a time.
const MAX_SUBJECTS: usize = 20;
/// Lines that another log may still tell of.
const MAX_REMEMBERED: usize = 256;
/// How long one log may be behind another.
const LAG: Duration = Duration::from_secs(10);
/// Bytes of a line in a message, and in its evidence.
const MAX_MESSAGE: usize = 256;
const MAX_LINE: usize = 1024;

/// A line that one log told of.
struct Told {
    at: Timestamp,
    source: &'static str,
    index: usize,
    text: String,
    labels: Labels,
}

struct LogMatch {
    patterns: CustomPatterns,
    forget_after: Duration,
    /// By pattern: labels, and when they came last.
    subjects: BTreeMap<usize, BTreeMap<Labels, Timestamp>>,
    told: VecDeque<Told>,
    dropped: u64,
}

impl LogMatch {
    fn new(config: &Config) -> Self {
        Self {
            patterns: CustomPatterns::new(&config.log_analyzer.custom_patterns),
            forget_after: config.alerting.dedup_window,
            subjects: BTreeMap::new(),
            told: VecDeque::new(),
            dropped: 0,
        }
    }
}

impl Analyzer for LogMatch {
    fn reconfigure(&mut self, config: &Config) {
        let dropped = self.dropped;
        *self = Self { dropped, ..Self::new(config) };
    }

    fn log(&mut self, at: Timestamp, record: &LogRecord, findings: &mut Vec<Finding>) {
        for matched in self.patterns.read(&record.text) {
            let mut finding = Finding {
                metric: LOG_MATCH.name,
                labels: matched.labels,
                phase: Phase::Occurred,
                severity: matched.severity,
                value: 1.0,
                threshold: None,
                message: format!("{}: {}", matched.name, cut(&record.text, MAX_MESSAGE)),
                since: at,
                count: 1,
                source: record.source,
                evidence: Evidence::new(),
            };
            finding.evidence.insert("line".into(), json!(cut(&record.text, MAX_LINE)));
            let is_same = |told: &Told| {
                told.index == matched.index
                    && told.source != record.source
                    && told.text == record.text
                    && at.since(told.at) <= LAG
            };
            if let Some(told) = self.told.iter().position(is_same).and_then(|at| self.told.remove(at)) {
                findings.push(Finding { phase: Phase::Witnessed, count: 0, labels: told.labels, ..finding });
                continue;
            }
            let subjects = self.subjects.entry(matched.index).or_default();
            if subjects.len() >= MAX_SUBJECTS && !subjects.contains_key(&finding.labels) {
                self.dropped += 1;
                let labels = std::mem::replace(&mut finding.labels, Labels::new().with("pattern", matched.name));
                let sentence = format!("more than {MAX_SUBJECTS} at a time; these were {labels}");
                finding.evidence.insert("labels_left_out".into(), json!(sentence));
            } else {
                subjects.insert(finding.labels.clone(), at);
            }
            finding.evidence.extend(record.written.map(|written| ("logged_at".to_owned(), json!(text::time(written)))));
            if self.told.len() >= MAX_REMEMBERED {
                self.told.pop_front();
            }
            let (source, index, text) = (record.source, matched.index, record.text.clone());
            self.told.push_back(Told { at, source, index, text, labels: finding.labels.clone() });
            findings.push(finding);
        }
    }

    fn tick(&mut self, at: Timestamp, _: &Store, _: &mut Vec<Finding>) {
        let forget_after = self.forget_after;
        self.told.retain(|told| told.at <= at && at.since(told.at) <= LAG);
        for subjects in self.subjects.values_mut() {
            // Whatever lies in the future was seen before the clock was set back.
            subjects.retain(|_, last| *last <= at && at.since(*last) < forget_after);
        }
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

fn cut(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit)).unwrap_or_default()
}
