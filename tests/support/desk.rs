//! A user's desk: a booted machine with the installed service, and a played cluster that the real agent connects to.
//!
//! Nothing here decides what is right: that stands in the tests.

use std::time::Duration;

use crate::machine::Machine;
use crate::outcome::{Outcome, eventually};
use crate::played::Played;

/// Where the cluster is, and the internet's DNS server.
const ADDRESS: &str = "192.0.2.1";
/// The same for a virtual machine: QEMU's way to the loopback of its network namespace.
const ADDRESS_OUTSIDE: &str = "10.0.2.2";
const INTERFACE: &str =
    "ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 addrgenmode none; ip link set eth0 up
    ip route add default via 10.0.2.2";
/// Within this a service that was killed is back, and what a session changed is undone.
const SOON: Duration = Duration::from_secs(5);
/// The same where QEMU plays the processor, maybe beside others: systemd-resolved may take longer than kvpn waits for it.
const SOON_IN_VM: Duration = Duration::from_secs(60);
/// Asks a Service by its short name, as programs do.
const ASK: &str =
    "exec 3<>/dev/tcp/web/80 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q web <&3";
/// All that a session makes on the machine, but for sockets.
const CHANGED: &str = "
ip -o link | cut -d: -f2; for f in -4 -6; do ip $f route show table all; ip $f rule; done
stat -c '%N %A %u %g' /etc/resolv.conf; cat /etc/resolv.conf; resolvectl domain 2>/dev/null
[ ! -d /run/resolvconf ] || resolvconf -l
ls -A /var/lib/kvpn /var/lib/kvpn-helper 2>/dev/null
pgrep -fa '^[^ ]*kvpn (agent|connect|helper --serve|helper --undo)' | cut -d' ' -f2-; true
";

/// Who looks after the machine's names.
#[derive(Debug, Clone, Copy)]
pub enum Names {
    /// systemd-resolved.
    Resolved,
    /// Nobody.
    File,
    /// openresolv, of this package of root.sh.
    Openresolv(&'static str),
}

impl Names {
    fn prepare(self, address: &str) -> String {
        const NO_RESOLVED: &str = "systemctl disable --now systemd-resolved
            sed -i 's/^hosts:.*/hosts: files dns/' /etc/nsswitch.conf; rm /etc/resolv.conf";
        match self {
            Self::Resolved => {
                format!("resolvectl dns eth0 {address}; resolvectl domain eth0 '~.'")
            }
            Self::File => format!("{NO_RESOLVED}; echo nameserver {address} >/etc/resolv.conf"),
            Self::Openresolv(package) => format!(
                "{NO_RESOLVED}; rm -f /usr/sbin/resolvconf
                 for part in etc sbin lib usr; do [ ! -d /opt/{package}/$part ] || cp -a /opt/{package}/$part/. /$part/; done
                 echo nameserver {address} | resolvconf -a eth0.dhcp"
            ),
        }
    }
}

/// The user is ana.
#[derive(Debug)]
pub struct Desk {
    /// It goes before its cluster does.
    pub machine: Machine,
    /// The machine as it was before the service was installed.
    before: String,
    /// After that, and before any session.
    idle: String,
    soon: Duration,
    /// What it connects to.
    pub played: Played,
}

impl Desk {
    /// Boots one.
    ///
    /// # Panics
    ///
    /// When something of it does not start.
    pub fn boot(name: &str, names: Names) -> Self {
        let played = Played::start(name, ADDRESS);
        let machine = Machine::boot_with(name, &["--netns", &played.laptop(), &Machine::program()]);
        Self::furnish(machine, played, &names.prepare(ADDRESS), SOON)
    }

    /// Boots one that has a kernel of its own, if that can be had here.
    ///
    /// # Panics
    ///
    /// When something of it does not start.
    pub fn boot_vm(name: &str, names: Names) -> Option<Self> {
        let played = Played::start(name, ADDRESS_OUTSIDE);
        let machine = Machine::boot_vm(name, &["--netns", played.network(), &Machine::program()])?;
        let prepare = format!("{INTERFACE}; {}", names.prepare(ADDRESS_OUTSIDE));
        Some(Self::furnish(machine, played, &prepare, SOON_IN_VM))
    }

