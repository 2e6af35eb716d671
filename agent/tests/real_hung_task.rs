//! A process blocks on a frozen file system of the real kernel; the alert shows where.

#[cfg(test)]
mod common;

use std::time::Duration;

use common::{Stage, TRANSPORTS};
use xtask::faults::{FrozenFilesystem, needs_root};

#[test]
fn a_hung_task_shows_its_stack() {
    if needs_root() {
        return;
    }
    for transport in TRANSPORTS {
        let stage = Stage::set(transport, "");
        let frozen = FrozenFilesystem::freeze(Duration::from_secs(5)).unwrap();
        let alert = stage.alert("kernel_hung_task", &[("pid", &frozen.pid.to_string())]);
        let (body, evidence) = (&alert.body, &alert.body["evidence"]);
        assert_eq!(body["labels"]["comm"], frozen.comm, "{body:#}");
        let blocked = body["value"].as_f64().unwrap();
        assert!((frozen.timeout.as_secs_f64()..60.0).contains(&blocked), "{body:#}");
        // The process is still where it was: what the alert says can be compared with the kernel's own account.
        let stack: Vec<&str> = evidence["stack"].as_array().unwrap().iter().map(|frame| frame.as_str().unwrap()).collect();
        let functions = frozen.stack().unwrap();
        assert!(
            functions.iter().any(|function| function == "percpu_rwsem_wait" || function.contains("sb_start_write")),
            "{functions:?}"
        );
        assert_eq!(stack.len(), functions.len(), "{body:#}");
        assert!(
            stack.iter().zip(&functions).all(|(frame, function)| frame.contains(function.as_str())),
            "{functions:?}: {body:#}"
        );
        assert_eq!(evidence["wchan"], frozen.wchan().unwrap(), "{body:#}");
        assert_eq!(evidence["command_line"], frozen.command_line, "{body:#}");
        let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", frozen.pid)).unwrap();
        let cgroup = evidence["cgroup"].as_str().unwrap();
        assert!(cgroups.lines().any(|line| line.splitn(3, ':').nth(2) == Some(cgroup)), "{cgroups}: {body:#}");
        frozen.thaw().unwrap();
        stage.strike(&alert);
    }
}
