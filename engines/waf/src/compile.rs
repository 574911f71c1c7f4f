//! Directives to a [`Ruleset`]: includes are followed, chains joined, exclusions applied, and every mistake is reported with
//! its file and line, all of them at once.

use crate::action::{self, Actions, Disruption};
use crate::directive::{self, Directive, Place};
use crate::expansion::Expansion;
use crate::operator::Operator;
use crate::prefilter::Prefilter;
use crate::rule::{Link, Rule};
use crate::ruleset::{Names, PhaseRules, Ruleset, Slot};
use crate::settings::{Settings, Taken};
use crate::suggestion::did_you_mean;
use crate::transformation::{Chains, Transformation};
use crate::update;
use crate::variable::{Selector, Targets, Variable};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Depth of includes within includes.
const INCLUDE_DEPTH: usize = 16;

/// What `Include` may name besides paths.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A name that begins with `@`, and the folder that it stands for: `@owasp_crs/*.conf`.
    pub folders: Vec<(String, PathBuf)>,
    /// A name, and the directives that it stands for: `@recommended-conf`.
    pub texts: Vec<(String, String)>,
}

/// What is wrong with the rules; a line each, as `file:line: what`.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct CompileError(pub Vec<String>);

/// Compiles the directives of a file.
pub fn compile_file(path: &Path, sources: &Sources) -> Result<Ruleset, CompileError> {
    compile(&format!("Include {}", path.display()), sources)
}

/// Compiles directives.
pub fn compile(text: &str, sources: &Sources) -> Result<Ruleset, CompileError> {
    let mut compiler = Compiler::new(sources);
    compiler.text(text, &"directives".into(), None, 0);
    compiler.finish()
}

pub(crate) struct Compiler<'a> {
    sources: &'a Sources,
    pub names: Names,
    chains: Chains,
    settings: Settings,
    /// In the order of writing; a marker is a name instead of a rule.
    pub items: Vec<Item>,
    /// Whether the last rule waits for its next link.
    open_chain: bool,
    defaults: [Option<Actions>; 5],
    pub errors: Vec<String>,
    notices: Vec<String>,
}

pub(crate) enum Item {
    Rule(Box<Rule>),
    Marker(Box<str>),
}

