//! Which families the pod's kernel forwards. IPv4 is switched on interface by interface, over netlink; IPv6 has only
//! a sysctl, which an ordinary pod cannot write: then that family stays in userspace.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use kvpn_gateway_core::KernelFamilies;

use super::routes::enable_v4_forwarding;

const V6_FORWARDING: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// Switches forwarding on where that is possible, and says where it is on. The TUNs' names begin with `tun`.
///
/// # Errors
/// When the interfaces cannot be listed.
pub(crate) async fn enable(tun: &str) -> anyhow::Result<KernelFamilies> {
    let interfaces = interfaces()?;
    for interface in interfaces
        .iter()
        .filter(|interface| !forwards_v4(interface))
    {
        if let Err(error) = enable_v4_forwarding(interface).await {
            tracing::debug!(interface, "{error:#}");
        }
    }
    let (tuns, others): (Vec<_>, Vec<_>) = interfaces
        .iter()
        .partition(|interface| interface.starts_with(tun));
    let forwards = |interface: &String| forwards_v4(interface);
    Ok(KernelFamilies {
        v4: tuns.into_iter().all(forwards) && others.into_iter().any(forwards),
        v6: enable_v6(),
    })
}

/// All but loopback.
fn interfaces() -> anyhow::Result<Vec<String>> {
    let entries =
        fs::read_dir("/proc/sys/net/ipv4/conf").context("listing /proc/sys/net/ipv4/conf")?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names
        .filter(|name| !["all", "default", "lo"].contains(&name.as_str()))
        .collect())
}

fn forwards_v4(interface: &str) -> bool {
    is_on(
        Path::new("/proc/sys/net/ipv4/conf")
            .join(interface)
            .join("forwarding")
            .as_ref(),
    )
}

fn enable_v6() -> bool {
    let path = Path::new(V6_FORWARDING);
    if path.exists()
        && !is_on(path)
        && let Err(error) = fs::write(path, "1")
    {
        tracing::debug!(%error, "cannot switch IPv6 forwarding on");
    }
    is_on(path)
}

fn is_on(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}
