// SPDX-License-Identifier: GPL-2.0

//! All files of the module, as somebody finds them who means no good: who may do what with them,
//! what they say to reads at odd places and of odd lengths, and what they make of nonsense.

use crate::{
    health::HEALTH,
    support::{
        calls::{
            call,
            Argument,
            Memory,
            Place,
            NOWHERE, //
        },
        guest::LOADED,
        info::INFO,
        node::NODE,
        tests,
        Background,
        Guest,
        Test,
        BLOCK, //
    },
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use fastrand::Rng;
use rustix::{
    fs::{
        AtFlags,
        Mode,
        OFlags,
        SeekFrom,
        CWD, //
    },
    io::Errno,
    process::{
        Gid,
        Uid, //
    },
};
use std::{
    fs::{
        self,
        File, //
    },
    os::{
        fd::AsFd as _,
        unix::fs::MetadataExt as _, //
    },
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    root_has_what_it_needs_and_others_only_look,
    reads_at_any_place_agree_with_the_whole,
    nothing_can_be_written_to_what_only_tells,
    parameters_refuse_nonsense,
    startup_test_refuses_nonsense,
];

/// Where root demands the start-up test.
const STARTUP_TEST: &str = "/sys/class/misc/alrandom/startup_test";

/// The parameters, with a value of each that is not its default and harms nothing.
const PARAMETERS: [(&str, &str); 8] = [
    ("bytesPerSample", "8000"),
    ("debugMode", "Y"),
    ("disableStatisticalTests", "Y"),
    ("hwrngQuality", "7"),
    ("idleSuspend", "86400"),
    ("maxCommands", "3"),
    ("maxDevices", "3"),
    ("minEntropy", "5"),
];

/// The user without rights, and its group.
const NOBODY: u32 = 65534;

/// Does `body` in a thread of nobody's.
fn as_nobody<T: Send + 'static>(body: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let thread = Background::start(move || {
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(group, group, group)?;
        rustix::thread::set_thread_res_uid(user, user, user)?;
        body()
    })?;
    thread.join()?
}

/// Each file with its mode.
fn files() -> Vec<(String, u32)> {
    let parameters = PARAMETERS.iter();
    parameters
        .map(|(name, _)| (format!("{LOADED}/parameters/{name}"), 0o644))
        .chain([
            (NODE.into(), 0o600),
            ("/proc/alrandom".into(), 0o555),
            (INFO.into(), 0o444),
            (HEALTH.into(), 0o444),
            (format!("{LOADED}/parameters"), 0o755),
            (STARTUP_TEST.into(), 0o200),
            ("/sys/class/misc/alrandom/dev".into(), 0o444),
        ])
        .collect()
}

/// All files in `directory` and below.
fn walk(directory: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            found.extend(walk(&path)?);
        }
        found.push(path);
    }
    Ok(found)
}

