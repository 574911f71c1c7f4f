//! Sessions of browsers: what a login has found out, kept in encrypted cookies or in Redis, for the plugins that log people in.
//!
//! A session has three ends: unused for `idling_timeout`, not renewed within `rolling_timeout` (using it renews it in the last
//! quarter), and `absolute_timeout` after it began. The surprise: in cookies nothing is kept here, so a copied cookie is good until
//! then, also after a logout; with Redis a logout ends it everywhere.
//
// Behaviour: lua-resty-session 4 as APISIX uses it (apisix/plugins/openid-connect.lua, `session`). The form of the cookies is ours.
mod cookie;
mod seal;
mod settings;
#[cfg(test)]
mod tests;

use crate::digest;
use cookie::Jar;
use seal::{Head, Keys};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sluice_engine_redis::{Redis, RedisError, Reply};
use sluice_plugin::{BuildError, Clock, Context, Env};
use std::sync::Arc;

pub use settings::{Settings, is_too_weak};

/// Seconds between notes that a session is in use.
const TOUCH: u64 = 60;

/// Why a session cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("session storage: {0}")]
    Storage(#[from] RedisError),
    #[error("the session has more than {} bytes", cookie::MAX_BYTES)]
    TooLarge,
    #[error("the session cannot be sealed")]
    Seal,
}

/// The sessions of one configuration.
pub struct Sessions {
    settings: Settings,
    keys: Keys,
    jar: Jar,
    redis: Option<Arc<Redis>>,
    clock: Clock,
}

/// A session of one request: its head, and what a plugin keeps in it.
pub struct Session<T> {
    head: Head,
    /// The browser has it (under this head).
    stored: bool,
    pub data: T,
}

/// What a request brings.
pub enum Opened<T> {
    /// None, or none that is good.
    None,
    Session(Box<Session<T>>),
    /// Its data is in Redis: call [`Sessions::fetch`].
    Stored(Ticket),
}

/// A good cookie without its data.
pub struct Ticket(Head);

impl Sessions {
    /// `realm` is who speaks for the people logged in (the provider's address): sessions are good for no other.
    pub fn new(settings: Settings, realm: &str, env: &Env) -> Result<Sessions, BuildError> {
        let keys = Keys::new(&settings.secret, realm);
        let jar = Jar::new(&settings)?;
        let redis = settings.redis(env)?.map(|redis| env.shared.get_or_insert(&redis.key(), || Redis::new(redis)));
        Ok(Sessions { settings, keys, jar, redis, clock: env.clock.clone() })
    }

    /// Reads the request's cookies; waits for nothing.
    pub fn open<T: DeserializeOwned>(&self, cx: &Context) -> Opened<T> {
        let Some(bytes) = self.jar.read(&cx.request) else { return Opened::None };
        let Some((head, plain)) = self.keys.open(bytes, self.redis.is_some()) else { return Opened::None };
        if !self.lives(&head) {
            return Opened::None;
        }
        if self.redis.is_some() {
            return Opened::Stored(Ticket(head));
        }
        match serde_json::from_slice(&plain) {
            Ok(data) => Opened::Session(Box::new(Session { head, stored: true, data })),
            Err(_) => Opened::None,
        }
    }

    /// Asks Redis; `None` where it knows the session no more.
    pub async fn fetch<T: DeserializeOwned>(&self, ticket: Ticket) -> Result<Option<Box<Session<T>>>, SessionError> {
        let Some(redis) = &self.redis else { return Ok(None) };
        let Ticket(head) = ticket;
        let found = redis.command(&[b"GET", self.name(&head).as_bytes()]).await?;
        let Reply::Bytes(sealed) = found else { return Ok(None) };
        let plain = self.keys.open_value(&head, sealed);
        let data = plain.and_then(|plain| serde_json::from_slice(&plain).ok());
        Ok(data.map(|data| Box::new(Session { head, stored: true, data })))
    }

    /// A session that begins now; it is nowhere until it is saved.
    pub fn begin<T: Default>(&self) -> Box<Session<T>> {
        let now = self.clock.seconds();
        Box::new(Session { head: Head::new(now), stored: false, data: T::default() })
    }

