//! The nftables rules of the kernel's datapath, set over netlink: the image has no `nft`.
//!
//! For each family one table `kvpn`, replaced as a whole in one transaction. As `nft` would print it:
//!
//! ```text
//! table ip kvpn {
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         ip saddr 198.19.0.0/16 masquerade
//!     }
//!     chain forward {
//!         type filter hook forward priority filter; policy accept;
//!         oifname "kvpn-gw*" ct state != established,related drop
//!     }
//! }
//! ```
//!
//! The second chain keeps the cluster from opening connections to laptops: only answers go in.

use std::ffi::CStr;
use std::io;
use std::time::Duration;

use kvpn_gateway_core::KernelFamilies;
use netlink_bindings::nftables::{
    Chained, CmpOps, CtKeys, MetaKeys, Nfgenmsg, PayloadBase, PushExprListAttrs, Registers,
    VerdictCode,
};
use netlink_bindings::traits::{NetlinkChained as _, Pusher};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

use super::{TUNNEL_V4, TUNNEL_V6};

const TABLE: &CStr = c"kvpn";
const POSTROUTING: &CStr = c"postrouting";
const FORWARD: &CStr = c"forward";
/// `NF_INET_FORWARD` and `NF_INET_POST_ROUTING` (linux/netfilter.h).
const HOOK_FORWARD: u32 = 2;
const HOOK_POSTROUTING: u32 = 4;
/// `NF_IP_PRI_FILTER` and `NF_IP_PRI_NAT_SRC` (linux/netfilter_ipv4.h).
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SRCNAT: i32 = 100;
/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
const FAMILY_V4: u8 = 2;
const FAMILY_V6: u8 = 10;
/// `NFNL_SUBSYS_NFTABLES`: which subsystem a batch is for.
const SUBSYSTEM: u16 = 10;
/// Connection states as bits: established and related (linux/netfilter/nf_conntrack_common.h).
const ANSWERS: u32 = (1 << 1) | (1 << 2);
/// `NFT_REG_1`.
const REGISTER: u32 = Registers::Reg1 as u32;
/// The kernel answers at once.
const PATIENCE: Duration = Duration::from_secs(2);
/// Where the source address lies in the IP header.
const SOURCE_V4: u32 = 12;
const SOURCE_V6: u32 = 8;

/// Replaces the tables of `families` for the TUNs whose names begin with `tun`.
///
/// # Errors
/// What the kernel refused: usually EPERM, or EOPNOTSUPP without nf_tables.
pub(crate) fn install(tun: &str, families: KernelFamilies) -> io::Result<()> {
    let mut batch = Batch::new();
    if families.v4 {
        // A prefix of whole bytes is compared without a mask.
        let (network, length) = (TUNNEL_V4.0.octets(), usize::from(TUNNEL_V4.1 / 8));
        batch.replace_table(FAMILY_V4, tun, SOURCE_V4, &network[..length]);
    }
    if families.v6 {
        let (network, length) = (TUNNEL_V6.0.octets(), usize::from(TUNNEL_V6.1 / 8));
        batch.replace_table(FAMILY_V6, tun, SOURCE_V6, &network[..length]);
    }
    batch.commit()
}

/// Messages that take effect together or not at all.
struct Batch {
    messages: Chained<'static>,
}

impl Batch {
    fn new() -> Self {
        let mut messages = Chained::new(1);
        messages.request().op_batch_begin_do(&batch_header());
        Self { messages }
    }

    /// Adds the table, deletes it (which fails for none that is not there), and makes it anew.
    fn replace_table(&mut self, family: u8, tun: &str, source: u32, prefix: &[u8]) {
        self.add_table(family);
        self.messages
            .request()
            .op_deltable_do(&header(family))
            .encode()
            .push_name(TABLE);
        self.add_table(family);
        self.add_chain(
            family,
            POSTROUTING,
            c"nat",
            HOOK_POSTROUTING,
            PRIORITY_SRCNAT,
        );
        self.add_chain(family, FORWARD, c"filter", HOOK_FORWARD, PRIORITY_FILTER);
        self.add_rule(family, POSTROUTING, |rule| masquerade(rule, source, prefix));
        self.add_rule(family, FORWARD, |rule| only_answers(rule, tun));
    }

    fn add_table(&mut self, family: u8) {
        self.messages
            .request()
            .set_create()
            .op_newtable_do(&header(family))
            .encode()
            .push_name(TABLE)
            .push_flags(0);
    }

    fn add_chain(&mut self, family: u8, name: &CStr, kind: &CStr, hook: u32, priority: i32) {
        let request = self.messages.request().set_create();
        let mut request = request.op_newchain_do(&header(family));
        let chain = request
            .encode()
            .push_table(TABLE)
            .push_name(name)
            .push_type(kind);
        chain
            .nested_hook()
            .push_num(hook)
            .push_priority(priority)
            .end_nested()
            .push_policy(VerdictCode::Accept as u32);
    }

