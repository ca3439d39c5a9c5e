//! Gateways that tests share, one for each datapath, installed afresh once a test run.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::cluster::Cluster;
use crate::laptop::{Laptop, Resolver};

/// How a gateway reaches the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Datapath {
    /// Its own TCP/IP and ordinary sockets; no privilege.
    Userspace,
    /// A TUN and masquerading in the kernel.
    Kernel,
}

impl Datapath {
    /// The namespace that its gateway runs in.
    pub fn namespace(self) -> &'static str {
        match self {
            Self::Userspace => "kvpn-test-userspace",
            Self::Kernel => "kvpn-test-kernel",
        }
    }

    /// The namespace with a gateway of this kind in it, made of the image under test.
    ///
    /// # Panics
    ///
    /// When it cannot be installed.
    pub fn gateway(self) -> &'static str {
        static INSTALLED: Mutex<Vec<Datapath>> = Mutex::new(Vec::new());
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if !installed.contains(&self) {
            self.install();
            installed.push(self);
        }
        self.namespace()
    }

    /// The namespace enforces the strictest level that this datapath allows, so that a manifest that asks for
    /// more is noticed.
    fn install(self) {
        let level = match self {
            Self::Userspace => "restricted",
            Self::Kernel => "privileged",
        };
        let labels = serde_json::json!({ "pod-security.kubernetes.io/enforce": level });
        Cluster::get().fresh_namespace(self.namespace(), &labels);
        let laptop = Laptop::start(&format!("install-{self}"), Resolver::Plain);
        laptop
            .kvpn(&[
                "-n",
                self.namespace(),
                "gateway",
                "install",
                "--datapath",
                &self.to_string(),
            ])
            .ok();
    }
}

impl fmt::Display for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Userspace => "userspace",
            Self::Kernel => "kernel",
        })
    }
}
