//! `scan`: the same lines in every form, what it prints and returns.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::faults::needs_program;

const JOURNAL_REMOTE: &str = "/usr/lib/systemd/systemd-journal-remote";
const ERROR: &str = "EXT4-fs error (device sda1): ext4_lookup:1700: inode #2: comm ls: deleted inode referenced: 12";

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

fn scan(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sysops-agent"));
    command.arg("scan").args(arguments).env("TZ", "UTC").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Who has read enough need not take it all.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn matches(output: &Output) -> Vec<Value> {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_form_says_the_same() {
    let at = "2026-11-21T16:52:04Z";
    for (line, time) in [
        (format!("[   12.500000] {ERROR}"), Value::Null),
        (format!("<3>[   12.500000] [  T12] {ERROR}"), Value::Null),
        (format!("kern  :err   : [   12.500000] {ERROR}"), Value::Null),
        (format!("[Sat Nov 21 16:52:04 2026] {ERROR}"), json!(at)),
        (format!("2026-11-21T16:52:04,000000+00:00 {ERROR}"), json!(at)),
        (format!("2026-11-21T16:52:04.000000+00:00 web-01 kernel: {ERROR}"), json!(at)),
        (format!("2026-11-21T17:52:04+0100 web-01 kernel: {ERROR}"), json!(at)),
        (format!("<3>1 2026-11-21T16:52:04Z web-01 kernel - - - {ERROR}"), json!(at)),
        (json!({"MESSAGE": ERROR, "_TRANSPORT": "kernel", "__REALTIME_TIMESTAMP": "1795279924000000"}).to_string(), json!(at)),
        (format!("__CURSOR=s=1\n__REALTIME_TIMESTAMP=1795279924000000\n_TRANSPORT=kernel\nMESSAGE={ERROR}\n"), json!(at)),
        (ERROR.to_owned(), Value::Null),
    ] {
        let output = scan(&["--json", "-"], format!("{line}\n").as_bytes());
        assert_eq!(output.status.code(), Some(0), "{line}");
        let uptime = if line.contains("12.500000") { json!(12.5) } else { Value::Null };
        let expected = json!({
            "pattern": "ext4_error", "severity": "critical", "metric": "kernel_filesystem_error", "time": time,
            "uptime_seconds": uptime, "labels": {"device": "sda1"}, "message": ERROR, "file": "-", "line": 1,
        });
        assert_eq!(matches(&output), [expected], "{line}");
    }
    // The time of the year is of the last year in which that was.
    let output = scan(&["--json", "-"], format!("Jan  1 00:00:00 web-01 kernel: [ 1.5] {ERROR}\n").as_bytes());
    assert!(matches(&output)[0]["time"].as_str().unwrap().ends_with("-01-01T00:00:00Z"));
}

#[test]
fn programs_are_looked_at_for_patterns_of_the_configuration_alone() {
    let place = Place::new();
    let config = place.file(
        "config.toml",
        "[log_analyzer]\ncustom_patterns = [{ pattern = '^(?P<program>[a-z]+).*deleted inode', severity = 'info', name = 'mine' }]\n",
    );
    let log = place.file(
        "syslog",
        format!(
            "Nov 21 16:52:04 h app[12]: {ERROR}\nNov 21 16:52:04 h app[12]: Out of memory\nNov 21 16:52:04 h oom: ECC curve\n"
        ),
    );
    let log = log.to_str().unwrap();
    let output = scan(&["--json", "--config", config.to_str().unwrap(), log], b"");
    let found = matches(&output);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (&found[0]["pattern"], &found[0]["severity"], &found[0]["metric"]),
        (&json!("mine"), &json!("info"), &json!("log_match"))
    );
    assert_eq!((&found[0]["labels"]["program"], &found[0]["file"], &found[0]["line"]), (&json!("app"), &json!(log), &json!(1)));
    assert_eq!(scan(&[log], b"").status.code(), Some(1));
}

#[test]
fn people_get_a_line_and_a_sum() {
    let place = Place::new();
    let log = place
        .file("d\u{1b}mesg", format!("[   12.345678] x\n[   12.400000] {ERROR}\n[   13.000000] e1000e: eth0 NIC Link is Down\n"));
    let output = scan(&[log.to_str().unwrap()], b"");
    let text = String::from_utf8(output.stdout).unwrap();
    let name = format!("{}/d\\u{{1b}}mesg", place.0.path().display());
    let expected = format!(
        "[   12.400000]      CRITICAL  ext4_error: {ERROR}\n    {{device=\"sda1\"}} ({name}:2)\n\
         [   13.000000]      WARN      link_down: e1000e: eth0 NIC Link is Down\n    {{interface=\"eth0\"}} ({name}:3)\n\
         2 matches in 3 lines: ext4_error 1, link_down 1\n"
    );
    assert_eq!(text, expected);
}

#[test]
fn exit_statuses_are_those_of_grep() {
    let place = Place::new();
    let quiet = place.file("quiet", "[    0.000000] Linux version 6.18\n");
    let (quiet, none) = (quiet.to_str().unwrap(), place.0.path().join("none"));
    assert_eq!(scan(&[quiet], b"").status.code(), Some(1));
    // One that cannot be read costs itself alone.
    let output = scan(&["--json", none.to_str().unwrap(), "-"], ERROR.as_bytes());
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("none: No such file"), "{output:?}");
    assert_eq!(scan(&[place.0.path().to_str().unwrap()], b"").status.code(), Some(2));
    let bad = place.file("bad.toml", "x = 1\n");
    assert_eq!(scan(&["--config", bad.to_str().unwrap(), quiet], b"").status.code(), Some(2));
    assert_eq!(scan(&[], b"").status.code(), Some(2));
}

