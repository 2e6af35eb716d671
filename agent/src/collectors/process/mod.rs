//! Processes: how many there are, and what the ones that matter take.
//!
//! Those that matter are the largest by CPU and by resident memory, those that a pattern names, those whose descriptors grew most,
//! and any that has more than half of its descriptors open. Of all, those that are blocked for long or have no descriptor left are told of as events. A
//! process is its id and its start time; one that vanishes while it is looked at is no error.
//!
//! On a host with more than [`MANY`] processes, those that did nothing take turns, since reading about a process costs the same
//! whether or not it did anything: each is looked at in one of [`TURNS`] runs, and counts as what it was meanwhile.

mod blocked;
mod details;
mod entity;
mod exhausted;
mod growing;

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, RawDir, SeekFrom, seek};
use rustix::io::Errno;

use self::blocked::{Blocked, Task};
use self::details::Io;
use self::entity::{NOTABLE_FD_USAGE, Process, Scratch};
use self::growing::Growing;
use super::descriptors::Counting;
use super::entities::Entities;
use super::process_stat::{Stat, parse_stat};
use super::text::{lossy, number};
use super::{Batch, Collector, Row, keys, metrics};
use crate::config::{Pattern, ProcessCollector};
use crate::host::{Host, ReadError};
use crate::model::{Labels, SeriesKey};

pub const ROW: Row = Row {
    name: "process",
    summary: "processes in total, and CPU, memory, threads and descriptors of those that matter",
    source: "/proc/PID/{stat,status,fd,limits,io,cgroup,oom_score_adj,task}",
    interval: |config| config.collector.process_interval,
    build: |config, host| Box::new(Processes::new(host, &config.collector.process)),
    metrics: METRICS,
};

metrics! {
    gauge COUNT: Count = "process_pids", "Processes, threads of the kernel included (/proc).";
    gauge THREAD_COUNT: Count = "process_all_threads", "Threads of all processes (/proc/PID/stat).";
    gauge ZOMBIES: Count = "process_zombies", "Processes that ended and were not waited for (/proc/PID/stat, state Z).";
    gauge BLOCKED: Count = "process_uninterruptible",
        "Processes whose main thread is in uninterruptible sleep (/proc/PID/stat, state D).";
    gauge CPU: Percent = "process_cpu_percent", "Processor time of the process by time; 100 is one core (/proc/PID/stat).";
    gauge RSS: Bytes = "process_rss_bytes", "Resident memory of the process (/proc/PID/stat).";
    gauge START: Seconds = "process_start_time_seconds",
        "When the process started, in seconds since the Unix epoch, and its memory cgroup (/proc/PID/stat, /proc/PID/cgroup).";
    gauge RSS_KINDS: Bytes = "process_rss_kind_bytes",
        "Resident memory of the process by kind: anon, file, shmem (/proc/PID/status, Linux 4.5).";
    counter SWITCHES: Count = "process_context_switches_total",
        "Context switches of the main thread by kind: voluntary, involuntary (/proc/PID/status).";
    counter READ: Bytes = "process_read_bytes_total", "Bytes that the process had read from storage (/proc/PID/io).";
    counter WRITTEN: Bytes = "process_written_bytes_total", "Bytes that the process had written to storage (/proc/PID/io).";
    gauge OOM_SCORE_ADJ: Count = "process_oom_score_adj",
        "How much likelier the OOM killer chooses the process, from -1000 to 1000 (/proc/PID/oom_score_adj).";
    gauge THREADS: Count = "process_threads", "Threads of the process (/proc/PID/stat).";
    gauge FDS: Count = "process_open_fds", "Descriptors that the process has open (/proc/PID/fd).";
    gauge FD_USAGE: Percent = "process_fd_usage_percent",
        "Descriptors that the process has open, by its soft limit of them (/proc/PID/fd, /proc/PID/limits).";
    gauge FDS_BY_KIND: Count = "process_open_fds_by_kind",
        "Descriptors by what they refer to, of the four processes whose number of them grew most; absent above 4096 (/proc/PID/fd).";
    gauge FDS_BY_PREFIX: Count = "process_open_fds_by_prefix",
        "Descriptors of those four by what most of them lead to: a directory, a peer (/proc/PID/fd, /proc/PID/net/tcp).";
}

