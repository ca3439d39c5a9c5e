//! Whether NetworkPolicies keep the Service's callers from the gateway, or the gateway from the origin. No calls.
//!
//! A policy's effect is known only to the network plugin; this compares rules with rules. Callers that reach the origin have to
//! find a rule that lets the same callers reach the gateway.

use super::finding::{Finding, Severity};
use k8s_openapi::{
    api::{
        core::v1::Pod,
        networking::v1::{
            NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
        },
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use kube::core::{Selector, SelectorExt as _};
use kvpn_wire::{EXPOSURE_PORTS, exposure::Protocol};
use std::{collections::BTreeMap, net::IpAddr};

type Labels = BTreeMap<String, String>;

/// What the rules are held against.
#[derive(Debug)]
pub(super) struct Paths<'a> {
    pub(super) gateway: &'a Pod,
    /// One pod of the origin, when there is one: pods of one Service are alike.
    pub(super) origin: Option<&'a Pod>,
    /// The namespace's labels, when they may be read.
    pub(super) namespace: Option<&'a Labels>,
    pub(super) protocols: &'a [Protocol],
}

/// Who may come in to a pod: `None` when no policy selects it, so that everybody may.
type Rules<'a> = Option<Vec<(&'a NetworkPolicy, &'a NetworkPolicyIngressRule)>>;

/// What the policies of the namespace keep apart.
pub(super) fn of_policies(policies: &[NetworkPolicy], paths: &Paths<'_>) -> Vec<Finding> {
    let to_gateway = ingress(policies, paths.gateway);
    let to_origin = paths.origin.and_then(|origin| ingress(policies, origin));
    let mut findings = Vec::new();
    if let Some(rules) = &to_gateway
        && !lets_callers_in(rules, to_origin.as_deref(), paths.protocols)
    {
        findings.push(closed_gateway(policies, paths.gateway));
    }
    if let Some(rules) = &to_origin
        && !rules.iter().any(|(_, rule)| lets_gateway_in(rule, paths))
        && let Some(origin) = paths.origin
    {
        findings.push(closed_origin(policies, origin));
    }
    findings
}

fn ingress<'a>(policies: &'a [NetworkPolicy], pod: &Pod) -> Rules<'a> {
    let mut selecting = selecting(policies, pod).peekable();
    selecting.peek()?;
    let rules = selecting.flat_map(|policy| {
        let rules = policy
            .spec
            .iter()
            .flat_map(|spec| spec.ingress.iter().flatten());
        rules.map(move |rule| (policy, rule))
    });
    Some(rules.collect())
}

/// The policies that restrict what comes in to a pod.
fn selecting<'a>(
    policies: &'a [NetworkPolicy],
    pod: &Pod,
) -> impl Iterator<Item = &'a NetworkPolicy> {
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    policies.iter().filter(move |policy| {
        let Some(spec) = &policy.spec else {
            return false;
        };
        let types = spec.policy_types.as_deref().unwrap_or_default();
        let is_ingress = types.is_empty() || types.iter().any(|kind| kind == "Ingress");
        is_ingress
            && spec
                .pod_selector
                .as_ref()
                .is_none_or(|selector| selects(selector, &labels))
    })
}

/// A selector that cannot be read selects: better to ask than to break.
fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    Selector::try_from(selector.clone()).map_or(true, |selector| selector.matches(labels))
}

/// Whether all who may reach the origin may reach the gateway's ports.
fn lets_callers_in(
    gateway: &[(&NetworkPolicy, &NetworkPolicyIngressRule)],
    origin: Option<&[(&NetworkPolicy, &NetworkPolicyIngressRule)]>,
    protocols: &[Protocol],
) -> bool {
    let open = gateway.iter().map(|(_, rule)| rule).filter(|rule| {
        protocols
            .iter()
            .all(|protocol| opens_ports(rule, *protocol))
    });
    let open: Vec<_> = open.collect();
    let admits = |callers: &[NetworkPolicyPeer]| {
        open.iter().any(|rule| {
            let from = rule.from.as_deref().unwrap_or_default();
            from.is_empty()
                || (!callers.is_empty() && callers.iter().all(|caller| from.contains(caller)))
        })
    };
    match origin {
        None => admits(&[]),
        Some(rules) => rules
            .iter()
            .all(|(_, rule)| admits(rule.from.as_deref().unwrap_or_default())),
    }
}