    fn furnish(machine: Machine, played: Played, prepare: &str, soon: Duration) -> Self {
        machine.shell(prepare).ok();
        let kubeconfig = played.kubeconfig();
        machine
            .shell(&format!(
                "install -d -o ana -g ana /home/ana/.kube && echo '{kubeconfig}' >/home/ana/.kube/config"
            ))
            .ok();
        let before = machine.traces();
        machine.shell("kvpn service install --user ana").ok();
        let idle = machine.shell(CHANGED).ok().stdout;
        Self {
            machine,
            before,
            idle,
            soon,
            played,
        }
    }

    /// As ana, who has just logged in.
    pub fn ana(&self, line: &str) -> Outcome {
        let line = format!("cd /home/ana && HOME=$PWD {line}");
        self.machine.shell_as("ana", &line)
    }

    /// Connects.
    pub fn connect(&self) -> Outcome {
        self.ana("kvpn connect --gateway-namespace default")
    }

    /// Connects and asks a Service. The service may be just coming back.
    ///
    /// # Panics
    ///
    /// When that does not work.
    #[track_caller]
    pub fn connects(&self, when: &str) {
        let mut connected = None;
        let connects = eventually(self.soon, || connected.insert(self.connect()).code == 0);
        assert!(connects, "{when}: {}", connected.expect("it was tried"));
        let mut asked = None;
        let answers = eventually(self.soon, || asked.insert(self.ask()).code == 0);
        assert!(
            answers,
            "{when}: {}\n{}",
            asked.expect("it was tried"),
            self.ana("kvpn status")
        );
    }

    /// Asks a Service once.
    pub fn ask(&self) -> Outcome {
        self.ana(&format!("timeout 5 bash -c \"{ASK}\""))
    }

    /// Asks a Service for a second and a half, whatever becomes of it.
    pub fn keep_asking(&self) -> Outcome {
        self.ana(&format!(
            "timeout 1.5 bash -c \"while :; do ({ASK}); done\""
        ))
    }

    /// Kills a process of kvpn, by the words after the program; whether there was one.
    pub fn kill(&self, role: &str) -> bool {
        let line = format!("pkill -KILL -f '^[^ ]*kvpn {role}'");
        self.machine.shell(&line).code == 0
    }

    /// Whether everything becomes as it was without a session.
    pub fn is_idle(&self) -> bool {
        eventually(self.soon, || self.changed() == self.idle)
    }

    /// Demands that.
    ///
    /// # Panics
    ///
    /// With what is otherwise.
    #[track_caller]
    pub fn assert_idle(&self, when: &str) {
        assert!(self.is_idle(), "{when}: {}", self.difference());
    }

    fn changed(&self) -> String {
        self.machine.shell(CHANGED).ok().stdout
    }

    /// What is not as it was, for messages.
    pub fn difference(&self) -> String {
        let now = self.changed();
        let only_in = |one: &str, other: &str| -> String {
            let lines = one
                .lines()
                .filter(|line| !other.lines().any(|known| known == *line));
            lines.fold(String::new(), |text, line| text + "\n" + line)
        };
        let (gone, left) = (only_in(&self.idle, &now), only_in(&now, &self.idle));
        format!("not as before\n--- gone{gone}\n--- left{left}")
    }

    /// Sockets of agents.
    pub fn sockets(&self) -> String {
        let find = "find /home/ana /run/user -type s -path '*kvpn*' 2>/dev/null; true";
        self.machine.shell(find).ok().stdout
    }

    /// Removes the service, and gives the names of a virtual machine to somebody else before it is installed again.
    ///
    /// # Panics
    ///
    /// As [`Desk::uninstall`].
    #[track_caller]
    pub fn with_names(self, names: Names) -> Self {
        let (machine, played) = self.uninstall();
        Self::furnish(machine, played, &names.prepare(ADDRESS_OUTSIDE), SOON_IN_VM)
    }

    /// Removes the service.
    ///
    /// # Panics
    ///
    /// When something of it is left.
    #[track_caller]
    pub fn uninstall(self) -> (Machine, Played) {
        self.machine.shell("kvpn service uninstall").ok();
        assert_eq!(self.machine.traces(), self.before);
        (self.machine, self.played)
    }
}
