//! Entries of the systemd journal, as JSON or in the export format (<https://systemd.io/JOURNAL_EXPORT_FORMATS/>).

use std::io::{self, BufRead, Read};

use serde_json::{Map, Value};

/// What is used of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub cursor: String,
    /// When the journal got it: microseconds since the epoch.
    pub realtime_us: Option<i64>,
    /// Microseconds since its boot.
    pub monotonic_us: Option<u64>,
    /// Which boot that was.
    pub boot: Option<u128>,
    /// Syslog level.
    pub priority: Option<u8>,
    /// The program that wrote it.
    pub program: String,
    /// Its process, as the journal saw it.
    pub pid: Option<String>,
    /// Whether the kernel wrote it.
    pub is_kernel: bool,
    /// What was written; `None` where the journal left it out because of its length.
    pub message: Option<String>,
    facility: Option<u8>,
    by_kernel_log: bool,
    has_identifier: bool,
}

impl Entry {
    /// What the kernel wrote, or `NAME[PID]: message` of anybody else.
    pub fn text(&self) -> String {
        let message = self.message.as_deref().unwrap_or_default();
        match (&self.pid, self.program.as_str()) {
            _ if self.is_kernel => message.to_owned(),
            (_, "") => message.to_owned(),
            (Some(pid), program) => format!("{program}[{pid}]: {message}"),
            (None, program) => format!("{program}: {message}"),
        }
    }

    /// Takes a field in.
    pub fn set(&mut self, name: &str, value: &str) {
        match name {
            "__CURSOR" => value.clone_into(&mut self.cursor),
            "__REALTIME_TIMESTAMP" => self.realtime_us = value.parse().ok(),
            "__MONOTONIC_TIMESTAMP" => self.monotonic_us = value.parse().ok(),
            "_BOOT_ID" => self.boot = u128::from_str_radix(value, 16).ok(),
            "PRIORITY" => self.priority = value.parse().ok().filter(|priority| *priority < 8),
            "SYSLOG_FACILITY" => self.facility = value.parse().ok(),
            "SYSLOG_IDENTIFIER" => (self.program, self.has_identifier) = (value.to_owned(), true),
            "_COMM" if !self.has_identifier => value.clone_into(&mut self.program),
            "SYSLOG_PID" | "_PID" if self.pid.is_none() || name == "_PID" => self.pid = Some(value.to_owned()),
            "_TRANSPORT" => self.by_kernel_log = value == "kernel",
            "MESSAGE" => self.message = Some(value.to_owned()),
            _ => {}
        }
        // A process may write into the kernel's log as well. Fields that begin with an underscore are the journal's own.
        self.is_kernel = self.by_kernel_log && self.facility.is_none_or(|facility| facility == 0);
    }
}

/// Fields that [`Entry::set`] knows.
const FIELDS: [&str; 11] = [
    "__CURSOR",
    "__REALTIME_TIMESTAMP",
    "__MONOTONIC_TIMESTAMP",
    "_BOOT_ID",
    "PRIORITY",
    "SYSLOG_FACILITY",
    "SYSLOG_IDENTIFIER",
    "_COMM",
    "SYSLOG_PID",
    "_PID",
    "_TRANSPORT",
];

/// Reads one line of `journalctl -o json`; `None` where it is not one.
pub fn parse(line: &[u8]) -> Option<Entry> {
    let mut fields: Map<String, Value> = serde_json::from_slice(line).ok()?;
    let mut entry = Entry::default();
    for name in FIELDS {
        if let Some(value) = fields.remove(name).and_then(text) {
            entry.set(name, &value);
        }
    }
    let message = fields.remove("MESSAGE")?;
    if let Some(message) = text(message) {
        entry.set("MESSAGE", &message);
    }
    Some(entry)
}

/// Bytes of a field in the export format that are kept.
const MAX_FIELD: u64 = 64 << 10;

/// Reads the next entry in the export format, and how many newlines it took; `None` at the end. A field that is longer than 64 KiB
/// is cut.
///
/// # Errors
/// The input cannot be read, or ends in the middle of a field.
pub fn read_export(mut input: &mut dyn BufRead) -> io::Result<Option<(Entry, u64)>> {
    let (mut entry, mut newlines, mut is_empty) = (Entry::default(), 0, true);
    loop {
        let mut line = Vec::new();
        if (&mut input).take(MAX_FIELD).read_until(b'\n', &mut line)? == 0 {
            return Ok((!is_empty).then_some((entry, newlines)));
        }
        let is_whole = line.last() == Some(&b'\n');
        if !is_whole {
            discard_line(input)?;
        }
        newlines += 1;
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        match line.iter().position(|byte| *byte == b'=') {
            _ if line.is_empty() && is_empty => {}
            _ if line.is_empty() => return Ok(Some((entry, newlines))),
            Some(at) => {
                let (name, value) = line.split_at(at);
                is_empty = false;
                entry.set(&String::from_utf8_lossy(name), &String::from_utf8_lossy(value.get(1..).unwrap_or_default()));
            }
            // The name, then the length in 64 bits little-endian, the bytes, and a newline.
            None => {
                let mut len = [0; 8];
                input.read_exact(&mut len)?;
                let len = u64::from_le_bytes(len);
                let mut value = Vec::new();
                (&mut input).take(len.min(MAX_FIELD)).read_to_end(&mut value)?;
                newlines += value.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
                newlines += discard(input, len.saturating_sub(MAX_FIELD).saturating_add(1))?;
                is_empty = false;
                entry.set(&String::from_utf8_lossy(line), &String::from_utf8_lossy(&value));
            }
        }
    }
}

