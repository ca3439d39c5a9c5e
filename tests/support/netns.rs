//! A box (tests/osparts/box.sh) with its own network, /etc and /run, and the agent's end of a helper that works in it.
//!
//! Nothing here decides what is right: that stands in tests/netns.rs.

use std::collections::VecDeque;
use std::fs;
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use kvpn::outcome::Outcome;
use kvpn::settings::{Settings, checkout};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Nothing of the helper may take longer: it would hang.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A laptop to break, gone with all that runs in it when the test ends.
pub(crate) struct Sandbox {
    name: String,
}

impl Sandbox {
    /// Starts a box; `options` are box.sh's.
    pub(crate) fn start(name: &str, options: &[&str]) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests make network namespaces, mounts and TUNs: run them as root (sudo -E cargo test --test netns)"
        );
        let sandbox = Self {
            name: format!("{name}-{}", std::process::id()),
        };
        Outcome::of(script().args(["up", &sandbox.name]).args(options)).ok();
        sandbox
    }

    /// Starts a box whose names a real program of box.sh's looks after, which asks `10.99.1.53` in the box.
    pub(crate) fn with_names(name: &str, who: &str) -> Self {
        Self::named(name, who, &[])
    }

    /// The same in a network that exists.
    pub(crate) fn with_names_in(network: &str, name: &str, who: &str) -> Self {
        Self::named(name, who, &["--netns", network])
    }

    fn named(name: &str, who: &str, options: &[&str]) -> Self {
        let name = format!("{name}-{who}");
        let names = ["--names", who, "--dns", "10.99.1.53"];
        let sandbox = Self::start(&name, &[options, &names].concat());
        sandbox.shell(PUBLIC_DNS).ok();
        sandbox
    }

    /// The same with systemd-resolved.
    pub(crate) fn with_resolved(name: &str) -> Self {
        Self::with_names(name, "resolved")
    }

    /// The box's network.
    pub(crate) fn network(&self) -> fs::File {
        let init = fs::read_to_string(format!("/run/kvpn-box/{}/pid", self.name)).unwrap();
        fs::File::open(format!("/proc/{}/ns/net", init.trim())).unwrap()
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = script();
        command.args(["in", &self.name]).args(words);
        command
    }

    /// The same as a user without capabilities or a way to get any, who can run the program (as /run/kvpn-program) and open
    /// the TUN device.
    pub(crate) fn unprivileged(&self, words: &[&str]) -> Command {
        let prepared = format!(
            "[ -e /run/tun ] || {{ mknod -m 666 /run/tun c 10 200; mount --bind /run/tun /dev/net/tun; \
             touch /run/kvpn-program; mount --bind {} /run/kvpn-program; }}",
            program().display()
        );
        self.shell(&prepared).ok();
        self.command(&[&UNPRIVILEGED, words].concat())
    }

    pub(crate) fn run(&self, words: &[&str]) -> Outcome {
        Outcome::of(&mut self.command(words))
    }

    pub(crate) fn shell(&self, line: &str) -> Outcome {
        self.run(&["bash", "-c", line])
    }

    /// All that a helper could change, as text to compare.
    pub(crate) fn traces(&self) -> String {
        self.shell(TRACES).ok().stdout
    }

    /// A process of the box by the id that it has there.
    fn process(&self, inside: u64) -> Pid {
        let init = fs::read_to_string(format!("/run/kvpn-box/{}/pid", self.name)).unwrap();
        let namespace = fs::read_link(format!("/proc/{}/ns/pid", init.trim())).unwrap();
        let ids = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let found = ids.filter_map(Pid::from_raw).find(|id| {
            let folder = format!("/proc/{}", id.as_raw_nonzero());
            let status = fs::read_to_string(format!("{folder}/status")).unwrap_or_default();
            let named = status
                .lines()
                .any(|line| line.starts_with("NSpid:") && line.ends_with(&format!("\t{inside}")));
            named && fs::read_link(format!("{folder}/ns/pid")).is_ok_and(|link| link == namespace)
        });
        found.expect("the helper runs in the box")
    }

    /// Undoes what killed helpers left, as `kvpn disconnect` does.
    pub(crate) fn undo(&self) -> Outcome {
        self.run(&[&program().to_string_lossy(), "helper", "--undo"])
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let ended = Outcome::of(script().args(["down", &self.name]));
        if !std::thread::panicking() {
            ended.ok();
        }
    }
}

