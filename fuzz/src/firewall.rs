//! SecLang: any text as rules, and any request against rules that use every transformation, operator and body processor. Whatever
//! comes, there is no panic, and a second look at the same request says the same.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use sluice_engine_waf::{Ruleset, Sources, Transaction, compile};

pub fn seclang(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lower = text.to_ascii_lowercase();
    // files of this machine are none of its business
    if ["include", "fromfile", "pmf", "ipmatchf"].iter().any(|word| lower.contains(word)) {
        return;
    }
    match compile(&text, &Sources::default()) {
        Ok(rules) => {
            look(&Arc::new(rules), b"/a?b=c", b"", b"x=1");
        }
        Err(errors) => assert!(errors.0.iter().all(|e| e.starts_with("directives:")), "{errors}"),
    }
}

const RULES: &str = r#"
SecRuleEngine On
SecRequestBodyAccess On
SecResponseBodyAccess On
SecRequestBodyJsonDepthLimit 8
SecArgumentsLimit 50
SecRule REQUEST_HEADERS:Content-Type "@contains json" "id:1,phase:1,nolog,pass,ctl:requestBodyProcessor=JSON"
SecRule REQUEST_HEADERS:Content-Type "@contains xml" "id:2,phase:1,nolog,pass,ctl:requestBodyProcessor=XML"
SecRule ARGS|REQUEST_HEADERS|XML:/*|XML://@* "@detectSQLi" "id:3,phase:2,pass,capture,multiMatch,t:utf8toUnicode,t:urlDecodeUni,t:removeNulls,logdata:'%{TX.0} %{MATCHED_VAR}'"
SecRule ARGS|REQUEST_COOKIES|REQUEST_FILENAME "@detectXSS" "id:4,phase:2,pass,t:htmlEntityDecode,t:jsDecode,t:cssDecode"
SecRule ARGS_NAMES|ARGS "@rx (?i)(sel)(ect)|\x{e2}[\x80-\x99]" "id:5,phase:2,pass,capture,t:sqlHexDecode,t:replaceComments,t:compressWhitespace,setvar:'tx.s=+%{TX.1}'"
SecRule ARGS "@pm union |00 01| script" "id:6,phase:2,pass,t:base64Decode,t:lowercase,t:normalizePathWin"
SecRule ARGS "!@validateByteRange 32-126" "id:7,phase:2,pass,t:cmdLine,t:escapeSeqDecode,t:removeComments,t:trim"
SecRule ARGS "@validateUrlEncoding" "id:8,phase:1,pass,t:hexDecode,t:base64DecodeExt,t:removeCommentsChar,t:normalizePath"
SecRule ARGS|FILES|FILES_NAMES|MULTIPART_PART_HEADERS "@validateUtf8Encoding" "id:9,phase:2,pass,t:urlDecode,t:uppercase,t:replaceNulls"
SecRule REQBODY_ERROR|MULTIPART_STRICT_ERROR|&ARGS|ARGS_COMBINED_SIZE|FILES_COMBINED_SIZE "@ge 1" "id:10,phase:2,pass"
SecRule REMOTE_ADDR "@ipMatch 10.0.0.0/8,::1" "id:11,phase:1,pass,chain"
SecRule MATCHED_VARS "@rx ." "setvar:!tx.s"
SecRule ARGS "@verifyCC \d{13,16}" "id:12,phase:2,pass,t:removeWhitespace,t:length,t:md5,t:sha1,t:hexEncode"
SecRule ARGS:/^a/|!ARGS:ab "@within one two %{ARGS.b}" "id:13,phase:2,pass,t:none"
SecRule RESPONSE_BODY|RESPONSE_HEADERS "@contains a" "id:14,phase:4,pass"
SecRule TX:/^s/ "@gt 0" "id:15,phase:5,pass"
"#;

static COMPILED: LazyLock<Option<Arc<Ruleset>>> =
    LazyLock::new(|| compile(RULES, &Sources::default()).ok().map(Arc::new));

/// A target, a content type and a body, each from the others by a zero byte.
pub fn firewall(data: &[u8]) {
    let rules = COMPILED.as_ref().expect("the rules compile");
    let mut parts = data.splitn(3, |b| *b == 0);
    let mut next = || parts.next().unwrap_or_default();
    let (target, kind, body) = (next(), next(), next());
    let first = look(rules, target, kind, body);
    assert_eq!(first, look(rules, target, kind, body), "the same request, another verdict");
}

/// The rules that match, and what they say.
fn look(rules: &Arc<Ruleset>, target: &[u8], kind: &[u8], body: &[u8]) -> Vec<(u64, String, String)> {
    let mut transaction = Transaction::new(rules.clone());
    let address = IpAddr::from([10, 0, 0, 1]);
    transaction.connection(address, 1, address, 2);
    transaction.request_line(b"POST", target, b"HTTP/1.1");
    transaction.request_header(b"Content-Type", kind);
    transaction.request_header(b"Cookie", target);
    transaction.run(1);
    transaction.request_body(body, false);
    transaction.run(2);
    transaction.response_line(200, b"HTTP/1.1");
    transaction.response_header(b"Content-Type", b"text/plain");
    transaction.run(3);
    transaction.response_body(body, false);
    transaction.run(4);
    transaction.run(5);
    transaction.hits().iter().map(|hit| (hit.rule, hit.variable.clone(), hit.data.clone())).collect()
}
