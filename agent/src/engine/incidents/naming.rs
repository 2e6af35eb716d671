//! What an incident is called, and what it is about.

use crate::model::{Labels, Timestamp};

/// The id of an incident: 64-bit FNV-1a over what makes it unlike any other of this host, also over restarts. `is_taken` says which it
/// cannot be, because one that began at the same instant had it.
pub(super) fn id(hostname: &str, metric: &str, labels: &Labels, started: Timestamp, is_taken: impl Fn(u64) -> bool) -> u64 {
    let mut hash = Fnv1a::new();
    hash.field(hostname.as_bytes());
    hash.field(metric.as_bytes());
    for (name, value) in labels.iter() {
        hash.field(name.as_bytes());
        hash.field(value.as_bytes());
    }
    hash.field(&started.as_nanos().to_be_bytes());
    // Over and begun again within one instant.
    while is_taken(hash.0) {
        hash.field(b"again");
    }
    hash.0
}

/// What a finding with these labels is about, as far as other findings can be about the same: kinds of subjects and their names.
pub(super) fn subjects(labels: &Labels) -> impl Iterator<Item = (&'static str, String)> {
    let label = |name| labels.get(name).filter(|value| !value.is_empty());
    // File systems that are no device's share a name where the device's stands.
    let device = if label("mount").is_some() { None } else { label("device") };
    // A process that is gone is shown in the root of version 1 hierarchies, which is no subject.
    let cgroup = label("cgroup").filter(|cgroup| *cgroup != "/");
    // Without the port, which differs by connection.
    let peer = label("peer").map(|peer| peer.rsplit_once(':').map_or(peer, |(host, _)| host));
    let of = |kind: &'static str, value: Option<&str>| value.map(|value| (kind, value.to_owned()));
    let all = [
        of("pid", label("pid")),
        of("mount", label("mount")),
        of("device", device),
        of("interface", label("interface")),
        of("cgroup", cgroup),
        of("peer", peer),
    ];
    all.into_iter().flatten()
}

/// <http://www.isthe.com/chongo/tech/comp/fnv/>: unlike the standard library's hasher, the same in every release.
struct Fnv1a(u64);

impl Fnv1a {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds bytes and an end mark that no UTF-8 text contains.
    fn field(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
