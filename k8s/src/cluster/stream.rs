//! The client that port-forwards go through: kube's, but without Nagle's algorithm, and read ahead.
//!
//! kube offers no switch for it, and a tunnel's small packets each waited for the acknowledgement of the one before:
//! 40 ms. Only a proxy that is itself spoken to by TLS is left to kube's own connectors.

mod buffered;

use super::proxy;
use buffered::Connector;
use http::Uri;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{
            Connection, HttpConnector,
            proxy::{SocksV5, Tunnel},
        },
    },
    rt::TokioExecutor,
};
use kube::client::{ClientBuilder, ConfigExt as _};
use std::time::Duration;
use tower::{BoxError, Service, ServiceBuilder};

/// A client for streams; `None` when kube's own has to do.
///
/// # Errors
/// Certificates, keys or headers of the configuration that cannot be used.
pub(super) fn client(config: &kube::Config) -> Result<Option<kube::Client>, kube::Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(config.connect_timeout);
    tcp.set_keepalive(Some(Duration::from_secs(15)));
    let tcp = Connector(tcp);
    let Some(proxy) = config.proxy_url.clone() else {
        return over(config, tcp).map(Some);
    };
    match proxy.scheme_str() {
        Some("http") => {
            let auth = proxy::basic_auth(&proxy);
            let tunnel = Tunnel::new(proxy, tcp);
            let tunnel = match auth {
                Some(auth) => tunnel.with_auth(auth),
                None => tunnel,
            };
            over(config, tunnel).map(Some)
        }
        Some("socks5") => over(config, SocksV5::new(proxy, tcp)).map(Some),
        Some(_) | None => Ok(None),
    }
}

fn over<C>(config: &kube::Config, connector: C) -> Result<kube::Client, kube::Error>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Connection + hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(Client::builder(TokioExecutor::new()).build(connector));
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}
