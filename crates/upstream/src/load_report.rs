//! What a node says of its own load in a response header, for `type: adaptive` (ours).
//!
//! The surprise: three forms are understood without being told which: ORCA's `TEXT name=value, name=value` and
//! `JSON {...}` (xDS, "Open Request Cost Aggregation"; the prefix may be missing), and a plain number. ORCA's binary
//! form is not read.
use std::sync::Arc;

/// `load_report`, compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadReport {
    /// The header's name.
    pub header: Arc<str>,
    /// The metric of an ORCA report, `named_metrics.x` too; `None` for `application_utilization`, or else
    /// `cpu_utilization`.
    pub metric: Option<Arc<str>>,
    /// The value that means "full".
    pub full: f32,
}

/// Longer reports are not looked at.
const MOST_BYTES: usize = 4096;
/// What a report is looked through for where no metric is named. `cpu` is the short form some servers write.
const USUAL: [&str; 3] = ["application_utilization", "cpu_utilization", "cpu"];

impl LoadReport {
    /// The load, 0 (idle) to 1 (full); `None` where the value says nothing.
    pub fn read(&self, value: &[u8]) -> Option<f32> {
        let text = std::str::from_utf8(value.get(..MOST_BYTES.min(value.len()))?).ok()?.trim();
        if value.len() > MOST_BYTES {
            return None;
        }
        let load = if let Ok(number) = text.parse::<f32>() {
            Some(number)
        } else if let Some(json) =
            text.strip_prefix("JSON").map(str::trim_start).or(text.starts_with('{').then_some(text))
        {
            let report: serde_json::Value = serde_json::from_str(json).ok()?;
            self.names(|name| number(&report, name))
        } else {
            let pairs = text.strip_prefix("TEXT").unwrap_or(text);
            let find = |name: &str| {
                let pairs = pairs.split(',').filter_map(|pair| pair.split_once('='));
                pairs.map(|(key, value)| (key.trim(), value.trim())).find(|(key, _)| *key == name)?.1.parse().ok()
            };
            self.names(find)
        };
        load.map(|load: f32| load / self.full).filter(|load| load.is_finite() && *load >= 0.0).map(|load| load.min(1.0))
    }

    /// The first of the metrics that says more than "nothing": ORCA's 0 is "not set".
    fn names(&self, find: impl Fn(&str) -> Option<f32>) -> Option<f32> {
        match &self.metric {
            Some(metric) => find(metric),
            None => {
                let found: Vec<f32> = USUAL.iter().filter_map(|name| find(name)).collect();
                found.iter().copied().find(|value| *value > 0.0).or(found.first().copied())
            }
        }
    }
}

/// A metric by name, or by `map.name`; protobuf's JSON writes names in camel case, too.
fn number(report: &serde_json::Value, name: &str) -> Option<f32> {
    let found = match name.split_once('.') {
        Some((map, key)) => report.get(map).or_else(|| report.get(camel(map)))?.get(key),
        None => report.get(name).or_else(|| report.get(camel(name))),
    };
    found?.as_f64().map(|value| value as f32)
}

fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut letters = part.chars();
        out.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        out.push_str(letters.as_str());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(metric: Option<&str>, full: f32, value: &str) -> Option<f32> {
        LoadReport { header: "x".into(), metric: metric.map(Into::into), full }.read(value.as_bytes())
    }

    #[test]
    fn all_forms() {
        assert_eq!(read(None, 1.0, "0.5"), Some(0.5));
        assert_eq!(read(None, 100.0, " 25 "), Some(0.25));
        assert_eq!(read(None, 1.0, "TEXT cpu_utilization=0.3, rps_fractional=10"), Some(0.3));
        assert_eq!(read(None, 1.0, "cpu_utilization=0.3,application_utilization=0.75"), Some(0.75));
        assert_eq!(read(None, 1.0, r#"JSON {"cpu_utilization": 0.3, "application_utilization": 0}"#), Some(0.3));
        assert_eq!(read(None, 1.0, r#"{"cpuUtilization": 0.3}"#), Some(0.3));
        assert_eq!(read(Some("named_metrics.queue"), 10.0, r#"JSON {"named_metrics": {"queue": 5}}"#), Some(0.5));
        assert_eq!(read(Some("named_metrics.queue"), 10.0, "TEXT named_metrics.queue=5"), Some(0.5));
        assert_eq!(read(None, 1.0, "7"), Some(1.0));
    }

    #[test]
    fn what_says_nothing_is_nothing() {
        for value in ["", "NaN", "inf", "-1", "BIN abc", "TEXT", "TEXT cpu", "JSON {", "JSON []", "mem=0.4"] {
            assert_eq!(read(None, 1.0, value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_stays_within(value in prop::collection::vec(any::<u8>(), 0..64)) {
            let report = LoadReport { header: "x".into(), metric: None, full: 1.0 };
            let load = report.read(&value);
            prop_assert!(load.is_none_or(|load| (0.0..=1.0).contains(&load)));
        }
    }
}
