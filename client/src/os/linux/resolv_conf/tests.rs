//! The file comes back after an orderly end and after a crash at any point, and others' changes are respected.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use futures::FutureExt;
use tempfile::TempDir;

use super::{Before, ResolvConf, Saved, orphaned, text};
use crate::os::linux::DnsUndo;
use crate::os::{Dns, DnsConfig, Record, Taken};

const ORIGINAL: &[u8] =
    b"# by hand \xff\ndomain old.example\nsearch corp.example\nnameserver 192.0.2.53\n\
    nameserver 2001:db8::53\noptions edns0 timeout:1\n\n";
const SESSION: &str = "1-2-abc";

struct Machine {
    folder: TempDir,
    /// Everything that was recorded, in order: what the journal would hold at each moment.
    recorded: Vec<Saved>,
}

impl Machine {
    fn with_file() -> Self {
        let machine = Self::empty();
        fs::write(machine.path(), ORIGINAL).unwrap();
        machine
    }

    fn empty() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            recorded: Vec::new(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("resolv.conf")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn content(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    fn open(&self) -> anyhow::Result<ResolvConf> {
        ResolvConf::open(self.path(), &self.state(), SESSION)
    }

    fn set(&mut self, backend: &mut ResolvConf, dns: &DnsConfig) -> Vec<String> {
        let recorded = &mut self.recorded;
        let mut record = |undo: &DnsUndo| {
            recorded.extend(saved(undo));
            Ok(())
        };
        backend
            .set(dns, Record(&mut record))
            .now_or_never()
            .unwrap()
            .unwrap()
    }

    fn mend(&mut self, backend: &mut ResolvConf) -> bool {
        let recorded = &mut self.recorded;
        let mut record = |undo: &DnsUndo| {
            recorded.extend(saved(undo));
            Ok(())
        };
        let mended = backend.mend(Record(&mut record)).now_or_never();
        mended.unwrap().unwrap()
    }

    fn leftovers(&self) -> Vec<String> {
        let names = |folder: &Path| -> Vec<String> {
            let entries = fs::read_dir(folder).into_iter().flatten();
            entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        };
        let mut left = names(self.folder.path());
        left.retain(|name| name.contains("kvpn"));
        left.extend(names(&self.state()));
        left
    }
}

fn saved(undo: &DnsUndo) -> Option<Saved> {
    match undo {
        DnsUndo::ResolvConf(saved) => Some(saved.clone()),
        DnsUndo::Openresolv(_) => None,
    }
}

fn cluster() -> DnsConfig {
    DnsConfig {
        servers: vec![
            "198.19.0.3".parse().unwrap(),
            "fd6b:7670:6e00::3".parse().unwrap(),
        ],
        search: vec!["prod.svc.cluster.local".into(), "svc.cluster.local".into()],
        routing: vec!["cluster.local".into()],
    }
}

#[test]
fn the_written_file_sends_all_names_to_the_stub_and_keeps_search_and_options() {
    let mut machine = Machine::with_file();
    let mut backend = machine.open().unwrap();
    assert_eq!(machine.set(&mut backend, &cluster()), Vec::<String>::new());
    let written = String::from_utf8(machine.content()).unwrap();
    let lines: Vec<_> = written
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert_eq!(
        lines,
        [
            "search prod.svc.cluster.local svc.cluster.local corp.example",
            "nameserver 198.19.0.3",
            "nameserver fd6b:7670:6e00::3",
            "options edns0 timeout:1"
        ]
    );
    assert_eq!(text::session_of(written.as_bytes()), Some(SESSION));
    let upstreams: [SocketAddr; 2] = [
        "192.0.2.53:53".parse().unwrap(),
        "[2001:db8::53]:53".parse().unwrap(),
    ];
    assert_eq!(backend.upstreams(), upstreams);
}

#[test]
fn a_regular_file_keeps_its_inode_and_comes_back_byte_for_byte() {
    let mut machine = Machine::with_file();
    let inode = fs::metadata(machine.path()).unwrap().ino();
    let mut backend = machine.open().unwrap();
    machine.set(&mut backend, &cluster());
    assert_eq!(
        backend.revert().now_or_never().unwrap().unwrap(),
        Vec::<String>::new()
    );
    assert_eq!(machine.content(), ORIGINAL);
    assert_eq!(fs::metadata(machine.path()).unwrap().ino(), inode);
    assert_eq!(machine.leftovers(), Vec::<String>::new());
}

#[test]
fn a_link_comes_back_as_a_link_and_its_target_is_never_written() {
    let mut machine = Machine::empty();
    let target = machine.folder.path().join("stub-resolv.conf");
    fs::write(&target, ORIGINAL).unwrap();
    symlink("stub-resolv.conf", machine.path()).unwrap();
    let mut backend = machine.open().unwrap();
    assert_eq!(backend.upstreams().len(), 2);
    machine.set(&mut backend, &cluster());
    assert!(fs::symlink_metadata(machine.path()).unwrap().is_file());
    assert_eq!(fs::read(&target).unwrap(), ORIGINAL);
    backend.revert().now_or_never().unwrap().unwrap();
    assert_eq!(
        fs::read_link(machine.path()).unwrap(),
        Path::new("stub-resolv.conf")
    );
    assert_eq!(machine.leftovers(), Vec::<String>::new());
}

#[test]
fn a_dangling_link_and_a_missing_file_come_back_too() {
    let mut machine = Machine::empty();
    symlink("/nowhere/resolv.conf", machine.path()).unwrap();
    let mut backend = machine.open().unwrap();
    assert_eq!(backend.upstreams(), ["127.0.0.1:53".parse().unwrap()]);
    machine.set(&mut backend, &cluster());
    backend.revert().now_or_never().unwrap().unwrap();
    assert_eq!(
        fs::read_link(machine.path()).unwrap(),
        Path::new("/nowhere/resolv.conf")
    );

    fs::remove_file(machine.path()).unwrap();
    let mut backend = machine.open().unwrap();
    machine.set(&mut backend, &cluster());
    assert!(machine.path().exists());
    backend.revert().now_or_never().unwrap().unwrap();
    assert!(!machine.path().exists());
}

#[test]
fn what_others_wrote_meanwhile_stays_and_is_told() {
    let mut machine = Machine::with_file();
    let mut backend = machine.open().unwrap();
    machine.set(&mut backend, &cluster());
    fs::write(machine.path(), "nameserver 203.0.113.1\n").unwrap();
    let told = backend.revert().now_or_never().unwrap().unwrap();
    assert!(told[0].contains("left as it is"), "{told:?}");
    assert_eq!(machine.content(), b"nameserver 203.0.113.1\n");
    assert_eq!(machine.leftovers(), Vec::<String>::new());
}

#[test]
fn what_others_wrote_meanwhile_becomes_the_file_before() {
    let mut machine = Machine::with_file();
    let mut backend = machine.open().unwrap();
    machine.set(&mut backend, &cluster());
    assert!(!machine.mend(&mut backend), "it stands");
    // They began with what they found, our stub.
    let theirs = b"search home\nnameserver 198.19.0.3\nnameserver 203.0.113.1\n";
    fs::remove_file(machine.path()).unwrap();
    fs::write(machine.path(), theirs).unwrap();
    assert!(machine.mend(&mut backend));
    let ours = String::from_utf8(machine.content()).unwrap();
    assert!(
        ours.contains("\nsearch prod.svc.cluster.local svc.cluster.local home\n"),
        "{ours}"
    );
    assert_eq!(backend.upstreams(), ["203.0.113.1:53".parse().unwrap()]);
    assert!(!machine.mend(&mut backend), "it stands again");
    // Whoever sets names meanwhile does not wait for that.
    fs::write(machine.path(), theirs).unwrap();
    machine.set(&mut backend, &cluster());
    assert_eq!(machine.content(), ours.as_bytes());
    backend.revert().now_or_never().unwrap().unwrap();
    assert_eq!(machine.content(), theirs);
    assert_eq!(machine.leftovers(), Vec::<String>::new());
}

#[test]
fn a_file_that_became_a_link_or_was_removed_is_followed_too() {
    let mut machine = Machine::with_file();
    let target = machine.folder.path().join("run");
    fs::write(&target, "nameserver 203.0.113.1\n").unwrap();
    let mut backend = machine.open().unwrap();
    machine.set(&mut backend, &cluster());
    fs::remove_file(machine.path()).unwrap();
    symlink("run", machine.path()).unwrap();
    assert!(machine.mend(&mut backend));
    assert_eq!(backend.upstreams(), ["203.0.113.1:53".parse().unwrap()]);
    fs::write(&target, "search lan\nnameserver 203.0.113.2\n").unwrap();
    assert!(
        !machine.mend(&mut backend),
        "only the link's target changed"
    );
    assert_eq!(backend.upstreams(), ["203.0.113.2:53".parse().unwrap()]);
    assert!(
        String::from_utf8(machine.content())
            .unwrap()
            .contains(" lan\n")
    );
    backend.revert().now_or_never().unwrap().unwrap();
    assert_eq!(fs::read_link(machine.path()).unwrap(), Path::new("run"));

    let mut backend = machine.open().unwrap();
    machine.set(&mut backend, &cluster());
    fs::remove_file(machine.path()).unwrap();
    assert!(machine.mend(&mut backend));
    assert_eq!(backend.upstreams(), ["203.0.113.2:53".parse().unwrap()]);
    backend.revert().now_or_never().unwrap().unwrap();
    assert!(!machine.path().exists());
    assert_eq!(machine.leftovers(), Vec::<String>::new());
}

#[test]
fn a_crash_at_any_moment_of_a_mend_leaves_the_other_programs_file() {
    let mut machine = Machine::with_file();
    let mut backend = machine.open().unwrap();
    machine.set(&mut backend, &cluster());
    let theirs: &[u8] = b"nameserver 203.0.113.1\n";
    let former = machine.recorded.last().unwrap().clone();
    fs::write(machine.path(), theirs).unwrap();
    machine.recorded.clear();
    assert!(machine.mend(&mut backend));
    let ours = machine.content();
    let half = [&ours[..9], &theirs[9..]].concat();
    let [first, last] = machine.recorded.as_slice() else {
        panic!("{:?}", machine.recorded)
    };
    let Before::File { backup, .. } = &first.before else {
        unreachable!()
    };
    // The journal, the backup and the file at each moment.
    for (undo, kept, content) in [
        (&former, Some(ORIGINAL), theirs),
        (&former, None, theirs),
        (first, None, theirs),
        (first, Some(theirs), theirs),
        (first, Some(theirs), &half),
        (first, Some(theirs), &ours),
        (last, Some(theirs), &ours),
    ] {
        fs::write(machine.path(), content).unwrap();
        let _ = fs::remove_file(backup);
        if let Some(kept) = kept {
            fs::write(backup, kept).unwrap();
        }
        undo.restore().unwrap();
        assert_eq!(machine.content(), theirs);
        assert_eq!(machine.leftovers(), Vec::<String>::new());
    }
}

#[test]
fn another_link_put_there_meanwhile_stays() {
    let mut machine = Machine::empty();
    symlink("/nowhere/resolv.conf", machine.path()).unwrap();
    let mut backend = machine.open().unwrap();
    machine.set(&mut backend, &cluster());
    fs::remove_file(machine.path()).unwrap();
    symlink("/elsewhere/resolv.conf", machine.path()).unwrap();
    let told = backend.revert().now_or_never().unwrap().unwrap();
    assert!(told[0].contains("left as it is"), "{told:?}");
    assert_eq!(
        fs::read_link(machine.path()).unwrap(),
        Path::new("/elsewhere/resolv.conf")
    );
}

#[test]
fn an_edit_of_our_own_file_is_undone_because_the_stub_is_dead() {
    let mut machine = Machine::with_file();
    let mut backend = machine.open().unwrap();
    machine.set(&mut backend, &cluster());
    let mut edited = machine.content();
    edited.extend_from_slice(b"options rotate\n");
    fs::write(machine.path(), edited).unwrap();
    let told = backend.revert().now_or_never().unwrap().unwrap();
    assert!(told[0].contains("the edit is lost"), "{told:?}");
    assert_eq!(machine.content(), ORIGINAL);
}

#[test]
fn two_sessions_cannot_have_the_file_and_an_orphaned_one_is_seen() {
    let mut machine = Machine::with_file();
    let mut backend = machine.open().unwrap();
    machine.set(&mut backend, &cluster());
    let refusal = machine.open().err().unwrap();
    assert!(refusal.is::<Taken>(), "{refusal}");
    assert!(refusal.to_string().contains(SESSION), "{refusal}");
    assert!(orphaned(&machine.path()).unwrap().contains(SESSION));
    backend.revert().now_or_never().unwrap().unwrap();
    assert_eq!(orphaned(&machine.path()), None);
}

#[test]
fn after_a_crash_at_any_byte_the_recorded_undo_restores_the_original() {
    let mut machine = Machine::with_file();
    let mut backend = machine.open().unwrap();
    machine.set(&mut backend, &cluster());
    let shorter = DnsConfig {
        search: Vec::new(),
        ..cluster()
    };
    let first = machine.content();
    machine.set(&mut backend, &shorter);
    let second = machine.content();
    let undo = machine.recorded.last().unwrap().clone();
    let both = machine.recorded[2].clone();
    assert_eq!(both.written.len(), 2);
    for (old, new, undo) in [
        (ORIGINAL, first.as_slice(), &machine.recorded[0]),
        (first.as_slice(), second.as_slice(), &both),
        (second.as_slice(), ORIGINAL, &undo),
    ] {
        for cut in 0..=new.len() {
            // In-place writing: the new bytes up to the crash, then what was there before.
            let mut content = new[..cut].to_vec();
            content.extend_from_slice(old.get(cut..).unwrap_or_default());
            fs::write(machine.path(), content).unwrap();
            let Before::File { backup, .. } = &undo.before else {
                unreachable!()
            };
            fs::write(backup, ORIGINAL).unwrap();
            assert_eq!(
                undo.restore().unwrap(),
                Vec::<String>::new(),
                "cut at {cut}"
            );
            assert_eq!(machine.content(), ORIGINAL, "cut at {cut}");
        }
    }
}

#[test]
fn a_crash_between_record_and_backup_changes_nothing() {
    let mut machine = Machine::with_file();
    let mut backend = machine.open().unwrap();
    machine.set(&mut backend, &cluster());
    let undo = machine.recorded[0].clone();
    fs::write(machine.path(), ORIGINAL).unwrap();
    let Before::File { backup, .. } = &undo.before else {
        unreachable!()
    };
    fs::remove_file(backup).unwrap();
    assert_eq!(undo.restore().unwrap(), Vec::<String>::new());
    assert_eq!(machine.content(), ORIGINAL);
}

#[test]
fn undoing_twice_is_harmless_and_the_record_survives_json() {
    let mut machine = Machine::with_file();
    let mut backend = machine.open().unwrap();
    machine.set(&mut backend, &cluster());
    let written = serde_json::to_vec(machine.recorded.last().unwrap()).unwrap();
    let undo: Saved = serde_json::from_slice(&written).unwrap();
    undo.restore().unwrap();
    assert_eq!(undo.restore().unwrap(), Vec::<String>::new());
    assert_eq!(machine.content(), ORIGINAL);
}

#[test]
fn servers_are_read_as_glibc_reads_them() {
    let file =
        b"; comment\n nameserver 192.0.2.1\nnameserver\t192.0.2.2 # x\nnameserver nonsense\n\
        nameserver fe80::1%7\nnameserver2 192.0.2.3\nnameserver 192.0.2.4";
    let servers: Vec<String> = text::nameservers(file)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(servers, ["192.0.2.2:53", "[fe80::1%7]:53", "192.0.2.4:53"]);
}
