//! What turns observations into findings: one file and one row in [`ANALYZERS`] each.
//!
//! An analyzer says what it sees, with evidence, whenever it sees it. It doesn't know what has been reported before: folding
//! repetitions, naming incidents and writing to people is the business of `incidents`.

mod ema;
pub mod event;
mod leak;
pub mod log_match;
mod stand_in;
mod threshold;
mod trend;
mod zscore;

use std::time::Duration;

pub use threshold::limit;

use super::store::{SeriesId, Store};
use crate::config::Config;
use crate::model::{Evidence, KernelEvent, Labels, LogRecord, SeriesKey, Severity, SourceState, Timestamp};

/// What a finding says about its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Something happened. It is over when it has not happened again for a while.
    Occurred,
    /// A condition began or got worse. It is over when the analyzer says so.
    Holds,
    /// A condition began, or became another one, which is worth a message each time.
    Changed,
    /// The condition is over.
    Cleared,
    /// The condition is not over, but its latest sample did not pass the limit. Says so about an open incident; never opens one.
    Paused,
    /// The condition goes on after such a pause. Says so about an open incident; never opens one.
    Resumed,
    /// Another source saw the same thing. Says more about an open incident; never opens one.
    Witnessed,
    /// Another source should have seen the same thing and did not. Says so about an open incident; never opens one.
    Disputed,
}

/// One statement of an analyzer about one subject.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Name of the metric it is about.
    pub metric: &'static str,
    /// What it is about.
    pub labels: Labels,
    /// What is said.
    pub phase: Phase,
    /// How bad it is.
    pub severity: Severity,
    /// The value that counts, in the metric's unit.
    pub value: f64,
    /// The limit it stands against.
    pub threshold: Option<f64>,
    /// One sentence for a human.
    pub message: String,
    /// When it began.
    pub since: Timestamp,
    /// Single events or passing samples since the analyzer's last finding about this subject. Zero for a finding that only tells
    /// more about what was already counted.
    pub count: u64,
    /// Which kind of source saw it: `samples`, `probe`, `poll`, `counter`, or the source of a log line (`kmsg`, `journal`, …).
    pub source: &'static str,
    /// The facts.
    pub evidence: Evidence,
}

/// One way of looking at observations.
///
/// Everything has a default: an analyzer implements what it listens to. Work per sample must not grow with history.
pub trait Analyzer: Send {
    /// Takes over a changed configuration; what was seen so far stays.
    fn reconfigure(&mut self, config: &Config);

    /// A series appeared; whether its samples are wanted. Asked once a series, so that a sample costs those alone who want it.
    fn watch(&mut self, _id: SeriesId, _key: &SeriesKey) -> bool {
        false
    }

    /// The configuration changed: whether the samples of a series are wanted now; `None` where that is as before.
    fn watch_again(&mut self, _id: SeriesId, _key: &SeriesKey) -> Option<bool> {
        None
    }

    /// A watched series was removed from the store after a long silence; its id will name another one.
    fn forget(&mut self, _at: Timestamp, _id: SeriesId, _key: &SeriesKey, _findings: &mut Vec<Finding>) {}

    /// A sample of a watched series; it is in the store already.
    fn sample(&mut self, _at: Timestamp, _id: SeriesId, _value: f64, _store: &Store, _findings: &mut Vec<Finding>) {}

    /// The kernel did something.
    fn event(&mut self, _at: Timestamp, _event: &KernelEvent, _findings: &mut Vec<Finding>) {}

    /// A line appeared in a log.
    fn log(&mut self, _at: Timestamp, _record: &LogRecord, _findings: &mut Vec<Finding>) {}

    /// A probe or a log came or went.
    fn source(&mut self, _at: Timestamp, _state: &SourceState) {}

    /// Time passed; called at least once a second.
    fn tick(&mut self, _at: Timestamp, _store: &Store, _findings: &mut Vec<Finding>) {}

    /// Things left out because state is bounded or input was unusable, ever.
    fn dropped(&self) -> u64 {
        0
    }
}

/// A row of the table.
pub struct Row {
    /// The stem of the file.
    pub name: &'static str,
    /// What it looks for, in a few words.
    pub summary: &'static str,
    /// Makes it.
    pub build: fn(&Config) -> Box<dyn Analyzer>,
}

/// All analyzers, in the order in which they see an observation.
pub const ANALYZERS: &[Row] =
    &[threshold::ROW, zscore::ROW, ema::ROW, trend::ROW, leak::ROW, event::ROW, stand_in::ROW, log_match::ROW];

/// Ticks further apart than this mean that the clock was set or the machine slept: nothing can be concluded from silence.
const LONGEST_TICK: Duration = Duration::from_secs(30);

/// Tells real silence from a clock that jumped.
#[derive(Debug, Default)]
struct Silence {
    last_tick: Option<Timestamp>,
    jumped_at: Option<Timestamp>,
}

impl Silence {
    fn tick(&mut self, at: Timestamp) {
        if self.last_tick.is_some_and(|last| at < last || at.since(last) > LONGEST_TICK) {
            self.jumped_at = Some(at);
        }
        self.last_tick = Some(at);
    }

    /// How long it has been quiet since `last`, as far as that can be known at `at`.
    fn since(&self, last: Timestamp, at: Timestamp) -> Duration {
        match self.jumped_at {
            // A `last` in the future is of the time before the clock was set back.
            Some(jumped) if last > at || jumped > last => at.since(jumped),
            _ => at.since(last),
        }
    }
}
