//! Reads what the kernel halves send: one thread for all probes, which waits in poll(2).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_common::Count;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::attach::{Counts, await_running};
use super::transport::Transport;
use super::{Attached, Facts, Probe, Row};
use crate::config;
use crate::host::{Host, Isolate};
use crate::model::{KernelEvent, Labels, Metric, Sample, SeriesKey, Unit};

/// How much of each second one probe may spend on finding out more about its events; further ones go on as they came, so that a
/// flood of one kind holds up the others for no longer than this.
const ENRICHING_BY_SECOND: Duration = Duration::from_millis(250);
/// Records of one probe that are taken before the others have their turn.
const TURN: usize = 256;

/// Metrics that every attached probe has.
pub const METRICS: &[Metric] = &[SENT, RECEIVED, LOST, LIMITED, MISSED, UNTRACKED, MALFORMED, MAP_BYTES];

const SENT: Metric = Metric::counter(
    "agent_probe_events_sent_total",
    Unit::Count,
    "Records that the kernel half of a probe handed to the transport; each of them is received or lost",
);
const RECEIVED: Metric =
    Metric::counter("agent_probe_events_received_total", Unit::Count, "Records that arrived from the kernel half of a probe");
const LOST: Metric =
    Metric::counter("agent_probe_events_lost_total", Unit::Count, "Records for which the transport from the kernel had no room");
const LIMITED: Metric = Metric::counter(
    "agent_probe_events_limited_total",
    Unit::Count,
    "Events that the kernel half folded into others by its rate limit",
);
const MISSED: Metric = Metric::counter(
    "agent_probe_recursion_misses_total",
    Unit::Count,
    "Runs of the kernel half that the kernel left out, because they would have interrupted another BPF program \
     (recursion_misses in /proc/self/fdinfo)",
);
const UNTRACKED: Metric = Metric::counter(
    "agent_probe_events_untracked_total",
    Unit::Count,
    "Events that the kernel half could not follow because a map of it was full",
);
const MALFORMED: Metric =
    Metric::counter("agent_probe_records_malformed_total", Unit::Count, "Records that were not in the form of the probe");
const MAP_BYTES: Metric = Metric::gauge(
    "agent_bpf_map_memory_bytes",
    Unit::Bytes,
    "Memory of a probe's BPF maps as the kernel accounts it (memlock in /proc/self/fdinfo)",
);

/// What the reader hands on.
pub enum Seen {
    /// Something happened.
    Event(KernelEvent),
    /// What the probes counted.
    Samples(Vec<Sample>),
}

/// Ends a reader from another thread.
#[derive(Clone)]
pub struct Stop(Arc<OwnedFd>);

