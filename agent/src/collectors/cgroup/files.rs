//! What the files of one cgroup say.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

use super::Values;
use crate::collectors::Expected;
use crate::collectors::interval::percent;
use crate::collectors::text::{fields, number};

/// A number of bytes from which on version 1 means none: it writes the greatest number of whole pages.
const UNLIMITED: u64 = 1 << 62;
/// Most that is read of one file.
const MAX_LEN: u64 = 16 << 10;

/// The files of one cgroup, which are opened, read and closed one by one: there may be more of them than descriptors.
#[derive(Debug)]
pub struct Files<'a> {
    /// The cgroup's directory.
    pub directory: &'a mut PathBuf,
    /// Text of the last file read.
    pub buffer: &'a mut Vec<u8>,
    /// What could not be read.
    pub skips: &'a mut Vec<String>,
}

impl Files<'_> {
    /// What `parse` makes of a file. `None` where there is no such file, where the cgroup has just been removed, and where the
    /// file does not say what was expected, which is a skip.
    fn read<T>(&mut self, name: &str, parse: impl FnOnce(&[u8]) -> Result<T, Expected>) -> Option<T> {
        self.directory.push(name);
        self.buffer.clear();
        let result = File::open(&*self.directory).and_then(|file| file.take(MAX_LEN).read_to_end(self.buffer));
        let parsed = match result {
            Ok(_) => parse(self.buffer).map_err(|expected| format!("{}: expected {expected}", self.directory.display())),
            Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV) => {
                self.directory.pop();
                return None;
            }
            Err(error) => Err(format!("cannot read {}: {error}", self.directory.display())),
        };
        self.directory.pop();
        parsed.map_err(|skip| self.skips.push(skip)).ok()
    }

    /// Memory, where it is limited.
    pub fn memory(&mut self, version: u8, values: &mut Values) {
        let [used, limit, usage, high, max, oom, oom_kill, ..] = values;
        let names =
            if version == 2 { ["memory.max", "memory.current"] } else { ["memory.limit_in_bytes", "memory.usage_in_bytes"] };
        let [limit_name, used_name] = names;
        let Some(Some(most)) = self.read(limit_name, parse_limit) else { return };
        *limit = Some(most as f64);
        *used = self.read(used_name, parse_number).map(|used| used as f64);
        *usage = used.and_then(|used| percent(used, most as f64));
        if version == 2 {
            let names = [&b"high"[..], b"max", b"oom", b"oom_kill"];
            let events = self.read("memory.events", |text| parse_pairs(text, names)).unwrap_or_default();
            [*high, *max, *oom, *oom_kill] = events.map(|event| event.map(|count| count as f64));
        } else {
            *max = self.read("memory.failcnt", parse_number).map(|count| count as f64);
            let [kills] = self.read("memory.oom_control", |text| parse_pairs(text, [b"oom_kill"])).unwrap_or_default();
            *oom_kill = kills.map(|count| count as f64);
        }
    }

    /// Processor time, where it is limited. Version 1 counts what is used in another hierarchy: [`Self::cpu_used`].
    pub fn cpu(&mut self, version: u8, values: &mut Values) {
        let [_, _, _, _, _, _, _, limit, used, periods, throttled_periods, throttled, ..] = values;
        let cores = if version == 2 {
            self.read("cpu.max", parse_cpu_max).flatten()
        } else {
            self.read("cpu.cfs_quota_us", parse_limit)
                .flatten()
                .zip(self.read("cpu.cfs_period_us", parse_number))
                .and_then(|(quota, period)| (period > 0).then(|| quota as f64 / period as f64))
        };
        if cores.is_none() {
            return;
        }
        *limit = cores;
        let names = [&b"nr_periods"[..], b"nr_throttled", b"usage_usec", b"throttled_usec", b"throttled_time"];
        let [runs, stops, used_micros, stopped_micros, stopped_nanos] = self
            .read("cpu.stat", |text| parse_pairs(text, names))
            .unwrap_or_default()
            .map(|value| value.map(|value| value as f64));
        *periods = runs;
        *throttled_periods = stops;
        *used = used_micros.map(|micros| micros / 1e6);
        *throttled = stopped_micros.map(|micros| micros / 1e6).or(stopped_nanos.map(|nanos| nanos / 1e9));
    }

    /// Processor time used, of a cgroup in the `cpuacct` hierarchy.
    pub fn cpu_used(&mut self, values: &mut Values) {
        let [_, _, _, _, _, _, _, _, used, ..] = values;
        *used = self.read("cpuacct.usage", parse_number).map(|nanos| nanos as f64 / 1e9);
    }

    /// Tasks, where they are limited.
    pub fn pids(&mut self, values: &mut Values) {
        let [.., count, limit, usage, refused] = values;
        let Some(Some(most)) = self.read("pids.max", parse_limit) else { return };
        *limit = Some(most as f64);
        *count = self.read("pids.current", parse_number).map(|tasks| tasks as f64);
        *usage = count.and_then(|tasks| percent(tasks, most as f64));
        let [max] = self.read("pids.events", |text| parse_pairs(text, [b"max"])).unwrap_or_default();
        *refused = max.map(|count| count as f64);
    }
}

