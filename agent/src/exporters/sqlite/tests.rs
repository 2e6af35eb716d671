use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::engine::Engine;
use crate::model::{Metric, Observation, Sample, Samples, Timestamp, Unit};

static METRIC: Metric = Metric::gauge("test_value", Unit::Count, "A value.");

fn series(name: &str) -> SeriesKey {
    SeriesKey::new(&METRIC, Labels::new().with("name", name))
}

fn row(name: &str, minute: i64, value: f64) -> Row {
    Row { series: series(name), minute, rollup: Rollup { min: value, mean: value, max: value, last: value, count: 1 } }
}

fn database(directory: &TempDir) -> (Database, PathBuf) {
    let path = directory.path().join("state/metrics.db");
    (Database::open(&path, directory.path()).unwrap(), path)
}

fn everything(reader: &Reader<'_>) -> Vec<(Found, Vec<(i64, Rollup)>)> {
    let found = reader.series(None, i64::MIN).unwrap().into_iter();
    found.map(|found| (found.clone(), reader.minutes(&found, &(i64::MIN..i64::MAX)).unwrap())).collect()
}

/// Waits until `done` says so; the time is a bound against hanging.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what} does not come");
        thread::sleep(Duration::from_millis(2));
    }
}

/// An engine with one series, a sample every ten seconds, and time that passes as it is told.
struct Host {
    engine: Engine,
    feed: Feed,
    secs: i64,
}

impl Host {
    const BEGIN: i64 = 1_700_000_040;

    fn start(config: &Config) -> (Self, thread::JoinHandle<()>) {
        let (feed, batches, progress) = Feed::new(Timestamp::from_secs(Self::BEGIN), Duration::from_secs(86_400));
        let mut writer = Writer::new(config, batches, progress);
        let host = Self { engine: Engine::new(config, "web-01"), feed, secs: Self::BEGIN };
        (host, thread::spawn(move || writer.run()))
    }

    fn minutes(&mut self, minutes: i64) {
        for _ in 0..minutes * 6 {
            self.secs += 10;
            let values = vec![Sample { series: series("a"), value: self.secs as f64 }];
            let samples = Observation::Samples(Samples { collector: "test", values });
            self.engine.observe(Timestamp::from_secs(self.secs), samples, &mut Vec::new());
        }
    }

    fn tick(&mut self) {
        self.feed.tick(Timestamp::from_secs(self.secs + 5), self.engine.store());
    }

    fn figures(&self) -> Vec<f64> {
        let mut samples = Vec::new();
        self.feed.samples(&mut samples);
        samples.into_iter().map(|sample| sample.value).collect()
    }

    fn finish(mut self, writer: thread::JoinHandle<()>) {
        self.feed.finish(Timestamp::from_secs(self.secs), self.engine.store());
        writer.join().unwrap();
    }
}

fn config(directory: &TempDir) -> Config {
    let mut config = Config::default();
    config.agent.data_dir = directory.path().to_owned();
    config.storage.sqlite_enabled = true;
    config
}

#[test]
fn what_is_written_can_be_read_and_a_minute_in_two_parts_becomes_one() {
    let directory = TempDir::new().unwrap();
    let (mut database, path) = database(&directory);
    database.write(&[row("a", 10, 4.0), row("a", 11, 1.0), row("\"b\\\n", 10, 2.0)]).unwrap();
    let two = Rollup { min: 5.0, mean: 7.0, max: 9.0, last: 9.0, count: 2 };
    database.write(&[Row { series: series("a"), minute: 10, rollup: two }]).unwrap();
    drop(database);
    Reader::with::<_, Failure>(&path, |reader| {
        let all = everything(reader);
        assert_eq!(
            all.iter().map(|(found, _)| found.labels.clone()).collect::<Vec<_>>(),
            [series("\"b\\\n").labels().clone(), series("a").labels().clone(),]
        );
        assert_eq!((all[1].0.metric.as_str(), all[1].0.seen), ("test_value", 11));
        assert_eq!(all[1].1[0], (10, Rollup { min: 4.0, mean: 6.0, max: 9.0, last: 9.0, count: 3 }));
        assert_eq!(all[1].1.len(), 2);
        Ok(())
    })
    .unwrap();
}

