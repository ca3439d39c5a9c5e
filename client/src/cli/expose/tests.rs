//! What the words of `kvpn expose` mean.

use kvpn_wire::exposure::{PortMapping, Protocol, ServicePort};

use super::arguments::split;

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn ports_come_before_as_and_the_service_after_it() {
    let (ports, service) = split(&words("8080:80 9090:9090/udp 8443:https as web")).unwrap();
    assert_eq!(service, "web");
    let [http, udp, https] = ports.as_slice() else {
        panic!("{ports:?}")
    };
    assert_eq!(http, &"8080:80".parse::<PortMapping>().unwrap());
    assert_eq!((udp.laptop, udp.protocol), (9090, Some(Protocol::Udp)));
    assert_eq!(https.service, Some(ServicePort::Name("https".to_owned())));
}

#[test]
fn other_words_are_refused_with_the_form() {
    for line in [
        "8080",
        "as web",
        "8080 web",
        "8080 as",
        "8080 AS web",
        "8080 as web shop",
    ] {
        let error = split(&words(line)).unwrap_err();
        assert!(error.contains("as SERVICE"), "{line}: {error}");
    }
    for (line, said) in [
        ("x as web", "`x`"),
        ("0 as web", "`0`"),
        ("8080 as Web", "`Web`"),
        ("8080 as a/b", "`a/b`"),
        ("8080:80 8080:80 as web", "twice"),
    ] {
        let error = split(&words(line)).unwrap_err();
        assert!(error.contains(said), "{line}: {error}");
    }
}
