// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every fault of the catalogue, ways that are wrong, and what goes wrong at the ends, from a recording of its journeys and of the node: the same causes are named as when
//! it was recorded.
//!
//! To make them again, as root:
//!
//!     EGWT_RECORD=$DIR cargo test -p tests --test causes -- each_fault each_wrong healthy --include-ignored
//!     (cd $DIR && sed -i 's/"kernel":"[^"]*"/"kernel":"6.18"/' *.rec && tar -cJf - --sort=name *.rec) \
//!         > tracer-user/tests/fixtures/recordings.tar.xz
//!     # of the wrong ways those of one back end and family, and some of IPv6; of osm-uid, a flood, 400 lines and the last are enough
//!     # ends.tar.xz: the same of `each_trouble`, one of each cause
//!     # of osm-uid, a flood, 400 lines and the last are enough
//!     UPDATE_RECORDINGS=1 cargo test -p tracer-user --test recordings

use std::fmt::Write as _;
use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;

use tracer_user::record::{Reader, replay};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// Unpacked, gone when dropped.
struct Unpacked(PathBuf);

impl Unpacked {
    /// `None` where the tools are not.
    fn new(name: &str) -> Option<Self> {
        let dir = std::env::temp_dir().join(format!("egwtrace-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("makes a directory");
        let unpacked = Self(dir);
        let archive = Path::new(FIXTURES).join(format!("{name}.tar.xz"));
        let done = Command::new("tar").arg("-xJf").arg(&archive).arg("-C").arg(&unpacked.0).output().ok()?;
        if !done.status.success() {
            println!("SKIP tar or xz: {}", String::from_utf8_lossy(&done.stderr).trim());
            return None;
        }
        Some(unpacked)
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The ids of the causes, each once, the surest first.
fn causes(file: &Path) -> String {
    let file = fs::File::open(file).expect("opens");
    let mut reader = Reader::new(BufReader::new(file)).expect("is a recording");
    let replayed = replay(&mut reader, &mut |_| {}).expect("is whole");
    let mut ids: Vec<&str> = Vec::new();
    for told in &replayed.causes {
        if !ids.contains(&told.finding.id) {
            ids.push(told.finding.id);
        }
    }
    ids.join(" ")
}

#[test]
fn recordings_name_their_causes() {
    try_all("recordings", 60);
}

#[test]
fn troubles_at_the_ends_are_named() {
    try_all("ends", 13);
}

/// NAME.tar.xz against NAME.txt.
fn try_all(name: &str, more_than: usize) {
    let Some(unpacked) = Unpacked::new(name) else { return };
    let mut files: Vec<PathBuf> =
        fs::read_dir(&unpacked.0).expect("reads").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(files.len() > more_than, "{} recordings", files.len());
    let mut found = String::new();
    for file in &files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let _ = writeln!(found, "{}", format!("{name}: {}", causes(file)).trim_end());
    }
    let path = Path::new(FIXTURES).join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_RECORDINGS").is_some() {
        fs::write(&path, &found).expect("writes");
    }
    let stored = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, stored, "{name}.txt differs; UPDATE_RECORDINGS=1 accepts it");
    for line in stored.lines().filter(|line| line.starts_with("healthy-")) {
        assert!(line.ends_with(':'), "a cause where nothing is wrong: {line}");
    }
}
