//! Escaping, rotation, and dropping while the writer is stuck.
use super::*;
use proptest::prelude::*;
use sluice_expr::{Lookup, Value, Variable};
use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

struct Vars(Vec<(Variable, Vec<u8>)>);
impl Lookup for Vars {
    fn variable<'a>(&'a self, variable: &Variable) -> Option<Value<'a>> {
        self.0.iter().find(|(name, _)| name == variable).map(|(_, value)| Value::bytes(value))
    }
}

fn vars(name: &str, value: &[u8]) -> Vars {
    Vars(vec![(Variable::parse(name), value.to_vec())])
}

fn render(format: &str, escape: Escape, vars: &Vars) -> Vec<u8> {
    let mut out = Vec::new();
    AccessLogFormat::compile(format, escape).render(vars, SystemTime::UNIX_EPOCH, &mut out);
    out
}

#[test]
fn escapes_and_missing_values_as_nginx() {
    let value = vars("route_id", b"a\"\\\n\x7f\xc3");
    let format = "<$route_id> ${route_id}x \"$consumer_name\" $5$ $msec\n";
    let expected: [(Escape, &[u8]); 3] = [
        (Escape::Default, b"<a\\x22\\x5C\\x0A\\x7F\\xC3> a\\x22\\x5C\\x0A\\x7F\\xC3x \"-\" -$ 0.000\n"),
        (Escape::Json, b"<a\\\"\\\\\\n\x7f\xc3> a\\\"\\\\\\n\x7f\xc3x \"\" $ 0.000\n"),
        (Escape::None, b"<a\"\\\n\x7f\xc3> a\"\\\n\x7f\xc3x \"\" $ 0.000\n"),
    ];
    for (escape, expected) in expected {
        let line = render(format, escape, &value);
        assert_eq!(String::from_utf8_lossy(&line), String::from_utf8_lossy(expected));
    }
}

#[test]
fn request_uri_is_what_the_client_sent() {
    let value = Vars(vec![
        (Variable::parse("request_uri"), b"/b".to_vec()),
        (Variable::parse("real_request_uri"), b"/a/../b".to_vec()),
    ]);
    assert_eq!(render("$request_uri ${request_uri}", Escape::Default, &value), b"/a/../b /a/../b\n");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn json_lines_read_back(text in any::<String>()) {
        let line = render("{\"v\":\"$route_id\"}", Escape::Json, &vars("route_id", text.as_bytes()));
        let read: serde_json::Value = serde_json::from_slice(&line).unwrap();
        prop_assert_eq!(read["v"].as_str().unwrap(), text);
    }
    #[test]
    fn default_lines_are_one_line_of_ascii(bytes in any::<Vec<u8>>()) {
        let line = render("$route_id", Escape::Default, &vars("route_id", &bytes));
        prop_assert!(line[..line.len() - 1].iter().all(|byte| (32..=126).contains(byte)));
    }
}

fn log(writer: &mut AccessLogWriter, id: &str) {
    let format = AccessLogFormat::compile("id=$route_id", Escape::Default);
    writer.log(&format, &vars("route_id", id.as_bytes()), SystemTime::now(), Instant::now());
}

#[test]
fn reopens_after_a_rename() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let log_file = AccessLog::open(AccessLogTarget::File(path.clone()), AccessLogOptions::default()).unwrap();
    let mut writer = log_file.writer();
    let limit = Duration::from_secs(10);
    log(&mut writer, "1");
    writer.flush();
    assert!(log_file.sync(limit));
    std::fs::rename(&path, &old).unwrap();
    log_file.reopen();
    log(&mut writer, "2");
    drop(writer);
    assert!(log_file.sync(limit));
    assert_eq!(std::fs::read_to_string(&old).unwrap(), "id=1\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "id=2\n");
    assert_eq!(log_file.stats(), AccessLogStats { written: 2, dropped: 0, failed: 0 });
}

/// Says when a write begins and waits to be let go.
struct Stuck(Sender<()>, Receiver<()>);
impl Write for Stuck {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.send(());
        let _ = self.1.recv();
        Ok(buffer.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn drops_and_counts_when_the_writer_is_stuck() {
    let ((began, wait), (release, blocked)) = (channel(), channel());
    let options = AccessLogOptions { buffer: 1, queue: 2, ..AccessLogOptions::default() };
    let log_file = AccessLog::with_sink(Box::new(Stuck(began, blocked)), options).unwrap();
    let mut writer = log_file.writer();
    log(&mut writer, "first");
    wait.recv().unwrap();
    (0..7).for_each(|_| log(&mut writer, "more"));
    assert_eq!(log_file.stats(), AccessLogStats { written: 0, dropped: 5, failed: 0 });
    drop(release);
    assert!(log_file.sync(Duration::from_secs(10)));
    assert_eq!(log_file.stats(), AccessLogStats { written: 3, dropped: 5, failed: 0 });
}

#[test]
fn a_buffer_is_handed_over_by_age() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    let log_file = AccessLog::open(AccessLogTarget::File(path.clone()), AccessLogOptions::default()).unwrap();
    let mut writer = log_file.writer();
    let start = Instant::now();
    let format = AccessLogFormat::compile("x", Escape::None);
    writer.log(&format, &Vars(Vec::new()), SystemTime::now(), start);
    writer.flush_due(start + Duration::from_secs(2));
    assert!(log_file.sync(Duration::from_secs(10)));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    writer.flush_due(start + Duration::from_secs(3));
    assert!(log_file.sync(Duration::from_secs(10)));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "x\n");
}

#[test]
fn targets_have_nginx_names_and_bad_paths_are_errors() {
    assert_eq!(AccessLogTarget::parse("off"), AccessLogTarget::Off);
    assert_eq!(AccessLogTarget::parse("/dev/stdout"), AccessLogTarget::Stdout);
    let bad = AccessLogTarget::parse("/nonexistent/dir/a.log");
    assert!(AccessLog::open(bad, AccessLogOptions::default()).is_err());
    let off = AccessLog::open(AccessLogTarget::Off, AccessLogOptions::default()).unwrap();
    log(&mut off.writer(), "x");
    assert!(off.sync(Duration::ZERO));
    assert_eq!(off.stats(), AccessLogStats::default());
}
