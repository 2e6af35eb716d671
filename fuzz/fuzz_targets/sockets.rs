//! `/proc/PID/net/tcp` and `tcp6`.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sysops_agent_fuzz::Tree;

static TREE: LazyLock<Tree> = LazyLock::new(|| Tree::new("sockets"));

fuzz_target!(|input: &[u8]| {
    for file in ["proc/1/net/tcp", "proc/1/net/tcp6"] {
        TREE.write(file, input);
    }
    let host = TREE.host();
    let _ = host.tcp_states();
    host.retransmitting(8);
    host.tcp_peers(1, &[1, 12345]);
});
