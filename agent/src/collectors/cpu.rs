//! Use of the processors: `/proc/stat` and `/proc/loadavg`, described in proc_stat(5) and proc_loadavg(5).
//!
//! Percentages are shares of the ticks that the kernel booked between two runs, so no clock is involved.

use super::entities::Entities;
use super::interval::{Counters, percent};
use super::text::{decimal, fields, number};
use super::{Batch, Collector, Expected, Row, keys, metrics, plain};
use crate::host::{Host, ProcFile, ReadError};
use crate::model::{Labels, SeriesKey};

pub const ROW: Row = Row {
    name: "cpu",
    summary: "use of the processors, load, context switches, interrupts, forks",
    source: "/proc/stat, /proc/loadavg",
    interval: |config| config.collector.cpu_interval,
    build: |_, host| Box::new(Cpu::new(host)),
    metrics: METRICS,
};

metrics! {
    gauge USAGE: Percent = "cpu_usage_percent",
        "Share of time that was neither idle nor waiting for I/O, of all cores or of one (/proc/stat).";
    gauge USER: Percent = "cpu_user_percent", "Share of time in user mode, niced and guest time included (/proc/stat).";
    gauge SYSTEM: Percent = "cpu_system_percent", "Share of time in kernel mode (/proc/stat).";
    gauge IOWAIT: Percent = "cpu_iowait_percent", "Share of time idle while I/O was outstanding (/proc/stat).";
    gauge IRQ: Percent = "cpu_irq_percent", "Share of time in hardware interrupts (/proc/stat).";
    gauge SOFTIRQ: Percent = "cpu_softirq_percent", "Share of time in softirqs (/proc/stat).";
    gauge STEAL: Percent = "cpu_steal_percent", "Share of time that the hypervisor gave to other guests (/proc/stat).";
    gauge ONLINE: Count = "cpu_processors_online", "Logical processors that are online (/proc/stat).";
    counter CONTEXT_SWITCHES: Count = "cpu_context_switches_total", "Context switches since boot (/proc/stat ctxt).";
    counter INTERRUPTS: Count = "cpu_interrupts_total", "Interrupts serviced since boot (/proc/stat intr).";
    counter FORKS: Count = "cpu_forks_total", "Processes and threads created since boot (/proc/stat processes).";
    gauge RUNNING: Count = "cpu_tasks_running", "Tasks that are running or ready to run (/proc/stat procs_running).";
    gauge BLOCKED: Count = "cpu_tasks_blocked", "Tasks that wait for I/O to complete (/proc/stat procs_blocked).";
    gauge LOAD_1: Count = "cpu_load_1m", "Load average over one minute (/proc/loadavg).";
    gauge LOAD_5: Count = "cpu_load_5m", "Load average over five minutes (/proc/loadavg).";
    gauge LOAD_15: Count = "cpu_load_15m", "Load average over fifteen minutes (/proc/loadavg).";
    gauge LOAD_PER_CORE: Ratio = "cpu_load_per_core", "Load average over five minutes by online processor (/proc/loadavg).";
}

/// Ticks since boot: user with nice, system, idle, iowait, irq, softirq, steal. Guest time is in user already.
type Ticks = [u64; 7];

/// How far idle time and time waiting for I/O may go backwards and still be the same counter: 3 s for each processor.
const MOST_BACKWARDS: u64 = 300;

struct Core {
    ticks: Counters<7>,
    /// The most that was read of idle and iowait.
    idle: [u64; 2],
    /// How many processors it stands for.
    width: u64,
    usage: SeriesKey,
}

impl Core {
    fn new(name: &str) -> Self {
        let usage = SeriesKey::new(&USAGE, Labels::new().with("core", name));
        Self { ticks: Counters::default(), idle: [0; 2], width: 1, usage }
    }

    /// The same ticks, but for idle and iowait that went back a little. The kernel takes the two together from clocks of its own
    /// that do not agree with each other, so that either may shrink while nothing was reset (proc_stat(5)).
    fn straighten(&mut self, ticks: Ticks) -> Ticks {
        let [user, system, idle, iowait, irq, softirq, steal] = ticks;
        let most = MOST_BACKWARDS.saturating_mul(self.width);
        let held = |value: u64, held: u64| if value < held && held - value <= most { held } else { value };
        let [last_idle, last_iowait] = self.idle;
        self.idle = [held(idle, last_idle), held(iowait, last_iowait)];
        let [idle, iowait] = self.idle;
        [user, system, idle, iowait, irq, softirq, steal]
    }
}