    fn lives(&self, head: &Head) -> bool {
        let now = self.clock.seconds();
        let within = |since: u64, limit: u64| limit == 0 || now < since.saturating_add(limit);
        within(head.created, self.settings.absolute_timeout)
            && within(head.rolled, self.settings.rolling_timeout)
            && within(head.touched, self.settings.idling_timeout)
    }

    /// Whether using the session now must be noted by [`Sessions::refresh`].
    pub fn is_due<T>(&self, session: &Session<T>) -> bool {
        self.must_roll(&session.head) || self.must_touch(&session.head)
    }
    fn must_roll(&self, head: &Head) -> bool {
        let limit = self.settings.rolling_timeout;
        limit > 0 && self.clock.seconds().saturating_sub(head.rolled) > limit - limit / 4
    }
    fn must_touch(&self, head: &Head) -> bool {
        let limit = self.settings.idling_timeout;
        let due = TOUCH.min(limit / 2).max(1);
        limit > 0 && self.clock.seconds().saturating_sub(head.touched) >= due
    }

    /// Notes that the session is in use, where that is due.
    pub async fn refresh<T: Serialize>(&self, cx: &mut Context, session: &mut Session<T>) -> Result<(), SessionError> {
        if self.must_roll(&session.head) {
            session.head.rolled = self.clock.seconds();
            return self.save(cx, session).await;
        }
        match self.must_touch(&session.head) {
            true => self.save(cx, session).await,
            false => Ok(()),
        }
    }

    /// Keeps the session, under the id that it has.
    pub async fn save<T: Serialize>(&self, cx: &mut Context, session: &mut Session<T>) -> Result<(), SessionError> {
        session.head.touched = self.clock.seconds();
        let plain = serde_json::to_vec(&session.data).map_err(|_| SessionError::Seal)?;
        let sealed = match &self.redis {
            None => self.keys.seal(&session.head, &plain, false).ok_or(SessionError::Seal)?,
            Some(redis) => {
                if plain.len() > cookie::MAX_BYTES {
                    return Err(SessionError::TooLarge);
                }
                let value = self.keys.seal_value(&session.head, &plain).ok_or(SessionError::Seal)?;
                let seconds = self.left(&session.head).to_string();
                let name = self.name(&session.head);
                redis.command(&[b"SET", name.as_bytes(), &value, b"EX", seconds.as_bytes()]).await?;
                self.keys.seal(&session.head, b"", true).ok_or(SessionError::Seal)?
            }
        };
        self.jar.write(cx, &sealed)?;
        session.stored = true;
        Ok(())
    }

    /// Keeps the session under a new id: after a login, so that nobody has planted it.
    pub async fn renew<T: Serialize>(&self, cx: &mut Context, session: &mut Session<T>) -> Result<(), SessionError> {
        let (old, stored) = (session.head.clone(), session.stored);
        session.head = Head::new(self.clock.seconds());
        self.save(cx, session).await?;
        if stored {
            self.forget(&old).await?;
        }
        Ok(())
    }

    /// Ends the session, here and in the browser.
    pub async fn destroy<T>(&self, cx: &mut Context, session: &Session<T>) -> Result<(), SessionError> {
        self.jar.clear(cx);
        self.forget(&session.head).await
    }

    async fn forget(&self, head: &Head) -> Result<(), SessionError> {
        if let Some(redis) = &self.redis {
            redis.command(&[b"DEL", self.name(head).as_bytes()]).await?;
        }
        Ok(())
    }

    /// Seconds until the session ends if it is not used.
    fn left(&self, head: &Head) -> u64 {
        let now = self.clock.seconds();
        let until = |since: u64, limit: u64| (limit > 0).then(|| since.saturating_add(limit).saturating_sub(now));
        let ends = [
            until(head.created, self.settings.absolute_timeout),
            until(head.rolled, self.settings.rolling_timeout),
            until(head.touched, self.settings.idling_timeout),
        ];
        ends.into_iter().flatten().min().unwrap_or(settings::LONGEST).clamp(1, settings::LONGEST)
    }

    /// The key in Redis does not tell the id that opens the session.
    fn name(&self, head: &Head) -> String {
        format!("{}:{}:{}", self.settings.redis.prefix, self.settings.cookie_name, digest::text(&head.id))
    }
}
