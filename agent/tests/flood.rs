//! Far more events than anybody can read: the agent stays small, accounts for each of them, and reports the next one.
//!
//! The flood is real. Hundreds of thousands of connection attempts to a network that does not answer send their SYN again each
//! second, as on a host that has lost its way out. They live in a network namespace of the test's own.

#[cfg(test)]
mod common;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::{Stage, TRANSPORTS};
use syn_flood::SynFlood;
use xtask::faults::{TcpLoss, needs_root, poll};

/// Retransmits that are offered each second: one of each connection.
const BY_SECOND: usize = 210_000;
/// How long.
const FLOOD: Duration = Duration::from_secs(10);
/// Resident memory of the agent during the flood, at most.
const RSS_KB: u64 = 32 << 10;
/// Connections of one table of descriptors. Where the hard limit of this process is lower, so are they.
const BY_TABLE: usize = 18_000;

/// One flood at a time: the figures are compared with the kernel's.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn every_event_of_a_flood_is_received_or_counted_as_lost() {
    if needs_root() {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for transport in TRANSPORTS {
        let stage = Stage::set(transport, "");
        let begun = Instant::now();
        let flood = SynFlood::start(BY_SECOND);
        let full = Instant::now();
        let mut peak = 0;
        poll("the end of the flood", FLOOD * 2, || {
            peak = peak.max(stage.agent.rss_kb()?);
            Ok((full.elapsed() >= FLOOD).then_some(()))
        })
        .unwrap();
        let retransmitted = flood.stop();
        let took = begun.elapsed();
        assert!(peak < RSS_KB, "{peak} KiB resident");
        // The next event of the probe that was flooded.
        let loss = TcpLoss::establish().unwrap();
        loss.lose(3).unwrap();
        let alert = stage.alert("kernel_tcp_retransmit", &[("local", &loss.local.to_string())]);
        let losses = alert.body["evidence"]["losses"].as_array().cloned().unwrap_or_default();
        assert!(
            losses.iter().any(|loss| loss["source"] == "tcp_retransmit" && loss["lost"].as_u64() > Some(0)),
            "the alert says nothing of what was lost just before it: {alert:#?}"
        );
        let figures = &stage.strike(&alert)["tcp_retransmit"];
        eprintln!("{}: {retransmitted} retransmits in {took:?}, {peak} KiB resident, {figures:?}", transport.1);
        assert!(figures["lost"] > 0, "that was no flood: {figures:?}");
        // Of the segments that the kernel counts, up to one in a hundred reaches no program at this rate (measured on 6.18), and
        // nothing that the agent reads tells of these. They were never sent, so they are not among the lost.
        let accounted = figures["sent"] + figures["limited"] + figures["missed"];
        assert!(accounted >= retransmitted / 100 * 97, "{accounted} of {retransmitted}: {figures:?}");
    }
}

#[test]
fn an_agent_that_stops_in_a_flood_accounts_for_it() {
    if needs_root() {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for transport in TRANSPORTS {
        let stage = Stage::set(transport, "tcp_retransmit_burst = 2");
        let flood = SynFlood::start(BY_TABLE);
        let alert = stage.alert("kernel_tcp_retransmit", &[]);
        let figures = &stage.strike(&alert)["tcp_retransmit"];
        let retransmitted = flood.stop();
        assert!((1..=retransmitted).contains(&figures["sent"]), "{figures:?}, {retransmitted}");
    }
}

#[cfg(test)]
mod syn_flood {
    use std::io::ErrorKind;
    use std::net::{Ipv4Addr, SocketAddrV4};
    use std::process::Command;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread::{self, JoinHandle};

    use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use rustix::thread::{UnshareFlags, unshare_unsafe};

    use super::BY_TABLE;

    /// Connection attempts that nobody answers.
    pub struct SynFlood {
        end: Sender<()>,
        thread: JoinHandle<u64>,
    }

    impl SynFlood {
        /// Makes `connections` and returns when all of them have sent their first SYN, which each sends again every second.
        pub fn start(connections: usize) -> Self {
            let (end, ended) = channel();
            let (ready, all_ready) = channel();
            // A thread can leave the network of its process and have descriptors of its own, so that it takes no other process.
            let thread = thread::spawn(move || flood(connections, &ready, &ended));
            all_ready.recv().unwrap();
            Self { end, thread }
        }

        /// Closes them; the number of segments that were sent again.
        pub fn stop(self) -> u64 {
            drop(self.end);
            self.thread.join().unwrap()
        }
    }

    fn flood(connections: usize, ready: &Sender<()>, ended: &Receiver<()>) -> u64 {
        // SAFETY: without CLONE_FILES nothing changes for descriptors.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        // Packets to a foreign network come back through the loopback and are dropped, because nothing here forwards.
        for arguments in ["link set lo up", "address add 192.0.2.1 dev lo", "route add 10.0.0.0/8 dev lo"] {
            assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
        }
        for (name, value) in
            [("tcp_syn_linear_timeouts", "127"), ("tcp_syn_retries", "127"), ("ip_local_port_range", "1024 65535")]
        {
            match std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value) {
                // Before Linux 6.5 the pauses double from the first on, so the flood is a wave.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                result => result.unwrap(),
            }
        }
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
        let hard = limit.maximum.map_or(BY_TABLE, |hard| usize::try_from(hard).unwrap());
        // Each table has copies of what this process has open.
        let by_table = BY_TABLE.min(hard - 500);
        let tables = connections.div_ceil(by_table);
        thread::scope(|scope| {
            let (connected, all_connected) = channel();
            let ends = (0..tables).map(|table| {
                let (end, ended) = channel::<()>();
                let connected = connected.clone();
                let count = by_table.min(connections - table * by_table);
                scope.spawn(move || {
                    // SAFETY: what this thread opens stays in it, and it uses no descriptor of another one.
                    unsafe { unshare_unsafe(UnshareFlags::FILES) }.unwrap();
                    let peer = SocketAddrV4::new(Ipv4Addr::from_bits(0x0a00_0001 + u32::try_from(table).unwrap()), 9);
                    let sockets: Vec<_> = (0..count).map(|_| attempt(peer)).collect();
                    connected.send(()).unwrap();
                    let _ = ended.recv();
                    drop(sockets);
                });
                end
            });
            let ends: Vec<Sender<()>> = ends.collect();
            all_connected.iter().take(tables).for_each(drop);
            ready.send(()).unwrap();
            let _ = ended.recv();
            drop(ends);
        });
        retransmitted()
    }

    fn attempt(peer: SocketAddrV4) -> rustix::fd::OwnedFd {
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None).unwrap();
        assert_eq!(connect(&socket, &peer), Err(rustix::io::Errno::INPROGRESS));
        socket
    }

    /// `RetransSegs` of this thread's network namespace (RFC 4022).
    fn retransmitted() -> u64 {
        let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
        let mut tcp = text.lines().filter(|line| line.starts_with("Tcp: "));
        let (names, values) = (tcp.next().unwrap(), tcp.next().unwrap());
        let value = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "RetransSegs");
        value.unwrap().1.parse().unwrap()
    }
}
