//! Values that must never be printed.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What stands before the path of a file that holds a secret.
pub(super) const FILE: &str = "file:";
/// Longest content of such a file, in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// The content of a file without the line break at its end.
///
/// # Errors
///
/// Why it cannot be used, and what to do; never what is in it.
pub(super) fn from_file(path: &Path) -> Result<String, String> {
    if !path.is_absolute() {
        return Err("it is no absolute path; write file: and one that begins with \"/\"".into());
    }
    // So that a pipe or a device holds nobody up.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let unreadable = |error| format!("{error}; have the file there before the start, readable for the agent's user");
    let file = file.map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err("it is no regular file; name one".into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err("it is larger than 64 KiB; name a file that holds the secret alone".into());
    }
    let mut text = String::from_utf8(bytes).map_err(|_| "it holds bytes that are not UTF-8; save it as text")?;
    if text.ends_with('\n') {
        text.truncate(text.len() - 1);
        text.truncate(text.strip_suffix('\r').map_or(text.len(), str::len));
    }
    if text.is_empty() { Err("it is empty; write the secret into it".into()) } else { Ok(text) }
}

/// A token, password or URL that carries one. `Debug` and `Display` show asterisks.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the secret.
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
