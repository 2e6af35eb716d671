//! Measures log lines by second and core: through the kernel's patterns, through patterns of a configuration, through the whole
//! engine; and the most that one line can cost. `cargo xtask bench engine` runs it.

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use sysops_agent::config::{self, Config};
use sysops_agent::engine::Engine;
use sysops_agent::engine::patterns::{CustomPatterns, Patterns};
use sysops_agent::logs::{MAX_TEXT, journal_entry, syslog_line};
use sysops_agent::model::{Evidence, LogRecord, Observation, Timestamp};

/// Lines of the kernel as hosts write them all day, and in between, as every thousandth, one that matters.
const KERNEL: [&str; 12] = [
    "[UFW BLOCK] IN=eth0 OUT= MAC=52:54:00:12:34:56:52:54:00:65:43:21:08:00 SRC=203.0.113.7 DST=198.51.100.4 LEN=40 TOS=0x00 PREC=0x00 TTL=243 ID=54321 PROTO=TCP SPT=47126 DPT=8080 WINDOW=1024 RES=0x00 SYN URGP=0",
    "audit: type=1400 audit(1700000000.123:4567): apparmor=\"DENIED\" operation=\"open\" profile=\"snap.x\" name=\"/proc/1/maps\" pid=4711 comm=\"x\" requested_mask=\"r\" denied_mask=\"r\" fsuid=1000 ouid=0",
    "br-1a2b3c4d5e6f: port 3(veth1a2b3c4) entered blocking state",
    "device veth1a2b3c4 entered promiscuous mode",
    "IPv6: ADDRCONF(NETDEV_CHANGE): veth1a2b3c4: link becomes ready",
    "EXT4-fs (dm-3): mounted filesystem 01234567-89ab-cdef-0123-456789abcdef r/w with ordered data mode. Quota mode: none.",
    "usb 1-1.2: new high-speed USB device number 12 using ehci-pci",
    "e1000e 0000:00:1f.6 eth0: NIC Link is Up 1000 Mbps Full Duplex, Flow Control: Rx/Tx",
    "perf: interrupt took too long (2503 > 2500), lowering kernel.perf_event_max_sample_rate to 79750",
    "nfs: server filer01 OK",
    "TCP: eth0: Driver has suspect GRO implementation, TCP performance may be compromised.",
    "systemd-journald[412]: Received client request to rotate journal, rotating.",
];
const MATCHING: &str = "EXT4-fs error (device sda1): ext4_lookup:1700: inode #2: comm ls: deleted inode referenced: 12";

/// Lines of programs.
const PROGRAMS: [&str; 8] = [
    "sshd[12345]: Failed password for invalid user admin from 203.0.113.7 port 47126 ssh2",
    "sshd[12345]: Connection closed by authenticating user root 203.0.113.7 port 47126 [preauth]",
    "systemd[1]: Started Session 4711 of user deploy.",
    "CRON[4711]: (root) CMD (   cd / && run-parts --report /etc/cron.hourly)",
    "nginx[812]: 198.51.100.9 - - \"GET /api/v1/items?page=7 HTTP/1.1\" 200 5123 \"-\" \"curl/8.5.0\" 0.012",
    "kubelet[1290]: I1121 16:52:04.123456    1290 reconciler_common.go:245] \"operationExecutor.VerifyControllerAttachedVolume started for volume\" pod=\"default/web-7f9c\"",
    "postgres[2201]: LOG:  checkpoint complete: wrote 1234 buffers (7.5%); 0 WAL file(s) added, 0 removed, 3 recycled; write=12.3 s",
    "dockerd[990]: time=\"2026-11-21T16:52:04Z\" level=info msg=\"ignoring event\" container=0123456789abcdef module=libcontainerd",
];

const CUSTOM: [&str; 10] = [
    r"Failed password for (?:invalid user )?(?P<user>\S+) from (?P<peer>[0-9a-f.:]+)",
    r"(?i)out of (?:memory|disk space)",
    r"^postgres\[\d+\]: (?:FATAL|PANIC):",
    r"level=(?:error|fatal) ",
    r"link is down on (?P<port>\S+)",
    r" HTTP.1\.[01]. 5\d\d ",
    r"segmentation fault|core dumped",
    r"certificate .* (?:expired|will expire)",
    r"(?P<unit>\S+\.service): Failed with result",
    r"disk (?P<disk>sd[a-z]) .*SMART",
];

