//! What the hardware reports of itself: memory errors (EDAC, Documentation/admin-guide/ras.rst), throttling, temperatures.
//!
//! A sensor is asked where it can hang alone: its driver may have to talk to a device that does not answer.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::attribute::{Attributes, numbered};
use super::entities::Entities;
use super::{Batch, Collector, Row, keys, metrics};
use crate::host::{Host, ReadError};
use crate::model::{Labels, SeriesKey};

pub const ROW: Row = Row {
    name: "kernel_hardware",
    summary: "memory errors, thermal throttling, temperatures",
    source: "/sys/devices/system/{edac,cpu}, /sys/class/{hwmon,thermal}",
    interval: |config| config.agent.collect_interval.max(INTERVAL),
    build: |_, host| Box::new(Hardware::new(host)),
    metrics: METRICS,
};

metrics! {
    counter CORRECTED: Count = "kernel_edac_corrected_total",
        "Memory errors that the hardware corrected, by memory controller (/sys/devices/system/edac/mc/mc*/ce_count, Documentation/admin-guide/ras.rst).";
    counter UNCORRECTED: Count = "kernel_edac_uncorrected_total",
        "Memory errors that could not be corrected, by memory controller (/sys/devices/system/edac/mc/mc*/ue_count, Documentation/admin-guide/ras.rst).";
    counter THROTTLE: Count = "kernel_thermal_throttle_total",
        "How often the processor slowed down because a core or a package was too hot (/sys/devices/system/cpu/cpu*/thermal_throttle, Documentation/ABI/testing/sysfs-devices-system-cpu).";
    gauge TEMPERATURE: Celsius = "kernel_temperature_celsius",
        "What a sensor measures (/sys/class/hwmon, Documentation/hwmon/sysfs-interface.rst; /sys/class/thermal, Documentation/driver-api/thermal/sysfs-api.rst).";
    gauge CRITICAL: Celsius = "kernel_temperature_critical_celsius",
        "What a sensor must not reach, as its driver says (/sys/class/hwmon/*/temp*_crit, Documentation/hwmon/sysfs-interface.rst).";
}

const INTERVAL: Duration = Duration::from_secs(60);
/// How long one chip may take to answer. Those on slow buses take some milliseconds a sensor.
const DEADLINE: Duration = Duration::from_secs(1);
const MAX_CONTROLLERS: usize = 64;
const MAX_PROCESSORS: usize = 8192;
const MAX_CHIPS: usize = 64;
const MAX_SENSORS: usize = 256;
/// What a sensor can measure at all; some that are not connected say more.
const CREDIBLE: std::ops::RangeInclusive<f64> = -100.0..=250.0;

struct Hardware {
    host: Host,
    controllers: Entities<u32, [SeriesKey; 2]>,
    /// Most that was read of each package and, with its number, core. A processor that is offline has no counters.
    throttled: BTreeMap<(u64, Option<u64>), u64>,
    throttle: [SeriesKey; 2],
    sensors: Entities<Sensor, [SeriesKey; 2]>,
}

/// What names a sensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Sensor {
    /// `hwmon3` or `thermal_zone0`.
    source: String,
    /// Name of the chip or type of the zone.
    chip: String,
    /// Its label, `temp1`, or `temp` of a zone.
    name: String,
}

/// What a chip or a zone says.
#[derive(Debug, Default)]
struct Readings {
    chip: String,
    /// Name of the sensor, degrees now, and those that are critical.
    sensors: Vec<(String, Option<f64>, Option<f64>)>,
    skips: Vec<String>,
}

impl Hardware {
    fn new(host: &Host) -> Self {
        let throttle = ["core", "package"].map(|scope| SeriesKey::new(&THROTTLE, Labels::new().with("scope", scope)));
        Self {
            host: host.clone(),
            controllers: Entities::default(),
            throttled: BTreeMap::new(),
            throttle,
            sensors: Entities::default(),
        }
    }

    fn collect_memory_errors(&mut self, batch: &mut Batch) {
        for (number, path) in numbered(&self.host.sysfs("devices/system/edac/mc"), "mc", MAX_CONTROLLERS) {
            let mut attributes = Attributes::new(path);
            let counts = [attributes.number("ce_count"), attributes.number("ue_count")];
            let make = || keys([&CORRECTED, &UNCORRECTED], &Labels::new().with("controller", format!("mc{number}")));
            self.controllers.see(&number, make, |series| {
                for (series, count) in series.iter().zip(counts) {
                    if let Some(count) = count {
                        batch.push_count(series, count);
                    }
                }
            });
            tell(batch, attributes.skips);
        }
        self.controllers.end_run();
    }

