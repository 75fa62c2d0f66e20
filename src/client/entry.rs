//! A file to send, as callers name it: a path, with metadata, with a MIME type.
//!
//! It looks at names alone, never into a file.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use uuid::Uuid;

use super::error::{Error, Result};
use super::mime;
use super::object::ObjectInfo;

/// One file of [`send_files`](super::Client::send_files).
///
/// Made from a path, `(path, metadata)` or `(path, metadata, mime_type)`; the metadata is a JSON object or `null`, and
/// is the SDK's `objinfo`: `name` and `objectId` in it are the object's.
#[derive(Debug, Clone, PartialEq)]
pub struct FileEntry {
    /// Where it is.
    pub path: PathBuf,
    /// What the pipeline should know of it: an object or null.
    pub metadata: Value,
    /// Decides the lane; by the name of the path if there is none.
    pub mime_type: Option<String>,
}

impl FileEntry {
    /// A file by its path alone.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), metadata: Value::Null, mime_type: None }
    }

    /// The same with metadata.
    #[must_use]
    pub fn metadata(mut self, metadata: Value) -> Self {
        self.metadata = metadata;
        self
    }

    /// The same with a MIME type.
    #[must_use]
    pub fn mime_type(mut self, mime_type: impl Into<String>) -> Self {
        self.mime_type = Some(mime_type.into());
        self
    }

    /// What the server is told, and the MIME type.
    ///
    /// Where the SDK leaves the identity to the server, which makes it from the base name, so that files of one name in
    /// two folders replace each other: here it is made from the whole path, unless the metadata has one.
    pub(super) fn describe(&self) -> Result<(ObjectInfo, String)> {
        let metadata = match &self.metadata {
            Value::Null => Map::new(),
            Value::Object(metadata) => metadata.clone(),
            _ => {
                let path = self.path.display();
                return Err(Error::InvalidData(format!("the metadata of {path} must be a JSON object")));
            }
        };
        let mut object = ObjectInfo::from_metadata(metadata)?;
        let name = self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned();
        let mime_type = self.mime_type.clone().unwrap_or_else(|| mime::of(&name).to_owned());
        if object.name.is_empty() {
            object.name = name;
        }
        if object.object_id.is_none() {
            object.object_id = Some(identity(&self.path).to_string());
        }
        Ok((object, mime_type))
    }
}

/// Stable for a path on a host, different for different paths.
fn identity(path: &Path) -> Uuid {
    let absolute = std::path::absolute(path);
    let path = absolute.as_deref().unwrap_or(path).as_os_str().as_encoded_bytes();
    Uuid::new_v5(&Uuid::NAMESPACE_URL, &[b"file://".as_slice(), path].concat())
}

impl From<&str> for FileEntry {
    fn from(path: &str) -> Self {
        Self::new(path)
    }
}

impl From<String> for FileEntry {
    fn from(path: String) -> Self {
        Self::new(path)
    }
}

impl From<&Path> for FileEntry {
    fn from(path: &Path) -> Self {
        Self::new(path)
    }
}

impl From<PathBuf> for FileEntry {
    fn from(path: PathBuf) -> Self {
        Self::new(path)
    }
}

impl From<&PathBuf> for FileEntry {
    fn from(path: &PathBuf) -> Self {
        Self::new(path)
    }
}

impl<P: Into<PathBuf>> From<(P, Value)> for FileEntry {
    fn from((path, metadata): (P, Value)) -> Self {
        Self::new(path).metadata(metadata)
    }
}

impl<P: Into<PathBuf>, M: Into<String>> From<(P, Value, M)> for FileEntry {
    fn from((path, metadata, mime_type): (P, Value, M)) -> Self {
        Self::new(path).metadata(metadata).mime_type(mime_type)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_entry_is_a_path_with_or_without_metadata_and_type() {
        for (entry, name, mime_type, metadata) in [
            (FileEntry::from("/d/a.pdf"), "a.pdf", "application/pdf", json!({})),
            (("/d/a.pdf", json!({"k": 1})).into(), "a.pdf", "application/pdf", json!({"k": 1})),
            (("/d/a.pdf", Value::Null, "x/y").into(), "a.pdf", "x/y", json!({})),
            (("/d/a.pdf", json!({"name": "doc.txt"})).into(), "doc.txt", "application/pdf", json!({})),
            (FileEntry::from(PathBuf::from("b")), "b", mime::DEFAULT, json!({})),
        ] {
            let (object, found) = entry.describe().unwrap();
            assert_eq!((object.name.as_str(), found.as_str()), (name, mime_type));
            assert_eq!(Value::Object(object.metadata), metadata);
        }
    }

    #[test]
    fn files_of_one_name_have_identities_of_their_own() {
        let id = |path: &str| FileEntry::from(path).describe().unwrap().0.object_id.unwrap();
        assert_eq!(id("/a/x.txt"), id("/a/x.txt"));
        assert_ne!(id("/a/x.txt"), id("/b/x.txt"));
        let absolute = std::env::current_dir().unwrap().join("x.txt");
        assert_eq!(id("x.txt"), id(absolute.to_str().unwrap()));
        let given = FileEntry::from(("/a/x.txt", json!({"objectId": "mine"})));
        assert_eq!(given.describe().unwrap().0.object_id.as_deref(), Some("mine"));
    }

    #[test]
    fn metadata_that_the_engine_would_choke_on_is_refused_by_name() {
        for (metadata, word) in
            [(json!([1]), "JSON object"), (json!({"path": "x"}), "path"), (json!({"name": 7}), "name")]
        {
            let error = FileEntry::from(("/d/a", metadata)).describe().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
