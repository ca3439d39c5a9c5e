//! Tries this crate on a real cluster: `probe KUBECONFIG NAMESPACE COMMAND [ARGS]`.
//!
//! Commands: `version`, `find`, `preflight`, `discover`, `manifest IMAGE`, `rbac USER [LEVEL [discover]]`, `install IMAGE [DATAPATH [POLICY]]`, `wait SECONDS`,
//! `uninstall`, `forward POD PORT [PATH|BYTES]` (an HTTP GET, or so many bytes sent), `watch SECONDS`.
#![expect(clippy::print_stdout, reason = "it is a program for a terminal")]

use anyhow::{Context as _, bail};
use kvpn_k8s::{
    Cluster, DatapathChoice, GatewayPod, GatewaySpec, KubeOptions, Purpose, RbacLevel, RbacSpec,
    Subject, UdpExposure,
};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kubeconfig, namespace, command, rest @ ..] = arguments.as_slice() else {
        bail!("usage: probe KUBECONFIG NAMESPACE COMMAND [ARGS]");
    };
    let options = KubeOptions {
        kubeconfig: Some(kubeconfig.into()),
        namespace: Some(namespace.clone()),
        exec_timeout: Duration::from_secs(3),
        ..KubeOptions::default()
    };
    let begun = tokio::time::Instant::now();
    let outcome = match Cluster::load(&options) {
        Ok(cluster) => run(&cluster, namespace, command, rest).await,
        Err(error) => Err(error.into()),
    };
    println!("took {:?}", begun.elapsed());
    if let Err(error) = &outcome
        && let Some(error) = error.downcast_ref::<kvpn_k8s::Error>()
    {
        println!(
            "error: {error}\nhint: {}\nexit code: {}",
            error.hint().unwrap_or_default(),
            error.exit_code()
        );
        return Ok(());
    }
    outcome
}

async fn run(
    cluster: &Cluster,
    namespace: &str,
    command: &str,
    rest: &[String],
) -> anyhow::Result<()> {
    let argument = |at: usize| rest.get(at).map(String::as_str);
    match command {
        "version" => {
            println!(
                "{} at {} {:?}",
                cluster.version().await?,
                cluster.server(),
                cluster.api_server_addresses().await
            );
        }
        "find" => match cluster.find_gateway(&[namespace, "kvpn"]).await? {
            Some(gateway) => println!(
                "{gateway:#?}\nudp: {:?}",
                cluster.udp_endpoints(&gateway).await?
            ),
            None => println!("no gateway"),
        },
        "preflight" => println!(
            "{:?}",
            cluster.preflight(namespace, Purpose::Install).await?
        ),
        "discover" => {
            let gateway = cluster
                .find_gateway(&[namespace])
                .await?
                .unwrap_or_else(|| pod(namespace, "none"));
            println!("{:#?}", cluster.discover(namespace, &gateway).await?);
        }
        "manifest" => println!(
            "{}",
            kvpn_k8s::to_yaml(&kvpn_k8s::manifest(&spec(namespace, rest)?))
        ),
        "rbac" => {
            let spec = RbacSpec {
                namespace: namespace.to_owned(),
                level: if argument(1) == Some("install") {
                    RbacLevel::Install
                } else {
                    RbacLevel::Connect
                },
                discover: argument(2).is_some(),
                subjects: vec![Subject::User(argument(0).context("USER")?.to_owned())],
            };
            println!("{}", kvpn_k8s::to_yaml(&kvpn_k8s::rbac(&spec)));
        }
        "install" => println!("{:#?}", cluster.install(&spec(namespace, rest)?).await?),
        "wait" => {
            let limit = Duration::from_secs(argument(0).unwrap_or("60").parse()?);
            let gateway = cluster
                .wait_ready(namespace, limit, &mut |step| println!("... {step}"))
                .await?;
            println!("{gateway:#?}");
        }
        "uninstall" => println!("{:?}", cluster.uninstall(namespace).await?),
        "forward" => forward(cluster, &pod(namespace, argument(0).context("POD")?), rest).await?,
        "watch" => watch(cluster, argument(0).unwrap_or("5").parse()?).await?,
        other => bail!("unknown command {other}"),
    }
    Ok(())
}

fn spec(namespace: &str, rest: &[String]) -> anyhow::Result<GatewaySpec> {
    let mut spec = GatewaySpec::new(namespace, rest.first().context("IMAGE")?, "0.1.0");
    spec.datapath = match rest.get(1).map(String::as_str) {
        Some("kernel") => DatapathChoice::Kernel,
        _ => DatapathChoice::Auto,
    };
    spec.pull_policy = rest.get(2).cloned();
    if rest.get(3).is_some_and(|udp| udp == "none") {
        spec.udp = UdpExposure::None;
    }
    Ok(spec)
}

fn pod(namespace: &str, name: &str) -> GatewayPod {
    GatewayPod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: String::new(),
        node: None,
        host_ips: Vec::new(),
        pod_ips: Vec::new(),
        image: String::new(),
        version: None,
        datapath: DatapathChoice::Auto,
        ready: true,
    }
}

async fn forward(cluster: &Cluster, pod: &GatewayPod, rest: &[String]) -> anyhow::Result<()> {
    let port = rest.get(1).context("PORT")?.parse()?;
    let begun = tokio::time::Instant::now();
    let mut stream = cluster.forward(pod, port).await?;
    println!("open after {:?}", begun.elapsed());
    let begun = tokio::time::Instant::now();
    let bytes = match rest.get(2).map(String::as_str) {
        Some(count) if !count.starts_with('/') => {
            let mut left: usize = count.parse()?;
            let (all, block) = (left, vec![7; 64 * 1024]);
            while left > 0 {
                let some = left.min(block.len());
                stream.write_all(&block[..some]).await?;
                left -= some;
            }
            stream.shutdown().await?;
            all
        }
        path => {
            let request = format!("GET {} HTTP/1.0\r\n\r\n", path.unwrap_or("/"));
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            println!(
                "{}",
                String::from_utf8_lossy(&answer[..answer.len().min(200)])
            );
            answer.len()
        }
    };
    let elapsed = begun.elapsed();
    println!(
        "{bytes} bytes in {elapsed:?}: {:.2} Gbit/s",
        bytes as f64 * 8e-9 / elapsed.as_secs_f64()
    );
    Ok(())
}

async fn watch(cluster: &Cluster, seconds: u64) -> anyhow::Result<()> {
    use futures::StreamExt as _;
    let mut names = cluster.watch_namespaces();
    let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
    while let Ok(Some(list)) = tokio::time::timeout_at(end, names.next()).await {
        println!("{:?}", list?);
    }
    Ok(())
}
