//! Where things are, and how the commands start other programs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

/// The directory of the workspace's `Cargo.toml`.
///
/// # Errors
/// When not started by cargo.
pub fn root() -> Result<PathBuf> {
    let package = env::var_os("CARGO_MANIFEST_DIR").context("start this through cargo: `cargo xtask …`")?;
    Ok(Path::new(&package).parent().context("the xtask package has no parent directory")?.to_owned())
}

/// The directory of the programs that cargo builds in release mode.
///
/// # Errors
/// When it cannot be told where this program itself lies, beside which the others are.
pub fn release_directory() -> Result<PathBuf> {
    let program = env::current_exe().context("cannot tell where this program lies")?;
    let target = program.parent().and_then(Path::parent).context("this program does not lie in a target directory")?;
    Ok(target.join("release"))
}

/// The cargo that started this, in the root of the workspace, with the programs it installs in reach.
///
/// # Errors
/// As [`root`].
pub fn cargo() -> Result<Command> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root()?);
    let directories = search_path();
    cargo.env("PATH", env::join_paths(&directories).unwrap_or_default());
    Ok(cargo)
}

/// Directories in which programs are looked for: `PATH`, what cargo installs, and where administration tools live.
pub fn search_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = env::split_paths(&path).collect();
    let installed = cargo_home().map(|home| home.join("bin"));
    for directory in installed.into_iter().chain(["/usr/sbin", "/sbin"].map(PathBuf::from)) {
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    directories
}

/// Where cargo keeps what it downloads and installs.
pub fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")))
}

/// The full path of a program, where it is in reach.
pub fn find_program(name: &str) -> Option<PathBuf> {
    search_path().into_iter().map(|directory| directory.join(name)).find(|program| program.is_file())
}

/// Directory of the compiler's own files.
///
/// # Errors
/// When rustc cannot be run.
pub fn sysroot() -> Result<PathBuf> {
    let printed = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()?))?;
    Ok(PathBuf::from(printed.trim()))
}

/// The version of Rust that `rust-toolchain.toml` names.
///
/// # Errors
/// When the file cannot be read or names none.
pub fn toolchain_version() -> Result<String> {
    let path = root()?.join("rust-toolchain.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let channel = text.lines().find_map(|line| line.strip_prefix("channel = \"")?.split('"').next());
    Ok(channel.with_context(|| format!("{} has no line `channel = \"…\"`", path.display()))?.to_owned())
}

/// Whether this process is the superuser.
pub fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    // proc_pid_status(5): real, effective, saved and file-system user id.
    status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)) == Some("0")
}

/// Says what is about to be run, and runs it with the terminal as its own.
///
/// # Errors
/// When it cannot be started or fails.
pub fn run(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    eprintln!("$ {line}");
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    ensure!(status.success(), "`{line}` failed ({status})");
    Ok(())
}

/// Runs a program quietly and gives what it printed.
///
/// # Errors
/// When it cannot be started or fails, with what it printed as errors.
pub fn output(command: &mut Command) -> Result<String> {
    let line = command_line(command);
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status}): {}", String::from_utf8_lossy(&stderr).trim());
    }
    String::from_utf8(stdout).with_context(|| format!("`{line}` printed something that is no UTF-8"))
}

fn command_line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program()).to_owned();
    let words: Vec<OsString> = std::iter::once(name).chain(command.get_args().map(Into::into)).collect();
    words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
