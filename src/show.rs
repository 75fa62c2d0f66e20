//! Text from outside (paths, names, words of a server) made safe to print.
//!
//! Whoever may drop a file chooses its name: a newline in it could forge a log line, an escape sequence could drive an
//! operator's terminal, a bidirectional override could make one name look like another. It knows nothing of who prints.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A path for logs and terminals: control characters, bidirectional overrides and line separators are escaped, bytes
/// that are not UTF-8 stand as `\xff`, and a backslash is doubled, so that two different paths never look the same.
#[derive(Clone, Copy)]
pub struct Shown<'a>(
    /// The path.
    pub &'a Path,
);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.as_os_str().as_bytes().utf8_chunks() {
            for character in chunk.valid().chars() {
                if character == '\\' {
                    f.write_str("\\\\")?;
                } else {
                    write_escaped(f, character)?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Text for logs and terminals, with the same escapes as [`Shown`] but for the backslash, which stays as it is.
pub fn escaped(text: &str) -> impl fmt::Display {
    Escaped(text)
}

struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| write_escaped(f, character))
    }
}

/// Writes on, with the escapes of [`escaped`].
pub struct Escaping<'a, W>(
    /// Where it goes.
    pub &'a mut W,
);

impl<W: Write> Write for Escaping<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write!(self.0, "{}", Escaped(text))
    }
}

/// JSON text that says the same and can be shown: characters that no terminal is to get are written as `\uXXXX`, which
/// they can be because they stand within strings only. Line breaks between values stay.
pub fn plain_json(json: &[u8]) -> Cow<'_, [u8]> {
    let is_unsafe = |character: char| character != '\n' && is_unsafe(character);
    let Ok(text) = std::str::from_utf8(json) else { return json.into() };
    if !text.contains(is_unsafe) {
        return json.into();
    }
    let mut plain = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_unsafe(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(plain, "\\u{unit:04x}");
            }
        } else {
            plain.push(character);
        }
    }
    plain.into_bytes().into()
}

/// Whether a terminal or a reader would take this character for something else than a character of a name.
pub fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character,
            // Marks, overrides and isolates of the bidirectional algorithm.
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            // Line and paragraph separator, byte order mark, interlinear annotation, tags.
            | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn write_escaped(f: &mut fmt::Formatter<'_>, character: char) -> fmt::Result {
    if is_unsafe(character) { write!(f, "{}", character.escape_default()) } else { f.write_char(character) }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn shown(bytes: &[u8]) -> String {
        Shown(Path::new(OsStr::from_bytes(bytes))).to_string()
    }

    #[test]
    fn ordinary_names_stay_as_they_are() {
        assert_eq!(shown("/srv/Été 2026/日本 (1).pdf".as_bytes()), "/srv/Été 2026/日本 (1).pdf");
    }

    #[test]
    fn a_newline_cannot_forge_a_log_line_and_an_escape_cannot_reach_the_terminal() {
        assert_eq!(shown(b"a\nERROR b\x1b[2J\t\x7f"), r"a\nERROR b\u{1b}[2J\t\u{7f}");
        assert_eq!(shown("a\u{9b}2J".as_bytes()), r"a\u{9b}2J");
    }

    #[test]
    fn a_bidirectional_override_is_visible() {
        assert_eq!(shown("a\u{202e}fdp.exe".as_bytes()), r"a\u{202e}fdp.exe");
    }

    #[test]
    fn bytes_that_are_no_utf8_are_shown_and_not_mistaken_for_the_same_text() {
        assert_eq!(shown(b"a\xff.csv"), r"a\xff.csv");
        assert_eq!(shown(br"a\xff.csv"), r"a\\xff.csv");
    }
}