/// A stand-in for the internet's names: two addresses of a network beside the box.
const PUBLIC_DNS: &str = "
ip link show up1 >/dev/null 2>&1 || ip link add up0 type veth peer name up1
ip -o addr show up1 | grep -q 10.99.1.1/ || ip addr add 10.99.1.1/24 dev up1
ip link set up1 addrgenmode none; ip link set up1 up
setsid -f unshare --net bash -c '
  echo $$ >/run/public.pid
  until ip link show up0 >/dev/null 2>&1; do sleep 0.01; done
  ip addr add 10.99.1.53/24 dev up0; ip addr add 10.99.1.54/24 dev up0; ip link set up0 up
  exec chroot $KVPN_BOX_ROOT dnsmasq -k -u root -C /dev/null --no-resolv --no-hosts --pid-file= --bind-interfaces \
    --listen-address=10.99.1.53,10.99.1.54 --host-record=example.com,198.51.100.7 --local=/#/' >/run/dnsmasq.log 2>&1 </dev/null
until [ -s /run/public.pid ]; do sleep 0.01; done
ip link set up0 netns $(cat /run/public.pid)
for i in $(seq 100); do
  chroot $KVPN_BOX_ROOT dig +short +time=1 +tries=1 @10.99.1.53 example.com | grep -q 198.51.100.7 && exit 0
done
cat /run/dnsmasq.log >&2; exit 1
";

