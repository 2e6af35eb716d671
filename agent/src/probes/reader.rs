//! Owns all probes for as long as the agent runs: one thread, which waits in poll(2) for what the kernel halves send.
//!
//! Each probe is attached on a rung of its ladder, or waits for its next try. One that dies is detached and goes on from the
//! next lower rung, or leaves its signal to the sources that stand in; after a wait it is tried from the top again. How death is
//! noticed is the business of `reading` and `pulse`; what stands in, of those who are told.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use aya::sys::{Stats, enable_stats};
use rustix::event::{PollFd, PollFlags, poll};

use super::attach::{attach, await_running};
use super::reading::{Detached, Reading};
use super::{Attached, Control, Kernel, Refused, Row, Wanted};
use crate::config;
use crate::host::Host;
use crate::model::{Histogram, KernelEvent, Labels, Metric, Sample, SeriesKey, Unit};

/// The wait before a probe is tried again; it doubles with each try and each death up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);
/// The longest of these waits, and how long a probe must have lived for its waits to begin anew.
const LONGEST: Duration = Duration::from_secs(600);
/// The programs' time is measured in one part in so many, because the kernel takes time itself to measure it.
const MEASURED_PART: u32 = 40;

const ATTACHED: Metric = Metric::gauge(
    "agent_probe_attached",
    Unit::Count,
    "1 where a probe that the configuration asks for is attached, 0 where other sources stand in for it",
);
const RESTARTS: Metric =
    Metric::counter("agent_probe_restarts_total", Unit::Count, "How often a probe was attached while the agent was running");

/// What the reader hands on.
pub enum Seen {
    /// Something happened.
    Event(KernelEvent),
    /// What the probes counted.
    Samples(Vec<Sample>),
    /// The distributions that the probes counted.
    Histograms(Vec<Histogram>),
    /// A probe came or went.
    Step(Step),
}

/// A probe came or went.
pub struct Step {
    /// Which probe.
    pub row: &'static Row,
    /// How.
    pub what: What,
    /// What it is attached to now, in words; `None` where it is not.
    pub source: Option<String>,
    /// When a better way is tried.
    pub again: Option<Duration>,
}

/// How a probe came or went.
pub enum What {
    /// It is attached where it was not, or better.
    Attached,
    /// It is dead, and this is how that was noticed.
    Died(String),
    /// It was taken out because somebody wanted that.
    Suspended,
}

/// All probes that the configuration asks for.
pub struct ProbeReader {
    slots: Vec<Slot>,
    host: Host,
    settings: config::Ebpf,
    interval: Duration,
    log: bool,
    one_in: u32,
    /// The end of the measurement that goes on, and what keeps it going.
    measuring: Option<(Instant, Instant, Option<std::os::fd::OwnedFd>)>,
    last_measured: Instant,
}

/// The life of one probe.
struct Slot {
    row: &'static Row,
    reading: Option<Reading>,
    /// The rung that it was on when it was first attached: those above are not for this kernel.
    home: Option<usize>,
    /// Since when it has been attached or not.
    since: Instant,
    next_try: Option<Instant>,
    wait: Duration,
    suspended: bool,
    restarts: u64,
    series: [SeriesKey; 2],
}

impl Slot {
    fn new(row: &'static Row, reading: Option<Reading>) -> Self {
        let series = |metric| SeriesKey::new(metric, Labels::new().with("probe", row.name));
        let mut slot = Self {
            row,
            home: reading.as_ref().map(|reading| reading.attached.rung),
            reading,
            since: Instant::now(),
            next_try: None,
            wait: FIRST,
            suspended: false,
            restarts: 0,
            series: [&ATTACHED, &RESTARTS].map(series),
        };
        if slot.reading.is_none() {
            slot.wait_longer();
        }
        slot
    }

    /// Sets the next try, and has the one after that wait longer.
    fn wait_longer(&mut self) {
        self.next_try = Some(Instant::now() + self.wait);
        self.wait = (self.wait * 2).min(LONGEST);
    }

    /// The rungs that a try may take: those above the present one, from where it began.
    fn wanted(&self) -> Wanted {
        match &self.reading {
            Some(reading) => Wanted { row: self.row, rungs: self.home.unwrap_or(0)..reading.attached.rung },
            None => Wanted::any(self.row),
        }
    }

    /// Takes the probe that was just attached; what it replaces is still there.
    fn take(&mut self, attached: Attached, host: &Host, settings: &config::Ebpf, one_in: u32) -> Option<Reading> {
        let home = *self.home.get_or_insert(attached.rung);
        self.next_try = None;
        if attached.rung > home {
            self.wait_longer();
        }
        self.since = Instant::now();
        self.restarts += 1;
        let mut reading = Reading::new(attached, host, settings);
        reading.shed(one_in);
        self.reading.replace(reading)
    }

    fn step(&self, what: What) -> Seen {
        let again = self.next_try.map(|next| next.saturating_duration_since(Instant::now()));
        let source =
            self.reading.as_ref().map(|Reading { attached, .. }| format!("{}, {}", attached.source, attached.transport()));
        Seen::Step(Step { row: self.row, what, source, again })
    }
}

