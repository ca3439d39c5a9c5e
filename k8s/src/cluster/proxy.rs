//! Which proxy leads to the API server: the cluster's `proxy-url`, else HTTPS_PROXY unless NO_PROXY names the server.
//!
//! Own rule instead of kube's, which matches NO_PROXY against the proxy's own name (5.0) and refuses lists with an empty item.

use crate::Error;
use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;

/// The proxy for `server`, if any. `configured` is the kubeconfig's `proxy-url`, which NO_PROXY does not overrule (as in kubectl).
pub(super) fn choose(
    server: &Uri,
    configured: Option<&str>,
    https_proxy: Option<&str>,
    no_proxy: Option<&str>,
) -> Result<Option<Uri>, Error> {
    if let Some(proxy) = configured.filter(|proxy| !proxy.is_empty()) {
        return parse("proxy-url", proxy).map(Some);
    }
    let Some(proxy) = https_proxy.filter(|proxy| !proxy.is_empty()) else {
        return Ok(None);
    };
    let uri = parse("HTTPS_PROXY", proxy)?;
    let matcher = Matcher::builder()
        .all(proxy)
        .no(no_proxy.unwrap_or_default())
        .build();
    let is_https = server.scheme_str() == Some("https");
    Ok((is_https && matcher.intercept(server).is_some()).then_some(uri))
}

/// What a proxy's URL says of user and password, as a `Proxy-Authorization` header.
pub(super) fn basic_auth(proxy: &Uri) -> Option<HeaderValue> {
    let matcher = Matcher::builder().all(proxy.to_string()).build();
    // Any destination will do.
    let intercept = matcher.intercept(&Uri::from_static("https://server"))?;
    intercept.basic_auth().cloned()
}

/// Host (without brackets) and port of a URL.
pub(super) fn endpoint(uri: &Uri) -> Option<(&str, u16)> {
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or_else(|| match uri.scheme_str() {
        Some("http") => 80,
        Some("socks5") => 1080,
        Some(_) | None => 443,
    });
    Some((host, port))
}

fn parse(origin: &str, proxy: &str) -> Result<Uri, Error> {
    // curl and kubectl take `proxy:3128` as http, and socks5h as a socks5 that resolves names (which kube's does).
    let text = match proxy.split_once("://") {
        None => format!("http://{proxy}"),
        Some(("socks5h", rest)) => format!("socks5://{rest}"),
        Some(_) => proxy.to_owned(),
    };
    text.parse().map_err(|error| Error::Config {
        why: format!("{origin} is no URL: {error}"),
        hint: Some("expected something like http://proxy.example:3128".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(
        configured: Option<&str>,
        https_proxy: Option<&str>,
        no_proxy: Option<&str>,
    ) -> Option<String> {
        let server = Uri::from_static("https://api.corp.example:6443");
        choose(&server, configured, https_proxy, no_proxy)
            .unwrap()
            .map(|uri| uri.to_string())
    }

    #[test]
    fn proxy_url_wins_over_everything() {
        let proxy = chosen(
            Some("socks5://127.0.0.1:1080"),
            Some("http://other:1"),
            Some("*"),
        );
        assert_eq!(proxy.as_deref(), Some("socks5://127.0.0.1:1080/"));
    }

    #[test]
    fn the_environment_counts_unless_no_proxy_names_the_server() {
        let proxy = Some("http://user:secret@proxy:3128");
        assert_eq!(
            chosen(None, proxy, None).as_deref(),
            Some("http://user:secret@proxy:3128/")
        );
        assert_eq!(
            chosen(None, proxy, Some("other.example")).as_deref(),
            Some("http://user:secret@proxy:3128/")
        );
        assert_eq!(chosen(None, proxy, Some("localhost,.corp.example,")), None);
        assert_eq!(chosen(None, proxy, Some("*")), None);
        assert_eq!(chosen(None, Some(""), None), None);
    }

    #[test]
    fn ranges_in_no_proxy_match_addresses() {
        let server = Uri::from_static("https://172.31.2.11:6443");
        assert_eq!(
            choose(
                &server,
                None,
                Some("http://proxy:3128"),
                Some("172.16.0.0/12")
            )
            .unwrap(),
            None
        );
    }

    #[test]
    fn a_proxy_without_scheme_is_http() {
        assert_eq!(
            chosen(None, Some("proxy:3128"), None).as_deref(),
            Some("http://proxy:3128/")
        );
        assert_eq!(
            chosen(Some("socks5h://p:1080"), None, None).as_deref(),
            Some("socks5://p:1080/")
        );
        assert!(choose(&Uri::from_static("https://x"), Some("http://["), None, None).is_err());
    }

    #[test]
    fn a_proxys_password_is_decoded() {
        let auth = basic_auth(&Uri::from_static("http://ana:p%40ss@proxy:3128")).unwrap();
        assert_eq!(auth, "Basic YW5hOnBAc3M=");
        assert_eq!(basic_auth(&Uri::from_static("http://proxy:3128")), None);
    }

    #[test]
    fn endpoints_have_default_ports_and_no_brackets() {
        assert_eq!(
            endpoint(&Uri::from_static("https://[fd00::1]:6443/k8s/x")),
            Some(("fd00::1", 6443))
        );
        assert_eq!(
            endpoint(&Uri::from_static("https://api")),
            Some(("api", 443))
        );
        assert_eq!(endpoint(&Uri::from_static("http://api")), Some(("api", 80)));
    }
}
