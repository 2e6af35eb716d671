//! Values agree with those of the standard tools on this machine, within the tools' rounding.
//!
//! Each reading of a tool stands between two of ours: it must lie between them. What goes up and down may leave that span for a
//! moment, so a reading that disagrees is taken again, and only one that never agrees fails. Rates are compared over the tool's
//! own second.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::thread::{sleep, yield_now};
use std::time::{Duration, Instant};

use sysops_agent::collectors::{Batch, COLLECTORS, Collector};
use sysops_agent::config::{Config, HostRoots};
use sysops_agent::host::Host;
use xtask::faults::needs_program;

/// How often a reading that disagrees is taken again.
const ATTEMPTS: usize = 30;

/// Values by series, in words.
type Values = BTreeMap<String, f64>;

/// What a tool says: the series it should agree with, its value, and by how much it is rounded.
type Said = Vec<(String, f64, f64)>;

/// Collectors that are read together.
struct Reader(Vec<Box<dyn Collector>>);

impl Reader {
    fn new(rows: &[&str]) -> Self {
        let host = Host::new(HostRoots::default());
        let rows = COLLECTORS.iter().filter(|row| rows.contains(&row.name));
        Self(rows.map(|row| (row.build)(&Config::default(), &host)).collect())
    }

    fn read(&mut self) -> Values {
        let mut batch = Batch::new(Instant::now());
        self.0.iter_mut().for_each(|collector| collector.collect(&mut batch).unwrap());
        batch.samples.iter().map(|sample| (sample.series.to_string(), sample.value)).collect()
    }
}

/// Runs a tool in the C locale.
fn tool(line: &str) -> String {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).env("LC_ALL", "C").stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn numbers(line: &str) -> Vec<f64> {
    line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Compares until all agrees; `said` is handed a reading of ours, which tells it what there is.
fn agree(rows: &[&str], said: impl Fn(&Values) -> Said) {
    let mut reader = Reader::new(rows);
    let mut differences = Vec::new();
    for _ in 0..ATTEMPTS {
        let before = reader.read();
        let said = said(&before);
        let after = reader.read();
        assert!(!said.is_empty());
        differences.clear();
        for (series, value, rounding) in said {
            let span = before.get(&series).zip(after.get(&series));
            let (before, after) = span.unwrap_or_else(|| panic!("{series} is not there, and the tool says {value}"));
            if value < before.min(*after) - rounding || value > before.max(*after) + rounding {
                differences.push(format!("{series}: the tool says {value}, we say {before} before and {after} after it"));
            }
        }
        if differences.is_empty() {
            return;
        }
    }
    panic!("in none of {ATTEMPTS} attempts:\n{}", differences.join("\n"));
}

#[test]
fn vmstat_counts_the_same() {
    if needs_program("vmstat", "procps") {
        return;
    }
    agree(&["cpu", "memory"], |_| {
        let text = tool("vmstat -s");
        let value = |what: &str| numbers(text.lines().find(|line| line.trim_end().ends_with(what)).unwrap())[0];
        let kib = |series: &str, what: &str| (series.to_owned(), value(what) * 1024.0, 0.0);
        let page = rustix::param::page_size() as f64;
        vec![
            ("cpu_context_switches_total".to_owned(), value("CPU context switches"), 0.0),
            ("cpu_interrupts_total".to_owned(), value("interrupts"), 0.0),
            ("cpu_forks_total".to_owned(), value("forks"), 0.0),
            kib("memory_total_bytes", "K total memory"),
            kib("memory_free_bytes", "K free memory"),
            kib("memory_buffers_bytes", "K buffer memory"),
            kib("memory_swap_total_bytes", "K total swap"),
            kib("memory_swap_used_bytes", "K used swap"),
            kib("memory_paged_in_bytes_total", "paged in"),
            kib("memory_paged_out_bytes_total", "paged out"),
            ("memory_swap_in_bytes_total".to_owned(), value("pages swapped in") * page, 0.0),
            ("memory_swap_out_bytes_total".to_owned(), value("pages swapped out") * page, 0.0),
        ]
    });
}

#[test]
fn vmstat_divides_the_time_in_the_same_way() {
    if needs_program("vmstat", "procps") {
        return;
    }
    let mut reader = Reader::new(&["cpu"]);
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        reader.read();
        let text = tool("vmstat 1 2");
        let ours = reader.read();
        let header: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        let values = numbers(text.lines().last().unwrap());
        let column = |name: &str| values[header.iter().position(|known| *known == name).unwrap()];
        let share = |mode: &str| ours[&format!("cpu_{mode}_percent{{core=\"all\"}}")];
        let pairs = [
            ("us", column("us"), share("user")),
            ("sy", column("sy"), share("system") + share("irq") + share("softirq")),
            ("wa", column("wa"), share("iowait")),
            ("st", column("st"), share("steal")),
            ("id", column("id"), 100.0 - share("usage") - share("iowait")),
        ];
        // Our interval is longer by what it takes to start a program, in which the processors may do anything.
        if pairs.iter().all(|(_, theirs, ours)| (theirs - ours).abs() <= 3.0) {
            return;
        }
        last = format!("{pairs:?}");
    }
    panic!("in none of {ATTEMPTS} attempts: {last}");
}

