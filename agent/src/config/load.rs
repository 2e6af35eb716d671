//! From a file to a [`Config`], or to everything that is wrong with it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use toml::de::DeTable;

use super::reader::{Key, Reader, Section};
use super::{Config, Problem, Problems, sections};

/// Far above any real configuration, far below what parsing could hurt by.
const MAX_BYTES: u64 = 1 << 20;

/// Reads and validates the configuration, with `${NAME}` from the process' environment.
///
/// # Errors
///
/// All that is wrong with the file at once, or why it can't be read.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)) {
        Ok(_) => parse_bytes(&bytes, path, &|name| std::env::var(name).ok()),
        Err(error) => Err(whole(path, format!("cannot read the configuration: {error}; {}", remedy(error.kind())))),
    }
}

fn remedy(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => "name an existing file with --config, or make this one: an empty file means all defaults",
        io::ErrorKind::PermissionDenied => "let the user that runs the agent read the file and search its directories",
        io::ErrorKind::IsADirectory => "name the file in the directory",
        _ => "see whether the file can be read by other programs",
    }
}

/// Validates the bytes of a configuration file; `file` only stands in the problems. Pure but for the files that secrets are in.
///
/// # Errors
///
/// As [`parse`]; also bytes that are not UTF-8, and a file above 1 MiB.
pub fn parse_bytes(bytes: &[u8], file: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Problems> {
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(whole(file, "is larger than 1 MiB; name a configuration file".into()));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text, file, env),
        Err(error) => {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            Err(Problems::one(Problem {
                file: file.to_owned(),
                line: Some(before.iter().filter(|byte| **byte == b'\n').count() + 1),
                key: String::new(),
                what: "holds bytes that are not UTF-8; save the file as UTF-8".into(),
            }))
        }
    }
}

fn whole(file: &Path, what: String) -> Problems {
    Problems::one(Problem { file: file.to_owned(), line: None, key: String::new(), what })
}

/// Validates a configuration; `file` only stands in the problems, `env` answers `${NAME}`. Pure but for the files that secrets are in.
///
/// # Errors
///
/// All that is wrong at once. After a syntax error the rest is still read as far as the parser recovers; only keys that
/// seem to be missing are not reported then.
pub fn parse(text: &str, file: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Problems> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let reader = Reader::new(text, file, env);
    reader.report_syntax(text, &errors);
    let config = sections::read(Section::root(&reader, document.get_ref()));
    reader.finish().map_or(Ok(config), Err)
}

/// Every key that the configuration may hold, in the order in which they are read.
pub fn known_keys() -> Vec<Key> {
    // The keys of a list's tables are asked for only where there is such a table.
    let lists = "[[thresholds.overrides]]\n[[log_analyzer.custom_patterns]]\n[[alerting.silences]]";
    let (document, _) = DeTable::parse_recoverable(lists);
    let reader = Reader::new("", Path::new(""), &|_| None);
    sections::read(Section::root(&reader, document.get_ref()));
    reader.into_known()
}
