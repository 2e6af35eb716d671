//! The file that syslog writes: `/var/log/syslog`, `/var/log/messages`, or whichever the configuration names.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::feed::{Feed, Sender};
use super::syslog_line::{self, Stamp};
use super::tail::{Tail, Tailed};
use super::{LogSource, Logged, Next, Opened, PRESENT, Place, is_own};
use crate::host::{self, Unavailable};
use crate::model::{Evidence, LogRecord};

/// How often the file is looked at.
const EVERY: Duration = Duration::from_millis(500);
/// Where it is by default.
const USUAL: [&str; 2] = ["/var/log/syslog", "/var/log/messages"];

/// Opens the file.
pub fn open(place: &Place<'_>) -> Opened {
    let path = match place.syslog_path {
        Some(path) => place.host.rootfs(path),
        None => {
            let usual = USUAL.iter().map(|path| place.host.rootfs(path)).find(|path| path.exists());
            let why = || format!("there is neither {} nor {}", USUAL[0], USUAL[1]);
            usual.ok_or_else(|| {
                Unavailable::new(why(), "nothing to do where the host writes none; else set syslog_path in [log_analyzer]")
            })?
        }
    };
    let mut tail = Tail::open(&path, place.begin).map_err(|error| {
        let why = format!("cannot read {}: {error}", path.display());
        Unavailable::new(why, "let the agent's user read it (group adm), or set another syslog_path in [log_analyzer]")
    })?;
    let mut reader = Reader { own_name: place.own_name.to_owned(), zone: TimeZone::system() };
    let feed = Feed::start("syslog", move |sender| {
        loop {
            match tail.read(&mut |tailed| reader.hand_on(&tailed, sender)) {
                _ if sender.is_closed() => return std::io::Error::other("nobody reads it"),
                Ok(true) => {}
                Ok(false) => sleep(EVERY),
                Err(error) => return error,
            }
        }
    })?;
    Ok(Box::new(Syslog { feed, path }))
}

struct Syslog {
    feed: Feed,
    path: PathBuf,
}

impl LogSource for Syslog {
    fn summary(&self) -> String {
        self.path.display().to_string()
    }

    fn next(&mut self) -> Next<'_> {
        self.feed.next()
    }
}

struct Reader {
    own_name: String,
    zone: TimeZone,
}

impl Reader {
    /// Whether anybody wants more.
    fn hand_on(&mut self, tailed: &Tailed<'_>, sender: &Sender) -> bool {
        self.logged(tailed).is_none_or(|logged| sender.blocking_send(Ok(logged)).is_ok())
    }

    fn logged(&mut self, Tailed { line, position, is_backlog }: &Tailed<'_>) -> Option<Logged> {
        let text = line.text();
        // A line in no known form is somebody's all the same.
        let parsed = syslog_line::parse(&text);
        if text.is_empty() || parsed.as_ref().is_some_and(|line| is_own(&self.own_name, line.program)) {
            return None;
        }
        let stamp = parsed.as_ref().map_or(Stamp::None, |line| line.stamp);
        let now = host::now();
        let written = if *is_backlog { stamp.at(now, &self.zone) } else { None };
        let record = LogRecord {
            source: "syslog",
            is_kernel: parsed.as_ref().is_some_and(|line| line.is_kernel),
            level: parsed.as_ref().and_then(|line| line.priority).map(|priority| priority & 7),
            text: parsed.map_or_else(|| text.clone().into_owned(), |line| line.text.into_owned()),
            written: written.filter(|written| now.since(*written) > PRESENT),
            facts: Evidence::new(),
        };
        Some(Logged { record, lost: 0, is_cut: line.is_cut, position: position.clone() })
    }
}
