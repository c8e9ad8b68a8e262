// SPDX-License-Identifier: GPL-2.0

//! System calls with odd arguments: addresses of all kinds, vectors with holes, any number.
//!
//! A call is made by its number, past the C library, which would repair or refuse some of what is
//! tried here. What makes that safe is a table of the calls' arguments: wherever the kernel may
//! take an argument for an address it is given one of [`Place`], and no memory of the program's own
//! is at any of them.

#![expect(
    unsafe_code,
    reason = "no safe wrapper passes addresses that are no good"
)]

use rustix::{
    io::Errno,
    mm::{
        MapFlags,
        MprotectFlags,
        ProtFlags, //
    },
};
use std::{
    ffi::{
        c_long,
        c_void,
        CStr, //
    },
    io,
    os::fd::{
        AsFd,
        AsRawFd,
        BorrowedFd,
        RawFd, //
    },
    ptr,
    slice, //
};

/// Bytes that can be written to, and as many behind them that cannot: more than any call here
/// writes at one address, and whole pages of any size.
pub(crate) const ROOM: usize = 1 << 20;

/// Bytes that can only be read, behind those.
const READ_ONLY: usize = 1 << 16;

/// Bytes for vectors and paths, which only the kernel reads.
const CONTROL: usize = 1 << 16;

/// The most buffers that a vector may have (`UIO_MAXIOV` of the kernel's `uapi/linux/uio.h`).
pub(crate) const MOST_BUFFERS: usize = 1024;

/// `MAP_FIXED` of the kernel's `uapi/asm-generic/mman-common.h`, which mmap(2) is never given here.
pub(crate) const MAP_FIXED: usize = 0x10;

/// The lowest page is never mapped (`vm.mmap_min_addr`).
const LOWEST: usize = 4096;

/// Addresses from here on are not a program's, with any size of pages.
const HIGHEST: usize = 1 << 56;

/// What an argument of a system call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file descriptor.
    File,
    /// Address of a buffer or of a structure; or a number, with calls that take either.
    Address,
    /// Address of a vector of buffers, the number of which is the next argument.
    Vector,
    /// Address of a path.
    Path,
    /// A length in bytes.
    Length,
    /// A position in a file.
    Offset,
    /// Anything else: bits, a number of the command, of files.
    Number,
}

use Kind::{
    Address,
    File,
    Length,
    Number,
    Offset,
    Path,
    Vector, //
};

/// A system call.
#[derive(Debug)]
pub(crate) struct Call {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its number.
    number: c_long,
    /// Its arguments.
    pub(crate) arguments: &'static [Kind],
}

/// Makes the table.
macro_rules! calls {
    ($($name:literal $number:ident ($($kind:ident),*);)+) => {
        /// Calls that work on open files, and on no memory but what they are given.
        pub(crate) const CALLS: &[Call] = &[$(Call {
            name: $name,
            number: libc::$number,
            arguments: &[$($kind),*],
        }),+];
    };
}

calls! {
    "read" SYS_read (File, Address, Length);
    "readv" SYS_readv (File, Vector, Number);
    "pread" SYS_pread64 (File, Address, Length, Offset);
    "preadv" SYS_preadv (File, Vector, Number, Offset, Offset);
    "preadv2" SYS_preadv2 (File, Vector, Number, Offset, Offset, Number);
    "write" SYS_write (File, Address, Length);
    "writev" SYS_writev (File, Vector, Number);
    "pwrite" SYS_pwrite64 (File, Address, Length, Offset);
    "pwritev" SYS_pwritev (File, Vector, Number, Offset, Offset);
    "pwritev2" SYS_pwritev2 (File, Vector, Number, Offset, Offset, Number);
    "lseek" SYS_lseek (File, Offset, Number);
    "ioctl" SYS_ioctl (File, Number, Address);
    "fcntl" SYS_fcntl (File, Number, Address);
    "mmap" SYS_mmap (Address, Length, Number, Number, File, Offset);
    "fsync" SYS_fsync (File);
    "fdatasync" SYS_fdatasync (File);
    "sync_file_range" SYS_sync_file_range (File, Offset, Offset, Number);
    "ftruncate" SYS_ftruncate (File, Offset);
    "fallocate" SYS_fallocate (File, Number, Offset, Offset);
    "fadvise" SYS_fadvise64 (File, Offset, Offset, Number);
    "readahead" SYS_readahead (File, Offset, Length);
    "flock" SYS_flock (File, Number);
    "fstat" SYS_fstat (File, Address);
    "fstatfs" SYS_fstatfs (File, Address);
    "fgetxattr" SYS_fgetxattr (File, Path, Address, Length);
    "flistxattr" SYS_flistxattr (File, Address, Length);
    "getdents64" SYS_getdents64 (File, Address, Length);
    "sendfile" SYS_sendfile (File, File, Address, Length);
    "splice" SYS_splice (File, Address, File, Address, Length, Number);
    "tee" SYS_tee (File, File, Length, Number);
    "vmsplice" SYS_vmsplice (File, Vector, Number, Number);
    "copy_file_range" SYS_copy_file_range (File, Address, File, Address, Length, Number);
    "ppoll" SYS_ppoll (Address, Number, Address, Address, Length);
    "pselect6" SYS_pselect6 (Number, Address, Address, Address, Address, Address);
    "epoll_ctl" SYS_epoll_ctl (File, Number, File, Address);
    "epoll_pwait" SYS_epoll_pwait (File, Address, Number, Number, Address, Length);
    "dup" SYS_dup (File);
    "close" SYS_close (File);
    "openat" SYS_openat (File, Path, Number, Number);
    "fchdir" SYS_fchdir (File);
}

