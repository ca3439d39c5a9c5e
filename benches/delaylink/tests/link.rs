//! The program and its shell front on a cable between two namespaces that the test makes. Needs root.

#![expect(
    clippy::unwrap_used,
    reason = "the test's own tools panic with the test"
)]

use std::process::{Command, Output};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/link.sh");

/// Two namespaces with a cable between them, gone when dropped.
struct Cable {
    near: String,
    far: String,
}

impl Cable {
    fn new(name: &str) -> Self {
        let id = std::process::id();
        let cable = Self {
            near: format!("kvpn-dl-{name}-near-{id}"),
            far: format!("kvpn-dl-{name}-far-{id}"),
        };
        let (near, far) = (&cable.near, &cable.far);
        for line in [
            format!("netns add {near}"),
            format!("netns add {far}"),
            format!("-n {near} link add eth0 type veth peer name cable netns {far}"),
            format!("-n {near} addr add 10.66.0.1/24 dev eth0"),
            format!("-n {far} addr add 10.66.0.2/24 dev cable"),
            format!("-n {near} link set eth0 up"),
            format!("-n {far} link set cable up"),
        ] {
            succeeds("ip", &line.split(' ').collect::<Vec<_>>());
        }
        cable
    }

    fn link(&self, verb: &str, rest: &[&str]) -> String {
        let mut words = vec![verb, &self.near, "eth0"];
        if verb == "up" {
            words.push(&self.far);
        }
        words.extend(rest);
        let output = Command::new(SCRIPT)
            .args(&words)
            .env("DELAYLINK", env!("CARGO_BIN_EXE_delaylink"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// How many of `count` pings are answered, and after how long on average, in ms.
    fn ping(&self, count: u32) -> (u32, f64) {
        let line = format!(
            "netns exec {} ping -n -q -i 0.01 -W 1 -c {count} 10.66.0.2",
            self.near
        );
        let output = run("ip", &line.split(' ').collect::<Vec<_>>());
        let text = String::from_utf8(output.stdout).unwrap();
        let words: Vec<_> = text.split_whitespace().collect();
        let at = words
            .iter()
            .position(|word| word.starts_with("received"))
            .unwrap();
        // rtt min/avg/max/mdev = 20.067/20.093/20.153/0.024 ms
        let times = text.lines().find_map(|line| line.strip_prefix("rtt "));
        let mean = times.and_then(|line| line.split(" = ").nth(1)?.split('/').nth(1)?.parse().ok());
        (words[at - 1].parse().unwrap(), mean.unwrap_or_default())
    }

    fn addresses(&self) -> String {
        // Without the link's state: the kernel tells that up to a second late.
        let output = run("ip", &["-n", &self.far, "-o", "-4", "addr"]);
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.link("down", &[]);
        for namespace in [&self.near, &self.far] {
            run("ip", &["netns", "del", namespace]);
        }
    }
}

fn run(program: &str, words: &[&str]) -> Output {
    Command::new(program).args(words).output().unwrap()
}

fn succeeds(program: &str, words: &[&str]) {
    let output = run(program, words);
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
}

fn is_root() -> bool {
    run("id", &["-u"]).stdout == b"0\n"
}

#[test]
fn frames_are_delayed_lost_and_cut_and_all_is_put_back() {
    if !is_root() {
        return eprintln!("skipped: namespaces need root");
    }
    let cable = Cable::new("all");
    let (answered, fast) = cable.ping(10);
    assert!(answered == 10 && fast < 5.0, "{answered} {fast}");
    let before = cable.addresses();

    cable.link("up", &["delay=10ms"]);
    let (answered, mean) = cable.ping(20);
    assert_eq!(answered, 20);
    assert!(
        (20.0..25.0).contains(&mean),
        "{mean} ms over 10 ms each way"
    );

    cable.link("set", &["delay=0", "up.loss=30%"]);
    let (answered, _) = cable.ping(300);
    assert!(
        (150..270).contains(&answered),
        "{answered} of 300 at 30 % loss"
    );

    let state = cable.link("set", &["loss=0", "cut=1"]);
    assert!(state.contains("cut=1"), "{state}");
    assert_eq!(cable.ping(3).0, 0);

    cable.link("down", &[]);
    assert_eq!(cable.addresses(), before);
    assert_eq!(cable.ping(5).0, 5);
}

#[test]
fn duplicates_arrive_twice() {
    if !is_root() {
        return eprintln!("skipped: namespaces need root");
    }
    let cable = Cable::new("dup");
    cable.link("up", &["up.dup=100%"]);
    cable.ping(10);
    let stat = cable.link("stat", &[]);
    let up = stat.lines().next().unwrap();
    let figure = |name: &str| -> u64 {
        let word = up
            .split_whitespace()
            .find_map(|word| word.strip_prefix(name));
        word.unwrap().parse().unwrap()
    };
    assert_eq!(figure("tx="), 2 * figure("rx="), "{up}");
}
