//! Finds a gateway for a session, or installs one. Says what is missing when the user may not.

use kvpn_k8s::{
    Cluster, Error as ClusterError, GatewayPod, GatewaySpec, Missing, Purpose, RbacLevel, RbacSpec,
    manifest, rbac, to_yaml,
};

use crate::agent::board::Board;
use crate::agent::message::Access;
use crate::agent::upgrade;
use crate::cli::failure::{FAILED, Failure, NOT_PERMITTED};
use crate::cluster::{READY_LIMIT, SHARED_NAMESPACE, VERSION};

/// Where a gateway is looked for, in order.
pub(crate) fn namespaces<'a>(access: &'a Access, cluster: &'a Cluster) -> Vec<&'a str> {
    match &access.gateway_namespace {
        Some(namespace) => vec![namespace],
        None if cluster.namespace() == SHARED_NAMESPACE => vec![SHARED_NAMESPACE],
        None => vec![cluster.namespace(), SHARED_NAMESPACE],
    }
}

/// A gateway that is ready. `purpose` is what the user wants of it: rights that are missing for it are named.
///
/// # Errors
///
/// None is there and none may be installed (exit code 4), or it does not become ready.
pub(crate) async fn ready(
    cluster: &Cluster,
    access: &Access,
    board: &Board,
    purpose: Purpose,
) -> anyhow::Result<GatewayPod> {
    board.step(format!(
        "looking for a gateway in context {}",
        cluster.context()
    ));
    let namespaces = namespaces(access, cluster);
    let found = match cluster.find_gateway(&namespaces).await {
        Err(error @ ClusterError::Forbidden { .. }) => {
            let spec = spec(access, namespaces[0]);
            return Err(not_permitted(cluster, purpose, namespaces[0], Some(&spec), error).await);
        }
        other => other?,
    };
    let Some(found) = found else {
        return install(cluster, access, board, &namespaces).await;
    };
    let found = upgrade::where_due(cluster, access, board, found).await?;
    if found.ready {
        Ok(found)
    } else {
        if found.image != access.image {
            board.note(format!(
                "the gateway {}/{} is not ready and has the image {}; if that is wrong, `kvpn connect --image {}` replaces it",
                found.namespace, found.name, found.image, access.image
            ));
        }
        wait(cluster, &found.namespace, board).await
    }
}

/// What a refusal by RBAC means to the user: every right that is missing for `purpose`, and the role that grants them, for an
/// admin; before it the manifest of the gateway that cannot be looked for.
pub(crate) async fn not_permitted(
    cluster: &Cluster,
    purpose: Purpose,
    namespace: &str,
    spec: Option<&GatewaySpec>,
    error: ClusterError,
) -> anyhow::Error {
    let missing = cluster
        .preflight(namespace, purpose)
        .await
        .unwrap_or_default();
    if missing.is_empty() {
        return error.into();
    }
    let (level, option) = match purpose {
        Purpose::Connect => (RbacLevel::Connect, ""),
        Purpose::Expose => (RbacLevel::Expose, " --for expose"),
        Purpose::Install => (RbacLevel::Install, " --for install"),
    };
    let rights = rbac(&RbacSpec {
        namespace: namespace.to_owned(),
        level,
        discover: false,
        subjects: Vec::new(),
    });
    let what = if spec.is_some() {
        format!("a gateway for namespace {namespace}, and the role that lets people use it")
    } else {
        format!("the role that lets people do it in namespace {namespace}")
    };
    let hint = format!(
        "hand what stands on stdout to an admin: {what} (`kvpn gateway rbac -n {namespace}{option} --user NAME` binds it too)"
    );
    let manifest = spec.map(manifest).unwrap_or_default();
    let document = to_yaml(&[manifest, rights].concat());
    Failure::new(NOT_PERMITTED, format!("not permitted: {}", list(&missing)))
        .hint(hint)
        .document(document)
        .into()
}

pub(super) fn list(missing: &[Missing]) -> String {
    let texts: Vec<String> = missing.iter().map(Missing::to_string).collect();
    texts.join("; ")
}

async fn install(
    cluster: &Cluster,
    access: &Access,
    board: &Board,
    namespaces: &[&str],
) -> anyhow::Result<GatewayPod> {
    let places = namespaces.join(" and ");
    if !access.install {
        let failure = Failure::new(
            FAILED,
            format!("no gateway was found in namespace {places}, and --no-install was given"),
        );
        return Err(failure
            .hint("leave --no-install out, or run `kvpn gateway install` first")
            .into());
    }
    let namespace = namespaces[0];
    let spec = spec(access, namespace);
    let missing = cluster.preflight(namespace, Purpose::Install).await?;
    if !missing.is_empty() {
        return Err(may_not_install(&spec, &missing, &places));
    }
    board.step(format!("installing a gateway in namespace {namespace}"));
    apply(cluster, &spec, board).await
}

fn may_not_install(spec: &GatewaySpec, missing: &[Missing], places: &str) -> anyhow::Error {
    let message = format!(
        "no gateway was found in namespace {places}, and installing one is not permitted: {}",
        list(missing)
    );
    let hint = "an admin can apply the manifest that stands on stdout: `kvpn connect | kubectl apply -f -`, or `kvpn gateway manifest`";
    Failure::new(NOT_PERMITTED, message)
        .hint(hint)
        .document(to_yaml(&manifest(spec)))
        .into()
}

fn spec(access: &Access, namespace: &str) -> GatewaySpec {
    GatewaySpec {
        datapath: access.datapath.into(),
        ..GatewaySpec::new(namespace, &access.image, VERSION)
    }
}

pub(super) async fn apply(
    cluster: &Cluster,
    spec: &GatewaySpec,
    board: &Board,
) -> anyhow::Result<GatewayPod> {
    let installed = cluster.install(spec).await?;
    for skipped in installed.skipped {
        board.note(skipped);
    }
    wait(cluster, &spec.namespace, board).await
}

async fn wait(cluster: &Cluster, namespace: &str, board: &Board) -> anyhow::Result<GatewayPod> {
    let mut progress = |progress: kvpn_k8s::Progress| board.step(progress.to_string());
    Ok(cluster
        .wait_ready(namespace, READY_LIMIT, &mut progress)
        .await?)
}
