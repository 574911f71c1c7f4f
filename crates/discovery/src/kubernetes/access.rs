//! Where a cluster's API server is, and what is shown to it. The surprise: a token's file is read for each request, because
//! Kubernetes replaces it while the process runs.
use crate::registry::Unusable;
use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Service {
    schema: String,
    host: String,
    port: String,
    pub ssl_verify: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Credentials {
    token: Option<String>,
    token_file: Option<String>,
}

#[derive(Clone, Debug)]
enum Token {
    Text(String),
    File(String),
}

/// See the file's head.
#[derive(Clone, Debug)]
pub(super) struct Access {
    /// `https://10.96.0.1:443`.
    pub url: String,
    token: Token,
}

/// A text that may be `${NAME}`, which stands for a variable of the environment (apisix/discovery/kubernetes/core.lua
/// `read_env`).
fn resolved(text: &str) -> Result<String, Unusable> {
    match text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).filter(|name| !name.is_empty()) {
        Some(name) => std::env::var(name).map_err(|_| Unusable(format!("not found environment variable {name}"))),
        None => Ok(text.to_owned()),
    }
}

impl Access {
    pub fn read(service: &Service, client: &Credentials) -> Result<Access, Unusable> {
        let host = resolved(&service.host)?;
        if host.is_empty() {
            return Err(Unusable("service.host should set to non-empty string".to_owned()));
        }
        let port = resolved(&service.port)?;
        let number: u16 = port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| Unusable(format!("invalid port value: {port}")))?;
        let token = match (&client.token, &client.token_file) {
            (Some(token), _) => Token::Text(resolved(token)?.trim().to_owned()),
            (None, Some(file)) if !file.is_empty() => Token::File(resolved(file)?),
            _ => {
                let none = "one of [client.token,client.token_file] should be set but none";
                return Err(Unusable(none.to_owned()));
            }
        };
        if service.schema == "https" && matches!(&token, Token::Text(text) if text.is_empty()) {
            let empty = "apiserver.token should set to non-empty string when service.schema is https";
            return Err(Unusable(empty.to_owned()));
        }
        // an address of version 6 from the environment has no brackets
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
        Ok(Access { url: format!("{}://{host}:{number}", service.schema), token })
    }

    pub async fn token(&self) -> Result<String, String> {
        match &self.token {
            Token::Text(text) => Ok(text.clone()),
            Token::File(path) => match tokio::fs::read_to_string(path).await {
                Ok(text) => Ok(text.trim().to_owned()),
                Err(error) => Err(format!("failed to read token from file: {path}: {error}")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(service: serde_json::Value, client: serde_json::Value) -> Result<Access, String> {
        let service: Service = serde_json::from_value(service).unwrap();
        Access::read(&service, &serde_json::from_value(client).unwrap()).map_err(|error| error.0)
    }

    #[tokio::test]
    async fn variables_and_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, " first \n").unwrap();
        let service = json!({"schema": "https", "host": "::1", "port": "6443"});
        let access = read(service.clone(), json!({"token_file": path})).unwrap();
        assert_eq!((access.url.as_str(), access.token().await.unwrap().as_str()), ("https://[::1]:6443", "first"));
        std::fs::write(&path, "second").unwrap();
        assert_eq!(access.token().await.unwrap(), "second");
        std::fs::remove_file(&path).unwrap();
        assert!(access.token().await.unwrap_err().starts_with("failed to read token from file"));
        // cargo sets this one
        let named = read(service.clone(), json!({"token": "${CARGO_PKG_NAME}"})).unwrap();
        assert_eq!(named.token().await.unwrap(), "sluice-discovery");
        assert_eq!(
            read(service, json!({"token": "${NO_SUCH_VARIABLE_HERE}"})).unwrap_err(),
            "not found environment variable NO_SUCH_VARIABLE_HERE"
        );
        let error = read(json!({"schema": "http", "host": "a", "port": "0"}), json!({"token": ""})).unwrap_err();
        assert_eq!(error, "invalid port value: 0");
    }
}
