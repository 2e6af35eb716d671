//! Who owns a TCP socket, in whichever network namespace it is (`/proc/PID/net/tcp`, Documentation/networking/proc_net_tcp.rst).
//!
//! The table of a namespace gives a connection's inode; whoever has a descriptor of that inode owns it. Through
//! `/proc/PID/net` this works for all namespaces without entering them.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Host;

/// The process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOwner {
    /// Its process id.
    pub pid: u32,
    /// Its command name.
    pub comm: String,
    /// Its cgroup.
    pub cgroup: Option<String>,
    /// The socket.
    pub inode: u64,
    /// Bytes that wait to be sent or acknowledged, when it was looked up.
    pub send_queue: u64,
}

/// A connection that waits for the answer to segments that it has sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retransmitting {
    /// Its local end.
    pub local: SocketAddr,
    /// Its remote end.
    pub remote: SocketAddr,
    /// How often in a row its timer has expired.
    pub timeouts: u64,
    /// Who holds it.
    pub owner: Option<SocketOwner>,
}

/// Most bytes of a table that are looked at for connections that send again: 100,000 connections or so.
const MAX_TABLE: u64 = 16 << 20;

/// One line of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    local: SocketAddr,
    remote: SocketAddr,
    inode: u64,
    send_queue: u64,
}

impl Host {
    /// The process that holds the connection. Looks through every network namespace that a process is in, and then through
    /// the descriptors of the processes in the right one.
    pub fn socket_owner(&self, local: SocketAddr, remote: SocketAddr) -> Option<SocketOwner> {
        let mut namespaces = HashSet::new();
        for pid in self.pids() {
            let Some(namespace) = self.process(pid).network_namespace() else { continue };
            if !namespaces.insert(namespace.clone()) {
                continue;
            }
            let found = self.tcp_table(pid).into_iter().find(|entry| entry.local == local && entry.remote == remote);
            // An inode of zero is a connection that nobody holds any more.
            if let Some(Entry { inode: inode @ 1.., send_queue, .. }) = found {
                return self.holder(inode, send_queue, &namespace);
            }
        }
        None
    }

    /// The remote ends of those of `inodes` that are TCP connections in the network namespace of process `pid`.
    pub fn tcp_peers(&self, pid: u32, inodes: &[u64]) -> Vec<SocketAddr> {
        if inodes.is_empty() {
            return Vec::new();
        }
        let inodes: HashSet<u64> = inodes.iter().copied().collect();
        let connected = |entry: &Entry| entry.remote.port() != 0 && inodes.contains(&entry.inode);
        self.tcp_table(pid).into_iter().filter(connected).map(|entry| entry.remote).collect()
    }

    /// Connections in the network namespace of PID 1 that have segments on the way a second time: up to `most` of them, and how
    /// many there are. Reads the whole table, and may wait.
    pub fn retransmitting(&self, most: usize) -> (Vec<Retransmitting>, usize) {
        let (mut found, mut count) = (Vec::new(), 0);
        for table in ["net/tcp", "net/tcp6"] {
            let Ok(file) = std::fs::File::open(self.procfs_of_init(table)) else { continue };
            let lines = BufReader::new(file.take(MAX_TABLE)).lines().map_while(Result::ok);
            for (Entry { local, remote, inode, send_queue }, timeouts) in lines.filter_map(|line| parse_retransmitting(&line)) {
                count += 1;
                if found.len() < most {
                    found.push((Retransmitting { local, remote, timeouts, owner: None }, inode, send_queue));
                }
            }
        }
        let namespace = self.process(1).network_namespace().unwrap_or_default();
        let owned = found.into_iter().map(|(connection, inode, send_queue)| {
            // An inode of zero is a connection that nobody holds any more.
            let owner = if inode == 0 { None } else { self.holder(inode, send_queue, &namespace) };
            Retransmitting { owner, ..connection }
        });
        (owned.collect(), count)
    }

