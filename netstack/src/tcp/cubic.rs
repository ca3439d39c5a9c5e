//! Congestion control: slow start (RFC 5681), CUBIC (RFC 9438). Windows are in bytes, times in microseconds. It does not know
//! what was lost, only that something was.

use crate::clock::Time;

/// Segments that may be sent before the first acknowledgement (RFC 6928).
const INITIAL: u32 = 10;
/// What is left of the window after a loss (RFC 9438 section 4.6).
const BETA: f64 = 0.7;
/// How steeply the window grows, in segments a cubic second (RFC 9438 section 5).
const C: f64 = 0.4;
/// How fast Reno grows that backs off by [`BETA`] (RFC 9438 section 4.3).
const RENO_ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// The congestion window of one flow.
#[derive(Debug)]
pub(super) struct Cubic {
    /// Bytes of a full segment.
    mss: u32,
    /// The congestion window.
    window: u32,
    /// Where slow start ends; none before the first loss.
    threshold: Option<u32>,
    /// More is of no use: the buffers are not larger.
    most: u32,
    /// The window before the last loss, in segments: the plateau.
    plateau: f64,
    epoch: Option<Epoch>,
    /// Growth of less than a segment that was not added yet.
    fraction: f64,
}

/// One time of growth between two losses.
#[derive(Debug)]
struct Epoch {
    start: Time,
    /// Seconds from its start to the plateau.
    to_plateau: f64,
    plateau: f64,
    /// Where the window began, and the window that Reno would have, in segments.
    began: f64,
    reno: f64,
}

impl Cubic {
    pub(super) fn new(mss: u32, most: u32) -> Self {
        let window = INITIAL * mss;
        Self {
            mss,
            window,
            threshold: None,
            most: most.max(window),
            plateau: 0.0,
            epoch: None,
            fraction: 0.0,
        }
    }

    pub(super) fn window(&self) -> u32 {
        self.window
    }

    /// Recovery says exactly how much may be out (RFC 6937).
    pub(super) fn set_window(&mut self, window: u32) {
        self.window = window.max(self.mss);
    }

    pub(super) fn threshold(&self) -> u32 {
        self.threshold.unwrap_or(u32::MAX)
    }

    pub(super) fn in_slow_start(&self) -> bool {
        self.window < self.threshold()
    }

    /// So many bytes were acknowledged, and the window was what kept more from being sent.
    pub(super) fn acknowledged(&mut self, bytes: u32, round_trip: u64, now: Time) {
        let mut bytes = bytes;
        if self.in_slow_start() {
            let grown = self.window.saturating_add(bytes).min(self.threshold());
            bytes -= (grown - self.window).min(bytes);
            self.window = grown.min(self.most);
        }
        if bytes > 0 && self.window < self.most {
            self.avoid_congestion(bytes, round_trip, now);
        }
    }

    /// RFC 9438 sections 4.2 to 4.5.
    fn avoid_congestion(&mut self, bytes: u32, round_trip: u64, now: Time) {
        let mss = f64::from(self.mss);
        let window = f64::from(self.window) / mss;
        let plateau = self.plateau;
        let epoch = self
            .epoch
            .get_or_insert_with(|| Epoch::new(window, plateau, now));
        let elapsed = now.since(epoch.start) as f64 / 1e6;
        let ahead = elapsed + round_trip as f64 / 1e6;
        let target = epoch.window_at(ahead).clamp(window, 1.5 * window);
        let acknowledged = f64::from(bytes) / mss;
        let alpha = if epoch.reno >= epoch.began / BETA {
            1.0
        } else {
            RENO_ALPHA
        };
        epoch.reno += alpha * acknowledged / window;
        let step = if epoch.window_at(elapsed) < epoch.reno {
            (epoch.reno - window).max(0.0)
        } else {
            (target - window) / window * acknowledged
        };
        self.fraction += step * mss;
        let whole = self.fraction.floor();
        self.fraction -= whole;
        self.window = self.window.saturating_add(whole as u32).min(self.most);
    }

    /// Something was lost: the window is to become [`Cubic::threshold`] (RFC 9438 sections 4.6 and 4.7).
    pub(super) fn lost(&mut self) {
        let window = f64::from(self.window) / f64::from(self.mss);
        // Fast convergence: a flow whose plateau sinks makes room for others.
        self.plateau = if window < self.plateau {
            window * (1.0 + BETA) / 2.0
        } else {
            window
        };
        let kept = (f64::from(self.window) * BETA) as u32;
        self.threshold = Some(kept.max(2 * self.mss));
        self.epoch = None;
        self.fraction = 0.0;
    }

