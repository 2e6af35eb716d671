//! `scan`: what the log patterns, built-in and of the configuration, find in files after the fact.
//!
//! Reads any size in the same memory. Which form a line has is seen from the line itself, so that a file may hold several.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use crate::cli::Scan;
use crate::config::Config;
use crate::engine::analyzers::log_match::LOG_MATCH;
use crate::engine::patterns::{CustomPatterns, Patterns};
use crate::host;
use crate::logs::journal_entry::{self, Entry};
use crate::logs::lines::{Line, Lines};
use crate::logs::syslog_line::Stamp;
use crate::logs::{MAX_TEXT, dmesg_line, syslog_line};
use crate::model::{Labels, Severity, Timestamp};
use crate::notifiers::escape;

/// Exit status where nothing matched, and where something could not be read: as grep has it.
const NO_MATCH: u8 = 1;
const TROUBLE: u8 = 2;
/// Bytes of a line that are kept: an entry of the journal as JSON is one line.
const MAX_LINE: usize = 256 << 10;
const CHUNK: usize = 64 << 10;

/// Scans the files; `-` is the standard input.
pub fn run(options: &Scan) -> ExitCode {
    let config = match super::config_or_defaults(&options.config) {
        Ok(config) => config,
        Err(error) => {
            super::complain(&format_args!("sysops-agent: {error:#}"));
            return ExitCode::from(TROUBLE);
        }
    };
    let mut out = anstream::stdout().lock();
    let mut scanner = Scanner::new(&config, options.json, &mut out);
    let mut trouble = false;
    for file in &options.files {
        let scanned = if file == Path::new("-") {
            scanner.scan("-", BufReader::with_capacity(CHUNK, io::stdin().lock()))
        } else {
            File::open(file).and_then(|open| scanner.scan(&file.to_string_lossy(), BufReader::with_capacity(CHUNK, open)))
        };
        // Whoever closed the output, as `| head` does, has read enough.
        if scanner.is_closed {
            break;
        }
        if let Err(error) = scanned {
            trouble = true;
            super::complain(&format_args!("sysops-agent: cannot read {}: {error}", file.display()));
        }
    }
    let found = !scanner.found.is_empty();
    scanner.finish();
    match (trouble, found) {
        (true, _) => ExitCode::from(TROUBLE),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::from(NO_MATCH),
    }
}

/// A record of a file.
struct Record<'a> {
    stamp: When<'a>,
    is_kernel: bool,
    text: &'a str,
}

/// When it was written.
#[derive(Clone, Copy)]
enum When<'a> {
    Stamp(Stamp<'a>),
    At(Timestamp),
}

/// A match on its way out.
struct Match<'a> {
    pattern: &'a str,
    metric: &'a str,
    severity: Severity,
    labels: Labels,
    message: String,
}

/// Reads files and writes what it finds.
struct Scanner<'a> {
    patterns: Patterns,
    custom: CustomPatterns,
    zone: TimeZone,
    now: Timestamp,
    as_json: bool,
    out: &'a mut dyn Write,
    is_closed: bool,
    /// Of the file that is read.
    file: String,
    line: u64,
    lines: u64,
    cut: u64,
    /// By pattern, how often it matched.
    found: BTreeMap<String, u64>,
}

impl<'a> Scanner<'a> {
    fn new(config: &Config, as_json: bool, out: &'a mut dyn Write) -> Self {
        Self {
            patterns: Patterns::new(),
            custom: CustomPatterns::new(&config.log_analyzer.custom_patterns),
            zone: TimeZone::system(),
            now: host::now(),
            as_json,
            out,
            is_closed: false,
            file: String::new(),
            line: 0,
            lines: 0,
            cut: 0,
            found: BTreeMap::new(),
        }
    }

