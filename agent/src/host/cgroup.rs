//! Cgroups by their ids: what BPF programs know of a task's cgroup (`bpf_get_current_cgroup_id`, bpf-helpers(7)).
//!
//! An id names a cgroup of the version 2 hierarchy only, and as a file handle of that file system (kernfs, since Linux 5.5).

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::Host;

/// Where the version 2 hierarchy may be mounted, below sysfs: alone, or beside those of version 1.
const MOUNT_POINTS: [&str; 2] = ["fs/cgroup", "fs/cgroup/unified"];
/// `FILEID_KERNFS` (include/linux/exportfs.h).
const FILEID_KERNFS: i32 = 0xfe;

/// `struct file_handle` with room for an id (open_by_handle_at(2)).
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    id: [u8; 8],
}

impl Host {
    /// Path of the version 2 cgroup with this id, from the root of its hierarchy; `None` where it is gone, where there is no
    /// such hierarchy, and without `CAP_DAC_READ_SEARCH`.
    pub fn cgroup_of_id(&self, id: u64) -> Option<String> {
        let root = MOUNT_POINTS.map(|point| self.sysfs(point)).into_iter().find(|root| is_version_2(root))?;
        let mount = fs::File::open(&root).ok()?;
        let mut handle = Handle { bytes: 8, kind: FILEID_KERNFS, id: id.to_ne_bytes() };
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        // SAFETY: the handle is of the kernel's layout, and as long as it says.
        let fd = unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut handle).cast(), flags) };
        if fd < 0 {
            return None;
        }
        // SAFETY: the descriptor was just made, and nobody else knows of it.
        let cgroup = unsafe { OwnedFd::from_raw_fd(fd) };
        let path = fs::read_link(format!("/proc/self/fd/{}", cgroup.as_raw_fd())).ok()?;
        let relative = path.strip_prefix(fs::canonicalize(&root).ok()?).ok()?;
        Some(format!("/{}", relative.display()))
    }
}

fn is_version_2(root: &Path) -> bool {
    rustix::fs::statfs(root).is_ok_and(|found| found.f_type == libc::CGROUP2_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::config::HostRoots;

    #[test]
    fn a_cgroup_is_found_by_its_id_and_a_number_that_is_none_is_not() {
        let host = Host::new(HostRoots::default());
        let Some(root) = MOUNT_POINTS.map(|point| host.sysfs(point)).into_iter().find(|root| is_version_2(root)) else {
            println!("no cgroup hierarchy of version 2 is mounted here: nothing to find");
            return;
        };
        let directory = root.join(format!("sysops-test-{}", std::process::id()));
        if fs::create_dir(&directory).is_err() {
            println!("cgroups cannot be made here: nothing to find");
            return;
        }
        let id = fs::metadata(&directory).unwrap().ino();
        let found = host.cgroup_of_id(id);
        fs::remove_dir(&directory).unwrap();
        assert_eq!(found, Some(format!("/sysops-test-{}", std::process::id())));
        assert_eq!(host.cgroup_of_id(id), None, "it is gone");
        assert_eq!(host.cgroup_of_id(0), None);
    }
}
