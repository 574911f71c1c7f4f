//! XML as xml2lua's tree handler shows it: elements are fields, text is an item, attributes are the field `_attr`.
//!
//! The surprises, kept because templates rely on them: an element with text and no attributes is that text alone, whatever elements
//! it has beside; one with neither is an empty text; elements of the same name are a list; names lose their prefix
//! (apisix/plugins/body-transformer.lua `remove_namespace`). Entities of a DTD are not expanded and nothing is fetched.

use std::collections::HashMap;

/// Elements within each other.
const DEPTH: usize = 256;

/// A value of the tree.
#[derive(Debug, PartialEq)]
pub(crate) enum Node {
    Text(Vec<u8>),
    /// Items (text, or elements of one name) and fields.
    Table(Vec<Node>, Vec<(Vec<u8>, Node)>),
}

#[derive(Default)]
struct Element {
    name: Vec<u8>,
    attributes: Vec<(Vec<u8>, Node)>,
    texts: Vec<Node>,
    children: Vec<(Vec<u8>, Vec<Node>)>,
    /// Where in `children` a name is; a document may have very many.
    places: HashMap<Vec<u8>, usize>,
}

/// Why text is no XML, in xml2lua's words, and where (counted from 1).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} [char={1}]")]
pub(crate) struct XmlError(&'static str, usize);

const XML: &str = "Error Parsing XML";
const UNBALANCED: &str = "Unbalanced Tag";
const INCOMPLETE: &str = "Incomplete XML Document";

fn find(text: &[u8], from: usize, needle: &[u8]) -> Option<usize> {
    let rest = text.get(from..)?;
    rest.windows(needle.len()).position(|w| w == needle).map(|at| from + at)
}

fn local(name: &[u8]) -> Vec<u8> {
    name.rsplit(|b| *b == b':').next().unwrap_or_default().to_vec()
}

impl Element {
    fn add(&mut self, name: Vec<u8>, node: Node) {
        match self.places.get(&name).and_then(|at| self.children.get_mut(*at)) {
            Some((_, nodes)) => nodes.push(node),
            None => {
                self.places.insert(name.clone(), self.children.len());
                self.children.push((name, vec![node]));
            }
        }
    }

    fn finish(mut self) -> Node {
        if self.attributes.is_empty() && (self.texts.len() == 1 || self.children.is_empty() && self.texts.is_empty()) {
            return self.texts.pop().unwrap_or(Node::Text(Vec::new()));
        }
        let mut fields: Vec<(Vec<u8>, Node)> = Vec::with_capacity(self.children.len() + 1);
        for (name, mut nodes) in self.children {
            let node = match (nodes.len(), nodes.pop()) {
                (1, Some(node)) => node,
                (_, Some(last)) => {
                    nodes.push(last);
                    Node::Table(nodes, Vec::new())
                }
                _ => continue,
            };
            fields.push((local(&name), node));
        }
        if !self.attributes.is_empty() {
            fields.push((b"_attr".to_vec(), Node::Table(Vec::new(), self.attributes)));
        }
        Node::Table(self.texts, fields)
    }
}

/// Reads a document.
pub(crate) fn parse(text: &[u8]) -> Result<Node, XmlError> {
    let error = |what, at| Err(XmlError(what, at + 1));
    let mut root = Element::default();
    let mut open: Vec<Element> = Vec::new();
    let mut at = 0;
    while let Some(start) = find(text, at, b"<") {
        let before = text.get(at..start).unwrap_or_default().trim_ascii();
        if !before.is_empty() {
            match open.last_mut() {
                Some(element) => element.texts.push(Node::Text(entities(before))),
                None => return error(XML, at),
            }
        }
        let rest = text.get(start..).unwrap_or_default();
        if rest.starts_with(b"<!--") {
            at = match find(text, start + 4, b"-->") {
                Some(end) => end + 3,
                None => return error("Error Parsing Comment", start),
            };
        } else if rest.starts_with(b"<![CDATA[") {
            let Some(end) = find(text, start + 9, b"]]>") else { return error("Error Parsing CDATA", start) };
            match open.last_mut() {
                Some(element) => element.texts.push(Node::Text(text.get(start + 9..end).unwrap_or_default().to_vec())),
                None => return error(XML, start),
            }
            at = end + 3;
        } else if rest.starts_with(b"<?") {
            at = match find(text, start + 2, b"?>") {
                Some(end) => end + 2,
                None => return error("Error Parsing Processing Instruction", start),
            };
        } else if rest.starts_with(b"<!") {
            at = match doctype(text, start) {
                Some(end) => end,
                None => return error("Error Parsing DTD", start),
            };
        } else if rest.starts_with(b"</") {
            let Some(end) = find(text, start, b">") else { return error(XML, start) };
            let name = text.get(start + 2..end).unwrap_or_default().trim_ascii();
            match open.pop() {
                Some(element) if element.name == name => close(element, &mut open, &mut root),
                _ => return error(UNBALANCED, start),
            }
            at = end + 1;
        } else {
            let Some(end) = tag_end(text, start) else { return error(XML, start) };
            let inside = text.get(start + 1..end).unwrap_or_default();
            let (inside, empty) = match inside.strip_suffix(b"/") {
                Some(inside) => (inside, true),
                None => (inside, false),
            };
            let Some(element) = element(inside) else { return error(XML, start) };
            if empty {
                close(element, &mut open, &mut root);
            } else if open.len() >= DEPTH {
                return error("Error Parsing XML: nested too deeply", start);
            } else {
                open.push(element);
            }
            at = end + 1;
        }
    }
    if !open.is_empty() {
        return error(INCOMPLETE, text.len());
    }
    let after = text.get(at..).unwrap_or_default();
    if !after.trim_ascii().is_empty() || root.children.is_empty() {
        return error(XML, at);
    }
    Ok(root.finish())
}

fn close(element: Element, open: &mut [Element], root: &mut Element) {
    let name = element.name.clone();
    open.last_mut().unwrap_or(root).add(name, element.finish());
}

/// Where a tag ends; `>` in a quoted value does not end it.
fn tag_end(text: &[u8], start: usize) -> Option<usize> {
    let mut quote = None;
    for (i, byte) in text.get(start..)?.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(start + i),
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(q), b) if q == *b => quote = None,
            _ => {}
        }
    }
    None
}