struct Cpu {
    stat: ProcFile,
    loadavg: ProcFile,
    all: Core,
    cores: Entities<u32, Core>,
    /// Series of user, system, iowait, irq, softirq, steal.
    modes: [SeriesKey; 6],
    online: SeriesKey,
    /// Lines of `/proc/stat` that hold one value.
    values: [(&'static [u8], SeriesKey); 5],
    loads: [SeriesKey; 3],
    load_per_core: SeriesKey,
}

impl Cpu {
    fn new(host: &Host) -> Self {
        Self {
            stat: ProcFile::new(host.procfs("stat")),
            loadavg: ProcFile::new(host.procfs("loadavg")),
            all: Core::new("all"),
            cores: Entities::default(),
            modes: keys([&USER, &SYSTEM, &IOWAIT, &IRQ, &SOFTIRQ, &STEAL], &Labels::new().with("core", "all")),
            online: plain(&ONLINE),
            values: [
                (b"ctxt", plain(&CONTEXT_SWITCHES)),
                (b"intr", plain(&INTERRUPTS)),
                (b"processes", plain(&FORKS)),
                (b"procs_running", plain(&RUNNING)),
                (b"procs_blocked", plain(&BLOCKED)),
            ],
            loads: keys([&LOAD_1, &LOAD_5, &LOAD_15], &Labels::new()),
            load_per_core: plain(&LOAD_PER_CORE),
        }
    }

    /// Reads `/proc/stat`; gives the number of processors online.
    fn collect_stat(&mut self, batch: &mut Batch) -> Result<u32, ReadError> {
        let Self { stat, all, cores, modes, values, .. } = self;
        let mut online = 0;
        batch.lines(stat.read()?, |batch, line| {
            match parse_stat_line(line)? {
                Line::All(ticks) => {
                    if let Some(by) = emit_usage(batch, all, ticks) {
                        let [user, system, _, iowait, irq, softirq, steal] = by;
                        for (series, part) in modes.iter().zip([user, system, iowait, irq, softirq, steal]) {
                            batch.push(series, part);
                        }
                    }
                }
                Line::Core(number, ticks) => {
                    online += 1;
                    let ticks = ticks.ok_or(TICKS)?;
                    cores.see(&number, || Core::new(&number.to_string()), |core| emit_usage(batch, core, ticks));
                }
                Line::Value(name, value) => {
                    if let Some((_, series)) = values.iter().find(|(known, _)| *known == name) {
                        batch.push_count(series, value.ok_or("a number")?);
                    }
                }
            }
            Ok(())
        });
        self.cores.end_run();
        self.all.width = online.max(1).into();
        if online > 0 {
            batch.push(&self.online, online.into());
        }
        Ok(online)
    }
}

/// Emits the usage of one core or all; gives the share of each kind of time in percent.
fn emit_usage(batch: &mut Batch, core: &mut Core, ticks: Ticks) -> Option<[f64; 7]> {
    let ticks = core.straighten(ticks);
    let growth = core.ticks.advance(batch.at(), ticks)?;
    let whole = growth.by.iter().map(|&by| by as f64).sum::<f64>();
    let shares = growth.by.map(|by| percent(by as f64, whole));
    let [_, _, idle, iowait, ..] = growth.by;
    batch.push(&core.usage, percent(whole - idle as f64 - iowait as f64, whole)?);
    Some(shares.map(Option::unwrap_or_default))
}

impl Collector for Cpu {
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let online = self.collect_stat(batch);
        let Self { loadavg, loads, load_per_core, .. } = self;
        loadavg.read().map(|text| {
            batch.lines(text, |batch, line| {
                let averages = parse_loadavg(line)?;
                for (series, average) in loads.iter().zip(averages) {
                    batch.push(series, average);
                }
                if let (Ok(online @ 1..), [_, five, _]) = (&online, averages) {
                    batch.push(load_per_core, five / f64::from(*online));
                }
                Ok(())
            });
        })?;
        online.map(drop)
    }
}

const TICKS: Expected = "at least four numbers of ticks";

/// One line of `/proc/stat`.
#[derive(Debug, PartialEq)]
enum Line<'a> {
    /// All processors together.
    All(Ticks),
    /// One processor that is online; it counts as such even if its ticks cannot be read.
    Core(u32, Option<Ticks>),
    /// Any other line: its name and first number.
    Value(&'a [u8], Option<u64>),
}

/// Lines are told apart by name, never by place: processors come and go.
fn parse_stat_line(line: &[u8]) -> Result<Line<'_>, Expected> {
    let mut rest = fields(line);
    let name = rest.next().ok_or("a name")?;
    match name.strip_prefix(b"cpu") {
        Some(b"") => parse_ticks(rest).map(Line::All).ok_or(TICKS),
        Some(core) => {
            let core = number(core).and_then(|core| u32::try_from(core).ok()).ok_or("the number of a cpu")?;
            Ok(Line::Core(core, parse_ticks(rest)))
        }
        None => Ok(Line::Value(name, rest.number())),
    }
}

