//! Probe `oom`: the OOM killer chose a victim.
//!
//! The tracepoint tells who was chosen and how much memory it held. From the kernel log, which the OOM killer writes to just
//! before and just after, comes why (the host or a cgroup was out of memory) and whether the kill was sent; from procfs and
//! the cgroup file system the rest. The tracepoint also fires for a victim that was exiting already, so the kill is stated
//! only where the log says it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_common::oom::{Fields, OomRecord, Structures};
use agent_common::{ABSENT, Record as _};

use super::btf::Btf;
use super::tracefs::Format;
use super::{Facts, Hook, Kernel, Probe, Rung, Unavailable, comm, registers};
use crate::config;
use crate::host::{Host, Kmsg, KmsgRead};
use crate::model::{Evidence, KernelEvent, Labels};

/// How long the log's lines may take after the tracepoint: a serial console is slow to write to, and a host without memory to run.
const LOG_PATIENCE: Duration = Duration::from_millis(200);

/// `oom/mark_victim`, with offsets from its `format` file.
pub fn tracepoint(kernel: &Kernel, _: &config::Ebpf) -> Result<Rung, Unavailable> {
    let format = Format::read(&kernel.host, "oom", "mark_victim")?;
    let fields = Fields {
        pid: format.required("oom/mark_victim", "pid", 4)?,
        comm: format.text("comm").0,
        total_vm: format.offset("total_vm", 8),
        anon_rss: format.offset("anon_rss", 8),
        file_rss: format.offset("file_rss", 8),
        shmem_rss: format.offset("shmem_rss", 8),
        uid: format.offset("uid", 4),
        pgtables: format.offset("pgtables", 8),
        oom_score_adj: format.offset("oom_score_adj", 2),
    };
    let hook = Hook::Tracepoint { program: "mark_victim", category: "oom", name: "mark_victim".into() };
    Ok(Rung::new("tracepoint oom/mark_victim", &fields, vec![hook]))
}

/// The same as a raw tracepoint, with offsets from the kernel's BTF: does without tracefs, and without the sizes that the
/// tracepoint adds up.
pub fn raw_tracepoint(kernel: &Kernel, _: &config::Ebpf) -> Result<Rung, Unavailable> {
    const NAME: &str = "mark_victim";
    let btf = kernel.btf()?;
    let arguments = btf.raw_tracepoint_arguments(&[NAME]).get(NAME).copied().ok_or_else(|| {
        Unavailable::new(
            "this kernel's BTF has no tracepoint mark_victim",
            "nothing to do; it depends on how the kernel was built",
        )
    })?;
    // Since it tells more of the victim (6.8, and updates of older kernels), it is given the task and a user id.
    let structures = Structures { argument_is_pid: u16::from(arguments == 1), ..structures(btf, &[])? };
    let hook = Hook::RawTracepoint { program: "mark_victim_raw", name: NAME };
    Ok(Rung::new("raw tracepoint mark_victim", &Fields::ABSENT, vec![hook]).with("STRUCTURES", &structures))
}

/// The function that kills, with offsets from the kernel's BTF.
pub fn kprobe(kernel: &Kernel, _: &config::Ebpf) -> Result<Rung, Unavailable> {
    let registers = registers()?;
    let structures = structures(kernel.btf()?, &[("oom_control", "chosen")])?;
    let hook = Hook::Kprobe { program: "oom_kill_process", functions: &["oom_kill_process"] };
    let rung = Rung::new("kprobe oom_kill_process", &Fields::ABSENT, vec![hook]);
    Ok(rung.with("STRUCTURES", &structures).with("REGISTERS", &registers))
}

/// Where the members are that say who the victim is, which are required beside those of `required`, and what it held.
fn structures(btf: &Btf, required: &[(&'static str, &'static str)]) -> Result<Structures, Unavailable> {
    let required = [&[("task_struct", "pid"), ("task_struct", "comm")], required].concat();
    let more = [
        ("task_struct", "cred"),
        ("cred", "uid"),
        ("task_struct", "signal"),
        ("signal_struct", "oom_score_adj"),
        ("task_struct", "mm"),
        ("mm_struct", "total_vm"),
    ];
    let (required, more) = (btf.required_offsets(&required)?, btf.member_offsets(&more));
    let at = |structure, member| required.get(&(structure, member)).or(more.get(&(structure, member))).copied().unwrap_or(ABSENT);
    Ok(Structures {
        oom_control_chosen: at("oom_control", "chosen"),
        task_pid: at("task_struct", "pid"),
        task_comm: at("task_struct", "comm"),
        task_cred: at("task_struct", "cred"),
        cred_uid: at("cred", "uid"),
        task_signal: at("task_struct", "signal"),
        signal_oom_score_adj: at("signal_struct", "oom_score_adj"),
        task_mm: at("task_struct", "mm"),
        mm_total_vm: at("mm_struct", "total_vm"),
        page_kb: u16::try_from(rustix::param::page_size() / 1024).unwrap_or(0),
        argument_is_pid: 0,
    })
}