    fn scan(&mut self, file: &str, mut input: impl BufRead) -> io::Result<()> {
        (self.file, self.line) = (file.to_owned(), 0);
        if input.fill_buf()?.starts_with(b"__CURSOR=") {
            return self.scan_export(&mut input);
        }
        let mut lines = Lines::new(MAX_LINE);
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            lines.take(buffer.get(..read).unwrap_or_default(), |line| {
                self.take_line(line);
                !self.is_closed
            });
            if self.is_closed {
                return Ok(());
            }
        }
        lines.rest(|line| self.take_line(line));
        Ok(())
    }

    fn scan_export(&mut self, input: &mut dyn BufRead) -> io::Result<()> {
        let mut lines = 0;
        while let Some((entry, newlines)) = journal_entry::read_export(input)? {
            self.line = lines + 1;
            lines += newlines;
            self.lines += 1;
            self.take_entry(&entry);
            if self.is_closed {
                break;
            }
        }
        Ok(())
    }

    fn take_line(&mut self, line: Line<'_>) {
        self.line += 1;
        self.lines += 1;
        if line.bytes.first() == Some(&b'{')
            && let Some(entry) = journal_entry::parse(line.bytes)
        {
            self.take_entry(&entry);
            return;
        }
        let bytes = line.bytes.get(..MAX_TEXT).unwrap_or(line.bytes);
        self.cut += u64::from(line.is_cut || bytes.len() < line.bytes.len());
        let text = String::from_utf8_lossy(bytes);
        if let Some(line) = dmesg_line::parse(&text) {
            self.take(&Record { stamp: When::Stamp(line.stamp), is_kernel: true, text: line.text });
        } else if let Some(line) = syslog_line::parse(&text) {
            self.take(&Record { stamp: When::Stamp(line.stamp), is_kernel: line.is_kernel, text: &line.text });
        } else {
            // A kernel that writes no times, or its console.
            self.take(&Record { stamp: When::Stamp(Stamp::None), is_kernel: true, text: &text });
        }
    }

    fn take_entry(&mut self, entry: &Entry) {
        let mut text = entry.text();
        self.cut += u64::from(entry.message.is_none() || text.len() > MAX_TEXT);
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        let at = entry.realtime_us.map(|micros| Timestamp::from_nanos(micros.saturating_mul(1000)));
        let stamp = at.map_or(When::Stamp(Stamp::None), When::At);
        self.take(&Record { stamp, is_kernel: entry.is_kernel, text: &text });
    }

    fn take(&mut self, record: &Record<'_>) {
        let mut matches = Vec::new();
        if record.is_kernel && self.patterns.may_match(record.text) {
            let at = self.at(record).or_else(|| uptime(record).map(since_boot)).unwrap_or_default();
            if let Some((pattern, found)) = self.patterns.read(at, record.text) {
                let (labels, message) = (found.labels, found.message);
                matches.push(Match {
                    pattern: pattern.name,
                    metric: pattern.metric.name,
                    severity: pattern.severity,
                    labels,
                    message,
                });
            }
        }
        for matched in self.custom.read(record.text) {
            let (labels, message) = (matched.labels, record.text.to_owned());
            matches.push(Match { pattern: matched.name, metric: LOG_MATCH.name, severity: matched.severity, labels, message });
        }
        let pages: Vec<(String, String)> = matches
            .iter()
            .map(|found| {
                (found.pattern.to_owned(), if self.as_json { self.json(record, found) } else { self.text(record, found) })
            })
            .collect();
        for (pattern, page) in pages {
            *self.found.entry(pattern).or_default() += 1;
            self.is_closed |= self.out.write_all(page.as_bytes()).is_err();
        }
    }

    fn at(&self, record: &Record<'_>) -> Option<Timestamp> {
        match record.stamp {
            When::At(at) => Some(at),
            When::Stamp(stamp) => stamp.at(self.now, &self.zone),
        }
    }

    fn json(&self, record: &Record<'_>, found: &Match<'_>) -> String {
        let labels: Map<String, Value> = found.labels.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        let time = self.at(record).map(|at| timestamp(at).to_string());
        let object = json!({
            "pattern": found.pattern,
            "severity": found.severity.as_str(),
            "metric": found.metric,
            "time": time,
            "uptime_seconds": uptime(record),
            "labels": labels,
            "message": found.message,
            "file": self.file,
            "line": self.line,
        });
        format!("{object}\n")
    }

    fn text(&self, record: &Record<'_>, found: &Match<'_>) -> String {
        let time = self.at(record).map(|at| timestamp(at).to_zoned(self.zone.clone()).strftime("%F %T").to_string());
        let time = time.or_else(|| uptime(record).map(|secs| format!("[{secs:12.6}]"))).unwrap_or_else(|| "-".into());
        let style = Style::new().bold().fg_color(Some(anstyle::Color::Ansi(match found.severity {
            Severity::Info => AnsiColor::Cyan,
            Severity::Warn => AnsiColor::Yellow,
            Severity::Critical | Severity::Emergency => AnsiColor::Red,
        })));
        let severity = found.severity.as_str().to_uppercase();
        let (pattern, message) = (escape(found.pattern), escape(&found.message));
        let (labels, file) = (found.labels.to_string(), escape(&self.file));
        format!("{time:<19} {style}{severity:<9}{style:#} {pattern}: {message}\n    {} ({file}:{})\n", escape(&labels), self.line)
    }

    /// Says what there was, to people.
    fn finish(self) {
        let mut page = String::new();
        if !self.as_json {
            let matches: u64 = self.found.values().sum();
            let _ = write!(page, "{matches} matches in {} lines", self.lines);
            for (number, (pattern, count)) in self.found.iter().enumerate() {
                let _ = write!(page, "{} {} {count}", if number == 0 { ":" } else { "," }, escape(pattern));
            }
            if self.cut > 0 {
                let _ = write!(page, "; {} lines were looked at up to {} KiB only", self.cut, MAX_TEXT >> 10);
            }
            page.push('\n');
        }
        let _ = self.out.write_all(page.as_bytes()).and_then(|()| self.out.flush());
    }
}

fn timestamp(at: Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(i128::from(at.as_nanos())).unwrap_or_default()
}

/// Seconds since the boot, where the record says no more.
fn uptime(record: &Record<'_>) -> Option<f64> {
    match record.stamp {
        When::Stamp(Stamp::Uptime(secs)) => Some(secs),
        _ => None,
    }
}

/// A time that is right beside others of the same boot.
#[expect(clippy::cast_possible_truncation, reason = "saturates")]
fn since_boot(secs: f64) -> Timestamp {
    Timestamp::from_nanos((secs * 1e9) as i64)
}