#[test]
fn only_the_owner_may_read_it_and_directories_are_made_in_the_data_directory_alone() {
    let directory = TempDir::new().unwrap();
    let (mut database, path) = database(&directory);
    database.write(&[row("a", 10, 4.0)]).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let mode = fs::metadata(format!("{}{suffix}", path.display())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{suffix}");
    }
    let elsewhere = directory.path().join("elsewhere/metrics.db");
    let error = Database::open(&elsewhere, Path::new("/nonexistent")).err().unwrap().to_string();
    assert!(error.contains("its directory must exist and be writable"), "{error}");
}

#[test]
fn the_database_of_a_newer_version_or_another_program_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let (first, path) = database(&directory);
    first.connection.pragma_update(None, "user_version", SCHEMA + 1).unwrap();
    drop(first);
    let failure = Database::open(&path, directory.path()).err().unwrap();
    assert!(failure.is_final() && failure.to_string().contains("a newer sysops-agent"), "{failure}");
    let other = directory.path().join("other.db");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let failure = Database::open(&other, directory.path()).err().unwrap();
    assert!(failure.is_final() && failure.to_string().contains("another program"), "{failure}");
    // The agent goes on without.
    let mut config = config(&directory);
    config.storage.sqlite_path = Some(other);
    let (mut host, writer) = Host::start(&config);
    host.minutes(6);
    host.tick();
    writer.join().unwrap();
    host.minutes(6);
    host.tick();
    assert_eq!(host.figures()[0], 0.0);
}

