//! The only place that writes to stdout and stderr (besides log lines and the progress display). Results go to
//! stdout, everything else to stderr. A reader that went away is not an error.

use std::io::Write as _;

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

/// A result, or a part of one.
pub(crate) fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    let _ = write!(stdout, "{text}{end}").and_then(|()| stdout.flush());
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
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A failure, and what to do about it.
pub(crate) fn complain(failure: &Failure) {
    tell(&format!("kvpn: {}", failure.message));
    if let Some(hint) = &failure.hint {
        tell(&format!("  hint: {hint}"));
    }
}
