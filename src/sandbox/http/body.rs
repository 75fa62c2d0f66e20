//! What a request carries: a name, a MIME type, and bytes that are taken as they come.
//!
//! Nothing is held but one piece. It must not know where the pieces go.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderMap, HeaderName};
use multer::Field;

/// Size of a piece but the last, whatever the packets were, so that a result does not depend on the network. Every piece is
/// a write, and the cut minds no characters, as on the real server: long text with multi-byte characters loses pieces.
pub(super) const PIECE: usize = 64 * 1024;

/// The body ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken;

/// Where bytes come from.
pub(super) enum Source {
    /// A raw body.
    Whole(Incoming),
    /// A field of a form.
    Field(Box<Field<'static>>),
}

impl Source {
    async fn frame(&mut self) -> Result<Option<Bytes>, Broken> {
        match self {
            Self::Field(field) => field.chunk().await.map_err(|_| Broken),
            Self::Whole(body) => match body.frame().await {
                None => Ok(None),
                // Trailers carry no data.
                Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
                Some(Err(_)) => Err(Broken),
            },
        }
    }
}

/// A source in pieces of [`PIECE`].
pub(super) struct Pieces {
    source: Source,
    held: BytesMut,
    ended: Option<Result<(), Broken>>,
}

impl Pieces {
    pub(super) fn new(source: Source) -> Self {
        Self { source, held: BytesMut::new(), ended: None }
    }

    pub(super) fn are_of_a_form(&self) -> bool {
        matches!(self.source, Source::Field(_))
    }

    /// The next piece; none at the end. What came before a break is given first.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        self.fill(PIECE).await;
        if self.held.is_empty() {
            return self.ended.unwrap_or(Ok(())).map(|()| None);
        }
        Ok(Some(self.held.split_to(self.held.len().min(PIECE)).freeze()))
    }

    /// Whether there is nothing at all.
    pub(super) async fn is_empty(&mut self) -> Result<bool, Broken> {
        self.fill(1).await;
        if self.held.is_empty() { self.ended.unwrap_or(Ok(())).map(|()| true) } else { Ok(false) }
    }

    async fn fill(&mut self, size: usize) {
        while self.ended.is_none() && self.held.len() < size {
            match self.source.frame().await {
                Ok(Some(frame)) => self.held.extend_from_slice(&frame),
                Ok(None) => self.ended = Some(Ok(())),
                Err(broken) => self.ended = Some(Err(broken)),
            }
        }
    }
}

/// The MIME type without parameters, in lower case.
pub(super) fn mime_type(value: Option<&str>) -> String {
    let value = value.unwrap_or("application/octet-stream");
    value.split(';').next().unwrap_or("").trim().to_lowercase()
}

/// As [`mime_type`], of a request.
pub(super) fn mime_type_of(headers: &HeaderMap) -> String {
    mime_type(header(headers, &CONTENT_TYPE).as_deref())
}

/// The `filename` of a `Content-Disposition`, neither unescaped nor decoded.
pub(super) fn file_name(headers: &HeaderMap) -> Option<String> {
    let disposition = header(headers, &CONTENT_DISPOSITION)?;
    let (_, rest) = disposition.split_once("filename")?;
    let value = rest.strip_prefix('*').unwrap_or(rest).strip_prefix('=')?;
    let name = value.split(';').next().unwrap_or("").trim().trim_matches(['"', '\'']);
    Some(name.to_owned()).filter(|name| !name.is_empty())
}

/// Header values are Latin-1 to the real server: a name in UTF-8 comes out garbled.
fn header(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    Some(headers.get(name)?.as_bytes().iter().map(|byte| char::from(*byte)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn a_name_comes_with_and_without_quotes() {
        for (value, name) in [
            ("attachment; filename=a.txt", Some("a.txt")),
            ("attachment; filename=\"two words.txt\"; size=3", Some("two words.txt")),
            ("attachment; filename*=UTF-8''b.txt", Some("UTF-8''b.txt")),
            ("attachment; filename=", None),
            ("attachment", None),
            ("inline; filename", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static(value));
            assert_eq!(file_name(&headers).as_deref(), name, "{value}");
        }
        assert_eq!(file_name(&HeaderMap::new()), None);
    }

    #[test]
    fn a_mime_type_loses_its_parameters_and_its_capitals() {
        assert_eq!(mime_type(Some("Text/Plain; charset=utf-8")), "text/plain");
        assert_eq!(mime_type(None), "application/octet-stream");
    }
}
