//! The only place that knows everything: builds the parts, wires them, looks after them, stops them.
//!
//! This thread runs the engine, the logs and the channels on one single-threaded runtime; `collectors` polls the host, `probes`
//! reads what the kernel sends, `sqlite` writes history where that is asked for. Each part that panics is started again by itself.

pub mod capabilities;
mod collecting;
mod endpoint;
mod governor;
mod lacking;
mod log;
mod log_facts;
mod log_reading;
mod outlet;
mod overhead;
mod positions;
mod privileges;
mod screen;
pub mod signals;
mod sources;
mod stop;
mod storing;
mod watch;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::config::{self, Config};
use crate::engine::{self, Engine};
use crate::host;
use crate::model::{Alert, Labels, Metric, Observation, Sample, Samples, SeriesKey, SourceState, Timestamp, Unit};
use endpoint::Endpoint;
pub use lacking::lacking;
pub use log::log_to_stderr;
pub use log_reading::{METRICS as LOG_METRICS, try_logs};
use outlet::Outlet;
pub use outlet::sender;
pub use overhead::METRICS as OVERHEAD_METRICS;
use overhead::Overhead;
use positions::Positions;
pub use privileges::{avoid_oom_killer, shed as shed_privileges};
use screen::Screen;
pub use screen::table;
use signals::Signal;
use sources::{Sources, needs_other_sources};
use storing::Storing;
pub use watch::{Passing, Told, Watch};

/// Observations that wait for the engine. A source that finds the queue full waits; what it misses meanwhile it counts.
const QUEUE: usize = 1024;
/// How long a stop may take.
const STOP: Duration = Duration::from_millis(1900);

type Queue = mpsc::Sender<(Timestamp, Observation)>;
type Observations = mpsc::Receiver<(Timestamp, Observation)>;

/// Runs until SIGTERM or SIGINT; SIGHUP reads the configuration at `path` again.
///
/// # Errors
/// The system gives no threads, no file descriptors, or the process id cannot be written where the configuration wants it.
pub fn run(config: Config, path: &Path, probe_log: bool) -> anyhow::Result<()> {
    block_on(serve(config, path, probe_log))
}

/// Runs a future on a runtime of this thread.
///
/// # Errors
/// Those of the future; or the system gives no file descriptors.
pub fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // SAFETY: mallopt only sets a number. Few threads allocate here, and an arena for each would cost more than it gives.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let result = runtime.block_on(future);
    // What hangs in the kernel must not keep the process.
    runtime.shutdown_background();
    result
}

