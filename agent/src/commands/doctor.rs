//! `doctor`: which source serves each signal on this host, which better one does not and why, and what to do.
//!
//! It says nothing that it did not try: probes are loaded and attached, files are read, each collector runs once.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value, json};

use crate::alerting::outbox;
use crate::cli::Doctor;
use crate::collectors::{Batch, COLLECTORS};
use crate::config::Config;
use crate::host::{self, Host, Unavailable};
use crate::notifiers;
use crate::probes::{self, Kernel, PROBES};
use crate::runtime::capabilities::{self, USED};
use crate::runtime::signals::{self, Signal};
use crate::runtime::{lacking, table, try_logs};

/// Examines the host and prints what it found. The exit code is 0 where every signal has a source.
///
/// # Errors
/// The configuration is bad.
pub fn run(options: &Doctor) -> anyhow::Result<ExitCode> {
    let config = super::config_or_defaults(&options.config)?;
    let host = Host::new(config.host.clone());
    let (attached, signals) = signals::attach(&config, &host, false);
    let map_bytes: u64 = attached.iter().flatten().map(|probe| probe.map_bytes).sum();
    let collectors = try_collectors(&config, &host);
    let log = signals::kernel_log(&config, &host);
    let logs = try_logs(&config, &host);
    let facts = facts(&host);
    let missing = capabilities::missing();
    let outlet = outlet(&config);
    let served = signals.iter().all(|signal| signal.source.is_some());
    if options.json {
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "host": facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())).collect::<serde_json::Map<_, Value>>(),
            "missing_capabilities": missing.iter().map(|missing| json!({"capability": missing.name, "costs": missing.costs})).collect::<Vec<_>>(),
            "bpf_map_bytes": map_bytes,
            "signals": signals.iter().map(|signal| signal_json(signal, &config, &host)).collect::<Vec<_>>(),
            "kernel_log": log.as_ref().map_or_else(|unavailable| json!({"readable": false, "why": unavailable.why, "advice": unavailable.advice}), |()| json!({"readable": true})),
            "logs": logs.iter().map(log_json).collect::<Vec<_>>(),
            "outbox": outlet.outbox,
            "channels": outlet.channels.iter().map(Out::json).collect::<Vec<_>>(),
            "collectors": collectors.iter().map(Tried::json).collect::<Vec<_>>(),
            "lacking": lacking(&config),
        });
        super::print(&format!("{report:#}\n"));
    } else {
        let mut page = String::new();
        for (name, value) in &facts {
            let _ = writeln!(page, "{name:<18}{}", notifiers::escape(value));
        }
        let _ = writeln!(page, "{:<18}{} KiB", "BPF maps", map_bytes / 1024);
        if !missing.is_empty() {
            page += "\nmissing capabilities, and what each costs\n";
        }
        for missing in &missing {
            let _ = writeln!(page, "  {:<16}{}", missing.name, missing.costs);
        }
        page += "\nsignals\n";
        page += &table(&signals);
        page += "\nlogs\n";
        for (name, opened) in &logs {
            let state = match opened {
                Ok(summary) => summary.clone(),
                Err(unavailable) => format!("not read: {}; {}", unavailable.why, unavailable.advice),
            };
            let _ = writeln!(page, "  {name:<16}{}", notifiers::escape(&state));
        }
        page += "\ncollectors\n";
        for tried in &collectors {
            let _ = writeln!(page, "  {:<18}{}", tried.name, tried.text());
        }
        page += "\nalerts\n";
        let _ = writeln!(page, "  {:<16}{}", "outbox", notifiers::escape(&outlet.outbox));
        for channel in &outlet.channels {
            let _ = writeln!(page, "  {:<16}{}", channel.name, notifiers::escape(&channel.text()));
        }
        for sentence in lacking(&config) {
            let _ = writeln!(page, "\n{sentence}");
        }
        super::print(&page);
    }
    Ok(if served { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where alerts would go.
struct Outlet {
    /// Where they wait.
    outbox: String,
    channels: Vec<Out>,
}

/// One channel of the configuration.
struct Out {
    name: &'static str,
    /// Why it cannot be made.
    broken: Option<String>,
    /// What waits for it on disk: how many, and for how many seconds the oldest.
    waiting: Option<(u64, u64)>,
}

impl Out {
    fn json(&self) -> Value {
        json!({
            "channel": self.name,
            "error": self.broken,
            "waiting": self.waiting.map_or(0, |(count, _)| count),
            "oldest_secs": self.waiting.map(|(_, secs)| secs),
        })
    }

    fn text(&self) -> String {
        match (&self.broken, self.waiting) {
            (Some(broken), _) => broken.clone(),
            (None, None) => "set up, nothing waits; test-alert tries it".to_owned(),
            (None, Some((count, secs))) => {
                let oldest = notifiers::duration(std::time::Duration::from_secs(secs));
                format!("set up, waiting: {count}, the oldest for {oldest}; test-alert tries it")
            }
        }
    }
}

/// The channels of the configuration, and what the outbox of an agent that runs or ran with it holds for them.
fn outlet(config: &Config) -> Outlet {
    let path = outbox::path(&config.agent.data_dir);
    let (outbox, backlog) = if !config.agent.data_dir.is_dir() {
        (
            format!(
                "in memory alone: there is no directory {}; make it, or set [agent] data_dir",
                config.agent.data_dir.display()
            ),
            Vec::new(),
        )
    } else if path.exists() {
        match outbox::backlog(&path) {
            Ok(backlog) => (path.display().to_string(), backlog),
            Err(failure) => (format!("cannot be read: {failure}; is this root, or the user of the agent?"), Vec::new()),
        }
    } else {
        (format!("{}, which the first start makes", path.display()), Vec::new())
    };
    let now = host::now();
    let waiting = |name: &str| {
        let found = backlog.iter().find(|backlog| backlog.channel == name);
        found.map(|found| (found.waiting, now.since(found.oldest).as_secs()))
    };
    let (channels, errors) = notifiers::build(config);
    let set_up = channels.iter().map(|channel| Out { name: channel.name, broken: None, waiting: waiting(channel.name) });
    let broken =
        errors.iter().map(|error| Out { name: error.channel, broken: Some(error.to_string()), waiting: waiting(error.channel) });
    Outlet { outbox, channels: set_up.filter(|channel| channel.name != "terminal").chain(broken).collect() }
}

fn log_json((name, opened): &(&'static str, Result<String, Unavailable>)) -> Value {
    match opened {
        Ok(summary) => json!({"log": name, "readable": true, "summary": summary}),
        Err(unavailable) => json!({"log": name, "readable": false, "why": unavailable.why, "advice": unavailable.advice}),
    }
}

fn signal_json(signal: &Signal, config: &Config, host: &Host) -> Value {
    let better: Vec<Value> =
        signal.better.iter().map(|unavailable| json!({"why": unavailable.why, "advice": unavailable.advice})).collect();
    json!({
        "signal": signal.name,
        "summary": signal.summary,
        "source": signal.source,
        "probe": signal.probed,
        "better": better,
        "rungs": try_rungs(signal.name, config, host),
    })
}

/// Tries each way to attach the probe by itself, best first, whether or not a better one works: another kernel, or a restriction to
/// come, may leave only that one.
fn try_rungs(probe: &str, config: &Config, host: &Host) -> Vec<Value> {
    let Some(row) = PROBES.iter().find(|row| row.name == probe && config.ebpf.enabled) else { return Vec::new() };
    let kernel = Kernel::new(host.clone());
    let attempt = |rung| match probes::attach_by(row, rung, &kernel, &config.ebpf) {
        Ok(attached) => json!({"works": true, "source": attached.source}),
        Err(unavailable) => json!({"works": false, "why": unavailable.why, "advice": unavailable.advice}),
    };
    (0..row.rungs.len()).map(attempt).collect()
}

/// One run of a collector.
struct Tried {
    name: &'static str,
    source: &'static str,
    series: usize,
    skipped: u64,
    first_skip: Option<String>,
    error: Option<String>,
}

impl Tried {
    fn json(&self) -> Value {
        json!({
            "collector": self.name,
            "source": self.source,
            "series": self.series,
            "skipped": self.skipped,
            "first_skip": self.first_skip,
            "error": self.error,
        })
    }

    fn text(&self) -> String {
        let skips = match &self.first_skip {
            Some(first) => format!(", {} left out: {first}", self.skipped),
            None => String::new(),
        };
        match &self.error {
            Some(error) => format!("fails: {error}"),
            None => format!("{}: {} series at a first reading{skips}", self.source, self.series),
        }
    }
}

fn try_collectors(config: &Config, host: &Host) -> Vec<Tried> {
    let run = |row: &crate::collectors::Row| {
        let mut batch = Batch::new(Instant::now());
        let error = (row.build)(config, host).collect(&mut batch).err().map(|error| error.to_string());
        let Batch { samples, skipped, first_skip, .. } = batch;
        Tried { name: row.name, source: row.source, series: samples.len(), skipped, first_skip, error }
    };
    COLLECTORS.iter().map(run).collect()
}

/// What decides over the sources: kernel, user, capabilities, lockdown.
fn facts(host: &Host) -> Vec<(&'static str, String)> {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let user = rustix::process::geteuid();
    let user = if user.is_root() { "root".to_owned() } else { format!("uid {}", user.as_raw()) };
    let lockdown = std::fs::read_to_string(host.sysfs("kernel/security/lockdown")).unwrap_or_default();
    // The active mode stands in brackets: none [integrity] confidentiality
    let lockdown = lockdown.split_once('[').and_then(|(_, rest)| rest.split(']').next()).unwrap_or("unknown").to_owned();
    let btf = if host.sysfs("kernel/btf/vmlinux").exists() { "yes" } else { "no" };
    vec![("kernel", kernel), ("user", user), ("capabilities", held()), ("lockdown", lockdown), ("kernel BTF", btf.to_owned())]
}

/// Those of the capabilities that the agent uses which it has.
fn held() -> String {
    let missing: Vec<&str> = capabilities::missing().into_iter().map(|missing| missing.name).collect();
    let held: Vec<&str> = USED.iter().map(|used| used.name).filter(|name| !missing.contains(name)).collect();
    if held.is_empty() { "none that matter here".to_owned() } else { held.join(" ") }
}
