//! OpenSSL's cipher lists (`ssl_ciphers`) over the suites that there are. The surprise: TLS 1.3 is not touched by them, as in
//! OpenSSL, and words for suites that are not there (`!aNULL`, CBC, DHE) mean nothing.
use super::provider;
use rustls::SupportedCipherSuite;
use rustls::crypto::CryptoProvider;
use std::sync::Arc;

/// What OpenSSL calls a suite.
pub(super) fn openssl_name(suite: SupportedCipherSuite) -> &'static str {
    use rustls::CipherSuite as C;
    match suite.suite() {
        C::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        C::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        C::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        C::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        C::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        C::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        C::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        C::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        C::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "",
    }
}

/// Whether a word of a list covers the suite: its name, or properties with `+` between them.
fn covers(word: &str, suite: &str) -> bool {
    word == suite
        || word.split('+').all(|property| match property {
            "ALL" | "HIGH" | "DEFAULT" | "ECDHE" | "EECDH" | "kECDHE" | "kEECDH" | "TLSv1.2" | "AEAD" => true,
            "AES" => suite.contains("AES"),
            "AES128" => suite.contains("AES128"),
            "AES256" => suite.contains("AES256"),
            "AESGCM" => suite.contains("-GCM-"),
            "CHACHA20" => suite.contains("CHACHA20"),
            "ECDSA" | "aECDSA" => suite.contains("ECDSA"),
            "RSA" | "aRSA" => suite.contains("-RSA-"),
            "SHA256" => suite.ends_with("SHA256"),
            "SHA384" => suite.ends_with("SHA384"),
            _ => false,
        })
}

/// The provider with its TLS 1.2 suites cut down to a list, in its order.
pub(super) fn provider_with(list: &str) -> Arc<CryptoProvider> {
    let all = provider();
    let (mut tls13, old): (Vec<_>, Vec<_>) = all.cipher_suites.iter().copied().partition(|s| s.tls13().is_some());
    let (mut chosen, mut banned): (Vec<SupportedCipherSuite>, Vec<SupportedCipherSuite>) = (Vec::new(), Vec::new());
    for word in list.split([':', ' ', ',', ';']).filter(|w| !w.is_empty()) {
        let of = |word: &str| old.iter().filter(|s| covers(word, openssl_name(**s))).copied().collect::<Vec<_>>();
        if let Some(word) = word.strip_prefix('!') {
            banned.extend(of(word));
        } else if let Some(word) = word.strip_prefix('-') {
            let away = of(word);
            chosen.retain(|s| !away.contains(s));
        } else if let Some(word) = word.strip_prefix('+') {
            // to the end of the list
            let last = of(word);
            chosen.sort_by_key(|s| last.contains(s));
        } else {
            for suite in of(word) {
                if !chosen.contains(&suite) {
                    chosen.push(suite);
                }
            }
        }
    }
    tls13.extend(chosen.into_iter().filter(|s| !banned.contains(s)));
    Arc::new(CryptoProvider { cipher_suites: tls13, ..(*all).clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls12(list: &str) -> Vec<&'static str> {
        let provider = provider_with(list);
        assert_eq!(provider.cipher_suites.iter().filter(|s| s.tls13().is_some()).count(), 3, "{list}");
        provider.cipher_suites.iter().filter(|s| s.tls13().is_none()).map(|s| openssl_name(*s)).collect()
    }

    #[test]
    fn names_are_taken_in_their_order_and_unknown_ones_passed_over() {
        let list = "ECDHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES128-GCM-SHA256:AES256-SHA:ECDHE-ECDSA-AES256-GCM-SHA384";
        assert_eq!(tls12(list), ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"]);
        assert_eq!(tls12("ECDHE-RSA-AES128-SHA"), [""; 0]);
    }

    #[test]
    fn words_for_groups() {
        assert_eq!(tls12("HIGH:!aNULL:!MD5").len(), 6);
        assert_eq!(tls12("EECDH+AESGCM:EDH+AESGCM").len(), 4);
        assert_eq!(tls12("ECDHE+ECDSA+AES256").concat(), "ECDHE-ECDSA-AES256-GCM-SHA384");
        assert_eq!(tls12("DEFAULT:!AES:!ECDSA:@SECLEVEL=1").concat(), "ECDHE-RSA-CHACHA20-POLY1305");
        assert_eq!(tls12("ALL:+AES:-RSA").first(), Some(&"ECDHE-ECDSA-CHACHA20-POLY1305"));
    }
}
