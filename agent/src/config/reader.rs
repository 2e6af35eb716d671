//! Walks the spanned TOML document: which keys exist, which are asked for, and where what is wrong stands.
//!
//! A [`Section`] is one table. Its getters (in `keys`) are the only way in, so each key stands in exactly one place with its
//! type, default and range; what a table holds beyond the keys that were asked for is refused. Nothing here knows any key.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::value::{Form, Value};
use super::{Problem, Problems};

/// Longest list that is read: each element may be a pattern to be compiled.
pub(super) const MAX_LIST: usize = 256;

/// A key that the configuration may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Dotted path; keys of a list's tables without an index.
    pub path: String,
    /// What may stand there.
    pub expects: String,
}

/// Gathers what is wrong while a document is read.
pub(super) struct Reader<'a> {
    file: &'a Path,
    /// Offset at which each line begins.
    lines: Vec<usize>,
    env: &'a dyn Fn(&str) -> Option<String>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    problems: Vec<Problem>,
    /// Lines with a syntax error: what is recovered from them is not worth a further problem.
    broken: BTreeSet<usize>,
    known: Vec<Key>,
    unknown: Vec<Unknown>,
}

/// A key that nothing asked for; explained at the end, when the keys of all sections are known.
struct Unknown {
    line: usize,
    section: String,
    name: String,
    is_table: bool,
    siblings: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &str, file: &'a Path, env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        // A line break at the very end begins no line.
        let breaks = text.trim_end_matches('\n').match_indices('\n').map(|(offset, _)| offset + 1);
        Self { file, lines: std::iter::once(0).chain(breaks).collect(), env, state: RefCell::default() }
    }

    /// Records the parser's own errors, the first of each line.
    pub(super) fn report_syntax(&self, text: &str, errors: &[toml::de::Error]) {
        let mut errors: Vec<_> = errors.iter().map(|error| (error.span().unwrap_or_default(), error.message())).collect();
        errors.sort_by_key(|(span, _)| span.start);
        for (span, message) in errors {
            let line = self.line(span.start);
            let what = match message.split_once(", expected ") {
                // The parser's words for what it could have gone on with; never a part of the file.
                Some((wrong, right)) => format!("{wrong}; expected {right}"),
                None if message == "duplicate key" => {
                    format!("duplicate key {:?}; remove one of the two", text.get(span).unwrap_or_default())
                }
                None => format!("{message}; see https://toml.io"),
            };
            self.report(line, String::new(), what);
            self.state.borrow_mut().broken.insert(line);
        }
    }

    fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    pub(super) fn report(&self, line: usize, key: String, what: String) {
        let mut state = self.state.borrow_mut();
        if !state.broken.contains(&line) {
            state.problems.push(Problem { file: self.file.to_owned(), line: Some(line), key, what });
        }
    }

    /// Everything that is wrong, `None` for a good document.
    pub(super) fn finish(self) -> Option<Problems> {
        let unknown = std::mem::take(&mut self.state.borrow_mut().unknown);
        for key in unknown {
            let what = self.explain(&key);
            self.report(key.line, dotted(&key.section, &key.name), what);
        }
        Problems::new(self.state.into_inner().problems)
    }

    fn explain(&self, key: &Unknown) -> String {
        let name = shown(&key.name);
        if key.is_table {
            let near = nearest(&key.name, &key.siblings).map(|near| dotted(&key.section, near));
            return match near {
                Some(near) => format!("unknown table [{}]; did you mean [{near}]?", dotted(&key.section, &key.name)),
                None => format!("unknown table [{}]; {}", dotted(&key.section, &key.name), key.choices()),
            };
        }
        if let Some(near) = nearest(&key.name, &key.siblings) {
            return format!("unknown key {name}; did you mean \"{near}\"?");
        }
        let state = self.state.borrow();
        let known = state.known.iter().filter_map(|known| known.path.rsplit_once('.'));
        let homes: Vec<_> = known.filter(|(_, leaf)| *leaf == key.name).map(|(section, _)| format!("[{section}]")).collect();
        match homes.len() {
            1..=3 => format!("unknown key {name}; it belongs in {}", homes.join(" or ")),
            _ => format!("unknown key {name}; {}", key.choices()),
        }
    }

    /// The keys that were asked for.
    pub(super) fn into_known(self) -> Vec<Key> {
        self.state.into_inner().known
    }
}

