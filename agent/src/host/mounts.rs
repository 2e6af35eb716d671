//! The mount table: `/proc/PID/mountinfo`, described in proc_pid_mountinfo(5).
//!
//! Reads the text and nothing else; what a mount holds is asked by whoever needs it, where it may hang.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Major and minor number of the file system; the same for all mounts of one file system.
    pub device: (u32, u32),
    /// Where it is mounted, as the host sees it.
    pub point: PathBuf,
    /// Type of the file system: `ext4`, `nfs4`, `fuse.sshfs`, …
    pub fstype: String,
    /// What is mounted: a device, `server:/export`, or a word.
    pub source: String,
    /// Whether writing is refused, by the mount or by the file system itself, as after an error with `errors=remount-ro`.
    pub read_only: bool,
}

/// Reads one line of the mount table.
///
/// # Errors
/// What was expected and not found.
pub fn parse_mount(line: &[u8]) -> Result<Mount, &'static str> {
    let mut fields = line.split(|&byte| byte == b' ').filter(|field| !field.is_empty());
    let mut next = |expected| fields.next().ok_or(expected);
    next("a mount id")?;
    next("a parent id")?;
    let device = parse_device(next("a device number")?).ok_or("a device number like 8:1")?;
    next("a root")?;
    let point = next("a mount point")?;
    let options = next("mount options")?;
    // Any number of optional fields, then a hyphen.
    while next("a hyphen")? != b"-" {}
    let fstype = next("a file system type")?;
    let source = next("a mount source")?;
    let super_options = next("file system options")?;
    if point.first() != Some(&b'/') {
        return Err("a mount point that starts with /");
    }
    Ok(Mount {
        device,
        point: OsString::from_vec(unescape(point)).into(),
        fstype: lossy(fstype),
        source: lossy(source),
        read_only: is_read_only(options) || is_read_only(super_options),
    })
}

fn parse_device(field: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn is_read_only(options: &[u8]) -> bool {
    options.split(|&byte| byte == b',').any(|option| option == b"ro")
}

fn lossy(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// Undoes the kernel's `\ooo`, with which it writes space, tab, newline, backslash and hash (`mangle` in fs/seq_file.c).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(point: &str, fstype: &str, source: &str, device: (u32, u32), read_only: bool) -> Mount {
        Mount { device, point: point.into(), fstype: fstype.into(), source: source.into(), read_only }
    }

    #[test]
    fn lines_of_several_kernels_are_read() {
        // 3.10, CentOS 7.
        assert_eq!(
            parse_mount(b"61 1 253:0 / / rw,relatime shared:1 - xfs /dev/mapper/centos-root rw,attr2,inode64,noquota"),
            Ok(mount("/", "xfs", "/dev/mapper/centos-root", (253, 0), false))
        );
        // 6.18, without optional fields.
        assert_eq!(
            parse_mount(b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard,resv_strict"),
            Ok(mount("/", "ext4", "/dev/vda", (254, 0), false))
        );
        // Several optional fields, escapes in point and source.
        assert_eq!(
            parse_mount(br"99 61 0:52 / /mnt/back\040up\134 rw shared:7 master:2 - cifs //nas/a\040b rw,vers=3.0"),
            Ok(mount(r"/mnt/back up\", "cifs", "//nas/a b", (0, 52), false))
        );
    }

    #[test]
    fn read_only_by_mount_or_by_file_system() {
        assert!(parse_mount(b"1 2 8:1 / /a ro,relatime - ext4 /dev/sda1 rw").unwrap().read_only);
        assert!(parse_mount(b"1 2 8:1 / /a rw,relatime - ext4 /dev/sda1 ro,errors=remount-ro").unwrap().read_only);
        assert!(!parse_mount(b"1 2 8:1 / /a rw - ext4 /dev/sda1 rw,errors=remount-ro").unwrap().read_only);
    }

    #[test]
    fn a_bad_line_says_what_is_missing() {
        assert_eq!(parse_mount(b""), Err("a mount id"));
        assert_eq!(parse_mount(b"1 2 8 / / rw - ext4 x rw"), Err("a device number like 8:1"));
        assert_eq!(parse_mount(b"1 2 8:1 / / rw shared:1"), Err("a hyphen"));
    }

    #[test]
    fn no_cut_of_a_line_panics() {
        let line = br"99 61 0:52 / /mnt/back\040up\134 rw shared:7 master:2 - cifs //nas/a\040b rw,vers=3.0";
        for cut in 0..line.len() {
            assert_eq!(parse_mount(line.get(..cut).unwrap()).is_ok(), cut > line.len() - "rw,vers=3.0".len());
        }
    }
}
