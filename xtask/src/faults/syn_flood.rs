//! Connection attempts without end to a network that does not answer, as on a host that has lost its way out: each sends its SYN
//! again every second.
//!
//! They live in a network namespace of their own, in a thread that has left the network and the descriptors of its process.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::run;

/// Connections of one table of descriptors. Where the hard limit of this process is lower, so are they.
pub const BY_TABLE: usize = 18_000;
/// Copies that a new table of descriptors has of what this process has open, at most.
const OPEN_BEFORE: usize = 500;

/// Connection attempts that nobody answers, until they are stopped.
#[derive(Debug)]
pub struct SynFlood {
    end: Sender<()>,
    thread: JoinHandle<Result<u64>>,
}

impl SynFlood {
    /// Makes `connections` and returns when all of them have sent their first SYN.
    ///
    /// # Errors
    /// If this process is not root, `ip` is missing, or the hard limit of descriptors is below a thousand.
    pub fn start(connections: usize) -> Result<Self> {
        let (end, ended) = channel();
        let (ready, all_ready) = channel();
        let thread = thread::spawn(move || flood(connections, &ready, &ended));
        if all_ready.recv().is_err() {
            return Err(joined(thread).err().unwrap_or_else(|| anyhow!("the flood ended before it began")));
        }
        Ok(Self { end, thread })
    }

    /// Closes them; the number of segments that were sent again.
    ///
    /// # Errors
    /// If one of them failed in the meantime.
    pub fn stop(self) -> Result<u64> {
        drop(self.end);
        joined(self.thread)
    }
}

fn joined<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(anyhow!("a thread of the flood panicked")))
}

fn flood(connections: usize, ready: &Sender<()>, ended: &Receiver<()>) -> Result<u64> {
    // SAFETY: without CLONE_FILES nothing changes for descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("cannot make a network namespace")?;
    // Packets to a foreign network come back through the loopback and are dropped, because nothing here forwards.
    for arguments in ["link set lo up", "address add 192.0.2.1 dev lo", "route add 10.0.0.0/8 dev lo"] {
        run("ip", &arguments.split(' ').collect::<Vec<_>>())?;
    }
    for (name, value) in [("tcp_syn_linear_timeouts", "127"), ("tcp_syn_retries", "127"), ("ip_local_port_range", "1024 65535")] {
        let path = format!("/proc/sys/net/ipv4/{name}");
        match fs::write(&path, value) {
            // Before Linux 6.5 the pauses double from the first on, so the flood is a wave.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            result => result.with_context(|| format!("cannot write {path}"))?,
        }
    }
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).context("cannot raise the limit of descriptors")?;
    let hard = limit.maximum.map_or(BY_TABLE + OPEN_BEFORE, |hard| usize::try_from(hard).unwrap_or(usize::MAX));
    ensure!(hard >= 2 * OPEN_BEFORE, "the hard limit of descriptors is {hard}");
    let by_table = BY_TABLE.min(hard - OPEN_BEFORE);
    let tables = connections.div_ceil(by_table);
    thread::scope(|scope| {
        let (connected, all_connected) = channel();
        let (ends, threads): (Vec<Sender<()>>, Vec<_>) = (0..tables)
            .map(|table| {
                let (end, ended) = channel();
                let connected = connected.clone();
                let count = by_table.min(connections - table * by_table);
                (end, scope.spawn(move || attempts(table, count, &connected, &ended)))
            })
            .unzip();
        drop(connected);
        // One that failed says nothing here, and its error below.
        if all_connected.iter().take(tables).count() == tables && ready.send(()).is_ok() {
            let _ = ended.recv();
        }
        drop(ends);
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a thread of the flood panicked"))))
    })?;
    retransmitted()
}

/// Makes `count` attempts to an address of this table's own, and keeps them until `ended`.
fn attempts(table: usize, count: usize, connected: &Sender<()>, ended: &Receiver<()>) -> Result<()> {
    // SAFETY: what this thread opens stays in it, and it uses no descriptor of another one.
    unsafe { unshare_unsafe(UnshareFlags::FILES) }.context("cannot have descriptors apart")?;
    let peer = SocketAddrV4::new(Ipv4Addr::from_bits(0x0a00_0001 + u32::try_from(table)?), 9);
    let sockets = (0..count).map(|_| attempt(peer)).collect::<Result<Vec<_>>>()?;
    let _ = connected.send(());
    let _ = ended.recv();
    drop(sockets);
    Ok(())
}

fn attempt(peer: SocketAddrV4) -> Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).context("cannot make a socket")?;
    let begun = connect(&socket, &peer);
    ensure!(begun == Err(rustix::io::Errno::INPROGRESS), "connecting to {peer} gives {begun:?}");
    Ok(socket)
}

/// `RetransSegs` of this thread's network namespace (RFC 4022).
fn retransmitted() -> Result<u64> {
    let path = "/proc/thread-self/net/snmp";
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let mut tcp = text.lines().filter(|line| line.starts_with("Tcp: "));
    let (names, values) = (tcp.next().unwrap_or_default(), tcp.next().unwrap_or_default());
    let value = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "RetransSegs");
    value.and_then(|(_, value)| value.parse().ok()).with_context(|| format!("{path} has no RetransSegs"))
}
