//! A JSON Web Token in its compact form (RFC 7519; RFC 7515, 7.1), and its claims of time
//! (apisix/plugins/jwt-auth/parser.lua).
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Padding is not allowed in a token (RFC 7515, 2); tokens that have it are common enough to be read, as APISIX does.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A token taken apart, not verified.
#[derive(Debug)]
pub struct Token<'a> {
    /// What the signature is of.
    pub signed: &'a [u8],
    pub algorithm: String,
    /// `kid` of the header (RFC 7515, 4.1.4).
    pub key_id: Option<String>,
    pub payload: Value,
    signature: &'a [u8],
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(default)]
    kid: Option<Value>,
}

/// Why a text is no signed token.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("invalid jwt string")]
    Form,
    #[error("invalid header: {0}")]
    Header(String),
    #[error("invalid payload: {0}")]
    Payload(String),
}

impl<'a> Token<'a> {
    /// Takes the text apart.
    pub fn parse(text: &'a [u8]) -> Result<Token<'a>, TokenError> {
        let mut parts = text.split(|b| *b == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Form);
        };
        let signed = text.get(..header.len() + 1 + payload.len()).unwrap_or_default();
        // What goes into a log is short and one line.
        let text = |part: &[u8]| String::from_utf8_lossy(part).escape_debug().take(200).collect();
        let decoded = BASE64.decode(header).unwrap_or_default();
        let parsed: Header<'_> = serde_json::from_slice(&decoded).map_err(|_| TokenError::Header(text(header)))?;
        let algorithm = parsed.alg.into_owned();
        let key_id = parsed.kid.as_ref().and_then(Value::as_str).map(str::to_owned);
        let decoded = BASE64.decode(payload).unwrap_or_default();
        let payload = serde_json::from_slice(&decoded).map_err(|_| TokenError::Payload(text(payload)))?;
        Ok(Token { signed, algorithm, key_id, payload, signature })
    }

    /// The signature's bytes; `None` where it is not base64url.
    pub fn signature(&self) -> Option<Vec<u8>> {
        BASE64.decode(self.signature).ok()
    }
}

/// A claim that is compared with the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Claim {
    Exp,
    Nbf,
}

/// Why a token is not valid now.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ClaimError {
    #[error("claim {0} is missing")]
    Missing(&'static str),
    #[error("claim {0} is not a number")]
    NotANumber(&'static str),
    #[error("'nbf' claim not valid until {}", http_date(*.0))]
    NotYet(f64),
    #[error("'exp' claim expired at {}", http_date(*.0))]
    Expired(f64),
}

/// A time in seconds since the epoch as RFC 9110, 5.6.7 writes it; the number where no calendar has it.
fn http_date(seconds: f64) -> String {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let date = time::OffsetDateTime::from_unix_timestamp(seconds as i64).ok().and_then(|date| date.format(format).ok());
    date.unwrap_or_else(|| format!("{seconds:e}"))
}

impl Claim {
    const ALL: [Claim; 2] = [Claim::Nbf, Claim::Exp];

    fn name(self) -> &'static str {
        match self {
            Claim::Exp => "exp",
            Claim::Nbf => "nbf",
        }
    }

    /// `now` and `grace` in seconds. Both bounds are exclusive.
    fn check(self, value: &Value, now: f64, grace: f64) -> Result<(), ClaimError> {
        let time = value.as_f64().ok_or(ClaimError::NotANumber(self.name()))?;
        match self {
            Claim::Nbf if time < now + grace => Ok(()),
            Claim::Exp if time > now - grace => Ok(()),
            Claim::Nbf => Err(ClaimError::NotYet(time)),
            Claim::Exp => Err(ClaimError::Expired(time)),
        }
    }
}

/// Claims that are asked for must be there; with none asked for, `nbf` and `exp` are checked where they are.
pub fn check_claims(asked: &[Claim], payload: &Value, now: u64, grace: u64) -> Result<(), ClaimError> {
    let (now, grace) = (now as f64, grace as f64);
    let optional = asked.is_empty();
    for claim in if optional { &Claim::ALL } else { asked } {
        match payload.get(claim.name()) {
            Some(value) => claim.check(value, now, grace)?,
            None if optional => {}
            None => return Err(ClaimError::Missing(claim.name())),
        }
    }
    Ok(())
}
