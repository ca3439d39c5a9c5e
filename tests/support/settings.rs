//! What the environment says about a test run, read in this one place.

use std::path::PathBuf;

/// Where the programs under test are, and which cluster they meet.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The client (`KVPN_BIN`); the one that `make build` makes unless said.
    pub client: PathBuf,
    /// The gateway's image as a tar (`KVPN_IMAGE_TAR`); the one that `make image` makes unless said.
    pub image_tar: PathBuf,
    /// A cluster of the tester's own (`KVPN_TEST_KUBECONFIG`), which has the gateway's image, `kvpn.test/echo:1`
    /// and the manifests of tests/cluster. Without it the test cluster is started.
    pub kubeconfig: Option<PathBuf>,
    /// How much the tests of bulk transfer move each way, in bytes (`KVPN_TEST_BYTES`); 1 GiB unless said.
    pub bulk: u64,
    /// What random moments are drawn with (`KVPN_TEST_SEED`); another one each run unless said.
    pub seed: Option<u64>,
}

impl Settings {
    /// Reads the environment.
    ///
    /// # Panics
    ///
    /// When `KVPN_TEST_BYTES` or `KVPN_TEST_SEED` is not a number.
    pub fn read() -> Self {
        let built = checkout().join("target");
        Self {
            client: variable("KVPN_BIN").map_or_else(|| built.join("debug/kvpn"), PathBuf::from),
            image_tar: variable("KVPN_IMAGE_TAR")
                .map_or_else(|| built.join("kvpn-gateway.tar"), PathBuf::from),
            kubeconfig: variable("KVPN_TEST_KUBECONFIG").map(PathBuf::from),
            bulk: variable("KVPN_TEST_BYTES").map_or(1 << 30, |text| {
                text.parse().expect("KVPN_TEST_BYTES is a number")
            }),
            seed: variable("KVPN_TEST_SEED")
                .map(|text| text.parse().expect("KVPN_TEST_SEED is a number")),
        }
    }
}

/// The folder that the project was checked out into.
pub fn checkout() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the tests' one door for configuration; they have no command line"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
