//! What is done to the frames of one direction, and the words that say so.

use std::fmt;

/// The impairments of one direction. Times are in nanoseconds, shares between 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) delay: u64,
    pub(crate) jitter: u64,
    pub(crate) loss: f64,
    /// Mean length of a loss burst in frames, 1 or more.
    pub(crate) burst: f64,
    pub(crate) duplicates: f64,
    pub(crate) reorder: f64,
    /// How long a reordered frame is held back.
    pub(crate) reorder_by: u64,
    /// Bits a second; 0: no bottleneck.
    pub(crate) rate: u64,
    /// How long the queue before the bottleneck may be.
    pub(crate) buffer: u64,
    /// Bytes in flight; taken at the start only.
    pub(crate) limit: usize,
    pub(crate) cut: bool,
    /// Taken at the start only.
    pub(crate) seed: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            delay: 0,
            jitter: 0,
            loss: 0.0,
            burst: 1.0,
            duplicates: 0.0,
            reorder: 0.0,
            reorder_by: 3_000_000,
            rate: 0,
            buffer: 50_000_000,
            limit: 64 << 20,
            cut: false,
            seed: 1,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |nanos: u64| nanos as f64 / 1e6;
        write!(
            f,
            "delay={}ms jitter={}ms loss={}% burst={} dup={}% reorder={}% reorder-by={}ms rate={}mbit buffer={}ms cut={}",
            millis(self.delay),
            millis(self.jitter),
            self.loss * 100.0,
            self.burst,
            self.duplicates * 100.0,
            self.reorder * 100.0,
            millis(self.reorder_by),
            self.rate as f64 / 1e6,
            millis(self.buffer),
            u8::from(self.cut)
        )
    }
}

/// Applies one OPTION=VALUE word to both directions, or to the one that its prefix names.
///
/// # Errors
/// The word is not understood; why, in words for the user.
pub(crate) fn apply(shapes: &mut [Shape; 2], word: &str) -> Result<(), String> {
    let (key, value) = word
        .split_once('=')
        .ok_or_else(|| format!("{word}: not OPTION=VALUE"))?;
    let (directions, key) = match key.split_once('.') {
        Some(("up", key)) => (0..1, key),
        Some(("down", key)) => (1..2, key),
        Some(_) => return Err(format!("{word}: a prefix is `up.` or `down.`")),
        None => (0..2, key),
    };
    for shape in &mut shapes[directions] {
        set(shape, key, value).map_err(|why| format!("{word}: {why}"))?;
    }
    Ok(())
}

fn set(shape: &mut Shape, key: &str, value: &str) -> Result<(), String> {
    match key {
        "delay" => shape.delay = time(value)?,
        "jitter" => shape.jitter = time(value)?,
        "reorder-by" => shape.reorder_by = time(value)?,
        "buffer" => shape.buffer = time(value)?,
        "loss" => shape.loss = share(value)?,
        "dup" => shape.duplicates = share(value)?,
        "reorder" => shape.reorder = share(value)?,
        "burst" => shape.burst = number(value, &[("", 1.0)])?.max(1.0),
        "rate" => {
            let units = [("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9), ("", 1.0)];
            shape.rate = number(value, &units)? as u64;
        }
        "limit" => {
            let units = [("kb", 1024.0), ("mb", 1_048_576.0), ("", 1.0)];
            shape.limit = number(value, &units)? as usize;
        }
        "cut" => shape.cut = value != "0",
        "seed" => shape.seed = number(value, &[("", 1.0)])? as u64,
        _ => return Err("no such option".to_owned()),
    }
    Ok(())
}

fn number(text: &str, units: &[(&str, f64)]) -> Result<f64, String> {
    let digits = |c: char| c.is_ascii_digit() || c == '.';
    let split = text.find(|c| !digits(c)).unwrap_or(text.len());
    let number: f64 = text[..split].parse().map_err(|_| "not a number")?;
    let unit = text[split..].to_ascii_lowercase();
    match units.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => Ok(number * factor),
        None => Err("unknown unit".to_owned()),
    }
}

fn time(text: &str) -> Result<u64, String> {
    if text == "0" {
        return Ok(0);
    }
    Ok(number(text, &[("us", 1e3), ("ms", 1e6), ("s", 1e9)])? as u64)
}

fn share(text: &str) -> Result<f64, String> {
    let share = number(text, &[("%", 0.01), ("", 0.01)])?;
    if share > 1.0 {
        return Err("more than 100 %".to_owned());
    }
    Ok(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_change_the_direction_they_name() {
        let mut shapes = [Shape::default(); 2];
        let words = [
            "delay=10ms",
            "up.loss=1%",
            "down.rate=100mbit",
            "jitter=500us",
            "delay=0",
        ];
        for word in words {
            apply(&mut shapes, word).unwrap();
        }
        let [up, down] = shapes;
        assert_eq!((up.delay, up.jitter, up.rate), (0, 500_000, 0));
        assert_eq!(down.rate, 100_000_000);
        assert!((up.loss - 0.01).abs() < 1e-12 && down.loss == 0.0);
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        for word in [
            "delay=10",
            "loss=101%",
            "x=1",
            "left.loss=1",
            "delay",
            "rate=",
        ] {
            let why = apply(&mut [Shape::default(); 2], word).unwrap_err();
            assert!(why.starts_with(word), "{why}");
        }
    }
}