/// Passes over so many bytes and the newline behind them; how many newlines were in between.
fn discard(input: &mut dyn BufRead, mut len: u64) -> io::Result<u64> {
    let mut newlines = 0;
    while len > 0 {
        let bytes = input.fill_buf()?;
        let take = bytes.len().min(usize::try_from(len).unwrap_or(usize::MAX));
        let Some(bytes) = bytes.get(..take).filter(|bytes| !bytes.is_empty()) else {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the input ends in the middle of a field"));
        };
        newlines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        len -= take as u64;
        input.consume(take);
    }
    Ok(newlines.saturating_sub(1))
}

/// Passes over the rest of a line.
fn discard_line(input: &mut dyn BufRead) -> io::Result<()> {
    loop {
        let bytes = input.fill_buf()?;
        let (take, is_end) = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (bytes.len(), bytes.is_empty()),
        };
        input.consume(take);
        if is_end {
            return Ok(());
        }
    }
}

/// A field's value: a string, numbers where it is not UTF-8, a list of both where the field was given more than once, null where
/// it is too long.
fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Array(values) if values.iter().all(Value::is_u64) => {
            let bytes: Option<Vec<u8>> = values.iter().map(|value| u8::try_from(value.as_u64()?).ok()).collect();
            bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        }
        Value::Array(values) => values.into_iter().find_map(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_an_application() {
        let entry = parse(
            br#"{"__CURSOR":"s=1;i=2","__REALTIME_TIMESTAMP":"1795280910000000","__MONOTONIC_TIMESTAMP":"5000000",
            "_BOOT_ID":"0123456789abcdef0123456789abcdef","MESSAGE":"Failed password","PRIORITY":"3","_TRANSPORT":"syslog",
            "SYSLOG_IDENTIFIER":"sshd","_PID":"12","_COMM":"sshd-session","SYSLOG_PID":"13","_EXE":"/x"}"#,
        )
        .unwrap();
        assert_eq!(entry.text(), "sshd[12]: Failed password");
        assert_eq!(
            (entry.cursor.as_str(), entry.realtime_us, entry.monotonic_us),
            ("s=1;i=2", Some(1_795_280_910_000_000), Some(5_000_000))
        );
        assert_eq!(
            (entry.priority, entry.is_kernel, entry.boot),
            (Some(3), false, Some(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef))
        );
    }

    #[test]
    fn the_export_format() {
        let mut bytes = b"__CURSOR=s=1\nSYSLOG_IDENTIFIER=app\nMESSAGE\n\x04\0\0\0\0\0\0\0a\nb\xff\n_PID=7\n\n\n".to_vec();
        bytes.extend(b"MESSAGE=second=2\n_TRANSPORT=kernel\nLONG=");
        bytes.extend(vec![b'x'; 200_000]);
        bytes.extend(b"\nCOREDUMP\n\x40\x0d\x03\0\0\0\0\0");
        bytes.extend(vec![b'\n'; 200_000]);
        bytes.extend(b"\nPRIORITY=2");
        let mut input = bytes.as_slice();
        let (entry, newlines) = read_export(&mut input).unwrap().unwrap();
        assert_eq!((entry.text().as_str(), entry.cursor.as_str(), newlines), ("app[7]: a\nb\u{fffd}", "s=1", 7));
        let (entry, newlines) = read_export(&mut input).unwrap().unwrap();
        assert_eq!((entry.text().as_str(), entry.is_kernel, entry.priority), ("second=2", true, Some(2)));
        assert_eq!(newlines, 1 + 1 + 1 + 1 + 1 + 200_001 + 1);
        assert_eq!(read_export(&mut input).unwrap(), None);
        // A length that is not there, and one that is beyond all.
        for len in [[1, 0, 0, 0, 0, 0, 0, 0], [255; 8]] {
            let bytes = [b"MESSAGE\n".as_slice(), &len].concat();
            assert_eq!(read_export(&mut bytes.as_slice()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn only_the_kernel_is_the_kernel() {
        let is_kernel = |fields: &str| parse(format!(r#"{{"MESSAGE":"x"{fields}}}"#).as_bytes()).unwrap().is_kernel;
        assert!(is_kernel(r#","_TRANSPORT":"kernel","SYSLOG_FACILITY":"0","SYSLOG_IDENTIFIER":"kernel""#));
        assert!(!is_kernel(r#","_TRANSPORT":"syslog","SYSLOG_FACILITY":"0","SYSLOG_IDENTIFIER":"kernel""#));
        assert!(!is_kernel(r#","_TRANSPORT":"kernel","SYSLOG_FACILITY":"3","SYSLOG_IDENTIFIER":"systemd""#));
    }

    #[test]
    fn messages_of_every_shape() {
        for (message, text) in [
            (r#""plain""#, Some("plain")),
            ("[104,105,255]", Some("hi\u{fffd}")),
            (r#"["first","second"]"#, Some("first")),
            ("[[104,105],[106]]", Some("hi")),
            ("null", None),
            ("[]", Some("")),
            ("[300]", None),
            ("{}", None),
        ] {
            let entry = parse(format!(r#"{{"MESSAGE":{message}}}"#).as_bytes()).unwrap();
            assert_eq!(entry.message.as_deref(), text, "{message}");
        }
        for line in ["", "{", "[]", "{}", "null", r#"{"PRIORITY":"3"}"#] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }
}
