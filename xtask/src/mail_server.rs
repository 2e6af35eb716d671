//! A real mail server on loopback: exim4 with a configuration of its own in a directory of its own, as root.
//!
//! `cargo xtask setup` unpacks it into this user's cache and does not install it: a machine has one mail server, and it is not for
//! tests to choose it. Its user exists in its own mount namespace alone.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::faults::{KillOnDrop, needs_root, poll, skip};

/// The program in the unpacked package.
pub const PROGRAM: &str = "usr/sbin/exim4";
/// The user that Debian has compiled into it.
const USER: &str = "Debian-exim";
const USER_ID: u32 = 65_533;

/// Where the unpacked package is, if this user has a cache (XDG Base Directory Specification).
pub fn directory() -> Option<PathBuf> {
    let home = || env::home_dir().map(|home| home.join(".cache"));
    let caches = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()).or_else(home);
    Some(caches?.join("sysops-agent/exim4"))
}

/// A mail server. Its login is `agent` with the password `hunter2`, over TLS alone. It takes mail for anybody but
/// `unknown@…` (550) and `busy@…` (451). Where `open` was said, it wants no login, and takes one in plain text, too.
pub struct MailServer {
    _process: KillOnDrop,
    directory: PathBuf,
}

impl MailServer {
    /// Whether the calling test must be skipped because it cannot be started here; says so.
    pub fn is_lacking() -> bool {
        let is_unpacked = || directory().is_some_and(|directory| directory.join(PROGRAM).is_file());
        if needs_root() {
            return true;
        }
        if !is_unpacked() {
            skip("exim4 (`cargo xtask setup` unpacks it)");
            return true;
        }
        false
    }

    /// Starts it in an empty directory that others may enter, on two ports of 127.0.0.1: one with STARTTLS, one with TLS from the
    /// first byte.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn start(directory: &Path, ports: [u16; 2], certificate: &str, key: &str, open: bool) -> Result<Self> {
        let unpacked = self::directory().context("this user has no cache directory")?;
        let place = directory.display();
        for (name, text) in
            [("certificate.pem", certificate), ("key.pem", key), ("exim.conf", &configuration(directory, ports, open))]
        {
            fs::write(directory.join(name), text).with_context(|| format!("cannot write {name} to {place}"))?;
        }
        for (name, line) in [
            ("passwd", format!("{USER}:x:{USER_ID}:{USER_ID}::/nonexistent:/bin/false\n")),
            ("group", format!("{USER}:x:{USER_ID}:\n")),
        ] {
            let known = fs::read_to_string(Path::new("/etc").join(name)).unwrap_or_default();
            fs::write(directory.join(name), format!("{known}{line}"))
                .with_context(|| format!("cannot write {name} to {place}"))?;
        }
        for name in ["spool", "mail", "log"] {
            let path = directory.join(name);
            fs::create_dir(&path)?;
            std::os::unix::fs::chown(&path, Some(USER_ID), Some(USER_ID))?;
        }
        let libraries: Vec<String> = ["usr/lib", "lib"]
            .into_iter()
            .flat_map(|path| fs::read_dir(unpacked.join(path)).into_iter().flatten().flatten())
            .map(|entry| entry.path().display().to_string())
            .collect();
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-ec"])
            .arg("mount --bind \"$0/passwd\" /etc/passwd; mount --bind \"$0/group\" /etc/group; exec env LD_LIBRARY_PATH=\"$2\" \"$1\" -C \"$0/exim.conf\" -bdf")
            .arg(directory)
            .arg(unpacked.join(PROGRAM))
            .arg(libraries.join(":"));
        let output = fs::File::create(directory.join("output"))?;
        let errors = output.try_clone()?;
        let process = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn().context("cannot start unshare")?;
        let server = Self { _process: KillOnDrop::new(process), directory: directory.to_owned() };
        poll("the ports of the mail server", Duration::from_secs(20), || {
            Ok(ports.iter().all(|port| std::net::TcpStream::connect(("127.0.0.1", *port)).is_ok()).then_some(()))
        })
        .with_context(|| fs::read_to_string(directory.join("output")).unwrap_or_default())?;
        Ok(server)
    }

    /// The delivered messages, in the order of their delivery.
    pub fn messages(&self) -> Vec<String> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(self.directory.join("mail/new")).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        files.sort();
        files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect()
    }

    /// Its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log/mainlog")).unwrap_or_default()
    }
}

/// exim's specification of its configuration is "The Exim Specification", chapters 14, 15, 26 and 33.
fn configuration(directory: &Path, [starttls, implicit]: [u16; 2], open: bool) -> String {
    let place = directory.display();
    let who = if open { "accept" } else { "accept authenticated = *\n  deny message = authentication required" };
    let advertised = if open { "*" } else { "${if eq{$tls_in_cipher}{}{}{*}}" };
    format!(
        r#"primary_hostname = mail.example.org
spool_directory = {place}/spool
log_file_path = {place}/log/%slog
pid_file_path = {place}/pid
keep_environment =
deliver_drop_privilege = true
local_interfaces = 127.0.0.1
daemon_smtp_ports = {starttls} : {implicit}
tls_on_connect_ports = {implicit}
tls_certificate = {place}/certificate.pem
tls_privatekey = {place}/key.pem
tls_advertise_hosts = *
auth_advertise_hosts = {advertised}
message_size_limit = 256K
rfc1413_query_timeout = 0s
host_lookup =
log_selector = +all
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
begin acl
rcpt:
  defer local_parts = busy
        message = try again later
  deny local_parts = unknown
       message = no such user
  {who}
begin routers
all:
  driver = accept
  transport = maildir
begin transports
maildir:
  driver = appendfile
  directory = {place}/mail
  maildir_format
  user = {USER}
  group = {USER}
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{agent}}}}{{eq{{$auth3}}{{hunter2}}}}}}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = <| Username: | Password:
  server_condition = ${{if and{{{{eq{{$auth1}}{{agent}}}}{{eq{{$auth2}}{{hunter2}}}}}}}}
  server_set_id = $auth1
"#
    )
}
