//! Room on the mounted file systems: the mount table and statvfs(3).
//!
//! A file system that does not answer (a dead NFS server, a hung FUSE daemon) is reported as stuck and asked again only after
//! the kernel has let go of the last question. What happens on the devices below is in `disk_io`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{StatVfs, statvfs};

use super::entities::Entities;
use super::interval::percent;
use super::{Batch, Collector, Row, keys, metrics};
use crate::host::{Host, Isolate, Mount, ProcFile, Question, ReadError, Stuck, parse_mount};
use crate::model::{Labels, SeriesKey};

pub const ROW: Row = Row {
    name: "disk",
    summary: "room and inodes of the mounted file systems",
    source: "/proc/1/mountinfo, statvfs",
    interval: |config| config.collector.disk_interval,
    build: |_, host| Box::new(Disk::new(host)),
    metrics: METRICS,
};

metrics! {
    gauge SIZE: Bytes = "disk_size_bytes", "Size of the file system (statvfs f_blocks).";
    gauge USED: Bytes = "disk_used_bytes", "Space in use (statvfs f_blocks less f_bfree).";
    gauge AVAILABLE: Bytes = "disk_available_bytes", "Space that unprivileged users can still take (statvfs f_bavail).";
    gauge USAGE: Percent = "disk_usage_percent", "Space used, by what is used and available together, as df shows it.";
    gauge INODES: Count = "disk_inodes", "Inodes of the file system; absent where it has no fixed number (statvfs f_files).";
    gauge INODE_USAGE: Percent = "disk_inode_usage_percent",
        "Inodes in use; absent where the file system has no fixed number (statvfs).";
    gauge READ_ONLY: Boolean = "disk_read_only",
        "Whether writing is refused, by the mount or, as after an error, by the file system (/proc/PID/mountinfo).";
    gauge STUCK: Boolean = "disk_stuck", "Whether the file system did not answer in time (statvfs).";
}

/// How long a file system may take to answer. Local ones take microseconds, and all collectors wait for this one: the slow ones
/// are waited for together.
const DEADLINE: Duration = Duration::from_secs(1);

/// How long each is waited for before the next one is asked.
const GLANCE: Duration = Duration::from_millis(20);

/// File systems of other machines and of programs, by the beginnings of their types: there may be many of them, and one dead
/// server holds them all up.
const REMOTE: [&str; 14] =
    ["9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse", "gluster", "gpfs", "lustre", "nfs", "ocfs2", "smb", "virtiofs"];

/// Most threads that wait for those at a time.
const REMOTE_THREADS: usize = 64;

/// File systems that hold nothing which could fill up: the kernel's own, and images that are full by nature.
const PSEUDO: [&str; 27] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "erofs",
    "fuse.lxcfs",
    "fuse.portal",
    "fusectl",
    "hugetlbfs",
    "iso9660",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "ramfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "squashfs",
    "sysfs",
    "tracefs",
];

/// Directories below which mounts are the business of the kernel, of systemd or of a container runtime.
const FOREIGN: [&str; 6] =
    ["/proc", "/sys", "/run/credentials", "/var/lib/docker", "/var/lib/containers/storage", "/var/lib/kubelet/pods"];

/// What names a file system; another one at the same mount point is another series.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    point: PathBuf,
    device: String,
    fstype: String,
}

struct Disk {
    host: Host,
    mountinfo: ProcFile,
    places: Entities<Place, [SeriesKey; 8]>,
    /// Threads for remote file systems alone: what does not answer takes none from others.
    remote: Isolate,
}

type Answer = Result<rustix::io::Result<StatVfs>, Stuck>;

impl Disk {
    fn new(host: &Host) -> Self {
        Self {
            host: host.clone(),
            mountinfo: ProcFile::new(host.procfs_of_init("mountinfo")),
            places: Entities::default(),
            remote: Isolate::with_threads(REMOTE_THREADS),
        }
    }

    fn ask(&self, place: &Place) -> Result<Question<rustix::io::Result<StatVfs>>, Stuck> {
        let is_remote = REMOTE.iter().any(|beginning| place.fstype.starts_with(beginning));
        let threads = if is_remote { &self.remote } else { self.host.isolate() };
        let path = self.host.rootfs(&place.point);
        threads.ask(&subject(&place.point), move || statvfs(&path))
    }

