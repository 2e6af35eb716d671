//! File systems that do not answer, as those of an NFS server which is gone, and a process that is stuck on one, so that reading
//! its command line does not end either.
//!
//! They are FUSE mounts that this process serves, and that it stops to serve. Whoever asks waits in the kernel until it serves
//! them again or the guard is dropped, or until a fatal signal comes, as on NFS. They are in a mount namespace of their own, so
//! that nobody else on this machine asks them; [`DeadMounts::inside`] runs a program there. That one sees the mount table of the
//! namespace as that of PID 1, too. When this process ends, however it ends, the kernel ends the mounts.
//!
//! A command line that lies in a page of such a file system would not do: since CVE-2018-1120 the kernel reads none there. So
//! the process has its memory map locked instead, as those have in life that are stuck in a page fault.

use std::ffi::{CStr, CString};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::process::Signal;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::poll;
use super::process::{ForkedChild, pause};
use super::undo::Undo;

/// Command name of the process that gets stuck.
const COMM: &str = "stuck-on-mount";
/// A bound against hanging.
const SOON: Duration = Duration::from_secs(5);

/// What the server does.
const ANSWER: u8 = 0;
const BE_SILENT: u8 = 1;
const SILENT: u8 = 2;
const END: u8 = 3;

/// Mounted file systems and a process, as said above. They answer until [`fall_silent`](Self::fall_silent) is called.
#[derive(Debug)]
pub struct DeadMounts {
    server: Option<JoinHandle<()>>,
    mode: Arc<AtomicU8>,
    namespace: PathBuf,
    process: ForkedChild,
    /// Where they are mounted.
    pub mount_points: Vec<PathBuf>,
    _undo: Undo,
}

impl DeadMounts {
    /// Mounts `count` file systems.
    ///
    /// # Errors
    /// If the kernel has no FUSE, or a step fails; then everything is undone.
    pub fn mount(count: usize) -> Result<Self> {
        let mut undo = Undo::new()?;
        let directory = undo.directory()?;
        let mount_points: Vec<PathBuf> = (0..count).map(|index| directory.join(format!("dead-{index}"))).collect();
        let mode = Arc::new(AtomicU8::new(ANSWER));
        let (ready, is_ready) = channel();
        let server = {
            let (mode, points) = (Arc::clone(&mode), mount_points.clone());
            thread::Builder::new().name("fuse-server".to_owned()).spawn(move || live(&points, &directory, &mode, &ready))
        };
        let server = Some(server.context("cannot start a thread")?);
        // Where the server ends early it says why.
        let (namespace, process) = is_ready.recv().context("the FUSE server ended early")??;
        let mounts = Self { server, mode, namespace, process, mount_points, _undo: undo };
        mounts.wait_for_state('T')?;
        Ok(mounts)
    }

    /// From now on they do not answer, and the process is stuck.
    ///
    /// # Errors
    /// If the process is not stuck within 5 s.
    pub fn fall_silent(&self) -> Result<()> {
        // The server may be about to answer one more request.
        self.mode.store(BE_SILENT, Ordering::Release);
        poll("the silence of the FUSE server", SOON, || Ok((self.mode.load(Ordering::Acquire) == SILENT).then_some(())))?;
        self.process.signal(Signal::CONT)?;
        self.wait_for_state('D')
    }

    fn wait_for_state(&self, state: char) -> Result<()> {
        let (path, state) = (format!("/proc/{}/stat", self.pid()), format!("({COMM}) {state} "));
        poll("the process that is to be stuck", SOON, || {
            self.process.check_alive()?;
            let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            Ok(stat.contains(&state).then_some(()))
        })
    }

    /// From now on they answer again, also what was asked meanwhile.
    pub fn answer(&self) {
        self.mode.store(ANSWER, Ordering::Relaxed);
    }

    /// The process that is stuck on the first of them.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A command that runs `program` where they are mounted.
    pub fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount={}", self.namespace.display())).arg(program);
        command
    }
}

impl Drop for DeadMounts {
    fn drop(&mut self) {
        self.mode.store(END, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            // It never waits for long, and the kernel ends the mounts when it closes their descriptors.
            let _ = server.join();
        }
    }
}

/// How long the server rests where there is nothing to do.
const REST: Duration = Duration::from_millis(1);

