//! AES-CBC with the keys of `apisix.data_encryption.keyring` (apisix/core/data_encryption.lua): 16 bytes are AES-128, 32
//! are AES-256, padding is PKCS#7, the result is base64. The surprise: the key's first 16 bytes are the initial vector,
//! too, so that equal texts give equal results. It is what an APISIX beside us reads and writes.

use aws_lc_rs::cipher::{
    AES_128, AES_256, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey,
    UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// nginx's reading of base64 (`ngx_decode_base64`): padding may be missing, and what follows the first `=` is not read.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);
const BLOCK: usize = 16;

/// Why a text could not be decrypted. APISIX's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecryptError {
    #[error("base64 decode failed")]
    Base64,
    /// No key gives a text: it is not encrypted at all, or with a key that is not in the keyring.
    #[error("decrypt failed")]
    Decrypt,
}

/// The keys, and whether plugin fields are encrypted.
#[derive(Default)]
pub struct Keyring {
    keys: Vec<Key>,
    plugin_fields: bool,
}

struct Key {
    vector: [u8; BLOCK],
    encrypt: PaddedBlockEncryptingKey,
    decrypt: PaddedBlockDecryptingKey,
}

impl std::fmt::Debug for Keyring {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (keys, plugin_fields) = (self.keys.len(), self.plugin_fields);
        f.debug_struct("Keyring").field("keys", &keys).field("plugin_fields", &plugin_fields).finish()
    }
}

impl Keyring {
    /// `keys`: of 16 or 32 bytes; others are logged and left out. `plugin_fields`: `enable_encrypt_fields` of a gateway
    /// whose configuration comes from a store. APISIX encrypts nothing of plugins in files (apisix/plugin.lua
    /// `enable_gde`); private keys are encrypted wherever there is a keyring.
    pub fn new(keys: &[impl AsRef<str>], plugin_fields: bool) -> Keyring {
        let keys = keys.iter().filter_map(|key| {
            let key = key.as_ref().as_bytes();
            let made = Key::new(key);
            if made.is_none() {
                let bytes = key.len();
                tracing::error!(
                    "ignored data_encryption keyring entry: expected a 16 byte (AES-128) or 32 byte (AES-256) key, got {bytes} bytes"
                );
            }
            made
        });
        Keyring { keys: keys.collect(), plugin_fields }
    }

    /// Without keys everything stays as it is.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether plugin fields are encrypted.
    pub fn encrypts_plugin_fields(&self) -> bool {
        self.plugin_fields && !self.is_empty()
    }

    /// With the first key. Without keys, or where encryption fails, the text itself, as APISIX does.
    pub fn encrypt(&self, text: &str) -> String {
        let Some(key) = self.keys.first() else { return text.to_owned() };
        match key.encrypt(text) {
            Some(encrypted) => encrypted,
            None => {
                tracing::error!("failed to encrypt the data: failed to encrypt");
                text.to_owned()
            }
        }
    }

    /// With the first key that gives a text. Without keys the text itself.
    pub fn decrypt(&self, text: &str) -> Result<String, DecryptError> {
        if self.keys.is_empty() {
            return Ok(text.to_owned());
        }
        let digits = text.split('=').next().unwrap_or_default();
        let bytes = BASE64.decode(digits).map_err(|_| DecryptError::Base64)?;
        self.keys.iter().find_map(|key| key.decrypt(&bytes)).ok_or(DecryptError::Decrypt)
    }
}

impl Key {
    fn new(key: &[u8]) -> Option<Key> {
        let algorithm = match key.len() {
            16 => &AES_128,
            32 => &AES_256,
            _ => return None,
        };
        let unbound = || UnboundCipherKey::new(algorithm, key).ok();
        Some(Key {
            vector: key.get(..BLOCK)?.try_into().ok()?,
            encrypt: PaddedBlockEncryptingKey::cbc_pkcs7(unbound()?).ok()?,
            decrypt: PaddedBlockDecryptingKey::cbc_pkcs7(unbound()?).ok()?,
        })
    }

    fn encrypt(&self, text: &str) -> Option<String> {
        let mut bytes = text.as_bytes().to_vec();
        let context = EncryptionContext::Iv128(FixedLength::from(self.vector));
        self.encrypt.less_safe_encrypt(&mut bytes, context).ok()?;
        Some(BASE64.encode(bytes))
    }

