//! Tasks that are blocked for long: what the kernel's hung-task detector reports, and what it skips.
//!
//! A task is hung that was in uninterruptible sleep (state D) at one run and each later one, and was not scheduled in between,
//! for as long as `hung_task_timeout_secs` says, or 120 s where that is 0 or missing. That is the detector's own rule, but for
//! the states that the detector leaves out: tasks that a fatal signal would wake, as in vfork(2) and on most NFS mounts. Tasks
//! that somebody froze are left out here as well.
//!
//! The main thread of each process is seen in each run that looks at the process. Other threads cost a file each: they are looked at in turns, up to
//! [`THREADS_A_RUN`] in a run, and only while the load average leaves room for one that is blocked. What is seen blocked once is
//! looked at in each run from then on.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::entity::Scratch;
use crate::collectors::Batch;
use crate::collectors::process_stat::{Stat, parse_stat};
use crate::collectors::text::{decimal, fields, lossy, number};
use crate::host::{Host, ProcFile};
use crate::model::{Evidence, KernelEvent, Labels};

/// What counts as hung where the kernel has no limit of its own: the default of Linux.
const DEFAULT_TIMEOUT: u64 = 120;
/// Threads that are looked at in one run.
const THREADS_A_RUN: usize = 256;
/// Blocked tasks that are followed at a time.
const MAX_FOLLOWED: usize = 1024;
/// A task that is blocked for as long as that raises the load average of a minute to this, even with a short limit.
const LEAST_LOAD: f64 = 0.05;
/// How long finding out about one task may take, and about all of a run.
const DEADLINE: Duration = Duration::from_millis(250);
const DEADLINE_OF_RUN: Duration = Duration::from_secs(1);

/// One thread of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Task {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
}

/// A task that was seen blocked in this run.
struct Sighting {
    task: Task,
    start: u64,
    comm: String,
}

/// A task that is followed.
struct Followed {
    start: u64,
    switches: u64,
    since: Instant,
    /// How often its time was up when it was told of.
    told: u64,
    /// Whether this run has seen it.
    seen: bool,
}

/// All tasks that are blocked.
pub struct Blocked {
    host: Host,
    timeout: ProcFile,
    loadavg: ProcFile,
    sightings: Vec<Sighting>,
    followed: HashMap<Task, Followed>,
    /// The thread that was looked at last.
    turn: Task,
    /// Buffers that are kept from run to run.
    pids: Vec<u32>,
    tids: Vec<u32>,
}

impl Blocked {
    /// None so far.
    pub fn new(host: &Host) -> Self {
        Self {
            host: host.apart(),
            timeout: ProcFile::new(host.procfs("sys/kernel/hung_task_timeout_secs")),
            loadavg: ProcFile::new(host.procfs("loadavg")),
            sightings: Vec::new(),
            followed: HashMap::new(),
            turn: Task { pid: 0, tid: 0 },
            pids: Vec::new(),
            tids: Vec::new(),
        }
    }

    /// Takes note of a task in state D.
    pub fn see(&mut self, task: Task, stat: &Stat<'_>) {
        self.sightings.push(Sighting { task, start: stat.start, comm: lossy(stat.comm) });
    }

    /// Ends a run: looks at threads, those of the processes `threaded` in turns, and tells of the tasks that are hung.
    pub fn run(&mut self, batch: &mut Batch, procfs: &OwnedFd, scratch: &mut Scratch, threaded: impl Iterator<Item = u32>) {
        let again: Vec<Task> = self.followed.keys().filter(|task| task.tid != task.pid).copied().collect();
        again.into_iter().for_each(|task| self.look(task, procfs, scratch));
        if self.may_be_blocked() {
            self.take_turns(procfs, scratch, threaded);
        }
        let timeout = self.timeout.read().ok().and_then(|text| number(text.bytes.trim_ascii()));
        let timeout = timeout.filter(|timeout| *timeout > 0).unwrap_or(DEFAULT_TIMEOUT);
        let started = Instant::now();
        for sighting in std::mem::take(&mut self.sightings) {
            let Some(secs) = self.follow(&sighting, batch.at(), timeout) else { continue };
            let explain = started.elapsed() < DEADLINE_OF_RUN;
            batch.events.extend(hung(&self.host, &sighting, secs, timeout, explain));
        }
        self.followed.retain(|_, followed| std::mem::take(&mut followed.seen));
    }

    /// Whether the load average, which counts blocked tasks, allows for one.
    fn may_be_blocked(&mut self) -> bool {
        let load = self.loadavg.read().ok().and_then(|text| fields(text.bytes).next().and_then(decimal));
        load.is_none_or(|load| load >= LEAST_LOAD)
    }

