//! Who may import whom: the table of the house, and the check of one file against it.

use std::path::Path;

use super::source::{Named, paths};

/// One room of `agent/src`: a directory, or a file at its top.
struct Room {
    name: &'static str,
    /// Other rooms that it may name.
    may_use: &'static [&'static str],
    /// Paths that it may not name, beyond those of [`RESERVED`].
    banned: &'static [&'static str],
}

/// No clock: time comes with what is handed in, so that a replay gives the same result.
const CLOCKS: &[&str] = &["SystemTime::now", "Instant::now"];
/// No clock, no file, no socket, nothing spawned.
const WORLD: &[&str] =
    &["SystemTime::now", "Instant::now", "tokio", "std::fs", "std::net", "std::process", "std::thread", "std::env"];

/// The rooms. Those that are not listed (`runtime`, `commands`, `cli`, `main`, `lib`) may use everything, and nobody them.
const ROOMS: &[Room] = &[
    Room { name: "model", may_use: &[], banned: CLOCKS },
    Room { name: "config", may_use: &["model"], banned: &[] },
    Room { name: "host", may_use: &["model", "config"], banned: &[] },
    Room { name: "collectors", may_use: &["model", "host", "config"], banned: &[] },
    Room { name: "logs", may_use: &["model", "host", "config"], banned: &[] },
    Room { name: "probes", may_use: &["model", "host", "config"], banned: &[] },
    Room { name: "engine", may_use: &["model", "config"], banned: WORLD },
    Room { name: "database", may_use: &[], banned: CLOCKS },
    Room { name: "alerting", may_use: &["model", "config", "database", "notifiers"], banned: CLOCKS },
    Room { name: "notifiers", may_use: &["model", "config"], banned: &[] },
    Room { name: "recorder", may_use: &["model", "config", "engine"], banned: &[] },
    Room { name: "exporters", may_use: &["model", "config", "database", "engine"], banned: &[] },
];

/// Directories of plug-ins, which do not know each other, and the modules there that all of them may know.
const PLUG_INS: &[(&[&str], &[&str])] = &[
    (&["collectors"], &["attribute", "batch", "descriptors", "entities", "interval", "process_stat", "text"]),
    (&["logs"], &["dmesg_line", "feed", "journal_entry", "lines", "position", "syslog_line", "tail"]),
    (&["probes"], &["attach", "btf", "control", "pulse", "reader", "reading", "tracefs", "transport"]),
    (&["engine", "analyzers"], &[]),
    (&["engine", "chains"], &[]),
    (&["notifiers"], &["card", "dial", "http", "post", "template", "text"]),
    (&["exporters"], &[]),
];

/// What one room alone may name, the free rooms included, and why.
const RESERVED: &[(&[&str], &[&str], &str)] = &[
    (&["probes"], &["aya", "aya_log", "aya_obj", "agent_common"], "only probes sees aya and the kernel's records"),
    (&["database", "exporters", "alerting"], &["rusqlite", "libsqlite3_sys"], "only those that keep a database see SQLite"),
    // A datagram socket of std may also ask the kernel for an address, which sends nothing.
    (
        &["notifiers"],
        &["reqwest", "lettre", "std::net::TcpStream", "tokio::net::TcpStream", "tokio::net::UdpSocket"],
        "only notifiers speaks outward",
    ),
];

/// What a file of `agent/src` names and may not, as sentences with its path and the line.
pub fn violations(file: &Path, text: &str) -> Vec<String> {
    let module = module_of(file);
    let Some(room) = module.first() else { return Vec::new() };
    let mut found: Vec<String> = Vec::new();
    for Named { line, path } in paths(text) {
        let full = absolute(&module, &path);
        if let Some(why) = objection(&module, &full) {
            let violation = format!("agent/src/{}:{line}: {room} names {}: {why}", file.display(), path.join("::"));
            if !found.contains(&violation) {
                found.push(violation);
            }
        }
    }
    found
}

/// Why a module may not name a path, if it may not. Paths into this crate begin with `crate`.
fn objection(module: &[String], path: &[String]) -> Option<String> {
    let own = module.first()?;
    for (owners, reserved, why) in RESERVED {
        if !owners.contains(&own.as_str()) && reserved.iter().any(|name| begins_with(path, name)) {
            return Some((*why).to_owned());
        }
    }
    let room = ROOMS.iter().find(|room| room.name == own)?;
    if let Some(banned) = room.banned.iter().find(|banned| begins_with(path, banned) || ends_with(path, banned)) {
        return Some(format!("{banned} is banned in {own}"));
    }
    let [first, target, ..] = path else { return None };
    if first != "crate" {
        return None;
    }
    if target != own {
        let is_room = ROOMS.iter().any(|room| room.name == target) || ["runtime", "commands", "cli"].contains(&target.as_str());
        let may = is_room && !room.may_use.contains(&target.as_str());
        return may.then(|| format!("{own} may use {}", list(room.may_use)));
    }
    PLUG_INS.iter().find_map(|(directory, shared)| {
        // The directory's own `mod.rs` has no stem behind the directory, and its table names every plug-in.
        let me = below(directory, module)?.first()?;
        let [neighbour, _, ..] = below(directory, &path[1..])? else { return None };
        let is_module = neighbour.starts_with(|character: char| character.is_lowercase());
        let forbidden = is_module && neighbour != me && ![me, neighbour].iter().any(|name| shared.contains(&name.as_str()));
        let place = directory.join("/");
        forbidden.then(|| format!("siblings do not import each other; what they share moves up into {place}/mod.rs"))
    })
}

