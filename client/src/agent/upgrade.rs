//! Brings a gateway to the version of this program, or to the image that the user names, where that disturbs
//! nobody; everything else that an admin chose at install stays.

use kvpn_k8s::{Cluster, GatewayPod, GatewaySpec, Purpose};

use crate::agent::board::Board;
use crate::agent::gateway;
use crate::agent::message::Access;
use crate::cluster::{self, Datapath, VERSION};

/// How a gateway differs from what a command wants.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    /// In words: "the gateway … is version 0.1.0".
    words: String,
    /// The image it should have; `None` when nobody can say, because it was chosen freely.
    image: Option<String>,
}

/// The gateway, upgraded if it has to be and may be; a note says why not otherwise.
///
/// # Errors
///
/// The upgrade was begun and failed.
pub(crate) async fn where_due(
    cluster: &Cluster,
    access: &Access,
    board: &Board,
    found: GatewayPod,
) -> anyhow::Result<GatewayPod> {
    let Some(difference) = difference(access, &found) else {
        return Ok(found);
    };
    let subject = format!("the gateway {}/{}", found.namespace, found.name);
    match spec(cluster, access, &found, &difference).await? {
        Ok(spec) => {
            board.step(format!("upgrading {subject}, which {}", difference.words));
            gateway::apply(cluster, &spec, board).await
        }
        Err(why_not) => {
            board.note(format!(
                "{subject} {}, and is left so: {why_not}",
                difference.words
            ));
            Ok(found)
        }
    }
}

/// What to upgrade to, or why not.
async fn spec(
    cluster: &Cluster,
    access: &Access,
    found: &GatewayPod,
    difference: &Difference,
) -> anyhow::Result<Result<GatewaySpec, String>> {
    if !access.install {
        return Ok(Err("--no-install was given".to_owned()));
    }
    let Some(image) = &difference.image else {
        return Ok(Err(format!(
            "its image {} does not tell which one belongs to version {VERSION}; name it with --image",
            found.image
        )));
    };
    if !access.upgrade && found.ready {
        match cluster::sessions(cluster, found).await {
            Some(0) => {}
            Some(count) => {
                return Ok(Err(format!(
                    "it has {count} session(s), which --upgrade would interrupt"
                )));
            }
            None => {
                return Ok(Err(
                    "it does not say whether it is in use; --upgrade does it all the same"
                        .to_owned(),
                ));
            }
        }
    }
    let missing = cluster
        .preflight(&found.namespace, Purpose::Install)
        .await?;
    if !missing.is_empty() {
        return Ok(Err(format!(
            "you may not upgrade it: {}",
            gateway::list(&missing)
        )));
    }
    let Some(installed) = cluster.installed_spec(&found.namespace).await? else {
        return Ok(Err("kvpn did not install it".to_owned()));
    };
    let datapath = if access.datapath == Datapath::Auto {
        installed.datapath
    } else {
        access.datapath.into()
    };
    Ok(Ok(GatewaySpec {
        image: image.clone(),
        version: VERSION.to_owned(),
        datapath,
        ..installed
    }))
}

/// How the gateway differs from what this command wants; `None` when it does not, or is newer.
fn difference(access: &Access, found: &GatewayPod) -> Option<Difference> {
    if access.image_is_chosen {
        let words = format!("runs the image {}", found.image);
        return (found.image != access.image).then(|| Difference {
            words,
            image: Some(access.image.clone()),
        });
    }
    let version = found
        .version
        .as_deref()
        .filter(|version| is_older(version, VERSION))?;
    Some(Difference {
        words: format!("is version {version}"),
        image: image_of(&found.image, version, VERSION),
    })
}

/// The image of another version from the same place, when the tag is the version.
fn image_of(image: &str, version: &str, wanted: &str) -> Option<String> {
    let place = image.strip_suffix(version)?;
    place.ends_with(':').then(|| format!("{place}{wanted}"))
}

/// Whether the first `MAJOR.MINOR.PATCH` is lower. What is no such version is left alone.
fn is_older(one: &str, other: &str) -> bool {
    let parse = |text: &str| -> Option<[u64; 3]> {
        let core = text.trim_start_matches('v').split(['-', '+']).next()?;
        let numbers: Vec<u64> = core
            .split('.')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        numbers.try_into().ok()
    };
    matches!((parse(one), parse(other)), (Some(one), Some(other)) if one < other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(is_older("0.9.1", "0.10.0"));
        assert!(!is_older("0.10.0", "0.9.1"));
        assert!(!is_older("0.1.0", "0.1.0"));
        assert!(!is_older("dev", "0.1.0"));
        assert!(is_older("v0.1.0-rc1", "0.2.0"));
    }

    #[test]
    fn the_image_comes_from_where_the_old_one_came() {
        assert_eq!(
            image_of("corp.example/kvpn/gateway:0.1.0", "0.1.0", "0.2.0").unwrap(),
            "corp.example/kvpn/gateway:0.2.0"
        );
        assert_eq!(
            image_of("corp.example/kvpn/gateway:stable", "0.1.0", "0.2.0"),
            None
        );
        assert_eq!(
            image_of("corp.example/kvpn/gateway:v0.1.0", "0.1.0", "0.2.0"),
            None
        );
    }
}
