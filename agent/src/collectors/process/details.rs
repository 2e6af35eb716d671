//! What is said of tracked processes alone, because it takes more files to read: since when they run and in which cgroup, kinds of
//! memory, context switches, I/O, and how likely the OOM killer is to choose them.
//!
//! `io` is read where it can hang alone: up to Linux 5.10 it waits for an exec(2) under way, and that for the file system that the
//! program is on.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::entity::Scratch;
use super::{OOM_SCORE_ADJ, READ, RSS_KINDS, START, SWITCHES, WRITTEN};
use crate::collectors::text::{fields, number};
use crate::collectors::{Batch, keys};
use crate::host::{Host, cgroup_of};
use crate::model::{Labels, SeriesKey};

/// How long all `io` files may take together.
const DEADLINE: Duration = Duration::from_millis(500);

/// Looks at a process after which its score and its cgroup are read again; hardly anybody changes them.
const LOOKS: u32 = 10;

/// What `/proc/PID/status` says, in its units: kB, and numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// `RssAnon`, `RssFile`, `RssShmem`: since Linux 4.5.
    pub rss: [Option<u64>; 3],
    /// `voluntary_ctxt_switches`, `nonvoluntary_ctxt_switches` of the main thread.
    pub switches: [Option<u64>; 2],
}

/// Reads the text of `/proc/PID/status`; a line that is not there or not right is left out.
pub fn parse_status(text: &[u8]) -> Status {
    let mut status = Status::default();
    for line in text.split(|&byte| byte == b'\n') {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let (name, value) = line.split_at(colon);
        let slot = match name {
            b"RssAnon" => &mut status.rss[0],
            b"RssFile" => &mut status.rss[1],
            b"RssShmem" => &mut status.rss[2],
            b"voluntary_ctxt_switches" => &mut status.switches[0],
            b"nonvoluntary_ctxt_switches" => &mut status.switches[1],
            _ => continue,
        };
        *slot = value.get(1..).and_then(|value| fields(value).number());
    }
    status
}

/// The bytes that a process had read from and written to storage, in the text of `/proc/PID/io`.
pub fn parse_io(text: &[u8]) -> Option<[u64; 2]> {
    let value = |name: &[u8]| {
        let line = text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(name))?;
        number(line.trim_ascii())
    };
    Some([value(b"read_bytes:")?, value(b"write_bytes:")?])
}

/// The text of `/proc/PID/oom_score_adj`.
fn parse_score(text: &[u8]) -> Option<i16> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

/// Details of one process.
pub struct Details {
    rss: [SeriesKey; 3],
    switches: [SeriesKey; 2],
    io: [SeriesKey; 2],
    score: SeriesKey,
    oom_score_adj: Option<i16>,
    start: SeriesKey,
    /// Seconds since the Unix epoch.
    started: Option<f64>,
    /// Looks until score and cgroup are read again.
    due: u32,
}

impl Details {
    /// Those of the process with these labels, which started at this Unix time.
    pub fn new(labels: &Labels, started: Option<f64>) -> Self {
        let kind = |metric, name: &'static str| SeriesKey::new(metric, labels.clone().with("kind", name));
        let [read, written, score] = keys([&READ, &WRITTEN, &OOM_SCORE_ADJ], labels);
        Self {
            rss: ["anon", "file", "shmem"].map(|name| kind(&RSS_KINDS, name)),
            switches: ["voluntary", "involuntary"].map(|name| kind(&SWITCHES, name)),
            io: [read, written],
            score,
            oom_score_adj: None,
            start: SeriesKey::new(&START, labels.clone()),
            started,
            due: 0,
        }
    }

