//! What a socket's error means to the client: told as it is, or not at all.

use std::io::{Error, ErrorKind};

use kvpn_gateway_core::Refusal;

/// What the client is told about a connection that could not be made.
pub(crate) fn of_connection(error: &Error) -> Refusal {
    match error.kind() {
        ErrorKind::ConnectionRefused
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted => Refusal::Reset,
        ErrorKind::HostUnreachable => Refusal::HostUnreachable,
        // No route, no address of that family: not the target's fault, but not to be reached from here.
        ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable | ErrorKind::Unsupported => {
            Refusal::NetUnreachable
        }
        ErrorKind::PermissionDenied => Refusal::Prohibited,
        // A silent host; or a want of our own (files, memory), after which the client's next SYN may succeed.
        _ => of_number(error),
    }
}

/// What the client is told about a datagram that did not arrive.
pub(crate) fn of_datagram(error: &Error) -> Refusal {
    match of_connection(error) {
        Refusal::Reset => Refusal::PortUnreachable,
        other @ (Refusal::HostUnreachable
        | Refusal::NetUnreachable
        | Refusal::Prohibited
        | Refusal::PortUnreachable
        | Refusal::Silent) => other,
    }
}

/// Errors that the standard library has no word for.
fn of_number(error: &Error) -> Refusal {
    match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT | libc::ENONET) => Refusal::NetUnreachable,
        Some(libc::EHOSTDOWN) => Refusal::HostUnreachable,
        Some(_) | None => Refusal::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_as_they_are() {
        let table = [
            (libc::ECONNREFUSED, Refusal::Reset, Refusal::PortUnreachable),
            (
                libc::EHOSTUNREACH,
                Refusal::HostUnreachable,
                Refusal::HostUnreachable,
            ),
            (
                libc::ENETUNREACH,
                Refusal::NetUnreachable,
                Refusal::NetUnreachable,
            ),
            (
                libc::EAFNOSUPPORT,
                Refusal::NetUnreachable,
                Refusal::NetUnreachable,
            ),
            (libc::ETIMEDOUT, Refusal::Silent, Refusal::Silent),
            (libc::EACCES, Refusal::Prohibited, Refusal::Prohibited),
            (libc::EPERM, Refusal::Prohibited, Refusal::Prohibited),
            (libc::EMFILE, Refusal::Silent, Refusal::Silent),
        ];
        for (number, connection, datagram) in table {
            let error = Error::from_raw_os_error(number);
            assert_eq!(
                (of_connection(&error), of_datagram(&error)),
                (connection, datagram),
                "{error}"
            );
        }
    }
}
