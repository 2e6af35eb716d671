//! The Prometheus endpoint: the latest value of every series as a page that Prometheus scrapes, over HTTP on a port that the
//! configuration names.
//!
//! Requests are served by a task ([`serve`]), which asks the owner of the engine for the page through a channel; the owner renders it
//! between two observations. A page stands for a second, so that whoever asks in a loop has nothing rendered in a loop.
//! A series is on the page until its last sample is older than three intervals of whoever samples it: one that fell silent (a
//! process that ended, a disk that was taken out) disappears, and Prometheus ends it. The page holds no history and no timestamps.

mod server;
mod text;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

pub use server::serve;
pub use text::Format;

use crate::engine::Engine;
use crate::model::{Labels, Metric, Sample, SeriesKey, Timestamp, Unit};

/// How long a page is handed out before it is rendered again.
const STANDS: Duration = Duration::from_secs(1);
/// Intervals without a sample after which a series is on the page no more.
const PATIENCE: u32 = 3;

/// What the endpoint tells of itself.
pub const METRICS: &[Metric] = &[SCRAPES, REFUSED, DURATION];

const SCRAPES: Metric = Metric::counter(
    "agent_prometheus_scrapes_total",
    Unit::Count,
    "Pages that were handed to whoever asked the Prometheus endpoint.",
);
const REFUSED: Metric = Metric::counter(
    "agent_prometheus_refused_total",
    Unit::Count,
    "Connections to the Prometheus endpoint that got no page, by reason: busy (too many scrapes at a time), timeout (a client that is \
     too slow), malformed (no HTTP request, or one that is too large).",
);
const DURATION: Metric = Metric::gauge(
    "agent_prometheus_scrape_duration_seconds",
    Unit::Seconds,
    "Time that the page took when it was rendered last, in which the engine does nothing else.",
);

/// Somebody wants the page.
pub struct Scrape {
    /// In which format.
    pub format: Format,
    /// Where it goes.
    pub reply: oneshot::Sender<Bytes>,
}

/// Why a connection got no page.
#[derive(Clone, Copy)]
enum Refusal {
    Busy,
    Timeout,
    Malformed,
}

/// What has been counted since the agent started.
#[derive(Default)]
pub struct Counts {
    scrapes: AtomicU64,
    refused: [AtomicU64; 3],
    render_nanos: AtomicU64,
}

impl Counts {
    fn refuse(&self, why: Refusal) {
        let [busy, timeout, malformed] = &self.refused;
        let count = match why {
            Refusal::Busy => busy,
            Refusal::Timeout => timeout,
            Refusal::Malformed => malformed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts as samples of [`METRICS`].
    #[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 are out of reach")]
    pub fn samples(&self, into: &mut Vec<Sample>) {
        let mut push = |metric, labels, value| into.push(Sample { series: SeriesKey::new(metric, labels), value });
        push(&SCRAPES, Labels::new(), self.scrapes.load(Ordering::Relaxed) as f64);
        for (reason, count) in ["busy", "timeout", "malformed"].into_iter().zip(&self.refused) {
            push(&REFUSED, Labels::new().with("reason", reason), count.load(Ordering::Relaxed) as f64);
        }
        push(&DURATION, Labels::new(), self.render_nanos.load(Ordering::Relaxed) as f64 / 1e9);
    }
}

/// How often each metric is sampled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Intervals {
    /// Those of which it is known.
    pub by_metric: HashMap<&'static str, Duration>,
    /// All others.
    pub others: Duration,
}

impl Intervals {
    /// Whether a sample of `metric` from the time `of` is still worth telling at the time `at`, while intervals are `factor` times as
    /// long. One from the future says as little as an old one: the clock was set back.
    fn is_fresh(&self, metric: &Metric, of: Timestamp, at: Timestamp, factor: u32) -> bool {
        let interval = self.by_metric.get(metric.name).copied().unwrap_or(self.others);
        at.since(of).max(of.since(at)) <= interval.saturating_mul(factor.max(1)).saturating_mul(PATIENCE)
    }
}

/// The page in each of its formats.
pub struct Exposition {
    intervals: Intervals,
    counts: Arc<Counts>,
    /// By [`Format`]: when it was rendered, and what came of it; its memory is used again.
    pages: [(Option<Instant>, Bytes); 2],
}

impl Exposition {
    /// A page that has not been rendered yet.
    pub fn new(intervals: Intervals, counts: Arc<Counts>) -> Self {
        Self { intervals, counts, pages: Default::default() }
    }

    /// Takes over other intervals.
    pub fn reconfigure(&mut self, intervals: Intervals) {
        self.intervals = intervals;
        self.pages.iter_mut().for_each(|(rendered, _)| *rendered = None);
    }

