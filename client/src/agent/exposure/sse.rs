//! Reads a stream of server-sent events (WHATWG HTML, section 9.2): names and data. Pure: bytes in, events out.

/// The longest line; a longer one ends the stream.
const MAX_LINE: usize = 64 << 10;

/// A named event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// What `event:` said; empty when it said nothing.
    pub(super) name: String,
    /// All that `data:` said, lines joined.
    pub(super) data: String,
}

/// What a line that is too long means.
#[derive(Debug, thiserror::Error)]
#[error("the gateway sent a line of more than {MAX_LINE} bytes")]
pub(super) struct TooLong;

/// A stream so far.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    name: String,
    data: Option<String>,
}

impl Parser {
    /// Takes what came; the events that are complete with it.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            if self.line.len() + text.len() > MAX_LINE {
                return Err(TooLong);
            }
            self.line.extend_from_slice(text);
            if ends {
                let line = std::mem::take(&mut self.line);
                let line = String::from_utf8_lossy(&line);
                events.extend(self.take(line.trim_end_matches('\r')));
            }
        }
        Ok(events)
    }

    /// One line. An empty one ends an event; comments, and fields that do not matter here, are passed over.
    fn take(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            return self.data.take().map(|data| Event { name, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": hello\n\nevent: request\r\ndata: {\"a\":1}\r\n\r\nevent:state\ndata:x\ndata: y\nid: 7\n\ndata\n\nevent: none\n\n";

    fn event(name: &str, data: &str) -> Event {
        Event {
            name: name.to_owned(),
            data: data.to_owned(),
        }
    }

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        let expected = [
            event("request", "{\"a\":1}"),
            event("state", "x\ny"),
            event("", ""),
        ];
        for size in 1..=STREAM.len() {
            let mut parser = Parser::default();
            let pieces = STREAM.as_bytes().chunks(size);
            let events: Vec<Event> = pieces
                .flat_map(|piece| parser.feed(piece).unwrap())
                .collect();
            assert_eq!(events, expected, "{size}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut parser = Parser::default();
        parser.feed(&[b'x'; MAX_LINE]).unwrap();
        assert!(parser.feed(b"x").is_err());
    }
}