impl ProbeReader {
    /// A reader of what was attached at the start; what was refused then is tried again. It samples every `interval`.
    pub fn new(
        results: Vec<Result<Attached, Refused>>,
        host: &Host,
        settings: &config::Ebpf,
        interval: Duration,
        log: bool,
    ) -> Self {
        let slots = results.into_iter().map(|result| match result {
            Ok(attached) => Slot::new(attached.row, Some(Reading::new(attached, host, settings))),
            Err(Refused { row, .. }) => Slot::new(row, None),
        });
        Self {
            slots: slots.collect(),
            host: host.clone(),
            settings: settings.clone(),
            interval,
            log,
            one_in: 1,
            measuring: None,
            last_measured: Instant::now(),
        }
    }

    /// Reads until it is told to stop, or `emit` says `false` because nobody listens any more.
    ///
    /// # Errors
    /// poll(2) failed.
    pub fn run(&mut self, control: &Control, emit: &mut dyn FnMut(Seen) -> bool) -> std::io::Result<()> {
        let mut next_sample = Instant::now();
        loop {
            let mut dead = Vec::new();
            if !self.obey(control, emit) {
                return Ok(());
            }
            if Instant::now() >= next_sample {
                next_sample = Instant::now() + self.interval;
                let (samples, histograms) = self.sample(control, &mut dead);
                if !emit(Seen::Samples(samples)) || !emit(Seen::Histograms(histograms)) {
                    return Ok(());
                }
                self.measure();
            }
            self.end_measurement(control);
            if !self.try_again(emit) || !self.bury(&mut dead, emit) {
                return Ok(());
            }
            let tries = self.slots.iter().filter_map(|slot| slot.next_try);
            let measured = self.measuring.as_ref().map(|(_, end, _)| *end);
            let until = tries.chain(measured).fold(next_sample, Instant::min);
            self.wait(control, until.saturating_duration_since(Instant::now()), &mut dead)?;
            let stopped = control.stopped();
            // A probe with more than a turn's worth of records is ready again at once: its descriptor stays readable.
            for (index, slot) in self.slots.iter_mut().enumerate() {
                let Some(reading) = &mut slot.reading else { continue };
                match catch_unwind(AssertUnwindSafe(|| reading.turn(emit))) {
                    Ok(true) => {}
                    Ok(false) => return Ok(()),
                    Err(_) => dead.push((index, "reading it panicked; please report this".to_owned())),
                }
            }
            if stopped || !self.bury(&mut dead, emit) {
                return Ok(());
            }
        }
    }

    /// Waits for records or orders; notes whose descriptors are in error, which would be ready for ever.
    fn wait(&self, control: &Control, timeout: Duration, dead: &mut Vec<(usize, String)>) -> std::io::Result<()> {
        let mut fds = vec![PollFd::from_borrowed_fd(control.fd(), PollFlags::IN)];
        let mut owners = vec![None];
        for (index, slot) in self.slots.iter().enumerate() {
            for (fd, records) in slot.reading.iter().flat_map(Reading::fds) {
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
                owners.push(records.then_some(index));
            }
        }
        let timeout = rustix::event::Timespec::try_from(timeout).map_err(std::io::Error::other)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        control.heard();
        for (fd, owner) in fds.iter().zip(owners) {
            let errors = fd.revents() & (PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
            if let Some(index) = owner.filter(|_| !errors.is_empty()) {
                dead.push((index, format!("poll(2) on its records says {errors:?}")));
            }
        }
        Ok(())
    }

    fn sample(&mut self, control: &Control, dead: &mut Vec<(usize, String)>) -> (Vec<Sample>, Vec<Histogram>) {
        let (mut samples, mut histograms) = (Vec::new(), Vec::new());
        for (index, slot) in self.slots.iter_mut().enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 are out of reach")]
            let values = [f64::from(u8::from(slot.reading.is_some())), slot.restarts as f64];
            samples.extend(slot.series.iter().zip(values).map(|(series, value)| Sample { series: series.clone(), value }));
            let Some(reading) = &mut slot.reading else { continue };
            match catch_unwind(AssertUnwindSafe(|| reading.sample(&self.host, self.one_in, &mut samples, &mut histograms))) {
                Ok(cause) => dead.extend(cause.map(|cause| (index, cause))),
                Err(_) => dead.push((index, "sampling it panicked; please report this".to_owned())),
            }
        }
        let attached = self.slots.iter().filter_map(|slot| slot.reading.as_ref());
        control.tell_map_bytes(attached.map(|reading| reading.attached.map_bytes).sum());
        (samples, histograms)
    }

