//! Requests of browsers: let in by their session, or sent to the provider.
//!
//! The surprise: a session without a login has the logins that are under way, so that several tabs can log in at once; eight at most.
use super::OpenidConnect;
use super::bearer::has_scopes;
use super::config::UnauthAction;
use crate::authority;
use crate::digest;
use crate::jwt_auth::token::Token;
use crate::provider::{Method, with_parameters};
use crate::session::{Opened, Session, SessionError, Sessions};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sluice_plugin::{Context, Flow, Outcome, Reply};

/// Logins under way in one session.
const PENDING: usize = 8;
/// Bytes of the addresses that they lead back to: a cookie must stay small enough for a request's head.
const PENDING_BYTES: usize = 4096;
/// Seconds until one of them is given up.
const PENDING_LIFE: u64 = 3600;
/// Bytes of an address that is come back to; a longer one is replaced by its path, or by `/`.
const URL: usize = 2048;
const SUFFIX: &str = "/.apisix/redirect";

/// What a session holds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Login {
    #[serde(rename = "p", skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<Pending>,
    /// Where the last login was to lead.
    #[serde(rename = "o", skip_serializing_if = "Option::is_none")]
    pub original: Option<String>,
    #[serde(rename = "l")]
    pub authenticated: bool,
    #[serde(rename = "i", skip_serializing_if = "Option::is_none")]
    pub id_token: Option<String>,
    #[serde(rename = "a", skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    #[serde(rename = "e")]
    pub expires: u64,
    #[serde(rename = "r", skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
    #[serde(rename = "u", skip_serializing_if = "Option::is_none")]
    pub user: Option<Value>,
    /// When the provider was last asked to log in.
    #[serde(rename = "t")]
    pub asked: u64,
    #[serde(rename = "n")]
    pub restarts: u32,
}

/// A login under way.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pending {
    #[serde(rename = "s")]
    pub state: String,
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
    pub verifier: Option<String>,
    #[serde(rename = "o")]
    pub original: String,
    #[serde(rename = "t")]
    pub at: u64,
}

impl Login {
    /// The ID token's claims. It was verified when it came, and nobody but the gateway writes sessions.
    pub fn claims(&self) -> Option<Value> {
        Some(Token::parse(self.id_token.as_deref()?.as_bytes()).ok()?.payload)
    }
}

/// What a request of a browser is for.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Callback,
    Logout,
    Content,
}

/// The path as the client sent it, or of an address.
fn path(target: &str) -> &str {
    let local = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/"),
        _ => target,
    };
    local.split(['?', '#']).next().unwrap_or(local)
}

pub fn found(location: impl Into<Vec<u8>>) -> Reply {
    Reply::status(302).header("Location", location.into())
}

pub fn answered(reply: Reply) -> Outcome {
    Outcome::Reply(Box::new(reply))
}

/// Sessions cannot be read or kept: nobody can log in.
pub fn unavailable(error: &SessionError) -> Outcome {
    tracing::error!("OIDC authentication failed: {error}");
    match error {
        SessionError::Storage(_) => answered(Reply::status(503)),
        _ => answered(Reply::status(500)),
    }
}

pub fn failed(error: &str) -> Outcome {
    tracing::error!("OIDC authentication failed: {error}");
    answered(Reply::status(500))
}

impl OpenidConnect {
    /// The path that the provider sends browsers back to.
    fn redirect_path<'a>(&'a self, asked: &'a str) -> std::borrow::Cow<'a, str> {
        match &self.config.redirect_uri {
            Some(uri) => path(uri).into(),
            None if asked.ends_with(SUFFIX) => asked.into(),
            None => format!("{}{SUFFIX}", asked.strip_suffix('/').unwrap_or(asked)).into(),
        }
    }

