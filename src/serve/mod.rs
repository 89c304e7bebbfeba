//! The site of a folder of reports, live: it follows the folder, gives the newest figures to what
//! scrapes metrics, and takes reports in.
//!
//! One thread answers and never reads a report by itself; another makes the site anew whenever the
//! folder has changed, and the old one is answered until the new one is whole.

mod answer;
mod intake;
mod snapshot;
mod token;

use std::io::ErrorKind::AddrInUse;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::error::{Error, Result};
use crate::interrupt;
use crate::store::{Stamp, Store};

use intake::Intake;
use snapshot::Snapshot;
pub use token::Token;

/// How often the folder is looked at. Asking the file system works on shared folders of a network too,
/// where no notice comes of what another machine wrote; a thousand files take milliseconds.
const LOOK: Duration = Duration::from_secs(1);
/// Connections at a time; others wait until one ends.
const CONNECTIONS_MAX: usize = 128;
/// How long a client may take to say what it wants, and how long a connection may be idle.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// After which a connection is not used for a further request.
const CONNECTION_TIME: Duration = Duration::from_secs(300);
/// How long answers that are on their way may take when the server stops or a connection is old.
const LAST_ANSWER_TIME: Duration = Duration::from_secs(5);

/// Where and for whom to serve.
#[derive(Clone, Debug)]
pub struct Terms {
    /// `HOST:PORT`; port 0 takes a free one.
    pub address: String,
    /// What a client must know to send reports.
    pub token: Option<Token>,
    /// Whether an address may be used that other machines reach.
    pub allow_remote: bool,
    /// The command line that every page names.
    pub command: String,
}

/// What all threads share.
struct Shared {
    folder: PathBuf,
    command: String,
    token: Option<Token>,
    is_local: bool,
    snapshot: RwLock<Arc<Snapshot>>,
    /// Why the folder could not be read when it was last tried.
    problem: Mutex<Option<String>>,
    intake: Intake,
    /// Asks for a look at the folder at once.
    wake: Sender<()>,
}

impl Shared {
    fn snapshot(&self) -> Arc<Snapshot> {
        let current = self.snapshot.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn problem(&self) -> Option<String> {
        let problem = self.problem.lock();
        problem.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves a folder until the program is asked to stop. `listening` is told the address in use.
///
/// # Errors
/// A usage error where the folder cannot be read, or the address cannot be used or is open to other
/// machines without being allowed to or without a token.
pub fn serve(folder: &Path, terms: &Terms, listening: impl FnOnce(SocketAddr)) -> Result<()> {
    let unreadable = |error| Error::usage(format!("{}: {error}", folder.display()));
    let stamp = Store::stamp(folder).map_err(unreadable)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::internal(format!("serve: {error}")))?;
    runtime.block_on(async {
        let address = allowed(terms)?;
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let remedy = match error.kind() {
                AddrInUse => "; `--address 127.0.0.1:0` takes a free port",
                _ => "",
            };
            Error::usage(format!("--address {}: {error}{remedy}", terms.address))
        })?;
        let address = listener
            .local_addr()
            .map_err(|error| Error::internal(format!("serve: {error}")))?;
        let first = Snapshot::of(folder, &terms.command)?;
        eprintln!("chipmark: {}", first.told());
        let (wake, woken) = mpsc::channel();
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            command: terms.command.clone(),
            token: terms.token.clone(),
            is_local: !terms.allow_remote,
            intake: Intake::new(&first),
            snapshot: RwLock::new(Arc::new(first)),
            problem: Mutex::new(None),
            wake,
        });
        let follower = Arc::clone(&shared);
        std::thread::spawn(move || follow(&follower, &woken, stamp));
        listening(address);
        accept(&listener, &shared).await;
        Ok(())
    })
}

/// The address that was asked for, if it may be used.
fn allowed(terms: &Terms) -> Result<SocketAddr> {
    let refuse = |what: &str| Error::usage(format!("--address {}: {what}", terms.address));
    let mut found = terms.address.to_socket_addrs().map_err(|error| {
        refuse(&format!(
            "{error}; it must be HOST:PORT, such as 127.0.0.1:8080"
        ))
    })?;
    let address = found.next().ok_or_else(|| refuse("no such address"))?;
    if !terms.allow_remote && !address.ip().is_loopback() {
        return Err(refuse(
            "other machines reach it; if they shall, add --allow-remote and --token-file FILE",
        ));
    }
    // With a proxy in front, other machines reach a local address too.
    if terms.allow_remote && terms.token.is_none() {
        return Err(Error::usage(
            "--allow-remote: --token-file FILE must name what other machines need to send reports",
        ));
    }
    Ok(address)
}

async fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let stopped = async {
        while !interrupt::interrupted() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let accepting = async {
        loop {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let shared = Arc::clone(shared);
                    tokio::spawn(async move {
                        talk(stream, shared).await;
                        drop(permit);
                    });
                }
                // Too many open files, or a client that left: neither ends the service.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    };
    tokio::select! {
        () = stopped => {}
        () = accepting => {}
    }
    #[allow(clippy::cast_possible_truncation)] // 128
    let all = connections.acquire_many(CONNECTIONS_MAX as u32);
    let _ = timeout(LAST_ANSWER_TIME, all).await;
}

/// Answers what comes over one connection.
async fn talk(stream: TcpStream, shared: Arc<Shared>) {
    let answered = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, std::convert::Infallible>(answer::answer(&shared, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(TokioIo::new(stream), answered);
    let mut connection = std::pin::pin!(connection);
    let old = async {
        let mut passed = Duration::ZERO;
        while passed < CONNECTION_TIME && !interrupt::interrupted() {
            sleep(Duration::from_millis(250)).await;
            passed += Duration::from_millis(250);
        }
    };
    tokio::select! {
        _ = connection.as_mut() => return,
        () = old => connection.as_mut().graceful_shutdown(),
    }
    let _ = timeout(LAST_ANSWER_TIME, connection).await;
}

/// Makes the site anew whenever the folder has changed.
fn follow(shared: &Shared, woken: &Receiver<()>, mut shown: Stamp) {
    let mut last = shown.clone();
    loop {
        let is_asked = match woken.recv_timeout(LOOK) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        while woken.try_recv().is_ok() {}
        let found = Store::stamp(&shared.folder)
            .map_err(|error| format!("{}: {error}", shared.folder.display()))
            .and_then(|stamp| {
                if stamp == shown {
                    return Ok(None);
                }
                // A file that is being copied looks cut: it has to lie still for one look.
                if stamp != last && !is_asked {
                    last = stamp;
                    return Ok(None);
                }
                let fresh = Snapshot::of(&shared.folder, &shared.command);
                last = stamp.clone();
                shown = stamp;
                fresh.map(Some).map_err(|error| error.to_string())
            });
        let mut problem = shared
            .problem
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(None) => {}
            Ok(Some(fresh)) => {
                eprintln!("chipmark: {}", fresh.told());
                shared.intake.learn(&fresh);
                let mut current = shared
                    .snapshot
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                *current = Arc::new(fresh);
                *problem = None;
            }
            Err(error) => {
                if problem.as_deref() != Some(&error) {
                    eprintln!("chipmark: {error}; the site stays as it was");
                }
                *problem = Some(error);
            }
        }
    }
}
