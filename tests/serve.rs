//! The site as it is served: what a browser, a scraper, a sender of reports and a stranger get, each
//! over a real connection.
#![allow(clippy::unwrap_used)]

mod program;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use program::*;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn published(place: &str) -> Vec<u8> {
    fs::read(repository().join("reports").join(place)).unwrap()
}

const ONE: &str = "swiftshader-device/2026-11-23-vulkan.json";
const OTHER: &str = "llvmpipe/2026-11-23-gl.json";

/// A server that ends with its test.
struct Server {
    child: Child,
    /// `127.0.0.1:PORT`.
    host: String,
    /// What it prints; only asked for where it can be ended by a signal.
    #[cfg_attr(not(unix), allow(dead_code))]
    said: Option<std::thread::JoinHandle<String>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The one line that says what was wrong.
    fn complaint(&self, status: u16) -> &str {
        assert_eq!(self.status, status, "{self:?}");
        let line = self.text().strip_suffix('\n').unwrap();
        assert!(!line.contains('\n'), "{line}");
        line
    }
}

impl Server {
    /// Serves `folder/reports`, which need not be there.
    fn start(folder: &Path, more: &[&str]) -> Self {
        fs::create_dir_all(folder.join("reports")).unwrap();
        let arguments = [&["serve", "reports", "--address", "127.0.0.1:0"], more].concat();
        let mut child = start(folder, &arguments);
        let said = text(child.stderr.take().unwrap());
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let host = line
            .strip_prefix("http://")
            .and_then(|rest| rest.strip_suffix("/\n"))
            .unwrap_or_else(|| panic!("the first line is no address: {line:?}"))
            .to_owned();
        let said = Some(said);
        Self { child, host, said }
    }

    fn send(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(HANG_S)))
            .unwrap();
        let host = format!("Host: {}", self.host);
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|header| header.starts_with("Host:")) {
            head += &format!("{host}\r\n");
        }
        for header in headers {
            head += &format!("{header}\r\n");
        }
        if !body.is_empty() {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        // A server that refuses a body does not read it.
        let _ = stream.write_all(body);
        read(stream)
    }

    fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], &[])
    }

    fn post(&self, body: &[u8]) -> Answer {
        self.send("POST", "/reports", &[], body)
    }

    /// Asks until it is so.
    fn until(&self, what: &str, mut holds: impl FnMut(&Value) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(HANG_S);
        loop {
            let health = self.get("/healthz").json();
            if holds(&health) {
                return;
            }
            assert!(Instant::now() < deadline, "never: {what}: {health}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Asks it to stop as a system does, and returns what it said meanwhile.
    #[cfg(unix)]
    fn stop(mut self) -> String {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").arg(id).status().unwrap().success());
        assert_eq!(wait(&mut self.child), 0);
        self.said.take().unwrap().join().unwrap()
    }
}

fn read(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    // Where the server had no wish for the rest of a body, the end may come as a reset.
    let _ = stream.read_to_end(&mut bytes);
    let end = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(&bytes)));
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    Answer {
        status: status.parse().unwrap(),
        headers: lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect(),
        body: bytes[end + 4..].to_owned(),
    }
}

