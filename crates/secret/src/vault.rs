//! HashiCorp Vault, key-value engine version 1 (apisix/secret/vault.lua): one GET per secret, the last part of the key names
//! the field. The surprise: the status does not matter, an answer without `data` is the failure.

use crate::client::{Client, FetchError, present};
use crate::reference::setting;
use serde_json::Value;

pub(crate) async fn get(client: &Client, settings: &Value, key: &str) -> Result<Value, FetchError> {
    let (main, field) = split(key)?;
    let text = |name| setting(settings, name).unwrap_or_default();
    let url = format!("{}{}", text("uri"), normal_path(&format!("/v1/{}/{main}", text("prefix"))));
    let mut request = client.http(true)?.get(url).header("X-Vault-Token", &*text("token"));
    if let Some(namespace) = setting(settings, "namespace") {
        request = request.header("X-Vault-Namespace", &*namespace);
    }
    let failed = |e: FetchError| FetchError(format!("failed to retrtive data from vault kv engine: {e}"));
    let answer = client.send(request).await.map_err(failed)?;
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    match body.get("data").filter(|data| !data.is_null()) {
        Some(data) => present(data.get(field)),
        // Vault's errors hold no secrets: {"errors": […]}.
        None if body.is_object() => Err(FetchError(format!("failed to decode result, res: {}", answer.body))),
        None => Err(FetchError(format!("failed to decode result, status: {}", answer.status))),
    }
}

fn split(key: &str) -> Result<(&str, &str), FetchError> {
    match key.rsplit_once('/') {
        None => Err(FetchError(format!("error key format, key: {key}"))),
        Some(("", _)) => Err(FetchError(format!("can't find main key, key: {key}"))),
        Some((_, "")) => Err(FetchError(format!("can't find sub key, key: {key}"))),
        Some(parts) => Ok(parts),
    }
}

/// Without empty and dot segments, as Lua's `path.normpath`.
fn normal_path(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            part => kept.push(part),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_paths() {
        let error = |key| split(key).unwrap_err().0;
        assert_eq!(error("apisix"), "error key format, key: apisix");
        assert_eq!(error("/apisix"), "can't find main key, key: /apisix");
        assert_eq!(error("apisix/"), "can't find sub key, key: apisix/");
        assert_eq!(split("/apisix-key/jack/key"), Ok(("/apisix-key/jack", "key")));
        assert_eq!(normal_path("/v1/kv//apisix/./x/../y"), "/v1/kv/apisix/y");
    }
}
