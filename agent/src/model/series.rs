//! Metrics, series and samples.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What kind of values a metric has: whether they go up and down or only accumulate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value that is true now.
    Gauge,
    /// A total since some start; it falls only when it is reset.
    Counter,
    /// A distribution since some start, which travels as a [`Histogram`] and never as a [`Sample`].
    Histogram,
}

/// The unit of a metric's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A plain number of things.
    Count,
    /// 0 to 100.
    Percent,
    /// 0 to 1.
    Ratio,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Operations, bytes or packets by second, as the metric's name says.
    PerSecond,
    /// Degrees Celsius.
    Celsius,
    /// 0 or 1.
    Boolean,
}

/// What is measured: one row in the table of a collector, a probe or an event source.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// `family_what_unit` in snake_case.
    pub name: &'static str,
    /// Gauge, counter or histogram.
    pub kind: Kind,
    /// Unit of the values.
    pub unit: Unit,
    /// One sentence: what it is, and the kernel file and document that define it.
    pub help: &'static str,
}

impl Metric {
    /// A row for a gauge.
    pub const fn gauge(name: &'static str, unit: Unit, help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, unit, help }
    }

    /// A row for a counter.
    pub const fn counter(name: &'static str, unit: Unit, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, unit, help }
    }

    /// A row for a histogram.
    pub const fn histogram(name: &'static str, unit: Unit, help: &'static str) -> Self {
        Self { name, kind: Kind::Histogram, unit, help }
    }
}

/// Names and values that tell series of one metric, or subjects of one event, apart; sorted by name, each name once.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Vec<(Cow<'static, str>, String)>);

impl Labels {
    /// No labels.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// These labels and `name` = `value`, which replaces an earlier value of that name.
    #[must_use]
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.set(name, value);
        self
    }

    /// Sets `name` to `value`.
    pub fn set(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        match self.0.binary_search_by(|(existing, _)| existing.cmp(&name)) {
            Ok(at) => {
                if let Some(slot) = self.0.get_mut(at) {
                    slot.1 = value;
                }
            }
            Err(at) => self.0.insert(at, (name, value)),
        }
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(existing, _)| *existing == name).map(|(_, value)| value)
    }

    /// All labels by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(String, String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        pairs.into_iter().fold(Self::new(), |labels, (name, value)| labels.with(name, value))
    }
}

/// As a map.
impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(std::collections::BTreeMap::<String, String>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// `{a="1",b="2"}`, and nothing at all where there are no labels.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.iter().enumerate() {
            write!(f, "{}{name}={value:?}", if index == 0 { "{" } else { "," })?;
        }
        if self.is_empty() { Ok(()) } else { f.write_str("}") }
    }
}

/// The identity of one series: a metric and its labels. Cheap to clone; a collector makes it once and keeps it.
#[derive(Clone, Debug)]
pub struct SeriesKey(Arc<Identity>);

#[derive(Debug)]
struct Identity {
    metric: &'static Metric,
    labels: Labels,
    hash: u64,
}

impl SeriesKey {
    /// The series of `metric` with `labels`.
    pub fn new(metric: &'static Metric, labels: Labels) -> Self {
        let mut hasher = std::hash::DefaultHasher::new();
        metric.name.hash(&mut hasher);
        labels.hash(&mut hasher);
        let hash = hasher.finish();
        Self(Arc::new(Identity { metric, labels, hash }))
    }

    /// What is measured.
    pub fn metric(&self) -> &'static Metric {
        self.0.metric
    }

    /// Which of the metric's series this is.
    pub fn labels(&self) -> &Labels {
        &self.0.labels
    }
}

impl PartialEq for SeriesKey {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.hash == other.0.hash && self.0.metric.name == other.0.metric.name && self.0.labels == other.0.labels)
    }
}

impl Eq for SeriesKey {}

impl Hash for SeriesKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

impl fmt::Display for SeriesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0.metric.name, self.0.labels)
    }
}

/// One value of one series; its time stands with the batch it belongs to.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Which series.
    pub series: SeriesKey,
    /// The value, in the metric's unit; finite.
    pub value: f64,
}

/// How the values of one series are distributed, counted since some start; counts fall only when they are reset.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Which series.
    pub series: SeriesKey,
    /// By bucket its upper bound, in the metric's unit, and the values that are in no bucket before it; bounds ascend, and the last
    /// of them is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// Sum of all values, in the metric's unit.
    pub sum: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_and_unique() {
        let labels = Labels::new().with("pid", "1").with("comm", "a").with("pid", "2");
        assert_eq!(labels.to_string(), r#"{comm="a",pid="2"}"#);
        assert_eq!(labels.get("pid"), Some("2"));
        assert_eq!(Labels::new().to_string(), "");
    }

    #[test]
    fn series_are_equal_by_content() {
        static METRIC: Metric = Metric::gauge("x", Unit::Count, "");
        let a = SeriesKey::new(&METRIC, Labels::new().with("k", "v"));
        let b = SeriesKey::new(&METRIC, Labels::new().with("k", "v"));
        assert_eq!(a, b);
        assert_ne!(a, SeriesKey::new(&METRIC, Labels::new().with("k", "w")));
    }
}
