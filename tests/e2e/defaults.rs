//! `sluice run` without any file: built-in defaults, a generated key, and the two commands that it prints. The surprise: it
//! needs the default ports, so the test runs in a network of its own where it may make one, and says so where not.

use crate::start::binary;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

#[test]
fn the_printed_commands_work() {
    let folder = tempfile::tempdir().unwrap();
    let own_network = Command::new("unshare").args(["--net", "true"]).status().is_ok_and(|status| status.success());
    if !own_network {
        eprintln!("skipped: no network namespace may be made here (unshare --net), and port 9080 may be in use");
        return;
    }
    // What is printed between "Try:" and the end is given to a shell in the same network and folder.
    let script = format!("ip link set lo up && exec {} run", binary().display());
    let mut gateway = Command::new("unshare")
        .args(["--net", "sh", "-c", &script])
        .current_dir(&folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut printed = BufReader::new(gateway.stdout.take().unwrap()).lines().map_while(Result::ok);
    let commands: Vec<String> = printed.by_ref().skip_while(|line| !line.starts_with("Try:")).take(3).collect();
    let text = commands.join("\n").replacen("Try:", "", 1);
    let pid = gateway.id().to_string();
    let out =
        Command::new("nsenter").args(["--net", "-t", &pid, "sh", "-c", &text]).current_dir(&folder).output().unwrap();
    let _ = rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(gateway.id()).unwrap()).unwrap(),
        rustix::process::Signal::TERM,
    );
    gateway.wait().unwrap();
    let answers = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(answers.contains("/apisix/routes/1"), "{text}\n{answers}\n{}", String::from_utf8_lossy(&out.stderr));
    assert!(answers.contains("HTTP/1.1 200 OK"), "{answers}");
    assert!(folder.path().join("data/admin.key").exists());
}
