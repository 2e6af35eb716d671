//! The terminal's notifier writes to standard output, which a process has one of: the test runs itself again as a child.

use std::process::Command;

use sysops_agent::config::Config;

use super::{channel, oom, send};

const CHILD: &str = "SYSOPS_AGENT_TEST_TERMINAL";

#[tokio::test]
async fn colour_is_for_terminals_and_who_asks_for_it() {
    if std::env::var_os(CHILD).is_some() {
        let channel = channel("terminal", &Config::default()).unwrap().unwrap();
        send(&channel, &oom()).await.unwrap();
        return;
    }
    let child = async |variable: &'static str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "terminal::colour_is_for_terminals_and_who_asks_for_it", "--nocapture"]);
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            command.env_remove(name);
        }
        command.env(CHILD, "1").env(variable, "1");
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for plain in [child("CLICOLOR").await, child("NO_COLOR").await] {
        assert!(plain.contains("2026-02-22 16:30:00 CRITICAL  OOM killer chose java") && !plain.contains('\x1b'), "{plain:?}");
    }
    let forced = child("CLICOLOR_FORCE").await;
    assert!(forced.contains("\x1b[31mCRITICAL \x1b[0m OOM killer chose java"), "{forced:?}");
}
