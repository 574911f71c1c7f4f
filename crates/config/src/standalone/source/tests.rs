//! Whatever happens to a file, reading it in part gives what reading it as a whole gives.

use super::*;
use crate::standalone::RawObject;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A file, the source that follows it, and what a compiler would have.
struct Followed {
    folder: tempfile::TempDir,
    source: StandaloneSource,
    held: BTreeMap<(Kind, Arc<str>), Body>,
}

fn environment() -> Environment {
    Environment::fixed([("NAME", "n1"), ("PORT", "9080")])
}

/// Every JSON pointer into a value.
fn pointers(value: &Value, prefix: &str, out: &mut Vec<String>) {
    out.push(prefix.to_owned());
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| pointers(item, &format!("{prefix}/{index}"), out));
        }
        Value::Object(map) => {
            for (key, item) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                pointers(item, &format!("{prefix}/{key}"), out);
            }
        }
        _ => {}
    }
}

impl Followed {
    fn new(name: &str) -> Followed {
        let folder = tempfile::tempdir().unwrap();
        let source = StandaloneSource::new(&folder.path().join(name), environment());
        Followed { folder, source, held: BTreeMap::new() }
    }

    fn path(&self) -> PathBuf {
        self.source.path.clone()
    }

    /// Writes a version, loads it, checks everything. Whether it was accepted, and read in part.
    fn write(&mut self, text: &[u8]) -> (bool, bool) {
        std::fs::write(self.path(), text).unwrap();
        self.check(true)
    }

    fn check(&mut self, apply: bool) -> (bool, bool) {
        let whole = StandaloneFile::load(&self.path(), &environment());
        let (whole, update) = match (whole, self.source.load()) {
            (Err(whole), Err(part)) => {
                assert_eq!(whole, part);
                return (false, false);
            }
            (Ok(whole), Ok(update)) => (whole, update),
            (whole, part) => panic!("as a whole {whole:?}, in part {part:?}"),
        };
        assert_eq!(update.plugins, whole.plugins);
        let partly = matches!(update.changes, Changes::Part(_));
        {
            let state = self.source.lock();
            let state = state.as_ref().unwrap();
            assert_eq!(state.text, std::fs::read(self.path()).unwrap());
            assert_eq!(state.notices, whole.notices);
            assert_eq!(state.errors, whole.errors);
            let items: Vec<&Item> = state.lists.iter().flat_map(|list| &list.items).collect();
            assert_eq!(items.len(), whole.objects.len());
            for (item, object) in items.iter().zip(&whole.objects) {
                assert_eq!((item.kind, &*item.id, item.body.value()), (object.kind, &*object.id, object.value.clone()));
            }
            whole.objects.iter().for_each(|object| self.compare_places(state, object));
        }
        if apply {
            match update.changes {
                Changes::Whole(objects) => {
                    self.held = objects.into_iter().map(|o| ((o.kind, o.id), o.body)).collect();
                }
                Changes::Part(set) => {
                    for (kind, id) in set.deletes {
                        assert!(self.held.remove(&(kind, id)).is_some());
                    }
                    for object in set.upserts {
                        self.held.insert((object.kind, object.id), object.body);
                    }
                }
            }
            self.source.applied(update.revision);
            let expected: BTreeMap<(Kind, Arc<str>), Body> =
                whole.objects.iter().map(|o| ((o.kind, o.id.as_str().into()), Body::of(&o.value))).collect();
            assert_eq!(self.held, expected);
        }
        (true, partly)
    }

    fn compare_places(&self, state: &State, object: &RawObject) {
        let mut all = Vec::new();
        pointers(&object.value, "", &mut all);
        all.push("/missing".to_owned());
        for pointer in all {
            let problem = problem(object.kind, &object.id, &pointer);
            if let Some(error) = self.source.place(state, &problem) {
                assert_eq!(error, object.error(&pointer, "wrong"), "{pointer}");
            }
        }
    }
}

fn problem(kind: Kind, id: &str, path: &str) -> Problem {
    Problem { kind, id: id.into(), path: path.into(), message: "wrong".into(), kept: false, nearest: None }
}

