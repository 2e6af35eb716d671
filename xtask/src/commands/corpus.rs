//! `cargo xtask corpus`: the labelled series in `agent/tests/corpus`, with which detection is measured.
//!
//! Each series is a CSV file of times and values; `labels.json` says what it is a series of, and which analyzers should say
//! something in which time. Both are generated here, with the same bytes on each run, so that what is committed can be checked and
//! what a series means can be read in code: `corpus/series.rs` is the table of them. `cargo xtask bench detect` runs them.

mod series;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::workspace::root;
use series::{Random, Series, all};

/// Options of the command.
#[derive(Args)]
pub struct Options {
    /// Change nothing; fail when what is committed is not what the generator yields
    #[arg(long)]
    check: bool,
}

/// Most bytes of the whole corpus.
const MOST_BYTES: usize = 2 << 20;
/// Time of the first sample of each series.
const START: i64 = 1_700_000_000;

/// Writes the corpus, or checks it.
pub fn run(options: &Options) -> Result<()> {
    if options.check { check() } else { write() }
}

/// Fails when what is committed is not what the generator yields.
pub fn check() -> Result<()> {
    let (directory, expected) = (directory()?, generate()?);
    let mut stale: Vec<&str> = Vec::new();
    for (name, text) in &expected {
        if fs::read_to_string(directory.join(name)).ok().as_ref() != Some(text) {
            stale.push(name);
        }
    }
    let present = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let names: Vec<String> = present.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    stale.extend(names.iter().filter(|name| !expected.contains_key(*name)).map(String::as_str));
    if !stale.is_empty() {
        bail!("not what the generator yields: {}; run `cargo xtask corpus` and commit what it changes", stale.join(", "));
    }
    println!("{} files in agent/tests/corpus are what the generator yields", expected.len());
    Ok(())
}

fn write() -> Result<()> {
    let (directory, files) = (directory()?, generate()?);
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    for (name, text) in &files {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let bytes: usize = files.values().map(String::len).sum();
    println!("wrote {} files, {} KiB, to {}", files.len(), bytes / 1024, directory.display());
    Ok(())
}

fn directory() -> Result<PathBuf> {
    Ok(root()?.join("agent/tests/corpus"))
}

/// All files by name.
fn generate() -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    let mut labels = Vec::new();
    for mut series in all() {
        let name = format!("{}.csv", series.name);
        labels.push(label(&name, &series));
        let text = csv(&mut series);
        ensure!(files.insert(name.clone(), text).is_none(), "two series are called {name}");
    }
    files.insert("labels.json".to_owned(), format!("{:#}\n", Value::from(labels)));
    let bytes: usize = files.values().map(String::len).sum();
    ensure!(bytes <= MOST_BYTES, "the corpus has {bytes} bytes, more than {MOST_BYTES}: shorten a series");
    Ok(files)
}

fn csv(series: &mut Series) -> String {
    let mut text = String::from("timestamp,value\n");
    // By its name, so that a series does not change when another one is added.
    let mut random = Random::seeded(series.name);
    for step in 0..series.count {
        let secs = step * series.interval;
        let value = (series.value)(&mut random, f64::from(secs));
        if let Some(value) = value {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{},{value:.*}", START + i64::from(secs), series.decimals);
        }
    }
    text
}

fn label(file: &str, series: &Series) -> Value {
    let time = |secs: u32| START + i64::from(secs);
    let expect = series.expect.iter().map(|expected| {
        json!({
            "analyzers": expected.analyzers,
            "from": time(expected.from),
            "to": time(expected.to),
            "optional": expected.optional,
        })
    });
    json!({
        "file": file,
        "kind": series.kind,
        "metric": series.metric,
        "labels": series.labels.iter().copied().collect::<BTreeMap<_, _>>(),
        "restarts": series.restarts.iter().map(|secs| time(*secs)).collect::<Vec<_>>(),
        "expect": expect.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_is_what_is_committed() {
        check().unwrap();
    }

    #[test]
    fn the_same_bytes_come_out_again() {
        assert_eq!(generate().unwrap(), generate().unwrap());
        assert!(all().len() >= 40);
    }
}
