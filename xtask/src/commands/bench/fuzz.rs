//! Every fuzz target of `fuzz/` for a while, from seeds that are real or close to it.
//!
//! The pinned stable compiler builds them, with leave to use the unstable flags of the sanitizer. What the targets find
//! interesting stays in `fuzz/corpus`, so that the next run goes on from there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, process};

use anyhow::{Context, Result, bail};

use crate::workspace::{cargo, find_program, root, run as start};

#[path = "../../../../fuzz/src/files.rs"]
mod files;

/// Longest that one input may take, in seconds: an instrumented program on a busy machine.
const TIMEOUT: u32 = 25;

/// Lines of the kernel log, one of each generation.
const KERNEL_LOG: &str = "\
Out of memory: Killed process 1234 (stress) total-vm:204800kB, anon-rss:51200kB, file-rss:128kB, shmem-rss:0kB, UID:1000 pgtables:160kB oom_score_adj:0
oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a,task_memcg=/a/b,task=stress,pid=1234,uid=1000
Task in /a/b killed as a result of limit of /a
stress invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
CPU: 1 UID: 0 PID: 1234 Comm: stress Not tainted 6.12.0
Killed process 1234 (stress) total-vm:204800kB, anon-rss:51200kB, file-rss:128kB
INFO: task nfsd:1234 blocked for more than 120 seconds.
blk_update_request: I/O error, dev sda, sector 2048 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0
Buffer I/O error on dev sda1, logical block 0, async page read
EXT4-fs error (device sda1): ext4_lookup:1700: inode #2: comm ls: deleted inode referenced: 12
EXT4-fs (sda1): Remounting filesystem read-only
mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 4: 9c00000000000000
EDAC MC0: 1 CE memory read error on CPU_SrcID#0_Ha#0_Chan#0_DIMM#0
watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [stress:1234]
rcu: INFO: rcu_sched self-detected stall on CPU
e1000e 0000:00:1f.6 eth0: NIC Link is Down
";

const FORMAT: &str = "name: mark_victim\nID: 299\nformat:\n\
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
\tfield:int pid;\toffset:8;\tsize:4;\tsigned:1;\n\tfield:__data_loc char[] comm;\toffset:12;\tsize:4;\tsigned:0;\n\
\tfield:unsigned long total_vm;\toffset:16;\tsize:8;\tsigned:0;\n\tfield:dev_t dev;\toffset:24;\tsize:4;\tsigned:0;\n\
\tfield:char rwbs[10];\toffset:34;\tsize:10;\tsigned:0;\n\tfield:__u8 saddr_v6[16];\toffset:40;\tsize:16;\tsigned:0;\n";

/// Builds all targets, and runs each for some seconds. The first input that breaks one ends it.
pub fn run(seconds: u32) -> Result<()> {
    if find_program("cargo-fuzz").is_none() {
        start(cargo()?.args(["install", "cargo-fuzz", "--locked"]))
            .context("cargo-fuzz could not be installed; it comes from the registry that cargo uses")?;
    }
    let fuzz = root()?.join("fuzz");
    start(cargo_fuzz("build")?.arg("--fuzz-dir").arg(&fuzz))?;
    // In memory: on a disk, writing files made some targets nearly thirty times slower.
    let memory = Path::new("/dev/shm");
    let temporary =
        if memory.is_dir() { memory.join(format!("sysops-agent-fuzz-{}", process::id())) } else { fuzz.join("target/hosts") };
    fs::create_dir_all(&temporary).with_context(|| format!("cannot make {}", temporary.display()))?;
    let mut failure = None;
    for target in targets(&fuzz)? {
        seed(&fuzz, &target)?;
        let before = artifacts(&fuzz, &target);
        let mut command = cargo_fuzz("run")?;
        command.arg("--fuzz-dir").arg(&fuzz).arg(&target).arg(fuzz.join("corpus").join(&target)).args(seeds_of_others(&target)?);
        command.args(["--", &format!("-max_total_time={seconds}"), &format!("-timeout={TIMEOUT}"), "-print_final_stats=1"]);
        if let Err(error) = start(command.env("TMPDIR", &temporary)) {
            let new: Vec<String> = artifacts(&fuzz, &target).into_iter().filter(|path| !before.contains(path)).collect();
            failure = Some(error.context(match new.as_slice() {
                [] => format!("the fuzz target {target} failed"),
                inputs => format!("the fuzz target {target} failed on the input {}", inputs.join(", ")),
            }));
            break;
        }
    }
    // Copies of hosts that the targets made.
    let _ = fs::remove_dir_all(&temporary);
    failure.map_or(Ok(()), Err)
}

fn cargo_fuzz(subcommand: &str) -> Result<Command> {
    let mut command = cargo()?;
    command.args(["fuzz", subcommand]).env("RUSTC_BOOTSTRAP", "1");
    Ok(command)
}

fn targets(fuzz: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = list(&fuzz.join("fuzz_targets"))
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_str()?.strip_suffix(".rs")?.to_owned()))
        .collect();
    names.sort();
    if names.is_empty() { bail!("{} holds no targets", fuzz.display()) } else { Ok(names) }
}

/// What the target found that breaks it.
fn artifacts(fuzz: &Path, target: &str) -> Vec<String> {
    list(&fuzz.join("artifacts").join(target)).iter().map(|path| path.display().to_string()).collect()
}

