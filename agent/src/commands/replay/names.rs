//! Metrics by their names: those that the agent has, and those that a recording brings.

use std::collections::BTreeMap;

use crate::collectors::COLLECTORS;
use crate::model::{Labels, Metric, SeriesKey, Unit};
use crate::{engine, probes};

/// Names that one replay may bring along. They are never given back, as the engine wants names that live as long as it.
const MOST: usize = 10_000;
/// Series of which the key is kept.
const MOST_KEYS: usize = 100_000;

/// All names so far.
pub(super) struct Names {
    metrics: BTreeMap<&'static str, &'static Metric>,
    words: BTreeMap<&'static str, &'static str>,
    brought: usize,
    keys: BTreeMap<(String, Labels), SeriesKey>,
}

impl Names {
    pub(super) fn new() -> Self {
        let collected = COLLECTORS.iter().flat_map(|row| row.metrics.iter().copied());
        let own = engine::METRICS.iter().chain(probes::METRICS);
        let metrics = collected.chain(own).map(|metric| (metric.name, metric)).collect();
        Self { metrics, words: BTreeMap::new(), brought: 0, keys: BTreeMap::new() }
    }

    /// The series of a metric; one that the agent does not know is a gauge without a unit.
    pub(super) fn series(
        &mut self,
        metric: &str,
        labels: impl IntoIterator<Item = (String, String)>,
    ) -> Result<SeriesKey, String> {
        let identity = (metric.to_owned(), super::labels(labels));
        if let Some(key) = self.keys.get(&identity) {
            return Ok(key.clone());
        }
        let known = match self.metrics.get(metric) {
            Some(known) => known,
            None => {
                let name = self.word(metric)?;
                let new: &'static Metric = Box::leak(Box::new(Metric::gauge(name, Unit::Count, "")));
                self.metrics.insert(name, new);
                new
            }
        };
        let key = SeriesKey::new(known, identity.1.clone());
        if self.keys.len() < MOST_KEYS {
            self.keys.insert(identity, key.clone());
        }
        Ok(key)
    }

    /// The same word, for as long as the program runs.
    pub(super) fn word(&mut self, word: &str) -> Result<&'static str, String> {
        if let Some(known) = self.words.get(word) {
            return Ok(known);
        }
        if self.brought >= MOST {
            return Err(format!("there are more than {MOST} names"));
        }
        self.brought += 1;
        let word: &'static str = Box::leak(word.to_owned().into_boxed_str());
        self.words.insert(word, word);
        Ok(word)
    }
}
