//! Each collector on a fixture host of which one file is damaged: first as it is, then damaged, then damaged still.

#![no_main]

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use sysops_agent::collectors::{Batch, COLLECTORS};
use sysops_agent::config::Config;
use sysops_agent_fuzz::Tree;
use sysops_agent_fuzz::files::FILES;

static TREES: LazyLock<HashMap<&str, Tree>> =
    LazyLock::new(|| ["modern", "centos7", "server64", "container"].map(|host| (host, Tree::of_host(host))).into());
static CONFIG: LazyLock<Config> = LazyLock::new(Config::default);

fuzz_target!(|input: &[u8]| {
    let Some((&number, text)) = input.split_first() else { return };
    let (host, collector, file) = FILES[usize::from(number) % FILES.len()];
    let row = COLLECTORS.iter().find(|row| row.name == collector).expect("the table names collectors");
    let tree = &TREES[host];
    let mut collector = (row.build)(&CONFIG, &tree.host());
    let start = Instant::now();
    let sound = tree.read(file);
    for run in 0..3 {
        let mut batch = Batch::new(start + Duration::from_secs(run * 10));
        let _ = collector.collect(&mut batch);
        assert!(batch.samples.iter().all(|sample| sample.value.is_finite()));
        tree.write(file, text);
    }
    tree.write(file, &sound);
});
