//! `coraza` is a web application firewall: it runs SecLang rules, such as the OWASP Core Rule Set, on requests and answers.
//!
//! Use it in front of applications that cannot defend themselves against injections. The configuration is that of
//! coraza-proxy-wasm: named lists of directives, one of them the default, others for hosts. `Include @recommended-conf`,
//! `@crs-setup-conf` and `@owasp_crs/*.conf` are known; the rule set's files are read from the folder in
//! `plugin_attr.coraza.crs_path`. Begin with `SecRuleEngine DetectionOnly` and read the log.
//!
//! `$coraza_inbound_score`, `$coraza_outbound_score` (the Core Rule Set's anomaly scores) and `$coraza_rule` (the rule that stopped
//! the request) are known to access logs and loggers.
//!
//! Differences from coraza-proxy-wasm: rules are not inside the binary; collections live as long as the request
//! (`initcol` has no effect); an answer that phase 4 stops is cut off before its first byte, or, where bytes went out
//! already, ends there. Bodies of compressed answers are not looked into.
mod audit;
mod rules;

use audit::Audit;
use rules::Rules;
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_engine_waf::{Hit, Intervention, LimitAction, Ruleset, Transaction};
use sluice_plugin::{BodyChunk, BuildError, Context, Define, Env, Flow, Info, Phases, Plugin, Reply};
use sluice_telemetry::{Counter, FamilyOptions};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) const NAME: &str = "coraza";
/// Variables of the request, and the members of `TX` that they show.
const VARIABLES: [(&str, &str); 2] = [
    ("coraza_inbound_score", "blocking_inbound_anomaly_score"),
    ("coraza_outbound_score", "blocking_outbound_anomaly_score"),
];
/// Rules that have a series of their own in the metrics.
const MAX_RULES: usize = 2000;

#[derive(Deserialize, JsonSchema, Debug, Clone)]
pub struct Config {
    /// Lists of SecLang directives, by name.
    directives_map: BTreeMap<String, Vec<String>>,
    /// The list for hosts that have none of their own.
    default_directives: String,
    /// Host (as in the `Host` field, without port) → list.
    #[serde(default)]
    per_authority_directives: BTreeMap<String, String>,
}

pub struct Coraza {
    default: Arc<Rules>,
    by_host: Vec<(String, Arc<Rules>)>,
    counts: Option<Counts>,
}

struct Counts {
    transactions: Counter,
    interruptions: Counter,
    hits: Counter,
}

/// A request under inspection.
struct Inspection {
    owner: usize,
    transaction: Transaction,
    audit: Option<Arc<Audit>>,
    /// What of the answer's body is held back until all of it was seen.
    held: Vec<u8>,
    holds: bool,
    stopped: bool,
}

/// Each plugin of a request's chains (a global rule's, a route's) has its own inspection.
struct Inspections(Vec<Inspection>);

impl Define for Coraza {
    const INFO: Info =
        Info::new(NAME, 7999, Phases::REWRITE.and(Phases::HEADER_FILTER).and(Phases::BODY_FILTER).and(Phases::LOG))
            .request_body();
    type Config = Config;

    fn check(config: &Config) -> Result<(), BuildError> {
        let known = |name: &String, at: &str| {
            if config.directives_map.contains_key(name) {
                return Ok(());
            }
            let names: Vec<&str> = config.directives_map.keys().map(String::as_str).collect();
            Err(BuildError(format!("{at}: directives_map has no {name:?}; it has {}", names.join(", "))))
        };
        known(&config.default_directives, "default_directives")?;
        config
            .per_authority_directives
            .iter()
            .try_for_each(|(host, name)| known(name, &format!("per_authority_directives.{host}")))
    }

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        let compile = |name: &String| {
            let directives = config.directives_map.get(name).map(Vec::as_slice).unwrap_or_default();
            rules::compile(directives, env).map_err(|e| BuildError(format!("directives_map.{name}: {e}")))
        };
        let default = compile(&config.default_directives)?;
        let by_host = config.per_authority_directives.iter();
        let by_host: Result<Vec<_>, BuildError> =
            by_host.map(|(host, name)| Ok((host.to_ascii_lowercase(), compile(name)?))).collect();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let options = FamilyOptions { budget: MAX_RULES, ..FamilyOptions::default() };
            env.metrics.counter(name, help, labels, options).ok()
        };
        let counts = (|| {
            Some(Counts {
                transactions: counter("coraza_transactions_total", "Requests that rules were run on", &[])?,
                interruptions: counter(
                    "coraza_interruptions_total",
                    "Requests that a rule stopped",
                    &["rule", "phase"],
                )?,
                hits: counter("coraza_hits_total", "Rules that matched, those that are logged", &["rule"])?,
            })
        })();
        Ok(Coraza { default, by_host: by_host?, counts })
    }
}

