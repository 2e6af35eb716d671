//! The real binary where there is no terminal.

use std::process::{Command, Output};

use serde_json::Value;

pub const AGENT: &str = env!("CARGO_BIN_EXE_sysops-agent");

fn top(arguments: &[&str]) -> Output {
    let mut command = Command::new(AGENT);
    command.arg("top").args(arguments).env("COLUMNS", "100").env("LINES", "30").output().unwrap()
}

#[test]
fn once_prints_one_screen_of_plain_text() {
    let Output { status, stdout, stderr } = top(&["--once", "--interval", "1"]);
    assert_eq!((status.code(), String::from_utf8_lossy(&stderr).as_ref()), (Some(0), ""));
    let page = String::from_utf8(stdout).unwrap();
    assert!(!page.contains('\x1b'), "{page}");
    assert!(page.lines().count() <= 30 && page.lines().all(|line| line.chars().count() <= 100), "{page}");
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    for part in [kernel.as_str(), "probes ", "CPU    [", "Memory [", "DISK ", "ALERTS  ", "PROCESS ", "KERNEL EVENTS  "] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

#[test]
fn json_has_what_is_documented_and_true() {
    let Output { status, stdout, stderr } = top(&["--json", "--interval", "1"]);
    assert_eq!((status.code(), String::from_utf8_lossy(&stderr).as_ref()), (Some(0), ""));
    let view: Value = serde_json::from_slice(&stdout).unwrap();
    let help = String::from_utf8(Command::new(AGENT).args(["top", "--help"]).output().unwrap().stdout).unwrap();
    let words: Vec<&str> = help.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    for key in view.as_object().unwrap().keys() {
        assert!(words.contains(&key.as_str()), "{key} is not in --help");
    }
    assert!(view["cpu"]["usage_percent"].is_f64(), "a rate needs two readings: {view}");
    let total = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total: u64 = total.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(view["memory"]["total_bytes"], total * 1024);
    let processes = view["processes"]["top"].as_array().unwrap();
    assert!(processes.iter().any(|process| process["rss_bytes"].as_u64() > Some(0)), "{processes:?}");
    assert!(
        processes
            .windows(2)
            .all(|pair| pair[0]["cpu_percent"].as_f64() >= pair[1]["cpu_percent"].as_f64() || pair[0]["cpu_percent"].is_null()),
        "{processes:?}"
    );
}

#[test]
fn without_a_terminal_it_says_what_to_do() {
    let Output { status, stdout, stderr } = top(&[]);
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), stdout.len()), (Some(1), 0));
    assert!(stderr.contains("needs a terminal") && stderr.contains("--once"), "{stderr}");
    let Output { status, stderr, .. } = top(&["--once", "--interval", "0"]);
    assert!(status.code() == Some(2) && String::from_utf8_lossy(&stderr).contains("1..=3600"));
}
