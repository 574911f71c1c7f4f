//! Secrets in files below a directory, as container platforms mount them: Sluice's own manager, APISIX has none. The surprise:
//! as with AWS, the longest name is tried first, and the parts that name no file are the field of a file that holds JSON.

use crate::client::FetchError;
use crate::reference::{field_of, setting};
use serde_json::Value;
use std::path::{Component, Path};

/// `limit`: bytes of a file. One line end at the end of a file does not count.
pub(crate) async fn get(settings: &Value, key: &str, limit: usize) -> Result<Value, FetchError> {
    let directory = setting(settings, "directory").unwrap_or_default();
    let plain = |c: Component<'_>| matches!(c, Component::Normal(_));
    if key.is_empty() || !Path::new(key).components().all(plain) {
        return Err(FetchError(format!("not a name below the directory, key: {key}")));
    }
    let mut name = key;
    loop {
        let path = Path::new(&*directory).join(name);
        let found = tokio::fs::metadata(&path).await.ok().filter(std::fs::Metadata::is_file);
        let Some(found) = found else {
            match name.rsplit_once('/') {
                Some((shorter, _)) => name = shorter,
                None => return Err(FetchError(format!("no such file below {directory}: {key}"))),
            }
            continue;
        };
        if found.len() > limit as u64 {
            return Err(FetchError(format!("the file has more than {limit} bytes: {key}")));
        }
        let text = tokio::fs::read_to_string(&path).await;
        let text = text.map_err(|e| FetchError(format!("cannot be read: {key}: {e}")))?;
        let text = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
        return match key.get(name.len() + 1..) {
            None => Ok(Value::String(text.to_owned())),
            Some(field) => field_of(text, field).map_err(FetchError),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn files_and_their_fields() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("db")).unwrap();
        std::fs::write(folder.path().join("db/password"), "sesame\n").unwrap();
        std::fs::write(folder.path().join("all"), r#"{"a/b": "deep", "n": 5}"#).unwrap();
        let settings = json!({"directory": folder.path()});
        let value = async |key: &str| get(&settings, key, 100).await.map_err(|e| e.0);
        assert_eq!(value("db/password").await, Ok("sesame".into()));
        assert_eq!(value("all/a/b").await, Ok("deep".into()));
        assert_eq!(value("all/n").await, Ok(5.into()));
        assert!(value("db").await.unwrap_err().starts_with("no such file"));
        for key in ["../all", "/etc/passwd", "db/../all", ""] {
            assert_eq!(value(key).await, Err(format!("not a name below the directory, key: {key}")));
        }
        let short = get(&settings, "all", 5).await.unwrap_err();
        assert_eq!(short.0, "the file has more than 5 bytes: all");
    }
}
