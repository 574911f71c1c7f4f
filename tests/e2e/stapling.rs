//! OCSP stapling with `openssl ocsp` as the responder, which comes late, goes away and comes back.

use crate::start::{all_to, gateway};
use serde_json::{Value, json};
use sluice_testkit::{Gateway, Upstream, Wire};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

fn openssl(folder: &Path, arguments: &str) {
    let out = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output();
    let out = out.expect("openssl; `cargo xtask test` installs it");
    assert!(out.status.success(), "openssl {arguments}:\n{}", String::from_utf8_lossy(&out.stderr));
}

/// An authority whose responder listens on a port, and what it has issued.
struct Issuer {
    folder: tempfile::TempDir,
    port: u16,
}

impl Issuer {
    fn new() -> Issuer {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let extensions = format!("authorityInfoAccess=OCSP;URI:http://127.0.0.1:{port}/\n");
        std::fs::write(folder.path().join("leaf.ext"), extensions).unwrap();
        std::fs::write(folder.path().join("signer.ext"), "extendedKeyUsage=OCSPSigning\n").unwrap();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(folder.path(), &format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=issuer -days 2"));
        let issuer = Issuer { folder, port };
        issuer.issue("signer", "signer.ext", 1);
        issuer
    }

    fn issue(&self, name: &str, extensions: &str, serial: u8) {
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(self.folder.path(), &format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        let by = "-CA ca.pem -CAkey ca.key -days 2";
        let of = format!("x509 -req -in {name}.csr -out {name}.pem -set_serial {serial} -extfile {extensions}");
        openssl(self.folder.path(), &format!("{of} {by}"));
    }

    fn text(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(file)).unwrap()
    }

    /// A certificate with its chain, as an ssl object.
    fn ssl(&self, name: &str, serial: u8, stapling: &Value) -> Value {
        self.issue(name, "leaf.ext", serial);
        let cert = self.text(&format!("{name}.pem")) + &self.text("ca.pem");
        json!({"id": name, "snis": [name], "cert": cert, "key": self.text(&format!("{name}.key")), "ocsp_stapling": stapling})
    }

    /// `index`: status (V, R) and serial number of what was issued. The responder's own certificate signs.
    fn respond(&self, index: &[(char, u8)]) -> Responder {
        let line = |(status, serial): &(char, u8)| {
            let revoked = if *status == 'R' { "260101000000Z" } else { "" };
            format!("{status}\t991231235959Z\t{revoked}\t{serial:02X}\tunknown\t/CN=x\n")
        };
        std::fs::write(self.folder.path().join("index.txt"), index.iter().map(line).collect::<String>()).unwrap();
        let port = self.port.to_string();
        let signer = ["-rsigner", "signer.pem", "-rkey", "signer.key", "-CA", "ca.pem", "-ndays", "1"];
        let mut command = Command::new("openssl");
        command.current_dir(self.folder.path()).args(["ocsp", "-index", "index.txt", "-port", &port]).args(signer);
        Responder(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

struct Responder(Child);

impl Drop for Responder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a client that asks for the certificate's status is told: `good`, `revoked`, or nothing.
fn status(gateway: &Gateway, name: &str) -> Option<String> {
    let address = format!("127.0.0.1:{}", gateway.dir().tls_port);
    let out = Command::new("openssl")
        .args(["s_client", "-status", "-connect", &address, "-servername", name])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("CONNECTED") && text.contains("Verification"), "{text}");
    let told = text.split("Cert Status: ").nth(1).map(|rest| rest.lines().next().unwrap_or_default().to_owned());
    assert_eq!(told.is_none(), text.contains("OCSP response: no response sent"), "{text}");
    told
}

fn wait_for(gateway: &Gateway, name: &str, wanted: &str) {
    let until = Instant::now() + LIMIT;
    while status(gateway, name).as_deref() != Some(wanted) {
        assert!(Instant::now() < until, "{name}: {}", gateway.log_text());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn answers_are_stapled_verified_and_outlive_their_responder() {
    let (upstream, issuer) = (Upstream::start().unwrap(), Issuer::new());
    let mut resources = all_to(&upstream);
    resources["ssls"] = json!([
        issuer.ssl("good.test", 2, &json!({"enabled": true})),
        issuer.ssl("revoked.test", 3, &json!({"enabled": true})),
        issuer.ssl("told.test", 3, &json!({"enabled": true, "skip_verify": true})),
        issuer.ssl("off.test", 2, &json!({"enabled": false})),
    ]);
    let gateway = gateway(&Value::Null, &resources);
    // The responder is away: handshakes go on without.
    assert_eq!(status(&gateway, "good.test"), None);
    let responder = issuer.respond(&[('V', 2), ('R', 3)]);
    wait_for(&gateway, "good.test", "good");
    wait_for(&gateway, "told.test", "revoked");
    gateway.wait_for_log("certificate status \"revoked\" in the OCSP response", LIMIT).unwrap();
    assert_eq!(status(&gateway, "revoked.test"), None);
    assert_eq!(status(&gateway, "off.test"), None);

    // An answer outlives its responder, and the ssl object that it came for.
    drop(responder);
    resources["ssls"][0]["snis"] = json!(["good.test", "www.good.test"]);
    resources["ssls"][3]["ocsp_stapling"]["enabled"] = json!(true);
    gateway.dir().write_resources(&resources).unwrap();
    let until = Instant::now() + LIMIT;
    let address = ([127, 0, 0, 1], gateway.dir().tls_port).into();
    let client = sluice_testkit::certificates::trusting_client().unwrap();
    while Wire::connect_tls(address, "www.good.test", client.clone()).is_err() {
        assert!(Instant::now() < until, "{}", gateway.log_text());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(status(&gateway, "www.good.test").as_deref(), Some("good"));
    assert_eq!(status(&gateway, "off.test"), None);

    // It comes back, and who was without an answer gets one.
    let _responder = issuer.respond(&[('V', 2), ('R', 3)]);
    wait_for(&gateway, "off.test", "good");
    let mut control = Wire::connect(("127.0.0.1", gateway.dir().control_port)).unwrap();
    let all = control.get("/v1/certificates").unwrap().json();
    let of = |id: &str| all.as_array().unwrap().iter().find(|ssl| ssl["id"] == id).unwrap()["certificates"][0].clone();
    assert_eq!(of("good.test")["ocsp"]["status"], "good");
    assert_eq!(of("told.test")["ocsp"]["status"], "revoked");
    assert_eq!(of("revoked.test")["ocsp"]["stapled"], false);
    assert!(of("good.test")["not_after"].as_i64().unwrap() > 1_700_000_000);
}
