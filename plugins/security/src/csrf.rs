//! `csrf` guards against cross-site request forgery by the double-submit cookie method.
//!
//! Every response sets a signed token as a cookie; a request with a method other than `GET`, `HEAD` and `OPTIONS` must
//! bear it as the cookie and once more as a header field of the same name. The token is APISIX's (base64 of
//! `{"random", "expires", "sign"}`), so that tokens of either gateway are valid in the other if the key is the same.
//! Difference: a token that is signed but has no usable fields is refused with 401 (APISIX fails with 500). Read in
//! apisix/plugins/csrf.lua.
use aws_lc_rs::{constant_time, digest};
use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose::STANDARD};
use rand::Rng;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use sluice_plugin::{BuildError, Clock, Context, Define, Env, Flow, Info, Phases, Plugin, Reply};

#[derive(Deserialize, JsonSchema)]
#[schemars(extend("encrypt_fields" = ["key"]))]
pub struct Config {
    /// The secret that tokens are signed with.
    key: String,
    /// For how many seconds a token is valid; 0 or less for ever, though the cookie then ends at once.
    #[serde(default = "default_expires")]
    expires: i64,
    /// Name of the cookie and of the header field.
    #[serde(default = "default_name")]
    name: String,
}

fn default_expires() -> i64 {
    7200
}
fn default_name() -> String {
    "apisix-csrf-token".into()
}

pub struct Csrf {
    config: Config,
    clock: Clock,
}

impl Define for Csrf {
    const INFO: Info = Info::new("csrf", 2980, Phases::ACCESS.and(Phases::HEADER_FILTER)).secrets(&["key"]);
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        Ok(Csrf { config, clock: env.clock.clone() })
    }
}

impl Plugin for Csrf {
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        match self.refusal(cx) {
            None => Flow::Next,
            Some(message) => Flow::reply(Reply::error_msg(401, message)),
        }
    }

    fn header_filter(&self, cx: &mut Context) {
        let now = self.now();
        let until = cookie_time(now.saturating_add(self.config.expires));
        let token = self.token(now);
        let cookie = format!("{}={token};path=/;SameSite=Lax;Expires={until}", self.config.name);
        cx.response.headers.append("Set-Cookie", cookie);
    }
}

impl Csrf {
    fn now(&self) -> i64 {
        i64::try_from(self.clock.seconds()).unwrap_or(i64::MAX)
    }

    /// Why the request may not pass.
    fn refusal(&self, cx: &Context) -> Option<&'static str> {
        if matches!(cx.request.method_text(), "GET" | "HEAD" | "OPTIONS") {
            return None;
        }
        let Some(header) = cx.request.headers.get(&self.config.name).filter(|h| !h.is_empty()) else {
            return Some("no csrf token in headers");
        };
        let Some(cookie) = cx.request.cookie(&self.config.name) else { return Some("no csrf cookie") };
        if header != cookie {
            return Some("csrf token mismatch");
        }
        match self.is_valid(cookie) {
            Ok(()) => None,
            Err(why) => {
                tracing::error!(route = cx.route_id(), "{why}");
                Some("Failed to verify the csrf token signature")
            }
        }
    }

    fn is_valid(&self, token: &[u8]) -> Result<(), &'static str> {
        /// `ngx.decode_base64` wants no padding.
        const LENIENT: GeneralPurpose = GeneralPurpose::new(
            &alphabet::STANDARD,
            GeneralPurposeConfig::new()
                .with_decode_padding_mode(DecodePaddingMode::Indifferent)
                .with_decode_allow_trailing_bits(true),
        );
        let json = LENIENT.decode(token).map_err(|_| "csrf token base64 decode error")?;
        let token: Value = serde_json::from_slice(&json).map_err(|_| "decode token error")?;
        let random = token.get("random").and_then(lua_text).ok_or("no random in token")?;
        let expires = token.get("expires").and_then(lua_text).ok_or("no expires in token")?;
        let made = expires.trim().parse::<f64>().ok().filter(|made| made.is_finite()).ok_or("no expires in token")?;
        let age = self.now() as f64 - made;
        if self.config.expires > 0 && age > self.config.expires as f64 {
            return Err("token has expired");
        }
        let sign = token.get("sign").and_then(Value::as_str).unwrap_or_default();
        let wanted = sign_of(&random, &expires, &self.config.key);
        constant_time::verify_slices_are_equal(wanted.as_bytes(), sign.as_bytes()).map_err(|_| "Invalid signatures")
    }

    /// A new token made at `now`, seconds since the epoch.
    fn token(&self, now: i64) -> String {
        // 14 significant digits: exactly what Lua prints of the number again when it checks the signature.
        let digits = rand::rng().random_range(10_000_000_000_000_u64..100_000_000_000_000).to_string();
        let random = format!("0.{}", digits.trim_end_matches('0'));
        let sign = sign_of(&random, &now.to_string(), &self.config.key);
        STANDARD.encode(format!(r#"{{"random":{random},"expires":{now},"sign":"{sign}"}}"#))
    }
}

/// A JSON scalar as Lua's `..` writes it.
fn lua_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => {
            let mut text = Vec::new();
            sluice_expr::write_number(number.as_f64()?, &mut text);
            String::from_utf8(text).ok()
        }
        _ => None,
    }
}

/// SHA-256 in hexadecimal over the text that APISIX signs.
fn sign_of(random: &str, expires: &str, key: &str) -> String {
    let text = format!("{{expires:{expires},random:{random},key:{key}}}");
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let mut hex = String::with_capacity(64);
    for byte in hash.as_ref() {
        for nibble in [byte >> 4, byte & 15] {
            hex.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    hex
}

/// `ngx.cookie_time`: `Thu, 18-Nov-10 11:27:35 GMT`; years after 2037 have four digits (ngx_http_cookie_time).
fn cookie_time(seconds: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    // Keeps the calendar sane for any setting of `expires`: up to the year 9999.
    let seconds = seconds.clamp(0, 253_402_300_799);
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let name =
        |names: &'static [&'static str], i: i64| usize::try_from(i).ok().and_then(|i| names.get(i)).unwrap_or(&"");
    let year = if year > 2037 { year.to_string() } else { format!("{:02}", year % 100) };
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    let (weekday, month) = (name(&DAYS, days % 7), name(&MONTHS, month - 1));
    format!("{weekday}, {day:02}-{month}-{year} {hour:02}:{minute:02}:{second:02} GMT")
}

/// Year, month and day of a day number since the epoch (Howard Hinnant, `civil_from_days`; not before the epoch).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests;
