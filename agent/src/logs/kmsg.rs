//! The kernel log: from where the agent stopped reading, from the boot where that was a moment ago, else from now on.

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Begin, LogSource, Logged, Next, Opened, Place, Position, boot_id};
use crate::host::{self, Kmsg, KmsgRead, KmsgRecord, Unavailable};
use crate::model::{Evidence, LogRecord, Timestamp};

/// Opens the kernel log.
pub fn open(place: &Place<'_>) -> Opened {
    let unreadable =
        |why: String| Unavailable::new(why, "run as root, or with CAP_SYSLOG; a container needs the device /dev/kmsg");
    let boot = boot_id(place.host);
    let expected = match place.begin {
        // The numbers of another boot say nothing.
        Begin::At(Position::Record { boot: of, next }) if *of == boot => Some(*next),
        _ => None,
    };
    let from_start = expected.is_some() || matches!(place.begin, Begin::Boot);
    let kmsg = if from_start { Kmsg::open_at_start(place.host) } else { Kmsg::open_at_end(place.host) };
    let kmsg = kmsg.map_err(|error| unreadable(error.to_string()))?;
    // SAFETY: the descriptor is the one of the file that `Kmsg` owns and never replaces.
    let fd = unsafe { AsyncFd::register_with_interest(kmsg, Interest::READABLE) }
        .map_err(|error| unreadable(format!("cannot wait for /dev/kmsg: {error}")))?;
    Ok(Box::new(KernelLog { fd, boot, expected, is_backlog: from_start }))
}

struct KernelLog {
    fd: AsyncFd<Kmsg>,
    boot: u128,
    /// Sequence number of the next record, where none is lost.
    expected: Option<u64>,
    /// Whether what is read was written before the log was opened.
    is_backlog: bool,
}

impl LogSource for KernelLog {
    fn summary(&self) -> String {
        "the kernel log, /dev/kmsg".into()
    }

    fn next(&mut self) -> Next<'_> {
        Box::pin(async {
            loop {
                let mut ready = self.fd.readable_mut().await?;
                match ready.get_inner_mut().read()? {
                    // Another reader had this one.
                    KmsgRead::Record(record) if self.expected.is_some_and(|expected| record.sequence < expected) => {}
                    KmsgRead::Record(record) => {
                        let written = self.is_backlog.then(|| written(&record));
                        return Ok(logged(self.boot, &mut self.expected, record, written));
                    }
                    // What was overwritten, or cannot be read, shows as a gap before the next record.
                    KmsgRead::Overwritten | KmsgRead::Malformed => {}
                    KmsgRead::Empty => {
                        self.is_backlog = false;
                        ready.clear_ready();
                    }
                }
            }
        })
    }
}

/// When a record was written, as far as the log's clock keeps step with the system's: it is not adjusted, and may be seconds off
/// after days.
fn written(record: &KmsgRecord) -> Timestamp {
    let uptime = host::uptime().as_micros();
    let ago = uptime.saturating_sub(u128::from(record.uptime_us));
    host::now().minus(std::time::Duration::from_micros(u64::try_from(ago).unwrap_or(u64::MAX)))
}

fn logged(boot: u128, expected: &mut Option<u64>, record: KmsgRecord, written: Option<Timestamp>) -> Logged {
    let lost = expected.map_or(0, |expected| record.sequence.saturating_sub(expected));
    let next = record.sequence.saturating_add(1);
    *expected = Some(next);
    // A process may write to the kernel log as well; its lines must not pass for the kernel's.
    let is_kernel = record.facility == 0;
    let record = LogRecord {
        source: if is_kernel { "kmsg" } else { "kmsg_user" },
        is_kernel,
        level: Some(record.level),
        text: record.text,
        written,
        facts: Evidence::new(),
    };
    Logged { record, lost, is_cut: false, position: Position::Record { boot, next } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;

    fn record(sequence: u64, facility: u8) -> KmsgRecord {
        KmsgRecord { level: 6, facility, sequence, uptime_us: 0, text: "x".into() }
    }

    fn read(expected: &mut Option<u64>, sequence: u64) -> u64 {
        logged(1, expected, record(sequence, 0), None).lost
    }

    fn place<'a>(host: &'a Host, begin: Begin<'a>) -> Place<'a> {
        Place { host, syslog_path: None, own_name: "sysops-agent", begin }
    }

    #[test]
    fn gaps_in_the_sequence_are_counted() {
        let mut expected = None;
        assert_eq!([7, 8, 12].map(|sequence| read(&mut expected, sequence)), [0, 0, 3]);
    }

    #[test]
    fn what_a_process_wrote_is_not_the_kernels() {
        let record = logged(1, &mut None, record(1, 1), None).record;
        assert_eq!((record.source, record.is_kernel), ("kmsg_user", false));
    }

    /// What a process writes into the log; `None` where it may not.
    fn write(text: &str) -> Option<()> {
        std::fs::write("/dev/kmsg", format!("<14>{text}\n")).ok()
    }

    #[tokio::test]
    async fn what_is_logged_between_close_and_reopen_is_read() {
        let host = Host::new(crate::config::HostRoots::default());
        let mark = |turn: u32| format!("sysops-agent test {} {turn}", std::process::id());
        let Ok(mut log) = open(&place(&host, Begin::End)) else { return };
        if write(&mark(1)).is_none() {
            return;
        }
        let first = loop {
            let logged = log.next().await.unwrap();
            assert_eq!(logged.record.written, None, "it was not there when the log was opened");
            if logged.record.text == mark(1) {
                break logged.position;
            }
        };
        drop(log);
        write(&mark(2)).unwrap();
        let Position::Record { boot, next } = first else { panic!("{first:?}") };
        let mut log = open(&place(&host, Begin::At(&first))).unwrap();
        let mut expected = next;
        loop {
            let logged = log.next().await.unwrap();
            expected += 1;
            assert_eq!(
                (logged.position, logged.lost),
                (Position::Record { boot, next: expected }, 0),
                "each once, none left out"
            );
            if logged.record.text == mark(2) {
                // It tells of the past, if only of a moment ago.
                assert!(logged.record.written.is_some_and(|written| host::now().since(written) < super::super::HISTORY));
                break;
            }
        }
        // Some of what comes after this position was overwritten, or was malformed.
        assert_eq!(read(&mut Some(next - 1), next + 4), 5);
        // The numbers of another boot mean nothing in this one.
        let other = Position::Record { boot: boot ^ 1, next: u64::MAX };
        let mut log = open(&place(&host, Begin::At(&other))).unwrap();
        write(&mark(3)).unwrap();
        while log.next().await.unwrap().record.text != mark(3) {}
    }
}
