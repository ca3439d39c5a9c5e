//! Random numbers and losses that repeat: the same seed gives the same fate.

/// xorshift64*: fast, and good enough to lose frames by.
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        // Zero would stay zero for ever.
        Self((0x9E37_79B9_7F4A_7C15 ^ (seed << 1)).max(1))
    }

    /// A number from 0 up to, but not including, 1.
    pub(crate) fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Whether something that happens with this probability happens now.
    pub(crate) fn hits(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.next() < probability
    }
}

/// Gilbert's model: in the losing state everything is lost. The state is left with probability 1/burst, and entered so
/// often that in the long run the asked share is lost.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    losing: bool,
}

impl Losses {
    /// Whether the next frame is lost.
    pub(crate) fn next(&mut self, loss: f64, burst: f64, chance: &mut Chance) -> bool {
        self.losing = if loss <= 0.0 {
            false
        } else if loss >= 1.0 {
            true
        } else if self.losing {
            !chance.hits(1.0 / burst)
        } else {
            chance.hits(loss / (burst * (1.0 - loss)))
        };
        self.losing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_lost_as_asked_in_bursts_as_long_as_asked() {
        for (loss, burst) in [(0.01, 1.0), (0.1, 1.0), (0.05, 5.0)] {
            let (mut chance, mut losses) = (Chance::new(99), Losses::default());
            let (mut was, mut lost, mut bursts) = (false, 0_u32, 0_u32);
            for _ in 0..2_000_000 {
                let is = losses.next(loss, burst, &mut chance);
                lost += u32::from(is);
                bursts += u32::from(is && !was);
                was = is;
            }
            let share = f64::from(lost) / 2e6;
            assert!((share - loss).abs() < loss * 0.05, "{share} for {loss}");
            if burst > 1.0 {
                let mean = f64::from(lost) / f64::from(bursts);
                assert!((mean - burst).abs() < burst * 0.05, "{mean} for {burst}");
            }
        }
    }

    #[test]
    fn nothing_and_everything() {
        let mut chance = Chance::new(1);
        let mut losses = Losses::default();
        assert!((0..1000).all(|_| losses.next(1.0, 1.0, &mut chance)));
        assert!((0..1000).all(|_| !losses.next(0.0, 1.0, &mut chance)));
    }
}