fn main() {
    let row = |name: &str, value: String| println!("{name:<58}{value:>16}");
    let rate = |(lines, took): (usize, Duration)| format!("{:.0} lines/s", lines as f64 / took.as_secs_f64());
    println!("log lines by second and core");
    let kernel: Vec<&str> =
        (0..1000).map(|number| if number == 999 { MATCHING } else { KERNEL[number % KERNEL.len()] }).collect();
    let mut patterns = Patterns::new();
    row(
        "the kernel's, built-in patterns",
        rate(timed(&kernel, |line| drop(black_box(patterns.read(Timestamp::default(), line))))),
    );
    let custom = CustomPatterns::new(&config(&CUSTOM).log_analyzer.custom_patterns);
    row("of programs, 10 patterns of a configuration", rate(timed(&PROGRAMS, |line| _ = black_box(custom.read(line).count()))));
    let of = |line: &str, is_kernel: bool| LogRecord {
        source: if is_kernel { "kmsg" } else { "journal" },
        is_kernel,
        level: Some(6),
        text: line.to_owned(),
        written: None,
        facts: Evidence::new(),
    };
    // One line in five is the kernel's.
    let mix: Vec<(&str, bool)> =
        (0..1000).map(|at| if at % 5 == 0 { (kernel[at], true) } else { (PROGRAMS[at % PROGRAMS.len()], false) }).collect();
    for (name, config) in [("both through the engine", Config::default()), ("the same with 10 patterns", config(&CUSTOM))] {
        let mut engine = Engine::new(&config, "bench");
        let mut alerts = Vec::new();
        let observe = |(line, is_kernel): &(&str, bool)| {
            engine.observe(Timestamp::from_secs(1), Observation::Log(of(line, *is_kernel)), &mut alerts);
            alerts.clear();
        };
        row(name, rate(timed_of(&mix, observe)));
    }
    let file: Vec<String> = PROGRAMS.iter().map(|line| format!("2026-11-21T16:52:04.123456+00:00 web-01 {line}")).collect();
    row("read from a line of syslog", rate(timed_of(&file, |line| drop(black_box(syslog_line::parse(line))))));
    let entries: Vec<String> = PROGRAMS
        .iter()
        .map(|line| {
            let (name, message) = line.split_once("]: ").unwrap_or(("x[1", line));
            let (name, pid) = name.split_once('[').unwrap_or((name, "1"));
            serde_json::json!({"MESSAGE": message, "SYSLOG_IDENTIFIER": name, "_PID": pid, "PRIORITY": "6", "_TRANSPORT": "stdout",
                "__CURSOR": "s=09f40f4b16054a20b09913754a419625;i=1;b=0123456789abcdef0123456789abcdef;m=4c4b40;t=660cc68e99f80;x=2b",
                "__REALTIME_TIMESTAMP": "1795280910000000", "__MONOTONIC_TIMESTAMP": "5000000", "_HOSTNAME": "web-01",
                "_SYSTEMD_UNIT": "x.service", "_SYSTEMD_CGROUP": "/system.slice/x.service", "_EXE": "/usr/bin/x", "_UID": "0",
                "_BOOT_ID": "0123456789abcdef0123456789abcdef", "_MACHINE_ID": "0123456789abcdef0123456789abcdef"})
            .to_string()
        })
        .collect();
    row(
        "read from an entry of the journal",
        rate(timed_of(&entries, |line| drop(black_box(journal_entry::parse(line.as_bytes()))))),
    );

    println!("\nthe most that one line costs");
    let mut worst = (Duration::ZERO, "");
    for begin in WORST {
        let line = begin.repeat(1024 / begin.len() + 1);
        let (lines, took) = timed(&[line.as_str()], |line| drop(black_box(patterns.read(Timestamp::default(), line))));
        worst = worst.max((took / u32::try_from(lines).unwrap_or(1), begin));
    }
    row(&format!("of the kernel, 1 KiB of {:?}", worst.1), format!("{:.1} µs", worst.0.as_secs_f64() * 1e6));
    for pattern in [r"(?:a?b?c?){600}x", r"(\w+\s+){3}\d+$", r"(?:[a-q][^u-z]{13}x){9}", r"(?s).*a.{40}$"] {
        let custom = CustomPatterns::new(&config(&[pattern]).log_analyzer.custom_patterns);
        let lines = ["abc".repeat(MAX_TEXT / 3), "aß 1".repeat(MAX_TEXT / 5), "ab12 ".repeat(MAX_TEXT / 5)];
        let slowest = lines.iter().map(|line| {
            let (lines, took) = timed(&[line.as_str()], |line| _ = black_box(custom.read(line).count()));
            took / u32::try_from(lines).unwrap_or(1)
        });
        let slowest = slowest.max().unwrap_or_default();
        row(&format!("{pattern} on 2 KiB"), format!("{:.1} µs", slowest.as_secs_f64() * 1e6));
    }
}

/// What begins many patterns and ends none.
const WORST: [&str; 10] = [
    "Killed process 1 (",
    "INFO: task a:1 blocked ",
    "x invoked oom-killer: ",
    "oom-kill:constraint=CONSTRAINT_A,oom_memcg=/,task_memcg=/,task=x,",
    "Task in / killed as a result of limit of /",
    "eth0 0000:00:00.0 eth0: Link ",
    "a[1]: segfault at ",
    "general protection fault, : [#",
    "[Hardware Error]: CPU 1: Machine Check: Bank ",
    "EXT4-fs error (device a): comm ",
];

fn config(patterns: &[&str]) -> Config {
    let tables: Vec<String> =
        patterns.iter().map(|pattern| format!("{{ pattern = '{pattern}', severity = 'warn', name = 'p' }}")).collect();
    let text = format!("[log_analyzer]\ncustom_patterns = [{}]", tables.join(", "));
    config::parse(&text, Path::new("bench.toml"), &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
}

fn timed(lines: &[&str], mut work: impl FnMut(&str)) -> (usize, Duration) {
    timed_of(lines, |line| work(line))
}

/// Does the work on all lines again and again for a second; on how many lines, and the processor time.
fn timed_of<T>(lines: &[T], mut work: impl FnMut(&T)) -> (usize, Duration) {
    // Automata are built as lines come.
    lines.iter().for_each(&mut work);
    let begun = processor_time();
    let mut done = 0;
    loop {
        lines.iter().for_each(&mut work);
        done += lines.len();
        let took = processor_time() - begun;
        if took >= Duration::from_secs(1) {
            return (done, took);
        }
    }
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
