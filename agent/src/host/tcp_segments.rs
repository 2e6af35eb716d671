//! How many segments a TCP connection of this process' network namespace has sent, and how many of them again (sock_diag(7)).

use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

use super::Host;

/// Where `tcpi_total_retrans` and `tcpi_segs_out` stand in `struct tcp_info` (include/uapi/linux/tcp.h), which only grows at its end.
const TOTAL_RETRANS: usize = 100;
const SEGS_OUT: usize = 136;

/// Segments of a connection since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSegments {
    /// Sent, those sent again included. Wraps at 2^32.
    pub sent: u32,
    /// Sent again. Wraps at 2^32.
    pub again: u32,
}

impl Host {
    /// The segments of a connection; `None` where it is in another network namespace or gone, or before Linux 4.2.
    pub fn tcp_segments(&self, local: SocketAddr, remote: SocketAddr) -> Option<TcpSegments> {
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG)).ok()?;
        send(&socket, &request(local, remote), SendFlags::empty()).ok()?;
        let mut buffer = [0; 4096];
        let (len, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT).ok()?;
        parse(buffer.get(..len)?, remote)
    }
}

fn request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let (family, any) = match local.ip() {
        IpAddr::V4(_) => (AF_INET, SocketId::new_v4()),
        IpAddr::V6(_) => (AF_INET6, SocketId::new_v6()),
    };
    let socket_id = SocketId {
        source_port: local.port(),
        destination_port: remote.port(),
        source_address: local.ip(),
        destination_address: remote.ip(),
        cookie: [0xff; 8],
        ..any
    };
    let states = StateFlags::all();
    let wanted = InetRequest { family, protocol: IPPROTO_TCP, extensions: ExtensionFlags::INFO, states, socket_id };
    let mut message = NetlinkMessage::from(SockDiagMessage::InetRequest(wanted));
    message.header.flags = NLM_F_REQUEST;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn parse(answer: &[u8], remote: SocketAddr) -> Option<TcpSegments> {
    let message = NetlinkMessage::<SockDiagMessage>::deserialize(answer).ok()?;
    let NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) = message.payload else { return None };
    // Where there is no such connection, whoever listens on its port answers.
    if response.header.socket_id.destination_port != remote.port() {
        return None;
    }
    let info = response.nlas.iter().find_map(|nla| match nla {
        Nla::TcpInfo(info) => Some(info.as_slice()),
        _ => None,
    })?;
    let number = |at: usize| Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?));
    Some(TcpSegments { sent: number(SEGS_OUT)?, again: number(TOTAL_RETRANS)? })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::config::HostRoots;

    #[test]
    fn the_segments_of_a_real_connection_are_counted() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut other, _) = listener.accept().unwrap();
            let host = Host::new(HostRoots::default());
            let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            let before = host.tcp_segments(local, remote).unwrap();
            for _ in 0..20 {
                stream.write_all(b"x").unwrap();
                other.read_exact(&mut [0]).unwrap();
            }
            let after = host.tcp_segments(local, remote).unwrap();
            assert!(after.sent >= before.sent + 20, "{before:?} {after:?}");
            assert_eq!(after.again, 0);
            assert_eq!(host.tcp_segments(remote, "203.0.113.7:9".parse().unwrap()), None, "there is no such connection");
        }
    }

    #[test]
    fn no_answer_panics() {
        let (local, remote) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        let request = request(local, remote);
        for at in 0..request.len() {
            let _ = parse(&request[..at], remote);
            for byte in 0..=255 {
                let mut garbled = request.clone();
                garbled[at] = byte;
                let _ = parse(&garbled, remote);
            }
        }
    }
}
