//! Finds out about those whom a line of the kernel's log names, while they are still there.
//!
//! Only for signals without a probe, which would do the same, and so seldom that a flood of lines costs nothing. The question may
//! hang; it is asked on a thread of its own, and the log waits for the answer no longer than the deadline.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::patterns::{Named, named};
use crate::host::Host;
use crate::model::Evidence;

/// How long one question may take.
const DEADLINE: Duration = Duration::from_millis(250);
/// Questions in each second, and how much of it they may take together.
const BY_SECOND: (u32, Duration) = (10, Duration::from_millis(250));

/// Signals whose probe reports them now, and finds out by itself.
#[derive(Clone, Default)]
pub struct Probed(Arc<Mutex<BTreeSet<&'static str>>>);

impl Probed {
    /// A probe came or went.
    pub fn set(&self, signal: &'static str, probed: bool) {
        let mut signals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if probed {
            signals.insert(signal);
        } else {
            signals.remove(signal);
        }
    }

    fn contains(&self, signal: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(signal)
    }
}

/// Whoever asks.
pub struct LogFacts {
    host: Host,
    probed: Probed,
    /// Start of the present second, questions in it, and how long they took.
    second: (Instant, u32, Duration),
    /// The limit of the cgroup that the next victim will be killed for.
    limit_bytes: Option<u64>,
}

impl LogFacts {
    /// Asks `host` about what the probes of the signals `probed` don't.
    pub fn new(host: &Host, probed: Probed) -> Self {
        Self { host: host.apart(), probed, second: (Instant::now(), 0, Duration::ZERO), limit_bytes: None }
    }

    /// The facts about whom a line names.
    pub async fn find(&mut self, line: &str) -> Evidence {
        let Some(named) = named(line).filter(|named| !self.probed.contains(named.signal())) else { return Evidence::new() };
        let now = Instant::now();
        if now.duration_since(self.second.0) >= Duration::from_secs(1) {
            self.second = (now, 0, Duration::ZERO);
        }
        if self.second.1 >= BY_SECOND.0 || self.second.2 >= BY_SECOND.1 {
            return Evidence::from_iter([("enrichment".to_owned(), "left out: too many lines at a time".into())]);
        }
        self.second.1 += 1;
        let facts = match named {
            Named::Limiting(cgroup) => {
                self.limit_bytes = self.host.memory_limit(cgroup);
                Evidence::new()
            }
            Named::Blocked(pid) => {
                self.ask(format!("the blocked task {pid}"), move |host, tell| host.process(pid).blocked_facts(tell)).await
            }
            Named::Killed { pid, of_cgroup } => {
                let limit_bytes = self.limit_bytes.take();
                let find = move |host: &Host, tell: crate::host::Tell<'_>| {
                    let victim = host.process(pid);
                    victim.uid().into_iter().for_each(|uid| tell("uid", uid.into()));
                    // Last, because it may wait for the victim's memory to be torn down; and not while the whole host waits for
                    // just that memory, which whoever reads from it holds.
                    let command_line = if of_cgroup { victim.command_line() } else { None };
                    command_line.into_iter().for_each(|line| tell("command_line", line.into()));
                };
                let mut facts = self.ask(format!("the killed process {pid}"), find).await;
                facts.extend(limit_bytes.map(|limit| ("limit_bytes".to_owned(), limit.into())));
                facts
            }
        };
        self.second.2 += now.elapsed();
        facts
    }

    async fn ask(&self, subject: String, find: impl FnOnce(&Host, crate::host::Tell<'_>) + Send + 'static) -> Evidence {
        let host = self.host.clone();
        let answer = tokio::task::spawn_blocking(move || host.facts(&subject, DEADLINE, find)).await;
        // It panicked, which has been logged; the line is worth more than what else is known.
        answer.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HostRoots;

    fn facts(probed: &[&'static str]) -> LogFacts {
        let all = Probed::default();
        probed.iter().for_each(|signal| all.set(signal, true));
        LogFacts::new(&Host::new(HostRoots::default()), all)
    }

    fn blocked() -> String {
        format!("INFO: task me:{} blocked for more than 120 seconds.", std::process::id())
    }

    #[tokio::test]
    async fn a_named_task_is_looked_at_unless_a_probe_does() {
        let found = facts(&["oom"]).find(&blocked()).await;
        assert_eq!(found.get("process_pid"), Some(&std::process::id().into()), "{found:?}");
        assert_eq!(facts(&["hung_task"]).find(&blocked()).await, Evidence::new());
        assert_eq!(facts(&[]).find("Linux version 6.18").await, Evidence::new());
        let gone = format!("Killed process {} (x) total-vm:1kB", u32::MAX);
        assert_eq!(facts(&[]).find(&gone).await, Evidence::new());
    }

    #[tokio::test]
    async fn a_probe_that_went_no_longer_does() {
        let mut facts = facts(&["hung_task"]);
        facts.probed.set("hung_task", false);
        assert_ne!(facts.find(&blocked()).await, Evidence::new());
    }

    #[tokio::test]
    async fn a_flood_of_lines_costs_nothing() {
        let mut facts = facts(&[]);
        let begun = Instant::now();
        let (mut asked, mut left_out) = (0, 0);
        for _ in 0..1000 {
            let found = facts.find(&blocked()).await;
            if found.contains_key("process_pid") { asked += 1 } else { left_out += 1 }
        }
        assert!(left_out > 0 && asked <= 10 * (1 + begun.elapsed().as_secs()), "{asked} asked, {left_out} left out");
    }
}