/// Fields that a kernel does not have are zero: 2.6.11 was the last to lack steal, but some containers' file systems do too.
fn parse_ticks(mut rest: super::text::Fields<'_>) -> Option<Ticks> {
    let [user, nice, system, idle] = rest.numbers()?;
    let mut more = [0; 4];
    for (slot, field) in more.iter_mut().zip(rest) {
        *slot = number(field)?;
    }
    let [iowait, irq, softirq, steal] = more;
    Some([user.checked_add(nice)?, system, idle, iowait, irq, softirq, steal])
}

fn parse_loadavg(line: &[u8]) -> Result<[f64; 3], Expected> {
    let mut rest = fields(line);
    let mut next = || rest.next().and_then(decimal).filter(|load| *load >= 0.0).ok_or("three load averages");
    Ok([next()?, next()?, next()?])
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::collectors::text::mangle;

    #[test]
    fn lines_of_several_kernels_are_read() {
        // 2.6.32 has nine columns of ticks, 3.10 and 6.18 ten.
        assert_eq!(
            parse_stat_line(b"cpu  10132153 290696 3084719 46828483 16683 0 25195 0 0"),
            Ok(Line::All([10_422_849, 3_084_719, 46_828_483, 16_683, 0, 25_195, 0]))
        );
        assert_eq!(
            parse_stat_line(b"cpu1 14262 0 4648 148831 507 0 92 40 0 0"),
            Ok(Line::Core(1, Some([14_262, 4648, 148_831, 507, 0, 92, 40])))
        );
        assert_eq!(parse_stat_line(b"cpu0 1 2 3 4"), Ok(Line::Core(0, Some([3, 3, 4, 0, 0, 0, 0]))));
        assert_eq!(parse_stat_line(b"intr 297842 0 0 0 1"), Ok(Line::Value(b"intr", Some(297_842))));
        assert_eq!(parse_loadavg(b"0.54 0.22 0.19 3/111 11315"), Ok([0.54, 0.22, 0.19]));
    }

    #[test]
    fn idle_time_that_shrinks_a_little_costs_nothing_and_a_reset_one_interval() {
        let start = Instant::now();
        let mut core = Core::new("0");
        let mut usage_after = |secs, ticks| {
            let mut batch = Batch::new(start + Duration::from_secs(secs));
            emit_usage(&mut batch, &mut core, ticks);
            batch.samples.first().map(|sample| sample.value)
        };
        assert_eq!(usage_after(0, [100, 0, 1000, 500, 0, 0, 0]), None);
        assert_eq!(usage_after(10, [200, 0, 1100, 495, 0, 0, 0]), Some(50.0));
        assert_eq!(usage_after(20, [300, 0, 1200, 500, 0, 0, 0]), Some(50.0), "it is back where it was");
        assert_eq!(usage_after(30, [10, 0, 20, 0, 0, 0, 0]), None, "the processor was plugged in again");
        assert_eq!(usage_after(40, [110, 0, 120, 0, 0, 0, 0]), Some(50.0));
    }

    #[test]
    fn a_bad_line_says_what_was_expected() {
        assert_eq!(parse_stat_line(b"cpu 1 2 x 4"), Err(TICKS));
        assert_eq!(parse_stat_line(b"cpu0 1 2 3"), Ok(Line::Core(0, None)));
        assert_eq!(parse_stat_line(b"cpux 1 2 3 4"), Err("the number of a cpu"));
        assert_eq!(parse_loadavg(b"0.54 -0.22 0.19"), Err("three load averages"));
    }

    #[test]
    fn no_input_panics() {
        mangle(b"cpu1 14262 0 4648 148831 507 0 92 40 0 0", |line| {
            let _ = parse_stat_line(line);
        });
        mangle(b"0.54 0.22 0.19 3/111 11315", |line| {
            let _ = parse_loadavg(line);
        });
    }
}