#[test]
fn reports_are_sent_and_found_and_pages_and_metrics_follow() {
    let folder = folder();
    let server = Server::start(folder.path(), &[]);
    let empty = server.get("/");
    assert_eq!(empty.status, 200);
    assert_eq!(empty.headers["content-type"], "text/html; charset=utf-8");
    assert!(empty.headers["content-security-policy"].contains("frame-ancestors 'none'"));
    assert_eq!(empty.headers["x-content-type-options"], "nosniff");
    assert!(server.get("/metrics").text().ends_with("# EOF\n"));
    let before = server.get("/healthz").json();
    assert_eq!(before["reports"], 0);

    let one = published(ONE);
    let stored = server.post(&one);
    assert_eq!(stored.status, 201, "{stored:?}");
    let place = stored.json()["place"].as_str().unwrap().to_owned();
    let lies = folder.path().join("reports").join(&place);
    assert_eq!(fs::read(&lies).unwrap(), one, "not as it was sent");
    // It can be had at once, though the pages follow.
    let back = server.get(&stored.headers["location"]);
    assert_eq!((back.status, &back.body), (200, &one));
    server.until("the report is on the pages", |health| {
        health["reports"] == 1 && health["version"] != before["version"]
    });
    let again = server.post(&one);
    assert_eq!((again.status, again.json()), (200, stored.json()));
    assert_eq!(reports(&folder.path().join("reports")), [lies]);

    // What others put there is found, and so is what cannot be believed.
    let at = |name: &str| folder.path().join("reports").join(name);
    fs::write(at("other.json"), published(OTHER)).unwrap();
    fs::write(at("cut.json"), &one[..one.len() / 2]).unwrap();
    server.until("what was put there", |health| {
        health["reports"] == 2 && health["left_out"] == 1
    });
    let page = server.get("/reports.html");
    assert!(page.text().contains("href=\"reports/other.json\""));
    assert!(page.text().contains("cut.json"));
    assert_eq!(server.get("/reports/other.json").body, published(OTHER));
    for unknown in ["/reports/cut.json", "/reports/", "/chips/", "/nothing"] {
        server.get(unknown).complaint(404);
    }
    let metrics = server.get("/metrics");
    assert!(metrics.headers["content-type"].starts_with("application/openmetrics-text"));
    let holds = |line: &str| metrics.text().lines().any(|one| one == line);
    assert!(holds("chipmark_served_reports 2"));
    assert!(holds("chipmark_served_files_left_out 1"));
    assert!(metrics.text().contains("chipmark_case_duration_seconds{"));

    // Pages are sent again only if they have changed.
    let tag = format!("If-None-Match: {}", page.headers["etag"]);
    let same = server.send("GET", "/reports.html", &[&tag], &[]);
    assert_eq!((same.status, same.body.len()), (304, 0));
    let head = server.send("HEAD", "/reports.html", &[], &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.headers["content-length"], page.body.len().to_string());

    fs::remove_file(at("other.json")).unwrap();
    server.until("it is gone", |health| health["reports"] == 1);
    server.get("/reports/other.json").complaint(404);
    #[cfg(unix)]
    {
        let said = server.stop();
        assert!(said.contains("taken in"), "{said}");
    }
}

#[test]
fn what_is_no_report_to_believe_is_refused_with_the_reason_and_leaves_nothing() {
    let folder = folder();
    let server = Server::start(folder.path(), &[]);
    let one = published(ONE);
    let text = std::str::from_utf8(&one).unwrap();
    let contradicting = {
        let mut report: Value = serde_json::from_str(text).unwrap();
        let outcome = report["outcomes"].as_array_mut().unwrap();
        let measured = outcome.iter_mut().find(|o| o["status"] == "measured");
        measured.unwrap()["flops_per_second"] = json!(1e300);
        sealed(&report)
    };
    let timeless = {
        let mut report: Value = serde_json::from_str(text).unwrap();
        report["started_at"] = json!("../../climbed");
        sealed(&report)
    };
    let changed = text.replacen("\"duration_s\": ", "\"duration_s\": 1", 1);
    let (cut, deep) = (&one[..500], "[".repeat(1 << 20));
    let cases: [(&[u8], u16, &str); 9] = [
        (b"", 400, "middle of the JSON"),
        (b"\xff\xfea", 400, "UTF-8"),
        (b"hello", 400, "not JSON"),
        (b"{\"benchmarks\": []}", 400, "no chipmark report"),
        (cut, 400, "middle of the JSON"),
        (deep.as_bytes(), 400, "not JSON"),
        (changed.as_bytes(), 422, "changed after"),
        (contradicting.as_bytes(), 422, "flops_per_second"),
        (timeless.as_bytes(), 422, "started_at"),
    ];
    for (body, status, word) in cases {
        let answer = server.post(body);
        let line = answer.complaint(status);
        assert!(line.contains(word), "{word}: {line}");
    }
    let large = server.send("POST", "/reports", &["Content-Length: 67108865"], &[]);
    assert!(large.complaint(413).contains("67108864 bytes"));
    let endless = {
        let mut stream = TcpStream::connect(&server.host).unwrap();
        let head = format!(
            "POST /reports HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
            server.host
        );
        stream.write_all(head.as_bytes()).unwrap();
        let chunk = [b"100000\r\n", &vec![b' '; 1 << 20][..], b"\r\n"].concat();
        for _ in 0..66 {
            if stream.write_all(&chunk).is_err() {
                break;
            }
        }
        read(stream)
    };
    endless.complaint(413);

    // No address leads out of the folder, and nothing but reading and sending is done.
    fs::write(folder.path().join("secret.json"), "{}").unwrap();
    for path in [
        "/reports/../secret.json",
        "/reports/..%2fsecret.json",
        "/reports/%2e%2e/secret.json",
        "/../secret.json",
        "//etc/passwd",
        "/reports//etc/passwd",
        "/reports/..\\secret.json",
    ] {
        server.get(path).complaint(404);
    }
    server.get("/%ff").complaint(400);
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS"] {
        server.send(method, "/reports", &[], b"x").complaint(405);
    }
    server.send("POST", "/", &[], &one).complaint(405);

    // A page of another site, in a browser on this machine, gets nowhere by its own name or ours.
    for header in [
        "Origin: http://example.org",
        "Origin: null",
        "Host: example.org",
        "Host: 127.0.0.1.example.org:80",
    ] {
        server
            .send("POST", "/reports", &[header], &one)
            .complaint(403);
        server.send("GET", "/", &[header], &[]).complaint(403);
    }
    assert!(reports(&folder.path().join("reports")).is_empty());
    let own = format!("Origin: http://{}", server.host);
    assert_eq!(server.send("POST", "/reports", &[&own], &one).status, 201);
}

