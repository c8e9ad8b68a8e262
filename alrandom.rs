// SPDX-License-Identifier: GPL-2.0

//! AlphaRNG USB true random number generator.
//!
//! The driver binds the data interface of the device, tests every block of its output, and serves
//! the bytes at `/dev/alrandom`; `/proc/alrandom/` tells how the device is doing.
//!
//! ```text
//! URB -> framing (protocol) -> health tests -> pool -> copy to the reader -> wiped -> URB
//! ```

// Nothing here may panic: what could overflow or lie outside says what it does then.
#![warn(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used
)]

#[macro_use]
mod abstractions;
mod alrandom_usb;
mod cdc;
mod chardev;
mod health;
mod hwrng;
#[cfg(CONFIG_KUNIT = "y")]
mod kunit;
mod pool;
mod procfs;
mod protocol;

use abstractions::{
    miscdevice,
    sensitive::SensitiveBuffer,
    usb,
    workqueue::{
        Trigger,
        Worker, //
    }, //
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::Atomic,
        Arc,
        Mutex, //
    }, //
};

/// The most bytes that one `read(2)` returns; it costs no memory.
///
/// In the kernel tree it is `CONFIG_RNG_ALRANDOM_MAX_BYTES_USER_CAN_REQUEST`, out of it 100000.
pub(crate) const MAX_BYTES_USER_CAN_REQUEST: usize =
    match usize::from_str_radix(env!("ALRANDOM_MAX_BYTES"), 10) {
        Ok(bytes) => bytes,
        Err(_) => panic!("ALRANDOM_MAX_BYTES is no number of bytes"),
    };

/// What the log says where [`DISABLE_STATISTICAL_TESTS`] is set.
pub(crate) const TESTS_DISABLED: &str =
    "statistical tests are disabled: bytes are delivered untested\n";

module! {
    type: AlRandom,
    name: "alrandom",
    authors: ["The alrandom developers"],
    description: "AlphaRNG USB true random number generator",
    license: "GPL",
}

modinfo!("version", "1.0.0");
usb_device_table!(alrandom_usb::TABLE);

module_param! {
    /// Whether both layers of health tests are off: blocks are delivered untested.
    static DISABLE_STATISTICAL_TESTS: bool = 0, 0..=1;
    "disableStatisticalTests", "deliver bytes without testing them (default: N)";
}

module_param! {
    /// How many bytes of each block are delivered: the last so many.
    static BYTES_PER_SAMPLE: i32 = 16000, 1..=16000;
    "bytesPerSample", "use only the last so many bytes of each block (1 to 16000, default: 16000)";
}

module_param! {
    /// Whether every transfer is reported in the log.
    static DEBUG_MODE: bool = 0, 0..=1;
    "debugMode", "write every transfer to the kernel log (default: N)";
}

module_param! {
    /// Assessed min-entropy of the device's output, in bits per byte; it sets the cutoffs of the
    /// SP 800-90B tests.
    static MIN_ENTROPY: i32 = 6, 1..=8;
    "minEntropy", "assessed min-entropy of the device in bits per byte (1 to 8, default: 6)";
}

module_param! {
    /// Quality of the source in the kernel's hardware-RNG core, in bits of entropy per 1024 bits;
    /// -1 stands for what [`MIN_ENTROPY`] says, 0 for leaving the source out.
    static HWRNG_QUALITY: i32 = -1, -1..=1024;
    "hwrngQuality",
    "quality in hw_random, bits per 1024 bits (0 to 1024, 0: not there; default: -1, minEntropy)";
}

module_param! {
    /// How many devices may be in use at once; looked at when one comes.
    static MAX_DEVICES: i32 = 1, 1..=8;
    "maxDevices", "devices to use at once, the others are kept in reserve (1 to 8, default: 1)";
}

module_param! {
    /// How many commands a device may have under way at once; looked at when one comes.
    static MAX_COMMANDS: i32 = 2, 1..=4;
    "maxCommands", "commands that a device may have under way at once (1 to 4, default: 2)";
}

module_param! {
    /// After how many seconds without a request to it a device may be suspended; 0 for never.
    static IDLE_SUSPEND: i32 = 0, 0..=86_400;
    "idleSuspend",
    "seconds without use before a device may be suspended (1 to 86400, 0: never; default: 0)";
}

