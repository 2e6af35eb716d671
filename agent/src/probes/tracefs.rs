//! Tracepoints as the kernel describes them: `events/CATEGORY/NAME/format` of tracefs
//! (Documentation/trace/events.rst, section 2.1 "format").
//!
//! Layouts differ between kernels and are changed by stable updates, so an offset is never a constant of ours.

use std::fs;
use std::io;
use std::path::PathBuf;

use agent_common::ABSENT;

use super::Unavailable;
use crate::host::Host;

/// Where tracefs may be mounted, below sysfs.
const MOUNT_POINTS: [&str; 2] = ["kernel/tracing", "kernel/debug/tracing"];

/// One field of a tracepoint's record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    name: String,
    offset: u16,
    size: u16,
    data_loc: bool,
}

/// The layout of one tracepoint's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    fields: Vec<Field>,
}

impl Format {
    /// Reads the layout of `category`/`name`.
    ///
    /// # Errors
    /// tracefs is not mounted or not readable, or the kernel has no such tracepoint.
    pub fn read(host: &Host, category: &str, name: &str) -> Result<Self, Unavailable> {
        let events = events_dir(host)?;
        let path = events.join(category).join(name).join("format");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Unavailable::new(
                format!("this kernel has no tracepoint {category}/{name}"),
                "nothing to do; it depends on how the kernel was built",
            )),
            Err(error) => Err(cannot_read(&path, &error)),
        }
    }

    /// Takes the fields out of the text of a `format` file; lines that describe none are passed over.
    fn parse(text: &str) -> Self {
        Self { fields: text.lines().filter_map(parse_field).collect() }
    }

    /// The offset of the field `name` where it is `size` bytes long; [`ABSENT`] where there is none of that name and size.
    pub fn offset(&self, name: &str, size: u16) -> u16 {
        self.fields.iter().find(|field| field.name == name && field.size == size).map_or(ABSENT, |field| field.offset)
    }

    /// The offset of the field `name` and whether it is a `__data_loc` word.
    pub fn text(&self, name: &str) -> (u16, bool) {
        self.fields.iter().find(|field| field.name == name).map_or((ABSENT, false), |field| (field.offset, field.data_loc))
    }

    /// The offset of a field without which the probe can tell nothing.
    ///
    /// # Errors
    /// There is no field of that name and size.
    pub fn required(&self, tracepoint: &str, name: &str, size: u16) -> Result<u16, Unavailable> {
        match self.offset(name, size) {
            ABSENT => Err(Unavailable::new(
                format!("tracepoint {tracepoint} of this kernel has no field {name} of {size} bytes"),
                "please report the kernel's version; its layout is not known to this program",
            )),
            offset => Ok(offset),
        }
    }
}

/// The directory of all events.
///
/// # Errors
/// tracefs is not mounted where it is expected, or not readable for this process.
pub fn events_dir(host: &Host) -> Result<PathBuf, Unavailable> {
    for mount_point in MOUNT_POINTS {
        let events = host.sysfs(mount_point).join("events");
        match fs::metadata(&events) {
            Ok(_) => return Ok(events),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(cannot_read(&events, &error)),
        }
    }
    let [usual, older] = MOUNT_POINTS.map(|mount_point| host.sysfs(mount_point));
    Err(Unavailable::new(
        format!("tracefs is mounted neither at {} nor at {}", usual.display(), older.display()),
        format!("mount -t tracefs tracefs {}", usual.display()),
    ))
}

fn cannot_read(path: &std::path::Path, error: &io::Error) -> Unavailable {
    Unavailable::new(
        format!("cannot read {}: {error}", path.display()),
        "run as root, or with CAP_DAC_READ_SEARCH beside CAP_BPF and CAP_PERFMON",
    )
}

/// `field:__data_loc char[] comm; offset:8; size:4; signed:0;`, with tabs between its parts.
fn parse_field(line: &str) -> Option<Field> {
    let mut parts = line.trim().split(';').map(str::trim);
    let declaration = parts.next()?.strip_prefix("field:")?;
    let offset = parts.next()?.strip_prefix("offset:")?.parse().ok()?;
    let size = parts.next()?.strip_prefix("size:")?.parse().ok()?;
    let name = declaration.rsplit([' ', '*']).next()?;
    let name = name.split('[').next()?;
    Some(Field { name: name.to_owned(), offset, size, data_loc: declaration.starts_with("__data_loc") })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANG_5_10: &str = "name: sched_process_hang\nID: 299\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
        \tfield:char comm[16];\toffset:8;\tsize:16;\tsigned:0;\n\
        \tfield:pid_t pid;\toffset:24;\tsize:4;\tsigned:1;\n\nprint fmt: \"comm=%s pid=%d\", REC->comm, REC->pid\n";
    const HANG_6_18: &str = "\tfield:__data_loc char[] comm;\toffset:8;\tsize:4;\tsigned:0;\n\
        \tfield:pid_t pid;\toffset:12;\tsize:4;\tsigned:1;\n";

    #[test]
    fn both_layouts_of_a_text_field_are_told_apart() {
        let old = Format::parse(HANG_5_10);
        assert_eq!((old.text("comm"), old.offset("pid", 4)), ((8, false), 24));
        let new = Format::parse(HANG_6_18);
        assert_eq!((new.text("comm"), new.offset("pid", 4)), ((8, true), 12));
    }

    #[test]
    fn extra_and_reordered_fields_only_move_offsets() {
        let format = Format::parse(
            "\tfield:int pid;\toffset:16;\tsize:4;\tsigned:1;\n\
             \tfield:unsigned char common_preempt_lazy_count;\toffset:8;\tsize:1;\tsigned:0;\n\
             \tfield:const void * skaddr;\toffset:24;\tsize:8;\tsigned:0;\n",
        );
        assert_eq!((format.offset("pid", 4), format.offset("skaddr", 8)), (16, 24));
    }

    #[test]
    fn a_renamed_or_resized_field_is_absent_and_refused_where_it_is_required() {
        let format = Format::parse("\tfield:long pid;\toffset:8;\tsize:8;\tsigned:1;\n");
        assert_eq!(format.offset("pid", 4), ABSENT);
        let refusal = format.required("oom/mark_victim", "pid", 4).unwrap_err();
        assert!(refusal.why.contains("oom/mark_victim") && refusal.why.contains("pid"), "{refusal:?}");
    }

    #[test]
    fn garbage_has_no_fields() {
        for text in ["", "field:", "field:int x;offset:;size:4;", "field:int x;\toffset:99999999;\tsize:4;", "\u{fffd};;;"] {
            assert!(Format::parse(text).fields.is_empty(), "{text:?}");
        }
    }
}
