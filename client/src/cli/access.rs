//! Options about the gateway and the way to it, the same for every command that opens a session.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::agent::message::{Access, Carrier, Offload};
use crate::cli::Situation;
use crate::cli::kube::kube;
use crate::cluster::{DEFAULT_IMAGE, Datapath};

/// Options about the gateway and the way to it.
#[derive(Debug, Args)]
pub(crate) struct AccessArgs {
    /// Image of a gateway that has to be installed; one of another image that nobody uses is upgraded to it
    #[arg(long, value_name = "IMAGE", env = "KVPN_GATEWAY_IMAGE", value_parser = NonEmptyStringValueParser::new())]
    image: Option<String>,
    /// Never install or upgrade a gateway
    #[arg(long)]
    no_install: bool,
    /// What carries the tunnel
    #[arg(long, value_enum, default_value_t, value_name = "CARRIER")]
    carrier: Carrier,
    /// Whether the kernel hands over and takes several packets at once
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "OFFLOAD",
        env = "KVPN_OFFLOAD"
    )]
    offload: Offload,
}

impl AccessArgs {
    /// What a session is told; the gateway is looked for as in `connect`, and a busy one is not upgraded.
    pub(crate) fn access(self, situation: &Situation) -> Access {
        Access {
            kube: kube(situation),
            gateway_namespace: None,
            image_is_chosen: self.image.is_some(),
            image: self.image.unwrap_or_else(|| DEFAULT_IMAGE.to_owned()),
            install: !self.no_install,
            upgrade: false,
            datapath: Datapath::Auto,
            carrier: self.carrier,
            offload: self.offload,
        }
    }
}
