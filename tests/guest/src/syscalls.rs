// SPDX-License-Identifier: GPL-2.0

//! Every system call that takes the node, with odd arguments, by root and by nobody: each is
//! refused with the error that its manual page has for that, or does what it says; behind it the
//! node delivers its stream to the byte, so nothing was lost, delivered twice, or left in another
//! state.

use crate::support::{
    calls::{
        call,
        open,
        Argument,
        Memory,
        Place,
        MOST_BUFFERS,
        NOWHERE,
        ROOM, //
    },
    guest::is_loaded,
    node::{
        timespec,
        MAX_READ,
        NODE, //
    },
    tests,
    uring::{
        Operation,
        Ring, //
    },
    wait_until,
    Background,
    Guest,
    Node,
    Stream,
    Test,
    BLOCK,
    PATIENCE, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use rustix::{
    event::{
        epoll,
        PollFd,
        PollFlags, //
    },
    fs::{
        Mode,
        OFlags, //
    },
    io::Errno,
    net::{
        AddressFamily,
        RecvAncillaryBuffer,
        RecvAncillaryMessage,
        RecvFlags,
        SendAncillaryBuffer,
        SendAncillaryMessage,
        SendFlags,
        SocketFlags,
        SocketType, //
    },
    process::{
        Gid,
        Uid, //
    },
};
use std::{
    fs::File,
    io::{
        IoSlice,
        IoSliceMut, //
    },
    mem::MaybeUninit,
    os::{
        fd::{
            AsFd as _,
            AsRawFd as _,
            IntoRawFd as _, //
        },
        unix::process::CommandExt as _,
    },
    process::{
        Command,
        Stdio, //
    },
    time::Duration, //
};
use Argument::{
    At,
    Buffers,
    Descriptor,
    Value, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    bad_addresses_take_nothing,
    what_fits_before_a_hole_is_delivered_once,
    vectors_of_all_sizes,
    lengths_of_all_sizes,
    writing_is_refused_in_every_way,
    there_is_no_position_in_any_way,
    it_is_no_regular_file,
    it_cannot_be_mapped,
    no_ioctl_is_known,
    flags_locks_and_leases,
    opened_in_every_way,
    spliced_in_every_direction,
    polled_for_anything,
    descriptors_come_and_go_under_a_sleeping_read,
    rings_read_poll_and_cancel,
];

/// The user that has no rights, and its group (`nobody`, `nogroup`).
const NOBODY: u32 = 65534;

/// Lengths from a byte to what a read returns at most, around what can matter.
const LENGTHS: [usize; 9] = [1, 7, 8, 4095, 4096, 4097, 15_999, 16_001, MAX_READ];

/// Numbers that are no length, no offset, no count.
const HUGE: [i64; 6] = [-1, -8, i64::MIN, i64::MIN + 1, i64::MAX, i64::MAX - 7];

/// Who makes calls, and what it may expect.
struct Caller {
    /// The node, opened by root for reading.
    node: Node,
    /// The node, opened by root for reading and writing.
    writable: Node,
    /// What the arguments point to.
    memory: Memory,
    /// What comes next.
    stream: Stream,
    /// How many calls were made.
    calls: u64,
}

impl Caller {
    /// Makes a call.
    fn try_to(&mut self, name: &str, arguments: &[Argument<'_>]) -> Result<usize, Errno> {
        self.calls += 1;
        self.memory.call(call(name), arguments)
    }

    /// Makes a call that has to fail with one of these errors.
    fn refused(&mut self, name: &str, arguments: &[Argument<'_>], errors: &[Errno]) -> Result<()> {
        let result = self.try_to(name, arguments);
        ensure!(
            result.is_err_and(|error| errors.contains(&error)),
            "{name}{arguments:?}: {result:?} instead of one of {errors:?}"
        );
        Ok(())
    }

    /// Makes a call that has to deliver `count` bytes of the stream to `place`.
    fn delivered(
        &mut self,
        name: &str,
        arguments: &[Argument<'_>],
        place: Place,
        count: usize,
    ) -> Result<()> {
        let result = self.try_to(name, arguments);
        ensure!(
            result == Ok(count),
            "{name}{arguments:?}: {result:?} instead of {count} bytes"
        );
        let bytes = self.memory.bytes(place, count);
        let same = self.stream.expect(&bytes);
        same.with_context(|| format!("{name}{arguments:?}"))
    }

    /// Checks that the node goes on where it was.
    fn goes_on(&mut self) -> Result<()> {
        self.stream.expect(&self.node.read(1000)?)
    }
}

/// Does `body` as root, then as nobody, who has the node from root; each time the node has to go on
/// with its stream.
fn as_each_user(guest: &mut Guest, body: fn(&mut Caller) -> Result<()>) -> Result<()> {
    let mut caller = Caller {
        node: guest.start()?,
        writable: Node::open_with(OFlags::RDWR)?,
        memory: Memory::new()?,
        stream: guest.stream(),
        calls: 0,
    };
    body(&mut caller).context("as root")?;
    caller.goes_on().context("behind root's calls")?;
    let of_root = caller.calls;
    let caller = Background::start(move || {
        become_nobody()?;
        body(&mut caller).context("as nobody")?;
        caller.goes_on().context("behind nobody's calls")?;
        Ok::<_, anyhow::Error>(caller)
    })?;
    let caller = caller.join_within(Duration::from_secs(120))??;
    println!("{of_root} calls by root, {} by both", caller.calls);
    Ok(())
}

/// Makes this thread one of [`NOBODY`]'s, for good.
fn become_nobody() -> Result<()> {
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)?;
    ensure!(Node::open().is_err(), "nobody can open {NODE}");
    Ok(())
}

/// No memory, the kernel's, only to be read, at the end of the address space: EFAULT (read(2),
/// readv(2)), and nothing is used up.
fn bad_addresses_take_nothing(guest: &mut Guest) -> Result<()> {
    as_each_user(guest, |caller| {
        let node = caller.node.clone();
        for place in NOWHERE.into_iter().chain([Place::Hole, Place::ReadOnly]) {
            for length in LENGTHS {
                let bytes = Value(i64::try_from(length)?);
                let fault = &[Errno::FAULT];
                caller.refused("read", &[open(&node), At(place), bytes], fault)?;
                let one = [(place, length)];
                let two = [(place, length), (Place::Writable, length)];
                for buffers in [&one[..], &two[..]] {
                    let (vector, count) = (Buffers(buffers), Value(i64::try_from(buffers.len())?));
                    caller.refused("readv", &[open(&node), vector, count], fault)?;
                    // This offset stands for the file's position.
                    let arguments = [open(&node), vector, count, Value(-1), Value(-1)];
                    caller.refused("preadv2", &arguments, fault)?;
                }
            }
            caller.goes_on()?;
        }
        Ok(())
    })
}

/// A buffer that runs into a hole, and a vector with a hole in it: what fits before it is delivered
/// and counted once, and what does not is there for the next read.
fn what_fits_before_a_hole_is_delivered_once(guest: &mut Guest) -> Result<()> {
    as_each_user(guest, |caller| {
        let node = caller.node.clone();
        let hole = Place::Hole;
        for room in LENGTHS.into_iter().filter(|room| *room < MAX_READ) {
            for beyond in [1, 4096, MAX_READ] {
                let place = Place::Before(room);
                let length = Value(i64::try_from(room + beyond)?);
                caller.delivered("read", &[open(&node), At(place), length], place, room)?;
                for buffers in [
                    vec![(place, room), (hole, beyond)],
                    vec![(place, room), (hole, beyond), (Place::Writable, 100)],
                    vec![(place, room + beyond), (Place::Writable, 100)],
                    vec![(hole, 0), (place, room), (Place::ReadOnly, beyond)],
                    vec![(place, room), (Place::Nowhere(8), beyond)],
                ] {
                    let count = Value(i64::try_from(buffers.len())?);
                    let arguments = [open(&node), Buffers(&buffers), count];
                    caller.delivered("readv", &arguments, place, room)?;
                    let arguments = [open(&node), Buffers(&buffers), count, Value(-1), Value(-1)];
                    caller.delivered("preadv2", &arguments, place, room)?;
                }
            }
            caller.goes_on()?;
        }
        Ok(())
    })
}

/// Vectors of no buffers, of as many as there may be and one more; of lengths that add up to more
/// than is possible; that are not there themselves.
fn vectors_of_all_sizes(guest: &mut Guest) -> Result<()> {
    as_each_user(guest, |caller| {
        let node = caller.node.clone();
        let one = [(Place::Writable, 8)];
        // readv(2): "The iovcnt argument is ... greater than the permitted maximum"; none is
        // allowed, says POSIX, to be an error.
        let none = caller.try_to("readv", &[open(&node), Buffers(&one), Value(0)]);
        ensure!(matches!(none, Ok(0) | Err(Errno::INVAL)), "{none:?}");
        // An int, says POSIX, so no more of it counts.
        let most = MOST_BUFFERS as i64;
        for count in [
            -1,
            i64::from(i32::MIN),
            i64::from(i32::MAX),
            most + 1,
            65_536,
        ] {
            let arguments = [open(&node), Buffers(&one), Value(count)];
            caller.refused("readv", &arguments, &[Errno::INVAL])?;
        }
        // Small ones side by side, all there may be: in full, or up to the maximum.
        for length in [1, 13, 97, 98] {
            let buffers: Vec<_> = (0..=MOST_BUFFERS)
                .map(|index| (Place::Before(ROOM - index * length), length))
                .collect();
            let all = &buffers[..MOST_BUFFERS];
            let count = Value(MOST_BUFFERS as i64);
            let expected = (MOST_BUFFERS * length).min(MAX_READ);
            let arguments = [open(&node), Buffers(all), count];
            caller.delivered("readv", &arguments, Place::Writable, expected)?;
            let arguments = [
                open(&node),
                Buffers(&buffers),
                Value(MOST_BUFFERS as i64 + 1),
            ];
            caller.refused("readv", &arguments, &[Errno::INVAL])?;
        }
        // Buffers of nothing between others.
        let sparse: Vec<_> = (0..MOST_BUFFERS)
            .map(|index| match index % 3 {
                0 => (Place::Before(ROOM - index / 3 * 100), 100),
                1 => (Place::Nowhere(0), 0),
                _ => (Place::Hole, 0),
            })
            .collect();
        let expected = MOST_BUFFERS.div_ceil(3) * 100;
        let arguments = [open(&node), Buffers(&sparse), Value(MOST_BUFFERS as i64)];
        caller.delivered("readv", &arguments, Place::Writable, expected)?;
        let nothing = vec![(Place::Hole, 0); MOST_BUFFERS];
        let arguments = [open(&node), Buffers(&nothing), Value(MOST_BUFFERS as i64)];
        caller.delivered("readv", &arguments, Place::Writable, 0)?;
        // Too long, one of them or all together.
        let longest = isize::MAX as usize;
        for buffers in [
            [(Place::Writable, longest), (Place::Writable, longest)],
            [(Place::Writable, usize::MAX), (Place::Writable, 1)],
            [(Place::Writable, 8), (Place::Writable, longest + 1)],
            [(Place::Writable, longest), (Place::Writable, 1)],
        ] {
            let arguments = [open(&node), Buffers(&buffers), Value(2)];
            caller.refused("readv", &arguments, &[Errno::INVAL, Errno::FAULT])?;
        }
        for place in NOWHERE.into_iter().chain([Place::Hole]) {
            for count in [1, 2, 9, MOST_BUFFERS as i64] {
                let arguments = [open(&node), At(place), Value(count)];
                caller.refused("readv", &arguments, &[Errno::FAULT])?;
            }
        }
        Ok(())
    })
}

/// Nothing, the longest there can be, and what is no length.
fn lengths_of_all_sizes(guest: &mut Guest) -> Result<()> {
    as_each_user(guest, |caller| {
        let node = caller.node.clone();
        for place in [
            Place::Writable,
            Place::Hole,
            Place::ReadOnly,
            Place::Nowhere(0),
        ] {
            let nothing = [open(&node), At(place), Value(0)];
            caller.delivered("read", &nothing, Place::Writable, 0)?;
        }
        // read(2): more than SSIZE_MAX is not defined, and no buffer is that long.
        for length in HUGE {
            let arguments = [open(&node), At(Place::Writable), Value(length)];
            caller.refused("read", &arguments, &[Errno::INVAL, Errno::FAULT])?;
            let arguments = [open(&node), At(Place::Before(1)), Value(length)];
            caller.refused("read", &arguments, &[Errno::INVAL, Errno::FAULT])?;
        }
        for length in [
            MAX_READ as i64 + 1,
            ROOM as i64,
            ROOM as i64 + 1,
            0x7fff_f000,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
        ] {
            let place = Place::Writable;
            let arguments = [open(&node), At(place), Value(length)];
            caller.delivered("read", &arguments, place, MAX_READ)?;
        }
        Ok(())
    })
}

/// write(2) and all that write: EINVAL where the node was opened for writing, otherwise EBADF.
fn writing_is_refused_in_every_way(guest: &mut Guest) -> Result<()> {
    as_each_user(guest, |caller| {
        let (node, writable) = (caller.node.clone(), caller.writable.clone());
        let places = NOWHERE.into_iter().chain([
            Place::Writable,
            Place::ReadOnly,
            Place::Hole,
            Place::Before(1),
        ]);
        for place in places {
            for length in LENGTHS {
                let (bytes, buffers) = (Value(length as i64), [(place, length)]);
                let vector = [Buffers(&buffers), Value(1)];
                for (file, error) in [(&node, Errno::BADF), (&writable, Errno::INVAL)] {
                    let file = open(file);
                    // With a bad buffer there are two things wrong.
                    let good = matches!(place, Place::Writable | Place::ReadOnly);
                    let errors = [error, Errno::FAULT];
                    let errors = &errors[..if good { 1 } else { 2 }];
                    caller.refused("write", &[file, At(place), bytes], errors)?;
                    caller.refused("writev", &[file, vector[0], vector[1]], errors)?;
                    let at_position = [file, vector[0], vector[1], Value(-1), Value(-1)];
                    caller.refused("pwritev2", &at_position, errors)?;
                    // pwrite(2) needs a position, and this file has none.
                    let errors = [error, Errno::FAULT, Errno::SPIPE];
                    for offset in [0, 1, 4096, i64::MAX] {
                        let at = [file, At(place), bytes, Value(offset)];
                        caller.refused("pwrite", &at, &errors)?;
                        let at = [file, vector[0], vector[1], Value(offset)];
                        caller.refused("pwritev", &at, &errors)?;
                        caller.refused("pwritev2", &at, &errors)?;
                    }
                }
            }
        }
        for length in HUGE {
            for file in [&node, &writable] {
                let arguments = [open(file), At(Place::Writable), Value(length)];
                let errors = [Errno::BADF, Errno::INVAL, Errno::FAULT];
                caller.refused("write", &arguments, &errors)?;
            }
        }
        // Flags of any kind make it no better.
        for bit in 0..32 {
            let buffers = [(Place::Writable, 8)];
            let arguments = [
                open(&writable),
                Buffers(&buffers),
                Value(1),
                Value(-1),
                Value(-1),
                Value(1 << bit),
            ];
            caller.refused("pwritev2", &arguments, &[Errno::INVAL, Errno::OPNOTSUPP])?;
        }
        Ok(())
    })
}

/// lseek(2), pread(2), preadv(2): ESPIPE, or EINVAL for what is no offset or no kind of seeking.
fn there_is_no_position_in_any_way(guest: &mut Guest) -> Result<()> {
    as_each_user(guest, |caller| {
        let node = caller.node.clone();
        let offsets = || {
            HUGE.into_iter()
                .chain([0, 1, 4095, 4096, 16_000, 1 << 31, 1 << 32])
        };
        for offset in offsets() {
            for whence in [0, 1, 2, 3, 4] {
                let arguments = [open(&node), Value(offset), Value(whence)];
                caller.refused("lseek", &arguments, &[Errno::SPIPE])?;
            }
            for whence in [5, 6, 255, -1, i64::from(u32::MAX)] {
                let arguments = [open(&node), Value(offset), Value(whence)];
                caller.refused("lseek", &arguments, &[Errno::SPIPE, Errno::INVAL])?;
            }
            let errors: &[Errno] = if offset < 0 {
                &[Errno::SPIPE, Errno::INVAL]
            } else {
                &[Errno::SPIPE]
            };
            for length in LENGTHS {
                let place = At(Place::Writable);
                let arguments = [open(&node), place, Value(length as i64), Value(offset)];
                caller.refused("pread", &arguments, errors)?;
                let buffers = [(Place::Writable, length)];
                let arguments = [open(&node), Buffers(&buffers), Value(1), Value(offset)];
                caller.refused("preadv", &arguments, errors)?;
                // Of the 64 bits of this offset, these are enough on a 64-bit machine; -1 stands
                // for the position.
                if offset != -1 {
                    caller.refused("preadv2", &arguments, errors)?;
                }
            }
        }
        // Flags: what is not known is refused, and what is has its effect or is refused, too.
        for bit in 0..32 {
            let place = Place::Writable;
            let buffers = [(place, 8)];
            let arguments = [
                open(&node),
                Buffers(&buffers),
                Value(1),
                Value(-1),
                Value(-1),
                Value(1 << bit),
            ];
            match caller.try_to("preadv2", &arguments) {
                Ok(count) => {
                    let bytes = caller.memory.bytes(place, count);
                    caller.stream.expect(&bytes)?;
                }
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {}
                // RWF_NOWAIT, and nothing is ready.
                Err(Errno::AGAIN) if bit == 3 => {}
                Err(error) => anyhow::bail!("preadv2 with flag {bit}: {error}"),
            }
        }
        Ok(())
    })
}

/// What only regular files, directories or disks have.
fn it_is_no_regular_file(guest: &mut Guest) -> Result<()> {
    as_each_user(guest, |caller| {
        let (node, writable) = (caller.node.clone(), caller.writable.clone());
        for file in [&node, &writable] {
            let file = open(file);
            for length in [0, 1, 4096, i64::MAX, -1] {
                // ftruncate(2), fallocate(2), sync_file_range(2), readahead(2).
                let errors = [Errno::INVAL, Errno::BADF];
                caller.refused("ftruncate", &[file, Value(length)], &errors)?;
                for mode in [0, 1, 2, 3, 8, 0x10, 0x20, 0x40, 0x80, -1] {
                    let arguments = [file, Value(mode), Value(0), Value(length)];
                    let errors = [Errno::NODEV, Errno::BADF, Errno::INVAL, Errno::OPNOTSUPP];
                    caller.refused("fallocate", &arguments, &errors)?;
                }
                let errors = [Errno::SPIPE, Errno::INVAL];
                for flags in [0, 1, 2, 4, 7, 8, -1] {
                    let arguments = [file, Value(0), Value(length), Value(flags)];
                    caller.refused("sync_file_range", &arguments, &errors)?;
                }
                let arguments = [file, Value(0), Value(length)];
                caller.refused("readahead", &arguments, &[Errno::INVAL])?;
                // posix_fadvise(2) is advice, which may be taken or not.
                for advice in -1..=8 {
                    let arguments = [file, Value(0), Value(length), Value(advice)];
                    let result = caller.try_to("fadvise", &arguments);
                    ensure!(matches!(result, Ok(0) | Err(Errno::INVAL)), "{result:?}");
                }
                let arguments = [file, At(Place::Writable), Value(length)];
                caller.refused("getdents64", &arguments, &[Errno::NOTDIR])?;
            }
            // fsync(2): "fd is bound to a special file ... which does not support synchronization".
            caller.refused("fsync", &[file], &[Errno::INVAL])?;
            caller.refused("fdatasync", &[file], &[Errno::INVAL])?;
            caller.refused("fchdir", &[file], &[Errno::NOTDIR])?;
        }
        Ok(())
    })
}

/// mmap(2): ENODEV, or what else is wrong with the arguments; never memory.
fn it_cannot_be_mapped(guest: &mut Guest) -> Result<()> {
    /// Behind `MAP_SHARED`, `MAP_PRIVATE` and `MAP_SHARED_VALIDATE`: none, and those that change
    /// how a mapping is made (`uapi/asm-generic/mman*.h`).
    const MORE: [i64; 12] = [
        0, 0x20_0000, 0x40, 0x100, 0x800, 0x2000, 0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000,
        0x8_0000,
    ];
    as_each_user(guest, |caller| {
        let (node, writable) = (caller.node.clone(), caller.writable.clone());
        let any = At(Place::Nowhere(0));
        for (file, protections) in [(&node, 0..8), (&writable, 0..8)] {
            let file = open(file);
            for protection in protections {
                for kind in 1..=3 {
                    for more in MORE {
                        for (length, offset) in [
                            (1, 0),
                            (4096, 0),
                            (MAX_READ as i64, 4096),
                            (1 << 40, 1 << 40),
                        ] {
                            let numbers = [length, protection, kind | more];
                            let [length, protection, flags] = numbers.map(Value);
                            let arguments = [any, length, protection, flags, file, Value(offset)];
                            let errors = [
                                Errno::NODEV,
                                Errno::ACCESS,
                                Errno::INVAL,
                                Errno::OPNOTSUPP,
                                Errno::PERM,
                                Errno::NOMEM,
                                Errno::AGAIN,
                                Errno::OVERFLOW,
                            ];
                            caller.refused("mmap", &arguments, &errors)?;
                        }
                    }
                }
            }
        }
        // Where nothing else is wrong: "does not support memory mapping".
        for (file, protection, flags) in [
            (&node, 1, 1),
            (&node, 1, 2),
            (&node, 3, 2),
            (&writable, 3, 1),
            (&writable, 2, 1),
        ] {
            let numbers = [4096, protection, flags].map(Value);
            let [length, protection, flags] = numbers;
            let arguments = [any, length, protection, flags, open(file), Value(0)];
            caller.refused("mmap", &arguments, &[Errno::NODEV])?;
        }
        let arguments = [any, Value(0), Value(1), Value(2), open(&node), Value(0)];
        caller.refused("mmap", &arguments, &[Errno::INVAL])
    })
}

/// What the kernel answers for any file: FIBMAP, FIGETBSZ, FIONCLEX, FIOCLEX, FIOASYNC, FIONBIO,
/// FIOQSIZE (`uapi/asm-generic/ioctls.h`), and what begins with `FI` or `FS_IOC_` in
/// `uapi/linux/fs.h`, by their lowest 16 bits: type and number. Some are there for one direction
/// and size only.
fn is_general(command: u32) -> bool {
    let [number, kind, ..] = command.to_le_bytes();
    matches!(
        (kind, number),
        (0x00, 1 | 2)
            | (0x54, 0x21 | 0x50 | 0x51 | 0x52 | 0x60)
            | (b'X', 31 | 32 | 40..=43 | 57 | 119..=121 | 125)
            | (0x94, 9 | 13 | 49 | 50 | 54)
            | (b'f', 1 | 2 | 11)
            | (b'v', 1 | 2)
            | (0x15, _)
    )
}

/// ioctl(2): ENOTTY, whatever is asked: all types and all numbers, without a size and with some; so
/// no terminal's (TCGETS), no socket's (FIONREAD) and none of `/dev/random`'s (RNDADDENTROPY) is
/// known.
fn no_ioctl_is_known(guest: &mut Guest) -> Result<()> {
    as_each_user(guest, |caller| {
        let node = caller.node.clone();
        let mut rng = fastrand::Rng::with_seed(1);
        // Direction and size: _IO, and _IOWR of two ints.
        let forms = [0, 0xc008_0000];
        let commands = (0..=0xffff_u32).flat_map(|low| forms.map(|form| low | form));
        let random = std::iter::repeat_with(|| rng.u32(..)).take(20_000);
        for command in commands
            .chain(random)
            .filter(|command| !is_general(*command))
        {
            let place = Place::Nowhere(0);
            let arguments = [open(&node), Value(i64::from(command)), At(place)];
            caller.refused("ioctl", &arguments, &[Errno::NOTTY])?;
        }
        // What the kernel itself answers: with any argument, and nothing of it lasts.
        caller.memory.fill(&[0xff; 4096]);
        for place in NOWHERE.into_iter().chain([Place::Hole, Place::Writable]) {
            for command in [
                0x01,
                0x02,
                0x5452,
                0x5460,
                0xc004_5877,
                0xc004_5878,
                0xc020_660b,
                0x4004_9409,
                0x4020_940d,
                0xc018_9436,
                0x8008_6601,
                0x801c_581f,
                0x8011_1500,
                0x8081_1501,
                0x4030_5828,
                0x4030_582a,
            ] {
                let arguments = [open(&node), Value(command), At(place)];
                let _ = caller.try_to("ioctl", &arguments);
            }
        }
        // FIONBIO: as O_NONBLOCK, on and off.
        for (value, expected) in [(1_i32, OFlags::NONBLOCK), (0, OFlags::empty())] {
            caller.memory.fill(&value.to_ne_bytes());
            let arguments = [open(&node), Value(0x5421), At(Place::Writable)];
            let result = caller.try_to("ioctl", &arguments);
            ensure!(result == Ok(0), "FIONBIO: {result:?}");
            let flags = rustix::fs::fcntl_getfl(&node)?;
            ensure!(flags & OFlags::NONBLOCK == expected, "{flags:?}");
        }
        Ok(())
    })
}

/// fcntl(2) and flock(2): flags that can be set are, others are not; locks are there, leases, seals
/// and pipes are not.
fn flags_locks_and_leases(guest: &mut Guest) -> Result<()> {
    as_each_user(guest, |caller| {
        let node = caller.node.clone();
        let file = || open(&node);
        // Those that only say how to read can be set (O_APPEND, O_NONBLOCK, O_ASYNC, and O_NOATIME
        // by the owner), O_DIRECT not on this file; how it was opened stays.
        let bits = (0..32).map(|bit| 1_u32 << bit);
        for bits in bits.chain([u32::MAX, 0]) {
            let result = rustix::fs::fcntl_setfl(&node, OFlags::from_bits_retain(bits));
            ensure!(
                matches!(result, Ok(()) | Err(Errno::INVAL | Errno::PERM)),
                "F_SETFL {bits:x}: {result:?}"
            );
            let now = rustix::fs::fcntl_getfl(&node)?;
            ensure!(
                now & OFlags::RWMODE == OFlags::RDONLY,
                "opened for writing by F_SETFL {bits:x}"
            );
            caller.calls += 2;
        }
        // It has no signals to send (O_ASYNC), and goes on without.
        rustix::fs::fcntl_setfl(&node, OFlags::from_bits_retain(libc::O_ASYNC as u32))?;
        caller.goes_on()?;
        rustix::fs::fcntl_setfl(&node, OFlags::empty())?;
        // F_SETLEASE, F_NOTIFY, F_SETPIPE_SZ, F_GETPIPE_SZ, F_ADD_SEALS, F_GET_SEALS.
        for kind in [0, 1] {
            let arguments = [file(), Value(1024), Value(kind)];
            caller.refused("fcntl", &arguments, &[Errno::INVAL, Errno::ACCESS])?;
        }
        for argument in [1, 64, 4095, -1] {
            for (command, error) in [
                (1026, Errno::NOTDIR),
                (1031, Errno::BADF),
                (1032, Errno::BADF),
                (1033, Errno::INVAL),
                (1034, Errno::INVAL),
            ] {
                let arguments = [file(), Value(command), Value(argument)];
                // Nor may a file be sealed that is only open for reading; a small kernel does not know
                // all of these (CONFIG_DNOTIFY, CONFIG_MEMFD_CREATE).
                caller.refused("fcntl", &arguments, &[error, Errno::PERM, Errno::INVAL])?;
            }
        }
        // Those that there are not.
        for command in [18, 100, 1023, 1050, 2000, 0xffff_ffff] {
            let arguments = [file(), Value(command), Value(0)];
            caller.refused("fcntl", &arguments, &[Errno::INVAL])?;
        }
        // F_GETLK, F_SETLK, F_OFD_GETLK, F_OFD_SETLK, F_GETOWN_EX, F_GET_RW_HINT: to nowhere.
        for command in [5, 6, 36, 37, 16, 1035] {
            for place in [Place::Nowhere(0), Place::Nowhere(1 << 63), Place::Hole] {
                let arguments = [file(), Value(command), At(place)];
                let errors = [Errno::FAULT, Errno::INVAL];
                caller.refused("fcntl", &arguments, &errors)?;
            }
        }
        // flock(2): LOCK_SH, LOCK_EX, LOCK_UN; LOCK_NB with it. A lock is no obstacle to reading.
        for operation in [0, 3, 16, 64] {
            caller.refused("flock", &[file(), Value(operation)], &[Errno::INVAL])?;
        }
        let other = caller.writable.clone();
        for (operation, refused) in [(1, false), (2, true)] {
            let done = caller.try_to("flock", &[file(), Value(operation)]);
            ensure!(done == Ok(0), "flock {operation}: {done:?}");
            let result = caller.try_to("flock", &[open(&other), Value(1 | 4)]);
            ensure!(result == if refused { Err(Errno::AGAIN) } else { Ok(0) });
            caller.goes_on()?;
            caller.try_to("flock", &[open(&other), Value(8)])?;
            caller.try_to("flock", &[file(), Value(8)])?;
        }
        Ok(())
    })
}

/// open(2): each bit of the flags, and combinations that make no sense; nobody cannot open it at
/// all.
fn opened_in_every_way(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let mut stream = guest.stream();
    let flags = |bits: u32| OFlags::from_bits_retain(bits);
    let open_with = |bits| rustix::fs::open(NODE, flags(bits), Mode::empty());
    let (create, exclusive) = (OFlags::CREATE.bits(), OFlags::EXCL.bits());
    let mut opened = 0;
    for access in 0..4 {
        for bit in 2..32 {
            let bits = access | (1 << bit);
            match open_with(bits) {
                Ok(file) => {
                    opened += 1;
                    let mut bytes = [0; 8];
                    let read = rustix::io::read(&file, &mut bytes);
                    // For reading, and reading it is; or a name only.
                    let path_only = flags(bits).contains(OFlags::PATH);
                    let may_read = access % 2 == 0 && !path_only;
                    match read {
                        Ok(8) if may_read => stream.expect(&bytes)?,
                        Err(Errno::BADF) if !may_read => {}
                        Err(Errno::AGAIN) if flags(bits).contains(OFlags::NONBLOCK) => {}
                        read => anyhow::bail!("flags {bits:x}: {read:?}"),
                    }
                }
                Err(Errno::INVAL | Errno::NOTDIR | Errno::OPNOTSUPP) => {}
                Err(error) => anyhow::bail!("flags {bits:x}: {error}"),
            }
        }
    }
    // Without flags, and with those that a character device has no use for, it opens (open(2)).
    ensure!(opened >= 40, "only {opened} times");
    for (bits, expected) in [
        (create | exclusive, Errno::EXIST),
        (create | exclusive | OFlags::NOFOLLOW.bits(), Errno::EXIST),
        (OFlags::DIRECTORY.bits(), Errno::NOTDIR),
        (OFlags::TMPFILE.bits() | OFlags::RDWR.bits(), Errno::NOTDIR),
        (OFlags::DIRECT.bits(), Errno::INVAL),
    ] {
        let result = open_with(bits).map(drop);
        ensure!(result == Err(expected), "flags {bits:x}: {result:?}");
    }
    // Opened for writing only, or with the fourth access mode: not to be read.
    for bits in [1, 3] {
        let file = open_with(bits)?;
        ensure!(rustix::io::read(&file, &mut [0; 8]) == Err(Errno::BADF));
    }
    // Truncated, created, appended to: it is what it was.
    let all = OFlags::TRUNC | OFlags::CREATE | OFlags::APPEND | OFlags::RDWR;
    stream.expect(&Node::open_with(all)?.read(100)?)?;
    // By its link in /proc, as often as one likes.
    let number = node.as_fd().as_raw_fd();
    let again = File::open(format!("/proc/self/fd/{number}"))?;
    let mut bytes = [0; 100];
    rustix::io::read(&again, &mut bytes)?;
    stream.expect(&bytes)?;
    let by_nobody = Background::start(move || {
        become_nobody()?;
        for bits in (0..32).map(|bit| 1_u32 << bit).chain([0, 2]) {
            let path_only = flags(bits).contains(OFlags::PATH);
            let opened = rustix::fs::open(NODE, flags(bits), Mode::empty());
            ensure!(opened.is_err() || path_only, "{bits:x}: nobody can open it");
        }
        ensure!(File::open(format!("/proc/self/fd/{number}")).is_err());
        Ok(())
    })?;
    by_nobody.join()??;
    stream.expect(&node.read(1000)?)
}

/// splice(2), tee(2), vmsplice(2), sendfile(2), copy_file_range(2) from the node and to it: what
/// goes into a pipe is the stream, what cannot go anywhere stays.
fn spliced_in_every_direction(guest: &mut Guest) -> Result<()> {
    as_each_user(guest, |caller| {
        let (node, writable) = (caller.node.clone(), caller.writable.clone());
        let (from, to) = rustix::pipe::pipe()?;
        let (_full_end, full) = rustix::pipe::pipe()?;
        rustix::fs::fcntl_setfl(&full, OFlags::NONBLOCK)?;
        while rustix::io::write(&full, &[0; 4096]).is_ok() {}
        let null = At(Place::Nowhere(0));
        let bytes = |length: i64| Value(length);
        for flags in [0, 1, 2, 4, 7] {
            // Into a pipe: up to what it has room for.
            for length in [1, 7, 4096, 10_000] {
                let arguments = [
                    open(&node),
                    null,
                    open(&to),
                    null,
                    bytes(length),
                    Value(flags),
                ];
                let moved = caller.try_to("splice", &arguments);
                let moved = match moved {
                    // SPLICE_F_NONBLOCK, and nothing was ready.
                    Err(Errno::AGAIN) if flags & 2 != 0 => 0,
                    moved => moved.context("splice(2)")?,
                };
                let mut got = vec![0; moved];
                if moved > 0 {
                    ensure!(rustix::io::read(&from, &mut got[..])? == moved);
                }
                caller.stream.expect(&got)?;
            }
            // A pipe that is full takes nothing, and nothing is lost.
            let file = open(&full);
            let arguments = [open(&node), null, file, null, bytes(4096), Value(flags | 2)];
            caller.refused("splice", &arguments, &[Errno::AGAIN])?;
            caller.goes_on()?;
            // At a position, which neither of them has.
            for (input, output) in [(Place::Writable, None), (Place::Hole, None)] {
                let output = output.map_or(null, At);
                let file = open(&to);
                let arguments = [open(&node), At(input), file, output, bytes(8), Value(flags)];
                let errors = [Errno::SPIPE, Errno::FAULT, Errno::INVAL];
                caller.refused("splice", &arguments, &errors)?;
                let arguments = [open(&node), null, file, At(input), bytes(8), Value(flags)];
                caller.refused("splice", &arguments, &errors)?;
            }
            // To the node; between two files without a pipe.
            rustix::io::write(&to, &[7; 100])?;
            for (output, errors) in [
                (&node, [Errno::BADF, Errno::BADF]),
                (&writable, [Errno::INVAL, Errno::INVAL]),
            ] {
                let file = open(output);
                let arguments = [open(&from), null, file, null, bytes(100), Value(flags)];
                caller.refused("splice", &arguments, &errors)?;
                let errors = [Errno::BADF, Errno::INVAL];
                let arguments = [open(&node), null, file, null, bytes(100), Value(flags)];
                caller.refused("splice", &arguments, &errors)?;
                let arguments = [open(&from), file, bytes(100), Value(flags)];
                caller.refused("tee", &arguments, &[Errno::INVAL, Errno::BADF])?;
                let arguments = [file, open(&to), bytes(100), Value(flags)];
                caller.refused("tee", &arguments, &[Errno::INVAL, Errno::BADF])?;
                let buffers = [(Place::Writable, 100)];
                let arguments = [file, Buffers(&buffers), Value(1), Value(flags)];
                caller.refused("vmsplice", &arguments, &[Errno::BADF, Errno::INVAL])?;
            }
            // The pipe has kept what could not go.
            let mut kept = [0; 200];
            ensure!(rustix::io::read(&from, &mut kept)? == 100 && kept[..100] == [7; 100]);
        }
        // sendfile(2): to a pipe, at a position, and to what cannot be written.
        let arguments = [open(&to), open(&node), null, bytes(5000)];
        let sent = caller
            .try_to("sendfile", &arguments)
            .context("sendfile(2)")?;
        let mut got = vec![0; sent];
        rustix::io::read(&from, &mut got[..])?;
        caller.stream.expect(&got)?;
        for place in [Place::Writable, Place::Hole, Place::Nowhere(1 << 63)] {
            let arguments = [open(&to), open(&node), At(place), bytes(5000)];
            caller.refused("sendfile", &arguments, &[Errno::SPIPE, Errno::FAULT])?;
        }
        let arguments = [open(&node), open(&node), null, bytes(5000)];
        caller.refused("sendfile", &arguments, &[Errno::BADF])?;
        // That this one takes nothing is found out behind the read: as with any file, what was read
        // then is nobody's.
        let arguments = [open(&writable), open(&node), null, bytes(5000)];
        caller.refused("sendfile", &arguments, &[Errno::INVAL])?;
        caller.stream.take(5000);
        caller.goes_on()?;
        for length in HUGE.into_iter().filter(|length| *length < 0) {
            let arguments = [open(&to), open(&node), null, bytes(length)];
            caller.refused("sendfile", &arguments, &[Errno::INVAL])?;
            let arguments = [open(&node), null, open(&to), null, bytes(length), Value(8)];
            caller.refused("splice", &arguments, &[Errno::INVAL])?;
        }
        // copy_file_range(2) is for regular files.
        for (input, output) in [(&node, &writable), (&writable, &node)] {
            let files = [open(input), open(output)];
            for place in [null, At(Place::Writable)] {
                for flags in [0, 1, -1] {
                    let arguments = [files[0], place, files[1], place, bytes(4096), Value(flags)];
                    let errors = [Errno::INVAL, Errno::BADF, Errno::FAULT];
                    caller.refused("copy_file_range", &arguments, &errors)?;
                }
            }
        }
        Ok(())
    })
}

/// poll(2), select(2), epoll(7) for anything and nothing: readable when it is, and nothing else
/// ever.
fn polled_for_anything(guest: &mut Guest) -> Result<()> {
    as_each_user(guest, |caller| {
        let node = caller.node.clone();
        let readable = PollFlags::IN | PollFlags::RDNORM;
        let limit = timespec(PATIENCE);
        let mut file = [PollFd::new(&node, PollFlags::IN)];
        ensure!(rustix::event::poll(&mut file, Some(&limit))? == 1);
        for bits in (0..16).map(|bit| 1 << bit).chain([0, 0xffff, 0xfffe]) {
            let asked = PollFlags::from_bits_retain(bits);
            let mut file = [PollFd::new(&node, asked)];
            rustix::event::poll(&mut file, Some(&timespec(Duration::ZERO)))?;
            let told = file[0].revents();
            ensure!(told == readable & asked, "{asked:?}: {told:?}");
        }
        // select(2): readable, not writable, no exception.
        let number = usize::try_from(node.as_fd().as_raw_fd())?;
        let mut set = [0_u8; 128];
        set[number / 8] = 1 << (number % 8);
        // A time span of zero is behind the set.
        caller.memory.fill(&[&set[..], &[0; 128]].concat());
        let no_time = At(Place::Before(ROOM - 128));
        let (sets, null) = (At(Place::Writable), At(Place::Nowhere(0)));
        for (which, expected) in [(0, 1), (1, 0), (2, 0)] {
            caller.memory.fill(&[&set[..], &[0; 128]].concat());
            let mut arguments = [Value(number as i64 + 1), null, null, null, no_time, null];
            arguments[which + 1] = sets;
            let ready = caller.try_to("pselect6", &arguments);
            ensure!(ready == Ok(expected), "select {which}: {ready:?}");
        }
        for place in [Place::Nowhere(8), Place::Hole, Place::Nowhere(1 << 63)] {
            let arguments = [
                Value(number as i64 + 1),
                At(place),
                null,
                null,
                no_time,
                null,
            ];
            caller.refused("pselect6", &arguments, &[Errno::FAULT])?;
            let arguments = [At(place), Value(1), no_time, null, Value(8)];
            caller.refused("ppoll", &arguments, &[Errno::FAULT])?;
        }
        for count in HUGE {
            let arguments = [Value(count), sets, null, null, no_time, null];
            let result = caller.try_to("pselect6", &arguments);
            // The number of files is an int, of which the lowest 32 bits count.
            let lowest = count as i32;
            ensure!(
                result == Err(Errno::INVAL) || lowest >= 0,
                "{count}: {result:?}"
            );
        }
        // epoll(7): any bits, added, changed, and taken out; what was closed is gone by itself.
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(1);
        for bit in 0..32 {
            let flags = epoll::EventFlags::from_bits_retain(1 << bit);
            epoll::add(&epoll, &node, data, flags)?;
            ensure!(epoll::add(&epoll, &node, data, flags) == Err(Errno::EXIST));
            let mut events = Vec::with_capacity(4);
            let time = timespec(Duration::ZERO);
            epoll::wait(
                &epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&time),
            )?;
            let told = events.iter().fold(0, |told, event| {
                let event: &epoll::Event = event;
                let flags = event.flags;
                told | flags.bits()
            });
            let expected = u32::from(readable.bits()) & (1 << bit);
            ensure!(told == expected, "epoll for bit {bit}: {told:x}");
            epoll::delete(&epoll, &node)?;
            ensure!(epoll::delete(&epoll, &node) == Err(Errno::NOENT));
            caller.calls += 5;
        }
        let exclusive = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
        epoll::add(&epoll, &node, data, exclusive)?;
        ensure!(epoll::modify(&epoll, &node, data, exclusive) == Err(Errno::INVAL));
        for operation in [0, 4, 5, -1] {
            let arguments = [open(&epoll), Value(operation), open(&node), sets];
            caller.refused("epoll_ctl", &arguments, &[Errno::INVAL])?;
        }
        for (number, error) in [(-1, Errno::BADF), (1 << 20, Errno::BADF)] {
            let arguments = [open(&epoll), Value(1), Descriptor(number), sets];
            caller.refused("epoll_ctl", &arguments, &[error])?;
        }
        let arguments = [open(&node), Value(1), open(&epoll), sets];
        caller.refused("epoll_ctl", &arguments, &[Errno::INVAL])
    })
}

/// dup(2), dup2(2), close(2), fork(2) and SCM_RIGHTS while a read sleeps: the read has its file
/// until it returns, and so has whoever was given it; the module cannot be unloaded as long.
fn descriptors_come_and_go_under_a_sleeping_read(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let silent = guest.fall_silent()?;
    let mut bytes = node.read_all((usize::try_from(silent)? - 1) * BLOCK)?;
    let file = rustix::io::dup(&node)?;
    drop(node);
    // So that the descriptor to be closed is the lowest one that is free then.
    let _instead = File::open("/dev/null")?;

    // The descriptor that it reads from is closed, and then another file.
    let number = file.into_raw_fd();
    let reader = Background::start(move || {
        let mut memory = Memory::new()?;
        let arguments = [Descriptor(number), At(Place::Writable), Value(1000)];
        let got = memory.call(call("read"), &arguments)?;
        Ok::<_, Errno>(memory.bytes(Place::Writable, got))
    })?;
    reader.wait_until_reading()?;
    let mut memory = Memory::new()?;
    for _ in 0..100 {
        let again = memory.call(call("dup"), &[Descriptor(number)])?;
        memory.call(call("close"), &[Descriptor(i32::try_from(again)?)])?;
    }
    memory.call(call("close"), &[Descriptor(number)])?;
    ensure!(
        reader.goes_on_for(Duration::from_millis(100)),
        "it was ended by close(2)"
    );
    let null = File::open("/dev/null")?;
    ensure!(
        null.as_raw_fd() == number,
        "another descriptor than the one that was closed"
    );
    ensure!(
        reader.goes_on_for(Duration::from_millis(100)),
        "it reads another file"
    );
    ensure!(guest.unload().is_err(), "unloaded under a read");
    let missing = guest.answer_again(silent)?;
    bytes.extend(reader.join()??);
    drop(null);
    wait_until("the file to be closed", || guest.unload().is_ok())?;
    ensure!(!is_loaded());
    guest.expect_stream_but(&bytes, &missing)?;

    // A file that is under way between two processes, and that no process has.
    guest.begin_anew()?;
    let node = guest.start()?;
    let mut stream = guest.stream();
    let (left, right) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    let files = [node.as_fd()];
    ensure!(message.push(SendAncillaryMessage::ScmRights(&files)));
    let body = [IoSlice::new(b"x")];
    rustix::net::sendmsg(&left, &body, &mut message, SendFlags::empty())?;
    drop(node);
    ensure!(
        guest.unload().is_err(),
        "unloaded while a file is under way"
    );
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut body = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(&right, &mut body, &mut message, RecvFlags::CMSG_CLOEXEC)?;
    let received = message.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    let received = received.context("no file was received")?;
    let mut some = [0; 1000];
    ensure!(rustix::io::read(&received, &mut some)? == some.len());
    stream.expect(&some)?;

    // A child that was given the file goes on in the same stream, as root and as nobody.
    for user in [0, NOBODY] {
        let output = Command::new("dd")
            .args(["bs=5000", "count=1", "status=none"])
            .uid(user)
            .gid(user)
            .stdin(received.try_clone()?)
            .stderr(Stdio::inherit())
            .output()?;
        ensure!(output.status.success() && output.stdout.len() == 5000);
        stream.expect(&output.stdout)?;
    }
    stream.expect(&Node::open()?.read(1000)?)
}

/// io_uring: into registered buffers and with vectors as read(2) does; poll as poll(2) does; a read
/// that sleeps is ended by a timeout, by a cancellation, or by the end of its ring, and has taken
/// nothing.
fn rings_read_poll_and_cancel(guest: &mut Guest) -> Result<()> {
    let node = guest.start()?;
    let mut stream = guest.stream();
    guest.wait_until_full()?;
    let mut ring = Ring::new(MAX_READ)?;
    for count in [1, 8, 4095, 16_000] {
        for operation in [
            Operation::Read(count),
            Operation::ReadFixed(count),
            Operation::Readv(count),
        ] {
            // All of it is ready: the device has been waiting for room.
            guest.wait_until_full()?;
            ring.submit(&node, 1, operation, false)?;
            let (_, got) = ring.wait()?;
            ensure!(got == Ok(count), "{operation:?}: {got:?}");
            stream.expect(ring.bytes(count))?;
        }
    }
    let readable = u32::from((PollFlags::IN | PollFlags::RDNORM).bits());
    for events in [readable, u32::MAX >> 16, 1] {
        ring.submit(&node, 2, Operation::Poll(events), false)?;
        let (_, told) = ring.wait()?;
        ensure!(
            told == Ok((events & readable) as usize),
            "{events:x}: {told:?}"
        );
    }

    guest.fall_silent()?;
    let nonblocking = Node::open_nonblocking()?;
    stream.expect(&nonblocking.take_ready()?)?;
    let ended = |result| matches!(result, Err(Errno::CANCELED | Errno::INTR));
    for operation in [
        Operation::Read(100),
        Operation::ReadFixed(100),
        Operation::Readv(100),
        Operation::Poll(1),
    ] {
        // A timeout that is linked to it.
        ring.submit(&node, 3, operation, true)?;
        ring.submit(&node, 4, Operation::LinkedTimeout(100), false)?;
        for _ in 0..2 {
            let (number, result) = ring.wait()?;
            let timed_out = matches!(result, Err(Errno::TIME | Errno::ALREADY | Errno::CANCELED));
            ensure!(
                (number == 3 && ended(result)) || (number == 4 && timed_out),
                "{operation:?}: {number}: {result:?}"
            );
        }
        // A cancellation.
        ring.submit(&node, 5, operation, false)?;
        std::thread::sleep(Duration::from_millis(100));
        ring.submit(&node, 6, Operation::Cancel(5), false)?;
        for _ in 0..2 {
            let (number, result) = ring.wait()?;
            let found = matches!(result, Ok(_) | Err(Errno::ALREADY));
            ensure!(
                (number == 5 && ended(result)) || (number == 6 && found),
                "{operation:?}: {number}: {result:?}"
            );
        }
        // What is not there cannot be cancelled.
        ring.submit(&node, 7, Operation::Cancel(99), false)?;
        ensure!(ring.wait()? == (7, Err(Errno::NOENT)));
    }
    // The end of the ring; the file goes with it.
    ring.submit(&node, 8, Operation::Read(100), false)?;
    std::thread::sleep(Duration::from_millis(100));
    drop(ring);
    drop(nonblocking);
    drop(node);
    wait_until("the last read to be given up", || guest.unload().is_ok())?;
    guest.emulator.clear_faults()?;
    let next = guest.emulator.status()?.next_block;
    guest.load(&[])?;
    // The first block is the start-up test's.
    Stream::from_block(guest.seed, next + 1).expect(&Node::open()?.read_all(3 * BLOCK)?)
}