/// Owner and mode of each file, and nothing there that others can write to; what root may do and
/// nobody may not: read the node, set a parameter, demand the start-up test, change a mode or an
/// owner.
fn root_has_what_it_needs_and_others_only_look(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    for (path, mode) in files() {
        let file = fs::metadata(&path).with_context(|| path.clone())?;
        let is = file.mode() & 0o7777;
        ensure!(is == mode, "{path} has mode {is:o} instead of {mode:o}");
        ensure!((file.uid(), file.gid()) == (0, 0), "{path} is not root's");
    }
    let listed: Vec<_> = files().into_iter().map(|(path, _)| path).collect();
    let parameters = walk(&format!("{LOADED}/parameters"))?;
    for path in &parameters {
        ensure!(
            listed.contains(path),
            "{path} is no parameter that is known"
        );
    }
    let (of_proc, of_class) = (walk("/proc/alrandom")?, walk("/sys/class/misc/alrandom/")?);
    ensure!(of_proc.len() == 2, "{of_proc:?}");
    for path in of_proc.iter().chain(&of_class).chain(&parameters) {
        let mode = fs::symlink_metadata(path)?.mode();
        let is_link = mode & 0o170_000 == 0o120_000;
        ensure!(
            is_link || mode & 0o022 == 0,
            "{path} can be written to: {mode:o}"
        );
    }

    let (secret, refused) = as_nobody(move || {
        let may = |path: &str, flags| rustix::fs::open(path, flags, Mode::empty()).map(drop);
        let mut refused = 0;
        let mut refuse = |what: &str, path: &str, result: Result<(), Errno>| {
            refused += 1;
            let is = matches!(result, Err(Errno::ACCESS | Errno::PERM));
            ensure!(is, "nobody may {what} {path}: {result:?}");
            Ok(())
        };
        for (path, mode) in files() {
            let is_directory = fs::metadata(&path)?.is_dir();
            let reading = may(&path, OFlags::RDONLY);
            if mode & 0o004 == 0 {
                refuse("read", &path, reading)?;
            } else {
                ensure!(reading == Ok(()), "nobody cannot read {path}: {reading:?}");
            }
            if !is_directory {
                for flags in [OFlags::WRONLY, OFlags::RDWR, OFlags::RDONLY | OFlags::TRUNC] {
                    refuse("write", &path, may(&path, flags))?;
                }
            }
            let mode = Mode::from_raw_mode(0o777);
            refuse("chmod", &path, rustix::fs::chmod(&path, mode))?;
            let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            let own = rustix::fs::chown(&path, Some(user), Some(group));
            refuse("own", &path, own)?;
            let gone = rustix::fs::unlinkat(CWD, &path, AtFlags::empty());
            refuse("remove", &path, gone)?;
            let moved = rustix::fs::rename(&path, "/tmp/taken");
            let moved = moved.map_err(|error| match error {
                // Not a rename at all, but the error of one.
                Errno::XDEV => Errno::ACCESS,
                error => error,
            });
            refuse("move", &path, moved)?;
        }
        let made = rustix::fs::open(
            "/proc/alrandom/more",
            OFlags::CREATE | OFlags::WRONLY,
            Mode::RWXU,
        );
        let made = made.map(drop).map_err(|error| match error {
            // There, nobody at all can make a file.
            Errno::NOENT => Errno::ACCESS,
            error => error,
        });
        refuse("make", "/proc/alrandom/more", made)?;
        // Unlike the health of the source, its bytes are secret.
        Ok((may(NODE, OFlags::RDONLY), refused))
    })?;
    ensure!(
        secret == Err(Errno::ACCESS),
        "nobody may read {NODE}: {secret:?}"
    );
    println!("{refused} attempts by nobody were refused");

    for (path, mode) in files() {
        let is = fs::metadata(&path)?.mode() & 0o7777;
        ensure!(is == mode, "{path} has mode {is:o} now");
    }
    for (name, value) in PARAMETERS {
        let path = format!("{LOADED}/parameters/{name}");
        let before = fs::read_to_string(&path)?;
        fs::write(&path, value).with_context(|| format!("root cannot set {name}"))?;
        ensure!(fs::read_to_string(&path)? == format!("{value}\n"));
        fs::write(&path, before)?;
    }
    guest.log.announce("statistical tests are disabled");
    // Only to be written to, for root as well.
    let reading = rustix::fs::open(STARTUP_TEST, OFlags::RDONLY, Mode::empty()).map(drop);
    ensure!(reading == Err(Errno::ACCESS), "{reading:?}");
    fs::write(STARTUP_TEST, "1")?;
    node.read_all(10 * BLOCK)?;
    Ok(())
}

/// The files that tell something.
const TELLING: [&str; 5] = [
    INFO,
    HEALTH,
    "/sys/module/alrandom/parameters/bytesPerSample",
    "/sys/module/alrandom/parameters/debugMode",
    "/sys/class/misc/alrandom/dev",
];

