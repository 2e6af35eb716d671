//! File descriptors of the whole system, `/proc/sys/fs/file-nr`, and who has none left.
//!
//! How many single processes have is sampled by `process`. Here a process at its limit is an event, as the system is: what
//! polling cannot see is a process that was at its limit between two runs only, and which calls were refused.

use std::fmt::Write as _;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, RawDir, SeekFrom, seek};

use super::descriptors::{Counting, parse_table_size};
use super::entities::Entities;
use super::interval::percent;
use super::text::{fields, number};
use super::{Batch, Collector, Expected, Row, keys, metrics};
use crate::host::{Host, ProcFile, ReadError};
use crate::model::{Evidence, KernelEvent, Labels, SeriesKey};

pub const ROW: Row = Row {
    name: "fd",
    summary: "file descriptors of the system, and processes that have none left",
    source: "/proc/sys/fs/file-nr, /proc/PID/{fd,limits}",
    interval: |config| config.collector.fd_interval,
    build: |_, host| Box::new(Fd::new(host)),
    metrics: METRICS,
};

metrics! {
    gauge USED: Count = "fd_used_count", "Open file handles (/proc/sys/fs/file-nr).";
    gauge MAX: Count = "fd_max_count", "Most file handles that may be open (/proc/sys/fs/file-nr, fs.file-max).";
    gauge USAGE: Percent = "fd_usage_percent", "Open file handles by the most that may be open.";
}

/// The metric of the events.
const EXHAUSTED: &str = "kernel_fd_exhausted";

/// Descriptors that are free where a process counts as having none: some calls need two at a time.
const SLACK: u64 = 1;

/// A limit below this is no shortage but a sandbox: such processes shall open nothing.
const LEAST_LIMIT: u64 = 16;

/// Runs after which the limit of a process is read again even though the number of its descriptors did not change.
const LIMIT_RUNS: u32 = 20;

/// How long finding out about one process may take, and most processes of a run for which it is done.
const DEADLINE: Duration = Duration::from_millis(100);
const MOST_EXPLAINED: usize = 8;

struct Fd {
    host: Host,
    file_nr: ProcFile,
    series: [SeriesKey; 3],
    procfs: Option<(OwnedFd, Counting)>,
    processes: Entities<u32, Limit>,
    /// Buffers that are kept from run to run.
    entries: Vec<MaybeUninit<u8>>,
    path: String,
}

/// The soft limit of a process, as far as it was asked for.
#[derive(Default)]
struct Limit {
    /// `None`: there is none.
    soft: Option<u64>,
    /// Descriptors when it was read; `None`: it was not.
    at: Option<u64>,
    /// Runs since then.
    age: u32,
}

impl Limit {
    /// The limit of a process that has `bound` descriptors at most.
    fn of(&mut self, host: &Host, pid: u32, bound: u64) -> Option<u64> {
        self.age += 1;
        if self.at != Some(bound) || self.age >= LIMIT_RUNS {
            *self = Self { soft: host.process(pid).descriptor_limit(), at: Some(bound), age: 0 };
        }
        self.soft
    }
}

/// Whether a process with `open` descriptors cannot have another.
fn is_exhausted(open: u64, limit: u64) -> bool {
    limit >= LEAST_LIMIT && open.saturating_add(SLACK) >= limit
}

impl Fd {
    fn new(host: &Host) -> Self {
        Self {
            host: host.apart(),
            file_nr: ProcFile::new(host.procfs("sys/fs/file-nr")),
            series: keys([&USED, &MAX, &USAGE], &Labels::new()),
            procfs: None,
            processes: Entities::default(),
            entries: vec![MaybeUninit::uninit(); 8 << 10],
            path: String::new(),
        }
    }

    /// Tells of the processes that are at their limit.
    fn scan(&mut self, batch: &mut Batch) -> io::Result<()> {
        let (procfs, counting) = match self.procfs.take() {
            Some(open) => open,
            None => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let procfs = rustix::fs::open(self.host.procfs(""), flags, Mode::empty())?;
                let counting = Counting::find(&procfs);
                (procfs, counting)
            }
        };
        seek(&procfs, SeekFrom::Start(0))?;
        let Self { host, processes, entries, path, .. } = self;
        let mut entries = RawDir::new(&procfs, entries);
        let mut explained = 0;
        while let Some(entry) = entries.next() {
            let Some(pid) = number(entry?.file_name().to_bytes()).and_then(|pid| u32::try_from(pid).ok()) else { continue };
            path.clear();
            // Writing to a string cannot fail.
            let _ = write!(path, "{pid}/fd");
            let count = || counting.count(&procfs, path);
            let bound = match counting {
                Counting::BySize => count(),
                Counting::ByWalk => host.process(pid).text("status").and_then(|status| parse_table_size(status.as_bytes())),
            };
            let Some(bound) = bound.filter(|bound| *bound > 0) else { continue };
            let limit = processes.see(&pid, Limit::default, |limit| limit.of(host, pid, bound));
            let Some(limit) = limit.filter(|limit| is_exhausted(bound, *limit)) else { continue };
            let Some(open) = count().filter(|open| is_exhausted(*open, limit)) else { continue };
            batch.events.extend(exhausted(host, pid, open, limit, explained < MOST_EXPLAINED));
            explained += 1;
        }
        processes.end_run();
        self.procfs = Some((procfs, counting));
        Ok(())
    }
}

