//! A runner behind a pipe: the child process, its deadline and its death.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::protocol::{Request, Response};
use crate::runner::{Conversation, Fault};

/// How much of a runner's last words is kept for the reason of a failure.
const LAST_LINES: usize = 5;

/// How much of a line that is not the protocol is shown.
const LINE_CHARACTERS_SHOWN: usize = 80;

/// The longest line a runner may send; all elements of a large output are well below.
const LINE_BYTES_MAX: u64 = 1 << 30;

/// The longest piece of a line on stderr that is kept.
const WORDS_BYTES_MAX: u64 = 4096;

/// Seconds that a request may go on after the user asked to stop.
const INTERRUPTED_S_MAX: f64 = 3.0;

/// `CREATE_NEW_PROCESS_GROUP` of Windows' process creation flags.
#[cfg(windows)]
const NEW_PROCESS_GROUP: u32 = 0x200;

/// The next line without its end, or as much of it as `bytes_max`; `None` at the end of the stream.
fn next_piece(stream: &mut impl BufRead, bytes_max: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut piece = Vec::new();
    stream.take(bytes_max).read_until(b'\n', &mut piece)?;
    let last = piece.last().copied();
    if last == Some(b'\n') {
        piece.pop();
    }
    Ok(last.map(|_| piece))
}

/// The next line as text; an error if it is none or has no end in sight.
fn next_line(stream: &mut impl BufRead, bytes_max: u64) -> std::io::Result<Option<String>> {
    let Some(piece) = next_piece(stream, bytes_max)? else {
        return Ok(None);
    };
    if piece.len() as u64 == bytes_max {
        return Err(std::io::Error::other(format!(
            "a line of more than {bytes_max} bytes"
        )));
    }
    String::from_utf8(piece)
        .map(Some)
        .map_err(std::io::Error::other)
}

/// A child process that speaks the protocol on its standard streams.
pub struct Process {
    name: String,
    child: Child,
    requests: Option<Sender<String>>,
    responses: Receiver<std::io::Result<String>>,
    last_words: Arc<Mutex<VecDeque<String>>>,
    ended: bool,
}

impl Process {
    /// Starts `command`; its stderr is kept for the reason should it die.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(name: &str, mut command: Command) -> Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // A group of its own: Ctrl-C in the terminal is for the conductor, which ends its runners
        // in good order.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        #[cfg(windows)]
        std::os::windows::process::CommandExt::creation_flags(&mut command, NEW_PROCESS_GROUP);
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().map_err(|error| {
            Error::usage(format!(
                "runner {name}: {program} cannot be started: {error}"
            ))
        })?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Error::internal("a child process has no streams"));
        };
        // A thread of its own, for a runner that does not read would block whoever writes to it. It
        // ends, and closes the pipe, with the sender, a broken pipe or the child.
        let (requests, pending) = channel::<String>();
        std::thread::spawn(move || {
            for line in pending {
                if stdin
                    .write_all(line.as_bytes())
                    .and_then(|()| stdin.flush())
                    .is_err()
                {
                    break;
                }
            }
        });
        let (sender, responses) = channel();
        std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            while let Some(line) = next_line(&mut stdout, LINE_BYTES_MAX).transpose() {
                let ended = line.is_err();
                if sender.send(line).is_err() || ended {
                    break;
                }
            }
        });
        let last_words = Arc::new(Mutex::new(VecDeque::new()));
        let sink = Arc::clone(&last_words);
        std::thread::spawn(move || {
            let mut stderr = BufReader::new(stderr);
            // Read to the end whatever it says: a full pipe would block the runner.
            while let Ok(Some(line)) = next_piece(&mut stderr, WORDS_BYTES_MAX) {
                if let Ok(mut lines) = sink.lock() {
                    if lines.len() == LAST_LINES {
                        lines.pop_front();
                    }
                    lines.push_back(String::from_utf8_lossy(&line).into_owned());
                }
            }
        });
        Ok(Self {
            name: name.to_owned(),
            child,
            requests: Some(requests),
            responses,
            last_words,
            ended: false,
        })
    }

    /// The process id, for tests that kill it.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Stops the runner with all that it has started, or lets it go on. Should the conductor be killed in
    /// between, most systems end what it had stopped, as they do with every group of stopped processes
    /// that nobody minds any more; as the first process of a container none does.
    fn set_rests(&self, rests: bool) {
        // The number of one that has ended may be another's.
        if !self.ended {
            crate::interrupt::set_stopped(self.child.id(), rests);
        }
    }

    fn fault(&self, what: &str) -> Fault {
        // The last words may still be on their way from a process that has just died.
        std::thread::sleep(Duration::from_millis(20));
        let words = self
            .last_words
            .lock()
            .map(|lines| {
                lines
                    .iter()
                    .map(|line| line.trim())
                    .filter(|line| !line.is_empty())
                    .collect::<Vec<_>>()
                    .join(" | ")
            })
            .unwrap_or_default();
        let said = if words.is_empty() {
            String::new()
        } else {
            format!("; its last words: {words}")
        };
        Fault::new(format!("runner {} {what}{said}", self.name))
    }

    fn died(&mut self) -> Fault {
        let status = self.wait_briefly();
        let what = status.map_or_else(
            || "closed its output".to_owned(),
            |status| format!("died ({})", describe(status)),
        );
        Fault {
            from_outside: status.is_some_and(was_killed),
            ..self.fault(&what)
        }
    }

    /// Waits for a line, in slices: once the user asked to stop, not for much longer.
    fn receive(
        &self,
        timeout: Duration,
    ) -> std::result::Result<std::io::Result<String>, RecvTimeoutError> {
        const SLICE: Duration = Duration::from_millis(100);
        let deadline = Instant::now() + timeout;
        let mut interrupted_at: Option<Instant> = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.responses.recv_timeout(SLICE.min(left)) {
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => {}
                result => return result,
            }
            if crate::interrupt::interrupted() {
                let since = interrupted_at.get_or_insert_with(Instant::now);
                if since.elapsed().as_secs_f64() > INTERRUPTED_S_MAX {
                    return Err(RecvTimeoutError::Timeout);
                }
            }
        }
    }

    fn wait_briefly(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                self.ended = true;
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

/// Whether someone else ended the process: SIGKILL (an administrator, or a system short of memory)
/// or SIGTERM. A crash of its own makes other signals.
fn was_killed(status: ExitStatus) -> bool {
    #[cfg(unix)]
    return matches!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9 | 15)
    );
    #[cfg(not(unix))]
    {
        let _ = status;
        false
    }
}