async fn serve(mut config: Config, path: &Path, probe_log: bool) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
    let pid_file = PidFile::write(&config)?;
    let (queue, mut observations) = mpsc::channel(QUEUE);
    let hostname = hostname(&config);
    let mut core = Core::new(&config, &hostname);
    let mut outlet = Outlet::open(&config, &hostname).await?;
    // The past comes before what follows it.
    let mut storing = Storing::start(&config, &mut core.engine).await?;
    let positions = Positions::load(&config);
    let mut sources = Sources::start(&config, &queue, probe_log, &positions)?;
    // What an earlier run told of and did not see end goes on, or is told to be over.
    for alert in std::mem::take(&mut outlet.open) {
        core.engine.restore(host::now(), &alert);
    }
    let mut overhead = Overhead::new(&config);
    let queued = SeriesKey::new(&QUEUED, Labels::new());
    let mut endpoint = Endpoint::open(&config);
    let channels: Vec<_> = outlet.router.channels().collect();
    let introduction = screen::introduction(&config, &hostname, &sources.signals, &sources.logs.notes, &channels);
    let mut screen = Screen::open(introduction);
    lacking(&config).iter().for_each(|sentence| tracing::warn!("{sentence}"));
    core.note(&sources.signals);
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next_own = Instant::now();
    let mut retiring = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                let Some(new) = reread(path) else { continue };
                for key in fixed_at_start(&config, &new) {
                    tracing::warn!("{key} takes effect with the next start");
                }
                lacking(&new).iter().for_each(|sentence| tracing::warn!("{sentence}"));
                // What did not change goes on: a reload for a channel's sake misses no event, one for a probe's sake no retry.
                let ended = needs_other_sources(&config, &new);
                if ended {
                    sources.stop().await;
                    core.drain(&mut observations);
                }
                core.alerts.drain(..).for_each(|alert| outlet.router.dispatch(host::now(), alert));
                core.reconfigure(&new);
                overhead.reconfigure(&new);
                endpoint.reconfigure(&new).await;
                if new.alerting != config.alerting {
                    outlet.reconfigure(&new);
                }
                if ended {
                    let started = Sources::start(&new, &queue, probe_log, &positions)?;
                    let mut old = std::mem::replace(&mut sources, started);
                    retiring.spawn(async move { old.join(Instant::now() + STOP).await });
                    core.note(&sources.signals);
                }
                overhead.apply(&sources);
                config = new;
                tracing::info!("configuration {} is in force", path.display());
            }
            _ = tick.tick() => {
                let now = host::now();
                core.catch_up(now, &mut observations, &mut screen);
                core.observe(now, Observation::Tick);
                outlet.router.tick(now);
                storing.tick(&core.engine);
                positions.save_sometimes();
                if Instant::now() >= next_own {
                    next_own = Instant::now() + config.agent.collect_interval;
                    let mut values = own_samples(&core, &outlet, &sources, &storing);
                    #[expect(clippy::cast_precision_loss, reason = "at most QUEUE")]
                    values.push(Sample { series: queued.clone(), value: observations.len() as f64 });
                    endpoint.samples(&mut values);
                    let events = overhead.look(&sources, &mut values);
                    core.observe(host::now(), Observation::Samples(Samples { collector: "agent", values }));
                    for event in events {
                        screen.show(host::now(), &event);
                        core.observe(host::now(), Observation::Event(Box::new(event)));
                    }
                }
            }
            scrape = endpoint.asked() => endpoint.answer(scrape, &core.engine, host::now(), sources.interval_factor()),
            // Last, so that a flood of them keeps neither a signal nor the time from getting through.
            Some((at, observation)) = observations.recv() => core.take(at, observation, &mut screen),
        }
        core.alerts.drain(..).for_each(|alert| outlet.router.dispatch(host::now(), alert));
        while retiring.try_join_next().is_some() {}
    }
    let deadline = Instant::now() + STOP;
    tracing::info!("stopping");
    drop(endpoint);
    // The sources end, the engine sees all that they saw, and what it has to say is sent.
    sources.stop().await;
    core.drain(&mut observations);
    core.alerts.drain(..).for_each(|alert| outlet.router.dispatch(host::now(), alert));
    // The kernel takes its time to let programs go, and needs nobody's help for it.
    let left = deadline.saturating_duration_since(Instant::now());
    let earlier = tokio::time::timeout(left, async { while retiring.join_next().await.is_some() {} });
    let _ = tokio::join!(
        sources.join(deadline),
        outlet.close(left),
        storing.finish(&core.engine, deadline),
        positions.finish(left),
        earlier
    );
    drop(pid_file);
    Ok(())
}

/// Keys that differ and are read only when the agent starts.
fn fixed_at_start(old: &Config, new: &Config) -> impl Iterator<Item = &'static str> {
    let (agent, new_agent, storage, new_storage) = (&old.agent, &new.agent, &old.storage, &new.storage);
    let differ = [
        ("[agent] hostname", agent.hostname != new_agent.hostname),
        ("[agent] log_level", agent.log_level != new_agent.log_level),
        ("[agent] pid_file", agent.pid_file != new_agent.pid_file),
        ("[agent] data_dir", agent.data_dir != new_agent.data_dir),
        ("[alerting.outbox] max_size_mb", old.alerting.outbox.max_size != new.alerting.outbox.max_size),
        ("[storage] sqlite_enabled", storage.sqlite_enabled != new_storage.sqlite_enabled),
        ("[storage] sqlite_path", storage.sqlite_path != new_storage.sqlite_path),
        ("[storage] sqlite_retention_days", storage.sqlite_retention != new_storage.sqlite_retention),
    ];
    differ.into_iter().filter_map(|(key, differs)| differs.then_some(key))
}