#[test]
fn free_sees_the_same_memory() {
    if needs_program("free", "procps") {
        return;
    }
    agree(&["memory"], |_| {
        let text = tool("free -b -w");
        let memory = numbers(text.lines().nth(1).unwrap());
        let swap = numbers(text.lines().nth(2).unwrap());
        let names = ["total", "used", "free", "shared", "buffers"];
        let mut said: Said =
            names.iter().zip(&memory).map(|(name, value)| (format!("memory_{name}_bytes"), *value, 0.0)).collect();
        said.push(("memory_available_bytes".to_owned(), *memory.last().unwrap(), 0.0));
        said.push(("memory_swap_total_bytes".to_owned(), swap[0], 0.0));
        said.push(("memory_swap_used_bytes".to_owned(), swap[1], 0.0));
        // procps before 4 meant something else by used.
        if memory[0] - memory[5..].last().unwrap() - memory[1] > 1024.0 {
            said.retain(|(series, ..)| series != "memory_used_bytes");
        }
        said
    });
}

#[test]
fn df_sees_the_same_room() {
    if needs_program("df", "coreutils") {
        return;
    }
    agree(&["disk"], |ours| {
        let mut said = Said::new();
        for series in ours.keys().filter_map(|series| series.strip_prefix("disk_usage_percent")) {
            let mount = series.split("mount=\"").nth(1).unwrap().trim_end_matches("\"}");
            if mount.contains([' ', '\\']) {
                continue;
            }
            let room = numbers(tool(&format!("df -P -B1 {mount}")).lines().nth(1).unwrap());
            let share = |line: &str| -> f64 {
                line.split_whitespace().find_map(|word| word.strip_suffix('%')).map_or(f64::NAN, |share| share.parse().unwrap())
            };
            said.push((format!("disk_size_bytes{series}"), room[0], 0.0));
            said.push((format!("disk_used_bytes{series}"), room[1], 0.0));
            said.push((format!("disk_available_bytes{series}"), room[2], 0.0));
            // df rounds up.
            let usage = share(tool(&format!("df -P -B1 {mount}")).lines().nth(1).unwrap());
            said.push((format!("disk_usage_percent{series}"), usage - 0.5, 0.5));
            if ours.contains_key(&format!("disk_inode_usage_percent{series}")) {
                let inodes = share(tool(&format!("df -P -i {mount}")).lines().nth(1).unwrap());
                said.push((format!("disk_inode_usage_percent{series}"), inodes - 0.5, 0.5));
            }
        }
        said
    });
}

#[test]
fn iostat_counts_the_same() {
    if needs_program("iostat", "sysstat") {
        return;
    }
    agree(&["disk_io"], |ours| {
        let text = tool("iostat -d -k");
        let header: Vec<&str> = text.lines().find(|line| line.starts_with("Device")).unwrap().split_whitespace().collect();
        let place = |name: &str| header.iter().position(|known| *known == name).unwrap();
        let mut said = Said::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let series = |name: &str| format!("{name}{{device=\"{}\"}}", words[0]);
            if words.len() == header.len() && ours.contains_key(&series("disk_read_bytes_total")) {
                let bytes = |name: &str| words[place(name)].parse::<f64>().unwrap() * 1024.0;
                said.push((series("disk_read_bytes_total"), bytes("kB_read"), 1024.0));
                said.push((series("disk_written_bytes_total"), bytes("kB_wrtn"), 1024.0));
            }
        }
        // Means since boot; they end with the last digit that is printed.
        let text = tool("iostat -d -x -k");
        let header: Vec<&str> = text.lines().find(|line| line.starts_with("Device")).unwrap().split_whitespace().collect();
        let place = |name: &str| header.iter().position(|known| *known == name).unwrap();
        let uptime = numbers(&std::fs::read_to_string("/proc/uptime").unwrap())[0];
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let series = |name: &str| format!("{name}{{device=\"{}\"}}", words[0]);
            if words.len() != header.len() || !ours.contains_key(&series("disk_reads_total")) {
                continue;
            }
            let mean = |name: &str| words[place(name)].parse::<f64>().unwrap();
            for (count, time, wait) in [
                ("disk_reads_total", "disk_read_seconds_total", "r_await"),
                ("disk_writes_total", "disk_write_seconds_total", "w_await"),
            ] {
                let count = ours[&series(count)];
                said.push((series(time), count * mean(wait) / 1e3, count * 0.0051 / 1e3));
            }
            said.push((series("disk_reads_merged_total"), mean("rrqm/s") * uptime, 0.0051 * uptime));
            said.push((series("disk_writes_merged_total"), mean("wrqm/s") * uptime, 0.0051 * uptime));
            said.push((series("disk_busy_seconds_total"), mean("%util") / 100.0 * uptime, 0.0051 / 100.0 * uptime));
        }
        said
    });
}