impl Unknown {
    fn choices(&self) -> String {
        let place = if self.section.is_empty() { "the file".into() } else { format!("[{}]", self.section) };
        format!("{place} may hold {}", self.siblings.join(", "))
    }
}

/// The name a mistyped one was meant to be: at most a third of its letters differ.
pub(super) fn nearest(name: &str, candidates: &[&'static str]) -> Option<&'static str> {
    // The distance takes time by the product of both lengths.
    if name.len() > 64 {
        return None;
    }
    let distance = |candidate: &&'static str| strsim::damerau_levenshtein(name, candidate);
    let nearest = candidates.iter().copied().min_by_key(distance)?;
    (distance(&nearest) <= (nearest.len() / 3).max(1)).then_some(nearest)
}

/// A key of the file as it is printed: on one line, and not endlessly.
fn shown(key: &str) -> String {
    format!("{:?}", key.chars().take(64).collect::<String>())
}

fn dotted(section: &str, key: &str) -> String {
    let key = if is_bare(key) { key.to_owned() } else { shown(key) };
    if section.is_empty() { key } else { format!("{section}.{key}") }
}

/// Whether a key needs no quotes, and isn't endless.
fn is_bare(key: &str) -> bool {
    (1..=64).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// One table of the document, there or not.
pub(super) struct Section<'a> {
    pub(super) reader: &'a Reader<'a>,
    path: String,
    table: Option<&'a DeTable<'a>>,
    /// Where a missing key is reported.
    line: usize,
    asked: Vec<&'static str>,
    /// Whether keys without a default must be there.
    strict: bool,
}

impl<'a> Section<'a> {
    /// The whole document.
    pub(super) fn root(reader: &'a Reader<'a>, table: &'a DeTable<'a>) -> Self {
        Self { reader, path: String::new(), table: Some(table), line: 1, asked: Vec::new(), strict: true }
    }

    /// Reads the table `[self.name]` and refuses what it holds beyond.
    pub(super) fn section<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Section<'a>) -> T) -> T {
        let path = dotted(&self.path, name);
        let (table, line) = match self.find(name) {
            None => (None, self.line),
            Some((line, DeValue::Table(table))) => (Some(table), line),
            // Without the value: a channel may have been given its URL.
            Some((line, _)) => {
                self.reader.report(line, path.clone(), format!("expected a table; write [{path}]"));
                (None, line)
            }
        };
        let mut section = Self { reader: self.reader, path, table, line, asked: Vec::new(), strict: true };
        let value = read(&mut section);
        section.finish();
        value
    }

    /// Reads a section that counts only with `enabled = true`; keys that it requires may be missing until then.
    pub(super) fn channel<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Section<'a>) -> Option<T>) -> Option<T> {
        self.section(name, |section| {
            section.strict = section.boolean("enabled", false);
            let enabled = section.strict;
            read(section).filter(|_| enabled)
        })
    }

    /// Reads a list of tables, each of `element_form`.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        form: &Form,
        element_form: &Form,
        mut read: impl FnMut(&mut Section<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.elements(key, form, |reader, line, path, element| match element {
            DeValue::Table(table) => {
                let mut section = Self { reader, path, table: Some(table), line, asked: Vec::new(), strict: true };
                let value = read(&mut section);
                section.finish();
                value
            }
            other => {
                reader.report(line, path, Value::new(other, element_form, reader.env).wrong_type());
                None
            }
        })
    }

    /// Reads a list whose elements are all of one form. `None` if the key is absent, or if anything in it is refused and so
    /// reported.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        form: &Form,
        element: &Form,
        mut convert: impl FnMut(&Value<'a, '_>) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        self.elements(key, form, |reader, line, path, value| {
            convert(&Value::new(value, element, reader.env)).map_err(|what| reader.report(line, path, what)).ok()
        })
    }

    fn elements<T>(
        &mut self,
        key: &'static str,
        form: &Form,
        mut read: impl FnMut(&'a Reader<'a>, usize, String, &'a DeValue<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let reader = self.reader;
        let array = self.read(key, form, |value| value.array(MAX_LIST))?;
        let path = dotted(&self.path, key);
        let element = |(index, item): (usize, &'a Spanned<DeValue<'a>>)| {
            read(reader, reader.line(item.span().start), format!("{path}[{index}]"), item.get_ref())
        };
        let elements: Vec<T> = array.iter().enumerate().filter_map(element).collect();
        (elements.len() == array.len()).then_some(elements)
    }

    /// Reads a table whose keys the user chooses, each value of `value_form`.
    pub(super) fn entries<T>(
        &mut self,
        key: &'static str,
        form: &Form,
        value_form: &Form,
        convert: impl Fn(&str, &Value<'a, '_>) -> Result<T, String>,
    ) -> BTreeMap<String, T> {
        let Some(table) = self.read(key, form, |value| value.table()) else { return BTreeMap::new() };
        let entry = |(name, value): (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>)| {
            let line = self.reader.line(value.span().start);
            let converted = convert(name.get_ref(), &Value::new(value.get_ref(), value_form, self.reader.env));
            // What is no plain name may be a secret, such as a whole header written as one.
            let path = dotted(&self.path, key);
            let path = if is_bare(name.get_ref()) { dotted(&path, name.get_ref()) } else { path };
            let converted = converted.map_err(|what| self.reader.report(line, path, what));
            Some((name.get_ref().to_string(), converted.ok()?))
        };
        table.iter().filter_map(entry).collect()
    }

    /// Reads a key; `None` if it is absent, or if it is refused and so reported.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        form: &Form,
        convert: impl FnOnce(&Value<'a, '_>) -> Result<T, String>,
    ) -> Option<T> {
        self.register(key, form);
        let (line, value) = self.find(key)?;
        let refused = |what| self.reader.report(line, dotted(&self.path, key), what);
        convert(&Value::new(value, form, self.reader.env)).map_err(refused).ok()
    }

    /// As [`read`](Self::read), and reports an absent key.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        form: &Form,
        convert: impl FnOnce(&Value<'a, '_>) -> Result<T, String>,
    ) -> Option<T> {
        if !self.has(key) {
            self.lacks(key, "is missing", form);
        }
        self.read(key, form, convert)
    }

    /// Reports a key that ought to be here, or to hold something.
    pub(super) fn lacks(&self, key: &str, why: &str, form: &Form) {
        // After a syntax error it may well be in the part that was not understood.
        if self.strict && self.reader.state.borrow().broken.is_empty() {
            let value = self.table.and_then(|table| table.get(key));
            let line = value.map_or(self.line, |value| self.reader.line(value.span().start));
            self.reader.report(line, dotted(&self.path, key), format!("{why}; write {}", form.right));
        }
    }

    /// Whether the table holds the key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    fn register(&self, key: &'static str, form: &Form) {
        let section = self.path.split(['[', ']']).step_by(2).collect::<String>();
        let key = Key { path: dotted(&section, key), expects: form.right.clone() };
        self.reader.state.borrow_mut().known.push(key);
    }

    /// The line and value of a key, which counts as asked for from now on.
    fn find(&mut self, key: &'static str) -> Option<(usize, &'a DeValue<'a>)> {
        self.asked.push(key);
        let value = self.table?.get(key)?;
        Some((self.reader.line(value.span().start), value.get_ref()))
    }

    /// Refuses what the table holds beyond the keys that were asked for.
    pub(super) fn finish(self) {
        let mut state = self.reader.state.borrow_mut();
        for (name, value) in self.table.into_iter().flatten().filter(|(name, _)| !self.asked.contains(&&**name.get_ref())) {
            state.unknown.push(Unknown {
                line: self.reader.line(name.span().start),
                section: self.path.clone(),
                name: name.get_ref().to_string(),
                is_table: value.get_ref().is_table(),
                siblings: self.asked.clone(),
            });
        }
    }
}
