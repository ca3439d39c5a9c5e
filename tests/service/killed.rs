//! kill -9 of any process of an installed kvpn at random moments of a session: nothing is left of it, or it goes on, and the
//! next one works.

use std::time::Duration;

use kvpn::desk::{Desk, Names};
use kvpn::settings::Settings;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

const VICTIMS: [&str; 3] = ["helper --listen", "helper --serve", "agent"];
const PHASES: [Phase; 3] = [Phase::Connecting, Phase::Connected, Phase::Disconnecting];
const ROUNDS: u32 = 10;

/// What a session is doing, and for about how long.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Connecting,
    Connected,
    Disconnecting,
}

impl Phase {
    fn length(self) -> Duration {
        Duration::from_millis(match self {
            Self::Connecting => 700,
            Self::Connected => 1000,
            Self::Disconnecting => 150,
        })
    }

    /// Does it to its end.
    fn run(self, desk: &Desk) {
        match self {
            Self::Connecting => desk.connect(),
            Self::Connected => desk.keep_asking(),
            Self::Disconnecting => desk.ana("kvpn disconnect"),
        };
    }
}

#[test]
fn anybody_at_any_moment_with_systemd_resolved() {
    kill_at_random_moments("random-resolved", Names::Resolved);
}

#[test]
fn anybody_at_any_moment_with_a_plain_resolv_conf() {
    kill_at_random_moments("random-file", Names::File);
}

fn kill_at_random_moments(name: &str, names: Names) {
    let desk = Desk::boot(name, names);
    let seed = Settings::read().seed.unwrap_or_else(rand::random);
    println!("KVPN_TEST_SEED={seed} repeats these moments");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..ROUNDS {
        let victim = VICTIMS.choose(&mut random).expect("there are some");
        let phase = *PHASES.choose(&mut random).expect("there are some");
        let moment = random.random_range(Duration::ZERO..phase.length());
        let told =
            format!("round {round} of seed {seed}: {victim} killed {moment:?} into {phase:?}");
        println!("{told}");
        if !matches!(phase, Phase::Connecting) {
            desk.connects(&told);
        }
        std::thread::scope(|scope| {
            scope.spawn(|| phase.run(&desk));
            pause(moment);
            desk.kill(victim);
        });
        if !desk.is_idle() {
            // Nobody was there to be killed, or it was not needed any more: then the session works.
            assert_eq!(desk.ask().code, 0, "{told}: {}", desk.difference());
            desk.ana("kvpn disconnect").ok();
            desk.assert_idle(&told);
        }
        desk.connects(&told);
        desk.ana("kvpn disconnect").ok();
        desk.assert_idle(&told);
        assert_eq!(desk.sockets(), "", "{told}");
    }
    desk.uninstall();
}

#[expect(
    clippy::disallowed_methods,
    reason = "the moment is the test's input, not a condition"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
