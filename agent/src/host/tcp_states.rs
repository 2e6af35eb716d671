//! How many TCP sockets there are by state, as PID 1 sees them.
//!
//! The kernel counts connections that are established or in TIME-WAIT; sockets in the other states have to be walked. sock_diag(7)
//! leaves out what is not asked for, so that a million established connections cost nothing but the two walks over their hash
//! table, one for each address family. It answers for the network namespace of this process alone. Where PID 1 is in another one, and where the kernel has no
//! sock_diag, `/proc/PID/net/tcp` is read instead, up to a limit: it writes a line for every single connection.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, Parseable,
};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, IPPROTO_TCP, SOCK_DIAG_BY_FAMILY, SockDiagMessage};
use rustix::fs::{PROC_SUPER_MAGIC, statfs};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

use super::Host;

/// State numbers run from 1 to 12 (include/net/tcp_states.h).
const STATES: usize = 13;

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

/// Counts through sock_diag, but for sockets that are established or in TIME-WAIT.
fn ask_kernel() -> io::Result<TcpStates> {
    let begun = Instant::now();
    let mut states = TcpStates::default();
    let mut buffer = vec![0; CHUNK];
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        send(&socket, &request(family, any), SendFlags::empty())?;
        loop {
            let (len, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            if parse_answer(buffer.get(..len).unwrap_or_default(), &mut states)? {
                break;
            }
            if states.total() >= MAX_SOCKETS || begun.elapsed() > BUDGET {
                states.cut = true;
                return Ok(states);
            }
        }
    }
    Ok(states)
}

/// Asks for a dump of the TCP sockets of one address family. The kernel knows no request for both.
fn request(family: u8, any: SocketId) -> Vec<u8> {
    let wanted = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: !(StateFlags::ESTABLISHED | StateFlags::TIME_WAIT),
        socket_id: any,
    };
    let mut message = NetlinkMessage::from(SockDiagMessage::InetRequest(wanted));
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// What is read of a socket: the attributes behind the header are left alone.
struct Socket {
    state: u8,
}

impl NetlinkDeserializable for Socket {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        if header.message_type != SOCK_DIAG_BY_FAMILY {
            return Err(DecodeError::from("it is no socket"));
        }
        InetResponseHeader::parse(payload).map(|socket| Self { state: socket.state })
    }
}

/// Counts the sockets of one datagram of the answer; says whether the answer is complete.
fn parse_answer(mut bytes: &[u8], states: &mut TcpStates) -> io::Result<bool> {
    let garbled =
        |why: &str| io::Error::new(ErrorKind::InvalidData, format!("the kernel's answer to sock_diag is garbled: {why}"));
    // `ErrorMessage::to_io` overflows on the least code.
    let refused = |code: i32| io::Error::from_raw_os_error(code.checked_neg().unwrap_or_default());
    while !bytes.is_empty() {
        let message = NetlinkMessage::<Socket>::deserialize(bytes).map_err(|error| garbled(&error.to_string()))?;
        match message.payload {
            NetlinkPayload::InnerMessage(socket) => states.add(socket.state.into()),
            // A walk that failed ends with an error's number.
            NetlinkPayload::Done(done) if done.code < 0 => return Err(refused(done.code)),
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(refused(error.raw_code())),
            NetlinkPayload::Overrun(_) => return Err(garbled("messages were lost")),
            _ => {}
        }
        // Messages begin at multiples of four.
        let len = usize::try_from(message.header.length).map_err(|_| garbled("a message is too long"))?;
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

    const HEADER: usize = 16;
    const DONE: u16 = 3;
    const ERROR: u16 = 2;

    /// One message of a dump.
    fn message(kind: u16, content: &[u8]) -> Vec<u8> {
        let len = u32::try_from(HEADER + content.len()).unwrap();
        let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], content].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// One socket of a dump: `struct inet_diag_msg`, which family and state begin, and an attribute (`INET_DIAG_MARK`).
    fn socket(family: u8, state: u8) -> Vec<u8> {
        message(SOCK_DIAG_BY_FAMILY, &[&[family, state][..], &[0; 70], &[8, 0, 15, 0, 0, 0, 0, 0]].concat())
    }

    #[test]
    fn the_request_is_the_one_of_sock_diag() {
        let bytes = request(AF_INET6, SocketId::new_v6());
        let head = [&72_u32.to_ne_bytes()[..], &20_u16.to_ne_bytes(), &0x301_u16.to_ne_bytes(), &[0; 8]].concat();
        // States from 1 to 11, without ESTABLISHED (1) and TIME-WAIT (6).
        let wanted = [&[10, 6, 0, 0][..], &0b1111_1011_1100_u32.to_ne_bytes(), &[0; 48]].concat();
        assert_eq!(bytes, [head, wanted].concat());
    }

    #[test]
    fn answers_are_counted_by_state() {
        let mut states = TcpStates::default();
        assert!(!parse_answer(&[socket(AF_INET, 10), socket(AF_INET6, 8), socket(AF_INET, 10)].concat(), &mut states).unwrap());
        assert!(parse_answer(&message(DONE, &[0; 4]), &mut states).unwrap());
        assert_eq!((states.count(LISTEN), states.count(8), states.total()), (2, 1, 3));

        for kind in [ERROR, DONE] {
            let refused = parse_answer(&message(kind, &(-2_i32).to_ne_bytes()), &mut states).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::NotFound);
            assert!(parse_answer(&message(kind, &i32::MIN.to_ne_bytes()), &mut states).is_err());
        }
    }

    #[test]
    fn a_garbled_answer_is_an_error() {
        let sound = socket(AF_INET, 10);
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
    fn no_mangled_answer_panics() {
        let sound = [socket(AF_INET, 10), socket(AF_INET6, 1), message(ERROR, &[0xfe, 0xff, 0xff, 0xff]), message(DONE, &[0; 4])]
            .concat();
        for place in 0..sound.len() {
            for byte in 0..=u8::MAX {
                let mut bytes = sound.clone();
                bytes[place] = byte;
                let _ = parse_answer(&bytes, &mut TcpStates::default());
                let _ = parse_answer(&bytes[place..], &mut TcpStates::default());
            }
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
