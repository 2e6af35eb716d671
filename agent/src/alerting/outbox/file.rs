//! `alerts.db`: its tables, what is written to them, and what is read back; also by the commands, while an agent runs or not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::{Change, Restored, Waiting};
use crate::alerting::threads::Told;
use crate::database::{self, Failure, Schema};
use crate::model::{Alert, Silence, Status, Timestamp};

/// How long alerts that nobody waits for are kept.
const HISTORY: Duration = Duration::from_secs(30 * 86_400);
/// Alerts that are removed in one transaction.
const AT_A_TIME: i64 = 64;

/// All times are nanoseconds since the Unix epoch.
pub(super) const SCHEMA: Schema = Schema {
    version: 1,
    tables: "
    CREATE TABLE alert (
        seq INTEGER PRIMARY KEY,
        at INTEGER NOT NULL,
        incident TEXT NOT NULL,
        severity INTEGER NOT NULL, -- 0 info to 3 emergency
        body TEXT NOT NULL, -- JSON
        crc INTEGER NOT NULL, -- CRC-32 of the body
        silenced TEXT -- by which silence
    );
    CREATE TABLE open (incident TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID; -- not over; its latest alert
    CREATE TABLE waiting (
        channel TEXT NOT NULL,
        seq INTEGER NOT NULL,
        message TEXT, -- the key of the message that is tried
        PRIMARY KEY (channel, seq)
    ) WITHOUT ROWID;
    CREATE INDEX waiting_seq ON waiting (seq);
    CREATE TABLE outcome (
        channel TEXT NOT NULL,
        seq INTEGER NOT NULL,
        message TEXT NOT NULL,
        at INTEGER NOT NULL,
        refused TEXT, -- why; NULL where it was accepted
        PRIMARY KEY (channel, seq)
    ) WITHOUT ROWID;
    CREATE INDEX outcome_seq ON outcome (seq);
    CREATE TABLE told (channel TEXT NOT NULL, incident TEXT NOT NULL, thread INTEGER NOT NULL, seq INTEGER NOT NULL,
        PRIMARY KEY (channel, incident)) WITHOUT ROWID;
    CREATE TABLE reference (channel TEXT NOT NULL, thread INTEGER NOT NULL, names TEXT NOT NULL, -- JSON
        PRIMARY KEY (channel, thread)) WITHOUT ROWID;
    CREATE TABLE silence (id TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID; -- JSON
",
    survives_power_loss: true,
    key: "[agent] data_dir",
};

/// Writes one change.
pub(super) fn apply(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Alert { seq, alert, channels, silenced } => {
            let body = serde_json::to_string(&**alert).unwrap_or_default();
            let crc = i64::from(crc32fast::hash(body.as_bytes()));
            transaction
                .prepare("INSERT OR REPLACE INTO alert (seq, at, incident, severity, body, crc, silenced) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
                .execute(params![number(*seq), alert.at.as_nanos(), alert.id, alert.severity as i64, body, crc, silenced])?;
            if alert.status == Status::Resolved {
                transaction.prepare("DELETE FROM open WHERE incident = ?1")?.execute([&alert.id])?;
            } else {
                transaction
                    .prepare("INSERT OR REPLACE INTO open (incident, seq) VALUES (?1, ?2)")?
                    .execute(params![alert.id, number(*seq)])?;
            }
            want(transaction, *seq, channels)
        }
        Change::Want { seq, channels } => want(transaction, *seq, channels),
        Change::Composed { channel, key, seqs } => {
            let mut update = transaction.prepare("UPDATE waiting SET message = ?3 WHERE channel = ?1 AND seq = ?2")?;
            seqs.iter().try_for_each(|seq| update.execute(params![channel, number(*seq), key]).map(drop))
        }
        Change::Settled { channel, key, seqs, at, refused } => {
            let mut delete = transaction.prepare("DELETE FROM waiting WHERE channel = ?1 AND seq = ?2")?;
            let mut insert = transaction
                .prepare("INSERT OR REPLACE INTO outcome (channel, seq, message, at, refused) VALUES (?1, ?2, ?3, ?4, ?5)")?;
            seqs.iter().try_for_each(|seq| {
                delete.execute(params![channel, number(*seq)])?;
                insert.execute(params![channel, number(*seq), key, at.as_nanos(), refused]).map(drop)
            })
        }
        Change::Told { channel, told, over, references } => {
            for told in told {
                transaction
                    .prepare("INSERT OR REPLACE INTO told (channel, incident, thread, seq) VALUES (?1, ?2, ?3, ?4)")?
                    .execute(params![channel, told.alert.id, number(told.thread), number(told.seq)])?;
            }
            for incident in over {
                transaction
                    .prepare("DELETE FROM told WHERE channel = ?1 AND incident = ?2")?
                    .execute(params![channel, incident])?;
            }
            if let Some((thread, names)) = references {
                let names = serde_json::to_string(names).unwrap_or_default();
                transaction
                    .prepare("INSERT OR REPLACE INTO reference (channel, thread, names) VALUES (?1, ?2, ?3)")?
                    .execute(params![channel, number(*thread), names])?;
            }
            if !over.is_empty() {
                transaction
                    .prepare(
                        "DELETE FROM reference WHERE channel = ?1
                         AND thread NOT IN (SELECT thread FROM told WHERE told.channel = ?1)",
                    )?
                    .execute([channel])?;
            }
            Ok(())
        }
        Change::Gone { channel } => {
            for table in ["waiting", "told", "reference"] {
                transaction.execute(&format!("DELETE FROM {table} WHERE channel = ?1"), [channel])?;
            }
            Ok(())
        }
    }
}

fn want(transaction: &Transaction<'_>, seq: u64, channels: &[&'static str]) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare("INSERT OR IGNORE INTO waiting (channel, seq) VALUES (?1, ?2)")?;
    channels.iter().try_for_each(|channel| insert.execute(params![channel, number(seq)]).map(drop))
}