    fn take_turns(&mut self, procfs: &OwnedFd, scratch: &mut Scratch, threaded: impl Iterator<Item = u32>) {
        let (mut pids, mut tids) = (std::mem::take(&mut self.pids), std::mem::take(&mut self.tids));
        pids.clear();
        pids.extend(threaded);
        pids.sort_unstable();
        // Once round, from behind the last thread of the last run up to that one.
        let last = self.turn;
        let next = pids.partition_point(|pid| *pid < last.pid);
        let behind = pids.iter().skip(next).map(|&pid| (pid, true));
        let before = pids.iter().take_while(|pid| **pid <= last.pid).map(|&pid| (pid, false));
        let mut left = THREADS_A_RUN;
        for (pid, is_behind) in behind.chain(before) {
            if left == 0 {
                break;
            }
            scratch.threads(procfs, pid, &mut tids);
            tids.sort_unstable();
            tids.retain(|tid| *tid != pid && (pid != last.pid || (*tid > last.tid) == is_behind));
            for &tid in tids.iter().take(left) {
                self.turn = Task { pid, tid };
                if !self.followed.contains_key(&self.turn) {
                    self.look(self.turn, procfs, scratch);
                }
            }
            left = left.saturating_sub(tids.len());
        }
        (self.pids, self.tids) = (pids, tids);
    }

    /// Takes note of a thread that is in state D now.
    fn look(&mut self, task: Task, procfs: &OwnedFd, scratch: &mut Scratch) {
        if let Some(text) = scratch.stat_of_thread(procfs, task)
            && let Ok(stat) = parse_stat(text)
            && stat.state == b'D'
        {
            self.see(task, &stat);
        }
    }

    /// Follows a blocked task; for how many seconds that has been, where it is time to tell of it.
    fn follow(&mut self, sighting: &Sighting, at: Instant, timeout: u64) -> Option<u64> {
        let Sighting { task, start, .. } = *sighting;
        if self.followed.len() >= MAX_FOLLOWED && !self.followed.contains_key(&task) {
            return None;
        }
        let switches = self.host.process(task.pid).task(task.tid).switches()?;
        let new = || Followed { start, switches, since: at, told: 0, seen: true };
        let followed = self.followed.entry(task).or_insert_with(new);
        if (followed.start, followed.switches) != (start, switches) {
            *followed = new();
        }
        followed.seen = true;
        let secs = at.saturating_duration_since(followed.since).as_secs();
        let times = secs / timeout;
        // As often as the detector would.
        (times > std::mem::replace(&mut followed.told, times)).then_some(secs)
    }
}

/// The event of a hung task; `None` where somebody froze it.
fn hung(host: &Host, sighting: &Sighting, secs: u64, timeout: u64, explain: bool) -> Option<KernelEvent> {
    let Sighting { task: Task { pid, tid }, comm, .. } = sighting;
    let (pid, tid) = (*pid, *tid);
    if host.process(pid).task(tid).wchan().is_some_and(|wchan| is_frozen(&wchan)) {
        return None;
    }
    let mut evidence = if explain {
        // One after the other: where the second is still waited for in vain from the last time, the first goes on to be had.
        let state = format!("the state of the blocked task {tid}");
        let mut facts = host.facts(&state, DEADLINE, move |host, tell| host.process(tid).state_facts(tell));
        let stack = format!("the stack of the blocked task {tid}");
        facts.extend(host.facts(&stack, DEADLINE, move |host, tell| host.process(tid).stack_facts(tell)));
        facts
    } else {
        Evidence::from_iter([("enrichment".to_owned(), "left out: too many tasks at a time".into())])
    };
    let stack = evidence.get("stack").and_then(|stack| stack.as_array());
    if stack.is_some_and(|stack| stack.iter().any(|frame| frame.as_str().is_some_and(is_frozen))) {
        return None;
    }
    evidence.insert("source".into(), "/proc/PID/stat, /proc/PID/status".into());
    let place = evidence.get("wchan").and_then(|wchan| wchan.as_str()).map_or(String::new(), |wchan| format!(" in {wchan}"));
    Some(KernelEvent {
        metric: "kernel_hung_task",
        labels: Labels::new().with("pid", tid.to_string()).with("comm", comm),
        value: secs as f64,
        threshold: Some(timeout as f64),
        count: 1,
        message: format!("{comm} (pid {tid}) has been blocked for more than {secs} s{place}"),
        source: "poll",
        evidence,
    })
}

