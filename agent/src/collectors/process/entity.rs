//! What is known of one process.

use std::fmt::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, RawDir, openat};
use rustix::io::{Errno, pread};

use super::blocked::Task;
use super::details::Details;
use super::exhausted::is_exhausted;
use super::growing::Kinds;
use super::{CPU, FD_USAGE, FDS, RSS, THREADS};
use crate::collectors::descriptors::{Counting, parse_limit, parse_table_size};
use crate::collectors::interval::{Counters, percent};
use crate::collectors::process_stat::Stat;
use crate::collectors::text::{lossy, number};
use crate::collectors::{Batch, keys};
use crate::host::Host;
use crate::model::{Labels, SeriesKey};

/// Above this share of its limit every process is reported.
pub const NOTABLE_FD_USAGE: f64 = 50.0;

/// Looks at a process after which its limit is read again even though its descriptors did not grow.
const LIMIT_LOOKS: u32 = 20;

/// Buffers for paths and texts below procfs.
pub struct Scratch {
    path: String,
    text: Vec<u8>,
}

impl Scratch {
    /// Buffers for any file but those that grow with what the process does.
    pub fn new() -> Self {
        Self { path: String::new(), text: vec![0; 4 << 10] }
    }

    /// The text of `stat`, read from `kept` or, where that is of a process that is gone, from a file that is opened and
    /// given back.
    ///
    /// # Errors
    /// It cannot be opened or read; `NOENT` and `SRCH` say that the process is gone.
    pub fn stat(&mut self, procfs: &OwnedFd, pid: u32, kept: Option<&OwnedFd>) -> Result<(&[u8], Option<OwnedFd>), Errno> {
        if let Some(Ok(len)) = kept.map(|file| pread(file, &mut *self.text, 0)) {
            return Ok((self.text.get(..len).unwrap_or_default(), None));
        }
        let file = self.open(procfs, pid, "stat")?;
        let len = pread(&file, &mut *self.text, 0)?;
        Ok((self.text.get(..len).unwrap_or_default(), Some(file)))
    }

    /// What `parse` finds in a small file of a process.
    pub fn find<T>(&mut self, procfs: &OwnedFd, pid: u32, file: &str, parse: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let file = self.open(procfs, pid, file).ok()?;
        let len = pread(&file, &mut *self.text, 0).ok()?;
        parse(self.text.get(..len)?)
    }

    /// The number of open descriptors of a process.
    fn count(&mut self, procfs: &OwnedFd, pid: u32, counting: Counting) -> Option<u64> {
        counting.count(procfs, self.path(pid, "fd"))
    }