/// What is there for an agent that starts; `damaged` counts alerts whose checksum does not match.
pub(super) fn restore(connection: &Connection, at: Timestamp, damaged: &mut u64) -> rusqlite::Result<Restored> {
    let next_seq = connection.query_row("SELECT coalesce(max(seq), 0) + 1 FROM alert", [], |row| row.get::<_, i64>(0))?;
    let mut restored = Restored { next_seq: next_seq.unsigned_abs(), silences: silences_in(connection)?, ..Restored::default() };
    let mut known: BTreeMap<u64, Option<Arc<Alert>>> = BTreeMap::new();
    let mut alert = |row: &Row<'_>| -> rusqlite::Result<Option<Arc<Alert>>> {
        let seq = row.get::<_, i64>("seq")?.unsigned_abs();
        if let Some(alert) = known.get(&seq) {
            return Ok(alert.clone());
        }
        let alert = read(row)?.map(Arc::new);
        *damaged += u64::from(alert.is_none());
        known.insert(seq, alert.clone());
        Ok(alert)
    };
    let mut select = connection.prepare("SELECT * FROM waiting JOIN alert USING (seq) ORDER BY channel, seq")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(alert) = alert(row)? {
            let waiting = Waiting { seq: row.get::<_, i64>("seq")?.unsigned_abs(), alert, key: row.get("message")? };
            restored.waiting.entry(row.get("channel")?).or_default().push(waiting);
        }
    }
    let mut select = connection.prepare("SELECT * FROM told JOIN alert USING (seq) ORDER BY channel, seq")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(alert) = alert(row)? {
            let (thread, seq) = (row.get::<_, i64>("thread")?.unsigned_abs(), row.get::<_, i64>("seq")?.unsigned_abs());
            restored.told.entry(row.get("channel")?).or_default().push(Told { thread, seq, alert });
        }
    }
    let mut select = connection.prepare("SELECT * FROM open JOIN alert USING (seq) ORDER BY seq")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(alert) = alert(row)? {
            if row.get::<_, Option<String>>("silenced")?.is_some() {
                restored.silenced.push((row.get::<_, i64>("seq")?.unsigned_abs(), Arc::clone(&alert)));
            }
            restored.open.push(alert);
        }
    }
    let mut select = connection.prepare("SELECT channel, thread, names FROM reference")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let names = serde_json::from_str(&row.get::<_, String>(2)?).unwrap_or_default();
        restored.references.entry(row.get(0)?).or_default().insert(row.get::<_, i64>(1)?.unsigned_abs(), names);
    }
    let hour_ago = at.minus(Duration::from_secs(3600));
    let mut select = connection.prepare(
        "SELECT channel, max(at) FROM outcome WHERE at > ?1 AND at <= ?2 AND refused IS NULL GROUP BY channel, message ORDER BY 2",
    )?;
    let mut rows = select.query(params![hour_ago.as_nanos(), at.as_nanos()])?;
    while let Some(row) = rows.next()? {
        restored.sent.entry(row.get(0)?).or_default().push(Timestamp::from_nanos(row.get(1)?));
    }
    Ok(restored)
}