#[test]
fn minutes_of_the_store_come_into_the_database() {
    let directory = TempDir::new().unwrap();
    let config = config(&directory);
    let (mut host, writer) = Host::start(&config);
    for _ in 0..3 {
        host.minutes(5);
        host.tick();
        eventually("the batch", || {
            host.tick();
            host.figures()[3] == 0.0
        });
    }
    // Half a minute more, which only the end hands over.
    host.secs += 10;
    let last = host.secs;
    let sample = vec![Sample { series: series("a"), value: 1.0 }];
    let samples = Observation::Samples(Samples { collector: "test", values: sample });
    host.engine.observe(Timestamp::from_secs(last), samples, &mut Vec::new());
    host.finish(writer);
    Reader::with::<_, Failure>(&path(&config), |reader| {
        let all = everything(reader);
        let minutes: Vec<i64> = all[0].1.iter().map(|(minute, _)| *minute).collect();
        let first = Host::BEGIN / 60;
        assert_eq!(minutes, (first..=first + 15).collect::<Vec<_>>());
        let second = (first + 1) as f64 * 60.0;
        assert_eq!(all[0].1[1].1, Rollup { min: second, mean: second + 25.0, max: second + 50.0, last: second + 50.0, count: 6 });
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_locked_database_costs_no_minute() {
    let directory = TempDir::new().unwrap();
    let config = config(&directory);
    drop(Database::open(&path(&config), directory.path()).unwrap());
    let locker = Connection::open(path(&config)).unwrap();
    locker.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let (mut host, writer) = Host::start(&config);
    host.minutes(10);
    host.tick();
    eventually("a failure", || host.figures()[1] > 0.0);
    locker.execute_batch("COMMIT").unwrap();
    eventually("the batch", || {
        host.tick();
        host.figures()[3] == 0.0
    });
    host.finish(writer);
    let minutes = Reader::with::<_, Failure>(&path(&config), |reader| Ok(everything(reader)[0].1.len())).unwrap();
    assert_eq!(minutes, 11);
}

#[test]
fn a_damaged_database_is_kept_aside_and_a_new_one_is_begun() {
    let directory = TempDir::new().unwrap();
    let config = config(&directory);
    let garbage = vec![b'x'; 10_000];
    fs::write(path(&config), &garbage).unwrap();
    let (mut host, writer) = Host::start(&config);
    host.minutes(10);
    host.tick();
    eventually("the batch", || {
        host.tick();
        host.figures()[3] == 0.0
    });
    host.finish(writer);
    assert_eq!(fs::read(directory.path().join("metrics.db.damaged-1")).unwrap(), garbage);
    let minutes = Reader::with::<_, Failure>(&path(&config), |reader| Ok(everything(reader)[0].1.clone())).unwrap();
    assert_eq!(minutes.len(), 11, "{minutes:?}");
}

#[test]
fn what_never_came_through_is_counted() {
    let directory = TempDir::new().unwrap();
    let mut config = config(&directory);
    config.storage.sqlite_path = Some("/nonexistent/metrics.db".into());
    let (mut host, writer) = Host::start(&config);
    host.minutes(10);
    host.tick();
    eventually("a failure", || host.figures()[1] > 0.0);
    host.secs += 86_400;
    eventually("giving up", || {
        host.tick();
        host.figures()[2..] == [600.0, 86_400.0]
    });
    host.finish(writer);
}

#[test]
fn old_minutes_go_and_their_room_with_them() {
    let directory = TempDir::new().unwrap();
    let (mut database, path) = database(&directory);
    for name in 0..20 {
        let rows: Vec<Row> = (0..4000).map(|minute| row(&name.to_string(), minute, f64::from(name) / 3.0)).collect();
        database.write(&rows).unwrap();
    }
    database.write(&[row("new", 5000, 1.0)]).unwrap();
    let pages = |database: &Database| database.connection.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0)).unwrap();
    let before = pages(&database);
    assert_eq!(database.remove_before(3000, &|| false).unwrap(), 20 * 3000);
    assert!(pages(&database) < before / 2, "{} of {before} pages", pages(&database));
    let all = everything(&database.reader());
    assert!(all.len() == 21 && all[0].1.len() == 1000 && all[0].1[0].0 == 3000);
    assert_eq!(database.remove_before(4500, &|| true).unwrap(), 0);
    assert_eq!(database.remove_before(4500, &|| false).unwrap(), 20 * 1000);
    assert_eq!(everything(&database.reader()).len(), 1);
    // A series that comes back is a new one.
    database.write(&[row("1", 5001, 1.0)]).unwrap();
    drop(database);
    assert_eq!(Reader::with::<_, Failure>(&path, |reader| Ok(everything(reader).len())).unwrap(), 2);
}

#[test]
fn what_was_written_is_loaded_at_a_start_without_what_is_gone() {
    let directory = TempDir::new().unwrap();
    let config = config(&directory);
    let mut database = Database::open(&path(&config), directory.path()).unwrap();
    let rows: Vec<Row> = (1000..1500).map(|minute| row("alive", minute, minute as f64)).collect();
    database.write(&rows).unwrap();
    database.write(&[row("gone", 1400, 1.0), row("too old", 10, 1.0)]).unwrap();
    drop(database);
    let (_feed, batches, progress) = Feed::new(begin(1500), Duration::from_secs(86_400));
    let mut writer = Writer::new(&config, batches, progress);
    let mut loaded = Vec::new();
    writer.load(&(1200..1500), &mut |history| {
        loaded.push(history);
        true
    });
    assert_eq!(loaded.len(), 1);
    assert_eq!((loaded[0].metric.as_str(), loaded[0].labels.get("name")), ("test_value", Some("alive")));
    assert_eq!(loaded[0].samples.len(), 300);
    assert_eq!(loaded[0].samples[0], (Timestamp::from_nanos(begin(1201).as_nanos() - 1_000_000), 1200.0));
    assert_eq!(minute(loaded[0].samples[299].0), 1499);
}

/// Not a test of its own: the process that [`a_kill_at_any_moment_leaves_the_database_whole`] kills.
#[test]
fn a_writer_to_be_killed() {
    let Some(path) = std::env::var_os("SYSOPS_AGENT_TEST_DATABASE").map(PathBuf::from) else { return };
    let mut database = Database::open(&path, path.parent().unwrap()).unwrap();
    let first = everything(&database.reader()).iter().map(|(found, _)| found.seen).max().unwrap_or(1000);
    for minute in first.. {
        let rows: Vec<Row> = (0..200).map(|name| row(&name.to_string(), minute, minute as f64 / 3.0)).collect();
        database.write(&rows).unwrap();
        if minute % 50 == 0 {
            database.remove_before(minute - 100, &|| false).unwrap();
        }
    }
}

#[test]
fn a_kill_at_any_moment_leaves_the_database_whole() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("metrics.db");
    let mut seed = u64::from(std::process::id()) | 1;
    let mut before = 0;
    for kill in 0..12 {
        let mut writer = std::process::Command::new(std::env::current_exe().unwrap());
        writer.args(["--exact", "exporters::sqlite::tests::a_writer_to_be_killed"]).env("SYSOPS_AGENT_TEST_DATABASE", &path);
        let mut writer = writer.stdout(std::process::Stdio::null()).spawn().unwrap();
        let seen = || {
            let all = Reader::with::<_, Failure>(&path, |reader| reader.series(None, i64::MIN)).unwrap_or_default();
            all.iter().map(|found| found.seen).max().unwrap_or(0)
        };
        eventually("a commit", || seen() > before);
        // Any moment from then on.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        thread::sleep(Duration::from_micros(seed % 100_000));
        writer.kill().unwrap();
        writer.wait().unwrap();
        let connection = Connection::open(&path).unwrap();
        let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(verdict, "ok", "after kill {kill}");
        // Each transaction is there as a whole, or not at all; old minutes go in several.
        let torn: i64 = connection
            .query_row(
                "SELECT count(*) FROM (SELECT 1 FROM rollup WHERE minute > (SELECT max(seen) FROM series) - 90
                 GROUP BY minute HAVING count(*) <> 200)",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(torn, 0, "after kill {kill}");
        assert!(seen() >= before);
        before = seen();
    }
}

