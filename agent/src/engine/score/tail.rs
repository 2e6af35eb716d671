//! How far out the far values of a stream are: the size that one in a hundred passes, from a histogram that forgets slowly.

/// Bins by doubling, and their number: from a quarter of a deviation to 16,384.
const BINS_BY_DOUBLING: f64 = 4.0;
const BINS: usize = 64;
const LEAST_EXPONENT: f64 = -2.0;
/// The part of the values that is far out.
const FAR: f64 = 0.008;
/// What one in a hundred passes in normally distributed noise, in standard deviations.
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

    /// How many times further out `size`, in standard deviations, is than one in a hundred so far; then counts it.
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
                let edge = LEAST_EXPONENT + (index as f64 + 0.5) / BINS_BY_DOUBLING;
                return edge.exp2().max(NORMAL);
            }
        }
        NORMAL
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the bins")]
    fn count(&mut self, size: f64, part: f64) {
        let index = ((size.max(1e-9).log2() - LEAST_EXPONENT) * BINS_BY_DOUBLING).clamp(0.0, (BINS - 1) as f64) as usize;
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