    /// Where a wrong key happens to give valid padding, the result is hardly ever text.
    fn decrypt(&self, bytes: &[u8]) -> Option<String> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(BLOCK) {
            return None;
        }
        let mut bytes = bytes.to_vec();
        let context = DecryptionContext::Iv128(FixedLength::from(self.vector));
        let plain = self.decrypt.decrypt(&mut bytes, context).ok()?;
        std::str::from_utf8(plain).ok().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIRST: &str = "qeddd145sfvddff3";
    const SECOND: &str = "edd1c9f0985e76a2";
    const LONG: &str = "qeddd145sfvddff3edd1c9f0985e76a2";

    /// Made with OpenSSL: `printf %s TEXT | openssl enc -aes-128-cbc -K HEX -iv HEX -base64 -A`.
    #[test]
    fn texts_are_what_openssl_makes_of_them() {
        let (first, second, long) =
            (Keyring::new(&[FIRST], true), Keyring::new(&[SECOND], true), Keyring::new(&[LONG], true));
        for (keyring, plain, encrypted) in [
            (&first, "bar", "+kOEVUuRc5rC5ZwvvAMLwg=="),
            (&second, "bar", "77+NmbYqNfN+oLm0aX5akg=="),
            (&long, "bar", "hrE8kurj0cVd2NFUa3PgDg=="),
            (&first, "", "CEGh183MAO3X8/ZV2jzHeA=="),
            (&first, "exactly 16 bytes", "F3qODiZliPL827Gu7zKX7GByDI85MvlE/tAFJu7sIec="),
        ] {
            assert_eq!(keyring.encrypt(plain), encrypted);
            assert_eq!(keyring.decrypt(encrypted).as_deref(), Ok(plain));
        }
    }

    #[test]
    fn the_first_key_encrypts_and_all_decrypt() {
        let both = Keyring::new(&[SECOND, FIRST], true);
        let old = Keyring::new(&[FIRST], true).encrypt("secret");
        assert_eq!(both.decrypt(&old).as_deref(), Ok("secret"));
        assert_eq!(both.encrypt("secret"), Keyring::new(&[SECOND], true).encrypt("secret"));
    }

    #[test]
    fn what_is_not_encrypted_is_an_error() {
        let keyring = Keyring::new(&[FIRST, SECOND], true);
        for (text, error) in [
            ("not base64!", DecryptError::Base64),
            ("abcde", DecryptError::Base64),
            ("bar1", DecryptError::Decrypt),
            ("", DecryptError::Decrypt),
            ("AAAAAAAAAAAAAAAAAAAAAA==", DecryptError::Decrypt),
        ] {
            assert_eq!(keyring.decrypt(text), Err(error), "{text}");
        }
        // As nginx reads base64: without padding, and nothing after it.
        let encrypted = keyring.encrypt("bar");
        let bare = encrypted.trim_end_matches('=');
        assert_eq!(keyring.decrypt(bare).as_deref(), Ok("bar"));
        assert_eq!(keyring.decrypt(&format!("{bare}=anything")).as_deref(), Ok("bar"));
    }

    #[test]
    fn without_keys_everything_stays() {
        let none = Keyring::new(&["short"], true);
        assert!(none.is_empty() && !none.encrypts_plugin_fields());
        assert_eq!((none.encrypt("a"), none.decrypt("a")), ("a".to_owned(), Ok("a".to_owned())));
        assert!(!format!("{:?}", Keyring::new(&[FIRST], false)).contains(FIRST));
        assert!(!Keyring::new(&[FIRST], false).encrypts_plugin_fields());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn round_trip(text in ".{0,200}", key in "[ -~]{16}|[ -~]{32}") {
            let keyring = Keyring::new(&[key], true);
            prop_assert_eq!(keyring.decrypt(&keyring.encrypt(&text)), Ok(text));
        }

        #[test]
        fn any_text_is_survived(text in ".{0,80}|[A-Za-z0-9+/]{0,90}={0,3}") {
            let _ = Keyring::new(&[FIRST, LONG], true).decrypt(&text);
        }
    }
}
