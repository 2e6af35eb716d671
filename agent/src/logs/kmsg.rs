//! The kernel log, from the moment the agent starts.

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{LogSource, Logged, Next, Opened};
use crate::host::{Host, Kmsg, KmsgRead, KmsgRecord, Unavailable};
use crate::model::{Evidence, LogRecord};

/// Opens the kernel log, at its end or where another reader stopped.
pub fn open(host: &Host, at: Option<u64>) -> Opened {
    let unreadable =
        |why: String| Unavailable::new(why, "run as root, or with CAP_SYSLOG; a container needs the device /dev/kmsg");
    let kmsg = if at.is_some() { Kmsg::open_at_start(host) } else { Kmsg::open_at_end(host) };
    let kmsg = kmsg.map_err(|error| unreadable(error.to_string()))?;
    // SAFETY: the descriptor is the one of the file that `Kmsg` owns and never replaces.
    let fd = unsafe { AsyncFd::register_with_interest(kmsg, Interest::READABLE) }
        .map_err(|error| unreadable(format!("cannot wait for /dev/kmsg: {error}")))?;
    Ok(Box::new(KernelLog { fd, expected: at }))
}

struct KernelLog {
    fd: AsyncFd<Kmsg>,
    /// Sequence number of the next record, where none is lost.
    expected: Option<u64>,
}

impl LogSource for KernelLog {
    fn next(&mut self) -> Next<'_> {
        Box::pin(async {
            loop {
                let mut ready = self.fd.readable_mut().await?;
                match ready.get_inner_mut().read()? {
                    // Another reader had this one.
                    KmsgRead::Record(record) if self.expected.is_some_and(|expected| record.sequence < expected) => {}
                    KmsgRead::Record(record) => return Ok(logged(&mut self.expected, record)),
                    // What was overwritten, or cannot be read, shows as a gap before the next record.
                    KmsgRead::Overwritten | KmsgRead::Malformed => {}
                    KmsgRead::Empty => ready.clear_ready(),
                }
            }
        })
    }
}

fn logged(expected: &mut Option<u64>, record: KmsgRecord) -> Logged {
    let lost = expected.map_or(0, |expected| record.sequence.saturating_sub(expected));
    *expected = Some(record.sequence.saturating_add(1));
    // A process may write to the kernel log as well; its lines must not pass for the kernel's.
    let source = if record.facility == 0 { "kmsg" } else { "kmsg_user" };
    let record = LogRecord {
        source,
        level: Some(record.level),
        sequence: Some(record.sequence),
        text: record.text,
        facts: Evidence::new(),
    };
    Logged { record, lost }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sequence: u64, facility: u8) -> KmsgRecord {
        KmsgRecord { level: 6, facility, sequence, uptime_us: 0, text: "x".into() }
    }

    #[test]
    fn gaps_in_the_sequence_are_counted() {
        let mut expected = None;
        assert_eq!(logged(&mut expected, record(7, 0)).lost, 0);
        assert_eq!(logged(&mut expected, record(8, 0)).lost, 0);
        assert_eq!(logged(&mut expected, record(12, 0)).lost, 3);
    }

    #[test]
    fn what_a_process_wrote_is_not_the_kernels() {
        assert_eq!(logged(&mut None, record(1, 1)).record.source, "kmsg_user");
    }

    /// What a process writes into the log; `None` where it may not.
    fn write(text: &str) -> Option<()> {
        std::fs::write("/dev/kmsg", format!("<14>{text}\n")).ok()
    }

    #[tokio::test]
    async fn what_is_logged_between_close_and_reopen_is_read() {
        let host = Host::new(crate::config::HostRoots::default());
        let mark = |turn: u32| format!("sysops-agent test {} {turn}", std::process::id());
        let Ok(mut log) = open(&host, None) else { return };
        let mut first = None;
        if write(&mark(1)).is_none() {
            return;
        }
        while first.is_none() {
            let logged = log.next().await.unwrap();
            first = (logged.record.text == mark(1)).then_some(logged.record.sequence);
        }
        drop(log);
        write(&mark(2)).unwrap();
        let next = first.flatten().unwrap() + 1;
        let mut log = open(&host, Some(next)).unwrap();
        let mut expected = next;
        loop {
            let logged = log.next().await.unwrap();
            assert_eq!((logged.record.sequence, logged.lost), (Some(expected), 0), "each once, none left out");
            expected += 1;
            if logged.record.text == mark(2) {
                break;
            }
        }
        // Some of what comes after this position was overwritten, or was malformed.
        let mut position = Some(next - 1);
        assert_eq!(logged(&mut position, record(next + 4, 0)).lost, 5);
    }
}