/// The alerts of these numbers.
pub(super) fn load(connection: &Connection, seqs: &[u64], damaged: &mut u64) -> rusqlite::Result<Vec<(u64, Arc<Alert>)>> {
    let mut select = connection.prepare("SELECT * FROM alert WHERE seq = ?1")?;
    let mut found = Vec::new();
    for seq in seqs {
        match select.query_row([number(*seq)], read).optional()? {
            Some(Some(alert)) => found.push((*seq, Arc::new(alert))),
            Some(None) => *damaged += 1,
            None => {}
        }
    }
    Ok(found)
}

/// The alert of a row; `None` where the checksum does not match, or it reads as no alert.
fn read(row: &Row<'_>) -> rusqlite::Result<Option<Alert>> {
    let body: String = row.get("body")?;
    let crc: i64 = row.get("crc")?;
    let is_whole = i64::from(crc32fast::hash(body.as_bytes())) == crc;
    Ok(is_whole.then(|| serde_json::from_str(&body).ok()).flatten())
}

/// Bytes in use.
pub(super) fn size(connection: &Connection) -> rusqlite::Result<u64> {
    let number = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs);
    let pages = number("PRAGMA page_count")?.saturating_sub(number("PRAGMA freelist_count")?);
    Ok(pages.saturating_mul(number("PRAGMA page_size")?))
}

/// Removes what is too old, and what is too much: first what nobody waits for, then what somebody does; how much of the latter.
pub(super) fn prune(connection: &mut Connection, now: Timestamp, max_size: u64) -> rusqlite::Result<u64> {
    const UNUSED: &str = "NOT EXISTS (SELECT 1 FROM waiting WHERE waiting.seq = alert.seq)
        AND NOT EXISTS (SELECT 1 FROM told WHERE told.seq = alert.seq)
        AND NOT EXISTS (SELECT 1 FROM open WHERE open.seq = alert.seq)";
    let before = now.minus(HISTORY).as_nanos();
    // An incident that nobody has spoken of for so long is none that an agent could end.
    connection.execute("DELETE FROM open WHERE seq IN (SELECT seq FROM alert WHERE at < ?1)", [before])?;
    remove(connection, &format!("SELECT seq FROM alert WHERE at < {before} AND {UNUSED} ORDER BY seq"))?;
    let mut given_up = 0;
    while size(connection)? > max_size {
        if remove(connection, &format!("SELECT seq FROM alert WHERE {UNUSED} ORDER BY seq"))? > 0 {
            continue;
        }
        let waiting = remove(connection, "SELECT seq FROM alert ORDER BY severity, seq")?;
        given_up += waiting;
        if waiting == 0 {
            break;
        }
    }
    connection.execute_batch("PRAGMA incremental_vacuum(1024)")?;
    Ok(given_up)
}

/// Removes the first alerts of a selection, with all that is said of them.
fn remove(connection: &mut Connection, select: &str) -> rusqlite::Result<u64> {
    let transaction = connection.transaction()?;
    let seqs: Vec<i64> = transaction
        .prepare(&format!("{select} LIMIT {AT_A_TIME}"))?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for seq in &seqs {
        for table in ["waiting", "outcome", "told", "open", "alert"] {
            transaction.prepare(&format!("DELETE FROM {table} WHERE seq = ?1"))?.execute([seq])?;
        }
    }
    transaction.commit()?;
    Ok(u64::try_from(seqs.len()).unwrap_or(u64::MAX))
}

/// What is on disk of one alert.
#[derive(Debug)]
pub struct Kept {
    /// Its number.
    pub seq: u64,
    /// The alert; `None` where its checksum does not match.
    pub alert: Option<Alert>,
    /// The silence that keeps it from being told.
    pub silenced: Option<String>,
    /// By channel whether it waits, was accepted, or was given up.
    pub outcomes: Vec<(String, Outcome)>,
}

/// What came of an alert at a channel.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It waits.
    Waiting,
    /// It was accepted then.
    Accepted(Timestamp),
    /// It was given up, and why.
    Refused(String),
}

/// Which alerts are listed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listing {
    /// Only the latest of each incident that is not over.
    pub open: bool,
    /// Only what came up since.
    pub since: Option<Timestamp>,
}

/// The alerts of a database, oldest first; also while an agent writes to it.
///
/// # Errors
/// [`Failure`].
pub fn list(path: &Path, listing: Listing) -> Result<Vec<Kept>, Failure> {
    let connection = database::open_to_read(path, &SCHEMA)?;
    kept(&connection, listing).map_err(|error| Failure::sqlite(path, error))
}

