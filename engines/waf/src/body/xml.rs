//! XML: texts and attribute values. Entities of the document's own are never expanded.

use super::Body;
use quick_xml::Reader;
use quick_xml::events::Event;

/// Elements within elements.
const DEPTH: usize = 256;

pub(crate) fn read(text: &[u8]) -> Result<Body, String> {
    let text = String::from_utf8_lossy(text);
    let mut reader = Reader::from_str(&text);
    let mut body = Body::default();
    let mut all = Vec::new();
    let mut depth = 0usize;
    let malformed = |e: &dyn std::fmt::Display| format!("the XML body is malformed: {e}");
    loop {
        match reader.read_event().map_err(|e| malformed(&e))? {
            Event::Start(element) => {
                depth += 1;
                if depth > DEPTH {
                    return Err(format!("the XML body is more than {DEPTH} elements deep"));
                }
                attributes(&element, &mut body).map_err(|e| malformed(&e))?;
            }
            Event::Empty(element) => attributes(&element, &mut body).map_err(|e| malformed(&e))?,
            Event::End(_) => depth = depth.saturating_sub(1),
            Event::Text(part) => all.extend_from_slice(part.as_bytes()),
            Event::CData(part) => all.extend_from_slice(part.as_bytes()),
            Event::GeneralRef(name) => match name.resolve_char_ref() {
                Ok(Some(c)) => all.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                _ => all.extend_from_slice(match &*name {
                    "lt" => b"<".as_slice(),
                    "gt" => b">",
                    "amp" => b"&",
                    "quot" => b"\"",
                    "apos" => b"'",
                    _ => b"",
                }),
            },
            Event::Eof if depth > 0 => return Err("the XML body ends within an element".to_owned()),
            Event::Eof => break,
            _ => {}
        }
    }
    body.xml.push(("/*", all));
    Ok(body)
}

fn attributes(element: &quick_xml::events::BytesStart<'_>, body: &mut Body) -> Result<(), String> {
    for attribute in element.attributes().with_checks(false) {
        let attribute = attribute.map_err(|e| e.to_string())?;
        // a reference to an entity of the document's own stays as it is
        let value = match quick_xml::escape::unescape(&attribute.value) {
            Ok(value) => value.into_owned(),
            Err(_) => attribute.value.into_owned(),
        };
        body.xml.push(("//@*", value.into_bytes()));
    }
    Ok(())
}
