//! `/proc/PID/stat`, described in proc_pid_stat(5).

use crate::collectors::Expected;
use crate::collectors::text::{fields, number};

/// What is used of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat<'a> {
    /// Name of the command: any bytes, blanks, parentheses and newlines included.
    pub comm: &'a [u8],
    /// `R`, `S`, `D`, `Z`, …
    pub state: u8,
    /// Whether it is a thread of the kernel, which has no command line and no descriptors.
    pub is_kernel_thread: bool,
    /// Clock ticks in user and kernel mode since its start.
    pub ticks: u64,
    /// Number of threads.
    pub threads: u64,
    /// Its start in clock ticks since boot; with the process id it names a process for ever.
    pub start: u64,
    /// Resident memory in pages.
    pub rss_pages: u64,
}

/// `PF_KTHREAD` in include/linux/sched.h.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Reads the whole text.
///
/// # Errors
/// What was expected and not found.
pub fn parse_stat(text: &[u8]) -> Result<Stat<'_>, Expected> {
    let line = text.strip_suffix(b"\n").ok_or("a line end")?;
    // Only the last parenthesis ends the name: no later field holds one.
    let open = line.iter().position(|&byte| byte == b'(').ok_or("a name in parentheses")?;
    let close = line.iter().rposition(|&byte| byte == b')').ok_or("a name in parentheses")?;
    let comm = line.get(open + 1..close).ok_or("a name in parentheses")?;
    let mut rest = fields(line.get(close + 1..).unwrap_or_default());
    let state = rest.next().and_then(|state| state.first().copied()).ok_or("a state")?;
    let mut skip_then_number = |skip| rest.nth(skip).and_then(number);
    let mut read = || {
        let flags = skip_then_number(5)?;
        let (user, system) = (skip_then_number(4)?, skip_then_number(0)?);
        let threads = skip_then_number(4)?;
        let start = skip_then_number(1)?;
        let rss_pages = skip_then_number(1)?;
        let is_kernel_thread = flags & KERNEL_THREAD != 0;
        Some(Stat { comm, state, is_kernel_thread, ticks: user.checked_add(system)?, threads, start, rss_pages })
    };
    read().ok_or("24 fields")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::text::mangle;

    /// 6.18
    const INIT: &[u8] = b"1 (process_api) S 0 0 0 0 -1 4194560 38744 3855608 0 910 98 471 14125 2969 20 0 13 0 30 47747072 3975 \
        18446744073709551615 1 1 0 0 0 0 0 4096 1256 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    #[test]
    fn the_fields_are_those_of_the_manual() {
        let expected = Stat {
            comm: b"process_api",
            state: b'S',
            is_kernel_thread: false,
            ticks: 98 + 471,
            threads: 13,
            start: 30,
            rss_pages: 3975,
        };
        assert_eq!(parse_stat(INIT), Ok(expected));
        // 3.10, a thread of the kernel.
        let thread = b"3 (ksoftirqd/0) S 2 0 0 0 -1 2216722496 0 0 0 0 0 118 0 0 20 0 1 0 4 0 0 18446744073709551615 0 0 0\n";
        assert!(parse_stat(thread).unwrap().is_kernel_thread);
    }

    #[test]
    fn a_name_may_hold_anything() {
        let tail = b" S 1 0 0 0 -1 4194560 0 0 0 0 7 8 0 0 20 0 2 0 30 0 99 0\n";
        for comm in [&b"a b"[..], b") S 1 (", b"a)\n(b", b"", b"()", b"\xff\xfe", b"((sd-pam))"] {
            let text = [b"42 (", comm, b")", tail].concat();
            let stat = parse_stat(&text).unwrap();
            assert_eq!((stat.comm, stat.ticks, stat.rss_pages), (comm, 15, 99));
        }
    }

    #[test]
    fn no_input_panics_and_no_cut_is_taken_for_the_whole() {
        mangle(INIT, |text| {
            let _ = parse_stat(text);
        });
        for cut in 0..INIT.len() {
            assert!(parse_stat(INIT.get(..cut).unwrap()).is_err());
        }
    }
}
