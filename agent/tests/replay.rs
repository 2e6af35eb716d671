//! `replay`: recordings and CSV files through the real binary. `UPDATE_EXPECT=1` writes what is expected anew.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

const AGENT: &str = env!("CARGO_BIN_EXE_sysops-agent");

/// What a replay left behind.
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Said {
    fn lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/replay")
}

/// Replays a file of this test, in another time zone than most.
fn replay(file: &str, options: &[&str]) -> Said {
    let mut command = Command::new(AGENT);
    command.arg("replay").arg(files().join(file)).args(options).env("TZ", "Asia/Tokyo");
    let output = command.output().unwrap();
    said(output)
}

/// Replays what is given on standard input.
fn replay_text(input: &[u8], options: &[&str]) -> Said {
    let mut command = Command::new(AGENT);
    command.args(["replay", "-"]).args(options).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    said(output)
}

fn said(output: std::process::Output) -> Said {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn expect(name: &str, said: &Said) {
    let path = files().join(name);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &said.stdout).unwrap();
    }
    assert_eq!(said.stdout, fs::read_to_string(&path).unwrap_or_default(), "UPDATE_EXPECT=1 writes {} anew", path.display());
}

#[test]
fn a_recording_gives_the_same_findings_and_alerts_each_time() {
    let first = replay("incident.jsonl", &[]);
    assert_eq!((first.code, first.stderr.as_str()), (Some(0), ""));
    expect("incident.expected", &first);
    let again = replay_text(&fs::read(files().join("incident.jsonl")).unwrap(), &[]);
    assert_eq!(again.stdout, first.stdout);
}

#[test]
fn a_csv_file_gives_findings_and_a_score_for_each_row() {
    let said = replay("cpu.csv", &["--metric", "cpu_usage_percent", "--label", "core=all", "--scores"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    expect("cpu.expected", &said);
    let lines = said.lines();
    let scores: Vec<&Value> = lines.iter().filter(|line| line.get("score").is_some()).collect();
    let input = fs::read_to_string(files().join("cpu.csv")).unwrap();
    let times: Vec<&str> = input.lines().skip(1).map(|line| line.split_once(',').unwrap().0).collect();
    assert_eq!(scores.iter().map(|line| line["timestamp"].as_str().unwrap()).collect::<Vec<_>>(), times);
    assert!(scores[4]["value"].is_null() && scores[4]["score"] == 0.0 && scores[5]["value"].is_null());
}

#[test]
fn the_configuration_chooses_limits_and_the_name_of_the_host() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    fs::write(&path, "[agent]\nhostname = 'db-07'\n[thresholds]\ncpu_percent = 97\n").unwrap();
    let path = path.to_str().unwrap();
    let cpu =
        |options: &[&str]| replay("cpu.csv", &[&["--metric", "cpu_usage_percent", "--label", "core=all"], options].concat());
    assert!(cpu(&[]).stdout.contains("\"hostname\":\"replay\""));
    assert_eq!(cpu(&["--config", path]).stdout, "");
    assert!(replay("incident.jsonl", &["--config", path]).stdout.contains("\"hostname\":\"db-07\""));
    fs::write(directory.path().join("config.toml"), "[thresholds]\ncpu_percent = 970\n").unwrap();
    let bad = cpu(&["--config", path]);
    assert_eq!(bad.code, Some(1));
    assert!(bad.stderr.contains("cpu_percent"), "{}", bad.stderr);
}

#[test]
fn an_empty_input_is_no_trouble_and_a_missing_one_is() {
    for empty in ["", "\n\n", "timestamp,value\n"] {
        let said = replay_text(empty.as_bytes(), &["--scores"]);
        assert_eq!((said.code, said.stdout.as_str(), said.stderr.as_str()), (Some(0), "", ""), "{empty:?}");
    }
    for missing in ["no-such-file", "."] {
        let said = replay(missing, &[]);
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""));
        assert!(said.stderr.contains("to replay it; name a recording"), "{}", said.stderr);
    }
}

