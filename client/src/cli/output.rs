//! The only place that writes to stdout and stderr (besides log lines and the progress display). Results go to
//! stdout, everything else to stderr. A reader that went away is not an error.

use std::io::{self, Write as _};
use std::sync::OnceLock;

use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::cli::failure::Failure;

/// How a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// One JSON document whose fields stay
    Json,
}

/// `-o`, for commands whose result is one document.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArgs {
    /// How to write it; the JSON document's fields stay
    #[arg(
        short = 'o',
        long = "output",
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub(crate) format: Format,
}

/// What kept the first piece of a result from being written. Results are written at many places, and none can do better
/// than the program's end, which asks for it.
static LOST: OnceLock<io::Error> = OnceLock::new();

/// A result, or a part of one. See [`lost`].
pub(crate) fn print(text: &str) {
    if let Err(error) = write(&mut io::stdout().lock(), text) {
        let _ = LOST.set(error);
    }
}

/// Why not all that was given to [`print()`] stands where it was to go.
pub(crate) fn lost() -> Option<&'static io::Error> {
    LOST.get()
}

fn write(stdout: &mut impl io::Write, text: &str) -> io::Result<()> {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    match write!(stdout, "{text}{end}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// A result as one JSON document.
///
/// # Errors
///
/// The value has no JSON form.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Labels and values below each other.
pub(crate) fn rows(rows: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    for (label, value) in rows {
        table.add_row([label.to_owned(), value]);
    }
    table.trim_fmt()
}

/// Columns under their heads.
pub(crate) fn table(heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(heads);
    for row in rows {
        table.add_row(row);
    }
    table.trim_fmt()
}

/// Something for the user that is no result.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A failure, and what to do about it.
pub(crate) fn complain(failure: &Failure) {
    tell(&format!("kvpn: {}", failure.message));
    if let Some(hint) = &failure.hint {
        tell(&format!("  hint: {hint}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Refusing(io::ErrorKind);

    impl io::Write for Refusing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_an_error_and_a_reader_that_left_is_none() {
        let mut full = Refusing(io::ErrorKind::StorageFull);
        assert_eq!(
            write(&mut full, "a").unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        assert!(write(&mut Refusing(io::ErrorKind::BrokenPipe), "a").is_ok());
        let mut written = Vec::new();
        write(&mut written, "a").unwrap();
        write(&mut written, "b\n").unwrap();
        assert_eq!(written, b"a\nb\n");
    }
}
