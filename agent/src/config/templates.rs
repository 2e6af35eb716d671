//! Templates of messages: what they may name, and how they are read and filled in without doing harm.
//!
//! A template is Jinja as [minijinja](https://docs.rs/minijinja) has it, without what could make it large from small: no functions, no
//! macros, no other templates. It takes a bounded number of steps and makes a bounded text. What it is filled in with, and how that is
//! escaped, is the notifiers' business.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use minijinja::value::{Enumerator, Object, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};

use super::reader::nearest;

/// What there is of an alert: of each of `alerts`, and by itself of the one that stands for all.
pub const OF_ALERT: [&str; 19] = [
    "address",
    "count",
    "delivery",
    "duration",
    "duration_secs",
    "evidence",
    "hostname",
    "id",
    "labels",
    "message",
    "metric",
    "severity",
    "status",
    "threshold",
    "threshold_with_unit",
    "timestamp",
    "trend",
    "value",
    "value_with_unit",
];
/// What there is of a message beside that.
pub const OF_MESSAGE: [&str; 2] = ["alerts", "remarks"];

/// Steps that filling in may take; an ordinary template takes a hundred for each alert.
const FUEL: u64 = 100_000;
/// Longest text that a template may make, in bytes.
pub const MAX_TEXT: usize = 64 << 10;
/// Longest template, and longest expression or block mark in it, in bytes; deepest brackets in those. The reader of templates takes stack by
/// these.
const MAX_TEMPLATE: usize = 16 << 10;
const MAX_TAG: usize = 1000;
const MAX_DEPTH: usize = 16;
/// Filters that hand out more than they are given, or what is not meant for text, or text that is not escaped.
const NO_FILTERS: [&str; 9] = ["safe", "escape", "e", "pprint", "indent", "format", "batch", "slice", "attr"];
const NO_GLOBALS: [&str; 4] = ["range", "dict", "debug", "namespace"];

