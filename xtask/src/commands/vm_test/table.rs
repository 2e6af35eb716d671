//! The matrix: what came out of each cell, on the terminal and in docs/kernels.md.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::modes::{MODES, Mode, signals};
use crate::workspace::root;

const PAGE: &str = "docs/kernels.md";

/// What one kernel's machine reported.
pub struct Examined {
    /// The kernel's series.
    pub series: &'static str,
    /// Its full version.
    pub release: String,
    /// One line for each mode.
    pub modes: Vec<Value>,
}

/// What came out of one cell.
enum Outcome<'a> {
    Pass,
    /// A reason that is the kernel's own, and expected.
    Excused(&'static str),
    NotAvailable(&'a str),
    Fail(&'a str),
}

/// A cell that cannot pass, for a reason that is the kernel's own.
struct Excuse {
    series: &'static [&'static str],
    mode: &'static str,
    cell: &'static str,
    reason: &'static str,
}

/// All of them. A cell that passes in spite of its excuse fails, so that none outlives its reason.
const EXCUSES: [Excuse; 0] = [];

impl Examined {
    fn mode(&self, name: &str) -> Option<&Value> {
        self.modes.iter().find(|mode| mode["mode"] == name)
    }

    fn outcome(&self, mode: &str, cell: &str) -> Outcome<'_> {
        let results = self.mode(mode).and_then(|mode| mode["results"].as_array()).map(Vec::as_slice).unwrap_or_default();
        let of = |name: &str| results.iter().find(|result| result["cell"] == name);
        // What stopped a whole mode stands for its cells.
        let Some(result) = of(cell).or_else(|| of("mode")) else { return Outcome::Fail("was not tried") };
        let reason = result["reason"].as_str().unwrap_or_default();
        let excuse =
            EXCUSES.iter().find(|excuse| excuse.series.contains(&self.series) && excuse.mode == mode && excuse.cell == cell);
        match (result["outcome"].as_str(), excuse) {
            (Some("pass"), None) => Outcome::Pass,
            (Some("pass"), Some(_)) => Outcome::Fail("passes, although it has an excuse"),
            (Some("not available"), _) => Outcome::NotAvailable(reason),
            (_, Some(excuse)) => Outcome::Excused(excuse.reason),
            (_, None) => Outcome::Fail(reason),
        }
    }
}

/// The rows of a mode: each fault with its signal, and what is about the agent as a whole.
fn rows(mode: &Mode) -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
    let whole = ["doctor", "conduct"].map(|name| (name, None));
    mode.cells.iter().map(|cell| (cell.name, Some(cell.signal))).chain(whole)
}

/// Prints everything with its reasons and durations; gives the number of cells that are not as they should be.
pub fn print(examined: &[Examined]) -> usize {
    let mut bad = 0;
    for kernel in examined {
        for mode in &MODES {
            println!("\n{} ({}), {}", kernel.series, kernel.release, mode.name);
            for (row, _) in rows(mode) {
                let seconds = kernel
                    .mode(mode.name)
                    .and_then(|mode| mode["results"].as_array()?.iter().find(|result| result["cell"] == row)?["seconds"].as_f64())
                    .unwrap_or_default();
                let (word, reason) = match kernel.outcome(mode.name, row) {
                    Outcome::Pass => ("pass", ""),
                    Outcome::Excused(reason) => ("cannot", reason),
                    Outcome::NotAvailable(reason) => ("not available", reason),
                    Outcome::Fail(reason) => ("FAIL", reason),
                };
                bad += usize::from(matches!(word, "FAIL" | "not available"));
                println!("  {word:<14}{row:<36}{seconds:>6.1} s  {reason}");
            }
        }
    }
    bad
}

/// Writes the page of all kernels. What differs from run to run does not stand in it.
///
/// # Errors
/// When it cannot be written.
pub fn write_page(examined: &[Examined]) -> Result<()> {
    let path = root()?.join(PAGE);
    fs::write(&path, page(examined)).with_context(|| format!("cannot write {}", path.display()))?;
    println!("\nwrote {PAGE}");
    Ok(())
}

/// Compares the page with what it would be now.
///
/// # Errors
/// When it differs.
pub fn compare_page(examined: &[Examined]) -> Result<()> {
    let path = root()?.join(PAGE);
    let committed = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(committed == page(examined), "{PAGE} is not what came out; run `cargo xtask vm-test` and commit the page");
    Ok(())
}

fn page(examined: &[Examined]) -> String {
    let mut page = String::from(
        "# Kernels\n\nWhat the agent tells on which kernel, through which source. Each cell is a real fault in a virtual machine with \
         that kernel of\nDebian, and an alert that arrived at a webhook with everything that the source knows. \
         `cargo xtask vm-test` runs it all and writes\nthis page.\n",
    );
    for mode in &MODES {
        let _ = write!(page, "\n## {}\n\n{}\n\n| fault |", capitalized(mode.name), mode.about);
        for kernel in examined {
            let _ = write!(page, " {} |", kernel.series);
        }
        let _ = writeln!(page, "\n|---|{}", "---|".repeat(examined.len()));
        for (row, signal) in rows(mode) {
            let _ = write!(page, "| {row} |");
            for kernel in examined {
                let cell = match kernel.outcome(mode.name, row) {
                    Outcome::Pass => signal.and_then(|signal| source(kernel.mode(mode.name)?, signal)).unwrap_or("pass"),
                    Outcome::Excused(reason) => reason,
                    Outcome::NotAvailable(_) => "not available",
                    Outcome::Fail(_) => "**fails**",
                };
                let _ = write!(page, " {cell} |");
            }
            page.push('\n');
        }
    }
    page
}

/// The source that `doctor` names for a signal.
fn source<'a>(mode: &'a Value, signal: &str) -> Option<&'a str> {
    signals(&mode["doctor"]).iter().find(|found| found["signal"] == signal)?["source"].as_str()
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn examined() -> Examined {
        let signal = json!({"signal": "oom", "source": "tracepoint oom/mark_victim, ring buffer"});
        let results = json!([
            {"cell": "OOM in a memory cgroup", "outcome": "pass", "seconds": 1.5},
            {"cell": "lost TCP segments", "outcome": "fail", "reason": "no alert", "seconds": 12.0},
        ]);
        let ringbuf = json!({"mode": "ring buffer", "doctor": {"signals": [signal]}, "results": results});
        let refused = json!({"cell": "mode", "outcome": "not available", "reason": "another transport"});
        let perf = json!({"mode": "perf array", "doctor": {}, "results": [refused]});
        Examined { series: "6.12", release: "6.12.95".into(), modes: vec![ringbuf, perf] }
    }

    #[test]
    fn the_page_tells_sources_and_failures_and_nothing_that_changes() {
        let page = page(&[examined()]);
        assert!(page.contains("| OOM in a memory cgroup | tracepoint oom/mark_victim, ring buffer |"), "{page}");
        assert!(page.contains("| lost TCP segments | **fails** |"), "{page}");
        assert!(page.contains("| lost TCP segments | not available |"), "{page}");
        assert!(!page.contains("1.5") && !page.contains("6.12.95"), "{page}");
    }

    #[test]
    fn what_was_not_tried_is_not_passed() {
        let rows: usize = MODES.iter().map(|mode| rows(mode).count()).sum();
        assert_eq!(print(&[examined()]), rows - 1);
    }
}
