//! The kernel log, record by record (Documentation/ABI/testing/dev-kmsg).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use super::{Host, ReadError};

/// A record with its dictionary does not exceed this (`CONSOLE_EXT_LOG_MAX` and `PRINTKRB_RECORD_MAX` of the kernel).
const MAX_RECORD: usize = 8192;

/// An open `/dev/kmsg`, which never waits.
#[derive(Debug)]
pub struct Kmsg {
    file: File,
    buffer: Box<[u8; MAX_RECORD]>,
}

/// One record of the kernel log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsgRecord {
    /// Severity, 0 (emergency) to 7 (debug).
    pub level: u8,
    /// Syslog facility; 0 is the kernel itself, anything else was written by a process.
    pub facility: u8,
    /// Number of the record since boot.
    pub sequence: u64,
    /// Microseconds since boot.
    pub uptime_us: u64,
    /// The message, without its dictionary.
    pub text: String,
}

/// What a read of the log brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KmsgRead {
    /// A record.
    Record(KmsgRecord),
    /// Records were overwritten before they were read; the gap in the sequence tells how many.
    Overwritten,
    /// A record that is not in the documented form, and was passed over.
    Malformed,
    /// Nothing more for now.
    Empty,
}

impl Kmsg {
    /// Opens the log behind its last record: what is logged from now on will be read.
    ///
    /// # Errors
    /// There is no such device, or it may not be read: with `kernel.dmesg_restrict=1` that takes CAP_SYSLOG.
    pub fn open_at_end(host: &Host) -> Result<Self, ReadError> {
        Self::open(host, SeekFrom::End(0))
    }

    /// Opens the log at the oldest record that is still there.
    ///
    /// # Errors
    /// As [`Self::open_at_end`].
    pub fn open_at_start(host: &Host) -> Result<Self, ReadError> {
        Self::open(host, SeekFrom::Start(0))
    }

    fn open(host: &Host, from: SeekFrom) -> Result<Self, ReadError> {
        let path = host.rootfs("/dev/kmsg");
        let open = || {
            let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(&path)?;
            file.seek(from)?;
            Ok(file)
        };
        match open() {
            Ok(file) => Ok(Self { file, buffer: Box::new([0; MAX_RECORD]) }),
            Err(cause) => Err(ReadError { path, cause }),
        }
    }

    /// Reads the next record.
    ///
    /// # Errors
    /// The device failed in a way that reading on will not cure.
    pub fn read(&mut self) -> io::Result<KmsgRead> {
        loop {
            let error = match self.file.read(self.buffer.as_mut_slice()) {
                Ok(0) => return Ok(KmsgRead::Empty),
                Ok(len) => {
                    let record = self.buffer.get(..len).and_then(parse);
                    return Ok(record.map_or(KmsgRead::Malformed, KmsgRead::Record));
                }
                Err(error) => error,
            };
            return match error.raw_os_error() {
                Some(libc::EAGAIN) => Ok(KmsgRead::Empty),
                Some(libc::EPIPE) => Ok(KmsgRead::Overwritten),
                // The record does not fit: it was skipped by the kernel.
                Some(libc::EINVAL) => Ok(KmsgRead::Malformed),
                Some(libc::EINTR) => continue,
                _ => Err(error),
            };
        }
    }
}

impl AsRawFd for Kmsg {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// `6,1234,56789,-;text`, further lines starting with a space are the dictionary.
fn parse(bytes: &[u8]) -> Option<KmsgRecord> {
    let text = String::from_utf8_lossy(bytes);
    let (prefix, rest) = text.split_once(';')?;
    let mut fields = prefix.split(',');
    let priority: u16 = fields.next()?.parse().ok()?;
    let (sequence, uptime_us) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(KmsgRecord {
        level: u8::try_from(priority & 7).ok()?,
        facility: u8::try_from(priority >> 3).ok()?,
        sequence,
        uptime_us,
        text: rest.lines().next().unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_split_into_its_parts() {
        let record = parse(b"6,339,5140900,-;NET: Registered; protocol family 10\n SUBSYSTEM=net\n").unwrap();
        assert_eq!((record.level, record.facility, record.sequence, record.uptime_us), (6, 0, 339, 5_140_900));
        assert_eq!(record.text, "NET: Registered; protocol family 10");
        assert_eq!(parse(b"12,1,2,-,caller=T1;x").map(|record| record.facility), Some(1));
    }

    #[test]
    fn what_is_not_a_record_is_none() {
        for bytes in [&b""[..], b"6,1", b"a,b,c,d;x", b"6;x", b"\xff\xfe;", b"99999,1,1,-;x"] {
            assert_eq!(parse(bytes), None, "{bytes:?}");
        }
    }
}