    /// The whole address of it: as configured, or at the host that the client asked.
    pub fn redirect_uri(&self, cx: &Context) -> Option<String> {
        let path = match &self.config.redirect_uri {
            Some(uri) if !uri.starts_with('/') => return Some(uri.clone()),
            Some(uri) => uri.clone(),
            None => self.redirect_path(path(cx.request.target())).into_owned(),
        };
        let first = |name: &str| -> Option<String> {
            let value = cx.request.headers.get_str(name)?;
            let value: String = value.split(',').next()?.chars().filter(|c| !c.is_whitespace()).collect();
            (!value.is_empty()).then_some(value)
        };
        let forwarded = |name: &str| {
            let field = cx.request.headers.get_str("Forwarded")?;
            let parameters = field.split(',').next()?.split(';');
            let named = parameters.filter_map(|p| p.split_once('=')).find(|(n, _)| n.trim().eq_ignore_ascii_case(name));
            named.map(|(_, value)| value.trim().trim_matches('"').to_owned())
        };
        let scheme = forwarded("proto").or_else(|| first("X-Forwarded-Proto"));
        let host = forwarded("host").or_else(|| first("X-Forwarded-Host"));
        let host = host.or_else(|| cx.request.headers.get_str("Host").map(str::to_owned))?;
        let scheme = scheme.unwrap_or_else(|| cx.connection.scheme().to_owned());
        Some(format!("{scheme}://{host}{path}"))
    }

    fn place(&self, cx: &Context) -> Place {
        let path = path(cx.request.target());
        match () {
            () if path == self.redirect_path(path) => Place::Callback,
            () if path == self.config.logout_path => Place::Logout,
            () => Place::Content,
        }
    }

    /// Whether the session lets the request in without anything to wait for.
    fn is_ready(&self, login: &Login) -> bool {
        let now = self.provider.clock().seconds();
        let silent = self.config.refresh_session_interval.is_some_and(|s| now > login.asked.saturating_add_signed(s));
        login.authenticated
            && !self.config.force_reauthorize
            && !silent
            && login.restarts == 0
            && (login.access_token.is_none() || now < login.expires)
    }

