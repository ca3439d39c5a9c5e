//! Which protocol a connection's first bytes are of. Looks, consumes nothing, waits for nothing.

/// What the bytes so far can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detected {
    /// HTTP/1.0 or 1.1: a request line (RFC 9112 section 3).
    Http1,
    /// HTTP/2 with prior knowledge: its preface (RFC 9113 section 3.4).
    Http2,
    /// TLS: a handshake record (RFC 8446 section 5.1).
    Tls,
    /// None of these.
    Other,
    /// A method and more, but not a whole line yet: it is worth waiting for the rest.
    LikelyHttp,
    /// Too little to tell.
    Undecided,
}

/// Judges a connection's first bytes.
pub(super) fn detect(bytes: &[u8]) -> Detected {
    if bytes.len() < PREFACE.len() && PREFACE.starts_with(bytes) {
        return if bytes.len() > 4 {
            Detected::LikelyHttp
        } else {
            Detected::Undecided
        };
    }
    if bytes.starts_with(PREFACE) {
        return Detected::Http2;
    }
    if bytes.starts_with(TLS_HANDSHAKE) {
        return Detected::Tls;
    }
    // RFC 9112 section 2.2: empty lines before the request line are ignored.
    let bytes = skip_empty_lines(bytes);
    match bytes.iter().position(|&byte| byte == b'\n') {
        Some(end) => detect_line(&bytes[..end]),
        None => detect_part(bytes),
    }
}

fn detect_line(line: &[u8]) -> Detected {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|&byte| byte == b' ');
    let (method, target, version) = (words.next(), words.next(), words.next_back());
    let is_http = method.is_some_and(is_method)
        && target.is_some_and(|target| !target.is_empty())
        && version.is_some_and(|version| matches!(version, b"HTTP/1.0" | b"HTTP/1.1"));
    if is_http {
        Detected::Http1
    } else {
        Detected::Other
    }
}

fn detect_part(bytes: &[u8]) -> Detected {
    if bytes.len() > LINE_LENGTH {
        return Detected::Other;
    }
    match bytes.iter().position(|&byte| byte == b' ') {
        Some(end) if is_method(&bytes[..end]) => Detected::LikelyHttp,
        None if bytes.is_empty() || is_method(bytes) || TLS_HANDSHAKE.starts_with(bytes) => {
            Detected::Undecided
        }
        Some(_) | None => Detected::Other,
    }
}

/// Registered methods are upper-case letters and dashes, PROPFIND and VERSION-CONTROL among them.
fn is_method(word: &[u8]) -> bool {
    let letters = |&byte: &u8| byte.is_ascii_uppercase() || byte == b'-';
    (1..=METHOD_LENGTH).contains(&word.len()) && word.iter().all(letters)
}

fn skip_empty_lines(mut bytes: &[u8]) -> &[u8] {
    while let [b'\r' | b'\n', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// Content type 22, and the major version that all of them have.
const TLS_HANDSHAKE: &[u8] = &[22, 3];

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of the longest registered method, UPDATEREDIRECTREF, and a little.
const METHOD_LENGTH: usize = 24;

/// Bytes of a request line that are waited for; servers refuse longer ones.
const LINE_LENGTH: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_told_by_their_first_bytes() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Detected::Http1),
            (b"VERSION-CONTROL /x HTTP/1.0\n", Detected::Http1),
            (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", Detected::Http1),
            (b"\r\nGET / HTTP/1.1\r\n", Detected::Http1),
            (PREFACE, Detected::Http2),
            (b"\x16\x03\x01\x02\x00\x01", Detected::Tls),
            (b"SET a b\r\n", Detected::Other),
            (b"*1\r\n", Detected::Other),
            (b"EHLO there\r\n", Detected::Other),
            (b"GET /\r\n", Detected::Other),
            (b"GET / HTTP/2\r\n", Detected::Other),
            (b"get / HTTP/1.1\r\n", Detected::Other),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n", Detected::Other),
            (b"GET / HT", Detected::LikelyHttp),
            (b"PRI * HTTP/2.0\r\n", Detected::LikelyHttp),
            (b"GE", Detected::Undecided),
            (b"\x16", Detected::Undecided),
            (b"P", Detected::Undecided),
            (b"", Detected::Undecided),
        ] {
            assert_eq!(detect(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn each_beginning_of_a_request_is_waited_for() {
        for whole in [&b"DELETE /a?b HTTP/1.1\r\n"[..], PREFACE] {
            let end = whole.len() - 1;
            for length in 0..end {
                let detected = detect(&whole[..length]);
                let waits = matches!(detected, Detected::Undecided | Detected::LikelyHttp);
                assert!(waits, "{length}: {detected:?}");
            }
        }
    }

    #[test]
    fn a_line_without_end_is_not_waited_for() {
        let mut line = b"GET /".to_vec();
        line.resize(LINE_LENGTH + 1, b'a');
        assert_eq!(detect(&line), Detected::Other);
    }
}
