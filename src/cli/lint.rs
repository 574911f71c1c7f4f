//! `sluice lint`: what `check` says of resources, and what is valid and yet probably not meant.
use super::Output;
use serde_json::json;
use sluice_config::Object;
use sluice_config::environment::Environment;
use sluice_config::problem::ConfigError;
use sluice_config::settings::Settings;
use sluice_declarative::Source;
use sluice_declarative::lint::{Finding, RULES, Severity, Unreachable, lint};
use sluice_model::Body;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Lint {
    /// Files and folders in the shape of apisix.yaml.
    #[arg(required_unless_present = "rules")]
    files: Vec<PathBuf>,
    /// Leave these rules out, such as `unused,plain-secret`.
    #[arg(long, value_name = "RULE", value_delimiter = ',', value_parser = rule)]
    ignore: Vec<String>,
    /// Warnings count as errors.
    #[arg(long)]
    strict: bool,
    /// List the rules.
    #[arg(long)]
    rules: bool,
    /// `text` or `json`.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

fn rule(text: &str) -> Result<String, String> {
    let known = RULES.iter().any(|rule| rule.id == text);
    let all = || RULES.iter().map(|rule| rule.id).collect::<Vec<_>>().join(", ");
    if known { Ok(text.to_owned()) } else { Err(format!("expected one of {}", all())) }
}

impl Lint {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if self.rules {
            for rule in RULES {
                println!("{:28} {:8} {}", rule.id, format!("{:?}", rule.severity).to_lowercase(), rule.hint);
            }
            return Ok(ExitCode::SUCCESS);
        }
        let mut source = Source::load(&self.files, &Environment::Process);
        let mut findings: Vec<Finding> = std::mem::take(&mut source.errors).into_iter().map(invalid).collect();
        let (errors, unreachable) = compile(&source)?;
        findings.extend(errors.into_iter().map(invalid));
        findings.extend(source.notices.iter().map(|notice| Finding {
            rule: "ignored",
            severity: Severity::Warning,
            place: ConfigError {
                file: notice.file.clone(),
                position: notice.position,
                path: notice.path.clone(),
                message: notice.text.clone(),
                suggestion: notice.suggestion.clone(),
            },
            hint: "",
        }));
        let known: Vec<_> = findings.iter().map(|found| (found.place.file.clone(), found.place.path.clone())).collect();
        let linted = lint(&source.objects, &crate::boot::registry()?, &unreachable, &self.ignore);
        findings.extend(linted.into_iter().filter(|f| !known.contains(&(f.place.file.clone(), f.place.path.clone()))));
        findings.sort_by(|a, b| (&a.place.file, a.place.position).cmp(&(&b.place.file, b.place.position)));
        let count = |severity| findings.iter().filter(|found| found.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        match self.output {
            Output::Text => {
                findings.iter().for_each(|found| println!("{found}"));
                println!("{errors} errors, {warnings} warnings");
            }
            Output::Json => {
                println!("{:#}", json!({"findings": findings, "errors": errors, "warnings": warnings}));
            }
        }
        let bad = errors > 0 || (self.strict && warnings > 0);
        Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn invalid(place: ConfigError) -> Finding {
    Finding { rule: "invalid", severity: Severity::Error, place, hint: "" }
}

/// What the gateway would leave out, and why; and which routes no request would take.
fn compile(source: &Source) -> anyhow::Result<(Vec<ConfigError>, Vec<Unreachable>)> {
    let mut compiler =
        crate::boot::compiler(&Settings::defaults(&Environment::Process), crate::boot::Services::default())?;
    let object = |object: &sluice_declarative::Object| {
        let mut value = object.value.clone();
        if let Some(fields) = value.as_object_mut() {
            fields.insert("id".into(), object.key.id.clone().into());
        }
        Object { kind: object.key.kind, id: object.key.id.as_str().into(), body: Body::of(&value) }
    };
    let applied = compiler.replace_all(source.objects.iter().map(object).collect());
    let place = |problem: &sluice_config::Problem| {
        let same = |object: &&sluice_declarative::Object| {
            object.key.kind == problem.kind && object.key.id.as_str() == problem.id.as_ref()
        };
        let found = source.objects.iter().rev().find(same)?;
        let error = found.place.as_ref()?.error(&found.value, &problem.path, &*problem.message);
        Some(error.suggest(problem.nearest.as_deref()))
    };
    let errors = applied.problems.iter().filter_map(place).collect();
    let unreachable = applied.snapshot.router.examine_all();
    let unreachable = unreachable.iter().map(|f| Unreachable { route: f.route.to_string(), text: f.to_string() });
    Ok((errors, unreachable.collect()))
}
