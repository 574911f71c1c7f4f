//! The standalone file as a source: its objects for the compiler, and the compiler's problems back to lines of the file.
use sluice_config::problem::ConfigError;
use sluice_config::standalone::RawConfig;
use sluice_config::{Object, Problem};
use sluice_model::Body;

/// The objects of a file.
pub fn objects(raw: &RawConfig) -> Vec<Object> {
    let object = |o: &sluice_config::standalone::RawObject| Object {
        kind: o.kind,
        id: o.id.as_str().into(),
        body: Body::of(&o.value),
    };
    raw.objects.iter().map(object).collect()
}

/// Problems with their places in the file.
pub fn errors(raw: &RawConfig, problems: &[Problem]) -> Vec<ConfigError> {
    let place = |problem: &Problem| -> ConfigError {
        let found = raw.objects.iter().rev().find(|o| o.kind == problem.kind && o.id.as_str() == problem.id.as_ref());
        match found {
            Some(object) => object.error(&problem.path, &*problem.message).suggest(problem.nearest.as_deref()),
            None => {
                ConfigError::of_file(&raw.file, format!("{}/{}: {}", problem.kind.dir(), problem.id, problem.message))
            }
        }
    };
    problems.iter().map(place).collect()
}
