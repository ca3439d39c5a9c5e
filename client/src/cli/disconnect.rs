//! `kvpn disconnect`: ends sessions, and undoes what dead ones left.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::agent::contact::Contact;
use crate::agent::lock::{self, Held, Holder};
use crate::agent::message::{Reply, Request};
use crate::agent::places::{Places, SessionName};
use crate::cli::failure::{Failure, NOT_CONNECTED, USAGE};
use crate::cli::progress::Display;
use crate::cli::user::User;
use crate::cli::{Globals, Situation, output};
use crate::helper;
use crate::os::platform::{Process, login};

/// How long an agent may take to undo everything.
const END_LIMIT: Duration = Duration::from_secs(30);
/// How long a process may take to end after a signal.
const SIGNAL_LIMIT: Duration = Duration::from_secs(5);
/// How often a process that ought to end is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// End a session and put the machine's routes and names back
///
/// Also undoes what a session left that was killed, and has it not begin at login any more.
#[derive(Debug, Args)]
pub(crate) struct DisconnectArgs {
    /// The session, as `kvpn status` names it; may be left out when there is one only (of that --namespace or
    /// --context, where they are given)
    #[arg(value_name = "SESSION")]
    session: Option<SessionName>,
    /// End every session
    #[arg(long, conflicts_with = "session")]
    all: bool,
}

/// `kvpn disconnect`
pub(crate) async fn run(situation: Situation, args: DisconnectArgs) -> anyhow::Result<ExitCode> {
    let places = Places::of(&situation.environment, &situation.user);
    let display = Display::new(situation.globals.quiet);
    let home = &situation.user.home;
    let sessions = with_those_at_login(places.sessions()?, home);
    let meant = meant(&places, sessions, &situation.globals);
    let chosen = choose(&meant, &args)?;
    for name in &chosen {
        display.step(&format!("ending session {name}"));
        end(&places, name, &display)
            .await
            .with_context(|| format!("session {name} could not be ended"))?;
        login::disable(home, name.as_str())?;
        display.result(&format!("disconnected: {name}"));
    }
    let undone = undo_leftovers(&situation, &display)?;
    display.clear();
    if chosen.is_empty() && !undone {
        return Err(no_session(&situation.globals).into());
    }
    Ok(ExitCode::SUCCESS)
}

/// Sessions that would begin at the next login can be ended before.
fn with_those_at_login(mut sessions: Vec<SessionName>, home: &Path) -> Vec<SessionName> {
    let at_login = login::names(home);
    sessions.extend(at_login.iter().filter_map(|name| name.parse().ok()));
    sessions.sort();
    sessions.dedup();
    sessions
}

fn no_session(globals: &Globals) -> Failure {
    let Globals {
        context, namespace, ..
    } = globals;
    let said = [("context", context), ("namespace", namespace)];
    let said: String = (said.into_iter())
        .filter_map(|(what, which)| Some(format!(" with {what} {}", which.as_ref()?)))
        .collect();
    Failure::new(
        NOT_CONNECTED,
        format!("not connected: there is no session{said}"),
    )
}

/// The sessions of the context and namespace that were named, if any were.
fn meant(places: &Places, sessions: Vec<SessionName>, globals: &Globals) -> Vec<SessionName> {
    if globals.context.is_none() && globals.namespace.is_none() {
        return sessions;
    }
    let is_meant = |name: &SessionName| match lock::look(&places.lock(name)) {
        Held::Alive(Some(holder)) | Held::Dead(Some(holder)) => is_of(&holder, globals),
        Held::Alive(None) | Held::Dead(None) | Held::Absent => false,
    };
    sessions.into_iter().filter(is_meant).collect()
}

pub(super) fn is_of(holder: &Holder, globals: &Globals) -> bool {
    let matches = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|it| it == is);
    matches(&globals.context, &holder.context) && matches(&globals.namespace, &holder.namespace)
}

fn choose(sessions: &[SessionName], args: &DisconnectArgs) -> Result<Vec<SessionName>, Failure> {
    match (&args.session, sessions) {
        (Some(name), _) if !sessions.contains(name) => Err(Failure::new(
            NOT_CONNECTED,
            format!("not connected: there is no session {name}"),
        )
        .hint("`kvpn status` lists them")),
        (Some(name), _) => Ok(vec![name.clone()]),
        (None, [] | [_]) => Ok(sessions.to_vec()),
        (None, _) if args.all => Ok(sessions.to_vec()),
        (None, _) => {
            let names: Vec<&str> = sessions.iter().map(SessionName::as_str).collect();
            Err(Failure::new(USAGE, "there are several sessions")
                .hint(format!("name one, or give --all: {}", names.join(", "))))
        }
    }
}

/// Ends a session and waits until its process is gone.
///
/// # Errors
///
/// The process does not end, or its files cannot be removed.
pub(super) async fn end(
    places: &Places,
    name: &SessionName,
    display: &Display,
) -> anyhow::Result<()> {
    let holder = match lock::look(&places.lock(name)) {
        Held::Absent | Held::Dead(_) => return forget(places, name),
        Held::Alive(holder) => holder,
    };
    if let Some(contact) = Contact::open(places, name).await? {
        match tokio::time::timeout(END_LIMIT, ask_to_end(contact, display)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(
                error = format!("{error:#}"),
                "the agent did not say goodbye"
            ),
            Err(_) => tracing::warn!("the agent does not end by itself"),
        }
    }
    match holder {
        Some(holder) => make_sure(&holder.process).await?,
        None => bail!(
            "its lock {} is held by a process that did not write itself down",
            places.lock(name).display()
        ),
    }
    forget(places, name)
}

