//! Runs a kubeconfig's credential plugin (client-go's ExecCredential protocol, v1 and v1beta1).
//!
//! Own code instead of kube's: that one waits without end and blocks a thread. Here a plugin gets a time
//! limit and is ended with all that it started, and it meets a terminal only when there is one.

use crate::Error;
use k8s_openapi::jiff::Timestamp;
use kube::config::{ExecAuthCluster, ExecConfig, ExecInteractiveMode};
use serde::{Deserialize, Serialize};
use std::{io, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    time::timeout,
};

/// No credential is longer; a plugin that writes more is broken.
const OUTPUT_LIMIT: u64 = 1 << 20;
/// How much of a plugin's standard error goes into our error text.
const STDERR_SHOWN: usize = 400;

/// A credential plugin and the conditions under which it runs.
#[derive(Debug, Clone)]
pub(super) struct Plugin {
    pub(super) config: ExecConfig,
    pub(super) timeout: Duration,
    /// Whether there is a terminal that it may use.
    pub(super) terminal: bool,
}

/// What a plugin gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Credential {
    pub(super) token: Option<String>,
    /// Certificate and key, both PEM.
    pub(super) certificate: Option<(String, String)>,
    pub(super) expires: Option<Timestamp>,
}

#[derive(Serialize)]
struct Request<'a> {
    #[serde(rename = "apiVersion")]
    api_version: &'a str,
    kind: &'static str,
    spec: RequestSpec<'a>,
}

#[derive(Serialize)]
struct RequestSpec<'a> {
    interactive: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a ExecAuthCluster>,
}

#[derive(Deserialize)]
struct Answer {
    status: Option<AnswerStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnswerStatus {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    expiration_timestamp: Option<String>,
}

impl Plugin {
    /// Runs the plugin once. It is dead when this returns an error, and when the future is dropped.
    pub(super) async fn run(&self) -> Result<Credential, Error> {
        let interactive = self.interactive()?;
        let mut child = self
            .command(interactive)?
            .spawn()
            .map_err(|error| self.not_started(&error))?;
        let mut group = Group::of(&child, interactive);
        let streams = (child.stdout.take(), child.stderr.take());
        let work = async {
            let (out, err, status) =
                tokio::join!(read_all(streams.0), read_all(streams.1), child.wait());
            Ok::<_, io::Error>((out?, err?, status?))
        };
        let ended = timeout(self.timeout, work).await;
        let Ok(ended) = ended else {
            group.end();
            // Reaps it; the error is that it has been reaped already.
            child.kill().await.ok();
            return Err(self.failed(
                format!(
                    "no answer within {} s; it was ended",
                    self.timeout.as_secs_f32()
                ),
                true,
            ));
        };
        group.keep();
        let (out, err, status) = ended.map_err(|error| self.failed(error.to_string(), false))?;
        if !status.success() {
            return Err(self.failed(format!("{status}{}", stderr_text(&err)), false));
        }
        self.credential(&out)
    }

    /// The plugin's command line, for messages.
    pub(super) fn command_text(&self) -> String {
        let mut text = self.config.command.clone().unwrap_or_default();
        for argument in self.config.args.iter().flatten() {
            text.push(' ');
            text.push_str(argument);
        }
        text
    }

    fn interactive(&self) -> Result<bool, Error> {
        match &self.config.interactive_mode {
            Some(ExecInteractiveMode::Never) => Ok(false),
            Some(ExecInteractiveMode::IfAvailable) | None => Ok(self.terminal),
            Some(ExecInteractiveMode::Always) if self.terminal => Ok(true),
            Some(ExecInteractiveMode::Always) => Err(Error::ExecPlugin {
                command: self.command_text(),
                why: "it needs a terminal, and there is none".to_owned(),
                timeout: None,
                hint: Some(
                    "run kvpn in a terminal, or log in with the plugin's own command first"
                        .to_owned(),
                ),
            }),
        }
    }

