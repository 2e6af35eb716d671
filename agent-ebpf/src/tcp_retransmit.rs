//! Probe `tcp_retransmit`: a TCP segment is sent again (`tcp/tcp_retransmit_skb`).
//!
//! Runs in softirq as a rule, so the current task means nothing here; the socket's owner is found in user space.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the macros that declare programs drop their docs")]
#![expect(clippy::needless_borrows_for_generic_args, reason = "without the borrow the value is copied once more")]

use agent_common::Count;
use agent_common::tcp_retransmit::{Connection, Fields, TcpRetransmitRecord};
use agent_ebpf::{Fold, count, field, global, monotonic_ns, send, trace};
use aya_ebpf::macros::{map, tracepoint};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::TracePointContext;

/// Records of one connection that pass each second.
const BY_SECOND: u32 = 10;

#[derive(Clone, Copy)]
#[repr(C)]
struct State {
    fold: Fold,
    total: u64,
}

/// Where the fields are on this kernel; filled in by the loader.
#[unsafe(no_mangle)]
static FIELDS: Fields = Fields::ABSENT;

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
    let now = monotonic_ns();
    let (events, total) = match CONNECTIONS.get_ptr_mut(&connection) {
        Some(state) => {
            // SAFETY: the verifier checks the pointer; a race with another CPU costs at most a count of the fold.
            let state = unsafe { &mut *state };
            state.total = state.total.wrapping_add(1);
            let Some(events) = state.fold.admit(now, BY_SECOND) else { return 0 };
            (events, state.total)
        }
        None => {
            if CONNECTIONS.insert(&connection, &State { fold: Fold::first(now), total: 1 }, 0).is_err() {
                count(Count::Untracked);
            }
            (1, 1)
        }
    };
    trace!(&ctx, "tcp/tcp_retransmit_skb: ports {} to {}, {} in all", connection.local_port, connection.remote_port, total);
    send::<TcpRetransmitRecord>(&ctx, |record| {
        record.write(TcpRetransmitRecord {
            monotonic_ns: now,
            connection,
            total,
            count: events,
            state: field(&ctx, global!(FIELDS.state), 0),
        });
    });
    0
}
