//! `prometheus` on stream routes: connections by route, and how they ended, by listening address and node.
//!
//! What goes over each listening address (`stream_active_connections`, `stream_bandwidth`) is counted with or without the
//! plugin, as it is in APISIX, and moves while a connection lasts.
//
// Read in apisix/stream/plugins/prometheus.lua and apisix/plugins/prometheus/exporter.lua (`stream_log`).
use super::Config;
use super::families::Attributes;
use sluice_plugin::{BuildError, DefineStream, Env, StreamContext, StreamFlow, StreamPlugin};
use sluice_telemetry::{Counter, FamilyOptions};
use std::sync::Arc;

/// The families that connections move.
#[derive(Clone)]
struct Families {
    connections: Counter,
    status: Counter,
}

impl Families {
    fn register(env: &Env) -> Result<Families, BuildError> {
        let prefix = Attributes::read(env.attribute("prometheus"))?.metric_prefix;
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let name = format!("{prefix}{name}");
            env.metrics.counter(&name, help, labels, FamilyOptions::default()).map_err(BuildError::new)
        };
        let connections = "Total number of connections handled per stream route in APISIX";
        let status = "Stream sessions per termination status in APISIX";
        Ok(Families {
            connections: counter("stream_connection_total", connections, &["route"])?,
            status: counter("stream_status", status, &["code", "listen_addr", "node"])?,
        })
    }
}

/// The plugin.
pub struct StreamPrometheus {
    families: Families,
    prefer_name: bool,
}

impl DefineStream for StreamPrometheus {
    const NAME: &'static str = "prometheus";
    const PRIORITY: i32 = 500;
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        let families = env.shared.get_or_insert("prometheus#stream", || Families::register(env).map(Arc::new));
        let families = families.as_ref().clone()?;
        Ok(StreamPrometheus { families: families.as_ref().clone(), prefer_name: config.prefer_name })
    }
}

/// A plugin may close with any code; the label stays within those that nginx itself uses for streams
/// (`stream_reject_code`).
fn rejected(code: u16) -> u16 {
    match code {
        400 | 403 | 500 | 502 | 503 => code,
        401..500 => 400,
        _ => 500,
    }
}

impl StreamPlugin for StreamPrometheus {
    fn preread(&self, _cx: &mut StreamContext) -> StreamFlow {
        StreamFlow::Next
    }

    fn logs(&self) -> bool {
        true
    }

    fn log(&self, cx: &StreamContext) {
        let name = cx.route_name.as_deref().filter(|_| self.prefer_name);
        self.families.connections.add(&[name.unwrap_or(&cx.route_id)], 1);
        let code = cx.rejected.map_or(cx.status, rejected).to_string();
        let node = cx.node.map(|node| node.to_string()).unwrap_or_default();
        self.families.status.add(&[&code, &cx.listen_addr, &node], 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluice_plugin::{Connection, define_stream};

    fn shown(config: serde_json::Value, change: impl Fn(&mut StreamContext)) -> String {
        let env = Env::for_tests();
        let plugin = (define_stream::<StreamPrometheus>().build)(&config, &env).expect("builds");
        let [peer, local] = ["10.0.0.1:5000", "127.0.0.1:9100"].map(|a| a.parse().expect("address"));
        let mut cx = StreamContext::new(Connection::new(peer, local, None), "7".into());
        cx.listen_addr = "0.0.0.0:9100".into();
        change(&mut cx);
        assert_eq!(plugin.preread(&mut cx), StreamFlow::Next);
        assert!(plugin.logs());
        plugin.log(&cx);
        let mut out = Vec::new();
        env.metrics.render(std::time::Instant::now(), &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn sessions_are_counted_by_route_and_end() {
        let text = shown(json!({}), |cx| cx.node = Some("10.0.0.9:80".parse().expect("address")));
        assert!(text.contains("apisix_stream_connection_total{route=\"7\"} 1\n"), "{text}");
        let status = "apisix_stream_status{code=\"200\",listen_addr=\"0.0.0.0:9100\",node=\"10.0.0.9:80\"} 1\n";
        assert!(text.contains(status), "{text}");
        let named = shown(json!({"prefer_name": true}), |cx| cx.route_name = Some("mqtt".into()));
        assert!(named.contains("apisix_stream_connection_total{route=\"mqtt\"} 1\n"), "{named}");
    }

    #[test]
    fn codes_of_rejections_are_bounded() {
        for (given, shown_as) in [(403, "403"), (429, "400"), (200, "500"), (599, "500"), (503, "503")] {
            let text = shown(json!({}), |cx| cx.rejected = Some(given));
            assert!(text.contains(&format!("code=\"{shown_as}\"")), "{given}: {text}");
        }
    }
}
