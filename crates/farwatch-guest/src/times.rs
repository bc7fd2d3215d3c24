// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Times in what is said to people: `farwatch-agent status`, `farwatch status`.

use std::time::{Duration, SystemTime};

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A duration, of so many seconds, in its two largest units. A clock may have been set back: then it is 0.
pub fn duration(secs: f64) -> String {
    let secs = Duration::try_from_secs_f64(secs).unwrap_or_default().as_secs();
    let (minutes, hours, days) = (secs / 60, secs / 3600, secs / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{secs} s"),
        (0, 0, _) => format!("{minutes} min {} s", secs % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}
