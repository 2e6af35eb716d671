//! Which series have a limit, and which.
//!
//! One row in [`RULES`] is a limit that is there by default; `[[thresholds.overrides]]` puts another in its place, or one where there
//! is none.

use std::time::Duration;

use crate::config::{Pattern, ThresholdOverride, Thresholds};
use crate::model::SeriesKey;

/// How long a limit that only an override sets must be passed, where it does not say.
const HOLD: Duration = Duration::from_secs(60);

/// How the critical and the clearing limit follow from the limit.
#[derive(Clone, Copy, Debug)]
enum Scale {
    /// Critical half way from the limit to 100, clear 5 points below the limit (but never below half of it).
    Percent,
    /// Critical at twice the limit, clear a tenth below it.
    Open,
}

/// A limit that is there by default.
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
        metric: "network_tcp_retransmit_ratio",
        only: &[],
        name: "Share of TCP segments sent again",
        subject: &[],
        // Beyond, throughput falls noticeably; there is no key for it but [[thresholds.overrides]].
        limit: |_| 0.02,
        scale: Scale::Open,
        hold: Duration::from_secs(60),
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

/// The limits on one series, computed once a configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    /// What a human calls the value.
    pub name: &'static str,
    /// Labels that name the subject to a human; `None`: all that there are.
    pub subject: Option<&'static [&'static str]>,
    /// Whether low values are bad.
    pub below: bool,
    pub warn: f64,
    /// Infinite where nothing is critical.
    pub critical: f64,
    pub clear: f64,
    pub hold: Duration,
}

impl Limits {
    /// Those on a series, if there are any.
    pub fn of(key: &SeriesKey, thresholds: &Thresholds) -> Option<Self> {
        let metric = key.metric().name;
        let rule = RULES.iter().find(|rule| rule.metric == metric);
        let by_default = rule.filter(|rule| rule.only.iter().all(|(name, value)| key.labels().get(name) == Some(value)));
        match thresholds.overrides.iter().find(|other| means(other, key)) {
            None => by_default.map(|rule| Self::by_rule(rule, (rule.limit)(thresholds))),
            Some(other) if !other.enabled => None,
            Some(other) => {
                // Where high values are bad, what is not said follows from the rule.
                let base =
                    rule.filter(|_| !other.below).map(|rule| Self::by_rule(rule, other.warn.unwrap_or((rule.limit)(thresholds))));
                Self::overridden(metric, other, base)
            }
        }
    }

    fn by_rule(rule: &'static Rule, warn: f64) -> Self {
        let (critical, clear) = match rule.scale {
            Scale::Percent => (f64::midpoint(warn, 100.0), (warn - 5.0).max(warn / 2.0)),
            Scale::Open => (warn * 2.0, warn * 0.9),
        };
        Self { name: rule.name, subject: Some(rule.subject), below: false, warn, critical, clear, hold: rule.hold }
    }

    fn overridden(metric: &'static str, other: &ThresholdOverride, base: Option<Self>) -> Option<Self> {
        let below = other.below;
        let never = if below { f64::NEG_INFINITY } else { f64::INFINITY };
        let mut limits = match (base, other.warn.or(other.critical)) {
            (Some(base), _) => base,
            (None, Some(warn)) => {
                let tenth = warn.abs() / 10.0;
                let clear = if below { warn + tenth } else { warn - tenth };
                Self { name: metric, subject: None, below, warn, critical: never, clear, hold: HOLD }
            }
            (None, None) => return None,
        };
        limits.critical = other.critical.unwrap_or(limits.critical);
        limits.clear = other.clear.unwrap_or(limits.clear);
        limits.hold = other.hold.unwrap_or(limits.hold);
        // Each of them may have been said without the others.
        if limits.is_past(limits.warn, limits.critical) {
            limits.warn = limits.critical;
        }
        if limits.is_past(limits.clear, limits.warn) {
            limits.clear = limits.warn;
        }
        Some(limits)
    }

    /// Whether a value is as bad as a limit, or worse.
    pub fn passes(&self, value: f64, limit: f64) -> bool {
        if self.below { value <= limit } else { value >= limit }
    }

    /// Whether a value is worse than a limit.
    pub fn is_past(&self, value: f64, limit: f64) -> bool {
        if self.below { value < limit } else { value > limit }
    }
}

fn means(other: &ThresholdOverride, key: &SeriesKey) -> bool {
    let matches =
        |(name, Pattern(pattern)): (&String, &Pattern)| key.labels().get(name).is_some_and(|value| pattern.is_match(value));
    other.metric == key.metric().name && other.labels.iter().all(matches)
}
