//! Logins at a fake provider whose answers each test bends: what must be refused is refused.
use super::super::OpenidConnect;
use super::super::tests::Provider;
use super::*;
use crate::testing::bare;
use sluice_http::target;
use sluice_plugin::testing::Harness;
use sluice_plugin::{Env, HttpRequest, HttpResponse, define};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

const NOW: u64 = 1_700_000_000;
/// Making keys takes long.
static PROVIDER: LazyLock<Provider> = LazyLock::new(Provider::new);

#[test]
fn a_login_leads_back_to_the_same_host() {
    for (target, expected) in [
        ("/a?b=c", "/a?b=c"),
        ("//evil.example/x", "/evil.example/x"),
        ("/\\evil.example", "/evil.example"),
        ("http://shop.test/a?b=//c", "/a?b=//c"),
        ("/a?u=http://x/y", "/a?u=http://x/y"),
        ("*", "/*"),
    ] {
        assert_eq!(original(target), expected, "{target}");
    }
    let long = format!("/a?{}", "b".repeat(3000));
    assert_eq!(original(&long), "/a");
    assert_eq!(original(&"/a".repeat(2000)), "/");
}

/// A gateway, its provider, and a browser with its cookies.
struct World {
    plugin: Harness,
    /// What the next answers are changed by: `header`, `claims`, `user`, `token`, `document`.
    bent: Arc<Mutex<Value>>,
    asked: Arc<Mutex<Vec<HttpRequest>>>,
    cookies: Vec<(String, String)>,
}

fn merge(into: &mut Value, more: &Value) {
    for (name, value) in more.as_object().into_iter().flatten() {
        match value {
            Value::Null => drop(into.as_object_mut().unwrap().remove(name)),
            value => into[name] = value.clone(),
        }
    }
}

impl World {
    fn new(more: Value) -> World {
        let mut config = json!({"client_id": "shop", "client_secret": "s", "discovery": "https://idp/meta", "redirect_uri": "/callback",
            "use_nonce": true, "session": {"secret": "0123456789abcdef"}});
        merge(&mut config, &more);
        let (bent, asked): (Arc<Mutex<Value>>, Arc<Mutex<Vec<HttpRequest>>>) =
            (Arc::new(Mutex::new(json!({}))), Arc::default());
        let (bending, noted, provider) = (bent.clone(), asked.clone(), &*PROVIDER);
        let env = Env::for_tests().with_http(move |request: &HttpRequest| {
            noted.lock().unwrap().push(request.clone());
            let bent = bending.lock().unwrap().clone();
            let mut body = match request.url.as_str() {
                "https://idp/meta" => json!({"issuer": "https://idp", "jwks_uri": "https://idp/keys", "token_endpoint": "https://idp/token",
                    "authorization_endpoint": "https://idp/auth", "userinfo_endpoint": "https://idp/me",
                    "id_token_signing_alg_values_supported": ["RS256", "HS256", "ES256K"]}),
                "https://idp/keys" => provider.keys(),
                "https://idp/me" => json!({"sub": "anna", "email": "anna@shop.test"}),
                _ => {
                    let (mut header, mut claims) = (
                        json!({"alg": "RS256", "kid": "r"}),
                        json!({"iss": "https://idp", "sub": "anna", "aud": "shop", "iat": NOW, "exp": NOW + 1000, "scope": "read"}),
                    );
                    claims["nonce"] = bent["nonce"].clone();
                    merge(&mut header, &bent["header"]);
                    merge(&mut claims, &bent["claims"]);
                    json!({"access_token": "at", "refresh_token": "rt", "expires_in": 100, "id_token": provider.token(header, &claims)})
                }
            };
            match request.url.as_str() {
                "https://idp/me" => merge(&mut body, &bent["user"]),
                "https://idp/meta" => merge(&mut body, &bent["document"]),
                "https://idp/token" => merge(&mut body, &bent["token"]),
                _ => {}
            }
            Ok(HttpResponse { status: 200, headers: Vec::new(), body: body.to_string().into() })
        });
        let plugin = Harness::with_env(define::<OpenidConnect>(), config, env).unwrap();
        World { plugin, bent, asked, cookies: Vec::new() }
    }

    fn bend(&self, more: Value) {
        merge(&mut self.bent.lock().unwrap(), &more);
    }

