//! The real binary in a real pseudo-terminal: it takes the terminal, answers keys, and gives it back as it was.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use sysops_agent::commands::top::Screen;

use super::binary::AGENT;

/// A bound against hanging.
const WITHIN: Duration = Duration::from_secs(20);

struct Pseudo {
    master: Option<File>,
    slave: OwnedFd,
    child: Child,
    output: Vec<u8>,
    before: Termios,
}

impl Pseudo {
    fn start() -> Self {
        let mut command = Command::new(AGENT);
        command.args(["top", "--interval", "1"]);
        Self::run(&mut command)
    }

    fn run(command: &mut Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        tcsetwinsize(&slave, Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let before = tcgetattr(&slave).unwrap();
        let end = || slave.try_clone().unwrap();
        // A group of its own, so that ^Z does not stop the test.
        let child = command.stdin(end()).stdout(end()).stderr(end()).process_group(0).spawn().unwrap();
        rustix::io::ioctl_fionbio(&master, true).unwrap();
        Self { master: Some(File::from(master)), slave, child, output: Vec::new(), before }
    }

    fn press(&mut self, keys: &[u8]) {
        self.master.as_mut().unwrap().write_all(keys).unwrap();
    }

    /// All that it has written so far.
    fn said(&mut self) -> String {
        let mut bytes = [0; 4096];
        while let Some(Ok(count)) = self.master.as_mut().map(|master| master.read(&mut bytes)) {
            self.output.extend_from_slice(&bytes[..count]);
        }
        String::from_utf8_lossy(&self.output).into_owned()
    }

    fn wait_for(&mut self, what: &str, mut there: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + WITHIN;
        while !there(self) {
            // Read in any case: who writes into a full terminal waits.
            let said = self.said();
            assert!(Instant::now() < deadline, "no {what}: {said:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn wait_for_text(&mut self, text: &str) {
        self.wait_for(text, |pseudo| pseudo.said().contains(text));
    }

    /// Waits until it has ended; returns the exit status.
    fn ended(&mut self) -> Option<i32> {
        let mut status = None;
        self.wait_for("end", |pseudo| {
            status = pseudo.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }

    /// The letter of proc_pid_stat(5).
    fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    }

    fn is_as_before(&self) -> bool {
        let (now, before) = (tcgetattr(&self.slave).unwrap(), &self.before);
        (now.input_modes, now.output_modes, now.local_modes) == (before.input_modes, before.output_modes, before.local_modes)
    }

    fn assert_given_back(&mut self) {
        assert!(self.is_as_before(), "the terminal's modes differ");
        self.wait_for("end of the output", |pseudo| pseudo.said().ends_with("\x1b[?25h"));
        let said = self.said();
        assert_eq!(said.matches("\x1b[?1049h").count(), said.matches("\x1b[?1049l").count(), "{said:?}");
    }
}

impl Drop for Pseudo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_shows_a_screen_and_gives_the_terminal_back_at_q() {
    let mut pseudo = Pseudo::start();
    pseudo.wait_for_text("KERNEL EVENTS");
    let said = pseudo.said();
    assert!(!pseudo.is_as_before() && said.starts_with("\x1b[?1049h") && said.contains("sort by memory"), "{said:?}");
    pseudo.press(b"p");
    // Only what changes is drawn.
    pseudo.wait_for_text("CPU   up");
    // Smaller than anything fits into, and back.
    tcsetwinsize(&pseudo.slave, Winsize { ws_row: 2, ws_col: 5, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    kill_process(Pid::from_child(&pseudo.child), Signal::WINCH).unwrap();
    pseudo.press(b"\x1b[B\x1b[A\x1b[6~\x1b[5~x");
    let drawn = pseudo.said().len();
    pseudo.wait_for("another screen", |pseudo| pseudo.said().len() > drawn);
    pseudo.press(b"q");
    assert_eq!(pseudo.ended(), Some(0));
    pseudo.assert_given_back();
}

#[test]
fn it_stops_at_control_z_and_goes_on() {
    let mut pseudo = Pseudo::start();
    pseudo.wait_for_text("KERNEL EVENTS");
    pseudo.press(b"\x1a");
    pseudo.wait_for("stop", |pseudo| pseudo.state() == 'T');
    pseudo.assert_given_back();
    let drawn = pseudo.said().len();
    kill_process(Pid::from_child(&pseudo.child), Signal::CONT).unwrap();
    pseudo.wait_for("screen", |pseudo| pseudo.said()[drawn..].contains("KERNEL EVENTS"));
    assert!(!pseudo.is_as_before());
    pseudo.press(b"\x03");
    assert_eq!(pseudo.ended(), Some(0));
    pseudo.assert_given_back();
}

#[test]
fn it_gives_the_terminal_back_at_sigterm() {
    let mut pseudo = Pseudo::start();
    pseudo.wait_for_text("KERNEL EVENTS");
    kill_process(Pid::from_child(&pseudo.child), Signal::TERM).unwrap();
    assert_eq!(pseudo.ended(), Some(0));
    pseudo.assert_given_back();
}

#[test]
fn it_ends_with_its_terminal() {
    let mut pseudo = Pseudo::start();
    pseudo.wait_for_text("KERNEL EVENTS");
    pseudo.master = None;
    assert_eq!(pseudo.ended(), Some(1));
}

/// Set for the process that this test starts: itself, with a panic.
const PANICS: &str = "SYSOPS_AGENT_TEST_PANICS";

#[test]
fn it_gives_the_terminal_back_in_a_panic_and_then_says_why() {
    if std::env::var_os(PANICS).is_some() {
        let _screen = Screen::open().unwrap();
        // One that is caught, as a collector's: it must not write across the screen.
        std::panic::catch_unwind(|| panic!("the first one")).unwrap_err();
        std::io::stdout().write_all(b"still the screen").unwrap();
        panic!("the last one");
    }
    let name = "terminal::it_gives_the_terminal_back_in_a_panic_and_then_says_why";
    let mut command = Command::new(std::env::current_exe().unwrap());
    let mut pseudo = Pseudo::run(command.args(["--exact", name, "--nocapture"]).env(PANICS, "1"));
    assert_eq!(pseudo.ended(), Some(101));
    assert!(pseudo.is_as_before());
    let said = pseudo.said();
    let places = ["\x1b[?1049h", "still the screen", "\x1b[?1049l", "\x1b[?25h", "the first one", "the last one"];
    let places = places.map(|text| said.find(text));
    assert!(places.is_sorted() && places[0].is_some(), "{places:?}: {said:?}");
}
