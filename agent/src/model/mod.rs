//! The words that all rooms share: observations, series, kernel events, log records, findings and alerts.
//!
//! Plain values without behaviour of their own; nothing here reads a clock, a file or a socket.

mod alert;
mod event;
mod log;
mod message;
mod observation;
mod quantity;
mod recorded;
mod series;
mod severity;
mod silence;
mod time;

pub use alert::{Alert, Status};
pub use event::{Evidence, KernelEvent};
pub use log::LogRecord;
pub use message::{Message, News, Place, Tally};
pub use observation::{Observation, Samples, SourceState};
pub use quantity::bytes;
pub use recorded::{Recorded, RecordedEvent, RecordedLog, RecordedSample, RecordedSamples, RecordedSource};
pub use series::{Histogram, Kind, Labels, Metric, Sample, SeriesKey, Unit};
pub use severity::{Severities, Severity};
pub use silence::{Matcher, Silence, Weekday, Window};
pub(crate) use silence::{minute_of_day, time, zone};
pub use time::Timestamp;
