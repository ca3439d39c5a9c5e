//! Namespaces for one program, made without privileges (user_namespaces(7)): a network with nothing in it but the loopback,
//! and files of its own for names. They are gone with the last process in them, and the machine never sees them.
//!
//! Must not know what the network is for.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use rustix::process::{Pid, PidfdFlags, getegid, geteuid, pidfd_open};
use rustix::thread::{
    ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces, unshare_unsafe,
};

use super::resolv_conf::text;
use super::{NSSWITCH_CONF, RESOLV_CONF};
use crate::os::{Dns, DnsConfig, Record};

/// Any folder that every machine has: what is to be bound lies there for a moment, in this mount namespace alone.
const PASSING: &str = "/tmp";
/// resolv.conf, in the folder of ours.
const OWN_FILE: &str = "resolv.conf";
/// glibc asks nscd before all else, and the machine's would answer.
const NSCD: &str = "/run/nscd/socket";
/// Who may send pings without privileges; nobody in a new network namespace (icmp(7)).
const PING_GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";

/// The namespaces that this process made and is in.
pub(crate) struct Unshared {
    /// A folder in memory, which no path leads to.
    folder: OwnedFd,
    outside: Outside,
}

/// What decides on names outside, read before anything is covered.
struct Outside {
    /// Where resolv.conf really is.
    path: PathBuf,
    resolv_conf: Vec<u8>,
    /// A link-local one is told by an interface, which only the network outside has.
    servers: Vec<SocketAddr>,
    nsswitch: Option<String>,
}

/// Moves this process into namespaces of its own. It has all capabilities there, and the user and group that it had.
/// Must be called before there is a second thread.
///
/// # Errors
/// The system does not allow it ([`remedy`]), or lacks what is needed.
pub(crate) fn unshare() -> Result<Unshared> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let outside = Outside::read()?;
    new_namespaces().context("the kernel refuses new namespaces")?;
    // A group may be mapped only by who cannot drop groups (user_namespaces(7)).
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{uid} {uid} 1")),
        ("gid_map", format!("{gid} {gid} 1")),
    ] {
        let path = format!("/proc/self/{file}");
        fs::write(&path, text).with_context(|| format!("{path} cannot be written"))?;
    }
    // Not every kernel has it, and nothing but ping needs it.
    let _ = fs::write(PING_GROUPS, format!("{gid} {gid}"));
    own_files(outside).context("the namespace cannot have files of its own")
}

#[expect(unsafe_code, reason = "rustix marks unshare(2) unsafe for CLONE_FILES")]
fn new_namespaces() -> io::Result<()> {
    let flags = UnshareFlags::NEWUSER | UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    // SAFETY: without CLONE_FILES all threads keep one table of descriptors; CLONE_NEWUSER fails with more than one.
    unsafe { unshare_unsafe(flags) }?;
    Ok(())
}

/// Puts files of our own over those that decide who answers for names. New mounts do not leave this namespace: its
/// mounts are slaves of the machine's (mount_namespaces(7)).
fn own_files(outside: Outside) -> Result<Unshared> {
    mount(
        "kvpn",
        PASSING,
        "tmpfs",
        MountFlags::NODEV | MountFlags::NOSUID,
        c"mode=0755",
    )
    .context("a file system in memory cannot be mounted")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(PASSING, flags, Mode::empty())?;
    bind(OWN_FILE, &outside.resolv_conf, &outside.path)?;
    if let Some(text) = &outside.nsswitch {
        bind(
            "nsswitch.conf",
            files_then_dns(text).as_bytes(),
            Path::new(NSSWITCH_CONF),
        )?;
    }
    if Path::new(NSCD).exists() {
        bind("nscd", b"", Path::new(NSCD))?;
    }
    unmount(PASSING, UnmountFlags::DETACH)?;
    Ok(Unshared { folder, outside })
}

fn bind(name: &str, content: &[u8], over: &Path) -> Result<()> {
    let path = Path::new(PASSING).join(name);
    fs::write(&path, content)?;
    mount_bind(&path, over).with_context(|| format!("{} cannot be covered", over.display()))
}

/// nsswitch.conf(5) without services that ask the machine's own resolvers past resolv.conf.
fn files_then_dns(text: &str) -> String {
    let others = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("hosts:"));
    let lines = others.chain(["hosts: files dns"]);
    lines.flat_map(|line| [line, "\n"]).collect()
}

impl Outside {
    fn read() -> Result<Self> {
        let path = fs::canonicalize(RESOLV_CONF)
            .with_context(|| format!("{RESOLV_CONF} is not there; an empty one would do"))?;
        let resolv_conf =
            fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        let nsswitch = match fs::read_to_string(NSSWITCH_CONF) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            text => Some(text.with_context(|| format!("{NSSWITCH_CONF} cannot be read"))?),
        };
        Ok(Self {
            path,
            servers: text::nameservers_or_default(&resolv_conf),
            resolv_conf,
            nsswitch,
        })
    }
}