impl kernel::fmt::Display for health::Failure {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

impl kernel::fmt::Display for health::SelfTestFailure {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

/// What the parts of the module share.
#[pin_data]
pub(crate) struct Source {
    /// The bytes.
    #[pin]
    pub(crate) pool: pool::Pool,
    /// The numbers of the devices, by their places in the pool.
    #[pin]
    pub(crate) reports: Mutex<[Option<procfs::Report>; pool::MAX_DEVICES]>,
    /// How to have somebody look for a device.
    pub(crate) scout: Arc<Trigger>,
    /// The devices that the scout leaves alone.
    #[pin]
    pub(crate) left: Mutex<alrandom_usb::Left>,
    /// There is a device that could be used, but another program uses it.
    pub(crate) busy: Atomic<bool>,
}

/// The module: everything that is registered.
///
/// The order of the fields is the order of the teardown: first nobody can come any more (node,
/// files, new devices), then the device is let go of, then the kernel's core of its bytes, and the
/// device goes back to the serial driver.
#[pin_data]
struct AlRandom {
    /// `/dev/alrandom`; the module is not unloaded while it is open.
    #[pin]
    _node: miscdevice::Registration<chardev::Node>,
    /// `/proc/alrandom/`.
    _files: procfs::Files,
    /// Looks for devices that another driver has.
    _scout: Worker<alrandom_usb::Scout>,
    /// The USB driver, which has the scout look while there is one. Behind it there is no device,
    /// and readers of the next one return.
    #[pin]
    _driver: usb::Registration<alrandom_usb::AlphaRngDriver>,
    /// Keeps the source in the hardware-RNG core.
    _keeper: Worker<hwrng::Keeper>,
    /// Gives the devices back.
    _hand_back: alrandom_usb::HandBack,
}

/// Runs the known-answer tests of the health tests, without which nothing is delivered.
///
/// # Errors
///
/// `EINVAL` where one disagrees, `ENOMEM`.
fn self_test() -> Result {
    let mut scratch = SensitiveBuffer::new(health::BLOCK)?;
    let scratch = scratch.as_mut_slice().first_chunk_mut().ok_or(EINVAL)?;
    health::self_test(scratch).map_err(|failure| {
        pr_err!(
            "self-test of the health tests failed: {}; not loaded, build the module again\n",
            failure
        );
        EINVAL
    })
}

impl kernel::InPlaceModule for AlRandom {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // The order of the initialisers is that of setting up: the reverse of the teardown.
        pin_init::pin_init_scope(move || {
            self_test()?;
            if DISABLE_STATISTICAL_TESTS.get() {
                pr_warn!("{}", TESTS_DISABLED);
            }

            let scout = new_trigger!(c"alrandom-scout")?;
            let source_scout = scout.clone();
            let keeper = new_trigger!(c"alrandom-hwrng")?;
            let health_watcher = keeper.clone();
            let pool = pool::Pool::new(health_watcher, scout.clone())?;
            let source = Arc::pin_init(
                pin_init!(Source {
                    pool <- pool,
                    reports <- new_mutex!([const { None }; pool::MAX_DEVICES]),
                    scout: source_scout,
                    left <- new_mutex!(alrandom_usb::Left::default()),
                    busy: Atomic::new(false),
                }),
                GFP_KERNEL,
            )?;
            let driver = alrandom_usb::AlphaRngDriver::new(source.clone())?;
            let worker = Worker::new(scout.clone(), alrandom_usb::Scout::new(source.clone())?)?;
            let keeper = Worker::new(keeper, hwrng::Keeper::new(source.clone())?)?;
            let node = chardev::Node::register(module, &source)?;

            Ok(try_pin_init!(Self {
                _hand_back: alrandom_usb::HandBack,
                _keeper: keeper,
                _driver <- usb::Registration::new(module, driver),
                _scout: worker,
                _files: procfs::Files::new(&source)?,
                _: {
                    // Devices that are there already, in use here before the node appears.
                    scout.now();
                    scout.flush();
                },
                // Last: an open file keeps the module, but only one that was loaded.
                _node <- node,
            }? Error))
        })
    }
}
