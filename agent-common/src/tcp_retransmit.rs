//! The record of probe `tcp_retransmit`: segments of one connection were sent again.

use crate::{ABSENT, Global, Record};

/// The connection, as the key of the in-kernel aggregate. IPv4 addresses are mapped into IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Connection {
    /// Local address, network byte order.
    pub local: [u8; 16],
    /// Remote address, network byte order.
    pub remote: [u8; 16],
    /// Local port, host byte order.
    pub local_port: u16,
    /// Remote port, host byte order.
    pub remote_port: u16,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<Connection>() == 40);

/// Offsets of the tracepoint's fields, by their names in its `format` file; [`ABSENT`] where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are the tracepoint's own")]
pub struct Fields {
    pub state: u16,
    pub sport: u16,
    pub dport: u16,
    pub saddr_v6: u16,
    pub daddr_v6: u16,
    pub err: u16,
}

impl Fields {
    /// A tracepoint without any field.
    pub const ABSENT: Self =
        Self { state: ABSENT, sport: ABSENT, dport: ABSENT, saddr_v6: ABSENT, daddr_v6: ABSENT, err: ABSENT };
}

/// Offsets for the raw tracepoint: of the members of `struct sock_common`, with which `struct sock` begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are the kernel's own")]
pub struct Socket {
    pub skc_family: u16,
    pub skc_state: u16,
    pub skc_num: u16,
    pub skc_dport: u16,
    pub skc_rcv_saddr: u16,
    pub skc_daddr: u16,
    pub skc_v6_rcv_saddr: u16,
    pub skc_v6_daddr: u16,
    /// One where the tracepoint has a third argument, which tells whether sending failed.
    pub has_err: u16,
}

impl Socket {
    /// A kernel of which nothing is known.
    pub const ABSENT: Self = Self {
        skc_family: ABSENT,
        skc_state: ABSENT,
        skc_num: ABSENT,
        skc_dport: ABSENT,
        skc_rcv_saddr: ABSENT,
        skc_daddr: ABSENT,
        skc_v6_rcv_saddr: ABSENT,
        skc_v6_daddr: ABSENT,
        has_err: 0,
    };
}

const _: () = assert!(size_of::<Socket>() == 9 * 2);

// SAFETY: repr(C), 16-bit integers only.
unsafe impl Global for Socket {}

/// Retransmits of one connection since its last record.
///
/// The first few retransmits of a connection in a second are reported one by one, further ones are folded into the next record.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TcpRetransmitRecord {
    /// `CLOCK_MONOTONIC` when the probe ran, in nanoseconds.
    pub monotonic_ns: u64,
    /// Which connection.
    pub connection: Connection,
    /// Retransmitted buffers of this connection since the probe first saw it.
    pub total: u64,
    /// Retransmitted buffers (skb) since the last record of this connection, this one included.
    pub count: u32,
    /// TCP state (include/net/tcp_states.h) at this retransmit.
    pub state: u32,
}

const _: () = assert!(size_of::<TcpRetransmitRecord>() == 8 + 40 + 16);

// SAFETY: repr(C), integers and byte arrays only, the size assertions above exclude padding.
unsafe impl Record for TcpRetransmitRecord {}

const _: () = assert!(size_of::<Fields>() == 6 * 2);

// SAFETY: repr(C), 16-bit integers only.
unsafe impl Global for Fields {}
