//! Logs other than the kernel's own, written by the real programs: a file by rsyslogd, a journal by systemd-journal-remote.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::agent_process::AgentProcess;
use xtask::faults::{KillOnDrop, needs_program, poll};
use xtask::receiver::Receiver;

/// A bound against hanging.
const SOON: Duration = Duration::from_secs(20);
const JOURNAL_REMOTE: &str = "/usr/lib/systemd/systemd-journal-remote";
const MACHINE: &str = "0123456789abcdef0123456789abcdef";

/// An agent that reads logs and nothing else, a directory of its own, and who gets its alerts.
struct Watched {
    directory: TempDir,
    receiver: Receiver,
    agent: Option<AgentProcess>,
}

impl Watched {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), receiver: Receiver::start().unwrap(), agent: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts the agent, with this in its configuration.
    fn start(&mut self, config: &str) {
        fs::create_dir_all(self.path("data")).unwrap();
        let config = format!(
            "[agent]\ndata_dir = '{}'\n[ebpf]\nenabled = false\n[alerting]\nmin_interval_secs = 1\nmax_alerts_per_minute = 1000\n\
             max_alerts_per_hour = 1000\nmax_alerts_per_hour_overall = 1000\n[alerting.grouping]\nenabled = false\n\
             [alerting.webhook]\nenabled = true\nurl = {:?}\n{config}",
            self.path("data").display(),
            self.receiver.url()
        );
        self.agent = Some(AgentProcess::start(Path::new(env!("CARGO_BIN_EXE_sysops-agent")), &config, &[]).unwrap());
    }

    fn agent(&self) -> &AgentProcess {
        self.agent.as_ref().unwrap()
    }

    fn stop(&mut self) {
        self.agent.take().unwrap().stop(SOON).unwrap();
    }

    /// The alert about an error of the file system on a device.
    fn alert_about(&self, device: &str) -> Value {
        self.receiver.wait_for(SOON, |body| body["labels"]["device"] == device && body["status"] == "firing").unwrap().body
    }

    /// How many messages are about a device.
    fn alerts_about(&self, device: &str) -> usize {
        self.receiver.all().iter().filter(|alert| alert.body["labels"]["device"] == device).count()
    }
}

/// A line of the kernel that nobody has written before.
fn error_on(device: &str) -> String {
    format!("EXT4-fs error (device {device}): ext4_lookup:1700: inode #2: comm ls: deleted inode referenced: 12")
}

/// rsyslogd with a socket and a file of its own.
struct Rsyslog {
    process: KillOnDrop,
    socket: PathBuf,
}