fn describe(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return format!("signal {signal}");
    }
    status.code().map_or_else(
        || "no exit code".to_owned(),
        |code| format!("exit code {code}"),
    )
}

impl Process {
    /// Sends one line, whatever it says, and waits for the response to it.
    ///
    /// # Errors
    /// As [`Conversation::ask`].
    pub fn ask_line(
        &mut self,
        line: &str,
        timeout: Duration,
    ) -> std::result::Result<Response, Fault> {
        self.set_rests(false);
        let sent = self
            .requests
            .as_ref()
            .is_some_and(|requests| requests.send(format!("{line}\n")).is_ok());
        if !sent {
            return Err(self.died());
        }
        match self.receive(timeout) {
            Ok(Ok(line)) => serde_json::from_str(&line).map_err(|error| {
                let shown: String = line.chars().take(LINE_CHARACTERS_SHOWN).collect();
                self.fault(&format!(
                    "said something that is not the protocol ({error}): {shown:?}"
                ))
            }),
            Ok(Err(error)) => Err(self.fault(&format!("said something that is not text: {error}"))),
            Err(RecvTimeoutError::Disconnected) => Err(self.died()),
            Err(RecvTimeoutError::Timeout) => {
                Err(self.fault(&format!("said nothing for {} s", timeout.as_secs_f64())))
            }
        }
    }

    /// Closes the runner's input and waits for its end.
    ///
    /// # Errors
    /// When it goes on for longer than `timeout`, says another word, or ends with a code that is not
    /// zero.
    pub fn finish(&mut self, timeout: Duration) -> std::result::Result<(), Fault> {
        self.set_rests(false);
        self.requests = None;
        match self.receive(timeout) {
            Err(RecvTimeoutError::Disconnected) => {}
            Err(RecvTimeoutError::Timeout) => {
                return Err(self.fault(&format!(
                    "goes on for {} s after the end of its input",
                    timeout.as_secs_f64()
                )));
            }
            Ok(_) => return Err(self.fault("says something that was not asked")),
        }
        match self.wait_briefly() {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.fault(&format!("ended with {}", describe(status)))),
            None => Err(self.fault("has closed its output and goes on")),
        }
    }
}

impl Conversation for Process {
    fn ask(
        &mut self,
        request: &Request,
        timeout: Duration,
    ) -> std::result::Result<Response, Fault> {
        let line = serde_json::to_string(request)
            .map_err(|error| Fault::new(format!("a request cannot be written: {error}")))?;
        self.ask_line(&line, timeout)
    }

    fn rest(&mut self) {
        self.set_rests(true);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.set_rests(false);
        // Bye and a closed stdin are the polite way out; a hung process is not waited for. Bye is
        // short enough for the pipe to take it whether or not anyone reads.
        if let Some(requests) = &self.requests {
            let _ = requests.send("{\"type\":\"bye\"}\n".to_owned());
        }
        self.requests = None;
        let deadline = Instant::now() + Duration::from_millis(300);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        // Not for ever: a process that is stuck in a driver does not even heed SIGKILL.
        let _ = self.wait_briefly();
    }
}
