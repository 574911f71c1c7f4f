//! Tests of the API by area; each runs a function in the access phase of a fake request.
use crate::host::{Fields, Refusal};
use crate::*;
use serde_json::{Value as Json, json};
use sluice_expr::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A request made of maps.
#[derive(Default)]
struct Fake {
    vars: BTreeMap<String, Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    answer: Vec<(String, Vec<u8>)>,
    body: Option<Vec<u8>>,
    state: State,
}

fn edit(list: &mut Vec<(String, Vec<u8>)>, name: &str, values: &[Vec<u8>], append: bool) {
    let name = name.to_lowercase();
    if !append {
        list.retain(|(n, _)| *n != name);
    }
    list.extend(values.iter().map(|v| (name.clone(), v.clone())));
}

fn of(list: &[(String, Vec<u8>)], name: &str) -> Vec<Vec<u8>> {
    list.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone()).collect()
}

impl Host for Fake {
    fn variable(&mut self, name: &str) -> Option<Value<'_>> {
        self.vars.get(name).map(|v| Value::bytes(v))
    }
    fn set_variable(&mut self, name: &str, value: Option<&[u8]>) -> Result<(), Refusal> {
        match value {
            Some(value) => self.vars.insert(name.into(), value.into()),
            None => self.vars.remove(name),
        };
        Ok(())
    }
    fn fact(&self, name: &str) -> Json {
        if name == "matched_route" { json!({"value": {"labels": {"zone": "a"}}}) } else { Json::Null }
    }
    fn request_headers(&self) -> Fields {
        self.headers.iter().map(|(n, v)| (n.clone().into_bytes(), v.clone())).collect()
    }
    fn request_header(&self, name: &str) -> Vec<Vec<u8>> {
        of(&self.headers, name)
    }
    fn set_request_header(&mut self, name: &str, values: &[Vec<u8>], append: bool) -> Result<(), Refusal> {
        edit(&mut self.headers, name, values, append);
        Ok(())
    }
    fn response_header(&self, name: &str) -> Vec<Vec<u8>> {
        of(&self.answer, name)
    }
    fn set_response_header(&mut self, name: &str, values: &[Vec<u8>], append: bool) -> Result<(), Refusal> {
        edit(&mut self.answer, name, values, append);
        Ok(())
    }
    fn set_query(&mut self, query: &[u8]) -> Result<(), Refusal> {
        self.vars.insert("args".into(), query.into());
        Ok(())
    }
    fn request_body(&self) -> Option<&[u8]> {
        self.body.as_deref()
    }
    fn state(&mut self) -> Option<&mut State> {
        Some(&mut self.state)
    }
}

fn engine() -> Arc<Engine> {
    Arc::new(Engine::default())
}

fn script(engine: &Arc<Engine>, source: &str, config: &Json) -> Arc<Script> {
    Script::new(engine.clone(), Form::Functions, "routes/1", "test", &[source.to_owned()], config)
}

/// What `body` prints, as a function in the access phase; its error where it breaks off.
fn says(body: &str) -> String {
    let mut host = Fake::default();
    host.vars.insert("uri".into(), b"/a".to_vec());
    host.vars.insert("args".into(), b"x=1&y=%20z&x=2&flag".to_vec());
    host.headers.push(("x-one".into(), b"1".to_vec()));
    host.body = Some(b"{\"a\":[1,2]}".to_vec());
    says_on(&mut host, body)
}

fn says_on(host: &mut Fake, body: &str) -> String {
    let script = script(&engine(), &format!("return function(conf, ctx) {body} end"), &json!({"phase": "access"}));
    match execute(&script, Phase::Access, host, None) {
        Outcome::Exit { body: Some(body), .. } | Outcome::Begun { body, .. } => String::from_utf8(body).unwrap(),
        Outcome::Exit { status, body: None } => format!("status {status}"),
        Outcome::Failed(error) => format!("error: {error}"),
        Outcome::Next => "next".into(),
        Outcome::Wait(_) => "wait".into(),
    }
}

