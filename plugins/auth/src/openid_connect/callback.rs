//! The provider sends the browser back (OpenID Connect Core 1.0, 3.1.2.5): the code becomes tokens, and the browser goes on to what
//! it first asked for.
use super::OpenidConnect;
use super::login::{Login, answered, failed, found, unavailable};
use crate::digest;
use crate::provider::verify::Rules;
use crate::session::{Session, Sessions};
use serde_json::{Map, Value};
use sluice_http::Method;
use sluice_plugin::{Context, Outcome};

/// Logins that are begun again in a row because the provider sent the browser back without an answer.
const RESTARTS: u32 = 3;

/// A parameter of the query.
fn argument(cx: &Context, name: &str) -> Option<String> {
    Some(String::from_utf8_lossy(&cx.request.arg(name)?).into_owned())
}

impl OpenidConnect {
    pub async fn callback(
        &self,
        sessions: &Sessions,
        cx: &mut Context,
        session: Option<Box<Session<Login>>>,
    ) -> Outcome {
        let Some(mut session) = session else {
            return failed("request to the redirect_uri path but there's no session state found");
        };
        let (code, state) = (argument(cx, "code"), argument(cx, "state"));
        let ours = state.as_deref().and_then(|state| {
            session.data.pending.iter().position(|p| digest::same(p.state.as_bytes(), state.as_bytes()))
        });
        let Some((code, _)) = code.zip(state) else {
            let away = argument(cx, "error").as_deref() == Some("temporarily_unavailable");
            let original = ours.and_then(|i| session.data.pending.get(i)).map(|p| p.original.clone());
            return match original.filter(|_| away) {
                Some(original) => {
                    let reason = "authorization callback reported a temporarily unavailable identity provider";
                    self.restart(sessions, cx, session, original, reason).await
                }
                None => {
                    let told = argument(cx, "error").unwrap_or_default();
                    let told: String = told.escape_debug().take(100).collect();
                    failed(&format!("unhandled request to the redirect_uri (error \"{told}\")"))
                }
            };
        };
        let Some(ours) = ours else {
            return match session.data.original.clone() {
                Some(original) => {
                    let reason = "state mismatch (replayed or pruned callback)";
                    self.restart(sessions, cx, session, original, reason).await
                }
                None => failed("state from argument does not match state restored from session"),
            };
        };
        let pending = session.data.pending.remove(ours);
        match self.redeem(cx, &code, &pending.verifier, pending.nonce.as_deref(), &mut session.data).await {
            Ok(()) => {}
            Err(reason) => return failed(&reason),
        }
        session.data.restarts = 0;
        // Kept: a callback that is repeated, as by a browser's way back, leads there and not to an error.
        session.data.original = Some(pending.original.clone());
        if let Err(e) = sessions.renew(cx, &mut session).await {
            return unavailable(&e);
        }
        answered(found(pending.original).header("Cache-Control", "no-cache, no-store, max-age=0"))
    }

    /// Sends the browser to what it first asked for, which begins the login again.
    async fn restart(
        &self,
        sessions: &Sessions,
        cx: &mut Context,
        mut session: Box<Session<Login>>,
        original: String,
        reason: &str,
    ) -> Outcome {
        if cx.request.method != Method::Get {
            return failed(reason);
        }
        if session.data.restarts >= RESTARTS {
            return failed(&format!("{reason} (giving up after {RESTARTS} restarts of the authentication flow)"));
        }
        session.data.restarts += 1;
        if let Err(e) = sessions.save(cx, &mut session).await {
            tracing::error!("could not persist the restart counter: {e}");
            return unavailable(&e);
        }
        tracing::warn!("OIDC {reason}, restarting the authentication flow");
        answered(found(original))
    }

    /// A code for tokens (OpenID Connect Core 1.0, 3.1.3).
    async fn redeem(
        &self,
        cx: &Context,
        code: &str,
        verifier: &Option<String>,
        nonce: Option<&str>,
        login: &mut Login,
    ) -> Result<(), String> {
        let document = self.provider.document().await?;
        let issuer = argument(cx, "iss");
        let tells = document.get("authorization_response_iss_parameter_supported") == Some(&Value::Bool(true));
        if (tells || issuer.is_some()) && issuer.as_deref() != document.get("issuer").and_then(Value::as_str) {
            return Err("iss from argument does not match expected issuer".into());
        }
        if argument(cx, "client_id").is_some_and(|id| id != self.config.client_id) {
            return Err("client_id from argument does not match expected client_id".into());
        }
        let mut form = vec![
            ("grant_type", "authorization_code".to_owned()),
            ("code", code.to_owned()),
            ("redirect_uri", self.redirect_uri(cx).ok_or("the request has no Host")?),
        ];
        form.extend(verifier.iter().map(|verifier| ("code_verifier", verifier.clone())));
        let tokens = self.ask_for_tokens(form).await?;
        let id_token = tokens.id_token.as_deref().ok_or("the token endpoint gave no id token")?;
        let claims = self.check_id_token(id_token, nonce).await?;
        (login.access_token, login.refresh_token, login.id_token) = (None, None, None);
        tokens.store(login, &self.config);
        login.user = match &tokens.access_token {
            Some(token) if self.config.keeps("user") => self.user(token, &claims).await,
            _ => None,
        };
        login.authenticated = true;
        Ok(())
    }

    /// What the provider tells of the person, where it is the same one.
    async fn user(&self, token: &str, claims: &Map<String, Value>) -> Option<Value> {
        let told = self.read_user(token).await.inspect_err(|e| tracing::error!("error calling userinfo endpoint: {e}"));
        let user = told.ok().flatten()?;
        if user.get("sub") != claims.get("sub") {
            tracing::error!("\"sub\" claim in id_token is not equal to the \"sub\" claim of the userinfo endpoint");
            return None;
        }
        Some(Value::Object(user))
    }

    async fn read_user(&self, token: &str) -> Result<Option<Map<String, Value>>, String> {
        let document = self.provider.document().await?;
        let Some(url) = document.get("userinfo_endpoint").and_then(Value::as_str) else { return Ok(None) };
        let now = self.provider.clock().seconds();
        let proof = || self.proofs.as_ref().and_then(|proofs| proofs.proof("GET", url, Some(token), now));
        let mut answer = self.provider.userinfo(url, token, proof()).await?;
        if self.proofs.as_ref().is_some_and(|proofs| proofs.learn(&answer)) {
            answer = self.provider.userinfo(url, token, proof()).await?;
        }
        if answer.status != 200 {
            return Err(format!("response indicates failure, status={}", answer.status));
        }
        let kind = answer.header("content-type").map(String::from_utf8_lossy).unwrap_or_default().to_ascii_lowercase();
        if kind.contains("application/jwt") {
            let rules = Rules {
                keys: self.keys.as_deref(),
                secret: self.config.client_secret.as_deref().map(str::as_bytes),
                slack: self.config.iat_slack.max(0) as u64,
                ..Rules::default()
            };
            let claims = self.provider.verify(answer.text().trim(), &rules).await;
            return claims.map(Some).map_err(|e| format!("userinfo jwt could not be verified: {e}"));
        }
        serde_json::from_slice(&answer.body).map(Some).map_err(|_| "JSON decoding failed".to_owned())
    }
}