#[test]
fn a_file_of_any_size_takes_the_same_memory() {
    let mut input = vec![b'x'; 100 << 20];
    input.push(b'\n');
    let line = "Nov 21 16:52:04 web-01 sshd[12]: Accepted publickey for root from 10.0.0.1 port 22 ssh2\n";
    input.extend(line.repeat(500_000).as_bytes());
    input.extend(format!("[    1.5] {ERROR}\n").as_bytes());
    let mut command = Command::new("sh");
    // Far less than the input, and enough for the program in a debug build.
    command.args(["-c", "ulimit -v 120000; exec \"$0\" scan --json -", env!("CARGO_BIN_EXE_sysops-agent")]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["line"], 500_002);
}

#[test]
fn what_the_real_journalctl_prints_is_understood() {
    if needs_program("journalctl", "systemd") || needs_program(JOURNAL_REMOTE, "systemd-journal-remote") {
        return;
    }
    let place = Place::new();
    let journal = place.0.path().join("system.journal");
    let entries = format!(
        "__REALTIME_TIMESTAMP=1795279924000000\n__MONOTONIC_TIMESTAMP=5000000\n_BOOT_ID=0123456789abcdef0123456789abcdef\n\
         _TRANSPORT=kernel\nSYSLOG_IDENTIFIER=kernel\nPRIORITY=3\nMESSAGE={ERROR}\n\n\
         __REALTIME_TIMESTAMP=1795279925000000\n__MONOTONIC_TIMESTAMP=6000000\n_BOOT_ID=0123456789abcdef0123456789abcdef\n\
         _TRANSPORT=syslog\nSYSLOG_IDENTIFIER=app\n_PID=7\n_HOSTNAME=web-01\nMESSAGE={ERROR}\n\n"
    );
    let mut writer = Command::new(JOURNAL_REMOTE);
    let mut writer = writer.arg("-o").arg(&journal).arg("-").stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    writer.stdin.take().unwrap().write_all(entries.as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success());
    let mut times = Vec::new();
    for form in ["short", "short-iso", "short-precise", "short-full", "export", "json", "json-seq"] {
        let mut journalctl = Command::new("journalctl");
        journalctl.arg("--file").arg(&journal).args(["--output", form, "--quiet"]).env("TZ", "UTC");
        let printed = journalctl.output().unwrap().stdout;
        let found = matches(&scan(&["--json", "-"], &printed));
        if ["short-full", "json-seq"].contains(&form) {
            // No form that `scan` claims to know; nobody's lines may pass for the kernel's in it.
            assert_eq!(found, [Value::Null; 0], "{form}");
            continue;
        }
        assert_eq!(found.len(), 1, "{form}: {}", String::from_utf8_lossy(&printed));
        assert_eq!((&found[0]["labels"]["device"], &found[0]["message"]), (&json!("sda1"), &json!(ERROR)), "{form}");
        times.push(found[0]["time"].as_str().unwrap()[4..].to_owned());
    }
    assert!(times.iter().all(|time| *time == times[0]), "{times:?}");
}

#[test]
fn the_kernels_log_of_this_host_is_understood() {
    let Ok(output) = Command::new("dmesg").args(["--time-format", "iso"]).output() else { return };
    if !output.status.success() || !Path::new("/dev/kmsg").exists() {
        return;
    }
    let iso = matches(&scan(&["--json", "-"], &output.stdout));
    let plain = Command::new("dmesg").output().unwrap().stdout;
    let plain = matches(&scan(&["--json", "-"], &plain));
    // Others write into it meanwhile, and what is oldest goes.
    let shared = iso.iter().filter(|one| plain.iter().any(|other| other["message"] == one["message"])).count();
    assert!(shared * 10 >= iso.len() * 9, "{shared} of {}", iso.len());
}
