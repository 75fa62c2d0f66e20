//! A file's name in a header.
//!
//! Pure. The server decodes `Content-Disposition` as Latin-1 and takes what stands behind the first `filename`, up to a
//! semicolon, without undoing any escape. RFC 6266 says how a name is written so that everybody reads something: first
//! `filename=` with what can be said plainly, then `filename*=` with the whole truth. Nothing else gets through both.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What RFC 5987 lets stand as it is.
const EXTENDED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// What stands for a character that cannot be said plainly.
const SUBSTITUTE: char = '_';

/// The name as the server reads it: characters beyond Latin-1, controls, `"`, `\` and `;` replaced, and `'` at the ends.
pub(super) fn plain(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| if c.is_control() || u32::from(c) > 0xff || matches!(c, '"' | '\\' | ';') { SUBSTITUTE } else { c })
        .collect();
    let inner = plain.trim_start_matches('\'');
    let (head, inner) = (plain.len() - inner.len(), inner.trim_end_matches('\''));
    let tail = plain.len() - head - inner.len();
    let substitutes = |count: usize| SUBSTITUTE.to_string().repeat(count);
    substitutes(head) + inner + &substitutes(tail)
}

/// The bytes of a `Content-Disposition` that names a file.
pub(super) fn disposition(name: &str) -> Vec<u8> {
    let plain = plain(name);
    let mut header = b"attachment; filename=\"".to_vec();
    // Latin-1 is the first 256 characters; `plain` leaves no other.
    header.extend(plain.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'_')));
    header.push(b'"');
    if plain != name || !name.is_ascii() {
        header.extend_from_slice(b"; filename*=UTF-8''");
        header.extend_from_slice(utf8_percent_encode(name, EXTENDED).to_string().as_bytes());
    }
    header
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_is_said_plainly_and_in_full() {
        for (name, header) in [
            ("a.txt", &b"attachment; filename=\"a.txt\""[..]),
            ("two words.txt", b"attachment; filename=\"two words.txt\""),
            ("\u{fc}.txt", b"attachment; filename=\"\xfc.txt\"; filename*=UTF-8''%C3%BC.txt"),
            ("a\"b;c\\d", b"attachment; filename=\"a_b_c_d\"; filename*=UTF-8''a%22b%3Bc%5Cd"),
            ("\u{65e5}.txt", b"attachment; filename=\"_.txt\"; filename*=UTF-8''%E6%97%A5.txt"),
            ("'x'\n", b"attachment; filename=\"_x'_\"; filename*=UTF-8''%27x%27%0A"),
        ] {
            assert_eq!(disposition(name), header, "{name:?}");
        }
        assert_eq!(plain("''"), "__");
    }

    proptest! {
        #[test]
        fn any_name_is_a_header_that_the_server_reads_back(name in ".{1,40}") {
            let header = disposition(&name);
            prop_assert!(reqwest::header::HeaderValue::from_bytes(&header).is_ok());
            let header: String = header.iter().map(|byte| char::from(*byte)).collect();
            let (_, rest) = header.split_once("filename=").unwrap();
            let read = rest.split(';').next().unwrap().trim().trim_matches(['"', '\'']);
            prop_assert_eq!(read, plain(&name));
        }
    }
}