fn below<'a>(directory: &[&str], path: &'a [String]) -> Option<&'a [String]> {
    let is_below = path.len() >= directory.len() && directory.iter().zip(path).all(|(name, segment)| name == segment);
    is_below.then(|| &path[directory.len()..])
}

fn list(rooms: &[&str]) -> String {
    if rooms.is_empty() { "no other room".to_owned() } else { rooms.join(", ") }
}

/// The module that a file is: `collectors/cpu.rs` is `collectors::cpu`, `collectors/mod.rs` is `collectors`.
fn module_of(file: &Path) -> Vec<String> {
    let mut module: Vec<String> = file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

/// Resolves `self` and `super` against the module.
fn absolute(module: &[String], path: &[String]) -> Vec<String> {
    let supers = path.iter().take_while(|segment| *segment == "super").count();
    let relative = supers > 0 || path.first().is_some_and(|first| first == "self");
    if !relative {
        return path.to_vec();
    }
    let base = &module[..module.len().saturating_sub(supers)];
    let rest = path.iter().skip(supers.max(1));
    std::iter::once("crate".to_owned()).chain(base.iter().cloned()).chain(rest.cloned()).collect()
}

fn begins_with(path: &[String], name: &str) -> bool {
    let mut segments = path.iter();
    name.split("::").all(|part| segments.next().is_some_and(|segment| segment == part))
}

fn ends_with(path: &[String], name: &str) -> bool {
    let mut segments = path.iter().rev();
    name.rsplit("::").all(|part| segments.next().is_some_and(|segment| segment == part)) && name.contains("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &str, text: &str) -> Vec<String> {
        violations(Path::new(file), text)
    }

    #[test]
    fn a_room_names_only_the_rooms_it_may() {
        assert_eq!(check("collectors/cpu.rs", "use crate::host::{Host, HostFile};\nuse crate::model::Sample;"), [""; 0]);
        assert_eq!(
            check("collectors/cpu.rs", "use crate::model::Sample;\nuse crate::engine::store::Store;"),
            [
                "agent/src/collectors/cpu.rs:2: collectors names crate::engine::store::Store: collectors may use model, host, config"
            ]
        );
        assert_eq!(check("model/series.rs", "use crate::{config::Config, model::Label};").len(), 1);
        assert_eq!(check("host/mod.rs", "fn f() { super::runtime::stop() }").len(), 1);
        assert_eq!(check("engine/analyzers/trend.rs", "use super::super::super::notifiers::Notifier;").len(), 1);
    }

    #[test]
    fn runtime_and_commands_are_free() {
        assert_eq!(check("runtime.rs", "use crate::{engine::Engine, notifiers, probes}; use tokio::sync::mpsc;"), [""; 0]);
        assert_eq!(check("commands/doctor.rs", "use crate::probes; use super::run::Options;"), [""; 0]);
    }

    #[test]
    fn the_engine_sees_nothing_of_the_world() {
        for forbidden in
            ["use tokio::time;", "use std::{fmt, fs};", "std::net::IpAddr::V4", "Instant::now()", "std::thread::spawn(f)"]
        {
            assert_eq!(check("engine/mod.rs", forbidden).len(), 1, "{forbidden}");
        }
        assert_eq!(check("engine/mod.rs", "let x = std::time::SystemTime::now();").len(), 1);
        assert_eq!(check("engine/mod.rs", "use std::time::{Duration, Instant}; fn f(now: Instant) {}"), [""; 0]);
        assert_eq!(check("collectors/cpu.rs", "use std::fs; Instant::now()"), [""; 0]);
    }

    #[test]
    fn plug_ins_do_not_know_each_other() {
        assert_eq!(check("notifiers/slack.rs", "use super::Notifier; use super::text::clip; super::clip(x);"), [""; 0]);
        assert_eq!(check("notifiers/mod.rs", "slack::ROW; self::slack::Slack::new()"), [""; 0]);
        assert_eq!(check("notifiers/slack.rs", "use super::webhook::Client;").len(), 1);
        assert_eq!(check("notifiers/slack.rs", "use crate::notifiers::webhook::Client;").len(), 1);
        assert_eq!(check("engine/analyzers/trend.rs", "use super::threshold::Limits;").len(), 1);
        assert_eq!(check("engine/analyzers/trend.rs", "use super::Analyzer; use crate::engine::store::Store;"), [""; 0]);
        assert_eq!(check("collectors/process/mod.rs", "use self::stat::Stat; use super::text::fields;"), [""; 0]);
        assert_eq!(check("collectors/process/stat.rs", "use super::super::cpu::Ticks;").len(), 1);
    }

    #[test]
    fn bpf_and_the_outside_belong_to_one_room_each() {
        assert_eq!(check("probes/oom.rs", "use aya::Ebpf; use agent_common::oom::OomRecord;"), [""; 0]);
        assert_eq!(check("runtime.rs", "use aya::Ebpf;").len(), 1);
        assert_eq!(check("engine/mod.rs", "agent_common::COMM_LEN").len(), 1);
        assert_eq!(check("runtime.rs", "use rusqlite::Connection;").len(), 1);
        assert_eq!(check("exporters/sqlite.rs", "use rusqlite::Connection; use crate::engine::Store;"), [""; 0]);
        assert_eq!(check("notifiers/webhook.rs", "use reqwest::Client;"), [""; 0]);
        assert_eq!(check("commands/run.rs", "reqwest::Client::new()").len(), 1);
    }

    #[test]
    fn what_is_said_in_comments_strings_and_tests_is_no_import() {
        let text =
            "//! Unlike crate::engine.\nconst A: &str = \"crate::engine::X\";\n#[cfg(test)]\nmod tests { use crate::engine::X; }";
        assert_eq!(check("collectors/cpu.rs", text), [""; 0]);
    }
}
