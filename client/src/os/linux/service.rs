//! The helper as a systemd service: what is put where, so that `connect` needs no sudo, and how it goes again.
//!
//! Must not know the helper's work: it is a program with arguments here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::likely_dns_backend;
use crate::os::installing::{COPY, program, put, remove_empty, tool};

/// The service, the user that it runs as and the group that may use it.
const UNIT: &str = "kvpn-helper.service";
const NAME: &str = "kvpn";
/// Where the group finds it.
pub(crate) const SOCKET: &str = "/run/kvpn/helper.sock";

const UNIT_FILE: &str = "/etc/systemd/system/kvpn-helper.service";
/// The unit of the package, which has its group, user and polkit rule too.
const PACKAGED_UNIT_FILE: &str = "/usr/lib/systemd/system/kvpn-helper.service";
const DROP_IN: &str = "/etc/systemd/system/kvpn-helper.service.d/resolv-conf.conf";
const RULES_FOLDER: &str = "/etc/polkit-1/rules.d";
const RULES: &str = "/etc/polkit-1/rules.d/50-kvpn.rules";
const STATE_FOLDERS: [&str; 2] = ["/var/lib/kvpn-helper", "/var/lib/kvpn"];

const UNIT_TEXT: &str = include_str!("../../../service/kvpn-helper.service");
const DROP_IN_TEXT: &str = include_str!("../../../service/resolv-conf.conf");
const RULES_TEXT: &str = include_str!("../../../service/kvpn.rules");

/// What is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// Whether it runs.
    pub(crate) active: bool,
    /// The program that it runs.
    pub(crate) program: PathBuf,
    /// Whether it is root's, to write resolv.conf.
    pub(crate) root: bool,
}

/// Installs the service or brings it up to date, and starts it. Whether anything changed; sessions through it ended then.
///
/// # Errors
/// This is not root, there is no systemd, or one of its tools failed.
pub(crate) fn install() -> Result<bool> {
    ensure!(
        Path::new("/run/systemd/system").exists(),
        "systemd does not run on this machine: use `sudo kvpn connect`"
    );
    let root = !resolved_obeys();
    let mut changed = put(Path::new(DROP_IN), root.then_some(DROP_IN_TEXT))?;
    if !is_packaged() {
        changed |= install_own(root)?;
    }
    if changed {
        systemctl(&["daemon-reload"])?;
    }
    systemctl(&["enable", UNIT])?;
    if changed || !is_active() {
        systemctl(&["restart", UNIT])?;
        changed = true;
    }
    Ok(changed)
}

/// What a package brings by itself.
fn install_own(root: bool) -> Result<bool> {
    let (program, copied) = program()?;
    account()?;
    let unit = UNIT_TEXT.replace("@PROGRAM@", &program.to_string_lossy());
    let changed = put(Path::new(UNIT_FILE), Some(&unit))?;
    Ok(put(Path::new(RULES), (!root).then_some(RULES_TEXT))? | changed | copied)
}

/// Stops the service and removes all that [`install`] made; what a package brought goes with that. Whether there was anything.
///
/// # Errors
/// This is not root, or something cannot be removed.
pub(crate) fn uninstall() -> Result<bool> {
    let packaged = is_packaged();
    let installed = packaged || Path::new(UNIT_FILE).exists();
    if installed {
        systemctl(&["disable", "--now", UNIT])?;
    }
    let mut any = installed;
    for path in [UNIT_FILE, DROP_IN, RULES, COPY] {
        any |= put(Path::new(path), None)?;
    }
    if any {
        systemctl(&["daemon-reload"])?;
        // A failed one is remembered beyond its file; one that has not failed is not known any more.
        let _ = systemctl(&["reset-failed", UNIT]);
    }
    for folder in STATE_FOLDERS {
        remove_empty(Path::new(folder))?;
    }
    if packaged {
        return Ok(any);
    }
    if user_exists("passwd")? {
        tool("userdel", &[NAME])?;
        any = true;
    }
    if user_exists("group")? {
        tool("groupdel", &[NAME])?;
    }
    Ok(any)
}

/// What is installed now, as far as anybody can see it.
pub(crate) fn look() -> Option<Service> {
    let read = |path: &&str| fs::read_to_string(path).ok();
    let unit = [UNIT_FILE, PACKAGED_UNIT_FILE].iter().find_map(read)?;
    let start = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))?;
    Some(Service {
        active: is_active(),
        program: PathBuf::from(start.split_once(" helper ")?.0),
        root: Path::new(DROP_IN).exists(),
    })
}

/// Lets a user use the helper, from the next login on.
pub(crate) fn admit(user: &str) -> Result<()> {
    tool("usermod", &["--append", "--groups", NAME, user])
}

/// Whether names go through systemd-resolved, and polkit can let a user that is not root tell it.
fn resolved_obeys() -> bool {
    likely_dns_backend() == "systemd-resolved" && Path::new(RULES_FOLDER).exists()
}

fn account() -> Result<()> {
    if !user_exists("group")? {
        tool("groupadd", &["--system", NAME])?;
    }
    if !user_exists("passwd")? {
        let home = ["--no-create-home", "--home-dir", "/nonexistent"];
        let shell = ["--shell", "/usr/sbin/nologin"];
        let options = [&["--system", "--gid", NAME][..], &home, &shell, &[NAME]];
        tool("useradd", &options.concat())?;
    }
    Ok(())
}

fn user_exists(database: &str) -> Result<bool> {
    let known = Command::new("getent")
        .args([database, NAME])
        .output()
        .context("getent cannot be run")?;
    Ok(known.status.success())
}

/// Whether the service came with a package.
pub(crate) fn is_packaged() -> bool {
    Path::new(PACKAGED_UNIT_FILE).exists()
}

fn is_active() -> bool {
    systemctl(&["is-active", "--quiet", UNIT]).is_ok()
}

fn systemctl(arguments: &[&str]) -> Result<()> {
    tool("systemctl", arguments)
}
