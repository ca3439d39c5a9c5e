//! UDP: each client has its own way there and back.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use kvpn_gateway::exposure::{Limits, Owner, Record, Share, Target};
use tokio::net::UdpSocket;

use super::stage::{Place, Stage, claim, everything, laptop, soon, until};

/// Answers each datagram with its name, the sender's port and the datagram.
async fn server(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2000];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let datagram = String::from_utf8_lossy(&buffer[..length]);
            let answer = format!("{name}:{}:{datagram}", from.port());
            socket.send_to(answer.as_bytes(), from).await.unwrap();
        }
    });
    address
}

async fn client(stage: &Stage) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(stage.address).await.unwrap();
    socket
}

async fn ask(client: &UdpSocket, datagram: &str) -> (String, String, String) {
    client.send(datagram.as_bytes()).await.unwrap();
    hear(client).await
}

async fn hear(client: &UdpSocket) -> (String, String, String) {
    let mut buffer = [0; 2000];
    let length = soon(client.recv(&mut buffer)).await.unwrap();
    let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
    let mut parts = answer.split(':').map(str::to_owned);
    (
        parts.next().unwrap(),
        parts.next().unwrap(),
        parts.next().unwrap(),
    )
}

#[tokio::test]
async fn each_client_has_its_own_way_and_keeps_it() {
    let places = [
        (laptop("ana"), server("ana").await),
        (Target::Origin, server("origin").await),
    ];
    let ana = everything("ana");
    let counters = std::sync::Arc::clone(&ana.counters);
    let stage = Stage::udp([ana], places, Limits::default()).await;
    let clients = [client(&stage).await, client(&stage).await];
    let mut ports = Vec::new();
    for round in 0..3 {
        for (number, client) in clients.iter().enumerate() {
            let (name, port, datagram) = ask(client, &format!("{round}.{number}")).await;
            assert_eq!(
                (name.as_str(), datagram),
                ("ana", format!("{round}.{number}"))
            );
            ports.push(port);
        }
    }
    assert_eq!([&ports[0], &ports[1]], [&ports[4], &ports[5]]);
    assert_ne!(ports[0], ports[1]);
    let counts = counters.counts();
    assert_eq!(
        (
            counts.connections,
            counts.sent,
            stage.exposure.gauges().connections
        ),
        (2, 18, 2)
    );
}

#[tokio::test]
async fn datagrams_cannot_be_matched() {
    let places = [
        (laptop("ana"), server("ana").await),
        (Target::Origin, server("origin").await),
    ];
    let stage = Stage::udp([claim("ana")], places, Limits::default()).await;
    assert_eq!(ask(&client(&stage).await, "x-dev=ana").await.0, "origin");
}

#[tokio::test]
async fn what_the_laptop_refuses_the_origin_gets() {
    // Nobody has the discard service any more: the kernel answers with an ICMP error to the first datagram.
    let closed = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let places = [
        (laptop("ana"), closed),
        (Target::Origin, server("origin").await),
    ];
    let limits = Limits {
        udp_idle: Duration::from_millis(200),
        ..Limits::default()
    };
    let ana = everything("ana");
    let counters = std::sync::Arc::clone(&ana.counters);
    let mut stage = Stage::udp([ana], places, limits).await;
    let client = client(&stage).await;
    client.send(b"first").await.unwrap();
    until("it is sent to the laptop", || counters.counts().sent == 5).await;
    // The socket tells of the refusal when it is used again; then nothing of what was not answered is lost.
    client.send(b"second").await.unwrap();
    for expected in ["first", "second"] {
        let (name, _, datagram) = hear(&client).await;
        assert_eq!((name.as_str(), datagram.as_str()), ("origin", expected));
    }
    assert_eq!(counters.counts().fallbacks, 1);
    let Record::Connection(record) = stage.record().await else {
        panic!()
    };
    assert_eq!(record.to, Some(Share::Fallback(Owner::new("ana"))));
    assert!(record.complete);
}

#[tokio::test]
async fn without_fallback_nobody_answers() {
    let mut ana = everything("ana");
    ana.fallback = false;
    let places = [(Target::Origin, server("origin").await)];
    let mut stage = Stage::udp([ana], places, Limits::default()).await;
    client(&stage).await.send(b"hello").await.unwrap();
    let Record::Connection(record) = stage.record().await else {
        panic!()
    };
    assert_eq!(
        (record.complete, stage.places.dials(&Target::Origin)),
        (false, 0)
    );
}

#[tokio::test]
async fn idle_clients_are_forgotten_and_come_back() {
    let limits = Limits {
        udp_idle: Duration::from_millis(50),
        ..Limits::default()
    };
    let stage = Stage::udp(
        [everything("ana")],
        [(laptop("ana"), server("ana").await)],
        limits,
    )
    .await;
    let client = client(&stage).await;
    ask(&client, "1").await;
    until("the client is forgotten", || {
        stage.exposure.gauges().connections == 0
    })
    .await;
    stage
        .places
        .set(laptop("ana"), Place::At(server("new").await));
    assert_eq!(ask(&client, "2").await.0, "new");
}

#[tokio::test]
async fn there_is_a_bound_to_clients() {
    let limits = Limits {
        udp_clients: 2,
        ..Limits::default()
    };
    let stage = Stage::udp(
        [everything("ana")],
        [(laptop("ana"), server("ana").await)],
        limits,
    )
    .await;
    let clients = [
        client(&stage).await,
        client(&stage).await,
        client(&stage).await,
    ];
    for client in &clients[..2] {
        ask(client, "1").await;
    }
    clients[2].send(b"1").await.unwrap();
    until("the third is refused", || {
        stage.exposure.gauges().refused == 1
    })
    .await;
    assert_eq!(ask(&clients[0], "2").await.0, "ana");
}
