//! A Debian with a real systemd (tests/osparts: boot.sh, or vm.py with a kernel of its own), with kvpn in it and a user who is no administrator.
//!
//! Nothing here decides what is right: that stands in the tests.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::outcome::Outcome;
use crate::settings::{Settings, checkout};

/// A booted machine, gone with all that runs on it when the test ends.
#[derive(Debug)]
pub struct Machine {
    /// Of tests/osparts, what it is booted with.
    script: &'static str,
    name: String,
}

impl Machine {
    /// Boots one with a network of its own and nothing in that, and kvpn at /usr/local/bin/kvpn.
    ///
    /// # Panics
    ///
    /// Without root or the program under test, or when it does not boot.
    pub fn boot(name: &str) -> Self {
        Self::boot_with(name, &[&Self::program()])
    }

    /// Where the program under test is to be seen.
    ///
    /// # Panics
    ///
    /// When it is not built.
    pub fn program() -> String {
        let client = Settings::read().client;
        assert!(
            client.exists(),
            "{} is not built: cargo build -p kvpn-client",
            client.display()
        );
        format!("{}:/usr/local/bin/kvpn", client.display())
    }

    /// Boots one with these further arguments of boot.sh: `--netns NAME` first, then files to be seen in it.
    ///
    /// # Panics
    ///
    /// Without root, or when it does not boot.
    pub fn boot_with(name: &str, arguments: &[&str]) -> Self {
        Self::start("boot.sh", name, arguments)
    }

    /// Boots one with a kernel of its own, which can sleep; the arguments are the same, for vm.py. `None` where it cannot be had,
    /// which it says.
    ///
    /// # Panics
    ///
    /// Without root, or when it does not boot.
    #[expect(
        clippy::print_stdout,
        reason = "who reads the test's output has to know what was not run"
    )]
    pub fn boot_vm(name: &str, arguments: &[&str]) -> Option<Self> {
        let missing = Outcome::of(script("vm.py").arg("missing")).ok().stdout;
        if missing.is_empty() {
            return Some(Self::start("vm.py", name, arguments));
        }
        println!("not run, needs: apt-get install {missing}");
        None
    }

    fn start(script: &'static str, name: &str, arguments: &[&str]) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests boot a systemd: run them as root (sudo -E cargo test --test service)"
        );
        let machine = Self {
            script,
            name: format!("{name}-{}", std::process::id()),
        };
        Outcome::of(machine.script().args(["up", &machine.name]).args(arguments)).ok();
        let users = "for u in ana bo; do useradd --create-home $u; done";
        machine.shell(users).ok();
        machine
    }

    fn script(&self) -> Command {
        script(self.script)
    }

    /// A command that will run on it as root.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.script();
        command.args(["in", &self.name]).args(words);
        command
    }

    /// Runs a line of shell as root.
    pub fn shell(&self, line: &str) -> Outcome {
        Outcome::of(&mut self.command(&["bash", "-c", line]))
    }

    /// Runs a line of shell as a user who has just logged in.
    pub fn shell_as(&self, user: &str, line: &str) -> Outcome {
        Outcome::of(&mut self.command(&as_user(user, &["bash", "-c", line])))
    }

    /// Puts a virtual machine to sleep, does something, and wakes it after this time.
    ///
    /// # Panics
    ///
    /// When it does not sleep, or does not wake up.
    #[expect(
        clippy::disallowed_methods,
        reason = "how long it sleeps is the test's input, not a condition"
    )]
    pub fn sleep_for(&self, time: Duration, meanwhile: impl FnOnce()) {
        Outcome::of(self.script().args(["sleep", &self.name])).ok();
        meanwhile();
        std::thread::sleep(time);
        Outcome::of(self.script().args(["wake", &self.name])).ok();
    }

    /// All that an installation could leave, as text to compare.
    ///
    /// # Panics
    ///
    /// When the machine is gone.
    pub fn traces(&self) -> String {
        self.shell(TRACES).ok().stdout
    }

    /// A user's agent at the installed helper; `group` when the user is a member.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn lease(&self, user: &str, group: bool) -> Lease {
        let mut process = self
            .agent(&[], user, group)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the script can be run");
        Lease {
            requests: process.stdin.take(),
            answers: BufReader::new(process.stdout.take().expect("it was piped")),
            process,
        }
    }

    /// Connects as a member so often, and says nothing.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn knock(&self, user: &str, times: u32) {
        let option = format!("--knock={times}");
        Outcome::of(&mut self.agent(&[&option], user, true)).ok();
    }

    /// tests/osparts/lease.py as a user of the machine.
    fn agent(&self, options: &[&str], user: &str, group: bool) -> Command {
        let ids = format!("id -u {user}; id -g {user}; getent group kvpn | cut -d: -f3");
        let ids = self.shell(&ids).ok().stdout;
        let ids = ids.lines().take(if group { 3 } else { 2 });
        let pid = fs::read_to_string(format!("/run/kvpn-booted/{}/pid", self.name));
        let pid = pid.expect("the machine is up");
        let mut command = Command::new(checkout().join("tests/osparts/lease.py"));
        command
            .args(options)
            .arg(format!("/proc/{}/root/run/kvpn", pid.trim()))
            .args(ids);
        command
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let ended = Outcome::of(self.script().args(["down", &self.name]));
        if !std::thread::panicking() {
            ended.ok();
        }
    }
}

/// What an agent is to the helper: lines one way and the other, and the TUN that it is given.
#[derive(Debug)]
pub struct Lease {
    process: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Lease {
    /// The next line; `None` when the helper is gone.
    ///
    /// # Panics
    ///
    /// When it is no JSON.
    pub fn receive(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it is text");
        (!line.is_empty()).then(|| serde_json::from_str(&line).expect("it is JSON"))
    }

    /// Sends bytes as they are; the helper may have hung up.
    ///
    /// # Panics
    ///
    /// Never: the input is open as long as this is.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        let _ = self.requests.as_ref().expect("it is open").write_all(bytes);
    }

    /// Asks and waits for the answer.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn ask(&mut self, mut request: Value) -> Value {
        request["id"] = json!(1);
        self.send_raw(format!("{request}\n").as_bytes());
        self.receive().expect("the helper answers")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.requests.take());
        let _ = self.process.wait();
    }
}

fn as_user<'a>(user: &'a str, words: &[&'a str]) -> Vec<&'a str> {
    [&["runuser", "-u", user, "--"], words].concat()
}

fn script(name: &str) -> Command {
    let mut command = Command::new(checkout().join("tests/osparts").join(name));
    command.stdin(Stdio::null());
    command
}

const TRACES: &str = "
find /etc /usr/local /run/kvpn /var/lib/kvpn* 2>/dev/null | sort
getent passwd kvpn; getent group kvpn; ip -o link | cut -d: -f2; resolvectl domain; pgrep -fa '^[^ ]*kvpn helper'; true
";
