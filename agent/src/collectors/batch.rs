//! What one run of a collector found.

use std::time::Instant;

use crate::host::Text;
use crate::model::{KernelEvent, Sample, SeriesKey};

/// What stood in no line where it should: "a number of kB".
pub type Expected = &'static str;

/// The samples of one run, and what was left out.
#[derive(Debug)]
pub struct Batch {
    at: Instant,
    /// The samples.
    pub samples: Vec<Sample>,
    /// What the kernel did, as far as this run shows it; what becomes of that is decided where probes and logs are known, too.
    pub events: Vec<KernelEvent>,
    /// Lines or values that could not be read, and were left out.
    pub skipped: u64,
    /// The first of them, in words: file, line, what was expected.
    pub first_skip: Option<String>,
}

impl Batch {
    /// Nothing yet. `at` is the time of the run, between two of which rates are computed.
    pub fn new(at: Instant) -> Self {
        Self { at, samples: Vec::new(), events: Vec::new(), skipped: 0, first_skip: None }
    }

    /// The time of the run.
    pub fn at(&self) -> Instant {
        self.at
    }

    /// Adds one sample. A value that is not finite is a skip.
    pub fn push(&mut self, series: &SeriesKey, value: f64) {
        if value.is_finite() {
            self.samples.push(Sample { series: series.clone(), value });
        } else {
            self.skip(|| format!("{series} is not a finite number"));
        }
    }

    /// Adds one sample that is a whole number. Beyond 2^53 the nearest `f64` stands for it.
    pub fn push_count(&mut self, series: &SeriesKey, value: u64) {
        self.push(series, value as f64);
    }

    /// Counts something that could not be read; `what` is only called for the first of a run.
    pub fn skip(&mut self, what: impl FnOnce() -> String) {
        self.skipped += 1;
        if self.first_skip.is_none() {
            self.first_skip = Some(what());
        }
    }

    /// Hands each line of a file that is never empty to `read`, without its line end. A line of which `read` says what it
    /// expected is a skip; so is a last line without an end, since a number in it may be cut, and a file with no line at all.
    pub fn lines<'a>(&mut self, text: Text<'a>, mut read: impl FnMut(&mut Self, &'a [u8]) -> Result<(), Expected>) {
        if text.is_empty() {
            self.skip(|| format!("{} is empty", text.path.display()));
        }
        for (index, line) in text.bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
            let result = line.strip_suffix(b"\n").ok_or("a line end").and_then(|line| read(self, line));
            if let Err(expected) = result {
                self.skip(|| format!("{} line {}: expected {expected}", text.path.display(), index + 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::collectors::text::number;

    #[test]
    fn a_bad_line_costs_that_line() {
        let mut batch = Batch::new(Instant::now());
        let mut read = Vec::new();
        batch.lines(Text { path: Path::new("/proc/x"), bytes: b"1\ntwo\n3\n4" }, |_, line| {
            read.push(number(line).ok_or("a number")?);
            Ok(())
        });
        assert_eq!(read, [1, 3]);
        assert_eq!(batch.skipped, 2);
        assert_eq!(batch.first_skip.as_deref(), Some("/proc/x line 2: expected a number"));
    }
}
