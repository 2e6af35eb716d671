//! How many TCP sockets there are by state, as PID 1 sees them.
//!
//! The kernel counts connections that are established or in TIME-WAIT; sockets in the other states have to be walked. sock_diag(7)
//! leaves out what is not asked for, so that a million established connections cost nothing but the walk over their hash
//! table. It answers for the network namespace of this process alone. Where PID 1 is in another one, and where the kernel has no
//! sock_diag, `/proc/PID/net/tcp` is read instead, up to a limit: it writes a line for every single connection.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{PROC_SUPER_MAGIC, statfs};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

use super::Host;

/// State numbers run from 1 to 12 (include/net/tcp_states.h).
const STATES: usize = 13;
const ESTABLISHED: u32 = 1;
const TIME_WAIT: u32 = 6;

/// Most sockets that are counted; beyond that the counts are lower bounds.
const MAX_SOCKETS: u64 = 200_000;
/// Longest that is counted.
const BUDGET: Duration = Duration::from_millis(500);
/// Most that is read of `/proc/PID/net/tcp`: about 14,000 connections.
const MAX_TEXT: usize = 2 << 20;
const CHUNK: usize = 64 << 10;

/// The counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpStates {
    by_state: [u64; STATES],
    /// Whether there may be more sockets than were counted.
    pub cut: bool,
}

impl TcpStates {
    /// Sockets in the state with this number (include/net/tcp_states.h).
    pub fn count(&self, state: usize) -> u64 {
        self.by_state.get(state).copied().unwrap_or_default()
    }

    fn add(&mut self, state: usize) {
        if let Some(count) = self.by_state.get_mut(state) {
            *count += 1;
        }
    }

    fn total(&self) -> u64 {
        self.by_state.iter().sum()
    }

    /// What one datagram of the kernel's answer says, for the fuzz targets: only the kernel could hand it in otherwise.
    ///
    /// # Errors
    /// It is garbled.
    #[cfg(fuzzing)]
    pub fn of_answer(bytes: &[u8]) -> io::Result<Self> {
        let mut states = Self::default();
        parse_answer(bytes, &mut states).map(|_| states)
    }
}

impl Host {
    /// Counts the TCP sockets of PID 1's network namespace, both address families. Those that are established or in TIME-WAIT may
    /// be left out. Takes up to half a second on a host with very many; only call it where waiting is allowed.
    ///
    /// # Errors
    /// Neither sock_diag nor `/proc/PID/net/tcp` can be asked.
    pub fn tcp_states(&self) -> io::Result<TcpStates> {
        let table = self.procfs_of_init("net/tcp");
        if is_own_namespace(&table)
            && let Ok(states) = ask_kernel()
        {
            return Ok(states);
        }
        let mut states = TcpStates::default();
        read_table(&table, &mut states)?;
        // There is no such file where IPv6 is switched off.
        match read_table(&self.procfs_of_init("net/tcp6"), &mut states) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(states),
        }
    }
}

/// Whether a file below `/proc/PID/net` belongs to the network namespace of this process. Each namespace has inodes of its own;
/// reading the link `/proc/1/ns/net` would take a privilege.
fn is_own_namespace(file: &Path) -> bool {
    let inode = |path: &Path| path.metadata().map(|metadata| metadata.ino()).ok();
    let is_procfs = statfs(file).is_ok_and(|system| system.f_type == PROC_SUPER_MAGIC);
    is_procfs && inode(file).is_some_and(|own| inode(Path::new("/proc/self/net/tcp")) == Some(own))
}

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The request of Linux 2.6, which alone takes both address families in one walk over the hash table (net/ipv4/inet_diag.c).
const TCPDIAG_GETSOCK: u16 = 18;
/// `NLM_F_REQUEST | NLM_F_DUMP`
const FLAGS: u16 = 0x301;
const HEADER: usize = 16;