    /// Nothing was heard for a whole timeout: slow start from one segment (RFC 5681 section 3.1).
    pub(super) fn timed_out(&mut self, first: bool) {
        if first {
            self.lost();
        }
        self.window = self.mss;
        self.epoch = None;
    }

    /// Recovery is over.
    pub(super) fn recovered(&mut self) {
        self.window = self.threshold.unwrap_or(self.window).min(self.most);
    }

    /// Nothing was in flight for so long: that time does not count as growth (RFC 9438 section 4.2), and after some timeouts
    /// what the window says is old (RFC 5681 section 4.1, RFC 2861).
    pub(super) fn paused(&mut self, micros: u64, timeout: u64) {
        if let Some(epoch) = &mut self.epoch {
            epoch.start = epoch.start.plus(micros);
        }
        let restart = (INITIAL * self.mss).min(self.window);
        if micros <= timeout || self.window == restart {
            return;
        }
        let kept = (u64::from(self.window) * 3 / 4) as u32;
        self.threshold = self.threshold.map(|threshold| threshold.max(kept));
        let halvings = (micros / timeout).min(31);
        self.window = (self.window >> halvings).max(restart);
        self.epoch = None;
    }

    /// Segments became longer or shorter.
    pub(super) fn set_mss(&mut self, mss: u32) {
        if self.mss != mss {
            self.plateau *= f64::from(self.mss) / f64::from(mss);
            self.mss = mss;
            self.window = self.window.max(mss);
            self.epoch = None;
        }
    }
}

impl Epoch {
    fn new(window: f64, plateau: f64, start: Time) -> Self {
        let below = (plateau - window).max(0.0);
        Self {
            start,
            to_plateau: (below / C).cbrt(),
            plateau: plateau.max(window),
            began: window,
            reno: window,
        }
    }

    fn window_at(&self, seconds: f64) -> f64 {
        C * (seconds - self.to_plateau).powi(3) + self.plateau
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;

    #[test]
    fn slow_start_doubles_until_the_threshold() {
        let mut cubic = Cubic::new(MSS, 10_000_000);
        for round in 0..5 {
            assert_eq!(cubic.window(), (10 * MSS) << round);
            cubic.acknowledged(cubic.window(), 20_000, Time::default());
        }
        cubic.lost();
        cubic.recovered();
        assert_eq!(cubic.window(), 224_000);
        assert!(!cubic.in_slow_start());
    }

    /// After a loss at W the window is back at W after K = cbrt(0.3 W / C) seconds, and little beyond it for a while.
    #[test]
    fn it_comes_back_to_the_plateau_in_time() {
        let mut cubic = Cubic::new(MSS, 100_000_000);
        cubic.set_window(1000 * MSS);
        cubic.lost();
        cubic.recovered();
        let (mut now, round) = (Time::default(), 50_000);
        let back = (0.3 * 1000.0 / C).cbrt();
        let mut window_at = |seconds: f64, cubic: &mut Cubic| {
            while (now.since(Time::default()) as f64) < seconds * 1e6 {
                cubic.acknowledged(cubic.window(), round, now);
                now = now.plus(round);
            }
            f64::from(cubic.window()) / f64::from(MSS)
        };
        assert!((700.0..900.0).contains(&window_at(back / 4.0, &mut cubic)));
        let plateau = window_at(back, &mut cubic);
        assert!((990.0..1010.0).contains(&plateau), "{plateau}");
        assert!(window_at(back * 2.0, &mut cubic) > 1200.0);
    }

    #[test]
    fn on_short_paths_it_is_not_slower_than_reno() {
        let mut cubic = Cubic::new(MSS, 100_000_000);
        cubic.set_window(20 * MSS);
        cubic.lost();
        cubic.recovered();
        let mut now = Time::default();
        // RFC 9438 section 4.3: Reno with this backoff gains 0.53 segments a round trip.
        for _ in 0..20 {
            now = now.plus(1000);
            cubic.acknowledged(cubic.window(), 1000, now);
        }
        let grown = (cubic.window() - 14 * MSS) / MSS;
        assert!((9..=16).contains(&grown), "{grown}");
    }

    #[test]
    fn after_a_timeout_and_after_a_pause() {
        let mut cubic = Cubic::new(MSS, 10_000_000);
        cubic.set_window(100 * MSS);
        cubic.timed_out(true);
        cubic.timed_out(false);
        assert_eq!((cubic.window(), cubic.threshold()), (MSS, 70 * MSS));
        cubic.set_window(100 * MSS);
        cubic.paused(2500, 1000);
        assert_eq!((cubic.window(), cubic.threshold()), (25 * MSS, 75 * MSS));
        cubic.paused(60_000, 1000);
        assert_eq!(cubic.window(), 10 * MSS);
    }
}
