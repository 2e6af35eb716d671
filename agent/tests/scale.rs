//! All collectors on hosts of the largest size, made here: 4,096 processors, 10,000 processes. What they say is right, what they
//! say it in is bounded, and so is what they hold. And on hosts whose parts come and go between two runs, or in the middle of one.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sysops_agent::collectors::{Batch, COLLECTORS, Collector, Row};
use sysops_agent::config::{Config, HostRoots, Pattern};
use sysops_agent::host::Host;
use tempfile::TempDir;

/// The system's allocator, with the sum of what it has given and not got back.
struct Counting;

static HELD: AtomicI64 = AtomicI64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn book(layout: Layout, sign: i64) {
    HELD.fetch_add(sign * i64::try_from(layout.size()).unwrap_or(i64::MAX), Ordering::Relaxed);
}

// SAFETY: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        book(layout, 1);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        book(layout, -1);
        // SAFETY: `pointer` came from `alloc` above, hence from the system's allocator, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What is held is counted for the whole program, so that these tests take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A host that begins as a copy of the fixture host `modern`.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        // Tens of thousands of files: in memory, where that is to be had.
        let shm = Path::new("/dev/shm");
        let tree = Self(if shm.is_dir() { TempDir::new_in(shm) } else { TempDir::new() }.unwrap());
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts/modern"), tree.0.path());
        for point in ["dev/shm", "srv/my data"] {
            fs::create_dir_all(tree.path("root").join(point)).unwrap();
        }
        tree
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn write(&self, file: &str, text: impl AsRef<[u8]>) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Makes `link` lead to `directory`, for what is the same many times over.
    fn link(&self, link: &str, directory: &str) {
        symlink(self.path(directory), self.path(link)).unwrap();
    }

    fn append(&self, file: &str, line: &str) {
        let text = fs::read_to_string(self.path(file)).unwrap();
        self.write(file, text + line);
    }

    /// Takes the lines with `word` out of a file.
    fn cut(&self, file: &str, word: &str) {
        let text = fs::read_to_string(self.path(file)).unwrap();
        self.write(file, text.lines().filter(|line| !line.contains(word)).fold(String::new(), |text, line| text + line + "\n"));
    }

    fn host(&self) -> Host {
        Host::new(HostRoots { procfs: self.path("proc"), sysfs: self.path("sys"), rootfs: self.path("root") })
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            fs::create_dir(&to).unwrap();
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

/// All collectors, ten seconds apart, that must have nothing to complain of.
struct Watch {
    collectors: Vec<(&'static Row, Box<dyn Collector>)>,
    at: Instant,
}

type Values = BTreeMap<String, f64>;

impl Watch {
    fn new(host: &Host, config: &Config) -> Self {
        Self { collectors: COLLECTORS.iter().map(|row| (row, (row.build)(config, host))).collect(), at: Instant::now() }
    }

    fn run(&mut self) -> Values {
        self.at += Duration::from_secs(10);
        let mut values = Values::new();
        for (row, collector) in &mut self.collectors {
            let mut batch = Batch::new(self.at);
            collector.collect(&mut batch).unwrap();
            // A busy machine may leave a helper thread waiting.
            let complaint = batch.first_skip.filter(|skip| !skip.contains("does not answer"));
            assert_eq!(complaint, None, "collector {}", row.name);
            values.extend(batch.samples.into_iter().map(|sample| (sample.series.to_string(), sample.value)));
        }
        values
    }
}

fn of<'a>(values: &'a Values, metric: &'a str) -> impl Iterator<Item = (&'a String, f64)> {
    values.iter().filter(move |(series, _)| series.split('{').next() == Some(metric)).map(|(series, value)| (series, *value))
}

const PROCESSORS: u64 = 4096;

/// `/proc/stat` after so many runs: in each, processor N was busy for N % 101 of 100 ticks, but for those in `offline`.
fn stat(runs: u64, offline: std::ops::Range<u64>) -> String {
    let online = || (0..PROCESSORS).filter(|core| !offline.contains(core));
    let busy = |core: u64| core % 101 * runs;
    let ticks = |busy: u64, all: u64| format!("{busy} 0 0 {} 0 0 0 0 0 0\n", all - busy);
    let mut text = format!("cpu  {}", ticks((0..PROCESSORS).map(busy).sum(), 100 * runs * PROCESSORS));
    for core in online() {
        write!(text, "cpu{core} {}", ticks(busy(core), 100 * runs)).unwrap();
    }
    // As many interrupts as such a host has lines: a text of more than 100 kB in one line.
    let interrupts: String = (0..50_000).map(|line| format!(" {line}")).collect();
    write!(text, "intr {}{interrupts}\nctxt 5\nbtime 6\nprocesses 7\nprocs_running 8\nprocs_blocked 9\n", u64::MAX / 2).unwrap();
    text
}

#[test]
fn a_host_with_4096_processors() {
    let _turn = turn();
    let tree = Tree::new();
    tree.write("throttle/core_throttle_count", "3\n");
    tree.write("throttle/package_throttle_count", "5\n");
    // Two of each core, 512 of each package.
    for core in 0..PROCESSORS / 2 {
        tree.write(&format!("topology/{core}/core_id"), format!("{}\n", core % 256));
        tree.write(&format!("topology/{core}/physical_package_id"), format!("{}\n", core / 256));
    }
    for processor in 0..PROCESSORS {
        let directory = format!("sys/devices/system/cpu/cpu{processor}");
        fs::create_dir_all(tree.path(&directory)).unwrap();
        tree.link(&format!("{directory}/topology"), &format!("topology/{}", processor / 2));
        tree.link(&format!("{directory}/thermal_throttle"), "throttle");
    }
    // The first counter of each is about to pass 2^32.
    let softnet = |count: u32| -> String {
        let line = |processor| format!("{count:08x} 00000001 00000000 0 0 0 0 0 0 0 0 0 {processor:08x} 0 0\n");
        (0..PROCESSORS).map(line).collect()
    };
    let conntrack: String = (0..PROCESSORS).map(|_| "00000001 00000002 00000003\n").collect();
    tree.write("proc/1/net/stat/nf_conntrack", format!("entries drop early_drop\n{conntrack}"));
    tree.write("proc/stat", stat(1, 0..0));
    tree.write("proc/1/net/softnet_stat", softnet(u32::MAX));
    let mut watch = Watch::new(&tree.host(), &Config::default());
    let first = watch.run();
    tree.write("proc/stat", stat(2, 0..0));
    tree.write("proc/1/net/softnet_stat", softnet(9));
    let second = watch.run();

    assert_eq!(second["cpu_processors_online"], 4096.0);
    let cores: Values = of(&second, "cpu_usage_percent").map(|(series, usage)| (series.clone(), usage)).collect();
    assert_eq!(cores.len(), 4097);
    for core in 0..PROCESSORS {
        let usage = cores[&format!("cpu_usage_percent{{core=\"{core}\"}}")];
        assert!((usage - (core % 101) as f64).abs() < 1e-9, "core {core}: {usage}");
    }
    let mean = (0..PROCESSORS).map(|core| (core % 101) as f64).sum::<f64>() / 4096.0;
    assert!((cores["cpu_usage_percent{core=\"all\"}"] - mean).abs() < 1e-9);
    assert_eq!(second["cpu_interrupts_total"], (u64::MAX / 2) as f64);
    // They began at what they were, and each grew by ten in passing 2^32.
    let processed = "network_softnet_processed_total";
    assert_eq!(second[processed] - first[processed], 4096.0 * 10.0);
    assert_eq!(second["network_softnet_drops_total"], 4096.0);
    assert_eq!((second["network_conntrack_drops_total"], second["network_conntrack_early_drops_total"]), (8192.0, 12_288.0));
    assert_eq!(second["kernel_thermal_throttle_total{scope=\"core\"}"], 3.0 * 2048.0);
    assert_eq!(second["kernel_thermal_throttle_total{scope=\"package\"}"], 5.0 * 8.0);

    // All that there are so many of is one series a processor.
    let others = second.len() - 4096;
    assert!(others < 250, "{others} series beside those of the processors");

    // Half of them are unplugged and plugged in again.
    tree.write("proc/stat", stat(3, 2048..4096));
    let third = watch.run();
    assert_eq!((third["cpu_processors_online"], of(&third, "cpu_usage_percent").count()), (2048.0, 2049));
    tree.write("proc/stat", stat(4, 0..0));
    let fourth = watch.run();
    assert_eq!(of(&fourth, "cpu_usage_percent").count(), 2049, "those that are back have nothing to compare with yet");
    tree.write("proc/stat", stat(5, 0..0));
    assert_eq!(of(&watch.run(), "cpu_usage_percent").count(), 4097);

    let held = HELD.load(Ordering::Relaxed);
    for runs in 6..10 {
        tree.write("proc/stat", stat(runs, 0..0));
        watch.run();
    }
    let grown = HELD.load(Ordering::Relaxed) - held;
    assert!(grown < 64 << 10, "four more runs hold {grown} bytes more");
}

const PROCESSES: u32 = 10_000;

/// Names as programs give them to themselves.
const NAMES: [&str; 6] = ["worker", "a b", "(sd-pam)", "x) R 1 (y", "two\nlines", "tab\t\"q\"\\"];

/// A process with two threads: its 50th is blocked, its 51st ended; the higher its number, the more it uses.
fn add_process(tree: &Tree, pid: u32, start: u32, ticks: u32) {
    let name = NAMES[usize::try_from(pid).unwrap() % NAMES.len()];
    let state = match pid % 100 {
        50 => 'D',
        51 => 'Z',
        _ => 'S',
    };
    let stat = format!("{pid} ({name}) {state} 1 1 1 0 -1 4194560 0 0 0 0 {ticks} 0 0 0 20 0 2 0 {start} 1000 {pid} 0 1 1\n");
    tree.write(&format!("proc/{pid}/stat"), stat);
    for file in ["limits", "cmdline", "fd", "status", "io", "oom_score_adj"] {
        let link = format!("proc/{pid}/{file}");
        if !tree.path(&link).exists() {
            tree.link(&link, &format!("same/{file}"));
        }
    }
}

fn pids() -> std::ops::Range<u32> {
    100_000..100_000 + PROCESSES
}

#[test]
fn a_host_with_10000_processes() {
    let _turn = turn();
    let tree = Tree::new();
    tree.write("same/limits", "Max open files            1024                 4096                 files\n");
    tree.write("same/cmdline", "/usr/bin/program\0--like\0others\0");
    tree.write("same/fd/0", "");
    let memory = "RssAnon:\t3 kB\nRssFile:\t2 kB\nRssShmem:\t1 kB\n";
    tree.write("same/status", format!("{memory}voluntary_ctxt_switches:\t1\nnonvoluntary_ctxt_switches:\t1\n"));
    tree.write("same/io", "rchar: 1\nwchar: 2\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 0\n");
    tree.write("same/oom_score_adj", "0\n");
    tree.write("proc/100003/cmdline", "/usr/bin/program\0--number\x00100003\0");
    for pid in pids() {
        add_process(&tree, pid, 1000, 0);
    }
    let mut config = Config::default();
    // A process is named by its name or its command line.
    config.collector.process.track_patterns =
        vec![Pattern(regex::Regex::new("^two\nlines$").unwrap()), Pattern(regex::Regex::new("--number 100003$").unwrap())];
    let mut watch = Watch::new(&tree.host(), &config);
    let of_modern = (5.0, 12.0);
    let totals = |values: &Values, processes: f64| {
        assert_eq!(values["process_pids"], of_modern.0 + processes);
        assert_eq!(values["process_all_threads"], of_modern.1 + 2.0 * processes);
    };
    let first = watch.run();
    totals(&first, 10_000.0);
    assert_eq!((first["process_zombies"], first["process_uninterruptible"]), (1.0 + 100.0, 1.0 + 100.0));
    assert_eq!(of(&first, "process_cpu_percent").count(), 0);

    // In ten seconds the last of them use 1 %, 2 %, … of a core.
    let most = pids().end - 1;
    for busy in 0..20 {
        add_process(&tree, most - busy, 1000, 10 * (busy + 1));
    }
    let second = watch.run();
    totals(&second, 10_000.0);
    let labels = |pid: u32, name: &str| format!("{{comm=\"{name}\",pid=\"{pid}\"}}");
    // 109999 % 6 is 1, and 109983 % 6 is 3.
    assert_eq!(second[&format!("process_cpu_percent{}", labels(most, "a b"))], 1.0);
    assert_eq!(second[&format!("process_cpu_percent{}", labels(most - 16, "x) R 1 (y"))], 17.0);
    let named = pids().filter(|pid| pid % 6 == 4).count();
    let told = of(&second, "process_rss_bytes").count();
    // Twenty by CPU, twenty by memory, which are the same here, those that a pattern names, and of `modern` none is as large.
    assert!((named + 1..=named + 1 + 40).contains(&told), "{told} processes are told of, {named} of them are named");
    assert!(second.contains_key(&format!("process_open_fds{}", labels(100_003, "a b"))));
    // Fourteen series each.
    let of_processes = second.keys().filter(|series| series.contains("pid=")).count();
    assert!((14 * named..=14 * told).contains(&of_processes), "{of_processes} series of {told} processes");
    let others = second.len() - of_processes;
    assert!(others < 250, "{others} series beside those of processes");

    // A thousand vanish, half of them in the middle of a run: their directory is listed, and empty when it is looked at. As many
    // others are new, and a hundred ids are used again by processes that have run for longer.
    let away = |pid: u32| fs::rename(tree.path(&format!("proc/{pid}")), tree.path(&format!("gone-{pid}"))).unwrap();
    for pid in 100_000..100_500 {
        away(pid);
    }
    for pid in 100_500..101_000 {
        away(pid);
        fs::create_dir(tree.path(&format!("proc/{pid}"))).unwrap();
    }
    for pid in 200_000..201_000 {
        add_process(&tree, pid, 2000, 1_000_000);
    }
    for pid in 109_000..109_100 {
        away(pid);
        add_process(&tree, pid, 2000, 5_000_000);
    }
    let third = watch.run();
    totals(&third, 10_000.0);
    let busy: Vec<_> = of(&third, "process_cpu_percent").filter(|(_, percent)| *percent > 0.0).collect();
    assert!(busy.is_empty(), "nobody ran since, and who is new has nothing to compare with: {busy:?}");

    // Everybody has had a turn by then.
    (0..4).for_each(|_| drop(watch.run()));
    let held = HELD.load(Ordering::Relaxed);
    (0..8).for_each(|_| drop(watch.run()));
    let grown = HELD.load(Ordering::Relaxed) - held;
    assert!(grown < 64 << 10, "eight more runs hold {grown} bytes more");
}

#[test]
fn devices_and_interfaces_are_plugged_in_and_out() {
    let _turn = turn();
    let tree = Tree::new();
    let disk = |requests: u64| format!(" 8 160 sdk {requests} 0 {} 0 0 0 0 0 0 0 0\n", requests * 8);
    let interface = |bytes: u64| format!("  usb7: {bytes} 10 0 0 0 0 0 0 {bytes} 10 0 0 0 0 0 0\n");
    for (file, text) in
        [("block/sdk/size", "2048\n"), ("class/net/usb7/carrier", "1\n"), ("class/net/usb7/device/vendor", "0x1\n")]
    {
        tree.write(&format!("sys/{file}"), text);
    }
    let set = |requests: Option<u64>| {
        tree.cut("proc/diskstats", " sdk ");
        tree.cut("proc/1/net/dev", "usb7:");
        if let Some(requests) = requests {
            tree.append("proc/diskstats", &disk(requests));
            tree.append("proc/1/net/dev", &interface(requests * 100));
        }
    };
    let mut watch = Watch::new(&tree.host(), &Config::default());
    let plugged = |values: &Values| -> Vec<String> {
        let is = |series: &&String| series.contains("\"sdk\"") || series.contains("\"usb7\"");
        values.keys().filter(is).map(|series| series.split('{').next().unwrap().to_owned()).collect()
    };
    watch.run();
    let before = watch.run();
    assert_eq!(plugged(&before), [""; 0]);
    set(Some(1_000_000));
    let new = plugged(&watch.run());
    assert!(new.contains(&"disk_reads_total".to_owned()), "{new:?}");
    assert!(new.contains(&"network_receive_bytes_total".to_owned()), "{new:?}");
    set(Some(1_000_100));
    let more = plugged(&watch.run());
    assert!(more.len() > new.len(), "with something to compare with there are rates: {more:?}");
    set(None);
    assert_eq!(watch.run().keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    // Another one under the same name, whose counters begin at zero.
    set(Some(1));
    assert_eq!(plugged(&watch.run()), new);
}

#[test]
fn a_container_sees_the_host_below_another_root() {
    let _turn = turn();
    let tree = Tree::new();
    let inside = tree.path("host");
    fs::create_dir(&inside).unwrap();
    for directory in ["proc", "sys", "root"] {
        fs::rename(tree.path(directory), inside.join(directory)).unwrap();
    }
    let roots = HostRoots { procfs: inside.join("proc"), sysfs: inside.join("sys"), rootfs: inside.join("root") };
    let mut watch = Watch::new(&Host::new(roots), &Config::default());
    watch.run();
    let values = watch.run();
    assert_eq!(values["process_pids"], 5.0);
    assert!(of(&values, "disk_usage_percent").any(|(series, _)| series.contains("mount=\"/srv/my data\"")), "{values:#?}");
}

#[test]
fn processes_that_end_while_they_are_looked_at_are_no_failure() {
    let _turn = turn();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                Command::new("true").status().unwrap();
            }
        });
        let row = COLLECTORS.iter().find(|row| row.name == "process").unwrap();
        let mut collector = (row.build)(&Config::default(), &Host::new(HostRoots::default()));
        let mut seen = 0;
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..300 {
                let mut batch = Batch::new(Instant::now());
                collector.collect(&mut batch).unwrap();
                assert_eq!(batch.first_skip, None);
                seen += batch.samples.len();
            }
        }));
        ended.store(true, Ordering::Relaxed);
        result.unwrap();
        assert!(seen > 300 * 4);
    });
}