impl<'a> Compiler<'a> {
    fn new(sources: &'a Sources) -> Compiler<'a> {
        Compiler {
            sources,
            names: Names::new(),
            chains: Chains::default(),
            settings: Settings::default(),
            items: Vec::new(),
            open_chain: false,
            defaults: [const { None }; 5],
            errors: Vec::new(),
            notices: Vec::new(),
        }
    }

    fn error(&mut self, place: &Place, what: &str) {
        self.errors.push(format!("{}:{}: {what}", place.file, place.line));
    }

    fn text(&mut self, text: &str, name: &Arc<str>, folder: Option<&Path>, depth: usize) {
        match directive::read(text, name) {
            Err((place, what)) => self.error(&place, &what),
            Ok(directives) => {
                for directive in directives {
                    if let Err(what) = self.directive(&directive, folder, depth) {
                        self.error(&directive.place, &what);
                    }
                }
            }
        }
    }

    fn directive(&mut self, directive: &Directive, folder: Option<&Path>, depth: usize) -> Result<(), String> {
        let args = directive.args.as_slice();
        let arg = |i: usize| args.get(i).map(String::as_str).ok_or_else(|| format!("{} needs more", directive.name));
        match directive.name.to_ascii_lowercase().as_str() {
            "include" => return self.include(arg(0)?, folder, depth),
            "secrule" => {
                let targets = Targets::parse(arg(0)?)?;
                let text = arg(1)?;
                let (negated, operator_text) = match text.strip_prefix('!') {
                    Some(rest) => (true, rest.trim_start()),
                    None => (false, text),
                };
                let read = |file: &str| read_file(folder, file);
                let operator = Operator::parse(operator_text, &mut self.names, &read)?;
                let actions = args.get(2).map_or("", String::as_str);
                self.rule(targets, Some((operator, negated, text)), actions, &directive.place)?;
            }
            "secaction" => self.rule(Targets::default(), None, arg(0)?, &directive.place)?,
            "secmarker" => self.items.push(Item::Marker(arg(0)?.into())),
            "secdefaultaction" => {
                let (actions, _) = action::parse(arg(0)?, &mut self.names)?;
                let phase = actions.phase.ok_or("SecDefaultAction needs a phase")?;
                if let Some(slot) = self.defaults.get_mut(usize::from(phase) - 1) {
                    *slot = Some(actions);
                }
            }
            "seccomponentsignature" => {}
            name if name.starts_with("secruleremoveby") || name.starts_with("secruleupdate") => {
                update::apply(self, name, args)?;
            }
            _ => match self.settings.take(&directive.name, args)? {
                Taken::Yes => {}
                Taken::NoEffect => {
                    let place = &directive.place;
                    self.notices.push(format!("{}:{}: {} has no effect", place.file, place.line, directive.name));
                }
                Taken::Refused(why) => return Err(format!("{} {}: {why}", directive.name, args.join(" "))),
                Taken::Unknown => {
                    let hint = did_you_mean(&directive.name, crate::directives::all());
                    return Err(format!("unknown directive {}{hint}", directive.name));
                }
            },
        }
        Ok(())
    }

    fn include(&mut self, what: &str, folder: Option<&Path>, depth: usize) -> Result<(), String> {
        if depth >= INCLUDE_DEPTH {
            return Err(format!("Include {what}: more than {INCLUDE_DEPTH} files deep"));
        }
        let sources = self.sources;
        if let Some((name, text)) = sources.texts.iter().find(|(name, _)| name == what) {
            self.text(text, &name.as_str().into(), None, depth + 1);
            return Ok(());
        }
        let alias = sources.folders.iter().find_map(|(name, folder)| {
            let rest = what.strip_prefix(name.as_str())?;
            (rest.is_empty() || rest.starts_with('/')).then(|| folder.join(rest.trim_start_matches('/')))
        });
        let path = match (alias, folder) {
            (Some(path), _) => path,
            (None, _) if what.starts_with('@') => {
                let known = sources.texts.iter().map(|(n, _)| n).chain(sources.folders.iter().map(|(n, _)| n));
                let known: Vec<&str> = known.map(String::as_str).collect();
                return Err(format!("Include {what}: known are {}", known.join(", ")));
            }
            (None, Some(folder)) => folder.join(what),
            (None, None) => PathBuf::from(what),
        };
        let files = expand(&path)?;
        for file in files {
            let text = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
            let name = file.display().to_string();
            self.text(&text, &name.into(), file.parent(), depth + 1);
        }
        Ok(())
    }

    fn rule(
        &mut self,
        mut targets: Targets,
        operator: Option<(Operator, bool, &str)>,
        text: &str,
        place: &Place,
    ) -> Result<(), String> {
        for target in targets.wanted.iter_mut().filter(|t| t.variable == Variable::Tx) {
            if let Selector::Name(name) = &target.selector {
                target.slot = Some(self.names.slot(&String::from_utf8_lossy(name)));
            }
        }
        let (actions, notices) = action::parse(text, &mut self.names)?;
        self.notices.extend(notices.into_iter().map(|n| format!("{}:{}: {n}", place.file, place.line)));
        let continues = self.open_chain;
        self.open_chain = actions.chain;
        let phase = actions.phase.unwrap_or(2);
        let default = self.defaults.get(usize::from(phase) - 1).and_then(Option::as_ref);
        let mut transformations: Vec<&str> = Vec::new();
        if !actions.only_own_transformations && !continues {
            transformations.extend(default.map(|d| d.transformations.as_slice()).unwrap_or_default());
        }
        transformations.extend(&actions.transformations);
        let transformations: Result<Vec<_>, _> =
            transformations.iter().map(|name| Transformation::from_name(name)).collect();
        let chain = self.chains.intern(&transformations?);
        let (operator, negated, operator_text) = match operator {
            Some((operator, negated, text)) => (Some(operator), negated, text),
            None => (None, false, ""),
        };
        let link = Link {
            targets,
            operator,
            negated,
            operator_text: operator_text.into(),
            steps: if actions.multi_match { self.chains.beginnings(chain) } else { vec![chain] },
            capture: actions.capture,
            set: actions.set,
            controls: actions.controls,
            message: actions.message.clone(),
            log_data: actions.log_data.clone(),
        };
        if continues {
            match self.items.last_mut() {
                Some(Item::Rule(rule)) => rule.links.push(link),
                _ => return Err("the chain that this continues has no first rule".to_owned()),
            }
            return Ok(());
        }
        let id = match actions.id {
            Some(id) => id,
            None => return Err("a rule needs an id".to_owned()),
        };
        if let Some(other) = self.find(id) {
            return Err(format!("id {id} is that of the rule at {}:{} too", other.file, other.line));
        }
        let default_disruption = || default.and_then(|d| d.disruption.clone()).unwrap_or(Disruption::Pass);
        let disruption = match actions.disruption {
            Some(Disruption::Block) | None => default_disruption(),
            Some(disruption) => disruption,
        };
        let log = actions.log.or(default.and_then(|d| d.log)).unwrap_or(true);
        self.items.push(Item::Rule(Box::new(Rule {
            id,
            phase,
            place: place.clone(),
            links: vec![link],
            disruption,
            status: actions.status.or(default.and_then(|d| d.status)),
            log,
            audit: actions.audit.or(default.and_then(|d| d.audit)).unwrap_or(log),
            message: actions.message,
            message_text: actions.message_text,
            log_data: actions.log_data,
            tags: actions.tags,
            severity: actions.severity,
            revision: actions.revision,
            version: actions.version,
            skip: actions.skip,
            skip_after: actions.skip_after,
            skip_to: None,
            class: None,
            quiet: false,
        })));
        Ok(())
    }

    fn find(&self, id: u64) -> Option<&Place> {
        self.items.iter().find_map(|item| match item {
            Item::Rule(rule) if rule.id == id => Some(&rule.place),
            _ => None,
        })
    }

    fn finish(mut self) -> Result<Ruleset, CompileError> {
        if self.open_chain
            && let Some(Item::Rule(rule)) = self.items.last()
        {
            let place = rule.place.clone();
            self.error(&place, "this chain has no last rule");
        }
        if !self.errors.is_empty() {
            return Err(CompileError(self.errors));
        }
        let rules = self.items.iter_mut().filter_map(|item| match item {
            Item::Rule(rule) => Some(&mut **rule),
            Item::Marker(_) => None,
        });
        let mut rules: Vec<&mut Rule> = rules.collect();
        // a rule that begins with the last match of another makes all others remember theirs
        if !rules.iter().any(|rule| rule.begins_with_last_match()) {
            for rule in &mut rules {
                rule.quiet = rule.is_quiet();
            }
        }
        for target in rules.iter_mut().flat_map(|rule| &mut rule.links).flat_map(|link| &mut link.targets.wanted) {
            if target.variable == Variable::Tx && target.slot.is_none() {
                let names =
                    (0..self.names.len()).filter(|slot| target.selector.takes(self.names.name(*slot).as_bytes()));
                target.slots = names.map(|slot| Slot(u32::try_from(slot).unwrap_or(u32::MAX))).collect();
            }
        }
        let mut phases: [Vec<Rule>; 5] = std::array::from_fn(|_| Vec::new());
        // where a marker stands in each phase
        let mut markers: Vec<(Box<str>, [usize; 5])> = Vec::new();
        for item in self.items {
            match item {
                Item::Marker(name) => markers.push((name, std::array::from_fn(|i| phases.get(i).map_or(0, Vec::len)))),
                Item::Rule(rule) => {
                    if let Some(rules) = phases.get_mut(usize::from(rule.phase) - 1) {
                        rules.push(*rule);
                    }
                }
            }
        }
        let phases = phases.map(|mut rules| {
            let count = rules.len();
            for (position, rule) in rules.iter_mut().enumerate() {
                let Some(name) = &rule.skip_after else { continue };
                let index = usize::from(rule.phase) - 1;
                let later = markers.iter().filter(|(n, _)| n == name).filter_map(|(_, at)| at.get(index));
                // a marker that does not come leads to the end of the phase
                rule.skip_to = Some(later.copied().find(|at| *at > position).unwrap_or(count));
            }
            let prefilter = Prefilter::build(&mut rules, &self.chains);
            PhaseRules { rules, prefilter }
        });
        Ok(Ruleset { settings: self.settings, names: self.names, chains: self.chains, phases, notices: self.notices })
    }

    /// A text that may hold macros, for what [`update`] changes.
    pub(crate) fn expansion(&mut self, text: &str) -> Expansion {
        Expansion::parse(text, &mut self.names)
    }
}

fn read_file(folder: Option<&Path>, file: &str) -> Result<String, String> {
    let path = match folder {
        Some(folder) => folder.join(file),
        None => PathBuf::from(file),
    };
    let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Files of a path whose last part may have `*`, in the order of their names.
fn expand(path: &Path) -> Result<Vec<PathBuf>, String> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let Some((prefix, suffix)) = name.split_once('*') else { return Ok(vec![path.to_owned()]) };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|e| e.path())
        .filter(|p| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            name.len() >= prefix.len() + suffix.len() && name.starts_with(prefix) && name.ends_with(suffix)
        })
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(format!("{}: no file is named so", path.display()));
    }
    Ok(files)
}
