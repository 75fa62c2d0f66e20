//! Durations (`"30s"`) and sizes (`"50MiB"`) as they are written, and the ranges in which they make sense.
//!
//! Pure text to number. A unit is required but for zero, so that `10` can never be taken for the wrong one.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// A length of time in a configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time(pub(super) Duration);

/// A number of bytes in a configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Quoted("a duration in quotes, for example \"30s\", \"10m\" or \"2h\""))?.time()
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Quoted("a size in quotes, for example \"512KiB\", \"50MiB\" or \"1GiB\""))?.size()
    }
}

/// Accepts a string only, and says what was expected of it.
struct Quoted(&'static str);

struct Text(String, &'static str);

impl de::Visitor<'_> for Quoted {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
        Ok(Text(text.trim().to_owned(), self.0))
    }
}

impl Text {
    fn time<E: de::Error>(self) -> Result<Time, E> {
        match humantime::parse_duration(&self.0) {
            Ok(duration) => Ok(Time(duration)),
            Err(error) => Err(E::custom(format!("{:?} is not a duration: {error}; write {}", self.0, self.1))),
        }
    }

    fn size<E: de::Error>(self) -> Result<Size, E> {
        let plain_number = self.0.parse::<u64>().is_ok_and(|number| number != 0);
        match self.0.parse::<bytesize::ByteSize>() {
            Ok(_) if plain_number => Err(E::custom(format!("{:?} has no unit; write {}", self.0, self.1))),
            Ok(size) => Ok(Size(size.as_u64())),
            Err(_) => Err(E::custom(format!("{:?} is not a size; write {}", self.0, self.1))),
        }
    }
}

/// A size as an operator would write it, without rounding.
pub(super) fn show_size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, StrDeserializer};

    use super::*;

    fn text(text: &str) -> StrDeserializer<'_, Error> {
        text.into_deserializer()
    }

    #[test]
    fn durations_are_read_with_their_unit() {
        for (written, seconds) in [("30s", 30), ("10m", 600), ("1h 30m", 5400), ("0s", 0), ("0", 0), (" 2s ", 2)] {
            assert_eq!(Time::deserialize(text(written)), Ok(Time(Duration::from_secs(seconds))), "{written}");
        }
        for wrong in ["", "30", "s", "-1s", "1 fortnight", "99999999999999999999s"] {
            let error = Time::deserialize(text(wrong)).expect_err(wrong).to_string();
            assert!(error.contains("write a duration in quotes"), "{error}");
        }
    }

    #[test]
    fn sizes_are_read_with_their_unit() {
        for (written, bytes) in [("0", 0), ("1B", 1), ("50MiB", 50 << 20), ("1 GiB", 1 << 30), ("1kB", 1000)] {
            assert_eq!(Size::deserialize(text(written)), Ok(Size(bytes)), "{written}");
        }
        for wrong in ["", "1024", "many", "-1MiB", "1XB"] {
            let error = Size::deserialize(text(wrong)).expect_err(wrong).to_string();
            assert!(error.contains("write a size in quotes"), "{error}");
        }
    }

    #[test]
    fn sizes_are_shown_as_they_would_be_written() {
        assert_eq!([show_size(1 << 20), show_size(1536), show_size(0)], ["1MiB", "1536B", "0B"]);
    }
}
