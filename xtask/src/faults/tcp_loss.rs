//! A TCP connection between two network namespaces that loses segments.
//!
//! Each end is owned by a process of its own. The firewall of the receiving namespace drops; so the sender's segments leave,
//! never arrive, and are sent again. The host's own network isn't touched.

use std::ffi::CString;
use std::fs;
use std::mem::size_of;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result};

use super::process::{ForkedChild, pause};
use super::undo::Undo;
use super::{poll, run, unique};

/// Command name of the process that owns the sending end.
const SENDER: &str = "loss-sender";
/// Command name of the process that owns the receiving end.
const RECEIVER: &str = "loss-receiver";
const SENDER_PORT: u16 = 40_000;
const RECEIVER_PORT: u16 = 7_000;
/// Segments are sent this often.
const SEND_EVERY_MS: u32 = 5;

/// An established connection with traffic, and the means to lose it.
#[derive(Debug)]
pub struct TcpLoss {
    sender: ForkedChild,
    receiver: ForkedChild,
    receiver_namespace: String,
    _undo: Undo,
    /// The sender's address: the local one of the segments that are sent again.
    pub local: SocketAddrV4,
    /// The receiver's address.
    pub peer: SocketAddrV4,
    /// The process that owns the sender's socket.
    pub pid: u32,
    /// Its command name.
    pub comm: &'static str,
}

impl TcpLoss {
    /// Makes the namespaces and the connection; nothing is lost yet.
    ///
    /// # Errors
    /// If `ip` is missing, or the connection isn't established within 10 s.
    pub fn establish() -> Result<Self> {
        let name = unique("sysops-fault");
        let mut undo = Undo::new()?;
        let ours = format!("{name}-a");
        add_namespace(&mut undo, &ours)?;
        Self::between(undo, &name, Some(&ours))
    }

    /// The same, but the sender is in the namespace of the caller, whose counters count what it sends again. For a machine that
    /// is there for it, as its network gets another interface.
    ///
    /// # Errors
    /// As [`Self::establish`].
    pub fn establish_from_here() -> Result<Self> {
        Self::between(Undo::new()?, &unique("sysops-fault"), None)
    }

    /// From the namespace `ours`, or the caller's, to a new one.
    fn between(mut undo: Undo, name: &str, ours: Option<&str>) -> Result<Self> {
        let theirs = format!("{name}-b");
        add_namespace(&mut undo, &theirs)?;
        let (local, peer) = addresses(name);
        let ours_first: Vec<&str> = ours.map(|ours| vec!["-n", ours]).unwrap_or_default();
        let ip_ours = |arguments: &[&str]| run("ip", &[&ours_first, arguments].concat());
        let network = |address: SocketAddrV4| format!("{}/30", address.ip());
        ip_ours(&["link", "add", "loss", "type", "veth", "peer", "name", "loss", "netns", &theirs])?;
        ip_ours(&["address", "add", &network(local), "dev", "loss"])?;
        ip_ours(&["link", "set", "loss", "up"])?;
        run("ip", &["-n", &theirs, "address", "add", &network(peer), "dev", "loss"])?;
        run("ip", &["-n", &theirs, "link", "set", "loss", "up"])?;
        let receiver = spawn_receiver(&theirs, peer)?;
        let sender = spawn_sender(ours, local, peer)?;
        let loss =
            Self { pid: sender.pid(), sender, receiver, receiver_namespace: theirs, _undo: undo, local, peer, comm: SENDER };
        let connection = format!("{} {} 01 ", hex(local), hex(peer));
        poll("an established connection", Duration::from_secs(10), || {
            Ok(loss.proc_net("tcp")?.lines().any(|line| line.contains(&connection)).then_some(()))
        })?;
        Ok(loss)
    }

    /// From now on loses `tenths` of ten of the sender's segments, at random.
    ///
    /// # Errors
    /// If `nft` is missing or refuses.
    pub fn lose(&self, tenths: u8) -> Result<()> {
        let rules = format!(
            "add table inet loss; flush table inet loss; add chain inet loss input {{ type filter hook input priority 0; }}; \
             add rule inet loss input tcp dport {RECEIVER_PORT} numgen random mod 10 < {tenths} drop"
        );
        run("ip", &["netns", "exec", &self.receiver_namespace, "nft", &rules])
            .context("cannot drop segments (package nftables)")?;
        Ok(())
    }

    /// Ends the process that sends. The kernel goes on with what it has not delivered, for a socket that nobody holds any more.
    pub fn end_sender(&self) {
        self.sender.end();
    }

