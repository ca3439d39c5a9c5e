//! `kvpn gateway`: install, uninstall, manifest, rbac, status.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};
use kvpn_k8s::{
    Cluster, Error as ClusterError, GatewayPod, GatewaySpec, Progress, Purpose, RbacLevel,
    RbacSpec, Subject, UdpExposure, Whose, manifest, rbac, to_yaml,
};
use serde::Serialize;

use crate::cli::Situation;
use crate::cli::failure::{FAILED, Failure, NOT_PERMITTED};
use crate::cli::kube::kube;
use crate::cli::output::{self, Format, OutputArgs};
use crate::cli::progress::Display;
use crate::cluster::{DEFAULT_IMAGE, Datapath, READY_LIMIT, SHARED_NAMESPACE, VERSION, sessions};

/// Install, remove or look at the gateway in a namespace (-n)
#[derive(Debug, Subcommand)]
pub(crate) enum GatewayCommand {
    /// Install the gateway, or bring it up to date, and wait until it is ready
    Install(InstallArgs),
    /// Put exposed Services back, and remove everything that kvpn installed in the namespace
    Uninstall,
    /// Print what `install` would apply, for an admin to read and apply
    Manifest(InstallArgs),
    /// Print the roles that let people use kvpn, for an admin to apply
    Rbac(RbacArgs),
    /// Show the gateway
    Status(StatusArgs),
}

/// What the gateway is like.
#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// The gateway's image
    #[arg(long, value_name = "IMAGE", env = "KVPN_GATEWAY_IMAGE", default_value = DEFAULT_IMAGE,
        value_parser = NonEmptyStringValueParser::new())]
    image: String,
    /// When the node gets the image
    #[arg(long, value_enum, value_name = "POLICY")]
    image_pull_policy: Option<PullPolicy>,
    /// Secret of the namespace with the registry's credentials
    #[arg(long, value_name = "SECRET")]
    image_pull_secret: Option<String>,
    /// How the gateway reaches the cluster
    #[arg(long, value_enum, default_value_t, value_name = "DATAPATH")]
    datapath: Datapath,
    /// How many gateways; from two on they avoid each other's nodes
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    replicas: u8,
    /// How UDP is offered to clients outside
    #[arg(long, value_enum, default_value = "nodeport", value_name = "EXPOSURE")]
    udp: Udp,
}

/// `imagePullPolicy`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PullPolicy {
    /// Before every start
    Always,
    /// When the node does not have it
    #[value(name = "ifnotpresent", alias = "IfNotPresent")]
    IfNotPresent,
    /// Not at all: the node has it
    Never,
}

impl PullPolicy {
    fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// `--udp`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Udp {
    /// A port of every node
    Nodeport,
    /// An address of the cloud's load balancer
    Loadbalancer,
    /// Not at all: everything goes through the API server
    None,
}

impl From<Udp> for UdpExposure {
    fn from(udp: Udp) -> Self {
        match udp {
            Udp::Nodeport => Self::NodePort,
            Udp::Loadbalancer => Self::LoadBalancer,
            Udp::None => Self::None,
        }
    }
}

/// Who may do what.
#[derive(Debug, Args)]
pub(crate) struct RbacArgs {
    /// What they may do
    #[arg(
        long = "for",
        value_enum,
        default_value = "connect",
        value_name = "PURPOSE"
    )]
    purpose: RbacPurpose,
    /// Leave out the cluster-wide reading rights that let kvpn find every range and namespace
    #[arg(long)]
    no_discovery: bool,
    /// A user; may be given again
    #[arg(long, value_name = "NAME")]
    user: Vec<String>,
    /// A group; may be given again
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// A service account; may be given again
    #[arg(long, value_name = "NAMESPACE:NAME", value_parser = service_account)]
    service_account: Vec<Subject>,
}

/// `--for`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RbacPurpose {
    /// Connect to a gateway that is there
    Connect,
    /// Expose Services through it too
    Expose,
    /// Install and remove a gateway too
    Install,
}