/// Makes the user half.
pub fn build(host: &Host, _: &config::Ebpf) -> Arc<dyn Probe> {
    // Without the log the alert still goes out, with less in it.
    Arc::new(Oom { host: host.clone(), log: Kmsg::open_at_end(host).ok().map(Mutex::new) })
}

struct Oom {
    host: Host,
    log: Option<Mutex<Kmsg>>,
}

/// What the kernel log says of one kill.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    constraint: Option<&'static str>,
    limiting_cgroup: Option<String>,
    victim_cgroup: Option<String>,
    /// What the victim held, by the name of the evidence, in kilobytes.
    sizes: Vec<(&'static str, u64)>,
    killed: bool,
}

/// Sizes as the log has them, and as the evidence does.
const SIZES: [(&str, &str); 5] = [
    ("total-vm", "total_vm_kb"),
    ("anon-rss", "anon_rss_kb"),
    ("file-rss", "file_rss_kb"),
    ("shmem-rss", "shmem_rss_kb"),
    ("pgtables", "pgtables_kb"),
];

impl Probe for Oom {
    fn decode(&self, record: &[u8]) -> Option<KernelEvent> {
        let record = OomRecord::from_bytes(record)?;
        let mut evidence = Evidence::new();
        let mut size = |name: &str, value: u64| {
            if value != OomRecord::UNKNOWN {
                evidence.insert(name.into(), value.into());
            }
        };
        size("total_vm_kb", record.total_vm_kb);
        size("anon_rss_kb", record.anon_rss_kb);
        size("file_rss_kb", record.file_rss_kb);
        size("shmem_rss_kb", record.shmem_rss_kb);
        size("pgtables_kb", record.pgtables_kb);
        if record.victim_uid != u32::MAX {
            evidence.insert("uid".into(), record.victim_uid.into());
        }
        if record.oom_score_adj != i16::MIN {
            evidence.insert("oom_score_adj".into(), record.oom_score_adj.into());
        }
        evidence.insert("monotonic_ns".into(), record.monotonic_ns.into());
        evidence.insert("trigger_comm".into(), comm(&record.trigger_comm).into());
        evidence.insert("trigger_pid".into(), record.trigger_pid.into());
        let mut labels = Labels::new().with("pid", record.victim_pid.to_string());
        let victim = comm(&record.victim_comm);
        if !victim.is_empty() {
            labels.set("comm", victim);
        }
        let metric = "kernel_oom_kill";
        Some(KernelEvent {
            metric,
            labels,
            value: 1.0,
            threshold: None,
            count: 1,
            message: String::new(),
            source: "probe",
            evidence,
        })
    }

    fn enrich(&self, record: &[u8], facts: &Facts) {
        let Some(record) = OomRecord::from_bytes(record) else { return };
        let victim = self.host.process(record.victim_pid);
        // The victim is on its way out: first what goes first.
        let cgroup = victim.cgroup("memory");
        if let Some(leader) = victim.leader().filter(|leader| *leader != record.victim_pid) {
            facts.label("pid", leader.to_string());
            facts.evidence("thread", Some(record.victim_pid));
        }
        if record.victim_comm[0] == 0
            && let Some(comm) = victim.comm()
        {
            facts.label("comm", comm);
        }
        facts.evidence("parent_pid", victim.parent());
        if record.trigger_pid != record.victim_pid {
            let cgroup = self.host.process(record.trigger_pid).cgroup("memory");
            facts.evidence("trigger_cgroup", cgroup.or_else(|| self.host.cgroup_of_id(record.trigger_cgroup)));
        }
        let report = self.report(record.victim_pid);
        // In version 1 hierarchies a task that exits has been moved to the root, so procfs comes second; and the root is no
        // answer for a task that a cgroup's limit has killed.
        let limited = report.constraint == Some("memcg");
        if let Some(path) = report.victim_cgroup.or(cgroup.filter(|path| !limited || path != "/")) {
            if limited {
                let limiting = report.limiting_cgroup.unwrap_or_else(|| path.clone());
                facts.evidence("limit_bytes", self.host.memory_limit(&limiting));
                facts.evidence("limit_hits", self.host.memory_limit_hits(&limiting));
                facts.evidence("limit_cgroup", Some(limiting));
            }
            facts.label("cgroup", path);
        }
        facts.evidence("constraint", report.constraint);
        // The function has not added them up, and older tracepoints do not tell; they are known together.
        if record.anon_rss_kb == OomRecord::UNKNOWN {
            report.sizes.into_iter().for_each(|(name, size)| facts.evidence(name, Some(size)));
        }
        facts.evidence("killed", report.killed.then_some(true));
        // Reading this needs a page, and keeps the victim's memory from being freed meanwhile. Where the whole host has none left,
        // that is how the next process gets killed. Last, because it may wait for the memory to be torn down.
        if limited {
            facts.evidence("command_line", victim.command_line());
        }
    }

