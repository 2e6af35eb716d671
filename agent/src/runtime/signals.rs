//! Which signal is served by which source, and why not by a better one: what a start shows and `doctor` tells.

use crate::config::{Config, LogSourceName};
use crate::host::{Host, Kmsg, Unavailable};
use crate::probes::{self, Attached, Fallback, Kernel, PROBES, Refused, Wanted};

/// What is known of one signal's sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// The stem of its probe.
    pub name: &'static str,
    /// What it is about.
    pub summary: &'static str,
    /// The active source; `None` where there is none at all.
    pub source: Option<String>,
    /// Whether that is the probe.
    pub probed: bool,
    /// Why better sources are not active.
    pub better: Vec<Unavailable>,
}

/// Attaches the probes that the configuration asks for, and says for every signal what serves it.
pub fn attach(config: &Config, host: &Host, probe_log: bool) -> (Vec<Result<Attached, Refused>>, Vec<Signal>) {
    let wanted = |row: &&probes::Row| config.ebpf.enabled && config.ebpf.probes.iter().any(|name| name == row.name);
    let rows = PROBES.iter().filter(wanted).map(Wanted::any);
    let results = probes::attach(rows, &Kernel::new(host.clone()), &config.ebpf, probe_log);
    let mut signals = Vec::new();
    for row in PROBES {
        let refused = match results.iter().find(|result| row_of(result).name == row.name) {
            Some(Ok(probe)) => {
                let source = format!("{}, {}", probe.source, probe.transport());
                let better = probe.refused.clone();
                signals.push(Signal { name: row.name, summary: row.summary, source: Some(source), probed: true, better });
                continue;
            }
            Some(Err(Refused { reasons, .. })) => reasons.clone(),
            None if !config.ebpf.enabled => vec![Unavailable::new("BPF is switched off", "set enabled = true in [ebpf]")],
            None => vec![Unavailable::new(
                format!("the probe is not in [ebpf] probes = {:?}", config.ebpf.probes),
                format!("add {:?} to it", row.name),
            )],
        };
        signals.push(fall_back(row, config, host, refused));
    }
    (results, signals)
}

fn row_of(result: &Result<Attached, Refused>) -> &'static probes::Row {
    match result {
        Ok(attached) => attached.row,
        Err(refused) => refused.row,
    }
}

/// What stands in for a probe that is not attached.
pub fn fall_back(row: &probes::Row, config: &Config, host: &Host, mut better: Vec<Unavailable>) -> Signal {
    let mut sources = Vec::new();
    for fallback in row.fallbacks {
        match fallback {
            Fallback::KernelLog => match kernel_log(config, host) {
                Ok(()) => sources.push("kernel log"),
                Err(unavailable) => better.push(unavailable),
            },
            Fallback::Procfs { file, has, what } => {
                let path = host.procfs(file);
                let why = match std::fs::read_to_string(&path) {
                    Ok(text) if text.contains(has) => {
                        sources.push(what);
                        continue;
                    }
                    Ok(_) => format!("{} has no {}", path.display(), has.trim_end()),
                    Err(error) => format!("cannot read {}: {error}", path.display()),
                };
                better.push(Unavailable::new(why, "nothing to do where procfs is mounted there; older kernels lack it"));
            }
        }
    }
    let source = (!sources.is_empty()).then(|| sources.join("; "));
    Signal { name: row.name, summary: row.summary, source, probed: false, better }
}

/// Whether the kernel log is read.
///
/// # Errors
/// It is switched off, or may not be read.
pub fn kernel_log(config: &Config, host: &Host) -> Result<(), Unavailable> {
    if !config.log_analyzer.enabled || !config.log_analyzer.sources.contains(&LogSourceName::Dmesg) {
        return Err(Unavailable::new(
            "the kernel log is switched off",
            r#"set enabled = true and "dmesg" among sources in [log_analyzer]"#,
        ));
    }
    Kmsg::open_at_end(host).map(drop).map_err(|error| {
        Unavailable::new(error.to_string(), "run as root, or with CAP_SYSLOG; a container needs the device /dev/kmsg")
    })
}
