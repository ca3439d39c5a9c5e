//! The requests of discovery. A missing right or an unknown resource is an answer (`None`), not a failure.

use crate::{
    Cluster, Error,
    cluster::call::Call,
    gateway::{NodeAddresses, addresses, pod_ips},
};
use futures::future::try_join_all;
use ipnetwork::IpNetwork;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    networking::v1::ServiceCIDR,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DynamicObject, ListParams, ObjectList},
    core::{ApiResource, GroupVersionKind, PartialObjectMeta},
};
use serde_json::Value;
use std::{collections::BTreeSet, net::IpAddr};

/// One page is enough to judge ranges by; large clusters have megabytes more.
const PAGE: u32 = 500;

/// The nodes, as discovery needs them.
pub(super) struct Nodes {
    pub(super) addresses: Vec<NodeAddresses>,
    pub(super) pod_cidrs: Vec<IpNetwork>,
}

/// Service addresses seen.
pub(super) struct Services {
    /// Whether they are of the whole cluster.
    pub(super) whole_cluster: bool,
    pub(super) addresses: BTreeSet<IpAddr>,
}

/// A pool of addresses that a network plugin keeps as objects of its own.
struct Pool {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    /// Where in the object its ranges are: one text, or a list of texts.
    ranges: &'static str,
}

const POOLS: [Pool; 2] = [
    Pool {
        group: "crd.projectcalico.org",
        version: "v1",
        kind: "IPPool",
        plural: "ippools",
        ranges: "/spec/cidr",
    },
    Pool {
        group: "cilium.io",
        version: "v2",
        kind: "CiliumNode",
        plural: "ciliumnodes",
        ranges: "/spec/ipam/podCIDRs",
    },
];

/// Looks around with one client.
pub(super) struct Look<'a> {
    cluster: &'a Cluster,
    client: Client,
}

impl<'a> Look<'a> {
    pub(super) async fn new(cluster: &'a Cluster) -> Result<Self, Error> {
        Ok(Self {
            cluster,
            client: cluster.client().await?,
        })
    }

    /// The Service ranges by their own objects (Kubernetes 1.33 and later).
    pub(super) async fn service_cidrs(&self) -> Result<Option<Vec<IpNetwork>>, Error> {
        let api = Api::<ServiceCIDR>::all(self.client.clone());
        let call = Call::cluster("list", "servicecidrs.networking.k8s.io");
        let list = seen(self.cluster.run(&call, api.list(&page())).await)?;
        let cidrs = list.map(|list| {
            list.items
                .into_iter()
                .filter_map(|object| object.spec?.cidrs)
                .flatten()
                .collect::<Vec<_>>()
        });
        Ok(cidrs
            .map(|cidrs| parse(&cidrs))
            .filter(|cidrs| !cidrs.is_empty()))
    }

    pub(super) async fn namespaces(&self) -> Result<Option<Vec<String>>, Error> {
        let api = Api::<Namespace>::all(self.client.clone());
        let call = Call::cluster("list", "namespaces");
        let all = ListParams::default();
        let list = seen(self.cluster.run(&call, api.list_metadata(&all)).await)?;
        Ok(list.map(|list: ObjectList<PartialObjectMeta<Namespace>>| {
            list.iter().map(|namespace| namespace.name_any()).collect()
        }))
    }

