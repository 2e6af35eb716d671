//! Where a source stopped reading, kept over reloads and restarts.

use std::fmt;
use std::str::FromStr;

/// A place in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// In the kernel's log.
    Record {
        /// The boot that numbered it (`/proc/sys/kernel/random/boot_id`).
        boot: u128,
        /// Sequence number of the record that comes next.
        next: u64,
    },
    /// In the journal: the cursor of the last entry that was read.
    Cursor(String),
    /// In a file.
    Byte {
        /// The device of the file.
        device: u64,
        /// Its inode.
        inode: u64,
        /// Bytes before the next line.
        offset: u64,
    },
}

/// One line of text, which [`FromStr`] reads.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record { boot, next } => write!(f, "record {boot:032x} {next}"),
            Self::Cursor(cursor) => write!(f, "cursor {cursor}"),
            Self::Byte { device, inode, offset } => write!(f, "byte {device} {inode} {offset}"),
        }
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (kind, rest) = text.split_once(' ').ok_or(())?;
        let mut words = rest.split(' ');
        let mut number = || words.next()?.parse().ok();
        let position = match kind {
            "record" => rest.split_once(' ').and_then(|(boot, next)| {
                Some(Self::Record { boot: u128::from_str_radix(boot, 16).ok()?, next: next.parse().ok()? })
            }),
            // What the journal's program is handed as an argument.
            "cursor" if rest.bytes().all(|byte| byte.is_ascii_graphic()) && !rest.is_empty() => {
                Some(Self::Cursor(rest.to_owned()))
            }
            "byte" => (|| Some(Self::Byte { device: number()?, inode: number()?, offset: number()? }))(),
            _ => None,
        };
        position.ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_was_written() {
        for position in [
            Position::Record { boot: u128::MAX, next: 12 },
            Position::Cursor("s=0639;i=1;b=a4d8;m=1;t=5;x=3".into()),
            Position::Byte { device: 254, inode: u64::MAX, offset: 0 },
        ] {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        for text in ["", "record", "record x 1", "byte 1 2", "cursor ", "cursor a b", "cursor a\nb", "other 1"] {
            assert_eq!(text.parse::<Position>(), Err(()), "{text}");
        }
    }
}
