//! What the server is told about a file: `arguments.object` of an open.
//!
//! Pure. The identity (`objectId`) is the caller's to choose: two files of one name get the same id otherwise, and nodes
//! that store vectors replace by it.

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::error::{Error, Result};

/// Keys that metadata cannot carry: the client sets them, or they are read-only in the engine and would make the open
/// fail without a reason.
pub const FORBIDDEN_METADATA: [&str; 6] = ["name", "path", "url", "flags", "size", "objectId"];

/// A file as the pipeline sees it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ObjectInfo {
    /// Its base name; if empty, the server makes one up.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// A stable, unique identity; the server derives one from the name alone if there is none.
    pub object_id: Option<String>,
    /// Anything else the pipeline should know, beside the keys of [`FORBIDDEN_METADATA`].
    pub metadata: Map<String, Value>,
}

impl ObjectInfo {
    /// An object of this name, and nothing else known of it.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// The same with an identity.
    #[must_use]
    pub fn with_object_id(mut self, object_id: impl Into<String>) -> Self {
        self.object_id = Some(object_id.into());
        self
    }

    /// The same with something else that the pipeline should know.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// From the SDK's `objinfo`, where `name`, `objectId` and `size` stand among the metadata.
    ///
    /// The size is left out: uploads know it better. [`Error::InvalidData`] names a key that cannot be.
    pub fn from_metadata(mut metadata: Map<String, Value>) -> Result<Self> {
        let mut text = |key: &str| match metadata.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Error::InvalidData(format!("{key:?} of an object must be a string"))),
        };
        let (name, object_id) = (text("name")?, text("objectId")?);
        metadata.remove("size");
        let object = Self { name: name.unwrap_or_default(), size: 0, object_id, metadata };
        object.check()?;
        Ok(object)
    }

    /// Refuses metadata keys that the engine would choke on.
    pub fn check(&self) -> Result<()> {
        match FORBIDDEN_METADATA.iter().find(|key| self.metadata.contains_key(**key)) {
            Some(key) => Err(Error::InvalidData(format!("metadata of {:?} must not hold the key {key:?}", self.name))),
            None => Ok(()),
        }
    }

    /// The `object` argument of an open.
    pub fn to_argument(&self) -> Result<Value> {
        serde_json::to_value(self.argument()?).map_err(|error| Error::InvalidData(error.to_string()))
    }

    /// The same, to be written without a copy.
    pub(super) fn argument(&self) -> Result<Argument<'_>> {
        self.check()?;
        Ok(Argument(self))
    }
}

/// An object as the server is told of it.
#[derive(Debug)]
pub(super) struct Argument<'a>(&'a ObjectInfo);

impl Serialize for Argument<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ObjectInfo { name, size, object_id, metadata } = self.0;
        let mut object = serializer.serialize_map(None)?;
        for (key, value) in metadata {
            object.serialize_entry(key, value)?;
        }
        if !name.is_empty() {
            object.serialize_entry("name", name)?;
        }
        // An object of size 0 would be skipped as empty; the SDK says 1 as well.
        object.serialize_entry("size", size.max(&1))?;
        if let Some(id) = object_id {
            object.serialize_entry("objectId", id)?;
        }
        object.end()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_carries_its_metadata_and_identity() {
        let mut object =
            ObjectInfo { name: "a.txt".into(), size: 11, object_id: Some("id".into()), ..ObjectInfo::default() };
        object.metadata.insert("customer".into(), "acme".into());
        let expected = json!({"name": "a.txt", "size": 11, "objectId": "id", "customer": "acme"});
        assert_eq!(object.to_argument().unwrap(), expected);
    }

    #[test]
    fn an_empty_file_says_size_one() {
        let object = ObjectInfo { name: "empty".into(), ..ObjectInfo::default() };
        assert_eq!(object.to_argument().unwrap(), json!({"name": "empty", "size": 1}));
    }

    #[test]
    fn a_forbidden_key_is_refused_by_name() {
        for key in FORBIDDEN_METADATA {
            let mut object = ObjectInfo { name: "a".into(), ..ObjectInfo::default() };
            object.metadata.insert(key.into(), Value::Null);
            assert!(object.to_argument().unwrap_err().to_string().contains(key));
        }
    }
}
