// SPDX-License-Identifier: GPL-2.0

//! Builds things once: a result lies in the cache under a name that says what it was made from.

use crate::machine::show_log;
use anyhow::{
    bail,
    Context,
    Result, //
};
use rustix::fs::{
    flock,
    FlockOperation, //
};
use sha2::{
    Digest,
    Sha256, //
};
use std::{
    ffi::OsStr,
    fs::{
        self,
        File, //
    },
    io::{
        self,
        IsTerminal,
        Write, //
    },
    path::{
        Path,
        PathBuf, //
    },
    process::{
        Command,
        Stdio, //
    },
    thread,
    time::{
        Duration,
        Instant,
        SystemTime, //
    },
};

/// How often the time that a step has taken so far is shown on a terminal.
const SHOW: Duration = Duration::from_secs(1);

/// Hexadecimal digits of a key: enough that no two ever meet in one cache.
const KEY_DIGITS: usize = 16;

/// Sums up what a step is made from.
#[derive(Clone, Default)]
pub struct Key(Sha256);

impl Key {
    /// Adds something, under a name; both with their lengths, so that no two sequences are the same.
    pub fn add(&mut self, name: &str, data: &[u8]) {
        for part in [name.as_bytes(), data] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    /// Adds the contents and names of all files that [`sources`] finds.
    ///
    /// # Errors
    ///
    /// If one can't be read.
    pub fn add_sources(&mut self, directory: &Path) -> Result<()> {
        for path in sources(directory)? {
            let whole = directory.join(&path);
            let data =
                fs::read(&whole).with_context(|| format!("can't read {}", whole.display()))?;
            self.add(&path.to_string_lossy(), &data);
        }
        Ok(())
    }

    /// The sum, as digits for a file name.
    pub fn digits(&self) -> String {
        let sum = self.0.clone().finalize();
        let digits: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        digits[..KEY_DIGITS].to_string()
    }
}

/// Whether a file or directory of the clone is no source of the module: hidden, built, or of the tests.
fn is_no_source(name: &str) -> bool {
    const BUILT: [&str; 9] = [
        ".o", ".o.d", ".ko", ".mod", ".mod.c", ".cmd", ".rmeta", ".symvers", ".order",
    ];
    name.starts_with('.')
        || ["build", "target", "tests", "bindings_generated.rs"].contains(&name)
        || BUILT.iter().any(|ending| name.ends_with(ending))
}

/// Paths, from `directory`, of the files there and below that the module is made from, in order.
///
/// # Errors
///
/// If a directory can't be read.
pub fn sources(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left = vec![PathBuf::new()];
    while let Some(below) = left.pop() {
        let whole = directory.join(&below);
        let what = || format!("can't read {}", whole.display());
        for entry in fs::read_dir(&whole).with_context(what)? {
            let entry = entry.with_context(what)?;
            if is_no_source(&entry.file_name().to_string_lossy()) {
                continue;
            }
            let path = below.join(entry.file_name());
            if directory.join(&path).is_dir() {
                left.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Copies the files that [`sources`] finds.
///
/// # Errors
///
/// If one can't be copied.
pub fn copy_sources(from: &Path, to: &Path) -> Result<()> {
    for path in sources(from)? {
        let target = to.join(&path);
        let copied = target
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::copy(from.join(&path), &target));
        copied.with_context(|| format!("can't copy {} to {}", path.display(), to.display()))?;
    }
    Ok(())
}

/// How many results of one step are kept, as for the other branches and clones of a developer.
const KEPT: usize = 10;

/// For how long each is kept that was used: a run that takes hours may need it again.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// Removes the oldest of the directories in `directory` whose names start with `prefix`, but not the last
/// `kept`, and none that was used lately.
///
/// # Errors
///
/// If one can't be looked at or removed.
pub fn remove_old(directory: &Path, prefix: &str, kept: usize) -> io::Result<()> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.file_name().to_string_lossy().starts_with(prefix) {
            all.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    all.sort();
    for (used, path) in &all[..all.len().saturating_sub(kept)] {
        if used.elapsed().is_ok_and(|time| time > KEPT_FOR) {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// Where results and logs go, and how commands are run inside the root.
#[derive(Clone, Debug)]
pub struct Workshop {
    /// The cache.
    pub cache: PathBuf,
    /// The script that runs a command inside the root.
    pub in_root: PathBuf,
    /// The root.
    pub root: PathBuf,
    /// Directory of a layer over the root, with more packages.
    pub layer: Option<PathBuf>,
    /// The directory of this run's logs.
    pub logs: PathBuf,
    /// Whether nobody is told of the steps, as they are taken while something else is shown.
    pub quiet: bool,
}

impl Workshop {
    /// The directory `NAME-KEY` in the cache. If it is not there, `make` fills a new one, which then
    /// takes its place; a run that is interrupted leaves none. Of several at once, one makes it.
    ///
    /// # Errors
    ///
    /// Those of `make`, or if the cache can't be written to.
    pub fn once(
        &self,
        name: &str,
        key: &Key,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let done = self.cache.join(format!("{name}-{}", key.digits()));
        if done.exists() {
            // Only to keep it for longer.
            let _ = File::open(&done).and_then(|file| file.set_modified(SystemTime::now()));
            return Ok(done);
        }
        let what = || format!("can't write to {}", self.cache.display());
        let lock = File::create(self.cache.join(format!("{name}.lock"))).with_context(what)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            eprintln!("==> another run makes the {name}: waiting for it");
            flock(&lock, FlockOperation::LockExclusive).with_context(what)?;
        }
        if done.exists() {
            return Ok(done);
        }
        // What is there is of a run that was interrupted: the lock keeps others out.
        let partial = self.cache.join(format!("{name}.partial"));
        if partial.exists() {
            fs::remove_dir_all(&partial).with_context(what)?;
        }
        fs::create_dir_all(&partial).with_context(what)?;
        make(&partial)?;
        fs::rename(&partial, &done).with_context(what)?;
        let prefix = format!("{name}-");
        remove_old(&self.cache, &prefix, KEPT).with_context(what)?;
        Ok(done)
    }

    /// The log of the step `name`.
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// The command that runs another inside the root; its arguments are still to be added.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.in_root);
        command.env("ALRANDOM_ROOT", &self.root);
        if let Some(layer) = &self.layer {
            command.env("ALRANDOM_LAYER", layer);
        }
        command
    }

    /// Runs a shell script inside the root and returns all its output.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn output(&self, script: &str, arguments: &[&OsStr]) -> Result<String> {
        let done = self
            .command()
            .args(["sh", "-euc", script, "sh"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("can't start {}", self.in_root.display()))?;
        let said = [&done.stdout[..], &done.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        if !done.status.success() {
            bail!("{script}: {}\n{said}", done.status);
        }
        Ok(said)
    }

    /// Runs a shell script inside the root, saying that it is `doing` something. Its output goes to
    /// [its log](Self::log).
    ///
    /// # Errors
    ///
    /// If it fails; the message has the end of the log and where it is.
    pub fn build(&self, name: &str, doing: &str, script: &str, arguments: &[&OsStr]) -> Result<()> {
        let path = self.log(name);
        let log = File::create(&path).with_context(|| format!("can't write {}", path.display()))?;
        let mut progress = (!self.quiet).then(|| Progress::new(doing));
        let mut child = self
            .command()
            .args(["sh", "-euc", script, "sh"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("can't start {}", self.in_root.display()))?;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if let Some(progress) = &mut progress {
                progress.show();
            }
            thread::sleep(Duration::from_millis(50));
        };
        if let Some(progress) = progress {
            progress.end(if status.success() { "done" } else { "failed" });
        }
        if !status.success() {
            bail!("{doing} failed ({status}); {}", show_log(&path));
        }
        Ok(())
    }
}

/// A line on the terminal that says what takes time, and how long it has taken.
pub struct Progress {
    /// What is being done, in words.
    doing: String,
    /// Since when.
    start: Instant,
    /// When the line was last written, if it is rewritten at all.
    shown: Option<Instant>,
}

impl Progress {
    /// Writes the line.
    pub fn new(doing: &str) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        eprint!("==> {doing} ...{}", if terminal { "" } else { "\n" });
        let start = Instant::now();
        Progress {
            doing: doing.to_string(),
            start,
            shown: terminal.then_some(start),
        }
    }

    /// Writes the line again, if it is time and there is a terminal.
    pub fn show(&mut self) {
        if self.shown.is_some_and(|shown| shown.elapsed() >= SHOW) {
            let mut to = std::io::stderr();
            let _ = write!(
                to,
                "\r==> {} ... {} s",
                self.doing,
                self.start.elapsed().as_secs()
            );
            self.shown = Some(Instant::now());
        }
    }

    /// Says what is being done now.
    pub fn change(&mut self, doing: &str) {
        // Shorter words must not leave the rest of the longer ones behind.
        let blank = self.doing.len().saturating_sub(doing.len());
        self.doing = doing.to_string();
        if self.shown.is_some() {
            eprint!("\r==> {doing} ...{:blank$}      ", "");
            self.shown = Some(Instant::now());
        }
    }

    /// Ends the line.
    pub fn end(self, word: &str) {
        let seconds = self.start.elapsed().as_secs_f32();
        let line = format!("==> {} ... {word} ({seconds:.1} s)", self.doing);
        if self.shown.is_some() {
            eprintln!("\r{line}  ");
        } else {
            eprintln!("{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{
        AtomicU32,
        Ordering, //
    };

    /// A workshop in a directory that goes away with it.
    fn workshop() -> (tempfile::TempDir, Workshop) {
        let directory = tempfile::tempdir().unwrap();
        let workshop = Workshop {
            cache: directory.path().to_path_buf(),
            in_root: "env".into(),
            root: directory.path().to_path_buf(),
            layer: None,
            logs: directory.path().to_path_buf(),
            quiet: true,
        };
        (directory, workshop)
    }

    /// A key of one thing.
    fn key(data: &[u8]) -> Key {
        let mut key = Key::default();
        key.add("what", data);
        key
    }

    #[test]
    fn the_same_is_made_once_and_another_again() {
        let (_directory, workshop) = workshop();
        let made = AtomicU32::new(0);
        let make = |directory: &Path| {
            made.fetch_add(1, Ordering::Relaxed);
            Ok(fs::write(directory.join("file"), "text")?)
        };
        let first = workshop.once("thing", &key(b"1"), make).unwrap();
        let again = workshop.once("thing", &key(b"1"), make).unwrap();
        let other = workshop.once("thing", &key(b"2"), make).unwrap();
        assert_eq!(first, again);
        assert_ne!(first, other);
        assert_eq!(made.load(Ordering::Relaxed), 2);
        assert_eq!(fs::read_to_string(other.join("file")).unwrap(), "text");
    }

    #[test]
    fn the_newest_are_kept_and_those_used_lately() {
        let (_directory, workshop) = workshop();
        let make = |number| workshop.once("thing", &key(&[number]), |_| Ok(())).unwrap();
        let made: Vec<_> = (0..KEPT as u8 + 3).map(make).collect();
        assert!(made.iter().all(|path| path.exists()));
        for (path, number) in made.iter().zip((0..made.len() as u32).rev()) {
            let used = SystemTime::now() - KEPT_FOR * (number + 1);
            File::open(path).unwrap().set_modified(used).unwrap();
        }
        // The oldest is used again; one more is made.
        make(0);
        make(100);
        let there: Vec<_> = made.iter().map(|path| path.exists()).collect();
        let (old, new) = there.split_at(5);
        assert_eq!(old, [true, false, false, false, false]);
        assert!(new.iter().all(|there| *there), "{there:?}");
    }

    #[test]
    fn a_failure_leaves_nothing_and_its_rest_is_not_in_the_next() {
        let (_directory, workshop) = workshop();
        let failed = workshop.once("thing", &key(b"1"), |directory| {
            fs::write(directory.join("half"), "")?;
            bail!("no");
        });
        assert!(failed.is_err());
        let done = workshop.once("thing", &key(b"1"), |_| Ok(())).unwrap();
        assert!(!done.join("half").exists());
    }

    #[test]
    fn names_and_data_are_not_confused() {
        let mut one = Key::default();
        one.add("ab", b"c");
        let mut two = Key::default();
        two.add("a", b"bc");
        assert_ne!(one.digits(), two.digits());
        // Of the empty message, by FIPS 180-4's examples.
        assert_eq!(Key::default().digits(), "e3b0c44298fc1c14");
    }

    #[test]
    fn what_was_built_is_no_source() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for file in [
            "a.rs",
            "a.o",
            ".a.o.cmd",
            "a.mod.c",
            "Module.symvers",
            "abstractions/mod.rs",
            "tests/x.rs",
            ".git/config",
            "build/tool",
            "bindings_generated.rs",
        ] {
            fs::create_dir_all(path.join(file).parent().unwrap()).unwrap();
            fs::write(path.join(file), "").unwrap();
        }
        let found = sources(path).unwrap();
        assert_eq!(
            found,
            [PathBuf::from("a.rs"), PathBuf::from("abstractions/mod.rs")]
        );
    }

    #[test]
    fn a_failed_build_shows_the_end_of_its_log_and_where_it_is() {
        let (directory, workshop) = workshop();
        let script = "echo \"no $1\" >&2; exit 3";
        let error = workshop
            .build("thing", "making it", script, &["luck".as_ref()])
            .unwrap_err()
            .to_string();
        assert!(error.contains("no luck"), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
        let log = directory.path().join("thing.log");
        assert!(error.contains(&log.display().to_string()), "{error}");
    }
}
