//! Records of `/dev/kmsg`, and what their texts say.

#![no_main]

use std::cell::RefCell;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sysops_agent::engine::patterns::{Patterns, named};
use sysops_agent::host::{Kmsg, KmsgRead};
use sysops_agent::model::Timestamp;
use sysops_agent_fuzz::Tree;

static TREE: LazyLock<Tree> = LazyLock::new(|| Tree::new("kmsg"));

thread_local! {
    static PATTERNS: RefCell<Patterns> = RefCell::new(Patterns::new());
}

fuzz_target!(|input: &[u8]| {
    TREE.write("root/dev/kmsg", input);
    let mut log = Kmsg::open_at_start(&TREE.host()).expect("the file was written");
    while let Ok(read @ (KmsgRead::Record(_) | KmsgRead::Malformed)) = log.read() {
        if let KmsgRead::Record(record) = read {
            named(&record.text);
            PATTERNS.with_borrow_mut(|patterns| patterns.read(Timestamp::from_nanos(0), &record.text));
        }
    }
});
