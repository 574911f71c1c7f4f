//! The time as logs print it, formatted once per second and thread. The surprise: `$msec` is not rounded to the second;
//! only its whole part is cached.
use std::cell::RefCell;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};
use time::{OffsetDateTime, UtcOffset};

/// A second's texts.
struct Cached {
    second: i64,
    local: Vec<u8>,
    iso8601: Vec<u8>,
    error_log: Vec<u8>,
    http: Vec<u8>,
}

impl Cached {
    /// No second yet, so that the first one asked for is formatted.
    const fn new() -> Cached {
        Cached { second: i64::MIN, local: Vec::new(), iso8601: Vec::new(), error_log: Vec::new(), http: Vec::new() }
    }
}

thread_local! {
    static CACHED: RefCell<Cached> = const { RefCell::new(Cached::new()) };
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

fn fill(cached: &mut Cached, second: i64) {
    let utc = OffsetDateTime::from_unix_timestamp(second).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    // Asked each second, so that daylight saving time is followed. UTC when the system cannot say.
    let offset = UtcOffset::local_offset_at(utc).unwrap_or(UtcOffset::UTC);
    fill_at(cached, second, utc.to_offset(offset), offset);
    fill_http(cached, utc);
}

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

fn fill_http(cached: &mut Cached, utc: OffsetDateTime) {
    let day = DAYS.get(usize::from(utc.weekday().number_days_from_monday())).copied().unwrap_or("");
    let month = MONTHS.get(usize::from(u8::from(utc.month())).saturating_sub(1)).copied().unwrap_or("");
    let (hour, minute, second) = utc.to_hms();
    let (date, year) = (utc.day(), utc.year());
    let _ = write!(cached.http, "{day}, {date:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT");
}

fn fill_at(cached: &mut Cached, second: i64, at: OffsetDateTime, offset: UtcOffset) {
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, sec) = at.to_hms();
    let sign = if offset.is_negative() { '-' } else { '+' };
    let (off_h, off_m) = (offset.whole_hours().unsigned_abs(), offset.minutes_past_hour().unsigned_abs());
    let name = MONTHS.get(usize::from(month).saturating_sub(1)).copied().unwrap_or("");
    cached.second = second;
    for text in [&mut cached.local, &mut cached.iso8601, &mut cached.error_log, &mut cached.http] {
        text.clear();
    }
    // Writing to a Vec cannot fail.
    let _ = write!(cached.local, "{day:02}/{name}/{year}:{hour:02}:{minute:02}:{sec:02} {sign}{off_h:02}{off_m:02}");
    let _ = write!(
        cached.iso8601,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{sec:02}{sign}{off_h:02}:{off_m:02}"
    );
    let _ = write!(cached.error_log, "{year:04}/{month:02}/{day:02} {hour:02}:{minute:02}:{sec:02}");
}

fn append(now: SystemTime, out: &mut Vec<u8>, pick: impl FnOnce(&Cached) -> &[u8]) {
    let second = since_epoch(now).0;
    CACHED.with_borrow_mut(|cached| {
        if cached.second != second {
            fill(cached, second);
        }
        out.extend_from_slice(pick(cached));
    });
}

fn since_epoch(now: SystemTime) -> (i64, u32) {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_millis())
}

/// nginx's `$time_local`: `23/Nov/2026:13:00:00 +0000`.
pub fn time_local(now: SystemTime, out: &mut Vec<u8>) {
    append(now, out, |cached| &cached.local);
}

/// nginx's `$time_iso8601`: `2026-11-23T13:00:00+00:00`.
pub fn time_iso8601(now: SystemTime, out: &mut Vec<u8>) {
    append(now, out, |cached| &cached.iso8601);
}

/// As in nginx's error log: `2026/11/23 13:00:00`.
pub fn time_error_log(now: SystemTime, out: &mut Vec<u8>) {
    append(now, out, |cached| &cached.error_log);
}

/// As the `Date` field has it (RFC 9110 section 5.6.7): `Mon, 23 Nov 2026 13:00:00 GMT`.
pub fn http_date(now: SystemTime, out: &mut Vec<u8>) {
    append(now, out, |cached| &cached.http);
}

/// nginx's `$msec`: Unix time with milliseconds, `1795438800.123`.
pub fn msec(now: SystemTime, out: &mut Vec<u8>) {
    let (second, millis) = since_epoch(now);
    out.extend_from_slice(itoa::Buffer::new().format(second).as_bytes());
    let digit = |n: u32| b'0' + (n % 10) as u8;
    out.extend_from_slice(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn texts(second: i64, offset: UtcOffset) -> [String; 3] {
        let mut cached = Cached::new();
        let at = OffsetDateTime::from_unix_timestamp(second).unwrap().to_offset(offset);
        fill_at(&mut cached, second, at, offset);
        [cached.local, cached.iso8601, cached.error_log].map(|text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn formats_as_nginx() {
        let second = 1_795_438_800;
        let utc = ["23/Nov/2026:13:00:00 +0000", "2026-11-23T13:00:00+00:00", "2026/11/23 13:00:00"];
        assert_eq!(texts(second, UtcOffset::UTC), utc);
        let west = UtcOffset::from_hms(-3, -30, 0).unwrap();
        let there = ["23/Nov/2026:09:30:00 -0330", "2026-11-23T09:30:00-03:30", "2026/11/23 09:30:00"];
        assert_eq!(texts(second, west), there);
    }

    #[test]
    fn the_date_field_has_the_form_of_rfc_9110() {
        let mut out = Vec::new();
        http_date(UNIX_EPOCH + Duration::from_secs(784_111_777), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn a_new_second_is_a_new_text() {
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        let mut out = Vec::new();
        for millis in [1_795_438_800_007, 1_795_438_800_999, 1_795_438_801_120] {
            msec(at(millis), &mut out);
            out.push(b' ');
        }
        assert_eq!(out, b"1795438800.007 1795438800.999 1795438801.120 ");
        let text = |millis| {
            let mut out = Vec::new();
            time_iso8601(at(millis), &mut out);
            out
        };
        let first = text(1_795_438_800_007);
        assert_eq!(first, text(1_795_438_800_999));
        assert_ne!(first, text(1_795_438_801_000));
    }
}