    fn command(&self, interactive: bool) -> Result<Command, Error> {
        let Some(program) = &self.config.command else {
            return Err(self.failed("the kubeconfig names no command".to_owned(), false));
        };
        let mut command = Command::new(program);
        command.args(self.config.args.iter().flatten());
        for variable in self.config.env.iter().flatten() {
            if let (Some(name), Some(value)) = (variable.get("name"), variable.get("value")) {
                command.env(name, value);
            }
        }
        command.env("KUBERNETES_EXEC_INFO", self.request(interactive)?);
        command.stdout(Stdio::piped()).kill_on_drop(true);
        if interactive {
            command.stdin(Stdio::inherit()).stderr(Stdio::inherit());
        } else {
            command.stdin(Stdio::null()).stderr(Stdio::piped());
            // Its own process group, so that what it started ends with it. With a terminal it must stay
            // in ours: the terminal stops readers of other groups.
            #[cfg(unix)]
            command.process_group(0);
        }
        Ok(command)
    }

    fn request(&self, interactive: bool) -> Result<String, Error> {
        let request = Request {
            api_version: self
                .config
                .api_version
                .as_deref()
                .unwrap_or("client.authentication.k8s.io/v1"),
            kind: "ExecCredential",
            spec: RequestSpec {
                interactive,
                cluster: self.config.cluster.as_ref(),
            },
        };
        serde_json::to_string(&request).map_err(|error| self.failed(error.to_string(), false))
    }

    /// Reads the answer: JSON by the protocol, YAML in practice (client-go takes both).
    fn credential(&self, out: &[u8]) -> Result<Credential, Error> {
        let answer: Answer = serde_saphyr::from_slice(out).map_err(|error| {
            self.failed(format!("its output is no ExecCredential: {error}"), false)
        })?;
        let status = answer
            .status
            .ok_or_else(|| self.failed("its answer has no status".to_owned(), false))?;
        let certificate = status.client_certificate_data.zip(status.client_key_data);
        if status.token.is_none() && certificate.is_none() {
            return Err(self.failed(
                "its answer holds neither a token nor a certificate".to_owned(),
                false,
            ));
        }
        let expires = status
            .expiration_timestamp
            .as_deref()
            .map(str::parse)
            .transpose();
        let expires = expires
            .map_err(|error| self.failed(format!("its expirationTimestamp: {error}"), false))?;
        Ok(Credential {
            token: status.token,
            certificate,
            expires,
        })
    }

    fn not_started(&self, error: &io::Error) -> Error {
        let why = match error.kind() {
            io::ErrorKind::NotFound => "the command was not found".to_owned(),
            _ => error.to_string(),
        };
        self.failed(why, false)
    }

    fn failed(&self, why: String, timed_out: bool) -> Error {
        let ours = if timed_out {
            "run it by hand to see what it waits for; it may want a login in a browser or on a terminal"
        } else {
            "run it by hand, and log in again where it asks for it"
        };
        Error::ExecPlugin {
            command: self.command_text(),
            why,
            timeout: timed_out.then_some(self.timeout),
            hint: Some(
                self.config
                    .install_hint
                    .clone()
                    .unwrap_or_else(|| ours.to_owned()),
            ),
        }
    }
}

/// A plugin's process group, ended on drop unless kept.
struct Group {
    #[cfg(unix)]
    leader: Option<rustix::process::Pid>,
}

impl Group {
    #[cfg(unix)]
    fn of(child: &Child, interactive: bool) -> Self {
        let id = child
            .id()
            .filter(|_| !interactive)
            .and_then(|id| i32::try_from(id).ok());
        Self {
            leader: id.and_then(rustix::process::Pid::from_raw),
        }
    }

    #[cfg(not(unix))]
    fn of(_child: &Child, _interactive: bool) -> Self {
        Self {}
    }

    /// The plugin answered: what it left running (a cache, say) is its business.
    fn keep(&mut self) {
        #[cfg(unix)]
        {
            self.leader = None;
        }
    }

    fn end(&mut self) {
        #[cfg(unix)]
        if let Some(leader) = self.leader.take() {
            // An error means that nobody of the group is left.
            rustix::process::kill_process_group(leader, rustix::process::Signal::KILL).ok();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

async fn read_all(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(OUTPUT_LIMIT).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// The end of what it wrote to standard error, where the cause is as a rule.
fn stderr_text(err: &[u8]) -> String {
    let text = String::from_utf8_lossy(err);
    let text = text.trim();
    if text.is_empty() {
        return String::new();
    }
    let skipped = text.chars().count().saturating_sub(STDERR_SHOWN);
    format!(": {}", text.chars().skip(skipped).collect::<String>())
}

#[cfg(test)]
mod tests;
