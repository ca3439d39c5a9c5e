//! What happens while the user waits: on a terminal a spinner, else a line a step. Always on stderr.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::output;

/// How often the spinner turns.
const TURN: Duration = Duration::from_millis(100);

/// Shows the steps of one command.
#[derive(Debug)]
pub(crate) struct Display {
    quiet: bool,
    results: bool,
    form: Form,
}

/// How steps are shown.
#[derive(Debug)]
enum Form {
    /// Not at all.
    Nothing,
    /// A line a step.
    Lines,
    /// One line that changes.
    Spinner(ProgressBar),
}

impl Display {
    /// The display that suits this terminal and these options.
    pub(crate) fn new(quiet: bool) -> Self {
        let form = if quiet {
            Form::Nothing
        } else {
            Form::of_terminal()
        };
        Self {
            quiet,
            results: !quiet,
            form,
        }
    }

    /// The same, without steps: something else tells them.
    pub(crate) fn without_steps(self) -> Self {
        self.clear();
        Self {
            form: Form::Nothing,
            ..self
        }
    }

    /// The same, without results: standard output is for something else.
    #[cfg(unix)]
    pub(crate) fn without_results(self) -> Self {
        Self {
            results: false,
            ..self
        }
    }

    /// Whether nothing but errors is wanted.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// The command does this now.
    pub(crate) fn step(&self, text: &str) {
        match &self.form {
            Form::Nothing => {}
            Form::Lines => output::tell(text),
            Form::Spinner(bar) => bar.set_message(text.to_owned()),
        }
    }

    /// Something that the user should still read afterwards.
    pub(crate) fn note(&self, text: &str) {
        match &self.form {
            Form::Nothing => {}
            Form::Lines => output::tell(text),
            Form::Spinner(bar) => bar.suspend(|| output::tell(text)),
        }
    }

    /// What came of the command, on stdout.
    pub(crate) fn result(&self, text: &str) {
        if !self.results {
            return;
        }
        match &self.form {
            Form::Nothing | Form::Lines => output::print(text),
            Form::Spinner(bar) => bar.suspend(|| output::print(text)),
        }
    }

    /// A program that may write to the terminal itself comes next.
    pub(crate) fn pause(&self) {
        if let Form::Spinner(bar) = &self.form {
            bar.disable_steady_tick();
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
    }

    /// It is through.
    pub(crate) fn resume(&self) {
        if let Form::Spinner(bar) = &self.form {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.enable_steady_tick(TURN);
        }
    }

    /// The command is through.
    pub(crate) fn clear(&self) {
        if let Form::Spinner(bar) = &self.form {
            bar.finish_and_clear();
        }
    }
}

impl Form {
    fn of_terminal() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines;
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TURN);
        Self::Spinner(bar)
    }
}
