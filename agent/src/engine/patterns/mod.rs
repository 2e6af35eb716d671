//! What the kernel writes to its log, as findings: one file a family, one row in its table a kind of line, for all generations of
//! its wording.
//!
//! Every expression is anchored at the start of the line, so that a program that merely quotes the kernel is not mistaken for
//! it. Rows with a signal stand in for that signal's probe; rows without one are seen only here. Nothing is decided here: the
//! reader of a line gets its facts.

mod block_io;
mod custom;
mod filesystem;
mod hardware;
mod hung_task;
mod lockup;
mod named;
mod network;
mod oom;
mod oops;
mod process;

use std::cell::OnceCell;

use regex::{Captures, Regex, RegexSet};
use serde_json::json;

pub use self::custom::{CustomPatterns, Matched};
pub use self::named::{Named, named};
use self::oom::{SCOPES, Scope};
use super::analyzers::event;
use crate::model::{Evidence, Labels, Metric, Severity, Timestamp};

/// Bytes of a line that are looked at.
const MAX_LINE: usize = 1024;

/// A kind of line.
pub struct Pattern {
    /// What it is called.
    pub name: &'static str,
    /// The metric of its findings.
    pub metric: &'static Metric,
    /// How bad it is.
    pub severity: Severity,
    /// The probe that sees the same thing, if there is one.
    pub signal: Option<&'static str>,
    /// Texts of which a line holds one at least: most lines hold none, and cost no more than the search for them.
    needles: &'static [&'static str],
    /// The line; begins with `^`.
    regex: &'static str,
    read: fn(&Line<'_>, &mut Found),
}

/// The facts of a line.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Labels as a probe would set them, as far as the line knows them.
    pub labels: Labels,
    /// In the unit of the metric.
    pub value: f64,
    /// One sentence.
    pub message: String,
    /// Everything else.
    pub evidence: Evidence,
    /// Whether the line only says more about something that another line has said.
    pub is_detail: bool,
}

/// A matching line, taken apart.
struct Line<'a> {
    captures: Captures<'a>,
    scope: Option<&'a Scope>,
}

impl<'a> Line<'a> {
    fn text(&self, name: &str) -> Option<&str> {
        self.captures.name(name).map(|found| found.as_str())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }
}

impl Found {
    fn label(&mut self, line: &Line<'_>, name: &'static str) {
        if let Some(value) = line.text(name) {
            self.labels.set(name, value);
        }
    }

    fn fact(&mut self, line: &Line<'_>, name: &str) {
        if let Some(value) = line.text(name) {
            self.evidence.insert(name.to_owned(), value.parse::<u64>().map_or_else(|_| json!(value), |number| json!(number)));
        }
    }
}

/// All families. The first pattern that matches a line is taken.
const FAMILIES: &[&[Pattern]] = &[
    oom::PATTERNS,
    hung_task::PATTERNS,
    block_io::PATTERNS,
    hardware::PATTERNS,
    filesystem::PATTERNS,
    lockup::PATTERNS,
    oops::PATTERNS,
    network::PATTERNS,
    process::PATTERNS,
];

/// All patterns.
pub fn all() -> impl Iterator<Item = &'static Pattern> {
    FAMILIES.iter().copied().flatten()
}

/// All patterns, compiled, and what must be remembered between two lines.
pub struct Patterns {
    /// Whether a line may be of interest at all: the needles of all patterns as literals, which regex searches at once.
    needles: Regex,
    set: RegexSet,
    /// The expressions of all patterns and of [`SCOPES`], each compiled when a line matches it for the first time: together they
    /// take half a megabyte, and most hosts never log most of these lines.
    each: Vec<(Option<&'static Pattern>, &'static str, OnceCell<Regex>)>,
    scope: Option<Scope>,
}

impl Default for Patterns {
    fn default() -> Self {
        Self::new()
    }
}

impl Patterns {
    /// Compiles the tables.
    #[expect(clippy::expect_used, reason = "constants, compiled by every test that reads a line")]
    pub fn new() -> Self {
        let needles: Vec<String> = all()
            .flat_map(|pattern| pattern.needles)
            .copied()
            .chain(SCOPES.iter().map(|line| line.needle))
            .map(regex::escape)
            .collect();
        let needles = Regex::new(&needles.join("|")).expect("the needles are literals");
        let patterns = all().map(|pattern| (Some(pattern), pattern.regex, OnceCell::new()));
        let each: Vec<_> = patterns.chain(SCOPES.iter().map(|line| (None, line.regex, OnceCell::new()))).collect();
        let set = RegexSet::new(each.iter().map(|(_, regex, _)| regex)).expect("the tables hold no regular expression");
        Self { needles, set, each, scope: None }
    }

    /// Whether a line may be of interest; costs far less than reading it.
    pub fn may_match(&self, text: &str) -> bool {
        self.needles.is_match(text)
    }

    /// The facts of a line of the kernel's log, if they are of interest.
    pub fn read(&mut self, at: Timestamp, text: &str) -> Option<(&'static Pattern, Found)> {
        let text = text.get(..text.floor_char_boundary(MAX_LINE)).unwrap_or_default();
        if !self.may_match(text) {
            return None;
        }
        let matched = self.set.matches(text).into_iter().next()?;
        let (pattern, source, regex) = self.each.get(matched)?;
        let regex = match regex.get() {
            Some(regex) => regex,
            None => {
                // It is part of the set, so it cannot fail.
                let compiled = Regex::new(source).ok()?;
                regex.get_or_init(|| compiled)
            }
        };
        let captures = regex.captures(text)?;
        let Some(pattern) = *pattern else {
            self.scope = Some(Scope::after(self.scope.take(), at, &captures));
            return None;
        };
        let scope = self.scope.as_ref().filter(|scope| scope.is_of(at));
        let mut found =
            Found { labels: Labels::new(), value: 1.0, message: text.to_owned(), evidence: Evidence::new(), is_detail: false };
        found.evidence.insert("line".into(), json!(text));
        (pattern.read)(&Line { captures, scope }, &mut found);
        if pattern.metric == &event::OOM_KILL {
            self.scope = None;
        }
        Some((pattern, found))
    }
}