/// The life of the server's thread, which alone is in the namespace.
fn live(points: &[PathBuf], directory: &Path, mode: &AtomicU8, ready: &Sender<Result<(PathBuf, ForkedChild)>>) {
    let prepared = prepare(points, directory);
    let connections = match prepared {
        Ok((connections, namespace, process)) => {
            let _ = ready.send(Ok((namespace, process)));
            connections
        }
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let mut buffer = vec![0; 64 << 10];
    loop {
        match mode.load(Ordering::Relaxed) {
            END => return,
            ANSWER => {
                if !connections.iter().any(|connection| answer_one(connection, &mut buffer)) {
                    thread::sleep(REST);
                }
            }
            now => {
                // Nothing else may have been asked for meanwhile.
                let _ = mode.compare_exchange(now, SILENT, Ordering::AcqRel, Ordering::Relaxed);
                thread::sleep(REST);
            }
        }
    }
}

fn prepare(points: &[PathBuf], directory: &Path) -> Result<(Vec<File>, PathBuf, ForkedChild)> {
    // SAFETY: descriptors stay shared; the root directory and the mounts alone become this thread's own.
    unsafe { unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }.context("cannot make a mount namespace")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).context("cannot make mounts private")?;
    let mut connections = Vec::new();
    for point in points {
        fs::create_dir(point).with_context(|| format!("cannot make {}", point.display()))?;
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/fuse")
            .context("cannot open /dev/fuse: this kernel has no FUSE")?;
        let options = CString::new(format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd()))?;
        mount("sysops-fault", point, "fuse", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())
            .with_context(|| format!("cannot mount a FUSE file system on {}", point.display()))?;
        connections.push(device);
    }
    // A text of its own: the file of PID 1 tells of another namespace.
    let table = directory.join("mountinfo");
    fs::copy("/proc/thread-self/mountinfo", &table).context("cannot copy /proc/thread-self/mountinfo")?;
    mount_bind(&table, "/proc/1/mountinfo").context("cannot put a mount table in place of that of PID 1")?;
    let file = points.first().context("no mount point")?.join("cmdline");
    let file = CString::new(file.as_os_str().as_bytes())?;
    let mut blocker = Blocker { file: &file, begun: false };
    // SAFETY: the step makes only system calls.
    let process = unsafe { ForkedChild::fork(COMM, || blocker.step())? };
    let thread = rustix::thread::gettid().as_raw_nonzero();
    Ok((connections, format!("/proc/{}/task/{thread}/ns/mnt", std::process::id()).into(), process))
}

/// A process that holds up whoever reads its memory, as its command line is read: one thread reads a page of `file` through
/// `/proc/self/mem`, and holds the lock of the memory map meanwhile; the other waits for that lock as a writer, which lets
/// no reader pass. It stops itself until it is to begin.
struct Blocker<'a> {
    file: &'a CStr,
    begun: bool,
}

impl Blocker<'_> {
    /// One step of the forked child; makes only system calls.
    fn step(&mut self) -> bool {
        if !std::mem::replace(&mut self.begun, true) {
            return self.begin();
        }
        pause(10);
        // SAFETY: a mapping of its own, which nothing refers to.
        unsafe {
            let page = libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
            page != libc::MAP_FAILED && libc::munmap(page, PAGE) == 0
        }
    }

    fn begin(&self) -> bool {
        const THREAD: libc::c_int =
            libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
        // SAFETY: plain system calls; the strings end with a zero. The stack is never given back, so that it outlives the thread.
        unsafe {
            let file = libc::open(self.file.as_ptr(), libc::O_RDONLY);
            let page = libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ, libc::MAP_PRIVATE, file, 0);
            let shared = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let stack = libc::mmap(std::ptr::null_mut(), STACK, libc::PROT_READ | libc::PROT_WRITE, shared, -1, 0);
            if file < 0 || page == libc::MAP_FAILED || stack == libc::MAP_FAILED {
                return false;
            }
            libc::raise(libc::SIGSTOP);
            libc::clone(read_memory, stack.byte_add(STACK), THREAD, page) > 0
        }
    }
}

const PAGE: usize = 4096;
const STACK: usize = 64 << 10;

/// Reads a byte of this process' memory as others would.
extern "C" fn read_memory(place: *mut libc::c_void) -> libc::c_int {
    let mut byte = 0_u8;
    // SAFETY: plain system calls; the buffer holds what is read.
    unsafe {
        let memory = libc::open(c"/proc/self/mem".as_ptr(), libc::O_RDONLY);
        let place = libc::off_t::try_from(place.addr()).unwrap_or_default();
        libc::pread(memory, (&raw mut byte).cast(), 1, place);
    }
    0
}

/// Bytes of `struct fuse_in_header` (include/uapi/linux/fuse.h).
const HEADER: usize = 40;

