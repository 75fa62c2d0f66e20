//! The demo's sample files: one of each kind that behaves differently on its way.

use std::fmt::Write as _;

/// Lines of the generated log file; it comes to about 5 MiB and travels in several writes.
const LOG_LINES: u32 = 60_000;

/// A rocket, 12 by 12 pixels, as a PNG.
const PICTURE: &[u8] = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR\x00\x00\x00\x0c\x00\x00\x00\x0c\x08\x00\x00\x00\x00\
\x73\x1e\x03\x3b\x00\x00\x00\x2dIDAT\x78\xda\x63\xf8\x8f\x04\x18\x20\x24\x03\x82\xc3\xc0\x00\xe1\x61\xe1\x20\x68\
\x74\x0e\x92\x32\x06\x06\x28\x8f\x01\xc6\x66\x60\x80\x2a\x07\x33\x19\xb0\x59\x0a\x03\x00\xc9\x94\x67\x99\xa8\xd2\
\x05\x35\x00\x00\x00\x00IEND\xae\x42\x60\x82";

const WELCOME: &str = "Welcome.\n\nThis file was put into a folder. A daemon noticed it, waited until nobody was writing \
to it\nany more, sent it to a pipeline, and wrote what the pipeline answered into the file beside it.\n";

const LETTER: &str = "Sehr geehrte Frau Müller,\n\nüber die Größe der Öfen sprächen wir gern noch einmal: fünf Stück \
à 1.200 € sind zuviel.\nŻółw, naïve, smörgåsbord, ελληνικά, 日本語 kommen genauso an, wie sie hier stehen.\n\nMit \
freundlichen Grüßen\nJörg Weiß\n";

const NOTES: &str = "# Meeting notes\n\n- What is dropped into the folder is sent **once**.\n- A changed file is sent \
again; its result is replaced.\n- A name with blanks is a name like any other.\n";

const ORDER: &str = "{\n  \"order\": 4711,\n  \"customer\": \"Weiß & Söhne\",\n  \"items\": [\n    {\"sku\": \"oven-5\", \
\"count\": 5, \"price\": 1200.0}\n  ]\n}\n";

const REPORT: &str = "Folders in the folder are watched too.\n";

/// A file to be put into the inbox.
pub(super) struct Sample {
    /// Path relative to the inbox.
    pub(super) rel: &'static str,
    /// What is in it.
    pub(super) content: Vec<u8>,
}

/// All samples.
pub(super) fn all() -> Vec<Sample> {
    let sample = |rel, content: &[u8]| Sample { rel, content: content.to_vec() };
    vec![
        sample("welcome.txt", WELCOME.as_bytes()),
        sample("Grüße aus Köln.txt", LETTER.as_bytes()),
        sample("meeting notes.md", NOTES.as_bytes()),
        sample("measurements.csv", measurements().as_bytes()),
        sample("order.json", ORDER.as_bytes()),
        sample("rocket.png", PICTURE),
        sample("empty.txt", b""),
        sample("2026/march/report.txt", REPORT.as_bytes()),
        sample("machine.log.txt", log().as_bytes()),
    ]
}

fn measurements() -> String {
    let mut text = String::from("time,sensor,celsius\n");
    for minute in 0..48 {
        let (hour, rest) = (minute / 4, minute % 4 * 15);
        // Writing to a string cannot fail.
        let _ =
            writeln!(text, "2026-03-01T{hour:02}:{rest:02}:00Z,oven-{},{}.{}", minute % 3, 180 + minute, minute % 10);
    }
    text
}

fn log() -> String {
    let mut text = String::with_capacity(96 * LOG_LINES as usize);
    let mut number: u32 = 1;
    for line in 0..LOG_LINES {
        // Any sequence will do, as long as it is the same each time: a repeated demo writes the same file.
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (seconds, valve, bar) = (line % 60, number >> 28, number >> 20 & 0xff);
        let _ = writeln!(
            text,
            "2026-03-01 {:02}:{:02}:{seconds:02} machine-7 valve {valve:02} pressure {bar:03} kPa, state nominal, line {line}",
            line / 3600 % 24,
            line / 60 % 60
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_are_what_they_are_meant_to_be() {
        let samples = all();
        let content = |rel: &str| &samples.iter().find(|sample| sample.rel == rel).unwrap().content;
        assert!(content("machine.log.txt").len() > 4 << 20, "several writes");
        assert!(content("empty.txt").is_empty());
        assert!(std::str::from_utf8(content("rocket.png")).is_err());
        assert!(content("rocket.png").ends_with(b"IEND\xae\x42\x60\x82"));
        assert!(serde_json::from_slice::<serde_json::Value>(content("order.json")).is_ok());
        assert_eq!(log(), log());
    }
}
