//! AWS Signature Version 4 of a request ("Signing AWS API requests" of the IAM user guide). The surprise: header names must
//! come in small letters and sorted, and a path or query already encoded.

use aws_lc_rs::{digest, hmac};
use std::fmt::Write;

/// Who signs.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    pub access_key_id: &'a str,
    pub secret_access_key: &'a str,
}

/// What is signed.
#[derive(Clone, Copy)]
pub struct Signable<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    /// Sorted by name; all of them are signed. `host` and `x-amz-date` must be among them.
    pub headers: &'a [(&'a str, &'a str)],
    pub payload: &'a [u8],
}

/// The value of `Authorization`. `timestamp` as in `x-amz-date`: `20150830T123600Z`.
pub fn sign(
    request: &Signable<'_>,
    credentials: Credentials<'_>,
    region: &str,
    service: &str,
    timestamp: &str,
) -> String {
    let names: Vec<&str> = request.headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let mut canonical = format!("{}\n{}\n{}\n", request.method, request.path, request.query);
    for (name, value) in request.headers {
        let value: Vec<&str> = value.split_ascii_whitespace().collect();
        let _ = writeln!(canonical, "{name}:{}", value.join(" "));
    }
    let _ = write!(canonical, "\n{names}\n{}", hash(request.payload));
    let date = timestamp.get(..8).unwrap_or(timestamp);
    let scope = format!("{date}/{region}/{service}/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{timestamp}\n{scope}\n{}", hash(canonical.as_bytes()));
    let mut key = format!("AWS4{}", credentials.secret_access_key).into_bytes();
    for part in [date, region, service, "aws4_request"] {
        key = mac(&key, part).as_ref().to_vec();
    }
    let signature = hex(mac(&key, &text).as_ref());
    let id = credentials.access_key_id;
    format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}")
}

fn mac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn hash(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: Credentials<'_> =
        Credentials { access_key_id: "AKIDEXAMPLE", secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY" };

    fn signature(service: &str, query: &str, method: &str, headers: &[(&str, &str)]) -> String {
        let request = Signable { method, path: "/", query, headers, payload: b"" };
        let value = sign(&request, CREDENTIALS, "us-east-1", service, "20150830T123600Z");
        value.rsplit_once("Signature=").unwrap().1.to_owned()
    }

    /// The example of AWS's documentation ("Examples of the complete Signature Version 4 signing process", ListUsers) and
    /// two of its test suite (`get-vanilla`, `post-vanilla`).
    #[test]
    fn signatures_are_those_that_aws_published() {
        let headers = [
            ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
            ("host", "iam.amazonaws.com"),
            ("x-amz-date", "20150830T123600Z"),
        ];
        assert_eq!(
            signature("iam", "Action=ListUsers&Version=2010-05-08", "GET", &headers),
            "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
        );
        let headers = [("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")];
        assert_eq!(
            signature("service", "", "GET", &headers),
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
        assert_eq!(
            signature("service", "", "POST", &headers),
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
        );
        let request = Signable { method: "GET", path: "/", query: "", headers: &headers, payload: b"" };
        assert!(sign(&request, CREDENTIALS, "us-east-1", "service", "20150830T123600Z").starts_with(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, "
        ));
    }
}
