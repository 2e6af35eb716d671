//! Lines of the kernel's log in the wording of all generations, and what stands in for what.

use serde_json::json;
use sysops_agent::engine::patterns::{Named, Patterns, named};
use sysops_agent::model::Severity::{Critical, Warn};
use sysops_agent::model::Status::Firing;
use sysops_agent::model::{Evidence, LogRecord, Observation, Severity};

use super::{HUNG_TASKS, Host, OOM_KILLS, event, is, series};

/// (line, metric, labels, severity, value)
pub const LINES: &[(&str, &str, &str, Severity, f64)] = &[
    // OOM: el7, el7 with UID, 4.19, 5.0 to 5.3, 5.4 and later, of a cgroup and of the host.
    (
        "Killed process 2592 (my (odd) app) total-vm:4096kB, anon-rss:2048kB, file-rss:1024kB",
        "kernel_oom_kill",
        r#"{comm="my (odd) app",pid="2592"}"#,
        Critical,
        1.0,
    ),
    (
        "Killed process 2592 (java), UID 0, total-vm:4096kB, anon-rss:2048kB, file-rss:1024kB, shmem-rss:0kB",
        "kernel_oom_kill",
        r#"{comm="java",pid="2592"}"#,
        Critical,
        1.0,
    ),
    (
        "Killed process 7 (stress) total-vm:4096kB, anon-rss:2048kB, file-rss:1024kB, shmem-rss:0kB",
        "kernel_oom_kill",
        r#"{comm="stress",pid="7"}"#,
        Critical,
        1.0,
    ),
    (
        "Memory cgroup out of memory: Killed process 7 (stress) total-vm:4096kB, anon-rss:2048kB, file-rss:1024kB, shmem-rss:0kB",
        "kernel_oom_kill",
        r#"{comm="stress",pid="7"}"#,
        Critical,
        1.0,
    ),
    (
        "Out of memory: Killed process 7 (stress) total-vm:4096kB, anon-rss:2048kB, file-rss:1024kB, shmem-rss:0kB, UID:1000 pgtables:56kB oom_score_adj:-500",
        "kernel_oom_kill",
        r#"{comm="stress",pid="7"}"#,
        Critical,
        1.0,
    ),
    (
        "Out of memory (oom_kill_allocating_task): Killed process 7 (oom) total-vm:1kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:1kB oom_score_adj:0",
        "kernel_oom_kill",
        r#"{comm="oom",pid="7"}"#,
        Critical,
        1.0,
    ),
    (
        "INFO: task jbd2/sda1-8:345 blocked for more than 120 seconds.",
        "kernel_hung_task",
        r#"{comm="jbd2/sda1-8",pid="345"}"#,
        Warn,
        120.0,
    ),
    (
        "INFO: task a:b c:99 blocked in I/O wait for more than 241 seconds.",
        "kernel_hung_task",
        r#"{comm="a:b c",pid="99"}"#,
        Warn,
        241.0,
    ),
    (
        "INFO: task cat:12 is blocked on a mutex likely owned by task holder:11.",
        "kernel_hung_task",
        r#"{comm="cat",pid="12"}"#,
        Warn,
        1.0,
    ),
    (
        "INFO: task cat:12 is blocked on a mutex, but the owner is not found.",
        "kernel_hung_task",
        r#"{comm="cat",pid="12"}"#,
        Warn,
        1.0,
    ),
    ("end_request: I/O error, dev sdb, sector 1234", "kernel_block_io_error", r#"{device="sdb"}"#, Critical, 1.0),
    ("end_request: critical target error, dev sdb, sector 0", "kernel_block_io_error", r#"{device="sdb"}"#, Critical, 1.0),
    ("blk_update_request: I/O error, dev sda, sector 2048", "kernel_block_io_error", r#"{device="sda"}"#, Critical, 1.0),
    (
        "blk_update_request: critical medium error, dev sda, sector 99 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 0",
        "kernel_block_io_error",
        r#"{device="sda",operation="read"}"#,
        Critical,
        1.0,
    ),
    (
        "print_req_error: I/O error, dev nvme0n1, sector 512 flags 0",
        "kernel_block_io_error",
        r#"{device="nvme0n1"}"#,
        Critical,
        1.0,
    ),
    (
        "I/O error, dev vda, sector 8 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2",
        "kernel_block_io_error",
        r#"{device="vda",operation="write"}"#,
        Critical,
        1.0,
    ),
    (
        "Buffer I/O error on dev dm-0, logical block 1, lost async page write",
        "kernel_block_io_error",
        r#"{device="dm-0"}"#,
        Critical,
        1.0,
    ),
    ("Buffer I/O error on device sda1, logical block 9", "kernel_block_io_error", r#"{device="sda1"}"#, Critical, 1.0),
    (
        "[Hardware Error]: CPU 2: Machine Check: 0 Bank 5: b200000000070f0f",
        "kernel_hardware_error",
        r#"{bank="5",cpu="2",kind="machine_check"}"#,
        Critical,
        1.0,
    ),
    (
        "mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 3: be00000000800400",
        "kernel_hardware_error",
        r#"{bank="3",cpu="0",kind="machine_check"}"#,
        Critical,
        1.0,
    ),
    ("mce: [Hardware Error]: Machine check events logged", "kernel_hardware_error", r#"{kind="machine_check"}"#, Critical, 1.0),
    (
        "{1}[Hardware Error]: Hardware error from APEI Generic Hardware Error Source: 4",
        "kernel_hardware_error",
        r#"{error_source="4",kind="apei"}"#,
        Critical,
        1.0,
    ),
    (
        "EDAC MC0: 3 CE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0 (channel:1 slot:0 page:0x1 offset:0x0 grain:32)",
        "kernel_hardware_error",
        r#"{controller="MC0",kind="memory_corrected"}"#,
        Critical,
        3.0,
    ),
    (
        "EDAC MC1: 1 UE memory scrubbing error on any memory",
        "kernel_hardware_error",
        r#"{controller="MC1",kind="memory_uncorrected"}"#,
        Critical,
        1.0,
    ),
    (
        "EXT4-fs error (device sda1): ext4_lookup:1594: inode #2: comm ls: deleted inode referenced: 12",
        "kernel_filesystem_error",
        r#"{device="sda1"}"#,
        Critical,
        1.0,
    ),
    (
        "EXT4-fs error (device dm-1): ext4_validate_block_bitmap:376: comm kworker/u8:1: bg 1: bad block bitmap checksum",
        "kernel_filesystem_error",
        r#"{device="dm-1"}"#,
        Critical,
        1.0,
    ),
    ("EXT4-fs (sda1): Remounting filesystem read-only", "kernel_filesystem_error", r#"{device="sda1"}"#, Critical, 1.0),
    (
        "watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [kworker/3:1:123]",
        "kernel_lockup",
        r#"{comm="kworker/3:1",cpu="3",kind="soft",pid="123"}"#,
        Critical,
        22.0,
    ),
    (
        "BUG: soft lockup - CPU#0 stuck for 67s! [swapper/0:0]",
        "kernel_lockup",
        r#"{comm="swapper/0",cpu="0",kind="soft",pid="0"}"#,
        Critical,
        67.0,
    ),
    ("NMI watchdog: Watchdog detected hard LOCKUP on cpu 1", "kernel_lockup", r#"{cpu="1",kind="hard"}"#, Critical, 0.0),
    ("watchdog: Watchdog detected hard LOCKUP on cpu 12", "kernel_lockup", r#"{cpu="12",kind="hard"}"#, Critical, 0.0),
    ("rcu: INFO: rcu_sched self-detected stall on CPU", "kernel_lockup", r#"{kind="rcu_stall"}"#, Critical, 0.0),
    ("INFO: rcu_preempt detected stalls on CPUs/tasks:", "kernel_lockup", r#"{kind="rcu_stall"}"#, Critical, 0.0),
    ("BUG: unable to handle page fault for address: ffffffff00000000", "kernel_oops", "", Critical, 1.0),
    ("BUG: kernel NULL pointer dereference, address: 0000000000000008", "kernel_oops", "", Critical, 1.0),
    ("kernel BUG at fs/ext4/inode.c:2721!", "kernel_oops", "", Critical, 1.0),
    ("Oops: 0002 [#1] SMP PTI", "kernel_oops", "", Critical, 1.0),
    ("Internal error: Oops: 0000000096000004 [#1] SMP", "kernel_oops", "", Critical, 1.0),
    ("general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP", "kernel_oops", "", Critical, 1.0),
    ("e1000e: eth0 NIC Link is Down", "kernel_link_down", r#"{interface="eth0"}"#, Warn, 1.0),
    ("igb 0000:01:00.0 enp1s0: igb: enp1s0 NIC Link is Down", "kernel_link_down", r#"{interface="enp1s0"}"#, Warn, 1.0),
    ("r8169 0000:02:00.0 eth1: Link is Down", "kernel_link_down", r#"{interface="eth1"}"#, Warn, 1.0),
    ("mlx5_core 0000:03:00.0 ens3f0: Link down", "kernel_link_down", r#"{interface="ens3f0"}"#, Warn, 1.0),
];

/// Lines that look like trouble and are none, or are said by somebody else than the kernel.
const LOOK_ALIKES: &str = include_str!("look_alikes.txt");

#[test]
fn every_wording_is_understood() {
    let mut patterns = Patterns::new();
    for (line, metric, labels, severity, value) in LINES {
        let (pattern, found) = patterns.read(Host::time(0), line).unwrap_or_else(|| panic!("no match: {line}"));
        assert_eq!((pattern.metric.name, pattern.severity), (*metric, *severity), "{line}");
        assert_eq!(found.labels.to_string(), *labels, "{line}");
        assert_eq!(found.value, *value, "{line}");
        assert_eq!(found.evidence["line"], *line);
    }
}

#[test]
fn look_alikes_are_not() {
    let mut patterns = Patterns::new();
    for line in LOOK_ALIKES.lines().chain([""]) {
        if let Some((pattern, _)) = patterns.read(Host::time(0), line) {
            panic!("{} matches {line}", pattern.name);
        }
    }
}

#[test]
fn only_the_kernel_is_believed_whatever_the_log() {
    let record = |source, is_kernel| {
        let text = "kernel BUG at fs/ext4/inode.c:2721!".to_owned();
        Observation::Log(LogRecord { source, is_kernel, level: None, text, written: None, facts: Evidence::new() })
    };
    let mut host = Host::new();
    for source in ["kmsg_user", "journal", "syslog"] {
        host.observe(record(source, false));
    }
    assert_eq!(host.told(), []);
    host.observe(record("journal", true));
    assert_eq!(host.only().evidence["source"], "journal");
}

#[test]
fn what_was_logged_before_the_start_is_told_as_past() {
    let (mut host, kills) = (Host::new(), series(&OOM_KILLS, &[]));
    host.probed("oom", true);
    host.samples(&kills, 10, &[0.0]);
    let text = "Out of memory: Killed process 7 (x) total-vm:1kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB".to_owned();
    let written = Some(Host::time(-60));
    host.observe(Observation::Log(LogRecord {
        source: "kmsg",
        is_kernel: true,
        level: None,
        text,
        written,
        facts: Evidence::new(),
    }));
    // No probe can confirm it, so none is waited for.
    assert_eq!(host.only().evidence["logged_at"], "2023-11-14T22:12:20Z");
    // Nor does it explain what happens now.
    host.sample(&kills, 1.0);
    host.wait(5);
    assert!(host.only().message.starts_with("OOM kill unconfirmed"));
}

#[test]
fn a_line_of_any_length_costs_little() {
    let mut host = Host::new();
    host.line(&"\u{1f980}".repeat(1 << 20));
    host.line(&format!("Buffer I/O error on dev dm-0, logical block 1, {}", "x".repeat(1 << 20)));
    assert!(host.only().evidence["line"].as_str().unwrap().len() <= 1024);
}

#[test]
fn an_oom_kill_is_told_with_its_cgroup_and_numbers() {
    let kill = "Memory cgroup out of memory: Killed process 1234 (victim) total-vm:209920kB, anon-rss:50000kB, file-rss:1200kB, shmem-rss:0kB, UID:33 pgtables:144kB oom_score_adj:100";
    let mut host = Host::new();
    host.line("oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/box,task_memcg=/box/a,b,task=victim,pid=1234,uid=33");
    host.line(kill);
    let alert = host.only();
    assert_eq!(alert.labels.to_string(), r#"{cgroup="/box/a,b",comm="victim",pid="1234"}"#);
    assert_eq!(alert.message, "OOM killer killed victim (pid 1234), resident memory 50 MiB");
    for (fact, value) in
        [("anon_rss_kb", 50_000), ("file_rss_kb", 1200), ("uid", 33), ("pgtables_kb", 144), ("total_vm_kb", 209_920)]
    {
        assert_eq!(alert.evidence[fact], value, "{fact}");
    }
    for (fact, value) in
        [("source", "kmsg"), ("limit_cgroup", "/box"), ("constraint", "memcg"), ("killed", "true"), ("oom_score_adj", "100")]
    {
        assert_eq!(alert.evidence[fact].to_string().trim_matches('"'), value, "{fact}");
    }
    // The line was about another process, or too long ago.
    host.line(
        "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/z,task=x,pid=9,uid=0",
    );
    host.line("Out of memory: Killed process 10 (y) total-vm:1kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB");
    assert_eq!(host.only().labels.get("cgroup"), None);
    host.line("oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/z,task=x,pid=11,uid=0");
    host.wait(11);
    host.line("Out of memory: Killed process 11 (y) total-vm:1kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB");
    assert_eq!(host.only().labels.get("cgroup"), None);
    // Before 5.0.
    host.line("Task in /docker/abc killed as a result of limit of /docker");
    host.line("Killed process 12 (z) total-vm:1kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB");
    let alert = host.only();
    assert_eq!((alert.labels.get("cgroup"), alert.evidence["limit_cgroup"].as_str()), (Some("/docker/abc"), Some("/docker")));
}

#[test]
fn an_oom_kill_is_told_with_who_asked_for_memory() {
    let mut host = Host::new();
    host.line("tail invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0");
    host.line("CPU: 1 UID: 0 PID: 4711 Comm: tail Not tainted 6.18.44 #1 PREEMPT(lazy) ");
    host.line("oom-kill:constraint=CONSTRAINT_CPUSET,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/z,task=x,pid=9,uid=0");
    let kill = "Out of memory: Killed process 9 (x) total-vm:1kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB";
    host.line(kill);
    let evidence = host.only().evidence;
    for (fact, value) in
        [("trigger_comm", json!("tail")), ("trigger_pid", json!(4711)), ("constraint", json!("cpuset")), ("killed", json!(true))]
    {
        assert_eq!(evidence[fact], value, "{fact}");
    }
    // The stack of something else, and a kill whose lines were held back.
    host.line("CPU: 1 PID: 12 Comm: cat Tainted: G        W");
    host.line(&kill.replace("process 9", "process 10"));
    let evidence = host.only().evidence;
    assert_eq!((evidence.get("trigger_pid"), &evidence["constraint"]), (None, &json!("none")));
}

#[test]
fn facts_of_whom_a_line_names_are_in_its_alert() {
    let mut host = Host::new();
    let mut facts = Evidence::new();
    facts.insert("wchan".into(), json!("rpc_wait"));
    facts.insert("line".into(), json!("another"));
    host.observe(Observation::Log(LogRecord {
        source: "kmsg",
        level: Some(3),
        is_kernel: true,
        written: None,
        text: HUNG.into(),
        facts,
    }));
    let evidence = host.only().evidence;
    assert_eq!((&evidence["wchan"], &evidence["line"]), (&json!("rpc_wait"), &json!(HUNG)));
}

#[test]
fn who_is_named_is_known_without_reading_the_line() {
    let limit = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/b,ox,task_memcg=/b,ox/a,task=x,pid=1,uid=0";
    assert_eq!(named(limit), Some(Named::Limiting("/b,ox")));
    let mut patterns = Patterns::new();
    for (line, metric, labels, ..) in LINES {
        let pid = |prefix: &str| labels.split(prefix).nth(1).and_then(|rest| rest.split('"').next()?.parse().ok()).unwrap_or(0);
        let is_detail = patterns.read(Host::time(0), line).unwrap().1.is_detail;
        let expected = match *metric {
            "kernel_oom_kill" => Some(Named::Killed { pid: pid("pid=\""), of_cgroup: line.starts_with("Memory") }),
            "kernel_hung_task" if !is_detail => Some(Named::Blocked(pid("pid=\""))),
            _ => None,
        };
        assert_eq!(named(line), expected, "{line}");
    }
    assert!(LOOK_ALIKES.lines().all(|line| named(line).is_none() || line.starts_with("Killed process 12 by hand")));
}

const HUNG: &str = "INFO: task cat:12 blocked for more than 120 seconds.";
const HUNG_OWNER: &str = "INFO: task cat:12 is blocked on a mutex likely owned by task holder:11.";

#[test]
fn a_detail_adds_facts_but_no_event() {
    let mut host = Host::new();
    host.line(HUNG);
    host.line(HUNG_OWNER);
    assert_eq!(host.told(), [is(Firing, "warn Task cat (pid 12) blocked for more than 120 s")]);
    assert_eq!(host.engine.open_incidents().map(|incident| incident.count).collect::<Vec<_>>(), [1]);
    host.wait(601);
    let over = host.only();
    assert_eq!((over.evidence["owner_comm"].as_str(), over.evidence["lock"].as_str()), (Some("holder"), Some("mutex")));
}

#[test]
fn a_line_bears_witness_to_its_probe_whichever_comes_first() {
    for line_first in [false, true] {
        let mut host = Host::new();
        host.probed("hung_task", true);
        let probe = event("kernel_hung_task", &[("comm", "cat"), ("pid", "12"), ("cgroup", "/x")], "cat hangs");
        if line_first {
            host.line(HUNG);
            host.event(probe);
        } else {
            host.event(probe);
            host.line(HUNG);
        }
        host.line(HUNG_OWNER);
        host.wait(10);
        assert_eq!(host.told(), [is(Firing, "warn cat hangs")], "line first: {line_first}");
        assert_eq!(host.engine.stats().witnessed, 2);
        host.wait(600);
        let over = host.only();
        assert_eq!(over.evidence["witnesses"].to_string(), r#"["kmsg","probe"]"#);
        assert_eq!((over.count, over.evidence["owner_comm"].as_str()), (1, Some("holder")));
    }
}

#[test]
fn a_line_that_the_probe_missed_is_told_after_a_grace() {
    let mut host = Host::new();
    host.probed("hung_task", true);
    host.event(event("kernel_hung_task", &[("comm", "other"), ("pid", "13")], "other hangs"));
    host.line(HUNG);
    assert_eq!(host.told().len(), 1);
    host.wait(3);
    assert_eq!(host.told(), []);
    host.wait(1);
    assert_eq!(host.only().evidence["probe"], "did not report this");
}

#[test]
fn a_failing_partition_is_its_disk() {
    let mut host = Host::new();
    host.probed("block_io", true);
    host.event(event("kernel_block_io_error", &[("device", "loop1")], "loop1 fails"));
    host.event(event("kernel_block_io_error", &[("device", "sda")], "sda fails"));
    host.line("Buffer I/O error on dev sda1, logical block 0, async page read");
    host.line("Buffer I/O error on dev loop10, logical block 0, async page read");
    host.wait(5);
    let metrics: Vec<_> = host.alerts.iter().map(|alert| alert.labels.get("device").unwrap()).collect();
    assert_eq!(metrics, ["loop1", "sda", "loop10"]);
}

#[test]
fn a_counter_without_a_line_is_unconfirmed() {
    let (mut host, kills) = (Host::new(), series(&OOM_KILLS, &[]));
    host.samples(&kills, 10, &[5.0, 5.0]);
    host.sample(&kills, 7.0);
    host.wait(3);
    assert_eq!(host.told(), []);
    host.wait(1);
    let alert = host.only();
    assert_eq!(alert.message, "OOM kill unconfirmed: the counter kernel_oom_kills_total rose by 2, no log line names the victim");
    assert_eq!((alert.value, alert.count, alert.severity), (2.0, 2, Critical));
    // A reset is no rise.
    host.samples(&kills, 10, &[0.0, 0.0]);
    assert_eq!(host.told(), []);
    host.sample(&series(&HUNG_TASKS, &[]), 0.0);
    host.samples(&series(&HUNG_TASKS, &[]), 10, &[1.0]);
    assert_eq!(host.only().metric, "kernel_hung_task");
}

#[test]
fn a_counter_is_explained_by_lines_before_and_after_it() {
    let kill = |pid: u32| format!("Killed process {pid} (x) total-vm:1kB, anon-rss:1kB, file-rss:0kB");
    let (mut host, kills) = (Host::new(), series(&OOM_KILLS, &[]));
    host.samples(&kills, 10, &[0.0]);
    host.line(&kill(1));
    host.wait(9);
    host.sample(&kills, 2.0);
    host.wait(1);
    host.line(&kill(2));
    host.wait(20);
    assert_eq!(host.told().len(), 2);
    // One line explains one kill.
    host.line(&kill(3));
    host.samples(&kills, 10, &[4.0]);
    assert_eq!(host.alerts.len(), 2);
    assert_eq!(host.alerts[1].evidence["rose_by"], 1);
}
