//! Pipeline files: JSON or JSON5, bare or wrapped in `{"pipeline": ...}`.
//!
//! It does not know what is in a pipeline; the server does.

use std::io::{self, Read as _};
use std::path::Path;

use serde_json::{Map, Value};

use super::error::{Error, Result};

/// No pipeline is larger than this, in bytes; a file that is was named by mistake.
const MAX_SIZE: u64 = 16 * 1024 * 1024;

/// Reads a `.pipe` file. An error names the file, and the place in it. Blocks for the time of reading a small file.
pub fn load_pipeline(path: &Path) -> Result<Value> {
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_SIZE + 1).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::FileNotFound(path.to_owned())),
        Err(error) => Err(Error::Read { path: path.to_owned(), message: error.to_string() }),
        Ok(size) if size as u64 > MAX_SIZE => {
            Err(Error::InvalidData(format!("{}: larger than {MAX_SIZE} bytes", path.display())))
        }
        Ok(_) => parse_pipeline(&text)
            .map_err(|why| Error::InvalidData(format!("{}: not a pipeline: {why}", path.display()))),
    }
}

/// The pipeline in this text, or what is wrong with it and where. The text itself is not quoted: it may hold keys.
pub fn parse_pipeline(text: &str) -> Result<Value, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // Plain JSON first: it is the common case and the stricter parser.
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(_) => json5::from_str(text).map_err(|error| {
            let what = error.code().map_or_else(|| "invalid value".to_owned(), |code| code.to_string());
            match error.position() {
                Some(at) => format!("{what} at line {} column {}", at.line + 1, at.column + 1),
                None => what,
            }
        })?,
    };
    unwrap_pipeline(value).map(Value::Object)
}

/// The pipeline in this value, which may be wrapped.
pub(super) fn unwrap_pipeline(value: Value) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(mut map) => match map.remove("pipeline") {
            Some(Value::Object(inner)) => Ok(inner),
            Some(_) => Err("the value of \"pipeline\" is not an object".into()),
            None => Ok(map),
        },
        _ => Err("it is not an object".into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pipeline_may_be_json_or_json5_bare_or_wrapped() {
        let expected = json!({"components": [{"id": "a"}]});
        for text in [
            r#"{"components":[{"id":"a"}]}"#,
            r#"{"pipeline":{"components":[{"id":"a"}]},"version":1}"#,
            "\u{feff}{\"components\":[{\"id\":\"a\"}]}",
            "// by hand\n{pipeline: {components: [{id: 'a',}],},}",
        ] {
            assert_eq!(parse_pipeline(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn an_error_names_the_file_and_the_place_but_quotes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bad.pipe");
        std::fs::write(&path, "{\n  key: 's3cret'\n  other: 1\n}").unwrap();
        let error = load_pipeline(&path).unwrap_err().to_string();
        assert!(error.contains("bad.pipe") && error.contains("line 3 column 3"), "{error}");
        assert!(!error.contains("s3cret"), "{error}");

        let missing = load_pipeline(&directory.path().join("none.pipe")).unwrap_err();
        assert!(matches!(missing, Error::FileNotFound(_)));
        assert!(matches!(load_pipeline(directory.path()), Err(Error::Read { .. })));
        assert!(parse_pipeline("[]").is_err() && parse_pipeline("{pipeline: 1}").is_err());
    }
}