/// An environment that writes values with `write`; what a template itself holds is written as it is.
pub fn environment(write: impl Fn(&Value) -> String + Send + Sync + 'static) -> Environment<'static> {
    let mut environment = Environment::new();
    NO_FILTERS.iter().for_each(|name| environment.remove_filter(name));
    NO_GLOBALS.iter().for_each(|name| environment.remove_global(name));
    environment.add_filter("replace", replace);
    // Labels and evidence differ from alert to alert: what is not there is empty.
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    environment.set_fuel(Some(FUEL));
    // Any but none marks what a block has put together from escaped values.
    environment.set_auto_escape_callback(|_| AutoEscape::Custom("channel".into()));
    environment.set_formatter(move |out, _, value| {
        let written = match value.as_str().filter(|_| value.is_safe()) {
            Some(text) => out.write_str(text),
            None => out.write_str(&write(value)),
        };
        written.map_err(Error::from)
    });
    environment
}

/// `{{ text|replace("a", "b") }}`, without the growth by the product that several of them would allow.
fn replace(text: String, from: String, to: String) -> Result<String, Error> {
    let longer = to.len().saturating_sub(from.len()).saturating_mul(text.matches(&from).count());
    if text.len().saturating_add(longer) > MAX_TEXT {
        return Err(Error::new(ErrorKind::WriteFailure, "replacing makes too long a text"));
    }
    Ok(text.replace(&from, &to))
}

/// Fills in a template.
///
/// # Errors
/// It cannot be read, fails with these values, takes too many steps, or makes more than 64 KiB.
pub fn fill_in(environment: &Environment<'_>, template: &str, values: Value) -> Result<String, Error> {
    let mut text = Bounded(Vec::new());
    environment.template_from_str(template)?.render_captured_to(values, &mut text)?;
    String::from_utf8(text.0).map_err(|_| Error::new(ErrorKind::WriteFailure, "it makes what is no text"))
}

/// A value as JSON.
pub fn json(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".into())
}

/// Takes at most [`MAX_TEXT`] bytes.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_TEXT {
            return Err(io::Error::other("it makes more than 64 KiB"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether it can be filled in, as far as that can be known before there is an alert; with `makes_json`, also whether that is JSON.
///
/// # Errors
/// How a sentence goes on that begins with the template. It quotes nothing of it where it `may_quote` nothing.
pub(super) fn check(template: &str, makes_json: bool, may_quote: bool) -> Result<String, String> {
    is_shallow(template)?;
    let quoted = |what: String| if may_quote { what } else { "is no template that can be filled in".into() };
    let environment = environment(move |value| if makes_json { json(value) } else { value.to_string() });
    let parsed = environment.template_from_str(template).map_err(|error| quoted(told(&error)))?;
    let names = parsed.undeclared_variables(false);
    let known: Vec<&'static str> = OF_ALERT.into_iter().chain(OF_MESSAGE).collect();
    let mut unknown: Vec<_> = names.iter().filter(|name| !known.contains(&name.as_str())).collect();
    unknown.sort();
    if let Some(name) = unknown.first() {
        return Err(quoted(missing(name, "", &known)));
    }
    let unknown = Arc::new(Mutex::new(None::<String>));
    let alert = || Value::from_object(Sample { unknown: Arc::clone(&unknown) });
    let value = |name: &&'static str| (*name, if *name == "alerts" { vec![alert(), alert()].into() } else { sample(name) });
    let filled_in = fill_in(&environment, template, known.iter().map(value).collect::<BTreeMap<_, _>>().into());
    if let Some(name) = unknown.lock().ok().and_then(|mut name| name.take()) {
        return Err(quoted(missing(&name, " of an alert", &OF_ALERT)));
    }
    match filled_in {
        Ok(text) if makes_json && serde_json::from_str::<serde::de::IgnoredAny>(&text).is_err() => {
            Err("does not make JSON; each {{ value }} is made one, with its quotes".into())
        }
        Ok(_) => Ok(template.into()),
        // What labels and evidence there are differs from alert to alert, so this may be the sample's fault.
        Err(error) if depends(&error) && ["labels", "evidence", "alerts"].iter().any(|name| names.contains(*name)) => {
            Ok(template.into())
        }
        Err(error) => Err(quoted(told(&error))),
    }
}

/// Whether reading it takes little stack.
fn is_shallow(template: &str) -> Result<(), String> {
    if template.len() > MAX_TEMPLATE {
        return Err(format!("is longer than {} KiB", MAX_TEMPLATE >> 10));
    }
    let (mut inside, mut depth, mut length) = (false, 0_usize, 0_usize);
    let mut previous = '\0';
    for c in template.chars() {
        match (previous, c) {
            ('{', '{' | '%') if !inside => (inside, depth, length) = (true, 0, 0),
            ('}' | '%', '}') if depth == 0 => inside = false,
            (_, '(' | '[' | '{') => depth += 1,
            (_, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        length += c.len_utf8();
        if inside && (length > MAX_TAG || depth > MAX_DEPTH) {
            return Err(format!("holds an expression of more than {MAX_TAG} characters or {MAX_DEPTH} brackets in each other"));
        }
        previous = c;
    }
    Ok(())
}

fn missing(name: &str, of: &str, known: &[&'static str]) -> String {
    let meant = nearest(name, known).map(|near| format!(" (did you mean {near:?}?)")).unwrap_or_default();
    format!("names {name:?}{of}, which does not exist{meant}")
}

/// Whether other values may do better.
fn depends(error: &Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::SyntaxError
            | ErrorKind::UnknownFilter
            | ErrorKind::UnknownTest
            | ErrorKind::UnknownFunction
            | ErrorKind::UnknownMethod
            | ErrorKind::TemplateNotFound
            | ErrorKind::TooManyArguments
            | ErrorKind::MissingArgument
            | ErrorKind::OutOfFuel
    )
}

/// How a sentence goes on that begins with the template.
pub fn told(error: &Error) -> String {
    let what = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "takes too many steps".to_owned(),
        (ErrorKind::WriteFailure, _) => "makes more than 64 KiB".to_owned(),
        (kind, None) => format!("cannot be filled in: {kind}"),
        (_, Some(detail)) => format!("cannot be filled in: {detail}"),
    };
    // A detail quotes the template, which may hold line breaks.
    let what = what.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'");
    error.line().map_or_else(|| what.clone(), |line| format!("{what} (line {line} of it)"))
}

/// An alert that nobody was told of, and the first thing that it was asked for and does not have.
#[derive(Debug)]
struct Sample {
    unknown: Arc<Mutex<Option<String>>>,
}

impl Object for Sample {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str().filter(|name| OF_ALERT.contains(name));
        if name.is_none()
            && let Ok(mut unknown) = self.unknown.lock()
        {
            unknown.get_or_insert_with(|| key.to_string());
        }
        name.map(sample)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&OF_ALERT)
    }
}

/// What stands for a value as long as there is no alert.
fn sample(name: &str) -> Value {
    match name {
        "count" => Value::from(3),
        "duration_secs" => Value::from(330),
        "value" => Value::from(95.2),
        "threshold" => Value::from(90.0),
        "labels" => BTreeMap::from([("core", Value::from("all"))]).into(),
        "evidence" => BTreeMap::from([("recent", Value::from(vec![95.0, 95.2])), ("source", Value::from("samples"))]).into(),
        "remarks" => Value::from(vec!["and 2 more"]),
        name => Value::from(name),
    }
}
