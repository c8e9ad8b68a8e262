// SPDX-License-Identifier: GPL-2.0

//! The source in the kernel's hardware-RNG core: `/dev/hwrng`, and the kernel's own entropy pool.
//!
//! The source is registered while there is a device that has passed its start-up test. The pool
//! says when that changes; the work is done by [`Keeper`], which nobody waits for, because the core
//! waits for readers when a source goes: whoever makes it go must be able to make them return.

#![deny(unsafe_code)]

use crate::{
    abstractions::{
        hw_random::{
            HwRng,
            Registration, //
        },
        workqueue::WorkItem, //
    },
    Source, //
};
use kernel::{
    iov::IovIterDest,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};

/// Quality of a source in the core, in bits of entropy per 1024 bits, for each bit of assessed
/// min-entropy per byte: 1024 / 8.
const QUALITY_PER_BIT: i32 = 128;

/// What the core reads from.
pub(crate) struct Reader {
    /// Where the bytes come from.
    source: Arc<Source>,
}

impl HwRng for Reader {
    const NAME: &'static CStr = c"alrandom";

    fn read(&self, to: &mut IovIterDest<'_>, wait: bool) -> Result<usize> {
        match self.source.pool.read(to, !wait) {
            // What the core calls nothing yet.
            Err(error) if error == EAGAIN => Ok(0),
            result => result,
        }
    }
}

/// Registers and removes the source, as the pool says.
#[pin_data]
pub(crate) struct Keeper {
    /// What to register.
    reader: Arc<Reader>,
    /// The registration, while there is one.
    ///
    /// The lock is only ever taken by the one work item, and at the end.
    #[pin]
    registered: Mutex<Option<Pin<KBox<Registration<Reader>>>>>,
}

impl Keeper {
    /// Makes a keeper for the bytes of `source`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(source: Arc<Source>) -> Result<Arc<Self>> {
        let reader = Arc::new(Reader { source }, GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Self {
                reader,
                registered <- new_mutex!(None),
            }),
            GFP_KERNEL,
        )
    }

    /// The quality that the source is registered with; `None` where it is not to be.
    fn quality() -> Option<u16> {
        let quality = match crate::HWRNG_QUALITY.get() {
            -1 => crate::MIN_ENTROPY.get().saturating_mul(QUALITY_PER_BIT),
            quality => quality,
        };
        u16::try_from(quality).ok().filter(|quality| *quality > 0)
    }
}

impl WorkItem for Keeper {
    fn run(&self) {
        let mut registered = self.registered.lock();
        let quality = Self::quality().filter(|_| self.reader.source.pool.is_healthy());
        match (quality, registered.is_some()) {
            (None, true) => *registered = None,
            (Some(quality), false) => {
                let registration = Registration::new(self.reader.clone(), quality);
                match KBox::pin_init(registration, GFP_KERNEL) {
                    Ok(registration) => *registered = Some(registration),
                    Err(error) => pr_warn!(
                        "not in the kernel's hw_random: {:?}; /dev/alrandom works all the same\n",
                        error
                    ),
                }
            }
            _ => {}
        }
    }
}
