//! A host whose files are cut, garbled and removed while the agent runs: it says what it leaves out, and the rest goes on.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use xtask::agent_process::AgentProcess;
use xtask::receiver::{EACH, Receiver};

const AGENT: &str = env!("CARGO_BIN_EXE_sysops-agent");
/// A bound against hanging.
const SOON: Duration = Duration::from_secs(15);
const STOP: Duration = Duration::from_secs(2);

/// A copy of a captured host.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(TempDir::new().unwrap());
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts/modern"), tree.0.path());
        tree
    }

    fn procfs(&self, path: &str) -> PathBuf {
        self.0.path().join("proc").join(path)
    }

    /// Without BPF, everything once a second.
    fn config(&self, receiver: &Receiver) -> String {
        let families = ["cpu", "memory", "disk", "network", "process", "fd"];
        let intervals: String = families.iter().map(|family| format!("{family}_interval_secs = 1\n")).collect();
        let root = self.0.path().display();
        format!(
            "[agent]\ncollect_interval_secs = 1\n[host]\nprocfs = '{root}/proc'\nsysfs = '{root}/sys'\n\
             [ebpf]\nenabled = false\n[collector]\n{intervals}{EACH}[alerting.webhook]\nenabled = true\nurl = {:?}\n",
            receiver.url()
        )
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

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

#[test]
fn what_breaks_is_named_and_its_neighbours_go_on() {
    let (tree, receiver) = (Tree::new(), Receiver::start().unwrap());
    let mut agent = AgentProcess::start(Path::new(AGENT), &tree.config(&receiver), &[]).unwrap();
    let healthy = tree.procfs("sys/fs/file-nr");
    let mut all = Vec::new();
    files(&tree.procfs(""), &mut all);
    all.sort();
    for (index, path) in all.iter().filter(|path| **path != healthy).enumerate() {
        // Each way befalls each collector; the agent holds most of the files open.
        let file = OpenOptions::new().write(true).open(path).unwrap();
        match index % 3 {
            0 => file.set_len(0).unwrap(),
            1 => file.set_len(file.metadata().unwrap().len() / 2).unwrap(),
            _ => fs::write(path, b"\xff\0 garbage 99999999999999999999999 -1 nan\n\n:").unwrap(),
        }
    }
    fs::remove_dir_all(tree.procfs("402")).unwrap();
    for collector in ["cpu", "memory", "disk", "disk_io", "network", "process", "kernel", "agent"] {
        agent.wait_for_log(&format!("collector {collector} leaves out what it cannot read: "), SOON).unwrap();
    }
    fs::write(&healthy, "990\t0\t1000\n").unwrap();
    let alert = receiver.wait_for(SOON, |body| body["metric"] == "fd_usage_percent").unwrap();
    assert_eq!(alert.body["value"], 99.0);
    fs::write(&healthy, "1000\t0\t1000\n").unwrap();
    let alert = receiver.wait_for(SOON, |body| body["metric"] == "kernel_fd_exhausted").unwrap();
    assert_eq!((&alert.body["value"], &alert.body["threshold"]), (&1000.0.into(), &1000.0.into()));
    assert_eq!(alert.body["labels"], serde_json::json!({}));
    fs::write(&healthy, "990\t0").unwrap();
    agent.wait_for_log("collector fd leaves out what it cannot read: ", SOON).unwrap();
    agent.stop(STOP).unwrap();
}

#[test]
fn what_is_missing_is_told_once_and_so_is_its_return() {
    let (tree, receiver) = (Tree::new(), Receiver::start().unwrap());
    let (here, away) = (tree.procfs("stat"), tree.procfs("stat.away"));
    fs::rename(&here, &away).unwrap();
    let config = tree.config(&receiver);
    let mut agent = AgentProcess::start(Path::new(AGENT), &config, &[]).unwrap();
    let missing = format!("collector cpu: cannot read {}: No such file or directory", here.display());
    agent.wait_for_log(&missing, SOON).unwrap();

    let path = tree.0.path().join("config.toml");
    fs::write(&path, &config).unwrap();
    let doctor = Command::new(AGENT).arg("doctor").arg("--config").arg(&path).output().unwrap();
    let page = String::from_utf8(doctor.stdout).unwrap();
    let fails = format!("fails: cannot read {}: No such file or directory", here.display());
    let row = |name: &str| page.lines().find(|line| line.starts_with(&format!("  {name} "))).unwrap().to_owned();
    assert!(row("cpu").contains(&fails), "{page}");
    assert!(row("memory").contains("series at a first reading"), "{page}");

    // A neighbour that runs in the same turn shows that the missing file has been looked for again.
    fs::write(tree.procfs("sys/fs/file-nr"), "990\t0\t1000\n").unwrap();
    receiver.wait_for(SOON, |body| body["metric"] == "fd_usage_percent").unwrap();
    fs::rename(&away, &here).unwrap();
    agent.wait_for_log("collector cpu works again", SOON).unwrap();
    assert_eq!(agent.stderr().matches(&missing).count(), 1);
    agent.stop(STOP).unwrap();
}