    /// Does what others want.
    fn obey(&mut self, control: &Control, emit: &mut dyn FnMut(Seen) -> bool) -> bool {
        let one_in = control.one_in();
        if std::mem::replace(&mut self.one_in, one_in) != one_in {
            self.slots.iter_mut().filter_map(|slot| slot.reading.as_mut()).for_each(|reading| reading.shed(one_in));
        }
        for slot in &mut self.slots {
            let suspended = control.suspended(slot.row.name);
            if std::mem::replace(&mut slot.suspended, suspended) == suspended {
                continue;
            }
            slot.since = Instant::now();
            if !suspended {
                slot.next_try = Some(Instant::now());
                continue;
            }
            slot.next_try = None;
            if let Some(reading) = slot.reading.take()
                && !(end(reading, emit) && emit(slot.step(What::Suspended)))
            {
                return false;
            }
        }
        true
    }

    /// Takes dead probes out of the kernel, and goes on from the next lower rung where there is one.
    fn bury(&mut self, dead: &mut Vec<(usize, String)>, emit: &mut dyn FnMut(Seen) -> bool) -> bool {
        for (index, cause) in dead.drain(..) {
            let Some(slot) = self.slots.get_mut(index) else { continue };
            // One probe may be found dead in two ways.
            let Some(reading) = slot.reading.take() else { continue };
            let lower = reading.attached.rung + 1..slot.row.rungs.len();
            if !end(reading, emit) {
                return false;
            }
            if slot.since.elapsed() > LONGEST {
                slot.wait = FIRST;
            }
            slot.since = Instant::now();
            let mut attached = None;
            if !lower.is_empty() {
                let wanted = Wanted { row: slot.row, rungs: lower };
                attached = attach([wanted], &Kernel::new(self.host.clone()), &self.settings, self.log).pop().and_then(Result::ok);
            }
            match attached {
                Some(attached) => drop(slot.take(attached, &self.host, &self.settings, self.one_in)),
                None => slot.wait_longer(),
            }
            if !emit(slot.step(What::Died(cause))) {
                return false;
            }
        }
        true
    }

    /// Tries those again whose time has come, all at once, as each try reads the kernel's types.
    fn try_again(&mut self, emit: &mut dyn FnMut(Seen) -> bool) -> bool {
        let now = Instant::now();
        let mut due: Vec<&mut Slot> =
            self.slots.iter_mut().filter(|slot| slot.next_try.is_some_and(|next| next <= now)).collect();
        if due.is_empty() {
            return true;
        }
        let wanted: Vec<Wanted> = due.iter().map(|slot| slot.wanted()).collect();
        for result in attach(wanted, &Kernel::new(self.host.clone()), &self.settings, self.log) {
            let (Ok(Attached { row, .. }) | Err(Refused { row, .. })) = &result;
            let Some(slot) = due.iter_mut().find(|slot| slot.row.name == row.name) else { continue };
            match result {
                Ok(attached) => {
                    // The old one leaves when the new one is there: an event in between is told of by both, and by one at least.
                    let old = slot.take(attached, &self.host, &self.settings, self.one_in);
                    if !old.is_none_or(|old| end(old, emit)) || !emit(slot.step(What::Attached)) {
                        return false;
                    }
                }
                Err(_) => slot.wait_longer(),
            }
        }
        true
    }

    /// Begins to measure the programs' time, where the kernel lets us.
    fn measure(&mut self) {
        let always = || std::fs::read(self.host.procfs("sys/kernel/bpf_stats_enabled")).is_ok_and(|text| text.starts_with(b"1"));
        let statistics = match enable_stats(Stats::RunTime) {
            Ok(statistics) => Some(statistics),
            Err(_) if always() => None,
            Err(_) => return,
        };
        let now = Instant::now();
        self.measuring = Some((now, now + self.interval / MEASURED_PART, statistics));
        self.slots.iter_mut().filter_map(|slot| slot.reading.as_mut()).for_each(Reading::measure);
    }

    /// Ends the measurement when its time is over.
    fn end_measurement(&mut self, control: &Control) {
        let now = Instant::now();
        let Some((began, _, _statistics)) = self.measuring.take_if(|(_, end, _)| *end <= now) else { return };
        let of = now.duration_since(self.last_measured);
        self.last_measured = now;
        let readings = self.slots.iter_mut().filter_map(|slot| slot.reading.as_mut());
        let ns_by_second: u64 = readings.map(|reading| reading.measured(now.duration_since(began), of)).sum();
        control.tell_program_ppm(ns_by_second / 1000);
    }
}

/// Hands on what a probe holds and takes it out of the kernel; says whether anybody listens.
fn end(mut reading: Reading, emit: &mut dyn FnMut(Seen) -> bool) -> bool {
    // One that panics again has said enough.
    let listened = catch_unwind(AssertUnwindSafe(|| reading.turn(emit))).unwrap_or(true);
    let detached = reading.detach();
    await_running();
    detached.report();
    listened
}

impl Drop for ProbeReader {
    /// Says what became of each probe's records. The figures are final only when no program runs any more.
    fn drop(&mut self) {
        let detached: Vec<Detached> = self.slots.drain(..).filter_map(|slot| slot.reading).map(Reading::detach).collect();
        await_running();
        detached.into_iter().for_each(Detached::report);
    }
}
