//! What time it is, for reports that say so. Tests bring their own clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Tells the time.
pub type Clock = fn() -> SystemTime;

/// `2026-11-21T10:48:05.123456Z`, as the JSON document has it.
pub(super) fn iso(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
    let stamp = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    format!("{}.{:06}Z", stamp.strftime("%Y-%m-%dT%H:%M:%S"), since.subsec_micros())
}

/// Time between two readings; none if the clock was turned back.
pub(super) fn between(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}