/// Most processes whose `stat` is kept open, which halves the cost of reading it. Descriptors are scarce too.
const MAX_KEPT: usize = 256;

/// Processes above which those that did nothing take turns, and runs in which each has its turn.
const MANY: u64 = 1024;
const TURNS: u32 = 4;

/// How long reading a command line may take. It waits for the process' memory map, which a stuck process may hold for ever.
const CMDLINE_DEADLINE: Duration = Duration::from_millis(100);

/// Most that is read of a command line.
const CMDLINE_LEN: u64 = 64 << 10;

struct Processes {
    host: Host,
    /// For finding out about processes without descriptors.
    apart: Host,
    top: usize,
    patterns: Vec<Pattern>,
    page_size: f64,
    ticks_per_second: f64,
    /// When the host was booted, in seconds since the Unix epoch.
    boot: Option<f64>,
    procfs: Option<(OwnedFd, Counting)>,
    processes: Entities<u32, Process>,
    totals: [SeriesKey; 4],
    /// Buffers that are kept from run to run.
    entries: Vec<MaybeUninit<u8>>,
    scratch: Scratch,
    /// Processes whose `stat` is kept open.
    kept: usize,
    /// How many processes the last run saw, and whose turn this one is.
    count: u64,
    turn: u32,
    ranking: Vec<(f64, u32)>,
    blocked: Blocked,
    io: Io,
}

impl Processes {
    fn new(host: &Host, config: &ProcessCollector) -> Self {
        Self {
            host: host.clone(),
            apart: host.apart(),
            top: config.track_top_n,
            patterns: config.track_patterns.clone(),
            page_size: rustix::param::page_size() as f64,
            ticks_per_second: rustix::param::clock_ticks_per_second() as f64,
            boot: None,
            procfs: None,
            processes: Entities::default(),
            totals: keys([&COUNT, &THREAD_COUNT, &ZOMBIES, &BLOCKED], &Labels::new()),
            entries: vec![MaybeUninit::uninit(); 8 << 10],
            scratch: Scratch::new(),
            kept: 0,
            count: 0,
            turn: 0,
            ranking: Vec::new(),
            blocked: Blocked::new(host),
            io: Io::default(),
        }
    }

