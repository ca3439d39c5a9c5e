//! The file by which browsers choose: cluster names through the proxy, everything else directly.

use std::net::SocketAddr;

use kvpn_client_core::Names;

/// The media type that browsers ask for.
pub(super) const MEDIA_TYPE: &str = "application/x-ns-proxy-autoconfig";

/// The file for a proxy at `proxy`.
pub(super) fn file(proxy: SocketAddr, names: &Names) -> String {
    let domains: Vec<String> = names.routing_domains();
    let domains = serde_json::Value::from(domains);
    format!(
        r#"function FindProxyForURL(url, host) {{
  var cluster = "PROXY {proxy}";
  var domains = {domains};
  host = host.toLowerCase().replace(/\.$/, "");
  if (isPlainHostName(host)) {{
    return host === "localhost" ? "DIRECT" : cluster;
  }}
  for (var i = 0; i < domains.length; i++) {{
    if (dnsDomainIs(host, "." + domains[i])) {{
      return cluster;
    }}
  }}
  return "DIRECT";
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_the_proxy_and_the_clusters_domains() {
        let names = Names {
            namespace: "orders".to_owned(),
            domain: "cluster.local".to_owned(),
            namespaces: vec!["orders".to_owned(), "dev".to_owned(), "a\"b".to_owned()],
            own_domain: None,
            reverse: Vec::new(),
        };
        let file = file("127.0.0.1:3128".parse().unwrap(), &names);
        assert!(file.contains(r#""PROXY 127.0.0.1:3128""#), "{file}");
        let domains = r#"["cluster.local","svc","pod","a\"b","orders"]"#;
        assert!(file.contains(domains), "`dev` is public: {file}");
    }
}
