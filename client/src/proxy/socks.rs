//! SOCKS5 (RFC 1928) for programs: CONNECT and UDP ASSOCIATE.

mod associate;
mod message;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::target::Target;
use super::ways::Unreachable;
use super::{HANDSHAKE_LIMIT, Proxy, carry};
use message::{Command, Reply};

/// The address of a reply that has none to say.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Serves one connection of a program's.
pub(super) async fn serve(proxy: Arc<Proxy>, mut program: TcpStream) -> anyhow::Result<()> {
    program.set_nodelay(true)?;
    let request = message::accept(&mut program, proxy.credentials.as_ref());
    let request = tokio::time::timeout(HANDSHAKE_LIMIT, request)
        .await
        .context("the program did not say what it wants")??;
    match request {
        Ok((Command::Connect, target)) => connect(&proxy, program, &target).await,
        Ok((Command::Associate, _)) => associate::serve(proxy, program).await,
        Err(reply) => answer(&mut program, reply, NOWHERE).await,
    }
}

async fn connect(proxy: &Proxy, mut program: TcpStream, target: &Target) -> anyhow::Result<()> {
    match proxy.ways.connect(target).await {
        Ok(connection) => {
            answer(&mut program, Reply::Succeeded, NOWHERE).await?;
            carry(program, connection).await;
            Ok(())
        }
        Err(error) => {
            tracing::debug!(%target, %error, "not connected");
            answer(&mut program, reply_to(&error), NOWHERE).await
        }
    }
}

async fn answer(program: &mut TcpStream, reply: Reply, bound: SocketAddr) -> anyhow::Result<()> {
    Ok(program.write_all(&message::reply(reply, bound)).await?)
}

/// What a program is told.
fn reply_to(error: &Unreachable) -> Reply {
    match error {
        Unreachable::NoAddress | Unreachable::NoAnswer => Reply::HostUnreachable,
        Unreachable::Forbidden | Unreachable::Outside => Reply::NotAllowed,
        Unreachable::Io(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Reply::Refused,
            io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable => Reply::HostUnreachable,
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => {
                Reply::NetworkUnreachable
            }
            _ => Reply::Failed,
        },
    }
}
