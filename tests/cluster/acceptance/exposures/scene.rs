//! What most tests of exposures begin with: an origin behind Service `web`, a developer with a program that runs.

use kvpn::cluster::PATIENCE;
use kvpn::developer::Developer;
use kvpn::exposures::{ORIGIN, Origin, Poll};
use kvpn::traffic::Count;
use serde_json::{Value, json};

/// An origin and a developer.
pub(super) struct Scene {
    pub(super) origin: Origin,
    pub(super) ana: Developer,
    /// The Service before anything happened.
    pub(super) before: Value,
}

impl Scene {
    pub(super) fn start(namespace: &'static str) -> Self {
        Self::with(Origin::start(namespace))
    }

    pub(super) fn with(origin: Origin) -> Self {
        origin.service("web", &json!({}));
        let ana = Developer::start("ana", origin.namespace);
        let before = origin.object("web");
        Self {
            origin,
            ana,
            before,
        }
    }

    /// All ports of the Service, whole.
    #[track_caller]
    pub(super) fn take_over(&self) {
        self.ana
            .exposes("8080:80 8081:grpc 9000:9000 9000:9000/udp as web --takeover");
        self.is_anas();
    }

    #[track_caller]
    pub(super) fn is_anas(&self) {
        let is_anas = self.origin.is_answered_by("web", &self.ana.name, PATIENCE);
        assert!(
            is_anas,
            "callers do not reach the laptop: {}",
            self.ana.kvpn("list")
        );
    }

    #[track_caller]
    pub(super) fn is_the_origins(&self) {
        assert!(
            self.origin.is_answered_by("web", ORIGIN, PATIENCE),
            "callers do not reach the origin"
        );
    }

    /// Callers of every kind from a pod of that node, until [`Callers::stop`].
    pub(super) fn callers(&self, node: u8) -> Callers<'_> {
        let url = self.origin.url("web");
        let grpc = format!("{}:8081", self.origin.address("web"));
        let poll = |mode: &str, to: &str| self.origin.poll(node, &["-mode", mode, "-to", to]);
        Callers {
            new: poll("new", &url),
            kept: vec![
                poll("keepalive", &url),
                poll("h2", &url),
                poll("ws", &url),
                poll("grpc", &grpc),
            ],
        }
    }
}

/// Callers at 50 Hz: one with a connection for each question, and some that keep theirs.
pub(super) struct Callers<'origin> {
    new: Poll<'origin>,
    kept: Vec<Poll<'origin>>,
}

impl Callers<'_> {
    /// What the one with new connections counted; all are printed.
    pub(super) fn stop(self) -> Count {
        let new = self.new.stop();
        println!("{new}");
        for poll in self.kept {
            println!("{}", poll.stop());
        }
        new
    }
}
