//! Each way to attach a probe that this kernel has, alone: a real fault becomes the same event by all of them.

#[cfg(test)]
mod ways {
    use std::sync::mpsc::{Receiver, channel};
    use std::thread::JoinHandle;
    use std::time::{Duration, Instant};

    use sysops_agent::config::{Ebpf, HostRoots};
    use sysops_agent::host::Host;
    use sysops_agent::model::KernelEvent;
    use sysops_agent::probes::{Control, Kernel, PROBES, ProbeReader, Seen, attach_by};
    use xtask::faults::fd_exhaustion::{FdExhaustion, Kind};
    use xtask::faults::trace::mount_tracefs;
    use xtask::faults::{FailingDevice, FrozenFilesystem, MemcgOom, SlowDevice, TcpLoss, needs_root};

    /// How long an event may take.
    const WITHIN: Duration = Duration::from_secs(15);

    /// One probe, attached in one way, and what it tells.
    struct Way {
        source: &'static str,
        control: Control,
        reader: Option<JoinHandle<()>>,
        events: Receiver<KernelEvent>,
    }

    impl Way {
        /// The event about `metric` with these labels.
        fn event(&self, metric: &str, labels: &[(&str, &str)]) -> KernelEvent {
            let until = Instant::now() + WITHIN;
            loop {
                let left = until.saturating_duration_since(Instant::now());
                let event = self.events.recv_timeout(left).unwrap_or_else(|_| panic!("{}: no event {labels:?}", self.source));
                if event.metric == metric && labels.iter().all(|(name, value)| event.labels.get(name) == Some(value)) {
                    return event;
                }
            }
        }
    }

    impl Drop for Way {
        fn drop(&mut self) {
            self.control.stop();
            self.reader.take().map(JoinHandle::join);
        }
    }

    /// Calls `fault` with the probe attached in each way that works here, one after the other; there must be `least` of them.
    fn each(probe: &str, least: usize, fault: impl Fn(&Way)) {
        mount_tracefs().unwrap();
        let host = Host::new(HostRoots::default());
        let (kernel, settings) = (Kernel::new(host.clone()), Ebpf::default());
        let row = PROBES.iter().find(|row| row.name == probe).unwrap();
        let mut tried = 0;
        for rung in 0..row.rungs.len() {
            let attached = match attach_by(row, rung, &kernel, &settings) {
                Ok(attached) => attached,
                Err(unavailable) => {
                    println!("{probe}: {unavailable}");
                    continue;
                }
            };
            let (send, events) = channel();
            let (control, source) = (Control::new().unwrap(), attached.source);
            let mut reader = ProbeReader::new(vec![Ok(attached)], &host, &settings, Duration::from_secs(1), false);
            let told = control.clone();
            let reader = std::thread::spawn(move || {
                let mut emit = |seen| match seen {
                    Seen::Event(event) => send.send(event).is_ok(),
                    Seen::Samples(_) | Seen::Histograms(_) | Seen::Step(_) => true,
                };
                reader.run(&told, &mut emit).unwrap();
            });
            fault(&Way { source, control, reader: Some(reader), events });
            tried += 1;
        }
        let btf = host.sysfs("kernel/btf/vmlinux").exists();
        assert!(tried >= if btf { least } else { 1 }, "{probe}: {tried} ways work");
    }

    #[test]
    fn oom() {
        if needs_root() {
            return;
        }
        each("oom", 1, |way| {
            let oom = MemcgOom::cause(16 << 20).unwrap();
            let event = way.event("kernel_oom_kill", &[("pid", &oom.pid.to_string()), ("comm", oom.comm)]);
            assert_eq!(event.evidence["killed"], true, "{}: {event:?}", way.source);
        });
    }

    #[test]
    fn hung_task() {
        if needs_root() {
            return;
        }
        each("hung_task", 2, |way| {
            let frozen = FrozenFilesystem::freeze(Duration::from_secs(2)).unwrap();
            let event = way.event("kernel_hung_task", &[("pid", &frozen.pid.to_string()), ("comm", frozen.comm)]);
            assert_eq!(event.evidence["wchan"], frozen.wchan().unwrap(), "{}: {event:?}", way.source);
            frozen.thaw().unwrap();
        });
    }

    #[test]
    fn block_io() {
        if needs_root() {
            return;
        }
        each("block_io", 3, |way| {
            for scheduler in ["none", "mq-deadline"] {
                let mut slow = SlowDevice::attach().unwrap();
                // Where the kernel has no such scheduler, the device keeps the one that it has.
                let _ = std::fs::write(format!("/sys/block/{}/queue/scheduler", slow.name()), scheduler);
                let request = slow.write(Duration::from_millis(400)).unwrap();
                let event = way.event("kernel_block_io_slow", &[("device", slow.name()), ("operation", "write")]);
                assert!(event.value >= 400.0, "{}: {event:?}", way.source);
                assert_eq!(event.evidence["sector"], request.sector, "{}: {event:?}", way.source);
                assert_eq!(event.evidence["pid"], request.pid, "{}, {scheduler}: {event:?}", way.source);
                assert_eq!(event.evidence["comm"], request.comm, "{}, {scheduler}: {event:?}", way.source);
                assert!(event.evidence["cgroup"].is_string(), "{}: {event:?}", way.source);
            }
            let failing = FailingDevice::attach().unwrap();
            let request = failing.read().unwrap();
            let event = way.event("kernel_block_io_error", &[("device", failing.name()), ("operation", "read")]);
            assert_eq!(event.evidence["error"], "EIO", "{}: {event:?}", way.source);
            assert_eq!(event.evidence["pid"], request.pid, "{}: {event:?}", way.source);
        });
    }

    #[test]
    fn tcp_retransmit() {
        if needs_root() {
            return;
        }
        each("tcp_retransmit", 2, |way| {
            let loss = TcpLoss::establish().unwrap();
            loss.lose(3).unwrap();
            let (local, peer) = (loss.local.to_string(), loss.peer.to_string());
            let event = way.event("kernel_tcp_retransmit", &[("local", &local), ("peer", &peer)]);
            assert_eq!(event.labels.get("pid"), Some(loss.pid.to_string().as_str()), "{}: {event:?}", way.source);
            assert_eq!(event.evidence["state"], "established", "{}: {event:?}", way.source);
        });
    }

    #[test]
    fn fd() {
        if needs_root() {
            return;
        }
        each("fd", 1, |way| {
            let leak = FdExhaustion::cause(Kind::Socket).unwrap();
            let event = way.event("kernel_fd_exhausted", &[("pid", &leak.pid.to_string()), ("comm", leak.comm)]);
            assert_eq!(event.evidence["errno"], "EMFILE", "{}: {event:?}", way.source);
        });
    }
}