#[test]
fn the_same_report_sent_many_times_at_once_is_stored_once() {
    let folder = folder();
    let server = Server::start(folder.path(), &[]);
    let (one, other) = (published(ONE), published(OTHER));
    let statuses: Vec<(bool, u16)> = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..12)
            .map(|number| {
                let (server, body) = (&server, if number % 2 == 0 { &one } else { &other });
                scope.spawn(move || (number % 2 == 0, server.post(body).status))
            })
            .collect();
        senders.into_iter().map(|one| one.join().unwrap()).collect()
    });
    for kind in [true, false] {
        let of = |status| {
            statuses
                .iter()
                .filter(|one| **one == (kind, status))
                .count()
        };
        assert_eq!((of(201), of(200)), (1, 5), "{statuses:?}");
    }
    assert_eq!(reports(&folder.path().join("reports")).len(), 2);
}

#[test]
fn with_a_token_only_those_who_know_it_send() {
    let folder = folder();
    fs::write(folder.path().join("token"), "0123456789abcdef-secret\n").unwrap();
    let server = Server::start(folder.path(), &["--token-file", "token"]);
    let one = published(ONE);
    for headers in [
        &[][..],
        &["Authorization: Bearer 0123456789abcdef-secreT"],
        &["Authorization: Basic 0123456789abcdef-secret"],
    ] {
        let refused = server.send("POST", "/reports", headers, &one);
        refused.complaint(401);
        assert_eq!(refused.headers["www-authenticate"], "Bearer");
    }
    assert_eq!(server.get("/").status, 200);
    let right = ["Authorization: Bearer 0123456789abcdef-secret"];
    assert_eq!(server.send("POST", "/reports", &right, &one).status, 201);
}

#[test]
fn an_address_or_a_folder_that_cannot_be_served_is_one_line_and_code_2() {
    let folder = folder();
    let path = folder.path();
    fs::create_dir(path.join("reports")).unwrap();
    fs::write(path.join("short"), "secret\n").unwrap();
    fs::write(path.join("token"), "0123456789abcdef\n").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let table: [(&[&str], &[&str]); 8] = [
        (&["nowhere"], &["nowhere"]),
        (&["--address", "8080"], &["--address 8080", "HOST:PORT"]),
        (
            &["--address", "0.0.0.0:0"],
            &["other machines", "--allow-remote"],
        ),
        (
            &["--address", "0.0.0.0:0", "--token-file", "token"],
            &["--allow-remote"],
        ),
        (
            &["--address", "0.0.0.0:0", "--allow-remote"],
            &["--token-file"],
        ),
        (&["--allow-remote"], &["--allow-remote", "--token-file"]),
        (&["--token-file", "short"], &["short", "one line of 16"]),
        (&["--address", &taken], &["--address", "127.0.0.1:0"]),
    ];
    for (arguments, words) in table {
        let done = chipmark(path, &[&["serve"], arguments].concat());
        let line = done.complaint(2);
        for word in words {
            assert!(line.contains(word), "{arguments:?}: {line}");
        }
    }
}