const FILE: &str = "\
# a file
routes:
  - id: 1
    uri: /a
    upstream: {type: roundrobin, nodes: {\"127.0.0.1:1980\": 1}}
  # the second
  - id: 2
    uri: /b
    desc: |
      - id: 9
      #END

  - id: 3
    uri: /c
nonsense: 1
services:
- id: s1
  name: one
- id: s2
  name: ${{NAME}}
#END
";

#[test]
fn one_change_is_read_in_part() {
    let mut file = Followed::new("apisix.yaml");
    assert_eq!(file.write(FILE.as_bytes()), (true, false));
    assert_eq!(file.write(FILE.as_bytes()), (true, true), "the same again");
    let steps = [
        ("uri: /b", "uri: /bb\n    priority: 5"),
        ("name: one", "name: two"),
        ("  - id: 3\n", "  - {id: 4, uri: /d}\n  - id: 3\n"),
        ("  - id: 1\n    uri: /a\n", "  - id: 1\n    uri: /a1\n"),
        ("  # the second\n  - id: 2", "  # the other\n  - id: 22"),
        ("- id: s2\n", "- id: s3\n- id: s2\n"),
        ("#END\n", "- id: s4\n#END\n"),
    ];
    let mut text = FILE.to_owned();
    for (old, new) in steps {
        // `#END` stands within a text, too.
        let at = text.rfind(old).unwrap();
        text.replace_range(at..at + old.len(), new);
        assert_eq!(file.write(text.as_bytes()), (true, true), "{text}");
    }
    let update = file.source.load().unwrap();
    assert!(matches!(&update.changes, Changes::Part(set) if set.is_empty()), "nothing is left to do");
    let state = file.source.lock();
    let notice = &state.as_ref().unwrap().notices[0];
    assert_eq!(
        notice.to_string().rsplit('/').next().unwrap(),
        "apisix.yaml:17:1: nonsense: ignored: unknown kind of resource"
    );
}

#[test]
fn json_is_read_in_part() {
    let text = r#"{"routes": [{"id": 1, "uri": "/ä"}, {"id": 2, "uri": "/b"}], "services": [{"id": "s", "name": "${{NAME}}"}]}"#;
    let mut file = Followed::new("apisix.json");
    assert_eq!(file.write(text.as_bytes()), (true, false));
    let mut text = text.to_owned();
    for (old, new) in [
        ("/b", "/bbb"),
        (r#", {"id": 2"#, r#", {"id": 7}, {"id": 2"#),
        (r#"{"id": 1, "uri": "/ä"}, "#, ""),
        (r#"bbb"}"#, "bbb\"},\n {\"id\": 8}"),
        ("${{NAME}}", "${{PORT}}"),
    ] {
        text = text.replacen(old, new, 1);
        assert_eq!(file.write(text.as_bytes()), (true, true), "{text}");
    }
    for broken in [text.replacen("},\n", "},,", 1), text.replacen("}]", "},]", 1), text.replacen("}]", "}", 1)] {
        assert_eq!(file.write(broken.as_bytes()), (false, false), "{broken}");
    }
    assert_eq!(file.write(text.as_bytes()), (true, true));
}

#[test]
fn what_was_not_applied_comes_again() {
    let mut file = Followed::new("apisix.yaml");
    file.write(FILE.as_bytes());
    std::fs::write(file.path(), FILE.replace("/a", "/x")).unwrap();
    assert_eq!(file.check(false), (true, true), "read, then lost");
    std::fs::write(file.path(), FILE.replace("/a", "/x").replace("/c", "/y").replace("  - id: 2", "  - id: 20"))
        .unwrap();
    file.check(true);
    assert_eq!(file.held[&(Kind::Route, "1".into())].value()["uri"], "/x");
    assert_eq!(file.held.len(), 5);
    assert_eq!(file.write(FILE.as_bytes()), (true, true));
}

#[test]
fn a_half_written_version_is_never_accepted() {
    // An end mark within the file would end a version, as in APISIX.
    let base = FILE.replace("      #END", "");
    let mut file = Followed::new("apisix.yaml");
    file.write(base.as_bytes());
    let changed = base.replace("/b", "/changed").replace("- id: s2", "- id: s3\n- id: s2");
    for end in 0..changed.len() {
        std::fs::write(file.path(), &changed[..end]).unwrap();
        assert_eq!(file.check(true).0, end >= changed.trim_end().len(), "cut at {end}");
    }
    assert_eq!(file.write(changed.as_bytes()), (true, true), "the last byte was missing");
    assert_eq!(file.held.len(), 6);
}

#[test]
fn problems_have_their_places() {
    let mut file = Followed::new("apisix.yaml");
    file.write(FILE.as_bytes());
    file.write(FILE.replace("uri: /a", "uri: /a\n    name: x").as_bytes());
    let list =
        [problem(Kind::Route, "3", "/uri"), problem(Kind::Service, "s2", "/name"), problem(Kind::Route, "5", "")];
    let found: Vec<String> =
        file.source.errors(&list).iter().map(|e| e.to_string().rsplit('/').next().unwrap().to_owned()).collect();
    assert_eq!(
        found,
        ["apisix.yaml:15:5: routes[2].uri: wrong", "apisix.yaml:21:3: services[1].name: wrong", "5: wrong"]
    );
    let many: Vec<Problem> = (0..MAX_PLACED + 1).map(|_| problem(Kind::Route, "3", "/uri")).collect();
    let found = file.source.errors(&many);
    assert_eq!(found.len(), many.len());
    assert!(found.iter().all(|error| error.to_string().ends_with(":15:5: routes[2].uri: wrong")));
    drop(file.folder);
}

#[test]
fn an_empty_key_stands_where_the_next_item_begins() {
    let mut file = Followed::new("apisix.yaml");
    let text = FILE.replace("      #END\n", "    ?   #END\n");
    assert_eq!(file.write(text.as_bytes()), (true, false));
    let found = file.source.errors(&[problem(Kind::Route, "2", "/~0")]);
    assert_eq!(found[0].position.map(|p| (p.line, p.column)), Some((13, 3)));
}

#[test]
fn values_are_shared_and_unchanged_objects_not_named() {
    let mut file = Followed::new("apisix.yaml");
    file.write(FILE.as_bytes());
    let before = file.held[&(Kind::Route, "2".into())].clone();
    std::fs::write(file.path(), FILE.replace("/a", "/x")).unwrap();
    let update = file.source.load().unwrap();
    let Changes::Part(set) = update.changes else { panic!("as a whole") };
    assert_eq!(set.upserts.len(), 1);
    assert_eq!(set.upserts[0].body.value()["uri"], json!("/x"));
    let state = file.source.lock();
    assert!(std::ptr::eq(state.as_ref().unwrap().lists[0].items[1].body.as_str(), before.as_str()));
}

/// Lines that mean something to YAML, to `#END`, or to the replacement of variables.
const LINES: &[&str] = &[
    "routes:",
    "services:",
    "consumers:",
    "plugins:",
    "unknown: 1",
    "- id: 1",
    "  - id: 2",
    "  - id: 3",
    "  - uri: /x",
    "- uri: /y",
    "    uri: /a",
    "  name: b",
    "    desc: |",
    "    desc: >-",
    "      - id: 7",
    "    text",
    "  - {id: 5, uri: /f}",
    "    vars: [[a, \"==\", b]]",
    "    q: \"two",
    "  - lines\"",
    "    q: 'it''s",
    "# comment",
    "  # comment",
    "#END",
    "",
    "---",
    "...",
    "%YAML 1.2",
    "    a: &x 1",
    "    b: *x",
    "    <<: *x",
    "    e: ${{NAME}}",
    "    e: ${{NONE}}",
    "    e: ${{NONE:=1",
    "}}",
    "    p:",
    "      q: 1",
    "        r: 1",
    "- nonsense",
    "  - 7",
    "    id: 8",
    "    id: arr_2",
    "  -",
    "-   id: 9",
    "  - username: rose",
    "  - id: rose/credentials/1",
    "\t- id: 4",
    "    uri:\t/t",
    "  - ? complex",
    "    : v",
    "    l: {a: {b: 1}}",
    "    l: [1,",
    "    2]",
    "    id: 2",
    "  - !!map {id: 6}",
    "    u: ä\u{2028}ö",
    "    k: |+",
    "   x: 1",
    "  - - 1",
    "? a",
    ": b",
    "    uri: /a",
    "    uri: /z",
];

const CHARACTERS: &[&str] = &[
    " ", "  ", "-", "- ", "\n", ":", ": ", "#", "'", "\"", "{", "}", "[", "]", "|", ">", "&a", "*a", "!", "%", "\t",
    "$", "${{", "}}", ",", "a", "1", "\r", "\r\n", "\u{0}", "\u{feff}", "\u{85}", "é", "?",
];

const BASES: &[&str] = &[
    FILE,
    "routes:\n- id: 1\n  uri: /a\n- id: 2\n  uri: /b\n- id: 3\n  uri: /c\nservices:\n- id: 1\n  name: x\n- id: 2\n#END",
    "routes:\n  - uri: /a\n    name: n\n  - uri: /b\n\n  - uri: /c\n#END\n",
    "---\nservices:\n    - id: 1\n      plugins:\n        a:\n          b: |\n            text\n    - id: 2\n      name: \"x\n        y\"\nroutes:\n    - id: 1\n      uri: /a\n    - id: 2\n      uris:\n        - /a\n        - /b\n#END\n",
    "routes:\r\n  - id: 1\r\n    uri: /a\r\n  - id: 2\r\n    uri: /b\r\n#END\r\n",
    "consumers:\n  - username: rose\n    plugins: {k: {v: 1}}\n  - id: rose/credentials/a\n    plugins: {}\n  - username: tom\n    plugins: {}\nplugins:\n  - name: a\nrotues: []\n#END\n",
];

#[derive(Clone, Debug)]
enum Edit {
    Insert(usize, &'static str),
    Remove(usize, usize),
    InsertLine(usize, &'static str),
    RemoveLines(usize, usize),
    ReplaceLine(usize, &'static str),
    RepeatLines(usize, usize, usize),
    SwapLines(usize, usize),
    Truncate(usize),
    /// Back to the last accepted version.
    Restore,
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let any = any::<usize>;
    let line = || (any(), prop::sample::select(LINES));
    let edit = prop_oneof![
        4 => (any(), prop::sample::select(CHARACTERS)).prop_map(|(at, text)| Edit::Insert(at, text)),
        2 => (any(), 1usize..6).prop_map(|(at, count)| Edit::Remove(at, count)),
        4 => line().prop_map(|(at, text)| Edit::InsertLine(at, text)),
        3 => (any(), 1usize..4).prop_map(|(at, count)| Edit::RemoveLines(at, count)),
        4 => line().prop_map(|(at, text)| Edit::ReplaceLine(at, text)),
        3 => (any(), 1usize..5, any()).prop_map(|(at, count, to)| Edit::RepeatLines(at, count, to)),
        1 => (any(), any()).prop_map(|(a, b)| Edit::SwapLines(a, b)),
        1 => any().prop_map(Edit::Truncate),
        1 => Just(Edit::Restore),
    ];
    prop::collection::vec(edit, 1..8)
}

fn edit(text: &str, accepted: &str, edit: &Edit) -> String {
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    let place = |at: usize| {
        (0..=text.len()).filter(|i| text.is_char_boundary(*i)).nth(at % (text.chars().count() + 1)).unwrap()
    };
    let count = lines.len().max(1);
    let with_end = |line: &str| format!("{line}\n");
    let (a, b);
    match edit {
        Edit::Restore => return accepted.to_owned(),
        Edit::Insert(at, new) => {
            let at = place(*at);
            return format!("{}{new}{}", &text[..at], &text[at..]);
        }
        Edit::Remove(at, count) => {
            let at = place(*at);
            return text[..at].chars().chain(text[at..].chars().skip(*count)).collect();
        }
        Edit::Truncate(at) => return text[..place(*at)].to_owned(),
        Edit::InsertLine(at, new) => {
            a = with_end(new);
            lines.insert(at % count, &a);
        }
        Edit::RemoveLines(at, many) => {
            let at = at % count;
            lines.drain(at.min(lines.len())..(at + many).min(lines.len()));
        }
        Edit::ReplaceLine(at, new) => {
            b = with_end(new);
            if let Some(line) = lines.get_mut(at % count) {
                *line = &b;
            }
        }
        Edit::RepeatLines(at, many, to) => {
            let at = at % count;
            let copy = lines[at.min(lines.len())..(at + many).min(lines.len())].to_vec();
            let to = (to % count).min(lines.len());
            lines.splice(to..to, copy);
        }
        Edit::SwapLines(a, b) => {
            if !lines.is_empty() {
                lines.swap(a % count, b % count);
            }
        }
    }
    lines.concat()
}

fn follow(file: &mut Followed, base: &str, edits: &[Edit]) -> usize {
    file.write(base.as_bytes());
    let (mut text, mut accepted, mut parts) = (base.to_owned(), base.to_owned(), 0);
    for (step, change) in edits.iter().enumerate() {
        // What was broken mostly stays broken: go on from there only sometimes.
        let from = if step % 3 == 2 { &text } else { &accepted };
        text = edit(from, &accepted, change);
        let (good, partly) = file.write(text.as_bytes());
        if good {
            accepted = text.clone();
        }
        parts += usize::from(partly);
    }
    parts
}

fn cases(default: u32) -> u32 {
    std::env::var("SLUICE_TEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(300)))]

    #[test]
    fn yaml_in_part_is_yaml_as_a_whole(base in prop::sample::select(BASES), edits in edits()) {
        follow(&mut Followed::new("apisix.yaml"), base, &edits);
    }

    #[test]
    fn json_in_part_is_json_as_a_whole(
        edits in edits(),
        base in prop::sample::select(vec![
            "{\"routes\": [{\"id\": 1, \"uri\": \"/ä\"},\n  {\"id\": 2},\n  {\"id\": 3, \"a\": [1, {\"b\": \"],\"}]}],\n \"services\": [{\"id\": 1}, {\"name\": \"${{NAME}}\"}]}",
            "{\n\"routes\": [\n{\"uri\": \"/a\"},\n{\"uri\": \"/b\"},\n{\"uri\": \"/c\"}\n],\n\"x\": 1\n}\n",
        ]),
    ) {
        follow(&mut Followed::new("apisix.json"), base, &edits);
    }
}

#[test]
fn edits_of_one_line_are_mostly_read_in_part() {
    let parts: usize = (0..40)
        .map(|at| follow(&mut Followed::new("apisix.yaml"), BASES[3], &[Edit::Insert(120 + at, "x"), Edit::Restore]))
        .sum();
    assert!(parts > 40, "{parts} of 80");
}