/// Whether a rule opens all ports at which the gateway may listen.
fn opens_ports(rule: &NetworkPolicyIngressRule, protocol: Protocol) -> bool {
    let ports = rule.ports.as_deref().unwrap_or_default();
    ports.is_empty() || ports.iter().any(|port| covers(port, protocol))
}

fn covers(port: &NetworkPolicyPort, protocol: Protocol) -> bool {
    let is_protocol = port.protocol.as_deref().unwrap_or("TCP") == protocol.as_kubernetes();
    let (first, last) = (
        i32::from(*EXPOSURE_PORTS.start()),
        i32::from(*EXPOSURE_PORTS.end()),
    );
    is_protocol
        && match &port.port {
            None => true,
            Some(IntOrString::Int(from)) => {
                *from <= first && port.end_port.unwrap_or(*from) >= last
            }
            Some(IntOrString::String(_)) => false,
        }
}

/// Whether a rule of the origin's lets the gateway pod in. The rule's ports are the origin's own.
fn lets_gateway_in(rule: &NetworkPolicyIngressRule, paths: &Paths<'_>) -> bool {
    let from = rule.from.as_deref().unwrap_or_default();
    from.is_empty() || from.iter().any(|peer| is_peer(peer, paths))
}

fn is_peer(peer: &NetworkPolicyPeer, paths: &Paths<'_>) -> bool {
    if let Some(block) = &peer.ip_block {
        let except = block.except.iter().flatten();
        return contains(&block.cidr, paths.gateway)
            && !except.into_iter().any(|cidr| contains(cidr, paths.gateway));
    }
    let labels = paths.gateway.metadata.labels.clone().unwrap_or_default();
    let is_pod = peer
        .pod_selector
        .as_ref()
        .is_none_or(|selector| selects(selector, &labels));
    let is_namespace = match (&peer.namespace_selector, paths.namespace) {
        (None, _) | (_, None) => true,
        (Some(selector), Some(labels)) => selects(selector, labels),
    };
    is_pod && is_namespace
}

fn contains(cidr: &str, pod: &Pod) -> bool {
    let Ok(network) = cidr.parse::<ipnetwork::IpNetwork>() else {
        return false;
    };
    let addresses: Vec<IpAddr> = pod
        .status
        .as_ref()
        .map(crate::gateway::pod_ips)
        .unwrap_or_default();
    addresses
        .into_iter()
        .any(|address| network.contains(address))
}

fn closed_gateway(policies: &[NetworkPolicy], gateway: &Pod) -> Finding {
    let (first, last) = (EXPOSURE_PORTS.start(), EXPOSURE_PORTS.end());
    Finding::new(
        Severity::Never,
        names(policies, gateway),
        "would keep the Service's callers from the gateway pod",
        format!(
            "let the Service's callers reach pods with app.kubernetes.io/name: kvpn-gateway at ports {first} to {last}, with a NetworkPolicy of its own"
        ),
    )
}

fn closed_origin(policies: &[NetworkPolicy], origin: &Pod) -> Finding {
    Finding::new(
        Severity::Never,
        names(policies, origin),
        "would keep the gateway pod from the Service's own pods, which answer what the laptop does not",
        "let pods with app.kubernetes.io/name: kvpn-gateway reach them, with a NetworkPolicy of its own",
    )
}

/// `NetworkPolicy demo/deny-all, demo/web`.
fn names(policies: &[NetworkPolicy], pod: &Pod) -> String {
    let names: Vec<String> = selecting(policies, pod)
        .map(|policy| {
            let of = |text: &Option<String>| text.clone().unwrap_or_default();
            format!(
                "{}/{}",
                of(&policy.metadata.namespace),
                of(&policy.metadata.name)
            )
        })
        .collect();
    format!("NetworkPolicy {}", names.join(", "))
}