#[test]
fn output_status_and_exit() {
    assert_eq!(says("ngx.print('a', 1, {'b', {true}}, nil)"), "a1btruenil");
    assert_eq!(says("ngx.say('a') ngx.exit(201) ngx.say('never')"), "a\n");
    assert_eq!(says("ngx.exit(403)"), "status 403");
    assert_eq!(says("ngx.exit(ngx.OK)"), "next");
    assert_eq!(says("pcall(ngx.exit, 404) ngx.say('never')"), "status 404");
    assert_eq!(says("return 503"), "status 503");
    assert_eq!(says("return 200, {b = 1}"), "{\"b\":1}\n");
    assert_eq!(says("require('apisix.core').response.exit(400, 'no')"), "no");
    assert_eq!(says("ngx.redirect('/x')"), "status 302");
    assert!(says("local a = nil; a.b = 1").starts_with("error: [string \"return function"), "a runtime error");
}

#[test]
fn the_status_of_an_answer() {
    let mut host = Fake::default();
    let script = script(&engine(), "return function() ngx.status = 418 ngx.say('x') end", &json!({}));
    let outcome = execute(&script, Phase::Access, &mut host, None);
    assert!(matches!(outcome, Outcome::Begun { status: 418, .. }), "{outcome:?}");
}

#[test]
fn request_and_variables() {
    assert_eq!(says("ngx.print(ngx.var.uri, ctx.var.uri, ngx.ctx.api_ctx.var.uri, ctx.var.none)"), "/a/a/anil");
    assert_eq!(
        says("ctx.var.mine = 'x' ctx.var.t = {1} ctx.var.n = 5 ngx.print(ngx.var.mine, #ctx.var.t, ctx.var.n + 1)"),
        "x16"
    );
    assert_eq!(says("local a = ngx.req.get_uri_args() ngx.print(a.x[2], a.y, a.flag)"), "2 ztrue");
    assert_eq!(says("ngx.req.set_uri_args({k = 'ä b'}) ngx.print(ngx.var.args)"), "k=%C3%A4%20b");
    assert_eq!(
        says(
            "ngx.req.set_header('X-Two', {'a', 'b'}) local h = ngx.req.get_headers() ngx.print(h.x_one, h['X-Two'][2])"
        ),
        "1b"
    );
    assert_eq!(
        says(
            "local c = require('apisix.core') c.request.set_header(ctx, 'A', 'b') ngx.print(c.request.header(ctx, 'a'))"
        ),
        "b"
    );
    assert_eq!(says("ngx.req.read_body() ngx.print(ngx.req.get_body_data())"), "{\"a\":[1,2]}");
    assert_eq!(says("ngx.print(conf.phase, ctx.matched_route.value.labels.zone)"), "accessa");
    assert_eq!(
        says("ngx.header['X-A'] = 'b' ngx.header.x_c = {'d', 'e'} ngx.print(ngx.header.x_a, ngx.header['X-C'][2])"),
        "be"
    );
    assert_eq!(says("ngx.print(ngx.get_phase(), ngx.req.get_method())"), "accessnil");
}

#[test]
fn registered_variables_are_seen_by_everybody() {
    let mut host = Fake::default();
    let body = "require('apisix.core').ctx.register_var('zone_of', function(ctx) return ctx.matched_route.value.labels.zone end)
        ngx.print(ctx.var.zone_of)";
    assert_eq!(says_on(&mut host, body), "a");
    assert_eq!(host.vars.get("zone_of").map(Vec::as_slice), Some(b"a".as_slice()));
}

#[test]
fn json_is_cjsons() {
    assert_eq!(
        says("local j = require('cjson') ngx.print(j.encode({a = {1, 2.5, j.null, '/\\n'}}))"),
        "{\"a\":[1,2.5,null,\"\\/\\n\"]}"
    );
    assert_eq!(
        says("local j = require('cjson.safe') ngx.print(j.encode({}), j.encode(j.decode('[]')), j.encode(1e20))"),
        "{}[]1e+20"
    );
    assert_eq!(
        says("ngx.print(require('cjson.safe').decode('{'))"),
        "nilExpected value but found T_END at character 2"
    );
    assert_eq!(
        says("ngx.print(pcall(require('cjson').decode, 'x'))").split("found").next(),
        Some("falseExpected value but ")
    );
    assert_eq!(
        says("ngx.print(tostring(require('apisix.core').json.delay_encode({f = print}, true)):sub(1, 14))"),
        "{\"f\":\"function"
    );
    assert_eq!(says("ngx.print(require('apisix.core').json.stably_encode({b = 1, a = {2}}))"), "{\"a\":[2],\"b\":1}");
}

