// SPDX-License-Identifier: GPL-2.0

//! Sources of the kernel's hardware-RNG core.
//!
//! Why it is here: the kernel crate has nothing for the core. What would retire it:
//! `rust/kernel/hw_random.rs`.
//!
//! C header: [`include/linux/hw_random.h`](srctree/include/linux/hw_random.h)

use super::bindings::{
    hwrng,
    hwrng_register,
    hwrng_unregister, //
};
use core::ffi::c_void;
use kernel::{
    bindings,
    error::to_result,
    iov::IovIterDest,
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

/// Where the core's bytes come from.
pub(crate) trait HwRng: Send + Sync + 'static {
    /// The name in `/sys/class/misc/hw_random/rng_available`.
    const NAME: &'static CStr;

    /// Reads into `to`; may sleep if `wait`.
    ///
    /// To sleep is to delay the removal of the source: before that the owner must have made this
    /// return.
    fn read(&self, to: &mut IovIterDest<'_>, wait: bool) -> Result<usize>;
}

/// A registered source.
///
/// Dropping it waits for a read under way, see [`HwRng::read`].
///
/// # Invariants
///
/// `raw` is registered, and it is the `raw` of a pinned `Registration<T>`.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: HwRng> {
    /// The C side.
    #[pin]
    raw: Opaque<hwrng>,
    /// What is read from.
    data: Arc<T>,
}

// SAFETY: Registering and removing can be done from any thread, and `T` is `Send` and `Sync`.
unsafe impl<T: HwRng> Send for Registration<T> {}
// SAFETY: There are no methods on a shared registration but the callback, which only uses `data`.
unsafe impl<T: HwRng> Sync for Registration<T> {}

impl<T: HwRng> Registration<T> {
    /// Registers `data`, whose bytes hold `quality` bits of entropy per 1024 bits (1 to 1024).
    ///
    /// # Errors
    ///
    /// `EEXIST` where the name is taken.
    pub(crate) fn new(data: Arc<T>, quality: u16) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // `data` comes first: the core may read as soon as the source is registered.
            data,
            // INVARIANT: Where this succeeds, the source is registered.
            raw <- Opaque::try_ffi_init(move |slot: *mut hwrng| {
                // SAFETY: `slot` is valid for writing and pinned; all zero is what C drivers start
                // from, the core initialises its own part.
                unsafe {
                    slot.write_bytes(0, 1);
                    (*slot).name = T::NAME.as_char_ptr();
                    (*slot).read = Some(Self::read);
                    (*slot).quality = quality;
                    to_result(hwrng_register(slot))
                }
            }),
        })
    }

    /// # Safety
    ///
    /// Called by the core with the `raw` of a `Registration<T>`, whose removal waits for this, and
    /// with `max` bytes of room.
    unsafe extern "C" fn read(rng: *mut hwrng, data: *mut c_void, max: usize, wait: bool) -> c_int {
        // SAFETY: By the safety requirements; `Opaque` is transparent.
        let this = unsafe { &*kernel::container_of!(rng.cast::<Opaque<hwrng>>(), Self, raw) };
        let vector = bindings::kvec {
            iov_base: data,
            iov_len: max,
        };
        let iter = Opaque::<bindings::iov_iter>::uninit();
        // SAFETY: The vector outlives the iterator, and there is room for `max` bytes.
        let to = unsafe {
            bindings::iov_iter_kvec(iter.get(), bindings::ITER_DEST, &vector, 1, max);
            IovIterDest::from_raw(iter.get())
        };
        match this.data.read(to, wait) {
            Ok(count) => c_int::try_from(count).unwrap_or(c_int::MAX),
            Err(error) => error.to_errno(),
        }
    }
}

#[pinned_drop]
impl<T: HwRng> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants the source is registered.
        unsafe { hwrng_unregister(self.raw.get()) };
    }
}
