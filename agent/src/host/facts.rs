//! What explains an event that befell a process: the same facts, whoever saw the event.
//!
//! Facts are told one by one, so that of a process that does not answer in time, those are had that came before.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Descriptors, Host, Process};
use crate::model::Evidence;

/// Takes facts, each under its name in the evidence.
pub type Tell<'a> = &'a mut dyn FnMut(&'static str, Value);

impl Host {
    /// What `find` tells by the deadline. Where it does not return by then, `enrichment` says so.
    pub fn facts(&self, subject: &str, deadline: Duration, find: impl FnOnce(&Self, Tell<'_>) + Send + 'static) -> Evidence {
        let found = Arc::new(Mutex::new(Evidence::new()));
        let (host, told) = (self.clone(), Arc::clone(&found));
        let result = self.isolate().call(subject, deadline, move || {
            find(&host, &mut |name, fact| {
                told.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), fact);
            });
        });
        let mut facts = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
        if let Err(stuck) = result {
            facts.insert("enrichment".into(), stuck.to_string().into());
        }
        facts
    }

    /// The limit of a memory cgroup in bytes, version 2 (`memory.max`) or 1 (`memory.limit_in_bytes`).
    pub fn memory_limit(&self, cgroup: &str) -> Option<u64> {
        let relative = Path::new(cgroup).strip_prefix("/").ok()?;
        let root = self.sysfs("fs/cgroup");
        let files = [root.join(relative).join("memory.max"), root.join("memory").join(relative).join("memory.limit_in_bytes")];
        files.iter().find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok())
    }

    /// How often a memory cgroup has hit its limit: `max` of `memory.events`; in version 1 `memory.failcnt`, and that of memory with
    /// swap, whose limit is hit first where both are the same.
    pub fn memory_limit_hits(&self, cgroup: &str) -> Option<u64> {
        let relative = Path::new(cgroup).strip_prefix("/").ok()?;
        let root = self.sysfs("fs/cgroup");
        if let Ok(events) = std::fs::read_to_string(root.join(relative).join("memory.events")) {
            return events.lines().find_map(|line| line.strip_prefix("max ")?.trim().parse().ok());
        }
        let directory = root.join("memory").join(relative);
        let count = |file| std::fs::read_to_string(directory.join(file)).ok()?.trim().parse::<u64>().ok();
        let with_swap = count("memory.memsw.failcnt").unwrap_or(0);
        count("memory.failcnt").map(|count| count.saturating_add(with_swap))
    }

    /// Of the descriptors of process `pid`: how many of which kind, and what most of them lead to. May wait.
    pub fn descriptor_facts(&self, pid: u32, open: &Descriptors, tell: Tell<'_>) {
        if open.kinds.is_empty() {
            return;
        }
        tell("kinds", json!(open.kinds));
        let Some((kind, count)) = open.commonest_kind() else { return };
        tell("commonest", format!("{kind} ({count})").into());
        tell("commonest_kind", kind.into());
        if let Some((directory, count)) = open.commonest_directory() {
            tell("commonest_directory", format!("{directory} ({count})").into());
        }
        let peers = self.tcp_peers(pid, &open.sockets);
        let mut by_peer = BTreeMap::<String, u64>::new();
        peers.into_iter().for_each(|peer| *by_peer.entry(peer.to_string()).or_default() += 1);
        if let Some((peer, count)) = by_peer.into_iter().max_by_key(|(_, count)| *count) {
            tell("commonest_peer", format!("{peer} ({count})").into());
        }
    }
}

impl Process {
    /// Where and why a task is blocked, and who it is. May wait.
    pub fn blocked_facts(&self, tell: Tell<'_>) {
        self.state_facts(tell);
        self.stack_facts(tell);
    }

    /// What of that can be had of a task in any state.
    pub fn state_facts(&self, tell: Tell<'_>) {
        let mut some = |name, fact: Option<Value>| {
            if let Some(fact) = fact {
                tell(name, fact);
            }
        };
        some("wchan", self.wchan().map(Value::from));
        some("state", self.state().map(Value::from));
        some("syscall", self.syscall().map(Value::from));
        some("uid", self.uid().map(Value::from));
        some("parent_pid", self.parent().map(Value::from));
        some("cgroup", self.cgroup("memory").map(Value::from));
        some("process_pid", self.leader().map(Value::from));
    }

    /// The rest. A task that is blocked while it starts a program makes whoever asks for its stack wait, and one that is blocked
    /// with its memory locked whoever asks for its command line.
    pub fn stack_facts(&self, tell: Tell<'_>) {
        self.stack().into_iter().for_each(|stack| tell("stack", stack.into()));
        self.command_line().into_iter().for_each(|line| tell("command_line", line.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HostRoots;

    #[test]
    fn what_was_told_before_the_deadline_is_had() {
        let host = Host::new(HostRoots::default());
        let (reader, writer) = std::io::pipe().unwrap();
        let facts = host.facts("a pipe", Duration::from_millis(500), move |_, tell| {
            tell("early", 1.into());
            let _ = std::io::Read::read(&mut { reader }, &mut [0]);
            tell("late", 2.into());
        });
        drop(writer);
        assert_eq!(facts.get("early"), Some(&json!(1)));
        assert!(!facts.contains_key("late") && facts["enrichment"].as_str().unwrap().contains("does not answer"), "{facts:?}");
    }

    #[test]
    fn of_a_process_that_is_gone_nothing_is_told() {
        let host = Host::new(HostRoots::default());
        let facts = host.facts("nobody", Duration::from_secs(20), |host, tell| host.process(u32::MAX).blocked_facts(tell));
        assert_eq!(facts, Evidence::new());
    }
}