    /// Logical processors of one core count the same events, and so do the cores of one package.
    fn collect_throttling(&mut self, batch: &mut Batch) {
        for (_, path) in numbered(&self.host.sysfs("devices/system/cpu"), "cpu", MAX_PROCESSORS) {
            let mut throttle = Attributes::new(path.join("thermal_throttle"));
            let counts = [throttle.number("core_throttle_count"), throttle.number("package_throttle_count")];
            tell(batch, throttle.skips);
            if counts == [None, None] {
                continue;
            }
            let mut topology = Attributes::new(path.join("topology"));
            let (core, package) = (topology.number("core_id"), topology.number("physical_package_id"));
            tell(batch, topology.skips);
            let [in_core, in_package] = counts;
            let mut note = |place, count: Option<u64>| {
                if let Some(count) = count {
                    let most: &mut u64 = self.throttled.entry(place).or_default();
                    *most = count.max(*most);
                }
            };
            if let Some(package) = package {
                note((package, None), in_package);
                if core.is_some() {
                    note((package, core), in_core);
                }
            }
        }
        let sum = |of_cores: bool| {
            let counts = self.throttled.iter().filter(|((_, core), _)| core.is_some() == of_cores).map(|(_, count)| *count);
            counts.reduce(u64::saturating_add)
        };
        for (series, sum) in self.throttle.iter().zip([sum(true), sum(false)]) {
            if let Some(sum) = sum {
                batch.push_count(series, sum);
            }
        }
    }

    fn collect_temperatures(&mut self, batch: &mut Batch) {
        let mut chips = HashSet::new();
        for (number, path) in numbered(&self.host.sysfs("class/hwmon"), "hwmon", MAX_CHIPS) {
            if let Some(readings) = self.ask(batch, &path, read_chip) {
                chips.insert(readings.chip.clone());
                self.emit(batch, &format!("hwmon{number}"), readings);
            }
        }
        // Many zones are shown as a chip of the same name as well.
        for (number, path) in numbered(&self.host.sysfs("class/thermal"), "thermal_zone", MAX_CHIPS) {
            if let Some(readings) = self.ask(batch, &path, read_zone).filter(|readings| !chips.contains(&readings.chip)) {
                self.emit(batch, &format!("thermal_zone{number}"), readings);
            }
        }
        self.sensors.end_run();
    }

    /// Runs `read` where it can hang alone.
    fn ask(&self, batch: &mut Batch, path: &Path, read: fn(PathBuf) -> Readings) -> Option<Readings> {
        let subject = format!("the sensor {}", path.display());
        let path = path.to_owned();
        match self.host.isolate().call(&subject, DEADLINE, move || read(path)) {
            Ok(readings) => Some(readings),
            Err(stuck) => {
                batch.skip(|| stuck.to_string());
                None
            }
        }
    }

    fn emit(&mut self, batch: &mut Batch, source: &str, readings: Readings) {
        let mut names = HashSet::new();
        for (name, now, critical) in readings.sensors {
            // Two sensors of one chip may have the same label.
            if !names.insert(name.clone()) {
                batch.skip(|| format!("{source} has two sensors that are called {name:?}"));
                continue;
            }
            let sensor = Sensor { source: source.to_owned(), chip: readings.chip.clone(), name };
            let labels = || {
                let Sensor { source, chip, name } = &sensor;
                Labels::new().with("source", source.as_str()).with("chip", chip.as_str()).with("sensor", name.as_str())
            };
            let make = || keys([&TEMPERATURE, &CRITICAL], &labels());
            self.sensors.see(&sensor, make, |series| {
                for (series, value) in series.iter().zip([now, critical]) {
                    if let Some(value) = value {
                        batch.push(series, value);
                    }
                }
            });
        }
        tell(batch, readings.skips);
    }
}

impl Collector for Hardware {
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        self.collect_memory_errors(batch);
        self.collect_throttling(batch);
        self.collect_temperatures(batch);
        Ok(())
    }
}

fn tell(batch: &mut Batch, skips: Vec<String>) {
    for skip in skips {
        batch.skip(|| skip);
    }
}

/// Degrees of a number of thousandths; `None` where nothing can be so hot or cold.
fn degrees(thousandths: f64) -> Option<f64> {
    Some(thousandths / 1e3).filter(|degrees| CREDIBLE.contains(degrees))
}

