//! Probe `tcp_retransmit`: a TCP segment is sent again (`tcp/tcp_retransmit_skb`).
//!
//! Runs in softirq as a rule, so the current task means nothing here; the socket's owner is found in user space.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the macros that declare programs drop their docs")]
#![expect(clippy::needless_borrows_for_generic_args, reason = "without the borrow the value is copied once more")]

use agent_common::Count;
use agent_common::tcp_retransmit::{Connection, Fields, Socket, TcpRetransmitRecord};
use agent_ebpf::{Fold, count, field, global, member, monotonic_ns, send, trace};
use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{map, raw_tracepoint, tracepoint};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::{RawTracePointContext, TracePointContext};

/// Records of one connection that pass each second.
const BY_SECOND: u32 = 10;
/// IPv4 (include/linux/socket.h).
const AF_INET: u16 = 2;

#[derive(Clone, Copy)]
#[repr(C)]
struct State {
    fold: Fold,
    total: u64,
}

/// Where the fields are on this kernel; filled in by the loader.
#[unsafe(no_mangle)]
static FIELDS: Fields = Fields::ABSENT;
/// The same of the raw tracepoint.
#[unsafe(no_mangle)]
static SOCKET: Socket = Socket::ABSENT;

/// Connections with retransmits; the longest silent ones make room.
#[map]
static CONNECTIONS: LruHashMap<Connection, State> = LruHashMap::with_max_entries(2048, 0);

/// `tcp/tcp_retransmit_skb`
#[tracepoint]
pub fn tcp_retransmit_skb(ctx: TracePointContext) -> u32 {
    if field(&ctx, global!(FIELDS.err), 0_i32) != 0 {
        return 0;
    }
    let connection = Connection {
        local: field(&ctx, global!(FIELDS.saddr_v6), [0; 16]),
        remote: field(&ctx, global!(FIELDS.daddr_v6), [0; 16]),
        local_port: field(&ctx, global!(FIELDS.sport), 0),
        remote_port: field(&ctx, global!(FIELDS.dport), 0),
        pad: 0,
    };
    sent_again(&ctx, connection, || field(&ctx, global!(FIELDS.state), 0));
    0
}

/// Raw `tcp_retransmit_skb`, whose arguments are the socket, the buffer, and on newer kernels an error
#[raw_tracepoint(tracepoint = "tcp_retransmit_skb")]
pub fn tcp_retransmit_skb_raw(ctx: RawTracePointContext) -> i32 {
    if global!(SOCKET.has_err) != 0 && ctx.arg::<u64>(2) as i32 != 0 {
        return 0;
    }
    let socket: u64 = ctx.arg(0);
    let (local, remote) = if member(socket, global!(SOCKET.skc_family), 0) == AF_INET {
        let address = |offset| mapped(member(socket, offset, [0; 4]));
        (address(global!(SOCKET.skc_rcv_saddr)), address(global!(SOCKET.skc_daddr)))
    } else {
        let address = |offset| member(socket, offset, [0; 16]);
        (address(global!(SOCKET.skc_v6_rcv_saddr)), address(global!(SOCKET.skc_v6_daddr)))
    };
    let local_port = member(socket, global!(SOCKET.skc_num), 0);
    let remote_port = u16::from_be(member(socket, global!(SOCKET.skc_dport), 0));
    let connection = Connection { local, remote, local_port, remote_port, pad: 0 };
    sent_again(&ctx, connection, || u32::from(member(socket, global!(SOCKET.skc_state), 0_u8)));
    0
}

/// An IPv4 address in IPv6 (RFC 4291, section 2.5.5.2).
#[inline(always)]
fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

#[inline(always)]
fn sent_again(ctx: &impl EbpfContext, connection: Connection, state: impl FnOnce() -> u32) {
    let now = monotonic_ns();
    let (events, total) = match CONNECTIONS.get_ptr_mut(&connection) {
        Some(state) => {
            // SAFETY: the verifier checks the pointer; a race with another CPU costs at most a count of the fold.
            let state = unsafe { &mut *state };
            state.total = state.total.wrapping_add(1);
            let Some(events) = state.fold.admit(now, BY_SECOND) else { return };
            (events, state.total)
        }
        None => {
            if CONNECTIONS.insert(&connection, &State { fold: Fold::first(now), total: 1 }, 0).is_err() {
                count(Count::Untracked);
            }
            (1, 1)
        }
    };
    trace!(ctx, "tcp_retransmit_skb: ports {} to {}, {} in all", connection.local_port, connection.remote_port, total);
    send::<TcpRetransmitRecord>(ctx, |record| {
        record.write(TcpRetransmitRecord { monotonic_ns: now, connection, total, count: events, state: state() });
    });
}
