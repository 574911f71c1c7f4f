//! Formats in, templates, what is refused, both directions.
use super::*;
use sluice_plugin::reply::ReplyBody;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Scope, define};

fn harness(config: Value) -> Harness {
    Harness::new(define::<BodyTransformer>(), config).unwrap()
}

fn request(config: Value, kind: &str, body: &str) -> Result<String, (u16, String)> {
    let plugin = harness(json!({"request": config}));
    let mut cx = Context::for_tests("POST", "/?who=anna");
    cx.request.headers.append("Content-Type", kind);
    cx.request_body = Some(body.into());
    match plugin.request(&mut cx) {
        None => Ok(String::from_utf8(cx.upstream.body.unwrap()).unwrap()),
        Some(reply) => match reply.body {
            ReplyBody::Bytes(text) => Err((reply.status, String::from_utf8(text).unwrap())),
            _ => Err((reply.status, String::new())),
        },
    }
}

fn rendered(template: &str, kind: &str, body: &str) -> String {
    request(json!({"template": template}), kind, body).unwrap()
}

const JSON: &str = "application/json";

#[test]
fn each_format_gives_the_template_its_fields() {
    let template = r#"{"foo":"{{name .. " world"}}","bar":{{age+10}}}"#;
    let expected = r#"{"foo":"hello world","bar":30}"#;
    assert_eq!(rendered(template, JSON, r#"{"name":"hello","age":20}"#), expected);
    assert_eq!(rendered(template, "Application/X-WWW-Form-Urlencoded", "name=hello&age=20"), expected);
    let parts = "--B\nContent-Disposition: form-data; name=\"name\"\n\nhello\n--B\r\nContent-Disposition: form-data; name=\"age\"\r\n\r\n20\r\n--B--";
    assert_eq!(rendered(template, "multipart/related; boundary=B", parts), expected);
    let xml = "<a:x xmlns:a='u'><a:name>hello</a:name><age>20</age></a:x>";
    assert_eq!(rendered(&template.replace("name", "x.name").replace("age", "x.age"), "text/xml", xml), expected);
    let mut cx = Context::for_tests("GET", "/?name=hello&age=20");
    assert_eq!(harness(json!({"request": {"template": template, "input_format": "json"}})).request(&mut cx), None);
    assert_eq!(cx.upstream.body.as_deref(), Some(expected.as_bytes()));
}

#[test]
fn a_body_of_no_known_format_is_plain() {
    assert_eq!(rendered("[{*_body*}]", "text/plain", "a<b"), "[a<b]");
    assert_eq!(rendered("[{{_body}}]", "", "a<b/"), "[a&lt;b&#47;]");
    let plain = json!({"input_format": "plain", "template": "{* string.gsub(_body, 'not ', '') *}"});
    assert_eq!(request(plain, JSON, "not json"), Ok("json".into()));
}

#[test]
fn the_language_of_templates() {
    let one = |template: &str| rendered(template, JSON, r#"{"list":[1,2],"o":{"x":"<y>"},"nil":null,"f":false}"#);
    for (template, expected) in [
        ("a{# no #}\nb", "ab"),
        ("{% for _, v in ipairs(list) do %}\n{{v}},\n{% end %}\nend", "1,\n2,\nend"),
        ("x  {% if o.x then %}y{% else %}z{% end %}", "xy"),
        ("{{o.x}}{*o.x*}{{missing}}{{context['nil']}}", "&lt;y&gt;<y>"),
        ("\\{{o.x}} \\\\{{1}}", "{{o.x}} \\1"),
        ("{-raw-}{{o.x}}{-raw-}!", "{{o.x}}!"),
        ("a {-raw-}\n x\n{-raw-}\nb", "a  x\nb"),
        ("\\\\{% local a = 2 %}{{a}}", "\\\\2"),
        ("\\{% x %}\\{# y #}", "{% x %}{# y #}"),
        ("{-part-}\n<{{1}}>\n{-part-}\n{*blocks.part*}", "<1>"),
        ("{(text {{1}})} {[ 'v={{v}}', {v = 2} ]}", "text 1 v=2"),
        ("{% layout = '[{*view*}]' %}in", "[in]"),
        ("{% echo('a', 1) %}", "a1"),
        ("{{function() return 'f' end}}", "f"),
        ("{% local t = require('resty.template') %}{*t.process('{{a}}', {a = 3})*}", "3"),
        ("{", "{"),
        ("{{", "{{"),
        ("{%", "{%"),
        ("{-x-} no end", "{-x-} no end"),
        ("]=] \"quotes\" \\ \u{e9}\r\n", "]=] \"quotes\" \\ \u{e9}\n"),
        ("a\r\rb\n\rc", "a\n\nb\nc"),
        ("{{_ctx.var.arg_who}}", "anna"),
        ("{*_escape_json('a\"b')*}", r#""a\"b""#),
        ("{*_escape_xml('<a & \\'b\\'>')*}", "&lt;a &amp; &apos;b&apos;&gt;"),
        ("{% x = 1 %}{{x}}", "1"),
        ("{{x}}", ""),
        ("{% local y = require('lyaml').load('a: [1, b]') %}{{y.a[2]}}", "b"),
    ] {
        assert_eq!(one(template), expected, "{template}");
    }
}

#[test]
fn a_body_cannot_hide_what_templates_are_given() {
    let body = r#"{"_escape_json":"x","_ctx":1,"name":"safe"}"#;
    assert_eq!(rendered("{*_escape_json(name)*}{{_ctx.var.arg_who}}", JSON, body), "\"safe\"anna");
}

#[test]
fn the_parsed_form_can_be_changed() {
    let template = "{% context._multipart:set_simple('status', 'minor') context._multipart:delete('gone') %}{*_multipart:tostring()*}";
    let body = "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--B\r\nContent-Disposition: form-data; name=\"gone\"\r\n\r\n2\r\n--B--\r\n";
    let expected = "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n\
        --B\r\nContent-Disposition: form-data; name=\"status\"\r\n\r\nminor\r\n--B--\r\n";
    assert_eq!(rendered(template, "multipart/form-data; boundary=\"B\"", body), expected);
    assert_eq!(rendered("{{foo}}", "multipart/form-data; boundary=B", "no parts here"), "");
}

#[test]
fn base64_templates() {
    let flagged = json!({"template_is_base64": true, "template": "Zm9vPXt7bmFtZX19"});
    assert_eq!(request(flagged, "application/x-www-form-urlencoded", "name=a"), Ok("foo=a".into()));
    assert_eq!(rendered("Zm9vPXt7bmFtZX19", JSON, r#"{"name":"a"}"#), "foo=a");
    assert_eq!(rendered("Zm9vPXt7bmFtZX19", "application/x-www-form-urlencoded", "name=a"), "Zm9vPXt7bmFtZX19");
}

#[test]
fn what_cannot_be_read_or_rendered_is_said() {
    let failed =
        |template: &str, kind: &str, body: &str| request(json!({"template": template}), kind, body).unwrap_err();
    let (status, text) = failed("x", "text/xml", r#"{"a":1}"#);
    assert_eq!((status, text.as_str()), (400, "{\"message\":\"request body decode: Error Parsing XML [char=1]\"}\n"));
    for body in ["{", "1", "null", &"[".repeat(400)] {
        assert_eq!(failed("x", JSON, body).0, 400, "{body}");
    }
    let (status, text) = failed("{{name()}}", JSON, r#"{"name":"x"}"#);
    assert_eq!(status, 503);
    assert!(
        text.contains("request template rendering: ")
            && text.contains("attempt to call global 'name' (a string value)"),
        "{text}"
    );
    let (status, text) = failed("{% if %}", JSON, "{}");
    assert!(status == 503 && text.contains("request template compile: "), "{text}");
    assert_eq!(failed("{% while true do end %}", JSON, "{}").0, 503);
    assert_eq!(rendered("{% function f() return 'x{{1}}' end %}{[ f() ]}{*_body*}", JSON, "{}"), "x1{}");
    let endless = "{% t = '{[ context.t ]}' context.t = t %}{[ t ]}";
    assert!(failed(endless, JSON, "{}").1.contains("too deeply"));
    let plugin = harness(json!({"request": {"template": "x"}, "max_req_body_size": 3}));
    let mut cx = Context::for_tests("POST", "/");
    cx.request_body = Some(b"1234".to_vec());
    assert_eq!(plugin.request(&mut cx), Some(Reply::status(413)));
}

fn response(config: Value, kind: &str, pieces: &[&[u8]]) -> (String, Context) {
    let plugin = harness(config);
    let mut cx = Context::for_tests("GET", "/");
    cx.response.status = 200;
    cx.response.headers.append("Content-Type", kind);
    cx.response.headers.append("Content-Length", "99");
    cx.response.headers.append("ETag", "\"1\"");
    assert_eq!(plugin.request(&mut cx), None);
    let body = plugin.response(&mut cx, pieces);
    (String::from_utf8(body).unwrap(), cx)
}

#[test]
fn responses_are_transformed_when_they_are_whole() {
    let config = || json!({"response": {"template": "{{_ctx.var.status}} {{a}}{{_body}}"}});
    let (body, cx) = response(config(), JSON, &[b"{\"a\"", b":1}"]);
    assert_eq!(body, "200 1{&quot;a&quot;:1}");
    assert!(!cx.response.headers.contains("content-length") && !cx.response.headers.contains("etag"));
    assert_eq!(response(config(), JSON, &[b"no json"]).0, "");
    let cut = json!({"response": {"template": "{*_body*}", "input_format": "plain"}, "max_resp_body_size": 4});
    assert_eq!(response(cut, "text/plain", &[b"123", b"456", b"789"]).0, "1234");
}

#[test]
fn the_schema_wants_a_direction_and_a_template() {
    let refused = |mut config: Value| check(define::<BodyTransformer>(), Scope::Route, &mut config).unwrap_err().0;
    assert!(refused(json!({})).contains("object matches none of the required"));
    assert!(refused(json!({"request": {}})).contains("property \"template\" is required"));
    assert!(
        refused(json!({"response": {"template": "x", "input_format": "yaml"}}))
            .contains("matches none of the enum values")
    );
}
