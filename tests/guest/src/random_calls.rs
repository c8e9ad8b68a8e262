// SPDX-License-Identifier: GPL-2.0

//! System calls at random: any call of the table in `support/calls.rs` with any arguments, on the
//! node, on the files in `/proc` and sysfs, on pipes and whatever the calls open, by threads of
//! root's and of nobody's. Meanwhile other readers get what they ask for, and no byte twice.
//!
//! The calls are made by processes of their own, each thread of which has its own descriptors. They
//! follow from a seed that is printed, up to what one thread does to another.

use crate::support::{
    calls::{
        own_descriptors,
        Argument,
        Call,
        Kind,
        Memory,
        Place,
        CALLS,
        MAP_FIXED,
        MOST_BUFFERS,
        NOWHERE,
        ROOM, //
    },
    leaks::Leaks,
    node::{
        MAX_READ,
        NODE, //
    },
    pieces::Pieces,
    sys::catch,
    tests,
    wait::wait_for_exit,
    Background,
    Guest,
    Node,
    Test,
    BLOCK,
    PATIENCE, //
};
use alpharng_emu::control::Configure;
use anyhow::{
    ensure,
    Context,
    Result, //
};
use fastrand::Rng;
use rustix::{
    event::epoll,
    fs::OFlags,
    io::Errno,
    process::Signal, //
};
use std::{
    collections::BTreeMap,
    env,
    ffi::CStr,
    io::Read as _,
    os::{
        fd::{
            IntoRawFd as _,
            RawFd, //
        },
        unix::process::CommandExt as _,
    },
    process::{
        Command,
        Stdio, //
    },
    sync::{
        atomic::{
            AtomicBool,
            Ordering, //
        },
        Arc, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![calls_at_random];

/// For how long calls are made.
const TIME: Duration = Duration::from_secs(15);

/// For how long on a kernel that is made to look for bugs.
const LONG_TIME: Duration = Duration::from_secs(90);

/// Bytes per second of the device: all that it sends is looked up at the end.
const RATE: u64 = 200_000;

/// How long the other readers leave bytes to the calls, behind each read: they would take all there
/// are.
const PAUSE: Duration = Duration::from_millis(100);

/// Who makes the calls, each in a process of its own: root and nobody, with so many threads each.
const USERS: [(u32, usize); 2] = [(0, 2), (65534, 1)];

/// The user without rights.
const NOBODY: u32 = 65534;

/// Open files of a thread.
const FILES: usize = 16;

/// How often a thread is interrupted, lest it sleep for ever.
const TICK: Duration = Duration::from_millis(3);

/// What is opened. Only root can write to any of them; what can be written there without harm is
/// few.
const PATHS: [&CStr; 10] = [
    c"/dev/alrandom",
    c"/dev/alrandom",
    c"/dev/alrandom",
    c"/proc/alrandom/info",
    c"/proc/alrandom/health",
    c"/sys/module/alrandom/parameters/minEntropy",
    c"/sys/module/alrandom/parameters/maxCommands",
    c"/sys/class/misc/alrandom/startup_test",
    c"/sys/class/misc/alrandom/dev",
    c"/dev/null",
];

/// Numbers around which things change.
const NUMBERS: [i64; 24] = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    16,
    63,
    64,
    511,
    4095,
    4096,
    4097,
    15_999,
    16_000,
    16_384,
    99_999,
    MAX_READ as i64,
    MAX_READ as i64 + 1,
    1 << 31,
    1 << 32,
    i64::MAX,
    -1,
];

/// A thread that makes calls.
struct Caller {
    /// What is next.
    rng: Rng,
    /// What arguments point to.
    memory: Memory,
    /// Open files; some of them may be closed by now.
    files: [RawFd; FILES],
    /// How many calls were made, by whether they succeeded.
    calls: [u64; 2],
}

impl Caller {
    /// Opens one more file, if that is possible.
    fn open_one(&mut self) -> Option<RawFd> {
        let access = self
            .rng
            .choice([OFlags::RDONLY, OFlags::RDONLY, OFlags::RDWR])?;
        let flags = match self.rng.u8(..8) {
            // Most do not wait, so that more is done.
            0 => OFlags::empty(),
            _ => OFlags::NONBLOCK,
        };
        match self.rng.u8(..8) {
            0 => {
                let (from, to) = rustix::pipe::pipe().ok()?;
                for end in [&from, &to] {
                    rustix::fs::fcntl_setfl(end, OFlags::NONBLOCK).ok()?;
                }
                let slot = self.rng.usize(..FILES);
                self.replace(slot, from.into_raw_fd());
                Some(to.into_raw_fd())
            }
            1 => Some(
                epoll::create(epoll::CreateFlags::empty())
                    .ok()?
                    .into_raw_fd(),
            ),
            _ => {
                let path = self.rng.choice(PATHS)?;
                let opened = rustix::fs::open(path, access | flags, rustix::fs::Mode::empty());
                Some(opened.ok()?.into_raw_fd())
            }
        }
    }

    /// Closes the file at `slot`, and has another there.
    fn replace(&mut self, slot: usize, file: RawFd) {
        let before = std::mem::replace(&mut self.files[slot], file);
        // The node that every thread was given stays.
        if before > 2 {
            let close = crate::support::calls::call("close");
            let _ = self.memory.call(close, &[Argument::Descriptor(before)]);
        }
    }

    /// A number.
    fn number(&mut self) -> i64 {
        match self.rng.u8(..8) {
            0 => self.rng.i64(..),
            1 => 1 << self.rng.u8(..63),
            2 | 3 => self.rng.i64(..32),
            _ => {
                let near = self.rng.i64(-1..=1);
                self.rng.choice(NUMBERS).unwrap_or(0).saturating_add(near)
            }
        }
    }

    /// An address: every other one is good.
    fn place(&mut self) -> Place {
        match self.rng.u8(..8) {
            0..=3 => Place::Writable,
            4 | 5 => Place::Before(self.rng.usize(..=ROOM.min(20_000))),
            6 => self
                .rng
                .choice([Place::ReadOnly, Place::Hole])
                .unwrap_or(Place::Hole),
            _ => self.rng.choice(NOWHERE).unwrap_or(Place::Hole),
        }
    }

    /// A file.
    fn file(&mut self) -> RawFd {
        match self.rng.u8(..32) {
            // None; the directory that one is in; a number that is too large.
            0 => self.rng.choice([-1, libc::AT_FDCWD, 1 << 20]).unwrap_or(-1),
            _ => self.rng.choice(self.files).unwrap_or(-1),
        }
    }

    /// Whether the file is one whose every write the kernel's log tells of.
    fn is_told_of(file: RawFd) -> bool {
        let name = std::fs::read_link(format!("/proc/thread-self/fd/{file}"));
        name.is_ok_and(|name| name.starts_with("/sys/module"))
    }

    /// Makes a call.
    fn make_one(&mut self) {
        let Some(call) = self.rng.choice(CALLS) else {
            return;
        };
        let count = self.rng.usize(..9);
        let buffers: Vec<_> = (0..count)
            .map(|_| (self.place(), self.number() as usize))
            .collect();
        let mut arguments = Vec::with_capacity(6);
        for kind in call.arguments {
            let argument = match kind {
                Kind::File => Argument::Descriptor(self.file()),
                Kind::Address => Argument::At(self.place()),
                Kind::Vector if self.rng.u8(..8) > 0 => Argument::Buffers(&buffers),
                Kind::Path if self.rng.u8(..8) > 0 => {
                    Argument::Text(self.rng.choice(PATHS).unwrap_or(c""))
                }
                Kind::Vector => {
                    let places = [Place::ReadOnly, Place::Hole, Place::Nowhere(8)];
                    Argument::At(self.rng.choice(places).unwrap_or(Place::Hole))
                }
                Kind::Path => Argument::At(self.place()),
                Kind::Length | Kind::Offset | Kind::Number => Argument::Value(self.number()),
            };
            arguments.push(argument);
        }
        if !self.tame(call, &mut arguments, count) {
            return;
        }
        let result = self.memory.call(call, &arguments);
        self.calls[usize::from(result.is_err())] += 1;
        match (call.name, result) {
            ("dup" | "openat", Ok(file)) => {
                let slot = self.rng.usize(..FILES);
                self.replace(slot, file as RawFd);
            }
            ("fcntl", Ok(file)) if matches!(arguments[1], Argument::Value(0 | 1030)) => {
                let slot = self.rng.usize(..FILES);
                self.replace(slot, file as RawFd);
            }
            (_, Err(Errno::BADF)) => {
                let slot = self.rng.usize(..FILES);
                if let Some(file) = self.open_one() {
                    self.replace(slot, file);
                }
            }
            _ => {}
        }
    }

    /// Changes what would do harm to others than the module; whether to make the call at all.
    fn tame(&mut self, call: &Call, arguments: &mut [Argument<'_>], count: usize) -> bool {
        let number = |argument: &mut Argument<'_>, change: &dyn Fn(i64) -> i64| {
            if let Argument::Value(number) = argument {
                *number = change(*number);
            }
        };
        match call.name {
            // Memory at an address of its choice; that of no file.
            "mmap" => number(&mut arguments[3], &|flags| {
                flags & !(MAP_FIXED as i64 | 0x20)
            }),
            // A set of signals in which the one is that would end it.
            "ppoll" => arguments[3] = Argument::At(Place::Nowhere(0)),
            "pselect6" => arguments[5] = Argument::At(Place::Nowhere(0)),
            "epoll_pwait" => arguments[4] = Argument::At(Place::Nowhere(0)),
            // New files in the directory that it is in.
            "openat" => number(&mut arguments[2], &|flags| {
                flags & !i64::from((OFlags::CREATE | OFlags::TMPFILE).bits())
            }),
            "fcntl" => {
                let commands = [
                    0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 16, 36, 37, 1024, 1025, 1026, 1030,
                ];
                let command = self.rng.choice(commands).unwrap_or(0);
                number(&mut arguments[1], &|_| command);
                // Descriptors with large numbers need a large table.
                if matches!(command, 0 | 1030) {
                    arguments[2] = Argument::At(Place::Nowhere(8));
                }
            }
            // As many buffers as there are, or some other number: those behind them are of no
            // length.
            "readv" | "preadv" | "preadv2" | "writev" | "pwritev" | "pwritev2" | "vmsplice" => {
                let most = MOST_BUFFERS as i64 + 1;
                let is_vector = matches!(arguments[1], Argument::Buffers(_));
                let often = self.rng.u8(..4) > 0;
                number(&mut arguments[2], &|n| match (is_vector, often) {
                    (true, _) => n.rem_euclid(count as i64 + 1),
                    (false, true) => n.rem_euclid(most + 1),
                    (false, false) => n,
                });
            }
            _ => {}
        }
        if let (true, Argument::Descriptor(file)) = (call.name.contains("write"), arguments[0]) {
            // Not so many lines that the log does nothing else.
            return !Self::is_told_of(file) || self.rng.u8(..100) == 0;
        }
        true
    }

    /// Makes calls until the end.
    fn run(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            if self.rng.u8(..64) == 0 {
                let text = match self.rng.u8(..4) {
                    0 => b"1\n".to_vec(),
                    1 => b"99999999999999999999".to_vec(),
                    _ => (0..256).map(|_| self.rng.u8(..)).collect(),
                };
                // The calls themselves never take that memory away: it can be written to.
                self.memory.fill(&text);
                let slot = self.rng.usize(..FILES);
                if let Some(file) = self.open_one() {
                    self.replace(slot, file);
                }
            }
            self.make_one();
        }
    }
}