fn parse_number(text: &[u8]) -> Result<u64, Expected> {
    text.strip_suffix(b"\n").and_then(number).ok_or("a number and a line end")
}

/// A limit; `None` for none, which is written as `max`, as -1 or as a huge number.
fn parse_limit(text: &[u8]) -> Result<Option<u64>, Expected> {
    match text {
        b"max\n" | b"-1\n" => Ok(None),
        _ => Ok(Some(parse_number(text)?).filter(|limit| *limit < UNLIMITED)),
    }
}

/// The limit in cores of a text like `200000 100000`: microseconds in each period, and the period.
fn parse_cpu_max(text: &[u8]) -> Result<Option<f64>, Expected> {
    let expected = "max or a number, then a number of microseconds";
    let mut rest = fields(text.strip_suffix(b"\n").ok_or("a line end")?);
    let quota = rest.next().ok_or(expected)?;
    let period = rest.number().filter(|period| *period > 0).ok_or(expected)?;
    if quota == b"max" {
        return Ok(None);
    }
    Ok(Some(number(quota).ok_or(expected)? as f64 / period as f64))
}

/// The values behind some of the names in lines of a name and a number each.
fn parse_pairs<const N: usize>(text: &[u8], names: [&[u8]; N]) -> Result<[Option<u64>; N], Expected> {
    let mut values = [None; N];
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let mut rest = fields(line.strip_suffix(b"\n").ok_or("a line end")?);
        let name = rest.next().ok_or("names, each with a number")?;
        if let Some((slot, _)) = values.iter_mut().zip(names).find(|(_, known)| *known == name) {
            *slot = Some(rest.number().ok_or("names, each with a number")?);
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::text::mangle;

    #[test]
    fn limits_of_both_versions_are_read() {
        assert_eq!(parse_limit(b"536870912\n"), Ok(Some(536_870_912)));
        assert_eq!(parse_limit(b"max\n"), Ok(None));
        assert_eq!(parse_limit(b"-1\n"), Ok(None), "cpu.cfs_quota_us");
        assert_eq!(parse_limit(b"9223372036854771712\n"), Ok(None), "memory.limit_in_bytes with pages of 4 KiB");
        assert_eq!(parse_limit(b"9223372036854710272\n"), Ok(None), "with pages of 64 KiB");
        assert_eq!(parse_limit(b"18446744073709551615\n"), Ok(None), "before 3.19");
        assert_eq!(parse_limit(b"5368"), Err("a number and a line end"));
        assert_eq!(parse_cpu_max(b"150000 100000\n"), Ok(Some(1.5)));
        assert_eq!(parse_cpu_max(b"max 100000\n"), Ok(None));
        assert!(parse_cpu_max(b"150000 0\n").is_err());
    }

    #[test]
    fn pairs_are_found_by_name() {
        let text = b"nr_periods 17\nnr_throttled 3\nthrottled_time 2500000\n";
        assert_eq!(parse_pairs(text, [b"nr_throttled", b"usage_usec"]), Ok([Some(3), None]));
        assert_eq!(parse_pairs(b"max x\n", [b"max"]), Err("names, each with a number"));
        assert_eq!(parse_pairs(b"max 1", [b"max"]), Err("a line end"));
    }

    #[test]
    fn no_input_panics() {
        mangle(b"150000 100000\n", |text| {
            let _ = parse_cpu_max(text);
            let _ = parse_limit(text);
        });
        mangle(b"nr_periods 17\nnr_throttled 3\nthrottled_time 2500000\n", |text| {
            let _ = parse_pairs(text, [b"nr_throttled"]);
        });
    }
}
