//! The parts of an `Authorization: Signature` field, the text that it signs, and the dates of RFC 9110, 5.6.7.
use sluice_http::Request;
use time::{Date, Month, PrimitiveDateTime, Time};

/// The field taken apart. A part that is given twice counts as last given.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Signature<'a> {
    pub key_id: Option<&'a str>,
    pub algorithm: Option<&'a str>,
    pub signature: Option<&'a str>,
    headers: Option<&'a str>,
}

impl<'a> Signature<'a> {
    /// `fields` is what follows the word `Signature`. What is not `name="value"` is passed over.
    pub fn parse(fields: &'a str) -> Signature<'a> {
        let mut signature = Signature::default();
        for (name, value) in fields.split(',').filter_map(pair) {
            match name {
                "keyId" => signature.key_id = Some(value),
                "algorithm" => signature.algorithm = Some(value),
                "signature" => signature.signature = Some(value),
                "headers" => signature.headers = Some(value),
                _ => {}
            }
        }
        signature
    }

    fn names(&self) -> impl Iterator<Item = &'a str> {
        self.headers.unwrap_or_default().split(' ').filter(|name| !name.is_empty())
    }

    /// Whether a field is among those signed. Names are compared as they are written.
    pub fn signs(&self, name: &str) -> bool {
        self.names().any(|signed| signed == name)
    }

    /// The signed text. Fields that the request does not have are left out.
    pub fn text(&self, key_id: &str, request: &Request) -> Vec<u8> {
        let mut text = Vec::with_capacity(256);
        text.extend_from_slice(key_id.as_bytes());
        text.push(b'\n');
        for name in self.names() {
            if let Some(value) = request.headers.get(name) {
                text.extend_from_slice(name.as_bytes());
                text.extend_from_slice(b": ");
                text.extend_from_slice(value);
            } else if name == "@request-target" {
                text.extend_from_slice(request.method_text().as_bytes());
                text.push(b' ');
                text.extend_from_slice(request.target().as_bytes());
            } else {
                continue;
            }
            text.push(b'\n');
        }
        text
    }
}

/// `name="value"` in one piece of the field.
fn pair(piece: &str) -> Option<(&str, &str)> {
    let (before, rest) = piece.split_once("=\"")?;
    let (value, _) = rest.split_once('"')?;
    let name = before.rsplit(|c: char| !c.is_ascii_alphanumeric()).next()?;
    (!name.is_empty()).then_some((name, value))
}

/// Seconds since the epoch. As nginx (ngx_parse_http_time) it looks neither at the day of the week nor at the zone.
pub fn http_time(text: &str) -> Option<u64> {
    let (day, month, year, clock) = match text.split_once(',') {
        Some((_, rest)) => {
            let mut parts = rest.split([' ', '-']).filter(|part| !part.is_empty());
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?)
        }
        None => {
            let mut parts = text.split(' ').filter(|part| !part.is_empty());
            let (_, month, day, clock) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
            (day, month, parts.next()?, clock)
        }
    };
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = MONTHS.iter().position(|name| *name == month)? as u8 + 1;
    let year = match (year.len(), year.parse::<i32>().ok()?) {
        (2, short) => short + if short < 70 { 2000 } else { 1900 },
        (_, year) => year,
    };
    let mut clock = clock.split(':').map(|part| part.parse::<u8>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let date = Date::from_calendar_date(year, Month::try_from(month).ok()?, day.parse().ok()?).ok()?;
    let time = Time::from_hms(hour, minute, second).ok()?;
    u64::try_from(PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (text, expected) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(784_111_777)),
            ("Sun Nov  6 08:49:37 1994", Some(784_111_777)),
            ("Mon, 06 Nov 1994 08:49:37", Some(784_111_777)),
            ("Sun, 06 Nov 1994 08:49 GMT", None),
            ("Sun, 31 Feb 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 24:49:37 GMT", None),
            ("1994-11-06T08:49:37Z", None),
            ("784111777", None),
            ("", None),
        ] {
            assert_eq!(http_time(text), expected, "{text}");
        }
    }

    #[test]
    fn parts() {
        let all = Signature::parse(r#" keyId="a b",algorithm="x", headers="@request-target date" ,signature="s=="#);
        assert_eq!((all.key_id, all.algorithm, all.signature), (Some("a b"), Some("x"), None));
        assert!(all.signs("date") && !all.signs("Date") && !all.signs(""));
        assert_eq!(Signature::parse("keyId=a,=\"b\",,algorithm"), Signature::default());
        assert_eq!(Signature::parse("keyId=\"a\",keyId=\"b\"").key_id, Some("b"));
    }
}
