//! One attached probe: takes its records, has them told and enriched, counts them, and notices when it is dead.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_common::Count;

use super::attach::Counts;
use super::pulse::{Pulse, Silence};
use super::transport::Transport;
use super::{Attached, Facts, Probe, Row, Seen};
use crate::config;
use crate::host::{Host, Isolate};
use crate::model::{Histogram, KernelEvent, Kind, Labels, Metric, Sample, SeriesKey, Unit};

/// How much of each second one probe may spend on finding out more about its events; further ones go on as they came, so that a
/// flood of one kind holds up the others for no longer than this.
const ENRICHING_BY_SECOND: Duration = Duration::from_millis(250);
/// Records of one probe that are taken before the others have their turn.
const TURN: usize = 256;

/// Metrics that every attached probe has.
pub const METRICS: &[Metric] =
    &[SENT, RECEIVED, LOST, LIMITED, MISSED, UNTRACKED, MALFORMED, MAP_BYTES, PROGRAM_SECONDS, PROGRAM_RUNS];
/// Of these, those that are known at any time.
const COUNTED: usize = METRICS.len() - 2;

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
const PROGRAM_SECONDS: Metric = Metric::counter(
    "agent_bpf_program_seconds_total",
    Unit::Seconds,
    "Time that a probe's programs ran for: an estimate from a fortieth of the time, in which the kernel measures it \
     (BPF_ENABLE_STATS, bpf(2))",
);
const PROGRAM_RUNS: Metric = Metric::counter(
    "agent_bpf_program_runs_total",
    Unit::Count,
    "Runs of a probe's programs: an estimate from a fortieth of the time, in which the kernel counts them",
);

/// A probe that is attached, and what has been read from it.
pub struct Reading {
    pub(super) attached: Attached,
    probe: Arc<dyn Probe>,
    /// The record at hand; kept for its memory.
    record: Vec<u8>,
    received: u64,
    /// What had arrived and what was lost when the probe was last looked at, and whether it was deaf then.
    heard: (u64, u64, bool),
    silence: Silence,
    /// What the kernel told at the start of the present or last measurement, and what all measurements stand for: seconds, runs.
    run_time: (u64, u64),
    ran: Option<(f64, f64)>,
    malformed: u64,
    /// Losses that an event has told of.
    told_lost: u64,
    /// Start of the present second, and how much of it was spent on enriching.
    enriched: (Instant, Duration),
    /// The probe's own, so that what one of them waits for in vain takes no thread from the others.
    isolate: Isolate,
    series: [SeriesKey; METRICS.len()],
}

impl Reading {
    /// Begins to read a probe.
    pub fn new(attached: Attached, host: &Host, settings: &config::Ebpf) -> Self {
        let series = |metric| SeriesKey::new(metric, Labels::new().with("probe", attached.row.name));
        let mut silence = Silence::default();
        if let Some(Pulse { read, floor, .. }) = attached.row.pulse {
            silence.look(0, floor, || read(host));
        }
        Self {
            probe: (attached.row.build)(host, settings),
            record: Vec::new(),
            received: 0,
            heard: (0, 0, false),
            silence,
            run_time: (0, 0),
            ran: None,
            malformed: 0,
            told_lost: 0,
            enriched: (Instant::now(), Duration::ZERO),
            isolate: Isolate::new(),
            series: std::array::from_fn(|index| series(METRICS.get(index).unwrap_or(&SENT))),
            attached,
        }
    }

    /// What becomes readable when there is something to take; errors count on those alone that carry records.
    pub fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        let log = self.attached.log.as_ref().map(|log| (log.as_fd(), false));
        self.attached.transport.fds().map(|fd| (fd, true)).chain(log)
    }

    /// Has the probe look at one event in `one_in`, if it can do that.
    pub fn shed(&mut self, one_in: u32) {
        self.probe.shed(&mut self.attached.ebpf, one_in);
    }

    /// Adds what the probe counts, and tells how it is known to be dead, where it is.
    pub fn sample(
        &mut self,
        host: &Host,
        one_in: u32,
        samples: &mut Vec<Sample>,
        histograms: &mut Vec<Histogram>,
    ) -> Option<String> {
        let Attached { row, ebpf, transport, counts, map_bytes, links, .. } = &self.attached;
        let [sent, limited, untracked] = [Count::Sent, Count::Limited, Count::Untracked].map(|which| counts.get(which));
        let lost = lost(counts, transport);
        let missed = counts.recursion_misses();
        let values: [u64; COUNTED] = [sent, self.received, lost, limited, missed, untracked, self.malformed, *map_bytes];
        #[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 are out of reach")]
        let values = values.iter().map(|value| *value as f64);
        let ran = self.ran.into_iter().flat_map(|(seconds, runs)| [seconds, runs]);
        samples.extend(self.series.iter().zip(values.chain(ran)).map(|(series, value)| Sample { series: series.clone(), value }));
        let from = samples.len();
        self.probe.sample(ebpf, samples, histograms);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and only changes matter")]
        let aggregated = |sample: &Sample| if sample.series.metric().kind == Kind::Counter { sample.value as u64 } else { 0 };
        let aggregated: u64 = samples.get(from..).unwrap_or_default().iter().map(aggregated).fold(0, u64::wrapping_add);

        let (received, lost_before, was_deaf) = self.heard;
        let deaf = received == self.received && lost > lost_before;
        self.heard = (self.received, lost, deaf);
        if deaf && was_deaf {
            return Some(format!(
                "nothing arrives through its {} any more, where {lost} records were lost",
                transport.kind().name()
            ));
        }
        if let Some(gone) = links.gone() {
            return Some(gone);
        }
        let pulse = row.pulse?;
        let own = [self.received, limited, missed, untracked, aggregated].into_iter().fold(0, u64::wrapping_add);
        let rise = self.silence.look(own, pulse.floor * u64::from(one_in.max(1)), || (pulse.read)(host));
        rise.map(|rise| format!("{} rose by {rise} and it told of nothing", pulse.name))
    }

    /// Begins to measure the programs' time.
    pub fn measure(&mut self) {
        self.run_time = self.attached.counts.run_time();
    }

    /// Ends it: it took `measured`, and stands for the time `of`. The programs' time in nanoseconds by second.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn measured(&mut self, measured: Duration, of: Duration) -> u64 {
        let (ns, runs) = self.attached.counts.run_time();
        let (ns, runs) = (ns.saturating_sub(self.run_time.0), runs.saturating_sub(self.run_time.1));
        let measured = measured.as_secs_f64().max(1e-6);
        let scale = of.as_secs_f64() / measured;
        let (seconds, all) = self.ran.unwrap_or_default();
        self.ran = Some((seconds + ns as f64 / 1e9 * scale, all + runs as f64 * scale));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and saturates")]
        let by_second = (ns as f64 / measured) as u64;
        by_second
    }

    /// Takes what has arrived, up to a turn's worth.
    pub fn turn(&mut self, emit: &mut dyn FnMut(Seen) -> bool) -> bool {
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
            event.evidence.insert("source".into(), self.attached.source.into());
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
    pub fn detach(self) -> Detached {
        let Self { attached: Attached { row, ebpf, log, transport, counts, .. }, record, received, .. } = self;
        drop((ebpf, log));
        Detached { row, transport, counts, record, received }
    }
}

/// What is left of a probe without its programs.
pub struct Detached {
    row: &'static Row,
    transport: Transport,
    counts: Counts,
    record: Vec<u8>,
    received: u64,
}

impl Detached {
    /// Counts what arrived until the programs were gone, and tells the final figures.
    pub fn report(mut self) {
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
