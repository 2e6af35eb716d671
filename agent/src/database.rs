//! SQLite files of the agent: opened and made, known from others, moved aside when damaged. What stands in them is their owners' business.
//!
//! All are in WAL mode: a kill at any moment leaves them whole. Every call may take as long as the disk does.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

/// Tells our databases from others, in `application_id`: "SyOp".
const APPLICATION: i64 = 0x5379_4f70;
/// How long a lock of another process is waited for.
const BUSY: Duration = Duration::from_secs(2);

/// What a database is to look like.
pub struct Schema {
    /// Its version, in `user_version`.
    pub version: i64,
    /// The statements that make its tables.
    pub tables: &'static str,
    /// Whether a transaction that has ended survives a loss of power, too (`synchronous = FULL`).
    pub survives_power_loss: bool,
    /// The key that says where it is.
    pub key: &'static str,
}

/// Why a database does not serve.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The file or its directory cannot be made or opened.
    #[error("cannot open {}: {error}; its directory must exist and be writable", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Another program's, or another version's.
    #[error("{} {what}; move it away or set another {key}", path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// What it is.
        what: String,
        /// The key that says where it is.
        key: &'static str,
    },
    /// SQLite failed.
    #[error("{}: {error}", path.display())]
    Sqlite {
        /// Which file.
        path: PathBuf,
        /// What SQLite said.
        error: rusqlite::Error,
    },
}

impl Failure {
    /// What SQLite said of the file.
    pub fn sqlite(path: &Path, error: rusqlite::Error) -> Self {
        Self::Sqlite { path: path.to_owned(), error }
    }

    /// Whether the file is damaged, or no database at all.
    pub fn is_damage(&self) -> bool {
        let Self::Sqlite { error, .. } = self else { return false };
        matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
    }

    /// Whether trying again has no use.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Foreign { .. })
    }
}

/// Opens a database, and makes it where it is not there. Its directory is made where it lies in `data_dir`.
///
/// # Errors
/// [`Failure`].
pub fn open(path: &Path, data_dir: &Path, schema: &Schema) -> Result<Connection, Failure> {
    make_file(path, data_dir).map_err(|error| Failure::File { path: path.to_owned(), error })?;
    let failed = |error| Failure::sqlite(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    let is_new = check(&connection, path, schema)? == 0;
    if is_new {
        // Before the first table, or it takes no effect.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(failed)?;
    }
    // Where the file system has no shared memory, SQLite stays with another mode, which is as safe.
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).map_err(failed)?;
    connection.pragma_update(None, "synchronous", if schema.survives_power_loss { "FULL" } else { "NORMAL" }).map_err(failed)?;
    connection
        .execute_batch("PRAGMA cache_size = -512; PRAGMA temp_store = MEMORY; PRAGMA journal_size_limit = 4194304;")
        .map_err(failed)?;
    if is_new {
        create(&mut connection, schema).map_err(failed)?;
    }
    Ok(connection)
}

/// Opens a database for reading alone, also while an agent writes to it.
///
/// # Errors
/// [`Failure`].
pub fn open_to_read(path: &Path, schema: &Schema) -> Result<Connection, Failure> {
    let failed = |error| Failure::sqlite(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    check(&connection, path, schema)?;
    Ok(connection)
}

/// Renames a damaged database and what SQLite put beside it; the new name.
///
/// # Errors
/// A file cannot be renamed.
pub fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let with = |path: &Path, suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let free = (1..1000).map(|number| with(path, &format!(".damaged-{number}"))).find(|aside| !aside.exists());
    let aside = free.ok_or_else(|| io::Error::other("a thousand damaged ones are there"))?;
    std::fs::rename(path, &aside)?;
    for suffix in ["-wal", "-shm"] {
        match std::fs::rename(with(path, suffix), with(&aside, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}

/// The version of the schema; 0 in a file that is empty.
fn check(connection: &Connection, path: &Path, schema: &Schema) -> Result<i64, Failure> {
    let number = |pragma: &str| {
        let value = connection.query_row(pragma, [], |row| row.get(0));
        value.map_err(|error| Failure::sqlite(path, error))
    };
    let foreign = |what: String| Err(Failure::Foreign { path: path.to_owned(), what, key: schema.key });
    let (tables, application) = (number("SELECT count(*) FROM sqlite_schema")?, number("PRAGMA application_id")?);
    let known = schema.version;
    match number("PRAGMA user_version")? {
        _ if tables > 0 && application != APPLICATION => foreign("is a database of another program".to_owned()),
        version if version > known => foreign(format!(
            "was written by a newer sysops-agent (its schema is version {version}, this one knows up to {known})"
        )),
        version => Ok(version),
    }
}

/// Makes the file, readable for its owner only, where it is not there. What SQLite puts beside it gets the same mode.
fn make_file(path: &Path, data_dir: &Path) -> io::Result<()> {
    if let Some(directory) = path.parent().filter(|directory| directory.starts_with(data_dir)) {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map(|_| ())
}

fn create(connection: &mut Connection, schema: &Schema) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(schema.tables)?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", schema.version)?;
    transaction.commit()
}