    /// Reads the `stat` of all processes that are to be looked at.
    fn scan(&mut self, batch: &mut Batch, procfs: &OwnedFd) -> io::Result<()> {
        seek(procfs, SeekFrom::Start(0))?;
        let mut entries = RawDir::new(procfs, &mut self.entries);
        let [mut count, mut threads, mut zombies, mut blocked] = [0; 4];
        let are_many = self.count > MANY;
        self.turn = (self.turn + 1) % TURNS;
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let Some(pid) = number(entry.file_name().to_bytes()).and_then(|pid| u32::try_from(pid).ok()) else { continue };
            let inode = entry.ino();
            let can_wait = |process: &mut Process| {
                process.is_fresh = process.is_restless() || process.inode != inode;
                if !process.is_fresh {
                    count += 1;
                    threads += process.threads;
                    zombies += u64::from(process.state == b'Z');
                }
                !process.is_fresh
            };
            if are_many && pid % TURNS != self.turn && self.processes.pass(&pid, can_wait) {
                continue;
            }
            let path = || self.host.procfs(format!("{pid}/stat"));
            let kept = self.processes.get_mut(&pid).and_then(|process| process.file.as_ref());
            let (stat, opened) = match self.scratch.stat(procfs, pid, kept) {
                Ok((text, opened)) => match parse_stat(text) {
                    Ok(stat) => (stat, opened),
                    Err(expected) => {
                        batch.skip(|| format!("{}: expected {expected}", path().display()));
                        continue;
                    }
                },
                Err(Errno::NOENT | Errno::SRCH) => continue,
                Err(error) => {
                    batch.skip(|| format!("cannot read {}: {error}", path().display()));
                    continue;
                }
            };
            count += 1;
            threads += stat.threads;
            zombies += u64::from(stat.state == b'Z');
            if stat.state == b'D' {
                blocked += 1;
                self.blocked.see(Task { pid, tid: pid }, &stat);
            }
            let (host, patterns, ticks_per_second) = (&self.apart, &self.patterns, self.ticks_per_second);
            self.processes.see(
                &pid,
                || Process::new(&stat),
                |process| {
                    process.identify(&stat);
                    (process.inode, process.state, process.is_fresh) = (inode, stat.state, true);
                    if are_many && !process.is_restless() {
                        process.file = None;
                    } else if opened.is_some() && self.kept < MAX_KEPT {
                        process.file = opened;
                        self.kept += 1;
                    }
                    if process.is_named.is_none() {
                        process.is_named = is_named(host, patterns, batch, pid, &stat);
                    }
                    process.cpu = process.ticks.advance(batch.at(), [stat.ticks]).map(|growth| {
                        let [ticks] = growth.by;
                        ticks as f64 / ticks_per_second / growth.seconds * 100.0
                    });
                    process.rss = stat.rss_pages as f64 * self.page_size;
                    process.threads = stat.threads;
                    process.is_top = false;
                },
            );
        }
        self.processes.end_run();
        self.count = count;
        self.kept = self.processes.iter_mut().filter(|(_, process)| process.file.is_some()).count();
        for (series, value) in self.totals.iter().zip([count, threads, zombies, blocked]) {
            batch.push_count(series, value);
        }
        Ok(())
    }

    /// Marks the processes that `measure` is largest of; one without it, or with zero, is none of them.
    fn rank(&mut self, measure: impl Fn(&Process) -> Option<f64>) {
        let ranking = &mut self.ranking;
        ranking.clear();
        let measured = self.processes.iter_mut().filter_map(|(&pid, process)| Some((measure(process)?, pid)));
        ranking.extend(measured.filter(|(value, _)| *value > 0.0));
        if self.top < ranking.len() {
            ranking.select_nth_unstable_by(self.top, |(a, a_pid), (b, b_pid)| b.total_cmp(a).then(a_pid.cmp(b_pid)));
        }
        for (_, pid) in ranking.iter().take(self.top) {
            if let Some(process) = self.processes.get_mut(pid) {
                process.is_top = true;
            }
        }
    }

    /// Looks at descriptors and emits what there is to say of single processes.
    fn emit(&mut self, batch: &mut Batch, procfs: &OwnedFd, counting: Counting) {
        let mut told = 0;
        let mut growing = Growing::default();
        self.io.pids.clear();
        if self.boot.is_none() {
            self.boot = std::fs::read(self.host.procfs("stat")).ok().and_then(|text| parse_boot_time(&text));
        }
        let (boot, ticks_per_second) = (self.boot, self.ticks_per_second);
        let started = |ticks| Some(boot? + ticks as f64 / ticks_per_second);
        for (&pid, process) in self.processes.iter_mut() {
            if !process.is_fresh && !process.is_tracked() {
                continue;
            }
            let descriptors = process.descriptors(pid, procfs, counting, &mut self.scratch);
            if process.is_tracked() || descriptors.usage.is_some_and(|usage| usage > NOTABLE_FD_USAGE) {
                process.emit(batch, pid, descriptors);
            }
            if process.is_tracked() && process.emit_details(batch, pid, procfs, &mut self.scratch, started) {
                self.io.pids.push(pid);
            }
            growing.note(pid, &mut process.first_fds, descriptors.open);
            process.is_growing = false;
            if let Some((open, limit)) = descriptors.exhausted {
                exhausted::tell(&self.apart, batch, pid, open, limit, &mut told);
            }
        }
        for pid in growing.pids() {
            if let Some(process) = self.processes.get_mut(&pid) {
                process.is_growing = true;
                process.emit_kinds(batch, pid, &self.apart);
            }
        }
        let processes = &mut self.processes;
        self.io.read(&self.host, procfs, batch, |batch, pid, bytes| {
            if let Some(process) = processes.get_mut(&pid) {
                process.emit_io(batch, bytes);
            }
        });
    }

    fn run(&mut self, batch: &mut Batch) -> io::Result<()> {
        let (procfs, counting) = match self.procfs.take() {
            Some(open) => open,
            None => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let procfs = rustix::fs::open(self.host.procfs(""), flags, Mode::empty())?;
                let counting = Counting::find(&procfs);
                (procfs, counting)
            }
        };
        self.scan(batch, &procfs)?;
        self.rank(|process| process.cpu);
        self.rank(|process| Some(process.rss));
        self.emit(batch, &procfs, counting);
        let threaded = self.processes.iter_mut().filter(|(_, process)| process.threads > 1).map(|(&pid, _)| pid);
        self.blocked.run(batch, &procfs, &mut self.scratch, threaded);
        self.procfs = Some((procfs, counting));
        Ok(())
    }
}