/// Past `<!DOCTYPE …>` with its internal subset.
fn doctype(text: &[u8], start: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (i, byte) in text.get(start..)?.iter().enumerate() {
        match byte {
            b'[' => depth += 1,
            b']' => depth = depth.saturating_sub(1),
            b'>' if depth == 0 => return Some(start + i + 1),
            _ => {}
        }
    }
    None
}

/// Name and attributes of a start tag.
fn element(inside: &[u8]) -> Option<Element> {
    let end = inside.iter().position(u8::is_ascii_whitespace).unwrap_or(inside.len());
    let (name, mut rest) = inside.split_at_checked(end)?;
    if name.is_empty() || !name.iter().all(|b| b.is_ascii_alphanumeric() || *b >= 0x80 || b"_:.-".contains(b)) {
        return None;
    }
    let mut attributes = Vec::new();
    loop {
        rest = rest.trim_ascii_start();
        let Some(equals) = rest.iter().position(|b| *b == b'=') else { break };
        let name = local(rest.get(..equals)?.trim_ascii());
        let value = rest.get(equals + 1..)?.trim_ascii_start();
        let quote = *value.first().filter(|b| matches!(b, b'"' | b'\''))?;
        let value = value.get(1..)?;
        let end = value.iter().position(|b| *b == quote)?;
        attributes.push((name, Node::Text(entities(value.get(..end)?))));
        rest = value.get(end + 1..)?;
    }
    Some(Element { name: name.to_vec(), attributes, ..Element::default() })
}

/// The five entities and character references; others stay as they are.
fn entities(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.iter().position(|b| *b == b'&') {
        out.extend_from_slice(rest.get(..at).unwrap_or_default());
        rest = rest.get(at..).unwrap_or_default();
        let end = rest.iter().take(12).position(|b| *b == b';');
        let name = end.and_then(|end| rest.get(1..end)).and_then(|name| std::str::from_utf8(name).ok());
        let known = name.and_then(|name| match name {
            "lt" => Some('<'),
            "gt" => Some('>'),
            "amp" => Some('&'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            _ => {
                let number = name.strip_prefix('#')?;
                let code = match number.strip_prefix(['x', 'X']) {
                    Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                    None => number.parse().ok()?,
                };
                char::from_u32(code)
            }
        });
        match (known, end) {
            (Some(c), Some(end)) => {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = rest.get(end + 1..).unwrap_or_default();
            }
            _ => {
                out.push(b'&');
                rest = rest.get(1..).unwrap_or_default();
            }
        }
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(s: &str) -> Node {
        Node::Text(s.into())
    }
    fn table(items: Vec<Node>, fields: Vec<(&str, Node)>) -> Node {
        Node::Table(items, fields.into_iter().map(|(n, v)| (n.into(), v)).collect())
    }

    #[test]
    fn elements_text_attributes_and_lists() {
        let document = br#"<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "y">]>
            <!-- <no> --><s:a xmlns:s="u"><s:b>1 &lt; 2 &#65;&#x20ac;&x;</s:b><c k='v>"'>t</c><d/><d> x </d><e></e>
            <f><![CDATA[<raw> ]]></f></s:a>"#;
        let expected = table(
            vec![],
            vec![(
                "a",
                table(
                    vec![],
                    vec![
                        ("b", text("1 < 2 A\u{20ac}&x;")),
                        ("c", table(vec![text("t")], vec![("_attr", table(vec![], vec![("k", text("v>\""))]))])),
                        ("d", table(vec![text(""), text("x")], vec![])),
                        ("e", text("")),
                        ("f", text("<raw> ")),
                        ("_attr", table(vec![], vec![("s", text("u"))])),
                    ],
                ),
            )],
        );
        assert_eq!(parse(document), Ok(expected));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn no_input_is_too_strange(text in "[<>/ab&;#x1!\\[\\]'\"= -]{0,60}") {
            let _ = parse(text.as_bytes());
        }

        #[test]
        fn what_was_escaped_comes_back(text in "[^\\s\\x00-\\x1f]{1,40}") {
            let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
            let expected = table(vec![], vec![("a", super::tests::text(&text))]);
            prop_assert_eq!(parse(format!("<a>{escaped}</a>").as_bytes()), Ok(expected));
        }
    }

    #[test]
    fn what_is_no_xml_is_told_with_its_place() {
        let fails = |text: &str| parse(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(fails(r#"{"name":"x"}"#), "Error Parsing XML [char=1]");
        assert_eq!(fails(""), "Error Parsing XML [char=1]");
        assert_eq!(fails("<a></b>"), "Unbalanced Tag [char=4]");
        assert_eq!(fails("<a>"), "Incomplete XML Document [char=4]");
        assert_eq!(fails("<a/>x"), "Error Parsing XML [char=5]");
        assert_eq!(fails("<a b=1/>"), "Error Parsing XML [char=1]");
        for text in ["<", "<>", "</a>", "<!--", "<![CDATA[x]]>", "<?", "<!x", "<a b='>"] {
            fails(text);
        }
        assert!(fails(&"<a>".repeat(300)).starts_with("Error Parsing XML: nested too deeply"));
    }
}