#[test]
fn encodings_and_digests() {
    assert_eq!(
        says("ngx.print(ngx.encode_base64('a?>'), ngx.decode_base64('YT8+'), tostring(ngx.decode_base64('*')))"),
        "YT8+a?>nil"
    );
    assert_eq!(says("ngx.print(ngx.escape_uri('a b/ä'), ngx.unescape_uri('a+b%2f%zz'))"), "a%20b%2F%C3%A4a b/%zz");
    assert_eq!(says("ngx.print(ngx.md5('hello'))"), "5d41402abc4b2a76b9719d911017c592");
    assert_eq!(
        says(
            "local s = require('resty.string') ngx.print(s.to_hex(ngx.sha1_bin('a')), ' ', s.to_hex(ngx.hmac_sha1('k', 'a')):sub(1, 6))"
        ),
        "86f7e437faa5a7fce15d1ddcb9eaeaea377667b8 40e7d4"
    );
    assert_eq!(says("ngx.print(ngx.crc32_short('hello'))"), "907060870");
    assert_eq!(says("local h = require('resty.sha256'):new() h:update('a') ngx.print(#h:final())"), "32");
    assert_eq!(says("ngx.print(ngx.encode_args({a = {1, 2}}))"), "a=1&a=2");
}

#[test]
fn regular_expressions() {
    assert_eq!(
        says("local m = ngx.re.match('ab12', [[([a-z]+)(?<n>\\d+)(x)?]], 'jo') ngx.print(m[0], m[1], m.n, m[3])"),
        "ab12ab12false"
    );
    assert_eq!(says("ngx.print(ngx.re.find('ab12', [[\\d+]]))"), "34");
    assert_eq!(says("ngx.print(ngx.re.gsub('a1b2', [[(\\d)]], '<$1>'))"), "a<1>b<2>2nil");
    assert_eq!(says("ngx.print(ngx.re.sub('a1b2', [[\\d]], function(m) return '[' .. m[0] .. ']' end))"), "a[1]b21");
    assert_eq!(says("for m in ngx.re.gmatch('a1b22', [[\\d+]]) do ngx.print(m[0], ';') end"), "1;22;");
    assert_eq!(says("ngx.print(table.concat(require('ngx.re').split('a,b,c', ','), '|'))"), "a|b|c");
    assert_eq!(says("ngx.print(select(2, ngx.re.match('a', '(')) ~= nil)"), "true");
}

#[test]
fn time() {
    assert_eq!(
        says("ngx.print(ngx.http_time(0), ngx.parse_http_time('Thu, 01 Jan 1970 00:01:00 GMT'))"),
        "Thu, 01 Jan 1970 00:00:00 GMT60"
    );
    assert_eq!(says("ngx.print(ngx.cookie_time(0))"), "Thu, 01-Jan-70 00:00:00 GMT");
    assert_eq!(says("ngx.print(ngx.parse_http_time('Tue, 29 Feb 2000 12:00:00 GMT'))"), "951825600");
    assert_eq!(says("ngx.print(ngx.now() >= ngx.time(), #ngx.today(), os.time() > 0)"), "true10true");
}

#[test]
fn shared_dictionaries() {
    let body = "local d = ngx.shared.x d:set('a', 1) d:incr('a', 2) d:add('a', 9)
        ngx.print(d:get('a'), ' ', d:incr('n', 1, 5), ' ', select(2, d:incr('none', 1)), ' ', tostring(d:get('b')))";
    assert_eq!(says(body), "3 6 not found nil");
}

#[test]
fn libraries_of_core() {
    let core = "local core = require('apisix.core') ";
    assert_eq!(
        says(&format!(
            "{core} ngx.print(core.table.deepcopy({{a = {{1}}}}).a[1], core.table.array_find({{'x', 'y'}}, 'y'))"
        )),
        "12"
    );
    assert_eq!(
        says(&format!(
            "{core} ngx.print(core.string.has_prefix('abc', 'ab'), core.string.find('a.c', '.'), core.string.rfind_char('a/b/c', '/'))"
        )),
        "true24"
    );
    assert_eq!(says(&format!("{core} ngx.print(core.utils.resolve_var('$uri-${{none ?? d}}', ctx.var))")), "/a-dnil1");
    assert_eq!(
        says(&format!(
            "{core} local c = core.lrucache.new({{ttl = 9}}) local n = 0 local f = function() n = n + 1 return n end c('k', 1, f) ngx.print(c('k', 1, f), c('k', 2, f))"
        )),
        "12"
    );
}

