//! Turns a failed request into an [`Error`]: the only place that looks into `kube::Error`.

use super::Error;
use crate::cluster::call::Call;
use kube::{client::UpgradeConnectionError, core::Status};

/// Who asked whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parties<'a> {
    /// The API server's URL.
    pub(crate) server: &'a str,
    /// The user, in words.
    pub(crate) user: &'a str,
}

/// The error of a request that failed.
pub(crate) fn request_error(error: kube::Error, call: &Call, parties: Parties<'_>) -> Error {
    match error {
        kube::Error::Api(status) => status_error(&status, call, parties),
        kube::Error::Auth(error) => unauthorized(parties, innermost(&error)),
        kube::Error::UpgradeConnection(error) => upgrade_error(&error, call),
        kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => {
            Error::Unreachable {
                server: parties.server.to_owned(),
                why: innermost(&error),
            }
        }
        other => Error::Api {
            call: call_text(call),
            status: 0,
            message: innermost(&other),
        },
    }
}

/// The error of a request that took longer than it may.
pub(crate) fn timeout_error(call: &Call, parties: Parties<'_>) -> Error {
    let why = format!(
        "no answer to {} within {} s",
        call_text(call),
        call.limit.as_secs()
    );
    Error::Unreachable {
        server: parties.server.to_owned(),
        why,
    }
}

/// The error that an HTTP status and its `metav1.Status` body mean.
pub(crate) fn status_error(status: &Status, call: &Call, parties: Parties<'_>) -> Error {
    let message = status.message.clone();
    match status.code {
        401 => unauthorized(parties, message),
        403 if message.contains("\"system:anonymous\"") => unauthorized(parties, message),
        403 if is_authorization(&message) => Error::Forbidden {
            verb: call.verb.to_owned(),
            resource: call.resource.to_owned(),
            namespace: call.namespace.clone(),
            message,
        },
        404 => Error::NotFound {
            what: missing_object(status, call),
        },
        409 => Error::Conflict {
            object: call.object(),
            message,
        },
        400 | 403 | 413 | 422 => Error::Rejected {
            object: call.object(),
            message,
        },
        code => Error::Api {
            call: call_text(call),
            status: code,
            message,
        },
    }
}

/// Whether a 403 comes from authorization; admission (quota, Pod Security) answers 403 too.
fn is_authorization(message: &str) -> bool {
    message.contains(" cannot ") || message.contains("attempting to grant RBAC permissions")
}

fn missing_object(status: &Status, call: &Call) -> String {
    let details = status.details.as_ref();
    match (
        details.filter(|details| details.kind == "namespaces"),
        &call.namespace,
    ) {
        (Some(details), _) if !details.name.is_empty() => format!("namespace {}", details.name),
        (Some(_), Some(namespace)) => format!("namespace {namespace}"),
        (Some(_) | None, _) => call.object(),
    }
}

fn unauthorized(parties: Parties<'_>, message: String) -> Error {
    Error::Unauthorized {
        server: parties.server.to_owned(),
        user: parties.user.to_owned(),
        message,
    }
}

fn upgrade_error(error: &UpgradeConnectionError, call: &Call) -> Error {
    let message = format!("the WebSocket upgrade did not pass: {}", innermost(error));
    Error::Api {
        call: call_text(call),
        status: 0,
        message,
    }
}

fn call_text(call: &Call) -> String {
    format!("{} {}", call.verb, call.object())
}

/// The text of the last error in the chain: the others only say "request failed" in other words.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// What to do about an object that admission refused.
pub(crate) fn rejection_hint(message: &str) -> Option<String> {
    let hint = if message.contains("exceeded quota") || message.contains("failed quota") {
        "free some of the namespace's ResourceQuota, or choose another namespace with --gateway-namespace"
    } else if message.contains("violates PodSecurity") {
        "the namespace's Pod Security level forbids this pod; --datapath userspace passes the level `restricted`"
    } else if message.contains("being terminated") {
        "the namespace is being deleted: wait until it is gone, or choose another"
    } else {
        return None;
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::response::StatusDetails;

    const PARTIES: Parties<'static> = Parties {
        server: "https://api:6443",
        user: "ana (token)",
    };

    fn classify(code: u16, message: &str) -> Error {
        let status = Status::failure(message, "").with_code(code);
        status_error(&status, &Call::namespaced("list", "pods", "demo"), PARTIES)
    }

    #[test]
    fn a_missing_right_names_verb_resource_and_namespace() {
        let error = classify(
            403,
            r#"pods is forbidden: User "ana" cannot list resource "pods" in API group "" in the namespace "demo""#,
        );
        assert_eq!(
            error.to_string(),
            "not permitted: list pods in namespace demo"
        );
        assert_eq!(error.exit_code(), 4);
        assert!(
            error
                .hint()
                .unwrap()
                .contains("kubectl auth can-i list pods -n demo")
        );
    }

    #[test]
    fn a_quota_is_not_a_missing_right() {
        let error = classify(403, r#"pods "web-0" is forbidden: exceeded quota: small"#);
        assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains("ResourceQuota"));
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn nobody_and_expired_credentials_are_unauthorized() {
        for error in [
            classify(401, "Unauthorized"),
            classify(
                403,
                r#"forbidden: User "system:anonymous" cannot get path "/version""#,
            ),
        ] {
            assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
            assert!(error.to_string().contains("ana (token)"));
            assert!(error.hint().unwrap().contains("log in again"));
        }
    }

    #[test]
    fn a_missing_namespace_is_named() {
        let details: StatusDetails =
            serde_json::from_str(r#"{"kind":"namespaces","name":"demo"}"#).unwrap();
        let status = Status::failure("not found", "NotFound")
            .with_code(404)
            .with_details(details);
        let error = status_error(
            &status,
            &Call::namespaced("create", "services", "demo"),
            PARTIES,
        );
        assert_eq!(error.to_string(), "namespace demo was not found");
        assert!(
            error
                .hint()
                .unwrap()
                .contains("kubectl create namespace demo")
        );
    }

    #[test]
    fn other_statuses_keep_their_code() {
        assert!(matches!(classify(404, "x"), Error::NotFound { .. }));
        assert!(matches!(classify(409, "x"), Error::Conflict { .. }));
        assert!(matches!(
            classify(503, "busy"),
            Error::Api { status: 503, .. }
        ));
    }

    #[test]
    fn a_slow_server_counts_as_unreachable() {
        let error = timeout_error(&Call::cluster("get", "version"), PARTIES);
        assert_eq!(error.exit_code(), 5);
        assert!(error.to_string().contains("https://api:6443"));
    }
}