impl Stop {
    /// Something to end a reader with.
    ///
    /// # Errors
    /// The system is out of file descriptors.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Ends the reader.
    pub fn stop(&self) {
        // The only failure is a counter that is full, and then the reader has been told.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

/// All attached probes.
pub struct ProbeReader {
    probes: Vec<Reading>,
    interval: Duration,
}

struct Reading {
    attached: Attached,
    probe: Arc<dyn Probe>,
    /// The record at hand; kept for its memory.
    record: Vec<u8>,
    received: u64,
    malformed: u64,
    /// Losses that an event has told of.
    told_lost: u64,
    /// Start of the present second, and how much of it was spent on enriching.
    enriched: (Instant, Duration),
    /// The probe's own, so that what one of them waits for in vain takes no thread from the others.
    isolate: Isolate,
    series: [SeriesKey; METRICS.len()],
}

impl ProbeReader {
    /// A reader of `attached`, which samples their counters every `interval`.
    pub fn new(attached: Vec<Attached>, host: &Host, settings: &config::Ebpf, interval: Duration) -> Self {
        let probes = attached.into_iter().map(|attached| {
            let series = |metric| SeriesKey::new(metric, Labels::new().with("probe", attached.row.name));
            Reading {
                probe: (attached.row.build)(host, settings),
                record: Vec::new(),
                received: 0,
                malformed: 0,
                told_lost: 0,
                enriched: (Instant::now(), Duration::ZERO),
                isolate: Isolate::new(),
                series: [&SENT, &RECEIVED, &LOST, &LIMITED, &MISSED, &UNTRACKED, &MALFORMED, &MAP_BYTES].map(series),
                attached,
            }
        });
        Self { probes: probes.collect(), interval }
    }

    /// Reads until it is told to stop, or `emit` says `false` because nobody listens any more.
    ///
    /// # Errors
    /// poll(2) failed.
    pub fn run(&mut self, stop: &Stop, emit: &mut dyn FnMut(Seen) -> bool) -> std::io::Result<()> {
        let mut next_sample = Instant::now();
        loop {
            if Instant::now() >= next_sample {
                next_sample = Instant::now() + self.interval;
                if !emit(Seen::Samples(self.sample())) {
                    return Ok(());
                }
            }
            let stopped = self.wait(stop, next_sample.saturating_duration_since(Instant::now()))?;
            // A probe with more than a turn's worth of records is ready again at once: its descriptor stays readable.
            for reading in &mut self.probes {
                if !reading.turn(emit) {
                    return Ok(());
                }
            }
            if stopped {
                return Ok(());
            }
        }
    }

    /// Waits for records; says whether it was told to stop.
    fn wait(&self, stop: &Stop, timeout: Duration) -> std::io::Result<bool> {
        let mut fds = vec![PollFd::from_borrowed_fd(stop.0.as_fd(), PollFlags::IN)];
        for Reading { attached, .. } in &self.probes {
            fds.extend(attached.transport.fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            fds.extend(attached.log.as_ref().map(|log| PollFd::from_borrowed_fd(log.as_fd(), PollFlags::IN)));
        }
        let timeout = rustix::event::Timespec::try_from(timeout).map_err(std::io::Error::other)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(fds.first().is_some_and(|fd| !fd.revents().is_empty())),
            Err(error) => Err(error.into()),
        }
    }

    fn sample(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        for reading in &self.probes {
            let Reading { attached, probe, received, malformed, series, .. } = reading;
            let [sent, limited, untracked] =
                [Count::Sent, Count::Limited, Count::Untracked].map(|which| attached.counts.get(which));
            let lost = lost(&attached.counts, &attached.transport);
            let missed = attached.counts.recursion_misses();
            let values = [sent, *received, lost, limited, missed, untracked, *malformed, attached.map_bytes];
            #[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 are out of reach")]
            samples
                .extend(series.iter().zip(values).map(|(series, value)| Sample { series: series.clone(), value: value as f64 }));
            probe.sample(&attached.ebpf, &mut samples);
        }
        samples
    }
}

impl Reading {
    /// Takes what has arrived, up to a turn's worth.
    fn turn(&mut self, emit: &mut dyn FnMut(Seen) -> bool) -> bool {
        if let Some(log) = &mut self.attached.log {
            log.flush();
        }
        let mut told = false;
        for _ in 0..TURN {
            if !self.attached.transport.next(&mut self.record) {
                return true;
            }
            self.received += 1;
            let Some(mut event) = self.probe.decode(&self.record) else {
                self.malformed += 1;
                continue;
            };
            // Asking the kernel costs a system call, so the first event of a turn tells for all of them.
            if !std::mem::replace(&mut told, true) {
                self.tell_losses(&mut event);
            }
            let now = Instant::now();
            if now.duration_since(self.enriched.0) >= Duration::from_secs(1) {
                self.enriched = (now, Duration::ZERO);
            }
            if self.enriched.1 < ENRICHING_BY_SECOND {
                enrich(&self.probe, self.record.clone(), &mut event, &self.isolate, self.attached.row);
                self.enriched.1 += now.elapsed();
            } else {
                event.evidence.insert("enrichment".into(), "left out: too many events at a time".into());
            }
            event.message = self.probe.describe(&event);
            if !emit(Seen::Event(event)) {
                return false;
            }
        }
        true
    }

    /// Puts into the event how many of this probe's were lost since one was last told of.
    fn tell_losses(&mut self, event: &mut KernelEvent) {
        let lost = lost(&self.attached.counts, &self.attached.transport);
        if lost > self.told_lost {
            event.evidence.insert("events_lost".into(), (lost - self.told_lost).into());
            self.told_lost = lost;
        }
    }

    /// Takes the programs out of the kernel, and keeps what they leave behind.
    fn detach(self) -> Detached {
        let Self { attached: Attached { row, ebpf, log, transport, counts, .. }, record, received, .. } = self;
        drop((ebpf, log));
        Detached { row, transport, counts, record, received }
    }
}

impl Drop for ProbeReader {
    /// Says what became of each probe's records. The figures are final only when no program runs any more.
    fn drop(&mut self) {
        let detached: Vec<Detached> = self.probes.drain(..).map(Reading::detach).collect();
        await_running();
        detached.into_iter().for_each(Detached::report);
    }
}

/// What is left of a probe without its programs.
struct Detached {
    row: &'static Row,
    transport: Transport,
    counts: Counts,
    record: Vec<u8>,
    received: u64,
}

impl Detached {
    /// Counts what arrived until the programs were gone, and tells the final figures.
    fn report(mut self) {
        while self.transport.next(&mut self.record) {
            self.received += 1;
        }
        let [sent, limited] = [Count::Sent, Count::Limited].map(|which| self.counts.get(which));
        let (lost, missed) = (lost(&self.counts, &self.transport), self.counts.recursion_misses());
        let Self { row: Row { name, .. }, received, .. } = self;
        tracing::info!("probe {name}: sent {sent}, received {received}, lost {lost}, limited {limited}, missed {missed}");
    }
}

/// Records that were lost, from the one who knows more: where the kernel tells both its programs and the transport, the
/// transport lags behind; where it tells the transport alone, the programs know of nothing.
fn lost(counts: &Counts, transport: &Transport) -> u64 {
    counts.get(Count::Lost).max(transport.told_lost())
}

/// Lets the probe find out more about the event where it may wait, until its deadline.
fn enrich(probe: &Arc<dyn Probe>, record: Vec<u8>, event: &mut KernelEvent, isolate: &Isolate, row: &Row) {
    let facts = Facts::default();
    // Events without a process are looked up one at a time: a second search would take as long as the first.
    let subject = event.labels.get("pid").map_or_else(|| row.name.to_owned(), |pid| format!("{} of process {pid}", row.name));
    let (worker, found) = (Arc::clone(probe), facts.clone());
    if let Err(stuck) = isolate.call(&subject, row.deadline, move || worker.enrich(&record, &found)) {
        event.evidence.insert("enrichment".into(), stuck.to_string().into());
    }
    facts.apply(event);
}
