// SPDX-License-Identifier: GPL-2.0

//! A character device that can be polled, and that keeps its module loaded while it is open.
//!
//! Why it is here: the kernel crate's miscellaneous devices set no `owner` (unloading the module
//! with the node open is a use after free), have no `poll`, no attributes in sysfs, and give their
//! files no access to data of the driver. What would retire it: these four in
//! `rust/kernel/miscdevice.rs`.
//!
//! C headers: [`include/linux/miscdevice.h`](srctree/include/linux/miscdevice.h),
//! [`include/linux/fs.h`](srctree/include/linux/fs.h),
//! [`include/linux/device.h`](srctree/include/linux/device.h) (the attribute)

use core::{
    ptr,
    slice, //
};
use kernel::{
    bindings,
    error::{
        from_result,
        to_result, //
    },
    fs::File,
    iov::IovIterDest,
    prelude::*,
    sync::{
        poll::PollTable,
        Arc, //
    },
    types::Opaque, //
};

/// What a file of the device can do.
///
/// Files cannot be written to (`EINVAL`), have no position (`ESPIPE`), and support `splice(2)` and
/// `sendfile(2)`.
pub(crate) trait MiscDevice: Send + Sync + 'static {
    /// The name of the node in `/dev`.
    const NAME: &'static CStr;

    /// The name of the attribute in `/sys/class/misc/<NAME>/` that root can write a boolean to.
    const ATTRIBUTE: &'static CStr;

    /// Reads into `to`; may sleep unless `nonblocking`.
    fn read(&self, to: &mut IovIterDest<'_>, nonblocking: bool) -> Result<usize>;

    /// Puts the caller on the queues whose wake-ups may change the result, which is a set of the
    /// bits [`POLLIN`] and [`POLLERR`].
    fn poll(&self, file: &File, table: PollTable<'_>) -> u32;

    /// Called when root writes to the attribute.
    fn store(&self, value: bool) -> Result;
}

/// [`MiscDevice::poll`]: a read would return data.
pub(crate) const POLLIN: u32 = bindings::POLLIN | bindings::POLLRDNORM;
/// [`MiscDevice::poll`]: a read would return an error.
pub(crate) const POLLERR: u32 = bindings::POLLERR;

/// `IOCB_NOWAIT`, which is `RWF_NOWAIT` of [`include/uapi/linux/fs.h`]; both are macros with casts
/// that bindgen skips.
///
/// [`include/uapi/linux/fs.h`]: srctree/include/uapi/linux/fs.h
const IOCB_NOWAIT: c_int = 0x8;

/// `FMODE_NOWAIT` of [`include/linux/fs.h`](srctree/include/linux/fs.h), likewise.
const FMODE_NOWAIT: bindings::fmode_t = 1 << 27;

/// `FMODE_PREAD` and `FMODE_PWRITE`, likewise.
const FMODE_POSITIONED: bindings::fmode_t = (1 << 3) | (1 << 4);

/// The C structures of a [`Registration`], which point to each other.
struct Raw {
    /// The device; the files' `private_data` and the device's driver data point here.
    misc: bindings::miscdevice,
    /// The operations, not static because they name the module.
    fops: bindings::file_operations,
    /// The attribute.
    attribute: bindings::device_attribute,
    /// The attributes of the group, ended by null.
    attributes: [*mut bindings::attribute; 2],
    /// The group.
    group: bindings::attribute_group,
    /// The groups of the device, ended by null.
    groups: [*const bindings::attribute_group; 2],
}

/// A registered device.
///
/// Dropping it removes the node and waits for who is opening it or writing to the attribute. Open
/// files keep the module loaded, and so whatever static object of the module the registration is
/// part of.
///
/// # Invariants
///
/// `raw` is initialised and its `misc` is registered.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: MiscDevice> {
    /// The C side.
    #[pin]
    raw: Opaque<Raw>,
    /// What the files work on.
    data: Arc<T>,
}

// SAFETY: Registering and removing can be done from any thread, and `T` is `Send` and `Sync`.
unsafe impl<T: MiscDevice> Send for Registration<T> {}
// SAFETY: There are no methods on a shared registration but the callbacks, which only use `data`.
unsafe impl<T: MiscDevice> Sync for Registration<T> {}