/// Answers the next request of a connection, where there is one.
fn answer_one(mut connection: &File, buffer: &mut [u8]) -> bool {
    // Nothing to read, or an end of the connection.
    let Ok(len) = connection.read(buffer) else { return false };
    let request = buffer.get(..len).unwrap_or_default();
    let word = |at: usize| request.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    let (Some(opcode), Some(unique), Some(node)) = (word(4), request.get(8..16), word(16)) else { return true };
    let (error, content) = match opcode {
        // FORGET, INTERRUPT and BATCH_FORGET have no answer.
        2 | 36 | 42 => return true,
        // LOOKUP: node 2, good for ever.
        1 => (0, [&words64(&[2, 0, u64::from(u32::MAX), u64::from(u32::MAX), 0])[..], &attributes(2)].concat()),
        // GETATTR
        3 => (0, [&words64(&[u64::from(u32::MAX), 0])[..], &attributes(node)].concat()),
        // OPEN
        14 => (0, words64(&[0, 0])),
        // READ
        15 => (0, b"answered".repeat(usize::try_from(word(HEADER + 16).unwrap_or_default()).unwrap_or_default() / 8)),
        // STATFS: 1000 blocks of 4 KiB, half of them free, 100 inodes.
        17 => (0, [words64(&[1000, 500, 500, 100, 50]), words32(&[4096, 255, 4096]), vec![0; 28]].concat()),
        // RELEASE, FLUSH, RELEASEDIR and DESTROY
        18 | 25 | 29 | 38 => (0, Vec::new()),
        // INIT: version 7.31, and no feature of those that are offered.
        26 => (0, [words32(&[7, 31, 0, 0, 0, 4096]), vec![0; 40]].concat()),
        _ => (-libc::ENOSYS, Vec::new()),
    };
    let len = u32::try_from(16 + content.len()).unwrap_or(u32::MAX);
    let answer = [&len.to_ne_bytes()[..], &error.to_ne_bytes(), unique, &content].concat();
    // Whoever asked may have given up.
    let _ = connection.write(&answer);
    true
}

/// `struct fuse_attr` of the root directory (1), or of the one file.
fn attributes(node: u32) -> Vec<u8> {
    let (mode, size) = if node == 1 { (0o40_755, 0) } else { (0o100_444, 1 << 20) };
    [words64(&[u64::from(node), size, 8, 0, 0, 0]), words32(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0])].concat()
}

fn words64(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn words32(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::time::Instant;

    use super::*;
    use crate::faults::{KillOnDrop, needs_root};

    /// Starts `program`, there, on something that does not answer.
    fn ask(mounts: &DeadMounts, program: &str, path: &Path) -> KillOnDrop {
        let mut command = mounts.inside(Path::new(program));
        KillOnDrop::new(command.arg(path).stdout(Stdio::null()).spawn().unwrap())
    }

    #[test]
    fn who_asks_waits_until_it_is_answered_and_dies_of_a_signal() {
        if needs_root() {
            return;
        }
        let mounts = DeadMounts::mount(2).unwrap();
        let cmdline = PathBuf::from(format!("/proc/{}/cmdline", mounts.pid()));
        let places = [("df", &mounts.mount_points[0]), ("df", &mounts.mount_points[1]), ("cat", &cmdline)];
        mounts.fall_silent().unwrap();
        let mut asking = places.map(|(program, path)| ask(&mounts, program, path));
        let started = Instant::now();
        // Each is stuck, and stays so for longer than any answer takes.
        while started.elapsed() < Duration::from_secs(1) {
            let ended: Vec<_> = asking.iter_mut().map(|process| process.child().try_wait().unwrap()).collect();
            assert!(ended.iter().all(Option::is_none), "{ended:?}");
        }
        let killed = &mut asking[0];
        killed.child().kill().unwrap();
        killed.wait(SOON).unwrap();
        mounts.answer();
        for process in asking.iter_mut().skip(1) {
            assert!(process.wait(SOON).unwrap().success());
        }
    }

    #[test]
    fn the_end_frees_who_waits() {
        if needs_root() {
            return;
        }
        let mounts = DeadMounts::mount(1).unwrap();
        mounts.fall_silent().unwrap();
        let (pid, cmdline) = (mounts.pid(), PathBuf::from(format!("/proc/{}/cmdline", mounts.pid())));
        let mut asking = [ask(&mounts, "df", &mounts.mount_points[0]), ask(&mounts, "cat", &cmdline)];
        for (process, state) in asking.iter().zip(["(df) S", "(cat) D"]) {
            let stat = format!("/proc/{}/stat", process.pid());
            poll("a process that waits", SOON, || Ok(fs::read_to_string(&stat)?.contains(state).then_some(()))).unwrap();
        }
        drop(mounts);
        for process in &mut asking {
            process.wait(SOON).unwrap();
        }
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
