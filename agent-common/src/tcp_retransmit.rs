//! The record of probe `tcp_retransmit`: segments of one connection were sent again.

use crate::Record;

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

/// Retransmits of one connection since its last record.
///
/// The first retransmit of a connection is reported at once, later ones are folded into at most one record an interval.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TcpRetransmitRecord {
    /// `CLOCK_MONOTONIC` when the probe ran, in nanoseconds.
    pub monotonic_ns: u64,
    /// Which connection.
    pub connection: Connection,
    /// Retransmitted buffers (skb) since the last record of this connection, this one included.
    pub count: u32,
    /// Retransmitted buffers of this connection since the probe first saw it.
    pub total: u32,
    /// TCP state (include/net/tcp_states.h) at this retransmit.
    pub state: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<TcpRetransmitRecord>() == 8 + 40 + 16);

// SAFETY: repr(C), integers and byte arrays only, the size assertions above exclude padding.
unsafe impl Record for TcpRetransmitRecord {}
