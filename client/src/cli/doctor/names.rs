//! The ways on which names resolve, one by one: what glibc is told to ask, each resolver of the machine, a public name, and each
//! session's stub and domain.
//!
//! Asks and reports; changes nothing.

use std::net::{IpAddr, SocketAddr};

use super::Check;
use crate::agent::check::{self, PublicName};
use crate::agent::report::SessionReport;

const DNS_PORT: u16 = 53;
/// What a session's own ways need, as told to people.
const AGAIN: &str = "`kvpn disconnect` and `kvpn connect` set names anew";

/// All of them, for this API server's URL if the kubeconfig has one.
pub(super) async fn checks(
    nsswitch: Option<&str>,
    resolvers: &[IpAddr],
    server: &str,
    sessions: &[SessionReport],
) -> Vec<Check> {
    let mut checks = Vec::from_iter(nsswitch.map(hosts_line));
    for resolver in resolvers {
        checks.push(resolver_answers(SocketAddr::new(*resolver, DNS_PORT)).await);
    }
    checks.push(public_name(server).await);
    for session in sessions {
        checks.extend(session_names(session).await);
    }
    checks
}

/// The line `hosts:` of nsswitch.conf: whom programs on glibc ask, in which order.
fn hosts_line(nsswitch: &str) -> Check {
    let line = nsswitch
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("hosts:"));
    let words: Vec<&str> = line.unwrap_or("files dns").split_whitespace().collect();
    let place = |wanted: &[&str]| words.iter().position(|word| wanted.contains(word));
    let asked = place(&["resolve", "dns"]);
    let text = words.join(" ");
    let Some(asked) = asked else {
        return Check::warning(
            "name services",
            format!("`hosts: {text}` in /etc/nsswitch.conf asks no DNS"),
            "add `dns` to that line",
        );
    };
    // The minimal modules leave names of more than two labels alone.
    let swallowed = place(&["mdns", "mdns4", "mdns6"]).filter(|mdns| {
        *mdns < asked
            && words
                .get(mdns + 1)
                .is_some_and(|word| word.starts_with("[NOTFOUND=return"))
    });
    match swallowed {
        Some(mdns) => Check::warning(
            "name services",
            format!(
                "`hosts: {text}` in /etc/nsswitch.conf asks {} for every name in .local, and nobody else",
                words[mdns]
            ),
            "put `mdns4_minimal` in its place: the domain of most clusters is cluster.local",
        ),
        None => Check::ok("name services", format!("hosts: {text}")),
    }
}

async fn resolver_answers(resolver: SocketAddr) -> Check {
    match check::answers(resolver).await {
        Ok(()) => Check::ok("resolvers", format!("{} answers", resolver.ip())),
        Err(error) => Check::warning(
            "resolvers",
            format!("{} does not answer: {error:#}", resolver.ip()),
            "check the network's DNS settings, and whether a VPN or firewall keeps DNS to itself",
        ),
    }
}

async fn public_name(server: &str) -> Check {
    match PublicName::before(server).await {
        Some(name) => Check::ok("public names", format!("{name} resolves")),
        None => Check::warning(
            "public names",
            "none resolves, or not within 2 s",
            "without a way to the internet that is as it should be; else see the resolvers above: kvpn cannot tell then whether it \
             broke them",
        ),
    }
}

/// The stub, as programs ask it through the TUN, and the system's own resolver.
async fn session_names(session: &SessionReport) -> Vec<Check> {
    let Some(network) = &session.network else {
        return Vec::new();
    };
    let mut checks = Vec::new();
    for server in &network.dns_servers {
        checks.push(match check::stub(*server, &network.domain).await {
            Ok(()) => Check::ok(
                "session names",
                format!("{}: {server} answers", session.name),
            ),
            Err(error) => Check::warning(
                "session names",
                format!("{}: {error:#}", session.name),
                "the tunnel or the cluster's DNS is in trouble: `kvpn status` shows the tunnel",
            ),
        });
    }
    let backend = &network.dns_backend;
    checks.push(match check::system(&network.domain).await {
        Ok(()) => Check::ok(
            "session names",
            format!("{}: programs find them through {backend}", session.name),
        ),
        Err(error) => Check::warning(
            "session names",
            format!("{}: through {backend}: {error:#}", session.name),
            AGAIN,
        ),
    });
    checks
}

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket;

    use super::super::Verdict;
    use super::{hosts_line, resolver_answers};

    #[test]
    fn a_hosts_line_that_keeps_names_from_dns_is_told() {
        for (line, verdict, word) in [
            ("hosts: files dns", Verdict::Ok, "files dns"),
            ("passwd: files", Verdict::Ok, "files dns"),
            (
                "hosts: files mdns4_minimal [NOTFOUND=return] dns",
                Verdict::Ok,
                "",
            ),
            (
                "hosts: files resolve [!UNAVAIL=return] dns",
                Verdict::Ok,
                "",
            ),
            ("hosts: files myhostname", Verdict::Warning, "no DNS"),
            (
                "hosts: files mdns4 [NOTFOUND=return] dns",
                Verdict::Warning,
                ".local",
            ),
            ("hosts: files dns mdns4", Verdict::Ok, ""),
        ] {
            let check = hosts_line(line);
            assert_eq!(check.verdict, verdict, "{line}");
            assert!(check.detail.contains(word), "{}", check.detail);
            assert_eq!(check.remedy.is_some(), verdict != Verdict::Ok);
        }
    }

    #[tokio::test]
    async fn a_resolver_answers_or_does_not() {
        let resolver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = resolver.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let mut query = [0; 512];
            let (length, from) = resolver.recv_from(&mut query).await.unwrap();
            // Refused (RFC 1035, 4.1.1) is an answer as well.
            query[2] |= 0x80;
            query[3] = 5;
            resolver.send_to(&query[..length], from).await.unwrap();
        });
        assert_eq!(resolver_answers(address).await.verdict, Verdict::Ok);
        serving.await.unwrap();
        let check = resolver_answers(address).await;
        assert_eq!(check.verdict, Verdict::Warning, "nobody listens any more");
        assert!(check.remedy.is_some());
    }
}
