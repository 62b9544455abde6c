//! Who may ask: the `Host` allow-list, against names of other sites that resolve to us, and the
//! origin check on unsafe methods, against pages of other sites in a browser.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::http::body;
use crate::http::problem::{Code, Problem};

const ALWAYS: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Passes a request on, or answers 403.
pub(crate) async fn check(State(app): State<App>, request: Request, next: Next) -> Response {
    let checked = check_host(request.headers(), &app.config().allowed_hosts)
        .and_then(|host| check_origin(request.method(), request.headers(), host));
    match checked {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn check_host<'h>(headers: &'h HeaderMap, allowed: &[String]) -> Result<&'h str, Problem> {
    let authority = body::text(headers, header::HOST.as_str())?.unwrap_or_default();
    let name = without_port(authority);
    let known = ALWAYS
        .into_iter()
        .chain(allowed.iter().map(String::as_str))
        .any(|allowed| allowed.eq_ignore_ascii_case(name));
    if known {
        return Ok(authority);
    }
    let detail = format!(
        "the host `{}` is not answered; allowed are localhost, 127.0.0.1, [::1] and what the \
         server lists",
        name.escape_debug()
    );
    Err(Problem::new(Code::HostRefused, detail))
}

fn check_origin(method: &Method, headers: &HeaderMap, host: &str) -> Result<(), Problem> {
    if method.is_safe() {
        return Ok(());
    }
    let cross = body::text(headers, "sec-fetch-site")?
        .is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let foreign = body::text(headers, header::ORIGIN.as_str())?.is_some_and(|origin| {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
    });
    if cross || foreign {
        let detail = "a page of another origin may not change anything here";
        return Err(Problem::new(Code::OriginRefused, detail));
    }
    Ok(())
}

fn without_port(authority: &str) -> &str {
    let name = authority.trim_end_matches(|c: char| c.is_ascii_digit());
    match name.strip_suffix(':') {
        Some(name) if !name.is_empty() => name,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (name.parse().unwrap(), value.parse().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn only_listed_hosts_are_answered() {
        let listed = ["events.example".to_owned()];
        for (host, good) in [
            ("localhost", true),
            ("LOCALHOST:8787", true),
            ("127.0.0.1:1", true),
            ("[::1]:8787", true),
            ("[::1]", true),
            ("events.example:443", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.2", false),
            ("", false),
            (":8787", false),
        ] {
            let headers = headers(&[("host", host)]);
            assert_eq!(check_host(&headers, &listed).is_ok(), good, "{host}");
        }
        assert!(check_host(&HeaderMap::new(), &listed).is_err());
        let twice = headers(&[("host", "localhost"), ("host", "evil.example")]);
        assert!(twice.get_all("host").iter().count() == 1 || check_host(&twice, &[]).is_err());
    }

    #[test]
    fn foreign_origins_change_nothing() {
        for (pairs, good) in [
            (&[][..], true),
            (&[("origin", "http://localhost:8787")][..], true),
            (&[("origin", "http://localhost:9999")][..], false),
            (&[("origin", "null")][..], false),
            (&[("origin", "https://evil.example")][..], false),
            (&[("sec-fetch-site", "cross-site")][..], false),
            (&[("sec-fetch-site", "same-site")][..], false),
            (&[("sec-fetch-site", "same-origin")][..], true),
        ] {
            let headers = headers(pairs);
            let post = check_origin(&Method::POST, &headers, "localhost:8787");
            assert_eq!(post.is_ok(), good, "{pairs:?}");
            assert!(check_origin(&Method::GET, &headers, "localhost:8787").is_ok());
        }
    }
}
