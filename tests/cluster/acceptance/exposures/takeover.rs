//! Services of every kind, taken over whole: all their ports reach the laptop, and afterwards the Service, its pods and the
//! namespace are as before.

use kvpn::cluster::{Cluster, PATIENCE};
use kvpn::developer::Developer;
use kvpn::exposures::{GRACE, ORIGIN, Origin};
use kvpn::outcome::eventually;
use kvpn::traffic::Count;
use serde_json::{Value, json};

use super::NEEDED;

/// All ports of [`Origin::service`]: by number, by name, and of both protocols.
const PORTS: &str = "8080:80 8081:grpc 9000:9000 9000:9000/udp";

/// Name, what its spec has beside the ordinary, and options.
fn kinds() -> Vec<(&'static str, Value, &'static str)> {
    let affinity = json!({
        "sessionAffinity": "ClientIP", "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 60 } },
    });
    let ipv6 = json!({ "ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack" });
    // Callers of a headless Service go to the pods themselves, so that the ports have to be the pods'.
    let headless = json!({ "clusterIP": "None", "ports": [
        { "name": "http", "port": 8080 }, { "name": "grpc", "port": 8081 },
        { "name": "lines", "port": 9000 }, { "name": "datagrams", "port": 9000, "protocol": "UDP" },
    ] });
    vec![
        ("cluster-ip", json!({}), ""),
        ("node-port", json!({ "type": "NodePort" }), ""),
        ("load-balancer", json!({ "type": "LoadBalancer" }), ""),
        ("affinity", affinity, ""),
        ("ipv6", ipv6, ""),
        (
            "dual-stack",
            json!({ "ipFamilyPolicy": "RequireDualStack" }),
            "",
        ),
        ("headless", headless, "--force"),
    ]
}

#[test]
fn services_of_every_kind() {
    if !Cluster::get().has(NEEDED) {
        return;
    }
    let origin = Origin::start("kvpn-test-kinds");
    let ana = Developer::start("ana", origin.namespace);
    for (name, spec, _) in kinds() {
        origin.service(name, &spec);
    }
    let lives = origin.lives();
    for (name, _, options) in kinds() {
        let before = origin.object(name);
        every_port_reaches(&origin, &before, ORIGIN);
        let ports = if name == "headless" {
            "8080 8081 9000 9000/udp"
        } else {
            PORTS
        };
        ana.exposes(&format!("{ports} as {name} --takeover {options}"));
        every_port_reaches(&origin, &before, &ana.name);
        ana.kvpn(&format!("unexpose {name}")).ok();
        origin.is_again(name, &before, PATIENCE);
        every_port_reaches(&origin, &before, ORIGIN);
    }
    assert_eq!(origin.lives(), lives, "pods of the origin were restarted");
    nothing_is_left(&origin);
}

/// A Service that was not there: it comes with the exposure and goes with it.
#[test]
fn a_new_service() {
    if !Cluster::get().has(NEEDED) {
        return;
    }
    let origin = Origin::start("kvpn-test-new");
    let ana = Developer::start("ana", origin.namespace);
    ana.exposes("8080:80 9000:9000 9000:9000/udp as fresh");
    let host = origin.address("fresh");
    reaches(&origin, &["-host", &host, "-grpc", "0"], &ana.name);
    ana.kvpn("unexpose fresh").ok();
    let gone = eventually(PATIENCE, || !origin.has("fresh"));
    assert!(gone, "the Service that kvpn made is still there");
}

/// After the time in which the gateway still proxies there is nothing of kvpn's but the gateway.
fn nothing_is_left(origin: &Origin) {
    let services = || {
        origin
            .kubectl(&["get", "services", "-o", "name"])
            .ok()
            .stdout
    };
    let gone = eventually(GRACE + PATIENCE, || !services().contains("kvpn-origin"));
    assert!(gone, "shadows are left: {}", services());
}

/// Each port of a Service, on each address that it has, in every mode that this port has.
#[track_caller]
fn every_port_reaches(origin: &Origin, service: &Value, server: &str) {
    let name = service["metadata"]["name"].as_str().unwrap();
    let port = |which: &str, field: &str| {
        let ports = service["spec"]["ports"].as_array().unwrap();
        let port = ports.iter().find(|port| port["name"] == which);
        port.map_or_else(|| "0".to_owned(), |port| port[field].to_string())
    };
    let question = |host: &str, field: &str| {
        let ports = ["http", "grpc", "lines", "datagrams"];
        let ports = ports
            .iter()
            .flat_map(|which| [format!("-{which}"), port(which, field)]);
        let words = ["-host".to_owned(), host.to_owned()]
            .into_iter()
            .chain(ports);
        words.collect::<Vec<_>>()
    };
    let mut questions = Vec::new();
    if service["spec"]["clusterIP"] == "None" {
        questions.push(question(name, "port"));
    } else {
        let addresses = Cluster::get().service(origin.namespace, name);
        questions.extend(
            addresses
                .iter()
                .map(|address| question(&address.to_string(), "port")),
        );
    }
    if service["spec"]["type"] == "NodePort" {
        questions.push(question("172.31.2.11", "nodePort"));
    }
    for question in questions {
        let words: Vec<&str> = question.iter().map(String::as_str).collect();
        reaches(origin, &words, server);
    }
}

/// Words of `traffic every`: all questions are answered by this one, as soon as nodes have heard of the change.
#[track_caller]
fn reaches(origin: &Origin, words: &[&str], server: &str) {
    let mut counts: Vec<(String, Count)> = Vec::new();
    let all = eventually(PATIENCE, || {
        counts = origin.asks_in_all_ways(&[&["every"], words].concat());
        counts.iter().all(|(_, count)| count.by(server) == 3)
    });
    let wrong = counts.iter().filter(|(_, count)| count.by(server) != 3);
    let wrong: String = wrong.map(|(_, count)| format!("\n{count}")).collect();
    assert!(
        all,
        "{words:?} is not answered by {server} in each mode:{wrong}"
    );
}
