//! What a request is answered.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::response::Builder;
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::time::timeout;

use super::Shared;
use super::intake::Taken;
use crate::store::LARGEST_FILE_BYTES;

/// How long a report may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(60);

type Answer = Response<Full<Bytes>>;

/// The answer to a request. Nothing that a client sends makes it fail.
pub(super) async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Answer {
    let only_head = request.method() == Method::HEAD;
    let mut answer = match refusal(shared, request.headers()) {
        Some(refused) => refused,
        None => route(shared, request).await,
    };
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            // The pages have a stricter one within; this also holds for the reports, and no other site
            // may put a page into its own.
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ] {
        answer
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    if only_head {
        let length = HeaderValue::from(answer.body().size_hint().exact().unwrap_or_default());
        answer.headers_mut().insert(header::CONTENT_LENGTH, length);
        *answer.body_mut() = Full::default();
    }
    answer
}

/// Why a request is not even looked at: another site's page in a browser on this machine could have sent
/// it, under its own name for this machine or from its own page.
fn refusal(shared: &Shared, headers: &HeaderMap) -> Option<Answer> {
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes);
    let host = host.map(String::from_utf8_lossy).unwrap_or_default();
    if shared.is_local && !host.is_empty() && !is_this_machine(&host) {
        return Some(line(
            StatusCode::FORBIDDEN,
            "this server is asked under a name that is not its own; use 127.0.0.1 or localhost",
        ));
    }
    let origin = headers.get(header::ORIGIN)?;
    let own = [format!("http://{host}"), format!("https://{host}")];
    if own.iter().any(|own| own.as_bytes() == origin.as_bytes()) {
        return None;
    }
    Some(line(
        StatusCode::FORBIDDEN,
        "the request comes from a page of another site",
    ))
}

/// Whether a host, with or without a port, can only be the machine itself.
fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

async fn route(shared: &Arc<Shared>, request: Request<Incoming>) -> Answer {
    let Ok(path) = percent_decode_str(request.uri().path()).decode_utf8() else {
        return line(StatusCode::BAD_REQUEST, "the address is no text in UTF-8");
    };
    let place = path.trim_start_matches('/').to_owned();
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    match (&*place, reads) {
        ("reports" | "reports/", false) if request.method() == Method::POST => {
            post(shared, request).await
        }
        (_, false) => {
            let mut answer = line(
                StatusCode::METHOD_NOT_ALLOWED,
                "pages are read with GET; POST sends a report to /reports",
            );
            let methods = HeaderValue::from_static("GET, HEAD");
            answer.headers_mut().insert(header::ALLOW, methods);
            answer
        }
        ("metrics", _) => respond(
            Response::builder()
                .header(
                    header::CONTENT_TYPE,
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                )
                .header(header::CACHE_CONTROL, "no-store"),
            shared.snapshot().metrics.clone(),
        ),
        ("healthz", _) => health(shared),
        (place, _) => match place.strip_prefix("reports/") {
            Some(report) => stored(shared, report.to_owned()).await,
            None => file(shared, place, request.headers()),
        },
    }
}

/// Whether the site is of the folder as it can be read now.
fn health(shared: &Shared) -> Answer {
    let snapshot = shared.snapshot();
    let problem = shared.problem();
    let status = match problem {
        None => StatusCode::OK,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let health = json!({
        "version": snapshot.version,
        "reports": snapshot.places.len(),
        "left_out": snapshot.rejected_count,
        "problem": problem,
    });
    json_answer(Response::builder().status(status), &health)
}

/// A file of the site.
fn file(shared: &Shared, place: &str, headers: &HeaderMap) -> Answer {
    let snapshot = shared.snapshot();
    let place = match place {
        "" => "index.html",
        // What browsers ask for beside a report, which names no icon.
        "favicon.ico" => "assets/icon.svg",
        place => place,
    };
    let Some(file) = snapshot.files.get(place) else {
        return line(StatusCode::NOT_FOUND, "there is no such page");
    };
    // Asked for each time, sent again only if it has changed: never an old page beside new data.
    let builder = Response::builder()
        .header(header::CONTENT_TYPE, file.media_type)
        .header(header::CACHE_CONTROL, "no-cache")
        .header(header::ETAG, &file.tag);
    let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|tags| {
        let tags = String::from_utf8_lossy(tags.as_bytes()).into_owned();
        tags.split(',')
            .any(|tag| tag.trim().trim_start_matches("W/") == file.tag)
    });
    if known {
        return respond(builder.status(StatusCode::NOT_MODIFIED), Bytes::new());
    }
    respond(builder, file.content.clone())
}

