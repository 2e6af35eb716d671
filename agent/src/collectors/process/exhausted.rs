//! Processes that have no descriptor left, as events: a call that needs one fails there, and no counter of the kernel says so.

use std::time::Duration;

use crate::collectors::Batch;
use crate::host::Host;
use crate::model::{Evidence, KernelEvent, Labels};

/// Descriptors that are free where a process counts as having none: some calls need two at a time.
const SLACK: u64 = 1;

/// A limit below this is no shortage but a sandbox: such processes shall open nothing.
const LEAST_LIMIT: u64 = 16;

/// How long finding out about one process may take, and most processes of a run for which it is done.
const DEADLINE: Duration = Duration::from_millis(100);
const MOST_EXPLAINED: usize = 8;

/// Whether a process with `open` descriptors cannot have another.
pub fn is_exhausted(open: u64, limit: u64) -> bool {
    limit >= LEAST_LIMIT && open.saturating_add(SLACK) >= limit
}

/// Tells of a process with `open` descriptors of `limit`; `told` is how many this run has told of.
pub fn tell(host: &Host, batch: &mut Batch, pid: u32, open: u64, limit: u64, told: &mut usize) {
    batch.events.extend(exhausted(host, pid, open, limit, *told < MOST_EXPLAINED));
    *told += 1;
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
        metric: "kernel_fd_exhausted",
        message: format!("{comm} (pid {pid}) has {open} file descriptors open of {limit} that it may have{kind}"),
        labels: Labels::new().with("pid", pid.to_string()).with("comm", comm),
        value: open as f64,
        threshold: Some(limit as f64),
        count: 1,
        source: "poll",
        evidence,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_at_its_limit_is_an_event() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 16; exec 3</dev/null 4<&3 5<&3 6<&3 7<&3 8<&3 9<&3; echo; read line"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
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
}
