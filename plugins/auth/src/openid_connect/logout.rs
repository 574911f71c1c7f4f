//! Logging out: the session ends, tokens are revoked where that is wanted (RFC 7009), and the browser goes to the provider to end its
//! session there too (OpenID Connect RP-Initiated Logout 1.0).
use super::OpenidConnect;
use super::login::{Login, answered, found, unavailable};
use crate::provider::with_parameters;
use crate::session::{Session, Sessions};
use serde_json::Value;
use sluice_plugin::{Context, Outcome, Reply};

impl OpenidConnect {
    pub async fn logout(&self, sessions: &Sessions, cx: &mut Context, session: Option<Box<Session<Login>>>) -> Outcome {
        if let Some(session) = &session
            && let Err(e) = sessions.destroy(cx, session).await
        {
            return unavailable(&e);
        }
        let document = match self.provider.document().await {
            Ok(document) => document,
            Err(reason) => {
                tracing::error!("OIDC access discovery url failed : {reason}");
                return answered(Reply::status(503));
            }
        };
        let login = session.map(|session| session.data).unwrap_or_default();
        if self.config.revoke_tokens_on_logout {
            self.revoke(&document, "refresh_token", login.refresh_token.as_deref()).await;
            self.revoke(&document, "access_token", login.access_token.as_deref()).await;
        }
        let text = |name: &str| document.get(name).and_then(Value::as_str);
        let back = self.config.post_logout_redirect_uri.as_deref();
        let mut parameters: Vec<(&str, &str)> = Vec::new();
        let place = match (text("end_session_endpoint"), back, text("ping_end_session_endpoint")) {
            (Some(endpoint), _, _) => {
                parameters.extend(login.id_token.as_deref().map(|token| ("id_token_hint", token)));
                // Without a hint the provider knows the client by this (RP-Initiated Logout 1.0, 2).
                if login.id_token.is_none() {
                    parameters.push(("client_id", &self.config.client_id));
                }
                parameters.extend(back.map(|uri| ("post_logout_redirect_uri", uri)));
                endpoint
            }
            (None, Some(uri), _) => {
                parameters.push(("post_logout_redirect_uri", uri));
                uri
            }
            (None, None, Some(endpoint)) => endpoint,
            (None, None, None) => {
                let page = Reply::text(200, "<html><body>Logged Out</body></html>\n");
                return answered(page.header("Content-Type", "text/html"));
            }
        };
        answered(found(with_parameters(place, parameters.into_iter())))
    }

    async fn revoke(&self, document: &Value, hint: &str, token: Option<&str>) {
        let (Some(token), Some(endpoint)) = (token, document.get("revocation_endpoint").and_then(Value::as_str)) else {
            return;
        };
        let form = vec![("token", token.to_owned()), ("token_type_hint", hint.to_owned())];
        let method = self.token_method(document);
        match self.provider.post(endpoint, form, &self.client, method, Vec::new()).await {
            Ok(answer) if answer.status == 200 => {}
            Ok(answer) => tracing::error!("revocation of {hint} unsuccessful: status {}", answer.status),
            Err(reason) => tracing::error!("revocation of {hint} unsuccessful: {reason}"),
        }
    }
}