    pub fn authenticate<'a>(&'a self, sessions: &'a Sessions, cx: &'a mut Context) -> Flow<'a> {
        let place = self.place(cx);
        let opened = sessions.open::<Login>(cx);
        if let Opened::Session(session) = &opened
            && place == Place::Content
            && self.is_ready(&session.data)
            && !sessions.is_due(session)
        {
            let fresh = session.data.access_token.as_deref();
            return self.admit_login(cx, &session.data, fresh).map_or_else(Flow::reply, |()| Flow::Next);
        }
        Flow::wait(async move {
            let session = match opened {
                Opened::None => None,
                Opened::Session(session) => Some(session),
                Opened::Stored(ticket) => match sessions.fetch(ticket).await {
                    Ok(session) => session,
                    Err(e) => return unavailable(&e),
                },
            };
            match place {
                Place::Callback => self.callback(sessions, cx, session).await,
                Place::Logout => self.logout(sessions, cx, session).await,
                Place::Content => self.content(sessions, cx, session).await,
            }
        })
    }

    async fn content(&self, sessions: &Sessions, cx: &mut Context, session: Option<Box<Session<Login>>>) -> Outcome {
        let Some(mut session) = session else { return self.unauthorized(sessions, cx, sessions.begin()).await };
        let now = self.provider.clock().seconds();
        let renews = self.config.renew_access_token_on_expiry;
        let (mut fresh, mut saved) = (session.data.access_token.is_some() && now < session.data.expires, false);
        let expired = session.data.authenticated && session.data.access_token.is_some() && !fresh;
        if expired && renews {
            match self.renew(&session.data).await {
                Ok(tokens) => {
                    tokens.store(&mut session.data, &self.config);
                    session.data.restarts = 0;
                    if let Err(e) = sessions.save(cx, &mut session).await {
                        return unavailable(&e);
                    }
                    (fresh, saved) = (true, true);
                }
                Err(reason) => tracing::error!("lost access token: {reason}"),
            }
        }
        let lost = expired && renews && !fresh;
        if !session.data.authenticated || self.config.force_reauthorize || lost {
            return self.unauthorized(sessions, cx, session).await;
        }
        let interval = self.config.refresh_session_interval;
        if interval.is_some_and(|seconds| now > session.data.asked.saturating_add_signed(seconds)) {
            return self.ask_to_log_in(sessions, cx, session, Some("none")).await;
        }
        let token = session.data.access_token.clone().filter(|_| fresh);
        if let Err(reply) = self.admit_login(cx, &session.data, token.as_deref()) {
            return answered(reply);
        }
        let kept = match session.data.restarts {
            _ if saved => Ok(()),
            0 => sessions.refresh(cx, &mut session).await,
            _ => {
                session.data.restarts = 0;
                sessions.save(cx, &mut session).await
            }
        };
        // The person is logged in; that the session could not be prolonged shows when it ends.
        if let Err(e) = kept {
            tracing::error!("failed to save session: {e}");
        }
        Outcome::Next
    }

    async fn unauthorized(&self, sessions: &Sessions, cx: &mut Context, session: Box<Session<Login>>) -> Outcome {
        match self.config.unauth_action {
            UnauthAction::Pass => Outcome::Next,
            UnauthAction::Deny => answered(Reply::status(401)),
            UnauthAction::Auth => self.ask_to_log_in(sessions, cx, session, None).await,
        }
    }

    /// Sends the browser to the provider (OpenID Connect Core 1.0, 3.1.2.1).
    async fn ask_to_log_in(
        &self,
        sessions: &Sessions,
        cx: &mut Context,
        mut session: Box<Session<Login>>,
        prompt: Option<&str>,
    ) -> Outcome {
        let Some(redirect_uri) = self.redirect_uri(cx) else { return answered(Reply::status(400)) };
        let document = match self.provider.document().await {
            Ok(document) => document,
            Err(reason) => return failed(&reason),
        };
        let Some(endpoint) = document.get("authorization_endpoint").and_then(Value::as_str) else {
            return failed("the identity provider names no authorization_endpoint");
        };
        let now = self.provider.clock().seconds();
        let pending = Pending {
            state: digest::random_text(),
            nonce: self.config.use_nonce.then(digest::random_text),
            verifier: self.config.use_pkce.then(digest::random_text),
            original: original(cx.request.target()),
            at: now,
        };
        let mut parameters: Vec<(&str, String)> = vec![
            ("client_id", self.config.client_id.clone()),
            ("response_type", "code".into()),
            ("scope", self.config.scope.clone()),
            ("redirect_uri", redirect_uri),
            ("state", pending.state.clone()),
        ];
        parameters.extend(pending.nonce.iter().map(|nonce| ("nonce", nonce.clone())));
        parameters.extend(prompt.map(|prompt| ("prompt", prompt.to_owned())));
        if let Some(verifier) = &pending.verifier {
            parameters.push(("code_challenge_method", "S256".into()));
            parameters.push(("code_challenge", digest::text(verifier.as_bytes())));
        }
        parameters.extend(self.proofs.iter().map(|proofs| ("dpop_jkt", proofs.thumbprint.clone())));
        for (name, value) in self.config.authorization_params.iter().flatten() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            match parameters.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => *known = value,
                None => parameters.push((name, value)),
            }
        }
        if self.config.par.as_ref().is_some_and(|par| par.enabled) {
            match self.push(&document, &parameters).await {
                Ok(pushed) => parameters = pushed,
                Err(reason) => return failed(&reason),
            }
        }
        let login = &mut session.data;
        login.pending.retain(|p| now.saturating_sub(p.at) < PENDING_LIFE);
        let surplus = (login.pending.len() + 1).saturating_sub(PENDING);
        login.pending.drain(..surplus);
        while login.pending.iter().map(|p| p.original.len()).sum::<usize>() > PENDING_BYTES {
            login.pending.remove(0);
        }
        login.original = Some(pending.original.clone());
        login.asked = now;
        login.pending.push(pending);
        if let Err(e) = sessions.save(cx, &mut session).await {
            return unavailable(&e);
        }
        let location = with_parameters(endpoint, parameters.iter().map(|(n, v)| (*n, v.as_str())));
        answered(found(location).header("Cache-Control", "no-cache, no-store, max-age=0"))
    }

    /// Gives the provider the parameters directly (RFC 9126); what the browser carries is then a reference.
    async fn push(
        &self,
        document: &Value,
        parameters: &[(&str, String)],
    ) -> Result<Vec<(&'static str, String)>, String> {
        let par = self.config.par.as_ref();
        let listed = document.get("pushed_authorization_request_endpoint").and_then(Value::as_str);
        let endpoint = par.and_then(|par| par.endpoint.as_deref()).or(listed);
        let endpoint = endpoint.ok_or("no endpoint URI for pushed authorization requests")?;
        let own = par.and_then(|par| par.endpoint_auth_method.as_deref());
        let method: &Method = match own {
            Some(name) => self.method(name).ok_or("the way to identify at this endpoint cannot be used")?,
            None => self.token_method(document),
        };
        // The client names itself where its way to identify does not.
        let names_itself = matches!(method, Method::Basic) && self.client.secret.is_some();
        let form = parameters.iter().filter(|(name, _)| names_itself || *name != "client_id").cloned();
        let form = form.map(|(name, value)| (name.to_owned(), value)).collect();
        let answer = self.post_proved(endpoint, form, method).await?;
        let reference = answer.get("request_uri").and_then(Value::as_str);
        let reference = reference.ok_or("the answer to the pushed request has no request_uri")?;
        Ok(vec![("client_id", self.config.client_id.clone()), ("request_uri", reference.to_owned())])
    }

    /// Scopes and claims of who is logged in; then what the upstream is told.
    fn admit_login(&self, cx: &mut Context, login: &Login, token: Option<&str>) -> Result<(), Reply> {
        let wants_claims = self.config.set_id_token_header || self.config.required_scopes.is_some();
        let claims = (wants_claims || self.claim_schema.is_some()).then(|| login.claims()).flatten();
        if self.claim_schema.is_some() {
            let mut all = json!({});
            if let Some(all) = all.as_object_mut() {
                all.extend(login.user.iter().map(|user| ("user".to_owned(), user.clone())));
                all.extend(token.map(|token| ("access_token".to_owned(), json!(token))));
                all.extend(claims.iter().map(|claims| ("id_token".to_owned(), claims.clone())));
            }
            self.check_claims(all)?;
        }
        if let Some(required) = &self.config.required_scopes {
            let of_token = token.and_then(|token| Token::parse(token.as_bytes()).ok()).map(|token| token.payload);
            let scope = |claims: &Option<Value>| Some(claims.as_ref()?.get("scope")?.as_str()?.to_owned());
            let denied = |message: String| {
                tracing::error!("OIDC authentication failed: {message}");
                Reply::text(403, json!({ "error": message }).to_string())
            };
            match scope(&of_token).or_else(|| scope(&claims)) {
                None => return Err(denied("required scopes not present".into())),
                Some(granted) if !has_scopes(required, &granted) => {
                    return Err(denied(format!("required scopes {} not present", required.join(", "))));
                }
                Some(_) => {}
            }
        }
        if let Some(token) = token {
            self.tell_access_token(cx, token);
        }
        let encoded = |value: &Value| BASE64_STANDARD.encode(value.to_string());
        let headers = [
            ("X-ID-Token", claims.as_ref().filter(|_| self.config.set_id_token_header).map(encoded)),
            ("X-Userinfo", login.user.as_ref().filter(|_| self.config.set_userinfo_header).map(encoded)),
            ("X-Refresh-Token", login.refresh_token.clone().filter(|_| self.config.set_refresh_token_header)),
            ("X-Raw-ID-Token", login.id_token.clone().filter(|_| self.config.set_raw_id_token_header)),
        ];
        for (name, value) in headers {
            if let Some(value) = value.filter(|value| authority::is_value(value.as_bytes())) {
                cx.request.headers.set(name, value);
            }
        }
        Ok(())
    }
}

/// Where a login leads back to: never to another host.
fn original(target: &str) -> String {
    let at = path(target);
    let start = target.find(at).unwrap_or_default();
    let whole = target.get(start..).unwrap_or("/");
    let local = |text: &str| format!("/{}", text.trim_start_matches(['/', '\\']));
    match whole.len() <= URL {
        true => local(whole),
        false if at.len() <= URL => local(at),
        false => "/".into(),
    }
}

#[cfg(test)]
mod tests;