fn kept(connection: &Connection, listing: Listing) -> rusqlite::Result<Vec<Kept>> {
    let open = if listing.open { "WHERE seq IN (SELECT seq FROM open)" } else { "WHERE 1" };
    let since = listing.since.map_or(i64::MIN, Timestamp::as_nanos);
    let mut select = connection.prepare(&format!("SELECT * FROM alert {open} AND at >= ?1 ORDER BY seq"))?;
    let mut waiting = connection.prepare("SELECT channel FROM waiting WHERE seq = ?1 ORDER BY channel")?;
    let mut outcome = connection.prepare("SELECT channel, at, refused FROM outcome WHERE seq = ?1 ORDER BY channel")?;
    let mut all = Vec::new();
    let mut rows = select.query([since])?;
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get("seq")?;
        let mut outcomes = Vec::new();
        let mut settled = outcome.query([seq])?;
        while let Some(row) = settled.next()? {
            let refused: Option<String> = row.get(2)?;
            let at = Timestamp::from_nanos(row.get(1)?);
            outcomes.push((row.get(0)?, refused.map_or(Outcome::Accepted(at), Outcome::Refused)));
        }
        let mut queued = waiting.query([seq])?;
        while let Some(row) = queued.next()? {
            outcomes.push((row.get(0)?, Outcome::Waiting));
        }
        all.push(Kept { seq: seq.unsigned_abs(), alert: read(row)?, silenced: row.get("silenced")?, outcomes });
    }
    Ok(all)
}

/// What waits for one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Name of the channel.
    pub channel: String,
    /// How many alerts wait.
    pub waiting: u64,
    /// When the oldest of them came up.
    pub oldest: Timestamp,
}

/// What waits for each channel for which something does, also while an agent writes to the database.
///
/// # Errors
/// [`Failure`].
pub fn backlog(path: &Path) -> Result<Vec<Backlog>, Failure> {
    let connection = database::open_to_read(path, &SCHEMA)?;
    let read = || {
        let mut select = connection
            .prepare("SELECT channel, count(*), min(at) FROM waiting JOIN alert USING (seq) GROUP BY channel ORDER BY channel")?;
        let backlog = |row: &Row<'_>| {
            let (channel, waiting): (_, i64) = (row.get(0)?, row.get(1)?);
            Ok(Backlog { channel, waiting: waiting.unsigned_abs(), oldest: Timestamp::from_nanos(row.get(2)?) })
        };
        select.query_map([], backlog)?.collect::<rusqlite::Result<Vec<_>>>()
    };
    read().map_err(|error| Failure::sqlite(path, error))
}

/// The silences of a database that were made on the command line.
///
/// # Errors
/// [`Failure`].
pub fn silences(path: &Path) -> Result<Vec<Silence>, Failure> {
    let connection = database::open_to_read(path, &SCHEMA)?;
    silences_in(&connection).map_err(|error| Failure::sqlite(path, error))
}

pub(super) fn silences_in(connection: &Connection) -> rusqlite::Result<Vec<Silence>> {
    let mut select = connection.prepare("SELECT body FROM silence ORDER BY id")?;
    let bodies = select.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    // One that another version wrote and this one cannot read silences nothing.
    Ok(bodies.iter().filter_map(|body| serde_json::from_str(body).ok()).collect())
}

/// Keeps a silence; an agent that runs takes it over within seconds.
///
/// # Errors
/// [`Failure`].
pub fn silence_add(data_dir: &Path, silence: &Silence) -> Result<(), Failure> {
    let path = super::path(data_dir);
    let connection = database::open(&path, data_dir, &SCHEMA)?;
    let body = serde_json::to_string(silence).unwrap_or_default();
    let added = connection.execute("INSERT OR REPLACE INTO silence (id, body) VALUES (?1, ?2)", params![silence.id, body]);
    added.map(drop).map_err(|error| Failure::sqlite(&path, error))
}

/// Forgets a silence; whether there was one.
///
/// # Errors
/// [`Failure`].
pub fn silence_remove(data_dir: &Path, id: &str) -> Result<bool, Failure> {
    let path = super::path(data_dir);
    let connection = database::open(&path, data_dir, &SCHEMA)?;
    let removed = connection.execute("DELETE FROM silence WHERE id = ?1", [id]);
    removed.map(|count| count > 0).map_err(|error| Failure::sqlite(&path, error))
}

/// Numbers of alerts and threads count up from one; none ever gets so far.
fn number(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}
