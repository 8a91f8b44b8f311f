// SPDX-License-Identifier: MIT OR Apache-2.0
//! Recordings of every fault of the catalogue and of healthy machines: what `egwtrace explain` prints of each is in
//! `fixtures/explain/NAME.txt`, so that causes, wording and fixes are reviewed as a diff. The first line has the ids of
//! the causes, the surest first. To accept what is printed now:
//!
//!     UPDATE_RECORDINGS=1 cargo test -p tracer-user --test explain_text
//!
//! To record again, as root:
//!
//!     EGWT_RECORD=$DIR cargo test -p tests --test causes -- each_fault each_wrong healthy --include-ignored
//!     (cd $DIR && sed -i 's/"kernel":"[^"]*"/"kernel":"6.18"/' *.rec && tar -cJf - --sort=name *.rec) \
//!         > tracer-user/tests/fixtures/recordings.tar.xz
//!     # of the wrong ways those of one back end and family, and some of IPv6
//!     # of osm-uid, a flood, 400 lines and the last are enough
//!     # ends.tar.xz: the same of `each_trouble`, one of each cause

use std::collections::BTreeSet;
use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use tracer_user::output::{ReplayText, TextOptions};
use tracer_user::record::{Reader, replay};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// Archives that were unpacked, for names of their own.
static UNPACKED: AtomicUsize = AtomicUsize::new(0);

/// Unpacked, gone when dropped.
pub(crate) struct Unpacked(pub(crate) PathBuf);

impl Unpacked {
    /// `None` where the tools are not.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let dir = std::env::temp_dir().join(format!(
            "egwtrace-{name}-{}-{}",
            std::process::id(),
            UNPACKED.fetch_add(1, Ordering::Relaxed)
        ));
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

/// The ids of the causes, each once, and the text.
fn explained(file: &Path) -> (String, String) {
    let file = fs::File::open(file).expect("opens");
    let mut reader = Reader::new(BufReader::new(file)).expect("is a recording");
    let begin = reader.begin().clone();
    let mut first_ns = None;
    let replayed = replay(&mut reader, &mut |retold| _ = first_ns.get_or_insert(retold.journey.start_ns))
        .expect("is whole");
    let mut ids: Vec<&str> = Vec::new();
    for told in replayed.causes.iter().filter(|told| !told.finding.is_note()) {
        if !ids.contains(&told.finding.id) {
            ids.push(told.finding.id);
        }
    }
    let (text, mut out) = (ReplayText::new(TextOptions::default()), Vec::new());
    text.header(&mut out, &begin, first_ns.unwrap_or_default()).expect("writes");
    text.causes(&mut out, &replayed).expect("writes");
    (ids.join(" "), String::from_utf8(out).expect("is text"))
}

#[test]
fn recordings_are_explained_as_before() {
    let update = std::env::var_os("UPDATE_RECORDINGS").is_some();
    let texts = Path::new(FIXTURES).join("explain");
    fs::create_dir_all(&texts).expect("makes a directory");
    let mut stored = names_in(&texts, "txt");
    let mut differ = Vec::new();
    for archive in ["recordings", "ends"] {
        let Some(unpacked) = Unpacked::new(archive) else { return };
        for name in names_in(&unpacked.0, "rec") {
            let (ids, text) = explained(&unpacked.0.join(&name).with_extension("rec"));
            assert!(
                ids.is_empty() || !name.starts_with("healthy-"),
                "{name}: a cause where nothing is wrong: {ids}"
            );
            let (path, text) = (texts.join(format!("{name}.txt")), format!("causes: {ids}\n\n{text}"));
            stored.remove(&name);
            if fs::read_to_string(&path).unwrap_or_default() == text {
                continue;
            }
            if update {
                fs::write(&path, &text).expect("writes");
            } else {
                differ.push(format!("{}:\n{text}", path.display()));
            }
        }
    }
    assert!(
        differ.is_empty(),
        "{}\n{} differ; UPDATE_RECORDINGS=1 accepts them",
        differ.join("\n"),
        differ.len()
    );
    assert!(stored.is_empty(), "texts without a recording: {stored:?}");
}

/// Without the extension.
pub(crate) fn names_in(directory: &Path, extension: &str) -> BTreeSet<String> {
    let files = fs::read_dir(directory).expect("reads").map(|entry| entry.expect("an entry").path());
    files
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .map(|path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned())
        .collect()
}
