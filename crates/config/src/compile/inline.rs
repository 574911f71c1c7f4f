//! Upstreams that stand in plugin configurations. The surprise: whether one is still used shows only in whether somebody holds
//! it, so those that are gone are found at the next change.
use super::CompileSettings;
use super::ssl::Ssls;
use super::upstream::{Parts, TlsCache, compile};
use foldhash::{HashMap, HashSet};
use serde_json::Value;
use sluice_model::upstream as model;
use sluice_plugin::{UpstreamCompiler, UpstreamRef};
use sluice_upstream::{NodeSet, NodeStates, Upstream};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What is remembered of upstreams that stand in plugin configurations: their last forms, so that the addresses of names
/// outlive a change, and names that nobody has resolved yet.
#[derive(Clone, Default)]
pub(super) struct InlineUpstreams(Arc<Mutex<Inline>>);

#[derive(Default)]
struct Inline {
    last: HashMap<String, Weak<Upstream>>,
    /// Entries at which those of dropped upstreams are looked for.
    sweep_at: usize,
    unresolved: Vec<Arc<NodeSet>>,
    /// Keys of those with health checks.
    checked: HashSet<String>,
}

impl InlineUpstreams {
    fn last(&self, key: &str) -> Option<Arc<Upstream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last.get(key)?.upgrade()
    }

    fn remember(&self, key: &str, upstream: &Arc<Upstream>) {
        let mut inline = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if upstream.nodes.has_names() {
            inline.unresolved.push(upstream.nodes.clone());
        }
        if upstream.health.is_some() {
            inline.checked.insert(key.to_owned());
        }
        inline.last.insert(key.to_owned(), Arc::downgrade(upstream));
        if inline.last.len() > inline.sweep_at {
            inline.last.retain(|_, known| known.strong_count() > 0);
            inline.sweep_at = 64.max(inline.last.len() * 2);
        }
    }

    /// After a change: ends the health checks of upstreams that nobody holds any more, and returns the nodes whose names are
    /// to be resolved before the configuration is in force.
    pub(super) fn settle(&self, states: &NodeStates) -> Vec<Arc<NodeSet>> {
        let mut inline = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Inline { last, checked, unresolved, .. } = &mut *inline;
        checked.retain(|key| {
            let held = last.get(key).is_some_and(|known| known.strong_count() > 0);
            if !held {
                states.no_checker(key);
            }
            held
        });
        std::mem::take(unresolved)
    }
}

/// Compiles upstreams that stand in plugin configurations.
pub(super) struct InlineCompiler {
    pub settings: CompileSettings,
    pub states: Arc<NodeStates>,
    pub tls: TlsCache,
    pub ssls: Ssls,
    pub known: InlineUpstreams,
}

impl UpstreamCompiler for InlineCompiler {
    fn compile(&self, key: &str, upstream: &Value) -> Result<UpstreamRef, String> {
        let typed: model::Upstream = serde_json::from_value(upstream.clone()).map_err(|e| e.to_string())?;
        let control = tokio::runtime::Handle::try_current().ok();
        let parts = Parts {
            settings: &self.settings,
            states: &self.states,
            tls: &self.tls,
            ssls: &self.ssls,
            control: control.as_ref(),
        };
        let upstream = Arc::new(compile(key, &typed, &parts, self.known.last(key).as_deref())?);
        self.known.remember(key, &upstream);
        Ok(UpstreamRef::Inline(upstream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluice_upstream::nodes::Resolving;
    use sluice_upstream::{Resolve, Resolved};
    use std::time::{Duration, Instant};

    struct One;

    impl Resolve for One {
        fn resolve<'a>(&'a self, _: &'a str) -> Resolving<'a> {
            let addresses = vec![std::net::Ipv4Addr::new(10, 0, 0, 1).into()];
            Box::pin(async move { Ok(Resolved { addresses, ttl: Duration::from_secs(60) }) })
        }
    }

    fn compiler(known: &InlineUpstreams) -> InlineCompiler {
        InlineCompiler {
            settings: CompileSettings { health_checks: true, ..CompileSettings::default() },
            states: Arc::default(),
            tls: TlsCache::default(),
            ssls: Ssls::default(),
            known: known.clone(),
        }
    }

    fn inline(reference: UpstreamRef) -> Arc<Upstream> {
        match reference {
            UpstreamRef::Inline(upstream) => upstream,
            UpstreamRef::Id(_) => panic!("an inline upstream"),
        }
    }

    #[tokio::test]
    async fn addresses_of_names_outlive_a_change() {
        let known = InlineUpstreams::default();
        let compiler = compiler(&known);
        let upstream = |weight: u32| json!({"type": "roundrobin", "nodes": {"shop.internal:80": weight}});
        let first = inline(compiler.compile("routes/1#split", &upstream(1)).unwrap());
        assert_eq!(known.settle(&compiler.states).len(), 1);
        assert_eq!(known.settle(&compiler.states).len(), 0);
        assert!(first.nodes.balancer().nodes().is_empty());
        let resolver: Arc<dyn Resolve> = Arc::new(One);
        first.nodes.refresh(&resolver, Instant::now()).await;
        let next = inline(compiler.compile("routes/1#split", &upstream(2)).unwrap());
        assert_eq!(next.nodes.balancer().nodes().len(), 1);
        let other = inline(compiler.compile("routes/2#split", &upstream(1)).unwrap());
        assert!(other.nodes.balancer().nodes().is_empty());
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let known = InlineUpstreams::default();
        let compiler = compiler(&known);
        let upstream = json!({
            "type": "roundrobin", "nodes": {"127.0.0.1:80": 1},
            "checks": {"active": {"http_path": "/"}},
        });
        let held = compiler.compile("kept", &upstream).unwrap();
        for number in 0..200 {
            compiler.compile(&format!("gone/{number}"), &upstream).unwrap();
        }
        known.settle(&compiler.states);
        let inline = known.0.lock().unwrap();
        assert_eq!(inline.checked.iter().collect::<Vec<_>>(), ["kept"]);
        assert!(inline.last.len() <= 65, "{}", inline.last.len());
        drop(held);
    }
}
