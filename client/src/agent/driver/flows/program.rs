//! How a program on the laptop is reached: at 127.0.0.1, or at ::1 if nobody listens there.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::net::TcpStream;

/// How long a program may take to accept a connection: longer means that it has too many, or hangs.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Where programs listen, in the order in which they are asked.
pub(super) const ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// Connects with the program that listens at `port`.
///
/// # Errors
/// Nobody listens there, or the program did not accept within 2 s.
pub(super) async fn connect(port: u16) -> io::Result<TcpStream> {
    let [first, second] = ADDRESSES;
    let connected = async {
        match TcpStream::connect((first, port)).await {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                TcpStream::connect((second, port)).await
            }
            other => other,
        }
    };
    let stream = tokio::time::timeout(CONNECT_LIMIT, connected).await??;
    // Segments go on as they came.
    stream.set_nodelay(true)?;
    Ok(stream)
}
