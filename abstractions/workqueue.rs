// SPDX-License-Identifier: GPL-2.0

//! Deferred work that can be asked for from any context, and that ends before its owner does.
//!
//! Why it is here: the kernel crate's work items cannot be cancelled, flushed or moved forward in
//! time. What would retire it: `mod_delayed_work()` and `disable_delayed_work_sync()` in
//! `rust/kernel/workqueue.rs`.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use core::{
    ffi::c_void,
    marker::PhantomData,
    ptr, //
};
use kernel::{
    bindings,
    prelude::*,
    sync::{
        Arc,
        LockClassKey,
        SetOnce, //
    },
    time::Jiffies,
    types::Opaque, //
};

/// Something that a [`Worker`] runs.
pub(crate) trait WorkItem: Send + Sync + 'static {
    /// Does the work, in process context on a high-priority kernel worker; never runs twice at
    /// once.
    fn run(&self);
}

/// What a [`Trigger`] runs: a [`WorkItem`] without its type.
#[derive(Clone, Copy)]
struct Target {
    /// Calls [`WorkItem::run`] on `data`.
    ///
    /// # Safety
    ///
    /// To be called with the `data` beside it only, while that is alive.
    run: unsafe fn(*const c_void),
    /// The item, owned by the [`Worker`] that set this.
    data: *const c_void,
}

// SAFETY: `data` points to a `WorkItem`, which is `Send` and `Sync`.
unsafe impl Send for Target {}
// SAFETY: As above.
unsafe impl Sync for Target {}

/// The handle by which anybody, in any context, asks a [`Worker`] to run.
///
/// It may outlive its worker: asking is without effect then.
///
/// # Invariants
///
/// `work` is an initialised `struct delayed_work` whose function is [`Trigger::callback`]. It is
/// not pending and not running when the trigger is dropped: it is only ever queued through a
/// [`Worker`] that is alive, or is disabled.
#[pin_data]
pub(crate) struct Trigger {
    /// The C side.
    #[pin]
    work: Opaque<bindings::delayed_work>,
    /// What to run; unset until a worker takes the trigger.
    target: SetOnce<Target>,
}

// SAFETY: A delayed work may be queued and dropped from any thread.
unsafe impl Send for Trigger {}
// SAFETY: All functions on `struct delayed_work` that are called here lock it themselves.
unsafe impl Sync for Trigger {}

/// Makes a [`Trigger`] with this name: the triggers that one place in the code makes are of one
/// kind to the lock validator.
macro_rules! new_trigger {
    ($name:expr) => {
        $crate::abstractions::workqueue::Trigger::new(
            $name,
            ::kernel::static_lock_class!(),
            ::kernel::static_lock_class!(),
        )
    };
}

