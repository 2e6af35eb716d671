//! Attributes of sysfs: small files with one value each, of devices that come and go.

use std::fs;
use std::path::{Path, PathBuf};

use super::Expected;
use super::text::{decimal, lossy, number};

/// The attributes in one directory. They are opened, read and closed: devices that are looked at once a minute keep no
/// descriptors.
#[derive(Debug)]
pub struct Attributes {
    directory: PathBuf,
    /// What could not be made sense of.
    pub skips: Vec<String>,
}

impl Attributes {
    /// Of `directory`, which need not exist.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, skips: Vec::new() }
    }

    /// The text of an attribute without the white space around it. `None` where the device does not have it or does not
    /// answer, which is its right: a drive that sleeps has no temperature.
    pub fn text(&self, name: &str) -> Option<String> {
        let bytes = fs::read(self.directory.join(name)).ok()?;
        Some(lossy(bytes.trim_ascii()))
    }

    /// The same as a number.
    pub fn number(&mut self, name: &str) -> Option<u64> {
        self.parsed(name, number, "a number")
    }

    /// The same as a number that may be negative or broken.
    pub fn decimal(&mut self, name: &str) -> Option<f64> {
        self.parsed(name, decimal, "a number")
    }

    fn parsed<T>(&mut self, name: &str, parse: impl FnOnce(&[u8]) -> Option<T>, expected: Expected) -> Option<T> {
        let path = self.directory.join(name);
        let bytes = fs::read(&path).ok()?;
        let value = parse(bytes.trim_ascii());
        if value.is_none() {
            self.skips.push(format!("{}: expected {expected}", path.display()));
        }
        value
    }
}

/// Entries of a directory that are `prefix` and a number, by number; at most `most` of them. None where there is no directory.
pub fn numbered(directory: &Path, prefix: &str, most: usize) -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.strip_prefix(prefix)?.parse().ok();
    let mut found: Vec<(u32, PathBuf)> = entries.filter_map(|entry| Some((number(&entry.path())?, entry.path()))).collect();
    found.sort_unstable();
    found.truncate(most);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_trimmed_and_what_makes_no_sense_is_said() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("temp1_input"), "-1500\n").unwrap();
        fs::write(directory.path().join("name"), "core temp\n").unwrap();
        let mut attributes = Attributes::new(directory.path().to_owned());
        assert_eq!(attributes.decimal("temp1_input"), Some(-1500.0));
        assert_eq!(attributes.text("name").as_deref(), Some("core temp"));
        assert_eq!((attributes.number("temp2_input"), attributes.skips.len()), (None, 0), "what is not there is no mistake");
        assert_eq!(attributes.number("name"), None);
        assert!(attributes.skips[0].ends_with("/name: expected a number"));
    }

    #[test]
    fn numbered_entries_are_in_order_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["cpu10", "cpu2", "cpufreq", "cpu", "x1"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let numbers = |most| numbered(directory.path(), "cpu", most).into_iter().map(|(number, _)| number).collect::<Vec<_>>();
        assert_eq!(numbers(9), [2, 10]);
        assert_eq!(numbers(1), [2]);
        assert_eq!(numbered(Path::new("/nonexistent"), "cpu", 9), []);
    }
}
