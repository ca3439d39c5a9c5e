//! Which ranges of the cluster appear in which others, because another session, with another cluster, has them already.
//!
//! Pure and deterministic: equal findings give equal ranges. Translates nothing: that is the core's `Netmap`.

use ipnetwork::IpNetwork;
use kvpn_client_core::Mapping;
use kvpn_wire::range;

/// Where virtual ranges are taken from, those that laptops are in least first: RFC 6598, RFC 1918, a ULA prefix of kvpn's own beside
/// that of the tunnels.
const POOLS: [&str; 5] = [
    "100.64.0.0/10",
    "172.16.0.0/12",
    "10.0.0.0/8",
    "192.168.0.0/16",
    "fd6b:7670:7000::/36",
];
/// Services of clouds and of Tailscale live there, without a route that tells of them.
const SETTLED: [&str; 1] = ["100.100.0.0/16"];
/// Single addresses are mapped with their neighbours, so that there are few ranges: every packet looks through them.
const NEIGHBOURHOOD_V4: u8 = 24;
const NEIGHBOURHOOD_V6: u8 = 120;
/// Beyond so many, foreign ranges that the cluster is not known to use are left as they are.
const MAX_MAPPINGS: usize = 64;

/// What another session has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Foreign {
    /// What it routes.
    pub(crate) range: IpNetwork,
    /// Its name and context, for the user.
    pub(crate) session: String,
}

/// A range has to appear elsewhere, and there is no room for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the range {range} is routed by the session {session} already, and no private range of that size is free in which it could appear"
)]
pub(crate) struct NoRoom {
    /// The cluster's range.
    pub(crate) range: IpNetwork,
    /// Who has it.
    pub(crate) session: String,
}

/// Chooses virtual ranges for those of `own` that overlap a foreign one, and for foreign ones that `own` does not cover: a name may have
/// an address there. `former` mappings stay as they are; `taken` is used by something else.
///
/// # Errors
///
/// [`NoRoom`] for one of `own`. A foreign range that finds no room is left out.
pub(crate) fn choose(
    own: &[IpNetwork],
    foreign: &[Foreign],
    former: &[Mapping],
    taken: &[IpNetwork],
) -> Result<Vec<Mapping>, NoRoom> {
    let theirs: Vec<IpNetwork> = (foreign.iter())
        .map(|foreign| neighbourhood(foreign.range))
        .collect();
    let own: Vec<IpNetwork> = own.iter().copied().map(neighbourhood).collect();
    let mut space = Space::new([taken, &own, &theirs].concat(), former.to_vec());
    for wanted in clashing(&own, &theirs, former) {
        let is_own = range::any_overlap(&[wanted], &own);
        if (!is_own && space.mappings.len() >= MAX_MAPPINGS) || space.map(wanted) {
            continue;
        }
        let parts = own.iter().filter(|range| range::overlaps(range, &wanted));
        for part in parts {
            space.map_or_parts(*part, &theirs).map_err(|range| NoRoom {
                range,
                session: holder(range, foreign),
            })?;
        }
    }
    Ok(space.mappings)
}

fn holder(range: IpNetwork, foreign: &[Foreign]) -> String {
    let mut foreign = foreign.iter();
    let holder = foreign.find(|foreign| range::overlaps(&neighbourhood(foreign.range), &range));
    holder.map_or_else(String::new, |foreign| foreign.session.clone())
}

/// What needs a virtual range: own ones before foreign ones, the widest first, none inside another. One in whose place programs see
/// another needs one, too.
fn clashing(own: &[IpNetwork], theirs: &[IpNetwork], former: &[Mapping]) -> Vec<IpNetwork> {
    let known: Vec<IpNetwork> = former.iter().map(Mapping::real).collect();
    let own = own.iter().copied();
    let shown: Vec<IpNetwork> = former.iter().map(Mapping::shown).collect();
    let occupied = [theirs, &shown].concat();
    let own: Vec<IpNetwork> = own
        .filter(|range| range::any_overlap(&[*range], &occupied))
        .collect();
    let mut wanted = [own.as_slice(), theirs].concat();
    wanted.retain(|range| !range::any_overlap(&[*range], &known));
    wanted.sort_by_key(|range| (range.prefix(), *range));
    let mut widest: Vec<IpNetwork> = Vec::new();
    for range in wanted {
        if !range::contains(&widest, range.network()) {
            widest.push(range);
        }
    }
    widest.sort_by_key(|range| !range::any_overlap(&[*range], &own));
    widest
}

/// Private addresses, and what of them has a use.
struct Space {
    pools: Vec<IpNetwork>,
    taken: Vec<IpNetwork>,
    mappings: Vec<Mapping>,
}

impl Space {
    fn new(mut taken: Vec<IpNetwork>, mappings: Vec<Mapping>) -> Self {
        taken.extend(
            mappings
                .iter()
                .flat_map(|known| [known.real(), known.shown()]),
        );
        taken.extend(range::tunnel_ranges());
        let mut pools: Vec<IpNetwork> = networks(&POOLS);
        // Who is in a part of a pool may come to be in another, as VPNs do. The order is else as it stands.
        pools.sort_by_key(|pool| range::any_overlap(&[*pool], &taken));
        taken.extend(networks(&SETTLED));
        Self {
            pools,
            taken,
            mappings,
        }
    }

