//! `kvpn proxy`: a session without a TUN, and a proxy before it, for as long as the command runs.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use futures::StreamExt as _;
use kvpn_client_core::Names;
use kvpn_k8s::{Cluster, Purpose};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::agent::board::Board;
use crate::agent::driver::{Command, Figures};
use crate::agent::lock::Holder;
use crate::agent::message::{Access, Reply};
use crate::agent::opening::Opening;
use crate::agent::places::{Places, SessionName};
use crate::agent::stack::Stack;
use crate::agent::{first_report, gateway, names, session};
use crate::cli::access::AccessArgs;
use crate::cli::connect::Signals;
use crate::cli::failure::{FAILED, Failure, USAGE};
use crate::cli::progress::Display;
use crate::cli::{Situation, output};
use crate::proxy::{Credentials, PAC_PATH, Proxy};

/// Serve the cluster to programs that know a proxy, without root
///
/// Opens a session of its own, beside `kvpn connect` or without it, and serves SOCKS5 (TCP and UDP) and HTTP proxies on this
/// machine until Ctrl-C. Names have the same forms as with `connect` (web, web.orders, web.orders.svc.cluster.local) and are
/// resolved in the cluster: say socks5h, not socks5. Names of the cluster and private addresses lead into it; everything
/// else is connected from this machine, as without a proxy. Programs need the user and the password that are printed;
/// browsers find the rules in the PAC file.
///
/// For example `curl -x socks5h://kvpn:PASSWORD@127.0.0.1:1080 http://web.orders`.
#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// Where SOCKS5 is served; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:1080")]
    socks: SocketAddr,
    /// Where the HTTP proxy and the PAC file are served; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:3128")]
    http: SocketAddr,
    /// Let every program of this machine in, of other users too; on loopback only
    #[arg(long)]
    no_auth: bool,
    /// Print one JSON document instead of text
    #[arg(
        short,
        long,
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    output: output::Format,
    /// Resolve SERVICE.NAMESPACE for this namespace too, if you may not list namespaces; may be given again
    #[arg(long, value_name = "NAMESPACE", value_parser = super::namespace)]
    dns_namespace: Vec<String>,
    /// Look for the gateway here (and install it here), instead of the connected namespace and `kvpn`
    #[arg(long, value_name = "NAMESPACE", value_parser = super::namespace)]
    gateway_namespace: Option<String>,
    #[command(flatten)]
    access: AccessArgs,
}

/// Where the proxies are, for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Served {
    socks: SocketAddr,
    http: SocketAddr,
    pac: String,
    user: Option<String>,
    password: Option<String>,
}

impl ProxyArgs {
    fn check(&self) -> Result<(), Failure> {
        let open = [self.socks, self.http];
        let open = open.into_iter().find(|address| !address.ip().is_loopback());
        match open.filter(|_| self.no_auth) {
            Some(address) => Err(Failure::new(
                USAGE,
                format!(
                    "--no-auth at {address} would let everybody on the network into the cluster"
                ),
            )
            .hint("leave --no-auth out, or serve at 127.0.0.1")),
            None => Ok(()),
        }
    }
}

/// A session, and what keeps its names and its proxies.
struct Session {
    cluster: Cluster,
    access: Access,
    board: Arc<Board>,
    figures: Figures,
    /// Namespaces that the user named.
    namespaces: Vec<String>,
}

/// `kvpn proxy`
pub(crate) async fn run(situation: Situation, args: ProxyArgs) -> anyhow::Result<ExitCode> {
    args.check()?;
    let socks = listen(args.socks, "--socks").await?;
    let http = listen(args.http, "--http").await?;
    let credentials = (!args.no_auth).then(session::new_password).transpose()?;
    let credentials = credentials.map(Credentials::new);
    let served = Served::new(&socks, &http, credentials.as_ref())?;
    let format = args.output;
    let session = Session::new(&situation, args)?;
    let mut signals = Signals::new()?;
    let display = Display::new(situation.globals.quiet);
    let stack = tokio::select! {
        stack = session.open(&display) => stack,
        () = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    display.clear();
    let stack = stack?;
    let (names_tx, names_rx) = watch::channel(session.names(&stack, &[]));
    let proxy = Proxy::new(stack.driver.clone(), credentials, names_rx);
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&proxy).serve_socks(socks));
    tasks.spawn(proxy.serve_http(http));
    served.say(format)?;
    tokio::select! {
        () = session.follow_namespaces(&stack, &names_tx) => {}
        () = signals.next() => {}
    }
    drop(tasks);
    stack.goodbye().await;
    session.figures.stop_driver().await;
    Ok(ExitCode::SUCCESS)
}

