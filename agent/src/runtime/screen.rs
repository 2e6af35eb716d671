//! What somebody who started the agent in a terminal sees beside the alerts: what is watched, and events as they happen.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use jiff::tz::TimeZone;
use tokio::sync::mpsc;

use super::signals::Signal;
use crate::collectors::COLLECTORS;
use crate::config::Config;
use crate::model::{KernelEvent, Timestamp};
use crate::notifiers::escape;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = Style::new().fg_color(Some(ansi(AnsiColor::Green)));
const LESSER: Style = Style::new().fg_color(Some(ansi(AnsiColor::Yellow)));
const NONE: Style = Style::new().fg_color(Some(ansi(AnsiColor::Red)));

/// Event lines in a second; what is beyond is counted.
const LINES_BY_SECOND: u32 = 20;
/// Lines that wait for a terminal that does not take them.
const QUEUE: usize = 64;

const fn ansi(colour: AnsiColor) -> anstyle::Color {
    anstyle::Color::Ansi(colour)
}

/// A table of the signals with their sources, and under each that is not served by its probe the reason and the remedy.
pub fn table(signals: &[Signal]) -> String {
    let mut page = String::new();
    for signal in signals {
        let (style, source) = match &signal.source {
            Some(source) if signal.probed => (GOOD, source.as_str()),
            Some(source) => (LESSER, source.as_str()),
            None => (NONE, "none"),
        };
        let _ = writeln!(page, "  {:<16}{style}{source}{style:#}", signal.name);
        for unavailable in &signal.better {
            let _ = writeln!(
                page,
                "  {:<16}{DIM}better, but: {}; {}{DIM:#}",
                "",
                escape(&unavailable.why),
                escape(&unavailable.advice)
            );
        }
    }
    page
}

/// Who watches what; ends with a line that begins with `ready`.
pub fn introduction(config: &Config, hostname: &str, signals: &[Signal], logs: &[String], channels: &[&str]) -> String {
    let kernel = rustix::system::uname();
    let kernel = kernel.release().to_string_lossy();
    let user = if rustix::process::geteuid().is_root() { "as root" } else { "without root" };
    let mut page = format!(
        "{BOLD}sysops-agent {}{BOLD:#} watches {BOLD}{}{BOLD:#}, Linux {kernel}, {user}\n{}",
        env!("CARGO_PKG_VERSION"),
        escape(hostname),
        table(signals)
    );
    for log in logs {
        let _ = writeln!(page, "  {:<16}{}", "log", escape(log));
    }
    for row in COLLECTORS {
        let _ = writeln!(page, "  {:<18}{} {DIM}every {} s{DIM:#}", row.name, row.source, (row.interval)(config).as_secs());
    }
    let _ = writeln!(page, "  {:<16}{}", "alerts go to", channels.join(", "));
    let _ = writeln!(page, "ready: {} signals, {} collectors", signals.len(), COLLECTORS.len());
    page
}

/// Prints the introduction, then events. A terminal that blocks holds up nobody: lines that it does not take are counted, and
/// stated later.
pub struct Screen {
    lines: mpsc::Sender<String>,
    zone: TimeZone,
    window: (Instant, u32),
    untold: u64,
}

impl Screen {
    /// Begins with `introduction`; must be called within a runtime.
    pub fn open(introduction: String) -> Self {
        let (lines, mut waiting) = mpsc::channel::<String>(QUEUE);
        tokio::spawn(async move {
            let mut next = Some(introduction);
            while let Some(line) = next {
                let print = move || anstream::stdout().lock().write_all(line.as_bytes());
                // Whoever closed our output does not want to read it.
                if !matches!(tokio::task::spawn_blocking(print).await, Ok(Ok(()))) {
                    return;
                }
                next = waiting.recv().await;
            }
        });
        Self { lines, zone: TimeZone::system(), window: (Instant::now(), 0), untold: 0 }
    }

    /// Prints one line about the event, unless there are too many.
    pub fn show(&mut self, at: Timestamp, event: &KernelEvent) {
        if self.window.0.elapsed() >= Duration::from_secs(1) {
            self.window = (Instant::now(), 0);
        }
        self.window.1 += 1;
        if self.window.1 > LINES_BY_SECOND {
            self.untold += 1;
            return;
        }
        let time = jiff::Timestamp::from_nanosecond(i128::from(at.as_nanos())).unwrap_or_default().to_zoned(self.zone.clone());
        let mut line = format!("{DIM}{} event     {}{DIM:#}\n", time.strftime("%Y-%m-%d %H:%M:%S"), escape(&event.message));
        if self.untold > 0 {
            let _ = writeln!(line, "{DIM}and {} events before it that are not shown{DIM:#}", self.untold);
        }
        match self.lines.try_send(line) {
            Ok(()) => self.untold = 0,
            Err(_) => self.untold += 1,
        }
    }
}