/// Counts through sock_diag, but for sockets that are established or in TIME-WAIT.
fn ask_kernel() -> io::Result<TcpStates> {
    let begun = Instant::now();
    let mut states = TcpStates::default();
    let mut buffer = vec![0; CHUNK];
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    send(&socket, &request(), SendFlags::empty())?;
    loop {
        let (len, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        if parse_answer(buffer.get(..len).unwrap_or_default(), &mut states)? {
            return Ok(states);
        }
        if states.total() >= MAX_SOCKETS || begun.elapsed() > BUDGET {
            states.cut = true;
            return Ok(states);
        }
    }
}

/// `struct nlmsghdr` (netlink(7)) and `struct inet_diag_req` (include/uapi/linux/inet_diag.h), in the host's byte order.
fn request() -> Vec<u8> {
    const LEN: usize = HEADER + 60;
    /// Of the family, lengths of prefixes and extensions, and of the addresses: none and any.
    const BEFORE_STATES: usize = HEADER + 52;
    let wanted = !(1_u32 << ESTABLISHED | 1 << TIME_WAIT);
    let mut bytes = Vec::with_capacity(LEN);
    bytes.extend(u32::try_from(LEN).unwrap_or_default().to_ne_bytes());
    bytes.extend(TCPDIAG_GETSOCK.to_ne_bytes());
    bytes.extend(FLAGS.to_ne_bytes());
    bytes.resize(BEFORE_STATES, 0);
    bytes.extend(wanted.to_ne_bytes());
    bytes.resize(LEN, 0);
    bytes
}

/// Counts the sockets of one datagram of the answer; says whether the answer is complete.
fn parse_answer(mut bytes: &[u8], states: &mut TcpStates) -> io::Result<bool> {
    let garbled = || io::Error::new(ErrorKind::InvalidData, "the kernel's answer to sock_diag is garbled");
    while !bytes.is_empty() {
        let (len, rest) = bytes.split_first_chunk().ok_or_else(garbled)?;
        let (kind, _) = rest.split_first_chunk().ok_or_else(garbled)?;
        let len = usize::try_from(u32::from_ne_bytes(*len)).map_err(|_| garbled())?;
        let message = bytes.get(HEADER..len).ok_or_else(garbled)?;
        match u16::from_ne_bytes(*kind) {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = message.first_chunk().map(|code| i32::from_ne_bytes(*code));
                return Err(io::Error::from_raw_os_error(code.and_then(i32::checked_neg).unwrap_or_default()));
            }
            // Family and state begin `struct inet_diag_msg`.
            TCPDIAG_GETSOCK => states.add(message.get(1).copied().ok_or_else(garbled)?.into()),
            _ => {}
        }
        // Messages begin at multiples of four.
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Adds what a table like `/proc/PID/net/tcp` says (Documentation/networking/proc_net_tcp.rst).
fn read_table(path: &Path, states: &mut TcpStates) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; CHUNK];
    let (mut held, mut read) = (0, 0);
    loop {
        let Some(free) = buffer.get_mut(held..).filter(|free| !free.is_empty()) else {
            return Err(io::Error::new(ErrorKind::InvalidData, format!("{} has an endless line", path.display())));
        };
        let more = match file.read(free) {
            Ok(0) => return Ok(()),
            Ok(more) => more,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        held += more;
        read += more;
        let text = buffer.get(..held).unwrap_or_default();
        // What follows the last line end is the beginning of a line.
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        for line in text.get(..whole).unwrap_or_default().split(|&byte| byte == b'\n') {
            if let Some(state) = parse_entry(line) {
                states.add(state);
            }
        }
        buffer.copy_within(whole..held, 0);
        held -= whole;
        if read >= MAX_TEXT {
            states.cut = true;
            return Ok(());
        }
    }
}

/// The state of `   0: 0100007F:1F90 0100007F:A3B4 01 …`; `None` for the line of names.
fn parse_entry(line: &[u8]) -> Option<usize> {
    let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
    if fields.next()?.last() != Some(&b':') {
        return None;
    }
    usize::from_str_radix(std::str::from_utf8(fields.nth(2)?).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::config::HostRoots;

    const LISTEN: usize = 10;

    /// One message of a dump.
    fn message(kind: u16, content: &[u8]) -> Vec<u8> {
        let len = u32::try_from(HEADER + content.len()).unwrap();
        let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], content].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn answers_are_counted_by_state() {
        let mut states = TcpStates::default();
        let listening = message(TCPDIAG_GETSOCK, &[2, 10, 0, 0, 7]);
        let closing = message(TCPDIAG_GETSOCK, &[10, 8]);
        assert!(!parse_answer(&[listening.clone(), closing, listening].concat(), &mut states).unwrap());
        assert!(parse_answer(&message(NLMSG_DONE, &[0; 4]), &mut states).unwrap());
        assert_eq!((states.count(LISTEN), states.count(8), states.total()), (2, 1, 3));

        let refused = parse_answer(&message(NLMSG_ERROR, &(-2_i32).to_ne_bytes()), &mut states).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_garbled_answer_is_an_error() {
        let sound = message(TCPDIAG_GETSOCK, &[2, 10, 0, 0]);
        for cut in 1..sound.len() {
            assert!(parse_answer(&sound[..cut], &mut TcpStates::default()).is_err());
        }
        for len in [0, 1, 15, u32::MAX] {
            let mut bytes = sound.clone();
            bytes[..4].copy_from_slice(&len.to_ne_bytes());
            assert!(parse_answer(&bytes, &mut TcpStates::default()).is_err());
        }
    }

    #[test]
    fn tables_are_read_beyond_one_chunk_and_not_beyond_the_limit() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let line = "   1: 0100007F:1F90 0200007F:A3B4 08 00000000:00000000 00:00000000 00000000  0  0 12345 1 0 20 4 30 10 -1\n";
        let write = |file: &mut tempfile::NamedTempFile, lines: usize| {
            std::fs::write(&mut *file, format!("  sl  local_address rem_address   st\n{}", line.repeat(lines))).unwrap();
            let mut states = TcpStates::default();
            read_table(file.path(), &mut states).unwrap();
            states
        };
        let states = write(&mut file, 2000);
        assert_eq!((states.count(8), states.total(), states.cut), (2000, 2000, false));
        assert!(write(&mut file, 30_000).cut);
    }

    #[test]
    fn both_ways_see_this_machine_alike() {
        let _listeners = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
        // One of the other family, where the machine has it.
        let _listener = TcpListener::bind("[::1]:0");
        let host = Host::new(HostRoots::default());
        assert!(is_own_namespace(&host.procfs("self/net/tcp")));
        // Others open and close sockets as well.
        let agree = (0..1000).any(|_| {
            let mut read = TcpStates::default();
            let before = ask_kernel().unwrap();
            read_table(&host.procfs("self/net/tcp"), &mut read).unwrap();
            let _ = read_table(&host.procfs("self/net/tcp6"), &mut read);
            before.count(LISTEN) >= 2 && before.count(LISTEN) == read.count(LISTEN)
        });
        assert!(agree, "sock_diag and /proc/net/tcp never agreed on the number of listeners");
    }
}