    fn holder(&self, inode: u64, send_queue: u64, namespace: &str) -> Option<SocketOwner> {
        // A socket may have been handed to a process in another namespace, so those come second.
        let (near, far): (Vec<u32>, Vec<u32>) =
            self.pids().partition(|pid| self.process(*pid).network_namespace().as_deref() == Some(namespace));
        let pid = near.into_iter().chain(far).find(|pid| self.process(*pid).holds_socket(inode))?;
        let process = self.process(pid);
        Some(SocketOwner { pid, comm: process.comm()?, cgroup: process.cgroup("memory"), inode, send_queue })
    }

    fn tcp_table(&self, pid: u32) -> Vec<Entry> {
        let process = self.process(pid);
        let mut entries = Vec::new();
        for file in ["net/tcp", "net/tcp6"] {
            entries.extend(process.text(file).iter().flat_map(|text| text.lines()).filter_map(parse_entry));
        }
        entries
    }
}

/// `   0: 0100007F:1F90 0100007F:A3B4 01 00000000:00000000 00:00000000 00000000     0        0 12345 1 …`
fn parse_entry(line: &str) -> Option<Entry> {
    let mut fields = line.split_whitespace();
    let (local, remote) = (parse_end(fields.nth(1)?)?, parse_end(fields.next()?)?);
    let (send_queue, _) = fields.nth(1)?.split_once(':')?;
    let send_queue = u64::from_str_radix(send_queue, 16).ok()?;
    Some(Entry { local, remote, inode: fields.nth(4)?.parse().ok()?, send_queue })
}

/// An entry whose field `retrnsmt` is not zero, and that number.
fn parse_retransmitting(line: &str) -> Option<(Entry, u64)> {
    let timeouts = u64::from_str_radix(line.split_whitespace().nth(6)?, 16).ok().filter(|timeouts| *timeouts > 0)?;
    Some((parse_entry(line)?, timeouts))
}

/// An address in words of 32 bits, each in the host's byte order, and a port.
fn parse_end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let words: Option<Vec<[u8; 4]>> = address
        .as_bytes()
        .chunks(8)
        .map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok().map(u32::to_ne_bytes))
        .collect();
    let address = match words?.as_slice() {
        [v4] => IpAddr::V4(Ipv4Addr::from(*v4)),
        v6 => {
            let bytes: [u8; 16] = v6.concat().try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn both_families_are_read_and_mapped_addresses_become_ipv4() {
        let v4 = "   1: 0100007F:1F90 0200007F:A3B4 01 00000000:00000000 00:00000000 00000000  0  0 12345 1 0 20 4 30 10 -1";
        let entry = parse_entry(v4).unwrap();
        assert_eq!((entry.local.to_string().as_str(), entry.remote.to_string().as_str()), ("127.0.0.1:8080", "127.0.0.2:41908"));
        assert_eq!(entry.inode, 12345);
        let mapped = "0000000000000000FFFF00000100007F:1F90";
        assert_eq!(parse_end(mapped).unwrap().to_string(), "127.0.0.1:8080");
        assert_eq!(parse_end("00000000000000000000000001000000:0050").unwrap().to_string(), "[::1]:80");
    }

    #[test]
    fn what_is_no_entry_is_none() {
        for line in [
            "",
            "  sl  local_address rem_address   st",
            "0: 0100007F:1F90",
            "0: x:y z:w 01 0 0 0 0 0 1",
            "0: é00007F:1 0:0 1 1 1 1 1 1",
        ] {
            assert_eq!(parse_entry(line), None, "{line:?}");
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_connection_that_sends_again_is_told_from_others() {
        let line = |timeouts: &str| {
            let numbers = format!("01 00000100:00000000 01:00000019 {timeouts}     0        0 12345 2 0 36 4 0 1 7");
            parse_retransmitting(&format!("   0: 0100007F:1F90 0200007F:A3B4 {numbers}"))
        };
        assert_eq!(line("00000000"), None);
        assert_eq!(line("0000000A").map(|(entry, timeouts)| (entry.inode, timeouts)), Some((12345, 10)));
        assert_eq!(
            parse_retransmitting("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"),
            None
        );
    }

    #[test]
    fn the_owner_of_a_real_connection_is_found() {
        let host = Host::new(crate::config::HostRoots::default());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let owner = host.socket_owner(local, remote).unwrap();
        assert_eq!(owner.pid, std::process::id());
        assert_eq!(host.tcp_peers(owner.pid, &[owner.inode]), [remote]);
    }
}
