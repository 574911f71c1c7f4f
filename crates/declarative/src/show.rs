//! A plan for people and for programs. The surprise: values are cut to a line's length for people, never for programs.
use crate::plan::{Action, Change, Plan};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Longest value shown to people, in characters.
const SHOWN: usize = 60;

/// One line an object, one line a field, and the sums; `colour` with ANSI colours.
pub fn text(plan: &Plan, colour: bool) -> String {
    let paint = |code: &str, text: &str| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    let mut out = String::new();
    for change in &plan.changes {
        let (sign, code) = match change.action {
            Action::Create => ("+", "32"),
            Action::Update => ("~", "33"),
            Action::Delete => ("-", "31"),
        };
        let mut line = format!("{sign} {}", change.key);
        if let Some(name) = &change.name {
            let _ = write!(line, " ({name})");
        }
        out.push_str(&paint(code, &line));
        if let Some(place) = &change.place {
            let _ = write!(out, "  {}", paint("2", place));
        }
        out.push('\n');
        for field in &change.fields {
            let line = match (&field.from, &field.to) {
                (None, Some(to)) => paint("32", &format!("+ {}: {}", field.path, short(to))),
                (Some(from), None) => paint("31", &format!("- {}: {}", field.path, short(from))),
                (from, to) if from == to => paint("33", &format!("~ {}: changed", field.path)),
                (from, to) => {
                    let shown = |value: &Option<Value>| value.as_ref().map(short).unwrap_or_default();
                    paint("33", &format!("~ {}: {} -> {}", field.path, shown(from), shown(to)))
                }
            };
            let _ = writeln!(out, "    {line}");
        }
    }
    let _ = writeln!(
        out,
        "{} to create, {} to update, {} to delete, {} unchanged",
        plan.count(Action::Create),
        plan.count(Action::Update),
        plan.count(Action::Delete),
        plan.unchanged
    );
    out
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= SHOWN {
        return text;
    }
    let cut: String = text.chars().take(SHOWN).collect();
    format!("{cut}…")
}

/// `{"changes": […], "create": 1, "update": 0, "delete": 0, "unchanged": 5}`
pub fn json(plan: &Plan) -> Value {
    let change = |change: &Change| {
        json!({
            "action": change.action,
            "kind": change.key.kind.dir(),
            "id": change.key.id,
            "path": change.key.path(),
            "name": change.name,
            "place": change.place,
            "fields": change.fields,
        })
    };
    json!({
        "changes": plan.changes.iter().map(change).collect::<Vec<_>>(),
        "create": plan.count(Action::Create),
        "update": plan.count(Action::Update),
        "delete": plan.count(Action::Delete),
        "unchanged": plan.unchanged,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Key;
    use crate::plan::Field;
    use sluice_model::Kind;

    #[test]
    fn a_plan_reads_like_a_diff() {
        let change = |action, id: &str, fields| Change {
            action,
            key: Key::new(Kind::Route, id),
            name: Some("shop".into()),
            place: (action != Action::Delete).then(|| "f.yaml:2:3".into()),
            fields,
            body: None,
        };
        let field = |from, to| Field { path: "priority".into(), from, to };
        let plan = Plan {
            changes: vec![
                change(Action::Create, "1", vec![]),
                change(
                    Action::Update,
                    "2",
                    vec![field(Some(json!(1)), Some(json!("x".repeat(80)))), field(None, Some(json!(2)))],
                ),
                change(Action::Delete, "3", vec![]),
            ],
            unchanged: 4,
        };
        let expected = format!(
            "+ routes/1 (shop)  f.yaml:2:3\n~ routes/2 (shop)  f.yaml:2:3\n    ~ priority: 1 -> \"{}…\n    + priority: 2\n\
             - routes/3 (shop)\n1 to create, 1 to update, 1 to delete, 4 unchanged\n",
            "x".repeat(59)
        );
        assert_eq!(text(&plan, false), expected);
        assert!(text(&plan, true).contains("\x1b[31m- routes/3 (shop)\x1b[0m"));
        let document = json(&plan);
        assert_eq!(document["changes"][1]["action"], "update");
        assert_eq!(document["unchanged"], 4);
    }
}