    fn send(&mut self, method: &str, target: &str) -> (Option<Reply>, Context) {
        let cookies: Vec<String> = self.cookies.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let mut cx = bare(method, target, &[("Cookie", &cookies.join("; ")), ("X-Userinfo", "forged")]);
        let reply = self.plugin.request(&mut cx);
        for (_, line) in cx.early_headers().filter(|(name, _)| *name == "Set-Cookie") {
            let line = String::from_utf8(line.to_vec()).unwrap();
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.retain(|(n, _)| n != name);
            if !value.is_empty() {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        (reply, cx)
    }

    fn get(&mut self, target: &str) -> (u16, String) {
        let (reply, _) = self.send("GET", target);
        let Some(reply) = reply else { return (200, String::new()) };
        let found =
            reply.headers.iter().find(|(name, _)| name == "Location").map(|(_, v)| v.clone()).unwrap_or_default();
        (reply.status, String::from_utf8(found).unwrap())
    }

    /// Asks for a page, and gives the state that the provider is to send back.
    fn begin(&mut self, target: &str) -> String {
        let (status, to) = self.get(target);
        assert!(status == 302 && to.starts_with("https://idp/auth?"), "{status} {to}");
        let value = |name: &str| {
            let query = target::split(to.as_bytes()).1.unwrap();
            let found = target::args(query).find(|(n, _)| n.as_ref() == name.as_bytes());
            found.map(|(_, v)| String::from_utf8(v.to_vec()).unwrap())
        };
        self.bend(json!({"nonce": value("nonce")}));
        value("state").unwrap()
    }

    fn log_in(&mut self, target: &str) -> (u16, String) {
        let state = self.begin(target);
        self.get(&format!("/callback?code=c&state={state}"))
    }
}

#[test]
fn a_login_is_refused_where_anything_in_it_is_not_as_it_must_be() {
    let good = (302, "/a?b=c".to_owned());
    assert_eq!(World::new(json!({})).log_in("/a?b=c"), good);
    let listed = json!({"document": {"id_token_signing_alg_values_supported": ["RS256"]}});
    for (config, bent) in [
        (json!({}), json!({"claims": {"nonce": "another"}})),
        (json!({}), json!({"claims": {"nonce": null}})),
        (json!({}), json!({"claims": {"iss": "https://evil"}})),
        (json!({}), json!({"claims": {"aud": "another"}})),
        (json!({}), json!({"claims": {"aud": null}})),
        (json!({}), json!({"claims": {"sub": null}})),
        (json!({}), json!({"claims": {"iat": NOW + 121}})),
        (json!({}), json!({"claims": {"iat": null}})),
        (json!({}), json!({"claims": {"exp": NOW - 121}})),
        (json!({}), json!({"claims": {"exp": null}})),
        (json!({}), json!({"token": {"id_token": null}})),
        (json!({}), json!({"token": {"id_token": "a.b.c"}})),
        (json!({}), json!({"header": {"alg": "none"}})),
        (json!({}), json!({"header": {"alg": "HS256"}})),
        (json!({}), json!({"header": {"kid": "unknown"}})),
        (json!({"accept_unsupported_alg": false}), json!({"header": {"alg": "ES256K"}})),
        (json!({}), json!({"header": {"alg": "ES256", "kid": "e"}})),
        (json!({}), {
            let mut both = listed.clone();
            both["header"] = json!({"alg": "ES256K"});
            both
        }),
    ] {
        let mut world = World::new(config);
        world.bend(bent.clone());
        assert_eq!(world.log_in("/a"), (500, String::new()), "{bent}");
        assert_eq!(world.get("/a").0, 302, "nobody is logged in: {bent}");
    }
    for (config, bent) in [
        (json!({}), json!({"claims": {"aud": ["x", "shop"]}})),
        (json!({"use_nonce": false}), json!({"claims": {"nonce": "whatever"}})),
        (json!({}), json!({"header": {"alg": "ES256K"}})),
        (json!({"accept_none_alg": true}), json!({"header": {"alg": "none"}})),
    ] {
        let mut world = World::new(config);
        world.bend(bent.clone());
        assert_eq!(world.log_in("/a").0, 302, "{bent}");
        assert_eq!(world.get("/a").0, 200, "{bent}");
    }
}

#[test]
fn the_state_belongs_to_the_browser_and_is_good_once() {
    let (mut anna, mut mallory) = (World::new(json!({})), World::new(json!({})));
    let theirs = mallory.begin("/a");
    // Without a session, then with a login under way that is not this one.
    assert_eq!(anna.get(&format!("/callback?code=c&state={theirs}")).0, 500);
    let first = anna.begin("/first?x=1");
    assert_eq!(anna.get(&format!("/callback?code=c&state={theirs}")), (302, "/first?x=1".into()));
    // Two tabs: each comes back to what it asked for, in any order.
    let second = anna.begin("/second");
    assert_eq!(anna.get(&format!("/callback?code=c&state={second}")), (302, "/second".into()));
    assert_eq!(anna.get("/x").0, 200);
    // Repeated, a callback leads to where it led before; who is logged in stays so.
    assert_eq!(anna.get(&format!("/callback?code=c&state={second}")), (302, "/second".into()));
    assert_eq!(anna.get("/second").0, 200);
    anna.bend(json!({"claims": {"nonce": null}}));
    assert_eq!(anna.get(&format!("/callback?code=c&state={first}")).0, 500);
    // The session is another one after the login; the issuer, where it is told, is the provider.
    let mut other = World::new(json!({}));
    let state = other.begin("/a");
    let before = other.cookies.clone();
    assert_eq!(other.get(&format!("/callback?code=c&state={state}&iss=https://evil")).0, 500);
    assert_eq!(other.get(&format!("/callback?code=c&state={state}&client_id=x")).0, 500);
    assert_eq!(other.get(&format!("/callback?code=c&state={state}&iss=https://idp")).0, 302);
    assert_ne!(other.cookies, before);
    let mut strict = World::new(json!({}));
    strict.bend(json!({"document": {"authorization_response_iss_parameter_supported": true}}));
    assert_eq!(strict.log_in("/a").0, 500);
}

#[test]
fn a_provider_without_an_answer_is_tried_three_times() {
    let mut world = World::new(json!({}));
    let state = world.begin("/a");
    let away = format!("/callback?error=temporarily_unavailable&state={state}");
    assert_eq!(world.get("/callback?error=access_denied&state=x").0, 500);
    assert_eq!(world.get("/callback?error=temporarily_unavailable&state=x").0, 500);
    assert_eq!(world.send("POST", &away).0.unwrap().status, 500);
    for _ in 0..3 {
        assert_eq!(world.get(&away), (302, "/a".into()));
    }
    assert_eq!(world.get(&away).0, 500);
    // Who gets in begins anew.
    assert_eq!(world.log_in("/b").0, 302);
    assert_eq!(world.get("/b").0, 200);
}

#[test]
fn logins_under_way_are_bounded() {
    let mut world = World::new(json!({"use_nonce": false}));
    let states: Vec<String> = (0..20).map(|i| world.begin(&format!("/{i}?{}", "x".repeat(2000)))).collect();
    let bytes: usize = world.cookies.iter().map(|(_, value)| value.len()).sum();
    assert!(bytes < 12_000, "{bytes}");
    assert_eq!(world.get(&format!("/callback?code=c&state={}", states[17])).1, "/17?".to_owned() + &"x".repeat(2000));
    // One that was given up for newer ones: the browser goes to what it asked for last.
    let mut world = World::new(json!({}));
    let first = world.begin("/first");
    (0..8).for_each(|i| drop(world.begin(&format!("/{i}"))));
    assert_eq!(world.get(&format!("/callback?code=c&state={first}")), (302, "/7".into()));
}

#[test]
fn the_upstream_is_told_who_it_is() {
    let told = |config: Value, bent: Value| {
        let mut world = World::new(config);
        world.bend(bent);
        assert_eq!(world.log_in("/a").0, 302);
        let (reply, cx) = world.send("GET", "/a");
        assert_eq!(reply, None);
        let text = |name: &str| cx.request.headers.get_str(name).map(str::to_owned);
        let json = |name: &str| {
            text(name).map(|v| serde_json::from_slice::<Value>(&BASE64_STANDARD.decode(v).unwrap()).unwrap())
        };
        (json("X-Userinfo"), json("X-ID-Token"), text("X-Access-Token"), text("X-Refresh-Token"), text("Authorization"))
    };
    let (user, id, access, refresh, _) = told(json!({}), json!({}));
    assert_eq!(user, Some(json!({"sub": "anna", "email": "anna@shop.test"})));
    assert_eq!((id.unwrap()["sub"].clone(), access, refresh), (json!("anna"), Some("at".into()), None));
    let off = json!({"set_userinfo_header": false, "set_id_token_header": false, "set_refresh_token_header": true,
        "access_token_in_authorization_header": true});
    assert_eq!(told(off, json!({})), (None, None, None, Some("rt".into()), Some("Bearer at".into())));
    // Only a part is kept where that is wanted; what another setting needs comes with it.
    let part = told(json!({"session_contents": {"user": true}, "set_refresh_token_header": true}), json!({}));
    assert!(part.0.is_some() && part.1.is_none() && part.2.is_none() && part.3.is_none(), "{part:?}");
    let needed = told(json!({"session_contents": {"id_token": true}, "required_scopes": ["read"]}), json!({}));
    assert!(needed.0.is_none() && needed.1.is_some() && needed.2.is_some(), "{needed:?}");
    // What the provider tells of somebody else is not told, nor what no field can carry.
    assert_eq!(told(json!({}), json!({"user": {"sub": "eve"}})).0, None);
    assert_eq!(told(json!({}), json!({"token": {"access_token": "a\r\nX-Evil: 1"}})).2, None);
}

#[test]
fn scopes_and_claims_of_who_is_logged_in_decide() {
    let status = |config: Value, bent: Value| {
        let mut world = World::new(config);
        world.bend(bent);
        assert_eq!(world.log_in("/a").0, 302);
        world.get("/a").0
    };
    assert_eq!(status(json!({"required_scopes": ["read"]}), json!({})), 200);
    assert_eq!(status(json!({"required_scopes": ["read", "write"]}), json!({})), 403);
    assert_eq!(status(json!({"required_scopes": ["read"]}), json!({"claims": {"scope": null}})), 403);
    let schema = |part: &str| json!({"claim_schema": {"type": "object", "required": [part]}});
    assert_eq!((status(schema("user"), json!({})), status(schema("another"), json!({}))), (200, 401));
}

#[test]
fn sessions_are_renewed_asked_about_again_and_ended() {
    let after = |config: Value, bent: Value, seconds: u64| {
        let mut world = World::new(config);
        assert_eq!(world.log_in("/a").0, 302);
        world.bend(bent);
        world.plugin.env.clock.advance(Duration::from_secs(seconds));
        let answer = world.get("/a");
        let sent: Vec<String> =
            world.asked.lock().unwrap().iter().map(|r| String::from_utf8_lossy(&r.body).into_owned()).collect();
        (
            answer.0,
            answer.1.contains("prompt=none"),
            sent.iter().filter(|b| b.contains("grant_type=refresh_token")).count(),
        )
    };
    assert_eq!(after(json!({}), json!({}), 98), (200, false, 0));
    assert_eq!(after(json!({}), json!({}), 99), (200, false, 1));
    assert_eq!(after(json!({"access_token_expires_leeway": 50}), json!({}), 49), (200, false, 1));
    let nothing = json!({"token": {"access_token": null}});
    assert_eq!(after(json!({}), nothing.clone(), 99), (302, false, 1));
    assert_eq!(
        after(json!({"unauth_action": "auth", "renew_access_token_on_expiry": false}), nothing, 99),
        (200, false, 0)
    );
    // Renewed tokens must be of the same person, and an ID token among them a good one.
    assert_eq!(after(json!({}), json!({"claims": {"sub": "eve"}}), 99).0, 302);
    assert_eq!(after(json!({}), json!({"claims": {"aud": "x"}}), 99).0, 302);
    assert_eq!(after(json!({"refresh_session_interval": 50}), json!({}), 50), (200, false, 0));
    assert_eq!(after(json!({"refresh_session_interval": 50}), json!({}), 51), (302, true, 0));
    assert_eq!(after(json!({"force_reauthorize": true}), json!({}), 0).0, 302);
    let short = json!({"session": {"secret": "0123456789abcdef", "cookie": {"lifetime": 60}}});
    assert_eq!((after(short.clone(), json!({}), 59).0, after(short, json!({}), 60).0), (200, 302));
}

#[test]
fn the_redirect_address_follows_the_request() {
    let to = |config: Value, target: &str, headers: &[(&str, &str)]| {
        let world = World::new(config);
        let mut cx = bare("GET", target, headers);
        let reply = world.plugin.request(&mut cx).unwrap();
        let location = reply.headers.iter().find(|(name, _)| name == "Location").map(|(_, v)| v.clone()).unwrap();
        let query = target::split(&location).1.unwrap().to_vec();
        let found = target::args(&query).find(|(name, _)| name.as_ref() == b"redirect_uri").unwrap().1.into_owned();
        String::from_utf8(found).unwrap()
    };
    let own = json!({"redirect_uri": null});
    assert_eq!(to(json!({}), "/a", &[]), "http://localhost/callback");
    assert_eq!(to(json!({"redirect_uri": "https://shop.test/back"}), "/a", &[]), "https://shop.test/back");
    assert_eq!(to(own.clone(), "/a/b?x", &[]), "http://localhost/a/b/.apisix/redirect");
    assert_eq!(to(own.clone(), "/", &[]), "http://localhost/.apisix/redirect");
    let forwarded = [("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "shop.test:8443, inner")];
    assert_eq!(to(own.clone(), "/a", &forwarded), "https://shop.test:8443/a/.apisix/redirect");
    let forwarded = [("Forwarded", "for=1;proto=https;host=\"a.test\", for=2")];
    assert_eq!(to(own, "/a", &forwarded), "https://a.test/a/.apisix/redirect");
}