    /// Finds a place for `real`; false when there is none.
    fn map(&mut self, real: IpNetwork) -> bool {
        let pools = self
            .pools
            .iter()
            .filter(|pool| pool.is_ipv4() == real.is_ipv4());
        let mut free = pools.flat_map(|pool| range::subtract(&[*pool], &self.taken));
        let place = free.find(|free| free.prefix() <= real.prefix());
        let shown = place.and_then(|place| IpNetwork::new(place.network(), real.prefix()).ok());
        let Some(mapping) = shown.and_then(|shown| Mapping::new(real, shown)) else {
            return false;
        };
        self.taken.push(mapping.shown());
        self.mappings.push(mapping);
        true
    }

    /// The same for a range that may be too wide as a whole: then for what of it is in `theirs`.
    fn map_or_parts(&mut self, real: IpNetwork, theirs: &[IpNetwork]) -> Result<(), IpNetwork> {
        if !range::any_overlap(&[real], theirs) || self.map(real) {
            return Ok(());
        }
        let mut parts = range::intersect(&[real], theirs).into_iter();
        parts.try_for_each(|part| if self.map(part) { Ok(()) } else { Err(part) })
    }
}

fn networks(texts: &[&str]) -> Vec<IpNetwork> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn neighbourhood(range: IpNetwork) -> IpNetwork {
    let longest = if range.is_ipv4() {
        NEIGHBOURHOOD_V4
    } else {
        NEIGHBOURHOOD_V6
    };
    let wide = IpNetwork::new(range.network(), range.prefix().min(longest));
    let wide = wide.and_then(|wide| IpNetwork::new(wide.network(), wide.prefix()));
    wide.unwrap_or(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(ranges: &[&str]) -> Vec<Foreign> {
        let foreign = |range| Foreign {
            range,
            session: "a".to_owned(),
        };
        networks(ranges).into_iter().map(foreign).collect()
    }

    fn chosen(own: &[&str], theirs: &[&str], taken: &[&str]) -> Vec<(String, String)> {
        let mappings = choose(&networks(own), &foreign(theirs), &[], &networks(taken)).unwrap();
        let text = |mapping: &Mapping| (mapping.real().to_string(), mapping.shown().to_string());
        mappings.iter().map(text).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let pair = |(real, shown): &(&str, &str)| ((*real).to_owned(), (*shown).to_owned());
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn equal_ranges_appear_elsewhere_and_others_where_they_are() {
        assert_eq!(
            chosen(
                &[
                    "10.96.0.0/12",
                    "10.244.0.0/16",
                    "10.9.0.0/16",
                    "fd00:10:96::/112"
                ],
                &["10.96.0.0/12", "10.244.0.0/16", "fd00:10:96::/108"],
                &["192.168.1.0/24"],
            ),
            pairs(&[
                ("10.96.0.0/12", "100.64.0.0/12"),
                ("10.244.0.0/16", "100.80.0.0/16"),
                ("fd00:10:96::/108", "fd6b:7670:7000::/108"),
            ])
        );
    }

    #[test]
    fn nothing_is_mapped_without_another_cluster() {
        assert!(chosen(&["10.96.0.0/12"], &[], &[]).is_empty());
    }

    #[test]
    fn what_the_machine_uses_is_avoided() {
        let theirs = ["10.96.0.0/12"];
        let own = ["10.96.0.0/16"];
        assert_eq!(
            chosen(&own, &theirs, &["100.101.102.103/32"]),
            pairs(&[("10.96.0.0/12", "172.16.0.0/12")]),
            "a VPN lives in 100.64.0.0/10"
        );
        assert_eq!(
            chosen(&own, &theirs, &["100.101.102.103/32", "172.17.0.0/16"]),
            pairs(&[("10.96.0.0/12", "100.64.0.0/12")]),
            "no pool is untouched"
        );
    }

    #[test]
    fn a_foreign_address_takes_its_neighbours_along() {
        assert_eq!(
            chosen(&["10.244.3.7/32"], &["10.244.3.9/32"], &[]),
            pairs(&[("10.244.3.0/24", "100.64.0.0/24")])
        );
    }

    #[test]
    fn a_wide_range_is_mapped_where_it_clashes() {
        assert_eq!(
            chosen(&["10.0.0.0/8"], &["10.96.0.0/12"], &[]),
            pairs(&[("10.96.0.0/12", "100.64.0.0/12")])
        );
        assert_eq!(
            chosen(&["10.96.0.0/12"], &["10.0.0.0/8"], &[]),
            pairs(&[("10.96.0.0/12", "100.64.0.0/12")])
        );
    }

    #[test]
    fn without_room_the_range_and_its_holder_are_named() {
        let (own, theirs) = (networks(&["10.0.0.0/8"]), foreign(&["10.0.0.0/8"]));
        let refused = choose(&own, &theirs, &[], &[]).unwrap_err();
        assert_eq!(
            (refused.range.to_string(), refused.session),
            ("10.0.0.0/8".to_owned(), "a".to_owned())
        );
        assert!(choose(&[], &theirs, &[], &[]).unwrap().is_empty());
    }

    #[test]
    fn what_was_chosen_stays() {
        let own = networks(&["10.96.0.0/12"]);
        let first = choose(&own, &foreign(&["10.96.0.0/12"]), &[], &[]).unwrap();
        let taken = [first[0].shown()];
        assert_eq!(choose(&own, &[], &first, &taken).unwrap(), first);
        let more = choose(
            &networks(&["10.96.0.0/12", "10.244.0.0/16"]),
            &foreign(&["10.96.0.0/12", "10.244.0.0/16"]),
            &first,
            &taken,
        );
        let more = more.unwrap();
        assert_eq!((more.len(), more[0]), (2, first[0]));
    }
}