impl Unshared {
    /// A folder for files of this process; gone with it.
    pub(crate) fn folder(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.folder.as_raw_fd()))
    }

    /// How programs in the namespace find names.
    pub(crate) fn dns(&self) -> Box<dyn Dns> {
        Box::new(OwnResolvConf {
            path: self.folder().join(OWN_FILE),
            outside: self.outside.resolv_conf.clone(),
            servers: self.outside.servers.clone(),
        })
    }
}

/// The namespace's own resolv.conf. Nothing is put back: it goes with the namespace.
struct OwnResolvConf {
    path: PathBuf,
    outside: Vec<u8>,
    servers: Vec<SocketAddr>,
}

impl OwnResolvConf {
    /// In place: the file is bound where programs read it.
    fn write(&self, dns: &DnsConfig) -> Result<Vec<String>> {
        let mut file = fs::File::options()
            .write(true)
            .truncate(true)
            .open(&self.path)
            .context("the namespace's resolv.conf cannot be written")?;
        file.write_all(text::compose_own(dns, &self.outside).as_bytes())?;
        Ok(Vec::new())
    }
}

impl Dns for OwnResolvConf {
    fn backend(&self) -> &'static str {
        "own resolv.conf"
    }

    fn splits(&self) -> bool {
        false
    }

    fn upstreams(&self) -> Vec<SocketAddr> {
        self.servers.clone()
    }

    fn set<'a>(
        &'a mut self,
        dns: &'a DnsConfig,
        _: Record<'a>,
    ) -> LocalBoxFuture<'a, Result<Vec<String>>> {
        async move { self.write(dns) }.boxed_local()
    }

    fn revert(&mut self) -> LocalBoxFuture<'_, Result<Vec<String>>> {
        async { Ok(Vec::new()) }.boxed_local()
    }
}

/// Moves this process into the namespaces that another one made with [`unshare`]. Must be called while there is one thread.
///
/// # Errors
/// The other process is gone, or is another user's.
pub(crate) fn join(process: u32) -> Result<()> {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    let pid = pid.context("this cannot be a process id")?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    // Joining a mount namespace leads to its root.
    let folder = std::env::current_dir();
    let namespaces =
        ThreadNameSpaceType::USER | ThreadNameSpaceType::NETWORK | ThreadNameSpaceType::MOUNT;
    move_into_thread_name_spaces(process.as_fd(), namespaces)?;
    if let Ok(folder) = folder {
        std::env::set_current_dir(&folder)
            .with_context(|| format!("{} cannot be entered again", folder.display()))?;
    }
    Ok(())
}

/// What an administrator has to do so that this program may make namespaces, as far as the system's settings show it.
pub(crate) fn remedy(program: &Path) -> Option<String> {
    remedy_for(
        &|setting| {
            let text = fs::read_to_string(Path::new("/proc/sys").join(setting)).ok()?;
            text.trim().parse().ok()
        },
        program,
    )
}

fn remedy_for(setting: &dyn Fn(&str) -> Option<u64>, program: &Path) -> Option<String> {
    if setting("kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return Some(format!(
            "AppArmor keeps programs without a profile from making user namespaces (Ubuntu). Allow this one: \
             printf 'abi <abi/4.0>,\\nprofile kvpn {} flags=(unconfined) {{\\n  userns,\\n}}\\n' | \
             sudo tee /etc/apparmor.d/kvpn && sudo apparmor_parser -r /etc/apparmor.d/kvpn",
            program.display()
        ));
    }
    for (name, why) in [
        ("kernel/unprivileged_userns_clone", 1),
        ("user/max_user_namespaces", 10_000),
        ("user/max_net_namespaces", 10_000),
        ("user/max_mnt_namespaces", 10_000),
    ] {
        if setting(name) == Some(0) {
            let name = name.replace('/', ".");
            return Some(format!(
                "user namespaces are switched off here: `sudo sysctl {name}={why}` switches them on, a file in \
                 /etc/sysctl.d keeps it so"
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_and_dns_answer_for_hosts() {
        let text = "passwd: files\n hosts: files mdns4_minimal [NOTFOUND=return] resolve dns\nshadow: files";
        assert_eq!(
            files_then_dns(text),
            "passwd: files\nshadow: files\nhosts: files dns\n"
        );
    }

    #[test]
    fn the_setting_that_is_in_the_way_is_named() {
        let program = Path::new("/usr/bin/kvpn");
        let with = |name: &'static str, value: u64| {
            remedy_for(&move |setting| (setting == name).then_some(value), program)
        };
        let apparmor = with("kernel/apparmor_restrict_unprivileged_userns", 1).unwrap();
        assert!(
            apparmor.contains("profile kvpn /usr/bin/kvpn flags=(unconfined)"),
            "{apparmor}"
        );
        let debian = with("kernel/unprivileged_userns_clone", 0).unwrap();
        assert!(
            debian.contains("sysctl kernel.unprivileged_userns_clone=1"),
            "{debian}"
        );
        let none = with("user/max_net_namespaces", 0).unwrap();
        assert!(
            none.contains("sysctl user.max_net_namespaces=10000"),
            "{none}"
        );
        assert_eq!(with("kernel/unprivileged_userns_clone", 1), None);
        assert_eq!(
            with("kernel/apparmor_restrict_unprivileged_userns", 0),
            None
        );
    }
}
