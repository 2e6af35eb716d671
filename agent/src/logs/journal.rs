//! The systemd journal, through `journalctl`: its file format is nobody else's business, and its reader is on every host that has one.
//!
//! The program runs as a child as long as the source is open. It is handed nothing but options.

use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};

use super::feed::{Feed, Sender};
use super::journal_entry::{self, Entry};
use super::lines::{Line, Lines};
use super::{Begin, HISTORY, LogSource, Logged, MAX_TEXT, Next, Opened, PRESENT, Place, Position, boot_id, is_own};
use crate::host::{self, Unavailable};
use crate::model::{Evidence, LogRecord, Timestamp};

/// Bytes of an entry; one that takes more is not read. Without `--all` the program leaves out fields of more than 4 KiB.
const MAX_ENTRY: usize = 256 << 10;
/// What the program says before it ends is kept up to this.
const MAX_COMPLAINT: u64 = 1024;

/// Starts `journalctl`.
pub fn open(place: &Place<'_>) -> Opened {
    let absent = |why: String| {
        Unavailable::new(
            why,
            "nothing to do where the host has no systemd journal; else let the agent's user read it (group systemd-journal)",
        )
    };
    if !has_journal(place) {
        return Err(absent("there is no journal in /run/log/journal or /var/log/journal".into()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(program) = std::env::split_paths(&path).map(|path| path.join("journalctl")).find(|program| program.is_file()) else {
        return Err(absent("there is no journalctl in PATH".into()));
    };
    let mut command = Command::new(program);
    command.args(["--follow", "--no-tail", "--output=json", "--quiet"]);
    let root = place.host.rootfs("/");
    if root != Path::new("/") {
        command.arg("--root").arg(root);
    }
    let now = host::now();
    let since = |time: Timestamp| {
        let micros = time.as_nanos().div_euclid(1000).max(0);
        format!("--since=@{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    };
    command.arg(match place.begin {
        // Of what was written long ago nothing is told, so it is not read either.
        Begin::At(Position::Cursor(cursor)) if written_at(cursor).is_none_or(|at| now.since(at) < HISTORY) => {
            format!("--after-cursor={cursor}")
        }
        Begin::At(Position::Cursor(_)) => since(now.minus(HISTORY)),
        Begin::Boot => since(now.minus(host::uptime())),
        // The time of here: the program takes a while to start.
        _ => since(now),
    });
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: between fork and exec one system call is made.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
    let mut reader = Reader {
        own_name: place.own_name.to_owned(),
        boot: boot_id(place.host),
        opened: host::uptime(),
        opened_at: now,
        lost: 0,
    };
    let child = Arc::new(Mutex::new(None));
    let of_reader = Arc::clone(&child);
    // The thread that starts it is the one whose end it must not outlive.
    let feed = Feed::start("journal", move |sender| match reader.run(&mut command, &of_reader, sender) {
        Ok(ended) => io::Error::other(ended),
        Err(error) => io::Error::new(error.kind(), format!("cannot run journalctl: {error}")),
    })?;
    Ok(Box::new(Journal { feed, child }))
}

fn locked(child: &Mutex<Option<Child>>) -> MutexGuard<'_, Option<Child>> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether there is a journal at all: without one `journalctl --follow` waits for ever and says nothing.
fn has_journal(place: &Place<'_>) -> bool {
    ["/run/log/journal", "/var/log/journal"].into_iter().any(|directory| {
        let machines = std::fs::read_dir(place.host.rootfs(directory)).into_iter().flatten().flatten();
        machines.map(|machine| std::fs::read_dir(machine.path())).any(|files| {
            let mut names = files.into_iter().flatten().flatten().map(|file| file.file_name());
            names.any(|name| Path::new(&name).extension().is_some_and(|extension| extension == "journal"))
        })
    })
}

/// When the entry of a cursor was written: its field `t`, microseconds in hexadecimal.
fn written_at(cursor: &str) -> Option<Timestamp> {
    let micros = i64::from_str_radix(cursor.split(';').find_map(|field| field.strip_prefix("t="))?, 16).ok()?;
    Some(Timestamp::from_nanos(micros.checked_mul(1000)?))
}

/// What the program said, on one line.
fn complaint(stderr: Option<ChildStderr>) -> String {
    let mut bytes = Vec::new();
    let _ = stderr.map(|stderr| stderr.take(MAX_COMPLAINT).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { String::new() } else { format!(": {}", lines.join("; ")) }
}

struct Journal {
    feed: Feed,
    child: Arc<Mutex<Option<Child>>>,
}

impl LogSource for Journal {
    fn summary(&self) -> String {
        "the systemd journal, through journalctl".into()
    }

    fn next(&mut self) -> Next<'_> {
        self.feed.next()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // In this order: a program that is started meanwhile is ended by its thread.
        self.feed.close();
        // Its thread sees the end of the pipe and waits for it. One that has ended cannot be killed, which is all right.
        let _ = locked(&self.child).as_mut().map(Child::kill);
    }
}

struct Reader {
    own_name: String,
    boot: u128,
    /// When the journal was opened: time since the boot, and the wall clock.
    opened: Duration,
    opened_at: Timestamp,
    /// Entries since the last record that could not be read.
    lost: u64,
}

impl Reader {
    /// Starts the program and reads until it ends; how it did.
    fn run(&mut self, command: &mut Command, child: &Mutex<Option<Child>>, sender: &Sender) -> io::Result<String> {
        let mut started = command.spawn()?;
        let (stdout, stderr) = (started.stdout.take(), started.stderr.take());
        *locked(child) = Some(started);
        let read = match stdout {
            // Whoever has gone meanwhile found nobody to kill.
            Some(stdout) if !sender.is_closed() => self.read(stdout, sender),
            _ => Ok(()),
        };
        let mut child = locked(child);
        let Some(child) = child.as_mut() else { return Ok(String::new()) };
        if sender.is_closed() || read.is_err() {
            let _ = child.kill();
        }
        let status = child.wait()?;
        read.map(|()| format!("journalctl ended with {status}{}", complaint(stderr)))
    }

    /// Reads until the program ends, or nobody wants to know any more.
    fn read(&mut self, mut stdout: ChildStdout, sender: &Sender) -> io::Result<()> {
        let mut lines = Lines::new(MAX_ENTRY);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = match stdout.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let mut is_wanted = true;
            lines.take(buffer.get(..read).unwrap_or_default(), |line| {
                if let Some(logged) = self.logged(line) {
                    is_wanted = sender.blocking_send(Ok(logged)).is_ok();
                }
                is_wanted
            });
            if !is_wanted {
                return Ok(());
            }
        }
    }

    fn logged(&mut self, line: Line<'_>) -> Option<Logged> {
        let entry = if line.is_cut { None } else { journal_entry::parse(line.bytes) };
        let Some(entry) = entry else {
            self.lost += 1;
            return None;
        };
        if is_own(&self.own_name, &entry.program) {
            return None;
        }
        let mut text = entry.text();
        let is_cut = entry.message.is_none() || text.len() > MAX_TEXT;
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        let record = LogRecord {
            source: "journal",
            is_kernel: entry.is_kernel,
            level: entry.priority,
            text,
            written: self.written(&entry),
            facts: Evidence::new(),
        };
        Some(Logged { record, lost: std::mem::take(&mut self.lost), is_cut, position: Position::Cursor(entry.cursor) })
    }

    /// When an entry was written that was there before the journal was opened. Goes by the clock that nobody sets, where the entry
    /// is of this boot.
    fn written(&self, entry: &Entry) -> Option<Timestamp> {
        if let (Some(boot), Some(micros)) = (entry.boot, entry.monotonic_us)
            && boot == self.boot
        {
            let ago = self.opened.saturating_sub(Duration::from_micros(micros));
            return (ago > PRESENT).then(|| self.opened_at.minus(ago));
        }
        let at = Timestamp::from_nanos(entry.realtime_us?.saturating_mul(1000));
        (self.opened_at.since(at) > PRESENT).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_says_when() {
        let cursor = "s=09f40f4b16054a20b09913754a419625;i=1;b=0123456789abcdef0123456789abcdef;m=4c4b40;t=660cc68e99f80;x=2b2b776013015a38";
        assert_eq!(written_at(cursor), Some(Timestamp::from_secs(1_795_280_910)));
        assert_eq!(written_at("t=x"), None);
    }

    #[test]
    fn what_was_there_before_is_of_the_past_whatever_the_wall_clock_says() {
        let mut reader = Reader {
            own_name: "agent".into(),
            boot: 1,
            opened: Duration::from_secs(100),
            opened_at: Timestamp::from_secs(1_000_000),
            lost: 0,
        };
        let mut read = |fields: &str| {
            let line = format!(r#"{{"MESSAGE":"x","SYSLOG_IDENTIFIER":"app",{fields}}}"#);
            reader.logged(Line { bytes: line.as_bytes(), is_cut: false, len: 0 })
        };
        let boot = r#""_BOOT_ID":"00000000000000000000000000000001","__REALTIME_TIMESTAMP":"5""#;
        let mut written = |fields: &str| read(fields).unwrap().record.written;
        assert_eq!(written(&format!(r#"{boot},"__MONOTONIC_TIMESTAMP":"101000000""#)), None, "the clock was set back");
        assert_eq!(written(&format!(r#"{boot},"__MONOTONIC_TIMESTAMP":"40000000""#)), Some(Timestamp::from_secs(999_940)));
        assert_eq!(written(r#""__REALTIME_TIMESTAMP":"900000000000""#), Some(Timestamp::from_secs(900_000)));
        // Its own words, and what is no entry.
        assert_eq!(read(r#""SYSLOG_IDENTIFIER":"agent""#), None);
        assert_eq!(read("nonsense"), None);
        assert_eq!(read(r#""PRIORITY":"3""#).map(|logged| logged.lost), Some(1));
    }
}