/// Makes calls for so long, in a process that does nothing else; the node is its standard input.
/// Prints how many.
///
/// # Errors
///
/// If there is no memory or no thread to begin with.
pub(crate) fn make(seed: u64, time: Duration) -> Result<()> {
    catch(Signal::USR1, false)?;
    let mut rng = Rng::with_seed(seed);
    let user = rustix::process::getuid().as_raw();
    let threads = USERS.iter().find(|(id, _)| *id == user);
    let threads = threads.map_or(1, |(_, threads)| *threads);
    let stop = Arc::new(AtomicBool::new(false));
    let callers = (0..threads)
        .map(|_| {
            let mut caller = Caller {
                rng: rng.fork(),
                memory: Memory::new()?,
                files: [0; FILES],
                calls: [0; 2],
            };
            let stop = stop.clone();
            Background::start(move || {
                own_descriptors()?;
                for slot in 0..FILES {
                    if let Some(file) = caller.open_one() {
                        caller.replace(slot, file);
                    }
                }
                caller.run(&stop);
                Ok::<_, anyhow::Error>(caller.calls)
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    while start.elapsed() < time {
        thread::sleep(TICK);
        if let Some(caller) = rng.choice(&callers) {
            caller.signal(Signal::USR1)?;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut all = [0; 2];
    for caller in callers {
        // A last call may sleep.
        while caller.goes_on_for(TICK) {
            let _ = caller.signal(Signal::USR1);
        }
        let calls = caller.join()??;
        all.iter_mut().zip(calls).for_each(|(all, one)| *all += one);
    }
    println!("{} {}", all[0], all[1]);
    Ok(())
}

/// Starts a process that makes calls as this user.
fn start(user: u32, seed: u64, time: Duration) -> Result<std::process::Child> {
    let node = rustix::io::dup(&Node::open_with(OFlags::RDWR | OFlags::NONBLOCK)?)?;
    Command::new(env::current_exe()?)
        .args(["--random-calls", &seed.to_string()])
        .args(["--seconds", &time.as_secs().to_string()])
        .uid(user)
        .gid(user)
        .current_dir("/tmp")
        .stdin(node)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start a process")
}

/// Calls at random by root and nobody, while two others read: these get bytes of the stream and
/// nothing else, none of them twice, and when it is over the node delivers as ever.
fn calls_at_random(guest: &mut Guest) -> Result<()> {
    let time = if Leaks::can_be_found() {
        LONG_TIME
    } else {
        TIME
    };
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    // Values that a parameter does not take, nor flock(2), nor mmap(2).
    for line in [
        "not a value of type",
        "is out of range, use",
        "Attempt to set a LOCK_MAND lock via flock(2)",
        "__vm_enough_memory: ",
    ] {
        guest.log.announce(line);
    }
    guest.configure(Configure {
        rate: Some(RATE),
        ..Configure::default()
    })?;
    guest.start()?;
    let stop = Arc::new(AtomicBool::new(false));
    let readers = [4096, 10_000].map(|size| {
        let stop = stop.clone();
        Background::start(move || {
            let node = Node::open()?;
            let mut all = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                all.push(node.read(size)?);
                thread::sleep(PAUSE);
            }
            Ok::<_, anyhow::Error>(all)
        })
    });
    let readers = readers.into_iter().collect::<Result<Vec<_>>>()?;

    let mut rng = Rng::with_seed(seed);
    let mut processes = BTreeMap::new();
    for (user, _) in USERS {
        processes.insert(user, start(user, rng.u64(..), time)?);
    }
    for (user, mut process) in processes {
        let status = wait_for_exit(&mut process, time + PATIENCE)?;
        if status.is_none() {
            process.kill()?;
        }
        let status = status.with_context(|| format!("user {user}: a call does not return"))?;
        ensure!(status.success(), "user {user}: {status}");
        let mut text = String::new();
        let mut output = process.stdout.take().context("no output")?;
        output.read_to_string(&mut text)?;
        let (done, refused) = text.trim().split_once(' ').context("no count of calls")?;
        println!("user {user}: {done} calls succeeded, {refused} were refused");
        let done: u64 = done.parse()?;
        ensure!(done > 1000, "only {done} calls of user {user} succeeded");
    }
    stop.store(true, Ordering::Relaxed);
    let mut reads = Vec::new();
    for reader in readers {
        reads.extend(reader.join()??);
    }
    // Whatever the calls have set.
    let last = Node::open()?.read_all(10 * BLOCK)?;
    reads.push(last);

    let sent = guest.emulator.status()?.next_block;
    let mut pieces = Pieces::of(guest.seed, sent);
    for read in &reads {
        pieces.note(read)?;
    }
    let bytes = pieces.expect_each_once()?;
    println!("{bytes} bytes of {sent} blocks came meanwhile, each once");
    ensure!(bytes > 20 * BLOCK as u64, "only {bytes} bytes came");
    let nobody = Command::new("cat").arg(NODE).uid(NOBODY).output()?;
    ensure!(!nobody.status.success(), "nobody can open {NODE} now");
    Ok(())
}