impl Rsyslog {
    fn start(directory: &Path, file: &Path, template: &str) -> Self {
        let (socket, config) = (directory.join("log"), directory.join("rsyslog.conf"));
        let text = format!(
            "module(load=\"imuxsock\" SysSock.Use=\"off\")\ninput(type=\"imuxsock\" Socket=\"{}\" UseSpecialParser=\"off\")\n\
             *.* action(type=\"omfile\" file=\"{}\" template=\"{template}\")\n",
            socket.display(),
            file.display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("rsyslogd");
        command.args(["-n", "-f"]).arg(&config).arg("-i").arg(directory.join("rsyslog.pid"));
        let process = KillOnDrop::new(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        poll("the socket of rsyslogd", SOON, || Ok(socket.exists().then_some(()))).unwrap();
        Self { process, socket }
    }

    /// Sends a message as syslog(3) does.
    fn log(&self, tag: &str, text: &str) {
        let socket = UnixDatagram::unbound().unwrap();
        socket.send_to(format!("<12>{tag}: {text}").as_bytes(), &self.socket).unwrap();
    }

    /// Has it open its file again, as logrotate does.
    fn open_again(&self, file: &Path) {
        self.process.signal(Signal::HUP).unwrap();
        poll("the next file", SOON, || {
            self.log("app", "a line");
            Ok(file.exists().then_some(()))
        })
        .unwrap();
    }
}

fn wait_for_text(file: &Path, text: &str) {
    poll(&format!("{text} in {}", file.display()), SOON, || {
        Ok(fs::read_to_string(file).unwrap_or_default().contains(text).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_file_of_rsyslog_is_followed_through_rotation_truncation_and_restart() {
    if needs_program("rsyslogd", "rsyslog") {
        return;
    }
    for template in ["RSYSLOG_TraditionalFileFormat", "RSYSLOG_FileFormat", "RSYSLOG_SyslogProtocol23Format"] {
        let mut watched = Watched::new();
        let file = watched.path("messages");
        let rsyslog = Rsyslog::start(watched.directory.path(), &file, template);
        // Only the priority of this format tells of the facility, and that of a process is never the kernel's.
        let is_by_kernel = template != "RSYSLOG_SyslogProtocol23Format";
        rsyslog.log("app", "a first line");
        wait_for_text(&file, "a first line");
        let config = format!(
            "[log_analyzer]\nsources = ['syslog']\nsyslog_path = '{}'\n\
             custom_patterns = [{{ pattern = 'EXT4-fs error .device (?P<device>c[0-9]+)', severity = 'warn', name = 'mine' }}]\n",
            file.display()
        );
        watched.start(&config);
        assert!(watched.agent().stdout().contains(&format!("syslog: {}", file.display())), "{}", watched.agent().stdout());
        let tell = |watched: &Watched, number: u32| {
            // Of an application, the text is nothing to the kernel's patterns.
            rsyslog.log("app", &error_on(&format!("c{number}")));
            let body = watched.alert_about(&format!("c{number}"));
            assert_eq!((&body["metric"], &body["severity"]), (&json!("log_match"), &json!("warn")), "{template}");
            if is_by_kernel {
                rsyslog.log("kernel", &error_on(&format!("k{number}")));
                let body = watched.alert_about(&format!("k{number}"));
                assert_eq!(body["metric"], "kernel_filesystem_error", "{template}");
                assert_eq!(body["evidence"]["source"], "syslog");
            }
        };
        tell(&watched, 1);
        // logrotate with create: rename, and tell the writer.
        fs::rename(&file, watched.path("messages.1")).unwrap();
        tell(&watched, 2);
        rsyslog.open_again(&file);
        tell(&watched, 3);
        // logrotate with copytruncate.
        fs::copy(&file, watched.path("messages.1")).unwrap();
        OpenOptions::new().write(true).open(&file).unwrap().set_len(0).unwrap();
        tell(&watched, 4);
        // What is logged while the agent is not there is told by the next, once.
        watched.stop();
        rsyslog.log("app", &error_on("c5"));
        wait_for_text(&file, "c5");
        fs::rename(&file, watched.path("messages-20261121")).unwrap();
        rsyslog.open_again(&file);
        rsyslog.log("app", &error_on("c6"));
        wait_for_text(&file, "c6");
        watched.start(&config);
        watched.alert_about("c5");
        watched.alert_about("c6");
        for device in ["c1", "c2", "c3", "c4", "c5", "c6"] {
            assert_eq!(watched.alerts_about(device), 1, "{template}: {device}");
        }
        watched.stop();
    }
}

#[test]
fn lines_of_every_kind_are_survived() {
    let mut watched = Watched::new();
    let file = watched.path("app.log");
    fs::write(&file, "").unwrap();
    watched.start(&format!("[log_analyzer]\nsources = ['syslog']\nsyslog_path = '{}'\n", file.display()));
    let mut log = OpenOptions::new().append(true).open(&file).unwrap();
    let line = format!("Nov 21 16:52:04 h kernel: {}\n", error_on("p1"));
    for byte in line.as_bytes().chunks(20) {
        log.write_all(byte).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    // Bytes that are no UTF-8, and a line that is far too long.
    log.write_all(b"Nov 21 16:52:04 h kernel: \xff\xfe\n").unwrap();
    log.write_all("x".repeat(1 << 20).as_bytes()).unwrap();
    log.write_all(format!("\nNov 21 16:52:04 h kernel: {}\n", error_on("p2")).as_bytes()).unwrap();
    watched.alert_about("p1");
    watched.alert_about("p2");
}

/// A journal that entries are added to.
struct Journal(PathBuf);

impl Journal {
    fn below(root: &Path) -> Self {
        let directory = root.join("var/log/journal").join(MACHINE);
        fs::create_dir_all(&directory).unwrap();
        Self(directory.join("system.journal"))
    }

    fn add(&self, transport: &str, identifier: &str, message: &[u8]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
        let mut entry = format!(
            "__REALTIME_TIMESTAMP={now}\n__MONOTONIC_TIMESTAMP=5000000\n_BOOT_ID={MACHINE}\nPRIORITY=3\n_TRANSPORT={transport}\n\
             SYSLOG_IDENTIFIER={identifier}\n_PID=12\nMESSAGE\n"
        )
        .into_bytes();
        entry.extend((message.len() as u64).to_le_bytes());
        entry.extend(message);
        entry.extend(b"\n\n");
        let mut writer = Command::new(JOURNAL_REMOTE);
        writer.arg("-o").arg(&self.0).arg("-").stdin(Stdio::piped()).stderr(Stdio::null());
        let mut writer = writer.spawn().unwrap();
        writer.stdin.take().unwrap().write_all(&entry).unwrap();
        assert!(writer.wait().unwrap().success());
    }
}

/// The processes that a process started.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}

#[test]
fn a_journal_is_followed_through_the_death_of_its_reader_and_a_restart() {
    if needs_program("journalctl", "systemd") || needs_program(JOURNAL_REMOTE, "systemd-journal-remote") {
        return;
    }
    let mut watched = Watched::new();
    let root = watched.path("root");
    let journal = Journal::below(&root);
    journal.add("kernel", "kernel", error_on("before").as_bytes());
    let config = format!(
        "[host]\nrootfs = '{}'\n[log_analyzer]\nsources = ['dmesg', 'journal']\n\
         custom_patterns = [{{ pattern = '^app.12.: (?P<what>.+) of (?P<device>[a-z0-9]+)', severity = 'info', name = 'mine' }}]\n",
        root.display()
    );
    watched.start(&config);
    assert!(watched.agent().stdout().contains("journal: the systemd journal"), "{}", watched.agent().stdout());
    journal.add("kernel", "kernel", error_on("j1").as_bytes());
    let body = watched.alert_about("j1");
    assert_eq!((&body["metric"], &body["evidence"]["source"]), (&json!("kernel_filesystem_error"), &json!("journal")));
    // Whoever calls itself the kernel is not; bytes that are no UTF-8 are an array in JSON.
    journal.add("syslog", "kernel", error_on("fake").as_bytes());
    journal.add("syslog", "app", b"failure \xff of j2");
    let body = watched.alert_about("j2");
    assert_eq!((&body["metric"], &body["labels"]["what"]), (&json!("log_match"), &json!("failure \u{fffd}")));

    // Its reader dies, and the next one goes on behind what was read.
    let reader = || poll("a journalctl", SOON, || Ok(children(watched.agent().pid()).first().copied())).unwrap();
    let first = reader();
    kill_process(Pid::from_raw(first.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    journal.add("kernel", "kernel", error_on("j3").as_bytes());
    watched.alert_about("j3");
    assert_ne!(reader(), first);
    watched.agent().wait_for_log("log journal is not read: journalctl ended with signal: 9", SOON).unwrap();

    let last = reader();
    watched.stop();
    poll("the end of journalctl", SOON, || Ok((!Path::new(&format!("/proc/{last}")).exists()).then_some(()))).unwrap();
    journal.add("kernel", "kernel", error_on("j4").as_bytes());
    watched.start(&config);
    journal.add("kernel", "kernel", error_on("j5").as_bytes());
    watched.alert_about("j4");
    watched.alert_about("j5");
    for (device, times) in [("before", 0), ("fake", 0), ("j1", 1), ("j2", 1), ("j3", 1), ("j4", 1), ("j5", 1)] {
        assert_eq!(watched.alerts_about(device), times, "{device}");
    }
}

#[test]
fn a_line_of_the_kernel_in_two_logs_is_told_once() {
    if needs_program("journalctl", "systemd") || needs_program(JOURNAL_REMOTE, "systemd-journal-remote") {
        return;
    }
    let mut watched = Watched::new();
    let (root, file) = (watched.path("root"), watched.path("syslog"));
    let journal = Journal::below(&root);
    journal.add("syslog", "app", b"begin");
    fs::create_dir_all(root.join("var/log")).unwrap();
    let in_root = root.join("var/log/syslog");
    fs::write(&in_root, "").unwrap();
    watched.start(&format!(
        "[host]\nrootfs = '{}'\n[log_analyzer]\nsources = ['journal', 'syslog']\n\
         custom_patterns = [{{ pattern = 'of (?P<device>[a-z0-9]+)$', severity = 'info', name = 'mine' }}]\n",
        root.display()
    ));
    let mut log = OpenOptions::new().append(true).open(&in_root).unwrap();
    for device in ["t1", "t2"] {
        log.write_all(
            format!("Nov 21 16:52:04 h kernel: {}\nNov 21 16:52:04 h app[12]: failure of x{device}\n", error_on(device))
                .as_bytes(),
        )
        .unwrap();
        journal.add("kernel", "kernel", error_on(device).as_bytes());
        journal.add("syslog", "app", format!("failure of x{device}").as_bytes());
        assert_eq!(watched.alert_about(device)["evidence"]["source"], "journal");
        watched.alert_about(&format!("x{device}"));
    }
    // The file is read twice a second: by now it has told of the first.
    for device in ["t1", "xt1"] {
        assert_eq!(watched.alerts_about(device), 1, "{device}");
    }
    drop(file);
}

#[test]
fn what_is_not_there_is_said_to_be_not_there() {
    let mut watched = Watched::new();
    let root = watched.path("root");
    fs::create_dir(&root).unwrap();
    watched.start(&format!("[host]\nrootfs = '{}'\n", root.display()));
    let said = watched.agent().stdout();
    for sentence in ["journal: there is no journal in", "syslog: there is neither", "kmsg: cannot read"] {
        assert!(said.contains(sentence), "{sentence}: {said}");
    }
    // Until it is there.
    fs::create_dir_all(root.join("var/log")).unwrap();
    fs::write(root.join("var/log/messages"), "").unwrap();
    watched.agent().wait_for_log("log syslog is not read", SOON).unwrap();
    let mut log = OpenOptions::new().append(true).open(root.join("var/log/messages")).unwrap();
    poll("an alert", SOON, || {
        log.write_all(format!("Nov 21 16:52:04 h kernel: {}\n", error_on("late")).as_bytes())?;
        std::thread::sleep(Duration::from_millis(200));
        Ok((watched.alerts_about("late") > 0).then_some(()))
    })
    .unwrap();
}