    fn tell(&mut self, batch: &mut Batch, place: &Place, read_only: bool, answer: Answer) {
        // A pseudo file system that the table does not know has no size.
        if answer.as_ref().is_ok_and(|answer| answer.as_ref().is_ok_and(|room| room.f_blocks == 0)) {
            return;
        }
        self.places.see(
            place,
            || series(place),
            |series| {
                let [rest @ .., read_only_series, stuck] = &*series;
                batch.push(read_only_series, f64::from(u8::from(read_only)));
                match answer {
                    Err(error) => {
                        if error.was_asked() {
                            batch.push(stuck, 1.0);
                        }
                        batch.skip(|| error.to_string());
                    }
                    Ok(Err(error)) => {
                        batch.skip(|| format!("cannot ask {} for its room: {error}", subject(&place.point)));
                    }
                    Ok(Ok(room)) => {
                        batch.push(stuck, 0.0);
                        for (series, value) in rest.iter().zip(measure(&room)) {
                            if let Some(value) = value {
                                batch.push(series, value);
                            }
                        }
                    }
                }
            },
        );
    }
}

impl Collector for Disk {
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let mut mounts = Vec::new();
        batch.lines(self.mountinfo.read()?, |_, line| {
            mounts.push(parse_mount(line)?);
            Ok(())
        });
        let mut slow = Vec::new();
        for Mount { point, fstype, source, read_only, .. } in choose(mounts) {
            let place = Place { point, device: source, fstype };
            let answer = match self.ask(&place) {
                Err(stuck) => Err(stuck),
                Ok(question) => match question.wait(GLANCE) {
                    Some(answer) => answer,
                    None => {
                        slow.push((place, read_only, question));
                        continue;
                    }
                },
            };
            self.tell(batch, &place, read_only, answer);
        }
        let deadline = Instant::now() + DEADLINE;
        for (place, read_only, question) in slow {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = question.wait(left).unwrap_or_else(|| Err(question.give_up(DEADLINE)));
            self.tell(batch, &place, read_only, answer);
        }
        self.places.end_run();
        Ok(())
    }
}

fn subject(point: &Path) -> String {
    format!("the file system at {}", point.display())
}

fn series(Place { point, device, fstype }: &Place) -> [SeriesKey; 8] {
    let labels =
        Labels::new().with("mount", point.to_string_lossy()).with("device", device.clone()).with("fstype", fstype.clone());
    keys([&SIZE, &USED, &AVAILABLE, &USAGE, &INODES, &INODE_USAGE, &READ_ONLY, &STUCK], &labels)
}

/// Size, used, available, usage, inodes and inode usage.
fn measure(room: &StatVfs) -> [Option<f64>; 6] {
    let bytes = |blocks: u64| blocks as f64 * room.f_frsize as f64;
    let size = bytes(room.f_blocks);
    let used = bytes(room.f_blocks.saturating_sub(room.f_bfree));
    let available = bytes(room.f_bavail);
    let inodes = (room.f_files > 0).then_some(room.f_files as f64);
    let inodes_used = room.f_files.saturating_sub(room.f_ffree) as f64;
    [
        Some(size),
        Some(used),
        Some(available),
        percent(used, used + available),
        inodes,
        inodes.and_then(|inodes| percent(inodes_used, inodes)),
    ]
}

/// The mounts worth watching: of each file system the one with the shortest path, and nothing that another mount hides.
fn choose(mounts: Vec<Mount>) -> Vec<Mount> {
    let mut visible = Vec::<Mount>::new();
    let mut at = HashMap::new();
    for mount in mounts {
        let index = *at.entry(mount.point.clone()).or_insert(visible.len());
        match visible.get_mut(index) {
            Some(hidden) => *hidden = mount,
            None => visible.push(mount),
        }
    }
    visible.retain(is_watched);
    visible.sort_by_key(|mount| mount.point.as_os_str().len());
    let mut seen = HashSet::new();
    visible.retain(|mount| seen.insert(mount.device));
    visible
}