#[test]
fn a_full_disk_costs_no_minute() {
    let directory = TempDir::new().unwrap();
    let Some(_mount) = Tmpfs::mount(directory.path()) else { return };
    let config = config(&directory);
    let (mut host, writer) = Host::start(&config);
    host.minutes(5);
    host.tick();
    eventually("the first batch", || host.figures()[0] > 0.0);
    let filler = directory.path().join("filler");
    let mut size = 4 << 20;
    while size > 0 {
        let mut file = OpenOptions::new().append(true).create(true).open(&filler).unwrap();
        if io::Write::write_all(&mut file, &vec![0; size]).is_err() {
            size /= 2;
        }
    }
    // As much as the log has room for may still be written.
    eventually("a failure", || {
        host.minutes(5);
        host.tick();
        host.figures()[1] > 0.0
    });
    fs::remove_file(&filler).unwrap();
    eventually("all that waits", || {
        host.tick();
        host.figures()[3] == 0.0
    });
    let minutes = (host.secs - Host::BEGIN) / 60 + 1;
    assert_eq!(host.figures()[2], 0.0);
    host.finish(writer);
    let written = Reader::with::<_, Failure>(&path(&config), |reader| Ok(everything(reader)[0].1.len())).unwrap();
    assert_eq!(i64::try_from(written).unwrap(), minutes);
}

/// A small file system of its own; gone when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path) -> Option<Self> {
        if xtask::faults::needs_root() {
            return None;
        }
        let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(at).status();
        assert!(mounted.unwrap().success());
        Some(Self(at.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
