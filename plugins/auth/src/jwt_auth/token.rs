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
    pub payload: Value,
    signature: &'a [u8],
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
}

impl<'a> Token<'a> {
    /// `None` where it is no signed token.
    pub fn parse(text: &'a [u8]) -> Option<Token<'a>> {
        let mut parts = text.split(|b| *b == b'.');
        let (header, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let signed = text.get(..header.len() + 1 + payload.len())?;
        let header = BASE64.decode(header).ok()?;
        let header: Header<'_> = serde_json::from_slice(&header).ok()?;
        let payload = serde_json::from_slice(&BASE64.decode(payload).ok()?).ok()?;
        Some(Token { signed, algorithm: header.alg.into_owned(), payload, signature })
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
    #[error("'nbf' claim not valid until {0}")]
    NotYet(f64),
    #[error("'exp' claim expired at {0}")]
    Expired(f64),
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
