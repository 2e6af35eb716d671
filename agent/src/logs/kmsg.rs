//! The kernel log, from the moment the agent starts.

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{LogSource, Logged, Next};
use crate::host::{Host, Kmsg, KmsgRead, KmsgRecord, Unavailable};
use crate::model::{Evidence, LogRecord};

/// Opens the kernel log at its end.
pub fn open(host: &Host) -> Result<Box<dyn LogSource>, Unavailable> {
    let unreadable =
        |why: String| Unavailable::new(why, "run as root, or with CAP_SYSLOG; a container needs the device /dev/kmsg");
    let kmsg = Kmsg::open_at_end(host).map_err(|error| unreadable(error.to_string()))?;
    // SAFETY: the descriptor is the one of the file that `Kmsg` owns and never replaces.
    let fd = unsafe { AsyncFd::register_with_interest(kmsg, Interest::READABLE) }
        .map_err(|error| unreadable(format!("cannot wait for /dev/kmsg: {error}")))?;
    Ok(Box::new(KernelLog { fd, expected: None }))
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
                    KmsgRead::Record(record) => return Ok(logged(&mut self.expected, record)),
                    // What was overwritten shows as a gap before the next record.
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
}