/// The lines of `docs/exports.md` that tell a Prometheus to scrape.
fn scraping(host: &str) -> String {
    let page = fs::read_to_string(repository().join("docs/exports.md")).unwrap();
    let start = page.find("    scrape_configs:\n").unwrap();
    let lines = page[start..]
        .lines()
        .map_while(|line| line.strip_prefix("    "));
    let text = lines.collect::<Vec<_>>().join("\n") + "\n";
    assert!(text.contains("127.0.0.1:8080") && text.contains("scrape_interval: 1m"));
    text.replace("127.0.0.1:8080", host).replace(
        "scrape_interval: 1m",
        "scrape_interval: 1s\n    scrape_timeout: 1s",
    )
}

/// Ends a program with its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_prometheus_scrapes_it() {
    let folder = folder();
    let server = Server::start(folder.path(), &[]);
    assert_eq!(server.post(&published(OTHER)).status, 201);
    server.until("the report is there", |health| health["reports"] == 1);
    fs::write(folder.path().join("prometheus.yml"), scraping(&server.host)).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = free.local_addr().unwrap().to_string();
    drop(free);
    let started = Command::new("prometheus")
        .arg(format!("--web.listen-address={host}"))
        .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut prometheus = match started {
        Ok(child) => Killed(child),
        Err(error) => return skipped(&format!("NOT CHECKED by prometheus: {error}")),
    };
    // Asked as the server is: it speaks the same protocol.
    let ask = |path: &str| -> Option<Value> {
        let mut stream = TcpStream::connect(&host).ok()?;
        let head = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        let answer = read(stream);
        (answer.status == 200).then(|| answer.json())
    };
    let deadline = Instant::now() + Duration::from_secs(HANG_S);
    let found = loop {
        assert!(prometheus.0.try_wait().unwrap().is_none(), "it ended");
        assert!(Instant::now() < deadline, "nothing was scraped");
        let answer =
            ask("/api/v1/query?query=chipmark_case_duration_seconds%7Bstat%3D%22median%22%7D");
        let found = answer.map(|answer| at(&answer, "/data/result").as_array().unwrap().clone());
        match found {
            Some(found) if !found.is_empty() => break found,
            _ => std::thread::sleep(Duration::from_millis(200)),
        }
    };
    let report: Value = serde_json::from_slice(&published(OTHER)).unwrap();
    let measured = with_status(&report, "measured");
    assert_eq!(found.len(), measured.len());
    for outcome in measured {
        let median = at(outcome, "/time_s/median").as_f64().unwrap();
        let is = |series: &Value| {
            let value = at(series, "/value/1").as_str().unwrap();
            value.parse::<f64>().unwrap().to_bits() == median.to_bits()
        };
        assert!(found.iter().any(is), "{} is not there", outcome["case_id"]);
    }
    let targets = ask("/api/v1/targets").unwrap();
    let target = at(&targets, "/data/activeTargets/0");
    assert_eq!(
        (&target["health"], &target["lastError"]),
        (&json!("up"), &json!(""))
    );
}

#[test]
fn a_page_that_is_open_says_that_the_reports_have_changed() {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| repository().join("target"), PathBuf::from);
    let python = repository().join(target).join("consumers/bin/python");
    if !python.exists() {
        return skipped("NOT CHECKED in a browser: .ci/run makes what drives one");
    }
    let folder = folder();
    let server = Server::start(folder.path(), &[]);
    let driven = Command::new(python)
        .arg(repository().join("tests/browser/live.py"))
        .arg(format!("http://{}/", server.host))
        .arg(repository().join("reports").join(ONE))
        .arg(repository().join("reports").join(OTHER))
        .output()
        .unwrap();
    let said = [driven.stdout, driven.stderr].concat();
    assert!(
        driven.status.success(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}