#[test]
fn nothing_dangerous_is_there() {
    for gone in
        ["io", "ffi", "os.execute", "os.remove", "os.exit", "dofile", "loadfile", "string.dump", "package.loadlib"]
    {
        assert_eq!(says(&format!("ngx.print(tostring({gone}))")), "nil", "{gone}");
    }
    assert_eq!(
        says("ngx.print(os.getenv('PATH'), loadstring('\\27LJ'))"),
        "nilnilattempt to load chunk with wrong mode"
    );
    assert_eq!(
        says("ngx.print(pcall(require, 'ffi'))").split_once("false").map(|p| p.1.contains("not found")),
        Some(true)
    );
    assert_eq!(says("ngx.print(tostring(debug.sethook), tostring(debug.getregistry), load('return 1')())"), "nilnil1");
}

#[test]
fn endless_scripts_end() {
    let limits = Limits { instructions: 100_000, ..Limits::default() };
    let engine = Arc::new(Engine::new(limits));
    for body in ["while true do end", "while true do pcall(function() while true do end end) end"] {
        let script = script(&engine, &format!("return function() {body} end"), &json!({}));
        match execute(&script, Phase::Access, &mut Fake::default(), None) {
            Outcome::Failed(error) => assert!(error.0.contains("instruction limit of 100000 reached"), "{error}"),
            other => panic!("{other:?}"),
        }
    }
    let after = script(&engine, "return function() ngx.print('well') end", &json!({}));
    assert!(matches!(execute(&after, Phase::Access, &mut Fake::default(), None), Outcome::Begun { .. }));
}

#[test]
fn memory_is_bounded() {
    let engine = Arc::new(Engine::new(Limits { memory: 8 << 20, ..Limits::default() }));
    let hungry = script(
        &engine,
        "return function() local t = {} for i = 1, 1e6 do t[i] = ('x'):rep(1000) .. i end end",
        &json!({}),
    );
    match execute(&hungry, Phase::Access, &mut Fake::default(), None) {
        Outcome::Failed(error) => assert!(error.0.contains("not enough memory"), "{error}"),
        other => panic!("{other:?}"),
    }
    let after = script(&engine, "return function() ngx.print('well') end", &json!({}));
    assert!(matches!(execute(&after, Phase::Access, &mut Fake::default(), None), Outcome::Begun { .. }));
}

#[test]
fn upvalues_live_with_the_script_and_ctx_with_the_request() {
    let engine = engine();
    let source =
        "local n = 0; return function(_, ctx) n = n + 1; ctx.seen = (ctx.seen or 0) + 1; ngx.print(n, ctx.seen) end";
    let count = |script: &Arc<Script>, host: &mut Fake| match execute(script, Phase::Access, host, None) {
        Outcome::Begun { body, .. } => String::from_utf8(body).unwrap(),
        other => panic!("{other:?}"),
    };
    let first = script(&engine, source, &json!({}));
    let mut host = Fake::default();
    assert_eq!(count(&first, &mut host), "11");
    assert_eq!(count(&first, &mut host), "22");
    let unchanged = script(&engine, source, &json!({}));
    assert_eq!(count(&unchanged, &mut Fake::default()), "31");
    let changed = script(&engine, source, &json!({"a": 1}));
    assert_eq!(count(&changed, &mut Fake::default()), "11");
}

#[test]
fn a_script_can_sleep() {
    let source = "return function(_, ctx) ctx.before = 1; ngx.sleep(0.25); ngx.print('after ', ctx.before) end";
    let script = script(&engine(), source, &json!({}));
    let mut host = Fake::default();
    let paused = match execute(&script, Phase::Access, &mut host, None) {
        Outcome::Wait(paused) => paused,
        other => panic!("{other:?}"),
    };
    assert!((paused.seconds - 0.25).abs() < 1e-9);
    assert!(matches!(paused.resume(&mut host), Outcome::Begun { status: 200, body } if body == b"after 1"));
}