    pub(super) async fn nodes(&self) -> Result<Option<Nodes>, Error> {
        let api = Api::<Node>::all(self.client.clone());
        let list = seen(
            self.cluster
                .run(&Call::cluster("list", "nodes"), api.list(&page()))
                .await,
        )?;
        Ok(list.map(|list| {
            let specs = list.items.iter().filter_map(|node| node.spec.as_ref());
            let cidrs: Vec<String> = specs
                .flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr))
                .cloned()
                .collect();
            Nodes {
                addresses: list.items.iter().map(NodeAddresses::of).collect(),
                pod_cidrs: parse(&cidrs),
            }
        }))
    }

    /// Addresses of pods that have their own: of the whole cluster, else of these namespaces.
    pub(super) async fn pods(
        &self,
        namespaces: &BTreeSet<&str>,
    ) -> Result<BTreeSet<IpAddr>, Error> {
        let api = Api::<Pod>::all(self.client.clone());
        let all = seen(
            self.cluster
                .run(&Call::cluster("list", "pods"), api.list(&page()))
                .await,
        )?;
        if let Some(all) = all {
            return Ok(own_addresses(&all.items));
        }
        let lists = try_join_all(namespaces.iter().map(|namespace| async move {
            let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
            seen(
                self.cluster
                    .run(
                        &Call::namespaced("list", "pods", namespace),
                        api.list(&page()),
                    )
                    .await,
            )
        }));
        Ok(lists
            .await?
            .into_iter()
            .flatten()
            .flat_map(|list| own_addresses(&list.items))
            .collect())
    }

    /// Addresses of Services: of the whole cluster, else of these namespaces.
    pub(super) async fn services(&self, namespaces: &BTreeSet<&str>) -> Result<Services, Error> {
        let api = Api::<Service>::all(self.client.clone());
        let all = seen(
            self.cluster
                .run(&Call::cluster("list", "services"), api.list(&page()))
                .await,
        )?;
        if let Some(all) = all {
            return Ok(Services {
                whole_cluster: true,
                addresses: cluster_ips(&all.items),
            });
        }
        let lists = try_join_all(namespaces.iter().map(|namespace| async move {
            let api = Api::<Service>::namespaced(self.client.clone(), namespace);
            seen(
                self.cluster
                    .run(
                        &Call::namespaced("list", "services", namespace),
                        api.list(&page()),
                    )
                    .await,
            )
        }));
        let addresses = lists
            .await?
            .into_iter()
            .flatten()
            .flat_map(|list| cluster_ips(&list.items))
            .collect();
        Ok(Services {
            whole_cluster: false,
            addresses,
        })
    }

    /// The ranges of each network plugin's pools that can be seen.
    pub(super) async fn pools(&self) -> Result<Vec<Vec<IpNetwork>>, Error> {
        let looks = try_join_all(POOLS.iter().map(|pool| async move {
            let gvk = GroupVersionKind::gvk(pool.group, pool.version, pool.kind);
            let resource = ApiResource::from_gvk_with_plural(&gvk, pool.plural);
            let api = Api::<DynamicObject>::all_with(self.client.clone(), &resource);
            let list = seen(
                self.cluster
                    .run(&Call::cluster("list", pool.plural), api.list(&page()))
                    .await,
            )?;
            let objects = list.map(|list| list.items).unwrap_or_default();
            Ok::<_, Error>(parse(
                &objects
                    .iter()
                    .flat_map(|object| pool.texts(object))
                    .collect::<Vec<_>>(),
            ))
        }));
        looks.await
    }
}

impl Pool {
    fn texts(&self, object: &DynamicObject) -> Vec<String> {
        match object.data.pointer(self.ranges) {
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(texts)) => texts
                .iter()
                .filter_map(|text| text.as_str().map(str::to_owned))
                .collect(),
            Some(_) | None => Vec::new(),
        }
    }
}

fn page() -> ListParams {
    ListParams::default().limit(PAGE)
}

/// An answer, or that this user cannot have one.
fn seen<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(answer) => Ok(Some(answer)),
        Err(
            error @ (Error::Unreachable { .. }
            | Error::Unauthorized { .. }
            | Error::ExecPlugin { .. }),
        ) => Err(error),
        Err(error) => {
            tracing::debug!(%error, "discovery does without");
            Ok(None)
        }
    }
}

/// Pods of the host's network have the node's address, not one of a pod range; ended pods' addresses may be another's.
fn own_addresses(pods: &[Pod]) -> BTreeSet<IpAddr> {
    let own = pods.iter().filter(|pod| {
        pod.spec
            .as_ref()
            .is_some_and(|spec| spec.host_network != Some(true))
    });
    let statuses = own.filter_map(|pod| pod.status.as_ref());
    let alive = statuses.filter(|status| status.phase.as_deref() == Some("Running"));
    alive.flat_map(pod_ips).collect()
}

/// Headless Services have `None` for an address.
fn cluster_ips(services: &[Service]) -> BTreeSet<IpAddr> {
    let specs = services.iter().filter_map(|service| service.spec.as_ref());
    addresses(
        specs
            .flat_map(|spec| spec.cluster_ips.iter().flatten())
            .map(String::as_str),
    )
    .into_iter()
    .collect()
}

fn parse(texts: &[String]) -> Vec<IpNetwork> {
    let mut ranges: Vec<IpNetwork> = texts.iter().filter_map(|text| text.parse().ok()).collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}
