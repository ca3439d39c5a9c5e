//! The messages of SOCKS5: RFC 1928, and RFC 1929 for the password. Bytes only.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::super::credentials::Credentials;
use super::super::target::{Host, Target};

const VERSION: u8 = 5;
/// Methods (section 3).
const NO_AUTHENTICATION: u8 = 0;
const PASSWORD: u8 = 2;
const NOT_ACCEPTABLE: u8 = 0xff;
/// The version of RFC 1929.
const PASSWORD_VERSION: u8 = 1;
/// Kinds of address (section 5).
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// What a program may want (section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Connect,
    Associate,
}

/// What a program is told (section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Succeeded = 0,
    Failed = 1,
    NotAllowed = 2,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    Refused = 5,
    CommandUnknown = 7,
    AddressUnknown = 8,
}

/// Reads a program's greeting, asks for its credentials if there are any, and reads what it wants; or what it is to be told instead.
///
/// # Errors
/// It does not speak SOCKS5, has wrong credentials, or is gone.
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    program: &mut S,
    credentials: Option<&Credentials>,
) -> io::Result<Result<(Command, Target), Reply>> {
    expect(program, VERSION).await?;
    let methods = short(program).await?;
    let wanted = credentials.map_or(NO_AUTHENTICATION, |_| PASSWORD);
    if !methods.contains(&wanted) {
        program.write_all(&[VERSION, NOT_ACCEPTABLE]).await?;
        return Err(ErrorKind::PermissionDenied.into());
    }
    program.write_all(&[VERSION, wanted]).await?;
    if let Some(credentials) = credentials {
        authenticate(program, credentials).await?;
    }
    request(program).await
}

async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    program: &mut S,
    credentials: &Credentials,
) -> io::Result<()> {
    expect(program, PASSWORD_VERSION).await?;
    let user = short(program).await?;
    let password = short(program).await?;
    let pass = credentials.are(&user, &password);
    let answer = [PASSWORD_VERSION, u8::from(!pass)];
    program.write_all(&answer).await?;
    if pass {
        Ok(())
    } else {
        Err(ErrorKind::PermissionDenied.into())
    }
}

async fn request<S: AsyncRead + Unpin>(
    program: &mut S,
) -> io::Result<Result<(Command, Target), Reply>> {
    expect(program, VERSION).await?;
    let command = program.read_u8().await?;
    let _reserved = program.read_u8().await?;
    let host = match program.read_u8().await? {
        IPV4 => Host::Address(Ipv4Addr::from_bits(program.read_u32().await?).into()),
        IPV6 => Host::Address(Ipv6Addr::from_bits(program.read_u128().await?).into()),
        NAME => match String::from_utf8(short(program).await?) {
            Ok(name) => Host::of(&name),
            Err(_) => return Ok(Err(Reply::AddressUnknown)),
        },
        _ => return Ok(Err(Reply::AddressUnknown)),
    };
    let port = program.read_u16().await?;
    let command = match command {
        1 => Command::Connect,
        3 => Command::Associate,
        _ => return Ok(Err(Reply::CommandUnknown)),
    };
    Ok(Ok((command, Target { host, port })))
}

/// The bytes of a reply.
pub(super) fn reply(reply: Reply, bound: SocketAddr) -> Vec<u8> {
    let mut message = vec![VERSION, reply as u8, 0];
    push_address(&mut message, bound);
    message
}

/// Where a program's datagram goes, and what it carries (section 7). `None` for fragments, which nobody sends, and nonsense.
pub(super) fn datagram(message: &[u8]) -> Option<(Target, &[u8])> {
    let ([0, 0, 0, kind], rest) = message.split_first_chunk()? else {
        return None;
    };
    let (host, rest) = match *kind {
        IPV4 => {
            let (address, rest) = rest.split_first_chunk::<4>()?;
            (Host::Address(IpAddr::from(*address)), rest)
        }
        IPV6 => {
            let (address, rest) = rest.split_first_chunk::<16>()?;
            (Host::Address(IpAddr::from(*address)), rest)
        }
        NAME => {
            let (length, rest) = rest.split_first()?;
            let (name, rest) = rest.split_at_checked(usize::from(*length))?;
            (Host::of(str::from_utf8(name).ok()?), rest)
        }
        _ => return None,
    };
    let (port, payload) = rest.split_first_chunk()?;
    let port = u16::from_be_bytes(*port);
    Some((Target { host, port }, payload))
}

/// The header before a datagram that came from `from`.
pub(super) fn datagram_header(from: SocketAddr) -> Vec<u8> {
    let mut header = vec![0; 3];
    push_address(&mut header, from);
    header
}

fn push_address(message: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            message.push(IPV4);
            message.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            message.push(IPV6);
            message.extend(ip.octets());
        }
    }
    message.extend(address.port().to_be_bytes());
}

/// Bytes with their number before them.
async fn short<S: AsyncRead + Unpin>(program: &mut S) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; program.read_u8().await?.into()];
    program.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn expect<S: AsyncRead + Unpin>(program: &mut S, version: u8) -> io::Result<()> {
    if program.read_u8().await? == version {
        Ok(())
    } else {
        Err(io::Error::new(ErrorKind::InvalidData, "this is no SOCKS5"))
    }
}

#[cfg(test)]
mod tests;