    fn describe(&self, event: &KernelEvent) -> String {
        let label = |name| event.labels.get(name).unwrap_or("?");
        let sizes = ["anon_rss_kb", "file_rss_kb", "shmem_rss_kb"].map(|name| event.evidence.get(name)?.as_u64());
        let resident = match sizes.iter().flatten().copied().reduce(|a, b| a.saturating_add(b)) {
            Some(kilobytes) => format!(", {} MiB resident", kilobytes / 1024),
            None => String::new(),
        };
        let verb = if event.evidence.contains_key("killed") { "killed" } else { "chose" };
        let place = match event.evidence.get("constraint").and_then(|value| value.as_str()) {
            Some("memcg") => match event.evidence.get("limit_cgroup").and_then(|value| value.as_str()) {
                Some(cgroup) => format!("cgroup {cgroup} reached its limit"),
                None => "its cgroup reached its limit".to_owned(),
            },
            Some("none") => "the host was out of memory".to_owned(),
            Some(other) => format!("memory was short under constraint {other}"),
            None => format!("in cgroup {}", label("cgroup")),
        };
        format!("OOM killer {verb} {} (pid {}){resident}: {place}", label("comm"), label("pid"))
    }
}

impl Oom {
    /// Reads the log up to the line about the kill of `pid`, or as far as it gets while patience lasts.
    fn report(&self, pid: u32) -> Report {
        let mut report = Report::default();
        let Some(log) = &self.log else { return report };
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let give_up = Instant::now() + LOG_PATIENCE;
        while !report.killed && Instant::now() < give_up {
            match log.read() {
                Ok(KmsgRead::Record(record)) if record.facility == 0 => report.add(&record.text, pid),
                // poll(2) is woken by an interrupt, which a CPU that writes to a slow console takes only afterwards.
                Ok(KmsgRead::Empty) => std::thread::sleep(Duration::from_micros(200)),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        report
    }
}

impl Report {
    /// Takes what one line of the log says of the kill of `pid` (`dump_oom_victim` and `__oom_kill_process`, mm/oom_kill.c).
    fn add(&mut self, line: &str, pid: u32) {
        if let Some(rest) = line.strip_prefix("oom-kill:constraint=") {
            let field = |name: &str| rest.split(',').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
            if field("pid").and_then(|text| text.parse().ok()) != Some(pid) {
                return;
            }
            self.constraint = Some(match rest.split(',').next() {
                Some("CONSTRAINT_MEMCG") => "memcg",
                Some("CONSTRAINT_CPUSET") => "cpuset",
                Some("CONSTRAINT_MEMORY_POLICY") => "memory_policy",
                _ => "none",
            });
            self.limiting_cgroup = field("oom_memcg").map(str::to_owned);
            self.victim_cgroup = field("task_memcg").map(str::to_owned);
        } else if let Some((start, rest)) = line.split_once("Killed process ")
            && rest.split(|c: char| !c.is_ascii_digit()).next() == Some(pid.to_string().as_str())
        {
            self.killed = true;
            // `total-vm:1kB, anon-rss:2kB, file-rss:3kB, shmem-rss:4kB, UID:0 pgtables:5kB oom_score_adj:0`
            let fields = rest.split([' ', ',']).filter_map(|field| field.split_once(':'));
            self.sizes.extend(fields.filter_map(|(name, size)| {
                let (_, evidence) = SIZES.iter().find(|(in_log, _)| *in_log == name)?;
                Some((*evidence, size.strip_suffix("kB")?.parse().ok()?))
            }));
            // The line above is rate-limited, this one is not.
            if start.starts_with("Memory cgroup out of memory") {
                self.constraint = Some("memcg");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_constraint_cgroups_and_kill() {
        let mut report = Report::default();
        report.add("oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/app,task_memcg=/app/db,task=tail,pid=77,uid=0", 77);
        assert!(!report.killed);
        report.add("Memory cgroup out of memory: Killed process 77 (tail) total-vm:1kB, anon-rss:2kB", 77);
        let expected = Report {
            constraint: Some("memcg"),
            limiting_cgroup: Some("/app".into()),
            victim_cgroup: Some("/app/db".into()),
            sizes: vec![("total_vm_kb", 1), ("anon_rss_kb", 2)],
            killed: true,
        };
        assert_eq!(report, expected);
    }

    #[test]
    fn the_kill_alone_tells_that_a_cgroup_was_the_limit() {
        let mut report = Report::default();
        report.add("Memory cgroup out of memory: Killed process 77 (tail) total-vm:1kB", 77);
        let sizes = vec![("total_vm_kb", 1)];
        assert_eq!(report, Report { constraint: Some("memcg"), sizes, killed: true, ..Report::default() });
    }

    #[test]
    fn lines_about_another_process_say_nothing() {
        let mut report = Report::default();
        report.add("oom-kill:constraint=CONSTRAINT_NONE,task=a,pid=778,uid=0", 77);
        report.add("Out of memory: Killed process 778 (a) total-vm:1kB", 77);
        report.add("Out of memory: Killed process ", 77);
        assert_eq!(report, Report::default());
    }
}
