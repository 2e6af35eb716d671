//! `top`: one screen with the host's state, in a terminal or once as text or JSON.
//!
//! It has sources and an engine of its own, see [`Watch`]; a running agent is not asked and not disturbed.

mod compose;
mod page;
mod screen;
mod view;

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use jiff::tz::TimeZone;
use ratatui::crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

pub use page::{Controls, draw, text};
pub use screen::Screen;
pub use view::{Circumstances, Process, Sort, View};

use crate::cli::Top;
use crate::collectors::COLLECTORS;
use crate::config::Config;
use crate::host;
use crate::model::Timestamp;
use crate::runtime::{self, Watch};

/// How often the screen is drawn, where there is something new.
const FRAME: Duration = Duration::from_millis(200);
/// What `--once` waits for collectors beyond two intervals.
const PATIENCE: Duration = Duration::from_secs(5);
/// Processes that a page key scrolls by.
const PAGE: usize = 10;

/// Shows the host until the person has seen enough, or once.
///
/// # Errors
/// The configuration is bad, there is no terminal, or the terminal goes away.
pub fn run(options: &Top) -> anyhow::Result<ExitCode> {
    let mut config = super::config_or_defaults(&options.config)?;
    let once = options.once || options.json;
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if !once && !terminal {
        bail!("top needs a terminal as standard input and output; use --once for one screen as text, or --json");
    }
    hasten(&mut config, Duration::from_secs(options.interval.into()));
    // Before the first thread is started, as each thread has capabilities of its own.
    runtime::shed_privileges().iter().for_each(|trouble| super::complain(trouble));
    runtime::block_on(async {
        let looker = Looker::start(&config)?;
        if once { show_once(looker, &config, options.json).await } else { show(looker).await }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Has everything that changes by the second collected at this interval.
fn hasten(config: &mut Config, interval: Duration) {
    config.agent.collect_interval = interval;
    let collector = &mut config.collector;
    collector.cpu_interval = interval;
    collector.memory_interval = interval;
    collector.network_interval = interval;
    collector.process_interval = interval;
    collector.fd_interval = interval;
    collector.disk_interval = collector.disk_interval.max(interval);
}

/// Who looks, and what stays the same meanwhile.
struct Looker {
    watch: Watch,
    hostname: String,
    kernel: String,
    zone: TimeZone,
    since: Timestamp,
}

impl Looker {
    fn start(config: &Config) -> anyhow::Result<Self> {
        let hostname = runtime::hostname(config);
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let since = host::now();
        let watch = Watch::start(config, &hostname)?;
        Ok(Self { watch, hostname, kernel, zone: TimeZone::system(), since })
    }

    fn view(&self) -> View {
        let (bpf_map_bytes, bpf_program_percent) = self.watch.bpf_cost();
        let circumstances = Circumstances {
            hostname: self.hostname.clone(),
            kernel: self.kernel.clone(),
            since: self.since,
            now: host::now(),
            zone: self.zone.clone(),
            bpf_map_bytes,
            bpf_program_percent,
        };
        View::of(self.watch.engine(), self.watch.passing(), &circumstances)
    }

    /// Whether every collector has given what it can: rates, where it runs often enough.
    fn is_ready(&self, config: &Config) -> bool {
        let runs = &self.watch.passing().runs;
        COLLECTORS.iter().all(|row| {
            let needed = if (row.interval)(config) <= config.agent.collect_interval { 2 } else { 1 };
            runs.get(row.name).is_some_and(|(_, count)| *count >= needed)
        })
    }
}

async fn show_once(mut looker: Looker, config: &Config, json: bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + config.agent.collect_interval * 2 + PATIENCE;
    // What is not there by the deadline is shown as missing.
    while !looker.is_ready(config) && tokio::time::timeout_at(deadline.into(), looker.watch.next()).await.is_ok() {}
    let view = looker.view();
    if json {
        super::print(&ascii(&serde_json::to_string_pretty(&view).context("cannot write the screen as JSON")?));
    } else {
        let (width, height) = size();
        super::print(&text(&view, width, height));
    }
    looker.watch.stop().await;
    Ok(())
}

/// The size of a screen: as the environment says, else the terminal, else 80 by 24.
fn size() -> (u16, u16) {
    let said = |name| std::env::var(name).ok()?.parse().ok().filter(|cells| (1..=1000).contains(cells));
    let terminal = std::io::stdout().is_terminal().then(ratatui::crossterm::terminal::size).and_then(Result::ok);
    let (width, height) = terminal.unwrap_or((80, 24));
    (said("COLUMNS").unwrap_or(width), said("LINES").unwrap_or(height))
}

/// The same JSON, with characters beyond ASCII as their escapes, so that none of them acts on a terminal.
fn ascii(json: &str) -> String {
    let mut line = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        if c == '\n' || (' '..='~').contains(&c) {
            line.push(c);
        } else {
            // Such a character stands in a string; serde_json has escaped those below the space.
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(line, "\\u{unit:04x}");
            }
        }
    }
    line.push('\n');
    line
}

async fn show(mut looker: Looker) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
    let mut screen = Screen::open()?;
    let mut keys = screen::keys()?;
    let mut controls = Controls { keys: true, ..Controls::default() };
    let mut frame = tokio::time::interval(FRAME);
    frame.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changed = true;
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => break,
            key = keys.recv() => {
                let Some(event) = key else { bail!("the terminal gives no keys any more") };
                match deed(&event) {
                    Some(Deed::Quit) => break,
                    Some(Deed::Suspend) => screen.suspend()?,
                    Some(Deed::Sort) => {
                        controls.sort = if controls.sort == Sort::Cpu { Sort::Rss } else { Sort::Cpu };
                        controls.skip = 0;
                    }
                    Some(Deed::Up(by)) => controls.skip = controls.skip.saturating_sub(by),
                    Some(Deed::Down(by)) => controls.skip = controls.skip.saturating_add(by),
                    None => {}
                }
                changed = true;
            }
            _ = frame.tick(), if changed => {
                let view = looker.view();
                controls.skip = controls.skip.min(view.processes.top.len().saturating_sub(1));
                screen.draw(&view, &controls)?;
                changed = false;
            }
            () = looker.watch.next() => changed = true,
        }
    }
    drop(screen);
    looker.watch.stop().await;
    Ok(())
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Quit,
    Suspend,
    Sort,
    Up(usize),
    Down(usize),
}

fn deed(event: &Event) -> Option<Deed> {
    let Event::Key(key) = event else { return None };
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        // A terminal in raw mode makes no signals of these.
        KeyCode::Char('c') if control => Some(Deed::Quit),
        KeyCode::Char('z') if control => Some(Deed::Suspend),
        KeyCode::Char('q') => Some(Deed::Quit),
        KeyCode::Char('p') => Some(Deed::Sort),
        KeyCode::Up => Some(Deed::Up(1)),
        KeyCode::Down => Some(Deed::Down(1)),
        KeyCode::PageUp => Some(Deed::Up(PAGE)),
        KeyCode::PageDown => Some(Deed::Down(PAGE)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_its_meaning_and_acts_on_no_terminal() {
        let value = serde_json::json!({"name": "a\u{9b}2J\u{202e}\x1b[31m\x7f é \u{1f600}\n"});
        let printed = ascii(&serde_json::to_string_pretty(&value).unwrap());
        assert!(printed.chars().all(|c| c == '\n' || (' '..='~').contains(&c)), "{printed}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&printed).unwrap(), value);
    }
}