impl<T: MiscDevice> Registration<T> {
    /// Makes the node, for a registration that is part of `module`.
    ///
    /// # Errors
    ///
    /// Those of `misc_register()`, `EEXIST` where the name is taken.
    pub(crate) fn new(module: &'static ThisModule, data: Arc<T>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // `data` comes first: files may be opened as soon as the device is registered.
            data,
            // INVARIANT: Where this succeeds, the device is registered.
            raw <- Opaque::try_ffi_init(move |slot: *mut Raw| {
                // SAFETY: `slot` is valid for writing, and pinned.
                unsafe { Self::register(slot, module) }
            }),
        })
    }

    /// Fills in the C structures and registers the device.
    ///
    /// # Safety
    ///
    /// `slot` must be valid for writing and the `raw` of a pinned `Registration<T>` whose `data` is
    /// initialised.
    unsafe fn register(slot: *mut Raw, module: &'static ThisModule) -> Result {
        let raw = Raw {
            misc: bindings::miscdevice {
                // CAST: The constant is 255.
                minor: bindings::MISC_DYNAMIC_MINOR as c_int,
                name: T::NAME.as_char_ptr(),
                // SAFETY: Only addresses are taken.
                fops: unsafe { &raw const (*slot).fops },
                // SAFETY: As above.
                groups: unsafe { (&raw mut (*slot).groups).cast() },
                ..pin_init::zeroed()
            },
            fops: bindings::file_operations {
                owner: module.as_ptr(),
                open: Some(Self::open),
                read_iter: Some(Self::read_iter),
                llseek: Some(Self::llseek),
                splice_read: Some(bindings::copy_splice_read),
                poll: Some(Self::poll),
                ..pin_init::zeroed()
            },
            attribute: {
                let mut attribute: bindings::device_attribute = pin_init::zeroed();
                attribute.attr.name = T::ATTRIBUTE.as_char_ptr();
                attribute.attr.mode = 0o200;
                attribute.__bindgen_anon_2.store = Some(Self::store);
                attribute
            },
            attributes: [
                // SAFETY: As above.
                unsafe { &raw mut (*slot).attribute.attr },
                ptr::null_mut(),
            ],
            group: bindings::attribute_group {
                __bindgen_anon_2: bindings::attribute_group__bindgen_ty_2 {
                    // SAFETY: As above.
                    attrs: unsafe { (&raw mut (*slot).attributes).cast() },
                },
                ..pin_init::zeroed()
            },
            // SAFETY: As above.
            groups: [unsafe { &raw const (*slot).group }, ptr::null()],
        };
        // SAFETY: `slot` is valid for writing.
        unsafe { slot.write(raw) };
        // SAFETY: All that the device points to was just initialised, and stays where it is until
        // the device is removed.
        to_result(unsafe { bindings::misc_register(&raw mut (*slot).misc) })
    }

    /// The data of the registration around a `struct miscdevice`.
    ///
    /// # Safety
    ///
    /// `misc` must be the `misc` of a `Registration<T>` that outlives `'a`.
    unsafe fn data<'a>(misc: *mut bindings::miscdevice) -> &'a T {
        // SAFETY: By the safety requirements; `Opaque` is transparent.
        unsafe {
            let raw = kernel::container_of!(misc, Raw, misc).cast::<Opaque<Raw>>();
            &(*kernel::container_of!(raw, Self, raw)).data
        }
    }

    /// The data behind an open file.
    ///
    /// # Safety
    ///
    /// `file` must be a file of a `Registration<T>`, open during `'a`.
    unsafe fn file_data<'a>(file: *mut bindings::file) -> &'a T {
        // SAFETY: `misc_open()` stored the device, and nothing changes that. The file holds a
        // reference to the owner of its operations, the module that the registration is part of.
        unsafe { Self::data((*file).private_data.cast()) }
    }

    /// # Safety
    ///
    /// Called by the VFS for a file being opened.
    unsafe extern "C" fn open(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: The file is being opened, so nobody else looks at its mode. Reads honour
        // `IOCB_NOWAIT`, which is what `FMODE_NOWAIT` says.
        unsafe { (*file).f_mode = ((*file).f_mode | FMODE_NOWAIT) & !FMODE_POSITIONED };
        0
    }

    /// Refuses to seek.
    ///
    /// C's `stream_open()` would do so by the file's mode; but `sendfile(2)` copies only from files
    /// whose mode lets them be positioned (and then does not do it).
    ///
    /// # Safety
    ///
    /// Called by the VFS.
    unsafe extern "C" fn llseek(
        _file: *mut bindings::file,
        _offset: bindings::loff_t,
        _whence: c_int,
    ) -> bindings::loff_t {
        ESPIPE.to_errno().into()
    }

    /// # Safety
    ///
    /// Called by the VFS for an open file of a `Registration<T>`.
    unsafe extern "C" fn read_iter(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: The VFS passes a valid request for an open file and a vector to read into.
        let (this, nonblocking, to) = unsafe {
            let file = (*kiocb).ki_filp;
            (
                Self::file_data(file),
                (*kiocb).ki_flags & IOCB_NOWAIT != 0 || (*file).f_flags & bindings::O_NONBLOCK != 0,
                IovIterDest::from_raw(iter),
            )
        };
        match this.read(to, nonblocking) {
            // CAST: A read is never longer than what fits the vector, at most `isize::MAX`.
            Ok(count) => count as isize,
            Err(error) => error.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// Called by the VFS for an open file of a `Registration<T>`.
    unsafe extern "C" fn poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table_struct,
    ) -> bindings::__poll_t {
        // SAFETY: The VFS passes an open file that nobody repositions during the call, and a table
        // that is null or valid.
        unsafe { Self::file_data(file).poll(File::from_raw_file(file), PollTable::from_raw(table)) }
    }

    /// # Safety
    ///
    /// Called by sysfs for the device of a `Registration<T>`, whose removal waits for this.
    unsafe extern "C" fn store(
        device: *mut bindings::device,
        _attribute: *mut bindings::device_attribute,
        buffer: *const c_char,
        count: usize,
    ) -> isize {
        // SAFETY: `misc_register()` stored the miscellaneous device as the driver's data; sysfs
        // passes `count` bytes.
        let (this, text) = unsafe {
            (
                Self::data(bindings::dev_get_drvdata(device).cast()),
                slice::from_raw_parts(buffer.cast::<u8>(), count),
            )
        };
        from_result(|| {
            let value = match text.trim_ascii() {
                b"1" | b"y" | b"Y" => true,
                b"0" | b"n" | b"N" => false,
                _ => return Err(EINVAL),
            };
            this.store(value)?;
            // CAST: sysfs never passes more than a page.
            Ok(count as isize)
        })
    }
}

#[pinned_drop]
impl<T: MiscDevice> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants the device is registered.
        unsafe { bindings::misc_deregister(&raw mut (*self.raw.get()).misc) };
    }
}