/// Reads at each place and of any length, in any order, and behind the end: as if the whole had
/// been read once and cut. Nothing that the source delivers meanwhile changes what is being
/// compared.
fn reads_at_any_place_agree_with_the_whole(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    node.read_all(3 * BLOCK)?;
    guest.wait_until_full()?;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let mut reads = 0;
    for path in TELLING {
        let whole = fs::read(path)?;
        ensure!(!whole.is_empty());
        let file = File::open(path)?;
        // What a read of `count` bytes at `offset` has to return, and what it may not exceed.
        let expect = |offset: u64, count: usize, got: &[u8]| -> Result<()> {
            let start = usize::try_from(offset)
                .unwrap_or(usize::MAX)
                .min(whole.len());
            let rest = &whole[start..];
            let rest = &rest[..count.min(rest.len())];
            ensure!(
                got == rest,
                "{path}: {count} bytes at {offset}: {:?} instead of {:?}",
                String::from_utf8_lossy(got),
                String::from_utf8_lossy(rest)
            );
            Ok(())
        };
        let mut buffer = vec![0; 1 << 16];
        let behind = whole.len() as u64 + 3;
        for offset in (0..behind).chain([4095, 4096, 4097, 1 << 16, 1 << 31, 1 << 32, 1 << 62]) {
            for count in [0, 1, 2, 7, 64, 4096, buffer.len()] {
                let got = rustix::io::pread(&file, &mut buffer[..count], offset)
                    .with_context(|| format!("{path}: {count} bytes at {offset}"))?;
                expect(offset, count, &buffer[..got])?;
                reads += 1;
            }
        }
        // One byte after the other.
        let mut slowly = Vec::new();
        let one_by_one = File::open(path)?;
        while rustix::io::read(&one_by_one, &mut buffer[..1])? == 1 {
            slowly.push(buffer[0]);
        }
        ensure!(slowly == whole, "{path}, byte by byte");
        // At random: on from where it is, back, forth, behind the end.
        let mut position = 0;
        for _ in 0..500 {
            if rng.bool() {
                position = rng.u64(..2 * behind);
                let now = rustix::fs::seek(&file, SeekFrom::Start(position))?;
                ensure!(now == position, "{path}: sought {position}, at {now}");
            }
            let count = rng.usize(..100);
            let got = rustix::io::read(&file, &mut buffer[..count])?;
            expect(position, count, &buffer[..got])?;
            position += got as u64;
            reads += 1;
        }
        // No offsets: lseek(2), pread(2).
        for offset in [-1, -4096, i64::MIN] {
            let mut memory = Memory::new()?;
            let file = Argument::Open(file.as_fd());
            for (name, arguments) in [
                (
                    "lseek",
                    vec![file, Argument::Value(offset), Argument::Value(0)],
                ),
                (
                    "pread",
                    vec![
                        file,
                        Argument::At(Place::Writable),
                        Argument::Value(64),
                        Argument::Value(offset),
                    ],
                ),
            ] {
                let result = memory.call(call(name), &arguments);
                ensure!(
                    result == Err(Errno::INVAL),
                    "{path}: {name} {offset}: {result:?}"
                );
            }
        }
        // To nowhere, and then from the same file to somewhere.
        let mut memory = Memory::new()?;
        for place in NOWHERE.into_iter().chain([Place::Hole, Place::ReadOnly]) {
            let fresh = File::open(path)?;
            let arguments = |place| {
                [
                    Argument::Open(fresh.as_fd()),
                    Argument::At(place),
                    Argument::Value(4096),
                ]
            };
            let result = memory.call(call("read"), &arguments(place));
            ensure!(result == Err(Errno::FAULT), "{path}: {place:?}: {result:?}");
            let got = memory.call(call("read"), &arguments(Place::Writable))?;
            expect(0, 4096, &memory.bytes(Place::Writable, got))?;
            reads += 2;
        }
        ensure!(fs::read(path)? == whole, "{path} has changed meanwhile");
    }
    println!("{reads} reads agreed");
    Ok(())
}

/// The files that tell something take nothing: root's writes fail, whatever they are, and change
/// nothing.
fn nothing_can_be_written_to_what_only_tells(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    node.read_all(BLOCK)?;
    guest.wait_until_full()?;
    let mut memory = Memory::new()?;
    memory.fill(&[b'1'; 4096]);
    for path in [INFO, HEALTH, "/sys/class/misc/alrandom/dev"] {
        let before = fs::read(path)?;
        let flags = OFlags::RDWR | OFlags::TRUNC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => {
                for place in NOWHERE.into_iter().chain([Place::Writable, Place::Hole]) {
                    for length in [1, 2, 4096, 1 << 20, i64::MAX, -1] {
                        let file = Argument::Open(file.as_fd());
                        let arguments = [file, Argument::At(place), Argument::Value(length)];
                        let written = memory.call(call("write"), &arguments);
                        ensure!(written.is_err(), "{path}: {length} bytes were written");
                    }
                }
            }
            // sysfs does not even open it.
            Err(error) => ensure!(error == Errno::ACCESS, "{path}: {error}"),
        }
        ensure!(fs::read(path)? == before, "{path} has changed");
    }
    // No file can be made beside them, or taken away.
    ensure!(File::create("/proc/alrandom/more").is_err());
    ensure!(fs::create_dir("/proc/alrandom/more").is_err());
    for path in [INFO, HEALTH, STARTUP_TEST] {
        ensure!(fs::remove_file(path).is_err(), "{path} was removed");
    }
    Ok(())
}

