//! What the words on the command line mean, and the question that may follow. Knows no cluster.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use kvpn_wire::exposure::PortMapping;
use kvpn_wire::name::ServiceName;

/// Ports and Service of `8080:80 9090:9090/udp as web`.
///
/// # Errors
///
/// What is wrong, in words.
pub(super) fn split(words: &[String]) -> Result<(Vec<PortMapping>, String), String> {
    let [ports @ .., word, service] = words else {
        return Err(form());
    };
    if word != "as" || ports.is_empty() {
        return Err(form());
    }
    let name: ServiceName = service
        .parse()
        .map_err(|error| format!("`{service}` is no Service's name: {error}"))?;
    let mut mappings: Vec<PortMapping> = Vec::new();
    for port in ports {
        let mapping = port
            .parse()
            .map_err(|error: kvpn_wire::exposure::BadArgument| error.to_string())?;
        if mappings.contains(&mapping) {
            return Err(format!("`{port}` is named twice"));
        }
        mappings.push(mapping);
    }
    Ok((mappings, name.as_str().to_owned()))
}

fn form() -> String {
    "write `kvpn expose PORT[:SERVICE-PORT][/udp].. as SERVICE`, such as `kvpn expose 8080:80 as web`"
        .to_owned()
}

/// Whether a question reaches somebody.
pub(super) fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks on the terminal; everything but a yes is no.
pub(super) fn ask(question: &str) -> bool {
    let mut stderr = std::io::stderr().lock();
    let asked = write!(stderr, "{question}. Go on? [y/N] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    let read = asked.and_then(|()| std::io::stdin().lock().read_line(&mut answer));
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