    /// The page of what `engine` holds at the time `at`, while intervals are `factor` times as long as configured.
    pub fn page(&mut self, format: Format, engine: &Engine, at: Timestamp, factor: u32) -> Bytes {
        let Self { intervals, counts, pages: [plain, open] } = self;
        let (rendered, page) = if format == Format::Text { plain } else { open };
        let started = Instant::now();
        if rendered.is_none_or(|rendered| started.duration_since(rendered) >= STANDS) {
            // Somebody may still be sending the old one.
            let mut buffer = std::mem::take(page).try_into_mut().unwrap_or_default();
            buffer.clear();
            let store = engine.store();
            let latest = store.series().filter_map(|(id, key)| Some((key, store.latest(id)?)));
            let latest = latest.filter(|(key, (of, _))| intervals.is_fresh(key.metric(), *of, at, factor));
            let numbers = latest.map(|(key, (_, value))| (key, text::Value::Number(value)));
            let (of, histograms) = engine.histograms();
            let histograms = histograms.iter().filter(|histogram| intervals.is_fresh(histogram.series.metric(), of, at, factor));
            let histograms = histograms.map(|histogram| (&histogram.series, text::Value::Histogram(histogram)));
            text::render(&mut buffer, format, numbers.chain(histograms).collect());
            *page = buffer.freeze();
            *rendered = Some(started);
            let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            counts.render_nanos.store(nanos, Ordering::Relaxed);
        }
        page.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::model::{Histogram, Observation, Samples};

    static SLOW: Metric = Metric::gauge("disk_slow_bytes", Unit::Bytes, "A.");
    static QUICK: Metric = Metric::gauge("cpu_quick_percent", Unit::Percent, "B.");
    static SPREAD: Metric = Metric::histogram("spread_seconds", Unit::Seconds, "C.");

    fn exposition() -> Exposition {
        let by_metric = HashMap::from([(SLOW.name, Duration::from_secs(60))]);
        Exposition::new(Intervals { by_metric, others: Duration::from_secs(10) }, Arc::default())
    }

    fn engine() -> Engine {
        let mut engine = Engine::new(&Config::default(), "host");
        let series = |metric| SeriesKey::new(metric, Labels::new());
        let values = vec![Sample { series: series(&SLOW), value: 1.0 }, Sample { series: series(&QUICK), value: 2.5 }];
        let samples = Observation::Samples(Samples { collector: "test", values });
        engine.observe(Timestamp::from_secs(1000), samples, &mut Vec::new());
        let histogram = Histogram { series: series(&SPREAD), buckets: vec![(f64::INFINITY, 3)], sum: 1.5 };
        engine.observe(Timestamp::from_secs(1000), Observation::Histograms(vec![histogram]), &mut Vec::new());
        engine
    }

    /// The samples of a page that is rendered at that time.
    fn samples(secs: i64, factor: u32) -> Vec<String> {
        let page = exposition().page(Format::Text, &engine(), Timestamp::from_secs(secs), factor);
        let page = String::from_utf8(page.to_vec()).unwrap();
        page.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn what_fell_silent_for_three_of_its_intervals_is_gone() {
        let (quick, slow) = ("sysops_cpu_quick_percent 2.5", "sysops_disk_slow_bytes 1");
        let spread =
            [r#"sysops_spread_seconds_bucket{le="+Inf"} 3"#, "sysops_spread_seconds_sum 1.5", "sysops_spread_seconds_count 3"];
        let all: Vec<_> = [quick, slow].into_iter().chain(spread).collect();
        assert_eq!(samples(1000, 1), all);
        assert_eq!(samples(1030, 1), all);
        assert_eq!(samples(1031, 1), [slow]);
        assert_eq!(samples(1031, 4), all);
        assert_eq!(samples(1181, 1), [""; 0]);
        assert_eq!(samples(900, 1), [slow], "the clock was set back");
    }

    #[test]
    fn a_page_stands_for_a_moment_and_its_memory_is_used_again() {
        let (mut exposition, engine) = (exposition(), engine());
        let mut page = |secs| exposition.page(Format::OpenMetrics, &engine, Timestamp::from_secs(secs), 1);
        let first = page(1000);
        assert_eq!(page(2000), first);
        let (place, length) = (first.as_ptr(), first.len());
        drop(first);
        exposition.pages[1].0 = Some(Instant::now().checked_sub(STANDS).unwrap());
        let second = exposition.page(Format::OpenMetrics, &engine, Timestamp::from_secs(1031), 1);
        assert!(second.len() < length);
        assert_eq!(second.as_ptr(), place);
    }
}
