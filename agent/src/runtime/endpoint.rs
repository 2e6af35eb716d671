//! The Prometheus endpoint's place in the agent: a task that serves, and the page, which is rendered where the engine is.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::stop::keep_running;
use crate::collectors::{COLLECTORS, running};
use crate::config::{self, Config};
use crate::engine::Engine;
use crate::exporters::prometheus::{Counts, Exposition, Intervals, Scrape, serve};
use crate::model::{Sample, Timestamp};

/// Scrapes that wait for the page; the server lets through no more than that at a time.
const QUEUE: usize = 4;

/// The endpoint, which may be switched off.
pub struct Endpoint {
    settings: config::Prometheus,
    exposition: Exposition,
    counts: Arc<Counts>,
    asking: mpsc::Sender<Scrape>,
    asked: mpsc::Receiver<Scrape>,
    task: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Begins to listen, where the configuration asks for it.
    pub fn open(config: &Config) -> Self {
        let (asking, asked) = mpsc::channel(QUEUE);
        let counts = Arc::<Counts>::default();
        let exposition = Exposition::new(intervals(config), Arc::clone(&counts));
        let mut endpoint = Self { settings: config.prometheus.clone(), exposition, counts, asking, asked, task: None };
        endpoint.start();
        endpoint
    }

    fn start(&mut self) {
        let Self { settings, counts, asking, .. } = self;
        let (settings, counts, asking) = (settings.clone(), Arc::clone(counts), asking.clone());
        self.task = settings.enabled.then(|| {
            tokio::spawn(keep_running("prometheus".into(), move || serve(settings.clone(), asking.clone(), Arc::clone(&counts))))
        });
    }

    /// Takes over another configuration; one with another address, path or switch ends what is under way.
    pub async fn reconfigure(&mut self, config: &Config) {
        self.exposition.reconfigure(intervals(config));
        if self.settings != config.prometheus {
            self.settings = config.prometheus.clone();
            if let Some(task) = self.task.take() {
                task.abort();
                let _ = task.await;
                // The task within it is gone after its turn, and with it the listener, whose address may be wanted again.
                tokio::task::yield_now().await;
            }
            self.start();
        }
    }

    /// Waits until somebody asks for the page.
    pub async fn asked(&mut self) -> Scrape {
        match self.asked.recv().await {
            Some(scrape) => scrape,
            // There is a sender as long as there is this.
            None => std::future::pending().await,
        }
    }

    /// Renders the page for whoever asked. One that cannot be rendered is an error for them alone.
    pub fn answer(&mut self, scrape: Scrape, engine: &Engine, at: Timestamp, interval_factor: u32) {
        let page = || self.exposition.page(scrape.format, engine, at, interval_factor);
        match catch_unwind(AssertUnwindSafe(page)) {
            // Whoever asked may have gone.
            Ok(page) => drop(scrape.reply.send(page)),
            Err(_) => tracing::error!("the page for Prometheus panicked; please report this"),
        }
    }

    /// What it tells of itself, while it is there.
    pub fn samples(&self, into: &mut Vec<Sample>) {
        if self.settings.enabled {
            self.counts.samples(into);
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// How often each metric is sampled. What is said of collectors comes as often as the rarest of them.
fn intervals(config: &Config) -> Intervals {
    let mut by_metric = HashMap::new();
    let mut longest = Duration::ZERO;
    for row in COLLECTORS {
        let interval = (row.interval)(config);
        longest = longest.max(interval);
        by_metric.extend(row.metrics.iter().map(|metric| (metric.name, interval)));
    }
    by_metric.extend(running::METRICS.iter().map(|metric| (metric.name, longest)));
    Intervals { by_metric, others: config.agent.collect_interval }
}