/// The event of a process at its limit; `None` where it is gone.
fn exhausted(host: &Host, pid: u32, open: u64, limit: u64, explain: bool) -> Option<KernelEvent> {
    let comm = host.process(pid).comm()?;
    let find = move |host: &Host, tell: crate::host::Tell<'_>| {
        let process = host.process(pid);
        if let Some(open) = process.descriptors() {
            host.descriptor_facts(pid, &open, tell);
        }
        let facts = [
            ("cgroup", process.cgroup("memory").map(serde_json::Value::from)),
            ("uid", process.uid().map(Into::into)),
            // Last, because it may wait for the process' memory map.
            ("command_line", process.command_line().map(Into::into)),
        ];
        facts.into_iter().for_each(|(name, fact)| fact.into_iter().for_each(|fact| tell(name, fact)));
    };
    let mut evidence = if explain {
        host.facts(&format!("the descriptors of process {pid}"), DEADLINE, find)
    } else {
        Evidence::from_iter([("enrichment".to_owned(), "left out: too many processes at a time".into())])
    };
    evidence.insert("source".into(), "/proc/PID/fd, /proc/PID/limits".into());
    evidence.insert("limit".into(), limit.into());
    let kind = evidence.get("commonest").and_then(|kind| kind.as_str()).map_or(String::new(), |kind| format!(", mostly {kind}"));
    Some(KernelEvent {
        metric: EXHAUSTED,
        message: format!("{comm} (pid {pid}) has {open} file descriptors open of {limit} that it may have{kind}"),
        labels: Labels::new().with("pid", pid.to_string()).with("comm", comm),
        value: open as f64,
        threshold: Some(limit as f64),
        count: 1,
        source: "poll",
        evidence,
    })
}

/// The event of a system that is at its limit.
fn system_exhausted(used: u64, max: u64) -> KernelEvent {
    let evidence = [("source", "/proc/sys/fs/file-nr".into()), ("limit", max.into()), ("scope", "system".into())];
    KernelEvent {
        metric: EXHAUSTED,
        labels: Labels::new(),
        value: used as f64,
        threshold: Some(max as f64),
        count: 1,
        message: format!("the system has {used} file handles open of {max} that it may have: nobody gets another"),
        source: "poll",
        evidence: evidence.into_iter().map(|(name, fact): (&str, serde_json::Value)| (name.to_owned(), fact)).collect(),
    }
}

impl Collector for Fd {
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let listed = self.scan(batch);
        let Self { file_nr, series: [used_series, max_series, usage_series], .. } = self;
        batch.lines(file_nr.read()?, |batch, line| {
            let (used, max) = parse_file_nr(line)?;
            batch.push_count(used_series, used);
            batch.push_count(max_series, max);
            if let Some(usage) = percent(used as f64, max as f64) {
                batch.push(usage_series, usage);
            }
            if used >= max {
                batch.events.push(system_exhausted(used, max));
            }
            Ok(())
        });
        listed.map_err(|cause| ReadError { path: self.host.procfs(""), cause })
    }
}

/// Handles in use and their maximum. What is allocated and free, which is none since 2.6, is not in use.
fn parse_file_nr(line: &[u8]) -> Result<(u64, u64), Expected> {
    let [allocated, free, max] = fields(line).numbers().ok_or("three numbers")?;
    Ok((allocated.checked_sub(free).ok_or("no more free than allocated")?, max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::text::mangle;

    #[test]
    fn file_nr_is_read() {
        assert_eq!(parse_file_nr(b"1568\t0\t97112"), Ok((1568, 97_112)));
        assert_eq!(parse_file_nr(b"668\t0\t9223372036854775807"), Ok((668, 9_223_372_036_854_775_807)));
        assert_eq!(parse_file_nr(b"668\t0"), Err("three numbers"));
        assert_eq!(parse_file_nr(b"1\t2\t3"), Err("no more free than allocated"));
    }

    #[test]
    fn a_process_at_its_limit_is_an_event() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 16; exec 3</dev/null 4<&3 5<&3 6<&3 7<&3 8<&3 9<&3; echo; read line"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let (host, pid) = (Host::new(crate::config::HostRoots::default()), child.id());
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
        assert!(!is_exhausted(open, 16), "it has some left: {open}");
        let event = exhausted(&host, pid, open, 16, true).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(event.labels.to_string(), format!("{{comm=\"sh\",pid=\"{pid}\"}}"));
        assert_eq!((event.value, event.threshold), (open as f64, Some(16.0)));
        assert!(event.evidence["kinds"]["file"].as_u64().unwrap() >= 7, "{event:?}");
        assert_eq!(exhausted(&host, u32::MAX, 1, 1, true), None);
        assert!(is_exhausted(63, 64) && is_exhausted(64, 64) && is_exhausted(70, 64) && !is_exhausted(62, 64));
        assert!(!is_exhausted(3, 1), "a sandbox");
    }

    #[test]
    fn a_limit_is_read_again_when_the_number_changes() {
        let host = Host::new(crate::config::HostRoots::default());
        let mut limit = Limit { soft: Some(1), at: Some(7), age: 0 };
        assert_eq!(limit.of(&host, std::process::id(), 7), Some(1), "kept");
        assert_ne!(limit.of(&host, std::process::id(), 8), Some(1), "read");
        limit.soft = Some(1);
        assert!((0..LIMIT_RUNS).any(|_| limit.of(&host, std::process::id(), 8) != Some(1)));
    }

    #[test]
    fn no_input_panics() {
        mangle(b"1568\t0\t97112", |line| {
            let _ = parse_file_nr(line);
        });
    }
}
