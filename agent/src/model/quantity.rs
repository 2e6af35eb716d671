//! How amounts are written for people.

/// Bytes in powers of 1024, with one decimal: `953.7 MiB`; below 1 KiB as the number that it is.
pub fn bytes(bytes: f64) -> String {
    const BINARY: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut scaled = bytes;
    let mut unit = None;
    for larger in BINARY {
        if scaled.abs() < 1024.0 {
            break;
        }
        scaled /= 1024.0;
        unit = Some(larger);
    }
    unit.map_or_else(|| format!("{bytes} B"), |unit| format!("{scaled:.1} {unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_scaled() {
        let written = [0.0, 1023.0, 1024.0, -1536.0, 1e9, 2_147_483_648.0, 1e21].map(bytes);
        assert_eq!(written, ["0 B", "1023 B", "1.0 KiB", "-1.5 KiB", "953.7 MiB", "2.0 GiB", "888178.4 PiB"]);
    }
}