impl Session {
    fn new(situation: &Situation, args: ProxyArgs) -> anyhow::Result<Self> {
        let access = Access {
            gateway_namespace: args.gateway_namespace,
            ..args.access.access(situation)
        };
        let cluster = Cluster::load(&access.kube.options(std::io::stdin().is_terminal()))?;
        let places = Places::of(&situation.environment, &situation.user);
        let name = SessionName::of(cluster.context(), cluster.namespace());
        let holder = Holder::of(&cluster)?;
        Ok(Self {
            cluster,
            access,
            board: Arc::new(Board::new(first_report(&places, &name, &holder))),
            figures: Figures::default(),
            namespaces: args.dns_namespace,
        })
    }

    /// Opens the session, and shows how it goes.
    async fn open(&self, display: &Display) -> anyhow::Result<Stack> {
        let opening = Opening {
            cluster: &self.cluster,
            access: &self.access,
            board: &self.board,
            figures: &self.figures,
        };
        let (_, mut replies) = self.board.follow();
        let opened = async {
            let gateway =
                gateway::ready(&self.cluster, &self.access, &self.board, Purpose::Connect).await?;
            Stack::open(&opening, gateway, &self.namespaces).await
        };
        tokio::pin!(opened);
        loop {
            tokio::select! {
                stack = &mut opened => return stack,
                reply = replies.recv() => match reply {
                    Ok(Reply::Step { text }) => display.step(&text),
                    Ok(Reply::Note { text }) => display.note(&text),
                    // Nothing else is said before it is open; steps that were missed are over.
                    Ok(_) | Err(_) => {}
                },
            }
        }
    }

    /// Tells core and browsers of the cluster's namespaces, for as long as the proxy serves.
    async fn follow_namespaces(&self, stack: &Stack, names_tx: &watch::Sender<Names>) {
        let mut lists = self.cluster.watch_namespaces();
        while let Some(list) = lists.next().await {
            match list {
                Ok(visible) => {
                    let names = self.names(stack, &visible);
                    stack.driver.tell(Command::Names(names.clone())).await;
                    names_tx.send_replace(names);
                }
                Err(error) => tracing::info!(%error, "namespaces are not watched"),
            }
        }
        std::future::pending().await
    }

    fn names(&self, stack: &Stack, visible: &[String]) -> Names {
        names::known(
            self.cluster.namespace(),
            &stack.peer_rx.borrow().grant,
            Some(visible),
            &self.namespaces,
        )
    }
}

impl Served {
    fn new(
        socks: &TcpListener,
        http: &TcpListener,
        credentials: Option<&Credentials>,
    ) -> anyhow::Result<Self> {
        let http = http.local_addr()?;
        Ok(Self {
            socks: socks.local_addr()?,
            http,
            pac: format!("http://{http}{PAC_PATH}"),
            user: credentials.map(|credentials| credentials.user().to_owned()),
            password: credentials.map(|credentials| credentials.password().to_owned()),
        })
    }

    fn say(&self, format: output::Format) -> anyhow::Result<()> {
        match format {
            output::Format::Json => output::print_json(self),
            output::Format::Table => {
                output::print(&self.text());
                Ok(())
            }
        }
    }

    fn text(&self) -> String {
        let Self {
            socks, http, pac, ..
        } = self;
        let user = match (&self.user, &self.password) {
            (Some(user), Some(password)) => format!("{user}:{password}@"),
            _ => String::new(),
        };
        let rows = [
            ("SOCKS5", format!("socks5h://{user}{socks}")),
            ("HTTP", format!("http://{user}{http}")),
            ("browsers", pac.clone()),
        ];
        output::rows(rows)
    }
}

/// A socket, before anything is asked of the cluster.
async fn listen(address: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let failure = Failure::new(
            FAILED,
            format!("nothing can be served at {address}: {error}"),
        );
        let hint = format!("choose another with {option}, or any with {option} 127.0.0.1:0");
        failure.hint(hint).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_can_take_the_urls_as_they_are() {
        let served = Served {
            socks: "127.0.0.1:1080".parse().unwrap(),
            http: "[::1]:3128".parse().unwrap(),
            pac: "http://[::1]:3128/proxy.pac".to_owned(),
            user: Some("kvpn".to_owned()),
            password: Some("secret".to_owned()),
        };
        let text = served.text();
        assert!(
            text.contains("socks5h://kvpn:secret@127.0.0.1:1080"),
            "{text}"
        );
        assert!(text.contains("http://kvpn:secret@[::1]:3128"), "{text}");
        let open = Served {
            user: None,
            password: None,
            ..served
        };
        assert!(open.text().contains("socks5h://127.0.0.1:1080"));
    }
}