/// The call with this name.
pub(crate) fn call(name: &str) -> &'static Call {
    let found = CALLS.iter().find(|call| call.name == name);
    found.unwrap_or_else(|| panic!("there is no {name} in the table"))
}

/// An address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The start of [`ROOM`] bytes that can be written to.
    Writable,
    /// So many bytes, at most [`ROOM`], before the end of those, behind which nothing is mapped.
    Before(usize),
    /// Memory that can only be read.
    ReadOnly,
    /// Memory without any permissions.
    Hole,
    /// This number, at which no program has memory: below [`LOWEST`], or the kernel's.
    Nowhere(usize),
}

/// Addresses at which no program has memory: null and nearly so; the kernel's memory and its code;
/// what is no address; and the last ones, where adding a length to an address gives a small number.
pub(crate) const NOWHERE: [Place; 8] = [
    Place::Nowhere(0),
    Place::Nowhere(8),
    Place::Nowhere(LOWEST - 1),
    Place::Nowhere(0xffff_8880_0000_0000),
    Place::Nowhere(0xffff_ffff_8100_0000),
    Place::Nowhere(1 << 63),
    Place::Nowhere(usize::MAX - 7),
    Place::Nowhere(usize::MAX),
];

/// An argument.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Argument<'a> {
    /// A file.
    Open(BorrowedFd<'a>),
    /// The descriptor with this number, whether there is one or not.
    Descriptor(RawFd),
    /// An address.
    At(Place),
    /// The address of a vector of these buffers.
    Buffers(&'a [(Place, usize)]),
    /// The address of this text.
    Text(&'a CStr),
    /// A number, of any use.
    Value(i64),
}

/// Memory to make calls with; for one thread.
///
/// # Invariants
///
/// `start` is the start of a private mapping of [`ROOM`] bytes that can be read and written, as
/// many that cannot, and [`READ_ONLY`] bytes that can be read. `control` is that of one of
/// [`CONTROL`] bytes that can be read and written. Nobody has a reference to either that lives
/// longer than a method.
pub(crate) struct Memory {
    /// What addresses point to.
    start: *mut c_void,
    /// What vectors and paths are in.
    control: *mut c_void,
    /// Bytes of `control` in use.
    used: usize,
}

// SAFETY: The mappings belong to this object alone.
unsafe impl Send for Memory {}

impl Memory {
    /// Maps it.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn new() -> Result<Self, Errno> {
        let all = ProtFlags::READ | ProtFlags::WRITE;
        let size = 2 * ROOM + READ_ONLY;
        // SAFETY: New mappings at addresses of the kernel's choice, which nobody uses yet. What
        // fails leaves a mapping behind, which does no harm.
        unsafe {
            let start = rustix::mm::mmap_anonymous(ptr::null_mut(), size, all, MapFlags::PRIVATE)?;
            rustix::mm::mprotect(start.byte_add(ROOM), ROOM, MprotectFlags::empty())?;
            let read_only = start.byte_add(2 * ROOM);
            rustix::mm::mprotect(read_only, READ_ONLY, MprotectFlags::READ)?;
            let control =
                rustix::mm::mmap_anonymous(ptr::null_mut(), CONTROL, all, MapFlags::PRIVATE)?;
            // INVARIANT: Just mapped.
            Ok(Self {
                start,
                control,
                used: 0,
            })
        }
    }

    /// The address of a place.
    fn address(&self, place: Place) -> usize {
        let start = self.start.addr();
        match place {
            Place::Writable => start,
            Place::Before(room) => {
                assert!(room <= ROOM);
                start + ROOM - room
            }
            Place::Hole => start + ROOM,
            Place::ReadOnly => start + 2 * ROOM,
            Place::Nowhere(number) => {
                assert!(!(LOWEST..HIGHEST).contains(&number));
                number
            }
        }
    }

    /// Puts bytes where the kernel finds them in the next call. Returns their address.
    fn put(&mut self, bytes: impl ExactSizeIterator<Item = u8>) -> usize {
        let offset = self.used.next_multiple_of(align_of::<libc::iovec>());
        assert!(bytes.len() <= CONTROL - offset);
        self.used = offset + bytes.len();
        // SAFETY: By the type's invariants, and the range was just checked.
        let to = unsafe {
            let start = self.control.cast::<u8>().add(offset);
            slice::from_raw_parts_mut(start, bytes.len())
        };
        to.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
        to.as_ptr().addr()
    }

    /// An argument as the kernel gets it, after a check that it is of its kind.
    fn pass(&mut self, kind: Kind, argument: Argument<'_>) -> usize {
        let is_one = match argument {
            Argument::Open(_) | Argument::Descriptor(_) => kind == File,
            // What happens to be in writable memory must not be taken for addresses.
            Argument::At(Place::Writable | Place::Before(_)) => matches!(kind, Address | Path),
            Argument::At(_) => matches!(kind, Address | Vector | Path),
            Argument::Buffers(_) => kind == Vector,
            Argument::Text(_) => kind == Path,
            Argument::Value(number) => match kind {
                // A number instead of an address must not happen to be a good one.
                Address => !(LOWEST..HIGHEST).contains(&(number as usize)),
                Length | Offset | Number => true,
                _ => false,
            },
        };
        assert!(is_one, "{argument:?} is no {kind:?}");
        match argument {
            Argument::Open(file) => file.as_raw_fd() as usize,
            Argument::Descriptor(number) => number as usize,
            Argument::At(place) => self.address(place),
            Argument::Buffers(buffers) => {
                let words: Vec<_> = buffers
                    .iter()
                    .flat_map(|(place, length)| [self.address(*place), *length])
                    .flat_map(usize::to_ne_bytes)
                    .collect();
                self.put(words.into_iter())
            }
            Argument::Text(text) => self.put(text.to_bytes_with_nul().iter().copied()),
            Argument::Value(number) => number as usize,
        }
    }

    /// Makes a call; what it returned. Arguments that are left out are 0.
    pub(crate) fn call(&mut self, call: &Call, arguments: &[Argument<'_>]) -> Result<usize, Errno> {
        assert!(arguments.len() <= call.arguments.len(), "{}", call.name);
        self.used = 0;
        for pair in arguments.windows(2) {
            if let [Argument::Buffers(buffers), Argument::Value(count)] = pair {
                // The kernel takes an int, and refuses more than the most. Behind the vector is
                // anything.
                let count = *count as u32 as usize;
                assert!(count <= buffers.len() || count > MOST_BUFFERS);
            }
        }
        let mut passed = [0_usize; 6];
        for ((to, kind), argument) in passed.iter_mut().zip(call.arguments).zip(arguments) {
            *to = self.pass(*kind, *argument);
        }
        // What lies at an address of the caller's choice would be replaced.
        assert!(call.number != libc::SYS_mmap || passed[3] & MAP_FIXED == 0);
        let [a, b, c, d, e, f] = passed;
        // SAFETY: By the table and the check above, all that the kernel may take for an address is
        // one of `Place`, a vector of such, or a path: there it finds memory of this object's,
        // which nobody has a reference to, or none. No call here writes more than `ROOM` bytes at
        // an address: what is behind the first part of the mapping is as large and cannot be
        // written to.
        match unsafe { libc::syscall(call.number, a, b, c, d, e, f) } {
            -1 => {
                let error = io::Error::last_os_error();
                Err(Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
            }
            result => Ok(result as usize),
        }
    }

    /// `count` bytes from a place that can be written to on.
    pub(crate) fn bytes(&self, place: Place, count: usize) -> Vec<u8> {
        let offset = match place {
            Place::Writable => 0,
            Place::Before(room) => ROOM - room,
            _ => panic!("{place:?} cannot be written to"),
        };
        assert!(count <= ROOM - offset);
        // SAFETY: By the type's invariants, and the range was just checked.
        unsafe { slice::from_raw_parts(self.start.cast::<u8>().add(offset), count) }.to_vec()
    }

    /// Puts bytes at the start of what can be written to.
    pub(crate) fn fill(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= ROOM);
        // SAFETY: As above; the object is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.start.cast::<u8>(), bytes.len()) }
            .copy_from_slice(bytes);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: By the type's invariants; no reference into it lives longer than it.
        unsafe {
            let _ = rustix::mm::munmap(self.start, 2 * ROOM + READ_ONLY);
            let _ = rustix::mm::munmap(self.control, CONTROL);
        }
    }
}

/// Gives this thread descriptors of its own: what it closes stays open in the others.
///
/// # Errors
///
/// The operating system's.
pub(crate) fn own_descriptors() -> io::Result<()> {
    // SAFETY: The thread keeps what it has open, and nobody is told of what it opens from now on.
    match unsafe { libc::unshare(libc::CLONE_FILES) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An open file as an argument.
pub(crate) fn open<F: AsFd>(file: &F) -> Argument<'_> {
    Argument::Open(file.as_fd())
}