    fn add_rule(
        &mut self,
        family: u8,
        chain: &CStr,
        write: impl for<'a> FnOnce(PushExprListAttrs<&'a mut Vec<u8>>),
    ) {
        let mut expressions = Vec::new();
        write(PushExprListAttrs::new(&mut expressions));
        let request = self.messages.request().set_create().set_append();
        let mut request = request.op_newrule_do(&header(family));
        let mut rule = request
            .encode()
            .push_table(TABLE)
            .push_chain(chain)
            .nested_expressions();
        rule.as_vec_mut().extend_from_slice(&expressions);
    }

    fn commit(mut self) -> io::Result<()> {
        self.messages.request().op_batch_end_do(&batch_header());
        let messages = self.messages.finalize();
        let socket = open_socket()?;
        sendto(
            &socket,
            messages.payload(),
            SendFlags::empty(),
            &SocketAddrNetlink::new(0, 0),
        )?;
        // Not the last one, the batch's end, which older kernels do not acknowledge.
        let last = messages.chain_len() - 2;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let (length, _) = recv(&socket, &mut buffer, RecvFlags::empty())?;
            for (sequence, result) in answers(&buffer[..length]) {
                result?;
                if messages.get_index(sequence) == Some(last) {
                    return Ok(());
                }
            }
        }
    }
}

fn open_socket() -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(NETFILTER),
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    Ok(socket)
}

/// The acknowledgements and errors in what the kernel sent: `nlmsghdr` (16 bytes) and a negative errno.
fn answers(mut bytes: &[u8]) -> impl Iterator<Item = (u32, Result<(), Errno>)> {
    std::iter::from_fn(move || {
        let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let (length, sequence, error) = (word(0)?, word(8)?, word(16)?.cast_signed());
        let aligned = usize::try_from(length).ok()?.next_multiple_of(4);
        bytes = bytes.get(aligned.max(16)..).unwrap_or_default();
        let result = if error == 0 {
            Ok(())
        } else {
            Err(Errno::from_raw_os_error(-error))
        };
        Some((sequence, result))
    })
}

fn header(family: u8) -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.nfgen_family = family;
    header
}

fn batch_header() -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.set_res_id(SUBSYSTEM);
    header
}

/// `ip saddr PREFIX masquerade`
fn masquerade<P: Pusher>(rule: PushExprListAttrs<P>, source: u32, prefix: &[u8]) {
    let length = u32::try_from(prefix.len()).expect("an address is short");
    let rule = rule
        .nested_elem()
        .nested_data_payload()
        .push_dreg(REGISTER)
        .push_base(PayloadBase::NetworkHeader as u32)
        .push_offset(source)
        .push_len(length)
        .end_nested()
        .end_nested();
    // The expression has options, all of which may be left out.
    compare(rule, CmpOps::Eq, prefix)
        .nested_elem()
        .push_name(c"masq");
}

/// `oifname "TUN*" ct state != established,related drop`
fn only_answers<P: Pusher>(rule: PushExprListAttrs<P>, tun: &str) {
    let meta = rule
        .nested_elem()
        .nested_data_meta()
        .push_dreg(REGISTER)
        .push_key(MetaKeys::Oifname as u32);
    let rule = compare(meta.end_nested().end_nested(), CmpOps::Eq, tun.as_bytes());
    let state = rule
        .nested_elem()
        .nested_data_ct()
        .push_dreg(REGISTER)
        .push_key(CtKeys::State as u32);
    let masked = state
        .end_nested()
        .end_nested()
        .nested_elem()
        .nested_data_bitwise()
        .push_sreg(REGISTER)
        .push_dreg(REGISTER)
        .push_len(4)
        .nested_mask()
        .push_value(&ANSWERS.to_ne_bytes())
        .end_nested()
        .nested_xor()
        .push_value(&[0; 4])
        .end_nested()
        .end_nested()
        .end_nested();
    compare(masked, CmpOps::Eq, &[0; 4])
        .nested_elem()
        .nested_data_immediate()
        .push_dreg(Registers::RegVerdict as u32)
        .nested_data()
        .nested_verdict()
        .push_code(VerdictCode::Drop as u32);
}

/// Goes on with the rule only if the register compares so.
fn compare<P: Pusher>(
    rule: PushExprListAttrs<P>,
    how: CmpOps,
    value: &[u8],
) -> PushExprListAttrs<P> {
    rule.nested_elem()
        .nested_data_cmp()
        .push_sreg(REGISTER)
        .push_op(how as u32)
        .nested_data()
        .push_value(value)
        .end_nested()
        .end_nested()
        .end_nested()
}