    /// Reads and emits all but I/O.
    pub fn emit(&mut self, batch: &mut Batch, pid: u32, procfs: &OwnedFd, scratch: &mut Scratch) {
        let status = scratch.find(procfs, pid, "status", |text| Some(parse_status(text))).unwrap_or_default();
        for (series, kilobytes) in self.rss.iter().zip(status.rss) {
            if let Some(kilobytes) = kilobytes {
                batch.push_count(series, kilobytes.saturating_mul(1024));
            }
        }
        for (series, count) in self.switches.iter().zip(status.switches) {
            if let Some(count) = count {
                batch.push_count(series, count);
            }
        }
        if self.due == 0 {
            self.due = LOOKS;
            self.oom_score_adj = scratch.find(procfs, pid, "oom_score_adj", parse_score);
            let cgroup = scratch.find(procfs, pid, "cgroup", |text| cgroup_of(std::str::from_utf8(text).ok()?, "memory"));
            if let Some(cgroup) = cgroup.filter(|cgroup| self.start.labels().get("cgroup") != Some(cgroup)) {
                self.start = SeriesKey::new(&START, self.start.labels().clone().with("cgroup", cgroup));
            }
        }
        self.due -= 1;
        if let Some(started) = self.started {
            batch.push(&self.start, started);
        }
        if let Some(score) = self.oom_score_adj {
            batch.push(&self.score, f64::from(score));
        }
    }

    /// Emits I/O.
    pub fn emit_io(&self, batch: &mut Batch, bytes: [u64; 2]) {
        self.io.iter().zip(bytes).for_each(|(series, bytes)| batch.push_count(series, bytes));
    }
}

/// Reads `io` of many processes.
#[derive(Default)]
pub struct Io {
    /// Those to read in this run.
    pub pids: Vec<u32>,
    /// Those whose `io` did not come back.
    stuck: BTreeSet<u32>,
}

impl Io {
    /// What `io` says of those in `pids` that let it be read; `found` is called for each.
    pub fn read(&mut self, host: &Host, procfs: &OwnedFd, batch: &mut Batch, mut found: impl FnMut(&mut Batch, u32, [u64; 2])) {
        // One that is no longer among them has ended, or is of no more interest.
        self.stuck.retain(|pid| self.pids.contains(pid));
        let pids: Vec<u32> = self.pids.iter().copied().filter(|pid| !self.stuck.contains(pid)).collect();
        let Some(procfs) = procfs.try_clone().ok().filter(|_| !pids.is_empty()) else { return };
        let asked = Arc::new(AtomicU32::new(0));
        let progress = Arc::clone(&asked);
        let read = move || {
            let mut scratch = Scratch::new();
            let mut read = |pid| {
                progress.store(pid, Ordering::Relaxed);
                Some((pid, scratch.find(&procfs, pid, "io", parse_io)?))
            };
            pids.into_iter().filter_map(&mut read).collect::<Vec<_>>()
        };
        match host.isolate().call("the I/O of processes", DEADLINE, read) {
            Ok(answers) => answers.into_iter().for_each(|(pid, bytes)| found(batch, pid, bytes)),
            Err(stuck) => {
                let pid = asked.load(Ordering::Relaxed);
                self.stuck.insert(pid);
                batch.skip(|| format!("{stuck}; the process is {pid}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::text::mangle;

    /// 6.18, shortened.
    const STATUS: &[u8] = b"Name:\tcat :RssAnon: 1\nState:\tS (sleeping)\nVmRSS:\t    5404 kB\nRssAnon:\t    1404 kB\n\
        RssFile:\t    3996 kB\nRssShmem:\t       4 kB\nvoluntary_ctxt_switches:\t132\nnonvoluntary_ctxt_switches:\t7\n";
    /// 6.18.
    const IO: &[u8] = b"rchar: 12292\nwchar: 11\nsyscr: 18\nsyscw: 2\nread_bytes: 8192\nwrite_bytes: 4096\n\
        cancelled_write_bytes: 0\n";

    #[test]
    fn the_files_are_those_of_the_manual() {
        let expected = Status { rss: [Some(1404), Some(3996), Some(4)], switches: [Some(132), Some(7)] };
        assert_eq!(parse_status(STATUS), expected);
        // 3.10 knows no kinds.
        let old = Status { rss: [None; 3], switches: [Some(1), Some(2)] };
        assert_eq!(parse_status(b"voluntary_ctxt_switches:\t1\nnonvoluntary_ctxt_switches:\t2\n"), old);
        assert_eq!(parse_io(IO), Some([8192, 4096]));
        assert_eq!((parse_score(b"-500\n"), parse_score(b"")), (Some(-500), None));
    }

    #[test]
    fn no_input_panics() {
        mangle(STATUS, |text| {
            parse_status(text);
        });
        mangle(IO, |text| {
            let _ = parse_io(text);
        });
    }
}