/// How much waits for the engine.
pub const QUEUED: Metric = Metric::gauge(
    "agent_observations_queued",
    Unit::Count,
    "Observations that wait for the engine; beyond 1,024 their sources wait, and count what they miss.",
);

/// The engine, and what it said and nobody has taken yet.
struct Core {
    engine: Engine,
    alerts: Vec<Alert>,
    config: Config,
    hostname: String,
    /// By row of the engine's own metrics.
    series: Vec<SeriesKey>,
}

impl Core {
    fn new(config: &Config, hostname: &str) -> Self {
        let engine = Engine::new(config, hostname);
        let series = engine::METRICS.iter().map(|metric| SeriesKey::new(metric, Labels::new())).collect();
        Self { engine, alerts: Vec::new(), config: config.clone(), hostname: hostname.to_owned(), series }
    }

    /// Hands over one observation. An engine that panics is replaced by a new one, which knows nothing of open incidents.
    fn observe(&mut self, at: Timestamp, observation: Observation) {
        let engine = &mut self.engine;
        let alerts = &mut self.alerts;
        if catch_unwind(AssertUnwindSafe(|| engine.observe(at, observation, alerts))).is_err() {
            tracing::error!("the engine panicked and starts anew; open incidents are forgotten; please report this");
            self.engine = Engine::new(&self.config, &self.hostname);
        }
    }

    /// Takes over another configuration; series and open incidents stay.
    fn reconfigure(&mut self, config: &Config) {
        self.engine.reconfigure(config);
        self.config = config.clone();
    }

    /// Hands over one observation of a source, and shows it where it is an event.
    fn take(&mut self, at: Timestamp, observation: Observation, screen: &mut Screen) {
        if let Observation::Event(event) = &observation {
            screen.show(at, event);
        }
        self.observe(at, observation);
    }

    /// Hands over what was seen before `now` and waits for its turn: time that passes ahead of it would make one source's word come
    /// too late for another's.
    fn catch_up(&mut self, now: Timestamp, observations: &mut Observations, screen: &mut Screen) {
        while let Ok((at, observation)) = observations.try_recv() {
            self.take(at, observation, screen);
            if at >= now {
                return;
            }
        }
    }

    /// Hands over all that waits.
    fn drain(&mut self, observations: &mut Observations) {
        while let Ok((at, observation)) = observations.try_recv() {
            self.observe(at, observation);
        }
    }

    /// What the engine counted.
    fn samples(&self) -> Vec<Sample> {
        let stats = self.engine.stats();
        self.series.iter().zip(stats.values()).map(|(series, (_, value))| Sample { series: series.clone(), value }).collect()
    }

    /// Tells the engine which signals have their probe.
    fn note(&mut self, signals: &[Signal]) {
        for Signal { name, probed, .. } in signals {
            self.observe(host::now(), Observation::Source(SourceState { signal: name, probed: *probed }));
        }
    }
}

/// Reads the configuration again; a bad one changes nothing.
fn reread(path: &Path) -> Option<Config> {
    config::load(path).inspect_err(|problems| tracing::error!("the configuration stays as it was: {problems}")).ok()
}

fn own_samples(core: &Core, outlet: &Outlet, sources: &Sources, storing: &Storing) -> Vec<Sample> {
    let mut samples = core.samples();
    outlet.router.samples(&mut samples);
    sources.logs.samples(&mut samples);
    storing.samples(&mut samples);
    samples
}

/// The name for alerts: the configured one, else the host's.
pub fn hostname(config: &Config) -> String {
    let own = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    config.agent.hostname.clone().unwrap_or_else(own)
}

/// The file that holds the process id; removed when the agent stops.
struct PidFile(Option<std::path::PathBuf>);

impl PidFile {
    fn write(config: &Config) -> anyhow::Result<Self> {
        if let Some(path) = &config.agent.pid_file {
            std::fs::write(path, format!("{}\n", std::process::id())).with_context(|| {
                format!("cannot write [agent] pid_file = {}; its directory must exist and be writable", path.display())
            })?;
        }
        Ok(Self(config.agent.pid_file.clone()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // A file that somebody else removed is as good.
            let _ = std::fs::remove_file(path);
        }
    }
}
