//! Links that go down, and tables of the network stack that are full.

use super::Pattern;
use crate::model::{Metric, Severity, Unit};

/// `kernel_link_down`
pub static LINK_DOWN: Metric =
    Metric::gauge("kernel_link_down", Unit::Count, "Network links that a driver logged as down; label interface.");
/// `kernel_conntrack_full`
pub static CONNTRACK_FULL: Metric =
    Metric::gauge("kernel_conntrack_full", Unit::Count, "Packets dropped because the table of tracked connections was full.");
/// `kernel_syn_flood`
pub static SYN_FLOOD: Metric = Metric::gauge(
    "kernel_syn_flood",
    Unit::Count,
    "Ports whose queue of half-open connections overflowed, by attack or by load; label port.",
);
/// `kernel_neighbour_overflow`
pub static NEIGHBOUR_OVERFLOW: Metric = Metric::gauge(
    "kernel_neighbour_overflow",
    Unit::Count,
    "Neighbours (ARP, NDP) that could not be entered because their table was full; label table.",
);

pub(super) const PATTERNS: &[Pattern] = &[
    Pattern {
        name: "link_down",
        metric: &LINK_DOWN,
        severity: Severity::Warn,
        signal: None,
        needles: &["Link is ", "Link ", "link down", "link is down", "carrier off"],
        // Drivers word it as they like; `driver [bus address] interface: [driver: interface] NIC Link is Down` is the common form.
        regex: r"^(?:[A-Za-z0-9_-]+:?(?: [0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]:?)? (?P<interface>[A-Za-z][A-Za-z0-9_.@-]*):? (?:[A-Za-z0-9_-]+: )?(?:[A-Za-z0-9_.@-]+ )?(?:NIC )?(?:Copper )?Link (?:is )?(?:[Dd]own|DOWN)\b|(?:[A-Za-z0-9_-]+:? )?(?:[0-9a-z.:@-]*[0-9:.][0-9a-z.:@-]* )?(?P<plain>[A-Za-z][A-Za-z0-9_.@-]*): (?:Link is Down|link (?:is )?down|carrier off)\b)",
        read: |line, found| {
            let interface = ["interface", "plain"].iter().find_map(|name| line.text(name));
            interface.into_iter().for_each(|interface| found.labels.set("interface", interface));
        },
    },
    Pattern {
        name: "bond_link_down",
        metric: &LINK_DOWN,
        severity: Severity::Warn,
        signal: None,
        needles: &["link status definitely down"],
        // drivers/net/bonding/bond_main.c: 3.10 names the slave behind, 5.x before the words.
        regex: r"^(?:bonding: )?(?P<bond>[^ :]+): (?:\(slave (?P<slave>[^)]+)\): )?link status definitely down(?: for interface (?P<interface>[^ ,]+))?",
        read: |line, found| {
            let interface = ["slave", "interface"].iter().find_map(|name| line.text(name));
            interface.into_iter().for_each(|interface| found.labels.set("interface", interface));
            found.fact(line, "bond");
        },
    },
    Pattern {
        name: "conntrack_full",
        metric: &CONNTRACK_FULL,
        severity: Severity::Warn,
        signal: None,
        needles: &["_conntrack: table full"],
        // net/netfilter/nf_conntrack_core.c.
        regex: r"^(?:nf_conntrack: )?(?:nf|ip)_conntrack: table full(?: in netns (?P<netns>[0-9]+))?, dropping packet",
        read: |line, found| found.fact(line, "netns"),
    },
    Pattern {
        name: "syn_flood",
        metric: &SYN_FLOOD,
        severity: Severity::Warn,
        signal: None,
        needles: &["ossible SYN flooding on port "],
        // net/ipv4/tcp_input.c, tcp_syn_flood_action(): with the address from 6.2 on.
        regex: r"^(?:[A-Za-z0-9_]+: ){0,2}[Pp]ossible SYN flooding on port (?:(?P<address>[0-9a-f.:]+|\[[0-9a-f.:]*\]):)?(?P<port>[0-9]+)\. +(?P<reaction>Sending cookies|Dropping request)",
        read: |line, found| {
            found.label(line, "port");
            ["address", "reaction"].iter().for_each(|name| found.fact(line, name));
        },
    },
    Pattern {
        name: "neighbour_overflow",
        metric: &NEIGHBOUR_OVERFLOW,
        severity: Severity::Warn,
        signal: None,
        needles: &["r table overflow"],
        // net/core/neighbour.c, net/ipv4/route.c before 3.x.
        regex: r"^(?:neighbour: (?P<table>[a-z0-9_]+): neighbor|Neighbour) table overflow",
        read: |line, found| found.label(line, "table"),
    },
];