async fn ask_to_end(mut contact: Contact, display: &Display) -> anyhow::Result<()> {
    contact.ask(&Request::Disconnect).await?;
    while let Some(reply) = contact.answer().await? {
        match reply {
            Reply::Ended { notes, .. } => {
                for note in notes {
                    display.note(&note);
                }
                return Ok(());
            }
            Reply::Failed(_) | Reply::Occupied => return Ok(()),
            Reply::Step { text } => display.step(&text),
            Reply::Note { .. } | Reply::Connected(_) | Reply::Report(_) => {}
        }
    }
    Ok(())
}

/// Waits until exactly this process is gone; one that stays is told to, then made to.
async fn make_sure(process: &Process) -> anyhow::Result<()> {
    if gone_within(process, SIGNAL_LIMIT).await {
        return Ok(());
    }
    for end in [Process::ask_to_end, Process::kill] {
        end(process).with_context(|| format!("process {} cannot be ended", process.pid))?;
        if gone_within(process, SIGNAL_LIMIT).await {
            return Ok(());
        }
    }
    bail!("the agent (process {}) does not end", process.pid)
}

async fn gone_within(process: &Process, limit: Duration) -> bool {
    let gone = async {
        while process.is_alive() {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(limit, gone).await.is_ok()
}

/// Removes the files of a session whose agent is gone.
pub(super) fn forget(places: &Places, name: &SessionName) -> anyhow::Result<()> {
    for path in [places.socket(name), places.lock(name)] {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Undoes what killed helpers left; whether there was anything. Asks for root only when something can be seen.
fn undo_leftovers(situation: &Situation, display: &Display) -> anyhow::Result<bool> {
    let undone = if situation.user.is_administrator() {
        helper::undo_leftovers()?
    } else {
        let Some(left) = helper::visible_leftovers() else {
            return Ok(false);
        };
        display.clear();
        output::tell(&left);
        User::run_as_root(&["helper", "--undo"])?;
        vec![left]
    };
    for text in &undone {
        display.note(text);
    }
    Ok(!undone.is_empty())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn names(texts: &[&str]) -> Vec<SessionName> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn args(session: Option<&str>, all: bool) -> DisconnectArgs {
        DisconnectArgs {
            session: session.map(|name| name.parse().unwrap()),
            all,
        }
    }

    #[test]
    fn the_only_session_need_not_be_named() {
        assert_eq!(
            choose(&names(&["a"]), &args(None, false)).unwrap(),
            names(&["a"])
        );
        assert!(choose(&[], &args(None, false)).unwrap().is_empty());
    }

    #[test]
    fn one_of_several_must_be() {
        let sessions = names(&["a", "b"]);
        assert_eq!(
            choose(&sessions, &args(None, false)).unwrap_err().code,
            USAGE
        );
        assert_eq!(
            choose(&sessions, &args(Some("b"), false)).unwrap(),
            names(&["b"])
        );
        assert_eq!(choose(&sessions, &args(None, true)).unwrap(), sessions);
        assert_eq!(
            choose(&sessions, &args(Some("c"), false)).unwrap_err().code,
            NOT_CONNECTED
        );
    }

    #[test]
    fn a_namespace_or_context_tells_which_one_is_meant() {
        let directory = tempfile::tempdir().unwrap();
        let places = serde_json::json!({ "run": directory.path(), "state": directory.path() });
        let places: Places = serde_json::from_value(places).unwrap();
        for (name, context, namespace) in [
            ("a", "dev", "shop"),
            ("b", "dev", "orders"),
            ("c", "prod", "shop"),
        ] {
            let holder = Holder {
                service: None,
                fingerprint: None,
                process: Process::current().unwrap(),
                context: context.to_owned(),
                namespace: namespace.to_owned(),
                server: "https://s".to_owned(),
            };
            let path = places.lock(&name.parse().unwrap());
            std::fs::write(path, serde_json::to_vec(&holder).unwrap()).unwrap();
        }
        let meant = |options: &[&str]| {
            let line = [&["kvpn"], options, &["disconnect"]].concat();
            let globals = Cli::try_parse_from(line).unwrap().globals;
            meant(&places, places.sessions().unwrap(), &globals)
        };
        assert_eq!(meant(&[]), names(&["a", "b", "c"]));
        assert_eq!(meant(&["-n", "orders"]), names(&["b"]));
        assert_eq!(meant(&["--context", "dev"]), names(&["a", "b"]));
        assert_eq!(meant(&["-n", "shop", "--context", "prod"]), names(&["c"]));
        assert!(meant(&["-n", "nosuch"]).is_empty());
    }

    #[tokio::test]
    async fn a_reused_process_id_is_nobodys() {
        let other = Process {
            start_time: 1,
            ..Process::current().unwrap()
        };
        make_sure(&other).await.unwrap();
    }
}
