//! Where to cut text into writes.
//!
//! Pure. The engine decodes every write as UTF-8 on its own: a character split over two writes loses both writes, and the
//! upload reports success all the same. And its response node ends every write with a blank line, so each cut shows in the
//! result: the fewer cuts the better, and after a line rather than in one.

/// Text up to this size goes in one write (if the link is fast enough, which the caller knows).
pub const ONE_WRITE_MAX: u64 = 4 * 1024 * 1024;
/// The smallest piece that holds any character.
pub const MIN_PIECE: usize = 4;

/// Whether the engine treats this type as text. It compares case-sensitively: `TEXT/PLAIN` goes to the raw lane.
pub fn is_text(mime_type: &str) -> bool {
    mime_type.starts_with("text/")
}

/// How many bytes of `window` to send in the next write.
///
/// `window` is what was read and not sent yet, `eof` whether nothing follows it, `max` the most to send (at least
/// [`MIN_PIECE`] counts). 0 only for an empty window. A window shorter than `max` without `eof` is cut like a full one:
/// fill it first. Text that is not UTF-8 may be cut anywhere: no cut can save it.
pub fn cut(window: &[u8], eof: bool, max: usize) -> usize {
    let max = max.max(MIN_PIECE);
    if eof && window.len() <= max {
        return window.len();
    }
    let window = &window[..window.len().min(max)];
    if let Some(newline) = window.iter().rposition(|byte| *byte == b'\n') {
        return newline + 1;
    }
    // The last byte that begins a character; at most three continuation bytes can follow it.
    let tail = window.len().saturating_sub(MIN_PIECE);
    let Some(start) = window[tail..].iter().rposition(|byte| byte & 0xC0 != 0x80).map(|at| tail + at) else {
        return window.len();
    };
    let whole = std::str::from_utf8(&window[start..]).is_ok();
    if whole || start == 0 { window.len() } else { start }
}

/// How many bytes at the end of `bytes` begin a character that does not end there: 0 to 3.
pub fn unfinished(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(MIN_PIECE - 1)..];
    let Some(start) = tail.iter().rposition(|byte| byte & 0xC0 != 0x80) else { return 0 };
    match std::str::from_utf8(&tail[start..]) {
        Err(error) if error.error_len().is_none() => tail.len() - start,
        _ => 0,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What an upload does with a whole text.
    fn pieces(text: &[u8], max: usize) -> Vec<&[u8]> {
        let mut rest = text;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let window = &rest[..rest.len().min(max.max(MIN_PIECE))];
            let length = cut(window, window.len() == rest.len(), max);
            assert!(length > 0, "a cut makes progress");
            pieces.push(&rest[..length]);
            rest = &rest[length..];
        }
        pieces
    }

    #[test]
    fn cuts_come_after_lines_else_between_characters() {
        let cases: [(&str, usize, &[&str]); 6] = [
            ("", 8, &[]),
            ("short", 8, &["short"]),
            ("one\ntwo\nthree", 9, &["one\ntwo\n", "three"]),
            ("aaaaaaaaaa", 4, &["aaaa", "aaaa", "aa"]),
            ("aaa\u{e4}aa", 4, &["aaa", "\u{e4}aa"]),
            ("aa\u{1f600}\u{1f600}", 5, &["aa", "\u{1f600}", "\u{1f600}"]),
        ];
        for (text, max, expected) in cases {
            let expected: Vec<&[u8]> = expected.iter().map(|piece| piece.as_bytes()).collect();
            assert_eq!(pieces(text.as_bytes(), max), expected, "{text}");
        }
    }

    #[test]
    fn the_case_of_a_mime_type_counts() {
        assert!(is_text("text/plain") && is_text("text/csv"));
        assert!(!is_text("TEXT/PLAIN") && !is_text("application/text") && !is_text("text"));
    }

    #[test]
    fn only_the_beginning_of_a_character_is_unfinished() {
        for (bytes, expected) in [
            (&b""[..], 0),
            (b"a", 0),
            ("\u{e4}".as_bytes(), 0),
            (b"a\xc3", 1),
            (b"\xe2\x82", 2),
            (b"\xf0\x9f\x98", 3),
            ("\u{1f600}".as_bytes(), 0),
            (b"a\xff", 0),
            (b"\x80\x80\x80\x80", 0),
        ] {
            assert_eq!(unfinished(bytes), expected, "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn every_piece_of_valid_text_is_valid_and_small(text in "(?s)[a\u{e4}\u{20ac}\u{1f600}\n]{0,200}", max in 0_usize..40) {
            let pieces = pieces(text.as_bytes(), max);
            prop_assert_eq!(pieces.concat(), text.as_bytes());
            for piece in pieces {
                prop_assert!(std::str::from_utf8(piece).is_ok());
                prop_assert!(piece.len() <= max.max(MIN_PIECE));
            }
        }

        #[test]
        fn any_bytes_arrive_whole_and_bad_ones_are_noticed(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), 0x80..=0xBF_u8, Just(b'\n')], 0..300), max in 0_usize..40) {
            let pieces = pieces(&bytes, max);
            prop_assert_eq!(pieces.concat(), bytes.clone());
            prop_assert!(pieces.iter().all(|piece| piece.len() <= max.max(MIN_PIECE)));
            let all_valid = pieces.iter().all(|piece| std::str::from_utf8(piece).is_ok());
            prop_assert_eq!(all_valid, std::str::from_utf8(&bytes).is_ok());
        }
    }
}