impl Collector for Processes {
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        self.run(batch).map_err(|cause| ReadError { path: self.host.procfs(""), cause })
    }
}

/// When the host was booted, in seconds since the Unix epoch: `btime` in the text of `/proc/stat`.
fn parse_boot_time(text: &[u8]) -> Option<f64> {
    let value = text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"btime "))?;
    number(value.trim_ascii()).map(|seconds| seconds as f64)
}

/// Whether a pattern matches the command's name or, only then asked for, its command line; `None` where that cannot be read
/// now.
fn is_named(host: &Host, patterns: &[Pattern], batch: &mut Batch, pid: u32, stat: &Stat<'_>) -> Option<bool> {
    let matches = |text: &str| patterns.iter().any(|Pattern(pattern)| pattern.is_match(text));
    if patterns.is_empty() || matches(&lossy(stat.comm)) {
        return Some(!patterns.is_empty());
    }
    if stat.is_kernel_thread {
        return Some(false);
    }
    let path = host.procfs(format!("{pid}/cmdline"));
    let subject = format!("the command line of process {pid}");
    let read = move || -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        std::fs::File::open(path)?.take(CMDLINE_LEN).read_to_end(&mut line)?;
        Ok(line)
    };
    match host.isolate().call(&subject, CMDLINE_DEADLINE, read) {
        Ok(Ok(mut line)) => {
            line.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
            Some(matches(lossy(&line).trim_end()))
        }
        // It is gone, or is not ours to look at.
        Ok(Err(_)) => Some(false),
        Err(stuck) => {
            batch.skip(|| stuck.to_string());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::time::Instant;

    use super::*;
    use crate::config::HostRoots;

    fn collector(top: usize, patterns: &[&str]) -> Processes {
        let track_patterns = patterns.iter().map(|pattern| Pattern(regex::Regex::new(pattern).unwrap())).collect();
        Processes::new(&Host::new(HostRoots::default()), &ProcessCollector { track_top_n: top, track_patterns })
    }

    /// Values of `metric` by pid.
    fn values(batch: &Batch, metric: &str) -> Vec<(u32, f64)> {
        let of = batch.samples.iter().filter(|sample| sample.series.metric().name == metric);
        of.filter_map(|sample| Some((sample.series.labels().get("pid")?.parse().ok()?, sample.value))).collect()
    }

    /// A process that does nothing until it is dropped.
    struct Sleeper(Child);

    impl Sleeper {
        fn start(script: &str) -> Self {
            let mut command = Command::new("sh");
            // It says when it is ready, and waits for an end of input that comes with its own.
            command.args(["-c", &format!("{script}; echo; read line")]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
            Self(child)
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_pattern_finds_a_process_by_its_command_line() {
        let sleeper = Sleeper::start(": marked-by-this-test");
        let mut batch = Batch::new(Instant::now());
        collector(0, &["marked-by-th[i]s"]).collect(&mut batch).unwrap();
        assert!(values(&batch, "process_rss_bytes").iter().any(|&(pid, rss)| pid == sleeper.0.id() && rss > 0.0));
        assert!(values(&batch, "process_cpu_percent").is_empty(), "the first run has nothing to compare with");
    }

    #[test]
    fn the_largest_are_tracked_and_no_more() {
        let mut batch = Batch::new(Instant::now());
        collector(1, &[]).collect(&mut batch).unwrap();
        // All that have more than half of their descriptors open come with them.
        let full = values(&batch, "process_fd_usage_percent").iter().filter(|(_, usage)| *usage > NOTABLE_FD_USAGE).count();
        assert!((1..=1 + full).contains(&values(&batch, "process_rss_bytes").len()));
    }

    #[test]
    fn among_many_those_that_did_nothing_take_turns() {
        let proc = tempfile::TempDir::new().unwrap();
        let pids = 1..=u32::try_from(MANY).unwrap() + 76;
        let all = f64::from(*pids.end());
        let write = |pid: u32, state: char, ticks: u32| {
            let stat = format!("{pid} (x) {state} 1 1 1 0 -1 4194560 0 0 0 0 {ticks} 0 0 0 20 0 1 0 30 0 99 0\n");
            let directory = proc.path().join(pid.to_string());
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("stat"), stat).unwrap();
        };
        pids.clone().for_each(|pid| write(pid, 'S', 7));
        let host = Host::new(HostRoots { procfs: proc.path().to_owned(), ..HostRoots::default() });
        let mut collector = Processes::new(&host, &ProcessCollector { track_top_n: 1, track_patterns: Vec::new() });
        let start = Instant::now();
        let mut run = |secs| {
            let mut batch = Batch::new(start + Duration::from_secs(secs));
            collector.collect(&mut batch).unwrap();
            let total = |name| batch.samples.iter().find(|sample| sample.series.metric().name == name).unwrap().value;
            assert_eq!((total("process_pids"), total("process_all_threads")), (all, all));
            let cpu = values(&batch, "process_cpu_percent").into_iter().find(|(pid, _)| *pid == 5);
            (total("process_uninterruptible"), cpu)
        };
        for secs in 0..2 {
            run(secs);
        }
        pids.for_each(|pid| write(pid, 'D', 7 + u32::from(pid == 5)));
        let blocked: Vec<f64> = (2..2 + u64::from(TURNS)).map(|secs| run(secs).0).collect();
        // The one with the most memory is always looked at.
        assert!((275.0..=276.0).contains(blocked.first().unwrap()), "{blocked:?}");
        assert!(blocked.is_sorted());
        assert_eq!(blocked.last(), Some(&all));
        write(5, 'R', 108);
        assert_eq!(run(6).1, Some((5, 100.0)), "who did something does not wait");
        std::fs::remove_dir_all(proc.path().join("5")).unwrap();
        write(5, 'S', 0);
        assert_eq!(run(7).1, None, "a new one does not wait either");
    }

    #[test]
    fn who_runs_out_of_descriptors_is_reported_on_every_kernel() {
        let sleeper = Sleeper::start("ulimit -n 16; exec 3</dev/null 4<&3 5<&3 6<&3 7<&3 8<&3 9<&3");
        let open = std::fs::read_dir(format!("/proc/{}/fd", sleeper.0.id())).unwrap().count();
        assert!((10..=16).contains(&open), "three came with the process, and seven it opened: {open}");
        for counting in [Counting::BySize, Counting::ByWalk] {
            let mut collector = collector(0, &[]);
            let procfs: OwnedFd = std::fs::File::open("/proc").unwrap().into();
            if counting == Counting::BySize && Counting::find(&procfs) == Counting::ByWalk {
                continue;
            }
            collector.procfs = Some((procfs, counting));
            let mut batch = Batch::new(Instant::now());
            collector.collect(&mut batch).unwrap();
            let usage = values(&batch, "process_fd_usage_percent").into_iter().find(|(pid, _)| *pid == sleeper.0.id());
            assert_eq!(usage, Some((sleeper.0.id(), open as f64 / 16.0 * 100.0)), "{counting:?}");
        }
    }
}
