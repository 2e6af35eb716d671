//! What led to what: the causes of a finding and what came of it, as links in the order of time.
//!
//! Each way in which trouble spreads is a story: one file and one row in [`STORIES`]. A story looks back into the store when
//! something begins, which costs nothing while nothing does. It says what it finds there, with figures; that one thing caused the
//! other is for the reader to conclude. Which findings are one incident is decided in `incidents`.

mod disk;
mod memory;
mod network;

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Value, json};

use super::analyzers::Finding;
use super::store::{SeriesId, Store};
use super::text;
use crate::model::{Evidence, Labels, SeriesKey, Timestamp};

/// A finding's metric and labels: what names it among others.
pub type Identity = (Cow<'static, str>, Labels);

/// One thing that happened on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// When, or since when.
    pub at: Timestamp,
    /// What kind of thing: `growth`, `reclaim`, …; for findings the metric.
    pub kind: &'static str,
    /// One sentence for a human.
    pub text: String,
    /// The figures.
    pub evidence: Evidence,
}

impl Link {
    /// As it stands in an alert.
    pub fn value(&self) -> Value {
        json!({ "at": text::time(self.at), "link": self.kind, "text": self.text, "evidence": self.evidence })
    }
}

/// One way in which trouble spreads.
///
/// Everything has a default: a story implements what it knows of.
pub trait Story: Send {
    /// What the store knows that led to a finding, which has just begun; in any order.
    fn causes(&mut self, at: Timestamp, finding: &Finding, store: &Store) -> Vec<Link>;

    /// Whether the story wants the samples of a series.
    fn watch(&self, _key: &SeriesKey) -> bool {
        false
    }

    /// A sample of such a series: what it shows to have come of an earlier finding.
    fn effect(&mut self, _at: Timestamp, _id: SeriesId, _value: f64, _store: &Store) -> Option<(Identity, Link)> {
        None
    }
}

/// A row of the table.
pub struct Row {
    /// The stem of the file.
    pub name: &'static str,
    /// The story in a few words.
    pub summary: &'static str,
    build: fn() -> Box<dyn Story>,
}

/// All stories.
pub const STORIES: &[Row] = &[memory::ROW, disk::ROW, network::ROW];

/// All stories at work.
pub struct Chains(Vec<Box<dyn Story>>);

impl Chains {
    pub(super) fn new() -> Self {
        Self(STORIES.iter().map(|row| (row.build)()).collect())
    }

    /// What led to a finding.
    pub(super) fn causes(&mut self, at: Timestamp, finding: &Finding, store: &Store) -> Vec<Link> {
        self.0.iter_mut().flat_map(|story| story.causes(at, finding, store)).collect()
    }

    /// Whether the samples of a series are wanted.
    pub(super) fn watch(&self, key: &SeriesKey) -> bool {
        self.0.iter().any(|story| story.watch(key))
    }

    /// What a sample shows to have come of a finding.
    pub(super) fn effect(&mut self, at: Timestamp, id: SeriesId, value: f64, store: &Store) -> Option<(Identity, Link)> {
        let key = store.key(id)?;
        self.0.iter_mut().filter(|story| story.watch(key)).find_map(|story| story.effect(at, id, value, store))
    }
}

/// How far stories look back.
const WINDOW: Duration = Duration::from_secs(15 * 60);

/// The series of a metric whose labels are as wanted.
fn series<'s, 'f>(
    store: &'s Store,
    metric: &'f str,
    labels: &'f [(&'f str, &'f str)],
) -> impl Iterator<Item = (SeriesId, &'s SeriesKey)> + use<'s, 'f> {
    let meant = move |key: &SeriesKey| {
        key.metric().name == metric && labels.iter().all(|(name, value)| key.labels().get(name) == Some(value))
    };
    store.series().filter(move |(_, key)| meant(key))
}

/// By how much a counter rose within the window, and since when.
fn rise(store: &Store, id: SeriesId, at: Timestamp) -> Option<(f64, Timestamp)> {
    let (mut last, mut sum, mut since) = (None, 0.0, None);
    let mut before = at;
    for (time, value) in store.window(id, at.minus(WINDOW), at) {
        if let Some(last) = last
            && value > last
        {
            sum += value - last;
            since.get_or_insert(before);
        }
        (last, before) = (Some(value), time);
    }
    Some((sum, since?))
}
