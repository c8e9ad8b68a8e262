// SPDX-License-Identifier: GPL-2.0

//! Files in `/proc`.
//!
//! Why it is here: the kernel crate has `seq_file` but nothing that registers a file with it in
//! procfs. What would retire it: `rust/kernel/proc_fs.rs`.
//!
//! C header: [`include/linux/proc_fs.h`](srctree/include/linux/proc_fs.h)

use super::bindings::{
    proc_create_single_data,
    proc_mkdir,
    proc_remove, //
};
use core::ptr::{
    self,
    NonNull, //
};
use kernel::{
    bindings,
    prelude::*,
    seq_file::SeqFile,
    sync::Arc, //
};

/// What a file in `/proc` shows.
pub(crate) trait Show: Send + Sync + 'static {
    /// Writes the whole contents of the file; called for each opening of it, by many at once.
    ///
    /// The kernel keeps what was written for as long as the reader needs to fetch it.
    fn show(&self, file: &SeqFile);
}

/// A folder in `/proc`, removed with all that is in it when it is dropped.
///
/// # Invariants
///
/// `entry` is a folder made by `proc_mkdir()` that nobody else removes.
pub(crate) struct Directory {
    /// The C side.
    entry: NonNull<bindings::proc_dir_entry>,
}

// SAFETY: procfs does its own locking.
unsafe impl Send for Directory {}
// SAFETY: As above.
unsafe impl Sync for Directory {}

impl Directory {
    /// Makes the folder `/proc/<name>`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, which is all that procfs tells (also where the name is taken).
    pub(crate) fn new(name: &'static CStr) -> Result<Arc<Self>> {
        // SAFETY: The name is a C string; no parent stands for `/proc`.
        let entry = unsafe { proc_mkdir(name.as_char_ptr(), ptr::null_mut()) };

        // INVARIANT: The folder was just made.
        let directory = Self {
            entry: NonNull::new(entry).ok_or(ENOMEM)?,
        };
        Ok(Arc::new(directory, GFP_KERNEL)?)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the folder is there and ours.
        unsafe { proc_remove(self.entry.as_ptr()) };
    }
}

/// A read-only file in `/proc` that everybody may read.
///
/// Dropping it removes the file: that waits for a [`Show::show`] under way, and who has the file
/// open reads `EIO` from then on.
///
/// # Invariants
///
/// `entry` is a file made by `proc_create_single_data()` whose data points into `data`. The file is
/// removed before `data` and its folder are let go of.
pub(crate) struct File<T: Show> {
    /// The C side.
    entry: NonNull<bindings::proc_dir_entry>,
    /// What the file shows.
    _data: Arc<T>,
    /// Where the file is.
    _parent: Arc<Directory>,
}

// SAFETY: procfs does its own locking, and `T` is `Send` and `Sync`.
unsafe impl<T: Show> Send for File<T> {}
// SAFETY: As above.
unsafe impl<T: Show> Sync for File<T> {}

impl<T: Show> File<T> {
    /// Makes the file `name` in `parent`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, which is all that procfs tells.
    pub(crate) fn new(name: &'static CStr, parent: Arc<Directory>, data: Arc<T>) -> Result<Self> {
        // SAFETY: Name and parent are valid; `Self::show` fits the data, which lives until after
        // the file is removed.
        let entry = unsafe {
            proc_create_single_data(
                name.as_char_ptr(),
                0o444,
                parent.entry.as_ptr(),
                Some(Self::show),
                ptr::from_ref::<T>(&data).cast_mut().cast(),
            )
        };

        // INVARIANT: The file was just made with `data`, which moves into the object; the folder
        // is dropped after `drop()` has removed the file.
        Ok(Self {
            entry: NonNull::new(entry).ok_or(ENOMEM)?,
            _data: data,
            _parent: parent,
        })
    }

    /// Called by `seq_file` to get the contents.
    ///
    /// # Safety
    ///
    /// `seq` must be a sequential file opened on an entry made by [`File::new`].
    unsafe extern "C" fn show(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
        // `proc_single_open()` passes the entry's data in the private field.
        //
        // SAFETY: By the safety requirements and the type invariants, this is the `T` of a file
        // that is still there: its removal waits for this function.
        let data = unsafe { &*(*seq).private.cast::<T>() };
        // SAFETY: `seq` is valid, and locked by `seq_read_iter()` for this call.
        let file = unsafe { SeqFile::from_raw(seq) };
        data.show(file);
        0
    }
}

impl<T: Show> Drop for File<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the file is there and ours.
        unsafe { proc_remove(self.entry.as_ptr()) };
    }
}