/// Whether a task that is here was frozen, by a cgroup (version 1) or for a suspension.
fn is_frozen(function: &str) -> bool {
    function.contains("__refrigerator")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::config::HostRoots;

    /// A procfs of the test's own.
    struct Proc(TempDir);

    impl Proc {
        fn new() -> Self {
            let proc = Self(TempDir::new().unwrap());
            proc.write("loadavg", "1.00 0.50 0.20 1/100 7\n");
            proc.write("sys/kernel/hung_task_timeout_secs", "60\n");
            proc
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn thread(&self, pid: u32, tid: u32, state: char, switches: u64) {
            let directory = format!("{pid}/task/{tid}");
            self.write(&format!("{directory}/stat"), &stat(tid, state));
            let status = format!("Name:\tnfsd\nvoluntary_ctxt_switches:\t{switches}\nnonvoluntary_ctxt_switches:\t1\n");
            self.write(&format!("{directory}/status"), &status);
            self.write(&format!("{directory}/wchan"), "rpc_wait_bit_killable");
        }

        fn blocked(&self) -> Blocked {
            Blocked::new(&Host::new(HostRoots { procfs: self.0.path().to_owned(), ..HostRoots::default() }))
        }
    }

    fn stat(tid: u32, state: char) -> String {
        format!("{tid} (nfsd) {state} 1 1 1 0 -1 4194560 0 0 0 0 7 8 0 0 20 0 2 0 30 0 99 0\n")
    }

    /// Runs at these seconds; when and for how long which tasks were told of.
    fn run(blocked: &mut Blocked, start: Instant, at: &[u64], threaded: &[u32]) -> Vec<(u64, String, f64)> {
        let mut told = Vec::new();
        for &secs in at {
            let mut batch = Batch::new(start + Duration::from_secs(secs));
            let procfs = fs::File::open(blocked.host.procfs("")).unwrap().into();
            blocked.run(&mut batch, &procfs, &mut Scratch::new(), threaded.iter().copied());
            told.extend(batch.events.into_iter().map(|event| (secs, event.labels.get("pid").unwrap().to_owned(), event.value)));
        }
        told
    }

    #[test]
    fn a_thread_that_does_not_run_for_the_detectors_limit_is_hung_and_told_as_often() {
        let (proc, start) = (Proc::new(), Instant::now());
        proc.thread(7, 8, 'D', 5);
        proc.thread(7, 9, 'S', 5);
        let mut blocked = proc.blocked();
        let told = run(&mut blocked, start, &[0, 30, 60, 90, 130], &[7]);
        assert_eq!(told, [(60, "8".to_owned(), 60.0), (130, "8".to_owned(), 130.0)]);
        // It ran for a moment.
        proc.thread(7, 8, 'D', 6);
        assert_eq!(run(&mut blocked, start, &[190, 240], &[7]), []);
        assert_eq!(run(&mut blocked, start, &[250], &[7]), [(250, "8".to_owned(), 60.0)]);
        proc.thread(7, 8, 'S', 7);
        assert_eq!(run(&mut blocked, start, &[400], &[7]), []);
        assert!(blocked.followed.is_empty());
    }

    #[test]
    fn without_a_limit_of_the_kernels_it_is_two_minutes() {
        let (proc, start) = (Proc::new(), Instant::now());
        proc.thread(7, 8, 'D', 5);
        for text in ["0\n", "garbage"] {
            proc.write("sys/kernel/hung_task_timeout_secs", text);
            assert_eq!(run(&mut proc.blocked(), start, &[0, 60, 119, 120], &[7]), [(120, "8".to_owned(), 120.0)]);
        }
    }

    #[test]
    fn a_frozen_task_is_not_hung() {
        let (proc, start) = (Proc::new(), Instant::now());
        proc.thread(7, 8, 'D', 5);
        proc.write("7/task/8/wchan", "__refrigerator");
        assert_eq!(run(&mut proc.blocked(), start, &[0, 60, 200], &[7]), []);
    }

    #[test]
    fn threads_have_their_turns_within_the_bound() {
        let (proc, start) = (Proc::new(), Instant::now());
        let more = u32::try_from(THREADS_A_RUN).unwrap() + 100;
        for tid in 1001..=1000 + more {
            proc.thread(1000, tid, 'S', 1);
        }
        proc.thread(1000, 1000 + more, 'D', 1);
        proc.thread(2000, 2001, 'D', 1);
        let mut blocked = proc.blocked();
        assert_eq!(run(&mut blocked, start, &[0], &[2000, 1000]), []);
        assert!(blocked.followed.is_empty(), "the bound was reached before");
        run(&mut blocked, start, &[1], &[2000, 1000]);
        assert_eq!(blocked.followed.len(), 2);
        // Nothing can be blocked.
        proc.write("loadavg", "0.00 0.00 0.00 1/100 7\n");
        let mut blocked = proc.blocked();
        run(&mut blocked, start, &[0, 1, 2], &[2000, 1000]);
        assert!(blocked.followed.is_empty());
    }
}
