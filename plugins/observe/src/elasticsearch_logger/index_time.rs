//! Times in names of indexes, in strftime's letters as Lua's `os.date` takes them. The surprise: `*t` and conversions that C
//! does not know give nothing, as APISIX makes of them.
use std::fmt::Write;
use std::time::SystemTime;
use time::{OffsetDateTime, UtcOffset};

/// A format such as `%Y.%m.%d`.
#[derive(Debug)]
pub struct TimeFormat {
    utc: bool,
    /// None: gives an empty text.
    format: Option<Box<str>>,
}

const KNOWN: &str = "aAbBcdDeFHIjmMnprRStTyYxXuwzZC%h";

impl TimeFormat {
    pub fn compile(text: &str) -> TimeFormat {
        let (utc, format) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let mut letters = format.chars();
        let mut known = !format.starts_with("*t");
        while let Some(letter) = letters.next() {
            known &= letter != '%' || letters.next().is_some_and(|l| KNOWN.contains(l));
        }
        if !known {
            tracing::error!("failed to parse time format: {text}");
        }
        TimeFormat { utc, format: known.then(|| format.into()) }
    }

    pub fn render(&self, now: SystemTime) -> String {
        let Some(format) = &self.format else { return String::new() };
        let at = OffsetDateTime::from(now);
        let offset = if self.utc { UtcOffset::UTC } else { UtcOffset::local_offset_at(at).unwrap_or(UtcOffset::UTC) };
        let mut out = String::with_capacity(format.len() + 8);
        write(at.to_offset(offset), format, &mut out);
        out
    }
}

fn write(at: OffsetDateTime, format: &str, out: &mut String) {
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter == '%' {
            conversion(at, letters.next().unwrap_or('%'), out);
        } else {
            out.push(letter);
        }
    }
}

fn conversion(at: OffsetDateTime, letter: char, out: &mut String) {
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = at.to_hms();
    let noon = |h: u8| (h + 11) % 12 + 1;
    let month_name = at.month().to_string();
    let day_name = at.weekday().to_string();
    let short = |name: &str| name.get(..3).unwrap_or_default().to_owned();
    // Writing to a String cannot fail.
    let _ = match letter {
        'a' => write!(out, "{}", short(&day_name)),
        'A' => write!(out, "{day_name}"),
        'b' | 'h' => write!(out, "{}", short(&month_name)),
        'B' => write!(out, "{month_name}"),
        'C' => write!(out, "{:02}", year / 100),
        'd' => write!(out, "{day:02}"),
        'e' => write!(out, "{day:2}"),
        'H' => write!(out, "{hour:02}"),
        'I' => write!(out, "{:02}", noon(hour)),
        'j' => write!(out, "{:03}", at.ordinal()),
        'm' => write!(out, "{month:02}"),
        'M' => write!(out, "{minute:02}"),
        'n' => out.write_char('\n'),
        'p' => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }),
        'S' => write!(out, "{second:02}"),
        't' => out.write_char('\t'),
        'u' => write!(out, "{}", at.weekday().number_from_monday()),
        'w' => write!(out, "{}", at.weekday().number_days_from_sunday()),
        'y' => write!(out, "{:02}", year.rem_euclid(100)),
        'Y' => write!(out, "{year}"),
        'z' => {
            let minutes = at.offset().whole_minutes();
            let sign = if minutes < 0 { '-' } else { '+' };
            write!(out, "{sign}{:02}{:02}", minutes.abs() / 60, minutes.abs() % 60)
        }
        'Z' => write!(out, "{}", if at.offset().is_utc() { "UTC" } else { "" }),
        'F' => return write(at, "%Y-%m-%d", out),
        'D' | 'x' => return write(at, "%m/%d/%y", out),
        'R' => return write(at, "%H:%M", out),
        'T' | 'X' => return write(at, "%H:%M:%S", out),
        'r' => return write(at, "%I:%M:%S %p", out),
        'c' => return write(at, "%a %b %e %H:%M:%S %Y", out),
        other => write!(out, "{other}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn formats_as_lua() {
        let at = UNIX_EPOCH + Duration::from_secs(1_795_438_801);
        let render = |format: &str| TimeFormat::compile(format).render(at);
        assert_eq!(render("!%Y.%m.%d"), "2026.11.23");
        assert_eq!(render("!%F %T %j %a %B %y"), "2026-11-23 13:00:01 327 Mon November 26");
        assert_eq!(
            (render("*t"), render("!*t"), render("%Q"), render("100%")),
            <(String, String, String, String)>::default()
        );
        assert_eq!(render("plain"), "plain");
    }
}