    /// Segments that the sender's namespace has sent again (`RetransSegs`, RFC 4022).
    ///
    /// # Errors
    /// If an end of the connection has gone.
    pub fn retransmitted(&self) -> Result<u64> {
        let text = self.proc_net("snmp")?;
        let mut tcp = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = (tcp.next().unwrap_or_default(), tcp.next().unwrap_or_default());
        let value = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "RetransSegs");
        value.and_then(|(_, value)| value.parse().ok()).context("/proc/net/snmp without RetransSegs")
    }

    fn proc_net(&self, name: &str) -> Result<String> {
        self.sender.check_alive()?;
        self.receiver.check_alive()?;
        let path = format!("/proc/{}/net/{name}", self.pid);
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

/// Two addresses of one /30 network that depend on the fault's unique name, so that two connections can be told apart.
fn addresses(name: &str) -> (SocketAddrV4, SocketAddrV4) {
    // FNV-1a: spreads names that differ in one digit.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let network = u32::from(Ipv4Addr::new(10, 128, 0, 0)) | ((hash & 0x1f_ffff) << 2);
    (SocketAddrV4::new((network | 1).into(), SENDER_PORT), SocketAddrV4::new((network | 2).into(), RECEIVER_PORT))
}

/// As `/proc/net/tcp` prints an address: the bytes as one number in the machine's order.
fn hex(address: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

fn spawn_receiver(namespace: &str, address: SocketAddrV4) -> Result<ForkedChild> {
    let (namespace, address) = (namespace_file(Some(namespace))?, raw(address));
    let (mut listener, mut connection) = (-1, -1);
    let mut buffer = [0_u8; 4096];
    // SAFETY: the step makes only system calls, on memory that it owns.
    unsafe {
        ForkedChild::fork(RECEIVER, move || {
            if listener < 0 {
                listener = socket_in(&namespace, &address);
                return listener >= 0 && libc::listen(listener, 1) == 0;
            }
            let waited_on = if connection < 0 { listener } else { connection };
            let mut readable = libc::pollfd { fd: waited_on, events: libc::POLLIN, revents: 0 };
            if libc::poll(&raw mut readable, 1, 100) <= 0 {
                return true;
            }
            if connection < 0 {
                connection = libc::accept(listener, std::ptr::null_mut(), std::ptr::null_mut());
                return connection >= 0;
            }
            libc::read(connection, buffer.as_mut_ptr().cast(), buffer.len()) > 0
        })
    }
}

fn spawn_sender(namespace: Option<&str>, local: SocketAddrV4, peer: SocketAddrV4) -> Result<ForkedChild> {
    let (namespace, local, peer) = (namespace_file(namespace)?, raw(local), raw(peer));
    let (mut socket, mut connected) = (-1, false);
    let payload = [b'x'; 256];
    // SAFETY: the step makes only system calls, on memory that it owns.
    unsafe {
        ForkedChild::fork(SENDER, move || {
            if socket < 0 {
                socket = socket_in(&namespace, &local);
                return socket >= 0;
            }
            if !connected {
                // Refused until the receiver listens.
                connected =
                    libc::connect(socket, (&raw const peer).cast(), size_of::<libc::sockaddr_in>() as libc::socklen_t) == 0;
            } else {
                // What doesn't fit into the send buffer while segments are lost waits for the next turn.
                libc::send(socket, payload.as_ptr().cast(), payload.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
            }
            pause(SEND_EVERY_MS);
            true
        })
    }
}

/// A network namespace that goes with its last process and its last name.
fn add_namespace(undo: &mut Undo, name: &str) -> Result<()> {
    run("ip", &["netns", "add", name])?;
    undo.push(format_args!("ip netns delete {name}"))
}

/// Where `ip netns` keeps the namespace; without a name the one that this process is in.
fn namespace_file(name: Option<&str>) -> Result<CString> {
    let path = name.map_or_else(|| "/proc/self/ns/net".to_owned(), |name| format!("/run/netns/{name}"));
    CString::new(path).context("a namespace with a zero byte in its name")
}

fn raw(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

/// A TCP socket of the network namespace, bound to the address; negative on failure. Safe in a forked child.
fn socket_in(namespace: &CString, address: &libc::sockaddr_in) -> libc::c_int {
    let no_delay: libc::c_int = 1;
    // SAFETY: plain system calls; every pointer is to a live value of the size that is passed with it.
    unsafe {
        let namespace = libc::open(namespace.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if namespace < 0 || libc::setns(namespace, libc::CLONE_NEWNET) != 0 {
            return -1;
        }
        libc::close(namespace);
        let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        libc::setsockopt(
            socket,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const no_delay).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
        let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        if libc::bind(socket, std::ptr::from_ref(address).cast(), length) == 0 { socket } else { -1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Trace, needs_root};

    #[test]
    fn the_sender_sends_again_what_the_receiver_lost() {
        if needs_root() {
            return;
        }
        let trace = Trace::start(&["tcp/tcp_retransmit_skb"]).unwrap();
        let loss = TcpLoss::establish().unwrap();
        assert_eq!(loss.retransmitted().unwrap(), 0, "nothing is lost yet");
        assert_eq!(fs::read_to_string(format!("/proc/{}/comm", loss.pid)).unwrap().trim_end(), loss.comm);
        loss.lose(3).unwrap();
        poll("five retransmitted segments", Duration::from_secs(20), || Ok((loss.retransmitted()? >= 5).then_some(()))).unwrap();
        let (from, to) = (format!("saddr={} ", loss.local.ip()), format!("daddr={} ", loss.peer.ip()));
        let event =
            trace.wait_for(Duration::from_secs(5), |seen| seen.fields.contains(&from) && seen.fields.contains(&to)).unwrap();
        assert!(event.fields.contains("sport=40000 dport=7000 "), "{event:?}");
        let (namespace, pid) = (loss.receiver_namespace.clone(), loss.pid);
        drop(loss);
        assert!(!run("ip", &["netns", "list"]).unwrap().contains(&namespace));
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
