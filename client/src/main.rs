//! The `kvpn` command: hands over to the library; nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    kvpn_client::run()
}