const TRACES: &str = "
ip -o link | cut -d: -f2; ip -o addr | awk '{print $2, $4}'
for f in -4 -6; do ip $f route show table all; ip $f rule; done
stat -c '%N %A %u %g' /etc/resolv.conf; cat /etc/resolv.conf; ls -A /etc | grep kvpn; ls -A /var/lib/kvpn
[ -z \"$(pidof systemd-resolved)\" ] || for w in dns domain default-route; do chroot $KVPN_BOX_ROOT resolvectl $w | grep ^Link; done
ps -eo args= | grep '[k]vpn helper' || true
";

fn script() -> Command {
    let mut command = Command::new(checkout().join("tests/osparts/box.sh"));
    command.stdin(Stdio::null());
    command
}

/// The program under test.
pub(crate) fn program() -> PathBuf {
    let program = Settings::read().client;
    assert!(
        program.exists(),
        "{} is not built: cargo build -p kvpn-client (or set KVPN_BIN)",
        program.display()
    );
    program
}

/// The agent's end of a helper. What `drop` closes is what a killed agent closes: the connection and the TUN.
pub(crate) struct Agent {
    socket: UnixStream,
    received: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    last_id: u64,
    /// The helper's process id, as its box counts.
    pub(crate) helper: u64,
    /// The same process as this test counts.
    helper_outside: Pid,
    /// The helper's greeting.
    pub(crate) hello: Value,
    /// The TUN, once configured.
    pub(crate) tun: Option<OwnedFd>,
    /// What the helper said unasked while an answer was waited for.
    news: VecDeque<Value>,
}

impl Agent {
    /// Starts a helper in the box and waits for its greeting.
    pub(crate) fn start(sandbox: &Sandbox) -> Self {
        let (socket, theirs) = UnixStream::pair().unwrap();
        Self::spawn(sandbox, theirs).ok();
        Self::greeted(sandbox, socket)
    }

    /// Starts a helper with a network of its own, as a user without any privilege.
    pub(crate) fn start_own(sandbox: &Sandbox) -> Self {
        let (socket, theirs) = UnixStream::pair().unwrap();
        let mut command = sandbox.unprivileged(&["/run/kvpn-program", "helper", "--own"]);
        let mut helper = command.stdin(OwnedFd::from(theirs)).spawn().unwrap();
        drop(command);
        std::thread::spawn(move || helper.wait());
        Self::greeted(sandbox, socket)
    }

    fn greeted(sandbox: &Sandbox, socket: UnixStream) -> Self {
        let mut agent = Self {
            socket,
            received: Vec::new(),
            descriptors: VecDeque::new(),
            last_id: 0,
            helper: 0,
            helper_outside: Pid::INIT,
            hello: Value::Null,
            tun: None,
            news: VecDeque::new(),
        };
        agent.socket.set_read_timeout(Some(ANSWER_LIMIT)).unwrap();
        agent.hello = agent.receive().expect("the helper greets");
        agent.helper = agent.hello["pid"].as_u64().unwrap();
        agent.helper_outside = sandbox.process(agent.helper);
        agent
    }

    /// Starts a helper whose standard input is this.
    pub(crate) fn spawn(sandbox: &Sandbox, socket: UnixStream) -> Outcome {
        let mut command = sandbox.command(&[&program().to_string_lossy(), "helper"]);
        Outcome::of(command.stdin(OwnedFd::from(socket)))
    }

    /// Sends a request and does not wait for the answer.
    pub(crate) fn send(&mut self, mut request: Value) {
        self.last_id += 1;
        request["id"] = json!(self.last_id);
        self.socket
            .write_all(format!("{request}\n").as_bytes())
            .unwrap();
    }

    /// Sends bytes as they are.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// Sends a request and waits for the answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, request: Value) -> Value {
        self.send(request);
        let answer = loop {
            let answer = self.receive().expect("the helper answers");
            if answer["answer"] != "news" {
                break answer;
            }
            self.news.push_back(answer);
        };
        assert_eq!(answer["id"], json!(self.last_id), "{answer}");
        self.tun = self.descriptors.pop_front().or_else(|| self.tun.take());
        answer
    }

    /// Configures and demands success.
    #[track_caller]
    pub(crate) fn configure(&mut self, config: &Value) -> Value {
        let answer = self.ask(config.clone());
        assert_eq!(answer["answer"], "configured", "{answer}");
        assert!(self.tun.is_some(), "the TUN came with the answer");
        answer
    }

    /// What the helper says next unasked.
    #[track_caller]
    pub(crate) fn news(&mut self) -> Value {
        let news = self.news.pop_front();
        let news = news.unwrap_or_else(|| self.receive().expect("the helper lives"));
        assert_eq!(news["answer"], "news", "{news}");
        news
    }

    /// The next line; `None` when the helper is gone.
    pub(crate) fn receive(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let mut bytes = [0; 65536];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(&mut bytes)];
            let received = recvmsg(
                &self.socket,
                &mut slices,
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            );
            let count = match received {
                // It ended with something unread.
                Err(Errno::CONNRESET) => 0,
                other => other.expect("an answer in time").bytes,
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    self.descriptors.extend(rights);
                }
            }
            if count == 0 {
                return None;
            }
            self.received.extend_from_slice(&bytes[..count]);
        }
    }

    /// Runs a line of shell in the helper's namespaces.
    pub(crate) fn inside(&self, sandbox: &Sandbox, line: &str) -> Outcome {
        let target = format!("--target={}", self.helper);
        sandbox.run(&[
            "nsenter",
            &target,
            "--user",
            "--net",
            "--mount",
            "--preserve-credentials",
            "bash",
            "-c",
            line,
        ])
    }

    /// Sends the helper a signal, at once.
    pub(crate) fn signal_helper(&self, signal: Signal) {
        kill_process(self.helper_outside, signal).unwrap();
    }
}

/// Nobody, without capabilities or a way to get any.
const UNPRIVILEGED: [&str; 6] = [
    "setpriv",
    "--reuid=61001",
    "--regid=61001",
    "--clear-groups",
    "--bounding-set=-all",
    "--no-new-privs",
];

/// A session as the agent would ask for it: names too.
pub(crate) fn session() -> Value {
    json!({
        "request": "configure",
        "addresses": ["198.19.0.2/30", "fd6b:7670:6e00::2/126"],
        "mtu": 1360,
        "routes": ["10.96.0.0/16", "10.244.0.0/16", "fd00:10:96::/112"],
        "dns": {
            "servers": ["198.19.0.3", "fd6b:7670:6e00::3"],
            "search": ["default.svc.cluster.local", "svc.cluster.local"],
            "routing": ["cluster.local", "svc", "default", "96.10.in-addr.arpa"],
        },
    })
}

/// Waits: the moment at which something is killed is what the test varies.
#[expect(
    clippy::disallowed_methods,
    reason = "the moment is the test's input; nothing is waited for"
)]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