/// A report as it lies in the folder. Only places that a look at the folder has found are answered, so
/// that no address leads out of it.
async fn stored(shared: &Arc<Shared>, place: String) -> Answer {
    let missing = || line(StatusCode::NOT_FOUND, "there is no such report");
    if !shared.intake.has(&place) {
        return missing();
    }
    let path = shared.folder.join(&place);
    let read = tokio::task::spawn_blocking(move || {
        let is_file = std::fs::symlink_metadata(&path).is_ok_and(|seen| seen.is_file());
        is_file.then(|| std::fs::read(&path).ok()).flatten()
    });
    match read.await {
        Ok(Some(content)) => respond(
            Response::builder()
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::CACHE_CONTROL, "no-cache"),
            content.into(),
        ),
        _ => missing(),
    }
}

/// Takes a report in.
async fn post(shared: &Arc<Shared>, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    if let Some(token) = &shared.token {
        let given = head.headers.get(header::AUTHORIZATION);
        if !given.is_some_and(|given| token.is_in(given.as_bytes())) {
            let mut answer = line(
                StatusCode::UNAUTHORIZED,
                "reports are taken with the server's token alone: Authorization: Bearer TOKEN",
            );
            let scheme = HeaderValue::from_static("Bearer");
            answer
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
            return answer;
        }
    }
    let too_large = || {
        let what = format!("a report may have {LARGEST_FILE_BYTES} bytes");
        line(StatusCode::PAYLOAD_TOO_LARGE, &what)
    };
    if body.size_hint().lower() > LARGEST_FILE_BYTES {
        return too_large();
    }
    // A few at a time: a hundred of the largest would not fit in memory.
    let received = timeout(BODY_TIME, async {
        let turn = shared.intake.turn().await;
        let limit = usize::try_from(LARGEST_FILE_BYTES).unwrap_or(usize::MAX);
        let body = Limited::new(body, limit).collect().await;
        body.map(|body| (body.to_bytes(), turn))
    });
    let (bytes, turn) = match received.await {
        Ok(Ok(received)) => received,
        Ok(Err(error)) if error.is::<LengthLimitError>() => return too_large(),
        Ok(Err(_)) => return line(StatusCode::BAD_REQUEST, "the report did not arrive whole"),
        Err(_) => {
            let what = format!("the report did not arrive within {} s", BODY_TIME.as_secs());
            return line(StatusCode::REQUEST_TIMEOUT, &what);
        }
    };
    let taker = Arc::clone(shared);
    let taken = tokio::task::spawn_blocking(move || {
        let taken = taker.intake.take(&bytes, &taker.folder);
        drop(turn);
        taken
    });
    let (status, place, report_id) = match taken.await {
        Ok(Taken::Stored { place, report_id }) => {
            eprintln!("chipmark: {place}: taken in");
            let _ = shared.wake.send(());
            (StatusCode::CREATED, place, report_id)
        }
        Ok(Taken::Known { place, report_id }) => (StatusCode::OK, place, report_id),
        Ok(Taken::Unreadable(why)) => return line(StatusCode::BAD_REQUEST, &why),
        Ok(Taken::Doubted(why)) => return line(StatusCode::UNPROCESSABLE_ENTITY, &why),
        Ok(Taken::Failed(why)) => {
            eprintln!("chipmark: a report could not be stored: {why}");
            return line(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the report could not be stored; the server says why",
            );
        }
        Err(_) => {
            return line(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the report could not be judged",
            );
        }
    };
    let address = format!("/reports/{}", crate::dashboard::encoded(&place));
    json_answer(
        Response::builder()
            .status(status)
            .header(header::LOCATION, address),
        &json!({ "place": place, "report_id": report_id }),
    )
}

fn json_answer(builder: Builder, value: &serde_json::Value) -> Answer {
    respond(
        builder
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CACHE_CONTROL, "no-store"),
        format!("{value}\n").into(),
    )
}

/// One line for people.
fn line(status: StatusCode, text: &str) -> Answer {
    respond(
        Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
            .header(header::CACHE_CONTROL, "no-store"),
        format!("{text}\n").into(),
    )
}

fn respond(builder: Builder, content: Bytes) -> Answer {
    builder.body(Full::new(content)).unwrap_or_else(|_| {
        let mut failed = Response::new(Full::default());
        *failed.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        failed
    })
}

#[cfg(test)]
mod tests {
    use super::is_this_machine;

    #[test]
    fn only_names_that_cannot_point_elsewhere_are_this_machine() {
        for own in [
            "localhost",
            "LocalHost:80",
            "127.0.0.1:8080",
            "127.8.9.1",
            "[::1]:8080",
            "[::1]",
        ] {
            assert!(is_this_machine(own), "{own}");
        }
        for other in [
            "example.org",
            "example.org:8080",
            "127.0.0.1.example.org",
            "localhost.example.org:8080",
            "192.168.0.1:8080",
            "[2001:db8::1]:8080",
            "0.0.0.0:8080",
            ":8080",
        ] {
            assert!(!is_this_machine(other), "{other}");
        }
    }
}
