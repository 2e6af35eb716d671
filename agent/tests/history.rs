//! History on disk as its users meet it: an agent that writes it and loads it, and the command that prints it.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sysops_agent::exporters::sqlite::{Database, Rollup, Row};
use sysops_agent::model::{Labels, Metric, SeriesKey, Unit};
use tempfile::TempDir;
use xtask::agent_process::AgentProcess;

const AGENT: &str = env!("CARGO_BIN_EXE_sysops-agent");
const STOP: Duration = Duration::from_secs(5);
static CPU: Metric = Metric::gauge("cpu_usage_percent", Unit::Percent, "");
static GONE: Metric = Metric::gauge("of_an_earlier_version", Unit::Percent, "");

/// A data directory with a configuration, and two hours of history in it.
struct Past {
    directory: TempDir,
}

impl Past {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let secs = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let now = i64::try_from(secs).unwrap() / 60;
        let past = Self { directory };
        fs::write(past.config(), past.text()).unwrap();
        let mut database = Database::open(&past.path("metrics.db"), past.directory.path()).unwrap();
        for (metric, core) in [(&CPU, "all"), (&CPU, "0"), (&GONE, "all")] {
            let series = SeriesKey::new(metric, Labels::new().with("core", core));
            let row = |minute: i64| {
                let value = (minute - now + 120) as f64;
                let rollup = Rollup { min: value - 0.5, mean: value, max: value + 0.5, last: value, count: 6 };
                Row { series: series.clone(), minute, rollup }
            };
            database.write(&(now - 120..now).map(row).collect::<Vec<_>>()).unwrap();
        }
        past
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.path("config.toml")
    }

    fn text(&self) -> String {
        let directory = self.directory.path().display();
        format!("[agent]\ndata_dir = '{directory}'\n[ebpf]\nenabled = false\n[storage]\nsqlite_enabled = true\n")
    }

    /// What the command prints, on standard output where it succeeds and on standard error where it doesn't.
    fn history(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(AGENT).arg("history").args(arguments).arg("--config").arg(self.config()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        match output.status.code() {
            Some(0) => Ok(text(output.stdout)),
            Some(1) => Err(text(output.stderr)),
            other => panic!("{other:?}: {}", text(output.stderr)),
        }
    }

    fn minutes(&self, metric: &str, core: &str) -> Vec<Value> {
        let page = self.history(&[metric, "--label", &format!("core={core}"), "--since", "1d", "--json"]).unwrap();
        let page: Value = serde_json::from_str(&page).unwrap();
        assert_eq!(page["series"][0]["labels"]["core"], core);
        page["series"][0]["minutes"].as_array().unwrap().clone()
    }
}

#[test]
fn an_agent_loads_what_it_has_and_adds_what_it_sees() {
    let past = Past::new();
    let mut agent = AgentProcess::start(Path::new(AGENT), &past.text(), &[]).unwrap();
    // What this version does not measure is not loaded.
    agent.wait_for_log("storage: loaded the history of 2 series", STOP).unwrap();
    // The history is read while the agent runs; nothing new is in it before five minutes have passed, or the agent stops.
    assert_eq!(past.minutes("cpu_usage_percent", "all").len(), 120);
    agent.stop(STOP).unwrap();
    assert!(!agent.stderr().contains("WARN storage") && !agent.stderr().contains("ERROR storage"), "{}", agent.stderr());
    let load = past.history(&["cpu_load_1m", "--json"]).unwrap();
    let load: Value = serde_json::from_str(&load).unwrap();
    assert!(load["series"][0]["minutes"][0]["count"].as_u64().unwrap() >= 1, "{load}");
    // Loaded samples are not written again.
    assert!(past.minutes("cpu_usage_percent", "all").iter().take(120).all(|minute| minute["count"] == 6));
    // And nobody was told of the past, in which the processor was at 100 per cent for long.
    assert!(!agent.stdout().contains("cpu_usage_percent"), "{}", agent.stdout());
}

#[test]
fn an_agent_goes_on_without_the_database_of_a_newer_one() {
    let past = Past::new();
    let path = past.path("metrics.db");
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 1000).unwrap();
    let before = fs::read(&path).unwrap();
    let mut agent = AgentProcess::start(Path::new(AGENT), &past.text(), &[]).unwrap();
    agent.wait_for_log("was written by a newer sysops-agent", STOP).unwrap();
    agent.stop(STOP).unwrap();
    assert!(fs::read(&path).unwrap() == before, "the database was changed");
}

#[test]
fn history_is_printed_as_asked_for() {
    let past = Past::new();
    let text = past.history(&["cpu_usage_percent", "-l", "core=all", "--since", "2h"]).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "cpu_usage_percent{core=\"all\"}");
    assert!((20..=26).contains(&lines.len()), "{text}");
    assert!(!text.contains('█'), "no chart where there is no terminal: {text}");
    let both = past.history(&["cpu_usage_percent"]).unwrap();
    assert_eq!(both.lines().filter(|line| line.starts_with("cpu_usage_percent{")).count(), 2, "{both}");
    assert!(both.contains("min -0.5000  mean 59.50  max 119.50  last 119"), "{both}");
    let csv = past.history(&["cpu_usage_percent", "-l", "core=0", "--csv", "--since", "30m"]).unwrap();
    let rows: Vec<&str> = csv.lines().collect();
    assert_eq!(rows[0], "time,metric,labels,min,mean,max,last,count");
    assert!((29..=31).contains(&rows.len()), "{csv}");
    assert!(rows.last().unwrap().ends_with(",cpu_usage_percent,\"{core=\"\"0\"\"}\",118.5,119,119.5,119,6"), "{csv}");
    assert_eq!(past.minutes("cpu_usage_percent", "0").len(), 120);
}

#[test]
fn what_there_is_not_is_said_with_what_to_do() {
    let past = Past::new();
    let said = past.history(&["cpu_usage_percnt"]).unwrap_err();
    assert!(
        said.starts_with("sysops-agent: nothing is known of a metric cpu_usage_percnt; did you mean cpu_usage_percent?"),
        "{said}"
    );
    let said = past.history(&["cpu_usage_percent", "-l", "core=7"]).unwrap_err();
    assert!(
        said.contains("2 series of cpu_usage_percent are known, none with these labels") && said.contains("core=\"0\""),
        "{said}"
    );
    fs::write(past.path("metrics.db"), "no database").unwrap();
    let said = past.history(&["cpu_usage_percent"]).unwrap_err();
    assert!(said.starts_with("sysops-agent: cannot read the history; is this root") && said.contains("metrics.db"), "{said}");
    fs::remove_file(past.path("metrics.db")).unwrap();
    let said = past.history(&["cpu_usage_percent"]).unwrap_err();
    assert!(said.contains("there is no history at") && said.contains("every five minutes"), "{said}");
    fs::write(past.config(), format!("[agent]\ndata_dir = '{}'\n", past.directory.path().display())).unwrap();
    let said = past.history(&["cpu_usage_percent"]).unwrap_err();
    assert!(said.contains("[storage] sqlite_enabled is false in ") && said.contains("set it to true"), "{said}");
    let wrong = Command::new(AGENT).args(["history", "x", "--since", "6"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("as in 90m, 6h or 2d"));
}
