//! History on disk: loads it at a start, and has it written in a thread that may wait for the disk.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::stop::{Part, StopFlag};
use crate::collectors::COLLECTORS;
use crate::config::Config;
use crate::engine::Engine;
use crate::exporters::sqlite::{self, Feed, History, Writer};
use crate::host;
use crate::model::{Metric, Sample, SeriesKey};

/// How long a start waits for the history; a disk that takes longer costs the history, not the watching.
const LOAD: Duration = Duration::from_secs(3);
/// Series that wait to be taken into memory.
const LOADED: usize = 16;

/// The way of history to disk; nothing where the configuration does not ask for it.
pub struct Storing(Option<(Feed, Part, StopFlag)>);

impl Storing {
    /// Starts the thread and takes into `engine` what the database knows of the time that the memory reaches back.
    ///
    /// # Errors
    /// The system gives no thread.
    pub async fn start(config: &Config, engine: &mut Engine) -> anyhow::Result<Self> {
        if !config.storage.sqlite_enabled {
            return Ok(Self(None));
        }
        let capacity = u32::try_from(config.storage.ring_buffer_capacity).unwrap_or(u32::MAX);
        let reach = config.agent.collect_interval.saturating_mul(capacity);
        let (feed, batches, progress) = Feed::new(host::now(), reach);
        let mut writer = Writer::new(config, batches, progress);
        let until = sqlite::minute(host::now());
        // The minute that has begun is left out: what is seen of it from now on is added to it in the database.
        let minutes = until.saturating_sub(i64::try_from(reach.as_secs() / 60).unwrap_or(i64::MAX))..until;
        let (sender, mut loaded) = mpsc::channel::<History>(LOADED);
        let mut sender = Some(sender);
        let body = move || {
            if let Some(sender) = sender.take() {
                writer.load(&minutes, &mut |history| sender.blocking_send(history).is_ok());
            }
            writer.run();
        };
        let stop = StopFlag::default();
        let part = Part::start("sqlite", stop.clone(), body).context("cannot start a thread")?;
        let known = known();
        let mut series = 0_usize;
        let all = async {
            while let Some(history) = loaded.recv().await {
                series += usize::from(recall(history, &known, engine));
            }
        };
        let begun = Instant::now();
        let in_time = tokio::time::timeout(LOAD, all).await.is_ok();
        if series > 0 {
            tracing::info!("storage: loaded the history of {series} series in {:.1} s", begun.elapsed().as_secs_f64());
        }
        if !in_time {
            tracing::warn!("storage: not all of the history came within {LOAD:?}; the rest is left on disk");
        }
        Ok(Self(Some((feed, part, stop))))
    }

    /// Hands over what is complete.
    pub fn tick(&mut self, engine: &Engine) {
        if let Some((feed, ..)) = &mut self.0 {
            feed.tick(host::now(), engine.store());
        }
    }

    /// Appends what there is to count.
    pub fn samples(&self, into: &mut Vec<Sample>) {
        if let Some((feed, ..)) = &self.0 {
            feed.samples(into);
        }
    }

    /// Hands over what is left, and waits until it is written.
    pub async fn finish(self, engine: &Engine, deadline: Instant) {
        if let Some((mut feed, part, stop)) = self.0 {
            feed.finish(host::now(), engine.store());
            stop.raise();
            part.join(deadline).await;
        }
    }
}

/// What collectors measure. What the agent counts about itself begins anew with each start.
fn known() -> HashMap<&'static str, &'static Metric> {
    COLLECTORS.iter().flat_map(|row| row.metrics).map(|metric| (metric.name, *metric)).collect()
}

/// Whether anything measures this series today.
fn recall(history: History, known: &HashMap<&'static str, &'static Metric>, engine: &mut Engine) -> bool {
    let Some(metric) = known.get(history.metric.as_str()) else { return false };
    let series = SeriesKey::new(metric, history.labels);
    history.samples.into_iter().for_each(|(at, value)| engine.recall(at, &series, value));
    true
}
