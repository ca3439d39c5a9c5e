//! The programs that ask: dig, and lookups by two C libraries. Each reads the laptop's own configuration.

use std::collections::BTreeSet;

use kvpn::laptop::{Laptop, Resolver};

use super::question::{Expected, Kind, Question};

/// How a question travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// A program and a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// `dig +search`, which shows the answer as it came.
    Dig(Transport),
    /// getaddrinfo of the machine's C library, by way of nsswitch.conf.
    Glibc(Transport),
    /// getaddrinfo of musl, which speaks UDP.
    Musl,
}

impl Column {
    pub(super) fn heading(self, resolver: Resolver) -> String {
        let way = match resolver {
            Resolver::Plain => "resolv.conf",
            Resolver::Resolved => "resolved",
        };
        match self {
            Self::Dig(transport) => format!("{way} dig {transport:?}"),
            Self::Glibc(transport) => format!("{way} glibc {transport:?}"),
            Self::Musl => format!("{way} musl"),
        }
    }

    /// Asks everything, in one shell on the laptop, and says of each question whether the answer was right.
    pub(super) fn ask(
        self,
        resolver: Resolver,
        laptop: &Laptop,
        questions: &[Question],
    ) -> Vec<String> {
        let script: String = questions
            .iter()
            .map(|question| format!("echo @@; {}\n", self.command(question)))
            .collect();
        let answers = laptop.shell(&script).ok().stdout;
        let answers: Vec<&str> = answers.split("@@\n").skip(1).collect();
        assert_eq!(answers.len(), questions.len());
        questions
            .iter()
            .zip(answers)
            .map(|(question, answer)| self.verdict(resolver, question, answer))
            .collect()
    }

    fn command(self, question: &Question) -> String {
        let Question { name, kind, .. } = question;
        match (self, kind) {
            (Self::Dig(transport), _) => {
                let tcp = if transport == Transport::Tcp {
                    "+tcp"
                } else {
                    "+notcp"
                };
                let what = if *kind == Kind::Ptr {
                    format!("-x {name}")
                } else {
                    format!("{name} {kind}")
                };
                format!(
                    "dig +search +time=6 +tries=1 +noall +comments +answer {tcp} {what} || true"
                )
            }
            (Self::Glibc(_) | Self::Musl, Kind::Srv) | (Self::Musl, Kind::Ptr) => "true".to_owned(),
            (Self::Glibc(transport), Kind::Ptr) => {
                format!("{}getent hosts {name} || true", use_tcp(transport))
            }
            (Self::Glibc(transport), Kind::A) => {
                format!("{}getent ahostsv4 {name} || true", use_tcp(transport))
            }
            (Self::Glibc(transport), Kind::Aaaa) => {
                format!("{}getent ahostsv6 {name} || true", use_tcp(transport))
            }
            (Self::Musl, Kind::A) => format!("musl-lookup -4 {name} || true"),
            (Self::Musl, Kind::Aaaa) => format!("musl-lookup -6 {name} || true"),
        }
    }

    fn verdict(self, resolver: Resolver, question: &Question, answer: &str) -> String {
        let found = match self {
            Self::Dig(_) => dig(question, answer),
            Self::Glibc(_) | Self::Musl if question.kind == Kind::Srv => return "-".to_owned(),
            Self::Musl if question.kind == Kind::Ptr => return "-".to_owned(),
            Self::Glibc(_) => lookup(question, answer, 0, 1),
            Self::Musl => lookup(question, answer, 1, 1),
        };
        match found {
            Ok(found) if self.agrees(&question.expected, &found) => "ok".to_owned(),
            Ok(found) => format!("WRONG: expected {:?}, found {found:?}", question.expected),
            // systemd-resolved itself asks nobody for a single label that was not found in the search list.
            Err(status)
                if status == "REFUSED"
                    && resolver == Resolver::Resolved
                    && !question.name.contains('.') =>
            {
                "refused".to_owned()
            }
            Err(why) => format!("WRONG: {why}"),
        }
    }

    /// A C library tells "no such name" and "no such type" apart only by an error that getent does not show.
    fn agrees(self, expected: &Expected, found: &Expected) -> bool {
        match self {
            Self::Dig(_) => expected == found,
            Self::Glibc(_) | Self::Musl if *expected == Expected::NxDomain => {
                *found == Expected::NoData
            }
            Self::Glibc(_) | Self::Musl => expected == found,
        }
    }
}

fn use_tcp(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "",
        Transport::Tcp => "RES_OPTIONS=use-vc ",
    }
}

/// Reads dig's output. A dotted name must come back as it was asked, however it was expanded.
fn dig(question: &Question, output: &str) -> Result<Expected, String> {
    let status = output
        .split("status: ")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    let Some(status) = status else {
        return Err(format!("no answer: {}", output.trim()));
    };
    let lines: Vec<Vec<&str>> = output
        .lines()
        .filter(|line| !line.starts_with(';') && !line.is_empty())
        .map(|line| line.split_whitespace().collect())
        .collect();
    if let Some(first) = lines.first() {
        let asked = format!("{}.", question.name);
        if question.kind != Kind::Ptr
            && question.name.contains('.')
            && !first[0].eq_ignore_ascii_case(&asked)
        {
            return Err(format!("asked {asked}, answered {}", first[0]));
        }
    }
    let kind = question.kind.to_string();
    let records: BTreeSet<String> = lines
        .iter()
        .filter(|line| line.get(3) == Some(&kind.as_str()))
        .map(|line| record(question.kind, line))
        .collect();
    match status {
        "NOERROR" if records.is_empty() => Ok(Expected::NoData),
        "NOERROR" => Ok(Expected::Records(records)),
        "NXDOMAIN" => Ok(Expected::NxDomain),
        _ => Err(status.to_owned()),
    }
}

/// The part of an answer line that is compared: of SRV, port and target.
fn record(kind: Kind, line: &[&str]) -> String {
    match kind {
        Kind::A | Kind::Aaaa | Kind::Ptr => line[4].to_owned(),
        Kind::Srv => format!("{} {}", line[6], line[7]),
    }
}

/// Reads the output of getent or musl-lookup: an address, or for PTR a name, in a column.
fn lookup(
    question: &Question,
    output: &str,
    address: usize,
    name: usize,
) -> Result<Expected, String> {
    let mut records = BTreeSet::new();
    for words in output
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
    {
        let column = if question.kind == Kind::Ptr {
            name
        } else {
            address
        };
        let Some(word) = words.get(column) else {
            return Err(output.trim().to_owned());
        };
        match question.kind {
            Kind::Ptr => records.insert(format!("{word}.")),
            // getent shows an IPv4 address as a mapped one where there is no other; musl-lookup says why it has none.
            Kind::A | Kind::Aaaa | Kind::Srv => {
                !word.starts_with("::ffff:")
                    && word.parse::<std::net::IpAddr>().is_ok()
                    && records.insert((*word).to_owned())
            }
        };
    }
    Ok(if records.is_empty() {
        Expected::NoData
    } else {
        Expected::Records(records)
    })
}