/// The temperatures of a chip of `/sys/class/hwmon`.
fn read_chip(directory: PathBuf) -> Readings {
    let mut attributes = Attributes::new(directory.clone());
    let chip = attributes.text("name").unwrap_or_default();
    let mut sensors = Vec::new();
    let names = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut numbers: Vec<u32> = names
        .filter_map(|name| name.to_str()?.strip_prefix("temp")?.strip_suffix("_input")?.parse().ok())
        .take(MAX_SENSORS)
        .collect();
    numbers.sort_unstable();
    for number in numbers {
        let now = attributes.decimal(&format!("temp{number}_input")).and_then(degrees);
        let critical = now.and_then(|_| attributes.decimal(&format!("temp{number}_crit"))).and_then(degrees);
        let label = attributes.text(&format!("temp{number}_label")).filter(|label| !label.is_empty());
        sensors.push((label.unwrap_or_else(|| format!("temp{number}")), now, critical));
    }
    Readings { chip, sensors, skips: attributes.skips }
}

/// The temperature of a zone of `/sys/class/thermal`.
fn read_zone(directory: PathBuf) -> Readings {
    let mut attributes = Attributes::new(directory);
    let chip = attributes.text("type").unwrap_or_default();
    let now = attributes.decimal("temp").and_then(degrees);
    Readings { chip, sensors: vec![("temp".to_owned(), now, None)], skips: attributes.skips }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;
    use crate::config::HostRoots;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.0.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn hardware(&self) -> Hardware {
            Hardware::new(&Host::new(HostRoots { sysfs: self.0.path().to_owned(), ..HostRoots::default() }))
        }
    }

    fn run(hardware: &mut Hardware) -> Vec<String> {
        let mut batch = Batch::new(Instant::now());
        hardware.collect(&mut batch).unwrap();
        batch.samples.iter().map(|sample| format!("{} {}", sample.series, sample.value)).collect()
    }

    #[test]
    fn throttling_counts_each_core_and_package_once_and_outlives_a_processor() {
        let tree = Tree::new();
        for (cpu, core, count) in [(0, 0, 7), (1, 1, 3), (2, 0, 7), (3, 1, 2)] {
            let directory = format!("devices/system/cpu/cpu{cpu}");
            tree.write(&format!("{directory}/thermal_throttle/core_throttle_count"), &format!("{count}\n"));
            tree.write(&format!("{directory}/thermal_throttle/package_throttle_count"), "9\n");
            tree.write(&format!("{directory}/topology/core_id"), &format!("{core}\n"));
            tree.write(&format!("{directory}/topology/physical_package_id"), "0\n");
        }
        let mut hardware = tree.hardware();
        let expected =
            [r#"kernel_thermal_throttle_total{scope="core"} 10"#, r#"kernel_thermal_throttle_total{scope="package"} 9"#];
        assert_eq!(run(&mut hardware), expected);
        for cpu in [0, 2] {
            fs::remove_dir_all(tree.0.path().join(format!("devices/system/cpu/cpu{cpu}"))).unwrap();
        }
        assert_eq!(run(&mut hardware), expected);
    }

    #[test]
    fn a_sensor_that_says_nothing_credible_costs_itself() {
        let tree = Tree::new();
        tree.write("class/hwmon/hwmon0/name", "nct6775\n");
        tree.write("class/hwmon/hwmon0/temp1_input", "41500\n");
        tree.write("class/hwmon/hwmon0/temp2_input", "3892000\n");
        tree.write("class/hwmon/hwmon0/temp3_input", "-3500\n");
        tree.write("class/hwmon/hwmon0/temp4_input", "hot\n");
        tree.write("class/thermal/thermal_zone0/type", "acpitz\n");
        tree.write("class/thermal/thermal_zone0/temp", "27800\n");
        tree.write("class/thermal/thermal_zone1/type", "nct6775\n");
        tree.write("class/thermal/thermal_zone1/temp", "41500\n");
        let mut batch = Batch::new(Instant::now());
        tree.hardware().collect(&mut batch).unwrap();
        let samples: Vec<_> = batch.samples.iter().map(|sample| format!("{} {}", sample.series, sample.value)).collect();
        assert_eq!(
            samples,
            [
                r#"kernel_temperature_celsius{chip="nct6775",sensor="temp1",source="hwmon0"} 41.5"#,
                r#"kernel_temperature_celsius{chip="nct6775",sensor="temp3",source="hwmon0"} -3.5"#,
                r#"kernel_temperature_celsius{chip="acpitz",sensor="temp",source="thermal_zone0"} 27.8"#,
            ]
        );
        assert_eq!(batch.skipped, 1);
        assert!(batch.first_skip.unwrap().ends_with("/temp4_input: expected a number"));
    }
}