impl Trigger {
    /// Makes a trigger that nobody works for yet; [`Worker::new`] changes that. It is called by
    /// `new_trigger!`, which makes the keys.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(
        name: &'static CStr,
        work_key: Pin<&'static LockClassKey>,
        timer_key: Pin<&'static LockClassKey>,
    ) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                // INVARIANT: The work is initialised here, with this function.
                work <- Opaque::ffi_init(|slot| {
                    // SAFETY: `slot` is valid for writing, name and keys are static.
                    unsafe { Self::init_work(slot, name, work_key, timer_key) }
                }),
                target: SetOnce::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// The counterpart of C's `INIT_DELAYED_WORK`.
    ///
    /// # Safety
    ///
    /// `slot` must be valid for writing and pinned from now on.
    unsafe fn init_work(
        slot: *mut bindings::delayed_work,
        name: &'static CStr,
        work_key: Pin<&'static LockClassKey>,
        timer_key: Pin<&'static LockClassKey>,
    ) {
        // SAFETY: By the safety requirements of this function; the timer function and the flag are
        // what `__INIT_DELAYED_WORK` uses.
        unsafe {
            bindings::init_work_with_key(
                &raw mut (*slot).work,
                Some(Self::callback),
                false,
                name.as_char_ptr(),
                work_key.as_ptr(),
            );
            bindings::timer_init_key(
                &raw mut (*slot).timer,
                Some(bindings::delayed_work_timer_fn),
                bindings::TIMER_IRQSAFE,
                name.as_char_ptr(),
                timer_key.as_ptr(),
            );
        }
    }

    /// Asks for a run as soon as possible, also where one is due later; from any context.
    ///
    /// A run that is under way is followed by another one.
    pub(crate) fn now(&self) {
        // SAFETY: By the type invariants the work is initialised; the queue always exists. Without
        // a living worker the work is disabled or has no target, and nothing runs.
        unsafe {
            bindings::mod_delayed_work_on(
                Self::any_cpu(),
                bindings::system_highpri_wq,
                self.work.get(),
                0,
            )
        };
    }

    /// Asks for a run in `delay` jiffies, unless one is due already; from any context.
    pub(crate) fn after(&self, delay: Jiffies) {
        // SAFETY: As in `now()`.
        unsafe {
            bindings::queue_delayed_work_on(
                Self::any_cpu(),
                bindings::system_highpri_wq,
                self.work.get(),
                delay,
            )
        };
    }

    /// Waits for the end of the run that is due or under way, if any; may sleep.
    ///
    /// Must not be called by the work item itself.
    pub(crate) fn flush(&self) {
        // SAFETY: By the type invariants the work is initialised.
        unsafe { bindings::flush_delayed_work(self.work.get()) };
    }

    /// `WORK_CPU_UNBOUND`, which stands for the CPU that asks.
    fn any_cpu() -> c_int {
        bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int
    }

    /// The function of the work.
    ///
    /// # Safety
    ///
    /// `work` must be the work inside the `delayed_work` of a [`Trigger`].
    unsafe extern "C" fn callback(work: *mut bindings::work_struct) {
        // SAFETY: By the safety requirements, and because `Opaque` is transparent, this is the
        // `Trigger` around `work`. It is alive: whoever drops the last reference either never had
        // a worker (no target), or is preceded by `Worker::drop`, which waits for this function.
        let this = unsafe {
            &*kernel::container_of!(
                kernel::container_of!(work, bindings::delayed_work, work)
                    .cast::<Opaque<bindings::delayed_work>>(),
                Self,
                work
            )
        };
        if let Some(target) = this.target.as_ref() {
            // SAFETY: `Worker::drop` waits for this function before it lets go of the data.
            unsafe { (target.run)(target.data) };
        }
    }
}

/// Runs `T` whenever its [`Trigger`] is used, until it is dropped.
///
/// Dropping it waits for a run under way and makes the trigger ineffective; it may sleep and must
/// not happen in the work item itself.
pub(crate) struct Worker<T: WorkItem> {
    /// How the work is asked for.
    trigger: Arc<Trigger>,
    /// What is run.
    data: Arc<T>,
    /// The worker is as good as a `T`.
    _data: PhantomData<T>,
}

impl<T: WorkItem> Worker<T> {
    /// Makes `trigger` run `data`.
    ///
    /// # Errors
    ///
    /// `EBUSY` where the trigger has been taken before.
    pub(crate) fn new(trigger: Arc<Trigger>, data: Arc<T>) -> Result<Self> {
        let target = Target {
            run: Self::run,
            data: ptr::from_ref::<T>(&data).cast(),
        };
        if !trigger.target.populate(target) {
            return Err(EBUSY);
        }
        Ok(Self {
            trigger,
            data,
            _data: PhantomData,
        })
    }

    /// Calls [`WorkItem::run`].
    ///
    /// # Safety
    ///
    /// `data` must point to a `T` that is alive.
    unsafe fn run(data: *const c_void) {
        // SAFETY: By the safety requirements.
        unsafe { &*data.cast::<T>() }.run();
    }

    /// What is run.
    pub(crate) fn item(&self) -> &Arc<T> {
        &self.data
    }

    /// How to ask for it.
    pub(crate) fn trigger(&self) -> &Trigger {
        &self.trigger
    }
}

impl<T: WorkItem> Drop for Worker<T> {
    fn drop(&mut self) {
        // From here on nothing can queue the work any more, so `data` may go.
        //
        // SAFETY: By the type invariants of `Trigger` the work is initialised.
        unsafe { bindings::disable_delayed_work_sync(self.trigger.work.get()) };
    }
}