fn is_watched(mount: &Mount) -> bool {
    // An overlay is a view of another file system, unless it is all that there is.
    let is_view = mount.fstype == "overlay" && mount.point != Path::new("/");
    !is_view && !PSEUDO.contains(&mount.fstype.as_str()) && !FOREIGN.iter().any(|directory| mount.point.starts_with(directory))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::config::HostRoots;

    fn chosen(table: &[u8]) -> Vec<String> {
        let mounts = table.split(|&byte| byte == b'\n').map(|line| parse_mount(line).unwrap()).collect();
        choose(mounts).into_iter().map(|mount| format!("{} {}", mount.point.display(), mount.fstype)).collect()
    }

    #[test]
    fn only_file_systems_that_can_fill_up_are_watched() {
        let table = b"22 27 0:21 / /proc rw - proc proc rw\n\
            23 27 0:22 / /sys rw - sysfs sysfs rw\n\
            31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
            24 27 0:6 / /dev rw - devtmpfs udev rw\n\
            25 24 0:23 / /dev/shm rw - tmpfs tmpfs rw\n\
            27 1 254:0 / / rw - ext4 /dev/vda rw\n\
            90 27 7:1 / /snap/core/1 ro - squashfs /dev/loop1 ro\n\
            91 27 0:70 / /var/lib/docker/overlay2/a/merged rw - overlay overlay rw\n\
            92 27 0:71 / /mnt/nfs rw - nfs4 nas:/export rw";
        assert_eq!(chosen(table), ["/ ext4", "/dev/shm tmpfs", "/mnt/nfs nfs4"]);
    }

    #[test]
    fn a_file_system_counts_once_and_a_hidden_one_does_not_count() {
        let table = b"1 0 0:1 / / rw - rootfs rootfs rw\n\
            27 1 254:0 / / rw - ext4 /dev/vda rw\n\
            28 27 254:0 /srv/www /var/chroot/www rw - ext4 /dev/vda rw\n\
            29 27 0:40 /@home /home rw - btrfs /dev/vdb rw\n\
            30 27 0:40 /@ /b rw - btrfs /dev/vdb rw";
        assert_eq!(chosen(table), ["/ ext4", "/b btrfs"]);
    }

    #[test]
    fn usage_is_what_df_shows() {
        let mut room = statvfs("/").unwrap();
        (room.f_frsize, room.f_blocks, room.f_bfree, room.f_bavail) = (4096, 1000, 300, 250);
        (room.f_files, room.f_ffree) = (100, 25);
        let blocks = |number: f64| Some(number * 4096.0);
        let used = 700.0 / 950.0 * 100.0;
        assert_eq!(measure(&room), [blocks(1000.0), blocks(700.0), blocks(250.0), Some(used), Some(100.0), Some(75.0)]);
        (room.f_files, room.f_ffree) = (0, 0);
        assert!(matches!(measure(&room), [.., None, None]), "btrfs and vfat have no fixed number of inodes");
    }

    #[test]
    fn a_file_system_that_does_not_answer_costs_only_itself() {
        let directory = std::env::temp_dir().join(format!("sysops-agent-disk-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("1")).unwrap();
        let table = "27 1 254:0 / / rw - ext4 /dev/vda rw\n92 27 0:71 / /dead rw - nfs4 nas:/export rw\n";
        std::fs::write(directory.join("1/mountinfo"), table).unwrap();
        let host = Host::new(HostRoots { procfs: directory.clone(), ..HostRoots::default() });

        // The question about /dead blocks in the kernel, in `read` of a pipe, as long as the writer lives.
        let (mut reader, _writer) = std::io::pipe().unwrap();
        let question = subject(Path::new("/dead"));
        let mut disk = Disk::new(&host);
        disk.remote
            .call(&question, Duration::from_millis(1), move || {
                let _ = reader.read(&mut [0]);
            })
            .unwrap_err();

        let mut batch = Batch::new(Instant::now());
        disk.collect(&mut batch).unwrap();
        let value = |name: &str, mount: &str| {
            let of = |sample: &&crate::model::Sample| {
                sample.series.metric().name == name && sample.series.labels().get("mount") == Some(mount)
            };
            batch.samples.iter().find(of).map(|sample| sample.value)
        };
        assert_eq!(value("disk_stuck", "/dead"), Some(1.0));
        assert_eq!(value("disk_usage_percent", "/dead"), None);
        assert_eq!(value("disk_stuck", "/"), Some(0.0));
        assert!(value("disk_usage_percent", "/").is_some());
        assert!(batch.first_skip.unwrap().starts_with("the file system at /dead still does not answer"));
        std::fs::remove_dir_all(directory).unwrap();
    }
}
