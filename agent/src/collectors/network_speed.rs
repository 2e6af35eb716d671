//! The speed that the links of network interfaces have agreed on (Documentation/ABI/testing/sysfs-class-net).
//!
//! The kernel asks the driver, some of which ask their device, under the lock of all network configuration: each interface is
//! asked where it can hang alone.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::time::Duration;

use super::entities::Entities;
use super::text::number;
use super::{Batch, Collector, Row, metrics};
use crate::host::{Host, ReadError};
use crate::model::{Labels, SeriesKey};

pub const ROW: Row = Row {
    name: "network_speed",
    summary: "speed of network links",
    source: "/sys/class/net/*/speed",
    interval: |config| config.collector.network_interval.max(INTERVAL),
    build: |_, host| Box::new(Speed { host: host.clone(), interfaces: Entities::default() }),
    metrics: METRICS,
};

metrics! {
    gauge SPEED: PerSecond = "network_speed_bytes_per_second",
        "Bytes that the link of a hardware interface carries in a second; absent where it is down or does not say (/sys/class/net/*/speed, Documentation/ABI/testing/sysfs-class-net).";
}

/// A link hardly ever changes its speed.
const INTERVAL: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_millis(500);
/// Most interfaces with hardware behind them that are asked.
const MAX_INTERFACES: usize = 256;

struct Speed {
    host: Host,
    interfaces: Entities<OsString, SeriesKey>,
}

impl Collector for Speed {
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let directory = self.host.sysfs("class/net");
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            // In a network namespace of its own, sysfs may show nothing.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(cause) => return Err(ReadError { path: directory, cause }),
        };
        let hardware = entries.flatten().map(|entry| entry.path()).filter(|path| path.join("device").exists());
        for path in hardware.take(MAX_INTERFACES) {
            let Some(name) = path.file_name() else { continue };
            let file = path.join("speed");
            let subject = format!("the speed of network interface {}", name.display());
            match self.host.isolate().call(&subject, DEADLINE, move || fs::read(file)).map(parse_speed) {
                Err(stuck) => batch.skip(|| stuck.to_string()),
                Ok(Err(expected)) => batch.skip(|| format!("{}/speed: expected {expected}", path.display())),
                Ok(Ok(None)) => {}
                Ok(Ok(Some(bytes))) => {
                    let make = || SeriesKey::new(&SPEED, Labels::new().with("interface", name.to_string_lossy().into_owned()));
                    self.interfaces.see(name, make, |series| batch.push_count(series, bytes));
                }
            }
        }
        self.interfaces.end_run();
        Ok(())
    }
}

/// Bytes a second from a number of Mbit/s. A link that is down cannot be read, or has -1 or its 32 bits without sign.
fn parse_speed(answer: io::Result<Vec<u8>>) -> Result<Option<u64>, super::Expected> {
    let Ok(text) = answer else { return Ok(None) };
    match text.trim_ascii() {
        b"-1" | b"4294967295" | b"65535" => Ok(None),
        speed => match number(speed).ok_or("a number of Mbit/s")? {
            0 => Ok(None),
            megabits => Ok(Some(megabits.saturating_mul(1_000_000 / 8))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::text::mangle;

    #[test]
    fn speeds_become_bytes() {
        let speed = |text: &[u8]| parse_speed(Ok(text.to_vec()));
        assert_eq!(speed(b"10000\n"), Ok(Some(1_250_000_000)));
        assert_eq!([speed(b"-1\n"), speed(b"4294967295\n"), speed(b"0\n")], [Ok(None), Ok(None), Ok(None)]);
        assert_eq!(speed(b"fast\n"), Err("a number of Mbit/s"));
        assert_eq!(parse_speed(Err(ErrorKind::InvalidInput.into())), Ok(None));
    }

    #[test]
    fn no_input_panics() {
        mangle(b"10000\n", |text| {
            let _ = parse_speed(Ok(text.to_vec()));
        });
    }
}
