//! Probe `tcp_retransmit`: a TCP segment is sent again.
//!
//! The kernel does this from a timer or on a packet's arrival, so no process is at hand; the owner is whoever holds the
//! socket, and is looked up through the network namespaces of all processes. An owner once found is remembered, so that a
//! connection keeps it after its process ended.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use agent_common::tcp_retransmit::{Connection, Fields, Socket, TcpRetransmitRecord};
use agent_common::{ABSENT, Record as _};

use super::tracefs::Format;
use super::{Facts, Hook, Kernel, Probe, Rung, Unavailable};
use crate::config;
use crate::host::{Host, SocketOwner};
use crate::model::{Evidence, KernelEvent, Labels};

/// Owners that are remembered.
const MAX_OWNERS: usize = 4096;

/// States of a connection by number (include/net/tcp_states.h).
const STATES: [&str; 13] = [
    "unknown",
    "established",
    "syn_sent",
    "syn_recv",
    "fin_wait1",
    "fin_wait2",
    "time_wait",
    "close",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
    "new_syn_recv",
];

/// `tcp/tcp_retransmit_skb`, with offsets from its `format` file.
pub fn tracepoint(kernel: &Kernel, _: &config::Ebpf) -> Result<Rung, Unavailable> {
    const NAME: &str = "tcp/tcp_retransmit_skb";
    let format = Format::read(&kernel.host, "tcp", "tcp_retransmit_skb")?;
    let fields = Fields {
        state: format.offset("state", 4),
        sport: format.required(NAME, "sport", 2)?,
        dport: format.required(NAME, "dport", 2)?,
        saddr_v6: format.required(NAME, "saddr_v6", 16)?,
        daddr_v6: format.required(NAME, "daddr_v6", 16)?,
        err: format.offset("err", 4),
    };
    let hook = Hook::Tracepoint { program: "tcp_retransmit_skb", category: "tcp", name: "tcp_retransmit_skb".into() };
    Ok(Rung::new("tracepoint tcp/tcp_retransmit_skb", &fields, vec![hook]))
}

/// The same as a raw tracepoint, with offsets from the kernel's BTF: does without tracefs.
pub fn raw_tracepoint(kernel: &Kernel, _: &config::Ebpf) -> Result<Rung, Unavailable> {
    const NAME: &str = "tcp_retransmit_skb";
    const COMMON: &str = "sock_common";
    let (btf, v6) = (kernel.btf()?, ["skc_v6_rcv_saddr", "skc_v6_daddr"]);
    let required = ["skc_family", "skc_state", "skc_num", "skc_dport", "skc_rcv_saddr", "skc_daddr"].map(|name| (COMMON, name));
    let offsets = btf.required_offsets(&required)?;
    // Without IPv6 in the kernel there are no such addresses.
    let offsets_v6 = btf.member_offsets(&v6.map(|name| (COMMON, name)));
    let at = |name| offsets.get(&(COMMON, name)).or_else(|| offsets_v6.get(&(COMMON, name))).copied().unwrap_or(ABSENT);
    let socket = Socket {
        skc_family: at("skc_family"),
        skc_state: at("skc_state"),
        skc_num: at("skc_num"),
        skc_dport: at("skc_dport"),
        skc_rcv_saddr: at("skc_rcv_saddr"),
        skc_daddr: at("skc_daddr"),
        skc_v6_rcv_saddr: at("skc_v6_rcv_saddr"),
        skc_v6_daddr: at("skc_v6_daddr"),
        has_err: u16::from(btf.raw_tracepoint_arguments(&[NAME]).get(NAME) == Some(&3)),
    };
    let hook = Hook::RawTracepoint { program: "tcp_retransmit_skb_raw", name: NAME };
    Ok(Rung::new("raw tracepoint tcp_retransmit_skb", &Fields::ABSENT, vec![hook]).with("SOCKET", &socket))
}

/// Makes the user half.
pub fn build(host: &Host, _: &config::Ebpf) -> Arc<dyn Probe> {
    Arc::new(TcpRetransmit { host: host.clone(), owners: Mutex::default() })
}

struct TcpRetransmit {
    host: Host,
    owners: Mutex<HashMap<Connection, SocketOwner>>,
}

impl Probe for TcpRetransmit {
    fn decode(&self, record: &[u8]) -> Option<KernelEvent> {
        let record = TcpRetransmitRecord::from_bytes(record)?;
        let mut evidence = Evidence::new();
        evidence.insert("monotonic_ns".into(), record.monotonic_ns.into());
        evidence.insert("total".into(), record.total.into());
        let state = usize::try_from(record.state).ok().and_then(|state| STATES.get(state)).unwrap_or(&STATES[0]);
        evidence.insert("state".into(), (*state).into());
        let (local, peer) = ends(&record.connection);
        evidence.insert("family".into(), if local.is_ipv4() { "ipv4" } else { "ipv6" }.into());
        let labels = Labels::new().with("local", local.to_string()).with("peer", peer.to_string());
        let metric = "kernel_tcp_retransmit";
        let count = u64::from(record.count);
        let value = f64::from(record.count);
        Some(KernelEvent { metric, labels, value, threshold: None, count, message: String::new(), source: "probe", evidence })
    }

    fn enrich(&self, record: &[u8], facts: &Facts) {
        let Some(TcpRetransmitRecord { connection, .. }) = TcpRetransmitRecord::from_bytes(record) else { return };
        let known = self.owners.lock().unwrap_or_else(PoisonError::into_inner).get(&connection).cloned();
        let owner = known.or_else(|| {
            let (local, peer) = ends(&connection);
            let owner = self.host.socket_owner(local, peer)?;
            let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
            if owners.len() >= MAX_OWNERS {
                owners.clear();
            }
            owners.insert(connection, owner.clone());
            Some(owner)
        });
        let (local, peer) = ends(&connection);
        if let Some(segments) = self.host.tcp_segments(local, peer) {
            facts.evidence("segments_sent", Some(segments.sent));
            facts.evidence("segments_sent_again", Some(segments.again));
        }
        let Some(owner) = owner else { return };
        facts.label("pid", owner.pid.to_string());
        facts.label("comm", owner.comm);
        facts.evidence("socket_inode", Some(owner.inode));
        facts.evidence("send_queue_bytes", Some(owner.send_queue));
        facts.evidence("cgroup", owner.cgroup);
    }

    fn describe(&self, event: &KernelEvent) -> String {
        let label = |name| event.labels.get(name).unwrap_or("?");
        let owner = match (event.labels.get("comm"), event.labels.get("pid")) {
            (Some(comm), Some(pid)) => format!(" of {comm} (pid {pid})"),
            _ => String::new(),
        };
        format!("TCP segments from {} to {}{owner} are sent again", label("local"), label("peer"))
    }
}

/// Local and remote end; IPv4 where both were mapped into IPv6.
fn ends(connection: &Connection) -> (SocketAddr, SocketAddr) {
    let address = |bytes: [u8; 16]| IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical();
    (
        SocketAddr::new(address(connection.local), connection.local_port),
        SocketAddr::new(address(connection.remote), connection.remote_port),
    )
}
