//! The document against the dispatcher, both ways.
use super::*;
use crate::message::testing::request;
use crate::testing::{open, send};
use crate::{AdminSettings, Handler};

fn paths() -> Map<String, Value> {
    document(&Registry::new(&[]).unwrap())["paths"].as_object().unwrap().clone()
}

/// Every path of the document is known to the dispatcher, with its method.
#[tokio::test]
async fn what_is_described_is_there() {
    let settings =
        |api_driven| AdminSettings { api_driven, stream: true, key_required: false, ..AdminSettings::default() };
    for (path, methods) in &paths() {
        for method in methods.as_object().unwrap().keys() {
            let it = crate::testing::fixture(settings(path == "/configs"));
            let filled = path
                .replace("{kind}", "route")
                .replace("{resource}", "routes")
                .replace("{manager}", "vault")
                .replace("{revision}", "0");
            let filled = filled.replace("{from}..{to}", "0..0").replace(['{', '}'], "");
            let asked = request(&method.to_uppercase(), &format!("/apisix/admin{filled}"), "");
            let reply = it.admin.answer(asked).await;
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            let unknown = ["Unsupported resource type", "not supported", "please use", "not found\"", "<html>"];
            let fine = reply.status != 405 && (reply.status != 404 || !unknown.iter().any(|word| text.contains(word)));
            assert!(
                fine || text.contains("plugin not found") || text.contains(" not found\"}"),
                "{method} {filled}: {} {text}",
                reply.status
            );
        }
    }
}

/// Every method that the dispatcher takes for a kind is described.
#[tokio::test]
async fn what_is_there_is_described() {
    let it = crate::testing::fixture(AdminSettings { stream: true, key_required: false, ..AdminSettings::default() });
    let paths = paths();
    for kind in Kind::ALL {
        let parent = kind.parent().map(|parent| format!("{}/{{parent}}/", parent.dir())).unwrap_or_default();
        let manager = if kind == Kind::Secret { "{manager}/" } else { "" };
        let path = format!("/{parent}{}/{manager}{{id}}", kind.dir());
        for method in ["GET", "PUT", "PATCH", "DELETE"] {
            let target = format!("/apisix/admin{}", path.replace(['{', '}'], ""));
            let taken = it.admin.answer(request(method, &target, "{}")).await.status != 405;
            let described = paths.get(&path).is_some_and(|item| item.get(method.to_lowercase()).is_some());
            assert_eq!(taken, described, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn references_lead_somewhere() {
    let (status, document) = send(&open(), request("GET", "/apisix/admin/openapi.json", "")).await;
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    let text = document.to_string();
    for part in text.split("\"#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
    }
    assert_eq!(document["components"]["schemas"]["route"]["type"], "object");
}