/// What is no number, and no yes or no either.
fn nonsense() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("a line's end alone", b"\n".to_vec()),
        ("a blank", b" ".to_vec()),
        ("a sign alone", b"-".to_vec()),
        ("a word", b"word\n".to_vec()),
        ("a NUL alone", b"\0".to_vec()),
        ("a control character", b"\x1b[2J".to_vec()),
        ("bytes that are no text", b"\xff\xfe\xfd".to_vec()),
        ("a format", b"%s%n%p".to_vec()),
        ("a path", b"../../../etc/passwd".to_vec()),
        ("a page of letters", vec![b'A'; 4096]),
        ("many pages of letters", vec![b'A'; 1 << 20]),
        ("letters up to the page's end", vec![b'A'; 4095]),
    ]
}

/// What is a number, but none of any parameter's, or has something behind it.
fn no_number() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("too large for 64 bits", b"99999999999999999999".to_vec()),
        ("too large for 32 bits", b"4294967296".to_vec()),
        ("2^31", b"2147483648".to_vec()),
        ("the largest", b"2147483647".to_vec()),
        ("the smallest", b"-2147483648".to_vec()),
        ("too small for 32 bits", b"-2147483649".to_vec()),
        ("two lines", b"2\n2\n".to_vec()),
        ("a blank behind", b"2 ".to_vec()),
        ("a blank before", b" 2".to_vec()),
        ("a letter behind", b"2x".to_vec()),
        ("a fraction", b"2.5".to_vec()),
        ("an exponent", b"2e0".to_vec()),
        ("two signs", b"--2".to_vec()),
        ("no hexadecimal", b"0xg".to_vec()),
        ("a page of digits", vec![b'2'; 4096]),
    ]
}

/// A parameter takes nothing but its values: EINVAL (ERANGE for what no int can be), one clear line
/// in the log, and it is what it was. A write of nothing is none.
fn parameters_refuse_nonsense(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    guest.log.announce("not a value of type");
    guest.log.announce("is out of range, use");
    let mut refused = 0;
    for (name, other) in PARAMETERS {
        let path = format!("{LOADED}/parameters/{name}");
        let default = fs::read_to_string(&path)?;
        let is_bool = other == "Y";
        let mut bad = nonsense();
        if !is_bool {
            bad.extend(no_number());
        }
        for (what, text) in bad {
            // So that the log's lines are counted where there are few.
            let before = guest.log.count(&format!("alrandom: {name}"));
            let file = File::options().write(true).open(&path)?;
            let result = rustix::io::write(&file, &text);
            ensure!(
                matches!(result, Err(Errno::INVAL | Errno::RANGE)),
                "{name}, {what}: {result:?}"
            );
            let now = fs::read_to_string(&path)?;
            ensure!(now == default, "{name}, {what}: it is {now:?} now");
            let lines = guest.log.count(&format!("alrandom: {name}")) - before;
            ensure!(lines == 1, "{name}, {what}: {lines} lines in the log");
            refused += 1;
        }
        let file = File::options().read(true).write(true).open(&path)?;
        ensure!(rustix::io::write(&file, b"") == Ok(0));
        let mut memory = Memory::new()?;
        for place in NOWHERE.into_iter().chain([Place::Hole]) {
            let file = Argument::Open(file.as_fd());
            let arguments = [file, Argument::At(place), Argument::Value(2)];
            let result = memory.call(call("write"), &arguments);
            ensure!(result == Err(Errno::FAULT), "{name}: {place:?}: {result:?}");
        }
        ensure!(fs::read_to_string(&path)? == default);
    }
    println!("{refused} values were refused");
    // None of the lines shows what it was given.
    let lines = guest.log.lines();
    let told = lines
        .iter()
        .filter(|line| line.text.starts_with("alrandom: "));
    for line in told {
        let harmless = |c: char| c.is_ascii_graphic() || c == ' ';
        ensure!(line.text.chars().all(harmless), "{:?}", line.text);
        ensure!(line.text.len() < 200, "a line of {} bytes", line.text.len());
    }
    guest.stream().expect(&node.read_all(3 * BLOCK)?)
}

/// The start-up test is demanded by yes, not by anything else, and not by a part of it.
fn startup_test_refuses_nonsense(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let mut refused = 0;
    for (what, text) in nonsense().into_iter().chain(no_number()) {
        let file = File::options().write(true).open(STARTUP_TEST)?;
        let result = rustix::io::write(&file, &text);
        ensure!(result == Err(Errno::INVAL), "{what}: {result:?}");
        refused += 1;
    }
    for text in [&b"0"[..], b"n", b"N\n", b""] {
        let file = File::options().write(true).open(STARTUP_TEST)?;
        ensure!(rustix::io::write(&file, text) == Ok(text.len()));
    }
    println!("{refused} values were refused");
    // None was run: not a block is missing.
    guest.stream().expect(&node.read_all(10 * BLOCK)?)
}