#[test]
fn bodies_are_filtered() {
    let script = script(
        &engine(),
        "return function() if ngx.arg[2] then ngx.arg[1] = ngx.arg[1]:upper() .. '!' end end",
        &json!({}),
    );
    let mut host = Fake::default();
    for (piece, last, expected) in [("ab", false, "ab"), ("c", true, "C!")] {
        let mut body = Body { data: piece.into(), last };
        let outcome = execute(&script, Phase::BodyFilter, &mut host, Some(&mut body));
        assert!(matches!(outcome, Outcome::Next), "{outcome:?}");
        assert_eq!(body, Body { data: expected.into(), last });
    }
}

#[test]
fn objects_and_predicates() {
    let engine = engine();
    let source = "local M = {} function M.access(ctx) ctx.n = 1 ngx.header.a = 'b' end function M.log(ctx) assert(ctx.n == 1) end return M";
    let object = Script::new(engine.clone(), Form::Object, "routes/1", "script", &[source.into()], &json!({}));
    let mut host = Fake::default();
    for phase in [Phase::Access, Phase::HeaderFilter, Phase::Log] {
        assert!(matches!(execute(&object, phase, &mut host, None), Outcome::Next), "{phase:?}");
    }
    assert_eq!(of(&host.answer, "a"), [b"b".to_vec()]);
    let source = "function(vars) return vars.uri == '/a' end";
    let predicate = Script::new(engine, Form::Predicate, "routes/1", "filter_func", &[source.into()], &json!({}));
    host.vars.insert("uri".into(), b"/a".to_vec());
    assert!(evaluate(&predicate, &mut host));
    host.vars.insert("uri".into(), b"/b".to_vec());
    assert!(!evaluate(&predicate, &mut host));
}

#[test]
fn checks_speak_as_apisix_does() {
    let engine = engine();
    let says = |form, source: &str| check(&engine, form, source).map_err(|e| e.0);
    assert_eq!(says(Form::Functions, "return function() end"), Ok(()));
    assert_eq!(
        says(Form::Functions, "a"),
        Err("failed to loadstring: [string \"a\"]:1: '=' expected near '<eof>'".into())
    );
    assert_eq!(
        says(Form::Functions, "local a = 123;"),
        Err("only accept Lua function, the input code type is nil".into())
    );
    assert_eq!(says(Form::Functions, "error('x', 0)"), Err("pcall error: x".into()));
    assert_eq!(says(Form::Predicate, "function(vars) return true end"), Ok(()));
    let wrong = says(Form::Predicate, "function(vars) ").unwrap_err();
    assert!(
        wrong.starts_with("failed to load 'filter_func' string: [string \"return function(vars) \"]:1:"),
        "{wrong}"
    );
    assert_eq!(says(Form::Object, "return {}"), Ok(()));
    assert_eq!(says(Form::Object, "local a"), Err("'script' should be a Lua object".into()));
}

#[test]
fn a_body_too_large_for_a_template_takes_nothing_from_scripts() {
    let engine = Arc::new(Engine::new(Limits { memory: 8 << 20, ..Limits::default() }));
    let counter = script(&engine, "local n = 0 return function() n = n + 1 ngx.print(n) end", &json!({}));
    let count = || match execute(&counter, Phase::Access, &mut Fake::default(), None) {
        Outcome::Begun { body, .. } => String::from_utf8(body).unwrap(),
        other => format!("{other:?}"),
    };
    assert_eq!(count(), "1");
    let text = "{% local t = {} for i = 1, 9 do t[i] = _body .. i end %}{*#t*}";
    let template = Script::new(engine.clone(), Form::Template, "routes/1", "test", &[text.into()], &Json::Null);
    let rendered = |size: usize| {
        let body = vec![b'x'; size];
        let input = Input { body: Some(&body), ..Input::default() };
        render(&template, Phase::Rewrite, &mut Fake::default(), input).map(|out| String::from_utf8(out).unwrap())
    };
    assert_eq!(rendered(1000), Ok("9".into()));
    for size in [2 << 20, 20 << 20] {
        let error = rendered(size).unwrap_err().to_string();
        assert_eq!(error, "template rendering: not enough memory: the limit is 8388608 bytes");
    }
    assert_eq!(rendered(1000), Ok("9".into()));
    assert_eq!(count(), "2");
}