impl Coraza {
    fn owner(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    fn rules(&self, cx: &Context) -> &Arc<Rules> {
        let host = cx.request.host();
        let host =
            host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |h| h.0);
        let own = self.by_host.iter().find(|(name, _)| name.eq_ignore_ascii_case(host));
        own.map_or(&self.default, |(_, rules)| rules)
    }

    /// The headers of the request and its body, phases 1 and 2.
    fn inspect(&self, cx: &Context) -> (Transaction, Option<Reply>) {
        let rules = &self.rules(cx).set;
        let mut transaction = begin(rules.clone(), cx);
        transaction.run(1);
        let body = cx.request_body.as_deref().unwrap_or_default();
        if transaction.intervention().is_none() && transaction.wants_request_body() && !body.is_empty() {
            let limit = transaction.request_body_limit();
            // what only detects lets everything pass
            if body.len() > limit
                && transaction.enforces()
                && rules.settings().request_body_limit_action == LimitAction::Reject
            {
                return (transaction, Some(Reply::status(413)));
            }
            transaction.request_body(body.get(..limit).unwrap_or(body), body.len() > limit);
        }
        transaction.run(2);
        let reply = transaction.intervention().map(refusal);
        (transaction, reply)
    }

    fn report(&self, cx: &Context, inspection: &Inspection) {
        let transaction = &inspection.transaction;
        for hit in transaction.hits().iter().filter(|hit| hit.log) {
            write_hit(cx, hit);
        }
        if let Some(counts) = &self.counts {
            counts.transactions.with(&[]).add(1);
            for hit in transaction.hits().iter().filter(|hit| hit.log) {
                counts.hits.with(&[&hit.rule.to_string()]).add(1);
            }
            if let Some(stop) = transaction.intervention() {
                counts.interruptions.with(&[&stop.rule.to_string(), &stop.phase.to_string()]).add(1);
            }
        }
        if let Some(audit) = &inspection.audit
            && transaction.is_audited(cx.response.status)
        {
            audit.write(cx, transaction);
        }
    }
}

fn begin(rules: Arc<Ruleset>, cx: &Context) -> Transaction {
    let mut transaction = Transaction::new(rules);
    let local = cx.connection.local;
    transaction.connection(cx.client_ip(), cx.client_port(), local.ip(), local.port());
    if let Some(id) = cx.apisix_request_id().or(cx.known_request_id()) {
        transaction.unique_id(id);
    }
    let request = &cx.request;
    transaction.request_line(
        request.method_text().as_bytes(),
        request.target_bytes(),
        request.version.as_str().as_bytes(),
    );
    for (name, value) in request.headers.iter() {
        transaction.request_header(name, value);
    }
    transaction
}

/// The scores of the Core Rule Set and the rule that stopped the request, for access logs and other plugins.
fn set_variables(cx: &mut Context, transaction: &Transaction) {
    for (variable, member) in VARIABLES {
        if let Some(value) = transaction.tx(member) {
            let value = value.to_vec();
            cx.set_variable(variable, value);
        }
    }
    if let Some(stop) = transaction.intervention() {
        cx.set_variable("coraza_rule", stop.rule.to_string());
    }
}

fn refusal(stop: &Intervention) -> Reply {
    let reply = Reply::status(stop.status);
    match &stop.redirect {
        Some(to) => reply.header("Location", to.as_bytes().to_vec()),
        None => reply,
    }
}

