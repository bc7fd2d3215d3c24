// SPDX-License-Identifier: Apache-2.0 OR MIT
//! As much HTTP as a scraper needs: a GET gets the metrics, and the connection is closed.

/// The longest request, with its headers.
pub(super) const REQUEST_LEN_MAX: usize = 8192;

/// A complete request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Request {
    /// `GET /metrics`, or of `/`.
    Metrics,
    /// A GET of anything else.
    NotFound,
    /// Anything else.
    NotAllowed,
}

/// The request, when its headers have ended; `None` while more of it is to come.
pub(super) fn parse(bytes: &[u8]) -> Option<Request> {
    let end = bytes.windows(4).position(|end| end == b"\r\n\r\n")?;
    let line = bytes[..end].split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (words.next()?, words.next().unwrap_or_default());
    if method != b"GET" {
        return Some(Request::NotAllowed);
    }
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    Some(if matches!(path, b"/metrics" | b"/") { Request::Metrics } else { Request::NotFound })
}

/// The whole response. `metrics` are made only if they are asked for.
pub(super) fn response(request: Request, metrics: impl FnOnce() -> String) -> Vec<u8> {
    let (status, body) = match request {
        Request::Metrics => ("200 OK", metrics()),
        Request::NotFound => ("404 Not Found", "the metrics are at /metrics\n".to_owned()),
        Request::NotAllowed => ("405 Method Not Allowed", "GET only\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_is_complete_with_the_empty_line() {
        assert_eq!(parse(b"GET /metrics HTTP/1.1\r\nHost: a\r\n"), None);
        assert_eq!(parse(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"), Some(Request::Metrics));
        assert_eq!(parse(b"GET /metrics?a=b HTTP/1.0\r\n\r\n"), Some(Request::Metrics));
    }

    #[test]
    fn anything_but_a_get_of_the_metrics_is_refused() {
        assert_eq!(parse(b"GET /metrics/../etc HTTP/1.1\r\n\r\n"), Some(Request::NotFound));
        assert_eq!(parse(b"POST /metrics HTTP/1.1\r\n\r\n"), Some(Request::NotAllowed));
        assert_eq!(parse(b"\r\n\r\n"), Some(Request::NotAllowed));
    }

    #[test]
    fn response_says_its_length_and_that_the_connection_ends() {
        let response = response(Request::Metrics, || "a 1\n".to_owned());
        let text = String::from_utf8(response).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(text.contains("\r\nContent-Length: 4\r\n"));
        assert!(text.ends_with("\r\nConnection: close\r\n\r\na 1\n"));
    }
}