    /// The text of a thread's `stat`; `None` where it is gone.
    pub fn stat_of_thread(&mut self, procfs: &OwnedFd, Task { pid, tid }: Task) -> Option<&[u8]> {
        let path = self.format(format_args!("{pid}/task/{tid}/stat"));
        let file = openat(procfs, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let len = pread(&file, &mut *self.text, 0).ok()?;
        self.text.get(..len)
    }

    /// Puts the ids of a process' threads into `tids`; none where it is gone.
    pub fn threads(&mut self, procfs: &OwnedFd, pid: u32, tids: &mut Vec<u32>) {
        tids.clear();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(directory) = openat(procfs, self.path(pid, "task"), flags, Mode::empty()) else { return };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut entries = RawDir::new(directory, &mut buffer);
        while let Some(Ok(entry)) = entries.next() {
            tids.extend(number(entry.file_name().to_bytes()).and_then(|tid| u32::try_from(tid).ok()));
        }
    }

    fn open(&mut self, procfs: &OwnedFd, pid: u32, file: &str) -> Result<OwnedFd, Errno> {
        openat(procfs, self.path(pid, file), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }

    fn path(&mut self, pid: u32, file: &str) -> &str {
        self.format(format_args!("{pid}/{file}"))
    }

    fn format(&mut self, path: fmt::Arguments<'_>) -> &str {
        self.path.clear();
        // Writing to a string cannot fail.
        let _ = self.path.write_fmt(path);
        &self.path
    }
}

/// What is known of one process.
pub struct Process {
    start: u64,
    comm: Vec<u8>,
    /// Clock ticks that it ran for.
    pub ticks: Counters<1>,
    /// Whether a pattern names it; `None` until that is decided, once for each program that it runs.
    pub is_named: Option<bool>,
    limit: Limit,
    /// CPU, RSS, threads, descriptors, usage of descriptors; made when first needed.
    series: Option<[SeriesKey; 5]>,
    /// Made when it is first tracked.
    details: Option<Box<Details>>,
    /// Its `stat`, open.
    pub file: Option<OwnedFd>,
    is_kernel_thread: bool,
    /// Inode of its directory, which another process with the same id does not have.
    pub inode: u64,
    /// `R`, `S`, `D`, `Z`, …
    pub state: u8,
    /// CPU in the last interval, in percent of one core.
    pub cpu: Option<f64>,
    /// Resident memory in bytes.
    pub rss: f64,
    /// Number of threads.
    pub threads: u64,
    /// Whether it is one of the largest.
    pub is_top: bool,
    /// Descriptors when they were first counted.
    pub first_fds: Option<u64>,
    /// Whether it is one of those whose descriptors grew most.
    pub is_growing: bool,
    kinds: Option<Box<Kinds>>,
    /// Whether this run has looked at it.
    pub is_fresh: bool,
    /// Whether it had more than half of its descriptors open when they were counted last.
    is_near_limit: bool,
}

impl Process {
    /// A process that was just found.
    pub fn new(stat: &Stat<'_>) -> Self {
        Self {
            start: stat.start,
            comm: stat.comm.to_vec(),
            ticks: Counters::default(),
            is_named: None,
            limit: Limit::default(),
            series: None,
            details: None,
            file: None,
            is_kernel_thread: stat.is_kernel_thread,
            inode: 0,
            state: stat.state,
            cpu: None,
            rss: 0.0,
            threads: 0,
            is_top: false,
            first_fds: None,
            is_growing: false,
            kinds: None,
            is_fresh: true,
            is_near_limit: false,
        }
    }

    /// Notices that the id went to another process, or that the process runs another program.
    pub fn identify(&mut self, stat: &Stat<'_>) {
        if self.start != stat.start {
            *self = Self::new(stat);
        } else if self.comm != stat.comm {
            let (ticks, file) = (std::mem::take(&mut self.ticks), self.file.take());
            *self = Self { ticks, file, ..Self::new(stat) };
        }
    }

    /// Whether there is reason to look at it in each run: it did something, may be blocked, or something is said of it. One that
    /// did nothing for an interval, and still sleeps or has ended, can wait for its turn.
    pub fn is_restless(&self) -> bool {
        self.is_tracked() || self.is_near_limit || self.cpu != Some(0.0) || matches!(self.state, b'R' | b'D')
    }

    /// The number of open descriptors where it matters, and their share of the limit.
    pub fn descriptors(&mut self, pid: u32, procfs: &OwnedFd, counting: Counting, scratch: &mut Scratch) -> Descriptors {
        let found = self.count(pid, procfs, counting, scratch);
        self.is_near_limit = found.usage.is_some_and(|usage| usage > NOTABLE_FD_USAGE);
        found
    }

    fn count(&mut self, pid: u32, procfs: &OwnedFd, counting: Counting, scratch: &mut Scratch) -> Descriptors {
        if self.is_kernel_thread {
            return Descriptors { open: Some(0), ..Descriptors::default() };
        }
        let bounds_do = counting == Counting::ByWalk && !self.is_tracked();
        let bound =
            if bounds_do { scratch.find(procfs, pid, "status", parse_table_size) } else { scratch.count(procfs, pid, counting) };
        let Some(bound) = bound else { return Descriptors::default() };
        if bound > 0 && self.limit.is_outdated(bound) {
            let soft = scratch.find(procfs, pid, "limits", parse_limit);
            // Not all of them again in the same run.
            let age = if self.limit.at.is_none() { pid % LIMIT_LOOKS } else { 0 };
            self.limit = Limit { soft, at: Some(bound), age };
        }
        let soft = self.limit.soft;
        let usage = |fds: u64| percent(fds as f64, soft? as f64);
        if bounds_do && usage(bound).is_some_and(|usage| usage <= NOTABLE_FD_USAGE) {
            return Descriptors::default();
        }
        let open = if bounds_do { scratch.count(procfs, pid, counting) } else { Some(bound) };
        Descriptors {
            open,
            usage: open.and_then(usage),
            exhausted: open.zip(soft).filter(|(open, soft)| is_exhausted(*open, *soft)),
        }
    }

    /// Whether everything is to be said of it.
    pub fn is_tracked(&self) -> bool {
        self.is_top || self.is_growing || self.is_named == Some(true)
    }

    /// Emits what is known of the present run.
    pub fn emit(&mut self, batch: &mut Batch, pid: u32, descriptors: Descriptors) {
        let [cpu, rss, threads, fds, fd_usage] =
            self.series.get_or_insert_with(|| keys([&CPU, &RSS, &THREADS, &FDS, &FD_USAGE], &labels(pid, &self.comm)));
        if let Some(value) = self.cpu {
            batch.push(cpu, value);
        }
        batch.push(rss, self.rss);
        batch.push_count(threads, self.threads);
        if let Some(open) = descriptors.open {
            batch.push_count(fds, open);
        }
        if let Some(usage) = descriptors.usage {
            batch.push(fd_usage, usage);
        }
    }

    /// Emits what takes more files to read, but for I/O; whether that is to be read, too. Threads of the kernel have none of it.
    /// `started` turns clock ticks since boot into Unix time.
    pub fn emit_details(
        &mut self,
        batch: &mut Batch,
        pid: u32,
        procfs: &OwnedFd,
        scratch: &mut Scratch,
        started: impl Fn(u64) -> Option<f64>,
    ) -> bool {
        if !self.is_kernel_thread {
            let new = || Box::new(Details::new(&labels(pid, &self.comm), started(self.start)));
            let details = self.details.get_or_insert_with(new);
            details.emit(batch, pid, procfs, scratch);
        }
        !self.is_kernel_thread
    }

    /// Emits the kinds of its descriptors.
    pub fn emit_kinds(&mut self, batch: &mut Batch, pid: u32, host: &Host) {
        let labels = labels(pid, &self.comm);
        self.kinds.get_or_insert_default().tell(batch, host, pid, &labels);
    }

    /// Emits I/O.
    pub fn emit_io(&self, batch: &mut Batch, bytes: [u64; 2]) {
        if let Some(details) = &self.details {
            details.emit_io(batch, bytes);
        }
    }
}

fn labels(pid: u32, comm: &[u8]) -> Labels {
    Labels::new().with("pid", pid.to_string()).with("comm", lossy(comm))
}

/// Descriptors of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Descriptors {
    /// How many are open; `None` where that is unknown, or known to be few and not asked for.
    pub open: Option<u64>,
    /// In percent of the soft limit.
    pub usage: Option<f64>,
    /// Descriptors and soft limit, where there is no room for another.
    pub exhausted: Option<(u64, u64)>,
}

/// The soft limit of descriptors, read when it may matter.
#[derive(Default)]
struct Limit {
    /// `None`: there is none.
    soft: Option<u64>,
    /// Descriptors when it was read; `None`: it was not.
    at: Option<u64>,
    /// Looks since then.
    age: u32,
}

impl Limit {
    /// Whether to read it again: there are more descriptors than ever since, as many as it allowed, or it was read long ago.
    fn is_outdated(&mut self, fds: u64) -> bool {
        self.age += 1;
        let is_reached = self.soft.is_some_and(|soft| is_exhausted(fds, soft));
        is_reached || self.at.is_none_or(|at| fds > at) || self.age >= LIMIT_LOOKS
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_process_id_that_is_used_again_is_another_process() {
        let stat =
            |start, comm, ticks| Stat { comm, state: b'S', is_kernel_thread: false, ticks, threads: 1, start, rss_pages: 1 };
        let now = Instant::now();
        let mut process = Process::new(&stat(7, b"sh", 100));
        process.ticks.advance(now, [100]);
        process.is_named = Some(true);

        process.identify(&stat(7, b"nginx", 110));
        assert_eq!(process.is_named, None, "another program");
        assert!(process.ticks.advance(now + Duration::from_secs(1), [110]).is_some(), "the same process");

        process.identify(&stat(8, b"nginx", 120));
        assert!(process.ticks.advance(now + Duration::from_secs(2), [120]).is_none(), "another process");
    }

    #[test]
    fn a_limit_is_read_again_when_it_may_matter() {
        let limit = |soft, at, age| Limit { soft: Some(soft), at, age };
        assert!(limit(1024, None, 0).is_outdated(1), "it never was");
        assert!(limit(1024, Some(7), 0).is_outdated(8) && !limit(1024, Some(7), 0).is_outdated(7), "more than ever");
        assert!(limit(1024, Some(1024), 0).is_outdated(1023), "it may have been raised");
        assert!(limit(1024, Some(7), LIMIT_LOOKS - 1).is_outdated(7), "it may have been lowered");
    }

    #[test]
    fn only_a_process_that_did_nothing_waits_for_its_turn() {
        let stat = Stat { comm: b"sh", state: b'S', is_kernel_thread: false, ticks: 100, threads: 1, start: 7, rss_pages: 1 };
        let idle = || Process { cpu: Some(0.0), ..Process::new(&stat) };
        assert!(!idle().is_restless() && !Process { state: b'Z', ..idle() }.is_restless());
        for restless in [
            Process::new(&stat),
            Process { cpu: Some(0.1), ..idle() },
            Process { state: b'D', ..idle() },
            Process { is_named: Some(true), ..idle() },
            Process { is_near_limit: true, ..idle() },
        ] {
            assert!(restless.is_restless());
        }
    }
}
