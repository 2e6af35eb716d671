//! Packets are dropped on their way, TCP sends again, and what is to be sent queues up in the socket.

use std::time::Duration;

use serde_json::json;

use super::{Link, Row, Story, rise, series};
use crate::engine::analyzers::Finding;
use crate::engine::analyzers::event::TCP_RETRANSMIT;
use crate::engine::store::Store;
use crate::model::{Evidence, Timestamp, bytes};

pub(super) const ROW: Row = Row {
    name: "network",
    summary: "packets were dropped, segments were sent again, the socket's queue is full of them",
    build: || Box::new(Network),
};

/// Counters of what did not come through on this host, and the label that says where.
const LOST: [(&str, &str, &str); 6] = [
    ("network_receive_drops_total", "interface", "received packets dropped"),
    ("network_transmit_drops_total", "interface", "packets to send dropped"),
    ("network_receive_errors_total", "interface", "receive errors"),
    ("network_transmit_errors_total", "interface", "transmit errors"),
    ("network_carrier_changes_total", "interface", "changes of the carrier"),
    ("network_softnet_drops_total", "", "packets dropped by a full backlog"),
];

struct Network;

impl Story for Network {
    fn causes(&mut self, at: Timestamp, finding: &Finding, store: &Store) -> Vec<Link> {
        if finding.metric != TCP_RETRANSMIT.name {
            return Vec::new();
        }
        let lost = |(metric, label, what): (&'static str, &str, &str)| {
            let of = series(store, metric, &[]).filter_map(|(id, key)| Some((rise(store, id, at)?, key.labels().get(label))));
            let ((count, since), place) = of.max_by(|((a, _), _), ((b, _), _)| a.total_cmp(b))?;
            let place_text = place.map(|place| format!("{place}: ")).unwrap_or_default();
            let mut evidence = Evidence::new();
            evidence.insert("metric".into(), json!(metric));
            evidence.insert("count".into(), json!(count));
            place.map(|place| evidence.insert(label.into(), json!(place)));
            Some(Link { at: since, kind: "packet_loss", text: format!("{place_text}{count} {what}"), evidence })
        };
        LOST.into_iter().filter_map(lost).chain(queue(finding)).collect()
    }
}

/// What waited in the connection's socket when its owner was looked up.
fn queue(finding: &Finding) -> Option<Link> {
    let waiting = finding.evidence.get("send_queue_bytes").and_then(|bytes| bytes.as_f64()).filter(|bytes| *bytes > 0.0)?;
    let mut evidence = Evidence::new();
    evidence.insert("send_queue_bytes".into(), json!(waiting));
    let text = format!("{} waited in the socket to be sent or acknowledged", bytes(waiting));
    // It is what comes of it, and stands behind it.
    Some(Link { at: finding.since.plus(Duration::from_nanos(1)), kind: "socket_queue", text, evidence })
}