#[test]
fn sar_sees_the_same_packets() {
    if needs_program("sar", "sysstat") {
        return;
    }
    let mut reader = Reader::new(&["network"]);
    let (from, to) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        let before = reader.read();
        let sar = Command::new("sar").args(["-n", "DEV", "2", "1"]).env("LC_ALL", "C").stdout(Stdio::piped()).spawn().unwrap();
        // Within the two seconds of sar, which begin when it has started.
        sleep(Duration::from_millis(700));
        for _ in 0..2000 {
            from.send_to(&[0; 1000], to.local_addr().unwrap()).unwrap();
        }
        let text = String::from_utf8(sar.wait_with_output().unwrap().stdout).unwrap();
        let after = reader.read();
        let header: Vec<&str> = text.lines().find(|line| line.starts_with("Average:")).unwrap().split_whitespace().collect();
        let line = text.lines().find(|line| line.starts_with("Average:") && line.contains(" lo "));
        let words: Vec<&str> = line.unwrap().split_whitespace().collect();
        let grown = |name: &str| {
            let series = format!("network_{name}_total{{interface=\"lo\"}}");
            after[&series] - before[&series]
        };
        let said = |name: &str| {
            let place = header.iter().position(|known| *known == name).unwrap();
            words[place].parse::<f64>().unwrap() * 2.0
        };
        let pairs = [
            (grown("receive_packets"), said("rxpck/s")),
            (grown("transmit_packets"), said("txpck/s")),
            (grown("receive_bytes"), said("rxkB/s") * 1024.0),
            (grown("transmit_bytes"), said("txkB/s") * 1024.0),
        ];
        // sar divides by the time that really passed, which it does not tell.
        if pairs.iter().all(|(ours, theirs)| *ours >= 2000.0 && (ours - theirs).abs() <= ours * 0.05) {
            return;
        }
        last = format!("{pairs:?}");
    }
    panic!("in none of {ATTEMPTS} attempts: {last}");
}

#[test]
fn ss_sees_the_same_sockets() {
    if needs_program("ss", "iproute2") {
        return;
    }
    let _listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    agree(&["network", "network_tcp"], |_| {
        let text = tool("ss -s");
        let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap();
        let words: Vec<&str> = line.split([' ', '(', ')', ',']).filter(|word| !word.is_empty()).collect();
        let after = |name: &str| words[words.iter().position(|word| *word == name).unwrap() + 1].parse::<f64>().unwrap();
        let total = numbers(text.lines().find(|line| line.starts_with("Total:")).unwrap())[0];
        let mut said = vec![
            ("network_sockets_used".to_owned(), total, 0.0),
            (r#"network_tcp_established"#.to_owned(), after("estab"), 0.0),
            (r#"network_tcp_time_wait"#.to_owned(), after("timewait"), 0.0),
            ("network_tcp_orphans".to_owned(), after("orphaned"), 0.0),
        ];
        let sockets = tool("ss -t -a -n -H");
        for (state, name) in [("listen", "LISTEN"), ("close_wait", "CLOSE-WAIT"), ("syn_sent", "SYN-SENT")] {
            let count = sockets.lines().filter(|line| line.split_whitespace().next() == Some(name)).count();
            said.push((format!("network_tcp_connections{{state=\"{state}\"}}"), count as f64, 0.0));
        }
        said
    });
}

#[test]
fn ps_sees_the_same_processes() {
    if needs_program("ps", "procps") {
        return;
    }
    let own = std::process::id();
    agree(&["process", "agent"], |ours| {
        let all = tool("ps -e -o stat=,nlwp=");
        // ps itself is one of them.
        let count = all.lines().count() as f64 - 1.0;
        let threads: f64 = all.lines().map(|line| numbers(line)[0]).sum::<f64>() - 1.0;
        let in_state = |state: char| all.lines().filter(|line| line.trim_start().starts_with(state)).count() as f64;
        let me = numbers(&tool(&format!("ps -o rss=,nlwp= -p {own}")));
        // The kernel keeps resident pages by processor and adds them up for some files and not for others.
        let unsettled = 4.0 * 1024.0 * 1024.0;
        let mut said = vec![
            ("process_pids".to_owned(), count, 0.0),
            ("process_all_threads".to_owned(), threads, 0.0),
            ("process_zombies".to_owned(), in_state('Z'), 0.0),
            ("process_uninterruptible".to_owned(), in_state('D'), 0.0),
            ("agent_rss_bytes".to_owned(), me[0] * 1024.0, unsettled),
            ("agent_threads".to_owned(), me[1], 0.0),
        ];
        // The largest is surely not one of those that come and go.
        let largest = ours.iter().filter(|(series, _)| series.starts_with("process_rss_bytes")).max_by(|a, b| a.1.total_cmp(b.1));
        let (series, _) = largest.unwrap();
        let pid = series.split("pid=\"").nth(1).unwrap().split('"').next().unwrap();
        let output = Command::new("ps").args(["-o", "rss=", "-p", pid]).output().unwrap();
        if let [kib] = numbers(&String::from_utf8(output.stdout).unwrap())[..] {
            said.push((series.clone(), kib * 1024.0, unsettled));
        }
        yield_now();
        said
    });
}