/// A line for people, with the parts that scripts for ModSecurity's error log look for.
fn write_hit(cx: &Context, hit: &Hit) {
    let verdict = if hit.disruptive { "Access denied" } else { "Warning" };
    let tags: String = hit.tags.iter().map(|tag| format!(" [tag \"{tag}\"]")).collect();
    tracing::warn!(
        target: "coraza",
        always = true,
        "[client {}] Coraza: {verdict} (phase {}). {} matched at {}. [file \"{}\"] [line \"{}\"] [id \"{}\"] [rev \"{}\"] [msg \"{}\"] \
         [data \"{}\"] [severity \"{}\"] [ver \"{}\"]{tags} [uri \"{}\"]",
        cx.client_ip(),
        hit.phase,
        hit.operator.escape_debug(),
        hit.variable.escape_debug(),
        hit.file,
        hit.line,
        hit.rule,
        hit.revision,
        hit.message.escape_debug(),
        hit.data.escape_debug(),
        hit.severity.map_or("", sluice_engine_waf::Severity::name),
        hit.version,
        cx.request.path().escape_debug(),
    );
}

impl Plugin for Coraza {
    fn wants_request_body(&self, cx: &Context) -> bool {
        self.rules(cx).set.settings().request_body
    }

    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let audit = self.rules(cx).audit.clone();
        let (transaction, reply) = self.inspect(cx);
        let stopped = reply.is_some();
        let drop = transaction.intervention().is_some_and(|stop| stop.drop);
        let inspection =
            Inspection { owner: self.owner(), transaction, audit, held: Vec::new(), holds: false, stopped };
        match cx.get_mut::<Inspections>() {
            Some(all) => all.0.push(inspection),
            None => cx.insert(Inspections(vec![inspection])),
        }
        match reply {
            Some(reply) if drop => Flow::reply(reply.header("Connection", "close")),
            Some(reply) => Flow::reply(reply),
            None => Flow::Next,
        }
    }

    fn header_filter(&self, cx: &mut Context) {
        let Some(mut all) = cx.take::<Inspections>() else { return };
        let owner = self.owner();
        if let Some(inspection) = all.0.iter_mut().find(|i| i.owner == owner && !i.stopped) {
            let transaction = &mut inspection.transaction;
            transaction.response_line(cx.response.status, b"HTTP/1.1");
            for (name, value) in cx.response.headers.iter() {
                transaction.response_header(name, value);
            }
            transaction.run(3);
            let content_type = cx.response.headers.get("Content-Type").unwrap_or_default().to_vec();
            if let Some(stop) = transaction.intervention() {
                inspection.stopped = true;
                let status = stop.status;
                cx.response.set_status(status);
                cx.response.headers.remove("Content-Length");
                cx.filter_body();
            } else if transaction.wants_response_body(&content_type)
                && !cx.response.headers.contains("Content-Encoding")
            {
                inspection.holds = true;
                cx.filter_body();
            }
        }
        cx.insert(all);
    }

    fn body_filter(&self, cx: &mut Context, chunk: &mut BodyChunk) {
        let owner = self.owner();
        let Some(inspection) = cx.get_mut::<Inspections>().and_then(|all| all.0.iter_mut().find(|i| i.owner == owner))
        else {
            return;
        };
        if inspection.stopped {
            // the answer of a rule that stopped the request has no body of the upstream's
            if inspection.transaction.intervention().is_some_and(|stop| stop.phase > 2) {
                chunk.data.clear();
            }
            return;
        }
        if !inspection.holds {
            return;
        }
        inspection.held.append(&mut chunk.data);
        let settings = inspection.transaction.settings();
        let (limit, action) = (settings.response_body_limit, settings.response_body_limit_action);
        let enforces = inspection.transaction.enforces();
        let cut = inspection.held.len() > limit;
        if !chunk.last && !cut {
            return;
        }
        inspection.holds = false;
        let seen = inspection.held.get(..limit).unwrap_or(&inspection.held);
        inspection.transaction.response_body(seen, cut);
        let stops = inspection.transaction.run(4).is_some() || cut && enforces && action == LimitAction::Reject;
        if stops {
            inspection.stopped = true;
            // The head is gone. As coraza-proxy-wasm: as many bytes as were announced, none of them the upstream's.
            chunk.data = vec![0; inspection.held.len()];
            inspection.held.clear();
        } else {
            chunk.data = std::mem::take(&mut inspection.held);
        }
    }

    fn log(&self, cx: &mut Context) {
        let owner = self.owner();
        let Some(mut all) = cx.take::<Inspections>() else { return };
        if let Some(at) = all.0.iter().position(|i| i.owner == owner) {
            let mut inspection = all.0.swap_remove(at);
            inspection.transaction.run(5);
            set_variables(cx, &inspection.transaction);
            self.report(cx, &inspection);
        }
        cx.insert(all);
    }
}

#[cfg(test)]
mod tests;