fn service_account(text: &str) -> Result<Subject, String> {
    let (namespace, name) = text.split_once(':').ok_or("write it as NAMESPACE:NAME")?;
    Ok(Subject::ServiceAccount {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

/// How it is shown.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// The JSON document of `kvpn gateway status`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct GatewayDocument {
    namespace: String,
    pod: String,
    node: Option<String>,
    image: String,
    version: Option<String>,
    datapath: &'static str,
    ready: bool,
    pod_addresses: Vec<std::net::IpAddr>,
    udp_endpoints: Vec<std::net::SocketAddr>,
    sessions: Option<u64>,
}

/// `kvpn gateway …`
pub(crate) async fn run(situation: Situation, command: GatewayCommand) -> anyhow::Result<ExitCode> {
    match command {
        GatewayCommand::Install(args) => install(&situation, args).await,
        GatewayCommand::Uninstall => uninstall(&situation).await,
        GatewayCommand::Manifest(args) => {
            output::print(&to_yaml(&manifest(&spec(args, &namespace(&situation)?))));
            Ok(ExitCode::SUCCESS)
        }
        GatewayCommand::Rbac(args) => {
            output::print(&to_yaml(&rbac(&rbac_spec(args, &namespace(&situation)?))));
            Ok(ExitCode::SUCCESS)
        }
        GatewayCommand::Status(args) => status(&situation, &args).await,
    }
}

fn load(situation: &Situation) -> anyhow::Result<Cluster> {
    let interactive = std::io::IsTerminal::is_terminal(&std::io::stdin());
    Ok(Cluster::load(&kube(situation).options(interactive))?)
}

/// The namespace that is meant. Printing needs no cluster when -n says it.
fn namespace(situation: &Situation) -> anyhow::Result<String> {
    match &situation.globals.namespace {
        Some(namespace) => Ok(namespace.clone()),
        None => Ok(load(situation)?.namespace().to_owned()),
    }
}

fn spec(args: InstallArgs, namespace: &str) -> GatewaySpec {
    GatewaySpec {
        pull_policy: args
            .image_pull_policy
            .map(|policy| policy.as_str().to_owned()),
        pull_secret: args.image_pull_secret,
        datapath: args.datapath.into(),
        replicas: args.replicas,
        udp: args.udp.into(),
        ..GatewaySpec::new(namespace, &args.image, VERSION)
    }
}

fn rbac_spec(args: RbacArgs, namespace: &str) -> RbacSpec {
    let users = args.user.into_iter().map(Subject::User);
    let groups = args.group.into_iter().map(Subject::Group);
    RbacSpec {
        namespace: namespace.to_owned(),
        level: match args.purpose {
            RbacPurpose::Connect => RbacLevel::Connect,
            RbacPurpose::Expose => RbacLevel::Expose,
            RbacPurpose::Install => RbacLevel::Install,
        },
        discover: !args.no_discovery,
        subjects: users.chain(groups).chain(args.service_account).collect(),
    }
}

async fn install(situation: &Situation, args: InstallArgs) -> anyhow::Result<ExitCode> {
    let cluster = load(situation)?;
    let spec = spec(args, cluster.namespace());
    let display = Display::new(situation.globals.quiet);
    let missing = cluster.preflight(&spec.namespace, Purpose::Install).await?;
    if !missing.is_empty() {
        let list: Vec<String> = missing.iter().map(ToString::to_string).collect();
        let failure = Failure::new(
            NOT_PERMITTED,
            format!("installing a gateway is not permitted: {}", list.join("; ")),
        );
        return Err(failure
            .hint("an admin can apply what `kvpn gateway manifest` prints")
            .into());
    }
    display.step(&format!(
        "installing a gateway in namespace {}",
        spec.namespace
    ));
    let installed = cluster.install(&spec).await?;
    for skipped in &installed.skipped {
        display.note(&format!("note: {skipped}"));
    }
    let mut progress = |progress: Progress| display.step(&progress.to_string());
    let pod = cluster
        .wait_ready(&spec.namespace, READY_LIMIT, &mut progress)
        .await?;
    display.clear();
    output::print(&format!(
        "the gateway {}/{} is ready",
        pod.namespace, pod.name
    ));
    Ok(ExitCode::SUCCESS)
}

async fn uninstall(situation: &Situation) -> anyhow::Result<ExitCode> {
    let cluster = load(situation)?;
    let display = Display::new(situation.globals.quiet);
    display.step(&format!(
        "removing the gateway from namespace {}",
        cluster.namespace()
    ));
    restore_exposed(&cluster, &display).await?;
    let uninstalled = cluster.uninstall(cluster.namespace()).await?;
    display.clear();
    for skipped in &uninstalled.skipped {
        output::tell(&format!("note: {skipped}"));
    }
    if uninstalled.removed.is_empty() {
        output::print(&format!(
            "there was nothing of kvpn in namespace {}",
            cluster.namespace()
        ));
    }
    for removed in &uninstalled.removed {
        output::print(&format!("removed {removed}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Without the gateway, Services that lead to it would lead nowhere.
async fn restore_exposed(cluster: &Cluster, display: &Display) -> anyhow::Result<()> {
    let namespace = cluster.namespace();
    let exposed = match cluster.exposed_services(namespace).await {
        Ok(exposed) => exposed,
        Err(error @ ClusterError::Forbidden { .. }) => {
            display.note(&format!(
                "note: exposed Services are not put back: {error}; `kvpn list` and `kvpn restore` do that for those who may"
            ));
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    for service in &exposed {
        display.step(&format!(
            "putting Service {namespace}/{} back",
            service.name
        ));
        cluster
            .restore_service(namespace, &service.name, &Whose::Everybody)
            .await?;
        display.note(&format!("restored Service {namespace}/{}", service.name));
    }
    cluster.sweep_shadows(namespace).await?;
    Ok(())
}

async fn status(situation: &Situation, args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let cluster = load(situation)?;
    let own = cluster.namespace();
    let places = if situation.globals.namespace.is_some() {
        vec![own]
    } else {
        vec![own, SHARED_NAMESPACE]
    };
    let Some(pod) = cluster.find_gateway(&places).await? else {
        let failure = Failure::new(
            FAILED,
            format!("there is no gateway in namespace {}", places.join(" or ")),
        );
        return Err(failure
            .hint("`kvpn connect` or `kvpn gateway install` installs one")
            .into());
    };
    let document = document(&cluster, pod).await?;
    match args.output.format {
        Format::Json => output::print_json(&document)?,
        Format::Table => output::print(&table(&document)),
    }
    if !document.ready {
        bail!(
            "the gateway {}/{} is not ready; see `kubectl describe pod`",
            document.namespace,
            document.pod
        );
    }
    Ok(ExitCode::SUCCESS)
}

async fn document(cluster: &Cluster, pod: GatewayPod) -> anyhow::Result<GatewayDocument> {
    let udp_endpoints = cluster
        .udp_endpoints(&pod)
        .await
        .context("the gateway's UDP addresses cannot be found")?;
    let sessions = if pod.ready {
        sessions(cluster, &pod).await
    } else {
        None
    };
    Ok(GatewayDocument {
        namespace: pod.namespace,
        pod: pod.name,
        node: pod.node,
        image: pod.image,
        version: pod.version,
        datapath: pod.datapath.as_str(),
        ready: pod.ready,
        pod_addresses: pod.pod_ips,
        udp_endpoints,
        sessions,
    })
}

fn table(document: &GatewayDocument) -> String {
    let GatewayDocument {
        namespace,
        pod,
        image,
        sessions,
        ..
    } = document;
    let or = |value: &Option<String>, otherwise: &str| {
        value.clone().unwrap_or_else(|| otherwise.to_owned())
    };
    let sessions = sessions.map(|count| count.to_string());
    output::rows([
        ("gateway", format!("{namespace}/{pod}")),
        (
            "ready",
            if document.ready { "yes" } else { "no" }.to_owned(),
        ),
        ("node", or(&document.node, "none yet")),
        ("image", image.clone()),
        ("version", or(&document.version, "not known")),
        ("datapath", document.datapath.to_owned()),
        ("addresses", list(&document.pod_addresses)),
        ("udp", list(&document.udp_endpoints)),
        ("sessions", or(&sessions, "not known")),
    ])
}

fn list<T: ToString>(values: &[T]) -> String {
    if values.is_empty() {
        return "none".to_owned();
    }
    values
        .iter()
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}