fn list(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Directories of the repository whose files are good inputs as they are.
fn seeds_of_others(target: &str) -> Result<Vec<PathBuf>> {
    let root = root()?;
    let of_process = |host: &str| root.join("agent/tests/hosts").join(host).join("proc/2211");
    Ok(match target {
        "config" => vec![root.join("config"), root.join("agent/tests/configs/invalid")],
        "processes" => vec![of_process("server64"), of_process("centos7")],
        _ => Vec::new(),
    })
}

/// Puts the first inputs of a target where it looks for them.
fn seed(fuzz: &Path, target: &str) -> Result<()> {
    let hosts = root()?.join("agent/tests/hosts");
    let of_hosts = |file: &str| -> Vec<Vec<u8>> {
        list(&hosts).iter().filter_map(|host| fs::read(host.join("proc/1").join(file)).ok()).collect()
    };
    let text = |text: &str| text.as_bytes().to_vec();
    let inputs: Vec<Vec<u8>> = match target {
        "collectors" => numbered(files::FILES.iter().flat_map(|(host, _, file)| {
            // Where a host has a later state of the file, that is the other.
            [hosts.join(host).join(file), hosts.join(host).join("later").join(file)]
                .map(|path| fs::read(path).unwrap_or_default())
        }))
        .map(|(number, input)| with_number(number / 2, &input))
        .collect(),
        "mountinfo" => of_hosts("mountinfo"),
        "sockets" => of_hosts("net/tcp").into_iter().chain(of_hosts("net/tcp6")).collect(),
        "processes" => {
            ["9:memory:/app/a:b\n0::/unified\n", "[<0>] percpu_rwsem_wait+0x10/0x20\n", "0 0x1 0x2\n"].map(text).into()
        }
        "kmsg" => numbered(KERNEL_LOG.lines())
            .map(|(number, line)| format!("{},{number},5000000,-;{line}\n SUBSYSTEM=block\n", number % 8).into_bytes())
            .collect(),
        "patterns" => KERNEL_LOG.lines().map(text).chain([text(KERNEL_LOG)]).collect(),
        "log_lines" => KERNEL_LOG
            .lines()
            .flat_map(|line| {
                [
                    "Nov 21 16:52:04 web-01 kernel: [ 12.5] ",
                    "<3>1 2026-11-21T16:52:04.5Z web-01 app 7 ID [a b=\"c\"] ",
                    "[Sat Nov 21 16:52:04 2026] ",
                ]
                .map(|begin| with_number(16, format!("{begin}{line}\n").as_bytes()))
            })
            .collect(),
        "journal" => vec![
            text(
                r#"{"__CURSOR":"s=1;t=2","__REALTIME_TIMESTAMP":"1795279924000000","_TRANSPORT":"kernel","MESSAGE":[104,105,255]}"#,
            ),
            b"__CURSOR=s=1\nSYSLOG_IDENTIFIER=app\nMESSAGE\n\x04\0\0\0\0\0\0\0a\nb\xff\n_PID=7\n\n".to_vec(),
        ],
        "messages" => numbered([
            "OOM killer killed java\0cgroup\0/app\0stack\0oom_kill+0x1/0x2\nout_of_memory\0kernel_oom_kill",
            "*b* _i_ `c` <b>&amp; <@U1> <!channel> @everyone [l](https://example.org/)\0comm\0```\0list\0\x1b[2J\0m",
        ])
        .flat_map(|(number, input)| [0, 3, 64, 128].map(|kind| with_number(number + kind, input.as_bytes())))
        .collect(),
        "tracefs" => vec![text(FORMAT)],
        "btf" => vec![btf()],
        "sock_diag" => {
            let listening = [&[2, 10][..], &[0; 70]].concat();
            vec![sock_diag(20, &listening), sock_diag(2, &[0xfe, 0xff, 0xff, 0xff]), sock_diag(3, &[])]
        }
        // No record is longer, and each is a multiple of four.
        "records" => {
            (0..8_usize).flat_map(|probe| (4..=512).step_by(4).map(move |len| with_number(probe, &vec![1; len]))).collect()
        }
        _ => Vec::new(),
    };
    let directory = fuzz.join("corpus").join(target);
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    for (number, input) in numbered(inputs) {
        let path = directory.join(format!("seed-{number}"));
        fs::write(&path, input).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn numbered<T>(of: impl IntoIterator<Item = T>) -> impl Iterator<Item = (usize, T)> {
    of.into_iter().enumerate()
}

/// An input that begins with the number of what reads it.
fn with_number(number: usize, rest: &[u8]) -> Vec<u8> {
    let number = u8::try_from(number).unwrap_or(u8::MAX);
    [&[number], rest].concat()
}

/// One message of an answer (netlink(7)).
fn sock_diag(kind: u16, content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(16 + content.len()).unwrap_or(u32::MAX);
    [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], content].concat()
}

/// `struct request { void *q; union { int __data_len; }; }` and the tracepoint block_rq_issue with one argument
/// (Documentation/bpf/btf.rst).
fn btf() -> Vec<u8> {
    let strings = b"\0request\0q\0__data_len\0btf_trace_block_rq_issue\0";
    let [request, q, data_len, trace] = [1, 9, 11, 22];
    let types = [
        // 1: int; 2: a pointer; 3: the union; 4: the structure; 5: the prototype; 6: a pointer to it; 7: its name.
        &[0, 1 << 24, 4, 32][..],
        &[0, 2 << 24, 0],
        &[0, (5 << 24) | 1, 4, data_len, 1, 0],
        &[request, (4 << 24) | 2, 16, q, 2, 0, 0, 3, 64],
        &[0, (13 << 24) | 2, 0, 0, 2, 0, 2],
        &[0, 2 << 24, 5],
        &[trace, 8 << 24, 6],
    ]
    .concat();
    let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let header: Vec<u8> = [24, 0, len(&types), len(&types), len(strings)].into_iter().flat_map(u32::to_ne_bytes).collect();
    [&0xeb9f_u16.to_ne_bytes()[..], &[1, 0], &header, &types, strings].concat()
}