#[test]
fn bad_lines_are_told_and_cost_only_themselves() {
    let csv = "time,value\n100,1\nnever,2\n120,much\n130\n140,4\r\n";
    let said = replay_text(csv.as_bytes(), &["--scores"]);
    assert_eq!(said.code, Some(3));
    assert_eq!(said.lines().len(), 5, "{}", said.stdout);
    for part in ["line 3 is left out: \"never\" is no time", "line 4 ", "line 5 ", "3 bad lines were left out"] {
        assert!(said.stderr.contains(part), "{part}: {}", said.stderr);
    }
    let mut lines = String::from("{\"at\":\"2026-02-22T16:30:00Z\",\"source\":{\"signal\":\"oom\",\"probed\":true}}\n");
    for bad in [
        "{}",
        "nothing",
        "{\"at\":\"x\",\"source\":{\"signal\":\"oom\",\"probed\":true}}",
        "{\"at\":\"2026-02-22T16:30:00Z\"}",
        "{\"at\":\"2026-02-22T16:30:00Z\",\"sample\":{}}",
    ] {
        writeln!(lines, "{bad}").unwrap();
    }
    lines.push_str(
        "{\"at\":\"2026-02-22T16:30:00Z\",\"samples\":{\"values\":[{\"metric\":\"disk_usage_percent\",\"value\":99}]}}\n",
    );
    let said = replay_text(lines.as_bytes(), &[]);
    assert_eq!(said.code, Some(3));
    assert!(said.stderr.contains("5 bad lines"), "{}", said.stderr);
    assert_eq!(said.lines().len(), 2, "{}", said.stdout);
}

#[test]
fn garbage_is_survived() {
    let mut state = 7_u64;
    let mut garbage: Vec<u8> = (0..200_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        })
        .collect();
    let said = replay_text(&garbage, &["--scores"]);
    assert!(matches!(said.code, Some(0 | 3)), "{:?} {}", said.code, said.stderr);
    // One line of three megabytes, and a row behind it.
    garbage = vec![b'x'; 3 << 20];
    garbage.extend(b"\n100,1\n");
    let said = replay_text(&garbage, &["--scores"]);
    assert_eq!((said.code, said.lines().len()), (Some(3), 1), "{}", said.stderr);
    assert!(said.stderr.contains("line 1 is left out: it is longer than"), "{}", said.stderr);
}

#[test]
fn time_may_run_back_repeat_and_jump() {
    let rows: String =
        [100_i64, 110, 110, 90, 1_000_000_000, 120, 4_000_000_000, -5, 130].map(|time| format!("{time},1\n")).concat();
    let said = replay_text(rows.as_bytes(), &["--scores", "--metric", "disk_usage_percent"]);
    assert_eq!((said.code, said.lines().len()), (Some(0), 9), "{}", said.stderr);
}

/// What waits for silence ends at the same second as in the agent, which ticks each second.
#[test]
fn incidents_end_when_they_would() {
    let event = |at: &str| {
        format!(
            "{{\"at\":\"{at}\",\"event\":{{\"metric\":\"kernel_oom_kill\",\"labels\":{{\"comm\":\"a\"}},\"value\":1,\"count\":1,\
             \"message\":\"x\",\"source\":\"probe\"}}}}\n"
        )
    };
    let source = "{\"at\":\"2026-02-22T16:30:00Z\",\"source\":{\"signal\":\"oom\",\"probed\":true}}\n";
    let said = replay_text(format!("{source}{}{}", event("2026-02-22T16:30:01Z"), event("2026-03-22T16:30:01Z")).as_bytes(), &[]);
    let alerts: Vec<Value> = said.lines().iter().filter_map(|line| line.get("alert").cloned()).collect();
    let told: Vec<(&str, &str)> =
        alerts.iter().map(|alert| (alert["timestamp"].as_str().unwrap(), alert["status"].as_str().unwrap())).collect();
    assert_eq!(told[0], ("2026-02-22T16:30:01Z", "firing"), "{told:?}");
    let (end, status) = told.iter().find(|(_, status)| *status == "resolved").unwrap();
    assert_eq!((*end, *status), ("2026-02-22T16:40:01Z", "resolved"), "{told:?}");
    assert_eq!(told.last().unwrap().0, "2026-03-22T16:30:01Z", "{told:?}");
}
