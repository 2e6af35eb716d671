//! How far out the far values of a stream are: the size that one in 125 passes, from a histogram that forgets slowly.

/// Bins by doubling, and their number: from a quarter of a deviation to 16,384.
const BINS_BY_DOUBLING: f64 = 4.0;
const BINS: usize = 64;
const LEAST_EXPONENT: f64 = -2.0;
/// The part of the values that is far out.
const FAR: f64 = 0.008;
/// What one in 125 passes in normally distributed noise, in standard deviations.
const NORMAL: f64 = 3.0;
/// Weight of a value beside that of the value before it: half is forgotten after 2,770 of them.
const GROWTH: f64 = 1.000_25;
/// Weight of an imagined past of normally distributed noise.
const PRIOR: f64 = 30.0;

/// The distribution of sizes.
pub(super) struct Tail {
    bins: [f32; BINS],
    total: f64,
    weight: f64,
    run: f64,
}

impl Default for Tail {
    fn default() -> Self {
        Self::new()
    }
}

impl Tail {
    pub(super) fn new() -> Self {
        Self { bins: [0.0; BINS], total: PRIOR, weight: 1.0, run: 0.0 }
    }

    /// How many times further out `size`, in standard deviations, is than one in 125 so far; then counts it.
    pub(super) fn unusual(&mut self, size: f64) -> f64 {
        let times = size / self.far();
        // What lasts is one thing that happened, not as many as it has rows.
        self.run = if times > 1.0 { self.run + 1.0 } else { (self.run - 1.0).max(0.0) };
        self.count(size, 1.0 / self.run.max(1.0));
        if times.is_finite() { times } else { 0.0 }
    }

    fn far(&self) -> f64 {
        let mut above = 0.0;
        for (index, bin) in self.bins.iter().enumerate().rev() {
            above += f64::from(*bin);
            if above > FAR * self.total {
                return middle(index).max(NORMAL);
            }
        }
        NORMAL
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the bins")]
    fn count(&mut self, size: f64, part: f64) {
        let index = ((log2(size.max(1e-9)) - LEAST_EXPONENT) * BINS_BY_DOUBLING).clamp(0.0, (BINS - 1) as f64) as usize;
        if let Some(bin) = self.bins.get_mut(index) {
            *bin += (self.weight * part) as f32;
        }
        self.total += self.weight;
        self.weight *= GROWTH;
        if self.weight > 1e6 {
            self.bins.iter_mut().for_each(|bin| *bin /= self.weight as f32);
            self.total /= self.weight;
            self.weight = 1.0;
        }
    }
}

/// The middle of a bin, in standard deviations.
fn middle(index: usize) -> f64 {
    /// 2 to the power of 1/8, 3/8, 5/8 and 7/8.
    const WITHIN: [f64; 4] = [1.090_507_732_665_257_7, 1.296_839_554_651_009_6, 1.542_210_825_407_940_7, 1.834_008_086_409_342_4];
    let doublings = (0..index / WITHIN.len()).fold(0.25, |size, _| size * 2.0);
    WITHIN.get(index % WITHIN.len()).map_or(doublings, |part| doublings * part)
}

/// The binary logarithm of a positive number, to seven digits. Made of basic operations alone, which give the same bits on every
/// machine; those of the C library do not.
pub(super) fn log2(value: f64) -> f64 {
    let bits = value.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as f64 - 1023.0;
    let mantissa = f64::from_bits(bits & 0x000f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000);
    // ln(m) = 2 artanh((m - 1) / (m + 1))
    let part = (mantissa - 1.0) / (mantissa + 1.0);
    let square = part * part;
    let series = [13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0].into_iter().fold(0.0, |sum, odd| sum * square + 1.0 / odd);
    exponent + 2.0 * part * series * std::f64::consts::LOG2_E
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_and_bins_are_right() {
        for value in [1e-9_f64, 0.3, 1.0, 1.5, 1.999_999, 2.0, 7.0, 1e100] {
            assert!((log2(value) - value.log2()).abs() < 1e-6, "{value}");
        }
        for index in 0..BINS {
            let exponent = LEAST_EXPONENT + (index as f64 + 0.5) / BINS_BY_DOUBLING;
            assert!((middle(index) / exponent.exp2() - 1.0).abs() < 1e-12, "{index}");
        }
    }

    #[test]
    fn what_is_frequent_is_not_far_out() {
        let mut tail = Tail::new();
        assert!(tail.unusual(6.0) > 1.9);
        for _ in 0..200 {
            for _ in 0..9 {
                tail.unusual(0.5);
            }
            tail.unusual(6.0);
        }
        assert!(tail.unusual(6.0) < 1.2);
    }
}
