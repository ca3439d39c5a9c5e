//! What the program `traffic` counted (tests/cluster/programs/traffic): who answered, when, and what failed.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

/// One client's count. Times are milliseconds since the epoch.
#[derive(Debug, Clone)]
pub struct Count(Value);

/// A question that nobody answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// When it was asked.
    pub asked: i64,
    /// What became of it.
    pub text: String,
}

impl Count {
    /// Reads what `traffic` printed.
    pub fn of(document: Value) -> Self {
        Self(document)
    }

    /// Answers by the name of who answered.
    pub fn servers(&self) -> BTreeMap<String, u64> {
        let servers = self.0["servers"].as_object();
        servers
            .into_iter()
            .flatten()
            .map(|(name, one)| (name.clone(), one["answers"].as_u64().unwrap_or_default()))
            .collect()
    }

    /// The answers of one.
    pub fn by(&self, server: &str) -> u64 {
        self.servers().get(server).copied().unwrap_or_default()
    }

    /// Questions without an answer.
    pub fn lost(&self) -> Vec<Lost> {
        let lost = self.0["errors"].as_array();
        lost.into_iter()
            .flatten()
            .map(|one| Lost {
                asked: one["asked"].as_i64().unwrap_or_default(),
                text: one["text"].as_str().unwrap_or_default().to_owned(),
            })
            .collect()
    }

    /// Those of them that were asked later than that.
    pub fn lost_after(&self, moment: i64) -> Vec<Lost> {
        let lost = self.lost().into_iter();
        lost.filter(|one| one.asked > moment).collect()
    }

    /// All answers came from these, in these numbers, and none is missing.
    ///
    /// # Panics
    ///
    /// With the count, when that is not so.
    #[track_caller]
    pub fn is(&self, servers: &[(&str, u64)]) {
        let expected: BTreeMap<String, u64> = servers
            .iter()
            .map(|(name, answers)| ((*name).to_owned(), *answers))
            .collect();
        assert!(
            self.servers() == expected && self.lost().is_empty(),
            "expected {servers:?}: {self}"
        );
    }

    /// When a server gave its first answer at that time or later, if it did.
    pub fn first(&self, server: &str, from: i64) -> Option<i64> {
        let changes = self.0["changes"].as_array()?;
        let mut times = changes
            .iter()
            .filter(|change| change["to"] == server)
            .filter_map(|change| change["at"].as_i64());
        times.find(|at| *at >= from)
    }

    /// The longest time without any answer, in milliseconds.
    pub fn gap(&self) -> i64 {
        self.0["gap_ms"].as_i64().unwrap_or_default()
    }

    /// The median and the 99th percentile of what answers took, in milliseconds.
    pub fn took(&self) -> (f64, f64) {
        let number = |field: &str| self.0[field].as_f64().unwrap_or_default();
        (number("p50_ms"), number("p99_ms"))
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lost = self.lost();
        let (median, most) = self.took();
        write!(
            f,
            "{}: {:?}, {} lost, longest gap {} ms, p50 {median} ms, p99 {most} ms",
            self.0["mode"].as_str().unwrap_or_default(),
            self.servers(),
            lost.len(),
            self.gap(),
        )?;
        let mut texts: BTreeMap<String, usize> = BTreeMap::new();
        for one in lost {
            *texts.entry(one.text).or_default() += 1;
        }
        for (text, times) in texts.iter().take(5) {
            write!(f, "\n  {times} x {text}")?;
        }
        Ok(())
    }
}
