//! The state of the system clock as the kernel keeps it (adjtimex(2)).

use std::io;
use std::mem::MaybeUninit;

/// What the kernel knows of its clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clock {
    /// Whether somebody keeps it synchronized (`STA_UNSYNC` is clear).
    pub synchronized: bool,
    /// What is still to be corrected, in seconds.
    pub offset: f64,
    /// The most by which it may be wrong, in seconds.
    pub max_error: f64,
}

/// Asks for the state of the clock, which anybody may.
///
/// # Errors
/// A sandbox forbids the system call.
pub fn clock() -> io::Result<Clock> {
    let mut timex = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: a timex of zeros is valid, and its `modes` of zero asks without changing anything.
    let state = unsafe { libc::adjtimex(timex.as_mut_ptr()) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was valid before the call, which only wrote numbers into it.
    let timex = unsafe { timex.assume_init() };
    let nanoseconds = timex.status & libc::STA_NANO != 0;
    Ok(Clock {
        synchronized: timex.status & libc::STA_UNSYNC == 0,
        offset: timex.offset as f64 / if nanoseconds { 1e9 } else { 1e6 },
        max_error: timex.maxerror as f64 / 1e6,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_of_its_clock() {
        let clock = clock().unwrap();
        assert!(clock.offset.abs() <= 0.5, "{clock:?}: the kernel corrects up to half a second");
        assert!((0.0..=16.0).contains(&clock.max_error), "{clock:?}: the kernel's error goes up to 16 seconds");
    }
}
