//! More wordings of the kernel: what has no probe, and what drivers say, by generation.

use serde_json::{Value, json};
use sysops_agent::engine::patterns::{self, Patterns};
use sysops_agent::model::Severity::{Critical, Warn};

use super::Host;

const HARDWARE: &str = "kernel_hardware_error";
const FILESYSTEM: &str = "kernel_filesystem_error";
const IO: &str = "kernel_block_io_error";
const LINK: &str = "kernel_link_down";
const OOPS: &str = "kernel_oops";

/// (line, metric, labels, facts)
type Row = (&'static str, &'static str, &'static str, &'static [(&'static str, Fact)]);

enum Fact {
    Number(u64),
    Text(&'static str),
}
use Fact::{Number, Text};

const LINES: &[Row] = &[
    // Devices and arrays.
    (
        "nvme0n1: I/O Cmd(0x2) @ LBA 2048, 8 blocks, I/O Error (sct 0x2 / sc 0x81) ",
        IO,
        r#"{device="nvme0n1"}"#,
        &[("lba", Number(2048)), ("sc", Text("0x81"))],
    ),
    (
        "nvme1n1: Read(0x2) @ LBA 2048, 8 blocks, Unrecovered Read Error (sct 0x2 / sc 0x81) ",
        IO,
        r#"{device="nvme1n1"}"#,
        &[("status", Text("Unrecovered Read Error"))],
    ),
    ("nvme nvme0: I/O 123 QID 4 timeout, aborting", IO, r#"{device="nvme0"}"#, &[("queue", Number(4))]),
    (
        "nvme nvme1: I/O tag 123 (107b) opcode 0x2 (I/O Cmd) QID 4 timeout, aborting req_op:READ(0) size:32768",
        IO,
        r#"{device="nvme1"}"#,
        &[("error", Text("ETIMEDOUT"))],
    ),
    ("nvme nvme0: controller is down; will reset: CSTS=0xffffffff, PCI_STATUS=0x10", IO, r#"{device="nvme0"}"#, &[]),
    ("ata1.00: failed command: READ FPDMA QUEUED", IO, r#"{device="ata1.00"}"#, &[("command", Text("READ FPDMA QUEUED"))]),
    ("md/raid1:md0: Disk failure on sdb1, disabling device.", IO, r#"{array="md0",device="sdb1"}"#, &[]),
    ("device-mapper: multipath: 253:3: Failing path 8:32.", IO, r#"{map="253:3",path="8:32"}"#, &[]),
    // Hardware.
    (
        "EDAC MC0: CE row 1, channel 0, label \"DIMM_A1\": i3200 CE",
        HARDWARE,
        r#"{controller="MC0",kind="memory_corrected"}"#,
        &[],
    ),
    (
        "MCE 0x1f2a3: recovery action for dirty LRU page: Recovered",
        HARDWARE,
        r#"{kind="memory_failure"}"#,
        &[("result", Text("Recovered"))],
    ),
    (
        "Memory failure: 0x1f2a3: recovery action for clean unevictable LRU page: Failed",
        HARDWARE,
        r#"{kind="memory_failure"}"#,
        &[("page_kind", Text("clean unevictable LRU page"))],
    ),
    (
        "pcieport 0000:00:1c.0: PCIe Bus Error: severity=Corrected, type=Physical Layer, id=00e0(Receiver ID)",
        HARDWARE,
        r#"{device="0000:00:1c.0",kind="pcie_corrected"}"#,
        &[("layer", Text("Physical Layer"))],
    ),
    (
        "nvme 0000:03:00.0: AER: PCIe Bus Error: severity=Uncorrected (Non-Fatal), type=Transaction Layer, (Requester ID)",
        HARDWARE,
        r#"{device="0000:03:00.0",kind="pcie_uncorrected"}"#,
        &[("fatal", Text("Non-Fatal"))],
    ),
    (
        "pcieport 0000:00:1c.0: PCIe Bus Error: severity=Correctable, type=Data Link Layer, (Transmitter ID)",
        HARDWARE,
        r#"{device="0000:00:1c.0",kind="pcie_corrected"}"#,
        &[],
    ),
    (
        "NVRM: Xid (0000:3b:00): 31, Ch 00000010, engmask 00000101, intr 10000000",
        HARDWARE,
        r#"{device="0000:3b:00",kind="gpu_xid",xid="31"}"#,
        &[],
    ),
    (
        "NVRM: Xid (PCI:0000:3b:00): 48, pid=4711, name=python, DBE (Double Bit Error) ECC",
        HARDWARE,
        r#"{device="0000:3b:00",kind="gpu_xid",xid="48"}"#,
        &[("pid", Number(4711)), ("comm", Text("python"))],
    ),
    (
        "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
        HARDWARE,
        r#"{device="0000:3b:00",kind="gpu_xid",xid="79"}"#,
        &[],
    ),
    ("NMI: PCI system error (SERR) for reason b1 on CPU 0.", HARDWARE, r#"{kind="nmi"}"#, &[]),
    (
        "thermal thermal_zone0: critical temperature reached(105 C),shutting down",
        HARDWARE,
        r#"{kind="thermal",zone="thermal_zone0"}"#,
        &[("celsius", Number(105))],
    ),
    (
        "thermal thermal_zone3: acpitz: critical temperature reached, shutting down",
        HARDWARE,
        r#"{kind="thermal",zone="thermal_zone3"}"#,
        &[],
    ),
    ("Critical temperature reached (128 C), shutting down.", HARDWARE, r#"{kind="thermal"}"#, &[("celsius", Number(128))]),
    (
        "CPU3: Core temperature above threshold, cpu clock throttled (total events = 12)",
        "kernel_cpu_throttled",
        r#"{scope="core"}"#,
        &[("cpu", Number(3)), ("events", Number(12))],
    ),
    (
        "mce: CPU0: Package temperature above threshold, cpu clock throttled (total events = 1)",
        "kernel_cpu_throttled",
        r#"{scope="package"}"#,
        &[],
    ),
    (
        "CPU0: Package temperature is above threshold, cpu clock is throttled (total events = 1)",
        "kernel_cpu_throttled",
        r#"{scope="package"}"#,
        &[],
    ),
    // File systems.
    (
        "EXT4-fs error (device sda1) in ext4_reserve_inode_write:5687: Journal has aborted",
        FILESYSTEM,
        r#"{device="sda1"}"#,
        &[("function", Text("ext4_reserve_inode_write")), ("source_line", Number(5687))],
    ),
    ("EXT3-fs error (device sdb1): ext3_lookup: deleted inode referenced: 12", FILESYSTEM, r#"{device="sdb1"}"#, &[]),
    ("EXT3-fs (sdb1): error: remounting filesystem read-only", FILESYSTEM, r#"{device="sdb1"}"#, &[]),
    ("FAT-fs (sdc1): Filesystem has been set read-only", FILESYSTEM, r#"{device="sdc1"}"#, &[]),
    ("EXT4-fs (dm-0): I/O error while writing superblock", FILESYSTEM, r#"{device="dm-0"}"#, &[]),
    (
        "EXT4-fs (sda1): Delayed block allocation failed for inode 131 at logical offset 0 with max blocks 8 with error 5",
        FILESYSTEM,
        r#"{device="sda1"}"#,
        &[],
    ),
    ("Aborting journal on device dm-0-8.", FILESYSTEM, r#"{device="dm-0"}"#, &[]),
    ("JBD2: Detected IO errors while flushing file data on sda1-8", FILESYSTEM, r#"{device="sda1"}"#, &[]),
    ("JBD2: Error -5 detected when updating journal superblock for vda1-8.", FILESYSTEM, r#"{device="vda1"}"#, &[]),
    (
        "XFS (dm-2): metadata I/O error: block 0x1e00 (\"xfs_trans_read_buf_map\") error 5 numblks 8",
        FILESYSTEM,
        r#"{device="dm-2"}"#,
        &[("error", Text("metadata I/O error"))],
    ),
    (
        "XFS (sda1): metadata I/O error in \"xfs_da_read_buf+0xd9/0x130\" at daddr 0x8 len 8 error 5",
        FILESYSTEM,
        r#"{device="sda1"}"#,
        &[],
    ),
    ("XFS (sda1): Corruption detected. Unmount and run xfs_repair", FILESYSTEM, r#"{device="sda1"}"#, &[]),
    (
        "XFS (sda1): Metadata CRC error detected at xfs_agf_read_verify+0x12/0x20 [xfs], xfs_agf block 0x1",
        FILESYSTEM,
        r#"{device="sda1"}"#,
        &[],
    ),
    (
        "XFS (sda1): Internal error XFS_WANT_CORRUPTED_GOTO at line 1635 of file fs/xfs/x.c.",
        FILESYSTEM,
        r#"{device="sda1"}"#,
        &[],
    ),
    ("XFS (dm-0): Log I/O Error Detected.  Shutting down filesystem", FILESYSTEM, r#"{device="dm-0"}"#, &[]),
    ("XFS (dm-0): log I/O error -5", FILESYSTEM, r#"{device="dm-0"}"#, &[]),
    (
        "XFS (dm-0): xfs_do_force_shutdown(0x2) called from line 1203 of file fs/xfs/xfs_log.c.",
        FILESYSTEM,
        r#"{device="dm-0"}"#,
        &[],
    ),
    ("XFS (dm-0): Filesystem has been shut down due to log error (0x2).", FILESYSTEM, r#"{device="dm-0"}"#, &[]),
    (
        "BTRFS: error (device sda1) in btrfs_commit_transaction:2236: errno=-5 IO failure (Error while writing out transaction)",
        FILESYSTEM,
        r#"{device="sda1"}"#,
        &[("function", Text("btrfs_commit_transaction"))],
    ),
    (
        "BTRFS error (device sdb state EA): bdev /dev/sdb errs: wr 1, rd 0, flush 0, corrupt 0, gen 0",
        FILESYSTEM,
        r#"{device="sdb"}"#,
        &[],
    ),
    ("BTRFS critical (device dm-1): corrupt leaf: root=5 block=123 slot=1", FILESYSTEM, r#"{device="dm-1"}"#, &[]),
    (
        "BTRFS warning (device sda1): csum failed root 5 ino 257 off 0 csum 0x1 expected csum 0x2 mirror 1",
        FILESYSTEM,
        r#"{device="sda1"}"#,
        &[("damage", Text("csum failed"))],
    ),
    ("BTRFS info (device sda1 state E): forced readonly", FILESYSTEM, r#"{device="sda1"}"#, &[]),
    ("BTRFS (device sdb): parent transid verify failed on 123 wanted 4 found 5", FILESYSTEM, r#"{device="sdb"}"#, &[]),
    // CPUs that are stuck.
    (
        "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-...D } 21005 jiffies s: 5",
        "kernel_lockup",
        r#"{kind="rcu_stall"}"#,
        &[("rcu", Text("rcu_preempt"))],
    ),
    ("INFO: rcu_tasks detected stalls on tasks:", "kernel_lockup", r#"{kind="rcu_stall"}"#, &[]),
    (
        "rcu: rcu_sched kthread starved for 5250 jiffies! g123 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x0 ->cpu=1",
        "kernel_lockup",
        r#"{kind="rcu_stall"}"#,
        &[],
    ),
    (
        "BUG: workqueue lockup - pool cpus=1 node=0 flags=0x0 nice=0 stuck for 33s!",
        "kernel_lockup",
        r#"{cpu="1",kind="workqueue"}"#,
        &[],
    ),
    // The kernel's own faults: 3.10, 4.19, 5.x, 6.x, other processors.
    ("BUG: unable to handle kernel NULL pointer dereference at           (null)", OOPS, "", &[]),
    ("BUG: unable to handle kernel paging request at ffffffffc0000000", OOPS, "", &[]),
    ("BUG: Bad page state in process kswapd0  pfn:1a2b3", OOPS, "", &[]),
    ("BUG: scheduling while atomic: swapper/0/0/0x00000100", OOPS, "", &[]),
    ("BUG: KASAN: slab-use-after-free in x+0x1/0x2", OOPS, "", &[]),
    ("invalid opcode: 0000 [#1] SMP", OOPS, "", &[]),
    ("Oops: general protection fault, probably for non-canonical address 0xdead: 0000 [#1] PREEMPT SMP", OOPS, "", &[]),
    ("Oops: Oops: 0002 [#1] SMP NOPTI", OOPS, "", &[]),
    ("Oops: invalid opcode: 0000 [#2] SMP", OOPS, "", &[]),
    ("Internal error: Oops - BUG: 0 [#1] PREEMPT SMP ARM", OOPS, "", &[]),
    ("Unable to handle kernel NULL pointer dereference at virtual address 0000000000000008", OOPS, "", &[]),
    ("Kernel panic - not syncing: Fatal exception", OOPS, "", &[]),
    // Links and full tables.
    ("igb: eth0 NIC Link is Down", LINK, r#"{interface="eth0"}"#, &[]),
    ("bnx2 0000:01:00.0 em1: NIC Copper Link is Down", LINK, r#"{interface="em1"}"#, &[]),
    ("tg3 0000:02:00.0 eth0: Link is down", LINK, r#"{interface="eth0"}"#, &[]),
    ("mlx4_en: eth2: Link Down", LINK, r#"{interface="eth2"}"#, &[]),
    ("r8169 0000:02:00.0: eth0: link down", LINK, r#"{interface="eth0"}"#, &[]),
    ("fec 30be0000.ethernet eth0: Link is Down", LINK, r#"{interface="eth0"}"#, &[]),
    ("hns3 0000:7d:00.0 eth3: link down", LINK, r#"{interface="eth3"}"#, &[]),
    ("r8152 2-1:1.0 eth1: carrier off", LINK, r#"{interface="eth1"}"#, &[]),
    (
        "bonding: bond0: link status definitely down for interface eth1, disabling it",
        LINK,
        r#"{interface="eth1"}"#,
        &[("bond", Text("bond0"))],
    ),
    ("bond0: (slave eth1): link status definitely down, disabling slave", LINK, r#"{interface="eth1"}"#, &[]),
    ("nf_conntrack: table full, dropping packet", "kernel_conntrack_full", "", &[]),
    ("nf_conntrack: nf_conntrack: table full, dropping packet", "kernel_conntrack_full", "", &[]),
    (
        "nf_conntrack: nf_conntrack: table full in netns 4026531840, dropping packet",
        "kernel_conntrack_full",
        "",
        &[("netns", Number(4_026_531_840))],
    ),
    ("ip_conntrack: table full, dropping packet.", "kernel_conntrack_full", "", &[]),
    ("possible SYN flooding on port 80. Sending cookies.", "kernel_syn_flood", r#"{port="80"}"#, &[]),
    (
        "TCP: TCP: Possible SYN flooding on port 443. Dropping request.  Check SNMP counters.",
        "kernel_syn_flood",
        r#"{port="443"}"#,
        &[("reaction", Text("Dropping request"))],
    ),
    (
        "TCP: request_sock_TCP: Possible SYN flooding on port 8080. Sending cookies.  Check SNMP counters.",
        "kernel_syn_flood",
        r#"{port="8080"}"#,
        &[],
    ),
    (
        "TCP: request_sock_TCP: Possible SYN flooding on port [::]:22. Sending cookies.",
        "kernel_syn_flood",
        r#"{port="22"}"#,
        &[("address", Text("[::]"))],
    ),
    (
        "TCP: request_sock_TCP: Possible SYN flooding on port 10.0.0.1:80. Sending cookies.",
        "kernel_syn_flood",
        r#"{port="80"}"#,
        &[("address", Text("10.0.0.1"))],
    ),
    ("Neighbour table overflow.", "kernel_neighbour_overflow", "", &[]),
    ("neighbour: arp_cache: neighbor table overflow!", "kernel_neighbour_overflow", r#"{table="arp_cache"}"#, &[]),
    // Processes.
    (
        "nginx[1234]: segfault at 0 ip 00007f1c2a3b4c5d sp 00007ffd1a2b3c4d error 4 in libc-2.17.so[7f1c2a300000+1c4000]",
        "kernel_segfault",
        r#"{comm="nginx"}"#,
        &[("pid", Number(1234)), ("object", Text("libc-2.17.so"))],
    ),
    (
        "my [odd] app[7]: segfault at 10 ip 0000000000401136 sp 00007ffd00000000 error 6 likely on CPU 3 (core 3, socket 0)",
        "kernel_segfault",
        r#"{comm="my [odd] app"}"#,
        &[("pid", Number(7))],
    ),
    (
        "traps: python3[42] general protection ip:7f0000000000 sp:7ffd00000000 error:0 in libpython3.so[7f0000000000+1000]",
        "kernel_segfault",
        r#"{comm="python3"}"#,
        &[("pid", Number(42)), ("trap", Text("general protection"))],
    ),
    (
        "traps: a.out[42] trap divide error ip:401136 sp:7ffd00000000 error:0 in a.out[401000+1000]",
        "kernel_segfault",
        r#"{comm="a.out"}"#,
        &[("object", Text("a.out"))],
    ),
    (
        "app[99]: unhandled level 2 translation fault (11) at 0x00000010, esr 0x92000006, in libc.so[ffff1000+1000]",
        "kernel_segfault",
        r#"{comm="app"}"#,
        &[("pid", Number(99))],
    ),
];

#[test]
fn every_family_is_understood_in_every_wording() {
    let mut patterns = Patterns::new();
    let mut wrong = Vec::new();
    for (line, metric, labels, facts) in LINES {
        let Some((pattern, found)) = patterns.read(Host::time(0), line) else {
            wrong.push(format!("no match: {line}"));
            continue;
        };
        let severity = match *metric {
            LINK
            | "kernel_conntrack_full"
            | "kernel_syn_flood"
            | "kernel_neighbour_overflow"
            | "kernel_segfault"
            | "kernel_cpu_throttled" => Warn,
            _ => Critical,
        };
        if (pattern.metric.name, found.labels.to_string().as_str(), pattern.severity) != (*metric, *labels, severity) {
            wrong.push(format!("{} {} {}: {line}", pattern.metric.name, found.labels, pattern.severity));
        }
        for (name, fact) in *facts {
            let fact = match fact {
                Number(number) => json!(number),
                Text(text) => json!(text),
            };
            if found.evidence.get(*name) != Some(&fact) {
                wrong.push(format!("{name} is {:?}: {line}", found.evidence.get(*name).unwrap_or(&Value::Null)));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_pattern_has_a_line_here() {
    let mut patterns = Patterns::new();
    let lines = LINES.iter().map(|row| row.0).chain(super::kernel_log::LINES.iter().map(|row| row.0));
    let seen: Vec<&str> = lines.filter_map(|line| Some(patterns.read(Host::time(0), line)?.0.name)).collect();
    let unseen: Vec<&str> = patterns::all().map(|pattern| pattern.name).filter(|name| !seen.contains(name)).collect();
    assert_eq!(unseen, [""; 0]);
}

#[test]
fn a_service_that_dies_again_and_again_is_one_incident() {
    let mut host = Host::new();
    for pid in 100..200 {
        host.line(&format!("nginx[{pid}]: segfault at 0 ip 00007f1c2a3b4c5d sp 00007ffd1a2b3c4d error 4 in nginx[400000+1000]"));
    }
    assert_eq!(host.only().labels.to_string(), r#"{comm="nginx"}"#);
    assert_eq!(host.engine.open_incidents().map(|incident| incident.count).collect::<Vec<_>>(), [100]);
}
