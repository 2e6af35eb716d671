//! The store on real series: `agent/benches/store.rs`, which sees the engine as the agent does.

use anyhow::Result;

use crate::workspace::{cargo, run as start};

pub fn run(hour: bool) -> Result<()> {
    println!("\nthe store on series of this host");
    let mut bench = cargo()?;
    bench.args(["bench", "--quiet", "--package", "sysops-agent", "--bench", "store", "--"]);
    if hour {
        bench.arg("--hour");
    }
    start(&mut bench)
}
