//! A session in a box whose gateway and cluster are simulated ([`crate::sim`]): a real helper with its TUN, and both cores behind it in a
//! thread, so that the box's programs are answered as `kvpn connect` answers them. The simulated clock goes on with each packet, whatever
//! the real one says.
//!
//! It decides nothing about right or wrong: the tests do.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use kvpn_client_core::Event;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use crate::netns::{Agent, Sandbox};
use crate::sim::{Setup, Sim};

/// More than the way to the cluster and back takes.
const TURN: Duration = Duration::from_millis(50);
/// How long a name server outside the cluster may take.
const UPSTREAM_LIMIT: Duration = Duration::from_secs(2);

/// A session that is served.
pub(crate) struct Served {
    pub(crate) agent: Agent,
    /// The helper's answer to `configure`.
    pub(crate) settled: Value,
    upstreams: Arc<Mutex<Vec<SocketAddr>>>,
    stop: UnixStream,
    thread: JoinHandle<usize>,
}

impl Served {
    /// Starts a helper, has it set everything up, and serves.
    pub(crate) fn start(sandbox: &Sandbox, setup: Setup) -> Self {
        let mut agent = Agent::start(sandbox);
        let settled = agent.configure(&request(&Sim::new(setup.clone())));
        let split_dns = settled["split"].as_bool().unwrap();
        let upstreams = Arc::new(Mutex::new(servers(&settled)));
        let cluster = Played {
            tun: agent.tun.as_ref().unwrap().try_clone().unwrap(),
            upstreams: Arc::clone(&upstreams),
        };
        let (stop, stopped) = UnixStream::pair().unwrap();
        let network = sandbox.network();
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            cluster.serve(Sim::new(Setup { split_dns, ..setup }), &stopped)
        });
        Self {
            agent,
            settled,
            upstreams,
            stop,
            thread,
        }
    }

    /// The helper's next news, which the session follows.
    pub(crate) fn news(&mut self) -> Value {
        let news = self.agent.news();
        *self.upstreams.lock().unwrap() = servers(&news);
        news
    }

    /// What a killed agent does: the TUN closes, and the connection to the helper. How many flows reached the cluster's servers.
    pub(crate) fn end(self) -> usize {
        drop(self.stop);
        drop(self.agent);
        self.thread.join().unwrap()
    }

    /// Asks the helper to undo everything.
    pub(crate) fn release(mut self) -> Value {
        let released = self.agent.ask(json!({"request": "release"}));
        self.end();
        released
    }
}

fn servers(answer: &Value) -> Vec<SocketAddr> {
    serde_json::from_value(answer["upstreams"].clone()).unwrap()
}

/// What the agent asks of its helper.
fn request(sim: &Sim) -> Value {
    let addresses = sim.programs.addresses();
    let block = |client: IpAddr| format!("{client}/{}", if client.is_ipv4() { 30 } else { 126 });
    let blocks = addresses.iter().map(|ends| block(ends.client));
    let stubs = addresses.iter().map(|ends| ends.dns_stub);
    let mut routing = vec!["cluster.local", "svc", "pod", "default", "orders"];
    routing.extend(sim.setup.own_domain);
    json!({
        "request": "configure",
        "addresses": blocks.collect::<Vec<_>>(),
        "mtu": 1360,
        "routes": [sim.setup.shown.unwrap_or("10.96.0.0/12")],
        "dns": {
            "servers": stubs.collect::<Vec<_>>(),
            "search": ["default.svc.cluster.local"],
            "routing": routing,
        },
    })
}

/// What stands around the cores.
struct Played {
    tun: OwnedFd,
    upstreams: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Played {
    fn serve(self, mut sim: Sim, stopped: &UnixStream) -> usize {
        sim.programs.tapped = Some(Vec::new());
        sim.run(TURN);
        while self.wait(stopped) {
            let mut packet = [0; 2048];
            if let Ok(len) = rustix::io::read(&self.tun, &mut packet) {
                sim.send(&mut packet[..len]);
            }
            sim.run(TURN);
            self.ask_upstreams(&mut sim);
            let answers = sim.programs.tapped.iter_mut().flatten();
            for packet in answers {
                rustix::io::write(&self.tun, packet).unwrap();
            }
            sim.programs.tapped = Some(Vec::new());
        }
        sim.cluster.opened
    }

    /// Waits for a packet; false when it is time to end.
    fn wait(&self, stopped: &UnixStream) -> bool {
        let mut ready = [
            PollFd::from_borrowed_fd(self.tun.as_fd(), PollFlags::IN),
            PollFd::new(stopped, PollFlags::IN),
        ];
        poll(&mut ready, None).unwrap();
        ready[1].revents().is_empty()
    }

    /// Answers what the session asks of others' name servers.
    fn ask_upstreams(&self, sim: &mut Sim) {
        for (_, event) in std::mem::take(&mut sim.events) {
            if let Event::Upstream { id, query, tcp } = event {
                let servers = self.upstreams.lock().unwrap().clone();
                let mut answers = servers.iter().map(|server| ask(*server, &query, tcp));
                let answer = answers.find_map(Result::ok);
                sim.client.upstream_answered(id, answer, sim.now);
                sim.settle();
            }
        }
    }
}

/// Asks a server of the box, as the agent does.
fn ask(server: SocketAddr, query: &[u8], tcp: bool) -> std::io::Result<Vec<u8>> {
    if tcp {
        let mut stream = TcpStream::connect_timeout(&server, UPSTREAM_LIMIT)?;
        stream.set_read_timeout(Some(UPSTREAM_LIMIT))?;
        let len = u16::try_from(query.len()).map_err(std::io::Error::other)?;
        stream.write_all(&[&len.to_be_bytes(), query].concat())?;
        let mut len = [0; 2];
        stream.read_exact(&mut len)?;
        let mut answer = vec![0; u16::from_be_bytes(len).into()];
        stream.read_exact(&mut answer)?;
        return Ok(answer);
    }
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(UPSTREAM_LIMIT))?;
    socket.connect(server)?;
    socket.send(query)?;
    let mut answer = vec![0; 4096];
    let len = socket.recv(&mut answer)?;
    answer.truncate(len);
    Ok(answer)
}
