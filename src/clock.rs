//! The wall clock, for what people and records see; waiting is done on monotonic clocks only.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::job::Millis;

/// When this process first asked for the time.
static FIRST_ASKED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since the Unix epoch, never 0, which is due before everything.
///
/// For a clock that stands before the epoch the time since this process first asked: whatever it is, it passes.
pub fn unix_millis() -> Millis {
    let first_asked = *FIRST_ASKED;
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_else(|_| first_asked.elapsed()))
}

fn millis(time: Duration) -> Millis {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// RFC 3339 in UTC, to the millisecond.
pub fn rfc3339(at: Millis) -> String {
    // The year 9999 is the last one the format knows.
    const MAX: Millis = 253_402_300_799_000;
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at.min(MAX))).to_string()
}

/// The time that [`rfc3339`] wrote; none if the text is no such time.
pub fn from_rfc3339(text: &str) -> Option<Millis> {
    let since = humantime::parse_rfc3339(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(u64::MAX).len(), "9999-12-31T23:59:59.000Z".len());
    }

    #[test]
    fn a_time_that_was_written_is_read_as_it_was() {
        for at in [0, 1, 1_767_225_600_123] {
            assert_eq!(from_rfc3339(&rfc3339(at)), Some(at));
        }
        assert_eq!(from_rfc3339("yesterday"), None);
    }
}
