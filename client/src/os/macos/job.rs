//! What launchd is told to run: a property list, as launchd.plist(5) has it.
//!
//! Must not know what runs, nor put anything anywhere.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;

use anyhow::{Context as _, Result};

/// A job.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// What launchd calls it.
    pub(crate) label: &'a str,
    /// The program and its arguments.
    pub(crate) command: &'a [OsString],
    /// What its environment has besides launchd's.
    pub(crate) environment: &'a [(&'a str, OsString)],
    /// The group that it runs as; without it that of its user.
    pub(crate) group: Option<&'a str>,
}

impl Job<'_> {
    /// The property list: runs at once, and again 10 s after it failed.
    ///
    /// # Errors
    /// Something is not text.
    pub(crate) fn text(&self) -> Result<String> {
        let mut text = String::from(HEAD);
        string(&mut text, "Label", self.label);
        text.push_str("  <key>ProgramArguments</key>\n  <array>\n");
        for word in self.command {
            let _ = writeln!(text, "    <string>{}</string>", escaped(plain(word)?));
        }
        text.push_str("  </array>\n");
        if !self.environment.is_empty() {
            text.push_str("  <key>EnvironmentVariables</key>\n  <dict>\n");
            for (name, value) in self.environment {
                string(&mut text, name, plain(value)?);
            }
            text.push_str("  </dict>\n");
        }
        if let Some(group) = self.group {
            string(&mut text, "GroupName", group);
        }
        text.push_str(TAIL);
        Ok(text)
    }
}

/// The program of a job whose property list this is.
pub(crate) fn program(text: &str) -> Option<&str> {
    let (_, arguments) = text.split_once("<key>ProgramArguments</key>")?;
    let (_, first) = arguments.split_once("<string>")?;
    Some(first.split_once("</string>")?.0)
}

fn string(text: &mut String, key: &str, value: &str) {
    let _ = writeln!(
        text,
        "  <key>{}</key>\n  <string>{}</string>",
        escaped(key),
        escaped(value)
    );
}

fn plain(word: &OsStr) -> Result<&str> {
    word.to_str()
        .with_context(|| format!("{} is no text", word.display()))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

const HEAD: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- Made by kvpn, removed by it. -->
<plist version="1.0">
<dict>
"#;
/// 63 is the umask 077.
const TAIL: &str = "  <key>RunAtLoad</key>
  <true/>
  <key>KeepAlive</key>
  <dict>
    <key>SuccessfulExit</key>
    <false/>
  </dict>
  <key>ThrottleInterval</key>
  <integer>10</integer>
  <key>Umask</key>
  <integer>63</integer>
</dict>
</plist>
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_a_property_list_and_its_program_is_found_in_it() {
        let command = ["/usr/local/bin/kvpn", "connect", "--cidr", "a<b&c>"].map(OsString::from);
        let environment = [("KUBECONFIG", OsString::from("/a:/b"))];
        let job = Job {
            label: "dev.kvpn.session.dev",
            command: &command,
            environment: &environment,
            group: Some("kvpn"),
        };
        let text = job.text().unwrap();
        assert_eq!(program(&text), Some("/usr/local/bin/kvpn"));
        assert!(text.contains("<string>a&lt;b&amp;c&gt;</string>"), "{text}");
        assert!(
            text.contains("<key>KUBECONFIG</key>\n  <string>/a:/b</string>"),
            "{text}"
        );
        assert!(
            text.contains("<key>GroupName</key>\n  <string>kvpn</string>"),
            "{text}"
        );
        assert_eq!(
            text.matches("<dict>").count(),
            text.matches("</dict>").count()
        );
    }
}
